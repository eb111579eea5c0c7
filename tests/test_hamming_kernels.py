"""Kernels of the Hamming search by themselves: what no search shows at will."""

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.hamming import scan
from search.hamming.blocks import BLOCK, arrange, restore
from search.kernels import hamming, tables, vectors
from search.kernels.registers import registers
from search.kernels.shared import ROW_BITS


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(0, 4), st.integers(0, 12))
def test_keeping_keeps_the_nearer_and_as_many_at_the_bound_as_there_is_room_for(
    distances, bound, spare
):
    keys = np.array([d << ROW_BITS | row for row, d in enumerate(distances)], np.int64)
    at_bound = [key for key, d in zip(keys.tolist(), distances, strict=True) if d == bound]
    expected = [
        key
        for key, d in zip(keys.tolist(), distances, strict=True)
        if d < bound or key in at_bound[:spare]
    ]
    kept = hamming._keep(keys, len(keys), bound, spare)
    assert keys[:kept].tolist() == expected


@pytest.mark.parametrize(("done", "finished"), [(0, False), (6, False), (7, True)])
def test_waiting_for_others_ends_and_tells_whether_they_are_done(done, finished):
    progress = np.zeros(hamming.PROGRESS, np.int64)
    progress[hamming.DONE] = done
    assert hamming.await_others(progress, 7) == finished
    assert progress[hamming.DONE] == done


def test_numbers_that_threads_share_lie_apart_and_within_their_array():
    """Compiled code writes wherever it is told."""
    places = sorted([hamming.NEXT, hamming.DONE, hamming.GUESSED, hamming.PROGRESS])
    assert places[0] >= 0
    assert places[-1] == hamming.PROGRESS
    assert min(np.diff(places)) * np.dtype(np.int64).itemsize >= 64


def test_blocks_are_done_when_their_results_are_written(monkeypatch):
    """The others go on to read `out` as soon as all blocks are done."""
    queries, k, blocks = 3, 5, 4
    nothing = np.empty(0, np.uint64)
    out = np.full((queries, k), -1, np.int64)
    progress = np.zeros(hamming.PROGRESS, np.int64)
    done = []

    def claim(progress, place, count):
        if place == hamming.DONE:
            assert (out == np.arange(k)).all(), "not written yet"
            done.append(count)
        before = progress[place]
        progress[place] += count
        return before

    def order(keys, filled, counts, bound, places, out):
        out[:] = np.arange(k + 1)

    monkeypatch.setattr(hamming, "claim", claim)
    monkeypatch.setattr(hamming, "sweep", lambda *_: None)
    monkeypatch.setattr(hamming, "query_words", lambda *_: nothing)
    monkeypatch.setattr(hamming, "limit_of", lambda bound, wide: np.uint64(0))
    monkeypatch.setattr(hamming, "order", order)
    in_python = getattr(hamming.nearest, "py_func", hamming.nearest)
    in_python(
        np.empty(0, np.uint8), blocks * 256, 64, blocks, progress, 3, 0,
        np.zeros((queries, 8), np.uint8), False, (0,) * 12, nothing, k, np.empty(0, np.uint8), out,
    )  # fmt: skip
    assert done == [blocks]
    assert (out == np.arange(k)).all()


def test_bounds_stay_within_the_arrays_that_they_index(monkeypatch):
    """Of two queries the first has a guess that is too low, and the other none."""
    bits, blocks, k = 64, 4, 16
    seen, ordered = [], []

    def sweep(*arguments):
        *_, bounds, limits = arguments
        seen.append((bounds.tolist(), limits[:2].tolist()))
        if len(seen) == 1:
            bounds[0] = 3

    monkeypatch.setattr(hamming, "claim", vectors._claim_python)
    monkeypatch.setattr(hamming, "sweep", sweep)
    monkeypatch.setattr(hamming, "query_words", lambda *_: None)
    monkeypatch.setattr(hamming, "limit_of", lambda bound, wide: np.uint64(bound))
    monkeypatch.setattr(
        hamming, "order", lambda keys, filled, counts, bound, places, out: ordered.append(bound)
    )
    in_python = getattr(hamming.nearest, "py_func", hamming.nearest)
    in_python(
        None, blocks * 256, bits, blocks, np.zeros(hamming.PROGRESS, np.int64), blocks, 1,
        np.zeros((2, 8), np.uint8), False, (0,) * 12, None, k, np.empty(0, np.uint8),
        np.empty((2, k), np.int64),
    )  # fmt: skip
    beyond = bits + 1  # lets all codes pass; counts and places have room for it
    assert seen == [
        ([beyond, beyond], [beyond, beyond]),
        ([4, beyond], [4, beyond]),
        ([beyond, beyond], [beyond, 0]),
    ]
    assert ordered == [beyond, beyond]


@pytest.mark.parametrize("stride", [0, 1])
def test_a_thread_searches_the_blocks_that_it_claims(stride, rng):
    """Others have claimed the first 56; what a guess leaves out is told to all of them."""
    k, blocks = 16, arrange(rng.integers(0, 256, (64 * BLOCK, 8), np.uint8))
    queries = rng.integers(0, 256, (2, 8), np.uint8)
    progress = np.zeros(hamming.PROGRESS, np.int64)
    progress[hamming.NEXT] = 56
    shape, sums = scan.scratch(2, 8)
    out = np.empty((2, k), np.int64)
    hamming.nearest(
        blocks.planes.reshape(-1), blocks.count, 64, 64, progress, 4, stride, queries,
        registers().by_table, shape, np.empty(0, np.uint64), k, sums, out,
    )  # fmt: skip
    distances, rows = naive.hamming_knn(queries, restore(blocks, 56 * BLOCK), k)
    expected = distances.astype(np.int64) << ROW_BITS | (rows + 56 * BLOCK)
    assert (out[out != hamming.MISSING] == expected[out != hamming.MISSING]).all()
    assert (out == hamming.MISSING).any() == bool(stride)
    assert progress[hamming.GUESSED] == stride
    assert progress[hamming.DONE] == 8


def test_a_search_within_a_radius_stops_where_a_stretch_might_not_fit():
    stretch = hamming.STRETCH // (8 * BLOCK)  # blocks
    blocks = arrange(np.zeros((3 * stretch * BLOCK, 8), np.uint8))
    shape, sums = scan.scratch(1, 8)
    keys, owners = np.full(blocks.count, -7), np.empty(blocks.count, np.int32)
    for room, stretches in ((1, 0), (1.9, 1), (2, 2), (3, 3)):
        last = int(room * stretch * BLOCK) - (room == 1)
        filled, block = hamming.within(
            blocks.planes.reshape(-1), blocks.count, 0, 3 * stretch, np.zeros((1, 8), np.uint8),
            registers().by_table, np.array([5]), shape, np.empty(0, np.uint64), sums,
            keys[:last], owners[:last],
        )  # fmt: skip
        assert (filled, block) == (stretches * stretch * BLOCK, stretches * stretch)
        assert keys[:filled].tolist() == list(range(filled))
        assert (keys[filled:] == -7).all()


@pytest.mark.parametrize(
    ("start", "width"),
    [(0, 1), (0, 63), (5, 16), (48, 16), (60, 10), (63, 2), (64, 16), (100, 28), (126, 2)],
)
def test_a_part_of_a_code_is_the_bits_that_it_names(start, width, rng):
    bits = rng.integers(0, 2, 128, np.uint8)
    for own in (bits, 1 - bits):
        words = np.packbits(own).view(">u8").astype(np.uint64)
        wanted = int("".join(map(str, own[start : start + width])), 2)
        assert tables.part(words, start, width) == wanted
