"""The stress script: it finds nothing in a short while, and says so when there is something."""

import importlib
import sys
from pathlib import Path

import pytest

from search import HashIndex

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"
WORDS = ["--minutes", "0", "--threads", "3", "--codes", "20000"]


@pytest.fixture
def stress_search(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    monkeypatch.setattr(sys, "argv", ["stress.py", *WORDS])
    module = importlib.import_module("stress")
    monkeypatch.setattr(module, "SEARCHES_EACH", 40)
    return module


def test_stress_finds_nothing(stress_search, capsys):
    before = sys.getswitchinterval()
    with pytest.raises(SystemExit) as end:
        stress_search.main()
    assert end.value.code == 0
    assert sys.getswitchinterval() == before
    assert capsys.readouterr().out == "40 searches, 0 wrong\n"


def test_stress_asks_all_the_questions_of_a_database(stress_search):
    options = stress_search.Options(minutes=1, threads=2, codes=5000)
    index, questions = next(stress_search.databases(options))
    assert len({question.name() for question in questions}) == 4 * 2 * 3
    assert all(question.right(index) for question in questions)


@pytest.mark.parametrize("part", [0, 1])
def test_stress_reports_a_wrong_answer(stress_search, monkeypatch, capsys, part):
    plain = HashIndex.search

    def spoiled(self, queries, k, **options):
        found = plain(self, queries, k, **options)
        if k == 16:
            found[part][-1, -1] += 1
        return found

    monkeypatch.setattr(HashIndex, "search", spoiled)
    with pytest.raises(SystemExit) as end:
        stress_search.main()
    assert end.value.code == 1
    assert "k = 16" in capsys.readouterr().out


def test_stress_raises_what_a_search_raises(stress_search, monkeypatch):
    def fail(self, *arguments, **options):
        raise MemoryError("none left")

    monkeypatch.setattr(HashIndex, "search", fail)
    with pytest.raises(MemoryError, match="none left"):
        stress_search.main()
