"""Who is measured, and what they are known by.

A player's *mark* in a lesson is a digest of all that decides its actions there. Two with the same
mark play the same games.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import networks
from jaxdistill.experts.expert import Expert, Teacher, Team
from jaxdistill.play import rollouts
from jaxdistill.tasks.views import AnyView

RANDOM = "random"
"""The mark of uniformly random play."""

RANDOM_GAMES = 64
"""Random play is measured in so many games at most: its scores differ little."""


@dataclasses.dataclass(frozen=True)
class Player:
    """Who is measured.

    Attributes:
      name: what a progress bar calls it.
      policy: how it plays.
      marks: what it is known by in each lesson of the run, by the lessons' indices: `RANDOM`, or a
        digest of all that decides its actions.
      one_run_only: it is of one run, and others will not ask for it.
    """

    name: str
    policy: rollouts.AnyPolicy
    marks: tuple[str, ...]
    one_run_only: bool = False

    @classmethod
    def experts(
        cls,
        experts: Sequence[Teacher],
        *,
        mesh: Mesh,
        epsilon: float,
        sample_logits: bool = False,
        name: str = "experts",
        one_run_only: bool = False,
    ) -> Player:
        """An expert for each lesson; see `rollouts.expert_actor`."""
        policy = rollouts.expert_actor(
            experts, epsilon=epsilon, sample_logits=sample_logits, mesh=mesh
        )
        marks = (expert_mark(x, epsilon=epsilon, sample_logits=sample_logits) for x in experts)
        return cls(name, policy, tuple(marks), one_run_only)

    @classmethod
    def student(
        cls,
        network: networks.Network,
        params: Any,
        policy: rollouts.Policy,
        *,
        views: Sequence[AnyView],
        epsilon: float,
        one_run_only: bool = False,
    ) -> Player:
        """One network for all lessons, and how it plays with its parameters.

        Args:
          params: on the host; those of `policy` are where it plays.
          views: what it sees in each lesson.
          epsilon: of `policy`.
        """
        marks = (
            student_mark(network, params, view, index=index, epsilon=epsilon)
            for index, view in enumerate(views)
        )
        return cls("student", policy, tuple(marks), one_run_only)

    @property
    def most_games(self) -> int | None:
        """How many games of one task say enough; None where more say more."""
        return RANDOM_GAMES if set(self.marks) == {RANDOM} else None


def fingerprint(params: Any) -> str:
    """SHA-256 of parameters: the same network, whatever file it came from."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()


def read_as(expert: Teacher, *, in_training: bool = False) -> str:
    """A digest of what an expert answers by besides its parameters: network, actions and view.

    Args:
      in_training: without its deviations, which it learns.
    """
    alone = expert.experts if isinstance(expert, Team) else (expert,)
    changes = {"log_std": None} if in_training else {}
    return digest([_described(one) | changes for one in alone])[:12]


def expert_mark(expert: Teacher, *, epsilon: float, sample_logits: bool) -> str:
    """What an expert is known by that plays in this way."""
    alone = expert.experts if isinstance(expert, Team) else (expert,)
    return digest(
        {
            "experts": [
                _described(one) | _computes_in(one.network) | {"params": fingerprint(one.params)}
                for one in alone
            ],
            "epsilon": epsilon,
            "sampled": sample_logits and expert.outputs == "logits",
        }
    )


def student_mark(
    network: networks.Network, params: Any, view: AnyView, *, index: int, epsilon: float
) -> str:
    """What one network of several tasks is known by in one of them.

    Args:
      index: the task's, which a network that knows its task is told.
    """
    return digest(
        {
            "student": networks.to_dict(network),
            **_computes_in(network),
            "params": fingerprint(params),
            "view": view.to_dict(),
            "index": index,
            "epsilon": epsilon,
        }
    )


def _described(expert: Expert) -> dict[str, Any]:
    return {
        "network": networks.to_dict(expert.network),
        "actions": list(expert.actions),
        "view": expert.view.to_dict(),
        "game": expert.game,
        "log_std": None if expert.log_std is None else list(expert.log_std),
    }


def _computes_in(network: networks.Network) -> dict[str, str]:
    """The dtype that is no part of a network's description, where it is not the usual one."""
    dtype = np.dtype(network.dtype).name
    return {} if dtype == "float32" else {"dtype": dtype}


def digest(value: Any) -> str:
    """SHA-256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
