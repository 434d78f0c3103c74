"""Networks made from others: for a run's tasks, for some of its games or outputs, by a torso.

Where parameters are given, those of the new network are made of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.networks.convolutions import ConvLayer
from jaxdistill.networks.descriptions import same_architecture
from jaxdistill.networks.network import Network, Params, Stream, check_core, check_streams
from jaxdistill.networks.table import NETWORKS
from jaxdistill.tasks.task import Task


def for_tasks(network: Network, tasks: Sequence[Task]) -> Network:
    """The network of a run of these tasks, of one suite: with an output for each of its actions.

    One that does not know its game stays as it is otherwise.

    Raises:
      ValueError: it looks at pictures, and they show none; its streams are of another number of
        outputs; or it has no place for its core.
    """
    suite = tasks[0].suite
    if (network.convs or network.residual) and len(suite.view.shape) != 3:
        vectors = [
            name
            for name, known in NETWORKS.items()
            if not known.convs + known.residual
            and (not known.streams or known.num_outputs == suite.num_actions)
        ]
        raise ValueError(
            f"the network looks at screens, and {tasks[0].name} shows {suite.view}; choose one of "
            f"{', '.join(vectors)}"
        )
    network = network.clone(num_outputs=suite.num_actions)
    try:
        check_streams(network)
    except ValueError as error:
        raise ValueError(
            f"the network is of other tasks than {tasks[0].name}, with its {suite.num_actions} "
            f"outputs: {error}"
        ) from error
    check_core(network)
    if not network.knows_game:
        return network
    return network.clone(game_actions=tuple(task.actions for task in tasks))


def for_one_game(
    network: Network, params: Params, game: int
) -> tuple[Network, Params, tuple[int, ...]]:
    """What plays one game of a network that knows its game: an ordinary network.

    The game's controller becomes the head; its vector, the same in every row, becomes part of the
    biases behind it.

    Args:
      game: its index.

    Returns:
      The network, its parameters, and the suite's action of each of its outputs.
    """
    layers, actions = dict(params["params"]), tuple(range(network.num_outputs))
    if network.controllers:
        actions = network.game_actions[game]
        own = f"controller{game + 1}"
        for name in [name for name in layers if name.startswith("controller")]:
            layer = layers.pop(name)
            if name.split("_")[0] == own:
                layers[name.replace(own, "action")] = layer
    alone = network.clone(
        controllers=False,
        task_embedding=0,
        one_hot=False,
        game_actions=(),
        num_outputs=len(actions),
    )
    if network.task_embedding or network.one_hot:
        if network.one_hot:
            vector = np.eye(len(network.game_actions), dtype=np.float32)[game]
        else:
            vector = layers.pop("task_embedding")["embedding"][game]
        for name in first_dense(alone):
            kernel, bias = layers[name]["kernel"], layers[name]["bias"]
            rest = kernel.shape[0] - len(vector)
            layers[name] = {"kernel": kernel[:rest], "bias": bias + vector @ kernel[rest:]}
    return alone, {"params": layers}, actions


def for_some_games(
    network: Network, params: Params, games: Sequence[int]
) -> tuple[Network, Params]:
    """What plays some of the games of a network that knows its game, `games` in this order.

    One that does not know its game is the same whatever it plays.
    """
    if not network.knows_game:
        return network, params
    layers, kept = dict(params["params"]), np.asarray(games)
    some = network.clone(game_actions=tuple(network.game_actions[game] for game in games))
    if network.controllers:
        own = {name: layers.pop(name) for name in [*layers] if name.startswith("controller")}
        for new, old in enumerate(games, 1):
            prefix = f"controller{old + 1}"
            for name in [name for name in own if name.split("_")[0] == prefix]:
                layers[name.replace(prefix, f"controller{new}")] = own[name]
    if network.task_embedding:
        vectors = layers["task_embedding"]["embedding"]
        layers["task_embedding"] = {"embedding": vectors[kept]}
    for name in first_dense(some) if network.one_hot else ():
        kernel = layers[name]["kernel"]
        rest = kernel.shape[0] - len(network.game_actions)
        places = np.concatenate([np.arange(rest), rest + kept])
        layers[name] = {**layers[name], "kernel": kernel[places]}
    return some, {"params": layers}


def with_outputs(
    network: Network, params: Params, outputs: Sequence[int]
) -> tuple[Network, Params]:
    """The network of so many of a network's outputs, in their order; for one without controllers.

    Streams that none of them is of go.
    """
    layers, kept = dict(params["params"]), list(outputs)
    if not network.streams:
        depth = network.depth
        places = [output * depth + i for output in kept for i in range(depth)]
        layers["action"] = {name: x[..., places] for name, x in layers["action"].items()}
        return network.clone(num_outputs=len(kept)), {"params": layers}
    streams: list[Stream] = []
    activations = list(network.activations)
    for i, stream in enumerate(network.streams, 1):
        own = {x: layers.pop(f"stream{i}{x}", None) for x in ("", "_fc1", "_fc_norm1")}
        places = [place for place, output in enumerate(stream.outputs) if output in kept]
        if not places:
            del activations[network.layer_count(3) + len(streams)]
            continue
        own[""] = {name: x[..., places] for name, x in own[""].items()}
        taken = tuple(kept.index(stream.outputs[place]) for place in places)
        streams.append(dataclasses.replace(stream, outputs=taken))
        layers |= {f"stream{len(streams)}{x}": layer for x, layer in own.items() if layer}
    uniform = isinstance(network.activation, str)
    network = network.clone(
        streams=tuple(streams),
        num_outputs=len(kept),
        activation=network.activation if uniform else tuple(activations),
    )
    return network, {"params": layers}


def first_dense(network: Network) -> list[str]:
    """Names of the layers that take the features."""
    if network.hidden:
        return ["fc1"]
    if network.core:
        return ["core_input"]
    if network.streams:
        first = [f"stream{i}_fc1" for i in range(1, len(network.streams) + 1)]
    elif network.controllers:
        layer = "_fc1" if network.action_hidden else ""
        first = [f"controller{i}{layer}" for i in range(1, len(network.game_actions) + 1)]
    else:
        first = ["action_fc1" if network.action_hidden else "action"]
    if network.head != "linear":
        first.append("value_fc1" if network.value_hidden else "value")
    return first


def task_vectors(network: Network, params: Params) -> np.ndarray | None:
    """The vector `(G, task_embedding)` learnt for each task; None where there is none to learn."""
    if not network.task_embedding:
        return None
    return np.asarray(params["params"]["task_embedding"]["embedding"])


def torso(network: Network) -> Network:
    """Its convolutions alone, with a linear head.

    Networks whose torsos are equal can take over each other's convolutions; see `with_torso`, and
    `may_take_torso` for others that can.
    """
    layers = network.layer_count(2)
    return Network(
        convs=network.convs,
        residual=network.residual,
        activation=network.activations[:layers],
        layer_norm=network.layer_norm,
        input_clip=network.input_clip,
        torch_pool=network.torch_pool,
        frame_decay=network.frame_decay,
    )


def may_take_torso(own: Network, *others: Network) -> bool:
    """Whether `own` has the convolutions of `others` side by side, perhaps with more features.

    Or those of the only one, whatever they are. Of several, and where there is more room, a layer
    of `own` has at least as many features as theirs have together, the same stride and padding,
    and, without padding, a kernel that is as large or larger. They may have fewer layers.
    """
    if len(others) == 1 and same_architecture(torso(own), torso(others[0])):
        return bool(own.convs or own.residual)
    if own.layer_norm or own.residual or not own.convs:
        return False
    free = [layer.features for layer in own.convs]
    for other in others:
        if not 0 < len(other.convs) <= len(free) or not all(map(_fits, other.convs, own.convs)):
            return False
        activation = own.activations[: len(other.convs)] + own.activations[len(free) :]
        like = torso(own.clone(convs=other.convs, activation=activation))
        if not same_architecture(like, torso(other)):
            return False
        for index, layer in enumerate(other.convs):
            free[index] -= layer.features
    return min(free) >= 0


def _fits(theirs: ConvLayer, own: ConvLayer) -> bool:
    """Whether a layer has room for the kernels of another."""
    alike = dataclasses.replace(theirs, features=own.features, kernel=own.kernel) == own
    return alike and (
        theirs.kernel == own.kernel or (theirs.kernel < own.kernel and own.pad == (0, 0))
    )


def side_by_side(*others: Network) -> tuple[ConvLayer, ...]:
    """Convolutions with room for those of `others`, as far as there are such: `may_take_torso`."""
    layers = []
    for index in range(max(len(other.convs) for other in others)):
        theirs = [other.convs[index] for other in others if index < len(other.convs)]
        features, kernel = sum(x.features for x in theirs), max(x.kernel for x in theirs)
        layers.append(dataclasses.replace(theirs[0], features=features, kernel=kernel))
    return tuple(layers)


def with_torso(params: Params, *others: Params) -> Params:
    """`params` with the convolutions of `others`, of networks whose torsos this one may take.

    Where there are more features, those of `others` are the first, in their order, and begin by
    seeing what they see there, each its own features alone; the rest are as in `params` and see
    all. So nothing that the others have learnt to see is lost, and there is room for what they have
    not (as Net2WiderNet, Chen et al. 2016, but that the new ones are no copies). A smaller kernel
    lies in the upper left corner of a larger one, whose other weights begin at 0.
    """
    layers = dict(params["params"])
    before = [0] * len(others)  # where the features of each begin, in the layer before
    own = params["params"]
    # In their order: names may come sorted, "conv10" before "conv2".
    for name in sorted(own, key=lambda x: (x.rstrip("0123456789"), len(x), x)):
        if not name.startswith(("input", "conv", "section")):
            continue
        layer = own[name]
        first = 0
        for index, other in enumerate(others):
            taken = other["params"].get(name)
            if taken is None:  # it has fewer layers
                continue
            place = functools.partial(_placed, before=before[index], first=first)
            layer = jax.tree.map(place, layer, taken)
            if "kernel" in taken:
                before[index], first = first, first + taken["kernel"].shape[-1]
        layers[name] = layer
    return {"params": layers}


def _placed(fresh: jax.Array, taken: jax.Array, before: int, first: int) -> jax.Array:
    """A kernel `(k, k, C, F)` or bias `(F,)` whose features from `first` on are those of `taken`.

    Args:
      before: index of the first of the C channels that these see.
    """
    if fresh.shape == taken.shape:
        return taken
    own = slice(first, first + taken.shape[-1])
    alone = jnp.asarray(fresh).at[..., own].set(0.0)
    if taken.ndim == 1:
        return alone.at[own].set(taken)
    rows, columns, channels, _ = taken.shape
    return alone.at[:rows, :columns, before : before + channels, own].set(taken)
