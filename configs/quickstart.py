"""The three shipped experts in PyTorch files -> one student: what `make quickstart` runs.

    python launch/distill.py --config=configs/quickstart.py --workdir=runs/quickstart

The student begins with the convolutions of the Breakout expert, the hardest game to copy, and soon
drives most of the environments itself: where it plays otherwise than an expert would, it learns
what the expert would do there. On a few cores many small minibatches teach more than few large
ones. All takes 10 minutes on 2 cores. `--config.evaluate.report_episodes=32` is the quicker table,
of wider intervals, and `--config.learn.rounds=320` the longer run.
"""

from ml_collections import ConfigDict

from configs import merge

GAMES = ("breakout", "pong", "freeway")


def get_config() -> ConfigDict:
    config = merge.get_config(",".join(f"{game}=experts/{game}.pth" for game in GAMES))
    config.collect.steps_per_round = 640
    config.collect.expert_share_rounds = 40
    config.collect.final_expert_share = 0.1
    config.learn.rounds = 160
    config.learn.warm_start = "breakout"
    config.learn.warm_layers = "convolutions"
    config.learn.updates_per_round = 64
    config.learn.batch_per_game = 16
    config.learn.learning_rate = 5e-4  # at 1e-3 minibatches so small lose a game for good
    config.learn.clip_norm = 1.0  # now and then a step had undone hundreds
    config.evaluate.every_rounds = 80
    config.evaluate.select_episodes = 16
    return config
