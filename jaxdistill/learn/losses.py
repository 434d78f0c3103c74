"""Per-example losses over valid actions, and the balance over games; nothing else.

Every loss takes student outputs and expert outputs `(B, A)`, a validity mask `(B, A)` (or any shape
that broadcasts to it) and a temperature, a number or `(B, 1)`, and returns `(B,)` float32. Invalid
actions never count, whatever stands there. Losses that know no temperature ignore it.

Q-values differ little between actions, so a temperature of 0.01 turns them into nearly the greedy
choice (Rusu et al. 2015); an expert's logits are a policy as they are, at temperature 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from jaxdistill.tasks import actions
from jaxdistill.tasks.actions import Factored, Form
from jaxdistill.text import one_line


def mse(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """Mean squared difference over valid actions (Rusu et al. 2015, eq. 2, as a mean)."""
    del temperature
    student, expert, mask = _checked(student, expert, mask)
    return _mean(jnp.square(student - expert), mask)


def huber(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """Mean Huber loss over valid actions: half the square up to 1, then linear (Huber 1964)."""
    del temperature
    student, expert, mask = _checked(student, expert, mask)
    size = jnp.abs(student - expert)
    within = jnp.minimum(size, 1.0)
    return _mean(within * (size - 0.5 * within), mask)


def advantage_mse(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """`mse` after each side's mean over valid actions is taken away: what choices depend on."""
    del temperature
    student, expert, mask = _checked(student, expert, mask)
    return _mean(jnp.square(_centred(student, mask) - _centred(expert, mask)), mask)


def standardised_mse(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """`mse` to the expert's Q-values standardised in each state: mean 0, variance 1 over actions.

    A game of large rewards then says no more than one of small ones. Where all actions are worth
    the same the target is 0. The student's outputs are neither Q-values nor logits: they say which
    action is better, and by how many deviations.
    """
    del temperature
    student, expert, mask = _checked(student, expert, mask)
    # Twice: the mean of equal ones is off by a last bit, which would be divided by itself.
    centred = _centred(_centred(expert, mask), mask)
    deviation = jnp.sqrt(_mean(jnp.square(centred), mask))[:, None]
    target = jnp.where(deviation > 1e-6, centred / jnp.maximum(deviation, 1e-6), 0.0)
    return _mean(jnp.square(student - target), mask)


def log_prob_mse(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """Mean squared difference of log-probabilities; the expert's are at its temperature."""
    student, expert, mask = _checked(student, expert, mask)
    expert = actions.log_softmax(expert / temperature, mask)
    return _mean(jnp.square(actions.log_softmax(student, mask) - expert), mask)


def nll(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """-log softmax(student) of the expert's greedy action (Rusu et al. 2015, eq. 1)."""
    del temperature
    student, expert, mask = _checked(student, expert, mask)
    best = actions.greedy(expert, mask)
    return -jnp.take_along_axis(actions.log_softmax(student, mask), best[:, None], axis=-1)[:, 0]


def kl(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """KL(softmax(expert / temperature) || softmax(student)) (Rusu et al. 2015, eq. 3).

    The temperature is the *expert's* alone: the student learns logits of the sharpened policy.
    """
    student, expert, mask = _checked(student, expert, mask)
    return actions.kl(expert / temperature, student, mask)


def hinton_kl(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """t^2 KL(softmax(expert / t) || softmax(student / t)), t on both sides (Hinton et al. 2015)."""
    scaled = q_kl(student, expert, mask, temperature)
    return scaled * jnp.reshape(jnp.asarray(temperature), (-1,))


def reverse_kl(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """KL(softmax(student) || softmax(expert / temperature)): seeks one of the expert's modes."""
    student, expert, mask = _checked(student, expert, mask)
    return actions.kl(student, expert / temperature, mask)


def q_kl(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """t KL(softmax(expert / t) || softmax(student / t)): `hinton_kl` on the scale of the outputs.

    Its gradient is a difference of probabilities, whatever the scale of the outputs.
    """
    student, expert, mask = _checked(student, expert, mask)
    divergence = actions.kl(expert / temperature, student / temperature, mask)
    return divergence * jnp.reshape(jnp.asarray(temperature), (-1,))


def q_values(
    student: jax.Array, expert: jax.Array, mask: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """`0.2 mse + 20 advantage_mse + q_kl`: Q-values that also choose alike.

    The squared error of Q-values is nearly all about the state's value, which chooses nothing: 95%
    of it in students of three games. Advantages are a hundredth of the size and made to count as
    much; the last term sees to the nearest choices, and vanishes for the expert's own Q-values.
    """
    values, advantages = mse(student, expert, mask), advantage_mse(student, expert, mask)
    return 0.2 * values + 20.0 * advantages + q_kl(student, expert, mask, temperature)


@dataclasses.dataclass(frozen=True)
class Loss:
    """One way to learn from an expert.

    Attributes:
      function: the loss.
      of_q: it compares Q-values, so an expert with logits is refused.
      gives_q: the student's outputs end on the scale of the expert's, but for a constant in each
        state. So they are Q-values where those are, and become a policy at the same temperature.
      tempered: it reads the expert's temperature.
    """

    function: Callable[..., jax.Array]
    of_q: bool = False
    gives_q: bool = False
    tempered: bool = False


LOSSES: dict[str, Loss] = {
    "kl": Loss(kl, tempered=True),
    "hinton_kl": Loss(hinton_kl, gives_q=True, tempered=True),
    "q_kl": Loss(q_kl, gives_q=True, tempered=True),
    "reverse_kl": Loss(reverse_kl, tempered=True),
    "nll": Loss(nll),
    "log_prob_mse": Loss(log_prob_mse, tempered=True),
    "mse": Loss(mse, of_q=True, gives_q=True),
    "huber": Loss(huber, of_q=True, gives_q=True),
    "advantage_mse": Loss(advantage_mse, of_q=True, gives_q=True),
    "standardised_mse": Loss(standardised_mse, of_q=True),
    "q_values": Loss(q_values, of_q=True, gives_q=True, tempered=True),
}


ANGLE_DEVIATION = math.radians(3)
"""Of angles, where a loss needs one and an expert has none of its own."""


def factored(form: Factored) -> dict[str, Loss]:
    """The losses of keys and angles. All are means over the entries that count, but for the last.

    `kl`: KL(expert || student), of keys as Bernoulli variables with the expert's logits over the
    temperature, of angles as Gaussians with a deviation of 3 degrees on both sides. `squared`:
    squared difference of how likely a key is to be down, and of angles in radians, from what the
    expert would do. `squared_all`: the same over all entries of the output, of which those that do
    not count are to be 0: what one gets who gathers several skills' actions in one vector.
    """

    def spread(expert: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jnp.broadcast_to(mask, expert.shape), jnp.full(form.size, math.log(ANGLE_DEVIATION))

    def kl_(student: jax.Array, expert: jax.Array, mask: jax.Array, temperature=1.0) -> jax.Array:
        counts, log_std = spread(expert, mask)
        expert = form.tempered(expert, temperature)
        return form.kl(student, expert, counts, log_std, log_std) / counts.sum(axis=-1)

    def errors(student: jax.Array, expert: jax.Array, mask: jax.Array) -> jax.Array:
        student = student.astype(jnp.float32)
        does = jnp.where(form.keys, jax.nn.sigmoid(student), student)
        return jnp.square(does - form.greedy(expert, mask))

    def squared(student: jax.Array, expert: jax.Array, mask: jax.Array, _=1.0) -> jax.Array:
        counts, _ = spread(expert, mask)
        return _mean(errors(jnp.where(counts, student, 0.0), expert, mask), counts)

    def squared_all(student: jax.Array, expert: jax.Array, mask: jax.Array, _=1.0) -> jax.Array:
        return errors(student, expert, mask).mean(axis=-1)

    return {
        "kl": Loss(kl_, tempered=True),
        "squared": Loss(squared),
        "squared_all": Loss(squared_all),
    }


FACTORED = ("kl", "squared", "squared_all")


def of(form: Form) -> dict[str, Loss]:
    """The losses of outputs of this form, by name."""
    return factored(form) if isinstance(form, Factored) else LOSSES


def check(name: str, form: Form, loss: Any) -> None:
    """Refuses a loss that is not what the rest relies on, before anything is played for it.

    Args:
      name: of the setting and the loss, for the message.
      form: what the outputs mean that it compares.

    Raises:
      ValueError: it is no `Loss`, fails, or does not give `(B,)` numbers.
    """
    if not isinstance(loss, Loss):
        kind = "a function" if callable(loss) else f"a {type(loss).__name__}"
        raise ValueError(f"{name} is {kind}, expected losses.Loss(function)")
    rows, width = 7 if form.size == 3 else 3, form.size  # B and A are two numbers
    outputs = jax.ShapeDtypeStruct((rows, width), jnp.float32)
    mask = jax.ShapeDtypeStruct((rows, width), jnp.bool_)
    temperature = jax.ShapeDtypeStruct((rows, 1), jnp.float32)
    try:
        given = jax.eval_shape(loss.function, outputs, outputs, mask, temperature)
    except Exception as error:  # whatever a function of somebody's raises
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(
            f"{name} fails for student and expert (B, A), mask (B, A) and temperature (B, 1): "
            f"{reason}"
        ) from error
    shape, dtype = getattr(given, "shape", None), getattr(given, "dtype", None)
    if shape != (rows,) or dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        names = {rows: "B", width: "A"}
        found = type(given).__name__
        if shape is not None:
            sizes = ", ".join(names.get(size, str(size)) for size in shape)
            found = f"({sizes}{',' if len(shape) == 1 else ''}) of {dtype}"
        raise ValueError(f"{name} gives {found}, expected (B,) of float32")


def per_game_mean(values: jax.Array, games: jax.Array, num_games: int) -> jax.Array:
    """Mean of `values` `(B,)` over the rows of each game, `(G,)`; 0 for a game without rows.

    Averaging these gives every game the same say, however many rows it has.
    """
    chex.assert_equal_shape([values, games])
    sums = jnp.zeros(num_games, values.dtype).at[games].add(values)
    rows = jnp.zeros(num_games, values.dtype).at[games].add(1.0)
    return sums / jnp.maximum(rows, 1.0)


def _checked(
    student: jax.Array, expert: jax.Array, mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Float32, with 0 at invalid actions: NaN there would reach the gradient through 0 * NaN."""
    chex.assert_rank([student, expert], 2)
    chex.assert_equal_shape([student, expert])
    mask = jnp.broadcast_to(mask, student.shape)
    return (
        jnp.where(mask, student.astype(jnp.float32), 0.0),
        jnp.where(mask, expert.astype(jnp.float32), 0.0),
        mask,
    )


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over valid actions."""
    return jnp.where(mask, values, 0.0).sum(axis=-1) / mask.sum(axis=-1)


def _centred(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.where(mask, values - _mean(values, mask)[:, None], 0.0)
