"""`jaxdistill PROGRAM --flags`: the programs of `launch/`, wherever the package is installed."""

from __future__ import annotations

import ast
import difflib
import importlib.metadata
import importlib.util
import pathlib
import sys

from jaxdistill import shipped, text

PROGRAMS = {
    "distill": "distill",
    "collect": "collect",
    "train": "train_expert",
    "finetune": "finetune",
    "merge-weights": "merge_weights",
    "sweep": "sweep",
    "convert": "convert",
    "evaluate": "evaluate",
    "watch": "watch",
    "export": "export",
    "push": "push",
    "doctor": "doctor",
}
"""What each is called here, and its file in `launch/`."""

NAME = "jaxdistill"


def main() -> None:
    """Hands the command line over to a program; exits 2 with one line where there is none."""
    name, *rest = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(_usage())
    elif name == "--version":
        print(f"{NAME} {importlib.metadata.version(NAME)}")
    elif name not in PROGRAMS:
        close = difflib.get_close_matches(name, PROGRAMS, 1)
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(PROGRAMS)}"
        print(f"error: {NAME} has no program {text.printable(repr(name))}; {hint}", file=sys.stderr)
        sys.exit(2)
    else:
        file = _file(name)
        sys.argv = [f"{NAME} {name}", *rest]
        sys.path.insert(0, str(file.parent))  # as Python does for a program that it is given
        _run(file)


def _run(file: pathlib.Path) -> None:
    """As `runpy.run_path` would, which puts another name into `sys.argv`."""
    spec = importlib.util.spec_from_file_location("__main__", file)
    assert spec and spec.loader
    program = importlib.util.module_from_spec(spec)
    sys.modules["__main__"] = program
    spec.loader.exec_module(program)


def _file(name: str) -> pathlib.Path:
    return shipped.ROOT / "launch" / f"{PROGRAMS[name]}.py"


def _usage() -> str:
    """One line of each program, from its own docstring."""
    width = max(map(len, PROGRAMS))
    lines = [f"usage: {NAME} PROGRAM --flag=value ...", ""]
    for name in PROGRAMS:
        told = ast.get_docstring(ast.parse(_file(name).read_text("utf-8"))) or ""
        lines.append(f"  {name:{width}}  {told.splitlines()[0]}")
    return "\n".join([*lines, "", f"`{NAME} PROGRAM --help` lists its flags."])


if __name__ == "__main__":
    main()
