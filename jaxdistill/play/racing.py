"""Which of two players is better, asked before all games are played."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from jaxdistill.play.scoring import Scores

# Levels: how likely it may be that the one who is called worse is not.
CERTAIN = 0.005  # of each student it is asked twice at most, which makes 0.01; see `certain`
LIKELY = 0.16  # worse by one standard error, of one comparison
_RESAMPLES = 1000


def certain(before: int) -> float:
    """The level for the games of one player against the best of those `before` it.

    The best of several equal players is the luckiest in the very games that all of them play. So
    `CERTAIN` is shared among them: a player that tests as worse than the best tests as worse than
    one of them, so by the union bound a wrong verdict has a chance of at most `CERTAIN`.
    """
    return CERTAIN / max(1, before)


def is_worse(
    played: Mapping[int, Scores],
    best: Mapping[int, Scores],
    value: Callable[[Mapping[int, float]], float],
    level: float = CERTAIN,
) -> bool:
    """Whether one player is worse than another in the games that both have played.

    By Student's t: the difference of their values over its standard error. The error is a paired
    bootstrap's: the same seats are drawn for both players, in each lesson by itself. Of few games
    it is too small, by sqrt((n - 1) / n), where n is the fewest games of a lesson.

    The share of bootstrap draws that a player loses would not do: who loses all of four games loses
    every draw, and so does one in 16 of equal players. Where a player loses all games by the same
    margin, there is no error, and the chance of equal players to lose so many is compared with
    `level` instead (a sign test).

    `LIKELY` is for a single comparison. The best so far is the luckiest of several equal players,
    so of many equal ones an early one tends to stay: the last of 4 is passed over in 32% of all
    runs, of 8 in 49% and of 16 in 63%. Where they are equal, that costs nothing.

    Args:
      played: by lesson, its first games.
      best: the other's, at least as many; the same seats begin alike.
      value: what both are compared by, of the mean score of each lesson.
      level: `certain` while games are still to be played, `LIKELY` once all are.
    """
    # Here and not above: a sixth of a program's start, and many programs measure nothing.
    from scipy import special

    generator = np.random.default_rng(0)
    ours, others = dict[int, np.ndarray](), dict[int, np.ndarray]()
    for lesson, scores in played.items():
        games = len(scores.scores)
        # All games as they are, and then the draws.
        rows = np.vstack([np.arange(games), generator.integers(0, games, (_RESAMPLES, games))])
        ours[lesson] = scores.scores[rows].mean(axis=1)
        others[lesson] = best[lesson].scores[rows].mean(axis=1)

    def values(means: Mapping[int, np.ndarray]) -> np.ndarray:
        rows = range(_RESAMPLES + 1)
        return np.asarray([value({i: float(x[row]) for i, x in means.items()}) for row in rows])

    more, *drawn = values(ours) - values(others)
    n, error = min(len(scores.scores) for scores in played.values()), float(np.std(drawn))
    if n == 1 or error <= 1e-9 * abs(more):
        return bool(more < 0 and (n == 1 or 0.5**n <= level))
    return bool(more < special.stdtrit(n - 1, level) * math.sqrt(n / (n - 1)) * error)
