"""Says what is installed and whether it works here: what a report of a bug should hold.

It steps a pool, updates a network and writes a checkpoint; it exits 1 if one of them fails.
"""

import sys

from _main import run


def main() -> None:
    from jaxdistill import terminal
    from jaxdistill.run import doctor

    marks = {None: "", True: "works", False: "fails"}
    fails = False
    # In two tables: what ends the process has been told of before.
    for examine in (doctor.installed, doctor.tried):
        findings = list(examine())
        rows = [(x.what, x.found, marks[x.works]) for x in findings]
        terminal.table("", ("what", "found", ""), rows)
        fails |= any(x.works is False for x in findings)
    if fails:
        sys.exit(1)


if __name__ == "__main__":
    run(main)
