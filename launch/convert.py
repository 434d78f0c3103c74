"""Turns a PyTorch file into an expert, says what was recognised, and plays it.

`--source=FILE --out=DIR [--spec=FILE.toml] [--game=pong] [--episodes=16]`
"""

import jax
from _main import run
from absl import flags

from jaxdistill import envs, evaluation, games, mesh, metrics, networks, rollouts
from jaxdistill.experts import formats
from jaxdistill.experts.expert import Expert

_SOURCE = flags.DEFINE_string("source", None, "PyTorch file, or the directory of an expert")
_OUT = flags.DEFINE_string("out", None, "new directory for the expert")
_SPEC = flags.DEFINE_string("spec", None, "TOML file that says what the source does not")
_GAME = flags.DEFINE_string("game", None, "its game, where the source does not say")
_EPISODES = flags.DEFINE_integer("episodes", 0, "whole games to play it for", 0)
_NUM_ENVS = flags.DEFINE_integer("num_envs", 0, "games at a time; 0 chooses at most 16", 0)
_EPSILON = flags.DEFINE_float("epsilon", 0.01, "chance of a random action", 0, 1)
_SEED = flags.DEFINE_integer("seed", 0, "seed of the games and of chance", 0)
flags.mark_flags_as_required(["source", "out"])


def play(expert: Expert, num_envs: int) -> None:
    """Prints the expert's score in whole games beside the advertised one."""
    game, episodes = games.get(expert.game), _EPISODES.value
    pools = [envs.Pool(game, num_envs, seed=envs.seed_for(_SEED.value, 9), view=expert.view)]
    policy = rollouts.expert_actor([expert], epsilon=_EPSILON.value)
    key, each = jax.random.key(_SEED.value), episodes // num_envs
    with metrics.progress("play", episodes, "episodes") as advance:
        (scores,) = evaluation.play_games(
            pools, policy, key, mesh.create(), games_per_env=each, advance=advance
        )
    low, high = scores.interval()
    columns = ("game", "score", "95% interval", "advertised", "episodes", "distinct")
    row = (game.name, scores.mean, f"{low:.1f} to {high:.1f}", expert.advertised_score)
    title = f"{expert.name} with epsilon {_EPSILON.value}"
    metrics.table(title, columns, [(*row, episodes, scores.distinct)])


def main() -> None:
    num_envs = _NUM_ENVS.value or max(n for n in range(1, 17) if _EPISODES.value % n == 0)
    if _EPISODES.value % num_envs:
        raise ValueError(f"--episodes={_EPISODES.value} is not divisible by --num_envs={num_envs}")
    found = formats.convert(_SOURCE.value, spec=_SPEC.value, game=_GAME.value)
    expert, view = found.expert, found.expert.view
    playable = view is not None and view.native
    if _EPISODES.value and playable and expert.game is None:
        raise ValueError(
            f"{_SOURCE.value} does not say which game it plays; give --game to play it"
        )
    expert.save(_OUT.value)
    metrics.table(f"{_SOURCE.value}: {found.convention}", formats.COLUMNS, found.rows())
    print(f"{networks.count(expert.params):,} parameters, {expert.network.head} head")
    print(f"{expert.outputs} over actions {list(expert.actions)} of {expert.game or 'no game'}")
    for note in (*found.notes, *(f"not read: {name}" for name in found.skipped)):
        print(f"note: {note}")
    if not playable:
        sees = view or "vectors"
        print(f"note: cannot be played yet: pools make only EnvPool's own views, it sees {sees}")
    elif _EPISODES.value:
        play(expert, num_envs)
    print(f"saved in {_OUT.value}")


if __name__ == "__main__":
    run(main)
