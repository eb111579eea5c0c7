"""What a HashIndex refuses, by the name of the argument, and that it is then as it was."""

import numpy as np
import pytest

from search import HashIndex


def good():
    return {
        "codes": np.zeros((3, 2), np.uint8),
        "bits": 12,
        "features": np.zeros((3, 2), np.float32),
        "ids": np.array([4, 2, 9]),
        "attachments": {"a": b"b"},
    }


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"codes": np.zeros((3, 2), int)}, TypeError, "codes"),
        ({"codes": np.zeros(3, np.uint8)}, ValueError, "codes"),
        ({"bits": 17}, ValueError, "codes"),
        ({"bits": 0}, ValueError, "bits"),
        ({"bits": 12.0}, TypeError, "bits"),
        ({"features": np.zeros((2, 2), np.float32)}, ValueError, "features must have 3 rows"),
        ({"features": np.zeros((3, 2))}, TypeError, "features"),
        ({"features": np.full((3, 2), np.nan, np.float32)}, ValueError, "features"),
        ({"ids": np.array([4, 2, 4])}, ValueError, "ids must be unique"),
        ({"ids": np.array([4, -1, 3])}, ValueError, "ids must not be -1"),
        ({"ids": np.array([4, 3])}, ValueError, "ids"),
        ({"ids": np.array([4.0, 3, 2])}, TypeError, "ids"),
        ({"ids": np.array([1 << 63, 3, 2], np.uint64)}, ValueError, "ids must fit"),
        ({"attachments": {"a": "b"}}, TypeError, "attachments"),
        ({"attachments": {3: b""}}, TypeError, "attachments"),
        ({"attachments": {"": b""}}, ValueError, "attachments"),
    ],
)
def test_the_constructor_names_the_argument_that_is_wrong(change, error, words):
    HashIndex(**good())
    with pytest.raises(error, match=words):
        HashIndex(**(good() | change))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"queries": np.zeros((1, 3), np.uint8)}, ValueError, "queries"),
        ({"queries": np.zeros((1, 2), np.int8)}, TypeError, "queries"),
        ({"k": -1}, ValueError, "k "),
        ({"k": 1.0}, TypeError, "k "),
        ({"pool": -1}, ValueError, "pool"),
        ({"pool": 3, "query_features": None}, ValueError, "pool needs query_features"),
        ({"query_latents": np.zeros((1, 12))}, ValueError, "query_latents and query_features"),
        ({"query_features": None, "query_latents": np.zeros((1, 11))}, ValueError, "query_latents"),
        (
            {"query_features": None, "query_latents": np.full((1, 12), np.nan)},
            ValueError,
            "query_l",
        ),
        (
            {"query_features": None, "query_latents": np.zeros((1, 12)), "threshold": np.nan},
            ValueError,
            "threshold",
        ),
        ({"radius": -1}, ValueError, "radius"),
        ({"radius": 1.5}, TypeError, "radius"),
        ({"threads": 0}, ValueError, "threads"),
        ({"pool": None}, ValueError, "pool, radius or both"),
        ({"query_features": np.zeros((2, 2))}, ValueError, "query_features"),
        ({"query_features": np.zeros((1, 3))}, ValueError, "query_features"),
        ({"query_features": np.full((1, 2), np.nan)}, ValueError, "query_features"),
        ({"where": np.ones(4, bool)}, ValueError, "where must have the shape"),
        ({"where": np.ones(3)}, TypeError, "where"),
        ({"where": [4, 5]}, ValueError, r"where: 1 ids \(5\) not in the index"),
        ({"where": [[4]]}, TypeError, "where"),
        ({"where": 4}, TypeError, "where"),
    ],
)
def test_a_search_names_the_argument_that_is_wrong(change, error, words):
    arguments = {
        "queries": np.zeros((1, 2), np.uint8),
        "k": 2,
        "query_features": np.zeros((1, 2)),
        "pool": 2,
    }
    index = HashIndex(**good())
    index.search(**arguments)
    with pytest.raises(error, match=words):
        index.search(**(arguments | change))


def test_changes_name_the_argument_that_is_wrong_and_change_nothing():
    index = HashIndex(**good())
    codes, features = np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.float32)
    state = index._state
    for arguments, error, words in [
        ((codes, features, np.array([7, 2])), ValueError, r"ids: 1 ids \(2\) in the index already"),
        ((codes, features, np.array([7, 7])), ValueError, "ids must be unique"),
        ((codes, None), ValueError, "features are missing"),
        ((codes, features[:, :1]), ValueError, "features"),
        ((codes, features.astype(np.float16)), ValueError, "features"),
        ((codes, np.full((2, 2), np.inf, np.float32)), ValueError, "features"),
        ((codes[:, :1], features), ValueError, "codes"),
        ((codes, features, [7, 8]), TypeError, "ids"),
    ]:
        with pytest.raises(error, match=words):
            index.add(*arguments)
    for ids, error, words in [
        ([4, 5], ValueError, r"ids: 1 ids \(5\) not in the index"),
        (np.array([True]), TypeError, "ids"),
        ([1.5], TypeError, "ids"),
        (4, TypeError, "ids"),
    ]:
        with pytest.raises(error, match=words):
            index.remove(ids)
    assert index._state is state
    with pytest.raises(ValueError, match="features: the index has none"):
        HashIndex(codes).add(codes, features)
    with pytest.raises(ValueError, match="no features"):
        HashIndex(codes).search(codes, 1, query_features=np.zeros((2, 2)), pool=1)
    full = HashIndex(codes[:1], ids=np.array([(1 << 63) - 1]))
    with pytest.raises(ValueError, match="none are left"):
        full.add(codes)
