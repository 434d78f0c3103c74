"""What an algorithm must offer: one who plays while it learns, and one who learns from that.

A training asks both in turn. In every iteration:

    told = actor.begin(progress)
    ...  # `actor.act` T times, and then `actor.values` of what is seen last: a rollout
    metrics = algorithm.learn(rollout, progress)

`pqn.Pqn`, `dqn.Dqn` and `ppo.Ppo` are the algorithms there are, each made of what a training begins
with (`Beginning`). Another one has its name in `training._ALGORITHMS`, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from jaxdistill import networks
from jaxdistill.experts.expert import Teacher
from jaxdistill.learn import learner
from jaxdistill.learn.origins import Pretrained
from jaxdistill.learn.rollout import Acted, Rollout
from jaxdistill.learn.train_settings import Settings
from jaxdistill.play.lessons import Lesson
from jaxdistill.tasks.views import AnyView


@dataclasses.dataclass(frozen=True, eq=False)
class Beginning:
    """What an algorithm begins with.

    Attributes:
      settings: of the training.
      lessons: its tasks.
      experts: one per task, who teach beside the rewards; none where nobody does.
      network, params: what learns.
      view: what it sees of what pools show.
      mesh: of all devices.
      masks: `(G, A)` bool, the actions that are played in each task.
      student: whose network and heads it goes on with; None where it begins otherwise.
    """

    settings: Settings
    lessons: Sequence[Lesson]
    experts: Sequence[Teacher]
    network: networks.Network
    params: networks.Params
    view: AnyView
    mesh: Mesh
    masks: jax.Array
    student: Pretrained | None = None


class Progress(NamedTuple):
    """Where a training stands in one iteration; episodes are those of all tasks together.

    Attributes:
      iteration: iterations done before it.
      episodes: episodes that ended before it.
      ended: episodes that ended in it; 0 until it is played.
    """

    iteration: int
    episodes: int
    ended: int = 0


class Observed(NamedTuple):
    """What an actor acts on at one step of every environment.

    Attributes:
      observations: `(N, stack, *frame)` for each of G tasks.
      begun: `(G, N)` bool, where an episode begins.
      turn: steps of each environment that the training has played before.
    """

    observations: tuple[Any, ...]
    begun: np.ndarray
    turn: int


class Actor(Protocol):
    """Who plays while it learns, by the parameters that its algorithm has come to."""

    def begin(self, progress: Progress) -> dict[str, float]:
        """Is told where the training stands, before an iteration; returns what to log."""
        ...

    @property
    def carry(self) -> networks.Carry:
        """What a recurrent network carries into the next step, `(G, N, ...)`; else nothing."""
        ...

    def act(self, observed: Observed) -> Acted:
        """What it does in each environment, `(G, N, ...)`."""
        ...

    def values(self, observed: Observed) -> jax.Array:
        """`(G, N)`, what the states are worth; nothing is done, and nothing carried on."""
        ...

    @property
    def checkpoint_arrays(self) -> dict[str, np.ndarray]:
        """What a checkpoint holds of it."""
        ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes on as `checkpoint_arrays` were; there may be others' among them."""
        ...


class Algorithm(Protocol):
    """What is learnt, and how."""

    def make_actor(self, begin: Beginning) -> Actor:
        """Who plays for it; `begin` is what it was made of."""
        ...

    def learn(self, rollout: Rollout, progress: Progress) -> learner.Metrics:
        """Learns from the steps of one iteration; returns what to log."""
        ...

    @property
    def train(self) -> learner.TrainState:
        """Parameters and optimiser."""
        ...

    @property
    def arrays(self) -> dict[str, Any]:
        """All that learning changes, by the names that it has in a checkpoint.

        A "memory" is left out where a checkpoint's parameters alone are read.
        """
        ...

    @arrays.setter
    def arrays(self, restored: dict[str, Any]) -> None: ...

    def train_of(self, arrays: dict[str, Any]) -> learner.TrainState:
        """The train state among a checkpoint's `arrays`."""
        ...

    def network_params(self, params: Any) -> networks.Params:
        """The network's parameters, among all `params` that are learnt."""
        ...

    def log_std(self, params: Any) -> np.ndarray | None:
        """`(A,)`, logarithms of the deviations of angles; None where there are no angles."""
        ...
