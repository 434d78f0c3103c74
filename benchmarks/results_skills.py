"""Makes the tables of skills in `docs/results.md` and `experiments.md`: experts and merges.

    python benchmarks/results_skills.py [--out=runs/results_skills] [--seeds=3] [--only=KIND,KIND]

About a quarter of an hour per seed on 2 cores. Stop it at any moment: the same command goes on.
Every training and merge is a program run as a user would run it. Everybody then plays the same 500
greedy episodes of every task, which nobody was chosen by.
"""

import functools
import json
import pathlib
import statistics
import subprocess
import sys
import time

import jax
import numpy as np
from absl import app, flags, logging

from jaxdistill import disk, meshes, tasks, terminal
from jaxdistill.experts.expert import Expert, Team
from jaxdistill.play import evaluation, lessons, measuring, protocols, rollouts, scoring
from jaxdistill.run import students
from jaxdistill.tasks.combat import scripts
from jaxdistill.tasks.task import Task

_OUT = flags.DEFINE_string("out", "runs/results_skills", "directory of all runs")
_SEEDS = flags.DEFINE_integer("seeds", 3, "of each kind", lower_bound=1)
_EPISODES = flags.DEFINE_integer("episodes", 500, "of each task and player", lower_bound=2)
_ONLY = flags.DEFINE_list("only", None, "kinds to make; by default all")
_SCRATCH = flags.DEFINE_integer(
    "scratch_steps", 5_201_920, "of PPO from scratch: a quarter more than all others together"
)

SKILLS = ("movement", "aiming", "clicking")
TASKS = tuple(f"combat/{name}" for name in (*SKILLS, "duel"))
MERGES = ("document", "offline", "merge")
KINDS = ("random", "script", "experts", *MERGES, "finetuned", "offline_finetuned", "scratch")
_SEED = 1  # of the episodes


def _run(program: str, workdir: pathlib.Path, config: str, *more: str) -> None:
    """Runs a program once; the seconds it took are in `seconds`, which says that it has ended."""
    done = workdir / "seconds"
    if not done.exists():
        began = time.monotonic()
        command = [sys.executable, f"launch/{program}.py", f"--config=configs/skills.py:{config}"]
        subprocess.run([*command, *more], check=True)
        done.write_text(f"{time.monotonic() - began:.1f}")


def _experts(root: pathlib.Path, seed: int) -> dict[str, pathlib.Path]:
    for name in SKILLS:
        where = root / name
        _run("train_expert", where, name, f"--workdir={where}", f"--config.seed={seed}")
    return {name: root / name / "experts" / "combat" / name for name in SKILLS}


def _player(kind: str, root: pathlib.Path, seed: int, task: str) -> Expert | Team | None:
    """Who plays a task in the end; None who has not learnt it. What is missing is made."""
    own, to = (f"--config.seed={seed}",), root / kind
    if kind == "scratch":
        steps = f"--config.total_steps={_SCRATCH.value}"
        _run("train_expert", to, "scratch", f"--workdir={to}", steps, *own)
        return Expert.load(to / "experts" / task) if task == "combat/duel" else None
    paths = _experts(root, seed)
    if kind == "experts":
        experts = {f"combat/{name}": Expert.load(path) for name, path in paths.items()}
        return experts.get(task) or Team(tuple(experts.values()), task)
    if kind in MERGES:
        config = ",".join([kind, *(f"{name}={path}" for name, path in paths.items())])
        _run("distill", to, config, f"--workdir={to}", *own)
        return students.student_as_expert(to, task)
    begun = "offline" if kind.startswith("offline") else "merge"
    _player(begun, root, seed, task)
    _run("finetune", to, "finetune", f"--workdir={root / begun}", f"--out={to}", *own)
    return Expert.load(to / "experts" / task) if task == "combat/duel" else None


def _measure(kind: str, root: pathlib.Path, seed: int) -> dict[str, dict]:
    """The summary of each task that is played, kept in a file."""
    path = root / f"{kind}_{_EPISODES.value}.json"
    if not path.is_file():
        root.mkdir(parents=True, exist_ok=True)
        measured = {}
        for name in TASKS:
            if kind == "script":
                scores = _scripted(name)
            elif kind == "random":
                scores = _random(name)
            elif (player := _player(kind, root, seed, name)) is not None:
                terms = protocols.Terms(_EPISODES.value, epsilon=0.0, seed=_SEED, opening_steps=0)
                scores = measuring.measure_alone(player, terms)
            else:
                continue
            measured[name] = scores.summary()
        disk.write_json(path, measured)
    return json.loads(path.read_text())


def _scripted(name: str) -> scoring.Scores:
    """The same episodes, by a script that sees the whole state."""
    task = tasks.get(name)
    (lesson,) = lessons.of_tasks([task], _SEED)
    pool = _protocol(task).pool(lesson, range(_EPISODES.value))
    play = jax.jit(jax.vmap(scripts.SCRIPTS[name]))
    actions = np.zeros((_EPISODES.value, task.suite.num_actions), np.float32)
    while not pool.last.over.all():
        actions[:, task.actions] = play(pool.episodes)
        step = pool.step(actions)
    facts = {fact: pool.facts[fact] for fact in task.facts}
    starts = np.arange(len(step.ages))
    return scoring.Scores(step.scores, step.ages, starts, step.truncated, facts)


def _random(name: str) -> scoring.Scores:
    task = tasks.get(name)
    protocol, (lesson,) = _protocol(task), lessons.of_tasks([task], _SEED)
    policy = protocol.opening.random
    return evaluation.measure([lesson], policy, protocol, _EPISODES.value, meshes.create())[0]


def _protocol(task: Task) -> protocols.Protocol:
    """As experts are measured."""
    policy = rollouts.random_policy(lessons.choices(lessons.of_tasks([task], _SEED)))
    opening = protocols.Opening(policy, 0, policy, protocols.REPORTING)
    return protocols.Protocol(lessons.REPORT, _SEED, opening)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    out, raw = pathlib.Path(_OUT.value), {}
    for kind in KINDS if _ONLY.value is None else _ONLY.value:
        seeds = 1 if kind in ("random", "script") else _SEEDS.value
        raw[kind] = [_measure(kind, out / str(seed), seed) for seed in range(seeds)]
    _print(raw)
    spent = {
        kind: [float(path.read_text()) for path in out.glob(f"*/{kind}/seconds")]
        for kind in (*SKILLS, *MERGES, "finetuned", "offline_finetuned", "scratch")
    }
    terminal.table(
        "seconds of each program, compiling and measuring included",
        ("", "median", "lowest", "highest"),
        [
            (kind, *(f"{f(x):.0f}" for f in (statistics.median, min, max)))
            for kind, x in spent.items()
            if x
        ],
    )
    disk.write_json(out / "tables.json", {"measured": raw, "seconds": spent})


def _print(raw: dict[str, list[dict]]) -> None:
    share = functools.partial(_cell, shown=lambda x: f"{x:.0%}")
    skills = [
        (
            kind,
            _cell(runs, "combat/movement"),
            share(runs, "combat/movement", "near"),
            _cell(runs, "combat/aiming"),
            _cell(runs, "combat/aiming", "yaw_error"),
            share(runs, "combat/aiming", "on_body"),
            _cell(runs, "combat/clicking"),
            _cell(runs, "combat/clicking", "dealt"),
            share(runs, "combat/clicking", "hit_rate"),
        )
        for kind, runs in raw.items()
        if "combat/movement" in runs[0]
    ]
    told = f"medians of {_SEEDS.value} seeds [lowest, highest]; {_EPISODES.value} greedy episodes"
    columns = ("", "movement", "near", "aiming", "yaw error", "on body", "clicking", "hits", "rate")
    terminal.table(f"skills, {told}", columns, skills)
    duels = [
        (
            kind,
            _cell(runs, "combat/duel", "dealt"),
            _cell(runs, "combat/duel", "taken"),
            *(share(runs, "combat/duel", fact) for fact in ("won", "drawn", "lost")),
            *(share(runs, "combat/duel", fact) for fact in ("won_to_ten", "lost_to_ten")),
        )
        for kind, runs in raw.items()
    ]
    columns = ("", "dealt", "taken", "won", "drawn", "lost", "first to ten", "second")
    terminal.table(f"duels, {told}", columns, duels)


def _cell(runs: list[dict], task: str, fact: str | None = None, shown="{:.1f}".format) -> str:
    values = [
        run[task]["mean"] if fact is None else run[task]["facts"][fact]["mean"] for run in runs
    ]
    middle = shown(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} [{shown(min(values))}, {shown(max(values))}]"


if __name__ == "__main__":
    app.run(main)
