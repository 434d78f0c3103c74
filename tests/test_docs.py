"""Documents and the programs behind them tell the same story."""

import ast
import json
import pathlib
import re

import pytest

from benchmarks import results

ROOT = pathlib.Path(__file__).parents[1]


def test_docs_show_the_columns_that_the_program_prints():
    """Each printed table stands under its heading in docs/results.md, with the same first row."""
    sections = re.split(r"^#+ ", (ROOT / "docs" / "results.md").read_text(), flags=re.MULTILINE)
    for table in (*results.TABLES, *results.TRAINED):
        (section,) = (text for text in sections if text.startswith(f"{table.title}\n"))
        heading = next(line for line in section.splitlines() if line.startswith("| "))
        assert heading == f"| {' | '.join(table.columns)} |", table.title


def test_every_run_of_the_tables_is_made_by_results_sh():
    program = (ROOT / "benchmarks" / "results.sh").read_text()
    # Loops as they stand there, unrolled by hand.
    made = {f"loss_{x}" for x in ("kl", "mse", "nll", "q_values", "kl_seed_1", "nll_seed_1")}
    made |= {f"temperature_{x}" for x in ("0.001", "0.1", "1.0")}
    made |= {f"states_{x}" for x in ("fixed", "expert", "student", "half")}
    made |= {
        f"size_{network}_{game}"
        for game in ("pong", "freeway", "breakout")
        for network in ("net1", "net3")
    }
    made |= set(re.findall(r"^ *(?:row \S+|train) (\w+) ", program, flags=re.MULTILINE))
    measured = re.findall(r"^measure (\S+) (\S+) ", program, flags=re.MULTILINE)
    made |= {f"{run}/{table}.json" for run, table in measured}
    wanted = {run for table in results.TABLES for run in table.runs}
    wanted |= {run for table in results.TRAINED for run, _, _ in table.runs}
    assert wanted == made


def played(mean, episodes=100):
    return {"mean": mean, "interval": [mean - 1, mean + 1.25], "episodes": episodes}


def test_results_prints_the_runs_it_finds(tmp_path):
    game = {
        "game": "space_invaders",
        "random": played(1.0),
        "expert": played(10.0),
        "student": played(9.1),
        "retention": 0.9,
        "retention_interval": [0.8, 1.004],
        "agreement": 0.5,
        "regret": 0.01,
    }
    seconds = {"baselines": 60.0, "collect": 30.0, "learn": 90.0}
    for run, row in (("size_net3_pong", game), ("loss_kl", game | {"agreement": 0.256})):
        (tmp_path / run).mkdir()
        text = json.dumps({"games": [row], "seconds": seconds})
        (tmp_path / run / "result.json").write_text(text)
    printed = results.markdown(tmp_path).splitlines()
    scores = "10.0 [9.0, 11.2] | 9.1 [8.1, 10.3] | 90% [80, 100]"
    assert [line for line in printed if line.startswith("| `")] == [
        f"| `kl`, temperature 0.01 | {scores} | 26% | 0.0100 | 2.0 | 3.0 |",
        "| `learn.q_temperature` | expert | student | retention | agreement | regret | minutes | "
        "in all |",
        f"| `net3` | 61,954 (1.9%) | Space Invaders | {scores} | 50% | 0.0100 | 2.0 | 3.0 |",
    ]
    assert f"| 0.01, the default | {scores} | 26% | 0.0100 | 2.0 | 3.0 |" in printed
    titles = [line for line in printed if line.startswith("#")]
    assert titles == [
        "## Losses, one game",
        "## Temperature",
        "## Students smaller than their expert",
    ]


def test_results_prints_the_trainings_it_finds(tmp_path):
    scores = {"random": [{"scores": [1, 2]}], "expert": [{"scores": [100, 200]}]}
    (tmp_path / "breakout.json").write_text(json.dumps(scores))
    for run, mean in (("reward_half", 8.5), ("reward_from_it", 12.0)):
        (tmp_path / run).mkdir()
        row = {"games": [{"game": "breakout", "expert": played(mean)}]}
        (tmp_path / run / "breakout.json").write_text(json.dumps(row))
        line = {"step": 1, "seconds/collect": 60.0, "seconds/learn": 66.0, "loss": 1.0}
        (tmp_path / run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert results.markdown(tmp_path).splitlines()[-2:] == [
        "| the expert | 8.5 [7.5, 9.8] |  | 2.1 |",
        "| from it | 12.0 [11.0, 13.2] | 150% | 2.1 |",  # (12 - 1.5) / (8.5 - 1.5)
    ]


def promised():
    """Every `file::test` of docs/guarantees.md."""
    text = (ROOT / "docs" / "guarantees.md").read_text()
    return sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", text)))


def test_every_promise_names_a_test():
    rows = [
        line
        for line in (ROOT / "docs" / "guarantees.md").read_text().splitlines()
        if line.startswith("| ")
    ]
    assert len(rows) > 15
    for row in rows[1:]:
        assert re.search(r"`[\w/]+\.py::\w+`", row), row


@pytest.mark.parametrize(("file", "test"), promised())
def test_the_tests_that_keep_promises_exist(file, test):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
