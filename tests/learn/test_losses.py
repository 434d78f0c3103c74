"""Tests for the losses: numbers by hand, invalid actions, temperature, balance."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.learn import losses
from jaxdistill.tasks.actions import (
    Discrete,
    Factored,
    entropy,
    greedy,
    log_softmax,
    regret,
    softmax,
)

LN2, LN3 = np.log(2.0), np.log(3.0)


@pytest.fixture(params=[False, True], ids=["plain", "jit"])
def maybe_jit(request):
    return jax.jit if request.param else lambda f, **_: f


def test_mse_by_hand(maybe_jit):
    student = jnp.array([[1.0, 2.0, 5.0], [0.5, 0.0, 1.0]])
    expert = jnp.array([[0.0, 4.0, 100.0], [0.0, 7.0, -2.0]])
    mask = jnp.array([[True, True, False], [True, False, True]])
    # Row 0: ((1 - 0)^2 + (2 - 4)^2) / 2 = 2.5. Row 1: (0.25 + 9) / 2 = 4.625.
    actual = maybe_jit(losses.mse)(student, expert, mask)
    np.testing.assert_allclose(actual, [2.5, 4.625], rtol=1e-6)
    assert actual.dtype == jnp.float32


TWO = jnp.array([True, False, True])


def test_huber_by_hand(maybe_jit):
    # |0.5| is within 1: 0.125. |3| is beyond: 3 - 0.5 = 2.5. Their mean is 1.3125.
    student, expert = jnp.array([[0.5, 7.0, 1.0]]), jnp.array([[0.0, -7.0, 4.0]])
    np.testing.assert_allclose(maybe_jit(losses.huber)(student, expert, TWO), [1.3125], rtol=1e-6)


def test_advantage_mse_by_hand(maybe_jit):
    # Advantages: student (-1, 1), expert (-3, 3); both differences are 2. A constant says nothing.
    student, expert = jnp.array([[10.0, 99.0, 12.0]]), jnp.array([[0.0, -7.0, 6.0]])
    np.testing.assert_allclose(maybe_jit(losses.advantage_mse)(student, expert, TWO), [4.0])


def test_standardised_mse_by_hand(maybe_jit):
    # The expert's (0, 6) have mean 3 and deviation 3: the target is (-1, 1), whatever their scale.
    student = jnp.array([[0.0, 99.0, 2.0]])
    for expert in ([[0.0, -7.0, 6.0]], [[50.0, -7.0, 650.0]]):
        actual = maybe_jit(losses.standardised_mse)(student, jnp.array(expert), TWO)
        np.testing.assert_allclose(actual, [1.0], rtol=1e-6)
    flat = jnp.array([[5.0, -7.0, 5.0]])
    np.testing.assert_allclose(maybe_jit(losses.standardised_mse)(student, flat, TWO), [2.0])
    # Whose mean over many actions is off by a last bit.
    equal = jnp.broadcast_to(jnp.linspace(0.1, 300, 999)[:, None], (999, 18))
    loss = maybe_jit(losses.standardised_mse)(jnp.zeros((999, 18)), equal, jnp.ones(18, bool))
    np.testing.assert_array_equal(loss, np.zeros(999))


def test_log_prob_mse_by_hand(maybe_jit):
    # Expert (3/4, 1/4), student (1/2, 1/2): ln(3/2)^2 and ln(1/2)^2, halved.
    student, expert = jnp.array([[4.0, 99.0, 4.0]]), jnp.array([[2 * LN3, -7.0, 0.0]])
    wanted = (np.log(1.5) ** 2 + LN2**2) / 2
    actual = maybe_jit(losses.log_prob_mse)(student, expert, TWO, 2.0)
    np.testing.assert_allclose(actual, [wanted], rtol=1e-6)


def test_nll_by_hand(maybe_jit):
    # The expert's best valid action is the last; the student gives it 1/4.
    student, expert = jnp.array([[LN3, 99.0, 0.0]]), jnp.array([[1.0, 50.0, 1.1]])
    np.testing.assert_allclose(maybe_jit(losses.nll)(student, expert, TWO), [2 * LN2], rtol=1e-6)


def test_hinton_kl_divides_both_sides(maybe_jit):
    # At temperature 2: expert (3/4, 1/4), student (1/2, 1/2), times 4.
    student, expert = jnp.array([[0.0, 99.0, 0.0]]), jnp.array([[2 * LN3, -7.0, 0.0]])
    actual = maybe_jit(losses.hinton_kl)(student, expert, TWO, 2.0)
    np.testing.assert_allclose(actual, [4 * 0.130812], rtol=1e-5)
    half = losses.hinton_kl(expert / 2, expert, TWO, 0.5)
    assert half[0] > 0.01  # the student's own scale counts
    rows = losses.hinton_kl(
        jnp.tile(student, (2, 1)), jnp.tile(expert, (2, 1)), TWO, jnp.array([[2.0], [2.0]])
    )
    np.testing.assert_allclose(rows, [4 * 0.130812] * 2, rtol=1e-5)


def test_reverse_kl_swaps_the_sides(maybe_jit):
    # Student (1/2, 1/2) against expert (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2.
    student, expert = jnp.array([[0.0, 99.0, 0.0]]), jnp.array([[0.01 * LN3, -7.0, 0.0]])
    actual = maybe_jit(losses.reverse_kl)(student, expert, TWO, 0.01)
    np.testing.assert_allclose(actual, [0.143841], rtol=1e-4)


def test_q_kl_by_hand(maybe_jit):
    # Twice the KL at temperature 2, (3/4, 1/4) of the expert against (1/2, 1/2).
    student, expert = jnp.array([[0.0, 99.0, 0.0]]), jnp.array([[2 * LN3, -7.0, 0.0]])
    actual = maybe_jit(losses.q_kl)(student, expert, TWO, 2.0)
    np.testing.assert_allclose(actual, [2 * 0.130812], rtol=1e-5)


def test_q_values_by_hand(maybe_jit):
    # mse (2 ln 3)^2 / 2, that of advantages of ln 3 either way, and twice the KL at temperature 2.
    student, expert = jnp.array([[0.0, 99.0, 0.0]]), jnp.array([[2 * LN3, -7.0, 0.0]])
    actual = maybe_jit(losses.q_values)(student, expert, TWO, 2.0)
    np.testing.assert_allclose(actual, [0.2 * 2 * LN3**2 + 20 * LN3**2 + 2 * 0.130812], rtol=1e-5)
    np.testing.assert_allclose(losses.q_values(expert, expert, TWO, 0.01), [0.0], atol=1e-6)


def test_kl_by_hand(maybe_jit):
    # The expert's softmax over its two valid actions is (3/4, 1/4), the student's (1/2, 1/2):
    # 3/4 ln(3/2) + 1/4 ln(1/2) = 0.304099 - 0.173287 = 0.130812.
    # Second row: expert (1/2, 1/2), student (3/4, 1/4): 1/2 ln(2/3) + 1/2 ln 2 = 0.143841.
    student = jnp.array([[0.0, 9.0, 0.0], [LN3, 9.0, 0.0]])
    expert = jnp.array([[LN3, -5.0, 0.0], [0.0, 50.0, 0.0]])
    mask = jnp.array([True, False, True])
    actual = maybe_jit(losses.kl)(student, expert, mask)
    np.testing.assert_allclose(actual, [0.130812, 0.143841], rtol=1e-5)
    assert actual.dtype == jnp.float32


def test_kl_is_zero_exactly_where_the_distributions_agree():
    mask = jnp.array([True, True, False])
    expert = jnp.array([[1.0, 2.0, 3.0]])
    np.testing.assert_allclose(losses.kl(expert + 10, expert, mask), [0.0], atol=1e-6)
    assert losses.kl(expert * 2, expert, mask)[0] > 0.01


def test_the_temperature_is_the_experts_alone(maybe_jit):
    # With tau = 0.01 the Q-values (0.01 ln 3, 0) are the distribution (3/4, 1/4). A student whose
    # logits are (ln 3, 0) says the same: were its logits divided too, they would be (1, 3^-100).
    kl = maybe_jit(losses.kl)
    expert, mask = jnp.array([[0.01 * LN3, 0.0]]), jnp.array([True, True])
    np.testing.assert_allclose(kl(jnp.array([[LN3, 0.0]]), expert, mask, 0.01), [0.0], atol=1e-5)
    np.testing.assert_allclose(kl(jnp.zeros((1, 2)), expert, mask, 0.01), [0.130812], rtol=1e-4)


def test_each_row_may_have_its_own_temperature():
    expert = jnp.array([[LN3, 0.0], [LN3, 0.0]])
    # Halving the temperature squares the odds: (3/4, 1/4) becomes (9/10, 1/10), and against (1/2,
    # 1/2) that is ln 2 + 0.9 ln 0.9 + 0.1 ln 0.1 = 0.368064.
    actual = losses.kl(
        jnp.zeros((2, 2)), expert, jnp.array([True, True]), jnp.array([[1.0], [0.5]])
    )
    np.testing.assert_allclose(actual, [0.130812, 0.368064], rtol=1e-5)


def test_probabilities_and_entropy_by_hand(maybe_jit):
    outputs = jnp.array([[LN3, 77.0, 0.0], [5.0, 77.0, 5.0]])
    mask = jnp.array([True, False, True])
    np.testing.assert_allclose(
        maybe_jit(softmax)(outputs, mask), [[0.75, 0, 0.25], [0.5, 0, 0.5]], rtol=1e-6
    )
    np.testing.assert_allclose(
        maybe_jit(log_softmax)(outputs, mask),
        [[np.log(0.75), 0, np.log(0.25)], [-LN2, 0, -LN2]],
        rtol=1e-6,
    )
    # -(3/4 ln 3/4 + 1/4 ln 1/4) = 0.562335; two equal actions have ln 2.
    np.testing.assert_allclose(maybe_jit(entropy)(outputs, mask), [0.562335, LN2], rtol=1e-5)


def test_greedy_takes_the_best_valid_action_even_if_all_are_very_negative():
    outputs = jnp.array([[0.0, -1e30, -1e20], [3.0, 2.0, 1.0]])
    mask = jnp.array([[False, True, True], [True, True, True]])
    np.testing.assert_array_equal(greedy(outputs, mask), [2, 0])


def test_regret_by_hand():
    mask = jnp.array(
        [[True, False, True, True], [True, True, True, True], [False, True, True, False]]
    )
    expert = jnp.array([[0.5, 9.0, 0.2, 0.45], [0.1, 0.4, 0.4, 0.3], [9.0, -1.0, -1.5, 9.0]])
    student = jnp.array([[0.0, 5.0, 0.1, 0.7], [0.0, 0.0, 2.0, 0.0], [7.0, -3.0, -2.0, 7.0]])
    # 0.5 - 0.45; the other of two equal actions; -1.0 - (-1.5).
    np.testing.assert_allclose(regret(student, expert, mask), [0.05, 0.0, 0.5], atol=1e-6)
    np.testing.assert_array_equal(regret(expert, expert, mask), 0.0)


# NaN and infinities in the gradient of `mse` are the trap here: where() keeps them out of the loss,
# yet its derivative multiplies a zero with them unless the *difference* is masked before squaring.
@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 3e38, -3e38, 1e20])
@pytest.mark.parametrize("where", ["student", "expert", "both"])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
@pytest.mark.parametrize("name", losses.LOSSES)
def test_whatever_stands_at_invalid_actions_changes_neither_loss_nor_gradient(
    name, temperature, where, junk
):
    mask = jnp.array([[True, False, True, False], [False, True, True, True]])
    student = jnp.array([[0.3, 0.0, -0.2, 0.0], [0.0, 0.4, 0.1, 0.9]])
    expert = jnp.array([[1.2, 0.0, 0.5, 0.0], [0.0, -0.7, 0.2, 0.1]])

    def loss(student, expert):
        return losses.LOSSES[name].function(student, expert, mask, temperature)

    def value_and_gradient(student, expert):
        gradient = jax.grad(lambda s: loss(s, expert).sum())(student)
        return loss(student, expert), gradient

    clean = value_and_gradient(student, expert)
    spoilt_student = jnp.where(mask, student, junk) if where != "expert" else student
    spoilt_expert = jnp.where(mask, expert, junk) if where != "student" else expert
    for got, wanted in zip(value_and_gradient(spoilt_student, spoilt_expert), clean, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert (clean[1][~mask] == 0).all() and (jnp.abs(clean[1][mask]) > 1e-5).all()


@pytest.mark.parametrize("junk", [np.nan, np.inf, -np.inf, 3e38])
def test_whatever_stands_at_invalid_actions_changes_no_probability(junk):
    mask = jnp.array([True, False, True])
    clean, spoilt = jnp.array([[0.3, 0.0, -0.2]]), jnp.array([[0.3, junk, -0.2]])
    for function in (softmax, log_softmax, entropy, greedy):
        np.testing.assert_array_equal(function(spoilt, mask), function(clean, mask))


@pytest.mark.parametrize("scale", [0.1, 20.0, 1e4, 1e6])
def test_kl_is_finite_with_the_papers_temperature(scale):
    key = jax.random.key(0)
    expert = scale * jax.random.normal(key, (16, 6))
    student = 10 * jax.random.normal(jax.random.fold_in(key, 1), (16, 6))
    mask = jnp.arange(6) % 2 == 0

    def loss(student):
        return losses.kl(student, expert, mask, 0.01).mean()

    value, gradient = jax.value_and_grad(loss)(student)
    assert np.isfinite(value) and value > 0
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize("name", losses.LOSSES)
def test_losses_are_float32_whatever_the_network_computes_in(name):
    student = jnp.array([[1.0, 2.0]], jnp.bfloat16)
    expert = jnp.array([[1.0, 2.125]], jnp.float32)
    mask = jnp.array([True, True])
    loss = losses.LOSSES[name].function
    actual = loss(student, expert, mask)
    assert actual.dtype == jnp.float32
    np.testing.assert_array_equal(actual, loss(student.astype(jnp.float32), expert, mask))


def test_outputs_of_different_shapes_are_refused():
    with pytest.raises(AssertionError):
        losses.mse(jnp.zeros((2, 3)), jnp.zeros((1, 3)), jnp.ones(3, bool))


def test_per_game_mean_by_hand(maybe_jit):
    values = jnp.array([1.0, 10.0, 2.0, 6.0])
    games = jnp.array([0, 2, 0, 0])
    actual = maybe_jit(losses.per_game_mean, static_argnums=2)(values, games, 4)
    # (1 + 2 + 6) / 3 = 3; no row; 10 / 1; no row.
    np.testing.assert_allclose(actual, [3.0, 0.0, 10.0, 0.0])


def _game_gradients(student, expert, games, temperature=1.0, loss=losses.kl):
    """Norm of the gradient that each game's rows send into the balanced loss, as a sum of rows."""

    def balanced(student):
        values = loss(student, expert, jnp.ones(student.shape[1], bool), temperature)
        return losses.per_game_mean(values, games, 2).mean()

    gradient = jax.grad(balanced)(student)
    return [float(jnp.linalg.norm(gradient[games == game].sum(axis=0))) for game in (0, 1)]


def test_a_game_with_more_rows_does_not_win():
    games = jnp.array([0] * 30 + [1])
    expert = jnp.tile(jnp.array([[LN3, 0.0]]), (31, 1))
    many, one = _game_gradients(jnp.zeros((31, 2)), expert, games)
    # Every row's gradient is softmax(student) - p = (-1/4, 1/4); each game gets half of it.
    np.testing.assert_allclose([many, one], 0.5 * np.sqrt(2) / 4, rtol=1e-5)


def test_a_game_with_larger_q_values_does_not_win():
    # Q-values a thousand times as large, at a temperature under which both choose action 0.
    games = jnp.array([0, 1])
    expert = jnp.array([[1000.0, 0.0], [1.0, 0.0]])
    large, small = _game_gradients(jnp.zeros((2, 2)), expert, games, temperature=0.01)
    # p = (1, 0) in both: |(1/2, 1/2) - (1, 0)| / 2 = 0.353553.
    np.testing.assert_allclose([large, small], 0.353553, rtol=1e-5)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_docs_say_by_which_losses_a_game_with_larger_q_values_wins(name):
    games, expert = jnp.array([0, 1]), jnp.array([[1000.0, 0.0], [1.0, 0.0]])
    large, small = _game_gradients(
        jnp.zeros((2, 2)), expert, games, temperature=0.01, loss=losses.LOSSES[name].function
    )
    even = ("kl", "hinton_kl", "q_kl", "nll", "standardised_mse", "huber")
    assert large == pytest.approx(small if name in even else 1000 * small, rel=0.1)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_loss_says_whether_it_reads_a_temperature(name):
    student, expert = jnp.array([[0.5, -0.25, 1.0]]), jnp.array([[1.0, 0.0, 0.5]])
    loss, every = losses.LOSSES[name], jnp.ones(3, bool)
    values = [float(loss.function(student, expert, every, t)[0]) for t in (1.0, 0.5)]
    assert (abs(values[0] - values[1]) > 1e-3) == loss.tempered


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_loss_says_whether_outputs_end_on_the_scale_of_the_expert_s(name):
    """Then the expert's own outputs are the least of it, and ten times as much is not.

    A constant in a state may be left open.
    """
    expert, every = jnp.array([[0.03, -0.01, 0.02]]), jnp.ones(3, bool)
    loss = losses.LOSSES[name]

    def value(student):
        return float(loss.function(student, expert, every, 0.01)[0])

    own = value(expert)
    assert loss.gives_q == (abs(own) < 1e-6 and value(10 * expert) > 1e-6)


# --- Keys and angles.

HANDS = Factored(("key", "key", "angle"))
KEYED = losses.factored(HANDS)
KEY = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)  # KL of 3/4 and 1/2
ANGLE = 0.1**2 / (2 * math.radians(3) ** 2)  # of means 0.1 apart, both deviations 3 degrees


def test_losses_are_those_of_the_form():
    assert losses.of(Discrete(3)) is losses.LOSSES
    assert tuple(losses.of(HANDS)) == losses.FACTORED == ("kl", "squared", "squared_all")
    assert not any(loss.of_q or loss.gives_q for loss in losses.of(HANDS).values())


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        # The entry between does not count, and the mean is over two.
        ("kl", [(KEY + ANGLE) / 2, ANGLE / 2]),
        # The expert would press: half of it is missing. Then three quarters, pressed in vain.
        ("squared", [(0.25 + 0.01) / 2, (0.0625 + 0.01) / 2]),
        # The second key, down with 3/4 and 1/2, should be nothing.
        ("squared_all", [(0.25 + 0.5625 + 0.01) / 3, (0.0625 + 0.25 + 0.01) / 3]),
    ],
)
def test_losses_of_keys_and_angles_by_hand(maybe_jit, name, wanted):
    student = jnp.array([[0.0, LN3, 0.2], [LN3, 0.0, -0.1]])
    expert = jnp.array([[LN3, -9.0, 0.1], [LN3, 9.0, 0.0]])
    actual = maybe_jit(KEYED[name].function)(student, expert, TWO)
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-7)
    assert actual.dtype == jnp.float32


def test_a_temperature_sharpens_keys_and_leaves_angles_alone(maybe_jit):
    """One for all rows, or each its own; the student's are as they are."""
    student, expert = jnp.array([[0.0, 5.0, 0.2]]), jnp.array([[2 * LN3, 5.0, 0.1]])
    function = maybe_jit(KEYED["kl"].function)
    np.testing.assert_allclose(function(student, expert, TWO, 2.0), [(KEY + ANGLE) / 2], rtol=1e-5)
    rows = function(
        jnp.tile(student, (2, 1)), jnp.tile(expert, (2, 1)), TWO, jnp.array([[2.0], [1.0]])
    )
    # At 1 the expert presses with 9/10.
    sharper = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    np.testing.assert_allclose(rows, [(KEY + ANGLE) / 2, (sharper + ANGLE) / 2], rtol=1e-5)
    for name, loss in KEYED.items():
        values = [float(loss.function(student, expert, TWO, t)[0]) for t in (1.0, 0.5)]
        assert (abs(values[0] - values[1]) > 1e-3) == loss.tempered == (name == "kl")


def test_each_row_has_the_entries_of_its_own_skill():
    masks = jnp.array([[True, True, False], [False, False, True]])
    student = jnp.array([[0.0, 0.0, 9.0], [9.0, 9.0, 0.1]])
    expert = jnp.array([[LN3, 0.0, -9.0], [-9.0, -9.0, 0.0]])
    np.testing.assert_allclose(
        KEYED["kl"].function(student, expert, masks), [KEY / 2, ANGLE], rtol=1e-5
    )
    np.testing.assert_allclose(
        KEYED["squared"].function(student, expert, masks), [(0.25 + 0.25) / 2, 0.01], rtol=1e-5
    )


@pytest.mark.parametrize("name", losses.FACTORED)
@pytest.mark.parametrize("junk", [math.nan, math.inf, 1e30], ids=str)
def test_what_does_not_count_reaches_neither_value_nor_gradient(name, junk):
    """But for the last loss, which wants the student's entries to be 0 there."""
    rng = np.random.default_rng(0)
    student, expert = rng.normal(size=(2, 4, 3)).astype(np.float32)
    mask = np.array([[True, False, True]] * 2 + [[False, True, False]] * 2)
    function = KEYED[name].function
    total = jax.value_and_grad(lambda x, y, t: function(x, y, mask, t).sum(), argnums=(0, 1))
    clean = total(student, expert, 0.5)
    spoilt_expert = np.where(mask, expert, np.float32(junk))
    everything = name == "squared_all"
    spoilt_student = student if everything else np.where(mask, student, np.float32(junk))
    spoilt = total(spoilt_student, spoilt_expert, 0.5)
    for a, b in zip(jax.tree.leaves(clean), jax.tree.leaves(spoilt), strict=True):
        np.testing.assert_array_equal(a, b)
    gradient = np.asarray(clean[1][0])
    assert gradient[mask].all() and gradient[~mask].any() == everything
    assert np.isfinite(gradient).all()


def test_parity_with_torch_of_keys_and_angles():
    torch = pytest.importorskip("torch")
    form = Factored(("key",) * 7 + ("angle",) * 2)
    rng = np.random.default_rng(1)
    student, expert = rng.normal(size=(2, 5, 9)).astype(np.float32)
    ours, theirs = (torch.from_numpy(x) for x in (student, expert))
    keys = torch.distributions.kl_divergence(
        torch.distributions.Bernoulli(logits=theirs[:, :7] / 0.5),
        torch.distributions.Bernoulli(logits=ours[:, :7]),
    )
    spread = math.radians(3)
    angles = torch.distributions.kl_divergence(
        torch.distributions.Normal(theirs[:, 7:], spread),
        torch.distributions.Normal(ours[:, 7:], spread),
    )
    every = jnp.ones(9, bool)
    np.testing.assert_allclose(
        losses.factored(form)["kl"].function(student, expert, every, 0.5),
        torch.cat([keys, angles], dim=1).mean(dim=1),
        rtol=1e-5,
    )
    # As a student trained the published way learns its nine numbers.
    wanted = torch.cat([(theirs[:, :7] > 0).float(), theirs[:, 7:]], dim=1)
    said = torch.cat([torch.sigmoid(ours[:, :7]), ours[:, 7:]], dim=1)
    squared = torch.nn.functional.mse_loss(said, wanted, reduction="none").mean(dim=1)
    for name in ("squared", "squared_all"):
        actual = losses.factored(form)[name].function(student, expert, every)
        np.testing.assert_allclose(actual, squared, rtol=1e-5)


@pytest.mark.parametrize("name", losses.FACTORED)
def test_losses_of_keys_and_angles_are_float32_whatever_the_network_computes_in(name):
    student = jnp.array([[0.3, -2.0, 0.125]], jnp.bfloat16)
    expert = jnp.array([[1.0, 2.125, 0.25]], jnp.float32)
    function = KEYED[name].function
    actual = function(student, expert, jnp.ones(3, bool))
    assert actual.dtype == jnp.float32
    wanted = function(student.astype(jnp.float32), expert, jnp.ones(3, bool))
    np.testing.assert_array_equal(actual, wanted)


def own(student, expert, mask, temperature=1.0):
    return losses.mse(student, expert, mask)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (own, "is a function, expected losses.Loss(function)"),
        ("mse", "is a str, expected losses.Loss(function)"),
        (losses.Loss(lambda *x: own(*x).mean()), "gives () of float32, expected (B,) of float32"),
        (losses.Loss(lambda *x: x[0] - x[1]), "gives (B, A) of float32, expected (B,)"),
        (losses.Loss(lambda *x: x[0][0]), "gives (A,) of float32, expected (B,)"),
        (losses.Loss(lambda *x: own(*x) > 0), "gives (B,) of bool, expected (B,)"),
        (losses.Loss(lambda *x: None), "gives NoneType, expected (B,)"),
        (losses.Loss(lambda student, expert: own), "fails for student and expert (B, A), mask"),
        (losses.Loss(lambda *x: own(*x) * x[3]), "gives (B, B) of float32, expected (B,)"),
    ],
)
def test_a_loss_that_is_none_is_refused_by_its_name(loss, said):
    for size in (2, 3):
        with pytest.raises(ValueError) as error:
            losses.check("learn.loss 'mine'", Discrete(size), loss)
        message = str(error.value)
        assert message.startswith("learn.loss 'mine' " + said) and "\n" not in message


@pytest.mark.parametrize("form", [Discrete(3), Discrete(18), Factored(("key", "angle"))])
def test_losses_that_come_with_the_package_are_what_they_should_be(form):
    for name, loss in losses.of(form).items():
        losses.check(name, form, loss)
