"""Students that need nothing else: written, read back, damaged, and taken as experts."""

import dataclasses
import json
import time

import jax
import numpy as np
import pytest
import safetensors.numpy

import jaxdistill
from jaxdistill import networks, tasks
from jaxdistill.experts import export, formats
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.student import Role, Student
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View

GAMES = ("pong", "breakout")
CARD = {"scores": {"pong": 3.5}, "licence": None}


def _student(network="net3", games=GAMES, **changes):
    chosen = [tasks.get(game) for game in games]
    module = networks.for_tasks(networks.create(network), chosen)
    params = networks.init(module, jax.random.key(0), (4, 84, 84))
    roles = tuple(Role(task.name, View(), task.actions, f"{task.name} expert") for task in chosen)
    fields = {"name": "mine", "outputs": "q", "roles": roles, "card": CARD}
    return Student(network=module, params=jax.device_get(params), **(fields | changes))


def _shown(count=3):
    return np.random.default_rng(0).integers(0, 255, (count, 4, 84, 84), np.uint8)


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """A student of two games, and where it is written."""
    student, where = _student("net3"), tmp_path_factory.mktemp("students") / "two"
    student.save(where)
    return student, where


@pytest.mark.parametrize("network", ["net3", "multi_task_net3"])
def test_what_is_read_back_plays_as_it_did(network, tmp_path, monkeypatch):
    if network not in networks.NETWORKS:  # one that knows its game, small
        small = dataclasses.replace(
            networks.create("net3"), hidden=(16,), action_hidden=(8,), controllers=True
        )
        monkeypatch.setitem(networks.NETWORKS, network, small)
    student = _student(network)
    student.save(tmp_path / "student")
    again = Student.load(tmp_path / "student")
    assert again.roles == student.roles and again.card == CARD and again.outputs == "q"
    assert again.network == student.network and again.rules == student.rules
    for one, other in zip(student.experts(), again.experts(), strict=True):
        np.testing.assert_array_equal(one.suite_outputs(_shown()), other.suite_outputs(_shown()))
        assert one.actions == other.actions and other.source == str(tmp_path / "student")
    with pytest.raises(ValueError, match="not empty"):
        student.save(tmp_path / "student")


def test_what_its_experts_saw_is_said_where_pools_showed_more_for_that(tmp_path):
    """In every file that is read back; of others, such as older ones, nothing is."""
    cropped = View(crop=(8, 196), gray="mean", steps=((94, 84),))
    plain = _student()
    pong, breakout = plain.roles
    student = dataclasses.replace(
        plain, roles=(dataclasses.replace(pong, teacher_view=cropped), breakout)
    )
    student.save(tmp_path / "student")
    again = Student.load(tmp_path / "student")
    assert again.roles == student.roles
    assert [expert.teacher_view for expert in again.experts()] == [cropped, None]
    rows = json.loads((tmp_path / "student" / "policy.json").read_text())["tasks"]
    assert rows[1].keys() == {"game", "view", "actions", "expert", "source"}
    saws = {"pong": cropped}
    views = dict.fromkeys(GAMES, View())
    network = networks.create("net1")
    params = jax.device_get(networks.init(network, jax.random.key(0), View().shape))
    export.export(params, network, tmp_path / "merged.pth", views=views, teacher_views=saws)
    assert formats.load(tmp_path / "merged.pth", game="pong").teacher_view == cropped
    assert formats.load(tmp_path / "merged.pth", game="breakout").teacher_view is None
    for saw in (cropped, None):
        name = "plain" if saw is None else "cropped"
        all_18 = tuple(range(18))
        expert = Expert("x", network, params, "q", all_18, View(), "pong", teacher_view=saw)
        expert.save(tmp_path / name)
        fields = json.loads((tmp_path / name / "expert.json").read_text())
        assert ("teacher_view" in fields) == (saw is not None)
        assert Expert.load(tmp_path / name).teacher_view == saw
        export.export_expert(expert, tmp_path / f"{name}.pth")
        assert formats.load(tmp_path / f"{name}.pth").teacher_view == saw


def test_a_student_is_the_expert_of_each_of_its_games(standing):
    student, where = standing
    for game in GAMES:
        found = formats.convert(where, game=game)
        assert found.convention == "student" and found.expert.game == game
        np.testing.assert_array_equal(
            found.expert.greedy(_shown()), student.expert(game).greedy(_shown())
        )
    with pytest.raises(ValueError, match="name one of pong, breakout"):
        formats.load(where)
    with pytest.raises(ValueError, match="pong, breakout, not freeway"):
        formats.load(where, game="freeway")
    for ask in (student.expert, lambda game: jaxdistill.load(where, task=game)):
        with pytest.raises(ValueError, match="unknown task ''"):  # which is not the first one
            ask("")
    assert jaxdistill.load(where).tasks == GAMES
    assert jaxdistill.load(where, task="breakout").tasks == ("breakout",)


def test_a_student_of_one_game_need_not_be_asked_for_it(tmp_path):
    student = _student(games=("breakout",))
    student.save(tmp_path / "one")
    assert formats.load(tmp_path / "one").game == "breakout"


STICKY = Rules(repeat_action_probability=0.25)
FULL = Rules(full_actions=True)


def _by(rules, **changes):
    """A student of two games that are played by these rules, with all of their valid actions."""
    student = _student(rules=rules, **changes)
    roles = [dataclasses.replace(role, actions=role.valid(rules)) for role in student.roles]
    return dataclasses.replace(student, roles=tuple(roles))


@pytest.mark.parametrize("rules", [STICKY, FULL], ids=["sticky", "full"])
def test_a_student_is_read_with_the_rules_that_it_learnt_by(rules, tmp_path):
    student = _by(rules)
    student.save(tmp_path / "student")
    again = Student.load(tmp_path / "student")
    assert (again.rules, again.roles) == (rules, student.roles)
    expert = formats.load(tmp_path / "student", game="pong")
    assert expert.rules == rules and expert.mask.sum() == len(student.roles[0].actions)


def test_the_program_exports_the_rules_of_a_student(program, tmp_path):
    _by(rules := dataclasses.replace(FULL, fire_after_life=True), network="nature").save(
        tmp_path / "student"
    )
    out = tmp_path / "student.pth"
    code, _, err = program("export", f"--workdir={tmp_path / 'student'}", f"--out={out}")
    assert code == 0, err
    assert formats.load(out, game="pong").rules == rules


def test_what_the_expert_had_no_output_for_is_never_chosen_by_any_rules():
    """Of all 18 actions that are valid only two were taught."""
    student = _student(rules=FULL, games=("pong",))
    taught = dataclasses.replace(student.roles[0], actions=(3, 7))
    made = dataclasses.replace(student, roles=(taught,))
    whole, own = made.expert(whole=True), made.expert()
    assert whole.mask.all() and own.actions == (3, 7)
    chosen = np.asarray(own.greedy(_shown(50)))
    assert set(chosen.tolist()) <= {3, 7}
    np.testing.assert_array_equal(whole.greedy(_shown(50)), chosen)


def _broken(where, **changes):
    path = where / "policy.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(fields))


PONG = {"game": "pong", "view": View().to_dict(), "actions": [0], "expert": "x"}
COLOUR = View(gray="none").to_dict()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: _broken(at, format="jaxdistill student 9"), "format 'jaxdistill student 9'"),
        (lambda at: _broken(at, tasks=[]), "names no task"),
        (lambda at: _broken(at, tasks=[{"game": "pong"}]), "KeyError"),
        (lambda at: _broken(at, tasks=[PONG | {"actions": [17]}]), "not valid ones of pong"),
        (lambda at: _broken(at, tasks=[PONG | {"actions": [18]}]), "not valid ones of pong"),
        (lambda at: _broken(at, tasks=[PONG | {"game": "skiing", "actions": [5]}]), "of skiing"),
        (
            lambda at: _broken(at, tasks=[PONG | {"teacher_view": {"size": 8}}]),
            "it sees a screen, and its own expert something else",
        ),
        (lambda at: _broken(at, outputs="v"), "outputs is 'v'"),
        (
            lambda at: _broken(at, tasks=[PONG, PONG | {"game": "breakout", "view": COLOUR}]),
            r"seen in different shapes, \[\(4, 84, 84\), \(12, 84, 84\)\]",
        ),
        (lambda at: _broken(at, network={"convs": 3}), "is damaged"),
        (lambda at: (at / "policy.safetensors").unlink(), "policy.safetensors"),
        (lambda at: (at / "policy.safetensors").write_bytes(b"no"), "policy.safetensors"),
        (lambda at: (at / "policy.json").write_text("{"), "policy.json"),
    ],
)
def test_damage_is_one_line(standing, tmp_path, damage, message):
    student, _ = standing
    where = tmp_path / "student"
    student.save(where)
    damage(where)
    with pytest.raises(ValueError, match=message) as error:
        Student.load(where)
    assert "\n" not in str(error.value) and str(where) in str(error.value)


def test_a_task_that_was_not_imported_is_no_damage(standing, tmp_path):
    student, _ = standing
    where = tmp_path / "student"
    student.save(where)
    _broken(where, tasks=[PONG | {"game": "grid/small"}])
    with pytest.raises(tasks.UnknownTask, match=r"student: unknown task .*--import=FILE") as error:
        Student.load(where)
    assert "damaged" not in str(error.value)


CONTROLLERS = {"controllers": True, "game_actions": [[0], [0]]}


def _network(where, **changes):
    """The network that `policy.json` describes, changed."""
    fields = json.loads((where / "policy.json").read_text())["network"]
    _broken(where, network=fields | changes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: _broken(at, tasks=[PONG] * 20_000), "it names 20000 tasks, and there are"),
        (
            lambda at: _network(at, one_hot=True, game_actions=[[0]] * 20_000),
            "its network knows 20000 games, and it names 2",
        ),
        (
            lambda at: _network(at, **CONTROLLERS, action_hidden=[1] * 1000),
            "arrays of weights for a network of 3006 layers",
        ),
    ],
    ids=["tasks", "games", "controllers"],
)
def test_a_description_that_asks_for_much_is_refused_at_once(standing, tmp_path, damage, message):
    student, _ = standing
    student.save(tmp_path / "student")
    damage(tmp_path / "student")
    begun = time.process_time()
    with pytest.raises(ValueError, match=message):
        Student.load(tmp_path / "student")
    assert time.process_time() - begun < 3.0


def test_weights_of_another_network_or_that_are_not_finite_are_refused(standing, tmp_path):
    student, _ = standing
    student.save(tmp_path / "student")
    weights = safetensors.numpy.load_file(tmp_path / "student" / "policy.safetensors")
    name = min(weights)
    for array in (weights[name] * np.nan, weights[name][:1]):
        safetensors.numpy.save_file(
            weights | {name: np.ascontiguousarray(array)},
            tmp_path / "student" / "policy.safetensors",
        )
        with pytest.raises(ValueError, match=name):
            Student.load(tmp_path / "student")
    del weights[name]
    safetensors.numpy.save_file(weights, tmp_path / "student" / "policy.safetensors")
    said = rf"policy\.safetensors lacks {name}, against the network of policy\.json"
    with pytest.raises(ValueError, match=said):
        Student.load(tmp_path / "student")
