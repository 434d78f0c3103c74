"""Tests for the times of a run: phases, compiling and the wall's."""

import json
import time

import jax
import pytest

from jaxdistill import clocks

real_time = time.monotonic
TRACE = "/jax/core/compile/jaxpr_trace_duration"


def test_timer_adds_up_nested_phases(clock):
    timer = clocks.Timer()
    for _ in range(2):
        with timer.phase("outer"):
            clock.now += 1
            with timer.phase("inner"):
                clock.now += 2
    assert timer.seconds() == {"outer": 6.0, "inner": 4.0}


def test_timer_counts_a_phase_inside_itself_once(clock):
    timer = clocks.Timer()
    with timer.phase("a"), timer.phase("a"):
        clock.now += 3
    assert timer.seconds() == {"a": 3.0}


def test_timer_includes_open_phases_and_those_that_raise(clock):
    timer = clocks.Timer()
    with pytest.raises(KeyError), timer.phase("a"):
        clock.now += 1
        assert timer.seconds() == {"a": 1.0}
        raise KeyError
    clock.now += 5
    assert timer.seconds() == {"a": 1.0}


def test_a_resumed_timer_continues(clock):
    first = clocks.Timer()
    with first.phase("run"):
        clock.now += 2
        with first.phase("collect"):
            clock.now += 1
        state = json.loads(json.dumps(first.state()))
    second = clocks.Timer()
    with second.phase("run"):
        clock.now += 50
        second.restore(state)
        clock.now += 4
        with second.phase("collect"):
            clock.now += 1
    assert second.seconds() == {"run": 8.0, "collect": 2.0}
    with pytest.raises(ValueError, match="expected 'seconds'"):
        second.restore({"counts": {}})
    third = clocks.Timer()
    third.restore(state | {"counts": {"run": 1}})  # as checkpoints had it
    assert third.seconds() == first.state()["seconds"] == {"run": 3.0, "collect": 1.0}


def test_seconds_of_learning_are_not_those_of_measuring():
    seconds = {"collect": 1.0, "learn": 2.0, "compile": 4.0, "save": 8.0, "evaluate": 16.0}
    assert clocks.learning_seconds(seconds) == 15.0
    rows = {"seconds/collect": 1.0, "seconds/store": 32.0, "seconds/learn": None, "learn": 9.0}
    assert clocks.learning_seconds(rows, "seconds/") == 33.0


def test_compiling_is_a_phase_of_its_own(clock):
    with clock.compiles(100):
        timer = clocks.Timer()
    before = timer.seconds()
    assert before == {"compile": 50.0}, "since the timer was made"
    with timer.phase("outer"):
        clock.now += 1
        with timer.phase("learn"):
            clock.now += 2
            with clock.compiles(30, TRACE), clock.compiles(10):
                assert timer.seconds() == {"outer": 3.0, "learn": 2.0, "compile": 70.0}
            clock.now += 3
    assert timer.seconds() == {"outer": 6.0, "learn": 5.0, "compile": 90.0}
    resumed, state = clocks.Timer(), json.loads(json.dumps(timer.state()))
    with clock.compiles(4):
        pass
    resumed.restore(state)
    assert resumed.seconds() == {"outer": 6.0, "learn": 5.0, "compile": 94.0}


def test_jax_tells_what_it_compiles():
    """Once for a new function, and not again where it is called again."""
    add = jax.jit(lambda x: x + 17)
    timer = clocks.Timer()
    with timer.phase("learn"):
        begun = time.perf_counter()
        jax.block_until_ready(add(1.0))
        elapsed = time.perf_counter() - begun
    seconds = timer.seconds()
    assert 0.2 * elapsed < seconds["compile"] < elapsed
    assert seconds["learn"] + seconds["compile"] == pytest.approx(elapsed, abs=0.05)
    jax.block_until_ready(add(2.0))
    assert timer.seconds() == seconds


def test_the_wall_s_seconds_are_those_of_all_sessions(clock, tmp_path, monkeypatch):
    began = clock.now
    clock.now += 30  # imports
    with clocks.wall_clock(tmp_path, began=began) as wall:
        clock.now += 10
        assert wall() == 40.0
    clock.now += 1000
    with pytest.raises(KeyboardInterrupt), clocks.wall_clock(tmp_path) as wall:
        clock.now += 5
        raise KeyboardInterrupt
    with clocks.wall_clock(tmp_path, keeps=False) as wall:
        clock.now += 3
        assert wall() == 48.0
    # A session that is killed never ends its body; what it had written stays.
    monkeypatch.setattr(clocks, "_WALL_INTERVAL", 0.01)
    killed = clocks.wall_clock(tmp_path)
    killed.__enter__()
    clock.now += 7
    limit = real_time() + 5
    with clocks.wall_clock(tmp_path, keeps=False) as wall:
        first = wall()
    while first < 52.0 and real_time() < limit:
        with clocks.wall_clock(tmp_path, keeps=False) as wall:
            first = wall()
    assert first == 52.0
    killed.__exit__(None, None, None)


@pytest.mark.parametrize("text", ["{", "[]", '{"seconds": "x"}', '{"seconds": -1}', "{}"])
def test_a_damaged_wall_is_one_line(tmp_path, text):
    (tmp_path / "wall.json").write_text(text)
    with (
        pytest.raises(ValueError, match=r"wall.json is damaged \(.*\); delete it, and") as caught,
        clocks.wall_clock(tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_phases_add_up_to_the_wall():
    parts = [{"learn": 2.0, "compile": 1.0}, {"learn": 3.0, "report": 4.0}]
    assert clocks.add_up(parts, 12.5) == {
        "learn": 5.0,
        "compile": 1.0,
        "report": 4.0,
        "other": 2.5,
    }
    assert clocks.add_up(parts, 9.0)["other"] == 0.0
