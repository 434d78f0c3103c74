"""The one command, and where it finds what comes with the package."""

import pathlib
import shutil
import subprocess
import sys

import pytest

from jaxdistill import cli, shipped
from jaxdistill.experts import sources
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.run import common, distill_settings

ROOT = pathlib.Path(__file__).parents[1]


def test_every_program_has_a_name():
    programs = {path.stem for path in (ROOT / "launch").glob("[!_]*.py")}
    assert programs == set(cli.PROGRAMS.values())


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("distil", "did you mean distill?"),
        ("\x1b[2J", f"expected one of {', '.join(cli.PROGRAMS)}"),
    ],
)
def test_a_program_that_is_not_there_is_refused_in_one_line(name, hint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["jaxdistill", name])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and line.endswith(hint) and "\x1b" not in line


def test_a_program_gets_its_flags_and_is_called_by_the_one_name(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "jaxdistill", "convert", "--source=x", "--out=y", "--nonsense"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2 and "Unknown command line flag 'nonsense'" in done.stderr
    helped = subprocess.run(
        [sys.executable, "-m", "jaxdistill", "distill", "--help"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        text=True,
        capture_output=True,
        check=False,
    )
    assert "jaxdistill distill:" in helped.stdout and "--workdir" in helped.stdout
    for shared in ("--cache_dir", "--wandb", "--coordinator", "--processes"):
        assert shared in helped.stdout


def test_configs_are_found_whatever_else_is_called_so(tmp_path):
    """Another package, whose modules are found too, or a folder of one's own."""
    others = tmp_path / "configs"
    others.mkdir()
    (others / "__init__.py").touch()
    (others / "mine.py").touch()
    (tmp_path / "own.py").write_text(
        "from configs import mine\nfrom configs.quickstart import get_config\n"
    )
    for config in ("own.py", str(ROOT / "configs" / "experiments" / "states.py")):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "jaxdistill", "distill"),
                *(f"--config={config}", "--config.x=1", "--workdir=run"),
            ],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""},
            text=True,
            capture_output=True,
            check=False,
        )
        assert "error: --config.x is no setting; expected --config.NAME" in done.stderr


def test_what_is_there_goes_before_what_comes_with_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped_pong = ROOT / "experts" / "pong.pth"
    assert shipped.found("experts/pong.pth") == shipped_pong
    assert shipped.config("configs/quickstart.py") == str(ROOT / "configs" / "quickstart.py")
    merge = ROOT / "configs" / "merge.py"
    assert shipped.config("merge:pong=a:b.pth") == f"{merge}:pong=a:b.pth"
    for unknown in ("experts/none.pth", "elsewhere/pong.pth", "../experts/pong.pth"):
        assert shipped.found(unknown) == pathlib.Path(unknown)
    assert shipped.config("none.py:x") == "none.py:x" and shipped.config("none") == "none"
    for own in ("experts/pong.pth", "configs/quickstart.py", "merge"):
        path = tmp_path / own
        path.parent.mkdir(exist_ok=True)
        path.touch()
        assert shipped.found(own) == pathlib.Path(own) and shipped.config(own) == own
    # A run's directory that is called as its config hides nothing.
    (tmp_path / "tiny").mkdir()
    assert shipped.config("tiny") == str(ROOT / "configs" / "tiny.py")


def test_games_that_come_with_the_experts_are_found_wherever_one_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = common.records_of(
        distill_settings.Settings(experts=(ExpertSource("experts/pong.pth"),)),
        tmp_path / "run",
        None,
    )
    assert known.given == (ROOT / "experts" / "played",)
    # What lies beside other files is what others say.
    for own in ("experts/pong.pth", "elsewhere/pong.pth"):
        (tmp_path / own).parent.mkdir()
        (tmp_path / own).touch()
        settings = distill_settings.Settings(experts=(ExpertSource(own),))
        assert common.records_of(settings, tmp_path / "run", None).given == ()


def test_a_line_says_which_experts_are_the_package_s_own(tmp_path, monkeypatch, capsys):
    """Where some are the project's, and where a run is read from somewhere else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experts").mkdir()
    shutil.copy(ROOT / "experts" / "pong.pth", "experts/pong.pth")
    names = [f"experts/{game}.pth" for game in ("breakout", "pong", "freeway")]
    sources._say_once.cache_clear()
    for _ in range(2):
        sources.load_experts([ExpertSource(name) for name in names])
    said = "note: not here, so as it comes with the package: experts/breakout.pth, experts/freeway."
    assert capsys.readouterr().out.count(said) == 1
