"""Tests for which of two students is better, asked before all games are played."""

import numpy as np
import pytest

from jaxdistill.play import racing
from jaxdistill.play.scoring import Scores


def _played(*scores):
    starts = np.arange(len(scores))
    return Scores(np.asarray(scores, float), np.ones_like(starts), starts, starts < 0)


def _first(means):
    return means[0]


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
    """It loses 2 a game in 8 games, at a deviation of 3.2: 1.8 standard errors."""
    best = {0: _played(*[10] * 8)}
    other = {0: _played(5, 11, 5, 11, 5, 11, 5, 11)}
    assert racing.is_worse(other, best, _mean, racing.LIKELY)
    assert not racing.is_worse(other, best, _mean, racing.CERTAIN)


@pytest.mark.parametrize("games", [16, 64])
def test_likely_is_one_standard_error(games):
    """Of 16 games Student's t asks for 1.03 of them, of 64 for 1.00."""
    best = np.resize([0.0, 50.0, 7.0], games)
    differences = np.resize([1.0, -1.0], games)
    error = differences.std(ddof=1) / np.sqrt(games)
    for lost, worse in ((0.92, False), (1.11, True)):
        ours = {0: _played(*(best + differences - lost * error))}
        assert racing.is_worse(ours, {0: _played(*best)}, _mean, racing.LIKELY) is worse
        assert not racing.is_worse(ours, {0: _played(*best)}, _mean)


@pytest.mark.parametrize(
    ("games", "certain", "likely"),
    [(2, False, False), (3, False, True), (7, False, True), (8, True, True)],
)
def test_games_that_are_all_lost_by_as_much_have_no_error_and_are_counted(games, certain, likely):
    """Of players that are equal one in 2^7 = 128 loses seven, one in 256 eight."""
    best = np.resize([0.1, 50.3, 7.7], games)
    pair = {0: _played(*(best - 1))}, {0: _played(*best)}
    assert racing.is_worse(*pair, _mean) is certain
    assert racing.is_worse(*pair, _mean, racing.LIKELY) is likely
    assert not racing.is_worse(*pair[::-1], _mean, racing.LIKELY)


def test_one_game_is_compared_as_it_is():
    assert racing.is_worse({0: _played(1)}, {0: _played(2)}, _mean)
    assert not racing.is_worse({0: _played(2)}, {0: _played(2)}, _mean)


DRAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "won or lost": lambda rng, size: 2.0 * (rng.random(size) < 0.5),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("first", [4, 8])
def test_equal_players_are_called_worse_as_rarely_as_is_said(first, draw, monkeypatch):
    """In 1% of two looks, the second at twice the games; and in 16% once all are played.

    One who is worse by two deviations of what the games differ by is seen at one of the looks.
    """
    monkeypatch.setattr(racing, "_RESAMPLES", 200)
    rng, pairs = np.random.default_rng(0), 300
    called = dict.fromkeys(("equal", "likely", "worse"), 0)
    for _ in range(pairs):
        ours, best = DRAWS[draw](rng, (2, 2 * first))

        def looks(best, ours=ours):
            halves = [{0: _played(*ours[:games])} for games in (first, 2 * first)]
            return any(racing.is_worse(half, {0: _played(*best)}, _first) for half in halves)

        called["equal"] += looks(best)
        called["worse"] += looks(best + 2 * np.sqrt(2))
        whole = ({0: _played(*ours)}, {0: _played(*best)})
        called["likely"] += racing.is_worse(*whole, _first, racing.LIKELY)
    assert called["equal"] <= 0.02 * pairs, called
    assert called["worse"] >= 0.85 * pairs, called
    assert 0.11 * pairs <= called["likely"] <= 0.21 * pairs, called


def test_lessons_count_as_their_value_says():
    best = {0: _played(10, 11, 10, 11), 4: _played(1, 2, 1, 2)}
    worse = {0: _played(8, 9, 7, 9), 4: _played(9, 9, 9, 9)}
    assert not racing.is_worse(worse, best, _mean)
    assert racing.is_worse(worse, best, lambda means: means[0])
    assert racing.is_worse(worse, best, lambda means: min(means[0], 100) + min(means[4], 1))


@pytest.mark.parametrize("draw", DRAWS)
def test_who_is_as_good_as_all_before_is_called_worse_than_the_luckiest_as_rarely(
    draw, monkeypatch
):
    """The last of 16 equals, against the best of 15 in the very same games: 1% of two looks.

    At the level of one comparison it would be 3 to 5%.
    """
    monkeypatch.setattr(racing, "_RESAMPLES", 100)
    rng, runs, before, first = np.random.default_rng(0), 400, 15, 8
    called = dict.fromkeys(("equal", "worse", "at one level"), 0)
    for _ in range(runs):
        *others, ours = DRAWS[draw](rng, (before + 1, 2 * first))
        best = max(others, key=np.mean)

        def looks(ours, level, best=best):
            halves = [{0: _played(*ours[:games])} for games in (first, 2 * first)]
            return any(racing.is_worse(half, {0: _played(*best)}, _first, level) for half in halves)

        called["equal"] += looks(ours, racing.certain(before))
        called["worse"] += looks(ours - 3, racing.certain(before))
        called["at one level"] += looks(ours, racing.CERTAIN)
    assert called["equal"] <= 0.01 * runs < 0.02 * runs < called["at one level"], called
    assert called["worse"] >= 0.85 * runs, called


def test_the_certainty_is_shared_among_those_before():
    assert [racing.certain(before) for before in (0, 1, 4)] == [0.005, 0.005, 0.00125]
