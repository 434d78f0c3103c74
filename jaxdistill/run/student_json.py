"""What a run writes down of its student in `student.json`, and where its experts are.

What the student plays and sees in each game, and what its experts hold, so that it can be read
without them. Runs of before that was written ask their experts' files. It says who the experts
were, too: where they are asked again, others may stand in their place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxdistill import disk, lock, meshes, shipped, tasks
from jaxdistill.experts import hub
from jaxdistill.experts.expert import Teacher
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.experts.student import Role
from jaxdistill.learn import checkpoints
from jaxdistill.play import players
from jaxdistill.run import distill_settings
from jaxdistill.run.distill_settings import Settings
from jaxdistill.tasks.atari import Rules
from jaxdistill.text import one_line

_FILE = "student.json"
_HELD = "expert_outputs"  # of each game, in that file; one of an earlier version does not say
# Of those that are not followed.
_MARK, _READ_AS, _SHA256 = "expert_params", "expert_read_as", "expert_sha256"
_ADVICE = "remove it, and the run's experts are asked"


def roles_of(settings: Settings, experts: Sequence[Teacher]) -> tuple[Role, ...]:
    """The roles of the student of a run, whose experts `distill_settings.teachers` gives."""
    views = distill_settings.student_views(settings, experts)
    return tuple(
        Role(
            game=str(e.game),
            view=view,
            actions=tuple(np.flatnonzero(e.mask).tolist()),
            expert=e.name,
            source=e.source,
            # Which decides where games start, if pools show more for it than the student sees.
            teacher_view=None if e.task.shown([e.view, view]) == view.whole else e.view,
        )
        for e, view in zip(experts, views, strict=True)
    )


def claim_roles(
    workdir: str | os.PathLike[str], settings: Settings, experts: Sequence[Teacher]
) -> None:
    """Writes down what the student of `workdir` plays and sees, or finds it written and the same.

    So with its experts, who count from when something was learnt from them.

    Raises:
      ValueError: the run began with experts of other games, ones that saw something else, or
        others, see `check_teachers`.
    """
    path = pathlib.Path(workdir, _FILE)
    learnt = _has_learnt(workdir)
    rows = _rows_of(settings, experts, marked=not (learnt or settings.collect.follow))
    check_same(workdir, settings, experts)
    if path.is_file() and (learnt or disk.read_json(path, _ADVICE) == rows):
        return
    if meshes.leads():
        disk.write_json(path, rows)


def _has_learnt(workdir: str | os.PathLike[str]) -> bool:
    """Whether something was learnt from the experts, be it that its checkpoints are gone."""
    ended = pathlib.Path(workdir, "result.json").is_file()
    return ended or checkpoints.any_in(pathlib.Path(workdir, checkpoints.FOLDER))


def check_same(
    workdir: str | os.PathLike[str], settings: Settings, experts: Sequence[Teacher]
) -> None:
    """What `claim_roles` refuses, and nothing is written."""
    path = pathlib.Path(workdir, _FILE)
    if path.is_file():
        check_roles(workdir, _read_roles(path, settings.rules), roles_of(settings, experts))
        if _has_learnt(workdir):
            check_teachers(workdir, experts)


def _rows_of(
    settings: Settings, experts: Sequence[Teacher], *, marked: bool
) -> list[dict[str, Any]]:
    """What is written down of each game; `marked`, with what tells its expert from others."""
    roles = roles_of(settings, experts)
    rows = [r.to_dict() | {_HELD: e.outputs} for r, e in zip(roles, experts, strict=True)]
    if marked:
        for row, expert in zip(rows, experts, strict=True):
            row |= {_MARK: players.fingerprint(expert.params), _READ_AS: players.read_as(expert)}
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


def check_teachers(workdir: str | os.PathLike[str], experts: Sequence[Teacher]) -> None:
    """Refuses experts that are not those a student learnt from, or are read in another way now.

    Nothing is refused that nobody wrote down: in a run of an earlier version, and, but for the
    kind of outputs, in one that follows experts in training.

    Raises:
      ValueError: an expert has other weights, is read as another network, with other actions or
        another view, or has outputs of another kind.
    """
    written = {name: _written(workdir, name) for name in (_MARK, _READ_AS, _HELD, "source")}
    for expert in experts:
        before = {name: rows.get(str(expert.game)) for name, rows in written.items()}
        if before[_MARK] not in (None, players.fingerprint(expert.params)):
            differs = "has other weights now"
        elif before[_READ_AS] not in (None, players.read_as(expert)):
            differs = "is read as another network now, or with other actions or another view"
        elif before[_HELD] not in (None, expert.outputs):
            differs = f"has outputs {expert.outputs!r} now and had {before[_HELD]!r} then"
        else:
            continue
        now = "which" if before["source"] == expert.source else f"and {expert.source}"
        raise ValueError(
            f"the student of {workdir} learnt {expert.game} from {before['source']}, {now} "
            f"{differs}; put back its file and spec as they were, begin in another --workdir, or "
            f"export the student (--format=student), which then needs no experts"
        )


def relocated_fields(
    workdir: str | os.PathLike[str], settings: Settings, experts: Sequence[Teacher]
) -> list[str]:
    """The fields of a run's settings, as "experts.0.path", that say where the same experts are.

    Empty where it is not known whether they are the same. So with their specs, "experts.0.spec",
    where it is known that the experts are read as they were.
    """
    names = (_MARK, _READ_AS, _HELD)
    written = [_written(workdir, name) for name in names]
    fields = []
    for index, expert in enumerate(experts[: len(settings.experts)]):
        mark, *read = (rows.get(str(expert.game)) for rows in written)
        if mark == players.fingerprint(expert.params):
            fields.append(f"experts.{index}.path")
            if read == [players.read_as(expert), expert.outputs]:
                fields.append(f"experts.{index}.spec")
    return fields


def claim_paths(workdir: str | os.PathLike[str], settings: Settings) -> None:
    """Writes down where the experts of a run that goes on are now, since they may have moved."""
    if not meshes.leads():
        return  # nor need it see what the first has just written
    moved = _moved(workdir, settings)
    if moved is not None:
        disk.write_json(pathlib.Path(workdir, "config.json"), moved)


def tell_paths(workdir: str | os.PathLike[str], settings: Settings) -> None:
    """`claim_paths` of a run that is only read, where it may be written to; else nothing is."""
    if _moved(workdir, settings) is None:
        return
    # Who may not write is shown the run all the same; whoever writes there now says it himself.
    with contextlib.suppress(OSError, ValueError), lock.one_writer(workdir, "config.json"):
        claim_paths(workdir, settings)


def _moved(workdir: str | os.PathLike[str], settings: Settings) -> dict[str, Any] | None:
    """What a run's `config.json` is to say of where its experts are; None where it says so."""
    standing = disk.read_json(
        pathlib.Path(workdir, "config.json"), "begin again in another --workdir"
    )
    rows = standing["experts"]
    now = [
        row | {name: where for name, where in _places(x).items() if row.get(name) != where}
        for row, x in zip(rows, settings.experts, strict=True)
    ]
    return None if now == rows else standing | {"experts": now}


def _places(source: ExpertSource) -> dict[str, str | None]:
    """Where an expert is, and its spec."""
    return {"path": source.path, "spec": source.spec}


def check_paths(workdir: str | os.PathLike[str], settings: Settings) -> None:
    """Refuses a run whose experts are to be asked and are not where it says that they are.

    Raises:
      FileNotFoundError: nothing is there, be it of one expert or of one spec.
    """
    marks, read_as = _written(workdir, _MARK), _written(workdir, _READ_AS)
    for role, source in zip(load_roles(workdir, settings), settings.experts, strict=False):
        places = [place for place in _places(source).values() if place is not None]
        gone = [x for x in places if not (hub.is_address(x) or shipped.found(x).exists())]
        if not gone:
            continue
        known = (marks, read_as) if source.spec else (marks,)
        now = f"say in {pathlib.Path(workdir, 'config.json')} where it is now"
        if all(rows.get(role.game) is not None for rows in known):  # by which it is known again
            now = "call the program that made this run with the path where it is now"
        raise FileNotFoundError(
            f"the student of {workdir} learnt {role.game} from {' and '.join(gone)}, where nothing "
            f"is now; put it back, {now}, or export the student (--format=student), which then "
            f"needs no experts"
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
            asked, read = hub.parse(expert.path), hub.parse(role.source)
            pinned = re.fullmatch("[0-9a-f]{40}", asked.revision or "")
            if asked.repository == read.repository and not pinned:  # else it has moved since
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


def all_hold_q(workdir: str | os.PathLike[str], settings: Settings) -> bool:
    """Whether all experts of a run hold Q-values.

    A run of an earlier version did not write it down. Then their files are asked; where those are
    gone, it is not known, and False as it was then.
    """
    path = pathlib.Path(workdir, _FILE)
    rows = disk.read_json(path, _ADVICE) if path.is_file() else [{}]
    held = [row.get(_HELD) for row in rows]
    if None in held:
        with contextlib.suppress(OSError, ValueError):
            held = [expert.outputs for expert in distill_settings.teachers(settings)]
    return all(outputs == "q" for outputs in held)


def file_hashes(workdir: str | os.PathLike[str]) -> list[str | None]:
    """SHA-256 of the experts' files as they were learnt from; None of one that is not known."""
    return [*_written(workdir, _SHA256).values()]


def _sha256(path: pathlib.Path) -> str | None:
    """Of a file; None where it is not there any more, or is a directory."""
    if not path.is_file():
        return None
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
