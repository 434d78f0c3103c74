"""The doctor's list of what may be missing."""

import pathlib
import tomllib

from jaxdistill.run import doctor

OURS = {"test", "mutants", "docs", "dev"}  # of those who change the package


def test_every_extra_for_users_is_looked_for():
    project = tomllib.loads((pathlib.Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert doctor.EXTRAS.keys() == project["project"]["optional-dependencies"].keys() - OURS
