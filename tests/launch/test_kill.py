"""The short form of benchmarks/kill.py: one run, stopped in three ways."""

import pathlib
import random
import signal

import pytest

from benchmarks import kill

TESTS = pathlib.Path(__file__).parents[1]
QUICK = f"sys.path.append({str(TESTS)!r})\nimport quick_program\nquick_program.install()"


@pytest.mark.slow
def test_a_run_that_is_stopped_again_and_again_ends_as_one_that_is_not(tmp_path, monkeypatch):
    monkeypatch.setenv("KILL_FIRST", QUICK)
    generator, tally = random.Random(), kill.Tally()
    shorter = {"collect.initial_steps": 256, "evaluate.max_steps": 40}
    program = kill.make_run(tmp_path / "experts", **shorter)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert kill.finish(program, whole) == []
    run = kill.Run(program, stopped)
    assert kill.stopped_at(run, "save", generator, signal.SIGKILL) is not None, run.untidy()
    kill.read(stopped)
    run = kill.Run(program, stopped)
    assert kill.stopped_at(run, "learn", generator, signal.SIGTERM) == 0, run.untidy()
    # Two go on at once: one of them may, and it ends what all of them began.
    kill.start_twice(program, whole, stopped, tally)
    assert not tally.notes
    assert tally.equal["two starts at once"] == 1


def test_what_differs_is_found():
    """Or the test above would find nothing."""
    assert kill.same({"a": [1.0, "x", None]}, {"a": [1.0, "x", None]})
    assert kill.same({"a": float("nan")}, {"a": float("nan")})
    for other in ([1.0, "x", 0], [1.0, "y", None], [2.0, "x", None], [1.0, "x"]):
        assert not kill.same({"a": [1.0, "x", None]}, {"a": other})
    assert not kill.same({"a": 1.0}, {"b": 1.0})
    timed = {"loss": 1.0, "seconds/learn": 2.0, "timer": {"a": 1}, "rows": [{"seconds": 3}]}
    assert kill.without_seconds(timed) == {"loss": 1.0, "rows": [{}]}
