"""A HashIndex answers as a dictionary would, whatever its history, and whoever else uses it."""

import pickle

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import HashIndex, hamming_knn, merge, pack
from search.collection import query as answering
from search.collection.combining import in_id_order
from search.hamming import buckets

seeds = st.integers(0, 2**32 - 1)
DIMENSIONS = 3
STEPS = [
    "add",
    "add with ids",
    "replace",
    "remove",
    "compact",
    "prepare",
    "pickle",
    "reopen",
    "load",
]
# Sizes of work so small that few items need many pieces, and the rarer of two ways is taken.
LITTLE = [
    ("collection.combining.BATCH_BYTES", 1),
    ("collection.ids.DENSE", 0),
    ("collection.query.MOST_CANDIDATES", 1),
    ("collection.query.RESULTS", 1),
    ("collection.segments.LOOKED_UP", 1),
    ("collection.segments.MARKED", 7),
    ("collection.segments.RANKED", 1),
    ("collection.state.SPARSE", 1),
    ("collection.views.SPARSE", 1),
    ("fine.rerank.MOST_CANDIDATES", 1),
    ("hamming.buckets.worthwhile", lambda _: True),
    ("hamming.dealing._WORK", 1),
    ("hamming.scan._CHUNK", 1),
    ("hamming.scan._FOUND", 1),
    ("hamming.scan._SPARSE", 1),
]


def equal(got, expected):
    """Distances and ids are the same, to the last bit and in type."""
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def agree(index, items, rng):
    """Every kind of search on `index` equals the one on a dictionary of its items."""
    bits = index.bits
    assert len(index) == len(items)
    np.testing.assert_array_equal(index.ids, sorted(items))
    asked = rng.integers(0, 2, (2, bits))
    if items:  # one that is there, for small distances
        asked[0] = items[min(items)][0]
    queries = pack(asked)
    fine = rng.integers(-2, 3, (2, DIMENSIONS)).astype(np.float32)
    latents = rng.integers(0, 9, (2, bits)) / 8
    chosen = rng.random(len(items)) < rng.choice([0.05, 0.5, 1.0])
    wanted = index.ids[chosen]
    shuffled = rng.permutation(np.flatnonzero(chosen))
    equal([index.ids_at(shuffled)], [index.ids[shuffled]])
    radius = int(rng.integers(0, bits + 1))
    for k in (1, 3, len(items) + 2):
        equal(index.search(queries, k), items.search(asked, k))
        equal(index.search(queries, k, radius=radius), items.search(asked, k, radius=radius))
        for where in (chosen, wanted, wanted.tolist()):
            expected = items.search(asked, k, where=set(wanted.tolist()))
            equal(index.search(queries, k, where=where, threads=1), expected)
        for options in (
            {"pool": 4},
            {"radius": radius},
            {"pool": 5, "radius": radius},
            {"pool": len(items) + 3, "threads": 2},
        ):
            got = index.search(queries, k, query_features=fine, **options)
            options.pop("threads", None)
            equal(got, items.search(asked, k, fine, **options))
            got = index.search(queries, k, query_latents=latents, **options)
            equal(got, items.search(asked, k, latents=latents, **options))
        got = index.search(queries, k, query_features=fine, pool=3, where=chosen)
        expected = items.search(asked, k, fine, pool=3, where=set(wanted.tolist()))
        equal(got, expected)
    offsets, distances, ids = index.within(queries, radius, where=wanted)
    everything = items.search(asked, len(items), radius=radius, where=set(wanted.tolist()))
    for query in range(2):
        part = slice(offsets[query], offsets[query + 1])
        present = everything[1][query] != -1
        np.testing.assert_array_equal(ids[part], everything[1][query][present])
        np.testing.assert_array_equal(distances[part], everything[0][query][present])


def draw_items(rng, count, bits):
    """Codes that repeat themselves, and features that tie."""
    centres = rng.integers(0, 2, (3, bits))
    rows = centres[rng.integers(0, 3, count)] ^ (rng.random((count, bits)) < 0.1)
    return rows, rng.integers(-2, 3, (count, DIMENSIONS)).astype(np.float16)


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    bits=st.sampled_from([1, 7, 8, 12, 48, 64, 65]),
    start=st.sampled_from([0, 1, 20, 300]),
    steps=st.lists(st.sampled_from(STEPS), max_size=5),
    little=st.booleans(),
)
def test_any_history_equals_a_dictionary(tmp_path_factory, seed, bits, start, steps, little):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in LITTLE if little else ():
            patch.setattr(f"search.{name}", value)
        live(tmp_path_factory.mktemp("history"), seed, bits, start, steps)


def live(folder, seed, bits, start, steps):
    """A history, and what it comes to."""
    rng = np.random.default_rng(seed)
    rows, features = draw_items(rng, start, bits)
    ids = rng.permutation(np.arange(start) * 5 - 40)
    ids[ids == -1] = 1 << 62
    index = HashIndex(pack(rows), bits=bits, features=features, ids=ids)
    items = naive.Items(zip(ids.tolist(), zip(rows, features, strict=True), strict=True))
    largest = ids.max(initial=-1)
    for number, step in enumerate(steps):
        if step in ("add", "add with ids", "replace"):
            rows, features = draw_items(rng, int(rng.integers(0, 40)), bits)
            given_ids = None
            if step != "add":
                taken = set() if step == "replace" else set(items)
                free = sorted({*range(-150, 400), *items} - taken - {-1})
                given_ids = rng.choice(free, len(rows), replace=False)
            new = index.add(pack(rows), features, given_ids, replace=step == "replace")
            if given_ids is None:  # after every id that ever was
                np.testing.assert_array_equal(new, np.arange(len(rows)) + largest + 1)
            largest = max(largest, new.max(initial=-1))
            items.update(zip(new.tolist(), zip(rows, features, strict=True), strict=True))
        elif step == "remove":
            gone = [i for i in items if rng.random() < 0.3]
            index.remove(gone)
            for i in gone:
                del items[i]
        elif step == "compact":
            index.compact()
        elif step == "prepare":
            index.prepare(tables=True, approximate=True)
        elif step == "pickle":
            index = pickle.loads(pickle.dumps(index))
        else:
            path = folder / str(number)  # the index may be mapped from an earlier one
            index.save(path)
            index = HashIndex.open(path, mmap=step == "reopen", verify=True)
    agree(index, items, rng)


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 513])
def test_ids_are_numbered_and_their_order_is_kept(count, rng):
    codes = rng.integers(0, 4, (count, 1), dtype=np.uint8)
    index = HashIndex(codes)
    equal(index.search(codes[:3], 9), hamming_knn(codes[:3], codes, 9))
    assert index.add(codes).tolist() == list(range(count, 2 * count))
    assert len(index) == 2 * count


def test_unordered_ids_break_ties(rng):
    codes = np.zeros((600, 2), np.uint8)
    ids = rng.permutation(600) * (1 << 53) - (1 << 61)
    distances, found = HashIndex(codes, ids=ids).search(codes[:1], 600)
    assert (distances == 0).all()
    np.testing.assert_array_equal(found[0], np.sort(ids))


def test_removing_equals_rebuilding(rng):
    codes = rng.integers(0, 8, (1000, 3), dtype=np.uint8)
    gone = rng.permutation(1000)[:600]
    index = HashIndex(codes)
    index.remove(gone[:300])
    index.remove(np.r_[gone[300:], gone[300:]])
    left = np.setdiff1d(np.arange(1000), gone)
    rebuilt = HashIndex(codes[left], ids=left)
    for k in (1, 10, 500):
        equal(index.search(codes[:20], k), rebuilt.search(codes[:20], k))
    equal(index.within(codes[:20], 3), rebuilt.within(codes[:20], 3))
    before = index.search(codes[:20], 10)
    index.compact()
    equal(index.search(codes[:20], 10), before)
    index.add(codes[gone], ids=gone)
    equal(index.search(codes[:20], 10), HashIndex(codes).search(codes[:20], 10))


def test_an_id_may_come_back_as_another_item(rng):
    rows, features = draw_items(rng, 40, 8)
    index = HashIndex(pack(rows), features=features)
    items = naive.Items(enumerate(zip(rows, features, strict=True)))
    index.remove(range(20))
    for gone in range(20):
        del items[gone]
    with pytest.raises(ValueError, match=r"ids: 1 ids \(7\) not in the index"):
        index.remove([7])
    with pytest.raises(ValueError, match=r"where: 2 ids \(7, 8\) not in the index"):
        index.search(pack(rows[:1]), 1, where=[7, 8, 30])
    rows, features = draw_items(rng, 10, 8)
    index.add(pack(rows), features, np.arange(5, 15))
    assert len(index._state.segments) == 2
    items.update(zip(range(5, 15), zip(rows, features, strict=True), strict=True))
    for _ in range(5):
        agree(index, items, rng)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, parts=st.lists(st.integers(0, 60), max_size=4), step=st.integers(1, 70))
def test_segments_are_joined_in_the_order_of_ids_in_small_batches(seed, parts, step):
    rng = np.random.default_rng(seed)
    ids = rng.permutation(sum(parts)) * 2 - 30
    segments, kept = [], []
    for own in np.split(ids, np.cumsum(parts))[:-1]:
        codes = (own % 251).astype(np.uint8)[:, None]
        order = np.argsort(own)
        segment = HashIndex(codes, ids=own, features=own[:, None].astype(np.float32))
        gone = own[rng.random(len(own)) < 0.3]
        segment.remove(gone)
        segments += segment._state.segments
        kept += sorted(set(own[order].tolist()) - set(gone.tolist()))
    batches = list(in_id_order(segments, step))
    for codes, features, some in batches:
        assert len(some) <= step * len(segments)
        np.testing.assert_array_equal(codes[:, 0], some % 251)
        np.testing.assert_array_equal(features[:, 0], some)
    joined = np.concatenate([np.empty(0, np.int64), *(batch[2] for batch in batches)])
    np.testing.assert_array_equal(joined, sorted(kept))


def test_shards_merged_equal_the_whole(rng):
    codes = rng.integers(0, 8, (2000, 4), dtype=np.uint8)
    features = rng.integers(-2, 3, (2000, 5)).astype(np.float32)
    dealt = rng.integers(0, 3, 2000)
    shards = [
        HashIndex(codes[dealt == s], features=features[dealt == s], ids=np.flatnonzero(dealt == s))
        for s in range(3)
    ]
    whole = HashIndex(codes, features=features)
    for options in ({}, {"query_features": features[:9], "radius": 4}):
        expected = whole.search(codes[:9], 12, **options)
        equal(merge(*(shard.search(codes[:9], 12, **options) for shard in shards)), expected)


def test_a_filter_equals_filtering_the_full_ranking(rng):
    codes = rng.integers(0, 16, (800, 2), dtype=np.uint8)
    index = HashIndex(codes, ids=np.arange(800) * 2)
    index.remove(np.arange(0, 100) * 2)
    full = index.search(codes[:5], 700)
    for share in (0.0, 0.01, 0.3, 1.0):
        mask = rng.random(700) < share
        wanted = index.ids[mask]
        kept = [np.isin(row, wanted) for row in full[1]]
        expected = [np.array([r[m] for r, m in zip(part, kept, strict=True)]) for part in full]
        count = int(mask.sum())
        equal(index.search(codes[:5], count, where=mask), expected)
        equal(index.search(codes[:5], count, where=rng.permutation(wanted)), expected)


def test_xor_and_bit_order_leave_distances_alone(rng):
    rows = rng.integers(0, 2, (300, 37))
    order, flip = rng.permutation(37), rng.integers(0, 2, 37)
    expected = HashIndex(pack(rows), bits=37).search(pack(rows[:9]), 300)
    other = (rows ^ flip)[:, order]
    equal(HashIndex(pack(other), bits=37).search(pack(other[:9]), 300), expected)


def test_equal_codes_empty_queries_and_k_of_nothing(rng):
    codes = np.full((400, 6), 77, np.uint8)
    index = HashIndex(codes, features=np.ones((400, 2), np.float16))
    distances, ids = index.search(codes[:2], 5, query_features=np.ones((2, 2)), pool=9)
    assert (distances == 0).all()
    np.testing.assert_array_equal(ids, [range(5)] * 2)
    for k, queries in ((0, 2), (5, 0), (0, 0)):
        shape = (queries, k)
        fine = np.ones((queries, 2))
        for options in (
            {},
            {"radius": 3},
            {"where": [3]},
            {"query_features": fine, "pool": 4},
            {"query_features": fine, "radius": 4},
        ):
            got = index.search(codes[:queries], k, **options)
            assert [each.shape for each in got] == [shape, shape]


def test_missing_results(rng):
    index = HashIndex(np.zeros((2, 1), np.uint8), features=np.zeros((2, 1), np.float32))
    queries = np.array([[255]], np.uint8)
    limit = np.iinfo(np.int32).max
    equal(index.search(queries, 3), (np.array([[8, 8, limit]], np.int32), np.array([[0, 1, -1]])))
    equal(
        index.search(queries, 2, radius=7),
        (np.full((1, 2), limit, np.int32), np.full((1, 2), -1)),
    )
    equal(
        index.search(queries, 2, query_features=np.ones((1, 1)), pool=1),
        (np.array([[1, np.inf]], np.float32), np.array([[0, -1]])),
    )


def test_strided_read_only_and_unmasked_input(rng):
    wide = rng.integers(0, 256, (600, 8), dtype=np.uint8)
    codes = wide[::2, 1:4]
    plain = codes.copy()
    plain[:, -1] &= 0xF0
    for array in (codes, np.asfortranarray(codes)):
        frozen = array.view()
        frozen.flags.writeable = False
        index = HashIndex(frozen, bits=20)
        equal(index.search(frozen[:7], 9), hamming_knn(plain[:7], plain, 9, bits=20))
        index.add(frozen)
        assert len(index) == 600


@pytest.mark.parametrize(("mapped", "tables"), [(False, False), (True, False), (True, True)])
def test_grouping_equal_codes_changes_no_result(mapped, tables, rng, tmp_path, monkeypatch):
    monkeypatch.setattr(buckets, "worthwhile", lambda _: True)
    rows, features = draw_items(rng, 300, 8)
    ids = np.arange(300) * 2 + 7
    index = HashIndex(pack(rows), features=features, ids=ids)
    if mapped:
        index.save(tmp_path / "i")
        index = HashIndex.open(tmp_path / "i")
        assert not isinstance(index._state.segments[0].best(1), buckets.Buckets)
        index.prepare(tables=tables)
    items = naive.Items(zip(ids.tolist(), zip(rows, features, strict=True), strict=True))
    agree(index, items, rng)
    grouped = index._state.segments[0].best(1)
    assert isinstance(grouped, buckets.Buckets)
    assert (grouped.tables is not None) == tables
    index.remove(ids[30:100])
    for i in ids[30:100].tolist():
        del items[i]
    agree(index, items, rng)
    new = index.add(pack(rows[:130]), features[:130])
    items.update(zip(new.tolist(), zip(rows, features, strict=False), strict=False))
    agree(index, items, rng)


def test_many_small_additions_stay_few_segments(rng):
    index = HashIndex(np.empty((0, 2), np.uint8))
    for _ in range(200):
        index.add(rng.integers(0, 256, (3, 2), dtype=np.uint8))
    assert len(index) == 600
    assert len(index._state.segments) <= 9


def test_an_addition_does_not_keep_the_callers_array(rng):
    codes, features = np.zeros((2, 1), np.uint8), np.zeros((2, 1), np.float32)
    index = HashIndex(np.zeros((9, 1), np.uint8), features=np.ones((9, 1), np.float32))
    index.add(codes, features)
    features[:] = 9
    assert index.search(codes[:1], 2, query_features=np.zeros((1, 1)), pool=11)[0].max() == 0


def test_compact_while_mapped_then_the_file_may_go(rng, tmp_path):
    codes = rng.integers(0, 256, (700, 2), dtype=np.uint8)
    HashIndex(codes).save(tmp_path / "i")
    index = HashIndex.open(tmp_path / "i")
    for _ in range(2):
        index.add(np.r_[codes, codes[:1]])
    # A mapped segment is never copied behind one's back, though the one in memory is larger.
    assert [(each.mapped, len(each)) for each in index._state.segments] == [
        (True, 700),
        (False, 1402),
    ]
    index.compact()
    (tmp_path / "i").unlink()
    assert [each.mapped for each in index._state.segments] == [False]
    assert len(index) == 2102


def test_candidates_are_held_for_some_queries_at_a_time(rng, monkeypatch):
    monkeypatch.setattr(answering, "MOST_CANDIDATES", 100)
    rows, features = draw_items(rng, 50, 8)
    index, groups, best = HashIndex(pack(rows), features=features), [], answering.Refinement.best

    def noted(self, state, queries, candidates, k, threads):
        groups.append(candidates.shape)
        return best(self, state, queries, candidates, k, threads)

    monkeypatch.setattr(answering.Refinement, "best", noted)
    fine = features[:9].astype(np.float32)
    index.search(pack(rows[:9]), 3, query_features=fine, pool=25)
    index.rerank(fine, np.tile(np.arange(40), (9, 1)), 3)
    assert groups == [(4, 25), (4, 25), (1, 25), (2, 40), (2, 40), (2, 40), (2, 40), (1, 40)]
