"""What tests of games that are measured and kept share: two landers, and 30 steps of each game."""

import numpy as np

from jaxdistill import meshes, tasks
from jaxdistill.play import lessons, measuring, players, protocols, rollouts
from jaxdistill.play.scoring import Scores

LANDERS = [tasks.get(name) for name in ("lander/standard", "lander/windy")]
LESSONS = lessons.of_tasks(LANDERS, 5)
RANDOM = rollouts.random_policy(lessons.choices(LESSONS))
OPENING = protocols.Opening(RANDOM, 0, RANDOM, protocols.REPORTING)
PROTOCOL = protocols.Protocol(lessons.REPORT, 0, OPENING, max_steps=30)


def player(mark="someone"):
    """Random play, known by this mark."""
    return players.Player("someone", RANDOM, (mark, mark))


def measured(known, episodes, chosen=LESSONS, who=None):
    return measuring.measure(chosen, who or player(), PROTOCOL, episodes, meshes.create(), known)


def untold(chosen, policy, protocol, seats, *rest, **more):
    """Instead of playing: every game scores its seat."""
    return [
        Scores(*(np.arange(x.start, x.stop) for _ in range(3)), np.zeros(len(x), bool), {})
        for x in seats
    ]
