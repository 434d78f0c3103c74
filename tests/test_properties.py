"""What holds for whatever is given: the reader, the losses' masks, windows and their gathers.

Examples are drawn by hypothesis, always the same ones; shapes are few, so that nothing is compiled
again and again.
"""

import io
import pickle

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import _files
from jaxdistill import meshes
from jaxdistill.experts import state_dicts, torch_file
from jaxdistill.learn import losses, windows
from jaxdistill.play import collection

FEW = settings(max_examples=30, deadline=None, derandomize=True, database=None)

# --- the reader


def _outcome(data: bytes) -> str | None:
    try:
        state_dicts.find(torch_file.read(data).tree)
    except ValueError as error:
        assert "\n" not in str(error) and 0 < len(str(error)) < 1000
        return str(error)
    return None


PIECES = [
    *(pickle.dumps(torch_file.LEGACY_MAGIC, 2), pickle.dumps(1001, 2), pickle.dumps({}, 2)),
    *(b"PK\x03\x04", b"PK\x05\x06", b"\x80\x02", b"}", b"](", b"t", b"R", b"Q", b"."),
    *(
        _files.tensor(),
        _files.name("torch._utils", "_rebuild_tensor_v2"),
        b"\x08" + bytes(7) + b"{}",
    ),
]


@settings(FEW, max_examples=300)
@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from(PIECES)), max_size=12))
def test_any_bytes_are_read_or_refused_with_one_line(pieces):
    data = b"".join(pieces)
    assert _outcome(data) is not None or data
    for made in (_files.zipped(data, _files.FLOATS), _files.legacy(data, _files.FLOATS)):
        _outcome(made)


@FEW
@given(st.data())
def test_whatever_torch_saves_is_read_as_it_was(data):
    torch = pytest.importorskip("torch")
    dtypes = st.sampled_from(["float32", "float64", "float16", "int64", "int32", "uint8", "bool"])
    tensors = dtypes.flatmap(
        lambda dtype: arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=4, max_side=3))
    )
    leaves = st.one_of(tensors, st.integers(), st.floats(), st.text(), st.booleans(), st.none())
    keys = st.text(max_size=12)
    tree = data.draw(
        st.recursive(
            st.dictionaries(keys, leaves, max_size=4),
            lambda inner: st.dictionaries(keys, st.one_of(inner, st.lists(inner, max_size=2))),
            max_leaves=5,
        )
    )
    file = io.BytesIO()
    zipped = data.draw(st.booleans())
    torch.save(_map(torch.from_numpy, tree), file, _use_new_zipfile_serialization=zipped)
    found = torch_file.read(file.getvalue())
    assert found.skipped == ()
    _assert_equal(found.tree, tree)


def _map(function, tree):
    if isinstance(tree, dict):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_map(function, value) for value in tree]
    return function(tree.copy()) if isinstance(tree, np.ndarray) else tree


def _assert_equal(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key in wanted:
            _assert_equal(found[key], wanted[key])
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            _assert_equal(one, other)
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype and found.shape == wanted.shape
        assert found.tobytes() == wanted.tobytes()
    else:
        assert found == wanted or (found != found and wanted != wanted)


# --- losses

SHAPE = (4, 6)
OUTPUTS = arrays.arrays(np.float32, SHAPE, elements=st.floats(-1e6, 1e6, width=32))
ANYTHING = arrays.arrays(np.float32, SHAPE, elements=st.floats(width=32))
MASKS = arrays.arrays(bool, SHAPE).map(lambda mask: mask | (np.arange(6) == 2))
TEMPERATURES = st.sampled_from([1e-6, 0.01, 0.3, 1.0, 7.0, 1e6])
WITH_GRADIENT = {
    name: jax.jit(
        jax.value_and_grad(
            lambda student, expert, mask, temperature, f=loss.function: (
                (values := f(student, expert, mask, temperature)).sum(),
                values,
            ),
            has_aux=True,
        )
    )
    for name, loss in losses.LOSSES.items()
}


@pytest.mark.parametrize("name", losses.LOSSES)
@FEW
@given(OUTPUTS, OUTPUTS, ANYTHING, ANYTHING, MASKS, TEMPERATURES)
def test_invalid_actions_never_count(name, student, expert, other, another, mask, temperature):
    """The second pair of outputs differs at invalid actions alone, where it may be NaN."""
    (_, values), gradient = WITH_GRADIENT[name](student, expert, mask, temperature)
    assert np.isfinite(values).all() and np.isfinite(gradient).all()
    assert (np.asarray(gradient)[~mask] == 0).all()
    changed = np.where(mask, student, other), np.where(mask, expert, another)
    (_, again), same = WITH_GRADIENT[name](*changed, mask, temperature)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_array_equal(same, gradient)


# --- windows

GAMES, ENVS, STEPS, DEPTH = 2, 3, 8, 4
_gather = jax.jit(windows.gather)
_stacks = jax.jit(windows.stacks, static_argnames="depth")


@FEW
@given(
    arrays.arrays(np.uint8, (GAMES, STEPS, ENVS, 1, 2)),
    arrays.arrays(np.uint8, (GAMES, STEPS, ENVS)),
    arrays.arrays(np.int32, 10, elements=st.integers(0, GAMES - 1)),
    arrays.arrays(np.int32, 10, elements=st.integers(0, STEPS * ENVS - 1)),
)
def test_stacks_are_those_of_a_plain_model(frames, ages, games, rows):
    found = np.asarray(_stacks(*map(jnp.asarray, (frames, ages, games, rows)), depth=DEPTH))
    for stack, game, row in zip(found, games, rows, strict=True):
        time, env = divmod(int(row), ENVS)
        reach = int(ages[game, time, env])
        wanted = [frames[game, (time - min(back, reach)) % STEPS, env] for back in (3, 2, 1, 0)]
        np.testing.assert_array_equal(stack, wanted)


@settings(FEW, max_examples=20)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
def test_a_window_is_that_of_a_plain_model(lengths, seed):
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    shape = (GAMES, total, ENVS)
    over = rng.random(shape) < rng.choice([0.0, 0.1, 0.5])
    ages = np.zeros(shape, np.uint8)
    for t in range(1, total):
        ages[:, t] = np.where(over[:, t - 1], 0, np.minimum(ages[:, t - 1].astype(int) + 1, 255))
    frames = rng.integers(0, 256, (*shape, 1, 2)).astype(np.uint8)
    labels = rng.normal(size=(*shape, 2)).astype(np.float32)
    actions = np.zeros(shape, np.uint8)
    chunk = collection.Chunk(frames, labels, actions, ages, ~over)
    buffer = windows.WindowBuffer(GAMES, ENVS, STEPS, (1, 2), 2, meshes.create(), DEPTH)
    end = 0
    for length in lengths:
        buffer.append(collection.Chunk(*(x[:, end : end + length] for x in chunk)))
        end += length
    window = buffer.window
    stacks, said = (np.asarray(x) for x in _gather(window, np.arange(GAMES), window.rows))
    for game in range(GAMES):
        wanted = {}
        for t in range(max(0, end - STEPS), end):
            for env in range(ENVS):
                times = [max(t - back, t - int(ages[game, t, env])) for back in (3, 2, 1, 0)]
                if not over[game, t, env] and times[0] >= end - STEPS:
                    wanted[t % STEPS * ENVS + env] = (times, t, env)
        count = int(buffer.window.counts[game])
        rows = np.asarray(buffer.window.rows)[game, :count].tolist()
        assert sorted(rows) == sorted(wanted)
        for i, row in enumerate(rows):
            times, t, env = wanted[row]
            np.testing.assert_array_equal(stacks[game, i], frames[game, times, env])
            np.testing.assert_array_equal(said[game, i], labels[game, t, env])
