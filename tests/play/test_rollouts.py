"""Tests for acting: which actions are chosen, by whom, and that `play` keeps its books."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes, networks, tasks
from jaxdistill.experts.expert import Expert, expert_outputs
from jaxdistill.networks import Network
from jaxdistill.play import rollouts
from jaxdistill.tasks import atari
from jaxdistill.tasks.actions import Choices, Discrete, Factored, greedy, softmax
from jaxdistill.tasks.views import Vector, View

VIEW = View(height=3, width=2, stack=2)
KEY = jax.random.key(0)
TINY = Network(convs=(), hidden=(8,))
MASK = np.zeros(18, bool)
MASK[[2, 5, 11]] = True


def _observations(seed, batch):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.integers(0, 256, (batch, *VIEW.shape)), jnp.uint8)


def _params(network, seed):
    params = jax.jit(lambda key: networks.init(network, key, (12,)))(jax.random.key(seed))
    # A fresh head's outputs are all but equal; spread them so that choices differ.
    params["params"]["action"]["kernel"] *= 20
    return params


def _choices(masks, form=None):
    return Choices(form or Discrete(masks.shape[1]), masks, range(len(masks)))


def _seats(observations):
    return tuple(np.arange(len(x)) for x in observations)


@functools.partial(jax.jit, static_argnames="sample")
def _choose(outputs, mask, key, **options):
    form = Discrete(outputs.shape[-1])
    return form.choose(outputs, mask, key, seats=np.arange(len(outputs)), **options)


def _frequencies(actions):
    return np.bincount(np.asarray(actions), minlength=18) / len(actions)


def _outputs(rows):
    """Invalid actions have by far the largest outputs; of the valid ones 5 is best."""
    outputs = np.full(18, 1e9, np.float32)
    outputs[[2, 5, 11]] = np.log([1.0, 6.0, 3.0])
    return jnp.broadcast_to(jnp.asarray(outputs), (rows, 18))


def test_without_epsilon_the_best_valid_action_is_chosen():
    actions = _choose(_outputs(64), MASK, jax.random.key(0), epsilon=0.0)
    assert actions.dtype == jnp.int32
    np.testing.assert_array_equal(actions, np.full(64, 5))


def test_with_epsilon_one_every_valid_action_is_equally_likely():
    actions = _choose(_outputs(20_000), MASK, jax.random.key(0), epsilon=1.0)
    # Standard deviation of one frequency: sqrt(1/3 * 2/3 / 20000) = 0.0033.
    np.testing.assert_allclose(_frequencies(actions), MASK / 3, atol=0.015)
    assert set(np.unique(actions)) == {2, 5, 11}


@pytest.mark.parametrize(
    ("sample", "epsilon", "expected"),
    [
        (True, 0.0, {2: 0.1, 5: 0.6, 11: 0.3}),
        # Of 0.3 a third each is uniform: 5 gets 0.7 + 0.1.
        (False, 0.3, {2: 0.1, 5: 0.8, 11: 0.1}),
        # 0.7 (0.1, 0.6, 0.3) + 0.1.
        (True, 0.3, {2: 0.17, 5: 0.52, 11: 0.31}),
    ],
)
def test_frequencies_of_sampled_and_exploring_actions(sample, epsilon, expected):
    outputs = _outputs(20_000)
    actions = _choose(outputs, MASK, jax.random.key(1), epsilon=epsilon, sample=sample)
    wanted = np.zeros(18)
    wanted[list(expected)] = list(expected.values())
    np.testing.assert_allclose(_frequencies(actions), wanted, atol=0.015)
    assert set(np.unique(actions)) == {2, 5, 11}


def test_rows_are_drawn_independently_and_another_key_draws_others():
    first, second = (
        np.asarray(_choose(_outputs(20_000), MASK, jax.random.key(k), epsilon=1.0)) for k in (0, 1)
    )
    # Two independent uniform draws of three agree a third of the time.
    assert 0.3 < (first == second).mean() < 0.37
    assert 0.3 < (first[1:] == first[:-1]).mean() < 0.37


def test_every_row_may_have_its_own_mask():
    mask = jnp.arange(18)[None] == jnp.array([3, 17, 0, 9])[:, None]
    for epsilon, sample in ((0.0, False), (0.0, True), (1.0, False)):
        actions = _choose(_outputs(4), mask, jax.random.key(0), epsilon=epsilon, sample=sample)
        np.testing.assert_array_equal(actions, [3, 17, 0, 9])


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
@pytest.mark.parametrize("indices", [(0, 1, 2), (1,), (2, 0)], ids=str)
def test_a_network_plays_every_game_with_that_games_actions(indices, epsilon):
    # Game g has the single action g + 5, so the mask alone decides.
    masks = jnp.arange(18)[None] == jnp.array([5, 6, 7])[:, None]
    act = rollouts.network_actor(TINY, _choices(masks), epsilon=epsilon)
    observations = tuple(_observations(g, 2 + g) for g in indices)
    actions, extra = act(
        _params(TINY, 0),
        observations,
        jax.random.key(0),
        indices,
        _seats(observations),
    )
    assert extra is None
    assert len(actions) == len(indices)
    for game, chosen in zip(indices, actions, strict=True):
        np.testing.assert_array_equal(chosen, np.full(2 + game, 5 + game))


def test_a_network_actor_is_greedy_in_the_networks_outputs():
    masks = jnp.stack([jnp.asarray(tasks.get(n).mask) for n in ("pong", "freeway")])
    params = _params(TINY, 0)
    observations = (_observations(0, 9), _observations(1, 5))
    act = rollouts.network_actor(TINY, _choices(masks), epsilon=0.0)
    actions, _ = act(params, observations, jax.random.key(0), (0, 1), _seats(observations))
    for game in (0, 1):
        outputs = jax.jit(TINY.apply)(params, observations[game])
        wanted = greedy(outputs, masks[game])
        np.testing.assert_array_equal(actions[game], wanted)
    assert len(set(np.asarray(actions[0]).tolist())) > 1  # or anything constant would pass


def test_a_network_that_knows_its_game_is_told_which_one():
    names = ("pong", "freeway")
    chosen = [tasks.get(name) for name in names]
    network = networks.for_tasks(Network(convs=(), controllers=True), chosen)
    masks = jnp.stack([jnp.asarray(game.mask) for game in chosen])
    params = networks.init(network, jax.random.key(0), (12,))
    act = rollouts.network_actor(network, _choices(masks), epsilon=0.0)
    for indices in ((0, 1), (1, 0), (1,)):
        observations = tuple(_observations(game, 9 + game) for game in indices)
        actions, _ = act(params, observations, jax.random.key(0), indices, _seats(observations))
        for game, seen, played in zip(indices, observations, actions, strict=True):
            outputs = jax.jit(network.apply)(params, seen, game)
            np.testing.assert_array_equal(played, greedy(outputs, masks[game]))


def _experts(kind):
    pong = Expert("p", TINY, _params(TINY, 1), "q", tuple(range(18)), VIEW, "pong")
    if kind == "same shape":
        freeway = Expert("f", TINY, _params(TINY, 2), "q", tuple(range(18)), VIEW, "freeway")
    else:
        small = Network(convs=(), num_outputs=3)
        freeway = Expert("f", small, _params(small, 2), "logits", (5, 0, 2), VIEW, "freeway")
    return [pong, freeway]


@pytest.mark.parametrize("kind", ["same shape", "different shapes"])
def test_experts_together_are_each_expert_alone(kind):
    experts = _experts(kind)
    observations = (_observations(0, 40), _observations(1, 40))
    act = rollouts.expert_actor(experts, epsilon=0.0, sample_logits=False)
    actions, outputs = act(observations, jax.random.key(0), (0, 1), _seats(observations))
    for index, expert in enumerate(experts):
        np.testing.assert_allclose(
            outputs[index], expert.suite_outputs(observations[index]), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_array_equal(actions[index], expert.greedy(observations[index]))
        assert expert.mask[np.asarray(actions[index])].all()
        assert len(np.unique(actions[index])) > 1, "constant play would prove nothing"


def test_experts_are_sent_to_the_device_once():
    one, other = _experts("same shape")
    recurrent = Network(convs=(), core=networks.Core("lstm", 2))
    params = networks.init(recurrent, jax.random.key(0), VIEW.shape)
    kept = Expert("r", recurrent, params, "q", tuple(range(18)), VIEW, "freeway")
    experts = [dataclasses.replace(x, params=jax.device_get(x.params)) for x in (one, other, kept)]
    (params,) = rollouts.expert_actor(experts[:2], epsilon=0.0).args
    remembering = rollouts.expert_actor(experts, epsilon=0.0)
    for leaf in jax.tree.leaves([params, remembering._params]):
        assert isinstance(leaf, jax.Array)
    assert remembering.by()._params is remembering._params


def test_an_expert_left_alone_plays_on_as_it_would_in_company():
    experts = _experts("different shapes")
    observations = (_observations(0, 40), _observations(1, 40))
    act = rollouts.expert_actor(experts, epsilon=0.5)
    key = jax.random.key(3)
    company, outputs = act(observations, key, (0, 1), _seats(observations))
    alone, alone_outputs = act(observations[1:], key, (1,), _seats(observations[1:]))
    np.testing.assert_array_equal(alone[0], company[1])
    np.testing.assert_allclose(alone_outputs[0], outputs[1], rtol=1e-5, atol=1e-6)


def test_games_explore_independently_of_each_other():
    pong = _experts("same shape")[0]
    other = dataclasses.replace(pong, game="space_invaders")  # of as many actions
    seen = (_observations(0, 600),) * 2
    plays = [
        rollouts.expert_actor(experts, epsilon=1.0)(seen, KEY, (0, 1), _seats(seen))[0]
        for experts in ([pong, other], [other, pong])
    ]
    (first, second), (second_too, first_too) = jax.device_get(plays)
    # Two independent uniform draws of six agree a sixth of the time.
    places = [x.task.mask.nonzero()[0] for x in (pong, other)]
    same = np.searchsorted(places[0], first) == np.searchsorted(places[1], second)
    assert 0.1 < same.mean() < 0.24
    # A game's draws are its own, whatever is its place.
    np.testing.assert_array_equal(first, first_too)
    np.testing.assert_array_equal(second, second_too)


def test_a_network_explores_each_game_independently_of_the_others():
    masks = jnp.asarray(tasks.get("pong").mask)[None].repeat(2, axis=0)
    act = rollouts.network_actor(TINY, _choices(masks), epsilon=1.0)
    observations = (_observations(0, 600),) * 2
    (first, second), _ = act(_params(TINY, 0), observations, KEY, (0, 1), _seats(observations))
    assert 0.1 < np.mean(np.asarray(first) == np.asarray(second)) < 0.24


def test_random_play_draws_for_each_game_alone():
    masks = jnp.asarray(tasks.get("pong").mask)[None].repeat(2, axis=0)
    observations = (jnp.zeros((600, 1)),) * 2
    play = rollouts.random_policy(_choices(masks))
    (first, second), _ = play(observations, KEY, (0, 1), _seats(observations))
    assert 0.1 < np.mean(np.asarray(first) == np.asarray(second)) < 0.24


def test_experts_parameters_are_sent_to_all_devices_once():
    experts, devices = _experts("different shapes"), meshes.create()
    observations = jax.device_put((_observations(0, 8),) * 2, meshes.sharded(devices))
    key = jax.device_put(KEY, meshes.replicated(devices))
    act = rollouts.expert_actor(experts, epsilon=0.0, mesh=devices)
    seats = jax.device_put(_seats(observations), meshes.replicated(devices))
    with jax.transfer_guard_device_to_device("disallow"):
        actions, _ = act(observations, key, (0, 1), seats)
    alone, _ = rollouts.expert_actor(experts, epsilon=0.0)(
        jax.device_get(observations), KEY, (0, 1), _seats(observations)
    )
    for together, one in zip(actions, alone, strict=True):
        np.testing.assert_array_equal(together, one)


def test_only_experts_with_logits_sample():
    experts = _experts("different shapes")
    observations = tuple(jnp.repeat(_observations(i, 1), 3000, axis=0) for i in (0, 1))
    act = rollouts.expert_actor(experts, epsilon=0.0)
    (q_actions, logit_actions), outputs = act(
        observations, jax.random.key(0), (0, 1), _seats(observations)
    )
    assert len(np.unique(q_actions)) == 1
    p = softmax(outputs[1][0], jnp.asarray(experts[1].mask))
    assert np.max(p) < 0.95, "a certain expert would prove nothing"
    np.testing.assert_allclose(_frequencies(logit_actions), p, atol=0.05)
    greedy = rollouts.expert_actor(experts, epsilon=0.0, sample_logits=False)
    (_, likeliest), _ = greedy(observations, jax.random.key(0), (0, 1), _seats(observations))
    assert (np.asarray(likeliest) == p.argmax()).all()


def test_experts_of_one_shape_stacked_as_on_an_accelerator_are_each_expert_alone(monkeypatch):
    experts = _experts("same shape")
    observations = [_observations(0, 3), _observations(1, 3), _observations(2, 5)]
    wanted = [experts[i].suite_outputs(x) for i, x in zip((1, 0, 1), observations, strict=True)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    actual = jax.jit(
        lambda params, x: expert_outputs(experts, params, x, (1, 0, 1)),
    )([e.params for e in experts], observations)
    for a, b in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("indices", [(1,), (0, 1, 2), (2, 1)])
def test_on_an_accelerator_each_expert_has_its_own_parameters_and_actions(monkeypatch, indices):
    """Whoever has another shape is judged alone; of one shape are two, with other actions each."""
    experts = _experts("different shapes")
    third = dataclasses.replace(
        experts[1], params=_params(experts[1].network, 3), actions=(2, 5, 0)
    )
    experts.append(third)
    observations = [_observations(seed, 3) for seed in range(len(indices))]
    wanted = [experts[i].suite_outputs(x) for i, x in zip(indices, observations, strict=True)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    actual = expert_outputs(experts, [e.params for e in experts], observations, indices)
    for a, b in zip(actual, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


# --- Keys and angles, and a part of what is shown.

HANDS = Factored(("key", "angle"))


def test_a_network_actor_sees_its_part_and_answers_with_keys_and_angles():
    """Two outputs: the sums of the two numbers it sees, of the four that are shown."""
    params = {"params": {"action": {"kernel": np.ones((2, 2), "f4"), "bias": np.zeros(2, "f4")}}}
    masks = jnp.array([[True, True], [False, True]])
    part = Vector(2, start=1, of=4)
    act = rollouts.network_actor(
        Network(convs=(), num_outputs=2), _choices(masks, HANDS), epsilon=0.0, views=[part] * 2
    )
    rows = [[9, 0.25, 0.5, 9], [9, -1, 0.5, -9], [-9, 0.125, 0.125, 9]]
    shown = (jnp.array(rows)[:, None], jnp.array(rows[:2])[:, None])
    (both, angle), extra = act(params, shown, jax.random.key(0), (0, 1), _seats(shown))
    assert extra is None
    np.testing.assert_allclose(both, [[1, 0.75], [0, -0.5], [1, 0.25]])
    np.testing.assert_allclose(angle, [[0, 0.75], [0, -0.5]])
    random = rollouts.network_actor(
        Network(convs=(), num_outputs=2), _choices(masks, HANDS), epsilon=1.0, views=[part] * 2
    )
    chosen, _ = random(params, shown, jax.random.key(0), (0, 1), _seats(shown))
    wanted, _ = rollouts.random_policy(_choices(masks, HANDS))(
        shown, jax.random.key(0), (0, 1), _seats(shown)
    )
    for one, other in zip(chosen, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_random_play_presses_half_of_a_games_keys_and_turns_anywhere():
    masks = jnp.array([[True, True], [True, False]])
    shown = (jnp.zeros((4000, 1)), jnp.zeros((4000, 1)))
    policy = rollouts.random_policy(_choices(masks, HANDS))
    (both, keys), _ = policy(shown, jax.random.key(0), (0, 1), _seats(shown))
    for chosen in (both, keys):
        assert chosen.shape == (4000, 2) and set(np.unique(chosen[:, 0])) == {0, 1}
        assert float(chosen[:, 0].mean()) == pytest.approx(0.5, abs=0.04)
    assert not np.asarray(keys)[:, 1].any()
    turned = np.asarray(both)[:, 1]
    widest = np.radians(36)
    assert turned.min() == pytest.approx(-widest, rel=0.01) and turned.max() <= widest
    assert (np.asarray(both)[:, 0] != np.asarray(keys)[:, 0]).any(), "games draw for themselves"


def test_random_play_is_uniform_over_each_games_valid_actions():
    masks = jnp.stack([jnp.asarray(tasks.get(n).mask) for n in ("pong", "freeway")])
    policy = rollouts.random_policy(_choices(masks))
    observations = (jnp.zeros((9000, 1)), jnp.zeros((6000, 1)))
    actions, extra = policy(observations, jax.random.key(0), (0, 1), _seats(observations))
    assert extra is None
    for game in (0, 1):
        mask = np.asarray(masks[game])
        np.testing.assert_allclose(_frequencies(actions[game]), mask / mask.sum(), atol=0.03)
        assert set(np.unique(actions[game])) == set(np.flatnonzero(mask))
    alone, _ = policy(observations[1:], jax.random.key(0), (1,), _seats(observations[1:]))
    np.testing.assert_array_equal(alone[0], actions[1])


def test_play_hands_the_policy_what_the_pools_show_and_plays_what_it_says(scripted_pool):
    pools = [
        scripted_pool([[(3, 1.0)], [(2, 5.0)]], tag=7),
        scripted_pool([[(4, 2.0)]] * 3, tag=9),
    ]
    seen = []

    def policy(observations, key, indices, seats):
        seen.append(([np.asarray(x) for x in observations], jax.random.key_data(key), indices))
        turn = len(seen)
        return (jnp.array([turn, turn]), np.array([0, turn, 1])), (turn, -turn)

    key = jax.random.key(5)
    before = [pool.last for pool in pools]
    turns = []
    for turn in rollouts.play(pools, policy, key, meshes.create(), indices=(4, 2), start=10):
        turns.append(turn)
        for old, shown in zip(before, turn.observations, strict=True):
            np.testing.assert_array_equal(shown, old.observations)
        before = list(turn.steps)
        if len(turns) == 3:
            break
    assert [len(pool.sent) for pool in pools] == [3, 3]
    assert [turn.extra for turn in turns] == [(1, -1), (2, -2), (3, -3)]
    for t, (turn, (observations, folded, indices)) in enumerate(zip(turns, seen, strict=True)):
        assert indices == (4, 2)
        np.testing.assert_array_equal(folded, jax.random.key_data(jax.random.fold_in(key, 10 + t)))
        for a, b in zip(turn.observations, observations, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(turn.actions[0], [t + 1, t + 1])
        np.testing.assert_array_equal(turn.actions[1], [0, t + 1, 1])
        for pool, action in zip(pools, turn.actions, strict=True):
            np.testing.assert_array_equal(pool.sent[t], action)
    # Slot 1 of the first pool: over with the second step, begun anew with the third.
    assert [turn.steps[0].over[1].item() for turn in turns] == [False, True, False]
    assert turns[1].steps[0].scores[1] == 5.0


def test_games_may_be_asked_for_in_parts_that_change_nothing(scripted_pool):
    """In two parts the first game's pools step while the policy answers for the others."""

    def turns(parts):
        pools = [scripted_pool([[(9, 1.0)]] * 2, tag=tag) for tag in (3, 5, 7, 7)]
        asked = []

        def policy(observations, key, indices, seats):
            asked.append(indices)
            if len(asked) == 2 and parts == 2:
                assert [len(pool.sent) for pool in pools] == [0, 0, 0, 0]
            chosen = tuple(x[:, 0, 1, 1].astype(int) + x[:, 0, 0, 0] for x in observations)
            return chosen, indices

        play = rollouts.play(
            pools, policy, jax.random.key(0), meshes.create(), indices=(2, 0, 1, 1), parts=parts
        )
        return [next(play) for _ in range(2)], asked

    (whole, once), (split, twice) = turns(1), turns(2)
    assert once == [(2, 0, 1)] * 2 and twice == [(2,), (0, 1)] * 2
    for a, b in zip(whole, split, strict=True):
        assert a.extra == b.extra == (2, 0, 1)
        jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("sample", [False, True])
def test_rows_seated_among_others_draw_what_they_would_draw_there(sample):
    outputs, key = _outputs(8), jax.random.key(3)
    whole = _choose(outputs, MASK, key, epsilon=0.5, sample=sample)
    parts = [
        Discrete(outputs.shape[-1]).choose(
            outputs[i : i + 2], MASK, key, epsilon=0.5, sample=sample, seats=np.arange(i, i + 2)
        )
        for i in range(0, 8, 2)
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len(set(np.asarray(whole).tolist())) > 1


def test_pools_of_one_game_are_shown_as_one_batch_and_given_their_own_actions(scripted_pool):
    # Tags paint the observations, so every row says which pool and slot it is of.
    pools = [scripted_pool([[(9, 1.0)]] * n, tag=tag) for n, tag in ((2, 10), (2, 11), (1, 12))]
    other = scripted_pool([[(9, 1.0)]] * 3, tag=13)
    seen = []

    def policy(observations, key, indices, seats):
        assert indices == (5, 2)
        seen.append([np.asarray(x) for x in observations])
        # The action names pool and slot: ten times the one plus the other.
        return tuple(10 * x[:, 0, 1, 1].astype(int) + x[:, 0, 0, 0] for x in seen[-1]), None

    play = rollouts.play(
        [*pools, other], policy, jax.random.key(0), meshes.create(), indices=(5, 5, 5, 2)
    )
    turn = next(play)
    (first, second) = seen[0]
    # Five rows, padded to a doubling of the first pool's two: 8.
    assert first.shape == (8, 1, 2, 2) and second.shape == (3, 1, 2, 2)
    assert first[:, 0, 1, 1].tolist() == [10, 10, 11, 11, 12, 0, 0, 0]
    assert [a.tolist() for a in turn.actions] == [
        [100, 101],
        [110, 111],
        [120],
        [130, 131, 132],
    ]
    for pool, action, step in zip([*pools, other], turn.actions, turn.steps, strict=True):
        np.testing.assert_array_equal(pool.sent, [action])
        assert step is pool.last


def test_observations_are_split_over_the_devices_where_they_divide(scripted_pool):
    pools = [scripted_pool([[(3, 1.0)]] * 8), scripted_pool([[(3, 1.0)]] * 3)]
    placed = []

    def policy(observations, key, indices, seats):
        placed.extend(x.sharding for x in observations)
        return tuple(np.zeros(x.shape[0], int) for x in observations), None

    devices = meshes.create()
    next(rollouts.play(pools, policy, jax.random.key(0), devices))
    assert devices.size == 4
    assert placed[0].is_equivalent_to(meshes.sharded(devices), 4)
    assert placed[1].is_equivalent_to(meshes.replicated(devices), 4)


def test_one_network_plays_two_real_games_at_once():
    names = ("pong", "freeway")
    pools = [atari.AtariPool(tasks.get(name), 2, seed=0, view=VIEW) for name in names]
    masks = jnp.stack([jnp.asarray(pool.task.mask) for pool in pools])
    act = rollouts.network_actor(TINY, _choices(masks), epsilon=0.5)
    params = _params(TINY, 0)
    play = rollouts.play(pools, lambda *x: act(params, *x), jax.random.key(0), meshes.create())
    for _ in range(5):
        turn = next(play)  # a pool refuses actions of another game
    for pool, step in zip(pools, turn.steps, strict=True):
        assert step is pool.last
        np.testing.assert_array_equal(step.ages, [5, 5])
