"""The runs that `results.sh` made, as Markdown: tables of `docs/results.md` and `experiments.md`.

python benchmarks/results.py [DIRECTORY]
"""

import functools
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
from absl import app

from jaxdistill import clocks, metrics, networks
from jaxdistill.play import scoring
from jaxdistill.tasks.views import View

_COMPARED = ("expert", "student", "retention", "agreement", "regret", "minutes", "in all")


class Row(NamedTuple):
    """What a row of a table is made of: a run's result and one game of it."""

    label: str
    run: str
    result: dict[str, Any]
    game: dict[str, Any]


def _score(played: Mapping[str, Any]) -> str:
    low, high = played["interval"]
    return f"{played['mean']:.1f} [{low:.1f}, {high:.1f}]"


def _retention(game: Mapping[str, Any]) -> str:
    """Undefined, so null, where the expert plays like random play."""
    share, interval = game["retention"], game["retention_interval"]
    if share is None:
        return ""
    return f"{share:.0%} [{', '.join('' if x is None else f'{100 * x:.0f}' for x in interval)}]"


def _parameters(row: Row) -> str:
    count, full = (_count(name) for name in (row.run.split("_")[1], "dueling"))
    return f"{count:,} ({100 * count / full:.2g}%)"


def _count(name: str) -> int:
    shape = View().shape
    make = functools.partial(networks.init, networks.create(name), observation_shape=shape)
    return networks.count(jax.eval_shape(make, jax.random.key(0)))


def _made(row: Row) -> float:
    """Seconds of collecting and learning."""
    return clocks.learning_seconds(row.result["seconds"])


_CELLS: dict[str, Callable[[Row], str]] = {
    "game": lambda row: row.game["game"].replace("_", " ").title(),
    "games": lambda row: str(row.game["student"]["episodes"]),
    "random": lambda row: f"{row.game['random']['mean']:.1f}",
    "expert": lambda row: _score(row.game["expert"]),
    "student": lambda row: _score(row.game["student"]),
    "retention": lambda row: _retention(row.game),
    "agreement": lambda row: f"{row.game['agreement']:.0%}",
    "regret": lambda row: f"{row.game['regret']:.4f}",
    "minutes": lambda row: f"{_made(row) / 60:.1f}",
    "in all": lambda row: f"{sum(row.result['seconds'].values()) / 60:.1f}",
    "parameters": _parameters,
}


class Table(NamedTuple):
    """A table of distillations: its heading, its columns, and the label of each run's rows.

    The first column is the label, if it is none of `_CELLS`. A run is a folder with a
    `result.json`, or a file that `launch/evaluate.py --out` wrote.
    """

    title: str
    columns: tuple[str, ...]
    runs: Mapping[str, str]

    def rows(self, directory: pathlib.Path) -> Iterator[tuple[str, ...]]:
        """The cells of every row whose run is in `directory`."""
        for run, label in self.runs.items():
            path = directory / run
            path = path / "result.json" if path.is_dir() else path
            if not path.is_file():
                continue
            result = json.loads(path.read_text())
            for game in result["games"]:
                row = Row(label, run, result, game)
                yield tuple(_CELLS[name](row) if name in _CELLS else label for name in self.columns)


TABLES = (
    Table(
        "Losses, one game",
        ("loss", *_COMPARED),
        {
            f"loss_{loss}_seed_{seed}": f"`{loss}`, seed {seed}"
            for loss in ("q_values", "nll", "kl", "mse")
            for seed in (0, 1)
        },
    ),
    Table(
        "Temperature",
        ("`learn.q_temperature`", *_COMPARED),
        {
            "temperature_0.001": "0.001, nearly `nll`'s target",
            "loss_kl_seed_0": "0.01, the default",
            "temperature_0.1": "0.1",
            "temperature_1.0": "1, the Q-values as they are",
        },
    ),
    Table(
        "Whose states",
        ("who drives", *_COMPARED),
        {
            "states_expert": "the expert",
            "states_student": "the student",
            "states_half": "each of them half of the environments",
            "states_fixed": "the expert, before the first update alone",
        },
    ),
    Table(
        "Students smaller than their expert",
        ("network", "parameters", "game", *_COMPARED),
        {
            f"size_{network}_{game}": f"`{network}`"
            for network in ("net1", "net3")
            for game in ("pong", "freeway", "breakout")
        },
    ),
    Table(
        "`make quickstart`",
        ("game", "random", "expert", "student", "retention", "agreement", "regret"),
        {"three_quickstart": ""},
    ),
    Table(
        "The same student in other games",
        ("seed", "games", "game", "expert", "student", "retention"),
        {"three_quickstart/again.json": "1", "three_quickstart/breakout_400.json": "2"},
    ),
    Table(
        "Nothing set but the experts",
        ("game", "random", "expert", "student", "retention", "agreement", "regret"),
        {"three_defaults": ""},
    ),
    Table(
        "Weights merged without distilling",
        ("method", "game", "expert", "student", "retention", "agreement", "in all"),
        {
            **{
                f"weights_{method}": f"`{method}`"
                for method in (
                    *("mean", "task_arithmetic", "fisher", "htcl"),
                    *("taylor_one_shot", "taylor_iterative", "aligned_mean"),
                )
            },
            "reference": "`configs/reference.py`, which distils",
        },
    ),
    Table(
        "Experts found on the web",
        ("game", "random", "expert", "student", "retention", "agreement", "regret"),
        {"web": ""},
    ),
)


class Trained(NamedTuple):
    """A table of trainings: the run, game and label of each row.

    Shares are of the expert's score above random play, both as the distillation `measured` reports
    them; but the expert's from the run `expert`, if given.
    """

    title: str
    columns: tuple[str, ...]
    runs: tuple[tuple[str, str, str], ...]
    measured: str
    expert: str | None = None

    def rows(self, directory: pathlib.Path) -> Iterator[tuple[str, ...]]:
        """The cells of every row whose run is in `directory`."""
        for run, game, label in self.runs:
            path = directory / run / f"{game}.json"
            result = directory / self.measured / "result.json"
            if not path.is_file() or not result.is_file():
                continue
            played = _played(path)
            (row,) = (x for x in json.loads(result.read_text())["games"] if x["game"] == game)
            means = {who: row[who]["mean"] for who in ("expert", "random")}
            if self.expert:
                means["expert"] = _played(directory / self.expert / f"{game}.json")["mean"]
            share = scoring.retention(played["mean"], means["expert"], means["random"])
            shown = "" if run == self.expert else f"{share:.0%}"
            yield label, _score(played), shown, _minutes(path.parent)


TRAINED = (
    Trained(
        "Past the expert",
        ("student", "score", "of the expert, above random", "minutes"),
        (
            ("reward_half", "breakout", "the expert"),
            ("reward_beside_it", "breakout", "beside it"),
            ("reward_from_it", "breakout", "from it"),
        ),
        measured="states_expert",
        expert="reward_half",
    ),
    Trained(
        "Without experts",
        ("game", "one network, no experts", "of the expert, above random", "minutes"),
        tuple(("multitask", game, game.title()) for game in ("breakout", "pong", "freeway")),
        measured="three_quickstart",
    ),
)


def _played(path: pathlib.Path) -> dict[str, Any]:
    (game,) = json.loads(path.read_text())["games"]
    return game["expert"]


def _minutes(workdir: pathlib.Path) -> str:
    """Of playing and learning, in a run of `launch/train_expert.py`."""
    seconds = [row for row in metrics.read(workdir) if "seconds/learn" in row][-1]
    return f"{clocks.learning_seconds(seconds, 'seconds/') / 60:.1f}"


def markdown(directory: pathlib.Path) -> str:
    """Every table of which a row has been made."""
    lines: list[str] = []
    for table in (*TABLES, *TRAINED):
        if rows := list(table.rows(directory)):
            lines += ["", f"## {table.title}", ""]
            cells = (table.columns, ("---",) * len(table.columns), *rows)
            lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    print(markdown(pathlib.Path(arguments[1] if len(arguments) > 1 else "runs/results")))


if __name__ == "__main__":
    app.run(main)
