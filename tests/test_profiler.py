"""Tests for traces of a few iterations."""

from jaxdistill.profiler import Profile


def test_a_profile_is_of_the_iterations_after_those_that_compile(tmp_path, capsys):
    trace = Profile(tmp_path / "trace", skip=2, count=1)
    for _ in range(4):
        trace.step()
    trace.close()
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    assert not capsys.readouterr().out


def test_a_loop_too_short_to_be_traced_says_so(tmp_path, capsys):
    trace = Profile(tmp_path / "trace", skip=2)
    for _ in range(2):
        trace.step()
    trace.close()
    assert "2 iterations were left" in capsys.readouterr().out
    assert not (tmp_path / "trace").exists()
    Profile(None).close()
    assert not capsys.readouterr().out
