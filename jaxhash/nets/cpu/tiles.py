"""Winograd's transforms of tiles as compiled vectors, for XLA to call on CPU.

The entries of a tile are read where they are, transformed along one side and then the other, and
put where they belong, for 16 channels at a time. They lie in planes (p, rows, across, c), of which
each holds one entry of every tile, or are the pixels of images (n, h, w, c), of which those beyond
the borders are zeros.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from jaxhash.nets.cpu import foreign
from jaxhash.nets.cpu.foreign import (
    array_of,
    claim,
    finish,
    handled,
    inlined,
    intrinsic,
    let_go,
    load,
    size_of,
    symbol,
)
from jaxhash.nets.cpu.winograd import IMAGE, KERNEL, OUTPUT, TILE
from search.kernels.compiling import compiled

LANES = 16  # channels of a vector: one register of 64 bytes, two of 32


class Transform(NamedTuple):
    """What is made of tiles.

    matrix: (q, p), applied along both sides. reads, writes: whether these are images, not planes.
    edge: pixels that windows on images reach beyond their tile, on each side; where windows that
    are written overlap, they are added.
    """

    matrix: np.ndarray
    reads: bool = False
    writes: bool = False
    edge: int = 0


# A transform's number is its place.
TRANSFORMS = {
    "images": Transform(IMAGE, reads=True, edge=1),
    "image_gradient": Transform(IMAGE.T, writes=True, edge=1),
    "output": Transform(OUTPUT, writes=True),
    "slope": Transform(OUTPUT.T, reads=True),
    "output_tiles": Transform(OUTPUT),
    "slope_tiles": Transform(OUTPUT.T),
    "kernel": Transform(KERNEL),
    "kernel_gradient": Transform(KERNEL.T),
}


def form_of(name: str) -> Any:
    """A transform for compiled functions: tuples whose lengths, known to the compiler, say all.

    They are its number, and whether it reads, whether it writes images, and its edge.
    """
    one = TRANSFORMS[name]
    numbers = [*TRANSFORMS].index(name), one.reads, one.writes, one.edge
    return tuple((0,) * int(number) for number in numbers)


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


def _from(builder: Any, first: Any) -> Any:
    """Of each lane, whether it is the first one or after it."""
    kind, short = ir.VectorType(ir.IntType(64), LANES), ir.IntType(32)
    undefined = ir.Constant(kind, ir.Undefined)
    one = builder.insert_element(undefined, first, ir.Constant(short, 0))
    all_lanes = ir.Constant(ir.VectorType(short, LANES), [0] * LANES)
    repeated = builder.shuffle_vector(one, undefined, all_lanes)
    return builder.icmp_signed(">=", ir.Constant(kind, [*range(LANES)]), repeated)


@intrinsic
def transform(
    typingctx: Any, source: Any, target: Any, plane: Any, height: Any, width: Any,
    channels: Any, top: Any, left: Any, start: Any, spare: Any, form: Any,
) -> Any:  # fmt: skip
    """LLVM for one tile and 16 channels, from `start` on or, where so many are not left, the last.

    `source` and `target` are addresses: in planes, of the tile's first entry; of an image, its
    first pixel. `plane`: bytes from one plane to the next. An image has `height` x `width` pixels,
    and the window begins at row `top` and column `left`, which may lie outside. `spare`: the
    address of a vector of zeros, that stands for pixels outside; they are written there, too.
    """
    number_of, _, _, edge = map(len, form)
    matrix, reads, writes, _ = [*TRANSFORMS.values()][number_of]
    words = source, target, plane, height, width, channels, top, left, start, spare

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source, target, plane, height, width, channels, top, left, start, spare, _ = arguments
        word = ir.IntType(64)
        vector = ir.VectorType(ir.FloatType(), LANES)

        def number(value: int) -> Any:
            return ir.Constant(word, value)

        def within(first: Any, count: int, size: Any) -> list[tuple[Any, Any]]:
            """The places from the first on, and whether each is one of `size`."""
            places = [builder.add(first, number(i)) for i in range(count)]
            return [(place, builder.icmp_unsigned("<", place, size)) for place in places]

        def addresses(base: Any, side: int, image: bool) -> list[Any]:
            """The pointers to side x side entries."""
            base = builder.add(base, builder.mul(start, number(4)))
            if not image:
                found = [
                    builder.add(base, builder.mul(plane, number(i))) for i in range(side * side)
                ]
            else:
                pixel = builder.mul(channels, number(4))
                row = builder.mul(pixel, width)
                found = []
                for y, below in within(top, side, height):
                    line = builder.add(base, builder.mul(y, row))
                    for x, right in within(left, side, width):
                        there = builder.add(line, builder.mul(x, pixel))
                        inside = builder.and_(below, right)
                        found.append(builder.select(inside, there, spare))
            return [builder.inttoptr(address, ir.PointerType()) for address in found]

        # At the end, channels that the vector before had are taken again, but not added again.
        ends = builder.sub(channels, number(LANES))
        again = builder.sub(start, ends)
        start = builder.select(builder.icmp_signed("<", start, ends), start, ends)
        q, p = matrix.shape
        seen = addresses(source, p, reads)
        halves = []
        for column in range(p):
            entries = [builder.load(seen[i * p + column], typ=vector, align=4) for i in range(p)]
            halves.append([_weighted(builder, weights, entries) for weights in matrix])
        new, nothing = _from(builder, again), ir.Constant(vector, [0.0] * LANES)
        found = addresses(target, q, writes)
        for row in range(q):
            entries = [half[row] for half in halves]
            for column, weights in enumerate(matrix):
                place, value = found[row * q + column], _weighted(builder, weights, entries)
                if writes and edge:
                    value = builder.select(new, value, nothing)
                    value = builder.fadd(value, builder.load(place, typ=vector, align=4))
                builder.store(value, place, align=4)
        return context.get_dummy_value()

    return types.void(*words, form), generate


@intrinsic
def clear(typingctx: Any, address: Any, size: Any) -> Any:
    """LLVM for zeros at an address, for `size` bytes."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address, size = arguments
        cgutils.memset(builder, builder.inttoptr(address, ir.PointerType()), size, 0)
        return context.get_dummy_value()

    return types.void(address, size), generate


@inlined
def work(task, form):  # type: ignore[no-untyped-def]
    """Take pieces of a task, which are rows of tiles, until none is left, and let it go."""
    reads, writes, edge = len(form[1]) == 1, len(form[2]) == 1, len(form[3])
    adds = writes and edge > 0
    source, target = array_of(task, 0), array_of(task, 1)
    image, planes = (source, target) if reads else (target, source)
    rows, across, channels = size_of(planes, 1), size_of(planes, 2), size_of(planes, 3)
    height, width = size_of(image, 1), size_of(image, 2)
    size, plane = 4 * height * width * channels, 4 * rows * across * channels
    down = rows // max(size_of(image, 0), 1) if reads or writes else 1
    together = down if adds else 1  # rows that write to the same pixels
    spare = np.zeros(LANES, np.float32)
    while True:
        first, last = claim(task, rows // together)
        if first < 0:
            break
        for row in range(first * together, last * together):
            at, top = row // down, row % down * TILE - edge
            if adds and row % down == 0:
                clear(load(target) + at * size, size)
            for tile in range(across):
                place = 4 * (row * across + tile) * channels
                for start in range(0, channels, LANES):
                    transform(
                        load(source) + (at * size if reads else place),
                        load(target) + (at * size if writes else place),
                        plane, height, width, channels, top, tile * TILE - edge, start,
                        spare.ctypes.data, form,
                    )  # fmt: skip
        finish(task)
    let_go(task)
    return 0


(
    IMAGES, IMAGE_GRADIENT, OUTPUTS, SLOPE, OUTPUT_TILES, SLOPE_TILES, KERNELS, KERNEL_GRADIENT
) = map(form_of, TRANSFORMS)  # fmt: skip


@compiled
def images(task):  # type: ignore[no-untyped-def]
    """Images -> planes of windows of 6 x 6 pixels, transformed."""
    return work(task, IMAGES)


@compiled
def image_gradient(task):  # type: ignore[no-untyped-def]
    """The adjoint of `images`."""
    return work(task, IMAGE_GRADIENT)


@compiled
def output(task):  # type: ignore[no-untyped-def]
    """Planes of products -> images."""
    return work(task, OUTPUTS)


@compiled
def slope(task):  # type: ignore[no-untyped-def]
    """The adjoint of `output`."""
    return work(task, SLOPE)


@compiled
def output_tiles(task):  # type: ignore[no-untyped-def]
    """Planes of products -> planes of the output's tiles of 4 x 4 pixels."""
    return work(task, OUTPUT_TILES)


@compiled
def slope_tiles(task):  # type: ignore[no-untyped-def]
    """The adjoint of `output_tiles`."""
    return work(task, SLOPE_TILES)


@compiled
def kernel(task):  # type: ignore[no-untyped-def]
    """Planes of a kernel's entries -> planes of its transform."""
    return work(task, KERNELS)


@compiled
def kernel_gradient(task):  # type: ignore[no-untyped-def]
    """The adjoint of `kernel`."""
    return work(task, KERNEL_GRADIENT)


@compiled
def handle(frame):  # type: ignore[no-untyped-def]
    """What XLA calls."""
    return handled(frame, symbol("jaxhash_tiles"))


def available() -> bool:
    """Whether XLA can call the transforms here."""
    kernels = (
        images, image_gradient, output, slope, output_tiles, slope_tiles, kernel, kernel_gradient,
    )  # fmt: skip
    return foreign.offered("jaxhash_tiles", handle, kernels)


def know(array: jax.Array) -> bool:
    """Whether `transformed` can take an array (..., c)."""
    return foreign.usable(array) and array.shape[-1] >= LANES and available()


def transformed(name: str, entries: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """What a transform makes of tiles, on CPU.

    Args:
        name: which, of `TRANSFORMS`.
        entries: what it reads, float32: planes (p^2, rows, across, c), or images (n, h, w, c). Of
            images, rows are n times as many as tiles of 4 x 4 pixels are needed from top to bottom.
        shape: of what it writes, as above.

    Returns:
        float32, of that shape.
    """
    number = np.int64([*TRANSFORMS].index(name))
    result = jax.ShapeDtypeStruct(shape, entries.dtype)
    return jax.ffi.ffi_call("jaxhash_tiles", result)(entries, number=number)
