"""Tests for what people see of a run: progress and tables."""

import io
import math
import pathlib
import sys
import time

import numpy as np
import pytest
from jax import monitoring

from jaxdistill import clocks, meshes, terminal, text

real_time = time.monotonic
COMPILE = "/jax/core/compile/backend_compile_duration"


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def _on_screen(monkeypatch):
    """A wide terminal, in the place of stderr. (After a fixture pytest would put its own there.)"""
    screen = _Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.delenv("TTY_INTERACTIVE", raising=False)
    monkeypatch.delenv("TTY_COMPATIBLE", raising=False)
    return screen


def test_rates_and_the_time_that_remains_count_no_compiling(clock, capsys, monkeypatch):
    with terminal.progress("learn", 100, "updates") as advance:
        with clock.compiles(40):
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
    monkeypatch.setattr(terminal, "_LONG_COMPILE", 0.01)
    monkeypatch.setattr(sys, "stderr", io.StringIO())

    def wait_for(count):
        limit = real_time() + 5
        while sys.stderr.getvalue().count("\n") < count and real_time() < limit:
            time.sleep(0.005)

    with terminal.progress("learn", 100, "updates"):
        with clock.compiles(0.0):
            pass
        with clock.compiles(10.0):
            wait_for(1)
            clock.now += 20
            wait_for(2)
        with clock.compiles(2.0):
            wait_for(3)
    assert sys.stderr.getvalue().splitlines()[:-1] == [
        "learn: compiling (not counted in rates)",
        "learn: compiling (not counted in rates), 0:25 so far",
        "learn: compiling (not counted in rates)",
    ]


def test_a_bar_says_that_jax_compiles_and_counts_none_of_it(monkeypatch):
    screen = _on_screen(monkeypatch)
    monkeypatch.setattr(terminal, "_LONG_COMPILE", 0.0)
    with terminal.progress("learn", 4, "updates") as advance:
        advance.status("a score")
        monitoring.record_scalar(COMPILE, 0.0, fun_name="f")
        started = clocks.now()
        time.sleep(0.6)  # the bar is drawn four times a second
        assert "compiling" in screen.getvalue()
        assert clocks.now() == pytest.approx(started, abs=1e-3)
        monitoring.record_event_duration_secs(COMPILE, 0.0, fun_name="f")
        advance(4)
    text = screen.getvalue()
    assert text.rindex("compiling") < text.rindex("a score")


def test_progress_without_a_terminal_prints_lines_now_and_then(clock, capsys):
    with terminal.progress("collect", 1000, "steps", done=100) as advance:
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


def test_of_games_played_side_by_side_no_time_that_remains_is_told(clock, capsys, monkeypatch):
    with terminal.progress("play", 200, "games", steady=False) as advance:
        clock.now += 70
        advance()
        clock.now += 30
        advance(199)
        clock.now += 1
    assert capsys.readouterr().err.splitlines() == [
        "play: 1/200 games (0%), 1:10 so far",
        "play: 200/200 games (100%), 1:40 so far",
        "play: 200/200 games (100%), 1:41 in all",
    ]
    shown = {}
    for steady in (True, False):
        screen = _on_screen(monkeypatch)
        with terminal.progress("play", 200, "games", steady=steady) as advance:
            advance(3)
            clock.now += 20
            advance(197)
        shown[steady] = screen.getvalue()
    assert "200/200 games (100%)" in shown[True] and "200/200 games (100%)" in shown[False]
    assert "games/s" in shown[True] and "games/s" not in shown[False]


def test_progress_without_a_total_or_any_time(clock, capsys):
    with terminal.progress("play", None, "games"):
        pass
    with pytest.raises(KeyError), terminal.progress("play", 0, "games") as advance:
        clock.now += 4000
        advance(10)
        raise KeyError
    assert capsys.readouterr().err.splitlines() == [
        "play: 0 games, 0:00 in all",
        "play: 10/0 games, 0.0025 games/s, 0:00 left",
        "play: 10/0 games, 0.0025 games/s, 1:06:40 in all",
    ]


def test_progress_is_shown_by_the_leading_process_alone(monkeypatch, capsys):
    monkeypatch.setattr(meshes, "leads", lambda: False)
    with terminal.progress("collect", 4, "steps") as advance:
        advance(4)
        advance.status("score 3")
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_a_bar(monkeypatch):
    screen = _on_screen(monkeypatch)
    with terminal.progress("collect", 4, "steps") as advance:
        for _ in range(4):
            time.sleep(0.01)
            advance(1)
        advance.status("[score] 3")
    text = screen.getvalue()
    assert "collect" in text
    assert "4/4 steps (100%)" in text
    assert "steps/s" in text
    assert "[score] 3" in text
    assert sys.stderr is screen


def test_progress_leaves_a_piped_stdout_alone(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", _Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with terminal.progress("collect", 1, "steps"):
        print("a result")
        terminal.table("t", ["name"], [["pong"]])
    out = capsys.readouterr().out
    assert out.startswith("a result\n")
    assert "pong" in out


def test_table_when_piped_truncates_nothing(capsys):
    long = "x" * 500
    terminal.table(
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
    terminal.table(title, ["a"], [["x"]])
    assert capsys.readouterr().out.splitlines()[0] == title


def test_table_on_a_narrow_terminal_folds(monkeypatch):
    screen = _Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")
    terminal.table("t", ["a"], [["x" * 100]])
    assert screen.getvalue().count("x") == 100


def test_table_without_rows_and_with_bad_ones(capsys):
    terminal.table("empty", ["a", "b"], [])
    assert "a" in capsys.readouterr().out
    with pytest.raises(ValueError, match="row 2 has 1 cells, expected 2"):
        terminal.table("t", ["a", "b"], [[1, 2], [3]])


EVIL = "pong\x1b[2J\u202e\x07\x9b1m\udcff\n"


HARMLESS = r"pong\x1b[2J\u202e\x07\x9b1m\udcff\n"


def test_what_a_terminal_would_obey_is_written_out(capsys):
    assert text.printable(EVIL) == HARMLESS
    assert text.printable("Größe 3 µ, 猫 [bold]") == "Größe 3 µ, 猫 [bold]"
    terminal.say(EVIL)
    terminal.table(EVIL, (EVIL, "score"), [(EVIL, 3.0), (pathlib.PurePath(EVIL), math.nan)])
    with terminal.progress(EVIL, 1, "games") as advance:
        advance.status(EVIL)
    out, err = capsys.readouterr()
    assert out.count(HARMLESS) == 5 and err.count(HARMLESS) == 2
    assert all(c == "\n" or c.isprintable() for c in out + err)
    assert out.split()[-1] == "-", "NaN"


def test_a_bar_writes_names_out_too(monkeypatch):
    screen = _on_screen(monkeypatch)
    with terminal.progress(EVIL, 1, "games") as advance:
        advance.status(EVIL)
    assert "\x1b[2J" not in screen.getvalue() and HARMLESS in screen.getvalue()


def test_what_is_told_in_lines_keeps_flags_whole(capsys):
    flag = "--config.learn.shares=" + ",".join(f"game{i}=2" for i in range(12))
    terminal.tell(f"hint: try {flag} in a new run", 80)
    assert capsys.readouterr().out.splitlines() == ["hint: try", flag, "in a new run"]
