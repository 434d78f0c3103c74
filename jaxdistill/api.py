"""The public Python interface; what is here stays, and everything else may change.

`import jaxdistill` shows it as `jaxdistill.load`, `jaxdistill.distill` and `jaxdistill.evaluate`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import settings as settings_lib
from jaxdistill import tasks
from jaxdistill.experts import formats, student
from jaxdistill.experts.expert import Expert
from jaxdistill.play import records
from jaxdistill.run import distill as runs
from jaxdistill.run import recipe, students, training
from jaxdistill.tasks.views import AnyView, View

__all__ = ["Policy", "distill", "evaluate", "load"]


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A frozen policy of one task or of several.

    Attributes:
      name: of the file or directory that it was read from.
      experts: what plays each task, by the task's name.
    """

    name: str
    experts: Mapping[str, Expert]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of what it plays."""
        return tuple(self.experts)

    def _expert(self, task: str | None) -> Expert:
        if task is None:
            if len(self.experts) > 1:
                raise ValueError(
                    f"{self.name} plays {', '.join(self.tasks)}; give task, one of them"
                )
            return next(iter(self.experts.values()))
        name = tasks.get(task).name
        if name not in self.experts:
            raise ValueError(f"{self.name} plays {', '.join(self.tasks)}, not {name}")
        return self.experts[name]

    def view(self, task: str | None = None) -> AnyView:
        """What it sees in a task: `view.shape` is that of one observation, `(stack, *frame)`."""
        return self._expert(task).view

    def outputs(self, observations: Any, task: str | None = None) -> np.ndarray:
        """Q-values or logits `(B, A)` in the suite's order of actions, 0 where it has none.

        Args:
          observations: `(B, stack, *frame)`: uint8 frames, oldest first, or float32 numbers.
          task: which of its tasks; None where it has one.

        Raises:
          ValueError: it does not play `task`, sees observations of another shape or frames of
            another dtype, or is recurrent: then single states are not enough.
        """
        expert = self._expert(task)
        return np.asarray(expert.suite_outputs(_checked(observations, expert)))

    def act(
        self,
        observations: Any,
        task: str | None = None,
        *,
        key: jax.Array | None = None,
        epsilon: float = 0.0,
        sample: bool = False,
    ) -> np.ndarray:
        """Actions for `observations`, `(B,)`, or `(B, A)` of keys and angles, valid in the task.

        Args:
          observations: as `outputs` takes them.
          task: as `outputs` takes it.
          key: of random draws; with `epsilon` or `sample` it must be given.
          epsilon: chance of a uniformly random valid action.
          sample: draw from the softmax of logits instead of taking the most likely.

        Raises:
          ValueError: as `outputs`; chance without a key, or an epsilon that is no chance.
        """
        _check_chance("epsilon", epsilon)
        expert = self._expert(task)
        if key is None and (epsilon or sample):
            raise ValueError("epsilon and sample are chance; give key, such as jax.random.key(0)")
        if sample and expert.outputs != "logits":
            raise ValueError(f"{self.name} holds Q-values, which are not sampled; expected logits")
        shown = _checked(observations, expert)
        return np.asarray(
            expert.task.suite.form.choose(
                expert.suite_outputs(shown),
                jnp.asarray(expert.mask),
                jax.random.key(0) if key is None else key,
                epsilon=epsilon,
                sample=sample,
                log_std=expert.suite_log_std,
                seats=np.arange(len(shown)),
            )
        )


def _checked(observations: Any, expert: Expert) -> np.ndarray:
    """Observations as an array of what the expert sees: of pixels bytes, else float32."""
    shown = np.asarray(observations)
    if shown.shape[1:] != expert.view.shape:
        raise ValueError(
            f"observations have shape {shown.shape}, and {expert.name} sees "
            f"(B, {', '.join(map(str, expert.view.shape))})"
        )
    if isinstance(expert.view, View) and not expert.view.difference:
        if shown.dtype != np.uint8:  # which networks divide by 255, and nothing else
            raise ValueError(
                f"observations are {shown.dtype}, and {expert.name} sees pixels of 0 to 255; "
                f"expected uint8"
            )
        return shown
    return shown.astype(np.float32)


def _check_chance(name: str, value: Any) -> None:
    found = np.asarray(value)
    if found.shape or found.dtype.kind not in "iuf" or not 0 <= found <= 1:  # nor is NaN
        shown = settings_lib.one_line(repr(value), 100)
        raise ValueError(f"{name} is {shown}, expected a chance of 0 to 1")


def _check_whole(name: str, value: Any, *, least: int) -> None:
    found, most = np.asarray(value), settings_lib.LARGEST
    if found.shape or found.dtype.kind not in "iu" or not least <= found <= most:
        shown = settings_lib.one_line(repr(value), 100)
        raise ValueError(f"{name} is {shown}, expected a whole number of {least} to {most}")


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
    """
    where = pathlib.Path(path)
    if training.stands_in(where):
        _refuse_spec(path, spec, "a training")
        experts = training.load_experts(where, task)
    elif (found := student.read(path)) or (where / "config.json").is_file():
        _refuse_spec(path, spec, "a student" if found else "a distillation")
        found = found or students.read(where)
        experts = found.experts() if task is None else [found.expert(task)]
    else:
        expert = formats.load(path, spec=spec, game=task)
        if expert.game is None:
            raise ValueError(f"{path} does not say which task it plays; give task")
        experts = [expert]
    return Policy(str(path), {str(expert.game): expert for expert in experts})


def _refuse_spec(
    path: str | os.PathLike[str], spec: str | os.PathLike[str] | None, what: str
) -> None:
    if spec is not None:
        raise ValueError(
            f"{path} holds {what}, which says itself what it is; spec describes the file of an "
            f"expert: leave it out"
        )


def distill(
    experts: Mapping[str, str | os.PathLike[str]] | Sequence[str | os.PathLike[str]],
    workdir: str | os.PathLike[str],
    *,
    settings: Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Distils experts into one student; as `launch/distill.py --config=configs/merge.py:...`.

    Called again with the same arguments it goes on where it was stopped. `load(workdir)` reads the
    student.

    Args:
      experts: files or directories by the task they play, or a list of those that say it.
      workdir: directory of the run; made if it is missing.
      settings: what is not to be as by default, by the names of the flags:
        `{"learn.rounds": 100, "network": "net1"}`.
      cache_dir: where games of experts and random play are looked for and kept for other runs.

    Returns:
      What stands in `WORKDIR/result.json`; its `games` are one row per task.

    Raises:
      FileNotFoundError, ValueError, OSError: one line on what to mend.
    """
    if isinstance(experts, Mapping):
        sources = [{"path": os.fspath(path), "game": name} for name, path in experts.items()]
    else:
        sources = [{"path": os.fspath(path)} for path in experts]
    fields: dict[str, Any] = {"experts": sources}
    for name, value in _copied(settings or {}).items():
        *parts, last = name.split(".")
        place = fields
        for part in parts:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"settings: {name!r} is no setting beside {part!r}")
        place[last] = value
    chosen = settings_lib.build(recipe.Settings, fields, "settings")
    return runs.distill(chosen, workdir, cache_dir=cache_dir)


def _copied(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that may be written into, however deep: the caller's stay as they are."""
    return {
        name: _copied(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
    }


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
      `evaluation.Scores.summary`.

    Raises:
      ValueError: as `load`, or a number is out of its range.
    """
    _check_whole("episodes", episodes, least=1)
    _check_whole("seed", seed, least=0)
    if epsilon is not None:
        _check_chance("epsilon", epsilon)
    if not isinstance(policy, Policy):
        policy = load(policy, task=task)
    played = policy.tasks if task is None else (str(policy._expert(task).game),)
    rows = {}
    for name in played:
        expert = policy.experts[name]
        expert.task.require()
        terms = records.Terms.of(expert.task.suite, episodes=episodes, seed=seed, epsilon=epsilon)
        known = records.Records(shared=None if cache_dir is None else pathlib.Path(cache_dir))
        scores = records.measure_alone(expert, terms, records=known)
        rows[name] = scores.summary()
    return rows
