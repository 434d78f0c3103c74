"""What a run shows when it ends: its rows, its result and its page."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import meshes, metrics, networks
from jaxdistill.experts.expert import Expert, Teacher
from jaxdistill.learn import dataset, windows
from jaxdistill.play import clips, lessons, scoring
from jaxdistill.play.lessons import Lesson
from jaxdistill.report import hints, page, tables
from jaxdistill.run import data, distill_settings
from jaxdistill.run.common import Run
from jaxdistill.tasks.task import unusual_limit

COMPARED_STATES = 2048  # per game, of the last four times as many collected


def compare_outputs(run: Run, log: dataset.Log, params: Any) -> dict[str, page.Outputs]:
    """What experts and the student of `params` say of the last states of `log`; by one process."""
    params = meshes.take_local(run.mesh, params)
    per_env = 4 * COMPARED_STATES // run.settings.collect.num_envs
    per_env = min(log.length, max(run.stored.stack + 1, per_env))  # what is usable needs its stack
    window = data.window_of(run, log, per_env, meshes.local(run.mesh)).window
    counts = np.asarray(window.counts)
    chosen = np.linspace(0, counts - 1, min(counts.min(), COMPARED_STATES), axis=1).astype(int)
    rows = jnp.take_along_axis(window.rows, jnp.asarray(chosen), axis=1)
    gathered = jax.jit(windows.gather)(window, jnp.arange(len(rows)), rows)
    stacks, labels = jax.device_get(gathered)
    forward = jax.jit(functools.partial(networks.forward, run.network))
    return {
        lesson.name: page.Outputs(
            labels[index],
            np.asarray(forward(params, run.view.see(stacks[index]), index)),
            lesson.mask,
            run.suite,
        )
        for index, lesson in enumerate(run.taught)
    }


def write_page(
    run: Run,
    workdir: pathlib.Path,
    params: Any,
    result: dict[str, Any],
    outputs: dict[str, page.Outputs],
    command: str,
) -> None:
    """Everything the run has to show, as `report.html`; by one process, on its own devices."""
    params = meshes.take_local(run.mesh, params)
    plays = {}
    for lesson in run.lessons:  # frames of one task at a time: those of many would fill memory
        recorded = (
            clips.record(
                lesson,
                policy,
                seed=lesson.pool_seed(lessons.SHOW),
                steps=page.CLIP_SECONDS * lesson.task.frames_per_second,
                max_steps=run.settings.evaluate.max_steps,
                mesh=run.mesh,
            )
            for policy in (run.expert_policy(), functools.partial(run.student_act, params))
        )
        plays[lesson.name] = page.film_of_both(*recorded)
    vectors = networks.task_vectors(run.network, params)
    page.write(
        workdir,
        result,
        settings=dataclasses.asdict(run.settings),
        outputs=outputs,
        plays=plays,
        command=command,
        embeddings={} if vectors is None else dict(zip(run.names, vectors.tolist(), strict=True)),
    )


def rows_of(run: Run, scores: Mapping[int, scoring.Comparison]) -> list[dict[str, Any]]:
    """One row per game: random, expert and student scores, and what the student kept.

    Args:
      scores: by the lessons' indices.
    """
    rows = []
    for i, (random, expert, student) in scores.items():
        task = run.lessons[i].task
        limit = run.settings.evaluate.max_steps or task.max_steps
        rows.append(
            {
                "game": run.names[i],
                "expert_name": run.experts[i].name,
                "expert_source": run.experts[i].source,
                "random": random.summary(),
                "expert": expert.summary(),
                "student": student.summary(),
                "retention": scoring.retention(student.mean, expert.mean, random.mean),
                "retention_interval": list(scoring.retention_interval(student, expert, random)),
                "human_normalised": task.human_normalised(student.mean, limit),
                **({"max_steps": limit} if task.suite.facts else {}),
            }
        )
    return rows


def result_of(
    run: Run, rows: list[dict[str, Any]], outputs: dict[str, page.Outputs]
) -> dict[str, Any]:
    """What the closing table shows of games and how they were measured, as JSON.

    The three summary retentions are NaN if one game's retention is unknown.
    """
    kept = np.asarray([tables.kept(row) for row in rows])
    return {
        "games": [
            row | (_choices(outputs[row["game"]]) if row["game"] in outputs else {}) for row in rows
        ],
        "mean_retention": float(kept.mean()),
        "geometric_retention": float(np.exp(np.log(np.maximum(kept, 1e-9)).mean())),
        "worst_retention": float(kept.min()),
        "episodes": max(row["student"]["episodes"] for row in rows),
        "epsilon": run.settings.evaluate.epsilon,
        "opening_steps": run.settings.evaluate.opening_steps,
        "opening_by": run.settings.evaluate.opening_by,
        "max_steps": unusual_limit(
            run.settings.evaluate.max_steps, [lesson.task for lesson in run.lessons]
        ),
    }


def hint_of(run: Run, workdir: pathlib.Path, result: dict[str, Any]) -> dict[str, str]:
    """What the log suggests, as `hint`; empty where it suggests nothing."""
    evidence = hints.Evidence(
        history=metrics.read(workdir),
        rounds=int(result["rounds"]),
        loss=run.settings.learn.loss,
        of_q=all(lesson.teacher.outputs == "q" for lesson in run.taught),
        steps_per_round=run.settings.collect.steps_per_round,
        begins=_begins(run),
        shares={name: distill_settings.more_of(run.settings, name) for name in run.names},
    )
    said = hints.closing_hint(result, evidence)
    return {} if said is None else {"hint": said}


def _begins(run: Run) -> dict[str, str]:
    """Of each task the convolutions that the student could have begun with, in a new run."""
    learn = run.settings.learn
    if learn.warm_start is not None:
        return _room_beside(run, *learn.sees_as) if len(learn.sees_as) == 1 else {}
    flags = {}
    for lesson in run.taught:
        expert = lesson.teacher
        if isinstance(expert, Expert) and (
            convs := run.convolutions_of(expert.network, expert.view)
        ):
            having = networks.may_take_torso(run.network, expert.network)
            flags[lesson.name] = (
                f"begin with its expert's convolutions: --config.learn.warm_start={lesson.name} "
                f"--config.learn.warm_layers=convolutions"
                + ("" if having else f" --config.convolutions={convs}")
            )
    return flags


def _room_beside(run: Run, named: str) -> dict[str, str]:
    """For the tasks whose expert's convolutions are not copied: those too, or room for others."""
    expert = run.experts[run.names.index(named)] if named in run.names else None
    advised = {}
    for lesson in run.taught:
        advice = _both(run, expert, lesson) or _wider(run, expert, named)
        if lesson.name != named and advice:
            advised[lesson.name] = advice
    return advised


def _both(run: Run, expert: Teacher | None, lesson: Lesson) -> str | None:
    """To begin with the convolutions of an expert and of a lesson's own, if they go together."""
    other = lesson.teacher
    if not (isinstance(expert, Expert) and isinstance(other, Expert)):
        return None
    if not (expert.network.convs and other.network.convs and other.view.shape == run.view.shape):
        return None
    convs = networks.side_by_side(expert.network, other.network)
    own = run.network.clone(convs=convs)
    if not networks.may_take_torso(own, expert.network, other.network):
        return None
    return (
        f"begin with the convolutions of both experts, side by side: "
        f"--config.learn.warm_start={expert.game},{lesson.name} "
        f"--config.convolutions={networks.describe_convolutions(convs)}"
    )


def _wider(run: Run, expert: Teacher | None, named: str) -> str | None:
    """Half as many features more, unless there are more than an expert's already."""
    own = run.network.convs
    wider = tuple(dataclasses.replace(x, features=x.features * 3 // 2) for x in own)
    if not (
        isinstance(expert, Expert)
        and expert.network.convs == own
        and networks.may_take_torso(run.network.clone(convs=wider), expert.network)
    ):
        return None
    return (
        f"give it features of its own beside those of {named}'s expert: "
        f"--config.convolutions={networks.describe_convolutions(wider)}"
    )


def _choices(outputs: page.Outputs) -> dict[str, float]:
    """How alike student and expert choose, as far as it is said of this task."""
    student, expert, mask = map(jnp.asarray, (outputs.student, outputs.expert, outputs.mask))
    form = outputs.suite.form
    compared = form.compare(student, expert, mask)
    return {name: float(compared[name].mean()) for name in form.compared(outputs.mask)}
