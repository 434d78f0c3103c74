"""Trained PyTorch RL experts -> one JAX policy. The public interface, imported when it is used.

    import jaxdistill

    policy = jaxdistill.load("experts/pong.pth")
    result = jaxdistill.distill({"pong": "experts/pong.pth"}, "runs/mine")
    rows = jaxdistill.evaluate("runs/mine", episodes=16)

`jaxdistill.tasks.get(NAME)` is what is played; its `names`, `add` and `check` stay as they are too.
Everything else may change.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxdistill import tasks
    from jaxdistill.api import Policy, distill, evaluate, load

    __version__: str

__all__ = ["Policy", "distill", "evaluate", "load", "tasks"]


def __getattr__(name: str) -> Any:
    # Importing the package is cheap and touches no device; what is asked for is not.
    if name == "tasks":
        return importlib.import_module("jaxdistill.tasks")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("jaxdistill")
    if name in __all__:
        return getattr(importlib.import_module("jaxdistill.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
