"""Tests for expert directories: what `save` wrote loads; JSON and weights that disagree do not."""

import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from jaxdistill.experts import formats
from jaxdistill.experts.expert import Expert

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
JSON, WEIGHTS = "expert.json", "weights.safetensors"


@pytest.fixture(params=["screen", "vector"])
def saved(request, tmp_path):
    """The directory of a small expert, with convolutions or without."""
    if request.param == "screen":
        expert = formats.load(GOLDEN / "expert_dueling.pth", spec=GOLDEN / "expert_dueling.toml")
    else:
        expert = formats.load(GOLDEN / "expert_ppo.zip")
    expert.save(tmp_path / "saved")
    return tmp_path / "saved"


def _change(path: pathlib.Path, **changes):
    fields = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        inner = fields
        for parent in parents:
            inner = inner[parent]
        inner[last] = value
    path.write_text(json.dumps(fields))


def _refused(directory: pathlib.Path, *words: str) -> str:
    with pytest.raises(ValueError) as caught:
        Expert.load(directory)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    for word in (str(directory), "is damaged", "convert it again", *words):
        assert word in message
    return message


def test_what_was_saved_loads(saved):
    expert = Expert.load(saved)
    assert np.isfinite(np.concatenate([x.ravel() for x in _leaves(expert.params)])).all()


def _leaves(tree):
    return [
        x
        for value in tree.values()
        for x in (_leaves(value) if isinstance(value, dict) else [value])
    ]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(saved, bad):
    arrays = safetensors.numpy.load((saved / WEIGHTS).read_bytes())
    name = sorted(arrays)[-1]
    arrays[name].ravel()[-1] = bad
    (saved / WEIGHTS).write_bytes(safetensors.numpy.save(arrays))
    _refused(saved, name, "NaN or infinite")


@pytest.mark.parametrize("kind", ["shape", "dtype", "missing", "extra"])
def test_weights_of_another_network_are_refused(saved, kind):
    arrays = safetensors.numpy.load((saved / WEIGHTS).read_bytes())
    name = "params/action/bias"
    if kind == "shape":
        arrays[name] = np.append(arrays[name], arrays[name][:1])
    elif kind == "dtype":
        arrays[name] = arrays[name].astype(np.float64)
    elif kind == "missing":
        del arrays[name]
    else:
        name = "params/other/bias"
        arrays[name] = np.zeros(3, np.float32)
    (saved / WEIGHTS).write_bytes(safetensors.numpy.save(arrays))
    _refused(saved, name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"network__action_hidden": [7]}, "params/action/kernel"),
        ({"network__hidden": [10**9]}, ""),
        ({"network__num_outputs": 10**30}, "whole numbers"),
        ({"network__num_outputs": "4"}, "whole numbers"),
        ({"network__num_outputs": 17}, ""),
        ({"network__head": "triple"}, "head"),
        ({"network__activation": "softmax"}, "activations"),
        ({"network__activation": ["relu"] * 40}, "40 activations"),
        ({"network__layer_norm": "yes"}, "layer_norm"),
        ({"network__controllers": True}, "several games"),
        ({"network__task_embedding": 4}, "several games"),
        ({"network__convs": [{"features": 4, "kernel": 4096, "stride": 1}]}, "conv1"),
        ({"network": None}, ""),
        ({"network": []}, ""),
        ({"view__height": 0}, "height"),
        ({"view__height": 10**9}, "height"),
        ({"actions": [0, 0]}, "actions"),
        ({"actions": ["0"]}, "actions"),
        ({"actions": None}, ""),
        ({"outputs": "votes"}, "outputs"),
        ({"game": "chess"}, "chess"),
        ({"game": 3}, ""),
        ({"advertised_score": "many"}, "advertised_score"),
        ({"advertised_score": float("nan")}, "advertised_score"),
        ({"name": None}, "name"),
        ({"params": {}}, ""),
        ({"colour": 1}, "colour"),
    ],
    ids=str,
)
@pytest.mark.parametrize("saved", ["screen"], indirect=True)
def test_a_description_that_cannot_be_is_refused(saved, change, words):
    _change(saved / JSON, **change)
    _refused(saved, words)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"network": 1}', "\xff"])
def test_damaged_json_is_refused(saved, text):
    (saved / JSON).write_bytes(text.encode("latin-1"))
    _refused(saved)


@pytest.mark.parametrize("data", [b"", b"text", b"\x08\0\0\0\0\0\0\0{}      "])
def test_damaged_weights_are_refused(saved, data):
    (saved / WEIGHTS).write_bytes(data)
    _refused(saved)
    (saved / WEIGHTS).unlink()
    _refused(saved, WEIGHTS)
