"""Tests for the rows that a run writes."""

import contextlib
import math
import pathlib
import struct

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from jaxdistill import metrics


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


def test_a_row_is_told_of_by_its_step_and_all_its_names(tmp_path):
    with metrics.Writer(tmp_path) as writer:
        writer.write(1, {"loss": 1.0})
        writer.write(2, {"score": 1.0, "chosen_by": 2.0})
    assert metrics.tells(tmp_path, 2, ["chosen_by"]) and metrics.tells(tmp_path, 2, {"score": 0})
    assert not metrics.tells(tmp_path, 1, ["chosen_by"])
    assert not metrics.tells(tmp_path, 2, ["chosen_by", "loss"])
