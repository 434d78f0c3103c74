"""1v1 combat: three skills with eyes and hands of their own, and the duel that needs them all.

`physics` and `fight` are the rules, `state` what an episode is, `views` what is seen of it, `bot`
the duel's opponent, `environments` the rules of each task, `scripts` players made by hand: all pure
JAX functions of one state. `pool` and `tasks` are the doors for everybody else.
"""

from jaxdistill.tasks.combat.pool import CombatPool
from jaxdistill.tasks.combat.tasks import (
    AIMING,
    CLICKING,
    COMBAT,
    COMBATS,
    DUEL,
    DUEL_LEVEL,
    MOVEMENT,
    Combat,
    duel,
    find,
)

__all__ = [
    "AIMING",
    "CLICKING",
    "COMBAT",
    "COMBATS",
    "DUEL",
    "DUEL_LEVEL",
    "MOVEMENT",
    "Combat",
    "CombatPool",
    "duel",
    "find",
]
