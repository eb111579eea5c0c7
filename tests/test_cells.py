"""Approximate search: with all cells it is the scan, and with few it finds what was asked."""

import copy

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_buckets import assert_same, cases, draw_case

import search
from search.filters import Filter
from search.hamming import cells, scan
from search.hamming.blocks import BLOCK, arrange, restore
from search.hamming.recall import Approximate, Probed
from search.hamming.searchable import Scanned


@settings(max_examples=50, deadline=None)
@given(cases, st.sampled_from([0, 1, 3, 30, 700]), st.sampled_from([None, 0.0, 0.05, 0.6]))
def test_all_cells_are_the_scan(case, k, share):
    """In distances, and in rows but for which of those that tie at the last distance."""
    rng, codes, queries, blocks = draw_case(case)
    allowed = None if share is None else rng.random(len(codes)) < share
    index = cells.build(blocks, cells=1 + len(codes) // 100, threads=case["threads"])
    probes = max(1, len(index.centres))
    distances, rows = index.knn(queries, k, probes=probes, allowed=allowed, threads=case["threads"])
    expected, _ = naive.hamming_knn(queries, codes, k, allowed)
    np.testing.assert_array_equal(distances, expected)
    full = naive.hamming_distances(queries, codes)
    for query, (near, found) in enumerate(zip(distances, rows, strict=True)):
        kept = found[found >= 0]
        assert (found[len(kept) :] == -1).all()
        assert len(set(kept)) == len(kept)
        assert allowed is None or allowed[kept].all()
        np.testing.assert_array_equal(full[query, kept], near[: len(kept)])
        keys = near[: len(kept)] * len(codes) + kept
        assert (np.diff(keys) > 0).all()


@settings(max_examples=30, deadline=None)
@given(cases, st.sampled_from([1, 30]), st.sampled_from([1, 2, 5]))
def test_few_cells_are_searched_exactly(case, k, probes):
    """What is found is the nearest of the cells whose centres are nearest, ties by cell."""
    _, codes, queries, blocks = draw_case(case)
    index = cells.build(blocks, cells=1 + len(codes) // 100)
    distances, rows = index.knn(queries, k, probes=probes, threads=case["threads"])
    if not len(codes):
        assert (rows == -1).all()
        return
    centres = restore(index.centres)
    own = naive.hamming_knn(codes, centres, 1)[1][:, 0]
    near = naive.hamming_knn(queries, centres, min(probes, len(centres)))[1]
    for query in range(len(queries)):
        allowed = np.isin(own, near[query])
        expected, _ = naive.hamming_knn(queries[query : query + 1], codes, k, allowed)
        np.testing.assert_array_equal(distances[query], expected[0])
        assert allowed[rows[query][rows[query] >= 0]].all()


@settings(max_examples=30, deadline=None)
@given(cases)
def test_every_code_is_in_its_cell_once(case):
    _, codes, _, blocks = draw_case(case)
    index = cells.build(blocks, cells=1 + len(codes) // 100, threads=case["threads"])
    filled = np.unpackbits(index.filled.view(np.uint8), bitorder="little").astype(bool)
    np.testing.assert_array_equal(np.sort(index.rows[filled]), np.arange(len(codes)))
    np.testing.assert_array_equal(restore(index.blocks)[filled], codes[index.rows[filled]])
    assert len(index.starts) == len(index.centres) + 1
    for cell, (start, stop) in enumerate(zip(index.starts, index.starts[1:], strict=False)):
        part = slice(start * BLOCK, stop * BLOCK)
        inside, rows = filled[part], index.rows[part]
        assert not (np.diff(inside.astype(int)) > 0).any()  # fillings come after the codes
        assert (np.diff(rows[inside].astype(int)) > 0).all()
        # What fills up the last block is as far from the centre as can be.
        centre = restore(index.centres, cell, cell + 1)
        distances = naive.hamming_distances(centre, restore(index.blocks)[part])[0]
        assert (distances[~inside] == blocks.bits).all()


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_the_same_for_any_threads_and_company(rng, threads):
    codes = search.pack(rng.integers(0, 2, (20_000, 40)))
    queries = search.pack(rng.integers(0, 2, (1100, 40)))  # more than share a sweep
    index = cells.build(arrange(codes, 40), cells=50, threads=threads)
    assert_same(
        (index.rows, index.filled),
        (lambda one: (one.rows, one.filled))(cells.build(arrange(codes, 40), cells=50, threads=1)),
    )
    together = index.knn(queries, 20, probes=7, threads=threads)
    for query in (0, 1, 555, 1099):
        alone = index.knn(queries[query : query + 1], 20, probes=7, threads=threads)
        assert_same(alone, [part[query : query + 1] for part in together])


def draw_like(kind, rng, count):
    """Codes of 64 bits: of fair bits, around a few centres, or ten classes with many equal."""
    if kind == "uniform":
        return rng.integers(0, 256, (count, 8), dtype=np.uint8)
    centres = np.random.default_rng(7).integers(0, 2, (10 if kind == "learned" else 60, 64))
    chance = rng.beta(0.35, 6.0, (count, 1)) if kind == "learned" else 0.05
    flipped = rng.random((count, 64)) < chance
    return np.packbits(centres[rng.integers(0, len(centres), count)] ^ flipped, axis=1)


@pytest.mark.parametrize("kind", ["uniform", "clustered", "learned"])
def test_recall_is_what_was_asked(rng, kind):
    codes, queries = draw_like(kind, rng, 30_000), draw_like(kind, rng, 400)
    blocks = arrange(codes)
    index = Approximate(cells.build(blocks, cells=100), Scanned(blocks))
    for k, wanted in ((1, 0.8), (10, 0.7), (10, 0.95), (50, 0.9)):
        found = index.at(k, wanted)
        last = scan.knn(blocks, queries, k)[0][:, -1:]
        shares = (found.knn(queries, k)[0] <= last).mean(axis=1)
        error = 3 * shares.std() / len(queries) ** 0.5
        assert shares.mean() >= wanted - error
        if isinstance(found, Probed) and found.probes > 1:
            # and not at the price of everything: half the cells would not have done
            fewer = index.cells.knn(queries, k, probes=found.probes // 2)[0] <= last
            assert fewer.mean() < wanted + error
    assert isinstance(index.at(10, 0.7), Probed)


def test_exact_where_cells_save_nothing(rng):
    blocks = arrange(draw_like("uniform", rng, 5000))
    index = Approximate(cells.build(blocks, cells=20), Scanned(blocks))
    assert index.at(10, 1.0) is index.exact
    assert index.at(10, 0.999) is index.exact
    assert index.at(2000, 0.5) is index.exact
    assert index.at(10, 0.3) is index.at(10, 0.3)  # measured once


def test_exact_where_too_few_may_be_found_to_measure_with(rng):
    """Alike as they are, any one of them would do as a sample to find that one cell suffices."""
    codes = draw_like("uniform", rng, 80_000)
    codes[:5] = 0
    blocks = arrange(codes)
    index = Approximate(cells.build(blocks, cells=20), Scanned(blocks))
    assert index.at(1, 0.5, allowed=Filter(np.arange(80_000) < 5)) is index.exact


def test_as_many_as_there_are(rng):
    """A query whose cells hold fewer than k is searched exactly."""
    codes = draw_like("uniform", rng, 5000)
    blocks = arrange(codes)
    index = Probed(cells.build(blocks, cells=50), 1, Scanned(blocks))
    allowed = np.zeros(5000, bool)
    allowed[:6] = True
    found = index.knn(codes[:9], 6, allowed=allowed)
    assert_same(found, naive.hamming_knn(codes[:9], codes, 6, allowed))
    assert_same(index.radius(codes[:9], 20), naive.hamming_radius(codes[:9], codes, 20))
    assert index.knn(codes[:9], 0)[0].shape == (9, 0)


@pytest.fixture(scope="module")
def many():
    """An index with more codes than are searched exactly whatever the recall."""
    rng = np.random.default_rng(17)
    codes = draw_like("clustered", rng, 70_000)
    features = rng.normal(size=(70_000, 4)).astype(np.float32)
    return search.HashIndex(codes, features=features), codes, features


def shares(found, exact):
    """The share of each query's k nearest that was found."""
    return (found[0] <= exact[0][:, -1:]).mean(axis=1)


def test_an_index_finds_the_recall_that_is_stated(many):
    index, _, features = many
    queries = draw_like("clustered", np.random.default_rng(18), 300)
    exact = index.search(queries, 10)
    found = index.search(queries, 10, recall=0.9)
    assert 0.88 <= shares(found, exact).mean() < 1
    assert found[0].dtype == np.int32
    assert_same(found, index.search(queries, 10, recall=0.9, threads=1))
    assert_same(index.search(queries, 10, recall=1), exact)
    assert_same(index.search(queries[7], 10, recall=0.9), [part[7] for part in found])
    # As a pool, whose items are then put in order by their features.
    fine = index.search(queries, 3, query_features=features[:300], pool=10, recall=0.9)
    rows = np.take_along_axis(found[1], np.argsort(found[1], axis=1), axis=1)
    assert np.isin(fine[1], rows).all()
    assert_same(fine, search.rerank(features[:300], features, rows, 3))


def test_an_index_that_changes_keeps_the_recall(many):
    rng = np.random.default_rng(19)
    index, features = copy.copy(many[0]), many[2]
    queries = draw_like("clustered", rng, 300)
    index.prepare(approximate=True)
    index.remove(rng.permutation(70_000)[:30_000])
    new = index.add(queries[:100], features[:100])
    found, exact = index.search(queries, 10, recall=0.9), index.search(queries, 10)
    assert 0.88 <= shares(found, exact).mean() < 1
    assert np.isin(found[1], index.ids).all()
    # What was added after the cells were made is searched exactly.
    np.testing.assert_array_equal(found[0][:100, 0], 0)
    assert np.isin(new, found[1][:100]).mean() > 0.5
    index.remove(index.ids[:-5])
    np.testing.assert_array_equal(np.sort(index.search(queries, 5, recall=0.5)[1][0]), index.ids)


def test_small_and_empty_indexes_are_searched_exactly(rng):
    for count in (0, 3):
        index = search.HashIndex(np.zeros((count, 2), np.uint8))
        index.prepare(approximate=True)
        queries = rng.integers(0, 256, (4, 2), dtype=np.uint8)
        assert_same(index.search(queries, 5, recall=0.5), index.search(queries, 5))


def test_refusals(many):
    index, codes, _ = many
    with pytest.raises(ValueError, match="recall must be above 0 and at most 1, not 0"):
        index.search(codes[:1], 3, recall=0)
    with pytest.raises(ValueError, match="recall must be above 0 and at most 1, not nan"):
        index.search(codes[:1], 3, recall=float("nan"))
    with pytest.raises(TypeError, match="recall must be a number, not 'high'"):
        index.search(codes[:1], 3, recall="high")
    with pytest.raises(TypeError, match="recall must be a number, not True"):
        index.search(codes[:1], 3, recall=True)
    with pytest.raises(ValueError, match="recall does not combine with where; leave one"):
        index.search(codes[:1], 3, recall=0.9, where=[1, 2])
    with pytest.raises(ValueError, match="recall does not combine with radius; leave one"):
        index.search(codes[:1], 3, recall=0.9, radius=2)
