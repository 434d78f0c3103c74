"""A training of one network: plays, learns, evaluates, keeps what plays best; resumable.

How is learnt is one of three: parallel Q-learning (`pqn`), deep Q-learning (`dqn`), proximal policy
optimisation (`ppo`). With several tasks one masked network learns them all: the multi-task baseline
of Policy Distillation (Rusu et al. 2015).
"""

from __future__ import annotations

import functools
import os
import pathlib
from collections import deque
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import clocks, meshes, networks, terminal
from jaxdistill.experts.expert import Expert
from jaxdistill.learn import (
    beginning,
    checkpoints,
    dqn,
    learner,
    ppo,
    pqn,
    train_settings,
)
from jaxdistill.learn.algorithm import Algorithm, Beginning, Progress
from jaxdistill.learn.collector import RolloutCollector
from jaxdistill.learn.origins import Pretrained
from jaxdistill.learn.train_settings import Settings
from jaxdistill.play import evaluation, lessons, protocols, records, rollouts, scoring
from jaxdistill.tasks.views import Vector

# Games go on across evaluations, and a resumed training replays all that its present pools have
# played. So an evaluation begins fresh ones, which cuts the games in progress, once so many steps
# of each environment were played: eight games of Freeway. Where so many games at the step limit are
# shorter, those are enough. Where evaluations are far apart, four times as many begin them anyway.
_LOG_STEPS, _LOG_GAMES, _LOG_MOST = 16_384, 4, 4

_ALGORITHMS: dict[str, Callable[[Beginning], Algorithm]] = {
    "pqn": pqn.Pqn,
    "dqn": dqn.Dqn,
    "ppo": ppo.Ppo,
}


class Training:
    """One training in `workdir`, restored where a killed one stopped; use as a context manager.

    Attributes:
      iteration: iterations done.
      state: parameters and optimiser.
      timer: phases "collect" (within it "inference"), "learn" and "evaluate".
      best: the best evaluation so far: `step`, `value`, and `scores` by game. One network of
        several games that goes on from a student is as good as the game that has gained least, and
        the student is the first that is evaluated: what one game gains is not paid by another.
      starts_seen: by game, hashes of the states that evaluated games started from; None where some
        were evaluated by an earlier version, which did not say. Checkpoints call it `chosen_by`.
    """

    def __init__(self, begin: Beginning, workdir: str | os.PathLike[str]):
        """Reads what stands in `workdir`."""
        settings, student = begin.settings, begin.student
        self.settings, self.workdir = settings, pathlib.Path(workdir)
        self._mesh = begin.mesh
        self.lessons, self.network, self._experts = begin.lessons, begin.network, begin.experts
        self._view = begin.view
        # A student's starts are kept apart by what was shown to it.
        self._teacher_views = student.teacher_views if student else {}
        self._evaluated = [
            lesson.showing(self._teacher_views[lesson.name])
            if lesson.name in self._teacher_views
            else lesson
            for lesson in self.lessons
        ]
        self.names = tuple(lesson.name for lesson in self.lessons)
        self.best: dict[str, Any] = {}
        self._masks = begin.masks
        choices = lessons.choices(self.lessons)._replace(masks=begin.masks)
        self._learner = _ALGORITHMS[settings.algorithm](begin)
        self._actor = self._learner.make_actor(begin)
        self._evaluate_act = rollouts.network_actor(
            self.network,
            choices,
            epsilon=settings.measured_epsilon,
            views=[self._view if isinstance(self._view, Vector) else x.seen for x in self.lessons],
        )
        self._random_policy = rollouts.random_policy(choices)
        self._remembering = (
            rollouts.expert_actor(
                self._as_experts(begin.params), epsilon=settings.measured_epsilon, mesh=begin.mesh
            )
            if self.network.core
            else None
        )
        self._recent: list[deque[float]] = [deque(maxlen=100) for _ in self.names]
        self.timer = clocks.Timer()
        self.iteration = self._episodes = 0
        self._unevaluated = False
        # Of a student of several games: the parameters it plays with, and its mean scores, which
        # checkpoints call `begun`.
        self._first: Any = None
        self._first_scores: dict[str, float] | None = None
        self.starts_seen: dict[str, list[int]] | None = {}
        if student is not None and len(self.names) > 1:
            # A copy: what it is of is donated to the first update.
            self._first = jax.tree.map(np.array, jax.device_get(self.state.eval_params))
        self._saved = checkpoints.Checkpoints(self.workdir / checkpoints.FOLDER)
        began, log = self._restore()
        self._collector = RolloutCollector(settings, self.lessons, began, log)

    @classmethod
    def of(
        cls,
        settings: Settings,
        workdir: str | os.PathLike[str],
        mesh: Mesh | None = None,
        student: Pretrained | None = None,
    ) -> Training:
        """The training of these settings.

        Args:
          student: what `settings.student` is.

        Raises:
          FileNotFoundError, ValueError: as `beginning.of`.
        """
        return cls(beginning.of(settings, mesh or meshes.create(), student), workdir)

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        self._saved.__exit__()

    @property
    def steps(self) -> int:
        """Steps per game done."""
        return self.iteration * self.settings.steps_per_iteration

    @property
    def state(self) -> learner.TrainState:
        """Parameters and optimiser."""
        return self._learner.train

    @property
    def arrays(self) -> dict[str, Any]:
        """What learning changes."""
        return self._learner.arrays

    def _restore(self) -> tuple[int, np.ndarray | None]:
        latest = self._saved.latest_step()
        if latest is None:
            return 0, None
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), self.arrays
        )
        for empty in jax.tree.leaves(self.arrays.get("memory", ())):
            empty.delete()  # a device may not hold two memories
        # Earlier versions also kept an average where nobody reads one.
        restored = self._saved.restore(latest, like, besides=("average",))
        self._learner.arrays = restored.state
        self.iteration, self.best = latest, restored.progress["best"]
        self.timer.restore(restored.progress["timer"])
        self._recent = [deque(x, maxlen=100) for x in restored.progress["recent"]]
        self._actor.restore(restored.host)
        self._episodes = restored.progress.get("episodes", 0)
        self._first_scores = restored.progress.get("begun")
        self.starts_seen = restored.progress.get("chosen_by")
        self._unevaluated = restored.progress.get("unevaluated", False)
        if self.best and not self.best.get("decided"):  # an earlier version may value it otherwise
            self.best["value"] = self._value(self.best["scores"], self._first_scores)
        return restored.progress["pools_began"], restored.host.get("log")

    def iterate(self) -> dict[str, float]:
        """Plays and learns once; returns what to log."""
        progress = Progress(self.iteration, self._episodes)
        told = self._actor.begin(progress)
        with self.timer.phase("collect"):
            rollout, finished = self._collector.rollout(
                self._actor, self.iteration, self._mesh, self.timer
            )
        for recent, scores in zip(self._recent, finished, strict=True):
            recent.extend(scores)
        progress = progress._replace(ended=sum(map(len, finished)))
        self._episodes += progress.ended
        with self.timer.phase("learn"):
            row = learner.host_metrics(self._learner.learn(rollout, progress), self.names)
        self.iteration += 1
        self._shorten_log(_LOG_MOST)
        row |= told
        if self._experts and self.settings.algorithm != "dqn":
            row["expert_weight"] = train_settings.expert_weight_at(
                self.settings, self.iteration - 1
            )
        for name, recent in zip(self.names, self._recent, strict=True):
            if recent:
                row[f"score/{name}"] = float(np.mean(recent))
        return row

    def evaluate(self) -> dict[str, float]:
        """Plays whole games from fixed starts; returns the mean score of each game."""
        with self.timer.phase("evaluate"):
            means = self._play(self.state.eval_params, self.settings.eval_episodes, lessons.SELECT)
        if self._first is not None and not self.iteration:
            self._first_scores = means
        value = self._value(means, self._first_scores)
        if not self.best or value >= self.best["value"]:
            self.best = {"step": self.steps, "value": value, "scores": means}
        self._unevaluated = False
        self._shorten_log(1)
        return means

    def _shorten_log(self, times: int) -> None:
        """Begins fresh pools where a resumed training would have too much to replay."""
        played = (self.iteration - self._collector.began) * self.settings.rollout_steps
        limits = [self.settings.max_steps or lesson.task.max_steps for lesson in self.lessons]
        if played >= times * min(_LOG_STEPS, _LOG_GAMES * max(limits)):
            self._collector = RolloutCollector(self.settings, self.lessons, self.iteration, None)

    @property
    def due(self) -> bool:
        """Whether what it begins with, or stopped with, is still to be evaluated."""
        first = self._first is not None and not self.iteration and self._first_scores is None
        return first or self._unevaluated

    def _value(self, means: dict[str, float], begun: dict[str, float] | None) -> float:
        """What networks are chosen by: the mean score, or the smallest gain over those `begun`.

        Scores are as `scoring.normalised` has them; where no score of random play is known, that
        is in those begun with.
        """
        chosen = self.settings.tasks
        random = [records.random_score(task, self.settings.max_steps) for task in chosen]
        if begun is not None:
            random = [begun[n] if x is None else x for n, x in zip(means, random, strict=True)]
        scores = scoring.normalised(chosen, [*means.values()], random)
        if begun is None:
            return float(scores.mean())
        gains = scores - scoring.normalised(chosen, [begun[name] for name in means], random)
        return float(gains.min())

    def _play(
        self,
        params: Any,
        episodes: int,
        purpose: int,
        advance: Callable[[int], object] | None = None,
    ) -> dict[str, float]:
        """Mean scores by game."""
        settings = self.settings
        # New pools from the same seeds: every network is tried on the same starts.
        scores = evaluation.measure(
            self._evaluated,
            self._player(self.network_params(params)),
            protocols.Protocol(
                purpose,
                settings.seed,
                protocols.Opening(
                    self._random_policy,
                    settings.opening,
                    self._random_policy,
                    protocols.CHOOSING,
                ),
                settings.max_steps,
            ),
            episodes,
            self._mesh,
            advance=advance,
        )
        if self.starts_seen is not None:
            for name, s in zip(self.names, scores, strict=True):
                known = self.starts_seen.get(name, ())
                self.starts_seen[name] = sorted({*known, *s.starts.tolist()})
        return {name: s.mean for name, s in zip(self.names, scores, strict=True)}

    def _player(self, params: networks.Params) -> rollouts.AnyPolicy:
        """The network in games that are evaluated."""
        if isinstance(self._remembering, rollouts.Recurrent):
            return self._remembering.by([params] * len(self.names))
        return functools.partial(self._evaluate_act, params)

    def decide(self) -> None:
        """Lets the best and the last network play `final_episodes`; the better is the best.

        So does the student that they are compared with, and stays if both are worse.
        """
        if self.best.get("decided"):
            return
        first = () if self._first_scores is None else (0,)
        steps, episodes = (*first, self.best["step"], self.steps), self.settings.final_episodes
        compared = dict.fromkeys(steps)
        games = len(compared) * len(self.lessons) * episodes
        with (
            self.timer.phase("evaluate"),
            terminal.progress("choose", games, "games", steady=False) as advance,
        ):
            scores = {
                step: self._play(
                    self._restore_params(step // self.settings.steps_per_iteration),
                    episodes,
                    lessons.DECIDE,
                    advance,
                )
                for step in compared
            }
        played = [
            {
                "step": step,
                "value": self._value(means, scores[0] if first else None),
                "scores": means,
                "decided": True,
            }
            for step, means in scores.items()
        ]
        self.best = max(played, key=lambda result: (result["value"], result["step"]))
        self.save()

    def _restore_params(self, iteration: int) -> networks.Params:
        if iteration == self.iteration:
            return self.state.eval_params
        if not iteration:
            return self._first
        # Without the memory, which may be most of what a device holds and stands there already.
        like = {name: part for name, part in self.arrays.items() if name != "memory"}
        state = self._saved.restore(iteration, like, besides=("average", "memory")).state
        return self._learner.train_of(state).eval_params

    def begin_games(self) -> None:
        """Begins the games that the next iteration goes on with, or plays them again up to there.

        The iteration does it otherwise.

        Raises:
          Preempted: a signal has come; what is saved stays as it is.
        """
        self._collector.open()

    def save(self, *, chosen: bool = False, due: bool = False) -> None:
        """Saves everything that a resumed training needs.

        Args:
          chosen: it is the best so far, and is kept until another one is: checkpoints are compared
            by the number of steps, among those that were.
          due: an evaluation is to follow, and does so where a resumed training begins.
        """
        self._unevaluated = due
        self._saved.save(
            self.iteration,
            self.arrays,
            host={
                "log": self._collector.log,
                **self._actor.checkpoint_arrays,
            },
            progress={
                "best": self.best,
                "timer": self.timer.state(),
                "recent": [list(x) for x in self._recent],
                "pools_began": self._collector.began,
                "episodes": self._episodes,
                "begun": self._first_scores,
                "chosen_by": self.starts_seen,
                "unevaluated": due,
            },
            value=float(self.steps) if chosen else None,
        )

    def best_params(self) -> networks.Params:
        """What the checkpoint has learnt that played best; see `network_params`.

        Raises:
          ValueError: nothing has been evaluated yet.
        """
        if not self.best:
            raise ValueError(f"{self.workdir} has evaluated nothing yet; let it run on")
        return self._restore_params(self.best["step"] // self.settings.steps_per_iteration)

    def network_params(self, params: Any) -> networks.Params:
        """The network's, among what is learnt; beside them are the deviations of angles."""
        return self._learner.network_params(params)

    def best_experts(self) -> list[Expert]:
        """The checkpoint that played best, as one expert per game.

        Raises:
          ValueError: nothing has been evaluated yet.
        """
        return self._as_experts(jax.device_get(self.best_params()))

    def _as_experts(self, params: Any) -> list[Expert]:
        """A network of what is learnt, as one expert per game."""
        experts = []
        for index, lesson in enumerate(self.lessons):
            name = lesson.name
            whole = lesson.task.as_published(self.settings.max_steps)
            own = self.network_params(params)
            network, alone, actions = networks.for_one_game(self.network, own, index)
            log_std = self._learner.log_std(params)
            played = tuple(a for a in lesson.task.actions if self._masks[index, a])
            # Keys that are not its own go, and so do actions that its student was not taught.
            if log_std is not None or played != lesson.task.actions:
                actions = played
                network, alone = networks.with_outputs(network, alone, actions)
            if log_std is not None:
                log_std = log_std[list(actions)]
            experts.append(
                Expert(
                    name=f"{name} {self.settings.algorithm.upper()}",
                    network=network,
                    params=alone,
                    outputs="logits" if self.settings.algorithm == "ppo" else "q",
                    actions=actions,
                    game=name,
                    view=self._view if self._view.whole != self._view else lesson.seen,
                    log_std=None if log_std is None else tuple(map(float, log_std)),
                    advertised_score=self.best.get("scores", {}).get(name) if whole else None,
                    source=str(self.workdir),
                    rules=self.settings.rules,
                    teacher_view=self._teacher_views.get(name),
                )
            )
        return experts
