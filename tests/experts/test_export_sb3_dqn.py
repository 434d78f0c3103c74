"""Zips for `DQN.load`: here, in PyTorch and in Stable-Baselines3 they answer as our experts."""

import base64
import dataclasses
import io
import json
import pickle
import warnings
import zipfile

import jax
import numpy as np
import pytest

from jaxdistill import networks, tasks
from jaxdistill.experts import export_sb3, formats
from jaxdistill.experts.expert import Expert
from jaxdistill.networks import Network
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View

GAME = tasks.get("breakout")
NETWORKS = {
    "linear": Network(hidden=(12,)),
    "two layers": Network(hidden=(12, 9)),
    "dueling": Network(head="dueling", action_hidden=(10,), value_hidden=(6,)),
    "deep streams": Network(
        hidden=(8,), head="dueling", action_hidden=(10, 7), value_hidden=(6, 5)
    ),
    "bare streams": Network(hidden=(12,), head="dueling"),
}


FIELDS = {"outputs": "q", "actions": tuple(range(18)), "game": "breakout"}


def an_expert(network):
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), (4, 84, 84)))
    generator = np.random.default_rng(1)

    def draw(x):
        scale = 0.2 if x.ndim == 1 else 1.4 / np.prod(x.shape[:-1]) ** 0.5
        return (generator.normal(size=x.shape) * scale).astype(np.float32)

    return Expert("mine", network, jax.tree.map(draw, shapes), **FIELDS)


@pytest.fixture(scope="module")
def seen(breakout_play):
    """Real states of three games of Breakout."""
    return breakout_play.observations[::60].reshape(-1, 4, 84, 84)


@pytest.fixture(scope="module", params=NETWORKS.values(), ids=NETWORKS)
def written(request, tmp_path_factory):
    expert = an_expert(request.param)
    path = tmp_path_factory.mktemp("dqn") / "policy.zip"
    export_sb3.export_expert(expert, path)
    return expert, path


def own_outputs(expert, seen):
    """Q-values of the game's own actions, as an environment numbers them."""
    return np.asarray(expert.suite_outputs(seen))[:, list(GAME.actions)]


def test_it_is_read_back_with_the_same_outputs(written, seen):
    expert, path = written
    again = formats.load(path, game="breakout")
    assert again.actions == GAME.actions == (0, 1, 3, 4) and again.outputs == "q"
    assert again.view == View() and again.network.head == "linear"
    wanted = own_outputs(expert, seen)
    assert np.ptp(wanted, axis=1).max() > 0.05
    np.testing.assert_allclose(own_outputs(again, seen), wanted, rtol=1e-5, atol=1e-5)


def test_how_it_sees_and_how_its_own_game_is_played_come_back(tmp_path):
    # Three gray frames: by its shape alone it could be one in colour.
    view, rules = View(stack=3, resize="linear"), Rules(repeat_action_probability=0.25)
    network = NETWORKS["linear"]
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), (3, 84, 84)))
    params = jax.tree.map(lambda x: np.full(x.shape, 0.01, np.float32), shapes)
    expert = Expert("mine", network, params, **FIELDS, view=view, rules=rules)
    export_sb3.export_expert(expert, tmp_path / "policy.zip")
    again = formats.load(tmp_path / "policy.zip")
    assert (again.view, again.rules, again.game) == (view, rules, "breakout")
    with pytest.raises(ValueError, match="plays breakout, and pong was asked for"):
        formats.load(tmp_path / "policy.zip", game="pong")
    # Nothing of it stands in a zip that Stable-Baselines3 wrote.
    data = json.loads((members := read_members(tmp_path / "policy.zip")).pop("data"))
    del data["jaxdistill"]
    with zipfile.ZipFile(tmp_path / "theirs.zip", "w") as archive:
        for name, content in (members | {"data": json.dumps(data).encode()}).items():
            archive.writestr(name, content)
    with pytest.raises(ValueError, match="3 channels of 84x84"):
        formats.load(tmp_path / "theirs.zip", game="breakout")


def read_members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_pytorch_makes_the_same_of_its_tensors(written, seen):
    torch = pytest.importorskip("torch")
    expert, path = written
    with zipfile.ZipFile(path) as archive:
        tensors = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
        data = json.loads(archive.read("data"))
    own = {k.removeprefix("q_net."): x for k, x in tensors.items() if k.startswith("q_net.")}
    target = {k.removeprefix("q_net_target."): x for k, x in tensors.items() if "target" in k}
    assert own.keys() == target.keys() and len(tensors) == 2 * len(own)
    assert all(torch.equal(own[name], target[name]) for name in own)
    x = torch.from_numpy(seen).float() / 255
    for i, stride in enumerate((4, 2, 1)):
        name = f"features_extractor.cnn.{2 * i}"
        x = torch.conv2d(x, own[f"{name}.weight"], own[f"{name}.bias"], stride=stride).relu()
    last = sorted({name.rpartition(".")[0] for name in own if name.startswith("q_net.")})
    dense = ["features_extractor.linear.0", *last]
    x = x.flatten(1)
    for i, name in enumerate(dense):
        x = torch.nn.functional.linear(x, own[f"{name}.weight"], own[f"{name}.bias"])
        x = x if i == len(dense) - 1 else x.relu()
    np.testing.assert_allclose(x.numpy(), own_outputs(expert, seen), rtol=1e-5, atol=1e-5)
    kwargs = data["policy_kwargs"]
    sizes = [kwargs["features_extractor_kwargs"]["features_dim"], *kwargs["net_arch"]]
    assert sizes == [len(own[f"{name}.bias"]) for name in dense[:-1]]


def test_its_spaces_are_gymnasium_s(written):
    spaces = pytest.importorskip("gymnasium").spaces
    with zipfile.ZipFile(written[1]) as archive:
        data = json.loads(archive.read("data"))
    for name, wanted in (
        ("observation_space", spaces.Box(0, 255, (4, 84, 84), np.uint8)),
        ("action_space", spaces.Discrete(4)),
    ):
        assert pickle.loads(base64.b64decode(data[name][":serialized:"])) == wanted


def test_stable_baselines3_plays_what_we_play(written, seen):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dqn = pytest.importorskip("stable_baselines3").DQN
        expert, path = written
        model = dqn.load(path, device="cpu")
    wanted = own_outputs(expert, seen)
    shown, _ = model.policy.obs_to_tensor(seen)
    theirs = model.q_net(shown).detach().numpy()
    np.testing.assert_allclose(theirs, wanted, rtol=1e-5, atol=1e-5)
    actions, _ = model.predict(seen, deterministic=True)
    np.testing.assert_array_equal(actions, wanted.argmax(axis=1))


@pytest.mark.parametrize(
    ("network", "changes", "said"),
    [
        (networks.create("net3"), {}, "convolutions other than Nature's"),
        (NETWORKS["linear"].clone(layer_norm=True), {}, "LayerNorm"),
        (NETWORKS["linear"].clone(activation="elu"), {}, "activation elu"),
        (NETWORKS["linear"].clone(head="actor_critic"), {}, "a head of type actor_critic"),
        (NETWORKS["dueling"].clone(value_hidden=()), {}, "1 action and 0 value dense layers"),
        (Network(), {}, "outputs without a dense layer"),
        (NETWORKS["linear"], {"outputs": "logits"}, "logits, where it has Q-values"),
        (NETWORKS["linear"], {"view": View(difference=True)}, "what it sees"),
        (
            NETWORKS["linear"].clone(num_outputs=3),
            {"actions": (0, 1, 4)},
            "has no output for RIGHT, valid in breakout",
        ),
    ],
)
def test_what_a_dqn_cannot_be_is_one_line_and_leaves_nothing(network, changes, said, tmp_path):
    expert = Expert("mine", network, {}, **(FIELDS | changes))
    with pytest.raises(ValueError, match=said) as error:
        export_sb3.export_expert(expert, tmp_path / "policy.zip")
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_and_files_that_stand_are_refused(tmp_path):
    expert = an_expert(NETWORKS["linear"])
    path = tmp_path / "policy.zip"
    broken = jax.tree.map(lambda x: x * np.float32(np.nan), expert.params)
    with pytest.raises(ValueError, match="not finite"):
        export_sb3.export_expert(dataclasses.replace(expert, params=broken), path)
    assert list(tmp_path.iterdir()) == []
    export_sb3.export_expert(expert, path)
    with pytest.raises(ValueError, match="already exists"):
        export_sb3.export_expert(expert, path)
    export_sb3.export_expert(expert, tmp_path / "again.zip")
    assert path.read_bytes() == (tmp_path / "again.zip").read_bytes(), "equal policies, equal files"
