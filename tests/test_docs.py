"""Documents and the programs behind them tell the same story."""

import ast
import dataclasses
import importlib.metadata
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import jaxdistill
from benchmarks import results
from jaxdistill import settings
from jaxdistill.experts.sources import load_experts
from jaxdistill.learn import idle_settings, train_settings
from jaxdistill.run import distill_settings, merge_settings

ROOT = pathlib.Path(__file__).parents[1]


def test_docs_show_the_columns_that_the_program_prints():
    """Each printed table stands first under its heading, with the same first row.

    That is in docs/results.md, or in docs/experiments.md where results.md has no such heading.
    """
    pages = [sections("results.md"), sections("experiments.md")]
    for table in (*results.TABLES, *results.TRAINED):
        section = next(page[table.title] for page in pages if table.title in page)
        heading = next(line for line in section.splitlines() if line.startswith("| "))
        assert heading == f"| {' | '.join(table.columns)} |", table.title


def sections(page):
    """The text under each heading of a page in docs/, whose headings all differ."""
    parts = re.split(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(), flags=re.MULTILINE)
    titles = parts[1::2]
    assert len(set(titles)) == len(titles)
    return dict(zip(titles, parts[2::2], strict=True))


def test_a_run_is_found_whatever_its_name(tmp_path):
    table = results.Table("Temperature", ("temperature", "minutes"), {"temperature_0.1": "0.1"})
    assert not list(table.rows(tmp_path))
    (tmp_path / "temperature_0.1").mkdir()
    (tmp_path / "temperature_0.1" / "result.json").write_text(
        json.dumps({"games": [{}], "seconds": {"learn": 90.0}})
    )
    assert list(table.rows(tmp_path)) == [("0.1", "1.5")]


PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$LOG"
for argument in "$@"; do
    case $argument in
        --workdir=*) mkdir -p "${argument#*=}" ;;
        --out=*) touch "${argument#*=}" ;;
    esac
done
"""


def test_every_run_of_the_tables_is_made_by_results_sh(tmp_path):
    """The program as it is, with a `python` that only leaves what the programs would leave."""
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    log, out = tmp_path / "log", tmp_path / "out"
    environment = {
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "LOG": str(log),
        "JAXDISTILL_EXPERTS": "found",
    }

    def run(*tables):
        log.write_text("")
        program = ["bash", ROOT / "benchmarks" / "results.sh", out, *tables]
        subprocess.run(program, env=environment, check=True)
        return [line.split() for line in log.read_text().splitlines()]

    lines = run()
    made, trained, caches = set(), set(), set()
    for program, *flags in lines:
        values = dict(flag.removeprefix("--").split("=", 1) for flag in flags if "=" in flag)
        if "config" in values:
            config = config_of(values)
            if program == "launch/merge_weights.py":
                check_merge(
                    settings.build(merge_settings.Settings, config | {"method": values["method"]})
                )
            elif program == "launch/train_expert.py":
                check_training(settings.build(train_settings.Settings, config))
            else:
                check_run(settings.build(distill_settings.Settings, config))
        workdir = pathlib.Path(values.get("workdir", "")).name
        if program in ("launch/distill.py", "launch/merge_weights.py"):
            made.add(workdir)
            caches.add(values["cache_dir"])
        elif program == "launch/evaluate.py" and workdir:
            made.add(str(pathlib.Path(values["out"]).relative_to(out)))
        elif program == "launch/evaluate.py":
            path = pathlib.Path(values["out"])
            trained.add((path.parent.name, path.stem))
    assert made == {run for table in results.TABLES for run in table.runs}
    assert trained == {row[:2] for table in results.TRAINED for row in table.runs}
    assert len(caches) == 1, "experts are measured once"
    assert lines[-1] == ["benchmarks/results.py", str(out)]
    assert not any("evaluate.py" in program for program, *_ in run()), "nothing is made twice"
    assert len(run("states")) == 4 + 1, "that table alone, and what there is printed"
    with pytest.raises(subprocess.CalledProcessError):
        run("states", "of_nothing")
    assert not log.read_text(), "nothing is begun before all the names are known"


def config_of(flags):
    """What `--config=FILE:ARGUMENT --config.FIELD=VALUE` stand for, as plain values."""
    path, _, argument = flags["config"].partition(":")
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    config = module.get_config(*([argument] if argument else []))
    for name, value in flags.items():
        if name.startswith("config."):
            config.update_from_flattened_dict({name.removeprefix("config."): typed(value)})
    return config.to_dict()


def typed(text):
    """What a flag's text stands for."""
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def check_run(chosen):
    """Nothing in it is refused, as a run that begins refuses it."""
    if all(pathlib.Path(ROOT, source.path).exists() for source in chosen.experts):
        experts = load_experts(tuple(shipped(source) for source in chosen.experts))
        distill_settings.refuse_idle(chosen, experts)


def check_merge(chosen):
    merge_settings.refuse_idle(chosen, load_experts(tuple(map(shipped, chosen.experts))))


def check_training(chosen):
    if not chosen.experts:
        idle_settings.refuse_idle(chosen)


def shipped(source):
    return dataclasses.replace(source, path=str(ROOT / source.path))


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
    for run, row in (("size_net3_pong", game), ("loss_kl_seed_0", game | {"agreement": 0.256})):
        (tmp_path / run).mkdir()
        text = json.dumps({"games": [row], "seconds": seconds})
        (tmp_path / run / "result.json").write_text(text)
    printed = results.markdown(tmp_path).splitlines()
    scores = "10.0 [9.0, 11.2] | 9.1 [8.1, 10.3] | 90% [80, 100]"
    assert [line for line in printed if line.startswith("| `")] == [
        f"| `kl`, seed 0 | {scores} | 26% | 0.0100 | 2.0 | 3.0 |",
        "| `learn.q_temperature` | expert | student | retention | agreement | regret | minutes | "
        "in all |",
        f"| `net3` | 61,954 (1.9%) | Space Invaders | {scores} | 50% | 0.0100 | 2.0 | 3.0 |",
    ]
    unknown = game | {"retention": None, "retention_interval": [None, None]}
    (tmp_path / "loss_mse_seed_1").mkdir()
    text = json.dumps({"games": [unknown], "seconds": seconds})
    (tmp_path / "loss_mse_seed_1" / "result.json").write_text(text)
    row = "| `mse`, seed 1 | 10.0 [9.0, 11.2] | 9.1 [8.1, 10.3] |  | 50% | 0.0100 | 2.0 | 3.0 |"
    assert row in results.markdown(tmp_path).splitlines()
    assert f"| 0.01, the default | {scores} | 26% | 0.0100 | 2.0 | 3.0 |" in printed
    titles = [line for line in printed if line.startswith("#")]
    assert titles == [
        "## Losses, one game",
        "## Temperature",
        "## Students smaller than their expert",
    ]


def test_results_prints_the_trainings_it_finds(tmp_path):
    row = {"game": "breakout", "random": played(1.5), "expert": played(150.0)}
    row |= {"student": played(9.0), "retention": 0.5, "retention_interval": [0.4, 0.6]}
    row |= {"agreement": 0.5, "regret": 0.01}
    (tmp_path / "states_expert").mkdir()
    text = json.dumps({"games": [row], "seconds": {}})
    (tmp_path / "states_expert" / "result.json").write_text(text)
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


def test_worked_examples_work():
    """docs/extend.md, from its first line to its last, by one who has only imported the package."""
    text = (ROOT / "docs" / "extend.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for text in ("\n".join(blocks), *blocks[1:]):  # the first is where all begins
        subprocess.run([sys.executable, "-c", text], cwd=ROOT, check=True)


def test_lines_of_the_trouble_page_are_said_somewhere():
    rows = [
        line.split("|")[1]
        for line in (ROOT / "docs" / "troubleshooting.md").read_text().splitlines()
        if line.startswith("| `")
    ]
    paths = [*(ROOT / "jaxdistill").rglob("*.py"), *(ROOT / "launch").glob("*.py")]
    # A message may be broken into several literals.
    said = re.sub(r'"\s*f?"', "", " ".join(path.read_text() for path in paths))
    parts = [x for row in rows for line in re.findall("`([^`]+)`", row) for x in line.split("...")]
    assert len(rows) > 10
    for part in filter(None, (part.strip() for part in parts)):
        assert part in said, part


def test_commands_name_their_config_before_its_fields():
    """As the program wants them."""
    pages = [ROOT / "README.md", *ROOT.glob("*/*.md"), *ROOT.glob("configs/**/*.py")]
    found = 0
    for page in pages:
        for line in page.read_text().replace("\\\n", " ").splitlines():
            if "--config=" in line and (field := re.search(r"--config\.\w", line)):
                assert line.index("--config=") < field.start(), f"{page}: {line}"
                found += 1
    assert found > 10


def test_mutants_change_the_code_as_it_is():
    """Each `old` of benchmarks/mutants.toml stands once in its file, and `new` is another."""
    table = tomllib.loads((ROOT / "benchmarks" / "mutants.toml").read_text())
    listed = table["mutant"]
    assert len(listed) > 100
    assert {mutant["file"] for mutant in listed} <= table["modules"].keys(), "or none is tried"
    for module in table["modules"].values():
        assert all((ROOT / test).is_file() for test in module["tests"])
    for mutant in listed:
        text = (ROOT / mutant["file"]).read_text()
        assert text.count(mutant["old"]) == 1, mutant
        changed = text.replace(mutant["old"], mutant["new"])
        ast.parse(changed)
        assert changed != text, mutant


def test_there_is_one_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.findall(r"^## (\d\S*) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    cited = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^(?:version|date-released): (.*)$", cited, re.M) == [*newest]
    assert newest[0] == project["version"]
    assert jaxdistill.__version__ == importlib.metadata.version("jaxdistill")


def test_every_promise_names_a_test():
    rows = [
        line
        for line in (ROOT / "docs" / "guarantees.md").read_text().split("\n## ")[0].splitlines()
        if line.startswith("| ")
    ]
    assert len(rows) > 15
    for row in rows[1:]:
        assert re.search(r"`[\w/]+\.py::\w+`", row), row


@pytest.mark.parametrize(("file", "test"), promised())
def test_the_tests_that_keep_promises_exist(file, test):
    tree = ast.parse((ROOT / "tests" / file).read_text())
    assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
