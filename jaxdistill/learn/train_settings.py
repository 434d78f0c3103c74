"""How experts are trained from rewards: what may be set, and what falls over a training."""

from __future__ import annotations

import bisect
import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Annotated, Protocol

import numpy as np
import optax
from jax.sharding import Mesh

from jaxdistill import meshes, networks, tasks
from jaxdistill import settings as settings_lib
from jaxdistill.experts import hub
from jaxdistill.experts.expert import Expert, Teacher
from jaxdistill.experts.sources import ExpertSource, load_experts
from jaxdistill.learn import learner
from jaxdistill.settings import (
    Count,
    OneOf,
    Positive,
    Range,
    Share,
    Steps,
    Temperature,
    Text,
    Weight,
)
from jaxdistill.tasks.atari import USUAL, Rules
from jaxdistill.tasks.task import Task


@dataclasses.dataclass(frozen=True)
class Settings:
    """How experts are trained; a *step* is one decision in one environment of one game.

    Attributes:
      games: names of the tasks, of one suite, learnt by one network.
      independent: each of `games` is learnt by a network of its own, one after another.
      algorithm: "pqn", parallel Q-learning; "dqn", deep Q-learning from a replay memory; or "ppo",
        proximal policy optimisation, for a network with a critic.
      student: with "ppo", what the training goes on from, with its network and all its heads: the
        workdir of a distillation, or the directory of an exported student. None begins fresh.
      network: a key of `networks.NETWORKS`; with "pqn" it should have LayerNorm.
      core: with "pqn", a recurrent cell behind the network's shared layers, "gru" or "lstm". It
        carries a state from step to step of an episode, and learns from whole windows of
        `rollout_steps`. "none" carries nothing.
      core_width: units of the recurrent cell that `core` names.
      compute_dtype: what the network computes in, "float32" or, on accelerators, "bfloat16";
        parameters, outputs and losses are float32 all the same.
      seed: of everything random.
      rules: how games of Atari are played; a student goes on by its own where these are the usual
        ones, see `run.training.train`.
      num_envs: environments per game.
      rollout_steps: steps each environment plays between two learning phases.
      total_steps: steps per game in the whole training.
      epochs: with "pqn" and "ppo", times each step is learnt from.
      updates_per_step: with "dqn", minibatches per environment step; one iteration must come to a
        whole number of them.
      batch_per_game: rows of each game in one minibatch; with "dqn", all rows of one minibatch,
        drawn from the transitions of all games together.
      replay_size: with "dqn", transitions that the memory keeps, of all games together.
      first_update: with "dqn", the first update is made when the memory holds this many transitions
        to learn from.
      target_episodes: with "dqn", the target network is updated whenever this many episodes have
        ended.
      optimiser: "adamw", "adam_l2" or "radam"; without weight decay here.
      learning_rate: the learning rate at the start; it falls linearly over the training.
      final_rate_fraction: the share of `learning_rate` that is left at the end of the training.
      clip_norm: gradients of a larger global norm are scaled down to this one.
      ema_decay: the network that is evaluated and saved is the exponential moving average of the
        parameters with this decay per update; 0 takes the parameters as they are.
      reward_limit: rewards are clipped to between minus this and this; 0 leaves them as they are.
        None is the suite's: 1 in Atari, 0 elsewhere.
      reward_scale: rewards are multiplied by this, after clipping.
      discount: gamma, how much a reward counts for each step that it comes later.
      trace: lambda, of the Q(lambda) targets of "pqn" and of the generalised advantages of "ppo".
      policy_clip: with "ppo", how far the ratio of new to old probabilities may leave 1.
      value_weight: with "ppo", how much the critic's loss counts.
      entropy_weight: with "ppo", how much of the policy's entropy, in nats, is taken off the loss.
      critic_iterations: with "ppo", the critic alone learns for this many iterations first: a
        student begins without one, and an untrained critic would spoil its policy.
      angle_deviation: with "ppo", the standard deviation of angles at the beginning, in degrees; a
        copy begins with its expert's own where that is known.
      epsilon_start: chance of exploring at the start.
      epsilon_end: chance of exploring after it has fallen.
      epsilon_fraction: the fraction of the training over which the chance of exploring falls
        linearly from `epsilon_start` to `epsilon_end`.
      epsilon_decay: the factor by which the chance of exploring falls with every episode that ends,
        down to `epsilon_end`; 0 lets it fall linearly instead.
      hold_exponent: with this above 1, an exploring action is held for a Zipf-distributed number of
        steps, 10,000 at most (epsilon-z-greedy; Dabney et al., ICLR 2021); 0 explores for one step.
        A third of epsilon is then the chance of *beginning* to hold one, so far more steps explore
        than epsilon says. At 1.6 one is held for 72 steps in the mean, and in the long run 97% of
        all steps explore at epsilon 1, 71% at 0.1 and 19% at 0.01.
      double: double Q-learning: the network chooses the next action, and another one values it:
        with "pqn" a slow average of its parameters, with "dqn" the target network.
      average_rate: with "pqn" and `double`, how far the averaged parameters move towards the
        current ones in an iteration.
      eval_every: steps per game between two evaluations.
      eval_episodes: episodes per task in one evaluation.
      eval_epsilon: chance of a random action in an evaluation; None is the suite's: 0.05 in Atari,
        0 elsewhere.
      final_episodes: episodes per task that the best and the last network play at the end, to
        decide between them: with few, the best of several evaluations is partly the luckiest. The
        better one plays as many again, from other starts, to be reported; see `run.training`.
      max_steps: step limit of one episode; None is each task's own.
      opening_steps: random steps, at least, before the network takes over an episode that is
        evaluated; see `protocols.Opening`. None is the suite's number.
      experts: one per game, to learn from beside the rewards; none by default.
      expert_weight: how much the difference from the experts counts in the loss at the start.
      expert_fraction: the fraction of the training over which `expert_weight` falls linearly to 0.
      q_temperature: temperature of the softmax over an expert's outputs where they are Q-values. A
        student's Q-values are always divided by it.
      logits_temperature: temperature of the softmax over an expert's outputs where they are logits.
      warm_start: begin as a copy of the only expert, to train it further. With "ppo" its Q-values
        become logits at `q_temperature`; the other algorithms take an expert of Q-values alone.
    """

    games: tuple[str, ...]
    independent: bool = False
    algorithm: Annotated[str, OneOf(("pqn", "dqn", "ppo"))] = "pqn"
    student: Text | None = None
    network: Annotated[str, OneOf(networks.NETWORKS)] = "dueling_small_layer_norm"
    core: Annotated[str, OneOf(("none", *networks.CELLS))] = "none"
    core_width: Count = 128
    compute_dtype: Annotated[str, OneOf(networks.COMPUTE_DTYPES)] = "float32"
    seed: Steps = 0
    rules: Rules = USUAL
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
    reward_limit: Weight | None = None
    reward_scale: Positive = 1.0
    discount: Share = 0.99
    trace: Share = 0.65
    policy_clip: Positive = 0.2
    value_weight: Weight = 0.5
    entropy_weight: Weight = 0.0
    critic_iterations: Steps = 0
    angle_deviation: Positive = 20.0
    epsilon_start: Share = 1.0
    epsilon_end: Share = 0.01
    epsilon_fraction: Share = 0.1
    epsilon_decay: Annotated[float, Range(0, 1, below=True)] = 0.0
    hold_exponent: Annotated[float, Range(1, above=True, besides=0)] = 0.0
    double: bool = False
    average_rate: Annotated[float, Range(0, 1, above=True)] = 0.1
    eval_every: Count = 250_000
    eval_episodes: Count = 16
    eval_epsilon: Share | None = None
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
        if self.student and not hub.is_address(self.student):
            object.__setattr__(self, "student", str(pathlib.PurePath(self.student)))
        if len({task.suite.name for task in chosen}) > 1:
            raise ValueError(
                f"games {', '.join(names)} are of several suites ("
                f"{', '.join(dict.fromkeys(task.suite.name for task in chosen))}); one network "
                f"learns tasks of one"
            )
        self._check_algorithm(chosen)
        if self.algorithm != "dqn" and rows % self.batch_per_game:
            raise ValueError(
                f"batch_per_game {self.batch_per_game} does not divide the {rows} steps of one "
                f"iteration (num_envs {self.num_envs} x rollout_steps {self.rollout_steps})"
            )
        if self.core != "none" and self.batch_per_game % self.rollout_steps:
            raise ValueError(
                f"batch_per_game is {self.batch_per_game}, expected a multiple of rollout_steps "
                f"{self.rollout_steps}: with core {self.core!r} a minibatch is of whole windows"
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
        if self.algorithm == "ppo" and self.critic_iterations >= self.iterations:
            raise ValueError(
                f"critic_iterations is {self.critic_iterations}, expected less than the "
                f"{self.iterations} iterations of the training: the policy would never learn"
            )
        if self.algorithm == "ppo" and self.batch_per_game == 1:
            raise ValueError(
                "batch_per_game is 1, expected at least 2: ppo normalises the advantages of a "
                "minibatch, and of one nothing is left to learn from"
            )
        if self.algorithm == "dqn":
            self._check_updates()
            self._check_memory()
        if self.algorithm == "dqn" and self.experts and not self.warm_start:
            raise ValueError("dqn learns from rewards alone; choose pqn, or warm_start")
        if self.student and (self.algorithm != "ppo" or self.experts or self.independent):
            raise ValueError(
                "student goes on by ppo, as one network, and its experts are its run's: set "
                "algorithm to 'ppo', and leave experts and independent out"
            )
        if self.independent and self.experts:
            raise ValueError("independent networks learn without experts; train them one by one")
        if self.warm_start and len(self.experts) != 1:
            raise ValueError(f"warm_start copies one expert, there are {len(self.experts)}")
        if self.updates > settings_lib.LARGEST:
            raise ValueError(
                f"total_steps {self.total_steps} makes {self.updates} updates, expected at most "
                f"{settings_lib.LARGEST}; choose fewer steps, or fewer updates of each"
            )

    def _check_algorithm(self, chosen: Sequence[Task]) -> None:
        """The algorithm and the network must suit what the tasks show and how they are played."""
        suite = chosen[0].suite
        if suite.kinds and self.algorithm != "ppo":
            raise ValueError(
                f"algorithm is {self.algorithm!r}, and {suite.name} is played with keys and "
                f"angles, which have no Q-values; expected 'ppo'"
            )
        if self.core != "none" and self.algorithm != "pqn":
            raise ValueError(
                f"core is {self.core!r}, and {self.algorithm} learns from single states; set core "
                f"to 'none', or algorithm to 'pqn'"
            )
        if self.student:
            return  # whose network it is, and who sees all in one way
        if len({task.view for task in chosen}) > 1 and not self.independent:
            raise ValueError(
                f"games {', '.join(task.name for task in chosen)} are seen in different ways; set "
                f"independent to True, or name one"
            )
        try:
            network = network_of(self)
        except ValueError as error:
            if self.core == "none":
                raise
            raise ValueError(
                f"network {self.network!r} with core {self.core!r}: {error}"
            ) from error
        if self.algorithm == "ppo" and network.head == "linear":
            known = [n for n, x in networks.NETWORKS.items() if x.head != "linear"]
            raise ValueError(
                f"network {self.network!r} has no critic, which ppo needs; choose one of "
                f"{', '.join(known)}"
            )

    def _check_updates(self) -> None:
        """Refuses minibatches that are not whole in an iteration."""
        steps = self.rollout_steps * self._together
        updates = self.updates_per_step * steps
        if updates < 1 or not math.isclose(updates, round(updates), rel_tol=1e-9):
            near = sorted({max(1, math.floor(updates)), math.ceil(updates)})
            raise ValueError(
                f"updates_per_step {self.updates_per_step:g} makes {updates:g} updates of the "
                f"{steps} steps of one iteration, expected a whole number; "
                f"{' or '.join(f'{n / steps!r} makes {n}' for n in near)}"
            )

    def _check_memory(self) -> None:
        """Refuses a memory too small for an iteration, or from which nothing would be learnt."""
        envs = self._together
        depth = self.tasks[0].suite.view.stack
        least = (max(self.rollout_steps, depth) + 1) * envs
        if self.replay_size < least:
            raise ValueError(
                f"replay_size is {self.replay_size}, expected at least {least}: "
                f"{least // envs} steps of {envs} environments"
            )
        most = self._drawable(self.iterations)
        if self.first_update > most:
            raise ValueError(
                f"first_update is {self.first_update}, expected at most {most}: no more "
                f"transitions are ever there to learn from (replay_size {self.replay_size}, "
                f"total_steps {self.total_steps})"
            )

    def _drawable(self, iterations: int) -> int:
        """The most transitions that there may be to learn from after so many iterations.

        So many there are where games last as long as they may.
        """
        # Of each environment what followed the newest step is not known yet, and after a game, at
        # its step limit or before, one step begins the next.
        depth = self.tasks[0].suite.view.stack
        kept = self.replay_size // self._together - depth
        steps = min(kept, iterations * self.rollout_steps - 1)
        limits = [self.max_steps or task.max_steps for task in self.tasks]
        drawn = [self.num_envs * (steps - steps // (limit + 1)) for limit in limits]
        return min(drawn) if self.independent else sum(drawn)

    @property
    def tasks(self) -> list[Task]:
        """What the games are."""
        return [tasks.under(tasks.get(name), self.rules) for name in self.games]

    @property
    def _together(self) -> int:
        """Environments of all games that one network learns."""
        return self.num_envs * (1 if self.independent else len(self.games))

    @property
    def opening(self) -> int:
        """Random steps before a network takes over a game that is evaluated."""
        suite = self.tasks[0].suite
        return suite.opening_steps if self.opening_steps is None else self.opening_steps

    @property
    def reward_bound(self) -> float:
        """What rewards are clipped to on both sides; 0 leaves them as they are."""
        if self.reward_limit is None:
            return self.tasks[0].suite.reward_limit
        return self.reward_limit

    @property
    def measured_epsilon(self) -> float:
        """Chance of exploring in games that are evaluated."""
        if self.eval_epsilon is None:
            return self.tasks[0].suite.epsilon
        return self.eval_epsilon

    @property
    def steps_per_iteration(self) -> int:
        """Steps per game in one iteration."""
        return self.num_envs * self.rollout_steps

    @property
    def updates_per_iteration(self) -> int:
        """Optimiser steps in one iteration."""
        if self.algorithm == "dqn":
            return round(self.updates_per_step * self.rollout_steps * self._together)
        return self.epochs * (self.steps_per_iteration // self.batch_per_game)

    @property
    def updates(self) -> int:
        """Optimiser steps in the whole training; with "dqn" at the most."""
        waits = 0
        if self.algorithm == "dqn":  # for its memory
            later = range(1, self.iterations)
            waits = bisect.bisect_left(later, self.first_update, key=self._drawable)
        return (self.iterations - waits) * self.updates_per_iteration

    @property
    def iterations(self) -> int:
        """Iterations in the whole training."""
        return self.total_steps // self.steps_per_iteration


def resolve_defaults(settings: Settings) -> Settings:
    """`settings` with the numbers that None stands for, as far as all tasks have the same."""
    limits = {task.max_steps for task in settings.tasks}
    same = settings.max_steps is None and len(limits) == 1
    limit = limits.pop() if same else settings.max_steps
    return dataclasses.replace(
        settings,
        max_steps=limit,
        opening_steps=settings.opening,
        reward_limit=settings.reward_bound,
        eval_epsilon=settings.measured_epsilon,
    )


def network_of(settings: Settings) -> networks.Network:
    """The network of all tasks of a training."""
    core = None if settings.core == "none" else networks.Core(settings.core, settings.core_width)
    network = networks.create(settings.network, settings.compute_dtype, core=core)
    return networks.for_tasks(network, settings.tasks)


def check_divisible(settings: Settings, mesh: Mesh) -> None:
    """Raises ValueError unless a minibatch, or what it holds whole, splits over the devices."""
    meshes.check_divisible(mesh, "batch_per_game", settings.batch_per_game)
    if settings.core != "none":
        windows = settings.batch_per_game // settings.rollout_steps
        meshes.check_divisible(mesh, "batch_per_game / rollout_steps", windows)


def optimiser(settings: Settings) -> optax.GradientTransformation:
    """The optimiser of a training, with its schedule over all updates that are made."""
    return learner.optimiser(
        settings.optimiser,
        learning_rate=settings.learning_rate,
        updates=settings.updates,
        final_fraction=settings.final_rate_fraction,
        schedule="linear",
        clip_norm=settings.clip_norm,
    )


def learnt_rewards(settings: Settings, rewards: np.ndarray) -> np.ndarray:
    """Rewards as they are learnt from: clipped and scaled."""
    limit = settings.reward_bound
    clipped = np.clip(rewards, -limit, limit) if limit else rewards
    return settings.reward_scale * clipped


def expert_weight_at(settings: Settings, iteration: int) -> float:
    """How much the experts count in one iteration."""
    left = 1.0 - iteration / max(1.0, settings.expert_fraction * settings.iterations)
    taught = settings.experts or settings.student
    return settings.expert_weight * max(0.0, left) if taught else 0.0


class _Temperatures(Protocol):
    """Settings of the softmax temperatures of experts, of a training or of a distillation."""

    @property
    def q_temperature(self) -> float: ...

    @property
    def logits_temperature(self) -> float: ...


def temperature_of(expert: Teacher, settings: _Temperatures) -> float:
    """The softmax temperature that an expert is met at: that of Q-values or that of logits."""
    return settings.q_temperature if expert.outputs == "q" else settings.logits_temperature


def experts_of(settings: Settings) -> list[Expert]:
    """The experts in the order of the games.

    Raises:
      FileNotFoundError, ValueError: one cannot be read or played, or they play other games or see
        other shapes.
    """
    if not settings.experts:
        return []
    experts = load_experts(settings.experts)
    for expert in experts:
        if not expert.view.native:
            raise ValueError(
                f"{expert.name}: a training shows what EnvPool makes alone, and it sees "
                f"{expert.view}; distil it, and train the student further"
            )
    by_game = {str(expert.game): expert for expert in experts}
    names = [task.name for task in settings.tasks]
    if sorted(by_game) != sorted(names):
        raise ValueError(
            f"experts play {', '.join(by_game)}, the games are {', '.join(names)}; name one each"
        )
    shapes = {expert.view.shape for expert in experts}
    if len(shapes) > 1:
        seen = ", ".join(f"{expert.name} sees {expert.view.shape}" for expert in experts)
        raise ValueError(
            f"{seen}, and one network learns from what all of them see; name experts that see one "
            f"shape, or train further one by one"
        )
    return [by_game[name] for name in names]
