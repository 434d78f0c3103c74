"""The chosen student of a finished or standing run, read back.

What it plays and sees, and who taught it, is read from `student.json`, see `student_json`.
"""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
from typing import Any, NamedTuple

import jax

from jaxdistill import disk, meshes, networks, tasks, workdirs
from jaxdistill.experts import student as travelling
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.student import Role, Student
from jaxdistill.learn import checkpoints, losses
from jaxdistill.learn.learner import TrainState
from jaxdistill.run import distill_settings, kinds, merge_settings, student_json
from jaxdistill.run.distill_settings import Settings
from jaxdistill.tasks.atari import Rules
from jaxdistill.tasks.task import Suite


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
    return student_json.load_roles(workdir, load_settings(workdir))[0].task.suite


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


class LoadedStudent(NamedTuple):
    """A run's chosen student, as it was saved.

    Attributes:
      settings: of the run.
      state: the student's, with its parameters.
      network: what these are of.
    """

    settings: Settings
    state: TrainState
    network: networks.Network


def load_student(workdir: str | os.PathLike[str]) -> LoadedStudent:
    """The chosen student of the run in `workdir`.

    Raises:
      FileNotFoundError, ValueError: the run is not there or has chosen no student yet.
    """
    workdir = pathlib.Path(workdir)
    chosen, path, standing = _read_settings(workdir)
    settings = _as_run(chosen)
    roles = student_json.load_roles(workdir, settings)
    played = [tasks.under(role.task, settings.rules) for role in roles]
    network = distill_settings.network_of(settings, played, roles[0].view)
    params = networks.init(network, jax.random.key(0), roles[0].view.shape)
    state = distill_settings.create_state(settings, params, meshes.create())
    with workdirs.naming_unsaid(path, type(chosen), standing):
        best = checkpoints.read_best(workdir / checkpoints.FOLDER, state)
    if best is None and (workdir / "result.json").is_file():
        raise lost(workdir)
    if best is None:
        raise ValueError(f"{workdir} has evaluated no student yet; let it run on")
    return LoadedStudent(settings, best.state, network)


def lost(workdir: pathlib.Path) -> ValueError:
    """What is raised of a run that has ended, and has no student any more."""
    return ValueError(
        f"{workdir} has ended, and its student, in {workdir / checkpoints.FOLDER}, is not there "
        f"any more; put it back, or distil again in another --workdir"
    )


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
        roles=student_json.load_roles(workdir, settings),
        rules=settings.rules,
        card=_card(pathlib.Path(workdir), settings, int(state.step)),
    )


def _card(workdir: pathlib.Path, settings: Settings, updates: int) -> dict[str, Any]:
    """How a student was made, of what, and how it plays, as far as the run has come.

    Of its experts' files it says what they held then, not what they hold now.
    """
    path, measured = workdir / "result.json", {}
    held = [*student_json.file_hashes(workdir), *[None] * len(settings.experts)]
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


def student_as_expert(
    workdir: str | os.PathLike[str], game: str | None = None, *, whole: bool = False
) -> Expert:
    """A student that `read` reads, as an expert for one of its games; see `Student.expert`.

    Raises:
      FileNotFoundError, ValueError: as `read`, or the game is not one of its own.
    """
    return read(workdir).expert(game, whole=whole)


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
    return "q" if loss.of_q or student_json.all_hold_q(workdir, settings) else "logits"
