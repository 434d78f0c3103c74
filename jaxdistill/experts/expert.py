"""A frozen policy: a network, its parameters, and what its inputs and outputs mean."""

from __future__ import annotations

import contextlib
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

from jaxdistill import disk, networks, settings, tasks
from jaxdistill.experts import archives, torch_file
from jaxdistill.tasks.atari import USUAL, Rules
from jaxdistill.tasks.task import Task
from jaxdistill.tasks.views import AnyView, Vector, View, described, from_dict
from jaxdistill.text import one_line

OUTPUTS = ("q", "logits")
_DESCRIPTION, _WEIGHTS = "expert.json", "weights.safetensors"
_FILES = (*archives.ENDINGS, ".zip", ".gz")  # of others
_PAIRS = ((_DESCRIPTION, _WEIGHTS), ("policy.json", "policy.safetensors"))  # those of a student


@dataclasses.dataclass(frozen=True, eq=False)
class Expert:
    """A frozen policy for one task.

    Attributes:
      name: how tables call it.
      network: its architecture.
      params: its float32 parameters, as `networks.init` gives them.
      outputs: "q" (the head holds Q-values) or "logits" (of a stochastic policy; of keys and
        angles their logits and means).
      actions: output i stands for the suite's action `actions[i]` (in Atari, ALE's); for an expert
        of something that is no task of ours, the action indices of its own environment.
      view: what it sees.
      game: name of its task; None where the file does not say or it is no task of ours.
      advertised_score: score claimed by whoever published it, None where unknown.
      source: file it came from; on the hub, its address with the commit.
      log_std: logarithm of the deviation of each output that is an angle, anything at keys; None
        where it is not known, or there are no angles.
      rules: how its own game is played, where it was trained and scored.
      plays: how the game is played that it is asked to play; None is its own.
      teacher_view: of a student, what its own expert saw where pools showed that too, as they do
        again where the student plays for itself: its games start by what is shown. Else None.
    """

    name: str
    network: networks.Network
    params: networks.Params = dataclasses.field(repr=False)
    outputs: str
    actions: tuple[int, ...]
    view: AnyView = dataclasses.field(default_factory=View)
    game: str | None = None
    advertised_score: float | None = None
    source: str = ""
    log_std: tuple[float, ...] | None = None
    rules: Rules = USUAL
    plays: Rules | None = None
    teacher_view: AnyView | None = None

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
        if self.log_std is not None and len(self.log_std) != len(self.actions):
            raise ValueError(
                f"{self.name}: log_std has {len(self.log_std)} numbers for {len(self.actions)} "
                f"outputs"
            )
        if self.game is not None:
            self._check_task(self.task)

    def _check_task(self, task: Task) -> None:
        suite = task.suite
        if type(self.view) is not type(suite.view) or (
            isinstance(self.view, Vector) and self.view.whole != suite.view
        ):
            raise ValueError(
                f"{self.name}: it sees {described(self.view)}, and {task.name} shows "
                f"{described(suite.view)}"
            )
        if type(self.teacher_view) not in (type(self.view), type(None)):
            raise ValueError(
                f"{self.name}: it sees {described(self.view)}, and its own expert something else"
            )
        if isinstance(self.view, View) and self.view.channels_last and self.network.convs:
            raise ValueError(
                f"{self.name}: channels_last is for networks without convolutions; their kernels "
                f"are read for channels first"
            )
        if suite.kinds and self.outputs != "logits":
            raise ValueError(
                f"{self.name}: outputs is {self.outputs!r}, and {task.name} is played with keys "
                f"and angles; expected 'logits'"
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
        return tasks.under(tasks.get(self.game), self.played)

    @property
    def played(self) -> Rules:
        """How its game is played."""
        return self.rules if self.plays is None else self.plays

    def under(self, rules: Rules) -> Expert:
        """The same expert, asked to play its game in another way."""
        return dataclasses.replace(self, plays=rules)

    @property
    def mask(self) -> np.ndarray:
        """`(A,)` bool: valid actions of its task that the expert has an output for."""
        known = np.zeros(self.task.suite.num_actions, bool)
        known[list(self.actions)] = True
        return known & self.task.mask

    def suite_outputs(self, observations: jax.Array | np.ndarray) -> jax.Array:
        """Outputs `(B, A)` in the suite's order, as far as its task goes; 0 where `mask` is False.

        Args:
          observations: `(B, stack, *frame)` in the expert's view.
        """
        task = self.task
        forward = _suite_forward(self.network, self.actions, task.suite.num_actions)
        return task.limited(forward(self.params, jnp.asarray(observations)))

    @property
    def suite_log_std(self) -> jax.Array | None:
        """`log_std` in the suite's order, `(A,)`; None where it is not known."""
        if self.log_std is None:
            return None
        return to_suite(jnp.asarray([self.log_std]), self.actions, self.task.suite.num_actions)[0]

    @property
    def recurrent(self) -> bool:
        """Whether it answers by what it carries from step to step: by `step` alone."""
        return self.network.core is not None

    def judge(self, params: Any, shown: Any) -> jax.Array:
        """Outputs `(B, A)` in the suite's order, of what pools show of any of its tasks; for jit.

        Args:
          params: its own, or others of the same network.
          shown: an array, or `Shown` of a screen.

        Raises:
          ValueError: it is recurrent.
        """
        outputs = networks.forward(self.network, params, self.view.see(shown))
        return self.in_suite(outputs)

    def carry(self, rows: int) -> Any:
        """What it carries where games begin, see `step`; nothing if it is not recurrent."""
        return networks.initial_carry(self.network, rows)

    def step(self, params: Any, shown: Any, carry: Any) -> tuple[jax.Array, Any]:
        """As `judge`, of the next step of the games that `carry` is of, and what is carried on."""
        if not self.recurrent:
            return self.judge(params, shown), carry
        outputs, carry = networks.advance(self.network, params, self.view.see(shown), carry)
        return self.in_suite(outputs), carry

    @functools.cached_property
    def next_step(self) -> Callable[..., tuple[jax.Array, Any]]:
        """`step`, jitted by itself; see `_next_step`."""
        return _next_step(self.step)

    def in_suite(self, outputs: jax.Array) -> jax.Array:
        """The network's outputs `(B, K)` in the suite's order `(B, A)`, as far as its task goes."""
        task = self.task
        return task.limited(to_suite(outputs, self.actions, task.suite.num_actions))

    def greedy(self, observations: jax.Array | np.ndarray) -> jax.Array:
        """The likeliest valid action, `(B,)` or `(B, A)`."""
        return self.task.suite.form.greedy(self.suite_outputs(observations), jnp.asarray(self.mask))

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
            **({} if self.log_std is None else {"log_std": list(self.log_std)}),
            **({"rules": rules} if (rules := self.rules.to_dict()) else {}),
            **({"teacher_view": saw.to_dict()} if (saw := self.teacher_view) else {}),
        }
        write(directory, (_WEIGHTS, self.params), (_DESCRIPTION, description))

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
                f"{directory} holds no {_DESCRIPTION}, so it is no expert's; {_instead(directory)}"
            )
        fields = disk.read_json(description, "convert it again")
        try:
            flat = torch_file.read(directory / _WEIGHTS).tree
            fields["network"] = networks.from_dict(fields["network"])
            view = fields["view"]
            fields["view"] = from_dict(view) if view else _vector(fields["network"], flat)
            fields["actions"] = tuple(fields["actions"])
            if fields.get("log_std") is not None:
                fields["log_std"] = tuple(fields["log_std"])
            fields["rules"] = settings.build(Rules, fields.get("rules", {}), "rules")
            if fields.get("teacher_view") is not None:
                fields["teacher_view"] = from_dict(fields["teacher_view"])
            expert = cls(params=flax.traverse_util.unflatten_dict(flat, sep="/"), **fields)
            _check_fields(expert)
            if expert.network.knows_game:
                raise ValueError("its network plays several games; an expert plays one")
            check_weights(expert.network, expert.view, flat)
        except tasks.UnknownTask as error:  # of a file that was not imported: nothing is damaged
            raise tasks.UnknownTask(f"{directory}: {error}") from error
        except Exception as error:  # damage shows as almost any exception of flax, JAX or NumPy
            kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
            reason = one_line(f"{kind}{error}", 200)
            raise ValueError(f"{directory} is damaged ({reason}); convert it again") from error
        return expert


def _instead(directory: pathlib.Path) -> str:
    """What to give where an expert is asked for, by what stands in a directory that is none's."""
    said: Any = None
    with contextlib.suppress(OSError, ValueError):
        said = disk.read_json(directory / "config.json", "")
    is_training = isinstance(said, dict) and "games" in said
    within = directory / "experts" if is_training else directory
    found = [str(x.parent) for up in ("*", "*/*") for x in within.glob(f"{up}/{_DESCRIPTION}")]
    if is_training and found:
        return f"a training: give one of its experts, {_some(sorted(found))}"
    if is_training:
        return f"a training that has evaluated nothing: let it run on, and give {within}/TASK"
    if isinstance(said, dict) and "experts" in said:
        return (
            f"a run: export its student with `jaxdistill export --workdir={directory} "
            f"--format=student --out=NEW`, and give NEW"
        )
    found += [str(x) for end in _FILES for x in directory.glob(f"*{end}") if x.is_file()]
    if found:
        nearest = sorted(found, key=lambda path: (path.count("/"), path))
        return f"give one of those in it, {_some(nearest)}"
    return "expected an expert's file, or what `jaxdistill convert` makes of it"


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(one_line(path, 200) for path in paths[:4])
    return f"{shown} and {len(paths) - 4} more" if len(paths) > 4 else shown


def _check_fields(expert: Expert) -> None:
    """Refuses what JSON can say and an expert cannot be."""
    if not isinstance(expert.name, str) or not isinstance(expert.source, str):
        raise ValueError("its name and source are not texts")
    if not all(type(action) is int and action >= 0 for action in expert.actions):
        raise ValueError("its actions are not whole numbers")
    if not all(isinstance(x, float) and np.isfinite(x) for x in expert.log_std or ()):
        raise ValueError("its log_std are not finite numbers")


def write(
    directory: pathlib.Path,
    weights: tuple[str, networks.Params],
    description: tuple[str, Mapping[str, Any]],
) -> None:
    """Writes parameters (safetensors) and their description (JSON), each under its name.

    The description last: a directory without it holds nothing, so a kill leaves nothing
    half-written. Where one of them cannot be written, what stood there stays.

    Raises:
      OSError: one cannot be written, as where the disk is full.
    """
    flat = flax.traverse_util.flatten_dict(dict(weights[1]), sep="/")
    # What is not contiguous would be written in the order that it has in memory.
    saved = safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in flat.items()})
    text = json.dumps(description[1], indent=2, allow_nan=False) + "\n"
    disk.write_files(
        {directory / weights[0]: saved, directory / description[0]: text.encode()}, folder=True
    )


def check_weights(
    network: networks.Network,
    view: AnyView,
    flat: Mapping[str, np.ndarray],
    files: tuple[str, str] = (_DESCRIPTION, _WEIGHTS),
) -> None:
    """Refuses weights that are not this network's, or not finite, with a ValueError.

    Args:
      files: what messages call those of the description and of the weights.
    """
    description, weights = files
    # First, since tracing takes as long as the network is deep and its convolutions are large.
    layers = len(network.activations)
    if network.controllers:
        layers += len(network.game_actions) * (len(network.action_hidden) + 1)
    if layers > len(flat):
        raise ValueError(f"it has {len(flat)} arrays of weights for a network of {layers} layers")
    for i, layer in enumerate(network.convs, 1):
        kernel = flat[f"params/conv{i}/kernel"].shape
        if kernel != (layer.kernel, layer.kernel, *kernel[2:-1], layer.features):
            raise ValueError(f"conv{i}/kernel has shape {kernel}, against {layer}")
    wanted = jax.eval_shape(lambda key: networks.init(network, key, view.shape), jax.random.key(0))
    expected = flax.traverse_util.flatten_dict(dict(wanted), sep="/")
    if expected.keys() != flat.keys():
        (name, *_) = sorted(expected.keys() ^ flat.keys())
        there = "lacks" if name in expected else "has"
        raise ValueError(f"{weights} {there} {name}, against the network of {description}")
    for name, array in sorted(flat.items()):
        want = expected[name]
        if array.shape != want.shape or array.dtype != want.dtype:
            raise ValueError(
                f"{name} is {array.dtype} of shape {array.shape} in {weights}, and {want.dtype} "
                f"of shape {want.shape} by the network of {description}"
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
    """Raises ValueError if `directory` holds something: an expert is saved in a new one.

    What `write` has left there, killed before it had ended, is nothing.
    """
    directory = pathlib.Path(directory)
    if directory.exists() and not (directory.is_dir() and _left_behind(directory)):
        raise ValueError(f"{directory} already exists and is not empty; choose another --out")


def _left_behind(directory: pathlib.Path) -> bool:
    """Whether nothing is there but what a `write` has left that did not come to its end.

    Weights alone may be anybody's; beside the rest of such a description they are ours.
    """
    names = {path.name for path in directory.iterdir()}
    rests = [
        {weights} & names if f"{description}.partial" in names else set()
        for description, weights in _PAIRS
    ]
    partial = {f"{name}.partial" for pair in _PAIRS for name in pair}
    return names <= partial.union(*rests)


def to_suite(outputs: jax.Array, actions: tuple[int, ...], size: int) -> jax.Array:
    """`(B, K)` outputs for `actions` -> `(B, size)` in the suite's order, 0 elsewhere."""
    return jnp.zeros((outputs.shape[0], size), outputs.dtype).at[:, actions].set(outputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Team:
    """Experts of one suite that play a task together: each what it was trained for.

    Each looks at what the pool shows through its own view and answers for its own outputs.

    Attributes:
      experts: of disjoint outputs.
      game: name of the task they play together.
    """

    experts: tuple[Expert, ...]
    game: str

    def __post_init__(self) -> None:
        owned = [action for expert in self.experts for action in np.flatnonzero(expert.mask)]
        names = self.task.suite.action_names
        if len(set(owned)) < len(owned):
            twice = next(action for action in owned if owned.count(action) > 1)
            raise ValueError(
                f"two experts press {names[twice]}, so they cannot play {self.game} together"
            )
        if missing := [names[a] for a in self.task.actions if a not in owned]:
            raise ValueError(
                f"no expert presses {', '.join(missing)}, so they cannot play {self.game} together"
            )

    @property
    def name(self) -> str:
        """The experts' names, such as "movement + aiming"."""
        return " + ".join(expert.name for expert in self.experts)

    @property
    def source(self) -> str:
        """Where the experts came from, joined as their names; see `Expert.source`."""
        return " + ".join(expert.source for expert in self.experts)

    @property
    def task(self) -> Task:
        """What they play together."""
        return tasks.get(self.game)

    @property
    def params(self) -> list[networks.Params]:
        """Each expert's parameters, in their order."""
        return [expert.params for expert in self.experts]

    @property
    def network(self) -> tuple[networks.Network, ...]:
        """Each expert's architecture, in their order."""
        return tuple(expert.network for expert in self.experts)

    @property
    def outputs(self) -> str:
        """As `Expert.outputs`."""
        return self.experts[0].outputs

    @property
    def actions(self) -> tuple[int, ...]:
        """All of the task."""
        return self.task.actions

    @property
    def view(self) -> AnyView:
        """All that the pool shows."""
        return self.task.suite.view

    @property
    def mask(self) -> np.ndarray:
        """`(A,)` bool, all outputs of the task."""
        return self.task.mask

    @property
    def advertised_score(self) -> None:
        """Nobody has promised anything of them together."""
        return None

    @property
    def teacher_view(self) -> None:
        """Together they are no student."""
        return None

    @property
    def suite_log_std(self) -> jax.Array | None:
        """`(A,)`, each output's by its expert; None where one is not known."""
        whole, kinds = jnp.zeros(self.task.suite.num_actions), self.task.suite.kinds or ()
        for expert in self.experts:
            log_std = expert.suite_log_std
            played = np.flatnonzero(expert.mask)
            if log_std is None and {kinds[a] for a in played} != {"key"}:
                return None
            whole = whole if log_std is None else jnp.where(expert.mask, log_std, whole)
        return whole

    @property
    def recurrent(self) -> bool:
        """Whether one of them is."""
        return any(expert.recurrent for expert in self.experts)

    def judge(self, params: Sequence[Any], shown: Any) -> jax.Array:
        """Outputs `(B, A)`, each output by its expert; as `Expert.judge`."""
        return self._of_each([e.judge(own, shown) for e, own in self._with(params)])

    def carry(self, rows: int) -> Any:
        """A tuple of each expert's, see `Expert.carry`: arrays `(rows, ...)`, or none."""
        return tuple(expert.carry(rows) for expert in self.experts)

    def step(self, params: Sequence[Any], shown: Any, carry: Any) -> tuple[jax.Array, Any]:
        """As `Expert.step`."""
        steps = [
            expert.step(own, shown, kept)
            for (expert, own), kept in zip(self._with(params), carry, strict=True)
        ]
        outputs, carries = zip(*steps, strict=True)
        return self._of_each(outputs), carries

    @functools.cached_property
    def next_step(self) -> Callable[..., tuple[jax.Array, Any]]:
        """`step`, jitted by itself; see `_next_step`."""
        return _next_step(self.step)

    def _with(self, params: Sequence[Any]) -> list[tuple[Expert, Any]]:
        return list(zip(self.experts, params, strict=True))

    def _of_each(self, outputs: Sequence[jax.Array]) -> jax.Array:
        """All outputs, each by its expert."""
        whole = jnp.zeros((len(outputs[0]), self.task.suite.num_actions))
        for expert, own in zip(self.experts, outputs, strict=True):
            whole = jnp.where(expert.mask, own, whole)
        return self.task.limited(whole)


Teacher = Expert | Team


def _next_step(step: Callable[..., tuple[jax.Array, Any]]) -> Callable[..., Any]:
    """`next_step(params, shown, begun, carry)`: with nothing carried in `begun` rows, `(B,)` bool.

    Compiled by itself, it has the same bits whatever is computed beside it: a run that goes on sees
    the games in progress again.
    """

    @jax.jit
    def next_step(params: Any, shown: Any, begun: jax.Array, carry: Any):
        return step(params, shown, networks.forget(carry, begun))

    return next_step


def expert_outputs(
    experts: Sequence[Teacher],
    params: Sequence[Any],
    observations: Sequence[Any],
    indices: Sequence[int],
    said: Sequence[jax.Array | None] | None = None,
) -> list[jax.Array]:
    """Outputs `(N, A)` of several experts of one suite, each of what its own pools show; for jit.

    Experts of one network are stacked and evaluated together on accelerators. On CPU, where a
    batched product over the stack is slower than its parts, they run one after another.

    Args:
      params: the parameters of *all* experts, in their order.
      indices: the expert each observation array is for.
      said: outputs that are known, such as those of a recurrent expert; None for others.
    """
    results: dict[int, jax.Array] = {}
    groups: dict[Any, list[tuple[int, Expert]]] = {}
    for position, index in enumerate(indices):
        expert, shown = experts[index], observations[position]
        known = None if said is None else said[position]
        if known is not None:
            results[position] = known
        elif jax.default_backend() == "cpu" or isinstance(expert, Team):
            results[position] = expert.judge(params[index], shown)
        else:
            seen = jax.eval_shape(expert.view.see, shown)
            key = (expert.network, seen.shape, seen.dtype)
            groups.setdefault(key, []).append((position, expert))
    for (network, _, _), members in groups.items():
        positions, chosen = zip(*members, strict=True)
        if len(positions) == 1:
            (position,) = positions
            results[position] = chosen[0].judge(params[indices[position]], observations[position])
            continue
        seen = [e.view.see(observations[p]) for e, p in zip(chosen, positions, strict=True)]
        stacked = jax.tree.map(
            lambda *x: jnp.stack(x), *(params[indices[position]] for position in positions)
        )
        outputs = jax.vmap(functools.partial(networks.forward, network))(stacked, jnp.stack(seen))
        for expert, position, output in zip(chosen, positions, outputs, strict=True):
            results[position] = expert.in_suite(output)
    return [results[position] for position in range(len(indices))]
