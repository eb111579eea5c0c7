"""What several kernels share: the layout of blocks and keys, and a few LLVM operations.

Every intrinsic has a twin in Python, for where numba is told not to compile.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from search.kernels.compiling import compiled

BLOCK = 256  # codes in a block
# Found codes are kept as keys, `distance << 48 | row`: their order is the order of results.
ROW_BITS = 48
ROW_MASK = (1 << ROW_BITS) - 1
MISSING = np.iinfo(np.int64).max  # the key that fills a row of too few results

PLAIN: bool = numba.config.DISABLE_JIT  # type: ignore[attr-defined]


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """The data pointer of an array argument, without the type of what it points to.

    llvmlite's pointers still name that type, and are to lose it; a pointer loaded from a place
    for pointers never had one. LLVM removes the place.
    """
    place = cgutils.alloca_once(builder, ir.PointerType())
    builder.store(context.make_array(kind)(context, builder, array).data, place)
    return builder.load(place, typ=ir.PointerType())


def prefetch(builder: Any, address: Any) -> None:
    """Ask for the cache line at an address; never faults, wherever it points."""
    word = ir.IntType(32)
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [ir.PointerType(), word, word, word]),
        "llvm.prefetch.p0",
    )
    read, keep_close, data = (ir.Constant(word, value) for value in (0, 3, 1))
    builder.call(function, [address, read, keep_close, data])


@intrinsic
def _count_compiled(typingctx: Any, value: Any) -> Any:
    """LLVM for `count`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


def _count_python(value: int) -> int:
    """The number of bits set in a 64-bit word."""
    return int(value).bit_count()


count: Any = _count_python if PLAIN else _count_compiled


@compiled
def to_words(planes, width, block, out):  # type: ignore[no-untyped-def]
    """The 256 codes of a block as rows of 64-bit words (256, ceil(width / 8))."""
    out[:] = 0
    base = block * width * BLOCK
    for plane in range(width):
        shift = np.uint64(56 - 8 * (plane % 8))
        word = plane // 8
        for lane in range(BLOCK):
            out[lane, word] |= np.uint64(planes[base + plane * BLOCK + lane]) << shift
