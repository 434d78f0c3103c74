"""The three shipped experts in PyTorch files -> one student: what `make quickstart` runs.

    python launch/distill.py --config=configs/quickstart.py --workdir=runs/quickstart

The student begins as a copy of the Breakout expert, the hardest to copy, and learns the others'
games beside it. 40 games per score keep the whole under 15 minutes on 2 cores: from a fresh clone,
installation included, 11.6 minutes. Epsilon 0.05:

    game       random  expert             student            retention
    breakout      1.7  38.4 [31.2, 47.5]  29.6 [26.2, 33.1]   76% [59%, 98%]
    pong        -20.2  15.5 [14.3, 16.5]  16.1 [15.2, 17.0]  102% [98%, 106%]
    freeway       0.0  21.9 [21.3, 22.4]  21.9 [21.4, 22.4]  100% [97%, 103%]
"""

from ml_collections import ConfigDict

from configs import merge

GAMES = ("breakout", "pong", "freeway")


def get_config() -> ConfigDict:
    config = merge.get_config(",".join(f"{game}=experts/{game}.pth" for game in GAMES))
    config.collect.initial_steps = 4096
    config.collect.steps_per_round = 512
    config.collect.expert_share_rounds = 100
    config.collect.final_expert_share = 0.5  # far from an expert's own play its labels are no guide
    config.learn.loss = "q_values"  # what the warm start knows already stays right
    config.learn.warm_start = "breakout"
    config.learn.learning_rate = 1e-3
    config.learn.ema_decay = 0.998
    config.learn.rounds = 100
    config.learn.updates_per_round = 32
    config.learn.batch_per_game = 64
    config.evaluate.every_rounds = 50
    config.evaluate.select_episodes = 16
    config.evaluate.report_episodes = 30
    return config
