"""A student that needs nothing else: what it plays, sees and knows, in one directory.

`policy.json` says what `policy.safetensors` holds. Neither the run that taught it nor its experts'
files are asked for; whoever reads it takes it as the expert of each of its tasks.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import flax.traverse_util
import numpy as np

from jaxdistill import disk, networks, settings, tasks
from jaxdistill.experts import expert as experts
from jaxdistill.experts import hub, torch_file
from jaxdistill.experts.expert import Expert
from jaxdistill.tasks.atari import USUAL, Rules
from jaxdistill.tasks.task import Task
from jaxdistill.tasks.views import AnyView, from_dict
from jaxdistill.text import one_line

FORMAT = "jaxdistill student 1"
FILES = _DESCRIPTION, _WEIGHTS = "policy.json", "policy.safetensors"
_ADVICE = "export the student again"


@dataclasses.dataclass(frozen=True)
class Role:
    """One game of a student: what it sees there, and the actions and the name of its expert.

    `actions` are the valid ones that the expert has an output for: the student is taught no others.
    `source` is where the expert came from, on the hub with its commit; "" where nobody wrote it.
    `teacher_view` is what the expert saw, where pools showed more than `view` for that; else None.
    """

    game: str
    view: AnyView
    actions: tuple[int, ...]
    expert: str
    source: str = ""
    teacher_view: AnyView | None = None

    @property
    def task(self) -> Task:
        """What is played."""
        return tasks.get(self.game)

    def valid(self, rules: Rules) -> tuple[int, ...]:
        """The valid actions of its game where it is played by these rules."""
        return tasks.under(self.task, rules).actions

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` turns them back."""
        fields = dataclasses.asdict(self)
        views = {"view": self.view, "teacher_view": self.teacher_view}
        for name, view in views.items():
            if view is None:
                del fields[name]
            else:
                fields[name] = view.to_dict()
        return fields

    @classmethod
    def from_dict(cls, row: Mapping[str, Any], rules: Rules = USUAL) -> Role:
        """The inverse of `to_dict`.

        Args:
          rules: how the game is played.

        Raises:
          KeyError, TypeError, ValueError: a field is missing or damaged.
        """
        role = cls(
            tasks.get(row["game"]).name,
            from_dict(row["view"]),
            tuple(row["actions"]),
            str(row["expert"]),
            str(row.get("source", "")),
            None if (saw := row.get("teacher_view")) is None else from_dict(saw),
        )
        whole = bool(role.actions) and all(type(action) is int for action in role.actions)
        if not whole or not set(role.actions) <= set(role.valid(rules)):
            raise ValueError(f"actions {role.actions} are not valid ones of {role.game}")
        return role


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
    """A network that plays several tasks, and what it is taught in each.

    Attributes:
      name: how tables call it: where it was read.
      network, params: its own, with float32 parameters.
      outputs: "q" or "logits", as `Expert.outputs`.
      roles: its games, in the order in which the network knows them.
      rules: how they are played.
      card: what else there is to say of it, plain JSON values: scores, how it was made.
    """

    name: str
    network: networks.Network
    params: networks.Params
    outputs: str
    roles: tuple[Role, ...]
    rules: Rules = USUAL
    card: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def games(self) -> list[str]:
        """Names of what it plays."""
        return [role.game for role in self.roles]

    @property
    def max_steps(self) -> int | None:
        """The step limit of one game that it was measured with; None is each task's own."""
        limit = _measured(self.card).get("max_steps")
        return limit if type(limit) is int and 0 < limit <= settings.LARGEST else None

    def expert(self, game: str | None = None, *, whole: bool = False) -> Expert:
        """The student as an expert for one of its games, with no output for what it was not taught.

        Args:
          game: which of them; None if there is only one.
          whole: of actions of which one is chosen, leave it an output for those too, which is never
            the best: for files that have one for every action.

        Raises:
          ValueError: it is none of its games, or there are several.
        """
        if game is None and len(self.roles) > 1:
            raise ValueError(
                f"{self.name} distilled {len(self.roles)} games and an expert plays one; name one "
                f"of {', '.join(self.games)}"
            )
        index = 0 if game is None else game_index(self.games, game, self.name)
        role = self.roles[index]
        network, params, actions = networks.for_one_game(self.network, self.params, index)
        if whole and not role.task.suite.kinds:
            params = _never_untaught(params, actions, role, self.rules)
        else:
            network, params, actions = _taught(network, params, actions, role, self.rules)
        return Expert(
            name=f"student of {role.expert}",
            network=network,
            params=params,
            outputs=self.outputs,
            actions=actions,
            view=role.view,
            game=role.game,
            source=self.name,
            rules=self.rules,
            teacher_view=role.teacher_view,
        )

    def experts(self) -> list[Expert]:
        """As `expert`, for each of its games."""
        return [self.expert(game) for game in self.games]

    @property
    def made(self) -> dict[str, Any]:
        """How it was made, as far as its card says."""
        made = self.card.get("made")
        return dict(made) if isinstance(made, Mapping) else {}

    @property
    def scores(self) -> dict[str, float]:
        """Its mean score in each game, as far as its card says."""
        found = {}
        for row in _rows(self.card):
            student = row.get("student")
            mean = student.get("mean") if isinstance(student, Mapping) else None
            if row.get("game") in self.games and _is_number(mean):
                found[row["game"]] = float(mean)
        return found

    def expert_scores(self, task: Task, protocol: Mapping[str, Any]) -> dict[str, Any] | None:
        """What its card says its expert scores in a task, as `scoring.Scores.summary` has it.

        Args:
          task: under the rules that it is played by.
          protocol: how play is measured: `epsilon`, `opening_steps`, `opening_by` and `max_steps`,
            None being the task's own limit.

        Returns:
          None where the card says nothing of it, or it was measured otherwise.
        """
        measured = _measured(self.card)
        if task.name not in self.games or tasks.under(tasks.get(task.name), self.rules) != task:
            return None
        alike = all(measured.get(name) == x for name, x in protocol.items() if name != "max_steps")
        limit = (self.max_steps or task.max_steps) if "max_steps" in measured else None
        if not alike or limit != (protocol["max_steps"] or task.max_steps):
            return None
        told: list[Any] = [x.get("expert") for x in _rows(self.card) if x.get("game") == task.name]
        if not told or not _is_summary(told[0], task):
            return None
        # Of a task that tells nothing but scores, nobody has looked at anything else.
        unknown = set() if task.facts else {"facts", "steps_interval"}
        return {name: x for name, x in told[0].items() if name not in unknown}

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes `policy.json` and `policy.safetensors` into a new directory.

        Raises:
          ValueError: the directory already holds something.
        """
        directory = pathlib.Path(directory)
        experts.check_new(directory)
        description = {
            "format": FORMAT,
            "network": networks.to_dict(self.network),
            "outputs": self.outputs,
            "tasks": [role.to_dict() for role in self.roles],
            "rules": self.rules.to_dict(),
            "card": dict(self.card),
        }
        experts.write(directory, (_WEIGHTS, self.params), (_DESCRIPTION, description))

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Student:
        """Reads what `save` wrote.

        Raises:
          FileNotFoundError: there is no student in the directory.
          ValueError: what is there is damaged, or of a later version.
        """
        directory = pathlib.Path(directory)
        if not is_student(directory):
            raise FileNotFoundError(f"{directory} holds no {_DESCRIPTION}; expected a student's")
        fields = disk.read_json(directory / _DESCRIPTION, _ADVICE)
        if isinstance(fields, dict) and fields.get("format") != FORMAT:
            told = one_line(str(fields.get("format")), 60)
            raise ValueError(
                f"{directory / _DESCRIPTION} is of the format {told!r}, expected {FORMAT!r}: "
                f"{_ADVICE} with this version"
            )
        try:
            count, most = len(fields["tasks"]), len(tasks.names())
            if count > most:
                raise ValueError(f"it names {count} tasks, and there are {most}")
            rules = settings.build(Rules, fields["rules"], "rules")
            flat = torch_file.read(directory / _WEIGHTS).tree
            student = cls(
                name=str(directory),
                network=networks.from_dict(fields["network"]),
                params=flax.traverse_util.unflatten_dict(flat, sep="/"),
                outputs=fields["outputs"],
                roles=tuple(Role.from_dict(row, rules) for row in fields["tasks"]),
                rules=rules,
                card=dict(fields["card"]),
            )
            if not student.roles:
                raise ValueError("it names no task")
            games = len(student.network.game_actions)
            if student.network.knows_game and games != count:
                raise ValueError(f"its network knows {games} games, and it names {count}")
            shapes = {role.view.shape for role in student.roles}
            if len(shapes) > 1:
                raise ValueError(f"its tasks are seen in different shapes, {sorted(shapes)}")
            files = (_DESCRIPTION, _WEIGHTS)
            experts.check_weights(student.network, student.roles[0].view, flat, files)
            student.experts()  # which refuses outputs, actions and views that are none
        except tasks.UnknownTask as error:  # of a file that was not imported: nothing is damaged
            raise tasks.UnknownTask(f"{directory}: {error}") from error
        except Exception as error:  # damage shows as almost any exception of flax, JAX or NumPy
            kind = "" if isinstance(error, (ValueError, OSError)) else f"{type(error).__name__}: "
            reason = one_line(f"{kind}{error}", 200)
            raise ValueError(f"{directory} is damaged ({reason}); {_ADVICE}") from error
        return student


def is_student(directory: str | os.PathLike[str]) -> bool:
    """Whether a student that was exported is there."""
    return pathlib.Path(directory, _DESCRIPTION).is_file()


def read(path: str | os.PathLike[str]) -> Student | None:
    """The student that was exported to `path` or pushed there; None if something else is there.

    Raises:
      FileNotFoundError, ValueError, OSError: it is damaged, or cannot be fetched; see `hub.fetch`.
    """
    if not hub.is_address(path):
        return Student.load(path) if is_student(path) else None
    fetched = hub.fetch(path)
    if not is_student(fetched.path):
        return None
    return dataclasses.replace(Student.load(fetched.path), name=str(fetched.address))


def _measured(card: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a card, which anybody may have written, says of how its student plays."""
    measured = card.get("measured")
    return measured if isinstance(measured, Mapping) else {}


def _rows(card: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The games of which a card says how they were played."""
    rows = _measured(card).get("games")
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _is_summary(scores: Any, task: Task) -> bool:
    """Whether it is a player's mean, interval and counts, all finite, with the task's facts."""
    names = {"mean", "interval", "episodes", "distinct_starts", "mean_steps"}
    facts = set(task.facts)
    if facts:
        names |= {"facts", "steps_interval"}
    if not isinstance(scores, Mapping) or not names <= scores.keys():
        return False
    told = scores["facts"] if facts else {}
    if not isinstance(told, Mapping) or told.keys() != facts:
        return False
    intervals = [scores[name] for name in names if name.endswith("interval")]
    for fact in told.values():
        if not isinstance(fact, Mapping) or not {"mean", "interval"} <= fact.keys():
            return False
        intervals.append(fact["interval"])
    pairs = all(isinstance(x, list) and len(x) == 2 for x in intervals)
    leaves = settings.flatten({name: scores[name] for name in names}).values()
    return pairs and all(map(_is_number, leaves))


def _is_number(x: Any) -> TypeGuard[float]:
    """Whether it is a finite number such as a mean may be; of JSON's integers many are larger."""
    return type(x) in (int, float) and abs(x) < 1e15  # which NaN is not


def game_index(
    names: Sequence[str], game: str, workdir: str | os.PathLike[str], did: str = "distilled"
) -> int:
    """Where `game` is among the games `names` of the run in `workdir`, which it `did`.

    Raises:
      ValueError: it is no game, or none of them.
    """
    name = tasks.get(game).name
    if name not in names:
        raise ValueError(f"{workdir} {did} {', '.join(names)}, not {name}")
    return names.index(name)


def _taught(
    network: networks.Network,
    params: networks.Params,
    actions: tuple[int, ...],
    role: Role,
    rules: Rules,
) -> tuple[networks.Network, networks.Params, tuple[int, ...]]:
    """What plays one game without outputs for valid actions that the expert had none for.

    So nobody plays them: neither the student nor, in its place, chance. What a dueling head
    subtracts, the mean of all outputs, stays as it was where one that is not valid can take up the
    difference; elsewhere all that are left move by the same number.

    Returns:
      The network, its parameters, and the suite's action of each output that is left.
    """
    valid = role.valid(rules)
    kept = [i for i, a in enumerate(actions) if a in role.actions or a not in valid]
    if len(kept) == len(actions):
        return network, params, actions
    left = tuple(actions[i] for i in kept)
    alone, own = networks.with_outputs(network, params, kept)
    free = [i for i, action in enumerate(left) if action not in valid]
    if network.head == "dueling" and free:
        layers = dict(own["params"])
        layers["action"] = {
            name: _of_mean(params["params"]["action"][name], x, free[0], network.depth)
            for name, x in layers["action"].items()
        }
        own = {"params": layers}
    return alone, own, left


def _of_mean(whole: Any, some: Any, free: int, depth: int) -> np.ndarray:
    """Weights of `some` outputs with the mean of the `whole`, by changing the output `free`."""
    old, new = (np.asarray(x).reshape(*x.shape[:-1], -1, depth) for x in (whole, some))
    new = new.copy()
    new[..., free, :] += new.shape[-2] * (old.mean(axis=-2) - new.mean(axis=-2))
    return new.reshape(some.shape)


def _never_untaught(
    params: networks.Params, actions: Sequence[int], role: Role, rules: Rules = USUAL
) -> networks.Params:
    """Parameters that never prefer a valid action which the expert had no output for.

    Whoever reads a file of all actions knows its game's valid ones alone. Those outputs become the
    mean of what was taught, less 1, which is always below the largest. What a dueling head
    subtracts, the mean of all, stays as it was where an action that is not valid can take up the
    difference; elsewhere all outputs move by the same number.
    """
    valid = role.valid(rules)
    taught = [i for i, action in enumerate(actions) if action in role.actions]
    untaught = [i for i, a in enumerate(actions) if a in valid and a not in role.actions]
    free = [i for i, action in enumerate(actions) if action not in valid]
    if not untaught:
        return params

    def mend(weights: Any, less: float) -> np.ndarray:
        old = np.asarray(weights)
        new = old.copy()
        new[..., untaught] = old[..., taught].mean(axis=-1, keepdims=True) - less
        if free:
            new[..., free[0]] += (old - new).sum(axis=-1)
        return new

    layers = dict(params["params"])
    last = layers["action"]
    layers["action"] = {"kernel": mend(last["kernel"], 0.0), "bias": mend(last["bias"], 1.0)}
    return {"params": layers}
