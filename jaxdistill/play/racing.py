"""Which of two players is better, asked before all games are played."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from jaxdistill.play.evaluation import Scores

# Levels: how likely it may be that the one who is called worse is not.
CERTAIN = 0.005  # of each student it is asked twice at most, which makes 0.01; see `certain`
LIKELY = 0.16  # worse by one standard error, of one comparison
_RESAMPLES = 1000


def certain(before: int) -> float:
    """The level for the games of one player against the best of those `before` it.

    The best of several that are equal is the luckiest in the very games that all of them play. So
    `CERTAIN` is shared among them: whoever is worse than the best at this level is so than one of
    them, and the chances of that add up to `CERTAIN` at most.
    """
    return CERTAIN / max(1, before)


def is_worse(
    played: Mapping[int, Scores],
    best: Mapping[int, Scores],
    value: Callable[[Mapping[int, float]], float],
    level: float = CERTAIN,
) -> bool:
    """Whether one player is worse than another in the games that both have played.

    By Student's t: what one is worth more than the other, over the standard error of that. The
    error is by a paired bootstrap: the same seats are drawn for both, of each lesson by itself. Of
    few games it is too small, by sqrt((n - 1) / n), where n is the fewest of a lesson.

    The share of draws in which one is better would not tell: of four games that are all lost every
    draw is lost, and of players that are equal one in 16 loses four. Where one loses all games by
    as much, so that there is no error, that share is what is asked for (a sign test).

    `LIKELY` is of one comparison. The best so far is the luckiest of several equal ones, so of many
    equal players an early one tends to stay: the last of 4 is passed over in 32% of all runs, of 8
    in 49% and of 16 in 63%. Where they are equal, that costs nothing.

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
