"""Merge the weights of experts of one shape, without learning: `...weights.py[:GAME=FILE,...]`

    python launch/merge_weights.py --method=htcl --workdir=runs/htcl \
        --config=configs/merge_weights.py

takes the three shipped experts; others are named as in `configs/merge.py`. The methods and their
papers stand in `jaxdistill/learn/weight_merging.py`. The result is measured as a student is; a
distillation begins from it with `--config.learn.warm_start=runs/htcl`.
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from configs import merge
from jaxdistill.learn import weight_merging
from jaxdistill.run import distill_settings, merge_settings


def get_config(experts: str = merge.SHIPPED) -> ConfigDict:
    config = ConfigDict(
        {
            "experts": merge.sources(experts),
            "network": config_dict.placeholder(str),  # the experts'
            "seed": 0,
            "collect": dataclasses.asdict(merge_settings.Collect()),
            "merge": dataclasses.asdict(weight_merging.Merge()),
            "evaluate": dataclasses.asdict(distill_settings.Measure()),
        }
    )
    # Nothing by default, and text or numbers by flag.
    config.collect.dataset = config_dict.placeholder(str)
    config.merge.base = config_dict.placeholder(str)
    config.merge.damping = config_dict.placeholder(float)
    config.merge.reward_limit = config_dict.placeholder(float)  # the suite's
    config.evaluate.max_steps = config_dict.placeholder(int)
    config.evaluate.opening_steps = config_dict.placeholder(int)
    return config
