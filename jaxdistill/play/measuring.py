"""Playing what is not known yet, and until it is known well enough.

`measure` plays so many games, `measure_until_precise` as many as a retention needs, and
`measure_alone` those of one expert; each asks the `Records` first and tells them of what it plays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdistill import meshes, preemption, terminal
from jaxdistill.experts.expert import Teacher
from jaxdistill.play import evaluation, rollouts, scoring
from jaxdistill.play.lessons import Lesson, choices, of_experts
from jaxdistill.play.players import Player
from jaxdistill.play.protocols import Protocol, Terms
from jaxdistill.play.records import Records
from jaxdistill.play.scoring import Comparison, Scores
from jaxdistill.tasks.views import AnyView

_AT_ONCE = 1024  # games: the emulators of more would take the machine's memory
_OF_ONE = 256  # of one lesson: they are kept before the next are played


def measure(
    lessons: Sequence[Lesson],
    player: Player,
    protocol: Protocol,
    episodes: int | Sequence[int],
    mesh: Mesh,
    records: Records,
) -> list[Scores]:
    """As `evaluation.measure`, but only what is not known is played, and then kept.

    A few lessons are played at a time, of each some hundred games, and kept when they have ended.

    Args:
      episodes: of each lesson, or of all, from the first seat on; see `Player.most_games`.
      mesh: of all processes; the leading one reads and writes.

    Raises:
      Preempted: a signal has come; several processes end after lessons that were played together.
    """
    given = [episodes] * len(lessons) if isinstance(episodes, int) else episodes
    wanted = [min(games, player.most_games or games) for games in given]
    known = _find(lessons, player, protocol, records)
    seats = [
        range(0 if x is None else len(x.scores), games)
        for x, games in zip(known, wanted, strict=True)
    ]
    missing = [i for i, games in enumerate(seats) if games]
    for i, scores in enumerate(known):
        if scores is not None and i not in missing and meshes.leads():
            records.keep(lessons[i], protocol, player, scores.first(wanted[i]), found=wanted[i])
    if missing:
        total = sum(len(seats[i]) for i in missing)
        of_one = max(_OF_ONE, lessons[0].task.suite.pool_size)
        with terminal.progress(player.name, total, "games", steady=False) as advance:
            for part in _parts(missing, seats, of_one):
                played = evaluation.measure(
                    [lessons[i] for i in part],
                    player.policy,
                    protocol,
                    [*part.values()],
                    mesh,
                    advance=advance,
                )
                for i, scores in zip(part, played, strict=True):
                    old = known[i]
                    known[i] = whole = scores if old is None else old.joined(scores)
                    if meshes.leads():
                        records.keep(lessons[i], protocol, player, whole, found=seats[i].start)
                # One process stops within its games.
                if jax.process_count() > 1 and meshes.any_of(preemption.asked()):
                    raise preemption.Preempted
    return [x.first(games) for x, games in zip(known, wanted, strict=True) if x is not None]


def _parts(
    chosen: Sequence[int], seats: Sequence[range], of_one: int
) -> Iterator[dict[int, range]]:
    """Which seats of the `chosen` lessons are played together, by lesson.

    Those of one lesson, or `_AT_ONCE` in all at most; of each lesson `of_one` at most.
    """
    part, games = dict[int, range](), 0
    for first in range(0, max(len(seats[lesson]) for lesson in chosen), of_one):
        for lesson in chosen:
            some = seats[lesson][first : first + of_one]
            if not some:
                continue
            if part and (lesson in part or games + len(some) > _AT_ONCE):
                yield part
                part, games = {}, 0
            part[lesson] = some
            games += len(some)
    yield part


def _find(
    lessons: Sequence[Lesson], player: Player, protocol: Protocol, records: Records
) -> list[Scores | None]:
    """What the leading process knows, in all of them."""
    found: list[Any] = []
    if meshes.leads():
        known = (records.find(lesson, protocol, player) for lesson in lessons)
        found = [None if x is None else x.to_dict() for x in known]
    return [None if x is None else Scores.from_dict(x) for x in meshes.broadcast_json(found)]


def measure_until_precise(
    lessons: Sequence[Lesson],
    players: Mapping[str, Player],
    protocol: Protocol,
    mesh: Mesh,
    records: Records,
    *,
    episodes: int,
    width: float,
    expert_ratio: int = 1,
) -> dict[int, Comparison]:
    """Games of "random", "expert" and "student" until each lesson's retention is known.

    A lesson is played until half of its retention's 95% interval is at most `width`, asked after
    16, 32, 64, ... games of the student alone: with so few questions and `Scores.interval` as it
    is, the interval that ends the games holds what it says (`tests/play/test_measuring.py` plays
    that through). How wide it is tells how many games will be asked for at least (`_ahead`), and
    before the student's first how wide its expert's would make it. These are played at once: in
    parts, each part would wait for its longest game. The answers are the same.

    Args:
      players: "random", "expert" and "student".
      episodes: so many of the student's at most.
      width: 0 plays them all.
      expert_ratio: games of the expert for each of the student's.

    Returns:
      By the lessons' indices.
    """
    played: dict[str, dict[int, Scores]] = {who: {} for who in players}

    def play(who: str, due: Mapping[int, int]) -> None:
        """So many of each lesson's games, where fewer are known."""
        ratio, known = expert_ratio if who == "expert" else 1, played[who]
        few = {
            index: ratio * games
            for index, games in due.items()
            if index not in known or len(known[index].scores) < ratio * games
        }
        if few:
            chosen = [lesson for lesson in lessons if lesson.index in few]
            wanted = [few[lesson.index] for lesson in chosen]
            measured = measure(chosen, players[who], protocol, wanted, mesh, records)
            known |= {lesson.index: x for lesson, x in zip(chosen, measured, strict=True)}

    def compared(index: int, games: int, student: str) -> Comparison:
        return Comparison(
            random=played["random"][index].first(games),
            expert=played["expert"][index].first(expert_ratio * games),
            student=played[student][index].first(games),
        )

    scores: dict[int, Comparison] = {}
    due = [lesson.index for lesson in lessons]
    ahead = dict.fromkeys(due, 0)
    for games in rounds(episodes) if width else (episodes,):
        for who in ("random", "expert", "student"):
            if who == "student" and width and not scores:
                likely = {index: _half_width(compared(index, games, "expert")) for index in due}
                ahead = {i: _ahead(half / width, games, episodes) for i, half in likely.items()}
            play(who, {index: max(games, ahead[index]) for index in due})
        scores |= {index: compared(index, games, "student") for index in due}
        widths = {index: _half_width(scores[index]) for index in due}
        due = [index for index in due if not widths[index] <= width]
        if not due or games == episodes:
            break
        ahead = {i: _ahead(widths[i] / width, games, episodes) for i in due}
    return scores


def rounds(episodes: int) -> Iterator[int]:
    """16, 32, 64, ... and at last `episodes`: after so many it is asked whether more are due."""
    games = 16
    while games < episodes:
        yield games
        games *= 2
    yield episodes


def _half_width(scores: Comparison) -> float:
    """Half of the retention's interval; NaN where it has none."""
    random, expert, student = scores
    low, high = scoring.retention_interval(student, expert, random)
    return (high - low) / 2


def _ahead(wider: float, games: int, episodes: int) -> int:
    """Of `rounds`, the last that an interval will hardly be narrow enough before; 0 if none.

    It narrows with the root of the games. How wide it is after few is known to a fifth or so, so
    half as many games are counted on as it asks for.

    Args:
      wider: how many times as wide it is after `games` as it may be; NaN where it has none.
    """
    counted_on = games * wider**2 / 2
    return max((n for n in rounds(episodes) if n <= counted_on), default=0)


def measure_alone(
    expert: Teacher,
    terms: Terms,
    *,
    sample_logits: bool = False,
    beside: Sequence[AnyView] = (),
    records: Records | None = None,
) -> Scores:
    """Whole-game scores of one expert, from starts that are `REPORTING`.

    They are those of a run that has this expert, plays by its rules and reports games of this seed;
    of a student those of its own run.

    Args:
      beside: what others see, for whom the games are to start alike.
      records: what need not be played again; by default nothing.

    Raises:
      ValueError: its task is unknown, or openings are as long as games.
    """
    terms.check_opening(expert.task)
    alone, mesh = of_experts([expert], terms.seed), meshes.create()
    if beside:
        alone = tuple(lesson.showing(expert.view, *beside) for lesson in alone)
    random = rollouts.random_policy(choices(alone))
    player = Player.experts(
        [expert],
        mesh=mesh,
        epsilon=terms.epsilon,
        sample_logits=sample_logits,
        name=f"play {expert.game}",
    )
    protocol = terms.within(expert.task.max_steps).protocol(random)
    return measure(alone, player, protocol, terms.episodes, mesh, records or Records())[0]
