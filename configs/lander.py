"""Learn three lander variants from their rewards: one network, or one each.

    python launch/train_expert.py --workdir=runs/shared --config=configs/lander.py:shared

After the colon stands what the network is told of its task:

    shared       a learnt vector of 8 numbers for each
    one_hot      which of the three it is
    blind        nothing
    independent  every task has a network of its own, which `configs/lander_merge.py` can merge

Learnt by parallel Q-learning. `shared_dqn`, `blind_dqn`, ... take a replay memory and a target
network instead, as the published agent for these tasks did. The tasks are `lander/standard`,
`lander/windy` and `lander/heavy`; others are named as
`--config.games=lander/standard,lander/windy_air`.
"""

import dataclasses

from ml_collections import ConfigDict, config_dict

from jaxdistill.learn import train_settings

NETWORKS = {
    "shared": "mlp_task_embedding_layer_norm",
    "one_hot": "mlp_one_hot_layer_norm",
    "blind": "mlp_layer_norm",
    "independent": "mlp_layer_norm",
}


def get_config(variant: str = "shared") -> ConfigDict:
    told = variant.removesuffix("_dqn")
    if told not in NETWORKS:
        raise ValueError(
            f"--config=configs/lander.py:{variant}: expected one of {', '.join(NETWORKS)}, or one "
            f"of these with _dqn behind it"
        )
    games = ("lander/standard", "lander/windy", "lander/heavy")
    settings = train_settings.Settings(
        games=games,
        independent=told == "independent",
        network=NETWORKS[told],
        num_envs=16,
        rollout_steps=32,
        total_steps=614_400,
        epochs=4,
        batch_per_game=64,
        learning_rate=1e-3,
        ema_decay=0.998,
        reward_limit=0.0,
        reward_scale=0.1,
        trace=0.7,
        epsilon_end=0.02,
        epsilon_fraction=0.3,
        eval_every=102_400,
        eval_episodes=20,
        eval_epsilon=0.0,
        final_episodes=40,
    )
    if told != variant:
        settings = dataclasses.replace(
            settings,
            algorithm="dqn",
            network=NETWORKS[told].removesuffix("_layer_norm"),
            rollout_steps=4,
            total_steps=204_800,
            epochs=2,  # it has none, nor a trace: as they are by default
            trace=0.65,
            optimiser="adam_l2",
            learning_rate=5e-4,
            final_rate_fraction=1.0,
            clip_norm=1e9,  # none
            reward_scale=1.0,
            epsilon_decay=0.995,
            epsilon_end=0.01,
            epsilon_fraction=0.1,
            eval_every=51_200,
        )
    # Games as a string, so that a flag can list others.
    config = ConfigDict(dataclasses.asdict(settings) | {"games": ",".join(games)})
    del config.student  # which launch/finetune.py trains further
    config.max_steps = config_dict.placeholder(int)  # the task's own
    config.opening_steps = config_dict.placeholder(int)
    return config
