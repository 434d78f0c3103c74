"""Every flag of every program has a row that shows what it changes."""

import ast
import dataclasses
import io
import json
import pathlib
import signal
import sys
import types

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import ConfigDict
from PIL import Image

from configs import finetune, lander, merge, merge_weights, train_expert
from jaxdistill import networks, preemption, tasks, workdirs
from jaxdistill.experts import export_sb3, formats
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.student import Role, Student
from jaxdistill.learn import losses
from jaxdistill.play import measuring, protocols, rollouts
from jaxdistill.report import tables
from jaxdistill.run import data, distill, distill_settings, evaluating, students, training
from jaxdistill.tasks import lander as lander_tasks
from jaxdistill.tasks.atari import ATARI
from jaxdistill.tasks.views import Vector

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


def test_an_interrupt_ends_one_of_several_processes_without_waiting_for_them(
    program, monkeypatch, capsys
):
    def left(code):
        raise SystemExit(f"at once, with {code}")

    def main():
        raise KeyboardInterrupt

    run = program.load("doctor").run
    monkeypatch.setitem(run.__globals__, "_one_of_several", lambda: True)
    monkeypatch.setitem(run.__globals__, "_leave", left)
    monkeypatch.setattr(sys, "argv", ["doctor.py"])
    with pytest.raises(SystemExit, match=r"^at once, with 130$"):
        run(main, resumes=True)
    assert capsys.readouterr().err == "interrupted; the same command goes on where it stopped\n"


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize(
    ("name", "resumes"),
    [
        *((name, True) for name in ("collect", "distill", "merge_weights", "train_expert")),
        *((name, False) for name in ("convert", "evaluate", "export", "push", "watch")),
    ],
)
def test_an_interrupted_program_says_what_is_true(program, name, resumes, monkeypatch, capsys):
    module = program.load(name)

    def stopped():
        raise KeyboardInterrupt

    run = module.run
    text = (LAUNCH / f"{name}.py").read_text()
    assert ("run(main, resumes=True)" in text) == resumes
    needed = dict.fromkeys(("workdir", "out", "source", "method", "repo"), "x")
    needed["config"] = "configs/quickstart.py"
    given = [f"--{k}={v}" for k, v in needed.items() if k in flags.FLAGS]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *given])
    with pytest.raises(SystemExit) as ended:
        run(stopped, resumes=resumes)
    goes_on = "the same command goes on where it stopped"
    begins = "the same command begins again"
    line = f"interrupted; {goes_on if resumes else begins}\n"
    assert (ended.value.code, capsys.readouterr().err) == (130, line)


def test_a_signal_that_is_ignored_is_left_so(monkeypatch):
    """As of a program that a script left in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(preemption, "_asked", None)
        preemption.watch()
        signal.raise_signal(signal.SIGINT)
        assert not preemption.asked()
        signal.raise_signal(signal.SIGTERM)
        assert preemption.asked() and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize(("times", "ended_at"), [(1, "the end of a round"), (2, "once")])
def test_ctrl_c_ends_a_run_where_nothing_is_lost_and_a_second_one_at_once(
    program, monkeypatch, capsys, times, ended_at
):
    where = []

    def main():
        where.append("once")
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        where.append("the end of a round")
        preemption.stop_if_asked()

    run = program.load("distill").run
    monkeypatch.setattr(preemption, "_asked", None)
    given = ["distill.py", "--config=configs/quickstart.py", "--workdir=x"]
    monkeypatch.setattr(sys, "argv", given)
    # It is ignored in what a script has left in the background, the tests perhaps.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(SystemExit) as ended:
        run(main, resumes=True)
    assert ended.value.code == 130 and where[-1] == ended_at
    said = "interrupted; the same command goes on where it stopped\n"
    assert capsys.readouterr().err.endswith(said)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize(
    ("asked", "why"), [(signal.SIGTERM, "ended by SIGTERM"), (signal.SIGINT, "interrupted")]
)
@pytest.mark.parametrize("raised", [preemption.Preempted, KeyboardInterrupt])
def test_what_is_begun_again_is_said_where_it_is(program, monkeypatch, capsys, asked, why, raised):
    def main():
        monkeypatch.setattr(preemption, "_asked", asked)
        with preemption.begun_again("merges again"):
            raise raised

    run = program.load("distill").run
    monkeypatch.setattr(preemption, "_asked", None)
    given = ["distill.py", "--config=configs/quickstart.py", "--workdir=x"]
    monkeypatch.setattr(sys, "argv", given)
    with pytest.raises(SystemExit) as ended:
        run(main, resumes=True)
    by_hand = asked == signal.SIGINT or raised is KeyboardInterrupt
    assert ended.value.code in ((130,) if by_hand else (0, None))
    line = f"{'interrupted' if by_hand else why}; the same command merges again\n"
    assert capsys.readouterr().err.endswith(line)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_what_a_config_file_refuses_is_said_without_its_traceback(program, tmp_path):
    config = LAUNCH.parent / "configs" / "lander.py"
    code, _, err = program("train_expert", f"--config={config}:bogus", f"--workdir={tmp_path}")
    assert code == 2 and err.count("\n") == 1
    assert err.startswith("error: --config=configs/lander.py:bogus: expected one of shared, ")
    code, _, err = program("train_expert", f"--config={config}:blind", "--nonsense=1")
    assert code == 2 and "nonsense" in err and "(--help lists the flags)" in err


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import lying_nowhere\n",
            "ModuleNotFoundError: No module named 'lying_nowhere' (in {}:1)",
        ),
        ("def get_config():\n    return {}['x']\n", "KeyError: 'x' (in {}:2, get_config)"),
        (
            "def get_config():\n    return 1 + 'x'\n",
            "TypeError: unsupported operand type(s) for +: 'int' and 'str' (in {}:2, get_config)",
        ),
        ("def f(:\n", "SyntaxError: invalid syntax (mine.py, line 1)"),
        ("", "AttributeError: module 'config_config' has no attribute 'get_config'"),
    ],
)
def test_what_a_config_file_raises_is_one_line_with_its_place(
    program, tmp_path, monkeypatch, text, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "config_config", raising=False)  # one that was read before
    (tmp_path / "mine.py").write_text(text)
    for given in (("--config=mine.py",), ("--config", "mine.py", "--config.x=1")):
        code, out, err = program("distill", *given, "--workdir=x")
        line = f"error: --config=mine.py: {said.format(tmp_path / 'mine.py')}\n"
        assert (code, out, err) == (2, "", line)


def test_settings_of_no_config_are_told_that_it_is_missing(program):
    code, _, err = program("distill", "--workdir=x", "--config.learn.rounds=5")
    assert code == 2 and "error: --config=FILE is missing, whose fields --config.NAME" in err
    code, _, err = program("distill", "--workdir=x")
    assert code == 2 and "--config" in err and "(--help lists the flags)" in err


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_a_home_is_found_in_every_flag(program, tmp_path, monkeypatch):
    made = []

    def ask(settings, workdir, *, profile, **_):
        made.append((settings.learn.warm_start, settings.experts[0].path, workdir, profile))
        raise ValueError("that is known now")

    monkeypatch.setattr(distill, "distill", ask)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "merge.py").symlink_to(LAUNCH.parent / "configs" / "merge.py")
    code, _, err = program(
        "distill",
        *("--config=~/merge.py:pong=~/pong.pth", "--config.learn.warm_start=~/warm"),
        *("--workdir=~/run", "--profile", "~/as the shell says"),
    )
    assert (code, err) == (2, "error: that is known now\n")
    places = [str(tmp_path / name) for name in ("warm", "pong.pth", "run")]
    assert made == [(*places, "~/as the shell says")]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        (
            "distill",
            "collect.num_envs, --config.collect.window_steps, --config.learn.batch_per_game",
        ),
        ("train_expert", "batch_per_game, --config.num_envs, --config.replay_size"),
        ("evaluate", ""),
    ],
)
def test_what_no_device_can_hold_is_one_line(program, monkeypatch, capsys, tmp_path, name, sizes):
    full = "RESOURCE_EXHAUSTED: Out of memory\nallocating 9 bytes"

    config = "merge.py:pong=x" if name == "distill" else f"{name}.py"
    given = [f"--config={LAUNCH.parent / 'configs' / config}", f"--workdir={tmp_path}"]

    def ended(error):
        def held():
            raise error

        run = program.load(name).run
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *(given if sizes else ())])
        run(held)

    for error, told in (
        (jax.errors.JaxRuntimeError(full), "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
        (MemoryError(), "MemoryError"),
    ):
        with pytest.raises(SystemExit) as stopped:
            ended(error)
        smaller = f"make --config.{sizes} smaller, or " if sizes else ""
        line = f"error: out of memory ({told}); {smaller}take a device that holds more, or a free"
        assert stopped.value.code == 2 and capsys.readouterr().err == f"{line} one\n"
    with pytest.raises(jax.errors.JaxRuntimeError):
        ended(jax.errors.JaxRuntimeError("INTERNAL: no device"))


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_a_file_of_one_s_own_is_imported_first(program, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(
        "from jaxdistill.learn import losses\nlosses.LOSSES['mine'] = losses.LOSSES['kl']\n"
    )
    config = LAUNCH.parent / "configs" / "merge.py"
    asked = (
        *(f"--config={config}:pong={tmp_path / 'none.pth'}", "--config.learn.loss=mine"),
        f"--workdir={tmp_path / 'run'}",
    )
    try:
        code, _, err = program("distill", *asked)
        assert code == 2 and "learn.loss is 'mine', expected one of kl, " in err
        code, _, err = program("distill", *asked, f"--import={mine}")
        assert code == 2 and "none.pth" in err and "learn.loss" not in err
        code, _, err = program("distill", *asked, f"--import={tmp_path}")
        assert code == 2 and f"--import={tmp_path} is no file" in err
    finally:
        losses.LOSSES.pop("mine", None)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_several_files_of_one_s_own_are_imported_and_what_lies_beside_them(
    program, tmp_path, monkeypatch
):
    """The first file imports the second, whose loss is made once; a module lies beside it."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "lying_beside.py").write_text("from jaxdistill.learn.losses import LOSSES\n")
    for name, before in (("first_own", "import second_own\n"), ("second_own", "")):
        (tmp_path / f"{name}.py").write_text(
            f"{before}from lying_beside import LOSSES\n"
            f"assert '{name}' not in LOSSES\n"
            f"LOSSES['{name}'] = LOSSES['kl']\n"
        )
    given = [f"--import={tmp_path / name}.py" for name in ("first_own", "second_own")]
    config = LAUNCH.parent / "configs" / "merge.py"
    asked = (
        f"--config={config}:pong={tmp_path / 'none.pth'}",
        f"--workdir={tmp_path / 'run'}",
        *("--config.learn.loss=first_own", "--config.learn.first_loss=second_own"),
        "--config.learn.first_rounds=1",
    )
    try:
        code, _, err = program("distill", *asked)
        assert code == 2 and err.count("\n") == 1
        assert "a loss of your own: give --import=FILE (in Python, import it first)" in err
        code, _, err = program("distill", *asked, *given)
        assert code == 2 and "none.pth" in err and "loss" not in err
    finally:
        for name in ("first_own", "second_own"):
            losses.LOSSES.pop(name, None)
            sys.modules.pop(name, None)
        sys.modules.pop("lying_beside", None)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "import lying_nowhere\n",
            "ModuleNotFoundError: No module named 'lying_nowhere' (in {}:1)",
        ),
        ("x = 1\nif:\n", "SyntaxError: invalid syntax (mine.py, line 2)"),
        ("\0", "cannot contain null bytes"),
        ("def f():\n    y\nf()\n", "NameError: name 'y' is not defined (in {}:2, f)"),
        ("import jaxdistill\njaxdistill.tasks.get('pnog')\n", "(in {}:2)"),
        ("raise OSError('no such disk')\n", "no such disk (in {}:1)"),
    ],
)
def test_what_a_file_of_one_s_own_raises_is_one_line_with_its_place(
    program, tmp_path, monkeypatch, text, wanted
):
    monkeypatch.setattr(sys, "path", [*sys.path])
    mine = tmp_path / "mine.py"
    mine.write_text(text)
    code, _, err = program("doctor", f"--import={mine}")
    sys.modules.pop("mine", None)
    assert code == 2 and err.count("\n") == 1 and err.startswith(f"error: --import={mine}: ")
    assert wanted.format(mine) in err


def test_what_is_raised_in_a_file_of_one_s_own_is_said_with_its_place(
    program, tmp_path, monkeypatch, capsys
):
    """Deep in a run, and also where it was wrapped; what never came that way is as it was."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    mine = tmp_path / "mine_deep.py"
    mine.write_text("class Own:\n    def unpack(self, x):\n        (a,) = x\n\n\n")

    def deep(wraps=False, passes=True):
        try:
            if not passes:
                raise ValueError("elsewhere")
            sys.modules["mine_deep"].Own().unpack([1, 2])
        except ValueError as error:
            if wraps:
                raise ValueError("wrapped") from error
            raise

    place = f" (in {mine}:3, Own.unpack)"
    for options, line in (
        ({}, "too many values to unpack (expected 1" + "{}" + place),
        ({"wraps": True}, "wrapped" + place),
        ({"passes": False}, "elsewhere"),
    ):
        run = program.load("doctor").run
        monkeypatch.setattr(sys, "argv", ["doctor.py", f"--import={mine}"])
        with pytest.raises(SystemExit) as ended:
            run(lambda options=options: deep(**options))
        err = capsys.readouterr().err
        assert ended.value.code == 2
        assert err in {f"error: {line.format(end)}\n" for end in (")", ", got 2)")}
    sys.modules.pop("mine_deep")


@pytest.mark.parametrize(
    "config",
    [
        merge.get_config("pong=experts/pong.pth"),
        merge_weights.get_config(),
        *(train_expert.get_config(), lander.get_config(), finetune.get_config()),
    ],
)
def test_what_is_none_by_default_can_be_given_by_flag(config):
    """A field of a config is None for good, unless it says what it may be."""

    def idle(config, where=""):
        for name in config:
            if isinstance(config[name], ConfigDict):
                yield from idle(config[name], f"{where}{name}.")
            elif config.get_type(name) is type(None):
                yield where + name

    assert [*idle(config)] == []


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("distill", "--config.learn.roundz=3", "did you mean --config.learn.rounds?"),
        ("distill", "--config.learning_rate=3", "did you mean --config.learn.learning_rate?"),
        ("collect", "--config.lern.rounds=3", "did you mean --config.learn.rounds?"),
        ("collect", "--config.rules.x=3", "expected --config.rules.NAME of difficulty, end_at"),
        ("distill", "--noconfig.learn.follow", "did you mean --config.collect.follow?"),
        ("distill", "--config.seed.x=3", "expected --config.NAME of collect, compute_dtype, co"),
        ("merge_weights", "--config.merge.scales=1", "did you mean --config.merge.scale?"),
        ("train_expert", "--config.discout=1", "did you mean --config.discount?"),
        ("finetune", "--config.discout=1", "did you mean --config.discount?"),
    ],
)
def test_a_mistyped_setting_is_one_line_with_the_closest_name(program, tmp_path, name, given, said):
    config = "quickstart" if name in ("distill", "collect") else name
    where = f"--{'out' if name == 'collect' else 'workdir'}={tmp_path / 'x'}"
    flag = given.partition("=")[0]
    code, out, err = program(
        name, f"--config={LAUNCH.parent / 'configs' / config}.py", given, where
    )
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {flag} is no setting; {said}") and err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_a_mistyped_setting_of_an_expert_is_one_line(program, tmp_path):
    config = f"--config={LAUNCH.parent / 'configs' / 'quickstart.py'}"
    for given, said in (("[7].path", "tuple index out of range"), ("[0].pth", "pth")):
        code, _, err = program("distill", config, f"--config.experts{given}=x", "--workdir=x")
        assert (code, err) == (2, f"error: a --config.NAME is no setting ({said})\n")


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize(
    ("argument", "method", "said"),
    [
        ("", "sum", "--method is 'sum', expected one of mean, task_arithmetic, fisher, htcl, "),
        (":pong=x", "mean", "weights are merged of several experts, and experts names 1; expected"),
        (":asterix=Q,carnival=L", "mean", "the expert of carnival holds logits, and Q-values are"),
        (":asterix=Q,carnival=S", "mean", "carnival's 56,504 parameters and 18 outputs; distil"),
    ],
)
def test_weights_that_cannot_be_merged_are_one_line(
    program, experts, watcher, tmp_path, argument, method, said
):
    watcher("carnival", 2, "logits").save(tmp_path / "logits")
    network = networks.Network(convs=(), hidden=(2,))
    wanted = jax.eval_shape(lambda: networks.init(network, jax.random.key(0), (4, 84, 84)))
    params = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), wanted)
    one = dataclasses.replace(watcher("carnival", 2, "q"), network=network, params=params)
    one.save(tmp_path / "small")
    places = {"Q": experts / "q", "L": tmp_path / "logits", "S": tmp_path / "small"}
    for old, new in places.items():
        argument = argument.replace(f"={old}", f"={new}")
    config = f"--config={LAUNCH.parent / 'configs' / 'merge_weights.py'}{argument}"
    workdir = tmp_path / "run"
    code, out, err = program("merge_weights", config, f"--method={method}", f"--workdir={workdir}")
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err
    assert not workdir.exists()
    assert program.own("merge_weights") == {"config", "method", "workdir"}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_a_sweep_makes_what_its_flags_say(program, experts, tmp_path, monkeypatch):
    made = []
    full = "RESOURCE_EXHAUSTED: Out of memory\nallocating"
    broken = {
        "nll": ValueError("learning has diverged"),
        "hinton_kl": jax.errors.JaxRuntimeError(full),
        "reverse_kl": MemoryError(),
        "advantage_mse": FileNotFoundError("runs/dataset is not there"),
    }

    def distilled(settings, workdir, **_):
        made.append((workdir.name, settings.learn.loss, settings.seed))
        if settings.learn.loss in broken:
            raise broken[settings.learn.loss]
        workdirs.claim(
            workdir,
            distill_settings.resolve_defaults(settings, distill_settings.teachers(settings)),
        )
        games = [{"game": "asterix", "retention": 0.5 + settings.seed / 10}]
        (workdir / "result.json").write_text(json.dumps({"games": games, "seconds": {}}))
        return {}

    monkeypatch.setattr(distill, "distill", distilled)
    monkeypatch.setattr(tables, "print_result", lambda result: None)
    monkeypatch.setattr(tables, "read_result", lambda path: json.loads(path.read_text()))
    config = f"--config={LAUNCH.parent / 'configs' / 'merge.py'}:asterix={experts / 'q'}"

    def swept(over, *more):
        given = (config, f"--over={over}", f"--workdir={tmp_path / 'runs'}", *more)
        return program("sweep", *given)

    code, out, _ = swept("learn.loss=kl,mse;seed=0,1", "--index=1")
    assert code == 0 and "1 of 4 runs" in out and "60%" in out
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    code, out, _ = swept("learn.loss=kl,mse;seed=0,1")
    assert code == 0 and "2 of 4 runs" in out
    assert made == [("learn.loss=kl,seed=1", "kl", 1), ("learn.loss=mse,seed=0", "mse", 0)]
    for over, said in (
        ("learn.los=kl", "learn.los"),
        ("experts[9].rules=noop_max=1", "--over: experts[9].rules='noop_max=1': tuple index"),
        ("learn.loss=kl,no", "learn.loss is 'no', expected one of"),
        ("seed=0", "--index is 2, expected less than the 1 variants"),
    ):
        code, out, err = swept(over)
        assert (code, out) == (2, "") and said in err and err.count("\n") == 1
    assert len(made) == 2
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    code, out, err = swept("learn.loss=nll,huber;seed=3")
    assert [name for name, *_ in made[2:]] == ["learn.loss=nll,seed=3", "learn.loss=huber,seed=3"]
    assert (code, err) == (2, "error: learn.loss=nll,seed=3: learning has diverged\n")
    assert "1 of 2 runs" in out and "80%" in out
    # What no device can hold keeps none of the others from it either.
    code, out, err = swept("learn.loss=hinton_kl,reverse_kl,huber;seed=4")
    said = "RESOURCE_EXHAUSTED: Out of memory allocating"
    names = ("learn.loss=hinton_kl,seed=4", "learn.loss=reverse_kl,seed=4")
    assert (code, err) == (2, f"error: {names[0]}: {said}; {names[1]}: MemoryError()\n")
    assert f"not made: {said}\n" in out and "1 of 3 runs" in out and "90%" in out
    code, out, err = swept("learn.loss=advantage_mse,huber;seed=5")
    missing = "learn.loss=advantage_mse,seed=5: runs/dataset is not there"
    assert (code, err) == (2, f"error: {missing}\n") and "1 of 2 runs" in out
    # Nor do results of other settings count, whoever made them.
    code, out, err = swept("learn.loss=kl,mse;seed=0,1", "--index=1", "--config.learn.rounds=400")
    assert code == 2 and "not made: " in out and " runs" not in out
    differs = "mse,seed=0 holds a run with learn.rounds 200, this one has 400; choose another"
    assert out.count("not counted: ") == 1 and differs in out
    assert program.own("sweep") == {"config", "over", "workdir", "index"}


MADE = {
    "distill": (
        (distill, "distill"),
        {"config": ("quickstart.py", "reference.py"), "workdir": "here", "profile": None},
    ),
    "collect": ((data, "collect"), {"config": ("quickstart.py", "reference.py"), "out": "here"}),
    "train_expert": (
        (training, "train"),
        {"config": ("lander.py:shared", "lander.py:blind"), "workdir": "here", "profile": None},
    ),
    "finetune": (
        (training, "train"),
        {
            "config": ("finetune.py", "finetune.py:alone"),
            "workdir": "here",
            "out": None,
            "profile": None,
        },
    ),
}


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize("name", MADE)
def test_every_flag_of_a_program_that_makes_something_changes_what_is_made(
    program, monkeypatch, name
):
    where, flagged = MADE[name]
    asked = []

    def ask(settings, directory, *, profile=None, **_):
        asked.append((settings, str(directory), profile))
        raise ValueError("that is known now")

    monkeypatch.setattr(*where, ask)
    played = types.SimpleNamespace(games=("pong",))
    monkeypatch.setattr(students, "read", lambda workdir: played)

    def ask_by(**given):
        config = given.pop("config", flagged["config"][0])
        standing = {flag: x for flag, x in flagged.items() if x and flag != "config"}
        told = standing | given | {"config": LAUNCH.parent / "configs" / config}
        code, out, err = program(name, *(f"--{flag}={x}" for flag, x in told.items()))
        assert (code, out, err) == (2, "", "error: that is known now\n")

    ask_by()
    for flag in flagged:
        ask_by(**{flag: flagged["config"][1] if flag == "config" else "elsewhere"})
    for flag, one in zip(flagged, asked[1:], strict=True):
        assert asked.count(one) == 1 and one != asked[0], f"--{flag} changes nothing"
    assert program.own(name) == set(flagged)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_collecting_says_which_settings_it_does_not_heed(program, monkeypatch, tmp_path):
    info = {"length": 2, "num_envs": 3, "games": ["pong"]}
    monkeypatch.setattr(data, "collect", lambda settings, out: info)
    config = f"--config={LAUNCH.parent / 'configs' / 'quickstart.py'}"

    def said(*given):
        code, out, err = program("collect", config, f"--out={tmp_path}", *given)
        assert code == 0, err
        *notes, last = out.splitlines()
        assert last == f"{tmp_path}: 6 steps of each of pong"
        return notes

    assert said() == said("--config.collect.num_envs=16", "--config.seed=3") == []
    assert said("--config.learn.together=False") == [], "it says what is collected"
    (note,) = said("--config.learn.rounds=3", "--config.seed=3", "--config.evaluate.epsilon=0.1")
    assert note == (
        "note: learn.rounds, evaluate.epsilon: no effect on what is collected; for "
        "launch/distill.py"
    )
    given = ("collect.steps_per_round=64", "collect.window_steps=64", "network=net1")
    heeded = ("collect.expert_epsilon=0.1", "view=experts", "rules.noop_max=2")
    heeded += ("experts[0].path=x.pth",)
    (note,) = said(*(f"--config.{x}" for x in (*given, *heeded)))
    assert note.startswith(
        "note: collect.steps_per_round, collect.window_steps, network: no effect on"
    )


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_who_goes_on_is_said_by_the_workdir_alone(program, tmp_path):
    config = f"--config={LAUNCH.parent / 'configs' / 'finetune.py'}"
    given = (config, f"--workdir={tmp_path}", "--config.student=other")
    code, out, err = program("finetune", *given)
    said = "error: --config.student is what --workdir says; leave it out\n"
    assert (code, out, err) == (2, "", said)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_a_report_that_is_gone_is_not_promised(program, tmp_path, monkeypatch):
    monkeypatch.setattr(distill, "distill", lambda *_, **__: {})
    monkeypatch.setattr(tables, "print_result", lambda result: None)
    config = f"--config={LAUNCH.parent / 'configs' / 'quickstart.py'}"

    def said():
        code, out, _ = program("distill", config, f"--workdir={tmp_path}")
        assert code == 0
        return out

    gone = f"note: {tmp_path}/report.html is not there; "
    remove = f"remove {tmp_path}/result.json, and the same command writes both\n"
    assert said() == gone + remove
    # Nor is what it would be made of.
    (tmp_path / "result.json").touch()
    back = f"put back {tmp_path}/checkpoints, which is not there either, then "
    for standing in ({"experts": [{"path": "x"}]}, {"games": ["pong"]}):
        (tmp_path / "config.json").write_text(json.dumps(standing))
        assert said() == gone + back + remove
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    assert said() == gone + remove
    (tmp_path / "report.html").touch()
    assert said() == f"report in {tmp_path}/report.html\n"


def test_every_program_has_a_test_of_its_flags_and_so_have_those_that_they_share(program):
    programs = {path.stem for path in LAUNCH.glob("[!_]*.py")}
    tested = {"evaluate", "watch", "convert", "export", "push", "sweep", "merge_weights", "doctor"}
    assert programs == tested | set(MADE) and program.own("doctor") == set()
    shared = {}
    for name in programs:
        program.load(name)
        for module, own in flags.FLAGS.flags_by_module_dict().items():
            if module.startswith("_"):
                shared.setdefault(module, set()).update(flag.name for flag in own)
    assert shared == {
        "_main": {"import"},
        "_cache": {"cache_dir"},
        "_wandb": {"wandb"},
        "_processes": {"coordinator", "processes", "process"},
    }


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_what_is_compiled_is_kept_where_games_are(program, tmp_path, monkeypatch):
    program.load("evaluate")
    cache = sys.modules["_cache"]
    standing = jax.config.jax_compilation_cache_dir
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    try:
        flags.FLAGS(["program", f"--cache_dir={tmp_path}"])
        assert cache.cache_dir() == tmp_path
        assert jax.config.jax_compilation_cache_dir == standing, "its own variable goes before"
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        flags.FLAGS(["program", "--cache_dir="])
        assert cache.cache_dir() is None
        assert jax.config.jax_compilation_cache_dir == standing
        flags.FLAGS(["program", f"--cache_dir={tmp_path}"])
        assert cache.cache_dir() == tmp_path
        (directory,) = (tmp_path / "compiled").iterdir()
        assert jax.config.jax_compilation_cache_dir == str(directory)
        program.load("distill")  # several processes can share its runs
        alike, needed = tmp_path / "shared", ["--config=merge:pong=x.pth", "--workdir=x"]
        for given, kept in ((["--coordinator=auto"], False), ([], True)):
            flags.FLAGS.unparse_flags()
            flags.FLAGS.coordinator = None
            flags.FLAGS(["program", f"--cache_dir={alike}", *needed, *given])
            assert sys.modules["_cache"].cache_dir() == alike
            assert alike.exists() == kept
    finally:
        jax.config.update("jax_compilation_cache_dir", standing)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)


def test_an_error_line_holds_nothing_that_a_terminal_obeys(program):
    code, _, line = program("evaluate", "--expert=no\x1b[2J\x07file")
    assert code == 2 and line.startswith("error: ") and r"no\x1b[2J\x07file" in line
    assert line.count("\n") == 1 and line[:-1].isprintable()


@pytest.fixture(scope="module")
def experts(watcher, tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    watcher("asterix", 1, "q").save(root / "q")
    watcher("asterix", 1, "logits").save(root / "logits")
    dataclasses.replace(watcher("asterix", 1, "logits"), game=None).save(root / "any")
    return root


CARD = {
    "measured": {
        "games": [
            {
                "game": "pong",
                "expert": {
                    "mean": 12.5,
                    "interval": [10.25, 14.75],
                    "episodes": 64,
                    "distinct_starts": 60,
                    "mean_steps": 1000.0,
                },
            }
        ],
        "epsilon": 0.05,
        "opening_steps": 10,
        "opening_by": "random",
        "max_steps": 60,
    }
}


@pytest.fixture(scope="module")
def student(watcher, tmp_path_factory):
    """A student of two games that was exported; its card knows the expert of one."""
    one, where = watcher("pong", 1), tmp_path_factory.mktemp("exported") / "student"
    chosen = [tasks.get(game) for game in ("pong", "breakout")]
    roles = tuple(Role(task.name, one.view, task.actions, "someone") for task in chosen)
    Student("mine", one.network, one.params, "q", roles, card=CARD).save(where)
    return where


def test_an_exported_student_is_a_workdir(program, student, tmp_path):
    def done(name, *given):
        code, out, err = program(name, f"--workdir={student}", *given)
        assert code == 0, err
        return out

    whole = done("evaluate", "--episodes=1", f"--out={tmp_path / 'x.json'}")
    assert "12.5 [10.2, 14.8]" in whole
    assert (
        "breakout" in whole and "of at most 60 steps" in whole and "of the student's card" in whole
    )
    pong, breakout = json.loads((tmp_path / "x.json").read_text())["games"]
    assert pong["expert"] == CARD["measured"]["games"][0]["expert"]
    kept = (pong["student"]["mean"] - pong["random"]["mean"]) / (12.5 - pong["random"]["mean"])
    assert pong["retention"] == pytest.approx(kept) and "expert" not in breakout
    other = done("evaluate", "--episodes=1", "--epsilon=0.5", "--game=pong")
    assert "12.5" not in other and "no scores of its experts" in other and "breakout" not in other

    film = tmp_path / "film.gif"
    given = ("--steps=8", f"--out={film}", "--width=80")
    assert "9 frames; breakout, " in done("watch", "--game=breakout", *given)
    alone = Image.open(io.BytesIO(film.read_bytes()))
    film.unlink()
    said = done("watch", *given)
    assert "9 frames; pong, " in said and "; breakout, " in said, "without a game all are played"
    beside = Image.open(io.BytesIO(film.read_bytes()))
    assert (alone.size, beside.size) == ((80, 105), (168, 105))
    parts = [np.asarray(picture.convert("RGB"), float) for picture in (alone, beside)]
    assert np.abs(parts[0] - parts[1][:, 88:]).mean() < 10, "the second is that of breakout alone"
    again = tmp_path / "again"
    done("export", "--format=student", f"--out={again}")
    files = ("policy.json", "policy.safetensors")
    assert [(again / x).read_bytes() for x in files] == [(student / x).read_bytes() for x in files]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
def test_an_exported_student_goes_on_elsewhere_and_alone(program, student, tmp_path, contents):
    before = contents(student)
    assert finetune.get_config().expert_weight > 0 == finetune.get_config("alone").expert_weight
    config = f"--config={LAUNCH.parent / 'configs' / 'finetune.py'}"
    for named, given, said in (
        (":alone", (), "is a student that was exported, and stays as it is; give --out=DIR"),
        ("", (f"--out={tmp_path / 'on'}",), "expert_weight is 4, and student of"),
        (":near", (), "configs/finetune.py:near: expected experts or alone"),
    ):
        code, out, err = program("finetune", config + named, f"--workdir={student}", *given)
        assert (code, out, err.count("\n")) == (2, "", 1) and said in err
    assert contents(student) == before and not (tmp_path / "on").exists()


def test_a_policy_is_written_for_other_programs(program, student, experts, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("flatbuffers")

    def is_about(x):
        return isinstance(x, ast.Assign) and getattr(x.targets[0], "id", "") == "ABOUT"

    def told(name, *given):
        out = tmp_path / name
        code, printed, err = program("export", f"--out={out}", *given)
        if name.startswith("module"):
            module = out.with_suffix(".py")
            assert code == 0 and f"its module, and how it is used: {module}" in printed, err
            parts = [*ast.walk(ast.parse(module.read_text()))]
            (act,) = (x for x in parts if getattr(x, "name", "") == "act")
            (about,) = (ast.literal_eval(x.value) for x in parts if is_about(x))
            given = [argument.arg for argument in act.args.args[1:]]
            return out.read_bytes(), given, [x["game"] for x in about["tasks"]]
        assert code == 0 and f"what goes in and comes out: {out}.json" in printed, err
        said = json.loads((tmp_path / f"{name}.json").read_text())
        return (
            out.read_bytes(),
            [x["name"] for x in said["inputs"]],
            [x["name"] for x in said["tasks"]],
        )

    both, one = ["observations", "task"], ["observations"]
    whole = f"--workdir={student}"
    files = []
    for kind in ("module", "onnx", "stablehlo"):
        for given, inputs, games in (
            ((whole,), both, ["pong", "breakout"]),
            ((whole, "--game=breakout"), one, ["breakout"]),
            ((f"--expert={experts / 'q'}",), one, ["asterix"]),
            ((f"--expert={experts / 'any'}", "--game=pong"), one, ["pong"]),
        ):
            name = f"{kind}{len(files)}"
            content, *said = told(name, f"--format={kind}", *given)
            assert said == [inputs, games]
            files.append(content)
    assert len(set(files)) == 12


def test_what_a_student_was_not_taught_is_in_files_of_all_actions_alone(program, tmp_path):
    """Of Breakout's four actions it was taught three; Stable-Baselines3 has an output for each."""
    pytest.importorskip("flatbuffers")
    network, view = networks.create("nature"), tasks.get("breakout").view
    params = jax.device_get(networks.init(network, jax.random.key(0), view.shape))
    where = tmp_path / "student"
    role = Role("breakout", view, (0, 1, 4), "three")
    Student("x", network, params, "q", (role,)).save(where)
    for who in ("expert", "workdir"):
        for kind in ("expert", "sb3", "stablehlo"):
            out = tmp_path / f"{kind}-{who}.zip"
            given = (f"--{who}={where}", "--game=breakout", f"--format={kind}", f"--out={out}")
            code, _, err = program("export", *given)
            assert code == 0, err
            if kind == "stablehlo":
                told = json.loads((tmp_path / f"{out.name}.json").read_text())
                assert told["tasks"][0]["actions"] == [0, 1, 4]
            else:
                read = formats.load(out, game="breakout")
                assert read.mask.sum() == 4
                assert len(read.actions) == (18 if kind == "expert" else 4)


def test_a_student_with_controllers_is_led_to_a_format_that_has_it(program, tmp_path):
    """Game by game it has outputs for what is valid alone, which the reference has no files for."""
    chosen = [tasks.get(game) for game in ("pong", "breakout")]
    network, view = networks.for_tasks(networks.create("multi_task"), chosen), chosen[0].view
    params = jax.device_get(networks.init(network, jax.random.key(0), view.shape))
    roles = tuple(Role(task.name, view, task.actions, "someone") for task in chosen)
    where, out = tmp_path / "student", tmp_path / "out.zip"
    Student("x", network, params, "q", roles).save(where)

    def said(*given):
        code, _, err = program("export", f"--workdir={where}", f"--out={out}", *given)
        return code, err

    code, err = said()
    assert code == 2 and "game by game, --format=sb3 --game=NAME, or whole, --format=module" in err
    code, err = said("--format=expert", "--game=breakout")
    assert (
        code == 2
        and "all 18 ALE actions in order, --format=module, sb3, onnx and stablehlo any" in err
    )
    assert not out.exists()
    assert said("--format=sb3", "--game=breakout")[0] == 0
    assert formats.load(out, game="breakout").actions == tasks.get("breakout").actions


EVALUATE = {
    "episodes": "2",
    "epsilon": "0.9",
    "opening_steps": "40",
    "seed": "5",
    "sample_logits": "true",
    "max_steps": "60",
}


def test_every_flag_of_evaluate_changes_what_it_measures(program, experts, tmp_path, monkeypatch):
    def measured(*given, expert="logits"):
        code, out, err = program("evaluate", f"--expert={experts / expert}", *given)
        assert code == 0, err
        return out.splitlines()[3:]

    quick = ["--episodes=1", "--epsilon=0.5", "--seed=2"]
    base = measured(*quick)
    assert measured(*quick) == base
    for name, value in EVALUATE.items():
        assert measured(*quick, f"--{name}={value}") != base, name
    assert measured(*quick, "--game=asterix", expert="any") == base
    assert measured(*quick, "--game=pong", expert="any") != base
    assert measured(*quick, expert="q") != base
    assert measured(*quick, f"--out={tmp_path / 'x.json'}") == base
    # In a game of other rules than the usual it is measured in both.
    ruled = ("--rules=frame_skip=2", f"--out={tmp_path / 'y.json'}")
    assert measured(*quick, *ruled) != base
    usual, own = (json.loads((tmp_path / x).read_text())["games"][0] for x in ("x.json", "y.json"))
    assert own["expert"] != own["expert_usual"] == usual["expert"]
    assert own["rules"] == {"frame_skip": 2} and "rules" not in usual
    code, _, err = program("evaluate", f"--expert={experts / 'q'}", "--spec=none.toml")
    assert code == 2 and "none.toml" in err
    # Of a run.
    calls = []
    monkeypatch.setattr(evaluating, "_measure_run", lambda *a, **k: calls.append((*a, k)) or [])
    monkeypatch.setattr(students, "load_suite", lambda workdir: ATARI)
    settled = distill_settings.Settings(
        ({"path": "x"},), evaluate=distill_settings.Evaluate(max_steps=27_000)
    )
    monkeypatch.setattr(students, "load_settings", lambda workdir: settled)
    run = ["--workdir=there"]
    own = ([], ["--workdir=elsewhere"], ["--opening_by=expert"], ["--game=pong"], ["--max_steps=9"])
    for given in own:
        assert program("evaluate", *run, *given)[0] == 0
    assert all(call not in calls[:i] for i, call in enumerate(calls)) and len(calls) == len(own)
    asked = [terms for _, terms, _ in calls]
    assert asked[0].epsilon == 0.05 and asked[0].opening_steps == 10
    assert asked[0].seed == 1, "games that the run has not reported"
    seeds, measure = [], measuring.measure_alone
    monkeypatch.setattr(
        measuring,
        "measure_alone",
        lambda x, terms, **k: seeds.append(terms.seed) or measure(x, terms, **k),
    )
    measured("--episodes=1", "--max_steps=60")
    assert set(seeds) == {protocols.REPORT_SEED}, "the games that a run of this expert reports"
    assert [terms.max_steps for terms in asked] == [27_000] * 4 + [9]
    rows = {*EVALUATE, "game", "expert", "out", "spec", "rules", "workdir", "opening_by"}
    assert program.own("evaluate") == rows


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("evaluate", ("--workdir=x", "--opening_by=expert", "--opening_steps=0"), "opening_by"),
        ("evaluate", ("--expert=Q", "--sample_logits"), "--sample_logits goes with"),
        ("evaluate", ("--expert=none", "--out=x/y.json"), "there is no folder"),
        ("watch", ("--expert=none", "--out=x/y.gif"), "there is no folder"),
        ("watch", ("--expert=none", "--out=x.avi"), "clips are written as .gif or .mp4"),
        ("evaluate", ("--expert=Q", "--opening_by=expert"), "--opening_by goes with"),
        ("evaluate", ("--workdir=x", "--spec=y"), "--spec goes with --expert"),
        ("evaluate", ("--workdir=T", "--opening_by=expert"), "goes with a distillation"),
        ("evaluate", ("--workdir=T", "--sample_logits"), "--sample_logits goes with --expert"),
        ("evaluate", ("--workdir=T", "--game=pong"), "learnt lander/standard, lander/windy, not"),
        ("evaluate", ("--expert=Q", "--game=pong"), "plays asterix, and pong was asked for"),
        ("convert", ("--source=Q", "--game=pong", "--out=x"), "plays asterix, and pong was asked"),
        ("watch", ("--workdir=T", "--out=x.gif", "--game=pong"), "learnt lander/standard, lander"),
        ("watch", ("--workdir=T", "--out=x.gif", "--spec=y"), "--spec goes with --expert"),
        ("watch", ("--expert=Q", "--out=x.gif", "--sample_logits"), "--sample_logits goes with"),
        ("convert", ("--source=Q", "--out=x", "--epsilon=0.5"), "--epsilon goes with --episodes"),
        ("convert", ("--source=Q", "--out=x", "--seed=1"), "--seed goes with --episodes"),
        ("convert", ("--source=Q",), "give --out=DIR for the expert, --spec_template or"),
        ("convert", ("--source=Q", "--spec_template=x", "--rules=x"), "--rules goes with a conv"),
        ("convert", ("--source=Q", "--spec_template=x"), "is a directory; a spec describes a file"),
        ("convert", ("--source=Q", "--try_episodes=1"), "plays what a spec leaves open; give"),
        ("convert", ("--source=Q", "--try_episodes=1", "--out=x"), "--out goes with a conv"),
        ("export", ("--workdir=x", "--out=x", "--dtype=float16"), "--dtype goes with"),
        ("export", ("--workdir=T", "--out=x"), "holds a training and no distillation"),
        ("export", ("--expert=Q", "--out=x", "--format=merged"), "--format goes with"),
        ("export", ("--expert=Q", "--out=x", "--format=expert"), "the reference convention cannot"),
        (
            "export",
            ("--expert=Q", "--out=x", "--format=sb3", "--dtype=float32"),
            "--dtype goes",
        ),
        ("export", ("--expert=Q", "--out=x", "--format=sb3", "--game=pong"), "plays asterix, and"),
        ("export", ("--expert=Q", "--out=x", "--format=student"), "--expert goes with another"),
        ("export", ("--expert=Q", "--out=x", "--format=onnx", "--dtype=float16"), "--dtype goes"),
        ("export", ("--workdir=S", "--out=x", "--format=sb3"), "name one of pong, breakout"),
        ("evaluate", ("--workdir=S", "--opening_by=expert"), "whose experts are at hand"),
        ("evaluate", ("--workdir=S", "--game=qbert"), "distilled pong, breakout, not qbert"),
        ("watch", ("--workdir=S", "--out=x.gif", "--game=qbert"), "distilled pong, breakout, not"),
        ("watch", ("--workdir=S", "--out=x.gif", "--game="), "unknown task ''"),
        ("watch", ("--workdir=T", "--out=x.gif", "--game="), "unknown task ''"),
        ("export", ("--workdir=S", "--out=x", "--format=expert", "--game="), "unknown task ''"),
        ("export", ("--workdir=S", "--out=x", "--format=stablehlo", "--game="), "unknown task ''"),
        ("export", ("--expert=Q", "--out=x", "--format=sb3"), "convolutions other than Nature's"),
        ("export", ("--workdir=T", "--out=x", "--format=sb3"), "holds a training and no"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(
    program, experts, student, tmp_path, name, given, said, request
):
    if "--workdir=T" in given:
        _, training, _ = request.getfixturevalue("lander_training")
        given = [x.replace("=T", f"={training}") for x in given]
    given = [x.replace("=S", f"={student}") for x in given]
    given = [
        x.replace("=Q", f"={experts / 'q'}").replace("=x", f"={tmp_path / 'x'}") for x in given
    ]
    code, _, err = program(name, *given)
    assert code == 2 and said in err


@pytest.mark.parametrize(("name", "out"), [("evaluate", "/x.json"), ("watch", "/x.gif")])
def test_nothing_is_played_for_a_file_that_may_not_be_written(program, unprivileged, name, out):
    code, _, err = program(name, "--expert=none", f"--out={out}")
    assert code == 2 and f"--out={out}: nothing may be written in /; name another" in err


def test_every_flag_of_watch_convert_and_export_changes_what_is_written(program, experts, tmp_path):
    def written(name, *given):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.gif"
        code, printed, err = program(name, f"--out={out}", *given)
        assert code == 0, err
        return out.read_bytes() if out.is_file() else printed.replace(str(out), "")

    watch = [f"--expert={experts / 'logits'}", "--steps=24", "--epsilon=0.5"]
    seen = [
        written("watch", *watch, *given)
        for given in (
            [],
            ["--steps=30"],
            ["--epsilon=1"],
            ["--seed=2"],
            ["--sample_logits"],
            [f"--expert={experts / 'any'}", "--game=pong"],
            ["--rules=noop_max=1"],
            ["--width=40"],
        )
    ]
    assert len(set(seen)) == 8
    rows = {"rules", "expert", "out", "steps", "epsilon", "seed", "sample_logits", "game", "width"}
    assert program.own("watch") == rows | {"spec", "workdir"}

    convert = [f"--source={experts / 'q'}", "--episodes=1", "--epsilon=0.5"]
    seen = [
        written("convert", *convert, *given)
        for given in (
            [],
            ["--episodes=2"],
            ["--epsilon=0.9"],
            ["--seed=3"],
            [f"--source={experts / 'any'}", "--game=pong"],
            ["--rules=frame_skip=2"],
        )
    ]
    assert len(set(seen)) == 6
    rows = {"rules", "source", "out", "episodes", "epsilon", "seed", "game"}
    assert program.own("convert") == rows | {"spec", "spec_template", "try_episodes"}
    assert program.own("export") == {
        "workdir",
        "expert",
        "out",
        "format",
        "convention",
        "game",
        "dtype",
    }


def test_a_spec_is_begun_and_what_it_leaves_open_is_played(program, tmp_path):
    golden = LAUNCH.parent / "tests" / "golden" / "expert_dueling"
    source, spec = f"--source={golden}.pth", tmp_path / "new.toml"
    code, _, err = program("convert", source, f"--spec_template={spec}", "--game=breakout")
    assert code == 0, err
    assert "# activation = " in spec.read_text() and 'game = "breakout"' in spec.read_text()
    code, _, err = program("convert", source, f"--spec_template={spec}")
    assert code == 2 and "exists; choose another file" in err
    # Two answers, to the order of frames alone.
    said = 'flatten = "channels_first"\n' + golden.with_suffix(".toml").read_text()
    (tmp_path / "it.toml").write_text(said)
    tries = (
        source,
        f"--spec={tmp_path / 'it.toml'}",
        "--epsilon=1",
        "--seed=1",
        "--try_episodes=2",
    )
    code, out, err = program("convert", *tries)
    assert code == 0, err
    assert out.startswith("2 games each, epsilon 1, 95%")
    rows = [x.split() for x in out.splitlines() if "_first  " in x]
    assert sorted(row[0] for row in rows) == ["newest_first", "oldest_first"]
    assert float(rows[0][1]) >= float(rows[1][1])
    assert f'the best has stack_order = "{rows[0][0]}"' in out


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # by huggingface_hub
def test_every_flag_of_push_changes_what_is_pushed(program, server, tmp_path, watcher):
    expert = watcher("asterix", 1)
    score = {"mean": 1.0, "interval": [0.0, 2.0], "episodes": 3}
    rows = dict.fromkeys(("random", "expert", "student"), score)
    rows |= {"retention": 1.0, "retention_interval": [0.5, 1.5], "human_normalised": None}
    measured = {"epsilon": 0.05, "opening_steps": 0, "opening_by": "random"}
    for name, mean in (("one", 1.0), ("other", 2.0)):
        scored = rows | {"game": "asterix", "student": score | {"mean": mean}}
        card = {"measured": measured | {"games": [scored]}}
        role = Role("asterix", expert.view, expert.task.actions, expert.name)
        Student("x", expert.network, expert.params, "q", (role,), card=card).save(tmp_path / name)

    def pushed(*given, name="one", repo="me/flags"):
        before = {key: dict(x.branches) for key, x in server.repositories.items()}
        code, out, err = program("push", f"--workdir={tmp_path / name}", f"--repo={repo}", *given)
        assert code == 0, err
        changed = {
            (key, branch, tuple(repository.commits[commit].items()))
            for key, repository in server.repositories.items()
            for branch, commit in repository.branches.items()
            if before.get(key, {}).get(branch) != commit
        }
        return changed, repo in server.repositories and server.repositories[repo].private, out

    def first(*given, **options):
        server.repositories.clear()
        return pushed(*given, **options)[:2]

    seen = [
        first(),
        first(name="other"),
        first(repo="me/elsewhere"),
        first("--revision=next"),
        first("--private"),
        first("--license=mit"),
        first(f"--dry_run={tmp_path / 'dry'}"),
    ]
    assert all(one not in seen[:i] for i, one in enumerate(seen)) and seen[-1] == (set(), False)
    assert (tmp_path / "dry" / "README.md").is_file() and not server.repositories
    assert "pushed; read it as hf://me/flags@" in pushed()[2]
    code, _, err = program(
        "push", f"--workdir={tmp_path}", "--repo=a/b", "--private", f"--dry_run={tmp_path / 'x'}"
    )
    assert code == 2 and "--private goes with a push without --dry_run" in err
    own = {"workdir", "repo", "revision", "private", "license", "dry_run"}
    assert program.own("push") == own


def test_an_expert_of_combat_is_written_for_stable_baselines3(program, tmp_path):
    game = tasks.get("combat/clicking")
    network = networks.create("mlp_actor_critic_small", num_outputs=1)
    params = networks.init(network, jax.random.key(0), game.view.shape)
    fields = {"actions": game.actions, "game": game.name, "outputs": "logits"}
    own = Expert("clicker", network, params, view=game.view, **fields)
    own.save(tmp_path / "own")
    other = next(tasks.get(f"combat/{name}").view for name in ("movement", "duel"))
    wide = networks.init(network, jax.random.key(0), other.shape)
    dataclasses.replace(own, view=other, params=wide).save(tmp_path / "other")
    for name, noted in (("own", False), ("other", True)):
        out = tmp_path / f"{name}.zip"
        given = (f"--expert={tmp_path / name}", "--format=sb3", f"--out={out}")
        code, printed, err = program("export", *given)
        assert code == 0, err
        again = tmp_path / f"again_{name}.zip"
        export_sb3.export_expert(Expert.load(tmp_path / name), again)
        assert out.read_bytes() == again.read_bytes()
        assert ("will not know what it sees" in printed) == noted
    code, _, err = program("export", *given)
    assert code == 2 and "already exists" in err


@pytest.fixture(scope="module")
def lander(tmp_path_factory):
    """An expert of fixed numbers that chooses by where its lander is."""
    pytest.importorskip("Box2D")  # here: its import warns
    directory = tmp_path_factory.mktemp("lander") / "expert"
    kernel = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    Expert(
        name="pilot",
        network=networks.Network(convs=(), num_outputs=4),
        params={"params": {"action": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}},
        outputs="q",
        actions=(0, 1, 2, 3),
        view=Vector(8),
        game="lander/standard",
    ).save(directory)
    return directory


def test_who_is_measured_explores_as_the_suite_says(program, lander, experts):
    def measured(expert, *given):
        code, out, err = program("evaluate", f"--expert={expert}", "--episodes=2", *given)
        assert code == 0, err
        return out.splitlines()[1:]

    plain = measured(lander)
    assert plain == measured(lander, "--epsilon=0") != measured(lander, "--epsilon=0.05")
    assert any("crash" in line for line in plain), "how its games ended"
    atari = measured(experts / "q")
    assert atari == measured(experts / "q", "--epsilon=0.05")
    assert atari != measured(experts / "q", "--epsilon=0")
    assert not any("player" in line for line in atari)


def test_a_step_limit_cuts_the_games_that_are_measured(program, lander, lander_training, tmp_path):
    """Of an expert and of a training, which is told from a distillation by what it holds."""
    for who in (f"--expert={lander}", f"--workdir={lander_training[1]}"):
        lengths = []
        for limit in (20, 40):
            out = tmp_path / f"{who[2:4]}{limit}.json"
            flags = (f"--max_steps={limit}", "--episodes=2", f"--out={out}")
            code, printed, err = program("evaluate", who, *flags)
            assert code == 0, err
            said = json.loads(out.read_text())
            assert said["max_steps"] == limit and said["epsilon"] == said["opening_steps"] == 0
            player = said["games"][0]["expert" if "expert" in who else "network"]
            lengths.append(player["mean_steps"])
            assert "how games ended" in printed and "None" not in printed
        assert lengths == [20, 40]


def test_a_run_s_own_step_limit_is_said_where_no_flag_gives_another(
    program, lander_training, tmp_path
):
    settings, workdir, _ = lander_training
    out = tmp_path / "measured.json"
    code, printed, err = program("evaluate", f"--workdir={workdir}", "--episodes=2", f"--out={out}")
    assert code == 0, err
    assert json.loads(out.read_text())["max_steps"] == settings.max_steps == 90
    assert "of at most 90 steps" in printed
    # A game's own is not, and a longer one is.
    for limit, said in ((400, None), (1000, 1000)):
        out = tmp_path / f"{limit}.json"
        given = (f"--max_steps={limit}", "--game=lander/windy", "--episodes=1", f"--out={out}")
        code, printed, err = program("evaluate", f"--workdir={workdir}", *given)
        assert code == 0, err
        assert json.loads(out.read_text())["max_steps"] == said
        assert ("of at most" in printed) == bool(said)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("evaluate", ("--expert=L", "--out=X")),
        ("evaluate", ("--workdir=T", "--out=X")),
        ("watch", ("--expert=L", "--out=X.gif")),
        ("convert", ("--source=L", "--out=X", "--episodes=1")),
    ],
    ids=lambda x: x if isinstance(x, str) else x[0][2:-2],
)
def test_a_lander_without_box2d_is_one_line_and_leaves_nothing(
    program, lander, lander_training, tmp_path, monkeypatch, name, given
):
    for old, new in (("=L", lander), ("=T", lander_training[1]), ("=X", tmp_path / "x")):
        given = [x.replace(old, f"={new}") for x in given]
    monkeypatch.setitem(sys.modules, "Box2D", None)
    lander_tasks._world_class.cache_clear()
    code, out, err = program(name, *given)
    assert code == 2 and out == "" and list(tmp_path.iterdir()) == []
    assert err.startswith("error: landers need Box2D") and err.count("\n") == 1


def test_every_flag_of_watch_shows_in_a_training_s_film(
    program, lander_training, tmp_path, monkeypatch
):
    actors, actor = [], rollouts.expert_actor
    monkeypatch.setattr(
        rollouts, "expert_actor", lambda *x, **y: actors.append(x) or actor(*x, **y)
    )

    def filmed(*given):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.gif"
        code, _, err = program("watch", f"--workdir={lander_training[1]}", f"--out={out}", *given)
        assert code == 0, err
        return out.read_bytes()

    quick = ["--game=lander/windy", "--steps=30"]
    films = [
        filmed(*quick, *given)
        for given in ([], ["--epsilon=1"], ["--seed=2"], ["--steps=35"], ["--game=lander/standard"])
    ]
    del actors[:]
    films.append(filmed("--steps=30"))
    assert len(actors) == 1, "all its landers are played by one compiled policy"
    assert Image.open(io.BytesIO(films[-1])).width == 2 * 300 + 8, "both of its landers"
    assert len(set(films)) == len(films)
    assert filmed(*quick, "--epsilon=0") == films[0], "landers do not explore unless it is said"
    picture = Image.open(io.BytesIO(films[0]))
    assert picture.n_frames > 15 and picture.info["duration"] == 20  # milliseconds, of 50 a second


def test_a_lander_is_filmed_at_its_own_speed(program, lander, tmp_path):
    av = pytest.importorskip("av")
    out = tmp_path / "film.mp4"
    code, _, err = program("watch", f"--expert={lander}", "--steps=25", f"--out={out}")
    assert code == 0, err
    with av.open(str(out)) as film:
        (stream,) = film.streams.video
        assert (stream.width, stream.height, stream.average_rate) == (300, 200, 50)
        assert sum(1 for _ in film.decode(video=0)) == 26
