"""Small files that ask for much: each is refused in little time and memory, in one line.

They are read one after another in a child process that may not have more memory than a limit.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from benchmarks import _files

MEMORY = 512 * 2**20
SECONDS = 5.0

READER = f"""
import json, pathlib, resource, sys, time
from jaxdistill.experts import formats
from jaxdistill.experts.formats import template

(size,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize")]
limit = int(size) * 1024 + {MEMORY}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path, spec in json.load(sys.stdin):
    begun = time.process_time()
    try:
        if spec == "template":
            message = template.write(path, game="pong").partition("\\n")[0]
        else:
            formats.convert(path, spec=spec, game="pong")
            message = None
    except (ValueError, OSError) as error:
        message = str(error)
    except BaseException as error:
        message = f"wrong exception\\n{{error!r}}"
    print(json.dumps([message, time.process_time() - begun]), flush=True)
"""


def _read(pairs):
    """What the child process said of files with their specs, and the seconds each took."""
    listed = json.dumps([[str(path), spec and str(spec)] for path, spec in pairs])
    child = subprocess.run(
        [sys.executable, "-c", READER],
        input=listed,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=pathlib.Path(__file__).parents[2],
    )
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0 and len(lines) == len(pairs), (len(lines), child.stderr[-2000:])
    return lines


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """By name: what the child process said of each file, and the seconds it took."""
    pairs = _files.write(tmp_path_factory.mktemp("hostile"))
    return dict(zip([(spec or path).stem for path, spec in pairs], _read(pairs), strict=True))


@pytest.mark.parametrize("title", [*_files.PTH, *_files.SPECS])
def test_small_files_stay_small(outcomes, title):
    message, seconds = outcomes[title]
    assert message is not None and "\n" not in message and len(message) < 1000, message
    assert "MemoryError" not in message and "Cannot allocate" not in message, message
    assert seconds < SECONDS


_CELL = {"weight_ih": (3, 1), "weight_hh": (3, 1), "bias_ih": (3,), "bias_hh": (3,)}
_NORMALISED = {"weight": (1, 1), "running_mean": (1,)}
MANY = {
    "layers": {f"{i}.weight": (1, 1) for i in range(15_000)},
    "values and actions": {
        f"{stream}.{i}.weight": (1, 1) for stream in ("value", "pi") for i in range(7_000)
    },
    "normalised": {f"{i}.{x}": _NORMALISED[x] for i in range(7_000) for x in _NORMALISED},
    "cells": {f"{i}.{x}": _CELL[x] for i in range(4_000) for x in _CELL} | {"out.weight": (2, 1)},
    "convolutions": {f"{i}.weight": (1, 1, 3, 3) for i in range(7_000)} | {"out.weight": (2, 9)},
}
"""Tensors of files of about a megabyte, by what they hold many of."""


def test_a_spec_is_begun_for_a_file_of_many_layers(tmp_path):
    paths = [tmp_path / f"{title}.pth" for title in MANY]
    for path, shapes in zip(paths, MANY.values(), strict=True):
        tensors = {name: np.full(x, i, np.float32) for i, (name, x) in enumerate(shapes.items())}
        path.write_bytes(safetensors.numpy.save(tensors))
    outcomes = _read([(path, "template") for path in paths])
    for path, (message, seconds) in zip(paths, outcomes, strict=True):
        assert message == f"# Guessed from names, shapes and the order of {path.name}: check them."
        assert seconds < SECONDS, path.name
