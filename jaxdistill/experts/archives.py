"""Zip archives: which member of one is the model, and members that may not be what they say."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable

from jaxdistill.experts.limits import AGAIN, Unreadable
from jaxdistill.text import one_line

ENDINGS = (
    *(".pth", ".pt", ".ptm", ".bin", ".ckpt", ".tar", ".pkl"),
    *(".safetensors", ".msgpack", ".cleanrl_model"),
)
"""How the names of files of weights end, before anything packs them."""

_BESIDE_MODELS = ("target", "optim")


def packed_model(records: dict[str, zipfile.ZipInfo]) -> str | None:
    """The one file of an ordinary archive that holds the model; None for PyTorch's own and others.

    Raises:
      Unreadable: there are several.
    """
    names = {path: path.rpartition("/")[2].lower() for path in records}
    if {"data.pkl", "policy.pth"} & set(names.values()):
        return None
    models = [
        path
        for path, name in names.items()
        if name.endswith(ENDINGS) and not any(word in name for word in _BESIDE_MODELS)
    ]
    plain = [path for path in models if names[path].rpartition(".")[0] == "model"]
    if len(chosen := plain or models) > 1:
        shown = one_line(", ".join(chosen[:8]), 200)
        raise Unreadable(f"is an archive of {len(chosen)} models, {shown}; unpack it and give one")
    return chosen[0] if chosen else None


def pickle_folder(records: dict[str, zipfile.ZipInfo]) -> str:
    """The folder that holds data.pkl, with its slash ('' if it holds it at the top)."""
    pickles = [path for path in records if path.rpartition("/")[2] == "data.pkl"]
    if len(pickles) == 1:
        folder = pickles[0].removesuffix("data.pkl")
        if any(path.startswith((folder + "constants.pkl", folder + "code/")) for path in records):
            raise Unreadable(
                "is TorchScript, a program and not only weights; "
                "save the state_dict instead: torch.save(module.state_dict(), path)"
            )
        return folder
    if "policy.pth" in records:
        kind = "a Stable-Baselines3 archive: the weights are its member policy.pth"
    elif any(path.endswith("/policy.pth") for path in records):
        kind = "a folder of Stable-Baselines3's; zip what is in the folder, and not the folder"
    elif records and all(path.endswith(".npy") for path in records):
        kind = "a NumPy .npz archive; save a state_dict with torch.save instead"
    elif not pickles:
        kind = (
            "a zip archive without data.pkl and without the file of a model; unpack it and give "
            "the file inside"
        )
    else:
        kind = f"a zip archive with {len(pickles)} files named data.pkl, expected one; {AGAIN}"
    raise Unreadable(f"is not a file written by torch.save: it looks like {kind}")


def check_members(members: Iterable[zipfile.ZipInfo], most: int) -> None:
    """Refuses members that unpack to more than `most` bytes, or may take more than they say.

    Raises:
      ValueError: a whole sentence but for the file's name.
    """
    total = 0
    for info in members:
        total += info.file_size
        # Others are unpacked by zipfile without regard to the size asked for.
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Unreadable(
                f"its record {info.filename!r} is packed in a way that torch.save never uses; "
                "unpack it and pack it again, stored or deflated"
            )
        if total > most:
            raise Unreadable(
                f"unpacks to over {most} bytes with its record {info.filename!r}, more than a file "
                "of its size may, like a zip bomb; refusing to read it"
            )


def read_member(archive: zipfile.ZipFile, path: str) -> bytes:
    """A member that `check_members` has passed; never more of it than the archive says there is.

    Raises:
      ValueError: it is missing, or of another size; a whole sentence but for the file's name.
      Exception: damage, which shows as almost any exception of zipfile or zlib.
    """
    if path not in archive.NameToInfo:
        raise Unreadable(f"its record {path!r} is missing; {AGAIN}")
    info = archive.NameToInfo[path]
    # zipfile stops at the size the directory declares (checked before) and compares checksums.
    with archive.open(info) as file:
        data = file.read(info.file_size)
        if len(data) != info.file_size or file.read(1):
            raise Unreadable(f"its record {path!r} is not {info.file_size} bytes long; {AGAIN}")
    return data
