"""The public Python interface."""

import dataclasses
import math
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import networks
from jaxdistill.experts import formats
from jaxdistill.experts.expert import Expert
from jaxdistill.play import records
from jaxdistill.run import distill
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
    return workdir, jaxdistill.distill(experts, workdir, settings=TINY)


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
    with pytest.raises(ValueError, match=r"settings\.learn\.round is unknown"):
        jaxdistill.distill([PONG], tmp_path / "run", settings={"learn.round": 3})
    for wrong in ({"experts.0": "x"}, {"learn": 3, "learn.rounds": 4}):
        with pytest.raises(ValueError, match="is no setting beside"):
            jaxdistill.distill([PONG], tmp_path / "run", settings=wrong)
    own = {"round": 3}
    with pytest.raises(ValueError, match=r"settings\.learn\.round is unknown"):
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


def test_pixels_are_bytes_and_numbers_are_floats(pong, watcher):
    """Only bytes are divided by 255: what is not would be answered wrongly without a word."""
    shown = _shown(3)
    for other in (shown / 255, shown.astype(np.int64), shown.astype(np.float32)):
        with pytest.raises(ValueError, match=f"are {other.dtype}, and .* 0 to 255; expected uint8"):
            pong.act(other)
    changes = dataclasses.replace(watcher("pong", 1), view=View(difference=True))
    numbers = np.random.default_rng(0).integers(0, 9, (5, 1, 8)).astype(np.uint8)
    kernel = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    pilot = Expert(
        name="pilot",
        network=networks.Network(convs=(), num_outputs=4),
        params={"params": {"action": {"kernel": kernel, "bias": np.zeros(4, np.float32)}}},
        outputs="q",
        actions=(0, 1, 2, 3),
        view=Vector(8),
        game="lander/standard",
    )
    for expert, given in ((changes, shown), (pilot, numbers)):
        policy = jaxdistill.api.Policy("x", {str(expert.game): expert})
        said = policy.outputs(given)
        np.testing.assert_array_equal(policy.outputs(given.astype(np.float64)), said)
        layer = expert.params["params"]["action"]
        wanted = given.reshape(len(given), -1).astype(np.float32) @ layer["kernel"] + layer["bias"]
        np.testing.assert_allclose(said[:, list(expert.actions)], wanted, rtol=1e-4, atol=1e-2)


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
    terms = records.Terms(**how, opening_steps=10, max_steps=27_000)
    (row,) = distill.evaluate_student(workdir, terms, game="breakout")
    for name in ("mean", "mean_steps"):
        assert measured["breakout"][name] == row["student"][name]
