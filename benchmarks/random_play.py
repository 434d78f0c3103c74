"""Measures random play in every task once, for the table that comes with the package.

    python benchmarks/random_play.py [--tasks=pong,lander/windy] [--out=FILE]

Under the protocol that nobody has changed: see `jaxdistill.play.records`. About an hour for all on
2 cores. Tasks that stand in the file are left as they are; it is written after each.
"""

import json
import pathlib

from absl import app, flags, logging

import jaxdistill.play
from jaxdistill import meshes, tasks, terminal
from jaxdistill.play import lessons, measuring, players, protocols, records, rollouts, scoring
from jaxdistill.tasks import atari, combat, lander

_TASKS = flags.DEFINE_list("tasks", None, "names; by default every task there is")
_OUT = flags.DEFINE_string("out", None, "the table; by default the package's own")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    path = pathlib.Path(_OUT.value or pathlib.Path(jaxdistill.play.__path__[0], records.PACKAGED))
    rows = json.loads(path.read_text()) if path.is_file() else []
    every = [*lander.LANDERS, *combat.COMBATS, *atari.games()]
    for name in _TASKS.value or every:
        task = tasks.get(name)
        if task.name in {row["of"]["task"] for row in rows}:
            continue
        rows.append(_measured(task))
        rows.sort(key=lambda row: row["of"]["task"])
        lines = ",\n".join(json.dumps(row) for row in rows)
        path.write_text(f"[\n{lines}\n]\n")
    shown = []
    for row in rows:
        scores = scoring.Scores.from_dict(row["games"])
        low, high = scores.interval()
        shown.append((row["of"]["task"], scores.mean, f"[{low:.1f}, {high:.1f}]"))
    terminal.table(f"random play, {players.RANDOM_GAMES} games", ("task", "score", ""), shown)


def _measured(task):
    (lesson,) = lessons.of_tasks([task], 0)
    random = rollouts.random_policy(lessons.choices([lesson]))
    opening = protocols.Opening(random, task.suite.opening_steps, random, protocols.REPORTING)
    protocol = protocols.Protocol(lessons.REPORT, protocols.REPORT_SEED, opening)
    player = players.Player(task.name, random, (players.RANDOM,))
    (scores,) = measuring.measure(
        [lesson], player, protocol, players.RANDOM_GAMES, meshes.create(), records.Records()
    )
    return {"of": records.described(lesson, protocol, player), "games": scores.to_dict()}


if __name__ == "__main__":
    app.run(main)
