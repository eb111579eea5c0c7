"""Decoding on demand, and arrays in parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxhash.data import enlarged
from jaxhash.data.dataset import as_rows
from jaxhash.data.decoding import Undecodable, resize
from jaxhash.data.enlarged import Enlarged
from jaxhash.data.images import Images
from jaxhash.data.joined import Joined


@pytest.fixture
def images(tmp_path):
    """Eleven files; the grey value of each is its row number."""
    paths = [str(tmp_path / f"{row}.png") for row in range(11)]
    for row, path in enumerate(paths):
        Image.new("L", (5, 4), row).save(path)
    return Images(paths, size=4, channels=1, threads=2)


def test_a_lazy_sequence_indexes_like_an_array(images):
    array = np.stack([images[row] for row in range(len(images))])
    assert array.shape == images.shape
    assert array.dtype == images.dtype
    for index in (3, -1, slice(2, 9, 3), [4, 4, 0], np.array([], np.int64), array[:, 0, 0, 0] > 7):
        np.testing.assert_array_equal(images[index], array[index])
    for index in (11, -12, [0, 11], np.ones(3, bool), np.ones((2, 2), int), 1.5, "a"):
        with pytest.raises(IndexError):
            images[index]


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(sum),
    data=st.data(),
)
def test_joined_arrays_index_like_their_concatenation(sizes, data):
    parts = [
        np.arange(i * 100, i * 100 + 2 * size).reshape(size, 2) for i, size in enumerate(sizes)
    ]
    whole = np.concatenate(parts).astype(np.float32)
    joined = Joined(parts, np.float32)
    assert (joined.shape, joined.dtype, len(joined)) == (whole.shape, whole.dtype, len(whole))
    n = len(whole)
    rows = data.draw(st.lists(st.integers(-n, n - 1), max_size=9))
    np.testing.assert_array_equal(joined[np.array(rows, np.int64)], whole[np.array(rows, np.int64)])
    cut = data.draw(st.slices(n))
    np.testing.assert_array_equal(joined[cut], whole[cut])
    np.testing.assert_array_equal(joined[n - 1], whole[n - 1])
    assert joined[cut].dtype == np.float32


def test_joined_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="no array"):
        Joined([])
    with pytest.raises(ValueError, match="different shapes"):
        Joined([np.zeros((2, 3)), np.zeros((2, 4))])


@settings(max_examples=25, deadline=None)
@given(
    sides=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.sampled_from([1, 3]),
    size=st.integers(1, 30),
    data=st.data(),
)
def test_images_are_enlarged_as_all_at_once(sides, channels, size, data):
    pixels = np.random.default_rng(0).integers(0, 256, (5, *sides, channels), np.uint8)
    whole, lazy = resize(pixels, size), Enlarged(pixels, size)
    assert (lazy.shape, lazy.dtype, len(lazy)) == (whole.shape, whole.dtype, len(whole))
    rows = np.array(data.draw(st.lists(st.integers(-5, 4), max_size=9)), np.int64)
    np.testing.assert_array_equal(lazy[rows], whole[rows])
    np.testing.assert_array_equal(lazy[1:3], whole[1:3])
    np.testing.assert_array_equal(lazy[4], whole[4])


def test_only_what_becomes_large_is_enlarged_on_demand(monkeypatch):
    monkeypatch.setattr(enlarged, "MOST", 3 * 8 * 8)
    pixels = np.zeros((4, 4, 8, 1), np.uint8)
    assert isinstance(enlarged.resized(pixels, 8), Enlarged)
    assert isinstance(enlarged.resized(pixels[:3], 8), np.ndarray)
    assert isinstance(enlarged.resized(np.zeros((9, 8, 9, 1), np.uint8), 8), np.ndarray)
    assert enlarged.resized(pixels, None) is pixels
    with pytest.raises(ValueError, match="image_size"):
        enlarged.resized(pixels, 5000)


def test_as_rows_counts_from_the_end():
    assert as_rows(-1, 5)[0].tolist() == [4]
    assert as_rows([], 5)[0].dtype == np.int64


def test_a_broken_image_is_named_and_others_are_read(images, tmp_path):
    (tmp_path / "2.png").write_bytes(b"gone bad")
    with pytest.raises(Undecodable, match=r"2\.png: not an image"):
        images[[1, 2]]
    pixels, failed = images.read(np.array([3, 2, 1]))
    assert [row for row, _ in failed] == [2]
    np.testing.assert_array_equal(pixels[:, 0, 0, 0], [3, 0, 1])
    with pytest.raises(ValueError, match="channels"):
        Images(["a.png"], size=4, channels=4)
