"""Train a distilled student further by what it scores, in all games of its run at once.

    python launch/finetune.py --config=configs/finetune.py --workdir=runs/quickstart

The games are balanced as in a merge: each has equally many environments and rows. Name some of them
alone by `--config.games=pong,breakout`. The experts hold the student where rewards are rare, with a
weight that falls to 0. `--config=configs/finetune.py:alone` is by rewards alone, as a student that
was exported has to learn: its experts are not at hand.
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from jaxdistill.learn import train_settings


def get_config(beside: str = "experts") -> ConfigDict:
    """`beside` is "experts" or "alone"."""
    if beside not in ("experts", "alone"):
        raise ValueError(f"configs/finetune.py:{beside}: expected experts or alone")
    near = beside == "experts"
    settings = train_settings.Settings(
        games=("pong",),
        algorithm="ppo",
        student="the run in --workdir of launch/finetune.py",
        num_envs=16,
        rollout_steps=128,
        total_steps=102_400 if near else 204_800,
        epochs=3,
        batch_per_game=256,
        optimiser="adamw",
        learning_rate=1e-4,
        clip_norm=0.5,
        policy_clip=0.1,
        trace=0.95,
        entropy_weight=0.001,
        critic_iterations=5,
        expert_weight=4.0 if near else 0.0,
        expert_fraction=1.0 if near else 0.5,
        eval_every=25_600 if near else 51_200,
        eval_episodes=32,
        final_episodes=100,
    )
    config = ConfigDict(dataclasses.asdict(settings) | {"games": ""})  # the run's
    config.max_steps = config_dict.placeholder(int)  # the task's own
    config.opening_steps = config_dict.placeholder(int)
    config.reward_limit = config_dict.placeholder(float)  # the suite's
    config.eval_epsilon = config_dict.placeholder(float)
    return config
