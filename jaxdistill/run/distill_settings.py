"""The settings of a distillation run: which experts, which states, how to learn and to measure."""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import jax
import optax
from jax.sharding import Mesh

from jaxdistill import networks, shipped, tasks
from jaxdistill import settings as settings_lib
from jaxdistill.experts import hub
from jaxdistill.experts.expert import Teacher, Team
from jaxdistill.experts.sources import ExpertSource, load_experts
from jaxdistill.learn import learner, losses
from jaxdistill.play import lessons, measuring
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
from jaxdistill.tasks.atari import USUAL, Rules, presses_fire
from jaxdistill.tasks.task import Suite, Task
from jaxdistill.tasks.views import AnyView, View

WARM_LAYERS = ("all", "convolutions")
# As they are now, with those that were added since.
_OWN_LOSS = f"a loss of your own: {tasks.OF_ONE_S_OWN}"
_LOSSES: collections.ChainMap[str, Any] = collections.ChainMap(
    dict.fromkeys(losses.FACTORED), losses.LOSSES
)


class Shares:
    """The texts that say how many times as many rows games have, as `breakout=2,pong=3`."""

    def __contains__(self, text: str) -> bool:
        return bool(_parse_shares(text))

    def __str__(self) -> str:
        return "GAME=TIMES of one game or several, 2 to 99 times, as breakout=2,pong=3"


_SHARE = re.compile(r"([^=,\s]+)=([2-9]|[1-9][0-9])")


def _parse_shares(text: str) -> dict[str, int]:
    """Each game's times; empty if it is no such text."""
    parts = [_SHARE.fullmatch(part) for part in text.split(",")]
    said = {part[1]: int(part[2]) for part in parts if part}
    return said if len(said) == len(parts) else {}


@dataclasses.dataclass(frozen=True)
class Collect:
    """Which states the student is taught on.

    Attributes:
      num_envs: environments per game (N).
      initial_steps: steps per game the experts play before the first update.
      steps_per_round: steps per game played before each later round; 0 keeps to the first ones.
      window_steps: the most recent steps per game that minibatches are drawn from.
      expert_share_rounds, final_expert_share: the share of environments that the experts drive
        falls linearly from 1 to final_expert_share over the first expert_share_rounds rounds, and
        stays there (DAgger; Ross et al. 2011). With 0 rounds it is final_expert_share at once.
        Above 0 it is one environment at least.
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

    num_envs: Count = 32
    initial_steps: Steps = 8192
    steps_per_round: Steps = 1024
    window_steps: Count = 81_920
    expert_share_rounds: Steps = 100
    final_expert_share: Share = 0.25
    change_drivers: bool = False
    expert_epsilon: Share = 0.05
    student_epsilon: Share = 0.05
    dataset: Text | None = None
    follow: bool = False

    def __post_init__(self) -> None:
        settings_lib.check(self, "collect.")


@dataclasses.dataclass(frozen=True)
class Learn:
    """How the student learns.

    Attributes:
      rounds: how often steps are collected and learnt from.
      updates_per_round: minibatches in one round.
      batch_per_game: rows of each game in one minibatch.
      shares: games with more rows: `breakout=2` gives Breakout twice `batch_per_game`, and twice
        the weight in the loss; `breakout=2,pong=3` names several. None gives all games the same.
      loss: one of `losses.of` the suite's outputs, or "auto": `q_values` if all experts have
        Q-values, begun with `q_kl` for a fifth of the rounds; `kl` if one has logits.
      first_loss, first_rounds: the loss turns linearly from first_loss into `loss` over the first
        first_rounds rounds; without them it is `loss` from the start. The game whose expert the
        whole student begins as a copy of (`warm_start`) has `loss` all along: there is nothing to
        lead it to.
      q_temperature, logits_temperature: the softmax temperature of experts that hold Q-values, and
        of those that hold logits.
      entropy_weight: how much of the student's entropy is taken off its loss: above 0 its outputs
        are less decided, for who samples them later or trains it further. What it plays in the run
        it chooses greedily all the same: `collect.student_epsilon` makes it try more, not this.
      warm_start: name of the game whose expert the student begins as a copy of, a file of any
        expert of its shape, or the directory of a run or of merged weights (`launch/distill.py`,
        `launch/merge_weights.py`), whose student it goes on from, or of a student that was
        exported; or one of these on the hub. None begins fresh.
      warm_layers: what the student copies of `warm_start`: "all", or the "convolutions", behind
        which it begins fresh: it has less to unlearn, and the other network may be of another shape
        there. The student's convolutions may have more features, which begin fresh too: room for
        what other games need to be seen. Of several games or files, with commas between them, the
        convolutions stand side by side.
      target_retention: learning ends once the student keeps this much of every game in the games
        it is chosen by, 1 being all; None learns all rounds. Of experts that are followed it is
        of what they play by then.
      ema_decay: the student that plays is the exponential moving average of the parameters with
        this decay per update (Polyak averaging); 0 plays with the parameters as they are. It
        forgets its beginning faster, so a decay above 0.998 shows after 4,500 updates only.
      optimiser: "adamw", whose weight decay is apart from the gradient; "adam_l2", where it is
        added to the gradient, as in PyTorch's Adam; or "radam".
      learning_rate, final_rate_fraction: the learning rate falls along a cosine from learning_rate
        at the start to final_rate_fraction of it.
      weight_decay: strength of the optimiser's weight decay.
      clip_norm: gradients of a larger norm are shortened to this norm.
      resample_unseen: some numbers that the student sees are unknown to an expert: one that aims
        does not see its own speed. In that expert's rows they are replaced by another task's, so
        that the student cannot recognise the task by them.
      together: what is seen where all experts play together is learnt from too; see
        `Settings.together`.
    """

    rounds: Count = 200
    updates_per_round: Count = 32
    batch_per_game: Count = 128
    shares: Annotated[str, Shares()] | None = None
    loss: Annotated[str, OneOf(_LOSSES.new_child({"auto": None}), _OWN_LOSS)] = "auto"
    first_loss: Annotated[str, OneOf(_LOSSES, _OWN_LOSS)] | None = None
    first_rounds: Steps = 0
    q_temperature: Temperature = 0.01
    logits_temperature: Temperature = 1.0
    entropy_weight: Weight = 0.0
    warm_start: Text | None = None
    warm_layers: Annotated[str, OneOf(WARM_LAYERS)] = "all"
    target_retention: Positive | None = None
    ema_decay: Annotated[float, Range(0, 1, below=True)] = 0.998
    optimiser: Annotated[str, OneOf(learner.OPTIMISERS)] = "adamw"
    learning_rate: Positive = 1e-3
    final_rate_fraction: Share = 0.1
    weight_decay: Weight = 1e-4
    clip_norm: Positive = 10.0
    resample_unseen: bool = False
    together: bool = True

    def __post_init__(self) -> None:
        settings_lib.check(self, "learn.")

    @property
    def begins_as(self) -> str | None:
        """Whose answers the student begins with: those of `warm_start`, if all of it is copied."""
        return self.warm_start if self.warm_layers == "all" else None

    @property
    def sees_as(self) -> tuple[str, ...]:
        """Whose convolutions alone the student begins with, side by side."""
        if self.warm_start is None or self.warm_layers == "all":
            return ()
        return _parted(self.warm_start)


def _parted(names: str) -> tuple[str, ...]:
    """Names that have commas between them; a comma may be of a file that is there, or on the hub.

    Games are games whatever is there: it may be the run itself, whose settings do not change by its
    beginning; `./pong,breakout` is a path. Of the hub a comma is where none of what stands behind
    it could be named.
    """
    parts = tuple(names.split(","))
    if all(map(tasks.find, parts)) and not names.startswith((".", "/", "~")):
        return parts
    one = os.path.exists(names) or (
        hub.is_address(names)
        and not any(
            hub.is_address(x) or tasks.find(x) or shipped.found(x).exists() for x in parts[1:]
        )
    )
    return (names,) if one else parts


@dataclasses.dataclass(frozen=True)
class Measure:
    """How play is measured; episodes are whole games.

    Attributes:
      report_episodes: episodes per game in the closing table, at most; the same ones in every run.
      report_width: fewer are played of a game once half of its retention's 95% interval is at most
        this, see `measuring.measure_until_precise`: 0.05 is within 5 points. 0 plays all.
      expert_ratio: episodes of the expert for each of the student's in the closing table. They are
        kept between runs and played once; the more of them are known, the narrower the retention's
        interval is.
      epsilon: chance of a uniformly random valid action, for experts and student alike.
      max_steps: step limit of one game; None is each task's own, in Atari ALE's half hour (27,000).
      opening_steps, opening_by: "random" or the "expert" plays at least the first opening_steps
        steps; then the measured policy takes over, and only what it scores counts. Games then start
        differently, and no start serves both to choose the best student and to report it (see
        `protocols.Opening`). 0: games start as the emulator starts them. None is what the suite
        says: 10 in Atari, 0 in landers and combat.
      lowest_expert_share: the run stops if an expert scores less than this share of its advertised
        score (above random): then what it sees or does is wrong, and distilling it is futile. Of
        games that are cut, or played by rules that change what they score, no claim is known.
    """

    report_episodes: Count = 256
    report_width: Weight = 0.05
    expert_ratio: Count = 1
    epsilon: Share = 0.05
    max_steps: Count | None = None
    opening_steps: Steps | None = None
    opening_by: Annotated[str, OneOf(("random", "expert"))] = "random"
    lowest_expert_share: Share = 0.25

    def __post_init__(self) -> None:
        settings_lib.check(self, "evaluate.")


@dataclasses.dataclass(frozen=True)
class Evaluate(Measure):
    """How play is measured, and how the best student is chosen by it; see `Measure` too.

    Attributes:
      every_rounds: rounds between two evaluations, by which the best student is chosen.
      select_episodes: episodes per game in each of these evaluations. With 1 no retention is known,
        and students are compared by their scores.
      sample_logits: experts with logits sample their actions where they are measured too; False
        takes the likeliest.
    """

    gone: ClassVar[tuple[str, ...]] = ("baselines",)

    every_rounds: Count = 50
    select_episodes: Count = 32
    sample_logits: bool = False


@dataclasses.dataclass(frozen=True)
class Settings:
    """One distillation run.

    Attributes:
      experts: one per game; their order is the order of the games.
      together: name of a task that all experts play together, each its own part of an action. It
        is one more task of the run, which they teach together and the student is chosen by alone.
      network: a key of `networks.NETWORKS`, the student's.
      convolutions: the student's convolutions in place of those of `network`, written as
        `networks.Convolutions` says: those of an expert, for example, which the student then begins
        with (`learn.warm_layers`).
      view: name of what the student sees, among the suite's views; None is the first of them, and
        of screens what its experts see, as far as EnvPool makes it: see
        `lessons.default_student_views`.
        "experts" is of screens what each expert sees in its own game, made by EnvPool or not.
      rules: how games of Atari are played, by experts, student and random play alike.
      compute_dtype: what the student computes in, "float32" or, on accelerators, "bfloat16";
        parameters, outputs and losses are float32 all the same.
      seed: of everything random.
    """

    experts: tuple[ExpertSource, ...]
    together: Text | None = None
    view: Text | None = None
    rules: Rules = USUAL
    network: Annotated[str, OneOf(networks.NETWORKS)] = "dueling"
    convolutions: Annotated[str, networks.Convolutions()] | None = None
    compute_dtype: Annotated[str, OneOf(networks.COMPUTE_DTYPES)] = "float32"
    seed: Steps = 0
    collect: Collect = Collect()
    learn: Learn = Learn()
    evaluate: Evaluate = Evaluate()

    def __post_init__(self) -> None:
        settings_lib.check(self)
        if not self.experts:
            raise ValueError("experts is empty; name at least one")
        c, lrn, e = self.collect, self.learn, self.evaluate
        if bool(lrn.first_loss) != bool(lrn.first_rounds):
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
            # Which is not looked at where a dataset is given.
            ("collect.initial_steps", 0 if c.dataset else c.initial_steps),
            ("collect.steps_per_round", c.steps_per_round),
            ("collect.window_steps", c.window_steps),
        ):
            if value % c.num_envs:
                raise ValueError(
                    f"{name} {value} is not divisible by collect.num_envs {c.num_envs}"
                )
        if not c.initial_steps and not c.steps_per_round and not c.dataset:
            raise ValueError(
                "collect.initial_steps and collect.steps_per_round are both 0: nothing to learn"
            )
        if e.opening_steps is not None and e.max_steps and e.opening_steps >= e.max_steps:
            raise ValueError(
                f"evaluate.opening_steps is {e.opening_steps}, expected less than "
                f"evaluate.max_steps {e.max_steps}"
            )
        if c.follow and not c.steps_per_round:
            raise ValueError("collect.follow needs new steps: set collect.steps_per_round above 0")
        if c.dataset and c.steps_per_round:
            raise ValueError(
                "collect.dataset is fixed: set collect.steps_per_round to 0, or collect afresh"
            )
        if lrn.rounds * lrn.updates_per_round > settings_lib.LARGEST:
            raise ValueError(
                f"learn.rounds {lrn.rounds} x learn.updates_per_round {lrn.updates_per_round} "
                f"are more than {settings_lib.LARGEST} updates"
            )


def teachers(settings: Settings) -> list[Teacher]:
    """The experts of a run, asked to play by its rules, and, where they play together, their team.

    Raises:
      FileNotFoundError, ValueError: an expert cannot be read or played, or they cannot play
        `settings.together`.
    """
    experts = [expert.under(settings.rules) for expert in load_experts(settings.experts)]
    if settings.together is None:
        return [*experts]
    task = tasks.get(settings.together)
    for expert in experts:
        if expert.game == task.name:
            raise ValueError(
                f"together is {task.name}, which {expert.name} plays by itself; name a task that "
                f"takes several of the experts, or leave it out"
            )
    suites = {expert.game: expert.task.suite.name for expert in experts} | {
        task.name: task.suite.name
    }
    if len(set(suites.values())) > 1:
        raise ValueError(
            f"together is {task.name}, of {task.suite.name}, and the experts play "
            f"{', '.join(str(e.game) for e in experts)}; expected a task of their suite"
        )
    if task.name in suites and len(suites) == len(experts):
        raise ValueError(
            f"together is {task.name}, which one expert plays alone; expected a task that takes "
            f"them all"
        )
    return [*experts, Team(tuple(experts), task.name)]


def student_views(settings: Settings, experts: Sequence[Teacher]) -> tuple[AnyView, ...]:
    """What the student of a run sees of what pools show, in each task.

    Raises:
      ValueError: `settings.view` names none of the suite's, or one of which it is not known what
        an expert can tell, and `learn.resample_unseen` asks for that.
    """
    suite = experts[0].task.suite
    views = dict(suite.views)
    if settings.view is None and not views:
        return lessons.default_student_views(experts)
    if settings.view == "experts" and isinstance(suite.view, View):
        return lessons.views_of(experts)
    chosen = next(iter(views)) if settings.view is None else settings.view
    if chosen not in views:
        raise ValueError(
            f"view is {settings.view!r}, expected "
            + (f"one of {', '.join(views)}" if views else _usual_view(suite))
        )
    usual = next(iter(views))
    if settings.learn.resample_unseen and chosen != usual:
        raise ValueError(
            f"learn.resample_unseen: what experts can know of is known of view {usual!r}, and view "
            f"is {chosen!r}; leave one of them out"
        )
    return (views[chosen],) * len(experts)


def _usual_view(suite: Suite) -> str:
    if isinstance(suite.view, View):
        return "'experts', or None"
    return f"None: {suite.name} has one alone"


def network_of(settings: Settings, tasks: Sequence[Task], view: AnyView) -> networks.Network:
    """The student's, in a run of these tasks.

    Raises:
      ValueError: it is none for them, it has no convolutions to replace, or others do not fit what
        it sees.
    """
    network = networks.create(settings.network, settings.compute_dtype)
    if settings.convolutions is not None:
        if not network.convs:
            raise ValueError(
                f"convolutions is {settings.convolutions!r}, and network {settings.network!r} has "
                f"none to replace; expected None, or another network"
            )
        network = network.clone(convs=networks.parse_convolutions(settings.convolutions))
    network = networks.for_tasks(network, tasks)
    if settings.convolutions is not None:
        try:
            jax.eval_shape(lambda key: networks.init(network, key, view.shape), jax.random.key(0))
        except ValueError as error:
            raise ValueError(f"convolutions is {settings.convolutions!r}: {error}") from error
    return network


AUTO_OF_Q = ("q_values", "q_kl")
"""The loss that "auto" stands for where all experts hold Q-values, and what it turns from."""


def resolve_defaults(settings: Settings, experts: Sequence[Teacher]) -> Settings:
    """`settings` with what "auto" and None stand for in a run of these experts.

    Q-values are begun with choices alone, which the size of some games' values would drown. Games
    that `learn.warm_start` and `learn.shares` name are called as their tasks are.

    Raises:
      ValueError: openings are as long as games.
    """
    lrn, e = _naming_tasks(settings, experts), settings.evaluate
    if lrn.loss == "auto" and "logits" in {expert.outputs for expert in experts}:
        lrn = dataclasses.replace(lrn, loss="kl")
    elif lrn.loss == "auto":
        rounds = max(1, lrn.rounds // 5)
        loss, first = AUTO_OF_Q
        lrn = dataclasses.replace(lrn, loss=loss, first_loss=first, first_rounds=rounds)
    tasks = [expert.task for expert in experts]
    limits = {task.max_steps for task in tasks}
    if e.max_steps is None and len(limits) == 1:
        e = dataclasses.replace(e, max_steps=limits.pop())
    steps = tasks[0].suite.opening_steps if e.opening_steps is None else e.opening_steps
    e = dataclasses.replace(e, opening_steps=steps)
    shortest = min(e.max_steps or task.max_steps for task in tasks)
    if steps >= shortest:
        raise ValueError(
            f"evaluate.opening_steps is {steps}, expected less than the {shortest} steps of a game"
        )
    return dataclasses.replace(settings, learn=lrn, evaluate=e)


def task_called(name: str, sources: Sequence[ExpertSource], experts: Sequence[Teacher]) -> str:
    """The name of the task of a run that is called `name` in another spelling, or `name`.

    Whatever is there as a file: a directory of that name may be the run itself, and `./name` says
    the other. A name with a slash is a task's where an expert of the run is given so, too.
    """
    own = {str(expert.game) for expert in experts}
    task = None if name in own else tasks.find(name)
    if task is None or task.name not in own:
        return name
    return task.name if "/" not in name or name in {x.game for x in sources} else name


def _naming_tasks(settings: Settings, experts: Sequence[Teacher]) -> Learn:
    """`settings.learn`, whose games are called as their tasks are."""
    name_of = functools.partial(task_called, sources=settings.experts, experts=experts)
    lrn, changes = settings.learn, dict[str, Any]()
    if lrn.warm_start is not None:
        named = lrn.sees_as or (lrn.warm_start,)
        changes["warm_start"] = ",".join(map(name_of, named))
    if lrn.shares is not None:
        said = [f"{name_of(game)}={times}" for game, times in _parse_shares(lrn.shares).items()]
        changes["shares"] = ",".join(said)
    changed = any(getattr(lrn, name) != text for name, text in changes.items())
    return dataclasses.replace(lrn, **changes) if changed else lrn


def shares(settings: Settings, names: Sequence[str]) -> tuple[int, ...]:
    """How many times as many rows as `learn.batch_per_game` each of these games has.

    Raises:
      ValueError: `learn.shares` names another game.
    """
    said = _parse_shares(settings.learn.shares or "")
    unknown = said.keys() - set(names)
    if unknown:
        raise ValueError(
            f"learn.shares names {', '.join(sorted(unknown))}, expected games that are learnt "
            f"from: {', '.join(names)}"
        )
    return tuple(said.get(name, 1) for name in names)


def more_of(settings: Settings, name: str) -> str:
    """`learn.shares` with as many rows more of one game as `learn.batch_per_game`."""
    said = _parse_shares(settings.learn.shares or "")
    said |= {name: said.get(name, 1) + 1}
    return ",".join(f"{game}={times}" for game, times in said.items())


def expert_share_at(settings: Settings, index: int) -> float:
    """The share of the environments that the experts drive in round `index`, from 0.

    It is of whole environments: of several at least one, where any share is asked for.
    """
    c = settings.collect
    early = max(0.0, 1.0 - index / c.expert_share_rounds) if c.expert_share_rounds else 0.0
    share = early + (1.0 - early) * c.final_expert_share
    least = 1 if share and c.num_envs > 1 else 0
    return max(least, round(share * c.num_envs)) / c.num_envs


def refuse_idle(settings: Settings, experts: Sequence[Teacher]) -> None:
    """Refuses settings that were changed and cannot change anything in a run of these experts.

    For runs that begin: one that stands goes on as it was begun.

    Raises:
      ValueError: what is idle, why, and what to set it to, in one line.
    """
    settings_lib.refuse_idle(settings, _idle(settings, experts))


def idle_fields(settings: Settings, experts: Sequence[Teacher]) -> set[str]:
    """Settings that cannot change anything in a run of these experts; see `refuse_idle`."""
    return settings_lib.idle_fields(_idle(settings, experts))


def _idle(settings: Settings, experts: Sequence[Teacher]) -> list[settings_lib.Reason]:
    c, lrn = settings.collect, settings.learn
    outputs = {expert.outputs for expert in experts}
    known = resolve_defaults(settings, experts)
    learnt = known.learn
    known_losses = losses.of(experts[0].task.suite.form)
    used = [known_losses[name] for name in (learnt.loss, learnt.first_loss) if name]
    # That of a loss of Q-values is taken at the temperature, see `learner.Objective`.
    of_entropy = lrn.entropy_weight and known_losses[learnt.loss].gives_q
    drivers = ("collect.expert_share_rounds", "collect.change_drivers", "collect.student_epsilon")
    alone = not c.expert_share_rounds and not c.final_expert_share
    return [
        (
            c.dataset,
            "collect.dataset is given and nothing is collected",
            (
                "collect.initial_steps",
                "collect.expert_epsilon",
                "collect.final_expert_share",
                *drivers,
            ),
        ),
        (
            not c.steps_per_round,
            "collect.steps_per_round is 0 and the student never drives",
            ("collect.final_expert_share", *drivers),
        ),
        (
            expert_share_at(settings, c.expert_share_rounds) == 1,
            f"collect.final_expert_share {c.final_expert_share:g} is all of collect.num_envs "
            f"{c.num_envs} and the student never drives",
            drivers,
        ),
        (
            alone,
            "collect.expert_share_rounds and final_expert_share are 0 and the experts drive no "
            "round",
            ("collect.change_drivers",),
        ),
        (
            alone and not c.initial_steps,
            "collect.initial_steps is 0, expert_share_rounds and final_expert_share are too, "
            "and the experts never drive",
            ("collect.expert_epsilon",),
        ),
        (
            settings.together is None,
            "no task is played together",
            ("learn.together",),
        ),
        (
            all(expert.task.seen is None for expert in experts),
            "experts can know of all that the student sees",
            ("learn.resample_unseen",),
        ),
        (
            len(experts) == 1,
            "there is one expert",
            ("learn.resample_unseen",),
        ),
        (
            c.num_envs == 1,
            "collect.num_envs is 1 and has one driver",
            ("collect.change_drivers",),
        ),
        (
            lrn.warm_start is None,
            "learn.warm_start is None and the student begins fresh",
            ("learn.warm_layers",),
        ),
        (
            learnt.first_loss == learnt.loss,
            "learn.loss is the same",
            ("learn.first_loss", "learn.first_rounds"),
        ),
        (
            {expert.game for expert in experts} == {learnt.begins_as},
            "the student begins with its only game (learn.warm_start)",
            ("learn.first_loss", "learn.first_rounds"),
        ),
        (
            not of_entropy and not any(loss.tempered for loss in used),
            f"learn.loss is {learnt.loss!r}, which knows no temperature",
            ("learn.q_temperature", "learn.logits_temperature"),
        ),
        ("q" not in outputs, "no expert holds Q-values", ("learn.q_temperature",)),
        (
            "logits" not in outputs,
            "no expert holds logits",
            ("learn.logits_temperature", "evaluate.sample_logits"),
        ),
        all_are_played(known.evaluate),
        (
            known.evaluate.select_episodes == 1
            or (known.evaluate.report_episodes == 1 and not c.follow),
            "evaluate.select_episodes or report_episodes is 1 and no retention is known",
            ("learn.target_retention",),
        ),
        (
            not known.evaluate.opening_steps,
            "evaluate.opening_steps is 0",
            ("evaluate.opening_by",),
        ),
        nothing_is_claimed(known.evaluate, experts),
        (
            not any(presses_fire(expert.task) for expert in experts),
            "no game has FIRE",
            ("rules.fire_after_life",),
        ),
    ]


def nothing_is_claimed(
    measure: Measure, experts: Sequence[Teacher]
) -> tuple[bool, str, tuple[str, ...]]:
    """For `settings.refuse_idle`: whether no expert is held to a score; see `check_experts`."""
    claims = [x for x in experts if x.task.as_published(measure.max_steps)]
    return (
        all(expert.advertised_score is None for expert in claims),
        "no expert advertises a score of games that are played as here",
        ("evaluate.lowest_expert_share",),
    )


def all_are_played(measure: Measure) -> tuple[bool, str, tuple[str, ...]]:
    """For `settings.refuse_idle`: whether so few games are reported that all of them always are."""
    games = measure.report_episodes
    return (
        next(measuring.rounds(games)) == games,
        f"evaluate.report_episodes is {games} and all are always played",
        ("evaluate.report_width",),
    )


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


def create_state(settings: Settings, params: networks.Params, mesh: Mesh) -> learner.TrainState:
    """A run's train state around `params`, averaged too if its settings ask for it."""
    averaged = settings.learn.ema_decay > 0
    return learner.create_state(params, optimiser(settings), mesh, averaged=averaged)
