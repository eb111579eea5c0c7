"""Exhaustive Euclidean search against direct differences in float64."""

import hypothesis.strategies as st
import naive
import numpy as np
import pytest
from hypothesis import given, settings

from search import euclidean_knn
from search.fine import exhaustive


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(0, 90),
    k=st.integers(0, 100),
    kind=st.sampled_from([np.float16, np.float32]),
)
@settings(max_examples=30, deadline=None)
def test_small_whole_numbers_give_the_exact_order_with_ties(seed, n, k, kind):
    rng = np.random.default_rng(seed)
    features = rng.integers(-2, 3, (n, 3)).astype(kind)
    queries = rng.integers(-2, 3, (5, 3)).astype(np.float32)
    for found, expected in zip(
        euclidean_knn(queries, features, k), naive.euclidean_knn(queries, features, k), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_many_blocks_chunks_and_groups(rng, monkeypatch):
    for name, value in (("BLOCK_BYTES", 1000), ("CHUNK", 10), ("PART", 4), ("GROUP", 23)):
        monkeypatch.setattr(exhaustive, name, value)
    # Far from the origin, where |x|^2 - 2qx loses the digits that tell neighbours apart.
    features = (rng.random((301, 5)) + 30).astype(np.float32)
    features[100:130] = features[7]
    queries = (rng.random((57, 5)) + 30).astype(np.float32)
    expected = naive.euclidean_knn(queries, features, 40)
    for threads in (1, 2, 7):
        distances, ids = euclidean_knn(queries, features, 40, threads=threads)
        np.testing.assert_allclose(distances, expected[0], rtol=1e-5)
        # Rounding may swap neighbours whose distances agree to six digits, no others.
        assert (ids == expected[1]).mean() > 0.99


def test_all_features_equal_come_in_the_order_of_their_rows():
    distances, ids = euclidean_knn(np.ones((2, 4)), np.zeros((500, 4), np.float16), 20)
    assert ids.tolist() == [list(range(20))] * 2
    assert (distances == 2).all()


def test_memory_mapped_and_strided_features(rng, tmp_path):
    features = rng.random((50, 6)).astype(np.float16)
    np.save(tmp_path / "features.npy", features)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    expected = euclidean_knn(features[:3].astype(float), features, 7)
    for same in (mapped, np.repeat(features, 2, axis=0)[::2], np.asfortranarray(features)):
        for found, wanted in zip(
            euclidean_knn(features[:3].astype(float), same, 7), expected, strict=True
        ):
            np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 3e38])
def test_features_that_are_not_finite_are_refused(bad):
    features = np.zeros((9, 2), np.float32)
    features[4, 1] = bad
    with pytest.raises(ValueError, match=r"features.*NaN or infinity"):
        euclidean_knn(np.zeros((1, 2)), features, 1)
    with pytest.raises(ValueError, match=r"features"):
        euclidean_knn(features, np.zeros((9, 2), np.float32) if bad != 3e38 else features, 1)


def test_wrong_arguments_are_named():
    features = np.zeros((3, 2), np.float32)
    with pytest.raises(ValueError, match="query_features have 3 dimensions"):
        euclidean_knn(np.zeros((1, 3)), features, 1)
    with pytest.raises(TypeError, match="features must be float16 or float32"):
        euclidean_knn(np.zeros((1, 2)), features.astype(float), 1)
    with pytest.raises(ValueError, match="k must not be negative"):
        euclidean_knn(np.zeros((1, 2)), features, -1)


def test_neighbours_that_float32_products_cannot_tell_apart():
    """Scores near 500,000 are a 32nd apart; these neighbours, in the worst order, far less."""
    towards = np.linspace(2, 1, 15)[:, None] / 256
    features = np.concatenate([1000 + towards, -1000 - towards]).astype(np.float32)
    distances, ids = euclidean_knn(np.array([[1000.0], [-1000.0]]), features, 3)
    np.testing.assert_array_equal(ids, [[14, 13, 12], [29, 28, 27]])
    np.testing.assert_array_equal(
        distances, naive.euclidean_knn(np.array([[1000.0], [-1000.0]], np.float32), features, 3)[0]
    )
