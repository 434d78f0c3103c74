"""What the programs of pickles come to: plain values, and nothing that is run."""

import io
import os
import pickle
import sys
import time
import zipfile

import numpy as np
import pytest
from weight_files import unreadable

from benchmarks._files import call, dictionary, legacy, name, plain, program, zipped
from jaxdistill.experts import limits, torch_file, unpickling


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
    before = unpickling._rebuild_tensor.__defaults__
    target = name("torch._utils", "_rebuild_tensor_v2")
    data = zipped(target + plain((None, {"__defaults__": (1, 2)})) + b"b")
    assert torch_file.read(data).skipped == ("top level (torch._utils._rebuild_tensor_v2)",)
    assert unpickling._rebuild_tensor.__defaults__ == before


def test_tensors_pickled_by_pickle_are_explained():
    data = program(call("torch.storage", "_load_from_bytes", plain("x")))
    unreadable(data, "not by torch.save")
    unreadable(pickle.dumps({"a": [1, 2]}), "a pickle, but not one written by torch.save")


def test_long_pickles_are_refused(monkeypatch):
    monkeypatch.setattr(unpickling, "MAX_OPERATIONS", 1000)
    unreadable(zipped(b"]" * 2000), "operations")
    monkeypatch.setattr(unpickling, "MAX_PICKLE_BYTES", 5000)
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
