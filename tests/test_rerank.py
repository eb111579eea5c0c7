"""Re-ranking and merging equal their slow twins, refuse bad input, and do not depend on threads."""

import mmap
import os
import subprocess
import sys
import textwrap
import time

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_scan import GENERIC

from search import asymmetric, merge, pack, paging, rerank
from search.fine.rerank import as_single, check_features, smallest
from search.merging import merge_within

seeds = st.integers(0, 2**32 - 1)


def candidates(rng, queries, pool, rows):
    """Ids with repetitions and gaps."""
    return rng.integers(-1, rows, (queries, pool)) if rows else np.full((queries, pool), -1)


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    half=st.booleans(),
    shape=st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 12), st.integers(0, 40)),
    k=st.integers(0, 12),
    threads=st.sampled_from([1, 2, 7]),
)
def test_rerank_equals_its_twin(seed, half, shape, k, threads):
    queries, rows, pool, dimensions = shape
    rng = np.random.default_rng(seed)
    # Small whole numbers: exact in float32, and full of equal distances.
    features = rng.integers(-2, 3, (rows, dimensions)).astype(np.float16 if half else np.float32)
    asked = rng.integers(-2, 3, (queries, dimensions)).astype(np.float32)
    ids = candidates(rng, queries, pool, rows)
    got = rerank(asked, features, ids, k, threads=threads)
    expected = naive.rerank(asked, features, ids, k)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    assert [each.dtype for each in got] == [np.float32, np.int64]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("dimensions", [1, 31, 255, 256, 257, 1000])
def test_rerank_keeps_small_distances_between_large_features(rng, dtype, dimensions):
    features = (1000 + rng.standard_normal((50, dimensions))).astype(dtype)
    asked = features[:4].astype(np.float32)
    ids = np.tile(np.arange(50), (4, 1))
    distances, found = rerank(asked, features, ids, 50)
    expected = naive.rerank(asked, features, ids, 50)[0]
    np.testing.assert_allclose(distances, expected, rtol=1e-5)
    # An item is at exactly no distance from itself: |a|^2 + |b|^2 - 2ab would not find that.
    assert (distances[:, 0] == 0).all()
    by_id = np.take_along_axis(distances, np.argsort(found, axis=1), 1)
    assert (by_id[np.arange(4), np.arange(4)] == 0).all()


def test_every_half_is_widened_exactly():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)][:, None]
    ids = np.arange(len(every))[None]
    distances, found = rerank(np.zeros((1, 1), np.float32), every, ids, len(every))
    exact = np.sqrt(np.square(every[found[0], 0].astype(np.float32)))
    np.testing.assert_array_equal(distances[0], exact)

    np.testing.assert_array_equal(as_single(every), every.astype(np.float32))
    wide = np.resize(every, (300, 700))
    for array in (wide, wide.T, wide.astype(np.float32), wide[:0]):
        np.testing.assert_array_equal(as_single(array, threads=2), array.astype(np.float32))


def test_rerank_does_not_depend_on_threads_batch_pool_or_strides(rng):
    features = rng.standard_normal((3000, 70)).astype(np.float16)
    asked = rng.standard_normal((6, 70))
    ids = np.stack([rng.permutation(3000)[:2500] for _ in range(6)])
    whole = rerank(asked, features, ids, 9, threads=1)
    spread = np.repeat(features, 2, axis=0)[::2]
    assert not spread.flags.c_contiguous
    for other in (
        rerank(asked, features, ids, 9, threads=2),
        rerank(asked, features, ids, 9, threads=7),
        rerank(asked, spread, ids[:, ::-1], 9),
        rerank(asked, np.asfortranarray(features), ids, 9),
        merge(*(rerank(asked, features, part, 9) for part in np.split(ids, 5, axis=1))),
        [
            np.concatenate(each)
            for each in zip(
                *(rerank(asked[i : i + 1], features, ids[i : i + 1], 9) for i in range(6)),
                strict=True,
            )
        ],
    ):
        np.testing.assert_array_equal(other[0], whole[0])
        np.testing.assert_array_equal(other[1], whole[1])


def test_rerank_reads_a_mapped_store(rng, tmp_path):
    features = rng.integers(-3, 4, (500, 12)).astype(np.float16)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    ids = candidates(rng, 3, 40, 500)
    expected = naive.rerank(features[:3], features, ids, 7)
    got = rerank(features[:3], mapped, ids, 7)
    np.testing.assert_array_equal(got[1], expected[1])


def test_pages_are_asked_for_at_both_ends_of_a_file(rng, tmp_path, monkeypatch):
    features = rng.integers(-3, 4, (300, 700)).astype(np.float16)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    monkeypatch.setattr(paging, "_resident", lambda _: False)
    for rows in ([0], [299], [0, 299], [5, 6, 7, 200], range(300)):
        ids = np.array([[-1, *rows]])
        expected = naive.rerank(features[:1], features, ids, 3)
        np.testing.assert_array_equal(rerank(features[:1], mapped, ids, 3)[1], expected[1])
    rerank(features[:2], mapped, np.full((2, 3), -1), 3)
    paging.fetch(mapped[100:], np.array([199]))
    assert paging.owner(mapped[3:, :5]) is not None
    assert paging.owner(features) is None


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="cannot empty the page cache")
def test_asked_for_pages_come_into_memory(rng, tmp_path):
    path = tmp_path / "features.npy"
    np.save(path, rng.integers(-3, 4, (600, 6000)).astype(np.float16))  # rows of several pages
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    mapped = np.load(path, mmap_mode="r").view(np.ndarray)
    rows = np.arange(3, 600, 100)
    paging.fetch(mapped, rows)
    ends = [mapped[row].ctypes.data + at for row in rows for at in (0, mapped.strides[0] - 1)]
    left = {end // mmap.PAGESIZE * mmap.PAGESIZE for end in ends}
    for _ in range(1000):
        left = {address for address in left if not paging._resident(address)}
        if not left:
            break
        time.sleep(0.01)
    assert not left


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"query_features": np.full((2, 4), np.nan, np.float32)}, ValueError, "query_features"),
        ({"query_features": np.full((2, 4), 1e300)}, ValueError, "query_features"),
        ({"query_features": np.zeros((2, 4), int)}, TypeError, "query_features"),
        ({"query_features": np.zeros((2, 5))}, ValueError, "query_features have 5"),
        ({"query_features": np.zeros(4)}, ValueError, "query_features"),
        ({"features": np.zeros((9, 4))}, TypeError, "features must be float16 or float32"),
        ({"features": np.zeros((9, 4), ">f4")}, TypeError, "features"),
        ({"features": [[0.0] * 4]}, TypeError, "features"),
        ({"features": np.zeros(4, np.float32)}, ValueError, "features"),
        ({"features": np.full((9, 4), np.nan, np.float16)}, ValueError, "features"),
        ({"features": np.full((9, 4), np.inf, np.float16)}, ValueError, "features"),
        ({"features": np.full((9, 4), 3e38, np.float32)}, ValueError, "too large"),
        ({"ids": np.array([[0, 9], [0, 0]])}, ValueError, "ids must be rows of the 9"),
        ({"ids": np.array([[0, -2], [0, 0]])}, ValueError, "ids"),
        ({"ids": np.zeros((2, 2))}, TypeError, "ids"),
        ({"ids": np.zeros((3, 2), int)}, ValueError, "ids"),
        ({"ids": np.full((2, 1), 1 << 63, np.uint64)}, ValueError, "ids"),
        ({"k": -1}, ValueError, "k "),
        ({"k": 1.5}, TypeError, "k "),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_rerank_names_the_argument_that_is_wrong(change, error, words):
    good = {
        "query_features": np.zeros((2, 4), np.float32),
        "features": np.zeros((9, 4), np.float32),
        "ids": np.array([[0, 8], [1, -1]]),
        "k": 2,
    }
    rerank(**good)
    with pytest.raises(error, match=words):
        rerank(**(good | change))


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    bits=st.integers(1, 70),
    shape=st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(0, 12)),
    k=st.integers(0, 12),
    levels=st.sampled_from([(0.5, 0.5), (0.0, 1.0), (0.25, 0.125)]),
)
def test_asymmetric_equals_its_twin(seed, bits, shape, k, levels):
    queries, rows, pool = shape
    rng = np.random.default_rng(seed)
    stored = rng.integers(0, 2, (rows, bits))
    latents = rng.integers(-8, 9, (queries, bits)).astype(np.float32) / 8
    ids = candidates(rng, queries, pool, rows)
    codes = pack(stored)
    got = asymmetric(latents, codes, ids, k, bits=bits, threshold=levels[0], spread=levels[1])
    expected = naive.asymmetric(latents, stored, ids, k, *levels)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_asymmetric_order_does_not_depend_on_the_spread(rng):
    codes = pack(rng.integers(0, 2, (60, 24)))
    latents = rng.integers(-16, 17, (3, 24)) / 16
    ids = np.tile(np.arange(60), (3, 1))
    orders = [
        asymmetric(latents, codes, ids, 60, threshold=0, spread=spread)[1]
        for spread in (0.25, 1.0, 4.0)
    ]
    np.testing.assert_array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(orders[1], orders[2])


def test_asymmetric_of_bits_is_the_root_of_hamming(rng):
    bits = rng.integers(0, 2, (40, 20))
    codes = pack(bits)
    ids = np.tile(np.arange(40), (40, 1))
    distances, found = asymmetric(bits.astype(np.float32), codes, ids, 40, bits=20)
    expected = naive.hamming_knn(codes, codes, 40)
    np.testing.assert_array_equal(found, expected[1])
    np.testing.assert_array_equal(distances, np.sqrt(expected[0].astype(np.float32)))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"query_latents": np.full((1, 12), np.inf, np.float32)}, ValueError, "query_latents"),
        ({"query_latents": np.zeros((1, 13))}, ValueError, "query_latents have 13"),
        ({"query_latents": np.zeros((1, 12), bool)}, TypeError, "query_latents"),
        ({"codes": np.zeros((5, 2), np.int8)}, TypeError, "codes"),
        ({"bits": 17}, ValueError, "codes"),
        ({"ids": np.array([[5]])}, ValueError, "ids"),
        ({"k": -3}, ValueError, "k "),
        ({"threshold": np.nan}, ValueError, "threshold"),
        ({"spread": 0}, ValueError, "spread"),
    ],
)
def test_asymmetric_names_the_argument_that_is_wrong(change, error, words):
    good = {
        "query_latents": np.zeros((1, 12), np.float32),
        "codes": np.zeros((5, 2), np.uint8),
        "ids": np.array([[4]]),
        "k": 1,
        "bits": 12,
    }
    asymmetric(**good)
    with pytest.raises(error, match=words):
        asymmetric(**(good | change))


def test_smallest_orders_by_value_then_column(rng):
    distances = rng.integers(0, 4, (5, 30)).astype(np.float32)
    distances[:, 3] = np.inf
    for k in (0, 1, 7, 30):
        expected = np.argsort(distances, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(smallest(distances, k), expected)


@settings(max_examples=60, deadline=None)
@given(
    seed=seeds,
    lists=st.integers(1, 5),
    queries=st.integers(0, 3),
    width=st.integers(0, 8),
    real=st.booleans(),
    data=st.data(),
)
def test_merge_equals_its_twin(seed, lists, queries, width, real, data):
    rng = np.random.default_rng(seed)
    k = data.draw(st.integers(0, width))
    kind, missing = (np.float32, np.inf) if real else (np.int32, np.iinfo(np.int32).max)
    results = []
    for _ in range(lists):
        rows = []
        for _ in range(queries):
            ids = rng.choice(np.r_[-90:-1, 0:90], rng.integers(0, width + 1), replace=False)
            # A real item may be as far away as a missing one.
            pairs = [(float(rng.choice([0, 1, 2, missing])), int(i)) for i in ids]
            rows.append(naive.ranked(pairs, width, missing))
        results.append(naive.as_arrays(rows, width, kind))
    got = merge(*results, k=k)
    expected = naive.merge(results, k)
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])
    assert got[0].dtype == kind


@settings(max_examples=60, deadline=None)
@given(seed=seeds, parts=st.integers(1, 4), queries=st.integers(0, 3), count=st.integers(0, 40))
def test_radius_results_of_parts_are_those_of_the_whole(seed, parts, queries, count):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 8, (count, 1), dtype=np.uint8)
    asked = rng.integers(0, 8, (queries, 1), dtype=np.uint8)
    dealt = rng.integers(0, parts, count)
    results = []
    for part in range(parts):
        ids = np.flatnonzero(dealt == part)
        offsets, distances, rows = naive.hamming_radius(asked, codes[ids], 1)
        results.append((offsets, distances.astype(np.int32), ids[rows]))
    expected = naive.hamming_radius(asked, codes, 1)
    for got, wanted in zip(merge_within(results), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_merge_refuses_what_it_cannot_merge():
    good = np.array([[1, 2]], np.int32), np.array([[5, 4]])
    with pytest.raises(ValueError, match="results"):
        merge()
    with pytest.raises(ValueError, match="k must be at most"):
        merge(good, k=3)
    for bad, words in [
        (good[0], "results.1. must be a pair"),
        ((good[0].astype(float), good[1]), "results.1. must be int32 or float32"),
        ((good[0].astype(np.float32), good[1]), "results.1. has distances of type float32"),
        ((good[0][:, :1], good[1][:, :1]), "results.1. has the shapes"),
        ((good[0][:, ::-1], good[1]), "results.1. is not in"),
        ((np.array([[1, 1]], np.int32), good[1]), "results.1. is not in"),
        ((good[0], np.array([[-1, 3]])), "results.1. is not in"),
    ]:
        with pytest.raises((TypeError, ValueError), match=words):
            merge(good, bad)


PROGRAM = textwrap.dedent("""
    import sys
    import numpy as np
    from search import asymmetric, merge, rerank
    from search.fine.rerank import as_single

    data = dict(np.load(sys.argv[1]))
    found = []
    for features in (data["features"], data["features"].astype(np.float32)):
        found.append(rerank(data["asked"], features, data["ids"], 5))
    found.append(asymmetric(data["latents"], data["codes"], data["ids"], 5))
    found.append(merge(*found[:2]))
    np.savez(sys.argv[2], *[each for pair in found for each in pair])
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)][:, None]
    assert (as_single(every) == every.astype(np.float32)).all()
    for bad in np.nan, np.inf, -np.inf:
        try:
            rerank(data["asked"], np.full_like(data["features"], bad), data["ids"], 5)
        except ValueError:
            print("refused", bad)
""")


@pytest.mark.parametrize(
    "setting",
    [{"NUMBA_DISABLE_JIT": "1"}, GENERIC],
    ids=["plain Python", "a processor without half floats"],
)
def test_the_same_on_other_machines(setting, rng, tmp_path):
    """Distances here are exact, so that they must be equal to the last bit."""
    data = {
        "features": rng.integers(-2048, 2049, (30, 9)).astype(np.float16) / 64,
        "asked": rng.integers(-2, 3, (2, 9)).astype(np.float32),
        "ids": candidates(rng, 2, 12, 30),
        "latents": rng.integers(-8, 9, (2, 16)).astype(np.float32) / 8,
        "codes": rng.integers(0, 256, (30, 2), dtype=np.uint8),
    }
    np.savez(tmp_path / "in.npz", **data)
    environment = os.environ | setting
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "in.npz", tmp_path / "out.npz"],
        env=environment,
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        0,
        "refused nan\nrefused inf\nrefused -inf\n",
        "",
    )
    found = list(np.load(tmp_path / "out.npz").values())
    fine = naive.rerank(data["asked"], data["features"], data["ids"], 5)
    expected = [*fine, *fine]
    expected += naive.asymmetric(
        data["latents"], np.unpackbits(data["codes"], axis=1), data["ids"], 5, 0.5, 0.5
    )
    expected += naive.merge([fine, fine], 5)
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_features_have_as_many_dimensions_as_a_file_of_them_may():
    most = 1 << 24
    assert check_features(np.empty((0, most), np.float16)).shape == (0, most)
    with pytest.raises(ValueError, match="at most 16777216 dimensions, not 16777217"):
        check_features(np.empty((0, most + 1), np.float16))
