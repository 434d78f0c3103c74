"""1v1 combat: three skills with eyes and hands of their own, and the duel that needs them all.

`physics` and `fight` are the rules, `state` what an episode is, `views` what is seen of it, `bot`
the duel's opponent, `environments` the four tasks, `scripts` players made by hand, `pool` the door
for everybody else. All but the pool are pure JAX functions of one state.
"""

from jaxdistill.tasks.combat.environments import (
    AIMING,
    CLICKING,
    DUEL,
    ENVIRONMENTS,
    MOVEMENT,
    Environment,
    duel,
)
from jaxdistill.tasks.combat.pool import CombatPool, Facts, PoolState

__all__ = [
    "AIMING",
    "CLICKING",
    "DUEL",
    "ENVIRONMENTS",
    "MOVEMENT",
    "CombatPool",
    "Environment",
    "Facts",
    "PoolState",
    "duel",
]
