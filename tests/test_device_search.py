"""Search on devices gives what `search` gives, on one simulated device and on several."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from jaxhash import device_kernels, device_search, sharding
from search import HashIndex, pack

DEVICES = jax.devices()


def equal(got: tuple, expected: tuple) -> None:
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def few_distances(rng: np.random.Generator, count: int, bits: int) -> np.ndarray:
    """Codes with many ties: each is one of a few, with a bit or two flipped."""
    centres = rng.integers(0, 2, (3, bits))
    return pack(centres[rng.integers(0, 3, count)] ^ (rng.random((count, bits)) < 0.04))


@pytest.fixture(params=device_search.WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_neighbours_are_those_of_the_scan(seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Of few sizes, as each shape is compiled; with several blocks or one, and devices left empty.
    bits, count = int(rng.choice([1, 31, 64, 100])), int(rng.choice([0, 1, 5, 67]))
    ids = rng.permutation(10 * count)[:count] - 3
    ids[ids == -1] = 10 * count
    features = rng.integers(-2, 3, (count, 3)).astype(rng.choice([np.float16, np.float32]))
    index = HashIndex(few_distances(rng, count, bits), bits=bits, ids=ids, features=features)
    queries = few_distances(rng, 3, bits)
    fine = rng.integers(-2, 3, (3, 3)).astype(np.float32)
    way = str(rng.choice(device_search.WAYS))
    where = rng.random(count) < 0.6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_search, "BLOCK", int(rng.choice([4, 64])))
        placed = device_search.place(index, devices=DEVICES[: int(rng.choice([1, 4]))])
    for k in (0, 7, 70):
        for options in ({}, {"radius": 2}, {"where": where}):
            equal(
                device_search.knn(placed, queries, k, way=way, **options),
                index.search(queries, k, **options),
            )
    for options in ({"pool": 7}, {"pool": 70, "radius": 1}, {"pool": 7, "where": where}):
        equal(
            device_search.coarse_to_fine(placed, queries, fine, 5, way=way, **options),
            index.search(queries, 5, query_features=fine, **options),
        )


def test_the_longest_codes_are_counted_exactly(way: str) -> None:
    """All 4,097 distances there are, in bfloat16 products too."""
    codes = pack(np.tri(4097, 4096, -1, dtype=np.uint8))
    placed = device_search.place(codes[::-1].copy(), devices=DEVICES[:1])
    distances, ids = device_search.knn(placed, codes[:1], 4097, way=way)
    np.testing.assert_array_equal(distances[0], np.arange(4097))
    np.testing.assert_array_equal(ids[0], np.arange(4097)[::-1])


def test_many_queries_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_search, "QUERIES", 4)
    monkeypatch.setattr(device_search, "CANDIDATES", 24)
    rng = np.random.default_rng(3)
    features = rng.integers(-2, 3, (40, 2)).astype(np.float32)
    index = HashIndex(few_distances(rng, 40, 24), features=features)
    placed = device_search.place(index)
    queries, fine = few_distances(rng, 11, 24), features[:11]
    equal(device_search.knn(placed, queries, 3), index.search(queries, 3))
    equal(
        device_search.coarse_to_fine(placed, queries, fine, 3, pool=5),
        index.search(queries, 3, query_features=fine, pool=5),
    )


@pytest.mark.parametrize("platform", ["tpu", "cuda"])
def test_it_is_lowered_for_accelerators(platform: str, way: str) -> None:
    mesh = sharding.local_mesh(DEVICES[:2])
    placed = device_search.place(np.zeros((10, 8), np.uint8), devices=DEVICES[:2])
    lowered = export.export(device_kernels.nearest, platforms=[platform])(
        placed.words, placed.allowed, np.zeros((4, 2), np.uint32), k=3, way=way, mesh=mesh
    )
    assert lowered.platforms == (platform,)


CODES = np.zeros((4, 2), np.uint8)
FEATURES = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize(
    ("kind", "message", "call"),
    [
        (ValueError, "the index's own", lambda: device_search.place(HashIndex(CODES), bits=16)),
        (TypeError, "database must be a NumPy array of uint8", lambda: device_search.place([1])),
        (ValueError, "3 bytes", lambda: device_search.place(CODES, bits=20)),
        (
            ValueError,
            r"features must have the shape \(4, d\)",
            lambda: device_search.place(CODES, features=FEATURES[:2]),
        ),
        (
            TypeError,
            "float16 or float32, not float64",
            lambda: device_search.place(CODES, features=FEATURES.astype(float)),
        ),
        (ValueError, "2 bytes", lambda: _knn(queries=np.zeros((1, 3), np.uint8))),
        (ValueError, "k must not be negative", lambda: _knn(k=-1)),
        (ValueError, "give a smaller k", lambda: _knn(k=1 << 40)),
        (ValueError, "give a smaller k", lambda: _fine(FEATURES, k=1 << 40)),
        (ValueError, "products, counts, not 'sums'", lambda: _knn(way="sums")),
        (ValueError, r"where must be bool of the shape \(4,\)", lambda: _knn(where=np.ones(4))),
        (ValueError, "no features; place it", lambda: _fine(None)),
        (ValueError, r"query_features must have the shape \(2, 3\)", lambda: _fine(FEATURES, 1)),
        (ValueError, "must be finite", lambda: _fine(FEATURES, query=np.full((2, 3), np.nan))),
        (ValueError, "candidates hold NaN", lambda: _fine(np.full((4, 3), np.nan, np.float32))),
        (ValueError, "too large for a", lambda: _fine(np.full((4, 3), 3e38, np.float32))),
    ],
)
def test_what_cannot_be_asked(kind: type[Exception], message: str, call: object) -> None:
    with pytest.raises(kind, match=message):
        call()


def _knn(queries: np.ndarray = CODES, k: int = 1, **options: object) -> None:
    device_search.knn(device_search.place(CODES), queries, k, **options)


def _fine(
    features: np.ndarray | None, width: int = 3, query: np.ndarray | None = None, k: int = 1
) -> None:
    placed = device_search.place(CODES, features=features)
    query = np.zeros((2, width)) if query is None else query
    device_search.coarse_to_fine(placed, CODES[:2], query, k, pool=4)
