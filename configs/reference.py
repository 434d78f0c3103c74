"""The best run that the reference's report has, as it stands there: `...py[:GAME=FILE,...]`

    python launch/distill.py --config=configs/reference.py --workdir=runs/reference

Of each game the expert plays 20,000 steps, with a chance of 0.05 of a random valid action; all else
is learnt from these. The student, of the experts' network, begins as a copy of the first game's
expert and learns their Q-values: squared error over valid actions, averaged per game and then over
games; Adam with 1e-4 of L2 in the gradient, which is clipped at a norm of 10; 3e-4, falling to a
tenth along a cosine; 60 epochs of batches of 256. Every 10 epochs it plays 5 games of each, and the
best is kept. The report merged Breakout and Pong; without an argument these are the three shipped
experts, and `configs/reference.py:breakout=experts/breakout.pth,pong=experts/pong.pth` its two.

What differs. States go on after a lost life, where the report's games end. Rows are drawn from each
game alike, with replacement, instead of in shuffled epochs of all: with three games 85 of each, so
255 in a batch. The rate falls with every update, there with every epoch. The best is chosen by mean
retention over whole games at epsilon 0.05, there by the sum of greedy scores up to the first lost
life, and what is reported is what every run here reports.
"""

from ml_collections import ConfigDict

from configs import merge

STEPS, EPOCHS, BATCH = 20_000, 60, 256


def get_config(experts: str = merge.SHIPPED) -> ConfigDict:
    config = merge.get_config(experts)
    first, *others = (source["game"] for source in config.experts)
    config.collect.num_envs = 1
    config.collect.initial_steps = STEPS
    config.collect.steps_per_round = 0
    config.collect.expert_epsilon = 0.05
    config.learn.batch_per_game = BATCH // (1 + len(others))
    config.learn.rounds = EPOCHS
    config.learn.updates_per_round = STEPS // config.learn.batch_per_game
    config.learn.loss = "mse"
    config.learn.warm_start = first
    config.learn.ema_decay = 0.0
    config.learn.optimiser = "adam_l2"
    config.learn.learning_rate = 3e-4
    config.learn.final_rate_fraction = 0.1
    config.learn.weight_decay = 1e-4
    config.learn.clip_norm = 10.0
    config.evaluate.every_rounds = 10
    config.evaluate.select_episodes = 5
    return config
