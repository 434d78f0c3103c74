"""Three landers, one network: how fast, and how long until as good as a published agent.

    pip install torch    # only for this comparison
    python benchmarks/lander.py [--config=configs/lander.py:blind] [--seeds=3] [--out=FILE.json]

The usual way (`_reference_lander.py`) is PyTorch, one environment, one update a step. Both sides
run as programs of their own, one after the other, are measured off the clock by greedy episodes in
the same pools, and are asked when their mean over the three tasks first reached 205.6, which the
published agent reports. What stands in `--workdir` is not made again.
"""

import json
import pathlib
import statistics
import subprocess
import sys

import numpy as np
from absl import app, flags, logging

from jaxdistill import clocks, metrics, terminal
from jaxdistill.experts import formats
from jaxdistill.play import measuring, protocols

_HERE = pathlib.Path(__file__).parent
_CONFIG = flags.DEFINE_string(
    "config", "configs/lander.py:blind", "our training, of one network for all tasks"
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "trainings of ours", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", 20_480, "our steps per task between two measurements")
_EPISODES = flags.DEFINE_integer("episodes", 1500, "the usual way's, in all", lower_bound=3)
_PLAYED = flags.DEFINE_integer("played", 20, "episodes of a task in one measurement", lower_bound=2)
_GOAL = flags.DEFINE_float("goal", 205.6, "the mean of the three that is to be reached")
_WORKDIR = flags.DEFINE_string("workdir", "runs/lander_benchmark", "directory of both sides")
_OUT = flags.DEFINE_string("out", None, "write what was measured as JSON")
_TASKS = ("lander/standard", "lander/windy", "lander/heavy")


def _ours(workdir: pathlib.Path, seed: int) -> tuple[list[tuple[float, float]], float]:
    """Means of the three by seconds of playing and learning, and environment steps a second."""
    program = [
        *(sys.executable, "launch/train_expert.py", f"--workdir={workdir}"),
        *(f"--config={_CONFIG.value}", f"--config.seed={seed}"),
        *(f"--config.eval_every={_EVERY.value}", f"--config.eval_episodes={_PLAYED.value}"),
    ]
    subprocess.run(program, check=True)
    curve, clock, steps = [], 0.0, 0
    for row in metrics.read(workdir):
        if "loss" in row:
            clock, steps = clocks.learning_seconds(row, "seconds/"), row["step"]
        else:  # evaluated where a row of losses was written just before
            assert row["step"] == steps, "--every is a multiple of ten iterations"
            curve.append((clock, float(np.mean([row[f"eval/{task}"] for task in _TASKS]))))
    return curve, len(_TASKS) * steps / clock


def _usual(directory: pathlib.Path) -> tuple[list[tuple[float, float]], float]:
    """The same of the usual way."""
    if not (directory / f"{_EPISODES.value}.pth").is_file():
        arguments = (str(directory), str(_EPISODES.value), "30", "0")
        program = [sys.executable, str(_HERE / "_reference_lander.py"), *arguments]
        subprocess.run(program, check=True)
    progress, curve = json.loads((directory / "progress.json").read_text()), []
    for episode, _, seconds in progress:
        means = []
        for task in _TASKS:
            expert = formats.load(directory / f"{episode}.pth", game=task)
            terms = protocols.Terms(_PLAYED.value, epsilon=0.0, seed=7, opening_steps=0)
            played = measuring.measure_alone(expert, terms)
            means.append(played.mean)
        curve.append((seconds, float(np.mean(means))))
        print(f"usual way, episode {episode}: {seconds:.0f} s, {np.round(means, 1)}", flush=True)
    _, steps, seconds = progress[-1]
    return curve, steps / seconds


def _reached(curve: list[tuple[float, float]]) -> float | None:
    return next((seconds for seconds, mean in curve if mean >= _GOAL.value), None)


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    workdir = pathlib.Path(_WORKDIR.value)
    usual, usual_rate = _usual(workdir / "usual")
    ours = [_ours(workdir / f"ours_{seed}", seed) for seed in range(_SEEDS.value)]
    rows = [("usual way", usual_rate, _reached(usual), usual[-1])]
    rows += [(f"ours, seed {i}", rate, _reached(x), x[-1]) for i, (x, rate) in enumerate(ours)]
    terminal.table(
        f"three landers: greedy episodes at 1000, 400 and 800 steps, {_PLAYED.value} a task",
        ("", "steps/s", f"seconds to {_GOAL.value:g}", "at its end", "after seconds"),
        [
            (name, f"{rate:,.0f}", _shown(at), f"{mean:.1f}", round(seconds))
            for name, rate, at, (seconds, mean) in rows
        ],
    )
    median_rate = statistics.median(rate for _, rate in ours)
    print(f"ours takes {median_rate / usual_rate:.1f}x as many steps a second (median)")
    times = [_reached(curve) for curve, _ in ours]
    own = statistics.median(float("inf") if at is None else at for at in times)
    theirs = _reached(usual) or usual[-1][0]
    least = "" if _reached(usual) else "at least "
    print(f"ours was there {least}{theirs / own:.1f}x sooner (median of {len(ours)} seeds)")
    if _OUT.value:
        measured = {"usual": usual, "ours": ours, "config": _CONFIG.value}
        pathlib.Path(_OUT.value).write_text(json.dumps(measured, indent=2) + "\n")


def _shown(seconds: float | None) -> str:
    return "not reached" if seconds is None else f"{seconds:.0f}"


if __name__ == "__main__":
    app.run(main)
