"""The wheel as its users have it: in an empty environment, outside of the checkout.

    python tests/installed.py

Builds it, installs it with all that it asks for, and does what docs/tutorial.md tells a newcomer
to, to the letter. Not a test of pytest's: it takes an environment of its own and a package index.
"""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import venv

import hub_server

ROOT = pathlib.Path(__file__).resolve().parents[1]


def run(*command: object, where: pathlib.Path, code: int = 0) -> str:
    """What a command prints; ends this program if it exits otherwise than with `code`."""
    arguments = [str(x) for x in command]
    home = {"XDG_CACHE_HOME": str(where / "cache")}  # no games of another version
    done = subprocess.run(
        arguments, cwd=where, text=True, capture_output=True, env=os.environ | home
    )
    if done.returncode != code:
        sys.exit(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jaxdistill-installed-") as name:
        where = pathlib.Path(name)
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "wheel", "--no-deps", "--wheel-dir", where, ROOT, where=where)
        (wheel,) = where.glob("*.whl")
        venv.create(where / "venv")  # without a pip: this Python's installs into it
        binaries = where / "venv" / "bin"
        run(*pip, "--python", where / "venv", "install", f"{wheel}[hub]", where=where)

        flags = run(binaries / "python", ROOT / "tests" / "quick_xla.py", where=where)
        os.environ.setdefault("XLA_FLAGS", flags.strip())
        program = binaries / "jaxdistill"
        outside = where / "outside"
        outside.mkdir()
        origin = run(
            *(binaries / "python", "-c", "import jaxdistill; print(jaxdistill.__file__)"),
            where=outside,
        )
        assert str(where) in origin, origin  # not the checkout's
        listed = run(program, where=outside)
        for path in sorted((ROOT / "launch").glob("[!_]*.py")):
            assert path.read_text().split('"""')[1].splitlines()[0] in listed, path
        refused = run(program, "distil", where=outside, code=2)
        assert refused.splitlines() == [
            "error: jaxdistill has no program 'distil'; did you mean distill?"
        ]

        server = hub_server.Hub()
        os.environ.update(HF_ENDPOINT=server.endpoint, HF_TOKEN=hub_server.TOKEN)
        os.environ.update(HF_HUB_DISABLE_XET="1", HF_HOME=str(where / "hub"), NO_PROXY="127.0.0.1")
        told = {}
        for line in tutorial("sh").splitlines():
            command, *flags = shlex.split(line)
            assert command == "jaxdistill", line
            told[flags[0]] = run(program, *flags, where=outside)
        assert told["doctor"].count("works") == 4 and "fails" not in told["doctor"], told["doctor"]
        assert "saved in my_pong" in told["convert"]
        assert "report in run/report.html" in told["distill"]
        (row, _) = json.loads((outside / "run" / "result.json").read_text())["games"]
        assert row["game"] == "pong" and row["student"]["episodes"] == 2
        page = (outside / "run" / "report.html").read_text()
        assert "jaxdistill distill --config=tiny:" in page
        assert "pong" in told["evaluate"] and "freeway" in told["evaluate"]
        assert (outside / "pong_student.pth").stat().st_size > 100_000
        assert "pushed; read it as hf://me/two-games@" in told["push"]
        assert (outside / "again.gif").stat().st_size > 1000
        server.close()
        said = run(binaries / "python", "-c", tutorial("python"), where=outside)
        assert said.split() == ["('pong',", "'freeway')"], said
    print("the wheel installs and works")


def tutorial(language: str) -> str:
    """All blocks of a language in the tutorial."""
    text = (ROOT / "docs" / "tutorial.md").read_text()
    return "".join(re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S))


if __name__ == "__main__":
    main()
