"""What an index remembers of what it no longer holds: ids that were given, kinds of features."""

import numpy as np
import pytest
from test_index import equal

from search import HashIndex


@pytest.mark.parametrize("between", ["nothing", "compact", "save", "load", "all of it"])
@pytest.mark.parametrize("ids", [None, np.arange(10) * 3 - 20])
def test_an_id_is_never_given_to_another_item(between, ids, tmp_path):
    codes = np.zeros((10, 1), np.uint8)
    index = HashIndex(codes, ids=ids)
    expected = 10 if ids is None else 8
    for gone in (slice(-1, None), slice(2, 3), slice(-3, None), slice(0, -4), slice(0, None)):
        index.remove(index.ids[gone])
        if between in ("compact", "all of it"):
            index.compact()
        if between not in ("nothing", "compact"):
            index.save(tmp_path / "i")
            index = HashIndex.open(tmp_path / "i", mmap=between != "load", verify=True)
        assert index.add(codes[:2]).tolist() == [expected, expected + 1]
        expected += 2
    index.add(codes[:1], ids=np.array([100]))
    index.remove([100])
    index.compact()
    index.add(codes[:1], ids=np.array([100]))  # but by its owner
    assert index.add(codes[:1]).tolist() == [101]


def test_the_last_ids_of_all_are_given_and_no_more(tmp_path):
    most = (1 << 63) - 1
    code = np.zeros((1, 1), np.uint8)
    index = HashIndex(code, ids=np.array([most - 1]))
    assert index.add(code).tolist() == [most]
    index.remove([most])
    index.save(tmp_path / "i")
    for each in (index, HashIndex.open(tmp_path / "i", verify=True)):
        assert each.add(code[:0]).tolist() == []
        with pytest.raises(ValueError, match="none are left"):
            each.add(code)
        assert each.add(code, ids=np.array([3])).tolist() == [3]


@pytest.mark.parametrize("between", ["nothing", "compact", "save", "compact and save"])
@pytest.mark.parametrize("kind", ["made empty", "emptied", "given no items"])
def test_an_empty_index_knows_what_its_features_are(kind, between, tmp_path):
    codes, features = np.zeros((5, 1), np.uint8), np.ones((5, 3), np.float16)
    start = 0 if kind == "made empty" else 5
    index = HashIndex(codes[:start], features=features[:start])
    index.remove(index.ids)
    if "compact" in between:
        index.compact()
    if "save" in between:
        index.save(tmp_path / "i")
        index = HashIndex.open(tmp_path / "i", verify=True)
    if kind == "given no items":
        index.add(codes[:0], features[:0])
    found = index.search(codes[:1], 2, query_features=np.ones((1, 3)), pool=4)
    equal(found, (np.full((1, 2), np.inf, np.float32), np.full((1, 2), -1)))
    for wrong, words in (
        (None, "features are missing"),
        (features[:, :2], "features must be"),
        (features.astype(np.float32), "features must be"),
    ):
        for count in (0, 5):
            with pytest.raises(ValueError, match=words):
                index.add(codes[:count], None if wrong is None else wrong[:count])
    index.add(codes, features)
    assert index.search(codes[:1], 1, query_features=np.ones((1, 3)), pool=4)[0].tolist() == [[0]]


@pytest.mark.parametrize("compact", [False, True])
def test_an_empty_index_without_features_may_get_some(compact):
    codes, features = np.zeros((2, 1), np.uint8), np.ones((2, 3), np.float16)
    index = HashIndex(codes)
    index.remove([0, 1])
    if compact:
        index.compact()
    assert index.add(codes, features).tolist() == [2, 3]
    assert index._state.features == (np.float16, 3)
