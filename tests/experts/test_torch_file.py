"""Tests for reading PyTorch files; those that compare with PyTorch are skipped without it."""

import io
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from benchmarks._files import call, dictionary, legacy, name, plain, program, tensor, zipped
from jaxdistill.experts import limits, torch_file

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


FOUR = np.array([1.5, -2.0, 3.25, 1e-30], np.float32)


def unreadable(source, *expected: str, **options) -> str:
    """The one line `read` refuses with."""
    with pytest.raises(ValueError) as caught:
        torch_file.read(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    for words in expected:
        assert words in message
    return message


# --- files PyTorch made, kept in the repository


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "golden.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def assert_golden(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], part: str):
    wanted = {k.removeprefix(part): v for k, v in expected.items() if k.startswith(part)}
    assert found.keys() == wanted.keys()
    for key, array in wanted.items():
        if key == "bfloat16":
            assert found[key].dtype == ml_dtypes.bfloat16
            array = array.astype(ml_dtypes.bfloat16)
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array, strict=True)
        assert found[key].flags.c_contiguous and found[key].flags.owndata


@pytest.mark.parametrize("file", ["golden_zip.pth", "golden_legacy.pth"])
def test_golden_checkpoints(file, expected):
    found = torch_file.read(GOLDEN / file)
    assert_golden(found.tree["Q"], expected, "Q/")
    assert_golden(found.tree["tensors"], expected, "tensors/")
    assert found.tree["best"] == 1.25 and isinstance(found.tree["best"], np.float64)
    np.testing.assert_array_equal(
        found.tree["returns"], np.arange(6, dtype=np.int32).reshape(2, 3), strict=True
    )
    assert found.tree["step"] == 7
    assert found.tree["shape"] == (2, 3)
    assert type(found.tree["Q"]) is dict
    assert found.skipped == ("saved (time.struct_time)",)
    assert found.tree["saved"].args[0][:6] == (1970, 1, 1, 0, 0, 0)


def test_golden_state_dicts(expected):
    found = torch_file.state_dicts(torch_file.read(GOLDEN / "golden_zip.pth").tree)
    assert list(found) == ["", "Q", "tensors"]
    assert list(found[""]) == ["returns"]
    assert_golden(found["Q"], expected, "Q/")


def test_golden_module_saved_whole(expected):
    found = torch_file.read(GOLDEN / "golden_module.pth")
    assert found.skipped == ("top level (__main__.Net)",)
    assert isinstance(found.tree, torch_file.Opaque)
    assert_golden(torch_file.state_dicts(found.tree)[""], expected, "Q/")


def test_golden_safetensors(expected, tmp_path):
    found = torch_file.read(GOLDEN / "golden.safetensors")
    assert_golden(found.tree, expected, "tensors/")
    renamed = tmp_path / "model.bin"
    renamed.write_bytes((GOLDEN / "golden.safetensors").read_bytes())
    assert_golden(torch_file.read(renamed).tree, expected, "tensors/")


def test_reads_contents_and_members_of_other_archives(tmp_path):
    data = (GOLDEN / "golden_zip.pth").read_bytes()
    outer = tmp_path / "agent.zip"
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("policy.pth", data)
        archive.writestr("data", "{}")
    with zipfile.ZipFile(outer) as archive:
        found = torch_file.read(archive.read("policy.pth"))
    assert found.tree["Q"].keys() == torch_file.read(GOLDEN / "golden_zip.pth").tree["Q"].keys()
    unreadable(outer, "agent.zip", "Stable-Baselines3", "policy.pth")


def test_reading_does_not_import_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from jaxdistill.experts import torch_file\n"
        f"torch_file.read({str(GOLDEN / 'golden_zip.pth')!r})\n"
        "assert sys.modules['torch'] is None\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# --- what hand-made files hold


@pytest.mark.parametrize("make", [zipped, legacy])
@pytest.mark.parametrize("location", ["cpu", "cuda:3", "mps", "xla:0", "privateuse"])
def test_locations_are_ignored(make, location):
    data = make(dictionary(w=tensor(location=location)), {"0": FOUR.tobytes()})
    np.testing.assert_array_equal(torch_file.read(data).tree["w"], FOUR, strict=True)


@pytest.mark.parametrize("folder", ["", "best_model/", "a/b/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_folder_stored_or_deflated(folder, method):
    data = zipped(tensor(), {"0": FOUR.tobytes()}, folder=folder, method=method)
    np.testing.assert_array_equal(torch_file.read(data).tree, FOUR, strict=True)


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


def test_python_2_pickles():
    text = b"U\x05hello"  # a Python 2 str
    array = call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), plain((0,)))
    array += b"(" + plain(1) + plain((2,)) + call("numpy", "dtype", plain("i2"), plain(0), plain(1))
    array += b"(" + b"".join(map(plain, (3, "<", None, None, None, -1, -1, 0))) + b"tb"
    array += plain(False) + b"U\x04\x01\x00\xff\xff" + b"tb"
    made = call("__builtin__", "set", plain([1, 2]))
    tree = torch_file.read(zipped(dictionary(text=text, array=array, made=made))).tree
    assert tree["text"] == "hello" and tree["made"] == {1, 2}
    np.testing.assert_array_equal(tree["array"], np.array([1, -1], np.int16), strict=True)


def test_plain_values_of_every_protocol():
    values = {
        "none": None,
        "big": 2**80,
        "negative": -3,
        "float": 0.1,
        "text": "é",
        "bytes": b"\x00\xff",
        "array": bytearray(b"ab"),
        "complex": 1 + 2j,
        "set": {1, 2},
        "frozen": frozenset({"a"}),
        "nested": [(1, [2, {"x": (3,)}]), True, False],
        7: "integer key",
        (1, "a"): "tuple key",
    }
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(values, protocol))
        found = torch_file.read(file.getvalue())
        assert found.tree == values and found.skipped == ()


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


def test_objects_stay_opaque():
    import argparse
    import collections

    class_in_file = name("my.agents", "Config")
    built = class_in_file + b")\x81" + plain({"lr": 0.1}) + b"b"
    entries = class_in_file + b")R(" + plain("k") + plain(1) + b"u"
    items = class_in_file + b")R(" + plain(5) + b"e"
    saved = dictionary(
        args=plain(argparse.Namespace(env="Pong")),
        when=plain(time.gmtime(0)),
        built=built,
        entries=entries,
        items=items,
        cls=class_in_file,
        counter=plain(collections.Counter("aab")),
        default=plain(collections.defaultdict(list, {"a": [1]})),
        recent=plain(collections.deque([1, 2], maxlen=2)),
        dtype=name("torch", "float32"),
        device=call("torch", "device", plain("cuda"), plain(0)),
    )
    modules = set(sys.modules)
    found = torch_file.read(zipped(saved))
    assert set(sys.modules) == modules
    assert found.tree["args"].state == {"env": "Pong"}
    assert found.tree["built"].state == {"lr": 0.1}
    assert found.tree["entries"].mapping == {"k": 1}
    assert found.tree["items"].items == [5]
    assert found.tree["counter"] == {"a": 2, "b": 1}
    assert found.tree["default"] == {"a": [1]}
    assert found.tree["recent"] == [1, 2]
    assert found.tree["dtype"] == np.float32
    assert found.tree["device"] == "cuda:0"
    assert found.skipped == (
        "args (argparse.Namespace)",
        "when (time.struct_time)",
        "built (my.agents.Config)",
        "entries (my.agents.Config)",
        "items (my.agents.Config)",
        "cls (my.agents.Config)",
    )


def test_a_tree_that_holds_itself():
    data = zipped(b"}q\x00" + plain("me") + b"h\x00s" + plain("w") + tensor() + b"s")
    # The pickle above says: d = {}; d["me"] = d; d["w"] = tensor.
    with pytest.raises(ValueError):
        torch_file.read(data)  # the storage is missing
    data = zipped(b"}q\xff" + plain("me") + b"h\xffs" + plain("w") + tensor() + b"s", {"0": FOUR})
    tree = torch_file.read(data).tree
    assert tree["me"] is tree
    assert list(torch_file.state_dicts(tree)) == [""]


def test_what_was_shared_is_shared():
    data = zipped(tensor() + b"q\xff" + b"h\xff\x86", {"0": FOUR.tobytes()})
    first, second = torch_file.read(data).tree
    assert first is second


# --- state_dicts


def test_state_dicts_of_nested_checkpoints():
    w, b = np.zeros((2, 2)), np.zeros(2)
    tree = {
        "model": {"module.fc.weight": w, "module.fc.bias": b},
        "compiled": {"_orig_mod.module.fc.weight": w},
        "partly": {"module.fc.weight": w, "log_std": b},
        "nested": {"actor": {"weight": w}, "critic": {"weight": w}},
        "optimizer": {"state": {0: {"step": b, "exp_avg": w}}, "param_groups": [{"lr": 0.1}]},
        "history": [{"fc.weight": w}, ({"fc.bias": b},)],
        "mixed": {"sub": {"weight": w}, "bias": b, "note": "x"},
        "epoch": 3,
        "nothing": {},
    }
    found = torch_file.state_dicts(tree)
    assert {path: list(arrays) for path, arrays in found.items()} == {
        "model": ["fc.weight", "fc.bias"],
        "compiled": ["fc.weight"],
        "partly": ["module.fc.weight", "log_std"],
        "nested": ["actor.weight", "critic.weight"],
        "nested.actor": ["weight"],
        "nested.critic": ["weight"],
        "optimizer.state": ["0.step", "0.exp_avg"],
        "optimizer.state.0": ["step", "exp_avg"],
        "history.0": ["fc.weight"],
        "history.1.0": ["fc.bias"],
        "mixed": ["bias"],
        "mixed.sub": ["weight"],
    }
    assert found["model"]["fc.weight"] is w
    assert list(torch_file.state_dicts({"fc.weight": w})) == [""]
    assert torch_file.state_dicts([1, "a", w]) == {}


def test_state_dicts_of_objects_that_hold_modules():
    w = np.zeros(3)
    layer = torch_file.Opaque("torch.nn.Linear", state={"_parameters": {"weight": w, "bias": None}})
    net = torch_file.Opaque("Net", state={"_parameters": {}, "_modules": {"fc": layer}})
    layer.state["_modules"] = {"back": net}  # a loop, as some modules have
    agent = torch_file.Opaque("Agent", state=({"q_net": net, "eps": 0.1}, {"slot": {"w": w}}))
    found = torch_file.state_dicts({"agent": agent})
    assert {path: list(arrays) for path, arrays in found.items()} == {
        "agent.q_net": ["fc.weight"],
        "agent.slot": ["w"],
    }


def test_state_dicts_that_would_not_end(monkeypatch):
    monkeypatch.setattr(torch_file, "MAX_NAME_CHARACTERS", 10_000)
    tree = {"w": np.zeros(1)}
    for _ in range(40):
        tree = {"a": tree, "b": tree}
    with pytest.raises(ValueError, match="too many times"):
        torch_file.state_dicts(tree)


# --- hostile files


class Calls:
    """Pickles as a call of `function`, which real unpicklers would make."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


DANGEROUS = [
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("__builtin__", "eval"),
    ("io", "open"),
    ("sys", "exit"),
    ("shutil", "rmtree"),
    ("socket", "create_connection"),
    ("importlib", "import_module"),
    ("runpy", "run_path"),
    ("pty", "spawn"),
    ("ctypes", "CDLL"),
    ("code", "interact"),
    ("operator", "attrgetter"),
    ("_operator", "methodcaller"),
    ("os.path", "exists"),
    ("pickle", "loads"),
    ("torch", "serialization.os.system"),
    ("torch.hub", "load"),
    ("types", "CodeType"),
]


@pytest.mark.parametrize(("module", "attribute"), DANGEROUS)
@pytest.mark.parametrize("make", [zipped, legacy, program])
def test_dangerous_names_are_refused(make, module, attribute, tmp_path):
    file = tmp_path / "model.pth"
    file.write_bytes(make(call(module, attribute, plain("touch evil"))))
    full = f"{module.replace('__builtin__', 'builtins')}.{attribute}"
    unreadable(file, "model.pth: wants to call", full, "not only weights; refusing to read it")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("place", ["zip", "legacy", "plain"])
def test_nothing_is_run(protocol, place, tmp_path):
    witness = tmp_path / "witness"
    attack = pickle.dumps({"w": Calls(os.system, f"touch {witness}")}, protocol)
    if place == "zip":
        with zipfile.ZipFile(tmp_path / "file", "w") as archive:
            archive.writestr("archive/data.pkl", attack)
    elif place == "legacy":
        (tmp_path / "file").write_bytes(legacy(b"N").replace(program(b"N"), attack))
    else:
        (tmp_path / "file").write_bytes(attack)
    message = unreadable(tmp_path / "file")
    assert "refusing to read it" in message or (protocol == 0 and place == "plain")
    assert not witness.exists()


def test_names_through_other_opcodes():
    stacked = plain("os") + plain("system") + b"\x93"
    unreadable(zipped(stacked), "os.system")
    unreadable(zipped(b"(" + plain("echo") + b"ios\nsystem\n"), "os.system")
    unreadable(zipped(b"\x82\x01"), "EXT1")
    unreadable(zipped(b"P7\n"), "PERSID")


def test_attributes_of_our_own_functions_cannot_be_set():
    before = torch_file._rebuild_tensor.__defaults__
    target = name("torch._utils", "_rebuild_tensor_v2")
    data = zipped(target + plain((None, {"__defaults__": (1, 2)})) + b"b")
    assert torch_file.read(data).skipped == ("top level (torch._utils._rebuild_tensor_v2)",)
    assert torch_file._rebuild_tensor.__defaults__ == before


def test_tensors_pickled_by_pickle_are_explained():
    data = program(call("torch.storage", "_load_from_bytes", plain("x")))
    unreadable(data, "not by torch.save")
    unreadable(pickle.dumps({"a": [1, 2]}), "a pickle, but not one written by torch.save")


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


def test_zip_bombs_are_refused(monkeypatch):
    zeros = bytes(2**20)
    bomb = zipped(tensor(), {"0": zeros}, method=zipfile.ZIP_DEFLATED)
    assert len(bomb) < 6000
    assert torch_file.read(bomb).tree.shape == (4,)
    unreadable(bomb, "unpacks to over 100000 bytes", max_bytes=100_000)
    monkeypatch.setattr(limits, "FREE_BYTES", 2**16)
    unreadable(bomb, "unpacks to over", "zip bomb")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_records_that_may_unpack_to_more_than_they_say_are_refused(method):
    data = zipped(tensor(), {"0": FOUR.tobytes()}, method=method)
    unreadable(data, "packed in a way", "stored or deflated")


def test_sizes_a_zip_lies_about_are_refused():
    bomb = zipped(tensor(), {"0": bytes(10_000)}, method=zipfile.ZIP_DEFLATED)
    for claimed in (16, 20_000, 2**31):  # less, and more, than there is
        lying = bomb.replace(struct.pack("<I", 10_000), struct.pack("<I", claimed))
        assert lying != bomb
        unreadable(lying)


def test_long_pickles_are_refused(monkeypatch):
    monkeypatch.setattr(torch_file, "MAX_OPERATIONS", 1000)
    unreadable(zipped(b"]" * 2000), "operations")
    monkeypatch.setattr(torch_file, "MAX_PICKLE_BYTES", 5000)
    unreadable(zipped(plain("x" * 6000)), "data.pkl holds over 5000 bytes")
    unreadable(legacy(plain("x" * 6000)), "bytes long")
    copies = plain("x" * 3000) + b"q\xff0" + b"c_codecs\nencode\nh\xff\x85R" * 3
    monkeypatch.setattr(limits, "FREE_BYTES", 0)
    monkeypatch.setattr(limits, "FACTOR", 1)
    unreadable(zipped(copies), "copies more than a file of its size may")


def test_memo_tables_keys_and_nesting_are_limited():
    # One memo index of four billion makes Python's own unpickler ask for 64 GB.
    assert torch_file.read(zipped(b"Nr\xff\xff\xff\xff")).tree is None
    deep = b")" + b"\x85" * 200_000
    unreadable(zipped(deep), "nested deeper")
    unreadable(zipped(b"}" + deep + b"Ns"), "key")
    unreadable(zipped(b"}" + plain("k" * 2000) + b"Ns"), "key longer")
    unreadable(zipped(b"}" + plain(1 << 100_000) + b"Ns"), "key longer")
    unreadable(zipped(b"}]Ns"), "list as a dictionary key")


@pytest.mark.parametrize(
    "opcodes",
    [
        b"",
        b"t",
        b"R",
        b"NNR",
        b"u",
        b"(Nu",
        b"]Na0a",
        b"h\x05",
        b"Ns",
        b"N(Ne",
        b"NQ",
        b"N)Q",
        b"(NtQ",
        b"\x86",
        b"N\x93",
        b"NN\x93",
        b"\xfe",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
        call("torch._utils", "_rebuild_tensor_v2"),
        call("builtins", "bytearray", plain(10**12)),
        call("collections", "OrderedDict", plain([1, 2])),
        call("builtins", "complex", plain("x")),
    ],
)
@pytest.mark.parametrize("make", [zipped, legacy])
def test_broken_pickles(make, opcodes):
    unreadable(make(opcodes))


def test_messages_are_fit_for_a_terminal():
    message = unreadable(zipped(tensor(kind="\x1b[31mRed")), "unknown kind")
    assert message.isprintable()
    hidden = torch_file.read(zipped(plain("\x1b[2J\r") + b"0cmy\x1b.mod\nThing\n"))
    assert all(entry.isprintable() for entry in hidden.skipped)


# --- files that are something else, or less


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        torch_file.read(tmp_path / "none.pth")
    assert "none.pth: no such file; expected" in str(caught.value)
    unreadable(GOLDEN / "golden_zip.pth" / "inside", "cannot be read: Not a directory")


def test_directories_and_devices(tmp_path):
    unreadable(tmp_path, "is a directory")
    unreadable("/dev/null", "not a regular file")
    unreadable("nul\0byte")


def test_contents_are_called_what_the_caller_says():
    unreadable(b"", "in-memory file: is empty")
    unreadable(b"", "policy.pth: is empty", name="policy.pth")
    with pytest.raises(TypeError, match="NoneType"):
        torch_file.read(None)


OTHERS = {
    "empty": (b"", "is empty"),
    "html": (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    "text": (b"hello\n" * 9, "text, beginning 'hello"),
    "utf-8": ("é".encode() * 999, "text, beginning"),
    "json": (b'{"a": 1}', "text"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0", "ONNX"),
    "npy": (b"\x93NUMPY\x01\x00" + bytes(100), ".npy"),
    "gzip": (b"\x1f\x8b\x08" + bytes(100), "gzip"),
    "zeros": (bytes(1000), "damaged, or not a file written by torch.save"),
    "noise": (random.Random(0).randbytes(1000), "damaged, or not a file written by torch.save"),
    "zip": (b"PK\x03\x04" + bytes(100), "a zip archive cut short or damaged"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_of_file(kind, tmp_path):
    data, words = OTHERS[kind]
    file = tmp_path / "file.pth"
    file.write_bytes(data)
    unreadable(file, "file.pth: ", words)


def test_other_kinds_of_archive():
    file = io.BytesIO()
    np.savez(file, a=FOUR)
    unreadable(file.getvalue(), ".npz")
    unreadable(zipped(b"N", **{"constants.pkl": b""}), "TorchScript", "state_dict")
    unreadable(zipped(b"N", **{"code/__torch__.py": b""}), "TorchScript")
    unreadable(zipped(b"N", **{"other/data.pkl": b""}), "2 files named data.pkl")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme", "hello")
    unreadable(file.getvalue(), "without data.pkl", "unpack it and give the file inside")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.add(GOLDEN / "make_torch_files.py", "pickle")
    unreadable(file.getvalue(), "a tar archive")


def test_damaged_safetensors():
    data = safetensors.numpy.save({"w": FOUR})
    np.testing.assert_array_equal(torch_file.read(data).tree["w"], FOUR, strict=True)
    for length in range(9, len(data)):
        unreadable(data[:length])
    unreadable(data.replace(b"F32", b"Q99"), "is a safetensors file cut short or damaged")
    odd = data.replace(b'"F32","shape":[4]', b'"F4","shape":[32]')
    assert odd != data
    unreadable(odd, "dtype F4", "save it as F32")


@pytest.mark.parametrize("file", ["golden_zip.pth", "golden_legacy.pth"])
def test_every_truncation_is_refused(file):
    data = (GOLDEN / file).read_bytes()
    for length in range(0, len(data), 7):
        unreadable(data[:length])


def test_crc_of_records_is_checked():
    data = bytearray((GOLDEN / "golden_zip.pth").read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.getinfo("golden_zip/data/0")
    start = info.header_offset + 30
    start += sum(struct.unpack("<HH", data[info.header_offset + 26 : start]))
    data[start + 3] ^= 64
    unreadable(bytes(data), "Bad CRC-32", "download it again")


@pytest.mark.parametrize("target", ["zip", "legacy", "pickle in a zip", "module in a zip"])
def test_random_damage_raises_only_value_error(target, monkeypatch):
    # Small limits, so that damage which asks for a lot is refused rather than served.
    rng = random.Random(target)
    file = {"legacy": "golden_legacy.pth", "module in a zip": "golden_module.pth"}
    good = (GOLDEN / file.get(target, "golden_zip.pth")).read_bytes()
    records = {}
    if target.endswith("in a zip"):
        with zipfile.ZipFile(io.BytesIO(good)) as archive:
            records = {path: archive.read(path) for path in archive.namelist()}
        (pickle_path,) = [path for path in records if path.endswith("data.pkl")]
    modules = set(sys.modules)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        data = bytearray(records[pickle_path] if records else good)
        for _ in range(rng.choice([1, 1, 2, 8])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.1:
            del data[rng.randrange(len(data)) :]
        if records:
            data = _rezipped(records | {pickle_path: bytes(data)})
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about escapes in names
                found = torch_file.read(bytes(data), max_bytes=2**24)
                torch_file.state_dicts(found.tree)
            outcomes["read"] += 1
        except ValueError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert outcomes["refused"] > 50
    assert set(sys.modules) == modules


def _rezipped(records: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, data in records.items():
            archive.writestr(path, data)
    return file.getvalue()


# --- the same as PyTorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(params=["zip", "legacy"])
def saved(request, torch, tmp_path):
    """Saves with PyTorch; gives what we read and what PyTorch reads."""

    def save(value):
        path = tmp_path / "model.pth"
        torch.save(value, path, _use_new_zipfile_serialization=request.param == "zip")
        try:
            loaded = torch.load(path, weights_only=False)
        except AttributeError:
            # PyTorch cannot load untyped storages back from the legacy files it writes; we can.
            loaded = value
        return torch_file.read(path), loaded

    return save


def to_numpy(torch, tensor):
    """Bit for bit, whatever the dtype."""
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    named = str(tensor.dtype).removeprefix("torch.")
    dtype = np.dtype(getattr(ml_dtypes, named, None) or named)
    return np.frombuffer(
        bytes(tensor.reshape(-1).view(torch.uint8).tolist()) if tensor.numel() else b"", dtype
    ).reshape(tuple(tensor.shape))


def assert_same(torch, ours, theirs):
    """The same tree, tensors compared bit for bit."""
    if isinstance(theirs, torch.Tensor):
        wanted = to_numpy(torch, theirs)
        assert isinstance(ours, np.ndarray)
        assert ours.dtype == wanted.dtype and ours.shape == wanted.shape
        assert ours.tobytes() == wanted.tobytes()
        assert ours.flags.c_contiguous
    elif isinstance(theirs, dict):
        assert type(ours) is dict and list(ours) == list(theirs)
        for key in theirs:
            assert_same(torch, ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert isinstance(ours, (list, tuple)) and len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(torch, one, other)
    else:
        assert ours == theirs and type(ours) is type(theirs)


DTYPES = (
    *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8"),
    *("uint16", "uint32", "uint64", "bool", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"),
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(torch, saved, dtype):
    values = torch.randint(0, 2 if dtype == "bool" else 100, (3, 5), dtype=torch.uint8)
    ours, theirs = saved({"x": values.to(getattr(torch, dtype)), "y": 1})
    assert_same(torch, ours.tree, theirs)
    assert ours.skipped == ()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64", "complex64"])
def test_every_layout(torch, saved, dtype):
    base = torch.arange(120).reshape(4, 5, 6).to(getattr(torch, dtype))
    layouts = {
        "whole": base,
        "again": base,
        "transposed": base.permute(2, 0, 1),
        "offset": base[1:, 2:4, 3:],
        "stepped": base[::2, 1::2, ::3],
        "row": base[2],
        "element": base[3, 4, 5],
        "expanded": base[:1, :1].expand(4, 5, 6),
        "stretched": base[0, 0, 0].expand(3, 3),
        "overlapping": base.as_strided((4, 4), (1, 2), 3),
        "empty": base[:0],
        "nothing": torch.zeros(0, dtype=base.dtype),
        "scalar": torch.tensor(1, dtype=base.dtype),
        "channels_last": base.reshape(1, 4, 5, 6).contiguous(memory_format=torch.channels_last),
    }
    ours, theirs = saved(layouts)
    assert_same(torch, ours.tree, theirs)


def test_special_values_survive(torch, saved):
    bits = torch.tensor([0x7FC00001, -0x7FFFFF, 0x00000001, -0x80000000], dtype=torch.int32)
    assert_same(torch, *_tree(saved({"x": bits.view(torch.float32)})))


def _tree(pair):
    return pair[0].tree, pair[1]


def test_checkpoint_with_an_optimizer(torch, saved):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.Linear(8, 2)
    )
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(3, 1, 4, 4)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": net.state_dict(),
        "parallel": torch.nn.DataParallel(net).state_dict(),
        "optimizer": optimizer.state_dict(),
        "parameters": list(net.parameters()),
        "best": np.float64(2.5),
        "scores": np.arange(4.0),
        "size": torch.Size([1, 2]),
    }
    ours, theirs = saved(checkpoint)
    assert ours.skipped == ()
    assert type(ours.tree["best"]) is np.float64
    np.testing.assert_array_equal(ours.tree.pop("scores"), theirs.pop("scores"), strict=True)
    assert_same(torch, ours.tree, theirs)
    found = torch_file.state_dicts(ours.tree)
    assert found["model"].keys() == found["parallel"].keys() == net.state_dict().keys()


def test_siblings_are_reported(torch, saved):
    ours, theirs = saved({"Q": {"w": torch.ones(2)}, "info": {"when": time.gmtime(0)}})
    assert ours.skipped == ("info.when (time.struct_time)",)
    assert_same(torch, ours.tree["Q"], theirs["Q"])


@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_modules_saved_whole(torch, saved):
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3),
        torch.nn.BatchNorm2d(2),
        torch.nn.Sequential(torch.nn.ELU(), torch.nn.Linear(3, 2, bias=False)),
        torch.nn.GRUCell(2, 3),
    )
    net.register_buffer("kept", torch.ones(2))
    net.register_buffer("scratch", torch.ones(2), persistent=False)
    ours, theirs = saved({"net": net, "step": 1})
    assert ours.skipped == ("net (torch.nn.modules.container.Sequential)",)
    assert_same(torch, torch_file.state_dicts(ours.tree)["net"], dict(theirs["net"].state_dict()))


def test_tensors_with_attributes_and_views(torch, saved):
    marked = torch.nn.Parameter(torch.ones(3))
    marked.note = "kept by PyTorch, not by us"
    plain_tensor = torch.arange(3.0)
    plain_tensor.note = 1
    pair = saved({"a": marked, "b": plain_tensor, "c": torch.tensor([1 + 2j, 3j]).conj()})
    assert_same(torch, *_tree(pair))


def test_storages_and_tensors_numpy_has_no_equal_for(torch, saved):
    sparse = torch.eye(3).to_sparse()
    ours, _ = saved({"meta": torch.empty(2, device="meta"), "sparse": sparse, "w": torch.ones(2)})
    assert ours.skipped == (
        "meta (torch._utils._rebuild_meta_tensor_no_storage)",
        "sparse (torch._utils._rebuild_sparse_tensor)",
    )
    np.testing.assert_array_equal(ours.tree["w"], np.ones(2, np.float32), strict=True)
    ours, _ = saved({"storage": torch.arange(3, dtype=torch.uint8).untyped_storage()})
    np.testing.assert_array_equal(ours.tree["storage"], np.arange(3, dtype=np.uint8), strict=True)


def test_torchscript_is_named(torch, tmp_path):
    path = tmp_path / "scripted.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer PyTorch calls TorchScript deprecated
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(path)
    unreadable(path, "scripted.pt: is TorchScript", "state_dict")


def test_safetensors_of_every_dtype(torch, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    tensors = {
        dtype: torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
        for dtype in DTYPES
        if dtype != "complex128"
    }
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    tree = torch_file.read(tmp_path / "model.safetensors").tree
    assert_same(torch, {key: tree[key] for key in tensors}, tensors)
