"""Training a network with a core: what it carries, what it learns from, and how it goes on."""

import dataclasses
import functools
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import meshes, networks, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import exploration, learner, loop, pqn, train_settings, windows
from jaxdistill.learn import training as learning
from jaxdistill.learn.algorithm import Progress
from jaxdistill.learn.rollout import Passes, Rollout
from jaxdistill.networks import ConvLayer, Network
from jaxdistill.play import evaluation, lessons, protocols, rollouts
from jaxdistill.run import training as runs

KEY = jax.random.key(0)
ONE, FOUR = meshes.create(jax.devices()[:1]), meshes.create()
TINY = Network(convs=(ConvLayer(2, 16, 16),), hidden=(6,), layer_norm=True)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(networks.NETWORKS, "tiny", TINY)
        yield


def _settings(**changes):
    fields = {
        "games": ("carnival",),
        "network": "tiny",
        "core": "gru",
        "core_width": 5,
        "num_envs": 4,
        "rollout_steps": 4,
        "total_steps": 4 * 4 * 3,
        "epochs": 2,
        "batch_per_game": 4 * 4,
        "learning_rate": 0.03,
        "eval_every": 4 * 4 * 2,
        "eval_episodes": 2,
        "eval_epsilon": 0.0,
        "final_episodes": 4,
        "max_steps": 5,
        "opening_steps": 0,
    }
    return train_settings.Settings(**(fields | changes))


def _by_hand(network, params, observations, begun, carry):
    """Outputs `(T, B, A)` and what is carried last, one step after another."""
    step, said = functools.partial(networks.advance, network), []
    for seen, begins in zip(observations, begun, strict=True):
        carry = tuple(jnp.where(begins[:, None], 0.0, x) for x in carry)
        outputs, carry = step(params, seen, carry)
        said.append(outputs)
    return jnp.stack(said), carry


def _observed(rollout, game=0):
    """Stacks `(T, N, ...)` of a rollout, and where its games begin."""
    frames, ages = rollout.frames, rollout.ages
    steps, envs = rollout.actions.shape[1:]
    rows = np.arange(steps * envs).reshape(steps, envs)
    depth = frames.shape[1] - steps + 1
    where = np.full_like(rows, game)
    stacks = windows.stacks(
        jnp.asarray(frames), jnp.asarray(ages), where, rows + (depth - 1) * envs, depth
    )
    return stacks, ages[game, depth - 1 :] == 0


def test_many_steps_at_once_are_those_one_after_another():
    network = TINY.clone(core=networks.Core("gru", 5), num_outputs=3)
    params = networks.init(network, KEY, (1, 16, 16))
    rng = np.random.default_rng(0)
    seen = rng.integers(0, 256, (7, 3, 1, 16, 16)).astype(np.uint8)
    begun = rng.random((7, 3)) < 0.3
    carry = tuple(
        jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in networks.initial_carry(network, 3)
    )
    wanted, _ = jax.jit(functools.partial(_by_hand, network))(params, seen, begun, carry)
    said = jax.jit(functools.partial(networks.unroll, network))(params, seen, begun, carry)
    np.testing.assert_allclose(said, wanted, rtol=1e-5, atol=1e-6)
    assert begun[1:].any() and not begun.all()
    other = jax.jit(functools.partial(networks.unroll, network))(params, seen, 0 * begun, carry)
    assert np.abs(other - said).max() > 1e-2


# --- Learning.


def _rollout(settings):
    """Made-up steps of four environments, in the middle of which two games begin."""
    rng = np.random.default_rng(1)
    shape = (len(settings.games), settings.rollout_steps, settings.num_envs)
    frames = (shape[0], shape[1] + 3, shape[2])
    ages = np.full(frames, 3, np.uint8)
    ages[:, 3 + 2 :, 0] = [0, 1]
    ages[:, 3, 1] = 0
    valid = np.ones(shape, bool)
    valid[:, 1, 0] = False
    return Rollout(
        actions=rng.choice(tasks.get("carnival").actions, shape),
        rewards=rng.normal(size=shape).astype(np.float32),
        ended=rng.random(shape) < 0.1,
        truncated=np.zeros(shape, bool),
        valid=valid,
        values=np.zeros(shape, np.float32),
        next_values=rng.normal(size=shape).astype(np.float32),
        frames=rng.integers(0, 256, (*frames, 16, 16)).astype(np.uint8),
        ages=ages,
        carry=(rng.normal(size=(shape[0], shape[2], 5)).astype(np.float32),),
    )


def _update(settings, network, transform, devices):
    return pqn.make_update(
        network,
        transform,
        devices,
        objective=pqn.objective_of(settings),
        passes=Passes(settings.batch_per_game, settings.epochs),
    )


def test_a_window_is_learnt_from_through_its_core_on_one_device_and_on_four():
    """The gradient is that of all steps of a window, from what was carried when it began."""
    settings = _settings(games=("carnival", "pong"), epochs=1)
    network = train_settings.network_of(settings)
    params = networks.init(network, KEY, (4, 16, 16))
    transform, rollout = optax.sgd(1.0), _rollout(settings)

    def loss(params):
        losses = []
        for game in range(2):
            seen, begun = _observed(rollout, game)
            carry = tuple(x[game] for x in rollout.carry)
            outputs, _ = _by_hand(network, params, seen, begun, carry)
            names = ("rewards", "ended", "truncated", "next_values")
            targets = pqn.q_lambda_targets(
                *(jnp.asarray(getattr(rollout, name)[game]) for name in names),
                discount=0.99,
                trace=0.65,
            )
            chosen = jnp.take_along_axis(outputs, rollout.actions[game][..., None], axis=2)
            errors = jnp.square(chosen[..., 0] - targets)
            losses.append(0.5 * jnp.where(rollout.valid[game], errors, 0.0).mean())
        return jnp.stack(losses).mean()

    wanted = jax.jit(jax.grad(loss))(params)
    for devices in (ONE, FOUR):
        learn = _update(settings, network, transform, devices)
        state = learner.create_state(params, transform, devices)
        after, _ = learn(state, jax.device_put(rollout, meshes.replicated(devices)), KEY)
        moved = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), params, after.params)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-6), moved, wanted
        )
    core = wanted["params"]["core_hidden"]["kernel"]
    assert np.abs(core).max() > 1e-4, "nothing is learnt through what is carried"


def test_minibatches_are_of_environments_that_change_from_epoch_to_epoch():
    settings = _settings(batch_per_game=2 * 4, epochs=3, games=("pong",))
    network, rollout = train_settings.network_of(settings), _rollout(settings)
    transform = optax.sgd(0.0)
    learn = _update(settings, network, transform, ONE)
    state = learner.create_state(networks.init(network, KEY, (4, 16, 16)), transform, ONE)
    drawn, unroll = [], networks.unroll

    def look(network, params, seen, begun, carry):
        jax.debug.callback(lambda x: drawn.append(np.asarray(x)), carry[0])
        return unroll(network, params, seen, begun, carry)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "unroll", look)
        jax.block_until_ready(learn(state, jax.device_put(rollout, meshes.replicated(ONE)), KEY))
    jax.effects_barrier()
    (known,) = rollout.carry
    order = [[int(np.flatnonzero((known[0] == x).all(1))[0]) for x in own] for own in drawn]
    epochs = [[*order[i], *order[i + 1]] for i in range(0, 6, 2)]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


# --- Whole trainings.


class Whole(NamedTuple):
    """A training from beginning to end; `seen` is what each iteration acted by and learnt from."""

    settings: train_settings.Settings
    workdir: pathlib.Path
    best: dict
    seen: list


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    settings = _settings(core="lstm", double=True, hold_exponent=1.6)
    workdir, seen = tmp_path_factory.mktemp("whole"), []
    learn = pqn.Pqn.learn

    def spy(self, rollout, progress):
        before = jax.tree.map(np.asarray, self.acting)
        seen.append((before, rollout))
        return learn(self, rollout, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pqn.Pqn, "learn", spy)
        best = loop.train(settings, workdir)
    return Whole(settings, workdir, best, seen)


def test_what_was_valued_in_play_is_what_the_window_says_again(whole):
    """By both networks, each by what it carries; games of five steps begin in most windows."""
    settings, seen = whole.settings, whole.seen
    network = train_settings.network_of(settings)
    unroll = jax.jit(functools.partial(_by_hand, network))
    mask, slow = tasks.get("carnival").mask, None
    for window, ((acting, average), rollout) in enumerate(seen):
        stacks, begun = _observed(rollout)
        carry = tuple(x[0] for x in rollout.carry)
        assert begun[0].all() == (window == 0)  # games go on across an evaluation
        if slow is None:
            slow = tuple(np.zeros_like(x) for x in carry)
        said, own = unroll(acting, stacks, begun, carry)
        valued, slow = unroll(average, stacks, begun, slow)
        chosen = np.where(mask, said, -np.inf).argmax(-1)[..., None]
        wanted = np.take_along_axis(np.asarray(valued), chosen, axis=2)[..., 0]
        np.testing.assert_allclose(rollout.values[0], wanted, rtol=1e-3, atol=1e-4)
        if window + 1 < len(seen):
            for kept, after in zip(own, seen[window + 1][1].carry, strict=True):
                np.testing.assert_allclose(kept, after[0], rtol=1e-3, atol=1e-4)
                assert np.abs(kept).max() > 0.01
    assert any(begun[1:].any() for _, rollout in seen for begun in [_observed(rollout)[1]])


def test_stopped_in_the_middle_of_games_it_goes_on_as_the_uninterrupted_one(whole, tmp_path):
    with learning.Training.of(whole.settings, tmp_path) as training:
        training.iterate()
        training.save()
    acting, rollout = whole.seen[1]
    with learning.Training.of(whole.settings, tmp_path) as training:
        carried = training._actor.checkpoint_arrays
        resumed = jax.tree.map(np.asarray, training._learner.acting)
        jax.tree.map(np.testing.assert_array_equal, resumed, acting)
        training._actor.begin(Progress(1, 0))
        again, _ = training._collector.rollout(training._actor, 1, FOUR, training.timer)
    assert all(np.abs(carried[f"carry{i}"]).max() > 0.01 for i in range(4)), "of both networks"
    jax.tree.map(np.testing.assert_array_equal, again, rollout)


def test_on_one_device_it_plays_the_same(whole, tmp_path):
    with learning.Training.of(whole.settings, tmp_path, ONE) as training:
        training.iterate()
        alone = training._actor.carry
    for a, b in zip(alone, whole.seen[1][1].carry, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_its_best_network_is_an_expert_that_plays_as_it_was_chosen(whole):
    settings, workdir, best, _ = whole
    expert = Expert.load(workdir / "experts" / "carnival")
    assert expert.recurrent and expert.network.core == networks.Core("lstm", 5)
    assert expert.outputs == "q" and best["scores"]["carnival"] >= 0
    assert settings.max_steps and expert.advertised_score is None, "of whole games nothing is known"
    with learning.Training.of(settings, workdir) as training:
        (lesson,), opening = training.lessons, training._random_policy
        params = training._learner.network_params(training.best_params())
        # Of 3 iterations, 2 epochs each of one minibatch.
        assert int(training.state.step) == settings.updates == 3 * 2
    protocol = protocols.Protocol(
        lessons.DECIDE,
        settings.seed,
        protocols.Opening(opening, 0, opening, protocols.CHOOSING),
        settings.max_steps,
    )
    policy = rollouts.expert_actor([expert], epsilon=0.0)
    (scores,) = evaluation.measure([lesson], policy, protocol, settings.final_episodes, FOUR)
    assert scores.mean == best["scores"]["carnival"]
    jax.tree.map(np.testing.assert_array_equal, expert.params, jax.device_get(params))
    assert [x.network for x in runs.load_experts(workdir)] == [expert.network]


def test_an_evaluation_begins_with_nothing_carried(whole):
    """Also the second of one training, of other parameters: each as if it were the first."""
    settings, workdir, _, seen = whole
    (first, _), (last, _) = seen[0][0], seen[-1][0]
    with learning.Training.of(settings, workdir) as training:
        policy = training._player(first)
        again, other = training._player(first), training._player(last)
    rng = np.random.default_rng(0)
    shown = [(rng.integers(0, 256, (3, 4, 84, 84)).astype(np.uint8),) for _ in range(3)]
    seats, ages = (np.arange(3),), [[np.full(3, n)] for n in range(3)]

    def said(policy):
        return [
            np.asarray(rollouts.ask(policy, seen, KEY, (0,), seats, age)[1][0])
            for seen, age in zip(shown, ages, strict=True)
        ]

    wanted, repeated, different = said(policy), said(again), said(other)
    np.testing.assert_array_equal(wanted, repeated)
    assert np.abs(np.subtract(wanted, different)).max() > 1e-3
    carried, _ = _by_hand(
        train_settings.network_of(settings),
        first,
        np.concatenate(shown),
        np.array([[True] * 3, [False] * 3, [False] * 3]),
        networks.initial_carry(train_settings.network_of(settings), 3),
    )
    valid = tasks.get("carnival").mask
    np.testing.assert_allclose(
        np.array(wanted)[..., valid], carried[..., valid], rtol=1e-4, atol=1e-5
    )


def test_of_its_actions_as_many_are_chance_as_evaluations_are_to_have(whole, tmp_path):
    """All rows see the same, and without chance they do the same."""
    rows, actions = 1000, len(tasks.get("carnival").actions)
    shown = (np.zeros((rows, 4, 84, 84), np.uint8),)
    for epsilon in (0.0, 0.5):
        chosen = dataclasses.replace(whole.settings, eval_epsilon=epsilon)
        with learning.Training.of(chosen, tmp_path / str(epsilon)) as training:
            policy = training._player(training.network_params(training.state.eval_params))
        seats, ages = (np.arange(rows),), [np.zeros(rows, int)]
        (played,), _ = rollouts.ask(policy, shown, KEY, (0,), seats, ages)
        commonest = np.bincount(np.asarray(played)).max() / rows
        assert commonest == pytest.approx(1 - epsilon * (1 - 1 / actions), abs=0.05)


def test_a_recurrent_expert_is_trained_further_as_a_copy(whole, tmp_path):
    settings, workdir, _, _ = whole
    source = ExpertSource(str(workdir / "experts" / "carnival"))
    copied = dataclasses.replace(settings, experts=(source,), warm_start=True, expert_weight=0.0)
    expert = Expert.load(source.path)
    with learning.Training.of(copied, tmp_path / "copy") as training:
        jax.tree.map(np.testing.assert_array_equal, training.state.params, expert.params)
        assert np.isfinite(training.iterate()["loss"])
    for changes, message in (
        (
            {"expert_weight": 1.0},
            "is recurrent, and a training asks its experts .*; set expert_weight to 0 to train its",
        ),
        ({"core": "none", "core_width": 128}, "is not of the shape of network 'tiny'"),
        ({"core_width": 6}, "is not of the shape of network 'tiny'"),
    ):
        with pytest.raises(ValueError, match=message):
            loop.train(dataclasses.replace(copied, **changes), tmp_path / "refused")
        assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"core": "rnn"}, "core is 'rnn', expected one of none, gru, lstm"),
        ({"core_width": 0}, "core_width is 0, expected"),
        (
            {"num_envs": 3, "batch_per_game": 6},
            "batch_per_game is 6, expected a multiple of rollout_steps 4",
        ),
        ({"algorithm": "dqn"}, "core is 'gru', and dqn learns from single states"),
        (
            {"algorithm": "ppo", "network": "nature_actor_critic"},
            "core is 'gru', and ppo learns from single states; set core to 'none', or algorithm to",
        ),
        (
            {"network": "nature_actor_critic"},
            "network 'nature_actor_critic' with core 'gru': .* a linear or a dueling head",
        ),
        ({"network": "multi_task"}, "network 'multi_task' with core 'gru': .* no parts of its own"),
    ],
)
def test_what_cannot_carry_is_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        _settings(**changes)
    assert "\n" not in str(error.value)


def test_windows_that_do_not_split_over_the_devices_are_refused_before_anything_is_written(
    tmp_path,
):
    settings = _settings(num_envs=8, batch_per_game=2 * 4)
    message = "batch_per_game / rollout_steps 2 is not divisible by 4 devices"
    with pytest.raises(ValueError, match=message):
        loop.train(settings, tmp_path / "run", mesh=FOUR)
    assert not (tmp_path / "run").exists()


def test_acting_forgets_where_a_game_begins():
    network = TINY.clone(core=networks.Core("gru", 5), num_outputs=18)
    params = networks.init(network, KEY, (4, 16, 16))
    act = exploration.make_act(_settings(), network, jnp.asarray([tasks.get("carnival").mask]))
    seen = np.random.default_rng(0).integers(0, 256, (3, 4, 16, 16)).astype(np.uint8)
    carry = (np.ones((1, 3, 5), np.float32),)
    begun = np.array([[True, False, True]])
    _, values, (carried, nothing) = act(params, params, (seen,), begun, (carry, ()))
    fresh = (np.where(begun[..., None], 0, carry[0]).astype(np.float32),)
    _, same, (again, _) = act(params, params, (seen,), 0 * begun, (fresh, ()))
    np.testing.assert_array_equal(values, same)
    np.testing.assert_array_equal(carried[0], again[0])
    assert nothing == () and carried[0].shape == (1, 3, 5)
    _, other, _ = act(params, params, (seen,), 0 * begun, (carry, ()))
    assert (np.asarray(other) != values).tolist() == begun.tolist()
