"""A student's repository on the Hugging Face hub: what it holds, and how it gets there."""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
import re
import shutil
import tempfile

from jaxdistill import disk
from jaxdistill.experts import hub, student
from jaxdistill.experts.student import Student
from jaxdistill.report import card
from jaxdistill.run import students
from jaxdistill.text import one_line

_REPORT = "report.html"
_CLIP = re.compile(r'<img alt="([^"]{1,80})" src="data:image/gif;base64,([A-Za-z0-9+/=]+)"')
_SHOWN = re.compile(rf"{re.escape(_REPORT)}|clips/[^/]+\.gif")  # of what was pushed before
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}")


def push(
    source: str | os.PathLike[str],
    repository: str,
    *,
    revision: str | None = None,
    private: bool = False,
    license: str | None = None,
    dry_run: str | os.PathLike[str] | None = None,
) -> str:
    """Makes or updates a repository of the hub, in one commit: all of it or nothing.

    It holds the student (`policy.json`, `policy.safetensors`), its model card (`README.md`), and of
    a run `report.html` and the clips that are in it. Of a student that was pushed there before,
    report and clips are taken away. A repository of something else is left as it is.

    Args:
      source: workdir of a run, or directory of a student that was exported.
      repository: "user/name"; made if there is none.
      revision: branch to push to, made if there is none; by default the main one.
      private: a repository that is made is for its owner alone.
      license: the hub's name of the licence, such as "mit"; by default what the student says.
      dry_run: a new directory that is given the files; nothing is pushed.

    Returns:
      The address that loads it: `hf://user/name@COMMIT`, without the commit where none was made.

    Raises:
      FileNotFoundError, ValueError, OSError: one line on what is missing or refused, such as a
        repository that holds files and no student; then nothing was pushed.
    """
    address = hub.parse(f"{hub.PREFIX}{repository}")
    if str(address) != f"{hub.PREFIX}{repository}" or address.revision or address.path:
        raise ValueError(f"repo is {repository!r}, expected USER/NAME")
    if revision is not None:
        address = hub.parse(f"{address}@{revision}")
        if address.revision != revision:  # the rest of it would be a path
            raise ValueError(
                f"revision is {revision!r}, which no address can name; expected one without '/'"
            )
    if license is not None and not _LICENSE.fullmatch(license):
        raise ValueError(f"license is {license!r}, expected the hub's name of it, such as mit")
    package = hub.package()
    if dry_run is None and package.get_token() is None:
        raise ValueError(f"to push to {address} takes a token that may write; {hub.LOG_IN}")
    files = files_of(source, address, license)
    if dry_run is not None:
        _write(pathlib.Path(dry_run), files)
        return str(address)
    with hub.explained(address):
        api = package.HfApi()
        api.create_repo(repository, private=private or None, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise ValueError(
                f"{address} is there and public, and nothing was pushed; make it private on its "
                "page, or leave --private out"
            )
        # A branch that is made begins as the main one.
        there = revision if revision and api.revision_exists(repository, revision) else None
        files_there = api.model_info(repository, revision=there).siblings or ()
        standing = {x.rfilename for x in files_there} - {".gitattributes"}
        if standing and not standing.issuperset(student.FILES):
            raise ValueError(
                f"{address} holds files and no student of jaxdistill, and nothing was pushed; "
                f"name a new repository, or an empty one"
            )
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        old = sorted(filter(_SHOWN.fullmatch, standing))
        commit = api.create_commit(
            repository,
            [
                *(package.CommitOperationAdd(name, content) for name, content in files.items()),
                *(package.CommitOperationDelete(name) for name in old if name not in files),
            ],
            commit_message="A student of jaxdistill",
            revision=revision,
        )
    return str(dataclasses.replace(address, revision=commit.oid))


def files_of(
    source: str | os.PathLike[str], address: hub.Address, license: str | None = None
) -> dict[str, bytes]:
    """What a repository of a student holds, by path; raises as `push` does."""
    source = pathlib.Path(source)
    if student.is_student(source):
        found, page = Student.load(source), ""
    else:
        found = students.read(source)
        report = source / _REPORT
        page = report.read_text("utf-8") if report.is_file() else ""
    if missing := [game for game in found.games if game not in found.scores]:
        raise ValueError(
            f"{source} has no scores of {', '.join(missing)}; let its run come to its table, then "
            "push it"
        )
    if license is not None:
        found = dataclasses.replace(found, card={**found.card, "license": license})
    with tempfile.TemporaryDirectory() as folder:
        found.save(folder)
        files = {path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())}
    clips = {
        f"clips/{game.replace('/', '_')}.gif": base64.b64decode(gif)
        for game, gif in _CLIP.findall(page)
        if game in found.games
    }
    try:
        files[hub.CARD] = card.text(found, address, [*clips]).encode()
    except Exception as error:  # whatever a value of another kind brings about
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(
            f"{source}: what it says of its scores is damaged ({reason}); export the student again"
        ) from error
    return files | ({_REPORT: page.encode()} if page else {}) | clips


def _write(directory: pathlib.Path, files: dict[str, bytes]) -> None:
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(f"{directory} is not empty; choose another --dry_run")
    # What says that a student is there comes last, as where a run exports one.
    names = sorted(files, key=lambda name: name == "policy.json")
    try:
        disk.write_files({directory / name: files[name] for name in names}, folder=True)
    except OSError:
        shutil.rmtree(directory, ignore_errors=True)  # in which nothing else was
        raise
