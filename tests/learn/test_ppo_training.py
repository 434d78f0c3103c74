"""Trainings by PPO in combat: what settings change, what a kill does not; students that go on."""

import dataclasses
import json
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes, metrics, networks, preemption, tasks
from jaxdistill.experts.expert import Expert, Team
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import idle_settings, loop, losses, origins, ppo, train_settings
from jaxdistill.learn import training as learning
from jaxdistill.learn.algorithm import Observed, Progress
from jaxdistill.play import evaluation, lessons, scoring
from jaxdistill.tasks import combat
from jaxdistill.tasks.combat import views

ONE, FOUR = meshes.create(jax.devices()[:1]), meshes.create()
SETTINGS = train_settings.Settings(
    games=("combat/clicking",),
    algorithm="ppo",
    network="mlp_actor_critic_small",
    num_envs=8,
    rollout_steps=8,
    total_steps=64 * 6,
    epochs=2,
    batch_per_game=32,
    optimiser="adamw",
    learning_rate=3e-3,
    clip_norm=0.5,
    reward_limit=0.0,
    trace=0.95,
    entropy_weight=0.01,
    eval_every=64 * 3,
    eval_episodes=4,
    eval_epsilon=0.0,
    final_episodes=4,
    max_steps=20,
)
AIMING = dataclasses.replace(SETTINGS, games=("combat/aiming",))
BEGUN = np.ones((1, SETTINGS.num_envs), bool)  # which matters to nobody who carries nothing


def _learnt(settings, workdir, mesh=ONE, iterations=2, student=None):
    """What some iterations learn, without an evaluation, and what they said."""
    with learning.Training.of(settings, workdir, mesh, student) as training:
        rows = [training.iterate() for _ in range(iterations)]
        return jax.device_get(training.arrays), rows


def _same(left, right):
    left, right = jax.tree.leaves(left), jax.tree.leaves(right)
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def _difference(left, right):
    left, right = jax.tree.leaves(left), jax.tree.leaves(right)
    return max(np.abs(a - b).max() for a, b in zip(left, right, strict=True))


# --- Kills and devices.


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    best = loop.train(SETTINGS, workdir, mesh=ONE)
    with learning.Training.of(SETTINGS, workdir, ONE) as training:
        return workdir, best, jax.device_get(training.arrays)


def _assert_same_files(workdir, other):
    """The experts and the rows of two trainings."""
    for name in ("expert.json", "weights.safetensors"):
        files = [path / "experts" / "combat" / "clicking" / name for path in (workdir, other)]
        contents = [file.read_bytes().replace(bytes(other), bytes(workdir)) for file in files]
        assert contents[0] == contents[1]
    rows = [
        [{k: v for k, v in row.items() if "seconds" not in k and k != "time"} for row in read]
        for read in (metrics.read(workdir), metrics.read(other))
    ]
    assert rows[0] == rows[1] and len(rows[0]) >= 2


def test_a_training_killed_three_times_is_the_uninterrupted_one(whole, tmp_path):
    """In the middle of episodes, before an evaluation and after one."""
    workdir, best, arrays = whole
    for stop in (1, 2, 4):
        loop.train(SETTINGS, tmp_path, mesh=ONE, stop_at=stop)
    assert loop.train(SETTINGS, tmp_path, mesh=ONE) == best
    with learning.Training.of(SETTINGS, tmp_path, ONE) as training:
        assert training.iteration == 6
        assert _same(jax.device_get(training.arrays), arrays)
    _assert_same_files(workdir, tmp_path)


def test_a_training_that_is_taken_away_at_an_evaluation_has_saved_what_it_learnt(
    whole, tmp_path, monkeypatch
):
    """Before it, within it, and after it, before it is saved; and is the uninterrupted one."""
    workdir, best, arrays = whole
    iterate, save, evaluate = (
        getattr(learning.Training, name) for name in ("iterate", "save", "evaluate")
    )

    def asked_at_3(training):
        row = iterate(training)
        patch.setattr(preemption, "asked", lambda: training.iteration == 3)
        return row

    def asked_within(training):
        patch.setattr(preemption, "asked", lambda: True)
        return evaluate(training)

    def killed(training, **how):
        if "chosen" in how:  # by an evaluation
            raise KeyboardInterrupt
        save(training, **how)

    def train():
        return loop.train(SETTINGS, tmp_path, mesh=ONE)

    for name, stopping, error, step in (
        ("iterate", asked_at_3, preemption.Preempted, 3),
        ("evaluate", asked_within, preemption.Preempted, 3),
        ("save", killed, KeyboardInterrupt, 3),
        (None, None, None, 6),
        ("evaluate", asked_within, preemption.Preempted, 6),
        ("save", killed, KeyboardInterrupt, 6),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_EVALUATE_SECONDS", -1 if name == "save" else 3600)
            if name is None:
                loop.train(SETTINGS, tmp_path, mesh=ONE, stop_at=5)
                continue
            patch.setattr(learning.Training, name, stopping)
            with pytest.raises(error):
                train()
        with learning.Training.of(SETTINGS, tmp_path, ONE) as training:
            assert training.iteration == step and training.due
            assert bool(training.best) == (step == 6)
    assert train() == best
    with learning.Training.of(SETTINGS, tmp_path, ONE) as training:
        assert _same(jax.device_get(training.arrays), arrays) and not training.due
    _assert_same_files(workdir, tmp_path)


def test_a_signal_is_followed_where_it_was_heard_before_saving(tmp_path, monkeypatch):
    """One that comes between two lines of an iteration waits for the next, which saves."""
    iterate, heard = learning.Training.iterate, []

    def asked():
        heard.append(True)
        return len(heard) > 1

    def iterates(training):
        row = iterate(training)
        patch.setattr(preemption, "asked", asked)
        return row

    with monkeypatch.context() as patch:
        patch.setattr(learning.Training, "iterate", iterates)
        with pytest.raises(preemption.Preempted):
            loop.train(SETTINGS, tmp_path, mesh=ONE)
    with learning.Training.of(SETTINGS, tmp_path, ONE) as training:
        assert training.iteration == 2


def test_a_training_that_dies_has_lost_two_minutes_at_most(tmp_path, monkeypatch):
    """Of iterations of 61 seconds: the second is saved, and it dies in the fourth."""
    iterate = learning.Training.iterate
    clock = types.SimpleNamespace(now=100.0, monotonic=lambda: clock.now)

    def takes_a_minute(training):
        if training.iteration == 3:
            raise KeyboardInterrupt
        clock.now += 61
        return iterate(training)

    chosen = dataclasses.replace(SETTINGS, eval_every=SETTINGS.total_steps)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "time", clock)
        patch.setattr(learning.Training, "iterate", takes_a_minute)
        loop.train(chosen, tmp_path, mesh=ONE)
    with learning.Training.of(chosen, tmp_path, ONE) as training:
        assert training.iteration == 2


def test_games_that_nobody_goes_on_with_are_not_played_again(tmp_path, monkeypatch):
    """What is saved of them is what was read."""
    loop.train(SETTINGS, tmp_path, mesh=ONE, stop_at=2)
    monkeypatch.setattr(lessons.Lesson, "pool", None)
    read = []
    for _ in range(2):
        with learning.Training.of(SETTINGS, tmp_path, ONE) as training:
            read.append((training._collector.log, training._collector.began))
            training.save()
    (log, began), (again, same) = read
    np.testing.assert_array_equal(log, again)
    assert log.shape == (1, 16, 8, 9) and began == same == 0


def test_a_training_taken_away_while_it_plays_its_games_again_is_as_it_was(
    tmp_path, monkeypatch, capsys, contents
):
    loop.train(SETTINGS, tmp_path, mesh=ONE, stop_at=2)
    saved = contents(tmp_path / "checkpoints" / "2")
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(preemption, "asked", lambda: True)
        with pytest.raises(preemption.Preempted):
            loop.train(SETTINGS, tmp_path, mesh=ONE)
    assert contents(tmp_path / "checkpoints" / "2") == saved
    assert "replay combat/clicking" in capsys.readouterr().err
    with learning.Training.of(SETTINGS, tmp_path, ONE) as training:
        training.begin_games()
        assert training.iteration == 2
    assert "replay combat/clicking: 128/128 steps" in capsys.readouterr().err


def test_its_updates_are_those_of_every_minibatch_and_epoch(whole):
    _, _, arrays = whole
    assert int(arrays["train"].step) == 6 * 2 * 2  # iterations, epochs, minibatches
    assert SETTINGS.updates == 6 * 2 * 2, "which the rate falls over"
    assert sorted(arrays["train"].params) == ["log_std", "network"]
    # What the keys' deviations began with they have still: no key has one.
    np.testing.assert_allclose(arrays["train"].params["log_std"], math.log(math.radians(20)))


def test_four_devices_train_what_one_trains(tmp_path):
    one, rows = _learnt(SETTINGS, tmp_path / "one", ONE)
    four, same = _learnt(SETTINGS, tmp_path / "four", FOUR)
    assert _difference(one["train"].params, four["train"].params) < 1e-5
    assert rows[0].keys() == same[0].keys()
    for ours, theirs in zip(rows, same, strict=True):
        for name, number in ours.items():
            assert theirs[name] == pytest.approx(number, rel=1e-3, abs=1e-5), name
    with learning.Training.of(SETTINGS, tmp_path / "fresh", ONE) as fresh:
        assert _difference(one["train"].params, jax.device_get(fresh.state.params)) > 1e-2


# --- Settings.


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return _learnt(SETTINGS, tmp_path_factory.mktemp("plain"))[0]["train"]


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"discount": 0.5},
        {"trace": 0.5},
        {"policy_clip": 1e-3},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_setting_changes_the_network_that_plays(plain, tmp_path, changes):
    learnt = _learnt(dataclasses.replace(SETTINGS, **changes), tmp_path)[0]["train"]
    assert not _same(learnt.eval_params["network"], plain.eval_params["network"])


def test_a_seed_chooses_the_games_and_what_is_begun_with(tmp_path):
    shown, begun = [], []
    for seed in (0, 1):
        seeded = dataclasses.replace(SETTINGS, seed=seed)
        with learning.Training.of(seeded, tmp_path / str(seed), ONE) as training:
            shown.append([pool.last.observations for pool in training._collector.pools])
            begun.append(jax.device_get(training.network_params(training.state.params)))
    assert not _same(*shown) and not _same(*begun)


def test_an_average_plays_where_one_is_kept(tmp_path, monkeypatch):
    """It is evaluated, plays for it with the last at the end, and is saved as the expert."""
    evaluate, states, played = learning.Training.evaluate, [], []
    scores = iter([5.0, 3.0, 2.0, 1.0])  # the first is better than the last, at the end too

    def noted(training):
        states.append(jax.device_get(training.state))
        return evaluate(training)

    def measure(chosen, policy, *_, **more):
        played.append(jax.device_get(policy.args[0]))
        ones = np.ones(1, int)
        return [scoring.Scores(ones * next(scores), ones, ones, ones == 0)]

    monkeypatch.setattr(learning.Training, "evaluate", noted)
    monkeypatch.setattr(evaluation, "measure", measure)
    averaged = dataclasses.replace(SETTINGS, ema_decay=0.9)
    loop.train(averaged, tmp_path, mesh=ONE)
    for params, state in zip(played, states * 2, strict=True):
        assert _same(params, state.eval_params["network"])
        assert not _same(params, state.params["network"])
    with learning.Training.of(averaged, tmp_path, ONE) as training:
        (own,), (other,) = (
            training._as_experts(x) for x in (states[0].eval_params, states[0].params)
        )
    saved = Expert.load(tmp_path / "experts" / "combat" / "clicking").params
    assert _same(saved, own.params) and not _same(saved, other.params)


def test_at_first_the_critic_learns_alone(tmp_path):
    """For so many iterations; then all of it."""
    chosen = dataclasses.replace(AIMING, critic_iterations=1)
    with learning.Training.of(chosen, tmp_path, ONE) as training:
        before = [jax.device_get(training.state.params)]
        for _ in range(2):
            training.iterate()
            before.append(jax.device_get(training.state.params))
    fresh, first, second = before

    def moved(old, new):
        layers = {
            name: _difference(old["network"]["params"][name], layer) > 0
            for name, layer in new["network"]["params"].items()
        }
        return layers | {"log_std": bool((old["log_std"] != new["log_std"]).any())}

    assert {name for name, has in moved(fresh, first).items() if has} == {
        "value_fc1",
        "value_fc2",
        "value",
    }
    assert all(moved(first, second).values())


def test_angles_begin_with_the_deviation_that_is_said(tmp_path):
    """In degrees; what is played at first spreads as far."""
    for degrees in (20.0, 2.0):
        chosen = dataclasses.replace(AIMING, angle_deviation=degrees, num_envs=64, total_steps=512)
        with learning.Training.of(chosen, tmp_path / str(degrees), ONE) as training:
            params = jax.device_get(training.state.params)
            shown = tuple(pool.last.observations for pool in training._collector.pools)
            acted = training._actor.act(Observed(shown, BEGUN, 0)).actions
            means = ppo.judge(training._learner.policy, params, jnp.asarray(shown[0])).outputs
        assert params["log_std"].shape == (9,)
        np.testing.assert_allclose(np.exp(params["log_std"]), np.radians(degrees), rtol=1e-6)
        turned = np.degrees(np.asarray(acted)[0, :, 7:] - means[:, 7:])
        assert turned.std() == pytest.approx(degrees, rel=0.2)
        assert not np.asarray(acted)[0, :, :7].any()


# --- Who plays while it learns.


def test_the_actor_draws_by_turn_and_remembers_what_it_did(tmp_path):
    with learning.Training.of(AIMING, tmp_path, ONE) as training:
        (pool,) = training._collector.pools
        shown = (pool.last.observations,)
        actor, params = training._actor, training.state.params
        acted, again, other = (actor.act(Observed(shown, BEGUN, turn)) for turn in (3, 3, 4))
        policy = training._learner.policy
    assert acted.actions.shape == (1, 8, 9) and acted.labels is None
    np.testing.assert_array_equal(acted.actions, again.actions)
    assert (np.asarray(acted.actions)[..., 7:] != np.asarray(other.actions)[..., 7:]).all()
    judged = ppo.judge(policy, params, jnp.asarray(pool.last.observations))
    likely = combat.COMBAT.factored.log_probability(
        judged.outputs, acted.actions[0], combat.AIMING.mask, judged.log_std
    )
    np.testing.assert_allclose(acted.log_probabilities[0], likely, rtol=1e-5)
    for values in (acted.values, actor.values(Observed(shown, BEGUN, 4))):
        np.testing.assert_allclose(values[0], judged.values, rtol=1e-5, atol=1e-6)
    assert actor.begin(Progress(0, 0)) == {} == actor.checkpoint_arrays


def _taught(settings, directory, expert):
    expert.save(directory / "expert")
    return dataclasses.replace(settings, experts=(ExpertSource(str(directory / "expert")),))


def test_an_expert_beside_the_rewards_is_come_nearer(tmp_path, skilled):
    """Its weight falls with the iterations; without any, nothing of it is learnt."""
    chosen = _taught(SETTINGS, tmp_path, skilled("clicking"))
    chosen = dataclasses.replace(chosen, expert_weight=100.0, expert_fraction=1.0)
    _, rows = _learnt(chosen, tmp_path / "guided", iterations=6)
    assert [row["expert_weight"] for row in rows] == pytest.approx(
        [100 * (1 - i / 6) for i in range(6)]
    )
    name = "expert_kl/combat/clicking"
    assert rows[-1][name] < 0.5 * rows[0][name]
    _, rows = _learnt(SETTINGS, tmp_path / "alone", iterations=1)
    assert name not in rows[0] and "expert_weight" not in rows[0]


def test_an_experts_weight_falls_in_what_is_learnt(tmp_path, skilled):
    """Both begin with the same; in the second iteration one counts a fifth of the other."""
    chosen = _taught(SETTINGS, tmp_path, skilled("clicking"))
    states = []
    for fraction in (1.0, 0.2):
        falling = dataclasses.replace(chosen, expert_fraction=fraction)
        with learning.Training.of(falling, tmp_path / str(fraction), ONE) as training:
            for _ in range(2):
                training.iterate()
                states.append(jax.device_get(training.state.params))
    assert _same(states[0], states[2]) and not _same(states[1], states[3])


def test_an_expert_is_asked_only_while_it_counts(tmp_path, skilled, monkeypatch):
    """In iterations alone whose weight is above 0; so it is in a training that is resumed there.

    What is learnt is what it is where a label of weight 0 stands beside every step.
    """
    chosen = _taught(SETTINGS, tmp_path, skilled("clicking"))
    assert (chosen.iterations, chosen.expert_fraction) == (6, 0.5)
    act, asked = ppo.Actor.act, []

    def spy(actor, observed):
        acted = act(actor, observed)
        asked.append(acted.labels is not None)
        sent = [isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(actor._asked)]
        assert all(sent), "they are on the devices, and not sent at every step"
        return acted

    monkeypatch.setattr(ppo.Actor, "act", spy)
    whole, rows = _learnt(chosen, tmp_path / "whole", iterations=6)
    assert asked == [True] * 3 * 8 + [False] * 3 * 8
    told = ["expert_kl/combat/clicking" in row for row in rows]
    assert told == [True] * 3 + [False] * 3
    for stop in (2, 4):
        loop.train(chosen, tmp_path / "resumed", mesh=ONE, stop_at=stop)
    asked.clear()
    resumed, _ = _learnt(chosen, tmp_path / "resumed", iterations=2)
    assert not any(asked) and len(asked) == 16
    assert _same(whole, resumed)
    begin = ppo.Actor.begin
    monkeypatch.setattr(ppo.Actor, "begin", lambda actor, _: begin(actor, Progress(0, 0)))
    asked.clear()
    always, _ = _learnt(chosen, tmp_path / "always", iterations=6)
    assert all(asked)
    assert _difference(always["train"].params, whole["train"].params) < 1e-5


def test_a_copy_without_weight_never_asks_its_expert(tmp_path, skilled):
    task, view = tasks.get("combat/duel"), views.part("duel")
    network = networks.for_tasks(networks.create(SETTINGS.network), [task])
    params = networks.init(network, jax.random.key(0), view.shape)
    expert = Expert("it", network, params, "logits", tuple(range(9)), view, task.name)
    chosen = _taught(dataclasses.replace(SETTINGS, games=(task.name,)), tmp_path, expert)
    chosen = dataclasses.replace(chosen, warm_start=True, expert_weight=0.0)
    with learning.Training.of(chosen, tmp_path / "run", ONE) as training:
        shown = (training._collector.pools[0].last.observations,)
        for _ in range(2):
            assert training._actor.act(Observed(shown, BEGUN, 0)).labels is None
            assert "expert_kl/combat/duel" not in training.iterate()


def test_an_experts_outputs_are_met_at_their_temperature_and_its_angles_as_they_are(
    tmp_path, skilled, monkeypatch
):
    network = networks.Network(convs=(), head="actor_critic")
    monkeypatch.setitem(networks.NETWORKS, "linear", network)
    params = networks.init(network, jax.random.key(3), (4, 84, 84))
    valued = Expert("valued", network, params, "q", tuple(range(18)), game="pong")
    pong = dataclasses.replace(SETTINGS, games=("pong",), network="linear", opening_steps=0)
    for settings, expert, kind, factor in (
        (SETTINGS, skilled("clicking"), "logits", 4.0),
        (AIMING, skilled("aiming"), "logits", 1.0),
        (pong, valued, "q", 4.0),
    ):
        chosen = _taught(settings, tmp_path / expert.name, expert)
        chosen = dataclasses.replace(chosen, **{f"{kind}_temperature": 0.25})
        with learning.Training.of(chosen, tmp_path / expert.name / "run", ONE) as training:
            shown = training._collector.pools[0].last.observations
            said = np.asarray(training._actor.act(Observed((shown,), BEGUN, 0)).labels)
        own = np.asarray(expert.judge(expert.params, shown))
        np.testing.assert_allclose(said[0], factor * own, rtol=1e-5)
        assert np.abs(own).max() > 0.05


def test_each_expert_is_met_at_the_temperature_of_its_own_outputs(tmp_path, monkeypatch):
    network = networks.Network(convs=(), head="actor_critic")
    monkeypatch.setitem(networks.NETWORKS, "linear", network)
    experts = [
        Expert(
            name=game,
            network=network,
            params=networks.init(network, jax.random.key(seed), (4, 84, 84)),
            outputs=outputs,
            actions=tuple(range(18)),
            game=game,
        )
        for seed, (game, outputs) in enumerate({"pong": "q", "breakout": "logits"}.items())
    ]
    for expert in experts:
        expert.save(tmp_path / expert.name)
    chosen = dataclasses.replace(
        SETTINGS,
        games=("pong", "breakout"),
        network="linear",
        opening_steps=0,
        experts=tuple(ExpertSource(str(tmp_path / expert.name)) for expert in experts),
        q_temperature=0.25,
        logits_temperature=0.5,
    )
    with learning.Training.of(chosen, tmp_path / "run", ONE) as training:
        shown = tuple(pool.last.observations for pool in training._collector.pools)
        said = np.asarray(training._actor.act(Observed(shown, BEGUN, 0)).labels)
    for expert, seen, labels, factor in zip(experts, shown, said, (4.0, 2.0), strict=True):
        own = np.asarray(expert.judge(expert.params, seen))
        np.testing.assert_allclose(labels, factor * own, rtol=1e-5)
        assert np.abs(own).max() > 0.05


def test_an_expert_is_met_in_the_keys_that_it_has_and_others_are_played_all_the_same(
    tmp_path, skilled
):
    moving = dataclasses.replace(SETTINGS, games=("combat/movement",))
    expert = skilled("movement", actions=combat.MOVEMENT.actions[:2])
    assert expert.mask.sum() == 2 < combat.MOVEMENT.mask.sum()
    chosen, guides = _taught(moving, tmp_path, expert), []
    with learning.Training.of(chosen, tmp_path / "run", ONE) as training:
        update = training._learner._update

        def spy(state, rollout, key, guide):
            guides.append(guide)
            return update(state, rollout, key, guide)

        training._learner._update = spy
        training.iterate()
        pressed = training._collector.log.any(axis=(0, 1, 2))
    np.testing.assert_array_equal(guides[0].mask, [expert.mask])
    np.testing.assert_array_equal(pressed, combat.MOVEMENT.mask)


def _stop(seen, given):
    seen.extend(given)
    raise InterruptedError


@pytest.mark.parametrize("head", ["dueling", "actor_critic"])
def test_a_copy_of_q_values_plays_their_softmax(tmp_path, monkeypatch, head):
    """As a student's do, at `q_temperature`, which is not idle then."""
    network = networks.Network(convs=(), head=head)
    monkeypatch.setitem(networks.NETWORKS, "linear", network)
    params = jax.device_get(networks.init(network, jax.random.key(3), (4, 84, 84)))
    params = jax.tree.map(lambda x: 3 * x, params)
    expert = Expert("valued", network, params, "q", tuple(range(18)), game="pong")
    chosen = _taught(
        dataclasses.replace(SETTINGS, games=("pong",), network="linear", opening_steps=0),
        tmp_path,
        expert,
    )
    copied = dataclasses.replace(chosen, warm_start=True, expert_weight=0.0, q_temperature=0.25)
    idle_settings.refuse_idle(copied)
    seen = np.random.default_rng(0).integers(0, 256, (5, 4, 84, 84)).astype(np.uint8)
    with learning.Training.of(copied, tmp_path / "run", ONE) as training:
        begun = training.state.params
        said = networks.forward(training.network, begun, seen)
    values = networks.forward(network, params, seen)
    assert np.ptp(values, axis=1).min() > 0.1
    np.testing.assert_allclose(
        jax.nn.softmax(said), jax.nn.softmax(values / 0.25), rtol=1e-3, atol=1e-6
    )
    assert _same(begun["params"]["value"], params["params"]["value"])
    # When it has diverged another temperature changes nothing: it made what was begun with.
    offered = []
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(loop.divergence, "claim", lambda *given, **_: _stop(offered, given[2]))
        loop.train(copied, tmp_path / "trained", mesh=ONE)
    assert "learning_rate" in offered and "q_temperature" not in offered
    expert = dataclasses.replace(expert, outputs="logits")
    expert.save(tmp_path / "expert", replace=True)
    with pytest.raises(ValueError, match=r"^q_temperature 0\.25: no effect where expert_"):
        idle_settings.refuse_idle(copied)
    plain = dataclasses.replace(copied, q_temperature=train_settings.Settings.q_temperature)
    with learning.Training.of(plain, tmp_path / "other", ONE) as training:
        assert _same(jax.device_get(training.state.params), params)


def test_an_experts_own_deviation_is_met_where_it_is_known(tmp_path, skilled):
    usual = math.log(losses.ANGLE_DEVIATION)
    for log_std, wanted in ((None, usual), ((-1.5, -1.5), -1.5)):
        directory = tmp_path / str(wanted)
        chosen = _taught(AIMING, directory, skilled("aiming", log_std=log_std))
        with learning.Training.of(chosen, directory / "run", ONE) as training:
            met = np.asarray(training._learner._log_std)
        assert met.shape == (1, 9)
        np.testing.assert_allclose(met[0, 7:], wanted, rtol=1e-6)


def test_a_copy_turns_as_far_as_its_expert_where_that_is_known(tmp_path, skilled):
    network = networks.for_tasks(
        networks.create("mlp_actor_critic_small"), [tasks.get("combat/duel")]
    )
    params = networks.init(network, jax.random.key(0), views.part("duel").shape)
    for log_std, wanted in ((None, math.log(math.radians(3))), ((-1.5,) * 9, -1.5)):
        directory = tmp_path / str(wanted)
        expert = Expert(
            "fighter",
            network,
            params,
            "logits",
            tuple(range(9)),
            views.part("duel"),
            "combat/duel",
            log_std=log_std,
        )
        deviation = {} if log_std else {"angle_deviation": 3.0}
        chosen = dataclasses.replace(
            SETTINGS, games=("combat/duel",), warm_start=True, experts=({"path": "x"},), **deviation
        )
        chosen = _taught(chosen, directory, expert)
        with learning.Training.of(chosen, directory / "run", ONE) as training:
            begun = training.state.params
        assert _same(begun["network"], params)
        np.testing.assert_allclose(begun["log_std"], wanted, rtol=1e-6)


@pytest.mark.parametrize("skill", ["movement", "aiming", "clicking"])
def test_a_copy_of_a_skill_plays_as_its_expert(tmp_path, skilled, skill):
    """Which has outputs of its own alone."""
    log_std = (-1.5, -2.0) if skill == "aiming" else None
    expert = skilled(skill, log_std=log_std)
    chosen = dataclasses.replace(SETTINGS, games=(expert.game,))
    chosen = _taught(chosen, tmp_path, expert)
    chosen = dataclasses.replace(chosen, warm_start=True, expert_weight=0.0)
    shown = np.random.default_rng(0).uniform(-1, 1, (64, 1, 74)).astype(np.float32)
    with learning.Training.of(chosen, tmp_path / "run", ONE) as training:
        begun = jax.device_get(training.state.eval_params)
        act = training._player(training.network_params(begun))
        (played,), _ = act((shown,), jax.random.key(0), (0,), (np.arange(64),))
        training.iterate()
        assert not _same(training.state.eval_params["network"], begun["network"])
    wanted = np.asarray(expert.greedy(expert.view.see(shown)))
    turned = np.asarray(expert.task.limited(jnp.asarray(played)))  # as its pool does
    np.testing.assert_allclose(turned, wanted, rtol=1e-4, atol=1e-5)
    assert len(np.unique(wanted, axis=0)) > 1
    if log_std:
        np.testing.assert_allclose(begun["log_std"][7:], log_std)


# --- What is saved.


def test_what_has_been_learnt_is_an_expert_of_its_own_outputs(tmp_path):
    """Of two angles and their deviations, looking at what an aiming expert sees."""
    loop.train(AIMING, tmp_path, mesh=ONE)
    expert = Expert.load(tmp_path / "experts" / "combat" / "aiming")
    assert expert.actions == (7, 8) and expert.network.num_outputs == 2
    assert expert.outputs == "logits" and expert.view == views.part("aiming")
    with learning.Training.of(AIMING, tmp_path, ONE) as training:
        params = jax.device_get(training.best_params())
        network = training.network
        shown = training._collector.pools[0].last.observations
    np.testing.assert_allclose(expert.log_std, params["log_std"][7:], rtol=1e-6)
    assert (params["log_std"][7:] != math.log(math.radians(20))).any()
    whole = networks.forward(network, params["network"], expert.view.see(shown))
    turn = math.radians(36)
    said = expert.judge(expert.params, jnp.asarray(shown))
    np.testing.assert_allclose(said[:, 7:], np.clip(whole[:, 7:], -turn, turn), rtol=1e-5)
    assert not said[:, :7].any()
    description = json.loads(
        (tmp_path / "experts" / "combat" / "aiming" / "expert.json").read_text()
    )
    assert description["log_std"] == list(expert.log_std)


# --- Students that go on.


@pytest.fixture(scope="module")
def student(skilled):
    network = networks.create("skills")
    view = views.part("duel")
    params = networks.init(network, jax.random.key(5), view.shape)
    experts = [
        skilled("movement"),
        skilled("aiming", log_std=(-2.0, -2.0)),
        skilled("clicking"),
    ]
    teachers = {expert.game: expert for expert in experts}
    teachers["combat/duel"] = Team(tuple(experts), "combat/duel")
    return origins.Pretrained("it", network, params, "logits", view, teachers)


def test_a_student_of_skills_goes_on_in_several_tasks_at_once(tmp_path, student):
    """It sees the duel's view everywhere; each task plays the entries that are its own."""
    chosen = dataclasses.replace(
        SETTINGS,
        games=("combat/duel", "combat/clicking"),
        student="a run",
        network=train_settings.Settings.network,
        expert_weight=0.5,
    )
    with learning.Training.of(chosen, tmp_path, ONE, student) as training:
        assert training.network.streams and training.network.head == "actor_critic"
        start = jax.device_get(training.state.params["network"]["params"])
        for name, layer in student.params["params"].items():
            assert _same(layer, start[name])
        shown = tuple(pool.last.observations for pool in training._collector.pools)
        acted = training._actor.act(Observed(shown, BEGUN, 0))
        row = training.iterate()
        after = jax.device_get(training.state.params["network"]["params"])
    np.testing.assert_array_equal(
        lessons.masks(training.lessons), [combat.DUEL.mask, combat.CLICKING.mask]
    )
    assert not np.asarray(acted.actions)[1, :, [0, 1, 2, 3, 4, 5, 7, 8]].any()
    assert np.asarray(acted.actions)[0, :, 7:].all()
    # The experts label what they see, each with its own outputs.
    team = student.teachers["combat/duel"]
    own = team.judge(team.params, jnp.asarray(shown[0]))
    np.testing.assert_allclose(acted.labels[0], own, rtol=1e-5, atol=1e-6)
    for name in chosen.games:
        assert np.isfinite(row[f"expert_kl/{name}"]) and np.isfinite(row[f"policy_loss/{name}"])
    assert all(not _same(after[name], start[name]) for name in start)


GOES_ON = dataclasses.replace(
    SETTINGS,
    games=("combat/duel",),
    student="a run",
    network=train_settings.Settings.network,
    expert_weight=0.5,
    total_steps=64 * 2,
)


def test_a_student_goes_on_killed_or_not(tmp_path, student):
    learnt = []
    for name, stops in (("whole", ()), ("killed", (1,))):
        for stop in (*stops, None):
            loop.train(GOES_ON, tmp_path / name, mesh=ONE, stop_at=stop, student=student)
        with learning.Training.of(GOES_ON, tmp_path / name, ONE, student) as training:
            learnt.append(jax.device_get(training.arrays))
    assert _same(*learnt)
    expert = Expert.load(tmp_path / "whole" / "experts" / "combat" / "duel")
    assert expert.view == views.part("duel") and expert.actions == tuple(range(9))
    assert expert.network.streams and len(expert.log_std) == 9


def test_a_training_goes_on_from_the_student_that_it_began_from_or_not_at_all(tmp_path, student):
    """Its run may have chosen another since, and so may the runs of those who teach it."""

    def train(student, stop_at=None):
        return loop.train(GOES_ON, tmp_path, mesh=ONE, stop_at=stop_at, student=student)

    train(student, stop_at=1)
    other = dataclasses.replace(student, params=jax.tree.map(lambda x: 2 * x, student.params))
    team = student.teachers["combat/duel"]
    first, *others = team.experts
    first = dataclasses.replace(first, params=jax.tree.map(lambda x: 2 * x, first.params))
    duel = dataclasses.replace(team, experts=(first, *others))
    taught = dataclasses.replace(student, teachers={"combat/duel": duel})
    for changed, who in ((other, "student"), (taught, "expert of combat/duel")):
        with pytest.raises(ValueError, match=rf"^the {who} has other parameters than when"):
            train(changed)
        assert not (tmp_path / "experts").exists()
    assert train(student)["step"] == 128
    # An earlier version wrote down nobody; such a training opens as it did.
    (tmp_path / "begun_with.json").unlink()
    assert train(other)["step"] == 128
    assert not (tmp_path / "begun_with.json").exists()


def test_a_training_goes_on_with_the_expert_that_it_began_with(tmp_path, skilled):
    """Which may still be in training itself."""
    chosen = _taught(SETTINGS, tmp_path, skilled("clicking"))
    loop.train(chosen, tmp_path / "run", mesh=ONE, stop_at=1)
    skilled("clicking", 7).save(tmp_path / "expert", replace=True)
    with pytest.raises(ValueError, match=r"^the expert of combat/clicking has other parameters"):
        loop.train(chosen, tmp_path / "run", mesh=ONE, stop_at=2)
    skilled("clicking").save(tmp_path / "expert", replace=True)
    loop.train(chosen, tmp_path / "run", mesh=ONE, stop_at=2)
    expert = skilled("clicking")
    turned = expert.network.clone(activation="elu")
    dataclasses.replace(expert, network=turned).save(tmp_path / "expert", replace=True)
    said = r"^the expert of combat/clicking is read in another way than when .*run was begun"
    with pytest.raises(ValueError, match=said):
        loop.train(chosen, tmp_path / "run", mesh=ONE, stop_at=2)
    begun = tmp_path / "run" / "begun_with.json"
    marks = json.loads(begun.read_text())
    earlier = {"expert of combat/clicking": marks["expert of combat/clicking"]}
    begun.write_text(json.dumps(earlier))  # as an earlier version wrote it
    loop.train(chosen, tmp_path / "run", mesh=ONE, stop_at=2)
    begun.write_text("[]")
    with pytest.raises(ValueError, match=r"begun_with.json is damaged .*; delete it"):
        loop.train(chosen, tmp_path / "run", mesh=ONE, stop_at=2)


def test_a_student_with_heads_of_its_games_is_refused_before_anything_is_written(tmp_path, student):
    network = student.network.clone(
        streams=(), controllers=True, game_actions=(combat.DUEL.actions,) * 2
    )
    chosen = dataclasses.replace(
        SETTINGS, games=("combat/duel",), student="a run", network=train_settings.Settings.network
    )
    heads = dataclasses.replace(student, network=network)
    with pytest.raises(ValueError, match="it has output layers of each game's own"):
        loop.train(chosen, tmp_path / "run", mesh=ONE, student=heads)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("lost", [0.0, 1.0])
def test_what_one_game_gains_is_not_paid_by_another(tmp_path, student, monkeypatch, lost):
    """The student that it goes on from is the first evaluated, and stays where a game has lost."""
    chosen = dataclasses.replace(
        SETTINGS,
        games=("combat/duel", "combat/clicking"),
        student="a run",
        network=train_settings.Settings.network,
        expert_weight=0.0,
        total_steps=64 * 2,
        eval_every=64,
    )
    played = []

    def play(training, params, episodes, purpose, advance=None):
        played.append((jax.tree.map(np.array, jax.device_get(params)), purpose))
        gained = not _same(played[-1][0], played[0][0])
        return {"combat/duel": 5.0 + 9.0 * gained, "combat/clicking": 5.0 - lost * gained}

    monkeypatch.setattr(learning.Training, "_play", play)
    if lost:  # killed on the way or not
        loop.train(chosen, tmp_path, mesh=ONE, stop_at=1, student=student)
    best = loop.train(chosen, tmp_path, mesh=ONE, student=student)
    assert best["step"] == (0 if lost else 128) and best["value"] == 0.0
    rows = [row for row in metrics.read(tmp_path) if "eval/combat/duel" in row]
    assert [row["step"] for row in rows] == [0, 64, 128]
    assert [row["eval/combat/duel"] for row in rows] == [5.0, 14.0, 14.0]
    # At the end it plays the same games as the network it is compared with.
    assert [purpose for _, purpose in played[-2:]] == [lessons.DECIDE] * 2
    assert _same(played[-2][0], played[0][0]) and not _same(played[-1][0], played[0][0])
    kept = Expert.load(tmp_path / "experts" / "combat" / "duel").params["params"]
    first = all(_same(layer, kept[name]) for name, layer in student.params["params"].items())
    assert first is bool(lost)


def test_skills_are_learnt_by_networks_of_their_own_that_see_what_each_sees(tmp_path):
    chosen = dataclasses.replace(
        SETTINGS, games=("combat/aiming", "combat/clicking"), independent=True, total_steps=64
    )
    loop.train(chosen, tmp_path, mesh=ONE)
    for skill in ("aiming", "clicking"):
        expert = Expert.load(tmp_path / "experts" / "combat" / skill)
        assert expert.view == views.part(skill) == tasks.get(f"combat/{skill}").view
    with pytest.raises(ValueError, match="are seen in different ways; set independent to True"):
        dataclasses.replace(chosen, independent=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"algorithm": "pqn"}, "algorithm is 'pqn', and combat is played with keys and angles"),
        ({"algorithm": "dqn"}, "algorithm is 'dqn', and combat is .* expected 'ppo'"),
        ({"network": "mlp"}, "network 'mlp' has no critic, which ppo needs; choose one of .*mlp_a"),
        ({"network": "nature_actor_critic"}, "looks at screens, and combat/clicking shows Vector"),
        ({"games": ("combat/clicking", "pong")}, r"of several suites \(combat, atari\)"),
        ({"games": ("combat/duel_0hp",)}, "health is 0, expected at least 1"),
        ({"student": "run", "experts": (ExpertSource("x"),)}, "leave experts and independent out"),
        ({"student": "run", "independent": True}, "student goes on by ppo, as one network"),
        (
            {"student": "run", "algorithm": "pqn", "games": ("pong",)},
            "student goes on by ppo, as one network",
        ),
        ({"batch_per_game": 24}, "batch_per_game 24 does not divide the 64 steps"),
        ({"critic_iterations": 6}, "critic_iterations is 6, expected less than the 6 iterations"),
        ({"batch_per_game": 1}, "batch_per_game is 1, expected at least 2: ppo normalises"),
        ({"total_steps": 2**31 - 1, "epochs": 1000}, r"updates, expected at most 2147483647"),
    ],
)
def test_what_ppo_cannot_train_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(SETTINGS, **changes)
    assert "\n" not in str(error.value)


def test_a_students_directory_is_the_same_by_whatever_spelling():
    for spelt, known in (
        ("runs/a/", "runs/a"),
        ("./runs//a", "runs/a"),
        ("hf://user/name", "hf://user/name"),
    ):
        assert dataclasses.replace(SETTINGS, student=spelt).student == known
    # Only with PPO does anybody wait for the critic.
    dataclasses.replace(
        SETTINGS, games=("pong",), network="nature", algorithm="pqn", critic_iterations=6
    )
