"""Tests for reading PyTorch files; those that compare with PyTorch are skipped without it."""

import io
import pathlib
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
from weight_files import FOUR, unreadable

from benchmarks._files import plain, tensor, zipped
from jaxdistill.experts import limits, state_dicts, torch_file
from jaxdistill.experts.tensors import Opaque

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


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
    found = state_dicts.find(torch_file.read(GOLDEN / "golden_zip.pth").tree)
    assert list(found) == ["", "Q", "tensors"]
    assert list(found[""]) == ["returns"]
    assert_golden(found["Q"], expected, "Q/")


def test_golden_module_saved_whole(expected):
    found = torch_file.read(GOLDEN / "golden_module.pth")
    assert found.skipped == ("top level (__main__.Net)",)
    assert isinstance(found.tree, Opaque)
    assert_golden(state_dicts.find(found.tree)[""], expected, "Q/")


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


# --- zip archives


@pytest.mark.parametrize("folder", ["", "best_model/", "a/b/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_any_folder_stored_or_deflated(folder, method):
    data = zipped(tensor(), {"0": FOUR.tobytes()}, folder=folder, method=method)
    np.testing.assert_array_equal(torch_file.read(data).tree, FOUR, strict=True)


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


def test_messages_are_fit_for_a_terminal():
    message = unreadable(zipped(tensor(kind="\x1b[31mRed")), "unknown kind")
    assert message.isprintable()
    hidden = torch_file.read(zipped(plain("\x1b[2J\r") + b"0cmy\x1b.mod\nThing\n"))
    assert all(entry.isprintable() for entry in hidden.skipped)


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
                state_dicts.find(found.tree)
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
    found = state_dicts.find(ours.tree)
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
    assert_same(torch, state_dicts.find(ours.tree)["net"], dict(theirs["net"].state_dict()))


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
