"""Students that need nothing else: written, read back, damaged, and taken as experts."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

import jaxdistill
from jaxdistill import networks, tasks
from jaxdistill.experts import formats
from jaxdistill.experts.student import Role, Student
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
    assert jaxdistill.load(where).tasks == GAMES
    assert jaxdistill.load(where, task="breakout").tasks == ("breakout",)


def test_a_student_of_one_game_need_not_be_asked_for_it(tmp_path):
    student = _student(games=("breakout",))
    student.save(tmp_path / "one")
    assert formats.load(tmp_path / "one").game == "breakout"


def _broken(where, **changes):
    path = where / "policy.json"
    fields = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: _broken(at, format="jaxdistill student 9"), "format 'jaxdistill student 9'"),
        (lambda at: _broken(at, tasks=[]), "names no task"),
        (lambda at: _broken(at, tasks=[{"game": "pong"}]), "KeyError"),
        (lambda at: _broken(at, outputs="v"), "outputs is 'v'"),
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
