"""The tasks of a run, each with what belongs to it, as values that travel together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.experts.expert import Teacher
from jaxdistill.tasks.actions import Choices
from jaxdistill.tasks.task import Pool, Task, seed_for
from jaxdistill.tasks.views import AnyShown, AnyView, Screen, Vector, View

COLLECT, SELECT, REPORT, SHOW, DECIDE = 0, 1, 2, 3, 4
"""Purposes of pools: states to learn from, games to choose by, to report, to look at; and more to
choose by, between the few that those of `SELECT` have left."""


@dataclasses.dataclass(frozen=True, eq=False)
class Lesson:
    """One task of a run: what is played and seen there, and who teaches it.

    Attributes:
      index: its place in the run, which a network that knows its task is told.
      task: what is played.
      view: what its pools show.
      seed: the run's.
      expert: who teaches it; None where nobody does.
      own: what the student sees of what is shown, where that is not all of it; see `seen`.
    """

    index: int
    task: Task
    view: AnyShown
    seed: int
    expert: Teacher | None = None
    own: AnyView | None = None

    @property
    def name(self) -> str:
        """The task's."""
        return self.task.name

    @property
    def seen(self) -> AnyView:
        """What the student sees of what is shown."""
        own = self.view if self.own is None else self.own
        assert not isinstance(own, Screen)  # which nobody sees as it is
        return own

    @property
    def stored(self) -> AnyView:
        """What a dataset holds of what is shown: what the student sees of a screen, all numbers."""
        return self.view if isinstance(self.view, Vector) else self.seen

    @property
    def mask(self) -> np.ndarray:
        """`(A,)` bool: valid actions, and of those only what the expert has an output for."""
        return self.task.mask if self.expert is None else self.expert.mask

    @property
    def teacher(self) -> Teacher:
        """The expert; ValueError if there is none."""
        if self.expert is None:
            raise ValueError(f"{self.name} has no expert")
        return self.expert

    def showing(self, *others: AnyView) -> Lesson:
        """The same in pools that show what the student sees, and what others see, too."""
        seen = self.seen
        return dataclasses.replace(self, view=self.task.shown([seen, *others]), own=seen)

    def pool_seed(self, *words: int) -> int:
        """The seed of a pool of this task for one purpose; see `seed_for`.

        Args:
          words: the purpose, and what tells several pools of it apart.
        """
        purpose, *others = words
        return seed_for(self.seed, purpose, self.index, *others)

    def pool(
        self,
        num_envs: int,
        *words: int,
        first: int = 0,
        max_steps: int | None = None,
        threads: int | None = None,
    ) -> Pool:
        """Environments `first`, `first + 1`, ... of the purpose that `words` name."""
        return self.task.pool(
            num_envs,
            seed=self.pool_seed(*words) + first,
            view=self.view,
            max_steps=max_steps,
            threads=threads,
        )


def of_experts(
    experts: Sequence[Teacher], seed: int, seen: Sequence[AnyView] | None = None
) -> tuple[Lesson, ...]:
    """A lesson of each expert, in their order.

    Args:
      seen: what the student sees in each. None is what `default_student_views` says; and where an
        expert is itself a student (`Expert.teacher_view`), what was shown to it in its own run.
    """
    taught, views = [], default_student_views(experts) if seen is None else seen
    for index, (expert, own) in enumerate(zip(experts, views, strict=True)):
        saw = expert.teacher_view if seen is None else None
        own, other = (own, own) if saw is None else (expert.view, saw)
        view = expert.task.shown([expert.view, other])
        taught.append(Lesson(index, expert.task, view, seed, expert, own))
    return tuple(taught)


def default_student_views(experts: Sequence[Teacher]) -> tuple[AnyView, ...]:
    """What a student of these experts sees in each task, where nobody says otherwise.

    All numbers; of a screen what the expert sees, if EnvPool makes that and it is of the shape that
    all such experts have. Elsewhere, in that shape, what the suite is usually seen as.
    """
    usual = experts[0].task.suite.view
    if isinstance(usual, Vector):
        return tuple(expert.view.whole for expert in experts)
    views = [expert.view for expert in experts]
    native = {view.shape: view for view in views if isinstance(view, View) and view.native}
    (like,) = native.values() if len(native) == 1 else (usual,)
    usual = View(like.height, like.width, like.stack)
    return tuple(view if view.native and view.shape == usual.shape else usual for view in views)


def views_of(experts: Sequence[Teacher]) -> tuple[View, ...]:
    """What a student of these experts sees if it sees, in each task, what that one's expert does.

    Raises:
      ValueError: one sees no screen, or what no dataset holds, a frame of each step being all that
        is held; or they see pictures of different shapes.
    """
    views = []
    for expert in experts:
        view = expert.view
        if not isinstance(view, View) or not view.framewise:
            raise ValueError(
                f"view is 'experts', and {expert.name} sees {view}, which is more than one gray "
                f"frame of each step; expected None"
            )
        if view.shape != (first := experts[0]).view.shape:
            raise ValueError(
                f"view is 'experts', and {expert.name} sees {view.shape}, {first.name} "
                f"{first.view.shape}, and one network sees one shape; expected None"
            )
        views.append(view)
    return tuple(views)


def of_tasks(
    tasks: Sequence[Task], seed: int, views: Sequence[AnyView] | None = None
) -> tuple[Lesson, ...]:
    """A lesson of each task, in their order, that nobody teaches, shown as its suite shows it."""
    seen = [task.suite.view for task in tasks] if views is None else views
    return tuple(
        Lesson(index, task, view, seed)
        for index, (task, view) in enumerate(zip(tasks, seen, strict=True))
    )


def choices(lessons: Sequence[Lesson]) -> Choices:
    """What may be chosen in each; their draws begin from their tasks' numbers."""
    numbers = tuple(lesson.task.number for lesson in lessons)
    return Choices(lessons[0].task.suite.form, masks(lessons), numbers)


def masks(lessons: Sequence[Lesson]) -> jax.Array:
    """`(G, A)` bool, see `Lesson.mask`."""
    return jnp.asarray(np.stack([lesson.mask for lesson in lessons]))
