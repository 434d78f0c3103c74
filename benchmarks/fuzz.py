"""Damages files of every kind and reads them: each is read, or refused with one line.

    python benchmarks/fuzz.py [--files=10000] [--seed=0] [--keep=DIR]
    python benchmarks/fuzz.py --again="SB3 zip:17"        # one file again, with its traceback

Files are made and read in a child process with 2 GiB of memory to spare and 10 seconds of processor
time for each file; after a failure a fresh one goes on. Audit hooks watch what is run, imported or
written while a file is read. The same seed makes the same files. Exits with 1 if anything failed.
"""

from __future__ import annotations

import collections
import contextlib
import gzip
import json
import os
import pathlib
import random
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from absl import app, flags, logging

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks import _files  # noqa: E402

_NUMBER = flags.DEFINE_integer("files", 10_000, "how many files, of all containers", lower_bound=20)
_SEED = flags.DEFINE_integer("seed", 0, "of the damage")
_KEEP = flags.DEFINE_string("keep", None, "directory for the files that failed")
_AGAIN = flags.DEFINE_string("again", None, "CONTAINER:INDEX, to be read with its traceback")
_START = flags.DEFINE_integer("start", None, "for the child process: where it begins")

MEMORY = 2 * 2**30
SECONDS = 10
GOLDEN = ROOT / "tests" / "golden"

# --- damage

_BYTES = (0, 1, 0x7F, 0x80, 0xFF)
_NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 10**400, 1e308, float("nan"), float("inf"))
_TEXTS = ("", "x", "\n", "\x1b[2J", "é" * 300, "x" * 5000, "..", "../../etc/passwd", "1", "true")


def damaged(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one to eight of them changed, taken out, put in or put twice."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 8))):
        place, length = (
            rng.randrange(len(changed) + 1),
            min(rng.choice((1, 2, 4, 8, 64)), len(data)),
        )
        match rng.randrange(8):
            case 0:
                del changed[place:]
            case 1:
                del changed[place : place + length]
            case 2:
                changed[place:place] = changed[place : place + length]
            case 3:
                changed[place:place] = rng.randbytes(length)
            case 4:
                changed[place : place + length] = bytes([rng.choice(_BYTES)]) * length
            case 5 if changed:
                changed[place % len(changed)] ^= 1 << rng.randrange(8)
            case 6:
                other = rng.randrange(len(changed) + 1)
                changed[place : place + length] = changed[other : other + length]
            case _ if changed:
                changed[place % len(changed)] = rng.randrange(256)
    return bytes(changed)


def _value(rng: random.Random) -> Any:
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: None,
        lambda: rng.random() < 0.5,
        lambda: rng.choice(_NUMBERS),
        lambda: rng.choice(_NUMBERS),
        lambda: rng.choice(_TEXTS),
        list,
        dict,
        lambda: [_value(rng) for _ in range(rng.randrange(4))],
        lambda: {rng.choice(_TEXTS): _value(rng)},
        lambda: rng.randrange(1000),
    )
    return rng.choice(kinds)()


def damaged_json(text: bytes, rng: random.Random) -> bytes:
    """JSON with a few of its values changed, taken out or renamed; sometimes not JSON any more."""
    if rng.random() < 0.2:
        return damaged(text, rng)
    tree = json.loads(text)
    for _ in range(rng.choice((1, 1, 2, 5))):
        places: list[tuple[Any, Any]] = []
        pending = [tree]
        while pending:
            node = pending.pop()
            if isinstance(node, (dict, list)):
                keys = list(node) if isinstance(node, dict) else list(range(len(node)))
                places += [(node, key) for key in keys]
                pending += [node[key] for key in keys]
        if not places or rng.random() < 0.02:
            tree = _value(rng)
            continue
        node, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[rng.choice(_TEXTS)] = node.pop(key)
            case 2 if isinstance(node, list):
                node.insert(key, node[key])
            case 3 if type(node[key]) in (int, float) and abs(node[key]) < 1e300:
                node[key] = node[key] * rng.choice((-1, 0, 2, 1.5, 1e6)) + rng.choice((0, 1))
            case _:
                node[key] = _value(rng)
    if rng.random() < 0.01:
        return b"[" * 20_000 + json.dumps(tree).encode()
    return json.dumps(tree).encode()


def damaged_text(data: bytes, rng: random.Random) -> bytes:
    """Lines put elsewhere, and values of TOML changed for others."""
    if rng.random() < 0.2:
        return damaged(data, rng)
    lines = data.decode().splitlines()
    words = ("0", "-1", "99999999999999999999", "nan", "inf", '""', "[]", "{}", "true", '"full"')
    more = ('"conv"', '"elu"', "[[1]]", "[0, 1]", '{weight = "a"}', "0x" + "f" * 5000, "1e400")
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(lines))
        match rng.randrange(6):
            case 0:
                del lines[place]
            case 1:
                lines.insert(rng.randrange(len(lines) + 1), lines[place])
            case 2:
                lines[place] = f"{rng.choice(_TEXTS)}{lines[place]}"
            case _:
                key, equals, _ = lines[place].partition("=")
                if equals:
                    lines[place] = f"{key}= {rng.choice(words + more)}"
        lines = lines or [""]
    return "\n".join(lines).encode()


def damaged_zip(data: bytes, rng: random.Random, inner: Callable[[str, bytes], bytes]) -> bytes:
    """An archive with a member damaged, left out, doubled or renamed, packed again."""
    if rng.random() < 0.3:
        return damaged(data, rng)
    with zipfile.ZipFile(_files.io.BytesIO(data)) as archive:
        members = [(path, archive.read(path)) for path in archive.namelist()]
    place = rng.randrange(len(members))
    path, content = members[place]
    match rng.randrange(8):
        case 0:
            del members[place]
        case 1:
            members.append((path, content[: len(content) // 2]))
        case 2:
            members[place] = (path + rng.choice(_TEXTS), content)
        case _:
            members[place] = (path, inner(path, content))
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, 12, 14))
    file = _files.io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(file, "w", method) as archive:
            for path, content in members:
                archive.writestr(path, content)
    made = file.getvalue()
    return damaged(made, rng) if rng.random() < 0.1 else made


# --- pickles by their grammar


class _Programs:
    """Random programs of pickle opcodes that mostly keep the stack in order."""

    def __init__(self, rng: random.Random, witness: str):
        from jaxdistill.experts import unpickling

        self.rng, self.stored, self.witness = rng, 0, witness
        self.known = sorted(unpickling.KNOWN_CALLS)
        self.dangerous = (
            *("os.system", "posix.system", "builtins.eval", "builtins.exec", "subprocess.call"),
            *("builtins.__import__", "builtins.open", "builtins.getattr", "fuzz_canary.thing"),
            *(
                "torch.storage._load_from_bytes",
                "my.agents.Config",
                "torch.nn.modules.linear.Linear",
            ),
        )

    def name(self) -> bytes:
        names = self.dangerous if self.rng.random() < 0.15 else self.known
        module, _, attribute = self.rng.choice(names).rpartition(".")
        if self.rng.random() < 0.3:
            return _files.plain(module) + _files.plain(attribute) + b"\x93"
        return _files.name(module, attribute)

    def text(self) -> bytes:
        text = self.rng.choice((*_TEXTS, "weight", "cpu", "storage", f"touch {self.witness}"))
        match self.rng.randrange(4):
            case 0:
                data = text.encode()[:255]
                return b"\x8c" + bytes([len(data)]) + data
            case 1:
                return b"S" + repr(text).encode() + b"\n"
            case 2:
                return b"V" + text.encode("raw-unicode-escape").replace(b"\n", b" ") + b"\n"
        return _files.plain(text)

    def number(self) -> bytes:
        number = self.rng.choice((*_NUMBERS[:7], 2, 3, 4, 255, 2**61 - 1))
        match self.rng.randrange(5):
            case 0:
                return b"I" + str(number).encode() + b"\n"
            case 1:
                return b"L" + str(number).encode() + b"L\n"
            case 2:
                data = self.rng.randbytes(self.rng.choice((0, 1, 8, 9, 200)))
                return b"\x8a" + bytes([len(data)]) + data
            case 3:
                return (
                    b"F"
                    + self.rng.choice((b"1.5", b"nan", b"inf", b"1e999", b"-0.0", b"x"))
                    + b"\n"
                )
        return _files.plain(number)

    def tensor(self) -> bytes:
        rng, sizes = self.rng, (0, 1, 2, 4, 5, 2**20, 2**40)
        dims = rng.choice((0, 1, 1, 2, 3))
        return _files.tensor(
            kind=rng.choice(("FloatStorage", "DoubleStorage", "BoolStorage", "OddStorage")),
            key=rng.choice("0001"),
            numel=rng.choice((4, 4, 4, *sizes)),
            offset=rng.choice((0, 0, 0, 1, 2**40)),
            size=tuple(rng.choice(sizes) for _ in range(dims)),
            stride=tuple(rng.choice((0, 1, 1, 4, 2**40)) for _ in range(dims)),
            metadata=rng.choice((None, None, {"conj": True}, {"neg": True})),
        )

    def values(self, depth: int, most: int = 4) -> bytes:
        return b"".join(self.value(depth) for _ in range(self.rng.randrange(most)))

    def value(self, depth: int) -> bytes:
        """Opcodes that push one value."""
        rng = self.rng
        kinds = ["text", "number", "plain", "tensor", "name", "odd"]
        if depth > 0:
            kinds += ["list", "tuple", "dict", "dict", "set", "call", "call", "array", "again"]
        kind = rng.choice(kinds)
        inner = depth - 1
        if kind in ("text", "number", "tensor", "name"):
            made = getattr(self, kind)()
        elif kind == "plain":
            made = rng.choice((b"N", b"\x88", b"\x89", b"]", b"}", b")", b"\x8f", b"C\x03abc"))
        elif kind == "list":
            made = rng.choice((b"](" + self.values(inner) + b"e", b"(" + self.values(inner) + b"l"))
        elif kind == "tuple":
            made = b"(" + self.values(inner) + b"t"
        elif kind == "dict":
            pairs = b"".join(
                (self.text() if rng.random() < 0.7 else self.value(inner)) + self.value(inner)
                for _ in range(rng.randrange(4))
            )
            made = rng.choice((b"}(" + pairs + b"u", b"(" + pairs + b"d"))
        elif kind == "set":
            made = rng.choice(
                (b"\x8f(" + self.values(inner) + b"\x90", b"(" + self.values(0) + b"\x91")
            )
        elif kind == "array":
            code = rng.choice(("f4", "i8", "U3", "U0", "O8", "f9", "b1", "V8", "S999999"))
            dtype = _files.call("numpy", "dtype", _files.plain(code), b"\x89", b"\x88")
            shape = _files.plain(rng.choice(((), (2,), (0,), (2**40,), (-1,), (1, 2, 3))))
            made = _files.call(
                "numpy.core.numeric",
                "_frombuffer",
                _files.plain(b"12345678"),
                dtype,
                shape,
                b"U\x01C",
            )
        elif kind == "call":
            arguments = b"(" + self.values(inner) + b"t"
            made = (
                self.name() + arguments + rng.choice((b"R", b"\x81", b"R" + self.value(0) + b"b"))
            )
            if rng.random() < 0.1:
                made = b"(" + self.name() + self.values(inner) + b"o"
            elif rng.random() < 0.1:
                made = self.name() + arguments + b"}\x92"
        elif kind == "again" and self.stored:
            return b"h" + bytes([rng.randrange(self.stored)])
        else:
            made = rng.choice(
                (b"N2", b"(0", b"(N1", b"NQ", b"P1\n", b"\x82\x01", b"N0", b"\x95" + bytes(8))
            )
        if rng.random() < 0.3 and self.stored < 200:
            made += b"q" + bytes([self.stored])
            self.stored += 1
        if kind == "list" and depth > 2 and rng.random() < 0.3:  # one that holds itself
            made = b"]q\xf0" + made + b"ah\xf0a"
        return made

    def program(self) -> bytes:
        made = self.value(5)
        if self.rng.random() < 0.3:
            made = b"".join(self.value(3) for _ in range(3)) + made
        return damaged(made, self.rng) if self.rng.random() < 0.3 else made


# --- containers: each makes a file (or a directory) in a folder, and reads it


_WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
_SCORE = {"type": "mean_reward", "value": "20.70 +/- 0.46"}
_RESULT = {"dataset": {"type": "PongNoFrameskip-v4", "name": "Pong"}, "metrics": [_SCORE]}
_BESIDE: dict[str, Any] = {
    "README.md": {
        "tags": ["atari", "Pong-v5"],
        "model-index": [{"name": "x", "results": [_RESULT]}],
    },
    "config.yml": {
        "env_wrapper": [{_WRAPPER: {"noop_max": 0, "frame_skip": 3}}, "other.Wrapper"],
        "frame_stack": 4,
        "normalize": "{'norm_obs': True}",
        "normalize_kwargs": {"norm_obs": True, "norm_reward": False},
    },
    "args.yml": {"env": "PongNoFrameskip-v4", "algo": "dqn"},
    "env_kwargs.yml": {"full_action_space": True, "mode": 2, "repeat_action_probability": 0.25},
    "results.json": {"mean_reward": 20.7, "n_eval_episodes": 10},
    "config.json": {"env": "atari_pong"},
}
_PLACES = (
    *("policy.json", "policy.safetensors", "expert.json", "weights.safetensors", "README.md"),
    *("name.zip", "other.zip", "a.cleanrl_model", "model.safetensors", "a.pth", "deep/b.gz"),
    *("checkpoint_p0/best_1_2.pth", "checkpoint_p0/checkpoint_3_4.pth", "optimizer.pth"),
)


class Container(NamedTuple):
    """Makes a damaged file in a folder, and reads it."""

    make: Callable[[pathlib.Path, random.Random], pathlib.Path]
    read: Callable[[pathlib.Path], object]


def containers(base: pathlib.Path) -> dict[str, Container]:
    """All of them, around good files in the folder `base`, made here."""
    import flax.serialization
    import jax
    import numpy as np
    import safetensors.numpy

    from jaxdistill import disk, settings
    from jaxdistill.experts import formats, hub, state_dicts, torch_file, torch_writer
    from jaxdistill.experts.formats import carried, published, template
    from jaxdistill.experts.student import Role, Student
    from jaxdistill.learn import checkpoints, dataset
    from jaxdistill.play import collection, records, scoring
    from jaxdistill.report import tables
    from jaxdistill.run import distill_settings
    from jaxdistill.tasks.atari import Rules
    from jaxdistill.tasks.views import View

    witness = str(base / "witness")
    # A whole network each, so that what lies beside it is asked too.
    kernels = {"Conv_0": (8, 8, 4, 2), "Conv_1": (4, 4, 2, 2), "Conv_2": (3, 3, 2, 2)}
    kernels |= {"Dense_0": (98, 3), "Dense_1": (3, 4 * 51)}
    layers = {
        name: {"kernel": np.ones(shape, np.float32), "bias": np.ones(shape[-1], np.float32)}
        for name, shape in kernels.items()
    }
    layers["Dense_0"]["bias"] = jax.numpy.ones(3, jax.numpy.bfloat16)
    called = {"env_id": "Breakout-v5", "exp_name": "c51_machado", "seeds": [1, 2]}
    called |= {"n_atoms": 51, "v_min": -10.0, "v_max": 10.0}

    def of_flax(arguments: Any) -> bytes:
        tree = {"model_weights": {"params": layers}, "args": arguments, "step": np.float32(3)}
        return flax.serialization.msgpack_serialize(tree)

    flax_bytes = of_flax(called | {"odd": 1 + 2j})
    named = {f"CNN_0,{name}": kernel for name, kernel in kernels.items() if name != "Dense_1"}
    named |= {f"CNN_0,LayerNorm_{i}": (size,) for i, size in enumerate((2, 2, 2, 3))}
    named |= {"Dense_0": (3, 4), "BatchNorm_0": (4,)}
    flat = {f"{x},bias": np.zeros(shape[-1], np.float32) for x, shape in named.items()}
    for name, shape in named.items():
        kind = "scale" if len(shape) == 1 else "kernel"
        flat[f"{name},{kind}"] = np.ones(shape, np.float32)
    of_pqn = safetensors.numpy.save(flat)
    shapes = {"conv1": (2, 4, 8, 8), "conv2": (2, 2, 4, 4), "conv3": (2, 2, 3, 3)}
    shapes |= {"fc1": (3, 98), "fc2": (18, 3)}
    weights = {f"{name}.weight": np.ones(x, np.float32) for name, x in shapes.items()}
    weights |= {f"{name}.bias": np.ones(x[0], np.float32) for name, x in shapes.items()}
    own = carried.Carried("q", {"breakout": View(resize="linear")}, Rules(noop_max=1)).to_dict()
    carries = {carried.KEY: own, "games": ["Breakout-v5"], "args": called}

    def said(good: Any, rng: random.Random, make: Callable[[Any], bytes]) -> bytes:
        """A file of what is said beside a network, damaged where such a file can be written."""
        try:
            return make(json.loads(damaged_json(json.dumps(good).encode(), rng)))
        except Exception:  # numbers, names or depths that the writer does not know
            return make(good)

    def carrying(beside: Any) -> bytes:
        tree = {"policy_net_state_dict": weights}
        return torch_writer.dumps(tree | beside)

    texts = {path.name: path.read_bytes() for path in GOLDEN.iterdir() if path.is_file()}

    def convert(path: pathlib.Path, spec: pathlib.Path | None = None) -> None:
        formats.convert(path, spec=spec, game="breakout").rows()

    def read_torch(path: pathlib.Path) -> None:
        state_dicts.find(torch_file.read(path).tree)
        for spec in (GOLDEN / "expert_dueling.toml", None):  # which it is of, is seldom known
            try:
                convert(path, spec)
            except (ValueError, OSError) as error:
                if "\n" in str(error) or len(str(error)) >= 2000:
                    raise

    def file(make: Callable[[random.Random], bytes], suffix: str) -> Callable[..., pathlib.Path]:
        def made(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
            (folder / f"file{suffix}").write_bytes(make(rng))
            return folder / f"file{suffix}"

        return made

    def torch_zip(rng: random.Random) -> bytes:
        name = rng.choice(("golden_zip.pth", "golden_module.pth", "expert_dueling.pth"))
        return damaged_zip(texts[name], rng, lambda _, content: damaged(content, rng))

    def program(rng: random.Random) -> bytes:
        opcodes = _Programs(rng, witness).program()
        if rng.random() < 0.1:
            return _files.program(opcodes)
        make = _files.zipped if rng.random() < 0.7 else _files.legacy
        try:
            return make(opcodes, _files.FLOATS)
        except ValueError:
            return _files.program(opcodes)

    def packed(rng: random.Random) -> bytes:
        """A file of PyTorch's in gzip or in a zip, as atari-agents and PFRL have them."""
        name = rng.choice(("golden_zip.pth", "golden_legacy.pth", "expert_dueling.pth", ""))
        content = texts[name] if name else said(carries, rng, carrying)
        content = damaged(content, rng) if rng.random() < (0.5 if name else 0.1) else content
        if rng.random() < 0.5:
            made = gzip.compress(content, 1)
        else:
            members = {"best/model_pt": content, "best/optimizer_pt": content}
            made = _files.archive_of(**members)
        return damaged(made, rng) if rng.random() < 0.7 else made

    def flax_file(rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return said(called, rng, of_flax)
        return damaged(flax_bytes, rng)

    def tensors(rng: random.Random) -> bytes:
        data = rng.choice((texts["golden.safetensors"], of_pqn))
        if rng.random() < 0.4:
            return damaged(data, rng)
        length = int.from_bytes(data[:8], "little")
        header = damaged_json(data[8 : 8 + length], rng)
        size = len(header) if rng.random() < 0.95 else rng.choice((0, 2**40, len(data)))
        return size.to_bytes(8, "little") + header + data[8 + length :]

    def archive(rng: random.Random) -> bytes:
        def inner(path: str, content: bytes) -> bytes:
            if path == "data":
                return damaged_json(content, rng)
            if path == "policy.pth":
                return damaged_zip(content, rng, lambda _, x: damaged(x, rng))
            return damaged(content, rng)

        return damaged_zip(texts["expert_ppo.zip"], rng, inner)

    specs = [*GOLDEN.glob("*.toml"), *(ROOT / "configs" / "experts").glob("*.toml")]

    def spec(rng: random.Random) -> bytes:
        good = GOLDEN / "expert_dueling.toml"
        return damaged_text((good if rng.random() < 0.7 else rng.choice(specs)).read_bytes(), rng)

    def directory(good: pathlib.Path) -> Callable[..., pathlib.Path]:
        def made(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
            copy = folder / "it"
            shutil.copytree(good, copy)
            files = sorted(path for path in copy.rglob("*") if path.is_file())
            named = [path for path in files if path.suffix == ".json"]
            for _ in range(rng.choice((1, 1, 2))):
                path = rng.choice(named if rng.random() < 0.6 and named else files)
                data = path.read_bytes() if path.exists() else b""
                if rng.random() < 0.1:
                    path.unlink(missing_ok=True)
                elif path.suffix == ".json" and data:
                    try:
                        path.write_bytes(damaged_json(data, rng))
                    except (ValueError, RecursionError):  # it was damaged before
                        path.write_bytes(damaged(data, rng))
                else:
                    path.write_bytes(damaged(data, rng))
            return copy

        return made

    draw = np.random.default_rng(0)
    shape = (2, 70, 3)
    log = dataset.Log(
        base / "log",
        {
            "games": ["pong", "breakout"],
            "num_envs": 3,
            "frame_shape": [4, 5],
            "num_actions": 6,
            "seed": 0,
        },
    )
    log.append(
        collection.Chunk(
            frames=draw.integers(0, 256, (*shape, 4, 5)).astype(np.uint8),
            labels=draw.normal(size=(*shape, 6)).astype(np.float32),
            actions=draw.integers(0, 18, shape).astype(np.uint8),
            ages=draw.integers(0, 256, shape).astype(np.uint8),
            usable=draw.random(shape) < 0.5,
        )
    )

    def read_log(path: pathlib.Path) -> None:
        found = dataset.open_log(path)
        for start in range(0, min(found.length, 1024), 256):
            found.read(start, min(found.length, start + 256))
        found.actions(min(found.length, 1024))

    expert = formats.load(GOLDEN / "expert_dueling.pth", spec=GOLDEN / "expert_dueling.toml")
    expert.save(base / "expert")
    role = Role("breakout", expert.view, expert.actions, expert.name)
    card = {"measured": {"games": [{"game": "breakout", "student": {"mean": 3.0}}]}}
    Student("one", expert.network, expert.params, expert.outputs, (role,), expert.rules, card).save(
        base / "student"
    )

    def sketched(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
        """A file that a spec is begun for: recognised, or not."""
        name = rng.choice(("golden_module.pth", "expert_dueling.pth", "expert_ppo.zip"))
        data = damaged_zip(texts[name], rng, lambda _, content: damaged(content, rng))
        (folder / name).write_bytes(data)
        return folder / name

    def words(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
        """What stands beside a file on the hub: damaged JSON, which is YAML too."""
        for name in rng.sample(sorted(_BESIDE), rng.choice((1, 2, len(_BESIDE)))):
            text = damaged_json(json.dumps(_BESIDE[name]).encode(), rng)
            if name == hub.CARD:
                text = b"---\n" + text + b"\n---\nA card.\n"
            (folder / name).write_bytes(damaged(text, rng) if rng.random() < 0.2 else text)
        return folder

    def read_words(folder: pathlib.Path) -> None:
        published.read({path.name: path.read_bytes() for path in folder.iterdir()}, "me/mine")

    def listing(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
        """An address, and the names in its repository."""
        address = "hf://user/name" + rng.choice(("", "", "@main", "@" + "0" * 40))
        address += rng.choice(("", "", "/x", "/" + rng.choice(_PLACES), "/" + rng.choice(_TEXTS)))
        names = [rng.choice(("", "", "x/")) + name for name in rng.sample(_PLACES, 4)]
        for i in range(len(names)):
            if rng.random() < 0.2:
                names[i] = rng.choice((*_TEXTS, "x" * 300)) + names[i]
        if rng.random() < 0.5:
            address = damaged(address.encode(), rng).decode(errors="replace")
        (folder / "listing.json").write_text(json.dumps({"address": address, "names": names}))
        return folder / "listing.json"

    def read_listing(path: pathlib.Path) -> None:
        found = json.loads(path.read_text())
        address = hub.parse(found["address"])
        hub.choose([name for name in found["names"] if hub._inside(name)], address)

    chosen = distill_settings.Settings(
        experts=(distill_settings.ExpertSource(path="pong.pth", game="pong"),)
    )
    played = {"mean": 3.0, "interval": [3.0, 3.0], "episodes": 2, "distinct_starts": 1}
    row = {
        "game": "pong",
        **dict.fromkeys(("random", "expert", "student"), played),
        "retention": 0.5,
        "retention_interval": [0.4, 0.6],
        "shared_starts": 0,
        "human_normalised": None,
    }
    shares = dict.fromkeys(("mean_retention", "geometric_retention", "worst_retention"), 0.5)
    numbers = {"episodes": 2, "epsilon": 0.05, "opening_steps": 0, "best_round": 1, "rounds": 2}
    result = {
        "games": [row],
        **shares,
        **numbers,
        "opening_by": "random",
        "seconds": {"learn": 6.0},
    }
    cut = np.array([False, True])
    scores = scoring.Scores(np.array([1.0, 2.0]), np.array([10, 20]), np.array([1, 2]), cut)
    of = {"player": "someone", "task": "pong"}
    written = {
        "config.json": distill_settings.dataclasses.asdict(chosen),
        "games.json": {"of": of, "games": scores.to_dict()},
        "result.json": result,
    }
    for name, fields in written.items():
        disk.write_json(base / name, fields)

    def run_json(folder: pathlib.Path, rng: random.Random) -> pathlib.Path:
        name = rng.choice(sorted(written))
        (folder / name).write_bytes(damaged_json((base / name).read_bytes(), rng))
        return folder / name

    def read_json(path: pathlib.Path) -> None:
        if path.name == "config.json":
            settings.build(
                distill_settings.Settings, disk.read_json(path, "begin again"), str(path)
            )
        elif path.name == "games.json":
            records._read(path, of)
        else:
            tables.read_result(path)

    state = {"kernel": np.ones((3, 4), np.float32), "step": np.zeros((), np.int32)}
    with checkpoints.Checkpoints(base / "checkpoints") as saved:
        host = {"actions": np.arange(5, dtype=np.uint8)}
        saved.save(
            1, jax.tree.map(jax.numpy.asarray, state), host=host, progress={"a": 1}, value=0.5
        )

    def read_checkpoint(path: pathlib.Path) -> None:
        checkpoints.read_best(path, jax.tree.map(jax.numpy.asarray, state))

    for name in written:  # what is good is read
        read_json(base / name)
    read_log(base / "log")
    read_checkpoint(base / "checkpoints")
    formats.load(base / "expert")
    formats.convert(GOLDEN / "expert_ppo.zip")
    for name, data in (("flax", flax_bytes), ("torch", carrying(carries)), ("pqn", of_pqn)):
        (base / name).write_bytes(data)
        convert(base / name)
    return {
        "torch.save, zip": Container(file(torch_zip, ".pth"), read_torch),
        "torch.save, legacy": Container(
            file(lambda rng: damaged(texts["golden_legacy.pth"], rng), ".pth"), read_torch
        ),
        "gzip and zip of these": Container(file(packed, ".gz"), read_torch),
        "flax msgpack": Container(file(flax_file, ".msgpack"), read_torch),
        "pickle grammar": Container(file(program, ".pth"), read_torch),
        "safetensors": Container(file(tensors, ".safetensors"), read_torch),
        "SB3 zip": Container(file(archive, ".zip"), formats.convert),
        "TOML spec": Container(
            file(spec, ".toml"), lambda path: convert(GOLDEN / "expert_dueling.pth", path)
        ),
        "dataset": Container(directory(base / "log"), read_log),
        "spec begun for a file": Container(sketched, template.write),
        "files of a hub": Container(words, read_words),
        "addresses of a hub": Container(listing, read_listing),
        "expert directory": Container(directory(base / "expert"), formats.load),
        "student directory": Container(directory(base / "student"), Student.load),
        "JSON of a run": Container(run_json, read_json),
        "checkpoint": Container(directory(base / "checkpoints"), read_checkpoint),
    }


def plan(number: int, shares: dict[str, int]) -> list[tuple[str, int]]:
    """Which file of which container each is, so many or a few more; all kinds come early."""
    whole = sum(shares.values())
    counts = {name: -(-number * share // whole) for name, share in shares.items()}
    order = [
        (index / count, name, index) for name, count in counts.items() for index in range(count)
    ]
    return [(name, index) for _, name, index in sorted(order)]


SHARES = {
    "torch.save, zip": 15,
    "torch.save, legacy": 10,
    "gzip and zip of these": 10,
    "flax msgpack": 10,
    "pickle grammar": 30,
    "safetensors": 10,
    "SB3 zip": 10,
    "TOML spec": 10,
    "spec begun for a file": 5,
    "files of a hub": 10,
    "addresses of a hub": 5,
    "dataset": 5,
    "expert directory": 5,
    "student directory": 5,
    "JSON of a run": 4,
    "checkpoint": 1,
}

# --- the child


class _Hang(BaseException):
    pass


class _Watch:
    """Notes what is run, imported or written while a file is read."""

    def __init__(self) -> None:
        self.on, self.seen = False, ""
        self.strict = True  # False where a library evaluates annotations or opens an event loop
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags_ = args
            reads = not isinstance(mode, str) or not set(mode) & set("wax+")
            if reads and not (flags_ or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
            self.seen = self.seen or f"open {path!r} {mode!r}"
        elif event == "import":
            self.seen = self.seen or f"import {args[0]}"
        elif event.startswith(_RUNS) or (self.strict and event.startswith(_RUNS_OR_OWN)):
            self.seen = self.seen or f"{event} {args!r}"[:200]


_RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "pty.")
_RUNS += (
    "subprocess.",
    "shutil.",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "socket.connect",
)
_RUNS += ("ctypes.dlopen", "pickle.find_class", "marshal.", "ftplib.", "urllib.")
_RUNS_OR_OWN = ("exec", "compile", "socket.")


def _tell_without_source(error: Any) -> None:
    """Says in one line what ended a thread or was raised while garbage was collected.

    Python's own way shows the line of source and parses it to mark a part of it, which an audit
    hook hears as "compile": a library's event loop, closed a file earlier, would count as code
    that a file had made run.
    """
    print(f"ignored: {error.exc_type.__name__}: {error.exc_value}", file=sys.stderr)


def _outcome(read: Callable[[Any], Any], path: Any, watch: _Watch) -> tuple[str, str]:
    def hang(*_: object) -> None:
        raise _Hang

    signal.signal(signal.SIGPROF, hang)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    watch.seen, watch.on = "", True
    try:
        read(path)
        kind, message = "read", ""
    except (ValueError, OSError) as error:
        message = str(error)
        kind = "wrong" if "\n" in message or not 0 < len(message) < 2000 else "refused"
        whose = type(error).__module__.partition(".")[0]  # other libraries' say no file, or more
        if kind == "wrong" or whose not in ("builtins", "json", "jaxdistill"):
            kind, message = "wrong", f"{type(error).__name__}: {message}"
        if any(word in message for word in ("MemoryError", "Cannot allocate", "bad_alloc")):
            kind = "memory"
    except _Hang:
        kind, message = "hang", f"over {SECONDS} seconds"
    except MemoryError as error:
        kind, message = "memory", f"MemoryError: {error}"
    except BaseException as error:
        kind, message = "wrong", "".join(traceback.format_exception(error))[-3000:]
    finally:
        watch.on = False
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ("ran", watch.seen) if watch.seen else (kind, message)


def _memory(field: str) -> int:
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024


def child(start: int) -> None:
    """Makes and reads files from `start` on, one line of JSON for each, until one fails."""
    warnings.simplefilter("ignore")
    logging.set_verbosity(logging.FATAL)
    base = pathlib.Path(tempfile.mkdtemp(prefix="fuzz-"))
    try:
        known = containers(base)
        _warm_up(known, base)
        watch = _Watch()
        sys.unraisablehook = threading.excepthook = _tell_without_source
        limit = _memory("VmSize") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = _memory("VmRSS")
        for number, (name, index) in enumerate(plan(_NUMBER.value, SHARES)):
            if number < start:
                continue
            folder = base / "now"
            folder.mkdir()
            path = known[name].make(folder, random.Random(f"{_SEED.value}:{name}:{index}"))
            print(json.dumps({"begins": number, "path": str(folder)}), flush=True)
            begun = time.process_time()
            watch.strict = name not in ("JSON of a run", "checkpoint")
            kind, message = _outcome(known[name].read, path, watch)
            seconds = time.process_time() - begun
            if (base / "witness").exists() or "fuzz_canary" in sys.modules:
                kind, message = "ran", "a command or an import named in the file"
            if _memory("VmHWM") > before + MEMORY:
                kind, message = "memory", f"{_memory('VmHWM')} bytes"
            bad = kind not in ("read", "refused")
            if bad and _KEEP.value:
                _keep(folder, name, index, message)
            shutil.rmtree(folder)
            line = {"ends": number, "kind": kind, "message": message, "seconds": seconds}
            print(json.dumps(line), flush=True)
            if bad:
                return
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _warm_up(known: dict[str, Container], base: pathlib.Path) -> None:
    """Good files and bad ones first, so that nothing has to be imported later."""
    import encodings.cp437
    import encodings.raw_unicode_escape
    import encodings.unicode_escape
    import encodings.utf_16_be  # JSON may be in any of these
    import encodings.utf_16_le
    import encodings.utf_32_be
    import encodings.utf_32_le
    import grp
    import pwd

    assert encodings and grp and pwd
    for name, container in known.items():
        for index in range(12):
            folder = base / "warm"
            folder.mkdir()
            path = container.make(folder, random.Random(f"warm up {name} {index}"))
            with contextlib.suppress(Exception):
                container.read(path)
            shutil.rmtree(folder)


def _keep(folder: pathlib.Path, name: str, index: int, message: str) -> None:
    kept = pathlib.Path(_KEEP.value) / f"{name} {index}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept)
    (kept / "message.txt").write_text(message + "\n")


# --- the parent


def _lines(process: subprocess.Popen[bytes], patience: float) -> Iterator[dict[str, Any]]:
    """What a child says, until it ends or says nothing for so many seconds."""
    assert process.stdout
    buffer = b""
    while select.select([process.stdout], [], [], patience)[0]:
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            return
        *whole, buffer = (buffer + data).split(b"\n")
        yield from (json.loads(line) for line in whole)


def main(_: list[str]) -> None:
    if _START.value is not None:
        return child(_START.value)
    if _AGAIN.value:
        return _again(*_AGAIN.value.rsplit(":", 1))
    todo = plan(_NUMBER.value, SHARES)
    counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in SHARES}
    slowest = dict.fromkeys(SHARES, 0.0)
    if _KEEP.value:
        pathlib.Path(_KEEP.value).mkdir(parents=True, exist_ok=True)
    number = 0
    while number < len(todo):
        command = [sys.executable, __file__, f"--start={number}", f"--files={_NUMBER.value}"]
        command += [f"--seed={_SEED.value}"] + ([f"--keep={_KEEP.value}"] if _KEEP.value else [])
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
        said = tempfile.TemporaryFile()  # noqa: SIM115, shown only where the child ends early
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, env=environment)
        began, before = None, number
        for line in _lines(process, patience=20 * SECONDS):
            if "begins" in line:
                began = line["begins"]
                continue
            name, index = todo[line["ends"]]
            counts[name][line["kind"]] += 1
            slowest[name] = max(slowest[name], line["seconds"])
            if line["kind"] not in ("read", "refused"):
                print(f"{name}:{index} {line['kind']}: {line['message']}", file=sys.stderr)
            number, began = line["ends"] + 1, None
        process.kill()
        process.wait()
        if began is not None:  # it was killed by what it read, or reads it still
            name, index = todo[began]
            kind = "hang" if process.returncode == -signal.SIGKILL else "wrong"
            counts[name][kind] += 1
            print(f"{name}:{index} {kind}: ended with {process.returncode}", file=sys.stderr)
            number = began + 1
        elif number == before:
            said.seek(0)
            sys.exit(f"the child process read nothing: {said.read()[-3000:].decode()}")
        said.close()
    sys.exit(_print(counts, slowest))


def _print(counts: dict[str, collections.Counter[str]], slowest: dict[str, float]) -> int:
    columns = ("read", "refused", "wrong", "hang", "memory", "ran")
    heads = ("container", "files", "read", "refused in one line", "wrong exceptions", "hangs")
    heads += ("over memory", "something ran", "slowest, s")
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    rows = [(name, *(count[x] for x in columns)) for name, count in counts.items()]
    rows.append(("all", *(sum(row[i] for row in rows) for i in range(1, len(columns) + 1))))
    slowest = slowest | {"all": max(slowest.values())}
    for name, *numbers in rows:
        cells = [f"{sum(numbers):,}", *(f"{x:,}" for x in numbers), f"{slowest[name]:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |")
    return int(any(sum(count[x] for x in columns[2:]) for count in counts.values()))


def _again(name: str, index: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = pathlib.Path(folder)
        container = containers(base)[name]
        (base / "now").mkdir()
        path = container.make(base / "now", random.Random(f"{_SEED.value}:{name}:{index}"))
        container.read(path)
        print("read")


if __name__ == "__main__":
    app.run(main)
