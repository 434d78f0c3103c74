"""Tests for what outputs mean: keys and angles by hand, PyTorch's distributions, and masks."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.tasks import actions
from jaxdistill.tasks.actions import Discrete, Factored
from jaxdistill.tasks.combat.environments import ENTRIES

FORM = Factored(("key", "key", "angle"))
LOG3 = math.log(3)  # the logit of 3/4
ALL = jnp.ones(3, bool)
STD = jnp.array([math.nan, math.nan, math.log(0.5)])  # nothing is read at keys
COMBAT = Factored(tuple("angle" if name in ("yaw", "pitch") else "key" for name in ENTRIES))


def _rows(*rows):
    return jnp.array(rows, jnp.float32)


# --- One of several.


def test_the_log_probability_of_one_of_several_by_hand():
    outputs = _rows([0.0, LOG3, 50.0], [LOG3, 0.0, math.nan])
    mask = jnp.array([True, True, False])
    actual = actions.log_probability(outputs, jnp.array([1, 1]), mask)
    np.testing.assert_allclose(actual, [math.log(3 / 4), math.log(1 / 4)], rtol=1e-6)


def test_the_forms_say_how_actions_are_stored():
    assert (Discrete(6).action_shape, Discrete(6).action_dtype) == ((), "uint8")
    assert (FORM.action_shape, FORM.action_dtype) == ((3,), "float32")
    assert (Discrete(6).size, FORM.size) == (6, 3)


@pytest.mark.parametrize(
    ("epsilon", "sample", "drawn"),
    [
        (0.0, False, "001303340340013140141141"),
        (0.0, True, "303343340340011144341011"),
        (0.5, False, "113303404344013130441140"),
        (1.0, True, "113010404304103031433030"),
    ],
)
def test_one_of_several_is_drawn_as_it_always_was(epsilon, sample, drawn):
    """Written down before there were forms; runs of then go on with the same draws."""
    outputs = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    mask = jnp.array([True, True, False, True, True, False])
    seats, key = np.arange(24)[::-1], jax.random.key(7)
    options = {"epsilon": epsilon, "sample": sample, "seats": seats}
    chosen = Discrete(6).choose(outputs, mask, key, **options)
    assert "".join(map(str, np.asarray(chosen))) == drawn
    same = Discrete(6).choose(outputs, mask, key, log_std=jnp.zeros(6), **options)
    np.testing.assert_array_equal(chosen, same)  # there are no angles


def test_two_choices_of_one_of_several_are_compared_by_hand():
    student = _rows([3, 1, 0, 9], [0, 5, 4, 9], [1, 0, 0, 9])
    expert = _rows([2, 1, 0, 9], [7, 3, 1, 9], [4, 4.5, math.nan, math.nan])
    mask = jnp.array([[True, True, True, False]] * 2 + [[True, True, False, False]])
    compared = Discrete(4).compare(student, expert, mask)
    np.testing.assert_array_equal(compared["agreement"], [1, 0, 0])
    np.testing.assert_allclose(compared["regret"], [0, 7 - 3, 0.5])
    assert Discrete(4).compared(np.ones(4, bool)) == tuple(compared)
    entropy = Discrete(4).entropy(_rows([0, LOG3, 5, 9]), jnp.array([True, True, False, False]))
    by_hand = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    np.testing.assert_allclose(entropy, [by_hand], rtol=1e-6)


def test_outputs_at_a_temperature_by_hand():
    outputs = _rows([1.0, -2.0, 0.5])
    np.testing.assert_array_equal(Discrete(3).tempered(outputs, 0.5), [[2, -4, 1]])
    np.testing.assert_array_equal(FORM.tempered(outputs, 0.5), [[2, -4, 0.5]])  # an angle stays
    assert (FORM.keys.tolist(), FORM.angles.tolist()) == ([True, True, False], [False, False, True])


VALID = np.array([True, False, True])


@pytest.mark.parametrize(
    ("form", "actions", "problem"),
    [
        (Discrete(3), np.array([0, 2]), None),
        (Discrete(3), np.array([0, 1]), "actions [0, 1] are not all among its valid ones"),
        (Discrete(3), np.array([0, 3]), "actions [0, 3] are not all among"),
        (Discrete(3), np.array([-1, 2]), "actions [-1, 2] are not all among"),
        (Discrete(3), np.array([0.0, 2.0]), "expected 2 integer actions, got float64 of shape (2,"),
        (Discrete(3), np.array([0]), "expected 2 integer actions, got int64 of shape (1,)"),
        (FORM, np.array([[0, 7, 0.1], [1, 0, -9]]), None),  # what has no effect may be anything
        (FORM, np.ones((2, 3), bool), None),
        (FORM, np.ones((2, 3), int), None),
        (FORM, np.zeros((2, 2)), "expected 2 actions of 3 numbers, got float64 of shape (2, 2)"),
        (FORM, np.zeros(2, int), "expected 2 actions of 3 numbers, got int64 of shape (2,)"),
        (FORM, np.full((2, 3), "w"), "expected 2 actions of 3 numbers, got <U1"),
        (FORM, np.full((2, 3), 1j), "expected 2 actions of 3 numbers, got complex128"),
        (FORM, np.array([[0, 0, math.inf], [0, 0, 0]]), "actions [inf] are not finite"),
        (FORM, np.array([[0, math.nan, 0], [0, 0, 0]]), "actions [nan] are not finite"),
    ],
)
def test_what_is_no_action_is_said_in_one_line(form, actions, problem):
    said = form.problem(actions, 2, VALID)
    assert said == problem or (said.startswith(problem) and "\n" not in said)


# --- Keys and angles, by hand.


def test_the_likeliest_action_by_hand():
    outputs = _rows([0.1, -0.1, 0.3], [0.0, 5.0, -2.0])
    np.testing.assert_array_equal(FORM.greedy(outputs, ALL), _rows([1, 0, 0.3], [0, 1, -2.0]))


def test_the_log_probability_by_hand():
    outputs = _rows([LOG3, LOG3, 0.5])
    # Keys: down with 3/4, up with 1/4. The angle is one deviation from its mean.
    density = math.exp(-0.5) / (0.5 * math.sqrt(2 * math.pi))
    actual = FORM.log_probability(outputs, _rows([1, 0, 1.0]), ALL, STD)
    np.testing.assert_allclose(actual, [math.log(3 / 4 * 1 / 4 * density)], rtol=1e-6)
    # What is above one half is down, as in the tasks.
    same = FORM.log_probability(outputs, _rows([0.51, 0.5, 1.0]), ALL, STD)
    np.testing.assert_array_equal(actual, same)


def test_the_entropy_by_hand():
    key = -(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4))
    angle = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    actual = FORM.entropy(_rows([LOG3, 0.0, 7.0]), ALL, STD)
    np.testing.assert_allclose(actual, [key + math.log(2) + angle], rtol=1e-6)


def test_the_divergence_by_hand():
    expert, student = _rows([LOG3, 0.0, 1.0]), _rows([0.0, 0.0, 0.0])
    key = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)
    # Gaussians with means 1 and 0, deviations 1 and 2.
    angle = math.log(2) + (1 + 1) / (2 * 4) - 1 / 2
    own, experts = jnp.log(jnp.full(3, 2.0)), jnp.zeros(3)
    actual = FORM.kl(student, expert, ALL, own, experts)
    np.testing.assert_allclose(actual, [key + angle], rtol=1e-6)
    np.testing.assert_allclose(FORM.kl(expert, expert, ALL, own, own), [0.0], atol=1e-7)


def test_agreement_by_hand():
    student, expert = _rows([1, -1, 0.5], [1, 1, 0.0]), _rows([2, 3, -0.25], [9, 1, 1.0])
    both = FORM.agreement(student, expert, ALL)
    np.testing.assert_allclose(both.keys, [0.5, 1.0])
    np.testing.assert_allclose(both.angles, [0.75, 1.0])
    keys = FORM.agreement(student, expert, jnp.array([True, False, False]))
    np.testing.assert_allclose(keys.keys, [1.0, 1.0])
    np.testing.assert_allclose(keys.angles, [0.0, 0.0])
    angle = FORM.agreement(student, expert, jnp.array([False, False, True]))
    np.testing.assert_allclose(angle.keys, [1.0, 1.0])
    np.testing.assert_allclose(angle.angles, [0.75, 1.0])


def test_two_choices_of_keys_and_angles_are_compared_by_hand():
    student, expert = _rows([1, -1, 0.5], [1, 1, 0.0]), _rows([2, 3, -0.25], [9, 1, 1.0])
    compared = FORM.compare(student, expert, ALL)
    np.testing.assert_allclose(compared["agreement"], [0.5, 1.0])
    np.testing.assert_allclose(compared["angle_error"], np.degrees([0.75, 1.0]), rtol=1e-6)
    # Of a task of keys alone nothing is said of angles, and the other way round.
    assert FORM.compared(np.array([True, True, True])) == ("agreement", "angle_error")
    assert FORM.compared(np.array([False, True, False])) == ("agreement",)
    assert FORM.compared(np.array([False, False, True])) == ("angle_error",)


# --- Draws.


def test_draws_have_the_distribution_that_is_said():
    rows = 20_000
    outputs = jnp.broadcast_to(_rows([LOG3, -LOG3, 0.25]), (rows, 3))
    drawn = FORM.sample(outputs, ALL, STD, jax.random.key(0), seats=jnp.arange(rows))
    assert set(np.unique(drawn[:, :2])) == {0.0, 1.0}
    # Five standard errors.
    np.testing.assert_allclose(drawn[:, :2].mean(axis=0), [0.75, 0.25], atol=0.016)
    np.testing.assert_allclose(drawn[:, 2].mean(), 0.25, atol=0.018)
    np.testing.assert_allclose(drawn[:, 2].std(), 0.5, atol=0.013)
    together = np.corrcoef(np.asarray(drawn), rowvar=False)
    np.testing.assert_allclose(together, np.eye(3), atol=0.036)  # independent
    likely = FORM.log_probability(outputs, drawn, ALL, STD)
    entropy = FORM.entropy(outputs[:1], ALL, STD)[0]
    np.testing.assert_allclose(-likely.mean(), entropy, atol=0.04)


def test_a_row_draws_by_its_seat_whatever_is_beside_it():
    outputs, key = jnp.zeros((4, 3)), jax.random.key(3)
    seats = jnp.array([5, 2, 9, 7])
    together = FORM.sample(outputs, ALL, STD, key, seats=seats)
    alone = FORM.sample(outputs[:1], ALL, STD, key, seats=jnp.array([9]))
    np.testing.assert_array_equal(together[2], alone[0])
    assert len(np.unique(together[:, 2])) == 4
    other = FORM.sample(outputs, ALL, STD, jax.random.key(4), seats=seats)
    assert (together[:, 2] != other[:, 2]).all()


ROWS = 4000
CHOICES = jnp.broadcast_to(_rows([LOG3, -LOG3, 0.25]), (ROWS, 3))


def _choose(mask=ALL, key=0, outputs=CHOICES, seats=None, **options):
    seats = jnp.arange(len(outputs)) if seats is None else seats
    return np.asarray(FORM.choose(outputs, mask, jax.random.key(key), seats=seats, **options))


def test_without_chance_the_likeliest_action_is_chosen():
    np.testing.assert_array_equal(_choose(epsilon=0.0), FORM.greedy(CHOICES, ALL))
    # A deviation alone draws nothing.
    np.testing.assert_array_equal(_choose(epsilon=0.0, log_std=STD), FORM.greedy(CHOICES, ALL))


def test_a_policy_that_is_sampled_draws_its_keys_and_its_angles_where_they_have_a_deviation():
    drawn = _choose(epsilon=0.0, sample=True, log_std=STD)
    np.testing.assert_allclose(drawn.mean(axis=0), [0.75, 0.25, 0.25], atol=0.04)
    np.testing.assert_allclose(drawn[:, 2].std(), 0.5, atol=0.03)
    known = _choose(epsilon=0.0, sample=True)
    np.testing.assert_array_equal(known[:, :2], drawn[:, :2])
    np.testing.assert_array_equal(known[:, 2], np.float32(0.25))


def test_random_actions_press_half_of_the_keys_and_turn_anywhere():
    """Whatever the outputs say; up to 36 degrees either way."""
    drawn = _choose(epsilon=1.0)
    widest = math.radians(36)
    assert FORM.widest == pytest.approx(widest)
    assert set(np.unique(drawn[:, :2])) == {0.0, 1.0}
    np.testing.assert_allclose(drawn[:, :2].mean(axis=0), 0.5, atol=0.04)
    assert -widest <= drawn[:, 2].min() < -0.99 * widest
    assert 0.99 * widest < drawn[:, 2].max() <= widest
    # A uniform one: its mean is 0, and its deviation the range over the square root of 12.
    np.testing.assert_allclose(drawn[:, 2].mean(), 0, atol=0.03)
    np.testing.assert_allclose(drawn[:, 2].std(), 2 * widest / math.sqrt(12), rtol=0.04)
    np.testing.assert_allclose(np.corrcoef(drawn, rowvar=False), np.eye(3), atol=0.08)
    np.testing.assert_array_equal(drawn, _choose(epsilon=1.0, sample=True, log_std=STD))
    np.testing.assert_array_equal(drawn, _choose(epsilon=1.0, outputs=-CHOICES))
    narrow = Factored(FORM.kinds, widest=0.1)
    turned = narrow.choose(CHOICES, ALL, jax.random.key(0), epsilon=1.0, seats=np.arange(ROWS))
    np.testing.assert_allclose(turned[:, 2], drawn[:, 2] * (0.1 / widest), rtol=1e-5)


def test_so_many_actions_are_random_as_epsilon_says_and_then_all_of_one():
    """A row is random in all its entries or in none."""
    drawn, greedy, random = (_choose(epsilon=epsilon) for epsilon in (0.25, 0.0, 1.0))
    is_random = drawn[:, 2] != greedy[:, 2]
    assert is_random.mean() == pytest.approx(0.25, abs=0.04)
    np.testing.assert_array_equal(drawn, np.where(is_random[:, None], random, greedy))


def test_what_does_not_count_is_never_chosen():
    for mask in ([True, False, True], [False, True, False]):
        left = ~np.array(mask)
        for options in ({"epsilon": 1.0}, {"epsilon": 0.0, "sample": True, "log_std": STD}):
            drawn = _choose(jnp.array(mask), **options)
            assert not drawn[:, left].any() and drawn[:, ~left].any(axis=0).all()
            junk = jnp.where(jnp.array(mask), CHOICES, jnp.nan)
            np.testing.assert_array_equal(_choose(jnp.array(mask), outputs=junk, **options), drawn)


@pytest.mark.parametrize(
    "options",
    [{"epsilon": 1.0}, {"epsilon": 0.5}, {"epsilon": 0.0, "sample": True, "log_std": STD}],
    ids=["random", "both", "sampled"],
)
def test_a_row_is_chosen_by_its_seat_whatever_is_beside_it(options):
    whole = _choose(outputs=CHOICES[:64], **options)
    seats = jnp.array([9, 40, 3])
    np.testing.assert_array_equal(
        _choose(outputs=CHOICES[:3], seats=seats, **options), whole[np.asarray(seats)]
    )
    assert (_choose(outputs=CHOICES[:64], key=1, **options) != whole).any()


# --- Entries that do not count.

JUNK = (math.nan, math.inf, 1e30)
MASKS = {
    "movement": [True] * 6 + [False] * 3,
    "aiming": [False] * 7 + [True] * 2,
    "clicking": [False] * 6 + [True] + [False] * 2,
}


@jax.jit
def _numbers(everything, mask):
    """Everything that is made of these arrays, and the gradient of what has one."""

    def numbers(arrays):
        student, expert, chosen, log_std, expert_log_std = arrays
        likely = COMBAT.log_probability(student, chosen, mask, log_std)
        apart = COMBAT.kl(student, expert, mask, log_std, expert_log_std)
        total = likely + apart + COMBAT.entropy(student, mask, log_std)
        both = COMBAT.agreement(student, expert, mask)
        drawn = COMBAT.sample(student, mask, log_std, jax.random.key(0), seats=jnp.arange(3))
        return total.sum(), (drawn, COMBAT.greedy(student, mask), total, *both)

    (_, results), gradient = jax.value_and_grad(numbers, has_aux=True)(everything)
    return results, gradient


@pytest.mark.parametrize("skill", MASKS)
def test_whatever_stands_at_others_reaches_neither_results_nor_gradients(skill):
    rng = np.random.default_rng(0)
    everything = [rng.normal(size=(3, 9)).astype(np.float32) for _ in range(3)]
    everything += list(rng.normal(size=(2, 9)).astype(np.float32))
    mask = np.array(MASKS[skill])
    clean, gradient = _numbers(everything, mask)
    assert not np.asarray(clean[0])[:, ~mask].any()
    assert not np.asarray(clean[1])[:, ~mask].any()
    assert np.abs(gradient[0][:, mask]).min() > 0  # and what counts, counts
    for junk in JUNK:
        spoilt = [np.where(mask, x, np.float32(junk)) for x in everything]
        for counts in (mask, np.broadcast_to(mask, (3, 9))):
            junked, junk_gradient = _numbers(spoilt, counts)
            for a, b in zip((*clean, *gradient), (*junked, *junk_gradient), strict=True):
                np.testing.assert_array_equal(a, b)
            assert not any(np.asarray(x)[..., ~mask].any() for x in junk_gradient)


def test_each_row_may_have_entries_of_its_own():
    outputs, log_std = _rows([LOG3, 1, 2], [LOG3, 1, 2]), jnp.zeros(3)
    rows = jnp.array([[True, False, False], [False, False, True]])
    actual = FORM.log_probability(outputs, _rows([1, 1, 2], [1, 1, 2]), rows, log_std)
    np.testing.assert_allclose(actual, [math.log(3 / 4), -0.5 * math.log(2 * math.pi)], rtol=1e-6)


def test_logits_far_out_stay_finite():
    far = _rows([300.0, -300.0, 0.0])
    near = -far
    for number in (
        FORM.entropy(far, ALL, STD),
        FORM.log_probability(far, _rows([0, 1, 0.0]), ALL, STD),
        FORM.kl(near, far, ALL, STD, STD),
    ):
        assert np.isfinite(number).all()
    np.testing.assert_allclose(FORM.kl(near, far, ALL, STD, STD), [600.0], rtol=1e-6)


@pytest.mark.parametrize("kinds", [(), ("key", "button")])
def test_unknown_kinds_are_refused(kinds):
    with pytest.raises(ValueError, match="expected some of key, angle"):
        Factored(kinds)


# --- PyTorch's distributions.


def test_parity_with_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(1)
    student, expert, chosen = (rng.normal(size=(5, 9)).astype(np.float32) for _ in range(3))
    chosen[:, :7] = chosen[:, :7] > 0
    log_std, expert_log_std = rng.normal(size=(2, 9)).astype(np.float32)
    everything = jnp.ones(9, bool)

    def distributions(outputs, log_std):
        outputs, log_std = torch.from_numpy(outputs), torch.from_numpy(log_std)
        keys = torch.distributions.Bernoulli(logits=outputs[:, :7])
        return keys, torch.distributions.Normal(outputs[:, 7:], log_std[7:].exp())

    keys, angles = distributions(student, log_std)
    action = torch.from_numpy(chosen)
    parts = (keys.log_prob(action[:, :7]), angles.log_prob(action[:, 7:]))
    np.testing.assert_allclose(
        COMBAT.log_probability(student, chosen, everything, log_std),
        sum(part.sum(dim=1) for part in parts),
        rtol=1e-5,
    )
    np.testing.assert_allclose(
        COMBAT.entropy(student, everything, log_std),
        keys.entropy().sum(dim=1) + angles.entropy().sum(dim=1),
        rtol=1e-5,
    )
    theirs = distributions(expert, expert_log_std)
    both = zip(theirs, (keys, angles), strict=True)
    np.testing.assert_allclose(
        COMBAT.kl(student, expert, everything, log_std, expert_log_std),
        sum(torch.distributions.kl_divergence(p, q).sum(dim=1) for p, q in both),
        rtol=1e-5,
    )
