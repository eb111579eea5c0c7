"""The sums of a depthwise convolution as compiled vectors, for XLA to call on CPU.

A tile is some places of a row, for 16 channels. Its sums stay in registers while the rows of the
kernel pass, and what places see in common is loaded once for all of them.
"""

import functools
from typing import Any

import jax
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from jaxhash.nets.cpu import foreign
from jaxhash.nets.cpu.foreign import (
    ARRAY,
    ARRAYS,
    PIECES,
    claim,
    finish,
    handled,
    inlined,
    intrinsic,
    let_go,
    load,
    symbol,
)
from search.kernels.compiling import compiled

LANES = 16  # channels of a vector: one register of 64 bytes, two of 32
TILE = 4  # places of a tile, whose sums and kernel fit into 16 registers of 32 bytes
CLOSE = 20_000  # bytes of a kernel that the nearest cache keeps beside the images


@intrinsic
def tile(
    typingctx: Any, seen: Any, kernel: Any, bias: Any, found: Any, rows: Any, taps: Any,
    row: Any, kernel_row: Any, column: Any, shape: Any,
) -> Any:  # fmt: skip
    """LLVM for the sums of a tile, between 0 and 6.

    The first four are addresses: of the first number that is seen, of the kernel's for it, of the
    bias, and of the place for the first sum. `rows` and `taps` say how much of the kernel is
    taken, `row` and `kernel_row` how far the next row is, `column` how far the next place, all in
    bytes. `shape` is a tuple of tuples, which give numbers by their lengths: places, the kernel's
    side (0: as many as `taps`) and stride.
    """
    places, side, stride = (len(one) for one in shape)
    words = (seen, kernel, bias, found, rows, taps, row, kernel_row, column)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        seen, kernel, bias, found, rows, taps, row, kernel_row, column, _ = arguments
        word = ir.IntType(64)
        vector = ir.VectorType(ir.FloatType(), LANES)

        def at(address: Any, columns: Any) -> Any:
            """The pointer some columns after an address."""
            if isinstance(columns, int):
                columns = ir.Constant(word, columns)
            address = builder.add(address, builder.mul(column, columns))
            return builder.inttoptr(address, ir.PointerType())

        def take(address: Any, columns: Any = 0) -> Any:
            return builder.load(at(address, columns), typ=vector, align=4)

        def add(sum_: Any, one: Any, other: Any) -> None:
            """Add a product; as one instruction where there is such a one."""
            product = builder.fmul(one, other, flags=["contract"])
            before = builder.load(sum_, typ=vector)
            builder.store(builder.fadd(before, product, flags=["contract"]), sum_)

        sums = [cgutils.alloca_once_value(builder, take(bias)) for _ in range(places)]
        nothing, one = ir.Constant(word, 0), ir.Constant(word, 1)
        with cgutils.for_range_slice(builder, nothing, rows, one) as (i, _):
            here = builder.add(seen, builder.mul(i, row))
            weights = builder.add(kernel, builder.mul(i, kernel_row))
            if side:
                known = [take(weights, j) for j in range(side)]
                for at_column in range((places - 1) * stride + side):
                    value = take(here, at_column)
                    for j in range(side):
                        place, rest = divmod(at_column - j, stride)
                        if not rest and 0 <= place < places:
                            add(sums[place], value, known[j])
            else:
                with cgutils.for_range_slice(builder, nothing, taps, one) as (j, _):
                    add(sums[0], take(here, j), take(weights, j))
        for place, sum_ in enumerate(sums):
            value = builder.load(sum_, typ=vector)
            for ordered, bound in (("<", 0.0), (">", 6.0)):  # NaN stays
                limit = ir.Constant(vector, [bound] * LANES)
                beyond = builder.fcmp_ordered(ordered, value, limit)
                value = builder.select(beyond, limit, value)
            builder.store(value, at(found, place), align=4)
        return context.get_dummy_value()

    return types.void(*words, shape), generate


@inlined
def row_of(  # type: ignore[no-untyped-def]
    seen, kernel, bias, found, rows, width, channels, places, left, side, stride, shapes
):
    """A row of the result, from the addresses of what its first place would see and gives.

    `rows` of the kernel are taken. `left`: zeros before the first column. `shapes`: of a tile, and
    of a single place.
    """
    broad, narrow = shapes
    abreast, column = len(broad[0]), 4 * channels
    row, kernel_row = width * column, side * column
    # The places from `first` to `last` see no zeros.
    first = min((left + stride - 1) // stride, places)
    last = max(min((width - side + left) // stride + 1, places), first)
    tiles = last - first >= abreast
    # All channels before the next places, unless the kernel is too large to be at hand by then.
    span = channels if side * kernel_row <= CLOSE else LANES
    for start in range(0, channels if tiles else 0, span):
        for at in range(first, last, abreast):
            at = min(at, last - abreast)  # the last tile finds some again
            here, there = seen + (at * stride - left) * column, found + at * column
            for byte in range(4 * start, 4 * (start + span), 4 * LANES):
                tile(
                    here + byte, kernel + byte, bias + byte, there + byte, rows, side, row,
                    kernel_row, column, broad,
                )  # fmt: skip
    for at in range(places):
        before = max(0, left - at * stride)
        taps = min(side, width + left - at * stride) - before
        here, there = seen + (at * stride - left + before) * column, found + at * column
        weights = kernel + before * column
        if not (tiles and first <= at < last):
            for byte in range(0, 4 * channels, 4 * LANES):
                tile(
                    here + byte, weights + byte, bias + byte, there + byte, rows, taps, row,
                    kernel_row, column, narrow,
                )  # fmt: skip


@inlined
def rows_of(task, first, last, side, stride, shapes):  # type: ignore[no-untyped-def]
    """The rows [first, last) of the result, counted over all images."""
    images, kernel = task + 8 * ARRAYS, task + 8 * (ARRAYS + ARRAY)
    bias, result = task + 8 * (ARRAYS + 2 * ARRAY), task + 8 * (ARRAYS + 3 * ARRAY)
    height, width, channels = load(images + 16), load(images + 24), load(images + 32)
    rows, places = load(result + 16), load(result + 24)
    top = max((rows - 1) * stride + side - height, 0) // 2
    left = max((places - 1) * stride + side - width, 0) // 2
    row = 4 * width * channels
    for at in range(first, last):
        image, y = at // rows, at % rows
        start = y * stride - top
        before = max(0, -start)
        taken = min(side, height - start) - before
        row_of(
            load(images) + (image * height + start + before) * row,
            load(kernel) + before * 4 * side * channels, load(bias),
            load(result) + at * 4 * places * channels,
            taken, width, channels, places, left, side, stride, shapes,
        )  # fmt: skip


def shapes_of(side: int, stride: int) -> Any:
    """The `shape`s of tiles for a kernel."""
    broad, narrow = (TILE, side, stride), (1, 0, 1)
    return tuple(tuple((0,) * number for number in shape) for shape in (broad, narrow))


@inlined
def work(task, side, stride, shapes):  # type: ignore[no-untyped-def]
    """Take pieces of a task, which are rows of the result, until none is left, and let it go."""
    result, pieces = task + 8 * (ARRAYS + 3 * ARRAY), load(task + 8 * PIECES)
    rows = load(result + 8) * load(result + 16)
    while True:
        piece = claim(task)
        if piece >= pieces:
            break
        first, last = rows * piece // pieces, rows * (piece + 1) // pieces
        rows_of(task, first, last, side, stride, shapes)
        finish(task)
    let_go(task)
    return 0


# The kernels that are compiled: side and stride. A kernel's number is its place.
KERNELS = (3, 1), (3, 2), (5, 1), (5, 2)
SHAPES_3_1, SHAPES_3_2, SHAPES_5_1, SHAPES_5_2 = (shapes_of(*kernel) for kernel in KERNELS)


@compiled
def work_3_1(task):  # type: ignore[no-untyped-def]
    """`work` for kernels of 3 x 3."""
    return work(task, 3, 1, SHAPES_3_1)


@compiled
def work_3_2(task):  # type: ignore[no-untyped-def]
    """`work` for kernels of 3 x 3 at every second place."""
    return work(task, 3, 2, SHAPES_3_2)


@compiled
def work_5_1(task):  # type: ignore[no-untyped-def]
    """`work` for kernels of 5 x 5."""
    return work(task, 5, 1, SHAPES_5_1)


@compiled
def work_5_2(task):  # type: ignore[no-untyped-def]
    """`work` for kernels of 5 x 5 at every second place."""
    return work(task, 5, 2, SHAPES_5_2)


@compiled
def handle(frame):  # type: ignore[no-untyped-def]
    """What XLA calls."""
    return handled(frame, symbol("jaxhash_depthwise"))


@functools.cache
def available() -> bool:
    """Whether XLA can call these sums here."""
    kernels = work_3_1, work_3_2, work_5_1, work_5_2
    return foreign.offered("jaxhash_depthwise", handle, kernels)


def knows(images: jax.Array, kernel: jax.Array, stride: int) -> bool:
    """Whether `convolve` can take these."""
    return (
        foreign.usable(images)
        and (len(kernel), stride) in KERNELS
        and images.shape[3] % LANES == 0
        and available()
    )


def convolve(images: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int) -> jax.Array:
    """`depthwise` in float32, on CPU, for one of `KERNELS` and multiples of 16 channels."""
    n, height, width, channels = images.shape
    shape = n, -(-height // stride), -(-width // stride), channels
    number = np.int64(KERNELS.index((len(kernel), stride)))
    result = jax.ShapeDtypeStruct(shape, images.dtype)
    return jax.ffi.ffi_call("jaxhash_depthwise", result)(images, kernel, bias, number=number)
