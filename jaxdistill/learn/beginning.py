"""What a training begins with: a student's network, a copy of an expert, or fresh parameters."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import networks
from jaxdistill.experts.expert import Expert, Teacher
from jaxdistill.learn import ppo, train_settings
from jaxdistill.learn.algorithm import Beginning
from jaxdistill.learn.origins import Pretrained
from jaxdistill.learn.train_settings import Settings
from jaxdistill.play import lessons


def of(settings: Settings, mesh: Mesh, student: Pretrained | None = None) -> Beginning:
    """What a training begins with: a student's network, an expert's, or a fresh one.

    Raises:
      FileNotFoundError, ValueError: an expert cannot be read, is of another shape, or cannot be
        asked beside what the training shows; a critic has no place beside the student's heads.
    """
    key = jax.random.fold_in(jax.random.key(settings.seed), 1)
    experts: Sequence[Teacher] = train_settings.experts_of(settings)
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
        network = train_settings.network_of(settings)
        params = _copied(settings, network, experts)
    else:
        network = train_settings.network_of(settings)
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
    return Beginning(settings, chosen, experts, network, params, view, mesh, masks, student)


def _instead(settings: Settings) -> str:
    """What to do with an expert that cannot be asked."""
    if settings.student:
        return "set expert_weight to 0"
    if settings.warm_start:
        return "set expert_weight to 0 to train its copy, or distil it (jaxdistill distill)"
    return "distil it (jaxdistill distill)"


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
