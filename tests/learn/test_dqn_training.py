"""Trainings by deep Q-learning: what memory and target network change, and what a kill does not."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from jaxdistill import meshes, networks, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.learn import checkpoints, divergence, exploration, loop, replay, train_settings
from jaxdistill.learn import training as learning
from jaxdistill.learn.algorithm import Observed
from jaxdistill.play import evaluation, lessons

pytest.importorskip("Box2D")

SETTINGS = train_settings.Settings(
    games=("lander/standard", "lander/heavy"),
    algorithm="dqn",
    network="mlp_task_embedding",
    num_envs=4,
    rollout_steps=8,
    total_steps=32 * 10,
    batch_per_game=16,
    replay_size=800,
    first_update=50,
    target_episodes=2,
    updates_per_step=0.25,
    optimiser="adam_l2",
    learning_rate=5e-4,
    reward_limit=0.0,
    epsilon_decay=0.9,
    eval_every=160,
    eval_episodes=2,
    final_episodes=2,
    max_steps=60,
)


@pytest.fixture(scope="module")
def one():
    return meshes.create(jax.devices()[:1])


def _learnt(settings, workdir, mesh, iterations=10):
    """What some iterations learn, without an evaluation."""
    with learning.Training.of(settings, workdir, mesh) as training:
        for _ in range(iterations):
            training.iterate()
        return jax.device_get(training.arrays)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, one):
    return _learnt(SETTINGS, tmp_path_factory.mktemp("plain"), one)


def _same(left, right):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    )


@pytest.mark.parametrize("fresh", [False, True])
def test_a_training_stopped_twice_is_the_uninterrupted_one(tmp_path, one, monkeypatch, fresh):
    """Its memory, its target and its exploration too: stopped before and after an evaluation.

    Games go on across that, or are begun anew.
    """
    monkeypatch.setattr(learning, "_LOG_STEPS", 40 if fresh else 16_384)
    whole = []
    for name, stops in (("whole", ()), ("stopped", (3, 6))):
        for stop in (*stops, None):
            loop.train(SETTINGS, tmp_path / name, mesh=one, stop_at=stop)
        with learning.Training.of(SETTINGS, tmp_path / name, one) as training:
            whole.append(jax.device_get(training.arrays))
            assert training._collector.log.shape[1] == (0 if fresh else 80)
    assert _same(*whole)


def test_the_best_parameters_are_read_without_the_memory(tmp_path, one, monkeypatch):
    """Which may be most of what a device holds, and is there already."""
    restore, asked = checkpoints.Checkpoints.restore, []

    def spy(saved, step, like, **more):
        asked.append(like)
        return restore(saved, step, like, **more)

    with learning.Training.of(SETTINGS, tmp_path, one) as training:
        for _ in range(3):
            training.iterate()
        training.evaluate()
        training.save(chosen=True)
        best = jax.device_get(training.state.eval_params)
        training.iterate()
        monkeypatch.setattr(checkpoints.Checkpoints, "restore", spy)
        assert _same(training.best_params(), best)
        assert not _same(training.state.eval_params, best)
    assert [sorted(like) for like in asked] == [["state"]]


def test_a_memory_that_is_read_back_takes_the_place_of_the_empty_one(tmp_path, one, monkeypatch):
    create, restore, seen = replay.create, checkpoints.Checkpoints.restore, []

    def created(*mesh, **sizes):
        seen.append(create(*mesh, **sizes))
        return seen[-1]

    def spy(saved, step, like, **more):
        assert all(x.is_deleted() for x in jax.tree.leaves(seen[-1]))
        return restore(saved, step, like, **more)

    with learning.Training.of(SETTINGS, tmp_path, one) as training:
        training.iterate()
        training.save()
        arrays = jax.device_get(training.arrays)
    monkeypatch.setattr(replay, "create", created)
    monkeypatch.setattr(checkpoints.Checkpoints, "restore", spy)
    with learning.Training.of(SETTINGS, tmp_path, one) as training:
        assert _same(training.arrays, arrays) and arrays["memory"].frames.any()
        training.iterate()
    assert len(seen) == 1


def test_updates_begin_when_the_memory_holds_enough(plain, tmp_path, one):
    """Each iteration adds 64 steps and makes 16 updates; the newest 8 cannot be drawn yet."""
    assert int(plain["state"].train.step) == 16 * 10
    later = dataclasses.replace(SETTINGS, first_update=500)
    assert 0 < int(_learnt(later, tmp_path, one)["state"].train.step) <= 16 * 3


@pytest.mark.parametrize(
    "changed",
    [
        {"double": True},
        {"epsilon_decay": 0.5},
        {"discount": 0.5},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_setting_changes_what_is_learnt(plain, tmp_path, one, changed):
    learnt = _learnt(dataclasses.replace(SETTINGS, **changed), tmp_path, one)
    assert not _same(learnt["state"].train.params, plain["state"].train.params)


def test_an_average_plays_where_one_is_kept(tmp_path, one, monkeypatch):
    """It is evaluated, and read back for the last games and as the expert."""
    averaged = dataclasses.replace(SETTINGS, ema_decay=0.9)
    measured, played = evaluation.measure, []

    def measure(chosen, policy, *rest, **more):
        played.append(jax.device_get(policy.args[0]))
        return measured(chosen, policy, *rest, **more)

    monkeypatch.setattr(evaluation, "measure", measure)
    with learning.Training.of(averaged, tmp_path, one) as training:
        training.iterate()
        training.evaluate()
        training.save(chosen=True)
        state = jax.device_get(training.state)
        assert _same(training.best_params(), state.eval_params)
        training.iterate()
        assert _same(training.best_params(), state.eval_params)
    assert _same(played, [state.eval_params])
    assert not _same(state.eval_params, state.params)


@pytest.mark.parametrize("double", [False, True])
def test_while_it_plays_the_network_is_asked_for_its_choice_alone(
    tmp_path, one, monkeypatch, double
):
    """Once a step; what a state is worth is asked when it is drawn from the memory."""
    forward, asked = networks.forward, []

    def spy(*given):
        asked.append(given)
        return forward(*given)

    settings = dataclasses.replace(SETTINGS, double=double)
    with learning.Training.of(settings, tmp_path, one) as training:
        shown = tuple(pool.last.observations for pool in training._collector.pools)
        observed = Observed(shown, np.ones((2, 4), bool), 0)
        monkeypatch.setattr(networks, "forward", spy)
        with jax.disable_jit():
            acted = training._actor.act(observed)
            final = training._actor.values(observed)
    assert len(asked) == 1 and acted.actions.shape == (2, 4)
    assert np.isnan(acted.values).all() and np.isnan(final).all()


def test_exploring_falls_with_every_game_that_ends():
    decaying = dataclasses.replace(SETTINGS, epsilon_start=1.0, epsilon_end=0.2)
    assert exploration.epsilon_at(decaying, 0, 3) == pytest.approx(0.729)
    assert exploration.epsilon_at(decaying, 0, 100) == 0.2
    by_steps = dataclasses.replace(decaying, epsilon_decay=0.0)
    assert exploration.epsilon_at(by_steps, 0, 100) == 1.0


def test_a_game_of_atari_is_learnt_from_frames_stored_once(tmp_path, one):
    """The newest of each stack that was acted on, as a play of the same actions shows it again.

    Four iterations of 8 steps fill a memory of 32; games are cut at 12.
    """
    settings = dataclasses.replace(
        SETTINGS, games=("pong",), network="net3", num_envs=2, total_steps=64, replay_size=64,
        first_update=8, opening_steps=0, reward_limit=1.0, max_steps=12,
    )  # fmt: skip
    with learning.Training.of(settings, tmp_path, one) as training:
        for _ in range(4):
            training.iterate()
        assert int(training.state.step) > 0
        memory, log = jax.device_get(training.arrays["memory"]), training._collector.log
        pool = training.lessons[0].pool(2, lessons.COLLECT, 0, max_steps=12)
    assert memory.frames.shape == (1, 32, 2, 84, 84) and log.shape == (1, 32, 2)
    for time, actions in enumerate(log[0]):
        np.testing.assert_array_equal(memory.frames[0, time], pool.last.observations[:, -1])
        np.testing.assert_array_equal(memory.ages[0, time], np.minimum(pool.last.ages, 4))
        pool.step(actions)
    assert (memory.ages == 0).sum() == 2 * 3, "games begin anew on the way"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        # 9 steps of 8 environments: one iteration's 8, and the one before.
        ({"replay_size": 71}, "replay_size is 71, expected at least 72: 9 steps of 8 environments"),
        # Of 9 steps the newest cannot be drawn.
        (
            {"replay_size": 72, "first_update": 65},
            "first_update is 65, expected at most 64: no more",
        ),
        # Of 80 steps of 8 environments each one's newest, and one after a game of 60.
        ({"first_update": 625}, r"at most 624: no more .* \(replay_size 800, total_steps 320\)"),
        ({"first_update": 625, "total_steps": 351}, "first_update is 625, expected at most 624"),
        ({"first_update": 633, "max_steps": 79}, "first_update is 633, expected at most 632"),
        (
            {"first_update": 313, "independent": True, "network": "mlp"},
            "first_update is 313, expected at most 312",
        ),
        ({"epsilon_decay": 1.0}, "epsilon_decay is 1.0, expected 0 or more, less than 1"),
    ],
    ids=lambda x: "" if isinstance(x, str) else next(iter(x)),
)
def test_a_memory_that_nothing_is_learnt_from_is_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changed)
    # Alone, each of the two tasks has a memory of its own.
    dataclasses.replace(SETTINGS, independent=True, replay_size=71, first_update=35)


@pytest.mark.parametrize(
    ("each", "message"),
    [
        # 8 steps of 8 environments.
        (
            0.3,
            r"updates_per_step 0\.3 makes 19\.2 updates of the 64 steps of one iteration, .* whole",
        ),
        (0.3, r"; 0\.296875 makes 19 or 0\.3125 makes 20$"),
        (0.01, r"makes 0\.64 updates of .* expected a whole number; 0\.015625 makes 1$"),
    ],
)
def test_an_iteration_makes_a_whole_number_of_updates(each, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, updates_per_step=each)
    dataclasses.replace(SETTINGS, updates_per_step=0.296875)
    dataclasses.replace(SETTINGS, updates_per_step=1 / 64)
    assert dataclasses.replace(SETTINGS, updates_per_step=0.3125).updates_per_iteration == 20
    alone = {"independent": True, "first_update": 40}
    with pytest.raises(ValueError, match=r"makes 0\.5 updates of the 32 steps"):
        dataclasses.replace(SETTINGS, updates_per_step=1 / 64, **alone)


@pytest.mark.parametrize(("size", "most", "iterations"), [(800, 528, 1), (200, 160, 8)])
def test_the_most_that_may_be_waited_for_is_what_can_be_drawn_in_the_end(
    tmp_path, one, size, most, iterations
):
    """In games of 5 steps, before which no lander comes down; a small memory is full sooner."""
    short = dataclasses.replace(SETTINGS, max_steps=5, replay_size=size, first_update=most)
    with pytest.raises(ValueError, match=f"expected at most {most}: "):
        dataclasses.replace(short, first_update=most + 1)
    learnt = _learnt(short, tmp_path, one)
    assert learnt["memory"].counts.sum() == most
    assert learnt["state"].train.step == 16 * iterations


@pytest.mark.parametrize(("first", "updates"), [(50, 16 * 10), (400, 16 * 4)])
def test_the_rate_reaches_its_end_though_the_first_updates_are_not_made(
    tmp_path, one, first, updates
):
    """Of 10 iterations the seventh is the first with 400 transitions: 8 x (7 x 8 - 1) are 440."""
    chosen = dataclasses.replace(SETTINGS, first_update=first, final_rate_fraction=0.0)
    assert chosen.updates == updates
    with learning.Training.of(chosen, tmp_path, one) as training:
        learnt = []
        for _ in range(11):
            training.iterate()
            learnt.append(jax.device_get(training.state))
    assert learnt[9].step == updates
    assert learnt[10].step == updates + 16

    def moved(old, new):
        old, new = jax.tree.leaves(old.params), jax.tree.leaves(new.params)
        return max(np.abs(a - b).max() for a, b in zip(old, new, strict=True))

    # Then it is 0, a rounding apart: another iteration changes nothing.
    assert moved(learnt[9], learnt[10]) < 1e-7 < 1e-5 < moved(learnt[8], learnt[9])


def test_a_training_that_never_learnt_ends_in_one_line(tmp_path, one):
    """Landers come down before their step limit, and so many transitions are never there."""
    chosen = dataclasses.replace(SETTINGS, max_steps=200, first_update=632)
    for _ in range(2):  # and so it does again
        with pytest.raises(ValueError, match=r"has learnt nothing: .* first_update 632 trans"):
            loop.train(chosen, tmp_path, mesh=one)
    with pytest.raises(ValueError, match="expected at most 632"):
        dataclasses.replace(chosen, first_update=633)


@pytest.mark.parametrize("independent", [False, True])
def test_a_memory_that_no_device_holds_is_refused_before_anything_is_written(tmp_path, independent):
    huge = dataclasses.replace(
        SETTINGS, games=("pong",), network="net3", replay_size=2**31 - 1, independent=independent
    )
    # 84 x 84 bytes and 12 more of each step.
    with pytest.raises(
        ValueError, match=r"^replay_size is 2147483647, which takes 15178\.4 GB on "
    ):
        loop.train(huge, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", ["warm_start", "batch_per_game"])
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, wrong):
    settings, message = dataclasses.replace(SETTINGS, games=("lander/heavy",)), "4 devices"
    if wrong == "batch_per_game":
        settings = dataclasses.replace(settings, batch_per_game=18)
    else:
        task = tasks.get("lander/heavy")
        network = networks.for_tasks(networks.create("mlp_layer_norm"), [task])
        params = jax.device_get(networks.init(network, jax.random.key(0), task.suite.view.shape))
        expert = Expert("other", network, params, "q", task.actions, task.suite.view, task.name)
        expert.save(tmp_path / "expert")
        given, message = ({"path": str(tmp_path / "expert")},), "warm_start: other is not of the"
        settings = dataclasses.replace(settings, experts=given, warm_start=True, network="mlp")
    with pytest.raises(ValueError, match=message):
        loop.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_of_several_networks_that_diverges_goes_on_at_another_rate(tmp_path, monkeypatch, one):
    """Those learnt before it are kept as they are, those after it begin at the new rate."""
    games = ("lander/standard", "lander/windy", "lander/heavy")
    far = dataclasses.replace(
        SETTINGS, games=games, independent=True, network="mlp", total_steps=64, eval_every=64,
        first_update=16, max_steps=20,
    )  # fmt: skip
    check = divergence.check

    def windy_diverges(workdir, settings, knobs, *, numbers, **rest):
        if workdir.name == "windy" and settings.learning_rate > 1e-4:
            numbers = numbers | {"loss": math.inf}
        check(workdir, settings, knobs, numbers=numbers, **rest)

    monkeypatch.setattr(divergence, "check", windy_diverges)
    with pytest.raises(
        ValueError, match=r"the loss is inf: .*change one of these and the same"
    ) as stopped:
        loop.train(far, tmp_path, mesh=one)
    # What changes nothing without experts is neither advised nor taken.
    assert "expert_weight" not in str(stopped.value) and "temperature" not in str(stopped.value)
    with pytest.raises(ValueError, match=r"expert_weight 1\.0, this one has 0\.5"):
        loop.train(dataclasses.replace(far, expert_weight=0.5), tmp_path, mesh=one)
    with pytest.raises(ValueError, match="would again with these settings"):
        loop.train(far, tmp_path, mesh=one)
    slower = dataclasses.replace(far, learning_rate=1e-4)
    best = loop.train(slower, tmp_path, mesh=one)
    assert list(best["scores"]) == list(games)
    rates = [
        json.loads((tmp_path / where / "config.json").read_text())["learning_rate"]
        for where in (".", *(f"tasks/{game}" for game in games))
    ]
    assert rates == [1e-4, 5e-4, 1e-4, 1e-4]
    assert loop.train(slower, tmp_path, mesh=one) == best
    with pytest.raises(ValueError, match=r"learning_rate 0\.0001, this one has 0\.0005"):
        loop.train(far, tmp_path, mesh=one)


def test_experts_beside_a_memory_are_refused():
    with pytest.raises(ValueError, match="dqn learns from rewards alone"):
        dataclasses.replace(SETTINGS, experts=({"path": "x"},))
