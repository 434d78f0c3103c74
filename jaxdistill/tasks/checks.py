"""Whether a task keeps what a `Pool` promises, found out by playing it: for tasks of one's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxdistill.tasks.task import Pool, Step, Task
from jaxdistill.text import one_line

_FAR = 10_000  # a seed that shares none with its pool
_SEEDED = "all chance must come from the pool's seed, the environment and the game"


def check(task: Task, *, max_steps: int = 20, num_envs: int = 3, seed: int = 0) -> list[str]:
    """Plays a few short games of a task in several ways that must come to the same.

    Checked are the shapes and dtypes of all that a pool says; that the same seed and actions play
    alike; that environment i is that of the seed `seed + i` whatever is beside it; that a subset of
    rows steps as it would among all; that skipped games are as if they were played, where the pool
    `skips`; that games end at the step limit; that nothing handed out is written to later; and that
    a game can be filmed, as the end of every run does.

    Args:
      max_steps: step limit of the games; more of them find more.
      num_envs: of each pool, at least 2.

    Returns:
      What is no error and worth a look, a line each: such as that another seed changes nothing.

    Raises:
      ValueError: what is broken, where, and what was expected, in one line.
    """
    if num_envs < 2:
        raise ValueError(f"num_envs is {num_envs}, expected at least 2")
    _check_fields(task)
    max_steps = min(max_steps, task.max_steps)
    actions = _actions(task, 4 * max_steps + 4, num_envs, seed)

    def pool(seed: int = seed, count: int = num_envs) -> Pool:
        return task.pool(count, seed=seed, max_steps=max_steps)

    first = _Played(pool(), actions, max_steps)
    again = _Played(pool(), actions, max_steps)
    for at in range(len(first.steps)):
        if name := first.differs(again, at, at):
            raise ValueError(
                f"{task.name}: the same seed and actions play otherwise, {name} after {at} steps; "
                f"{_SEEDED}"
            )
    alone = _Played(pool(seed + 1, 1), actions[:, 1:2], max_steps)
    for at in range(len(first.steps)):
        if name := first.differs(alone, at, at, 1, 0):
            raise ValueError(
                f"{task.name}: environment 1 of seed {seed} is not environment 0 of seed "
                f"{seed + 1}, {name} after {at} steps; environment i must draw from seed + i"
            )
    _check_rows(task, pool(), first)
    if first.pool.skips:
        _check_skipped(task, pool(), first)
    _check_camera(task, first, seed, max_steps)
    return _remarks(first, _Played(pool(seed + _FAR), actions, max_steps))


class _Played:
    """A pool that has played `actions` `(T, N, ...)`, with all it said at T + 1 times."""

    def __init__(self, pool: Pool, actions: np.ndarray, max_steps: int):
        self.pool, self.actions = pool, actions
        self.steps: list[Step] = []
        self.states: list[np.ndarray] = []
        handed: list[Step] = []
        for at in range(len(actions) + 1):
            if at:
                pool.step(actions[at - 1])
            _check_said(pool, max_steps)
            handed.append(pool.last)
            self.steps.append(Step(*(x.copy() for x in pool.last)))
            self.states.append(np.array(pool.states))
        for at, (was, kept) in enumerate(zip(handed, self.steps, strict=True)):
            if name := _first_other(was, kept):
                raise ValueError(
                    f"{pool.task.name}: the {name} after {at} steps were written to by a later "
                    f"step; hand out arrays of their own"
                )

    def begins(self, game: int, row: int) -> int | None:
        """When an environment begins its game of that number; None if it does not."""
        begun = [0, *(at for at, x in enumerate(self.steps) if at and not x.valid[row])]
        return begun[game] if game < len(begun) else None

    def differs(
        self, other: _Played, at: int, when: int, row: int | slice = slice(None), own: int = 0
    ) -> str | None:
        """The first thing that another says otherwise, in all rows, or in its `own` of one."""
        there = row if isinstance(row, slice) else own
        mine, others = (
            Step(*(x[y] for x in step))
            for step, y in ((self.steps[at], row), (other.steps[when], there))
        )
        if name := _first_other(mine, others):
            return name
        alike = np.array_equal(self.states[at][row], other.states[when][there])
        return None if alike else "states"


def _first_other(one: Step, two: Step) -> str | None:
    for name, x, y in zip(Step._fields, one, two, strict=True):
        if not np.array_equal(x, y):
            return name
    return None


def _check_fields(task: Task) -> None:
    suite = task.suite
    if not task.actions or not set(task.actions) <= set(range(suite.num_actions)):
        raise ValueError(
            f"{task.name}: actions are {task.actions}, expected some of 0 to "
            f"{suite.num_actions - 1}, which are the suite's ({', '.join(suite.action_names)})"
        )
    if not set(task.facts) <= set(suite.facts) or not set(suite.counts) <= set(suite.facts):
        raise ValueError(
            f"{task.name}: facts are {task.facts} and the suite's counts {suite.counts}, expected "
            f"some of the suite's facts {suite.facts}"
        )


def _actions(task: Task, steps: int, num_envs: int, seed: int) -> np.ndarray:
    """Random valid ones, `(T, N)`, or `(T, N, A)` of keys and angles."""
    rng, form = np.random.default_rng(seed), task.suite.factored
    if form is None:
        return rng.choice(np.asarray(task.actions), (steps, num_envs))
    size = (steps, num_envs, form.size)
    keys, angles = rng.integers(0, 2, size), rng.uniform(-1, 1, size)
    return np.where(form.keys, keys, angles).astype(np.float32)


def _check_said(pool: Pool, max_steps: int) -> None:
    """What the pool says now, besides the shapes and numbers that it refuses itself."""
    name, last = pool.task.name, pool.last
    shape, states = (pool.num_envs,), pool.states
    if np.shape(states) != shape or np.asarray(states).dtype != np.uint32:
        raise ValueError(
            f"{name}: states are {np.shape(states)} of {np.asarray(states).dtype}, expected "
            f"{shape} of uint32"
        )
    facts = pool.facts
    if set(facts) != set(pool.task.suite.facts):
        raise ValueError(
            f"{name}: facts are {', '.join(facts) or 'none'}, expected those of its suite: "
            f"{', '.join(pool.task.suite.facts) or 'none'}"
        )
    for fact, values in facts.items():
        if np.shape(values) != shape:
            raise ValueError(f"{name}: fact {fact!r} is {np.shape(values)}, expected {shape}")
    if (long := (last.ages >= max_steps) & ~last.over).any():
        raise ValueError(
            f"{name}: a game of environment {np.flatnonzero(long)[0]} goes on after {max_steps} "
            f"steps; expected ended and truncated at the max_steps that the pool is given"
        )


def _check_rows(task: Task, pool: Pool, played: _Played) -> None:
    """Steps all but one environment, last first, and then that one."""
    others, steps = np.delete(np.arange(pool.num_envs), 1)[::-1], len(played.actions)
    for rows, done in ((others, others), (np.asarray([1]), np.arange(pool.num_envs))):
        for at in range(steps):
            pool.step(played.actions[at, rows], rows)
            _expect_rows(task, pool, played, rows, at + 1)
            left = np.delete(np.arange(pool.num_envs), done)
            _expect_rows(task, pool, played, left, 0)
            _expect_rows(task, pool, played, np.setdiff1d(done, rows), steps)


def _expect_rows(task: Task, pool: Pool, played: _Played, rows: np.ndarray, at: int) -> None:
    """They must be as in the pool whose environments all have made so many steps."""
    states = pool.states
    for row in rows:
        now, then = (Step(*(x[row] for x in step)) for step in (pool.last, played.steps[at]))
        name = _first_other(now, then)
        if not name and states[row] == played.states[at][row]:
            continue
        raise ValueError(
            f"{task.name}: where some environments step and others wait, the "
            f"{name or 'states'} of environment {row} after its {at} steps are not what they are "
            f"where all step; step `rows` alone, and give Played them"
        )


def _check_skipped(task: Task, pool: Pool, played: _Played) -> None:
    """The games after the first none, one or two, which were skipped, are as they were played."""
    counts = np.arange(pool.num_envs) % 3
    found = [played.begins(int(count), row) for row, count in enumerate(counts)]
    begun = np.asarray([at for at in found if at is not None])
    assert len(begun) == len(counts)  # there were steps for three games of the longest
    pool.skip(counts)
    rows = np.arange(pool.num_envs)
    for at in range(len(played.actions) + 1 - int(begun.max())):
        if at:
            pool.step(played.actions[begun + at - 1, rows])
        states = pool.states
        for row in rows:
            then = played.steps[begun[row] + at]
            names: Sequence[str] = ("observations", "over", "truncated", "lives", "scores", "ages")
            pairs = [(name, getattr(pool.last, name), getattr(then, name)) for name in names]
            pairs.append(("states", states, played.states[begun[row] + at]))
            for name, now, before in pairs:
                if not np.array_equal(now[row], before[row]):
                    raise ValueError(
                        f"{task.name}: game {counts[row]} of environment {row} is another where "
                        f"those before it are skipped, {name} after {at} steps of it; {_SEEDED}, "
                        f"or the pool must say skips = False"
                    )


def _check_camera(task: Task, played: _Played, seed: int, max_steps: int) -> None:
    """Films the first game of environment 0."""
    end = played.begins(1, 0)
    assert end is not None  # there were steps for three games of the longest
    handed, kept = list[np.ndarray](), list[np.ndarray]()
    try:
        camera = task.camera(seed=seed, max_steps=max_steps)
        for at in range(end):
            handed.append(camera.step(played.actions[at - 1, 0]) if at else camera.frame)
            kept.append(np.array(handed[-1]))
    except Exception as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(
            f"{task.name}: its camera fails after {len(kept)} frames ({reason}); every run shows a "
            f"game at its end"
        ) from error
    for at, (frame, was) in enumerate(zip(handed, kept, strict=True)):
        if was.dtype != np.uint8 or was.shape != (*kept[0].shape[:2], 3) or not was.size:
            raise ValueError(
                f"{task.name}: the camera's frame after {at} steps is {was.shape} of {was.dtype}, "
                f"expected (height, width, 3) of uint8, and all of one size"
            )
        if not np.array_equal(frame, was):
            raise ValueError(
                f"{task.name}: the camera's frame after {at} steps was written to by a later step; "
                f"hand out arrays of their own"
            )


def _remarks(played: _Played, other: _Played) -> list[str]:
    name, remarks = played.pool.task.name, []
    if not any(played.differs(other, at, at) for at in range(len(played.steps))):
        remarks.append(f"{name}: another seed plays no other game; is nothing drawn from it?")
    if all(np.array_equal(states, played.states[0]) for states in played.states):
        remarks.append(f"{name}: states never change; a run that goes on compares them")
    return remarks
