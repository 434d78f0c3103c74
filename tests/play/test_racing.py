"""Tests for which of two students is better, asked before all games are played."""

import numpy as np

from jaxdistill.play import racing
from jaxdistill.play.evaluation import Scores


def _played(*scores):
    starts = np.arange(len(scores))
    return Scores(np.asarray(scores, float), np.ones_like(starts), starts, starts < 0)


def _mean(means):
    return float(np.mean([*means.values()]))


def test_one_who_is_worse_in_the_same_games_is_told_however_games_differ():
    """Each seat is worth what it is to both: only what differs in it counts."""
    seats = np.array([0.0, 100.0, 7.0, 300.0, 50.0, 10.0, 2.0, 90.0])
    best = {0: _played(*seats, 1e6)}  # which has played more
    assert racing.is_worse({0: _played(*(seats - [3, 4, 3, 5, 3, 4, 4, 3]))}, best, _mean)
    assert not racing.is_worse({0: _played(*(seats + 1))}, best, _mean)
    assert not racing.is_worse({0: _played(*seats)}, best, _mean), "equal is not worse"


def test_one_bad_game_is_not_enough():
    best = {0: _played(10, 10, 10, 10, 10, 10, 10, 10)}
    other = {0: _played(11, 11, 11, 11, 11, 11, 11, 0)}
    assert not racing.is_worse(other, best, _mean)
    assert not racing.is_worse(other, best, _mean, racing.LIKELY)


def test_a_standard_error_is_likely_and_not_certain():
    """It loses 2 in 8 games at a deviation of 3: 1.9 standard errors, one draw of 33."""
    best = {0: _played(*[10] * 8)}
    other = {0: _played(5, 11, 5, 11, 5, 11, 5, 11)}
    assert racing.is_worse(other, best, _mean, racing.LIKELY)
    assert not racing.is_worse(other, best, _mean, racing.CERTAIN)


def test_lessons_count_as_their_value_says():
    best = {0: _played(10, 11, 10, 11), 4: _played(1, 2, 1, 2)}
    worse = {0: _played(8, 9, 8, 9), 4: _played(9, 9, 9, 9)}
    assert not racing.is_worse(worse, best, _mean)
    assert racing.is_worse(worse, best, lambda means: means[0])
    assert racing.is_worse(worse, best, lambda means: min(means[0], 100) + min(means[4], 1))
