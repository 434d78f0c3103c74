"""Tests for what a run's JSON may say: damage is one line that says what to do."""

import dataclasses
import json

import pytest

from jaxdistill import disk, settings
from jaxdistill.report import tables

ROW = {
    "game": "pong",
    "random": {"mean": -20.0, "interval": [-21.0, -19.0]},
    "expert": {"mean": 15.0, "interval": [14.0, 16.0], "episodes": 5, "distinct_starts": 5},
    "student": {"mean": 14.0, "interval": [13.0, 15.0], "episodes": 5, "distinct_starts": 5},
    "retention": 0.97,
    "retention_interval": [0.9, 1.0],
    "human_normalised": None,
    "shared_starts": 0,
}
RESULT = {
    "games": [ROW],
    "mean_retention": 0.97,
    "geometric_retention": 0.96,
    "worst_retention": 0.9,
    "episodes": 5,
    "epsilon": 0.05,
    "opening_steps": 0,
    "opening_by": "random",
    "best_round": 1,
    "rounds": 2,
    "seconds": {"learn": 3.0},
}


def test_a_result_that_can_be_printed_is_read(tmp_path, capsys):
    path = tmp_path / "result.json"
    disk.write_json(path, RESULT)
    assert tables.read_result(path) == RESULT
    tables.print_result(tables.read_result(path))
    out = " ".join(capsys.readouterr().out.split())
    assert "mean retention 97.0%, geometric mean 96.0%, worst game 90.0%;" in out


@pytest.mark.parametrize(
    "change",
    [
        {"games": None},
        {"games": [1]},
        {"games": [ROW | {"student": {"mean": "much"}}]},
        {"games": [ROW | {"retention_interval": 3}]},
        {"mean_retention": "all"},
        {"seconds": [1]},
        {"seconds": {"learn": "long"}},
        {"epsilon": "x"},
    ],
    ids=str,
)
def test_a_damaged_result_is_one_line(tmp_path, change):
    path = tmp_path / "result.json"
    path.write_text(json.dumps(RESULT | change))
    with pytest.raises(ValueError, match=r"result.json is damaged \(.*\); remove it") as caught:
        tables.read_result(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\xff\xfe", " " * (16 * 2**20 + 1)])
def test_what_is_not_json_is_one_line(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"result.json is damaged \(.*\); do this") as caught:
        disk.read_json(path, "do this")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    with pytest.raises(FileNotFoundError, match=r"other.json is not there"):
        disk.read_json(tmp_path / "other.json", "do this")


@dataclasses.dataclass(frozen=True)
class Chosen:
    steps: int = 3


@pytest.mark.parametrize(
    "fields",
    [
        {"x" * 5000: 1},
        {"\n\x1b[2J": 1},
        {"steps": "y" * 5000},
        {"steps": [[]] * 5000},
        ["z" * 5000],
    ],
    ids=["long name", "name of control characters", "long value", "many values", "no fields"],
)
def test_what_settings_hold_is_shown_short_and_on_one_line(fields):
    with pytest.raises(ValueError) as caught:
        settings.build(Chosen, fields, "config.json")
    message = str(caught.value)
    assert message.startswith("config.json") and message.isprintable() and len(message) < 300
