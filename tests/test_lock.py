"""Tests for the lock: one writer, who it is, and that it ends with its process."""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from jaxdistill import lock

ROOT = pathlib.Path(__file__).parents[1]
_HOLD = """
import sys, time
from jaxdistill import lock
with lock.one_writer(sys.argv[1], "mark"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes to `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path / "run")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_writer_is_told_who_the_first_is(tmp_path, holder):
    with (
        pytest.raises(ValueError) as refused,
        lock.one_writer(tmp_path / "run", "mark"),
    ):
        raise AssertionError("both write")
    message = str(refused.value)
    assert f"run is being written to by process {holder.pid} on {os.uname().nodename} since 20" in (
        message
    )
    assert "-c" in message and "\n" not in message
    # Nor did being refused disturb what says so.
    held = json.loads((tmp_path / "run" / lock.NAME).read_text())
    assert held["pid"] == holder.pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_ends_with_its_process(tmp_path, holder, number):
    holder.send_signal(number)
    holder.wait()
    with lock.one_writer(tmp_path / "run", "mark"):
        held = json.loads((tmp_path / "run" / lock.NAME).read_text())
    assert held["pid"] == os.getpid()


def test_it_is_free_again_when_the_writing_ends_or_fails(tmp_path):
    for _ in range(2):
        with pytest.raises(KeyError), lock.one_writer(tmp_path, "mark"):
            raise KeyError
    with lock.one_writer(tmp_path, "mark"), pytest.raises(ValueError, match="is being written to"):
        lock.one_writer(tmp_path, "mark").__enter__()


def test_a_lock_file_that_says_nothing_yet_is_respected(tmp_path):
    with lock.one_writer(tmp_path, "mark"):
        (tmp_path / lock.NAME).write_text("")
        with pytest.raises(ValueError, match="is being written to by another process; wait"):
            lock.one_writer(tmp_path, "mark").__enter__()


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for place in (tmp_path, tmp_path / "thesis.tex"):
        with pytest.raises(ValueError, match=r"exists and holds no mark; choose another"):
            lock.one_writer(place, "mark").__enter__()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "mark").write_text("")
    with lock.one_writer(tmp_path, "mark"):
        pass


def test_what_a_kill_leaves_at_the_very_beginning_is_no_other_run(tmp_path):
    (tmp_path / lock.NAME).write_text("")
    (tmp_path / "mark.partial").write_text("{")
    with lock.one_writer(tmp_path, "mark"):
        pass


def test_a_file_system_without_locks_is_said_and_gone_on_with(tmp_path, monkeypatch, capsys):
    def unsupported(file, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with lock.one_writer(tmp_path, "mark"):
        pass
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no locks (No locks available)" in line


def test_a_directory_that_may_not_be_written_is_one_line(tmp_path, request):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mark").write_text("")
    (tmp_path / "run").chmod(0o555)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and "pytest" in str(path):
            path.chmod(path.stat().st_mode | 0o055)
    request.getfixturevalue("unprivileged")
    for place in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(OSError, match=r"cannot be written to \(Permission denied\); choose"):
            lock.one_writer(place, "mark").__enter__()


def test_a_full_disk_names_the_file_and_the_same_again_goes_on(tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    said = r"run/writer\.lock cannot be written to \(File too large\); choose another directory$"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # of a file so many bytes at most
        with pytest.raises(OSError, match=said):
            lock.one_writer(tmp_path / "run", "mark").__enter__()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    with lock.one_writer(tmp_path / "run", "mark"):
        assert json.loads((tmp_path / "run" / lock.NAME).read_text())["pid"] == os.getpid()


def test_of_several_processes_only_the_leader_takes_it(tmp_path, holder, monkeypatch):
    monkeypatch.setattr(lock.meshes, "leads", lambda: False)
    with lock.one_writer(tmp_path / "run", "mark"):
        pass
