"""Launch programs together: a run made, measured, exported, read back, watched.

Of each program and each way to end there is a process of its own; what else is said of bad input is
said in this one, where JAX is loaded already.
"""

import datetime
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import quick_program

from jaxdistill import networks
from jaxdistill.experts import formats, torch_file
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.student import Student
from jaxdistill.run import students

pytestmark = pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"  # by ml_collections
)
ROOT = pathlib.Path(__file__).parents[2]
ENVIRONMENT = {
    **os.environ,
    "JAX_PLATFORMS": "cpu",
}


def command(program, *flags):
    return [sys.executable, str(ROOT / "launch" / program), *flags]


def launch(program, *flags, quickly=False):
    """As users have it; or `quickly`, with emulators that are made in a tenth of the time."""
    how = quick_program.command if quickly else command
    return subprocess.run(
        how(program, *flags),
        capture_output=True,
        text=True,
        timeout=600,
        env=quick_program.environment() if quickly else ENVIRONMENT,
        cwd=ROOT,
    )


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """Flags of a small run on one small expert that the reference convention can express."""
    directory = tmp_path_factory.mktemp("expert") / "pong"
    network = networks.create("dueling_small", action_hidden=(8,), value_hidden=(8,))
    Expert(
        name="tiny",
        network=network,
        params=networks.init(network, jax.random.key(0), (4, 84, 84)),
        outputs="q",
        actions=tuple(range(18)),
        game="pong",
    ).save(directory)
    fields = {
        "network": "dueling_small",
        "collect.num_envs": 4,
        "collect.initial_steps": 128,
        "collect.steps_per_round": 64,
        "collect.window_steps": 256,
        "learn.rounds": 6,
        "learn.updates_per_round": 2,
        "learn.batch_per_game": 8,
        "evaluate.every_rounds": 3,
        "evaluate.select_episodes": 2,
        "evaluate.report_episodes": 4,
        "evaluate.max_steps": 40,
    }
    return [
        f"--config={ROOT}/configs/merge.py:pong={directory}",
        *(f"--config.{name}={value}" for name, value in fields.items()),
    ]


@pytest.mark.slow
def test_a_run_is_made_measured_exported_and_watched(program, flags, tmp_path):
    whole, trace = tmp_path / "whole", tmp_path / "trace"
    done = launch("distill.py", *flags, f"--workdir={whole}", f"--profile={trace}")
    assert done.returncode == 0, done.stderr
    assert "retention" in done.stdout and "wall time" in done.stdout
    begun = done.stderr.splitlines()[0]
    assert begun == f"distill: {flags[0][2:].replace('=', ' ', 1)}, workdir {whole}; loading JAX"
    learnt = next(line for line in done.stderr.splitlines() if line.startswith("learn: 12/12"))
    assert "mean score of 2 games: pong " in learnt

    student = students.load_student(whole).state
    terms = ("--episodes=1", "--epsilon=1")
    measured = launch("evaluate.py", f"--workdir={whole}", *terms, quickly=True)
    assert measured.returncode == 0, measured.stderr
    assert "pong" in measured.stdout

    for convention, chosen in (("merged", []), ("expert", ["--game=pong", "--dtype=float32"])):
        out = tmp_path / f"{convention}.pth"
        asked = (f"--workdir={whole}", f"--out={out}", f"--format={convention}", *chosen)
        code, _, err = program("export", *asked)
        assert code == 0, err
        back = formats.load(out)
        assert back.game == "pong" and back.outputs == "q"
        jax.tree.map(np.testing.assert_array_equal, back.params, dict(student.eval_params))
    config = json.loads((tmp_path / "training_config.json").read_text())
    assert config == {"dueling": True}
    merged = torch_file.read(tmp_path / "merged.pth").tree
    assert merged["architecture"] == "DuelingCNNDQN" and merged["games"] == ["pong"]
    result = json.loads((whole / "result.json").read_text())
    assert merged["final_scores"] == {"pong": result["games"][0]["student"]["mean"]}
    assert merged["merge_config"]["updates"] == 12
    assert datetime.datetime.fromisoformat(merged["created"]).tzinfo
    alone = tmp_path / "alone"
    written = launch("export.py", f"--workdir={whole}", f"--out={alone}", "--convention=student")
    assert written.returncode == 0, written.stderr
    moved = alone.rename(tmp_path / "moved")
    back = Student.load(moved)
    jax.tree.map(np.testing.assert_array_equal, back.params, dict(student.eval_params))
    assert back.card["made"]["updates"] == 12 and back.card["versions"]["jax"] == jax.__version__
    assert back.card["measured"]["games"] == result["games"]
    assert formats.load(moved).game == "pong"
    code, _, err = program("export", f"--workdir={whole}", f"--out={out}")
    assert code == 2 and err.startswith("error: ")

    assert any(trace.rglob("*.xplane.pb"))
    report = (whole / "report.html").read_text()
    assert "launch/distill.py --config=" in report and "data:image/gif;base64," in report
    film = tmp_path / "film.gif"
    shown = (f"--workdir={whole}", f"--out={film}", "--steps=20")
    watched = launch("watch.py", *shown, quickly=True)
    assert watched.returncode == 0, watched.stderr
    assert "21 frames" in watched.stdout and film.read_bytes()[:6] == b"GIF89a"


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_a_dataset_is_collected_once_and_learnt_from_by_flags(program, flags, tmp_path):
    collected = launch("collect.py", *flags, f"--out={tmp_path / 'data'}", quickly=True)
    assert collected.returncode == 0, collected.stderr
    assert "128 steps of each of pong" in collected.stdout
    more = (
        *("--config.collect.steps_per_round=0", "--config.learn.rounds=1"),
        *(f"--config.collect.dataset={tmp_path / 'data'}", f"--workdir={tmp_path / 'run'}"),
    )
    code, _, err = program("distill", *flags, *more)
    assert code == 2
    assert err.startswith("error: collect.initial_steps 128: no effect where collect.data")
    kept = [flag for flag in flags if "initial_steps" not in flag]
    code, out, err = program("distill", *kept, *more)
    assert code == 0, err
    assert "retention" in out
    assert not (tmp_path / "run" / "dataset").exists()


PROCESSES = [
    ("distill", ["--workdir=x"], "config"),
    (
        "train_expert",
        ["--config=configs/train_expert.py", "--config.games=pnog", "--workdir=x"],
        "did you mean pong",
    ),
]


@pytest.mark.parametrize(("program", "arguments", "expected"), PROCESSES)
def test_bad_input_ends_a_process_with_one_line_and_exit_code_2(
    program, arguments, expected, tmp_path
):
    arguments = [a.replace("--workdir=x", f"--workdir={tmp_path / 'x'}") for a in arguments]
    done = launch(f"{program}.py", *arguments)
    assert done.returncode == 2, done.stderr
    *begun, line = done.stderr.splitlines()  # nothing is where flags themselves are wrong
    assert all(x.startswith(f"{program}: ") for x in begun)
    assert len(begun) <= 1
    assert line.startswith("error: ") and expected in line
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("distill", ["--config=configs/none.py", "--workdir=x"], "no config file 'configs/none"),
        (
            "distill",
            ["--config=nothing:x", "--config.learn.rounds=1", "--workdir=x"],
            "no config file 'nothing'; expected a Python file, or one that comes with the package",
        ),
        ("distill", ["--config=configs/merge.py", "--workdir=x"], "name the experts"),
        (
            "distill",
            ["--config=configs/merge.py:pong=missing.pth", "--workdir=x"],
            "missing.pth",
        ),
        (
            "distill",
            ["--config=configs/quickstart.py", "--config.learn.rounds=0", "--workdir=x"],
            "learn.rounds is 0",
        ),
        (
            "distill",
            ["--config=configs/quickstart.py", "--config.learn.warm_start=no.pth", "--workdir=x"],
            "neither a game of this run (breakout, pong, freeway) nor a file",
        ),
        (
            "distill",
            ["--config=configs/thirdparty.py:nowhere", "--workdir=x"],
            "nowhere/breakout_a3c.pth",
        ),
        ("evaluate", ["--expert=x", "--epsilon=nan"], "--epsilon is nan, expected a finite"),
        (
            "distill",
            [
                "--config=configs/quickstart.py",
                "--workdir=x",
                *("--coordinator=localhost:1", "--processes=2", "--process=2"),
            ],
            "--process is 2, expected less than --processes=2",
        ),
        *(
            (
                "distill",
                [
                    *("--config=configs/quickstart.py", "--workdir=x"),
                    *(f"--coordinator={address}", "--processes=2", "--process=0"),
                ],
                f"--coordinator is {address!r}, expected HOST:PORT",
            )
            for address in ("localhost", "auto", "localhost:", "localhost:70000")
        ),
        ("evaluate", [], "either --expert=FILE or --workdir=DIR"),
        ("export", ["--workdir=nowhere", "--out=y.pth"], "holds no config.json"),
        (
            "export",
            ["--workdir=x", "--out=y", "--format=student", "--game=pong"],
            "--game goes with another format",
        ),
        ("evaluate", ["--workdir=nowhere"], "holds no config.json"),
        ("watch", ["--workdir=nowhere", "--out=y.gif", "--spec=z"], "--spec goes with --expert"),
        *PROCESSES,
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    program, name, arguments, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(ROOT)
    arguments = [a.replace("--workdir=x", f"--workdir={tmp_path / 'x'}") for a in arguments]
    code, out, err = program(name, *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ") and expected in line
    assert not (tmp_path / "x").exists()


CONFIG = f"--config={ROOT}/configs/train_expert.py"
BEGUN = [
    ("distill", [CONFIG, "--workdir=runs/a"], f"config {CONFIG[9:]}, workdir runs/a"),
    ("collect", ["--out", "data", CONFIG], f"out data, config {CONFIG[9:]}"),
    ("train_expert", [CONFIG, "--workdir=a\x1b[2J"], f"config {CONFIG[9:]}, workdir a\\x1b[2J"),
    ("finetune", [CONFIG, "--config.seed=1", "--workdir=a"], f"config {CONFIG[9:]}, workdir a"),
    (
        "merge_weights",
        [CONFIG, "--method=mean", "--workdir=a"],
        f"config {CONFIG[9:]}, method mean, workdir a",
    ),
    ("evaluate", ["--expert=pong.pth"], "expert pong.pth"),
    ("convert", ["--source=x.pth", "--out=y"], "source x.pth, out y"),
    ("export", ["--workdir=a", "--out=y"], "workdir a, out y"),
    ("watch", ["--expert=x.pth", "--out=y.gif"], "expert x.pth, out y.gif"),
]


@pytest.mark.parametrize(("program", "arguments", "told"), BEGUN, ids=[x[0] for x in BEGUN])
def test_what_is_begun_is_said_before_jax_is_imported(program, arguments, told, tmp_path):
    """With a JAX that ends the program; what is wrong with flags is known without it."""
    (tmp_path / "jax.py").write_text("import sys; print('JAX', file=sys.stderr); sys.exit(3)")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("GLIBC_TUNABLES", None)  # so that the program starts itself anew

    def run(*more):
        return subprocess.run(
            [sys.executable, ROOT / "launch" / f"{program}.py", *arguments, *more],
            capture_output=True,
            text=True,
            env=environment,
            cwd=tmp_path,
        )

    done = run()
    assert done.stderr.splitlines() == [f"{program}: {told}; loading JAX", "JAX"]
    assert (done.returncode, done.stdout) == (3, "")
    if not any("config" in argument for argument in arguments):
        wrong = run("--bogus=1")
        assert wrong.stderr.splitlines() == [
            "error: Unknown command line flag 'bogus' (--help lists the flags)"
        ]
        assert (wrong.returncode, wrong.stdout) == (2, "")
    else:
        assert run("--bogus=1").stderr.splitlines() == ["JAX"], "nothing is begun"


LOADING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a script begins it
sys.path.insert(0, {launch!r})
import _processes
from _main import run
from ml_collections import config_flags
config_flags.DEFINE_config_file("config")
run(lambda: print("begun"), resumes={resumes})
"""
SIGNALLED = """
import signal
from ml_collections import ConfigDict
for name in {names}:
    signal.raise_signal(signal.Signals[name])
def get_config():
    return ConfigDict()
"""
GOES_ON = "the same command goes on where it stopped"


@pytest.mark.parametrize(
    ("names", "resumes", "arguments", "code", "begun", "said"),
    [
        (["SIGTERM"], True, [], 0, False, f"ended by SIGTERM; {GOES_ON}"),
        (["SIGINT"], True, [], 130, False, f"interrupted; {GOES_ON}"),
        (["SIGINT", "SIGINT"], True, [], 130, False, f"interrupted; {GOES_ON}"),
        (["SIGINT"], False, [], 130, False, "interrupted; the same command begins again"),
        # Others would wait for it: it ends with them, where they ask each other.
        (["SIGTERM"], True, ["--coordinator=auto"], 0, True, None),
    ],
)
def test_a_signal_that_comes_while_jax_is_loaded_ends_in_good_order(
    tmp_path, names, resumes, arguments, code, begun, said
):
    """As a config file loads it, while flags are read."""
    program, config = tmp_path / "program.py", tmp_path / "config.py"
    program.write_text(LOADING.format(launch=str(ROOT / "launch"), resumes=resumes))
    config.write_text(SIGNALLED.format(names=names))
    done = subprocess.run(
        [sys.executable, str(program), f"--config={config}", *arguments],
        capture_output=True,
        text=True,
        env=ENVIRONMENT | {"GLIBC_TUNABLES": ""},
    )
    assert (done.returncode, done.stdout) == (code, "begun\n" * begun), done.stderr
    first, *lines = done.stderr.splitlines()
    assert first == f"program: config {config}; loading JAX"
    told = [line for line in lines if line and "Ctrl-C again" not in line]
    assert told == ([said] if said else [])
