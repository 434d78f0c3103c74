"""The window of the states that a run learns from: whether it fits, and how it is read back."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest

from jaxdistill import lock, meshes, networks, workdirs
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import dataset
from jaxdistill.play import collection
from jaxdistill.play.collection import Chunk
from jaxdistill.report import page, tables
from jaxdistill.run import common, data, distill, distill_settings, student_json
from jaxdistill.tasks.views import View

ONE = meshes.create(jax.devices()[:1])
GAMES, ENVS, STEP = ("pong", "freeway"), 4, 7133  # bytes of a step of one game


@pytest.fixture
def settings(tmp_path):
    network = networks.Network(convs=(), num_outputs=18)
    for game in GAMES:
        params = networks.init(network, jax.random.key(0), View().shape)
        expert = Expert(game, network, params, "q", tuple(range(18)), View(), game)
        expert.save(tmp_path / game)
    return distill_settings.Settings(
        experts=tuple(ExpertSource(str(tmp_path / game)) for game in GAMES),
        network="net3",
        collect=distill_settings.Collect(num_envs=ENVS, initial_steps=40, window_steps=80),
    )


def _log(run, steps):
    log, shape = dataset.Log(None, run.log_info()), (len(GAMES), steps, ENVS)
    random = np.random.default_rng(0)
    log.append(
        Chunk(
            random.integers(0, 256, (*shape, 84, 84), np.uint8),
            random.normal(size=(*shape, 18)).astype(np.float32),
            np.zeros(shape, np.uint8),
            np.full(shape, 9, np.uint8),
            random.random(shape) < 0.9,
        )
    )
    return log


def test_a_window_that_no_device_can_hold_is_refused_before_anything_is_played(settings, tmp_path):
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = there // (len(GAMES) * STEP)

    def changed(**collect):
        return dataclasses.replace(
            settings, collect=dataclasses.replace(settings.collect, **collect)
        )

    wide = changed(window_steps=(most // ENVS + 1) * ENVS)
    refused = rf"^collect\.window_steps is \d+, which takes .* GB; expected at most {most}$"
    with pytest.raises(ValueError, match=refused):
        distill.distill(wide, tmp_path / "run", mesh=ONE)
    assert not (tmp_path / "run").exists()
    data.check_fits(common.Run(changed(window_steps=most // ENVS * ENVS), ONE))
    # Where no more is collected, a window is no longer than what there is.
    alone = dataclasses.replace(wide.collect, steps_per_round=0)
    data.check_fits(common.Run(dataclasses.replace(wide, collect=alone), ONE))


def test_a_window_that_may_come_to_hold_nothing_usable_is_refused(settings, tmp_path):
    def wide(steps):
        collect = dataclasses.replace(settings.collect, window_steps=steps * ENVS)
        return dataclasses.replace(settings, collect=collect)

    message = r"^collect\.window_steps is 16, expected at least 20: 5 steps of each of "
    with pytest.raises(ValueError, match=message):
        distill.distill(wide(4), tmp_path / "run", mesh=ONE)
    assert not (tmp_path / "run").exists()
    data.check_fits(common.Run(wide(5), ONE))


def test_a_finished_run_is_returned_on_devices_that_its_batch_does_not_split_over(
    settings, tmp_path, monkeypatch
):
    other = dataclasses.replace(
        settings, learn=dataclasses.replace(settings.learn, batch_per_game=5)
    )
    two = meshes.create(jax.devices()[:2])
    with pytest.raises(ValueError, match=r"batch_per_game 5 is not divisible by 2 devices"):
        distill.distill(other, tmp_path / "run", mesh=two)
    assert not (tmp_path / "run").exists()
    # As if it had been learnt on one device.
    workdirs.claim(tmp_path / "run", common.Run(other, ONE).settings)
    (tmp_path / "run" / "result.json").write_text('{"rounds": 7}')
    monkeypatch.setattr(student_json, "claim_roles", lambda *_: None)
    monkeypatch.setattr(student_json, "tell_paths", lambda *_: None)
    monkeypatch.setattr(student_json, "relocated_fields", lambda *_: ())
    monkeypatch.setattr(tables, "read_result", lambda path: json.loads(path.read_text()))
    assert distill.distill(other, tmp_path / "run", mesh=two) == {"rounds": 7}


def test_what_a_step_takes_is_what_a_window_is_made_of(settings):
    run = common.Run(settings, ONE)
    window = data.window_of(run, _log(run, 20)).window
    held = sum(x.nbytes for x in jax.tree.leaves(window)) - window.counts.nbytes
    assert held == len(GAMES) * 80 * STEP


def test_a_window_is_the_same_however_little_is_read_at_a_time(settings, monkeypatch):
    run = common.Run(settings, ONE)
    log, reads, read = _log(run, 30), [], dataset.Log.read

    def spy(log, start, stop):
        reads.append((start, stop))
        return read(log, start, stop)

    monkeypatch.setattr(dataset.Log, "read", spy)
    whole = data.window_of(run, log).window
    assert reads == [(10, 30)]
    monkeypatch.setattr(data, "_CHUNK_STEPS", 2)
    for steps, first in ((3, (10, 13)), (0, (10, 12))):  # a chunk is the least
        del reads[:]
        monkeypatch.setattr(data, "_READ", steps * len(GAMES) * ENVS * STEP)
        again = data.window_of(run, log).window
        assert reads[0] == first and reads[-1][1] == 30
        jax.tree.map(np.testing.assert_array_equal, again, whole)


@pytest.fixture
def short(watcher, tmp_path, monkeypatch):
    """Settings of a run of two rounds by a student that is as small as its experts."""
    monkeypatch.setitem(networks.NETWORKS, "linear", networks.Network(convs=()))
    for seed, game in enumerate(("asterix", "carnival")):  # where much moves from the first step
        watcher(game, seed).save(tmp_path / game)
    return distill_settings.Settings(
        experts=tuple(ExpertSource(str(tmp_path / game)) for game in ("asterix", "carnival")),
        network="linear",
        collect=distill_settings.Collect(
            num_envs=ENVS, initial_steps=32, steps_per_round=16, window_steps=64
        ),
        learn=distill_settings.Learn(rounds=2, updates_per_round=1, batch_per_game=4),
        evaluate=distill_settings.Evaluate(
            every_rounds=2, select_episodes=2, report_episodes=2, max_steps=40
        ),
    )


@pytest.mark.page
def test_the_clips_of_a_run_are_played_on_its_own_devices(short, tmp_path, monkeypatch):
    monkeypatch.setattr(page, "CLIP_SECONDS", 4 / 60)
    assert len(jax.devices()) > 1
    distill.distill(short, tmp_path / "run", mesh=ONE)
    assert (tmp_path / "run" / "report.html").is_file()


@pytest.mark.usefixtures("without_page")
def test_a_run_that_lacks_its_report_alone_seats_no_pools(short, tmp_path, monkeypatch):
    whole = distill.distill(short, tmp_path / "run", mesh=ONE)
    (tmp_path / "run" / "result.json").unlink()
    monkeypatch.setattr(collection, "Collector", None)
    again = distill.distill(short, tmp_path / "run", mesh=ONE)
    assert again | {"seconds": None} == whole | {"seconds": None}


@pytest.mark.usefixtures("without_page")
def test_the_report_is_of_the_states_of_a_dataset_that_were_learnt_from(short, tmp_path):
    """Others collect more into it before the report."""
    directory = tmp_path / "data"

    def collect(steps):
        alone = dataclasses.replace(short.collect, initial_steps=steps)
        data.collect(dataclasses.replace(short, collect=alone), directory, mesh=ONE)

    collect(32)
    fixed = _given(short, directory)
    distill.distill(fixed, tmp_path / "run", mesh=ONE, stop_after="train")
    shutil.copytree(tmp_path / "run", tmp_path / "other")
    whole = distill.distill(fixed, tmp_path / "run", mesh=ONE)
    collect(128)
    later = distill.distill(fixed, tmp_path / "other", mesh=ONE)
    assert dataset.open_log(directory).length == 128 // ENVS
    assert later["games"] == whole["games"]


def _given(short, directory, **learn):
    """The settings of a run that learns from a dataset that is there, and collects nothing."""
    fixed = distill_settings.Collect(
        num_envs=ENVS, steps_per_round=0, window_steps=256, dataset=str(directory)
    )
    return dataclasses.replace(
        short, collect=fixed, learn=dataclasses.replace(short.learn, **learn)
    )


def _collected(short, directory, steps, seed, epsilon=0.05):
    """A dataset of the experts' play, in place of what was there."""
    shutil.rmtree(directory, ignore_errors=True)
    alone = dataclasses.replace(short.collect, initial_steps=steps, expert_epsilon=epsilon)
    data.collect(dataclasses.replace(short, collect=alone, seed=seed), directory, mesh=ONE)


def test_a_dataset_is_of_experts_as_they_are(settings, tmp_path):
    follows = dataclasses.replace(settings.collect, follow=True)
    with pytest.raises(ValueError, match=r"^collect\.follow is for a distillation"):
        data.collect(dataclasses.replace(settings, collect=follows), tmp_path / "data")
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("without_page")
def test_a_run_knows_its_dataset_again(short, tmp_path, contents, monkeypatch):
    """Another of the same experts, at the same place, is refused before anything is written."""
    directory, run = tmp_path / "data", tmp_path / "run"
    _collected(short, directory, 32, seed=3)
    distill.distill(_given(short, directory), run, mesh=ONE, stop_after="round:1")
    with monkeypatch.context() as earlier:  # a version that did not say which it was
        earlier.setattr(data, "mark_of", lambda run, log: None)
        distill.distill(_given(short, directory), tmp_path / "old", mesh=ONE, stop_after="round:1")
    before = contents(run)
    other = rf"^{directory} holds another dataset than the student of {run} has learnt from \(with "
    for made, said in (
        ({"steps": 64, "seed": 4}, rf"{other}seed 4, not 3\); put that back"),
        ({"steps": 64, "seed": 3, "epsilon": 0.5}, rf"{other}expert_epsilon 0\.5, not 0\.05\)"),
        (
            {"steps": 16, "seed": 3},
            f"^{directory} holds 4 steps .* of {run} has learnt from 8",
        ),
        ({"steps": 64, "seed": 4}, rf"{other}other play\)"),
    ):
        _collected(short, directory, **made)
        if "play" in said:
            text = (directory / "dataset.json").read_text()
            (directory / "dataset.json").write_text(text.replace('"seed": 4', '"seed": 3'))
        for count in (2, 3):
            with pytest.raises(ValueError, match=said):
                distill.distill(_given(short, directory, rounds=count), run, mesh=ONE)
        assert {**contents(run), lock.NAME: before[lock.NAME]} == before
    distill.distill(_given(short, directory), tmp_path / "old", mesh=ONE, stop_after="round:2")
    _collected(short, directory, 64, seed=3)  # the same, and more
    distill.distill(_given(short, directory), run, mesh=ONE, stop_after="round:2")
