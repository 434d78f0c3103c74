"""The runs that `results.sh` made, as the Markdown tables of `docs/results.md`.

python benchmarks/results.py [DIRECTORY]
"""

import json
import pathlib

from absl import app

_TABLES = {
    "loss": "Losses, one game",
    "size": "Students smaller than their expert",
    "temperature": "Temperature of the expert's softmax, loss `kl`",
    "states": "Whose states",
    "merge": "Three games, one student",
}


def _row(name: str, result: dict, game: dict) -> tuple[str, ...]:
    def score(who: str) -> str:
        low, high = game[who]["interval"]
        return f"{game[who]['mean']:.1f} [{low:.1f}, {high:.1f}]"

    low, high = game["retention_interval"]
    seconds = result["seconds"]
    made = sum(seconds[phase] for phase in ("collect", "store", "learn", "save"))
    return (
        name,
        game["game"],
        score("expert"),
        score("student"),
        f"{game['retention']:.0%} [{low:.0%}, {high:.0%}]",
        f"{game['agreement']:.1%}",
        f"{made / 60:.1f}",
        f"{sum(seconds.values()) / 60:.1f}",
    )


def main(arguments: list[str]) -> None:
    directory = pathlib.Path(arguments[1] if len(arguments) > 1 else "runs/results")
    results = {path.parent.name: path for path in sorted(directory.glob("*/result.json"))}
    heading = ("run", "game", "expert", "student", "retention", "agreement", "min", "in all")
    for prefix, title in _TABLES.items():
        rows = []
        for name, path in results.items():
            if name.partition("_")[0] == prefix:
                result = json.loads(path.read_text())
                label = name.partition("_")[2] or name
                rows += [_row(label, result, game) for game in result["games"]]
        if rows:
            print(f"\n## {title}\n")
            for cells in (heading, ("---",) * len(heading), *rows):
                print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    app.run(main)
