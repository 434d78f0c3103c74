"""Trains experts from rewards: plays, learns, evaluates, keeps what plays best; resumable.

How is learnt is one of three: parallel Q-learning (`pqn`), deep Q-learning (`dqn`), proximal policy
optimisation (`ppo`). With several tasks one masked network learns them all: the multi-task baseline
of Policy Distillation (Rusu et al. 2015).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import clocks, disk, lock, metrics, networks, preemption, terminal, workdirs
from jaxdistill import (
    mesh as meshes,
)
from jaxdistill import (
    settings as settings_lib,
)
from jaxdistill.experts.expert import Expert, Teacher
from jaxdistill.learn import (
    checkpoints,
    divergence,
    dqn,
    exploration,
    learner,
    origins,
    ppo,
    pqn,
    regime,
    replay,
)
from jaxdistill.learn.regime import Beginning, Settings, Student
from jaxdistill.play import evaluation, lessons, records, rollouts
from jaxdistill.play.lessons import Lesson
from jaxdistill.profiler import Profile
from jaxdistill.tasks.task import Pool
from jaxdistill.tasks.views import Vector

_CHECKPOINTS = "checkpoints"

# What a training that has diverged may change and go on.
_KNOBS = (
    "learning_rate",
    "clip_norm",
    "final_rate_fraction",
    "expert_weight",
    "q_temperature",
    "logits_temperature",
)

# Games go on across evaluations, and a resumed training replays all that its present pools have
# played. So an evaluation begins fresh ones, which cuts the games in progress, once so many steps
# of each environment were played: eight games of Freeway. Where so many games at the step limit are
# shorter, those are enough. Where evaluations are far apart, four times as many begin them anyway.
_LOG_STEPS, _LOG_GAMES, _LOG_MOST = 16_384, 4, 4

# Seconds after which all is saved, and after which it is before an evaluation, which takes a while.
_SAVE_SECONDS, _EVALUATE_SECONDS = 120, 60


class Actor(Protocol):
    """Who plays while it learns."""

    def begin(self, iteration: int, episodes: int) -> dict[str, float]:
        """Is told where the training stands, before an iteration; returns what to log."""
        ...

    @property
    def carry(self) -> networks.Carry:
        """What a recurrent network carries into the next step, `(G, N, ...)`; else nothing."""
        ...

    def act(
        self, observations: Any, begun: np.ndarray, turn: int
    ) -> tuple[Any, dict[str, jax.Array]]:
        """Actions `(G, N, ...)` of what is seen, one array per game; and what to remember of them.

        Of that `values` `(G, N)` is what this is worth. `begun` `(G, N)` says where a game begins.
        """
        ...

    def judge(self, observations: Any, begun: np.ndarray) -> jax.Array:
        """`values` alone."""
        ...

    @property
    def host(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds of it."""
        ...

    def restore(self, host: Mapping[str, np.ndarray]) -> None:
        """Goes on as `host` was."""
        ...


Algorithm = pqn.Pqn | dqn.Dqn | ppo.Ppo
_ALGORITHMS: dict[str, type[pqn.Pqn] | type[dqn.Dqn] | type[ppo.Ppo]] = {
    "pqn": pqn.Pqn,
    "dqn": dqn.Dqn,
    "ppo": ppo.Ppo,
}


class _Collector:
    """The training pools and everything that must survive a kill with them."""

    def __init__(
        self,
        settings: Settings,
        chosen: Sequence[Lesson],
        iteration: int,
        log: np.ndarray | None,
    ):
        """Of fresh pools with seeds of their own; `log` `(G, T, N)` is played again in each."""
        self._settings, self._chosen = settings, chosen
        self.began = iteration
        self._log = [] if log is None else list(log.swapaxes(0, 1))
        self._pools: list[Pool] = []

    def begin(self) -> None:
        """Opens the pools and plays the log in them, unless that was done.

        Raises:
          Preempted: a signal has come; nothing is lost by it.
        """
        if self._pools:
            return
        settings = self._settings
        pools = [
            lesson.pool(
                settings.num_envs, lessons.COLLECT, self.began, max_steps=settings.max_steps
            )
            for lesson in self._chosen
        ]
        if self._log:
            name = f"replay {', '.join(lesson.name for lesson in self._chosen)}"
            with terminal.progress(name, len(self._log) * settings.num_envs, "steps") as advance:
                for actions in self._log:
                    preemption.stop_if_asked()
                    for pool, row in zip(pools, actions, strict=True):
                        pool.send(row)
                    for pool in pools:
                        pool.receive()
                    advance(settings.num_envs)
        self._pools = pools

    @property
    def pools(self) -> list[Pool]:
        """One of each task, begun."""
        self.begin()
        return self._pools

    @property
    def log(self) -> np.ndarray:
        """Actions `(G, T, N, ...)` of the T steps that these pools have played."""
        form = self._chosen[0].task.suite.form
        shape = (-1, len(self._chosen), self._settings.num_envs, *form.action_shape)
        return np.asarray(self._log, form.action_dtype).reshape(shape).swapaxes(0, 1)

    def rollout(
        self, actor: Actor, iteration: int, mesh: Mesh, timer: clocks.Timer
    ) -> tuple[dict[str, Any], list[list[float]]]:
        """Plays one iteration: the arrays that are learnt from, and scores of games that ended.

        The arrays are `(G, T, N, ...)`: what `pqn.make_learn` takes, and whatever else the actor
        remembers. Of a recurrent network `carry` is what it carried into the first step.
        """
        settings = self._settings
        first = iteration * settings.rollout_steps
        turn = first
        remembered: list[dict[str, jax.Array]] = []
        carry = actor.carry
        dtype = self.pools[0].task.suite.form.action_dtype

        def begun() -> np.ndarray:
            return np.stack([step.ages == 0 for step in before])

        def policy(
            observations: Any, _key: Any, _games: Any, _seats: Any
        ) -> tuple[tuple[np.ndarray, ...], None]:
            with timer.phase("inference"):
                actions, more = actor.act(observations, begun(), turn)
                remembered.append(more)
                chosen = np.asarray(actions)
            return tuple(chosen), None

        depth = self.pools[0].view.stack
        finished: list[list[float]] = [[] for _ in self.pools]
        before = [pool.last for pool in self.pools]
        frames = [[step.observations[:, k] for step in before] for k in range(depth - 1)]
        ages = [[step.ages for step in before] for _ in range(depth - 1)]
        columns: dict[str, list[list[np.ndarray]]] = {
            name: [] for name in ("actions", "rewards", "ended", "truncated", "valid")
        }
        play = rollouts.play(self.pools, policy, jax.random.key(0), mesh, parts=1)
        for played in play:
            frames.append([step.observations[:, -1] for step in before])
            ages.append([step.ages for step in before])
            ended, rewards = [], []
            for old, new in zip(before, played.steps, strict=True):
                lost = new.valid & (new.lives < old.lives)
                ended.append((new.over & ~new.truncated) | lost)
                rewards.append(regime.learnt_rewards(settings, new.rewards))
            columns["actions"].append(list(played.actions))
            self._log.append(np.asarray(played.actions, dtype))
            columns["rewards"].append(rewards)
            columns["ended"].append(ended)
            columns["truncated"].append([step.truncated for step in played.steps])
            columns["valid"].append([step.valid for step in played.steps])
            for scores, step in zip(finished, played.steps, strict=True):
                scores.extend(step.scores[step.over].tolist())
            before = list(played.steps)
            turn += 1
            if turn == first + settings.rollout_steps:
                break
        with timer.phase("inference"):
            last = tuple(meshes.put_rows(mesh, step.observations) for step in before)
            final = actor.judge(last, begun())
        arrays: dict[str, Any] = {
            name: np.stack(rows).swapaxes(0, 1) for name, rows in columns.items()
        }
        arrays["frames"] = np.stack(frames).swapaxes(0, 1)
        arrays["ages"] = np.minimum(np.stack(ages).swapaxes(0, 1), depth).astype(np.uint8)
        for name in remembered[0]:
            rows = [np.asarray(row[name]) for row in remembered]
            arrays[name] = np.stack(rows).swapaxes(0, 1)
        following = [*arrays["values"].swapaxes(0, 1)[1:], np.asarray(final)]
        arrays["next_values"] = np.stack(following).swapaxes(0, 1)
        if carry:
            arrays["carry"] = carry
        return arrays, finished


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

    def __init__(
        self,
        settings: Settings,
        workdir: str | os.PathLike[str],
        mesh: Mesh | None = None,
        student: Student | None = None,
        *,
        begin: Beginning | None = None,
    ):
        """Reads what stands in `workdir`.

        Args:
          student: what `settings.student` is.
          begin: what `beginning` gives of all these, where it has been asked for already.
        """
        self.settings, self.workdir = settings, pathlib.Path(workdir)
        self._key = jax.random.key(settings.seed)
        begin = begin or beginning(settings, mesh or meshes.create(), student)
        self._mesh = begin.mesh
        self.lessons, self.network, self._experts = begin.lessons, begin.network, begin.experts
        self._view = begin.view
        self.names = tuple(lesson.name for lesson in self.lessons)
        self.best: dict[str, Any] = {}
        self._masks = begin.masks
        choices = lessons.choices(self.lessons)._replace(masks=begin.masks)
        self._learner: Algorithm = _ALGORITHMS[settings.algorithm](begin)
        self._actor: Actor = (
            ppo.Actor(begin, self._learner)
            if isinstance(self._learner, ppo.Ppo)
            else exploration.Actor(begin, self._learner)
        )
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
        # Of a student of several games: the parameters it plays with, and its mean scores.
        self._first: Any = None
        self._begun: dict[str, float] | None = None
        self.starts_seen: dict[str, list[int]] | None = {}
        if student is not None and len(self.names) > 1:
            # A copy: what it is of is donated to the first update.
            self._first = jax.tree.map(np.array, jax.device_get(self.state.playing))
        self._saved = checkpoints.Checkpoints(self.workdir / _CHECKPOINTS)
        began, log = self._restore()
        self._collector = _Collector(settings, self.lessons, began, log)

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
        self._begun = restored.progress.get("begun")
        self.starts_seen = restored.progress.get("chosen_by")
        self._unevaluated = restored.progress.get("unevaluated", False)
        if self.best and not self.best.get("decided"):  # an earlier version may value it otherwise
            self.best["value"] = self._value(self.best["scores"], self._begun)
        return restored.progress["pools_began"], restored.host.get("log")

    def iterate(self) -> dict[str, float]:
        """Plays and learns once; returns what to log."""
        told = self._actor.begin(self.iteration, self._episodes)
        with self.timer.phase("collect"):
            rollout, finished = self._collector.rollout(
                self._actor, self.iteration, self._mesh, self.timer
            )
        before = self._episodes
        for recent, ended in zip(self._recent, finished, strict=True):
            recent.extend(ended)
            self._episodes += len(ended)
        with self.timer.phase("learn"):
            every = self.settings.target_episodes
            row = learner.host_metrics(
                self._learner.learn(
                    rollout,
                    self.iteration,
                    self._key,
                    copies=self._episodes // every > before // every,
                ),
                self.names,
            )
        self.iteration += 1
        self._shorten_log(_LOG_MOST)
        row |= told
        if self._experts and self.settings.algorithm != "dqn":
            row["expert_weight"] = regime.expert_weight_at(self.settings, self.iteration - 1)
        for name, recent in zip(self.names, self._recent, strict=True):
            if recent:
                row[f"score/{name}"] = float(np.mean(recent))
        return row

    def evaluate(self) -> dict[str, float]:
        """Plays whole games from fixed starts; returns the mean score of each game."""
        with self.timer.phase("evaluate"):
            means = self._play(self.state.playing, self.settings.eval_episodes, lessons.SELECT)
        if self._first is not None and not self.iteration:
            self._begun = means
        value = self._value(means, self._begun)
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
            self._collector = _Collector(self.settings, self.lessons, self.iteration, None)

    @property
    def due(self) -> bool:
        """Whether what it begins with, or stopped with, is still to be evaluated."""
        first = self._first is not None and not self.iteration and self._begun is None
        return first or self._unevaluated

    def _value(self, means: dict[str, float], begun: dict[str, float] | None) -> float:
        """What networks are chosen by: the mean score, or the smallest gain over those `begun`.

        Scores are as `evaluation.normalised` has them; where no score of random play is known, that
        is in those begun with.
        """
        chosen = self.settings.tasks
        random = [records.random_score(task, self.settings.max_steps) for task in chosen]
        if begun is not None:
            random = [begun[n] if x is None else x for n, x in zip(means, random, strict=True)]
        scores = evaluation.normalised(chosen, [*means.values()], random)
        if begun is None:
            return float(scores.mean())
        gains = scores - evaluation.normalised(chosen, [begun[name] for name in means], random)
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
            self.lessons,
            self._player(self.network_params(params)),
            evaluation.Protocol(
                purpose,
                settings.seed,
                evaluation.Opening(
                    self._random_policy,
                    settings.opening,
                    self._random_policy,
                    evaluation.CHOOSING,
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
        first = () if self._begun is None else (0,)
        steps, episodes = (*first, self.best["step"], self.steps), self.settings.final_episodes
        compared = dict.fromkeys(steps)
        games = len(compared) * len(self.lessons) * episodes
        with self.timer.phase("evaluate"), terminal.progress("choose", games, "games") as advance:
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
            return self.state.playing
        if not iteration:
            return self._first
        # Without the memory, which may be most of what a device holds and stands there already.
        like = {name: part for name, part in self.arrays.items() if name != "memory"}
        state = self._saved.restore(iteration, like, besides=("average", "memory")).state
        return self._learner.train_of(state).playing

    def begin_games(self) -> None:
        """Begins the games that the next iteration goes on with, or plays them again up to there.

        The iteration does it otherwise.

        Raises:
          Preempted: a signal has come; what is saved stays as it is.
        """
        self._collector.begin()

    def save(self, *, chosen: bool = False, due: bool = False) -> None:
        """Saves everything that a resumed training needs.

        Args:
          chosen: it is the best so far, and is kept until another one is.
          due: an evaluation is to follow, and does so where a resumed training begins.
        """
        self._unevaluated = due
        self._saved.save(
            self.iteration,
            self.arrays,
            host={
                "log": self._collector.log,
                **self._actor.host,
            },
            progress={
                "best": self.best,
                "timer": self.timer.state(),
                "recent": [list(x) for x in self._recent],
                "pools_began": self._collector.began,
                "episodes": self._episodes,
                "begun": self._begun,
                "chosen_by": self.starts_seen,
                "unevaluated": due,
            },
            value=float(self.steps) if chosen else None,  # the last one counts
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
                    advertised_score=self.best.get("scores", {}).get(name),
                    source=str(self.workdir),
                    rules=self.settings.rules,
                )
            )
        return experts


def beginning(settings: Settings, mesh: Mesh, student: Student | None = None) -> Beginning:
    """What a training begins with: a student's network, an expert's, or a fresh one.

    Raises:
      FileNotFoundError, ValueError: an expert cannot be read, is of another shape, or cannot be
        asked beside what the training shows; a critic has no place beside the student's heads.
    """
    key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    experts: Sequence[Teacher] = regime.experts_of(settings)
    view = experts[0].view if experts else settings.tasks[0].view
    shown = [view.whole] * len(settings.tasks)
    if experts:
        shown = [expert.view.whole for expert in experts]
    if student is not None:
        network, params = ppo.with_critic(student, settings.q_temperature, key)
        view = student.view
        shown = [own.whole for own in student.views(settings.tasks)]
        taught = settings.tasks if settings.expert_weight else []
        experts = [student.teachers[task.name] for task in taught]
    elif settings.warm_start:
        network = regime.network_of(settings)
        params = _copied(settings, network, experts)
    else:
        network = regime.network_of(settings)
        params = networks.init(network, key, view.shape)
    for teacher, own in zip(experts, shown, strict=False):
        if teacher.recurrent and settings.expert_weight:
            raise ValueError(
                f"{teacher.name} is recurrent, and a training asks its experts about single "
                f"states; {_instead(settings)}"
            )
        if teacher.view.whole != own:
            raise ValueError(
                f"{teacher.name} sees {teacher.view}, and a training shows {own} alone, which "
                f"its student sees; set expert_weight to 0"
            )
    chosen = lessons.of_tasks(settings.tasks, settings.seed, shown)
    masks = lessons.masks(chosen)
    if student is not None:
        masks = masks & student.masks(settings.tasks)
    return Beginning(settings, chosen, experts, network, params, view, mesh, masks)


def _instead(settings: Settings) -> str:
    """What to do with an expert that cannot be asked."""
    if settings.student:
        return "set expert_weight to 0"
    if settings.warm_start:
        return "set expert_weight to 0 to train its copy, or distil it (launch/distill.py)"
    return "distil it (launch/distill.py)"


def _copied(
    settings: Settings, network: networks.Network, experts: Sequence[Teacher]
) -> networks.Params:
    """What a training with `warm_start` begins with.

    Raises:
      ValueError: the expert is of another shape or lacks a valid action, or holds logits where
        Q-values are learnt.
    """
    (expert,) = experts
    assert isinstance(expert, Expert)  # a training is given no teams
    if settings.algorithm != "ppo" and expert.outputs != "q":
        raise ValueError(
            f"warm_start: {expert.name} holds logits, and {settings.algorithm} learns Q-values; "
            f"expected an expert of Q-values: choose one, or set algorithm to 'ppo'"
        )
    whole = expert.actions == tuple(range(network.num_outputs))
    own = network if whole else network.clone(num_outputs=len(expert.actions))
    same = networks.same_architecture(expert.network, own)
    if not same or (network.streams and not whole):
        raise ValueError(
            f"warm_start: {expert.name} is not of the shape of network "
            f"{settings.network!r}; choose its own, or begin fresh"
        )
    (task,) = settings.tasks
    if lacking := [a for a in task.actions if a not in expert.actions]:
        names = ", ".join(task.suite.action_names[action] for action in lacking)
        raise ValueError(
            f"warm_start: {expert.name} has no output for {names}, valid in {task.name}; choose "
            f"one that has, or begin fresh"
        )
    params = expert.params if whole else _with_all(network, expert.params, expert.actions)
    if settings.algorithm == "ppo" and expert.outputs == "q":
        return ppo.as_logits(params, settings.q_temperature)
    return params


def _with_all(
    network: networks.Network, params: networks.Params, actions: Sequence[int]
) -> networks.Params:
    """The parameters of some outputs of `network`, as those of all; see `networks.with_outputs`.

    Others, which are never played, are the mean of these: it is what a dueling head takes off.
    """
    layers, depth = dict(params["params"]), network.depth

    def spread(x: jax.Array) -> np.ndarray:
        known = np.asarray(x).reshape(*x.shape[:-1], len(actions), depth)
        every = np.repeat(known.mean(axis=-2, keepdims=True), network.num_outputs, axis=-2)
        every[..., list(actions), :] = known
        return every.reshape(*x.shape[:-1], -1)

    layers["action"] = jax.tree.map(spread, layers["action"])
    return {"params": layers}


def train(
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    stop_at: int | None = None,
    profile: str | None = None,
    student: Student | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Trains one network on `settings.games`; resumes where a killed run stopped.

    At the first NaN or infinity it stops. The same settings are then refused at once; with another
    `learning_rate`, `clip_norm`, `final_rate_fraction`, `expert_weight`, `q_temperature` or
    `logits_temperature` it goes on from its latest checkpoint. Where networks are independent, that
    holds for the one that has diverged and for those that have not begun; the others stay.

    Args:
      workdir: holds `metrics.jsonl`, TensorBoard events, `checkpoints/`, and, replaced whenever an
        evaluation is the best so far, `experts/GAME`, which every other program takes as an expert.
        Where networks are independent, `tasks/GAME` holds all that of each, and `workdir` itself
        neither rows nor checkpoints, and `experts/GAME` once that network is finished.
      stop_at: stop after this iteration as a kill would, after saving; for tests.
      profile: directory for a trace of a few iterations.
      student: what `settings.student` is.
      began: since when wall time counts, by `time.monotonic`, such as when the program started; by
        default since it is known that this may be trained here.

    Returns:
      The best network's last evaluation: `step` (per game), `value`, and the mean `scores` by game.

    Raises:
      ValueError, OSError: something the user can mend, in one line; another process trains there,
        or `workdir` holds something else, or was begun with a student or experts of other
        parameters; or, at the end, nothing was learnt since no memory ever held `first_update`.
    """
    workdir, mesh = pathlib.Path(workdir), mesh or meshes.create()
    # What can be refused is, before anything is written.
    regime.check_divisible(settings, mesh)
    if not (workdir / "config.json").exists():
        regime.refuse_idle(settings, student)
    settings = regime.settled(settings)
    for task in settings.tasks:
        task.require()
    begin = None if settings.independent else beginning(settings, mesh, student)
    if settings.algorithm == "dqn":
        view = begin.lessons[0].view if begin else settings.tasks[0].view
        frame = view.shape[1:], settings.tasks[0].suite.frame_dtype
        replay.check_fits(mesh, settings.replay_size, *frame)
    known = {} if begin is None else origins.of(student, begin.experts)
    with lock.one_writer(workdir, "config.json"):
        origins.check(workdir, known)
        inner = [path for _, path in parts(settings, workdir) if path != workdir]
        divergence.claim(workdir, settings, _KNOBS, origins.moved(workdir, known), parts=inner)
        origins.claim(workdir, known, begins=not (workdir / _CHECKPOINTS).exists())
        with clocks.wall_clock(workdir, began=began):
            if begin is None:
                return _train_each(settings, workdir, mesh, stop_at, profile)
            with Training(settings, workdir, mesh, student, begin=begin) as training:
                return _train(training, workdir, stop_at, profile)


def check_begun(
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    student: Student | None = None,
) -> None:
    """Refuses settings, a student or experts that the training in `workdir` was not begun with.

    Nothing is written, so that a training that is finished can be read by whoever may only read it.

    Raises:
      ValueError, OSError: as `train`.
    """
    workdir, settings = pathlib.Path(workdir), regime.settled(settings)
    begin = None if settings.independent else beginning(settings, mesh or meshes.create(), student)
    known = {} if begin is None else origins.of(student, begin.experts)
    origins.check(workdir, known)
    workdirs.claim(workdir, settings, origins.moved(workdir, known))


def parts(
    settings: Settings, workdir: str | os.PathLike[str]
) -> list[tuple[Settings, pathlib.Path]]:
    """The trainings of one network each that a training is made of, and where they stand."""
    workdir = pathlib.Path(workdir)
    if not settings.independent:
        return [(settings, workdir)]
    return [
        (
            dataclasses.replace(settings, games=(task.name,), independent=False),
            workdir / "tasks" / task.name,
        )
        for task in settings.tasks
    ]


def _train_each(
    settings: Settings,
    workdir: pathlib.Path,
    mesh: Mesh | None,
    stop_at: int | None,
    profile: str | None,
) -> dict[str, Any]:
    """One training per task, in a directory of its own; the best networks stand together."""
    best = []
    for alone, inner in parts(settings, workdir):
        alone = _as_begun(alone, inner)
        best.append(train(alone, inner, mesh=mesh, stop_at=stop_at, profile=profile))
        name = pathlib.Path("experts", *alone.games)
        Expert.load(inner / name).save(workdir / name, replace=True)
    return {
        "step": max(each["step"] for each in best),
        "value": float(np.mean([each["value"] for each in best])),
        "scores": {name: score for each in best for name, score in each["scores"].items()},
    }


def _as_begun(settings: Settings, workdir: pathlib.Path) -> Settings:
    """`settings`, with what another network's divergence has changed as it was here."""
    path = workdir / "config.json"
    if not path.is_file() or divergence.stands(workdir):
        return settings
    standing = disk.read_json(path, "begin again in another --workdir")
    begun = settings_lib.build(Settings, standing, str(path))
    return dataclasses.replace(settings, **{name: getattr(begun, name) for name in _KNOBS})


def _train(
    training: Training, workdir: pathlib.Path, stop_at: int | None, profile: str | None
) -> dict[str, Any]:
    """The iterations that are still to do."""
    settings, per_iteration = training.settings, training.settings.steps_per_iteration
    resume_step = training.steps if training.best or training.iteration else -1
    if training.best:  # a kill may have come before the best was written down
        _save_experts(training, workdir)
    if training.iteration < settings.iterations:
        training.begin_games()  # which shows a bar of its own
    with (
        contextlib.ExitStack() as stack,
        metrics.Writer(workdir, resume_step) as writer,
        terminal.progress(
            f"train {', '.join(training.names)}",
            settings.iterations * per_iteration,
            "steps",
            done=training.steps,
        ) as advance,
    ):
        last_saved = time.monotonic()
        trace = Profile(profile)
        stack.callback(trace.close)
        if training.due:
            _evaluate(training, workdir, writer)
        while training.iteration < settings.iterations:
            trace.step()
            row = training.iterate()
            divergence.check(
                workdir,
                settings,
                _KNOBS,
                step=int(training.state.step),
                numbers=row,
                state=training.arrays,
            )
            advance(per_iteration)
            shown = (name for name in row if name.startswith(("score/", "epsilon", "loss")))
            advance.status(" ".join(f"{name} {row[name]:.4g}" for name in shown))
            iteration, steps = training.iteration, training.steps
            at_end = iteration == settings.iterations
            if iteration % 10 == 0 or at_end:
                seconds = {f"seconds/{k}": v for k, v in training.timer.seconds().items()}
                writer.write(steps, row | seconds)
            every = settings.eval_every
            if at_end or steps // every > (steps - per_iteration) // every:
                if time.monotonic() - last_saved > _EVALUATE_SECONDS or preemption.asked():
                    training.save(due=True)
                preemption.stop_if_asked()
                _evaluate(training, workdir, writer)
                last_saved = time.monotonic()
            elif (
                time.monotonic() - last_saved > _SAVE_SECONDS
                or iteration == stop_at
                or preemption.asked()
            ):
                training.save()
                last_saved = time.monotonic()
            preemption.stop_if_asked()
            if iteration == stop_at:
                return training.best
    if not int(training.state.step):
        raise ValueError(
            f"{workdir} has learnt nothing: games were so short that its memory never held "
            f"first_update {settings.first_update} transitions to learn from; choose fewer, in "
            f"another --workdir"
        )
    training.decide()
    _save_experts(training, workdir)
    return training.best


def _evaluate(training: Training, workdir: pathlib.Path, writer: metrics.Writer) -> None:
    """Evaluates what has been learnt, and saves it."""
    standing, resumed = training.best.get("step"), training.due
    try:
        scores = training.evaluate()
    except preemption.Preempted:
        if training.iteration:
            training.save(due=True)
        raise
    row = {f"eval/{name}": x for name, x in scores.items()}
    # Before the checkpoint: a resumed training keeps the rows up to it. One that was stopped before
    # it stood has written this one.
    if not (resumed and metrics.tells(workdir, training.steps, row)):
        writer.write(training.steps, row)
    training.save(chosen=training.best["step"] == training.steps)
    if training.best["step"] != standing:
        _save_experts(training, workdir)


def _save_experts(training: Training, workdir: pathlib.Path) -> None:
    for expert in training.best_experts():
        expert.save(workdir / "experts" / str(expert.game), replace=True)
