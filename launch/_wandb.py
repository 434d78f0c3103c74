"""`--wandb=PROJECT`: what a run logs goes to Weights & Biases too."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

_PROJECT = flags.DEFINE_string(
    "wandb",
    None,
    "project of Weights & Biases that is shown what is logged, beside TensorBoard; "
    "WANDB_MODE=offline keeps it here",
)


def show(settings: Any) -> None:
    """Has rows that are logged from here on shown as one run of the project, if the flag is given.

    A run that goes on goes on there too: its id stands in `WORKDIR/wandb.json`.

    Args:
      settings: of the run, to be shown beside it: a frozen dataclass.

    Raises:
      ValueError: Weights & Biases is not installed.
    """
    if not _PROJECT.value:
        return
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            f"--wandb needs Weights & Biases ({error}): pip install 'jaxdistill[wandb]'"
        ) from error
    from jaxdistill import metrics
    from jaxdistill import settings as settings_lib

    def begin(directory: pathlib.Path) -> Callable[[int, Mapping[str, float]], None]:
        known = directory / "wandb.json"
        if not known.is_file():
            settings_lib.write_json(known, {"id": uuid.uuid4().hex[:12]})
        run = wandb.init(
            project=_PROJECT.value,
            id=json.loads(known.read_text())["id"],
            name=str(directory),
            dir=directory,
            config=dataclasses.asdict(settings),
            resume="allow",
            settings=wandb.Settings(silent=True),
        )
        return lambda step, numbers: run.log(dict(numbers), step=step)

    metrics.show_in(begin)
