"""The whole run on tiny experts in real emulators: stages, resuming, refusals."""

import contextlib
import dataclasses
import functools
import itertools
import json
import re
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import clocks, lock, meshes, metrics, networks, preemption, shipped, tasks, terminal
from jaxdistill.experts import formats
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.experts.student import Role, Student
from jaxdistill.learn import checkpoints, dataset, learner, train_settings
from jaxdistill.learn import training as learning
from jaxdistill.play import lessons, protocols, records, scoring
from jaxdistill.report import page
from jaxdistill.run import (
    choosing,
    closing,
    common,
    data,
    distill,
    distill_settings,
    evaluating,
    finetuning,
    rounds,
    students,
    warm_start,
)
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View

pytestmark = pytest.mark.usefixtures("without_page")
GAMES = ("pong", "breakout")


@pytest.fixture(scope="module")
def experts(tmp_path_factory):
    """Two experts of different networks and outputs, saved as directories."""
    root = tmp_path_factory.mktemp("experts")
    small = networks.Network(
        convs=(networks.ConvLayer(4, 8, 4), networks.ConvLayer(4, 4, 2)), hidden=(16,)
    )
    for i, game in enumerate(GAMES):
        network = small.clone(num_outputs=18 if game == "pong" else 4)
        Expert(
            name=f"tiny {game}",
            network=network,
            params=networks.init(network, jax.random.key(i), (4, 84, 84)),
            outputs="q" if game == "pong" else "logits",
            actions=tuple(range(18)) if game == "pong" else (0, 1, 3, 4),
            game=game,
        ).save(root / game)
    return root


@pytest.fixture(scope="module")
def settings(experts, tmp_path_factory):
    """Of runs that find the games of experts and random play as those of the package's experts."""
    chosen = distill_settings.Settings(
        experts=tuple(ExpertSource(str(experts / game)) for game in GAMES),
        network="net3",
        collect=distill_settings.Collect(
            num_envs=4,
            initial_steps=128,
            steps_per_round=64,
            window_steps=256,
            expert_share_rounds=2,
            final_expert_share=0.25,
            change_drivers=True,
        ),
        learn=distill_settings.Learn(
            rounds=4, updates_per_round=2, batch_per_game=8, ema_decay=0.9
        ),
        evaluate=distill_settings.Evaluate(
            every_rounds=2, select_episodes=2, report_episodes=4, max_steps=60
        ),
    )
    all_that_are_reported = dataclasses.replace(chosen.evaluate, select_episodes=4)
    measured = tmp_path_factory.mktemp("measured")
    distill.distill(
        dataclasses.replace(chosen, evaluate=all_that_are_reported),
        measured,
        stop_after="baselines",
    )
    (measured / "played").rename(experts / "played")
    with pytest.MonkeyPatch.context() as as_packaged:
        as_packaged.setattr(shipped, "EXPERTS", experts)
        yield chosen


@pytest.fixture(scope="module")
def stopped(settings, tmp_path_factory):
    """Where a run is that was stopped after its first round, and the same after its third."""
    root = tmp_path_factory.mktemp("stopped")
    distill.distill(settings, root / "first", stop_after="round:1")
    shutil.copytree(root / "first", root / "third")
    distill.distill(settings, root / "third", stop_after="round:3")
    return root / "first", root / "third"


@pytest.fixture(scope="module")
def whole_run(settings, tmp_path_factory):
    """Where an uninterrupted run is, and what it returned: it compares in all its states."""
    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closing, "COMPARED_STATES", 512)
        return workdir, distill.distill(settings, workdir)


def params_of(workdir):
    return jax.device_get(students.load_student(workdir).state.eval_params)


def test_a_run_killed_on_its_way_ends_as_an_uninterrupted_one(
    settings, whole_run, tmp_path, monkeypatch
):
    workdir, whole = whole_run
    assert distill.distill(settings, tmp_path / "killed", stop_after="collect") == {}
    rows = tmp_path / "killed" / "metrics.jsonl"
    with monkeypatch.context() as patch, pytest.raises(preemption.Preempted):
        patch.setattr(preemption, "asked", lambda: rows.is_file() and bool(rows.read_text()))
        distill.distill(settings, tmp_path / "killed")
    with checkpoints.Checkpoints(tmp_path / "killed" / "checkpoints", read_only=True) as saved:
        assert saved.latest_step() == 1  # nothing was due: a scheduler's SIGTERM alone saves it
    assert distill.distill(settings, tmp_path / "killed", stop_after="train") == {}
    monkeypatch.setattr(closing, "COMPARED_STATES", 512)
    resumed = distill.distill(settings, tmp_path / "killed")
    assert resumed["games"] == whole["games"]
    assert resumed["best_round"] == whole["best_round"]
    jax.tree.map(
        np.testing.assert_array_equal,
        params_of(workdir),
        params_of(tmp_path / "killed"),
    )
    # Window, log and counters too: the last round's data is the same data.
    logs = [dataset.open_log(path / "dataset") for path in (workdir, tmp_path / "killed")]
    assert logs[0].length == logs[1].length == (128 + 4 * 64) // 4
    for one, other in zip(*(log.read(0, log.length) for log in logs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_run_leaves_what_its_readme_promises(settings, whole_run):
    workdir, result = whole_run
    written = json.loads((workdir / "result.json").read_text())
    report = (workdir / "report.html").read_text()
    for words in ("retention", "data:image/gif;base64,", "<svg", "steps_per_round", "wall time"):
        assert words in report
    assert "in the first 4 seconds" in report, "a clip ends with evaluate.max_steps"
    assert 'src="http' not in report and 'href="http' not in report
    assert written == json.loads(json.dumps(result))
    assert {p.name for p in workdir.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "tensorboard",
        "dataset",
        "checkpoints",
        "played",
    }
    for row in result["games"]:
        assert row["student"]["episodes"] == row["expert"]["episodes"] == 4
        low, high = row["student"]["interval"]
        assert low <= row["student"]["mean"] <= high
        assert 0 <= row["agreement"] <= 1
        assert row["regret"] >= 0
    shares = [row["expert_share"] for row in metrics.read(workdir) if "loss" in row]
    assert shares == [1.0, 0.5, 0.25, 0.25], "of 4 environments"
    assert students.read(workdir).made["updates"] == 2 * result["best_round"]
    # Choices are those of the student that plays, on the states collected last: here all of them.
    log = dataset.open_log(workdir / "dataset")
    chunk = log.read(0, log.length)
    index = int(chunk.usable.sum(axis=(1, 2)).argmin())
    times, seats = np.nonzero(chunk.usable[index])
    back = [np.maximum(times - k, times - chunk.ages[index, times, seats]) for k in (3, 2, 1, 0)]
    stacks = np.stack([chunk.frames[index, t, seats] for t in back], axis=1)
    _, state, student = students.load_student(workdir)
    actions = [(0, 1, 3, 4, 11, 12), (0, 1, 3, 4)][index]
    said = np.asarray(networks.forward(student, state.eval_params, stacks, index))[:, actions]
    labels = chunk.labels[index, times, seats][:, actions]
    cost = labels.max(axis=1) - np.take_along_axis(labels, said.argmax(axis=1)[:, None], 1)[:, 0]
    row = result["games"][index]
    assert row["agreement"] == pytest.approx((said.argmax(axis=1) == labels.argmax(axis=1)).mean())
    assert row["regret"] == pytest.approx(cost.mean(), rel=1e-4)
    # What "auto" stands for here is written down: one expert has logits.
    assert students.load_student(workdir).settings.learn.loss == "kl"
    # A finished run called again changes nothing.
    assert distill.distill(settings, workdir) == written


def test_no_student_is_chosen_by_what_it_keeps_of_an_expert_that_plays_as_at_random(
    whole_run, settings
):
    workdir, _ = whole_run
    known = common.records_of(settings, workdir, None, writes=False)
    run = common.Run(settings, meshes.create(), known=known)
    experts = choosing.without_unknown_retention(run.baselines()).expert
    unknown = [name for name, x in zip(run.names, experts, strict=True) if np.isnan(x.mean)]
    assert unknown, "of these two some such"
    rows = [row for row in metrics.read(workdir) if "chosen_by" in row]
    assert len(rows) == 2
    for row in rows:
        shares = {name: row[f"retention/{name}"] for name in run.names}
        assert [name for name, share in shares.items() if share is None] == unknown


def test_a_student_is_measured_again_in_all_its_games_or_in_one(whole_run):
    workdir, _ = whole_run
    terms = protocols.Terms(2, epsilon=0.05, seed=3, opening_steps=10)
    measure = evaluating.find(workdir).measure
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    rows = measure(terms)
    assert {path: path.stat().st_mtime_ns for path in workdir.rglob("*")} == before, "it is read"
    assert [row["game"] for row in rows] == list(GAMES)
    alone = measure(terms, game="ALE/Breakout-v5")
    assert json.dumps(alone) == json.dumps(rows[1:]), "the same games, with none beside them"
    short = measure(dataclasses.replace(terms, max_steps=30), game="breakout")
    steps = [row["student"]["mean_steps"] for row in (*alone, *short)]
    assert steps[0] > 20 >= steps[1], "10 of them are the opening"
    with pytest.raises(ValueError, match="distilled pong, breakout, not freeway"):
        measure(terms, game="freeway")


def test_openings_change_the_games_that_are_measured(settings):
    """Steps and who plays them, seen in the states that the measured policy is given."""
    starts = {}
    for steps, by in ((0, "random"), (20, "random"), (30, "random"), (20, "expert")):
        opened = dataclasses.replace(
            settings,
            evaluate=dataclasses.replace(settings.evaluate, opening_steps=steps, opening_by=by),
        )
        opened_run = common.Run(opened, meshes.create())
        (played,) = opened_run.measure(opened_run.expert_policy(), lessons.REPORT, 4, only=[1])
        starts[steps, by] = tuple(played.starts.tolist())
        assert played.lengths.max() <= 60 - steps
    assert len(set(starts.values())) == 4


def test_no_reported_game_starts_where_the_student_was_chosen(whole_run, settings):
    workdir, result = whole_run
    for row in result["games"]:
        assert row["student"]["distinct_starts"] == 4
        assert row["shared_starts"] == 0
    text = (workdir / "report.html").read_text()
    assert "after 10 or more steps of random play" in text
    assert "4 of 4 starts differ; none helped to choose the student" in text
    # What the result says is counted: with the emulator's own starts, which are few, some are.
    plain = common.Run(
        dataclasses.replace(
            settings, evaluate=dataclasses.replace(settings.evaluate, opening_steps=0)
        ),
        meshes.create(),
    )
    chosen, reported = (
        plain.measure(plain.random_policy, purpose, 12, only=[1])[0]
        for purpose in (lessons.SELECT, lessons.REPORT)
    )
    assert set(chosen.starts.tolist()) & set(reported.starts.tolist())


def test_the_student_learns_from_a_collected_dataset(settings, tmp_path):
    large = dataclasses.replace(
        settings, collect=dataclasses.replace(settings.collect, initial_steps=512)
    )
    info = data.collect(large, tmp_path / "data")
    assert info["length"] == 512 // 4
    with pytest.raises(ValueError, match=r"initial_steps above 0, and leave collect\.dataset out"):
        data.collect(
            dataclasses.replace(
                settings, collect=distill_settings.Collect(dataset="x", steps_per_round=0)
            ),
            tmp_path / "none",
        )
    collect = {"num_envs": 4, "steps_per_round": 0, "dataset": str(tmp_path / "data")}
    fixed = dataclasses.replace(
        settings,
        collect=distill_settings.Collect(window_steps=256, **collect),
        learn=dataclasses.replace(
            settings.learn, rounds=3, updates_per_round=20, batch_per_game=16, learning_rate=2e-3
        ),
        evaluate=dataclasses.replace(settings.evaluate, every_rounds=3),
    )
    distill.distill(fixed, tmp_path / "run", stop_after="train")
    assert not (tmp_path / "run/dataset").exists()
    losses = [row["loss"] for row in metrics.read(tmp_path / "run") if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]


def test_a_killed_collection_resumes_to_the_same_dataset(settings, tmp_path):
    half = dataclasses.replace(
        settings, collect=dataclasses.replace(settings.collect, initial_steps=64)
    )
    data.collect(half, tmp_path / "a")
    data.collect(settings, tmp_path / "a")
    data.collect(settings, tmp_path / "b")
    a, b = (dataset.open_log(tmp_path / name) for name in "ab")
    for one, other in zip(a.read(0, a.length), b.read(0, b.length), strict=True):
        np.testing.assert_array_equal(one, other)


def test_other_settings_in_the_same_directory_are_refused(settings, tmp_path):
    distill.distill(settings, tmp_path / "run", stop_after="baselines")
    with pytest.raises(ValueError, match=r"run with seed 0, this one has 1"):
        distill.distill(dataclasses.replace(settings, seed=1), tmp_path / "run")


def _steps(workdir):
    return [row["step"] for row in metrics.read(workdir) if "loss" in row]


def test_learning_that_diverges_stops_and_goes_on_at_another_rate(settings, tmp_path, monkeypatch):
    settings = dataclasses.replace(
        settings,
        learn=dataclasses.replace(settings.learn, rounds=3),
        evaluate=dataclasses.replace(settings.evaluate, every_rounds=1, report_episodes=2),
    )
    workdir, optimiser = tmp_path / "run", distill_settings.optimiser

    def explodes_at_the_fourth(settings):
        def update(changes, count, params=None):
            factor = jnp.where(count == 3, jnp.inf, 1.0)
            return jax.tree.map(lambda x: factor * x, changes), count + 1

        last = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
        return optax.chain(optimiser(settings), last)

    monkeypatch.setattr(distill_settings, "optimiser", explodes_at_the_fourth)
    # The losses of round 2 are sound still: its last update is what breaks the parameters.
    with pytest.raises(
        ValueError, match=r"^update 4: a parameter, .*learn\.learning_rate \(0\.001"
    ):
        distill.distill(settings, workdir)
    assert _steps(workdir) == [2]
    student = students.load_student(workdir).state
    assert int(student.step) == 2 and all(np.isfinite(x).all() for x in jax.tree.leaves(student))
    with monkeypatch.context() as nothing_is_played:
        nothing_is_played.setattr(common.Run, "play_first", None)
        with pytest.raises(ValueError, match="would again with these settings: update 4: a param"):
            distill.distill(settings, workdir)

    shutil.copytree(workdir, tmp_path / "ended")
    fewer = dataclasses.replace(settings, learn=dataclasses.replace(settings.learn, rounds=1))
    result = distill.distill(fewer, tmp_path / "ended")  # what it has had is kept as it is
    assert result["rounds"] == 1 and _steps(tmp_path / "ended") == [2]

    def sound(settings):
        keeps = optax.GradientTransformation(
            lambda params: jnp.zeros((), jnp.int32), lambda x, count, params=None: (x, count)
        )
        return optax.chain(optimiser(settings), keeps)

    monkeypatch.setattr(distill_settings, "optimiser", sound)
    slower = dataclasses.replace(
        settings, learn=dataclasses.replace(settings.learn, learning_rate=1e-4)
    )
    result = distill.distill(slower, workdir)
    assert result["rounds"] == 3 and _steps(workdir) == [2, 4, 6]
    assert json.loads((workdir / "config.json").read_text())["learn"]["learning_rate"] == 1e-4
    assert distill.distill(slower, workdir) == result


def test_losses_that_are_not_finite_stop_the_first_round(settings, tmp_path):
    far = dataclasses.replace(
        settings, learn=dataclasses.replace(settings.learn, learning_rate=1e30)
    )
    with pytest.raises(ValueError, match=r"^update 2: the loss of pong is (nan|inf): learning has"):
        distill.distill(far, tmp_path / "run")
    assert not _steps(tmp_path / "run")
    with pytest.raises(ValueError, match="has evaluated no student yet"):
        students.load_student(tmp_path / "run")
    assert distill.distill(settings, tmp_path / "run", stop_after="round:1") == {}
    assert _steps(tmp_path / "run") == [2]


def test_who_writes_takes_the_lock_and_a_finished_run_needs_none(settings, whole_run, tmp_path):
    for write, mark in ((distill.distill, "config.json"), (data.collect, "dataset.json")):
        with (
            lock.one_writer(tmp_path / mark, mark),
            pytest.raises(ValueError, match=r"is being written to by process"),
        ):
            write(settings, tmp_path / mark)
        assert {path.name for path in (tmp_path / mark).iterdir()} == {lock.NAME}
    workdir, result = whole_run
    with lock.one_writer(workdir, "config.json"):
        assert distill.distill(settings, workdir)["games"] == result["games"]


def test_an_expert_far_below_its_claim_stops_the_run(experts, settings, tmp_path):
    expert = dataclasses.replace(Expert.load(experts / "breakout"), advertised_score=400.0)
    expert.save(tmp_path / "boaster")
    whole = dataclasses.replace(settings.evaluate, max_steps=None)  # which a claim is of
    sources = (ExpertSource(str(tmp_path / "boaster")),)
    boasting = dataclasses.replace(settings, experts=sources, evaluate=whole)
    with pytest.raises(ValueError, match=r"of the 400 it advertises.*resize"):
        distill.distill(boasting, tmp_path / "run")
    assert not (tmp_path / "run/dataset").exists()


def test_two_experts_of_one_game_are_refused(settings, tmp_path):
    twice = dataclasses.replace(settings, experts=settings.experts[:1] * 2)
    with pytest.raises(ValueError, match="two experts play the same game"):
        distill.distill(twice, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _save_expert(directory, network, params, outputs):
    """An expert of Pong that has all actions."""
    actions = tuple(range(18))
    Expert("warm", network, params, outputs, actions, game="pong").save(directory)


def test_a_warm_start_begins_as_the_named_expert(experts, settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pong").write_text("a file of the game's name is not what is meant")
    network = networks.create("net3")
    params = networks.init(network, jax.random.key(9), (4, 84, 84))
    _save_expert(tmp_path / "warm", network, params, "q")
    warm = dataclasses.replace(
        settings,
        experts=(ExpertSource(str(tmp_path / "warm")),),
        learn=dataclasses.replace(
            settings.learn, rounds=1, updates_per_round=1, warm_start="pong", learning_rate=1e-12
        ),
    )
    distill.distill(warm, tmp_path / "run", stop_after="train")
    assert not (tmp_path / "run/begun_with.json").exists(), "the dataset says who the experts are"
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        params_of(tmp_path / "run"),
        params,
    )
    # What the student computes in is no part of its shape.
    rough = common.Run(dataclasses.replace(warm, compute_dtype="bfloat16"), meshes.create())
    assert rough.network.dtype == jnp.bfloat16
    jax.tree.map(np.testing.assert_array_equal, warm_start.initial_params(rough), params)
    # Another network of that shape, from a file.
    begun = dataclasses.replace(warm.learn, warm_start=str(tmp_path / "warm"))
    settings_of_file = dataclasses.replace(settings, learn=begun)
    distill.distill(settings_of_file, tmp_path / "from_file", stop_after="round:1")
    state = students.load_student(tmp_path / "from_file").state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), state.params, params)
    with pytest.raises(ValueError, match=r"not of the student's shape"):
        other = dataclasses.replace(settings.learn, warm_start="breakout")
        distill.distill(dataclasses.replace(settings, learn=other), tmp_path / "other")


def test_a_warm_start_of_a_run_is_its_student_as_it_plays(settings, whole_run):
    """The average, which is another than what learning has come to last."""
    state = students.load_student(whole_run[0]).state
    begun = warm_start.params_of(
        common.Run(settings, meshes.create()), str(whole_run[0]), "learn.warm_start"
    )
    same = functools.partial(jax.tree.map, np.array_equal, begun)
    assert all(jax.tree.leaves(same(state.eval_params)))
    assert not all(jax.tree.leaves(same(state.params)))


def test_a_warm_start_may_be_what_comes_with_the_package(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where there are no experts
    named = "experts/freeway.pth"
    learn = dataclasses.replace(settings.learn, warm_start=named, warm_layers="convolutions")
    dueling = dataclasses.replace(settings, network="dueling", learn=learn)
    begun = warm_start.initial_params(common.Run(dueling, meshes.create()))
    kernel = formats.load(shipped.ROOT / named).params["params"]["conv1"]["kernel"]
    np.testing.assert_array_equal(begun["params"]["conv1"]["kernel"], kernel)


def test_who_a_run_begins_with_is_who_it_was_begun_with(settings, tmp_path):
    """That is read until there is a checkpoint, and then no more."""
    network, warm = networks.create("net3"), tmp_path / "warm"

    def save(seed):
        shutil.rmtree(warm, ignore_errors=True)
        params = networks.init(network, jax.random.key(seed), (4, 84, 84))
        _save_expert(warm, network, params, "q")

    begun = _with(settings, rounds=2, warm_start=str(warm))
    save(1)
    distill.distill(begun, tmp_path / "whole", stop_after="train")
    distill.distill(begun, tmp_path / "run", stop_after="baselines")
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    (tmp_path / "old/begun_with.json").unlink()  # as an earlier version left it
    save(2)
    with pytest.raises(ValueError, match=r"the warm start has other parameters than .*run was"):
        distill.distill(begun, tmp_path / "run")
    distill.distill(begun, tmp_path / "old", stop_after="baselines")
    save(1)
    distill.distill(begun, tmp_path / "run", stop_after="round:1")
    shutil.rmtree(warm)
    result = distill.distill(begun, tmp_path / "run")
    jax.tree.map(
        np.testing.assert_array_equal, params_of(tmp_path / "whole"), params_of(tmp_path / "run")
    )
    assert distill.distill(begun, tmp_path / "run") == result
    with pytest.raises(ValueError, match=r"neither a game of this run .* nor a file or a run"):
        distill.distill(begun, tmp_path / "old")


@pytest.mark.parametrize("network", ["mlp_task_embedding", "mlp_one_hot", "mlp"])
def test_a_warm_start_plays_each_game_as_it_was_taught_that_game(tmp_path, network):
    """Whatever their order, and where it was taught others too."""
    names = ["lander/standard", "lander/windy", "lander/windy_air"]
    view, actions = tasks.get(names[0]).view, (0, 1, 2, 3)
    for name in [*names, "lander/heavy"]:
        plain = networks.create("mlp", num_outputs=4)
        params = jax.device_get(networks.init(plain, jax.random.key(1), view.shape))
        Expert(name, plain, params, "q", actions, view, name).save(tmp_path / name)
    whole = networks.for_tasks(networks.create(network), [tasks.get(name) for name in names])
    taught = jax.device_get(networks.init(whole, jax.random.key(2), view.shape))
    taught = jax.tree.map(lambda x: x + 0.1, taught)
    roles = tuple(Role(name, view, actions, name) for name in names)
    Student("student", whole, taught, "q", roles).save(tmp_path / "student")

    def begun(*games):
        chosen = distill_settings.Settings(
            experts=tuple(ExpertSource(str(tmp_path / game)) for game in games),
            network=network,
            learn=distill_settings.Learn(warm_start=str(tmp_path / "student")),
        )
        run = common.Run(chosen, meshes.create())
        return run, warm_start.initial_params(run)

    seen = np.random.default_rng(0).normal(size=(5, *view.shape)).astype(np.float32)
    for games in ((2, 1, 0), (2, 0)):
        run, params = begun(*(names[game] for game in games))
        for index, game in enumerate(games):
            np.testing.assert_allclose(
                networks.forward(run.network, params, seen, index),
                networks.forward(whole, taught, seen, game),
                rtol=1e-5,
            )
    if network == "mlp":
        begun(names[0], "lander/heavy")
        return
    said = r"plays lander/standard, lander/windy, lander/windy_air, not lander/heavy; name a stu"
    with pytest.raises(ValueError, match=said):
        begun(names[0], "lander/heavy")


def test_a_game_may_be_named_by_any_spelling(tmp_path, monkeypatch):
    """As experts' games may, whatever stands in a run's directory; a path is another's."""
    monkeypatch.chdir(tmp_path)
    judges = _judges(["q", "q"])

    def known(**learn):
        experts = (ExpertSource("x.pth", game="ALE/Pong-v5"), ExpertSource("y.pth"))
        chosen = distill_settings.Settings(experts=experts, learn=distill_settings.Learn(**learn))
        return distill_settings.resolve_defaults(chosen, judges).learn

    for text in ("Pong", "PongNoFrameskip-v4", "ALE/Pong-v5", "pong"):
        assert known(warm_start=text).begins_as == "pong"
    both = known(warm_start="Breakout,pong,hf://me/pong", warm_layers="convolutions")
    assert both.sees_as == ("breakout", "pong", "hf://me/pong")
    assert known(shares="Breakout=2,pong=3").shares == "breakout=2,pong=3"
    assert known(shares="freeway=2").shares == "freeway=2", "which is refused by its name"
    with pytest.raises(ValueError, match=r"^learn\.shares is 'breakout=2,breakout=3', expected"):
        known(shares="breakout=2,Breakout=3")
    for other in ("runs/pong", "Freeway", "pong.pth", "hf://me/pong"):
        assert known(warm_start=other).warm_start == other
    for name in ("Pong", "Pong,Breakout"):  # the run itself makes its directory
        (tmp_path / name).mkdir()
    assert known(warm_start="Pong").begins_as == "pong"
    assert known(warm_start="./Pong").warm_start == "./Pong"
    assert known(shares="Pong=2").shares == "pong=2"
    both = known(warm_start="Pong,Breakout", warm_layers="convolutions")
    assert both.sees_as == ("pong", "breakout")
    named = known(warm_start="./Pong,Breakout", warm_layers="convolutions")
    assert named.sees_as == ("./Pong,Breakout",)


def test_a_warm_start_may_be_of_the_convolutions_alone(settings, tmp_path, monkeypatch):
    # Convolutions as net1's, and another head.
    network = networks.Network(
        convs=networks.create("net1").convs, action_hidden=(8,), head="actor_critic"
    )
    params = networks.init(network, jax.random.key(9), (4, 84, 84))
    _save_expert(tmp_path / "warm", network, params, "logits")

    def begun(network="net1", **learn):
        changed = dataclasses.replace(settings.learn, **learn)
        changed = dataclasses.replace(settings, network=network, learn=changed)
        return warm_start.initial_params(common.Run(changed, meshes.create()))["params"]

    fresh = begun()
    copied = begun(warm_start=str(tmp_path / "warm"), warm_layers="convolutions")
    convolutions = [name for name in fresh if name.startswith("conv")]
    assert len(convolutions) == 3 and copied.keys() == fresh.keys()
    for name, layer in copied.items():
        of = params["params"] if name in convolutions else fresh
        jax.tree.map(np.testing.assert_array_equal, layer, of[name])
    # What it does not answer like yet, it is led to like any other.
    led = {"loss": "kl", "first_loss": "nll", "first_rounds": 3, "updates_per_round": 2}
    monkeypatch.setattr(learner, "make_update", lambda *_, **told: told["objective"])
    for layers, updates in (("all", [0, 6]), ("convolutions", [6, 6])):
        learn = dataclasses.replace(settings.learn, **led, warm_start="pong", warm_layers=layers)
        made = common.Run(dataclasses.replace(settings, learn=learn), meshes.create())
        assert rounds.make_update(made).first_updates == updates
    # With more features, those are the first.
    wider = begun("dueling", warm_start=str(tmp_path / "warm"), warm_layers="convolutions")
    for name in convolutions:
        kernel = params["params"][name]["kernel"]
        within = tuple(slice(size) for size in kernel.shape)
        np.testing.assert_array_equal(wider[name]["kernel"][within], kernel)
    other = "nor the student the same ones with more features; "
    offered = f"{other}set convolutions to {networks.describe_convolutions(network.convs)}, leave"
    for name, said in (("net3", offered), ("mlp", other + "leave"), ("impala", other + "leave")):
        with pytest.raises(ValueError, match=said):
            begun(name, warm_start=str(tmp_path / "warm"), warm_layers="convolutions")


def test_a_comma_in_the_path_of_a_warm_start_is_part_of_it(tmp_path):
    """Of a file that is there, or of one on the hub; else one stands between two."""
    file = f"{tmp_path}/a,b.pth"

    def named(text):
        learn = distill_settings.Learn(warm_start=text, warm_layers="convolutions")
        return list(learn.sees_as)

    assert named(file) == file.split(","), "where nothing is"
    (tmp_path / "a,b.pth").touch()
    assert named(file) == [file]
    for one in ("pong", "hf://me/it", "hf://me/it/a,b.pth"):
        assert named(one) == [one]
    for several in ("pong,breakout", "hf://me/it,pong", "hf://me/it/x.pth,hf://me/other"):
        assert named(several) == several.split(",")


def test_a_student_may_begin_with_several_experts_convolutions(settings, tmp_path):
    layers = {"deep": ((4, 8, 4), (3, 4, 2)), "wide": ((2, 8, 4),)}
    for seed, (name, convs) in enumerate(layers.items()):
        network = networks.Network(convs=tuple(networks.ConvLayer(*x) for x in convs))
        params = networks.init(network, jax.random.key(seed), (4, 84, 84))
        _save_expert(tmp_path / name, network, params, "q")
    learn = dataclasses.replace(
        settings.learn,
        rounds=1,
        warm_start=f"{tmp_path}/deep,{tmp_path}/wide",
        warm_layers="convolutions",
    )
    changed = dataclasses.replace(settings, convolutions="7x8/4,3x4/2", learn=learn)
    begun = warm_start.initial_params(common.Run(changed, meshes.create()))["params"]
    kernels = [Expert.load(tmp_path / name).params["params"]["conv1"]["kernel"] for name in layers]
    np.testing.assert_array_equal(begun["conv1"]["kernel"][..., :6], np.concatenate(kernels, -1))
    distill.distill(changed, tmp_path / "run", stop_after="round:1")
    assert (tmp_path / "run/begun_with.json").exists()

    narrow = dataclasses.replace(changed, convolutions="5x8/4,3x4/2")
    words = r"room for the convolutions of warm and warm, which are 4x8/4,3x4/2 and 2x8/4; set conv"
    with pytest.raises(ValueError, match=rf"{words}olutions to 6x8/4,3x4/2, leave"):
        warm_start.initial_params(common.Run(narrow, meshes.create()))
    whole = dataclasses.replace(changed, learn=dataclasses.replace(learn, warm_layers="all"))
    with pytest.raises(ValueError, match=r"learn.warm_layers=convolutions"):
        warm_start.initial_params(common.Run(whole, meshes.create()))


def test_who_a_run_begins_with_besides_its_own_experts_is_who_it_was_begun_with(settings, tmp_path):
    """Its own may still be in training."""
    network = networks.create("net3")

    def save(name, seed):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        params = networks.init(network, jax.random.key(seed), (4, 84, 84))
        _save_expert(tmp_path / name, network, params, "q")

    def claim():
        with distill._claimed(common.Run(chosen, meshes.create()), workdir):
            pass

    other, workdir = str(tmp_path / "other"), tmp_path / "run"
    chosen = dataclasses.replace(
        settings,
        experts=(ExpertSource(str(tmp_path / "own")),),
        convolutions=networks.describe_convolutions(networks.side_by_side(network, network)),
        learn=dataclasses.replace(
            settings.learn, warm_start=f"pong,{other}", warm_layers="convolutions"
        ),
    )
    save("own", 1)
    save("other", 2)
    claim()
    assert list(json.loads((workdir / "begun_with.json").read_text())) == [f"warm start {other}"]
    save("own", 3)
    claim()
    save("other", 4)
    said = f"the warm start {other} has other parameters than when {workdir} was begun with it"
    with pytest.raises(ValueError, match=re.escape(said)):
        claim()
    # An earlier version wrote down all of it together, with what was fresh.
    (workdir / "begun_with.json").write_text('{"warm start": "x"}')
    claim()


def test_who_sees_something_else_is_named_before_its_convolutions_are(settings, tmp_path):
    """The student has as many as were asked of it already."""
    view = View(gray="none")
    params = networks.init(networks.create("net3"), jax.random.key(0), view.shape)
    colour = Expert("colour", networks.create("net3"), params, "q", tuple(range(18)), view, "pong")
    colour.save(tmp_path / "colour")
    for others, convolutions in (("", None), (",breakout", "64x8/4,128x4/2,128x3/1")):
        learn = dataclasses.replace(
            settings.learn, warm_start=f"{tmp_path}/colour{others}", warm_layers="convolutions"
        )
        chosen = dataclasses.replace(settings, convolutions=convolutions, learn=learn)
        said = (
            r"^learn\.warm_start: colour sees \(12, 84, 84\), the student \(4, 84, 84\), so its "
            r"convolutions do not fit; name one that sees as much, or begin fresh$"
        )
        with pytest.raises(ValueError, match=said):
            warm_start.initial_params(common.Run(chosen, meshes.create()))


def test_a_student_may_have_other_convolutions_than_its_network(settings, tmp_path):
    """Those of an expert that is no `NETWORKS`, padded ones too, to begin with and to read back."""
    convs = (networks.ConvLayer(8, 8, 4, 1), networks.ConvLayer(4, 5, 3, 1, 1))
    network = networks.Network(convs=convs)
    params = networks.init(network, jax.random.key(9), (4, 84, 84))
    _save_expert(tmp_path / "warm", network, params, "q")
    learn = dataclasses.replace(
        settings.learn, rounds=1, warm_start=str(tmp_path / "warm"), warm_layers="convolutions"
    )
    said = "8x8/4p1,4x5/3p1+1"
    changed = dataclasses.replace(settings, network="net3", convolutions=said, learn=learn)
    begun = warm_start.initial_params(common.Run(changed, meshes.create()))["params"]
    for name in ("conv1", "conv2"):
        jax.tree.map(np.testing.assert_array_equal, begun[name], params["params"][name])
    assert begun["fc1"]["kernel"].shape == (7 * 7 * 4, 64) and "conv3" not in begun

    distill.distill(changed, tmp_path / "run", stop_after="train")
    assert students.load_student(tmp_path / "run").network.convs == convs

    # Who begins fresh is told of such, and how: each game's expert that has what the student can.
    _save_expert(tmp_path / "pong", network, params, "q")
    twice = dataclasses.replace(
        settings,
        network="net1",
        experts=(ExpertSource(str(tmp_path / "pong")), *settings.experts[1:]),
    )
    told = closing._begins(common.Run(twice, meshes.create()))
    flags = (
        "begin with its expert's convolutions: "
        "--config.learn.warm_start={} --config.learn.warm_layers=convolutions"
    )
    assert told == {
        "pong": f"{flags.format('pong')} --config.convolutions={said}",
        "breakout": flags.format("breakout"),  # 4x8/4,4x4/2: the student has room for them
    }
    low = {"game": "pong", "retention": 0.5, "retention_interval": [0.4, 0.6]}
    for learn, hinted in ((settings.learn, True), (changed.learn, False)):
        run = common.Run(dataclasses.replace(twice, learn=learn), meshes.create())
        hint = closing.hint_of(run, tmp_path / "run", {"games": [low], "rounds": 1})
        assert ("warm_start=pong" in hint.get("hint", "")) == hinted, "unless it has begun so"
    # Who has begun with one game's convolutions may have others learn too slowly behind them.
    behind = dataclasses.replace(changed.learn, warm_start="pong")
    for convolutions, wider in ((said, "12x8/4p1,6x5/3p1+1"), ("9x8/4p1,4x5/3p1+1", None)):
        narrow = dataclasses.replace(twice, convolutions=convolutions, learn=behind)
        advised = closing._begins(common.Run(narrow, meshes.create()))
        assert list(advised) == (["breakout"] if wider else []), "unless it has room already"
        assert not wider or advised["breakout"].endswith(f" --config.convolutions={wider}")
    alike = dataclasses.replace(twice, network="net3", convolutions=said)
    assert closing._begins(common.Run(alike, meshes.create()))["pong"] == flags.format("pong")
    # Where both experts' convolutions go together, it may begin with both.
    run = common.Run(dataclasses.replace(settings, network="net3", learn=behind), meshes.create())
    assert closing._begins(run) == {
        "breakout": "begin with the convolutions of both experts, side by side: "
        "--config.learn.warm_start=pong,breakout --config.convolutions=8x8/4,8x4/2"
    }

    for wrong, said in (
        ({"network": "mlp"}, "network 'mlp' has none to replace; expected None, or another"),
        ({"convolutions": "8x99/4"}, "convolutions is '8x99/4': a 99x99 convolution does not fit"),
    ):
        with pytest.raises(ValueError, match=said):
            common.Run(dataclasses.replace(changed, **wrong), meshes.create())
    for text in (
        "",
        "8x8",
        "8x8/0",
        "0x8/4",
        "8x8/4,",
        "8x8/4p",
        "8x8/4p1+",
        "8x8/4;4x4/2",
        "nature",
    ):
        with pytest.raises(ValueError, match="expected FEATURESxKERNEL/STRIDE of each convolution"):
            dataclasses.replace(changed, convolutions=text)


def test_a_student_may_know_its_games_and_plays_each_of_them_alone(settings, tmp_path, monkeypatch):
    network = networks.Network(convs=(), action_hidden=(8,), controllers=True, task_embedding=3)
    monkeypatch.setitem(networks.NETWORKS, "mine", network)
    monkeypatch.setattr(page, "CLIP_SECONDS", 4 / 15)
    settings = dataclasses.replace(
        settings,
        network="mine",
        collect=dataclasses.replace(settings.collect, expert_share_rounds=1),
        learn=dataclasses.replace(settings.learn, rounds=2, learning_rate=0.01),
        evaluate=dataclasses.replace(settings.evaluate, report_episodes=2, max_steps=20),
    )
    result = distill.distill(settings, tmp_path / "run")
    assert [row["game"] for row in result["games"]] == list(GAMES)
    _, state, student = students.load_student(tmp_path / "run")
    assert student.game_actions == ((0, 1, 3, 4, 11, 12), (0, 1, 3, 4))
    stacks = np.random.default_rng(0).integers(0, 256, (3, 4, 84, 84)).astype(np.uint8)
    for index, game in enumerate(GAMES):
        expert = students.student_as_expert(tmp_path / "run", game)
        assert not expert.network.knows_game and expert.network.num_outputs == len(expert.actions)
        whole = np.asarray(networks.forward(student, state.eval_params, stacks, index))
        np.testing.assert_allclose(expert.suite_outputs(stacks), whole, rtol=1e-3, atol=1e-4)
        assert whole[:, expert.mask].any() and not whole[:, ~expert.mask].any()
    warm = dataclasses.replace(settings.learn, warm_start="pong")
    with pytest.raises(ValueError, match=r"not of the student's shape \(network 'mine'\)"):
        distill.distill(dataclasses.replace(settings, learn=warm), tmp_path / "warm")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"collect": {"num_envs": 3}}, "not divisible by collect.num_envs 3"),
        ({"learn": {"rounds": 0}}, "learn.rounds is 0"),
        ({"learn": {"rounds": 2**20, "updates_per_round": 2**11}}, "more than 2147483647 updates"),
        ({"learn": {"first_loss": "kl"}}, "learn.first_rounds 0: give both"),
        ({"learn": {"first_rounds": 2}}, "learn.first_loss is None"),
        ({"learn": {"first_loss": "kl", "first_rounds": 2}}, "auto chooses what to begin with"),
        ({"network": "alexnet"}, "network is 'alexnet', expected one of dueling, "),
        ({"evaluate": {"opening_steps": 60}}, "less than evaluate.max_steps 60"),
        ({"experts": ()}, "experts is empty"),
        ({"collect": {"initial_steps": 0, "steps_per_round": 0}}, "nothing to learn"),
        ({"collect": {"dataset": "x"}}, "set collect.steps_per_round to 0, or collect afresh"),
        ({"collect": {"follow": True, "steps_per_round": 0}}, "collect.follow needs new steps"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings, change, message):
    def changed(whole, changes):
        nested = {
            name: changed(getattr(whole, name), value) if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return dataclasses.replace(whole, **nested)

    with pytest.raises(ValueError, match=message):
        changed(settings, change)


def _judges(outputs, games=("pong", "breakout")):
    """Experts of which only what they play and what their heads hold is asked."""
    return [
        Expert(
            f"of {game}",
            networks.Network(convs=(), num_outputs=len(tasks.get(game).actions)),
            {},
            kind,
            tasks.get(game).actions,
            view=tasks.get(game).suite.view,
            game=game,
        )
        for kind, game in zip(outputs, games, strict=True)
    ]


def test_the_loss_suits_the_experts_unless_it_is_named(settings):
    learn = dataclasses.replace(settings.learn, rounds=10)
    settings = dataclasses.replace(settings, learn=learn)
    of_q = distill_settings.resolve_defaults(settings, _judges(["q", "q"])).learn
    assert (of_q.loss, of_q.first_loss, of_q.first_rounds) == ("q_values", "q_kl", 2)
    mixed = distill_settings.resolve_defaults(settings, _judges(["q", "logits"])).learn
    assert (mixed.loss, mixed.first_loss, mixed.first_rounds) == ("kl", None, 0)
    named = dataclasses.replace(settings, learn=dataclasses.replace(learn, loss="nll"))
    assert distill_settings.resolve_defaults(named, _judges(["q", "q"])).learn is named.learn


@pytest.mark.parametrize(
    ("games", "given", "wanted"),
    [
        (("pong", "breakout"), (None, None), (27_000, 10)),
        (("pong", "breakout"), (99, 3), (99, 3)),
        (("lander/windy", "lander/windy_air"), (None, None), (400, 0)),
        # Each has its own limit, which no one number says.
        (("lander/windy", "lander/heavy"), (None, None), (None, 0)),
        (("lander/windy", "lander/heavy"), (300, 20), (300, 20)),
    ],
)
def test_limits_and_openings_are_the_tasks_unless_they_are_given(settings, games, given, wanted):
    limit, opening = given
    evaluate = dataclasses.replace(settings.evaluate, max_steps=limit, opening_steps=opening)
    judges = _judges(["q", "q"], games)
    known = distill_settings.resolve_defaults(
        dataclasses.replace(settings, evaluate=evaluate), judges
    )
    assert (known.evaluate.max_steps, known.evaluate.opening_steps) == wanted
    assert distill_settings.resolve_defaults(known, judges) == known
    longer = dataclasses.replace(evaluate, max_steps=None, opening_steps=400)
    if limit is None and games[0] == "lander/windy":
        with pytest.raises(ValueError, match="opening_steps is 400, expected less than the 400 st"):
            distill_settings.resolve_defaults(
                dataclasses.replace(settings, evaluate=longer), judges
            )


def test_mse_on_logits_is_refused(settings, tmp_path):
    first = {"loss": "kl", "first_loss": "mse", "first_rounds": 2}
    begun = dataclasses.replace(settings, learn=dataclasses.replace(settings.learn, **first))
    with pytest.raises(ValueError, match=r"first_loss is 'mse', but the expert of breakout"):
        distill.distill(begun, tmp_path)
    wrong = dataclasses.replace(settings, learn=dataclasses.replace(settings.learn, loss="mse"))
    with pytest.raises(ValueError, match="breakout holds logits"):
        distill.distill(wrong, tmp_path / "run")


def test_experts_that_changed_under_a_run_are_noticed(experts, settings, tmp_path):
    expert = Expert.load(experts / "pong")
    expert.save(tmp_path / "pong")
    run = dataclasses.replace(settings, experts=(ExpertSource(str(tmp_path / "pong")),))
    distill.distill(run, tmp_path / "run", stop_after="baselines")
    (tmp_path / "pong").rename(tmp_path / "before")
    other = jax.tree.map(lambda x: x + 1, expert.params)
    dataclasses.replace(expert, params=other).save(tmp_path / "pong")
    before = played_by(tmp_path / "run")
    distill.distill(run, tmp_path / "run", stop_after="baselines")
    new = {name: row for name, row in played_by(tmp_path / "run").items() if name not in before}
    assert [row["of"]["task"] for row in new.values()] == ["pong"], "it alone is played again"
    distill.distill(run, tmp_path / "other", stop_after="collect")
    (tmp_path / "pong").rename(tmp_path / "other_pong")
    expert.save(tmp_path / "pong")
    with pytest.raises(ValueError, match="holds a dataset with experts "):
        distill.distill(run, tmp_path / "other")
    # The same parameters, by a spec that was mended: what was labelled before is of other actions.
    distill.distill(run, tmp_path / "read", stop_after="collect")
    shutil.rmtree(tmp_path / "pong")
    dataclasses.replace(expert, actions=(1, 0, *range(2, 18))).save(tmp_path / "pong")
    with pytest.raises(ValueError, match="holds a dataset with experts_read_as"):
        distill.distill(run, tmp_path / "read")
    info = json.loads((tmp_path / "read/dataset/dataset.json").read_text())
    del info["info"]["experts_read_as"]  # as an earlier version wrote it
    (tmp_path / "read/dataset/dataset.json").write_text(json.dumps(info))
    distill.distill(run, tmp_path / "read", stop_after="collect")


def played_by(workdir):
    """What is written down of games, by file."""
    return {path.name: json.loads(path.read_text()) for path in (workdir / "played").iterdir()}


def test_games_that_were_played_once_are_not_played_again(experts, settings, tmp_path):
    """What is kept for all runs is taken as it stands; another protocol plays its own."""
    for game in GAMES:  # where no games lie beside them
        shutil.copytree(experts / game, tmp_path / "experts" / game)
    elsewhere = tuple(ExpertSource(str(tmp_path / "experts" / game)) for game in GAMES)
    settings = dataclasses.replace(settings, experts=elsewhere)
    cache = tmp_path / "cache"
    distill.distill(settings, tmp_path / "one", cache_dir=cache, stop_after="baselines")
    kept = {path.name: path.read_text() for path in cache.iterdir()}
    assert kept == {p.name: p.read_text() for p in (tmp_path / "one/played").iterdir()}
    assert len(kept) == 4, "two experts, and random play in both games"
    (name,) = (
        name
        for name, text in kept.items()
        if json.loads(text)["of"]["player"] != "random" and '"pong"' in text
    )
    row = json.loads(kept[name])
    row["games"]["scores"][0] += 1000.0  # which nothing that played would give
    (cache / name).write_text(json.dumps(row))

    def first(where, **changes):
        evaluate = dataclasses.replace(settings.evaluate, **changes)
        chosen = dataclasses.replace(settings, evaluate=evaluate, seed=3)
        known = common.records_of(chosen, tmp_path / where, cache)
        made = common.Run(chosen, meshes.create(), known=known)
        return made.play_first(made.player("expert"))[0].scores[0]

    assert first("two") == row["games"]["scores"][0]
    assert first("three", epsilon=0.5) < 1000
    (cache / name).write_text("{}")
    with pytest.raises(ValueError, match=rf"{name} is damaged .* delete it"):
        distill.distill(settings, tmp_path / "four", cache_dir=cache)


def test_a_student_goes_on_in_all_its_games_from_where_it_stands(whole_run, tmp_path):
    """While the critic learns alone it stays what it was; all its games are learnt from at once."""
    workdir, _ = whole_run
    settings = train_settings.Settings(
        games=GAMES,
        algorithm="ppo",
        student=str(workdir),
        num_envs=4,
        rollout_steps=8,
        total_steps=64,
        epochs=1,
        batch_per_game=16,
        critic_iterations=1,
        entropy_weight=0.1,
        expert_weight=0.0,
    )
    student = finetuning.to_go_on_from(workdir, GAMES)
    with learning.Training.of(settings, tmp_path, meshes.create(), student) as training:
        for changed in (False, True):
            row = training.iterate()
            assert all(np.isfinite(row[f"policy_loss/{game}"]) for game in GAMES)
            layers = jax.device_get(training.state.params)["params"]
            for name, layer in student.params["params"].items():
                same = jax.tree.map(np.array_equal, layer, layers[name])
                assert all(jax.tree.leaves(same)) is not changed, name
    with pytest.raises(ValueError, match="distilled pong, breakout, not qbert"):
        finetuning.to_go_on_from(workdir, ["qbert"])


def _with(settings, **learn):
    return dataclasses.replace(settings, learn=dataclasses.replace(settings.learn, **learn))


def test_a_finished_run_goes_on_to_more_rounds(settings, whole_run, tmp_path, capsys, monkeypatch):
    """From where it stood, along the longer schedule; what it had come to is kept."""
    workdir, before = whole_run
    shutil.copytree(workdir, tmp_path / "run")
    with pytest.raises(ValueError, match=r"learn\.shares None, this one has 'pong=2'"):
        distill.distill(_with(settings, shares="pong=2"), tmp_path / "run")
    longer = _with(settings, rounds=6, shares="pong=2")
    steps = 2 * settings.collect.steps_per_round
    longer = dataclasses.replace(
        longer, collect=dataclasses.replace(longer.collect, steps_per_round=steps)
    )
    state = distill_settings.create_state(longer, params_of(workdir), meshes.create())
    per = settings.learn.updates_per_round
    result = distill.distill(longer, tmp_path / "run")
    assert result["rounds"] == 6
    assert _steps(tmp_path / "run") == [*_steps(workdir), 5 * per, 6 * per]
    assert json.loads((tmp_path / "run/result-4.json").read_text()) == before
    learn = json.loads((tmp_path / "run/config.json").read_text())["learn"]
    assert (learn["rounds"], learn["shares"]) == (6, "pong=2")
    assert distill.distill(longer, tmp_path / "run") == result
    # What was learnt before is not learnt again, and the last rounds are those of six.
    rows = [[row for row in metrics.read(x) if "loss" in row] for x in (workdir, tmp_path / "run")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1][:4]]
    seen = [row["steps_per_game"] for row in rows[1]]
    assert np.diff(seen).tolist() == [*[steps / 2] * 3, *[steps] * 2]
    with checkpoints.Checkpoints(tmp_path / "run/checkpoints", read_only=True) as saved:
        assert int(saved.restore(6, state).state.step) == 6 * per
    said = "learn.rounds 4 -> 6: what was learnt in 4 stays, and the rate follows the schedule of 6"
    assert said in capsys.readouterr().out
    # With fewer again it is what it has become, and no result is written over.
    bars, progress = [], terminal.progress

    def look(name, total, unit, *, done=0):
        bars.append((name, total, done))
        return progress(name, total, unit, done=done)

    monkeypatch.setattr(terminal, "progress", look)
    assert distill.distill(settings, tmp_path / "run")["rounds"] == 6
    assert ("learn", 6 * per, 6 * per) in bars
    said = "learn.rounds 6 -> 4: what was learnt in 6 stays, and nothing more is learnt\n"
    assert said in capsys.readouterr().out
    assert distill.distill(longer, tmp_path / "run")["rounds"] == 6
    assert json.loads((tmp_path / "run/result-4.json").read_text()) == before
    assert (tmp_path / "run/result-4-2.json").is_file()


def test_a_run_whose_dataset_is_gone_does_not_go_on(settings, stopped, tmp_path, contents):
    run = shutil.copytree(stopped[0], tmp_path / "run")
    data_there = run / "dataset/dataset.json"
    begun = data_there.read_text().replace('"length": 48', '"length": 0')
    data_there.unlink()
    before = contents(run)
    said = r"^.*/run/dataset holds no dataset, and the student of .*/run has learnt from 48 steps"
    with pytest.raises(ValueError, match=said):
        distill.distill(settings, run)
    assert contents(run).keys() == before.keys(), "none is begun in its place"
    data_there.write_text(begun)  # as an earlier version left it then
    with pytest.raises(ValueError, match=r"/dataset holds 0 steps of .* has learnt from 48; put b"):
        distill.distill(settings, run)
    assert data_there.read_text() == begun
    shutil.rmtree(run / "dataset")
    with pytest.raises(ValueError, match=said):
        distill.distill(settings, run)
    assert not (run / "dataset").exists()


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("dataset", "holds no dataset, and the student of"),
        ("checkpoints", "has ended, and its student, in .*/run/checkpoints, is not there any more"),
    ],
)
def test_a_finished_run_that_cannot_go_on_is_left_as_it_was(
    settings, whole_run, tmp_path, contents, gone, said
):
    workdir, result = whole_run
    run = shutil.copytree(workdir, tmp_path / "run")
    assert distill.missing_path(run) is None
    shutil.rmtree(run / gone)
    assert distill.missing_path(run) == run / gone
    before = contents(run)
    for count in (6, 2):
        with pytest.raises(ValueError, match=said) as error:
            distill.distill(_with(settings, rounds=count), run)
        assert "\n" not in str(error.value)
    assert {**contents(run), lock.NAME: before[lock.NAME]} == before
    assert distill.distill(settings, run) == result, "its table is shown as before"
    if gone == "checkpoints":
        # Put back, they are still of the experts that they learnt from.
        place = settings.experts[1].path
        shutil.move(place, tmp_path / "kept")
        other = Expert.load(tmp_path / "kept")
        params = jax.tree.map(lambda x: x + 1, other.params)
        try:
            dataclasses.replace(other, params=params).save(place)
            with pytest.raises(ValueError, match="learnt breakout from"):
                distill.distill(settings, run)
        finally:
            shutil.rmtree(place)
            shutil.move(tmp_path / "kept", place)
        assert (run / "student.json").read_bytes() == (workdir / "student.json").read_bytes()
    with pytest.raises(ValueError, match="holds a run with seed 0, this one has 1"):
        distill.distill(dataclasses.replace(settings, seed=1), run)
    (run / "result.json").rename(run / "result-3.json")  # which it had ended with before
    with pytest.raises(ValueError, match=said):
        distill.distill(settings, run)


def test_a_run_sees_no_more_of_a_dataset_than_it_had(settings, whole_run, tmp_path, monkeypatch):
    directory = whole_run[0] / "dataset"
    of_it = dataclasses.replace(settings.collect, dataset=str(directory), steps_per_round=0)
    run = common.Run(dataclasses.replace(settings, collect=of_it), meshes.create())
    whole, _ = data.resume(run, tmp_path, None, clocks.Timer())
    log, _ = data.resume(run, tmp_path, 40, clocks.Timer())
    assert (log.length, whole.length) == (40, 96)
    # Of several processes all see as much as the one that sees least.
    monkeypatch.setattr(meshes, "gather", lambda seen, axis: np.append(seen, (64, 128)))
    assert data.resume(run, tmp_path, None, clocks.Timer())[0].length == 64
    assert dataset.open_log(directory).length == 96


def test_a_run_that_no_loss_was_named_for_goes_on_with_the_loss_it_began_with(
    settings, tmp_path, capsys
):
    pong = next(x for x in settings.experts if x.path.endswith("pong"))
    short = dataclasses.replace(_with(settings, rounds=10), experts=(pong,))
    for count in (10, 20):
        chosen = _with(short, rounds=count)
        distill.distill(chosen, tmp_path, stop_after="baselines")
        learn = json.loads((tmp_path / "config.json").read_text())["learn"]
        assert (learn["rounds"], learn["loss"]) == (count, "q_values")
        assert (learn["first_loss"], learn["first_rounds"]) == ("q_kl", 2)
    assert "learn.rounds 10 -> 20: the rate follows the schedule of 20" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"learn\.first_loss 'q_kl', this one has None"):
        distill.distill(_with(short, loss="nll"), tmp_path, stop_after="baselines")


def test_a_run_may_end_before_its_rounds(settings, stopped, tmp_path):
    shutil.copytree(stopped[1], tmp_path / "run")
    with pytest.raises(ValueError, match=r"collect\.num_envs"):  # decides what is learnt
        other = dataclasses.replace(settings.collect, num_envs=8)
        distill.distill(
            dataclasses.replace(_with(settings, rounds=2), collect=other), tmp_path / "run"
        )
    result = distill.distill(_with(settings, rounds=2), tmp_path / "run")
    assert result["rounds"] == 3, "it is beyond them"
    assert _measured(tmp_path / "run") == [2, 3], "and no round that was learnt is left out"
    shutil.copytree(stopped[0], tmp_path / "early")
    result = distill.distill(_with(settings, rounds=1), tmp_path / "early")
    assert (result["best_round"], result["rounds"]) == (1, 1)


def _measured(workdir, updates=2):
    """After which rounds a student was measured."""
    rows = metrics.read(workdir)
    return [row["step"] // updates for row in rows if "chosen_by" in row]


def test_random_play_is_not_measured_for_an_expert_that_keeps_nothing_of_its_claim(
    settings, monkeypatch
):
    short, who = common.Run(settings, meshes.create()), list[str]()
    whole = dataclasses.replace(settings.evaluate, max_steps=None)  # claims are of whole games
    run = common.Run(dataclasses.replace(settings, evaluate=whole), meshes.create())
    run.lessons = tuple(
        dataclasses.replace(x, expert=dataclasses.replace(x.expert, advertised_score=1000.0))
        for x in run.lessons
    )
    run.play_first = lambda player: who.append(player.name) or short.play_first(player)
    for known, played in ((0.0, ["experts"]), (None, ["experts", "random"])):
        who.clear()
        monkeypatch.setattr(records, "random_score", lambda *_, known=known: known)
        refused = pytest.raises(ValueError, match="of the 1000 it advertises")
        with refused if known is not None else contextlib.nullcontext():
            run.baselines()
        assert who == played


def _played(mean):
    """Two games of this mean score."""
    starts = np.arange(2)
    return scoring.Scores(np.array([mean - 1, mean + 1]), starts + 9, starts, starts < 0)


def test_experts_are_shown_beside_random_play_and_then_held_to_their_claims(settings, capsys):
    """200 of 1000 where random play has 0: more than an eighth, which ends a run before that."""
    whole = dataclasses.replace(settings.evaluate, max_steps=None)  # which claims are of
    run = common.Run(dataclasses.replace(settings, evaluate=whole), meshes.create())
    pong, breakout = run.lessons
    boaster = dataclasses.replace(breakout.expert, advertised_score=1000.0)
    run.lessons = (pong, dataclasses.replace(breakout, expert=boaster))
    random = [_played(-20.0), _played(0.0)]
    scores = {"experts": [_played(7.0), _played(200.0)], "random": random}
    run.play_first = lambda player: scores[player.name]
    refused = r"^tiny breakout scores 200\.0 in breakout, 20% of the 1000 it adver.*random: 0\.0\)"
    with pytest.raises(ValueError, match=refused):
        distill.measure_baselines(run, clocks.Timer())
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {line[0]: line for line in shown if line and line[0] in GAMES}
    assert rows["pong"][:4] == ["pong", "tiny", "pong", "7.0"] and rows["pong"][-1] == "-20.0"
    assert rows["breakout"][3] == "200.0" and rows["breakout"][-2:] == ["1000", "0.0"]
    scores["experts"][1] = _played(251.0)  # a quarter is enough
    measured = distill.measure_baselines(run, clocks.Timer())
    assert [x.mean for x in measured.expert] == [7.0, 251.0]
    assert [x.mean for x in measured.random] == [-20.0, 0.0]


def test_what_was_learnt_is_saved_where_choosing_is_stopped(
    settings, whole_run, tmp_path, monkeypatch
):
    """A signal in the middle of the games: it is measured first when the run goes on."""
    with monkeypatch.context() as patch, pytest.raises(preemption.Preempted):
        patch.setattr(choosing, "select", _preempted)
        distill.distill(settings, tmp_path / "run")
    with checkpoints.Checkpoints(tmp_path / "run/checkpoints", read_only=True) as saved:
        assert (saved.latest_step(), saved.best_step()) == (2, None)
    assert _measured(tmp_path / "run") == []
    # Killed once more, between its row in the log and the checkpoint that knows of it.
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.Checkpoints, "save", _interrupted)
        distill.distill(settings, tmp_path / "run")
    assert _measured(tmp_path / "run") == [2]
    distill.distill(settings, tmp_path / "run", stop_after="train")
    assert _measured(tmp_path / "run") == _measured(whole_run[0]) == [2, 4]
    with checkpoints.Checkpoints(tmp_path / "run/checkpoints", read_only=True) as saved:
        assert saved.best_step() == whole_run[1]["best_round"]
    jax.tree.map(
        np.testing.assert_array_equal, params_of(whole_run[0]), params_of(tmp_path / "run")
    )


def test_what_is_learnt_is_saved_once_a_minute(settings, tmp_path, monkeypatch):
    """Though nothing is measured yet, and whoever is killed then goes on from there."""
    clock = itertools.count(step=61.0)
    monkeypatch.setattr(rounds, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(choosing, "select", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        distill.distill(settings, tmp_path / "run")
    with checkpoints.Checkpoints(tmp_path / "run/checkpoints", read_only=True) as saved:
        assert saved.latest_step() == 1


def test_first_are_played_as_many_games_as_choose_and_no_more_than_are_reported(settings, tmp_path):
    known = common.records_of(settings, tmp_path, None, writes=False)
    for choose, reported, first in ((2, 4, 2), (4, 3, 3)):
        chosen = dataclasses.replace(
            settings.evaluate, select_episodes=choose, report_episodes=reported
        )
        evaluated = dataclasses.replace(settings, evaluate=chosen)
        played = common.Run(evaluated, meshes.create(), known=known).baselines()
        assert [len(x.scores) for x in (*played.random, *played.expert)] == [first] * 4


def test_a_later_choice_that_is_stopped_is_made_up_for(settings, stopped, tmp_path, monkeypatch):
    """Where another student has been chosen before."""
    shutil.copytree(stopped[1], tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(preemption.Preempted):
        patch.setattr(choosing, "select", _preempted)
        distill.distill(settings, tmp_path / "run")
    distill.distill(settings, tmp_path / "run", stop_after="train")
    assert _measured(tmp_path / "run") == [2, 4]


def test_shares_reach_the_update(settings, monkeypatch):
    monkeypatch.setattr(learner, "make_update", lambda *_, **told: told["minibatches"])
    made = common.Run(_with(settings, shares="breakout=2"), meshes.create())
    assert rounds.make_update(made).shares == (1, 2)


def _preempted(*_):
    raise preemption.Preempted


def _interrupted(*_, **__):
    raise KeyboardInterrupt


def test_a_run_whose_best_checkpoint_was_taken_away_measures_anew(settings, stopped, tmp_path):
    shutil.copytree(stopped[1], tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/2")
    assert distill.distill(settings, tmp_path / "run")["best_round"] == 4
    shutil.rmtree(tmp_path / "run/checkpoints/4")
    (tmp_path / "run/result.json").unlink()
    assert distill.distill(settings, tmp_path / "run")["best_round"] == 4


def test_where_games_cannot_be_skipped_a_run_begins_them_anew_and_goes_on(
    settings, tmp_path, monkeypatch
):
    """32 steps before the first update and 16 a round: pools begin anew in the second round."""
    monkeypatch.setattr(common, "_RENEWED_EVERY", 40)
    sticky = dataclasses.replace(settings, rules=Rules(repeat_action_probability=0.25))
    begin = functools.partial(distill.distill, sticky, cache_dir=tmp_path / "cache")
    begin(tmp_path / "whole", stop_after="train")
    begin(tmp_path / "killed", stop_after="round:2")
    begin(tmp_path / "killed", stop_after="train")
    jax.tree.map(
        np.testing.assert_array_equal, params_of(tmp_path / "whole"), params_of(tmp_path / "killed")
    )
    logs = [dataset.open_log(tmp_path / name / "dataset") for name in ("whole", "killed")]
    chunks = [log.read(0, log.length) for log in logs]
    for one, other in zip(*chunks, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not chunks[0].usable[:, 39].any() and not chunks[0].ages[:, 40].any()
    # One of an earlier version, which does not say so, goes on as it was begun.
    begin(tmp_path / "old", stop_after="collect")
    info = tmp_path / "old/dataset/dataset.json"
    fields = json.loads(info.read_text())
    assert fields["info"].pop("renewed_every") == 40
    info.write_text(json.dumps(fields))
    begin(tmp_path / "old", stop_after="train")
    chunk = dataset.open_log(tmp_path / "old/dataset").read(0, 48)
    assert chunk.usable[:, 39].any() and chunk.ages[:, 40].any()


def test_the_last_that_is_chosen_counts_and_all_are_held_against_the_best(
    settings, tmp_path, monkeypatch
):
    """Of four students the second is by chance the best, and the last one clearly worse."""
    given = iter([choosing.Candidate(value, (value,), {}) for value in (0.8, 0.9, 0.85)])
    held = []

    def select(*arguments):
        *_, before, best = arguments
        held.append((before, best and best.value))
        return choosing.Selection(next(given, None), {}, "")

    monkeypatch.setattr(choosing, "select", select)
    distill.distill(_every(settings, 1), tmp_path / "run", stop_after="round:2")
    distill.distill(_every(settings, 1), tmp_path / "run", stop_after="train")
    assert held == [(0, None), (1, 0.8), (2, 0.9), (3, 0.9)]
    with checkpoints.Checkpoints(tmp_path / "run/checkpoints", read_only=True) as saved:
        assert saved.best_step() == 3


def test_who_was_measured_at_an_end_that_was_gone_on_from_counts_in_the_race(
    settings, tmp_path, monkeypatch
):
    """After rounds 2 and 3, which was the last, and then 4 and 5; of an earlier version not all."""
    counts, restore = [], checkpoints.Checkpoints.restore

    def select(*arguments):
        *_, before, _ = arguments
        counts.append(before)
        return choosing.Selection(choosing.Candidate(1.0, (1.0,), {}), {}, "")

    def uncounted(*arguments):
        found = restore(*arguments)
        del found.progress["students"]
        return found

    monkeypatch.setattr(choosing, "select", select)
    for count in (3, 4):
        distill.distill(_with(settings, rounds=count), tmp_path / "run", stop_after="train")
    assert counts == [0, 1, 2]
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    distill.distill(_with(settings, rounds=5), tmp_path / "run", stop_after="train")
    assert counts.pop() == 3
    monkeypatch.setattr(checkpoints.Checkpoints, "restore", uncounted)
    distill.distill(_with(settings, rounds=5), tmp_path / "old", stop_after="train")
    assert counts.pop() == 2


def _every(settings, rounds):
    return dataclasses.replace(
        settings, evaluate=dataclasses.replace(settings.evaluate, every_rounds=rounds)
    )


def test_learning_ends_where_every_game_is_at_its_target(settings, tmp_path, monkeypatch):
    kept = iter([[0.9, 0.99], [0.97, 0.95], [1.0, 1.0]])
    monkeypatch.setattr(choosing, "_kept", lambda *_: next(kept))
    monkeypatch.setattr(choosing, "value_of", lambda *_: 1.0)
    chosen = _with(settings, rounds=8, target_retention=0.95)
    distill.distill(chosen, tmp_path / "run", stop_after="train")
    assert len(_steps(tmp_path / "run")) == 4, "at the second of four evaluations"
    # Called again it has nothing left to learn.
    result = distill.distill(chosen, tmp_path / "run")
    assert (result["best_round"], result["rounds"]) == (4, 8)
    assert len(_steps(tmp_path / "run")) == 4
    # More rounds go on, until it is there again.
    distill.distill(_with(chosen, rounds=12), tmp_path / "run", stop_after="train")
    assert len(_steps(tmp_path / "run")) == 6


def test_a_game_that_nothing_is_known_of_has_not_reached_its_target():
    for kept in ((0.99, np.nan), (np.nan, 0.99), (0.99, 0.94)):
        assert not choosing.Candidate(1.0, kept, {}).reaches(0.95)
    assert choosing.Candidate(1.0, (0.99, 0.95), {}).reaches(0.95)


def test_a_student_that_is_clearly_worse_is_not_played_to_the_end(settings, tmp_path):
    evaluate = dataclasses.replace(settings.evaluate, select_episodes=16, max_steps=24)
    run = common.Run(dataclasses.replace(settings, evaluate=evaluate), meshes.create())
    state = distill_settings.create_state(settings, warm_start.initial_params(run), run.mesh)
    # Retention is of what separates an expert from random play, and these tiny ones hardly differ.
    baselines = scoring.Baselines(
        **{
            who: [
                dataclasses.replace(x, scores=np.full_like(x.scores, mean))
                for x in run.play_first(run.player(who))
            ]
            for who, mean in (("expert", 5.0), ("random", -5.0))
        }
    )
    seats, known, measure = [], {}, run.measure

    def spy(policy, purpose, episodes, only=None):
        """All play the same student in the same games: those of the same seats are played once."""
        seats.append([(x.start, x.stop) for x in episodes])
        if str(seats[-1]) not in known:
            known[str(seats[-1])] = measure(policy, purpose, episodes, only)
        return known[str(seats[-1])]

    run.measure = spy

    def select(best):
        seats.clear()
        chosen = choosing.select(run, state, baselines, 0, best).chosen
        return chosen, list(seats)

    first, played = select(None)
    assert played == [[(0, 4)] * 2, [(4, 8)] * 2, [(8, 16)] * 2], "the first knows of no better"
    again, played = select(first)
    assert again.to_dict() == first.to_dict() and len(played) == 3, "its like is no worse"
    better = {
        i: dataclasses.replace(x, scores=x.scores + 3.0 + np.arange(16) % 2)
        for i, x in first.played.items()
    }
    dropped, played = select(dataclasses.replace(first, played=better))
    assert dropped is None and played == [[(0, 4)] * 2]

    def beside(*differences):
        """Who is chosen where the best scored so much more in the games, over and over."""
        more = np.resize(differences, 16)
        played = {
            i: dataclasses.replace(x, scores=x.scores + more) for i, x in first.played.items()
        }
        return select(dataclasses.replace(first, played=played))

    # The mean of 16 games of two tasks, of a deviation of 1, has a standard error of 0.18.
    chosen, played = beside(1.1, -0.9)
    assert chosen is not None and len(played) == 3, "it may be by chance, and this one came later"
    chosen, played = beside(1.28, -0.72)
    assert chosen is None and len(played) == 3, "by more than a standard error, once all are played"
    # Likely worse in the first four games, which is not certain, and no worse in all.
    chosen, played = beside(*[1.8, -0.2] * 2, *[0.7, -1.3] * 6)
    assert chosen is not None and len(played) == 3
    # Where the run may end, it is chosen all the same; and not a little below that.
    for target, there in ((min(first.kept), True), (min(first.kept) + 0.01, False)):
        run.settings = _with(run.settings, target_retention=target)
        chosen, _ = beside(1.28, -0.72)
        assert (chosen is not None and chosen.reaches(target)) == there
    # Of any number of games it is asked twice before all are played, as the certainty counts.
    run.settings = dataclasses.replace(
        run.settings, evaluate=dataclasses.replace(run.settings.evaluate, select_episodes=17)
    )
    _, played = select(None)
    assert played == [[(0, 5)] * 2, [(5, 10)] * 2, [(10, 17)] * 2]


@pytest.mark.parametrize(
    ("num_envs", "rounds", "final", "wanted"),
    [
        (2, 4, 0.25, [1.0, 1.0, 0.5, 0.5, 0.5, 0.5]),
        (2, 0, 0.25, [0.5] * 6),
        (2, 4, 0.0, [1.0, 1.0, 0.5, 0.5, 0.0, 0.0]),
        (32, 4, 0.01, [1.0, 24 / 32, 16 / 32, 8 / 32, 1 / 32, 1 / 32]),
        (32, 0, 0.0, [0.0] * 6),
        # One driver cannot share: it is the expert as long as most of the share is his.
        (1, 4, 0.25, [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
    ],
)
def test_experts_drive_whole_environments_and_one_where_they_have_a_share(
    num_envs, rounds, final, wanted
):
    collect = distill_settings.Collect(
        num_envs=num_envs, expert_share_rounds=rounds, final_expert_share=final
    )
    chosen = distill_settings.Settings(experts=(ExpertSource("x"),), collect=collect)
    shares = [distill_settings.expert_share_at(chosen, index) for index in range(6)]
    assert shares == wanted, "which is what the log says"
