"""A merge of weights, stage after stage: measured, saved and read as a distillation is.

What it leaves in its directory is what a distillation leaves, and everything that reads a student
there reads this one; `students.load_settings` knows whose settings they are.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import clocks, disk, lock, meshes, networks, preemption, terminal, workdirs
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import load_experts
from jaxdistill.learn import checkpoints, dataset, learner, weight_merging
from jaxdistill.play import lessons
from jaxdistill.report import tables
from jaxdistill.run import (
    closing,
    data,
    distill,
    distill_settings,
    merge_settings,
    student_json,
    warm_start,
)
from jaxdistill.run import common as runs
from jaxdistill.run.common import RENEWED, Run
from jaxdistill.run.merge_settings import Settings
from jaxdistill.run.progress import MergeProgress
from jaxdistill.tasks.atari import USUAL
from jaxdistill.tasks.views import Screen


def merge(
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    stop_after: str | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Merges the experts' weights into one network, and measures it as a student is measured.

    Nothing is chosen by play: the games that are reported are the only ones it plays. A call that
    was killed goes on: games that were played count, states are collected on, weights that were
    merged are read back. A result that stands is returned.

    Args:
      cache_dir: see `distill.distill`.
      stop_after: "merge" ends the call there, as a kill would; for tests.
      began: since when wall time counts.

    Returns:
      What is written to `result.json`: as of a distillation, but for the `method`, which is there
      in place of rounds.

    Raises:
      ValueError, FileNotFoundError: something the user can mend, in one line.
      preemption.Preempted: a signal has come; a merge on its way is begun again by the next call,
        and says so.
    """
    workdir, mesh = pathlib.Path(workdir), mesh or meshes.create()
    experts = [expert.under(USUAL) for expert in load_experts(settings.experts)]
    said, settings = settings.merge, merge_settings.resolve_defaults(settings, experts)
    if not (workdir / "config.json").exists():
        # What None stands for was not said, and is idle in many merges.
        merge_settings.refuse_idle(dataclasses.replace(settings, merge=said), experts)
    known = runs.records_of(settings.as_run(), workdir, cache_dir)
    run = Run(settings.as_run(), mesh, known=known)
    for lesson in run.lessons:
        lesson.task.require()
    # Before anything is played: a base may be none.
    given = _given(run, settings, experts, workdir)
    result_path = workdir / "result.json"
    if result_path.is_file():
        _claim(given, workdir)  # nothing is left to write: this asks for no lock
        student_json.tell_paths(workdir, run.settings)
        return tables.read_result(result_path)
    if settings.method in merge_settings.OF_STATES:
        data.check_all_fit(run)
    with lock.one_writer(workdir, "config.json"):
        _claim(given, workdir)
        student_json.claim_paths(workdir, run.settings)
        with clocks.wall_clock(workdir, began=began) as wall:
            return _stages(given, workdir, stop_after, wall)


class _Given(NamedTuple):
    """What is merged: the run with all but the merging, its settings, and parameters.

    Attributes:
      run: as `Settings.as_run` has it.
      settings: of the merge.
      experts: parameters, by the games' indices.
      base: what `Merge.base` names; once weights are merged any parameters of that shape.
    """

    run: Run
    settings: Settings
    experts: Sequence[networks.Params]
    base: networks.Params


def _given(
    run: Run, settings: Settings, experts: Sequence[Expert], workdir: pathlib.Path
) -> _Given:
    for lesson in run.lessons:
        if isinstance(lesson.view, Screen):
            raise ValueError(
                f"{lesson.teacher.name} sees {lesson.teacher.view}, and what is merged sees "
                f"{lesson.seen}; only weights of experts that see alike are merged"
            )
    params = [expert.params for expert in experts]
    named = settings.merge.base
    if checkpoints.any_in(workdir / checkpoints.FOLDER):
        named = None  # what was merged is read back, and the base is not asked for any more
    base = params[0] if named is None else warm_start.params_of(run, named, "merge.base")
    return _Given(run, settings, params, base)


def _claim(given: _Given, workdir: pathlib.Path) -> None:
    moved = student_json.relocated_fields(workdir, given.run.settings, given.run.experts)
    workdirs.claim(workdir, given.settings, ("evaluate.lowest_expert_share", *moved))
    student_json.claim_roles(workdir, given.run.settings, given.run.experts)


def _stages(
    given: _Given, workdir: pathlib.Path, stop_after: str | None, wall: Callable[[], float]
) -> dict[str, Any]:
    run, settings, timer = given.run, given.settings, clocks.Timer()
    distill.measure_baselines(run, timer)
    log, _ = data.resume(run, workdir, None, timer)
    params = _merged_once(given, workdir, log, timer).eval_params
    if stop_after is not None:
        return {}
    with timer.phase("report"):
        rows = closing.rows_of(run, run.play_reported(params))
        outputs = closing.compare_outputs(run, log, params)
        result = closing.result_of(run, [row | {"shared_starts": 0} for row in rows], outputs)
    result |= {"method": settings.method}
    result["seconds"] = clocks.add_up([timer.seconds()], wall())
    disk.write_json(workdir / "result.json", result)
    return tables.read_result(workdir / "result.json")


_AGAIN = "merges the weights from the beginning: states and games are kept"


def _merged_once(
    given: _Given, workdir: pathlib.Path, log: dataset.Log, timer: clocks.Timer
) -> learner.TrainState:
    """The merged network as a student's state: read back, or made and saved."""
    run = given.run
    with checkpoints.Checkpoints(workdir / checkpoints.FOLDER) as saved:
        step = saved.best_step()
        if step is not None:
            like = distill_settings.create_state(run.settings, given.base, run.mesh)
            restored = saved.restore(step, like)
            progress = MergeProgress.from_dict(restored.progress)
            timer.restore(progress.timer)
            if progress.length is not None:
                log.truncate(progress.length)  # others may have collected more since
            return restored.state
        with timer.phase("merge"), preemption.begun_again(_AGAIN):
            params = jax.device_get(_merged(given, log))
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(params)):
            raise ValueError(
                f"{given.settings.method} has made weights that are not finite; try fewer rounds, "
                f"a smaller merge.rate or a larger merge.damping"
            )
        state = distill_settings.create_state(run.settings, params, run.mesh)
        with timer.phase("save"):  # the only one, and so the best
            progress = MergeProgress(timer.state(), log.length)
            saved.save(0, state, progress=progress.to_dict(), value=0.0)
        return state


def _merged(given: _Given, log: dataset.Log) -> networks.Params:
    run, settings, experts, base = given
    method, chosen = settings.method, settings.merge
    if method == "mean":
        return weight_merging.mean(experts)
    if method == "task_arithmetic":
        return weight_merging.task_arithmetic(base, experts, chosen.scale)
    network, view = run.network, run.view
    if method == "fisher":
        loss = weight_merging.likelihood_loss(network, view, chosen.q_temperature)
    elif chosen.loss == weight_merging.TD:
        loss = weight_merging.td_loss(network, view, chosen.discount)
    else:
        loss = weight_merging.imitation_loss(network, view, chosen.loss, chosen.q_temperature)
    seen = _seen(run, settings, log)
    with terminal.progress(method, None, "rows") as advance:

        def gone_through(rows: int) -> None:
            preemption.stop_if_asked()
            advance(rows)

        states = weight_merging.States(
            seen, loss, chosen, seed=settings.seed, advance=gone_through, names=run.names
        )
        if method == "fisher":
            fishers = [weight_merging.fisher(states, x, i) for i, x in enumerate(experts)]
            return weight_merging.fisher_mean(experts, fishers)
        if method == "htcl":
            first = 0 if chosen.base is None else None
            first = run.names.index(chosen.base) if chosen.base in run.names else first
            return weight_merging.htcl(states, dict(enumerate(experts)), base, first, chosen)
        if method == "taylor_one_shot":
            return weight_merging.taylor_one_shot(states, experts, chosen.damping)
        if method == "taylor_iterative":
            return weight_merging.taylor_iterative(states, experts, chosen)
        seen_by_all = states.observations(view)
        return weight_merging.mean(weight_merging.aligned(network, base, experts, seen_by_all))


def _seen(run: Run, settings: Settings, log: dataset.Log) -> weight_merging.Seen:
    """The states of a log on the device; with what they were worth, where that is learnt from."""
    played = log.actions(log.length).astype(np.int32)
    nothing = np.zeros(played.shape, np.float32), np.zeros(played.shape, bool)
    by_reward = (
        settings.merge.loss == weight_merging.TD and settings.method in merge_settings.TAYLOR
    )
    rewards, ended = _replayed(run, log, played) if by_reward else nothing
    if limit := settings.merge.reward_limit:
        rewards = np.clip(rewards, -limit, limit)
    rewards = np.float32(settings.merge.reward_scale) * rewards
    window = data.window_of(run, log, log.length).window
    flat = (x.reshape(len(x), -1) for x in (played, rewards, ended))
    return weight_merging.Seen(window, run.masks, *meshes.put(run.mesh, tuple(flat)))


def _replayed(run: Run, log: dataset.Log, played: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What a log's actions were worth, and where a game or a life ended: it keeps neither.

    Pools are deterministic, so fresh ones in which the same is played say it again.

    Args:
      played: `(G, T, N)`.

    Returns:
      `(G, T, N)` float32 and bool, of what followed each action.

    Raises:
      ValueError: the pools come to other states than the log's.
    """
    rewards, ended = np.zeros(played.shape, np.float32), np.zeros(played.shape, bool)
    known, envs = log.states(log.length), played.shape[2]
    with terminal.progress("rewards", played.size, "steps") as advance:
        for lesson in run.lessons:
            own = dataclasses.replace(lesson, seed=log.info["seed"])
            pool, index = own.pool(envs, lessons.COLLECT), lesson.index
            renewed_every = 0 if pool.skips else log.info.get(RENEWED, 0)
            for time in range(log.length):
                preemption.stop_if_asked()
                lives = np.array(pool.last.lives)
                step = pool.step(played[index, time])
                lost = step.valid & (step.lives < lives)
                rewards[index, time], ended[index, time] = (
                    step.rewards,
                    lost | (step.over & ~step.truncated),
                )
                if renewed_every and (time + 1) % renewed_every == 0:
                    pool = own.pool(envs, lessons.COLLECT, (time + 1) // renewed_every)
                advance(envs)
            if known is not None and (pool.states != known[index]).any():
                raise ValueError(
                    f"{lesson.name}: what the dataset holds cannot be played again here, as the "
                    f"rewards of merge.loss {weight_merging.TD!r} need; collect again, or choose "
                    f"another loss"
                )
    return rewards, ended
