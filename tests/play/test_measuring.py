"""Tests for measuring play: only what is missing is played, and how many games are enough."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from landings import LESSONS, PROTOCOL, RANDOM, measured, player, untold

from jaxdistill import meshes, networks, preemption, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.play import (
    evaluation,
    lessons,
    measuring,
    players,
    protocols,
    records,
    rollouts,
    scoring,
)
from jaxdistill.play.players import Player
from jaxdistill.play.scoring import Scores
from jaxdistill.tasks import atari, combat
from jaxdistill.tasks.task import seed_for
from jaxdistill.tasks.views import View

PLAYERS = ("random", "expert", "student")


@pytest.fixture(scope="module", autouse=True)
def box2d():
    pytest.importorskip("Box2D")  # here: its import warns


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


def test_a_few_lessons_are_played_together_and_kept_before_the_next(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(measuring, "_AT_ONCE", 8 * 4 + 3)
    names = sorted(atari.games())[:17]
    chosen = lessons.of_tasks([tasks.get(name) for name in names], 0)
    who = Player("someone", RANDOM, ("someone",) * 17)
    known, played = records.Records(tmp_path), []

    def play(some, *rest, advance):
        played.append([lesson.name for lesson in some])
        assert len([*tmp_path.iterdir()]) == 8 * (len(played) - 1), "those before are kept"
        advance(4 * len(some))
        return untold(some, *rest)

    monkeypatch.setattr(evaluation, "measure", play)
    scores = measuring.measure(chosen, who, PROTOCOL, 4, meshes.create(), known)
    assert played == [names[:8], names[8:16], names[16:]]
    assert [x.scores.tolist() for x in scores] == [[0, 1, 2, 3]] * 17
    assert "someone: 68/68 games" in capfd.readouterr().err, "they have one bar"


def test_several_processes_end_between_lessons_that_are_played_together(tmp_path, monkeypatch):
    monkeypatch.setattr(measuring, "_AT_ONCE", 1)
    monkeypatch.setattr(evaluation, "measure", untold)
    monkeypatch.setattr(meshes.jax, "process_count", lambda: 2)
    monkeypatch.setattr(meshes, "broadcast_json", lambda value: value)
    monkeypatch.setattr(meshes, "any_of", lambda asked: not asked)  # another one is
    with pytest.raises(preemption.Preempted):
        measured(records.Records(tmp_path), 3)
    (kept,) = tmp_path.iterdir()
    assert kept.name.startswith("lander_standard")


def test_lessons_score_alike_however_many_are_played_together(played, monkeypatch):
    whole = measured(records.Records(), 3)
    monkeypatch.setattr(measuring, "_AT_ONCE", 1)
    apart = measured(records.Records(), 3)
    assert played[1:] == [{"lander/standard": (0, 3)}, {"lander/windy": (0, 3)}]
    assert [x.to_dict() for x in apart] == [x.to_dict() for x in whole]


def test_many_games_of_one_task_are_played_a_few_hundred_at_a_time(tmp_path, monkeypatch):
    """And a signal takes no more than those that are being played."""
    known, asked = records.Records(tmp_path), []

    def play(chosen, policy, protocol, seats, *rest, advance):
        asked.append([(x.start, x.stop) for x in seats])
        if len(asked) == 2:
            raise preemption.Preempted
        return untold(chosen, policy, protocol, seats)

    monkeypatch.setattr(evaluation, "measure", play)
    with pytest.raises(preemption.Preempted):
        measured(known, 3000, LESSONS[:1])
    assert len(known.find(LESSONS[0], PROTOCOL, player()).scores) == 256
    (scores,) = measured(known, 3000, LESSONS[:1])
    parts = [[(first, min(first + 256, 3000))] for first in range(0, 3000, 256)]
    assert asked == [*parts[:2], *parts[1:]]
    assert scores.scores.tolist() == [*range(3000)]


def test_which_games_are_played_together_by_hand(monkeypatch):
    monkeypatch.setattr(measuring, "_AT_ONCE", 10)
    seats = [range(2, 9), range(0), range(5), range(1)]
    assert [*measuring._parts([0, 2, 3], seats, 4)] == [
        {0: range(2, 6), 2: range(4), 3: range(1)},
        {0: range(6, 9), 2: range(4, 5)},
    ]
    monkeypatch.setattr(measuring, "_AT_ONCE", 4)
    parts = measuring._parts([0, 1], [range(5), range(1)], 4)
    assert [*parts] == [{0: range(4)}, {1: range(1), 0: range(4, 5)}]


def test_random_play_is_measured_in_64_games_at_most(played):
    who = Player("random", RANDOM, (players.RANDOM,) * 2)
    scores = measured(records.Records(), 70, LESSONS[:1], who)
    assert len(scores[0].scores) == 64 and played == [{"lander/standard": (0, 64)}]


def test_random_play_that_comes_with_the_package_is_not_played(played):
    """For every task, under the protocol that nobody has changed; and it is what is played."""
    chosen = [tasks.get(name) for name in ("freeway", "lander/windy", "combat/duel")]
    for task in chosen:
        (lesson,) = lessons.of_tasks([task], 3)
        random = rollouts.random_policy(lessons.choices([lesson]))
        steps = task.suite.opening_steps
        opening = protocols.Opening(random, steps, random, protocols.REPORTING)
        protocol = protocols.Protocol(lessons.REPORT, 0, opening)
        who = Player("random", random, (players.RANDOM,))
        (scores,) = measuring.measure(
            [lesson], who, protocol, 64, meshes.create(), records.Records()
        )
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
    ("name", "random", "wider", "ratio", "fewest", "most"),
    [
        ("breakout", 1.3, 1, 1, 128, 128),
        ("breakout", 1.3, 1, 4, 128, 128),
        ("pong", -20.2, 1, 1, 16, 20),
        ("pong", -20.2, 2, 1, 20, 60),
        ("pong", -20.2, 2, 4, 16, 40),
        ("freeway", 0.0, 1, 1, 16, 20),
    ],
)
def test_intervals_that_end_the_games_hold_what_they_say(
    name, random, wider, ratio, fewest, most, monkeypatch
):
    """Of 200 measurements that stop by themselves, about 95% know the true retention.

    Games are drawn from those recorded of the shipped experts: bricks that come in bursts, matches
    with a tail of bad ones, once twice as far from their mean, a narrow peak. The student keeps
    nine tenths of each. Four times as many of the expert's make fewer of the student's enough.
    """
    (path,) = PLAYED.glob(f"{name}-*.json")
    values = np.array(json.loads(path.read_text())["games"]["scores"])
    values = values.mean() + wider * (values - values.mean())
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
            "expert": _drawn(values, generator, ratio * 128),
            "random": _drawn(np.array([random]), generator, 2),
        }

        def known(chosen, who, protocol, episodes, *_, drawn=drawn):
            return [drawn[who.name].first(games) for games in episodes]

        monkeypatch.setattr(measuring, "measure", known)
        scores = measuring.measure_until_precise(
            LESSONS[:1],
            {who: Player(who, RANDOM, ("a",)) for who in drawn},
            PROTOCOL,
            None,
            records.Records(),
            episodes=128,
            width=0.05,
            expert_ratio=ratio,
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
        scores = measuring.measure_until_precise(
            LESSONS,
            {
                who: Player(who, policy, (who, who))
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
    assert [*measuring.rounds(40)] == [16, 32, 40] and [*measuring.rounds(16)] == [16]
    assert [*measuring.rounds(3)] == [3]
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

    monkeypatch.setattr(measuring, "measure", measure)
    players = {who: Player(who, RANDOM, ("a", "a")) for who in made}
    nothing = records.Records()
    for chosen in (LESSONS, LESSONS[::-1]):
        scores = measuring.measure_until_precise(
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
            who: Player(who, policy, (who, who))
            for who, policy in zip(PLAYERS, (rises, falls, falls), strict=True)
        }
        nothing = records.Records()
        scores = measuring.measure_until_precise(
            LESSONS, players, PROTOCOL, meshes.create(), nothing, episodes=64, width=width
        )
        return {index: [x.to_dict() for x in three] for index, three in scores.items()}, len(played)

    (ahead, calls), everything = measured(1e-9), measured(0.0)[0]
    assert ahead == everything
    assert calls == 2 + 2 + 1, "16 games and the others of random play and expert: all at once"
    monkeypatch.setattr(measuring, "_ahead", lambda *_: 0)
    apart, calls = measured(1e-9)
    assert apart == everything and calls == 3 * len(PLAYERS)


def test_a_student_plays_at_once_what_its_expert_would_have_to(monkeypatch):
    """Scores 10 give or take 4: some 0.2 of retention after 16 games of both, 0.1 after 64."""
    seats = np.arange(256)
    made = {
        "random": Scores(0.0 * seats, seats, seats, seats < 0),
        "expert": Scores(10 + 4 * (-1.0) ** seats, seats, seats, seats < 0),
        "student": Scores(5 + 0.1 * (-1.0) ** seats, seats, seats, seats < 0),
    }
    asked = []

    def measure(chosen, who, protocol, episodes, *_):
        asked.append((who.name, *episodes))
        return [made[who.name].first(games) for games in episodes]

    monkeypatch.setattr(measuring, "measure", measure)

    def played(ratio):
        asked.clear()
        (scores,) = measuring.measure_until_precise(
            LESSONS[:1],
            {who: Player(who, RANDOM, ("a",)) for who in made},
            PROTOCOL,
            None,
            records.Records(),
            episodes=64,
            width=0.14,
            expert_ratio=ratio,
        ).values()
        for who, expected in made.items():
            counted = getattr(scores, who)
            assert counted.to_dict() == expected.first(len(counted.scores)).to_dict()
        return {who: len(x.scores) for who, x in scores._asdict().items()}, [*asked]

    # It differs less than it might have, and 16 of the 32 games count in the end.
    assert played(1) == (
        {"random": 16, "expert": 16, "student": 16},
        [("random", 16), ("expert", 16), ("student", 32)],
    )
    assert played(4) == (
        {"random": 16, "expert": 64, "student": 16},
        [("random", 16), ("expert", 64), ("student", 16)],
    )


def test_how_many_games_are_sure_to_be_asked_for_by_hand():
    # Twice as wide after 16 games as it may be: some 64 are needed, and 32 are counted on.
    assert measuring._ahead(2.0, 16, 256) == 32
    assert measuring._ahead(1.9, 16, 256) == 16
    assert measuring._ahead(1.2, 16, 256) == 0
    assert measuring._ahead(10.0, 16, 200) == 200, "800 are counted on, and 200 are the most"
    assert measuring._ahead(4.9, 16, 200) == 128
    assert measuring._ahead(float("nan"), 16, 256) == 0, "of what has no interval nothing is known"


def test_an_expert_alone_is_measured_with_its_epsilon_greedily_unless_told(watcher):
    expert = watcher("carnival", 2, "logits")

    def measured(sample_logits=False, **changes):
        terms = protocols.Terms(5, epsilon=0.0, seed=9, opening_steps=0, max_steps=40)
        terms = dataclasses.replace(terms, **changes)
        scores = measuring.measure_alone(expert, terms, sample_logits=sample_logits)
        return scores.scores.tolist()

    carnival = tasks.get("carnival")
    seed = seed_for(9, lessons.REPORT, carnival.number)
    pool = atari.AtariPool(carnival, 5, seed=seed, max_steps=40)
    while not pool.last.over.all():
        pool.step(expert.greedy(pool.last.observations))
    greedy = measured()
    assert greedy == pool.last.scores.tolist()
    for changes in ({"epsilon": 0.9}, {"sample_logits": True}, {"max_steps": 20}):
        assert measured(**changes) != greedy, changes


def test_an_expert_that_is_measured_alone_plays_as_is_said(watcher, monkeypatch):
    asked, actor = [], rollouts.expert_actor
    monkeypatch.setattr(
        rollouts, "expert_actor", lambda *a, **how: asked.append(how) or actor(*a, **how)
    )
    for sampled in (False, True):
        terms = protocols.Terms(1, epsilon=0.25, seed=0, opening_steps=10, max_steps=20)
        measuring.measure_alone(watcher("carnival", 2, "logits"), terms, sample_logits=sampled)
    devices = [how.pop("mesh").size for how in asked]
    assert asked == [{"epsilon": 0.25, "sample_logits": x} for x in (False, True)]
    assert devices == [4, 4]


def test_an_experts_keys_and_angles_are_sampled_if_that_is_said():
    """Greedily it always does the same; its deviation makes its angles differ."""
    task = combat.AIMING
    network = networks.Network(convs=(), num_outputs=2)
    params = jax.tree.map(
        jnp.zeros_like, networks.init(network, jax.random.key(0), task.view.shape)
    )
    expert = Expert("still", network, params, "logits", (7, 8), task.view, task.name)
    terms = protocols.Terms(3, epsilon=0.0, seed=0, opening_steps=0, max_steps=20)
    still = measuring.measure_alone(expert, terms)
    # Without a deviation that is known an angle is its mean.
    unknown = measuring.measure_alone(expert, terms, sample_logits=True)
    np.testing.assert_array_equal(still.scores, unknown.scores)
    expert = dataclasses.replace(expert, log_std=(-1.0, -1.0))
    again = measuring.measure_alone(expert, terms)
    np.testing.assert_array_equal(still.scores, again.scores)
    sampled = measuring.measure_alone(expert, terms, sample_logits=True)
    assert (sampled.scores != still.scores).all()
    assert tuple(still.facts) == task.facts == ("yaw_error", "on_body")
    explored = measuring.measure_alone(expert, dataclasses.replace(terms, epsilon=1.0))
    assert (explored.scores < still.scores).all()  # a turn costs its half


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"game": None}, "mine: the expert does not say which game it plays"),
        ({"view": View(crop=(30, 211))}, "and the screen has 210 rows"),
    ],
)
def test_an_expert_that_cannot_be_seated_is_refused(changes, message):
    network = networks.Network(convs=())
    fields = {"view": View(), "game": "pong"} | changes
    expert = Expert("mine", network, {}, "q", tuple(range(18)), **fields)
    with pytest.raises(ValueError, match=message):
        measuring.measure_alone(expert, protocols.Terms(1, epsilon=0.0, seed=0, opening_steps=10))
