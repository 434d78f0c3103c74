"""Two experts found on the web, by different authors, with different networks and outputs.

    python launch/distill.py --workdir=runs/thirdparty \
        --config=configs/breakout_pong_thirdparty.py:DIRECTORY_OF_THE_WEIGHTS

Breakout: an A3C actor-critic (logits) that needs linear resizing. Pong: a DQN (Q-values). Their
specs in `configs/experts/` say where each was published.
"""

from ml_collections import ConfigDict

from configs import merge


def get_config(directory: str = "weights") -> ConfigDict:
    config = merge.get_config(
        f"breakout={directory}/breakout_a3c.pth@configs/experts/breakout_a3c.toml,"
        f"pong={directory}/pong_dqn.pth@configs/experts/pong_dqn.toml"
    )
    config.learn.rounds = 320
    config.evaluate.every_rounds = 80
    config.evaluate.select_episodes = 20
    # Between the random no-op starts of a pool the Pong expert plays far below its own claim; see
    # its spec.
    config.evaluate.lowest_expert_share = 0.2
    return config
