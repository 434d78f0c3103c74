"""The log: frames stored once, with what the experts said about them.

It holds everything a run has collected, per game, in the order it was played: single frames, the
expert's outputs, the actions, each frame's age within its game. It lives in memory or as Zarr on
disk.
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import tensorstore as ts

from jaxdistill import disk, settings
from jaxdistill.play.collection import Chunk, Past
from jaxdistill.tasks.task import FRAME_DTYPES
from jaxdistill.text import one_line


class Log:
    """Everything collected in one run, appended in chunks; compressed Zarr on disk or in memory.

    A chunk counts only once it is written completely: a killed run leaves a readable log that ends
    with its last whole chunk. What is lost is refused when it is read: every chunk is stored, also
    one of zeros, and labels that were never written read as NaN.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None,
        info: Mapping[str, Any],
        *,
        writes: bool = True,
        newer: Collection[str] = (),
    ):
        """Opens the log in `directory`, or begins one there; None keeps it in memory.

        Args:
          info: what the log is of: `games`, `num_envs`, `frame_shape`, `num_actions`, the `seed` of
            its pools, a `frame_dtype` that is not uint8, the `action_shape` of actions that are
            several numbers and no index, and whatever else must agree for two runs to share it.
          writes: False for one that changes nothing: a reader, or a process of several that
            counts what another one writes.
          newer: names of `info` that a log of an earlier version does not say.

        Raises:
          ValueError: the directory holds a log of something else.
        """
        # Through JSON, so that tuples compare equal to what is read back.
        self.info = json.loads(json.dumps(dict(info)))
        self._directory = None if directory is None else pathlib.Path(directory).absolute()
        self.length = 0
        self._version = _VERSION
        self._writes = writes
        self._context = ts.Context()
        if self._directory is not None:
            if (self._directory / _INFO).exists():
                standing, self.length, self._version = _read_info(self._directory)
                for name in sorted(self.info.keys() | standing.keys()):
                    value = self.info.get(name)
                    unsaid = name in newer and name not in standing
                    if standing.get(name) != value and not unsaid:
                        raise ValueError(
                            f"{self._directory} holds a dataset with {name} "
                            f"{standing.get(name)!r}, expected {value!r}; choose another directory"
                        )
                self.info = standing
            elif writes:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._commit()
        games, envs = len(self.info["games"]), self.info["num_envs"]
        frame, actions = tuple(self.info["frame_shape"]), self.info["num_actions"]
        dtype = self.info.get("frame_dtype", "uint8")
        self._arrays = {
            "frames": self._array("frames", dtype, (games, envs, *frame)),
            "labels": self._array("labels", "float32", (games, envs, actions)),
            "actions": self._array("actions", *_stored_actions(self.info, (games, envs))),
            "ages": self._array("ages", "uint8", (games, envs)),
            "usable": self._array("usable", "bool", (games, envs)),
        }
        # Logs of earlier versions have none, which only a writer may add.
        known = writes or (self._directory is not None and (self._directory / "states").exists())
        self._states = self._array("states", "uint32", (games, envs)) if known else None

    def _array(self, name: str, dtype: str, shape: tuple[int, ...]) -> ts.TensorStore:
        games, envs, *rest = shape
        if self._directory is None:
            store: dict[str, Any] = {"driver": "memory", "path": f"{name}/"}
        else:
            store = {"driver": "file", "path": str(self._directory / name)}
        spec: dict[str, Any] = {
            "driver": "zarr3",
            "kvstore": store,
            "metadata": {
                # Chunks that were never written take no space, so no resizing is needed.
                "shape": [games, _CAPACITY, envs, *rest],
                "chunk_grid": {
                    "name": "regular",
                    "configuration": {"chunk_shape": [1, _CHUNK_STEPS, min(4, envs), *rest]},
                },
                "codecs": [
                    {"name": "bytes"},
                    {"name": "zstd", "configuration": {"level": 1}},
                ],
                "data_type": dtype,
                "fill_value": False if dtype == "bool" else 0,
            },
            "store_data_equal_to_fill_value": True,
            # The first version stored no chunk of zeros; frames and labels never were.
            "fill_missing_data_reads": (
                name == "states" or (self._version == 1 and name not in ("frames", "labels"))
            ),
        }
        if dtype in ("float32", "uint32"):
            spec["metadata"]["codecs"][0]["configuration"] = {"endian": "little"}
        if dtype == "float32":
            spec["metadata"]["fill_value"] = 0 if self._version == 1 else "NaN"
        # What stands must be whole: an array created anew would read as black frames.
        new = self._writes and (self.length == 0 or name == "states")
        try:
            return ts.open(spec, open=True, create=new, context=self._context).result()
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            if new and not self.length:
                raise OSError(f"{self._directory}: its {name} cannot be made ({reason})") from error
            raise ValueError(
                f"{self._directory} is damaged: its {name} cannot be opened ({reason}); collect "
                "again"
            ) from error

    def append(self, chunk: Chunk, states: np.ndarray | None = None) -> None:
        """Writes a chunk after the last one.

        Args:
          states: `(G, N)` uint32, where its last actions left the emulators; see `Pool.states`.

        Raises:
          ValueError: its shape does not fit the log, or its labels are not finite.
          OSError: it cannot be written. The log is as long as it was.
        """
        steps = chunk.frames.shape[1]
        span = slice(self.length, self.length + steps)
        for name, array in zip(Chunk._fields, chunk, strict=True):
            expected = (self._arrays[name].shape[0], steps, *self._arrays[name].shape[2:])
            if array.shape != expected:
                raise ValueError(f"{name} of shape {array.shape}, expected {expected}")
        if not np.isfinite(chunk.labels).all():
            raise ValueError(
                f"the outputs of an expert are NaN or infinite in steps {span.start} to {span.stop}"
                "; convert it again, or leave it out"
            )
        if self._writes:
            writes = [
                self._arrays[name][:, span].write(array)
                for name, array in zip(Chunk._fields, chunk, strict=True)
            ]
            assert self._states is not None  # every writer has them
            unknown = np.zeros(self._states.shape[::2], np.uint32)
            last = unknown if states is None else states
            writes.append(self._states[:, span.stop - 1].write(last))
            where = self._directory or "the dataset"
            for name, write in zip((*Chunk._fields, "states"), writes, strict=True):
                with disk.writing(f"{where}: its {name}", (Exception,)):
                    write.result()
        self.length += steps
        self._commit()

    def read(self, start: int, stop: int) -> Chunk:
        """Steps `start` up to `stop`.

        Raises:
          ValueError: there are no such steps, or some of what was stored is lost or damaged.
        """
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"steps {start} to {stop} of a dataset of {self.length}")
        reads = [self._arrays[name][:, start:stop].read() for name in Chunk._fields]
        chunk = Chunk(
            *(
                self._result(name, read, start, stop)
                for name, read in zip(Chunk._fields, reads, strict=True)
            )
        )
        if self._version == 1:
            written = chunk.labels.any(axis=(0, 2, 3))
        else:
            written = np.isfinite(chunk.labels).all(axis=(0, 2, 3))
        if not written.all():
            step = start + int(np.argmin(written))
            raise self._lost("labels", step, step + 1, "they were never written")
        if self._version == 1 and start < stop:
            self._check_ages(start, stop)
        return chunk

    def _check_ages(self, start: int, stop: int) -> None:
        """Refuses zeros that stand for lost ages in a log of the first version; see `_array`.

        A game has a second step: of two in a row one is not its first.
        """
        first, last = max(0, start - 1), min(self.length, stop + 1)
        ages = self._result("ages", self._arrays["ages"][:, first:last].read(), first, last)
        twice = ((ages[:, 1:] == 0) & (ages[:, :-1] == 0)).any(axis=(0, 2))
        if twice.any():
            step = first + int(np.argmax(twice))
            raise self._lost("ages", step, step + 2, "no game begins twice in a row")

    def actions(self, stop: int, start: int = 0) -> np.ndarray:
        """Actions `(G, stop - start, N)`; those from the first bring fresh pools to the same state.

        Raises:
          ValueError: some of them are lost or damaged.
        """
        reading = self._arrays["actions"][:, start:stop].read()
        return self._result("actions", reading, start, stop)

    def _result(self, name: str, read: ts.Future, start: int, stop: int) -> np.ndarray:
        """What was read of an array; ValueError says which steps cannot be."""
        try:
            return np.asarray(read.result())
        except Exception:
            for first in range(start - start % _CHUNK_STEPS, stop, _CHUNK_STEPS):
                span = slice(max(start, first), min(stop, first + _CHUNK_STEPS))
                try:
                    self._arrays[name][:, span].read().result()
                except Exception as error:
                    raise self._lost(name, span.start, span.stop, str(error)) from error
            raise

    def _lost(self, name: str, start: int, stop: int, reason: str) -> ValueError:
        return ValueError(
            f"{self._directory or 'the dataset'}: the {name} of steps {start} to {stop - 1} are "
            f"lost or damaged ({' '.join(reason.split())[:300]}); collect again, or put the "
            "directory back from a copy"
        )

    def over(self) -> np.ndarray:
        """`(G, length, N)` bool, where a game's last observation is; raises as `actions` does."""
        reading = self._arrays["usable"][:, : self.length].read()
        return ~self._result("usable", reading, 0, self.length)

    def states(self, length: int) -> np.ndarray | None:
        """Where the first `length` steps left the emulators, None where that was not written."""
        if self._states is None:
            return None
        try:
            states = np.asarray(self._states[:, length - 1].read().result())
        except Exception:  # what is damaged is not known; nothing else is lost with it
            return None
        return states if states.any() else None

    def past(self) -> Past | None:
        """What brings fresh pools to where the log ends; None for an empty one.

        Raises:
          ValueError: some of what was stored is lost or damaged.
        """
        if not self.length:
            return None
        return Past(
            self.actions(self.length),
            self.over(),
            self.read(max(0, self.length - _COMPARED), self.length).frames,
            self.states(self.length),
        )

    def truncate(self, length: int) -> None:
        """Forgets the steps after the first `length`."""
        if length > self.length:
            raise ValueError(
                f"{self._directory or 'the dataset'} holds {self.length} steps of each "
                f"environment, fewer than the {length} that were learnt from; put back what it "
                f"was, or begin in another --workdir"
            )
        self.length = length
        self._commit()

    def _commit(self) -> None:
        if self._directory is None or not self._writes:
            return
        fields = {"version": self._version, "length": self.length, "info": self.info}
        disk.write_json(self._directory / _INFO, fields)


def open_log(directory: str | os.PathLike[str]) -> Log:
    """The log that stands in `directory`, to read; nothing there is changed.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is damaged.
    """
    directory = pathlib.Path(directory)
    if not (directory / _INFO).is_file():
        raise FileNotFoundError(
            f"{directory} holds no {_INFO}; expected a dataset made by jaxdistill collect"
        )
    info, length, _ = _read_info(directory)
    # Whoever begins a log says so before its arrays stand: there is nothing in it to read.
    return Log(directory, info, writes=False) if length else Log(None, info)


def _read_info(directory: pathlib.Path) -> tuple[dict[str, Any], int, int]:
    """What a log is of, how many steps it has, and the version of its format.

    Raises:
      ValueError: it is damaged, or says what no log can be.
    """
    path = directory / _INFO
    fields = disk.read_json(path, "collect again")
    try:
        info = {name: fields["info"][name] for name in _REQUIRED} | fields["info"]
        length, version = fields["length"], fields.get("version", 1)
        games, shape = info["games"], info["frame_shape"]
    except (AttributeError, KeyError, TypeError) as error:
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(f"{path} is damaged ({reason}); collect again") from error

    def check(fits: bool, field: str, value: Any, expected: str) -> None:
        if not fits:
            shown = " ".join(repr(value).split())[:100]
            raise ValueError(
                f"{path} is damaged: {field} is {shown}, expected {expected}; collect again"
            )

    check(version in (1, _VERSION), "version", version, f"1..{_VERSION}, as this program knows")
    check(_whole(length, 0, _CAPACITY), "length", length, "a number of steps")
    named = isinstance(games, list) and all(isinstance(game, str) for game in games)
    check(named and 0 < len(games) == len(set(games)), "games", games, "names of games")
    for field in ("num_envs", "num_actions"):
        check(_whole(info[field], 1, 2**16), field, info[field], f"a whole number of 1..{2**16}")
    most = settings.LARGEST
    check(_whole(info["seed"], 0, most), "seed", info["seed"], f"a whole number of 0..{most}")
    every = info.get("renewed_every", 0)
    check(_whole(every, 0, most), "renewed_every", every, f"a whole number of 0..{most}")
    plain = isinstance(shape, list) and len(shape) in (1, 2)
    plain = plain and all(_whole(x, 1, 4096) for x in shape)
    check(plain, "frame_shape", shape, "a height and a width, or a number of numbers")
    dtype = info.get("frame_dtype", "uint8")
    check(dtype in FRAME_DTYPES, "frame_dtype", dtype, " or ".join(FRAME_DTYPES))
    action = info.get("action_shape", [])
    fits = isinstance(action, list) and len(action) < 2 and all(_whole(x, 1, 4096) for x in action)
    check(fits, "action_shape", action, "a number of numbers")
    return info, length, version


def _stored_actions(info: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[str, tuple[int, ...]]:
    """The dtype of a log's actions, and the shape of those of one step."""
    action = tuple(info.get("action_shape", ()))
    return ("float32" if action else "uint8"), (*shape, *action)


def _whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


_INFO = "dataset.json"
_VERSION = 2
_REQUIRED = ("games", "num_envs", "frame_shape", "num_actions", "seed")
_CAPACITY = 2**31
_CHUNK_STEPS = 64
_COMPARED = 64  # steps whose frames pools that resume are compared in
