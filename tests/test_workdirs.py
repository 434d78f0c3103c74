"""Tests for claiming a run's directory."""

import dataclasses
import json

import pytest

from jaxdistill import meshes, workdirs


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    size: int = 3


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    games: tuple[str, ...] = ()
    limit: int | None = None
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    seed: int = 0


def test_an_empty_or_missing_directory_is_claimed(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deeply/nested"):
        workdir = tmp_path / name
        assert workdirs.claim(workdir, Outer("x", ("pong",))) is False
        config = json.loads((workdir / "config.json").read_text())
        assert config == dataclasses.asdict(Outer("x", ())) | {
            "games": ["pong"],
            "parts": [],
        }


def test_one_of_several_processes_claims_for_all(tmp_path, monkeypatch):
    monkeypatch.setattr(meshes, "leads", lambda: False)  # as one that does not see the other's yet
    assert workdirs.claim(tmp_path / "run", Outer("x")) is False
    assert not (tmp_path / "run").exists()


def test_the_same_settings_find_their_run_again(tmp_path):
    chosen = Outer("x", ("pong", "freeway"), inner=Inner(0.1), parts=(Inner(), Inner(2.0)))
    assert workdirs.claim(tmp_path, chosen) is False
    (tmp_path / "metrics.jsonl").write_text("")
    assert workdirs.claim(str(tmp_path), chosen) is True
    assert workdirs.claim(tmp_path, chosen) is True


def test_a_run_from_before_a_field_was_known_had_its_default(tmp_path):
    workdirs.claim(tmp_path, Outer("x"))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["limit"], config["inner"]["rate"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert workdirs.claim(tmp_path, Outer("x")) is True
    unsaid = (
        r"inner\.rate 0\.5 \(its config\.json does not say: today's default\), this one has 0\.1"
    )
    with pytest.raises(ValueError, match=unsaid):
        workdirs.claim(tmp_path, Outer("x", inner=Inner(0.1)))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Outer("y", ("pong",)), "a run with name 'x', this one has 'y'"),
        (Outer("x", ("freeway",)), "games.0 'pong', this one has 'freeway'"),
        (Outer("x", ("pong", "freeway")), "games.1 None, this one has 'freeway'"),
        (Outer("x", ("pong",), inner=Inner(0.25)), "inner.rate 0.5, this one has 0.25"),
    ],
)
def test_other_settings_are_refused_and_change_nothing(tmp_path, other, message):
    workdirs.claim(tmp_path, Outer("x", ("pong",)))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=f"{message}; choose another --workdir"):
        workdirs.claim(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before


@dataclasses.dataclass(frozen=True)
class Another:
    """Settings of another program."""

    name: str
    speed: int = 1


@pytest.mark.parametrize(
    ("standing", "wanted", "reason"),
    [
        (Another("x"), Outer("x"), r"config\.json\.speed is unknown"),
        (Outer("x"), Another("x"), r"config\.json\.games is unknown"),
        (Inner(), Another("x"), r"config\.json\.rate is unknown"),
        (Outer("x", inner=Another("y")), Outer("x"), r"config\.json\.inner\.name is unknown"),
    ],
)
def test_a_run_of_another_program_is_called_so(tmp_path, standing, wanted, reason):
    workdirs.claim(tmp_path, standing)
    before = (tmp_path / "config.json").read_bytes()
    said = (
        rf"^{tmp_path} holds a run of another program or of another version \({reason}\); choose "
        r"another --workdir$"
    )
    with pytest.raises(ValueError, match=said):
        workdirs.claim(tmp_path, wanted)
    assert (tmp_path / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", r"another version \(config\.json\.name is missing\)"),
        (
            '{"name": 3}',
            r"holds a run that cannot be read here \(config\.json\.name is 3, expected",
        ),
        ("[]", r"holds a run that cannot be read here \(config\.json is \[\], expected fields of"),
    ],
)
def test_a_config_that_says_something_else_is_refused_with_what_to_do(tmp_path, text, reason):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=rf"{reason}.*; choose another --workdir$"):
        workdirs.claim(tmp_path, Outer("x"))


def test_fields_to_ignore_may_differ(tmp_path):
    workdirs.claim(tmp_path, Outer("x"))
    other = Outer("x", seed=1, inner=Inner(size=9))
    assert workdirs.claim(tmp_path, other, ignore=("seed", "inner.size")) is True
    with pytest.raises(ValueError, match=r"inner\.size 3, this one has 9"):
        workdirs.claim(tmp_path, other, ignore=("seed",))


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"exists and holds no config\.json"):
        workdirs.claim(tmp_path, Outer("x"))
    with pytest.raises(ValueError, match=r"exists and holds no config\.json"):
        workdirs.claim(tmp_path / "thesis.tex", Outer("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_config_is_named(tmp_path):
    workdirs.claim(tmp_path, Outer("x"))
    (tmp_path / "config.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        workdirs.claim(tmp_path, Outer("x"))


# The right behaviour: a kill between the temporary file and its rename leaves this, and DESIGN.md
# promises that a killed run resumes.
def test_a_claim_killed_before_it_was_done_can_be_repeated(tmp_path):
    (tmp_path / "config.json.partial").write_text('{"na')
    assert workdirs.claim(tmp_path, Outer("x")) is False
    assert workdirs.claim(tmp_path, Outer("x")) is True
