"""Makes the lander tables of `docs/results.md` and `experiments.md`: one network or several.

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
from typing import NamedTuple

import numpy as np
from absl import app, flags, logging

from jaxdistill import clocks, disk, metrics, terminal
from jaxdistill.experts.expert import Expert
from jaxdistill.play import measuring, protocols
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
            expert = dataclasses.replace(by_task[owner], game=task)
            terms = protocols.Terms.of(
                expert.task.suite, episodes=_EPISODES.value, epsilon=0.0, seed=1, max_steps=limit
            )
            scores = measuring.measure_alone(expert, terms)
            measured[name] = scores.summary()
        disk.write_json(path, measured)
    return json.loads(path.read_text())


class _Evaluation(NamedTuple):
    """How a network played on its way, which chose between checkpoints.

    Attributes:
      step: as it was logged: steps of each task of a training, updates of a merge.
      seconds: of playing and learning until then.
      mean: of the three tasks.
    """

    step: int
    seconds: float
    mean: float


def _history(workdir: pathlib.Path) -> tuple[list[_Evaluation], float]:
    """All evaluations, and the seconds of playing and learning in all.

    Networks of a task each count as one whose tasks are learnt one after the other, by turns.
    """
    inner = sorted((workdir / "tasks" / "lander").glob("*")) or [workdir]
    alone, clock = [], 0.0
    for run in inner:
        seconds, own = 0.0, []
        for row in metrics.read(run):
            if "loss" in row:
                seconds = clocks.learning_seconds(row, "seconds/")
            scores = [x for name, x in row.items() if name.startswith(("eval/", "score/lander"))]
            if "loss" not in row and scores:
                own.append(_Evaluation(int(row["step"]), seconds, float(np.mean(scores))))
        alone.append(own)
        clock += seconds
    together = [
        _Evaluation(each[0].step, sum(x.seconds for x in each), np.mean([x.mean for x in each]))
        for each in zip(*alone, strict=True)
    ]
    return together, clock


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    out, rows, raw = pathlib.Path(_OUT.value), [], {}
    kinds = [*_TRAININGS, *_MERGES]
    for kind in kinds if _ONLY.value is None else _ONLY.value:
        results, seconds, early, histories = [], [], [], []
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
            history, spent = _history(workdir)
            seconds.append(spent)
            histories.append(history)
            early.append(next((x.mean for x in history[::-1] if x.seconds <= _AT.value), None))
        raw[kind] = {"measured": results, "seconds": seconds, "history": histories}
        rows.append((kind, *_cells(results), f"{statistics.median(seconds):.0f}", _early(early)))
    columns = ("", *_PLAYED, "mean of three", "seconds", f"mean at {_AT.value:g} s")
    terminal.table(
        f"medians of {_SEEDS.value} seeds [lowest, highest]; {_EPISODES.value} greedy episodes",
        columns,
        rows,
    )
    terminal.table("how episodes end: rest / both legs on the pad / crash", ("", *_PLAYED), [
        (kind, *(_ends([r[name] for r in each["measured"]]) for name in _PLAYED))
        for kind, each in raw.items()
    ])  # fmt: skip
    trained = {kind: each["history"] for kind, each in raw.items() if kind in _TRAININGS}
    if trained:
        steps = sorted({x.step for runs in trained.values() for run in runs for x in run})
        terminal.table(
            "while they learnt: mean of the three tasks, and seconds, by steps of each task",
            ("steps", *trained),
            [(f"{step:,}", *(_then(runs, step) for runs in trained.values())) for step in steps],
        )
    disk.write_json(out / "tables.json", raw)


def _cells(results: list[dict[str, dict]]) -> list[str]:
    returns = {name: [result[name]["mean"] for result in results] for name in _PLAYED}
    three = [
        statistics.fmean(result[name]["mean"] for name in ("standard", "windy", "heavy"))
        for result in results
    ]
    return [*(_spread(x, 0) for x in returns.values()), _spread(three, 1)]


def _spread(values: list[float], digits: int) -> str:
    return (
        f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, "
        f"{max(values):.{digits}f}]"
    )


def _then(runs: list[list[_Evaluation]], step: int) -> str:
    """The medians of the evaluations after so many steps, if all runs have one."""
    there = [x for run in runs for x in run if x.step == step]
    if len(there) < len(runs):
        return ""
    mean, seconds = (
        statistics.median(getattr(x, name) for x in there) for name in ("mean", "seconds")
    )
    return f"{mean:.0f}, {seconds:.0f} s"


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
