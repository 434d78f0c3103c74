"""The runs that `results.sh` made, as the Markdown tables of `docs/results.md`.

python benchmarks/results.py [DIRECTORY]
"""

import json
import pathlib
from collections.abc import Sequence

from absl import app

from jaxdistill import metrics

_MEASURED = ("expert", "student", "retention", "agreement", "regret")
_TABLES = {
    "loss": "Losses, one game",
    "size": "Students smaller than their expert",
    "temperature": "Temperature of the expert's softmax, loss `kl`",
    "states": "Whose states",
    "merge": "Three games, one student",
}
_TRAINED = {
    "reward": "Past the expert",
    "multitask": "Q-learning of three games by one network, no experts",
}


def _score(played: dict) -> str:
    low, high = played["interval"]
    return f"{played['mean']:.1f} [{low:.1f}, {high:.1f}]"


def _row(name: str, result: dict, game: dict) -> tuple[str, ...]:
    low, high = game["retention_interval"]
    seconds = result["seconds"]
    made = sum(seconds[phase] for phase in ("collect", "store", "learn", "save"))
    return (
        name,
        game["game"],
        _score(game["expert"]),
        _score(game["student"]),
        f"{game['retention']:.0%} [{low:.0%}, {high:.0%}]",
        f"{game['agreement']:.1%}",
        f"{game['regret']:.4f}",
        f"{made / 60:.1f}",
        f"{sum(seconds.values()) / 60:.1f}",
    )


def main(arguments: list[str]) -> None:
    directory = pathlib.Path(arguments[1] if len(arguments) > 1 else "runs/results")
    results = {path.parent.name: path for path in sorted(directory.glob("*/result.json"))}
    for prefix, title in _TABLES.items():
        rows = []
        for name, path in results.items():
            if name.partition("_")[0] == prefix:
                result = json.loads(path.read_text())
                label = name.partition("_")[2] or name
                rows += [_row(label, result, game) for game in result["games"]]
        _print(title, ("run", "game", *_MEASURED, "minutes", "total"), rows)
    for prefix, title in _TRAINED.items():
        rows = []
        for path in sorted(directory.glob(f"{prefix}*/*.json")):
            if path.name == "config.json":
                continue
            (game,) = json.loads(path.read_text())["games"]
            label = path.parent.name.partition("_")[2] or path.parent.name
            rows.append((label, game["game"], _score(game["expert"]), _minutes(path.parent)))
        _print(title, ("run", "game", "score", "minutes"), rows)


def _minutes(workdir: pathlib.Path) -> str:
    """Of playing and learning, in a run of `launch/train_expert.py`."""
    seconds = [row for row in metrics.read(workdir) if "seconds/learn" in row][-1]
    return f"{(seconds['seconds/collect'] + seconds['seconds/learn']) / 60:.1f}"


def _print(title: str, heading: Sequence[str], rows: list[tuple[str, ...]]) -> None:
    if rows:
        print(f"\n## {title}\n")
        for cells in (heading, ("---",) * len(heading), *rows):
            print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    app.run(main)
