"""Writes the small experts that are converted in tests where PyTorch is not installed.

Run it from anywhere, with PyTorch installed: ``python tests/golden/make_experts.py``. It writes,
beside itself, networks of a few kB made and saved by PyTorch, and experts.npz with what PyTorch
computes with them. `observations` says what they were shown, so that no pixels have to be kept.
"""

import io
import json
import pathlib
import zipfile

import numpy as np
import torch
from torch import nn

HERE = pathlib.Path(__file__).parent


def observations(batch: int, *shape: int) -> np.ndarray:
    """Pixels that look random and are the same everywhere: `(batch, *shape)` uint8."""
    count = batch * int(np.prod(shape))
    hashed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (hashed >> np.uint64(56)).astype(np.uint8).reshape(batch, *shape)


class Dueling(nn.Module):
    """ELU, a padded convolution, and pixels of 0..255 taken as they are."""

    def __init__(self):
        super().__init__()
        self.torso = nn.Sequential(
            nn.Conv2d(4, 3, 8, stride=6),
            nn.ELU(),
            nn.Conv2d(3, 4, 3, stride=2, padding=1),
            nn.ELU(),
        )
        self.advantage = nn.Sequential(nn.Linear(4 * 7 * 7, 5), nn.ELU(), nn.Linear(5, 4))
        self.value = nn.Sequential(nn.Linear(4 * 7 * 7, 3), nn.ELU(), nn.Linear(3, 1))

    def forward(self, pixels):
        x = self.torso(pixels.float()).flatten(1)
        advantage = self.advantage(x)
        return self.value(x) + advantage - advantage.mean(1, keepdim=True)


class ActorCritic(nn.Module):
    """A torso shared by actor and critic, a layer without bias, pixels over 255."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 6, stride=4, bias=False)
        self.fc = nn.Linear(3 * 10 * 8, 6)
        self.actor = nn.Linear(6, 4)
        self.critic = nn.Linear(6, 1)

    def forward(self, pixels):
        x = torch.relu(self.conv(pixels.float() / 255)).flatten(1)
        x = torch.relu(self.fc(x))
        return torch.cat([self.actor(x), self.critic(x)], 1)


class Mlp(nn.Module):
    """Named and shaped as Stable-Baselines3 does for PPO on a vector of four numbers."""

    def __init__(self):
        super().__init__()
        self.mlp_extractor = nn.ModuleDict(
            {
                "policy_net": nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh()),
                "value_net": nn.Sequential(nn.Linear(4, 6), nn.Tanh()),
            }
        )
        self.action_net = nn.Linear(5, 2)
        self.value_net = nn.Linear(6, 1)

    def forward(self, vectors):
        logits = self.action_net(self.mlp_extractor["policy_net"](vectors))
        value = self.value_net(self.mlp_extractor["value_net"](vectors))
        return torch.cat([logits, value], 1)


def main() -> None:
    torch.manual_seed(0)
    outputs = {}
    with torch.no_grad():
        dueling = Dueling()
        dueling.torso[0].weight /= 64
        outputs["dueling"] = dueling(torch.from_numpy(observations(3, 4, 84, 84)))
        checkpoint = {"net": dueling.state_dict(), "reward": np.float64(3.5)}
        torch.save(checkpoint, HERE / "expert_dueling.pth")

        actor_critic = ActorCritic()
        shown = torch.from_numpy(observations(3, 2, 42, 34))
        outputs["actor_critic"] = actor_critic(shown)
        torch.save(
            actor_critic.state_dict(),
            HERE / "expert_actor_critic.pkl",
            _use_new_zipfile_serialization=False,
        )

        mlp = Mlp()
        vectors = torch.from_numpy(observations(3, 4).astype(np.float32) / 64 - 2)
        outputs["mlp"] = mlp(vectors)
        weights = io.BytesIO()
        torch.save(mlp.state_dict(), weights)
    data = {
        "policy_kwargs": {},
        "observation_space": {":type:": "<class 'gymnasium.spaces.box.Box'>", "_shape": [4]},
        "action_space": {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": "2"},
        "n_steps": 2048,
        "n_epochs": 10,
    }
    with zipfile.ZipFile(HERE / "expert_ppo.zip", "w") as archive:
        archive.writestr("data", json.dumps(data, indent=4))
        archive.writestr("policy.pth", weights.getvalue())
        archive.writestr("_stable_baselines3_version", "2.3.2")
    np.savez(HERE / "experts.npz", **{name: value.numpy() for name, value in outputs.items()})


if __name__ == "__main__":
    main()
