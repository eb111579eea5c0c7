"""Copies and pickles of a HashIndex: all that counts comes along, and each changes by itself."""

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_index import equal

from search import HashIndex

REPOSITORY = Path(__file__).resolve().parent.parent

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda index: pickle.loads(pickle.dumps(index)),
    "oldest pickle": lambda index: pickle.loads(pickle.dumps(index, protocol=0)),
}


def some_index(rng, bits=20):
    """Two segments, features, attachments, ids of its own and removed items."""
    codes = rng.integers(0, 256, (900, -(-bits // 8)), dtype=np.uint8)
    features = rng.standard_normal((900, 6)).astype(np.float16)
    index = HashIndex(
        codes[:700],
        bits=bits,
        features=features[:700],
        ids=np.arange(700)[::-1] * 3,
        attachments={"names": b"a\0b"},
    )
    index.add(codes[700:], features[700:])
    index.remove(index.ids[::7])
    return index


def all_of(index, rng_seed=5):
    rng = np.random.default_rng(rng_seed)
    queries = rng.integers(0, 256, (7, -(-index.bits // 8)), dtype=np.uint8)
    fine = rng.standard_normal((7, 6)).astype(np.float32)
    return [
        np.array([len(index), index.bits]),
        index.ids,
        *index.search(queries, 30),
        *index.search(queries, 5, query_features=fine, pool=40),
        *index.within(queries, 6),
    ]


@pytest.mark.parametrize("kind", COPIES)
@pytest.mark.parametrize("mapped", [False, True])
def test_copies_are_equal_and_change_apart(rng, tmp_path, kind, mapped):
    index = some_index(rng)
    if mapped:
        index.save(tmp_path / "an.index")
        index = HashIndex.open(tmp_path / "an.index")
        index.remove(index.ids[:3])
        index.add(np.zeros((2, 3), np.uint8), np.zeros((2, 6), np.float16))
    expected = all_of(index)
    other = COPIES[kind](index)
    assert type(other) is HashIndex
    equal(all_of(other), expected)
    assert other.attachments == index.attachments == {"names": b"a\0b"}

    ids = other.add(np.zeros((5, 3), np.uint8), np.zeros((5, 6), np.float16))
    other.remove(other.ids[:4])
    equal(all_of(index), expected)
    np.testing.assert_array_equal(
        index.add(np.ones((5, 3), np.uint8), np.zeros((5, 6), np.float16)), ids
    )
    assert len(index) == len(other) + 4
    assert not (index.search(np.zeros((1, 3), np.uint8), 9)[1][0, :5] == ids).all()


@pytest.mark.parametrize("kind", COPIES)
def test_copies_share_no_lock(rng, kind):
    index = some_index(rng)
    with index._changing.held():
        other = COPIES[kind](index)
        other.remove(other.ids[:1])
        other.compact()
    assert len(other) == len(index) - 1


@pytest.mark.parametrize("kind", COPIES)
def test_copies_of_an_empty_index_keep_what_its_items_must_be(kind):
    index = HashIndex(np.zeros((0, 1), np.uint8), features=np.zeros((0, 4), np.float32))
    other = COPIES[kind](index)
    assert len(other) == 0
    with pytest.raises(ValueError, match="features"):
        other.add(np.zeros((1, 1), np.uint8), np.zeros((1, 3), np.float32))


def test_copies_keep_ids_from_being_given_again(rng):
    index = HashIndex(np.zeros((10, 1), np.uint8))
    index.remove([9])
    index.compact()
    for make in COPIES.values():
        assert make(index).add(np.zeros((1, 1), np.uint8)).tolist() == [10]


def test_a_copy_of_what_is_mapped_is_mapped(rng, tmp_path):
    """Neither a copy nor a pickle holds what is in the file, or reads it."""
    codes = rng.integers(0, 256, (50_000, 8), dtype=np.uint8)
    HashIndex(codes).save(tmp_path / "an.index")
    index = HashIndex.open(tmp_path / "an.index")
    assert len(pickle.dumps(index)) < 2000
    for make in COPIES.values():
        (segment,) = make(index)._state.segments
        assert segment.mapped
        assert segment.source == index._state.segments[0].source
        equal(make(index).search(codes[:3], 4), index.search(codes[:3], 4))


def test_a_pickle_has_the_files_absolute_path(rng, tmp_path, monkeypatch):
    some_index(rng).save(tmp_path / "an.index")
    monkeypatch.chdir(tmp_path)
    index = HashIndex.open("an.index")
    pickled = pickle.dumps(index)
    expected = all_of(index)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    equal(all_of(pickle.loads(pickled)), expected)


@pytest.mark.parametrize("step", ["dumps", "loads"])
@pytest.mark.parametrize("change", ["missing", "replaced"])
def test_a_pickle_of_a_file_that_changed_is_refused(rng, tmp_path, step, change):
    path = tmp_path / "an.index"
    original = some_index(rng)
    original.save(path)
    index = HashIndex.open(path)
    pickled = pickle.dumps(index)
    expected = all_of(index)
    if change == "missing":
        os.rename(path, tmp_path / "another.index")
    else:
        original.save(path)  # another file of the same contents will do
        pickle.loads(pickled)
        some_index(np.random.default_rng(7)).save(path)
    kind = {"missing": FileNotFoundError, "replaced": ValueError}[change]
    with pytest.raises(kind, match=r"an\.index|mmap=False") as failure:
        pickle.dumps(index) if step == "dumps" else pickle.loads(pickled)
    assert "mmap=False" in str(failure.value)
    assert "an.index" in str(failure.value)
    equal(all_of(index), expected)


def test_what_is_unpickled_needs_no_kernels_of_its_own(rng):
    """Arrays of another kind, such as writeable ones, would be compiled for anew."""
    index = some_index(rng)
    for make in COPIES.values():
        for segment in make(index)._state.segments:
            assert not segment.codes.planes.flags.writeable
            assert type(segment.codes.planes) is np.ndarray


def test_another_process_unpickles(rng, tmp_path):
    index = some_index(rng)
    queries = rng.integers(0, 256, (3, 3), dtype=np.uint8)
    with open(tmp_path / "pickled", "wb") as file:
        pickle.dump((index, queries, index.search(queries, 5)), file)
    code = (
        "import pickle, sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np\n"
        "index, queries, expected = pickle.load(open(sys.argv[2], 'rb'))\n"
        "for one, other in zip(index.search(queries, 5), expected, strict=True):\n"
        "    np.testing.assert_array_equal(one, other)\n"
    )
    command = [sys.executable, "-c", code, str(REPOSITORY), str(tmp_path / "pickled")]
    subprocess.run(command, check=True, timeout=300)


class Named(HashIndex):
    """An index with something of its own."""


def test_a_pickle_keeps_what_a_subclass_has():
    index = Named(np.zeros((1, 1), np.uint8))
    index.name = "photos"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(index)).name == "photos"
