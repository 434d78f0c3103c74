"""The chosen student of a finished or standing run, read back.

A run writes down in `student.json` what its student plays and sees there, and what its experts
hold, so that it can be read, watched and exported without them. Runs of before that was written ask
their experts' files. It says who the experts were, too: where they are asked again, others may
stand in their place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import disk, lock, meshes, networks, shipped, tasks, workdirs
from jaxdistill.experts import hub
from jaxdistill.experts import student as travelling
from jaxdistill.experts.expert import Expert, Teacher, Team
from jaxdistill.experts.student import Role, Student, game_index
from jaxdistill.learn import checkpoints, learner, losses, train_settings
from jaxdistill.play import records
from jaxdistill.run import distill_settings, kinds, merge_settings
from jaxdistill.run.distill_settings import Settings
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.task import Suite, Task
from jaxdistill.text import one_line

_FILE = "student.json"
_HELD = "expert_outputs"  # of each game, in that file; one of an earlier version does not say
_MARK, _SHA256 = "expert_params", "expert_sha256"  # of those that are not followed
_ADVICE = "remove it, and the run's experts are asked"


def roles_of(settings: Settings, experts: Sequence[Teacher]) -> tuple[Role, ...]:
    """The roles of the student of a run, whose experts `distill_settings.teachers` gives."""
    views = distill_settings.student_views(settings, experts)
    return tuple(
        Role(str(e.game), view, tuple(np.flatnonzero(e.mask).tolist()), e.name, e.source)
        for e, view in zip(experts, views, strict=True)
    )


def claim_roles(
    workdir: str | os.PathLike[str], settings: Settings, experts: Sequence[Teacher]
) -> None:
    """Writes down what the student of `workdir` plays and sees, or finds it written and the same.

    So with the weights of its experts, which count from when something was learnt from them.

    Raises:
      ValueError: the run began with experts of other games, ones that saw something else, or ones
        of other weights.
    """
    path = pathlib.Path(workdir, _FILE)
    learnt = checkpoints.any_in(pathlib.Path(workdir, checkpoints.FOLDER))
    rows = _rows_of(settings, experts, marked=not (learnt or settings.collect.follow))
    check_same(workdir, settings, experts)
    if path.is_file() and (learnt or disk.read_json(path, _ADVICE) == rows):
        return
    disk.write_json(path, rows)


def check_same(
    workdir: str | os.PathLike[str], settings: Settings, experts: Sequence[Teacher]
) -> None:
    """What `claim_roles` refuses, and nothing is written."""
    path = pathlib.Path(workdir, _FILE)
    if path.is_file():
        check_roles(workdir, _read_roles(path, settings.rules), roles_of(settings, experts))
        if checkpoints.any_in(pathlib.Path(workdir, checkpoints.FOLDER)):
            check_weights(workdir, experts)


def _rows_of(
    settings: Settings, experts: Sequence[Teacher], *, marked: bool
) -> list[dict[str, Any]]:
    """What is written down of each game; `marked`, with what tells its expert from others."""
    roles = roles_of(settings, experts)
    rows = [r.to_dict() | {_HELD: e.outputs} for r, e in zip(roles, experts, strict=True)]
    if marked:
        for row, expert in zip(rows, experts, strict=True):
            row[_MARK] = records.fingerprint(expert.params)
        for row, source in zip(rows, settings.experts, strict=False):  # a team has no file
            row[_SHA256] = _sha256(shipped.found(source.path))
    return json.loads(json.dumps(rows))  # as they are read back: no tuples


def check_roles(
    workdir: str | os.PathLike[str], standing: Sequence[Role], new: Sequence[Role]
) -> None:
    """Refuses experts that play or see something else than those a student learnt from.

    Raises:
      ValueError: a game or a view differs.
    """
    if [role.game for role in standing] != [role.game for role in new]:
        raise ValueError(
            f"{workdir} has a student of {', '.join(role.game for role in standing)}, and its "
            f"experts now play {', '.join(role.game for role in new)}; put back the experts' "
            f"files, or begin in another --workdir"
        )
    for old, role in zip(standing, new, strict=True):
        for what, before, now in (
            ("sees", old.view, role.view),
            ("learns actions", old.actions, role.actions),
        ):
            if before != now:
                raise ValueError(
                    f"{workdir} has a student that {what} {before} in {old.game}, and its expert "
                    f"{role.expert} now stands for {now}; put back the expert's file or spec, or "
                    f"begin in another --workdir"
                )


def check_weights(workdir: str | os.PathLike[str], experts: Sequence[Teacher]) -> None:
    """Refuses experts of other weights than those a student learnt from.

    Nothing is refused where nobody wrote down whom it learnt from: in a run of an earlier version,
    or one that follows experts in training.

    Raises:
      ValueError: an expert has other weights.
    """
    marks = _written(workdir, _MARK)
    for expert in experts:
        if marks.get(str(expert.game)) not in (None, records.fingerprint(expert.params)):
            before = _written(workdir, "source").get(str(expert.game))
            now = "which has" if before == expert.source else f"and {expert.source} has"
            raise ValueError(
                f"the student of {workdir} learnt {expert.game} from {before}, {now} other weights "
                f"now; put back what it was, begin in another --workdir, or export the student "
                f"(--format=student), which then needs no experts"
            )


def relocated_fields(
    workdir: str | os.PathLike[str], settings: Settings, experts: Sequence[Teacher]
) -> list[str]:
    """The fields of a run's settings, as "experts.0.path", that say where the same experts are.

    Empty where it is not known whether they are the same.
    """
    marks = _written(workdir, _MARK)
    return [
        f"experts.{index}.path"
        for index, expert in enumerate(experts[: len(settings.experts)])
        if marks.get(str(expert.game)) == records.fingerprint(expert.params)
    ]


def claim_paths(workdir: str | os.PathLike[str], settings: Settings) -> None:
    """Writes down where the experts of a run that goes on are now, since they may have `moved`."""
    path = pathlib.Path(workdir, "config.json")
    standing = disk.read_json(path, "begin again in another --workdir")
    rows = standing["experts"]
    now = [row | {"path": x.path} for row, x in zip(rows, settings.experts, strict=True)]
    if now != rows and meshes.leads():
        disk.write_json(path, standing | {"experts": now})


def tell_paths(workdir: str | os.PathLike[str], settings: Settings) -> None:
    """`claim_paths` of a run that is only read, where it may be written to; else nothing is."""
    if load_settings(workdir).experts == settings.experts:
        return
    # Who may not write is shown the run all the same; whoever writes there now says it himself.
    with contextlib.suppress(OSError, ValueError), lock.one_writer(workdir, "config.json"):
        claim_paths(workdir, settings)


def check_paths(workdir: str | os.PathLike[str], settings: Settings) -> None:
    """Refuses a run whose experts are to be asked and are not where it says that they are.

    Raises:
      FileNotFoundError: nothing is there, be it of one expert.
    """
    marks = _written(workdir, _MARK)
    for role, source in zip(load_roles(workdir, settings), settings.experts, strict=False):
        if hub.is_address(source.path) or shipped.found(source.path).exists():
            continue
        now = f"say in {pathlib.Path(workdir, 'config.json')} where it is now"
        if marks.get(role.game) is not None:  # by which it is known again
            now = "call the program that made this run with the path where it is now"
        raise FileNotFoundError(
            f"the student of {workdir} learnt {role.game} from {source.path}, where nothing is "
            f"now; put it back, {now}, or export the student (--format=student), which then needs "
            f"no experts"
        )


def as_read(workdir: str | os.PathLike[str], settings: Settings) -> Settings:
    """The settings of a run with the commits of its experts on the hub, whose branches move on."""
    if settings.collect.follow or not pathlib.Path(workdir, _FILE).is_file():
        return settings
    experts = list(settings.experts)
    for index, (expert, role) in enumerate(
        zip(settings.experts, load_roles(workdir, settings), strict=False)
    ):
        if hub.is_address(expert.path) and hub.is_address(role.source):
            experts[index] = dataclasses.replace(expert, path=role.source)
    return dataclasses.replace(settings, experts=tuple(experts))


def _written(workdir: str | os.PathLike[str], name: str) -> dict[str, Any]:
    """What is written down as `name` of each game; None of one of which nothing is."""
    path = pathlib.Path(workdir, _FILE)
    rows = disk.read_json(path, _ADVICE) if path.is_file() else []
    known = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return {str(row.get("game")): row.get(name) for row in known}


def load_roles(workdir: str | os.PathLike[str], settings: Settings) -> tuple[Role, ...]:
    """The games of the student in `workdir`, in its order.

    Raises:
      ValueError: nothing is written down, as in an older run, and an expert's file cannot be read;
        or what is written is damaged.
    """
    path = pathlib.Path(workdir, _FILE)
    if path.is_file():
        return _read_roles(path, settings.rules)
    try:
        return roles_of(settings, distill_settings.teachers(settings))
    except tasks.UnknownTask:
        raise
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{workdir} holds no {_FILE}, so its experts are asked: {error}"
        ) from error


def _read_roles(path: pathlib.Path, rules: Rules) -> tuple[Role, ...]:
    rows = disk.read_json(path, _ADVICE)
    try:
        roles = tuple(Role.from_dict(row, rules) for row in rows)
        if not roles:
            raise ValueError("names no game")
    except tasks.UnknownTask as error:  # of a file that was not imported: nothing is damaged
        raise tasks.UnknownTask(f"{path}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{path} is damaged ({reason}); {_ADVICE}") from error
    return roles


def load_settings(workdir: str | os.PathLike[str]) -> Settings:
    """The settings of the run in `workdir`; raises as `load_suite` does.

    Those of merged weights are as `merge_settings.Settings.as_run` has them.
    """
    return _as_run(_read_settings(pathlib.Path(workdir))[0])


def _as_run(chosen: Settings | merge_settings.Settings) -> Settings:
    return chosen.as_run() if isinstance(chosen, merge_settings.Settings) else chosen


def load_suite(workdir: str | os.PathLike[str]) -> Suite:
    """What the games of the run in `workdir` have in common.

    Raises:
      FileNotFoundError, ValueError: the run is not there, or its files are damaged.
    """
    return load_roles(workdir, load_settings(workdir))[0].task.suite


def how_made(workdir: str | os.PathLike[str], updates: int) -> dict[str, Any]:
    """What is said in an exported file of how the student of `workdir` was made.

    Args:
      updates: how many it was taught by, which distilled students are said to have had.
    """
    chosen = _read_settings(pathlib.Path(workdir))[0]
    if isinstance(chosen, merge_settings.Settings):
        read = [
            name for name, methods in merge_settings.READ_BY.items() if chosen.method in methods
        ]
        return {"method": chosen.method} | {name: getattr(chosen.merge, name) for name in read}
    learn = chosen.learn
    return {
        "method": "distillation",
        "loss": learn.loss,
        "updates": updates,
        "batch_per_game": learn.batch_per_game,
        "learning_rate": learn.learning_rate,
    }


def _read_settings(
    workdir: pathlib.Path,
) -> tuple[Settings | merge_settings.Settings, pathlib.Path, dict[str, Any]]:
    """A run's settings, the file they are in, and what stands there."""
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir} holds no config.json; expected a distillation run")
    kind = kinds.of(workdir)
    if kind == "training":
        raise ValueError(
            f"{workdir} holds a training and no distillation; name another directory or, where "
            f"an expert may be given, one of those in {workdir / 'experts'}"
        )
    standing = disk.read_json(path, "begin again in another --workdir")
    cls: type[Settings | merge_settings.Settings] = (
        merge_settings.Settings if kind == "merge" else Settings
    )
    chosen = workdirs.understood(cls, standing, path, "name another directory")
    return chosen, path, standing


def load_student(workdir: str | os.PathLike[str]) -> tuple[Settings, learner.TrainState, Any]:
    """Settings, chosen student, and network of the run in `workdir`.

    Raises:
      FileNotFoundError, ValueError: the run is not there or has chosen no student yet.
    """
    workdir = pathlib.Path(workdir)
    chosen, path, standing = _read_settings(workdir)
    settings = _as_run(chosen)
    roles = load_roles(workdir, settings)
    played = [tasks.under(role.task, settings.rules) for role in roles]
    network = distill_settings.network_of(settings, played, roles[0].view)
    params = networks.init(network, jax.random.key(0), roles[0].view.shape)
    state = create_state(settings, params, meshes.create())
    with workdirs.naming_unsaid(path, type(chosen), standing):
        best = checkpoints.read_best(workdir / checkpoints.FOLDER, state)
    if best is None and (workdir / "result.json").is_file():
        raise ValueError(
            f"{workdir} has ended, and its student, in {workdir / checkpoints.FOLDER}, is not "
            f"there any more; put it back, or distil again in another --workdir"
        )
    if best is None:
        raise ValueError(f"{workdir} has evaluated no student yet; let it run on")
    return settings, best.state, network


def read(workdir: str | os.PathLike[str]) -> Student:
    """A student as one value, with a card that says how it was made and plays.

    Args:
      workdir: of a run, whose chosen student is meant; or one that was exported or pushed.

    Raises:
      FileNotFoundError, ValueError: neither is there, or the run has chosen no student.
    """
    if (exported := travelling.read(workdir)) is not None:
        return exported
    settings, state, network = load_student(workdir)
    return Student(
        name=str(workdir),
        network=network,
        params=jax.device_get(state.eval_params),
        outputs=outputs_of(workdir, settings),
        roles=load_roles(workdir, settings),
        rules=settings.rules,
        card=_card(pathlib.Path(workdir), settings, int(state.step)),
    )


def _card(workdir: pathlib.Path, settings: Settings, updates: int) -> dict[str, Any]:
    """How a student was made, of what, and how it plays, as far as the run has come.

    Of its experts' files it says what they held then, not what they hold now.
    """
    path, measured = workdir / "result.json", {}
    held = [*_written(workdir, _SHA256).values(), *[None] * len(settings.experts)]
    if path.is_file():
        measured = disk.read_json(path, "the same command writes it again")
    return {
        "made": how_made(workdir, updates),
        "settings": disk.read_json(workdir / "config.json", "begin anew"),
        "experts": [
            {"path": source.path, "spec": source.spec, "sha256": sha256}
            for source, sha256 in zip(settings.experts, held, strict=False)
        ],
        "measured": {name: measured[name] for name in _MEASURED if name in measured}
        | {"max_steps": settings.evaluate.max_steps},
        "versions": {name: importlib.metadata.version(name) for name in ("jaxdistill", "jax")},
        "license": None,
    }


_MEASURED = ("games", "episodes", "epsilon", "opening_steps", "opening_by")


def _sha256(path: pathlib.Path) -> str | None:
    """Of a file; None where it is not there any more, or is a directory."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def student_as_expert(
    workdir: str | os.PathLike[str], game: str | None = None, *, whole: bool = False
) -> Expert:
    """A student that `read` reads, as an expert for one of its games; see `Student.expert`.

    Raises:
      FileNotFoundError, ValueError: as `read`, or the game is not one of its own.
    """
    return read(workdir).expert(game, whole=whole)


def to_go_on_from(
    workdir: str | os.PathLike[str], games: Sequence[str]
) -> train_settings.Pretrained:
    """A student that `read` reads, to be trained further in some of its games.

    One that plays a task of keys and angles whole goes on in others of that kind too, such as a
    duel of other health. One that was exported has no teachers.

    Raises:
      FileNotFoundError, ValueError: as `read`; an expert of the run cannot be read, or a game is
        not one of its own.
    """
    alone = travelling.read(workdir)
    student = alone or read(workdir)
    for game in games:
        if game not in student.games and not _knows_enough(student, tasks.get(game)):
            game_index(student.games, game, workdir)  # which refuses it
    for role in student.roles:
        if role.game in games and not role.view.native:
            raise ValueError(
                f"a training shows what EnvPool makes alone, and the student of {workdir} sees "
                f"{role.view} in {role.game}; distil one with view None"
            )
    network, params = student.network, student.params
    if network.knows_game:
        indices = [student.games.index(game) for game in games]
        network, params = networks.for_some_games(network, params, indices)
    return train_settings.Pretrained(
        name=f"student of {workdir}",
        network=network,
        params=params,
        outputs=student.outputs,
        view=student.roles[0].view,
        teachers={} if alone else _teachers(workdir, games),
        own={role.game: role.view for role in student.roles},
        alone=alone,
        actions={role.game: role.actions for role in student.roles},
        rules=student.rules,
    )


def _knows_enough(student: Student, task: Task) -> bool:
    """Whether a task that a student was not taught asks for no more than one that it was."""
    if student.network.knows_game or not task.suite.kinds:
        return False
    whole = [role for role in student.roles if role.task.suite == task.suite]
    return any(set(task.actions) <= set(role.actions) for role in whole)


def _teachers(workdir: str | os.PathLike[str], games: Sequence[str]) -> dict[str, Teacher]:
    """Who teaches each game of a run, and others that its experts play together as well.

    Raises:
      FileNotFoundError, ValueError: an expert cannot be read, or has become another.
    """
    settings = as_read(workdir, load_settings(workdir))
    check_paths(workdir, settings)
    experts = distill_settings.teachers(settings)
    check_weights(workdir, experts)
    teachers = {str(expert.game): expert for expert in experts}
    alone = tuple(expert for expert in teachers.values() if isinstance(expert, Expert))
    return teachers | {game: Team(alone, game) for game in games if game not in teachers}


def untaught(role: Role, rules: Rules) -> list[str]:
    """Names of the game's valid actions, by these rules, that the student was never taught."""
    left = sorted(set(role.valid(rules)) - set(role.actions))
    return [role.task.suite.action_names[action] for action in left]


def outputs_of(workdir: str | os.PathLike[str], settings: Settings) -> str:
    """What the outputs of a run's student are, "q" or "logits", by the loss that taught it.

    Of a loss that has them end on the scale of the experts', they are Q-values where all experts
    hold those. What `standardised_mse` gives is on neither scale and counts as logits, and so does
    what a student has of experts of both kinds.

    Raises:
      ValueError: what is written down of the experts is damaged.
    """
    loss = losses.LOSSES.get(settings.learn.loss)  # keys and angles have others, and no Q-values
    if loss is None or not loss.gives_q:
        return "logits"
    return "q" if loss.of_q or _of_q(pathlib.Path(workdir), settings) else "logits"


def _of_q(workdir: pathlib.Path, settings: Settings) -> bool:
    """Whether all experts of a run hold Q-values.

    A run of an earlier version did not write it down. Then their files are asked; where those are
    gone, it is not known, and False as it was then.
    """
    path = workdir / _FILE
    rows = disk.read_json(path, _ADVICE) if path.is_file() else [{}]
    held = [row.get(_HELD) for row in rows]
    if None in held:
        with contextlib.suppress(OSError, ValueError):
            held = [expert.outputs for expert in distill_settings.teachers(settings)]
    return all(outputs == "q" for outputs in held)


def create_state(settings: Settings, params: networks.Params, mesh: Mesh) -> learner.TrainState:
    """A run's train state around `params`, averaged too if its settings ask for it."""
    averaged = settings.learn.ema_decay > 0
    return learner.create_state(
        params, distill_settings.optimiser(settings), mesh, averaged=averaged
    )
