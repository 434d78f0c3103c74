"""The usual way to share a Q-network between landers: PyTorch, one environment, step by step.

    python benchmarks/_reference_lander.py DIRECTORY EPISODES EVERY SEED

leaves the network after every so many episodes in DIRECTORY, and the episodes, steps and seconds it
took in `progress.json`.

An independent implementation, from its published description, of a multi-task agent for three
variants of LunarLander (standard; windy, where each step a force uniform in [-20, 20] pushes the
centre of mass, on the ground too; heavy, at gravity -12.5). One deep Q-network is told its task by
a learnt embedding of 8 numbers beside the 8 of the state: 16-256-128-4, 37,788 parameters. The
tasks take turns by episode, with step limits 1000, 400 and 800. One update of 64 rows a step from a
replay of 100,000 mixed transitions, after the first 2,000; Adam 5e-4, discount 0.99, squared error,
no clipping; the target is a copy, made every 10 episodes; epsilon falls from 1 to 0.01 by a factor
of 0.995 an episode. Targets bootstrap across step limits.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from gymnasium.envs.box2d.lunar_lander import LunarLander
from torch import nn

LIMITS = (1000, 400, 800)  # of standard, windy and heavy


class SharedQ(nn.Module):
    """The shared network, under the names of its checkpoints; 37,788 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.task_embedding = nn.Embedding(3, 8)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16, 256), nn.Linear(256, 128), nn.Linear(128, 4)
        nn.init.normal_(self.task_embedding.weight, std=0.1)
        for layer in (self.fc1, self.fc2, self.fc3):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(self, states: torch.Tensor, tasks: torch.Tensor) -> torch.Tensor:
        """Q-values `(B, 4)` of states `(B, 8)` in tasks `(B,)`."""
        x = torch.cat([states, self.task_embedding(tasks)], 1)
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


def make_env(task: int) -> LunarLander:
    """The environment of a task: 0 standard, 1 windy, 2 heavy."""
    env = LunarLander()
    if task == 2:
        env.gravity = -12.5
    return env


def step(env: LunarLander, task: int, action: int, generator: np.random.Generator) -> tuple:
    """One step, with a gust before it where the task is windy."""
    if task == 1:
        env.lander.ApplyForceToCenter((generator.uniform(-20.0, 20.0), 0.0), True)
    return env.step(action)


class Replay:
    """The last 100,000 transitions of all tasks together."""

    def __init__(self, capacity: int = 100_000):
        self.rows = {
            "states": np.zeros((capacity, 8), np.float32),
            "actions": np.zeros(capacity, np.int64),
            "rewards": np.zeros(capacity, np.float32),
            "next_states": np.zeros((capacity, 8), np.float32),
            "ended": np.zeros(capacity, np.float32),
            "tasks": np.zeros(capacity, np.int64),
        }
        self.added = 0

    def add(self, *row: object) -> None:
        place = self.added % len(self.rows["actions"])
        for column, value in zip(self.rows.values(), row, strict=True):
            column[place] = value
        self.added += 1

    def sample(self, count: int, generator: np.random.Generator) -> list[torch.Tensor]:
        chosen = generator.integers(0, min(self.added, len(self.rows["actions"])), count)
        return [torch.from_numpy(column[chosen]) for column in self.rows.values()]


def train(
    episodes: int, seed: int, after_episode: Callable[[int, int, nn.Module], None]
) -> SharedQ:
    """The shared agent; `after_episode(done, steps, network)` is called after each."""
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    network, target = SharedQ(), SharedQ()
    target.load_state_dict(network.state_dict())
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-4)
    replay, epsilon, steps = Replay(), 1.0, 0
    envs = [make_env(task) for task in range(3)]
    for task, env in enumerate(envs):
        env.reset(seed=seed + task)
    for episode in range(episodes):
        task = episode % 3
        state, _ = envs[task].reset()
        told = torch.tensor([task])
        for _ in range(LIMITS[task]):
            if generator.random() < epsilon:
                action = int(generator.integers(4))
            else:
                with torch.inference_mode():
                    action = int(network(torch.from_numpy(state)[None], told).argmax())
            following, reward, ended, _, _ = step(envs[task], task, action, generator)
            replay.add(state, action, reward, following, ended, task)
            state, steps = following, steps + 1
            if replay.added >= 2000:
                _update(network, target, optimiser, replay.sample(64, generator))
            if ended:
                break
        if (episode + 1) % 10 == 0:
            target.load_state_dict(network.state_dict())
        epsilon = max(0.01, epsilon * 0.995)
        after_episode(episode + 1, steps, network)
    return network


def _update(
    network: SharedQ, target: SharedQ, optimiser: torch.optim.Optimizer, batch: list[torch.Tensor]
) -> None:
    states, actions, rewards, next_states, ended, tasks = batch
    with torch.no_grad():
        best = target(next_states, tasks).max(1).values
    wanted = rewards + 0.99 * best * (1 - ended)
    chosen = network(states, tasks).gather(1, actions[:, None])[:, 0]
    loss = (chosen - wanted).square().mean()
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()


def main() -> None:
    torch.set_num_threads(1)  # its products are small
    directory = pathlib.Path(sys.argv[1])
    episodes, every, seed = map(int, sys.argv[2:5])
    directory.mkdir(parents=True, exist_ok=True)
    start, progress = time.perf_counter(), []

    def after_episode(done: int, steps: int, network: nn.Module) -> None:
        if done % every == 0 or done == episodes:
            progress.append((done, steps, time.perf_counter() - start))
            torch.save({"q_network": network.state_dict()}, directory / f"{done}.pth")
            (directory / "progress.json").write_text(json.dumps(progress))

    train(episodes, seed, after_episode)


if __name__ == "__main__":
    main()
