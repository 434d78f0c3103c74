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

from jaxdistill import networks, settings
from jaxdistill.experts import torch_file
from jaxdistill.tasks import actions, games
from jaxdistill.tasks.views import View

OUTPUTS = ("q", "logits")
_DESCRIPTION, _WEIGHTS = "expert.json", "weights.safetensors"


@dataclasses.dataclass(frozen=True, eq=False)
class Expert:
    """A frozen policy for one game.

    Attributes:
      name: how tables call it.
      network: its architecture.
      params: its float32 parameters, as `networks.init` gives them.
      outputs: "q" (the head holds Q-values) or "logits" (of a stochastic policy).
      actions: output i stands for ALE action `actions[i]`; for an expert of something other than an
        Atari game, the action indices of its own environment.
      view: what it sees of the screen; None for an expert that sees no screen.
      game: name of its Atari game; None where the file does not say or there is none.
      advertised_score: score claimed by whoever published it, None where unknown.
      source: file it came from.
    """

    name: str
    network: networks.Network
    params: networks.Params
    outputs: str
    actions: tuple[int, ...]
    view: View | None = dataclasses.field(default_factory=View)
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
        if self.game is not None and not all(0 <= a < games.NUM_ACTIONS for a in self.actions):
            raise ValueError(
                f"{self.name}: actions {list(self.actions)} are not all ALE actions 0..17, so it "
                f"does not play {self.game}"
            )
        if self.game is not None and not self.mask.any():
            raise ValueError(
                f"{self.name}: none of its actions {list(self.actions)} is valid in {self.game}, "
                f"whose valid actions are {list(games.get(self.game).actions)}"
            )

    @property
    def mask(self) -> np.ndarray:
        """`(18,)` bool: valid actions of the game that the expert has an output for."""
        known = np.zeros(games.NUM_ACTIONS, bool)
        known[list(self.actions)] = True
        return known & games.get(self._game()).mask

    def ale_outputs(self, observations: jax.Array | np.ndarray) -> jax.Array:
        """Outputs `(B, 18)` in ALE's action order, 0 where `mask` is False.

        Args:
          observations: `(B, stack, H, W)` uint8 in the expert's view.
        """
        return _ale_forward(self.network, self.actions)(self.params, jnp.asarray(observations))

    def greedy(self, observations: jax.Array | np.ndarray) -> jax.Array:
        """The valid ALE action `(B,)` with the largest output."""
        return actions.greedy(self.ale_outputs(observations), jnp.asarray(self.mask))

    def _game(self) -> str:
        if self.game is None:
            raise ValueError(
                f"{self.name}: the expert does not say which game it plays; give --game"
            )
        return self.game

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
            "view": None if self.view is None else self.view.to_dict(),
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
            fields["view"] = fields["view"] and View.from_dict(fields["view"])
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
    network: networks.Network, view: View | None, flat: Mapping[str, np.ndarray]
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
    if view is not None:
        shape: tuple[int, ...] = view.shape
    else:
        shape = (flat[f"params/{networks.first_dense(network)[0]}/kernel"].shape[0],)
    wanted = jax.eval_shape(lambda key: networks.init(network, key, shape), jax.random.key(0))
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


@functools.lru_cache(maxsize=64)
def _ale_forward(network: networks.Network, actions: tuple[int, ...]) -> Callable[..., jax.Array]:
    return jax.jit(lambda params, x: to_ale(networks.forward(network, params, x), actions))


def check_new(directory: str | os.PathLike[str]) -> None:
    """Raises ValueError if `directory` holds something: an expert is saved in a new one."""
    directory = pathlib.Path(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} already exists and is not empty; choose another --out")


def to_ale(outputs: jax.Array, actions: tuple[int, ...]) -> jax.Array:
    """`(B, K)` outputs for `actions` -> `(B, 18)` in ALE's order, 0 elsewhere."""
    return (
        jnp.zeros((outputs.shape[0], games.NUM_ACTIONS), outputs.dtype).at[:, actions].set(outputs)
    )


def expert_outputs(
    experts: Sequence[Expert],
    params: Sequence[Any],
    observations: Sequence[jax.Array],
    indices: Sequence[int],
) -> list[jax.Array]:
    """ALE-ordered outputs `(N, 18)` of several experts, each on its own observations; for jit.

    Experts of one network are stacked and evaluated together on accelerators. On CPU, where a
    batched product over the stack is slower than its parts, they run one after another.

    Args:
      params: the parameters of *all* experts, in their order.
      indices: the expert each observation array is for.
    """
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
            results[position] = to_ale(alone, experts[indices[position]].actions)
            continue
        stacked = jax.tree.map(
            lambda *x: jnp.stack(x), *(params[indices[position]] for position in positions)
        )
        forward = functools.partial(networks.forward, network)
        outputs = jax.vmap(forward)(stacked, jnp.stack([observations[p] for p in positions]))
        for position, output in zip(positions, outputs, strict=True):
            results[position] = to_ale(output, experts[indices[position]].actions)
    return [results[position] for position in range(len(indices))]
