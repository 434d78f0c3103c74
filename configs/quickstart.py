"""The three shipped experts in PyTorch files -> one student: what `make quickstart` runs.

    python launch/distill.py --config=configs/quickstart.py --workdir=runs/quickstart

The student begins as a copy of the Pong expert, whose game forgives the least.
"""

from ml_collections import ConfigDict

from configs import merge

GAMES = ("breakout", "pong", "freeway")


def get_config() -> ConfigDict:
    config = merge.get_config(",".join(f"{game}=experts/{game}.pth" for game in GAMES))
    config.collect.initial_steps = 4096
    config.collect.expert_share_rounds = 10
    config.learn.warm_start = "pong"
    config.learn.rounds = 60
    config.learn.batch_per_game = 64
    config.learn.updates_per_round = 24
    config.evaluate.every_rounds = 30
    config.evaluate.select_episodes = 16
    config.evaluate.report_episodes = 40
    return config
