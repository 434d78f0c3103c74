"""Two experts found on the web, by different authors, with different networks and outputs.

    python launch/distill.py --workdir=runs/thirdparty \
        --config=configs/breakout_pong_thirdparty.py:DIRECTORY_OF_THE_WEIGHTS

Breakout: an A3C actor-critic (logits) that needs linear resizing. Pong: a DQN (Q-values). Their
specs in `configs/experts/` say where each was published.

45 minutes on 2 shared cores, 15 of them whole games played to measure; 100 games each, epsilon 0.05
(a run with student_epsilon 0.02):

    game      random  expert                student               retention
    breakout     1.6   356.3 [331.1, 380.9]  162.8 [142.9, 184.2]   45% [39%, 53%]
    pong       -20.3    -4.5 [-5.5, -3.4]      8.6 [7.2, 10.0]     183% [168%, 200%]

The Pong expert was trained without random no-ops and plays far below its claim after them; the
student scores above it. In Breakout the student was still far from its expert.
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
    # After the random no-ops of a pool the Pong expert plays far below its own claim; see its spec.
    config.evaluate.lowest_expert_share = 0.2
    return config
