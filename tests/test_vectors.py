"""The comparison of a tile of queries and codes, in each of the forms that processors get."""

import naive
import numba
import numpy as np
import pytest

from search.kernels import tile, vectors, words
from search.kernels.registers import Registers, registers
from search.kernels.shared import BLOCK, PLAIN
from search.kernels.words import query_words

FORMS = [
    *(Registers(size, 32 if size == 64 else 16, True) for size in (16, 32, 64)),
    Registers(16, 16, False),
    Registers(64, 32, False),
]


def can(form: Registers) -> bool:
    """Whether this processor has the instructions of a form."""
    own = registers()
    table = own.by_table or own.size == 64  # what counts bytes by itself there looks them up too
    return not form.by_table or (table and form.size <= own.size)


@pytest.mark.skipif(PLAIN, reason="numba does not compile")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form.size}-{form.by_table}")
def test_a_tile_in_every_form(form: Registers, monkeypatch, rng: np.random.Generator) -> None:
    if not can(form):
        pytest.skip("this processor has no such instructions")
    monkeypatch.setattr(tile, "registers", lambda: form)
    # Not `compiled`: what is kept on disk is for the form that the processor has.
    compare = numba.njit(lambda *arguments: tile.tile(*arguments))
    for queries, width, kind in ((4, 6, np.uint8), (1, 32, np.uint8), (4, 40, np.uint16)):
        check_a_tile(compare, form, queries, queries, width, kind, rng)
    for queries, awake, width, kind in (
        (8, 8, 8, np.uint8),  # bytes that are no multiple of three, and one
        (8, 4, 31, np.uint8),
        (8, 5, 3, np.uint8),
        (8, 7, 64, np.uint16),
        (8, 3, 33, np.uint16),
    ):
        if form.by_table:
            check_a_tile(compare, form, queries, awake, width, kind, rng)


def check_a_tile(
    compare, form: Registers, queries: int, awake: int, width: int, kind: type, rng
) -> None:
    """Compare a tile of queries, of which the first `awake` have limits, with a block of codes."""
    codes = rng.integers(0, 256, (BLOCK, width), np.uint8)
    asked = rng.integers(0, 256, (queries, width), np.uint8)
    asked[0] = codes[7] ^ np.uint8(1)
    asked[1:2] = ~codes[200]  # the largest distance that there is
    distances = naive.hamming_distances(asked, codes)
    few = np.sort(distances, axis=1)[:, 5]
    few[2:3] = 0  # nothing is within it
    repeated = 0x0101010101010101 if kind == np.uint8 else 0x0001000100010001
    for bounds in (few, np.full(queries, 8 * width - 2)):  # or everything is
        enough = int(rng.integers(1, width + 1))  # bytes before the look at whether to go on
        limits = (bounds + 1).astype(np.uint64) * np.uint64(repeated)
        limits[awake:] = 0
        sums = np.zeros(queries * BLOCK, kind)
        which = compare(
            codes.T.reshape(-1).copy(), 0, width, enough,
            query_words(asked, queries, form.by_table), 0, limits, 0,
            (0,) * (8 * queries + 4), sums,
        )  # fmt: skip
        went_on, which = divmod(int(which), 1 << tile.WENT_ON)
        expected = (distances + 1).astype(kind).reshape(queries, 4, vectors.LANES)
        near = expected <= (bounds + 1)[:, None, None]
        hit = near.any(axis=2).T
        found = np.array([int(which) >> bit & 1 for bit in range(4 * queries)], bool)
        found = found.reshape(4, queries)
        np.testing.assert_array_equal(found[:, :awake], hit[:, :awake])
        looked = enough < width and kind == np.uint8
        assert bool(hit[:, :awake].any() and looked) <= went_on <= looked
        own = sums.reshape(4, queries, vectors.LANES).transpose(1, 0, 2)
        written = np.broadcast_to(hit.T[:, :, None], near.shape).copy()
        written[awake:] = False
        np.testing.assert_array_equal(own[near & written], expected[near & written])
        beyond = np.broadcast_to((bounds + 1)[:, None, None], near.shape)[~near & written]
        assert (own[~near & written] > beyond).all()  # less than the sum if it was left early
        if not looked:
            np.testing.assert_array_equal(own[written], expected[written])


def in_a_kernel(function):
    """One of the functions that only kernels can call, for a test to call."""
    return function if PLAIN else numba.njit(lambda *arguments: function(*arguments))


def test_a_byte_against_every_byte(monkeypatch) -> None:
    asked = np.arange(256, dtype=np.uint8)
    for form in (Registers(64, 32, False), Registers(64, 32, not PLAIN)):
        monkeypatch.setattr(words, "registers", lambda form=form: form)
        distance = in_a_kernel(words.byte_distance)
        for abreast in (1, 4, 8):
            own = query_words(asked[:, None], abreast, form.by_table)
            for value in (0, 1, 0x0F, 0xF0, 0xA5, 255):
                found = [distance(own, entry, np.uint64(value), abreast) for entry in range(256)]
                np.testing.assert_array_equal(found, np.bitwise_count(asked ^ np.uint8(value)))


def test_the_lowest_bit_of_a_mask() -> None:
    lowest = in_a_kernel(vectors.lowest)
    for bit in range(64):
        for mask in (1 << bit, 2**64 - (1 << bit)):
            assert lowest(np.uint64(mask)) == bit


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_mask_of_the_sums_within_a_limit(kind, rng) -> None:
    mask_of = in_a_kernel(vectors.mask_of)
    sums = rng.integers(0, 4, 3 * vectors.LANES).astype(kind)
    sums[[0, 63, 64, 127, 128]] = np.iinfo(kind).max
    ones = (2**64 - 1) // int(np.iinfo(kind).max)  # 1 in all the places of a word
    for index in range(3):
        own = sums[index * vectors.LANES : (index + 1) * vectors.LANES]
        for limit in (0, 1, 2, int(np.iinfo(kind).max)):
            expected = np.packbits(own <= limit, bitorder="little").view(np.uint64)[0]
            assert mask_of(sums, index, np.uint64(limit * ones)) == expected


def test_a_claim_adds_and_tells_what_was_there() -> None:
    claim = in_a_kernel(vectors.claim)
    progress = np.array([10, 20, 30])
    assert [claim(progress, 1, amount) for amount in (5, 0, 7)] == [20, 25, 25]
    assert progress.tolist() == [10, 32, 30]


@pytest.mark.parametrize("abreast", [1, 4])
@pytest.mark.parametrize("count", [1, 4, 6])
def test_words_repeat_a_byte_or_hold_the_tables_of_its_halves(count, abreast, rng) -> None:
    queries = rng.integers(0, 256, (count, 3), np.uint8)
    queries[0] = 0x0F, 0xF0, 0xA5
    padded = np.zeros((-(-count // abreast) * abreast, 3), np.uint8)
    padded[:count] = queries
    in_order = padded.reshape(-1, abreast, 3).transpose(0, 2, 1).ravel()
    plain = query_words(queries, abreast, False)
    assert plain.tolist() == [int(byte) * 0x0101010101010101 for byte in in_order]
    held = np.tile(np.arange(len(padded)).reshape(-1, 1, abreast), (1, 3, 1)).ravel() < count
    halves = np.stack([in_order & 15, in_order >> 4], axis=1)
    expected = np.bitwise_count(halves[:, :, None] ^ np.arange(16, dtype=np.uint8))
    expected[~held] = 0
    if abreast > 1:  # of two queries in one
        expected = expected[::2] | expected[1::2] << 4
    tables = query_words(queries, abreast, True).view(np.uint8).reshape(-1, 2, 16)
    np.testing.assert_array_equal(tables, expected)
