"""Agents that Stable-Baselines3 trained in an environment of Gymnasium, as that task's experts."""

import dataclasses
import functools
import warnings
from typing import ClassVar

import jax
import numpy as np
import pytest

from jaxdistill import networks, tasks
from jaxdistill.experts import export, formats
from jaxdistill.experts.expert import Expert
from jaxdistill.tasks.atari import USUAL
from jaxdistill.tasks.task import Suite, Task
from jaxdistill.tasks.views import View

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


def test_no_file_of_another_suite_is_written_in_its_place(pole, tmp_path):
    """Four actions on eight numbers would else be a lander's."""
    network, path = networks.create("mlp", num_outputs=2), tmp_path / "x.pth"
    params, view = networks.init(network, jax.random.key(0), (1, 4)), pole.suite.view
    with pytest.raises(
        ValueError, match=r"files for pole \(4 numbers, .*--format=module, which .* onnx or"
    ):
        export.export(params, network, path, views={"pole/usual": view})
    expert = Expert("a pole", network, params, "q", (0, 1), view=view, game="pole/usual")
    with pytest.raises(
        ValueError, match=r"a pole: plays pole/usual, for .*--format=module, .* onnx or stab"
    ):
        export.export_expert(expert, path)
    assert not path.exists()


@dataclasses.dataclass(frozen=True)
class Pictures(Task):
    """What is seen in pixels and is no game of Atari."""

    suite: ClassVar[Suite] = Suite(
        "pictures",
        ("LEFT", "RIGHT"),
        View(height=48, width=48, stack=2),
        "uint8",
        frames_per_second=10,
        opening_steps=0,
    )
    name: str = "pictures/a"
    actions: tuple[int, ...] = (0, 1)
    max_steps: int = 5

    def pool(self, num_envs, *, seed, view=None, max_steps=None, threads=None):
        raise NotImplementedError

    def camera(self, *, seed, max_steps=None):
        raise NotImplementedError


def test_an_agent_of_pictures_is_played_by_no_rules_of_atari(sb3, own_tasks, tmp_path):
    import gymnasium

    class Seen(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (2, 48, 48), np.uint8)
        action_space = gymnasium.spaces.Discrete(2)

    sb3.DQN("CnnPolicy", Seen(), buffer_size=1, device="cpu").save(tmp_path / "agent.zip")
    tasks.add(Pictures())
    expert = formats.load(tmp_path / "agent.zip", game="pictures/a")
    assert (expert.view, expert.rules) == (Pictures.suite.view, USUAL)
