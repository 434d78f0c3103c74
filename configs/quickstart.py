"""Two small experts in PyTorch files -> one student, on two cores: what `make quickstart` runs.

    python launch/distill.py --config=configs/quickstart.py --workdir=runs/quickstart

The experts are described in experts/README.md.
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
