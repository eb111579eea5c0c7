"""Which tests notice a mutant of search/: they run in forks of one process that has all imported.

A fork takes milliseconds, where a new process takes seconds to import and collect. In it, the code
of the functions that the fault changes is exchanged in place, so that whoever has imported one of
them has the changed one, and so are constants of a module (mutant_constants.py). The rest (a
default, a constant that another is made of) cannot be tried in this way, and wants a process that
imports the changed source (`anew`).
"""

import ast
import contextlib
import functools
import gc
import hashlib
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any

import mutant_constants
import pytest
from mutations import Mutant

MOST_MEMORY = 6 << 30  # bytes a mutant may fill
SPARE = 8.0  # processor seconds that a test may take with a fault, and five times what it took
OFTEN = 20  # a test that killed a mutant of a module goes before others that take so much less
Lines = list[tuple[str, int]]
Outcome = tuple[str, str]


class Elsewhere(Exception):
    """A fault that is in no function's body."""


class Runner:
    """A pytest plugin that tries mutants in place of running the tests once.

    Args:
        place: the copy of the project.
        kept: where the seconds and lines of each test are kept.
        without: parts of the names of tests that are left out.
        longest: processor seconds; tests that take longer are left out.
        most: seconds of tests that a mutant meets.
        tries: called with the runner once it is ready.
    """

    def __init__(
        self,
        place: Path,
        kept: Path,
        without: tuple[str, ...],
        longest: float,
        most: float,
        tries: Callable[["Runner"], None],
    ) -> None:
        self._place, self._kept, self._without = place, kept, without
        self._longest, self._most, self._tries = longest, most, tries
        self._search = str(place / "search") + os.sep
        self._items: dict[str, pytest.Item] = {}
        self._seconds: dict[str, float] = {}
        self._by_line: dict[tuple[str, int], set[str]] = defaultdict(set)
        self._by_module: dict[str, set[str]] = defaultdict(set)
        self._kills: dict[tuple[str, str], int] = defaultdict(int)
        self._passes: set[str] = set()
        self._functions: dict[str, list[FunctionType]] = defaultdict(list)
        self._caches: list[Any] = []
        self._trees: dict[str, ast.Module] = {}
        self._report: pytest.TestReport | None = None

    # ------------------------------------------------------------ hooks

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Record the tests, then try mutants."""
        self._items = {item.nodeid: item for item in session.items}
        for name in [name for name in self._items if any(each in name for each in self._without)]:
            del self._items[name]
        self._kept.mkdir(parents=True, exist_ok=True)
        files: dict[str, list[str]] = defaultdict(list)
        for name in self._items:
            files[name.partition("::")[0]].append(name)
        for file, names in files.items():
            for name, test in self._recorded(file, names).items():
                if test is not None and name in self._items:
                    self._take(name, *test)
        self._warm()
        self._look_around()
        self._tries(self)
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the first report of a test that did not pass."""
        if not report.passed and self._report is None:
            self._report = report

    # ------------------------------------------------------------ the tests without a fault

    def _take(self, name: str, seconds: float, lines: Lines) -> None:
        self._seconds[name] = seconds
        for module, line in lines:
            self._by_line[module, line].add(name)
            self._by_module[module].add(name)
        if not lines:  # in another process, or nowhere
            self._by_module[""].add(name)

    def _recorded(self, file: str, names: list[str]) -> dict[str, tuple[float, Lines] | None]:
        """`_record` of the tests of a file, found once for each version of the file."""
        digest = hashlib.sha256((self._place / file).read_bytes()).hexdigest()[:12]
        kept = self._kept / f"{file.replace('/', '-')}-{digest}.json"
        if not kept.exists():
            for old in self._kept.glob(f"{file.replace('/', '-')}-*.json"):
                old.unlink()
            tests = {name: self._record(name) for name in names}
            kept.with_suffix(".part").write_text(json.dumps(tests))
            kept.with_suffix(".part").rename(kept)
        return dict(json.loads(kept.read_text()))

    def _record(self, name: str) -> tuple[float, Lines] | None:
        """Seconds of a test and the lines of search/ that it runs; None where it does not pass."""
        result = self._kept / "of-a-test"
        result.unlink(missing_ok=True)

        def work() -> int:
            lines: set[tuple[str, int]] = set()
            under = len(self._search)

            def trace(frame: FrameType, event: str, argument: object) -> Any:
                file = frame.f_code.co_filename
                if not file.startswith(self._search):
                    return None
                file = file[under:]

                def line(frame: FrameType, event: str, argument: object) -> Any:
                    lines.add((file, frame.f_lineno))
                    return line

                lines.add((file, frame.f_lineno))
                return line

            limited(self._longest)
            threading.settrace(trace)
            sys.settrace(trace)
            start = time.process_time()
            self._run([name])
            sys.settrace(None)
            if self._report is None:
                took = time.process_time() - start
                result.write_text(json.dumps((took, sorted(lines))))
            return 0

        forked(work, self._kept / "log.txt")
        return json.loads(result.read_text()) if result.exists() else None

    def _warm(self) -> None:
        """Run the quick tests here, so that forks find loaded what they load."""
        end = time.monotonic() + 60
        for name in sorted(self._seconds, key=self._seconds.__getitem__):
            if self._seconds[name] > 1 or time.monotonic() > end:
                break
            if name.startswith("tests"):  # an example's names are gone once it has run
                self._run([name])
        self._report = None

    def _look_around(self) -> None:
        """Note the functions of search/, what keeps their results, and who could read constants."""
        for name, module in list(sys.modules.items()):
            path = str(getattr(module, "__file__", None) or "")
            if path.startswith(f"{self._place}{os.sep}") and path.endswith(".py"):
                self._trees[name] = ast.parse(Path(path).read_text())
        gc.unfreeze()  # what the tests have frozen is not among the objects
        for each in gc.get_objects():
            kind = type(each)  # a proxy of what is gone raises where it is asked for its class
            if kind is FunctionType and each.__code__.co_filename.startswith(self._search):
                self._functions[each.__code__.co_filename].append(each)
            elif kind is functools._lru_cache_wrapper and str(each.__module__).startswith("search"):
                self._caches.append(each)
        gc.collect()
        gc.freeze()

    def _run(self, names: list[str]) -> None:
        """Run tests in this process until one does not pass."""
        for name, after in zip(names, [*names[1:], None], strict=True):
            item = self._items[name]
            following = None if after is None else self._items[after]
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._report is not None:
                return

    # ------------------------------------------------------------ those with one

    def tests(self, module: str, lines: Iterable[tuple[str, int]]) -> list[str]:
        """The tests that run through lines, or else the module, the most promising first."""
        near = set().union(*(self._by_line[line] for line in lines)) or self._by_module[module]

        def hope(name: str) -> float:
            return self._seconds[name] / (1 + OFTEN * min(self._kills[module, name], 10))

        by_hope = sorted(near, key=hope)
        # Then those in processes of their own, which nobody traced.
        return by_hope + sorted(self._by_module[""] - near, key=hope)

    def result(self, module: str, mutant: Mutant) -> Outcome:
        """'killed', 'hung' or 'survived', and by what; 'elsewhere' where this cannot be told."""
        path = self._place / "search" / module
        kept, times = path.read_text(), path.stat()
        change: Callable[[], None]
        try:
            if mutant.where:
                code, lines = self._changed(str(path), kept, mutant.source), [(module, mutant.line)]
                change = functools.partial(self._exchange, str(path), code)
            else:
                change, lines = self._reset(module, kept, mutant.source)
        except Elsewhere as reason:
            return "elsewhere", str(reason)
        names = self.tests(module, lines)
        seconds, chosen = 0.0, []
        for name in names:
            if seconds < self._most:
                chosen.append(name)
                seconds += self._seconds[name]
        log = self._kept / "log.txt"
        log.unlink(missing_ok=True)

        def work() -> int:
            sys.dont_write_bytecode = True
            change()
            for name, after in zip(chosen, [*chosen[1:], None], strict=True):
                print("\nbegins", name, flush=True)
                alone = name in self._by_module[""]  # what its processes take was not recorded
                limited(5 * self._seconds[name] + (10 * SPARE if alone else SPARE))
                item = self._items[name]
                following = None if after is None else self._items[after]
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self._report is not None:
                    crash = getattr(self._report.longrepr, "reprcrash", None)
                    print("\nfailed", getattr(crash, "message", "").partition("\n")[0][:200])
                    return 1
            return 0

        try:
            path.write_text(mutant.source)  # for processes that a test starts
            end = forked(work, log)
        finally:
            path.write_text(kept)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # kernels go by it
        if end == 0:
            return "survived", f"{len(chosen)} of {len(names)} tests"
        last, why = "", f"code {end}"
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("begins "):
                last = line.removeprefix("begins ")
            elif line.startswith("failed "):
                why = line.removeprefix("failed ")
        if last in self._seconds and not self._passing(last):
            return self.result(module, mutant)
        self._kills[module, last] += 1
        hung = end in (-signal.SIGXCPU, -signal.SIGALRM)
        return "hung" if hung else "killed", f"{last}: {why}"

    def _passing(self, name: str) -> bool:
        """Whether a test passes in a fork without a fault; one that does not is asked no more."""

        def work() -> int:
            self._run([name])
            return 0 if self._report is None else 1

        if name not in self._passes:
            if forked(work, self._kept / "log.txt") != 0:
                print(f"\nfails without a fault: {name}", flush=True)
                del self._seconds[name]
                for names in (*self._by_line.values(), *self._by_module.values()):
                    names.discard(name)
                return False
            self._passes.add(name)
        return True

    def _reset(self, module: str, old: str, new: str) -> tuple[Callable[[], None], Lines]:
        """What exchanges a module's constants, and the lines that read them."""
        name = "search." + module.removesuffix(".py").replace("/", ".")
        constants = mutant_constants.changed(name, old, new)
        if constants is None:
            raise Elsewhere("in no function's body, and no constant")
        holders = [each for each, tree in self._trees.items() if constants.held(each, tree)]
        lines: Lines = []
        for each, tree in self._trees.items():
            for line, late in constants.reads(each, tree):
                if not late and each.startswith("search"):
                    raise Elsewhere("a constant that is read while a module is imported")
                lines.append((each.removeprefix("search.").replace(".", "/") + ".py", line))

        def change() -> None:
            values = constants.values(sys.modules[name])
            for each in holders:
                vars(sys.modules[each]).update(values)
            for kept in self._caches:
                kept.cache_clear()

        return change, lines

    def _changed(self, path: str, old: str, new: str) -> dict[CodeType, CodeType]:
        """The functions' code objects that a fault changes, and what they become."""
        changed: dict[CodeType, CodeType] = {}

        def walk(before: CodeType, after: CodeType) -> bool:
            """Whether one differs from the other, or what it holds does."""
            inside = [
                [each for each in code.co_consts if isinstance(each, CodeType)]
                for code in (before, after)
            ]
            differs = body(before) != body(after)
            if [each.co_name for each in inside[0]] == [each.co_name for each in inside[1]]:
                for pair in zip(*inside, strict=True):
                    differs |= walk(*pair)
            if differs:
                changed[before] = after
            return differs

        walk(compile(old, path, "exec", 0, True), compile(new, path, "exec", 0, True))
        live = {function.__code__ for function in self._functions[path]}
        here = changed.keys() & live
        if not here:
            raise Elsewhere("in no function's body")
        if any(code.co_freevars != changed[code].co_freevars for code in here):
            raise Elsewhere("another closure")
        return {code: changed[code] for code in here}

    def _exchange(self, path: str, changed: dict[CodeType, CodeType]) -> None:
        for function in self._functions[path]:
            if function.__code__ in changed:
                function.__code__ = changed[function.__code__]
        for each in self._caches:
            each.cache_clear()


def body(code: CodeType) -> tuple[object, ...]:
    """What a code object does, but for what it holds and where its lines are."""
    constants = [each for each in code.co_consts if not isinstance(each, CodeType)]
    return code.co_code, repr(constants), code.co_names, code.co_varnames, code.co_freevars


def limited(seconds: float) -> None:
    """End this process where it takes so many processor seconds more, or a lot of waiting."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = int(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, 40 + 10 * seconds)


def forked(work: Callable[[], int], log: Path) -> int:
    """The exit code of `work` in a child, negative for a signal."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_DATA, (MOST_MEMORY, MOST_MEMORY))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
            code = work()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        os._exit(code)
    status = None
    try:
        # As in the child, whoever comes first: a signal may end the wait before the child begins.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(child, child)
        _, status = os.waitpid(child, 0)
    finally:  # and what it started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        if status is None:
            os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def cleared(folder: Path) -> Path:
    """An empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def tests_in(place: Path, files: Iterable[str], *plugins: object) -> int:
    """Run pytest over the copy, in this process; its exit code."""
    import hypothesis

    # What it found for one mutant says nothing of the next; how small it is matters to nobody.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile(
        "mutants", database=None, derandomize=True, phases=phases, deadline=None
    )
    hypothesis.settings.load_profile("mutants")
    os.chdir(place)
    os.environ["PYTHONPATH"] = str(place)
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # tyro has imported what one would rewrite
    sys.path[:0] = [str(place)]
    words = ["-p", "no:cacheprovider", "-s", "--tb=line"]
    return int(pytest.main([*words, *files], plugins=list(plugins)))
