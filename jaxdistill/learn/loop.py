"""Trains experts from rewards: from settings, which are checked, to the network that plays best.

It iterates, evaluates and saves. Where networks are independent, their trainings come one after
another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxdistill import clocks, disk, lock, meshes, metrics, preemption, terminal, workdirs
from jaxdistill.experts.expert import Expert
from jaxdistill.learn import (
    beginning,
    checkpoints,
    divergence,
    idle_settings,
    origins,
    replay,
    train_settings,
)
from jaxdistill.learn.origins import Pretrained
from jaxdistill.learn.train_settings import Settings
from jaxdistill.learn.training import Training
from jaxdistill.profiler import Profile

# What a training that has diverged may change and go on.
_CHANGEABLE_AFTER_DIVERGENCE = (
    "learning_rate",
    "clip_norm",
    "final_rate_fraction",
    "expert_weight",
    "q_temperature",
    "logits_temperature",
)

# Seconds after which all is saved, and after which it is before an evaluation, which takes a while.
_SAVE_SECONDS, _EVALUATE_SECONDS = 120, 60


def train(
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    stop_at: int | None = None,
    profile: str | None = None,
    student: Pretrained | None = None,
    began: float | None = None,
    part: bool = False,
) -> dict[str, Any]:
    """Trains one network on `settings.games`; resumes where a killed run stopped.

    At the first NaN or infinity it stops. The same settings are then refused at once; with another
    `learning_rate`, `clip_norm`, `final_rate_fraction`, `expert_weight`, `q_temperature` or
    `logits_temperature`, if that changes anything there, it goes on from its latest checkpoint.
    Where networks are independent, that holds for the one that has diverged and for those that have
    not begun; the others stay.

    Args:
      workdir: holds `metrics.jsonl`, TensorBoard events, `checkpoints/`, and, replaced whenever an
        evaluation is the best so far, `experts/GAME`, which every other program takes as an expert.
        Where networks are independent, `tasks/GAME` holds all that of each, and `workdir` itself
        neither rows nor checkpoints, and `experts/GAME` once that network is finished.
      stop_at: stop after this iteration as a kill would, after saving; for tests.
      profile: directory for a trace of a few iterations.
      student: what `settings.student` is.
      began: since when wall time counts, by `time.monotonic`, such as when the program started; by
        default since it is known that this may be trained here.
      part: one of several independent networks, whose settings are judged by all of their games.

    Returns:
      The best network's last evaluation: `step` (per game), `value`, and the mean `scores` by game.

    Raises:
      ValueError, OSError: something the user can mend, in one line; another process trains there,
        or `workdir` holds something else, or was begun with a student or experts of other
        parameters; or, at the end, nothing was learnt since no memory ever held `first_update`.
    """
    workdir, mesh = pathlib.Path(workdir), mesh or meshes.create()
    # What can be refused is, before anything is written.
    train_settings.check_divisible(settings, mesh)
    if not (part or (workdir / "config.json").exists()):
        idle_settings.refuse_idle(settings, student)
    settings = train_settings.resolve_defaults(settings)
    for task in settings.tasks:
        task.require()
    begin = None if settings.independent else beginning.of(settings, mesh, student)
    if settings.algorithm == "dqn":
        view = begin.lessons[0].view if begin else settings.tasks[0].view.whole
        frame = view.shape[1:], settings.tasks[0].suite.frame_dtype
        replay.check_fits(mesh, settings.replay_size, *frame)
    known = {} if begin is None else origins.of(student, begin.experts)
    idle = idle_settings.idle_fields(settings, begin.experts if begin else (), student)
    if not settings.expert_weight:
        idle.add("q_temperature")  # of which at most the first logits were made
    knobs = tuple(name for name in _CHANGEABLE_AFTER_DIVERGENCE if name not in idle)
    with lock.one_writer(workdir, "config.json"):
        origins.check(workdir, known)
        inner = [path for _, path in parts(settings, workdir) if path != workdir]
        divergence.claim(
            workdir,
            settings,
            knobs,
            origins.relocated_fields(workdir, known),
            parts=inner,
        )
        origins.claim(workdir, known, begins=not (workdir / checkpoints.FOLDER).exists())
        with clocks.wall_clock(workdir, began=began):
            if begin is None:
                return _train_each(settings, workdir, mesh, stop_at, profile)
            with Training(begin, workdir) as training:
                return _train(training, knobs, stop_at, profile)


def check_begun(
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    student: Pretrained | None = None,
) -> None:
    """Refuses settings, a student or experts that the training in `workdir` was not begun with.

    Nothing is written, so that a training that is finished can be read by whoever may only read it.

    Raises:
      ValueError, OSError: as `train`.
    """
    workdir, settings = pathlib.Path(workdir), train_settings.resolve_defaults(settings)
    begin = None
    if not settings.independent:
        begin = beginning.of(settings, mesh or meshes.create(), student)
    known = {} if begin is None else origins.of(student, begin.experts)
    origins.check(workdir, known)
    workdirs.claim(workdir, settings, origins.relocated_fields(workdir, known))


def parts(
    settings: Settings, workdir: str | os.PathLike[str]
) -> list[tuple[Settings, pathlib.Path]]:
    """The trainings of one network each that a training is made of, and where they stand."""
    workdir = pathlib.Path(workdir)
    if not settings.independent:
        return [(settings, workdir)]
    return [
        (
            dataclasses.replace(settings, games=(task.name,), independent=False),
            workdir / "tasks" / task.name,
        )
        for task in settings.tasks
    ]


def _train_each(
    settings: Settings,
    workdir: pathlib.Path,
    mesh: Mesh,
    stop_at: int | None,
    profile: str | None,
) -> dict[str, Any]:
    """One training per task, in a directory of its own; the best networks stand together."""
    best = []
    for alone, inner in parts(settings, workdir):
        alone = _as_begun(alone, inner)
        best.append(train(alone, inner, mesh=mesh, stop_at=stop_at, profile=profile, part=True))
        name = pathlib.Path("experts", *alone.games)
        Expert.load(inner / name).save(workdir / name, replace=True)
    return {
        "step": max(each["step"] for each in best),
        "value": float(np.mean([each["value"] for each in best])),
        "scores": {name: score for each in best for name, score in each["scores"].items()},
    }


def _as_begun(settings: Settings, workdir: pathlib.Path) -> Settings:
    """`settings`, with what another network's divergence has changed as it was here."""
    path = workdir / "config.json"
    if not path.is_file() or divergence.stands(workdir):
        return settings
    standing = disk.read_json(path, "begin again in another --workdir")
    begun = workdirs.understood(Settings, standing, path, "choose another --workdir")
    return dataclasses.replace(
        settings, **{name: getattr(begun, name) for name in _CHANGEABLE_AFTER_DIVERGENCE}
    )


def _train(
    training: Training, knobs: Sequence[str], stop_at: int | None, profile: str | None
) -> dict[str, Any]:
    """Does the iterations that are still to do, and then decides which network is the best.

    Args:
      knobs: see `divergence.check`.

    Returns:
      The best evaluation; where it stops at `stop_at`, so far.

    Raises:
      ValueError: learning has diverged, or nothing was learnt.
      Preempted: a signal has come; all that was learnt is saved.
    """
    settings = training.settings
    resume_step = training.steps if training.best or training.iteration else -1
    if training.best:  # a kill may have come before the best was written down
        _save_experts(training)
    if training.iteration < settings.iterations:
        training.begin_games()  # which shows a bar of its own
    with (
        contextlib.ExitStack() as stack,
        metrics.Writer(training.workdir, resume_step) as writer,
        terminal.progress(
            f"train {', '.join(training.names)}",
            settings.iterations * settings.steps_per_iteration,
            "steps",
            done=training.steps,
        ) as advance,
    ):
        last_saved = time.monotonic()
        trace = Profile(profile)
        stack.callback(trace.close)
        if training.due:
            _evaluate(training, writer)
        while training.iteration < settings.iterations:
            trace.step()
            _iterate(training, knobs, writer, advance)
            last_saved = _evaluate_or_save(training, writer, stop_at, last_saved)
            if training.iteration == stop_at:
                return training.best
    if not int(training.state.step):
        raise ValueError(
            f"{training.workdir} has learnt nothing: games were so short that its memory never "
            f"held first_update {settings.first_update} transitions to learn from; choose fewer, "
            f"in another --workdir"
        )
    training.decide()
    _save_experts(training)
    return training.best


def _iterate(
    training: Training, knobs: Sequence[str], writer: metrics.Writer, advance: terminal.Advance
) -> None:
    """One iteration, shown and written down.

    Raises:
      ValueError: learning has diverged.
    """
    row = training.iterate()
    divergence.check(
        training.workdir,
        training.settings,
        knobs,
        step=int(training.state.step),
        numbers=row,
        state=training.arrays,
    )
    advance(training.settings.steps_per_iteration)
    shown = (name for name in row if name.startswith(("score/", "epsilon", "loss")))
    advance.status(" ".join(f"{name} {row[name]:.4g}" for name in shown))
    if training.iteration % 10 == 0 or training.iteration == training.settings.iterations:
        seconds = {f"seconds/{k}": v for k, v in training.timer.seconds().items()}
        writer.write(training.steps, row | seconds)


def _evaluate_or_save(
    training: Training, writer: metrics.Writer, stop_at: int | None, last_saved: float
) -> float:
    """What follows an iteration: an evaluation, which saves, or where it is time all is saved.

    Args:
      last_saved: when all was, by `time.monotonic`.

    Returns:
      When all was saved last.

    Raises:
      Preempted: a signal has come, and all is saved.
    """
    asked = preemption.asked()  # once: who comes later has not been saved for
    evaluates = _evaluation_follows(training)
    patience = _EVALUATE_SECONDS if evaluates else _SAVE_SECONDS
    stops = not evaluates and training.iteration == stop_at
    if asked or stops or time.monotonic() - last_saved > patience:
        training.save(due=evaluates)
        last_saved = time.monotonic()
    if asked:
        raise preemption.Preempted
    if evaluates:
        _evaluate(training, writer)
        preemption.stop_if_asked()
        return time.monotonic()
    return last_saved


def _evaluation_follows(training: Training) -> bool:
    """Whether the last iteration was the last of all, or has passed a multiple of `eval_every`."""
    steps, every = training.steps, training.settings.eval_every
    at_end = training.iteration == training.settings.iterations
    return at_end or steps // every > (steps - training.settings.steps_per_iteration) // every


def _evaluate(training: Training, writer: metrics.Writer) -> None:
    """Evaluates what has been learnt, and saves it."""
    standing, resumed = training.best.get("step"), training.due
    try:
        scores = training.evaluate()
    except preemption.Preempted:
        if training.iteration:
            training.save(due=True)
        raise
    row = {f"eval/{name}": x for name, x in scores.items()}
    # Before the checkpoint: a resumed training keeps the rows up to it. One that was stopped before
    # it stood has written this one.
    if not (resumed and metrics.tells(training.workdir, training.steps, row)):
        writer.write(training.steps, row)
    training.save(chosen=training.best["step"] == training.steps)
    if training.best["step"] != standing:
        _save_experts(training)


def _save_experts(training: Training) -> None:
    for expert in training.best_experts():
        expert.save(training.workdir / "experts" / str(expert.game), replace=True)
