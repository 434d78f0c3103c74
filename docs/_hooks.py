"""Pages of the site that are made from the code: flags, settings, and figures from elsewhere."""

from __future__ import annotations

import dataclasses
import inspect
import pathlib
import re
import subprocess
import sys
import typing
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what is made, and the pictures that live beside what they show."""
    made = {"programs.md": programs(), "settings.md": settings_page()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    picture = (ROOT / "benchmarks" / "summary.svg").read_text()
    files.append(File.generated(config, "summary.svg", content=picture))
    return files


def programs() -> str:
    """Every program's own help: what it does, and its flags."""
    parts = [
        "# Programs and flags\n\nInstalled, they are `jaxdistill PROGRAM`; in a checkout `python "
        "launch/PROGRAM.py`. Every input is a flag.\n"
    ]
    from jaxdistill.cli import PROGRAMS

    for name, file in PROGRAMS.items():
        path = ROOT / "launch" / f"{file}.py"
        shown = subprocess.run(
            [sys.executable, str(path), "--helpfull"], capture_output=True, text=True, check=False
        ).stdout
        text = inspect.cleandoc(path.read_text().split('"""')[1])
        called = name if name == file else f"{name} ({path.name})"
        parts.append(f"## {called}\n\n{_prose(text)}\n\n{_flags(shown, path)}")
    return "\n".join(parts)


def _prose(text: str) -> str:
    """A docstring as Markdown: commands that are indented in it stay blocks."""
    return re.sub(r"(?<!\n)\n(?=    )", "\n\n", text)


def _flags(shown: str, path: pathlib.Path) -> str:
    """A table of the flags that `--helpfull` shows of a program and what it shares with others."""
    rows = ["| flag | means |", "|---|---|"]
    for section in re.split(r"^(?=\S.*:$)", shown, flags=re.MULTILINE):
        owner = section.partition(":\n")[0].strip()
        if owner not in (str(path), path.name) and not owner.startswith("_"):
            continue
        for entry in re.split(r"^  (?=-)", section, flags=re.MULTILINE)[1:]:
            name, _, rest = entry.partition(": ")
            told = " ".join(rest.split()).replace("|", "\\|").replace("<", "&lt;")
            rows.append(f"| `{name.split(',')[-1]}` | {told} |")
    return "\n".join(rows) + "\n" if len(rows) > 2 else ""


def settings_page() -> str:
    """Every field of every settings dataclass, with its type, default and meaning."""
    from jaxdistill.learn import train_settings, weight_merging
    from jaxdistill.run import distill_settings, merge_settings
    from jaxdistill.tasks import atari

    parts = [
        "# Settings\n\nEach field is a flag, such as `--config.learn.rounds=400`. A value that "
        "cannot be is refused in one line, and so is one without effect.\n"
    ]
    for title, prefix, settings in (
        ("Merging experts: `distill`", "", distill_settings.Settings),
        ("What is collected", "collect.", distill_settings.Collect),
        ("How it learns", "learn.", distill_settings.Learn),
        ("How play is measured", "evaluate.", distill_settings.Evaluate),
        ("How a game of Atari is played", "rules.", atari.Rules),
        ("Training and fine-tuning: `train`, `finetune`", "", train_settings.Settings),
        ("Merging weights: `merge-weights`", "", merge_settings.Settings),
        ("Its states", "collect.", merge_settings.Collect),
        ("Its methods", "merge.", weight_merging.Merge),
        ("How what comes of it is measured", "evaluate.", distill_settings.Measure),
    ):
        parts.append(f"## {title}\n\n{_fields(settings, prefix)}")
    return "\n".join(parts)


def _fields(settings: type, prefix: str) -> str:
    told: dict[str, str] = {}
    for base in reversed(settings.__mro__):
        told |= _attributes(base)
    hints = typing.get_type_hints(settings)
    rows = ["| `--config.` | default | means |", "|---|---|---|"]
    for field in dataclasses.fields(settings):
        kind = hints[field.name]
        if dataclasses.is_dataclass(kind):
            continue
        default = "" if field.default is dataclasses.MISSING else f"`{field.default}`"
        if field.default is None:
            default = f"none ({_named(kind)})"
        if field.name not in told:
            raise ValueError(f"{settings.__qualname__}.{field.name} is described nowhere")
        means = told[field.name].replace("|", "\\|")
        rows.append(f"| `{prefix}{field.name}` | {default} | {means} |")
    return "\n".join(rows) + "\n"


def _named(kind: Any) -> str:
    """What kind of value an optional setting takes, in a word."""
    (kind,) = (x for x in typing.get_args(kind) if x is not type(None))
    return {str: "text", int: "number", float: "number"}.get(kind, "several")


def _attributes(settings: type) -> dict[str, str]:
    """What the `Attributes:` of a docstring say of each name."""
    _, _, listed = inspect.cleandoc(settings.__doc__ or "").partition("Attributes:\n")
    told: dict[str, str] = {}
    for entry in re.split(r"^  (?=\S)", listed, flags=re.MULTILINE)[1:]:
        names, _, means = entry.partition(": ")
        for name in names.split(", "):
            told[name.strip()] = " ".join(means.split())
    return told
