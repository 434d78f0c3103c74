"""Playing: many pools, one jitted policy call for all of them.

Collection, evaluation and Q-learning all stand on `play`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdistill import meshes, networks
from jaxdistill.experts.expert import Teacher, expert_outputs
from jaxdistill.play.memory import Memory
from jaxdistill.tasks.actions import Choices
from jaxdistill.tasks.task import Pool, Step
from jaxdistill.tasks.views import AnyView, Screen, Shown

Observations = tuple[Any, ...]
"""What is shown per task: an `(N, stack, *frame)` array, or `Shown` of a screen."""

Seats = tuple[np.ndarray, ...]
"""One `(N,)` int32 array per task: the number that each row has among all rows of its task."""

Policy = Callable[
    [Observations, jax.Array, tuple[int, ...], Seats],
    tuple[tuple[jax.Array | np.ndarray, ...], Sequence[Any] | None],
]
"""`policy(observations, key, indices, seats)` -> (one array of N actions per task, and None
or anything extra per task).

`indices[i]` is the task index of `observations[i]`. A call may hold only some tasks: an evaluation
drops those that are finished, and on accelerators half of them step while the other half is on the
device. What is chosen for one row must not depend on which others are asked for with it: random
draws are by `seats`, so that they are the same in one process and in several.

Policies are asked by `ask`: one that is `Recurrent` has to be told more."""


class Recurrent:
    """Experts with recurrent ones among them, as a policy: asked for every step of its games."""

    def __init__(
        self,
        experts: Sequence[Teacher],
        act: Callable[..., Any],
        params: Sequence[Any],
    ):
        """`act` is `expert_actor`'s, with what recurrent experts say behind its other arguments."""
        self._params = params
        self._experts, self._act, self._memory = experts, act, Memory(experts)

    def by(self, params: Sequence[Any] | None = None) -> Recurrent:
        """The same experts before their games, with other parameters; nothing is compiled anew.

        By default with those that they have.
        """
        return Recurrent(self._experts, self._act, self._params if params is None else params)

    def answer(
        self,
        observations: Observations,
        key: jax.Array,
        indices: tuple[int, ...],
        seats: Seats,
        ages: Sequence[np.ndarray],
    ) -> tuple[tuple[jax.Array, ...], Sequence[Any]]:
        """As a `Policy` does.

        Args:
          ages: `(N,)` per task, steps since the games began, of the rows that are no padding.
        """
        said = self._memory.outputs(self._params, observations, indices, seats, ages)
        return self._act(self._params, observations, key, indices, seats, said)


def on_devices(experts: Sequence[Teacher], mesh: Mesh | None) -> list[Any]:
    """The experts' parameters, sent once and not at every step.

    To all devices of this process that the mesh has; or where there is none, to the default one.
    """
    params = [expert.params for expert in experts]
    where = None if mesh is None else meshes.replicated(meshes.local(mesh))
    return jax.device_put(params, where)


AnyPolicy = Policy | Recurrent

fold_in = jax.jit(jax.random.fold_in)
"""Compiled, since it is called at every step that is played."""


def ask(
    policy: AnyPolicy,
    observations: Observations,
    key: jax.Array,
    indices: tuple[int, ...],
    seats: Seats,
    ages: Sequence[np.ndarray],
) -> tuple[tuple[jax.Array | np.ndarray, ...], Sequence[Any] | None]:
    """What a policy answers, whether it is told `ages` or not; see `Recurrent.answer`."""
    if isinstance(policy, Recurrent):
        return policy.answer(observations, key, indices, seats, ages)
    return policy(observations, key, indices, seats)


class Turn(NamedTuple):
    """One step of every pool: what was seen, what was done, what came of it.

    `observations` and `extra` (empty if the policy said nothing more) are per task, in the order of
    the tasks; the others per pool.
    """

    observations: Observations
    actions: tuple[np.ndarray, ...]
    extra: tuple[Any, ...]
    steps: tuple[Step, ...]


def network_actor(
    network: networks.Network,
    choices: Choices,
    *,
    epsilon: float,
    views: Sequence[AnyView] | None = None,
) -> Callable[..., tuple[tuple[jax.Array, ...], None]]:
    """One network for all tasks: `act(params, observations, key, indices, seats)`; bind `params`.

    Args:
      epsilon: chance of a uniformly random valid action.
      views: what it sees of what the pools of each task show; None is all.
    """

    @functools.partial(jax.jit, static_argnums=3)
    def act(
        params: Any,
        observations: Observations,
        key: jax.Array,
        indices: tuple[int, ...],
        seats: Seats,
    ):
        sizes = [len(seat) for seat in seats]
        rows = np.repeat(np.asarray(indices), sizes)
        seen = observations
        if views is not None:
            seen = tuple(
                views[index].see(x) for index, x in zip(indices, observations, strict=True)
            )
        outputs = networks.forward(network, params, jnp.concatenate(seen), rows)
        per_task = jnp.split(outputs, np.cumsum(sizes)[:-1])
        return tuple(
            choices.form.choose(
                output,
                choices.masks[index],
                jax.random.fold_in(key, choices.numbers[index]),
                epsilon=epsilon,
                seats=seat,
            )
            for index, output, seat in zip(indices, per_task, seats, strict=True)
        ), None

    return act


def expert_actor(
    experts: Sequence[Teacher],
    *,
    epsilon: float,
    sample_logits: bool = True,
    mesh: Mesh | None = None,
) -> AnyPolicy:
    """All experts playing their own games, in one jitted call; draws are by the tasks' numbers.

    Args:
      epsilon: chance of a uniformly random valid action.
      sample_logits: experts with logits sample their policy, as they were trained to; otherwise
        they take the most likely action.
      mesh: what is shown to them is on its devices; None is on the default one alone.
    """
    form = experts[0].task.suite.form
    masks = [jnp.asarray(expert.mask) for expert in experts]

    @functools.partial(jax.jit, static_argnums=3)
    def act(
        params: Any,
        observations: Observations,
        key: jax.Array,
        indices: tuple[int, ...],
        seats: Seats,
        said: Sequence[jax.Array | None] | None = None,
    ):
        outputs = expert_outputs(experts, params, observations, indices, said)
        return tuple(
            form.choose(
                output,
                masks[index],
                jax.random.fold_in(key, experts[index].task.number),
                epsilon=epsilon,
                sample=sample_logits and experts[index].outputs == "logits",
                log_std=experts[index].suite_log_std,
                seats=seat,
            )
            for index, output, seat in zip(indices, outputs, seats, strict=True)
        ), outputs

    params = on_devices(experts, mesh)
    if any(expert.recurrent for expert in experts):
        return Recurrent(experts, act, params)
    return functools.partial(act, params)


def random_policy(choices: Choices) -> Policy:
    """Uniformly random valid actions."""
    masks = choices.masks

    @functools.partial(jax.jit, static_argnums=2)
    def act(observations: Observations, key: jax.Array, indices: tuple[int, ...], seats: Seats):
        del observations
        return tuple(
            choices.form.choose(
                jnp.zeros((len(seat), masks.shape[1])),
                masks[index],
                jax.random.fold_in(key, choices.numbers[index]),
                epsilon=1.0,
                seats=seat,
            )
            for index, seat in zip(indices, seats, strict=True)
        ), None

    return act


def play(
    pools: Sequence[Pool],
    policy: AnyPolicy,
    key: jax.Array,
    mesh: Mesh,
    *,
    indices: Sequence[int] | None = None,
    seats: Sequence[np.ndarray] | None = None,
    rows: Sequence[np.ndarray | None] | None = None,
    start: int = 0,
    parts: int | None = None,
) -> Iterator[Turn]:
    """Steps all pools together for ever; turn t acts with `fold_in(key, start + t)`.

    All pools step at once, each on its own threads. The tasks are shown to the policy in `parts`
    calls: while the device answers one, the pools of the one before are already stepping.

    Args:
      indices: task index of each pool, 0.. by default; all pools of one task are shown to the
        policy as one batch.
      seats: `(num_envs,)` integers per pool, the number of each row among all rows of its task,
        here or elsewhere; by default they are counted through the pools of the task.
      rows: which environments of each pool are shown and step, `(K,)`, or None for all of them. A
        turn's actions, and `seats`, are theirs.
      parts: policy calls per turn; by default 1 on CPU, where it would compete with the pools for
        the same cores, and 2 elsewhere.
    """
    indices = tuple(range(len(pools))) if indices is None else tuple(indices)
    distinct = tuple(dict.fromkeys(indices))
    if parts is None:
        parts = 1 if jax.default_backend() == "cpu" else 2
    parts = min(parts, len(distinct))
    asked = [
        distinct[part * len(distinct) // parts : (part + 1) * len(distinct) // parts]
        for part in range(parts)
    ]
    pools_of = {index: [i for i, its in enumerate(indices) if its == index] for index in distinct}
    own = [None] * len(pools) if rows is None else [*rows]
    asking = {
        index: _Rows([pools[i] for i in of_it], [own[i] for i in of_it])
        for index, of_it in pools_of.items()
    }
    numbers = {
        index: asking[index].seats(None if seats is None else [seats[i] for i in of_it])
        for index, of_it in pools_of.items()
    }
    turn = start
    while True:
        turn_key = fold_in(key, turn)
        answers, shown = [], list[Any]()
        for part in asked:
            observations = tuple(asking[index].look(mesh) for index in part)
            ages = [asking[index].ages for index in part]
            places = tuple(numbers[index] for index in part)
            answers.append(ask(policy, observations, turn_key, part, places, ages))
            shown.extend(observations)
        actions: dict[int, np.ndarray] = {}
        for part, (chosen, _) in zip(asked, answers, strict=True):
            for index, row in zip(part, jax.device_get(chosen), strict=True):
                offset = 0
                for i, count in zip(pools_of[index], asking[index].counts, strict=True):
                    actions[i] = np.asarray(row[offset : offset + count])
                    pools[i].send(actions[i], own[i])
                    offset += count
        extra = tuple(item for _, items in answers for item in items or ())
        played = tuple(actions[i] for i in range(len(pools)))
        yield Turn(tuple(shown), played, extra, tuple(pool.receive() for pool in pools))
        turn += 1


def look(pools: Sequence[Pool], mesh: Mesh) -> Any:
    """What one task's pools show now, on the devices: see `Observations`."""
    return _Rows(pools, [None] * len(pools)).look(mesh)


class _Rows:
    """One task's pools as one batch.

    Rows of several, or of some of their environments, are padded to a power of two: an evaluation
    drops its games one by one as they end, and every new batch size would be compiled anew.
    """

    def __init__(self, pools: Sequence[Pool], rows: Sequence[np.ndarray | None]):
        """Of each pool the environments `rows`, or all."""
        self._pools, self._rows = pools, rows
        self.counts = [
            pool.num_envs if own is None else len(own)
            for pool, own in zip(pools, rows, strict=True)
        ]
        total = sum(self.counts)
        whole = len(pools) == 1 and rows[0] is None
        self._size = total if whole else max(4, 1 << (total - 1).bit_length())

    def look(self, mesh: Mesh) -> Any:
        """What they show now, on the devices: see `Observations`."""
        view = self._pools[0].view
        frames = self._batch([pool.last.observations for pool in self._pools])
        if not isinstance(view, Screen):
            return meshes.put_rows(mesh, frames)
        ages = self._batch([pool.last.ages for pool in self._pools])
        return Shown(meshes.put_rows(mesh, frames), meshes.put_rows(mesh, ages), view)

    @property
    def ages(self) -> np.ndarray:
        """Steps since their games began, without what they are padded with."""
        pairs = zip(self._pools, self._rows, strict=True)
        ages = [pool.last.ages if own is None else pool.last.ages[own] for pool, own in pairs]
        return np.concatenate(ages)

    def seats(self, given: Sequence[np.ndarray] | None) -> np.ndarray:
        """Their seat numbers, by default counted, and 0 for what they are padded with."""
        total = sum(self.counts)
        numbers = np.zeros(self._size, np.int32)
        numbers[:total] = np.arange(total) if given is None else np.concatenate(given)
        return numbers

    def _batch(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        parts = [x if own is None else x[own] for x, own in zip(parts, self._rows, strict=True)]
        if len(parts) == 1 and len(parts[0]) == self._size:
            return parts[0]
        batch = np.zeros((self._size, *parts[0].shape[1:]), parts[0].dtype)
        np.concatenate(parts, out=batch[: sum(self.counts)])
        return batch
