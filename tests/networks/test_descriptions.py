"""Tests for networks as JSON: what survives it, and what is refused."""

import json

import jax.numpy as jnp
import pytest
from small_networks import KNOWING, RESIDUAL, STREAMS, TINY

from jaxdistill import networks
from jaxdistill.networks import Atoms, ConvLayer, Network

EXPERTS_ONLY = {
    "atoms": TINY.clone(atoms=Atoms(-10.0, 10.0, 51)),
    "fractions": TINY.clone(fractions=32),
    "input_clip": TINY.clone(input_clip=5.0),
    "torch_pool": RESIDUAL.clone(torch_pool=True),
    "extra": Network(convs=(ConvLayer(2, 4, 2, 1, 1),), num_outputs=5),
}


@pytest.mark.parametrize("network", EXPERTS_ONLY.values(), ids=EXPERTS_ONLY)
def test_what_only_experts_have_survives_json_and_changes_no_other_description(network):
    fields = networks.to_dict(network)
    again = networks.from_dict(json.loads(json.dumps(fields)))
    assert again == network and hash(again) == hash(network)
    plain = networks.to_dict(Network())
    assert not {"atoms", "fractions", "input_clip", "torch_pool"} & plain.keys()
    assert all(
        layer.keys() == {"features", "kernel", "stride", "padding"} for layer in plain["convs"]
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"atoms": {"low": 1.0, "high": -1.0, "count": 2}}, "not below the largest"),
        ({"atoms": {"low": -1.0, "high": 1.0, "count": 1}}, "not below the largest"),
        ({"atoms": {"low": -1.0, "high": 1.0, "count": 2.5}}, "whole numbers"),
        ({"atoms": {"low": -1.0, "high": float("inf"), "count": 2}}, "finite numbers"),
        ({"input_clip": -1.0}, "finite numbers"),
        ({"fractions": -1}, "whole numbers"),
        ({"fractions": 2, "head": "dueling"}, "a head of type linear"),
        ({"torch_pool": 1}, "true or false"),
        ({"convs": [{"features": 1}] * 400_000}, "convs are 400000, expected 100000 at most"),
    ],
    ids=lambda x: str(x)[:60],
)
def test_a_description_of_a_distribution_that_cannot_be_is_refused(fields, words):
    with pytest.raises(ValueError, match=words):
        networks.from_dict(networks.to_dict(Network(hidden=(3,))) | fields)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_network_survives_json(name):
    outputs = 9 if name.startswith("skills") else 6
    network = networks.create(name, num_outputs=outputs, activation="elu")
    again = networks.from_dict(json.loads(json.dumps(networks.to_dict(network))))
    assert again == network
    assert hash(again) == hash(network)
    assert again.num_outputs == outputs and again.activation == "elu"


@pytest.mark.parametrize(
    "network",
    [*KNOWING.values(), RESIDUAL, STREAMS],
    ids=[*KNOWING, "residual", "streams_alone"],
)
def test_its_games_survive_json_too(network):
    again = networks.from_dict(json.loads(json.dumps(networks.to_dict(network))))
    assert again == network and hash(again) == hash(network)


def test_a_description_from_before_a_field_was_known_is_read():
    fields = networks.to_dict(networks.create("dueling"))
    for name in ("residual", "controllers", "task_embedding", "one_hot", "game_actions", "streams"):
        del fields[name]
    assert networks.from_dict(fields) == networks.create("dueling")


@pytest.mark.parametrize(
    ("stream", "words"),
    [
        ({"width": 0}, "whole numbers above 0"),
        ({"width": True}, "whole numbers above 0"),
        ({"width": 10**30}, "whole numbers above 0"),
        ({"outputs": [0, 4, -1]}, "whole numbers above 0"),
        ({"outputs": [0.0, 4]}, "whole numbers above 0"),
        ({"outputs": [0, 10**9]}, r"expected each of 0..4 once"),
        ({"outputs": "04"}, "whole numbers above 0"),
        ({"outputs": list(range(5)) * 10**4}, r"and more; expected each of 0..4 once"),
        ({"outputs": []}, "expected each of 0..4 once"),
        ({"bounded": 1}, "bounded are true or false"),
    ],
    ids=str,
)
def test_a_description_of_streams_that_cannot_be_is_refused(stream, words):
    fields = networks.to_dict(STREAMS)
    fields["streams"][0] = fields["streams"][0] | stream
    with pytest.raises(ValueError, match=words) as caught:
        networks.from_dict(fields)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_streams_are_counted_before_their_outputs_are_listed():
    fields = networks.to_dict(STREAMS) | {"num_outputs": 2**31 - 1}  # a list of them would be 16 GB
    with pytest.raises(ValueError, match=r"expected each of 0..2147483646 once"):
        networks.from_dict(fields)


def test_networks_that_compute_in_another_dtype_are_of_one_architecture():
    rough = TINY.clone(dtype=jnp.bfloat16)
    assert rough != TINY and networks.same_architecture(rough, TINY)
    assert not networks.same_architecture(TINY, TINY.clone(activation="elu"))
