"""A whole run of experts that see otherwise than their student, in a game that is not theirs.

One of them is recurrent: it is played, labels, is resumed and spread over devices like any other.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from small_finetunings import going_on

from jaxdistill import meshes, networks, tasks
from jaxdistill.experts import export, export_sb3
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import dataset, train_settings
from jaxdistill.learn import training as learning
from jaxdistill.play import evaluation, measuring, protocols
from jaxdistill.run import (
    data,
    distill,
    distill_settings,
    evaluating,
    merge_settings,
    students,
    training,
)
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View

pytestmark = pytest.mark.usefixtures("without_page")
CROPPED = View(crop=(8, 196), gray="mean", resize="linear", steps=((94, 84),))
ONE, FOUR = meshes.create(jax.devices()[:1]), meshes.create()


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    views = {"space_invaders": CROPPED, "pong": View(maximum="none")}
    for seed, (game, view) in enumerate(views.items()):
        core = networks.Core("gru", 4) if game == "space_invaders" else None
        network = networks.Network(convs=(), num_outputs=18, core=core)
        params = networks.init(network, jax.random.key(seed), view.shape)
        params = jax.tree.map(lambda x: np.asarray(30 * x, np.float32), params)
        own = Rules(fire_after_life=True) if game == "pong" else Rules()
        expert = Expert(game, network, params, "q", tuple(range(18)), view, game, rules=own)
        expert.save(root / game)
    return distill_settings.Settings(
        experts=tuple(ExpertSource(str(root / game)) for game in views),
        network="net3",
        collect=distill_settings.Collect(
            num_envs=4, initial_steps=40, steps_per_round=20, window_steps=60
        ),
        learn=distill_settings.Learn(rounds=2, updates_per_round=2, batch_per_game=8, loss="kl"),
        evaluate=distill_settings.Evaluate(
            every_rounds=2, select_episodes=2, report_episodes=2, max_steps=12, opening_steps=0
        ),
    )


def _student(workdir):
    state = students.load_student(workdir).state
    return jax.tree.leaves(jax.device_get(state.eval_params))


def test_it_ends_with_the_same_student_after_a_kill(settings, tmp_path, capsys):
    whole = distill.distill(settings, tmp_path / "whole", mesh=FOUR)
    said = capsys.readouterr()
    line = "pong: pong learnt with fire_after_life True (not False)"
    assert line in said.out + said.err and "space_invaders learnt with" not in said.out + said.err
    distill.distill(settings, tmp_path / "killed", mesh=FOUR, stop_after="round:1")
    killed = distill.distill(settings, tmp_path / "killed", mesh=FOUR)
    for a, b in zip(_student(tmp_path / "whole"), _student(tmp_path / "killed"), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {**whole, "seconds": 0} == {**killed, "seconds": 0}
    roles = json.loads((tmp_path / "whole" / "student.json").read_text())
    assert [role["view"] for role in roles] == [View().to_dict() | {"steps": []}] * 2
    info = json.loads((tmp_path / "whole" / "dataset" / "dataset.json").read_text())["info"]
    assert info["frame_shape"] == [84, 84] and info["expert_views"][0] == json.loads(
        json.dumps(CROPPED.to_dict())
    )
    expert = students.student_as_expert(tmp_path / "whole", "pong")
    assert expert.view == View() and expert.rules == Rules()


@pytest.fixture(scope="module")
def alone(settings, tmp_path_factory):
    """A student of the first expert alone: its run, and where it was exported."""
    root = tmp_path_factory.mktemp("alone")
    learn = dataclasses.replace(settings.learn, rounds=1, updates_per_round=1)
    chosen = dataclasses.replace(settings, experts=settings.experts[:1], learn=learn)
    distill.distill(chosen, root / "run", mesh=ONE, stop_after="train")
    students.read(root / "run").save(root / "exported")
    return root / "run", root / "exported"


# Games that are long enough to score in.
TERMS = protocols.Terms(3, epsilon=0.5, seed=0, opening_steps=10, max_steps=120)


def test_an_exported_student_of_such_experts_starts_and_plays_as_in_its_run(alone):
    run, exported = alone
    (row,) = json.loads((run / "student.json").read_text())
    assert View.from_dict(row["teacher_view"]) == CROPPED
    (wanted,) = evaluating.find(run).measure(TERMS)
    (found,) = evaluating.find(exported).measure(TERMS)
    for who in ("student", "random"):
        assert found[who] == wanted[who]
    assert found["student"]["mean"] != found["random"]["mean"]
    # As `jaxdistill.evaluate` measures it.
    scores = measuring.measure_alone(students.student_as_expert(exported), TERMS)
    assert scores.summary() == wanted["student"]


def test_a_training_goes_on_from_it_where_starts_are_kept_apart_so(alone, tmp_path, monkeypatch):
    _, exported = alone
    chosen = going_on(exported, "space_invaders")
    shown, measure = [], evaluation.measure

    def spy(lessons, *args, **options):
        shown.extend(lesson.view for lesson in lessons)
        return measure(lessons, *args, **options)

    monkeypatch.setattr(evaluation, "measure", spy)
    (row,) = training.train(chosen, tmp_path / "on")["games"]
    assert set(shown) == {tasks.get("space_invaders").shown([CROPPED, View()])}
    (expert,) = training.load_experts(tmp_path / "on")
    assert expert.teacher_view == CROPPED and expert.view == View()
    terms = protocols.Terms(2, epsilon=0.05, seed=0, opening_steps=10, max_steps=40)
    (told,) = evaluating.find(exported).measure(terms)
    assert [row[who] for who in ("student", "random")] == [
        told[who] for who in ("student", "random")
    ]
    assert row["shared_starts"] == 0


def test_it_collects_the_same_on_one_device_and_on_four(settings, tmp_path):
    read = []
    for name, devices in (("one", ONE), ("four", FOUR)):
        data.collect(settings, tmp_path / name, devices)
        read.append(dataset.open_log(tmp_path / name).read(0, 10))
    one, four = read
    for name in ("frames", "actions", "ages", "usable"):
        np.testing.assert_array_equal(getattr(one, name), getattr(four, name))
    np.testing.assert_allclose(one.labels, four.labels, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("rule", ["mode", "difficulty"])
def test_rules_that_a_game_does_not_have_are_refused_before_anything_is_claimed(
    settings, tmp_path, rule
):
    """Or the directory would be that of a run which can never begin."""
    wrong = dataclasses.replace(settings, rules=Rules(**{rule: 99}))
    for begin in (distill.distill, data.collect):
        with pytest.raises(ValueError, match=r"^space_invaders: Invalid .*99.*the game's own$"):
            begin(wrong, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_a_recurrent_expert_is_refused_where_single_states_are_asked_for(settings, tmp_path):
    view, network = View(42, 42, 1), networks.Network(convs=(), core=networks.Core("lstm", 2))
    params = jax.tree.map(np.asarray, networks.init(network, jax.random.key(0), view.shape))
    games = ("pong", "freeway")
    experts = [Expert(x, network, params, "q", tuple(range(18)), view, x) for x in games]
    source = ExpertSource(str(tmp_path / "pong"))
    experts[0].save(source.path)
    beside = train_settings.Settings(games=("pong",), num_envs=4, experts=(source,))
    with pytest.raises(ValueError, match=r"pong is recurrent, and a training asks .* distil it"):
        learning.Training.of(beside, tmp_path / "training")
    merge = merge_settings.Settings(experts=(source, source), method="mean")
    with pytest.raises(ValueError, match="experts have a recurrent core, which no student has"):
        merge_settings.resolve_defaults(merge, experts)
    with pytest.raises(ValueError, match="cannot express a recurrent core"):
        export.export_expert(experts[0], tmp_path / "x.pth")
    with pytest.raises(ValueError, match="PPO cannot express a recurrent core"):
        export_sb3.export_policy(network, params, tmp_path / "x.zip", kinds=("key",) * 18, turn=1.0)
    warm = dataclasses.replace(settings.learn, warm_start="space_invaders")
    with pytest.raises(ValueError, match=r"space_invaders .* is not of the student's shape"):
        distill.distill(dataclasses.replace(settings, learn=warm), tmp_path / "run")
