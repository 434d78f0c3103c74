"""Train an expert from scratch with PQN.

    python launch/train_expert.py --workdir=runs/pong \
        --config=configs/train_expert.py --config.games=pong

Several games (`--config.games=breakout,pong,freeway`) are learnt by one network: the multi-task
baseline. On a GPU scale by flags alone: `--config.num_envs=256 --config.total_steps=10000000`.

`WORKDIR/experts/GAME` always holds the best network so far. How long it takes:
docs/experiments.md, "Without experts". Freeway needs exploration that holds an action:
`--config.hold_exponent=1.6 --config.epsilon_fraction=0.33`.

With an expert at hand, mediocre as it may be, begin from what it knows and go beyond:

    python launch/train_expert.py --workdir=runs/better_pong \
        --config=configs/train_expert.py:pong=experts/pong.pth --config.epsilon_start=0.1
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from configs import merge
from jaxdistill.learn import train_settings


def get_config(experts: str = "") -> ConfigDict:
    fields = dataclasses.asdict(train_settings.Settings(games=("pong",)))
    fields["experts"] = merge.sources(experts)
    # A string, so that a flag can list several.
    fields["games"] = ",".join(str(x["game"]) for x in fields["experts"]) or "pong"
    config = ConfigDict(fields)
    del config.student  # which launch/finetune.py trains further
    config.max_steps = config_dict.placeholder(int)  # the task's own
    config.opening_steps = config_dict.placeholder(int)
    config.reward_limit = config_dict.placeholder(float)  # the suite's
    config.eval_epsilon = config_dict.placeholder(float)
    return config
