"""Merge three landers' experts into one network.

    python launch/train_expert.py --workdir=runs/landers --config=configs/lander.py:independent
    python launch/distill.py --workdir=runs/lander_merge \
        --config=configs/lander_merge.py:standard=runs/landers/experts/lander/standard,\
windy=runs/landers/experts/lander/windy,heavy=runs/landers/experts/lander/heavy

Experts are given as in `configs/merge.py`: what `launch/train_expert.py` saves, or PyTorch files.
The student learns a vector for each task (`--config.network=mlp_task_embedding`; 37,788 parameters
with three), or is told nothing: `--config.network=mlp`. Its experts' choices are what it learns
(`--config.learn.loss=kl`); `--config.learn.loss=q_values` takes their Q-values. Experts that hold
logits alone, as PPO's, know no temperature of Q-values: `--config.learn.q_temperature=0.01`.
"""

from ml_collections import ConfigDict

from configs import merge


def get_config(experts: str = "") -> ConfigDict:
    config = merge.get_config(experts)
    config.network = "mlp_task_embedding"
    config.collect.num_envs = 16
    config.collect.initial_steps = 8192
    config.collect.steps_per_round = 2048
    config.collect.window_steps = 65_536
    config.collect.expert_share_rounds = 20
    config.collect.final_expert_share = 0.125
    config.collect.expert_epsilon = 0.02
    config.collect.student_epsilon = 0.02
    config.learn.rounds = 60
    config.learn.updates_per_round = 128
    config.learn.batch_per_game = 128
    config.learn.loss = "kl"
    config.learn.q_temperature = 0.05
    config.evaluate.every_rounds = 20
    config.evaluate.select_episodes = 40
    config.evaluate.epsilon = 0.0
    return config
