"""The model card of a student: `README.md` of its repository, for people and for the hub."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxdistill import tasks
from jaxdistill.experts import hub
from jaxdistill.experts.formats import published
from jaxdistill.experts.student import Student
from jaxdistill.report import tables
from jaxdistill.tasks.atari import Game
from jaxdistill.tasks.task import Task, unusual_limit
from jaxdistill.tasks.views import View
from jaxdistill.text import printable

_TAGS = ("reinforcement-learning", "policy-distillation", "jaxdistill", "jax")


def text(student: Student, address: hub.Address, clips: Sequence[str] = ()) -> str:
    """The card of a student that is measured, at the address where it will be.

    Its metadata has the licence of `student.card`, if there is one, and a `model-index` with the
    student's mean score in each task; the interval, the number of whole games and epsilon are
    arguments of that metric, and `published.WHOLE` where games were cut or of other rules.

    Args:
      clips: paths of pictures in the repository, to be shown.

    Raises:
      Exception: of almost any kind, where `student.card` is not as a run has it.
    """
    name = address.repository.rpartition("/")[2]
    return f"---\n{_metadata(student, name)}\n---\n\n{_body(student, address, name, clips)}"


def _metadata(student: Student, name: str) -> str:
    package, measured = hub.package(), student.card["measured"]
    rows = {row["game"]: row["student"] for row in measured["games"]}
    results = [
        package.EvalResult(
            task_type="reinforcement-learning",
            task_name="reinforcement-learning",
            dataset_type=_environment(role.task),
            dataset_name=_environment(role.task),
            metric_type="mean_reward",
            metric_name="mean_reward",
            metric_value=round(rows[role.game]["mean"], 4),
            metric_args=_interval(rows[role.game])
            | {
                "episodes": rows[role.game]["episodes"],
                "epsilon": measured["epsilon"],
            }
            | _other_games(student, role.task),
        )
        for role in student.roles
    ]
    of_the_hub = [x for role in student.roles for x in hub.addresses(role.source)]
    return package.ModelCardData(
        license=student.card.get("license"),
        library_name="jaxdistill",
        pipeline_tag="reinforcement-learning",
        tags=[*_TAGS, *(_environment(role.task) for role in student.roles)],
        base_model=[*dict.fromkeys(x.repository for x in of_the_hub)] or None,
        model_name=name,
        eval_results=results,
    ).to_yaml(line_break="\n")


def _other_games(student: Student, task: Task) -> dict[str, Any]:
    """An argument of a metric of games that were cut or played by other rules."""
    whole = tasks.under(task, student.rules).as_published(student.max_steps)
    return {} if whole else {published.WHOLE: False}


def _interval(scores: Mapping[str, Any]) -> dict[str, Any]:
    """A mean's interval as an argument of its metric; none of one game, which has none."""
    interval = scores["interval"]
    return {} if None in interval else {"interval_95": [round(x, 4) for x in interval]}


def _environment(task: Task) -> str:
    """What the hub's cards call a task."""
    return f"ALE/{task.env_id}" if isinstance(task, Game) else task.name


def _body(student: Student, address: hub.Address, name: str, clips: Sequence[str]) -> str:
    measured, games = student.card["measured"], student.games
    episodes = max(row["student"]["episodes"] for row in measured["games"])
    played = (tasks.under(role.task, student.rules) for role in student.roles)
    limit = {"max_steps": unusual_limit(student.max_steps, played)}
    protocol = tables.protocol({"episodes": episodes, **measured, **limit})
    made = student.made.get("method", "distillation")
    first = games[0]
    own = [game for game in games if tasks.added(game)]
    imports = " --import=FILE" if own else ""
    needs, module = "", ""
    if own:
        needs = (
            f"\n{_cell(', '.join(own))}: of a file that does not come with jaxdistill. Every "
            f"command needs your file: --import=FILE; Python imports it first.\n"
        )
        module = f"import FILE  # which adds {', '.join(own)}\n"
    shape, dtype = student.roles[0].view.shape, student.roles[0].task.suite.frame_dtype
    network = "skills" if student.roles[0].task.suite.kinds else "mlp"
    seen = isinstance(student.roles[0].task.suite.view, View)
    fields = "" if seen else f" --config.network={network}"
    pictures = "".join(f"![expert beside student]({clip})\n" for clip in clips)
    return f"""# {name}

One network that plays {", ".join(games)}, made of an expert of each by
{_cell(made)} with jaxdistill.

{_table(*tables.student_lines(measured["games"]))}

{_cell(protocol)}. Retention is (student - random) / (expert - random).

{pictures}
## Use it

```
pip install 'jaxdistill[hub]'
jaxdistill evaluate --expert={address} --game={first}{imports}
jaxdistill watch --expert={address} --game={first}{imports} --out=game.gif
```
{needs}
It stands wherever an expert's file can: to distil it again,
`jaxdistill distill --config=merge:{first}={address} --workdir=DIR{fields}{imports}`. From Python:

```python
import jaxdistill
import numpy as np
{module}
policy = jaxdistill.load("{address}")
observations = np.zeros({(1, *shape)}, "{dtype}")  # (B, stack, ...): what is seen
actions = policy.act(observations, task="{first}")
```

## Its experts

{_table(("task", "expert", "from"), [(x.game, x.expert, _origin(x.source)) for x in student.roles])}

`policy.json` says what it sees, its actions and how it was made; `policy.safetensors` holds its
weights.
"""


def _origin(source: str) -> str:
    """Where an expert, or several together, came from: addresses, or what files are called."""
    return ", ".join(
        str(hub.parse(part)) if hub.is_address(part) else pathlib.PurePath(part).name
        for part in source.split(" + ")
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    return re.sub(r"([|<>`\[\]*_\\])", r"\\\1", printable("" if value is None else value))
