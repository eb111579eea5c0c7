"""The faults that a mutation run puts into the search, and the tests that it picks for them."""

import importlib
import json
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
        assert row.keys() <= {"module", "where", "old", "new", "reason"}
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
        def __init__(self, folder, options):
            mutate.copy(folder)

        def result(self, module, mutant):
            asked.append(mutant.new)
            return ("survived", "2 tests") if len(asked) == 2 else ("killed", "a test")

    monkeypatch.setattr(mutate, "Tester", Tester)
    monkeypatch.setattr(mutate, "BEFORE", ())
    monkeypatch.setattr(mutate, "COPIED", ("search", "pyproject.toml"))
    words = ["--folder", str(tmp_path), "--modules", "filters.py", "--sample", "3"]
    for times in range(2):
        monkeypatch.setattr(sys, "argv", ["mutate_search.py", *words])
        with pytest.raises(SystemExit) as end:
            mutate.main()
        assert end.value.code == 1
        printed = capsys.readouterr().out.splitlines()
        assert printed[0].endswith(asked[1]), times
        assert printed[-1].split() == ["all", "2", "1", "0"]
    assert len(asked) == 3, "what was tried is not tried again"
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [row["result"] for row in rows] == ["killed", "survived", "killed"]
