"""Exports in the hands of the reference's own programs, rebuilt here from what is known of them.

They build a network by a merged file's `architecture` alone, and an expert's by `dueling` in the
`training_config.json` beside its file; layers have fixed names and sizes.
"""

import datetime
import json
import pathlib

import jax
import numpy as np
import pytest

from jaxdistill import networks, tasks
from jaxdistill.experts import export, formats
from jaxdistill.experts.expert import Expert
from jaxdistill.tasks import atari
from jaxdistill.tasks.views import View

torch = pytest.importorskip("torch")
nn = torch.nn
GAMES = {"breakout", "pong", "freeway"}


class CNNDQN(nn.Module):
    """The plain network: three convolutions, one dense layer, one output per ALE action."""

    def __init__(self, actions):
        super().__init__()
        self.conv1 = nn.Conv2d(4, 32, 8, stride=4)
        self.conv2 = nn.Conv2d(32, 64, 4, stride=2)
        self.conv3 = nn.Conv2d(64, 64, 3)
        self.head(actions)

    def head(self, actions):
        self.fc1, self.fc2 = nn.Linear(3136, 512), nn.Linear(512, actions)

    def forward(self, pixels):
        x = pixels / 255
        for convolution in (self.conv1, self.conv2, self.conv3):
            x = torch.relu(convolution(x))
        return self.q(torch.flatten(x, 1))

    def q(self, features):
        return self.fc2(torch.relu(self.fc1(features)))


class DuelingCNNDQN(CNNDQN):
    """The same with a stream for the value and one for the advantages."""

    def head(self, actions):
        self.fc_value, self.value = nn.Linear(3136, 512), nn.Linear(512, 1)
        self.fc_adv, self.advantage = nn.Linear(3136, 512), nn.Linear(512, actions)

    def q(self, features):
        value = self.value(torch.relu(self.fc_value(features)))
        advantage = self.advantage(torch.relu(self.fc_adv(features)))
        return value + advantage - advantage.mean(dim=1, keepdim=True)


def read_merged(path):
    """The network and what the evaluation program prints beside it."""
    file = torch.load(path, map_location="cpu", weights_only=True)
    network = {cls.__name__: cls for cls in (CNNDQN, DuelingCNNDQN)}[file["architecture"]](
        file["action_dim"]
    )
    network.load_state_dict(file["state_dict"])
    assert set(file["games"]) <= GAMES
    variants = {game: file["actual_variants"][game] for game in file["games"]}
    scores = {game: float(file["final_scores"][game]) for game in file["games"]}
    return network, variants, scores, file


def read_expert(path):
    """The network of an expert, going on in training."""
    config = json.loads(pathlib.Path(path).with_name("training_config.json").read_text())
    network, target = (
        (DuelingCNNDQN if config["dueling"] else CNNDQN)(atari.NUM_ACTIONS) for _ in range(2)
    )
    file = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(file["policy_net_state_dict"])
    target.load_state_dict(file["target_net_state_dict"])
    optimiser = torch.optim.Adam(network.parameters(), lr=1.0)
    optimiser.load_state_dict(file["optimizer_state_dict"])
    assert isinstance(file["epsilon"], float) and isinstance(file["training_step"], int)
    assert file["use_dueling"] is config["dueling"]
    assert {type(file[name]) for name in ("use_double", "use_priority")} == {bool}
    return network, target, optimiser


@pytest.fixture(scope="module")
def frames(breakout_play):
    """What Breakout and Pong show in the middle of random games, `(16, 4, 84, 84)`."""
    pool = atari.AtariPool(tasks.get("pong"), 2, seed=5)
    generator = np.random.default_rng(0)
    seen = [pool.step(generator.choice(pool.task.actions, 2)).observations for _ in range(60)]
    shown = [*breakout_play.observations[100:500:100, :2], *seen[20::10]]
    return np.concatenate(shown)


def student(name):
    network = networks.create(name)
    shapes = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), (4, 84, 84)))
    generator = np.random.default_rng(0)
    params = jax.tree.map(lambda x: generator.normal(0, 0.03, x.shape).astype(np.float32), shapes)
    return network, params


def same_outputs(theirs, network, params, frames):
    with torch.inference_mode():
        q = theirs(torch.from_numpy(frames).float()).numpy()
    ours = np.asarray(networks.forward(network, params, frames))
    assert np.ptp(ours, axis=0).max() > 0.01, "frames are told apart"
    np.testing.assert_allclose(ours, q, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "cls", "variant"),
    [("dueling", DuelingCNNDQN, "ddqn_duel"), ("nature", CNNDQN, "ddqn")],
)
def test_the_evaluation_program_takes_a_merged_student(name, cls, variant, frames, tmp_path):
    network, params = student(name)
    export.export(
        params,
        network,
        tmp_path / "merged.pth",
        views={"ALE/Pong-v5": View(), "breakout": View()},
        merge_config={"method": "distillation"},
        final_scores={"pong": 15.1, "ALE/Breakout-v5": 98.1},
        created="2026-01-02T03:04:05+00:00",
    )
    theirs, variants, scores, file = read_merged(tmp_path / "merged.pth")
    assert type(theirs) is cls and sum(p.numel() for p in theirs.parameters()) == networks.count(
        params
    )
    assert variants == {"pong": variant, "breakout": variant} and file["variant"] == variant
    assert scores == {"pong": 15.1, "breakout": 98.1}
    assert file["merge_config"] == {"method": "distillation"}
    assert datetime.datetime.fromisoformat(file["created"]).tzinfo
    same_outputs(theirs, network, params, frames)


@pytest.mark.parametrize("name", ["dueling", "nature"])
def test_the_training_program_takes_an_expert(name, frames, tmp_path):
    network, params = student(name)
    expert = Expert("x", network, params, "q", tuple(range(18)), game="pong")
    export.export_expert(expert, tmp_path / "expert.pth")
    assert export.write_training_config(tmp_path / "expert.pth", network) is None
    theirs, target, optimiser = read_expert(tmp_path / "expert.pth")
    assert isinstance(theirs, DuelingCNNDQN) is (name == "dueling")
    for net in (theirs, target):
        same_outputs(net, network, params, frames)
    # The optimiser is whole: it makes an update.
    theirs(torch.zeros(1, 4, 84, 84)).sum().backward()
    optimiser.step()
    assert optimiser.param_groups[0]["lr"] == 1e-4


@pytest.mark.parametrize(
    ("architecture", "names"),
    [
        ("dueling", ["Pong-v5", "Breakout-v5"]),
        ("DuelingCNNDQN", ["pong", "breakout"]),
    ],
)
def test_both_spellings_are_read(architecture, names, tmp_path):
    """The first is what this project wrote at first, without anything of its own beside."""
    network, params = student("dueling_small")
    file = {
        "state_dict": export.to_state_dict(params, network, View()),
        "architecture": architecture,
        "games": names,
    }
    export.save(file, tmp_path / "old.pth")
    found = formats.convert(tmp_path / "old.pth", game="pong")
    assert found.expert.network == network and found.expert.view == View()
    assert found.convention == "reference merged, dueling"
    assert f"a student of several games: {', '.join(names)}" in found.notes
