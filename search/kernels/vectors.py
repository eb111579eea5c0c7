"""LLVM operations on vectors of bytes that the Hamming kernels are made of.

The vectors are explicit LLVM types such as `<64 x i8>`: LLVM lowers that to one AVX-512 register,
two AVX2 or four NEON registers. Every intrinsic has a twin in Python, for where numba is told not
to compile.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from search.kernels.shared import PLAIN, data_of
from search.threads import Lock

LANES = 64  # codes in a vector
LOOK_UP = {
    16: "llvm.x86.ssse3.pshuf.b.128",
    32: "llvm.x86.avx2.pshuf.b",
    64: "llvm.x86.avx512.pshuf.b.512",
}


def call(builder: Any, name: str, kind: Any, *arguments: Any) -> Any:
    """A call of the LLVM intrinsic `name` on vectors of one kind."""
    suffix = f".v{kind.count}i{kind.element.width}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(arguments)), name + suffix
    )
    return builder.call(function, arguments)


def splat(builder: Any, pointer: Any, index: Any, kind: Any) -> Any:
    """The 64-bit word at `index`, repeated to fill a vector of `kind`.

    Words that already repeat a byte (or two) are loaded by a plain broadcast, which is free.
    """
    word = ir.IntType(64)
    address = builder.gep(pointer, [index], source_etype=word)
    words = ir.VectorType(word, kind.count * kind.element.width // 64)
    one = builder.insert_element(
        ir.Constant(words, ir.Undefined),
        builder.load(address, typ=word),
        ir.Constant(ir.IntType(32), 0),
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), words.count), [0] * words.count)
    return builder.bitcast(
        builder.shuffle_vector(one, ir.Constant(words, ir.Undefined), zeros), kind
    )


def _shuffle(builder: Any, one: Any, other: Any, places: Any) -> Any:
    """The entries of two vectors at some places, those of the second after those of the first."""
    places = list(places)
    numbers = ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places)
    return builder.shuffle_vector(one, other or ir.Constant(one.type, ir.Undefined), numbers)


def look_up(builder: Any, table: Any, places: Any, size: int) -> Any:
    """The entries of a table of 16 bytes at many places, by registers of `size` bytes."""
    kind = ir.VectorType(ir.IntType(8), size)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind, kind]), LOOK_UP[size]
    )
    table = _shuffle(builder, table, None, [*range(16)] * (size // 16))
    parts = [
        builder.call(function, [table, _shuffle(builder, places, None, range(start, start + size))])
        for start in range(0, places.type.count, size)
    ]
    while len(parts) > 1:
        both = range(2 * parts[0].type.count)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [_shuffle(builder, one, other, both) for one, other in pairs]
    return parts[0]


@intrinsic
def _lowest_compiled(typingctx: Any, mask: Any) -> Any:
    """LLVM for `lowest`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


def _lowest_python(mask: int) -> int:
    """The position of the lowest bit set in a mask that is not zero."""
    mask = int(mask)
    return (mask & -mask).bit_length() - 1


@intrinsic
def _claim_compiled(typingctx: Any, progress: Any, index: Any, amount: Any) -> Any:
    """LLVM for `claim`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = data_of(context, builder, signature.args[0], arguments[0])
        place = builder.gep(data, [arguments[1]], source_etype=ir.IntType(64))
        return builder.atomic_rmw("add", place, arguments[2], "seq_cst")

    return types.int64(progress, types.int64, types.int64), generate


_claiming = Lock()


def _claim_python(progress: Any, index: int, amount: int) -> int:
    """Add `amount` to a number that threads share; returns what it was before."""
    with _claiming.held():
        before = int(progress[index])
        progress[index] += amount
        return before


@intrinsic
def _mask_compiled(typingctx: Any, sums: Any, index: Any, limit: Any) -> Any:
    """LLVM for `mask_of`."""
    wide = sums.dtype == types.uint16

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums = data_of(context, builder, signature.args[0], arguments[0])
        width = 2 if wide else 1
        total = ir.VectorType(ir.IntType(8 * width), LANES)
        offset = builder.mul(arguments[1], ir.Constant(ir.IntType(64), LANES * width))
        address = builder.gep(sums, [offset], source_etype=ir.IntType(8))
        place = cgutils.alloca_once_value(builder, arguments[2])
        bound = splat(builder, place, ir.Constant(ir.IntType(64), 0), total)
        near = builder.icmp_unsigned("<=", builder.load(address, align=1, typ=total), bound)
        return builder.bitcast(near, ir.IntType(64))

    return types.uint64(sums, types.int64, types.uint64), generate


def _mask_python(sums: Any, index: int, limit: Any) -> Any:
    """A bit for each of the 64 sums at `index` that is within a limit, repeated to fill a word."""
    bound = int(limit) & np.iinfo(sums.dtype).max
    near = sums[index * LANES : (index + 1) * LANES] <= bound
    return np.packbits(near, bitorder="little").view(np.uint64)[0]


# All of them are plain Python when numba is told not to compile.
lowest: Any = _lowest_python if PLAIN else _lowest_compiled
claim: Any = _claim_python if PLAIN else _claim_compiled
mask_of: Any = _mask_python if PLAIN else _mask_compiled
