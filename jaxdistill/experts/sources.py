"""Where a run's experts come from, and what every run asks of them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from jaxdistill import settings as settings_lib
from jaxdistill import shipped, terminal
from jaxdistill.experts import formats
from jaxdistill.experts.expert import Expert
from jaxdistill.settings import Text
from jaxdistill.tasks.views import Vector


@dataclasses.dataclass(frozen=True)
class ExpertSource:
    """Where one expert comes from.

    Attributes:
      path: a checkpoint file, a directory made by `jaxdistill convert`, or one of these on the hub:
        `hf://user/name[@revision][/path]`, see `hub`.
      spec: TOML file describing the checkpoint, where it does not describe itself.
      game: game it plays, where file and spec do not say.
      rules: how its own game is played, where file and spec say otherwise or nothing, such as
        "fire_after_life=true&noop_max=1"; see `tasks.atari.Rules`.
    """

    path: Text
    spec: Text | None = None
    game: Text | None = None
    rules: Text | None = None

    def __post_init__(self) -> None:
        settings_lib.check(self, "expert's ")


def load(source: ExpertSource) -> Expert:
    """Loads one expert, and says so where a name says that it plays another game.

    Raises as `formats.load` does, and ValueError for rules it cannot have.
    """
    found = formats.convert(source.path, spec=source.spec, game=source.game)
    for doubt in found.doubts:
        _say_once(f"note: {source.path}: {doubt}")
    return by_rules(found.expert, source.rules)


@functools.cache
def _say_once(text: str) -> None:
    """Experts that are followed are read again and again."""
    terminal.say(text)


def by_rules(expert: Expert, changes: str | None) -> Expert:
    """The expert with changes to its own game, if there are any; see `Rules.changed`."""
    if changes is None:
        return expert
    return dataclasses.replace(expert, rules=expert.rules.changed(changes))


def load_experts(sources: Sequence[ExpertSource]) -> list[Expert]:
    """Loads every expert, and checks that they can play and have one student.

    A line says of which nothing is there, so that the package's own file is read.

    Raises:
      FileNotFoundError, ValueError: a file cannot be read, an expert does not say its game, two
        play the same game or games of two suites, or see vectors of different sizes.
    """
    if packaged := [source.path for source in sources if shipped.is_packaged(source.path)]:
        _say_once(f"note: not here, so as it comes with the package: {', '.join(packaged)}")
    experts = [load(source) for source in sources]
    for expert, source in zip(experts, sources, strict=True):
        if expert.game is None:
            raise ValueError(
                f"{source.path} does not say which game it plays; give the expert's `game`"
            )
    suites = {expert.task.suite.name: expert.game for expert in experts}
    if len(suites) > 1:
        (one, first), (other, second), *_ = suites.items()
        raise ValueError(
            f"experts of {first} ({one}) and of {second} ({other}) cannot have one student; "
            f"expected tasks of one suite: distil each by itself"
        )
    names = [expert.game for expert in experts]
    if len(set(names)) < len(names):
        raise ValueError(f"two experts play the same game: {', '.join(map(str, names))}")
    shapes = {e.view.whole.shape for e in experts if isinstance(e.view, Vector)}
    if len(shapes) > 1:
        raise ValueError(f"experts see observations of different shapes: {sorted(shapes)}")
    return experts
