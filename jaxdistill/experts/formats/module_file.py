"""Files of our own PyTorch modules, as `export_module` writes them and their `save` does."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxdistill import networks, settings, tasks
from jaxdistill.experts import torch_layout
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.student import Role, Student
from jaxdistill.tasks.atari import Rules
from jaxdistill.text import one_line

KEY = "jaxdistill_module"
"""Under which a file says what it holds, beside its `state_dict`."""


def read(tree: Mapping[str, Any], where: str, game: str | None) -> Expert:
    """The expert in a file that `write` wrote, or its module's `save`.

    Args:
      tree: what is in the file.
      where: what messages call it.
      game: which of its tasks; None if there is only one.

    Raises:
      UnknownTask: it plays a task of somebody's own, which was not imported.
      ValueError: it is damaged, or plays other tasks, or several.
    """
    try:
        expert, student = _read(tree, where)
    except tasks.UnknownTask as error:
        raise tasks.UnknownTask(f"{where}: {error}") from error
    except Exception as error:  # damage shows as almost any exception of flax, JAX or NumPy
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{where} is damaged ({one_line(f'{kind}{error}', 200)}); export it again"
        ) from error
    if expert is None:
        return student.expert(game)
    if game not in (None, expert.game):
        raise ValueError(
            f"{where}: plays {expert.game}, and {game} was asked for; name its own game, or none"
        )
    return expert


def _read(tree: Mapping[str, Any], where: str) -> tuple[Expert | None, Student]:
    """All that is in a file; and of a policy of one task, which may lack outputs, its expert."""
    about = tree[KEY]
    network = networks.from_dict(about["network"])
    rules = settings.build(Rules, about["rules"], "rules")
    count, most = len(about["tasks"]), len(tasks.names())
    if count > most:
        raise ValueError(f"it names {count} tasks, and there are {most}")
    roles = tuple(Role.from_dict(row, rules) for row in about["tasks"])
    if not roles:
        raise ValueError("it names no task")
    shapes = {role.view.shape for role in roles}
    if len(shapes) > 1:
        raise ValueError(f"its tasks are seen in different shapes, {sorted(shapes)}")
    if network.knows_game and len(network.game_actions) != count:
        raise ValueError(f"its network knows {len(network.game_actions)} games, it names {count}")
    params = torch_layout.from_torch(tree["state_dict"], network, roles[0].view.shape)
    student = Student(where, network, params, about["outputs"], roles, rules)
    if count > 1:
        student.experts()  # which refuses outputs, actions and views that are none
        return None, student
    (role,) = roles
    expert = Expert(
        name=pathlib.Path(where).stem,
        network=network,
        params=params,
        outputs=student.outputs,
        actions=tuple(about["places"]),
        view=role.view,
        game=role.game,
        source=where,
        rules=rules,
        teacher_view=role.teacher_view,
    )
    return expert, student
