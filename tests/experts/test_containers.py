"""Files of torch.save inside others, Flax's msgpack, and pickles of arrays: read, or refused."""

import gzip
import json
import pickle
import sys
import types
import zipfile

import flax.serialization
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import freeze

from benchmarks._files import (
    FLOATS,
    archive_of,
    call,
    dictionary,
    flax_array,
    flax_list,
    flax_map,
    legacy,
    name,
    plain,
    program,
    tensor,
    zipped,
)
from jaxdistill.experts import limits, state_dicts, torch_file

FOUR = np.arange(4, dtype=np.float32)
WEIGHTS = dictionary(w=tensor())


def refused(data: bytes, *expected: str) -> None:
    with pytest.raises(ValueError) as caught:
        torch_file.read(data)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500
    for words in expected:
        assert words in message, message


@pytest.mark.parametrize("make", [zipped, legacy])
def test_gzip_of_a_file_is_that_file(make):
    data = make(WEIGHTS, FLOATS)
    for packed in (gzip.compress(data), gzip.compress(data[:50]) + gzip.compress(data[50:])):
        np.testing.assert_array_equal(torch_file.read(packed).tree["w"], FOUR)
        np.testing.assert_array_equal(torch_file.read(packed + bytes(9)).tree["w"], FOUR)
        refused(packed[:-1], "gzip, cut short")
    refused(data[:4] + gzip.compress(data))


def test_a_zip_that_holds_a_model_is_that_model():
    """As PFRL packs a folder: the model beside its target and its optimiser."""
    data = zipped(WEIGHTS, FLOATS)
    other = zipped(dictionary(w=tensor(offset=0, size=(2,))), FLOATS)
    beside = {"best/target_model_pt": other, "best/optimizer_pt": other, "best/readme": b"hello"}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        models = ("best/model_pt", "policy_net.pth", "model.msgpack", "dqn.cleanrl_model")
        for model in (*models, "pong/model.80.tar", "pytorch_model.bin", "last.ckpt"):
            packed = archive_of(method=method, **beside, **{model: data})
            np.testing.assert_array_equal(torch_file.read(packed).tree["w"], FOUR)
    packed = archive_of(**{"a/actor_pt": data, "a/model_pt": data, "a/critic_pt": other})
    np.testing.assert_array_equal(torch_file.read(packed).tree["w"], FOUR)
    refused(archive_of(a_pt=data, b_pt=data), "2 models, a.pt, b.pt; unpack it")
    refused(archive_of(optimizer_pt=data), "without data.pkl and without the file of a model; unp")
    folder = {"ppo-Pong/data": b"{}", "ppo-Pong/policy.pth": data}
    refused(archive_of(**folder), "a folder of Stable-Baselines3's; zip what is in the folder")
    refused(archive_of(model_pt=gzip.compress(data)), "packed twice, by zip and by gzip")
    refused(gzip.compress(archive_of(model_pt=data)), "packed twice, by gzip and by zip")
    refused(gzip.compress(gzip.compress(data)), "packed twice")


def test_what_is_inside_is_paid_for_by_the_file_outside(monkeypatch):
    monkeypatch.setattr(limits, "FREE_BYTES", 2**12)
    monkeypatch.setattr(limits, "FACTOR", 4)
    numbers = np.random.default_rng(0).integers(0, 256, 2**14, np.uint8).tobytes()
    whole = {"numel": 2**12, "size": (2**12,)}
    data = zipped(dictionary(w=tensor(**whole)), {"0": numbers})
    assert torch_file.read(gzip.compress(data)).tree["w"].nbytes == 2**14
    flat = zipped(dictionary(w=tensor(**whole)), {"0": bytes(2**14)})
    refused(gzip.compress(flat), "unpacks to over")
    refused(archive_of(model_pt=flat), "unpacks to over")
    # What is left after unpacking is all that the arrays inside may take.
    views = {f"w{i}": tensor(**whole) for i in range(5)}
    refused(gzip.compress(zipped(dictionary(**views), {"0": numbers})), "arrays would take over")


def test_tensors_of_before_pytorch_0_4():
    """`_rebuild_tensor` has four arguments, modules hold variables, storages lie on a GPU."""
    storage = b"(" + plain("storage") + name("torch.cuda", "FloatStorage")
    storage += plain("0") + plain("cuda:0") + plain(4) + b"NtQ"
    parts = (storage, *map(plain, (0, (2, 2), (2, 1))))
    old = call("torch._utils", "_rebuild_tensor", *parts)
    variable = call("torch.autograd.variable", "Variable", old) + plain((True, False, {})) + b"b"
    parameter = call("torch.nn.parameter", "Parameter", old) + plain((True, False, {})) + b"b"
    tree = torch_file.read(legacy(dictionary(t=old, v=variable, p=parameter), FLOATS)).tree
    for array in tree.values():
        np.testing.assert_array_equal(array, [[0, 1], [2, 3]])


def test_flax_trees_of_every_kind():
    draw = np.random.default_rng(0)
    arrays = {
        dtype: draw.integers(0, 2, (2, 3)).astype(dtype)
        for dtype in ("bool", "int8", "uint16", "int64", "float16", "float32", "complex64")
    }
    tree = {
        **arrays,
        "jax": jnp.arange(3, dtype=jnp.bfloat16),
        "scalar": np.float32(2.5),
        "nothing": np.zeros((0, 3), np.float32),
        "point": np.array(4.0),
        "plain": {"a": None, "b": True, "c": -3, "d": 2**40, "e": 1.5, "f": "é" * 300, "g": b"x"},
        "complex": 1 + 2j,
        "list": [{"params": FOUR}, 7],
    }
    found = torch_file.read(flax.serialization.to_bytes(tree)).tree
    for dtype, array in arrays.items():
        assert found[dtype].dtype == array.dtype and found[dtype].flags.owndata
        np.testing.assert_array_equal(found[dtype], array)
    assert found["jax"].dtype == jnp.bfloat16 and list(found["jax"]) == [0, 1, 2]
    assert found["scalar"] == np.float32(2.5) and found["scalar"].dtype == np.float32
    assert found["nothing"].shape == (0, 3) and found["point"].shape == ()
    assert (found["plain"], found["complex"]) == (tree["plain"], tree["complex"])
    assert found["list"]["1"] == 7
    np.testing.assert_array_equal(found["list"]["0"]["params"], FOUR)
    assert "list.0" in state_dicts.find(found)
    native = flax.serialization.msgpack_restore(flax.serialization.to_bytes(tree))
    assert native["plain"] == found["plain"]


def test_flax_arrays_in_chunks(monkeypatch):
    array = np.arange(35, dtype=np.float32).reshape(5, 7)
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 64)
    data = flax.serialization.to_bytes({"w": array})
    assert b"__msgpack_chunked_array__" in data
    np.testing.assert_array_equal(torch_file.read(data).tree["w"], array)


def test_damaged_flax_files():
    good = flax.serialization.to_bytes({"a": FOUR, "b": {"c": 1.5, "d": "text"}})
    for end in range(1, len(good)):
        refused(good[:end])
    refused(good + b"\x00", "goes on after its end")
    refused(flax_map(a=b"\xc1"), "byte of no meaning, 0xc1")
    refused(b"\x82\xa1a\xc0\x01\xc0", "key that is no text", "(int)")
    refused(b"\x81\xa2\xff\xff\xc0", "not UTF-8")
    refused(flax_map(a=b"\xc7\x01\x07\x00"), "extension of type 7")
    refused(flax_map(a=b"\xc7\x01\x01\x00"), "holds no list")
    refused(flax_map(a=flax_list(b"", 3)), "a list of 3 entries in 0 bytes")
    refused(flax_map(a=flax_array((3,), "float32", bytes(16))), "does not fit its 16 bytes")
    refused(flax_map(a=flax_array((4,), "object", bytes(16))), "dtype that NumPy cannot hold")
    refused(flax_map(a=flax_array((2,) * 65, "float32", b"")), "shape cannot be")
    refused(flax_map(a=b"\x91" * 200 + b"\xc0"), "nested deeper")
    shape = flax_map(**{"0": b"\x05"})
    chunks = flax_map(**{"0": flax_array((4,), "float32", FOUR.tobytes())})
    whole = {"__msgpack_chunked_array__": b"\xc3"}
    refused(flax_map(a=flax_map(**whole, shape=shape, chunks=chunks)), "does not fit its chunks")
    refused(flax_map(a=flax_map(**whole, shape=shape)), "without shape or chunks")


def test_a_plain_pickle_of_arrays():
    """Dopamine's checkpoints: JAX's arrays in a frozen dictionary, and NumPy's."""
    params = {"params": {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": np.arange(3)}}}
    for protocol in (2, 5):
        data = pickle.dumps({"online_params": freeze(params), "steps": 3}, protocol)
        file = torch_file.read(data)
        found = state_dicts.find(file.tree)["online_params.params.Dense_0"]
        np.testing.assert_array_equal(found["kernel"], np.ones((2, 3)))
        np.testing.assert_array_equal(found["bias"], [0, 1, 2])
    older = call(
        "jax.interpreters.xla",
        "reconstruct_device_array",
        name("numpy.core.multiarray", "_reconstruct"),
        b"(" + name("numpy", "ndarray") + plain((0,)) + plain(b"b") + b"t",
        b"("
        + plain(1)
        + plain((2,))
        + call("numpy", "dtype", plain("f4"), plain(False), plain(True))
        + plain(False)
        + plain(FOUR[:2].tobytes())
        + b"t",
        plain({"weak_type": False}),
    )
    tree = torch_file.read(program(dictionary(w=older))).tree
    np.testing.assert_array_equal(tree["w"], [0, 1])
    refused(program(dictionary(w=plain(3))), "holds no arrays")
    refused(program(dictionary(w=tensor())), "a storage where none can be")


def test_hdf5_is_refused_with_what_converts_it(tmp_path, monkeypatch):
    path = tmp_path / "agent.h5"
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError) as caught:
        torch_file.read(path)
    message = str(caught.value)
    assert "HDF5" in message and "\n" not in message
    code = message.partition("in Python: ")[2]

    class File:
        """As h5py has it: groups and data sets, by their paths."""

        def __init__(self, path):
            assert path == "FILE"

        def visititems(self, visit):
            for key, item in (("conv", object()), ("conv/kernel", FOUR)):
                assert visit(key, item) is None  # anything else ends the walk

    monkeypatch.setitem(sys.modules, "h5py", types.SimpleNamespace(File=File))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    found = torch_file.read(tmp_path / "FILE.safetensors").tree
    np.testing.assert_array_equal(found["conv.kernel"], FOUR)


def test_arrays_of_a_safetensors_file_stand_in_its_order(tmp_path):
    """The layers of a spec that is guessed are in that order; the library gives any."""
    names = [f"layer{i}.{part}" for i in (3, 1, 2, 0) for part in ("weight", "bias")]
    header = {"__metadata__": {"format": "pt"}}
    for i, key in enumerate(names):
        header[key] = {"dtype": "F32", "shape": [2], "data_offsets": [8 * i, 8 * i + 8]}
    text = json.dumps(dict(reversed(header.items()))).encode()
    values = np.arange(2 * len(names), dtype="<f4")
    path = tmp_path / "ordered.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + values.tobytes())
    found = torch_file.read(path).tree
    assert [*found] == names
    np.testing.assert_array_equal(np.concatenate([*found.values()]), values)
