"""The program as a person meets it: what it prints, its exit code, and what it leaves on disk."""

import json
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import quick_program

from jaxdistill.experts import export, formats

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
DUELING = (f"--source={GOLDEN / 'expert_dueling.pth'}", f"--spec={GOLDEN / 'expert_dueling.toml'}")


def convert_quickly(*flags: str) -> subprocess.CompletedProcess:
    """With emulators that are made in a tenth of the time."""
    return subprocess.run(
        quick_program.command("convert.py", *flags),
        capture_output=True,
        text=True,
        timeout=300,
        env=quick_program.environment(),
    )


def convert(*flags: str, through: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.run(
        [*through, sys.executable, str(ROOT / "launch" / "convert.py"), *flags],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
    )


@pytest.fixture
def refused(program):
    """`refused(*flags, expected=words)`: exit code 2 and one line on stderr that says this."""

    def check(*flags: str, expected: str) -> None:
        code, out, err = program("convert", *flags)
        assert (code, out) == (2, ""), err
        (line,) = err.splitlines()
        assert line.startswith("error: ") and expected in line

    return check


def test_prints_what_it_recognised_and_plays(tmp_path):
    out = tmp_path / "expert"
    # With epsilon 1 every game ends soon.
    flags = ("--episodes=2", "--epsilon=1", f"--out={out}")
    done = convert_quickly(*DUELING, *flags)
    assert done.returncode == 0, done.stderr
    for words in (
        "spec ",
        "torso.2",
        "3x3 / 2, padding 1",
        "elu",
        "2,487 parameters",
        "advertised",
    ):
        assert words in done.stdout
    row = next(line for line in done.stdout.splitlines() if line.strip().startswith("breakout "))
    assert "1.5" in row
    _, warning = " ".join(done.stdout.split()).split("warning: ")
    assert "better than random play (1.3): what it sees" in warning  # as the package has measured
    assert json.loads((out / "expert.json").read_text())["game"] == "breakout"
    assert formats.load(out).network.head == "dueling"


def test_an_expert_plays_in_its_own_view_and_game(tmp_path):
    text = (GOLDEN / "expert_dueling.toml").read_text()
    (tmp_path / "crop.toml").write_text(text.replace("[view]", "[view]\ncrop = [8, 196]"))
    spec = f"--spec={tmp_path / 'crop.toml'}"
    flags = ("--episodes=2", "--epsilon=1", "--rules=fire_after_life=true")
    done = convert_quickly(DUELING[0], spec, f"--out={tmp_path / 'expert'}", *flags)
    assert done.returncode == 0, done.stderr
    assert any(line.strip().startswith("breakout ") for line in done.stdout.splitlines())
    expert = formats.load(tmp_path / "expert")
    assert expert.view.crop == (8, 196) and expert.rules.fire_after_life


class Canary:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def os_system(path, canary):
    path.write_bytes(pickle.dumps({"policy_net_state_dict": Canary(canary)}, 2))
    return "system"


def truncated(path, _):
    path.write_bytes((GOLDEN / "expert_dueling.pth").read_bytes()[:5000])
    return "damaged"


def empty(path, _):
    path.write_bytes(b"")
    return "is empty"


def a_directory(path, _):
    path.mkdir()
    return "expert.json"


def missing(path, _):
    return "no such file"


def zip_bomb(path, _):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100 * 2**20))
    return path.name


def _reference():
    shapes = {"conv1": (2, 4, 8, 8), "conv2": (2, 2, 4, 4), "conv3": (2, 2, 3, 3)}
    shapes |= {"fc1": (5, 98), "fc2": (18, 5)}
    tensors = {f"{key}.weight": np.ones(shape, np.float32) for key, shape in shapes.items()}
    return tensors | {f"{k}.bias": np.ones(shape[:1], np.float32) for k, shape in shapes.items()}


def wrong_shapes(path, _):
    export.save({**_reference(), "fc1.weight": np.ones((5, 96), np.float32)}, path)
    return "fc1.weight has shape (5, 96)"


def missing_keys(path, _):
    export.save({key: x for key, x in _reference().items() if key != "conv2.bias"}, path)
    return "lacks conv2.bias"


def no_game(path, _):
    export.save(_reference(), path)
    return "--game"


BAD = [
    os_system,
    truncated,
    empty,
    a_directory,
    missing,
    zip_bomb,
    wrong_shapes,
    missing_keys,
    no_game,
]


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_bad_file_is_one_line_and_exit_code_2(refused, make, tmp_path):
    source, canary, out = (tmp_path / name for name in ("bad.pth", "canary", "out"))
    expected = make(source, canary)
    refused(f"--source={source}", f"--out={out}", "--episodes=1", expected=expected)
    assert not out.exists() and not canary.exists()


def test_a_bad_file_ends_a_process_with_exit_code_2(tmp_path):
    source, canary, out = (tmp_path / name for name in ("bad.pth", "canary", "out"))
    expected = os_system(source, canary)
    done = convert(f"--source={source}", f"--out={out}", "--episodes=1")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    begun, line = done.stderr.splitlines()
    assert begun.startswith("convert: source ")
    assert line.startswith("error: ") and expected in line
    assert not out.exists() and not canary.exists()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--episode=2",), "episode"),
        (("--episodes=-1",), "episodes"),
        (("--game=pnog",), "unknown task 'pnog'"),
        (("file.pth",), "file.pth"),
    ],
)
def test_a_bad_flag_is_one_line_and_exit_code_2(refused, flags, expected, tmp_path):
    refused(*DUELING, f"--out={tmp_path / 'out'}", *flags, expected=expected)
    assert not (tmp_path / "out").exists()


def test_an_expert_is_not_overwritten(refused, tmp_path):
    (tmp_path / "notes.txt").write_text("precious")
    refused(*DUELING, f"--out={tmp_path}", expected="already exists and is not empty")
    assert os.listdir(tmp_path) == ["notes.txt"]


def test_a_template_that_does_not_fit_on_the_disk_is_not_begun(tmp_path):
    flags = (DUELING[0], f"--spec_template={tmp_path / 'new.toml'}")
    # Of any file no byte can be written.
    done = convert(*flags, through=("bash", "-c", 'ulimit -f 0; exec "$@"', "limited"))
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].endswith("new.toml cannot be written (File too large)")
    assert os.listdir(tmp_path) == []
    done = convert(*flags)
    assert done.returncode == 0, done.stderr
    assert os.listdir(tmp_path) == ["new.toml"]


def test_a_template_is_refused_before_its_source_is_read(refused, tmp_path):
    flags = (f"--source={tmp_path}/none.pth", f"--spec_template={tmp_path}/none/new.toml")
    refused(*flags, expected="there is no folder")
