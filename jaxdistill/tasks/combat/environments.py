"""The four environments: movement, aiming, clicking, and the duel that needs all three.

Each is four functions of a `State`: how an episode begins, what is drawn at random in a tick, what
the tick does, and what it is worth. `reset` and `tick` are about one episode; `ended` and `step`
about many, of which those that have ended begin anew.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from jaxdistill.tasks.combat import bot, fight, physics, views
from jaxdistill.tasks.combat.physics import Body
from jaxdistill.tasks.combat.state import State, aim_errors, begin

ENTRIES = (*physics.KEYS, "click", "yaw", "pitch")  # of an action of the duel
NEAR = (2.0, 3.5)  # blocks; where one hits and is hard to hit
APPROACH = 100  # ticks that are not counted to be near
TEN = 10  # hits of a won race

_AIM_LOWER = 0.3  # blocks below the target's level, where the aiming reward wants the look
_STEEPEST = math.pi / 2 - 0.01
# A duel allows looking straight up, but for a hair: in float32 pi/2 is more than a right angle, and
# what is beyond one is behind.
_STRAIGHT = math.pi / 2 - 1e-4
_TARGET_TURN = math.radians(27)


class Draws(NamedTuple):
    """What is random in one tick, apart from the reset.

    Attributes:
      agent_keys: `(6,)` bool, the keys that a script presses for the agent (Aiming).
      target_keys: `(6,)` bool.
      knocked: bool, the target is knocked back out of nothing (Movement).
      hard: bool, as by one who sprints.
    """

    agent_keys: jax.Array
    target_keys: jax.Array
    knocked: jax.Array
    hard: jax.Array


@dataclasses.dataclass(frozen=True)
class Environment:
    """One task of combat, as a value.

    Attributes:
      name: such as "combat/movement".
      entries: which of the duel's nine outputs an action has, in order. Keys and the click are
        down above 0.5; yaw and pitch are radians to turn by in this tick.
      turn: the largest turn in a tick, radians; more is cut.
      max_steps: ticks of one episode.
      health: of both at the reset. A hit in the duel takes 1; elsewhere nothing does.
      reset: `(key, health) -> State`.
      draw: `(State, key) -> Draws`, or None where nothing is random.
      play: `(State, action (9,), Draws) -> State`, the rules of one tick.
      reward: `(State before, action (9,), State after) -> float32`.
      view: `State -> (D,)`, what its own policy sees.
    """

    name: str
    entries: tuple[int, ...]
    turn: float
    max_steps: int
    reset: Callable[[jax.Array, float], State]
    draw: Callable[[State, jax.Array], Draws] | None
    play: Callable[[State, jax.Array, Draws], State]
    reward: Callable[[State, jax.Array, State], jax.Array]
    view: Callable[[State], jax.Array]
    health: float = 100.0

    def __post_init__(self) -> None:
        for name, value in (("max_steps", self.max_steps), ("health", self.health)):
            if not value >= 1:
                raise ValueError(f"{self.name}: {name} is {value:g}, expected at least 1")


class Ticked(NamedTuple):
    """What many environments say after `step`; leading axis N.

    Attributes:
      state: the states now; `state.over` where an episode has just ended.
      rewards: `(N,)` float32, 0 where an episode began instead of a tick.
      observations: `(N, D)` float32, what the next actions answer: what `view` makes of the states.
      truncated: `(N,)` bool, the episode was cut by its step limit and nobody is dead.
    """

    state: State
    rewards: jax.Array
    observations: jax.Array
    truncated: jax.Array


def reset(environment: Environment, key: jax.Array) -> State:
    """The first state of an episode; nothing of any earlier one is left.

    Args:
      key: `(2,)` uint32.
    """
    return environment.reset(key, environment.health)


def tick(
    environment: Environment, state: State, action: jax.Array, limit: ArrayLike | None = None
) -> tuple[State, jax.Array]:
    """One tick of one episode: the state after it, and the reward.

    Args:
      action: `(A,)`, the environment's own entries.
      limit: ticks of one episode; by default the environment's.
    """
    draws = _held(state)
    if environment.draw:
        key, now = jax.random.split(state.key)
        state = state.replace(key=key)
        draws = environment.draw(state, now)
    return play(environment, state, action, draws, limit)


def play(
    environment: Environment,
    state: State,
    action: jax.Array,
    draws: Draws,
    limit: ArrayLike | None = None,
) -> tuple[State, jax.Array]:
    """As `tick`, with what is random said."""
    action = _whole(environment, action)
    after = environment.play(state, action, draws)
    after = _account(state, after.replace(tick=state.tick + 1))
    dead = jnp.minimum(after.agent.health, after.target.health) <= 0
    limit = environment.max_steps if limit is None else limit
    after = after.replace(over=dead | (after.tick >= limit))
    return after, environment.reward(state, action, after)


def ended(environment: Environment, seeds: np.ndarray, episodes: np.ndarray | None = None) -> State:
    """N episodes that are over, whatever they were: the next `step` begins others.

    Args:
      seeds: `(N,)` uint32, each environment's own.
      episodes: `(N,)` ints, how many episodes each has had; by default none, so that the first real
        ones begin.
    """
    keys = jax.vmap(jax.random.PRNGKey)(seeds)
    blank = jax.tree.map(lambda x: np.zeros((len(seeds), *x.shape), x.dtype), _first(environment))
    past = np.zeros(len(seeds)) if episodes is None else episodes
    return blank.replace(
        seed=keys, episode=np.asarray(past - 1, np.int32), over=np.ones(len(seeds), bool)
    )


@functools.cache
def _first(environment: Environment) -> State:
    """The shapes and dtypes of an episode's first state."""
    key = jax.eval_shape(jax.random.PRNGKey, 0)
    return jax.eval_shape(functools.partial(reset, environment), key)


def step(
    environment: Environment,
    state: State,
    actions: jax.Array,
    view: Callable[[State], jax.Array] | None = None,
    limit: ArrayLike | None = None,
) -> Ticked:
    """One tick of N episodes; those that are over ignore their action and begin the next one.

    The k-th episode of an environment is the same whatever came before it.

    Args:
      state: leading axis N.
      actions: `(N, A)`.
      view: `State -> (D,)`, by default what the environment's own policy sees.
      limit: see `tick`.
    """
    begins = state.over

    def renew(after: State) -> State:
        episode = state.episode + 1
        keys = jax.vmap(jax.random.fold_in)(state.seed, episode)
        fresh = jax.vmap(functools.partial(reset, environment))(keys)
        fresh = fresh.replace(seed=state.seed, episode=episode)
        return jax.tree.map(
            lambda a, b: jnp.where(begins.reshape(-1, *[1] * (a.ndim - 1)), a, b), fresh, after
        )

    after, rewards = jax.vmap(functools.partial(tick, environment, limit=limit))(state, actions)
    # Ends are rare, and mostly all at once.
    after = jax.lax.cond(begins.any(), renew, lambda after: after, after)
    dead = jnp.minimum(after.agent.health, after.target.health) <= 0
    return Ticked(
        state=after,
        rewards=jnp.where(begins, 0.0, rewards),
        observations=jax.vmap(view or environment.view)(after),
        truncated=after.over & ~dead,
    )


def _whole(environment: Environment, action: jax.Array) -> jax.Array:
    """`(9,)`: entries that the environment has not are 0; angles are cut to what one can turn."""
    action = jnp.asarray(action, jnp.float32)
    whole = [jnp.zeros((), jnp.float32)] * len(ENTRIES)
    for place, entry in enumerate(environment.entries):
        angle = ENTRIES[entry] in ("yaw", "pitch")
        value = action[place]
        whole[entry] = jnp.clip(value, -environment.turn, environment.turn) if angle else value
    return jnp.stack(whole)


def _keys(action: jax.Array) -> jax.Array:
    return action[: len(physics.KEYS)] > 0.5


def _clicks(action: jax.Array) -> jax.Array:
    return action[ENTRIES.index("click")] > 0.5


def _turned(agent: Body, action: jax.Array, steepest: float) -> Body:
    return agent.replace(
        yaw=physics.wrap(agent.yaw + action[ENTRIES.index("yaw")]),
        pitch=jnp.clip(agent.pitch + action[ENTRIES.index("pitch")], -steepest, steepest),
    )


def _account(before: State, after: State) -> State:
    """What is counted the same way in all four."""
    agent, target = after.agent, after.target
    distance = physics.distance_on_ground(agent, target)
    near = (after.tick > APPROACH) & (distance >= NEAR[0]) & (distance <= NEAR[1])
    dealt, taken = after.hits_dealt >= TEN, after.hits_taken >= TEN
    return after.replace(
        previous_look=physics.look(before.target.yaw, before.target.pitch),
        near=before.near + near,
        on_body=before.on_body + fight.looks_at(agent, target, jnp.inf),
        yaw_error=before.yaw_error + jnp.abs(aim_errors(agent, target)[0]),
        first_to_ten=jnp.where(
            before.first_to_ten != 0, before.first_to_ten, dealt.astype(jnp.int32) - taken
        ),
    )


def _walk(
    uniform: jax.Array, *, forward: float, side: tuple[float, float], jump: float, sprint: float
) -> jax.Array:
    """`(6,)` bool keys: forward or back, left or right or neither, from four numbers in [0, 1)."""
    ahead = uniform[0] < forward
    left = uniform[1] < side[0]
    right = ~left & (uniform[1] < side[0] + side[1])
    return jnp.stack([ahead, left, ~ahead, right, uniform[2] < jump, uniform[3] < sprint])


def _held(state: State) -> Draws:
    """Keys as they are, and no knock."""
    no = jnp.zeros_like(state.over)
    return Draws(state.agent_keys, state.target_keys, no, no)


def _polar(distance: jax.Array, bearing: jax.Array) -> jax.Array:
    """`(3,)`: that far on the ground, `bearing` radians from +x towards +z."""
    zero = jnp.zeros_like(distance)
    return jnp.stack([distance * jnp.cos(bearing), zero, distance * jnp.sin(bearing)])


def _between(uniform: jax.Array, low: float, high: float) -> jax.Array:
    return low + (high - low) * uniform


def _facing(body: Body, other: Body) -> Body:
    yaw, pitch = physics.angles(other.position - body.position)
    return body.replace(yaw=yaw, pitch=pitch)


# Movement ------------------------------------------------------------------------------------


def _two_bodies(uniform: jax.Array, health: float) -> tuple[Body, Body]:
    """The agent near the origin, looking anywhere; the target 6 to 12 blocks from it."""
    x, z, yaw, pitch, distance, bearing = uniform[:6]
    position = jnp.stack([_between(x, -2, 2), jnp.zeros_like(x), _between(z, -2, 2)])
    agent = physics.standing(
        position,
        health,
        yaw=_between(yaw, -math.pi, math.pi),
        pitch=_between(pitch, -math.pi / 12, math.pi / 12),
    )
    way = _polar(_between(distance, 6, 12), _between(bearing, -math.pi, math.pi))
    return agent, physics.standing(position + way, health)


def _movement_reset(key: jax.Array, health: float) -> State:
    key, now = jax.random.split(key)
    return begin(key, *_two_bodies(jax.random.uniform(now, (6,)), health))


def _movement_draw(state: State, key: jax.Array) -> Draws:
    uniform = jax.random.uniform(key, (6,))
    keys = _walk(uniform[:4], forward=0.7, side=(0.4, 0.4), jump=0.1, sprint=0.9)
    close = physics.length(state.target.position - state.agent.position) <= 4
    return Draws(
        agent_keys=state.agent_keys,
        target_keys=jnp.where(state.tick % 4 == 0, keys, state.target_keys),
        knocked=(state.tick - state.knocked >= 10) & close & (uniform[4] < 0.1),
        hard=uniform[5] < 0.2,
    )


def _movement_play(state: State, action: jax.Array, draws: Draws) -> State:
    keys, target = _keys(action), state.target
    pushed = fight.knock(target, target.position - state.agent.position, draws.hard)
    target = jax.tree.map(lambda a, b: jnp.where(draws.knocked, a, b), pushed, target)
    # It turns towards the agent like a mass on a damped spring.
    error = aim_errors(target, state.agent)[0]
    gain = jnp.where(jnp.sign(error) == jnp.sign(state.target_turn), 0.3, 0.6)
    turn = jnp.clip((state.target_turn + gain * error) * 0.8, -_TARGET_TURN, _TARGET_TURN)
    target = target.replace(yaw=physics.wrap(target.yaw + turn))
    return state.replace(
        agent=physics.move(state.agent, keys),
        target=physics.move(target, draws.target_keys),
        agent_keys=keys,
        target_keys=draws.target_keys,
        target_turn=turn,
        knocked=jnp.where(draws.knocked, state.tick, state.knocked),
    )


def _movement_reward(before: State, action: jax.Array, after: State) -> jax.Array:
    """Coming nearer, not standing, 2 to 3.5 blocks away and better unseen; not nearer, not far."""
    distance = physics.distance_on_ground(after.agent, after.target)
    nearer = physics.distance_on_ground(before.agent, before.target) - distance
    unseen = jnp.abs(aim_errors(after.target, after.agent)[0]) / jnp.pi
    low, high = NEAR
    return (
        1.5 * nearer
        - jnp.where(_keys(action)[:4].any(), 0.0, 0.01)
        + jnp.where((distance >= low) & (distance <= high), 0.5 + 0.05 * unseen, 0.0)
        - 0.5 * jnp.maximum(low - distance, 0.0)
        - 0.1 * jnp.maximum(distance - high, 0.0)
    )


MOVEMENT = Environment(
    name="combat/movement",
    entries=(0, 1, 2, 3, 4, 5),
    turn=0.0,
    max_steps=400,
    reset=_movement_reset,
    draw=_movement_draw,
    play=_movement_play,
    reward=_movement_reward,
    view=views.movement,
)


# Aiming --------------------------------------------------------------------------------------


def _aiming_reset(key: jax.Array, health: float) -> State:
    key, now = jax.random.split(key)
    uniform = jax.random.uniform(now, (8,))
    agent, target = _two_bodies(uniform, health)
    target = target.replace(
        yaw=_between(uniform[6], -math.pi, math.pi),
        pitch=_between(uniform[7], -math.pi / 12, math.pi / 12),
    )
    return begin(key, agent, target)


def _aiming_draw(state: State, key: jax.Array) -> Draws:
    uniform, new, no = jax.random.uniform(key, (8,)), state.tick % 4 == 0, jnp.zeros((), bool)
    agent = _walk(uniform[:4], forward=0.6, side=(0.3, 0.3), jump=0.0, sprint=0.5)
    target = _walk(uniform[4:], forward=0.7, side=(0.4, 0.4), jump=0.1, sprint=0.9)
    return Draws(
        agent_keys=jnp.where(new, agent, state.agent_keys),
        target_keys=jnp.where(new, target, state.target_keys),
        knocked=no,
        hard=no,
    )


def _aiming_play(state: State, action: jax.Array, draws: Draws) -> State:
    return state.replace(
        agent=physics.move(_turned(state.agent, action, _STEEPEST), draws.agent_keys),
        target=physics.move(state.target, draws.target_keys),
        agent_keys=draws.agent_keys,
        target_keys=draws.target_keys,
    )


def _aiming_reward(before: State, action: jax.Array, after: State) -> jax.Array:
    """Small errors to a point 0.3 blocks below the target's level, and small turns."""
    yaw, pitch = aim_errors(after.agent, after.target, _AIM_LOWER)
    turned = jnp.abs(action[ENTRIES.index("yaw") :]).sum()
    return -((yaw / jnp.pi) ** 2) - (pitch / (jnp.pi / 2)) ** 2 - 0.5 * turned


AIMING = Environment(
    name="combat/aiming",
    entries=(7, 8),
    turn=math.radians(36),
    max_steps=200,
    reset=_aiming_reset,
    draw=_aiming_draw,
    play=_aiming_play,
    reward=_aiming_reward,
    view=views.aiming,
)


# Clicking ------------------------------------------------------------------------------------


def _clicking_reset(key: jax.Array, health: float) -> State:
    key, now = jax.random.split(key)
    distance, bearing = jax.random.uniform(now, (2,))
    way = _polar(_between(distance, 2, 3.5), _between(bearing, -math.pi / 4, math.pi / 4))
    return begin(key, physics.standing(jnp.zeros(3), health), physics.standing(way, health))


def _clicking_draw(state: State, key: jax.Array) -> Draws:
    keys = _walk(jax.random.uniform(key, (4,)), forward=0.8, side=(0.4, 0.4), jump=0.1, sprint=0.5)
    target_keys = jnp.where(state.tick % 5 == 0, keys, state.target_keys)
    return _held(state)._replace(target_keys=target_keys)


def _clicking_play(state: State, action: jax.Array, draws: Draws) -> State:
    """The agent stands and looks where the target was; the target looks at it and walks."""
    clicks = _clicks(action)
    agent, target = _facing(state.agent, state.target), _facing(state.target, state.agent)
    target = physics.move(target, draws.target_keys)
    blow = fight.attack(agent, target, clicks)
    return state.replace(
        # Never simulated: whatever slows it has nothing to slow.
        agent=agent,
        target=fight.recover(blow.target),
        target_keys=draws.target_keys,
        clicks=state.clicks + clicks,
        hits_dealt=state.hits_dealt + blow.hit,
    )


def _clicking_reward(before: State, action: jax.Array, after: State) -> jax.Array:
    """Hits, and clicks and waiting at the right time."""
    clicks, hit = _clicks(action), after.hits_dealt > before.hits_dealt
    yaw, pitch = (jnp.abs(error) for error in aim_errors(after.agent, after.target))
    worst = jnp.maximum(yaw, pitch)
    aimed = worst < math.radians(15)
    ready = after.target.invulnerable == 0
    within = physics.length(after.target.position - after.agent.position) <= fight.REACH
    missed = jnp.where(~within, -0.5, jnp.where(aimed & ready, -0.2, -0.3))
    waited = jnp.where(~within, 0.05, jnp.where(aimed & ready, -0.2, 0.0))
    struck = 1.0 + jnp.where(worst < math.radians(5), 0.5, 0.0)
    return jnp.where(hit, struck, jnp.where(clicks, missed, waited))


CLICKING = Environment(
    name="combat/clicking",
    entries=(6,),
    turn=0.0,
    max_steps=600,
    reset=_clicking_reset,
    draw=_clicking_draw,
    play=_clicking_play,
    reward=_clicking_reward,
    view=views.clicking,
)


# Duel ----------------------------------------------------------------------------------------


def _duel_reset(key: jax.Array, health: float) -> State:
    key, now = jax.random.split(key)
    distance, bearing = jax.random.uniform(now, (2,))
    way = _polar(_between(distance, 6, 12), _between(bearing, -math.pi, math.pi))
    return begin(key, physics.standing(jnp.zeros(3), health), physics.standing(way, health))


def _duel_play(state: State, action: jax.Array, draws: Draws) -> State:
    """Both look, the agent strikes, the bot strikes, both move. Nothing is drawn."""
    keys, clicks = _keys(action), _clicks(action)
    agent = _turned(state.agent, action, _STRAIGHT)
    choice = bot.decide(state.target, agent, state.tick)
    target = state.target.replace(yaw=choice.yaw, pitch=choice.pitch)
    first = fight.attack(agent, target, clicks)
    second = fight.attack(first.target, first.attacker, choice.click)
    agent, target = second.target, second.attacker
    agent = fight.recover(physics.move(agent, keys))
    target = fight.recover(physics.move(target, choice.keys))
    return state.replace(
        agent=agent.replace(health=agent.health - second.hit),
        target=target.replace(health=target.health - first.hit),
        agent_keys=keys,
        target_keys=choice.keys,
        clicks=state.clicks + clicks,
        hits_dealt=state.hits_dealt + first.hit,
        hits_taken=state.hits_taken + second.hit,
    )


def _level_reward(before: State, action: jax.Array, after: State) -> jax.Array:
    """The reference's: of all hits so far, in every tick; an early hit is paid for ever."""
    health = after.agent.health - after.target.health
    return 0.5 * after.hits_dealt - 0.25 * after.hits_taken + 0.015 * health


def _hits_reward(before: State, action: jax.Array, after: State) -> jax.Array:
    """1 for a hit dealt in this tick, -1 for a hit taken."""
    dealt, taken = after.hits_dealt - before.hits_dealt, after.hits_taken - before.hits_taken
    return (dealt - taken).astype(jnp.float32)


DUEL_REWARDS = {"hits": _hits_reward, "level": _level_reward}


def duel(health: float = 100.0, reward: str = "hits", max_steps: int = 400) -> Environment:
    """The whole task, against the bot.

    Args:
      health: of both. At most 40 hits are possible in 400 ticks, so with 100 (the reference's) an
        episode is scored by hits; with 10 a duel is won or lost.
      reward: "hits", 1 and -1 when they happen; or "level", the reference's, of the totals so far.

    Returns:
      The environment; its name says what differs, such as "combat/duel_level_10hp".

    Raises:
      ValueError: a health or a limit below 1, or a reward there is not.
    """
    if reward not in DUEL_REWARDS:
        raise ValueError(
            f"combat/duel: no reward {reward!r}, expected one of {sorted(DUEL_REWARDS)}"
        )
    rewarded = "" if reward == "hits" else f"_{reward}"
    # Every digit and no exponent: the task is found again by its name.
    named = "" if health == 100 else f"_{np.format_float_positional(health, trim='-')}hp"
    return Environment(
        name=f"combat/duel{rewarded}{named}",
        entries=tuple(range(len(ENTRIES))),
        turn=math.radians(27),
        max_steps=max_steps,
        reset=_duel_reset,
        draw=None,
        play=_duel_play,
        reward=DUEL_REWARDS[reward],
        view=views.duel,
        health=health,
    )


DUEL = duel()
DUEL_LEVEL = duel(reward="level")
