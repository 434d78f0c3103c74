"""LunarLander in four variants, stepped together: the tasks of the shared lander.

Gymnasium's environment with 8 numbers to see and 4 engines to fire, unchanged as `standard`. The
other variants are those of a public multi-task agent (`windy`, `heavy`), and one that mends the
first of them (`windy_air`): where the wind pushes a lander that stands on the ground, it never
comes to rest, so no episode ends well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill.tasks.envs import Step

NUM_ACTIONS = 4
OBSERVATION_SHAPE = (8,)


@dataclasses.dataclass(frozen=True)
class Lander:
    """One variant of LunarLander.

    Attributes:
      name: such as "lander/windy".
      gravity: in Box2D's units; Earth's is -10 here, as in gymnasium.
      wind: the largest horizontal force on the lander's centre of mass; each step draws one
        uniformly from -wind to wind.
      wind_on_ground: whether it also blows while a leg touches the ground.
      max_steps: step limit of one episode, as the multi-task agent was trained.
    """

    name: str
    gravity: float = -10.0
    wind: float = 0.0
    wind_on_ground: bool = False
    max_steps: int = 1000


STANDARD = Lander("lander/standard")
WINDY = Lander("lander/windy", wind=20.0, wind_on_ground=True, max_steps=400)
WINDY_AIR = Lander("lander/windy_air", wind=20.0, max_steps=400)
HEAVY = Lander("lander/heavy", gravity=-12.5, max_steps=800)
LANDERS = {lander.name: lander for lander in (STANDARD, WINDY, WINDY_AIR, HEAVY)}


@dataclasses.dataclass(frozen=True)
class Landing:
    """How episodes stand at a pool's last step, or ended with it; every array is `(N,)` bool.

    Attributes:
      at_rest: the lander stands still on the ground, which ends an episode well.
      on_pad: both legs touch the ground, between the flags.
      crashed: its body has touched the ground, or it has left the screen sideways.
    """

    at_rest: np.ndarray
    on_pad: np.ndarray
    crashed: np.ndarray


class LanderPool:
    """N environments of one variant, stepped one after another in this process.

    As a `Pool` of Atari games: the step after an episode's end ignores its action and begins the
    next one. Everything random, the wind too, comes from the pool's seed, so that the same variant,
    seed and actions give the same steps.
    """

    def __init__(
        self,
        lander: Lander,
        num_envs: int,
        *,
        seed: int,
        max_steps: int | None = None,
        render: bool = False,
    ):
        """Builds the pool and begins N episodes; environment i draws from `seed + i`.

        Args:
          max_steps: step limit of one episode; by default the variant's own.
          render: whether `screens` can be asked for.

        Raises:
          ValueError: a count below 1, or gymnasium's Box2D is not installed.
        """
        self.lander, self.num_envs, self.seed = lander, num_envs, seed
        max_steps = lander.max_steps if max_steps is None else max_steps
        for name, value in (("num_envs", num_envs), ("max_steps", max_steps)):
            if value < 1:
                raise ValueError(f"{lander.name}: {name} is {value}, expected at least 1")
        self._envs = _vector_env(lander, num_envs, max_steps, render)
        self._fresh, self._actions = True, np.zeros(num_envs, np.int64)
        observations, _ = self._envs.reset(seed=seed)
        nothing = np.zeros(num_envs, bool)
        self.last = Step(
            observations=observations,
            rewards=np.zeros(num_envs, np.float32),
            valid=nothing,
            over=nothing,
            truncated=nothing,
            lives=np.zeros(num_envs, np.int32),
            scores=np.zeros(num_envs),
            ages=np.zeros(num_envs, np.int32),
        )

    def send(self, actions: np.ndarray) -> None:
        """Takes the next step's actions, `(N,)` integers 0..3. Then `receive`.

        Raises:
          ValueError: a wrong shape, or an action there is not.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.num_envs,) or actions.dtype.kind not in "iu":
            raise ValueError(
                f"{self.lander.name}: expected {self.num_envs} integer actions, got "
                f"{actions.dtype} of shape {actions.shape}"
            )
        if (actions < 0).any() or (actions >= NUM_ACTIONS).any():
            raise ValueError(
                f"{self.lander.name}: actions {sorted(set(actions.tolist()))} are not all among 0 "
                f"(none), 1 (left engine), 2 (main engine) and 3 (right engine)"
            )
        self._actions = actions.astype(np.int64)

    def receive(self) -> Step:
        """Plays the step that `send` has begun."""
        self._fresh = False
        last = self.last
        observations, rewards, terminated, truncated, _ = self._envs.step(self._actions)
        valid = ~last.over
        rewards = np.where(valid, rewards, 0).astype(np.float32)
        self.last = Step(
            observations=observations,
            rewards=rewards,
            valid=valid,
            over=valid & (terminated | truncated),
            truncated=valid & truncated & ~terminated,
            lives=last.lives,
            scores=np.where(valid, last.scores, 0) + rewards,
            ages=np.where(valid, last.ages + 1, 0).astype(np.int32),
        )
        return self.last

    def step(self, actions: np.ndarray) -> Step:
        """Plays one step in all N environments; see `send` and `envs.Step`."""
        self.send(actions)
        return self.receive()

    def replay(self, actions: Sequence[np.ndarray] | np.ndarray) -> Step:
        """Plays recorded actions `(T, N)` from the start of this fresh pool.

        Raises:
          ValueError: this pool has already been stepped.
        """
        if not self._fresh:
            raise ValueError(f"{self.lander.name}: replay needs a fresh pool, this one has stepped")
        for row in actions:
            self.step(row)
        return self.last

    @property
    def landing(self) -> Landing:
        """How the episodes stand now; asked for after a step that ended some, how they ended."""
        worlds = [env.unwrapped for env in self._envs.envs]
        return Landing(*(np.array(facts) for facts in zip(*map(_landing, worlds), strict=True)))

    def screens(self) -> np.ndarray:
        """`(N, 400, 600, 3)` uint8, what a person would see; of a pool made with `render`."""
        return np.stack([env.render() for env in self._envs.envs])


def _vector_env(lander: Lander, num_envs: int, max_steps: int, render: bool) -> Any:
    # Imported here: Box2D is an extra, and only landers need it.
    try:
        import Box2D  # noqa: F401
        from gymnasium.envs.box2d import lunar_lander
        from gymnasium.vector import AutoresetMode, SyncVectorEnv
        from gymnasium.wrappers import TimeLimit
    except ImportError as error:
        raise ValueError(
            f"{lander.name} needs Box2D ({error}): pip install 'jaxdistill[lander]'"
        ) from error

    class World(lunar_lander.LunarLander):
        """One lander, with the variant's gravity and wind."""

        def __init__(self) -> None:
            super().__init__(render_mode="rgb_array" if render else None)
            # Not by the constructor, which refuses 12 and more; the world is built at each reset.
            self.gravity = lander.gravity

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            if seed is not None:
                # A generator of its own: the wind changes neither the ground nor the first push.
                self.gusts = np.random.default_rng((seed, 1))
            return super().reset(seed=seed, options=options)

        def step(self, action: Any) -> Any:
            on_ground = any(leg.ground_contact for leg in self.legs)
            if lander.wind and (lander.wind_on_ground or not on_ground):
                force = self.gusts.uniform(-lander.wind, lander.wind)
                body: Any = self.lander
                body.ApplyForceToCenter((force, 0.0), True)
            return super().step(action)

    return SyncVectorEnv(
        [lambda: TimeLimit(World(), max_steps)] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP
    )


def _landing(world: Any) -> tuple[bool, bool, bool]:
    position = world.lander.position
    between = world.helipad_x1 <= position.x <= world.helipad_x2
    half = (world.helipad_x1 + world.helipad_x2) / 2  # of the screen, whose middle the pad is in
    return (
        not world.lander.awake,
        between and all(leg.ground_contact for leg in world.legs),
        bool(world.game_over) or abs(position.x / half - 1) >= 1,
    )
