"""Every stage of a merge in a minute or two, to see that all is well: its student is of no use.

    python launch/distill.py --workdir=runs/tiny \
        --config=configs/tiny.py:pong=experts/pong.pth,freeway=experts/freeway.pth

`configs/merge.py` with the same experts is the run itself.
"""

from ml_collections import ConfigDict

from configs import merge


def get_config(experts: str = "") -> ConfigDict:
    config = merge.get_config(experts)
    config.network = "net3"
    config.collect.num_envs = 4
    config.collect.initial_steps = 256
    config.collect.steps_per_round = 128
    config.collect.window_steps = 1024
    config.learn.rounds = 4
    config.learn.updates_per_round = 8
    config.learn.batch_per_game = 32
    config.evaluate.every_rounds = 2
    config.evaluate.select_episodes = 2
    config.evaluate.report_episodes = 2
    config.evaluate.max_steps = 200
    return config
