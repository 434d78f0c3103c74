"""Programs that tests start are as users have them, but for what takes long in a run that is tiny.

Their emulators are made quickly, see `quick_emulators`, a page's clips show two steps, and expert
and student are compared in a few states.
"""

from __future__ import annotations

import os
import pathlib
import runpy
import sys

import quick_emulators

from jaxdistill.report import page
from jaxdistill.run import closing

ROOT = pathlib.Path(__file__).parents[1]


def command(program: str, *flags: str, without_page: bool = False) -> list[str]:
    """What starts a program of `launch/`, in the `environment`."""
    begin = f"import quick_program; quick_program.run(without_page={without_page})"
    return [sys.executable, "-c", begin, str(ROOT / "launch" / program), *flags]


def environment() -> dict[str, str]:
    """Of a program that `command` starts."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "GLIBC_TUNABLES": "",  # else the program starts anew, and is what users have
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
    }


def install(*, without_page: bool = False) -> None:
    """For this process; `without_page` leaves out the report's page too."""
    quick_emulators.install()
    closing.COMPARED_STATES = 32
    page.CLIP_SECONDS = 2 / 15
    if without_page:
        closing.write_page = lambda *_: None


def run(*, without_page: bool = False) -> None:
    """Runs the program that is this process's first argument, with the others as its own."""
    install(without_page=without_page)
    sys.argv = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
