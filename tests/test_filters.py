"""Filters, lists of ids and lists of candidates cost what they must, and change no answer."""

import pickle
import tracemalloc

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_index import equal

from search import HashIndex
from search.collection import query, segments
from search.collection.ids import distinct
from search.collection.query import as_tables
from search.filters import Filter
from search.hamming import buckets, scan
from search.hamming.blocks import arrange
from search.kernels import merging

seeds = st.integers(0, 2**32 - 1)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("gone", [1, 290])
def test_what_was_removed_is_prepared_for_the_scan_once(grouped, gone, rng, monkeypatch):
    monkeypatch.setattr(buckets, "worthwhile", lambda _: grouped)
    codes = rng.integers(0, 4, (300, 1), dtype=np.uint8)
    index = HashIndex(codes)
    index.remove(np.arange(gone))
    first = index.search(codes[:5], 9)
    equal(first, naive.hamming_knn(codes[:5], codes, 9, np.arange(300) >= gone))

    def again(*_, **__):
        raise AssertionError("the filter is made anew")

    for name in ("packbits", "flatnonzero"):
        monkeypatch.setattr(scan.np, name, again)
    monkeypatch.setattr(buckets.kernels, "reachable", again)
    equal(index.search(codes[:5], 9), first)
    index.within(codes[:5], 1)


def test_a_filter_keeps_its_forms_apart_and_at_home():
    few = Filter(np.array([True, False]))
    one, other = object(), object()
    assert few.form(one, lambda: 1) == few.form(one, lambda: 2) == 1
    assert few.form(other, lambda: 2) == 2
    copy = pickle.loads(pickle.dumps(few))
    np.testing.assert_array_equal(copy.allowed, few.allowed)
    assert copy.form(one, lambda: 3) == 3


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    parts=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    mixed=st.booleans(),
    step=st.sampled_from([3, 3000]),
)
def test_masks_and_lists_over_segments(seed, parts, mixed, step):
    """Segments whose ids lie behind or among each other, some of them emptied."""
    rng = np.random.default_rng(seed)
    ids = np.arange(sum(parts)) * step - 11
    index = HashIndex(np.empty((0, 1), np.uint8))
    for own in np.split(rng.permutation(ids) if mixed else ids, np.cumsum(parts))[:-1]:
        # By hand, as `add` would join segments so small.
        new = HashIndex((own % 7).astype(np.uint8)[:, None], ids=own)._state.segments
        state = index._state
        object.__setattr__(state, "segments", (*state.segments, *new))
    index.remove(ids[rng.random(len(ids)) < rng.choice([0, 0.3])])
    mask = rng.random(len(index)) < rng.choice([0.02, 0.5, 1])
    wanted = index.ids[mask]
    queries = np.array([[0], [3]], np.uint8)
    near = np.bitwise_count(queries ^ (wanted % 7).astype(np.uint8))
    order = np.lexsort((np.broadcast_to(wanted, near.shape), near))
    repeated = rng.permutation(np.concatenate([wanted, wanted[:3]]))
    for where in (mask, wanted, repeated, repeated.tolist()):
        distances, found = index.search(queries, len(wanted), where=where)
        np.testing.assert_array_equal(found, wanted[order])
        np.testing.assert_array_equal(distances, np.take_along_axis(near, order, 1))


@pytest.mark.parametrize("step", [1, 2, 1000])
def test_the_first_item_may_be_wanted_and_what_lacks_has_no_id(step):
    ids = np.arange(40) * step
    index = HashIndex(np.arange(40, dtype=np.uint8)[:, None], ids=ids)
    _, found = index.search(np.array([[0]], np.uint8), 30, where=ids[:20])
    assert sorted(found[0].tolist()) == [-1] * 10 + ids[:20].tolist()


@pytest.mark.parametrize("step", [1, 2, 1000])
def test_ids_next_to_the_first_and_the_last_are_not_items(step):
    ids = 5 + np.arange(40) * step
    index = HashIndex(np.arange(40, dtype=np.uint8)[:, None], ids=ids)
    for wrong in (ids[0] - 1, ids[-1] + 1):
        with pytest.raises(ValueError, match=rf"where: 1 ids \({wrong}\) not in the index"):
            index.search(np.array([[0]], np.uint8), 3, where=np.append(ids[:20], wrong))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(0, 5)))
def test_distinct_is_unique(ids):
    array = np.array(ids, np.int64)
    np.testing.assert_array_equal(distinct(array), np.unique(array))


@settings(max_examples=60, deadline=None)
@given(seed=seeds, ids=st.integers(0, 60), wanted=st.integers(0, 60), gone=st.booleans())
def test_ids_are_located_where_they_are_found(seed, ids, wanted, gone):
    rng = np.random.default_rng(seed)
    own = np.sort(rng.choice(90, ids, replace=False)) - 20
    for given_ids in (own, None):
        segment = segments.Segment(arrange(np.zeros((ids, 1), np.uint8)), given_ids)
        if gone:
            segment = segment.without(np.flatnonzero(rng.random(ids) < 0.4))
        asked = np.sort(rng.choice(100, wanted, replace=False)) - 25
        np.testing.assert_array_equal(segment.locate(asked), segment.find(asked))


@settings(max_examples=100, deadline=None)
@given(
    seed=seeds,
    ids=st.integers(0, 60),
    wanted=st.integers(0, 60),
    task=st.sampled_from([1, 3, 7, 1000]),
    ranked=st.sampled_from([0, 4]),
    gone=st.booleans(),
)
def test_wanted_ids_are_marked_whatever_part_they_lie_in(seed, ids, wanted, task, ranked, gone):
    rng = np.random.default_rng(seed)
    # A crowd and far away, so that parts of the rows end long before others.
    pool = np.concatenate([np.arange(-20, 90), [-(2**63), 2**40, 2**63 - 1]])
    own = np.sort(rng.choice(pool, ids, replace=False))
    asked = np.sort(rng.choice(pool, wanted, replace=False))
    segment = segments.Segment(arrange(np.zeros((ids, 1), np.uint8)), own)
    if gone:
        segment = segment.without(np.flatnonzero(rng.random(ids) < 0.4))
    expected = np.isin(own, asked)
    expected[segment.dead] = False
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segments, "MARKED", task)
        patch.setattr(segments, "RANKED", ranked)
        if segment.in_any_order:
            asked = rng.permutation(np.concatenate([asked, asked[:3]]))
        allowed, found = segment.mark(asked, 2)
        near = ids > 0 and int(own[-1]) - int(own[0]) < ranked * ids
        assert (segment.ranks is not None) == near
    np.testing.assert_array_equal(allowed, expected)
    assert found == np.isin(asked, own[expected]).sum()


def test_ids_are_looked_up_in_a_table_of_ranks(rng):
    """By the kernels alone, on enough ids that an entry's count of those before it matters."""
    ids = np.sort(rng.choice(np.arange(-300, 300), 200, replace=False))
    ranks = np.zeros((-(-(ids[-1] - ids[0] + 1) // 64), 2), np.uint64)
    merging.rank(ids, ranks)
    wanted = np.concatenate([rng.permutation(np.arange(-400, 400)), [ids[3], 1 << 62]])
    for alive in (np.empty(0, bool), rng.random(200) < 0.5):
        living = np.isin(wanted, ids[alive] if len(alive) else ids)
        for part in (slice(None), slice(0, 9)):
            allowed = np.zeros(200, bool)
            found = merging.mark_ranked(wanted[part], ids[0], ranks, alive, allowed)
            assert found == np.count_nonzero(living[part])
            np.testing.assert_array_equal(allowed, np.isin(ids, wanted[part][living[part]]))


@settings(max_examples=60, deadline=None)
@given(seed=seeds, longest=st.sampled_from([0, 1, 50, 1000]), lists=st.integers(0, 30))
def test_lists_become_tables_that_are_mostly_full(seed, longest, lists):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, longest + 1, lists)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids = rng.permutation(offsets[-1])
    seen = []
    for queries, near in as_tables(offsets, ids):
        assert near.size <= len(queries) * (64 + 2 * counts[queries].min())
        for one, row in zip(queries, near, strict=True):
            np.testing.assert_array_equal(row[row >= 0], ids[offsets[one] : offsets[one + 1]])
            seen.append(one)
    assert sorted(seen) == list(range(lists))


def test_candidates_within_a_radius_are_compared_together(rng, monkeypatch):
    codes = rng.integers(0, 256, (400, 1), dtype=np.uint8)
    features = rng.integers(-2, 3, (400, 3)).astype(np.float32)
    index = HashIndex(codes, features=features)
    calls = []
    rerank = segments.rerank
    monkeypatch.setattr(
        segments, "rerank", lambda *a, **more: calls.append(len(a[2])) or rerank(*a, **more)
    )
    got = index.search(codes[:200], 5, query_features=features[:200], radius=2)
    assert sum(calls) == 200
    assert len(calls) < 10
    for i in range(0, 200, 9):
        near = np.flatnonzero(np.bitwise_count(codes[:, 0] ^ codes[i, 0]) <= 2)
        expected = naive.rerank(features[i : i + 1], features, near[None], 5)
        equal([part[i : i + 1] for part in got], expected)


@pytest.mark.parametrize("added", [0, 40])
def test_many_results_take_little_more_memory_than_they_fill(added, rng, monkeypatch):
    monkeypatch.setattr(query, "RESULTS", 1 << 14)
    codes = rng.integers(0, 256, (1000, 4), dtype=np.uint8)
    index = HashIndex(codes, ids=np.arange(1000) * 2)
    if added:
        index.add(codes[:added], ids=np.arange(added) * 2 + 1)
        assert len(index._state.segments) == 2
    queries = rng.integers(0, 256, (3000, 4), dtype=np.uint8)
    expected = index.search(queries[:50], 100, threads=1)
    tracemalloc.start()
    try:
        distances, ids = index.search(queries, 100, threads=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * (distances.nbytes + ids.nbytes)
    equal((distances[:50], ids[:50]), expected)
    equal((distances[-50:], ids[-50:]), index.search(queries[-50:], 100))
