"""What outputs mean: one action of several, or several keys and angles at once.

A suite has one *form* of outputs. `Discrete` is one action of several: outputs are Q-values or
logits `(..., A)`, an action is an index. `Factored`: every entry of an output is a choice of its
own, and an action is all of them. Both choose, compare and describe in the same words, so that who
plays, measures or keeps what is played need not ask which it is. `Suite.factored` and `Suite.kinds`
tell those who must: losses, which are of one form each; what learns from rewards; files, many of
which hold one form alone; and what a person reads of actions.

A mask, `(A,)` or of any shape that broadcasts to the outputs, says which entries count: the valid
actions of a game, the keys that a skill owns. What stands at others never counts.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("key", "angle")
MOST_ACTIONS = 256
"""Of which one is chosen: logs and replay memories hold it as a byte."""


def mask_outputs(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """`outputs` with invalid actions at the most negative finite value.

    Not -inf: in a KL, 0 * (-inf) would be NaN.
    """
    return jnp.where(mask, outputs, jnp.finfo(outputs.dtype).min)


def greedy(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """The valid action with the largest output, `(..., A)` -> `(...)` int32."""
    return jnp.argmax(mask_outputs(outputs, mask), axis=-1).astype(jnp.int32)


def log_softmax(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """Log-probabilities over valid actions; 0 at invalid ones, so sums may run over all."""
    return jnp.where(mask, jax.nn.log_softmax(mask_outputs(outputs, mask), axis=-1), 0.0)


def softmax(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """Probabilities over valid actions, exactly 0 at invalid ones."""
    return jnp.where(mask, jax.nn.softmax(mask_outputs(outputs, mask), axis=-1), 0.0)


def entropy(outputs: jax.Array, mask: jax.Array) -> jax.Array:
    """Entropy in nats of the softmax over valid actions, `(B,)`."""
    return -jnp.sum(softmax(outputs, mask) * log_softmax(outputs, mask), axis=-1)


def log_probability(outputs: jax.Array, chosen: jax.Array, mask: jax.Array) -> jax.Array:
    """Log-probability in nats of the valid actions `chosen`, `(..., A)` and `(...)` -> `(...)`."""
    return jnp.take_along_axis(log_softmax(outputs, mask), chosen[..., None], axis=-1)[..., 0]


def kl(expert: jax.Array, student: jax.Array, mask: jax.Array) -> jax.Array:
    """KL(softmax(expert) || softmax(student)) over valid actions in nats, `(B,)`."""
    apart = log_softmax(expert, mask) - log_softmax(student, mask)
    return jnp.sum(softmax(expert, mask) * apart, axis=-1)


def regret(student: jax.Array, expert: jax.Array, mask: jax.Array) -> jax.Array:
    """What the student's greedy action costs by the expert's outputs, `(B,)`: 0 where they agree.

    In units of reward for Q-values; near nothing for a tie, which agreement counts as a difference.
    """
    mask = jnp.broadcast_to(mask, student.shape)
    expert = jnp.where(mask, expert.astype(jnp.float32), 0.0)
    chosen = jnp.take_along_axis(expert, greedy(student, mask)[:, None], axis=-1)[:, 0]
    return mask_outputs(expert, mask).max(axis=-1) - chosen


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Outputs that one action of several is chosen by; the functions above, as a form.

    Attributes:
      size: A, the number of actions, at most `MOST_ACTIONS`.
    """

    size: int

    def __post_init__(self) -> None:
        if self.size > MOST_ACTIONS:
            raise ValueError(
                f"{self.size} actions of which one is chosen, expected {MOST_ACTIONS} at most; say "
                f"kinds, where several are chosen at once"
            )

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action: none, it is an index."""
        return ()

    @property
    def action_dtype(self) -> str:
        """NumPy's name of how actions are stored."""
        return "uint8"

    def greedy(self, outputs: jax.Array, mask: jax.Array) -> jax.Array:
        """See `actions.greedy`."""
        return greedy(outputs, mask)

    def tempered(self, outputs: jax.Array, temperature: float | jax.Array) -> jax.Array:
        """Outputs at a softmax temperature."""
        return outputs / temperature

    def choose(
        self,
        outputs: jax.Array,
        mask: jax.Array,
        key: jax.Array,
        *,
        epsilon: float | jax.Array,
        sample: bool = False,
        log_std: jax.Array | None = None,
        seats: jax.Array | np.ndarray,
    ) -> jax.Array:
        """Actions `(N,)` from outputs `(N, A)`: greedy or drawn, and uniform with chance epsilon.

        Both the choice and the uniform draw are over valid actions (`mask`) alone.

        Args:
          sample: draw from the softmax of the outputs, which then are logits.
          log_std: of angles, which there are none of.
          seats: `(N,)` integers. Row n draws with `fold_in(key, seats[n])`, whatever rows are
            beside it.
        """
        del log_std
        mask = jnp.broadcast_to(mask, outputs.shape)

        def draw(seat: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            choice, uniform, coin = jax.random.split(jax.random.fold_in(key, seat), 3)
            shape = outputs.shape[1:]
            return (
                jax.random.gumbel(choice, shape),
                jax.random.gumbel(uniform, shape),
                jax.random.uniform(coin),
            )

        choice_noise, uniform_noise, coin = jax.vmap(draw)(jnp.asarray(seats))
        # The largest of logits plus Gumbel noise is a draw from their softmax.
        chosen = greedy(outputs + choice_noise if sample else outputs, mask)
        return jnp.where(coin < epsilon, greedy(uniform_noise, mask), chosen)

    def log_probability(
        self,
        outputs: jax.Array,
        chosen: jax.Array,
        mask: jax.Array,
        log_std: jax.Array | None = None,
    ) -> jax.Array:
        """See `actions.log_probability`."""
        del log_std
        return log_probability(outputs, chosen, mask)

    def entropy(
        self, outputs: jax.Array, mask: jax.Array, log_std: jax.Array | None = None
    ) -> jax.Array:
        """See `actions.entropy`."""
        del log_std
        return entropy(outputs, mask)

    def kl(
        self,
        student: jax.Array,
        expert: jax.Array,
        mask: jax.Array,
        log_std: jax.Array | None = None,
        expert_log_std: jax.Array | None = None,
    ) -> jax.Array:
        """KL(expert || student) of two rows of logits; see `actions.kl`."""
        del log_std, expert_log_std
        return kl(expert, student, mask)

    def compare(
        self, student: jax.Array, expert: jax.Array, mask: jax.Array
    ) -> dict[str, jax.Array]:
        """How alike two policies choose, `(B,)` each.

        `agreement`: 1 where both choose the same action. `regret`: see `actions.regret`.
        """
        same = greedy(student, mask) == greedy(expert, mask)
        return {
            "agreement": same.astype(jnp.float32),
            "regret": regret(student, expert, mask),
        }

    def compared(self, mask: np.ndarray) -> tuple[str, ...]:
        """What of `compare` says something of one task, of the mask `(A,)`."""
        del mask
        return ("agreement", "regret")

    def problem(self, actions: np.ndarray, count: int, mask: np.ndarray) -> str | None:
        """Why these are not `count` actions of a task of the mask `(A,)`; None if they are."""
        if actions.shape != (count,) or actions.dtype.kind not in "iu":
            return f"expected {count} integer actions, got {actions.dtype} of shape {actions.shape}"
        inside = (actions >= 0) & (actions < len(mask))
        if not (inside & mask[np.where(inside, actions, 0)]).all():
            return f"actions {sorted(set(actions.tolist()))} are not all among its valid ones"
        return None


class Agreement(NamedTuple):
    """How alike two policies choose in each row, both `(B,)` float32.

    Attributes:
      keys: share of the keys that count which both press or both leave; 1 where none counts.
      angles: mean absolute difference over the angles that count, radians; 0 where none counts.
    """

    keys: jax.Array
    angles: jax.Array


@dataclasses.dataclass(frozen=True)
class Factored:
    """Outputs whose entries are independent choices: keys that are down or up, and angles.

    A key is a Bernoulli variable and its output the logit of "down". An angle is a Gaussian
    variable and its output the mean, in radians. Its deviation does not depend on the state, as
    with PPO in Stable-Baselines3: `log_std` `(A,)` holds its logarithm; what stands there at keys
    is not read.

    Methods take outputs `(B, A)` and a mask `(A,)` or `(B, A)` of the entries that count. What
    stands at others, NaN included, reaches neither a result nor a gradient. Actions are `(B, A)`
    float32: 1 for a key that is down and 0 for one that is up, for angles radians, and 0 at entries
    that do not count. An action read is down above 0.5. Nothing is cut to a range here: a task
    does that, and probabilities are of the angle before it.

    Attributes:
      kinds: "key" or "angle" for each of the A entries.
      widest: the largest angle, in radians, of a random action.
    """

    kinds: tuple[str, ...]
    widest: float = math.radians(36)

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise ValueError(
                f"kinds of outputs are {list(self.kinds)}, expected some of {', '.join(KINDS)}"
            )

    @property
    def size(self) -> int:
        """A, the number of entries."""
        return len(self.kinds)

    @property
    def keys(self) -> np.ndarray:
        """`(A,)` bool, which entries are keys."""
        return np.asarray([kind == "key" for kind in self.kinds])

    @property
    def angles(self) -> np.ndarray:
        """`(A,)` bool, which entries are angles."""
        return ~self.keys

    def greedy(self, outputs: jax.Array, mask: jax.Array) -> jax.Array:
        """The likeliest action `(B, A)`: keys down where their logit is above 0, angles' means."""
        outputs, keys, angles = self._read(outputs, mask)
        return jnp.where(keys, outputs > 0, jnp.where(angles, outputs, 0.0)).astype(jnp.float32)

    def tempered(self, outputs: jax.Array, temperature: float | jax.Array) -> jax.Array:
        """Outputs with keys' logits at a temperature; angles stay what they are."""
        return jnp.where(self.keys, outputs / temperature, outputs)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action: a number for every entry."""
        return (self.size,)

    @property
    def action_dtype(self) -> str:
        """NumPy's name of how actions are stored."""
        return "float32"

    def choose(
        self,
        outputs: jax.Array,
        mask: jax.Array,
        key: jax.Array,
        *,
        epsilon: float | jax.Array,
        sample: bool = False,
        log_std: jax.Array | None = None,
        seats: jax.Array | np.ndarray,
    ) -> jax.Array:
        """Actions `(N, A)` from outputs `(N, A)`: likeliest or drawn, and random with epsilon.

        A random action has every key down or up alike often, and every angle anywhere from
        -`widest` to `widest`.

        Args:
          sample: draw from the distribution.
          log_std: of angles, `(A,)`; where it is not given angles are not drawn.
          seats: as `Discrete.choose` takes them.
        """
        choice, coin = jax.random.split(key)
        if sample:
            deviation = jnp.full(self.size, -jnp.inf) if log_std is None else log_std
            chosen = self.sample(outputs, mask, deviation, choice, seats=seats)
        else:
            chosen = self.greedy(outputs, mask)

        def draw(seat: jax.Array) -> tuple[jax.Array, jax.Array]:
            own = jax.random.split(jax.random.fold_in(coin, seat))
            return jax.random.uniform(own[0]), jax.random.uniform(own[1], (self.size,), minval=-1.0)

        toss, uniform = jax.vmap(draw)(jnp.asarray(seats))
        _, keys, angles = self._read(outputs, mask)
        random = jnp.where(keys, uniform > 0, jnp.where(angles, self.widest * uniform, 0.0))
        return jnp.where((toss < epsilon)[:, None], random.astype(jnp.float32), chosen)

    def compare(
        self, student: jax.Array, expert: jax.Array, mask: jax.Array
    ) -> dict[str, jax.Array]:
        """How alike two policies choose, `(B,)` each.

        `agreement`: the share of the keys that count which both press or both leave. `angle_error`:
        the mean distance of the angles that count, in degrees.
        """
        alike = self.agreement(student, expert, mask)
        return {"agreement": alike.keys, "angle_error": jnp.rad2deg(alike.angles)}

    def compared(self, mask: np.ndarray) -> tuple[str, ...]:
        """What of `compare` says something of one task, of the mask `(A,)`."""
        kinds = {kind for kind, counts in zip(self.kinds, mask, strict=True) if counts}
        names = {"key": "agreement", "angle": "angle_error"}
        return tuple(name for kind, name in names.items() if kind in kinds)

    def problem(self, actions: np.ndarray, count: int, mask: np.ndarray) -> str | None:
        """Why these are not `count` actions of a task of the mask `(A,)`; None if they are."""
        del mask  # what does not count may be anything
        if actions.shape != (count, self.size) or actions.dtype.kind not in "fiub":
            return (
                f"expected {count} actions of {self.size} numbers, got {actions.dtype} of shape "
                f"{actions.shape}"
            )
        if not np.isfinite(actions).all():
            return f"actions {actions[~np.isfinite(actions)]} are not finite"
        return None

    def sample(
        self,
        outputs: jax.Array,
        mask: jax.Array,
        log_std: jax.Array,
        key: jax.Array,
        *,
        seats: jax.Array | np.ndarray,
    ) -> jax.Array:
        """Actions `(B, A)` drawn from the distribution.

        Args:
          seats: `(B,)` integers. Row b draws with `fold_in(key, seats[b])`, whatever rows are
            beside it.
        """
        log_std = self._log_std(log_std, outputs, mask)
        outputs, keys, _ = self._read(outputs, mask)

        def draw(seat: jax.Array) -> tuple[jax.Array, jax.Array]:
            press, turn = jax.random.split(jax.random.fold_in(key, seat))
            shape = (self.size,)
            return jax.random.logistic(press, shape), jax.random.normal(turn, shape)

        # A logit plus logistic noise is above 0 as often as the key is to be down.
        logistic, normal = jax.vmap(draw)(jnp.asarray(seats))
        noisy = outputs + jnp.where(keys, logistic, jnp.exp(log_std) * normal)
        return self.greedy(noisy, mask)

    def log_probability(
        self,
        outputs: jax.Array,
        chosen: jax.Array,
        mask: jax.Array,
        log_std: jax.Array | None = None,
    ) -> jax.Array:
        """Log-probability (for angles log-density) in nats of the actions `chosen`, `(B,)`."""
        log_std = self._log_std(log_std, outputs, mask)
        outputs, keys, angles = self._read(outputs, mask)
        chosen = self._read(chosen, mask)[0]
        pressed = jax.nn.log_sigmoid(jnp.where(chosen > 0.5, outputs, -outputs))
        away = (chosen - outputs) * jnp.exp(-log_std)
        turned = -0.5 * jnp.square(away) - log_std - 0.5 * math.log(2 * math.pi)
        return _summed(pressed, keys, turned, angles)

    def entropy(
        self, outputs: jax.Array, mask: jax.Array, log_std: jax.Array | None = None
    ) -> jax.Array:
        """Entropy in nats, `(B,)`: of the keys, and the differential one of the angles."""
        log_std = self._log_std(log_std, outputs, mask)
        outputs, keys, angles = self._read(outputs, mask)
        pressed = jax.nn.softplus(outputs) - outputs * jax.nn.sigmoid(outputs)
        turned = log_std + 0.5 * math.log(2 * math.pi * math.e)
        return _summed(pressed, keys, turned, angles)

    def kl(
        self,
        student: jax.Array,
        expert: jax.Array,
        mask: jax.Array,
        log_std: jax.Array | None = None,
        expert_log_std: jax.Array | None = None,
    ) -> jax.Array:
        """KL(expert || student) in nats, the sum over the entries that count, `(B,)`."""
        log_std = self._log_std(log_std, student, mask)
        expert_log_std = self._log_std(expert_log_std, expert, mask)
        student, keys, angles = self._read(student, mask)
        expert = self._read(expert, mask)[0]
        down = jax.nn.log_sigmoid(expert) - jax.nn.log_sigmoid(student)
        up = jax.nn.log_sigmoid(-expert) - jax.nn.log_sigmoid(-student)
        pressed = jax.nn.sigmoid(expert) * down + jax.nn.sigmoid(-expert) * up
        away = jnp.square(jnp.exp(expert_log_std)) + jnp.square(expert - student)
        turned = log_std - expert_log_std + 0.5 * (away * jnp.exp(-2 * log_std) - 1)
        return _summed(pressed, keys, turned, angles)

    def agreement(self, student: jax.Array, expert: jax.Array, mask: jax.Array) -> Agreement:
        """How alike the greedy actions of two policies are."""
        _, keys, angles = self._read(student, mask)
        student, expert = self.greedy(student, mask), self.greedy(expert, mask)
        differ = jnp.where(keys, student != expert, False).sum(axis=-1)
        apart = jnp.where(angles, jnp.abs(student - expert), 0.0).sum(axis=-1)
        return Agreement(
            keys=1.0 - differ / jnp.maximum(keys.sum(axis=-1), 1),
            angles=apart / jnp.maximum(angles.sum(axis=-1), 1),
        )

    def _read(self, outputs: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Float32 with 0 where nothing counts; and which entries are keys, which angles, that do.

        NaN left standing would reach gradients through 0 * NaN.
        """
        counts = jnp.broadcast_to(mask, outputs.shape)
        read = jnp.where(counts, outputs.astype(jnp.float32), 0.0)
        return read, counts & self.keys, counts & self.angles

    def _log_std(self, log_std: jax.Array | None, outputs: jax.Array, mask: jax.Array) -> jax.Array:
        """`(B, A)` float32, 0 but at angles that count; a deviation that is not given is 1."""
        log_std = jnp.zeros(self.size) if log_std is None else log_std
        _, _, angles = self._read(outputs, mask)
        return jnp.where(angles, jnp.asarray(log_std, jnp.float32), 0.0)


Form = Discrete | Factored


class Choices(NamedTuple):
    """What may be chosen in each of several games.

    Attributes:
      form: what outputs mean, in all of them.
      masks: `(G, A)` bool, the valid actions of each.
      numbers: what the draws of each begin from, see `Task.number`.
    """

    form: Form
    masks: jax.Array
    numbers: Sequence[int]


def _summed(pressed: jax.Array, keys: jax.Array, turned: jax.Array, angles: jax.Array) -> jax.Array:
    """The sum over the entries that count, of each what its kind has, `(B,)`."""
    return jnp.where(keys, pressed, jnp.where(angles, turned, 0.0)).sum(axis=-1)
