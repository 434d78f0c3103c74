"""A frozen policy: a network, its parameters, and what its inputs and outputs mean."""

from __future__ import annotations

import dataclasses
import functools
import json
import numbers
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxdistill import networks, settings, tasks
from jaxdistill.experts import torch_file
from jaxdistill.tasks.actions import greedy
from jaxdistill.tasks.task import Task
from jaxdistill.tasks.views import AnyView, Vector, View, described, from_dict

OUTPUTS = ("q", "logits")
_DESCRIPTION, _WEIGHTS = "expert.json", "weights.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Expert:
    """A frozen policy for one task.

    Attributes:
      name: how tables call it.
      network: its architecture.
      params: its float32 parameters, as `networks.init` gives them.
      outputs: "q" (the head holds Q-values) or "logits" (of a stochastic policy).
      actions: output i stands for the suite's action `actions[i]` (in Atari, ALE's); for an expert
        of something that is no task of ours, the action indices of its own environment.
      view: what it sees.
      game: name of its task; None where the file does not say or it is no task of ours.
      advertised_score: score claimed by whoever published it, None where unknown.
      source: file it came from.
    """

    name: str
    network: networks.Network
    params: networks.Params
    outputs: str
    actions: tuple[int, ...]
    view: AnyView = dataclasses.field(default_factory=View)
    game: str | None = None
    advertised_score: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        if self.outputs not in OUTPUTS:
            raise ValueError(
                f"{self.name}: outputs is {self.outputs!r}, expected one of {', '.join(OUTPUTS)}"
            )
        if len(self.actions) != self.network.num_outputs:
            raise ValueError(
                f"{self.name}: {len(self.actions)} actions for {self.network.num_outputs} outputs"
            )
        if len(set(self.actions)) != len(self.actions):
            raise ValueError(f"{self.name}: actions {list(self.actions)} name one action twice")
        score = self.advertised_score
        number = isinstance(score, numbers.Real) and not isinstance(score, bool)
        if score is not None and not (number and abs(score) < 1e15):
            raise ValueError(f"{self.name}: advertised_score is {score!r}, expected a number")
        if self.game is not None:
            self._check_task(self.task)

    def _check_task(self, task: Task) -> None:
        suite = task.suite
        if type(self.view) is not type(suite.view) or (
            isinstance(self.view, Vector) and self.view != suite.view
        ):
            raise ValueError(
                f"{self.name}: it sees {described(self.view)}, and {task.name} shows "
                f"{described(suite.view)}"
            )
        if not all(0 <= a < suite.num_actions for a in self.actions):
            raise ValueError(
                f"{self.name}: actions {list(self.actions)} are not all actions "
                f"0..{suite.num_actions - 1}, so it does not play {task.name}"
            )
        if not self.mask.any():
            raise ValueError(
                f"{self.name}: none of its actions {list(self.actions)} is valid in {task.name}, "
                f"whose valid actions are {list(task.actions)}"
            )

    @property
    def task(self) -> Task:
        """What it plays; ValueError if it does not say."""
        if self.game is None:
            raise ValueError(
                f"{self.name}: the expert does not say which game it plays; give --game"
            )
        return tasks.get(self.game)

    @property
    def mask(self) -> np.ndarray:
        """`(A,)` bool: valid actions of its task that the expert has an output for."""
        known = np.zeros(self.task.suite.num_actions, bool)
        known[list(self.actions)] = True
        return known & self.task.mask

    def suite_outputs(self, observations: jax.Array | np.ndarray) -> jax.Array:
        """Outputs `(B, A)` in the suite's action order, 0 where `mask` is False.

        Args:
          observations: `(B, stack, *frame)` in the expert's view.
        """
        size = self.task.suite.num_actions
        forward = _suite_forward(self.network, self.actions, size)
        return forward(self.params, jnp.asarray(observations))

    def greedy(self, observations: jax.Array | np.ndarray) -> jax.Array:
        """The valid action `(B,)` with the largest output."""
        return greedy(self.suite_outputs(observations), jnp.asarray(self.mask))

    def save(self, directory: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Writes `expert.json` and `weights.safetensors` into a new directory.

        Args:
          replace: an expert of the same network that stands there is replaced, file by file: one
            who reads meanwhile gets whole files, and parameters that fit the description.

        Raises:
          ValueError: the directory already holds something.
        """
        directory = pathlib.Path(directory)
        if not replace:
            check_new(directory)
        description = {
            "name": self.name,
            "network": networks.to_dict(self.network),
            "outputs": self.outputs,
            "actions": list(self.actions),
            "view": self.view.to_dict(),
            "game": self.game,
            "advertised_score": self.advertised_score,
            "source": self.source,
        }
        flat = flax.traverse_util.flatten_dict(dict(self.params), sep="/")
        weights = safetensors.numpy.save({k: np.asarray(v) for k, v in flat.items()})
        directory.mkdir(parents=True, exist_ok=True)
        # The description last: a directory without it is not an expert, so a kill leaves none
        # half-written.
        text = json.dumps(description, indent=2, allow_nan=False) + "\n"
        for name, content in ((_WEIGHTS, weights), (_DESCRIPTION, text.encode())):
            temporary = directory / f"{name}.partial"
            temporary.write_bytes(content)
            os.replace(temporary, directory / name)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Expert:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: there is no expert in the directory.
          ValueError: what is there is damaged.
        """
        directory = pathlib.Path(directory)
        description = directory / _DESCRIPTION
        if not description.is_file():
            raise FileNotFoundError(
                f"{directory} holds no {_DESCRIPTION}; expected what launch/convert.py makes"
            )
        fields = settings.read_json(description, "convert it again")
        try:
            flat = torch_file.read(directory / _WEIGHTS).tree
            fields["network"] = networks.from_dict(fields["network"])
            view = fields["view"]
            fields["view"] = from_dict(view) if view else _vector(fields["network"], flat)
            fields["actions"] = tuple(fields["actions"])
            expert = cls(params=flax.traverse_util.unflatten_dict(flat, sep="/"), **fields)
            _check_fields(expert)
            _check_weights(expert.network, expert.view, flat)
        except Exception as error:  # damage shows as almost any exception of flax, JAX or NumPy
            kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
            reason = torch_file.one_line(f"{kind}{error}", 200)
            raise ValueError(f"{directory} is damaged ({reason}); convert it again") from error
        return expert


def _check_fields(expert: Expert) -> None:
    """Refuses what JSON can say and an expert cannot be."""
    if not isinstance(expert.name, str) or not isinstance(expert.source, str):
        raise ValueError("its name and source are not texts")
    if not all(type(action) is int and action >= 0 for action in expert.actions):
        raise ValueError("its actions are not whole numbers")


def _check_weights(
    network: networks.Network, view: AnyView, flat: Mapping[str, np.ndarray]
) -> None:
    """Refuses weights that are not this network's, or not finite."""
    if network.knows_game:
        raise ValueError("its network plays several games; an expert plays one")
    for i, layer in enumerate(
        network.convs, 1
    ):  # first, since tracing takes as long as it is large
        kernel = flat[f"params/conv{i}/kernel"].shape
        if kernel != (layer.kernel, layer.kernel, *kernel[2:-1], layer.features):
            raise ValueError(f"conv{i}/kernel has shape {kernel}, against {layer}")
    wanted = jax.eval_shape(lambda key: networks.init(network, key, view.shape), jax.random.key(0))
    expected = flax.traverse_util.flatten_dict(dict(wanted), sep="/")
    if expected.keys() != flat.keys():
        (name, *_) = sorted(expected.keys() ^ flat.keys())
        there = "lacks" if name in expected else "has"
        raise ValueError(f"{_WEIGHTS} {there} {name}, against the network of {_DESCRIPTION}")
    for name, array in sorted(flat.items()):
        want = expected[name]
        if array.shape != want.shape or array.dtype != want.dtype:
            raise ValueError(
                f"{name} is {array.dtype} of shape {array.shape} in {_WEIGHTS}, and {want.dtype} "
                f"of shape {want.shape} by the network of {_DESCRIPTION}"
            )
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite weights")


def _vector(network: networks.Network, flat: Mapping[str, np.ndarray]) -> Vector:
    """What an expert of before vectors were written down sees."""
    return Vector(flat[f"params/{networks.first_dense(network)[0]}/kernel"].shape[0])


@functools.lru_cache(maxsize=64)
def _suite_forward(
    network: networks.Network, actions: tuple[int, ...], size: int
) -> Callable[..., jax.Array]:
    return jax.jit(lambda params, x: to_suite(networks.forward(network, params, x), actions, size))


def check_new(directory: str | os.PathLike[str]) -> None:
    """Raises ValueError if `directory` holds something: an expert is saved in a new one."""
    directory = pathlib.Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} already exists and is not empty; choose another --out")


def to_suite(outputs: jax.Array, actions: tuple[int, ...], size: int) -> jax.Array:
    """`(B, K)` outputs for `actions` -> `(B, size)` in the suite's order, 0 elsewhere."""
    return jnp.zeros((outputs.shape[0], size), outputs.dtype).at[:, actions].set(outputs)


def expert_outputs(
    experts: Sequence[Expert],
    params: Sequence[Any],
    observations: Sequence[jax.Array],
    indices: Sequence[int],
) -> list[jax.Array]:
    """Outputs `(N, A)` of several experts of one suite, each on its own observations; for jit.

    Experts of one network are stacked and evaluated together on accelerators. On CPU, where a
    batched product over the stack is slower than its parts, they run one after another.

    Args:
      params: the parameters of *all* experts, in their order.
      indices: the expert each observation array is for.
    """
    size = experts[0].task.suite.num_actions
    results: dict[int, jax.Array] = {}
    groups: dict[Any, list[int]] = {}
    for position, index in enumerate(indices):
        apart = position if jax.default_backend() == "cpu" else None
        key = (experts[index].network, observations[position].shape, apart)
        groups.setdefault(key, []).append(position)
    for (network, _, _), positions in groups.items():
        if len(positions) == 1:
            (position,) = positions
            alone = networks.forward(network, params[indices[position]], observations[position])
            results[position] = to_suite(alone, experts[indices[position]].actions, size)
            continue
        stacked = jax.tree.map(
            lambda *x: jnp.stack(x), *(params[indices[position]] for position in positions)
        )
        forward = functools.partial(networks.forward, network)
        outputs = jax.vmap(forward)(stacked, jnp.stack([observations[p] for p in positions]))
        for position, output in zip(positions, outputs, strict=True):
            results[position] = to_suite(output, experts[indices[position]].actions, size)
    return [results[position] for position in range(len(indices))]
