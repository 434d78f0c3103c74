"""One run with several seeds or settings: which variants there are, and one table of all."""

from __future__ import annotations

import ast
import collections
import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill import clocks, workdirs
from jaxdistill.report import tables
from jaxdistill.run import distill, distill_settings, student_json

SEED = "seed"


@dataclasses.dataclass(frozen=True, eq=False)
class Variant:
    """One run of a sweep.

    Attributes:
      changes: values of the dotted fields that it changes, in the order in which they were given.
    """

    changes: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of its directory, such as "learn.loss=kl,seed=1"."""
        return ",".join(f"{field}={value}" for field, value in self.changes.items())

    @property
    def but_seed(self) -> tuple[tuple[str, Any], ...]:
        """Its changes, without the seed that repetitions differ in."""
        return tuple((field, value) for field, value in self.changes.items() if field != SEED)


def variants(over: str) -> list[Variant]:
    """All combinations of "learn.loss=kl,q_values;seed=0,1,2", the last field changing fastest.

    Raises:
      ValueError: a part is no FIELD=VALUE,VALUE, a field is named twice, or one of its values is,
        or is neither a number nor a name.
    """
    fields: dict[str, list[Any]] = {}
    for part in filter(None, (part.strip() for part in over.split(";"))):
        field, _, values = part.partition("=")
        listed = [_typed(value) for value in values.split(",") if value]
        if not field or not listed or "/" in values:
            raise ValueError(f"--over: {part!r} is not FIELD=VALUE,VALUE; such as seed=0,1,2")
        if field in fields:
            raise ValueError(f"--over: {field} is named twice; list its values behind one =")
        _refuse_repeated(field, listed)
        fields[field] = listed
    if not fields:
        raise ValueError("--over names no field; such as --over='learn.loss=kl,q_values;seed=0,1'")
    return [Variant(dict(zip(fields, x, strict=True))) for x in itertools.product(*fields.values())]


def _refuse_repeated(field: str, values: Sequence[Any]) -> None:
    """Refuses values of which two are one run, which would count twice."""
    for value in values:
        if not isinstance(value, (bool, int, float, str, tuple, type(None))):
            raise ValueError(f"--over: {field}={value!r} is neither a number nor a name")
        if values.count(value) > 1:
            raise ValueError(f"--over: {field}={value} is there twice; give every value once")


def _typed(value: str) -> Any:
    try:
        return ast.literal_eval(value)
    except (SyntaxError, ValueError):
        return {"true": True, "false": False}.get(value, value)


def results(
    chosen: Mapping[Variant, distill_settings.Settings], workdir: pathlib.Path
) -> tuple[dict[Variant, dict[str, Any]], dict[Variant, str]]:
    """What the variants that have ended wrote, and why a result that stands is none of theirs.

    A directory may hold a run of other settings, or one that has yet to go on to more rounds.

    Args:
      chosen: all variants, with the settings of their runs.
    """
    ended: dict[Variant, dict[str, Any]] = {}
    others: dict[Variant, str] = {}
    for variant, settings in chosen.items():
        directory = workdir / variant.name
        path = directory / "result.json"
        if not path.is_file():
            continue
        try:
            _check_same(settings, directory)
            ended[variant] = tables.read_result(path)
        except (ValueError, OSError) as error:
            others[variant] = str(error)
    return ended, others


# As a run may change it at any time: it decides nothing of what is learnt or measured.
_CHANGEABLE = ("evaluate.lowest_expert_share",)


def _check_same(settings: distill_settings.Settings, directory: pathlib.Path) -> None:
    """Refuses a directory whose run has other settings, its rounds included.

    Its experts may stand elsewhere now.
    """
    settings = distill.as_begun(settings, directory)
    experts = distill_settings.teachers(settings)
    settings = distill_settings.resolve_defaults(settings, experts)
    workdirs.claim(
        directory,
        settings,
        (*_CHANGEABLE, *student_json.relocated_fields(directory, settings, experts)),
    )


def rows(ended: Mapping[Variant, Mapping[str, Any]]) -> tables.Cells:
    """A row of all seeds of the same changes: the median of each game's retention, and the range.

    Variants may have other games than others. Time is of collecting and learning, compiling
    included, the median too.
    """
    groups: dict[tuple[tuple[str, Any], ...], list[Mapping[str, Any]]]
    groups = collections.defaultdict(list)
    for variant, result in ended.items():
        groups[variant.but_seed].append(result)
    fields = [field for field, _ in next(iter(groups))]
    games = dict.fromkeys(row["game"] for result in ended.values() for row in result["games"])
    cells = []
    for changes, same in groups.items():
        kept = [{row["game"]: tables.kept(row) for row in x["games"]} for x in same]
        told = [_spread([x[game] for x in kept if game in x]) for game in games]
        mean = _spread([float(np.mean([*x.values()])) for x in kept])
        minutes = float(np.median([clocks.learning_seconds(x["seconds"]) / 60 for x in same]))
        cells.append((*(str(x) for _, x in changes), len(same), *told, mean, minutes))
    return (*fields, "runs", *games, "mean", "minutes"), cells


def _spread(values: Sequence[float]) -> str:
    if not values or np.isnan(values).any():
        return "-"  # an expert that may play like random play: what is kept of it is not known
    if len(values) == 1:
        return f"{values[0]:.0%}"
    return f"{np.median(values):.0%} [{min(values):.0%}, {max(values):.0%}]"
