"""Makes the lander tables of `docs/results.md`: one network or several, learnt or merged.

    python benchmarks/results_lander.py [--out=runs/results_lander] [--seeds=3] [--only=KIND,KIND]

About an hour on 2 cores. Stop it at any moment: the same command goes on. Every training and merge
is a program run as a user would run it; every network then plays the same 100 greedy episodes of
each task, which it was not chosen by.
"""

import dataclasses
import json
import pathlib
import statistics
import subprocess
import sys

import numpy as np
from absl import app, flags, logging

from jaxdistill import metrics, settings
from jaxdistill.experts.expert import Expert
from jaxdistill.play import records
from jaxdistill.run import students

_OUT = flags.DEFINE_string("out", "runs/results_lander", "directory of all runs")
_SEEDS = flags.DEFINE_integer("seeds", 3, "trainings of each kind", lower_bound=1)
_EPISODES = flags.DEFINE_integer("episodes", 100, "of each task and network", lower_bound=2)
_ONLY = flags.DEFINE_list("only", None, "kinds to make; by default all")
_AT = flags.DEFINE_float("at", 60.0, "seconds of playing and learning at which to compare too")

_TRAININGS = {
    "blind": ("configs/lander.py:blind", ()),
    "shared": ("configs/lander.py:shared", ()),
    "one_hot": ("configs/lander.py:one_hot", ()),
    "independent": ("configs/lander.py:independent", ()),
    "shared_dqn": ("configs/lander.py:shared_dqn", ()),
}
_MERGES = {  # name: the experts, and what is set
    "independent_to_embedding": ("independent", ()),
    "independent_to_embedding_q": ("independent", ("--config.learn.loss=q_values",)),
    "independent_to_blind": ("independent", ("--config.network=mlp",)),
    "blind_to_embedding": ("blind", ()),
}
# What is played: the task, whose expert plays it, and the step limit where it is not the task's.
_PLAYED = {
    "standard": ("lander/standard", "lander/standard", None),
    "windy": ("lander/windy", "lander/windy", None),
    "heavy": ("lander/heavy", "lander/heavy", None),
    "windy, 1000 steps": ("lander/windy", "lander/windy", 1000),
    "windy_air": ("lander/windy_air", "lander/windy", None),
}
_TASKS = ("lander/standard", "lander/windy", "lander/heavy")
_LEARNING = ("collect", "store", "learn")


def _run(program: str, workdir: pathlib.Path, config: str, changes: tuple[str, ...]) -> None:
    if not (workdir / "finished").exists():
        command = [sys.executable, f"launch/{program}.py", f"--workdir={workdir}"]
        subprocess.run([*command, f"--config={config}", *changes], check=True)
        (workdir / "finished").touch()


def _experts(workdir: pathlib.Path) -> list[Expert]:
    return [Expert.load(workdir / "experts" / task) for task in _TASKS]


def _measure(experts: list[Expert], path: pathlib.Path) -> dict[str, dict]:
    """The summary of each of `_PLAYED`, kept in `path`."""
    if not path.is_file():
        by_task = {expert.game: expert for expert in experts}
        measured = {}
        for name, (task, owner, limit) in _PLAYED.items():
            scores = records.measure_expert(
                dataclasses.replace(by_task[owner], game=task),
                episodes=_EPISODES.value,
                epsilon=0.0,
                seed=1,
                max_steps=limit,
            )
            measured[name] = scores.summary()
        settings.write_json(path, measured)
    return json.loads(path.read_text())


def _seconds(workdir: pathlib.Path) -> tuple[float, float | None]:
    """Of playing and learning; and the mean of the three tasks when `--at` of them had passed."""
    clock, reached = 0.0, None
    inner = sorted((workdir / "tasks" / "lander").glob("*")) or [workdir]
    for run in inner:
        last, own = 0.0, None
        for row in metrics.read(run):
            if "loss" in row:
                last = sum(row.get(f"seconds/{phase}") or 0.0 for phase in _LEARNING)
            scores = [x for name, x in row.items() if name.startswith(("eval/", "score/lander"))]
            if "loss" not in row and scores and last <= _AT.value / len(inner):
                own = float(np.mean(scores))
        clock += last
        reached = own if reached is None else (None if own is None else reached + own)
    return clock, None if reached is None else reached / len(inner)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    out, rows, raw = pathlib.Path(_OUT.value), [], {}
    kinds = [*_TRAININGS, *_MERGES]
    for kind in kinds if _ONLY.value is None else _ONLY.value:
        results, seconds, early = [], [], []
        for seed in range(_SEEDS.value):
            workdir = out / f"{kind}_{seed}"
            if kind in _TRAININGS:
                config, changes = _TRAININGS[kind]
                _run("train_expert", workdir, config, (*changes, f"--config.seed={seed}"))
                experts = _experts(workdir)
            else:
                source, changes = _MERGES[kind]
                given = out / f"{source}_{seed}" / "experts" / "lander"
                names = ("standard", "windy", "heavy")
                config = ",".join(f"{name}={given / name}" for name in names)
                config = f"configs/lander_merge.py:{config}"
                _run("distill", workdir, config, (*changes, f"--config.seed={seed}"))
                experts = [students.student_as_expert(workdir, task) for task in _TASKS]
            results.append(_measure(experts, workdir / f"measured_{_EPISODES.value}.json"))
            spent, at = _seconds(workdir)
            seconds.append(spent)
            early.append(at)
        raw[kind] = {"measured": results, "seconds": seconds, "early": early}
        rows.append((kind, *_cells(results), f"{statistics.median(seconds):.0f}", _early(early)))
    columns = ("", *_PLAYED, "mean of three", "seconds", f"mean at {_AT.value:g} s")
    metrics.table(
        f"medians of {_SEEDS.value} seeds [lowest, highest]; {_EPISODES.value} greedy episodes",
        columns,
        rows,
    )
    metrics.table("how episodes end: rest / both legs on the pad / crash", ("", *_PLAYED), [
        (kind, *(_ends([r[name] for r in each["measured"]]) for name in _PLAYED))
        for kind, each in raw.items()
    ])  # fmt: skip
    settings.write_json(out / "tables.json", raw)


def _cells(results: list[dict[str, dict]]) -> list[str]:
    returns = {name: [result[name]["mean"] for result in results] for name in _PLAYED}
    three = [
        statistics.fmean(result[name]["mean"] for name in ("standard", "windy", "heavy"))
        for result in results
    ]
    return [
        f"{statistics.median(x):.0f} [{min(x):.0f}, {max(x):.0f}]"
        for x in (*returns.values(), three)
    ]


def _ends(summaries: list[dict]) -> str:
    return " / ".join(
        f"{statistics.median(s['facts'][fact]['mean'] for s in summaries):.0%}"
        for fact in ("rest", "pad", "crash")
    )


def _early(means: list[float | None]) -> str:
    known = [mean for mean in means if mean is not None]
    return f"{statistics.median(known):.0f}" if len(known) == len(means) else "-"


if __name__ == "__main__":
    app.run(main)
