"""Two small experts in PyTorch files -> one student, on two cores: what `make quickstart` runs.

    python launch/distill.py --config=configs/quickstart.py --workdir=runs/quickstart

The experts are described in experts/README.md. From a fresh clone, installation included: 10.4
minutes on 2 shared cores. 100 whole games each, epsilon 0.01:

    game      random  expert             student               retention
    pong       -20.3   -2.0 [-5.5, 1.5]  -11.9 [-14.6, -9.0]    46% [30%, 66%]
    breakout     1.3   12.3 [11.1, 13.6]  13.2 [11.5, 15.1]   108% [89%, 130%]

The Pong expert is half trained and brittle; matching its choices in 9 states of 10 is not enough.
"""

from ml_collections import ConfigDict

from configs import merge


def get_config() -> ConfigDict:
    config = merge.get_config("pong=experts/pong_small.pth,breakout=experts/breakout_small.pth")
    config.network = "dueling_small"
    config.learn.rounds = 150
    config.learn.learning_rate = 1e-3
    # These experts hold preferences that were learnt as logits, not Q-values to be sharpened.
    config.learn.q_temperature = 1.0
    config.evaluate.every_rounds = 75
    config.evaluate.select_episodes = 20
    config.evaluate.epsilon = 0.01
    return config
