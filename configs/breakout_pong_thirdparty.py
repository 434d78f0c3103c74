"""Two experts found on the web, by different authors, with different networks and outputs.

    python launch/distill.py --workdir=runs/thirdparty \
        --config=configs/breakout_pong_thirdparty.py:DIRECTORY_OF_THE_WEIGHTS

Breakout: an A3C actor-critic (logits) that needs linear resizing. Pong: a DQN (Q-values). Their
specs in `configs/experts/` say where each was published.

83 minutes on 2 cores with another training beside it (51 learning, 13 collecting, 19 of whole games
played to measure); 100 games each, epsilon 0.05:

    game      random  expert                student               retention
    breakout     1.6   356.3 [331.1, 380.9]  338.6 [320.2, 355.9]   95% [87%, 104%]
    pong       -20.3    -4.5 [-5.5, -3.4]      0.7 [-1.3, 2.7]     133% [118%, 150%]

The Pong expert was trained without random no-ops and plays far below its claim after them; the
student scores above it. What lifted Breakout from 45%: twice the updates a step at three times the
rate, their average playing, and the expert driving a quarter of the environments to the end.
"""

from ml_collections import ConfigDict

from configs import merge


def get_config(directory: str = "weights") -> ConfigDict:
    config = merge.get_config(
        f"breakout={directory}/breakout_a3c.pth@configs/experts/breakout_a3c.toml,"
        f"pong={directory}/pong_dqn.pth@configs/experts/pong_dqn.toml"
    )
    config.learn.rounds = 400
    config.evaluate.every_rounds = 200
    # After the random no-ops of a pool the Pong expert plays far below its own claim; see its spec.
    config.evaluate.lowest_expert_share = 0.2
    return config
