"""The short form of `benchmarks/fuzz.py`: a few hundred damaged files of every kind."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]


def test_damaged_files_are_read_or_refused_with_one_line(tmp_path):
    command = [
        sys.executable,
        "benchmarks/fuzz.py",
        "--files=400",
        "--seed=1",
        f"--keep={tmp_path}",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    table = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in done.stdout.splitlines()
    ]
    assert table[0][4:8] == ["wrong exceptions", "hangs", "over memory", "something ran"]
    name, files, read, refused, *failures, _ = table[-1]
    assert (name, failures) == ("all", ["0", "0", "0", "0"])
    assert int(read) > 40 and int(refused) > 250 and int(files) == int(read) + int(refused) >= 400
    assert not list(tmp_path.iterdir())
