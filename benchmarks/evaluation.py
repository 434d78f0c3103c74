"""Measuring three experts over whole games: all at once, and one environment at a time.

    pip install torch gymnasium ale-py opencv-python-headless    # only for this comparison
    python benchmarks/evaluation.py [--episodes=100] [--usual_episodes=3]

Both let the same experts play whole games with epsilon 0.05. The usual way (PyTorch, gymnasium, one
observation at a time) plays few games, and its time for as many as ours is theirs, scaled.
"""

import time

import numpy as np
from _reference import load, play
from absl import app, flags, logging

from jaxdistill import meshes, tasks, terminal
from jaxdistill.experts import formats
from jaxdistill.play import evaluation, lessons, protocols, rollouts

_GAMES = flags.DEFINE_list("games", ["breakout", "pong", "freeway"], "with experts in experts/")
_EPISODES = flags.DEFINE_integer("episodes", 100, "our whole games of each", lower_bound=1)
_USUAL = flags.DEFINE_integer("usual_episodes", 3, "the usual way's", lower_bound=1)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    chosen = [tasks.get(name) for name in _GAMES.value]
    paths = [f"experts/{game.name}.pth" for game in chosen]
    experts = [formats.load(path) for path in paths]
    policy = rollouts.expert_actor(experts, epsilon=0.05)
    taught = lessons.of_experts(experts, 1)
    random = rollouts.random_policy(lessons.choices(taught))
    opening = protocols.Opening(random, 0, random, protocols.REPORTING)  # none
    protocol = protocols.Protocol(lessons.REPORT, 1, opening)

    def ours() -> tuple[list[float], int]:
        scores = evaluation.measure(taught, policy, protocol, _EPISODES.value, meshes.create())
        return [s.mean for s in scores], sum(int(s.lengths.sum()) for s in scores)

    def usual() -> tuple[list[float], int]:
        means, steps = [], 0
        for game, path in zip(chosen, paths, strict=True):
            ended: list[float] = []
            for _, _, score in play(game, load(path), epsilon=0.05, seed=0):
                steps += 1
                ended += [] if score is None else [score]
                if len(ended) == _USUAL.value:
                    break
            means.append(float(np.mean(ended)))
        return means, steps

    rows = []
    for name, side, episodes in (
        ("ours, pools and compilation included", ours, _EPISODES.value),
        ("one environment, PyTorch", usual, _USUAL.value),
    ):
        start = time.perf_counter()
        means, steps = side()
        seconds = time.perf_counter() - start
        scaled = seconds * _EPISODES.value / episodes
        rows.append((name, *(f"{x:.1f}" for x in means), round(steps / seconds), round(scaled)))
    mine, other = (row[-1] for row in rows)
    terminal.table(
        f"{_EPISODES.value} whole games of each, epsilon 0.05 (the usual way plays {_USUAL.value}; "
        f"its seconds are scaled)",
        ("", *(game.name for game in chosen), "steps/s", "seconds"),
        rows,
    )
    print(f"ours is {other / mine:.1f}x as fast")


if __name__ == "__main__":
    app.run(main)
