"""The faults that a mutation run puts into the search, and the tests that it picks for them."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = '''"""A module: its `1 + 1` is left alone."""
LIMIT = 3


def inside(x: "1 | 2", ys=()):
    """Whether 0 < 1."""
    if not ys or min(x, 2) <= LIMIT - 1:
        raise ValueError(f"{x + 1} is wrong")
    for y in ys:
        y.count += 1
        if y == x:
            break
        y.tell()
    return True
'''


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "benchmarks"))
    return importlib.import_module


def test_every_kind_of_fault_is_made_and_each_can_be_compiled(script):
    found = list(script("mutations").mutants(SOURCE))
    made = {(mutant.old, mutant.new) for mutant in found}
    assert made >= {
        ("LIMIT = 3", "LIMIT = 4"),
        ("LIMIT = 3", "LIMIT = 2"),
        ("if not ys or min(x, 2) <= LIMIT - 1:", "if False:"),
        ("if not ys or min(x, 2) <= LIMIT - 1:", "if (not ys and min(x, 2) <= LIMIT - 1):"),
        ("if not ys or min(x, 2) <= LIMIT - 1:", "if ys or min(x, 2) <= LIMIT - 1:"),
        ("if not ys or min(x, 2) <= LIMIT - 1:", "if not ys or (min(x, 2) < LIMIT - 1):"),
        ("if not ys or min(x, 2) <= LIMIT - 1:", "if not ys or max(x, 2) <= LIMIT - 1:"),
        ("if not ys or min(x, 2) <= LIMIT - 1:", "if not ys or min(x, 2) <= (LIMIT + 1):"),
        ('raise ValueError(f"{x + 1} is wrong")', "pass"),
        ("y.count += 1", "pass"),
        ("y.count += 1", "y.count -= 1"),
        ("if y == x:", "if (y != x):"),
        ("break", "continue"),
        ("y.tell()", "pass"),
        ("return True", "return None"),
        ("return True", "return False"),
    }
    words = [mutant for mutant in found if "A module" in mutant.old or "Whether" in mutant.old]
    assert not words
    assert len({mutant.source for mutant in found}) == len(found)
    for mutant in found:
        compile(mutant.source, "mutant", "exec")
        assert mutant.where == ("" if mutant.line == 2 else "inside")


def test_mutants_known_to_be_right_are_mutants(script):
    """A row of the list whose line has changed or gone would hide nothing, or something else."""
    mutants, mutate = script("mutations").mutants, script("mutate_search")
    rows = mutate.equivalent()
    found = {
        module: list(mutants((ROOT / "search" / module).read_text()))
        for module in {row["module"] for row in rows}
    }
    for row in rows:
        assert row.keys() <= {"module", "where", "old", "new", "constant", "reason"}
        assert row["reason"]
        assert len(row) > 2, "a whole module is no mutant"
        assert any(mutate.is_known([row], row["module"], each) for each in found[row["module"]]), (
            row
        )
        other = next(iter(found.keys() - {row["module"]}))
        assert not any(mutate.is_known([row], other, each) for each in found[other])


def test_a_mutation_run_counts_and_goes_on(script, tmp_path, monkeypatch, capsys):
    """Without the tests themselves, which take minutes."""
    mutate = script("mutate_search")
    asked = []

    class Tester:
        def result(self, module, mutant):
            asked.append(mutant.new)
            result = ("killed", "survived", "elsewhere", "killed")[len(asked) - 1]
            return result, "a test"

    def attempt(options, folder, found, results):
        results.fill(options.way, found, Tester())

    monkeypatch.setattr(mutate, "attempt", attempt)
    monkeypatch.setattr(mutate, "COPIED", ("search", "pyproject.toml"))
    words = ["--folder", str(tmp_path), "--modules", "filters.py", "--sample", "3"]
    for way, counts in (
        ("warm", ["all", "1", "0", "1", "0", "1"]),
        ("warm", ["all", "1", "0", "1", "0", "1"]),
        ("anew", ["all", "2", "0", "1", "0", "0"]),
    ):
        monkeypatch.setattr(sys, "argv", ["mutate_search.py", *words, "--way", way])
        with pytest.raises(SystemExit) as end:
            mutate.main()
        assert end.value.code == 1
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].endswith(asked[1])
        assert printed[-1].split() == counts
    assert len(asked) == 4, "what was tried is not tried again"
    assert asked[3] == asked[2], "but in another way, where the first could not tell"
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["result"] for row in rows] == ["killed", "survived", "elsewhere", "killed"]


def test_no_fault_survives_because_no_test_is_known(script, tmp_path):
    mutate = script("mutate_search")
    with pytest.raises(SystemExit, match="knows no tests yet: run the way warm first"):
        mutate.Anew(tmp_path, mutate.Options(tmp_path))


SUBJECT = '''"""What a test runs through."""
LIMIT = 2


def larger(x):
    """Whether it is above a limit."""
    def inner(y):
        return y > LIMIT
    return inner(x)


def counted(x):
    """Never ends where it starts too high."""
    while x != 3:
        x += 1
    return x


def idle(x):
    """One whose example runs through it, and tells nothing.

    >>> _ = idle(1)
    """
    return x + 1
'''
TRIED = {
    "LIMIT = 3": "killed",
    "return (y >= LIMIT)": "killed",
    "while False:": "killed",
    "pass": "hung",
    "return (x - 1)": "survived",
}
ITS_TEST = """import search.subject

def test_larger():
    assert search.subject.larger(3) and not search.subject.larger(2)

def test_counted():
    assert search.subject.counted(1) == 3
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")
def test_faults_are_exchanged_in_a_fork(tmp_path):
    """In a process of its own, as pytest runs within it."""
    for name, text in {
        "search/__init__.py": "",
        "search/subject.py": SUBJECT,
        "tests/test_subject.py": ITS_TEST,
        "pytest.ini": "[pytest]\naddopts = --doctest-modules",
    }.items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_text(text)
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "scripts" / "benchmarks")!r})
from pathlib import Path
from mutations import mutants
import mutant_tests
mutant_tests.SPARE = 0.2

def tries(runner):
    for mutant in mutants(Path("search/subject.py").read_text()):
        if mutant.new in {TRIED!r}:
            print("\\ncame", mutant.new, *runner.result("subject.py", mutant), sep="|")

place = Path({str(tmp_path / "copy")!r})
runner = mutant_tests.Runner(place, place.parent / "tests", (), 5.0, 5.0, tries)
mutant_tests.tests_in(place, ["-q", "tests/test_subject.py", "search"], runner)
"""
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, timeout=120
    )
    came = [line.split("|")[1:] for line in run.stdout.splitlines() if line.startswith("came|")]
    assert {new: result for new, result, _ in came} == TRIED
    assert "test_larger" in {new: by for new, _, by in came}["return (y >= LIMIT)"]
    assert (tmp_path / "copy" / "search" / "subject.py").read_text() == SUBJECT
