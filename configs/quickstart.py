"""The three shipped experts in PyTorch files -> one student: what `make quickstart` runs.

    python launch/distill.py --config=configs/quickstart.py --workdir=runs/quickstart

The student begins as a copy of the Breakout expert, the hardest to copy, and learns the others'
games beside it, while the experts go on driving at least half of the environments. All takes 15
minutes on 2 busy cores. `--config.evaluate.report_episodes=32` is the quicker table, of wider
intervals, and `--config.learn.rounds=200` the longer run.
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
    config.learn.rounds = 100
    config.learn.warm_start = "breakout"
    config.learn.clip_norm = 0.5  # now and then a step had undone hundreds
    config.learn.batch_per_game = 64
    config.evaluate.every_rounds = 50
    config.evaluate.select_episodes = 24
    return config
