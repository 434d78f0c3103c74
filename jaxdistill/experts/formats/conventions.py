"""The conventions that a state_dict's own names identify, as one table."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from jaxdistill import networks, tasks
from jaxdistill.experts.formats.layers import Arrays, Conv, Plan, PlannedStream, brief, named
from jaxdistill.tasks.atari import NUM_ACTIONS
from jaxdistill.tasks.combat import COMBAT
from jaxdistill.tasks.lander import LANDER
from jaxdistill.tasks.views import AnyView, Vector, described

# CRL-Atari: the union of the minimal actions of Breakout, Pong and SpaceInvaders.
UNION_ACTIONS = (0, 1, 3, 4, 11, 12)
ALL_ACTIONS = tuple(range(NUM_ACTIONS))
ALL_ENGINES = tuple(range(LANDER.num_actions))


@dataclasses.dataclass(frozen=True)
class Convention:
    """Where a family of files keeps its layers, and what its outputs stand for.

    Attributes:
      name: how it is called in messages.
      plan: its layers. Those with convolutions take 84x84 area-resized frames divided by 255, the
        others numbers as they are.
      outputs: "q" or "logits".
      actions: the sets of its suite's actions (in Atari ALE's) that its outputs can be for, told
        apart by their number; empty for the game's own minimal actions.
      suite: whose tasks it plays.
      tasks: the tasks by the rows of its plan's embedding.
      inside: what the name of the state_dict in the file has to contain, where those of its tensors
        say too little.
    """

    name: str
    plan: Plan
    outputs: str
    actions: tuple[tuple[int, ...], ...] = ()
    suite: str = "atari"
    tasks: tuple[str, ...] = ()
    inside: str = ""

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

# The public multi-task lander: Q-networks of three layers, called so in its agents' checkpoints.
# One that tasks share sees the 8 numbers of the state and, *after* them, its task's learnt vector,
# as `networks.Network` does too: the row of the embedding in this order.
LANDER_TASKS = ("lander/standard", "lander/windy", "lander/heavy")
LANDER_PLAN = Plan(hidden=(named("fc1"), named("fc2")), action=named("fc3"))

# The public fighter's distilled policy. Its outputs are the six keys, the click, yaw and pitch.
SKILLS_PLAN = Plan(
    hidden=(named("encoder.0"), named("encoder.2"), named("encoder.4")),
    streams=(
        PlannedStream(named("movement_head.0"), named("movement_head.2"), (0, 1, 2, 3, 4, 5)),
        PlannedStream(named("aiming_head.0"), named("aiming_head.2"), (7, 8), bounded=True),
        PlannedStream(named("clicking_head.0"), named("clicking_head.2"), (6,)),
    ),
)

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
    Convention(
        "multi-task lander, shared with embedding",
        dataclasses.replace(LANDER_PLAN, embedding="task_embedding.weight"),
        "q",
        (ALL_ENGINES,),
        suite=LANDER.name,
        tasks=LANDER_TASKS,
        inside="q_network",
    ),
    Convention(
        "multi-task lander, single or task-blind",
        LANDER_PLAN,
        "q",
        (ALL_ENGINES,),
        suite=LANDER.name,
        inside="q_network",
    ),
    Convention(
        "fighter, distilled from skills",
        SKILLS_PLAN,
        "logits",
        (tuple(range(COMBAT.num_actions)),),
        suite=COMBAT.name,
    ),
)


def matching(arrays: Arrays, place: str) -> Convention | None:
    """The convention whose names these are, all of them and no others.

    Args:
      place: where in the file they are.
    """
    for convention in CONVENTIONS:
        if convention.tensors == arrays.keys() and convention.inside in place:
            return convention
    return None


def nearly(arrays: Arrays) -> str | None:
    """What keeps these names from being those of the convention they resemble, if they do."""

    def share(convention: Convention) -> float:
        return len(convention.tensors & arrays.keys()) / len(convention.tensors)

    best = max(CONVENTIONS, key=lambda convention: (share(convention), len(convention.tensors)))
    if share(best) < 0.75:
        return None
    missing = [name for name in best.plan.tensors() if name not in arrays]
    if missing:
        return f"looks like {best.name}, but lacks {brief(missing)}"
    extra = sorted(arrays.keys() - best.tensors)
    if not extra:
        return f"looks like {best.name}, but does not lie under {best.inside!r}"
    return f"looks like {best.name}, but also has {brief(extra)}"


def actions_of(
    convention: str,
    count: int,
    sets: Sequence[tuple[int, ...]],
    game: str | None,
    where: str,
) -> tuple[int, ...]:
    """The suite's actions (in Atari ALE's) that `count` outputs stand for.

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


def check_plays(view: AnyView, count: int, game: str, where: str) -> None:
    """Refuses a network that sees something else than `game` shows.

    Args:
      view: what it sees.
      count: its outputs.

    Raises:
      ValueError: it sees a screen and the game shows numbers, or numbers and it shows a screen or
        others. Of two networks on numbers, one with other actions too: no mask mends that, but
        where actions are keys and angles it may have those of its whole suite.
    """
    task = tasks.get(game)
    shown = task.suite.view
    other = type(view) is not type(shown)
    if isinstance(view, Vector):
        counts = {len(task.actions)} | ({task.suite.num_actions} if task.suite.kinds else set())
        other |= view.whole != shown or count not in counts
    if other:
        raise ValueError(
            f"{where}: an expert that sees {described(view)} and has {count} actions does not "
            f"play {task.name}, which shows {described(shown)} and has {len(task.actions)} actions"
        )
