"""Flags of programs that several processes can run together."""

import os
import sys
from typing import NoReturn

from absl import flags

from jaxdistill import text

_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of the first of several processes, or 'auto' on a cluster"
)
_PROCESSES = flags.DEFINE_integer("processes", None, "how many processes share this run", 1)
_PROCESS = flags.DEFINE_integer("process", None, "number of this one, from 0", 0)


def join_processes() -> None:
    """Makes this one of several processes of a run, if the flags say so.

    Each process is given the same command but for `--process`, and sees the same files.

    Raises:
      ValueError: half of the flags are missing, `--process` is none of the processes, or
        `--coordinator` no address.
    """
    given = [flag.value for flag in (_COORDINATOR, _PROCESSES, _PROCESS)]
    if _COORDINATOR.value == "auto" and given[1:] == [None, None]:
        arguments = {}
    elif None not in given:
        names = ("coordinator_address", "num_processes", "process_id")
        arguments = dict(zip(names, given, strict=True))
        # Else JAX looks for a cluster nevertheless, and under Slurm takes one device of several.
        arguments["cluster_detection_method"] = "deactivate"
    elif given == [None, None, None]:
        return
    else:
        raise ValueError(
            "--coordinator=HOST:PORT, --processes=N and --process=I go together; a cluster that "
            "JAX knows needs --coordinator=auto alone"
        )
    if arguments and _PROCESS.value >= _PROCESSES.value:
        raise ValueError(
            f"--process is {_PROCESS.value}, expected less than --processes={_PROCESSES.value}"
        )
    if arguments:
        host, _, port = _COORDINATOR.value.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(
                f"--coordinator is {_COORDINATOR.value!r}, expected HOST:PORT; 'auto', on a "
                f"cluster that JAX knows, goes without --processes and --process"
            )
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_preemption_service", False)  # SIGTERM is `preemption`'s
    try:
        jax.distributed.initialize(**arguments)
    except RuntimeError as error:
        _fail(str(error))
    if jax.process_index():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (one of them talks, to the end)


def _fail(reason: str) -> NoReturn:
    """Ends this process with one line: what JAX has begun would wait for the others at its end."""
    told = text.printable(" ".join(reason.split()))
    print(
        f"error: --coordinator={_COORDINATOR.value}: the processes of this run did not find each "
        f"other ({told}); start all of them within five minutes, each with the address of process "
        f"0, at a port that is free there and that the machines may reach",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)
