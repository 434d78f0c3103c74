"""`report.html`: everything a run has to show, in one file that needs no other."""

from __future__ import annotations

import base64
import dataclasses
import importlib.resources
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import jinja2
import numpy as np

from jaxdistill import disk, metrics
from jaxdistill.play import clips
from jaxdistill.report import tables
from jaxdistill.tasks.task import Suite
from jaxdistill.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CLIP_SECONDS = 30  # of play in one clip, at most
CLIP_BYTES = 2_000_000  # of one clip; where it would take more, it has fewer pictures a second
_COLOURS = {"expert": "#888888", "student": "#c0392b", "network": "#c0392b"}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What expert and student say of the same states of one game.

    Attributes:
      expert, student: `(B, A)` outputs in the suite's action order.
      mask: `(A,)` bool, valid actions.
      suite: whose actions these are.
    """

    expert: np.ndarray
    student: np.ndarray
    mask: np.ndarray
    suite: Suite


@dataclasses.dataclass(frozen=True)
class Film:
    """Recorded play as a page holds it, which takes far less than its frames.

    Attributes:
      scores: what is said of it.
      note: where a game was cut.
      gif: in base64.
    """

    scores: str
    note: str
    gif: str


def write(
    workdir: str | os.PathLike[str],
    result: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    outputs: Mapping[str, Outputs],
    plays: Mapping[str, Film],
    command: str,
    embeddings: Mapping[str, Sequence[float]] | None = None,
) -> pathlib.Path:
    """Writes `workdir/report.html` of a distillation.

    Args:
      result: what `distill.distill` returns.
      settings: the run's, as plain values.
      outputs, plays: by game; a play is `film_of_both`.
      command: what began the run.
      embeddings: the vector that the student has learnt for each game, if it has.
    """
    names = [row["game"] for row in result["games"]]
    return _write(
        workdir,
        result,
        title=f"One network for {', '.join(names)}",
        summary=tables.summary(result),
        scores=tables.student_cells(result["games"]),
        protocol=f"{tables.protocol(result)}; {tables.starts(result)}",
        sides=", expert left, student right",
        films={name: plays[name] for name in names if name in plays},
        curves=_curves(metrics.read(workdir), names, result["games"]),
        histograms=_histograms(outputs),
        states=max(len(o.expert) for o in outputs.values()),
        **_embeddings(embeddings or {}),
        settings=settings,
        command=command,
    )


def write_training(
    workdir: str | os.PathLike[str],
    result: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    plays: Mapping[str, Film],
    command: str,
) -> pathlib.Path:
    """Writes `workdir/report.html` of a training.

    Args:
      result: what `run.training.train` returns.
      settings: the training's, as plain values.
      histories: rows of `metrics.jsonl`, by the name of each network's training.
      plays: `film_of` the network, by game.
      command: what began the training.
    """
    names = [row["game"] for row in result["games"]]
    one = "One network" if result["networks"] == 1 else "A network each"
    return _write(
        workdir,
        result,
        title=f"{one} for {', '.join(names)}",
        summary=tables.training_summary(result),
        scores=tables.network_cells(result["games"]),
        protocol=f"{tables.protocol(result)}; {tables.fresh(result)}",
        sides="",
        films={name: plays[name] for name in names if name in plays},
        curves=_training_curves(histories, result["games"]),
        histograms="",
        states=0,
        **_embeddings(result["embeddings"]),
        settings=settings,
        command=command,
    )


def _write(
    workdir: str | os.PathLike[str],
    result: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    command: str,
    **parts: Any,
) -> pathlib.Path:
    text = (importlib.resources.files(__package__) / "page.html.j2").read_text()
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        text
    )
    endings = tables.ending_tables(result["games"])
    html = template.render(
        **parts,
        noun=tables.noun(result["games"]),
        endings=endings,
        time=tables.wall_time(result),
        command=printable(command),
        settings=json.dumps(settings, indent=2),
    )
    path = pathlib.Path(workdir) / "report.html"
    disk.write_files({path: html.encode()})
    return path


def film_of_both(expert: clips.Clip, student: clips.Clip) -> Film:
    """The expert and the student, side by side."""
    return _film(
        f"expert {_number(expert.score)}, student {_number(student.score)}",
        clips.side_by_side(expert, student),
        expert.frames_per_second,
        cut=not (expert.over and student.over),
    )


def film_of(clip: clips.Clip) -> Film:
    """One network alone."""
    return _film(_number(clip.score), clip.frames, clip.frames_per_second, cut=not clip.over)


def _film(scores: str, frames: np.ndarray, rate: int, *, cut: bool) -> Film:
    seconds = round((len(frames) - 1) / rate)
    note = f" in the first {seconds} seconds" if cut else ""
    gif = clips.to_gif(frames, rate, every=2, max_bytes=CLIP_BYTES)
    return Film(scores, note, base64.b64encode(gif).decode())


def _number(score: float) -> str:
    return f"{round(score, 1):g}"


def _embeddings(vectors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """What the page shows of them: their numbers, and a picture of how alike they are."""
    return {
        "embeddings": tables.embedding_cells(vectors),
        "similarity": _similarity(vectors) if vectors else "",
    }


def _similarity(vectors: Mapping[str, Sequence[float]]) -> str:
    """A picture of the cosines between vectors, with their numbers in it."""
    names, numbers = list(vectors), np.asarray(list(vectors.values()), float)
    cosines = cosine_similarity(numbers)
    size = 2.5 + 0.8 * len(names)
    figure = _figure(size + 3, size)
    axis = figure.subplots()
    image = axis.imshow(cosines, vmin=-1, vmax=1, cmap="RdBu_r")
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(cosines):
        shade = "white" if abs(value) > 0.6 else "black"
        axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade)
    figure.colorbar(image, shrink=0.8)
    return _svg(figure)


def cosine_similarity(vectors: np.ndarray) -> np.ndarray:
    """Cosines `(G, G)` of the angles between vectors `(G, D)`; 0 where one is all zeros."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return units @ units.T


def _curves(
    history: Sequence[Mapping[str, Any]], names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> str:
    panels = ("game_loss", "agreement", "score")
    figure = _figure(11, 2.6 * len(names))
    axes = figure.subplots(len(names), len(panels), squeeze=False, sharex="col")
    for line, name, row in zip(axes, names, rows, strict=True):
        for axis, panel in zip(line, panels, strict=True):
            points = _points(history, f"{panel}/{name}")
            _plot(axis, points, "student")
            axis.set_title(f"{name}: {panel.replace('game_', '')}", fontsize=10)
            axis.grid(alpha=0.3)
        line[0].set_yscale("log")
        line[1].set_ylim(0, 1)
        if followed := _points(history, f"expert_score/{name}"):
            _plot(line[2], followed, "expert")
        line[2].axhline(row["expert"]["mean"], color=_COLOURS["expert"], linestyle="--")
        line[2].axhline(row["random"]["mean"], color=_COLOURS["expert"], linestyle=":")
    for axis in axes[-1]:
        axis.set_xlabel("updates")
    return _svg(figure)


def _plot(axis: Axes, points: Sequence[tuple[float, float]], who: str) -> None:
    """A line, in which few points are marked: of a single one nothing else can be seen."""
    marker = "o" if len(points) <= _FEW_POINTS else None
    axis.plot(*zip(*points, strict=True), color=_COLOURS[who], marker=marker)


_FEW_POINTS = 20


def _training_curves(
    histories: Mapping[str, Sequence[Mapping[str, Any]]], rows: Sequence[Mapping[str, Any]]
) -> str:
    """A panel of each task's scores, and two of how each network learns."""
    count = len(rows) + 2
    lines = (count + 1) // 2
    figure = _figure(11, 2.8 * lines)
    axes = figure.subplots(lines, 2, squeeze=False).ravel()
    for axis in axes[count:]:
        axis.remove()
    for axis, row in zip(axes, rows, strict=False):
        name = row["game"]
        for history in histories.values():
            for key, label, look in (
                (
                    f"score/{name}",
                    "while learning, exploring",
                    {"color": _COLOURS["expert"], "marker": "."},
                ),
                (f"eval/{name}", "evaluated", {"color": _COLOURS["network"], "marker": "o"}),
            ):
                if points := _points(history, key):
                    axis.plot(*zip(*points, strict=True), label=label, **look)
        axis.axhline(
            row["network"]["mean"], color=_COLOURS["network"], linestyle="--", label="the best"
        )
        axis.axhline(
            row["random"]["mean"], color=_COLOURS["expert"], linestyle=":", label="random play"
        )
        axis.set_title(f"{name}: score", fontsize=10)
    axes[0].legend(fontsize=8)
    logged = {key for history in histories.values() for row in history for key in row}
    second = "epsilon" if "epsilon" in logged else "gradient_norm"  # a policy explores by itself
    for axis, key in zip(axes[len(rows) :], ("loss", second), strict=False):
        for name, history in histories.items():
            if points := _points(history, key):
                axis.plot(*zip(*points, strict=True), label=name, marker=".")
        axis.set_title(key, fontsize=10)
        if len(histories) > 1:
            axis.legend(fontsize=8)
    losses = [y for history in histories.values() for _, y in _points(history, "loss")]
    if all(loss > 0 for loss in losses):  # a policy's may be below 0
        axes[len(rows)].set_yscale("log")
    for axis in axes[:count]:
        axis.grid(alpha=0.3)
        axis.set_xlabel("steps")
    return _svg(figure)


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in history if key in row]


def _histograms(outputs: Mapping[str, Outputs]) -> str:
    figure = _figure(11, 2.6 * len(outputs))
    axes = figure.subplots(len(outputs), 2, squeeze=False)
    for (left, right), (name, o) in zip(axes, outputs.items(), strict=True):
        valid = np.flatnonzero(o.mask)
        for i, who in enumerate(("expert", "student")):
            values = getattr(o, who)[:, valid]
            shown = {"color": _COLOURS[who], "label": who}
            left.hist(values.ravel(), bins=60, density=True, histtype="step", **shown)
            counts = _chosen(o.suite, getattr(o, who), o.mask)[valid]
            right.bar(np.arange(len(valid)) + 0.4 * i, counts, width=0.4, **shown)
        left.set_title(f"{name}: outputs of valid actions", fontsize=10)
        right.set_title(f"{name}: {_CHOSEN[o.suite.kinds is None]}", fontsize=10)
        right.set_xticks(
            np.arange(len(valid)) + 0.2, [o.suite.action_names[a] for a in valid], fontsize=7
        )
        right.legend(fontsize=8)
    return _svg(figure)


_CHOSEN = {
    True: "greedy action",
    False: "share of states with the key down; mean turn in radians",
}


def _chosen(suite: Suite, outputs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """`(A,)`: how often each action is greedy or each key down, and the mean size of angles."""
    chosen = np.asarray(suite.form.greedy(jnp.asarray(outputs), jnp.asarray(mask)))
    if suite.factored is None:
        return np.bincount(chosen, minlength=len(mask)) / len(chosen)
    return np.where(suite.factored.angles, np.abs(chosen), chosen).mean(axis=0)


def _figure(width: float, height: float) -> Figure:
    """An empty one, in inches."""
    # Here and not above: a program that draws nothing should not pay for importing what draws.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg")
    return out.getvalue()[out.getvalue().index("<svg") :]
