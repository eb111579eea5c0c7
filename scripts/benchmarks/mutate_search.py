"""Put one small fault at a time into a copy of search/, and see whether its tests notice.

    python scripts/benchmarks/mutate_search.py --folder /tmp/mutants --sample 300 --seed 0
    python scripts/benchmarks/mutate_search.py --folder /tmp/mutants --modules kernels --minutes 9
    python scripts/benchmarks/mutate_search.py --folder /tmp/mutants --modules codes.py --all

The folder keeps the copy, the lines that each test runs, and the results: a call goes on where the
last one ended. For a mutant (a copy with one fault, see mutations.py) the tests that run its line
are run, the quickest first, until one fails, hangs or dies: the mutant is killed. For a kernel
these are the tests that run a module that imports it, and kernels that the fault cannot change are
not compiled again. Mutants that are as correct as the code are listed, with the reason, in
mutate_search.toml. Prints a line for each mutant that survives, and the counts; exits with 1 if one
survived.
"""

import ast
import hashlib
import importlib.util
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import threading
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numba
import pytest
import tyro
from mutations import Mutant, mutants

ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = ("search", "tests", "scripts", "jaxhash", "docs", "pyproject.toml", "README.md")
EQUIVALENT = Path(__file__).with_suffix(".toml")
FIRST = 8  # tests that a mutant meets before all the others
MOST_MEMORY = 6 << 30  # bytes a mutant may fill
# Tests of other things that import search: they take long and would find little.
NOT_ASKED = ("plots", "notebooks", "benchmarks", "site", "startup", "demo", "docstrings", "words")
ELSEWHERE = ("threads.py", "index.py", "collection/", "kernels/keeping.py", "kernels/compiling.py")
# Imported once, before the mutants: what tests and search/ import themselves.
BEFORE = ("hypothesis", "jax", "llvmlite.binding", "numba.extending", "numpy.testing")
PLAIN = "plain"  # in the names of tests that run kernels without compiling them
# Those that compile every kernel anew in processes of their own.
SLOW = ("test_kernels_elsewhere", "test_cliffs", "test_stress")


@dataclass(frozen=True)
class Options:
    """Which faults are tried, and for how long."""

    folder: Path
    """Where the copy and the results are kept; made when it is not there."""
    modules: tuple[str, ...] = ("",)
    """Parts of the names of modules below search/, such as hamming/scan.py; all when left out."""
    sample: int = 200
    """Mutants to try, drawn at random from those of the chosen modules."""
    all: bool = False
    """Try every mutant of the chosen modules."""
    seed: int = 0
    """Decides the draw."""
    minutes: float = 60.0
    """No new mutant is begun after so long."""
    most: float = 60.0
    """Tests beyond so many seconds, as they took without a fault, are left out."""
    seconds: float = 60.0
    """What the tests of one mutant may take beside three times what they took before."""


# ---------------------------------------------------------------- the copy and its tests


def copy(folder: Path) -> Path:
    """The copy of the project, made at the first call."""
    place = folder / "copy"
    if not place.exists():
        scratch = folder / "making"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
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
    return place


class Chosen:
    """A pytest plugin that runs some tests, in a given order."""

    def __init__(self, names: list[str]) -> None:
        self._place = {name: at for at, name in enumerate(names)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out the others."""
        items[:] = [item for item in items if item.nodeid in self._place]
        items.sort(key=lambda item: self._place[item.nodeid])


class Recorder:
    """A pytest plugin that notes the lines of search/ that each passing test runs through."""

    def __init__(self, place: Path) -> None:
        self._under = str(place / "search") + os.sep
        self._lines: set[tuple[str, int]] = set()
        self.tests: dict[str, tuple[float, list[tuple[str, int]]]] = {}
        self._failed: set[str] = set()

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(self._under):
            return None
        name = name[len(self._under) :]

        def line(frame: FrameType, event: str, argument: object) -> Any:
            self._lines.add((name, frame.f_lineno))
            return line

        self._lines.add((name, frame.f_lineno))
        return line

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Trace a test, in all threads that begin from here on."""
        self._lines = set()
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        start = time.perf_counter()
        try:
            return (yield)
        finally:
            sys.settrace(None)
            if item.nodeid not in self._failed:
                took = time.perf_counter() - start
                self.tests[item.nodeid] = took, sorted(self._lines)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Leave out what fails or is skipped without any fault."""
        if not report.passed:
            self._failed.add(report.nodeid)


def forked(work: Callable[[], int], seconds: float, log: Path) -> int | None:
    """The exit code of `work` in a child, negative for a signal; None: it took too long."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = work()
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    end = time.monotonic() + seconds
    ended, status = 0, 0
    try:
        while not ended and time.monotonic() < end:
            time.sleep(0.02)
            ended, status = os.waitpid(child, os.WNOHANG)
    finally:
        if not ended:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


def tests_in(place: Path, cache: Path, files: list[str], *plugins: object) -> int:
    """Run tests of the copy, in this process; pytest's exit code."""
    os.chdir(place)
    os.environ["PYTHONPATH"] = str(place)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # tyro has imported what one would rewrite
    os.environ["NUMBA_CACHE_DIR"] = numba.config.CACHE_DIR = str(cache)  # type: ignore[attr-defined]
    sys.path[:0] = [str(place)]
    resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    words = ["-x", "-p", "no:cacheprovider", "--durations=0", "-q", "--tb=line"]
    if any(isinstance(plugin, Recorder) for plugin in plugins):
        words.remove("-x")
    return int(pytest.main([*words, *files], plugins=list(plugins)))


def record(folder: Path, place: Path) -> dict[str, tuple[float, list[tuple[str, int]]]]:
    """Seconds and lines of every test of search/, found at the first call, file by file."""
    kept = folder / "tests"
    kept.mkdir(exist_ok=True)
    files = [path for path in sorted((place / "tests").glob("test_*.py")) if asked(path)]
    tests: dict[str, tuple[float, list[tuple[str, int]]]] = {}
    for file in [*files, place / "search"]:
        path = kept / f"{file.stem}.json"
        if not path.exists():
            log = path.with_suffix(".txt")

            def work(file: Path = file, path: Path = path) -> int:
                recorder = Recorder(place)
                tests_in(place, folder / "kernels", [str(file.relative_to(place))], recorder)
                path.with_suffix(".part").write_text(json.dumps(recorder.tests))
                path.with_suffix(".part").rename(path)
                return 0

            if forked(work, 3600, log) != 0:
                sys.exit(f"the tests could not be recorded: see {log}")
            for cached in (place / "search").rglob("__pycache__"):
                shutil.rmtree(cached)
        tests |= json.loads(path.read_text())
    return tests


def asked(path: Path) -> bool:
    """Whether a file of tests is about search/."""
    text = path.read_text(encoding="utf-8")
    if any(word in path.stem for word in NOT_ASKED):
        return False
    return "search" in text and not re.search("^(import|from) jaxhash", text, re.MULTILINE)


# ---------------------------------------------------------------- mutants


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


class Tester:
    """Runs the tests that concern a mutant."""

    def __init__(self, folder: Path, options: Options) -> None:
        self._folder, self._options = folder, options
        self._place = copy(folder)
        search = self._place / "search"
        self._imports = {str(p.relative_to(search)): imports(p) for p in search.rglob("*.py")}
        self._seconds: dict[str, float] = {}
        self._by_line: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._by_module: dict[str, set[str]] = defaultdict(set)
        for name, (seconds, lines) in record(folder, self._place).items():
            if any(slow in name for slow in SLOW) and PLAIN not in name:
                continue
            self._seconds[name] = seconds
            for module, line in lines:
                self._by_line[module, line].add(name)
                self._by_module[module].add(name)
            if not lines:  # in another process, or nowhere
                self._by_module[""].add(name)

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
        if module.startswith("kernels/") and not module.endswith(("keeping.py", "compiling.py")):
            kernels = self._users(module)
            near = {name for name, needs in self._imports.items() if needs & kernels}
            names = set().union(*(self._by_module[name] for name in near | kernels))
        elif mutant.where == "" or not self._by_line[module, mutant.line]:
            names = self._by_module[module]
        else:
            names = self._by_line[module, mutant.line]
        by_time = sorted(names, key=self._seconds.__getitem__)
        if not module.startswith(ELSEWHERE):
            return by_time
        # Then those in processes of their own, which nobody traced.
        return by_time + sorted(self._by_module[""], key=self._seconds.__getitem__)

    def result(self, module: str, mutant: Mutant) -> tuple[str, str]:
        """'killed' or 'survived', and by what."""
        names = self._tests(module, mutant)
        # Most die of the first tests, and collecting the others takes longer than these. Those of
        # kernels that are not compiled come before all.
        plain = [name for name in self._seconds if PLAIN in name] if "kernels" in module else []
        most = [at for at, name in enumerate(names) if self._before(names, at) < self._options.most]
        for part in (plain, names[:FIRST], names[FIRST : len(most)]):
            result, by = self._meet(module, mutant, part) if part else ("survived", "")
            if result == "killed":
                return result, by
        return "survived", f"{len(most)} of {len(names)} tests"

    def _before(self, names: list[str], at: int) -> float:
        """Seconds of the tests before one."""
        return sum(self._seconds[name] for name in names[:at])

    def _meet(self, module: str, mutant: Mutant, names: list[str]) -> tuple[str, str]:
        """`result` of some of the tests."""
        files = list(dict.fromkeys(name.partition("::")[0] for name in names))
        path = self._place / "search" / module
        kept, times = path.read_text(), path.stat()
        cache = self._folder / "kernels"
        log = self._folder / "mutant.txt"
        if module.startswith("kernels/"):
            cache = self._folder / "kernels-of-mutant"
            shutil.rmtree(cache, ignore_errors=True)
            shutil.copytree(self._folder / "kernels", cache, copy_function=os.link)
            for user in self._users(module):
                for file in cache.rglob(f"{Path(user).stem}.*"):
                    file.unlink()

        def work() -> int:
            sys.dont_write_bytecode = True
            if module.startswith("kernels/") and not module.endswith("keeping.py"):
                keep_as(self._place / "search" / "kernels", kept, path)
            return tests_in(self._place, cache, files, Chosen(names))

        limit = self._options.seconds + 3 * sum(self._seconds[name] for name in names)
        try:
            path.write_text(mutant.source)
            code = forked(work, limit, log)
        finally:
            path.write_text(kept)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # kernels go by it
        if code == 0:
            return "survived", ""
        if code is None:
            return "killed", "it took too long"
        if code < 0:
            return "killed", f"signal {-code}"
        failed = [line for line in log.read_text(errors="replace").splitlines() if "FAILED" in line]
        return "killed", (failed or [f"exit code {code}"])[-1].removeprefix("FAILED ")[:200]


def equivalent() -> list[dict[str, str]]:
    """What survives with reason: rows of a module and a reason, and of what else they name.

    A row may name the line as it was, as it is then, and the function; each that it leaves out may
    be any.
    """
    return tomllib.loads(EQUIVALENT.read_text())["mutant"]


def is_known(rows: list[dict[str, str]], module: str, mutant: Mutant) -> bool:
    """Whether one of the rows of `equivalent` is about a mutant."""
    has = {"module": module, "old": mutant.old, "new": mutant.new, "where": mutant.where}
    return any(all(row.get(name, value) == value for name, value in has.items()) for row in rows)


def drawn(options: Options, place: Path) -> list[tuple[str, Mutant]]:
    """The mutants to try, in the order of trying."""
    found = []
    for path in sorted((place / "search").rglob("*.py")):
        module = str(path.relative_to(place / "search"))
        if any(part in module for part in options.modules):
            found += [(module, mutant) for mutant in mutants(path.read_text())]
    random.Random(options.seed).shuffle(found)
    return found if options.all else found[: options.sample]


def main() -> None:
    """Try mutants until time is up, and print what came of them."""
    options = tyro.cli(Options, description=__doc__)
    end = time.monotonic() + 60 * options.minutes
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for name in BEFORE:
        importlib.import_module(name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # with the sources as they were
    tester, known = Tester(folder, options), equivalent()
    log = folder / "results.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    done = {(row["module"], row["line"], row["new"]): row["result"] for row in rows}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for module, mutant in drawn(options, copy(folder)):
        key = module, mutant.line, mutant.new
        if key not in done:
            if time.monotonic() > end:
                break
            start = time.monotonic()
            done[key], by = tester.result(module, mutant)
            row = {"module": module, "line": mutant.line, "where": mutant.where}
            row |= {"old": mutant.old, "new": mutant.new, "result": done[key], "by": by}
            with log.open("a") as file:
                print(json.dumps(row | {"seconds": time.monotonic() - start}), file=file)
        result = done[key]
        if result == "survived" and is_known(known, module, mutant):
            result = "equivalent"
        counts[module][result] += 1
        if result == "survived":
            print(
                f"{module}:{mutant.line} {mutant.where}: {mutant.old}  ->  {mutant.new}", flush=True
            )
    columns = "killed", "survived", "equivalent"
    print(f"{'module':28}" + "".join(f"{name:>12}" for name in columns))
    for module, own in sorted(counts.items()):
        print(f"{module:28}" + "".join(f"{own[name]:12}" for name in columns))
    total = sum(counts.values(), Counter())
    print(f"{'all':28}" + "".join(f"{total[name]:12}" for name in columns))
    sys.exit(1 if total["survived"] else 0)


if __name__ == "__main__":
    main()
