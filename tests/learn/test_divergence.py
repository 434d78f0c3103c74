"""Tests for learning that diverges: what is said, what is kept, how the run goes on."""

import dataclasses
import itertools
import json

import jax.numpy as jnp
import pytest

from jaxdistill import workdirs
from jaxdistill.learn import divergence

NAN, INF = float("nan"), float("inf")


@dataclasses.dataclass(frozen=True)
class Learn:
    rate: float = 0.5
    clip: float = 10.0


@dataclasses.dataclass(frozen=True)
class Settings:
    seed: int = 0
    learn: Learn = Learn()


KNOBS = ("learn.rate", "learn.clip")
GOOD = {"loss": 1.0, "game_loss/pong": 0.5, "game_loss/breakout": 1.5, "gradient_norm": 3.0}
STATE = {"params": jnp.ones(3), "step": jnp.int32(7)}


def _check(workdir, numbers=GOOD, state=STATE, settings=Settings()):
    divergence.check(workdir, settings, KNOBS, step=64, numbers=numbers, state=state)


def test_what_is_finite_goes_on_and_leaves_nothing(tmp_path):
    _check(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"game_loss/breakout": NAN, "loss": NAN}, "update 64: the loss of breakout is nan"),
        ({"game_loss/pong": INF, "loss": INF}, "the loss of pong is inf"),
        ({"gradient_norm": -INF}, "the gradient's norm is -inf"),
        ({"loss": NAN}, "the loss is nan"),
    ],
)
def test_the_first_number_that_is_not_finite_is_said(tmp_path, changes, said):
    with pytest.raises(ValueError) as stopped:
        _check(tmp_path, GOOD | changes)
    message = str(stopped.value)
    assert said in message and "learn.rate (0.5 now)" in message and "learn.clip (10.0" in message
    assert "\n" not in message
    assert json.loads((tmp_path / "diverged.json").read_text())["message"] == message


def test_parameters_are_looked_at_too(tmp_path):
    with pytest.raises(ValueError, match="a parameter, or what the optimiser keeps of one, is nan"):
        _check(tmp_path, state={"params": jnp.array([1.0, NAN]), "step": jnp.int32(1)})


def test_only_a_turned_knob_lets_the_run_go_on(tmp_path):
    first, slower = Settings(), Settings(learn=Learn(rate=0.1))
    assert divergence.claim(tmp_path, first, KNOBS) is False
    with pytest.raises(ValueError, match=r"learn\.rate 0\.5, this one has 0\.1"):
        divergence.claim(tmp_path, slower, KNOBS)  # as long as nothing has diverged
    with pytest.raises(ValueError):
        _check(tmp_path, GOOD | {"loss": NAN})

    with pytest.raises(ValueError, match=r"would again with these settings: update 64: the loss"):
        divergence.claim(tmp_path, first, KNOBS)
    with pytest.raises(ValueError, match="seed 0, this one has 1"):
        divergence.claim(tmp_path, dataclasses.replace(slower, seed=1), KNOBS)
    assert divergence.claim(tmp_path, slower, KNOBS) is True

    # From now on it is a run with that rate.
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"seed": 0, "learn": {"rate": 0.1, "clip": 10.0}}
    assert divergence.claim(tmp_path, slower, KNOBS) is True
    with pytest.raises(ValueError, match=r"learn\.rate 0\.1, this one has 0\.5"):
        divergence.claim(tmp_path, first, KNOBS)
    kept = json.loads((tmp_path / "diverged-64.json").read_text())
    assert kept["settings"] == {"learn.rate": "0.5", "learn.clip": "10.0"}


def test_what_was_idle_when_it_stopped_is_no_knob(tmp_path):
    """Of records of all knobs, too, as earlier versions wrote them."""
    divergence.claim(tmp_path, Settings(), KNOBS)
    with pytest.raises(ValueError):
        _check(tmp_path, GOOD | {"loss": NAN})
    with pytest.raises(ValueError, match="would again with these settings"):
        divergence.claim(tmp_path, Settings(), KNOBS[:1])
    unclipped = Settings(learn=Learn(clip=20.0))
    for where, parts in ((tmp_path, ()), (tmp_path / "whole", (tmp_path,))):
        workdirs.claim(where, Settings())
        with pytest.raises(ValueError, match=r"learn\.clip 10\.0, this one has 20\.0"):
            divergence.claim(where, unclipped, KNOBS[:1], parts=parts)
        assert json.loads((where / "config.json").read_text())["learn"]["clip"] == 10.0


def test_every_divergence_at_an_update_is_kept(tmp_path):
    rates = (0.5, 0.4, 0.3, 0.2)
    chosen = [Settings(learn=Learn(rate=rate)) for rate in rates]
    divergence.claim(tmp_path, chosen[0], KNOBS)
    for before, after in itertools.pairwise(chosen):
        with pytest.raises(ValueError):
            _check(tmp_path, GOOD | {"loss": NAN}, settings=before)
        assert divergence.claim(tmp_path, after, KNOBS) is True
    kept = [tmp_path / f"diverged-64{again}.json" for again in ("", "-2", "-3")]
    said = [json.loads(path.read_text())["settings"]["learn.rate"] for path in kept]
    assert said == [str(rate) for rate in rates[:3]]


def test_a_kill_while_the_run_takes_new_settings_does_not_stop_them(tmp_path, monkeypatch):
    divergence.claim(tmp_path, Settings(), KNOBS)
    with pytest.raises(ValueError):
        _check(tmp_path, GOOD | {"loss": NAN})
    slower = Settings(learn=Learn(rate=0.1))

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(divergence.pathlib.Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        divergence.claim(tmp_path, slower, KNOBS)
    monkeypatch.undo()
    assert divergence.claim(tmp_path, slower, KNOBS) is True


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_a_damaged_record_is_named(tmp_path, text):
    divergence.claim(tmp_path, Settings(), KNOBS)
    (tmp_path / "diverged.json").write_text(text)
    with pytest.raises(ValueError, match=r"diverged\.json is damaged .* delete it"):
        divergence.claim(tmp_path, Settings(), KNOBS)
