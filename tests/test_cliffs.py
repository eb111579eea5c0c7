"""The benchmark of cliffs runs, and says what is too far from its good path."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from search.hamming import buckets
from search.hamming.blocks import arrange

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"


@pytest.fixture
def cliffs(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("cliffs")


def test_every_pair_is_measured(cliffs):
    rows = list(cliffs.rows(cliffs.Config(scale=0.0005, runs=1)))
    assert len(rows) == 13
    assert len({row.name for row in rows}) == 13
    assert all(row.good > 0 and row.cliff > 0 for row in rows)


@pytest.mark.parametrize(("cliff", "code"), [(2.9, None), (3.1, 1)])
def test_the_exit_code_is_one_above_three_times(cliff, code, cliffs, monkeypatch, capsys):
    row = cliffs.Row("a pair", 1.0, cliff, 1.0, 99.0)
    monkeypatch.setattr(cliffs, "rows", lambda _: [row, cliffs.Row("memory", 1e6, 1e6)])
    monkeypatch.setattr(sys, "argv", ["cliffs.py"])
    if code is None:
        cliffs.main()
    else:
        with pytest.raises(SystemExit, match="more than 3 times the good path: a pair"):
            cliffs.main()
    assert f"{cliff:.2f}" in capsys.readouterr().out


def test_codes_cannot_be_chosen_to_collide(cliffs, monkeypatch):
    """Codes that all start in one slot of a hash table would be compared each with each."""
    occupied = []
    enter = buckets.kernels.enter

    def look(words, count, table, *more):
        enter(words, count, table, *more)
        occupied.append(table >= 0)

    monkeypatch.setattr(buckets.kernels, "enter", look)
    codes = cliffs.crafted(3000)
    assert len(np.unique(codes, axis=0)) == 3000
    index = buckets.build(arrange(codes), threads=1)
    np.testing.assert_array_equal(index.rows, np.arange(3000))
    assert occupied
    for slots in occupied:
        empty = np.concatenate([[-1], np.flatnonzero(~slots), [len(slots)]])
        assert np.diff(empty).max() < 200
