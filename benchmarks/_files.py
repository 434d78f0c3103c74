"""Weight files made by hand, without PyTorch or Flax; some ask for far more than they are."""

import gzip
import io
import json
import math
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterable

import numpy as np

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEVEL = 1  # of compression: 100 MB of zeros become half a megabyte, in half the time

# --- pickles by hand


def plain(value) -> bytes:
    """Opcodes that push a plain value (a pickle without its header and its end)."""
    return pickle.dumps(value, protocol=2)[2:-1]


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *args: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(args) + b"tR"


def tensor(
    *,
    kind="FloatStorage",
    key="0",
    location="cpu",
    numel=4,
    offset=0,
    size=(4,),
    stride=(1,),
    metadata=None,
) -> bytes:
    storage = b"(" + plain("storage") + name("torch", kind)
    storage += plain(key) + plain(location) + plain(numel) + b"tQ"
    extra = [] if metadata is None else [plain(metadata)]
    return call(
        "torch._utils",
        "_rebuild_tensor_v2",
        storage,
        *map(plain, (offset, size, stride, False)),
        call("collections", "OrderedDict"),
        *extra,
    )


def dictionary(**items: bytes) -> bytes:
    return b"}(" + b"".join(plain(key) + value for key, value in items.items()) + b"u"


def program(opcodes: bytes) -> bytes:
    return b"\x80\x02" + opcodes + b"."


def zipped(
    opcodes: bytes, storages=None, *, folder="archive/", method=zipfile.ZIP_STORED, **records
) -> bytes:
    """A file in the zip format whose pickle is these opcodes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=_LEVEL) as archive:
        archive.writestr(f"{folder}data.pkl", program(opcodes))
        for key, data in (storages or {}).items():
            archive.writestr(f"{folder}data/{key}", data)
        for key, data in records.items():
            archive.writestr(folder + key, data)
    return file.getvalue()


def legacy(opcodes: bytes, storages=None, itemsize=4) -> bytes:
    """The same in the older format."""
    storages = storages or {}
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [pickle.dumps(LEGACY_MAGIC, 2), pickle.dumps(1001, 2), pickle.dumps(info, 2)]
    parts += [program(opcodes), pickle.dumps(sorted(storages), 2)]
    for key in sorted(storages):
        parts.append(struct.pack("<q", len(storages[key]) // itemsize) + storages[key])
    return b"".join(parts)


# --- msgpack by hand


def extension(kind: int, data: bytes) -> bytes:
    """An extension of msgpack, as Flax writes arrays."""
    return b"\xc9" + struct.pack(">Ib", len(data), kind) + data


def flax_array(shape: tuple[int, ...], dtype: str, data: bytes, kind: int = 1) -> bytes:
    sizes = b"\xdc" + struct.pack(">H", len(shape))
    sizes += b"".join(b"\xcf" + struct.pack(">Q", size) for size in shape)
    named = b"\xd9" + bytes([len(dtype)]) + dtype.encode()
    return extension(kind, b"\x93" + sizes + named + b"\xc6" + struct.pack(">I", len(data)) + data)


def flax_map(**items: bytes) -> bytes:
    """A map of msgpack; what begins the file is one of these."""
    made = b"".join(b"\xd9" + bytes([len(key)]) + key.encode() + x for key, x in items.items())
    return b"\xdf" + struct.pack(">I", len(items)) + made


def flax_list(items: bytes, count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count) + items


# --- attacks


def put(index: int) -> bytes:
    return b"r" + struct.pack("<I", 10_000 + index)  # `plain` uses the low ones


def get(index: int) -> bytes:
    return b"j" + struct.pack("<I", 10_000 + index)


def many(opcodes: bytes, count: int) -> bytes:
    """A list of as many."""
    return b"](" + opcodes * count + b"e"


def entries(keys: Iterable[bytes]) -> bytes:
    """A dictionary of these keys, which is never made here: it could take long."""
    return b"}(" + b"".join(key + b"N" for key in keys) + b"u"


FLOATS = {"0": np.arange(4, dtype=np.float32).tobytes()}


def _shared_dictionaries(depth: int) -> bytes:
    opcodes = dictionary(w=tensor()) + put(0)
    for level in range(depth):
        below = get(level)
        opcodes += b"0" + dictionary(a=below, b=below) + put(level + 1)
    return opcodes


def _colliding_tuples(count: int) -> bytes:
    # -1 and -2 have the same hash, so have all tuples of them.
    keys = [tuple(-1 - (i >> bit & 1) for bit in range(16)) for i in range(count)]
    return entries(map(plain, keys))


def _colliding_attributes(keys: int, objects: int) -> bytes:
    # Complex numbers of one hash; each object has a dictionary of them behind another one.
    number = name("builtins", "complex") + put(5) + b"0"
    pairs = ((plain(-1000003.0 * i), plain(float(i))) for i in range(keys))
    many_keys = b"".join(get(5) + real + imaginary + b"\x86RN" for real, imaginary in pairs)
    state = dictionary(a=b"N") + b"}(" + many_keys + b"u" + b"\x86" + put(0) + b"0"
    of_one_class = name("my.agent", "Thing") + put(1) + b"0"
    made = many(get(1) + b")\x81" + get(0) + b"b", objects)
    return number + state + of_one_class + dictionary(w=tensor(), x=made)


def _attributes_again(keys: int, objects: int, parts: int = 0) -> bytes:
    shared = entries(plain(i) for i in range(keys)) + put(0) + b"0"
    state = (b"(" + get(0) * parts + b"t" if parts else get(0)) + put(1) + b"0"
    of_one_class = name("my.agent", "Thing") + put(2) + b"0"
    made = many(get(2) + b")\x81" + get(1) + b"b", objects)
    return shared + state + of_one_class + dictionary(w=tensor(), x=made)


def _long_keys_of_bytes(dictionaries: int) -> bytes:
    keys = (b"B" + struct.pack("<I", 1000) + bytes([i]) + bytes(999) for i in range(128))
    named = b"".join(key + b"q" + bytes([100 + i]) + b"0" for i, key in enumerate(keys))
    entries = b"".join(b"h" + bytes([100 + i]) + get(0) for i in range(128))
    return tensor() + put(0) + b"0" + named + many(b"}(" + entries + b"u", dictionaries)


def _long_keys_again(count: int) -> bytes:
    keys = [plain((i % 100,) * 300 + (i,)) + put(i) + b"0" for i in range(200)]
    entries = b"".join(get(i) + b"N" for i in range(200))
    return b"".join(keys) + many(b"}(" + entries + b"u", count)


def _nested_names(levels: int, width: int, leaf: bytes, part: str = "module." * 142) -> bytes:
    key = plain(part)
    inner = b"}(" + b"".join(plain(str(i)) + leaf for i in range(width)) + b"u"
    return (b"}" + key) * levels + inner + b"s" * levels


def _array_of(shape, code: str, data: bytes) -> bytes:
    dtype = call("numpy", "dtype", plain(code), plain(False), plain(True))
    return call("numpy.core.numeric", "_frombuffer", plain(data), dtype, plain(shape), plain("C"))


def _places(count: int) -> bytes:
    return tensor() + put(0) + b"0" + many(b"}" + plain("w") + get(0) + b"s", count)


def _safetensors(shapes) -> bytes:
    tensors = {
        str(i): {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}
        for i, shape in enumerate(shapes)
    }
    header = json.dumps(tensors, separators=(",", ":")).encode()
    return struct.pack("<Q", len(header)) + header


def _weights(**shapes: tuple[int, ...]) -> bytes:
    """A state_dict of one storage, "0", that all tensors are views of; "__" is a dot."""
    numel = max(math.prod(shape) for shape in shapes.values())

    def view(shape: tuple[int, ...]) -> bytes:
        stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
        return tensor(numel=numel, size=shape, stride=stride)

    return dictionary(**{key.replace("__", "."): view(shape) for key, shape in shapes.items()})


def _carried(**beside: bytes) -> bytes:
    """A file as ours are exported, with what is carried beside the weights."""
    text = plain("x" * 100_000) + put(0) + b"0" + many(get(0), 60_000) + put(1) + b"0"
    seen = dictionary(**{"height": get(1), **beside})
    played = many(dictionary(game=b"N", view=seen), 1)
    return text + dictionary(w=tensor(), jaxdistill=dictionary(outputs=plain("q"), plays=played))


def archive_of(*, method=zipfile.ZIP_DEFLATED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method, compresslevel=_LEVEL) as archive:
        for path, data in members.items():
            archive.writestr(path.replace("_pt", ".pt"), data)
    return file.getvalue()


PTH: dict[str, Callable[[], bytes]] = {
    "stride 0, zip": lambda: zipped(tensor(size=(2**30,), stride=(0,)), FLOATS),
    "stride 0, legacy": lambda: legacy(tensor(size=(2**30,), stride=(0,)), FLOATS),
    "strides 0 and 1": lambda: zipped(tensor(size=(2**28, 4), stride=(0, 1)), FLOATS),
    "many views": lambda: zipped(
        many(tensor(numel=2**18, size=(2**18,)), 5_000), {"0": bytes(2**20)}
    ),
    "shared dictionaries": lambda: zipped(_shared_dictionaries(40), FLOATS),
    "shared lists": lambda: zipped(
        plain(dict(enumerate(range(20_000)))) + put(0) + b"0" + many(get(0), 20_000)
    ),
    "copies of a list": lambda: zipped(
        plain(list(range(20_000)))
        + put(0)
        + b"0"
        + many(name("builtins", "list") + get(0) + b"\x85R", 5_000)
    ),
    "sets of a long key": lambda: zipped(
        plain((0,) * 300)
        + put(0)
        + b"0"
        + many(get(0), 3_000)
        + put(1)
        + many(name("builtins", "set") + get(1) + b"\x85R", 3_000)
    ),
    "colliding tuples": lambda: zipped(_colliding_tuples(30_000)),
    "colliding integers": lambda: zipped(entries(plain(i * (2**61 - 1)) for i in range(1, 30_000))),
    "colliding complex numbers": lambda: zipped(
        entries(
            call("builtins", "complex", plain(-1000003.0 * i), plain(float(i)))
            for i in range(8_000)
        )
    ),
    "colliding attributes again and again": lambda: zipped(
        _colliding_attributes(8_000, 250), FLOATS
    ),
    "attributes that are no names": lambda: zipped(
        _attributes_again(40_000, 30_000), FLOATS, method=zipfile.ZIP_DEFLATED
    ),
    "slots again and again": lambda: zipped(
        _attributes_again(40_000, 1, 1_000_000), FLOATS, method=zipfile.ZIP_DEFLATED
    ),
    "long keys of bytes": lambda: zipped(
        _long_keys_of_bytes(2_000), FLOATS, method=zipfile.ZIP_DEFLATED
    ),
    "millions of texts": lambda: zipped(
        dictionary(w=tensor(), x=many(b"\x8c\x04\xf0\x9f\x98\x80", 4_900_000)),
        FLOATS,
        method=zipfile.ZIP_DEFLATED,
    ),
    "long keys again and again": lambda: zipped(_long_keys_again(300)),
    "a million sets": lambda: zipped(b"(" + b"\x8f" * 1_000_000 + b"l"),
    "a million dictionaries": lambda: zipped(b"(" + b"}" * 1_000_000 + b"l"),
    "a million marks": lambda: zipped(b"(" * 1_000_000 + b"N"),
    "a million memos": lambda: zipped(b"N" + b"\x94" * 1_000_000),
    "nesting": lambda: zipped(b"]" * 300_000 + b"a" * 20),
    "nested calls": lambda: zipped(
        (name("torch._tensor", "_rebuild_from_type_v2") + put(0) + b"0" + b")" + put(1) + b"0")
        + (b"(" + get(0) + b"N" + get(1) + b"Nt" + put(1) + b"0") * 30_000
        + (get(0) + get(1) + b"R")
    ),
    "long names": lambda: zipped(_nested_names(140, 20_000, b"N")),
    "long names of tensors": lambda: zipped(
        tensor() + put(0) + b"0" + _nested_names(140, 2_000, get(0)), FLOATS
    ),
    "many names in many places": lambda: zipped(
        tensor() + put(0) + b"0" + _nested_names(7, 20_000, get(0), "a"), FLOATS
    ),
    "long names of objects": lambda: zipped(
        _nested_names(140, 20_000, name("my.agent", "Thing") + b")\x81")
    ),
    "prefixes": lambda: zipped(_nested_names(8, 50, tensor()), FLOATS),
    "arrays of nothing": lambda: zipped(_array_of((2**40,), "U0", b"")),
    "arrays of one buffer": lambda: zipped(
        (plain(bytes(2**20)) + put(0) + b"0")
        + (call("numpy", "dtype", *map(plain, ("u1", False, True))) + put(1) + b"0")
        + many(
            call("numpy.core.numeric", "_frombuffer", get(0), get(1), plain((2**20,)), plain("C")),
            5_000,
        )
    ),
    "a height of many long texts": lambda: zipped(_carried(), FLOATS),
    "many tasks of many outputs": lambda: zipped(
        dictionary(
            q_network=_weights(
                task_embedding__weight=(60_000, 1),
                fc1__weight=(4, 9),
                fc1__bias=(4,),
                fc2__weight=(4, 4),
                fc2__bias=(4,),
                fc3__weight=(60_000, 4),
                fc3__bias=(60_000,),
            )
        ),
        {"0": bytes(4 * 240_000)},
        method=zipfile.ZIP_DEFLATED,
    ),
    "many places": lambda: zipped(_places(15_000), FLOATS),
    "too many places": lambda: zipped(_places(100_000), FLOATS),
    "digits": lambda: zipped(b"L" + b"9" * 1_000_000 + b"L\n"),
    "zip bomb": lambda: zipped(tensor(), {"0": bytes(100 * 2**20)}, method=zipfile.ZIP_DEFLATED),
    "bzip2 bomb": lambda: zipped(tensor(), {"0": bytes(2**20)}, method=zipfile.ZIP_BZIP2),
    "bomb in a bomb": lambda: archive_of(
        policy_pth=zipped(tensor(), {"0": bytes(60 * 2**20)}, method=zipfile.ZIP_DEFLATED),
        data=b"[" * 10_000_000,
    ),
    "data of lists": lambda: archive_of(
        policy_pth=zipped(dictionary(w=tensor()), FLOATS), data=b'{"a":[' + b"[]," * 10**6 + b"0]}"
    ),
    "data of many more lists": lambda: archive_of(
        policy_pth=zipped(dictionary(w=tensor()), FLOATS),
        data=b'{"a":[' + b"[]," * (2 * 10**7) + b"0]}",
    ),
    "data of one long text": lambda: archive_of(  # 4 bytes a character, for its last
        policy_pth=zipped(dictionary(w=tensor()), FLOATS),
        data=b'{"a":"' + b"x" * (6 * 10**7) + "\N{GRINNING FACE}".encode() + b'"}',
    ),
    "gzip bomb": lambda: gzip.compress(bytes(100 * 2**20), _LEVEL),
    "gzip bomb of many parts": lambda: gzip.compress(bytes(2**20)) * 100,
    "gzip of many nothings": lambda: gzip.compress(b"") * 50_000,
    "gzip of a zip bomb": lambda: gzip.compress(
        zipped(tensor(), {"0": bytes(100 * 2**20)}, method=zipfile.ZIP_DEFLATED)
    ),
    "zip of a zip bomb": lambda: archive_of(
        model_pt=zipped(tensor(), {"0": bytes(100 * 2**20)}, method=zipfile.ZIP_DEFLATED)
    ),
    "zip of a gzip bomb": lambda: archive_of(model_pt=gzip.compress(bytes(100 * 2**20), _LEVEL)),
    "zip of a large model": lambda: archive_of(model_pt=bytes(100 * 2**20)),
    "msgpack list that says it is huge": lambda: flax_map(a=flax_list(b"", 2**32 - 1)),
    "msgpack array that says it is huge": lambda: flax_map(a=flax_array((2**40,), "float32", b"")),
    "msgpack bytes that say they are huge": lambda: b"\x81\xa1a\xc6\xff\xff\xff\xff",
    "msgpack nesting": lambda: b"\x81\xa1a" + b"\x91" * 1_000_000 + b"\xc0",
    "msgpack of a million maps": lambda: flax_map(a=flax_list(b"\x80" * 1_000_000, 1_000_000)),
    "msgpack of a million values": lambda: flax_map(a=flax_list(b"\xc0" * 1_000_000, 1_000_000)),
    "msgpack of many arrays": lambda: flax_map(
        a=flax_list(flax_array((0,) * 64, "float32", b"") * 5_000, 5_000)
    ),
    "msgpack of chunks": lambda: flax_map(
        __msgpack_chunked_array__=b"\xc3",
        shape=flax_map(**{"0": b"\xcf" + struct.pack(">Q", 2**40)}),
        chunks=flax_map(**{"0": flax_array((1,), "float32", bytes(4))}),
    ),
    "pickle of arrays of one buffer": lambda: program(
        (plain(bytes(2**20)) + put(0) + b"0")
        + (call("numpy", "dtype", *map(plain, ("u1", False, True))) + put(1) + b"0")
        + many(
            call("numpy.core.numeric", "_frombuffer", get(0), get(1), plain((2**20,)), plain("C")),
            5_000,
        )
    ),
    "safetensors of many dimensions": lambda: _safetensors([[0] * 200_000]),
    "safetensors of many tensors": lambda: _safetensors([[0]] * 20_000),
}
"""What a path named `*.pth` may hold, by what is done."""

_LAYERS = """
outputs = "q"
activation = "relu"
[[layers]]
type = "dense"
key = "fc"
[head]
type = "linear"
action = "head"
"""

SPECS: dict[str, Callable[[], bytes]] = {
    "dotted keys": lambda: b"a" + b".a" * 100_000 + b" = 1",
    "dotted keys within bounds": lambda: b"game" + b".a" * 8_000 + b" = 1",
    "nesting": lambda: b"a = " + b"[" * 8_000,
    "digits": lambda: b"advertised_score = 0x" + b"f" * 8_000,
    "huge stride": lambda: b'[[layers]]\ntype="conv"\nkey="a"\nstride=0x' + b"f" * 8_000,
    "not a number": lambda: b"advertised_score = nan\n" + _LAYERS.encode(),
}
"""What a TOML spec may hold."""


def write(folder: pathlib.Path) -> list[tuple[pathlib.Path, pathlib.Path | None]]:
    """Writes them all; pairs of a checkpoint and its spec."""
    pairs: list[tuple[pathlib.Path, pathlib.Path | None]] = []
    for title, make in PTH.items():
        path = folder / f"{title}.pth"
        path.write_bytes(make())
        pairs.append((path, None))
    plain_file = folder / "plain.pth"
    plain_file.write_bytes(zipped(dictionary(w=tensor()), FLOATS))
    for title, make in SPECS.items():
        path = folder / f"{title}.toml"
        path.write_bytes(make())
        pairs.append((plain_file, path))
    return pairs
