"""What nobody knows of an expert, found out by playing: every likely answer, a few games each."""

from __future__ import annotations

import os
from collections.abc import Sequence

from jaxdistill.experts import formats, sources
from jaxdistill.experts.expert import Expert
from jaxdistill.experts.formats import spec as specs
from jaxdistill.play import lessons, measuring, protocols
from jaxdistill.play.scoring import Scores

MAX_STEPS = 3_000
"""Of one game: who sees nothing may play for ever."""


def experts(
    path: str | os.PathLike[str],
    spec: str | os.PathLike[str],
    *,
    game: str | None = None,
    rules: str | None = None,
) -> list[tuple[dict[str, str], Expert]]:
    """A file's expert by each choice of answers to what its spec leaves open, see `specs.tried`.

    The file is fetched and read once.

    Args:
      rules: as `sources.by_rules` takes them.

    Raises:
      FileNotFoundError, ValueError, OSError: spec or file cannot be read or fetched, no question
        is open, or the expert's game is not known.
    """
    choices = specs.tried(formats.spec_at(spec))
    source = formats.opened(path)
    read = [
        (answers, sources.by_rules(formats.load(source, spec=chosen, game=game), rules))
        for answers, chosen in choices
    ]
    read[0][1].task.require()
    return read


def play(experts: Sequence[Expert], *, episodes: int, epsilon: float, seed: int) -> list[Scores]:
    """The same games of each, of at most `MAX_STEPS`, whatever they see."""
    seen = [x for one in experts for x in (one.view, *lessons.default_student_views([one]))]
    task = experts[0].task
    limit = min(MAX_STEPS, task.max_steps)
    terms = protocols.Terms.of(
        task.suite, episodes=episodes, epsilon=epsilon, seed=seed, max_steps=limit
    )
    return [measuring.measure_alone(expert, terms, beside=seen) for expert in experts]
