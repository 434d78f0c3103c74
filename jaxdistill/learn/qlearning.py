"""Trains experts from scratch: parallel Q-learning (PQN; Gallici et al., ICLR 2025).

No replay memory and no target network: many environments play for a few steps, Q(lambda) targets
are computed backwards over them, and the same steps are learnt from once or twice before they are
thrown away. LayerNorm in the network is what keeps this stable. With several games, one masked
network learns them all: the multi-task baseline of Policy Distillation. Deep Q-learning from a
replay memory (Mnih et al., Nature 2015) stands beside it.

With experts at hand it need not begin from nothing, nor end where they did: a distillation loss
beside the Q-learning one, its weight falling to 0, lets a student take over what a mediocre expert
knows and then surpass it (kickstarting, Schmitt et al. 2018; QDagger, Agarwal et al. 2022).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxdistill import lock, metrics, networks, tasks
from jaxdistill import (
    mesh as meshes,
)
from jaxdistill import (
    settings as settings_lib,
)
from jaxdistill.experts.expert import Expert, expert_outputs
from jaxdistill.experts.sources import ExpertSource, load_experts
from jaxdistill.learn import (
    checkpoints,
    dataset,
    divergence,
    dqn,
    learner,
    losses,
    replay,
)
from jaxdistill.play import evaluation, lessons, rollouts
from jaxdistill.play.lessons import Lesson
from jaxdistill.settings import Count, OneOf, Positive, Range, Share, Steps, Temperature, Weight
from jaxdistill.tasks.actions import greedy
from jaxdistill.tasks.task import Task

# What a training that has diverged may change and go on.
_KNOBS = (
    "learning_rate",
    "clip_norm",
    "final_rate_fraction",
    "expert_weight",
    "q_temperature",
    "logits_temperature",
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How experts are trained; a *step* is one decision in one environment of one game.

    Attributes:
      games: names of the tasks, of one suite, learnt by one network.
      independent: each of them is learnt by a network of its own, one after another.
      algorithm: "pqn", or "dqn": deep Q-learning from a replay memory.
      network: a key of `networks.NETWORKS`; with "pqn" it should have LayerNorm.
      compute_dtype: what it computes in, "float32" or, on accelerators, "bfloat16"; parameters,
        outputs and losses are float32 all the same.
      seed: of everything random.
      num_envs: environments per game.
      rollout_steps: steps each environment plays between two learning phases.
      total_steps: steps per game in the whole training.
      epochs: with "pqn", times each step is learnt from.
      updates_per_step: with "dqn", minibatches from the memory for each step of an environment.
      batch_per_game: rows of each game in one minibatch; with "dqn" as many are drawn from the
        transitions of all games together.
      replay_size: with "dqn", transitions of all games together that are kept.
      first_update: with "dqn", how many of them before the first update.
      target_episodes: with "dqn", games that end between two copies of the network that judges.
      optimiser: a key of `learner.OPTIMISERS`.
      learning_rate, final_rate_fraction, clip_norm: with linear decay and gradient clipping.
      ema_decay: the network that is evaluated and saved is the exponential moving average of the
        parameters with this decay per update; 0 takes the parameters as they are.
      reward_limit: rewards are clipped to so much on both sides; 0 leaves them as they are.
      reward_scale: and multiplied by this.
      discount, trace: gamma and lambda of the Q(lambda) targets.
      epsilon_start, epsilon_end, epsilon_fraction: chance of exploring, falling linearly over that
        fraction of the training.
      epsilon_decay: it falls by this factor with every game that ends instead, down to the end; 0
        is linearly.
      hold_exponent: with this above 1, an exploring action is held for a Zipf-distributed number of
        steps (epsilon-z-greedy; Dabney et al., ICLR 2021); 0 explores for one step.
      double: Double-Q targets: the network's choice, valued by a slow average of its parameters.
      average_rate: how fast that average follows, per iteration.
      eval_every: steps per game between two evaluations.
      eval_episodes, eval_epsilon: whole games per game in one, and the chance of exploring.
      final_episodes: whole games per game that the best and the last network play at the end, to
        decide between them: with few games, the best of several evaluations is partly the luckiest.
        So many the better plays again, from other starts, to be reported; see `run.training`.
      max_steps: step limit of one game; None is each task's own.
      opening_steps: random steps, at least, before the network takes over a game that is
        evaluated; see `evaluation.Opening`. None is as many as the suite says.
      experts: one per game, to learn from as well; none by default.
      expert_weight, expert_fraction: how much that counts at first, and the fraction of the
        training over which it falls linearly to 0.
      q_temperature, logits_temperature: the softmax temperature of experts with either; the
        student's Q-values are always compared at the first.
      warm_start: begin as a copy of the only expert, to train it further.
    """

    games: tuple[str, ...]
    independent: bool = False
    algorithm: Annotated[str, OneOf(("pqn", "dqn"))] = "pqn"
    network: Annotated[str, OneOf(networks.NETWORKS)] = "dueling_small_layer_norm"
    compute_dtype: Annotated[str, OneOf(networks.COMPUTE_DTYPES)] = "float32"
    seed: Steps = 0
    num_envs: Count = 64
    rollout_steps: Count = 32
    total_steps: Count = 2_000_000
    epochs: Count = 2
    updates_per_step: Positive = 1.0
    batch_per_game: Count = 128
    replay_size: Count = 100_000
    first_update: Count = 2000
    target_episodes: Count = 10
    optimiser: Annotated[str, OneOf(learner.OPTIMISERS)] = "radam"
    learning_rate: Positive = 2.5e-4
    final_rate_fraction: Share = 0.05
    clip_norm: Positive = 10.0
    ema_decay: Annotated[float, Range(0, 1, below=True)] = 0.0
    reward_limit: Weight = 1.0
    reward_scale: Positive = 1.0
    discount: Share = 0.99
    trace: Share = 0.65
    epsilon_start: Share = 1.0
    epsilon_end: Share = 0.01
    epsilon_fraction: Share = 0.1
    epsilon_decay: Annotated[float, Range(0, 1, below=True)] = 0.0
    hold_exponent: Annotated[float, Range(1, above=True, besides=0)] = 0.0
    double: bool = False
    average_rate: Annotated[float, Range(0, 1, above=True)] = 0.1
    eval_every: Count = 250_000
    eval_episodes: Count = 16
    eval_epsilon: Share = 0.01
    final_episodes: Count = 64
    max_steps: Count | None = None
    opening_steps: Steps | None = None
    experts: tuple[ExpertSource, ...] = ()
    expert_weight: Weight = 1.0
    expert_fraction: Share = 0.5
    q_temperature: Temperature = 0.01
    logits_temperature: Temperature = 1.0
    warm_start: bool = False

    def __post_init__(self) -> None:
        settings_lib.check(self)
        rows = self.num_envs * self.rollout_steps
        if not self.games:
            raise ValueError("games is empty; name at least one")
        chosen = self.tasks
        names = [task.name for task in chosen]
        if len(set(names)) < len(names):
            raise ValueError(f"games names one twice: {', '.join(names)}")
        # A training goes on by whatever spelling.
        object.__setattr__(self, "games", tuple(names))
        if len({task.suite.name for task in chosen}) > 1:
            raise ValueError(
                f"games {', '.join(names)} are of several suites ("
                f"{', '.join(dict.fromkeys(task.suite.name for task in chosen))}); one network "
                f"learns tasks of one"
            )
        networks.for_tasks(networks.create(self.network), chosen)  # it must suit what they show
        if self.algorithm == "pqn" and rows % self.batch_per_game:
            raise ValueError(
                f"batch_per_game {self.batch_per_game} does not divide the {rows} steps of one "
                f"iteration (num_envs {self.num_envs} x rollout_steps {self.rollout_steps})"
            )
        if self.total_steps < rows:
            raise ValueError(
                f"total_steps {self.total_steps} is less than the {rows} of one iteration"
            )
        shortest = min(self.max_steps or task.max_steps for task in chosen)
        if self.opening >= shortest:
            raise ValueError(
                f"opening_steps is {self.opening}, expected less than max_steps {shortest}"
            )
        if self.algorithm == "dqn":
            self._check_memory()
        if self.algorithm == "dqn" and self.experts and not self.warm_start:
            raise ValueError("dqn learns from rewards alone; choose pqn, or warm_start")
        if self.independent and self.experts:
            raise ValueError("independent networks learn without experts; train them one by one")
        if self.warm_start and len(self.experts) != 1:
            raise ValueError(f"warm_start copies one expert, there are {len(self.experts)}")

    def _check_memory(self) -> None:
        """Refuses a memory too small for an iteration, or from which nothing would be learnt."""
        together = 1 if self.independent else len(self.games)
        envs = self.num_envs * together
        depth = self.tasks[0].suite.view.stack
        least = (max(self.rollout_steps, depth) + 1) * envs
        if self.replay_size < least:
            raise ValueError(
                f"replay_size is {self.replay_size}, expected at least {least}: "
                f"{least // envs} steps of {envs} environments"
            )
        most = min((self.replay_size // envs - depth) * envs, self.total_steps * together)
        if self.first_update > most:
            raise ValueError(
                f"first_update is {self.first_update}, expected at most {most}: no more "
                f"transitions are ever there to learn from (replay_size {self.replay_size})"
            )

    @property
    def tasks(self) -> list[Task]:
        """What the games are."""
        return [tasks.get(name) for name in self.games]

    @property
    def opening(self) -> int:
        """Random steps before a network takes over a game that is evaluated."""
        suite = self.tasks[0].suite
        return suite.opening_steps if self.opening_steps is None else self.opening_steps

    @property
    def steps_per_iteration(self) -> int:
        """Steps per game in one iteration."""
        return self.num_envs * self.rollout_steps

    @property
    def updates_per_iteration(self) -> int:
        """Optimiser steps in one iteration."""
        if self.algorithm == "dqn":
            steps = self.steps_per_iteration * len(self.games)
            return max(1, round(self.updates_per_step * steps))
        return self.epochs * (self.steps_per_iteration // self.batch_per_game)

    @property
    def iterations(self) -> int:
        """Iterations in the whole training."""
        return self.total_steps // self.steps_per_iteration


def q_lambda_targets(
    rewards: jax.Array,
    ended: jax.Array,
    truncated: jax.Array,
    next_values: jax.Array,
    *,
    discount: float,
    trace: float,
) -> jax.Array:
    """Q(lambda) targets, all arrays `(T, ...)`:

    `G_t = r_t + gamma * (1 - ended_t) * (lambda * G_{t+1} + (1 - lambda) * max_a Q(s_{t+1}, a))`

    Args:
      ended: no value follows (the game was over, or a life was lost).
      truncated: the game was cut at t: its value goes on, its trace does not.
      next_values: `max_a Q(s_{t+1}, a)`, of the cut game's last observation where truncated.
    """

    def backward(following: jax.Array, row: tuple[jax.Array, ...]):
        reward, end, cut, value = row
        traced = jnp.where(cut, value, trace * following + (1 - trace) * value)
        target = reward + discount * jnp.where(end, 0.0, traced)
        return target, target

    rows = (rewards, ended, truncated, next_values)
    return jax.lax.scan(backward, next_values[-1], rows, reverse=True)[1]


class _Explorer:
    """Epsilon-greedy over valid actions, optionally holding each exploring action for a while."""

    def __init__(self, settings: Settings, valid: list[tuple[int, ...]]):
        self._settings, self._valid = settings, valid
        shape = (len(valid), settings.num_envs)
        self.remaining = np.zeros(shape, np.int64)
        self.held = np.zeros(shape, np.int64)

    def __call__(self, best: np.ndarray, turn: int, epsilon: float) -> np.ndarray:
        """Actions `(G, N)`; draws depend on the seed and the turn alone."""
        generator = np.random.default_rng((self._settings.seed, turn))
        starts = (generator.random(best.shape) < epsilon) & (self.remaining == 0)
        actions = np.stack([generator.choice(v, best.shape[1]) for v in self._valid])
        self.held = np.where(starts, actions, self.held)
        exponent = self._settings.hold_exponent
        lengths = generator.zipf(exponent, best.shape) if exponent else np.int64(1)
        self.remaining = np.where(starts, np.minimum(lengths, 10_000), self.remaining)
        exploring = self.remaining > 0
        self.remaining = np.maximum(self.remaining - 1, 0)
        return np.where(exploring, self.held, best)


def settled(settings: Settings) -> Settings:
    """`settings` with the numbers that None stands for, as far as all tasks have the same."""
    limits = {task.max_steps for task in settings.tasks}
    same = settings.max_steps is None and len(limits) == 1
    limit = limits.pop() if same else settings.max_steps
    return dataclasses.replace(settings, max_steps=limit, opening_steps=settings.opening)


def epsilon_at(settings: Settings, iteration: int, episodes: int = 0) -> float:
    """Chance of exploring in one iteration, before which so many games of all tasks have ended.

    An action held for several steps counts once: the chance per step is smaller by its mean
    length's share, as in epsilon-z-greedy's epsilon / 3.
    """
    if settings.epsilon_decay:
        start, end = settings.epsilon_start, settings.epsilon_end
        epsilon = dqn.epsilon_per_episode(episodes, start, end, settings.epsilon_decay)
    else:
        done = min(1.0, iteration / max(1.0, settings.epsilon_fraction * settings.iterations))
        epsilon = settings.epsilon_start + done * (settings.epsilon_end - settings.epsilon_start)
    return epsilon / 3 if settings.hold_exponent else epsilon


def optimiser(settings: Settings) -> optax.GradientTransformation:
    """The optimiser of a training, with its schedule over all updates."""
    return learner.optimiser(
        settings.optimiser,
        learning_rate=settings.learning_rate,
        updates=settings.iterations * settings.updates_per_iteration,
        final_fraction=settings.final_rate_fraction,
        schedule="linear",
        clip_norm=settings.clip_norm,
    )


def learnt_rewards(settings: Settings, rewards: np.ndarray) -> np.ndarray:
    """Rewards as they are learnt from: clipped and scaled."""
    limit = settings.reward_limit
    clipped = np.clip(rewards, -limit, limit) if limit else rewards
    return settings.reward_scale * clipped


def expert_weight_at(settings: Settings, iteration: int) -> float:
    """How much the experts count in one iteration."""
    left = 1.0 - iteration / max(1.0, settings.expert_fraction * settings.iterations)
    return settings.expert_weight * max(0.0, left) if settings.experts else 0.0


def refuse_idle(settings: Settings) -> None:
    """Refuses settings that were changed and cannot change anything.

    For trainings that begin: one that stands goes on as it was begun.

    Raises:
      FileNotFoundError, ValueError: an expert cannot be read; what is idle, why, and what to leave
        it at, in one line.
    """
    outputs = [expert.outputs for expert in _load_experts(settings)]
    matching = ("q_temperature", "logits_temperature")
    if settings.experts and not settings.expert_weight and not settings.warm_start:
        raise ValueError("experts without expert_weight or warm_start: nothing is learnt from them")
    settings_lib.refuse_idle(
        settings,
        [
            (
                not outputs,
                "there are no experts",
                ("expert_weight", "expert_fraction", *matching),
            ),
            (not settings.expert_weight, "expert_weight is 0", ("expert_fraction", *matching)),
            ("logits" not in outputs, "no expert holds logits", ("logits_temperature",)),
            (
                not settings.discount,
                "discount is 0",
                ("trace", "double", "average_rate", "target_episodes"),
            ),
            (not settings.double, "double is False", ("average_rate",)),
            (
                settings.algorithm == "dqn",
                "algorithm is 'dqn'",
                (
                    "epochs",
                    "trace",
                    "average_rate",
                    "expert_weight",
                    "expert_fraction",
                    *matching,
                ),
            ),
            (
                settings.algorithm == "pqn",
                "algorithm is 'pqn'",
                ("replay_size", "first_update", "target_episodes", "updates_per_step"),
            ),
            (settings.epsilon_decay, "epsilon_decay is given", ("epsilon_fraction",)),
            (settings.rollout_steps == 1, "rollout_steps is 1", ("trace",)),
            (
                settings.epsilon_start == settings.epsilon_end == 0,
                "epsilon_start and epsilon_end are 0",
                ("hold_exponent",),
            ),
            (
                settings.epsilon_start == settings.epsilon_end,
                "epsilon_start is epsilon_end",
                ("epsilon_fraction", "epsilon_decay"),
            ),
        ],
    )


def make_learn(
    settings: Settings,
    network: networks.Network,
    transform: Any,
    mesh: Mesh,
    experts: Sequence[Expert] = (),
) -> Callable[..., tuple[learner.TrainState, learner.Metrics]]:
    """The jitted learning phase: targets, then every minibatch of every epoch.

    `learn(state, rollout, key)` takes a dictionary of `(G, T, N)` arrays: `actions`, `rewards`,
    `ended`, `truncated`, `valid`, `next_values`, and `frames` `(G, S - 1 + T, N, H, W)` with `ages`
    to match, where S is the stack's depth. With `experts`, one per game, it also holds
    `expert_params`, theirs, and `expert_weight`; what is added to the loss is that times
    `temperature * KL(expert || softmax(Q / temperature))`.
    """
    meshes.check_divisible(mesh, "batch_per_game", settings.batch_per_game)
    num_games = len(settings.games)
    rows_per_game = settings.steps_per_iteration
    minibatches = rows_per_game // settings.batch_per_game
    masks = jnp.asarray(np.stack([task.mask for task in settings.tasks]))
    temperatures = jnp.asarray(
        [
            settings.q_temperature if e.outputs == "q" else settings.logits_temperature
            for e in experts
        ]
    )

    def objective(params: Any, rollout: dict[str, Any], rows: jax.Array):
        game = jnp.broadcast_to(jnp.arange(num_games)[:, None], rows.shape)
        # The first depth - 1 frames only complete the stacks of the first steps.
        depth = rollout["frames"].shape[1] - settings.rollout_steps + 1
        offset = (depth - 1) * settings.num_envs
        observations = dataset.stacks(
            rollout["frames"], rollout["ages"], game, rows + offset, depth
        )
        at = (game.reshape(-1), rows.reshape(-1))
        outputs = networks.forward(
            network, params, observations.reshape(-1, *observations.shape[2:]), at[0]
        )
        action, target, valid = (
            rollout[name].reshape(num_games, -1)[at] for name in ("actions", "targets", "valid")
        )
        error = outputs[jnp.arange(outputs.shape[0]), action] - target
        loss = 0.5 * jnp.mean(jnp.where(valid, jnp.square(error), 0.0))
        if not experts:
            return loss, {"loss": loss}
        labels = jnp.concatenate(
            expert_outputs(experts, rollout["expert_params"], list(observations), range(num_games))
        )
        student = outputs / settings.q_temperature
        divergence = losses.kl(
            student, jax.lax.stop_gradient(labels), masks[at[0]], temperatures[at[0]][:, None]
        )
        distance = jnp.mean(jnp.where(valid, divergence, 0.0))
        weight = rollout["expert_weight"] * settings.q_temperature
        return loss + weight * distance, {"loss": loss, "expert_kl": distance}

    gradient_of = learner.sharded_gradient(objective, mesh)

    def learn(state: learner.TrainState, rollout: dict[str, jax.Array], key: jax.Array):
        def targets(rewards, ended, truncated, values):
            return q_lambda_targets(
                rewards,
                ended,
                truncated,
                values,
                discount=settings.discount,
                trace=settings.trace,
            )

        names = ("rewards", "ended", "truncated", "next_values")
        rollout = rollout | {"targets": jax.vmap(targets)(*(rollout[name] for name in names))}

        def minibatch(state: learner.TrainState, rows: jax.Array):
            gradient, metrics = gradient_of(state.params, rollout, rows)
            return learner.apply_gradient(state, gradient, transform, settings.ema_decay), metrics

        def epoch(state: learner.TrainState, key: jax.Array):
            keys = jax.random.split(key, num_games)
            order = jax.vmap(lambda k: jax.random.permutation(k, rows_per_game))(keys)
            batches = order.reshape(num_games, minibatches, -1).swapaxes(0, 1)
            return jax.lax.scan(minibatch, state, batches)

        state, metrics = jax.lax.scan(epoch, state, jax.random.split(key, settings.epochs))
        metrics = jax.tree.map(jnp.mean, metrics)
        return state, metrics | {"target": rollout["targets"].mean()}

    return jax.jit(learn, donate_argnums=0)


def make_act(
    settings: Settings, network: networks.Network, masks: jax.Array
) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Jitted `act(params, average, observations)` -> greedy actions and their values, `(G, N)`."""

    @jax.jit
    def act(params: Any, average: Any, observations: tuple[jax.Array, ...]):
        shape = (len(observations), observations[0].shape[0])
        rows = np.repeat(np.arange(shape[0]), shape[1])
        stacked = jnp.concatenate(observations)
        outputs = networks.forward(network, params, stacked, rows)
        actions = greedy(outputs, masks[rows])
        judge = networks.forward(network, average, stacked, rows) if settings.double else outputs
        values = jnp.take_along_axis(judge, actions[:, None], axis=1)
        return actions.reshape(shape), values.reshape(shape)

    return act


class _Collector:
    """The training pools and everything that must survive a kill with them."""

    def __init__(
        self,
        settings: Settings,
        chosen: Sequence[Lesson],
        iteration: int,
        log: np.ndarray | None,
    ):
        """Fresh pools with seeds of their own; `log` `(G, T, N)` are actions to replay in each."""
        self._settings = settings
        self.began = iteration
        self.pools = [
            lesson.pool(settings.num_envs, lessons.COLLECT, iteration, max_steps=settings.max_steps)
            for lesson in chosen
        ]
        self._log = [] if log is None else list(log.swapaxes(0, 1))
        for actions in self._log:
            for pool, row in zip(self.pools, actions, strict=True):
                pool.send(row)
            for pool in self.pools:
                pool.receive()

    @property
    def log(self) -> np.ndarray:
        """Actions `(G, T, N)` uint8 since these pools were fresh, T an evaluation's distance."""
        shape = (-1, len(self.pools), self._settings.num_envs)
        return np.asarray(self._log, np.uint8).reshape(shape).swapaxes(0, 1)

    def rollout(
        self,
        act: Callable[[Any], tuple[jax.Array, jax.Array]],
        explorer: _Explorer,
        iteration: int,
        epsilon: float,
        mesh: Mesh,
        timer: metrics.Timer,
    ) -> tuple[dict[str, np.ndarray], list[list[float]]]:
        """Plays one iteration: the arrays `make_learn` takes, and scores of games that ended."""
        settings = self._settings
        first = iteration * settings.rollout_steps
        turn = first
        values: list[jax.Array] = []

        def policy(
            observations: Any, _key: Any, _games: Any, _seats: Any
        ) -> tuple[tuple[np.ndarray, ...], None]:
            with timer.phase("inference"):
                chosen, value = act(observations)
                values.append(value)
                best = np.asarray(chosen)
            return tuple(explorer(best, turn, epsilon)), None

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
                rewards.append(learnt_rewards(settings, new.rewards))
            columns["actions"].append(list(played.actions))
            self._log.append(np.asarray(played.actions, np.uint8))
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
            values.append(act(last)[1])
        arrays = {name: np.stack(rows).swapaxes(0, 1) for name, rows in columns.items()}
        arrays["frames"] = np.stack(frames).swapaxes(0, 1)
        arrays["ages"] = np.minimum(np.stack(ages).swapaxes(0, 1), depth).astype(np.uint8)
        arrays["next_values"] = np.stack([np.asarray(v) for v in values[1:]]).swapaxes(0, 1)
        return arrays, finished


class _Pqn:
    """What is learnt by parallel Q-learning: from the steps just played, then forgotten."""

    def __init__(
        self,
        settings: Settings,
        network: networks.Network,
        transform: Any,
        chosen: Sequence[Lesson],
        experts: Sequence[Expert],
        params: networks.Params,
        mesh: Mesh,
    ):
        del chosen
        self._settings, self._mesh = settings, mesh
        averaged = settings.ema_decay > 0
        self.train = learner.create_state(params, transform, mesh, averaged=averaged)
        self._average = jax.tree.map(jnp.array, self.train.params)
        self._learn = make_learn(settings, network, transform, mesh, experts)
        self._expert_params = jax.device_put(
            [expert.params for expert in experts], meshes.replicated(mesh)
        )
        rate = settings.average_rate
        self._follow = jax.jit(
            functools.partial(jax.tree.map, lambda average, new: average + rate * (new - average))
        )

    @property
    def acting(self) -> tuple[Any, Any]:
        """The parameters that choose, and those that value the choice; see `make_act`."""
        return self.train.params, self._average

    @property
    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"train": self.train, "average": self._average}

    @arrays.setter
    def arrays(self, restored: dict[str, Any]) -> None:
        self.train, self._average = restored["train"], restored["average"]

    def train_of(self, arrays: dict[str, Any]) -> learner.TrainState:
        """The train state of a checkpoint."""
        return arrays["train"]

    def learn(
        self, rollout: dict[str, np.ndarray], iteration: int, key: jax.Array, *, copies: bool
    ) -> learner.Metrics:
        """Learns from one iteration's steps; for `copies` see `_Dqn`."""
        del copies
        on_device = jax.device_put(rollout, meshes.replicated(self._mesh))
        on_device["expert_params"] = self._expert_params
        weight = expert_weight_at(self._settings, iteration)
        on_device["expert_weight"] = jnp.float32(weight)
        key = jax.random.fold_in(key, iteration + 2)
        self.train, numbers = self._learn(self.train, on_device, key)
        if self._settings.double:
            self._average = self._follow(self._average, self.train.params)
        return numbers


class _Dqn:
    """What is learnt by deep Q-learning: from a memory, towards what an earlier network says."""

    def __init__(
        self,
        settings: Settings,
        network: networks.Network,
        transform: Any,
        chosen: Sequence[Lesson],
        experts: Sequence[Expert],
        params: networks.Params,
        mesh: Mesh,
    ):
        del experts
        self._settings, view = settings, chosen[0].view
        self._state = dqn.create_state(params, transform, mesh, averaged=settings.ema_decay > 0)
        self._memory = replay.create(
            mesh,
            num_tasks=len(chosen),
            num_envs=settings.num_envs,
            capacity=settings.replay_size,
            frame_shape=view.shape[1:],
            dtype=chosen[0].task.suite.frame_dtype,
            depth=view.stack,
        )
        self._update = dqn.make_update(
            network,
            transform,
            mesh,
            masks=lessons.masks(chosen),
            batch=settings.batch_per_game,
            minibatches=settings.updates_per_iteration,
            discount=settings.discount,
            double=settings.double,
            ema_decay=settings.ema_decay,
        )

    @property
    def train(self) -> learner.TrainState:
        """Parameters and optimiser."""
        return self._state.train

    @property
    def acting(self) -> tuple[Any, Any]:
        """The parameters that choose, and those that value the choice; see `make_act`."""
        return self._state.train.params, self._state.train.params

    @property
    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"state": self._state, "memory": self._memory}

    @arrays.setter
    def arrays(self, restored: dict[str, Any]) -> None:
        self._state, self._memory = restored["state"], restored["memory"]

    def train_of(self, arrays: dict[str, Any]) -> learner.TrainState:
        """The train state of a checkpoint."""
        return arrays["state"].train

    def learn(
        self, rollout: dict[str, np.ndarray], iteration: int, key: jax.Array, *, copies: bool
    ) -> learner.Metrics:
        """Remembers one iteration's steps, and learns from what is remembered.

        Args:
          copies: the network that judges becomes a copy of the one that has learnt.
        """
        del iteration
        # The first frames only complete the stacks of the first steps.
        earlier = rollout["frames"].shape[1] - self._settings.rollout_steps
        self._memory = replay.append(
            self._memory,
            replay.Piece(
                rollout["frames"][:, earlier:],
                rollout["ages"][:, earlier:],
                rollout["actions"],
                rollout["rewards"],
                rollout["ended"],
                rollout["valid"],
            ),
        )
        counts = self._memory.counts
        numbers: learner.Metrics = {"remembered": counts.sum().astype(jnp.float32)}
        if int(counts.sum()) >= self._settings.first_update:
            self._state, learnt = self._update(self._state, self._memory, key)
            numbers |= learnt
        if copies:
            self._state = dqn.copy_target(self._state)
        return numbers


class Training:
    """One training in `workdir`, restored where a killed one stopped; use as a context manager.

    Attributes:
      iteration: iterations done.
      state: parameters and optimiser.
      timer: phases "collect" (within it "inference"), "learn" and "evaluate".
      best: the best evaluation so far: `step`, `value`, and `scores` by game.
    """

    def __init__(
        self, settings: Settings, workdir: str | os.PathLike[str], mesh: Mesh | None = None
    ):
        self.settings, self.workdir = settings, pathlib.Path(workdir)
        self._mesh = mesh or meshes.create()
        self._experts = _load_experts(settings)
        views = [expert.view for expert in self._experts] or None
        self.lessons = lessons.of_tasks(settings.tasks, settings.seed, views)
        self.names = tuple(lesson.name for lesson in self.lessons)
        self._key = jax.random.key(settings.seed)
        self.network = _network(settings)
        masks = lessons.masks(self.lessons)
        transform = optimiser(settings)
        params = self._initial_params()
        self._learner = (_Dqn if settings.algorithm == "dqn" else _Pqn)(
            settings, self.network, transform, self.lessons, self._experts, params, self._mesh
        )
        self._act = make_act(settings, self.network, masks)
        self._evaluate_act = rollouts.network_actor(
            self.network, masks, epsilon=settings.eval_epsilon
        )
        self._random_policy = rollouts.random_policy(masks)
        self._explorer = _Explorer(settings, [lesson.task.actions for lesson in self.lessons])
        self._recent: list[deque[float]] = [deque(maxlen=100) for _ in self.names]
        self.timer = metrics.Timer()
        self.best: dict[str, Any] = {}
        self.iteration = self._episodes = 0
        self._saved = checkpoints.Checkpoints(self.workdir / "checkpoints")
        began, log = self._restore()
        self._collector = _Collector(settings, self.lessons, began, log)

    def _initial_params(self) -> networks.Params:
        if self.settings.warm_start:
            return _copied(self.settings, self.network, self._experts)
        return networks.init(
            self.network, jax.random.fold_in(self._key, 1), self.lessons[0].view.shape
        )

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
        restored = self._saved.restore(latest, self.arrays)
        self._learner.arrays = restored.state
        self.iteration, self.best = latest, restored.progress["best"]
        self.timer.restore(restored.progress["timer"])
        self._recent = [deque(x, maxlen=100) for x in restored.progress["recent"]]
        self._explorer.remaining = restored.host["remaining"]
        self._explorer.held = restored.host["held"]
        self._episodes = restored.progress.get("episodes", 0)
        return restored.progress["pools_began"], restored.host.get("log")

    def iterate(self) -> dict[str, float]:
        """Plays and learns once; returns what to log."""
        with self.timer.phase("collect"):
            rollout, finished = self._collector.rollout(
                functools.partial(self._act, *self._learner.acting),
                self._explorer,
                self.iteration,
                epsilon_at(self.settings, self.iteration, self._episodes),
                self._mesh,
                self.timer,
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
        row["epsilon"] = epsilon_at(self.settings, self.iteration, self._episodes)
        if self._experts and self.settings.algorithm == "pqn":
            row["expert_weight"] = expert_weight_at(self.settings, self.iteration - 1)
        for name, recent in zip(self.names, self._recent, strict=True):
            if recent:
                row[f"score/{name}"] = float(np.mean(recent))
        return row

    def evaluate(self) -> tuple[dict[str, float], float]:
        """Plays whole games from fixed starts; returns the mean score per game, and their value."""
        with self.timer.phase("evaluate"):
            means, value = self._play(
                self.state.playing, self.settings.eval_episodes, lessons.SELECT
            )
        if not self.best or value >= self.best["value"]:
            self.best = {"step": self.steps, "value": value, "scores": means}
        # Fresh pools from time to time keep the log that a resumed run replays short.
        self._collector = _Collector(self.settings, self.lessons, self.iteration, None)
        return means, value

    def _play(self, params: Any, episodes: int, purpose: int) -> tuple[dict[str, float], float]:
        """Mean scores by game, and what networks are chosen by."""
        settings = self.settings
        # New pools from the same seeds: every network is tried on the same starts.
        scores = evaluation.measure(
            self.lessons,
            functools.partial(self._evaluate_act, params),
            evaluation.Protocol(
                episodes,
                purpose,
                jax.random.fold_in(jax.random.key(settings.seed), purpose),
                evaluation.Opening(
                    self._random_policy,
                    settings.opening,
                    self._random_policy,
                    evaluation.CHOOSING,
                ),
                settings.max_steps,
            ),
            self._mesh,
        )
        means = {name: s.mean for name, s in zip(self.names, scores, strict=True)}
        return means, evaluation.normalised_mean(settings.tasks, scores)

    def decide(self) -> None:
        """Lets the best and the last network play `final_episodes`; the better is the best."""
        if self.best.get("decided"):
            return
        with self.timer.phase("evaluate"):
            played = []
            for step in dict.fromkeys((self.best["step"], self.steps)):
                params = self._restore_params(step // self.settings.steps_per_iteration)
                means, value = self._play(params, self.settings.final_episodes, lessons.DECIDE)
                played.append({"step": step, "value": value, "scores": means, "decided": True})
        self.best = max(played, key=lambda result: result["value"])
        self.save()

    def _restore_params(self, iteration: int) -> networks.Params:
        if iteration == self.iteration:
            return self.state.playing
        return self._learner.train_of(self._saved.restore(iteration, self.arrays).state).playing

    def save(self, value: float | None = None) -> None:
        """Saves everything that a resumed training needs; `value` competes for the best."""
        self._saved.save(
            self.iteration,
            self.arrays,
            host={
                "log": self._collector.log,
                "remaining": self._explorer.remaining,
                "held": self._explorer.held,
            },
            progress={
                "best": self.best,
                "timer": self.timer.state(),
                "recent": [list(x) for x in self._recent],
                "pools_began": self._collector.began,
                "episodes": self._episodes,
            },
            value=value,
        )

    def best_params(self) -> networks.Params:
        """The network of the checkpoint that played best.

        Raises:
          ValueError: nothing has been evaluated yet.
        """
        if not self.best:
            raise ValueError(f"{self.workdir} has evaluated nothing yet; let it run on")
        return self._restore_params(self.best["step"] // self.settings.steps_per_iteration)

    def best_experts(self) -> list[Expert]:
        """The checkpoint that played best, as one expert per game.

        Raises:
          ValueError: nothing has been evaluated yet.
        """
        params = jax.device_get(self.best_params())
        experts = []
        for index, lesson in enumerate(self.lessons):
            name = lesson.name
            network, alone, actions = networks.for_one_game(self.network, params, index)
            experts.append(
                Expert(
                    name=f"{name} {self.settings.algorithm.upper()}",
                    network=network,
                    params=alone,
                    outputs="q",
                    actions=actions,
                    game=name,
                    view=lesson.view,
                    advertised_score=self.best["scores"][name],
                    source=str(self.workdir),
                )
            )
        return experts


def _network(settings: Settings) -> networks.Network:
    return networks.for_tasks(
        networks.create(settings.network, settings.compute_dtype), settings.tasks
    )


def _copied(
    settings: Settings, network: networks.Network, experts: Sequence[Expert]
) -> networks.Params:
    """What a training with `warm_start` begins with; ValueError if that is of another shape."""
    (expert,) = experts
    # Compared without what they compute in, which is no part of a shape.
    same = networks.to_dict(expert.network) == networks.to_dict(network)
    if not same or expert.actions != tuple(range(network.num_outputs)):
        raise ValueError(
            f"warm_start: {expert.name} is not of the shape of network "
            f"{settings.network!r}; choose its own, or begin fresh"
        )
    return expert.params


def train(
    settings: Settings,
    workdir: str | os.PathLike[str],
    *,
    mesh: Mesh | None = None,
    stop_at: int | None = None,
    profile: str | None = None,
) -> dict[str, Any]:
    """Trains one network on `settings.games`; resumes where a killed run stopped.

    At the first NaN or infinity it stops. The same settings are then refused at once; with another
    `learning_rate`, `clip_norm`, `final_rate_fraction`, `expert_weight`, `q_temperature` or
    `logits_temperature` it goes on from its latest checkpoint. Where networks are independent, that
    holds for the one that has diverged and for those that have not begun; the others stay.

    Args:
      workdir: holds `metrics.jsonl`, TensorBoard events, `checkpoints/`, and, replaced whenever an
        evaluation is the best so far, `experts/GAME`, which every other program takes as an expert.
      stop_at: stop after this iteration as a kill would, after saving; for tests.
      profile: directory for a trace of a few iterations.

    Returns:
      The best network's last evaluation: `step` (per game), `value`, and the mean `scores` by game.

    Raises:
      ValueError, OSError: something the user can mend, in one line; another process trains there,
        or `workdir` holds something else.
    """
    workdir, mesh = pathlib.Path(workdir), mesh or meshes.create()
    # What can be refused is, before anything is written.
    meshes.check_divisible(mesh, "batch_per_game", settings.batch_per_game)
    if not (workdir / "config.json").exists():
        refuse_idle(settings)
    settings = settled(settings)
    for task in settings.tasks:
        task.require()
    if settings.warm_start:
        _copied(settings, _network(settings), _load_experts(settings))
    with lock.one_writer(workdir, "config.json"):
        inner = [path for _, path in parts(settings, workdir) if path != workdir]
        divergence.claim(workdir, settings, _KNOBS, parts=inner)
        if settings.independent:
            return _train_each(settings, workdir, mesh, stop_at, profile)
        with Training(settings, workdir, mesh) as training:
            return _train(training, workdir, stop_at, profile)


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
    standing = settings_lib.read_json(path, "begin again in another --workdir")
    begun = settings_lib.build(Settings, standing, str(path))
    return dataclasses.replace(settings, **{name: getattr(begun, name) for name in _KNOBS})


def _train(
    training: Training, workdir: pathlib.Path, stop_at: int | None, profile: str | None
) -> dict[str, Any]:
    """The iterations that are still to do."""
    settings, per_iteration = training.settings, training.settings.steps_per_iteration
    resume_step = training.steps if training.iteration else -1
    if training.best:  # a kill may have come before the best was written down
        _save_experts(training, workdir)
    with (
        contextlib.ExitStack() as stack,
        metrics.Writer(workdir, resume_step) as writer,
        metrics.progress(
            f"train {', '.join(training.names)}",
            settings.iterations * per_iteration,
            "steps",
            done=training.steps,
        ) as advance,
    ):
        last_saved = time.monotonic()
        trace = metrics.Profile(profile)
        stack.callback(trace.close)
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
                standing = training.best.get("step")
                scores, value = training.evaluate()
                # Before the checkpoint: a resumed training keeps the rows up to it.
                writer.write(steps, {f"eval/{name}": x for name, x in scores.items()})
                training.save(value)
                if training.best["step"] != standing:
                    _save_experts(training, workdir)
                last_saved = time.monotonic()
            elif time.monotonic() - last_saved > 120 or iteration == stop_at:
                training.save()
                last_saved = time.monotonic()
            if iteration == stop_at:
                return training.best
    training.decide()
    _save_experts(training, workdir)
    return training.best


def _save_experts(training: Training, workdir: pathlib.Path) -> None:
    for expert in training.best_experts():
        expert.save(workdir / "experts" / str(expert.game), replace=True)


def _load_experts(settings: Settings) -> list[Expert]:
    """The experts in the order of the games.

    Raises:
      FileNotFoundError, ValueError: one cannot be read or played, or they play other games.
    """
    if not settings.experts:
        return []
    experts = load_experts(settings.experts)
    by_game = {str(expert.game): expert for expert in experts}
    names = [task.name for task in settings.tasks]
    if sorted(by_game) != sorted(names):
        raise ValueError(
            f"experts play {', '.join(by_game)}, the games are {', '.join(names)}; name one each"
        )
    return [by_game[name] for name in names]
