"""The usual way: PyTorch, gymnasium, one environment, one observation at a time.

    python benchmarks/_reference.py DIRECTORY STEPS EPOCHS EVERY GAME=FILE...

leaves the student of every so many epochs in DIRECTORY, and when it was ready in `seconds.json`.

An independent implementation, from its published description, of the reference merge that this
project replaces. Per game the expert plays 20,000 steps (epsilon 0.05 over valid actions) and its
Q-values are cached; one dueling student, begun as a copy of the first expert, minimises the mean
squared error to them over valid actions, averaged per game and then over games (Adam 3e-4 with L2
1e-4, batch 256, gradient norm at most 10, cosine to a tenth, 60 epochs).
"""

from __future__ import annotations

import json
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import ale_py
import gymnasium
import numpy as np
import torch
from torch import nn

from jaxdistill import tasks
from jaxdistill.tasks.atari import Game

gymnasium.register_envs(ale_py)


class Dueling(nn.Module):
    """The reference's network, under the names of its checkpoints; 3,300,019 parameters."""

    def __init__(self, convs=((32, 8, 4), (64, 4, 2), (64, 3, 1)), width=512, actions=18):
        super().__init__()
        channels, side = 4, 84
        for i, (features, kernel, stride) in enumerate(convs, 1):
            setattr(self, f"conv{i}", nn.Conv2d(channels, features, kernel, stride))
            channels, side = features, (side - kernel) // stride + 1
        self.fc_value = nn.Linear(channels * side**2, width)
        self.value = nn.Linear(width, 1)
        self.fc_adv = nn.Linear(channels * side**2, width)
        self.advantage = nn.Linear(width, actions)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Q-values `(B, A)` of `(B, 4, 84, 84)` bytes."""
        x = pixels.float().mul_(1 / 255).contiguous(memory_format=torch.channels_last)
        x = self.conv1(x).relu()
        x = self.conv2(x).relu()
        x = self.conv3(x).relu().flatten(1)
        advantage = self.advantage(self.fc_adv(x).relu())
        return advantage - advantage.mean(1, keepdim=True) + self.value(self.fc_value(x).relu())


def load(path: str) -> Dueling:
    """An expert from a file of the reference's convention."""
    weights = torch.load(path, weights_only=True)["policy_net_state_dict"]
    network = Dueling().to(memory_format=torch.channels_last)
    network.load_state_dict({name: value.float() for name, value in weights.items()})
    return network.eval()


def make_env(game: Game) -> gymnasium.Env:
    """One environment as the reference makes it."""
    env = gymnasium.make(
        f"ALE/{game.env_id}",
        frameskip=1,
        repeat_action_probability=0.0,
        full_action_space=True,
        max_num_frames_per_episode=108_000,
    )
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max=30, frame_skip=4, screen_size=84)
    return gymnasium.wrappers.FrameStackObservation(env, 4)


def play(
    game: Game, network: nn.Module, epsilon: float, seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, float | None]]:
    """For ever, one step at a time: what was seen, its Q-values, and the score of a game's end."""
    generator = np.random.default_rng(seed)
    env, valid = make_env(game), np.asarray(game.actions)
    invalid = torch.ones(18, dtype=torch.bool)
    invalid[valid] = False
    observation, _ = env.reset(seed=seed)
    score = 0.0
    while True:
        seen = np.asarray(observation)
        with torch.inference_mode():
            q = network(torch.from_numpy(seen)[None])[0]
        if generator.random() < epsilon:
            action = int(generator.choice(valid))
        else:
            action = int(q.masked_fill(invalid, -torch.inf).argmax())
        observation, reward, terminated, truncated, _ = env.step(action)
        score += float(reward)
        over = terminated or truncated
        yield seen, q.numpy(), score if over else None
        if over:
            observation, _ = env.reset()
            score = 0.0


def merge(
    games: Sequence[Game],
    experts: Sequence[nn.Module],
    *,
    steps: int = 20_000,
    epochs: int = 60,
    after_epoch: Callable[[int, nn.Module], None] | None = None,
) -> nn.Module:
    """The reference's student; `after_epoch(done, student)` is called after each."""
    states, labels, owners = [], [], []
    for index, (game, expert) in enumerate(zip(games, experts, strict=True)):
        for count, (seen, q, _) in enumerate(play(game, expert, epsilon=0.05, seed=index), 1):
            states.append(seen)
            labels.append(q)
            owners.append(index)
            if count == steps:
                break
    x, y = torch.from_numpy(np.stack(states)), torch.from_numpy(np.stack(labels))
    owner = torch.tensor(owners)
    masks = torch.zeros(len(games), 18)
    for index, game in enumerate(games):
        masks[index, list(game.actions)] = 1
    student = Dueling().to(memory_format=torch.channels_last)
    student.load_state_dict(experts[0].state_dict())
    optimiser = torch.optim.Adam(student.parameters(), lr=3e-4, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs, eta_min=3e-5)
    for epoch in range(epochs):
        for rows in torch.randperm(len(x)).split(256):
            mask = masks[owner[rows]]
            error = ((student(x[rows]) - y[rows]).square() * mask).sum(1) / mask.sum(1)
            present = [error[owner[rows] == g] for g in range(len(games))]
            loss = torch.stack([e.mean() for e in present if len(e)]).mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(student.parameters(), 10.0)
            optimiser.step()
        schedule.step()
        if after_epoch:
            after_epoch(epoch + 1, student)
    return student


def main() -> None:
    # Adam with L2 shrinks what is never active to denormal numbers: without this the forward pass
    # is ten times slower from about 1,500 updates on. XLA's CPU backend flushes them anyway.
    torch.set_flush_denormal(True)
    directory, (steps, epochs, every) = pathlib.Path(sys.argv[1]), map(int, sys.argv[2:5])
    pairs = [argument.partition("=") for argument in sys.argv[5:]]
    start, ready = time.perf_counter(), []

    def after_epoch(done: int, student: nn.Module) -> None:
        if done % every == 0 or done == epochs:
            ready.append((done, time.perf_counter() - start))
            torch.save({"policy_net_state_dict": student.state_dict()}, directory / f"{done}.pth")

    games = [tasks.get(game) for game, _, _ in pairs]
    experts = [load(path) for _, _, path in pairs]
    merge(games, experts, steps=steps, epochs=epochs, after_epoch=after_epoch)
    (directory / "seconds.json").write_text(json.dumps(ready))


if __name__ == "__main__":
    main()
