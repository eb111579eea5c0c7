"""Put one small fault at a time into a copy of search/, and see whether its tests notice.

    python scripts/benchmarks/mutate_search.py --folder /tmp/mutants --sample 300 --seed 0
    python scripts/benchmarks/mutate_search.py --folder /tmp/mutants --way plain --minutes 9
    python scripts/benchmarks/mutate_search.py --folder /tmp/mutants --way anew --minutes 9
    python scripts/benchmarks/mutate_search.py --folder /tmp/mutants --modules codes.py --all
    python scripts/benchmarks/mutate_search.py --folder /tmp/mutants --lines shards.py:93 --most 60
    python scripts/benchmarks/mutate_search.py --folder /tmp/mutants --way anew \
        --modules kernels/buckets.py --tests tests/test_buckets.py

The folder keeps the copy, the lines that each test runs, and the results: a call goes on where the
last one ended, with the tests as they are now, and survivors are tried again by one that grants
their tests more (`--most`). A mutant (a copy with one fault, see mutations.py)
meets the tests that run its line, the most promising first, until one fails, dies or hangs: the
mutant is killed. There are three ways:

    warm     in forks of one process (mutant_tests.py): all but kernels
    plain    the same with kernels as plain Python: kernels, by tests that are quick enough so
    anew     in a process that imports the changed source, and compiles what has changed: what the
             two others could not try, and kernels that survived as plain Python, by the tests
             that warm has found, or all tests of some files (`--tests`)

Mutants that are as correct as the code are listed, with the reason, in mutate_search.toml. Prints a
line for each mutant that survives, and the counts; exits with 1 if one survived.
"""

import ast
import hashlib
import importlib
import importlib.util
import json
import os
import random
import re
import shutil
import signal
import sys
import time
import tomllib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro
from mutant_tests import Outcome, Runner, cleared, forked, limited, tests_in
from mutations import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = ("search", "tests", "scripts", "jaxhash", "docs", "pyproject.toml", "README.md")
EQUIVALENT = Path(__file__).with_suffix(".toml")
FIRST = 8  # tests that a mutant meets before all the others, if each takes a process
OF_A_FILE = 3.0  # seconds that all tests of a file are reckoned to take
# Tests of other things that import search, or that no fault in a function can fail.
NOT_ASKED = ("messages", "mutations", "rooms", "startup", "cliffs", "stress", "docstrings", "words")
# Those that run kernels often enough and on codes so few that they can do without a compiler.
PLAIN = (
    "hamming_kernels",
    "scan",
    "rerank",
    "exhaustive",
    "ranking",
    "buckets",
    "cells",
    "filters",
    "scattered",
    "index_items",
)
LONGEST = {"warm": 20.0, "plain": 1.5}  # processor seconds that a test may take to be asked
# Imported once, before the mutants: what tests and search/ import themselves.
BEFORE = ("hypothesis", "jax", "llvmlite.binding", "numba.extending", "numpy.testing")
# Tests that compile or run every kernel in processes of their own: these meet kernels alone.
PROCESSES = ("test_kernels_elsewhere", "another_processor", "without half floats", "plain Python")


@dataclass(frozen=True)
class Options:
    """Which faults are tried, and for how long."""

    folder: Path
    """Where the copy and the results are kept; made when it is not there."""
    way: Literal["warm", "plain", "anew"] = "warm"
    """How they meet their tests, see above."""
    modules: tuple[str, ...] = ("",)
    """Parts of the names of modules below search/, such as hamming/scan.py; all when left out."""
    sample: int = 200
    """Mutants to try, drawn at random from those of the chosen modules and this way."""
    all: bool = False
    """Try every mutant of the chosen modules."""
    lines: tuple[str, ...] = ()
    """Try every mutant of these lines alone, such as hamming/scan.py:51."""
    seed: int = 0
    """Decides the draw."""
    minutes: float = 60.0
    """No new mutant is begun after so long."""
    most: float = 30.0
    """A mutant meets tests of so many seconds, as they took without a fault."""
    tests: tuple[str, ...] = ()
    """Files such as tests/test_scan.py, or tests in one: mutants meet all of these (anew)."""


# ---------------------------------------------------------------- the copy


def copy(folder: Path) -> Path:
    """The copy of the project, made at the first call; its tests are those of now."""
    place = folder / "copy"
    if not place.exists():
        scratch = cleared(folder / "making")
        for name in COPIED:
            if (ROOT / name).is_dir():
                leave = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, scratch / name, ignore=leave)
            else:
                shutil.copy2(ROOT / name, scratch / name)
        scratch.rename(place)
    for path in (place / "search").rglob("*.py"):  # as it was, if a call was killed
        kept = folder / "kept" / path.relative_to(place)
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, kept)
        elif kept.read_bytes() != path.read_bytes():
            shutil.copy2(kept, path)
    if "tests" in COPIED:
        for path in (ROOT / "tests").glob("*.py"):
            shutil.copy2(path, place / "tests")
    return place


def asked(path: Path, way: str) -> bool:
    """Whether a file of tests is about search/, and for this way."""
    text, name = path.read_text(encoding="utf-8"), path.stem.removeprefix("test_")
    if name in NOT_ASKED or (way == "plain" and name not in PLAIN):
        return False
    alone = not re.search("^(import|from) jaxhash", text, re.MULTILINE)
    return "search" in text and (alone or name == "shards")


def is_kernel(module: str) -> bool:
    """Whether a module's functions are compiled."""
    return module.startswith("kernels/") and module not in (
        "kernels/keeping.py",
        "kernels/compiling.py",
    )


# ---------------------------------------------------------------- a process for each


class Chosen:
    """A pytest plugin that runs some tests, in a given order."""

    def __init__(self, names: list[str]) -> None:
        self._place = {name: at for at, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the others."""
        items[:] = [item for item in items if item.nodeid in self._place]
        items.sort(key=lambda item: self._place[item.nodeid])


def imports(path: Path) -> set[str]:
    """The modules of search/ that a module imports, as paths below it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("search"):
            module = str(node.module)
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            found |= {name.partition(".")[2].replace(".", "/") + ".py" for name in names}
    return found


def keep_as(kernels: Path, kept: str, mutated: Path) -> None:
    """Let kernels on disk pass for those of the mutated sources: those it changes are not there."""
    digest = hashlib.sha256()  # as `search.kernels.keeping` computes it
    for path in sorted(kernels.glob("*.py")):
        content = kept.encode() if path == mutated else path.read_bytes()
        digest.update(hashlib.sha256(content).digest())
    name = "search.kernels.keeping"
    spec = importlib.util.spec_from_file_location(name, kernels / "keeping.py")
    assert spec is not None
    assert spec.loader is not None
    keeping = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(keeping)
    keeping._sources = digest.hexdigest  # type: ignore[attr-defined]


class Anew:
    """Runs tests in a process that imports the changed source.

    Args:
        folder: where the copy is, and what `Runner` recorded.
        options: how many tests a mutant meets.
    """

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder, self._options = folder, options
        self._place = folder / "copy"
        search = self._place / "search"
        self._imports = {str(p.relative_to(search)): imports(p) for p in search.rglob("*.py")}
        self._seconds: dict[str, float] = {}
        self._by_line: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._by_module: dict[str, set[str]] = defaultdict(set)
        for path in (folder / "tests-warm").glob("*.json"):
            for name, test in json.loads(path.read_text()).items():
                if test is None:
                    continue
                self._seconds[name] = test[0]
                for module, line in test[1]:
                    self._by_line[module, line].add(name)
                    self._by_module[module].add(name)
                if not test[1]:
                    self._by_module[""].add(name)
        if options.tests:
            self._seconds |= dict.fromkeys(options.tests, OF_A_FILE)
            self._keep_kernels()
        elif not self._seconds:
            sys.exit(f"{folder} knows no tests yet: run the way warm first")

    def _keep_kernels(self) -> None:
        """Run the files of tests without a fault: they pass, and leave their kernels on disk."""
        log = self._folder / "anew.txt"
        if forked(lambda: tests_in(self._place, self._options.tests), log) != 0:
            sys.exit(f"these tests fail without a fault: see {log}")

    def _users(self, kernel: str) -> set[str]:
        """Modules that import one, or import one that does; itself included."""
        users = {kernel}
        while True:
            more = {name for name, needs in self._imports.items() if needs & users} | users
            more = {name for name in more if name.startswith("kernels/")}
            if more == users:
                return users
            users = more

    def _tests(self, module: str, mutant: Mutant) -> list[str]:
        """The tests that run through a mutant, the quickest first."""
        if is_kernel(module):
            kernels = self._users(module)
            near = {name for name, needs in self._imports.items() if needs & kernels}
            names = set().union(*(self._by_module[name] for name in near | kernels))
        else:
            names = self._by_line[module, mutant.line] or self._by_module[module]
        processes = [name for name in self._by_module[""] if not is_kernel(module)]
        processes += [name for name in self._seconds if any(each in name for each in PROCESSES)]
        by_time = sorted(names - set(processes), key=self._seconds.__getitem__)
        first = by_time[:FIRST]
        return [*first, *(processes if is_kernel(module) else []), *by_time[FIRST:], *processes]

    def result(self, module: str, mutant: Mutant) -> Outcome:
        """'killed', 'hung' or 'survived', and by what."""
        if self._options.tests:
            result, by = self._meet(module, mutant, list(self._options.tests))
            return result, by or "all tests of " + ", ".join(self._options.tests)
        names = list(dict.fromkeys(self._tests(module, mutant)))
        seconds, most = 0.0, []
        for name in names:
            if seconds < self._options.most:
                most.append(name)
                seconds += self._seconds[name]
        # Most die of the first tests, and collecting the others takes longer than these.
        for part in (most[:FIRST], most[FIRST:]):
            result, by = self._meet(module, mutant, part) if part else ("survived", "")
            if result != "survived":
                return result, by
        return "survived", f"{len(most)} of {len(names)} tests"

    def _meet(self, module: str, mutant: Mutant, names: list[str]) -> Outcome:
        """`result` of some of the tests."""
        whole = self._options.tests
        files = list(whole or dict.fromkeys(name.partition("::")[0] for name in names))
        path = self._place / "search" / module
        kept, times = path.read_text(), path.stat()
        cache, log = self._folder / "kernels", self._folder / "anew.txt"
        log.unlink(missing_ok=True)
        if is_kernel(module):
            cache = self._folder / "kernels-of-mutant"
            shutil.rmtree(cache, ignore_errors=True)
            shutil.copytree(self._folder / "kernels", cache, copy_function=os.link)
            for user in self._users(module):
                for file in cache.rglob(f"{Path(user).stem}.*"):
                    file.unlink()

        def work() -> int:
            sys.dont_write_bytecode = True
            if is_kernel(module):
                keep_as(self._place / "search" / "kernels", kept, path)
            os.environ["NUMBA_CACHE_DIR"] = str(cache)
            importlib.import_module("numba").config.CACHE_DIR = str(cache)
            limited(60 + 5 * sum(self._seconds[name] for name in names))
            chosen = [] if whole else [Chosen(names)]
            return tests_in(self._place, ["-x", *files], *chosen)

        try:
            path.write_text(mutant.source)
            code = forked(work, log)
        finally:
            path.write_text(kept)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # kernels go by it
        if code == 0:
            return "survived", ""
        if code in (-signal.SIGXCPU, -signal.SIGALRM):
            return "hung", f"in one of {len(names)} tests"
        failed = [line for line in log.read_text(errors="replace").splitlines() if "FAILED" in line]
        return "killed", (failed or [f"code {code}"])[-1].removeprefix("FAILED ")[:200]


# ---------------------------------------------------------------- the run


def equivalent() -> list[dict[str, str]]:
    """What survives with reason: rows of a module and a reason, and of what else they name.

    A row may name the line as it was, as it is then, and the function; each that it leaves out may
    be any. The constants of the table `sizes` have a row each: a module, a name and the reason.
    """
    known = tomllib.loads(EQUIVALENT.read_text())
    reason = known["sizes"].pop("reason")
    sizes = [(module, name) for module, names in known["sizes"].items() for name in names]
    rows = [{"module": module, "constant": name, "reason": reason} for module, name in sizes]
    return [*known["mutant"], *rows]


def is_known(rows: list[dict[str, str]], module: str, mutant: Mutant) -> bool:
    """Whether one of the rows of `equivalent` is about a mutant."""
    has = {"module": module, "old": mutant.old, "new": mutant.new, "where": mutant.where}
    has["constant"] = "" if mutant.where else re.split("[ :]", mutant.old, maxsplit=1)[0]
    return any(all(row.get(name, value) == value for name, value in has.items()) for row in rows)


def drawn(options: Options, place: Path) -> list[tuple[str, Mutant]]:
    """The mutants to try, in the order of trying."""
    found = []
    for path in sorted((place / "search").rglob("*.py")):
        module = str(path.relative_to(place / "search"))
        if options.way != "anew" and is_kernel(module) != (options.way == "plain"):
            continue
        if any(part in module for part in options.modules):
            found += [(module, mutant) for mutant in mutants(path.read_text())]
    if options.lines:
        return [each for each in found if f"{each[0]}:{each[1].line}" in options.lines]
    random.Random(options.seed).shuffle(found)
    return found if options.all or options.way == "anew" else found[: options.sample]


Key = tuple[str, int, str]


class Results:
    """What came of the mutants so far, a line each in a file.

    Args:
        path: of the file.
        options: when no new mutant is begun, and how many tests one meets.
    """

    def __init__(self, path: Path, options: Options) -> None:
        self._path, self._most = path, options.most
        self._end = time.monotonic() + 60 * options.minutes
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        self._rows = {(row["module"], row["line"], row["new"], row["way"]): row for row in rows}

    def of(self, module: str, mutant: Mutant) -> str | None:
        """What came of a mutant in the end, None where it was not tried."""
        ways = [
            self._rows.get((module, mutant.line, mutant.new, way), {}).get("result")
            for way in ("anew", "plain", "warm")
        ]
        return next((result for result in ways if result is not None), None)

    def wanted(self, way: str, module: str, mutant: Mutant) -> bool:
        """Whether a mutant is still to be tried in this way."""
        row = self._rows.get((module, mutant.line, mutant.new, way))
        if row is not None:
            return row["result"] == "survived" and row["most"] < self._most
        if way != "anew":
            return True
        before = self.of(module, mutant)
        if before is None:  # outside functions no other way can try it
            return mutant.where == ""
        return before == "elsewhere" or (before == "survived" and is_kernel(module))

    def fill(self, way: str, found: list[tuple[str, Mutant]], tester: "Runner | Anew") -> None:
        """Try those that are wanted, until time is up."""
        for module, mutant in found:
            if time.monotonic() > self._end:
                break
            if not self.wanted(way, module, mutant):
                continue
            start = time.monotonic()
            result, by = tester.result(module, mutant)
            row = {"module": module, "line": mutant.line, "where": mutant.where}
            row |= {"old": mutant.old, "new": mutant.new, "way": way, "most": self._most}
            row |= {"result": result, "by": by}
            with self._path.open("a") as file:
                print(json.dumps(row | {"seconds": time.monotonic() - start}), file=file)
            self._rows[module, mutant.line, mutant.new, way] = row


def main() -> None:
    """Try mutants until time is up, and print what came of them."""
    options = tyro.cli(Options, description=__doc__)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with the sources as they were
    results = Results(folder / "results.jsonl", options)
    found = drawn(options, copy(folder))
    if any(results.wanted(options.way, *each) for each in found):
        attempt(options, folder, found, results)
    sys.exit(1 if told(found, results) else 0)


def attempt(
    options: Options, folder: Path, found: list[tuple[str, Mutant]], results: Results
) -> None:
    """Try the mutants that are wanted."""
    place, way = folder / "copy", options.way
    os.environ["NUMBA_CACHE_DIR"] = str(folder / "kernels")
    if way == "anew":
        for name in BEFORE:
            importlib.import_module(name)
        results.fill(way, found, Anew(folder, options))
        return
    if way == "plain":
        os.environ["NUMBA_DISABLE_JIT"] = "1"
    files = [path for path in sorted((place / "tests").glob("test_*.py")) if asked(path, way)]
    names = [str(path.relative_to(place)) for path in [*files, place / "search"]]
    runner = Runner(
        place,
        folder / f"tests-{way}",
        PROCESSES,
        LONGEST[way],
        options.most,
        lambda runner: results.fill(way, found, runner),
    )
    tests_in(place, [f"--basetemp={folder / 'temporary'}", *names], runner)


def told(found: list[tuple[str, Mutant]], results: Results) -> int:
    """Print survivors and counts; the number of survivors."""
    known = equivalent()
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for module, mutant in found:
        result = results.of(module, mutant)
        if result is None:
            continue
        if result == "survived" and is_known(known, module, mutant):
            result = "equivalent"
        counts[module][result] += 1
        if result == "survived":
            print(f"{module}:{mutant.line} {mutant.where}: {mutant.old}  ->  {mutant.new}")
    columns = "killed", "hung", "survived", "equivalent", "elsewhere"
    print(f"{'module':28}" + "".join(f"{name:>12}" for name in columns))
    for module, own in sorted(counts.items()):
        print(f"{module:28}" + "".join(f"{own[name]:12}" for name in columns))
    total = sum(counts.values(), Counter())
    print(f"{'all':28}" + "".join(f"{total[name]:12}" for name in columns))
    return total["survived"]


if __name__ == "__main__":
    main()
