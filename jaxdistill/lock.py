"""One writer to a directory: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import pathlib
import shlex
import socket
import sys
from collections.abc import Iterator

from jaxdistill import meshes

NAME = "writer.lock"


@contextlib.contextmanager
def one_writer(directory: str | os.PathLike[str], mark: str) -> Iterator[None]:
    """Keeps other writers out of `directory`, which is made where it is missing, for the body.

    The lock is `flock` on `DIRECTORY/writer.lock`. The kernel lets go of it when the process ends,
    in whatever way, so a killed run never stands in its own way; the file stays, and says who wrote
    last. Of several processes of one run only the leading one takes it.

    On NFS (Linux) the lock holds across machines. If the machine that holds it goes down, the
    server frees it after its lease (NFSv4, about 90 seconds) or once that machine is back (v3).
    Where a file system has no locks, or a mount keeps them to one machine (`nolock`,
    `local_lock=flock`, Lustre's `localflock`), two machines can still meet: the first case is said
    in one line on stderr, the others cannot be seen from here.

    Args:
      mark: name of the file that tells a directory of this kind. One that holds other files and
        not this one is somebody else's: nothing is written there.

    Raises:
      ValueError: another process writes there, or the directory is something else.
      OSError: the directory cannot be made or written to, as on a full disk.
    """
    if not meshes.leads():
        yield
        return
    directory = pathlib.Path(directory)
    refuse_foreign(directory, mark)
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / NAME).open("a+", encoding="utf-8")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ValueError(
                    f"{directory} is being written to by {_holder(file)}; wait for it, stop it, or "
                    f"choose another directory"
                ) from None
            print(
                f"note: the file system of {directory} has no locks ({error.strerror}): nothing "
                f"keeps a second run out of it",
                file=sys.stderr,
            )
        with _writing(directory / NAME):  # at once: nothing is left to fail when it is closed
            file.truncate(0)
            os.write(file.fileno(), json.dumps(_myself()).encode())
        yield


@contextlib.contextmanager
def _writing(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{path} cannot be written to ({error.strerror}); choose another directory"
        ) from error


def refuse_foreign(directory: pathlib.Path, mark: str) -> None:
    """Raises ValueError if `directory` is no directory, or holds something and not `mark`."""
    # A kill while the mark was written leaves this beside nothing else.
    own = {NAME, f"{mark}.partial"}
    if directory.exists() and (
        not directory.is_dir()
        or (not (directory / mark).is_file() and {x.name for x in directory.iterdir()} - own)
    ):
        raise ValueError(f"{directory} exists and holds no {mark}; choose another directory")


def _myself() -> dict[str, str | int]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.datetime.now().astimezone().isoformat(" ", "seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
    }


def _holder(file: object) -> str:
    """Who holds the lock, as it says itself; it may just have begun to."""
    try:
        file.seek(0)  # type: ignore[attr-defined]
        holder = json.load(file)  # type: ignore[arg-type]
        return (
            f"process {holder['pid']} on {holder['host']} since {holder['since']} "
            f"({holder['command']})"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
