"""Experts and students of the Hugging Face hub: `hf://user/name[@revision][/path/in/repository]`.

`huggingface_hub`, the extra `hub`, talks to the hub and keeps its cache. Ours is which of a
repository's files is meant, that no more is downloaded than would be read, and one line for each
way in which it can fail. What lies beside the file is understood in `formats.published`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from jaxdistill import shipped
from jaxdistill.disk import read_json, write_files
from jaxdistill.experts import archives, torch_file
from jaxdistill.text import one_line

PREFIX = "hf://"
CARD = "README.md"
BESIDE = (CARD, "config.yml", "args.yml", "env_kwargs.yml", "results.json", "config.json")
"""Files that say something of an expert beside them."""
MAX_TEXT_BYTES = 64 * 2**10
"""Most bytes of such a file; that of a policy has a few thousand."""
EXPECTED = "hf://USER/NAME[@REVISION][/PATH]"
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"{_PART}/{_PART}")
# A branch or a tag, a commit, or the hub's own names of pull requests.
_REVISION = r"refs/(?:pr|convert)/[A-Za-z0-9._-]+|[^/@\s]{1,200}"
_ADDRESS = re.compile(rf"{PREFIX}({_REPOSITORY.pattern})(?:@({_REVISION}))?(?:/(.*))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")

_SECONDS = 20.0  # to wait for an answer
_FOLDERS = (("policy.json", "policy.safetensors"), ("expert.json", "weights.safetensors"))
"""Directories that are experts or students, by their two files."""

_SIZES = {"policy.json": 16 * 2**20, "expert.json": 16 * 2**20}
_ENDINGS = "|".join(end.removeprefix(".") for end in (*archives.ENDINGS, ".gz"))
_ASIDE = re.compile(r"optim|variables|target|replay|vec_normalize", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Address:
    """A repository of the hub, or a file or directory in one.

    Attributes:
      repository: "user/name".
      revision: a branch, a tag or a commit; None is the repository's main branch.
      path: of the file or directory in the repository; "" is all of it.
    """

    repository: str
    revision: str | None = None
    path: str = ""

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision}"
        return f"{PREFIX}{self.repository}{revision}{'/' * bool(self.path)}{self.path}"


class Fetched(NamedTuple):
    """What was fetched, in the cache.

    Attributes:
      path: the file, or the directory of a student or a converted expert.
      address: of just that, with the commit that it was fetched from.
      texts: contents of the files that say something of it, by name; see `BESIDE`.
    """

    path: pathlib.Path
    address: Address
    texts: Mapping[str, bytes]


class _Listing(NamedTuple):
    """What a repository holds at a commit.

    Attributes:
      sizes: bytes by path; None where the hub does not say.
      folder: where files of it are in the cache, if it was the cache that was asked.
      whole: it is what the hub has said; else the files that the cache has, and there may be more.
    """

    commit: str
    sizes: Mapping[str, int | None]
    folder: pathlib.Path | None = None
    whole: bool = True


def is_address(path: str | os.PathLike[str]) -> TypeGuard[str]:
    """Whether it is of the hub, and no path of this machine."""
    return isinstance(path, str) and path.startswith(PREFIX)


def parse(text: str) -> Address:
    """An address from its text; raises ValueError for one that cannot be."""
    match = _ADDRESS.fullmatch(text)
    path = ((match and match[3]) or "").removesuffix("/")
    if match is None or not (path == "" or _inside(path)):
        raise ValueError(f"{one_line(text, 120)} is no address of the hub; expected {EXPECTED}")
    return Address(match[1], match[2], path)


def addresses(source: str) -> list[Address]:
    """Those that an `Expert.source` names, of one expert or of several together."""
    return [parse(part) for part in source.split(" + ") if is_address(part)]


def with_spec(text: str) -> tuple[str, str | None]:
    """`FILE[@SPEC.toml]` taken apart; the "@" of a revision or of a folder belongs to its path.

    Of several, the last that stands behind a file which is there; else the last.
    """
    path, found, spec = text.partition(f"@{PREFIX}")
    if found:
        return path, f"{PREFIX}{spec}"
    at = [place for place, letter in enumerate(text) if letter == "@"]
    if not (at and text.endswith(".toml")):
        return text, None
    behind_files = [place for place in at if shipped.found(text[:place]).is_file()]
    place = max(behind_files, default=at[-1])
    return text[:place], text[place + 1 :]


def package() -> Any:
    """The module `huggingface_hub`; ValueError with what to do where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ValueError(
            "the Hugging Face hub needs huggingface_hub: pip install 'jaxdistill[hub]'"
        ) from error
    return huggingface_hub


def fetch(text: str) -> Fetched:
    """Brings the expert or the student at an address into the cache, with what is said of it.

    With a commit as revision the hub is asked once what it holds, and once for each file. Where it
    cannot be reached, or may not be (`HF_HUB_OFFLINE`), what is in the cache is taken.

    Raises:
      FileNotFoundError: there is no such repository, revision or file, or none that is read.
      ValueError: the address is none, several files may be meant, one is too large, or the
        repository is gated.
      OSError: the hub cannot be reached, and the cache does not have it.
    """
    address = parse(text)
    with explained(address):
        listing = _list(address)
        main, *more = chosen = choose(listing.sizes, address)
        _refuse_large(address, {x: listing.sizes.get(x) for x in chosen})
        pinned = dataclasses.replace(address, revision=listing.commit, path=main)
        path = _download(address, listing, main)
        for name in more:
            _download(pinned, listing, name)
        texts = {
            place.rpartition("/")[2]: _download(pinned, listing, place).read_bytes()
            for place in _beside(main, listing.sizes)
        }
    if more:
        pinned = dataclasses.replace(pinned, path=main.rpartition("/")[0])
        path = path.parent
    return Fetched(path, pinned, texts)


def fetch_file(text: str, max_bytes: int) -> pathlib.Path:
    """Brings the one file that an address names into the cache; raises as `fetch` does."""
    address = parse(text)
    with explained(address):
        listing = _list(address)
        if address.path not in listing.sizes:
            raise _absent(address, listing.sizes)
        _refuse_large(address, {address.path: listing.sizes[address.path]}, max_bytes)
        return _download(address, listing, address.path)


def choose(names: Iterable[str], address: Address) -> tuple[str, ...]:
    """Which of a repository's files are meant, the one that says most first.

    The one that is named; or, of all or of the named directory, the first of: a student or a
    converted expert (two files), a zip called after the repository or the only one, CleanRL's
    `.cleanrl_model`, `model.safetensors`, Sample Factory's best or last checkpoint, the only file
    of weights that lies there, the only one anywhere below.

    Raises:
      FileNotFoundError: there is none.
      ValueError: there are several.
    """
    names = set(names)
    if address.path in names:
        return (address.path,)
    folder = f"{address.path}/" if address.path else ""
    below = sorted(name.removeprefix(folder) for name in names if name.startswith(folder))
    if not below:
        raise _absent(address, names)
    for files in _FOLDERS:
        if set(files) <= set(below):
            return tuple(folder + file for file in files)
    last = r"checkpoint_p\d+/{}_[^/]*\.pth"  # numbers of equal length: the last is the latest
    for pattern, several in (
        (rf"{re.escape(address.repository.rpartition('/')[2])}\.zip", False),
        (r"[^/]+\.zip", False),
        (r"[^/]*\.cleanrl_model", False),
        (r"model\.safetensors", False),
        (last.format("best"), True),
        (last.format("checkpoint"), True),
        (rf"[^/]+\.(?:{_ENDINGS})", False),
        (rf".+\.(?:{_ENDINGS}|zip)", False),
    ):
        found = [x for x in below if re.fullmatch(pattern, x) and not _ASIDE.search(x)]
        if len(found) > 1 and not several:
            one = dataclasses.replace(address, path=folder + found[0])
            raise ValueError(
                f"{_shown(address)} holds several files that may be the expert, {_some(found)}; "
                f"name one, as {_shown(one)}"
            )
        if found:
            return (folder + found[-1],)
    raise FileNotFoundError(
        f"{_shown(address)} holds no expert that is read, but {_some(below)}; expected a student, "
        "a Stable-Baselines3 zip or a file of weights"
    )


@contextlib.contextmanager
def explained(address: Address) -> Iterator[None]:
    """Turns what `huggingface_hub` raises into errors of one line, that say what to do."""
    try:
        yield
    except Exception as error:
        if type(error) in (ValueError, FileNotFoundError):  # our own
            raise
        raise _explanation(error, address) from error


def _explanation(error: Exception, address: Address) -> Exception:
    hub = package()
    errors, where = hub.errors, hub.constants.ENDPOINT
    name = f"{PREFIX}{address.repository}"
    if isinstance(error, errors.GatedRepoError):
        return ValueError(
            f"{name} is gated: ask its owner for access on {where}/{address.repository}, and "
            f"{LOG_IN}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return FileNotFoundError(
            f"{name}: {where} has no such repository, or it is private: then {LOG_IN}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return FileNotFoundError(
            f"{name} has no revision {address.revision!r}; expected a branch, a tag or a commit"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        kept = hub.constants.HF_HUB_CACHE
        if hub.constants.HF_HUB_OFFLINE:
            return FileNotFoundError(
                f"{address} is not in the cache ({kept}), and HF_HUB_OFFLINE is set; read it once "
                "without"
            )
        return FileNotFoundError(
            f"{address} is not in the cache ({kept}), and {where} cannot be reached; check the "
            "network, or HF_ENDPOINT"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return FileNotFoundError(f"{address}: no such file in the repository")
    reason = one_line(" ".join(f"{type(error).__name__}: {error}".split()), 200)
    if isinstance(error, errors.HfHubHTTPError):
        status = getattr(error.response, "status_code", "an error")
        if status in (401, 403):
            return ValueError(f"{address}: {where} does not allow it with this token; {LOG_IN}")
        return OSError(f"{address}: {where} answers {status} ({reason}); try again later")
    if isinstance(error, errors.HFValidationError):
        return ValueError(f"{address} is no address of the hub ({reason})")
    return OSError(f"{address}: what was asked of {where} failed ({reason})")


def _list(address: Address) -> _Listing:
    hub = package()
    if address.revision is not None and _COMMIT.fullmatch(address.revision):
        kept = _cached(address)
        if kept is not None and kept.whole:
            return kept
    try:
        info = hub.HfApi().model_info(
            address.repository, revision=address.revision, files_metadata=True, timeout=_SECONDS
        )
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", 500)
        kept = None if status < 500 else _cached(address)
        if kept is not None:
            return kept
        if status < 500 or isinstance(error, hub.errors.OfflineModeIsEnabled):
            raise
        if isinstance(error, hub.errors.HfHubHTTPError | ValueError):
            raise
        raise hub.errors.LocalEntryNotFoundError(str(error)) from error
    files = {file.rfilename: file.size for file in info.siblings or ()}
    return _Listing(info.sha, {name: size for name, size in files.items() if _inside(name)})


def _cached(address: Address) -> _Listing | None:
    """What the cache knows of a revision."""
    hub = package()
    try:
        kept = hub.snapshot_download(
            address.repository, revision=address.revision, local_files_only=True
        )
    except hub.errors.LocalEntryNotFoundError as error:
        kept = getattr(error, "snapshot_path", None)  # not all of it is there
        if kept is None:
            return None
    folder = pathlib.Path(kept)
    try:
        said = read_json(_kept_at(folder), "it is asked for again")
        return _Listing(folder.name, said, folder)
    except (OSError, ValueError):  # other programs do not ask what there is besides
        pass
    files = [path for path in folder.rglob("*") if path.is_file()]
    sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
    return _Listing(folder.name, sizes, folder, whole=False)


def _kept_at(folder: pathlib.Path) -> pathlib.Path:
    """Where it is kept what a commit holds, of which the cache has files in `folder`."""
    return folder.parents[1] / "jaxdistill" / f"{folder.name}.json"


def _download(address: Address, listing: _Listing, name: str) -> pathlib.Path:
    """A file of the listing's commit, in the cache, which learns what commit the revision is."""
    if listing.folder is not None and (kept := listing.folder / name).is_file():
        return kept
    api = package().HfApi()
    for revision in (address.revision, listing.commit):
        path = pathlib.Path(api.hf_hub_download(address.repository, name, revision=revision))
        if listing.commit in path.parts:  # or the revision has moved on just now
            break
    if not (told := _kept_at(path.parents[name.count("/")])).exists():
        with contextlib.suppress(OSError):  # where the cache may not be written it is asked again
            write_files({told: json.dumps(listing.sizes).encode()}, alone=False, folder=True)
    return path


def _refuse_large(
    address: Address, sizes: Mapping[str, int | None], max_bytes: int = torch_file.MAX_BYTES
) -> None:
    for name, size in sizes.items():
        most = min(max_bytes, _SIZES.get(name.rpartition("/")[2], max_bytes))
        if size is None or size > most:
            said = "an unknown number of" if size is None else size
            raise ValueError(
                f"{address}: {name} has {said} bytes, and {most} are the most that is read; it "
                "was not downloaded"
            )


def _absent(address: Address, names: Iterable[str]) -> FileNotFoundError:
    there = sorted(names)
    what = f"holds {_some(there)}" if there else "is empty"
    named = "" if address.path else "; name a file of it"
    return FileNotFoundError(f"{_shown(address)}: no such file; the repository {what}{named}")


def _beside(main: str, sizes: Mapping[str, int | None]) -> Iterator[str]:
    """The files that speak of `main`: beside it, or above Sample Factory's checkpoints.

    A model card may lie at the root. What is too large to be read is passed over.
    """
    folder, _, _ = main.rpartition("/")
    above, _, last = folder.rpartition("/")
    folder = above if re.fullmatch(r"checkpoint_p\d+", last) else folder
    for name in BESIDE:
        place = f"{folder}/{name}" if folder else name
        place = CARD if name == CARD and place not in sizes else place
        size = sizes.get(place)
        if size is not None and size <= MAX_TEXT_BYTES:
            yield place


def _shown(address: Address) -> str:
    """For a message, which ends: a path may have thousands of letters."""
    return one_line(str(address), 400)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(one_line(name, 80) for name in names[:8]) + more


def _inside(path: str) -> bool:
    """Whether it is a path that leads nowhere but into the repository."""
    parts = path.split("/")
    return path.isprintable() and "\\" not in path and not {"", ".", ".."} & set(parts)
