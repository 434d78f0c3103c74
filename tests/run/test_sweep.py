"""Variants of a run, and the table of those that have ended."""

import dataclasses
import json
import shutil

import pytest

from jaxdistill import disk, terminal, workdirs
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.report import tables
from jaxdistill.run import distill, distill_settings, student_json, sweep


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


def _result(retentions, **seconds):
    games = [
        {"game": game, "retention": x or 5.54, "retention_interval": [x, x]}
        for game, x in retentions.items()
    ]
    return {"games": games, "seconds": seconds}


def test_seeds_share_a_row():
    kept = {"kl": [(0.9, 0.5), (1.0, 0.7), (0.8, 0.6)], "mse": [(0.4, None)]}
    ended = {}
    for variant in sweep.variants("learn.loss=kl,mse;seed=0,1,2"):
        loss, seed = variant.changes.values()
        if seed < len(kept[loss]):
            shares = dict(zip(("pong", "qbert"), kept[loss][seed], strict=True))
            seconds = {"collect": 30.0, "compile": 30.0, "learn": 60.0 * seed, "report": 999.0}
            ended[variant] = _result(shares, **seconds)
    columns, rows = sweep.rows(ended)
    assert columns == ("learn.loss", "runs", "pong", "qbert", "mean", "minutes")
    assert rows == [
        ("kl", 3, "90% [80%, 100%]", "60% [50%, 70%]", "70% [70%, 85%]", 2.0),
        ("mse", 1, "40%", "-", "-", 1.0),
    ]


def test_variants_may_have_other_tasks(capsys):
    apart, together = sweep.variants("together=None,duel")
    ended = {
        apart: _result({"aiming": 0.5, "moving": 0.7}, learn=60.0),
        together: _result({"moving": 0.8, "duel": 0.9}, learn=120.0),
    }
    columns, rows = sweep.rows(ended)
    assert columns == ("together", "runs", "aiming", "moving", "duel", "mean", "minutes")
    assert rows == [
        ("None", 1, "50%", "70%", "-", "60%", 1.0),
        ("duel", 1, "-", "80%", "90%", "85%", 2.0),
    ]
    terminal.table("both", columns, rows)
    assert "85%" in capsys.readouterr().out


@pytest.fixture
def settings(watcher, tmp_path):
    watcher("asterix", 1).save(tmp_path / "asterix")
    expert = ExpertSource(str(tmp_path / "asterix"))
    return distill_settings.Settings(experts=(expert,), learn=distill_settings.Learn(rounds=10))


def test_only_results_of_the_same_settings_count(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "read_result", lambda path: json.loads(path.read_text()))
    chosen = sweep.variants("seed=0,1,2")

    def asked(learn=(), evaluate=()):
        changed = dataclasses.replace(
            settings,
            learn=dataclasses.replace(settings.learn, **dict(learn)),
            evaluate=dataclasses.replace(settings.evaluate, **dict(evaluate)),
        )
        return {x: dataclasses.replace(changed, **x.changes) for x in chosen}

    def settled(settings):
        return distill_settings.resolve_defaults(settings, distill_settings.teachers(settings))

    for variant, own in list(asked().items())[:2]:
        directory = tmp_path / variant.name
        workdirs.claim(directory, settled(own))
        disk.write_json(directory / "result.json", dict(variant.changes))
    first, second, _ = chosen
    both = {first: {"seed": 0}, second: {"seed": 1}}
    assert sweep.results(asked(), tmp_path) == (both, {})
    share = asked(evaluate={"lowest_expert_share": 0.5})  # as a run may change it at any time
    assert sweep.results(share, tmp_path) == (both, {})
    for name, value, stands in (("batch_per_game", 64, 128), ("rounds", 20, 10)):
        ended, others = sweep.results(asked({name: value}), tmp_path)
        assert ended == {} and list(others) == [first, second]
        said = f"seed=0 holds a run with learn.{name} {stands}, this one has {value}; "
        assert said in others[first]
    # One has gone on to more rounds: by the loss that it began with, for as long.
    longer = settled(distill.as_begun(asked({"rounds": 20})[first], tmp_path / first.name))
    assert longer.learn.first_rounds == 2
    disk.write_json(tmp_path / first.name / "config.json", dataclasses.asdict(longer))
    ended, others = sweep.results(asked({"rounds": 20}), tmp_path)
    assert ended == {first: {"seed": 0}} and list(others) == [second]
    # Of another the experts stand elsewhere now, and are the same, by what it says of them.
    (source,) = settings.experts
    elsewhere = ExpertSource(str(shutil.move(source.path, tmp_path / "elsewhere")))
    moved = {x: dataclasses.replace(own, experts=(elsewhere,)) for x, own in asked().items()}
    _, others = sweep.results(moved, tmp_path)
    assert "seed=1 holds a run with experts.0.path" in others[second]
    result = tmp_path / second.name / "result.json"
    result.unlink()  # it was claimed before there was one
    student_json.claim_roles(
        tmp_path / second.name, moved[second], distill_settings.teachers(moved[second])
    )
    disk.write_json(result, dict(second.changes))
    ended, _ = sweep.results(moved, tmp_path)
    assert ended == {second: {"seed": 1}}
    (tmp_path / first.name / "config.json").unlink()
    _, others = sweep.results(moved, tmp_path)
    assert "holds no config.json" in others[first]
    assert not (tmp_path / first.name / "config.json").exists()
