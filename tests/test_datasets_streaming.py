"""Decoding on demand, batches read ahead, exact resume."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxhash.datasets.dataset import as_rows
from jaxhash.datasets.decoding import Undecodable
from jaxhash.datasets.joined import Joined
from jaxhash.datasets.streaming import Images, stream


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


def test_as_rows_counts_from_the_end():
    assert as_rows(-1, 5)[0].tolist() == [4]
    assert as_rows([], 5)[0].dtype == np.int64


def test_stream_covers_every_row_once_an_epoch(images):
    rows = np.arange(1, 11)
    batches = list(stream(images, rows, batch_size=4, shuffle=True, seed=5, epochs=2))
    assert [len(batch.rows) for batch in batches] == [4, 4, 2] * 2
    epochs = [np.concatenate([b.rows for b in batches[i : i + 3]]) for i in (0, 3)]
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), rows)
    assert epochs[0].tolist() != epochs[1].tolist()
    for batch in batches:
        np.testing.assert_array_equal(batch.items[:, 0, 0, 0], batch.rows)
    again = list(stream(images, rows, batch_size=4, shuffle=True, seed=5, epochs=2))
    other = list(stream(images, rows, batch_size=4, shuffle=True, seed=6, epochs=2))
    assert [b.rows.tolist() for b in again] == [b.rows.tolist() for b in batches]
    assert [b.rows.tolist() for b in other] != [b.rows.tolist() for b in batches]


def test_stream_in_order_from_an_array():
    items = np.arange(10, dtype=np.float32).reshape(5, 2)
    batches = list(stream(items, np.arange(5), batch_size=2, drop_remainder=True))
    assert [batch.rows.tolist() for batch in batches] == [[0, 1], [2, 3]]
    np.testing.assert_array_equal(batches[1].items, items[2:4])


@pytest.mark.parametrize("stop", [0, 1, 5, 8])
def test_stream_resumes_exactly(images, stop):
    def make():
        return stream(images, np.arange(11), batch_size=3, shuffle=True, seed=1, epochs=None)

    unbroken = make()
    expected = [next(unbroken).rows.tolist() for _ in range(12)]
    first = make()
    head = [next(first).rows.tolist() for _ in range(stop)]
    state = json.loads(json.dumps(first.get_state()))
    second = make()
    second.set_state(state)
    assert head + [next(second).rows.tolist() for _ in range(12 - stop)] == expected


def test_stream_stops_at_a_broken_image_or_goes_on(images, tmp_path):
    (tmp_path / "2.png").write_bytes(b"gone bad")
    with pytest.raises(Undecodable, match=r"2\.png: not an image"):
        list(stream(images, np.arange(11), batch_size=4))
    batches = list(stream(images, np.arange(11), batch_size=4, skip_undecodable=True))
    assert [batch.rows.tolist() for batch in batches] == [[0, 1, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [[row for row, _ in batch.failed] for batch in batches] == [[2], [], []]
    np.testing.assert_array_equal(batches[0].items[:, 0, 0, 0], [0, 1, 3])


def test_stream_refuses_what_makes_no_batch(images):
    with pytest.raises(ValueError, match="batch_size"):
        stream(images, np.arange(3), batch_size=0)
    with pytest.raises(ValueError, match="nothing to stream"):
        stream(images, np.array([], int), batch_size=1)
    with pytest.raises(ValueError, match="more than the 3 rows"):
        stream(images, np.arange(3), batch_size=4, drop_remainder=True)
    with pytest.raises(ValueError, match="channels"):
        Images(["a.png"], size=4, channels=4)
