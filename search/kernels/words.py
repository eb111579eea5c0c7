"""What the scan reads of a query: a word for each byte, or the tables of its two half bytes.

No kernel checks its arguments.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from search.kernels.compiling import compiled
from search.kernels.registers import registers
from search.kernels.shared import PLAIN, data_of

TABLES = 32  # bytes of the two tables of a byte

_REPEATED = np.uint64(0x0101010101010101)  # times a byte: that byte in all eight places
_LOW = np.uint64(0x0706050403020100)  # the first eight half bytes, and the other eight
_HIGH = np.uint64(0x0F0E0D0C0B0A0908)
_ONES, _TWOS = np.uint64(0x5555555555555555), np.uint64(0x3333333333333333)


@compiled
def query_words(queries, abreast, by_table):  # type: ignore[no-untyped-def]
    """What `tile` reads of queries uint8 (q, width), of which `abreast` are compared at a time.

    Returns uint64, for entry (tile * width + byte) * abreast + place: a word that repeats the
    byte; or `by_table` four, the number of bits in which its lower, then its upper half differs
    from each of the 16 half bytes. Of queries abreast an even place and the next have four
    together, the latter's numbers in the upper halves. Places after the last query hold zeros.
    """
    count, width = queries.shape
    paired = np.int64(by_table and abreast > 1)
    each = 4 >> paired if by_table else 1
    words = np.zeros((count + abreast - 1) // abreast * abreast * width * each, np.uint64)
    for query in range(count):
        for plane in range(width):
            at = (query // abreast * width + plane) * abreast + query % abreast
            byte = np.uint64(queries[query, plane])
            if not by_table:
                words[at] = byte * _REPEATED
                continue
            low, high = (byte & np.uint64(15)) * _REPEATED, (byte >> np.uint64(4)) * _REPEATED
            shift = np.uint64(4 * (at & paired))
            at >>= paired
            words[4 * at] |= _bits(low ^ _LOW) << shift
            words[4 * at + 1] |= _bits(low ^ _HIGH) << shift
            words[4 * at + 2] |= _bits(high ^ _LOW) << shift
            words[4 * at + 3] |= _bits(high ^ _HIGH) << shift
    return words


@compiled
def _bits(halves):  # type: ignore[no-untyped-def]
    """The number of bits set in each of eight bytes below 16."""
    pairs = halves - ((halves >> np.uint64(1)) & _ONES)
    return (pairs & _TWOS) + ((pairs >> np.uint64(2)) & _TWOS)


@intrinsic
def _byte_distance_compiled(
    typingctx: Any, words: Any, entry: Any, value: Any, abreast: Any
) -> Any:
    """LLVM for `byte_distance`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words = data_of(context, builder, signature.args[0], arguments[0])
        _, entry, value, abreast = arguments
        long, octet = ir.IntType(64), ir.IntType(8)
        if not registers().by_table:
            place = builder.gep(words, [entry], source_etype=long)
            byte = builder.and_(builder.load(place, typ=long), ir.Constant(long, 255))
            return builder.ctpop(builder.xor(byte, value))
        paired = builder.zext(builder.icmp_signed(">", abreast, ir.Constant(long, 1)), long)
        shift = builder.mul(builder.and_(entry, paired), ir.Constant(long, 4))
        tables = builder.mul(builder.lshr(entry, paired), ir.Constant(long, TABLES))
        low = builder.and_(value, ir.Constant(long, 15))
        high = builder.add(builder.lshr(value, ir.Constant(long, 4)), ir.Constant(long, 16))
        both = [
            builder.zext(
                builder.load(
                    builder.gep(words, [builder.add(tables, half)], source_etype=octet), typ=octet
                ),
                long,
            )
            for half in (low, high)
        ]
        both = [builder.and_(builder.lshr(one, shift), ir.Constant(long, 15)) for one in both]
        return builder.add(*both)

    return types.int64(words, types.int64, types.uint64, types.int64), generate


def _byte_distance_python(words: Any, entry: int, value: Any, abreast: int) -> int:
    """The number of bits in which a byte differs from the query's byte at `entry`."""
    return ((int(words[entry]) & 255) ^ int(value)).bit_count()


byte_distance: Any = _byte_distance_python if PLAIN else _byte_distance_compiled
