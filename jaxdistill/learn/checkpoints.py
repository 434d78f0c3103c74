"""Checkpoints of a run: the best by play, and always the latest. The only file that imports Orbax.

A checkpoint has three parts: `state`, a pytree of device arrays restored with the shardings of the
tree asked for; `host`, a dictionary of NumPy arrays of any shape (action logs, counters); and
`progress`, plain JSON.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import time
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jaxdistill import disk, meshes
from jaxdistill.text import one_line

FOLDER = "checkpoints"
"""Where a run's are, in its directory."""


class Checkpoint(NamedTuple):
    """What was restored, and the step it was saved at."""

    step: int
    state: Any
    host: dict[str, np.ndarray]
    progress: dict[str, Any]


class Checkpoints:
    """Checkpoints of one run in `directory`; use as a context manager.

    Kept are the latest (or a killed run could not resume) and the one with the highest `value`
    among those saved with one.
    """

    def __init__(self, directory: str | pathlib.Path, *, read_only: bool = False):
        """Opens `directory`, as its only writer or as a reader.

        A writer makes the directory and clears away what a killed one left half-written. A reader
        changes nothing, not even what a writer is writing at this moment; see `read_best`.
        """
        # Orbax only complains about a relative path later, in a background thread.
        self._directory = pathlib.Path(directory).absolute()
        if read_only:
            # Orbax says so for every option that a reader has no use for; these are all it needs.
            options = ocp.CheckpointManagerOptions(
                read_only=True,
                create=False,
                cleanup_tmp_directories=False,
                save_interval_steps=0,
                enable_async_checkpointing=False,
            )
        else:
            with meshes.leader_first("checkpoints"):
                if meshes.leads():
                    self._put_back()
            options = ocp.CheckpointManagerOptions(
                best_fn=_value,
                best_mode="max",
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [
                        checkpoint_managers.LatestN(1),
                        checkpoint_managers.BestN(
                            get_metric_fn=_value, n=1, keep_checkpoints_without_metrics=False
                        ),
                    ]
                ),
                cleanup_tmp_directories=True,
                enable_async_checkpointing=False,
            )
        wrong = self._named(None) if read_only else disk.writing(self._directory)
        with wrong:
            self._manager = ocp.CheckpointManager(self._directory, options=options)

    def _put_back(self) -> None:
        for replaced in self._directory.glob(f"*{_REPLACED}"):
            standing = replaced.with_suffix("")
            if standing.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(standing)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def save(
        self,
        step: int,
        state: Any,
        *,
        host: dict[str, np.ndarray] | None = None,
        progress: dict[str, Any] | None = None,
        value: float | None = None,
    ) -> None:
        """Saves at `step`; `value` (higher is better) lets this checkpoint compete for best.

        A checkpoint already standing at `step` is replaced: a resumed run may get there again.

        Raises:
          OSError: it cannot be written, as on a full disk. What stood before stands still.
        """
        self._check_room(state, host or {})
        replaced = self._directory / f"{step}{_REPLACED}"
        if step in self._manager.all_steps():
            # Set aside, not deleted: a kill before the new one stands must not leave none.
            with meshes.leader_first("replace"):
                if meshes.leads():
                    (self._directory / str(step)).rename(replaced)
            self._manager.reload()
        # Zarr cannot hold an array of no elements, and an empty tree cannot be restored.
        host = {k: v for k, v in (host or {}).items() if v.size} | {"_": np.zeros(1, np.uint8)}
        with disk.writing(self._directory / str(step), (ValueError, RuntimeError)):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    host=ocp.args.StandardSave(host),
                    progress=ocp.args.JsonSave(progress or {}),
                ),
                metrics=None if value is None else {"value": float(value)},
                force=True,
            )
        if meshes.leads():
            shutil.rmtree(replaced, ignore_errors=True)

    def _check_room(self, state: Any, host: dict[str, np.ndarray]) -> None:
        """Refuses what the disk has no room for: Orbax, half-way, ends in a dozen tracebacks."""
        size = sum(x.nbytes for x in jax.tree.leaves((state, host)))
        free = shutil.disk_usage(self._directory).free
        if free < size + _ROOM:
            raise OSError(
                f"{self._directory} cannot be written (a checkpoint takes up to "
                f"{(size + _ROOM) / 1e6:.0f} MB, {free / 1e6:.1f} MB are free); make room, and the "
                f"same command goes on from the last one"
            )

    @contextlib.contextmanager
    def _named(self, step: int | None) -> Iterator[None]:
        """Says which file it is about when Orbax cannot read one."""
        with _naming(self._directory if step is None else self._directory / str(step)):
            yield

    def _check_shapes(self, step: int, stored: _Shapes, wanted: _Shapes) -> None:
        """Refuses to read a sound checkpoint as something that it is not."""
        for name in sorted(stored.keys() | wanted.keys()):
            found, expected = stored.get(name, "nothing"), wanted.get(name, "nothing")
            if found != expected:
                raise ValueError(
                    f"checkpoint {self._directory / str(step)} is of another state: it holds "
                    f"{found} as {name}, expected {expected}; its network, optimiser or view is "
                    f"not this run's, and the checkpoint itself is sound"
                )

    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Step of the checkpoint with the highest value, None where none has a value."""
        with self._named(None):
            # Asked once: beside a writer the answer may be another a moment later.
            found = {s: self._manager.metrics(s) for s in self._manager.all_steps()}
            steps = [s for s, metrics in found.items() if metrics]
            return max(steps, key=lambda s: (_value(found[s]), s), default=None)

    def restore(self, step: int, like: Any, *, besides: Collection[str] = ()) -> Checkpoint:
        """The checkpoint at `step`; `like` gives the shapes, dtypes and shardings of its state.

        Args:
          besides: parts of a state, by name, that may be there and are not read where `like` has
            none of them.

        Raises:
          ValueError: it is damaged, or holds a state of another shape.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        wanted, path = _shapes(abstract), self._directory / str(step) / "state"
        with self._named(step):
            stored = _shapes(ocp.StandardCheckpointHandler().metadata(path))
        unread = {x for x in stored.keys() - wanted.keys() if x.split(".")[0] in besides}
        self._check_shapes(step, {k: v for k, v in stored.items() if k not in unread}, wanted)
        parts: dict[str, Any] = {
            **({} if unread else {"state": ocp.args.StandardRestore(abstract)}),
            "host": ocp.args.StandardRestore(),
            "progress": ocp.args.JsonRestore(),
        }
        with self._named(step):
            restored = self._manager.restore(step, args=ocp.args.Composite(**parts))
            state = _part(path, abstract) if unread else restored.state
        host = {k: np.asarray(v) for k, v in restored.host.items() if k != "_"}
        return Checkpoint(step, state, host, restored.progress)


@contextlib.contextmanager
def _naming(place: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # damage shows as almost any exception of Orbax
        reason = one_line(f"{type(error).__name__}: {error}", 200)
        raise ValueError(
            f"checkpoint {place} cannot be read ({reason}); "
            f"remove it to fall back on an older one, or begin in another --workdir"
        ) from error


def _part(path: pathlib.Path, abstract: Any) -> Any:
    """What `abstract` is of, of the state at `path`; nothing else of that is read."""
    args = ocp.args.PyTreeRestore(
        item=abstract,
        restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
        partial_restore=True,
    )
    with contextlib.closing(ocp.PyTreeCheckpointer()) as reader:
        return reader.restore(path, args=args)


def read_best(directory: str | pathlib.Path, like: Any) -> Checkpoint | None:
    """The best checkpoint, read beside whoever writes; None where none has a value yet.

    Nothing in `directory` is touched. The writer deletes a checkpoint only when a better one
    stands, so if what is being read goes away the better one is read instead.

    Raises:
      ValueError: the best is damaged, or holds a state of another shape than `like`.
    """
    directory = pathlib.Path(directory)
    attempt = 0
    while True:
        attempt += 1
        standing = _names(directory)
        try:
            with Checkpoints(directory, read_only=True) as saved:
                best = saved.best_step()
                return None if best is None else saved.restore(best, like)
        except ValueError:
            # What could not be read is damaged, unless it was deleted meanwhile.
            if attempt == _ATTEMPTS or _names(directory) == standing:
                raise
            time.sleep(0.05 * attempt)


def read_progress(directory: str | pathlib.Path) -> tuple[int, dict[str, Any]] | None:
    """Step and `progress` of the latest checkpoint; None where there is none. Nothing is written.

    Its state is not read: what it has to be like need not be known.

    Raises:
      ValueError: it is damaged.
    """
    directory = pathlib.Path(directory).absolute()
    found = [
        (step, not name.endswith(_REPLACED), name)  # one that stands goes before what it replaced
        for name in _names(directory)
        if (step := _step_of(name)) is not None
    ]
    if not found:
        return None
    step, _, name = max(found)
    reader = ocp.Checkpointer(ocp.JsonCheckpointHandler())
    with contextlib.closing(reader), _naming(directory / name):
        return step, reader.restore(directory / name / "progress")


def any_in(directory: str | pathlib.Path) -> bool:
    """Whether a whole checkpoint is there, be it one that a kill has left set aside."""
    return any(_step_of(name) is not None for name in _names(pathlib.Path(directory)))


def _step_of(name: str) -> int | None:
    """Of a whole checkpoint; None of anything else."""
    step = name.removesuffix(_REPLACED)
    return int(step) if step.isdigit() else None


def _names(directory: pathlib.Path) -> set[str]:
    """The checkpoints in `directory`, whole or on their way in or out."""
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


_ATTEMPTS = 10
_ROOM = 2**20  # bytes, for what describes a checkpoint's arrays
_REPLACED = ".replaced"
_Shapes = dict[str, tuple[int, ...]]


def _shapes(tree: Any) -> _Shapes:
    """The shape of every array of a state, by its dotted name."""
    leaves = jax.tree_util.tree_leaves_with_path(getattr(tree, "tree", tree))
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _value(metrics: Any) -> float:
    return metrics["value"]
