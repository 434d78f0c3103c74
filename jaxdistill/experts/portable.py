"""A policy as one function of arrays, for files that others run without this package.

The function takes observations as the policy sees them and, where it plays several tasks, which of
them each row is of. It gives the network's outputs and the greedy action among those that it was
taught. What goes in and comes out stands beside such a file, in `FILE.json`.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import disk, networks
from jaxdistill.experts.expert import Expert, to_suite
from jaxdistill.experts.student import Role, Student
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.task import Suite
from jaxdistill.tasks.views import View


@dataclasses.dataclass(frozen=True, eq=False)
class Portable:
    """What such a file holds.

    Attributes:
      name: where it is from.
      network, params: its own, with float32 parameters.
      outputs: "q" or "logits", as `Expert.outputs`.
      roles: its tasks, in the order in which they are numbered.
      places: the suite's action of each of the network's outputs.
      rules: how its tasks are played.
    """

    name: str
    network: networks.Network
    params: networks.Params
    outputs: str
    roles: tuple[Role, ...]
    places: tuple[int, ...]
    rules: Rules

    @property
    def suite(self) -> Suite:
        """That of its tasks."""
        return self.roles[0].task.suite

    @property
    def several(self) -> bool:
        """Whether it plays several tasks, and is told which."""
        return len(self.roles) > 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one observation."""
        return self.roles[0].view.shape

    @property
    def dtype(self) -> str:
        """NumPy's name of what observations are made of."""
        view = self.roles[0].view
        return "float32" if isinstance(view, View) and view.difference else self.suite.frame_dtype

    @property
    def masks(self) -> np.ndarray:
        """`(G, A)` bool, the actions of each task that it was taught."""
        masks = np.zeros((len(self.roles), self.suite.num_actions), bool)
        for mask, role in zip(masks, self.roles, strict=True):
            mask[list(role.actions)] = True
        return masks

    @property
    def limits(self) -> np.ndarray:
        """`(2, G, A)` float32, the least and the largest output of each task; `Task.limited`'s."""
        with jax.ensure_compile_time_eval():  # while a program is traced, too
            ends = jnp.broadcast_to(jnp.array([[-jnp.inf], [jnp.inf]]), (2, self.suite.num_actions))
            return np.stack([np.asarray(x.task.limited(ends)) for x in self.roles], axis=1)

    def __call__(
        self, observations: jax.Array, tasks: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Outputs `(B, A)` float32 in the suite's order, and greedy actions; for jit.

        Args:
          observations: `(B, *shape)`.
          tasks: `(B,)` int32, each row's place in `roles`; where there are several.

        Returns:
          Outputs are 0 where the network has none, and angles go as far as the task allows. Actions
          are `(B,)` int32, of keys and angles `(B, A)` float32.
        """
        network = self.network.clone(dtype=jnp.float32)
        own: Any = network.apply(self.params, observations, tasks)
        outputs = to_suite(own, self.places, self.suite.num_actions)
        row: Any = 0 if tasks is None else tasks
        if self.suite.kinds:
            low, high = (jnp.asarray(ends)[row] for ends in self.limits)
            outputs = jnp.clip(outputs, low, high)
        mask = jnp.asarray(self.masks)[row]
        return outputs, self.suite.form.greedy(outputs, mask)

    def described(self) -> dict[str, Any]:
        """What goes in and comes out, as plain JSON values."""
        suite, actions = self.suite, self.suite.num_actions
        shape = ["batch", *self.shape]
        seen: dict[str, Any] = {"name": "observations", "dtype": self.dtype, "shape": shape}
        which: dict[str, Any] = {"name": "task", "dtype": "int32", "shape": ["batch"]}
        chosen: dict[str, Any] = {"name": "action", "dtype": "int32", "shape": ["batch"]}
        if suite.kinds:
            chosen |= {"dtype": "float32", "shape": ["batch", actions]}
        means = {
            "observations": "frames as the task's `view` says, oldest first"
            if isinstance(self.roles[0].view, View)
            else "numbers as the environment shows them",
            "task": "each row's place in `tasks`",
            "outputs": "Q-values of actions" if self.outputs == "q" else "logits of actions",
            "action": "the best action among the task's, an index of `action_names`",
        }
        if suite.kinds:
            means |= {
                "outputs": "logits of keys, and angles in radians; see `kinds`",
                "action": "1 where a key is down, angles in radians; 0 what is not the task's",
            }
        outputs: dict[str, Any] = {
            "name": "outputs",
            "dtype": "float32",
            "shape": ["batch", actions],
        }
        return {
            "written_by": f"jaxdistill {importlib.metadata.version('jaxdistill')}",
            "from": self.name,
            "inputs": [seen, *([which] if self.several else [])],
            "outputs": [outputs, chosen],
            "means": means if self.several else {k: x for k, x in means.items() if k != "task"},
            "action_names": list(suite.action_names),
            **({"kinds": list(suite.kinds)} if suite.kinds else {}),
            "tasks": [
                {"name": x.game, "actions": list(x.actions), "view": x.view.to_dict()}
                for x in self.roles
            ],
            "rules": dataclasses.asdict(self.rules) if suite.name == "atari" else {},
        }


def of_expert(expert: Expert) -> Portable:
    """An expert; ValueError if it does not say what it plays."""
    actions = tuple(np.flatnonzero(expert.mask).tolist())
    return Portable(
        name=expert.name,
        network=expert.network,
        params=expert.params,
        outputs=expert.outputs,
        roles=(Role(expert.task.name, expert.view, actions, expert.name),),
        places=expert.actions,
        rules=expert.played,
    )


def of_student(student: Student) -> Portable:
    """A student, in all of its tasks."""
    if len(student.roles) == 1:
        return dataclasses.replace(of_expert(student.expert()), roles=student.roles)
    return Portable(
        name=student.name,
        network=student.network,
        params=student.params,
        outputs=student.outputs,
        roles=student.roles,
        places=tuple(range(student.network.num_outputs)),
        rules=student.rules,
    )


def write(portable: Portable, path: str | os.PathLike[str], made: Callable[[], bytes]) -> None:
    """Writes a file and its description beside it, `FILE.json`.

    Args:
      made: gives what is in the file.

    Raises:
      ValueError: as `check`.
      OSError: one of them cannot be written; then neither is there.
    """
    beside = pathlib.Path(f"{os.fspath(path)}.json")
    check(portable, path, beside)
    content = made()
    text = json.dumps(portable.described(), indent=2, allow_nan=False) + "\n"
    write_together({beside: text.encode(), path: content})


def check(portable: Portable, *paths: str | os.PathLike[str]) -> None:
    """Refuses what cannot be written.

    Args:
      paths: the files that are to be.

    Raises:
      ValueError: one of them is there already, a weight is not finite, or it is recurrent.
    """
    if portable.network.core:
        raise ValueError(
            f"{portable.name}: it has a recurrent core, and the file would be a function of single "
            f"states; distil it, and export the student"
        )
    for path in paths:
        disk.check_free(path)
    if not all(np.isfinite(x).all() for x in jax.tree.leaves(portable.params)):
        raise ValueError(f"{portable.name}: holds NaN or infinite weights; nothing was written")


def write_together(contents: Mapping[str | os.PathLike[str], bytes]) -> None:
    """Writes new files by their paths, all or none.

    Raises:
      OSError: one of them cannot be written; then none is there.
    """
    try:
        disk.write_files(contents, alone=False, folder=True)
    except OSError:  # some without the others would stand in the way of the next try
        for path in contents:
            pathlib.Path(path).unlink(missing_ok=True)
        raise
