"""`--wandb=PROJECT`: what a run logs goes to Weights & Biases too."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from absl import flags

_PROJECT = flags.DEFINE_string(
    "wandb",
    None,
    "project of Weights & Biases that is shown what is logged, beside TensorBoard; "
    "WANDB_MODE=offline keeps it here",
)

_HERE = ("offline", "dryrun", "disabled")  # values of WANDB_MODE in which nobody is asked


def show(settings: Any) -> None:
    """Has rows that are logged from here on shown in the project, if the flag is given.

    Those of each directory are a run there, as of each of several networks that are independent.
    One that goes on goes on there too: its id stands in `wandb.json` beside its rows.

    Args:
      settings: of the run, to be shown beside it: a frozen dataclass.

    Raises:
      ValueError: Weights & Biases is not installed, or refuses; so does what is called once a run
        begins.
    """
    if not _PROJECT.value:
        return
    try:
        import wandb
    except ImportError as error:
        raise ValueError(
            f"--wandb needs Weights & Biases ({error}): pip install 'jaxdistill[wandb]'"
        ) from error
    from jaxdistill import disk, meshes, metrics

    # Now, and not when a run has played its first games. The one that logs is the one that leads.
    if os.environ.get("WANDB_MODE", "online") not in _HERE and meshes.leads():
        with _explained(wandb):
            wandb.login()

    def begin(directory: pathlib.Path) -> Callable[[int, Mapping[str, float]], None]:
        known = directory / "wandb.json"
        if not known.is_file():
            disk.write_json(known, {"id": uuid.uuid4().hex[:12]})
        advice = "remove it, and the run is another there"
        said = disk.read_json(known, advice)
        if not isinstance(said, dict) or not isinstance(said.get("id"), str):
            raise ValueError(f"{known} is damaged (no id); {advice}")
        with _explained(wandb):
            wandb.finish()  # of another directory, or it would be given as this one
            run = wandb.init(
                project=_PROJECT.value,
                id=said["id"],
                name=str(directory),
                dir=directory,
                config=dataclasses.asdict(settings),
                resume="allow",
                settings=wandb.Settings(silent=True),
            )
        return lambda step, numbers: run.log(dict(numbers), step=step)

    metrics.show_in(begin)


@contextlib.contextmanager
def _explained(wandb: Any) -> Iterator[None]:
    """Turns what Weights & Biases raises into a ValueError of one line that says what to do."""
    try:
        yield
    except wandb.errors.Error as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise ValueError(
            f"--wandb={_PROJECT.value}: {reason}; see to it, or set WANDB_MODE=offline"
        ) from error
