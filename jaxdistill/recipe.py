"""The settings of a distillation run: which experts, which states, how to learn and to measure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import optax

from jaxdistill import envs, learner, losses, networks
from jaxdistill.experts.sources import ExpertSource


@dataclasses.dataclass(frozen=True)
class Collect:
    """Which states the student is taught on.

    Attributes:
      num_envs: environments per game (N).
      initial_steps: steps per game the experts play before the first update.
      steps_per_round: steps per game played before each later round; 0 keeps to the first ones.
      window_steps: the most recent steps per game that minibatches are drawn from.
      expert_share_rounds, final_expert_share: over so many rounds the share of environments the
        experts drive falls linearly from 1 to this, where it stays (DAgger; Ross et al. 2011).
      change_drivers: every round draws anew which environments the experts drive: in each of them
        expert and student take turns, and the expert goes on from where the student has got to.
        False leaves them to the same ones.
      expert_epsilon, student_epsilon: chance of a uniformly random valid action.
      dataset: a dataset made by `launch/collect.py` to learn from instead of collecting first.
      follow: the experts are still in training (`launch/train_expert.py` replaces its
        `experts/GAME` whenever one plays better): they are read again before every evaluation
        (online distillation; Rusu et al. 2015, section 5). Such a run resumes too, but with the
        experts as they are by then.
    """

    num_envs: int = 32
    initial_steps: int = 8192
    steps_per_round: int = 1024
    window_steps: int = 81_920
    expert_share_rounds: int = 100
    final_expert_share: float = 0.25
    change_drivers: bool = False
    expert_epsilon: float = 0.05
    student_epsilon: float = 0.05
    dataset: str | None = None
    follow: bool = False


@dataclasses.dataclass(frozen=True)
class Learn:
    """How the student learns.

    Attributes:
      rounds: how often steps are collected and learnt from.
      updates_per_round: minibatches in one round.
      batch_per_game: rows of each game in one minibatch.
      loss: a key of `losses.LOSSES`, or "auto": `q_values` if all experts have Q-values, begun with
        `q_kl` for a fifth of the rounds; `kl` if one has logits.
      first_loss, first_rounds: over so many rounds the loss turns linearly from this one into
        `loss`; None is that loss from the start. A game the student begins with (`warm_start`) has
        `loss` all along: there is nothing to lead it to.
      q_temperature, logits_temperature: the softmax temperature of experts with either.
      entropy_weight: how much of the student's entropy is taken off its loss: above 0 it keeps
        trying what its expert would not, which matters where the student drives.
      warm_start: name of the game whose expert the student begins as a copy of, or a file of any
        expert of its shape; None begins fresh.
      ema_decay: the student that plays is the exponential moving average of the parameters with
        this decay per update (Polyak averaging); 0 plays with the parameters as they are.
      optimiser, learning_rate, final_rate_fraction, weight_decay, clip_norm: see
        `learner.optimiser`; the schedule is a cosine.
    """

    rounds: int = 200
    updates_per_round: int = 32
    batch_per_game: int = 128
    loss: str = "auto"
    first_loss: str | None = None
    first_rounds: int = 0
    q_temperature: float = 0.01
    logits_temperature: float = 1.0
    entropy_weight: float = 0.0
    warm_start: str | None = None
    ema_decay: float = 0.998
    optimiser: str = "adamw"
    learning_rate: float = 1e-3
    final_rate_fraction: float = 0.1
    weight_decay: float = 1e-4
    clip_norm: float = 10.0


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """How play is measured; episodes are whole games.

    Attributes:
      every_rounds: rounds between two evaluations of the student that the best is chosen by.
      select_episodes: episodes per game in each of those.
      report_episodes: episodes per game in the closing table, from seeds of their own.
      epsilon: chance of a uniformly random valid action, for experts and student alike.
      sample_logits: experts with logits sample their policy here too; False takes the likeliest.
      max_steps: step limit of one game (27,000 is ALE's half hour).
      opening_steps, opening_by: steps that "random" or the "expert" plays first, before the policy
        that is measured takes over; what they score does not count.
      lowest_expert_share: the run stops if an expert scores less than this share of its advertised
        score (above random): then what it sees or does is wrong, and distilling it is futile.
      baselines: `baselines.json` of another run of the same experts, seed and evaluation, whose
        measured experts and random play this run takes over.
    """

    every_rounds: int = 50
    select_episodes: int = 32
    report_episodes: int = 100
    epsilon: float = 0.05
    sample_logits: bool = False
    max_steps: int = envs.MAX_STEPS
    opening_steps: int = 0
    opening_by: str = "random"
    lowest_expert_share: float = 0.25
    baselines: str | None = None


@dataclasses.dataclass(frozen=True)
class Settings:
    """One distillation run.

    Attributes:
      experts: one per game; their order is the order of the games.
      network: a key of `networks.NETWORKS`, the student's.
      compute_dtype: what the student computes in, "float32" or, on accelerators, "bfloat16";
        parameters, outputs and losses are float32 all the same.
      seed: of everything random.
    """

    experts: tuple[ExpertSource, ...]
    network: str = "dueling"
    compute_dtype: str = "float32"
    seed: int = 0
    collect: Collect = Collect()
    learn: Learn = Learn()
    evaluate: Evaluate = Evaluate()

    def __post_init__(self) -> None:
        if not self.experts:
            raise ValueError("experts is empty; name at least one")
        networks.create(self.network, self.compute_dtype)
        c, lrn, e = self.collect, self.learn, self.evaluate
        named = ", ".join(losses.LOSSES)
        if lrn.loss not in (*losses.LOSSES, "auto"):
            raise ValueError(f"learn.loss {lrn.loss!r} is not one of {named}, nor auto")
        if lrn.first_loss and lrn.first_loss not in losses.LOSSES:
            raise ValueError(f"learn.first_loss {lrn.first_loss!r} is not one of {named}")
        if bool(lrn.first_loss) != bool(lrn.first_rounds) or lrn.first_rounds < 0:
            raise ValueError(
                f"learn.first_loss is {lrn.first_loss!r} and learn.first_rounds "
                f"{lrn.first_rounds}: give both, a loss and rounds above 0, or neither"
            )
        if lrn.first_loss and lrn.loss == "auto":
            raise ValueError(
                f"learn.loss auto chooses what to begin with too; with learn.first_loss "
                f"{lrn.first_loss!r} name the loss"
            )
        for name, value in (
            ("collect.num_envs", c.num_envs),
            ("collect.window_steps", c.window_steps),
            ("learn.rounds", lrn.rounds),
            ("learn.updates_per_round", lrn.updates_per_round),
            ("learn.batch_per_game", lrn.batch_per_game),
            ("evaluate.every_rounds", e.every_rounds),
            ("evaluate.select_episodes", e.select_episodes),
            ("evaluate.report_episodes", e.report_episodes),
        ):
            if value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        for name, value in (
            ("collect.initial_steps", c.initial_steps),
            ("collect.steps_per_round", c.steps_per_round),
            ("collect.window_steps", c.window_steps),
        ):
            if value % c.num_envs:
                raise ValueError(
                    f"{name} {value} is not divisible by collect.num_envs {c.num_envs}"
                )
        if not 0 <= c.final_expert_share <= 1:
            raise ValueError(
                f"collect.final_expert_share is {c.final_expert_share}, expected 0 to 1"
            )
        if not c.initial_steps and not c.steps_per_round and not c.dataset:
            raise ValueError(
                "collect.initial_steps and collect.steps_per_round are both 0: nothing to learn"
            )
        if not 0 <= lrn.ema_decay < 1:
            raise ValueError(f"learn.ema_decay is {lrn.ema_decay}, expected 0 or more, less than 1")
        if e.opening_by not in ("random", "expert"):
            raise ValueError(f"evaluate.opening_by {e.opening_by!r} is not one of random, expert")
        if not 0 <= e.opening_steps < e.max_steps:
            raise ValueError(
                f"evaluate.opening_steps is {e.opening_steps}, expected 0 or more, and less than "
                f"evaluate.max_steps {e.max_steps}"
            )
        optimiser(self)  # refuses an unknown one
        if c.follow and not c.steps_per_round:
            raise ValueError("collect.follow needs new steps: set collect.steps_per_round above 0")
        if c.dataset and c.steps_per_round:
            raise ValueError(
                "collect.dataset is fixed: set collect.steps_per_round to 0, or collect afresh"
            )


def settled(settings: Settings, outputs: Sequence[str]) -> Settings:
    """`settings` with the loss that "auto" stands for, given each expert's `Expert.outputs`.

    Q-values are begun with choices alone, which the size of some games' values would drown.
    """
    lrn = settings.learn
    if lrn.loss != "auto":
        return settings
    if "logits" in outputs:
        learn = dataclasses.replace(lrn, loss="kl")
    else:
        first = max(1, lrn.rounds // 5)
        learn = dataclasses.replace(lrn, loss="q_values", first_loss="q_kl", first_rounds=first)
    return dataclasses.replace(settings, learn=learn)


def optimiser(settings: Settings) -> optax.GradientTransformation:
    """The optimiser of a run, with its schedule over all updates."""
    lrn = settings.learn
    return learner.optimiser(
        lrn.optimiser,
        learning_rate=lrn.learning_rate,
        updates=lrn.rounds * lrn.updates_per_round,
        final_fraction=lrn.final_rate_fraction,
        clip_norm=lrn.clip_norm,
        weight_decay=lrn.weight_decay,
    )
