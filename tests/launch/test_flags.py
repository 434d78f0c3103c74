"""Every flag of the programs that measure and write has a row that shows what it changes."""

import importlib.util
import pathlib
import sys

import pytest
from absl import flags

from jaxdistill.run import distill

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


@pytest.fixture
def program(monkeypatch, capsys):
    """`program(name, *flags)` runs one in this process: its exit code, stdout and stderr."""
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # or it would start itself anew
    monkeypatch.syspath_prepend(str(LAUNCH))
    # Programs in benchmarks/ that other tests import have flags of the same names.
    others = [
        (module, flag)
        for module, own in flags.FLAGS.flags_by_module_dict().items()
        for flag in own
        if module.startswith("benchmarks")
    ]
    for _, flag in others:
        delattr(flags.FLAGS, flag.name)
    known = set(flags.FLAGS)

    def clear():
        for name in set(flags.FLAGS) - known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        for name in ("_main", "_processes"):
            sys.modules.pop(name, None)

    def load(name):
        clear()
        spec = importlib.util.spec_from_file_location("program", LAUNCH / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "program", module)  # absl asks whose flags they are
        spec.loader.exec_module(module)
        return module

    def run(name, *arguments):
        module = load(name)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            module.run(module.main)
        return ended.value.code or 0, *capsys.readouterr()

    run.load = load
    run.own = lambda name: {
        flag.name for flag in load(name) and flags.FLAGS.flags_by_module_dict()["program"]
    }
    yield run
    clear()
    for module, flag in others:
        flags.FLAGS[flag.name] = flag
        flags.FLAGS.register_flag_by_module(module, flag)


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # by ml_collections
@pytest.mark.parametrize(
    ("name", "resumes"),
    [
        *((name, True) for name in ("collect", "distill", "train_expert")),
        *((name, False) for name in ("convert", "evaluate", "export", "watch")),
    ],
)
def test_an_interrupted_program_says_what_is_true(program, name, resumes, monkeypatch, capsys):
    module = program.load(name)

    def stopped():
        raise KeyboardInterrupt

    run = module.run
    text = (LAUNCH / f"{name}.py").read_text()
    assert ("run(main, resumes=True)" in text) == resumes
    needed = {"config": "configs/quickstart.py", "workdir": "x", "out": "x", "source": "x"}
    given = [f"--{k}={v}" for k, v in needed.items() if k in flags.FLAGS]
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *given])
    with pytest.raises(SystemExit) as ended:
        run(stopped, resumes=resumes)
    goes_on = "the same command goes on where it stopped"
    begins = "nothing was written, the same command begins again"
    line = f"interrupted; {goes_on if resumes else begins}\n"
    assert (ended.value.code, capsys.readouterr().err) == (130, line)


def test_an_error_line_holds_nothing_that_a_terminal_obeys(program):
    code, _, line = program("evaluate", "--expert=no\x1b[2J\x07file")
    assert code == 2 and line.startswith("error: ") and r"no\x1b[2J\x07file" in line
    assert line.count("\n") == 1 and line[:-1].isprintable()


@pytest.fixture(scope="module")
def experts(watcher, tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    watcher("asterix", 1, "q").save(root / "q")
    watcher("asterix", 1, "logits").save(root / "logits")
    return root


EVALUATE = {
    "episodes": "2",
    "epsilon": "0.9",
    "opening_steps": "40",
    "seed": "5",
    "sample_logits": "true",
}


def test_every_flag_of_evaluate_changes_what_it_measures(program, experts, tmp_path, monkeypatch):
    def measured(*given, expert="logits"):
        code, out, err = program("evaluate", f"--expert={experts / expert}", *given)
        assert code == 0, err
        return out.splitlines()[3:]

    quick = ["--episodes=1", "--epsilon=0.5", "--seed=1"]
    base = measured(*quick)
    assert measured(*quick) == base
    for name, value in EVALUATE.items():
        assert measured(*quick, f"--{name}={value}") != base, name
    assert measured(*quick, "--game=pong") != base
    assert measured(*quick, expert="q") != base
    assert measured(*quick, f"--out={tmp_path / 'x.json'}") == base
    assert (tmp_path / "x.json").is_file()
    code, _, err = program("evaluate", f"--expert={experts / 'q'}", "--spec=none.toml")
    assert code == 2 and "none.toml" in err
    # Of a run.
    calls = []
    monkeypatch.setattr(distill, "evaluate_student", lambda *a, **k: calls.append((a, k)) or [])
    run = ["--workdir=there"]
    for given in ([], ["--workdir=elsewhere"], ["--opening_by=expert"], ["--game=pong"]):
        assert program("evaluate", *run, *given)[0] == 0
    assert all(call not in calls[:i] for i, call in enumerate(calls)) and len(calls) == 4
    rows = {*EVALUATE, "game", "expert", "out", "spec", "workdir", "opening_by"}
    assert program.own("evaluate") == rows


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("evaluate", ("--workdir=x", "--opening_by=expert", "--opening_steps=0"), "opening_by"),
        ("evaluate", ("--expert=Q", "--sample_logits"), "--sample_logits goes with"),
        ("evaluate", ("--expert=Q", "--opening_by=expert"), "--opening_by goes with"),
        ("evaluate", ("--workdir=x", "--spec=y"), "--spec goes with --expert"),
        ("watch", ("--expert=Q", "--out=x.gif", "--sample_logits"), "--sample_logits goes with"),
        ("convert", ("--source=Q", "--out=x", "--epsilon=0.5"), "--epsilon goes with --episodes"),
        ("convert", ("--source=Q", "--out=x", "--seed=1"), "--seed goes with --episodes"),
        ("export", ("--workdir=x", "--out=x", "--dtype=float16"), "--dtype goes with"),
        ("export", ("--expert=Q", "--out=x", "--convention=expert"), "--convention goes with"),
    ],
)
def test_a_flag_that_means_nothing_is_refused(program, experts, tmp_path, name, given, said):
    given = [
        x.replace("=Q", f"={experts / 'q'}").replace("=x", f"={tmp_path / 'x'}") for x in given
    ]
    code, _, err = program(name, *given)
    assert code == 2 and said in err


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
            ["--game=pong"],
        )
    ]
    assert len(set(seen)) == 6
    rows = {"expert", "out", "steps", "epsilon", "seed", "sample_logits", "game"}
    assert program.own("watch") == rows | {"spec", "workdir"}

    convert = [f"--source={experts / 'q'}", "--episodes=1", "--epsilon=0.5"]
    seen = [
        written("convert", *convert, *given)
        for given in ([], ["--episodes=2"], ["--epsilon=0.9"], ["--seed=3"], ["--game=pong"])
    ]
    assert len(set(seen)) == 5
    rows = {"source", "out", "episodes", "epsilon", "seed", "game"}
    assert program.own("convert") == rows | {"spec"}
    assert program.own("export") == {"workdir", "expert", "out", "convention", "game", "dtype"}
