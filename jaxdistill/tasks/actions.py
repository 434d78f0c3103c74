"""What outputs mean: one action of several, or several keys and angles at once.

*One of several*: outputs are Q-values or logits `(..., A)`, an action is an index. The functions of
this module read them. A mask, `(A,)` or of any shape that broadcasts to the outputs, says which
actions are valid; what stands at invalid ones never counts.

*Factored*: every entry of an output is a choice of its own, and an action is all of them. The
methods of a `Factored` read them. A mask says which entries count, such as those a skill owns.

Whoever holds outputs is told which they are by a `Factored | None`: None is one of several. Nobody
guesses it from shapes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

KINDS = ("key", "angle")


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


def regret(student: jax.Array, expert: jax.Array, mask: jax.Array) -> jax.Array:
    """What the student's greedy action costs by the expert's outputs, `(B,)`: 0 where they agree.

    In units of reward for Q-values; near nothing for a tie, which agreement counts as a difference.
    """
    mask = jnp.broadcast_to(mask, student.shape)
    expert = jnp.where(mask, expert.astype(jnp.float32), 0.0)
    chosen = jnp.take_along_axis(expert, greedy(student, mask)[:, None], axis=-1)[:, 0]
    return mask_outputs(expert, mask).max(axis=-1) - chosen


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
    """

    kinds: tuple[str, ...]

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

    def greedy(self, outputs: jax.Array, mask: jax.Array) -> jax.Array:
        """The likeliest action `(B, A)`: keys down where their logit is above 0, angles' means."""
        outputs, keys, angles = self._read(outputs, mask)
        return jnp.where(keys, outputs > 0, jnp.where(angles, outputs, 0.0)).astype(jnp.float32)

    def sample(
        self,
        outputs: jax.Array,
        mask: jax.Array,
        log_std: jax.Array,
        key: jax.Array,
        *,
        seats: jax.Array,
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
        self, outputs: jax.Array, chosen: jax.Array, mask: jax.Array, log_std: jax.Array
    ) -> jax.Array:
        """Log-probability (for angles log-density) in nats of the actions `chosen`, `(B,)`."""
        log_std = self._log_std(log_std, outputs, mask)
        outputs, keys, angles = self._read(outputs, mask)
        chosen = self._read(chosen, mask)[0]
        pressed = jax.nn.log_sigmoid(jnp.where(chosen > 0.5, outputs, -outputs))
        away = (chosen - outputs) * jnp.exp(-log_std)
        turned = -0.5 * jnp.square(away) - log_std - 0.5 * math.log(2 * math.pi)
        return _summed(pressed, keys, turned, angles)

    def entropy(self, outputs: jax.Array, mask: jax.Array, log_std: jax.Array) -> jax.Array:
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
        log_std: jax.Array,
        expert_log_std: jax.Array,
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
        keys = jnp.asarray([kind == "key" for kind in self.kinds])
        read = jnp.where(counts, outputs.astype(jnp.float32), 0.0)
        return read, counts & keys, counts & ~keys

    def _log_std(self, log_std: jax.Array, outputs: jax.Array, mask: jax.Array) -> jax.Array:
        """`(B, A)` float32, 0 but at angles that count."""
        _, _, angles = self._read(outputs, mask)
        return jnp.where(angles, jnp.asarray(log_std, jnp.float32), 0.0)


def _summed(pressed: jax.Array, keys: jax.Array, turned: jax.Array, angles: jax.Array) -> jax.Array:
    """The sum over the entries that count, of each what its kind has, `(B,)`."""
    return jnp.where(keys, pressed, jnp.where(angles, turned, 0.0)).sum(axis=-1)
