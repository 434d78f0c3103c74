"""Whom a training was begun with: what its settings, which say paths, do not say.

A run chooses another student where it goes on, and an expert may still be in training. A training
that is resumed is one training only as long as they are who they were.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jaxdistill import disk, meshes, networks
from jaxdistill.experts.expert import Teacher
from jaxdistill.experts.student import Student
from jaxdistill.play import players
from jaxdistill.tasks.atari import USUAL, Rules
from jaxdistill.tasks.task import Task
from jaxdistill.tasks.views import AnyView

_FILE = "begun_with.json"
_AS_READ = " as it is read"


@dataclasses.dataclass(frozen=True, eq=False)
class Pretrained:
    """A distilled student that a training goes on from, and who taught it.

    Attributes:
      name: how tables call it.
      network, params: its own.
      outputs: "q" or "logits", as `Expert.outputs`.
      view: what it sees of what pools show.
      teachers: of each game it was taught, by name; empty where they are not at hand.
      own: what it sees in each game, by name, where that is not `view`.
      alone: itself, if it came without its teachers: what it has to say of them.
      actions: the valid ones that it was taught, by name; all of a task that is not named.
      rules: how it was taught to play.
      teacher_views: as `Expert.teacher_view`, by name; of most there is none.
    """

    name: str
    network: networks.Network
    params: networks.Params
    outputs: str
    view: AnyView
    teachers: Mapping[str, Teacher]
    own: Mapping[str, AnyView] = dataclasses.field(default_factory=dict)
    alone: Student | None = None
    actions: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
    rules: Rules = USUAL
    teacher_views: Mapping[str, AnyView] = dataclasses.field(default_factory=dict)

    def masks(self, chosen: Sequence[Task]) -> np.ndarray:
        """`(G, A)` bool: the valid actions of some tasks, and of those only what it was taught."""
        masks = np.stack([task.mask for task in chosen])
        for mask, task in zip(masks, chosen, strict=True):
            mask &= np.isin(np.arange(mask.size), self.actions.get(task.name, task.actions))
        return masks

    def views(self, chosen: Sequence[Task]) -> list[AnyView]:
        """What it sees in each of some tasks."""
        return [self.own.get(task.name, self.view) for task in chosen]


def of(student: Pretrained | None, experts: Sequence[Teacher]) -> dict[str, str]:
    """What tells a student and those who teach from others, by who that is.

    Fingerprints of their parameters; and of those who teach what they answer by besides.
    """
    known = {} if student is None else {"student": players.fingerprint(student.params)}
    for expert in experts:
        who = f"expert of {expert.game}"
        known[who] = players.fingerprint(expert.params)
        known[who + _AS_READ] = f"{players.read_as(expert)} {expert.outputs}"
    return known


def check(workdir: pathlib.Path, known: Mapping[str, str]) -> None:
    """Refuses to go on with others than the training in `workdir` was begun with.

    One of an earlier version does not say whom, or not how an expert was read; nor does one of whom
    it was not begun with, as of an expert whose weight was 0 then.

    Args:
      known: what `of` gives, or a part of it.

    Raises:
      ValueError: somebody's parameters have changed, an expert is read in another way, or what is
        written is damaged.
    """
    standing = _read(workdir)
    for who, mark in known.items():
        if standing.get(who, mark) == mark:
            continue
        if who.endswith(_AS_READ):
            raise ValueError(
                f"the {who.removesuffix(_AS_READ)} is read in another way than when {workdir} was "
                f"begun with it: as another network, or with other actions, outputs or view; put "
                f"its file and spec back as they were, or begin in another --workdir"
            )
        raise ValueError(
            f"the {who} has other parameters than when {workdir} was begun with it; put back "
            f"what it was, or begin in another --workdir"
        )


def relocated_fields(workdir: pathlib.Path, known: Mapping[str, str]) -> tuple[str, ...]:
    """The settings, as "student", that say where somebody is who is the same, after `check`."""
    return tuple({"student"} & known.keys() & _read(workdir).keys())


def claim(workdir: pathlib.Path, known: Mapping[str, str], begins: bool) -> None:
    """Writes down what is not written yet, after `check`.

    Args:
      begins: whether nothing has been learnt here yet; else a training that does not say with whom
        it was begun is left as it is.
    """
    standing = _read(workdir)
    if known.keys() - standing.keys() and (begins or standing) and meshes.leads():
        disk.write_json(workdir / _FILE, {**standing, **known})


def _read(workdir: pathlib.Path) -> dict[str, str]:
    path = workdir / _FILE
    if not path.is_file():
        return {}
    standing = disk.read_json(path, "delete it to go on without it")
    if not isinstance(standing, dict):
        raise ValueError(f"{path} is damaged (no object); delete it to go on without it")
    return standing
