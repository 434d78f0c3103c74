"""Tests for games that were played before: whose they are, and how many are enough."""

import dataclasses
import json
import pathlib
import sys
import types

import numpy as np
import pytest

from jaxdistill import meshes, networks, preemption, tasks
from jaxdistill.play import evaluation, lessons, records, rollouts, scoring
from jaxdistill.play.scoring import Scores
from jaxdistill.tasks import atari, combat
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.views import View

LANDERS = [tasks.get(name) for name in ("lander/standard", "lander/windy")]
LESSONS = lessons.of_tasks(LANDERS, 5)
RANDOM = rollouts.random_policy(lessons.choices(LESSONS))
OPENING = evaluation.Opening(RANDOM, 0, RANDOM, evaluation.REPORTING)
PLAYERS = ("random", "expert", "student")
PROTOCOL = evaluation.Protocol(lessons.REPORT, 0, OPENING, max_steps=30)


@pytest.fixture(scope="module", autouse=True)
def box2d():
    pytest.importorskip("Box2D")  # here: its import warns


def player(mark="someone"):
    return records.Player("someone", RANDOM, (mark, mark))


def _always(action):
    """Whoever has no other action than this one."""
    choices = lessons.choices(LESSONS)
    return rollouts.random_policy(choices._replace(masks=choices.masks & (np.arange(4) == action)))


@pytest.fixture
def played(monkeypatch):
    """Seats of every lesson that are played."""
    played, measure = [], evaluation.measure

    def spy(chosen, policy, protocol, seats, *rest, **more):
        played.append({x.name: (s.start, s.stop) for x, s in zip(chosen, seats, strict=True)})
        return measure(chosen, policy, protocol, seats, *rest, **more)

    monkeypatch.setattr(evaluation, "measure", spy)
    return played


def measured(known, episodes, chosen=LESSONS, who=None):
    return records.measure(chosen, who or player(), PROTOCOL, episodes, meshes.create(), known)


def test_only_missing_games_are_played(played, tmp_path):
    known = records.Records(tmp_path / "a")
    whole = measured(records.Records(), 5)
    measured(known, 2, LESSONS[:1])
    again = measured(known, 5)
    assert played[1:] == [
        {"lander/standard": (0, 2)},
        {"lander/standard": (2, 5), "lander/windy": (0, 5)},
    ]
    assert [s.to_dict() for s in again] == [s.to_dict() for s in whole]
    # Fewer are the first of them, and nothing is played or forgotten for that.
    few = measured(known, 3)
    assert [s.to_dict() for s in few] == [s.first(3).to_dict() for s in whole]
    assert [len(x.scores) for x in measured(known, 5)] == [5, 5]
    assert not played[3:]


def _untold(chosen, policy, protocol, seats, *rest, **more):
    """Instead of playing: every game scores its seat."""
    return [
        Scores(*(np.arange(x.start, x.stop) for _ in range(3)), np.zeros(len(x), bool), {})
        for x in seats
    ]


def test_a_few_lessons_are_played_together_and_kept_before_the_next(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(records, "_AT_ONCE", 8 * 4 + 3)
    names = sorted(atari.games())[:17]
    chosen = lessons.of_tasks([tasks.get(name) for name in names], 0)
    who = records.Player("someone", RANDOM, ("someone",) * 17)
    known, played = records.Records(tmp_path), []

    def play(some, *rest, advance):
        played.append([lesson.name for lesson in some])
        assert len([*tmp_path.iterdir()]) == 8 * (len(played) - 1), "those before are kept"
        advance(4 * len(some))
        return _untold(some, *rest)

    monkeypatch.setattr(evaluation, "measure", play)
    scores = records.measure(chosen, who, PROTOCOL, 4, meshes.create(), known)
    assert played == [names[:8], names[8:16], names[16:]]
    assert [x.scores.tolist() for x in scores] == [[0, 1, 2, 3]] * 17
    assert "someone: 68/68 games" in capfd.readouterr().err, "they have one bar"


def test_several_processes_end_between_lessons_that_are_played_together(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_AT_ONCE", 1)
    monkeypatch.setattr(evaluation, "measure", _untold)
    monkeypatch.setattr(meshes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(meshes, "broadcast_json", lambda value: value)
    monkeypatch.setattr(meshes, "any_of", lambda asked: not asked)  # another one is
    with pytest.raises(preemption.Preempted):
        measured(records.Records(tmp_path), 3)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("lander_standard")


def test_lessons_score_alike_however_many_are_played_together(played, monkeypatch):
    whole = measured(records.Records(), 3)
    monkeypatch.setattr(records, "_AT_ONCE", 1)
    apart = measured(records.Records(), 3)
    assert played[1:] == [{"lander/standard": (0, 3)}, {"lander/windy": (0, 3)}]
    assert [x.to_dict() for x in apart] == [x.to_dict() for x in whole]


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
        find(opening=dataclasses.replace(OPENING, side=evaluation.CHOOSING)),
    ):
        assert missing is None
    measured_opened = dataclasses.replace(PROTOCOL, opening=longer)
    known.keep(LESSONS[0], measured_opened, player(), find())
    assert find(opening=longer) is not None
    assert find(opening=dataclasses.replace(longer, marks=("an expert", "another"))) is None


def test_an_experts_mark_is_of_all_that_decides_its_actions(watcher):
    expert = watcher("carnival", 2, "logits")

    def mark(expert=expert, epsilon=0.05, sample_logits=False):
        return records.expert_mark(expert, epsilon=epsilon, sample_logits=sample_logits)

    named = dataclasses.replace(expert, name="another", source="elsewhere", advertised_score=1.0)
    assert mark(named) == mark()
    assert mark().startswith("344318538961344b"), "games that were measured before are known"
    narrow = dataclasses.replace(expert.network, activation="elu")
    rough = dataclasses.replace(expert.network, dtype=networks.COMPUTE_DTYPES["bfloat16"])
    others = [
        mark(watcher("carnival", 3, "logits")),
        mark(epsilon=0.1),
        mark(sample_logits=True),
        mark(dataclasses.replace(expert, network=narrow)),
        mark(dataclasses.replace(expert, network=rough)),
        mark(dataclasses.replace(expert, actions=expert.actions[::-1])),
        mark(dataclasses.replace(expert, view=dataclasses.replace(expert.view, resize="linear"))),
    ]
    assert len({mark(), *others}) == 1 + len(others)
    values = dataclasses.replace(expert, outputs="q")
    assert mark(values, sample_logits=True) == mark(values), "Q-values are not sampled"


def test_how_an_expert_in_training_is_read_is_told_without_its_deviations(skilled):
    one, other, still = (skilled("aiming", log_std=x) for x in ((-2.0, -2.0), (-3.0, -2.0), None))
    assert len({records.read_as(x) for x in (one, other, still)}) == 3
    assert {records.read_as(x, in_training=True) for x in (one, other, still)} == {
        records.read_as(still)
    }
    turned = dataclasses.replace(one, actions=one.actions[::-1])
    assert records.read_as(turned, in_training=True) != records.read_as(still)


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
    (scores,) = _untold(None, None, None, [range(2)])

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


def test_an_expert_that_is_measured_alone_plays_as_is_said(watcher, monkeypatch):
    asked, actor = [], rollouts.expert_actor
    monkeypatch.setattr(
        rollouts, "expert_actor", lambda *a, **how: asked.append(how) or actor(*a, **how)
    )
    for sampled in (False, True):
        terms = records.Terms(1, epsilon=0.25, seed=0, opening_steps=10, max_steps=20)
        records.measure_alone(watcher("carnival", 2, "logits"), terms, sample_logits=sampled)
    devices = [how.pop("mesh").size for how in asked]
    assert asked == [{"epsilon": 0.25, "sample_logits": x} for x in (False, True)]
    assert devices == [4, 4]


def test_many_games_of_one_task_are_played_a_few_hundred_at_a_time(tmp_path, monkeypatch):
    """And a signal takes no more than those that are being played."""
    known, asked = records.Records(tmp_path), []

    def play(chosen, policy, protocol, seats, *rest, advance):
        asked.append([(x.start, x.stop) for x in seats])
        if len(asked) == 2:
            raise preemption.Preempted
        return _untold(chosen, policy, protocol, seats)

    monkeypatch.setattr(evaluation, "measure", play)
    with pytest.raises(preemption.Preempted):
        measured(known, 3000, LESSONS[:1])
    assert len(known.find(LESSONS[0], PROTOCOL, player()).scores) == 256
    (scores,) = measured(known, 3000, LESSONS[:1])
    parts = [[(first, min(first + 256, 3000))] for first in range(0, 3000, 256)]
    assert asked == [*parts[:2], *parts[1:]]
    assert scores.scores.tolist() == [*range(3000)]


def test_which_games_are_played_together_by_hand(monkeypatch):
    monkeypatch.setattr(records, "_AT_ONCE", 10)
    seats = [range(2, 9), range(0), range(5), range(1)]
    assert [*records._parts([0, 2, 3], seats, 4)] == [
        {0: range(2, 6), 2: range(4), 3: range(1)},
        {0: range(6, 9), 2: range(4, 5)},
    ]
    monkeypatch.setattr(records, "_AT_ONCE", 4)
    parts = records._parts([0, 1], [range(5), range(1)], 4)
    assert [*parts] == [{0: range(4)}, {1: range(1), 0: range(4, 5)}]


def test_random_play_is_measured_in_64_games_at_most(played):
    who = records.Player("random", RANDOM, (records.RANDOM,) * 2)
    scores = measured(records.Records(), 70, LESSONS[:1], who)
    assert len(scores[0].scores) == 64 and played == [{"lander/standard": (0, 64)}]


def test_random_play_that_comes_with_the_package_is_not_played(played):
    """For every task, under the protocol that nobody has changed; and it is what is played."""
    chosen = [tasks.get(name) for name in ("freeway", "lander/windy", "combat/duel")]
    for task in chosen:
        (lesson,) = lessons.of_tasks([task], 3)
        random = rollouts.random_policy(lessons.choices([lesson]))
        steps = task.suite.opening_steps
        opening = evaluation.Opening(random, steps, random, evaluation.REPORTING)
        protocol = evaluation.Protocol(lessons.REPORT, 0, opening)
        who = records.Player("random", random, (records.RANDOM,))
        (scores,) = records.measure([lesson], who, protocol, 64, meshes.create(), records.Records())
        assert len(scores.scores) == 64
        assert not played
        again = evaluation.measure([lesson], random, protocol, [range(2)], meshes.create())[0]
        known, again = scores.first(2).to_dict(), again.to_dict()
        if task.suite == combat.COMBAT:  # floats, whose last bits are the compiler's
            known["starts"] = again["starts"]
        assert known == again
        played.clear()


def _drawn(values, generator, episodes):
    scores = values[generator.integers(0, len(values), episodes)]
    starts = np.arange(episodes)
    return Scores(scores, np.ones_like(starts), starts, starts < 0)


PLAYED = pathlib.Path(__file__).parents[2] / "experts" / "played"


@pytest.mark.parametrize(
    ("name", "random", "fewest", "most"),
    [("breakout", 1.3, 128, 128), ("pong", -20.2, 20, 60), ("freeway", 0.0, 16, 20)],
)
def test_intervals_that_end_the_games_hold_what_they_say(name, random, fewest, most, monkeypatch):
    """Of 200 measurements that stop by themselves, about 95% know the true retention.

    Games are drawn from those recorded of the shipped experts: bricks that come in bursts, matches
    with a tail of bad ones, a narrow peak. The student keeps nine tenths of each.
    """
    (path,) = PLAYED.glob(f"{name}-*.json")
    values = np.array(json.loads(path.read_text())["games"]["scores"])
    generator = np.random.default_rng(1)
    interval = scoring.retention_interval

    def quick(*scores):
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "_RESAMPLES", 400)
            return interval(*scores)

    monkeypatch.setattr(scoring, "retention_interval", quick)
    held, games = 0, []
    for _ in range(200):
        drawn = {
            "student": _drawn(random + 0.9 * (values - random), generator, 128),
            "expert": _drawn(values, generator, 128),
            "random": _drawn(np.array([random]), generator, 2),
        }

        def known(chosen, who, protocol, episodes, *_, drawn=drawn):
            return [drawn[who.name].first(games) for games in episodes]

        monkeypatch.setattr(records, "measure", known)
        scores = records.measure_until_precise(
            LESSONS[:1],
            {who: records.Player(who, RANDOM, ("a",)) for who in drawn},
            PROTOCOL,
            None,
            records.Records(),
            episodes=128,
            width=0.05,
        )
        low, high = interval(scores[0].student, scores[0].expert, scores[0].random)
        held += low <= 0.9 <= high
        games.append(len(scores[0].student.scores))
    assert held >= 0.92 * 200
    assert set(games) <= {16, 32, 64, 128}
    assert fewest <= np.mean(games) <= most


def test_games_are_played_until_each_task_is_known(played):
    """Width 0 asks for all; an expert like random play leaves nothing known.

    In 30 steps whoever falls keeps more than whoever rises.
    """
    falls, rises = _always(0), _always(2)

    def asked(width, expert):
        played.clear()
        scores = records.measure_until_precise(
            LESSONS,
            {
                who: records.Player(who, policy, (who, who))
                for who, policy in zip(PLAYERS, (rises, expert, falls), strict=True)
            },
            PROTOCOL,
            meshes.create(),
            records.Records(),
            episodes=40,
            width=width,
        )
        return {index: {len(x.scores) for x in three} for index, three in scores.items()}

    assert asked(0.0, falls) == {0: {40}, 1: {40}}
    assert [*records.rounds(40)] == [16, 32, 40] and [*records.rounds(16)] == [16]
    assert [*records.rounds(3)] == [3]
    assert asked(1e9, falls) == {0: {16}, 1: {16}}
    assert len(played) == 3
    assert asked(1e9, rises) == {0: {40}, 1: {40}}


def test_a_task_that_is_known_waits_for_no_other(monkeypatch):
    """Student 5, expert 10, random play 0: give or take 0.1 in one task, and 5 in the other."""
    means, spreads = {"student": 5.0, "expert": 10.0, "random": 0.0}, (0.1, 5.0)
    seats = np.arange(64)
    made = {
        who: [Scores(mean + x * (-1.0) ** seats, seats, seats, seats < 0) for x in spreads]
        for who, mean in means.items()
    }

    def measure(chosen, who, protocol, episodes, *_):
        return [
            made[who.name][lesson.index].first(games)
            for lesson, games in zip(chosen, episodes, strict=True)
        ]

    monkeypatch.setattr(records, "measure", measure)
    players = {who: records.Player(who, RANDOM, ("a", "a")) for who in made}
    nothing = records.Records()
    for chosen in (LESSONS, LESSONS[::-1]):
        scores = records.measure_until_precise(
            chosen, players, PROTOCOL, None, nothing, episodes=64, width=0.05
        )
        for who, (narrow, wide) in made.items():
            assert getattr(scores[0], who).to_dict() == narrow.first(16).to_dict()
            assert getattr(scores[1], who).to_dict() == wide.to_dict()


def test_games_that_will_be_asked_for_are_played_at_once(played, monkeypatch):
    falls, rises = _always(0), _always(2)

    def measured(width):
        played.clear()
        players = {
            who: records.Player(who, policy, (who, who))
            for who, policy in zip(PLAYERS, (rises, falls, falls), strict=True)
        }
        nothing = records.Records()
        scores = records.measure_until_precise(
            LESSONS, players, PROTOCOL, meshes.create(), nothing, episodes=64, width=width
        )
        return {index: [x.to_dict() for x in three] for index, three in scores.items()}, len(played)

    (ahead, calls), everything = measured(1e-9), measured(0.0)[0]
    assert ahead == everything and calls == 2 * len(PLAYERS), "16 games, and the others"
    monkeypatch.setattr(records, "_ahead", lambda *_: 0)
    apart, calls = measured(1e-9)
    assert apart == everything and calls == 3 * len(PLAYERS)


def test_how_many_games_are_sure_to_be_asked_for_by_hand():
    # Twice as wide after 16 games as it may be: some 64 are needed, and 32 are counted on.
    assert records._ahead(2.0, 16, 256) == 32
    assert records._ahead(1.9, 16, 256) == 16
    assert records._ahead(1.2, 16, 256) == 0
    assert records._ahead(10.0, 16, 200) == 200, "800 are counted on, and 200 are the most"
    assert records._ahead(4.9, 16, 200) == 128
    assert records._ahead(float("nan"), 16, 256) == 0, "of what has no interval nothing is known"


def test_a_student_has_a_mark_in_each_of_its_tasks():
    def mark(scale=1.0, index=0, epsilon=0.0, resize="area", **network):
        params = {"a": np.full(3, scale, np.float32)}
        return records.student_mark(
            networks.Network(convs=(), **network),
            params,
            View(resize=resize),
            index=index,
            epsilon=epsilon,
        )

    others = [
        mark(scale=2.0),
        mark(index=1),
        mark(epsilon=0.1),
        mark(resize="linear"),
        mark(activation="elu"),
        mark(dtype=networks.COMPUTE_DTYPES["bfloat16"]),
    ]
    assert mark().startswith("82497fccc68f97f6"), (
        "games of students that were measured before are known"
    )
    assert mark() == mark() and len({mark(), *others}) == 1 + len(others)


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
