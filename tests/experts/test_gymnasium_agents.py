"""Agents that Stable-Baselines3 trained in an environment of Gymnasium, as that task's experts."""

import functools
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


def walk(kind, render_mode=None):
    """An environment that shows one place after another, whatever is done."""
    import gymnasium
    from gymnasium import spaces

    class Walk(gymnasium.Env):
        action_space = spaces.Discrete(3)
        observation_space = {
            "Discrete": spaces.Discrete(7),
            "MultiDiscrete": spaces.MultiDiscrete([3, 4]),
            "MultiBinary": spaces.MultiBinary(7),
        }[kind]

        def reset(self, *, seed=None, options=None):
            self.observation_space.seed(seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, False, {}

    return Walk()


@pytest.mark.parametrize("kind", ["Discrete", "MultiDiscrete", "MultiBinary"])
def test_places_are_read_one_hot_as_the_task_shows_them(sb3, own_tasks, kind, tmp_path):
    import torch
    from gymnasium import spaces

    tasks.add(tasks.gymnasium_task("walk", functools.partial(walk, kind), max_steps=5))
    model = sb3.PPO("MlpPolicy", walk(kind), seed=1, device="cpu")
    torch.nn.init.normal_(model.policy.action_net.weight)
    model.save(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match=f"of kind {kind}, expected Box, or to be read as the"):
        formats.load(tmp_path / "agent.zip")
    expert = formats.load(tmp_path / "agent.zip", game="walk")
    space = walk(kind).observation_space
    seen = [space.sample() for _ in range(16)]
    rows = np.stack([spaces.flatten(space, each) for each in seen]).astype(np.float32)
    ours = np.asarray(expert.suite_outputs(rows[:, None]))
    with torch.no_grad():
        states, _ = model.policy.obs_to_tensor(np.asarray(seen))
        theirs = model.policy.get_distribution(states).distribution.logits.numpy()
    assert np.ptp(theirs) > 1
    ours = ours - np.log(np.exp(ours).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
