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
from typing import Any

import jinja2
import matplotlib.figure
import numpy as np

from jaxdistill import metrics
from jaxdistill import settings as settings_lib
from jaxdistill.play import clips
from jaxdistill.report import tables

CLIP_SECONDS = 30  # of play in one clip, at most
_COLOURS = {"expert": "#888888", "student": "#c0392b"}


@dataclasses.dataclass(frozen=True)
class Outputs:
    """What expert and student say of the same states of one game.

    Attributes:
      expert, student: `(B, A)` outputs in the suite's action order.
      mask: `(A,)` bool, valid actions.
      action_names: what the A actions are called.
    """

    expert: np.ndarray
    student: np.ndarray
    mask: np.ndarray
    action_names: tuple[str, ...]


def write(
    workdir: str | os.PathLike[str],
    result: Mapping[str, Any],
    *,
    settings: Mapping[str, Any],
    outputs: Mapping[str, Outputs],
    plays: Mapping[str, tuple[clips.Clip, clips.Clip]],
    command: str,
) -> pathlib.Path:
    """Writes `workdir/report.html`.

    Args:
      result: what `distill.distill` returns.
      settings: the run's, as plain values.
      outputs, plays: by game; a play is the expert's clip and the student's.
      command: what began the run.
    """
    workdir = pathlib.Path(workdir)
    history = metrics.read(workdir)
    names = [row["game"] for row in result["games"]]
    text = (importlib.resources.files(__package__) / "page.html.j2").read_text()
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        text
    )
    columns, rows = tables.student_cells(result["games"])
    html = template.render(
        title=f"One network for {', '.join(names)}",
        summary=tables.summary(result),
        columns=columns,
        rows=rows,
        protocol=f"{tables.protocol(result)}; {tables.starts(result)}",
        clips=[_clip(name, *plays[name]) for name in names if name in plays],
        curves=_curves(history, names, result["games"]),
        histograms=_histograms(outputs),
        states=max(len(o.expert) for o in outputs.values()),
        time=tables.wall_time(result),
        command=metrics.shown(command),
        settings=json.dumps(settings, indent=2),
    )
    path = workdir / "report.html"
    with settings_lib.writing(path):
        temporary = path.with_name(f"{path.name}.partial")
        temporary.write_text(html, encoding="utf-8")
        os.replace(temporary, path)
    return path


def _clip(name: str, expert: clips.Clip, student: clips.Clip) -> dict[str, str]:
    cut = not (expert.over and student.over)
    frames = clips.side_by_side(expert, student)
    rate = expert.frames_per_second
    seconds = round((len(frames) - 1) / rate)
    return {
        "game": name,
        "expert": f"{expert.score:g}",
        "student": f"{student.score:g}",
        "note": f" in the first {seconds} seconds" if cut else "",
        "gif": base64.b64encode(clips.to_gif(frames, rate, every=2)).decode(),
    }


def _curves(
    history: Sequence[Mapping[str, Any]], names: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> str:
    panels = ("game_loss", "agreement", "score")
    figure = matplotlib.figure.Figure(figsize=(11, 2.6 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), len(panels), squeeze=False, sharex="col")
    for line, name, row in zip(axes, names, rows, strict=True):
        for axis, panel in zip(line, panels, strict=True):
            points = [(r["step"], r[f"{panel}/{name}"]) for r in history if f"{panel}/{name}" in r]
            axis.plot(*zip(*points, strict=True), color=_COLOURS["student"])
            axis.set_title(f"{name}: {panel.replace('game_', '')}", fontsize=10)
            axis.grid(alpha=0.3)
        line[0].set_yscale("log")
        line[1].set_ylim(0, 1)
        key = f"expert_score/{name}"
        if followed := [(r["step"], r[key]) for r in history if key in r]:
            line[2].plot(*zip(*followed, strict=True), color=_COLOURS["expert"])
        line[2].axhline(row["expert"]["mean"], color=_COLOURS["expert"], linestyle="--")
        line[2].axhline(row["random"]["mean"], color=_COLOURS["expert"], linestyle=":")
    for axis in axes[-1]:
        axis.set_xlabel("updates")
    return _svg(figure)


def _histograms(outputs: Mapping[str, Outputs]) -> str:
    figure = matplotlib.figure.Figure(figsize=(11, 2.6 * len(outputs)), layout="constrained")
    axes = figure.subplots(len(outputs), 2, squeeze=False)
    for (left, right), (name, o) in zip(axes, outputs.items(), strict=True):
        valid = np.flatnonzero(o.mask)
        for i, who in enumerate(("expert", "student")):
            values = getattr(o, who)[:, valid]
            shown = {"color": _COLOURS[who], "label": who}
            left.hist(values.ravel(), bins=60, density=True, histtype="step", **shown)
            counts = np.bincount(values.argmax(axis=1), minlength=len(valid)) / len(values)
            right.bar(np.arange(len(valid)) + 0.4 * i, counts, width=0.4, **shown)
        left.set_title(f"{name}: outputs of valid actions", fontsize=10)
        right.set_title(f"{name}: greedy action", fontsize=10)
        right.set_xticks(
            np.arange(len(valid)) + 0.2, [o.action_names[a] for a in valid], fontsize=7
        )
        right.legend(fontsize=8)
    return _svg(figure)


def _svg(figure: matplotlib.figure.Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg")
    return out.getvalue()[out.getvalue().index("<svg") :]
