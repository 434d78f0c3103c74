"""Experts of three skills of a fight, merged into one fighter.

    make skills    # all of it: the experts, their merge, and the fighter trained further

An expert, seen and played in its own way (movement, aiming, clicking):

    python launch/train_expert.py --config=configs/skills.py:movement --workdir=runs/skills/movement

Their merge. `offline` learns from the skills' own environments alone, `document` is the published
recipe, mistakes and all:

    python launch/distill.py --config=configs/skills.py --workdir=runs/skills/merge

takes the experts that stand in runs/skills. Others, also Stable-Baselines3 archives, are named as
`--config=configs/skills.py:merge,movement=FILE,aiming=FILE,clicking=FILE`. A duel that ends when
one is dead: `--config.together=combat/duel_10hp`.

And the student of such a merge, trained further by what it scores in the duel; `scratch` is PPO
from nothing, in a quarter more steps than all of these together:

    python launch/finetune.py --config=configs/skills.py:finetune --workdir=runs/skills/merge
    python launch/train_expert.py --config=configs/skills.py:scratch --workdir=runs/skills/scratch
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from configs import merge
from jaxdistill.learn import train_settings

SKILLS = ("movement", "aiming", "clicking")
EXPERTS = ",".join(f"{name}=runs/skills/{name}/experts/combat/{name}" for name in SKILLS)
MERGES = ("merge", "offline", "document")


def get_config(variant: str = "merge") -> ConfigDict:
    kind, _, experts = variant.partition(",")
    if kind in MERGES:
        return _merge(kind, experts or EXPERTS)
    known = dict.fromkeys(SKILLS, _expert) | {"finetune": _finetune, "scratch": _scratch}
    if kind not in known or experts:
        raise ValueError(
            f"--config=configs/skills.py:{variant}: expected one of "
            f"{', '.join((*known, *MERGES))}, and experts after one of the last"
        )
    fields = dataclasses.asdict(known[kind](kind))
    # Games as a string, so that a flag can list others.
    config = ConfigDict(fields | {"games": ",".join(fields["games"])})
    config.max_steps = config_dict.placeholder(int)  # the task's own
    config.opening_steps = config_dict.placeholder(int)
    return config


def _ppo(game: str) -> train_settings.Settings:
    return train_settings.Settings(
        games=(game,),
        algorithm="ppo",
        network="mlp_actor_critic_small",
        num_envs=64,
        rollout_steps=64,
        total_steps=499_712,
        epochs=10,
        batch_per_game=512,
        optimiser="adamw",
        learning_rate=3e-4,
        clip_norm=0.5,
        reward_limit=0.0,
        trace=0.95,
        eval_every=125_000,
        eval_episodes=100,
        eval_epsilon=0.0,
        final_episodes=500,
    )


def _expert(skill: str) -> train_settings.Settings:
    settings = _ppo(f"combat/{skill}")
    if skill == "movement":
        return dataclasses.replace(
            settings,
            network="mlp_actor_critic",
            entropy_weight=0.005,
            total_steps=1_499_136,
            eval_every=250_000,
        )
    return settings


def _scratch(_: str) -> train_settings.Settings:
    return dataclasses.replace(_ppo("combat/duel"), total_steps=5_201_920)


def _finetune(_: str) -> train_settings.Settings:
    return dataclasses.replace(
        _ppo("combat/duel"),
        student="the run in --workdir of launch/finetune.py",
        network=train_settings.Settings.network,  # the student's is meant
        total_steps=401_408,
        critic_iterations=10,
        expert_weight=0.0,
        angle_deviation=3.0,
    )


def _merge(kind: str, experts: str) -> ConfigDict:
    config = merge.get_config(experts)
    config.together = "combat/duel"
    config.network = "skills"
    config.collect.num_envs = 128
    config.collect.initial_steps = 76_800
    config.collect.window_steps = 153_600
    if kind == "merge":
        config.collect.steps_per_round = 4096
        config.collect.expert_share_rounds = 5
        config.collect.final_expert_share = 0.0
    else:
        config.collect.steps_per_round = 0
    config.learn.rounds = 60
    config.learn.updates_per_round = 128
    config.learn.batch_per_game = 256
    config.learn.loss = "kl"
    config.learn.resample_unseen = True
    config.evaluate.every_rounds = 10
    config.evaluate.select_episodes = 128
    config.evaluate.report_episodes = 500
    config.evaluate.epsilon = 0.0
    if kind != "merge":
        config.learn.together = False
    if kind == "document":
        config.view = "document"
        config.learn.loss = "squared_all"
        config.learn.resample_unseen = False
    return config
