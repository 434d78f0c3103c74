"""Which settings of a training cannot change anything in it, and why."""

from __future__ import annotations

from collections.abc import Sequence

from jaxdistill import settings as settings_lib
from jaxdistill.experts.expert import Teacher
from jaxdistill.learn import train_settings
from jaxdistill.learn.origins import Pretrained
from jaxdistill.learn.train_settings import Settings
from jaxdistill.tasks.atari import presses_fire
from jaxdistill.tasks.task import Task


def refuse_idle(settings: Settings, student: Pretrained | None = None) -> None:
    """Refuses settings that were changed and cannot change anything.

    For trainings that begin: one that stands goes on as it was begun.

    Args:
      student: what `settings.student` is; where it is not at hand, its outputs and its experts'
        may be anything.

    Raises:
      FileNotFoundError, ValueError: an expert cannot be read; what is idle, why, and what to set it
        to, in one line.
    """
    experts = train_settings.experts_of(settings)
    if settings.experts and not settings.expert_weight and not settings.warm_start:
        raise ValueError("experts without expert_weight or warm_start: nothing is learnt from them")
    settings_lib.refuse_idle(settings, _idle(settings, experts, student))


def idle_fields(
    settings: Settings, experts: Sequence[Teacher], student: Pretrained | None = None
) -> set[str]:
    """Settings that cannot change anything in this training; see `refuse_idle`.

    Args:
      experts: those of the settings.
    """
    return settings_lib.idle_fields(_idle(settings, experts, student))


def _idle(
    settings: Settings, experts: Sequence[Teacher], student: Pretrained | None
) -> list[settings_lib.Reason]:
    outputs, own = {expert.outputs for expert in experts}, set[str]()
    if student is not None:
        own = {student.outputs}
        taught = (student.teachers.get(task.name) for task in settings.tasks)
        outputs = {teacher.outputs for teacher in taught if teacher} or own
    elif settings.student is not None:
        outputs = own = {"q", "logits"}
    elif settings.warm_start and settings.algorithm == "ppo":
        own = outputs
    matching = ("q_temperature", "logits_temperature")
    return [
        (
            not outputs,
            "there are no experts",
            ("expert_weight", "expert_fraction", *matching),
        ),
        (
            not settings.expert_weight,
            "expert_weight is 0",
            ("expert_fraction", "logits_temperature"),
        ),
        # Of Q-values that it goes on from, the logits that it begins with are made.
        (
            not settings.expert_weight and "q" not in own,
            "expert_weight is 0",
            ("q_temperature",),
        ),
        ("logits" not in outputs, "no expert holds logits", ("logits_temperature",)),
        (
            settings.algorithm == "ppo" and "q" not in outputs | own,
            "nobody holds Q-values",
            ("q_temperature",),
        ),
        (
            settings.student is not None,
            "student is given",
            ("network", "compute_dtype", "warm_start"),
        ),
        # By a student's rules it was distilled for other games, too.
        (
            not any(map(presses_fire, settings.tasks))
            and (student is None or settings.rules != student.rules),
            "no game has FIRE",
            ("rules.fire_after_life",),
        ),
        (settings.core == "none", "core is 'none'", ("core_width",)),
        (
            settings.algorithm != "ppo",
            f"algorithm is {settings.algorithm!r}",
            ("policy_clip", "value_weight", "entropy_weight", "critic_iterations"),
        ),
        (
            settings.algorithm == "ppo" and settings.updates_per_iteration == 1,
            "an iteration is learnt from once, in one minibatch",
            ("policy_clip",),
        ),
        (
            settings.algorithm == "ppo",
            "algorithm is 'ppo'",
            (
                "double",
                "average_rate",
                "epsilon_start",
                "epsilon_end",
                "epsilon_fraction",
                "epsilon_decay",
                "hold_exponent",
            ),
        ),
        (
            not any(map(_turns, settings.tasks)),
            f"no angle is among the actions of {', '.join(settings.games)}",
            ("angle_deviation",),
        ),
        (
            settings.warm_start
            and any(map(_turns, settings.tasks))
            and all(expert.suite_log_std is not None for expert in experts),
            "warm_start begins with the expert's own deviations",
            ("angle_deviation",),
        ),
        (
            not settings.discount,
            "discount is 0",
            ("double", "average_rate", "target_episodes", "trace"),
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
            settings.algorithm != "dqn",
            f"algorithm is {settings.algorithm!r}",
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
        (
            bool(settings.epsilon_decay) and settings.epsilon_start < settings.epsilon_end,
            "epsilon_start is below epsilon_end",
            ("epsilon_decay",),
        ),
    ]


def _turns(task: Task) -> bool:
    """Whether an angle is among its actions."""
    factored = task.suite.factored
    return factored is not None and bool(factored.angles[list(task.actions)].any())
