"""Draws `summary.svg`, the README's picture, from the figures in `results.json`.

    python benchmarks/summary.py

`results.json` holds what the other programs printed, a row each: `what` was measured, the rates of
`ours` and of the `alternative`, and which `against` that is.
"""

import json
import pathlib

import matplotlib
import matplotlib.figure
from absl import app


def main(_: list[str]) -> None:
    matplotlib.rcParams["svg.hashsalt"] = "summary"  # the same figures, the same file
    here = pathlib.Path(__file__).parent
    rows = json.loads((here / "results.json").read_text())[::-1]
    figure = matplotlib.figure.Figure(figsize=(9, 0.5 * len(rows) + 1), layout="constrained")
    axis = figure.subplots()
    ratios = [row["ours"] / row["alternative"] for row in rows]
    colours = ["#2f6db3" if ratio >= 1 else "#b0b7bf" for ratio in ratios]
    axis.barh([f"{row['what']}\nagainst {row['against']}" for row in rows], ratios, color=colours)
    for place, ratio in enumerate(ratios):
        axis.annotate(f" {ratio:.2g}x", (ratio, place), va="center", fontsize=9)
    axis.axvline(1, color="black", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xlim(min(0.5, *ratios), 1.4 * max(ratios))
    axis.set_xlabel("times as fast, 2 CPU cores")
    axis.xaxis.set_major_formatter("{x:g}")
    axis.tick_params(axis="y", labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(here / "summary.svg", metadata={"Date": None})


if __name__ == "__main__":
    app.run(main)
