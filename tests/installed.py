"""The wheel as its users have it: in an empty environment, outside of the checkout.

    python tests/installed.py

Builds it, installs it with all that it asks for, and goes from an expert's file to an exported
student. Not a test of pytest's: it takes an environment of its own and a package index.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parents[1]
TINY = (
    "--config.collect.num_envs=4",
    "--config.collect.initial_steps=64",
    "--config.collect.steps_per_round=32",
    "--config.collect.window_steps=128",
    "--config.learn.rounds=2",
    "--config.learn.updates_per_round=2",
    "--config.learn.batch_per_game=16",
    "--config.evaluate.every_rounds=2",
    "--config.evaluate.select_episodes=2",
    "--config.evaluate.report_episodes=2",
    "--config.evaluate.max_steps=60",
    "--config.network=net3",
    "--cache_dir=",
)


def run(*command: object, where: pathlib.Path, code: int = 0) -> str:
    """What a command prints; ends this program if it exits otherwise than with `code`."""
    arguments = [str(x) for x in command]
    done = subprocess.run(arguments, cwd=where, text=True, capture_output=True, check=False)
    if done.returncode != code:
        sys.exit(f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="jaxdistill-installed-") as name:
        where = pathlib.Path(name)
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
        run(*pip, "wheel", "--no-deps", "--wheel-dir", where, ROOT, where=where)
        (wheel,) = where.glob("*.whl")
        venv.create(where / "venv", with_pip=True)
        binaries = where / "venv" / "bin"
        run(binaries / "python", *pip[1:], "install", wheel, where=where)

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
        examined = run(program, "doctor", where=outside)
        assert examined.count("works") == 4 and "fails" not in examined, examined

        converted = run(
            *(program, "convert", "--source=experts/pong.pth", "--out=pong"), where=outside
        )
        assert "saved in pong" in converted
        config = "--config=merge:pong=pong,freeway=experts/freeway.pth"
        distilled = run(program, "distill", config, "--workdir=run", *TINY, where=outside)
        assert "report in run/report.html" in distilled
        (row, _) = json.loads((outside / "run" / "result.json").read_text())["games"]
        assert row["game"] == "pong" and row["student"]["episodes"] == 2
        page = (outside / "run" / "report.html").read_text()
        assert f"jaxdistill distill {config}" in page
        measured = run(
            *(program, "evaluate", "--workdir=run", "--episodes=1", "--cache_dir="), where=outside
        )
        assert "pong" in measured and "freeway" in measured
        exported = run(program, "export", "--workdir=run", "--out=student.pth", where=outside)
        assert (outside / "student.pth").stat().st_size > 100_000, exported
    print("the wheel installs and works")


if __name__ == "__main__":
    main()
