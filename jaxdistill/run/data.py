"""The states a run learns from: collected, read back after a kill, and windowed."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxdistill import clocks, lock, meshes, preemption, terminal
from jaxdistill.learn import dataset, windows
from jaxdistill.play import collection
from jaxdistill.report import tables
from jaxdistill.run.common import NEWER, READ_AS, Run
from jaxdistill.run.distill_settings import Settings
from jaxdistill.run.progress import Progress

_CHUNK_STEPS = 64
_PLAY = "play"
_READ = 2**28  # bytes of a log that are read at a time, or one chunk


def collect(
    settings: Settings, directory: str | os.PathLike[str], mesh: Mesh | None = None
) -> dict:
    """Lets the experts play `collect.initial_steps` steps per game into a dataset on disk.

    Resumes where a killed call stopped; the result is the same.

    Returns:
      What the dataset says of itself, with its `length` in steps per environment.

    Raises:
      ValueError: another process collects there, or it holds something else; see
        `lock.one_writer`.
    """
    if settings.collect.dataset or not settings.collect.initial_steps:
        raise ValueError(
            "to collect a dataset set collect.initial_steps above 0, and leave collect.dataset out"
        )
    if settings.collect.follow:
        raise ValueError(
            "collect.follow is for a distillation (jaxdistill distill), which reads its experts "
            "again and again; a dataset is of experts as they are: leave it out"
        )
    run = Run(settings, mesh or meshes.create())
    for lesson in run.lessons:
        lesson.task.require()
    with lock.one_writer(directory, "dataset.json"):
        with meshes.leader_first("dataset"):
            log = _log(run, directory)
        collect_initial(run, log)
    return log.info | {"length": log.length}


def collect_initial(run: Run, log: dataset.Log) -> collection.Collector:
    """What is missing of `collect.initial_steps`; the pools to go on collecting in."""
    collector = run.make_collector(log)
    per_env = run.settings.collect.initial_steps // run.settings.collect.num_envs
    each = run.settings.collect.num_envs * len(run.taught)
    names = [lesson.name for lesson in run.taught]
    with terminal.progress(
        f"collect {', '.join(names) if len(names) < tables.MANY else f'{len(names)} tasks'}",
        per_env * each,
        "steps",
        done=log.length * each,
    ) as advance:
        while log.length < per_env:
            length = min(_CHUNK_STEPS, per_env - log.length)
            log.append(collector.collect(length, advance=advance), collector.states())
            if meshes.any_of(preemption.asked()):
                raise preemption.Preempted
    return collector


def resume(
    run: Run,
    workdir: pathlib.Path,
    length: int | None,
    timer: clocks.Timer,
    *,
    collects_on: bool = True,
) -> tuple[dataset.Log, collection.Collector | None]:
    """The dataset as the restored state had seen it, and pools to go on collecting in.

    Args:
      length: steps of each environment that it had seen; None before the first update.
      collects_on: whether rounds are left; where none are, no pools are made and no games played
        again for them.
    """
    collect = run.settings.collect
    if collect.dataset:
        # Others may have collected more since, or do now; nothing is written.
        log = _given(run, collect.dataset)
        seen = int(meshes.gather(np.array([log.length]), 0).min())  # by all of several processes
        log.truncate(seen if length is None else length)
        return log, None
    with timer.phase("collect"):
        with meshes.leader_first("dataset"):
            log = _log(run, workdir / "dataset")
        initial = collect.initial_steps // collect.num_envs
        log.truncate(min(log.length, initial) if length is None else length)
        collector = None
        if log.length < initial:
            collector = collect_initial(run, log)
        elif collect.steps_per_round and collects_on:
            collector = run.make_collector(log)
    return log, collector if collect.steps_per_round else None


def directory_of(settings: Settings, workdir: pathlib.Path) -> pathlib.Path:
    """Where the states are that the run in `workdir` learns from."""
    return pathlib.Path(settings.collect.dataset or workdir / "dataset")


def has_dataset(directory: pathlib.Path) -> bool:
    """Whether a dataset stands there."""
    return (directory / "dataset.json").is_file()


def check_learnt_from(run: Run, workdir: pathlib.Path, progress: Progress) -> None:
    """Refuses a run whose student has learnt from what is not there any more; nothing is written.

    Args:
      progress: of its latest checkpoint.

    Raises:
      ValueError: there is no dataset, or a shorter one, or another.
    """
    length, directory = progress.length, directory_of(run.settings, workdir)
    if not has_dataset(directory):
        raise ValueError(
            f"{directory} holds no dataset, and the student of {workdir} has learnt from {length} "
            f"steps of each environment there; put it back, or begin in another --workdir"
        )
    log = dataset.open_log(directory)
    if log.length < length:
        raise ValueError(
            f"{directory} holds {log.length} steps of each environment, and the student of "
            f"{workdir} has learnt from {length}; put back the dataset that it learnt from, or "
            f"begin in another --workdir"
        )
    if run.settings.collect.dataset:
        log = _given(run, directory)
        log.truncate(length)  # others may have collected more since; nothing is written
        now = mark_of(run, log) or {}
        for name, before in (progress.dataset or {}).items():
            if now.get(name) != before:
                differs = f"{name} {now.get(name)!r}, not {before!r}"
                raise ValueError(
                    f"{directory} holds another dataset than the student of {workdir} has learnt "
                    f"from (with {'other play' if name == _PLAY else differs}); put that back, or "
                    f"begin in another --workdir"
                )
    else:
        dataset.Log(directory, run.log_info(), writes=False, newer=NEWER)


def mark_of(run: Run, log: dataset.Log) -> dict[str, Any] | None:
    """What tells the dataset that a run is given from others of the same experts, as JSON values.

    None of the run's own, which says itself what it is of.
    """
    if not run.settings.collect.dataset:
        return None
    last = log.actions(log.length, max(0, log.length - _CHUNK_STEPS))
    return {name: log.info.get(name) for name in ("seed", "expert_epsilon")} | {
        _PLAY: hashlib.sha256(last.tobytes()).hexdigest()
    }


def _given(run: Run, directory: str | os.PathLike[str]) -> dataset.Log:
    """The dataset that a run is given, to read.

    Raises:
      FileNotFoundError, ValueError: there is none, or one of other experts or environments.
    """
    log = dataset.open_log(directory)
    own = json.loads(json.dumps(run.log_info()))
    for name in (
        "games",
        "frame_shape",
        "frame_dtype",
        "action_shape",
        "views",
        "expert_views",
        "rules",
        "experts",
        READ_AS,
        "num_envs",
    ):
        if name == READ_AS and name not in log.info:
            continue
        if log.info.get(name) != own.get(name):
            raise ValueError(
                f"{directory} was collected with other {name} ({log.info.get(name)!r}) "
                f"than this run's ({own.get(name)!r}); collect again, or use the same"
            )
    return log


def _log(run: Run, directory: str | os.PathLike[str]) -> dataset.Log:
    return dataset.Log(directory, run.log_info(), writes=meshes.leads(), newer=NEWER)


def check_fits(run: Run) -> None:
    """Refuses a window that no device can hold, or too short a one, before anything is played.

    Raises:
      ValueError: it takes more than `mesh.check_fits` lets pass, or has so few steps of each
        environment that a round may leave it without a usable one.
    """
    collect = run.settings.collect
    steps = collect.window_steps
    # A whole stack, and one step more: that which begins a game is not usable.
    least = collect.num_envs * (run.stored.stack + 1)
    if steps < least:
        raise ValueError(
            f"collect.window_steps is {steps}, expected at least {least}: "
            f"{run.stored.stack + 1} steps of each of collect.num_envs {collect.num_envs}"
        )
    if collect.dataset:
        steps = min(steps, dataset.open_log(collect.dataset).length * collect.num_envs)
    elif not collect.steps_per_round:
        steps = min(steps, collect.initial_steps)
    _check_fit(run, "collect.window_steps", steps)


def check_all_fit(run: Run) -> None:
    """The same of all states together, where none are collected later."""
    collect = run.settings.collect
    name, steps = "collect.initial_steps", collect.initial_steps
    if collect.dataset:
        name = "the length of collect.dataset, in steps per game,"
        steps = dataset.open_log(collect.dataset).length * collect.num_envs
    _check_fit(run, name, steps)


def _check_fit(run: Run, name: str, steps: int) -> None:
    meshes.check_fits(run.mesh, name, steps, len(run.taught) * _step_bytes(run))


def _step_bytes(run: Run) -> int:
    """What a window holds of one step of one game: a frame, its labels, age and row."""
    frame = math.prod(run.stored.shape[1:]) * np.dtype(run.suite.frame_dtype).itemsize
    return frame + 4 * run.suite.num_actions + 1 + 4


def window_of(
    run: Run, log: dataset.Log, per_env: int | None = None, mesh: Mesh | None = None
) -> windows.WindowBuffer:
    """A window over the tail of the log, filled as if the run had never stopped."""
    collect = run.settings.collect
    if per_env is None:
        per_env = collect.window_steps // collect.num_envs
        if not collect.steps_per_round:
            per_env = min(per_env, log.length)
    buffer = windows.WindowBuffer(
        len(run.taught),
        collect.num_envs,
        per_env,
        run.stored.shape[1:],
        run.suite.num_actions,
        mesh or run.mesh,
        depth=run.stored.stack,
        frame_dtype=run.suite.frame_dtype,
    )
    buffer.skip(max(0, log.length - per_env))
    together = len(run.taught) * collect.num_envs * _step_bytes(run)
    # Not less than is written at a time: of a piece that is compressed all is read.
    steps = max(_CHUNK_STEPS, min(256, _READ // together))
    for start in range(max(0, log.length - per_env), log.length, steps):
        buffer.append(log.read(start, min(log.length, start + steps)))
    return buffer


def check_usable(run: Run, buffer: windows.WindowBuffer) -> None:
    """Refuses a window in which a game has nothing to learn from, by a ValueError."""
    for lesson, count in zip(run.taught, np.asarray(buffer.window.counts), strict=True):
        if not count:
            raise ValueError(f"the window holds no usable step of {lesson.name}; collect more")
