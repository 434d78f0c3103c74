"""Tests for finding state_dicts in trees."""

import numpy as np
import pytest

from jaxdistill.experts import state_dicts
from jaxdistill.experts.tensors import Opaque


def test_state_dicts_of_nested_checkpoints():
    w, b = np.zeros((2, 2)), np.zeros(2)
    tree = {
        "model": {"module.fc.weight": w, "module.fc.bias": b},
        "compiled": {"_orig_mod.module.fc.weight": w},
        "partly": {"module.fc.weight": w, "log_std": b},
        "nested": {"actor": {"weight": w}, "critic": {"weight": w}},
        "optimizer": {"state": {0: {"step": b, "exp_avg": w}}, "param_groups": [{"lr": 0.1}]},
        "history": [{"fc.weight": w}, ({"fc.bias": b},)],
        "mixed": {"sub": {"weight": w}, "bias": b, "note": "x"},
        "epoch": 3,
        "nothing": {},
    }
    found = state_dicts.find(tree)
    assert {path: list(arrays) for path, arrays in found.items()} == {
        "model": ["fc.weight", "fc.bias"],
        "compiled": ["fc.weight"],
        "partly": ["module.fc.weight", "log_std"],
        "nested": ["actor.weight", "critic.weight"],
        "nested.actor": ["weight"],
        "nested.critic": ["weight"],
        "optimizer.state": ["0.step", "0.exp_avg"],
        "optimizer.state.0": ["step", "exp_avg"],
        "history.0": ["fc.weight"],
        "history.1.0": ["fc.bias"],
        "mixed": ["bias"],
        "mixed.sub": ["weight"],
    }
    assert found["model"]["fc.weight"] is w
    assert list(state_dicts.find({"fc.weight": w})) == [""]
    assert state_dicts.find([1, "a", w]) == {}


def test_state_dicts_of_objects_that_hold_modules():
    w = np.zeros(3)
    layer = Opaque("torch.nn.Linear", state={"_parameters": {"weight": w, "bias": None}})
    net = Opaque("Net", state={"_parameters": {}, "_modules": {"fc": layer}})
    layer.state["_modules"] = {"back": net}  # a loop, as some modules have
    agent = Opaque("Agent", state=({"q_net": net, "eps": 0.1}, {"slot": {"w": w}}))
    found = state_dicts.find({"agent": agent})
    assert {path: list(arrays) for path, arrays in found.items()} == {
        "agent.q_net": ["fc.weight"],
        "agent.slot": ["w"],
    }


def test_state_dicts_that_would_not_end(monkeypatch):
    monkeypatch.setattr(state_dicts, "MAX_NAME_CHARACTERS", 10_000)
    tree = {"w": np.zeros(1)}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    with pytest.raises(ValueError, match="too many times"):
        state_dicts.find(tree)
