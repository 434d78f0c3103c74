"""Exported files hold the same numbers, and PyTorch reads them."""

import dataclasses
import json
import os
import pathlib
import re
import sys
import zipfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import networks, tasks
from jaxdistill.experts import export, export_module, formats, portable, torch_file
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.student import Role, Student
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import Vector, View

CONVS = tuple(
    networks.ConvLayer(features, layer.kernel, layer.stride)
    for features, layer in zip((2, 3, 4), networks.NATURE_CONVS, strict=True)
)
DUELING = networks.Network(
    convs=CONVS, head="dueling", action_hidden=(5,), value_hidden=(6,), num_outputs=18
)
PLAIN = networks.Network(convs=CONVS, hidden=(5,), num_outputs=18)
PONG = {"pong": View()}
BOTH = pytest.mark.parametrize("network", [DUELING, PLAIN], ids=["dueling", "plain"])


def random_params(network, view=(4, 84, 84)):
    """Parameters that are all different; biases of a fresh network are all 0."""
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), view))
    generator = np.random.default_rng(0)
    return jax.tree.map(lambda x: (generator.normal(size=x.shape) * 0.1).astype(np.float32), shapes)


def an_expert(network=DUELING, **changes):
    fields = {
        "name": "expert",
        "network": network,
        "params": random_params(network),
        "outputs": "q",
        "actions": tuple(range(18)),
        **changes,
    }
    return Expert(**fields)


def same(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@BOTH
def test_student_round_trip_is_exact(network, tmp_path):
    params = random_params(network)
    path = tmp_path / "made" / "student.pth"
    views = {"pong": View(), "Breakout-v5": View()}
    export.export(params, network, path, views=views, final_scores={"pong": 20})
    conversion = formats.convert(path)
    assert conversion.expert.network == network
    same(conversion.expert.params, params)
    assert conversion.convention.startswith("reference merged")
    assert "a student of several games: pong, breakout" in conversion.notes
    tree = torch_file.read(path).tree
    assert tree["action_dim"] == 18 and tree["final_scores"] == {"pong": 20.0}
    assert os.listdir(path.parent) == ["student.pth"]


def test_a_student_keeps_the_rules_of_its_games(tmp_path):
    rules = Rules(repeat_action_probability=0.25, full_actions=True)
    views = {"pong": View(), "breakout": View()}
    export.export(random_params(PLAIN), PLAIN, tmp_path / "s.pth", views=views, rules=rules)
    expert = formats.load(tmp_path / "s.pth", game="breakout")
    assert expert.rules == rules and expert.task.actions == tuple(range(18))
    export.export(random_params(PLAIN), PLAIN, tmp_path / "usual.pth", views=views)
    assert formats.load(tmp_path / "usual.pth", game="breakout").rules == Rules()


@BOTH
def test_expert_round_trip(network, tmp_path):
    expert = an_expert(network)
    export.export_expert(expert, tmp_path / "expert.pth")
    same(formats.load(tmp_path / "expert.pth").params, expert.params)
    export.export_expert(expert, tmp_path / "half.pth", dtype="float16")
    rounded = jax.tree.map(lambda x: x.astype(np.float16).astype(np.float32), expert.params)
    same(formats.load(tmp_path / "half.pth").params, rounded)
    sizes = [(tmp_path / name).stat().st_size for name in ("expert.pth", "half.pth")]
    assert sizes[0] - sizes[1] == pytest.approx(2 * networks.count(expert.params), abs=64)


def test_a_student_with_a_task_embedding_becomes_an_expert_of_each_game(tmp_path):
    network = DUELING.clone(task_embedding=3, game_actions=((0, 1, 3, 4), tuple(range(6))))
    params = random_params(network)
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84)).astype(np.uint8)
    for game, name in enumerate(("breakout", "pong")):
        alone, own, actions = networks.for_one_game(network, params, game)
        path = tmp_path / f"{game}.pth"
        export.export_expert(an_expert(alone, params=own, actions=actions), path)
        outputs = formats.load(path, game=name).suite_outputs(x)
        whole = np.asarray(networks.forward(network, params, x, game))
        np.testing.assert_allclose(outputs, whole, rtol=1e-3, atol=1e-4)


def test_a_converted_file_comes_back_as_it_was(tmp_path):
    export.export_expert(an_expert(), tmp_path / "first.pth")
    export.export_expert(formats.load(tmp_path / "first.pth"), tmp_path / "second.pth")
    assert (tmp_path / "first.pth").read_bytes() == (tmp_path / "second.pth").read_bytes()


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@BOTH
def test_pytorch_reads_it_and_computes_the_same(network, torch, tmp_path):
    params = random_params(network)
    path = tmp_path / "student.pth"
    export.export(params, network, path, views=PONG, merge_config={"lr": 3e-4, "seeds": [1, 2]})
    tree = torch.load(path, weights_only=True)
    assert tree["merge_config"] == {"lr": 3e-4, "seeds": [1, 2]}
    weights = tree["state_dict"]
    assert all(tensor.is_contiguous() for tensor in weights.values())
    observations = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), np.uint8)
    functional = torch.nn.functional

    def dense(key, x):
        return functional.linear(x, weights[f"{key}.weight"], weights[f"{key}.bias"])

    x = torch.from_numpy(observations).float() / 255
    for i, stride in enumerate((4, 2, 1), 1):
        convolved = functional.conv2d(
            x, weights[f"conv{i}.weight"], weights[f"conv{i}.bias"], stride
        )
        x = torch.relu(convolved)
    x = x.flatten(1)
    if network is PLAIN:
        theirs = dense("fc2", torch.relu(dense("fc1", x)))
    else:
        advantage = dense("advantage", torch.relu(dense("fc_adv", x)))
        theirs = dense("value", torch.relu(dense("fc_value", x)))
        theirs = theirs + advantage - advantage.mean(1, keepdim=True)
    ours = network.apply(params, jnp.asarray(observations))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-5)


def test_the_module_that_the_documents_show_plays_a_student(torch, tmp_path, monkeypatch):
    network = networks.create("dueling")
    params = random_params(network)
    chosen = [tasks.get(game) for game in ("pong", "breakout", "freeway")]
    roles = tuple(Role(task.name, task.view, task.actions, "someone") for task in chosen)
    student = Student("mine", network, params, "q", roles)
    export_module.write(portable.of_student(student), tmp_path / "student.pth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "student", raising=False)
    text = (pathlib.Path(__file__).parents[2] / "docs" / "experts.md").read_text()
    (block,) = re.findall(r"^```python\n(import torch\n.*?)^```", text, re.MULTILINE | re.DOTALL)
    shown: dict[str, Any] = {}
    exec(block, shown)
    ours = network.apply(params, jnp.asarray(shown["pixels"].numpy()))
    np.testing.assert_allclose(ours, shown["q"].detach().numpy(), rtol=1e-4, atol=1e-4)
    assert all(a in task.actions for a, task in zip(shown["action"], chosen[::2], strict=True))
    assert formats.load(tmp_path / "learnt.pth", game="pong").game == "pong"


def test_pytorch_reads_an_expert(torch, tmp_path):
    export.export_expert(an_expert(), tmp_path / "expert.pth", dtype="float16")
    tree = torch.load(tmp_path / "expert.pth", weights_only=True)
    policy, target = tree["policy_net_state_dict"], tree["target_net_state_dict"]
    assert tree["use_dueling"] is True and policy.keys() == target.keys()
    assert policy["conv1.weight"].dtype == torch.float16
    assert list(policy) == [
        f"{key}.{part}"
        for key in ("conv1", "conv2", "conv3", "fc_value", "value", "fc_adv", "advantage")
        for part in ("weight", "bias")
    ]


def test_pytorch_reads_every_kind_of_value(torch, tmp_path):
    values = {
        "none": None,
        "truth": [True, False, np.bool_(True)],
        "numbers": [0, -1, 255, 2**31, -(2**31), 2**63, -(2**80), np.int64(5)],
        "floats": [0.1, -1e300, np.float32(0.5)],
        "text": "Zoë ☃ \n",
        "nested": {"tuple": (1, (), ("a",)), "list": [], "dict": {}},
        3: {1: 2},
    }
    arrays = {"scalar": np.array(1.5), "empty": np.zeros((0, 3)), "x": np.eye(3)}
    arrays = {key: array.astype(np.float32) for key, array in arrays.items()}
    export.save({**values, "arrays": arrays}, tmp_path / "file.pth")
    ours = torch_file.read(tmp_path / "file.pth").tree
    theirs = torch.load(tmp_path / "file.pth", weights_only=True)
    assert {key: theirs[key] for key in values} == values
    assert {key: ours[key] for key in values} == values
    for key, array in arrays.items():
        np.testing.assert_array_equal(theirs["arrays"][key].numpy(), array)
        np.testing.assert_array_equal(ours["arrays"][key], array)


def test_equal_input_gives_equal_bytes(tmp_path):
    for name in ("a.pth", "b.pth"):
        export.export(random_params(PLAIN), PLAIN, tmp_path / name, views=PONG)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pth") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_an_array_that_occurs_twice_is_stored_once(tmp_path):
    array = np.arange(4, dtype=np.float32)
    export.save({"a": array, "b": array, "c": array.copy()}, tmp_path / "file.pth")
    with zipfile.ZipFile(tmp_path / "file.pth") as archive:
        assert [name for name in archive.namelist() if "/data/" in name] == [
            "archive/data/0",
            "archive/data/1",
        ]


def test_files_are_not_overwritten(tmp_path):
    path = tmp_path / "student.pth"
    path.write_text("precious")
    params = random_params(PLAIN)
    for standing in (path, tmp_path):
        with pytest.raises(ValueError, match=rf"{standing.name} already exists; choose another"):
            export.export(params, PLAIN, standing, views=PONG)
    assert path.read_text() == "precious" and os.listdir(tmp_path) == [path.name]


def test_nothing_is_left_behind_when_writing_fails(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"/x\.pth cannot be written \(No space left on device\)$"):
        export.export(random_params(PLAIN), PLAIN, tmp_path / "x.pth", views=PONG)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layer_norm": True}, "LayerNorm"),
        ({"activation": "elu"}, "activation elu"),
        ({"convs": CONVS[:2]}, r"\(8, 4, 0\), \(4, 2, 0\)\]"),
        ({"convs": (dataclasses.replace(CONVS[0], padding=1), *CONVS[1:])}, r"\(8, 4, 1\)"),
        ({"convs": (dataclasses.replace(CONVS[0], extra=1), *CONVS[1:])}, "uneven padding"),
        ({"head": "actor_critic"}, "head of type actor_critic"),
        ({"hidden": (5, 5)}, "2 shared, 1 action and 1 value"),
        ({"value_hidden": ()}, "0 shared, 1 action and 0 value"),
        ({"num_outputs": 6}, "6 outputs"),
        ({"residual": (4,)}, "residual sections"),
        ({"streams": (networks.Stream(4, tuple(range(18))),)}, "a head of streams"),
        ({"task_embedding": 4, "game_actions": ((0,),)}, "layers of each game's own"),
    ],
)
def test_networks_that_cannot_be_expressed(change, expected, tmp_path):
    fields = {field.name: getattr(DUELING, field.name) for field in dataclasses.fields(DUELING)}
    fields = {key: value for key, value in fields.items() if key not in ("parent", "name")}
    with pytest.raises(ValueError, match=expected):
        export.export({}, networks.Network(**{**fields, **change}), tmp_path / "x", views=PONG)
    assert os.listdir(tmp_path) == []


def test_experts_that_cannot_be_expressed(tmp_path):
    path = tmp_path / "expert.pth"
    with pytest.raises(ValueError, match="all 18 ALE actions"):
        export.export_expert(an_expert(actions=tuple(range(17, -1, -1))), path)
    with pytest.raises(ValueError, match="float64"):
        export.export_expert(an_expert(), path, dtype="float64")
    large = jax.tree.map(lambda x: x * 1e6, random_params(DUELING))
    with pytest.raises(ValueError, match="not finite as float16"):
        export.export_expert(an_expert(params=large), path, dtype="float16")
    with pytest.raises(ValueError, match=r"takes 224 numbers.* 7x7x4 of a 84x84 view"):
        export.export(random_params(PLAIN, (4, 92, 84)), PLAIN, path, views=PONG)
    with pytest.raises(ValueError, match="takes 4 channels and the view has 3"):
        export.export(random_params(PLAIN), PLAIN, path, views={"pong": View(stack=3)})
    with pytest.raises(ValueError, match="views differ in shape"):
        export.export({}, PLAIN, path, views={**PONG, "freeway": View(stack=3)})
    with pytest.raises(ValueError, match="sees no screen"):
        export.export_expert(an_expert(view=Vector(8)), path)
    assert not path.exists()


def test_values_that_cannot_be_written(tmp_path):
    for value in (object(), {1, 2}, np.zeros(3, np.int32), 2**4000):
        with pytest.raises(ValueError, match="cannot be written"):
            export.save({"x": value}, tmp_path / "x.pth")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "changes", [{}, {"outputs": "logits", "game": "qbert", "rules": Rules(fire_after_life=True)}]
)
@pytest.mark.parametrize(
    "view",
    [
        View(),
        View(resize="linear"),
        View(stack=4, crop=(34, 194), steps=((110, 84),)),
        View(gray="none"),
    ],
)
def test_an_expert_keeps_its_view_its_game_and_its_outputs(view, changes, tmp_path):
    params = random_params(DUELING, view.shape)
    expert = an_expert(view=view, params=params, **changes)
    export.export_expert(expert, tmp_path / "pong.pth")
    conversion = formats.convert(tmp_path / "pong.pth")
    back = conversion.expert
    assert (back.view, back.outputs, back.rules) == (view, expert.outputs, expert.rules)
    same(back.params, params)
    seen = np.random.default_rng(0).integers(0, 256, (2, *view.shape), np.uint8)
    said = [networks.forward(x.network, x.params, seen) for x in (back, expert)]
    np.testing.assert_array_equal(*said)
    # A file's name says its game only where the file itself does not.
    assert back.game == (expert.game or "pong")
    (said,) = (note for note in conversion.notes if "the file's name" in note)
    known = "the file's name says pong; it is read as an expert of qbert"
    assert said == (known if expert.game else "its game, pong, is taken from the file's name")
    if expert.game is None:
        assert formats.load(tmp_path / "pong.pth", game="freeway").game == "freeway"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (7, "TypeError"),
        ({"outputs": "q"}, "KeyError: 'plays'"),
        ({"outputs": "q", "plays": []}, "no game"),
        ({"outputs": "p", "plays": [{"game": None, "view": {}}]}, "neither Q-values nor logits"),
        ({"outputs": "q", "plays": [{"game": None, "view": {"stack": 0}}]}, "stack is 0"),
        ({"outputs": "q", "plays": [{"game": None, "view": {"crop": 3}}]}, "crop or steps"),
        ({"outputs": "q", "plays": [{"game": None, "view": {"steps": [[8]]}}]}, "steps is"),
        ({"outputs": "q", "plays": [{"game": None, "view": {"depth": 1}}]}, "unknown field"),
        ({"outputs": "q", "plays": [{"game": [], "view": {}}]}, "game that there is not"),
    ],
)
def test_what_a_damaged_file_carries_is_refused_in_one_line(fields, expected, tmp_path):
    weights = export.to_state_dict(random_params(PLAIN), PLAIN, View())
    export.save({"state_dict": weights, "jaxdistill": fields}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="'jaxdistill' is damaged") as caught:
        formats.load(tmp_path / "x.pth")
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_an_export_of_ones_own_game_says_that_its_file_was_not_imported(own_tasks, tmp_path):
    tasks.add(dataclasses.replace(tasks.get("pong"), name="pong/up_alone"))
    export.export_expert(an_expert(game="pong/up_alone"), tmp_path / "x.pth")
    assert formats.load(tmp_path / "x.pth").game == "pong/up_alone"
    tasks._added.clear()
    tasks.names.cache_clear()
    tasks._by_key.cache_clear()
    with pytest.raises(tasks.UnknownTask, match=r"x.pth: .* pong/up_alone; .*--import=FILE"):
        formats.load(tmp_path / "x.pth")


def test_a_view_that_is_not_the_weights_is_refused(tmp_path):
    weights = export.to_state_dict(random_params(PLAIN), PLAIN, View())
    play = {"game": None, "view": View(height=64).to_dict()}
    export.save(
        {"state_dict": weights, "jaxdistill": {"outputs": "q", "plays": [play]}}, tmp_path / "x.pth"
    )
    with pytest.raises(ValueError, match="of a 64x84 view"):
        formats.load(tmp_path / "x.pth")


def test_a_training_config_that_stands_is_never_overwritten(tmp_path):
    path, beside = tmp_path / "expert.pth", tmp_path / "training_config.json"
    assert export.write_training_config(path, DUELING) is None
    assert json.loads(beside.read_text()) == {"dueling": True}
    for text, told in (
        ('{"dueling": true, "lr": 1}', False),
        ('{"dueling": false}', True),
        ("[]", True),
        ("", True),
    ):
        beside.write_text(text)
        note = export.write_training_config(path, DUELING)
        assert bool(note) is told and beside.read_text() == text
        assert not note or "does not say dueling: true" in note
    assert "cannot be written" in export.write_training_config(tmp_path / "no" / "x.pth", PLAIN)


def test_a_training_config_that_cannot_be_written_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "expert.pth"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # of a file so many bytes at most
        note = export.write_training_config(path, DUELING)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "training_config.json cannot be written" in note and os.listdir(tmp_path) == []
    assert export.write_training_config(path, DUELING) is None
