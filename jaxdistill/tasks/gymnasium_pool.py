"""Environments of Gymnasium as tasks: N of them stepped one after another, each episode seeded.

What is seen must come to one row of numbers, and an action must be one of several: CartPole,
Acrobot, MountainCar, a taxi, or what somebody has written. The landers are built on the same pool.
"""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdistill.tasks.actions import MOST_ACTIONS
from jaxdistill.tasks.task import Played, Pool, Suite, Task
from jaxdistill.tasks.views import MAX_SIZE, AnyShown, Vector
from jaxdistill.text import one_line

Make = Callable[..., Any]
"""Makes a `gymnasium.Env`; the keyword `render_mode` is given where it is to be filmed."""

_EPISODE = 1  # what chance within a pool is for


@dataclasses.dataclass(frozen=True)
class GymnasiumTask(Task):
    """An environment of Gymnasium; see `gymnasium_task`, which looks at its spaces.

    Attributes:
      make: makes one.
      size: numbers that are seen of it.
      speed: steps in one second.
      drawn: it makes pictures of itself. Where it does not, the numbers are filmed.
    """

    make: Make = dataclasses.field(kw_only=True)
    size: int = dataclasses.field(kw_only=True)
    speed: int = 30
    drawn: bool = True

    @property
    def suite(self) -> Suite:
        """Of what is named alike before the last "/", seen in as many numbers and acted on alike.

        One student can learn the tasks of a suite together.
        """
        name = self.name.rpartition("/")[0] or self.name
        return _suite(name, len(self.actions), self.size, self.speed)

    def pool(
        self,
        num_envs: int,
        *,
        seed: int,
        view: AnyShown | None = None,
        max_steps: int | None = None,
        threads: int | None = None,
    ) -> GymnasiumPool:
        """See `GymnasiumPool`; it has one thread."""
        del threads
        limit, make = self._limited(max_steps)
        made = functools.partial(_made, make)
        return GymnasiumPool(self, made, num_envs, seed=seed, view=view, max_steps=limit)

    def camera(self, *, seed: int, max_steps: int | None = None) -> GymnasiumCamera:
        """See `GymnasiumCamera`."""
        limit, make = self._limited(max_steps)
        options = {"render_mode": "rgb_array"} if self.drawn else {}
        made = functools.partial(_made, make, **options)
        pool = GymnasiumPool(self, made, 1, seed=seed, max_steps=limit)
        return GymnasiumCamera(pool, _screen if self.drawn else _bars)

    def _limited(self, max_steps: int | None) -> tuple[int, Make]:
        """The step limit of one episode, and what makes an environment that plays so long."""
        limit = self.max_steps if max_steps is None else max_steps
        if isinstance(self.make, Registered):
            return limit, dataclasses.replace(self.make, max_steps=limit)
        return limit, self.make


@dataclasses.dataclass(frozen=True)
class Registered:
    """Makes an environment that Gymnasium knows by its id.

    Attributes:
      id: such as "CartPole-v1".
      made_by: its class, or the function that makes it, by whose file the task is known.
      max_steps: step limit of one episode; None is that of its registration.
    """

    id: str
    made_by: Any
    max_steps: int | None

    def __call__(self, **options: Any) -> Any:
        """Makes one; `options` are those of `gymnasium.make`, such as `render_mode`."""
        import gymnasium

        return gymnasium.make(self.id, self.max_steps, disable_env_checker=True, **options)


@functools.cache
def _suite(name: str, num_actions: int, size: int, speed: int) -> Suite:
    names = tuple(f"ACTION_{i}" for i in range(num_actions))
    # Suites are told from one another by their names alone.
    name = f"{name} ({size} numbers, {num_actions} actions)"
    return Suite(name, names, Vector(size), "float32", frames_per_second=speed, opening_steps=0)


def gymnasium_task(name: str, make: str | Make, *, max_steps: int | None = None) -> GymnasiumTask:
    """An environment of Gymnasium as a task, to be given to `tasks.add`.

    One is made to look at what it shows and takes. What it shows is seen as one row of numbers
    (`gymnasium.spaces.flatten`); a screen is refused, being too many.

    Args:
      name: such as "cartpole/short". Tasks that are named alike before the last "/" can be learnt
        by one student, if as many numbers are seen of them and they have as many actions.
      make: the id of an environment that is registered, such as "CartPole-v1"; or what makes one:
        a function, or a `functools.partial` of one, that takes `render_mode`.
      max_steps: step limit of one episode; by default that of its registration.

    Raises:
      ValueError: Gymnasium is not installed, there is no such environment, it cannot be seen in
        numbers or filmed, an action is not one of several from 0 on, or no step limit is known.
    """
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"{name}: max_steps is {max_steps}, expected at least 1")
    if isinstance(make, str):
        make = _registered(make, max_steps)
    try:
        world = make()
        seen, acted = world.observation_space, world.action_space
        own_limit = _own_limit(world)
        speed = world.metadata.get("render_fps") or GymnasiumTask.speed
        drawn = "rgb_array" in world.metadata.get("render_modes", ())
        size = _size(seen)
        world.close()
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{name}: cannot be made ({reason})") from error
    if not 0 < size <= MAX_SIZE:
        raise ValueError(
            f"{name}: shows {one_line(str(seen), 80)}, expected what comes to a row of at most "
            f"{MAX_SIZE} numbers; wrap the environment"
        )
    actions = _actions(acted)
    if not 0 < actions <= MOST_ACTIONS:
        raise ValueError(
            f"{name}: acts in {one_line(str(acted), 80)}, expected Discrete, from 0 on, of at most "
            f"{MOST_ACTIONS} actions; wrap the environment"
        )
    limit = max_steps or own_limit
    if not limit:
        raise ValueError(f"{name}: has no step limit of its own; give max_steps")
    _check_limit(name, limit, own_limit)
    task = GymnasiumTask(
        name,
        tuple(range(actions)),
        int(limit),
        make=make,
        size=size,
        speed=max(1, round(speed)),
        drawn=drawn,
    )
    try:
        task.camera(seed=0)  # every run films a game at its end
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{name}: cannot be filmed ({reason})") from error
    return task


def _registered(id: str, max_steps: int | None) -> Registered:
    """What makes a registered environment."""
    try:
        import gymnasium
        from gymnasium.envs.registration import load_env_creator
    except ImportError as error:
        raise ValueError(
            f"{id} needs Gymnasium ({error}): pip install 'jaxdistill[gymnasium]'"
        ) from error
    try:
        entry = gymnasium.spec(id).entry_point
        made_by = load_env_creator(entry) if isinstance(entry, str) else entry
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{id} cannot be made ({reason})") from error
    return Registered(id, made_by, max_steps)


def _own_limit(world: Any) -> int | None:
    """The step limit of one episode that an environment says it was made with."""
    return getattr(getattr(world, "spec", None), "max_episode_steps", None)


def _check_limit(name: str, limit: int, own: int | None) -> None:
    """Refuses a step limit that an environment would end before."""
    if own and limit > own:
        raise ValueError(
            f"{name}: max_steps is {limit}, and the environment is made to end after {own}; make "
            f"it with a limit as high, or name it by its id"
        )


def _size(space: Any) -> int:
    """How many numbers it comes to; 0 where it does not."""
    from gymnasium import spaces

    return int(spaces.flatdim(space)) if space.is_np_flattenable else 0


def _actions(space: Any) -> int:
    """How many actions there are, of which one is taken, from 0 on; 0 where it is not so."""
    from gymnasium import spaces

    return int(space.n) if isinstance(space, spaces.Discrete) and space.start == 0 else 0


def _made(make: Make, **options: Any) -> Any:
    """One environment, which shows a row of numbers."""
    from gymnasium import spaces, wrappers

    world = make(**options)
    space = world.observation_space
    row = isinstance(space, spaces.Box) and len(space.shape) == 1
    return world if row else wrappers.FlattenObservation(world)


class GymnasiumPool(Pool):
    """N environments of one task, stepped one after another in this process.

    The k-th episode of environment i has a seed of its own, drawn from the pool's seed, i and k,
    which is given to its `reset`: all its chance must come from there.
    """

    def __init__(
        self,
        task: Task,
        make: Callable[[], Any],
        num_envs: int,
        *,
        seed: int,
        view: AnyShown | None = None,
        max_steps: int,
    ):
        """Builds the pool and begins N episodes.

        Args:
          make: makes an environment that shows one row of float32.
          max_steps: step limit of one episode.

        Raises:
          ValueError: a count below 1, a view of something else than the suite's numbers, or the
            environment says that it ends sooner.
        """
        super().__init__(task, num_envs, view, max_steps)
        usual = task.suite.view
        if self.view != usual:
            raise ValueError(f"{task.name} shows {usual}, not {self.view}")
        self._seed, self._max_steps = seed, max_steps
        self._worlds = [make() for _ in range(num_envs)]
        _check_limit(task.name, max_steps, _own_limit(self._worlds[0]))
        self._episodes = np.full(num_envs, -1)
        self._lengths = np.zeros(num_envs, int)
        self._actions = np.zeros(0, int)
        self._begin(np.stack([self._reset(i) for i in range(num_envs)]), np.zeros(num_envs))

    def _reset(self, index: int) -> np.ndarray:
        """Begins the next episode of an environment; returns its first observation."""
        self._episodes[index] += 1
        self._lengths[index] = 0
        words = (self._seed + index, _EPISODE, int(self._episodes[index]))
        seed = int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)
        return self._seen(self._worlds[index].reset(seed=seed)[0], "reset")

    def _seen(self, shown: Any, by: str) -> np.ndarray:
        """An observation that `reset` or `step` has returned; NumPy would stretch a shorter one."""
        with np.errstate(over="ignore"):  # what becomes infinite is refused by the pool
            seen = np.asarray(shown, np.float32)
        if seen.shape != self.view.shape[1:]:
            raise ValueError(
                f"{self.task.name}: {by} shows {seen.shape}, expected {self.view.shape[1:]} as its "
                f"observation_space says"
            )
        return seen[None]

    @property
    def states(self) -> np.ndarray:
        """`(N,)` uint32, a checksum of what is seen of each episode and how long it is."""
        rows = zip(self.last.observations, self._lengths.tolist(), strict=True)
        return np.asarray([zlib.crc32(seen.tobytes(), steps) for seen, steps in rows], np.uint32)

    def skip(self, counts: np.ndarray) -> None:
        """Begins the episode after the first `counts[i]` in environment i of this fresh pool."""
        rows = np.flatnonzero(counts)
        if len(rows):
            self._episodes[rows] = counts[rows] - 1
            self._begin(np.stack([self._reset(int(i)) for i in rows]), np.zeros(len(rows)), rows)

    def screens(self) -> np.ndarray:
        """`(N, H, W, 3)` uint8, what a person would see; of environments made to be filmed."""
        return np.stack([world.render() for world in self._worlds])

    def _send(self, actions: np.ndarray, rows: np.ndarray | None) -> None:
        del rows
        self._actions = actions

    def _receive(self) -> Played:
        rows = range(self.num_envs) if self._sent is None else self._sent
        count = len(rows)
        observations = np.empty((count, *self.view.shape), np.float32)
        rewards, ended = np.zeros(count), np.zeros(count, bool)
        truncated = np.zeros(count, bool)
        for at, (index, action) in enumerate(zip(rows, self._actions.tolist(), strict=True)):
            if self.last.over[index]:
                observations[at] = self._reset(int(index))
                continue
            seen, reward, terminated, cut, _ = self._worlds[index].step(action)
            self._lengths[index] += 1
            observations[at], rewards[at] = self._seen(seen, "step"), reward
            truncated[at] = not terminated and (cut or self._lengths[index] >= self._max_steps)
            ended[at] = terminated or truncated[at]
        return Played(observations, rewards, np.zeros(count), ended, truncated, self._sent)


class GymnasiumCamera:
    """One environment as people see it: given a pool's seed and actions, the same episode.

    Attributes:
      frame: `(H, W, 3)` uint8, what is shown now.
    """

    def __init__(self, pool: GymnasiumPool, shown: Callable[[GymnasiumPool], np.ndarray]):
        """Films a pool of one environment; `shown` makes a new picture of it."""
        self._pool, self._shown = pool, shown
        self.frame = shown(pool)

    def step(self, action: int) -> np.ndarray:
        """Plays one action; returns the new `frame`."""
        self._pool.step(np.asarray([action]))
        self.frame = self._shown(self._pool)
        return self.frame


def _screen(pool: GymnasiumPool) -> np.ndarray:
    """The screen at 300 pixels a side or less: clips hold hundreds."""
    frame = pool.screens()[0]
    n = -(-max(frame.shape[:2]) // 300)
    return frame[::n, ::n].copy()  # some draw into the same array again


def _bars(pool: GymnasiumPool) -> np.ndarray:
    """The first 32 numbers that are seen, a bar each, to the left of the middle or to the right."""
    numbers = pool.last.observations[0, 0, :32]
    lengths = np.rint(64 * numbers / (1 + np.abs(numbers))).astype(int)
    frame = np.zeros((8 * len(numbers), 128, 3), np.uint8)
    for at, length in enumerate(lengths.tolist()):
        frame[8 * at + 1 : 8 * at + 7, min(64, 64 + length) : max(65, 64 + length)] = 255
    return frame
