"""Tests for turning plain values into settings, and for claiming a run's directory."""

import dataclasses
import json

import pytest

from jaxdistill import settings


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    size: int = 3

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size is {self.size}, expected at least 1")


@dataclasses.dataclass(frozen=True)
class Outer:
    name: str
    games: tuple[str, ...] = ()
    flag: bool = False
    limit: int | None = None
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    seed: int = 0


def test_nested_values_become_typed_settings():
    built = settings.build(
        Outer,
        {
            "name": "x",
            "games": ["pong", "freeway"],
            "limit": 4,
            "inner": {"rate": 1},
            "parts": [{"size": 7}, {}],
        },
    )
    assert built == Outer(
        "x", ("pong", "freeway"), False, 4, Inner(1.0, 3), (Inner(size=7), Inner())
    )
    assert isinstance(built.inner.rate, float)
    assert hash(built)  # all the way down


def test_what_is_left_out_has_its_default():
    assert settings.build(Outer, {"name": "x"}) == Outer("x")
    assert settings.build(Outer, {"name": "x", "limit": None}).limit is None


@pytest.mark.parametrize(
    ("text", "games"),
    [("pong,freeway", ("pong", "freeway")), ("pong", ("pong",)), ("pong,", ("pong",)), ("", ())],
)
def test_a_flag_lists_names_with_commas(text, games):
    assert settings.build(Outer, {"name": "x", "games": text}).games == games


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "config.name is missing"),
        ({"name": 3}, "config.name is 3, expected str"),
        ({"name": None}, "config.name is None, expected str"),
        ({"name": "x", "nmae": "y"}, "config.nmae is unknown; known fields: name, games"),
        ({"name": "x", "seed": 1.5}, "config.seed is 1.5, expected int"),
        ({"name": "x", "seed": True}, "config.seed is True, expected int"),
        ({"name": "x", "seed": "1"}, "config.seed is '1', expected int"),
        ({"name": "x", "flag": 1}, "config.flag is 1, expected bool"),
        ({"name": "x", "limit": "4"}, "config.limit is '4', expected int"),
        ({"name": "x", "games": 3}, "config.games is 3, expected a list"),
        ({"name": "x", "games": ["pong", 3]}, r"config.games\[1\] is 3, expected str"),
        ({"name": "x", "inner": 3}, "config.inner is 3, expected fields of Inner"),
        ({"name": "x", "inner": {"rate": "fast"}}, "config.inner.rate is 'fast', expected float"),
        ({"name": "x", "inner": {"rate": True}}, "config.inner.rate is True, expected float"),
        ({"name": "x", "inner": {"size": 0}}, "config.inner: size is 0, expected at least 1"),
        ({"name": "x", "inner": {"sise": 0}}, "config.inner.sise is unknown"),
        ({"name": "x", "parts": [{}, {"size": "2"}]}, r"config.parts\[1\].size is '2'"),
    ],
)
def test_a_bad_value_is_named_with_its_place(fields, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        settings.build(Outer, fields)


def test_an_empty_or_missing_directory_is_claimed(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "deeply/nested"):
        workdir = tmp_path / name
        assert settings.claim(workdir, Outer("x", ("pong",))) is False
        config = json.loads((workdir / "config.json").read_text())
        assert config == dataclasses.asdict(Outer("x", ())) | {
            "games": ["pong"],
            "parts": [],
        }


def test_the_same_settings_find_their_run_again(tmp_path):
    chosen = Outer("x", ("pong", "freeway"), inner=Inner(0.1), parts=(Inner(), Inner(2.0)))
    assert settings.claim(tmp_path, chosen) is False
    (tmp_path / "metrics.jsonl").write_text("")
    assert settings.claim(str(tmp_path), chosen) is True
    assert settings.claim(tmp_path, chosen) is True


def test_a_run_from_before_a_field_was_known_had_its_default(tmp_path):
    settings.claim(tmp_path, Outer("x"))
    config = json.loads((tmp_path / "config.json").read_text())
    del config["limit"], config["inner"]["rate"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert settings.claim(tmp_path, Outer("x")) is True
    with pytest.raises(ValueError, match=r"inner\.rate 0\.5, this one has 0\.1"):
        settings.claim(tmp_path, Outer("x", inner=Inner(0.1)))


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
    settings.claim(tmp_path, Outer("x", ("pong",)))
    before = (tmp_path / "config.json").read_bytes()
    with pytest.raises(ValueError, match=f"{message}; choose another --workdir"):
        settings.claim(tmp_path, other)
    assert (tmp_path / "config.json").read_bytes() == before


def test_fields_to_ignore_may_differ(tmp_path):
    settings.claim(tmp_path, Outer("x"))
    other = Outer("x", seed=1, inner=Inner(size=9))
    assert settings.claim(tmp_path, other, ignore=("seed", "inner.size")) is True
    with pytest.raises(ValueError, match=r"inner\.size 3, this one has 9"):
        settings.claim(tmp_path, other, ignore=("seed",))


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="exists and holds no run"):
        settings.claim(tmp_path, Outer("x"))
    with pytest.raises(ValueError, match="exists and holds no run"):
        settings.claim(tmp_path / "thesis.tex", Outer("x"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_config_is_named(tmp_path):
    settings.claim(tmp_path, Outer("x"))
    (tmp_path / "config.json").write_text('{"name": ')
    with pytest.raises(ValueError, match=r"config.json is damaged"):
        settings.claim(tmp_path, Outer("x"))


# The right behaviour: a kill between the temporary file and its rename leaves this, and DESIGN.md
# promises that a killed run resumes.
def test_a_claim_killed_before_it_was_done_can_be_repeated(tmp_path):
    (tmp_path / "config.json.partial").write_text('{"na')
    assert settings.claim(tmp_path, Outer("x")) is False
    assert settings.claim(tmp_path, Outer("x")) is True


def test_flatten_names_leaves_by_their_path():
    tree = {"a": 1, "b": {"c": None, "d": [5, {"e": "f"}]}}
    assert settings.flatten(tree) == {"a": 1, "b.c": None, "b.d.0": 5, "b.d.1.e": "f"}


def test_json_is_replaced_whole(tmp_path):
    path = tmp_path / "x.json"
    settings.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        settings.write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    settings.write_json(path, {"new": 2})
    assert json.loads(path.read_text()) == {"new": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
