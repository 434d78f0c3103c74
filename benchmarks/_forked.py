"""Runs pytest again and again, in children of a process that has imported what is heavy.

A line of JSON comes in, with `directory`, `tests`, `said` (the file for what is printed) and
`limit` in seconds; a line with `outcome` ("passed", "failed" or "timeout") and `seconds` goes out.
Nothing of ours is imported before the fork, so that a child tests what stands in its directory.
"""

import contextlib
import json
import os
import signal
import sys
import time

# Heavy, and without a thread of their own until they are used: a fork takes none along.
import chex  # noqa: F401
import envpool
import envpool.atari  # noqa: F401
import flax.linen
import flax.serialization  # noqa: F401
import jax.numpy  # noqa: F401
import ml_collections  # noqa: F401
import numpy  # noqa: F401
import optax  # noqa: F401
import orbax.checkpoint  # noqa: F401
import tensorstore  # noqa: F401


def _test(directory: str, tests: list[str], said: str) -> int:
    """Runs the tests of a copy of the tree, in a child."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    written = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for ours, theirs in ((nothing, 0), (written, 1), (written, 2)):
        os.dup2(ours, theirs)
    os.chdir(directory)
    sys.path[0] = directory  # as of `python -m`
    import pytest

    return int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))


def _wait(child: int, limit: float) -> str:
    """How a child ends; one that has not after `limit` seconds is killed, with all it began."""
    late, ended = time.monotonic() + limit, 0
    try:
        while time.monotonic() < late:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return "passed" if status == 0 else "failed"
            time.sleep(0.02)
        return "timeout"
    finally:
        if not ended:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def main() -> None:
    for line in iter(sys.stdin.readline, ""):
        asked = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if not child:
            sys.exit(_test(asked["directory"], asked["tests"], asked["said"]))
        outcome = _wait(child, asked["limit"])
        print(json.dumps({"outcome": outcome, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):  # which ends the child that it waits for, too
        main()
