"""A training and its report: what the best network scores in games that did not choose it."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxdistill import clocks, disk, lock, meshes, metrics, networks, profiler, workdirs
from jaxdistill.experts.expert import Expert, Teacher
from jaxdistill.experts.student import Student, game_index
from jaxdistill.learn import checkpoints, loop, train_settings
from jaxdistill.learn import training as learning
from jaxdistill.learn.origins import Pretrained
from jaxdistill.learn.train_settings import Settings
from jaxdistill.play import (
    clips,
    lessons,
    measuring,
    protocols,
    records,
    rollouts,
    scoring,
)
from jaxdistill.play.lessons import Lesson
from jaxdistill.play.players import RANDOM, Player
from jaxdistill.report import page, tables
from jaxdistill.run import common, finetuning, kinds
from jaxdistill.tasks.atari import Game
from jaxdistill.tasks.task import Task


def train(
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    stop_at: int | None = None,
    command: str = "",
    profile: str | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """`loop.train`, and then the best network and random play are measured and shown.

    A student goes on by the rules that it was distilled under, unless `settings.rules` says others
    than the usual ones.

    `settings.final_episodes` whole games of each task, with `eval_epsilon`, the same ones in every
    training: of other seeds than any game that helped to choose the network and, where there are
    openings, from states of the other side (see `protocols.Opening`). A training that was measured
    is read back, and nothing is played or written.

    Args:
      cache_dir: where games of random play and of those it goes on from are looked for, and kept
        for other runs; None is nowhere but in `workdir`.
      stop_at: stop after this iteration as a kill would, after saving; for tests.
      command: what the report says began the training.
      profile: directory for a trace of a few iterations.
      began: since when wall time counts, see `loop.train`.

    Returns:
      What is written to `result.json`: a row of each task in `games`, how they were measured, and
      what was learnt; empty where `stop_at` says so.

    Raises:
      ValueError, OSError: something the user can mend, in one line; see `loop.train`.
    """
    profiler.check(profile)
    workdir, mesh = pathlib.Path(workdir), mesh or meshes.create()
    student = finetuning.student_of(settings, workdir)
    if student is not None:
        settings = finetuning.as_distilled(settings, student)
    path = workdir / "result.json"
    if stop_at is None and path.is_file() and _experts_stand(settings, workdir):
        loop.check_begun(settings, workdir, mesh=mesh, student=student)
        profiler.none_left(profile)
        return tables.read_training(path)
    if (gone := missing_path(workdir)) is not None:
        loop.check_begun(settings, workdir, mesh=mesh, student=student)
        raise ValueError(
            f"{workdir} has learnt already, and what it has learnt, in {gone}, is not there any "
            f"more; put it back, or train again in another --workdir"
        )
    loop.train(
        settings,
        workdir,
        mesh=mesh,
        stop_at=stop_at,
        profile=profile,
        student=student,
        began=began,
    )
    if stop_at is not None:
        return {}
    if not path.is_file():
        with lock.one_writer(workdir, "config.json"), clocks.wall_clock(workdir) as wall:
            _report(
                train_settings.resolve_defaults(settings), workdir, mesh, command, cache_dir, wall
            )
    return tables.read_training(path)


def _experts_stand(settings: Settings, workdir: pathlib.Path) -> bool:
    """Whether a finished training has lost none of what it leaves to other programs."""
    return all(
        (workdir / "experts" / task.name / "expert.json").is_file() for task in settings.tasks
    )


def missing_path(workdir: str | os.PathLike[str]) -> pathlib.Path | None:
    """What a training that has chosen a network goes on from, and is not there any more.

    None if all of it is there, or where none stands.

    Raises:
      ValueError: its `config.json` is damaged.
    """
    workdir = pathlib.Path(workdir)
    if kinds.of(workdir) != "training":
        return None
    ended = (workdir / "result.json").is_file()
    for _, where in loop.parts(load_settings(workdir), workdir):
        # Who is chosen is saved first, and then for other programs.
        chosen = ended or (where / "experts").is_dir()
        if chosen and not checkpoints.any_in(where / checkpoints.FOLDER):
            return where / checkpoints.FOLDER
    return None


class _Learnt(NamedTuple):
    """What one network of a finished training has come to.

    Attributes:
      best_step: steps per task after which it played best.
      parameters: how many it has.
      vectors: what it has learnt for each task, by name; empty where it learns none.
      seconds: by phase.
      history: rows of its `metrics.jsonl`.
      starts_seen: by task, hashes of the states that games started from that it was chosen by,
        where they are known.
    """

    best_step: int
    parameters: int
    vectors: dict[str, list[float]]
    seconds: dict[str, float]
    history: list[dict[str, Any]]
    starts_seen: Mapping[str, Sequence[int]]


def _report(
    settings: Settings,
    workdir: pathlib.Path,
    mesh: Mesh,
    command: str,
    cache_dir: str | os.PathLike[str] | None,
    wall: Callable[[], float],
) -> None:
    """Measures and shows the best network of a finished training; the result is written last."""
    parts = loop.parts(settings, workdir)
    student = finetuning.student_of(settings, workdir)
    learnt = [_read_learnt(one, where, mesh, student) for one, where in parts]
    timer = clocks.Timer()
    experts = load_experts(workdir)
    terms = protocols.Terms(
        episodes=settings.final_episodes,
        epsilon=settings.measured_epsilon,
        seed=protocols.REPORT_SEED,
        opening_steps=settings.opening,
        max_steps=settings.max_steps,
    )
    with timer.phase("report"):
        rows = measure(
            experts,
            terms,
            mesh=mesh,
            known=common.records_in(workdir, cache_dir),
            student=student,
            starts_seen={name: starts for x in learnt for name, starts in x.starts_seen.items()},
        )
        plays = _record(experts, settings)
    best_steps = [x.best_step for (one, _), x in zip(parts, learnt, strict=True) for _ in one.games]

    def seconds() -> dict[str, float]:
        return clocks.add_up([*(x.seconds for x in learnt), timer.seconds()], wall())

    result = {
        "games": [row | {"best_step": step} for row, step in zip(rows, best_steps, strict=True)],
        **terms.to_dict(settings.tasks),
        "steps": settings.iterations * settings.steps_per_iteration,
        "networks": len(learnt),
        "parameters": sum(x.parameters for x in learnt),
        "embeddings": learnt[0].vectors if len(learnt) == 1 else {},
        "seconds": seconds(),
    }
    page.write_training(
        workdir,
        result,
        settings=dataclasses.asdict(settings),
        histories={
            ", ".join(one.games): x.history for (one, _), x in zip(parts, learnt, strict=True)
        },
        plays=plays,
        command=command,
    )
    result["seconds"] = seconds()
    disk.write_json(workdir / "result.json", result)


def _read_learnt(
    settings: Settings, workdir: pathlib.Path, mesh: Mesh, student: Pretrained | None
) -> _Learnt:
    with learning.Training.of(settings, workdir, mesh, student) as training:
        params = jax.device_get(training.network_params(training.best_params()))
        vectors = networks.task_vectors(training.network, params)
        seconds = training.timer.seconds()
        seconds.pop("inference", None)  # which is within "collect"
        return _Learnt(
            training.best["step"],
            networks.count(params),
            {} if vectors is None else dict(zip(training.names, vectors.tolist(), strict=True)),
            seconds,
            metrics.read(workdir),
            training.starts_seen or {},
        )


def measure(
    experts: Sequence[Expert],
    terms: protocols.Terms,
    *,
    mesh: Mesh,
    known: records.Records,
    student: Pretrained | None = None,
    told_by: Student | None = None,
    only: int | None = None,
    starts_seen: Mapping[str, Collection[int]] | None = None,
) -> list[dict[str, Any]]:
    """A row of each task: random play, and the network that the experts are of.

    The network is shown what it was shown where it was chosen: what is seen is hashed, to keep
    starts apart (`protocols.Opening`). Teachers who see a screen otherwise play in other pools.

    Args:
      known: games that are not played again.
      student: what the network was trained further from; it and who taught it play too. Where
        those are not at hand, what its card says of them stands in their place.
      told_by: the exported student that the network is, if it is one, whose card says the same.
      only: the index of the one task to play; its row is as it would be among the others.
      starts_seen: by task, hashes of the states that games started from that the network was chosen
        by: a row says how many of them are among its starts here (`shared_starts`).
    """
    everything = lessons.of_experts(experts, terms.seed)
    chosen = everything if only is None else everything[only : only + 1]
    for lesson in chosen:
        lesson.task.require()
        terms.check_opening(lesson.task)
    random = rollouts.random_policy(lessons.choices(everything))
    players = {"random": Player("random", random, (RANDOM,) * len(everything))}
    taught_by = student.teachers if student else {}
    teachers = {x.name: _as_played(taught_by[x.name], x.task) for x in everything if taught_by}
    if teachers:
        players["expert"] = Player.experts(
            [teachers[lesson.name] for lesson in everything], mesh=mesh, epsilon=terms.epsilon
        )
    if student is not None:
        players["student"] = _student_player(student, everything, terms.epsilon, mesh)
    players["network"] = Player.experts(
        experts, mesh=mesh, epsilon=terms.epsilon, name="network", one_run_only=True
    )
    protocol = terms.protocol(random)
    played = {
        who: measuring.measure(
            _as_taught(chosen, teachers) if who == "expert" else chosen,
            player,
            protocol,
            terms.episodes,
            mesh,
            known,
        )
        for who, player in players.items()
    }
    card = student.alone if student else told_by
    return [
        _row(
            lesson,
            {who: scores[place] for who, scores in played.items()},
            terms,
            card.expert_scores(lesson.task, terms.protocol_fields) if card else None,
            (starts_seen or {}).get(lesson.name),
        )
        for place, lesson in enumerate(chosen)
    ]


def _as_played(teacher: Teacher, task: Task) -> Teacher:
    """The teacher by the rules that are played, which may be others than those of its run."""
    if isinstance(task, Game) and isinstance(teacher, Expert):
        return teacher.under(task.rules)
    return teacher


def _student_player(
    student: Pretrained, taught: Sequence[Lesson], epsilon: float, mesh: Mesh
) -> Player:
    """The student that a network was trained further from."""
    views = student.views([lesson.task for lesson in taught])
    act = rollouts.network_actor(
        student.network, lessons.choices(taught), epsilon=epsilon, views=views
    )
    params = jax.device_put(student.params, meshes.replicated(meshes.local(mesh)))
    policy = functools.partial(act, params)
    return Player.student(student.network, student.params, policy, views=views, epsilon=epsilon)


def _as_taught(chosen: Sequence[Lesson], teachers: Mapping[str, Teacher]) -> list[Lesson]:
    """The lessons in pools that show what teachers see, too."""
    return [lesson.showing(teachers[lesson.name].view) for lesson in chosen]


def _row(
    lesson: Lesson,
    played: Mapping[str, scoring.Scores],
    terms: protocols.Terms,
    expert: Mapping[str, Any] | None,
    seen: Collection[int] | None,
) -> dict[str, Any]:
    """What is said of one task.

    Args:
      played: scores of each player.
      expert: what a card says of the expert's, if nothing else does.
      seen: as `starts_seen` of `measure`, of this task.
    """
    task, network = lesson.task, played["network"]
    row: dict[str, Any] = {
        "game": lesson.name,
        **{who: scores.summary() for who, scores in played.items()},
    }
    if expert:
        row["expert"] = expert
    row["human_normalised"] = task.human_normalised(network.mean, terms.max_steps)
    if seen is not None:
        row["shared_starts"] = len(set(network.starts.tolist()) & set(seen))
    if task.facts:
        row["max_steps"] = terms.max_steps or task.max_steps
    return row


def _record(experts: Sequence[Expert], settings: Settings) -> dict[str, page.Film]:
    """A game of each task, from a start that nothing else is measured at."""
    policy = rollouts.expert_actor(experts, epsilon=settings.measured_epsilon, sample_logits=False)
    return {
        lesson.name: page.film_of(
            clips.record(
                lesson,
                policy,
                seed=lesson.pool_seed(lessons.SHOW),
                steps=page.CLIP_SECONDS * lesson.task.frames_per_second,
                max_steps=settings.max_steps,
            )
        )
        for lesson in lessons.of_experts(experts, settings.seed)
    }


def load_settings(workdir: str | os.PathLike[str]) -> Settings:
    """The settings of the training in `workdir`.

    Raises:
      FileNotFoundError, ValueError: there is none, or its `config.json` is damaged.
    """
    path = pathlib.Path(workdir, "config.json")
    standing = disk.read_json(path, "begin again in another --workdir")
    return workdirs.understood(Settings, standing, path, "name another directory")


def load_experts(workdir: str | os.PathLike[str], game: str | None = None) -> list[Expert]:
    """The best network so far of the training in `workdir`, as one expert per task.

    Args:
      game: the only task; by default all.

    Raises:
      FileNotFoundError, ValueError: the training is not there, has evaluated nothing yet, or the
        game is not one of its own.
    """
    if game is not None:
        return [best_as_expert(workdir, game)]
    return [_load_expert(workdir, task.name) for task in load_settings(workdir).tasks]


def _load_expert(workdir: str | os.PathLike[str], name: str) -> Expert:
    directory = pathlib.Path(workdir, "experts", name)
    if not (directory / "expert.json").is_file():
        raise ValueError(f"{workdir} has evaluated nothing of {name} yet; let it run on")
    return Expert.load(directory)


def best_as_expert(workdir: str | os.PathLike[str], game: str | None = None) -> Expert:
    """The best network of a training, as an expert for one of its tasks.

    Args:
      game: which of them; None if there is only one.

    Raises:
      FileNotFoundError, ValueError: the training is not there, has evaluated nothing, or the game
        is not one of its own.
    """
    names = [task.name for task in load_settings(workdir).tasks]
    if game is None and len(names) > 1:
        raise ValueError(
            f"{workdir} learnt {len(names)} tasks and an expert plays one; name one of "
            f"{', '.join(names)}"
        )
    index = 0 if game is None else game_index(names, game, workdir, "learnt")
    return _load_expert(workdir, names[index])
