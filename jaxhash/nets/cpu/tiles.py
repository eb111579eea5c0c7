"""Winograd's transforms of tiles as compiled vectors, for XLA to call on CPU.

The entries of a tile are read where they are, transformed along one side and then the other, and
put where they belong, for 16 channels at a time. They lie in planes (p, rows, across, c), of which
each holds one entry of every tile, or are the pixels of images (n, h, w, c), of which those beyond
the borders are zeros.
"""

import functools
import logging
from typing import Any, NamedTuple

import jax
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from jaxhash.nets.cpu import foreign
from jaxhash.nets.cpu.foreign import (
    ARRAY,
    ARRAYS,
    HOLDERS,
    NUMBER,
    PIECES,
    add_to,
    answered,
    await_others,
    call,
    claim,
    divide,
    finish,
    let_go,
    load,
    symbol,
    task_of,
)
from jaxhash.nets.cpu.winograd import IMAGE, KERNEL, OUTPUT, TILE
from search.kernels.compiling import compiled
from search.kernels.shared import PLAIN

NAME = "jaxhash_tiles"
LANES = 16  # channels of a vector: one register of 64 bytes, two of 32
PIECE = 30_000  # numbers that are worth another thread

_log = logging.getLogger("jaxhash")
_inlined = numba.njit(inline="always")


class Transform(NamedTuple):
    """What is made of tiles.

    matrix: (q, p), applied along both sides. reads, writes: whether these are images, not planes.
    edge: pixels that windows on images reach beyond their tile, on each side.
    """

    matrix: np.ndarray
    reads: bool = False
    writes: bool = False
    edge: int = 0


# The number of a transform is its place here.
TRANSFORMS = {
    "windows": Transform(IMAGE, reads=True, edge=1),
    "output": Transform(OUTPUT, writes=True),
    "slopes": Transform(OUTPUT.T, reads=True),
    "gradient": Transform(IMAGE.T, writes=True, edge=1),  # where windows overlap they are added
    "full": Transform(OUTPUT),
    "spread": Transform(OUTPUT.T),
    "kernel": Transform(KERNEL),
    "kernel_gradient": Transform(KERNEL.T),
}


def _weighted(builder: Any, weights: np.ndarray, values: list[Any]) -> Any:
    """The weighted sum of vectors; products and sums as one instruction where there is such."""
    total = None
    for weight, value in zip(weights, values, strict=True):
        if weight == 0:
            continue
        if weight != 1 and not (weight == -1 and total):
            factor = ir.Constant(value.type, [float(weight)] * LANES)
            value = builder.fmul(value, factor, flags=["contract"])
        join = builder.fsub if weight == -1 and total else builder.fadd
        total = join(total, value, flags=["contract"]) if total else value
    return total


def cgutils_splat(builder, value, kind):
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), kind.count), [0] * kind.count)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), zeros)


@intrinsic
def transform(
    typingctx: Any, source: Any, target: Any, plane: Any, height: Any, width: Any,
    channels: Any, top: Any, left: Any, start: Any, spare: Any, which: Any,
) -> Any:  # fmt: skip
    """LLVM for one tile and 16 channels, from `start` on or, where so many are not left, the last.

    `source` and `target` are addresses: in planes, of the tile's first entry; of an image, its
    first pixel. `plane`: bytes from one plane to the next. An image has `height` x `width` pixels, and the window begins at row `top` and column `left`, which may lie
    outside. `spare`: the address of a vector that is zeros and stays so, and of one that is
    overwritten. The length of `which` is the number of the transform.
    """
    matrix, reads, writes, edge = [*TRANSFORMS.values()][len(which)]
    words = (source, target, plane, height, width, channels, top, left, start, spare)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target, plane, height, width, channels, top, left, start, spare, _ = (
            arguments
        )
        word = ir.IntType(64)
        vector = ir.VectorType(ir.FloatType(), LANES)

        def number(value: int) -> Any:
            return ir.Constant(word, value)

        def within(first: Any, count: int, size: Any) -> list[tuple[Any, Any]]:
            """The places from the first on, and whether each is one of `size`."""
            places = [builder.add(first, number(i)) for i in range(count)]
            return [(place, builder.icmp_unsigned("<", place, size)) for place in places]

        def addresses(base: Any, side: int, image: bool, step: Any, outside: int) -> list[Any]:
            """The pointers to side x side entries."""
            base = builder.add(base, builder.mul(start, number(4)))
            if not image:
                found = [
                    builder.add(base, builder.mul(step, number(i))) for i in range(side * side)
                ]
            else:
                pixel = builder.mul(channels, number(4))
                row = builder.mul(pixel, width)
                found = []
                for y, below in within(top, side, height):
                    line = builder.add(base, builder.mul(y, row))
                    for x, right in within(left, side, width):
                        there = builder.add(line, builder.mul(x, pixel))
                        beyond = builder.add(spare, number(outside))
                        found.append(builder.select(builder.and_(below, right), there, beyond))
            return [builder.inttoptr(address, ir.PointerType()) for address in found]

        # At the end, channels that the vector before had are taken again, but not added again.
        ends = builder.sub(channels, number(LANES))
        again = builder.sub(start, ends)
        start = builder.select(builder.icmp_signed("<", start, ends), start, ends)
        q, p = matrix.shape
        seen = addresses(source, p, reads, plane, 0)
        halves = []
        for column in range(p):
            entries = [builder.load(seen[i * p + column], typ=vector, align=4) for i in range(p)]
            halves.append([_weighted(builder, weights, entries) for weights in matrix])
        lanes = ir.VectorType(word, LANES)
        nothing = ir.Constant(vector, [0.0] * LANES)
        new = builder.icmp_signed(
            "<=", cgutils_splat(builder, again, lanes), ir.Constant(lanes, [*range(LANES)])
        )
        found = addresses(target, q, writes, plane, 4 * LANES)
        for row in range(q):
            entries = [half[row] for half in halves]
            for column, weights in enumerate(matrix):
                place, value = found[row * q + column], _weighted(builder, weights, entries)
                if writes and edge:
                    value = builder.select(new, value, nothing)
                    value = builder.fadd(value, builder.load(place, typ=vector, align=4))
                builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(*words, which), generate


@intrinsic
def clear(typingctx: Any, address: Any, size: Any) -> Any:
    """Put zeros at an address, for `size` bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        cgutils.memset(builder, builder.inttoptr(arguments[0], cgutils.voidptr_t), arguments[1], 0)
        return context.get_dummy_value()

    return types.void(address, size), generate


@_inlined
def work(task, reads, writes, edge, which):  # type: ignore[no-untyped-def]
    """Take pieces of a task until none is left, and let it go."""
    source, target = task + 8 * ARRAYS, task + 8 * (ARRAYS + ARRAY)
    image, planes = (source, target) if reads else (target, source)
    rows, across, channels = load(planes + 16), load(planes + 24), load(planes + 32)
    height, width = load(image + 16), load(image + 24)
    down = rows // max(load(image + 8), 1) if reads or writes else 1
    together = down if writes and edge else 1  # rows of tiles that write to the same pixels
    pieces, groups = load(task + 8 * PIECES), rows // together
    size = 4 * height * width * channels
    step = 4 * rows * across * channels
    spare = np.zeros(2 * LANES, np.float32)
    while True:
        piece = claim(task)
        if piece >= pieces:
            break
        first, last = groups * piece // pieces, groups * (piece + 1) // pieces
        for row in range(first * together, last * together):
            at, top = row // down, row % down * TILE - edge
            if together > 1 and row % down == 0:
                clear(load(target) + at * size, size)
            for tile in range(across):
                place = 4 * (row * across + tile) * channels
                for start in range(0, channels, LANES):
                    transform(
                        load(source) + (at * size if reads else place),
                        load(target) + (at * size if writes else place),
                        step, height, width, channels, top, tile * TILE - edge,
                        start, spare.ctypes.data, which,
                    )  # fmt: skip
        finish(task)
    let_go(task)
    return 0


WHICH = tuple((0,) * number for number in range(len(TRANSFORMS)))

W0 = (0,) * 0
@compiled
def work_windows(task):  # type: ignore[no-untyped-def]
    return work(task, True, False, 1, W0)

W1 = (0,) * 1
@compiled
def work_output(task):  # type: ignore[no-untyped-def]
    return work(task, False, True, 0, W1)

W2 = (0,) * 2
@compiled
def work_slopes(task):  # type: ignore[no-untyped-def]
    return work(task, True, False, 0, W2)

W3 = (0,) * 3
@compiled
def work_gradient(task):  # type: ignore[no-untyped-def]
    return work(task, False, True, 1, W3)

W4 = (0,) * 4
@compiled
def work_full(task):  # type: ignore[no-untyped-def]
    return work(task, False, False, 0, W4)

W5 = (0,) * 5
@compiled
def work_spread(task):  # type: ignore[no-untyped-def]
    return work(task, False, False, 0, W5)

W6 = (0,) * 6
@compiled
def work_kernel(task):  # type: ignore[no-untyped-def]
    return work(task, False, False, 0, W6)

W7 = (0,) * 7
@compiled
def work_kernel_gradient(task):  # type: ignore[no-untyped-def]
    return work(task, False, False, 0, W7)


@compiled
def handle_tiles(frame):  # type: ignore[no-untyped-def]
    """What XLA calls."""
    if answered(frame):
        return 0
    task = task_of(frame)
    number = load(task + 8 * NUMBER)
    f = symbol("jaxhash_tiles_0")
    if number == 1:
        f = symbol("jaxhash_tiles_1")
    if number == 2:
        f = symbol("jaxhash_tiles_2")
    if number == 3:
        f = symbol("jaxhash_tiles_3")
    if number == 4:
        f = symbol("jaxhash_tiles_4")
    if number == 5:
        f = symbol("jaxhash_tiles_5")
    if number == 6:
        f = symbol("jaxhash_tiles_6")
    if number == 7:
        f = symbol("jaxhash_tiles_7")
    source = task + 8 * ARRAYS
    size = load(source + 8) * load(source + 16) * load(source + 24) * load(source + 32)
    divide(frame, task, size // PIECE, f)
    add_to(task + 8 * HOLDERS, 1)
    call(f, task)
    await_others(task)
    let_go(task)
    return 0


@functools.cache
def available() -> bool:
    if PLAIN:
        return False
    for i, w in enumerate((work_windows, work_output, work_slopes, work_gradient, work_full, work_spread, work_kernel, work_kernel_gradient)):
        foreign.publish(f"jaxhash_tiles_{i}", w)
    foreign.register("jaxhash_tiles", handle_tiles)
    return True


def know(array: jax.Array) -> bool:
    """Whether `transformed` can take an array: there is one device, and enough channels."""
    return (
        array.dtype == np.float32
        and array.shape[-1] >= LANES
        and jax.device_count() == 1
        and available()
    )


def transformed(name: str, entries: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What a transform makes of planes or images."""
    number = [*TRANSFORMS].index(name)
    result = jax.ShapeDtypeStruct(shape, entries.dtype)
    return jax.ffi.ffi_call("jaxhash_tiles", result)(entries, which=np.int64(number))
