"""The settings of a merge of weights: which experts, how, and how the result is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

from jaxdistill import networks
from jaxdistill import settings as settings_lib
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.sources import ExpertSource
from jaxdistill.learn import losses, weight_merging
from jaxdistill.learn.weight_merging import Merge
from jaxdistill.run import distill_settings
from jaxdistill.run.distill_settings import Measure
from jaxdistill.settings import Count, OneOf, Share, Steps, Text


@dataclasses.dataclass(frozen=True)
class Collect:
    """The states that gradients, activations and the closing table's agreement are of.

    Attributes:
      num_envs: environments per game.
      initial_steps: steps per game, which the experts play.
      expert_epsilon: chance of a uniformly random valid action.
      dataset: a dataset made by `launch/collect.py` to take instead of playing.
    """

    num_envs: Count = 32
    initial_steps: Count = 5120
    expert_epsilon: Share = 0.05
    dataset: Text | None = None

    def __post_init__(self) -> None:
        settings_lib.check(self, "collect.")


_MERGE, _MEASURE = Merge(), Measure()


@dataclasses.dataclass(frozen=True)
class Settings:
    """One merge of experts' weights.

    Attributes:
      experts: two or more, of Q-values and of one shape, one per game, in the order of the games.
      method: one of `weight_merging.METHODS`.
      network: a key of `networks.NETWORKS`, theirs; None finds it.
      seed: of everything random.
    """

    experts: tuple[ExpertSource, ...]
    method: Annotated[str, OneOf(weight_merging.METHODS)]
    network: Annotated[str, OneOf(networks.NETWORKS)] | None = None
    seed: Steps = 0
    collect: Collect = Collect()
    merge: Merge = _MERGE
    evaluate: Measure = _MEASURE

    def __post_init__(self) -> None:
        settings_lib.check(self)
        if len(self.experts) < 2:
            raise ValueError(
                f"weights are merged of several experts, and experts names "
                f"{len(self.experts)}; expected two or more"
            )
        self.as_run()

    def as_run(self) -> distill_settings.Settings:
        """The distillation with which a merge shares all but the merging: its student is this one.

        Raises:
          ValueError: they cannot be of one run.
        """
        return distill_settings.Settings(
            experts=self.experts,
            network=self.network or distill_settings.Settings.network,
            seed=self.seed,
            collect=distill_settings.Collect(
                **dataclasses.asdict(self.collect),
                steps_per_round=0,
                window_steps=self.collect.num_envs,  # of any length: a merge sees all at once
            ),
            learn=distill_settings.Learn(loss="mse", ema_decay=0.0),
            evaluate=distill_settings.Evaluate(**dataclasses.asdict(self.evaluate)),
        )


def resolve_defaults(settings: Settings, experts: Sequence[Expert]) -> Settings:
    """`settings` with the experts' network, what None stands for, and a base called as its task.

    Raises:
      ValueError: the experts are not of one shape, or their weights cannot be a student's.
    """
    first = experts[0]
    for expert in experts:
        if expert.outputs != "q":
            raise ValueError(
                f"the expert of {expert.game} holds logits, and Q-values are merged; distil them "
                f"instead (jaxdistill distill)"
            )
        if _shape(expert) != _shape(first):
            raise ValueError(
                f"experts of one shape are merged, and {first.game}'s has {_size_text(first)}, "
                f"{expert.game}'s {_size_text(expert)}; distil them instead (jaxdistill distill)"
            )
    if kind := networks.only_of_experts(first.network):
        raise ValueError(
            f"the experts have {kind}, which no student has; distil them instead "
            f"(jaxdistill distill)"
        )
    suite = first.task.suite
    if first.actions != tuple(range(suite.num_actions)):
        raise ValueError(
            f"the experts have outputs for {len(first.actions)} actions in their own order; "
            f"expected all {suite.num_actions} of {suite.name}, as a student has"
        )
    found = [name for name in networks.NETWORKS if _is(name, first)]
    if not found:
        raise ValueError(
            f"the experts' network ({_size_text(first)}) is none of "
            f"{', '.join(networks.NETWORKS)}, as a student's is"
        )
    if settings.method == "aligned_mean":
        weight_merging.hidden_layers(first.network)
    if settings.network not in (None, *found):
        raise ValueError(
            f"network is {settings.network!r}, and the experts' is {found[0]!r}; leave it out"
        )
    run = distill_settings.resolve_defaults(settings.as_run(), experts).evaluate
    names = [field.name for field in dataclasses.fields(Measure)]
    measure = Measure(**{name: getattr(run, name) for name in names})
    merge = settings.merge
    if merge.base is not None:
        base = distill_settings.task_called(merge.base, settings.experts, experts)
        merge = dataclasses.replace(merge, base=base)
    if merge.reward_limit is None:
        merge = dataclasses.replace(merge, reward_limit=suite.reward_limit)
    return dataclasses.replace(settings, network=found[0], merge=merge, evaluate=measure)


def _shape(expert: Expert) -> tuple[object, ...]:
    # Without what they compute in, which is no part of a shape.
    return networks.to_dict(expert.network), expert.actions, expert.view.shape


def _is(name: str, expert: Expert) -> bool:
    known = networks.create(name, num_outputs=expert.network.num_outputs)
    return networks.same_architecture(known, expert.network)


def _size_text(expert: Expert) -> str:
    return f"{networks.count(expert.params):,} parameters and {len(expert.actions)} outputs"


_BASED = ("task_arithmetic", "htcl", "aligned_mean")
TAYLOR = ("htcl", "taylor_one_shot", "taylor_iterative")
OF_STATES = (*TAYLOR, "fisher", "aligned_mean")
"""Methods that look at what was seen, all of it at once."""
READ_BY = {
    "base": _BASED,
    "scale": ("task_arithmetic",),
    "loss": TAYLOR,
    "batch_size": OF_STATES,
    "damping": TAYLOR,
    "rate": ("htcl", "taylor_iterative"),
    "clip_norm": ("htcl",),
    "catch_up_rounds": ("htcl",),
    "catch_up_rate": ("htcl",),
    "catch_up_damping": ("htcl",),
    "rounds": ("taylor_iterative",),
    "round_decay": ("taylor_iterative",),
    "discount": TAYLOR,
    "reward_limit": TAYLOR,
    "reward_scale": TAYLOR,
    "q_temperature": (*TAYLOR, "fisher"),
}
"""Which methods read a field of `Merge`."""


def refuse_idle(settings: Settings, experts: Sequence[Expert]) -> None:
    """Refuses settings that were changed and cannot change anything in this merge.

    Raises:
      ValueError: what is idle, why, and what to set it to, in one line.
    """
    merge, method = settings.merge, settings.method
    td = merge.loss == weight_merging.TD
    tempered = not td and losses.LOSSES[merge.loss].tempered
    opening = settings.evaluate.opening_steps
    settings_lib.refuse_idle(
        settings,
        [
            *(
                (method not in readers, f"the method is {method}", (f"merge.{name}",))
                for name, readers in READ_BY.items()
            ),
            (
                not td,
                f"merge.loss is {merge.loss!r}",
                ("merge.discount", "merge.reward_limit", "merge.reward_scale"),
            ),
            (
                method != "fisher" and not tempered,
                f"merge.loss is {merge.loss!r}, which knows no temperature",
                ("merge.q_temperature",),
            ),
            (
                not merge.catch_up_rounds,
                "merge.catch_up_rounds is 0",
                ("merge.catch_up_rate", "merge.catch_up_damping"),
            ),
            (merge.rounds == 1, "merge.rounds is 1", ("merge.round_decay",)),
            (
                settings.collect.dataset,
                "collect.dataset is given and nothing is collected",
                ("collect.initial_steps", "collect.expert_epsilon"),
            ),
            distill_settings.all_are_played(settings.evaluate),
            (opening == 0, "evaluate.opening_steps is 0", ("evaluate.opening_by",)),
            distill_settings.nothing_is_claimed(settings.evaluate, experts),
        ],
    )
