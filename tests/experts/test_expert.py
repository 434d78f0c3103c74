"""Tests for expert directories: what `save` wrote loads; JSON and weights that disagree do not."""

import dataclasses
import json
import pathlib
import time

import jax
import numpy as np
import pytest
import safetensors.numpy

from jaxdistill import networks, tasks
from jaxdistill.experts import formats
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource, load_experts
from jaxdistill.networks import Network
from jaxdistill.tasks.views import Vector, View

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


def test_a_directory_that_holds_something_is_left_alone_unless_asked(saved):
    expert = Expert.load(saved)
    renamed = dataclasses.replace(expert, name="another")
    with pytest.raises(ValueError, match="saved"):
        renamed.save(saved)
    assert Expert.load(saved).name == expert.name
    renamed.save(saved, replace=True)
    assert Expert.load(saved).name == "another"


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux's full device")
@pytest.mark.parametrize("full", [JSON, WEIGHTS])
@pytest.mark.parametrize("saved", ["vector"], indirect=True)
def test_a_full_disk_names_the_file_and_the_same_again_goes_on(saved, full):
    expert = dataclasses.replace(Expert.load(saved), name="another")
    said = rf"{full} cannot be written \(No space left on device\)$"
    standing = {path.name: path.read_bytes() for path in saved.iterdir()}
    # What is written there first is written to a full disk.
    (saved / f"{full}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=said):
        expert.save(saved, replace=True)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == standing
    new = saved.with_name("new")
    new.mkdir()
    (new / f"{full}.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match=said):
        expert.save(new)
    assert not [*new.iterdir()]


@pytest.mark.parametrize("saved", ["vector"], indirect=True)
def test_what_a_kill_has_left_is_written_again(saved):
    expert = Expert.load(saved)
    (saved / JSON).rename(saved / f"{JSON}.partial")  # as it was before its last step
    expert.save(saved)
    assert sorted(path.name for path in saved.iterdir()) == [JSON, WEIGHTS]
    (saved / JSON).unlink()
    with pytest.raises(ValueError, match="is not empty"):  # weights that may be anybody's
        expert.save(saved)
    (saved / WEIGHTS).rename(saved / f"{WEIGHTS}.partial")
    (saved / "notes.txt").touch()
    with pytest.raises(ValueError, match="is not empty"):
        expert.save(saved)
    (saved / "notes.txt").unlink()
    expert.save(saved)
    assert Expert.load(saved).name == expert.name


def _leaves(tree):
    return [
        x
        for value in tree.values()
        for x in (_leaves(value) if isinstance(value, dict) else [value])
    ]


def test_weights_are_saved_as_they_are_whatever_their_order_in_memory(saved, tmp_path):
    expert = Expert.load(saved)
    turned = jax.tree.map(np.asfortranarray, expert.params)
    dataclasses.replace(expert, params=turned).save(tmp_path / "again")
    again = Expert.load(tmp_path / "again")
    jax.tree.map(np.testing.assert_array_equal, again.params, expert.params)


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
        ({"network__one_hot": 1}, "one_hot"),
        ({"network__streams": [{"width": 4, "outputs": [0]}]}, "dueling head or streams"),
        ({"network__streams": [{"width": 4}]}, "outputs"),
        ({"network__streams": "all"}, ""),
        ({"network__controllers": True}, "several games"),
        ({"network__task_embedding": 4}, "several games"),
        ({"network__one_hot": True}, "several games"),
        ({"network__convs": [{"features": 4, "kernel": 4096, "stride": 1}]}, "conv1"),
        ({"network": None}, ""),
        ({"network": []}, ""),
        ({"view__height": 0}, "height"),
        ({"view__height": 10**9}, "height"),
        ({"view": {"size": 0}}, "size is 0"),
        ({"view": {"size": 8}}, "sees a vector of 8 numbers, and breakout shows a screen"),
        ({"actions": [0, 0]}, "actions"),
        ({"actions": ["0"]}, "actions"),
        ({"actions": None}, ""),
        ({"outputs": "votes"}, "outputs"),
        ({"game": 3}, "unknown task 3"),
        ({"game": "lander/heavy"}, "sees a screen, and lander/heavy shows a vector of 8 numbers"),
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


@pytest.mark.parametrize("layers", ["hidden", "residual", "action_hidden", "value_hidden", "convs"])
@pytest.mark.parametrize("saved", ["vector"], indirect=True)
def test_a_network_deeper_than_its_file_is_refused_at_once(saved, layers):
    """Tracing takes two milliseconds for every layer."""
    one = {"features": 1, "kernel": 1, "stride": 1} if layers == "convs" else 1
    _change(saved / JSON, **{f"network__{layers}": [one] * 20_000, "network__activation": "tanh"})
    begun = time.process_time()
    _refused(saved, "arrays of weights for a network of 200")
    assert time.process_time() - begun < 3.0


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


def _pilot(**changes):
    """A lander's expert: its two outputs are a bias and the sums of what it sees."""
    kernel = np.zeros((8, 2), np.float32)
    kernel[:, 1] = 1
    action = {"kernel": kernel, "bias": np.array([2.0, 0.0], np.float32)}
    fields = {
        "name": "pilot",
        "network": Network(convs=(), num_outputs=2),
        "params": {"params": {"action": action}},
        "outputs": "q",
        "actions": (2, 0),
        "view": Vector(8),
        "game": "lander/windy",
    }
    return Expert(**(fields | changes))


def test_a_landers_expert_answers_in_its_suites_order_by_hand():
    expert = _pilot()
    assert expert.task is tasks.get("lander/windy")
    assert expert.mask.tolist() == [True, False, True, False]
    seen = np.stack([np.zeros((1, 8)), np.full((1, 8), 0.5)]).astype(np.float32)
    np.testing.assert_array_equal(expert.suite_outputs(seen), [[0, 0, 2, 0], [4, 0, 2, 0]])
    assert expert.greedy(seen).tolist() == [2, 0]


def test_a_landers_expert_is_saved_with_what_it_sees(tmp_path):
    _pilot().save(tmp_path / "pilot")
    again = Expert.load(tmp_path / "pilot")
    assert (again.view, again.game, again.actions) == (Vector(8), "lander/windy", (2, 0))
    np.testing.assert_array_equal(again.params["params"]["action"]["bias"], [2, 0])
    # Before vectors were written down, their size was that of the first layer's input.
    _change(tmp_path / "pilot" / JSON, view=None)
    assert Expert.load(tmp_path / "pilot").view == Vector(8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"view": Vector(9)}, "sees a vector of 9 numbers, and lander/windy shows a vector of 8"),
        ({"view": View()}, "sees a screen, and lander/windy shows a vector of 8 numbers"),
        ({"game": "pong"}, "sees a vector of 8 numbers, and pong shows a screen"),
        ({"actions": (2, 4)}, r"actions \[2, 4\] are not all actions 0\.\.3, so it does not play"),
        ({"game": "pong", "view": View(), "actions": (2, 5)}, r"none of its actions \[2, 5\] is"),
        ({"game": "pong", "view": View(), "actions": (2, 18)}, r"not all actions 0\.\.17"),
    ],
)
def test_an_expert_that_does_not_fit_its_task_is_refused(changes, message):
    with pytest.raises(ValueError, match=f"pilot: .*{message}"):
        _pilot(**changes)


def test_an_expert_of_nothing_that_is_known_has_no_task():
    expert = _pilot(game=None, view=Vector(3))
    with pytest.raises(ValueError, match="pilot: the expert does not say which game it plays"):
        _ = expert.task


def test_experts_of_two_suites_cannot_have_one_student(tmp_path):
    sources = []
    for name, changes in {
        "pilot": {},
        "heavy": {"game": "lander/heavy"},
        "player": {"game": "pong", "view": View(), "actions": (3, 0)},
    }.items():
        expert = _pilot(name=name, **changes)
        if name == "player":
            params = networks.init(expert.network, jax.random.key(0), View().shape)
            expert = dataclasses.replace(expert, params=jax.tree.map(np.asarray, params))
        expert.save(tmp_path / name)
        sources.append(ExpertSource(str(tmp_path / name)))
    assert [expert.name for expert in load_experts(sources[:2])] == ["pilot", "heavy"]
    with pytest.raises(
        ValueError, match=r"experts of lander/heavy \(lander\) and of pong \(atari\)"
    ):
        load_experts(sources[1:])


@pytest.mark.parametrize(
    ("config", "inside", "words"),
    [
        (
            {"games": ["pong", "lander/windy"], "experts": []},
            ("experts/pong/expert.json", "experts/lander/windy/expert.json"),
            ("a training: give one of its experts, ", "DIR/experts/lander/windy, DIR/experts/pong"),
        ),
        ({"games": ["pong"]}, (), ("evaluated nothing: let it run on, and give DIR/experts/TASK",)),
        (
            {"experts": [{"path": "pong.pth"}], "learn": {}},
            ("student.json",),
            ("a run: export its student with `jaxdistill export --workdir=DIR --format=student",),
        ),
        (None, ("b/expert.json", "a/expert.json"), ("give one of those in it, DIR/a, DIR/b",)),
        (
            {"encoder": 1},
            ("b.pth", "a/b/expert.json", "a.zip", "card.md", "c.pt", "d.pth", "e.pth"),
            ("give one of those in it, DIR/a.zip, DIR/b.pth, DIR/c.pt, DIR/d.pth and 2 more",),
        ),
        (None, ("x.cleanrl_model",), ("give one of those in it, DIR/x.cleanrl_model",)),
        (
            None,
            ("model.80.tar", "pytorch_model.bin", "last.ckpt", "card.md"),
            ("give one of those in it, DIR/last.ckpt, DIR/model.80.tar, DIR/pytorch_model.bin",),
        ),
        (None, ("notes.txt",), ("expected an expert's file, or what `jaxdistill convert` makes",)),
    ],
)
def test_a_directory_of_something_else_says_what_to_give(tmp_path, config, inside, words):
    for name in inside:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError) as caught:
        formats.load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path} holds no expert.json, so it is no expert's; ")
    assert "\n" not in message
    for word in words:
        assert word.replace("DIR", str(tmp_path)) in message


def test_an_empty_path_is_said_to_be_one():
    with pytest.raises(ValueError, match="no expert's file is given, but an empty path"):
        formats.load("")
