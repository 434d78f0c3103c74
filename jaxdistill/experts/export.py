"""Our networks -> PyTorch files, written without PyTorch.

Two kinds of file are written, both readable by `torch.load(path, weights_only=True)` and by
`formats.load`: one for a student of several games (`export`) and one for an expert of one game
(`export_expert`). In Atari these are the reference tools' *merged* and *expert* files; for landers
the checkpoints of the public multi-task lander's shared and single agents. A student of combat is
written as the public fighter's distilled policy; what PPO has taught goes to Stable-Baselines3, see
`export_sb3.py`.

What no convention has a field for, above all what the network sees, is carried beside: see
`formats.carried`.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdistill import networks, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import carried
from jaxdistill.experts.formats.conventions import LANDER_TASKS, SKILLS_PLAN
from jaxdistill.experts.torch_writer import save
from jaxdistill.tasks.atari import ATARI, NUM_ACTIONS, USUAL, Rules
from jaxdistill.tasks.combat import COMBAT
from jaxdistill.tasks.lander import LANDER
from jaxdistill.tasks.views import AnyView, View

DTYPES: dict[str, np.dtype] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}


def export(
    params: networks.Params,
    network: networks.Network,
    path: str | os.PathLike[str],
    *,
    views: Mapping[str, AnyView],
    outputs: str = "q",
    rules: Rules = USUAL,
    teacher_views: Mapping[str, AnyView] | None = None,
    merge_config: Mapping[str, Any] | None = None,
    final_scores: Mapping[str, float] | None = None,
    created: str = "",
) -> None:
    """Writes a student in the convention of its suite.

    Of Atari it is a reference *merged* file, of landers a shared agent, of combat a distilled
    policy.

    Readers of merged files build the network by `architecture` alone. The `variant` is the one
    whose network it is, "ddqn_duel" of a dueling head and "ddqn" of a linear one, for the whole and
    for every game.

    Args:
      params: as `networks.init` gives them.
      network: in Atari a "dueling" network of three Nature-shaped convolutions and one dense layer
        per stream, or a "linear" one with one dense layer; any widths, 18 outputs, ReLU. For
        landers one of two dense layers and a linear head, any widths, ReLU, without a task
        embedding, or with one and for the convention's three tasks in its order. For combat one
        shaped like `networks.create("skills")`, of any width of the encoder; a critic is left out.
      path: the file to write; its folder is made if needed.
      views: the games it plays and what it sees of each, all of one shape.
      outputs: "q" or "logits", as `Expert.outputs`.
      rules: how its games are played.
      teacher_views: as `Expert.teacher_view`, by game.
      merge_config, final_scores, created: what the convention keeps beside the weights: settings,
        the score per game, and when, as an ISO time.

    Raises:
      ValueError: the convention cannot express the network, the views differ in shape, or the file
        exists.
    """
    named: dict[str | None, AnyView] = {tasks.get(g).name: view for g, view in views.items()}
    saws: dict[str | None, AnyView] = {
        tasks.get(g).name: view for g, view in (teacher_views or {}).items()
    }
    suite = tasks.get(next(iter(views))).suite
    if suite not in (ATARI, LANDER, COMBAT):
        raise ValueError(
            f"no program in PyTorch has files for {suite.name}; write it with --format=module, "
            f"which brings its own, or student, onnx or stablehlo"
        )
    first = next(iter(named.values()))
    if any(view.shape != first.shape for view in named.values()):
        raise ValueError(f"views differ in shape: {sorted({v.shape for v in named.values()})}")
    if isinstance(first, View):
        dueling = network.head == "dueling"
        variant = "ddqn_duel" if dueling else "ddqn"
        convention: dict[str, Any] = {
            "state_dict": to_state_dict(params, network, first),
            "architecture": "DuelingCNNDQN" if dueling else "CNNDQN",
            "action_dim": network.num_outputs,
            "variant": variant,
            "actual_variants": dict.fromkeys(named, variant),
        }
    elif suite == COMBAT:
        convention = {
            "policy_state_dict": skills_state_dict(params, network),
            "obs_dim": first.shape[-1],
            "action_dim": network.num_outputs,
            "hidden_dim": network.hidden[0],
        }
    else:
        weights = lander_state_dict(params, network, tuple(map(str, named)))
        convention = {
            "q_network": weights,
            "target_network": weights,
            "optimizer": fresh_adam(len(weights)),
            **_COUNTERS,
        }
    checkpoint = {
        **convention,
        "games": list(named),
        "merge_config": dict(merge_config or {}),
        "final_scores": {
            tasks.get(game).name: float(score) for game, score in (final_scores or {}).items()
        },
        "created": created,
        carried.KEY: carried.Carried(outputs, named, rules, saws).to_dict(),
    }
    save(checkpoint, path)


def export_expert(expert: Expert, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
    """Writes an expert of Atari as a reference *expert* file, one of a lander as a single agent.

    See `export` for what can be expressed. The conventions know Q-values alone. An expert's logits
    stand in their place as they are: greedy play is the same, and `formats.load` knows them for
    logits. Atari's own programs also want a `training_config.json` beside the file: see
    `write_training_config`.

    Args:
      dtype: "float32", or "float16" for half the size and about three digits.

    Raises:
      ValueError: the convention cannot express the expert, or the file exists.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    screen = isinstance(expert.view, View)
    if expert.game is not None and expert.task.suite == COMBAT:
        raise ValueError(
            f"{expert.name}: plays {expert.game}; experts of combat are written for "
            f"Stable-Baselines3: --format=sb3"
        )
    if expert.game is None and not screen:
        raise ValueError(
            f"{expert.name}: sees no screen, and does not say what it plays; if that is a lander, "
            f"convert it again with --game"
        )
    if expert.game is not None and expert.task.suite != (ATARI if screen else LANDER):
        raise ValueError(
            f"{expert.name}: plays {expert.game}, for which no program in PyTorch has files; write "
            f"it with --format=module, which brings its own, or onnx or stablehlo"
        )
    count, what = (NUM_ACTIONS, "ALE") if screen else (LANDER.num_actions, "lander")
    if expert.actions != tuple(range(count)):
        raise ValueError(
            f"{expert.name}: has outputs for actions {list(expert.actions)}; the reference "
            f"convention expects all {count} {what} actions in order, --format=module, sb3, onnx "
            f"and stablehlo any"
        )
    if isinstance(expert.view, View):
        weights = to_state_dict(expert.params, expert.network, expert.view, dtype=dtype)
        convention: dict[str, Any] = {
            "policy_net_state_dict": weights,
            "target_net_state_dict": weights,
            "optimizer_state_dict": fresh_adam(len(weights)),
            "epsilon": 0.0,
            "training_step": 0,
            "use_double": False,
            "use_dueling": expert.network.head == "dueling",
            "use_priority": False,
        }
    else:
        weights = lander_state_dict(expert.params, expert.network, dtype=dtype)
        convention = {
            "q_network_state_dict": weights,
            "optimizer_state_dict": fresh_adam(len(weights)),
            **_COUNTERS,
        }
    checkpoint = {
        **convention,
        carried.KEY: carried.Carried.of(expert).to_dict(),
    }
    save(checkpoint, path)


def write_training_config(path: str | os.PathLike[str], network: networks.Network) -> str | None:
    """Writes `training_config.json` beside an expert's file: it holds the reference's `dueling`.

    One that stands there is never touched: it is another expert's too.

    Returns:
      What the user should know, in one line: it could not be written, or the one that stands there
      is of another kind of network. None where all is well.
    """
    beside, dueling = (
        pathlib.Path(path).with_name("training_config.json"),
        network.head == "dueling",
    )
    try:
        _write_new(beside, json.dumps({"dueling": dueling}) + "\n")
    except FileExistsError:
        try:
            standing = json.loads(beside.read_text())["dueling"]
        except (OSError, ValueError, KeyError, TypeError):
            standing = None
        if standing is not dueling:
            return (
                f"{beside} stands there and does not say dueling: {json.dumps(dueling)}; the "
                f"reference's programs need it to, so give the file a folder of its own"
            )
    except OSError as error:
        return f"{beside} cannot be written ({error.strerror}); the reference's programs need it"
    return None


def _write_new(path: pathlib.Path, text: str) -> None:
    """Writes a file where there is none; nothing of it stays where the disk is full."""
    with open(path, "x") as file:
        try:
            file.write(text)
            file.flush()
        except OSError:
            path.unlink()
            raise


# Of the multi-task lander's checkpoints: a policy that no longer explores, from no training of its.
_COUNTERS = {"epsilon": 0.0, "steps": 0, "episodes": 0}


def fresh_adam(parameters: int, rate: float = 1e-4, *, eps: float = 1e-8) -> dict[str, Any]:
    """The state_dict of a `torch.optim.Adam` that has not begun; conventions have one."""
    group = {
        "lr": rate,
        "betas": (0.9, 0.999),
        "eps": eps,
        "weight_decay": 0.0,
        "amsgrad": False,
        "params": list(range(parameters)),
    }
    return {"state": {}, "param_groups": [group]}


def to_state_dict(
    params: networks.Params, network: networks.Network, view: View, *, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """The parameters under the names of Atari's reference convention, in PyTorch's layout.

    Raises:
      ValueError: the convention cannot express the network, the parameters are of another view, or
        a weight is not finite in `dtype`.
    """
    _check(network)
    tree = params["params"]
    names = {"conv1": "conv1", "conv2": "conv2", "conv3": "conv3"}
    if network.head == "dueling":
        names |= {"value_fc1": "fc_value", "value": "value"}
        names |= {"action_fc1": "fc_adv", "action": "advantage"}
    else:
        names |= {"fc1": "fc1", "action": "fc2"}
    state_dict = {}
    for ours, theirs in names.items():
        kernel = np.asarray(tree[ours]["kernel"], np.float32)
        if ours == "conv1" and kernel.shape[2] != view.shape[0]:
            raise ValueError(
                f"conv1 takes {kernel.shape[2]} channels and the view has {view.shape[0]}; these "
                f"parameters are of another view"
            )
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        else:
            kernel = kernel.T
            if ours in ("value_fc1", "action_fc1", "fc1"):
                kernel = channels_first(kernel, network, view, ours)
        for name, array in (("weight", kernel), ("bias", tree[ours]["bias"])):
            state_dict[f"{theirs}.{name}"] = _written(array, f"{ours} {name}", dtype)
    return state_dict


def lander_state_dict(
    params: networks.Params,
    network: networks.Network,
    games: tuple[str, ...] = (),
    *,
    dtype: str = "float32",
) -> dict[str, np.ndarray]:
    """The parameters under the names of the public multi-task lander, in PyTorch's layout.

    Args:
      games: the tasks of a network that knows its task, in its order.

    Raises:
      ValueError: the convention cannot express the network, or a weight is not finite in `dtype`.
    """
    _check_lander(network, games)
    tree, state_dict = params["params"], {}
    if network.task_embedding:
        vectors = tree["task_embedding"]["embedding"]
        state_dict["task_embedding.weight"] = _written(vectors, "task_embedding", dtype)
    for ours, theirs in (("fc1", "fc1"), ("fc2", "fc2"), ("action", "fc3")):
        weights = np.asarray(tree[ours]["kernel"]).T
        state_dict[f"{theirs}.weight"] = _written(weights, f"{ours} weight", dtype)
        state_dict[f"{theirs}.bias"] = _written(tree[ours]["bias"], f"{ours} bias", dtype)
    return state_dict


def skills_state_dict(params: networks.Params, network: networks.Network) -> dict[str, np.ndarray]:
    """The policy under the names of the public fighter's distilled one, in PyTorch's layout.

    Its readers put a sigmoid on keys and click, which are down above 0.5, and tanh on the angles.

    Raises:
      ValueError: the convention cannot express the network, or a weight is not finite.
    """
    _check_skills(network)
    names = {f"fc{i}": layer.key for i, layer in enumerate(SKILLS_PLAN.hidden, 1)}
    for i, stream in enumerate(network.streams, 1):
        (planned,) = (known for known in SKILLS_PLAN.streams if known.outputs == stream.outputs)
        names |= {f"stream{i}_fc1": planned.hidden.key, f"stream{i}": planned.last.key}
    state_dict = {}
    for ours, theirs in names.items():
        weights = np.asarray(params["params"][ours]["kernel"]).T
        state_dict[f"{theirs}.weight"] = _written(weights, f"{ours} weight", "float32")
        bias = params["params"][ours]["bias"]
        state_dict[f"{theirs}.bias"] = _written(bias, f"{ours} bias", "float32")
    return state_dict


def _written(array: Any, what: str, dtype: str) -> np.ndarray:
    """Numbers as they stand in a file; ValueError if they are not finite there."""
    with np.errstate(over="ignore"):  # refused below
        array = np.ascontiguousarray(np.asarray(array).astype(DTYPES[dtype]))
    if not np.isfinite(array).all():
        raise ValueError(f"{what} is not finite as {dtype}; nothing was written")
    return array


def _check_lander(network: networks.Network, games: tuple[str, ...]) -> None:
    """Refuses networks that the multi-task lander has no names for, saying what to do."""
    alone = "write it task by task: --format=expert --game=NAME"
    distil = "train or distil one of that kind, mlp or mlp_task_embedding"
    problem, advice = networks.only_of_experts(network), distil
    if problem:
        pass
    elif network.convs or network.residual:
        problem, advice = "convolutions", distil
    elif network.layer_norm:
        problem, advice = "LayerNorm", distil
    elif set(network.activations) != {"relu"}:
        problem, advice = f"activation {network.activation}", distil
    elif network.streams:
        problem, advice = "a head of streams", distil
    elif network.head != "linear":
        problem, advice = f"a head of type {network.head}", distil
    elif (len(network.hidden), len(network.action_hidden)) != (2, 0):
        problem = f"{len(network.hidden)} shared and {len(network.action_hidden)} action layers"
        advice = distil
    elif network.num_outputs != LANDER.num_actions:
        problem, advice = f"{network.num_outputs} outputs", distil
    elif network.one_hot or network.controllers:
        problem = "one-hot vectors of the task" if network.one_hot else "controllers of each task"
        advice = alone
    elif network.task_embedding and games != LANDER_TASKS:
        problem, advice = f"learnt vectors for {', '.join(games)}", alone
    if problem:
        raise ValueError(
            f"the lander convention cannot express {problem}; it has ReLU networks of two dense "
            f"layers and a linear head of {LANDER.num_actions} outputs, with a learnt vector for "
            f"each of {', '.join(LANDER_TASKS)}, in this order, or without: "
            f"{advice}{'' if network.core else ', or write it with --format=module'}"
        )


def _check_skills(network: networks.Network) -> None:
    """Refuses networks that the public fighter has no names for, saying what to do."""
    known = networks.create("skills")
    streams = {stream.outputs: stream for stream in known.streams}
    mine = {stream.outputs: stream for stream in network.streams}
    width = network.hidden[0] if network.hidden else 0
    distil, problem = "distil one of that kind, skills", None
    if network.convs or network.residual:
        problem = "convolutions"
    elif network.knows_game:
        problem = "layers of each task's own (a task embedding, a one-hot vector)"
    elif network.layer_norm:
        problem = "LayerNorm"
    elif set(network.activations) != {"relu"}:
        problem = f"activation {network.activation}"
    elif network.head not in ("linear", "actor_critic"):
        problem = f"a head of type {network.head}"
    elif not network.streams:
        problem = "one layer of all outputs"
    elif network.hidden != (width, width, width // 2):
        problem = f"shared layers of {', '.join(map(str, network.hidden)) or 'no'} units"
    elif mine.keys() != streams.keys():
        problem = f"streams of the outputs {', '.join(map(str, mine))}"
    elif any(mine[outputs].width != stream.width for outputs, stream in streams.items()):
        problem = f"streams of {', '.join(str(mine[outputs].width) for outputs in streams)} units"
    elif any(mine[outputs].bounded != stream.bounded for outputs, stream in streams.items()):
        problem = "angles without tanh, or keys with it"
        distil = "what PPO has taught is written with --format=sb3"
    if problem:
        raise ValueError(
            f"the fighter's convention cannot express {problem}; it has ReLU networks of three "
            f"shared layers (n, n, n/2) and streams of 64, 32 and 16 units for the keys, the "
            f"angles (through tanh) and the click: {distil}, or write it with --format=module"
        )


def channels_first(
    weight: np.ndarray, network: networks.Network, view: View, name: str
) -> np.ndarray:
    """The weights `(outputs, inputs)` of a layer behind convolutions, as PyTorch has its inputs.

    Our networks flatten (H, W, C), PyTorch's (C, H, W).

    Raises:
      ValueError: they are of another view.
    """
    grid = networks.grid(network.convs, view.height, view.width)
    channels = network.convs[-1].features
    if weight.shape[1] != grid[0] * grid[1] * channels:
        raise ValueError(
            f"{name} takes {weight.shape[1]} numbers, and its convolutions make "
            f"{grid[0]}x{grid[1]}x{channels} of a {view.height}x{view.width} view; these "
            f"parameters are of another view"
        )
    weight = weight.reshape(-1, *grid, channels).transpose(0, 3, 1, 2)
    return weight.reshape(len(weight), -1)


def _check(network: networks.Network) -> None:
    """Refuses networks that the reference convention has no names for, saying what it has."""
    geometry = [(c.kernel, c.stride, c.padding) for c in network.convs]
    wanted = [(c.kernel, c.stride, c.padding) for c in networks.NATURE_CONVS]
    streams = (len(network.hidden), len(network.action_hidden), len(network.value_hidden))
    problem = networks.only_of_experts(network)
    if problem:
        pass
    elif network.knows_game:
        problem = "layers of each game's own (controllers, task embeddings)"
    elif network.residual:
        problem = "residual sections"
    elif network.streams:
        problem = "a head of streams"
    elif network.layer_norm:
        problem = "LayerNorm"
    elif network.activation != "relu":
        problem = f"activation {network.activation}"
    elif geometry != wanted:
        problem = f"convolutions (kernel, stride, padding) {geometry}"
    elif network.head not in ("dueling", "linear"):
        problem = f"a head of type {network.head}"
    elif streams != ((0, 1, 1) if network.head == "dueling" else (1, 0, 0)):
        problem = (
            f"a {network.head} head with {streams[0]} shared, {streams[1]} action and "
            f"{streams[2]} value dense layers"
        )
    elif network.num_outputs != NUM_ACTIONS:
        problem = f"{network.num_outputs} outputs"
    if problem:
        raise ValueError(
            f"the reference convention cannot express {problem}; it has ReLU networks of "
            f"convolutions {wanted} with one dense layer per stream of a dueling head, or one "
            f"before a linear head, and {NUM_ACTIONS} outputs: "
            f"{'distil it' if network.core else 'write it with --format=module'}"
        )
