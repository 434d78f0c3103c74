"""Several processes on one run: the same student as one process, and it may change on the way."""

import dataclasses
import json
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
import quick_program

from jaxdistill import metrics, networks
from jaxdistill import settings as settings_lib
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.play import collection
from jaxdistill.run import distill, distill_settings, students

ROOT = pathlib.Path(__file__).parents[1]
GAMES = ("asterix", "carnival")  # which score within these few steps


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("experts")
    network = networks.Network(
        convs=(networks.ConvLayer(4, 8, 4), networks.ConvLayer(4, 4, 2)), hidden=(16,)
    )
    for i, game in enumerate(GAMES):
        Expert(
            name=f"tiny {game}",
            network=network,
            params=networks.init(network, jax.random.key(i), (4, 84, 84)),
            outputs="logits",  # these sample, so that every environment's draws count
            actions=tuple(range(18)),
            game=game,
        ).save(root / game)
    return distill_settings.Settings(
        experts=tuple(ExpertSource(str(root / game), game=game) for game in GAMES),
        network="net3",
        collect=distill_settings.Collect(
            num_envs=4,
            initial_steps=64,
            steps_per_round=64,
            window_steps=128,
            expert_share_rounds=1,
            final_expert_share=0.5,
            change_drivers=True,
        ),
        learn=distill_settings.Learn(rounds=4, updates_per_round=2, batch_per_game=8),
        evaluate=distill_settings.Evaluate(
            every_rounds=2, select_episodes=4, report_episodes=6, max_steps=24
        ),
    )


def _flags(settings):
    experts = ",".join(f"{source.game}={source.path}" for source in settings.experts)
    yield f"--config={ROOT}/configs/merge.py:{experts}"
    yield f"--config.network={settings.network}"
    if settings.together:
        yield f"--config.together={settings.together}"
    for group in ("collect", "learn", "evaluate"):
        for name, value in vars(getattr(settings, group)).items():
            if value is not None:
                yield f"--config.{group}.{name}={value}"


def _run_two(settings, workdir, without_page):
    """Two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            quick_program.command(
                "distill.py",
                *(*_flags(settings), f"--workdir={workdir}", f"--coordinator={address}"),
                *("--processes=2", f"--process={index}"),
                without_page=without_page,
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**quick_program.environment(), "JAX_NUM_CPU_DEVICES": "2"},
        )
        for index in range(2)
    ]
    try:
        written = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, errors) in zip(processes, written, strict=True):
        assert process.returncode == 0, errors
    return [out for out, _ in written]


def _rows(workdir):
    return [
        {
            name: np.nan if x is None else x
            for name, x in row.items()
            if not name.startswith("seconds/")
        }
        for row in metrics.read(workdir)
    ]


def _games(workdir):
    """All that were measured, in the order of their seats: each pool is played by one process."""
    files = [json.loads(path.read_text()) for path in (workdir / "played").iterdir()]
    return sorted(json.dumps([file["of"]["task"], file["games"]]) for file in files)


def _assert_two_make_what_one_makes(settings, tmp_path, begun=None, rtol=0.0, without_page=False):
    """In `one` and `two`: the rows that were logged, the games, the round that was best.

    Args:
      begun: up to where one process makes what two end; from the start on it is two.
      rtol: how near what was played must be; 0 where actions are one of several.
      without_page: the two write no page.
    """
    whole = distill.distill(settings, tmp_path / "one")
    if begun:
        distill.distill(settings, tmp_path / "two", stop_after=begun)
    out = _run_two(settings, tmp_path / "two", without_page)
    assert "retention" in out[0] and "retention" not in out[1], "one of them talks"
    one, two = _rows(tmp_path / "one"), _rows(tmp_path / "two")
    assert sum("loss" in row for row in one) == 4
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-5, atol=1e-5, err_msg=name)
    result = json.loads((tmp_path / "two/result.json").read_text())
    for row, expected in zip(result["games"], whole["games"], strict=True):
        assert row["student"]["episodes"] == row["expert"]["episodes"] == 6
        assert row["game"] == expected["game"]
        for who in ("random", "expert", "student"):
            ours, theirs = (settings_lib.flatten(x[who]) for x in (row, expected))
            assert ours == pytest.approx(theirs, rel=rtol, abs=0)
    assert result["best_round"] == whole["best_round"]
    return [row["student"] for row in result["games"]]


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_two_processes_end_what_one_began(settings, tmp_path):
    played = _assert_two_make_what_one_makes(settings, tmp_path, begun="round:1")
    assert all(row["mean"] for row in played)
    assert _games(tmp_path / "one") == _games(tmp_path / "two")
    one, two = (
        jax.device_get(students.load_student(tmp_path / name).state.params)
        for name in ("one", "two")
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), one, two)


@pytest.mark.slow
@pytest.mark.usefixtures("without_page")
def test_two_processes_merge_skills_as_one_does(settings, skilled, tmp_path):
    """All fights of a purpose are one pool, which one of them plays; both know how they ended."""
    skills = ("movement", "aiming", "clicking")
    for seed, skill in enumerate(skills):
        skilled(skill, seed).save(tmp_path / skill)
    fights = dataclasses.replace(
        settings,
        experts=tuple(ExpertSource(str(tmp_path / x), game=f"combat/{x}") for x in skills),
        together="combat/duel",
        network="skills",
        learn=dataclasses.replace(settings.learn, resample_unseen=True),
    )
    played = _assert_two_make_what_one_makes(fights, tmp_path, rtol=1e-4, without_page=True)
    assert list(played[2]["facts"]) == ["dealt", "hit_rate"]
    assert played[2]["facts"]["dealt"]["mean"] > 0


def test_environments_that_cannot_be_shared_are_refused(settings, tmp_path, monkeypatch):

    monkeypatch.setattr(collection.jax, "process_count", lambda: 3)
    config = collection.CollectorConfig(
        lessons=(),
        network=None,
        num_envs=4,
        expert_epsilon=0.0,
        student_epsilon=0.0,
        change_drivers=False,
        key=None,
        mesh=None,
    )
    with pytest.raises(ValueError, match=r"collect\.num_envs 4 is not divisible by 3 processes"):
        collection.Collector(config)


@pytest.mark.parametrize(
    "flags", [["--coordinator=127.0.0.1:1"], ["--processes=2", "--process=0"], ["--process=1"]]
)
def test_half_of_the_flags_is_one_clear_line(settings, tmp_path, flags):
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch/distill.py"), *_flags(settings), *flags,
         f"--workdir={tmp_path / 'run'}"],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 2 and "--processes=N" in done.stderr
    assert not (tmp_path / "run").exists()
