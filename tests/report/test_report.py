"""Tests for what a person reads at the end."""

import json
import math

import pytest

from jaxdistill import settings
from jaxdistill.report import tables


@pytest.fixture
def result(tmp_path):
    """A run whose expert plays like random, as it is read back: nothing can be kept of it."""
    played = {"mean": 3.0, "interval": [3.0, 3.0], "distinct": 1, "distinct_starts": 1}
    row = {
        "game": "pong",
        **dict.fromkeys(("random", "expert", "student"), played),
        "retention": math.nan,
        "retention_interval": [math.nan, math.nan],
        "human_normalised": None,
        "shared_starts": 0,
    }
    whole = {
        "games": [row],
        **dict.fromkeys(("mean_retention", "geometric_retention", "worst_retention"), math.nan),
        "episodes": 2,
        "epsilon": 0.05,
        "opening_steps": 0,
        "opening_by": "random",
        "best_round": 1,
        "rounds": 2,
        "seconds": {"learn": 60.0},
    }
    settings.write_json(tmp_path / "result.json", whole)
    back = json.loads((tmp_path / "result.json").read_text())
    return {"measured": whole, "read back": back}


@pytest.mark.parametrize("which", ["measured", "read back"])
def test_what_is_not_known_is_a_dash(result, which, capsys):
    tables.print_result(result[which])
    out = capsys.readouterr().out
    assert "nan" not in out and "None" not in out
    assert "mean retention -, geometric mean -, worst game -;" in out
    line = next(line for line in out.splitlines() if line.split()[:1] == ["pong"])
    cells = "pong 3.0 3.0 [3.0, 3.0] 3.0 [3.0, 3.0] - [-,"
    assert line.split()[:10] == cells.split()
