"""Expert files -> one student, the usual way and ours: how good, and how long until as good.

    pip install torch gymnasium ale-py opencv-python-headless    # only for this comparison
    python benchmarks/end_to_end.py [--config=configs/quickstart.py] [--out=FILE.json]

The usual way is the published reference merge (`_reference.py`): PyTorch, one environment, 20,000
steps of each expert, 60 epochs. Both learn from the same files, and both students are measured by
whole games of our pools. Clocks stand still while students are measured. When ours was as good is
read off the evaluations that it is chosen by; `--config.evaluate.every_rounds=10` has many.
"""

import json
import pathlib
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
import torch
from _reference import load, merge
from absl import app, flags, logging
from ml_collections import config_flags

from jaxdistill import distill, envs, evaluation, games, mesh, metrics, rollouts, settings
from jaxdistill.experts import formats

sys.path.insert(1, str(pathlib.Path(__file__).parents[1]))  # config files build on each other

_CONFIG = config_flags.DEFINE_config_file("config", "configs/quickstart.py", "our run")
_STEPS = flags.DEFINE_integer("steps", 20_000, "the usual way's steps per game", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", 60, "the usual way's epochs", lower_bound=1)
_EVERY = flags.DEFINE_integer("every", 20, "its epochs between two measurements", lower_bound=1)
_EPISODES = flags.DEFINE_integer("episodes", 20, "games of a measurement", lower_bound=2)
_OUT = flags.DEFINE_string("out", None, "write what was measured as JSON")
_LEARNING = ("collect", "store", "learn", "save")


def _kept(rows: list[dict], scores: list[evaluation.Scores]) -> list[float]:
    """Retention of each game, with the expert's and random scores of our run."""
    return [
        evaluation.retention(s.mean, row["expert"]["mean"], row["random"]["mean"])
        for s, row in zip(scores, rows, strict=True)
    ]


def _measure(student: torch.nn.Module, chosen: list[games.Game], episodes: int):
    """Whole-game scores of a PyTorch student, by our evaluation."""
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "student.pth"
        torch.save({"policy_net_state_dict": student.state_dict()}, path)
        expert = formats.load(str(path), game=chosen[0].name)
    masks = jnp.asarray(np.stack([game.mask for game in chosen]))
    act = rollouts.network_actor(expert.network, masks, epsilon=0.05)
    return evaluation.play_everywhere(
        chosen,
        episodes,
        lambda *arguments: act(expert.params, *arguments),
        jax.random.key(7),
        mesh.create(),
        seeds=[envs.seed_for(7, i) for i in range(len(chosen))],
        views=[expert.view] * len(chosen),
    )


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)
    ours = settings.build(distill.Settings, _CONFIG.value.to_dict())
    with tempfile.TemporaryDirectory() as directory:
        workdir = pathlib.Path(directory) / "run"
        result = distill.distill(ours, workdir)
        history = metrics.read(workdir)
    rows = result["games"]
    chosen = [games.get(row["game"]) for row in rows]
    curve, clock = [], 0.0
    for row in history:
        if "loss" in row:
            clock = sum(row.get(f"seconds/{phase}") or 0.0 for phase in _LEARNING)
        elif "mean_retention" in row:
            curve.append((clock, row["mean_retention"]))
    spent = sum(result["seconds"].get(phase, 0.0) for phase in _LEARNING)

    theirs: list[tuple[float, list[float]]] = []
    paused, start = 0.0, time.perf_counter()

    def after_epoch(done: int, student: torch.nn.Module) -> None:
        nonlocal paused
        if done % _EVERY.value and done != _EPOCHS.value:
            return
        began = time.perf_counter()
        seconds = began - start - paused
        theirs.append((seconds, _kept(rows, _measure(student, chosen, _EPISODES.value))))
        paused += time.perf_counter() - began
        print(f"usual way, epoch {done}: {seconds:.0f} s, {np.round(theirs[-1][1], 3)}", flush=True)

    experts = [load(source.path) for source in ours.experts]
    start = time.perf_counter()
    merge(chosen, experts, steps=_STEPS.value, epochs=_EPOCHS.value, after_epoch=after_epoch)

    seconds, kept = theirs[-1]
    reached = next((at for at, value in curve if value >= np.mean(kept)), None)
    names = [game.name for game in chosen]
    final = [row["retention"] for row in rows]
    metrics.table(
        f"{', '.join(names)}: retention, epsilon 0.05 ({result['episodes']} games of ours, "
        f"{_EPISODES.value} of the usual way)",
        ("", *names, "mean", "seconds"),
        [
            ("usual way, at its end", *map(_share, kept), _share(np.mean(kept)), round(seconds)),
            ("ours, at its end", *map(_share, final), _share(np.mean(final)), round(spent)),
        ],
    )
    if reached is None:
        print("ours did not reach the usual way's mean retention")
    else:
        first = " or sooner: its first evaluation" if reached == curve[0][0] else ""
        print(f"ours was as good after {reached:.0f} s{first}: {seconds / reached:.1f}x sooner")
    if _OUT.value:
        measured = {"games": names, "usual": theirs, "ours": curve, "result": result}
        pathlib.Path(_OUT.value).write_text(json.dumps(measured, indent=2) + "\n")


def _share(value: float) -> str:
    return f"{value:.0%}"


if __name__ == "__main__":
    app.run(main)
