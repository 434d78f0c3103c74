"""Variants of a run, and the table of those that have ended."""

import json

import pytest

from jaxdistill.report import tables
from jaxdistill.run import sweep


def test_every_combination_is_a_variant():
    found = sweep.variants("learn.loss=kl,q_values; seed=0,1 ;collect.change_drivers=true")
    assert [variant.name for variant in found] == [
        "learn.loss=kl,seed=0,collect.change_drivers=True",
        "learn.loss=kl,seed=1,collect.change_drivers=True",
        "learn.loss=q_values,seed=0,collect.change_drivers=True",
        "learn.loss=q_values,seed=1,collect.change_drivers=True",
    ]
    (rate,) = sweep.variants("learn.learning_rate=1e-3")
    assert rate.changes == {"learn.learning_rate": 0.001}


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ("", "names no field"),
        ("seed", "'seed' is not FIELD=VALUE,VALUE"),
        ("seed=", "'seed=' is not FIELD=VALUE,VALUE"),
        ("seed=1;seed=2", "seed is named twice"),
        ("learn.warm_start=../x", "is not FIELD"),
        ("seed=0,1,0", "seed=0 is there twice; give every value once"),
        ("learn.learning_rate=1e-3,0.002,0.001", "learn.learning_rate=0.001 is there twice"),
        ("learn.loss=kl,kl", "learn.loss=kl is there twice"),
        ("seed=0;x=[]", r"x=\[\] is neither a number nor a name"),
    ],
)
def test_what_is_no_sweep_is_refused(over, said):
    with pytest.raises(ValueError, match=said):
        sweep.variants(over)


def test_seeds_share_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "read_result", lambda path: json.loads(path.read_text()))
    chosen = sweep.variants("learn.loss=kl,mse;seed=0,1,2")
    kept = {"kl": [(0.9, 0.5), (1.0, 0.7), (0.8, 0.6)], "mse": [(0.4, None)]}
    for variant in chosen:
        loss, seed = variant.changes.values()
        if seed < len(kept[loss]):
            games = [
                {"game": game, "retention": x or 5.54, "retention_interval": [x, x]}
                for game, x in zip(("pong", "qbert"), kept[loss][seed], strict=True)
            ]
            seconds = {"collect": 30.0, "compile": 30.0, "learn": 60.0 * seed, "report": 999.0}
            (tmp_path / variant.name).mkdir()
            text = json.dumps({"games": games, "seconds": seconds})
            (tmp_path / variant.name / "result.json").write_text(text)
    ended = sweep.results(chosen, tmp_path)
    assert len(ended) == 4
    columns, rows = sweep.rows(ended)
    assert columns == ("learn.loss", "runs", "pong", "qbert", "mean", "minutes")
    assert rows == [
        ("kl", 3, "90% [80%, 100%]", "60% [50%, 70%]", "70% [70%, 85%]", 2.0),
        ("mse", 1, "40%", "-", "-", 1.0),
    ]
