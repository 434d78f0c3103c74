"""Tensors and arrays of files made by hand: their numbers, or why they cannot be."""

import pickle

import numpy as np
import pytest
from weight_files import FOUR, unreadable

from benchmarks._files import call, dictionary, legacy, name, plain, tensor, zipped
from jaxdistill.experts import limits, state_dicts, torch_file


@pytest.mark.parametrize("make", [zipped, legacy])
@pytest.mark.parametrize("location", ["cpu", "cuda:3", "mps", "xla:0", "privateuse"])
def test_locations_are_ignored(make, location):
    data = make(dictionary(w=tensor(location=location)), {"0": FOUR.tobytes()})
    np.testing.assert_array_equal(torch_file.read(data).tree["w"], FOUR, strict=True)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("FloatStorage", "f4"), ("ComplexFloatStorage", "c8"), ("ByteStorage", "u1")],
)
def test_byte_order_record(kind, dtype):
    values = np.array([1, 2, 3, 250]).astype(dtype)
    big = values.astype(np.dtype(dtype).newbyteorder(">")).tobytes()
    read = torch_file.read(zipped(tensor(kind=kind), {"0": big}, byteorder="big")).tree
    np.testing.assert_array_equal(read, values, strict=True)
    read = torch_file.read(zipped(tensor(kind=kind), {"0": values.tobytes()}, byteorder="little"))
    np.testing.assert_array_equal(read.tree, values, strict=True)
    unreadable(zipped(tensor(), {"0": big}, byteorder="middle"), "'middle'", "expected")


def test_scalar_from_a_big_endian_file():
    data = zipped(tensor(size=(), stride=()), {"0": FOUR.astype(">f4").tobytes()}, byteorder="big")
    np.testing.assert_array_equal(torch_file.read(data).tree, FOUR[0].reshape(()), strict=True)


def test_conjugate_and_negative_views():
    values = np.array([1 + 2j, 3 - 4j], np.complex64)
    stored = tensor(
        kind="ComplexFloatStorage", numel=2, size=(2,), metadata={"conj": True, "neg": True}
    )
    read = torch_file.read(zipped(stored, {"0": values.tobytes()})).tree
    np.testing.assert_array_equal(read, -values.conj(), strict=True)


def test_booleans_are_zero_or_one():
    read = torch_file.read(zipped(tensor(kind="BoolStorage"), {"0": b"\x00\x01\x02\xff"})).tree
    assert read.view(np.uint8).tolist() == [0, 1, 1, 1]


def test_views_of_storages_in_old_files():
    saved = b"(" + plain("storage") + name("torch.cuda", "FloatStorage")
    saved += plain("7") + plain("cuda:0") + plain(4) + plain(("view", 1, 2)) + b"tQ"
    call_args = (saved, plain(0), plain((2,)), plain((1,)))
    data = legacy(call("torch._utils", "_rebuild_tensor", *call_args), {"7": FOUR.tobytes()})
    np.testing.assert_array_equal(torch_file.read(data).tree, FOUR[1:3], strict=True)


def test_numpy_arrays_of_every_order():
    arrays = {
        "c": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "text": np.array(["a", "bc"]),
        "none": np.zeros((0, 2)),
        "point": np.array(3.0),
        "turned": np.arange(24.0).reshape(2, 3, 4).transpose(1, 2, 0),
    }
    for protocol in (2, 4, 5):
        found = torch_file.read(zipped(pickle.dumps(arrays, protocol)[2:-1])).tree
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].dtype == array.dtype.newbyteorder("=")
    objects = torch_file.read(zipped(plain({"o": np.array([None, "x"], object)})))
    assert objects.skipped == ("o (numpy.ndarray of objects)",)


def _permuted(axes, shape=(2, 3)) -> bytes:
    """What NumPy 2.3 and later write of an array whose axes were put in another order."""
    dtype = call("numpy", "dtype", plain("u1"), plain(False), plain(True))
    given = (plain(bytes(range(6))), dtype, plain(shape), plain("K"), plain(axes))
    return zipped(call("numpy._core.numeric", "_frombuffer", *given))


def test_axes_of_an_array_in_another_order():
    array = torch_file.read(_permuted((1, 0))).tree
    np.testing.assert_array_equal(array, [[0, 3], [1, 4], [2, 5]])
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(torch_file.read(_permuted(None)).tree, [[0, 1, 2], [3, 4, 5]])
    for axes in ((0, 0), (0,), (0, 1, 2), (1, -1), (True, False), (0.0, 1.0), "01", 7, (9, 0)):
        unreadable(_permuted(axes), "axes have no such order; download it again")
    unreadable(_permuted((1, 0), shape=7), "damaged")


def test_a_tree_that_holds_itself():
    data = zipped(b"}q\x00" + plain("me") + b"h\x00s" + plain("w") + tensor() + b"s")
    # The pickle above says: d = {}; d["me"] = d; d["w"] = tensor.
    with pytest.raises(ValueError):
        torch_file.read(data)  # the storage is missing
    data = zipped(b"}q\xff" + plain("me") + b"h\xffs" + plain("w") + tensor() + b"s", {"0": FOUR})
    tree = torch_file.read(data).tree
    assert tree["me"] is tree
    assert list(state_dicts.find(tree)) == [""]


def test_what_was_shared_is_shared():
    data = zipped(tensor() + b"q\xff" + b"h\xff\x86", {"0": FOUR.tobytes()})
    first, second = torch_file.read(data).tree
    assert first is second


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((4,), (1,), 1),
        ((2, 2), (3, 1), 0),
        ((1,), (1,), 4),
        ((2,), (2**61,), 0),
        ((), (), 4),
        ((2,), (-1,), 1),
        ((-2,), (1,), 0),
        ((2,), (1,), -1),
        ((2,), (1, 1), 0),
        ((2.0,), (1,), 0),
        ((1,) * 65, (1,) * 65, 0),
        ((2**40, 2**40), (0, 0), 0),
        ((0, 2**62), (1, 1), 0),
    ],
)
@pytest.mark.parametrize("make", [zipped, legacy])
def test_views_outside_their_storage_are_refused(make, size, stride, offset):
    data = make(tensor(size=size, stride=stride, offset=offset), {"0": FOUR.tobytes()})
    unreadable(data, "in-memory file: ")


def test_storages_shorter_than_declared_are_refused():
    unreadable(zipped(tensor(numel=8, size=(8,)), {"0": FOUR.tobytes()}), "16 bytes, expected 32")
    unreadable(zipped(tensor(key="1"), {"0": FOUR.tobytes()}), "'archive/data/1' is missing")
    unreadable(zipped(tensor(kind="StrangeStorage"), {"0": FOUR.tobytes()}), "StrangeStorage")
    unreadable(legacy(tensor(key="1"), {"0": FOUR.tobytes()}), "that no tensor uses")
    unreadable(legacy(tensor()), "has no storage '0'")


@pytest.mark.parametrize("make", [zipped, legacy])
def test_tensors_have_no_more_elements_than_their_storage(make):
    storages = {"0": FOUR.tobytes()}
    repeated = torch_file.read(make(tensor(size=(1, 4, 1), stride=(0, 1, 0)), storages)).tree
    np.testing.assert_array_equal(repeated, FOUR.reshape(1, 4, 1), strict=True)
    unreadable(make(tensor(size=(5,), stride=(0,)), storages), "storage of 4 elements", "expanded")
    unreadable(make(tensor(size=(2**30,), stride=(0,)), storages), "contiguous() copy")
    # Two doubles are all that four floats can hold.
    double = b"(" + plain("storage") + name("torch", "FloatStorage")
    double += b"".join(map(plain, ("0", "cpu", 4))) + b"tQ"
    parts = (double, *map(plain, (0, (3,), (0,), False, None)), name("torch", "float64"))
    data = make(call("torch._utils", "_rebuild_tensor_v3", *parts), storages)
    unreadable(data, "storage of 2 elements")


@pytest.mark.parametrize("make", [zipped, legacy])
def test_views_of_one_storage_are_paid_for_together(make, monkeypatch):
    storages = {"0": bytes(40_000)}
    many = make(b"(" + tensor(numel=10_000, size=(10_000,)) * 100 + b"l", storages)
    assert len(torch_file.read(many, max_bytes=4_000_000).tree) == 100
    unreadable(many, "arrays would take over", max_bytes=3_999_999)
    monkeypatch.setattr(limits, "FREE_BYTES", 2**20)
    monkeypatch.setattr(limits, "FACTOR", 8)
    unreadable(many, "arrays would take over")
