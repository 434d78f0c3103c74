"""Finds the state_dicts in a tree of plain values: mappings from names to arrays, however nested.

A few nodes that refer to each other may stand for a tree without end, so what is looked at, and the
characters of its names, are paid for (see `limits`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxdistill.experts import limits
from jaxdistill.experts.limits import Allowance
from jaxdistill.experts.tensors import Opaque, key_name

MAX_NAME_LENGTH = 10_000
MAX_PLACES = 20_000
MAX_NAME_CHARACTERS = 20_000_000


def find(tree: Any) -> dict[str, dict[str, np.ndarray]]:
    """Every mapping from names to arrays in a tree, by its dotted path ('' for the tree itself).

    Where arrays are all that is found in a mapping and in the mappings inside it, those are
    flattened into it, names joined by dots, and are listed on their own as well; otherwise only
    the arrays it holds itself are listed. A module that was saved whole counts as the state_dict
    it would have given.
    A 'module.' or '_orig_mod.' that begins every name of a mapping is removed.

    Raises:
      ValueError: the tree repeats itself so often that listing it would not end, or has names
        that are longer than any parameter's.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    names = Allowance(
        MAX_NAME_CHARACTERS + limits.FACTOR * _extent(tree),
        "refers to the same dictionaries too many times",
    )
    _collect(tree, "", (), found, names)
    return found


def _collect(
    node: Any,
    path: str,
    above: tuple[int, ...],
    found: dict[str, dict[str, np.ndarray]],
    names: Allowance,
) -> tuple[dict[str, np.ndarray], bool]:
    """Adds what is found at and below a node; gives its arrays by name, and if they are all of it.

    `above` holds the ids of the nodes this one is inside, since a tree may contain itself.
    """
    if id(node) in above or not isinstance(node, _NODES):
        return {}, False
    names.spend(_NODE_CHARACTERS + _length(path))
    above = (*above, id(node))
    if isinstance(node, (list, tuple)):
        names.spend(_ENTRY_CHARACTERS * len(node))
        for index, item in enumerate(node):
            if isinstance(item, _NODES):
                _collect(item, _join(path, index), above, found, names)
        return {}, False
    arrays: dict[str, np.ndarray] = {}
    if len(found) > MAX_PLACES:
        raise ValueError(f"holds over {MAX_PLACES} dictionaries of tensors; save only the weights")
    found.setdefault(path, arrays)  # before those inside it
    pure = isinstance(node, dict)
    if isinstance(node, Opaque):
        attributes = _attributes(node, names)
        if "_parameters" in attributes:
            _module_arrays(node, "", above[:-1], arrays, names)
            _keep(found, path, arrays)
            return arrays, True
        for item in (node.items, node.args):
            _collect(item, path, above, found, names)
        own = [(key, x) for key, x in attributes.items() if key not in node.mapping]
        node = node.mapping
    else:
        own = []
    names.spend(_ENTRY_CHARACTERS * len(node))
    nested: dict[str, np.ndarray] = {}
    for key, value in itertools.chain(own, node.items()):
        if isinstance(value, np.ndarray):
            name = key_name(key)
            if name is not key:  # a text of its own
                names.spend(_length(name))
            arrays[name] = value
        elif not isinstance(value, _NODES):
            pure = False
        else:
            below, only = _collect(value, _join(path, key), above, found, names)
            pure = pure and only
            for name, array in below.items():
                name = f"{key_name(key)}.{name}"
                names.spend(_length(name))
                nested[name] = array
    if pure:
        arrays.update(nested)
    _keep(found, path, arrays)
    return arrays, pure


def _keep(
    found: dict[str, dict[str, np.ndarray]], path: str, arrays: dict[str, np.ndarray]
) -> None:
    if found[path] is not arrays:  # a name with dots in it spells the same path
        return
    if arrays:
        found[path] = _without_prefix(arrays)
    else:
        del found[path]


def _module_arrays(
    module: Any,
    prefix: str,
    above: tuple[int, ...],
    arrays: dict[str, np.ndarray],
    names: Allowance,
) -> None:
    """What `state_dict()` of a module saved whole would have held."""
    if id(module) in above or not isinstance(module, Opaque):
        return
    names.spend(_NODE_CHARACTERS + _length(prefix))
    attributes = _attributes(module, names)
    transient = attributes.get("_non_persistent_buffers_set")
    for kind in ("_parameters", "_buffers"):
        names.spend(_ENTRY_CHARACTERS * len(_dict(attributes.get(kind))))
        for key, value in _dict(attributes.get(kind)).items():
            dropped = kind == "_buffers" and isinstance(transient, set) and key in transient
            if isinstance(value, np.ndarray) and not dropped:
                name = prefix + key_name(key)
                names.spend(_length(name))
                arrays[name] = value
    for key, child in _dict(attributes.get("_modules")).items():
        _module_arrays(child, f"{prefix}{key_name(key)}.", (*above, id(module)), arrays, names)


def _attributes(opaque: Opaque, names: Allowance) -> dict[str, Any]:
    """The attributes an object was to have; its state may be those, or those and its slots.

    Attributes have texts as names, whose hashes nobody can choose: a dictionary of anything else,
    which may take long to fill, is not copied.
    """
    parts = opaque.state if isinstance(opaque.state, tuple) else (opaque.state,)
    merged: dict[str, Any] = {}
    for part in parts:
        entries = _dict(part)
        names.spend(_ENTRY_CHARACTERS * (1 + len(entries)))  # of those too that are left out
        merged.update((key, x) for key, x in entries.items() if isinstance(key, str))
    return merged


def _dict(value: Any) -> dict[Any, Any]:
    """The value as a dict; a subclass of dict was left opaque, its entries in `mapping`."""
    if isinstance(value, Opaque):
        return value.mapping
    return value if isinstance(value, dict) else {}


def _without_prefix(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    start = 0
    while True:
        for prefix in ("module.", "_orig_mod."):
            if all(name.startswith(prefix, start) for name in arrays):
                start += len(prefix)
                break
        else:
            return {name[start:]: array for name, array in arrays.items()}


def _length(name: str) -> int:
    """The name's length and one; refused where no parameter's is so long."""
    if len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"has names of over {MAX_NAME_LENGTH} characters; save only the state_dict"
        )
    return len(name) + 1


_NODES = (dict, list, tuple, Opaque)

# What is looked at costs as much as a name of so many characters: a container, and each entry.
_NODE_CHARACTERS = 64
_ENTRY_CHARACTERS = 8


def _extent(tree: Any) -> int:
    """How many containers, and entries of them, a tree is made of; each counted once."""
    pending, seen, entries = [tree], set(), 0
    while pending:
        node = pending.pop()
        if isinstance(node, Opaque):
            parts: Iterable[Any] = (node.args, node.state, node.mapping, node.items)
        elif isinstance(node, dict):
            parts = node.values()
        elif isinstance(node, (list, tuple)):
            parts = node
        else:
            continue
        if id(node) not in seen:
            seen.add(id(node))
            entries += 1 + len(parts)  # type: ignore[arg-type]
            pending.extend(parts)
    return entries


def _join(path: str, key: Any) -> str:
    return f"{path}.{key_name(key)}" if path else key_name(key)
