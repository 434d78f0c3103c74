"""Follows the program of a pickle, without running anything.

A pickle is a small program: read the usual way it may call any function of any module. Here it is
never handed to Python's unpickler, and nothing named in a file is ever imported, called, or given
an attribute. This module keeps that:

- `pickletools` splits a pickle into opcodes with decoded arguments, and does no more. What each
  opcode does is written out in `interpret`; one that is not there is refused. Its only values are
  containers, scalars and those of `tensors`, which are data.
- A name in a file becomes a `Global`, which is text (`_global`). It is looked up nowhere but in the
  tables of calls, whose functions stand here, and only `_construct` calls what it finds there. What
  is in none of them becomes an inert `Opaque`.
- Attributes are set in `_set_state` alone, which names each, and only of `Opaque`, `Dtype` and
  `Array`. An array is never made of a dtype that holds Python's objects (`Dtype.resolve`).

Beyond that, a file that names something like ``os.system`` is refused, because it was not made to
hold weights. What a few bytes may ask for many times over is paid for (see `limits`).
"""

from __future__ import annotations

import dataclasses
import pickletools
import sys
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import numpy as np

from jaxdistill.experts.limits import (
    AGAIN,
    CONTAINER_BYTES,
    ITEM_BYTES,
    MARK_BYTES,
    MAX_KEY_LENGTH,
    MAX_OPERATIONS,
    MEMO_BYTES,
    SET_BYTES,
    Allowance,
    Unreadable,
)
from jaxdistill.experts.tensors import (
    TORCH_DTYPES,
    Array,
    Dtype,
    Global,
    Opaque,
    Storage,
    Tensor,
    as_bytes,
    is_count,
    is_shape,
)

MAX_PICKLE_BYTES = 64 * 2**20
"""Most bytes of pickle; tensors live outside it, so real ones are far smaller."""


class _NotRebuilt(Exception):
    """A tensor of a kind NumPy has no equal for: it becomes an `Opaque`."""


# --- names in a file: refused, understood, or left opaque


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Their presence says that the file was made to do something. Nothing would happen, since names
# are never looked up; but its weights are not to be trusted either.
_REFUSED_MODULES = _words(
    "_pickle _posixsubprocess _socket _thread asyncio bdb cProfile code codeop commands ctypes "
    "doctest ftplib http importlib linecache marshal nt os pdb pickle pip platform popen2 posix "
    "profile pty pydoc requests runpy shutil signal site smtplib socket ssl subprocess sys "
    "tempfile timeit trace urllib urllib2 venv webbrowser winreg zipimport"
)
_REFUSED_NAMES = _words(
    "builtins.__import__ builtins.apply builtins.breakpoint builtins.compile builtins.delattr "
    "builtins.eval builtins.exec builtins.execfile builtins.file builtins.getattr "
    "builtins.globals builtins.input builtins.locals builtins.open builtins.reload "
    "builtins.setattr builtins.vars io.FileIO io.open io.open_code _io.FileIO _io.open "
    "_io.open_code operator.attrgetter operator.methodcaller _operator.attrgetter "
    "_operator.methodcaller types.CodeType types.FunctionType types.LambdaType types.MethodType "
    "numpy.load torch.load torch.serialization.load"
)
_REFUSED_PREFIXES = (
    "numpy.f2py.",
    "numpy.testing.",
    "torch.hub.",
    "torch.utils.cpp_extension.",
    "torch.utils.collect_env.",
)

_PYTHON_2_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}


def _global(module: Any, name: Any) -> Global:
    """A name, refused if no weights would need it.

    Raises:
      Unreadable: for names that run, open or reach something.
    """
    if not all(isinstance(part, str) and len(part) <= MAX_KEY_LENGTH for part in (module, name)):
        raise Unreadable(f"names something by what is not a name; {AGAIN}")
    full = f"{_PYTHON_2_MODULES.get(module, module)}.{name}"
    # "torch" with "serialization.os.system" would reach os as well.
    reached = {full.split(".")[0], *name.split(".")[:-1]}
    if reached & _REFUSED_MODULES or full in _REFUSED_NAMES or full.startswith(_REFUSED_PREFIXES):
        raise Unreadable(
            f"wants to call {full}: this file is not only weights; refusing to read it"
        )
    if full == "torch.storage._load_from_bytes":
        raise Unreadable(
            "its tensors were written by pickle, not by torch.save; "
            "load it in PyTorch and write it with torch.save(state_dict, path)"
        )
    return Global(full)


def _construct(callee: Any, args: Any, budget: Allowance) -> Any:
    """What calling `callee` gives, from our own table, or an `Opaque`; never a real call."""
    if not isinstance(args, tuple):
        raise Unreadable(f"calls something with arguments that are not a tuple; {AGAIN}")
    if not isinstance(callee, Global):
        budget.spend(SET_BYTES)
        made_by = callee.name if isinstance(callee, Opaque) else type(callee).__name__
        return Opaque(f"{made_by.removesuffix('()')}()", args)
    if callee.name not in KNOWN_CALLS:
        budget.spend(SET_BYTES)
        return Opaque(callee.name, args)
    # One long argument may be named in many calls, and each call copies it.
    for arg in args:
        if isinstance(arg, _SIZED):
            budget.spend(len(arg) * (2 if isinstance(arg, _BYTES) else ITEM_BYTES))
    budget.spend(SET_BYTES)
    if callee.name in _NESTED_CALLS:
        inner, args = _NESTED_CALLS[callee.name](*args)
        return _construct(inner, args, budget)
    try:
        if callee.name in _KEYED_CALLS:
            return _KEYED_CALLS[callee.name](budget, *args)
        return _CALLS[callee.name](*args)
    except _NotRebuilt:
        return Opaque(callee.name, args)


_BYTES = (str, bytes, bytearray)
_SIZED = (*_BYTES, list, tuple, dict, set, frozenset)


def _rebuild_tensor(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any = False,
    hooks: Any = None,
    metadata: Any = None,
) -> Tensor:
    return _tensor(storage, offset, size, stride, getattr(storage, "dtype", None), metadata)


def _rebuild_tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    if dtype.name not in TORCH_DTYPES:
        raise _NotRebuilt
    return _tensor(storage, offset, size, stride, TORCH_DTYPES[dtype.name], metadata)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any, metadata: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise Unreadable(f"has a tensor without a storage; {AGAIN}")
    if not (is_shape(size) and is_shape(stride) and len(size) == len(stride) and is_count(offset)):
        raise Unreadable(f"has a tensor whose size, stride or offset cannot be; {AGAIN}")
    flags = metadata if isinstance(metadata, dict) else {}
    conjugate, negative = flags.get("conj") is True, flags.get("neg") is True
    return Tensor(storage, offset, tuple(size), tuple(stride), dtype, conjugate, negative)


def _from_numpy(data: Any, dtype: Any, device: Any, requires_grad: Any) -> Array:
    if not isinstance(data, Array) or dtype.name not in TORCH_DTYPES:
        raise _NotRebuilt
    return dataclasses.replace(data, cast=TORCH_DTYPES[dtype.name])


def _numpy_scalar(dtype: Any, data: Any = b"") -> Any:
    resolved = dtype.resolve("?biufc") if isinstance(dtype, Dtype) else None
    if resolved is None:
        raise _NotRebuilt
    return np.frombuffer(as_bytes(data), resolved, count=1)[0]


def _numpy_from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    # Since NumPy 2.3 of an array whose axes were put in another order: "K", and that order.
    if axes is not None and not (is_shape(axes) and sorted(axes) == [*range(len(shape))]):
        raise Unreadable(f"has a NumPy array whose axes have no such order; {AGAIN}")
    return Array(tuple(shape), dtype, order == "F", data, None if axes is None else tuple(axes))


def _jax_array(_function: Any, _args: Any, state: Any, _aval: Any = None) -> Array:
    """JAX pickles an array as what NumPy would do to make it again."""
    array = Array()
    _set_state(array, state)
    return array


def _numpy_dtype(code: Any, align: Any = False, copy: Any = True) -> Dtype:
    if not isinstance(code, str):
        raise _NotRebuilt
    return Dtype(code)


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise _NotRebuilt
    return text.encode("latin-1")


def _bytearray(data: Any = b"", encoding: str = "latin-1") -> bytearray:
    return bytearray(as_bytes(data))


def _mapping(budget: Allowance, pairs: Any = ()) -> dict[Any, Any]:
    mapping: dict[Any, Any] = {}
    for key, value in pairs.items() if isinstance(pairs, dict) else pairs:
        mapping[_key(key, mapping, budget)] = value
    return mapping


def _default_mapping(budget: Allowance, factory: Any = None, pairs: Any = ()) -> dict[Any, Any]:
    return _mapping(budget, pairs)


def _set(budget: Allowance, items: Any = ()) -> set[Any]:
    made: set[Any] = set()
    for item in items:
        made.add(_key(item, made, budget))
    return made


def _sequence(items: Any = (), maxlen: Any = None) -> list[Any]:
    return list(items)


def _device(kind: Any, index: Any = None) -> str:
    if not isinstance(kind, str) or not (index is None or isinstance(index, int)):
        raise _NotRebuilt
    return kind if index is None else f"{kind}:{index}"


_CALLS: dict[str, Callable[..., Any]] = {
    "collections.deque": _sequence,
    "builtins.list": _sequence,
    "builtins.tuple": lambda items=(): tuple(items),
    "builtins.bytes": lambda data=b"": as_bytes(data),
    "builtins.bytearray": _bytearray,
    "builtins.complex": lambda real=0.0, imag=0.0: complex(float(real), float(imag)),
    "_codecs.encode": _encode,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "numpy.core.multiarray._reconstruct": lambda *_: Array(),
    "numpy._core.multiarray._reconstruct": lambda *_: Array(),
    "numpy.core.numeric._frombuffer": _numpy_from_buffer,
    "numpy._core.numeric._frombuffer": _numpy_from_buffer,
    "jax._src.array._reconstruct_array": _jax_array,
    "jax._src.device_array.reconstruct_device_array": _jax_array,
    "jax.interpreters.xla.reconstruct_device_array": _jax_array,
    "torch.Size": lambda items=(): tuple(items),
    "torch.device": _device,
    "torch.serialization._get_layout": lambda name: name,
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.nn.parameter.Parameter": lambda data, *_: data,
    "torch.autograd.variable.Variable": lambda data, *_: data,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": lambda data, *_: data,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
    "torch._utils._rebuild_xla_tensor": _from_numpy,
}

# Those that hash what they are given, which is paid for.
_KEYED_CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "collections.defaultdict": _default_mapping,
    "builtins.dict": _mapping,
    "flax.core.frozen_dict.FrozenDict": _mapping,
    "builtins.set": _set,
    "builtins.frozenset": lambda budget, items=(): frozenset(_set(budget, items)),
}

# Calls of calls: each gives the name that is meant and its arguments.
_NESTED_CALLS: dict[str, Callable[..., tuple[Any, Any]]] = {
    "torch._tensor._rebuild_from_type": lambda function, _class, args, _state: (function, args),
    "torch._tensor._rebuild_from_type_v2": lambda function, _class, args, _state: (function, args),
    "torch.tensor._rebuild_from_type": lambda function, _class, args, _state: (function, args),
    "copyreg._reconstructor": lambda cls, _base, _state: (cls, ()),
}
KNOWN_CALLS = _CALLS.keys() | _KEYED_CALLS.keys() | _NESTED_CALLS.keys()


# --- the interpreter


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_LITERALS = _words(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING "
    "UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8"
)
_EMPTY: dict[str, tuple[Callable[[], Any], int]] = {
    "EMPTY_LIST": (list, CONTAINER_BYTES),
    "EMPTY_TUPLE": (tuple, 0),
    "EMPTY_DICT": (dict, CONTAINER_BYTES),
    "EMPTY_SET": (set, SET_BYTES),
}
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def interpret(
    stream: BinaryIO,
    storage: Callable[[Any], Any],
    budget: Allowance,
    max_bytes: int | None = None,
) -> Any:
    """Follows one pickle to its end and leaves `stream` just after it.

    `pickletools` splits the pickle into opcodes with decoded arguments; what each does to the
    stack is written out here, so that no opcode can reach Python's own objects. (The interpreter's
    unpickler would set attributes on whatever it is told to, size its memo table by an index in
    the file, and hash tuples nested deeper than the C stack.)

    Args:
      stream: the bytes of the pickle, and perhaps more.
      storage: gives the value for a persistent id.
      budget: what objects and copies may take.
      max_bytes: how long it may be, MAX_PICKLE_BYTES if nothing is said.

    Returns:
      Containers and scalars, with `Tensor`, `Array`, `Global`, `Opaque`... among them.
    """
    stack: list[Any] = []
    marked: list[list[Any]] = []
    memo: dict[int, Any] = {}
    start = stream.tell()
    most = MAX_PICKLE_BYTES if max_bytes is None else max_bytes
    operations: Iterable[tuple[Any, Any, Any]] = pickletools.genops(stream)
    for count, (opcode, arg, position) in enumerate(operations):
        if count >= MAX_OPERATIONS or position - start > most:
            raise Unreadable(
                f"its pickle is over {MAX_OPERATIONS} operations or {most} bytes long; "
                "save only the state_dict"
            )
        match opcode.name:
            case name if name in _LITERALS:
                budget.spend(ITEM_BYTES + sys.getsizeof(arg))
                stack.append(arg)
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                budget.spend(MEMO_BYTES)
                memo[arg] = stack[-1]
            case "MEMOIZE":
                budget.spend(MEMO_BYTES)
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[arg])
            case "MARK":
                budget.spend(MARK_BYTES)
                marked.append(stack)
                stack = []
            case name if name in _TUPLE_LENGTHS:
                length = _TUPLE_LENGTHS[name]
                budget.spend(CONTAINER_BYTES)
                stack[-length:] = [tuple(_last(stack, length))]
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET":
                items, stack = stack, marked.pop()
                budget.spend(CONTAINER_BYTES)
                stack.append(_gather(opcode.name, items, budget))
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case name if name in _EMPTY:
                make, cost = _EMPTY[name]
                budget.spend(cost)
                stack.append(make())
            case "SETITEMS":
                items, stack = stack, marked.pop()
                _set_items(stack[-1], items, budget)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value], budget)
            case "APPENDS" | "ADDITEMS":
                items, stack = stack, marked.pop()
                _append(stack[-1], items, budget)
            case "APPEND":
                item = stack.pop()
                _append(stack[-1], [item], budget)
            case "GLOBAL":
                stack.append(_global(*arg.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_global(module, name))
            case "REDUCE" | "NEWOBJ":
                args, callee = stack.pop(), stack.pop()
                stack.append(_construct(callee, args, budget))
            case "NEWOBJ_EX":
                keywords, args, callee = stack.pop(), stack.pop(), stack.pop()
                stack.append(_construct(callee, (*args, keywords) if keywords else args, budget))
            case "INST":
                items, stack = stack, marked.pop()
                stack.append(_construct(_global(*arg.split(" ", 1)), tuple(items), budget))
            case "OBJ":
                items, stack = stack, marked.pop()
                stack.append(_construct(items[0], tuple(items[1:]), budget))
            case "BUILD":
                state = stack.pop()
                _set_state(stack[-1], state)
            case "BINPERSID":
                stack.append(storage(stack.pop()))
            case "POP":
                # A mark with nothing on it is what is popped then.
                if stack:
                    stack.pop()
                else:
                    stack = marked.pop()
            case "POP_MARK":
                stack = marked.pop()
            case "DUP":
                stack.append(stack[-1])
            case "PROTO" | "FRAME" | "STOP":
                pass
            case other:
                raise Unreadable(f"its pickle uses {other}, which torch.save never does; {AGAIN}")
    return stack.pop()


def _last(stack: list[Any], length: int) -> list[Any]:
    if len(stack) < length:
        raise Unreadable(f"its pickle takes more than it put there; {AGAIN}")
    return stack[-length:]


def _gather(kind: str, items: list[Any], budget: Allowance) -> Any:
    if kind == "TUPLE":
        return tuple(items)
    if kind == "LIST":
        return items
    if kind == "FROZENSET":
        return frozenset(_set(budget, items))
    mapping: dict[Any, Any] = {}
    _set_items(mapping, items, budget)
    return mapping


def _key(key: Any, among: dict[Any, Any] | set[Any], budget: Allowance) -> Any:
    """The key, refused if it cannot be one or would be costly to hash, to compare or to print.

    Python's hashes of text are salted, so that nobody can make many that collide. Its hashes of
    anything else are not, and finding a place for one may mean looking at all that are there: what
    that could take is paid for.
    """
    if isinstance(key, (str, bytes)):
        if len(key) > MAX_KEY_LENGTH:
            raise Unreadable(f"has a dictionary key longer than {MAX_KEY_LENGTH}; {AGAIN}")
        budget.spend(ITEM_BYTES)
        return key
    pending = [key]
    seen = 0
    while pending and seen <= MAX_KEY_LENGTH:
        item = pending.pop()
        seen += len(item) if isinstance(item, _SIZED) else 1
        if isinstance(item, int):
            seen += item.bit_length() // 8
        elif isinstance(item, tuple):
            pending.extend(item)
        elif isinstance(item, (list, dict, set, bytearray)):
            raise Unreadable(f"has a {type(item).__name__} as a dictionary key; {AGAIN}")
    if seen > MAX_KEY_LENGTH:
        raise Unreadable(f"has a dictionary key longer than {MAX_KEY_LENGTH}; {AGAIN}")
    # Numbers below 2^61 are their own hashes; as many of those as there are places differ in them.
    plain = isinstance(key, int) and key.bit_length() <= 60
    collisions = len(among) // 64 if plain else seen * len(among) // 2  # and once more, as a copy
    budget.spend(ITEM_BYTES * (1 + seen) + collisions)
    return key


def _set_items(target: Any, items: list[Any], budget: Allowance) -> None:
    if len(items) % 2:
        raise Unreadable(f"has a dictionary key without a value; {AGAIN}")
    mapping = target.mapping if isinstance(target, Opaque) else target
    if not isinstance(mapping, dict):
        raise Unreadable(f"stores by key in a {type(target).__name__}; {AGAIN}")
    for key, value in zip(items[::2], items[1::2], strict=True):
        mapping[_key(key, mapping, budget)] = value


def _append(target: Any, items: list[Any], budget: Allowance) -> None:
    sequence = target.items if isinstance(target, Opaque) else target
    if isinstance(sequence, set):
        for item in items:
            sequence.add(_key(item, sequence, budget))
    elif isinstance(sequence, list):
        sequence.extend(items)
    else:
        raise Unreadable(f"appends to a {type(target).__name__}; {AGAIN}")


def _set_state(target: Any, state: Any) -> None:
    """What BUILD does, for the few kinds it means something for; others keep no attributes."""
    if isinstance(target, Opaque):
        target.state = state
    elif isinstance(target, Dtype):
        target.order = state[1]
    elif isinstance(target, Array):
        target.shape, target.dtype, target.fortran, target.data = state[-4:]
