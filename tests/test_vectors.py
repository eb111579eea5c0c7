"""The comparison of a tile of queries and codes, in each of the forms that processors get."""

import naive
import numba
import numpy as np
import pytest

from search.kernels import vectors
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
    monkeypatch.setattr(vectors, "registers", lambda: form)
    # Not `compiled`: what is kept on disk is for the form that the processor has.
    tile = numba.njit(lambda *arguments: vectors.tile(*arguments))
    for queries, width, kind in ((4, 6, np.uint8), (1, 32, np.uint8), (4, 40, np.uint16)):
        codes = rng.integers(0, 256, (BLOCK, width), np.uint8)
        asked = rng.integers(0, 256, (queries, width), np.uint8)
        asked[0] = codes[7] ^ np.uint8(1)
        distances = naive.hamming_distances(asked, codes)
        bounds = np.sort(distances, axis=1)[:, 5]
        bounds[1:2] = 0  # nothing is within it
        repeated = 0x0101010101010101 if kind == np.uint8 else 0x0001000100010001
        masks, sums = np.zeros(queries * 4, np.uint64), np.zeros(queries * BLOCK, kind)
        which = tile(
            codes.T.reshape(-1).copy(), 0, width, query_words(asked, queries, form.by_table), 0,
            (bounds + 1).astype(np.uint64) * np.uint64(repeated), 0, (0,) * (8 * queries + 4),
            masks, sums,
        )  # fmt: skip
        near = (distances <= bounds[:, None]).reshape(queries * 4, vectors.LANES)
        hit = near.any(axis=1)
        assert which == np.packbits(hit, bitorder="little").astype(np.uint64) @ (
            np.uint64(256) ** np.arange(-(-len(hit) // 8), dtype=np.uint64)
        )
        expected = np.packbits(near, axis=1, bitorder="little").view(np.uint64)[:, 0]
        np.testing.assert_array_equal(masks[hit], expected[hit])
        np.testing.assert_array_equal(
            sums.reshape(-1, vectors.LANES)[hit],
            (distances + 1).reshape(-1, vectors.LANES).astype(kind)[hit],
        )


def test_a_byte_against_every_byte(monkeypatch) -> None:
    asked = np.arange(256, dtype=np.uint8)
    for form in (Registers(64, 32, False), Registers(64, 32, not PLAIN)):
        monkeypatch.setattr(vectors, "registers", lambda form=form: form)
        distance = (
            vectors.byte_distance
            if PLAIN
            else numba.njit(lambda *arguments: vectors.byte_distance(*arguments))
        )
        words = query_words(asked[:, None], 1, form.by_table)
        for value in (0, 1, 0x0F, 0xF0, 0xA5, 255):
            found = [distance(words, entry, np.uint64(value)) for entry in range(256)]
            np.testing.assert_array_equal(found, np.bitwise_count(asked ^ np.uint8(value)))


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
    tables = query_words(queries, abreast, True).view(np.uint8).reshape(-1, 2, 16)
    held = np.tile(np.arange(len(padded)).reshape(-1, 1, abreast), (1, 3, 1)).ravel() < count
    halves = np.stack([in_order & 15, in_order >> 4], axis=1)
    expected = np.bitwise_count(halves[:, :, None] ^ np.arange(16, dtype=np.uint8))
    np.testing.assert_array_equal(tables[held], expected[held])
