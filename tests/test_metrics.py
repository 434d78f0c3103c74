"""Tests for what a run writes, times and prints."""

import contextlib
import io
import json
import math
import pathlib
import struct
import sys
import time

import jax
import numpy as np
import pytest
from jax import monitoring
from tensorboardX.proto import event_pb2

from jaxdistill import mesh, metrics, text

real_time = time.monotonic


def _events(directory):
    """TensorBoard's events in file order: each record is length, crc, data, crc."""
    events = []
    for path in sorted((directory / "tensorboard").glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
            data = data[12 + length + 4 :]
    return events


def _scalars(directory):
    return [
        (event.step, value.tag, pytest.approx(value.simple_value))
        for event in _events(directory)
        for value in event.summary.value
    ]


def test_rows_are_read_back_in_order(tmp_path):
    directory = tmp_path / "new" / "run"
    with metrics.Writer(directory) as writer:
        writer.write(0, {"loss": 1})
        assert metrics.read(directory) == [{"step": 0, "loss": 1.0}]  # on disk at once
        writer.write(5, {"loss": np.float32(0.5), "pong/score": np.array(-3)})
        writer.write(np.int64(6), {})
    assert metrics.read(str(directory)) == [
        {"step": 0, "loss": 1.0},
        {"step": 5, "loss": 0.5, "pong/score": -3.0},
        {"step": 6},
    ]
    assert _scalars(directory) == [(0, "loss", 1.0), (5, "loss", 0.5), (5, "pong/score", -3.0)]


def test_rows_are_shown_elsewhere_too(tmp_path, monkeypatch):
    monkeypatch.setattr(metrics, "_shown_in", [])
    seen = []
    metrics.show_in(lambda where: lambda step, numbers: seen.append((where, step, dict(numbers))))
    with metrics.Writer(tmp_path) as writer:
        writer.write(3, {"loss": np.float32(0.5), "score": math.nan})
    assert seen == [(tmp_path, 3, {"loss": 0.5})]


@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="needs Linux's full device")
@pytest.mark.parametrize("full", ["metrics.jsonl", "tensorboard"])
def test_a_full_disk_is_one_error_and_never_waited_for(tmp_path, full):
    writer = metrics.Writer(tmp_path)
    writer.write(1, {"loss": 1.0})
    # What it writes to from now on is a file on a full disk.
    disk = open("/dev/full", "w" if full == "metrics.jsonl" else "wb")  # noqa: SIM115
    if full == "metrics.jsonl":
        writer._file.close()
        writer._file = disk
    else:
        events = writer._events._writer._py_recordio_writer
        events._writer.close()
        events._writer = disk
    with (
        pytest.raises(OSError, match=rf"{full} cannot be written \(No space left on device\)"),
        writer,
    ):
        for step in range(2, 40):  # more than a queue of tensorboardX takes
            writer.write(step, {"loss": 1.0})
    with contextlib.suppress(OSError):  # tensorboardX leaves it open when its last flush fails
        disk.close()
    with metrics.Writer(tmp_path, resume_step=1) as writer:  # there is room again
        writer.write(2, {"loss": 0.5})
    assert metrics.read(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
    assert _scalars(tmp_path)[-1] == (2, "loss", 0.5)


def test_non_finite_values_are_null(tmp_path):
    with metrics.Writer(tmp_path) as writer:
        writer.write(1, {"a": math.nan, "b": math.inf, "c": -np.inf, "d": 2.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "a": null, "b": null, "c": null, "d": 2.0}\n'
    assert _scalars(tmp_path) == [(1, "d", 2.0)]


def test_bad_rows_are_refused_and_leave_nothing(tmp_path):
    writer = metrics.Writer(tmp_path)
    with pytest.raises(ValueError, match="step"):
        writer.write(1, {"step": 2})
    with pytest.raises(ValueError, match="float"):
        writer.write(1, {"a": 1, "b": "high"})
    writer.close()
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(1, {"a": 1})
    assert metrics.read(tmp_path) == []


def test_a_new_run_does_not_join_an_old_one(tmp_path):
    with metrics.Writer(tmp_path) as writer:
        writer.write(1, {"a": 1})
    with pytest.raises(ValueError, match="already holds"):
        metrics.Writer(tmp_path)
    assert metrics.read(tmp_path) == [{"step": 1, "a": 1.0}]


def test_resuming_drops_what_the_killed_run_left(tmp_path):
    with metrics.Writer(tmp_path) as writer:
        for step in (10, 20, 30):
            writer.write(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')
    assert [row["step"] for row in metrics.read(tmp_path)] == [10, 20, 30]

    with metrics.Writer(tmp_path, resume_step=20) as writer:
        assert [row["step"] for row in metrics.read(tmp_path)] == [10, 20]
        writer.write(30, {"loss": 3.5})
    assert metrics.read(tmp_path)[1:] == [{"step": 20, "loss": 20.0}, {"step": 30, "loss": 3.5}]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "tensorboard"]

    # Two files, although both sessions may start within one second; TensorBoard hides what
    # the first one says about steps from 21 on.
    assert _scalars(tmp_path)[-1] == (30, "loss", 3.5)
    assert len(_scalars(tmp_path)) == 4
    starts = [
        e.step for e in _events(tmp_path) if e.session_log.status == event_pb2.SessionLog.START
    ]
    assert starts == [21]


def test_resuming_keeps_a_whole_last_line_without_its_end(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "a": 0.5}')
    with metrics.Writer(tmp_path, resume_step=2) as writer:
        writer.write(3, {})
    assert [row["step"] for row in metrics.read(tmp_path)] == [1, 2, 3]


def test_resuming_before_the_first_checkpoint(tmp_path):
    with metrics.Writer(tmp_path, resume_step=7) as writer:  # nothing there yet
        writer.write(0, {"a": 1})
    with metrics.Writer(tmp_path, resume_step=-1) as writer:
        assert metrics.read(tmp_path) == []


def test_half_a_character_at_the_end_is_tolerated(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "\xc3')
    assert metrics.read(tmp_path) == [{"step": 1}]


@pytest.mark.parametrize("line", ['{"step": 1, "a', "[1]", '{"a": 1}', "\0\0"])
def test_a_broken_line_elsewhere_is_named(tmp_path, line):
    content = f'{{"step": 0}}\n{line}\n{{"step": 2}}\n'
    (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(ValueError, match=r"metrics\.jsonl line 2: found"):
        metrics.read(tmp_path)
    with pytest.raises(ValueError, match="line 2"):
        metrics.Writer(tmp_path, resume_step=1)
    assert (tmp_path / "metrics.jsonl").read_text() == content


def test_reading_where_nothing_is(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl not found"):
        metrics.read(tmp_path)


class _Clock:
    """A clock that stands still until told."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = _Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def test_timer_adds_up_nested_phases(clock):
    timer = metrics.Timer()
    for _ in range(2):
        with timer.phase("outer"):
            clock.now += 1
            with timer.phase("inner"):
                clock.now += 2
    assert timer.seconds() == {"outer": 6.0, "inner": 4.0}


def test_timer_counts_a_phase_inside_itself_once(clock):
    timer = metrics.Timer()
    with timer.phase("a"), timer.phase("a"):
        clock.now += 3
    assert timer.seconds() == {"a": 3.0}


def test_timer_includes_open_phases_and_those_that_raise(clock):
    timer = metrics.Timer()
    with pytest.raises(KeyError), timer.phase("a"):
        clock.now += 1
        assert timer.seconds() == {"a": 1.0}
        raise KeyError
    clock.now += 5
    assert timer.seconds() == {"a": 1.0}


def test_a_resumed_timer_continues(clock):
    first = metrics.Timer()
    with first.phase("run"):
        clock.now += 2
        with first.phase("collect"):
            clock.now += 1
        state = json.loads(json.dumps(first.state()))
    second = metrics.Timer()
    with second.phase("run"):
        clock.now += 50
        second.restore(state)
        clock.now += 4
        with second.phase("collect"):
            clock.now += 1
    assert second.seconds() == {"run": 8.0, "collect": 2.0}
    with pytest.raises(ValueError, match="expected 'seconds'"):
        second.restore({"counts": {}})
    third = metrics.Timer()
    third.restore(state | {"counts": {"run": 1}})  # as checkpoints had it
    assert third.seconds() == first.state()["seconds"] == {"run": 3.0, "collect": 1.0}


def test_seconds_of_learning_are_not_those_of_measuring():
    seconds = {"collect": 1.0, "learn": 2.0, "compile": 4.0, "save": 8.0, "evaluate": 16.0}
    assert metrics.learning_seconds(seconds) == 15.0
    rows = {"seconds/collect": 1.0, "seconds/store": 32.0, "seconds/learn": None, "learn": 9.0}
    assert metrics.learning_seconds(rows, "seconds/") == 33.0


COMPILE = "/jax/core/compile/backend_compile_duration"
TRACE = "/jax/core/compile/jaxpr_trace_duration"


@contextlib.contextmanager
def _compiles(clock, seconds, event=COMPILE):
    """What JAX says while it compiles for so long."""
    monitoring.record_scalar(event, 0.0, fun_name="f")
    clock.now += seconds / 2
    yield
    clock.now += seconds / 2
    monitoring.record_event_duration_secs(event, seconds, fun_name="f")


def test_compiling_is_a_phase_of_its_own(clock):
    with _compiles(clock, 100):
        timer = metrics.Timer()
    before = timer.seconds()
    assert before == {"compile": 50.0}, "since the timer was made"
    with timer.phase("outer"):
        clock.now += 1
        with timer.phase("learn"):
            clock.now += 2
            with _compiles(clock, 30, TRACE), _compiles(clock, 10):
                assert timer.seconds() == {"outer": 3.0, "learn": 2.0, "compile": 70.0}
            clock.now += 3
    assert timer.seconds() == {"outer": 6.0, "learn": 5.0, "compile": 90.0}
    resumed, state = metrics.Timer(), json.loads(json.dumps(timer.state()))
    with _compiles(clock, 4):
        pass
    resumed.restore(state)
    assert resumed.seconds() == {"outer": 6.0, "learn": 5.0, "compile": 94.0}


def test_jax_tells_what_it_compiles():
    """Once for a new function, and not again where it is called again."""
    add = jax.jit(lambda x: x + 17)
    timer = metrics.Timer()
    with timer.phase("learn"):
        begun = time.perf_counter()
        jax.block_until_ready(add(1.0))
        elapsed = time.perf_counter() - begun
    seconds = timer.seconds()
    assert 0.2 * elapsed < seconds["compile"] < elapsed
    assert seconds["learn"] + seconds["compile"] == pytest.approx(elapsed, abs=0.05)
    jax.block_until_ready(add(2.0))
    assert timer.seconds() == seconds


def test_rates_and_the_time_that_remains_count_no_compiling(clock, capsys, monkeypatch):
    with metrics.progress("learn", 100, "updates") as advance:
        with _compiles(clock, 40):
            pass
        advance(10)  # in no time but what was compiled
        for _ in range(2):
            clock.now += 10
            advance(20)
    assert capsys.readouterr().err.splitlines() == [
        "learn: 10/100 updates (10%)",
        "learn: 50/100 updates (50%), 2.5 updates/s, 0:20 left",
        "learn: 50/100 updates (50%), 2.5 updates/s, 1:00 in all",
    ]


def test_compiling_is_announced_where_it_takes_long(clock, monkeypatch):
    monkeypatch.setattr(metrics, "_LONG_COMPILE", 0.01)
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    def wait_for(count):
        limit = real_time() + 5
        while sys.stderr.getvalue().count("\n") < count and real_time() < limit:
            time.sleep(0.005)

    with metrics.progress("learn", 100, "updates"):
        with _compiles(clock, 0.0):
            pass
        with _compiles(clock, 10.0):
            wait_for(1)
            clock.now += 20
            wait_for(2)
        with _compiles(clock, 2.0):
            wait_for(3)
    assert sys.stderr.getvalue().splitlines()[:-1] == [
        "learn: compiling, which no rate counts",
        "learn: compiling, which no rate counts, 0:25 so far",
        "learn: compiling, which no rate counts",
    ]


def test_a_bar_says_that_jax_compiles_and_counts_none_of_it(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("TTY_INTERACTIVE", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    monkeypatch.setattr(metrics, "_LONG_COMPILE", 0.0)
    with metrics.progress("learn", 4, "updates") as advance:
        advance.status("a score")
        monitoring.record_scalar(COMPILE, 0.0, fun_name="f")
        started = metrics._clock()
        time.sleep(0.6)  # the bar is drawn four times a second
        assert "compiling" in terminal.getvalue()
        assert metrics._clock() == pytest.approx(started, abs=1e-3)
        monitoring.record_event_duration_secs(COMPILE, 0.0, fun_name="f")
        advance(4)
    text = terminal.getvalue()
    assert text.rindex("compiling") < text.rindex("a score")


def test_progress_without_a_terminal_prints_lines_now_and_then(clock, capsys):
    with metrics.progress("collect", 1000, "steps", done=100) as advance:
        for _ in range(4):
            clock.now += 5
            advance(100)
        advance.status("score 3")
        clock.now += 5
        advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "collect: 400/1000 steps (40%), 20 steps/s, 0:30 left",
        "collect: 501/1000 steps (50%), 16 steps/s, 0:25 in all, score 3",
    ]


def test_progress_without_a_total_or_any_time(clock, capsys):
    with metrics.progress("play", None, "games"):
        pass
    with pytest.raises(KeyError), metrics.progress("play", 0, "games") as advance:
        clock.now += 4000
        advance(10)
        raise KeyError
    assert capsys.readouterr().err.splitlines() == [
        "play: 0 games, 0:00 in all",
        "play: 10/0 games, 0.0025 games/s, 0:00 left",
        "play: 10/0 games, 0.0025 games/s, 1:06:40 in all",
    ]


def test_progress_is_shown_by_the_leading_process_alone(monkeypatch, capsys):
    monkeypatch.setattr(mesh, "leads", lambda: False)
    with metrics.progress("collect", 4, "steps") as advance:
        advance(4)
        advance.status("score 3")
    assert capsys.readouterr() == ("", "")


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("TTY_INTERACTIVE", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    with metrics.progress("collect", 4, "steps") as advance:
        for _ in range(4):
            time.sleep(0.01)
            advance(1)
        advance.status("[score] 3")
    text = terminal.getvalue()
    assert "collect" in text
    assert "4/4 steps (100%)" in text
    assert "steps/s" in text
    assert "[score] 3" in text
    assert sys.stderr is terminal


def test_progress_leaves_a_piped_stdout_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with metrics.progress("collect", 1, "steps"):
        print("a result")
        metrics.table("t", ["name"], [["pong"]])
    out = capsys.readouterr().out
    assert out.startswith("a result\n")
    assert "pong" in out


def test_table_when_piped_truncates_nothing(capsys):
    long = "x" * 500
    metrics.table(
        "Scores [all]",
        ["game", "score", "retention"],
        [["pong", 20.7, 0.98765], [long, -21, None], ["[95%] brackets", np.float32(12345.67), 1.0]],
    )
    out = capsys.readouterr().out
    assert "\x1b" not in out
    lines = [line for line in out.splitlines() if line]
    assert lines[0].strip() == "Scores [all]"
    assert lines[1].split() == ["game", "score", "retention"]
    rows = [line.split() for line in lines[3:]]
    assert rows == [
        ["pong", "20.7", "0.988"],
        [long, "-21", "-"],
        ["[95%]", "brackets", "12345.7", "1"],
    ]
    # Numbers end in the same column.
    assert (
        len(
            {
                line.index(number) + len(number)
                for line, number in zip(lines[3:], ["20.7", "-21", "12345.7"], strict=True)
            }
        )
        == 1
    )


def test_a_title_wider_than_its_table_stays_whole(capsys):
    title = "/a/long/way/down " * 10
    metrics.table(title, ["a"], [["x"]])
    assert capsys.readouterr().out.splitlines()[0] == title


def test_table_on_a_narrow_terminal_folds(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "40")
    metrics.table("t", ["a"], [["x" * 100]])
    assert terminal.getvalue().count("x") == 100


def test_table_without_rows_and_with_bad_ones(capsys):
    metrics.table("empty", ["a", "b"], [])
    assert "a" in capsys.readouterr().out
    with pytest.raises(ValueError, match="row 2 has 1 cells, expected 2"):
        metrics.table("t", ["a", "b"], [[1, 2], [3]])


EVIL = "pong\x1b[2J\u202e\x07\x9b1m\udcff\n"
HARMLESS = r"pong\x1b[2J\u202e\x07\x9b1m\udcff\n"


def test_what_a_terminal_would_obey_is_written_out(capsys):
    assert text.shown(EVIL) == HARMLESS
    assert text.shown("Größe 3 µ, 猫 [bold]") == "Größe 3 µ, 猫 [bold]"
    metrics.say(EVIL)
    metrics.table(EVIL, (EVIL, "score"), [(EVIL, 3.0), (pathlib.PurePath(EVIL), math.nan)])
    with metrics.progress(EVIL, 1, "games") as advance:
        advance.status(EVIL)
    out, err = capsys.readouterr()
    assert out.count(HARMLESS) == 5 and err.count(HARMLESS) == 2
    assert all(c == "\n" or c.isprintable() for c in out + err)
    assert out.split()[-1] == "-", "NaN"


def test_a_bar_writes_names_out_too(monkeypatch):
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("TTY_INTERACTIVE", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    with metrics.progress(EVIL, 1, "games") as advance:
        advance.status(EVIL)
    assert "\x1b[2J" not in terminal.getvalue() and HARMLESS in terminal.getvalue()


def test_a_profile_is_of_the_iterations_after_those_that_compile(tmp_path, capsys):
    trace = metrics.Profile(tmp_path / "trace", skip=2, count=1)
    for _ in range(4):
        trace.step()
    trace.close()
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    assert not capsys.readouterr().out


def test_a_loop_too_short_to_be_traced_says_so(tmp_path, capsys):
    trace = metrics.Profile(tmp_path / "trace", skip=2)
    for _ in range(2):
        trace.step()
    trace.close()
    assert "2 iterations were left" in capsys.readouterr().out
    assert not (tmp_path / "trace").exists()
    metrics.Profile(None).close()
    assert not capsys.readouterr().out


def test_the_wall_s_seconds_are_those_of_all_sessions(clock, tmp_path, monkeypatch):
    began = clock.now
    clock.now += 30  # imports
    with metrics.wall_clock(tmp_path, began=began) as wall:
        clock.now += 10
        assert wall() == 40.0
    clock.now += 1000
    with pytest.raises(KeyboardInterrupt), metrics.wall_clock(tmp_path) as wall:
        clock.now += 5
        raise KeyboardInterrupt
    with metrics.wall_clock(tmp_path, keeps=False) as wall:
        clock.now += 3
        assert wall() == 48.0
    # A session that is killed never ends its body; what it had written stays.
    monkeypatch.setattr(metrics, "_WALL_INTERVAL", 0.01)
    killed = metrics.wall_clock(tmp_path)
    killed.__enter__()
    clock.now += 7
    limit = real_time() + 5
    with metrics.wall_clock(tmp_path, keeps=False) as wall:
        first = wall()
    while first < 52.0 and real_time() < limit:
        with metrics.wall_clock(tmp_path, keeps=False) as wall:
            first = wall()
    assert first == 52.0
    killed.__exit__(None, None, None)


@pytest.mark.parametrize("text", ["{", "[]", '{"seconds": "x"}', '{"seconds": -1}', "{}"])
def test_a_damaged_wall_is_one_line(tmp_path, text):
    (tmp_path / "wall.json").write_text(text)
    with (
        pytest.raises(ValueError, match=r"wall.json is damaged \(.*\); delete it, and") as caught,
        metrics.wall_clock(tmp_path),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_phases_add_up_to_the_wall():
    parts = [{"learn": 2.0, "compile": 1.0}, {"learn": 3.0, "report": 4.0}]
    assert metrics.add_up(parts, 12.5) == {
        "learn": 5.0,
        "compile": 1.0,
        "report": 4.0,
        "other": 2.5,
    }
    assert metrics.add_up(parts, 9.0)["other"] == 0.0


def test_a_row_is_told_of_by_its_step_and_all_its_names(tmp_path):
    with metrics.Writer(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
        writer.write(2, {"score": 1.0, "chosen_by": 2.0})
    assert metrics.tells(tmp_path, 2, ["chosen_by"]) and metrics.tells(tmp_path, 2, {"score": 0})
    assert not metrics.tells(tmp_path, 1, ["chosen_by"])
    assert not metrics.tells(tmp_path, 2, ["chosen_by", "loss"])
