"""The bucket index gives the answers of the scan, whatever the codes are like."""

import dataclasses
import tracemalloc

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from search.hamming import buckets, scan, tables
from search.hamming.blocks import arrange, restore
from search.hamming.scan import knn
from search.kernels import buckets as kernels


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def draw_codes(rng, kind, count, bits):
    """Codes that never, sometimes, mostly or always repeat, and those at one distance from zero."""
    if kind == "uniform":
        return search.pack(rng.integers(0, 2, (count, bits)))
    if kind == "equal":
        return search.pack(np.broadcast_to(rng.integers(0, 2, bits), (count, bits)))
    if kind == "adversarial":
        # One bit set, or all but one: everything ties at distance 1 and bits - 1.
        truth = np.zeros((count, bits), np.int64)
        truth[np.arange(count), rng.integers(0, bits, count)] = 1
        return search.pack(truth ^ rng.integers(0, 2, (count, 1)))
    distinct = search.pack(rng.integers(0, 2, (max(1, count // 10), bits)))
    weights = 1 / np.arange(1, len(distinct) + 1)
    return distinct[rng.choice(len(distinct), count, p=weights / weights.sum())]


cases = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["uniform", "equal", "adversarial", "skewed"]),
        "count": st.one_of(st.integers(0, 40), st.sampled_from([256, 1025, 3000])),
        "bits": st.sampled_from([1, 5, 8, 12, 48, 64, 65, 128, 200]),
        "queries": st.integers(0, 9),
        "threads": st.sampled_from([1, 2, 7]),
        "seed": st.integers(0, 2**32 - 1),
    }
)


def draw_case(case):
    rng = np.random.default_rng(case["seed"])
    codes = draw_codes(rng, case["kind"], case["count"], case["bits"])
    queries = search.pack(rng.integers(0, 2, (case["queries"], case["bits"])))
    queries[:1] = 0
    if len(codes):
        queries[1:3] = codes[0]
    return rng, codes, queries, arrange(codes, case["bits"])


@settings(max_examples=60, deadline=None)
@given(cases, st.sampled_from([0, 1, 3, 30, 700, 4000]), st.sampled_from([None, 0.0, 0.05, 0.6]))
def test_knn_is_the_scan(case, k, share):
    rng, codes, queries, blocks = draw_case(case)
    allowed = None if share is None else rng.random(len(codes)) < share
    index = buckets.build(blocks, threads=case["threads"])
    found = index.knn(queries, k, allowed=allowed, threads=case["threads"])
    assert_same(found, scan.knn(blocks, queries, k, allowed=allowed))
    assert_same(found, naive.hamming_knn(queries, codes, k, allowed))


@settings(max_examples=40, deadline=None)
@given(cases, st.floats(0, 1), st.sampled_from([None, 0.0, 0.05, 0.6]))
def test_radius_is_the_scan(case, part, share):
    rng, codes, queries, blocks = draw_case(case)
    allowed = None if share is None else rng.random(len(codes)) < share
    index = buckets.build(blocks, threads=case["threads"])
    radius = round(part * case["bits"])
    found = index.radius(queries, radius, allowed=allowed, threads=case["threads"])
    assert_same(found, scan.radius(blocks, queries, radius, allowed=allowed))
    assert_same(found, naive.hamming_radius(queries, codes, radius, allowed))


@settings(max_examples=30, deadline=None)
@given(cases)
def test_buckets_are_the_groups_of_equal_codes(case):
    _, codes, _, blocks = draw_case(case)
    index = buckets.build(blocks, threads=case["threads"])
    distinct = restore(index.blocks)
    assert len(np.unique(distinct, axis=0)) == len(distinct)
    first = [index.rows[start] for start in index.offsets[:-1]]
    assert first == sorted(first)
    for code, start, stop in zip(distinct, index.offsets, index.offsets[1:], strict=False):
        np.testing.assert_array_equal(
            index.rows[start:stop], np.flatnonzero((codes == code).all(axis=1))
        )


def test_a_task_keeps_to_its_own_queries(rng, monkeypatch):
    """Whichever comes first: here the last, so that one that goes on writes over what is done."""
    codes = rng.integers(0, 4, (300, 1), np.uint8)
    queries = rng.integers(0, 256, (3 * buckets._TASK, 1), np.uint8)
    found = buckets.build(arrange(codes))

    def backwards(function, tasks, threads=None):
        return [function(*task) for task in list(tasks)[::-1]][::-1]

    monkeypatch.setattr(buckets.pool, "run", backwards)
    for k in (5, 300):
        assert_same(found.knn(queries, k), naive.hamming_knn(queries, codes, k))
    assert_same(found.radius(queries, 8), naive.hamming_radius(queries, codes, 8))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([1, 2, 3, 40]), st.integers(1, 60), st.booleans(), st.integers(0, 2**32 - 1))
def test_of_buckets_that_tie_the_least_rows_are_kept(distinct, need, filtered, seed):
    rng = np.random.default_rng(seed)
    index = buckets.build(arrange(rng.integers(0, distinct, (200, 1), np.uint8)))
    allowed = rng.random(200) < 0.5 if filtered else np.empty(0, np.bool_)
    some = np.flatnonzero(rng.random(index.blocks.count) < 0.7)
    rows = [index.rows[index.offsets[code] : index.offsets[code + 1]] for code in some]
    rows = np.concatenate([np.empty(0, np.int64), *rows]).astype(np.int64)
    expected = np.sort(rows[allowed[rows]] if filtered else rows)[:need]
    out = np.full(need + 2, -7)
    found = kernels._least(some, index.offsets, index.rows, allowed, need, out[1:-1])
    assert out[1 : 1 + found].tolist() == expected.tolist()
    assert out[[0, -1]].tolist() == [-7, -7]


@pytest.mark.parametrize("word", [0, 1])
@pytest.mark.parametrize("lowest", [0, 20, 52])
def test_codes_that_differ_in_few_bits_have_places_of_their_own(lowest, word, rng):
    """In a hash table, where many at one place would be looked through one by one."""
    seeds = rng.integers(0, 2**64, 2, np.uint64) | np.uint64(1)
    codes = np.zeros((4096, 2), np.uint64)
    codes[:, word] = np.arange(4096, dtype=np.uint64) << np.uint64(lowest)
    hashes = [int(kernels._hash(codes, position, seeds)) for position in range(4096)]
    at_a_place = np.bincount([each % 8192 for each in hashes])
    assert at_a_place.max() < 64  # six or seven at random; one factor in a hundred makes it 20


def test_a_filter_that_leaves_fewer_codes_than_are_asked_for():
    """Each query's list of codes ends early, and the next query's begins."""
    codes = np.repeat(np.array([[0], [255]], np.uint8), 20, axis=0)
    queries = np.array([[0], [1], [3]], np.uint8)
    allowed = np.arange(40) < 3
    found = buckets.build(arrange(codes)).knn(queries, 30, allowed=allowed)
    assert_same(found, naive.hamming_knn(queries, codes, 30, allowed))


def test_more_distinct_codes_than_the_first_tables_hold(rng):
    codes = rng.integers(0, 256, (9000, 3), dtype=np.uint8)
    codes[4000:] = codes[rng.integers(0, 4000, 5000)]
    blocks = arrange(codes)
    expected = np.unique(codes, axis=0, return_index=True)[1]
    for threads in (1, 2, 7):
        index = buckets.build(blocks, threads=threads)
        np.testing.assert_array_equal(index.rows[index.offsets[:-1]], np.sort(expected))
    queries = rng.integers(0, 256, (200, 3), dtype=np.uint8)
    assert_same(index.knn(queries, 50), scan.knn(blocks, queries, 50))


def test_build_gives_up_when_codes_hardly_repeat(rng):
    blocks = arrange(rng.integers(0, 256, (5000, 4), dtype=np.uint8))
    assert buckets.build(blocks, most=1000) is None
    assert not buckets.worthwhile(blocks)
    repeated = arrange(np.tile(restore(blocks, 0, 100), (50, 1)))
    assert buckets.build(repeated, most=100).blocks.count == 100
    assert not buckets.worthwhile(repeated)  # so few are as quickly scanned
    assert buckets.worthwhile(arrange(np.tile(restore(repeated), (60, 1))))


def test_distinct_codes_are_estimated(rng):
    for distinct in (1, 1000, 300_000):
        codes = rng.integers(0, distinct, 1_000_000).astype(np.uint32).view(np.uint8)
        estimate = buckets.estimate_distinct(arrange(codes.reshape(-1, 4)))
        assert 0.8 * distinct <= estimate <= 1.25 * distinct


@settings(max_examples=60, deadline=None)
@given(cases, st.sampled_from([0, 1, 3, 30, 700]), st.booleans())
def test_tables_are_the_scan(case, k, calibrate):
    """Searched to the end, or given up for the scan when the clock says so."""
    _, codes, queries, blocks = draw_case(case)
    index = tables.build(blocks, threads=case["threads"], calibrate=calibrate)
    found = index.knn(queries, k, threads=case["threads"])
    assert_same(found, naive.hamming_knn(queries, codes, k))
    for radius in (0, 3, case["bits"] // 4):
        found = index.radius(queries, radius, threads=case["threads"])
        assert_same(found, naive.hamming_radius(queries, codes, radius))


@pytest.mark.parametrize("at", [0, 18])
def test_tables_give_up_at_any_point(at, rng):
    """Whatever part of the queries the budget suffices for, the answers are the scan's."""
    codes = search.pack(rng.integers(0, 2, (3000, 32)))
    codes[2000:] = codes[at]  # one query has far more to look at than the others
    queries = np.concatenate([codes[:20], search.pack(rng.integers(0, 2, (30, 32)))])
    plain = tables.build(arrange(codes), calibrate=False)
    expected = naive.hamming_knn(queries, codes, 2)
    for budget in (0, 20, 200, 2000, 20_000):
        # A comparison takes a second, a scan as many as this; half of it may be spent.
        limited = dataclasses.replace(
            plain, scan_one=float(budget), scan_many=float(budget), compare=1.0
        )
        assert_same(limited.knn(queries, 2, threads=1), expected)
        found = limited.radius(queries, 3, threads=1)
        assert_same(found, naive.hamming_radius(queries, codes, 3))


@pytest.mark.parametrize("calibrate", [{}, {"calibrate": False}])
def test_tables_are_timed_unless_told_otherwise(calibrate):
    built = tables.build(arrange(np.zeros((10, 8), np.uint8)), **calibrate)
    assert np.isfinite([built.scan_one, built.scan_many]).all() == (not calibrate)


def test_tables_keep_to_the_budget(rng, monkeypatch):
    """Near neighbours are found without the scan, far ones by it."""
    codes = search.pack(rng.integers(0, 2, (5000, 64)))
    plain = tables.build(arrange(codes), calibrate=False)
    limited = dataclasses.replace(plain, scan_one=1000.0, scan_many=1000.0, compare=1.0)
    scanned = []
    monkeypatch.setattr(
        tables.scan,
        "knn",
        lambda blocks, queries, *rest, **more: (
            scanned.append(len(queries)) or knn(blocks, queries, *rest, **more)
        ),
    )
    limited.knn(codes[:40], 1)
    assert not scanned
    limited.knn(search.pack(rng.integers(0, 2, (40, 64))), 1)
    assert scanned == [40]


@settings(max_examples=20, deadline=None)
@given(cases, st.sampled_from([1, 30, 700]))
def test_buckets_with_tables_are_the_scan(case, k):
    _, codes, queries, blocks = draw_case(case)
    index = buckets.build(blocks, tables=True, threads=case["threads"])
    assert_same(index.knn(queries, k), naive.hamming_knn(queries, codes, k))
    radius = case["bits"] // 4
    assert_same(index.radius(queries, radius), naive.hamming_radius(queries, codes, radius))


def test_the_nearest_item_is_found_by_tables(rng, monkeypatch):
    """And more of them by the scan, as is any that a filter lets through."""
    codes = search.pack(rng.integers(0, 2, (400, 32)))
    index = buckets.build(arrange(codes), tables=True)
    asked = []
    knn = tables.Tables.knn
    monkeypatch.setattr(
        tables.Tables,
        "knn",
        lambda self, queries, k, **more: asked.append(k) or knn(self, queries, k, **more),
    )
    allowed = rng.random(400) < 0.5
    for k in (1, 2):
        assert_same(index.knn(codes[:9], k), naive.hamming_knn(codes[:9], codes, k))
        found = index.knn(codes[:9], k, allowed=allowed)
        assert_same(found, naive.hamming_knn(codes[:9], codes, k, allowed))
    assert asked == [1, 1]


def test_refusals():
    index = buckets.build(arrange(np.zeros((5, 1), np.uint8)))
    queries = np.zeros((2, 1), np.uint8)
    with pytest.raises(ValueError, match="k must not be negative"):
        index.knn(queries, -1)
    with pytest.raises(ValueError, match="queries must have 1 bytes"):
        index.knn(np.zeros((2, 2), np.uint8), 1)
    with pytest.raises(ValueError, match="allowed must have the shape"):
        index.knn(queries, 1, allowed=np.ones(1, bool))
    with pytest.raises(ValueError, match="radius must not be negative"):
        index.radius(queries, -1)


def test_many_threads_group_in_little_more_memory_than_two(rng):
    """A table of counts for each thread would be 32 times as large."""
    blocks = arrange(rng.integers(0, 256, (20_000, 8), dtype=np.uint8))
    buckets.build(blocks)  # compiles, which takes memory too
    peaks = {}
    for threads in (2, 64):
        tracemalloc.start()
        try:
            found = buckets.build(blocks, threads=threads)
            peaks[threads] = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert found.blocks.count == len(np.unique(restore(blocks), axis=0))
    assert peaks[64] < 2.5 * peaks[2]
