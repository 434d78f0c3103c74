"""Expert files -> one student, the usual way and ours: how good, and how long until as good.

    pip install torch gymnasium ale-py opencv-python-headless    # only for this comparison
    python benchmarks/end_to_end.py [--config=configs/quickstart.py] [--out=FILE.json]

The usual way is the published reference merge (`_reference.py`): PyTorch, one environment, 20,000
steps of each expert, 60 epochs. Both run as programs of their own, one after the other, learn from
the same files, and have their students measured by whole games of our pools, off the clock. When
ours was as good is read off the evaluations that it is chosen by;
`--config.evaluate.every_rounds=10` has many. What stands in `--workdir` is not made again.
"""

import functools
import json
import pathlib
import subprocess
import sys

import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from jaxdistill import clocks, meshes, metrics, settings, tasks, terminal
from jaxdistill.experts import formats
from jaxdistill.play import evaluation, lessons, protocols, rollouts, scoring
from jaxdistill.run import distill_settings

_HERE = pathlib.Path(__file__).parent
sys.path.insert(1, str(_HERE.parent))  # config files build on each other

_CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "our run")
_STEPS = flags.DEFINE_integer("steps", 20_000, "the usual way's steps per game", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 60, "the usual way's epochs", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", 20, "its epochs between two measurements", lower_bound=1)
_EPISODES = flags.DEFINE_integer("episodes", 20, "games of a measurement", lower_bound=2)
_WORKDIR = flags.DEFINE_string("workdir", "runs/end_to_end", "directory of both sides")
_OUT = flags.DEFINE_string("out", None, "write what was measured as JSON")


def _ours(workdir: pathlib.Path) -> tuple[dict, list[tuple[float, float]]]:
    """The run's result, and its mean retention by seconds of collecting and learning."""
    chosen = [x for x in sys.argv[1:] if x.startswith(("--config=", "--config."))]
    if not any(x.startswith("--config=") for x in chosen):
        chosen = ["--config=configs/quickstart.py", *chosen]
    program = [sys.executable, "launch/distill.py", f"--workdir={workdir}", *chosen]
    subprocess.run(program, check=True)
    curve, clock = [], 0.0
    for row in metrics.read(workdir):
        if "loss" in row:
            clock = clocks.learning_seconds(row, "seconds/")
        elif "mean_retention" in row:
            curve.append((clock, row["mean_retention"]))
    return json.loads((workdir / "result.json").read_text()), curve


def _usual(
    sources: list[str], rows: list[dict], directory: pathlib.Path
) -> list[tuple[int, float, list[float]]]:
    """Epoch, seconds and retention of each game, of the students the usual way leaves behind."""
    names = [row["game"] for row in rows]
    program = [
        *(sys.executable, str(_HERE / "_reference.py"), str(directory), str(_STEPS.value)),
        *(str(_EPOCHS.value), str(_EVERY.value)),
        *(f"{name}={path}" for name, path in zip(names, sources, strict=True)),
    ]
    if not (directory / "seconds.json").is_file():
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run(program, check=True)
    chosen, measured = [tasks.get(name) for name in names], []
    for epoch, seconds in json.loads((directory / "seconds.json").read_text()):
        expert = formats.load(str(directory / f"{epoch}.pth"), game=names[0])
        played = lessons.of_tasks(chosen, 7, [expert.view] * len(chosen))
        choices = lessons.choices(played)
        act, random = (
            rollouts.network_actor(expert.network, choices, epsilon=0.05),
            rollouts.random_policy(choices),
        )
        # Games begin as ours do.
        steps = chosen[0].suite.opening_steps
        opening = protocols.Opening(random, steps, random, protocols.REPORTING)
        scores = evaluation.measure(
            played,
            functools.partial(act, expert.params),
            protocols.Protocol(lessons.REPORT, 7, opening),
            _EPISODES.value,
            meshes.create(),
        )
        kept = [
            scoring.retention(s.mean, row["expert"]["mean"], row["random"]["mean"])
            for s, row in zip(scores, rows, strict=True)
        ]
        measured.append((epoch, seconds, kept))
        print(f"usual way, epoch {epoch}: {seconds:.0f} s, {np.round(kept, 3)}", flush=True)
    return measured


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    ours = settings.build(distill_settings.Settings, _CONFIG.value.to_dict())
    workdir = pathlib.Path(_WORKDIR.value)
    result, curve = _ours(workdir / "ours")
    rows = result["games"]
    spent = clocks.learning_seconds(result["seconds"])
    theirs = _usual([source.path for source in ours.experts], rows, workdir / "usual")

    _, seconds, kept = theirs[-1]
    names = [row["game"] for row in rows]
    final = [row["retention"] for row in rows]
    terminal.table(
        f"{', '.join(names)}: retention, epsilon 0.05 ({result['episodes']} games of ours, "
        f"{_EPISODES.value} of the usual way)",
        ("", *names, "mean", "seconds"),
        [
            ("usual way, at its end", *map(_share, kept), _share(np.mean(kept)), round(seconds)),
            ("ours, at its end", *map(_share, final), _share(np.mean(final)), round(spent)),
        ],
    )
    # A later student of theirs may be no better than one before, and takes longer.
    for epoch, seconds, kept in theirs:
        reached = next((at for at, value in curve if value >= np.mean(kept)), None)
        theirs_is = f"usual way, epoch {epoch}: {_share(np.mean(kept))} after {seconds:.0f} s"
        if reached is None:
            print(f"{theirs_is}; ours was never as good")
        else:
            first = " or sooner: its first evaluation" if reached == curve[0][0] else ""
            sooner = f"{seconds / reached:.1f}x sooner"
            print(f"{theirs_is}; ours was as good after {reached:.0f} s{first}: {sooner}")
    if _OUT.value:
        measured = {"games": names, "usual": theirs, "ours": curve, "result": result}
        pathlib.Path(_OUT.value).write_text(json.dumps(measured, indent=2) + "\n")


def _share(value: float) -> str:
    return f"{value:.0%}"


if __name__ == "__main__":
    app.run(main)
