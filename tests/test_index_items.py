"""Single items of an index: asked for by id, replaced, and searched for by one query."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_index import DIMENSIONS, draw_items, equal

import search
from search import HashIndex, pack

seeds = st.integers(0, 2**32 - 1)


def check(index, items, rng):
    """An index holds what a dictionary id -> (code, features) does."""
    assert index.ids.tolist() == sorted(items)
    asked = rng.choice(sorted(items), 2 * len(items)) if items else np.empty(0, np.int64)
    codes, features = index.get(asked)
    assert codes.shape == (len(asked), -(-index.bits // 8))
    assert features.shape == (len(asked), DIMENSIONS)
    for id_, code, fine in zip(asked.tolist(), codes, features, strict=True):
        np.testing.assert_array_equal(code, items[id_][0])
        np.testing.assert_array_equal(fine, items[id_][1])
    for id_ in range(-3, 50):
        assert (id_ in index) == (id_ in items)


@settings(max_examples=40, deadline=None)
@given(
    seed=seeds,
    bits=st.sampled_from([1, 8, 12, 64]),
    start=st.sampled_from([0, 1, 30]),
    steps=st.lists(
        st.sampled_from(["add", "replace", "replace", "remove", "compact", "reopen"]), max_size=6
    ),
)
def test_any_history_is_given_back(tmp_path_factory, seed, bits, start, steps):
    rng = np.random.default_rng(seed)
    rows, features = draw_items(rng, start, bits)
    ids = rng.permutation(40)[:start]
    index = HashIndex(pack(rows), bits=bits, features=features, ids=ids)
    items = dict(zip(ids.tolist(), zip(pack(rows), features, strict=True), strict=True))
    for step in steps:
        count = int(rng.integers(0, 20))
        rows, features = draw_items(rng, count, bits)
        if step == "add":
            free = np.array(sorted(set(range(60)) - set(items)), np.int64)
            ids = rng.permutation(free)[:count]
        elif step == "replace":
            ids = rng.permutation(45)[:count]
        if step in ("add", "replace"):
            size = len(ids)
            given_codes = pack(rows[:size])
            index.add(given_codes, features[:size], ids, replace=step == "replace")
            items.update(
                zip(ids.tolist(), zip(given_codes, features[:size], strict=True), strict=True)
            )
        elif step == "remove":
            gone = [id_ for id_ in items if rng.random() < 0.3]
            index.remove(gone)
            for id_ in gone:
                del items[id_]
        elif step == "compact":
            index.compact()
        else:
            path = tmp_path_factory.mktemp("items") / "i.index"
            index.save(path)
            index = HashIndex.open(path)
    check(index, items, rng)


def test_what_replaces_an_item_is_found_and_what_it_replaced_is_not(rng):
    codes = np.zeros((600, 1), np.uint8)
    index = HashIndex(codes)
    before = index._state
    index.add(np.full((2, 1), 255, np.uint8), ids=np.array([599, 7]), replace=True)
    assert len(index) == 600
    assert index.within(np.array([[255]], np.uint8), 0)[2].tolist() == [7, 599]
    assert index.within(codes[:1], 0)[2].tolist() == [*range(7), *range(8, 599)]
    assert len(before) == 600  # a search that had begun
    assert index.add(codes[:1]).tolist() == [600]


def test_what_cannot_be_replaced_leaves_the_index_as_it_was():
    codes, features = np.zeros((4, 1), np.uint8), np.ones((4, 2), np.float32)
    index = HashIndex(codes, features=features)
    state = index._state
    for arguments, words in (
        ((codes[:2], features[:2], np.array([1, 1])), "ids must be unique"),
        ((codes[:2], features[:2, :1], np.array([1, 2])), "features must be"),
        ((codes[:2], None, np.array([1, 2])), "features are missing"),
        ((codes[:2], features[:2], None), "replace needs ids"),
    ):
        with pytest.raises(ValueError, match=words):
            index.add(*arguments, replace=True)
        assert index._state is state
    with pytest.raises(ValueError, match=r"1 ids \(3\) in the index already.*replace=True"):
        index.add(codes[:2], features[:2], np.array([3, 9]))


def test_ids_that_are_not_there_are_named():
    index = HashIndex(np.zeros((4, 1), np.uint8))
    index.remove([2])
    with pytest.raises(ValueError, match=r"ids: 2 ids \(2, 9\) not in the index"):
        index.get([9, 0, 2, 9])
    with pytest.raises(TypeError, match="ids must be integers"):
        index.get([0.5])
    for wrong in ([3], [-1]):
        with pytest.raises(ValueError, match="positions must be from 0 to 2"):
            index.ids_at(wrong)
    assert index.ids_at([2, 0]).tolist() == [3, 0]
    codes, features = index.get([])
    assert codes.shape == (0, 1)
    assert features is None
    for far in (2, 1 << 63, -(1 << 70)):
        assert far not in index
    assert np.int32(3) in index
    for wrong in ("a.jpg", 1.0, np.arange(2)):
        with pytest.raises(TypeError, match="an id is a whole number"):
            wrong in index  # noqa: B015


@pytest.mark.parametrize("bits", [8, 12])
def test_a_single_query_is_a_table_of_one(bits, rng):
    rows, features = draw_items(rng, 300, bits)
    codes = pack(rows)
    index = HashIndex(codes, bits=bits, features=features)
    fine, latents = features[0].astype(np.float32), rows[0] / 2 + 0.1
    for single, table in (
        ({}, {}),
        ({"where": [3, 5]}, {"where": [3, 5]}),
        ({"query_features": fine, "pool": 9}, {"query_features": fine[None], "pool": 9}),
        ({"query_latents": latents, "radius": 3}, {"query_latents": latents[None], "radius": 3}),
    ):
        expected = index.search(codes[:1], 4, **table)
        equal(index.search(codes[0], 4, **single), [part[0] for part in expected])
    equal(index.within(codes[0], 2), index.within(codes[:1], 2))
    expected = search.hamming_knn(codes[:1], codes, 4, bits=bits)
    equal(search.hamming_knn(codes[0], codes, 4, bits=bits), [part[0] for part in expected])
    equal(
        search.hamming_radius(codes[0], codes, 2, bits=bits),
        search.hamming_radius(codes[:1], codes, 2, bits=bits),
    )
    with pytest.raises(ValueError, match="queries must have the shape"):
        index.search(np.zeros(5, np.uint8), 1)


def test_the_version_is_that_of_the_distribution():
    import jaxhash

    assert search.__version__ == jaxhash.__version__
