"""Runs of skills: three experts and the duel that they fight together, in one small student."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes, metrics, networks, shipped, tasks
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import dataset, learner, train_settings
from jaxdistill.play import lessons, measuring, protocols
from jaxdistill.run import (
    common,
    data,
    distill,
    distill_settings,
    evaluating,
    finetuning,
    rounds,
    student_json,
    students,
    training,
)
from jaxdistill.tasks import combat
from jaxdistill.tasks.combat import views
from jaxdistill.tasks.views import Vector

pytestmark = pytest.mark.usefixtures("without_page")
SKILLS = ("movement", "aiming", "clicking")
GAMES = (*(f"combat/{skill}" for skill in SKILLS), "combat/duel")
ONE = meshes.create(jax.devices()[:1])


@pytest.fixture(scope="module")
def experts(skilled, tmp_path_factory):
    """Where three untaught experts are."""
    root = tmp_path_factory.mktemp("experts")
    for seed, skill in enumerate(SKILLS):
        skilled(skill, seed).save(root / skill)
    return root


def source(experts, skill):
    return ExpertSource(str(experts / skill))


@pytest.fixture(scope="module")
def settings(experts, tmp_path_factory):
    """Of runs that find the games of experts and random play as those of the package's experts."""
    chosen = distill_settings.Settings(
        experts=tuple(source(experts, skill) for skill in SKILLS),
        together="combat/duel",
        network="skills",
        collect=distill_settings.Collect(
            num_envs=4,
            initial_steps=128,
            steps_per_round=64,
            window_steps=256,
            expert_share_rounds=2,
            final_expert_share=0.0,
        ),
        learn=distill_settings.Learn(
            rounds=4, updates_per_round=2, batch_per_game=8, resample_unseen=True
        ),
        evaluate=distill_settings.Evaluate(
            every_rounds=2, select_episodes=4, report_episodes=4, max_steps=30, epsilon=0.0
        ),
    )
    measured = tmp_path_factory.mktemp("measured")
    distill.distill(chosen, measured, stop_after="baselines")
    (measured / "played").rename(experts / "played")
    with pytest.MonkeyPatch.context() as as_packaged:
        as_packaged.setattr(shipped, "EXPERTS", experts)
        yield chosen


def test_what_experts_cannot_know_of_reaches_the_update(settings, monkeypatch):
    monkeypatch.setattr(learner, "make_update", lambda *_, **told: told["seen"])
    seen = rounds.make_update(common.Run(settings, ONE))
    skills = [tasks.get(game).seen for game in GAMES[:3]]
    assert [row.sum() for row in skills] == [17, 4, 4], "of the 20 that the student sees"
    np.testing.assert_array_equal(seen, [*skills, np.ones(20)])


def test_only_a_whole_copy_answers_like_another():
    for layers, name in (("all", "x"), ("convolutions", None)):
        assert distill_settings.Learn(warm_start="x", warm_layers=layers).begins_as == name


# Of collecting once; the student never drives.
FIXED = {"steps_per_round": 0, "expert_share_rounds": 100, "final_expert_share": 0.25}


def changed(settings, **parts):
    """`settings` with fields of their parts replaced."""
    for name, fields in parts.items():
        part = fields
        if isinstance(fields, dict):
            part = dataclasses.replace(getattr(settings, name), **fields)
        settings = dataclasses.replace(settings, **{name: part})
    return settings


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    """Where an uninterrupted run is, and what it returned."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, distill.distill(settings, workdir)


def params_of(workdir):
    return jax.device_get(students.load_student(workdir).state.eval_params)


def difference(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


def test_a_run_that_was_killed_ends_as_an_uninterrupted_one(settings, whole, tmp_path):
    workdir, result = whole
    for stop in ("collect", "round:3"):
        assert distill.distill(settings, tmp_path, stop_after=stop) == {}
    resumed = distill.distill(settings, tmp_path)
    assert resumed["games"] == result["games"] and resumed["best_round"] == result["best_round"]
    assert difference(params_of(workdir), params_of(tmp_path)) == 0
    logs = [dataset.open_log(path / "dataset") for path in (workdir, tmp_path)]
    assert logs[0].length == logs[1].length == (128 + 4 * 64) // 4
    for one, other in zip(*(log.read(0, log.length) for log in logs), strict=True):
        np.testing.assert_array_equal(one, other)


def test_four_devices_distil_what_one_distils(settings, whole, tmp_path):
    workdir, _ = whole
    distill.distill(settings, tmp_path, mesh=ONE, stop_after="train")
    assert difference(params_of(workdir), params_of(tmp_path)) < 1e-4
    fresh = networks.init(
        networks.create("skills"), jax.random.fold_in(jax.random.key(0), 100), (1, 20)
    )
    assert difference(params_of(workdir), fresh) > 1e-3


def test_a_key_that_no_expert_had_is_never_pressed(whole, tmp_path):
    """As an expert the student has no output for it."""
    workdir, _ = whole
    shutil.copytree(workdir, tmp_path / "run")
    path = tmp_path / "run" / "student.json"
    roles = json.loads(path.read_text())
    assert roles[0]["game"] == "combat/movement" and roles[0]["actions"] == [0, 1, 2, 3, 4, 5]
    roles[0]["actions"] = [0, 1, 3, 4, 5]
    path.write_text(json.dumps(roles))
    whole_one = students.student_as_expert(workdir, "combat/movement")
    expert = students.student_as_expert(tmp_path / "run", "combat/movement")
    assert np.flatnonzero(whole_one.mask).tolist() == [0, 1, 2, 3, 4, 5]
    assert np.flatnonzero(expert.mask).tolist() == [0, 1, 3, 4, 5]
    seen = jax.random.normal(jax.random.key(0), (64, 1, 20))
    pressed, others = (np.asarray(e.greedy(seen)) for e in (expert, whole_one))
    assert not pressed[:, 2].any()
    np.testing.assert_array_equal(np.delete(pressed, 2, 1), np.delete(others, 2, 1))


# --- What is taught, and what the student is chosen by.


def test_all_see_and_press_what_is_theirs(settings, whole):
    workdir, _ = whole
    made = common.Run(settings, ONE)
    assert made.names == GAMES
    np.testing.assert_array_equal(made.masks, [tasks.get(game).mask for game in GAMES])
    assert made.view == views.part("duel") and made.stored == Vector(74)
    roles = student_json.load_roles(workdir, settings)
    assert [(role.game, role.view, role.actions, role.expert) for role in roles] == [
        ("combat/movement", made.view, (0, 1, 2, 3, 4, 5), "movement"),
        ("combat/aiming", made.view, (7, 8), "aiming"),
        ("combat/clicking", made.view, (6,), "clicking"),
        ("combat/duel", made.view, tuple(range(9)), "movement + aiming + clicking"),
    ]
    log = dataset.open_log(workdir / "dataset")
    assert tuple(log.info["games"]) == GAMES
    assert (log.info["action_shape"], log.info["frame_shape"]) == ([9], [74])


def test_a_student_is_chosen_by_the_duel_alone_and_reported_in_all(settings, whole):
    workdir, result = whole
    made = common.Run(settings, ONE)
    assert made.deciding == [3] and [x.name for x in made.taught] == list(GAMES)
    rows = metrics.read(workdir)
    played = {name for row in rows for name in row if name.startswith(("score/", "retention/"))}
    assert played == {"score/combat/duel", "retention/combat/duel"}
    assert [row["game"] for row in result["games"]] == list(GAMES)
    evaluated = [row for row in rows if "score/combat/duel" in row]
    assert [row["step"] for row in evaluated] == [4, 8]
    values = {row["step"] // 2: row["chosen_by"] for row in evaluated}
    assert result["best_round"] == 4 or values[2] > values[4]
    for row in result["games"]:
        assert row["student"]["episodes"] == row["expert"]["episodes"] == 4
        assert list(row["student"]["facts"]) == list(tasks.get(row["game"]).facts)
        assert row["shared_starts"] == 0


def test_what_is_told_of_a_task_says_something_of_it(whole):
    """Agreement where there are keys, and how far off the angles are where there are some."""
    workdir, result = whole
    told = {
        "combat/movement": {"agreement"},
        "combat/aiming": {"angle_error"},
        "combat/clicking": {"agreement"},
        "combat/duel": {"agreement", "angle_error"},
    }
    rows = [row for row in metrics.read(workdir) if "loss" in row]
    for row in result["games"]:
        game = row["game"]
        compared = {"agreement", "angle_error", "regret"}
        assert compared & row.keys() == told[game]
        for name in compared:
            assert all((f"{name}/{game}" in x) == (name in told[game]) for x in rows)
        assert 0 <= row.get("agreement", 0) <= 1 and 0 <= row.get("angle_error", 0) < 90
        assert all(np.isfinite(x[f"game_loss/{game}"]) for x in rows)


def test_without_the_common_task_skills_alone_are_learnt_from(settings, whole, tmp_path):
    """The duel is played by nobody but to choose the student and to report it."""
    alone = changed(settings, learn={"together": False}, evaluate={"every_rounds": 4})
    result = distill.distill(alone, tmp_path)
    made = common.Run(alone, ONE)
    assert [x.name for x in made.taught] == list(GAMES[:3]) and made.deciding == [3]
    log = dataset.open_log(tmp_path / "dataset")
    assert tuple(log.info["games"]) == GAMES[:3] and len(log.info["experts"]) == 3
    assert [row["game"] for row in result["games"]] == list(GAMES)
    assert "agreement" in result["games"][0] and "agreement" not in result["games"][3]
    rows = metrics.read(tmp_path)
    assert any("score/combat/duel" in row for row in rows)
    assert not any("game_loss/combat/duel" in row for row in rows)
    assert difference(params_of(tmp_path), params_of(whole[0])) > 1e-4
    # What was collected without the duel is not what a run with it learns from.
    given = {"dataset": str(tmp_path / "dataset"), "initial_steps": 8192}
    fixed = changed(settings, collect=FIXED | given)
    with pytest.raises(ValueError, match=r"was collected with other games \(\['combat/movement'"):
        distill.distill(fixed, tmp_path / "other")


# --- What comes of it.


def test_one_skill_of_a_student_is_an_expert_that_sees_the_duels_view(whole):
    workdir, _ = whole
    _, state, network = students.load_student(workdir)
    shown = np.random.default_rng(0).uniform(-1, 1, (6, 1, 74)).astype(np.float32)
    said = np.asarray(networks.forward(network, state.eval_params, views.part("duel").see(shown)))
    for game in GAMES:
        expert = students.student_as_expert(workdir, game)
        assert expert.view == views.part("duel") and expert.outputs == "logits"
        own = np.asarray(expert.judge(expert.params, jnp.asarray(shown)))
        mask = tasks.get(game).mask
        turn = np.radians(27 if game == "combat/duel" else 36)
        angles = np.arange(9) > 6
        wanted = np.where(angles, np.clip(said, -turn, turn), said)
        np.testing.assert_allclose(own[:, mask], wanted[:, mask], rtol=1e-5, atol=1e-6)
    terms = protocols.Terms(3, epsilon=0.0, seed=0, opening_steps=0, max_steps=20)
    scores = measuring.measure_alone(students.student_as_expert(workdir, "combat/duel"), terms)
    assert len(scores.scores) == 3 and list(scores.facts) == list(combat.DUEL.facts)
    with pytest.raises(ValueError, match="distilled 4 games and an expert plays one; name one"):
        students.student_as_expert(workdir)


def test_a_student_of_skills_is_measured_again(whole):
    workdir, _ = whole
    terms = protocols.Terms(2, epsilon=0.0, seed=1, opening_steps=0, max_steps=20)
    rows = evaluating.find(workdir).measure(terms, game="combat/duel")
    assert [row["game"] for row in rows] == ["combat/duel"] and rows[0]["max_steps"] == 20
    assert rows[0]["expert_name"] == "movement + aiming + clicking"


def test_a_students_report_shows_its_fights(whole):
    workdir, _ = whole
    shown, *settings = (workdir / "report.html").read_text().split("<h2>Settings")
    assert settings and shown.count("data:image/gif;base64,") == len(GAMES)
    assert "combat/duel: how games ended" in shown
    for game in GAMES:
        assert f"<figcaption>{game}: expert " in shown


def going_on(workdir):
    """A student, trained further in the duel."""
    return train_settings.Settings(
        games=("combat/duel",),
        algorithm="ppo",
        student=str(workdir),
        num_envs=4,
        rollout_steps=8,
        total_steps=64,
        epochs=1,
        batch_per_game=16,
        learning_rate=1e-3,
        reward_limit=0.0,
        expert_weight=0.5,
        angle_deviation=3.0,
        eval_every=64,
        eval_episodes=2,
        eval_epsilon=0.0,
        final_episodes=3,
        max_steps=25,
    )


def test_who_fights_whole_stands_for_a_team(skilled):
    """Of two who press the same keys there is none."""
    whole, other = skilled("duel", 0), skilled("movement", 1)
    assert finetuning._team((whole, other), "combat/duel").experts == (whole,)
    parts = tuple(skilled(x, 0) for x in ("movement", "aiming", "clicking"))
    assert finetuning._team(parts, "combat/duel").experts == parts


def test_a_student_of_skills_goes_on_by_what_it_scores(whole, tmp_path, capsys):
    """In the duel alone, with its experts beside it; its table says what it began as."""
    workdir, _ = whole
    chosen = going_on(workdir)
    result = training.train(chosen, tmp_path)
    (row,) = result["games"]
    assert {"random", "expert", "student", "network"} <= row.keys()
    assert all(row[who]["episodes"] == 3 for who in ("random", "expert", "student", "network"))
    expert = training.best_as_expert(tmp_path)
    assert expert.view == views.part("duel") and len(expert.log_std) == 9
    taught = params_of(workdir)["params"]
    assert set(taught) < set(expert.params["params"]), "all that it was taught, and a critic"
    moved = {name: difference(x, expert.params["params"][name]) for name, x in taught.items()}
    assert 0 < max(moved.values()) < 0.1
    with pytest.raises(ValueError, match=r"distilled combat/movement, .*, not pong"):
        training.train(dataclasses.replace(chosen, games=("pong",)), tmp_path / "no")
    # Nor is it measured beside another student than the one that it went on from.
    begun = tmp_path / "begun_with.json"
    marks = json.loads(begun.read_text())
    teacher = "expert of combat/duel"
    assert list(marks) == ["student", teacher, f"{teacher} as it is read"]
    begun.write_text(json.dumps(marks | {"student": "another"}))
    asked = protocols.Terms(1, epsilon=0.0, seed=0, opening_steps=0)
    (row,) = evaluating.find(tmp_path).measure(asked)
    assert {"random", "network"} <= row.keys() and not {"expert", "student"} & row.keys()
    said = "note: measured without the student that it went on from: the student has other param"
    assert said in capsys.readouterr().out


def test_a_student_that_is_told_its_task_goes_on_with_its_vector(settings, tmp_path):
    """Beside which the deviations of angles are learnt, and are none of its network."""
    told = changed(settings, network="mlp_task_embedding", learn={"rounds": 2})
    distill.distill(told, tmp_path / "merge", stop_after="train")
    result = training.train(going_on(tmp_path / "merge"), tmp_path / "on")
    taught = params_of(tmp_path / "merge")["params"]["task_embedding"]["embedding"]
    vector = result["embeddings"].pop("combat/duel")
    assert not result["embeddings"] and taught.shape == (4, 8)
    np.testing.assert_allclose(vector, taught[GAMES.index("combat/duel")], atol=0.1)
    critic = (128 + 1) * 128 + (128 + 1) * 64 + (64 + 1)
    layers = (20 + 8 + 1) * 256 + (256 + 1) * 128 + (128 + 1) * 9
    assert result["parameters"] == 8 + layers + critic


# --- Other runs.


def test_what_the_student_sees_is_a_setting_and_is_remembered(settings, whole, tmp_path):
    """The published recipe's: another view, and one squared error over all nine outputs."""
    published = changed(
        settings,
        view="document",
        learn={"loss": "squared_all", "resample_unseen": False, "together": False, "rounds": 2},
        collect=FIXED,
    )
    distill.distill(published, tmp_path, stop_after="train")
    roles = student_json.load_roles(tmp_path, published)
    assert {role.view for role in roles} == {views.part("document")}
    expert = students.student_as_expert(tmp_path, "combat/clicking")
    shown = np.zeros((1, 1, 74), np.float32)
    spoilt = shown.copy()
    spoilt[..., :54] = 1.0  # all but what the recipe shows
    said = [np.asarray(expert.judge(expert.params, jnp.asarray(x))) for x in (shown, spoilt)]
    np.testing.assert_array_equal(*said)
    other = changed(published, view="duel")
    with pytest.raises(ValueError, match="view 'document', this one has 'duel'"):
        distill.distill(other, tmp_path)


def test_skills_may_be_learnt_without_a_common_task(settings, tmp_path):
    """Then the student is chosen by all of them, as in any other suite."""
    apart = changed(settings, together=None)
    distill.distill(apart, tmp_path, stop_after="baselines")
    made = common.Run(apart, ONE)
    assert made.names == GAMES[:3] and made.deciding == [0, 1, 2] and len(made.taught) == 3


def test_a_collected_dataset_holds_all_that_is_played(settings, tmp_path):
    """The duel too; a run learns from it as from its own first steps."""
    fixed = changed(
        settings,
        collect=FIXED,
        learn={"rounds": 2},
    )
    info = data.collect(fixed, tmp_path / "data")
    assert tuple(info["games"]) == GAMES and info["length"] == 32
    learnt = changed(fixed, collect={"dataset": str(tmp_path / "data"), "initial_steps": 8192})
    for name, chosen in (("own", fixed), ("given", learnt)):
        distill.distill(chosen, tmp_path / name, stop_after="train")
    assert difference(params_of(tmp_path / "own"), params_of(tmp_path / "given")) == 0


def test_fights_collected_and_reported_have_seeds_of_their_own(settings):
    made = common.Run(settings, ONE)
    duel = made.lessons[3]
    pools = [
        *(duel.pool(4, purpose) for purpose in (lessons.COLLECT, lessons.SHOW)),
        *(made.protocol(x).pool(duel, range(4)) for x in (lessons.SELECT, lessons.REPORT)),
    ]
    seen = {frame.tobytes() for pool in pools for frame in pool.last.observations}
    assert len(seen) == 16


@pytest.mark.parametrize("health", [1234567.0, 12.3456789, 1e7, 1 / 3 + 1, 10.0])
def test_a_duel_of_any_health_is_found_by_its_name(health):
    """A run knows its common task by that."""
    for reward in ("hits", "level"):
        duel = combat.duel(health, reward)
        again = tasks.get(duel.name)
        assert again.environment.health == health and again == duel
    assert combat.duel(10.0).name == "combat/duel_10hp"


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"together": "pong"},
            "together is pong, of atari, and the experts play combat/movement, combat/aiming, comb",
        ),
        ({"together": "combat/duell"}, "unknown task 'combat/duell': did you mean combat/duel"),
        ({"together": "combat/duel_0hp"}, "combat/duel_0hp: health is 0, expected at least 1"),
        ({"together": "combat/movement"}, "together is combat/movement, which movement plays"),
        ({"view": "lidar"}, "view is 'lidar', expected one of duel, document"),
        (
            {"view": "document", "learn": {"resample_unseen": True}},
            "learn.resample_unseen: what experts can know of is known of view 'duel', and view is ",
        ),
        ({"network": "mlp_task_embedding_x"}, "network is 'mlp_task_embedding_x', expected one"),
        ({"network": "nature"}, "the network looks at screens, and combat/movement shows"),
        (
            {"learn": {"loss": "q_values"}},
            "learn.loss is 'q_values', which is not for outputs of c",
        ),
        ({"learn": {"loss": "mse"}}, "expected one of kl, squared, squared_all"),
        (
            {"learn": {"loss": "kl", "first_loss": "nll", "first_rounds": 2}},
            "learn.first_loss is 'nll', which is not for outputs of combat/movement",
        ),
        ({"learn": {"warm_start": "combat/movement"}}, "is not of the student's shape"),
        ({"learn": {"warm_start": "combat/duel"}}, "is played by several experts together; name"),
        ({"evaluate": {"opening_steps": 30}}, "expected less than "),
    ],
)
def test_runs_that_cannot_be_are_refused_in_one_line(settings, tmp_path, parts, message):
    with pytest.raises(ValueError) as error:
        distill.distill(changed(settings, **parts), tmp_path / "run")
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_experts_that_leave_something_to_nobody_are_refused(settings, tmp_path):
    two = changed(settings, experts=settings.experts[:2])
    with pytest.raises(ValueError, match="no expert presses click, so they cannot play combat/du"):
        distill.distill(two, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_screens_have_one_view_and_no_skills(settings, watcher, tmp_path):
    watcher("pong", 1).save(tmp_path / "pong")
    plain = changed(
        settings,
        experts=(ExpertSource(str(tmp_path / "pong")),),
        together=None,
        network="net3",
        learn={"resample_unseen": False},
    )
    for parts, message in (
        ({"view": "duel"}, "view is 'duel', expected 'experts', or None"),
        ({"learn": {"loss": "squared"}}, "learn.loss is 'squared', which is not for outputs of po"),
        ({"network": "skills"}, "outputs"),
        ({"together": "pong"}, "together is pong, which watcher of pong plays"),
    ):
        with pytest.raises(ValueError) as error:
            distill.distill(changed(plain, **parts), tmp_path / "run")
        assert message in str(error.value) and "\n" not in str(error.value)


def test_a_damaged_role_is_named(whole, tmp_path):
    workdir, _ = whole
    rows = json.loads((workdir / "student.json").read_text())
    rows[2]["actions"] = [0]  # clicking has no walking
    (tmp_path / "student.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"student.json is damaged .*not valid ones of combat/cl"):
        student_json.load_roles(tmp_path, students.load_settings(workdir))
