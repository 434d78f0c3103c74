"""Networks as plain JSON values, and back; what is read is checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdistill.networks.cells import Core
from jaxdistill.networks.convolutions import ACTIVATIONS, ConvLayer
from jaxdistill.networks.network import (
    HEADS,
    Atoms,
    Network,
    Stream,
    check_core,
    check_distribution,
    check_streams,
)

_MAX_LAYERS = 100_000  # of one kind


def to_dict(network: Network) -> dict[str, Any]:
    """The fields of a network as plain JSON values; `from_dict` turns them back.

    What came later is named only where it is used, so that a network is called what it ever was.
    """
    later: dict[str, Any] = {
        "atoms": network.atoms and dataclasses.asdict(network.atoms),
        "fractions": network.fractions,
        "input_clip": network.input_clip,
        "torch_pool": network.torch_pool,
        "core": network.core and dataclasses.asdict(network.core),
        "frame_decay": network.frame_decay,
    }
    return {name: value for name, value in later.items() if value} | {
        "convs": [
            {name: n for name, n in dataclasses.asdict(layer).items() if name != "extra" or n}
            for layer in network.convs
        ],
        "residual": list(network.residual),
        "hidden": list(network.hidden),
        "head": network.head,
        "action_hidden": list(network.action_hidden),
        "value_hidden": list(network.value_hidden),
        "streams": [
            dataclasses.asdict(stream) | {"outputs": list(stream.outputs)}
            for stream in network.streams
        ],
        "num_outputs": network.num_outputs,
        "activation": network.activation
        if isinstance(network.activation, str)
        else list(network.activation),
        "layer_norm": network.layer_norm,
        "controllers": network.controllers,
        "task_embedding": network.task_embedding,
        "one_hot": network.one_hot,
        "game_actions": [list(actions) for actions in network.game_actions],
    }


def from_dict(fields: Mapping[str, Any]) -> Network:
    """The inverse of `to_dict`; what an older file does not name has its default.

    Raises:
      ValueError: sizes or names that no network has.
      KeyError, TypeError: fields that are missing or not of their kind.
    """
    fields = dict(fields)
    for name in ("convs", "residual", "hidden", "action_hidden", "value_hidden", "streams"):
        if len(fields.get(name, ())) > _MAX_LAYERS:
            raise ValueError(f"{name} are {len(fields[name])}, expected {_MAX_LAYERS} at most")
    fields["convs"] = tuple(ConvLayer(**layer) for layer in fields["convs"])
    for name in ("residual", "hidden", "action_hidden", "value_hidden"):
        fields[name] = tuple(fields.get(name, ()))
    fields["streams"] = tuple(
        Stream(**{**stream, "outputs": tuple(stream["outputs"])})
        for stream in fields.get("streams", ())
    )
    fields["game_actions"] = tuple(tuple(actions) for actions in fields.get("game_actions", ()))
    if fields.get("atoms") is not None:
        fields["atoms"] = Atoms(**fields["atoms"])
    if fields.get("core") is not None:
        fields["core"] = Core(**fields["core"])
    if not isinstance(fields["activation"], str):
        fields["activation"] = tuple(fields["activation"])
    network = Network(**fields)
    convs = [dataclasses.astuple(layer) for layer in network.convs]
    widths = (*network.residual, *network.hidden, *network.action_hidden, *network.value_hidden)
    widths += tuple(stream.width for stream in network.streams)
    owned = tuple(output for stream in network.streams for output in stream.outputs)
    widths += (network.core.width,) if network.core else ()
    sizes = (*(size for conv in convs for size in conv[:3]), *widths, network.num_outputs)
    others = (*(n for conv in convs for n in conv[3:]), network.task_embedding, *owned)
    others += (network.fractions, network.atoms.count if network.atoms else 0)
    if not all(type(n) is int and 0 < n < 2**31 for n in sizes) or not all(
        type(n) is int and 0 <= n < 2**31 for n in others
    ):
        raise ValueError("a network's sizes are whole numbers above 0")
    if any(max(layer.pad) >= layer.kernel for layer in network.convs):
        raise ValueError("a convolution's padding is less than its kernel")
    if network.head not in HEADS or not set(network.activations) <= ACTIVATIONS.keys():
        raise ValueError(f"a network's head is one of {', '.join(HEADS)}, its activations known")
    flags = [network.layer_norm, network.controllers, network.one_hot, network.torch_pool]
    flags += [stream.bounded for stream in network.streams]
    if not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(
            "layer_norm, controllers, one_hot, torch_pool and bounded are true or false"
        )
    numbers = [network.input_clip]
    numbers += [network.atoms.low, network.atoms.high] if network.atoms else []
    if not all(type(x) in (int, float) and abs(x) < 1e9 for x in numbers) or numbers[0] < 0:
        raise ValueError("input_clip and the ends of atoms are finite numbers below 1e9")
    if type(network.frame_decay) not in (int, float) or not 0 <= network.frame_decay < 1:
        raise ValueError("frame_decay is a number of 0..1, below 1")
    check_streams(network)
    check_distribution(network)
    check_core(network)
    return network


def same_architecture(a: Network, b: Network) -> bool:
    """Whether two networks are alike in all but the dtype that they compute in."""
    return to_dict(a) == to_dict(b)
