"""Whole games -> scores -> retention, with intervals."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import games as games_table
from jaxdistill import mesh as mesh_lib
from jaxdistill import rollouts
from jaxdistill.envs import MAX_STEPS, Pool, seed_for
from jaxdistill.experts.expert import Expert
from jaxdistill.games import Game
from jaxdistill.views import View


class Opening(NamedTuple):
    """Steps that another policy plays before the one that is measured, in place of human starts.

    What is scored in them counts for nobody. A game that ends in them is left out: the slot's next
    one is measured, from its beginning.
    """

    policy: rollouts.Policy
    steps: int


@dataclasses.dataclass(frozen=True)
class Scores:
    """Whole-game scores of one policy in one game.

    Attributes:
      scores: `(E,)` undiscounted, unclipped returns.
      lengths: `(E,)` steps of each episode.
      unfinished: episodes cut by the step limit.
    """

    scores: np.ndarray
    lengths: np.ndarray
    unfinished: int = 0

    @property
    def mean(self) -> float:
        """Mean score."""
        return float(self.scores.mean())

    @property
    def distinct(self) -> int:
        """How many episodes differ in (score, length): 100 copies of one game are one game."""
        return len(set(zip(self.scores.tolist(), self.lengths.tolist(), strict=True)))

    def summary(self) -> dict[str, Any]:
        """Mean, interval and counts as plain JSON values."""
        return {
            "mean": self.mean,
            "interval": list(self.interval()),
            "episodes": len(self.scores),
            "distinct": self.distinct,
            "unfinished": self.unfinished,
            "mean_steps": float(self.lengths.mean()),
        }

    def to_dict(self) -> dict[str, Any]:
        """Every episode, as plain JSON values; `from_dict` turns them back."""
        return {
            "scores": self.scores.tolist(),
            "lengths": self.lengths.tolist(),
            "unfinished": self.unfinished,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Scores:
        """The inverse of `to_dict`."""
        return cls(
            np.asarray(fields["scores"]), np.asarray(fields["lengths"]), fields["unfinished"]
        )

    def interval(self, *, level: float = 0.95, resamples: int = 10_000) -> tuple[float, float]:
        """Percentile bootstrap interval of the mean."""
        return _percentiles(_bootstrap_means(self.scores, resamples, seed=0), level)


def play_games(
    pools: Sequence[Pool],
    policy: rollouts.Policy,
    key: jax.Array,
    mesh: Mesh,
    *,
    games: Sequence[int] | None = None,
    games_per_env: int = 1,
    opening: Opening | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[Scores]:
    """Plays exactly `games_per_env` whole games in every environment slot of every pool.

    A fixed number per slot counts long and short games alike; the first E games to finish would be
    the short ones. A pool whose slots have all finished is not stepped any more, so several small
    pools of a game waste less on its longest games than one large pool does; see `split_pools`.

    Args:
      pools: fresh pools; a game already begun would count as whole.
      games: game index of each pool, 0.. by default.
      opening: who plays the first steps; by default nobody else.
      advance: called with the number of episodes that ended, for a progress bar.

    Returns:
      One `Scores` per game, in the order of `games`; episodes ordered by pool and slot.

    Raises:
      ValueError: a pool is in the middle of its games.
    """
    games = tuple(range(len(pools))) if games is None else tuple(games)
    for pool in pools:
        if pool.last.ages.any():
            raise ValueError(f"{pool.game.name}: evaluation needs a fresh pool")
    ended: list[list[list[tuple[float, int, bool]]]] = [
        [[] for _ in range(pool.num_envs)] for pool in pools
    ]
    active = list(range(len(pools)))
    turn = 0
    if opening and opening.steps:
        play = rollouts.play(pools, opening.policy, key, mesh, games=games)
        for _ in zip(range(opening.steps), play, strict=False):
            turn += 1
    # What the opening has scored in the game that each slot is in the middle of.
    begun = [np.where(pool.last.over, 0, pool.last.scores) for pool in pools]
    while active:
        play = rollouts.play(
            [pools[i] for i in active],
            policy,
            key,
            mesh,
            games=[games[i] for i in active],
            start=turn,
        )
        for played in play:
            turn += 1
            finished = 0
            for i, step in zip(active, played.steps, strict=True):
                for slot in np.flatnonzero(step.over):
                    if len(ended[i][slot]) < games_per_env:
                        cut = bool(step.truncated[slot])
                        score = float(step.scores[slot] - begun[i][slot])
                        begun[i][slot] = 0
                        ended[i][slot].append((score, int(step.ages[slot]), cut))
                        finished += 1
            if not finished:
                continue
            if advance:
                advance(finished)
            still = [i for i in active if any(len(slot) < games_per_env for slot in ended[i])]
            if still != active:
                active = still
                break
    results = []
    for game in dict.fromkeys(games):
        rows = [
            episode
            for i, slots in enumerate(ended)
            if games[i] == game
            for slot in slots
            for episode in slot
        ]
        scores, lengths, truncated = zip(*rows, strict=True)
        results.append(Scores(np.asarray(scores), np.asarray(lengths), sum(truncated)))
    return results


# Environments in one pool of an evaluation: few enough that little is stepped in vain.
_SLOTS = 4


def split_pools(
    game_list: Sequence[Game],
    episodes: int,
    *,
    seeds: Sequence[int],
    views: Sequence[View],
    max_steps: int = MAX_STEPS,
    only: Sequence[int] | None = None,
    share: tuple[int, int] = (0, 1),
) -> tuple[list[Pool], list[int]]:
    """Fresh pools with one environment slot per episode, and the game index of each pool.

    Every episode begins from a seed of its own, so none is played twice for want of slots.

    Args:
      only: game indices to make pools of; by default of all games.
      share: `(k, n)` makes only every n-th pool, from the k-th on.
    """
    pools, indices = [], []
    chosen = range(len(game_list)) if only is None else only
    plan = [(index, first) for index in chosen for first in range(0, episodes, _SLOTS)]
    for index, first in plan[share[0] :: share[1]]:
        pools.append(
            Pool(
                game_list[index],
                min(_SLOTS, episodes - first),
                seed=seeds[index] + first,
                view=views[index],
                max_steps=max_steps,
                threads=1,  # there are more pools than cores
            )
        )
        indices.append(index)
    return pools, indices


def play_everywhere(
    game_list: Sequence[Game],
    episodes: int,
    policy: rollouts.Policy,
    key: jax.Array,
    mesh: Mesh,
    *,
    seeds: Sequence[int],
    views: Sequence[View],
    max_steps: int = MAX_STEPS,
    only: Sequence[int] | None = None,
    opening: Opening | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[Scores]:
    """`episodes` whole games of every game, shared among all processes; each gets all scores.

    Args:
      only: indices of the games to play, in the order of the result; by default all.
      policy: of this process, for observations on its own devices.
      mesh: of all processes.
    """
    processes = jax.process_count()
    only = range(len(game_list)) if only is None else only
    pools, indices = split_pools(
        game_list,
        episodes,
        seeds=seeds,
        views=views,
        max_steps=max_steps,
        only=only,
        share=(jax.process_index(), processes),
    )
    own = mesh_lib.local(mesh)

    def all_advance(finished: int) -> None:
        if advance:
            advance(finished * processes)  # the others are about as far

    played = (
        play_games(pools, policy, key, own, games=indices, advance=all_advance) if pools else []
    )
    if processes == 1:
        return played
    # Every process fills equally many rows of (score, length, cut), the rest of them with NaN.
    table = np.full((len(game_list), episodes, 3), np.nan)
    for index, scores in zip(dict.fromkeys(indices), played, strict=True):
        for row in range(len(scores.scores)):
            cut = row < scores.unfinished
            table[index, row] = scores.scores[row], scores.lengths[row], cut
    results = []
    for rows in mesh_lib.gather(table, axis=1)[list(only)]:
        found = rows[~np.isnan(rows[:, 0])]
        results.append(Scores(found[:, 0], found[:, 1].astype(np.int64), int(found[:, 2].sum())))
    return results


def measure_expert(
    expert: Expert,
    *,
    episodes: int,
    epsilon: float,
    seed: int,
    sample_logits: bool = False,
    advance: Callable[[int], object] | None = None,
) -> Scores:
    """Whole-game scores of one expert in pools of its own view.

    Raises:
      ValueError: its game is unknown, or EnvPool cannot make what it sees.
    """
    if expert.game is None:
        raise ValueError(f"{expert.name} does not say which game it plays; give --game")
    if expert.view is None or not expert.view.native:
        raise ValueError(
            f"{expert.name} cannot be played yet: pools make only EnvPool's own views, and it sees "
            f"{expert.view or 'vectors'}"
        )
    pools, indices = split_pools(
        [games_table.get(expert.game)], episodes, seeds=[seed_for(seed)], views=[expert.view]
    )
    policy = rollouts.expert_actor([expert], epsilon=epsilon, sample_logits=sample_logits)
    return play_games(
        pools, policy, jax.random.key(seed), mesh_lib.create(), games=indices, advance=advance
    )[0]


def retention(student: float, expert: float, random: float) -> float:
    """(student - random) / (expert - random); NaN where the expert plays like random."""
    return (student - random) / (expert - random) if expert != random else float("nan")


def normalised_mean(chosen: Sequence[Game], scores: Sequence[Scores]) -> float:
    """The mean human-normalised score, with the plain score of games where that is not known."""
    normalised = [game.human_normalised(s.mean) for game, s in zip(chosen, scores, strict=True)]
    return float(
        np.mean([s.mean if n is None else n for n, s in zip(normalised, scores, strict=True)])
    )


def retention_interval(
    student: Scores,
    expert: Scores,
    random: Scores,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the retention; all three are resampled."""
    student_means, expert_means, random_means = (
        _bootstrap_means(x.scores, resamples, seed)
        for seed, x in enumerate((student, expert, random))
    )
    span = expert_means - random_means
    ratios = np.divide(
        student_means - random_means, span, out=np.full_like(span, np.nan), where=span != 0
    )
    return _percentiles(ratios, level)


def _bootstrap_means(scores: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return scores[generator.integers(0, len(scores), (resamples, len(scores)))].mean(axis=1)


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    if np.isnan(values).all():
        return (float("nan"), float("nan"))
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return float(low), float(high)
