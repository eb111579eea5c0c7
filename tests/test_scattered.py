"""Shards that lie apart answer as one index, in every bit."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import HashIndex
from search.scattered import search_shards
from search.shards import file_name


def dealt(rng, n, shards, bits=9, features=True, levels=3):
    """Codes and features with many ties in one index, and dealt out to shards at random."""
    width = -(-bits // 8)
    codes = np.packbits(rng.integers(0, 2, (n, bits), np.uint8) & 1, axis=1)[:, :width]
    fine = rng.integers(0, levels, (n, 2)).astype(np.float16) if features else None
    ids = np.sort(rng.choice(5 * n + 1, n, replace=False)) - n
    ids[ids == -1] = 5 * n + 7
    owner = rng.integers(0, shards, n)
    parts = []
    for shard in range(shards):
        own = owner == shard
        parts.append(
            HashIndex(
                codes[own],
                bits=bits,
                ids=ids[own],
                features=None if fine is None else fine[own],
            )
        )
    return HashIndex(codes, bits=bits, ids=ids, features=fine), parts


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    n=st.integers(0, 60),
    shards=st.integers(1, 7),
    k=st.integers(0, 70),
    pool=st.none() | st.integers(0, 70),
    radius=st.none() | st.integers(0, 9),
    by=st.sampled_from(["codes", "features", "latents"]),
)
def test_shards_answer_as_one_index(seed, n, shards, k, pool, radius, by):
    rng = np.random.default_rng(seed)
    whole, parts = dealt(rng, n, shards)
    queries = np.packbits(rng.integers(0, 2, (4, 9), np.uint8), axis=1)
    options = {"radius": radius}
    if by == "features":
        options |= {"pool": pool, "query_features": rng.integers(0, 3, (4, 2)).astype(np.float32)}
    elif by == "latents":
        latents = rng.integers(-1, 2, (4, 9)).astype(np.float32)
        options |= {"pool": pool, "query_latents": latents, "threshold": 0.0}
    if by != "codes" and pool is None and radius is None:
        with pytest.raises(ValueError, match="give pool, radius or both"):
            search_shards(parts, queries, k, **options)
        return
    expected = whole.search(queries, k, **options)
    with ThreadPoolExecutor(3) as threads:
        for each in (map, threads.map):
            found = search_shards(parts, queries, k, each=each, **options)
            for ours, theirs in zip(found, expected, strict=True):
                assert ours.dtype == theirs.dtype
                np.testing.assert_array_equal(ours, theirs)


def test_a_pool_for_each_shard_would_answer_otherwise():
    """What the global pool is for: the test above could not fail without such cases."""
    codes = np.array([[0b0], [0b1], [0b11]], np.uint8)
    fine = np.array([[9.0], [5.0], [0.0]], np.float32)
    parts = [HashIndex(codes[:2], features=fine[:2])]
    parts += [HashIndex(codes[2:], features=fine[2:], ids=np.array([2]))]
    asked = {"query_features": np.zeros((1, 1), np.float32), "pool": 2}
    _, ids = search_shards(parts, codes[:1], 1, **asked)
    assert ids.tolist() == [[1]]
    each_its_own = [part.search(codes[:1], 1, **asked) for part in parts]
    assert min((d.item(), i.item()) for d, i in each_its_own)[1] == 2


def test_files_of_a_folder_are_one_index(rng, tmp_path):
    """All of them, and some of them; whichever is empty, as others have features."""
    whole, _ = dealt(rng, 60, 3)
    for shard, own in enumerate((whole.ids[:20], whole.ids[:0], whole.ids[20:40], whole.ids[40:])):
        codes, fine = whole.get(own)
        part = HashIndex(codes, bits=9, ids=own, features=fine if len(own) else None)
        part.save(tmp_path / file_name(shard, 4))
    index = HashIndex.open(tmp_path)
    queries, fine = whole.get(whole.ids[:5])
    asked = {"query_features": fine.astype(np.float32), "pool": 30}
    for options in ({}, asked):
        for ours, theirs in zip(
            index.search(queries, 9, **options), whole.search(queries, 9, **options), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)
    paths = [tmp_path / file_name(shard, 4) for shard in (1, 3)]
    some = HashIndex.open(paths)
    assert some.ids.tolist() == np.sort(whole.ids)[40:].tolist()
    assert len(HashIndex.open(paths[:1])) == 0
    assert pickle.loads(pickle.dumps(index)).ids.tolist() == whole.ids.tolist()
    assert index.add(queries[:1], fine[:1]).tolist() == [whole.add(queries[:1], fine[:1]).item()]
    with pytest.raises(ValueError, match="no files of shards; give at least one"):
        HashIndex.open([])
    HashIndex(queries, bits=10, ids=np.arange(900, 905)).save(paths[0])
    with pytest.raises(ValueError, match=r"codes of 10 bits, 00000-of-00004\.index has 9"):
        HashIndex.open(tmp_path)
    HashIndex(queries, bits=9, ids=np.arange(900, 905)).save(paths[0])
    with pytest.raises(ValueError, match="features none, and those before it have float16 of 2"):
        HashIndex.open(tmp_path)


def test_what_is_missing_is_named(rng):
    _, parts = dealt(rng, 30, 3)
    _, bare = dealt(rng, 30, 3, features=False)
    queries, fine = np.zeros((1, 2), np.uint8), np.zeros((1, 2), np.float32)
    with pytest.raises(ValueError, match="the index has no features"):
        search_shards([*parts, bare[0]], queries, 3, query_features=fine, pool=5)
    with pytest.raises(ValueError, match="pool needs query_features"):
        search_shards(parts, queries, 3, pool=5)
    with pytest.raises(ValueError, match="at least one"):
        search_shards([], queries, 3)
    both = {"query_features": fine, "query_latents": np.zeros((1, 9), np.float32)}
    with pytest.raises(ValueError, match="query_latents and query_features"):
        search_shards(parts, queries, 3, pool=5, **both)


def test_candidates_are_reranked_by_id(rng):
    index, _ = dealt(rng, 40, 1)
    fine = rng.integers(0, 3, (3, 2)).astype(np.float32)
    everything = np.tile(index.ids, (3, 1))
    queries = np.zeros((3, 2), np.uint8)
    expected = index.search(queries, 7, query_features=fine, pool=len(index))
    foreign = np.concatenate([everything, everything, np.full((3, 2), 1 << 40)], axis=1)
    for ids in (everything, foreign, rng.permuted(foreign, axis=1)):
        for ours, theirs in zip(index.rerank(fine, ids, 7), expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    distances, found = index.rerank(fine, np.full((3, 2), -1), 2)
    assert (found == -1).all()
    assert np.isinf(distances).all()
    empty = HashIndex(np.empty((0, 2), np.uint8), bits=9)
    assert (empty.rerank(fine, everything, 4)[1] == -1).all()
    for ids, error, message in (
        ([[1]], TypeError, "NumPy array of integers"),
        (np.zeros((3, 1)), TypeError, "integers, not float64"),
        (np.zeros(3, int), ValueError, r"shape \(q, p\)"),
        (np.zeros((2, 1), int), ValueError, r"query_features must have the shape \(2, 2\)"),
    ):
        with pytest.raises(error, match=message):
            index.rerank(fine, ids, 1)
    with pytest.raises(ValueError, match="query_features or query_latents"):
        index.rerank(None, everything, 1)
