"""The sums of a depthwise convolution as compiled vectors, for XLA to call on CPU.

A tile is some places of a row. Its sums for 16 channels stay in registers while the rows of the
kernel pass, and what places see in common is loaded once for all of them.
"""

from typing import Any

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
from search.kernels.compiling import compiled
from search.kernels.registers import registers

LANES = 16  # channels of a vector: one register of 64 bytes, two of 32
# Places of a tile: as many as leave registers for a row of the kernel. Networks' sides are
# multiples of 7.
TILE = 7 if registers().size == 4 * LANES else 4
CLOSE = 20_000  # bytes of a kernel that the nearest cache keeps beside the images


@intrinsic
def tile(
    typingctx: Any, seen: Any, kernel: Any, bias: Any, found: Any, rows: Any, width: Any,
    channels: Any, left: Any, place: Any, places: Any, spare: Any, start: Any, stop: Any, form: Any,
) -> Any:  # fmt: skip
    """LLVM for the sums of a tile, between 0 and 6, for the channels from `start` to `stop`.

    The first four are addresses: of row 0 and column 0 of what is seen, of the kernel's row for
    it, of the bias, and of place 0 of the row that is found. `rows` of the kernel are taken.
    `left`: the column that the first place of the tile, `place`, sees first; it and others may lie
    outside of the `width`. Of the tile, what lies beyond `places` goes nowhere. `spare`: the
    address of as many zeros as there are channels, seen outside, and of as many to be written.
    The lengths of the two tuples of `form` are the kernel's side and the stride.
    """
    side, stride = map(len, form)
    words = (
        seen, kernel, bias, found, rows, width, channels, left, place, places, spare, start, stop,
    )  # fmt: skip

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (
            seen, kernel, bias, found, rows, width, channels, left, place, places, spare, start,
            stop, _,
        ) = arguments  # fmt: skip
        word = ir.IntType(64)
        vector = ir.VectorType(ir.FloatType(), LANES)

        def number(value: int) -> Any:
            return ir.Constant(word, value)

        def pointer(address: Any, offset: Any) -> Any:
            return builder.inttoptr(builder.add(address, offset), ir.PointerType())

        def within(base: Any, at: Any, size: Any, beyond: Any) -> tuple[Any, Any]:
            """The address of a place of a row, or another one; and whether it is inside."""
            inside = builder.icmp_unsigned("<", at, size)
            there = builder.add(base, builder.mul(at, column))
            return builder.select(inside, there, beyond), inside

        def add(sum_: Any, one: Any, other: Any) -> None:
            """Add a product; as one instruction where there is such a one."""
            product = builder.fmul(one, other, flags=["contract"])
            before = builder.load(sum_, typ=vector)
            builder.store(builder.fadd(before, product, flags=["contract"]), sum_)

        def take(address: Any, offset: Any) -> Any:
            return builder.load(pointer(address, offset), typ=vector, align=4)

        column = builder.mul(channels, number(4))
        row, kernel_row = builder.mul(width, column), builder.mul(number(side), column)
        sums = [cgutils.alloca_once(builder, vector) for _ in range(TILE)]
        columns, targets = [], []
        for at in range((TILE - 1) * stride + side):
            address, inside = within(seen, builder.add(left, number(at)), width, spare)
            columns.append((address, builder.select(inside, row, number(0))))
        for at in range(TILE):
            nowhere = builder.add(spare, column)
            targets.append(within(found, builder.add(place, number(at)), places, nowhere)[0])
        with cgutils.for_range_slice(builder, start, stop, number(LANES)) as (channel, _):
            offset = builder.mul(channel, number(4))
            first = take(bias, offset)
            for sum_ in sums:
                builder.store(first, sum_)
            with cgutils.for_range_slice(builder, number(0), rows, number(1)) as (i, _):
                weights = builder.add(offset, builder.mul(i, kernel_row))
                known = [
                    take(kernel, builder.add(weights, builder.mul(column, number(j))))
                    for j in range(side)
                ]
                for at, (address, step) in enumerate(columns):
                    value = take(address, builder.add(offset, builder.mul(i, step)))
                    for j in range(side):
                        of, rest = divmod(at - j, stride)
                        if not rest and 0 <= of < TILE:
                            add(sums[of], value, known[j])
            for sum_, target in zip(sums, targets, strict=True):
                value = builder.load(sum_, typ=vector)
                for ordered, bound in (("<", 0.0), (">", 6.0)):  # NaN stays
                    limit = ir.Constant(vector, [bound] * LANES)
                    beyond = builder.fcmp_ordered(ordered, value, limit)
                    value = builder.select(beyond, limit, value)
                builder.store(value, pointer(target, offset), align=4)
        return context.get_dummy_value()

    return types.void(*words, form), generate


@inlined
def row_of(  # type: ignore[no-untyped-def]
    seen, kernel, bias, found, rows, width, channels, left, places, spare, form
):
    """A row of the result, from the addresses of the first row that it sees, and so on.

    `rows` of the kernel are taken. `left`: zeros before the first column.
    """
    side, stride = len(form[0]), len(form[1])
    # All channels before the next places, unless the kernel is too large to be at hand by then.
    span = channels if 4 * side * side * channels <= CLOSE else LANES
    for start in range(0, channels, span):
        for place in range(0, places, TILE):
            place = min(place, max(places - TILE, 0))  # the last tile finds some again
            tile(
                seen, kernel, bias, found, rows, width, channels, place * stride - left, place,
                places, spare, start, start + span, form,
            )  # fmt: skip


@inlined
def work(task, form):  # type: ignore[no-untyped-def]
    """Take pieces of a task, which are rows of the result, until none is left, and let it go."""
    side, stride = len(form[0]), len(form[1])
    images, kernel, bias, result = (
        array_of(task, 0), array_of(task, 1), array_of(task, 2), array_of(task, 3),
    )  # fmt: skip
    height, width, channels = size_of(images, 1), size_of(images, 2), size_of(images, 3)
    down, places = size_of(result, 1), size_of(result, 2)
    top = max((down - 1) * stride + side - height, 0) // 2
    left = max((places - 1) * stride + side - width, 0) // 2
    rows = size_of(result, 0) * down
    spare = np.zeros(2 * channels, np.float32)
    while True:
        first, last = claim(task, rows)
        if first < 0:
            break
        for at in range(first, last):
            image, start = at // down, at % down * stride - top
            before = max(0, -start)
            row_of(
                load(images) + 4 * (image * height + start + before) * width * channels,
                load(kernel) + 4 * before * side * channels, load(bias),
                load(result) + 4 * at * places * channels,
                min(side, height - start) - before, width, channels, left, places,
                spare.ctypes.data, form,
            )  # fmt: skip
        finish(task)
    let_go(task)
    return 0


def form_of(side: int, stride: int) -> Any:
    """A kernel for compiled functions: tuples whose lengths are known to the compiler."""
    return (0,) * side, (0,) * stride


# The kernels that are compiled: side and stride. A kernel's number is its place.
KERNELS = (3, 1), (3, 2), (5, 1), (5, 2)
FORM_3_1, FORM_3_2, FORM_5_1, FORM_5_2 = (form_of(*kernel) for kernel in KERNELS)


@compiled
def work_3_1(task):  # type: ignore[no-untyped-def]
    """`work` for kernels of 3 x 3."""
    return work(task, FORM_3_1)


@compiled
def work_3_2(task):  # type: ignore[no-untyped-def]
    """`work` for kernels of 3 x 3 at every second place."""
    return work(task, FORM_3_2)


@compiled
def work_5_1(task):  # type: ignore[no-untyped-def]
    """`work` for kernels of 5 x 5."""
    return work(task, FORM_5_1)


@compiled
def work_5_2(task):  # type: ignore[no-untyped-def]
    """`work` for kernels of 5 x 5 at every second place."""
    return work(task, FORM_5_2)


@compiled
def handle(frame):  # type: ignore[no-untyped-def]
    """What XLA calls."""
    return handled(frame, symbol("jaxhash_depthwise"))


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
