"""Kills real runs at random moments, goes on, and compares with a run that nobody killed.

    python benchmarks/kill.py [--kills=50] [--pairs=6] [--others=3] [--skills=6] [--directory=DIR]
        [--seed=0]

The run is of two games with tiny experts, made here; the program is `launch/distill.py`. A row of
the table is a way to be stopped: by `kill -9` while collecting, learning, saving and so on; one of
two processes killed; SIGTERM; Ctrl-C; a disk that is full at a random write; a reader beside the
writer; two starts at once; a directory that has become read-only; a clock that jumps. Afterwards
the same command is started again, until it ends. *Equal* is a run whose checkpoints (the best and
the latest, optimiser included), dataset, baselines, metrics and result are those of the
uninterrupted one bit by bit, wall-clock numbers aside. *Lost* is one that is not, or that ended
otherwise than it should. Needs no accelerator; the disk and read-only rows need the right to mount.

The last rows are of `make skills` in small: an expert's training, the merge and the training of its
student, each killed beside what uninterrupted ones had left. Of a training the networks that it
leaves are compared, its metrics and its result.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import app, flags, logging

from jaxdistill import metrics, networks, terminal
from jaxdistill.experts.expert import Expert
from jaxdistill.learn import checkpoints, dataset
from jaxdistill.run import students

_KILLS = flags.DEFINE_integer("kills", 50, "times a run is killed with SIGKILL", lower_bound=0)
_PAIRS = flags.DEFINE_integer("pairs", 6, "times one of two processes is", lower_bound=0)
_OTHERS = flags.DEFINE_integer("others", 3, "times each of the other rows", lower_bound=0)
_SKILLS = flags.DEFINE_integer(
    "skills", 6, "times each program of the skills is killed", lower_bound=0
)
_SEED = flags.DEFINE_integer("seed", 0, "of the moments")
_DIRECTORY = flags.DEFINE_string("directory", None, "where runs are kept; by default nowhere")

ROOT = pathlib.Path(__file__).parents[1]
GAMES = ("pong", "breakout")
PHASES = ("baselines", "collect", "store", "learn", "evaluate", "save", "report")
SETTINGS = {
    "network": "net3",
    "collect.num_envs": 4,
    "collect.initial_steps": 1024,
    "collect.steps_per_round": 64,
    "collect.window_steps": 512,
    "collect.expert_share_rounds": 2,
    "collect.change_drivers": True,
    "learn.rounds": 6,
    "learn.updates_per_round": 2,
    "learn.batch_per_game": 8,
    "evaluate.every_rounds": 2,
    "evaluate.select_episodes": 2,
    "evaluate.report_episodes": 4,
    "evaluate.max_steps": 60,
    "evaluate.opening_steps": 5,
}
SKILLS = ("movement", "aiming", "clicking")
SKILLED = {
    "collect.num_envs": 4,
    "collect.initial_steps": 256,
    "collect.steps_per_round": 64,
    "collect.window_steps": 512,
    "collect.expert_share_rounds": 2,
    "learn.rounds": 6,
    "learn.updates_per_round": 4,
    "learn.batch_per_game": 16,
    "evaluate.every_rounds": 2,
    "evaluate.select_episodes": 2,
    "evaluate.report_episodes": 4,
    "evaluate.max_steps": 60,
}
TRAINED = {
    "num_envs": 4,
    "rollout_steps": 16,
    "total_steps": 64 * 6,
    "epochs": 2,
    "batch_per_game": 16,
    "eval_every": 64 * 2,
    "eval_episodes": 2,
    "final_episodes": 2,
    "max_steps": 40,
}
TRAINING_PHASES = ("collect", "learn", "evaluate", "report")

# Runs a program that says on a pipe which phase it enters. KILL_JUMP: its clocks jump there by up
# to so many seconds, the one that tells the time of day in both directions. KILL_FIRST: Python that
# is run before the program.
_CHILD = """
import os, random, runpy, sys, time
fd, jump = int(os.environ["KILL_PIPE"]), float(os.environ["KILL_JUMP"])
ahead = {"time": 0.0, "monotonic": 0.0, "perf_counter": 0.0}
if jump:
    for name in ahead:
        real = getattr(time, name)
        setattr(time, name, lambda name=name, real=real: real() + ahead[name])
from jaxdistill import clocks
phase = clocks.Timer.phase
def announced(self, name):
    os.write(fd, f"{name}\\n".encode())
    for clock in ahead:
        ahead[clock] += random.uniform(-jump if clock == "time" else 0.0, jump)
    return phase(self, name)
clocks.Timer.phase = announced
exec(os.environ.get("KILL_FIRST", ""))
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Program(NamedTuple):
    """A program and what it is told.

    Attributes:
      path: its file.
      flags: all but where it writes.
      out: the flag that says where.
    """

    path: str
    flags: tuple[str, ...]
    out: str = "workdir"


def program(
    name: str, config: str, settings: Mapping[str, object], out: str = "workdir"
) -> Program:
    """A program of launch/, with `settings` in place of what its config says."""
    told = [
        f"--config={ROOT}/configs/{config}",
        "--cache_dir=",  # every run plays for itself
        *(f"--config.{field}={value}" for field, value in settings.items()),
    ]
    return Program(f"{ROOT}/launch/{name}.py", tuple(told), out)


def make_run(directory: pathlib.Path, **changes: object) -> Program:
    """The run, whose experts are made in `directory`; `changes` are of its settings."""
    network = networks.Network(
        convs=(networks.ConvLayer(4, 8, 4), networks.ConvLayer(4, 4, 2)), hidden=(16,)
    )
    for i, game in enumerate(GAMES):
        Expert(
            name=f"tiny {game}",
            network=network,
            params=networks.init(network, jax.random.key(i), (4, 84, 84)),
            outputs="logits",  # these sample, so that every environment's draws count
            actions=tuple(range(18)),
            game=game,
        ).save(directory / game)
    experts = ",".join(f"{game}={directory / game}" for game in GAMES)
    return program("distill", f"merge.py:{experts}", SETTINGS | changes)


class Run:
    """One start of a program that writes into a directory."""

    def __init__(
        self, program: Program, workdir: pathlib.Path, *, jump: float = 0.0, cpus: int = 2
    ):
        reading, writing = os.pipe()
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(cpus),
            "GLIBC_TUNABLES": "",  # else the program starts anew, and without what is patched here
            "PYTHONPATH": str(ROOT),
            "KILL_PIPE": str(writing),
            "KILL_JUMP": str(jump),
        }
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (read after the run)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-c", _CHILD, program.path),
                *program.flags,
                f"--{program.out}={workdir}",
            ],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=self._errors,
            pass_fds=(writing,),
        )
        os.close(writing)
        self._phases, self._text = os.fdopen(reading), ""

    def phases(self) -> Iterator[str]:
        """The phases it enters, as it enters them, until it ends."""
        for line in self._phases:
            yield line.strip()

    def reaches(self, phase: str, times: int = 1) -> bool:
        """Waits until it enters `phase` for so many times; False if it ends before."""
        for entered in self.phases():
            times -= entered == phase
            if not times:
                return True
        return False

    def end(self, number: int | None = None) -> int:
        """Sends a signal, or none, and waits; returns the exit code."""
        if number is not None:
            self.process.send_signal(number)
        with self._phases, self._errors:
            self._phases.read()
            code = self.process.wait()
            self._errors.seek(0)
            self._text = self._errors.read()
        return code

    def said(self) -> list[str]:
        """What it ended with on stderr, as one line says it to a user."""
        return [line for line in self._text.splitlines() if line.startswith("error: ")]

    def untidy(self) -> str:
        """The end of what it said on stderr, if that holds a traceback."""
        return self._text[-2000:] if "Traceback" in self._text else ""


def differences(one: pathlib.Path, other: pathlib.Path) -> list[str]:
    """What of two finished runs is not the same, bit by bit; and what was left half-written."""
    found = []

    def compare(name: str, a: object, b: object) -> None:
        if not same(a, b):
            found.append(name)

    compare("metrics", *(without_seconds(metrics.read(x)) for x in (one, other)))
    name = "result.json"
    compare(name, *(without_seconds(json.loads((x / name).read_text())) for x in (one, other)))
    if not (other / "report.html").is_file():
        found.append("report.html")
    found += [
        f"left behind: {path.name}"
        for path in other.rglob("*")
        if path.name.endswith((".partial", ".tmp", ".replaced")) or "checkpoint-tmp" in path.name
    ]
    if (one / "experts").is_dir():  # a training, and this is what it leaves
        files = [sorted((x / "experts").rglob("*.safetensors")) for x in (one, other)]
        compare("networks", *([np.frombuffer(y.read_bytes(), np.uint8) for y in x] for x in files))
        return found
    best = [students.load_student(x).state for x in (one, other)]
    compare("best student", *best)
    latest = []
    for workdir, state in zip((one, other), best, strict=True):
        with checkpoints.Checkpoints(workdir / "checkpoints", read_only=True) as saved:
            restored = saved.restore(saved.latest_step(), state)
        latest.append((restored.step, restored.state))
    compare("latest student", *latest)
    logs = [dataset.open_log(x / "dataset") for x in (one, other)]
    compare("dataset", *(tuple(log.read(0, log.length)) for log in logs))
    played = [{y.name: y.read_text() for y in (x / "played").iterdir()} for x in (one, other)]
    compare("games played", *played)
    return found


def same(one: object, other: object) -> bool:
    """Whether two trees of arrays, numbers and text are alike, bit by bit; NaN is like NaN."""
    leaves = [jax.tree.leaves_with_path(x, is_leaf=lambda x: x is None) for x in (one, other)]

    def alike(x: object, y: object) -> bool:
        a, b = np.asarray(x), np.asarray(y)
        return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")

    return len(leaves[0]) == len(leaves[1]) and all(
        p == q and alike(x, y) for (p, x), (q, y) in zip(*leaves, strict=True)
    )


def without_seconds(tree: object) -> object:
    """JSON without what a clock said."""
    if isinstance(tree, dict):
        return {
            name: without_seconds(x)
            for name, x in tree.items()
            if name not in ("seconds", "timer") and not name.startswith("seconds/")
        }
    if isinstance(tree, list):
        return [without_seconds(x) for x in tree]
    return tree


class Tally:
    """What the table says of every kind."""

    def __init__(self) -> None:
        self.times: collections.Counter[str] = collections.Counter()
        self.equal: collections.Counter[str] = collections.Counter()
        self.notes: list[str] = []

    def finish(
        self, kinds: Sequence[str], reference: pathlib.Path, workdir: pathlib.Path, wrong: list[str]
    ) -> None:
        """Counts a run that was stopped in so many ways and has ended."""
        wrong = wrong + ([] if wrong else differences(reference, workdir))
        self.times.update(kinds)
        if wrong:
            self.notes.append(f"{workdir} ({', '.join(kinds)}): {'; '.join(wrong)}")
        else:
            self.equal.update(kinds)
        print(f"{workdir}: {', '.join(kinds)}: {'LOST' if wrong else 'equal'}", file=sys.stderr)

    def add(self, other: Tally, prefix: str) -> None:
        """Counts what another has counted, by longer names."""
        for mine, its in ((self.times, other.times), (self.equal, other.equal)):
            mine.update({prefix + kind: number for kind, number in its.items()})
        self.notes += other.notes

    def print(self) -> None:
        """The table, and what is wrong below it."""
        rows = [
            (kind, times, self.equal[kind], times - self.equal[kind])
            for kind, times in self.times.items()
        ]
        terminal.table("runs that were stopped", ("how", "times", "equal", "lost"), rows)
        for note in self.notes:
            print(note)


def finish(program: Program, workdir: pathlib.Path, **options: float) -> list[str]:
    """Starts the program and lets it end; returns what was wrong with that."""
    run = Run(program, workdir, **options)
    code = run.end()
    return [f"exit {code}: {' '.join(run.said())}{run.untidy()}"] if code or run.untidy() else []


def stopped_at(
    run: Run, phase: str, generator: random.Random, number: int = signal.SIGKILL
) -> int | None:
    """Sends the signal at a random moment in the phase; its exit code, None if it ended before."""
    once = phase in ("baselines", "report")
    if not run.reaches(phase, 1 if once else generator.choice((1, 1, 2))):
        run.end()
        return None
    time.sleep(generator.uniform(0.0, 0.4 if phase in ("collect", "report", "evaluate") else 0.1))
    return run.end(number)


def kill_often(
    program: Program,
    reference: pathlib.Path,
    directory: pathlib.Path,
    generator: random.Random,
    plan: Sequence[tuple[str, int]],
    tally: Tally,
) -> None:
    """Runs that are stopped as planned, `(phase, signal)` by turns, each until it ends."""
    plan = list(plan)
    for number in range(1, 10_000):
        if not plan:
            return
        workdir, kinds = directory / f"killed-{number}", []
        wrong: list[str] = []
        while plan and not wrong:
            phase, sent = plan[0]
            run = Run(program, workdir)
            code = stopped_at(run, phase, generator, sent)
            if code is None and run.process.returncode:
                wrong.append(f"exit {run.process.returncode}: {run.said()}{run.untidy()}")
            if code is None:
                break
            plan.pop(0)
            kinds.append(f"{signal.Signals(sent).name} in {phase}")
        tally.finish(kinds, reference, workdir, wrong or finish(program, workdir))


def kill_skills(
    directory: pathlib.Path, generator: random.Random, times: int, tally: Tally
) -> None:
    """Kills each program of the skills so often, beside what whole ones of them have left."""

    def whole(program: Program, workdir: pathlib.Path) -> pathlib.Path:
        wrong = finish(program, workdir)
        if wrong:
            raise RuntimeError(f"not even an uninterrupted run ends well: {wrong}")
        return workdir

    def kill(program: Program, reference: pathlib.Path, phases: Sequence[str]) -> None:
        name = pathlib.Path(program.path).stem
        plan = [(phases[i % len(phases)], signal.SIGKILL) for i in range(times)]
        own = Tally()
        kill_often(program, reference, directory / f"{name}-killed", generator, plan, own)
        tally.add(own, f"{name} of skills: ")

    trained = {}
    for skill in SKILLS:
        training = program("train_expert", f"skills.py:{skill}", TRAINED)
        trained[skill] = whole(training, directory / skill)
    kill(training, trained[skill], TRAINING_PHASES)
    files = ",".join(f"{x}={path}/experts/combat/{x}" for x, path in trained.items())
    merging = program("distill", f"skills.py:merge,{files}", SKILLED)
    merged = whole(merging, directory / "merged")
    kill(merging, merged, PHASES)
    further = program("finetune", "skills.py:finetune", TRAINED, out="out")
    further = further._replace(flags=(*further.flags, f"--workdir={merged}"))
    kill(further, whole(further, directory / "further"), TRAINING_PHASES)


def _pair(program: Program, workdir: pathlib.Path) -> list[Run]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
    return [
        Run(
            program._replace(flags=(*program.flags, address, "--processes=2", f"--process={i}")),
            workdir,
            cpus=1,
        )
        for i in range(2)
    ]


def kill_one_of_two(
    program: Program,
    directory: pathlib.Path,
    generator: random.Random,
    times: int,
    tally: Tally,
) -> None:
    """Kills the leader or the follower by turns; the other is given a while to end by itself."""
    whole = directory / "pair"
    for run in _pair(program, whole):
        if run.end():
            raise RuntimeError(f"two processes cannot run here: {run.said()}{run.untidy()}")
    for number in range(1, times + 1):
        workdir, kinds, wrong = directory / f"pair-{number}", [], []
        for victim in (number % 2, (number + 1) % 2):
            both = _pair(program, workdir)
            phase = generator.choice(("collect", "learn", "evaluate", "save"))
            if stopped_at(both[victim], phase, generator) is not None:
                kinds.append(f"{('leader', 'follower')[victim]} of two killed")
            other = both[1 - victim]
            with contextlib.suppress(subprocess.TimeoutExpired):
                other.process.wait(30)
            other.end(signal.SIGKILL)
        for run in _pair(program, workdir):
            if run.end() or run.untidy():
                wrong.append(f"exit {run.process.returncode}: {run.said()}{run.untidy()}")
        tally.finish(kinds, whole, workdir, wrong)


@contextlib.contextmanager
def small_disk(directory: pathlib.Path, megabytes: int = 64) -> Iterator[pathlib.Path]:
    """A file system of its own.

    Raises:
      OSError: this process may not mount one.
    """
    directory.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        raise OSError(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def fill(disk: pathlib.Path, left: int) -> None:
    """Leaves so many bytes on a disk that somebody else is writing to."""
    with (disk / "filler").open("wb") as filler:
        while (free := shutil.disk_usage(disk).free) > left + 4096:
            with contextlib.suppress(OSError):  # it has become less meanwhile
                os.posix_fallocate(filler.fileno(), filler.seek(0, os.SEEK_END), free - left)


def fill_up(
    program: Program,
    reference: pathlib.Path,
    directory: pathlib.Path,
    generator: random.Random,
    tally: Tally,
) -> None:
    """The disk is full from a random write on, then there is room again."""
    kind, wrong = "disk full", []
    with small_disk(directory / "full") as disk:
        for _ in range(3):
            run = Run(program, disk / "run")
            phase = generator.choice(PHASES[:-1])
            if not run.reaches(phase, generator.choice((1, 2))):
                run.end()
                break
            left = generator.randrange(0, 200_000)
            fill(disk, left)
            code = run.end()
            (disk / "filler").unlink()
            # Where the disk fills in the middle of a save, Orbax prints tracebacks of its own too.
            if code and (code != 2 or len(run.said()) != 1):
                wrong.append(f"in {phase} exit {code}: {run.said()}{run.untidy()}")
        wrong += finish(program, disk / "run")
        tally.finish([kind], reference, disk / "run", wrong)


def read_only(
    program: Program,
    reference: pathlib.Path,
    directory: pathlib.Path,
    generator: random.Random,
    tally: Tally,
) -> None:
    """A run is started where it may not write: one line, nothing else."""
    wrong = []
    with small_disk(directory / "read-only") as disk:
        stopped_at(Run(program, disk / "run"), "learn", generator)
        for how in ("ro", "rw"):
            subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)
            if how == "ro":
                run = Run(program, disk / "run")
                code = run.end()
                if code != 2 or len(run.said()) != 1 or run.untidy():
                    wrong.append(f"exit {code}: {run.said()}{run.untidy()}")
        wrong += finish(program, disk / "run")
        tally.finish(["read-only directory"], reference, disk / "run", wrong)


def start_twice(
    program: Program, reference: pathlib.Path, workdir: pathlib.Path, tally: Tally
) -> None:
    """Two starts at once: one of them runs, the other is told so."""
    both = [Run(program, workdir) for _ in range(2)]
    ended = {run.end(): run for run in both}
    wrong = []
    if set(ended) != {0, 2} or "is being written to by process" not in " ".join(ended[2].said()):
        wrong.append(f"exits {[run.process.returncode for run in both]}: {both[1].said()}")
    wrong += [run.untidy() for run in both if run.untidy()]
    tally.finish(["two starts at once"], reference, workdir, wrong)


def read_beside(
    program: Program, reference: pathlib.Path, workdir: pathlib.Path, tally: Tally
) -> int:
    """Everything is read over and over while it is written; returns how often."""
    run, wrong, count = Run(program, workdir), [], 0
    while run.process.poll() is None:
        count += 1
        try:
            read(workdir)
        except Exception as error:  # any at all is what this looks for
            wrong.append(f"{type(error).__name__}: {error}")
        time.sleep(0.3)
    if run.end() or run.untidy():
        wrong.append(f"exit {run.process.returncode}: {run.said()}{run.untidy()}")
    tally.finish(["a reader beside the writer"], reference, workdir, wrong)
    return count


def read(workdir: pathlib.Path) -> None:
    """Reads what there is of a run."""
    if (workdir / "metrics.jsonl").is_file():
        metrics.read(workdir)
    if (workdir / "dataset" / "dataset.json").is_file():
        log = dataset.open_log(workdir / "dataset")
        if log.length:
            log.read(0, log.length)
    if (workdir / "checkpoints").is_dir():
        try:
            students.load_student(workdir)
        except ValueError as error:
            if "evaluated no student yet" not in str(error):
                raise


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.ERROR)  # Orbax says a lot
    with contextlib.ExitStack() as stack:
        if _DIRECTORY.value:
            directory = pathlib.Path(_DIRECTORY.value)
            directory.mkdir(parents=True)
        else:
            directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(directory / "compiled"))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
        jax.config.update("jax_num_cpu_devices", 2)  # as the runs have
        # Programs that are begun by one in the background would ignore it, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        generator, tally = random.Random(_SEED.value), Tally()
        run, reference = make_run(directory / "experts"), directory / "whole"
        wrong = finish(run, reference)
        if wrong:
            raise RuntimeError(f"not even an uninterrupted run ends well: {wrong}")
        start = time.monotonic()

        plan = [(PHASES[i % len(PHASES)], signal.SIGKILL) for i in range(_KILLS.value)]
        kill_often(run, reference, directory, generator, plan, tally)
        asked = [
            (generator.choice(PHASES[1:]), number)
            for number in (signal.SIGTERM, signal.SIGINT)
            for _ in range(_OTHERS.value)
        ]
        kill_often(run, reference, directory / "asked", generator, asked, tally)
        for number in range(_OTHERS.value):
            place = directory / f"other-{number}"
            place.mkdir()
            start_twice(run, reference, place / "twice", tally)
            read_beside(run, reference, place / "read", tally)
            wrong = finish(run, place / "clock", jump=3600.0)
            tally.finish(["a clock that jumps"], reference, place / "clock", wrong)
            try:
                fill_up(run, reference, place, generator, tally)
                read_only(run, reference, place, generator, tally)
            except OSError as error:
                print(error, file=sys.stderr)
        kill_one_of_two(run, directory, generator, _PAIRS.value, tally)
        if _SKILLS.value:
            kill_skills(directory / "skills", generator, _SKILLS.value, tally)
        tally.print()
        print(f"{time.monotonic() - start:.0f} seconds")
        sys.exit(bool(tally.notes))


if __name__ == "__main__":
    app.run(main)
