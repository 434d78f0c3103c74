"""Tests for the tasks of a run, each with what belongs to it, on landers: they begin at once."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdistill import meshes, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.networks import Network
from jaxdistill.play import clips, evaluation, lessons, protocols
from jaxdistill.play.lessons import COLLECT, REPORT, SELECT, SHOW
from jaxdistill.tasks.task import seed_for
from jaxdistill.tasks.views import Vector, View

pytest.importorskip("Box2D")
NAMES = ("lander/standard", "lander/heavy", "lander/windy")
LANDERS = [tasks.get(name) for name in NAMES]
LESSONS = lessons.of_tasks(LANDERS, 5)


def _expert(game, actions, view=None):
    view = view or tasks.get(game).suite.view
    network = Network(convs=(), num_outputs=len(actions))
    return Expert(f"expert of {game}", network, {}, "q", actions, view=view, game=game)


def test_a_lesson_of_every_task_stands_in_their_order():
    assert [lesson.name for lesson in LESSONS] == list(NAMES)
    assert [lesson.index for lesson in LESSONS] == [0, 1, 2]
    assert [lesson.task for lesson in LESSONS] == LANDERS
    assert {lesson.view for lesson in LESSONS} == {Vector(8)}
    assert {lesson.seed for lesson in LESSONS} == {5}
    with pytest.raises(ValueError, match="lander/heavy has no expert"):
        _ = LESSONS[1].teacher
    seen = [View(), View(resize="linear")]
    games = lessons.of_tasks([tasks.get("pong"), tasks.get("breakout")], 0, seen)
    assert [lesson.view for lesson in games] == seen
    with pytest.raises(ValueError):
        lessons.of_tasks(LANDERS, 0, seen)


def test_an_experts_lesson_is_its_task_as_it_sees_it_and_what_it_can_teach():
    view = View(resize="linear")
    experts = [_expert("breakout", (3, 0), view), _expert("pong", tuple(range(18)))]
    taught = lessons.of_experts(experts, 9)
    assert [(x.index, x.task, x.view, x.seed) for x in taught] == [
        (0, tasks.get("breakout"), view, 9),
        (1, tasks.get("pong"), View(), 9),
    ]
    assert [lesson.teacher for lesson in taught] == experts
    masks = np.asarray(lessons.masks(taught))
    assert masks.shape == (2, 18) and masks.dtype == bool
    assert np.flatnonzero(masks[0]).tolist() == [0, 3], "not FIRE, which nobody can teach"
    assert np.flatnonzero(masks[1]).tolist() == list(tasks.get("pong").actions)
    untaught = np.asarray(lessons.masks(lessons.of_tasks([tasks.get("breakout")], 9)))
    assert np.flatnonzero(untaught[0]).tolist() == list(tasks.get("breakout").actions)


@pytest.mark.parametrize("own", [View(), View(maximum="none"), View(resize="smooth")])
def test_a_student_by_itself_is_shown_what_pools_showed_in_its_run(own):
    """Whatever a student of its own would see; where it is an expert of a run, that run's."""
    for saw in (own, View(crop=(8, 196)), View(gray="mean"), View(padding="zero", stack=2)):
        (run,) = lessons.of_experts([_expert("pong", (0, 2), saw)], 9, [own])
        student = dataclasses.replace(_expert("pong", (0, 2), own), teacher_view=saw)
        (alone,) = lessons.of_experts([student], 9)
        assert (alone.view, alone.seen) == (run.view, own)
        (taught,) = lessons.of_experts([student], 9, [View()])
        assert (taught.view, taught.seen) == (tasks.get("pong").shown([own, View()]), View())
    (usual,) = lessons.of_experts([_expert("pong", (0, 2), own)], 9)
    assert usual.view == tasks.get("pong").shown([own, View()])


def test_seeds_are_those_that_runs_were_made_with():
    assert (COLLECT, SELECT, REPORT, SHOW) == (0, 1, 2, 3)
    assert LESSONS[2].pool_seed(REPORT) == seed_for(5, 2, 2)
    assert LESSONS[1].pool_seed(COLLECT, 40) == seed_for(5, 0, 1, 40)


def test_a_pool_begins_where_purpose_place_and_first_environment_say():
    def seen(lesson, *words, **options):
        pool = lesson.pool(2, *words, **options)
        assert pool.task is lesson.task and pool.view == lesson.view
        return pool.last.observations

    base = seen(LESSONS[0], REPORT)
    np.testing.assert_array_equal(base, seen(LESSONS[0], REPORT))
    elsewhere = lessons.of_tasks([LANDERS[1], LANDERS[0]], 5)[1]
    others = {
        "purpose": seen(LESSONS[0], SELECT),
        "another of the purpose": seen(LESSONS[0], REPORT, 1),
        "place in the run": seen(elsewhere, REPORT),
        "seed": seen(dataclasses.replace(LESSONS[0], seed=6), REPORT),
        "first": seen(LESSONS[0], REPORT, first=2),
    }
    for name, other in others.items():
        assert (base != other).any(axis=(1, 2)).all(), name
    whole = LESSONS[0].pool(4, REPORT).last.observations
    np.testing.assert_array_equal(np.concatenate([base, others["first"]]), whole)
    # The limit is the task's, unless it is said.
    short = LESSONS[0].pool(1, REPORT, max_steps=2)
    assert [short.step(np.array([0])).truncated.item() for _ in range(2)] == [False, True]
    windy = LESSONS[2].pool(1, REPORT)
    assert windy._max_steps == 400


def _draws(observations, key, games, seats):
    """Random play by turn, task and seat alone, and nothing to compile."""
    turn = jax.random.key_data(key).tolist()
    return tuple(
        np.array([np.random.default_rng((*turn, game, seat)).integers(4) for seat in row])
        for game, row in zip(games, seats, strict=True)
    ), None


def _measured(chosen, purpose=REPORT, episodes=6, steps=0, max_steps=90):
    opening = protocols.Opening(_draws, steps, _draws, protocols.REPORTING)
    protocol = protocols.Protocol(purpose, 3, opening, max_steps)
    return evaluation.measure(chosen, _draws, protocol, episodes, meshes.create())


def test_landers_are_measured_with_how_their_episodes_ended():
    """Random play ends on the ground or at the step limit, and never at rest."""
    ends = set()
    for scores in _measured(LESSONS[:2]):
        assert scores.scores.shape == scores.lengths.shape == (6,)
        assert list(scores.facts) == ["rest", "pad", "crash"]
        crash = scores.facts["crash"]
        ends |= set(crash.tolist())
        assert not scores.facts["rest"].any() and scores.unfinished == (crash == 0).sum()
        assert (scores.lengths[crash == 0] == 90).all() and scores.lengths.min() < 90
        assert scores.summary()["facts"]["crash"]["mean"] == crash.mean()
    assert ends == {0.0, 1.0}


def test_a_lander_is_measured_alike_whatever_is_measured_beside_it():
    together = _measured(LESSONS)
    for lesson, scores in zip(LESSONS, together, strict=True):
        (alone,) = _measured([lesson])
        assert alone.to_dict() == scores.to_dict()
        # Fewer episodes are the first of more.
        (fewer,) = _measured([lesson], episodes=5)
        np.testing.assert_array_equal(fewer.scores, scores.scores[:5])
        np.testing.assert_array_equal(fewer.facts["pad"], scores.facts["pad"][:5])
    backwards = _measured(LESSONS[::-1])
    assert [s.to_dict() for s in backwards] == [s.to_dict() for s in together[::-1]]


def test_everything_in_a_protocol_counts():
    base, *others = (
        _measured(LESSONS[:1], **changes)[0].to_dict()
        for changes in ({}, {"purpose": SELECT}, {"steps": 5}, {"max_steps": 70}, {"episodes": 4})
    )
    for other in others:
        assert other != base
    (unlimited,) = _measured(LESSONS[2:], max_steps=None)
    assert unlimited.lengths.max() <= 400 and unlimited.lengths.max() > 90


def test_a_clip_shows_the_landers_own_episode():
    clip = clips.record(LESSONS[1], _draws, seed=3)
    assert clip.over and clip.frames_per_second == 50
    assert clip.frames.shape[1:] == (200, 300, 3)
    again, other, cut = (
        clips.record(LESSONS[1], _draws, **options)
        for options in ({"seed": 3}, {"seed": 4}, {"seed": 3, "max_steps": 9})
    )
    np.testing.assert_array_equal(clip.frames, again.frames)
    assert clip.score == again.score != other.score
    assert not cut.over and len(cut.frames) == 10
    np.testing.assert_array_equal(cut.frames, clip.frames[:10])
