"""Train an expert from scratch with PQN.

    python launch/train_expert.py --workdir=runs/pong \
        --config=configs/train_expert.py --config.games=pong

Several games (`--config.games=breakout,pong,freeway`) are learnt by one network: the multi-task
baseline. On a GPU scale by flags alone: `--config.num_envs=256 --config.total_steps=10000000`.

About 45 minutes for 2.5 million steps on 2 cores. Freeway needs exploration that holds an action:
`--config.hold_exponent=1.6 --config.epsilon_fraction=0.33`.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxdistill import qlearning


def get_config() -> ConfigDict:
    fields = dataclasses.asdict(qlearning.Settings(games=("pong",)))
    return ConfigDict(fields | {"games": "pong"})  # a string, so that a flag can list several
