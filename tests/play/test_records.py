"""Tests for games that were played before: whose they are, and who is told of them."""

import dataclasses
import json
import os
import sys
import types

import jax
import pytest
from landings import LANDERS, LESSONS, OPENING, PROTOCOL, measured, player, untold

from jaxdistill import tasks
from jaxdistill.play import lessons, protocols, records
from jaxdistill.tasks.atari import Rules


@pytest.fixture(scope="module", autouse=True)
def box2d():
    pytest.importorskip("Box2D")  # here: its import warns


def test_games_are_kept_everywhere_and_found_anywhere(tmp_path):
    everywhere = records.Records(tmp_path / "a", tmp_path / "b")
    (scores,) = measured(everywhere, 2, LESSONS[:1])
    names = [{path.name for path in (tmp_path / x).iterdir()} for x in "ab"]
    assert names[0] == names[1] and len(names[0]) == 1
    given = records.Records(tmp_path / "c", given=[tmp_path / "b"])
    found = given.find(LESSONS[0], PROTOCOL, player())
    assert found.to_dict() == scores.to_dict()
    assert not (tmp_path / "c").exists(), "nothing is written by looking"
    # A run holds all that it was measured in, also what it found elsewhere, and no more than that.
    measured(given, 1, LESSONS[:1])
    (copy,) = (tmp_path / "c").iterdir()
    assert json.loads(copy.read_text())["games"] == scores.first(1).to_dict()
    # What only this run asks for is not kept for others.
    measured(everywhere, 2, LESSONS[:1], dataclasses.replace(player("student"), one_run_only=True))
    assert [len([*(tmp_path / x).iterdir()]) for x in "ab"] == [2, 1]


def test_what_somebody_else_s_run_says_is_told_to_no_other(tmp_path):
    """It is measured again, and its games are known, whatever whoever wrote them has written."""
    measured(records.Records(tmp_path / "theirs"), 2, LESSONS[:1])
    (path,) = (tmp_path / "theirs").iterdir()
    said = json.loads(path.read_text())
    said["games"]["scores"] = [1000.0, 1000.0]
    path.write_text(json.dumps(said))
    before = path.read_text()
    read = records.Records(tmp_path / "theirs", tmp_path / "cache", writes=False)
    for games in (2, 3):
        (scores,) = measured(read, games, LESSONS[:1])
        assert scores.scores[:2].tolist() == [1000.0, 1000.0]
    assert not (tmp_path / "cache").exists() and path.read_text() == before
    # Where all runs know of as many, they are told of more.
    (own,) = measured(records.Records(shared=tmp_path / "cache"), 2, LESSONS[:1])
    (more,) = measured(records.Records(tmp_path / "own", tmp_path / "cache"), 3, LESSONS[:1])
    (kept,) = (tmp_path / "cache").iterdir()
    assert json.loads(kept.read_text())["games"] == more.to_dict()
    assert more.first(2).to_dict() == own.to_dict()


def test_a_shared_directory_that_cannot_be_written_stops_nobody(tmp_path):
    (tmp_path / "file").write_text("")
    (scores,) = measured(records.Records(tmp_path / "own", tmp_path / "file/cache"), 2, LESSONS[:1])
    assert len(scores.scores) == 2 and len([*(tmp_path / "own").iterdir()]) == 1
    with pytest.raises(OSError, match="cannot be written"):
        measured(records.Records(tmp_path / "file/own"), 2, LESSONS[:1])


@pytest.mark.parametrize("what", ["file", "directory"])
def test_a_shared_directory_that_may_not_be_read_stops_nobody(tmp_path, request, what):
    """It is somebody else's, and not damaged."""
    shared = tmp_path / "cache"
    (kept,) = measured(records.Records(shared=shared), 2, LESSONS[:1])
    (file,) = shared.iterdir()
    (file if what == "file" else shared).chmod(0)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and "pytest" in str(path):
            path.chmod(path.stat().st_mode | 0o055)
    request.getfixturevalue("unprivileged")
    (scores,) = measured(records.Records(shared=shared), 2, LESSONS[:1])
    assert scores.to_dict() == kept.to_dict()


def test_whatever_decides_a_game_tells_it_from_others(tmp_path):
    known = records.Records(tmp_path)
    measured(known, 2, LESSONS[:1])

    def find(lesson=LESSONS[0], who=None, **changes):
        return known.find(lesson, dataclasses.replace(PROTOCOL, **changes), who or player())

    assert find() is not None
    # Neither the run's own seed nor its other tasks matter.
    other_run = lessons.of_tasks([LANDERS[1], LANDERS[0]], 99)
    assert find(other_run[1]) is not None
    longer = dataclasses.replace(OPENING, steps=3)
    for missing in (
        find(LESSONS[1]),
        find(who=player("another")),
        find(seed=1),
        find(purpose=lessons.SELECT),
        find(max_steps=31),
        find(opening=longer),
        find(opening=dataclasses.replace(OPENING, side=protocols.CHOOSING)),
    ):
        assert missing is None
    # Nor are numbers drawn alike where JAX draws them in another way.
    with jax.enable_x64(True):
        assert find() is None
    with jax.default_prng_impl("rbg"):
        assert find() is None
    assert find() is not None
    measured_opened = dataclasses.replace(PROTOCOL, opening=longer)
    known.keep(LESSONS[0], measured_opened, player(), find())
    assert find(opening=longer) is not None
    assert find(opening=dataclasses.replace(longer, marks=("an expert", "another"))) is None


OWN = """
import dataclasses
from typing import ClassVar
from jaxdistill import tasks
from jaxdistill.tasks import lander
from jaxdistill.tasks.task import Suite, Task

@dataclasses.dataclass(frozen=True)
class Corridor(Task):
    suite: ClassVar[Suite] = lander.LANDER
    name: str = "corridor/short"
    actions: tuple[int, ...] = (0, 1)
    max_steps: int = 50
    length: int = 5

    def pool(self, num_envs, **options):
        raise NotImplementedError

    def camera(self, **options):
        raise NotImplementedError

tasks.add(Corridor())
"""


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """`imported(text)`: a lesson of the task that a file of this text adds, as `--import` does."""
    monkeypatch.setattr(tasks, "_added", {})

    def load(text):
        module = types.ModuleType("own")
        (tmp_path / "own.py").write_text(text)
        module.__file__ = str(tmp_path / "own.py")
        monkeypatch.setitem(sys.modules, "own", module)
        exec(text, module.__dict__)
        return lessons.of_tasks([tasks.get("corridor/short")], 0)[0]

    yield load
    tasks._added.clear()
    tasks.names.cache_clear()
    tasks._by_key.cache_clear()


def test_games_of_a_task_of_one_s_own_are_of_the_task_as_it_is(imported, tmp_path):
    known = records.Records(tmp_path / "run", tmp_path / "cache")
    (scores,) = untold(None, None, None, [range(2)])

    def found(lesson):
        return known.find(lesson, PROTOCOL, player()) is not None

    lesson = imported(OWN)
    known.keep(lesson, PROTOCOL, player(), scores)
    assert found(lesson) and found(imported(OWN)), "imported by the run that goes on"
    assert not found(imported(OWN.replace("Corridor()", "Corridor(length=6)")))
    assert not found(imported(OWN + "# where something was changed\n"))
    # Of one file, as with a setting of the environment.
    lesson = imported(OWN)
    tasks.add(dataclasses.replace(lesson.task, length=6))
    assert found(lesson)
    assert not found(lessons.of_tasks([tasks.get("corridor/short")], 0)[0])
    # Other runs know nothing of it: what its file imports may be another by then.
    assert not (tmp_path / "cache").exists()
    (tmp_path / "run").rename(tmp_path / "cache")
    assert not found(imported(OWN))


def test_of_a_task_that_a_notebook_made_its_fields_are_known(imported):
    made = imported(OWN).task
    assert tasks.content(made)["fields"] == {"length": "5"} and tasks.content(made)["file"]
    type(made).__module__ = "a notebook"
    tasks.add(made)
    assert tasks.content(made) == {"fields": {"length": "5"}, "file": None}
    assert tasks.content(tasks.get("lander/windy")) is None


def test_a_damaged_file_is_one_clear_line(tmp_path):
    known = records.Records(tmp_path)
    measured(known, 2, LESSONS[:1])
    (path,) = tmp_path.iterdir()
    good = json.loads(path.read_text())
    for text in ("{", "[]", json.dumps(good | {"games": {}})):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"{path.name} is damaged \(.*\); delete it to play"):
            known.find(LESSONS[0], PROTOCOL, player())
    # Another's games under this name, as a digest cut short could have it, are not taken for ours.
    path.write_text(json.dumps(good | {"of": good["of"] | {"player": "another"}}))
    assert known.find(LESSONS[0], PROTOCOL, player()) is None


def test_what_random_play_scores_is_known_where_somebody_has_measured_it():
    breakout, zaxxon = tasks.get("breakout"), tasks.get("zaxxon")
    measured = records.random_score(breakout)
    assert 1.0 < measured < 1.8 and measured != breakout.random_score
    assert records.random_score(zaxxon) == zaxxon.random_score == 32.5
    assert records.random_score(tasks.get("adventure")) is None
    # Games that end otherwise, or sooner, are others.
    assert records.random_score(breakout, 100) is None
    rules = Rules(fire_after_life=True, repeat_action_probability=0.25)
    assert records.random_score(breakout.under(rules)) == measured
    assert records.random_score(breakout.under(Rules(end_at_life=True))) is None
