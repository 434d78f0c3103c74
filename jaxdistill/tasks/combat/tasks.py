"""The tasks of combat: three skills, and the duel in its variants."""

from __future__ import annotations

import dataclasses
import re
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.tasks.combat import environments, views
from jaxdistill.tasks.combat.camera import CombatCamera
from jaxdistill.tasks.combat.environments import ENTRIES, Environment
from jaxdistill.tasks.combat.pool import FACTS, CombatPool
from jaxdistill.tasks.task import Suite, Task
from jaxdistill.tasks.views import AnyShown, AnyView

COMBAT = Suite(
    "combat",
    ENTRIES,
    views.part("duel").whole,
    "float32",
    frames_per_second=20,
    opening_steps=0,
    facts=FACTS,
    counts=("dealt", "taken", "yaw_error"),
    kinds=tuple("angle" if entry in ("yaw", "pitch") else "key" for entry in ENTRIES),
    views=(("duel", views.part("duel")), ("document", views.part("document"))),
    pool_size=1024,
)

_OWN = {  # by environment: what experts see, and what is told of a task
    "combat/movement": ("movement", ("near",)),
    "combat/aiming": ("aiming", ("yaw_error", "on_body")),
    "combat/clicking": ("clicking", ("dealt", "hit_rate")),
}
_FOUGHT = ("dealt", "taken", "won", "drawn", "lost", "won_to_ten", "lost_to_ten", "hit_rate")


@dataclasses.dataclass(frozen=True)
class Combat(Task):
    """One skill, or the duel that needs all of them.

    Attributes:
      actions: which of the nine keys and angles it has; others may be anything.
      environment: its rules.
    """

    suite: ClassVar[Suite] = COMBAT

    environment: Environment = environments.DUEL

    @property
    def _kind(self) -> str:
        """What the environment is called, also where the task has a name of one's own."""
        return self.environment.name

    @property
    def facts(self) -> tuple[str, ...]:
        """What `CombatPool.facts` says of this task."""
        return _OWN[self._kind][1] if self._kind in _OWN else _FOUGHT

    @property
    def view(self) -> AnyView:
        """What an expert of this task sees, where it does not say."""
        return views.part(_OWN[self._kind][0] if self._kind in _OWN else "duel")

    @property
    def seen(self) -> np.ndarray | None:
        """`(20,)` bool, which numbers of the duel's view an expert of this skill can know of."""
        if self._kind not in _OWN:
            return None
        return np.isin(np.arange(views.SIZES["duel"]), views.SEEN[self._kind])

    def limited(self, outputs: jax.Array) -> jax.Array:
        """Outputs `(..., 9)` with angles cut to the largest turn of a tick."""
        turn = self.environment.turn
        angles = jnp.asarray([kind == "angle" for kind in self.suite.kinds or ()])
        return jnp.where(angles, jnp.clip(outputs, -turn, turn), outputs)

    def pool(
        self,
        num_envs: int,
        *,
        seed: int,
        view: AnyShown | None = None,
        max_steps: int | None = None,
        threads: int | None = None,
    ) -> CombatPool:
        """See `CombatPool`; threads are XLA's."""
        del threads
        return CombatPool(
            self, self.environment, num_envs, seed=seed, view=view, max_steps=max_steps
        )

    def camera(self, *, seed: int, max_steps: int | None = None) -> CombatCamera:
        """See `CombatCamera`."""
        return CombatCamera(self.pool(1, seed=seed, max_steps=max_steps))


def _task(environment: Environment) -> Combat:
    return Combat(
        environment.name, environment.entries, environment.max_steps, environment=environment
    )


MOVEMENT, AIMING, CLICKING = map(
    _task, (environments.MOVEMENT, environments.AIMING, environments.CLICKING)
)
DUEL, DUEL_LEVEL = map(_task, (environments.DUEL, environments.DUEL_LEVEL))
COMBATS = {task.name: task for task in (MOVEMENT, AIMING, CLICKING, DUEL, DUEL_LEVEL)}


def duel(health: float = 100.0, reward: str = "hits") -> Combat:
    """The whole task with another health or reward; see `environments.duel`.

    Raises:
      ValueError: a health below 1, or a reward there is not.
    """
    return _task(environments.duel(health, reward))


def find(name: str) -> Combat | None:
    """A duel of another health by its name, such as "combat/duel_10hp"; None if it is none.

    Raises:
      ValueError: a health below 1.
    """
    found = re.fullmatch(
        r"(?:combat[/_ -])?duel(_level)?_(-?\d+(?:\.\d+)?)hp", name.strip().lower()
    )
    if found is None:
        return None
    return duel(float(found[2]), "level" if found[1] else "hits")
