"""Experts of a hub on this machine: which file is meant, what is fetched, and what is refused."""

import dataclasses
import io
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
import zipfile

import jax
import numpy as np
import pytest

import jaxdistill
from configs import merge
from jaxdistill import meshes, networks, tasks
from jaxdistill.experts import formats, hub, torch_file, torch_writer
from jaxdistill.experts.formats import carried, published, template
from jaxdistill.experts.sources import ExpertSource, load_experts
from jaxdistill.experts.student import Role, Student
from jaxdistill.run import common, distill_settings, student_json, warm_start
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View

ROOT = pathlib.Path(__file__).parents[2]
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 84, 84), np.uint8)
CONFIG = b"""!!python/object/apply:collections.OrderedDict
- - - env_wrapper
    - - stable_baselines3.common.atari_wrappers.AtariWrapper
  - - frame_stack
    - 4
  - - normalize
    - false
"""
RESULTS = json.dumps({"mean_reward": 12.5, "std_reward": 1.0, "n_eval_episodes": 10}).encode()


@pytest.fixture(scope="module")
def zipped():
    """A Stable-Baselines3 archive of a DQN with six outputs."""
    draw = np.random.default_rng(0)
    shapes = {"cnn.0": (3, 4, 8, 8), "cnn.2": (4, 3, 4, 4), "cnn.4": (5, 4, 3, 3)}
    shapes = {f"features_extractor.{k}": v for k, v in shapes.items()}
    shapes |= {"features_extractor.linear.0": (6, 245), "q_net.0": (6, 6)}
    weights = {}
    for name, shape in shapes.items():
        weights[f"q_net.{name}.weight"] = draw.normal(0, 0.1, shape).astype(np.float32)
        weights[f"q_net.{name}.bias"] = draw.normal(0, 0.1, shape[0]).astype(np.float32)
    space = {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "6"}
    data = {"policy_kwargs": {}, "action_space": space}
    members = {"data": json.dumps(data).encode(), "policy.pth": torch_writer.dumps(weights)}
    return torch_writer.archive(members)


@pytest.fixture(scope="module")
def zoo(server, zipped):
    """A repository as rl_zoo3 makes it, and its commit."""
    files = {
        "README.md": b"---\ntags: [deep-reinforcement-learning]\n---\nA card.\n",
        "config.yml": CONFIG,
        "args.yml": CONFIG.split(b"\n")[0] + b"\n- - - env\n    - PongNoFrameskip-v4\n",
        "results.json": RESULTS,
        "dqn-Pong.zip": zipped,
        "dqn-Pong/policy.pth": b"unpacked",
        "dqn-Pong/policy.optimizer.pth": b"unpacked",
        "replay.mp4": b"film",
        "vec_normalize.pkl": b"\x80\x04cos\nsystem\n.",
    }
    return "hf://sb3/dqn-Pong", server.publish("sb3/dqn-Pong", files)


@pytest.fixture
def offline(server, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()


def refused(address, **options):
    """The one line that an address is refused with."""
    with pytest.raises((ValueError, OSError)) as error:
        formats.load(address, **options)
    line = str(error.value)
    assert "\n" not in line and len(line) < 600
    return line


# --- addresses


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://a/b", ("a/b", None, "")),
        ("hf://a/b/", ("a/b", None, "")),
        ("hf://sb3/dqn-X_v4.1@main/x/y.zip", ("sb3/dqn-X_v4.1", "main", "x/y.zip")),
        ("hf://a/b@refs/pr/3/x.pth", ("a/b", "refs/pr/3", "x.pth")),
        ("hf://a/b/c d@e.pth", ("a/b", None, "c d@e.pth")),
    ],
)
def test_an_address_is_taken_apart(text, parts):
    address = hub.parse(text)
    assert (address.repository, address.revision, address.path) == parts
    assert str(address) == text.rstrip("/") and hub.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "hf://",
        "hf://a",
        "hf://a/b@",
        "hf:///b",
        "hf://a/b/../c",
        "hf://a/b//c",
        "hf://a/b/./c",
        "hf://-a/b",
        "hf://../b",
        "hf://a/b/c\\..\\d",
        "hf://a b/c",
        "hf://a/b\n",
        "hf://a/b/\x1b",
    ],
)
def test_what_is_no_address_is_refused_before_anything_is_asked(text):
    with pytest.raises(
        ValueError, match="is no address of the hub; expected hf://USER/NAME"
    ) as error:
        hub.parse(text)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("text", "path", "spec"),
    [
        ("x.pth", "x.pth", None),
        ("x.pth@y.toml", "x.pth", "y.toml"),
        ("x.pth@hf://a/b@r/y.toml", "x.pth", "hf://a/b@r/y.toml"),
        ("me@lab/x.pth", "me@lab/x.pth", None),
        ("me@lab/x.pth@y.toml", "me@lab/x.pth", "y.toml"),
        ("hf://a/b", "hf://a/b", None),
        ("hf://a/b@v1/x.pth", "hf://a/b@v1/x.pth", None),
        ("hf://a/b@v1/x.pth@s/y.toml", "hf://a/b@v1/x.pth", "s/y.toml"),
        ("hf://a/b@y.toml", "hf://a/b", "y.toml"),
        ("hf://a/b/x.pth@hf://a/b@v1/y.toml", "hf://a/b/x.pth", "hf://a/b@v1/y.toml"),
    ],
)
def test_the_spec_of_an_expert_is_told_from_its_revision(text, path, spec):
    assert hub.with_spec(text) == (path, spec)
    (source,) = merge.sources(f"pong={text}?noop_max=1")
    assert source == {"game": "pong", "path": path, "spec": spec, "rules": "noop_max=1"}


def test_an_experts_path_that_is_there_is_taken_as_it_is(tmp_path, monkeypatch):
    """Whatever its name holds; a `~` is a home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "why?@x.toml").touch()
    for text, path, spec in (
        ("~/why?@x.toml", "why?@x.toml", None),
        ("~/x.pth@~/y.toml", "x.pth", str(tmp_path / "y.toml")),
    ):
        (source,) = merge.sources(f"pong={text}")
        wanted = {"game": "pong", "path": str(tmp_path / path), "spec": spec, "rules": None}
        assert source == wanted
    # An @ in the folder of a spec belongs to it, where what stands before it is no file.
    lab = tmp_path / "me@lab"
    lab.mkdir()
    for file in (tmp_path / "x.pth", lab / "x.pth"):
        file.touch()
        assert hub.with_spec(f"{file}@{lab}/y.toml") == (str(file), f"{lab}/y.toml")
        assert hub.with_spec(f"{file}@y.toml") == (str(file), "y.toml")
    assert hub.with_spec(f"{lab}/none.pth@y.toml") == (f"{lab}/none.pth", "y.toml")
    with pytest.raises(ValueError, match=r"got 'b/x\.pth' \(a comma ends FILE\)"):
        merge.sources("pong=/a,b/x.pth")


# --- which file


@pytest.mark.parametrize(
    ("names", "path", "chosen"),
    [
        ("policy.json policy.safetensors x.zip", "", "policy.json policy.safetensors"),
        ("expert.json weights.safetensors", "", "expert.json weights.safetensors"),
        ("d/policy.json d/policy.safetensors x.zip", "d", "d/policy.json d/policy.safetensors"),
        ("name.zip other.zip name/policy.pth", "", "name.zip"),
        ("best.zip policy.pth", "", "best.zip"),
        ("dqn.cleanrl_model dqn.py model.safetensors", "", "dqn.cleanrl_model"),
        ("model.safetensors pytorch_model.bin", "", "model.safetensors"),
        (
            "checkpoint_p0/best_08_9.pth checkpoint_p0/checkpoint_09_9.pth config.json",
            "",
            "checkpoint_p0/best_08_9.pth",
        ),
        (
            "checkpoint_p0/checkpoint_09_9.pth checkpoint_p0/checkpoint_10_8.pth",
            "",
            "checkpoint_p0/checkpoint_10_8.pth",
        ),
        ("a.pth optimizer.pth target_net.pth README.md", "", "a.pth"),
        ("deep/down/a.pt README.md", "", "deep/down/a.pt"),
        ("a.tar README.md", "", "a.tar"),
        ("deep/a.cleanrl_model README.md", "", "deep/a.cleanrl_model"),
        ("a.pth b.pth", "b.pth", "b.pth"),
        ("x/a.pth y/b.pth", "y", "y/b.pth"),
    ],
)
def test_the_file_that_is_meant(names, path, chosen):
    address = hub.Address("user/name", None, path)
    assert hub.choose(names.split(), address) == tuple(chosen.split())


@pytest.mark.parametrize(
    ("names", "path", "said"),
    [
        (
            "a.pth b.pth",
            "",
            "several files that may be the expert, a.pth, b.pth; name one, as hf://",
        ),
        ("best.zip final.zip", "", "as hf://user/name/best.zip"),
        ("x/a.pth x/b.pth", "x", "a.pth, b.pth; name one, as hf://user/name/x/a.pth"),
        (
            "README.md train.py",
            "",
            "holds no expert that is read, but README.md, train.py; expected",
        ),
        ("policy.json", "", "holds no expert that is read"),
        ("a.pth", "c.pth", "hf://user/name/c.pth: no such file; the repository holds a.pth"),
        ("", "", "no such file; the repository is empty"),
        pytest.param("a.pth", "x" * 5000, "...: no such file; the repository holds", id="long"),
    ],
)
def test_a_choice_that_is_not_ours_is_one_line(names, path, said):
    with pytest.raises((ValueError, OSError)) as error:
        hub.choose(names.split(), hub.Address("user/name", None, path))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


# --- fetching


def test_a_published_expert_is_read_with_what_is_said_beside_it(server, zoo, zipped, tmp_path):
    address, commit = zoo
    (tmp_path / "pong.zip").write_bytes(zipped)
    found, local = formats.convert(address), formats.load(tmp_path / "pong.zip")
    expert = found.expert
    assert expert.source == f"{address}@{commit}/dqn-Pong.zip" and expert.name == "dqn-Pong"
    assert (expert.game, expert.advertised_score, expert.outputs) == ("pong", 12.5, "q")
    assert expert.rules == Rules(fire_after_life=True) and expert.actions == local.actions
    np.testing.assert_array_equal(expert.suite_outputs(PIXELS), local.suite_outputs(PIXELS))
    notes = " ".join(found.notes)
    assert "its game, pong, is taken from the repository's args.yml" in notes
    assert "claims a mean score of 12.5" in notes and "fire_after_life True" in notes
    assert not any("pickle" in x or ".pkl" in x or "replay" in x for x in server.requests)

    expert.save(tmp_path / "saved")  # and what was fetched is written down
    assert json.loads((tmp_path / "saved" / "expert.json").read_text())["source"] == expert.source
    # What lies beside it may not be contradicted but by a spec, its name may.
    line = refused(address, game="qbert")
    assert "the repository's args.yml says pong, and qbert was asked for; name its own" in line
    server.publish("sb3/dqn-PongNoFrameskip-v4", {"x.zip": zipped, "config.yml": CONFIG})
    named = formats.convert("hf://sb3/dqn-PongNoFrameskip-v4", game="qbert")
    assert (named.expert.game, named.expert.advertised_score) == ("qbert", None)
    assert named.doubts == ("the repository's name says pong; it is read as an expert of qbert",)
    (experts,) = load_experts([ExpertSource(f"{address}@main", rules="noop_max=1")])
    assert experts.rules == Rules(fire_after_life=True, noop_max=1)
    assert jaxdistill.load(address).tasks == ("pong",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("args.yml", b"env: PongNoFrameskip-v4"),
        ("config.json", b'{"env": "atari_pong"}'),
        (hub.CARD, b"---\ntags: [atari, Pong-v5]\n---\nA card.\n"),
    ],
)
def test_another_game_than_a_repository_says_is_refused(name, text, server, zipped):
    repository = f"me/{name.partition('.')[0].lower()}-breakout-v5"
    server.publish(repository, {"x.zip": zipped, name: text})
    assert formats.load(f"hf://{repository}").game == "pong"
    assert formats.load(f"hf://{repository}", game="pong").game == "pong"
    line = refused(f"hf://{repository}", game="qbert")
    assert "says pong, and qbert was asked for; name its own game, or none; a spec" in line


def test_a_file_is_called_after_its_game_more_nearly_than_its_repository(server, zipped):
    server.publish("me/atari_pong_breakout", {"qbert.zip": zipped, "x.zip": zipped})
    assert formats.load("hf://me/atari_pong_breakout/qbert.zip").game == "qbert"
    assert formats.load("hf://me/atari_pong_breakout/x.zip").game == "pong"


def test_all_actions_stay_in_an_experts_own_game_beside_its_config(server, zipped):
    """By the number of its outputs, which the files beside it do not say."""
    draw = np.random.default_rng(0)
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        weights = torch_file.read(archive.read("policy.pth")).tree
    weights |= {"q_net.q_net.0.weight": draw.normal(0, 0.1, (18, 6)).astype(np.float32)}
    weights |= {"q_net.q_net.0.bias": np.zeros(18, np.float32)}
    members = {"data": b"{}", "policy.pth": torch_writer.dumps(weights)}
    files = {"x.zip": torch_writer.archive(members), "config.yml": CONFIG}
    server.publish("me/wide", files)
    rules = formats.load("hf://me/wide", game="pong").rules
    assert rules == Rules(fire_after_life=True, full_actions=True)
    assert formats.load("hf://me/wide", game="boxing").rules == Rules(fire_after_life=True)


def test_rules_of_a_spec_and_of_a_file_of_ours_go_before_its_repository_s(server, zipped, tmp_path):
    (tmp_path / "pong.zip").write_bytes(zipped)
    expert, sticky = formats.load(tmp_path / "pong.zip"), Rules(repeat_action_probability=0.25)
    files = {"pong.zip": zipped, "config.yml": CONFIG}
    with zipfile.ZipFile(io.BytesIO(zipped)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name, rules in (("sticky", sticky), ("usual", Rules())):
        ours = carried.Carried.of(dataclasses.replace(expert, rules=rules)).to_dict()
        data = json.loads(members["data"]) | {carried.KEY: ours}
        changed = members | {"data": json.dumps(data).encode()}
        files[f"{name}.zip"] = torch_writer.archive(changed)
    server.publish("me/ours", files)
    fire = Rules(fire_after_life=True)
    found = formats.convert("hf://me/ours/sticky.zip")
    assert found.expert.rules == sticky and not any("fire_after_life" in x for x in found.notes)
    assert formats.load("hf://me/ours/usual.zip").rules == fire
    spec = tmp_path / "x.toml"
    text = template.write(tmp_path / "pong.zip")
    assert "\n[rules]\nfire_after_life = true" in text
    for said, rules in (
        ("[rules]\nfire_after_life = false\nnoop_max = 30", Rules()),
        ("[rules]", Rules()),
        ("[rules]\nnoop_max = 1", Rules(noop_max=1)),
        ("", fire),
    ):
        spec.write_text(text.replace("[rules]\nfire_after_life = true", said))
        assert formats.load("hf://me/ours/pong.zip", spec=spec).rules == rules, said


def test_a_commit_is_fetched_once_and_a_branch_moves_on(server, zoo, zipped):
    address, commit = zoo
    later = torch_writer.archive({"data": b"{}", "policy.pth": b"no"})
    now = server.publish("sb3/dqn-Pong", {"dqn-Pong.zip": later})
    assert formats.load(f"{address}@{commit}").source == f"{address}@{commit}/dqn-Pong.zip"
    assert f"{address}@{now}/dqn-Pong.zip" in refused(address)
    server.requests.clear()
    pinned = formats.load(f"{address}@{commit}/dqn-Pong.zip")
    assert pinned.advertised_score == 12.5 and server.requests == []
    server.publish("sb3/dqn-Pong", {"dqn-Pong.zip": zipped})
    assert formats.load(address).source != pinned.source


def test_what_is_in_the_cache_is_read_without_the_hub(server, zoo, offline, monkeypatch):
    from huggingface_hub import constants

    address, _ = zoo
    source = formats.load(f"{address}@main").source  # by an earlier test
    assert server.requests == []
    assert "is not in the cache" in refused("hf://sb3/never") and server.requests == []
    assert "HF_HUB_OFFLINE is set" in refused(f"{address}@other")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(server, "broken", True)
    assert formats.load(address).source == source
    assert "answers 501" in refused("hf://sb3/never")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert formats.load(address).source == source
    line = refused("hf://sb3/never")
    assert "http://127.0.0.1:9 cannot be reached; check the network, or HF_ENDPOINT" in line


def test_environment_variables_are_the_library_s_own(server, zoo, tmp_path):
    address, _ = zoo
    code = "import sys; from jaxdistill.experts import hub; print(hub.fetch(sys.argv[1]).address)"
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_ENDPOINT": server.endpoint}
    printed = [
        subprocess.run(
            [sys.executable, "-c", code, address],
            env=environment | more,
            cwd=ROOT,
            text=True,
            capture_output=True,
            check=True,
        ).stdout
        for more in ({}, {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"})
    ]
    assert printed[0] == printed[1] == f"{formats.load(address).source}\n"


def test_each_thing_that_is_not_there_is_one_line(server, zoo, zipped, monkeypatch):
    address, _ = zoo
    assert f"{server.endpoint} has no such repository, or it is private" in refused("hf://sb3/none")
    assert "has no revision 'v9'; expected a branch, a tag or a commit" in refused(f"{address}@v9")
    line = refused(f"{address}/none.zip")
    assert "none.zip: no such file; the repository holds README.md, " in line
    server.publish("sb3/gated", {"gated.zip": zipped})
    monkeypatch.setattr(server.repositories["sb3/gated"], "gated", True)
    assert "is gated: ask its owner for access on" in refused("hf://sb3/gated")
    server.publish("sb3/secret", {"secret.zip": zipped})
    monkeypatch.setattr(server.repositories["sb3/secret"], "private", True)
    formats.load("hf://sb3/secret", game="pong")  # by its token
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "or it is private: then log in with `hf auth login`" in refused("hf://sb3/secret@main")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refused(address) == (
        "the Hugging Face hub needs huggingface_hub: pip install 'jaxdistill[hub]'"
    )


def test_a_spec_may_be_beside_the_file_on_the_hub(server):
    golden = ROOT / "tests" / "golden"
    files = {
        name: (golden / name).read_bytes() for name in ("expert_dueling.pth", "expert_dueling.toml")
    }
    server.publish("me/dueling", files)
    address = "hf://me/dueling/expert_dueling.pth"
    spec = "hf://me/dueling@main/expert_dueling.toml"
    expert = formats.load(address, spec=spec)
    local = formats.load(golden / "expert_dueling.pth", spec=golden / "expert_dueling.toml")
    assert expert.game == local.game == "breakout" and expert.source.endswith("expert_dueling.pth")
    np.testing.assert_array_equal(expert.suite_outputs(PIXELS), local.suite_outputs(PIXELS))
    assert expert.advertised_score == 1.5
    server.publish("me/dueling", {"large.toml": b"#" * 20_000})
    line = refused(address, spec="hf://me/dueling/large.toml")
    assert "large.toml has 20000 bytes, and 16384 are the most that is read; it was not" in line
    assert "no such file; the repository holds" in refused(address, spec="hf://me/dueling/x.toml")


def test_sample_factory_s_checkpoint_is_found_with_its_config(server, tmp_path):
    folder = "encoder.encoders.obs.enc"
    draw = np.random.default_rng(0)
    shapes = {"conv_head.0": (3, 4, 8, 8), "conv_head.2": (4, 3, 4, 4), "conv_head.4": (5, 4, 3, 3)}
    shapes = {f"{folder}.{k}": v for k, v in shapes.items()}
    shapes |= {f"{folder}.mlp_layers.0": (6, 245), "critic_linear": (1, 6)}
    shapes |= {"action_parameterization.distribution_linear": (6, 6)}
    model = {
        f"{name}.{kind}": draw.normal(0, 0.1, shape[: None if kind == "weight" else 1])
        for name, shape in shapes.items()
        for kind in ("weight", "bias")
    }
    model = {name: array.astype(np.float32) for name, array in model.items()}
    card = b"---\nmodel-index:\n- results:\n  - dataset: {type: atari_pong}\n    metrics:\n"
    files = {
        "README.md": card + b"    - {type: mean_reward, value: 20.90 +/- 0.30}\n---\n",
        "config.json": json.dumps({"env": "atari_pong", "nonlinearity": "elu"}).encode(),
        "checkpoint_p0/best_000000012_300.pth": torch_writer.dumps({"model": model}),
        "checkpoint_p0/checkpoint_000000013_310.pth": b"later and worse",
    }
    server.publish("them/atari_2B_atari_pong_1111", files)
    found = formats.convert("hf://them/atari_2B_atari_pong_1111")
    assert found.expert.game == "pong" and found.expert.advertised_score == 20.9
    assert found.expert.network.convs[0].features == 3 and "elu" in str(found.expert.network)
    assert found.expert.source.endswith("/checkpoint_p0/best_000000012_300.pth")


def _student(folder, games, seed=0):
    """A student that is written into a folder, and its files."""
    chosen = [tasks.get(game) for game in games]
    module = networks.for_tasks(networks.create("net3"), chosen)
    wanted = jax.eval_shape(lambda: networks.init(module, jax.random.key(0), (4, 84, 84)))
    draw = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: draw.normal(size=x.shape).astype(x.dtype), wanted)
    roles = tuple(Role(task.name, View(), task.actions, "x") for task in chosen)
    student = Student("mine", module, params, "q", roles)
    student.save(folder)
    return student, {path.name: path.read_bytes() for path in folder.iterdir()}


def same(one, other):
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_a_student_in_a_repository_is_one_everywhere(server, tmp_path):
    games = ("pong", "breakout")
    student, files = _student(tmp_path / "student", games)
    commit = server.publish("me/both", {f"v1/{name}": text for name, text in files.items()})
    address = f"hf://me/both@{commit}/v1"
    policy = jaxdistill.load("hf://me/both/v1")
    assert policy.tasks == games
    for game in games:
        expert, own = formats.load("hf://me/both/v1", game=game), student.expert(game)
        assert expert.source == policy.experts[game].source == address
        assert same(expert.params, own.params) and same(policy.experts[game].params, own.params)
        assert (expert.actions, expert.view) == (own.actions, own.view)
    assert "name one of pong, breakout" in (line := refused("hf://me/both/v1")) and address in line


def test_a_directory_of_a_commit_that_is_kept_is_not_asked_for_again(server, tmp_path):
    _, files = _student(tmp_path / "student", ["pong"])
    there = files | {f"v1/{name}": text for name, text in files.items()}
    commit = server.publish("me/kept", there | {"v2/policy.json": b"{}"})
    for path in ("", "/v1"):
        address = f"hf://me/kept@{commit}{path}"
        assert formats.load(address).source == address and server.requests
        server.requests.clear()
        assert formats.load(address).source == address and server.requests == []
    line = refused(f"hf://me/kept@{commit}/v2")  # which has one file of two
    assert "holds no expert that is read, but policy.json;" in line and server.requests == []


SAID = {"config.yml": b"frame_stack: 4\n", "README.md": b"A card.\n"}


def test_what_lies_beside_a_file_that_another_program_fetched_is_asked_for(
    server, zipped, monkeypatch
):
    """As `huggingface_sb3.load_from_hub` and `hf download REPOSITORY FILE` leave it."""
    commit = server.publish("me/partly", SAID | {"x.zip": zipped})
    api = hub.package().HfApi()
    folder = pathlib.Path(api.hf_hub_download("me/partly", "x.zip", revision=commit)).parent
    address = f"hf://me/partly@{commit}/x.zip"
    (folder.parents[1] / "jaxdistill").write_text("no folder")  # as of a cache that is read-only
    assert hub.fetch(address).texts == SAID
    server.requests.clear()
    assert hub.fetch(address).texts == SAID and len(server.requests) == 1, "for what there is"
    (folder.parents[1] / "jaxdistill").unlink()
    (folder / "config.yml").unlink()
    monkeypatch.setattr(server, "broken", True)
    assert hub.fetch(address).texts.keys() == {"README.md"}, "as far as the cache knows"
    monkeypatch.setattr(server, "broken", False)
    assert hub.fetch(address).texts == SAID
    server.requests.clear()
    assert hub.fetch(address).texts == SAID and server.requests == []


def test_what_a_kill_left_out_is_fetched_the_next_time(server, zipped, monkeypatch):
    commit = server.publish("me/killed", SAID | {"x.zip": zipped})
    monkeypatch.setattr(server, "fails", "config.yml")
    refused("hf://me/killed")
    monkeypatch.setattr(server, "broken", True)
    for revision in ("main", commit):
        assert f"hf://me/killed@{revision}" in refused(f"hf://me/killed@{revision}/x.zip")
    monkeypatch.setattr(server, "broken", False)
    monkeypatch.setattr(server, "fails", None)
    server.requests.clear()
    assert hub.fetch(f"hf://me/killed@{commit}/x.zip").texts == SAID
    assert not any("README.md" in x or "x.zip" in x for x in server.requests)


def test_a_template_says_what_a_repository_says(server, zipped, tmp_path):
    files = {
        "x.zip": zipped,
        "config.yml": CONFIG,
        "args.yml": b"env: PongNoFrameskip-v4",
        "env_kwargs.yml": b"repeat_action_probability: 0.25",
        "results.json": RESULTS,
    }
    server.publish("me/template", files)
    (tmp_path / "x.toml").write_text(template.write("hf://me/template"))
    (tmp_path / "x.zip").write_bytes(zipped)  # of which nothing but the spec says any of it
    known = formats.load("hf://me/template")
    assert known.rules == Rules(fire_after_life=True, repeat_action_probability=0.25)
    assert (known.game, known.advertised_score) == ("pong", 12.5)
    for path in ("hf://me/template", tmp_path / "x.zip"):
        said = formats.load(path, spec=tmp_path / "x.toml")
        for field in ("game", "rules", "advertised_score", "actions", "outputs", "view", "network"):
            assert getattr(said, field) == getattr(known, field), field
        assert same(said.params, known.params)

    with pytest.raises(ValueError, match=r"args\.yml says pong, and qbert was asked for"):
        template.write("hf://me/template", game="qbert")
    server.publish("me/template", {"config.yml": b"normalize: true\n"})
    with pytest.raises(ValueError, match=r"^hf://me/template@.* sees was normalised, by numbers"):
        template.write("hf://me/template")
    odd = {"a.weight": np.ones((6, 3), np.float32), "b.weight": np.ones((6, 6), np.float32)}
    server.publish("me/odd", {"x.pth": torch_writer.dumps(odd), "args.yml": files["args.yml"]})
    text = template.write("hf://me/odd")
    assert "# By itself it is not read: x.pth: follows no known" in text and 'game = "pong"' in text
    _, files = _student(tmp_path / "student", ["pong"])
    server.publish("me/whole", files)
    with pytest.raises(ValueError, match=r"^hf://me/whole@\w+: is a directory; a spec describes"):
        template.write("hf://me/whole")


def test_a_run_writes_down_the_commits_of_its_experts(server, zoo):
    address, _ = zoo
    settings = distill_settings.Settings(experts=(ExpertSource(address),), network="net3")
    (role,) = student_json.roles_of(settings, distill_settings.teachers(settings))
    commit = server.repositories["sb3/dqn-Pong"].branches["main"]
    assert role.source == f"{address}@{commit}/dqn-Pong.zip"
    assert Role.from_dict(role.to_dict()) == role
    before = {name: x for name, x in role.to_dict().items() if name != "source"}
    assert Role.from_dict(before).source == ""  # of a run that did not write it


def test_a_run_is_measured_with_the_commits_that_it_learnt_from(server, tmp_path, monkeypatch):
    """Where it does not follow its experts, and has written them down."""
    commits = []
    for seed in (0, 1):
        _, files = _student(tmp_path / str(seed), ["pong"], seed=seed)
        commits.append(server.publish("me/moving", files))
        settings = distill_settings.Settings(
            experts=(ExpertSource("hf://me/moving"),), network="net3"
        )
        if not seed:
            assert student_json.as_read(tmp_path, settings) == settings, "nothing is written yet"
            with monkeypatch.context() as patch:
                patch.setattr(meshes, "leads", lambda: False)
                student_json.claim_roles(tmp_path, settings, distill_settings.teachers(settings))
                student_json.claim_paths(tmp_path, settings)  # without its config.json
            assert not [*tmp_path.glob("student.json*")], "one of several processes writes it"
            student_json.claim_roles(tmp_path, settings, distill_settings.teachers(settings))
    read = student_json.as_read(tmp_path, settings)
    assert read.experts == (ExpertSource(f"hf://me/moving@{commits[0]}"),)
    student_json.check_teachers(tmp_path, distill_settings.teachers(read))
    said = rf"learnt pong from hf://me/moving@{commits[0]}, and hf://me/moving@{commits[1]} has oth"
    with pytest.raises(ValueError, match=said):
        student_json.check_teachers(tmp_path, distill_settings.teachers(settings))
    # Moved to another repository, or to a commit that somebody names: that is asked for.
    for path in ("hf://me/moved", f"hf://me/moving@{commits[1]}"):
        elsewhere = dataclasses.replace(settings, experts=(ExpertSource(path),))
        assert student_json.as_read(tmp_path, elsewhere) == elsewhere
    following = dataclasses.replace(settings.collect, follow=True)
    settings = dataclasses.replace(settings, collect=following)
    assert student_json.as_read(tmp_path, settings) == settings


def test_a_student_begins_as_one_of_the_hub_or_of_a_directory(server, tmp_path):
    student, files = _student(tmp_path / "student", ["pong"], seed=3)
    server.publish("me/warm", files)
    student.expert().save(tmp_path / "expert")
    settings = distill_settings.Settings(
        experts=(ExpertSource(str(tmp_path / "expert")),), network="net3"
    )
    run = common.Run(settings, meshes.create())
    for named in ("hf://me/warm", str(tmp_path / "student")):
        assert same(warm_start.params_of(run, named, "learn.warm_start"), student.params)
    with pytest.raises(OSError, match="no such repository"):
        warm_start.params_of(run, "hf://me/none", "learn.warm_start")


# --- other people's repositories


def test_what_lies_outside_is_never_asked_for(server, zipped, tmp_path):
    server.publish(
        "bad/paths", {"../../up.zip": zipped, "/etc/x.zip": zipped, "a/../../b.zip": zipped}
    )
    server.requests.clear()
    assert "no such file; the repository is empty" in refused("hf://bad/paths")
    assert [x.split(" ")[0] for x in server.requests] == ["GET"]  # the list of files and no file
    assert "is no address of the hub" in refused("hf://bad/paths/../../up.zip")


def test_a_file_that_would_not_be_read_is_not_downloaded(server, zipped, monkeypatch):
    server.publish(
        "bad/large", {"large.zip": zipped, "policy.json": b"{}", "policy.safetensors": b""}
    )
    monkeypatch.setattr(server, "sizes", {"large.zip": 2**40, "policy.json": 2**25})
    server.requests.clear()
    assert "large.zip has 1099511627776 bytes" in refused("hf://bad/large/large.zip")
    assert "policy.json has 33554432 bytes, and 16777216 are the most" in refused("hf://bad/large")
    monkeypatch.setattr(server, "sizes", {"large.zip": None})
    assert "large.zip has an unknown number of bytes" in refused("hf://bad/large/large.zip")
    assert not any("resolve" in x for x in server.requests)
    monkeypatch.setattr(server, "sizes", {"large.zip": 1000})  # and says less than it gives
    formats.load("hf://bad/large/large.zip", game="pong")


def test_nothing_of_a_repository_runs(server, zipped, tmp_path, monkeypatch):
    made = tmp_path / "made"
    evil = f"!!python/object/apply:os.mknod ['{made}']".encode()
    card = b"---\nmodel-index: " + evil + b"\n---\n"
    pickle = b"cos\nmknod\n(V" + str(made).encode() + b"\ntR."
    files = {
        "README.md": card,
        "config.yml": b"frame_stack: " + evil,
        "args.yml": evil,
        "env_kwargs.yml": b"mode: " + evil,
        "x.zip": torch_writer.archive({"data": b"{}", "policy.pth": pickle}),
    }
    server.publish("bad/pickle", files)
    assert "x.zip" in refused("hf://bad/pickle", game="pong")
    server.publish("bad/yaml", files | {"x.zip": zipped})
    formats.load("hf://bad/yaml", game="pong")
    assert not made.exists()


def test_an_expert_that_saw_something_else_is_refused(server, zipped):
    server.publish("bad/stack", {"x.zip": zipped, "config.yml": b"frame_stack: 2\n"})
    line = refused("hf://bad/stack", game="pong")
    assert "config.yml says frame_stack 2, and its network takes 4 frames" in line
    vectors = (ROOT / "tests" / "golden" / "expert_ppo.zip").read_bytes()
    for kind, content, game in (("vectors", vectors, None), ("screens", zipped, "pong")):
        repository = f"bad/{kind}"
        server.publish(repository, {"x.zip": content, "config.yml": b"normalize: true\n"})
        line = refused(f"hf://{repository}", game=game)
        assert "what it sees was normalised, by numbers in vec_normalize.pkl" in line
        rewards = b"normalize: '{''norm_obs'': False}'\n"
        server.publish(repository, {"config.yml": rewards})
        assert formats.load(f"hf://{repository}", game=game).game == game


def shared(size):
    """YAML whose list h is of `size` times the list before, and so on: `size` to the eighth."""
    rows = [f"a: &a [{','.join(['1'] * size)}]"]
    for inner, outer in itertools.pairwise("abcdefgh"):
        rows.append(f"{outer}: &{outer} [{','.join([f'*{inner}'] * size)}]")
    return "\n".join(rows)


CLAIMED = f"""---
m: &m [&x {{type: mean_reward, value: 1}}, {", ".join(["*x"] * 300)}]
r: &r [&y {{dataset: {{type: Pong-v5}}, metrics: *m}}, {", ".join(["*y"] * 300)}]
model-index: [&z {{results: *r}}, {", ".join(["*z"] * 300)}]
---
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yml", f"{shared(8)}\nnormalize: *h"),  # 17 million numbers
        ("config.yml", f"{shared(8)}\nnormalize: x\nnormalize_kwargs: *h"),
        (hub.CARD, CLAIMED),  # 27 million metrics
    ],
    ids=["normalize", "normalize_kwargs", "model-index"],
)
def test_a_file_with_aliases_says_nothing_whatever_key_refers_to_them(name, text):
    """Written out, a few hundred bytes of them would take seconds, or hours."""
    pytest.importorskip("yaml")
    begun = time.process_time()
    found = published.read({name: text.encode()}, "a/b")
    assert time.process_time() - begun < 1.0
    assert (found.game, dict(found.scores), found.normalised) == (None, {}, False)
    plain = published.read({"config.yml": b"frame_stack: 4  # *x\nn_envs: '*'"}, "a/b")
    assert plain.stack == 4, "an asterisk is no alias"


def test_of_a_model_card_so_many_metrics_are_looked_at(monkeypatch):
    pytest.importorskip("yaml")
    metrics = [{"type": name, "value": i} for i, name in enumerate(["x", "mean_reward", "x"])]
    results = [{"dataset": {"type": "Pong-v5"}, "metrics": metrics}]
    metadata = json.dumps({"model-index": [{"results": results}]})  # JSON is YAML
    for most, scores in ((1, {}), (2, {"pong": 1.0})):
        monkeypatch.setattr(published, "_MAX_METRICS", most)
        text = f"---\n{metadata}\n---\n".encode()
        assert published.read({hub.CARD: text}, "a/b").scores == scores
