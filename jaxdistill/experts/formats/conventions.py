"""The conventions that a state_dict's own names identify, as one table."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from jaxdistill import networks, tasks
from jaxdistill.experts.formats.layers import Arrays, Conv, Plan, brief, named
from jaxdistill.tasks.atari import NUM_ACTIONS

# CRL-Atari: the union of the minimal actions of Breakout, Pong and SpaceInvaders.
UNION_ACTIONS = (0, 1, 3, 4, 11, 12)
ALL_ACTIONS = tuple(range(NUM_ACTIONS))


@dataclasses.dataclass(frozen=True)
class Convention:
    """Where a family of files keeps its layers, and what its outputs stand for.

    Attributes:
      name: how it is called in messages.
      plan: its layers. All take 84x84 area-resized frames divided by 255.
      outputs: "q" or "logits".
      actions: the sets of ALE actions its outputs can be for, told apart by their number; empty
        for the game's own minimal actions.
    """

    name: str
    plan: Plan
    outputs: str
    actions: tuple[tuple[int, ...], ...] = ()

    @functools.cached_property
    def tensors(self) -> frozenset[str]:
        """Names of all its tensors."""
        return frozenset(self.plan.tensors())


def _nature(*keys: str) -> tuple[Conv, ...]:
    layers = zip(keys, networks.NATURE_CONVS, strict=True)
    return tuple(Conv(named(key), layer.stride, layer.kernel) for key, layer in layers)


_REFERENCE = _nature("conv1", "conv2", "conv3")
_CRL = _nature("features.0", "features.2", "features.4")
_CLEANRL = _nature("network.0", "network.2", "network.4")

CONVENTIONS = (
    Convention(
        "reference, dueling",
        Plan(
            convs=_REFERENCE,
            head="dueling",
            action_hidden=(named("fc_adv"),),
            action=named("advantage"),
            value_hidden=(named("fc_value"),),
            value=named("value"),
        ),
        "q",
        (ALL_ACTIONS,),
    ),
    Convention(
        "reference, plain",
        Plan(convs=_REFERENCE, hidden=(named("fc1"),), action=named("fc2")),
        "q",
        (ALL_ACTIONS,),
    ),
    Convention(
        "CRL-Atari, dueling",
        Plan(
            convs=_CRL,
            head="dueling",
            action_hidden=(named("advantage_stream.0"),),
            action=named("advantage_stream.2"),
            value_hidden=(named("value_stream.0"),),
            value=named("value_stream.2"),
        ),
        "q",
        (UNION_ACTIONS, ALL_ACTIONS),
    ),
    Convention(
        "CRL-Atari, plain",
        Plan(convs=_CRL, hidden=(named("fc.0"),), action=named("fc.2")),
        "q",
        (UNION_ACTIONS, ALL_ACTIONS),
    ),
    Convention(
        "CleanRL DQN",
        Plan(convs=_CLEANRL, hidden=(named("network.7"),), action=named("network.9")),
        "q",
    ),
    Convention(
        "CleanRL PPO",
        Plan(
            convs=_CLEANRL,
            hidden=(named("network.7"),),
            head="actor_critic",
            action=named("actor"),
            value=named("critic"),
        ),
        "logits",
    ),
)


def matching(arrays: Arrays) -> Convention | None:
    """The convention whose names these are, all of them and no others."""
    for convention in CONVENTIONS:
        if convention.tensors == arrays.keys():
            return convention
    return None


def nearly(arrays: Arrays) -> str | None:
    """What keeps these names from being those of the convention they resemble, if they do."""
    best, share = None, 0.75
    for convention in CONVENTIONS:
        wanted = convention.tensors
        if (found := len(wanted & arrays.keys()) / len(wanted)) >= share:
            best, share = convention, found
    if best is None:
        return None
    missing = [name for name in best.plan.tensors() if name not in arrays]
    if missing:
        return f"looks like {best.name}, but lacks {brief(missing)}"
    extra = sorted(arrays.keys() - best.tensors)
    return f"looks like {best.name}, but also has {brief(extra)}"


def actions_of(
    convention: str,
    count: int,
    sets: Sequence[tuple[int, ...]],
    game: str | None,
    where: str,
) -> tuple[int, ...]:
    """The ALE actions that `count` outputs stand for.

    Args:
      sets: the sets the convention allows; empty for the game's minimal actions.

    Raises:
      ValueError: the number of outputs fits none, or the game has to be known.
    """
    for actions in sets:
        if len(actions) == count:
            return actions
    if sets:
        numbers = " or ".join(str(len(actions)) for actions in sets)
        raise ValueError(
            f"{where}: is named like {convention}, but has {count} outputs, expected {numbers}; "
            "describe it in a spec (--spec)"
        )
    if count == NUM_ACTIONS:
        return ALL_ACTIONS
    if game is None:
        raise ValueError(
            f"{where}: {convention} with {count} outputs, which are its game's own actions, and "
            "the file does not say which game; give --game"
        )
    actions = tasks.get(game).actions
    if len(actions) != count:
        raise ValueError(
            f"{where}: has {count} outputs, but {tasks.get(game).name} has {len(actions)} actions "
            f"{list(actions)}; is it another game's expert? if not, describe it in a spec (--spec)"
        )
    return actions
