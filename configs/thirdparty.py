"""Three experts found on the web, by different authors, with different networks, outputs and views.

    python launch/distill.py --workdir=runs/thirdparty \
        --config=configs/thirdparty.py:DIRECTORY_OF_THE_WEIGHTS

Breakout: an A3C actor-critic (logits) that needs linear resizing. Pong: a DQN (Q-values) that saw
every fourth frame alone. SpaceInvaders: a DQN that sees a part of the screen, in the mean of its
colours, resized twice. Their specs in `configs/experts/` say where each was published; what comes
of it is in docs/results.md.

The student sees each game as that game's expert does, and begins with the convolutions of all three
side by side. The same command with

    --config.learn.rounds=576 --config.learn.shares=space_invaders=2

goes on from there; docs/results.md says what 912 rounds of more new states keep.
"""

from ml_collections import ConfigDict

from configs import merge

EXPERTS = {
    "breakout": "breakout_a3c.pth@configs/experts/breakout_a3c.toml",
    "pong": "pong_dqn.pth@configs/experts/pong_dqn.toml",
    "space_invaders": "spaceinvaders_dqn.ptm@configs/experts/spaceinvaders_dqn.toml",
}


def get_config(directory: str = "weights") -> ConfigDict:
    config = merge.get_config(
        ",".join(f"{game}={directory}/{file}" for game, file in EXPERTS.items())
    )
    config.view = "experts"
    # SpaceInvaders' and Pong's experts have 32, 64 and 64 features, Breakout's 16 and 32.
    config.convolutions = "80x8/4,160x4/2,160x3/1"
    config.collect.steps_per_round = 640
    config.collect.expert_share_rounds = 100
    config.collect.final_expert_share = 0.3  # only an expert comes to the end of Breakout's wall
    config.learn.rounds = 288
    config.learn.final_rate_fraction = 0.02
    config.learn.warm_start = "space_invaders,pong,breakout"
    config.learn.warm_layers = "convolutions"
    config.learn.batch_per_game = 32
    config.evaluate.every_rounds = 144
    config.evaluate.select_episodes = 64
    # After the random no-ops of a pool the Pong expert plays far below its own claim; see its spec.
    config.evaluate.lowest_expert_share = 0.2
    return config
