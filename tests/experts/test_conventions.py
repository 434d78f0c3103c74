"""Every convention of docs/experts.md: a file as its program writes it, and what that would answer.

Networks are small, but have the kernels, the names and the order of numbers of the real ones. What
PyTorch writes is skipped without it.
"""

import dataclasses
import gzip
import io
import json
import pathlib
import pickle
import zipfile
from collections.abc import Callable

import flax.linen as nn
import flax.serialization
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax.core import freeze

from jaxdistill import networks, tasks
from jaxdistill.experts import formats, torch_writer
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import beside, layers, template
from jaxdistill.experts.formats.conventions import CONVENTIONS, rules_of, with_arguments
from jaxdistill.tasks.atari import USUAL, Rules
from jaxdistill.tasks.views import View

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84), np.uint8)
BREAKOUT = tasks.get("breakout").actions
WIDTHS, HIDDEN = (3, 4, 5), 6


@pytest.fixture(scope="module")
def torch():
    module = pytest.importorskip("torch")
    module.manual_seed(0)
    return module


# --- in PyTorch


def randomised(torch, module):
    """PyTorch's own initialisation gives outputs so small that 1e-5 would say little."""
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
            parameter.normal_(0, (2 / fan_in) ** 0.5 if parameter.ndim > 1 else 0.1)
    return module


def made(torch, parts, forward):
    """A module of these parts, and what it answers to `PIXELS` over 255."""
    module = torch.nn.Module()
    for name, part in parts.items():
        module.add_module(name, part)
    randomised(torch, module)
    with torch.no_grad():
        return module, forward(module, torch.from_numpy(PIXELS).float() / 255).numpy()


def convolutions(torch, *, padding=(0, 0, 0), kernels=((8, 4), (4, 2), (3, 1))):
    sizes = (4, *WIDTHS)
    return [
        torch.nn.Conv2d(sizes[i], sizes[i + 1], kernel, stride, padding[i])
        for i, (kernel, stride) in enumerate(kernels)
    ]


def sequential(torch, *parts):
    """The parts with a ReLU behind each but the last, flattened before the first dense layer."""
    modules = []
    for part in parts:
        if isinstance(part, torch.nn.Linear) and isinstance(modules[-2], torch.nn.Conv2d):
            modules.append(torch.nn.Flatten())
        modules += [part, torch.nn.ReLU()]
    return torch.nn.Sequential(*modules[:-1])


def mean_return(torch, logits, low=-10.0, high=10.0):
    """`(B, actions, atoms)` -> `(B, actions)`."""
    support = torch.linspace(low, high, logits.shape[-1])
    return (torch.softmax(logits, -1) * support).sum(-1)


def dueling(value, advantage):
    return value + advantage - advantage.mean(1, keepdim=True)


def cleanrl_c51(torch, folder):
    linear = torch.nn.Linear
    layers = sequential(torch, *convolutions(torch), linear(49 * 5, HIDDEN), linear(HIDDEN, 4 * 51))
    net, theirs = made(
        torch,
        {"network": layers},
        lambda net, x: mean_return(torch, net.network(x).view(-1, 4, 51), -5, 7),
    )
    net.register_buffer("atoms", torch.linspace(-5, 7, 51))
    arguments = {"env_id": "BreakoutNoFrameskip-v4", "n_atoms": 51, "v_min": -5, "v_max": 7}
    path = folder / "c51_atari.cleanrl_model"
    torch.save({"model_weights": net.state_dict(), "args": arguments}, path)
    return path, theirs


def cleanrl_qdagger(torch, folder):
    functional = torch.nn.functional

    class Block(torch.nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.conv0 = torch.nn.Conv2d(channels, channels, 3, padding=1)
            self.conv1 = torch.nn.Conv2d(channels, channels, 3, padding=1)

        def forward(self, x):
            return x + self.conv1(functional.relu(self.conv0(functional.relu(x))))

    class Section(torch.nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            self.conv = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
            self.res_block0, self.res_block1 = Block(outputs), Block(outputs)

        def forward(self, x):
            x = functional.max_pool2d(self.conv(x), 3, 2, 1)
            return self.res_block1(self.res_block0(x))

    linear, relu = torch.nn.Linear, torch.nn.ReLU
    sections = [Section(4, 3), Section(3, 4), Section(4, 5)]
    dense = (torch.nn.Flatten(), relu(), linear(5 * 121, HIDDEN), relu(), linear(HIDDEN, 4))
    layers = torch.nn.Sequential(*sections, *dense)
    net, theirs = made(torch, {"network": layers}, lambda net, x: net.network(x))
    path = folder / "BreakoutNoFrameskip-v4-qdagger.pth"
    torch.save(net.state_dict(), path)
    return path, theirs


def atari_agents(torch, folder, *, atoms=None):
    convs = [part for conv in convolutions(torch) for part in (conv, torch.nn.ReLU())]
    head = sequential_head(torch, 49 * 5, 4 * (atoms or 1))
    parts = {
        "_AtariNet__features": torch.nn.Sequential(*convs),
        "_AtariNet__head": head,
    }

    def forward(net, x):
        x = net.get_submodule("_AtariNet__head")(
            net.get_submodule("_AtariNet__features")(x).flatten(1)
        )
        return mean_return(torch, x.view(-1, 4, atoms)) if atoms else x

    net, theirs = made(torch, parts, forward)
    if atoms:
        net.register_buffer("_AtariNet__support", torch.linspace(-10, 10, atoms))
    buffer = io.BytesIO()
    torch.save({"estimator_state": net.state_dict(), "step": 50_000_000}, buffer)
    program = "C51_classic" if atoms else "DQN_modern"
    path = folder / program / "Breakout" / "0" / "model_50000000.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(buffer.getvalue(), 1))
    return path, theirs


def sequential_head(torch, inputs, outputs):
    linear = torch.nn.Linear
    return torch.nn.Sequential(linear(inputs, HIDDEN), torch.nn.ReLU(), linear(HIDDEN, outputs))


def atari_agents_c51(torch, folder):
    return atari_agents(torch, folder, atoms=51)


def sb3_qrdqn(torch, folder):
    convs = [part for conv in convolutions(torch) for part in (conv, torch.nn.ReLU())]
    linear = torch.nn.Linear
    extractor = torch.nn.ModuleDict(
        {
            "cnn": torch.nn.Sequential(*convs, torch.nn.Flatten()),
            "linear": torch.nn.Sequential(linear(49 * 5, HIDDEN), torch.nn.ReLU()),
        }
    )
    head = torch.nn.Sequential(linear(HIDDEN, 200 * 4))
    quantile_net = torch.nn.ModuleDict({"features_extractor": extractor, "quantile_net": head})

    def forward(net, x):
        x = net.quantile_net["features_extractor"]["cnn"](x)
        x = net.quantile_net["features_extractor"]["linear"](x)
        return net.quantile_net["quantile_net"](x).view(-1, 200, 4).mean(1)

    net, theirs = made(torch, {"quantile_net": quantile_net}, forward)
    weights = net.state_dict()
    weights |= {
        f"quantile_net_target{k.removeprefix('quantile_net')}": v for k, v in weights.items()
    }
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    space = {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "uint8", "_shape": [4, 84, 84]}
    actions = {":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": "4"}
    data = {"policy_kwargs": {}, "observation_space": space, "action_space": actions}
    path = folder / "qrdqn-BreakoutNoFrameskip-v4.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", buffer.getvalue())
    return path, theirs


def sample_factory(torch, folder, *, normalised=True, scale=255):
    """Pixels go in over `scale`, which its config says unless it is 255."""
    linear = torch.nn.Linear
    convs = [part for conv in convolutions(torch) for part in (conv, torch.nn.ReLU())]
    enc = torch.nn.Module()
    enc.conv_head = torch.nn.Sequential(*convs)
    enc.mlp_layers = torch.nn.Sequential(linear(49 * 5, HIDDEN), torch.nn.ReLU())
    inner, outer = torch.nn.Module(), torch.nn.Module()
    inner.enc = enc
    outer.encoders = torch.nn.ModuleDict({"obs": inner})
    head = torch.nn.Module()
    head.distribution_linear = linear(HIDDEN, 4)
    draw = np.random.default_rng(1)
    levels = 255 / scale
    mean = torch.from_numpy(draw.uniform(0, 0.6, (4, 84, 84)) * levels)
    variance = torch.from_numpy((draw.uniform(0, 0.05, (4, 84, 84)) * levels) ** 2)

    def forward(net, x):
        x = x * levels
        if not normalised:
            enc.conv_head[0].weight /= levels  # so that outputs are not hundreds
        if normalised:
            x = ((x - mean.float()) / torch.sqrt(variance.float() + 1e-5)).clamp(-5, 5)
            assert (x.abs() == 5).float().mean() > 0.1  # some are cut, others not
            assert (x.abs() < 5).float().mean() > 0.1
        x = enc.mlp_layers(enc.conv_head(x).flatten(1))
        return torch.cat([head.distribution_linear(x), net.critic_linear(x)], 1)

    parts = {"encoder": outer, "critic_linear": linear(HIDDEN, 1), "action_parameterization": head}
    net, theirs = made(torch, parts, forward)
    weights = dict(net.state_dict())
    one = torch.ones(1, dtype=torch.float64)
    if normalised:
        place = "obs_normalizer.running_mean_std.running_mean_std.obs."
        statistics = {"running_mean": mean, "running_var": variance, "count": one}
        weights |= {f"{place}{name}": value for name, value in statistics.items()}
    returns = {"running_mean": one, "running_var": one, "count": one}
    weights |= {f"returns_normalizer.{name}": value for name, value in returns.items()}
    run = folder / "some_run"
    path = run / "checkpoint_p0" / "best_000.pth"
    path.parent.mkdir(parents=True)
    optimizer = torch.optim.Adam(net.parameters()).state_dict()
    torch.save({"train_step": 3, "model": weights, "optimizer": optimizer}, path)
    said = {"env": "atari_breakout", "nonlinearity": "relu"}
    if scale != 255:
        said |= {"obs_subtract_mean": 0.0, "obs_scale": scale}
    (run / "config.json").write_text(json.dumps(said))
    return path, theirs


def sample_factory_plain(torch, folder):
    return sample_factory(torch, folder, normalised=False)


def sample_factory_raw(torch, folder):
    return sample_factory(torch, folder, scale=1.0)


def sample_factory_raw_plain(torch, folder):
    return sample_factory(torch, folder, normalised=False, scale=1.0)


# Recurrent ones: what they answer is that of `GAMES`, step by step, with a game that begins anew.

EPISODES = np.array([[1, 1, 1], [0, 0, 0], [0, 1, 0], [0, 0, 0]], bool)
"""Whether the games of three rows begin with each of four steps."""


def screens(view):
    """What the rows see at each step: `(T, B, *shape)`."""
    return np.random.default_rng(3).integers(0, 256, (*EPISODES.shape, *view.shape), np.uint8)


def played(torch, module, cell, view, before, after, prepare=lambda x, begins: x / 255):
    """Outputs `(T, B, actions)` of a cell between two functions."""
    randomised(torch, module)
    gates = {torch.nn.LSTM: 2, torch.nn.LSTMCell: 2}.get(type(cell), 1)
    carry = [torch.zeros(3, cell.hidden_size) for _ in range(gates)]
    answers = []
    with torch.no_grad():
        for x, begins in zip(screens(view), EPISODES, strict=True):
            begins = torch.from_numpy(begins)
            carry = [torch.where(begins[:, None], 0, part) for part in carry]
            x = before(prepare(torch.from_numpy(x).float(), begins))
            if isinstance(cell, (torch.nn.LSTM, torch.nn.GRU)):
                state = [part[None] for part in carry]
                x, carry = cell(x[None], tuple(state) if gates > 1 else state[0])
                x, carry = x[0], [part[0] for part in (carry if gates > 1 else [carry])]
            else:
                carry = cell(x, tuple(carry) if gates > 1 else carry[0])
                carry = list(carry) if gates > 1 else [carry]
                x = carry[0]
            answers.append(after(x).numpy())
    return np.stack(answers)


def cleanrl_lstm(torch, folder):
    net, linear = torch.nn.Module(), torch.nn.Linear
    convs = convolutions(torch)
    convs[0] = torch.nn.Conv2d(1, WIDTHS[0], 8, 4)
    net.network = torch.nn.Sequential(
        *sequential(torch, *convs, linear(49 * 5, HIDDEN)), torch.nn.ReLU()
    )
    net.lstm = torch.nn.LSTM(HIDDEN, 7)
    net.actor, net.critic = linear(7, 4), linear(7, 1)
    theirs = played(torch, net, net.lstm, View(stack=1), net.network, net.actor)
    path = folder / "ppo_atari_lstm_BreakoutNoFrameskip-v4.pth"
    torch.save(net.state_dict(), path)
    return path, theirs


def recurrent_ppo(torch, folder, critic="lstm", layers=()):
    net, linear = torch.nn.Module(), torch.nn.Linear
    convs = [part for conv in convolutions(torch) for part in (conv, torch.nn.ReLU())]
    net.features_extractor = torch.nn.ModuleDict(
        {
            "cnn": torch.nn.Sequential(*convs, torch.nn.Flatten()),
            "linear": torch.nn.Sequential(linear(49 * 5, HIDDEN), torch.nn.ReLU()),
        }
    )
    net.pi_features_extractor = net.vf_features_extractor = net.features_extractor
    sizes = (7, *layers)
    pairs = list(zip(sizes, layers, strict=False))
    streams = {
        name: torch.nn.Sequential(*(x for a, b in pairs for x in (linear(a, b), torch.nn.Tanh())))
        for name in ("policy_net", "value_net")
    }
    net.mlp_extractor = torch.nn.ModuleDict(streams)
    net.lstm_actor = torch.nn.LSTM(HIDDEN, 7)
    if critic == "lstm":
        net.lstm_critic = torch.nn.LSTM(HIDDEN, 7)
    elif critic == "linear":
        net.critic = linear(HIDDEN, 7)
    net.action_net, net.value_net = linear(sizes[-1], 4), linear(sizes[-1], 1)
    extract = net.features_extractor

    def before(x):
        return extract["linear"](extract["cnn"](x))

    def after(x):
        return net.action_net(net.mlp_extractor["policy_net"](x))

    theirs = played(torch, net, net.lstm_actor, View(), before, after)
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    space = {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "uint8", "_shape": [4, 84, 84]}
    actions = {":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": "4"}
    data = {"policy_kwargs": {}, "n_epochs": 4, "observation_space": space, "action_space": actions}
    path = folder / "ppo_lstm-BreakoutNoFrameskip-v4.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", buffer.getvalue())
    return path, theirs


def recurrent_ppo_shared(torch, folder):
    return recurrent_ppo(torch, folder, critic="shared", layers=(5,))


def recurrent_ppo_plain_critic(torch, folder):
    return recurrent_ppo(torch, folder, critic="linear")


def four_convolutions(torch, cell, inputs, names, view, prepare):
    """baby-a3c and pytorch-a3c: four convolutions, a cell, and two linear heads."""
    net, functional = torch.nn.Module(), torch.nn.functional
    for i, channels in enumerate((1, 2, 2, 2), 1):
        net.add_module(f"conv{i}", torch.nn.Conv2d(channels, 2, 3, stride=2, padding=1))
    kind = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}[cell]
    net.add_module(cell, kind(2 * inputs, 7))
    actor, critic = names
    net.add_module(actor, torch.nn.Linear(7, 4))
    net.add_module(critic, torch.nn.Linear(7, 1))

    def before(x):
        for i in range(1, 5):
            x = functional.elu(net.get_submodule(f"conv{i}")(x))
        return x.flatten(1)

    cell, actor = net.get_submodule(cell), net.get_submodule(actor)
    return net, played(torch, net, cell, view, before, actor, prepare)


def baby_a3c(torch, folder, cell, names=("actor_linear", "critic_linear"), wrapped=False):
    net, theirs = four_convolutions(torch, cell, 25, names, BABY, lambda x, begins: x / 255)
    path = folder / "breakout-v4" / "model.80.tar"
    path.parent.mkdir()
    torch.save({"state_dict": net.state_dict()} if wrapped else net.state_dict(), path)
    return path, theirs


def baby_a3c_gru(torch, folder):
    return baby_a3c(torch, folder, "gru")


def baby_a3c_lstm(torch, folder):
    return baby_a3c(torch, folder, "lstm")


def baby_a3c_first(torch, folder):
    return baby_a3c(torch, folder, "lstm", ("pol_func", "val_func"), wrapped=True)


def starter(torch, folder):
    """Frames are normalised by averages that its environment keeps; here since a game began."""
    kept = torch.zeros(3, 3)

    def prepare(x, begins):
        nonlocal kept
        x = x / 255
        new = torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3), correction=0), torch.ones(3)])
        kept = torch.where(begins, 0, kept) * 0.9999 + new * (1 - 0.9999)
        mean, deviation = (kept[:2] / kept[2])[:, :, None, None, None]
        return (x - mean) / (deviation + 1e-8)

    names = ("actor_linear", "critic_linear")
    net, theirs = four_convolutions(torch, "lstm", 9, names, STARTER, prepare)
    path = folder / "breakout_a3c.pth"
    torch.save(net.state_dict(), path)
    return path, theirs


def sample_factory_core(torch, folder, kind, normalised):
    """The file of a feed-forward one, with a core between its encoder and its heads."""
    path, _ = sample_factory(torch, folder, normalised=normalised)
    file = torch.load(path, weights_only=True)
    weights, linear = file["model"], torch.nn.Linear
    net = torch.nn.Module()
    net.core = torch.nn.Module()
    net.core.core = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[kind](HIDDEN, 7)
    net.critic_linear = linear(7, 1)
    net.action_parameterization = torch.nn.Module()
    net.action_parameterization.distribution_linear = linear(7, 4)
    enc = {
        name.removeprefix("encoder.encoders.obs.enc."): x
        for name, x in weights.items()
        if name.startswith("encoder")
    }
    place = "obs_normalizer.running_mean_std.running_mean_std.obs.running_"

    def before(x):
        if normalised:
            mean, variance = (weights[f"{place}{x}"].float() for x in ("mean", "var"))
            x = ((x - mean) / torch.sqrt(variance + 1e-5)).clamp(-5, 5)
        for i, stride in ((0, 4), (2, 2), (4, 1)):
            kernel, bias = (enc[f"conv_head.{i}.{x}"] for x in ("weight", "bias"))
            x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, stride))
        return torch.relu(x.flatten(1) @ enc["mlp_layers.0.weight"].T + enc["mlp_layers.0.bias"])

    head = net.action_parameterization.distribution_linear
    theirs = played(torch, net, net.core.core, View(), before, head)
    file["model"] = weights | net.state_dict()
    torch.save(file, path)
    return path, theirs


def sample_factory_gru(torch, folder):
    return sample_factory_core(torch, folder, "gru", normalised=True)


def sample_factory_gru_plain(torch, folder):
    return sample_factory_core(torch, folder, "gru", normalised=False)


def sample_factory_lstm(torch, folder):
    return sample_factory_core(torch, folder, "lstm", normalised=True)


def sample_factory_lstm_plain(torch, folder):
    return sample_factory_core(torch, folder, "lstm", normalised=False)


def pfrl(torch, folder, net, name):
    """PFRL packs a folder: the model, its target and the optimiser."""
    parts = {}
    for kind in ("model", "target_model", "optimizer"):
        buffer = io.BytesIO()
        scaled = {key: tensor * (kind == "model") for key, tensor in net.state_dict().items()}
        torch.save(scaled, buffer)
        parts[f"best/{kind}.pt"] = buffer.getvalue()
    path = folder / name / "BreakoutNoFrameskip-v4" / "best.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in parts.items():
            archive.writestr(member, data)
    return path


def pfrl_dqn(torch, folder):
    linear, relu = torch.nn.Linear, torch.relu
    body = torch.nn.Module()
    body.layers = torch.nn.ModuleList(convolutions(torch))
    body.output = linear(49 * 5, HIDDEN)

    def forward(net, x):
        for layer in body.layers:
            x = relu(layer(x))
        return net.get_submodule("1")(relu(body.output(x.flatten(1))))

    net, theirs = made(torch, {"0": body, "1": linear(HIDDEN, 4)}, forward)
    return pfrl(torch, folder, net, "DQN"), theirs


def noisy(torch, inputs, outputs):
    """PFRL's factorised noisy layer: two layers, of means and of the noise's size."""
    linear = torch.nn.Linear
    return torch.nn.ModuleDict({"mu": linear(inputs, outputs), "sigma": linear(inputs, outputs)})


def pfrl_rainbow(torch, folder):
    parts = {
        "conv_layers": torch.nn.ModuleList(convolutions(torch)),
        "main_stream": noisy(torch, 49 * 5, 2 * HIDDEN),
        "a_stream": noisy(torch, HIDDEN, 4 * 51),
        "v_stream": noisy(torch, HIDDEN, 51),
    }

    def forward(net, x):
        for layer in net.conv_layers:
            x = torch.relu(layer(x))
        advantage, value = torch.relu(net.main_stream["mu"](x.flatten(1))).chunk(2, 1)
        advantage = net.a_stream["mu"](advantage).view(-1, 4, 51)
        value = net.v_stream["mu"](value).view(-1, 1, 51)
        return mean_return(torch, dueling(value, advantage))

    net, theirs = made(torch, parts, forward)
    return pfrl(torch, folder, net, "Rainbow"), theirs


def pfrl_iqn(torch, folder):
    linear = torch.nn.Linear
    convs = [part for conv in convolutions(torch) for part in (conv, torch.nn.ReLU())]
    basis = torch.nn.Module()
    basis.linear = linear(64, 49 * 5)
    parts = {
        "psi": torch.nn.Sequential(*convs, torch.nn.Flatten()),
        "phi": torch.nn.Sequential(basis, torch.nn.ReLU()),
        "f": sequential_head(torch, 49 * 5, 4),
    }

    def forward(net, x):
        taus = (torch.arange(32) + 0.5) / 32
        cosines = torch.cos(taus[:, None] * torch.arange(1, 65) * np.pi)
        phi = torch.relu(basis.linear(cosines))
        return net.f(net.psi(x)[:, None] * phi).mean(1)

    net, theirs = made(torch, parts, forward)
    return pfrl(torch, folder, net, "IQN"), theirs


def pfrl_a3c(torch, folder):
    linear, relu = torch.nn.Linear, torch.nn.ReLU
    branches = torch.nn.Module()
    branches.child_modules = torch.nn.ModuleList(
        [torch.nn.Sequential(linear(HIDDEN, 4)), linear(HIDDEN, 1)]
    )
    convs = convolutions(torch, kernels=((8, 4), (4, 2)))
    body = torch.nn.Sequential(
        *(convs[0], relu(), convs[1], relu(), torch.nn.Flatten(), linear(81 * 4, HIDDEN), relu()),
        branches,
    )

    def forward(net, x):
        x = net[:7](x)
        logits, value = branches.child_modules
        return torch.cat([logits(x), value(x)], 1)

    randomised(torch, body)
    with torch.no_grad():
        theirs = forward(body, torch.from_numpy(PIXELS).float() / 255).numpy()
    return pfrl(torch, folder, body, "A3C"), theirs


def kaixhin(torch, folder, convs, features):
    class Noisy(torch.nn.Module):
        def __init__(self, inputs, outputs):
            super().__init__()
            for kind in ("mu", "sigma"):
                setattr(self, f"weight_{kind}", torch.nn.Parameter(torch.empty(outputs, inputs)))
                setattr(self, f"bias_{kind}", torch.nn.Parameter(torch.empty(outputs)))
            self.register_buffer("weight_epsilon", torch.ones(outputs, inputs))
            self.register_buffer("bias_epsilon", torch.ones(outputs))

        def forward(self, x):
            return torch.nn.functional.linear(x, self.weight_mu, self.bias_mu)

    dense = {
        "fc_h_v": Noisy(features, HIDDEN),
        "fc_h_a": Noisy(features, HIDDEN),
        "fc_z_v": Noisy(HIDDEN, 51),
        "fc_z_a": Noisy(HIDDEN, 4 * 51),
    }

    def forward(net, x):
        for layer in net.convs if hasattr(net, "convs") else (net.conv1, net.conv2, net.conv3):
            x = torch.relu(layer(x))  # once more behind a ReLU changes nothing
        x = x.flatten(1)
        value = net.fc_z_v(torch.relu(net.fc_h_v(x))).view(-1, 1, 51)
        advantage = net.fc_z_a(torch.relu(net.fc_h_a(x))).view(-1, 4, 51)
        return mean_return(torch, dueling(value, advantage))

    net, theirs = made(torch, {**convs, **dense}, forward)
    path = folder / "breakout.pth"
    torch.save(net.state_dict(), path)
    return path, theirs


def kaixhin_13(torch, folder):
    convs = convolutions(torch, padding=(1, 0, 0))
    return kaixhin(torch, folder, {f"conv{i}": conv for i, conv in enumerate(convs, 1)}, 49 * 5)


def kaixhin_14(torch, folder):
    layers = [part for conv in convolutions(torch) for part in (conv, torch.nn.ReLU())]
    return kaixhin(torch, folder, {"convs": torch.nn.Sequential(*layers)}, 49 * 5)


def kaixhin_14_small(torch, folder):
    convs = convolutions(torch, kernels=((5, 5), (5, 5)))
    layers = [part for conv in convs for part in (conv, torch.nn.ReLU())]
    return kaixhin(torch, folder, {"convs": torch.nn.Sequential(*layers)}, 9 * 4)


# --- in Flax


class Body(nn.Module):
    """Three convolutions and a dense layer, with what lies in between for implicit quantiles."""

    padding: str = "VALID"
    outputs: int = 0
    fractions: int = 0

    @nn.compact
    def __call__(self, x):
        x = jnp.transpose(x, (0, 2, 3, 1)) / 255.0
        for width, kernel, stride in zip(WIDTHS, (8, 4, 3), (4, 2, 1), strict=True):
            size = (kernel, kernel)
            x = nn.relu(nn.Conv(width, size, strides=(stride, stride), padding=self.padding)(x))
        x = x.reshape((x.shape[0], -1))
        if self.fractions:
            taus = (jnp.arange(self.fractions) + 0.5) / self.fractions
            cosines = jnp.cos(taus[:, None] * jnp.arange(1, 65) * jnp.pi)
            x = x[:, None] * nn.relu(nn.Dense(x.shape[-1])(cosines))
        x = nn.relu(nn.Dense(HIDDEN)(x))
        return nn.Dense(self.outputs)(x) if self.outputs else x


class Head(nn.Module):
    """CleanRL's Actor and Critic."""

    outputs: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs)(x)


# cleanba names its classes so, and Flax its layers after them.
class ResidualBlock(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x):
        y = nn.Conv(self.channels, kernel_size=(3, 3))(nn.relu(x))
        return x + nn.Conv(self.channels, kernel_size=(3, 3))(nn.relu(y))


class ConvSequence(nn.Module):
    channels: int

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(self.channels, kernel_size=(3, 3))(x)
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        x = ResidualBlock(self.channels)(x)  # the first to be made is called the first
        return ResidualBlock(self.channels)(x)


class ResidualBody(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = jnp.transpose(x, (0, 2, 3, 1)) / 255.0
        for channels in WIDTHS:
            x = ConvSequence(channels)(x)
        return nn.relu(nn.Dense(HIDDEN)(nn.relu(x).reshape((x.shape[0], -1))))


# PureJaxQL too.
class CNN(nn.Module):
    norm: bool

    @nn.compact
    def __call__(self, x):
        before = nn.LayerNorm if self.norm else lambda: lambda x: x
        for width, kernel, stride in zip(WIDTHS, (8, 4, 3), (4, 2, 1), strict=True):
            size = (kernel, kernel)
            x = nn.Conv(width, size, strides=(stride, stride), padding="VALID")(x)
            x = nn.relu(before()(x))
        return nn.relu(before()(nn.Dense(HIDDEN)(x.reshape((x.shape[0], -1)))))


class PQNetwork(nn.Module):
    norm: bool = True

    @nn.compact
    def __call__(self, x):
        x = jnp.transpose(x, (0, 2, 3, 1))
        nn.BatchNorm(use_running_average=True)(x)  # for its parameters alone
        return nn.Dense(4)(CNN(self.norm)(x / 255.0))


def answered(body, x=PIXELS):
    """Random parameters of a Flax module, and what it answers."""
    x = jnp.asarray(x, jnp.float32)
    shapes = jax.eval_shape(lambda: body.init(jax.random.key(0), x))
    draw = np.random.default_rng(2)

    def random(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 200
        drawn = draw.normal(size=leaf.shape) * np.sqrt(2 / fan_in)
        return (drawn + (path[-1].key == "scale")).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(random, shapes)
    return params, np.asarray(jax.jit(body.apply)(params, x))


def softmax_mean(logits, low=-10.0, high=10.0):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    share = shifted / shifted.sum(-1, keepdims=True)
    return share @ np.linspace(low, high, logits.shape[-1])


def cleanrl_flax_dqn(folder):
    params, theirs = answered(Body(outputs=4))
    path = folder / "BreakoutNoFrameskip-v4-dqn_atari_jax.cleanrl_model"
    path.write_bytes(flax.serialization.to_bytes(params))
    return path, theirs


def cleanrl_flax_c51(folder):
    params, logits = answered(Body(outputs=4 * 21))
    args = {"env_id": "BreakoutNoFrameskip-v4", "n_atoms": 21, "v_min": -3.0, "v_max": 8.0}
    path = folder / "c51_atari_jax.cleanrl_model"
    path.write_bytes(flax.serialization.to_bytes({"model_weights": params, "args": args}))
    return path, softmax_mean(logits.reshape(3, 4, 21), -3, 8)


def purejaxql(folder, norm=True):
    """A BatchNorm that nothing comes of stays as it began."""
    variables, theirs = answered(PQNetwork(norm))
    params = dict(variables["params"])
    params["BatchNorm_0"] = {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)}
    path = folder / "Breakout-v5" / "pqn_Breakout-v5_seed0.safetensors"
    path.parent.mkdir()
    safetensors.numpy.save_file(flax.traverse_util.flatten_dict(params, sep=","), path)
    return path, theirs


def purejaxql_plain(folder):
    return purejaxql(folder, norm=False)


def flax_ppo(folder, body, actions, env):
    network, features = answered(body)
    actor, logits = answered(Head(actions), features)
    critic, value = answered(Head(1), features)
    args = {"env_id": env, "exp_name": "ppo", "seed": 1, "learning_rates": [1e-4]}
    path = folder / "agent.cleanrl_model"
    path.write_bytes(flax.serialization.to_bytes([args, [network, actor, critic]]))
    return path, np.column_stack([logits, value])


def cleanrl_flax_ppo(folder):
    return flax_ppo(folder, Body(), 4, "Breakout-v5")


def cleanba_impala(folder):
    return flax_ppo(folder, ResidualBody(), 18, "Breakout-v5")


def dopamine(folder, body):
    params, theirs = answered(body)
    inner = freeze(jax.tree.map(jnp.asarray, params))
    other = freeze(jax.tree.map(lambda leaf: leaf * 0, inner))
    bundle = {
        "state": np.zeros((1, 84, 84, 4), np.uint8),
        "training_steps": 7,
        "online_params": inner,
        "optimizer_state": (other, np.int32(3)),
        "target_params": other,
    }
    path = folder / "Breakout" / "1" / "ckpt.199"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(bundle))
    return path, theirs


def dopamine_dqn(folder):
    return dopamine(folder, Body("SAME", 4))


def dopamine_before_linen(folder):
    """Layers of all kinds are numbered in one row, and lie under no "params"."""
    path, theirs = dopamine(folder, Body("SAME", 4))
    bundle = pickle.loads(path.read_bytes())
    numbers = {"Dense_0": "Dense_3", "Dense_1": "Dense_4"}
    for name in ("online_params", "target_params"):
        layers = bundle[name]["params"]
        bundle[name] = {numbers.get(key, key): dict(layers[key]) for key in layers}
    path.write_bytes(pickle.dumps(bundle))
    return path, theirs


def dopamine_c51(folder):
    path, logits = dopamine(folder, Body("SAME", 4 * 51))
    return path, softmax_mean(logits.reshape(3, 4, 51))


def dopamine_qrdqn(folder):
    path, quantiles = dopamine(folder, Body("SAME", 4 * 200))
    return path, quantiles.reshape(3, 4, 200).mean(-1)


def dopamine_iqn(folder):
    path, quantiles = dopamine(folder, Body("SAME", 4, 32))
    return path, quantiles.mean(1)


# --- the table


@dataclasses.dataclass(frozen=True)
class Row:
    """What is to be found in a file.

    Attributes:
      write: makes it in a folder; its path, and outputs (and the value of an actor-critic).
      game: what says that it plays Breakout.
      rules: its own game.
    """

    convention: str
    write: Callable
    game: str
    outputs: str = "q"
    actions: tuple[int, ...] = BREAKOUT
    view: View = dataclasses.field(default_factory=View)
    rules: Rules = USUAL


FIRE = Rules(fire_after_life=True)
STICKY = Rules(repeat_action_probability=0.25, noop_max=1)
MACHADO = Rules(repeat_action_probability=0.25, noop_max=1, full_actions=True)
NAME, FOLDER, SAID = "the file's name", "the name of its folder, ", ""
ATARI_AGENTS = View(maximum="after", padding="zero")
ZEROS = View(padding="zero")
KAIXHIN = View(resize="linear", maximum="after", padding="zero")
BABY = View(80, 80, 1, resize="smooth", gray="stretched", crop=(35, 195), maximum="none")
STARTER = View(
    *(42, 42, 1, "linear", "mean", (34, 194), ((80, 80),)), gray_last=True, maximum="none"
)
RECURRENT = (
    Row("CleanRL PPO, LSTM", cleanrl_lstm, NAME, "logits", view=View(stack=1), rules=FIRE),
    Row("Stable-Baselines3 RecurrentPPO, CNN", recurrent_ppo, NAME, "logits", rules=FIRE),
    Row("Stable-Baselines3 RecurrentPPO, CNN", recurrent_ppo_shared, NAME, "logits", rules=FIRE),
    Row(
        "Stable-Baselines3 RecurrentPPO, CNN",
        recurrent_ppo_plain_critic,
        NAME,
        "logits",
        rules=FIRE,
    ),
    Row("baby-a3c, GRU", baby_a3c_gru, FOLDER + "breakout-v4", "logits", view=BABY),
    Row("baby-a3c, LSTM", baby_a3c_lstm, FOLDER + "breakout-v4", "logits", view=BABY),
    Row("baby-a3c, LSTM", baby_a3c_first, FOLDER + "breakout-v4", "logits", view=BABY),
    Row("pytorch-a3c, as the universe starter agent", starter, NAME, "logits", view=STARTER),
    Row("Sample Factory, GRU", sample_factory_gru, SAID, "logits", rules=FIRE),
    Row(
        "Sample Factory, GRU, pixels as they are",
        sample_factory_gru_plain,
        SAID,
        "logits",
        rules=FIRE,
    ),
    Row("Sample Factory, LSTM", sample_factory_lstm, SAID, "logits", rules=FIRE),
    Row(
        "Sample Factory, LSTM, pixels as they are",
        sample_factory_lstm_plain,
        SAID,
        "logits",
        rules=FIRE,
    ),
)
TORCH = (
    Row("CleanRL C51", cleanrl_c51, SAID, rules=FIRE),
    Row("CleanRL QDagger", cleanrl_qdagger, NAME, rules=FIRE),
    Row("atari-agents DQN", atari_agents, FOLDER + "Breakout", view=ATARI_AGENTS, rules=STICKY),
    Row("atari-agents C51", atari_agents_c51, FOLDER + "Breakout", view=ATARI_AGENTS),
    Row("Stable-Baselines3 QR-DQN, CNN", sb3_qrdqn, NAME, rules=FIRE),
    Row("Sample Factory", sample_factory, SAID, "logits", rules=FIRE),
    Row("Sample Factory, pixels as they are", sample_factory_plain, SAID, "logits", rules=FIRE),
    Row("Sample Factory", sample_factory_raw, SAID, "logits", rules=FIRE),
    Row("Sample Factory, pixels as they are", sample_factory_raw_plain, SAID, "logits", rules=FIRE),
    Row("PFRL DQN", pfrl_dqn, FOLDER + "BreakoutNoFrameskip-v4"),
    Row("PFRL Rainbow", pfrl_rainbow, FOLDER + "BreakoutNoFrameskip-v4"),
    Row("PFRL IQN", pfrl_iqn, FOLDER + "BreakoutNoFrameskip-v4"),
    Row("PFRL A3C", pfrl_a3c, FOLDER + "BreakoutNoFrameskip-v4", "logits"),
    Row("Kaixhin Rainbow 1.3", kaixhin_13, NAME, view=KAIXHIN),
    Row("Kaixhin Rainbow 1.4", kaixhin_14, NAME, view=KAIXHIN),
    Row("Kaixhin Rainbow 1.4, data-efficient", kaixhin_14_small, NAME, view=KAIXHIN),
)
FLAX = (
    Row("CleanRL DQN, Flax", cleanrl_flax_dqn, NAME, rules=FIRE),
    Row("CleanRL C51, Flax", cleanrl_flax_c51, SAID, rules=FIRE),
    Row("PureJaxQL", purejaxql, NAME, rules=FIRE),
    Row("PureJaxQL without LayerNorm", purejaxql_plain, NAME, rules=FIRE),
    Row("CleanRL or cleanba PPO, Flax", cleanrl_flax_ppo, SAID, "logits", rules=FIRE),
    Row(
        "cleanba IMPALA or PPO, residual",
        cleanba_impala,
        SAID,
        "logits",
        tuple(range(18)),
        rules=MACHADO,
    ),
    Row("Dopamine DQN", dopamine_dqn, FOLDER + "Breakout", view=ZEROS, rules=STICKY),
    Row("Dopamine DQN", dopamine_before_linen, FOLDER + "Breakout", view=ZEROS, rules=STICKY),
    Row("Dopamine C51 or Rainbow", dopamine_c51, FOLDER + "Breakout", view=ZEROS, rules=STICKY),
    Row("Dopamine QR-DQN", dopamine_qrdqn, FOLDER + "Breakout", view=ZEROS, rules=STICKY),
    Row("Dopamine IQN", dopamine_iqn, FOLDER + "Breakout", view=ZEROS, rules=STICKY),
)


def answers(expert):
    """What we answer: to `PIXELS`, or step by step if it is recurrent."""
    if not expert.recurrent:
        asked = (expert.network, expert.params, jnp.asarray(PIXELS))
        if expert.network.head == "actor_critic":
            return np.column_stack(networks.forward_with_values(*asked))
        return np.asarray(networks.forward(*asked))
    step = jax.jit(networks.advance, static_argnums=0)
    carry, outputs = expert.carry(EPISODES.shape[1]), []
    for x, begins in zip(screens(expert.view), EPISODES, strict=True):
        kept = [np.where(begins.reshape(-1, *[1] * (part.ndim - 1)), 0, part) for part in carry]
        said, carry = step(expert.network, expert.params, x, tuple(map(np.float32, kept)))
        outputs.append(np.asarray(said))
    return np.stack(outputs)


def check(row: Row, path: pathlib.Path, theirs: np.ndarray) -> None:
    """All by itself: nothing but the file is given."""
    conversion = formats.convert(path)
    expert = conversion.expert
    assert conversion.convention == row.convention
    assert (expert.game, expert.outputs, expert.actions) == ("breakout", row.outputs, row.actions)
    assert (expert.view, expert.rules) == (row.view, row.rules)
    (own,) = [x for x in conversion.notes if x.endswith("; --rules says otherwise")] or [""]
    assert own.endswith(
        f"'s: {row.rules.differences_from(USUAL)}; --rules says otherwise" if own else ""
    )
    assert bool(own) == (row.rules != USUAL)
    source = [note for note in conversion.notes if note.startswith("its game")]
    assert source == ([f"its game, breakout, is taken from {row.game}"] if row.game else [])
    ours = answers(expert)
    assert np.ptp(theirs, axis=0).max() > 1e-2  # the input matters
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    # What is kept is what was read.
    expert.save(path.parent / "expert")
    again = Expert.load(path.parent / "expert")
    assert again.network == expert.network
    jax.tree.map(np.testing.assert_array_equal, again.params, expert.params)


@pytest.mark.parametrize("row", TORCH, ids=lambda row: row.write.__name__)
def test_files_of_pytorch_programs(row, torch, tmp_path):
    check(row, *row.write(torch, tmp_path))


@pytest.mark.parametrize("row", RECURRENT, ids=lambda row: row.write.__name__)
def test_files_of_recurrent_programs(row, torch, tmp_path):
    check(row, *row.write(torch, tmp_path))


@pytest.mark.parametrize("row", FLAX, ids=lambda row: row.write.__name__)
def test_files_of_flax_programs(row, tmp_path):
    check(row, *row.write(tmp_path))


def test_every_convention_has_a_file():
    """Those not here have theirs in test_formats.py and test_lander_files.py."""
    others = ("reference", "CRL-Atari", "multi-task lander", "fighter")
    own = {"CleanRL DQN", "CleanRL PPO"}
    named = {c.name for c in CONVENTIONS if not c.name.startswith(others)} - own
    found = {row.convention for row in TORCH + RECURRENT + FLAX}
    assert named == {name for name in found if not name.startswith("Stable-Baselines3")}


# --- what says the game, and files that are not quite theirs


@pytest.mark.parametrize(
    ("path", "game"),
    [
        ("dqn-PongNoFrameskip-v4.zip", "pong"),
        ("ppo_seed1_BreakoutNoFrameskip-v4.pth", "breakout"),
        ("ALE/Pong-v5/model.zip", "pong"),
        ("atari_pong.pth", "pong"),
        ("atari_2B_atari_spaceinvaders_1111/checkpoint_p0/best.pth", "space_invaders"),
        ("a2c-SpaceInvadersNoFrameskip-v4/a.zip", "space_invaders"),
        ("DQN_modern/MsPacman/0/model_50000000.gz", "ms_pacman"),
        ("breakout_dqn/Pong-v5/breakout.pth", "breakout"),
        ("pong.pth.gz", "pong"),
        ("pong_and_others/model.pth", None),
        ("ppo-CartPole-v1.zip", None),
        ("policy_pong.pth", None),
        ("a/b/c/d/model-v2.pth", None),
        ("duel_0.5hp/expert.pth", None),
    ],
)
def test_names_that_say_a_game(path, game):
    found, source = beside.game_in_names(pathlib.Path("/nowhere") / path)
    assert found == game and bool(source) == (game is not None)


def test_what_names_and_outputs_say_of_an_experts_own_game(tmp_path, monkeypatch):
    known = {convention.name: convention for convention in CONVENTIONS}

    def rules(name, actions, game, path="x.gz", **arguments):
        return rules_of(known[name], actions, game, path, arguments)

    agents, cleanba = "atari-agents DQN", "cleanba IMPALA or PPO, residual"
    assert rules(agents, BREAKOUT, "breakout") == STICKY
    assert rules(agents, BREAKOUT, "breakout", "DQN_classic_adam/Breakout/x.gz") == USUAL
    inside = tmp_path / "DQN_classic_adam" / "Breakout" / "0"
    inside.mkdir(parents=True)
    for folder, name in ((inside.parent, "0/x.gz"), (inside, "x.gz"), (inside, "./x.gz")):
        monkeypatch.chdir(folder)
        assert rules(agents, BREAKOUT, "breakout", name) == USUAL, name
    assert rules(cleanba, BREAKOUT, "breakout") == FIRE
    # Boxing has all 18 actions of its own, so that its outputs alone say nothing.
    full = tuple(range(18))
    assert rules(cleanba, full, "boxing") == FIRE
    machado = {"exp_name": "cleanba_ppo_envpool_machado_atari_wrapper"}
    assert rules(cleanba, full, "boxing", **machado) == MACHADO
    assert rules(cleanba, full, None, **machado) == MACHADO
    assert rules(cleanba, full, "skiing", **machado) == STICKY  # which has no full set
    assert rules("CleanRL DQN", full, "pong") == dataclasses.replace(FIRE, full_actions=True)
    assert rules("reference, plain", full, "pong") == USUAL
    lander = "multi-task lander, single or task-blind"
    assert rules(lander, tuple(range(4)), "lander/heavy") == USUAL


def test_what_a_program_was_called_with_is_heeded_or_refused(tmp_path, monkeypatch):
    run = tmp_path / "run"
    (run / "checkpoint_p0").mkdir(parents=True)
    said = {"env": "atari_pong", "nonlinearity": "elu"}
    (run / "config.json").write_text(json.dumps(said))
    arguments, unread = beside.arguments({}, run / "checkpoint_p0" / "x.pth")
    assert not unread
    assert beside.games({}, arguments) == ("pong",)
    monkeypatch.chdir(run / "checkpoint_p0")
    for name in ("x.pth", "./x.pth"):  # from inside its folder
        assert beside.arguments({}, pathlib.Path(name)) == (said, ())
    known = {convention.name: convention for convention in CONVENTIONS}
    chosen = with_arguments(known["Sample Factory"], arguments, "x.pth")
    assert chosen.plan.activation == "elu"
    with pytest.raises(ValueError, match=r"x.pth: nonlinearity is swish, expected relu, elu"):
        with_arguments(known["Sample Factory"], {"nonlinearity": "swish"}, "x.pth")
    usual = {"obs_subtract_mean": 0.0, "obs_scale": 255.0}
    for said, raw in (({}, False), (usual, False), (usual | {"obs_scale": 1.0}, True)):
        assert with_arguments(known["Sample Factory"], said, "").plan.raw_pixels == raw
    for name, wrong in (("obs_subtract_mean", 128.0), ("obs_scale", 128.0), ("obs_scale", None)):
        with pytest.raises(
            ValueError, match=rf"x.pth: its pixels are .*{wrong}.*; expected 0, and 1"
        ):
            with_arguments(known["Sample Factory"], usual | {name: wrong}, "x.pth")
    # What is assumed is told, and what is not.
    notes = with_arguments(known["Sample Factory"], {"obs_scale": 255.0}, "").notes
    assert notes == ("no config.json says nonlinearity: relu is assumed",)
    notes = with_arguments(known["Sample Factory, GRU"], {"nonlinearity": "elu"}, "").notes
    assert notes[1:] == ("no config.json says obs_scale: 255 is assumed",)
    assert with_arguments(known["Sample Factory"], usual | arguments, "").notes == ()
    # Atoms that cannot be are not believed.
    wrong = {"v_min": 3.0, "v_max": -3.0, "n_atoms": 51}
    assert with_arguments(known["CleanRL C51, Flax"], wrong, "").plan.support.atoms.low == -10


@pytest.mark.parametrize("text", ["{", "[]", " " * (17 * 2**20)], ids=["cut", "list", "large"])
def test_a_config_that_cannot_be_read_is_told(text, tmp_path):
    shapes = {"conv_head.0": (3, 4, 8, 8), "conv_head.2": (4, 3, 4, 4), "conv_head.4": (5, 4, 3, 3)}
    shapes = {f"encoder.encoders.obs.enc.{k}": v for k, v in shapes.items()}
    shapes |= {"encoder.encoders.obs.enc.mlp_layers.0": (6, 245), "critic_linear": (1, 6)}
    shapes |= {"action_parameterization.distribution_linear": (4, 6)}
    model = {f"{name}.weight": np.ones(shape, np.float32) for name, shape in shapes.items()}
    model |= {f"{name}.bias": np.ones(shape[:1], np.float32) for name, shape in shapes.items()}
    path = tmp_path / "checkpoint_p0" / "best_1.pth"
    path.parent.mkdir()
    path.write_bytes(torch_writer.dumps({"model": model}))
    assumed = {
        f"no config.json says {x} is assumed" for x in ("nonlinearity: relu", "obs_scale: 255")
    }
    notes = formats.convert(path, game="breakout").notes
    assert assumed < {*notes} and not any("damaged" in note for note in notes)
    (tmp_path / "config.json").write_text(text)
    notes = formats.convert(path, game="breakout").notes
    (damaged,) = (x for x in notes if x.startswith("its config.json is damaged ("))
    assert assumed < {*notes} and damaged.endswith("); download it again") and "\n" not in damaged


def test_normalised_input_and_layers_are_refused(tmp_path):
    """A BatchNorm that learnt was seen, and its means are not in the file."""
    path, _ = purejaxql(tmp_path)
    tensors = safetensors.numpy.load_file(path)
    seen = tensors | {"BatchNorm_0,bias": np.full(4, 0.1, np.float32)}
    inside = {name.replace("LayerNorm", "BatchNorm"): array for name, array in tensors.items()}
    for changed in (seen, inside):
        safetensors.numpy.save_file(changed, path)
        with pytest.raises(ValueError, match=r"batch normalisation .*BatchNorm_.* is not supp"):
            formats.load(path)
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match="needs no spec; none describes LayerNorm"):
        template.write(path)
    wrong = tensors | {"CNN_0,LayerNorm_3,scale": np.ones(HIDDEN + 1, np.float32)}
    safetensors.numpy.save_file(wrong, path)
    with pytest.raises(ValueError, match=r"CNN_0.LayerNorm_3.scale has shape \(7,\), expected"):
        formats.load(path)


@pytest.mark.parametrize(
    ("norm", "lacks"),
    [
        (True, "Dense_0,bias"),
        (True, "CNN_0,Conv_1,kernel"),
        (True, "CNN_0,LayerNorm_3,bias"),
        (False, "Dense_0,bias"),
    ],
)
def test_a_near_miss_is_told_before_what_its_program_normalises_by(norm, lacks, tmp_path):
    path, _ = purejaxql(tmp_path, norm)
    tensors = safetensors.numpy.load_file(path)
    del tensors[lacks]
    safetensors.numpy.save_file(tensors, path)
    name = "PureJaxQL" if norm else "PureJaxQL without LayerNorm"
    with pytest.raises(ValueError, match=f"looks like {name}, but lacks {lacks.replace(',', '.')}"):
        formats.load(path)
    more = tensors | {"CNN_0,BatchNorm_0,scale": np.ones(4, np.float32)}
    safetensors.numpy.save_file(more, path)
    with pytest.raises(ValueError, match=r"batch normalisation \(CNN_0.BatchNorm_0.scale\) is not"):
        formats.load(path)


def test_a_template_says_what_its_program_leaves_aside(tmp_path):
    """The BatchNorm of PureJaxQL's input that nothing comes of."""
    path, _ = purejaxql_plain(tmp_path)
    (tmp_path / "x.toml").write_text(template.write(path))
    assert 'aside = ["BatchNorm_0."] ' in (tmp_path / "x.toml").read_text()
    said, known = formats.load(path, spec=tmp_path / "x.toml"), formats.load(path)
    assert said.network == known.network
    jax.tree.map(np.testing.assert_array_equal, said.params, known.params)


def test_what_normalises_is_in_the_layer_table(tmp_path):
    conversion = formats.convert(purejaxql(tmp_path)[0])
    network, rows = conversion.expert.network, conversion.rows()
    assert network.layer_norm and [row[0] for row in rows][-4:] == [
        "conv_norm1",
        "conv_norm2",
        "conv_norm3",
        "fc_norm1",
    ]
    assert rows[-1][1:4] == ("CNN_0.LayerNorm_3", "norm", f"{HIDDEN} -> {HIDDEN}")
    assert sum(row[-1] for row in rows) == networks.count(conversion.expert.params)
    assert "LayerNorm before every activation" in conversion.notes


@pytest.mark.parametrize(
    ("count", "args", "atoms"),
    [
        (51, None, None),
        (51, {"env_id": "BreakoutNoFrameskip-v4"}, None),
        (51, {"v_min": -3.0, "exp_name": "c51"}, None),
        (21, {"n_atoms": 21, "v_min": -3.0, "v_max": 8.0}, networks.Atoms(-3.0, 8.0, 21)),
    ],
)
def test_returns_that_are_assumed_are_told(count, args, atoms, tmp_path):
    params, _ = answered(Body(outputs=4 * count))
    tree = {"model_weights": params} | ({} if args is None else {"args": args})
    path = tmp_path / "breakout_c51.cleanrl_model"
    path.write_bytes(flax.serialization.to_bytes(tree))
    found = formats.convert(path)
    assert found.convention == "CleanRL C51, Flax" and found.expert.game == "breakout"
    assert found.expert.network.atoms == (atoms or networks.Atoms(-10.0, 10.0, 51))
    told = "the file does not hold the returns of its atoms: 51 of -10..10 are assumed"
    assert (told in found.notes) == (atoms is None)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("atoms", lambda x: x**3, "atoms holds returns that are not evenly spaced"),
        ("network.9.bias", lambda x: x[:-1], "expected (84,)"),
        ("network.9", lambda x: x[:-1], "83 outputs, not 21 atoms for each action"),
    ],
)
def test_heads_that_do_not_fit_their_atoms(name, change, message, tmp_path):
    draw = np.random.default_rng(0)
    shapes = {"network.0": (2, 4, 8, 8), "network.2": (2, 2, 4, 4), "network.4": (2, 2, 3, 3)}
    shapes |= {"network.7": (3, 98), "network.9": (84, 3)}
    tensors = {"atoms": np.linspace(-3, 3, 21, dtype=np.float32)}
    for key, shape in shapes.items():
        tensors[f"{key}.weight"] = draw.normal(size=shape).astype(np.float32)
        tensors[f"{key}.bias"] = draw.normal(size=shape[:1]).astype(np.float32)
    path = tmp_path / "breakout.pth"
    torch_writer.save(tensors, path)
    assert formats.load(path).network.atoms == networks.Atoms(-3, 3, 21)
    for own in [key for key in tensors if key == name or key.startswith(f"{name}.")]:
        tensors[own] = np.ascontiguousarray(change(tensors[own]))
    path.write_bytes(torch_writer.dumps(tensors))
    with pytest.raises(ValueError) as caught:
        formats.load(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_file_shows_the_networks_tensors(tmp_path):
    layers = {f"odd.{i}.weight": np.ones((2, 2), np.float32) for i in range(3)}
    moments = {str(i): {"exp_avg": layers["odd.0.weight"]} for i in range(9)}
    flat_moments = {f"avg{i}": np.ones((2, 2), np.float32) for i in range(9)}
    tree = {"optimizer": flat_moments, "optim": {"state": moments}, "net": layers}
    torch_writer.save(tree, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"x.pth \(net\): .* found odd.0.weight 2x2, odd.1"):
        formats.load(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"value": layers.named("v")}, "value=v beside head='linear'.*'actor_critic' or 'dueling'"),
        ({"value_hidden": (layers.named("h"),)}, "value=h beside head='linear'"),
        ({"head": "dueling"}, "head='dueling' and no value; expected the layer of the value"),
    ],
)
def test_a_plan_has_a_value_where_its_head_has_one(fields, message):
    """Another was written as an expert that could not be read back."""
    with pytest.raises(ValueError, match=message) as error:
        layers.Plan(action=layers.named("a"), **fields)
    assert "\n" not in str(error.value)
