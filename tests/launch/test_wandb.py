"""What --wandb shows elsewhere, kept on this machine."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"
PROGRAM = """
import dataclasses, sys
sys.path.insert(0, sys.argv[2])
from absl import flags
import _wandb
from jaxdistill import metrics
@dataclasses.dataclass(frozen=True)
class Settings:
    rounds: int = 3
flags.FLAGS(["program", *sys.argv[3:]])
_wandb.show(Settings())
for directory in sys.argv[1].split(","):
    for begun in (None, 1):  # killed after step 1, and gone on with
        with metrics.Writer(directory, begun) as writer:
            writer.write(begun or 0, {"loss": 0.5})
            writer.write((begun or 0) + 1, {"loss": 0.25, "score/pong": float("nan")})
"""


def shown(directories, *flags, **variables):
    command = [sys.executable, "-c", PROGRAM, str(directories), str(LAUNCH), *flags]
    environment = os.environ | {"WANDB_MODE": "offline"} | variables
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_what_is_logged_is_shown_as_one_run_that_goes_on(tmp_path):
    """Of each of two directories, as independent networks have."""
    pytest.importorskip("wandb")
    directories = [tmp_path / name for name in ("windy", "heavy")]
    done = shown(",".join(map(str, directories)), "--wandb=project")
    assert done.returncode == 0, done.stderr
    names = [json.loads((x / "wandb.json").read_text())["id"] for x in directories]
    assert names[0] != names[1]
    for name, directory in zip(names, directories, strict=True):
        runs = [*(directory / "wandb").glob("offline-run-*/*.wandb")]
        assert runs and all(path.stem == f"run-{name}" for path in runs)
        kept = b"".join(path.read_bytes() for path in runs)
        assert b"loss" in kept and b"0.25" in kept and b"rounds" in kept
        assert b"score/pong" not in kept, "it is not finite"


def test_it_is_asked_for(tmp_path):
    assert shown(tmp_path).returncode == 0
    assert not (tmp_path / "wandb").exists()


def test_who_is_not_logged_in_is_told_before_anything_is_logged(tmp_path):
    pytest.importorskip("wandb")
    nobody = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(tmp_path)}
    done = shown(tmp_path / "run", "--wandb=project", **nobody)
    assert done.returncode == 1 and not (tmp_path / "run").exists()
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: --wandb=project: ") and "wandb login" in last
    assert last.endswith("; see to it, or set WANDB_MODE=offline")


def test_what_it_refuses_when_a_run_begins_is_one_line(tmp_path):
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb" / "__init__.py").write_text(
        "from types import SimpleNamespace as S\n"
        "errors = S(Error=type('Error', (Exception,), {}))\n"
        "Settings = dict\n"
        "def finish():\n    pass\n"
        "def init(**_):\n    raise errors.Error('no such\\nproject.')\n"
    )
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    done = shown(tmp_path / "run", "--wandb=project", PYTHONPATH=path)
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: --wandb=project: no such project; see to it, or set")
    (tmp_path / "run" / "wandb.json").write_text('{"id": 3}')
    done = shown(tmp_path / "run", "--wandb=project", PYTHONPATH=path)
    last = done.stderr.splitlines()[-1]
    assert re.match(r"ValueError: .*run/wandb\.json is damaged \(no id\); remove it, and", last)


def test_where_it_is_missing_a_line_says_what_to_install(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ImportError('no wandb here')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); sys.argv = ['program'] + {[]!r}\n"
    code += PROGRAM.replace("sys.argv[2]", repr(str(LAUNCH))).replace(
        "*sys.argv[3:]", "'--wandb=project'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: --wandb needs Weights & Biases (no wandb here): pip install" in done.stderr
