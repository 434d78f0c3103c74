"""Tests for traces of a few iterations."""

import os
import re

import pytest

from jaxdistill import profiler
from jaxdistill.profiler import Profile


def test_a_profile_is_of_the_iterations_after_those_that_compile(tmp_path, capsys):
    trace = Profile(tmp_path / "trace", skip=2, count=1)
    for _ in range(4):
        trace.step()
    trace.close()
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    assert not capsys.readouterr().out


def test_a_loop_that_ends_before_it_is_traced_says_so(tmp_path, capsys):
    """Be it that no more were left, or that it was stopped with hundreds to come."""
    directory = tmp_path / "trace"
    trace = Profile(directory, skip=2)
    for _ in range(2):
        trace.step()
    trace.close()
    said = "2 iterations were begun, and the first 2 are not traced"
    assert capsys.readouterr().out.split("\n") == [f"no profile in {directory}: {said}", ""]
    assert not directory.exists()
    Profile(None).close()
    profiler.none_left(None)
    assert not capsys.readouterr().out


def test_a_run_that_has_ended_says_that_nothing_is_traced(tmp_path, capsys):
    profiler.none_left(tmp_path / "trace")
    said = "the run has ended, and nothing is left to trace"
    assert capsys.readouterr().out == f"no profile in {tmp_path / 'trace'}: {said}\n"
    assert not (tmp_path / "trace").exists()


def test_where_nothing_can_be_written_nothing_is_begun(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.touch()
    for place in (file, file / "within"):
        with pytest.raises(
            OSError, match=f"^{re.escape(str(place))} cannot be written .*is a file"
        ):
            profiler.check(place)
    profiler.check(tmp_path / "new" / "trace")
    profiler.check(None)
    assert not (tmp_path / "new").exists()
    monkeypatch.setattr(os, "access", lambda *_: False)  # as root may write anywhere
    with pytest.raises(OSError, match="nothing may be written in"):
        profiler.check(tmp_path / "new")
    trace = Profile(file, skip=0, count=2)
    trace.step()
    with pytest.raises(OSError, match=f"^{re.escape(str(file))} cannot be written"):
        trace.close()
    assert not trace.close(), "it has ended"
