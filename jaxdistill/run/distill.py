"""The run: experts -> dataset -> student -> best checkpoint -> measured result; resumable."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.sharding import Mesh

from jaxdistill import clocks, disk, lock, meshes, networks, profiler, terminal, workdirs
from jaxdistill.learn import checkpoints, divergence, origins
from jaxdistill.play import scoring
from jaxdistill.report import tables
from jaxdistill.run import (
    closing,
    data,
    distill_settings,
    rounds,
    student_json,
    students,
    warm_start,
)
from jaxdistill.run import common as runs
from jaxdistill.run.common import Call, Run
from jaxdistill.run.distill_settings import Settings
from jaxdistill.run.progress import Progress

# What a run that stands may change at any time.
_ALWAYS_CHANGEABLE = ("evaluate.lowest_expert_share", "learn.rounds")
_CHANGEABLE_WITH_ROUNDS = ("learn.shares", "collect.steps_per_round")


def distill(
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    stop_after: str | None = None,
    command: str = "",
    profile: str | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Distils the experts into one student, and measures it.

    A killed run called again with the same settings and `workdir` goes on where it stopped and ends
    with the same student; `_claimed` says what else a call may find there. The result of a run that
    has ended is returned as it stands, and nothing is written but where the experts are now, if
    they have moved; with another `learn.rounds` the run goes on.

    Args:
      cache_dir: where games of experts and random play are looked for, and kept for other runs;
        None is nowhere but in `workdir`.
      stop_after: "baselines", "collect", "round:K" (after round K, saved) or "train" ends the call
        there, as a kill at that point would; for tests.
      command: what the report says began the run.
      profile: directory for a trace of a few rounds.
      began: since when wall time counts, by `time.monotonic`, such as when the program started; by
        default since the first stage.

    Returns:
      What is written to `result.json`: what `closing.result_of` has, and of each game how many
      `shared_starts` helped to choose the student too; the `best_round`, after which it was chosen;
      how many `rounds` the run was to have; a `hint` in one line, where the log suggests something;
      and `seconds` by phase. Empty where the call ends at `stop_after`.

    Raises:
      ValueError, FileNotFoundError: something the user can mend, in one line.
    """
    workdir = pathlib.Path(workdir)
    profiler.check(profile)
    mesh = mesh or meshes.create()
    if settings.collect.follow and jax.process_count() > 1:
        raise ValueError(
            "collect.follow is for one process: several could follow different experts"
        )
    settings = as_begun(settings, workdir)
    run = Run(settings, mesh, known=runs.records_of(settings, workdir, cache_dir))
    for lesson in run.lessons:
        lesson.task.require()
    if not (workdir / "config.json").exists():
        distill_settings.refuse_idle(settings, run.experts)
    if _has_ended(run, workdir):
        _claim(run, workdir)  # nothing is left to write: this asks for no lock
        student_json.tell_paths(workdir, run.settings)
        profiler.none_left(profile)
        return tables.read_result(workdir / "result.json")
    meshes.check_divisible(mesh, "learn.batch_per_game", settings.learn.batch_per_game)
    with (
        _claimed(run, workdir) as initial,
        clocks.wall_clock(workdir, began=began, keeps=meshes.leads()) as wall,
    ):
        return _stages(run, Call(workdir, stop_after, command, profile), initial, wall)


def _has_ended(run: Run, workdir: pathlib.Path) -> bool:
    """Whether a result of as many rounds stands there."""
    there = (workdir / "result.json").is_file()
    return there and _rounds(workdir) == run.settings.learn.rounds


@contextlib.contextmanager
def _claimed(run: Run, workdir: pathlib.Path) -> Iterator[networks.Params]:
    """Makes `workdir` this run's, to be written to by this call alone, or refuses it.

    What a call does depends on what it finds there:

    1. no run: everything begins;
    2. no checkpoint: games that were played count, and collection goes on after its last whole
       chunk. Where the file or the run of `learn.warm_start` has become another, it is refused;
    3. a checkpoint: its state is restored, the dataset cut to what it had seen, and the pools
       brought to the same emulator states: the games in progress there are played again, those
       before them are skipped (where a game depends on the one before, pools begin anew every
       8,192 steps, and all since then is played again). What the student began with is not read
       any more;
    4. another process that writes: the call is refused, see `lock.one_writer`;
    5. learning has diverged, which ends a run at the first NaN or infinity of a round's losses,
       gradients or parameters, before a row or a checkpoint of that round is written: the same
       settings are refused at once. With others of `rounds.changeable_after_divergence` the run
       goes on from its latest checkpoint, or from its first update if it has none, and is one with
       those settings from then on;
    6. another `learn.rounds`: the run goes on to that many, or ends if it is beyond them, and its
       rate follows the schedule of that many from then on; `learn.shares` and
       `collect.steps_per_round` may be others then too. A run that ends is measured as it stands.
       The old result is kept as `result-ROUNDS.json`;
    7. what it goes on from is gone, be it the student of a run that has ended or the dataset of one
       that has learnt: the call is refused, and nothing is changed.

    Yields:
      What a student of the run begins with; of one that has learnt, parameters of that shape.
    """
    learnt = checkpoints.any_in(workdir / checkpoints.FOLDER)
    _check_standing(run, workdir, learnt)
    # A warm start that cannot be is refused before anything is played. Who has learnt needs none.
    initial = warm_start.fresh_params(run) if learnt else warm_start.initial_params(run)
    begun = {} if learnt else warm_start.marks(run)
    data.check_fits(run)
    with lock.one_writer(workdir, "config.json"):
        latest = checkpoints.read_progress(workdir / checkpoints.FOLDER) if learnt else None
        if latest is not None:
            student_json.check_same(workdir, run.settings, run.experts)
            data.check_learnt_from(run, workdir, Progress.from_dict(latest[1]))
        with meshes.leader_first("claim"):
            _claim(run, workdir, 0 if latest is None else latest[0])
            student_json.claim_paths(workdir, run.settings)
            if not learnt:
                origins.check(workdir, begun)
                origins.claim(workdir, begun, begins=True)
        yield initial


def as_begun(settings: Settings, workdir: pathlib.Path) -> Settings:
    """`settings`, where "auto" stands for what it stood for when the run in `workdir` began.

    What a loss turns from, and for how long, depends on the rounds: were it settled anew with more
    of them, a student taught half would be turned back.
    """
    if settings.learn.loss != "auto" or not (workdir / "config.json").is_file():
        return settings
    begun = students.load_settings(workdir).learn
    if (begun.loss, begun.first_loss) != distill_settings.AUTO_OF_Q:
        return settings
    learn = dataclasses.replace(
        settings.learn,
        loss=begun.loss,
        first_loss=begun.first_loss,
        first_rounds=begun.first_rounds,
    )
    return dataclasses.replace(settings, learn=learn)


def missing_path(workdir: str | os.PathLike[str]) -> pathlib.Path | None:
    """What a run that has ended is measured by again, and is not there any more; None if all is.

    Raises:
      ValueError: its `config.json` is damaged.
    """
    workdir = pathlib.Path(workdir)
    if not checkpoints.any_in(workdir / checkpoints.FOLDER):
        return workdir / checkpoints.FOLDER
    directory = data.directory_of(students.load_settings(workdir), workdir)
    return None if data.has_dataset(directory) else directory


def _check_standing(run: Run, workdir: pathlib.Path, learnt: bool) -> None:
    """Refuses, before anything is written, what cannot go on in `workdir`.

    Raises:
      ValueError: a run of other settings stands there, or one that has ended, without its student.
    """
    if not (workdir / "config.json").is_file():
        return
    turned = rounds.changeable_after_divergence(run) if divergence.stands(workdir) else ()
    workdirs.claim(workdir, run.settings, (*_changeable(run, workdir), *turned))
    ended = (workdir / "result.json").is_file() or any(workdir.glob("result-[0-9]*.json"))
    if ended and not learnt:
        raise students.lost(workdir)


def _changeable(run: Run, workdir: pathlib.Path) -> tuple[str, ...]:
    """The settings in which `run` may differ from the one that stands in `workdir`."""
    goes_on = _rounds(workdir) not in (None, run.settings.learn.rounds)
    moved = student_json.relocated_fields(workdir, run.settings, run.experts)
    return (*_ALWAYS_CHANGEABLE, *(_CHANGEABLE_WITH_ROUNDS if goes_on else ()), *moved)


def _claim(run: Run, workdir: pathlib.Path, done: int = 0) -> None:
    """Makes `workdir` the run's own, or the run that stands there one of as many rounds.

    Args:
      done: rounds that it has learnt.
    """
    before, now = _rounds(workdir), run.settings.learn.rounds
    divergence.claim(
        workdir, run.settings, rounds.changeable_after_divergence(run), _changeable(run, workdir)
    )
    student_json.claim_roles(workdir, run.settings, run.experts)
    if before in (None, now) or not meshes.leads():
        return
    result = workdir / "result.json"
    if result.is_file():
        # It may have ended at these before.
        result.rename(disk.unused(workdir / f"result-{before}.json"))
    stays = f"what was learnt in {done} stays, and " if done else ""
    then = f"the rate follows the schedule of {now} from here on"
    terminal.say(
        f"learn.rounds {before} -> {now}: {stays}{then if now > done else 'nothing more is learnt'}"
    )
    disk.write_json(workdir / "config.json", dataclasses.asdict(run.settings))


def _rounds(workdir: pathlib.Path) -> int | None:
    """How many rounds the run in `workdir` was to have; None where there is none."""
    if not (workdir / "config.json").is_file():
        return None
    return students.load_settings(workdir).learn.rounds


def _stages(
    run: Run, call: Call, initial: networks.Params, wall: Callable[[], float]
) -> dict[str, Any]:
    """The stages that are still to do, by the directory's one writer."""
    timer = clocks.Timer()
    baselines = measure_baselines(run, timer)
    if call.stop_after == "baselines":
        return {}
    trained = rounds.train(run, call, initial, baselines, timer)
    if trained is None or call.stop_after is not None:
        return {}

    state = trained.state
    with timer.phase("report"):
        scores = run.play_reported(state.eval_params)
    result_path = call.workdir / "result.json"
    with meshes.leader_first("result"), timer.phase("report"):
        if meshes.leads():
            outputs = closing.compare_outputs(run, trained.log, state.eval_params)
            rows = closing.rows_of(run, scores)
            for index, (row, seen) in enumerate(zip(rows, trained.starts_seen, strict=True)):
                starts = scores[index].student.starts.tolist()
                row["shared_starts"] = len(set(seen) & set(starts))
            result = closing.result_of(run, rows, outputs)
            result |= {"best_round": trained.round, "rounds": trained.rounds}
            result |= closing.hint_of(run, call.workdir, result)
            result["seconds"] = clocks.add_up([timer.seconds()], wall())
            closing.write_page(run, call.workdir, state.eval_params, result, outputs, call.command)
            result["seconds"] = clocks.add_up([timer.seconds()], wall())
            disk.write_json(result_path, result)
    return tables.read_result(result_path)


def measure_baselines(run: Run, timer: clocks.Timer) -> scoring.Baselines:
    """What every run begins with: experts and random play are measured, shown and checked.

    Raises:
      ValueError: an expert plays wildly below its claim, see `common.check_experts`.
    """
    for line in run.rule_differences():
        terminal.say(line)
    with timer.phase("baselines"):
        baselines = run.baselines()
    expert, random = baselines.expert, baselines.random
    tables.print_experts(run.experts, expert, random)
    chosen, means = run.settings.evaluate, [scores.mean for scores in random]
    runs.check_experts(run.experts, expert, means, chosen.lowest_expert_share, chosen.max_steps)
    return baselines
