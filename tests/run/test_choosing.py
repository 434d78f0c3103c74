"""Which student is chosen where an expert plays no better than at random, and how often one loses.

Nothing is played: a run is what `choosing` asks of one, and scores are made up.
"""

import math
import types

import numpy as np
import pytest

from jaxdistill import tasks
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.play import racing, scoring
from jaxdistill.run import choosing, distill_settings

SEATS = np.resize([-1.0, 1.0], 16)  # games differ by so much from their mean


def scored(mean, seats=range(16)):
    """Games of a mean score."""
    starts = np.asarray(seats)
    return scoring.Scores(mean + SEATS[starts], np.ones_like(starts), starts, starts < 0)


def a_run(*names, follow=False, target=None):
    """What is asked of a run of these games."""
    settings = distill_settings.Settings(
        experts=(ExpertSource("x"),),
        collect=distill_settings.Collect(follow=follow),
        learn=distill_settings.Learn(target_retention=target),
        evaluate=distill_settings.Evaluate(select_episodes=16),
    )
    return types.SimpleNamespace(
        settings=settings,
        names=names,
        deciding=[*range(len(names))],
        lessons=[types.SimpleNamespace(task=tasks.get(name)) for name in names],
        student_policy=lambda params: "student",
        expert_policy=lambda: "experts",
    )


def baselines(*pairs):
    """Of means of expert and random play, one pair a game."""
    expert, random = ([scored(mean) for mean in who] for who in zip(*pairs, strict=True))
    return scoring.Baselines(random, expert)


def test_an_expert_at_or_below_random_play_has_no_say():
    """Of 0.9 where random play has 1.0: whoever scores more would have kept less."""
    run = a_run("pong", "qbert")
    told = choosing.without_unknown_retention(baselines((10.0, 0.0), (0.9, 1.0)))
    assert choosing._kept(told, {0: 5.0, 1: 900.0}) == pytest.approx([0.5, math.nan], nan_ok=True)
    for second in (-900.0, 0.0, 900.0):
        assert choosing.value_of(run, told, {0: 5.0, 1: second}) == pytest.approx(0.5)
    # Nor has one that is hardly better, or far worse; whoever is clearly better counts.
    for expert, kept in ((1.1, math.nan), (-20.0, math.nan), (11.0, 0.2)):
        told = choosing.without_unknown_retention(baselines((10.0, 0.0), (expert, 1.0)))
        shares = choosing._kept(told, {0: 5.0, 1: 3.0})
        assert shares == pytest.approx([0.5, kept], nan_ok=True)
        assert choosing.value_of(run, told, {0: 5.0, 1: 3.0}) == pytest.approx(np.nanmean(shares))
    assert not choosing.Candidate(0.5, (0.99, math.nan), {}).reaches(0.5)


def test_where_no_expert_is_known_to_beat_random_play_scores_themselves_count():
    """Of Pong random play has -20.7, people 14.6; of people in Carnival nothing is known."""
    run, told = (
        a_run("pong", "carnival"),
        choosing.without_unknown_retention(baselines((0.0, 0.0), (7.0, 8.0))),
    )
    value = choosing.value_of(run, told, {0: -3.05, 1: 12.0})
    assert value == pytest.approx((0.5 + (12 - 8) / 8) / 2)
    assert choosing.value_of(run, told, {0: -3.05, 1: 20.0}) > value
    followed = a_run("pong", "carnival", follow=True)
    known = choosing.without_unknown_retention(baselines((20.0, -20.0), (70.0, 8.0)))
    assert choosing.value_of(followed, known, {0: -3.05, 1: 12.0}) == pytest.approx(value)


def select(run, told, best, means, before=0, experts=()):
    """Who is chosen, what is to be logged, and the levels that were asked for.

    Args:
      means: what the student scores.
      experts: what the experts do by now, where they are followed.
    """
    levels, is_worse = [], racing.is_worse

    def measure(policy, purpose, seats, only):
        return [*map(scored, experts)] if policy == "experts" else [*map(scored, means, seats)]

    run.measure = measure

    def asked(played, best, value, level):
        levels.append(level)
        return is_worse(played, best, value, level)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(racing, "is_worse", asked)
        state = types.SimpleNamespace(eval_params=None)
        chosen, row, _ = choosing.select(run, state, told, before, best)
    return chosen, row, levels


def test_what_is_not_known_is_in_no_mean_that_is_logged():
    run = a_run("pong", "qbert")
    told = choosing.without_unknown_retention(baselines((10.0, 0.0), (0.9, 1.0)))
    chosen, row, _ = select(run, told, None, (5.0, 900.0))
    assert row["mean_retention"] == row["chosen_by"] == chosen.value == pytest.approx(0.5)
    assert math.isnan(row["retention/qbert"]) and row["score/qbert"] == 900.0
    again = choosing.Candidate.from_dict(chosen.to_dict())
    assert again.kept == pytest.approx((0.5, math.nan), nan_ok=True)
    unknown = choosing.without_unknown_retention(baselines((0.0, 0.0), (0.9, 1.0)))
    _, row, _ = select(run, unknown, None, (5.0, 900.0))
    assert math.isnan(row["mean_retention"]) and math.isfinite(row["chosen_by"])


@pytest.mark.parametrize("before", [0, 1, 2, 9])
def test_a_student_is_held_against_all_that_were_measured_before(before):
    run, told = a_run("pong"), choosing.without_unknown_retention(baselines((10.0, 0.0)))
    best, _, _ = select(run, told, None, (5.0,))
    _, _, levels = select(run, told, best, (5.0,), before)
    certain = racing.CERTAIN / max(1, before)
    assert levels == [certain, certain, racing.LIKELY]


@pytest.mark.parametrize(
    ("student", "expert", "kept", "ends"),
    [(9.5, 20.0, 0.475, False), (19.0, 20.0, 0.95, True), (19.0, 0.1, math.nan, False)],
)
def test_what_is_kept_of_an_expert_that_is_followed_is_of_how_it_plays_by_then(
    student, expert, kept, ends
):
    """It began with 10, where random play has 0."""
    run, told = (
        a_run("pong", follow=True),
        choosing.without_unknown_retention(baselines((10.0, 0.0))),
    )
    chosen, row, _ = select(run, told, None, (student,), experts=(expert,))
    assert row["expert_score/pong"] == pytest.approx(expert)
    assert row["retention/pong"] == pytest.approx(kept, nan_ok=True)
    assert chosen.reaches(0.9) == ends


def test_who_was_not_played_to_the_end_has_reached_no_target():
    """It keeps 60% of what ends the run at 50, and is clearly worse than who keeps 90."""
    run, told = (
        a_run("pong", target=0.5),
        choosing.without_unknown_retention(baselines((10.0, 0.0))),
    )
    best, _, _ = select(run, told, None, (9.0,))
    chosen, row, _ = select(run, told, best, (6.0,))
    assert row["select_games"] < 16 and row["retention/pong"] == pytest.approx(0.6)
    assert chosen is None


def test_experts_are_held_against_random_play_once_and_not_at_every_draw(monkeypatch):
    run, told = a_run("pong"), choosing.without_unknown_retention(baselines((10.0, 0.0)))
    best, _, _ = select(run, told, None, (5.0,))
    monkeypatch.setattr(scoring, "retention_interval", None)
    chosen, _, levels = select(run, told, best, (5.0,))
    assert chosen is not None and len(levels) == 3
