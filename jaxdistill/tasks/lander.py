"""LunarLander in four variants, stepped together: the tasks of the shared lander.

Gymnasium's environment with 8 numbers to see and 4 engines to fire, unchanged as `standard`. The
other variants are those of a public multi-task agent (`windy`, `heavy`), and one that mends the
first of them (`windy_air`): where the wind pushes a lander that stands on the ground, it never
comes to rest, so no episode ends well.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from typing import Any, ClassVar

import numpy as np

from jaxdistill.tasks.gymnasium_pool import GymnasiumCamera, GymnasiumPool
from jaxdistill.tasks.task import Suite, Task
from jaxdistill.tasks.views import AnyShown, Vector

ACTION_NAMES = ("NOOP", "LEFT_ENGINE", "MAIN_ENGINE", "RIGHT_ENGINE")

# Every episode begins on ground of its own and with a push of its own.
LANDER = Suite(
    "lander",
    ACTION_NAMES,
    Vector(8),
    "float32",
    frames_per_second=50,
    opening_steps=0,
    facts=("rest", "pad", "crash"),
)


@dataclasses.dataclass(frozen=True)
class Lander(Task):
    """One variant of LunarLander.

    Attributes:
      max_steps: as the multi-task agent was trained.
      gravity: in Box2D's units; Earth's is -10 here, as in gymnasium.
      wind: the largest horizontal force on the lander's centre of mass; each step draws one
        uniformly from -wind to wind.
      wind_on_ground: whether it also blows while a leg touches the ground.
    """

    suite: ClassVar[Suite] = LANDER

    actions: tuple[int, ...] = (0, 1, 2, 3)
    max_steps: int = 1000
    gravity: float = -10.0
    wind: float = 0.0
    wind_on_ground: bool = False

    def require(self) -> None:
        """Raises ValueError if gymnasium's Box2D is not installed."""
        _world_class()

    def pool(
        self,
        num_envs: int,
        *,
        seed: int,
        view: AnyShown | None = None,
        max_steps: int | None = None,
        threads: int | None = None,
    ) -> LanderPool:
        """See `LanderPool`; it has one thread."""
        del threads
        limit = self.max_steps if max_steps is None else max_steps
        return LanderPool(self, num_envs, seed=seed, view=view, max_steps=limit)

    def camera(self, *, seed: int, max_steps: int | None = None) -> GymnasiumCamera:
        """Every second pixel of the screen, `(200, 300, 3)`; see `GymnasiumCamera`."""
        pool = LanderPool(self, 1, seed=seed, max_steps=max_steps, render=True)
        return GymnasiumCamera(pool, _half_screen)


STANDARD = Lander("lander/standard")
WINDY = Lander("lander/windy", wind=20.0, wind_on_ground=True, max_steps=400)
WINDY_AIR = Lander("lander/windy_air", wind=20.0, max_steps=400)
HEAVY = Lander("lander/heavy", gravity=-12.5, max_steps=800)
LANDERS = {lander.name: lander for lander in (STANDARD, WINDY, WINDY_AIR, HEAVY)}


class LanderPool(GymnasiumPool):
    """N environments of one variant; all chance of an episode comes from its seed.

    The ground, the first push, the engines' and the wind's.
    """

    def __init__(
        self,
        lander: Lander,
        num_envs: int,
        *,
        seed: int,
        view: AnyShown | None = None,
        max_steps: int | None = None,
        render: bool = False,
    ):
        """Builds the pool and begins N episodes.

        Args:
          max_steps: step limit of one episode; by default the variant's own.
          render: whether `screens` can be asked for.

        Raises:
          ValueError: a count below 1, a view of something else than the lander's 8 numbers, or
            gymnasium's Box2D is not installed.
        """
        make = functools.partial(_world_class(), lander, render)
        limit = lander.max_steps if max_steps is None else max_steps
        super().__init__(lander, make, num_envs, seed=seed, view=view, max_steps=limit)

    @property
    def states(self) -> np.ndarray:
        """`(N,)` uint32, a checksum of where each lander is and how it moves."""
        bodies = (world.lander for world in self._worlds)
        numbers = (
            (*body.position, body.angle, *body.linearVelocity, body.angularVelocity)
            for body in bodies
        )
        return np.asarray(
            [zlib.crc32(np.asarray(row, np.float64).tobytes()) for row in numbers], np.uint32
        )

    @property
    def facts(self) -> dict[str, np.ndarray]:
        """How the episodes stand, or ended, `(N,)` each.

        `rest`: the lander stands still on the ground, which ends an episode well. `crash`: its body
        has touched the ground, or it has left the screen sideways. `pad`: it has not crashed, and
        both legs touch the ground between the flags.
        """
        facts = np.asarray([_landing(world) for world in self._worlds], float)
        return dict(zip(LANDER.facts, facts.T, strict=True))


def _half_screen(pool: GymnasiumPool) -> np.ndarray:
    return pool.screens()[0, ::2, ::2].copy()  # or the whole screen would be kept


@functools.cache
def _world_class() -> type:
    # Imported here: Box2D is an extra, and only landers need it.
    try:
        import Box2D  # noqa: F401
        from gymnasium.envs.box2d import lunar_lander
    except ImportError as error:
        raise ValueError(
            f"landers need Box2D ({error}): pip install 'jaxdistill[lander]'"
        ) from error

    class World(lunar_lander.LunarLander):
        """One lander, with the variant's gravity and wind."""

        def __init__(self, variant: Lander, render: bool) -> None:
            super().__init__(render_mode="rgb_array" if render else None)
            self.variant = variant
            # Not by the constructor, which refuses 12 and more; the world is built at each reset.
            self.gravity = variant.gravity

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            # A generator of its own: the wind changes neither the ground nor the first push.
            self.gusts = np.random.default_rng((seed or 0, 1))
            return super().reset(seed=seed, options=options)

        def step(self, action: Any) -> Any:
            variant = self.variant
            if variant.wind and (
                variant.wind_on_ground or not any(leg.ground_contact for leg in self.legs)
            ):
                force = self.gusts.uniform(-variant.wind, variant.wind)
                body: Any = self.lander
                body.ApplyForceToCenter((force, 0.0), True)
            return super().step(action)

    return World


def _landing(world: Any) -> tuple[bool, bool, bool]:
    position = world.lander.position
    between = world.helipad_x1 <= position.x <= world.helipad_x2
    half = (world.helipad_x1 + world.helipad_x2) / 2  # of the screen, whose middle the pad is in
    crashed = bool(world.game_over) or abs(position.x / half - 1) >= 1
    return (
        not world.lander.awake,
        not crashed and between and all(leg.ground_contact for leg in world.legs),
        crashed,
    )
