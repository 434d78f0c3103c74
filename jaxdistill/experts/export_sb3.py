"""Our policies -> zips that `PPO.load` and `DQN.load` of Stable-Baselines3 read, without it.

Such a zip holds `data`, a JSON object with the algorithm's attributes, and PyTorch files of the
policy and its optimiser. In `data`, what JSON cannot hold is a base64 pickle (":serialized:")
beside some readable fields. The pickles here name classes of Stable-Baselines3, PyTorch and
Gymnasium for the reader to import, and say how to call them: they depend on nobody's version.

PPO's policies are two chains of dense layers, one to `action_net` and one to `value_net`, that
share nothing. A network of ours whose layers are shared has them written into both. The layers of
streams stand side by side in one layer, and `action_net` is 0 where an output is not of that one's.

What actions are is told by their kinds:

* several keys: MultiBinary, and an output is the logit of "down";
* one key: Discrete of two, up and down, whose logits are 0 and ours;
* angles: Box, and an output is the mean, which Stable-Baselines3 cuts to the range;
* both: Box, in which a key is down above 0.5. Its mean is 0.5 plus our logit. A Gaussian cannot be
  a Bernoulli variable; with a deviation of 1.702 it is above 0.5 as often as the logit's key is
  down, within 1% (the logistic function's normal approximation).

DQN's `CnnPolicy` is Nature's convolutions and one chain of dense layers to Q-values, of a game's
own actions alone. A dueling head is such a chain too where both of its streams have as many layers:
they stand side by side in one, and value less mean advantage is a sum of the last layer's inputs.

What neither has a field for, such as how its own game is played, is a field more of `data`, which
Stable-Baselines3 keeps: see `formats.carried`.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill import disk, networks
from jaxdistill.experts import export, torch_writer
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import carried
from jaxdistill.experts.formats.skills import KEY_DEVIATION
from jaxdistill.experts.torch_writer import Call, Name
from jaxdistill.tasks.atari import Game
from jaxdistill.tasks.combat import Combat
from jaxdistill.tasks.views import View

_ACTIVATIONS = {
    "relu": "activation.ReLU",
    "elu": "activation.ELU",
    "tanh": "activation.Tanh",
    "leaky_relu": "activation.LeakyReLU",
    "silu": "activation.SiLU",
    "gelu": "activation.GELU",
    "selu": "activation.SELU",
    "sigmoid": "activation.Sigmoid",
    "none": "linear.Identity",
}
_POLICY = Name("stable_baselines3.common.policies", "ActorCriticPolicy")
# What PPO has by default, and a reader that learns on begins with.
_LEARNING_RATE = 3e-4
_SETTINGS = {
    "n_steps": 2048,
    "batch_size": 64,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_range": 0.2,
    "ent_coef": 0.0,
    "vf_coef": 0.5,
    "max_grad_norm": 0.5,
}
# Of DQN, for a reader that learns on: its own, but for a memory of a million transitions, whose
# 56 GB it would ask for where it loads.
_Q_POLICY = Name("stable_baselines3.dqn.policies", "CnnPolicy")
_Q_SETTINGS = {"learning_rate": 1e-4, "buffer_size": 10_000, "learning_starts": 100}

Layer = tuple[np.ndarray, np.ndarray]
"""A dense layer as PyTorch has it: weight `(outputs, inputs)` and bias `(outputs,)`."""


def export_expert(expert: Expert, path: str | os.PathLike[str]) -> None:
    """Writes an expert as a zip: of keys and angles for `PPO.load`, of Atari for `DQN.load`.

    Its spaces are those of the expert's task: what it sees, and its own keys and angles, or the
    game's valid actions in the emulator's order. See `export_policy` and `export_q_network`.

    Raises:
      ValueError: the expert plays something else, or as those do.
    """
    task = expert.task
    if isinstance(task, Game):
        export_q_network(expert, path)
        return
    if not isinstance(task, Combat):
        raise ValueError(
            f"{expert.name}: plays {task.name}; zips for Stable-Baselines3 are written of experts "
            f"of Atari (DQN) and of combat (PPO) alone"
        )
    if expert.actions != task.actions:
        raise ValueError(
            f"{expert.name}: has outputs for actions {list(expert.actions)}; an environment of "
            f"{task.name} expects {list(task.actions)}, in this order"
        )
    export_policy(
        expert.network,
        expert.params,
        path,
        kinds=[(task.suite.kinds or ())[action] for action in expert.actions],
        turn=task.environment.turn,
        log_std=None if expert.log_std is None else np.array(expert.log_std),
        said=carried.Carried.of(expert),
    )


def export_policy(
    network: networks.Network,
    params: networks.Params,
    path: str | os.PathLike[str],
    *,
    kinds: Sequence[str],
    turn: float,
    log_std: np.ndarray | None = None,
    said: carried.Carried | None = None,
) -> None:
    """Writes a policy over a vector in -1..1, and its value, as a zip for `PPO.load`.

    The loaded policy predicts what our greedy one does, its actions in our order, and can go on
    learning in an environment of these spaces.

    Args:
      network: with an actor-critic head, of dense layers of one activation; streams without bounds.
      params: as `networks.init` gives them.
      path: the zip to write; its folder is made if needed.
      kinds: "key" or "angle" for each output.
      turn: the largest angle, in radians.
      log_std: `(A,)`, logarithms of the angles' deviations in radians, as a `Factored` takes them;
        what stands at keys is not read. Needed where there is an angle.
      said: what is carried for whoever reads it back here.

    Raises:
      ValueError: Stable-Baselines3 cannot express the network, `log_std` is missing or of another
        size, a number is not finite, or the file exists.
    """
    disk.check_free(path)
    _check(network, kinds)
    policy, value = _chains(network, params)
    policy[-1] = _action_layer(policy[-1], kinds)
    weights: dict[str, np.ndarray] = {}
    if "angle" in kinds:
        weights["log_std"] = _deviations(kinds, log_std)
    for name, (*hidden, last) in (("policy", policy), ("value", value)):
        keys = [f"mlp_extractor.{name}_net.{2 * i}" for i in range(len(hidden))]
        keys.append("action_net" if name == "policy" else "value_net")
        for key, layer in zip(keys, (*hidden, last), strict=True):
            weights |= {f"{key}.weight": layer[0], f"{key}.bias": layer[1]}
    _check_finite(weights)
    size = policy[0][0].shape[1]
    data = {
        "policy_class": _serialized(_POLICY, "<class 'abc.ABCMeta'>"),
        "policy_kwargs": _policy_kwargs(network, policy, value),
        "observation_space": _box([-1.0] * size, [1.0] * size),
        "action_space": _action_space(kinds, turn),
        "learning_rate": _LEARNING_RATE,
        **_SETTINGS,
        **({carried.KEY: said.to_dict()} if said else {}),
    }
    # Adam's epsilon is Stable-Baselines3's for actor-critics.
    _write(path, data, weights, export.fresh_adam(len(weights), _LEARNING_RATE, eps=1e-5))


def export_q_network(expert: Expert, path: str | os.PathLike[str]) -> None:
    """Writes an expert of Atari as a zip for `DQN.load`, a policy of the class `CnnPolicy`.

    The loaded policy predicts what our greedy one does, its actions in the emulator's order of the
    game's own, and can go on learning where frames are stacked, channels first.

    Raises:
      ValueError: Stable-Baselines3 cannot express the network or what it sees, the expert lacks a
        valid action, a number is not finite, or the file exists.
    """
    disk.check_free(path)
    view, actions = expert.view, expert.task.actions
    if lacking := [a for a in actions if a not in expert.actions]:
        names = ", ".join(expert.task.suite.action_names[a] for a in lacking)
        raise ValueError(
            f"{expert.name}: has no output for {names}, valid in {expert.game}, and a DQN of "
            f"Stable-Baselines3 has one for every action of its environment"
        )
    _check_q_network(expert)
    assert isinstance(view, View)  # it plays Atari
    weights = {}
    for i in range(len(expert.network.convs)):
        tree = expert.params["params"][f"conv{i + 1}"]
        layer = {name: np.asarray(x, "<f4") for name, x in tree.items()}
        key = f"features_extractor.cnn.{2 * i}"
        weights[f"{key}.weight"] = np.ascontiguousarray(layer["kernel"].transpose(3, 2, 0, 1))
        weights[f"{key}.bias"] = layer["bias"]
    first, *hidden, last = _q_chain(expert.network, expert.params)
    weight = export.channels_first(first[0], expert.network, view, "its first dense layer")
    places = [expert.actions.index(action) for action in actions]
    chain = [(weight, first[1]), *hidden, (last[0][places], last[1][places])]
    keys = ["features_extractor.linear.0", *(f"q_net.{2 * i}" for i in range(len(hidden) + 1))]
    for key, (weight, bias) in zip(keys, chain, strict=True):
        weights |= {f"{key}.weight": np.ascontiguousarray(weight), f"{key}.bias": bias}
    _check_finite(weights)
    sizes, widths = {"features_dim": len(first[1])}, [len(bias) for _, bias in hidden]
    data = {
        "policy_class": _serialized(_Q_POLICY, "<class 'abc.ABCMeta'>"),
        "policy_kwargs": _serialized(
            {"net_arch": widths, "features_extractor_kwargs": sizes},
            "<class 'dict'>",
            net_arch=widths,
            features_extractor_kwargs=sizes,
        ),
        "observation_space": _pictures(view.shape),
        "action_space": _discrete(len(actions)),
        **_Q_SETTINGS,
        carried.KEY: carried.Carried.of(expert).to_dict(),
    }
    whole = {
        f"{network}.{name}": array
        for network in ("q_net", "q_net_target")
        for name, array in weights.items()
    }
    rate = _Q_SETTINGS["learning_rate"]
    _write(path, data, whole, export.fresh_adam(len(weights), rate))


def _check_finite(weights: Mapping[str, np.ndarray]) -> None:
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is not finite as float32; nothing was written")


def _write(
    path: str | os.PathLike[str],
    data: Mapping[str, Any],
    weights: Mapping[str, np.ndarray],
    optimiser: Mapping[str, Any],
) -> None:
    """Writes an archive of a policy that has not begun to learn."""
    data = {**data, "verbose": 0, "n_envs": 1, "num_timesteps": 0}
    members = {
        "data": json.dumps(data, indent=4).encode(),
        "policy.pth": torch_writer.dumps(weights),
        "policy.optimizer.pth": torch_writer.dumps(optimiser),
        "system_info.txt": b"- written by jaxdistill\n",
    }
    disk.write_files({path: torch_writer.archive(members)}, alone=False, folder=True)


def _check_q_network(expert: Expert) -> None:
    """Refuses what a `CnnPolicy` cannot be, saying what it is."""
    network, view = expert.network, expert.view
    streams = (len(network.action_hidden), len(network.value_hidden))
    problem = networks.only_of_experts(network)
    if problem:
        pass
    elif expert.outputs != "q":
        problem = "logits, where it has Q-values"
    elif not isinstance(view, View) or view.difference or view.channels_last:
        problem = f"what it sees ({view})"
    elif network.convs != networks.NATURE_CONVS or network.residual:
        problem = "convolutions other than Nature's"
    elif network.layer_norm:
        problem = "LayerNorm"
    elif set(network.activations) != {"relu"}:
        problem = f"activation {network.activation}"
    elif network.streams or network.head not in ("linear", "dueling"):
        problem = f"a head of {'streams' if network.streams else f'type {network.head}'}"
    elif network.head == "dueling" and streams[0] != streams[1]:
        problem = f"a dueling head with {streams[0]} action and {streams[1]} value dense layers"
    elif not network.hidden + network.action_hidden:
        problem = "outputs without a dense layer before them"
    if problem:
        raise ValueError(
            f"{expert.name}: Stable-Baselines3's DQN cannot express {problem}; its CnnPolicy has "
            f"Nature's convolutions (32, 64 and 64 channels, 8/4, 4/2, 3/1) and ReLU layers to "
            f"Q-values, a dueling head folded into them: "
            f"{'distil it' if network.core else 'write it with --format=module, onnx or stablehlo'}"
        )


def _q_chain(network: networks.Network, params: networks.Params) -> list[Layer]:
    """The dense layers that lead to the Q-values, a dueling head's streams side by side."""
    shared = _layers(params, "fc", network.hidden)
    action = [*_layers(params, "action_fc", network.action_hidden), _layer(params, "action")]
    if network.head == "linear":
        return [*shared, *action]
    value = [*_layers(params, "value_fc", network.value_hidden), _layer(params, "value")]
    *own, (of_action, action_bias) = action
    *others, (of_value, value_bias) = value
    beside = []
    for i, ((one, one_bias), (other, other_bias)) in enumerate(zip(own, others, strict=True)):
        if i:  # behind the first the streams have nothing in common
            one = np.pad(one, ((0, 0), (0, other.shape[1])))
            other = np.pad(other, ((0, 0), (one.shape[1] - other.shape[1], 0)))
        beside.append((np.concatenate([one, other]), np.concatenate([one_bias, other_bias])))
    centred = of_action - of_action.mean(axis=0, keepdims=True, dtype=np.float64)
    bias = action_bias - action_bias.mean(dtype=np.float64) + value_bias
    of_value = np.broadcast_to(of_value, (len(centred), of_value.shape[1]))
    weight = np.concatenate([centred, of_value], axis=1) if own else centred + of_value
    return [*shared, *beside, (weight.astype("<f4"), bias.astype("<f4"))]


def _check(network: networks.Network, kinds: Sequence[str]) -> None:
    """Refuses networks that an `ActorCriticPolicy` over a vector cannot be, saying what to do."""
    problem, advice = None, "train or distil one such as skills_actor_critic or mlp_actor_critic"
    if network.core:
        problem, advice = "a recurrent core", "distil it"
    elif network.convs or network.residual:
        problem = "convolutions"
    elif network.knows_game:
        problem = "layers of each task's own (controllers, a task embedding, a one-hot vector)"
    elif network.layer_norm:
        problem = "LayerNorm"
    elif network.head != "actor_critic":
        problem = f"a head of type {network.head}, without a value of its own"
        advice = "a student of combat gets one where it learns on (jaxdistill finetune)"
    elif len(set(network.activations)) > 1:
        problem = f"activations {', '.join(network.activations)}"
    elif any(stream.bounded for stream in network.streams):
        problem = "outputs that go through tanh"
    elif len(kinds) != network.num_outputs:
        problem = f"{network.num_outputs} outputs for {len(kinds)} keys and angles"
        advice = "is this the network of another suite?"
    if problem:
        raise ValueError(
            f"Stable-Baselines3's PPO cannot express {problem}; it has dense layers of one "
            f"activation to actions, and others to a value: {advice}"
        )


def _chains(network: networks.Network, params: networks.Params) -> tuple[list[Layer], list[Layer]]:
    """The layers that lead to the actions, and those that lead to the value."""

    shared = _layers(params, "fc", network.hidden)
    if network.streams:
        numbers = range(1, len(network.streams) + 1)
        own = _side_by_side(
            network,
            [_layer(params, f"stream{i}_fc1") for i in numbers],
            [_layer(params, f"stream{i}") for i in numbers],
        )
    else:
        own = [*_layers(params, "action_fc", network.action_hidden), _layer(params, "action")]
    value = [*_layers(params, "value_fc", network.value_hidden), _layer(params, "value")]
    return [*shared, *own], [*shared, *value]


def _layer(params: networks.Params, name: str) -> Layer:
    kernel, bias = (params["params"][name][part] for part in ("kernel", "bias"))
    with np.errstate(over="ignore"):  # what is not finite is refused
        return np.asarray(kernel, "<f4").T, np.asarray(bias, "<f4")


def _layers(params: networks.Params, prefix: str, widths: Sequence[int]) -> list[Layer]:
    return [_layer(params, f"{prefix}{i}") for i in range(1, len(widths) + 1)]


def _side_by_side(
    network: networks.Network, hidden: Sequence[Layer], last: Sequence[Layer]
) -> list[Layer]:
    """The streams' hidden layers as one, and the layer of all outputs: 0 across streams."""
    joined = tuple(np.concatenate([layer[part] for layer in hidden]) for part in (0, 1))
    weight = np.zeros((network.num_outputs, len(joined[1])), "<f4")
    bias = np.zeros(network.num_outputs, "<f4")
    start = 0
    for stream, (own, shift) in zip(network.streams, last, strict=True):
        outputs = list(stream.outputs)
        weight[outputs, start : start + stream.width] = own
        bias[outputs] = shift
        start += stream.width
    return [(joined[0], joined[1]), (weight, bias)]


def _action_layer(layer: Layer, kinds: Sequence[str]) -> Layer:
    """What `action_net` makes of the last features, by what actions are."""
    weight, bias = layer
    keys = np.array([kind == "key" for kind in kinds])
    if not keys.all():
        return weight, (bias + 0.5 * keys).astype("<f4")
    if len(kinds) > 1:
        return weight, bias
    return np.concatenate([0 * weight, weight]), np.concatenate([0 * bias, bias])


def _deviations(kinds: Sequence[str], log_std: np.ndarray | None) -> np.ndarray:
    """`log_std` of the whole Gaussian `(A,)`, with what makes keys go down as often as ours."""
    if log_std is None or np.shape(log_std) != (len(kinds),):
        found = "not given" if log_std is None else f"of shape {np.shape(log_std)}"
        raise ValueError(
            f"log_std is {found}, expected ({len(kinds)},): the logarithms of the deviations that "
            f"angles are drawn with"
        )
    keys = np.array([kind == "key" for kind in kinds])
    return np.where(keys, math.log(KEY_DEVIATION), np.asarray(log_std)).astype("<f4")


def _policy_kwargs(
    network: networks.Network, policy: Sequence[Layer], value: Sequence[Layer]
) -> dict[str, Any]:
    """How the policy is made: the widths of both chains, and their activation."""
    widths = {
        name: [len(bias) for _, bias in chain[:-1]]
        for name, chain in (("pi", policy), ("vf", value))
    }
    module, _, attribute = _ACTIVATIONS[(*network.activations, "tanh")[0]].rpartition(".")
    activation = Name(f"torch.nn.modules.{module}", attribute)
    return _serialized(
        {"net_arch": widths, "activation_fn": activation},
        "<class 'dict'>",
        net_arch=widths,
        activation_fn=f"<class '{activation.module}.{activation.attribute}'>",
    )


def _action_space(kinds: Sequence[str], turn: float) -> dict[str, Any]:
    if "angle" in kinds:
        low, high = {"key": 0.0, "angle": -turn}, {"key": 1.0, "angle": turn}
        return _box([low[kind] for kind in kinds], [high[kind] for kind in kinds])
    if len(kinds) > 1:
        return _space("multi_binary", "MultiBinary", len(kinds), n=len(kinds), _shape=[len(kinds)])
    return _discrete(2)


def _discrete(count: int) -> dict[str, Any]:
    return _space("discrete", "Discrete", count, n=str(count), _shape=[])


def _pictures(shape: Sequence[int]) -> dict[str, Any]:
    """A space of uint8 pictures `(channels, height, width)`."""
    ends = [Call(Name("numpy", "full"), (tuple(shape), end, "uint8")) for end in (0, 255)]
    kind = Call(Name("numpy", "dtype"), ("uint8",))
    said = {"dtype": "uint8", "_shape": list(shape), "low_repr": "0", "high_repr": "255"}
    return _space("box", "Box", *ends, tuple(shape), kind, **said)


def _box(low: Sequence[float], high: Sequence[float]) -> dict[str, Any]:
    ends = [Call(Name("numpy", "array"), (list(end), "float32")) for end in (low, high)]
    said = {name: str(np.asarray(end, "<f4")) for name, end in (("low", low), ("high", high))}
    return _space("box", "Box", *ends, dtype="float32", _shape=[len(low)], **said)


def _space(module: str, name: str, *arguments: Any, **said: Any) -> dict[str, Any]:
    """A space of Gymnasium, with what its own archives say of it."""
    kind = f"<class 'gymnasium.spaces.{module}.{name}'>"
    return _serialized(Call(Name(f"gymnasium.spaces.{module}", name), arguments), kind, **said)


def _serialized(value: Any, kind: str, **said: Any) -> dict[str, Any]:
    """A value that JSON cannot hold, as `data` does: a pickle, and what may be read of it."""
    pickled = base64.b64encode(torch_writer.pickled(value)).decode()
    return {":type:": kind, ":serialized:": pickled, **said}
