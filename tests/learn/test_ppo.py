"""Tests for PPO: every number by hand, PyTorch's update, and what must not be learnt from."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import meshes, networks, tasks
from jaxdistill.learn import learner, origins, ppo
from jaxdistill.learn.rollout import Passes, Rollout
from jaxdistill.networks import ConvLayer, Network
from jaxdistill.tasks.actions import Factored
from jaxdistill.tasks.views import Vector

FOUR, ONE = meshes.create(), meshes.create(jax.devices()[:1])

MLP = Network(
    convs=(),
    head="actor_critic",
    action_hidden=(8,),
    value_hidden=(8,),
    num_outputs=4,
    activation="tanh",
)
KEYS_AND_ANGLES = Factored(("key", "key", "key", "angle"))
POLICIES = {"one of several": ppo.Policy(MLP), "factored": ppo.Policy(MLP, KEYS_AND_ANGLES)}
MASKS = jnp.array([[True, True, True, False], [False, True, True, True]])
TIME, ENVS, SEEN = 8, 4, 3


def _difference(a, b):
    return max(
        np.abs(np.asarray(x) - np.asarray(y)).max()
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _params(policy, shape=(1, SEEN), seed=0):
    """Fresh, with heads large enough to have preferences."""
    params = networks.init(policy.network, jax.random.key(seed), shape)
    params = jax.tree.map(lambda x: x, params)
    for head in ("action", "value"):
        params["params"][head]["kernel"] *= 10
    log_std = None if policy.form is None else jnp.array([9.0, 9.0, 9.0, -0.5])
    return ppo.create_params(policy, params, log_std)


def _rollout(policy):
    """A rollout without a guide; see `_guided`."""
    return _played_by_chance(policy, guided=False)[0]


def _guided(policy):
    """A rollout with what experts say of it, and the guide that they are."""
    return _played_by_chance(policy, guided=True)


def _played_by_chance(policy, *, guided):
    """Two tasks. In the first, environment 0 ends at step 2 and environment 1 is cut at step 4.

    The step after each is none.
    """
    rng = np.random.default_rng(0)
    shape = (2, TIME, ENVS)

    def normal(*more):
        return rng.normal(size=(*shape, *more)).astype(np.float32)

    if policy.form is None:
        actions = np.stack([rng.choice([0, 1, 2], shape[1:]), rng.choice([1, 2, 3], shape[1:])])
    else:
        actions = normal(4)
        actions[..., :3] = actions[..., :3] > 0
    flags = {name: np.zeros(shape, bool) for name in ("ended", "truncated")}
    valid = np.ones(shape, bool)
    flags["ended"][0, 2, 0] = flags["truncated"][0, 4, 1] = True
    valid[0, 3, 0] = valid[0, 5, 1] = False
    guide = labels = None
    if guided:
        log_std = None if policy.form is None else rng.normal(size=(2, 4)).astype(np.float32)
        labels, guide = normal(4), ppo.Guide(np.float32(0.3), log_std)
    rollout = Rollout(
        frames=normal(SEEN),
        ages=np.zeros(shape, np.uint8),
        actions=actions,
        log_probabilities=normal() / 3 - 2,
        rewards=normal(),
        values=normal(),
        next_values=normal(),
        valid=valid,
        labels=labels,
        **flags,
    )
    return rollout, guide


SETTINGS = {"masks": MASKS, "batch_per_task": 8, "epochs": 2, "discount": 0.9, "trace": 0.8}
ADAM = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(3e-3, eps=1e-5))


@functools.cache
def _update(policy, devices, transform=ADAM, **changes):
    return _made(policy, transform, devices, **(SETTINGS | changes))


def _made(policy, transform, devices, *, batch_per_task, epochs, warmup_calls=0, **objective):
    return ppo.make_update(
        policy,
        transform,
        devices,
        objective=ppo.Objective(**objective),
        passes=Passes(batch_per_task, epochs),
        warmup_calls=warmup_calls,
    )


def _learn(
    policy, rollout, devices=ONE, *, guide=None, calls=1, transform=ADAM, params=None, **changes
):
    """State and metrics after so many calls with one rollout."""
    update = _update(policy, devices, transform, **changes)
    params = _params(policy) if params is None else params
    state = learner.create_state(params, transform, devices)
    rollout, guide = jax.device_put((rollout, guide), meshes.replicated(devices))
    for _ in range(calls):
        state, metrics = update(state, rollout, jax.random.key(1), guide)
    return state, metrics


# --- By hand.


def test_generalised_advantages_by_hand():
    """gamma = lambda = 1/2, all values 1, four environments."""
    columns = np.ones((3, 4), np.float32)
    rewards = columns * [[1], [2], [4]]
    ended, truncated = np.zeros((3, 4), bool), np.zeros((3, 4), bool)
    ended[1, 1] = truncated[1, 2] = True
    ended[1, 3] = truncated[1, 3] = True
    next_values = columns * [[1], [1], [2]]
    next_values[1, 1:] = [100, 3, 100]  # the cut episode's last observation is worth 3
    rewards[2, 2] = np.nan  # of no step: the pool began an episode
    advantages = ppo.gae(rewards, ended, truncated, columns, next_values, discount=0.5, trace=0.5)
    # Errors: 1/2, 3/2 and 4; at the end 2 - 1, at the cut 2 + 3/2 - 1.
    np.testing.assert_allclose(advantages[:, 0], [1 / 2 + 2.5 / 4, 3 / 2 + 4 / 4, 4])
    np.testing.assert_allclose(advantages[:, 1], [1 / 2 + 1 / 4, 1, 4])
    np.testing.assert_allclose(advantages[:, 2], [1 / 2 + 2.5 / 4, 2.5, np.nan])
    np.testing.assert_allclose(advantages[:, 3], [1 / 2 + 1 / 4, 1, 4])


def test_the_surrogate_by_hand_is_clipped_on_both_sides():
    ratios = jnp.array([1.5, 0.5, 1.5, 0.5, 1.1])
    advantages = jnp.array([2.0, 2.0, -2.0, -2.0, 2.0])

    def total(now):
        values = ppo.surrogate(now, jnp.zeros(5), advantages, 0.2)
        return values.sum(), values

    gradient, values = jax.grad(total, has_aux=True)(jnp.log(ratios))
    np.testing.assert_allclose(values, [2.4, 1.0, -3.0, -1.6, 2.2], rtol=1e-6)
    # Nothing more is to be had by going further where it is clipped.
    np.testing.assert_allclose(gradient, [0, 1.0, -3.0, 0, 2.2], rtol=1e-6)


def test_advantages_are_normalised_over_valid_rows():
    valid = jnp.array([True, False, True, False])
    actual = ppo.normalise(jnp.array([1.0, jnp.nan, 5.0, 100.0]), valid)
    np.testing.assert_allclose(actual, [-1, 0, 1, 0], atol=1e-6)
    np.testing.assert_array_equal(ppo.normalise(jnp.full(4, 7.0), valid), np.zeros(4))
    np.testing.assert_array_equal(ppo.normalise(jnp.ones(4), jnp.zeros(4, bool)), np.zeros(4))
    for equal in (0.1, 0.3, 1.7, 100.1):  # whose mean is off by a last bit
        rows = jnp.full(96, equal)
        np.testing.assert_array_equal(ppo.normalise(rows, jnp.ones(96, bool)), np.zeros(96))


def test_a_minibatch_is_normalised_by_itself():
    """So is each task; row 1 of the first was not played."""
    valid = jnp.ones((2, 6), bool).at[0, 1].set(False)
    advantages = jnp.array([[1.0, jnp.nan, 5.0, 2.0, 2.0, 8.0], [10, 10, 40, 7, 7, 7]])
    batches = [
        ppo._batch(jnp.array(rows), advantages, valid)
        for rows in ([[0, 1, 2], [2, 0, 1]], [[4, 5, 3], [3, 4, 5]])
    ]
    # Means 3, 20, 4 and 7; deviations 2, root of 200, root of 8, and none.
    root = math.sqrt(2)
    wanted = [[[-1, 0, 1], [root, -1 / root, -1 / root]], [[-1 / root, root, -1 / root], [0, 0, 0]]]
    np.testing.assert_allclose([batch.advantages for batch in batches], wanted, atol=1e-6)
    # Two rows of three stand for three.
    wanted = [[[1.5, 0, 1.5], [1, 1, 1]], [[1, 1, 1], [1, 1, 1]]]
    np.testing.assert_allclose([batch.weights for batch in batches], wanted, rtol=1e-6)


def test_the_explained_variance_by_hand():
    returns, valid = jnp.array([0.0, 2.0, 4.0, jnp.nan]), jnp.array([True, True, True, False])
    values = jnp.array([0.0, 2.0, 1.0, 5.0])  # errors 0, 0, 3: variance 2, of 8/3
    np.testing.assert_allclose(ppo.explained_variance(values, returns, valid), 1 / 4, rtol=1e-6)
    assert ppo.explained_variance(values, jnp.ones(4), valid) == 0
    everywhere, noise = jnp.ones(96, bool), jax.random.normal(jax.random.key(0), (96,))
    for equal in (0.1, 100.1):
        assert ppo.explained_variance(noise, jnp.full(96, equal), everywhere) == 0


# --- PyTorch's update.


def _torch_loss(torch, policy, rollout, guide, leaves, advantages, returns):
    """The loss of all rows, `(name -> (G,))` tensors, from leaves by name."""

    def layer(x, name):
        return x @ leaves[f"{name}/kernel"] + leaves[f"{name}/bias"]

    means = {}
    for task in range(2):
        rows = torch.from_numpy(rollout.valid[task].reshape(-1))
        mask = torch.from_numpy(np.array(MASKS[task]))

        def of(x, task=task, rows=rows):
            x = torch.from_numpy(np.array(x[task]))
            return x.reshape(-1, *x.shape[2:])[rows]

        seen = of(rollout.frames)
        outputs = layer(torch.tanh(layer(seen, "action_fc1")), "action")
        values = layer(torch.tanh(layer(seen, "value_fc1")), "value")[:, 0]
        chosen, expert = of(rollout.actions), of(rollout.labels)
        kl_divergence = torch.distributions.kl_divergence
        if policy.form is None:
            own = torch.distributions.Categorical(logits=outputs[:, mask])
            first = int(mask.int().argmax())  # valid ones are side by side
            likely, entropy = own.log_prob(chosen - first), own.entropy()
            theirs = torch.distributions.Categorical(logits=expert[:, mask])
            apart = kl_divergence(theirs, own)
        else:
            log_stds = leaves["log_std"], torch.from_numpy(guide.log_std[task])

            def split(outputs, log_std, mask=mask):
                """The distribution of keys, and of angles, that count."""
                keys, angles = mask.clone(), mask.clone()
                keys[3:], angles[:3] = False, False
                normal = torch.distributions.Normal(outputs[:, angles], log_std[angles].exp())
                return (
                    (torch.distributions.Bernoulli(logits=outputs[:, keys]), keys),
                    (normal, angles),
                )

            own, theirs = split(outputs, log_stds[0]), split(expert, log_stds[1])
            likely = sum(d.log_prob(chosen[:, where]).sum(dim=1) for d, where in own)
            entropy = sum(d.entropy().sum(dim=1) for d, _ in own)
            both = zip(theirs, own, strict=True)
            apart = sum(kl_divergence(p, q).sum(dim=1) for (p, _), (q, _) in both)
        advantage = of(advantages)
        advantage = (advantage - advantage.mean()) / (advantage.std(unbiased=False) + 1e-8)
        log_ratio = likely - of(rollout.log_probabilities)
        ratio = log_ratio.exp()
        numbers = {
            "policy_loss": -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage),
            "value_loss": (values - of(returns)) ** 2,
            "entropy": entropy,
            "kl": ratio - 1 - log_ratio,
            "clip_fraction": ((ratio - 1).abs() > 0.2).float(),
            "expert_kl": apart,
        }
        for name, x in numbers.items():
            means.setdefault(name, []).append(x.mean())
    return {name: torch.stack(x) for name, x in means.items()}


@pytest.mark.parametrize("name", POLICIES)
def test_parity_with_an_update_in_torch(name):
    torch = pytest.importorskip("torch")
    policy = POLICIES[name]
    (rollout, guide), epochs = _guided(policy), 4
    advantages = np.zeros_like(rollout.rewards)
    for task, time, env in np.ndindex(*advantages.shape):  # forwards, as the sum is written
        factor = 1.0
        for later in range(time, TIME):
            at = task, later, env
            follows = 0.0 if rollout.ended[at] else 0.9 * rollout.next_values[at]
            error = rollout.rewards[at] + follows - rollout.values[at]
            advantages[task, time, env] += factor * error
            if rollout.ended[at] or rollout.truncated[at]:
                break
            factor *= 0.9 * 0.8
    params = _params(policy)

    def flat(params):
        network = params if policy.form is None else params["network"]
        leaves = {
            f"{layer}/{kind}": np.array(x)
            for layer, kinds in network["params"].items()
            for kind, x in kinds.items()
        }
        return leaves if policy.form is None else leaves | {"log_std": np.array(params["log_std"])}

    leaves = {key: torch.from_numpy(x).requires_grad_() for key, x in flat(params).items()}
    optimiser = torch.optim.Adam(leaves.values(), lr=3e-3, eps=1e-5)
    history = []
    for _ in range(epochs):
        returns = advantages + rollout.values
        means = _torch_loss(torch, policy, rollout, guide, leaves, advantages, returns)
        whole = (
            means["policy_loss"]
            + 0.5 * means["value_loss"]
            - 0.01 * means["entropy"]
            + 0.3 * means["expert_kl"]
        ).mean()
        optimiser.zero_grad()
        whole.backward()
        norm = torch.nn.utils.clip_grad_norm_(leaves.values(), 0.5)
        optimiser.step()
        history.append(means | {"loss": whole, "gradient_norm": norm})
    state, metrics = _learn(
        policy,
        rollout,
        guide=guide,
        batch_per_task=TIME * ENVS,
        epochs=epochs,
        entropy_weight=0.01,
    )
    for key, ours in flat(state.params).items():
        np.testing.assert_allclose(ours, leaves[key].detach(), atol=2e-5, err_msg=key)
    assert _difference(state.params, params) > 5e-3
    for key in history[0]:
        theirs = torch.stack([row[key].detach() for row in history]).mean(dim=0)
        np.testing.assert_allclose(metrics[key], theirs, rtol=2e-4, atol=2e-5, err_msg=key)
    assert metrics["clip_fraction"].min() > 0
    assert metrics["clip_fraction"].max() < 1


# --- Devices, masks, rows.


@pytest.mark.parametrize("name", POLICIES)
def test_four_devices_learn_what_one_learns(name):
    policy = POLICIES[name]
    rollout, guide = _guided(policy)
    one, numbers = _learn(policy, rollout, ONE, guide=guide)
    four, same = _learn(policy, rollout, FOUR, guide=guide)
    assert int(one.step) == 2 * 4  # epochs x minibatches
    assert _difference(one.params, four.params) < 1e-5
    for key, x in numbers.items():
        np.testing.assert_allclose(x, same[key], rtol=1e-4, atol=1e-6, err_msg=key)
    for leaf in jax.tree.leaves(four):
        assert leaf.sharding.is_equivalent_to(meshes.replicated(FOUR), leaf.ndim)


def _spoilt(rollout, where, junk):
    """The rollout with junk in the rows `where`, in everything that is said of a step."""

    def spoil(x):
        value = np.array(junk).astype(x.dtype) if x.dtype != bool else True
        return np.where(where.reshape(*where.shape, *[1] * (x.ndim - 3)), value, x)

    names = ("frames", "actions", "log_probabilities", "rewards", "values", "next_values", "labels")
    return dataclasses.replace(rollout, **{name: spoil(getattr(rollout, name)) for name in names})


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("name", POLICIES)
def test_what_was_not_played_is_not_learnt_from(name):
    policy = POLICIES[name]
    rollout, guide = _guided(policy)
    clean, numbers = _learn(policy, rollout, FOUR, guide=guide)
    for junk in (np.nan, 3.0):
        spoilt, same = _learn(policy, _spoilt(rollout, ~rollout.valid, junk), FOUR, guide=guide)
        assert _difference(clean.params, spoilt.params) == 0
        assert _difference(numbers, same) == 0
    played = np.zeros_like(rollout.valid)
    played[1, 3, 2] = True
    other, _ = _learn(policy, _spoilt(rollout, played, 3.0), FOUR, guide=guide)
    assert _difference(clean.params, other.params) > 1e-5


@pytest.mark.parametrize("name", POLICIES)
def test_what_does_not_count_changes_nothing(name):
    """Experts' outputs, played entries and deviations outside the mask."""
    policy = POLICIES[name]
    (rollout, guide), params = _guided(policy), _params(policy)
    clean, _ = _learn(policy, rollout, FOUR, guide=guide)
    masks = np.array(MASKS)
    outside = ~masks[:, None, None]
    spoilt = dataclasses.replace(rollout, labels=np.where(outside, np.nan, rollout.labels))
    if policy.form is not None:
        guide = dataclasses.replace(guide, log_std=np.where(masks, guide.log_std, np.nan))
        spoilt = dataclasses.replace(spoilt, actions=np.where(outside, np.nan, rollout.actions))
    other, _ = _learn(policy, spoilt, FOUR, guide=guide, params=params)
    assert _difference(clean.params, other.params) == 0


@pytest.mark.parametrize("name", POLICIES)
def test_what_an_expert_has_no_output_for_is_not_compared(name):
    policy = POLICIES[name]
    known = np.array([[True, False, True, False], [False, True, False, True]])
    rollout, guide = _guided(policy)
    knowing = dataclasses.replace(guide, mask=known)
    clean, numbers = _learn(policy, rollout, guide=knowing)
    labels = np.where(known[:, None, None], rollout.labels, 0)
    unknown = dataclasses.replace(rollout, labels=labels)
    same, again = _learn(policy, unknown, guide=knowing)
    assert _difference(clean.params, same.params) == 0 == _difference(numbers, again)
    assert _difference(clean.params, _learn(policy, unknown, guide=guide)[0].params) > 1e-5
    # It is no mask of the policy's own.
    whole = _learn(policy, rollout, guide=guide)[1]
    np.testing.assert_allclose(numbers["entropy"], whole["entropy"], rtol=0.05)


def test_of_one_known_action_an_expert_says_nothing():
    known = np.eye(4, dtype=bool)[[1, 3]]
    policy = POLICIES["one of several"]
    rollout, guide = _guided(policy)
    guide = dataclasses.replace(guide, mask=known)
    assert not _learn(policy, rollout, ONE, guide=guide)[1]["expert_kl"].any()


def test_a_network_sees_the_stacks_that_were_played():
    """By a policy that has not changed, what was played is as likely as it was when played."""
    network = Network(convs=(ConvLayer(4, 8, 4),), hidden=(8,), head="actor_critic", num_outputs=4)
    policy, depth, rng = ppo.Policy(network), 3, np.random.default_rng(0)
    params = _params(policy, (depth, 20, 20))
    frames = rng.integers(0, 256, (2, depth - 1 + TIME, ENVS, 20, 20)).astype(np.uint8)
    ages = np.full((2, depth - 1 + TIME, ENVS), depth, np.uint8)
    ages[0, depth - 1 + 3 :, 1] = np.minimum(np.arange(TIME - 3), depth)  # a game begins at step 3

    def acted(task, time):
        newest = depth - 1 + time
        back = np.minimum(np.arange(depth)[::-1, None], ages[task, newest])  # (depth, N)
        seen = frames[task, newest - back, np.arange(ENVS)].swapaxes(0, 1)
        key, seats = jax.random.key(time), jnp.arange(ENVS)
        return ppo.act(policy, params, jnp.asarray(seen), MASKS[task], key, seats=seats)

    rows = [[acted(task, time) for time in range(TIME)] for task in range(2)]
    chosen, values, likely = (
        np.array([[row[i] for row in task] for task in rows]) for i in range(3)
    )
    zeros, no = np.zeros(likely.shape, np.float32), np.zeros(likely.shape, bool)
    rollout = Rollout(frames, ages, chosen, zeros + 1, ~no, no, ~no, values, zeros + 9, likely)
    still = {"transform": optax.sgd(0.0), "params": params, "batch_per_task": 16}
    _, metrics = _learn(policy, rollout, FOUR, **still)
    np.testing.assert_allclose(metrics["kl"], 0, atol=1e-6)
    np.testing.assert_allclose(
        metrics["value_loss"], np.square(values - 1).mean(axis=(1, 2)), rtol=1e-5
    )
    assert np.all(chosen[0] < 3) and np.all(chosen[1] > 0) and len(np.unique(chosen)) == 4
    swapped = dataclasses.replace(rollout, frames=frames[:, ::-1].copy())
    assert _learn(policy, swapped, FOUR, **still)[1]["kl"].min() > 1e-5


def test_no_task_wins_the_policy_by_its_rewards():
    """Without a critic to share layers with, rewards a thousand times as large change nothing."""
    policy = POLICIES["one of several"]
    rollout = _rollout(policy)
    zeros = np.zeros_like(rollout.values)
    rollout = dataclasses.replace(rollout, values=zeros, next_values=zeros)
    scale = np.array([1, 1000], np.float32)[:, None, None]
    larger = dataclasses.replace(rollout, rewards=rollout.rewards * scale)
    clean, other = (_learn(policy, x, value_weight=0.0)[0] for x in (rollout, larger))
    assert _difference(clean.params, other.params) < 1e-5
    assert _difference(clean.params, _params(policy)) > 1e-3


def test_rows_are_shuffled_anew_with_every_epoch_and_call():
    """By the key and the updates done, and nothing else: a resumed training shuffles as the whole.

    Plain gradient steps do not depend on how many there were, but for the order of the rows.
    """
    policy = POLICIES["one of several"]
    rollout, params, sgd = _rollout(policy), _params(policy), optax.sgd(0.1)
    update = _update(policy, ONE, sgd, epochs=1)

    def learnt(step, key):
        state = learner.create_state(params, sgd, ONE)
        state = dataclasses.replace(state, step=jnp.int32(step))
        return update(state, rollout, jax.random.key(key))[0].params

    first = learnt(0, 1)
    assert _difference(first, learnt(0, 1)) == 0
    assert _difference(first, learnt(0, 2)) > 1e-5
    assert _difference(first, learnt(4, 1)) > 1e-5
    # Two epochs in one call are two calls of one.
    state = learner.create_state(params, sgd, ONE)
    whole = _update(policy, ONE, sgd, epochs=2)(state, rollout, jax.random.key(1))[0]
    state = learner.create_state(params, sgd, ONE)
    for _ in range(2):
        state = update(state, rollout, jax.random.key(1))[0]
    assert _difference(whole.params, state.params) < 1e-6


# --- Warm-up.


@pytest.mark.parametrize("name", POLICIES)
def test_first_the_critic_moves_alone(name):
    policy = POLICIES[name]
    rollout, before = _rollout(policy), _params(policy)
    transform = optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(3e-3, weight_decay=0.1))
    warm = _update(policy, ONE, transform, warmup_calls=2)

    def moved(params):
        """By how much each layer has moved."""
        changes = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), before, params)
        layers = changes if policy.form is None else changes["network"]
        named = {layer: max(jax.tree.leaves(x)) for layer, x in layers["params"].items()}
        return named | ({} if policy.form is None else {"log_std": changes["log_std"]})

    state = learner.create_state(before, transform, ONE)
    for _ in range(2):
        state = warm(state, rollout, jax.random.key(1))[0]
        for layer, change in moved(state.params).items():
            assert (change > 1e-3) if layer.startswith("value") else (change == 0), layer
    # From the next update on it is one without a warm-up.
    plain = _update(policy, ONE, transform)(
        jax.tree.map(jnp.array, state), rollout, jax.random.key(1)
    )[0]
    state = warm(state, rollout, jax.random.key(1))[0]
    assert min(moved(state.params).values()) > 1e-3
    assert _difference(state.params, plain.params) < 1e-6


# --- It learns.


def _played(policy, params, key, reward, mask, envs=64):
    """One step of a bandit's `envs` arms: `(G, T, N) = (1, 1, envs)`."""
    seen = jnp.ones((envs, 1, 1))
    acted = ppo.act(policy, params, seen, mask, key, seats=jnp.arange(envs))
    rewards = reward(acted.actions)
    zeros, no = jnp.zeros(envs), jnp.zeros(envs, bool)
    rows = (acted.actions, rewards, ~no, no, ~no, acted.values, zeros, acted.log_probabilities)
    rows = [x[None, None] for x in rows]
    return Rollout(seen[None, None, :, 0], no[None, None].astype(jnp.uint8), *rows)


def _solve(policy, reward, mask, calls, log_std=None):
    params = networks.init(policy.network, jax.random.key(0), (1, 1))
    params = ppo.create_params(policy, params, log_std)
    transform = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.02))
    update = ppo.make_update(
        policy,
        transform,
        ONE,
        objective=ppo.Objective(mask[None], discount=0.9, trace=0.9),
        passes=Passes(batch_per_task=32, epochs=4),
    )
    play = jax.jit(lambda params, key: _played(policy, params, key, reward, mask))
    state = learner.create_state(params, transform, ONE)
    for call in range(calls):
        rollout = play(state.params, jax.random.key(call))
        state, metrics = update(state, rollout, jax.random.key(1))
    return ppo.judge(policy, state.params, jnp.ones((1, 1, 1))), metrics


def test_a_bandit_with_two_arms_is_solved():
    network = MLP.clone(num_outputs=3)
    mask = jnp.array([True, True, False])
    policy = ppo.Policy(network)
    judged, metrics = _solve(policy, lambda arm: (arm == 1).astype(jnp.float32), mask, 15)
    assert jax.nn.softmax(judged.outputs[0, :2])[1] > 0.95
    np.testing.assert_allclose(judged.values, 1, atol=0.15)
    assert metrics["entropy"][0] < 0.3


def test_a_bandit_with_a_key_and_an_angle_is_solved():
    """The key is to be up; the angle 0.3 radians, and certain."""
    network, mask = MLP.clone(num_outputs=3), jnp.array([True, False, True])
    policy = ppo.Policy(network, Factored(("key", "key", "angle")))

    def reward(chosen):
        return -jnp.square(chosen[:, 2] - 0.3) - 0.5 * chosen[:, 0]

    judged, _ = _solve(policy, reward, mask, 50, log_std=-0.5)
    assert judged.outputs[0, 0] < -2
    np.testing.assert_allclose(judged.outputs[0, 2], 0.3, atol=0.1)
    assert judged.log_std[2] < -1.0
    assert judged.log_std[1] == -0.5  # no key has one


def test_a_policy_sees_its_part_of_what_is_shown():
    """Acting and learning: as if the other numbers, which are junk, were not there."""
    part = Vector(SEEN, start=2, of=7)
    for name in POLICIES:
        whole, cut = POLICIES[name], dataclasses.replace(POLICIES[name], view=part)
        (rollout, guide), params = _guided(whole), _params(whole)
        shown = np.full((*rollout.frames.shape[:-1], 7), 1e3, np.float32)
        shown[..., 2 : 2 + SEEN] = rollout.frames
        seen, key = jnp.asarray(rollout.frames[0, 0, :, None]), jax.random.key(0)
        seats = jnp.arange(ENVS)
        acted = ppo.act(whole, params, seen, MASKS[0], key, seats=seats)
        same = ppo.act(cut, params, jnp.asarray(shown[0, 0, :, None]), MASKS[0], key, seats=seats)
        assert _difference(acted, same) == 0
        clean, _ = _learn(whole, rollout, guide=guide)
        other, _ = _learn(cut, dataclasses.replace(rollout, frames=shown), guide=guide)
        assert _difference(clean.params, other.params) == 0


# --- Going on from a student.


def _student(network, outputs, shape=(1, SEEN), **fields):
    params = networks.init(network, jax.random.key(3), shape)
    params = jax.tree.map(lambda x: 3 * x, params)  # with preferences
    view = Vector(shape[-1])
    return origins.Pretrained("it", network, params, outputs, view, {}, **fields)


def _said(network, params, games=None):
    seen = jax.random.normal(jax.random.key(9), (6, 1, SEEN))
    return networks.forward_with_values(network, params, seen, games)


TUNED = Network(convs=(), hidden=(8, 6), num_outputs=4)


@pytest.mark.parametrize("head", ["linear", "dueling", "actor_critic"])
def test_a_students_q_values_become_the_logits_of_their_softmax(head):
    student = _student(TUNED.clone(head=head), "q")
    network, params = ppo.with_critic(student, 0.1, jax.random.key(1))
    assert network.head == ("actor_critic" if head == "linear" else head)
    outputs, values = _said(network, params)
    seen = jax.random.normal(jax.random.key(9), (6, 1, SEEN))
    q = networks.forward(student.network, student.params, seen)
    np.testing.assert_allclose(
        jax.nn.softmax(outputs), jax.nn.softmax(10 * q), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(outputs.argmax(axis=1), q.argmax(axis=1))
    if head == "linear":  # logits are not shifted, and the critic is a new one
        np.testing.assert_allclose(outputs, 10 * q, rtol=1e-5)
        assert "value" not in student.params["params"] and np.isfinite(values).all()
    else:  # a critic that there is stays
        _, own = networks.forward_with_values(student.network, student.params, seen)
        np.testing.assert_allclose(values, own, rtol=1e-5)
    # Another temperature is another policy, and the student's own parameters are left alone.
    other = ppo.with_critic(student, 0.5, jax.random.key(1))[1]
    assert _difference(_said(network, other)[0], outputs) > 0.1
    np.testing.assert_array_equal(networks.forward(student.network, student.params, seen), q)


def test_a_students_logits_stay_what_they_are_at_every_temperature():
    student = _student(TUNED.clone(activation=("tanh", "relu")), "logits")
    seen = jax.random.normal(jax.random.key(9), (6, 1, SEEN))
    logits = networks.forward(student.network, student.params, seen)
    made = [ppo.with_critic(student, t, jax.random.key(k)) for t, k in ((0.1, 1), (9, 1), (9, 2))]
    for network, params in made:
        np.testing.assert_array_equal(_said(network, params)[0], logits)
        # The critic's two layers, of 128 and 64, come after those that are shared.
        assert network.activation == ("tanh", "relu", "relu", "relu")
        assert params["params"]["value_fc1"]["kernel"].shape == (6, 128)
        assert params["params"]["value_fc2"]["kernel"].shape == (128, 64)
    values = [_said(*each)[1] for each in made]
    assert _difference(values[0], values[1]) == 0
    assert _difference(values[1], values[2]) > 1e-4  # another key, another critic


def test_a_student_of_skills_keeps_its_hands_and_angles_lose_their_bounds():
    student = _student(networks.create("skills"), "logits")
    network, params = ppo.with_critic(student, 0.1, jax.random.key(1))
    outputs, _ = _said(network, params)
    seen = jax.random.normal(jax.random.key(9), (6, 1, SEEN))
    before = networks.forward(student.network, student.params, seen)
    np.testing.assert_array_equal(outputs[:, :7], before[:, :7])
    np.testing.assert_allclose(jnp.tanh(outputs[:, 7:]), before[:, 7:], rtol=1e-5)
    assert np.abs(before[:, 7:]).max() <= 1 < np.abs(outputs[:, 7:]).max()
    assert not any(stream.bounded for stream in network.streams)
    assert network == networks.create("skills_actor_critic").clone(value_hidden=(128, 64))


def test_a_student_that_knows_its_game_goes_on_knowing_it():
    chosen = [tasks.get(name) for name in ("lander/heavy", "lander/windy")]
    for name in ("mlp_task_embedding", "mlp_one_hot"):
        network = networks.for_tasks(networks.create(name), chosen)
        student = _student(network, "q", (1, 8))
        more, params = ppo.with_critic(student, 0.5, jax.random.key(1))
        seen, games = jnp.ones((2, 1, 8)), np.arange(2)
        q = networks.forward(network, student.params, seen, games)
        outputs, values = networks.forward_with_values(more, params, seen, games)
        np.testing.assert_allclose(outputs, 2 * q, rtol=1e-5)
        assert values.shape == (2,) and _difference(q[0], q[1]) > 0.1


def test_a_student_with_output_layers_for_each_game_cannot_go_on():
    network = Network(convs=(), controllers=True, num_outputs=4, game_actions=((0, 1), (2, 3)))
    student = _student(network, "q")
    with pytest.raises(ValueError, match=r"^it has output layers of each game's own; expected a"):
        ppo.with_critic(student, 0.1, jax.random.key(1))


# --- What is refused.


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_per_task": 6}, "batch_per_task 6 is not divisible by 4 devices"),
        ({"batch_per_task": 0}, "batch_per_task is 0, expected at least 1"),
        ({"epochs": 0}, "epochs is 0, expected at least 1"),
        ({"discount": 1.5}, "discount is 1.5, expected 0 to 1"),
        ({"trace": -0.1}, "trace is -0.1, expected 0 to 1"),
        ({"clip": 0.0}, "clip is 0.0, expected a number above 0"),
        ({"clip": math.nan}, "clip is nan, expected a number above 0"),
        ({"entropy_weight": -1.0}, "entropy_weight is -1.0, expected 0 or more"),
        ({"warmup_calls": -1}, "warmup_calls is -1, expected 0 or more"),
        ({"masks": jnp.ones((1, 5), bool)}, "masks of 5 outputs for 4 of the network"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        _made(ppo.Policy(MLP), ADAM, FOUR, **(SETTINGS | changes))


def test_rollouts_that_do_not_fit_are_refused():
    policy = POLICIES["factored"]
    with pytest.raises(ValueError, match="batch_per_task 12 does not divide the 32 steps"):
        _learn(policy, _rollout(policy), batch_per_task=12)
    rollout, guide = _guided(policy)
    with pytest.raises(ValueError, match="has no log_std"):
        _learn(policy, rollout, guide=dataclasses.replace(guide, log_std=None))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ppo.Policy(MLP.clone(head="linear")), "linear head has no state value"),
        (lambda: ppo.Policy(MLP, Factored(("key",))), "1 kinds for 4 outputs"),
        (lambda: ppo.create_params(ppo.Policy(MLP), {}, 0.0), "log_std belongs to keys and angles"),
        (lambda: ppo.create_params(POLICIES["factored"], {}), "log_std belongs to keys and angles"),
    ],
)
def test_policies_that_cannot_be_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
