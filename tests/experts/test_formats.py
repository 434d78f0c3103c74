"""Converted experts compute what PyTorch computes, and files that cannot be converted say why.

Parity tests build networks in PyTorch and are skipped without it; the golden files prove the same
of small networks everywhere.
"""

import base64
import dataclasses
import io
import itertools
import json
import os
import pathlib
import pickle
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import networks, tasks
from jaxdistill.experts import export, export_sb3, formats, sources, torch_writer
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import template
from jaxdistill.play import players
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import SCREEN, Screen, Shown, Vector, View

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
CONFIGS = pathlib.Path(__file__).parents[2] / "configs" / "experts"
NATURE = ((8, 4), (4, 2), (3, 1))


def pixels(batch: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, *shape), np.uint8)


def outputs(expert: Expert, observations: np.ndarray) -> np.ndarray:
    return np.asarray(expert.network.apply(expert.params, jnp.asarray(observations)))


def values(expert: Expert, observations: np.ndarray) -> np.ndarray:
    shown = jnp.asarray(observations)
    return np.asarray(networks.forward_with_values(expert.network, expert.params, shown)[1])


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert np.ptp(theirs, axis=0).max() > 1e-2  # the input matters
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def refused(path, *expected: str, error=ValueError, **options) -> str:
    """The one line a file is refused with."""
    with pytest.raises(error) as caught:
        formats.convert(path, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000
    for words in expected:
        assert words in message
    return message


# --- files written without PyTorch


def state_dict(*layers: tuple[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights and biases of layers given as (key, shape of the weight)."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for key, shape in layers:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        tensors[f"{key}.weight"] = (generator.normal(size=shape) * scale).astype(np.float32)
        tensors[f"{key}.bias"] = (generator.normal(size=shape[:1]) * 0.1).astype(np.float32)
    return tensors


def nature(keys: tuple[str, ...], width: int = 2, stack: int = 4):
    """Three small convolutions of the Nature kernels."""
    sizes = (stack, width, width, width)
    return [
        (key, (sizes[i + 1], sizes[i], kernel, kernel))
        for i, (key, (kernel, _)) in enumerate(zip(keys, NATURE, strict=True))
    ]


def plain_reference(actions: int = 18) -> dict[str, np.ndarray]:
    return state_dict(*nature(("conv1", "conv2", "conv3")), ("fc1", (5, 98)), ("fc2", (actions, 5)))


def cleanrl(actions: int = 4) -> dict[str, np.ndarray]:
    convs = nature(("network.0", "network.2", "network.4"))
    return state_dict(*convs, ("network.7", (5, 98)), ("network.9", (actions, 5)))


@pytest.fixture
def saved(tmp_path):
    """Writes a tree as a PyTorch file; its path."""

    def save(tree, name: str = "expert.pth") -> pathlib.Path:
        (tmp_path / name).write_bytes(torch_writer.dumps(tree))
        return tmp_path / name

    return save


@pytest.fixture
def spec(tmp_path):
    """Writes a spec; its path."""

    def write(text: str) -> pathlib.Path:
        (tmp_path / "spec.toml").write_text(text)
        return tmp_path / "spec.toml"

    return write


# --- golden files


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "experts.npz") as arrays:
        return dict(arrays)


def golden_observations(batch: int, *shape: int) -> np.ndarray:
    """As in make_experts.py, which needs PyTorch to be imported."""
    count = batch * int(np.prod(shape))
    hashed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (hashed >> np.uint64(56)).astype(np.uint8).reshape(batch, *shape)


def test_golden_dueling(golden):
    spec = GOLDEN / "expert_dueling.toml"
    conversion = formats.convert(GOLDEN / "expert_dueling.pth", spec=spec)
    expert = conversion.expert
    close(outputs(expert, golden_observations(3, 4, 84, 84)), golden["dueling"])
    assert (expert.game, expert.outputs, expert.advertised_score) == ("breakout", "q", 1.5)
    assert expert.actions == tasks.get("breakout").actions
    assert expert.view == View()
    assert [layer.key for layer in conversion.layers] == [
        "torso.0",
        "torso.2",
        "advantage.0",
        "advantage.2",
        "value.0",
        "value.2",
    ]
    assert conversion.rows()[1][3:5] == ("3 -> 4", "3x3 / 2, padding 1")
    assert len(conversion.rows()[0]) == len(formats.COLUMNS)
    assert sum(layer.parameters for layer in conversion.layers) == networks.count(expert.params)


def test_golden_actor_critic(golden):
    spec = GOLDEN / "expert_actor_critic.toml"
    expert = formats.load(GOLDEN / "expert_actor_critic.pkl", spec=spec)
    shown = golden_observations(3, 2, 42, 34)
    ours = np.column_stack([outputs(expert, shown), values(expert, shown)])
    close(ours, golden["actor_critic"])
    assert expert.game is None and expert.view == View(height=42, width=34, stack=2)


def test_golden_stable_baselines(golden):
    conversion = formats.convert(GOLDEN / "expert_ppo.zip")
    expert = conversion.expert
    shown = golden_observations(3, 4).astype(np.float32) / 64 - 2
    close(np.column_stack([outputs(expert, shown), values(expert, shown)]), golden["mlp"])
    assert conversion.convention == "Stable-Baselines3 PPO, MLP"
    assert expert.network.activation == "tanh" and expert.view == Vector(4)
    assert (expert.outputs, expert.actions, expert.game) == ("logits", (0, 1), None)


def test_saved_expert_loads_as_it_was(golden, tmp_path):
    expert = formats.load(GOLDEN / "expert_dueling.pth", spec=GOLDEN / "expert_dueling.toml")
    expert.save(tmp_path / "expert")
    again = formats.convert(tmp_path / "expert", game="Breakout-v5")
    assert again.expert.game == "breakout" and again.rows() == []
    assert again.expert.network == expert.network
    jax.tree.map(np.testing.assert_array_equal, again.expert.params, expert.params)


# --- parity with PyTorch


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.manual_seed(0)
    return module


def build(torch, layers, forward):
    """A module with these children whose forward pass is `forward(children, x)`.

    Outputs of PyTorch's own initialisation are so small that 1e-5 would say little.
    """

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for name, child in layers.items():
                self.add_module(name, child)

        def forward(self, x):
            return forward(self, x)

    net = Net()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim > 1:
                fan_in = parameter[0].numel()
                parameter.normal_(0, (2 / fan_in) ** 0.5)
            else:
                parameter.normal_(0, 0.1)
    return net


def conv_list(torch, widths=(6, 7, 8), stack=4):
    sizes = (stack, *widths)
    return [
        torch.nn.Conv2d(sizes[i], sizes[i + 1], kernel, stride)
        for i, (kernel, stride) in enumerate(NATURE)
    ]


def with_relu(torch, layers):
    return torch.nn.Sequential(*(m for layer in layers for m in (layer, torch.nn.ReLU())))


def dueling(value, advantage):
    return value + advantage - advantage.mean(1, keepdim=True)


def reference_dueling(torch, widths=(6, 7, 8), dense=16):
    linear, relu = torch.nn.Linear, torch.relu
    convs = conv_list(torch, widths)
    layers = {f"conv{i}": conv for i, conv in enumerate(convs, 1)}
    layers |= {"fc_value": linear(49 * widths[-1], dense), "value": linear(dense, 1)}
    layers |= {"fc_adv": linear(49 * widths[-1], dense), "advantage": linear(dense, 18)}

    def forward(net, x):
        x = x / 255
        for i in range(1, 4):
            x = relu(getattr(net, f"conv{i}")(x))
        x = x.flatten(1)
        return dueling(net.value(relu(net.fc_value(x))), net.advantage(relu(net.fc_adv(x))))

    return build(torch, layers, forward)


def reference_plain(torch):
    linear, relu = torch.nn.Linear, torch.relu
    layers = {f"conv{i}": conv for i, conv in enumerate(conv_list(torch), 1)}
    layers |= {"fc1": linear(392, 16), "fc2": linear(16, 18)}

    def forward(net, x):
        x = relu(net.conv3(relu(net.conv2(relu(net.conv1(x / 255))))))
        return net.fc2(relu(net.fc1(x.flatten(1))))

    return build(torch, layers, forward)


def crl_dueling(torch):
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    layers = {
        "features": with_relu(torch, conv_list(torch)),
        "value_stream": torch.nn.Sequential(linear(392, 12), relu(), linear(12, 1)),
        "advantage_stream": torch.nn.Sequential(linear(392, 16), relu(), linear(16, 6)),
    }

    def forward(net, x):
        x = net.features(x / 255).flatten(1)
        return dueling(net.value_stream(x), net.advantage_stream(x))

    return build(torch, layers, forward)


def crl_plain(torch):
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    layers = {
        "features": with_relu(torch, conv_list(torch)),
        "fc": torch.nn.Sequential(linear(392, 16), relu(), linear(16, 6)),
    }
    return build(torch, layers, lambda net, x: net.fc(net.features(x / 255).flatten(1)))


def cleanrl_dqn(torch):
    linear, relu, flatten = torch.nn.Linear, torch.nn.ReLU, torch.nn.Flatten
    convs = with_relu(torch, conv_list(torch))
    network = torch.nn.Sequential(*convs, flatten(), linear(392, 16), relu(), linear(16, 4))
    return build(torch, {"network": network}, lambda net, x: net.network(x / 255))


def cleanrl_ppo(torch):
    linear, relu, flatten = torch.nn.Linear, torch.nn.ReLU, torch.nn.Flatten
    convs = with_relu(torch, conv_list(torch))
    layers = {
        "network": torch.nn.Sequential(*convs, flatten(), linear(392, 16), relu()),
        "actor": linear(16, 4),
        "critic": linear(16, 1),
    }

    def forward(net, x):
        x = net.network(x / 255)
        return torch.cat([net.actor(x), net.critic(x)], 1)

    return build(torch, layers, forward)


NAMED = {
    # builder: convention, outputs, actions in Breakout
    reference_dueling: ("reference, dueling", "q", tuple(range(18))),
    reference_plain: ("reference, plain", "q", tuple(range(18))),
    crl_dueling: ("CRL-Atari, dueling", "q", (0, 1, 3, 4, 11, 12)),
    crl_plain: ("CRL-Atari, plain", "q", (0, 1, 3, 4, 11, 12)),
    cleanrl_dqn: ("CleanRL DQN", "q", (0, 1, 3, 4)),
    cleanrl_ppo: ("CleanRL PPO", "logits", (0, 1, 3, 4)),
}


def torch_outputs(torch, net, observations) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(observations).float()).numpy()


def ours(expert: Expert, observations: np.ndarray) -> np.ndarray:
    """Outputs, and beside them the value of an actor-critic."""
    if expert.network.head != "actor_critic":
        return outputs(expert, observations)
    return np.column_stack([outputs(expert, observations), values(expert, observations)])


@pytest.mark.parametrize("builder", NAMED, ids=lambda builder: builder.__name__)
def test_parity_of_named_conventions(builder, torch, tmp_path):
    net = builder(torch)
    observations = pixels(4, 4, 84, 84)
    theirs = torch_outputs(torch, net, observations)
    convention, kind, actions = NAMED[builder]
    path = tmp_path / "net.pth"
    for zipped in (True, False):
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
        conversion = formats.convert(path, game="breakout")
        expert = conversion.expert
        close(ours(expert, observations), theirs)
        assert conversion.convention == convention
        assert (expert.outputs, expert.actions, expert.view) == (kind, actions, View())
        told = [note for note in conversion.notes if not note.startswith("its own game")]
        assert told == [] and conversion.skipped == ()


def test_reference_dueling_has_3_300_019_parameters(torch, tmp_path):
    net = reference_dueling(torch, (32, 64, 64), 512)
    observations = pixels(2, 4, 84, 84)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    expert = formats.load(tmp_path / "net.pth")
    close(outputs(expert, observations), torch_outputs(torch, net, observations))
    assert networks.count(expert.params) == 3_300_019
    assert expert.network == networks.create("dueling")


@pytest.fixture(scope="module")
def crl_file(torch):
    """A network, observations and its outputs for them."""
    net = crl_plain(torch)
    observations = pixels(4, 4, 84, 84)
    return net, observations, torch_outputs(torch, net, observations)


def one_storage(torch, weights):
    """The same tensors as views of one storage."""
    sizes = [tensor.numel() for tensor in weights.values()]
    parts = torch.cat([tensor.flatten() for tensor in weights.values()]).split(sizes)
    return {key: part.view(weights[key].shape) for key, part in zip(weights, parts, strict=True)}


def checkpoint(torch, net):
    """As CRL-Atari writes it, with the state of an optimizer that has taken a step."""
    weights = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    copied = [tensor.clone().requires_grad_() for tensor in weights.values()]
    optimizer = torch.optim.Adam(copied)
    sum(tensor.sum() for tensor in copied).backward()
    optimizer.step()
    return {
        "policy_net": weights,
        "target_net": {key: tensor + 1 for key, tensor in weights.items()},
        "optimizer": optimizer.state_dict(),
        "valid_actions": [0, 1, 2, 3],
        "env_steps": 7,
    }


WAYS = {
    "one storage": one_storage,
    "non-contiguous": lambda torch, weights: {
        key: tensor.transpose(0, -1).contiguous().transpose(0, -1)
        for key, tensor in weights.items()
    },
    "double": lambda torch, weights: {key: tensor.double() for key, tensor in weights.items()},
    "data parallel": lambda torch, weights: {f"module.{k}": t for k, t in weights.items()},
    "compiled": lambda torch, weights: {f"_orig_mod.{k}": t for k, t in weights.items()},
    "inside an agent": lambda torch, weights: {f"agent.net.{k}": t for k, t in weights.items()},
    "nested": lambda torch, weights: {"model": {"state": weights}, "step": 3},
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("way", WAYS)
def test_parity_whatever_way_it_was_saved(way, zipped, torch, crl_file, tmp_path):
    net, observations, theirs = crl_file
    path = tmp_path / "net.tar"
    tree = WAYS[way](torch, net.state_dict())
    torch.save(tree, path, _use_new_zipfile_serialization=zipped)
    close(outputs(formats.load(path), observations), theirs)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_parity_of_whole_modules_and_checkpoints(zipped, torch, crl_file, tmp_path):
    net, observations, theirs = crl_file
    module = torch.nn.ModuleDict(dict(net.named_children()))
    torch.save(module, tmp_path / "module.pkl", _use_new_zipfile_serialization=zipped)
    close(outputs(formats.load(tmp_path / "module.pkl"), observations), theirs)
    torch.save(checkpoint(torch, net), tmp_path / "c.pt", _use_new_zipfile_serialization=zipped)
    conversion = formats.convert(tmp_path / "c.pt")
    close(outputs(conversion.expert, observations), theirs)
    notes = " ".join(conversion.notes)
    assert "valid actions: [0, 1, 3, 4]" in notes
    assert "target_net (10 tensors)" in notes and "optimizer.state" in notes


@pytest.mark.parametrize("builder", [reference_dueling, reference_plain])
def test_parity_of_reference_expert_files(builder, torch, tmp_path):
    net = builder(torch).half().float()  # what the file can hold
    observations = pixels(4, 4, 84, 84)
    half = {key: tensor.half() for key, tensor in net.state_dict().items()}
    tree = {
        "policy_net_state_dict": half,
        "target_net_state_dict": {key: tensor * 2 for key, tensor in half.items()},
        "optimizer_state_dict": torch.optim.Adam(net.parameters()).state_dict(),
        "epsilon": 0.05,
        "training_step": np.int64(10),
        "use_double": True,
        "use_dueling": True,
        "use_priority": False,
    }
    torch.save(tree, tmp_path / "expert.pth")
    conversion = formats.convert(tmp_path / "expert.pth")
    close(outputs(conversion.expert, observations), torch_outputs(torch, net, observations))
    assert conversion.expert.game is None
    assert any("which game" in note for note in conversion.notes)
    leaves = jax.tree.leaves(conversion.expert.params)
    assert all(leaf.dtype == np.float32 for leaf in leaves)


def test_reference_merged_file_lists_its_games(saved):
    tree = {"state_dict": plain_reference(), "architecture": "cnn", "games": ["Pong", "Freeway"]}
    conversion = formats.convert(saved(tree), game="freeway")
    assert conversion.convention == "reference merged, plain"
    assert conversion.notes == ("a student of several games: Pong, Freeway",)
    assert conversion.expert.game == "freeway" and len(conversion.expert.actions) == 18


# --- Stable-Baselines3


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def box(*shape: int, dtype: str = "uint8") -> dict:
    kind = "<class 'gymnasium.spaces.box.Box'>"
    return {":type:": kind, ":serialized:": "gASVAA==", "dtype": dtype, "_shape": list(shape)}


def discrete(n: int) -> dict:
    kind = "<class 'gymnasium.spaces.discrete.Discrete'>"
    return {":type:": kind, ":serialized:": "gASVAA==", "n": str(n), "_shape": []}


def archive(path, weights: bytes, data: dict, *, canary=None) -> pathlib.Path:
    """A Stable-Baselines3 archive; what it says of its class is a pickle not to be loaded."""
    pickled = pickle.dumps(Canary(canary or path.with_name("canary")))
    policy_class = {
        ":type:": "<class 'abc.ABCMeta'>",
        ":serialized:": base64.b64encode(pickled).decode(),
        "__module__": "stable_baselines3.common.policies",
    }
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data", json.dumps({"policy_class": policy_class, **data}, indent=4))
        file.writestr("pytorch_variables.pth", pickled)
        file.writestr("policy.pth", weights)
        file.writestr("policy.optimizer.pth", pickled)
        file.writestr("_stable_baselines3_version", "2.3.2")
        file.writestr("system_info.txt", "OS: Linux")
    return path


def torch_bytes(torch, tree) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getvalue()


def mlp(torch, *widths: int, activation="Tanh"):
    """A Sequential of dense layers, each followed by the activation."""
    make = getattr(torch.nn, activation)
    layers = [(torch.nn.Linear(a, b), make()) for a, b in itertools.pairwise(widths)]
    return torch.nn.Sequential(*(module for pair in layers for module in pair))


def q_net(torch, sequential, extractor=None):
    inner = {"q_net": sequential}
    if extractor is not None:
        inner["features_extractor"] = extractor
    return torch.nn.ModuleDict(inner)


def nature_extractor(torch, dense=16):
    cnn = torch.nn.Sequential(*with_relu(torch, conv_list(torch)), torch.nn.Flatten())
    linear = torch.nn.Sequential(torch.nn.Linear(392, dense), torch.nn.ReLU())
    return torch.nn.ModuleDict({"cnn": cnn, "linear": linear})


def extract(extractor, x):
    return extractor["linear"](extractor["cnn"](x))


def test_parity_of_sb3_dqn_on_screens(torch, tmp_path):
    head = torch.nn.Sequential(torch.nn.Linear(16, 4))
    layers = {
        "q_net": q_net(torch, head, nature_extractor(torch)),
        "q_net_target": q_net(torch, torch.nn.Sequential(torch.nn.Linear(16, 4))),
    }

    def forward(net, x):
        return net.q_net["q_net"](extract(net.q_net["features_extractor"], x / 255))

    net = build(torch, layers, forward)
    observations = pixels(4, 4, 84, 84)
    data = {
        "policy_kwargs": {},
        "observation_space": box(4, 84, 84),
        "action_space": discrete(4),
        "exploration_rate": 0.01,
    }
    path = archive(tmp_path / "dqn.zip", torch_bytes(torch, net.state_dict()), data)
    conversion = formats.convert(path, game="BreakoutNoFrameskip-v4")
    expert = conversion.expert
    close(outputs(expert, observations), torch_outputs(torch, net, observations))
    assert conversion.convention == "Stable-Baselines3 DQN, CNN"
    assert (expert.outputs, expert.actions, expert.view) == ("q", (0, 1, 3, 4), View())
    assert expert.game == "breakout"
    refused(path, "4 outputs", "--game")
    refused(path, "4 outputs", "pong has 6 actions", game="pong")
    assert not (tmp_path / "canary").exists()


def test_parity_of_sb3_pixels_that_are_not_normalised(torch, tmp_path):
    head = torch.nn.Sequential(torch.nn.Linear(16, 4))
    layers = {"q_net": q_net(torch, head, nature_extractor(torch))}

    def forward(net, x):
        return net.q_net["q_net"](extract(net.q_net["features_extractor"], x / 64))

    net = build(torch, layers, forward)
    observations = pixels(4, 4, 84, 84)
    theirs = torch_outputs(torch, net, observations)
    with torch.no_grad():
        net.q_net["features_extractor"]["cnn"][
            0
        ].weight /= 64  # so that it takes pixels as they are
    data = {"policy_kwargs": {"normalize_images": False}, "observation_space": box(4, 84, 84)}
    path = archive(tmp_path / "dqn.zip", torch_bytes(torch, net.state_dict()), data)
    close(outputs(formats.load(path, game="breakout"), observations), theirs)


@pytest.mark.parametrize(
    ("told", "levels"),
    [
        (box(4, 84, 84, dtype="float32") | {"high_repr": "1.0"}, False),
        (box(4, 84, 84, dtype="float32") | {"high": "[[[1. 1. 1."}, False),
        (box(4, 84, 84, dtype="float32") | {"high_repr": "255.0"}, True),
        (box(4, 84, 84) | {"high_repr": "255"}, True),
    ],
)
def test_sb3_pixels_that_were_divided_before_are_not_again(told, levels, sb3):
    convs = nature(tuple(f"q_net.features_extractor.cnn.{i}" for i in (0, 2, 4)))
    dense = ("q_net.features_extractor.linear.0", (5, 2 * 7 * 7))
    arrays = state_dict(*convs, dense, ("q_net.q_net.0", (4, 5)))
    path = sb3(arrays, policy_kwargs={}, observation_space=box(4, 84, 84))
    usual = formats.load(path, game="breakout")
    kwargs = {"normalize_images": False}
    # Of fractions it makes no difference what it is told: only bytes are ever divided.
    for chosen in (kwargs, {}) if told["dtype"] == "float32" else (kwargs,):
        path = sb3(arrays, policy_kwargs=chosen, observation_space=told)
        found = formats.load(path, game="breakout")
        first = [x.params["params"]["conv1"]["kernel"] for x in (found, usual)]
        np.testing.assert_allclose(first[0], first[1] * (255 if levels else 1), rtol=1e-6)
    for low, high in (("0.0", "2.0"), ("-1.0", "1.0")):
        other = told | {"dtype": "float32", "high_repr": high, "low_repr": low}
        path = sb3(arrays, policy_kwargs={}, observation_space=other)
        words = f"fractions from {float(low):g} to {float(high):g}, expected 0 to 1 or 0 to 255"
        refused(path, words, game="breakout")


def whole_screen(channels: int) -> dict[str, np.ndarray]:
    """A DQN of a `CnnPolicy` on 210x160 pixels, with four outputs."""
    convs = nature(tuple(f"q_net.features_extractor.cnn.{i}" for i in (0, 2, 4)), stack=channels)
    dense = ("q_net.features_extractor.linear.0", (5, 2 * 22 * 16))
    return state_dict(*convs, dense, ("q_net.q_net.0", (4, 5)))


@pytest.mark.parametrize(
    ("shape", "view"),
    [
        ((3, 210, 160), View(210, 160, 1, gray="none", maximum="none")),
        ((210, 160, 3), View(210, 160, 1, gray="none", maximum="none")),
        ((12, 210, 160), View(210, 160, 4, gray="none", maximum="none")),
        ((1, 210, 160), View(210, 160, 1, maximum="none")),
    ],
)
def test_sb3_on_the_whole_screen_sees_its_colours(shape, view, sb3):
    path = sb3(whole_screen(min(shape)), policy_kwargs={}, observation_space=box(*shape))
    found = formats.convert(path, game="breakout")
    assert found.expert.view == view and found.expert.rules == Rules()
    assert any("no AtariWrapper is assumed" in note for note in found.notes)
    assert np.isfinite(outputs(found.expert, pixels(1, *view.shape))).all()


def test_colours_are_stacked_as_sb3_stacks_them():
    """`VecFrameStack` rolls (C, H, W) back by one frame's channels and puts the newest last."""
    frames = pixels(2, 3, *SCREEN)
    stacked = np.zeros((6, *SCREEN), np.uint8)
    for frame in frames:
        stacked = np.roll(stacked, -3, axis=0)
        stacked[-3:] = frame
    screen = Screen((4, 0), maximum=False)
    shown = Shown(jnp.asarray(frames[None]), jnp.ones(1, jnp.int32), screen)
    view = View(*SCREEN, 2, gray="none", maximum="none")
    np.testing.assert_array_equal(view.see(shown), stacked[None])


def test_sb3_channels_that_may_be_colours_or_frames_are_refused(sb3):
    convs = nature(tuple(f"q_net.features_extractor.cnn.{i}" for i in (0, 2, 4)), stack=3)
    dense = ("q_net.features_extractor.linear.0", (5, 98))
    tensors = state_dict(*convs, dense, ("q_net.q_net.0", (4, 5)))
    said = "sees 3 channels of 84x84, which are as many gray frames or 1 in colour", "(--spec)"
    for data in ({}, {"observation_space": box(3, 84, 84)}, {"observation_space": box(84, 84, 3)}):
        refused(sb3(tensors, policy_kwargs={}, **data), *said, game="breakout")


def test_outputs_for_all_actions_are_said_by_sb3_as_by_others(sb3, saved):
    """By their number: Pong has 6 actions of its own, Boxing all 18."""
    convs = nature(tuple(f"q_net.features_extractor.cnn.{i}" for i in (0, 2, 4)))
    dense = ("q_net.features_extractor.linear.0", (5, 98))
    tensors = state_dict(*convs, dense, ("q_net.q_net.0", (18, 5)))
    zipped = sb3(tensors, policy_kwargs={}, observation_space=box(4, 84, 84))
    for game, full in (("pong", True), ("boxing", False)):
        ours, other = (formats.load(x, game=game) for x in (zipped, saved(cleanrl(18))))
        assert ours.rules == other.rules == Rules(fire_after_life=True, full_actions=full)
    expert = formats.load(zipped, game="pong")
    assert (expert.mask.sum(), expert.under(Rules()).mask.sum()) == (18, 6)
    whole = whole_screen(3) | state_dict(("q_net.q_net.0", (18, 5)))
    screens = sb3(whole, policy_kwargs={}, observation_space=box(3, 210, 160))
    assert formats.load(screens, game="pong").rules == Rules(full_actions=True)


def actor_critic(torch, *, pi, vf, inputs, actions, extractors=None):
    """An actor-critic policy; `extractors` gives those of base, actor and critic."""
    layers = {
        "mlp_extractor": torch.nn.ModuleDict({"policy_net": pi, "value_net": vf}),
        "action_net": torch.nn.Linear(inputs[0], actions),
        "value_net": torch.nn.Linear(inputs[1], 1),
    }
    for prefix, extractor in zip(("", "pi_", "vf_"), extractors or (), strict=False):
        layers[f"{prefix}features_extractor"] = extractor

    def forward(net, x):
        pi_in = vf_in = x
        if extractors:
            pi_in = extract(net.features_extractor, x / 255)
            vf_in = extract(getattr(net, "vf_features_extractor", net.features_extractor), x / 255)
        logits = net.action_net(net.mlp_extractor["policy_net"](pi_in))
        value = net.value_net(net.mlp_extractor["value_net"](vf_in))
        return torch.cat([logits, value], 1)

    return build(torch, layers, forward)


@pytest.mark.parametrize("listed", [1, 3], ids=["old", "new"])
def test_parity_of_sb3_actor_critic_on_screens(listed, torch, tmp_path):
    # Newer versions list the one extractor under three names.
    extractors = (nature_extractor(torch),) * listed
    nothing = torch.nn.Sequential()
    net = actor_critic(
        torch, pi=nothing, vf=nothing, inputs=(16, 16), actions=6, extractors=extractors
    )
    observations = pixels(4, 4, 84, 84)
    # As A2C writes it: what JSON cannot hold makes the whole field a pickle with strings beside.
    kwargs = {":type:": "<class 'dict'>", ":serialized:": "gASVAA==", "optimizer_class": "<class>"}
    data = {"policy_kwargs": kwargs, "observation_space": box(4, 84, 84), "n_steps": 5}
    path = archive(tmp_path / "a2c.zip", torch_bytes(torch, net.state_dict()), data)
    conversion = formats.convert(path, game="pong")
    close(ours(conversion.expert, observations), torch_outputs(torch, net, observations))
    assert conversion.convention == "Stable-Baselines3 A2C, CNN"
    assert conversion.expert.rules == Rules(fire_after_life=True)
    assert conversion.expert.outputs == "logits"
    assert conversion.expert.actions == tasks.get("pong").actions


def test_parity_of_sb3_relu_convolutions_with_tanh_layers(torch, tmp_path):
    extractors = (nature_extractor(torch),)
    pi, vf = mlp(torch, 16, 9, 7), mlp(torch, 16, 8)
    net = actor_critic(torch, pi=pi, vf=vf, inputs=(7, 8), actions=6, extractors=extractors)
    data = {"observation_space": box(4, 84, 84), "n_epochs": 4}
    path = archive(tmp_path / "ppo.zip", torch_bytes(torch, net.state_dict()), data)
    conversion = formats.convert(path, game="pong")
    observations = pixels(4, 4, 84, 84)
    close(ours(conversion.expert, observations), torch_outputs(torch, net, observations))
    assert conversion.expert.network.activation == ("relu",) * 4 + ("tanh",) * 3
    assert [row.activation for row in conversion.layers] == [
        *("relu",) * 4,
        *("tanh", "tanh", "none", "tanh", "none"),
    ]


def test_parity_of_a_spec_with_several_activations(torch, saved, spec):
    conv, dense, out = torch.nn.Conv2d(4, 3, 8, 4), torch.nn.Linear(1200, 5), torch.nn.Linear(5, 4)
    net = torch.nn.Sequential(conv, torch.nn.ELU(), torch.nn.Flatten(), dense, torch.nn.Tanh(), out)
    weights = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    text = """
    game = "breakout"
    outputs = "q"
    actions = [0, 1, 3, 4]
    pixels = "0..255"
    [view]
    resize = "area"
    [[layers]]
    type = "conv"
    key = "0"
    stride = 4
    activation = "elu"
    [[layers]]
    type = "dense"
    key = "3"
    activation = "tanh"
    [head]
    type = "linear"
    action = "5"
    """
    expert = formats.load(saved(weights), spec=spec(text))
    observations = pixels(4, 4, 84, 84)
    close(outputs(expert, observations), torch_outputs(torch, net, observations))
    expert.save(directory := spec(text).parent / "saved")
    assert Expert.load(directory).network == expert.network


def test_parity_of_sb3_actor_with_its_own_extractor(torch, tmp_path):
    own, critic = nature_extractor(torch), nature_extractor(torch)
    nothing = torch.nn.Sequential()
    net = actor_critic(
        torch, pi=nothing, vf=nothing, inputs=(16, 16), actions=6, extractors=(own, own, critic)
    )
    observations = pixels(4, 4, 84, 84)
    path = archive(tmp_path / "ppo.zip", torch_bytes(torch, net.state_dict()), {"n_epochs": 4})
    conversion = formats.convert(path, game="pong")
    close(outputs(conversion.expert, observations), torch_outputs(torch, net, observations)[:, :6])
    assert conversion.expert.network.head == "linear"
    assert any("critic" in note for note in conversion.notes)


@pytest.mark.parametrize("activation", ["Tanh", "ELU"])
def test_parity_of_sb3_actor_critic_on_vectors(activation, torch, tmp_path):
    pi = mlp(torch, 8, 16, 12, activation=activation)
    vf = mlp(torch, 8, 10, activation=activation)
    net = actor_critic(torch, pi=pi, vf=vf, inputs=(12, 10), actions=3)
    kwargs = {}
    if activation != "Tanh":
        made = f"<class 'torch.nn.modules.activation.{activation}'>"
        kwargs = {":type:": "<class 'dict'>", ":serialized:": "gASVAA==", "activation_fn": made}
    data = {"policy_kwargs": kwargs, "observation_space": box(8, dtype="float32"), "n_epochs": 4}
    path = archive(tmp_path / "ppo.zip", torch_bytes(torch, net.state_dict()), data)
    conversion = formats.convert(path)
    vectors = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    close(ours(conversion.expert, vectors), torch_outputs(torch, net, vectors))
    assert conversion.convention == "Stable-Baselines3 PPO, MLP"
    assert conversion.expert.actions == (0, 1, 2) and conversion.expert.view == Vector(8)
    assert any("VecNormalize" in note for note in conversion.notes)


def test_parity_of_sb3_dqn_on_vectors(torch, tmp_path):
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    sequential = torch.nn.Sequential(linear(4, 16), relu(), linear(16, 8), relu(), linear(8, 2))
    net = build(torch, {"q_net": q_net(torch, sequential)}, lambda net, x: net.q_net["q_net"](x))
    data = {"policy_kwargs": {"net_arch": [16, 8]}, "observation_space": box(4, dtype="float32")}
    path = archive(tmp_path / "dqn.zip", torch_bytes(torch, net.state_dict()), data)
    vectors = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    expert = formats.load(path)
    close(outputs(expert, vectors), torch_outputs(torch, net, vectors))
    assert expert.network.activation == "relu" and expert.network.hidden == (16, 8)


def test_parity_of_sb3_shared_layers_and_flattened_screens(torch, tmp_path):
    # Older versions could share dense layers; an MlpPolicy may see a screen.
    layers = {
        "mlp_extractor": torch.nn.ModuleDict(
            {"shared_net": mlp(torch, 2 * 6 * 5, 9), "policy_net": mlp(torch, 9, 8)}
        ),
        "action_net": torch.nn.Linear(8, 4),
        "value_net": torch.nn.Linear(9, 1),
    }

    def forward(net, x):
        shared = net.mlp_extractor["shared_net"](x.flatten(1) / 255)
        logits = net.action_net(net.mlp_extractor["policy_net"](shared))
        return torch.cat([logits, net.value_net(shared)], 1)

    net = build(torch, layers, forward)
    observations = pixels(4, 2, 6, 5)
    data = {"policy_kwargs": {}, "observation_space": box(2, 6, 5)}
    path = archive(tmp_path / "ppo.zip", torch_bytes(torch, net.state_dict()), data)
    expert = formats.load(path, game="breakout")
    close(ours(expert, observations), torch_outputs(torch, net, observations))
    assert expert.view == View(height=6, width=5, stack=2)


@pytest.fixture
def sb3(tmp_path, saved):
    """Writes an archive of a policy made of these arrays, and this data; its path."""

    def write(arrays, **data):
        weights = saved(arrays, "weights.pth").read_bytes()
        return archive(tmp_path / "policy.zip", weights, data)

    return write


def mlp_policy() -> dict[str, np.ndarray]:
    return state_dict(
        ("mlp_extractor.policy_net.0", (5, 4)),
        ("mlp_extractor.value_net.0", (5, 4)),
        ("action_net", (2, 5)),
        ("value_net", (1, 5)),
    )


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"n_epochs": 4, "n_steps": 5}, "PPO"),
        ({"cg_max_steps": 15, "n_steps": 5}, "TRPO"),
        ({"n_steps": 5}, "A2C"),
    ],
)
def test_who_has_learnt_a_policy_is_known_by_its_settings(sb3, data, name):
    found = formats.convert(sb3(mlp_policy(), policy_kwargs={}, **data))
    assert found.convention == f"Stable-Baselines3 {name}, MLP"
    assert found.expert.rules == Rules()  # no game of Atari


def test_sb3_policies_that_cannot_be_expressed(sb3, saved, tmp_path):
    policy = mlp_policy()
    kwargs = {"policy_kwargs": {}}
    noise = {"log_std": np.zeros(2, np.float32)}
    refused(sb3(policy | noise, **kwargs), "a policy of Box(2) on 4 numbers; expected Discrete")
    refused(sb3(policy | state_dict(("lstm_actor.x", (2, 2))), **kwargs), "lstm_actor.x.weight")
    refused(sb3(policy | state_dict(("extra", (2, 2))), **kwargs), "extra.weight")
    refused(
        sb3(state_dict(("quantile_net.quantile_net.0", (2, 2)))), "2 outputs are not 200 quantiles"
    )
    refused(sb3(state_dict(("actor.latent_pi.0", (2, 2)))), "continuous actions")
    refused(sb3(state_dict(("policy", (2, 2)))), "policy.weight", "DQN, PPO or A2C")
    missing = {k: v for k, v in policy.items() if k != "action_net.bias"}
    refused(sb3(missing, **kwargs), "lacks action_net.bias")
    refused(sb3(policy, action_space={":type:": "<class 'x.MultiDiscrete'>"}), "MultiDiscrete")
    refused(sb3(policy, action_space=discrete(3)), "3 actions", "2 outputs")
    refused(sb3(policy, policy_kwargs={"activation_fn": "<class 'torch.nn.Softsign'>"}), "Softsign")
    own = {"features_extractor_class": "<class '__main__.CustomCNN'>"}
    refused(sb3(policy, policy_kwargs=own), "CustomCNN", "spec")
    refused(saved(policy), "activation", ".zip")
    assert not (tmp_path / "canary").exists()


# Skills: keys and angles


def bits(n: int | list[int]) -> dict:
    kind = "<class 'gymnasium.spaces.multi_binary.MultiBinary'>"
    return {":type:": kind, ":serialized:": "gASVAA==", "n": n, "dtype": "int8"}


def turns(*shape: int) -> dict:
    """A Box of actions; bounds are text in an archive."""
    return box(*shape, dtype="float32") | {"low": "[-0.62831855]", "high": "[0.62831855]"}


SKILLS = {
    "combat/movement": (20, 6, bits(6)),
    "combat/aiming": (5, 2, turns(2)),
    "combat/clicking": (9, 2, discrete(2)),
    "combat/duel": (20, 9, turns(9)),
}


def skill_policy(game: str, *, hidden: int = 4, **extra) -> dict[str, np.ndarray]:
    """Tensors as PPO names them for one of `SKILLS`."""
    numbers, count, space = SKILLS[game]
    tensors = state_dict(
        ("mlp_extractor.policy_net.0", (hidden, numbers)),
        ("mlp_extractor.value_net.0", (hidden, numbers)),
        ("action_net", (count, hidden)),
        ("value_net", (1, hidden)),
    )
    if "low" in space:
        tensors["log_std"] = np.linspace(-1.5, -0.5, count, dtype=np.float32)
    return tensors | extra


def skill_data(game: str, **changes) -> dict:
    """What PPO says of one of `SKILLS`."""
    numbers, _, space = SKILLS[game]
    said = {"observation_space": box(numbers, dtype="float32"), "action_space": space}
    return {"policy_kwargs": {}, "n_steps": 1024, "n_epochs": 10, **said, **changes}


@pytest.mark.parametrize("game", SKILLS)
def test_parity_of_sb3_skills(game, torch, tmp_path):
    """Keys are down where SB3's deterministic action presses them, angles are its mean's."""
    numbers, count, _ = SKILLS[game]
    pi, vf = mlp(torch, numbers, 16, 12), mlp(torch, numbers, 10)
    net = actor_critic(torch, pi=pi, vf=vf, inputs=(12, 10), actions=count)
    tensors = net.state_dict()
    if game in ("combat/aiming", "combat/duel"):
        # Parameters go before modules.
        tensors = {"log_std": torch.linspace(-1.5, -0.5, count), **tensors}
    path = archive(tmp_path / "ppo.zip", torch_bytes(torch, tensors), skill_data(game))
    conversion = formats.convert(path)
    expert = conversion.expert
    assert conversion.convention == "Stable-Baselines3 PPO, MLP"
    task = tasks.get(game)
    assert (expert.game, expert.outputs, expert.actions) == (game, "logits", task.actions)
    assert expert.view == task.view and expert.view.size == numbers
    assert any("VecNormalize" in note for note in conversion.notes)
    assert any(game in note for note in conversion.notes)

    seen = np.random.default_rng(0).uniform(-1, 1, (64, numbers)).astype(np.float32)
    theirs = torch_outputs(torch, net, seen)
    theirs, value = theirs[:, :-1], theirs[:, -1]
    if game == "combat/clicking":
        theirs = theirs[:, 1:] - theirs[:, :1]
    elif game == "combat/duel":
        deviation = np.exp(np.linspace(-1.5, -0.5, 9))
        theirs = np.where(np.arange(9) < 7, 1.702 * (theirs - 0.5) / deviation, theirs)
    close(outputs(expert, seen), theirs)
    np.testing.assert_allclose(values(expert, seen), value, rtol=1e-5, atol=1e-5)

    # Among all that pools show it finds its own numbers, and its outputs their place.
    shown = np.full((64, 1, task.suite.view.size), np.nan, np.float32)
    shown[:, 0, expert.view.start : expert.view.start + numbers] = seen
    judged = np.asarray(expert.judge(expert.params, jnp.asarray(shown)))
    limit = task.environment.turn
    angle = np.array([entry >= 7 for entry in task.actions])
    wanted = np.where(angle, np.clip(theirs, -limit, limit), theirs)
    np.testing.assert_allclose(judged[:, list(task.actions)], wanted, rtol=1e-5, atol=1e-5)
    chosen = np.asarray(task.suite.form.greedy(jnp.asarray(judged), expert.mask))
    pressed = chosen[:, [a for a in task.actions if a < 7]]
    np.testing.assert_array_equal(pressed, theirs[:, ~angle] > 0)
    assert not chosen[:, ~expert.mask].any()

    if "log_std" in tensors:
        np.testing.assert_allclose(expert.log_std, tensors["log_std"].numpy(), rtol=1e-6)
    else:
        assert expert.log_std is None
    expert.save(tmp_path / "expert")
    again = Expert.load(tmp_path / "expert")
    assert (again.view, again.log_std, again.game) == (expert.view, expert.log_std, game)
    np.testing.assert_array_equal(outputs(again, seen), outputs(expert, seen))


def same_by_its_template(path, game: str) -> None:
    """A recognised file is read alike by the spec that is written for it."""
    known = formats.load(path, game=game)
    written = path.with_suffix(".toml")
    written.write_text(template.write(path, game=game))
    said = formats.load(path, spec=written)
    for field in ("network", "view", "actions", "outputs", "game", "rules", "log_std"):
        assert getattr(said, field) == getattr(known, field), field
    jax.tree.map(np.testing.assert_array_equal, said.params, known.params)


@pytest.mark.parametrize("game", SKILLS)
def test_a_template_of_a_skill_says_the_same_or_is_refused(game, sb3):
    path = sb3(skill_policy(game), **skill_data(game))
    if game == "combat/movement":
        same_by_its_template(path, game)
        return
    with pytest.raises(ValueError, match="none describes keys, angles and clicks that are rewrit"):
        template.write(path)


@pytest.mark.parametrize("normalised", [True, False])
def test_a_template_of_dense_layers_on_a_screen_says_its_pixels(normalised, sb3):
    tensors = state_dict(
        ("mlp_extractor.policy_net.0", (5, 60)),
        ("mlp_extractor.value_net.0", (5, 60)),
        ("action_net", (4, 5)),
        ("value_net", (1, 5)),
    )
    kwargs = {} if normalised else {"normalize_images": False}
    path = sb3(tensors, policy_kwargs=kwargs, observation_space=box(2, 6, 5))
    same_by_its_template(path, "breakout")


def test_a_click_is_as_likely_as_the_second_of_its_two_actions(sb3):
    """By hand: logits 0.3 and 1.0 of a network that sees nothing."""
    blank = {name: np.zeros_like(x) for name, x in skill_policy("combat/clicking").items()}
    blank["action_net.bias"] = np.array([0.3, 1.0], np.float32)
    conversion = formats.convert(sb3(blank, **skill_data("combat/clicking")))
    logit = outputs(conversion.expert, np.ones((1, 9), np.float32))
    np.testing.assert_allclose(logit, [[0.7]], rtol=1e-6)
    softmax = np.exp(1.0) / (np.exp(0.3) + np.exp(1.0))
    np.testing.assert_allclose(1 / (1 + np.exp(-logit)), [[softmax]], rtol=1e-6)
    # The table is of the file, which has two.
    assert [row.shape for row in conversion.layers if row.name == "action"] == ["4 -> 2"]
    assert any("two logits are one" in note for note in conversion.notes)


def test_keys_of_a_box_are_down_above_one_half(sb3):
    """Means of 0.6 and 0.4, and angles that one half has nothing to do with."""
    blank = {name: np.zeros_like(x) for name, x in skill_policy("combat/duel").items()}
    means = np.array([0.6, 0.4, 0.5, 2, -1, 0.6, 0.4, 0.3, -2], np.float32)
    deviations = np.array([0.1, 0.5, 1, 1, 1.702, 1.702, 2, 0.1, 0.1])
    blank["action_net.bias"] = means
    blank["log_std"] = np.log(deviations).astype(np.float32)
    expert = formats.load(sb3(blank, **skill_data("combat/duel")))
    judged = expert.judge(expert.params, jnp.ones((1, *expert.view.whole.shape)))
    by_hand = [1.702, -0.3404, 0, 2.553, -1.5, 0.1, -0.0851, 0.3, -np.radians(27)]
    np.testing.assert_allclose(judged, [by_hand], atol=1e-5)
    # As often as with SB3's noise.
    noise = np.random.default_rng(0).normal(size=(100_000, 9))
    often = (means + deviations * noise > 0.5).mean(axis=0)
    pressed = 1 / (1 + np.exp(-np.asarray(judged[0])))
    np.testing.assert_allclose(pressed[:7], often[:7], atol=0.015)
    # No noise at all is no reason to divide by 0.
    blank["log_std"] = np.full(9, -1e4, np.float32)
    expert = formats.load(sb3(blank, **skill_data("combat/duel")))
    judged = np.asarray(expert.judge(expert.params, jnp.ones((1, *expert.view.whole.shape))))
    assert np.isfinite(judged).all() and judged[0, 0] > 20 and judged[0, 1] < -20


NETWORKS = {
    "combat/movement": "mlp_actor_critic",
    "combat/aiming": "mlp_actor_critic_small",
    "combat/clicking": "mlp_actor_critic_small",
    "combat/duel": "skills_actor_critic",
}


@pytest.mark.parametrize("game", NETWORKS)
def test_what_is_written_for_sb3_is_read_back(game, tmp_path):
    """Its own exporter writes zips that SB3 loads: here they come back."""
    task = tasks.get(game)
    numbers = task.view.size
    network = networks.create(NETWORKS[game], num_outputs=len(task.actions))
    params = networks.init(network, jax.random.key(0), (1, numbers))
    kinds = [task.suite.kinds[entry] for entry in task.actions]
    log_std = np.linspace(-3, -2, len(kinds))
    path = tmp_path / "policy.zip"
    export_sb3.export_policy(
        network, params, path, kinds=kinds, turn=task.environment.turn, log_std=log_std
    )
    expert = formats.load(path)
    assert (expert.game, expert.actions, expert.view) == (game, task.actions, task.view)
    seen = np.random.default_rng(0).uniform(-1, 1, (32, 1, numbers)).astype(np.float32)
    theirs, value = networks.forward_with_values(network, params, jnp.asarray(seen))
    np.testing.assert_allclose(outputs(expert, seen), theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values(expert, seen), value, rtol=1e-5, atol=1e-6)
    for kind, said, read in zip(kinds, log_std, expert.log_std or (), strict=False):
        assert kind == "key" or read == pytest.approx(said)
    assert (expert.log_std is None) == ("angle" not in kinds)


def test_the_fighters_student_plays_the_duel_and_its_skills(saved):
    student = networks.create("skills")
    params = networks.init(student, jax.random.key(0), (1, 20))
    path = saved(export.skills_state_dict(params, student))
    assert formats.load(path).game is None
    for game in ("combat/duel", "combat/aiming"):  # it sees what the duel shows, in both
        expert = formats.load(path, game=game)
        assert expert.view == tasks.get("combat/duel").view
        assert list(np.flatnonzero(expert.mask)) == list(tasks.get(game).actions)
    refused(path, "9 actions does not play lander/windy", game="windy")


def test_a_game_that_is_said_goes_before_what_spaces_say(sb3):
    path = sb3(skill_policy("combat/duel"), **skill_data("combat/duel"))
    assert formats.load(path).game == "combat/duel"
    assert formats.load(path, game="combat/duel_10hp").game == "combat/duel_10hp"
    refused(
        path,
        "a policy of Box(9) on 20 numbers does not play combat/movement; expected MultiBinary(6) "
        "on 20 numbers",
        game="combat/movement",
    )
    refused(path, "Box(9) on 20 numbers does not play pong; expected Discrete", game="pong")
    clicks = sb3(skill_policy("combat/clicking"), **skill_data("combat/clicking"))
    refused(clicks, "sees a vector of 9 numbers", "does not play lander/windy", game="windy")
    named = clicks.rename(clicks.with_name("combat_duel.zip"))
    refused(named, "Discrete(2) on 9 numbers does not play combat/duel; expected Box(9)")
    assert formats.load(named, game="combat/clicking").game == "combat/clicking"


@pytest.mark.parametrize(
    ("game", "space", "count", "found"),
    [
        ("combat/aiming", turns(3), 3, "Box(3) on 5 numbers"),
        ("combat/aiming", turns(9), 9, "Box(9) on 5 numbers"),
        ("combat/movement", bits(4), 4, "MultiBinary(4) on 20 numbers"),
        ("combat/clicking", bits(2), 2, "MultiBinary(2) on 9 numbers"),
    ],
)
def test_spaces_that_are_no_skills_are_refused(game, space, count, found, sb3):
    tensors = skill_policy(game) | state_dict(("action_net", (count, 4)))
    if "low" in space:
        tensors["log_std"] = np.zeros(count, np.float32)
    path = sb3(tensors, **skill_data(game, action_space=space))
    message = refused(path, f"a policy of {found}; expected Discrete actions of one game, or one")
    for name in SKILLS:
        assert f"({name})" in message
    refused(path, f"a policy of {found} does not play {game}; expected ", game=game)


def test_archives_that_say_one_thing_and_hold_another(sb3):
    def path(game, extra=(), **changes):
        return sb3(skill_policy(game, **dict(extra)), **skill_data(game, **changes))

    aiming, walking = "combat/aiming", "combat/movement"
    refused(path(walking, action_space=bits(5)), "says 5 actions, but has 6 outputs")
    refused(path(walking, action_space=bits([2, 3])), "says [2, 3] actions, but has 6")
    refused(path(aiming, action_space=turns(2, 1)), "says [2, 1] actions, but has 2 outputs")
    refused(path(walking, action_space=turns(6)), "acts in Box, but lacks log_std")
    noise = {"log_std": np.zeros(6, np.float32)}
    refused(path(walking, noise), "acts in MultiBinary, but has log_std, the noise of a Box")
    refused(path(walking, noise, action_space=turns(6)), "a policy of Box(6) on 20 numbers;")
    several = {":type:": "<class 'gymnasium.spaces.multi_discrete.MultiDiscrete'>"}
    refused(path(aiming, action_space=several), "MultiDiscrete, expected Discrete, MultiBinary")
    screen = box(1, 4, 5)
    refused(path(walking, observation_space=screen), "MultiBinary(6) on screens; expected")
    # A Dict of 4 and 5 numbers has the tensors of a vector of 9.
    kinds = ("dict.Dict", "discrete.Discrete", "multi_binary.MultiBinary")
    for kind in kinds:
        seen = {":type:": f"<class 'gymnasium.spaces.{kind}'>", "_shape": None}
        name = kind.split(".")[1]
        for game in ("combat/clicking", walking):
            refused(
                path(game, observation_space=seen), f"sees a space of kind {name}, expected Box"
            )
    wide = {"log_std": np.zeros((4, 2), np.float32)}
    refused(path(aiming, wide), "log_std has shape (4, 2)", "use_sde", "expected (2,)")
    refused(path(aiming, {"log_std": np.zeros(3, np.float32)}), "log_std", "(3,)", "expected (2,)")
    refused(path(aiming, {"log_std": np.full(2, np.nan, np.float32)}), "log_std", "NaN")


def test_two_actions_on_other_numbers_are_no_click(sb3):
    """They are some other environment's, as ever; and Q-values of a DQN are no logits."""
    assert formats.load(sb3(mlp_policy(), policy_kwargs={})).game is None
    refused(
        sb3(mlp_policy(), policy_kwargs={}),
        "a policy of Discrete(2) on 4 numbers does not play combat/clicking; expected Discrete(2) "
        "on 9 numbers",
        game="combat/clicking",
    )
    tensors = state_dict(("q_net.q_net.0", (4, 9)), ("q_net.q_net.2", (2, 4)))
    dqn = sb3(tensors, policy_kwargs={})
    assert formats.load(dqn).game is None
    refused(
        dqn,
        "Stable-Baselines3 DQN, MLP does not play combat/clicking; expected PPO or A2C",
        game="combat/clicking",
    )


def test_a_spec_of_a_skill_sees_its_part(saved, spec):
    """Any other PyTorch file of dense layers is read by a spec, as for all tasks."""
    text = """
    game = "combat/aiming"
    outputs = "logits"
    actions = "minimal"
    activation = "tanh"
    [[layers]]
    type = "dense"
    key = "a"
    [head]
    type = "linear"
    action = "b"
    """
    expert = formats.load(saved(state_dict(("a", (3, 5)), ("b", (2, 3)))), spec=spec(text))
    assert expert.actions == (7, 8) and expert.view == tasks.get("combat/aiming").view
    wide = saved(state_dict(("a", (3, 6)), ("b", (2, 3))))
    refused(wide, "sees a vector of 6 numbers", "combat/aiming", spec=spec(text))


def test_broken_archives(sb3, tmp_path):
    whole = sb3(mlp_policy(), policy_kwargs={}).read_bytes()
    broken = tmp_path / "broken.zip"
    for end in (len(whole) // 2, len(whole) - 30):
        broken.write_bytes(whole[:end])
        refused(broken, "broken.zip")
    damaged = bytearray(whole)
    damaged[whole.index(b"policy_kwargs")] ^= 1
    broken.write_bytes(damaged)
    refused(broken, "damaged", "BadZipFile")
    with zipfile.ZipFile(broken, "w") as file:
        file.writestr("policy.pth", pickle.dumps(Canary(tmp_path / "canary")))
        file.writestr("data", "{}")
    refused(broken, "policy.pth")
    with zipfile.ZipFile(broken, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("policy.pth", bytes(70 * 2**20))
    refused(broken, "policy.pth", "unpack")
    for text in ("{", "[" * 100_000, "1" * 5000, b"\xff\xfe"):
        with zipfile.ZipFile(broken, "w") as file:
            file.writestr("policy.pth", "")
            file.writestr("data", text)
        refused(broken, "JSON")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("data", ["[]", '{"policy_kwargs": 3, "observation_space": [1]}', "null"])
def test_strange_data_is_taken_as_saying_nothing(data, saved, tmp_path):
    with zipfile.ZipFile(tmp_path / "policy.zip", "w") as file:
        file.writestr("policy.pth", saved(mlp_policy()).read_bytes())
        file.writestr("data", data)
    assert formats.load(tmp_path / "policy.zip").network.activation == "tanh"


# --- specs


SPEC = """
game = "breakout"
outputs = "q"
actions = [0, 1, 3, 4]
activation = "relu"
pixels = "0..1"

[view]
stack = 4

[[layers]]
type = "conv"
key = "a"
kernel = 8
stride = 4

[[layers]]
type = "dense"
key = "b"

[head]
type = "linear"
action = "c"
"""
TENSORS = state_dict(("a", (2, 4, 8, 8)), ("b", (5, 2 * 20 * 20)), ("c", (4, 5)))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ('game = "breakout"', 'game = "brekout"', ("game", "breakout")),
        ('game = "breakout"', "game = 3", ("game", "found 3", "a string")),
        ('outputs = "q"', "", ("outputs", "missing", "logits")),
        ('outputs = "q"', 'outputs = "v"', ("outputs", "'v'", "q, logits")),
        ("actions = [0, 1, 3, 4]", "", ("actions", "missing", "minimal")),
        ("[0, 1, 3, 4]", "[0, 1, 1, 4]", ("actions", "[0, 1, 1, 4]")),
        ("[0, 1, 3, 4]", "[0, 1, 3, 18]", ("actions", "0..17")),
        ("[0, 1, 3, 4]", "[0, true]", ("actions", "True")),
        ("[0, 1, 3, 4]", '"all"', ("actions", "'all'", "full")),
        ("[0, 1, 3, 4]", "[0, 1, 3]", ("actions", "3 actions", "4 outputs of c")),
        ('activation = "relu"', "", ("layers[1].activation", "missing", "elu")),
        ('activation = "relu"', 'activation = "rel"', ("activation", "'rel'", "leaky_relu")),
        ('pixels = "0..1"', "", ("pixels", "missing", "0..255")),
        ('pixels = "0..1"', "pixels = 1", ("pixels", "found 1")),
        ("[view]\nstack = 4", "", ("view", "missing", "resize")),
        ("stack = 4", "stack = 3", ("a.weight", "(2, 4, 8, 8)", "(any, 3, 8, 8)")),
        ("stack = 4", "stack = 0", ("view", "stack", "0")),
        ("stack = 4", 'stack = "4"', ("view.stack", "'4'", "whole number")),
        ("stack = 4", 'resize = "cubic"', ("view", "resize", "cubic", "linear")),
        ("stack = 4", "crop = [8]", ("view.crop", "[8]")),
        ("stack = 4", "steps = [94, 84]", ("view.steps", "94")),
        ("stack = 4", "size = 84", ("view.size", "unknown", "height")),
        ("stack = 4", "height = 80", ("b.weight", "(5, 800)", "2x19x20", "80x84")),
        ('type = "conv"', 'type = "pool"', ("layers[1].type", "'pool'", "dense")),
        ('type = "conv"', "", ("layers[1].type", "missing")),
        ("stride = 4", "", ("layers[1].stride", "missing")),
        ("stride = 4", "stride = 0", ("layers[1].stride", "at least 1")),
        ("stride = 4", "stride = 2", ("b.weight", "2x39x39")),
        ("stride = 4", "stride = 4\npadding = -1", ("layers[1].padding", "at least 0")),
        ("stride = 4", "stride = 4\npadding = 2", ("b.weight", "2x21x21")),
        ("stride = 4", "stride = 4\ndilation = 2", ("layers[1].dilation", "unknown", "stride")),
        ("kernel = 8", "kernel = 7", ("a.weight", "(2, 4, 8, 8)", "(any, 4, 7, 7)")),
        ('key = "a"', "", ("layers[1].key", "weight and bias")),
        ('key = "a"', 'weight = "a.weight"', ("layers[1].bias", "missing", "false")),
        ('key = "a"', 'key = "a"\nbias = false', ("a", "bias = false", "a.bias")),
        ('key = "a"', 'key = "z"', ("lacks z.weight, z.bias", "a.weight")),
        ('type = "dense"', 'type = "conv"\nstride = 1', ("b.weight", "(5, 800)")),
        ('[head]\ntype = "linear"', '[head]\ntype = "dueling"', ("head.value", "missing")),
        ('type = "linear"', 'type = "softmax"', ("head.type", "'softmax'", "actor_critic")),
        ('type = "linear"', 'type = "linear"\nvalue = "b"', ("head.value", "unknown")),
        ('action = "c"', "", ("head.action", "missing")),
        ('action = "c"', "action = 3", ("head.action", "found 3")),
        ('action = "c"', 'action = "b"', ("b.weight", "(5, 800)")),
        ('action = "c"', 'action = "c"\naction_hidden = [1]', ("head.action_hidden", "found 1")),
        ("[head]", "[heads]", ("heads: unknown field; did you mean head; known",)),
        ("[head]", "[tail]", ("tail: unknown field; known fields: game",)),
        ("pixels", "pixel", ("toml: pixel: unknown field; did you mean pixels; known",)),
        ("stride = 4", "strides = 4", ("layers[1].strides", "did you mean stride;")),
        ('key = "b"', 'kye = "b"', ("layers[2].kye", "did you mean key;")),
        ('action = "c"', 'actions = "c"', ("head.actions", "did you mean action;")),
        ('action = "c"', 'action = {keys = "c"}', ("head.action.keys", "did you mean key;")),
        (
            "[head]",
            '[statistics]\nmeans = "m"\n[head]',
            ("statistics.means: unknown field; did you mean mean;",),
        ),
        ("[view]", "[view]\nheigth = 84", ("view.heigth", "did you mean height;")),
        (
            'type = "linear"',
            'type = "linear"\nvalue_hidden = ["b"]',
            ("head.value_hidden: unknown field; known fields: type",),
        ),
        ('game = "breakout"', 'games = "breakout"\ngame = "breakout"', ("games", "unknown field")),
        ('game = "breakout"', "game = ", ("TOML",)),
        (
            'game = "breakout"',
            'game = "breakout" or "pong"',
            ("not a TOML file (Expected newline or end of document after a statement (at line",),
        ),
        (
            'game = "breakout"',
            "[{0}]\n[{0}]".format("a" * 5000),
            ("not a TOML file (", "aaa...", "twice (at line 3, column"),
        ),
        ('game = "breakout"', 'state_dict = "Q"', ("state_dict", "'Q'")),
        ('game = "breakout"', "layers = 3", ("TOML",)),
        ("[[layers]]", "[layers]", ("TOML",)),
    ],
)
def test_a_wrong_spec_is_refused_in_one_line(before, after, expected, saved, spec):
    assert before in SPEC
    written = spec(SPEC.replace(before, after, 1))
    refused(saved(TENSORS), *expected, spec=written)


def test_spec_errors_name_the_spec(saved, spec, tmp_path):
    refused(saved(TENSORS), "spec.toml", "pixels", spec=spec(SPEC.replace("pixels", "pixel")))
    missing = tmp_path / "none.toml"
    refused(saved(TENSORS), str(missing), "no such", spec=missing, error=FileNotFoundError)
    refused(saved(TENSORS), str(tmp_path), spec=tmp_path)
    refused(tmp_path, "directory", spec=spec(SPEC))
    refused(saved(TENSORS), "layers", "found 3", spec=spec("layers = 3\noutputs='q'"))


def test_a_spec_may_begin_with_the_mark_of_windows(saved, spec):
    said = formats.convert(saved(TENSORS), spec=spec("\ufeff" + SPEC))
    assert said.expert.game == "breakout"


def test_spec_says_what_was_left_out(saved, spec):
    tree = {"net": TENSORS | state_dict(("d", (2, 2))), "old": state_dict(("x", (3, 3)))}
    conversion = formats.convert(saved(tree), spec=spec(SPEC))
    assert any("d.weight" in note and "not used" in note for note in conversion.notes)
    assert any("old (2 tensors)" in note for note in conversion.notes)
    assert "spec.toml" in conversion.convention
    normed = TENSORS | {"bn.running_mean": np.zeros(2, np.float32)}
    refused(saved(normed), "batch normalisation", "bn.running_mean", spec=spec(SPEC))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("LayerNorm_0", ("scale", "layer normalisation")),
        ("norms.0", ("scale", "normalisation")),
        ("ln", ("weight", "normalisation")),
        ("encoder.layer_norm", ("weight", "layer normalisation")),
    ],
)
def test_what_normalises_is_not_left_out_by_a_spec(key, kind, saved, spec):
    """But a critic's, with its critic, and a target network's."""
    end, words = kind
    norm = {f"{key}.{end}": np.ones(2, np.float32), f"{key}.bias": np.zeros(2, np.float32)}
    refused(saved(TENSORS | norm), f"{words} ({key}.", "is not supported", spec=spec(SPEC))
    for whose in ("critic", "target"):
        other = {f"{whose}.{name}": array for name, array in norm.items()}
        notes = formats.convert(saved(TENSORS | other), spec=spec(SPEC)).notes
        assert any("tensors not used" in note and whose in note for note in notes)


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("critic.ln", True),
        ("critic_norm", True),
        ("net.CriticNorm_0", True),
        ("policy.value_net.1", True),
        ("vf.norm", True),
        ("v_head/norm", True),
        ("actor_critic.ln", False),
        ("ActorCritic_0.norm", False),
        ("q_value.norm", False),
        ("evaluate.ln", False),
        ("v_norm", False),
    ],
)
def test_only_a_critics_own_part_may_normalise_unsaid(name, free, saved, spec):
    norm = {f"{name}.weight": np.ones(2, np.float32), f"{name}.bias": np.zeros(2, np.float32)}
    if free:
        notes = formats.convert(saved(TENSORS | norm), spec=spec(SPEC)).notes
        assert any("tensors not used" in note and name in note for note in notes)
    else:
        refused(saved(TENSORS | norm), f"normalisation ({name}.weight)", spec=spec(SPEC))


def test_a_spec_lists_what_does_not_play(saved, spec):
    """And its expert is the same as without such parts, to the bit."""
    norm = {"curiosity.norm.weight": np.ones(2), "curiosity.norm.bias": np.zeros(2)}
    norm |= {"curiosity.bn.running_mean": np.zeros(2), "curiosity.rnn.weight_hh": np.ones((6, 2))}
    norm = {name: array.astype(np.float32) for name, array in norm.items()}
    path = saved(TENSORS | norm)
    hint = "if it does not play, list it under aside in "
    refused(path, "curiosity.rnn.weight_hh is of a recurrent cell", hint, spec=spec(SPEC))
    some = 'aside = ["curiosity.rnn"]\n'
    refused(path, "batch normalisation (curiosity.bn.", hint, spec=spec(some + SPEC))
    conversion = formats.convert(path, spec=spec('aside = ["curiosity."]\n' + SPEC))
    assert any("tensors not used: curiosity.bn" in note for note in conversion.notes)
    plain = formats.load(saved(TENSORS), spec=spec(SPEC))
    assert players.fingerprint(conversion.expert.params) == players.fingerprint(plain.params)
    assert conversion.expert.network == plain.network
    for aside, *expected in (
        ('["curiosty."]', "aside: found curiosty., but no tensor of", "curiosity.norm.weight"),
        ('["curiosity.", "a"]', "aside: found a, but a.weight is of a layer that plays"),
        ('[""]', "aside: found ['']", "curiosity."),
        ("[3]", "aside: found [3]", "curiosity."),
        ('"curiosity."', "aside: found 'curiosity.', expected a list"),
    ):
        path = saved(TENSORS | norm)
        refused(path, "spec.toml", *expected, spec=spec(f"aside = {aside}\n{SPEC}"))
    refused(saved(TENSORS), "all are used", spec=spec('aside = ["x"]\n' + SPEC))


def test_spec_finds_or_is_told_the_state_dict(saved, spec):
    other = state_dict(("a", (2, 4, 8, 8)), ("b", (5, 800)), ("c", (4, 5)), seed=1)
    tree = {"online": TENSORS, "best": other, "target": other}
    refused(saved(tree), "online, best", "state_dict", spec=spec(SPEC))
    told = spec('state_dict = "best"\n' + SPEC)
    expert = formats.load(saved(tree), spec=told)
    np.testing.assert_array_equal(expert.params["params"]["action"]["bias"], other["c.bias"])
    same = {"online": TENSORS, "copy": dict(TENSORS), "target": other}
    assert formats.load(saved(same), spec=spec(SPEC)).game == "breakout"


def test_game_given_beats_the_spec(saved, spec):
    minimal = spec(SPEC.replace("[0, 1, 3, 4]", '"minimal"').replace('game = "breakout"', ""))
    refused(saved(TENSORS), "actions", "minimal", "--game", spec=minimal)
    expert = formats.load(saved(TENSORS), spec=minimal, game="breakout")
    assert expert.actions == (0, 1, 3, 4)
    refused(saved(TENSORS), "6 actions", "4 outputs", spec=minimal, game="pong")
    refused(saved(TENSORS), "unknown task", spec=minimal, game="pnog")
    other = spec(SPEC.replace("[0, 1, 3, 4]", "[0, 1, 3, 20]").replace('game = "breakout"', ""))
    assert formats.load(saved(TENSORS), spec=other).actions[-1] == 20
    refused(saved(TENSORS), "actions", "found 20", "0..17", spec=other, game="breakout")


def test_another_game_than_the_own_is_refused(saved, spec, tmp_path):
    """Whoever says it: a spec, a directory, our own file, a program's arguments, a merged file."""
    described = formats.load(saved(TENSORS), spec=spec(SPEC), game="breakout")
    ends = "and pong was asked for; name its own game, or none"
    message = refused(saved(TENSORS), f"plays breakout, {ends}", spec=spec(SPEC), game="pong")
    assert message.startswith(str(spec(SPEC)))
    described.save(tmp_path / "expert")
    refused(tmp_path / "expert", f"expert: plays breakout, {ends}", game="pong")
    export.export_expert(
        formats.load(saved(plain_reference()), game="breakout"), tmp_path / "ours.pth"
    )
    refused(tmp_path / "ours.pth", f"ours.pth: plays breakout, {ends}", game="pong")
    listed = {"policy_net_state_dict": plain_reference(), "games": ["Pong-v5", "breakout"]}
    assert formats.load(saved(listed), game="breakout").game == "breakout"
    refused(saved(listed), "plays pong, breakout, and qbert was asked for", game="qbert")
    called = {
        "policy_net_state_dict": plain_reference(),
        "args": {"env_id": "BreakoutNoFrameskip-v4"},
    }
    refused(saved(called), f"plays breakout, {ends}", game="pong")
    # Nor is a file of several games called after another one of that game.
    (tmp_path / "qbert.pth").write_bytes(saved(listed).read_bytes())
    assert formats.load(tmp_path / "qbert.pth").game is None
    (tmp_path / "pong_both.pth").write_bytes(saved(listed).read_bytes())
    assert formats.load(tmp_path / "pong_both.pth").game == "pong"
    # A name is no more than a hint.
    (tmp_path / "pong.pth").write_bytes(saved(plain_reference()).read_bytes())
    found = formats.convert(tmp_path / "pong.pth", game="qbert")
    assert "the file's name says pong; it is read as an expert of qbert" in found.notes


def test_who_plays_an_expert_is_told_of_a_name_that_says_another_game(saved, tmp_path, capsys):
    named, ours = (tmp_path / f"dqn-PongNoFrameskip-v4{end}" for end in (".pth", "_ours.pth"))
    named.write_bytes(saved(plain_reference()).read_bytes())
    export.export_expert(formats.load(named, game="qbert"), ours)
    for path, game, told in (
        (named, "qbert", True),
        (named, "qbert", False),  # once is enough
        (named, "pong", False),
        (named, None, False),
        (ours, None, False),  # the file knows better than its name
        (ours, "qbert", False),
    ):
        expert = sources.load(sources.ExpertSource(str(path), game=game))
        assert expert.game == (game or ("pong" if path == named else "qbert"))
        note = "the file's name says pong; it is read as an expert of qbert"
        assert capsys.readouterr().out == (f"note: {path}: {note}\n" if told else "")


def test_padding_is_derived_where_only_one_fits(saved, spec):
    small = SPEC.replace("stack = 4", "height = 10\nwidth = 10").replace("kernel = 8", "kernel = 3")
    small = small.replace("stride = 4", "stride = 1")
    tensors = state_dict(("a", (2, 4, 3, 3)), ("b", (5, 200)), ("c", (4, 5)))
    conversion = formats.convert(saved(tensors), spec=spec(small))
    assert conversion.expert.network.convs[0].padding == 1
    assert any("padding [1]" in note for note in conversion.notes)
    more = '[[layers]]\ntype = "conv"\nkey = "n"\nstride = 1\n\n[[layers]]'
    both = spec(small.replace("[[layers]]", more, 1))
    tensors |= state_dict(("n", (4, 4, 3, 3)), ("b", (5, 2 * 8 * 8)))
    refused(saved(tensors), "2 paddings agree", "give padding for n, a", spec=both)


def test_a_spec_without_layers_is_a_linear_network(saved, spec):
    text = 'outputs = "q"\n[head]\ntype = "linear"\naction = {weight = "w", bias = false}'
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    expert = formats.load(saved({"w": weights}), spec=spec(text))
    assert expert.actions == (0, 1) and expert.network.activation == "none"
    close(outputs(expert, np.eye(3, dtype=np.float32)), weights.T)


def test_raw_pixels_into_dense_layers(saved, spec):
    text = 'outputs = "q"\npixels = "0..255"\n[view]\nheight = 2\nwidth = 3\nstack = 1\n'
    text += '[head]\ntype = "linear"\naction = "w"'
    weights = state_dict(("w", (2, 6)))
    expert = formats.load(saved(weights), spec=spec(text))
    shown = pixels(3, 1, 2, 3)
    close(outputs(expert, shown), shown.reshape(3, 6) @ weights["w.weight"].T + weights["w.bias"])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_published_experts_convert(path):
    folder = pathlib.Path(os.environ.get("JAXDISTILL_EXPERTS", "shared/experts"))
    files = [file for file in folder.glob(f"{path.stem}.*") if file.suffix != ".toml"]
    if not files:
        pytest.skip(f"set JAXDISTILL_EXPERTS to a directory that holds {path.stem}")
    conversion = formats.convert(files[0], spec=path)
    assert conversion.expert.game == tasks.get(conversion.expert.game).name
    assert conversion.expert.view.native == (path.stem == "breakout_a3c")
    shown = pixels(2, *conversion.expert.view.shape)
    assert np.isfinite(outputs(conversion.expert, shown)).all()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_published_specs_are_valid(path):
    described = formats.specs.read(path)
    assert described.game is not None and described.advertised_score is not None


# --- files of no known convention, and broken ones


def test_an_unknown_convention_asks_for_what_is_missing(saved):
    message = refused(saved(TENSORS), "no known convention", "--spec", "stride", "activation")
    assert "a.weight 2x4x8x8" in message and "pixels" in message
    message = refused(saved(state_dict(("x", (3, 2)), ("y", (2, 3)))), "activation", "x.weight 3x2")
    assert "stride" not in message


def test_near_misses_say_what_differs(saved):
    tensors = plain_reference()
    without = {key: array for key, array in tensors.items() if key != "fc1.bias"}
    refused(saved(without), "reference, plain", "lacks fc1.bias")
    more = tensors | state_dict(("fc3", (3, 18)))
    refused(saved(more), "reference, plain", "also has fc3.bias, fc3.weight", "spec")
    refused(saved(plain_reference(6)), "6 outputs", "expected 18")
    c51 = cleanrl() | {"returns": np.zeros(51, np.float32)}
    refused(saved(c51), "CleanRL DQN", "also has returns")
    refused(saved(cleanrl(5)), "5 outputs", "--game")
    assert formats.load(saved(cleanrl(18))).actions == tuple(range(18))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("norm.running_mean", "batch normalisation"),
        ("gru.weight_hh_l1", "a second layer of recurrent cells"),
    ],
)
def test_networks_of_other_kinds(name, kind, saved):
    tensors = cleanrl() | {name: np.zeros((2, 2), np.float32)}
    refused(saved(tensors), kind, name, "not supported")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("network.0.weight", (2, 4, 4, 4), "(any, 4, 8, 8)"),
        ("network.0.weight", (2, 4, 8), "(any, 4, 8, 8)"),
        ("network.0.bias", (3,), "(2,)"),
        ("network.2.weight", (2, 3, 4, 4), "(any, 2, 4, 4)"),
        ("network.7.weight", (5, 100), "2x7x7 = 98"),
        ("network.7.weight", (98,), "(any, any)"),
        ("network.9.weight", (4, 6), "(any, 5)"),
        ("network.9.weight", (0, 5), "(any, 5)"),
        ("network.9.bias", (4, 1), "(4,)"),
        ("network.9.bias", (), "(4,)"),
    ],
)
def test_wrong_shapes_name_the_tensor_and_both_shapes(name, shape, expected, saved):
    tensors = cleanrl() | {name: np.zeros(shape, np.float32)}
    refused(saved(tensors), name, str(shape), expected, game="breakout")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite(value, saved):
    tensors = cleanrl()
    tensors["network.2.weight"][1, 0, 2, 2] = value
    refused(saved(tensors), "network.2.weight", "NaN or infinite", game="breakout")


def test_weights_that_are_not_numbers(torch, tmp_path):
    tensors = {key: torch.from_numpy(array) for key, array in cleanrl().items()}
    tensors["network.9.bias"] = torch.arange(4)
    torch.save(tensors, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "network.9.bias", "int64", "floating point", game="breakout")
    tensors["network.9.bias"] = torch.full((4,), 1e300, dtype=torch.float64)
    torch.save(tensors, tmp_path / "net.pth")
    refused(tmp_path / "net.pth", "network.9.bias", "infinite", game="breakout")


def test_six_outputs_of_crl_atari_are_those_of_its_games(saved):
    convs = nature(("features.0", "features.2", "features.4"))
    six = saved(state_dict(*convs, ("fc.0", (5, 98)), ("fc.2", (6, 5))))
    for game in (None, "breakout", "pong", "space_invaders", "demon_attack"):
        assert formats.load(six, game=game).actions == (0, 1, 3, 4, 11, 12)
    for game in ("qbert", "up_n_down", "freeway"):
        refused(
            six, "6 outputs are actions [0, 1, 3, 4, 11, 12]", f"of {game};", "--spec", game=game
        )
    full = saved(state_dict(*convs, ("fc.0", (5, 98)), ("fc.2", (18, 5))))
    assert formats.load(full, game="qbert").actions == tuple(range(18))


def test_a_value_stream_has_one_output(saved):
    convs = nature(("conv1", "conv2", "conv3"))
    streams = (("fc_adv", (5, 98)), ("advantage", (18, 5)), ("fc_value", (4, 98)))
    tensors = state_dict(*convs, *streams, ("value", (2, 4)))
    refused(saved(tensors), "value.weight", "(2, 4)", "(1, 4)")


def test_hostile_and_broken_files(saved, tmp_path):
    canary, bad = tmp_path / "canary", tmp_path / "bad.pth"
    bad.write_bytes(pickle.dumps({"state_dict": Canary(canary)}, 2))
    refused(bad, "bad.pth")
    whole = saved(cleanrl()).read_bytes()
    for end in (10, len(whole) // 2, len(whole) - 5):
        bad.write_bytes(whole[:end])
        refused(bad, "bad.pth", game="breakout")
    bad.write_bytes(b"")
    refused(bad, "empty")
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(80 * 2**20))
    refused(bad, "bad.pth")
    refused(saved({"epsilon": 0.5, "games": ["Pong"]}), "no tensors")
    refused(saved({"x": np.zeros(3, np.float32)}), "no layers")
    refused(tmp_path, "expert.json", error=FileNotFoundError)
    refused(tmp_path / "none.pth", "no such file", error=FileNotFoundError)
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "pipe", "regular file")
    assert not canary.exists()


def test_names_from_files_are_made_printable(saved):
    name = "x\x1b[31m\n" + "y" * 500
    message = refused(saved({f"{name}.weight": np.zeros((2, 2), np.float32)}), "no known")
    assert "\x1b" not in message


def test_two_networks_in_one_file(saved):
    first, second = plain_reference(), plain_reference()
    second["fc2.bias"] = second["fc2.bias"] + 1
    refused(saved({"first": first, "second": second}), "first, second", "state_dict")
    expert = formats.load(saved({"net": first, "target": second}))
    np.testing.assert_array_equal(expert.params["params"]["action"]["bias"], first["fc2.bias"])
    assert dataclasses.replace(expert, game="pong").mask.sum() == 6


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("pong.pth", "pong"),
        ("Space_Invaders_dqn.pt", "space_invaders"),
        ("breakout-a3c.pth", "breakout"),
        ("policy_pong.pth", None),
        ("pongo.pth", None),
    ],
)
def test_a_file_named_after_a_game_plays_it(tmp_path, name, game):
    network = networks.create("dueling_small")
    params = networks.init(network, jax.random.key(0), (4, 84, 84))
    export.export_expert(Expert("x", network, params, "q", tuple(range(18))), tmp_path / name)
    found = formats.convert(tmp_path / name)
    assert found.expert.game == game
    assert any("taken from the file's name" in note for note in found.notes) == (game is not None)
    assert formats.load(tmp_path / name, game="freeway").game == "freeway"


def test_field_names_of_a_spec_are_shown_short(tmp_path):
    spec = tmp_path / "long.toml"
    spec.write_text((GOLDEN / "expert_dueling.toml").read_text().replace("game", "g" * 5000, 1))
    refused(GOLDEN / "expert_dueling.pth", "unknown field", spec=spec)


@pytest.mark.parametrize("head", ["dense", "dueling", "fractions"])
def test_features_that_pytorch_flattens_with_their_channels_last(torch, head, tmp_path):
    """Whatever layer sees them; by default the answers are of another network."""
    linear, convs = torch.nn.Linear, conv_list(torch)
    layers = {f"conv{i}": conv for i, conv in enumerate(convs, 1)}
    layers |= {"fc": linear(392, 16), "a": linear(16, 4), "v": linear(392, 1)}
    layers |= {"adv": linear(392, 4), "phi": linear(7, 392)}

    def forward(net, x):
        x = x / 255
        for i in (1, 2, 3):
            x = torch.relu(net.get_submodule(f"conv{i}")(x))
        x = x.permute(0, 2, 3, 1).flatten(1)
        if head == "dense":
            return net.a(torch.relu(net.fc(x)))
        if head == "dueling":
            return dueling(net.v(x), net.adv(x))
        middle = (torch.arange(32) + 0.5) / 32
        cosines = torch.cos(torch.pi * middle[:, None] * torch.arange(1, 8))
        x = x[:, None] * torch.relu(net.phi(cosines))
        return net.a(torch.relu(net.fc(x))).mean(1)

    net = build(torch, layers, forward)
    torch.save(net.state_dict(), tmp_path / "x.pth")
    text = 'game = "breakout"\noutputs = "q"\nactions = "minimal"\nactivation = "relu"\n'
    text += 'pixels = "0..1"\n[view]\n'
    for i, (_, stride) in enumerate(NATURE, 1):
        text += f'[[layers]]\ntype = "conv"\nkey = "conv{i}"\nstride = {stride}\n'
    text += {
        "dense": '[[layers]]\ntype = "dense"\nkey = "fc"\n[head]\ntype = "linear"\naction = "a"\n',
        "dueling": '[head]\ntype = "dueling"\naction = "adv"\nvalue = "v"\n',
        "fractions": '[[layers]]\ntype = "dense"\nkey = "fc"\n[head]\ntype = "linear"\n'
        'action = "a"\nfractions = "phi"\n',
    }[head]
    x = np.random.default_rng(0).integers(0, 256, (8, 4, 84, 84), np.uint8)
    theirs = net(torch.from_numpy(x).float()).detach().numpy()
    apart = {}
    for said in ('flatten = "channels_last"\n', 'flatten = "channels_first"\n', ""):
        (tmp_path / "x.toml").write_text(said + text)
        policy = jaxdistill.load(tmp_path / "x.pth", spec=tmp_path / "x.toml")
        ours = policy.outputs(x)[:, [0, 1, 3, 4]]
        apart[said] = np.abs(ours - theirs).max() / np.abs(theirs).max()
    right, wrong, usual = apart.values()
    assert right < 1e-5 and wrong == usual > 0.1


def test_a_flatten_says_what_it_is_beside(tmp_path):
    """Of Flax's kernels the default is the other; without convolutions a view says it."""
    text = 'outputs = "q"\nactivation = "relu"\n{}[[layers]]\ntype = "dense"\nkey = "a"\n'
    text += '[head]\ntype = "linear"\naction = "b"\n'
    (tmp_path / "x.toml").write_text(text.format('flatten = "channels_last"\n'))
    with pytest.raises(ValueError, match=r"flatten: found without a conv; .*view\.channels_last"):
        formats.load(GOLDEN / "expert_dueling.pth", spec=tmp_path / "x.toml")
    shapes = {"a": (3, 3, 1, 2), "b": (8, 3)}
    rng = np.random.default_rng(0)
    tensors = {f"{key}.kernel": rng.normal(size=shape) for key, shape in shapes.items()}
    tensors |= {f"{key}.bias": rng.normal(size=shape[-1]) for key, shape in shapes.items()}
    tensors = {name: x.astype(np.float32) for name, x in tensors.items()}
    torch_writer.save(tensors, tmp_path / "x.pth")
    said = 'kernels = "inputs_first"\npixels = "0..1"\n{}[view]\nheight = 4\nwidth = 4\n'
    said += '[[layers]]\ntype = "conv"\nkey = "a"\nstride = 1\n'
    text = text.replace('[[layers]]\ntype = "dense"\nkey = "a"\n', "")
    kernels = []
    for flatten in ("", "channels_last", "channels_first"):
        line = f'flatten = "{flatten}"\n' if flatten else ""
        (tmp_path / "x.toml").write_text(text.format(said.format(line)))
        expert = formats.load(tmp_path / "x.pth", spec=tmp_path / "x.toml")
        kernels.append(expert.params["params"]["action"]["kernel"])
    usual, last, first = kernels
    np.testing.assert_array_equal(usual, tensors["b.kernel"])
    np.testing.assert_array_equal(last, usual)
    turned = tensors["b.kernel"].reshape(2, 2, 2, 3).transpose(1, 2, 0, 3).reshape(8, 3)
    np.testing.assert_array_equal(first, turned)
