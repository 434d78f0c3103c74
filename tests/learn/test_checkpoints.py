"""Tests for checkpoints: which survive, what they give back, and what a kill leaves."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill import meshes
from jaxdistill.learn import checkpoints
from jaxdistill.learn.checkpoints import Checkpoints

ROOT = pathlib.Path(__file__).parents[2]
FOUR, ONE = meshes.create(), meshes.create(jax.devices()[:1])


def _state(number, devices=FOUR):
    state = {
        "params": {"w": jnp.full((4, 3), number, jnp.float32), "b": jnp.arange(5) + number},
        "step": jnp.int32(number),
    }
    return jax.device_put(state, meshes.replicated(devices))


def _assert_same(actual, expected):
    def check(a, b):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype

    jax.tree.map(check, actual, expected)


def _steps(directory):
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def test_an_empty_directory_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path / "new") as saved:
        assert saved.latest_step() is None
        assert saved.best_step() is None


def test_the_best_and_the_latest_survive(tmp_path):
    with Checkpoints(tmp_path) as saved:
        for step, value in ((10, 5.0), (20, 9.0), (30, 1.0), (40, None), (50, None)):
            saved.save(step, _state(step), progress={"at": step}, value=value)
        assert (saved.best_step(), saved.latest_step()) == (20, 50)
    assert _steps(tmp_path) == [20, 50]
    with Checkpoints(str(tmp_path)) as again:
        assert (again.best_step(), again.latest_step()) == (20, 50)
        for step in (20, 50):
            restored = again.restore(step, _state(0))
            assert restored.step == step
            assert restored.progress == {"at": step}
            _assert_same(restored.state, _state(step))


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([1.0, 2.0, 3.0], 3),
        ([3.0, 2.0, 1.0], 1),
        ([-20.0, -3.0, -7.0, None], 2),
        ([None, -1.0, None], 2),
        ([0.0, None], 1),  # a value of zero is a value
        ([None, None], None),
    ],
)
def test_the_best_is_the_one_of_highest_value(tmp_path, values, best):
    with Checkpoints(tmp_path) as saved:
        for step, value in enumerate(values, 1):
            saved.save(step, {"x": jnp.float32(step)}, value=value)
        assert saved.best_step() == best
        assert saved.latest_step() == len(values)
        if best is not None:
            assert float(saved.restore(best, {"x": jnp.float32(0)}).state["x"]) == best
    assert _steps(tmp_path) == sorted({best or len(values), len(values)})


def test_of_equal_values_one_stays_best_and_is_there(tmp_path):
    with Checkpoints(tmp_path) as saved:
        for step in (1, 2, 3):
            saved.save(step, {"x": jnp.float32(step)}, value=7.0)
        saved.save(4, {"x": jnp.float32(4)})
        best = saved.best_step()
        assert best in (1, 2, 3)
        assert float(saved.restore(best, {"x": jnp.float32(0)}).state["x"]) == best


def test_a_step_saved_again_is_replaced(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1), host={"a": np.zeros(2)}, progress={"try": 1}, value=3.0)
        saved.save(2, _state(2), value=2.0)
        saved.save(2, _state(22), host={"b": np.ones(3)}, progress={"try": 2}, value=4.0)
        assert (saved.best_step(), saved.latest_step()) == (2, 2)
        restored = saved.restore(2, _state(0))
    _assert_same(restored.state, _state(22))
    assert restored.progress == {"try": 2}
    assert set(restored.host) == {"b"}


def test_a_run_resumed_from_its_best_may_save_older_steps_again(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1), value=9.0)
        saved.save(2, _state(2), value=2.0)
    with Checkpoints(tmp_path) as saved:
        saved.save(2, _state(20), value=3.0)
        saved.save(3, _state(3), value=10.0)
        assert (saved.best_step(), saved.latest_step()) == (3, 3)
        _assert_same(saved.restore(3, _state(0)).state, _state(3))


@pytest.mark.parametrize(
    "sharding",
    [meshes.replicated(ONE), meshes.replicated(FOUR), meshes.sharded(FOUR)],
    ids=["one device", "four devices", "split over four"],
)
def test_state_is_restored_where_it_is_asked_for(tmp_path, sharding):
    values = np.arange(24, dtype=np.float32).reshape(8, 3)
    with Checkpoints(tmp_path) as saved:
        saved.save(1, {"x": jax.device_put(values, meshes.replicated(FOUR))})
        like = {"x": jax.device_put(np.zeros_like(values), sharding)}
        restored = saved.restore(1, like).state["x"]
    np.testing.assert_array_equal(restored, values)
    assert restored.sharding.is_equivalent_to(sharding, 2)


def test_keys_and_optimiser_like_tuples_keep_their_structure(tmp_path):
    state = {"opt": ({"mu": jnp.ones(3)}, (), jnp.int32(4)), "flag": jnp.array([True, False])}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, state)
        restored = saved.restore(1, jax.tree.map(jnp.zeros_like, state)).state
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    _assert_same(restored, state)


@pytest.mark.parametrize("step", [1, 2])
def test_host_arrays_come_back_whatever_their_shape(tmp_path, step):
    rng = np.random.default_rng(0)
    host = {
        "log": rng.integers(0, 18, (2, 7, 3)).astype(np.uint8),
        "remaining": rng.integers(0, 2**40, (2, 3)),  # int64
        "flags": rng.random(5) < 0.5,
        "number": np.array(2.5),
        "empty": np.zeros((2, 0, 3), np.uint8),
    }
    other = {"log": np.zeros((2, 1, 3), np.uint8)}
    with Checkpoints(tmp_path) as saved:
        # Their shapes may change from one checkpoint to the next.
        saved.save(1, _state(1), host=host if step == 1 else other)
        saved.save(2, _state(2), host=host if step == 2 else other, value=1.0)
        if step == 1:
            saved.save(3, _state(3), host=host)
    with Checkpoints(tmp_path) as again:
        restored = again.restore(2 if step == 2 else 3, _state(0)).host
    for name, array in host.items():
        if array.size:
            np.testing.assert_array_equal(restored[name], array)
            assert isinstance(restored[name], np.ndarray)
            assert restored[name].dtype == array.dtype, name
    # What has no elements may be left out.
    assert restored.get("empty", np.zeros(0)).size == 0
    assert set(restored) <= set(host)


def test_without_host_arrays_and_progress_both_are_empty(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1))
        restored = saved.restore(1, _state(0))
    assert restored.host == {} and restored.progress == {}


def test_progress_is_any_json(tmp_path):
    progress = {"best": {"step": 3, "value": -1.5}, "recent": [[1.0, 2.0], []], "none": None}
    with Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1), progress=progress)
        assert saved.restore(1, _state(0)).progress == progress


def test_a_kill_in_the_middle_of_a_save_leaves_the_last_whole_one(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1), value=1.0)
        saved.save(2, _state(2))
    # What a kill leaves: a directory whose name says that it was never finished.
    leftover = tmp_path / "3.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "2", leftover)
    for path in list(leftover.rglob("*METADATA*")):
        path.unlink()
    with Checkpoints(tmp_path) as again:
        assert (again.best_step(), again.latest_step()) == (1, 2)
        _assert_same(again.restore(2, _state(0)).state, _state(2))
        again.save(3, _state(3))
        assert again.latest_step() == 3
        _assert_same(again.restore(3, _state(0)).state, _state(3))
    assert _steps(tmp_path) == [1, 3]
    assert not leftover.exists()


# The right behaviour: `save` says that a checkpoint standing at the step is replaced; a kill while
# that happens must not leave the run without one.
def test_a_kill_while_a_step_is_replaced_leaves_a_checkpoint_to_resume_from(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1), value=1.0, progress={"length": 3})

        def killed(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(checkpoints.ocp.CheckpointManager, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            saved.save(1, _state(11), value=2.0)
        monkeypatch.undo()
    assert checkpoints.any_in(tmp_path) and not (tmp_path / "1").exists()
    assert checkpoints.read_progress(tmp_path) == (1, {"length": 3}), "of what was set aside"
    with Checkpoints(tmp_path) as again:
        assert again.latest_step() == 1
        again.restore(1, _state(0))


def test_a_damaged_checkpoint_is_named(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(7, _state(7), value=1.0)
    for path in (tmp_path / "7" / "state").rglob("*"):
        if path.is_file():
            path.write_text("x")
    with (
        Checkpoints(tmp_path) as saved,
        pytest.raises(ValueError, match=r"checkpoint .*7 cannot be read"),
    ):
        saved.restore(7, _state(0))


def test_the_latest_progress_is_read_alone(tmp_path, contents):
    assert checkpoints.read_progress(tmp_path / "none") is None
    with Checkpoints(tmp_path) as saved:
        for step in (9, 10):
            saved.save(step, _state(step), progress={"length": 2 * step}, value=-step)
    shutil.copytree(tmp_path / "9", tmp_path / "10.replaced")  # a kill may leave it beside the new
    shutil.rmtree(tmp_path / "10" / "state")
    before = contents(tmp_path)
    assert checkpoints.read_progress(tmp_path) == (10, {"length": 20})
    assert contents(tmp_path) == before
    for path in (tmp_path / "10" / "progress").rglob("*"):
        path.write_text("x")
    with pytest.raises(ValueError, match=r"^checkpoint .*/10 cannot be read"):
        checkpoints.read_progress(tmp_path)


@pytest.mark.parametrize(
    ("like", "expected"),
    [
        ({"w": np.zeros((5, 3)), "o": (np.zeros(2), ())}, r"\(4, 3\) as w, expected \(5, 3\)"),
        ({"w": np.zeros((4, 3)), "o": ()}, r"\(2,\) as o.0, expected nothing"),
        ({"v": 1.0, "w": np.zeros((4, 3)), "o": (np.zeros(2), ())}, r"nothing as v, expected \(\)"),
    ],
)
def test_a_sound_checkpoint_is_not_blamed_for_what_is_asked_of_it(tmp_path, like, expected):
    with Checkpoints(tmp_path) as saved:
        saved.save(3, {"w": jnp.zeros((4, 3)), "o": (jnp.zeros(2), ())}, value=1.0)
        with pytest.raises(ValueError, match=f"holds {expected}") as caught:
            saved.restore(3, jax.tree.map(jnp.asarray, like))
    assert "remove" not in str(caught.value) and "sound" in str(caught.value)


def test_parts_that_are_not_asked_for_are_not_read(tmp_path):
    """A state that is asked for whole is never taken for one of fewer parts."""
    state = {"train": {"opt": ({"mu": jnp.ones(3)}, (), jnp.int32(4)), "w": jnp.zeros((4, 3))}}
    like = jax.tree.map(jnp.zeros_like, state)
    with Checkpoints(tmp_path) as saved:
        host = {"log": np.arange(3)}
        saved.save(1, state | {"memory": {"frames": jnp.ones(6)}}, host=host, progress={"at": 1})
        restored = saved.restore(1, like, besides=("memory", "average"))
        assert jax.tree.structure(restored.state) == jax.tree.structure(state)
        _assert_same(restored.state, state)
        assert restored.progress == {"at": 1} and restored.host["log"].tolist() == [0, 1, 2]
        for asked, besides, expected in (
            (like, (), r"\(6,\) as memory\.frames, expected nothing"),
            (like | {"average": jnp.ones(2)}, ("memory", "average"), r"nothing as average"),
        ):
            with pytest.raises(ValueError, match=expected):
                saved.restore(1, asked, besides=besides)


def _half_written(directory):
    """What stands while a writer saves step 3 and replaces step 2."""
    shutil.copytree(directory / "2", directory / "3.orbax-checkpoint-tmp")
    for path in list((directory / "3.orbax-checkpoint-tmp").rglob("*METADATA*")):
        path.unlink()
    shutil.copytree(directory / "2", directory / "2.replaced")


def test_reading_touches_nothing_of_what_is_being_written(tmp_path, contents):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1), value=3.0, progress={"at": 1})
        saved.save(2, _state(2))
        _half_written(tmp_path)
        before = contents(tmp_path)
        best = checkpoints.read_best(tmp_path, _state(0))
        with Checkpoints(tmp_path, read_only=True) as reading:
            assert (reading.best_step(), reading.latest_step()) == (1, 2)
            _assert_same(reading.restore(2, _state(0)).state, _state(2))
        assert contents(tmp_path) == before
    assert best.step == 1 and best.progress == {"at": 1}
    _assert_same(best.state, _state(1))


def test_where_nothing_is_reading_finds_nothing_and_leaves_nothing(tmp_path):
    assert checkpoints.read_best(tmp_path / "none", _state(0)) is None
    assert not checkpoints.any_in(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "half/1.orbax-checkpoint-tmp").mkdir(parents=True)
    assert not checkpoints.any_in(tmp_path / "half")
    with Checkpoints(tmp_path / "one") as saved:
        saved.save(1, _state(1))
    assert checkpoints.read_best(tmp_path / "one", _state(0)) is None


def test_what_may_not_be_written_can_be_read(tmp_path, request):
    with Checkpoints(tmp_path / "run") as saved:
        saved.save(1, _state(1), value=3.0)
    for path in (tmp_path / "run", *(tmp_path / "run").rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and "pytest" in str(path):
            path.chmod(path.stat().st_mode | 0o055)
    request.getfixturevalue("unprivileged")
    with pytest.raises(PermissionError):
        (tmp_path / "run" / "x").touch()
    _assert_same(checkpoints.read_best(tmp_path / "run", _state(0)).state, _state(1))


_WRITER = """
import pathlib, sys, jax.numpy as jnp
from jaxdistill.learn.checkpoints import Checkpoints
with Checkpoints(sys.argv[1]) as saved:
    for step in range(1, 1000):
        state = {"x": jnp.full((200, 200), step), "y": jnp.full(3, step)}
        saved.save(step, state, value=float(step) if step % 3 else None)
        if step % 10 == 0:
            saved.save(step, state, value=float(step))
        if pathlib.Path(sys.argv[2]).exists():
            break
"""


# A process of its own: a read that is given up leaves Orbax's own callbacks to a loop that has been
# closed, and what they complain of then would be laid on whichever test is next.
_READER = """
import pathlib, sys, jax.numpy as jnp
from jaxdistill.learn import checkpoints
like = {"x": jnp.zeros((200, 200), int), "y": jnp.zeros(3, int)}
seen = []
while len(set(seen)) < 8:
    best = checkpoints.read_best(pathlib.Path(sys.argv[1]), like)
    if best is not None:
        assert (best.state["x"] == best.step).all() and (best.state["y"] == best.step).all()
        seen.append(best.step)
assert seen == sorted(seen)
"""


def test_reading_beside_a_writer_finds_whole_checkpoints(tmp_path):
    """It deletes what is being read time and again, always with a better one standing."""
    directory, enough = tmp_path / "checkpoints", tmp_path / "enough"
    arguments = [sys.executable, "-c", _WRITER, str(directory), str(enough)]
    writer = subprocess.Popen(arguments, cwd=ROOT)
    try:
        reader = [sys.executable, "-c", _READER, str(directory)]
        subprocess.run(reader, cwd=ROOT, check=True, timeout=120)
        enough.touch()
        assert writer.wait(60) == 0
    finally:
        writer.kill()


def test_a_disk_without_room_is_one_line_before_anything_is_written(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, _state(1), value=1.0)
        usage = shutil.disk_usage(tmp_path)
        with monkeypatch.context() as full:
            full.setattr(shutil, "disk_usage", lambda _: usage._replace(free=400_000))
            with pytest.raises(OSError, match=r"takes up to 1 MB, 0\.4 MB are free\); make room"):
                saved.save(2, _state(2))
        assert _steps(tmp_path) == [1]
        saved.save(2, _state(2))
        _assert_same(saved.restore(2, _state(0)).state, _state(2))


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing ...: No space left on device [28]")

    with Checkpoints(tmp_path) as saved:
        monkeypatch.setattr(saved._manager, "save", full)
        with pytest.raises(OSError, match=r"/2 cannot be written \(No space left on device\)$"):
            saved.save(2, _state(2))


def test_what_is_damaged_and_stays_is_one_clear_line(tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(7, _state(7), value=1.0)
    for path in (tmp_path / "7" / "state").rglob("*"):
        if path.is_file():
            path.write_text("x")
    with pytest.raises(ValueError, match=r"checkpoint .*7 cannot be read"):
        checkpoints.read_best(tmp_path, _state(0))
