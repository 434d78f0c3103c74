"""The three shipped experts in PyTorch files -> one student: what `make quickstart` runs.

    python launch/distill.py --config=configs/quickstart.py --workdir=runs/quickstart

Or your own, in as many rounds, by a student that begins from nothing:

    python launch/distill.py --workdir=runs/mine \
        --config=configs/quickstart.py:pong=pong.pth,qbert=qbert.zip

Of the shipped ones it begins with the convolutions of the Breakout expert, the hardest game to
copy. It soon drives most of the environments itself: where it plays otherwise than an expert would,
it learns what the expert would do there. In a new workdir `--config.evaluate.report_episodes=32`
gives a quicker table with wider intervals; `--config.learn.rounds=320` continues a finished run,
too.
"""

from ml_collections import ConfigDict

from configs import merge


def get_config(experts: str = "") -> ConfigDict:
    config = merge.get_config(experts or merge.SHIPPED)
    if not experts:
        config.learn.warm_start = "breakout"
        config.learn.warm_layers = "convolutions"
        # Whose experts come with their games: half as many of the student's tell as much.
        config.evaluate.report_episodes = 128
        config.evaluate.expert_ratio = 4
    config.collect.steps_per_round = 640
    config.collect.expert_share_rounds = 40
    config.collect.final_expert_share = 0.1
    config.learn.rounds = 160
    config.learn.updates_per_round = 64
    config.learn.batch_per_game = 16
    config.learn.learning_rate = 5e-4  # at 1e-3 minibatches so small lose a game for good
    config.learn.clip_norm = 1.0  # now and then a step had undone hundreds
    config.evaluate.every_rounds = 80
    config.evaluate.select_episodes = 16
    return config
