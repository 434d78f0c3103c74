"""Whose states the student is taught on, at equal steps and updates: `...states.py:WHO`.

WHO is `fixed` (the expert drives once, before the first update, and the student sees those steps
again and again), or says who drives from then on: `expert`, `student`, `half` (either half of the
environments), or `falling` (the expert's share falls to nothing over half of the rounds; DAgger,
Ross et al. 2011).

    python launch/distill.py --workdir=runs/results/states_expert \
        --config=configs/experiments/states.py:expert
"""

from ml_collections import ConfigDict

from configs.experiments import single
from jaxdistill.run import distill_settings


def get_config(who: str = "student") -> ConfigDict:
    config = single.get_config("breakout")
    config.learn.loss = "q_values"
    collect, rounds, standard = config.collect, config.learn.rounds, distill_settings.Collect()
    if who == "fixed":
        collect.initial_steps += rounds * collect.steps_per_round
        collect.steps_per_round = 0
        collect.expert_share_rounds = standard.expert_share_rounds
        collect.final_expert_share = standard.final_expert_share
        return config
    shares = {
        "expert": (standard.expert_share_rounds, 1.0),
        "student": (1, 0.0),
        "half": (1, 0.5),
        "falling": (rounds // 2, 0.0),
    }
    if who not in shares:
        raise ValueError(f"whose states? expected fixed, {', '.join(shares)}, got {who!r}")
    collect.expert_share_rounds, collect.final_expert_share = shares[who]
    return config
