"""Changes the code a little, again and again, and counts the changes that its tests notice.

    make mutants                                    # for an hour; called again, it goes on
    .venv/bin/python benchmarks/mutants.py --hand --only=distill,run
    .venv/bin/python benchmarks/mutants.py --tool --scale=3 --minutes=600

Two kinds of change: those of `benchmarks/mutants.toml`, made by hand, and a seeded sample of what
cosmic-ray makes of each module. Every one is tried in a copy of the tree, on the module's own tests
until the first that fails. What has been tried stands in `runs/mutants/results.jsonl`: a program
called again goes on where it stopped, and tries anew the modules that have changed since. Changes
nobody noticed are in `runs/mutants/survivors.diff`; with tests raised, `--survivors` tries them
again.
"""

from __future__ import annotations

import argparse
import ast
import concurrent.futures
import dataclasses
import difflib
import hashlib
import json
import os
import pathlib
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib

import cosmic_ray.ast
import cosmic_ray.mutating
import cosmic_ray.plugins

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = pathlib.Path(__file__).with_suffix(".toml")
COPIED = (
    *("jaxdistill", "tests", "launch", "configs", "experts", "benchmarks", "docs"),
    "pyproject.toml",
)
SEED = 17


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One change.

    Attributes:
      file: the module, from the root.
      text: the whole module as changed.
      kind: "hand" or "tool".
      why: what it does to a run, or which operator made it.
    """

    file: str
    text: str
    kind: str
    why: str

    @property
    def diff(self) -> str:
        """What is changed, as a unified diff."""
        lines = (ROOT / self.file).read_text().splitlines(), self.text.splitlines()
        return "\n".join(difflib.unified_diff(*lines, self.file, self.file, lineterm="", n=2))


def by_hand(entries: list[dict[str, str]]) -> list[Mutant]:
    """The changes of the table; each must apply to the code as it is now, exactly once."""
    mutants, stale = [], []
    for entry in entries:
        source = (ROOT / entry["file"]).read_text()
        if source.count(entry["old"]) == 1:
            text = source.replace(entry["old"], entry["new"])
            ast.parse(text)
            mutants.append(Mutant(entry["file"], text, "hand", entry["why"]))
        else:
            stale.append(f"{entry['file']} holds {source.count(entry['old'])} of {entry['old']!r}")
    if stale:
        raise SystemExit("\n".join([f"{TABLE.name} no longer fits the code:", *stale]))
    return mutants


def by_tool(file: str, count: int) -> list[Mutant]:
    """A seeded sample of what cosmic-ray's operators make of one module."""
    source = (ROOT / file).read_text()
    unread = _unread(source)
    places = []
    nodes = list(cosmic_ray.ast.ast_nodes(cosmic_ray.ast.get_ast(source)))
    for name in sorted(cosmic_ray.plugins.operator_names()):
        if cosmic_ray.plugins.get_operator(name).arguments():
            continue  # needs to be told which variables
        operator = cosmic_ray.plugins.get_operator(name)()
        spots = [spot for node in nodes for spot in operator.mutation_positions(node)]
        places += [
            (name, occurrence)
            for occurrence, ((line, column), _) in enumerate(spots)
            if not any(
                start <= (line, column) < stop and (kind is None or kind in name)
                for start, stop, kind in unread
            )
        ]
    # One operator replaced by each of eleven others would make up most of a plain sample.
    generator = random.Random(f"{SEED} {file}")
    generator.shuffle(places)
    mutants: dict[str, Mutant] = {}
    used: dict[str, int] = {}
    while places and len(mutants) < count:
        name, occurrence = min(places[:64], key=lambda place: used.get(_family(place[0]), 0))
        places.remove((name, occurrence))
        used[_family(name)] = used.get(_family(name), 0) + 1
        operator = cosmic_ray.plugins.get_operator(name)()
        text = cosmic_ray.mutating.mutate_code(source, operator, occurrence)
        if text is None or text in mutants or _same_program(text, source):
            continue
        mutants[text] = Mutant(file, text, "tool", name.removeprefix("core/"))
    return list(mutants.values())


def _family(operator: str) -> str:
    return operator.split("_")[0]


def _same_program(text: str, source: str) -> bool:
    try:
        return ast.dump(ast.parse(text)) == ast.dump(ast.parse(source))
    except SyntaxError:
        return True


def _unread(source: str) -> list[tuple[tuple[int, int], tuple[int, int], str | None]]:
    """Where changes change nothing, and of which kind; None is any.

    With `from __future__ import annotations` nothing reads annotations, a signature's star is no
    product, and `strict=True` says of a `zip` that nothing of unequal length ever reaches it.
    """
    found: list[tuple[tuple[int, int], tuple[int, int], str | None]] = []
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if isinstance(part, ast.AST):
                found.append((*_place(part), None))
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            body = node.body[0] if isinstance(node, ast.FunctionDef) else node.body
            begin, end = (node.lineno, node.col_offset), (body.lineno, body.col_offset)
            found.append((begin, end, "BinaryOperator"))
        if isinstance(node, ast.keyword) and node.arg == "strict":
            found.append((*_place(node.value), None))
    return found


def _place(node: ast.AST) -> tuple[tuple[int, int], tuple[int, int]]:
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


class Worker:
    """A copy of the tree to try changes in, and a process that tests it; see `_forked.py`."""

    def __init__(self, copy: pathlib.Path, compiled: pathlib.Path):
        self.copy = copy
        copy.mkdir()
        for name in COPIED:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, copy / name, ignore=ignored)
            else:
                shutil.copy2(ROOT / name, copy / name)
        self._said = copy.with_suffix(".said")
        self._process = subprocess.Popen(
            [sys.executable, pathlib.Path(__file__).with_name("_forked.py")],
            env=os.environ
            | {"JAX_COMPILATION_CACHE_DIR": str(compiled), "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def test(self, tests: list[str], limit: float) -> tuple[str, float, str]:
        """Runs tests: "passed", "failed" or "timeout", the seconds, and what is said."""
        asked = {"directory": str(self.copy), "tests": tests, "said": str(self._said)}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(asked | {"limit": limit}) + "\n")
        self._process.stdin.flush()
        found = json.loads(self._process.stdout.readline())
        return found["outcome"], found["seconds"], self._said.read_text(errors="replace")[-4000:]

    def close(self) -> None:
        """Ends its process, and the test that is running."""
        self._process.send_signal(signal.SIGINT)
        self._process.communicate()


class Bench:
    """Workers to try changes with."""

    def __init__(self, workers: int, directory: pathlib.Path):
        # Compiled programs are kept by what is in them: a changed one is never taken for another.
        compiled = directory / "compiled"
        self._workers = [Worker(directory / f"copy{i}", compiled) for i in range(workers)]
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._free.put(worker)
        self._seconds: dict[str, float] = {}

    def close(self) -> None:
        """Ends its workers."""
        for worker in self._workers:
            worker.close()

    def check(self, test: str) -> None:
        """Takes the time of a file of tests on the code as it is; what they compile is kept.

        Raises:
          RuntimeError: they fail on it.
        """
        worker = self._free.get()
        try:
            outcome, self._seconds[test], said = worker.test([test], 3600)
        finally:
            self._free.put(worker)
        if outcome != "passed":
            raise RuntimeError(f"{test} fails on the code as it is:\n{said}")
        print(f"{test}: {self._seconds[test]:.0f} s on the code as it is", flush=True)

    def try_out(self, mutant: Mutant, tests: list[str]) -> dict[str, object]:
        """Whether the change was noticed, and by which of `tests`, which were checked before.

        They are given three times as long as they took.
        """
        worker = self._free.get()
        path = worker.copy / mutant.file
        standing = path.read_text()
        try:
            path.write_text(mutant.text)
            limit = 30 + 3 * sum(self._seconds[test] for test in tests)
            outcome, seconds, said = worker.test(tests, limit)
        finally:
            path.write_text(standing)
            self._free.put(worker)
        named = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return {
            "outcome": {"passed": "survived", "failed": "killed"}.get(outcome, outcome),
            "seconds": round(seconds, 1),
            "by": named[-1][:160] if named else "",
        }


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hand", action="store_true", help="only the changes made by hand")
    parser.add_argument("--tool", action="store_true", help="only the tool's")
    parser.add_argument("--only", default="", help="names of modules, such as distill,run")
    parser.add_argument("--survivors", action="store_true", help="try those again, and no others")
    parser.add_argument("--scale", type=float, default=1.0, help="times the sample of each module")
    parser.add_argument("--minutes", type=float, default=55.0, help="nothing is begun after these")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "runs/mutants")
    options = parser.parse_args()
    began = time.monotonic()

    table = tomllib.loads(TABLE.read_text())
    wanted = options.only.split(",") if options.only else []
    modules = {
        file: module
        for file, module in table["modules"].items()
        if not wanted or pathlib.Path(file).stem in wanted
    }
    if unknown := {*wanted} - {pathlib.Path(file).stem for file in modules}:
        sys.exit(f"--only: {TABLE.name} has no module {', '.join(sorted(unknown))}")
    groups = []
    for file, module in modules.items():
        if not options.tool:
            groups.append(by_hand([entry for entry in table["mutant"] if entry["file"] == file]))
        if not options.hand:
            groups.append(by_tool(file, round(options.scale * module["sample"])))
    # In turn, so that a run cut short has tried some of every module.
    order = [m for i in range(max(map(len, groups))) for group in groups for m in group[i : i + 1]]

    options.out.mkdir(parents=True, exist_ok=True)
    sources = {file: (ROOT / file).read_text() for file in modules}
    keys = {mutant: _digest(sources[mutant.file], mutant.text) for mutant in order}
    results_file = options.out / "results.jsonl"
    lines = results_file.read_text().splitlines() if results_file.exists() else []
    results = {row["key"]: row for row in map(json.loads, lines)}

    with (
        tempfile.TemporaryDirectory(prefix="mutants-") as directory,
        results_file.open("a") as log,
        concurrent.futures.ThreadPoolExecutor(options.workers) as executor,
    ):
        left = [mutant for mutant in order if keys[mutant] not in results]
        if options.survivors:
            tried = [mutant for mutant in order if keys[mutant] in results]
            left = [m for m in tried if results[keys[m]]["outcome"] == "survived"]
        bench = Bench(options.workers, pathlib.Path(directory)) if left else None

        def attempt(mutant: Mutant) -> tuple[Mutant, dict[str, object] | None]:
            late = time.monotonic() - began > 60 * options.minutes
            return mutant, None if late else bench.try_out(mutant, modules[mutant.file]["tests"])

        done = 0
        try:
            needed = {test: None for mutant in left for test in modules[mutant.file]["tests"]}
            for _ in executor.map(bench.check, needed) if bench else ():
                pass
            for future in concurrent.futures.as_completed(
                executor.submit(attempt, mutant) for mutant in left
            ):
                mutant, found = future.result()
                if found is None:
                    continue
                done += 1
                row = {"key": keys[mutant], "file": mutant.file, "kind": mutant.kind} | found
                results[keys[mutant]] = row
                log.write(json.dumps(row | {"why": mutant.why}) + "\n")
                log.flush()
                said = f"{done}/{len(left)} {found['outcome']} {mutant.file}: {mutant.why}"
                print(said, flush=True)
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            if bench:
                bench.close()

    tried = [(mutant, results[keys[mutant]]) for mutant in order if keys[mutant] in results]
    survivors = [m for m, row in tried if row["outcome"] == "survived"]
    (options.out / "survivors.diff").write_text(
        "".join(f"# {m.kind}: {m.why}\n{m.diff}\n\n" for m in survivors)
    )
    print("\n| module | by hand | noticed | by the tool | killed | survived | timeouts | share |")
    print("|---|---|---|---|---|---|---|---|")
    for file in [*modules, None]:
        mine = [row for m, row in tried if file in (m.file, None)]
        hand = [row["outcome"] for row in mine if row["kind"] == "hand"]
        tool = [row["outcome"] for row in mine if row["kind"] == "tool"]
        noticed = [x for x in hand + tool if x != "survived"]
        share = f"{len(noticed) / len(hand + tool):.0%}" if hand + tool else "-"
        print(
            f"| {'all' if file is None else f'`{pathlib.Path(file).name}`'} | {len(hand)} | "
            f"{len(hand) - hand.count('survived')} | {len(tool)} | {tool.count('killed')} | "
            f"{tool.count('survived')} | {tool.count('timeout')} | {share} |"
        )
    untried = len(order) - len(tried)
    print(f"\n{len(tried)} changes tried, {untried} left untried, survivors in {options.out}")


if __name__ == "__main__":
    main()
