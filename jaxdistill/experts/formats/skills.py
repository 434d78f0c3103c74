"""Policies of keys and angles: which task of combat one plays, by the spaces it was trained in.

Other people's policies press keys in several ways: by a bit for each (MultiBinary), as one action
of two (Discrete), or where a number with Gaussian noise is above one half (Box). Here a key's
output is the logit of "down", so the last two are rewritten: what is pressed stays the same, and
how often with noise.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxdistill import tasks
from jaxdistill.experts.formats.building import Built
from jaxdistill.tasks import combat
from jaxdistill.tasks.views import Vector

PRESSED = 0.5  # a number in a Box presses its key above it
_LOG_STD = (-5.0, 5.0)  # of a key; with less noise than that it is down or up
# Of a key in a Box: the deviation with which a Gaussian of mean 0.5 + logit is above 0.5 with the
# chance sigmoid(logit), within 0.0095 everywhere.
KEY_DEVIATION = 1.702


@dataclasses.dataclass(frozen=True)
class Space:
    """What a policy was trained in.

    Attributes:
      kind: of its actions, Gymnasium's name of their space.
      size: how many outputs it has.
      numbers: how many it sees, 0 if it sees screens.
    """

    kind: str
    size: int
    numbers: int

    def __str__(self) -> str:
        seen = f"{self.numbers} numbers" if self.numbers else "screens"
        return f"{self.kind}({self.size}) on {seen}"


SPACES = {
    "combat/movement": Space("MultiBinary", 6, 20),
    "combat/aiming": Space("Box", 2, 5),
    "combat/clicking": Space("Discrete", 2, 9),
    "combat/duel": Space("Box", 9, 20),
}
"""What experts were trained in, by the name of their environment."""


def is_skill(game: str | None) -> bool:
    """Whether it is the name of a task of combat."""
    return game is not None and tasks.get(game).suite == combat.COMBAT


def space_of(game: str) -> Space:
    """What an expert of this task of combat was trained in; all duels are alike."""
    task = tasks.get(game)
    name = task.environment.name if isinstance(task, combat.Combat) else game
    return SPACES.get(name, SPACES["combat/duel"])


def view_of(game: str | None, size: int) -> Vector:
    """What a network on `size` numbers sees: in a task of combat its part of what pools show."""
    task = None if game is None else tasks.get(game)
    if isinstance(task, combat.Combat) and task.view.shape == (1, size):
        return task.view
    return Vector(size)


def task_of(space: Space, game: str | None, where: str, *, own_view: bool = False) -> str:
    """The name of the task of combat that a policy trained in `space` plays.

    Args:
      game: as somebody has said.
      own_view: the policy's file says what it sees, which need not be what the skill's experts do.

    Raises:
      ValueError: it plays none, or not `game`.
    """
    if game is None:
        for name, known in SPACES.items():
            if known == space:
                return name
        listed = "; ".join(f"{known} ({name})" for name, known in SPACES.items())
        raise ValueError(
            f"{where}: a policy of {space}; expected Discrete actions of one game, or one of: "
            f"{listed}"
        )
    expected = space_of(game) if is_skill(game) else None
    if expected is not None and own_view:
        expected = dataclasses.replace(expected, numbers=space.numbers)
    if space != expected:
        raise ValueError(
            f"{where}: a policy of {space} does not play {game}; expected "
            f"{expected or 'Discrete actions'}"
        )
    return game


def of_keys_and_angles(
    built: Built, game: str, space: Space, log_std: tuple[float, ...] | None
) -> Built:
    """A policy of `game` that was trained in `space`, with a logit for each key.

    Of two actions' logits l0 and l1 the softmax presses with probability sigmoid(l1 - l0). In a Box
    a number of mean m and deviation s presses its key above 1/2, so with probability
    Phi((m - 1/2) / s), which is sigmoid(1.702 (m - 1/2) / s) within 1%. Angles stay as they are.

    Args:
      log_std: logarithms of the deviations of a Box's numbers.
    """
    action = built.params["params"]["action"]
    kernel, bias = np.asarray(action["kernel"]), np.asarray(action["bias"])
    task = tasks.get(game)
    keys = np.array([(task.suite.kinds or ())[entry] == "key" for entry in task.actions])
    if space.kind == "Discrete":
        kernel, bias = kernel[:, 1:] - kernel[:, :1], bias[1:] - bias[:1]
        note = "its two logits are one now: the second less the first is that of a click"
    elif log_std is not None and keys.any():
        deviation = np.exp(np.clip(log_std, *_LOG_STD))
        scale = np.where(keys, KEY_DEVIATION / deviation, 1).astype(np.float32)
        kernel, bias = (
            kernel * scale,
            (bias - np.where(keys, PRESSED, 0).astype(np.float32)) * scale,
        )
        note = f"its keys are down above {PRESSED}, and their logits say how often they are"
    else:
        return built
    params = built.params["params"] | {"action": {"kernel": kernel, "bias": bias}}
    network = built.network.clone(num_outputs=len(bias))
    return dataclasses.replace(
        built, network=network, params={"params": params}, notes=(*built.notes, note)
    )
