"""What our exports carry beside the fields of the reference conventions.

They have none for what a network sees, which game an expert plays, and whether its outputs
are Q-values or logits. Our files hold them under one key more, which other readers pass over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxdistill import settings, tasks
from jaxdistill.experts.expert import Expert
from jaxdistill.tasks import combat
from jaxdistill.tasks.atari import USUAL, Rules
from jaxdistill.tasks.views import AnyView, from_dict
from jaxdistill.text import one_line

KEY = "jaxdistill"
_OUTPUTS = ("q", "logits")


@dataclasses.dataclass(frozen=True)
class Carried:
    """What a file says of its network.

    Attributes:
      outputs: "q" or "logits".
      views: what it sees, by game; of an expert that names no game, under None.
      rules: how its own game is played.
      teacher_views: as `Expert.teacher_view`, by game; of most there is none.
    """

    outputs: str
    views: Mapping[str | None, AnyView]
    rules: Rules = USUAL
    teacher_views: Mapping[str | None, AnyView] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, expert: Expert) -> Carried:
        """What the file of an expert says."""
        game, saw = expert.game, expert.teacher_view
        saws = {} if saw is None else {game: saw}
        return cls(expert.outputs, {game: expert.view}, expert.rules, saws)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; `read` turns them back."""
        rows: list[dict[str, Any]] = [
            {"game": game, "view": view.to_dict()} for game, view in self.views.items()
        ]
        for row in rows:
            if row["game"] in self.teacher_views:
                row["teacher_view"] = self.teacher_views[row["game"]].to_dict()
        rules = self.rules.to_dict()
        return {"outputs": self.outputs, "plays": rows, **({"rules": rules} if rules else {})}

    def view(self, game: str | None, where: str) -> AnyView:
        """What it sees in `game`.

        Raises:
          ValueError: that depends on the game, and `game` is none of its own.
        """
        if game in self.views:
            return self.views[game]
        if len(set(self.views.values())) > 1:
            raise ValueError(
                f"{where}: sees its games in different ways, and {game or 'none'} is not one of "
                f"them; give --game, one of {', '.join(map(str, self.views))}"
            )
        return next(iter(self.views.values()))


def read(tree: Any, where: str) -> Carried | None:
    """What a file of ours says of its network; None for any other file.

    Raises:
      UnknownTask: it plays a task of somebody's own, which was not imported.
      ValueError: it is damaged.
    """
    fields = tree.get(KEY) if isinstance(tree, dict) else None
    if fields is None:
        return None
    try:
        rows = {_game(row["game"]): row for row in fields["plays"]}
        views = {game: from_dict(row["view"]) for game, row in rows.items()}
        saws = {
            game: from_dict(row["teacher_view"])
            for game, row in rows.items()
            if row.get("teacher_view") is not None
        }
        if not views or fields["outputs"] not in _OUTPUTS:
            raise ValueError("no game, or outputs that are neither Q-values nor logits")
        rules = settings.build(Rules, fields.get("rules", {}), "rules")
        return Carried(fields["outputs"], views, rules, saws)
    except tasks.UnknownTask as error:
        raise tasks.UnknownTask(f"{where}: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{where}: its field {KEY!r} is damaged ({type(error).__name__}: {text}); export the "
            f"file again"
        ) from error


def _game(name: Any) -> str | None:
    # `tasks.get` would look for the closest one, however long the name is.
    if name is None or name in tasks.names():
        return name
    if not isinstance(name, str):
        raise ValueError("names a game that there is not")
    duel = combat.find(name[:80])
    if duel is None or duel.name != name:
        raise tasks.UnknownTask(
            f"plays a task that there is not, {one_line(name, 60)}; for a task of your own "
            f"{tasks.OF_ONE_S_OWN}"
        )
    return name
