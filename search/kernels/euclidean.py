"""Distances of listed candidates: features row by row, and real-valued latents against bits.

Arrays in, arrays out, no checks: `search.rerank` validates, sorts and selects.

The speed is memory's: a feature row is read once, widened from float16 to float32 in registers,
and the row a few candidates ahead is prefetched piece by piece, because a gather jumps to another
page before the hardware prefetcher has recognised the stream.
"""

import platform
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

from search.kernels.compiling import compiled, compiled_with
from search.kernels.shared import prefetch

# Elements summed between two rounds of prefetches: long enough to fill the vector registers,
# short enough that the prefetches never crowd out the loads of the row in hand.
PIECE = 256
CACHE_LINE = 64


def _widens_half_in_hardware(context: Any) -> bool:
    """Whether the target turns half into float by an instruction.

    Elsewhere LLVM would call a C routine that numba does not link, which ends the process.
    """
    if platform.machine().lower() in ("aarch64", "arm64"):
        return True
    features = getattr(context.codegen(), "_tm_features", "")
    return "+f16c" in features.split(",")


@intrinsic
def _half_to_float(typingctx, half):  # type: ignore[no-untyped-def]
    """The float32 value of a float16 given as its uint16 bits."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        (half,) = arguments
        if _widens_half_in_hardware(context):
            return builder.fpext(builder.bitcast(half, ir.HalfType()), ir.FloatType())
        # Moving exponent and mantissa into place leaves the exponent short by 127 - 15 = 112; the
        # multiplication corrects it and normalises subnormals. Infinity and NaN would arrive as
        # 65536 and above: both become infinity, which the caller refuses as not finite.
        word, single = ir.IntType(32), ir.FloatType()
        wide = builder.zext(half, word)
        magnitude = builder.shl(
            builder.and_(wide, ir.Constant(word, 0x7FFF)), ir.Constant(word, 13)
        )
        value = builder.fmul(builder.bitcast(magnitude, single), ir.Constant(single, 2.0**112))
        overflow = builder.fcmp_ordered(">=", value, ir.Constant(single, 65536.0))
        value = builder.select(overflow, ir.Constant(single, float("inf")), value)
        sign = builder.shl(builder.and_(wide, ir.Constant(word, 0x8000)), ir.Constant(word, 16))
        return builder.bitcast(builder.or_(builder.bitcast(value, word), sign), single)

    return types.float32(types.uint16), generate


@intrinsic
def _prefetch_element(typingctx, array, row, column):  # type: ignore[no-untyped-def]
    """Ask for the cache line of `array[row, column]`; never faults."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        array_type = signature.args[0]
        holder = context.make_array(array_type)(context, builder, arguments[0])
        pointer = cgutils.get_item_pointer(
            context, builder, array_type, holder, arguments[1:], wraparound=False
        )
        prefetch(builder, pointer)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.intp), generate


def _widen(value: Any) -> Any:
    """`value` as float32; uint16 stands for the bits of a float16."""
    if isinstance(value, np.uint16):
        return np.float32(value.view(np.float16))
    return value


@overload(_widen, inline="always")
def _compiled_widen(value):  # type: ignore[no-untyped-def]
    if value == types.uint16:
        return lambda value: _half_to_float(value)  # type: ignore[call-arg]
    return lambda value: value


def _prefetch(array: np.ndarray, row: int, column: int) -> None:
    """Nothing in plain Python; a prefetch when compiled."""


@overload(_prefetch, inline="always")
def _compiled_prefetch(array, row, column):  # type: ignore[no-untyped-def]
    return lambda array, row, column: _prefetch_element(array, row, column)  # type: ignore[call-arg]


@compiled_with(fastmath={"reassoc", "contract", "nsz"})
def squared_distances(queries, features, rows, per_query, start, stop, out):  # type: ignore[no-untyped-def]
    """Squared Euclidean distances of candidates `start` to `stop`, into `out`.

    Candidate `i` is feature row `rows[i]` for query `i // per_query`; row -1 gives infinity.
    `queries` float32 (q, d); `features` float32 (n, d), or float16 seen as uint16; `rows` int64
    and `out` float32, both flat. Direct differences: |a|^2 + |b|^2 - 2ab loses the small
    distances, which are the ones that matter, to cancellation.
    """
    dimensions = features.shape[1]
    line = CACHE_LINE // features.itemsize
    ahead = 1 + 2048 // max(1, dimensions * features.itemsize)
    for candidate in range(start, stop):
        row = rows[candidate]
        if row < 0:
            out[candidate] = np.inf
            continue
        later = rows[min(candidate + ahead, stop - 1)]
        query = queries[candidate // per_query]
        total = np.float32(0)
        for left in range(0, dimensions, PIECE):
            right = min(left + PIECE, dimensions)
            if later >= 0:
                for column in range(left, right, line):
                    _prefetch(features, later, column)
            # Slices, because an index with an offset keeps LLVM from using vectors here.
            query_piece = query[left:right]
            piece = features[row, left:right]
            for column in range(piece.size):
                difference = query_piece[column] - _widen(piece[column])
                total += difference * difference
        out[candidate] = total


@compiled
def table_sums(tables, codes, rows, per_query, start, stop, out):  # type: ignore[no-untyped-def]
    """Sums of one table entry per code byte for candidates `start` to `stop`, into `out`.

    `tables` float32 (q, bytes, 256); `codes` uint8 (n, bytes); the rest as in
    `squared_distances`.
    """
    width = codes.shape[1]
    for candidate in range(start, stop):
        row = rows[candidate]
        if row < 0:
            out[candidate] = np.inf
            continue
        table = tables[candidate // per_query]
        code = codes[row]
        total = np.float32(0)
        for column in range(width):
            total += table[column, code[column]]
        out[candidate] = total


@compiled
def widen_rows(half, start, stop, out):  # type: ignore[no-untyped-def]
    """Rows `start` to `stop` of float16 seen as uint16 (n, d) as float32, into `out`."""
    for row in range(start, stop):
        source, target = half[row], out[row]
        for column in range(source.size):
            target[column] = _widen(source[column])
