"""Tests for what is made of scores: retention, and intervals, by hand."""

import dataclasses
import json

import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.play import scoring
from jaxdistill.play.scoring import Scores
from jaxdistill.tasks import atari


def _scores(*scores, lengths=None, unfinished=0, **facts):
    lengths = np.array(lengths or [1] * len(scores))
    facts = {name: np.array(numbers, float) for name, numbers in facts.items()}
    cut = np.arange(len(scores)) < unfinished
    return Scores(np.array(scores, float), lengths, np.arange(len(scores)), cut, facts)


def test_episodes_are_cut_and_joined_as_they_were_played():
    whole = _scores(1.0, 2.0, 3.0, lengths=[4, 5, 6], unfinished=1, rest=[0, 1, 0])
    first = whole.first(2)
    assert first.to_dict() == {
        "scores": [1.0, 2.0],
        "lengths": [4, 5],
        "starts": [0, 1],
        "cut": [True, False],
        "facts": {"rest": [0.0, 1.0]},
    }
    last = _scores(3.0, lengths=[6], rest=[0])
    joined = first.joined(dataclasses.replace(last, starts=np.array([2])))
    assert joined.to_dict() == whole.to_dict() and joined.unfinished == 1
    assert whole.first(9).to_dict() == whole.to_dict()


def test_scores_of_games_are_on_the_human_scale_where_that_is_known():
    # Of Pong random play has -20.7, people 14.6: -3.05 is half way. Of people in Carnival nothing
    # is known: 1,200 points are half as much again as the 800 of random play.
    chosen = [tasks.get("pong"), tasks.get("carnival")]
    scores = scoring.normalised(chosen, [-3.05, 1200.0], [-21.0, 800.0])
    assert scores.tolist() == pytest.approx([0.5, 0.5])
    # The unit is the same where nobody is held against people.
    of_a_life = chosen[0].under(atari.Rules(end_at_life=True))
    assert of_a_life.human_normalised(-3.05) is None
    assert scoring.normalised([of_a_life], [-3.05], [None]).tolist() == [scores[0]]
    # Less than a point is no unit, and where random play is not known its score is no better.
    for mean, random, score in ((3.0, -0.5, 3.5), (3.0, -2.0, 2.5), (3.0, None, 3.0)):
        assert scoring.normalised(chosen[1:], [mean], [random]) == pytest.approx(score)


def test_the_bootstrap_interval_by_hand(monkeypatch):
    # Two games, 0 and 10: a resample's mean is 0, 5 or 10 with chances 1/4, 1/2, 1/4.
    scores = _scores(0.0, 10.0)
    assert scores.interval() == (0.0, 10.0)

    def at(level):
        monkeypatch.setattr(scoring, "_LEVEL", level)
        return scores.interval()

    # Student's t of one degree of freedom is 0.158 at 55%; times sqrt(2), the normal distribution
    # has 41% below it: from the 41st to the 59th percentile.
    assert at(0.1) == (5.0, 5.0)
    assert at(0.4) == (0.0, 10.0)  # 0.727: from the 15th to the 85th
    assert _scores(7.0, 7.0, 7.0).interval() == (7.0, 7.0)


def test_one_game_says_nothing_of_others():
    one, ten, none = _scores(7.0), _scores(*range(10, 20)), _scores(*range(10))
    assert np.isnan(one.interval()).all()
    assert not np.isnan(scoring.retention_interval(ten, ten, none)).any()
    for student, expert in ((one, ten), (ten, one), (one, one)):
        assert np.isnan(scoring.retention_interval(student, expert, none)).all()
    told = _scores(7.0, rest=[1]).summary()
    intervals = (told["interval"], told["steps_interval"], told["facts"]["rest"]["interval"])
    assert np.isnan(intervals).all() and told["mean"] == 7.0


def test_the_interval_is_as_wide_as_the_normal_one_where_that_holds():
    values = np.random.default_rng(0).normal(100, 15, 400)
    low, high = _scores(*values).interval()
    half = 1.96 * values.std() / 20
    np.testing.assert_allclose([low, high], [values.mean() - half, values.mean() + half], atol=0.15)


def test_the_interval_is_reproducible():
    scores = _scores(*range(20))
    assert scores.interval() == scores.interval()


def test_an_interval_leaves_out_as_much_below_as_above():
    values = np.random.default_rng(0).standard_normal(30)
    low, high = _scores(*values).interval()
    assert _scores(*-values).interval() == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(
    ("student", "expert", "random", "kept"),
    [
        (15.0, 25.0, 5.0, 0.5),
        (-21.0, 20.0, -21.0, 0.0),
        (20.0, 20.0, -21.0, 1.0),
        (30.0, 25.0, 5.0, 1.25),
        (0.0, 25.0, 5.0, -0.25),
    ],
)
def test_retention_by_hand(student, expert, random, kept):
    assert scoring.retention(student, expert, random) == pytest.approx(kept)


def test_a_score_is_held_against_expert_and_random_play_of_its_own_lesson():
    baselines = scoring.Baselines(
        random=[_scores(0.0), _scores(1.0, 3.0)], expert=[_scores(9.0), _scores(10.0, 14.0)]
    )
    assert baselines.retention(1, 7.0) == pytest.approx((7 - 2) / (12 - 2))


def test_retention_is_undefined_where_the_expert_plays_like_random():
    assert np.isnan(scoring.retention(3.0, 5.0, 5.0))
    interval = scoring.retention_interval(_scores(1.0, 2.0), _scores(5.0, 5.0), _scores(5.0))
    assert np.isnan(interval).all() and len(interval) == 2


def test_nothing_bounds_what_is_kept_of_an_expert_that_may_be_no_better_than_random_play():
    """Nor of one that is worse: who plays as badly would have kept all of it."""
    student, random = _scores(3.0, 4.0), _scores(*range(10))
    for expert in (_scores(*range(1, 11)), _scores(*range(-1, 9)), _scores(*range(-20, -10))):
        assert np.isnan(scoring.retention_interval(student, expert, random)).all()
    # In 1 draw of 30 it is at or below random play: an interval leaves out 1 in 40 on a side.
    hardly = _scores(*(score + 2.4 for score in range(10)))
    assert np.isnan(scoring.retention_interval(student, hardly, random)).all()
    clearly = _scores(*(score + 2.75 for score in range(10)))  # in 1 draw of 66
    assert np.isfinite(scoring.retention_interval(student, clearly, random)).all()
    low, high = scoring.retention_interval(student, _scores(*range(20, 30)), random)
    assert -1 < low < high < 1


def test_what_rounding_leaves_of_no_difference_divides_nothing():
    student, random = _scores(3.0, 4.0), _scores(*range(10))
    expert = _scores(*(score + 2.8 for score in range(10)))
    low, high = scoring.retention_interval(student, expert, random)
    assert -100 < low < high < 100


def test_the_interval_of_the_retention_by_hand():
    still = _scores(15.0, 15.0), _scores(25.0, 25.0), _scores(5.0)
    constant = scoring.retention_interval(*still)
    assert constant == (0.5, 0.5)
    # The student's mean is 0, 5 or 10, the others stand still: 0, 0.5 or 1.
    student = _scores(0.0, 10.0)
    interval = scoring.retention_interval(student, _scores(10.0, 10.0), _scores(0.0))
    assert interval == (0.0, 1.0)
    # A wavering expert makes it wider: at worst 0 of 5 to 15, at best 10 of 5.
    wide = scoring.retention_interval(student, _scores(5.0, 15.0), _scores(0.0))
    assert wide == (0.0, 2.0)


def test_student_and_expert_are_resampled_independently():
    # The same games twice: resampled together the retention would be exactly 1.
    scores = _scores(*range(1, 11))
    low, high = scoring.retention_interval(scores, scores, _scores(0.0))
    assert low < 0.8 and high > 1.2


def test_distinct_games_differ_in_score_or_length():
    scores = _scores(1.0, 1.0, 2.0, 1.0, 2.0, lengths=[5, 5, 5, 6, 5])
    assert scores.distinct == 3


def test_a_summary_holds_plain_numbers():
    summary = _scores(0.0, 10.0, 0.0, 10.0, lengths=[1, 2, 1, 2], unfinished=1).summary()
    assert json.loads(json.dumps(summary)) == summary
    interval = summary.pop("interval")
    assert interval == [0.0, 10.0]
    assert summary == {
        "mean": 5.0,
        "episodes": 4,
        "distinct": 2,
        "distinct_starts": 4,
        "unfinished": 1,
        "mean_steps": 1.5,
    }


def test_a_summary_holds_the_mean_and_interval_of_every_fact():
    scores = _scores(5.0, 7.0, rest=[0, 1], crash=[1, 1])
    assert scores.summary()["facts"] == {
        # A resample's mean is 0, 1/2 or 1.
        "rest": {"mean": 0.5, "interval": [0.0, 1.0]},
        "crash": {"mean": 1.0, "interval": [1.0, 1.0]},
    }
    again = Scores.from_dict(json.loads(json.dumps(scores.to_dict())))
    assert again.summary() == scores.summary()
    assert "facts" not in _scores(5.0).summary() and "facts" not in _scores(5.0).to_dict()


def test_scores_survive_json():
    scores = _scores(1.5, -2.0, lengths=[10, 20], unfinished=1)
    again = Scores.from_dict(json.loads(json.dumps(scores.to_dict())))
    np.testing.assert_array_equal(again.scores, scores.scores)
    np.testing.assert_array_equal(again.lengths, scores.lengths)
    np.testing.assert_array_equal(again.starts, scores.starts)
    assert again.unfinished == 1
    assert again.summary() == scores.summary()


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": [], "lengths": [], "starts": []},
        {"lengths": [10]},
        {"starts": [[1], [2]]},
        {"scores": [1.5, float("nan")]},
        {"scores": [1.5, None]},
        {"cut": [True]},
        {"cut": [0.5, 1.0]},
        {"lengths": [1.5, 2.0]},
        {"facts": {"rest": [1.0]}},
        {"facts": {"rest": [1.0, 0.0, 1.0]}},
        {"facts": {"rest": [1.0, float("inf")]}},
    ],
)
def test_scores_that_cannot_be_are_refused(changes):
    fields = _scores(1.5, -2.0).to_dict() | changes
    with pytest.raises((ValueError, TypeError)):
        Scores.from_dict(fields)
