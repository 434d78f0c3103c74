"""The public Python interface."""

import dataclasses
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import types

import gymnasium
import gymnasium.wrappers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jaxdistill
from jaxdistill import api, meshes, networks, tasks
from jaxdistill.experts import formats, torch_file
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import train_settings
from jaxdistill.play import evaluation, lessons, measuring, protocols, records
from jaxdistill.run import closing, common, distill, students
from jaxdistill.tasks.actions import Discrete
from jaxdistill.tasks.task import Suite, Task
from jaxdistill.tasks.views import Vector, View

ROOT = pathlib.Path(__file__).parents[1]
PONG = ROOT / "experts" / "pong.pth"
TINY = {
    "network": "net3",
    "collect.num_envs": 4,
    "collect.initial_steps": 64,
    "collect.steps_per_round": 0,
    "collect.window_steps": 64,
    "learn.rounds": 1,
    "learn.updates_per_round": 1,
    "learn.batch_per_game": 8,
    "evaluate.every_rounds": 1,
    "evaluate.select_episodes": 1,
    "evaluate.report_episodes": 1,
    "evaluate.max_steps": 30,
}


@pytest.fixture(scope="module")
def pong():
    return jaxdistill.load(PONG)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Where a student of two games is, and what its distillation returned."""
    workdir = tmp_path_factory.mktemp("run")
    experts = {"pong": PONG, "breakout": ROOT / "experts" / "breakout.pth"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closing, "write_page", lambda *_: None)
        return workdir, jaxdistill.distill(experts, workdir, settings=TINY)


@pytest.fixture
def asked(monkeypatch):
    """Settings of the distillations that are asked for: none is made."""
    settings = []

    def noted(chosen, workdir, *, cache_dir):
        settings.append((chosen, workdir, cache_dir))
        return {}

    monkeypatch.setattr(distill, "distill", noted)
    return settings


def _pilot():
    """Of a lander, by numbers."""
    kernel = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    return Expert(
        name="pilot",
        network=networks.Network(convs=(), num_outputs=4),
        params={"params": {"action": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}},
        outputs="q",
        actions=(0, 1, 2, 3),
        view=Vector(8),
        game="lander/standard",
    )


def _shown(count):
    return np.random.default_rng(0).integers(0, 255, (count, 4, 84, 84), np.uint8)


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, jaxdistill; sys.exit(any(x in sys.modules for x in ('jax', 'numpy')))"
    assert not subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode
    assert set(jaxdistill.__all__) <= set(dir(jaxdistill))
    assert jaxdistill.tasks.get("pong").name == "pong"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        jaxdistill.nothing  # noqa: B018


def test_an_expert_acts_as_its_outputs_say(pong):
    assert pong.tasks == ("pong",) and pong.view().shape == (4, 84, 84)
    shown, task = _shown(6), jaxdistill.tasks.get("pong")
    outputs = pong.outputs(shown)
    assert outputs.shape == (6, 18)
    valid = list(task.actions)
    best = np.asarray(valid)[outputs[:, valid].argmax(axis=1)]
    np.testing.assert_array_equal(pong.act(shown), best)
    np.testing.assert_array_equal(pong.act(shown, "Pong"), best)
    np.testing.assert_array_equal(formats.load(PONG).greedy(shown), best)


def test_chance_is_drawn_from_the_key(pong):
    shown = _shown(64)
    one, other = (pong.act(shown, key=jax.random.key(k), epsilon=1.0) for k in (0, 1))
    assert set(one) == set(jaxdistill.tasks.get("pong").actions) and (one != other).any()
    np.testing.assert_array_equal(pong.act(shown, key=jax.random.key(0), epsilon=1.0), one)
    for chance in (1, np.float32(1), jnp.float32(1)):
        again = pong.act(shown, key=jax.random.key(0), epsilon=chance)
        np.testing.assert_array_equal(again, one)
    with pytest.raises(ValueError, match="give key"):
        pong.act(shown, epsilon=0.5)
    with pytest.raises(ValueError, match="holds Q-values, which are not sampled"):
        pong.act(shown, key=jax.random.key(0), sample=True)


def test_what_cannot_be_asked_is_refused(pong, tmp_path):
    with pytest.raises(ValueError, match=r"shape \(2, 84, 84\).* sees \(B, 4, 84, 84\)"):
        pong.act(np.zeros((2, 84, 84), np.uint8))
    with pytest.raises(ValueError, match="plays pong, not breakout"):
        pong.outputs(_shown(1), "breakout")
    with pytest.raises(FileNotFoundError, match=r"nothing\.pth"):
        jaxdistill.load(tmp_path / "nothing.pth")
    own = {"round": 3}
    with pytest.raises(ValueError, match=r"'learn\.round' is no setting"):
        settings = {"learn": own, "learn.rounds": 5}
        jaxdistill.distill([PONG], tmp_path / "run", settings=settings)
    assert own == {"round": 3}, "what was given stays as it is"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("epsilon", [7, -0.1, math.nan, math.inf, "0.5", None, [0.5]], ids=str)
def test_an_epsilon_that_is_no_chance_is_refused(pong, epsilon, tmp_path):
    """Before anything is played, and kept for others."""
    said = r"^epsilon is .*, expected a chance of 0 to 1$"
    with pytest.raises(ValueError, match=said):
        pong.act(_shown(1), key=jax.random.key(0), epsilon=epsilon)
    if epsilon is not None:  # which is the suite's
        with pytest.raises(ValueError, match=said):
            jaxdistill.evaluate(pong, episodes=1, epsilon=epsilon, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"episodes": 0}, "episodes is 0, expected a whole number of 1 to"),
        ({"episodes": -3}, "episodes is -3, expected a whole number of 1 to"),
        ({"episodes": 2.5}, r"episodes is 2\.5, expected a whole number"),
        ({"episodes": None}, "episodes is None, expected a whole number"),
        ({"seed": -1}, "seed is -1, expected a whole number of 0 to"),
        ({"seed": 2**31}, "seed is 2147483648, expected a whole number of 0 to 2147483647"),
        ({"seed": 10**30}, "seed is 1000.*, expected a whole number"),
    ],
    ids=str,
)
def test_numbers_of_games_that_cannot_be_are_refused(pong, asked, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        jaxdistill.evaluate(pong, **asked)


def test_numbers_of_any_kind_are_those_of_runs(skilled, tmp_path, monkeypatch):
    """Games of a run, which are known by what was asked for, are not played again."""
    expert, cache = skilled("clicking"), records.Records(shared=tmp_path)
    terms = protocols.Terms.of(expert.task.suite, episodes=2, seed=3, epsilon=0.0)
    scores = measuring.measure_alone(expert, terms, records=cache)

    def never(*_, **__):
        raise AssertionError("played again")

    monkeypatch.setattr(evaluation, "measure", never)
    policy = api.Policy("x", {str(expert.game): expert})
    for episodes, seed, epsilon in (
        *((2, 3, 0), (2, 3, None), (np.int64(2), np.uint8(3), np.float32(0))),
        (np.array(2), jnp.int32(3), jnp.float32(0)),
    ):
        how = {"episodes": episodes, "seed": seed, "epsilon": epsilon}
        measured = jaxdistill.evaluate(policy, **how, cache_dir=tmp_path)
        assert measured == {"combat/clicking": scores.summary()}


def test_openings_that_games_end_in_are_those_of_the_suite(own_tasks, watcher, monkeypatch):
    """In Python no argument and no setting says how long they are."""
    short = dataclasses.replace(jaxdistill.tasks.get("pong"), name="pong/short", max_steps=10)
    jaxdistill.tasks.add(short)
    expert = dataclasses.replace(watcher("pong", 1), game="pong/short")
    policy = api.Policy("x", {"pong/short": expert})
    said = r"^the suite's opening_steps is 10, expected less than the 10 steps of a game of pong/sh"
    with pytest.raises(ValueError, match=said):
        jaxdistill.evaluate(policy)
    slots = types.SimpleNamespace(_opened=[True], _opening_steps=10)
    slots._pool = types.SimpleNamespace(task=short)
    monkeypatch.setattr(
        measuring, "measure_alone", lambda *_, **__: evaluation._Slots._give_up(slots, 0)
    )
    with pytest.raises(ValueError, match=r"fewer steps, or 0 \(the suite's opening_steps\)$"):
        jaxdistill.evaluate(policy)


def test_pixels_are_bytes_and_numbers_are_floats(pong, watcher):
    """Only bytes are divided by 255: what is not would be answered wrongly without a word."""
    shown = _shown(3)
    for other in (shown / 255, shown.astype(np.int64), shown.astype(np.float32)):
        with pytest.raises(ValueError, match=f"are {other.dtype}, and .* 0 to 255; expected uint8"):
            pong.act(other)
    changes = dataclasses.replace(watcher("pong", 1), view=View(difference=True))
    numbers = np.random.default_rng(0).integers(0, 9, (5, 1, 8)).astype(np.uint8)
    for expert, given in ((changes, shown), (_pilot(), numbers)):
        policy = jaxdistill.api.Policy("x", {str(expert.game): expert})
        said = policy.outputs(given)
        np.testing.assert_array_equal(policy.outputs(given.astype(np.float64)), said)
        layer = expert.params["params"]["action"]
        wanted = given.reshape(len(given), -1).astype(np.float32) @ layer["kernel"] + layer["bias"]
        np.testing.assert_allclose(said[:, list(expert.actions)], wanted, rtol=1e-4, atol=1e-2)


def test_bytes_are_what_a_task_of_ones_own_says_are_pixels(own_tasks):
    """Be they no picture; and a picture may be of other numbers."""

    @dataclasses.dataclass(frozen=True)
    class Own(Task):
        suite: Suite = tasks.get("pong").suite
        name: str = "own/a"
        actions: tuple[int, ...] = (0, 1)
        max_steps: int = 5

        def pool(self, num_envs, **options):
            raise NotImplementedError

        def camera(self, **options):
            raise NotImplementedError

    for view, dtype in ((Vector(4), "uint8"), (View(height=2, width=2, stack=1), "float32")):
        suite = Suite(f"own {dtype}", ("A", "B"), view, dtype, frames_per_second=9, opening_steps=0)
        tasks.add(Own(f"own/{dtype}", suite=suite))
        network = networks.create("mlp", num_outputs=2)
        params = networks.init(network, jax.random.key(0), view.shape)
        expert = Expert("x", network, params, "q", (0, 1), view=view, game=f"own/{dtype}")
        policy = jaxdistill.Policy("x", {expert.game: expert})
        shown = np.arange(3 * 4, dtype=dtype).reshape(3, *view.shape)
        said = networks.forward(network, params, shown)
        np.testing.assert_allclose(policy.outputs(shown), said, rtol=1e-5, atol=1e-6)
        if dtype == "uint8":
            with pytest.raises(ValueError, match=r"are float32, and .*; expected uint8"):
                policy.outputs(shown.astype(np.float32))


def test_a_student_is_distilled_loaded_and_measured(run):
    workdir, result = run
    assert [row["game"] for row in result["games"]] == ["pong", "breakout"]
    student = jaxdistill.load(workdir)
    assert student.tasks == ("pong", "breakout")
    with pytest.raises(ValueError, match=r"holds a distillation, which .* leave it out"):
        jaxdistill.load(workdir, spec="pong.toml")
    with pytest.raises(ValueError, match="plays pong, breakout; give task, one of them"):
        student.act(_shown(1))
    alone = jaxdistill.load(workdir, task="breakout")
    assert alone.tasks == ("breakout",)
    shown = _shown(4)
    np.testing.assert_array_equal(alone.outputs(shown), student.outputs(shown, "breakout"))
    how = {"episodes": 2, "epsilon": 0.5, "seed": 3}
    measured = jaxdistill.evaluate(student, task="breakout", **how)
    assert list(measured) == ["breakout"] and measured["breakout"]["episodes"] == 2
    # They are the games of a run that plays by the suite's terms.
    settings, state, _ = students.load_student(workdir)
    terms = dataclasses.replace(settings.evaluate, epsilon=0.5, opening_steps=10, max_steps=27_000)
    played = common.Run(
        dataclasses.replace(settings, evaluate=terms), meshes.create(), report_seed=3
    )
    act = played.student_policy(state.eval_params)
    (scores,) = played.measure(act, lessons.REPORT, 2, only=[1])
    assert measured["breakout"] == scores.summary()
    saved = workdir / "saved"
    student.save(saved)
    again = jaxdistill.load(saved)
    assert again.tasks == student.tasks
    np.testing.assert_array_equal(again.outputs(shown, "pong"), student.outputs(shown, "pong"))
    _check_exports(student, shown, workdir / "exports")


def _check_exports(student, shown, where):
    """Of a student of Pong and Breakout: whole, and in one task, as each format has it."""
    (said,) = student.export(where / "both.pth")
    assert said == f"its module, and how it is used: {where / 'both.py'}"
    for name, format, task in (
        ("one.pth", "module", "breakout"),
        ("merged.pth", "merged", None),
        ("expert.pth", "expert", "breakout"),
    ):
        student.export(where / name, format, task)
    for name in ("both.pth", "one.pth", "merged.pth", "expert.pth"):
        task = "breakout" if name in ("both.pth", "merged.pth") else None
        read = jaxdistill.load(where / name, task=task)
        assert read.tasks == ("breakout",)
        wanted = student.outputs(shown, "breakout") * student.experts["breakout"].mask
        found = read.outputs(shown) * student.experts["breakout"].mask
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    assert (where / "both.pth").stat().st_size > 0 and not (where / "expert.py").exists()
    for name, given, said in (
        ("both.pth", (), "both.pth already exists; choose another path"),
        ("x", ("torch",), "format is 'torch', expected one of expert, module, onnx"),
        ("x", ("student",), "format is 'student', expected one of"),
        ("x", ("sb3",), "give task, one of them"),
        ("x", ("merged", "pong"), "'merged' is of a whole student"),
        ("x", ("module", "qbert"), "plays pong, breakout, not qbert"),
    ):
        with pytest.raises(ValueError, match=said):
            student.export(where / name, *given)
    assert not (where / "x").exists()


def test_the_game_s_own_actions_are_numbered_from_0(pong):
    shown, own = _shown(64), jaxdistill.tasks.get("pong").actions
    for how in ({}, {"key": 1, "epsilon": 1.0}):
        indices = pong.act(shown, own=True, **how)
        np.testing.assert_array_equal(np.asarray(own)[indices], pong.act(shown, **how))
    assert set(indices) == set(range(6)) and own == (0, 1, 3, 4, 11, 12)
    keys = dataclasses.replace(
        _pilot(),
        network=networks.Network(convs=(), num_outputs=9),
        outputs="logits",
        actions=tuple(range(9)),
        view=jaxdistill.tasks.get("combat/duel").suite.view,
        game="combat/duel",
    )
    fighter = jaxdistill.Policy("x", {"combat/duel": keys})
    with pytest.raises(ValueError, match="keys and angles, which have no index; leave own out"):
        fighter.act(np.zeros((1, *fighter.view().shape), np.float32), own=True)


def test_what_is_chosen_is_compiled_once(pong, monkeypatch):
    traced, choose = [], Discrete.choose

    def noted(self, *given, **named):
        traced.append(named["sample"])
        return choose(self, *given, **named)

    monkeypatch.setattr(Discrete, "choose", noted)
    jaxdistill.api._chooser.cache_clear()
    for key in range(3):
        pong.act(_shown(5), key=key, epsilon=0.1 * key)
    assert traced == [False]
    params = pong._placed["pong"].params
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(params)), "and brought there once"


def test_a_seed_is_a_key(pong):
    shown = _shown(64)
    wanted = pong.act(shown, key=jax.random.key(3), epsilon=1.0)
    for key in (3, np.int64(3), jax.random.PRNGKey(3)):
        np.testing.assert_array_equal(pong.act(shown, key=key, epsilon=1.0), wanted)
    for wrong in ("3", 3.0, True, [0, 3], jax.random.split(jax.random.key(3))):
        with pytest.raises(ValueError, match=r"^key is .*, expected jax.random.key\(SEED\)"):
            pong.act(shown, key=wrong, epsilon=1.0)
    with pytest.raises(ValueError, match=r"^key is -1, expected a whole number of 0 to"):
        pong.act(shown, key=-1, epsilon=1.0)


def test_observations_that_are_none_are_refused(pong):
    with pytest.raises(ValueError, match=r"\(0, 4, 84, 84\): there are none"):
        pong.act(_shown(0))
    with pytest.raises(ValueError, match=r"one observation alone is observation\[None\]$"):
        pong.outputs(_shown(1)[0])
    lander = jaxdistill.Policy("x", {"lander/standard": _pilot()})
    for wrong in (math.nan, math.inf, 1e300):
        with pytest.raises(ValueError, match="observations hold NaN or infinity, and pilot sees"):
            lander.act(np.full((1, 1, 8), wrong))
    with pytest.raises(ValueError, match="observations are <U1, and pilot sees numbers"):
        lander.act(np.full((1, 1, 8), "x"))


def test_a_policy_is_shown_in_one_line(pong, run):
    assert repr(pong) == f"<Policy {PONG}: plays pong; sees 4x84x84 pixels>"
    assert "plays pong, breakout; sees 4x84x84 pixels>" in repr(jaxdistill.load(run[0]))
    assert len(repr(pong.experts["pong"])) < 2000
    landers = {f"task{i}": _pilot() for i in range(6)}
    said = "<Policy x: plays task0, task1, task2, task3 and 2 more; sees 8 numbers>"
    assert repr(jaxdistill.Policy("x", landers)) == said


def test_experts_are_files_mappings_and_policies(asked, pong, tmp_path):
    pong.save(tmp_path / "saved")
    saved = jaxdistill.load(tmp_path / "saved")
    np.testing.assert_array_equal(saved.outputs(_shown(2)), pong.outputs(_shown(2)))
    whole = {"path": PONG, "spec": pathlib.Path("x.toml"), "rules": "noop_max=1"}
    path = str(PONG)
    for given, wanted in (
        (path, ExpertSource(path)),
        (PONG, ExpertSource(path)),
        (pong, ExpertSource(path)),
        ([saved], ExpertSource(str(tmp_path / "saved"))),
        ({"pong": pong}, ExpertSource(path)),
        ({"pong": PONG}, ExpertSource(path, game="pong")),
        ([whole], ExpertSource(path, "x.toml", rules="noop_max=1")),
        ({"pong": whole}, ExpertSource(path, "x.toml", "pong", "noop_max=1")),
        ([{"path": path, "game": "pong"}], ExpertSource(path, game="pong")),
    ):
        jaxdistill.distill(given, tmp_path / "run")
        assert asked[-1][0].experts == (wanted,), given


@pytest.mark.parametrize(
    ("experts", "error", "said"),
    [
        (5, TypeError, r"^experts is 5, expected \{TASK: FILE\}, or a list of files$"),
        (10**5000, TypeError, "^experts is int too large to show, expected"),
        (b"x.pth", TypeError, "^experts is b'x.pth', expected a path"),
        ({"pong": None}, TypeError, r"^experts\['pong'\] is None, expected a path"),
        ([{"path": 3}], TypeError, r"^experts\[0\]\['path'\] is 3, expected a path"),
        ([{"pth": "x"}], ValueError, r"^experts\[0\].pth is unknown; known fields: path, spec"),
        ({"pong": {"path": "x", "game": "y"}}, ValueError, "its key says; leave out its game"),
    ],
    ids=lambda x: str(x) if isinstance(x, str) else type(x).__name__,
)
def test_what_is_no_expert_is_refused(asked, tmp_path, experts, error, said):
    with pytest.raises(error, match=said):
        jaxdistill.distill(experts, tmp_path / "run")
    assert not asked


def test_policies_that_stand_in_no_file_do_not_teach(asked, pong, run, tmp_path):
    with pytest.raises(ValueError, match="plays pong, not breakout"):
        jaxdistill.distill({"breakout": pong}, tmp_path / "run")
    student = jaxdistill.load(run[0])
    with pytest.raises(ValueError, match=r"say which it teaches, as \{TASK: policy\}$"):
        jaxdistill.distill([student], tmp_path / "run")
    with pytest.raises(TypeError, match=r"no file of an expert; save it by policy.save\(DIREC"):
        jaxdistill.distill({"pong": student}, tmp_path / "run")
    student.save(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"not empty; choose another directory$"):
        student.save(tmp_path / "saved")
    saved = jaxdistill.load(tmp_path / "saved")
    jaxdistill.distill({"pong": saved}, tmp_path / "run")
    (source,) = asked[-1][0].experts
    assert source == ExpertSource(str(tmp_path / "saved"), game="pong")
    alone = jaxdistill.load(run[0], task="breakout")
    alone.save(tmp_path / "alone")
    assert jaxdistill.load(tmp_path / "alone").tasks == ("breakout",)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        (["seed"], TypeError, r"^settings is \['seed'\], expected a mapping"),
        ({3: 4}, TypeError, "^settings: 3 is no name, expected one as 'learn.rounds'$"),
        ({"learn.round": 3}, ValueError, "is no setting; did you mean learn.rounds[?]$"),
        ({"lern": {"rounds": 3}}, ValueError, "'lern.rounds' is no .* mean learn.rounds[?]$"),
        ({"learn.x": 3}, ValueError, "'learn.x' is no setting; expected learn.NAME of rounds"),
        ({"x": 3}, ValueError, "'x' is no setting; expected NAME of together, view, network"),
        ({"experts": ["x"]}, ValueError, "'experts' is said by the argument experts; leave it"),
        ({"experts.0": "x"}, ValueError, "'experts.0' is said by the argument experts; leave"),
        ({"learn": 3, "learn.rounds": 4}, ValueError, "is no setting beside 'learn'"),
        ({"learn": {"rounds": 3}, "learn.rounds": 4}, ValueError, "'learn.rounds' is given twice"),
        ({"learn.rounds": "x"}, ValueError, r"^settings\.learn\.rounds is 'x', expected int$"),
    ],
    ids=str,
)
def test_settings_that_are_none_are_refused(asked, tmp_path, settings, error, said):
    with pytest.raises(error, match=said):
        jaxdistill.distill([PONG], tmp_path / "run", settings=settings)
    assert not asked


def test_settings_are_given_by_dotted_names_and_nested(asked, tmp_path):
    settings = {"learn.rounds": 3, "learn": {"loss": "kl"}, "rules": {"noop_max": 1}}
    jaxdistill.distill([PONG], tmp_path, settings=settings)
    ((chosen, _, _),) = asked
    assert (chosen.learn.rounds, chosen.learn.loss, chosen.rules.noop_max) == (3, "kl", 1)


def test_a_home_is_found_and_a_file_is_no_directory(asked, pong, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pong.pth").symlink_to(PONG)
    assert jaxdistill.load("~/pong.pth").tasks == ("pong",)
    jaxdistill.distill(["~/pong.pth"], "~/run", cache_dir=pathlib.Path("~/cache"))
    ((chosen, workdir, cache),) = asked
    assert chosen.experts[0].path == str(tmp_path / "pong.pth")
    assert (workdir, cache) == (str(tmp_path / "run"), str(tmp_path / "cache"))
    for call in (jaxdistill.distill, jaxdistill.evaluate):
        given = ([PONG], tmp_path / "run") if call is jaxdistill.distill else (pong,)
        with pytest.raises(ValueError, match=r"^cache_dir is .*pong\.pth, which is a file; expect"):
            call(*given, cache_dir="~/pong.pth")
    jaxdistill.distill([PONG], "~/run", cache_dir="")
    assert asked[-1][2] is None, "which is nowhere, not here"
    with pytest.raises(TypeError, match=r"^path is 5, expected a path"):
        jaxdistill.load(5)


def test_errors_speak_of_arguments_and_not_of_flags(tmp_path):
    odd = tmp_path / "--spec"
    odd.write_bytes(safetensors.numpy.save({"odd.weight": np.zeros((3, 5), np.float32)}))
    with pytest.raises(ValueError, match=r"--spec: .*give a spec \(spec=; `jaxdistill convert --"):
        jaxdistill.load(odd)
    with pytest.raises(ValueError, match=r"\(\{'path': FILE, 'spec': TOML\}; `jaxdistill convert"):
        jaxdistill.distill({"pong": odd}, tmp_path / "run")
    nameless = tmp_path / "x.safetensors"
    weights = torch_file.read(PONG).tree["policy_net_state_dict"]
    nameless.write_bytes(safetensors.numpy.save({k: np.asarray(v) for k, v in weights.items()}))
    with pytest.raises(ValueError, match=r"which game it plays; give it as \{TASK: FILE\}$"):
        jaxdistill.distill([nameless], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_another_program_has_left_is_no_run(tmp_path):
    (tmp_path / "config.json").write_text('{"algo": "APPO", "env": "atari_pong"}')
    shutil.copy(PONG, tmp_path / "best_000000001.pth")
    with pytest.raises(FileNotFoundError, match=r"give one of those in it, .*best_0\d*1\.pth"):
        jaxdistill.load(tmp_path)


class _Pong(gymnasium.Env):
    """Ends after a few steps, which must be of the 18 actions."""

    observation_space = gymnasium.spaces.Box(0, 255, (84, 84), np.uint8)
    action_space = gymnasium.spaces.Discrete(18)

    def reset(self, *, seed=None, options=None):
        self.left = 5
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.left -= 1
        return self.observation_space.sample(), 1.0, not self.left, False, {}


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_the_page_on_python_does_what_it_says(run, tmp_path, monkeypatch, capsys):
    """docs/python.md, with a small run in place of its own and no emulator behind its loop."""
    workdir, result = run
    text = (ROOT / "docs" / "python.md").read_text()
    first, loop = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "from_python").symlink_to(workdir)
    evaluate, api = jaxdistill.evaluate, jaxdistill.api
    monkeypatch.setattr(api, "distill", lambda experts, _, settings: result)
    monkeypatch.setattr(api, "evaluate", lambda x, **how: evaluate(x, **how | {"episodes": 2}))
    exec(first, {})
    assert {"agreement", "regret", "random", "expert"} <= result["games"][0].keys()
    assert {"mean_retention", "worst_retention", "geometric_retention"} <= result.keys()

    def made(name, *, full_action_space, **_):
        assert (name, full_action_space) == ("ALE/Pong-v5", True)
        return _Pong()

    monkeypatch.setitem(sys.modules, "ale_py", types.ModuleType("ale_py"))
    monkeypatch.setattr(gymnasium, "make", made)
    monkeypatch.setattr(gymnasium.wrappers, "AtariPreprocessing", lambda env, **_: env)
    exec(loop, {})
    assert capsys.readouterr().out.endswith("\n5.0\n")


def test_games_are_as_the_suite_says_where_nothing_is_said(pong, monkeypatch):
    asked = []

    def measure(expert, terms, **_):
        asked.append(terms)
        return types.SimpleNamespace(summary=dict)

    monkeypatch.setattr(measuring, "measure_alone", measure)
    jaxdistill.evaluate(pong)
    jaxdistill.evaluate(pong, episodes=3, epsilon=0.0, seed=5)
    usual = protocols.Terms(100, epsilon=0.05, seed=0, opening_steps=10)
    assert asked == [usual, protocols.Terms(3, epsilon=0.0, seed=5, opening_steps=10)]


def test_logits_are_sampled_and_angles_drawn_by_their_deviations(skilled):
    pilot = dataclasses.replace(_pilot(), outputs="logits")
    lander, still = jaxdistill.Policy("x", {"lander/standard": pilot}), np.zeros((400, 1, 8))
    one, again, other = (lander.act(still, key=k, sample=True) for k in (1, 1, 2))
    assert set(one) == {0, 1, 2, 3} and (one == again).all() and (one != other).any()
    assert len(set(lander.act(still))) == 1
    aimer = skilled("aiming", log_std=(-2.0, -2.0))
    policy = jaxdistill.Policy("x", {"combat/aiming": aimer})
    seen = np.zeros((500, *aimer.view.shape))
    drawn = policy.act(seen, key=1, sample=True) - policy.act(seen)
    assert drawn[:, 7:].std() == pytest.approx(np.exp(-2), rel=0.1)


def test_what_was_said_of_a_file_is_said_where_it_teaches(asked, tmp_path):
    golden = ROOT / "tests" / "golden"
    file, spec = (golden / f"expert_dueling.{end}" for end in ("pth", "toml"))
    policy = jaxdistill.load(file, spec=spec, task="breakout")
    jaxdistill.distill({"breakout": policy}, tmp_path / "run")
    assert asked[-1][0].experts == (ExpertSource(str(file), str(spec), "breakout"),)


def test_a_training_is_loaded_and_teaches_by_its_experts_files(asked, watcher, tmp_path):
    settings = train_settings.Settings(games=("asterix", "carnival"))
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(settings)))
    for game in settings.games:
        watcher(game, 1).save(tmp_path / "experts" / game)
    policy = jaxdistill.load(tmp_path)
    assert policy.tasks == settings.games
    assert jaxdistill.load(tmp_path, task="carnival").tasks == ("carnival",)
    jaxdistill.distill({"carnival": policy}, tmp_path / "run")
    assert asked[-1][0].experts == (ExpertSource(str(tmp_path / "experts" / "carnival")),)
    with pytest.raises(ValueError, match="holds a training, which says itself what it is"):
        jaxdistill.load(tmp_path, spec="x.toml")
