"""Which of two players is better, asked before all games are played."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from jaxdistill.play.evaluation import Scores

# Levels: how likely it may be that the one who is called worse is not.
CERTAIN = 0.01
LIKELY = 0.16  # worse by one standard error
_RESAMPLES = 1000


def is_worse(
    played: Mapping[int, Scores],
    best: Mapping[int, Scores],
    value: Callable[[Mapping[int, float]], float],
    level: float = CERTAIN,
) -> bool:
    """Whether one player is worse than another in the games that both have played.

    By a paired bootstrap: the same seats are drawn for both, of each lesson by itself, and the one
    is worse if its value is as high as the other's in a smaller share of the draws than `level`.

    Args:
      played: by lesson, its first games.
      best: the other's, at least as many; the same seats begin alike.
      value: what both are compared by, of the mean score of each lesson.
      level: `CERTAIN` while games are still to be played, `LIKELY` once all are.
    """
    generator = np.random.default_rng(0)
    ours, others = dict[int, np.ndarray](), dict[int, np.ndarray]()
    for lesson, scores in played.items():
        games = len(scores.scores)
        drawn = generator.integers(0, games, (_RESAMPLES, games))
        ours[lesson] = scores.scores[drawn].mean(axis=1)
        others[lesson] = best[lesson].scores[drawn].mean(axis=1)

    def values(means: Mapping[int, np.ndarray]) -> np.ndarray:
        rows = range(_RESAMPLES)
        return np.asarray([value({i: float(x[row]) for i, x in means.items()}) for row in rows])

    return bool((values(ours) >= values(others)).mean() < level)
