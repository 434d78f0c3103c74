"""Agents that Stable-Baselines3 trained in an environment of Gymnasium, as that task's experts."""

import warnings

import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.experts import formats

STATES = np.random.default_rng(0).normal(size=(16, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def sb3():
    pytest.importorskip("gymnasium")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it imports
        return pytest.importorskip("stable_baselines3")


@pytest.fixture
def pole(own_tasks):
    pytest.importorskip("gymnasium")
    task = tasks.gymnasium_task("pole/usual", "CartPole-v1")
    tasks.add(task)
    return task


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "DQN"])
def test_an_agent_answers_as_in_its_own_program(sb3, pole, algorithm, tmp_path):
    import torch

    model = getattr(sb3, algorithm)("MlpPolicy", "CartPole-v1", seed=1, device="cpu")
    for name, weights in model.policy.named_parameters():
        if name.startswith(("action_net", "q_net.q_net.4")):  # as they begin all is alike
            torch.nn.init.normal_(weights)
    model.save(tmp_path / "agent.zip")
    expert = formats.load(tmp_path / "agent.zip", game="pole/usual")
    assert (expert.game, expert.actions, expert.view) == ("pole/usual", (0, 1), pole.suite.view)
    assert expert.outputs == ("q" if algorithm == "DQN" else "logits")
    ours = np.asarray(expert.suite_outputs(STATES[:, None]))
    with torch.no_grad():
        seen = torch.from_numpy(STATES)
        if algorithm == "DQN":
            theirs = model.q_net(seen).numpy()
        else:  # normalised there
            theirs = model.policy.get_distribution(seen).distribution.logits.numpy()
            ours = ours - np.log(np.exp(ours).sum(axis=1, keepdims=True))
    assert np.ptp(theirs) > 1
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_agent_of_another_environment_is_refused(sb3, pole, tmp_path):
    sb3.PPO("MlpPolicy", "Acrobot-v1", device="cpu").save(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match=r"agent.zip: .*6 numbers .* does not play pole/usual"):
        formats.load(tmp_path / "agent.zip", game="pole/usual")
