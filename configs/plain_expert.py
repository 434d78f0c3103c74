"""One expert -> the plain dueling network that the reference tools read.

    python launch/distill.py --workdir=runs/pong_plain \
        --config=configs/plain_expert.py:pong=runs/pong/experts/pong
    python launch/export.py --workdir=runs/pong_plain --format=expert --dtype=float16 \
        --out=runs/pong_plain.pth

The paper's first experiment, one game at a time. The student learns Q-values, on the expert's own
scale, and which of them is the largest; see `losses.q_values`. What the shipped experts keep of
their teachers is in experts/README.md.
"""

from ml_collections import ConfigDict

from configs import merge


def get_config(expert: str = "") -> ConfigDict:
    config = merge.get_config(expert)
    config.learn.loss = "q_values"
    config.collect.steps_per_round = 512
    config.collect.expert_share_rounds = 20
    config.collect.final_expert_share = 0.0
    config.learn.ema_decay = 0.0
    config.learn.updates_per_round = 16
    config.learn.rounds = 400
    config.evaluate.every_rounds = 100
    return config
