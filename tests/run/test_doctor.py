"""The doctor's list of what may be missing."""

import pathlib
import tomllib

from jaxdistill.run import doctor

OURS = {"test", "mutants", "docs", "dev"}  # of those who change the package


def test_every_extra_for_users_is_looked_for():
    project = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert doctor.EXTRAS.keys() == project["project"]["optional-dependencies"].keys() - OURS


def test_what_fails_is_said_to_fail_in_one_line():
    def fails():
        raise RuntimeError("no\ndevice")

    assert doctor._tried("a check", lambda: "fine") == ("a check", "fine", True)
    what, found, works = doctor._tried("a check", fails)
    assert (what, works) == ("a check", False)
    assert found.startswith("RuntimeError: no") and "\n" not in found
