"""One shipped expert -> one student, small enough to compare many: `...single.py:GAME`.

    python launch/distill.py --workdir=runs/net1 --config=configs/experiments/single.py:pong \
        --config.network=net1

Every row of the tables about losses and temperatures in `docs/results.md`, and about sizes in
`docs/experiments.md`, is this file with a few flags; `benchmarks/results.sh` holds them. Rows of
one table have equal steps and updates.
"""

from ml_collections import ConfigDict

from configs import merge


def get_config(game: str = "pong") -> ConfigDict:
    config = merge.get_config(f"{game}=experts/{game}.pth")
    config.collect.initial_steps = 4096
    config.collect.steps_per_round = 1024
    config.collect.window_steps = 4096 + 100 * 1024  # all, so that rows differ in nothing else
    config.collect.expert_share_rounds = 10
    config.collect.final_expert_share = 0.0
    config.learn.loss = "kl"
    config.learn.rounds = 100
    config.learn.batch_per_game = 64
    config.evaluate.every_rounds = 10_000  # no choosing: the last student is the one reported
    config.evaluate.select_episodes = 16
    return config
