"""Students of experts that see something else than 84x84: made, read back, exported, measured."""

import dataclasses
import functools
import hashlib
import json
import pathlib
import re
import shutil
import types

import jax
import numpy as np
import pytest
from small_finetunings import going_on

from jaxdistill import lock, meshes, networks, tasks, workdirs
from jaxdistill.experts import export, formats, student
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.experts.student import Role
from jaxdistill.learn import loop, losses, origins, train_settings
from jaxdistill.learn import training as learning
from jaxdistill.play import clips, evaluation, lessons, players, protocols, records, rollouts
from jaxdistill.run import (
    common,
    distill,
    distill_settings,
    evaluating,
    finetuning,
    merge_settings,
    push,
    student_json,
    students,
    training,
)
from jaxdistill.tasks.actions import Choices
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View

pytestmark = pytest.mark.usefixtures("without_page")
SMALL = View(height=64, width=60, stack=2)
# One shape, and not the same picture.
VIEWS = {"pong": SMALL, "breakout": dataclasses.replace(SMALL, resize="linear")}
SETTINGS = distill_settings.Settings(experts=(ExpertSource("x"),))
AGAIN = protocols.Terms(1, epsilon=0.05, seed=1, opening_steps=10)


def an_expert(game, view, seed=0, network="net3"):
    network = networks.create(network)
    params = networks.init(network, jax.random.key(seed), view.shape)
    actions, source = tuple(range(18)), f"{game}.pth"
    return Expert(
        f"tiny {game}", network, params, "q", actions, view=view, game=game, source=source
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on two experts that see little, and where they are."""
    root = tmp_path_factory.mktemp("run")
    for seed, (game, view) in enumerate(VIEWS.items()):
        an_expert(game, view, seed).save(root / game)
    settings = distill_settings.Settings(
        experts=tuple(ExpertSource(str(root / game)) for game in VIEWS),
        network="net3",
        collect=distill_settings.Collect(
            num_envs=4, initial_steps=64, steps_per_round=32, window_steps=128
        ),
        learn=distill_settings.Learn(rounds=1, updates_per_round=1, batch_per_game=4),
        evaluate=distill_settings.Evaluate(
            every_rounds=1, select_episodes=1, report_episodes=2, max_steps=20
        ),
    )
    distill.distill(settings, root / "student")
    return root


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # by huggingface_hub
def test_a_run_is_pushed_with_its_report_and_its_clips(run, server):
    address = push.push(run / "student", "me/run")
    repository = server.repositories["me/run"]
    files = repository.commits[address.partition("@")[2]]
    clips_of = {f"clips/{game}.gif" for game in VIEWS}
    assert (
        set(files) == {"policy.json", "policy.safetensors", "README.md", "report.html"} | clips_of
    )
    assert files["report.html"] == (run / "student" / "report.html").read_bytes()
    for name in clips_of:
        assert files[name].startswith(b"GIF8") and len(files[name]) > 1000
        assert f"![expert beside student]({name})" in files["README.md"].decode()
    assert b"| pong | tiny pong | pong.pth |" in files["README.md"]
    rows = json.loads((run / "student" / "result.json").read_text())["games"]
    assert [row["expert_source"] for row in rows] == [f"{game}.pth" for game in VIEWS]
    read, own = student.read("hf://me/run"), students.read(run / "student")
    assert read.roles == own.roles and [x.source for x in read.roles] == [
        "pong.pth",
        "breakout.pth",
    ]
    assert jax.tree.all(jax.tree.map(np.array_equal, read.params, own.params))


@pytest.fixture
def alone(run, tmp_path):
    """The run without its experts."""
    return shutil.copytree(run / "student", tmp_path / "alone")


def stacks(view, count=3):
    return np.random.default_rng(0).integers(0, 256, (count, *view.shape)).astype(np.uint8)


def test_a_student_sees_what_its_experts_see_and_needs_them_no_more(run, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(run / "student", moved)
    _, state, network = students.load_student(run / "student")
    config = json.loads((moved / "config.json").read_text())
    for source in config["experts"]:
        source["path"] = str(tmp_path / "gone" / source["path"][-4:])
    (moved / "config.json").write_text(json.dumps(config))
    for index, (game, view) in enumerate(VIEWS.items()):
        expert = students.student_as_expert(moved, game)
        assert expert.view == view and expert.game == game
        assert expert.name == f"student of tiny {game}"
        said = networks.forward(network, state.eval_params, stacks(view), index)
        np.testing.assert_allclose(expert.suite_outputs(stacks(view)), said, rtol=1e-5, atol=1e-6)
    said = (
        f"the student of {moved} learnt pong from {tmp_path}/gone/pong, where nothing is now; put "
        f"it back, call the program that made this run with the path where it is now, or export "
    )
    for asks in (
        lambda: evaluating.find(moved).measure(AGAIN),
        lambda: finetuning.to_go_on_from(moved, ["pong"]),
    ):
        with pytest.raises(FileNotFoundError, match=re.escape(said)):
            asks()
    rows = _json(moved / "student.json")
    unknown = [{k: x for k, x in row.items() if k != "expert_params"} for row in rows]
    (moved / "student.json").write_text(json.dumps(unknown))  # as an earlier version wrote it
    with pytest.raises(FileNotFoundError, match=r"moved/config\.json where it is now, or"):
        evaluating.find(moved).measure(AGAIN)
    (moved / "student.json").unlink()  # as runs of before it was written
    with pytest.raises(ValueError, match=r"no student.json, so its experts are asked: .*gone"):
        students.load_student(moved)
    (run / "student" / "student.json").rename(tmp_path / "aside")
    try:
        assert students.student_as_expert(run / "student", "breakout").view == VIEWS["breakout"]
    finally:
        (tmp_path / "aside").rename(run / "student" / "student.json")


@pytest.mark.parametrize("network", ["net3", "dueling_small", "multi_task"])
def test_a_valid_action_that_the_expert_had_no_output_for_is_never_played(network):
    """A student of Breakout that learnt no RIGHT (3), alone in a file that says no such thing."""
    taught = dataclasses.replace(an_expert("breakout", SMALL), actions=tuple(range(18)))
    lacking = taught.network.clone(num_outputs=3)
    expert = Expert("x", lacking, {}, "q", (1, 0, 4), view=SMALL, game="breakout")
    (role,) = student_json.roles_of(SETTINGS, [expert])
    assert role.actions == (0, 1, 4)
    assert students.untaught(role, Rules()) == ["RIGHT"]

    whole = networks.for_tasks(networks.create(network), [tasks.get("breakout")])
    params = networks.init(whole, jax.random.key(0), SMALL.shape)
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda x: generator.normal(0, 0.05, x.shape).astype(np.float32), params)
    alone, params, actions = networks.for_one_game(whole, params, 0)
    params["params"]["action"]["bias"][actions.index(3)] += 9
    before = Expert("x", alone, params, "q", actions, view=SMALL, game="breakout")
    mended = student._never_untaught(params, actions, role)
    after = dataclasses.replace(before, params=mended)
    shown = stacks(SMALL, 32)
    old, new = (np.asarray(expert.suite_outputs(shown)) for expert in (before, after))
    assert (before.greedy(shown) == 3).all()
    kept = old.copy()
    kept[:, 3] = old[:, [0, 1, 4]].mean(axis=1) - 1
    best = np.array([0, 1, 4])[kept[:, [0, 1, 4]].argmax(axis=1)]
    np.testing.assert_array_equal(after.greedy(shown), best)
    # All the others are as they were, dueling or not.
    np.testing.assert_allclose(new[:, [0, 1, 4]], old[:, [0, 1, 4]], rtol=1e-4, atol=1e-5)
    same = dataclasses.replace(role, actions=(0, 1, 3, 4))
    assert student._never_untaught(params, actions, same) is params
    # Whoever plays has no such output, and the others are as they were all the same.
    own, weights, left = student._taught(alone, params, actions, role, Rules())
    assert left == tuple(action for action in actions if action != 3)
    played = dataclasses.replace(before, network=own, params=weights, actions=left)
    assert np.flatnonzero(played.mask).tolist() == [0, 1, 4]
    said = np.asarray(played.suite_outputs(shown))
    np.testing.assert_allclose(said[:, [0, 1, 4]], old[:, [0, 1, 4]], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(played.greedy(shown), best)
    assert student._taught(alone, params, actions, same, Rules()) == (alone, params, actions)


@pytest.mark.parametrize(
    ("loss", "held", "outputs"),
    [
        *((loss, ("q", "q"), "q") for loss in ("q_kl", "hinton_kl", "advantage_mse", "q_values")),
        *((loss, ("q", "q"), "logits") for loss in ("kl", "nll", "standardised_mse")),
        *((loss, ("logits", "logits"), "logits") for loss in ("q_kl", "hinton_kl", "kl")),
        ("q_kl", ("q", "logits"), "logits"),
    ],
)
def test_a_student_that_ends_on_the_scale_of_q_values_holds_q_values(tmp_path, loss, held, outputs):
    """It says so without its experts. Of a run that did not write it down they are asked."""
    experts = [
        dataclasses.replace(an_expert(game, SMALL), outputs=kind)
        for game, kind in zip(VIEWS, held, strict=True)
    ]
    sources = tuple(ExpertSource(str(tmp_path / game)) for game in VIEWS)
    settings = dataclasses.replace(
        SETTINGS, experts=sources, learn=distill_settings.Learn(loss=loss)
    )
    student_json.claim_roles(tmp_path, settings, experts)
    assert students.outputs_of(tmp_path, settings) == outputs
    assert student_json.load_roles(tmp_path, settings) == student_json.roles_of(settings, experts)
    path = tmp_path / "student.json"
    rows = [{k: x for k, x in row.items() if k != "expert_outputs"} for row in _json(path)]
    path.write_text(json.dumps(rows))
    of_q = losses.LOSSES[loss].of_q
    assert students.outputs_of(tmp_path, settings) == (outputs if of_q else "logits"), "gone"
    for expert in experts:
        expert.save(tmp_path / expert.game)
    assert students.outputs_of(tmp_path, settings) == outputs
    path.unlink()
    assert students.outputs_of(tmp_path, settings) == outputs


def _json(path):
    return json.loads(path.read_text())


def test_experts_that_have_become_others_are_refused(run):
    settings = students.load_student(run / "student").settings
    one, two = (an_expert(game, view, seed) for seed, (game, view) in enumerate(VIEWS.items()))
    student_json.claim_roles(run / "student", settings, [one, two])
    with pytest.raises(ValueError, match="student of pong, breakout, and its experts now play"):
        student_json.claim_roles(run / "student", settings, [one])
    for changed in (dataclasses.replace(two, view=SMALL), an_expert("breakout", View())):
        with pytest.raises(ValueError, match=r"has a student that sees .* now stands for View\("):
            student_json.claim_roles(run / "student", settings, [one, changed])
    fewer = Expert(
        "tiny", two.network.clone(num_outputs=3), {}, "q", (0, 1, 4), view=two.view, game="breakout"
    )
    with pytest.raises(ValueError, match=r"learns actions \(0, 1, 3, 4\) in breakout, .*tiny now"):
        student_json.claim_roles(run / "student", settings, [one, fewer])
    # The programs ask: a finished run called again, and a student measured again.
    expert = run / "breakout" / "expert.json"
    standing = expert.read_text()
    expert.write_text(standing.replace('"resize": "linear"', '"resize": "area"'))
    try:
        with pytest.raises(ValueError, match="now stands for"):
            distill.distill(settings, run / "student")
        with pytest.raises(ValueError, match="now stands for"):
            evaluating.find(run / "student").measure(AGAIN)
    finally:
        expert.write_text(standing)


@pytest.fixture
def other_weights(run):
    """Breakout's expert, trained on since; afterwards it is what it was."""
    shutil.move(run / "breakout", run / "before")
    an_expert("breakout", VIEWS["breakout"], seed=7).save(run / "breakout")
    yield
    shutil.rmtree(run / "breakout")
    shutil.move(run / "before", run / "breakout")


def test_experts_of_other_weights_are_neither_measured_nor_taught_by(run, alone, other_weights):
    """Nor is a run gone on with; of a run that does not say who they were nothing is known."""
    said = r"^the student of .* learnt breakout from breakout\.pth, which has other weights now"
    settings = students.load_student(alone).settings
    for asks in (
        lambda: evaluating.find(alone).measure(AGAIN),
        lambda: finetuning.to_go_on_from(alone, ["breakout"]),
        lambda: distill.distill(settings, alone),
    ):
        with pytest.raises(ValueError, match=said) as error:
            asks()
        assert "\n" not in str(error.value)
    assert students.read(alone).games == list(VIEWS), "which needs none"
    path = alone / "student.json"
    rows = [{k: x for k, x in row.items() if k != "expert_params"} for row in _json(path)]
    path.write_text(json.dumps(rows))  # as an earlier version wrote it
    assert len(evaluating.find(alone).measure(AGAIN)) == 2
    distill.distill(settings, alone)
    assert _json(path) == rows


def test_experts_that_are_read_otherwise_are_neither_measured_nor_taught_by(run, alone):
    """As where a spec's activation was changed: the weights are those it learnt from."""
    file = run / "breakout" / "expert.json"
    standing = file.read_text()
    expert = Expert.load(run / "breakout")
    turned = dataclasses.replace(expert, network=expert.network.clone(activation="elu"))
    turned.save(run / "breakout", replace=True)
    said = r"learnt breakout from breakout\.pth, which is read as another network now, or with"
    try:
        for asks in (
            lambda: evaluating.find(alone).measure(AGAIN),
            lambda: finetuning.to_go_on_from(alone, ["breakout"]),
        ):
            with pytest.raises(ValueError, match=said):
                asks()
        path = alone / "student.json"
        rows = [{k: x for k, x in row.items() if k != "expert_read_as"} for row in _json(path)]
        path.write_text(json.dumps(rows))  # as an earlier version wrote it
        assert finetuning.to_go_on_from(alone, ["breakout"]).teachers["breakout"].game == "breakout"
    finally:
        expert.save(run / "breakout", replace=True)
    assert file.read_text() == standing


def test_until_something_is_learnt_an_expert_may_become_another(tmp_path):
    """As where a spec was mended since it played far below its claim."""
    settings = dataclasses.replace(SETTINGS, experts=(ExpertSource(str(tmp_path / "x.pth")),))
    (tmp_path / "x.pth").write_bytes(b"one")
    marks = []
    for seed in (0, 1):
        student_json.claim_roles(tmp_path, settings, [an_expert("pong", SMALL, seed)])
        (row,) = _json(tmp_path / "student.json")
        marks.append(row["expert_params"])
        assert row["expert_params"] == players.fingerprint(an_expert("pong", SMALL, seed).params)
        assert row["expert_sha256"] == hashlib.sha256(b"one").hexdigest()
    assert marks[0] != marks[1]
    # One that is followed becomes another all the time.
    following = dataclasses.replace(
        settings, collect=dataclasses.replace(settings.collect, follow=True)
    )
    student_json.claim_roles(tmp_path, following, [an_expert("pong", SMALL)])
    (row,) = _json(tmp_path / "student.json")
    assert not {"expert_params", "expert_read_as", "expert_sha256"} & row.keys()
    student_json.check_teachers(tmp_path, [an_expert("pong", SMALL, 2)])


def test_once_something_is_learnt_an_expert_s_outputs_mean_what_they_meant(tmp_path):
    """Else the temperature that it is learnt from at would change within the run."""
    expert = an_expert("pong", SMALL)
    turned = dataclasses.replace(expert, outputs="logits")
    for began in (expert, turned):  # until then a spec may be mended
        student_json.claim_roles(tmp_path, SETTINGS, [began])
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    student_json.check_same(tmp_path, SETTINGS, [turned])
    said = r"learnt pong from pong\.pth, which has outputs 'q' now and had 'logits' then; put"
    with pytest.raises(ValueError, match=said):
        student_json.check_same(tmp_path, SETTINGS, [expert])
    path = tmp_path / "student.json"
    rows = [{k: x for k, x in row.items() if k != "expert_outputs"} for row in _json(path)]
    path.write_text(json.dumps(rows))  # as an earlier version wrote it
    student_json.check_same(tmp_path, SETTINGS, [expert])


def test_what_is_exported_says_what_the_experts_files_held_when_it_learnt(run, tmp_path):
    export.export_expert(an_expert("pong", SMALL), tmp_path / "pong.pth")
    held = hashlib.sha256((tmp_path / "pong.pth").read_bytes()).hexdigest()
    settings = students.load_student(run / "student").settings
    settings = dataclasses.replace(settings, experts=(ExpertSource(str(tmp_path / "pong.pth")),))
    distill.distill(settings, tmp_path / "run", stop_after="train")
    (tmp_path / "pong.pth").write_bytes(b"trained on")
    (told,) = students.read(tmp_path / "run").card["experts"]
    assert told["sha256"] == held


def test_experts_that_have_moved_are_the_same_experts(run, alone, tmp_path, contents):
    """A run goes on with them, and says where they are now; others are refused by their place."""
    for game in VIEWS:
        shutil.copytree(run / game, tmp_path / "moved" / game)
    settings = students.load_student(alone).settings

    def at(folder, rounds):
        return dataclasses.replace(
            settings,
            experts=tuple(ExpertSource(str(folder / game)) for game in VIEWS),
            learn=dataclasses.replace(settings.learn, rounds=rounds),
        )

    result, before = _json(alone / "result.json"), contents(alone)
    assert distill.distill(settings, alone) == result
    with lock.one_writer(alone, "config.json"):  # as where it may not be written to, it is read
        before[lock.NAME] = contents(alone)[lock.NAME]
        assert distill.distill(at(tmp_path / "moved", 1), alone) == result
    assert contents(alone) == before
    # Where it may be, it is said where they are now, and who asks them next finds them.
    assert distill.distill(at(tmp_path / "moved", 1), alone) == result
    assert students.load_settings(alone) == at(tmp_path / "moved", 1)
    config = (alone / "config.json").stat().st_mtime_ns
    assert distill.distill(at(tmp_path / "moved", 1), alone) == result
    assert (alone / "config.json").stat().st_mtime_ns == config
    distill.distill(at(tmp_path / "moved", 2), alone, stop_after="train")
    assert students.load_settings(alone).experts == at(tmp_path / "moved", 2).experts
    shutil.rmtree(tmp_path / "moved" / "pong")
    an_expert("pong", SMALL, seed=7).save(tmp_path / "other" / "pong")
    shutil.copytree(run / "breakout", tmp_path / "other" / "breakout")
    with pytest.raises(ValueError, match=r"holds a run with experts\.0\.path .*moved/pong', this"):
        distill.distill(at(tmp_path / "other", 2), alone)


def test_an_expert_may_move_with_its_spec(tmp_path):
    """Both are known by how the expert is read, which an earlier version did not write down."""
    run, expert = tmp_path / "run", an_expert("pong", SMALL)

    def at(folder):
        source = ExpertSource(str(tmp_path / folder / "x.pth"), str(tmp_path / folder / "x.toml"))
        return dataclasses.replace(SETTINGS, experts=(source,))

    before, moved = at("before"), at("moved")
    workdirs.claim(run, before)
    student_json.claim_roles(run, before, [expert])
    both = ["experts.0.path", "experts.0.spec"]
    assert student_json.relocated_fields(run, moved, [expert]) == both
    otherwise = (
        {"network": expert.network.clone(activation="elu")},
        {"outputs": "logits"},
        {"view": dataclasses.replace(SMALL, crop=(34, 194))},
    )
    for fields in otherwise:
        another = dataclasses.replace(expert, **fields)
        assert student_json.relocated_fields(run, moved, [another]) == both[:1]
    workdirs.claim(run, moved, tuple(both))
    student_json.claim_paths(run, moved)
    assert students.load_settings(run) == moved

    (tmp_path / "moved").mkdir()
    said = f"learnt pong from {tmp_path}/moved/x.pth and {tmp_path}/moved/x.toml, where nothing is"
    with pytest.raises(FileNotFoundError, match=re.escape(said)):
        student_json.check_paths(run, moved)
    (tmp_path / "moved" / "x.pth").touch()
    said = f"from {tmp_path}/moved/x.toml, where nothing is now; put it back, call the program that"
    with pytest.raises(FileNotFoundError, match=re.escape(said)):
        student_json.check_paths(run, moved)
    path = run / "student.json"
    rows = [{k: x for k, x in row.items() if k != "expert_read_as"} for row in _json(path)]
    path.write_text(json.dumps(rows))  # as an earlier version wrote it
    assert student_json.relocated_fields(run, before, [expert]) == both[:1]
    with pytest.raises(FileNotFoundError, match=r"run/config\.json where it is now, or export"):
        student_json.check_paths(run, moved)
    (tmp_path / "moved" / "x.toml").touch()
    student_json.check_paths(run, moved)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '[{"game": 3}]',
        '[{"game": "pong", "view": {"height": "84"}}]',
        '[{"game": "pong", "view": {}, "actions": [6], "expert": "x"}]',
    ],
)
def test_a_damaged_student_json_is_named(alone, text):
    (alone / "student.json").write_text(text)
    with pytest.raises(ValueError, match=r"student.json is damaged .*remove it"):
        students.load_student(alone)


def test_a_run_of_a_task_or_a_loss_that_was_not_imported_is_not_damaged(alone):
    """A task and a loss of one's own, of a file that is not imported here."""
    hint = "of your own: give --import=FILE"
    roles = json.loads((alone / "student.json").read_text())
    roles[0]["game"] = "corridor/short"
    (alone / "student.json").write_text(json.dumps(roles))
    with pytest.raises(tasks.UnknownTask, match=hint) as error:
        students.load_student(alone)
    assert "student.json: unknown task 'corridor/short'" in str(error.value)
    assert "damaged" not in str(error.value) and "\n" not in str(error.value)
    config = json.loads((alone / "config.json").read_text())
    config["learn"]["loss"] = "mine"
    (alone / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"config.json.learn.loss is 'mine', .*a loss {hint}"):
        students.load_settings(alone)


def test_an_expert_of_a_task_that_was_not_imported_is_not_damaged(tmp_path):
    an_expert("pong", SMALL).save(tmp_path / "expert")
    path = tmp_path / "expert" / "expert.json"
    path.write_text(path.read_text().replace('"pong"', '"corridor/short"'))
    with pytest.raises(tasks.UnknownTask, match="a task of your own: give --import=FILE") as error:
        Expert.load(tmp_path / "expert")
    assert str(error.value).startswith(f"{tmp_path / 'expert'}: unknown task")
    settings = dataclasses.replace(SETTINGS, experts=(ExpertSource(str(tmp_path / "expert")),))
    with pytest.raises(tasks.UnknownTask):
        student_json.load_roles(tmp_path, settings)


def test_a_loss_that_breaks_its_contract_is_refused_by_its_name(monkeypatch):
    mine = {"scalar": losses.Loss(lambda *x: losses.mse(*x).mean()), "plain": losses.mse}
    monkeypatch.setattr(losses, "LOSSES", losses.LOSSES | mine)
    experts = [an_expert("pong", SMALL)]
    for name, said in (("scalar", r"gives \(\) of float32"), ("plain", "is a function")):
        for learn in (
            types.SimpleNamespace(loss=name, first_loss=None),
            types.SimpleNamespace(loss="kl", first_loss=name),
        ):
            field = "loss" if learn.loss == name else "first_loss"
            with pytest.raises(ValueError, match=rf"^learn\.{field} '{name}' {said}, expected"):
                common._check_outputs(types.SimpleNamespace(learn=learn), experts)


def test_it_is_measured_again(run):
    rows = evaluating.find(run / "student").measure(AGAIN)
    assert [row["game"] for row in rows] == list(VIEWS)
    assert all(row["student"]["mean_steps"] <= 20 for row in rows)


@pytest.mark.parametrize("convention", ["merged", "expert"])
@pytest.mark.parametrize("game", VIEWS)
def test_an_exported_file_sees_and_plays_the_same(run, tmp_path, game, convention):
    path, before = tmp_path / "file.pth", students.student_as_expert(run / "student", game)
    if convention == "expert":
        export.export_expert(before, path)
        after = formats.load(path)
    else:
        _, state, network = students.load_student(run / "student")
        export.export(state.eval_params, network, path, views=VIEWS)
        after = formats.load(path, game=game)
        with pytest.raises(ValueError, match=r"sees its games in different ways.*pong, breakout"):
            formats.load(path)
    assert after.view == before.view == VIEWS[game] and after.game == game
    said = [np.asarray(expert.suite_outputs(stacks(VIEWS[game]))) for expert in (before, after)]
    np.testing.assert_array_equal(*said)
    played = [
        clips.record(
            lessons.of_experts([expert], 0)[0],
            rollouts.expert_actor([expert], epsilon=0.5),
            seed=3,
            steps=30,
        )
        for expert in (before, after)
    ]
    assert len(played[0].frames) > 20 and played[0].score == played[1].score
    np.testing.assert_array_equal(played[0].frames, played[1].frames)


def test_the_program_says_what_other_readers_will_not_know(program, run, tmp_path):
    out = tmp_path / "merged.pth"
    code, said, err = program("export", f"--workdir={run / 'student'}", f"--out={out}")
    assert code == 0, err
    *notes, last = said.splitlines()
    assert last == f"saved in {out}"
    assert len(notes) == 2 and all(note.startswith("note: other readers will") for note in notes)
    assert "resize='area'" in notes[0] and "resize='linear'" in notes[1]
    assert formats.load(out, game="breakout").view == VIEWS["breakout"]


def test_training_goes_on_from_an_expert_that_sees_little(tmp_path):
    an_expert("pong", SMALL, network="net3").save(tmp_path / "expert")
    settings = train_settings.Settings(
        games=("pong",),
        network="net3",
        num_envs=4,
        rollout_steps=8,
        total_steps=32,
        batch_per_game=16,
        eval_every=32,
        eval_episodes=1,
        final_episodes=1,
        max_steps=60,
        experts=(ExpertSource(str(tmp_path / "expert")),),
    )
    loop.train(settings, tmp_path / "run")
    trained = Expert.load(tmp_path / "run" / "experts" / "pong")
    assert trained.view == SMALL
    assert np.isfinite(trained.suite_outputs(stacks(SMALL))).all()


def test_controllers_of_a_run_by_other_rules_are_read_back(tmp_path, monkeypatch):
    """With all 18 actions, of which Breakout has 4: one controller's outputs."""
    small = networks.create("net3").clone(hidden=(8,), action_hidden=(6,), controllers=True)
    monkeypatch.setitem(networks.NETWORKS, "net3", small)
    an_expert("breakout", SMALL, network="nature").save(tmp_path / "expert")
    settings = dataclasses.replace(
        SETTINGS,
        experts=(ExpertSource(str(tmp_path / "expert")),),
        network="net3",
        rules=Rules(full_actions=True),
        collect=distill_settings.Collect(
            num_envs=4, initial_steps=64, steps_per_round=0, window_steps=64
        ),
        learn=distill_settings.Learn(rounds=1, updates_per_round=1, batch_per_game=4),
        evaluate=distill_settings.Evaluate(select_episodes=1, report_episodes=2, max_steps=20),
    )
    distill.distill(settings, tmp_path / "run", stop_after="train")
    _, state, network = students.load_student(tmp_path / "run")
    assert network.game_actions == (tuple(range(18)),)
    said = np.asarray(networks.forward(network, state.eval_params, stacks(SMALL), 0))
    expert = students.student_as_expert(tmp_path / "run")
    assert expert.mask.all() and said.any(axis=0).all()
    np.testing.assert_allclose(expert.suite_outputs(stacks(SMALL)), said, rtol=1e-5, atol=1e-6)


def test_experts_of_a_run_play_a_training_of_other_rules_by_its_rules(tmp_path):
    an_expert("pong", SMALL).save(tmp_path / "expert")
    taught = Expert.load(tmp_path / "expert").under(Rules(full_actions=True))
    task = tasks.under(tasks.get("pong"), Rules(noop_max=1))
    played = training._as_played(taught, task)
    assert (taught.mask.sum(), played.mask.sum(), played.task) == (18, 6, task)


# --- A student that was exported.


@pytest.fixture(scope="module")
def exported(run):
    """The run's student in a directory of its own."""
    students.read(run / "student").save(run / "exported")
    return run / "exported"


def test_an_exported_student_is_measured_as_in_its_run(run, exported):
    """The same games; its experts as its card has them, where they were measured so."""
    terms = protocols.Terms(2, epsilon=0.05, seed=0, opening_steps=10, max_steps=20)
    alone = evaluating.find(exported)
    told = json.loads((run / "student" / "result.json").read_text())["games"]
    rows = alone.measure(terms)
    assert [(row["game"], row["expert"]) for row in rows] == [
        (row["game"], row["expert"]) for row in told
    ]
    assert all("retention" in row for row in rows)
    # Games that are long enough to score in.
    longer = dataclasses.replace(terms, max_steps=90)
    rows = alone.measure(longer)
    wanted = evaluating.find(run / "student").measure(longer)
    for who in ("student", "random"):
        assert [row[who] for row in rows] == [row[who] for row in wanted]
        assert any(row[who]["mean"] for row in rows)
    assert alone.max_steps == 20
    shorter = dataclasses.replace(terms, max_steps=15)
    (row,) = alone.measure(shorter, game="breakout")
    assert row["game"] == "breakout" and not {"expert", "retention"} & row.keys()
    with pytest.raises(ValueError, match="pong, breakout, not freeway"):
        alone.measure(terms, game="freeway")


def test_so_is_one_whose_expert_lacks_a_valid_action(tmp_path):
    """Also where chance plays, in its place and in openings: by what it was taught alone."""
    taught = an_expert("breakout", SMALL)
    network, params = networks.with_outputs(taught.network, taught.params, [0, 1, 4])
    fewer = dataclasses.replace(taught, network=network, params=params, actions=(0, 1, 4))
    fewer.save(tmp_path / "expert")
    settings = dataclasses.replace(
        SETTINGS,
        experts=(ExpertSource(str(tmp_path / "expert")),),
        network="net3",
        collect=distill_settings.Collect(
            num_envs=4, initial_steps=64, steps_per_round=0, window_steps=64
        ),
        learn=distill_settings.Learn(rounds=1, updates_per_round=1, batch_per_game=4),
        evaluate=distill_settings.Evaluate(select_episodes=1, report_episodes=2, max_steps=60),
    )
    distill.distill(settings, tmp_path / "run", stop_after="train")
    students.read(tmp_path / "run").save(tmp_path / "exported")
    terms = protocols.Terms(4, epsilon=0.5, seed=0, opening_steps=30, max_steps=120)
    (wanted,) = evaluating.find(tmp_path / "run").measure(terms)
    (row,) = evaluating.find(tmp_path / "exported").measure(terms)
    assert row["student"] == wanted["student"] and row["random"] == wanted["random"]


def test_what_a_card_says_counts_where_play_is_measured_so(exported):
    alone, pong = students.read(exported), tasks.get("pong")
    how = protocols.Terms(2, epsilon=0.05, seed=0, opening_steps=10, max_steps=20).protocol_fields
    told = alone.expert_scores(pong, how)
    assert told == alone.card["measured"]["games"][0]["expert"]
    for name, value in (
        *(("epsilon", 0.0), ("opening_steps", 0), ("opening_by", "expert"), ("max_steps", None)),
    ):
        assert alone.expert_scores(pong, how | {name: value}) is None
    sticky = dataclasses.replace(pong.rules, repeat_action_probability=0.25)
    assert alone.expert_scores(pong.under(sticky), how) is None
    assert alone.expert_scores(tasks.get("qbert"), how) is None
    measured = alone.card["measured"]
    row = measured["games"][0]

    def with_expert(expert):
        games = [{**row, "expert": expert}]
        card = {"measured": {**measured, "games": games}}
        return dataclasses.replace(alone, card=card).expert_scores(pong, how)

    assert with_expert(told) == told == with_expert({**told, "facts": {"x": 1}})
    for damaged in (
        *(None, [], {}, {**told, "mean": "12"}, {**told, "mean": float("nan")}),
        *({**told, "interval": [1.0]}, {**told, "interval": 3}, {**told, "episodes": None}),
        {**told, "mean": 10**25},
    ):
        assert with_expert(damaged) is None
    for card in ({}, {"measured": 3}, {"measured": {"games": [3]}}, {"made": []}):
        odd = dataclasses.replace(alone, card=card)
        assert odd.expert_scores(pong, how) is odd.max_steps is None
        assert odd.scores == odd.made == {}
    huge = {**row, "student": {**row["student"], "mean": 10**400}}
    card = {"measured": {**measured, "games": [huge]}}
    assert dataclasses.replace(alone, card=card).scores == {}
    fields = alone.roles[0].to_dict()
    with pytest.raises(ValueError, match="are not valid ones of pong"):
        Role.from_dict(fields | {"actions": [float(x) for x in fields["actions"]]})
    assert list(alone.scores) == list(VIEWS) and alone.made["method"] == "distillation"


def test_an_exported_student_goes_on_without_its_experts(exported, tmp_path):
    settings = train_settings.Settings(
        games=("breakout", "pong"),
        algorithm="ppo",
        student=str(exported),
        num_envs=2,
        rollout_steps=4,
        total_steps=8,
        batch_per_game=8,
        epochs=1,
        max_steps=20,
        eval_every=8,
        eval_episodes=1,
        eval_epsilon=0.05,
        final_episodes=2,
        expert_weight=0.0,
    )
    with pytest.raises(ValueError, match=r"expert_weight is 1, and student of .*exported came"):
        training.train(dataclasses.replace(settings, expert_weight=1.0), tmp_path / "none")
    assert not (tmp_path / "none").exists()
    result = training.train(settings, tmp_path / "on")
    told = {row["game"]: row["expert"] for row in students.read(exported).card["measured"]["games"]}
    for row in result["games"]:
        assert row["expert"] == told[row["game"]]
        assert {"random", "student", "network"} <= row.keys()
    with pytest.raises(ValueError, match="distilled pong, breakout, not freeway"):
        finetuning.to_go_on_from(exported, ["freeway"])
    assert finetuning.to_go_on_from(exported, ["pong"]).teachers == {}


@pytest.fixture
def lacking(tmp_path):
    """An exported student of sticky Breakout that likes RIGHT (3), which it was not taught."""
    network = networks.create("net3")
    params = jax.device_get(networks.init(network, jax.random.key(2), SMALL.shape))
    params = jax.tree.map(np.array, params)
    params["params"]["action"]["bias"][3] += 9
    role = Role("breakout", SMALL, (0, 1, 4), "three")
    made = student.Student(
        "it", network, params, "q", (role,), Rules(repeat_action_probability=0.25)
    )
    made.save(tmp_path / "lacking")
    return tmp_path / "lacking"


def test_a_network_is_measured_as_it_was_chosen_whatever_its_student_s_experts_see():
    """Its starts, and those of random play, are of the side that its choice has not touched."""
    seeing = dataclasses.replace(SMALL, crop=(8, 196), gray="mean", steps=((94, 60),))
    network, teacher = (an_expert("breakout", view, 1) for view in (SMALL, seeing))
    student = origins.Pretrained(
        "it", network.network, network.params, "q", SMALL, {"breakout": teacher}
    )
    measure = functools.partial(
        training.measure,
        [network],
        mesh=meshes.create(),
        known=records.Records(),
    )
    terms = protocols.Terms(3, epsilon=0.5, seed=0, opening_steps=10, max_steps=60)
    (alone,), (beside,) = measure(terms), measure(terms, student=student)
    assert beside.keys() - alone.keys() == {"expert", "student"}
    assert [beside[who] for who in ("random", "network")] == [
        alone[who] for who in ("random", "network")
    ]
    assert alone["network"]["mean"] != alone["random"]["mean"]
    # People have played whole games.
    assert alone["human_normalised"] is None
    (whole,) = measure(dataclasses.replace(terms, episodes=1, max_steps=None))
    mean = whole["network"]["mean"]
    assert whole["human_normalised"] == tasks.get("breakout").human_normalised(mean)


def test_a_student_goes_on_with_the_actions_that_it_was_taught(lacking, tmp_path):
    """In training, where it is chosen and where it is reported; its expert has no others."""
    settings, out = going_on(lacking), tmp_path / "on"
    (row,) = training.train(settings, out)["games"]
    with learning.Training.of(
        training.load_settings(out),
        out,
        student=finetuning.to_go_on_from(lacking, ["breakout"]),
    ) as resumed:
        log = resumed._collector.log
        act = resumed._evaluate_act
        shown = (stacks(SMALL, 40),)
        chosen, _ = act(resumed.best_params(), shown, jax.random.key(0), (0,), (np.arange(40),))
    assert log.size == 8 and set(log.flat) <= {0, 1, 4}
    assert set(np.asarray(chosen[0])) <= {0, 1, 4}
    expert = Expert.load(out / "experts" / "breakout")
    assert expert.actions == (0, 1, 4) and expert.network.num_outputs == 3
    played = [json.loads(path.read_text()) for path in (out / "played").iterdir()]
    assert [game["of"]["valid"] for game in played] == [[0, 1, 4]] * 3  # it, the student, random
    # The report's student plays as the student of a distillation does: by what it was taught.
    it = finetuning.to_go_on_from(lacking, ["breakout"])
    (task,) = training.load_settings(out).tasks
    masks = it.masks([task])
    assert np.flatnonzero(masks[0]).tolist() == [0, 1, 4]
    choices = Choices(task.suite.form, jax.numpy.asarray(masks), [task.number])
    act = rollouts.network_actor(it.network, choices, epsilon=0.05)
    random = rollouts.random_policy(choices)
    opening = protocols.Opening(random, 10, random, protocols.REPORTING)
    protocol = protocols.Protocol(lessons.REPORT, 0, opening, 40)
    (scores,) = evaluation.measure(
        lessons.of_tasks([task], 0, [SMALL]),
        functools.partial(act, it.params),
        protocol,
        2,
        meshes.create(),
    )
    assert row["student"] == scores.summary()


def test_a_student_goes_on_by_the_rules_that_it_was_distilled_under(lacking, tmp_path, capsys):
    settings = dataclasses.replace(going_on(lacking), total_steps=16)
    training.train(settings, tmp_path / "sticky", stop_at=1)
    said = f"games are played as student of {lacking} was distilled, with repeat_action_probability"
    assert capsys.readouterr().out.count(f"note: {said} 0.25 (not 0.0)\n") == 1
    sticky = Rules(repeat_action_probability=0.25)
    assert training.load_settings(tmp_path / "sticky").rules == sticky
    training.train(settings, tmp_path / "sticky")  # the same command goes on
    assert Expert.load(tmp_path / "sticky" / "experts" / "breakout").rules == sticky
    # Others are taken where they are said.
    other = Rules(noop_max=1)
    capsys.readouterr()
    training.train(dataclasses.replace(settings, rules=other), tmp_path / "other", stop_at=1)
    assert f"note: student of {lacking} was distilled with repeat" in capsys.readouterr().out
    assert training.load_settings(tmp_path / "other").rules == other


# --- Going on from a student.


def test_a_fine_tuning_moves_with_its_run(alone, tmp_path, monkeypatch, capsys):
    """It goes on and is measured, and so it is read from within; another student is none of its."""
    monkeypatch.chdir(tmp_path)
    settings = dataclasses.replace(going_on("alone"), total_steps=16)
    training.train(settings, "alone/finetuned", stop_at=1)
    alone.rename("yours")
    moved, out = dataclasses.replace(settings, student="yours"), pathlib.Path("yours", "finetuned")
    begun = (out / "begun_with.json").read_text()
    (out / "begun_with.json").unlink()  # an earlier version did not know who it was
    with pytest.raises(ValueError, match="holds a run with student 'alone', this one has 'yours'"):
        training.train(moved, out)
    (out / "begun_with.json").write_text(begun)
    result = training.train(moved, out)
    assert training.train(moved, out) == result, "a finished one is read"
    rows = evaluating.find(out).measure(AGAIN)
    assert {"random", "expert", "student", "network"} <= rows[0].keys()
    monkeypatch.chdir("yours")
    assert json.dumps(evaluating.find("finetuned").measure(AGAIN)) == json.dumps(rows)
    monkeypatch.chdir("..")
    shutil.copytree("yours", "alone")  # where it was begun, and is another now
    read = finetuning.to_go_on_from

    def another(place, games):
        student = read(place, games)
        if str(place) == "yours" or str(place) == str(alone.with_name("yours")):
            return student
        changed = jax.tree.map(lambda x: x + 1, student.params)
        return dataclasses.replace(student, params=changed)

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "to_go_on_from", another)
        assert json.dumps(evaluating.find(out).measure(AGAIN)) == json.dumps(rows)
        assert "note: measured without" not in capsys.readouterr().out
        fresh = pathlib.Path("yours", "fresh")  # begun with nobody yet, it takes who it is given
        assert finetuning.student_of(settings, fresh).name == "student of alone"
    shutil.rmtree("alone")
    monkeypatch.chdir("yours")
    pathlib.Path("student.json").unlink()
    pathlib.Path("config.json").rename("aside.json")
    (row,) = evaluating.find("finetuned").measure(AGAIN)
    assert json.dumps(row["network"]) == json.dumps(rows[0]["network"])
    assert not {"expert", "student"} & row.keys()
    assert "it went on from: alone holds no config.json" in capsys.readouterr().out


def test_a_student_goes_on_in_some_of_its_games_as_it_was(run):
    """What it saw in each game stays what it sees there; its experts are its run's."""
    _, state, network = students.load_student(run / "student")
    student = finetuning.to_go_on_from(run / "student", ["breakout"])
    assert student.network == network and student.outputs == "q"
    jax.tree.map(np.testing.assert_array_equal, student.params, dict(state.eval_params))
    assert student.view.shape == SMALL.shape
    assert student.actions == {game: tasks.get(game).actions for game in VIEWS}
    assert {name: expert.view for name, expert in student.teachers.items()} == VIEWS
    assert [student.teachers[game].name for game in VIEWS] == ["tiny pong", "tiny breakout"]
    with pytest.raises(ValueError, match=r"distilled pong, breakout, not freeway"):
        finetuning.to_go_on_from(run / "student", ["pong", "freeway"])
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json"):
        finetuning.to_go_on_from(run, ["pong"])


def test_a_student_may_see_what_envpool_does_not_make(tmp_path):
    """As its expert does, in the run, exported and read again; a training cannot show it."""
    cropped = dataclasses.replace(SMALL, crop=(8, 196), gray="mean", steps=((94, 60),))
    an_expert("pong", cropped).save(tmp_path / "pong")
    settings = dataclasses.replace(
        SETTINGS,
        experts=(ExpertSource(str(tmp_path / "pong")),),
        network="net3",
        collect=distill_settings.Collect(
            num_envs=4, initial_steps=64, steps_per_round=32, window_steps=128
        ),
        learn=distill_settings.Learn(rounds=1, updates_per_round=1, batch_per_game=4),
        evaluate=distill_settings.Evaluate(select_episodes=1, report_episodes=2, max_steps=20),
    )
    assert common.Run(settings, meshes.create()).view == View(), "unless that is said"
    seeing = dataclasses.replace(settings, view="experts")
    distill.distill(seeing, tmp_path / "run", stop_after="train")
    assert students.read(tmp_path / "run").roles[0].view == cropped
    terms = protocols.Terms(2, epsilon=0.05, seed=0, opening_steps=10)
    (row,) = evaluating.find(tmp_path / "run").measure(terms)
    assert row["student"]["episodes"] == 2
    assert students.student_as_expert(tmp_path / "run", "pong").view == cropped
    with pytest.raises(ValueError, match=r"shows what EnvPool makes alone, .*crop.* in pong; dist"):
        finetuning.to_go_on_from(tmp_path / "run", ["pong"])


def test_a_student_that_goes_on_is_shown_each_game_as_it_learnt_it(run, tmp_path):
    """Whether its experts still teach or not."""
    settings = train_settings.Settings(
        games=("breakout", "pong"),
        algorithm="ppo",
        student=str(run / "student"),
        num_envs=2,
        rollout_steps=4,
        total_steps=8,
        batch_per_game=4,
        max_steps=20,
        expert_weight=0.0,
    )
    student = finetuning.to_go_on_from(run / "student", settings.games)
    seen = []
    for weight in (0.0, 1.0):
        chosen = dataclasses.replace(settings, expert_weight=weight)
        with learning.Training.of(chosen, tmp_path / str(weight), student=student) as training:
            pools = training._collector.pools
            assert [pool.view for pool in pools] == [VIEWS[game] for game in settings.games]
            assert bool(training._experts) == bool(weight)
            seen.append([pool.last.observations for pool in pools])
            assert np.isfinite(training.iterate()["loss"])
    jax.tree.map(np.testing.assert_array_equal, *seen)


KNOWING = {
    "embedding": networks.Network(convs=(), task_embedding=3, hidden=(6,)),
    "one hot": networks.Network(convs=(), one_hot=True, hidden=(6,)),
    "controllers": networks.Network(convs=(), controllers=True, action_hidden=(6,)),
}


def knowing(network, games):
    """A network that knows its games, and parameters that make them differ."""
    network = networks.for_tasks(network.clone(convs=()), [tasks.get(game) for game in games])
    params = networks.init(network, jax.random.key(0), (1, 8))
    generator = np.random.default_rng(1)
    return network, jax.tree.map(lambda x: generator.normal(size=x.shape).astype("f4"), params)


@pytest.mark.parametrize("network", KNOWING.values(), ids=KNOWING)
def test_a_network_of_some_games_knows_them_in_their_new_order(network):
    games = ["pong", "breakout", "freeway"]
    whole, params = knowing(network, games)
    shown = np.random.default_rng(0).normal(size=(5, 1, 8)).astype(np.float32)
    some, own = networks.for_some_games(whole, params, (2, 0))
    assert some == networks.for_tasks(network, [tasks.get(game) for game in ("freeway", "pong")])
    before, after = (
        [np.asarray(networks.forward(net, weights, shown, game)) for game in order]
        for net, weights, order in ((whole, params, (2, 0)), (some, own, (0, 1)))
    )
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert np.abs(before[0] - before[1]).max() > 0.1
    fresh = networks.init(some, jax.random.key(0), (1, 8))
    assert jax.tree.map(np.shape, own) == jax.tree.map(np.shape, dict(fresh))
    plain = networks.create("mlp")
    assert networks.for_some_games(plain, params, (2, 0)) == (plain, params)


def test_a_student_that_knows_its_game_goes_on_in_another_order(run, monkeypatch):
    settings = students.load_student(run / "student").settings
    network, params = knowing(KNOWING["embedding"], VIEWS)
    state = types.SimpleNamespace(eval_params=params, step=1)
    standing = students.LoadedStudent(settings, state, network)
    monkeypatch.setattr(students, "load_student", lambda workdir: standing)
    student = finetuning.to_go_on_from(run / "student", ["breakout", "pong"])
    actions = tuple(tasks.get(game).actions for game in ("breakout", "pong"))
    assert student.network.game_actions == actions
    np.testing.assert_array_equal(
        student.params["params"]["task_embedding"]["embedding"],
        params["params"]["task_embedding"]["embedding"][::-1],
    )


def test_a_run_of_an_earlier_version_says_what_its_config_does_not(alone):
    path = alone / "config.json"
    config = json.loads(path.read_text())
    del config["learn"]["ema_decay"]
    config["learn"]["optimiser"] = "adam_l2"  # of another state
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"not say learn\.ema_decay 0\.998 .* of another state"):
        students.load_student(alone)
    config["learn"]["ema_decay"] = 0.998
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"^checkpoint"):
        students.load_student(alone)


TWO = (ExpertSource("x"), ExpertSource("y"))
PROGRAMS = {
    "distill": distill_settings.Settings(TWO),
    "merge_weights": merge_settings.Settings(TWO, "mean"),
    "train_expert": train_settings.Settings(("pong",)),
}


@pytest.mark.parametrize("standing", PROGRAMS)
@pytest.mark.parametrize("begun", PROGRAMS)
def test_each_program_says_that_a_directory_is_another_s(tmp_path, standing, begun):
    workdirs.claim(tmp_path, PROGRAMS[standing])
    if standing == begun:
        assert workdirs.claim(tmp_path, PROGRAMS[begun])
        return
    with pytest.raises(ValueError) as error:
        workdirs.claim(tmp_path, PROGRAMS[begun])
    said = str(error.value).removeprefix(str(tmp_path))
    assert said.startswith(" holds a run of another program or of another version (config.json.")
    assert said.endswith("; choose another --workdir") and len(said) < 140


def test_what_is_no_distillation_of_this_version_is_said_in_short(tmp_path):
    workdirs.claim(tmp_path, PROGRAMS["train_expert"])
    training = (
        rf"^{tmp_path} holds a training and no distillation; name another directory or, where an "
        rf"expert may be given, one of those in {tmp_path / 'experts'}$"
    )
    with pytest.raises(ValueError, match=training):
        students.load_settings(tmp_path)
    (tmp_path / "config.json").write_text('{"experts": [{"path": "x"}], "later": 1}')
    later = r"another version \(config\.json\.later is unknown\); name another directory$"
    with pytest.raises(ValueError, match=later):
        students.load_settings(tmp_path)
