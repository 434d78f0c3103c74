"""Small files that ask for much: each is refused in little time and memory, in one line.

They are read one after another in a child process that may not have more memory than a limit.
"""

import json
import pathlib
import subprocess
import sys

import pytest

from benchmarks import _files

MEMORY = 512 * 2**20
SECONDS = 5.0

READER = f"""
import json, pathlib, resource, sys, time
from jaxdistill.experts import formats

(size,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmSize")]
limit = int(size) * 1024 + {MEMORY}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path, spec in json.load(sys.stdin):
    begun = time.process_time()
    try:
        formats.convert(path, spec=spec, game="pong")
        message = None
    except (ValueError, OSError) as error:
        message = str(error)
    except BaseException as error:
        message = f"wrong exception\\n{{error!r}}"
    print(json.dumps([message, time.process_time() - begun]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """By name: what the child process said of each file, and the seconds it took."""
    pairs = _files.write(tmp_path_factory.mktemp("hostile"))
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
    names = [(spec or path).stem for path, spec in pairs]
    assert child.returncode == 0 and len(lines) == len(names), (len(lines), child.stderr[-2000:])
    return dict(zip(names, lines, strict=True))


@pytest.mark.parametrize("title", [*_files.PTH, *_files.SPECS])
def test_small_files_stay_small(outcomes, title):
    message, seconds = outcomes[title]
    assert message is not None and "\n" not in message and len(message) < 1000, message
    assert "MemoryError" not in message and "Cannot allocate" not in message, message
    assert seconds < SECONDS
