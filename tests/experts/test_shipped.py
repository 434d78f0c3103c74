"""The experts in the repository: readable by everyone, and what their cards say they are."""

import json
import pathlib

import jax
import numpy as np
import pytest

from configs import quickstart
from jaxdistill import meshes, networks, tasks
from jaxdistill import settings as settings_lib
from jaxdistill.experts import formats
from jaxdistill.play import lessons
from jaxdistill.run import common, distill_settings

EXPERTS = pathlib.Path(__file__).parents[2] / "experts"
NAMES = ("breakout", "pong", "freeway")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_expert_is_a_plain_dueling_network_with_a_card(name):
    expert = formats.load(EXPERTS / f"{name}.pth")
    assert expert.game == name and expert.outputs == "q"
    assert expert.network == networks.create("dueling")
    assert networks.count(expert.params) == 3_300_019
    assert (EXPERTS / f"{name}.pth").stat().st_size < 7_000_000
    # The reference's programs look for this beside an expert's file.
    assert json.loads((EXPERTS / "training_config.json").read_text()) == {"dueling": True}
    card = json.loads((EXPERTS / f"{name}.json").read_text())
    assert card["game"] == name
    for scores in card["scores"]:
        low, high = scores["interval"]
        assert low <= scores["mean"] <= high and scores["episodes"] == 100
    assert {scores["epsilon"] for scores in card["scores"]} == {0.05, 0.01}


@pytest.mark.parametrize("name", NAMES)
def test_pytorch_reads_a_shipped_expert_and_gives_the_same_outputs(name, torch):
    checkpoint = torch.load(EXPERTS / f"{name}.pth", weights_only=True)
    weights = {k: v.float() for k, v in checkpoint["policy_net_state_dict"].items()}
    stacks = np.random.default_rng(0).integers(0, 256, (4, 4, 84, 84)).astype(np.uint8)
    x = torch.from_numpy(stacks).float() / 255
    for layer, stride in (("conv1", 4), ("conv2", 2), ("conv3", 1)):
        kernel, bias = weights[f"{layer}.weight"], weights[f"{layer}.bias"]
        x = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, stride))
    x = x.flatten(1)

    def stream(hidden, out):
        hidden = torch.relu(x @ weights[f"{hidden}.weight"].T + weights[f"{hidden}.bias"])
        return hidden @ weights[f"{out}.weight"].T + weights[f"{out}.bias"]

    advantage = stream("fc_adv", "advantage")
    q = stream("fc_value", "value") + advantage - advantage.mean(1, keepdim=True)
    expert = formats.load(EXPERTS / f"{name}.pth")
    outputs = jax.device_get(networks.forward(expert.network, expert.params, stacks))
    np.testing.assert_allclose(outputs, q.numpy(), atol=1e-4, rtol=1e-4)
    # Its choices use the whole range of what the game offers, not one action always.
    assert tasks.get(name).mask[np.asarray(expert.greedy(stacks))].all()


def test_the_quickstart_plays_no_game_of_experts_or_random_play(tmp_path):
    """Games that came for other files, or for another protocol, would be played anew in silence."""
    settings = settings_lib.build(distill_settings.Settings, quickstart.get_config().to_dict())
    known = common.records_of(settings, tmp_path, None)
    run = common.Run(settings, meshes.create(), known=known)
    evaluate, protocol = settings.evaluate, run.protocol(lessons.REPORT)
    most = {"breakout": evaluate.report_episodes, "pong": 16, "freeway": 16}
    for lesson in run.lessons:
        expert = known.find(lesson, protocol, run.player("expert"))
        assert len(expert.scores) >= evaluate.expert_ratio * most[lesson.name]
        assert known.find(lesson, protocol, run.player("random")) is not None
