"""The rooms of the package: what stands higher imports what stands lower, never upwards."""

from __future__ import annotations

import ast
import importlib
import pathlib
import types

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "jaxdistill"
# From the ground up; a room may import itself and those before it.
FLOORS = (
    {
        *("text", "disk", "settings", "meshes", "lock", "workdirs", "preemption", "shipped"),
        *("clocks", "terminal", "metrics", "profiler"),
    },
    {"tasks"},
    {"networks"},
    {"experts"},
    {"play"},
    {"learn", "report"},
    {"run"},
    {"api", "cli"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def _rooms_imported(path: pathlib.Path) -> set[str]:
    """The rooms that a module of the package imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.startswith("jaxdistill")
        ):
            inner = node.module.split(".")[1:]
            names |= {inner[0]} if inner else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            inside = (x.name.split(".") for x in node.names if x.name.startswith("jaxdistill."))
            names |= {name[1] for name in inside}
    return names


def test_imports_run_downwards_only():
    arrows = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if room == "__init__":
            continue
        for other in _rooms_imported(path):
            arrows.add((room, other))
            assert (
                other == room or FLOOR[other] < FLOOR[room] or FLOOR[other] == FLOOR[room] == 0
            ), f"{path.relative_to(PACKAGE)} imports {other}"
    assert ("run", "learn") in arrows and ("play", "tasks") in arrows  # it does see imports


def test_the_tests_stand_where_their_rooms_do():
    rooms = {
        path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"
    }
    tests = pathlib.Path(__file__).parent
    folders = {path.name for path in tests.iterdir() if path.is_dir()}
    assert rooms <= folders


PROGRAMS = [
    path
    for folder in ("benchmarks", "configs", "launch")
    for path in sorted((PACKAGE.parent / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_program_names_only_what_modules_have(path):
    """Many need PyTorch or hours, so that nothing else would notice a name that has moved."""
    tree, modules = ast.parse(path.read_text()), {}
    for node in ast.walk(tree):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("jaxdistill"):
            continue
        room = importlib.import_module(node.module)
        for alias in node.names:
            if not hasattr(room, alias.name):  # a module that nothing has imported yet
                importlib.import_module(f"{node.module}.{alias.name}")
            found = getattr(room, alias.name)
            if isinstance(found, types.ModuleType):
                modules[alias.asname or alias.name] = found
    assert not [
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        and not hasattr(modules[node.value.id], node.attr)
    ]
