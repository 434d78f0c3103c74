"""The public Python interface; what is here stays, and everything else may change.

`import jaxdistill` shows it as `jaxdistill.load`, `jaxdistill.distill` and `jaxdistill.evaluate`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import settings as settings_lib
from jaxdistill import tasks, text
from jaxdistill.experts import formats, student
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.play import measuring, protocols, records
from jaxdistill.run import distill as runs
from jaxdistill.run import distill_settings, exporting, kinds, students, training
from jaxdistill.tasks.actions import Form
from jaxdistill.tasks.views import AnyView, Vector, View
from jaxdistill.text import short_repr

__all__ = ["Policy", "distill", "evaluate", "load"]


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A frozen policy of one task or of several.

    Attributes:
      name: of the file or directory that it was read from.
      experts: what plays each task, by the task's name.
      sources: where each task's expert can be read again, by the task's name; none of a run's
        student, nor of what was read from no file.
      student: the one network of all its tasks, where they have one. This and `sources` may change.
    """

    name: str
    experts: Mapping[str, Expert]
    sources: Mapping[str, ExpertSource] = dataclasses.field(default_factory=dict)
    student: student.Student | None = None

    def __repr__(self) -> str:
        count, first = len(self.tasks), ", ".join(self.tasks[:4])
        more = f" and {count - 4} more" if count > 4 else ""
        views = dict.fromkeys(_sees(expert.view) for expert in self.experts.values())
        return f"<Policy {self.name}: plays {first}{more}; sees {' or '.join([*views][:2])}>"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of what it plays."""
        return tuple(self.experts)

    def _name(self, task: str | None) -> str:
        if task is None:
            if len(self.experts) > 1:
                raise ValueError(
                    f"{self.name} plays {', '.join(self.tasks)}; give task, one of them"
                )
            return self.tasks[0]
        name = tasks.get(task).name
        if name not in self.experts:
            raise ValueError(f"{self.name} plays {', '.join(self.tasks)}, not {name}")
        return name

    @functools.cached_property
    def _placed(self) -> Mapping[str, Expert]:
        """Its experts with parameters on the device: to bring them there takes as long as to act.

        One network of several tasks is brought there once.
        """
        once = {id(expert.params): expert.params for expert in self.experts.values()}
        there = {number: jax.device_put(params) for number, params in once.items()}
        return {
            name: dataclasses.replace(expert, params=there[id(expert.params)])
            for name, expert in self.experts.items()
        }

    def view(self, task: str | None = None) -> AnyView:
        """What it sees in a task: `view.shape` is that of one observation, `(stack, *frame)`."""
        return self.experts[self._name(task)].view

    def outputs(self, observations: Any, task: str | None = None) -> np.ndarray:
        """Q-values or logits `(B, A)` in the suite's order of actions, 0 where it has none.

        Args:
          observations: `(B, stack, *frame)`, B at least 1 (`observation[None]` is one alone): uint8
            frames, oldest first, or finite numbers.
          task: which of its tasks; None where it has one.

        Raises:
          ValueError: it does not play `task`, sees observations of another shape or frames of
            another dtype, or is recurrent: then single states are not enough.
        """
        expert = self._placed[self._name(task)]
        return np.asarray(expert.suite_outputs(_checked(observations, expert)))

    def act(
        self,
        observations: Any,
        task: str | None = None,
        *,
        key: jax.Array | int | None = None,
        epsilon: float = 0.0,
        sample: bool = False,
        own: bool = False,
    ) -> np.ndarray:
        """Actions for `observations`, `(B,)`, or `(B, A)` of keys and angles, valid in the task.

        An action is an index among all of its suite's: in Atari among ALE's 18, for an environment
        of `full_action_space=True`. Others, as `gym.make("ALE/Pong-v5")` makes them, have the
        game's own actions alone and number those from 0: for them give `own=True`.

        Args:
          observations: as `outputs` takes them.
          task: as `outputs` takes it.
          key: of random draws, or a seed of it; with `epsilon` or `sample` it must be given. The
            same key draws the same again: give another at each step.
          epsilon: chance of a uniformly random valid action.
          sample: draw from the softmax of logits instead of taking the most likely.
          own: indices among the task's own valid actions, `jaxdistill.tasks.get(task).actions`, or
            among all where it plays by rules that make all valid.

        Raises:
          ValueError: as `outputs`; chance without a key, or an epsilon that is no chance; own
            indices of keys and angles.
        """
        epsilon = _chance("epsilon", epsilon)
        expert = self._placed[self._name(task)]
        if key is None and (epsilon or sample):
            raise ValueError("epsilon and sample are chance; give key, such as jax.random.key(0)")
        if sample and expert.outputs != "logits":
            raise ValueError(f"{self.name} holds Q-values, which are not sampled; expected logits")
        played = expert.task
        if own and played.suite.kinds:
            raise ValueError(
                f"{played.name} is played with keys and angles, which have no index; leave own out"
            )
        drawn = _key(key)
        shown = _checked(observations, expert)
        chosen = np.asarray(
            _chooser(played.suite.form, bool(sample))(
                expert.suite_outputs(shown),
                expert.mask,
                drawn,
                epsilon=epsilon,
                log_std=expert.suite_log_std if sample else None,
                seats=np.arange(len(shown)),
            )
        )
        if own:
            index = np.zeros(played.suite.num_actions, chosen.dtype)
            index[list(played.actions)] = np.arange(len(played.actions))
            return index[chosen]
        return chosen

    def save(self, directory: str | os.PathLike[str], task: str | None = None) -> None:
        """Writes it into a new directory, which `load` reads and which stands for an expert's file.

        Args:
          task: the only one; None is all that one student plays, or the one task that it has.

        Raises:
          ValueError: the directory already holds something, it does not play `task`, or its tasks
            have a network each: then they are saved one by one.
        """
        where = _path("directory", directory)
        with _in_python():
            if task is None and self.student is not None:
                self.student.save(where)
            else:
                self.experts[self._name(task)].save(where)

    def export(
        self, path: str | os.PathLike[str], format: str = "module", task: str | None = None
    ) -> list[str]:
        """Writes it for other programs, as `jaxdistill export` does.

        Args:
          path: the file to write; must not exist.
          format: of all that one student plays, or of one task, "module" (PyTorch: the weights, and
            beside them the network as code), "onnx" or "stablehlo"; of one task also "sb3"
            (Stable-Baselines3) or "expert", and of a student "merged", by its suite's convention.
          task: the only one to write; None is all that one student plays, or the one task that it
            has.

        Returns:
          Lines to read: what else was written, and what readers of the file cannot know.

        Raises:
          ValueError: the format cannot express it, a file is there already, it does not play
            `task`, or its tasks have a network each: then they are written one by one.
          OSError: it cannot be written.
        """
        where = _path("path", path)
        of_student = task is None and self.student is not None
        known = dict.fromkeys((*exporting.OF_EXPERTS, *exporting.OF_STUDENTS))
        del known["student"]  # which is `save`'s
        if format not in known:
            shown = short_repr(format)
            raise ValueError(f"format is {shown}, expected one of {', '.join(known)}")
        if format == "merged" and not of_student:
            raise ValueError("format 'merged' is of a whole student; give 'expert' for one task")
        with _in_python(_FLAGS_OF_EXPORTS):
            if of_student and format in exporting.OF_STUDENTS:
                assert self.student
                return exporting.write_student(self.student, format, where)
            name = self._name(task)
            expert = self.experts[name]
            if self.student is not None:
                whole = exporting.has_all_outputs(format)
                expert = self.student.expert(name, whole=whole)
            return exporting.write_expert(expert, format, where)


@functools.lru_cache(maxsize=16)
def _chooser(form: Form, sample: bool) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(form.choose, sample=sample))


def _sees(view: AnyView) -> str:
    """A view in so few words as there are."""
    if isinstance(view, Vector):
        return f"{view.size} numbers"
    return f"{'x'.join(map(str, view.shape))} {'changes of ' * view.difference}pixels"


def _checked(observations: Any, expert: Expert) -> np.ndarray:
    """Observations as an array of what the expert sees: of pixels bytes, else float32.

    Differences of pixels are numbers, and so is what a task of one's own shows as float32.
    """
    shown, wanted = np.asarray(observations), expert.view.shape
    if shown.shape[1:] != wanted:
        alone = "; one observation alone is observation[None]" if shown.shape == wanted else ""
        raise ValueError(
            f"observations have shape {shown.shape}, and {expert.name} sees "
            f"(B, {', '.join(map(str, wanted))}){alone}"
        )
    if not len(shown):
        raise ValueError(f"observations have shape {shown.shape}: there are none; expected one")
    difference = isinstance(expert.view, View) and expert.view.difference
    if expert.task.suite.frame_dtype == "uint8" and not difference:
        if shown.dtype != np.uint8:  # which networks divide by 255, and nothing else
            raise ValueError(
                f"observations are {shown.dtype}, and {expert.name} sees pixels of 0 to 255; "
                f"expected uint8"
            )
        return shown
    if shown.dtype.kind not in "biuf":
        raise ValueError(f"observations are {shown.dtype}, and {expert.name} sees numbers")
    with np.errstate(over="ignore"):
        numbers = shown.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise ValueError(f"observations hold NaN or infinity, and {expert.name} sees numbers")
    return numbers


def _key(key: Any) -> jax.Array:
    """A key of `jax.random`, of one or of its seed; any where nothing is drawn."""
    if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
        return jax.random.key(_whole("key", key, least=0))
    if key is None:
        return jax.random.key(0)
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not new and not (dtype == np.uint32 and shape == jax.random.PRNGKey(0).shape):
        shown = short_repr(key)
        raise ValueError(f"key is {shown}, expected jax.random.key(SEED), or a seed")
    return key


def _path(name: str, value: Any) -> str:
    """A path as the user's own text, whose home is found; `name` is what an error calls it."""
    if not isinstance(value, (str, os.PathLike)):
        shown = short_repr(value)
        raise TypeError(f"{name} is {shown}, expected a path: a str or a pathlib.Path")
    return os.path.expanduser(os.fspath(value))


def _cache(value: Any) -> str | None:
    """The directory that `cache_dir` names, if any; ValueError for a file."""
    if value is None or value == "":
        return None
    path = _path("cache_dir", value)
    if os.path.exists(path) and not os.path.isdir(path):
        raise ValueError(f"cache_dir is {path}, which is a file; expected a directory")
    return path


_FLAGS = {
    "--game": "task=",
    "--spec": "spec=",
    "--spec_template": "`jaxdistill convert --spec_template`",
    "--workdir": "workdir",
    "--out": "directory",
}
_FLAGS_OF_EXPERTS = _FLAGS | {
    "--game": "its task, as {TASK: FILE}",
    "give the expert's `game`": "give it as {TASK: FILE}",
    "--spec": "{'path': FILE, 'spec': TOML}",
}
_FLAGS_OF_EXPORTS = {"--game=NAME": "task=NAME"} | _FLAGS | {"--format": "format", "--out": "path"}
_FLAGS_OF_GAMES = _FLAGS | {
    "the suite's opening_steps, or evaluate.opening_steps of a run": "the suite's opening_steps",
    "opening_steps": "the suite's opening_steps",
}


@contextlib.contextmanager
def _in_python(words: Mapping[str, str] = _FLAGS) -> Iterator[None]:
    """Has errors in its body say what Python's arguments are called in place of flags.

    Args:
      words: for what there is to say, what is said here.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):  # else it is the system's
            said = "|".join(map(re.escape, words))
            # No part of a longer flag, nor of a path.
            pattern = rf"(?<![\w/-])(?:{said})(?![\w-])"
            error.args = (re.sub(pattern, lambda found: words[found[0]], error.args[0]),)
        raise


def _chance(name: str, value: Any) -> float:
    found = np.asarray(value)
    if found.shape or found.dtype.kind not in "iuf" or not 0 <= found <= 1:  # nor is NaN
        shown = short_repr(value)
        raise ValueError(f"{name} is {shown}, expected a chance of 0 to 1")
    return float(value)  # of any kind: games are known by what was asked for


def _whole(name: str, value: Any, *, least: int) -> int:
    found, most = np.asarray(value), settings_lib.LARGEST
    if found.shape or found.dtype.kind not in "iu" or not least <= found <= most:
        shown = short_repr(value)
        raise ValueError(f"{name} is {shown}, expected a whole number of {least} to {most}")
    return int(value)


def load(
    path: str | os.PathLike[str],
    *,
    task: str | None = None,
    spec: str | os.PathLike[str] | None = None,
) -> Policy:
    """A policy from an expert's or a student's file or directory, or from the workdir of a run.

    Args:
      path: of a distillation the chosen student is read, of a training the best network so far;
        `hf://user/name[@revision][/path]` is one on the Hugging Face hub.
      task: the only one to play; for an expert's file that does not say it, what it plays.
      spec: TOML file that describes the file of an expert.

    Raises:
      FileNotFoundError, ValueError: one line on what keeps it from being read; or there is a spec
        and no file of an expert.
      TypeError: a path is none.
    """
    path = _path("path", path)
    spec = None if spec is None else _path("spec", spec)
    with _in_python():
        return _load(path, task, spec)


def _load(path: str, task: str | None, spec: str | None) -> Policy:
    where, whole, sources = pathlib.Path(path), None, {}
    if kinds.of(where) == "training":
        _refuse_spec(path, spec, "a training")
        experts = training.load_experts(where, task)
        sources = {str(e.game): ExpertSource(str(where / "experts" / str(e.game))) for e in experts}
    elif (found := student.read(path)) or kinds.has_student(where):
        _refuse_spec(path, spec, "a student" if found else "a distillation")
        if found:
            sources = {game: ExpertSource(path, game=game) for game in found.games}
        found = found or students.read(where)
        whole = found if task is None else None
        experts = found.experts() if task is None else [found.expert(task)]
    else:
        expert = formats.load(path, spec=spec, game=task)
        if expert.game is None:
            raise ValueError(f"{path} does not say which task it plays; give task")
        experts, sources = [expert], {expert.game: ExpertSource(path, spec, task)}
    return Policy(path, {str(expert.game): expert for expert in experts}, sources, whole)


def _refuse_spec(path: str, spec: str | None, what: str) -> None:
    if spec is not None:
        raise ValueError(
            f"{path} holds {what}, which says itself what it is; spec describes the file of an "
            f"expert: leave it out"
        )


AnyExpert = str | os.PathLike[str] | Mapping[str, Any] | Policy


def distill(
    experts: Mapping[str, AnyExpert] | Iterable[AnyExpert] | str | os.PathLike[str] | Policy,
    workdir: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Distils experts into one student; as `launch/distill.py --config=configs/merge.py:...`.

    Called again with the same arguments it goes on where it was stopped. `load(workdir)` reads the
    student.

    Args:
      experts: by the task they play, or a list of those that say it, or one alone. Each is a file
        or directory; or a mapping of its `path` and, as far as they are needed, its `spec`, `game`
        and `rules`, see `experts.sources.ExpertSource`; or what `load` gave for one of these.
      workdir: directory of the run; made if it is missing.
      settings: what is not to be as by default, by the names of the flags:
        `{"learn.rounds": 100, "network": "net1"}`.
      cache_dir: directory where games of experts and random play are looked for and kept for other
        runs; None or "" is nowhere but in `workdir`.

    Returns:
      What stands in `WORKDIR/result.json`; its `games` are one row per task.

    Raises:
      FileNotFoundError, ValueError, OSError: one line on what to mend.
      TypeError: an argument is none of what is listed here.
    """
    sources = _sources(experts)
    fields = {"experts": sources, **_fields(settings)}
    chosen = settings_lib.build(distill_settings.Settings, fields, "settings")
    workdir, cache_dir = _path("workdir", workdir), _cache(cache_dir)
    with _in_python(_FLAGS_OF_EXPERTS):
        return runs.distill(chosen, workdir, cache_dir=cache_dir)


def _sources(experts: Any) -> list[ExpertSource]:
    """What `distill` takes as experts."""
    if isinstance(experts, Mapping):
        return [_source(f"experts[{name!r}]", x, name) for name, x in experts.items()]
    if isinstance(experts, (str, bytes, os.PathLike, Policy)):
        return [_source("experts", experts)]
    if not isinstance(experts, Iterable):
        shown = short_repr(experts)
        raise TypeError(f"experts is {shown}, expected {{TASK: FILE}}, or a list of files")
    return [_source(f"experts[{i}]", x) for i, x in enumerate(experts)]


def _source(where: str, expert: Any, game: str | None = None) -> ExpertSource:
    if isinstance(expert, Policy):
        return _source_of(where, expert, game)
    if not isinstance(expert, Mapping):
        fields = {"path": _path(where, expert)}
    else:
        fields = dict(expert)
        for name in {"path", "spec"} & fields.keys():
            if fields[name] is not None:
                fields[name] = _path(f"{where}[{name!r}]", fields[name])
        if game is not None and "game" in fields:
            raise ValueError(f"{where} is an expert of what its key says; leave out its game")
    if game is not None:
        fields["game"] = game
    return settings_lib.build(ExpertSource, fields, where)


def _source_of(where: str, policy: Policy, game: str | None) -> ExpertSource:
    """Where a policy's expert of one task is read again; TypeError where that is nowhere."""
    if game is None and len(policy.tasks) > 1:
        raise ValueError(
            f"{where} plays {', '.join(policy.tasks)}; say which it teaches, as {{TASK: policy}}"
        )
    name = policy._name(game)
    if name not in policy.sources:
        raise TypeError(
            f"{where} is {policy!r}, which stands in no file of an expert; save it by "
            f"policy.save(DIRECTORY), and give DIRECTORY"
        )
    return policy.sources[name]


def _fields(settings: Any) -> dict[str, Any]:
    """Settings by their dotted names, however deep they are given, as nested fields."""
    if settings is None:
        return {}
    if not hasattr(settings, "items"):
        shown = short_repr(settings)
        raise TypeError(f'settings is {shown}, expected a mapping, as {{"learn.rounds": 100}}')
    known = _known()
    fields: dict[str, Any] = {}
    for name, value in _named(settings):
        if re.match(r"experts\b", name):
            raise ValueError(f"settings: {name!r} is said by the argument experts; leave it out")
        if name not in known:
            raise ValueError(f"settings: {name!r} is no setting; {text.did_you_mean(name, known)}")
        *parts, last = name.split(".")
        place: Any = fields
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"settings: {name!r} is no setting beside {part!r}")
        if last in place:
            raise ValueError(f"settings: {name!r} is given twice; leave one of them out")
        place[last] = value
    return fields


def _named(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by their dotted names."""
    for name, value in settings.items():
        if not isinstance(name, str):
            shown = short_repr(name, 60)
            raise TypeError(f"settings: {shown} is no name, expected one as 'learn.rounds'")
        if hasattr(value, "items"):
            yield from _named(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@functools.cache
def _known() -> tuple[str, ...]:
    """The dotted names of all settings, and of what holds others."""
    default = dataclasses.asdict(distill_settings.Settings(experts=(ExpertSource("any"),)))
    names = dict.fromkeys(settings_lib.flatten(default | {"experts": None}))
    groups = dict.fromkeys(name.rpartition(".")[0] for name in names if "." in name)
    return tuple(name for name in (*names, *groups) if name != "experts")


def evaluate(
    policy: Policy | str | os.PathLike[str],
    *,
    task: str | None = None,
    episodes: int = 100,
    epsilon: float | None = None,
    seed: int = 0,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Plays whole games and says how they went, by task.

    Args:
      policy: what `load` gives, or what it takes.
      task: the only one to play; by default all.
      episodes: whole games of each task.
      epsilon: chance of a random valid action; by default the suite's: 0.05 in Atari, else 0.
      seed: of starts and draws; the same games for the same seed.
      cache_dir: where games that were played before are looked for and kept.

    Returns:
      For each task `mean`, its 95% `interval`, `episodes`, `distinct`, and more; see
      `scoring.Scores.summary`.

    Raises:
      ValueError: as `load`, or a number is out of its range; or games are no longer than the
        openings of their suite.
    """
    episodes, seed = _whole("episodes", episodes, least=1), _whole("seed", seed, least=0)
    epsilon = None if epsilon is None else _chance("epsilon", epsilon)
    cache_dir = _cache(cache_dir)
    if not isinstance(policy, Policy):
        policy = load(policy, task=task)
    played = policy.tasks if task is None else (policy._name(task),)
    known = records.Records(shared=None if cache_dir is None else pathlib.Path(cache_dir))
    rows = {}
    for name in played:
        expert = policy.experts[name]
        suite = expert.task.suite
        terms = protocols.Terms.of(suite, episodes=episodes, seed=seed, epsilon=epsilon)
        with _in_python(_FLAGS_OF_GAMES):
            expert.task.require()
            rows[name] = measuring.measure_alone(expert, terms, records=known).summary()
    return rows
