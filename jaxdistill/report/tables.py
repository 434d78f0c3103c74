"""What a person reads at the end: tables of scores, how games ended, and where the time went.

Rows are of tasks, as `result.json` has them: a task's name as `game`, and for each player the
`summary` of its scores (`scoring.Scores`).
"""

from __future__ import annotations

import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdistill import disk, tasks, terminal
from jaxdistill.experts.expert import Expert, Teacher
from jaxdistill.play import scoring
from jaxdistill.report import hints
from jaxdistill.tasks import atari
from jaxdistill.tasks.task import Task
from jaxdistill.text import one_line

WIDTH = 80  # columns of a terminal, at most, that tables and what is said of them take
MANY = 7  # tasks that one line does not name each of
ENDINGS = "how games ended"
_MOST_COLUMNS = 4  # facts that are told side by side
_PLAYERS = ("random", "expert", "student", "network")

Cells = tuple[tuple[str, ...], list[tuple[Any, ...]]]
"""Column headings, and rows of cells."""


def print_experts(
    experts: Sequence[Teacher],
    scores: Sequence[scoring.Scores],
    random: Sequence[scoring.Scores],
) -> None:
    """Scores of experts as measured here, beside what they advertise, and how their games ended."""
    rows: list[dict[str, Any]] = [
        {"game": expert.game, "random": r.summary(), "expert": s.summary()}
        for expert, s, r in zip(experts, scores, random, strict=True)
    ]
    _print(
        "experts, measured here, with 95% bootstrap intervals",
        (noun(rows), "expert", "score", "advertised", "random"),
        [
            (
                row["game"],
                expert.name,
                _measured(row["expert"]),
                _known(expert.advertised_score, _digits),
                _digits(row["random"]["mean"]),
            )
            for expert, row in zip(experts, rows, strict=True)
        ],
        names=("expert", noun(rows)),
    )
    _print_endings(rows)
    terminal.tell(_starts(rows, "expert"), WIDTH)
    for expert, s, r in zip(experts, scores, random, strict=True):
        warn(expert, s, r.mean)


def print_expert(
    expert: Expert,
    scores: scoring.Scores,
    usual: scoring.Scores | None = None,
    *,
    epsilon: float,
    random: float | None = None,
    random_usual: float | None = None,
) -> None:
    """One expert's score, and how its games ended.

    Args:
      usual: its score in the usual game, where its own is another.
      random, random_usual: the mean scores of random play in either, where they are known.
    """
    name = str(expert.game)
    rows: list[dict[str, Any]] = [{"game": name, "expert": scores.summary()}]
    which = () if usual is None else ("rules",)
    if usual is not None:
        rows.append({"game": name, "expert": usual.summary()})
    _print(
        f"{expert.name}, epsilon {epsilon:g}, 95% bootstrap interval",
        (noun(rows), *which, "random", "score", "advertised", "games", "starts", "steps each"),
        [
            (
                name,
                *(("own", "usual")[i] for _ in which),
                _known((random, random_usual)[i], _digits),
                _measured(row["expert"]),
                _known(expert.advertised_score, _digits),
                row["expert"]["episodes"],
                row["expert"]["distinct_starts"],
                _digits(row["expert"]["mean_steps"]),
            )
            for i, row in enumerate(rows)
        ],
        names=(noun(rows),),
    )
    if usual is not None:
        terminal.say(f"its own game: {expert.rules.differences_from(atari.USUAL)}")
    _print_endings(rows)
    if usual is not None and random is None:
        warn(expert.under(atari.USUAL), usual, random_usual)
    warn(expert, scores, random)


def print_tries(
    answers: Sequence[Mapping[str, str]], scores: Sequence[scoring.Scores], *, epsilon: float
) -> int:
    """What an expert scores by each choice of answers to what is not known of it, the best first.

    Returns:
      The index of the best.
    """
    order = sorted(range(len(answers)), key=lambda i: -scores[i].mean)
    best, *others = order
    _print(
        f"{len(scores[best].scores)} games each, epsilon {epsilon:g}, 95% bootstrap interval",
        (*(name.rpartition(".")[2] for name in answers[best]), "score", "steps each"),
        [
            (
                *answers[i].values(),
                _measured(scores[i].summary()),
                _digits(float(scores[i].lengths.mean())),
            )
            for i in order
        ],
        names=(),
    )
    # One game has no interval, and NaN is below nothing.
    if others and not scores[others[0]].interval()[1] < scores[best].interval()[0]:
        terminal.tell("the first is not clearly better than the next: try more games", WIDTH)
    told = ", ".join(f'{name} = "{answer}"' for name, answer in answers[best].items())
    terminal.tell(f"the best has {told}", WIDTH)
    return best


def warn(expert: Teacher, scores: scoring.Scores, random: float | None) -> None:
    """Says so if the expert plays no better than at random, see `hints.no_better_than_random`."""
    if warning := hints.no_better_than_random(expert, scores, random):
        terminal.tell(warning, WIDTH)


def print_students(rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Any]) -> None:
    """The closing tables of a distillation: one row per task; for `measured` see `protocol`."""
    _print_students(rows, measured)
    terminal.tell(_starts(rows, "student"), WIDTH)


def print_alone(rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Any]) -> None:
    """As `print_students`, of a student whose experts are not at hand."""
    print_students(rows, {**measured, "games": rows})
    known = any("expert" in row for row in rows)
    told = (
        "the experts' scores are those of the student's card; they were not played again"
        if known
        else "its card has no scores of its experts that were measured in this way"
    )
    terminal.tell(told, WIDTH)


def _print_students(rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Any]) -> None:
    _print(
        protocol(measured),
        *student_lines(rows),
        spare=("human", "regret", "angles", "agrees"),
        names=(noun(rows),),
    )
    _print_endings(rows)


def print_networks(rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Any]) -> None:
    """The closing tables of a training: one row per task; for `measured` see `protocol`."""
    _print(protocol(measured), *network_lines(rows), spare=("human", "random"), names=(noun(rows),))
    _print_endings(rows)
    helped = f"; {_helped(rows, 'network')}" if _all_known(rows) else ""
    terminal.tell(_starts(rows, "network") + helped, WIDTH)


def print_measured(
    kind: str, rows: Sequence[Mapping[str, Any]], measured: Mapping[str, Any]
) -> None:
    """The tables of what was measured again, of one of the kinds that `run.evaluating` knows."""
    shown = {"training": print_networks, "exported": print_alone, "distillation": print_students}
    shown[kind](rows, measured)


def _print_endings(rows: Sequence[Mapping[str, Any]]) -> None:
    columns, cells = ending_lines(rows)
    title = f"{ENDINGS}; 95% intervals, left out where they round to the mean"
    for shown in _side_by_side(cells):
        kept = [0, *shown]
        _print(
            title, [columns[i] for i in kept], [[x[i] for i in kept] for x in cells], names=("",)
        )
        title = ENDINGS


def _side_by_side(cells: Sequence[Sequence[Any]]) -> list[list[int]]:
    """The columns after the first, in as few tables as are no wider than `WIDTH` beside it."""
    if not cells:
        return []

    def wide(column: int) -> int:
        parts = [str(row[column]).partition(" [") for row in cells]
        return max(len(mean) for mean, _, _ in parts) + max(len(f + x) for _, f, x in parts) + 2

    columns = np.arange(1, len(cells[0]))
    for count in range(1, len(columns) + 1):
        tables = [part.tolist() for part in np.array_split(columns, count)]
        if all(sum(map(wide, (0, *part))) <= WIDTH for part in tables):
            break
    return tables


def _print(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    spare: Sequence[str] = (),
    names: Sequence[str] = (),
) -> None:
    """A table in which numbers stand below each other, no wider than `WIDTH`."""
    lines = [list(row) for row in rows]
    for i, column in enumerate(columns):
        if column in names:
            continue
        ends = [str(row[i]).find(" [") % (len(str(row[i])) + 1) for row in lines]
        for row, end in zip(lines, ends, strict=True):
            if isinstance(row[i], str):
                row[i] = " " * (max(ends) - end) + row[i]
    known = [name for name in spare if name in columns]
    terminal.table(title, columns, lines, width=WIDTH, spare=known, names=names)


def protocol(measured: Mapping[str, Any]) -> str:
    """How scores were measured: `episodes`, `epsilon`, `opening_steps`, `opening_by`, `max_steps`.

    The last may be missing, or None for each task's own limit. Where `games` are there, the rows of
    tasks, and tasks were played in different numbers of games, the fewest are told too.
    """
    steps, limit = measured["opening_steps"], measured.get("max_steps")
    after = f"after {steps} or more steps of {measured['opening_by']} play, " if steps else ""
    within = f"of at most {limit} steps, " if limit else ""
    played = [
        row[who].get("episodes", measured["episodes"])
        for row in measured.get("games", ())
        for who in _PLAYERS[1:]  # of random play fewer are enough
        if who in row
    ]
    games = f"{measured['episodes']}"
    if played and min(played) < max(played):
        games = f"{min(played)} to {max(played)}"
    return (
        f"{games} whole games per score, {within}{after}"
        f"epsilon {measured['epsilon']:g}, 95% bootstrap intervals"
    )


def student_lines(rows: Sequence[Mapping[str, Any]]) -> Cells:
    """`student_cells` for a terminal: fewer digits, and what belongs together in one cell."""
    return _without_unknown(
        [
            (noun(rows), lambda row: row["game"]),
            ("random", lambda row: _digits(row["random"]["mean"])),
            ("expert", lambda row: _of(row, "expert", _measured)),
            ("student", lambda row: _measured(row["student"])),
            ("retention", _kept),
            ("agrees", lambda row: _known(row.get("agreement"), _share)),
            ("angles", lambda row: _known(row.get("angle_error"), lambda x: f"{x:.2f}°")),
            ("regret", lambda row: _known(row.get("regret"), lambda x: f"{x:.4f}")),
            ("human", lambda row: _known(row["human_normalised"], _whole_share)),
        ],
        rows,
    )


def network_lines(rows: Sequence[Mapping[str, Any]]) -> Cells:
    """`network_cells` for a terminal: fewer digits, and what belongs together in one cell."""
    return _without_unknown(
        [
            (noun(rows), lambda row: row["game"]),
            ("random", lambda row: _digits(row["random"]["mean"])),
            ("expert", lambda row: _of(row, "expert", _measured)),
            ("student", lambda row: _of(row, "student", _measured)),
            ("network", lambda row: _measured(row["network"])),
            ("human", lambda row: _known(row["human_normalised"], _whole_share)),
        ],
        rows,
    )


def student_cells(rows: Sequence[Mapping[str, Any]]) -> Cells:
    """The table of a distillation's scores, one row per task."""
    return _without_unknown(
        [
            (noun(rows), lambda row: row["game"]),
            ("random", lambda row: _score(row["random"]["mean"])),
            ("expert", lambda row: _score(row["expert"]["mean"])),
            ("", lambda row: _interval(row["expert"]["interval"])),
            ("student", lambda row: _score(row["student"]["mean"])),
            ("", lambda row: _interval(row["student"]["interval"])),
            ("retention", lambda row: _share(kept(row))),
            ("", lambda row: _interval(row["retention_interval"], _share)),
            ("agreement", lambda row: _known(row.get("agreement"), _share)),
            ("regret", lambda row: _known(row.get("regret"), lambda x: f"{x:.4f}")),
            ("angles", lambda row: _known(row.get("angle_error"), lambda x: f"{x:.2f}°")),
            ("human", lambda row: _known(row["human_normalised"], _share)),
            ("starts", lambda row: row["student"]["distinct_starts"]),
        ],
        rows,
    )


def network_cells(rows: Sequence[Mapping[str, Any]]) -> Cells:
    """The table of a training's scores, one row per task."""
    return _without_unknown(
        [
            (noun(rows), lambda row: row["game"]),
            ("random", lambda row: _score(row["random"]["mean"])),
            ("", lambda row: _interval(row["random"]["interval"])),
            *(
                column
                for who in ("expert", "student")  # where the network went on from a student
                for column in (
                    (who, lambda row, who=who: _of(row, who, lambda x: _score(x["mean"]))),
                    ("", lambda row, who=who: _of(row, who, lambda x: _interval(x["interval"]))),
                )
            ),
            ("network", lambda row: _score(row["network"]["mean"])),
            ("", lambda row: _interval(row["network"]["interval"])),
            ("human", lambda row: _known(row["human_normalised"], _share)),
            ("starts", lambda row: row["network"]["distinct_starts"]),
        ],
        rows,
    )


def _without_unknown(
    columns: Sequence[tuple[str, Callable[[Mapping[str, Any]], Any]]],
    rows: Sequence[Mapping[str, Any]],
) -> Cells:
    """Cells of the columns that are known of some row: those with a name, and what belongs there.

    "human" is left out where no task has human scores, "angles" where there are none.
    """
    cells = [[cell(row) for row in rows] for _, cell in columns]
    kept = [i for i in range(len(columns)) if any(cell is not None for cell in cells[i])]
    # A cell that is not known stays empty on a page, and is a dash on the terminal.
    turned = zip(*(cells[i] for i in kept), strict=True)
    return tuple(columns[i][0] for i in kept), list(turned)


def ending_tables(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, Cells]]:
    """How games ended, with titles; none where suites have no facts.

    Tasks of which the same is told share a table. One of which much is told has a table of its own,
    with a line for everything and a column for every player.
    """
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        told = (name for player in _PLAYERS for name in row.get(player, {}).get("facts", ()))
        groups.setdefault(tuple(dict.fromkeys(told)), []).append(row)
    shown: list[tuple[str, Cells]] = []
    for names, group in groups.items():
        if len(names) > _MOST_COLUMNS:
            shown += [(f"{row['game']}: {ENDINGS}", _turned(row, names)) for row in group]
        elif names:
            shown.append((ENDINGS, ending_cells(group)))
    return shown


def _turned(row: Mapping[str, Any], names: Sequence[str]) -> Cells:
    """How games of one task ended, one line per fact."""
    players = [player for player in _PLAYERS if row.get(player, {}).get("facts")]
    cells: list[tuple[Any, ...]] = []
    for name in names:
        facts = [row[player]["facts"][name] for player in players]
        told = _fact_format(row, name)
        values = (x for f in facts for x in (told(f["mean"]), _interval(f["interval"], told)))
        cells.append((name.replace("_", " "), *values))
    steps = (
        x
        for player in players
        for x in (_score(row[player]["mean_steps"]), _interval(row[player]["steps_interval"]))
    )
    cells.append(("steps", *steps))
    return ("", *(x for player in players for x in (player, ""))), cells


def ending_cells(rows: Sequence[Mapping[str, Any]]) -> Cells:
    """How games ended: one row per task and player, and none where suites have no facts.

    A fact is shown as a share, or as a number per game where its suite says so.
    """
    played = [
        (row, player, row[player])
        for row in rows
        for player in _PLAYERS
        if player in row and row[player].get("facts")
    ]
    names = list(dict.fromkeys(name for _, _, scores in played for name in scores["facts"]))
    limited = any(row.get("max_steps") for row, _, _ in played)
    told = [x for name in names for x in (name.replace("_", " "), "")]
    columns = [noun(rows), "player", *told, "steps", ""]
    cells = []
    for row, player, scores in played:
        line: list[Any] = [row["game"], player]
        for name in names:
            fact = scores["facts"].get(name)
            line += (
                [
                    _fact_format(row, name)(fact["mean"]),
                    _interval(fact["interval"], _fact_format(row, name)),
                ]
                if fact
                else ["-", "-"]
            )
        line += [_score(scores["mean_steps"]), _interval(scores["steps_interval"])]
        cells.append((*line, row.get("max_steps")) if limited else tuple(line))
    return (*columns, "limit") if limited else tuple(columns), cells


def ending_lines(rows: Sequence[Mapping[str, Any]]) -> Cells:
    """How games ended: below each task's name a line per fact, and a column for every player."""
    players = [who for who in _PLAYERS if any(row.get(who, {}).get("facts") for row in rows)]
    cells: list[tuple[Any, ...]] = []
    for row in rows:
        played = {who: row[who] for who in players if row.get(who, {}).get("facts")}
        names = dict.fromkeys(name for scores in played.values() for name in scores["facts"])
        if not names:
            continue
        cells.append((row["game"], *("" for _ in players)))
        for name in names:
            shown = _whole_share if _fact_format(row, name) is _share else _digits
            facts = {who: x["facts"][name] for who, x in played.items() if name in x["facts"]}
            cells.append(
                (
                    f"  {name.replace('_', ' ')}",
                    *(_measured(facts[who], shown) if who in facts else None for who in players),
                )
            )
        limit = f" of {row['max_steps']}" if row.get("max_steps") else ""
        steps = {
            who: {"mean": x["mean_steps"], "interval": x["steps_interval"]}
            for who, x in played.items()
        }
        cells.append(
            (
                f"  steps{limit}",
                *(
                    _measured(steps[who], "{:.0f}".format) if who in steps else None
                    for who in players
                ),
            )
        )
    return ("", *players), cells


def _fact_format(row: Mapping[str, Any], name: str) -> Callable[[float], str]:
    """How a fact of a task is shown."""
    return _score if name in tasks.get(row["game"]).suite.counts else _share


def starts(result: Mapping[str, Any]) -> str:
    """In how many states games began, and whether the student was chosen by some of them."""
    return f"{_starts(result['games'], 'student')}; {_helped(result['games'], 'student')}"


def _helped(rows: Sequence[Mapping[str, Any]], who: str) -> str:
    """Such as "3 of pong's helped to choose the student", of starts."""
    shared = {row["game"]: row["shared_starts"] for row in rows if row["shared_starts"]}
    some = ", ".join(f"{count} of {game}'s" for game, count in shared.items())
    return f"{some or 'none'} helped to choose the {who}"


def _starts(rows: Sequence[Mapping[str, Any]], who: str) -> str:
    """Such as "93 / 99 / 100 of 100 starts differ"; for one number where they are the same."""
    counts = [(row[who]["distinct_starts"], row[who]["episodes"]) for row in rows]
    if len(set(counts)) == 1:
        counts = counts[:1]
    if len({games for _, games in counts}) == 1:
        different = " / ".join(str(count) for count, _ in counts)
        return f"{different} of {counts[0][1]} starts differ"
    return f"{' / '.join(f'{count} of {games}' for count, games in counts)} starts differ"


def learning_status(row: Mapping[str, float], names: Sequence[str]) -> str:
    """What a round of learning came to, such as "loss 0.0123, agreement: pong 99.1%".

    Args:
      row: of `metrics.jsonl`.
      names: the tasks', in their order.
    """
    parts = [f"loss {row['loss']:.4f}"]
    for key, worst, shown in (
        ("agreement", min, "{:.1%}".format),
        ("angle_error", max, "{:.2f}°".format),
    ):
        told = {name: row[f"{key}/{name}"] for name in names if f"{key}/{name}" in row}
        if told:
            parts.append(f"{key.replace('_', ' ')}: {_each(told, worst, shown)}")
    return ", ".join(parts)


def playing_status(
    chosen: Sequence[Task], scores: Sequence[scoring.Scores], max_steps: int | None = None
) -> str:
    """What games came to, such as "mean score of 24 games: pong 20.1".

    Of many tasks, whose scores cannot be added up, those that people's scores are known of.

    Args:
      chosen: the tasks, as they were played.
      scores: of each.
      max_steps: step limit of one game; by default the tasks'.
    """
    counts = {len(played.scores) for played in scores}
    of = f" of {counts.pop()} games" if len(counts) == 1 else ""
    means = [(task, played.mean) for task, played in zip(chosen, scores, strict=True)]
    if len(means) >= MANY:
        human = {task.name: task.human_normalised(mean, max_steps) for task, mean in means}
        if known := {name: x for name, x in human.items() if x is not None}:
            return f"human-normalised score{of}: {_each(known, min, '{:.1%}'.format)}"
    return f"mean score{of}: " + " ".join(f"{task.name} {mean:.1f}" for task, mean in means)


def _each(
    values: Mapping[str, float],
    worst: Callable[..., str],
    shown: Callable[[float], str],
) -> str:
    """Every task's number, or of many tasks their mean and the worst one.

    Args:
      worst: `min` or `max`.
    """
    if len(values) < MANY:
        return " ".join(f"{name} {shown(value)}" for name, value in values.items())
    last = worst(values, key=values.__getitem__)
    return f"mean {shown(sum(values.values()) / len(values))}, worst {last} {shown(values[last])}"


def fresh(result: Mapping[str, Any]) -> str:
    """Whether the games of a training's result began where others did that it was chosen by."""
    if not _all_known(result["games"]):
        return "whether some of their starts helped to choose the network is not known"
    return f"of their starts {_helped(result['games'], 'network')}"


def _all_known(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether rows say which starts helped to choose: a training of an earlier version does not."""
    return all("shared_starts" in row for row in rows)


def summary(result: Mapping[str, Any]) -> str:
    """One sentence on the whole result."""
    if "method" in result:
        made = f"weights merged by {result['method']}"
    else:
        made = f"student chosen after round {result['best_round']} of {result['rounds']}"
    # A result of an earlier version has means of what is not known.
    known = not any(math.isnan(kept(row)) for row in result["games"])
    mean, geometric, worst = (
        _share(result[f"{which}_retention"] if known else None)
        for which in ("mean", "geometric", "worst")
    )
    return (
        f"mean retention {mean}, geometric mean {geometric}, worst {noun(result['games'])} "
        f"{worst}; {made}"
    )


def training_summary(result: Mapping[str, Any]) -> str:
    """One sentence on a training's result."""
    rows = result["games"]
    normalised = [row["human_normalised"] for row in rows]
    known = [x for x in normalised if x is not None]
    mean = ""
    if len(known) == len(rows):
        mean = f"mean human-normalised score {_share(sum(known) / len(known))}; "
    elif not known and len(rows) > 1:
        mean = f"mean score {_score(sum(row['network']['mean'] for row in rows) / len(rows))}; "
    networks = (
        "one network" if result["networks"] == 1 else f"{result['networks']} networks, one per task"
    )
    steps = [row["best_step"] for row in rows]
    chosen = " / ".join(f"{step:,}" for step in (steps[:1] if len(set(steps)) == 1 else steps))
    return (
        f"{mean}{networks}, {result['parameters']:,} parameters; the best, after {chosen} of "
        f"{result['steps']:,} steps per {noun(rows)}"
    )


def wall_time(result: Mapping[str, Any]) -> str:
    """The run's time by phase."""
    seconds = result["seconds"]
    phases = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    return f"wall time {sum(seconds.values()) / 60:.1f} min: {phases}"


def embedding_cells(embeddings: Mapping[str, Sequence[float]]) -> Cells:
    """The vector that a network has learnt for each task, one row per task."""
    rows = [{"game": name} for name in embeddings]
    size = max((len(vector) for vector in embeddings.values()), default=0)
    columns = (noun(rows), *(str(i + 1) for i in range(size)))
    return columns, [(n, *(f"{x:.3f}" for x in vector)) for n, vector in embeddings.items()]


def read_result(path: pathlib.Path) -> dict[str, Any]:
    """A run's `result.json`, which `print_result` can print.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged.
    """

    def draw(result: Mapping[str, Any]) -> None:
        student_cells(result["games"]), ending_tables(result["games"])
        student_lines(result["games"]), ending_lines(result["games"])
        protocol(result), summary(result), wall_time(result), starts(result)

    return _read(path, draw, "remove it, and the run measures its student again")


def read_training(path: pathlib.Path) -> dict[str, Any]:
    """A training's `result.json`, which `print_training` can print; raises as `read_result`."""

    def draw(result: Mapping[str, Any]) -> None:
        network_cells(result["games"]), ending_tables(result["games"])
        network_lines(result["games"]), ending_lines(result["games"])
        protocol(result), training_summary(result), wall_time(result)
        _starts(result["games"], "network"), fresh(result)
        embedding_cells(result["embeddings"])

    return _read(path, draw, "remove it, and the same command measures the network again")


def _read(
    path: pathlib.Path, draw: Callable[[Mapping[str, Any]], None], advice: str
) -> dict[str, Any]:
    result: dict[str, Any] = disk.read_json(path, advice)
    try:
        draw(result)
    except Exception as error:  # whatever a value of another kind brings about
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{path} is damaged ({reason}); {advice}") from error
    return result


def print_result(result: Mapping[str, Any]) -> None:
    """Everything `distill` returns, for people."""
    _print_students(result["games"], result)
    lines = (starts(result), summary(result), wall_time(result), result.get("hint"))
    for line in filter(None, lines):
        terminal.tell(line, WIDTH)


def print_training(result: Mapping[str, Any]) -> None:
    """Everything `run.training.train` returns, for people."""
    print_networks(result["games"], result)
    for line in (training_summary(result), wall_time(result)):
        terminal.tell(line, WIDTH)


def noun(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the rows are of: Atari has games."""
    suites = {tasks.get(row["game"]).suite.name for row in rows}
    return "game" if suites <= {atari.ATARI.name} else "task"


def _score(value: float) -> str:
    return f"{value:.1f}"


def _digits(value: float) -> str:
    """As many digits as a terminal has room for."""
    size = abs(value)
    if size >= 99_950:
        return f"{value / 1000:.0f}k"
    return f"{value:.0f}" if size >= 999.5 else _score(value)


def _measured(known: Mapping[str, Any], shown: Callable[[float], str] = _digits) -> str:
    """A mean and its interval: with few digits, and without one that rounds to the mean.

    One that is not known, as of one game, is told.
    """
    mean, (low, high) = shown(known["mean"]), _ends(known["interval"])
    if math.isnan(low):
        return f"{mean} [-, -]"
    if shown(low) == shown(high) == mean:
        return mean
    wide = shown is _digits and (high - low >= 5 or max(abs(low), abs(high)) >= 100)
    ends = [f"{x:.0f}" if wide and abs(x) < 999.5 else shown(x) for x in (low, high)]
    return f"{mean} [{', '.join(end.removesuffix('%') for end in ends)}]"


def kept(row: Mapping[str, Any]) -> float:
    """A row's retention; NaN where its games do not tell expert and random play apart.

    Then it is a share of what may be nothing. Their retention's interval says so, or in a row
    without one, those of the two scores.
    """
    interval = row.get("retention_interval")
    if interval is not None:
        known = not any(map(math.isnan, _ends(interval)))
    else:
        known = not {"expert", "random"} <= row.keys() or _above(row["expert"], row["random"])
    share = row["retention"]
    return float(share) if known and share is not None else math.nan


def _above(high: Mapping[str, Any], low: Mapping[str, Any]) -> bool:
    """Whether the first of two means is the higher, and the interval of the difference without 0.

    Half of it is the root of the squares of theirs, on the sides that face each other.
    """
    down, up = high["mean"] - _ends(high["interval"])[0], _ends(low["interval"])[1] - low["mean"]
    return bool(high["mean"] - low["mean"] > math.hypot(down, up))


def _ends(interval: Sequence[float | None]) -> tuple[float, float]:
    """An interval's; NaN where it is not known, which a file has as null."""
    low, high = (math.nan if x is None else float(x) for x in interval)
    return low, high


def _kept(row: Mapping[str, Any]) -> str | None:
    """Retention in percent, with its interval where it has one; None where there is none."""
    if "retention" not in row:
        return None
    share, interval = kept(row), row.get("retention_interval")
    if interval is None or math.isnan(share):
        return _whole_share(share)
    return _measured({"mean": share, "interval": interval}, _whole_share)


def _whole_share(value: float | None) -> str:
    shown = "-" if value is None or math.isnan(value) else f"{value:.0%}"
    return "0%" if shown == "-0%" else shown


def _share(value: float | None) -> str:
    """A share that is not known, as what was kept of nothing, is NaN, and None in a file."""
    return "-" if value is None or math.isnan(value) else f"{value:.1%}"


def _known(value: float | None, shown: Callable[[float], str]) -> str | None:
    return None if value is None else shown(value)


def _of(row: Mapping[str, Any], who: str, shown: Callable[[Mapping[str, Any]], str]) -> str | None:
    """What is shown of a player; None of one who has not played."""
    return shown(row[who]) if who in row else None


def _interval(interval: Sequence[float | None], shown: Callable[[float], str] = _score) -> str:
    low, high = ("-" if math.isnan(end) else shown(end) for end in _ends(interval))
    return f"[{low}, {high}]"
