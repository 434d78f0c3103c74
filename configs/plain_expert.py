"""One expert -> the plain dueling network that the reference tools read.

    python launch/distill.py --workdir=runs/pong_plain \
        --config=configs/plain_expert.py:pong=runs/pong/experts/pong
    python launch/export.py --workdir=runs/pong_plain --format=expert --dtype=float16 \
        --out=experts/pong.pth

The paper's first experiment, one game at a time. The student learns Q-values, on the expert's own
scale, and which of them is the largest; see `losses.q_values`.

On 2 cores, 100 whole games, epsilon 0.05: Pong 97% [95, 99] in 27 minutes beside two other
programs, Freeway 102% [100, 104] in 16 (150 rounds). Breakout, the hardest, 70% [59, 82] in 21 (500
rounds of 24 updates and 1,024 steps, begun as a copy of an earlier expert), and 85% [71, 101] after
350 rounds more in which the expert went on driving half of the environments.
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
