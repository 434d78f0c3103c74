"""Whose states the student is taught on, at equal steps and updates: `...states.py:WHO`.

WHO is `expert` (it drives throughout), `fixed` (it drives once, before the first update, and the
student sees those steps again and again), `student` (from the first round on) or `mixed` (the
expert's share falls over half of the rounds; DAgger, Ross et al. 2011).

    python launch/distill.py --workdir=runs/results/states_expert \
        --config=configs/experiments/states.py:expert
"""

from ml_collections import ConfigDict

from configs.experiments import single


def get_config(who: str = "student") -> ConfigDict:
    config = single.get_config("breakout")
    config.learn.loss = "q_values"
    rounds, per_round = config.learn.rounds, config.collect.steps_per_round
    if who == "fixed":
        config.collect.initial_steps += rounds * per_round
        config.collect.steps_per_round = 0
        return config
    shares = {"expert": 10**6 * rounds, "student": 1, "mixed": rounds // 2}
    if who not in shares:
        raise ValueError(f"whose states? expected fixed, {', '.join(shares)}, got {who!r}")
    config.collect.expert_share_rounds = shares[who]
    return config
