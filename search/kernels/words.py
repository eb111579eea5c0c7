"""What the scan reads of a query: a word for each byte, or the tables of its two half bytes.

No kernel checks its arguments.
"""

import numpy as np

from search.kernels.compiling import compiled

_REPEATED = np.uint64(0x0101010101010101)  # times a byte: that byte in all eight places
_LOW = np.uint64(0x0706050403020100)  # the first eight half bytes, and the other eight
_HIGH = np.uint64(0x0F0E0D0C0B0A0908)
_ONES, _TWOS = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)


@compiled
def query_words(queries, abreast, by_table):  # type: ignore[no-untyped-def]
    """What `tile` reads of queries uint8 (q, width), of which `abreast` are compared at a time.

    Returns uint64, for entry (tile * width + byte) * abreast + place: a word that repeats the
    byte; or `by_table` four, the number of bits in which its lower, then its upper half differs
    from each of the 16 half bytes. Places after the last query hold zeros.
    """
    count, width = queries.shape
    each = 4 if by_table else 1
    words = np.zeros((count + abreast - 1) // abreast * abreast * width * each, np.uint64)
    for query in range(count):
        for plane in range(width):
            at = (query // abreast * width + plane) * abreast + query % abreast
            byte = np.uint64(queries[query, plane])
            if not by_table:
                words[at] = byte * _REPEATED
                continue
            low, high = (byte & np.uint64(15)) * _REPEATED, (byte >> np.uint64(4)) * _REPEATED
            words[4 * at] = _bits(low ^ _LOW)
            words[4 * at + 1] = _bits(low ^ _HIGH)
            words[4 * at + 2] = _bits(high ^ _LOW)
            words[4 * at + 3] = _bits(high ^ _HIGH)
    return words


@compiled
def _bits(halves):  # type: ignore[no-untyped-def]
    """The number of bits set in each of eight bytes below 16."""
    pairs = halves - ((halves >> np.uint64(1)) & _ONES)
    return (pairs & _TWOS) + ((pairs >> np.uint64(2)) & _TWOS)
