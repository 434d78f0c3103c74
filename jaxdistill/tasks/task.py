"""What a task is, and the one door to its environments.

A *task* is one thing that is played for a score: a game of Atari, a variant of a lander. Tasks that
one student can share form a *suite*: they have the same actions and the same form of observation.
A *pool* is N environments of one task, stepped together. Nothing above this room knows what runs
behind a pool.

Pools begin a new game on the step *after* one ends: that step ignores its action and returns the
first observation of the next game with reward 0. `Step.valid` is False exactly there, so whoever
counts rewards, trains on transitions or stores frames asks `valid` and nothing else.
"""

from __future__ import annotations

import abc
import dataclasses
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from jaxdistill.tasks.actions import Discrete, Factored, Form
from jaxdistill.tasks.views import AnyShown, AnyView, Vector, shown

FRAME_DTYPES = ("uint8", "float32")
"""Of frames that a dataset holds."""


@dataclasses.dataclass(frozen=True)
class Suite:
    """Tasks that one student can share.

    What outputs cannot mean is refused with a ValueError, such as one action of more than 256.

    Attributes:
      name: such as "atari".
      action_names: what each of the A actions is called, or each of the A keys and angles that one
        action is made of; a network has an output for each.
      view: what pools show where an expert does not say.
      frame_dtype: of the numbers in one frame, one of `FRAME_DTYPES`; "uint8" means pixels.
      frames_per_second: steps in one second, at the tasks' own speed.
      opening_steps: random steps before a measured policy takes over a game, unless a run says
        otherwise: as many as it takes for starts to differ.
      epsilon: chance of a random action of a measured policy, unless it is said.
      facts: names of what pools say of games besides scores, see `Pool.facts`. Their means are
        shares of games, steps or tries.
      counts: those of the facts that are numbers per game instead.
      kinds: of each output "key" or "angle", where an action is several of them at once; None is
        one action of several.
      views: parts of what pools show, by name, for students to see; the first is what they see
        where a run does not say. Empty is all that is shown.
      pool_size: environments in one pool of an evaluation, at most. Few, where an environment that
        has finished is stepped in vain; many, where stepping one costs as much as stepping all.
      reward_limit: rewards are clipped to so much on both sides where they are learnt from, unless
        it is said; 0 leaves them as they are.
    """

    name: str
    action_names: tuple[str, ...]
    view: AnyView
    frame_dtype: str
    frames_per_second: int
    opening_steps: int
    epsilon: float = 0.0
    facts: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    kinds: tuple[str, ...] | None = None
    views: tuple[tuple[str, AnyView], ...] = ()
    pool_size: int = 4
    reward_limit: float = 0.0

    def __post_init__(self) -> None:
        if self.frame_dtype not in FRAME_DTYPES:
            raise ValueError(
                f"suite {self.name}: frame_dtype is {self.frame_dtype!r}, expected one of "
                f"{', '.join(FRAME_DTYPES)}"
            )
        try:
            _ = self.form
        except ValueError as error:
            raise ValueError(f"suite {self.name}: {error}") from None

    @property
    def form(self) -> Form:
        """What outputs mean."""
        return self.factored or Discrete(self.num_actions)

    @property
    def factored(self) -> Factored | None:
        """`form`, where actions are keys and angles."""
        return None if self.kinds is None else Factored(self.kinds)

    @property
    def num_actions(self) -> int:
        """A."""
        return len(self.action_names)


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """One thing that is played for a score.

    Attributes:
      name: such as "pong" or "lander/windy".
      actions: the valid ones among the suite's; of keys and angles those that count.
      max_steps: step limit of one game.
      random_score: published score of uniformly random play, None where there is none.
      human_score: published score of a human tester, None where there is none.
    """

    name: str
    actions: tuple[int, ...]
    max_steps: int
    random_score: float | None = None
    human_score: float | None = None

    @property
    @abc.abstractmethod
    def suite(self) -> Suite:
        """What it belongs to; in most a constant of the class."""

    @property
    def number(self) -> int:
        """A number of its own, by its name: what is random in it begins from there in every run."""
        return zlib.crc32(self.name.encode())

    @property
    def view(self) -> AnyView:
        """What one who learns this task alone sees of what pools show."""
        return self.suite.view

    @property
    def frames_per_step(self) -> int:
        """Of the emulator, where there is one."""
        return 1

    @property
    def frames_per_second(self) -> int:
        """Steps in one second, at the task's own speed."""
        return self.suite.frames_per_second

    @property
    def variant_fields(self) -> Mapping[str, Any]:
        """Plain JSON values that tell this from other tasks of its name; most have none."""
        return {}

    def shown(self, seen: Sequence[AnyShown]) -> AnyShown:
        """What its pools show so that each of several views is seen of it; see `views.shown`."""
        return shown(seen, self.frames_per_step)

    @property
    def facts(self) -> tuple[str, ...]:
        """Those of the suite's that say something of this task."""
        return self.suite.facts

    @property
    def seen(self) -> np.ndarray | None:
        """`(D,)` bool, which of the numbers that a student sees an expert of this task can know of.

        They are those of the first of the suite's `views`. None is all of them. What an expert
        does, and so what it teaches, cannot depend on others.
        """
        return None

    def limited(self, outputs: jax.Array) -> jax.Array:
        """Outputs `(..., A)` of an expert of this task, cut to what the task allows."""
        return outputs

    @property
    def mask(self) -> np.ndarray:
        """A new bool array of shape (A,), true where the action is valid."""
        mask = np.zeros(self.suite.num_actions, dtype=bool)
        mask[list(self.actions)] = True
        return mask

    def as_published(self, max_steps: int | None = None) -> bool:
        """Whether its games are such as `random_score` and `human_score` are of: not cut sooner.

        Args:
          max_steps: step limit of one game; by default the task's.
        """
        return (max_steps or self.max_steps) >= self.max_steps

    def human_normalised(self, score: float, max_steps: int | None = None) -> float | None:
        """`(score - random) / (human - random)`: 0 is random play, 1 the human tester.

        Args:
          score: undiscounted, unclipped return of whole games.
          max_steps: step limit of one game; by default the task's.

        Returns:
          The normalised score, or None where no reference scores are published of such games; see
          `as_published`.
        """
        if self.random_score is None or self.human_score is None:
            return None
        if not self.as_published(max_steps):
            return None
        return (score - self.random_score) / (self.human_score - self.random_score)

    def require(self) -> None:  # noqa: B027 - most need nothing
        """Raises ValueError if it cannot be played here, as where something is not installed."""

    @abc.abstractmethod
    def pool(
        self,
        num_envs: int,
        *,
        seed: int,
        view: AnyShown | None = None,
        max_steps: int | None = None,
        threads: int | None = None,
    ) -> Pool:
        """N environments that have just begun.

        Args:
          seed: of all chance. Environment i draws from `seed + i`: keep seeds of two pools at
            least N apart.
          view: what is to be seen; by default the suite's.
          max_steps: step limit of one game; by default the task's.
          threads: that step them, where they can be shared among several.

        Raises:
          ValueError: a count below 1, or a view that the pool cannot make.
        """

    @abc.abstractmethod
    def camera(self, *, seed: int, max_steps: int | None = None) -> Camera:
        """What a person would see of the game that a pool of one environment plays."""


def unusual_limit(limit: int | None, played: Iterable[Task]) -> int | None:
    """The step limit of one game, where it is not each task's own; else None."""
    return limit if any(limit != task.max_steps for task in played) else None


class Camera(Protocol):
    """One environment as people see it: given a pool's seed and actions, the same game.

    Attributes:
      frame: `(H, W, 3)` uint8, the screen now.
    """

    frame: np.ndarray

    def step(self, action: Any) -> np.ndarray:
        """Plays one action, an index or all keys and angles; returns the new `frame`."""
        ...


class Step(NamedTuple):
    """What a pool says after `step`; every array has leading axis N.

    Attributes:
      observations: `(N, stack, *frame)` of the suite's dtype, what the next action answers.
      rewards: `(N,)` float32, unclipped, of the action just played.
      valid: `(N,)` bool, the action was played; False where the pool began a new game instead.
      over: `(N,)` bool, the whole game (all lives, or the step limit) ended with this step. The
        action given next for such a row is ignored.
      truncated: `(N,)` bool, the game was cut by the step limit and did not end by itself.
      lives: `(N,)` int32 lives left, 0 for games without lives.
      scores: `(N,)` float64, undiscounted unclipped return of the game so far.
      ages: `(N,)` int32, steps since the game's first observation (0 on that observation).
    """

    observations: np.ndarray
    rewards: np.ndarray
    valid: np.ndarray
    over: np.ndarray
    truncated: np.ndarray
    lives: np.ndarray
    scores: np.ndarray
    ages: np.ndarray


class Played(NamedTuple):
    """What environments say of one step, before anything is counted; leading axis K.

    Attributes:
      observations, rewards, lives: as in `Step`. Where an environment began a game instead of
        playing, its reward may be anything.
      ended: `(K,)` bool, the game is over, by itself or cut.
      truncated: `(K,)` bool, it was cut; read only where `ended`.
      rows: `(K,)`, the environments they are of, where not all N have stepped in their order.
    """

    observations: np.ndarray
    rewards: np.ndarray
    lives: np.ndarray
    ended: np.ndarray
    truncated: np.ndarray
    rows: np.ndarray | None = None


class Pool(abc.ABC):
    """N environments of one task, stepped together.

    A pool is reproducible: the same task, view, seed and actions give the same steps. That is how a
    killed run resumes in the middle of games: see `skip`.

    Attributes:
      task: what is played.
      num_envs: N.
      view: what is shown.
      skips: games that are over may be skipped; see `skip`.
      partial: a step of some of its environments takes less than one of all.
      last: what the last step said, or how the first games begin.
    """

    task: Task
    num_envs: int
    view: AnyShown
    skips: bool = True
    partial: bool = True
    last: Step

    def __init__(self, task: Task, num_envs: int, view: AnyShown | None, max_steps: int):
        """For subclasses, which then `begin` their games.

        Raises:
          ValueError: a count below 1, or a view of another kind than the task's suite shows.
        """
        for name, value in (("num_envs", num_envs), ("max_steps", max_steps)):
            if value < 1:
                raise ValueError(f"{task.name}: {name} is {value}, expected at least 1")
        view, usual = view or task.suite.view, task.suite.view
        if isinstance(view, Vector) != isinstance(usual, Vector):
            raise ValueError(f"{task.name} shows {usual}, not {view}")
        self.task, self.num_envs, self.view = task, num_envs, task.shown([view])
        self._sent: np.ndarray | None = None  # those stepping now, None for all
        self._shape, self._dtype = self.view.shape, np.dtype(task.suite.frame_dtype)

    @abc.abstractmethod
    def _send(self, actions: np.ndarray, rows: np.ndarray | None) -> None:
        """Starts one step of valid `actions`, of all environments or of `rows`."""

    @abc.abstractmethod
    def _receive(self) -> Played:
        """Waits for the step begun by `_send`."""

    @abc.abstractmethod
    def skip(self, counts: np.ndarray) -> None:
        """Begins the game after the first `counts[i]` in environment i of this fresh pool.

        Where `skips`, chance enters a pool only where a game begins, or comes from a generator that
        is seeded there: the k-th game is alike whether those before were played or not, unless a
        game's program does not forget them. So compare `states` with what they were.
        """

    @property
    @abc.abstractmethod
    def states(self) -> np.ndarray:
        """`(N,)` uint32, a checksum of each environment's state as it is now."""

    @property
    def facts(self) -> Mapping[str, np.ndarray]:
        """`(N,)` numbers by name: what there is to say of the games as they stand, besides scores.

        Asked for after a step that ended some, how they ended. The names are the suite's.
        """
        return {}

    def send(self, actions: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Starts one step; `actions`, `(N,)` or `(N, A)`, are the suite's. Then `receive`.

        Args:
          rows: `(K,)`, the environments that step, if not all do, each once and in any order;
            `actions` are theirs.

        Raises:
          ValueError: a wrong shape, an action this task does not have, or rows that are none.
        """
        actions = np.asarray(actions)
        if rows is not None:
            rows = np.asarray(rows)
            self._check_rows(rows)
        expected = self.num_envs if rows is None else len(rows)
        if problem := self.task.suite.form.problem(actions, expected, self.task.mask):
            names = self.task.suite.action_names
            valid = ", ".join(f"{i} ({names[i]})" for i in self.task.actions)
            raise ValueError(f"{self.task.name}: {problem}: {valid}")
        self._sent = None if rows is None else rows.astype(np.int32)
        self._send(actions, self._sent)

    def receive(self) -> Step:
        """Waits for the step begun by `send`; environments that do not step are as they were.

        Raises:
          ValueError: the pool says something of another shape or dtype than it has to, or of games
            that are played what is NaN or infinite.
        """
        played, last = self._receive(), self.last
        self._check_shapes(*played)
        if played.rows is not None:
            last = Step(*(x[played.rows] for x in last))
        valid = ~last.over
        over = valid & played.ended
        with np.errstate(over="ignore"):  # what is infinite then is refused
            rewards = np.where(valid, played.rewards, 0).astype(np.float32)
        self._check_finite("rewards", rewards)
        step = Step(
            observations=played.observations,
            rewards=rewards,
            valid=valid,
            over=over,
            truncated=over & played.truncated,
            lives=np.asarray(played.lives, np.int32),
            scores=np.where(valid, last.scores, 0) + rewards,
            ages=np.where(valid, last.ages + 1, 0).astype(np.int32),
        )
        self.last = step if played.rows is None else self._merged(step, played.rows)
        return self.last

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> Step:
        """Plays one step; see `send` and `Step`."""
        self.send(actions, rows)
        return self.receive()

    def _check_rows(self, rows: np.ndarray) -> None:
        """Refuses what are no environments of this pool: an emulator would crash by them."""
        if rows.ndim != 1 or rows.dtype.kind not in "iu":
            problem = f"{rows.dtype} of shape {rows.shape}"
        elif ((rows < 0) | (rows >= self.num_envs)).any() or len(np.unique(rows)) < len(rows):
            problem = f"{rows.tolist()}"
        else:
            return
        raise ValueError(
            f"{self.task.name}: rows are {problem}, expected indices of environments from 0 to "
            f"{self.num_envs - 1}, each once"
        )

    def _begin(
        self, observations: np.ndarray, lives: np.ndarray, rows: np.ndarray | None = None
    ) -> None:
        """Takes note of games that have just begun, in all environments or in `rows`."""
        self._check_shapes(observations, lives=lives, rows=rows)
        nothing, zeros = np.zeros(len(lives), bool), np.zeros(len(lives), np.int32)
        begun = Step(
            observations=observations,
            rewards=np.zeros(len(lives), np.float32),
            valid=nothing,
            over=nothing,
            truncated=nothing,
            lives=np.asarray(lives, np.int32),
            scores=np.zeros(len(lives)),
            ages=zeros,
        )
        self.last = begun if rows is None else self._merged(begun, rows)

    def _check_shapes(
        self,
        observations: np.ndarray,
        rewards: np.ndarray | None = None,
        lives: np.ndarray | None = None,
        ended: np.ndarray | None = None,
        truncated: np.ndarray | None = None,
        rows: np.ndarray | None = None,
    ) -> None:
        """Refuses what a pool of somebody's own says otherwise: it would fail much later."""
        count = self.num_envs if rows is None else len(rows)
        wanted, found = (count, *self._shape), np.shape(observations)
        dtype = getattr(observations, "dtype", None)
        missing = ""
        if rows is None and self._sent is not None:
            missing = "; give Played the rows that have stepped"
        if found != wanted or dtype != self._dtype:
            raise ValueError(
                f"{self.task.name}: observations are {found} of {dtype}, expected {wanted} of "
                f"{self._dtype}: environments, then what the view says{missing}"
            )
        said = {"rewards": rewards, "lives": lives, "ended": ended, "truncated": truncated}
        for name, value in said.items():
            if value is not None and np.shape(value) != (count,):
                raise ValueError(
                    f"{self.task.name}: {name} are {np.shape(value)}, expected ({count},){missing}"
                )
        # Of 0 and 1, `~` makes -1 and -2, which are both true: no game would begin anew.
        for name, value in (("ended", ended), ("truncated", truncated)):
            if value is not None and np.asarray(value).dtype != bool:
                raise ValueError(
                    f"{self.task.name}: {name} are {np.asarray(value).dtype}, expected bool"
                )
        if self._dtype.kind == "f":
            self._check_finite("observations", observations)

    def _check_finite(self, name: str, numbers: np.ndarray) -> None:
        """Refuses what would be blamed on an expert or a learning rate, or lose a run's result."""
        if not np.isfinite(numbers).all():
            raise ValueError(
                f"{self.task.name}: {name} are NaN or infinite; its environment must give numbers "
                f"that float32 holds"
            )

    def _merged(self, step: Step, rows: np.ndarray) -> Step:
        """`last` with the environments `rows` of `step`, in new arrays."""
        return Step(*(merged(old, new, rows) for old, new in zip(self.last, step, strict=True)))


def merged(old: np.ndarray, new: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """A copy of `old` with `new` in its `rows`: what was handed out is never written to."""
    old = old.copy()
    old[rows] = new
    return old


def seed_for(*words: int) -> int:
    """A pool seed drawn from `words` (run seed, purpose, game, ...).

    Different words give seeds far apart, so the N consecutive seeds of two pools do not meet.
    """
    # With their number first: without it (1,) and (1, 0, 0) would be the same.
    return int(np.random.SeedSequence((len(words), *words)).generate_state(1)[0] % (2**31 - 2**16))
