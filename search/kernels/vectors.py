"""LLVM vector operations on 64 bytes that the Hamming kernels are made of.

The vectors are explicit LLVM types (`<64 x i8>`): LLVM lowers them to one AVX-512 register, two
AVX2 or four NEON registers. Where the processor counts the bits of bytes, a distance is an xor and
a count. Where it does not, as x86 before AVX-512 BITALG, it is looked up: a query's byte becomes
two tables, of the distances of its half bytes from all 16 half bytes, and a code's byte two places
in them, which are made once for all queries of a tile. Every intrinsic has a twin in Python, for
where numba is told not to compile.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from search.kernels.registers import registers
from search.kernels.shared import BLOCK, PLAIN, data_of, prefetch
from search.threads import Lock

LANES = 64  # codes in a vector
TABLES = 32  # bytes of the two tables of a query's byte
LOOK_UP = {
    16: "llvm.x86.ssse3.pshuf.b.128",
    32: "llvm.x86.avx2.pshuf.b",
    64: "llvm.x86.avx512.pshuf.b.512",
}


def _call(builder: Any, name: str, kind: Any, *arguments: Any) -> Any:
    """A call of the LLVM intrinsic `name` on vectors of one kind."""
    suffix = f".v{kind.count}i{kind.element.width}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(arguments)), name + suffix
    )
    return builder.call(function, arguments)


def _splat(builder: Any, pointer: Any, index: Any, kind: Any) -> Any:
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
    """The entries of a table of 16 bytes at 64 places, by registers of `size` bytes."""
    kind = ir.VectorType(ir.IntType(8), size)
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind, kind]), LOOK_UP[size]
    )
    table = _shuffle(builder, table, None, [*range(16)] * (size // 16))
    parts = [
        builder.call(function, [table, _shuffle(builder, places, None, range(start, start + size))])
        for start in range(0, LANES, size)
    ]
    while len(parts) > 1:
        both = range(2 * parts[0].type.count)
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [_shuffle(builder, one, other, both) for one, other in pairs]
    return parts[0]


@intrinsic
def _tile_compiled(
    typingctx: Any,
    planes: Any,
    offset: Any,
    width: Any,
    words: Any,
    word: Any,
    limits: Any,
    limit: Any,
    shape: Any,
    masks: Any,
    sums: Any,
) -> Any:
    """LLVM for `tile`; `shape` gives the numbers by its length, `sums` the type by its own."""
    queries, groups = len(shape) // 8, len(shape) % 8
    wide = sums.dtype == types.uint16
    signature = types.uint64(planes, offset, width, words, word, limits, limit, shape, masks, sums)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        planes, offset, width, words, word, limits, limit, _, masks, sums = arguments
        planes = data_of(context, builder, kinds[0], planes)
        words = data_of(context, builder, kinds[3], words)
        limits = data_of(context, builder, kinds[5], limits)
        masks = data_of(context, builder, kinds[8], masks)
        sums = data_of(context, builder, kinds[9], sums)
        long, octet = ir.IntType(64), ir.IntType(8)
        byte = ir.VectorType(octet, LANES)
        total = ir.VectorType(ir.IntType(16), LANES) if wide else byte
        size, available, by_table = registers()
        # As many sums at a time as half of the registers hold: others would go to memory and back.
        room = max(1, available // 2 * size // LANES)
        abreast = min(queries, room)
        together = min(groups, room // abreast)

        def number(value: int) -> Any:
            return ir.Constant(long, value)

        def at(pointer: Any, offset: Any) -> Any:
            return builder.gep(pointer, [offset], source_etype=octet)

        def all_of(value: int, kind: Any) -> Any:
            return ir.Constant(kind, [value] * LANES)

        def scan(start: Any, stop: Any, part: Any, places: list[Any]) -> None:
            """Add the distances of the bytes from `start` to `stop` to the places of a part."""
            with cgutils.for_range_slice(builder, start, stop, number(1)) as (plane, _):
                base = builder.add(offset, builder.mul(plane, number(BLOCK)))
                codes = {}
                for g in sorted({g for _, g in part}):
                    address = at(planes, builder.add(base, number(g * LANES)))
                    codes[g] = builder.load(address, align=1, typ=byte)
                    if queries == 1:  # memory is the limit: ask for the next plane meanwhile
                        prefetch(builder, at(address, number(BLOCK)))
                halves = {}
                if by_table:
                    for g, code in codes.items():
                        low = builder.and_(code, all_of(15, byte))
                        halves[g] = low, builder.lshr(code, all_of(4, byte))
                first = builder.add(word, builder.mul(plane, number(queries)))
                for (q, g), place in zip(part, places, strict=True):
                    entry = builder.add(first, number(q))
                    before = builder.load(place, typ=byte)
                    if by_table:
                        tables = at(words, builder.mul(entry, number(TABLES)))
                        for half, skipped in zip(halves[g], (0, 16), strict=True):
                            table = builder.load(
                                at(tables, number(skipped)), align=8, typ=ir.VectorType(octet, 16)
                            )
                            before = builder.add(before, look_up(builder, table, half, size))
                    else:
                        query = _splat(builder, words, entry, byte)
                        bits = _call(builder, "llvm.ctpop", byte, builder.xor(codes[g], query))
                        before = builder.add(before, bits)
                    builder.store(before, place)

        def distances(part: Any) -> list[Any]:
            """distance + 1 of each query and vector of a part."""
            ones = all_of(1, total)
            if not wide:
                places = [cgutils.alloca_once(builder, byte) for _ in part]
                for place in places:
                    builder.store(ones, place)
                scan(number(0), width, part, places)
                return [builder.load(place, typ=total) for place in places]
            # Bytes hold the sum of 31 bytes' bits; then they are added to sums of 16 bits.
            long_places = [cgutils.alloca_once(builder, total) for _ in part]
            places = [cgutils.alloca_once(builder, byte) for _ in part]
            for long_place in long_places:
                builder.store(ones, long_place)
            with cgutils.for_range_slice(builder, number(0), width, number(31)) as (start, _):
                for place in places:
                    builder.store(all_of(0, byte), place)
                end = builder.add(start, number(31))
                end = builder.select(builder.icmp_signed("<", end, width), end, width)
                scan(start, end, part, places)
                for place, long_place in zip(places, long_places, strict=True):
                    wider = builder.zext(builder.load(place, typ=byte), total)
                    before = builder.load(long_place, typ=total)
                    builder.store(builder.add(before, wider), long_place)
            return [builder.load(place, typ=total) for place in long_places]

        which = cgutils.alloca_once(builder, long)
        builder.store(number(0), which)
        for q0 in range(0, queries, abreast):
            for g0 in range(0, groups, together):
                part = [
                    (q, g)
                    for q in range(q0, min(q0 + abreast, queries))
                    for g in range(g0, min(g0 + together, groups))
                ]
                found = distances(part)
                # Whether any sum is within its limit, without leaving the vector registers: the
                # saturating difference sum - limit is zero exactly where the sum is within it.
                bounds = {
                    q: _splat(builder, limits, builder.add(limit, number(q)), total)
                    for q in {q for q, _ in part}
                }
                least = None
                for (q, _), value in zip(part, found, strict=True):
                    rest = _call(builder, "llvm.usub.sat", total, value, bounds[q])
                    least = (
                        rest if least is None else _call(builder, "llvm.umin", total, least, rest)
                    )
                flags = builder.icmp_unsigned("==", least, all_of(0, total))
                hit = builder.icmp_unsigned("!=", builder.bitcast(flags, long), number(0))
                with builder.if_then(hit, likely=False):
                    # No branches here: with hits in every other vector none could be foretold.
                    hits = builder.load(which, typ=long)
                    for (q, g), value in zip(part, found, strict=True):
                        index = q * groups + g
                        place = at(sums, number(index * LANES * (2 if wide else 1)))
                        builder.store(value, place, align=1)
                        mask = builder.bitcast(builder.icmp_unsigned("<=", value, bounds[q]), long)
                        builder.store(mask, at(masks, number(index * 8)), align=8)
                        some = builder.zext(builder.icmp_unsigned("!=", mask, number(0)), long)
                        hits = builder.or_(hits, builder.shl(some, number(index)))
                    builder.store(hits, which)
        return builder.load(which, typ=long)

    return signature, generate


def _tile_python(
    planes: Any,
    offset: Any,
    width: Any,
    words: Any,
    word: Any,
    limits: Any,
    limit: Any,
    shape: Any,
    masks: Any,
    sums: Any,
) -> Any:
    """What `_tile_compiled` computes, where numba's compiler is switched off."""
    queries, groups = len(shape) // 8, len(shape) % 8
    which = 0
    for q in range(queries):
        for g in range(groups):
            total = np.ones(LANES, np.int64)
            for plane in range(width):
                start = offset + plane * BLOCK + g * LANES
                byte = int(words[word + plane * queries + q]) & 0xFF
                total += np.bitwise_count(planes[start : start + LANES] ^ np.uint8(byte))
            if sums.dtype == np.uint8:
                total &= 255
                bound = int(limits[limit + q]) & 0xFF
            else:
                bound = int(limits[limit + q]) & 0xFFFF
            index = q * groups + g
            sums[index * LANES : (index + 1) * LANES] = total
            within = np.packbits(total <= bound, bitorder="little").view(np.uint64)[0]
            masks[index] = within
            which |= int(within != 0) << index
    return np.uint64(which)


@intrinsic
def _byte_distance_compiled(typingctx: Any, words: Any, entry: Any, value: Any) -> Any:
    """LLVM for `byte_distance`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        words = data_of(context, builder, signature.args[0], arguments[0])
        _, entry, value = arguments
        long, octet = ir.IntType(64), ir.IntType(8)
        if not registers().by_table:
            place = builder.gep(words, [entry], source_etype=long)
            byte = builder.and_(builder.load(place, typ=long), ir.Constant(long, 255))
            return builder.ctpop(builder.xor(byte, value))
        tables = builder.mul(entry, ir.Constant(long, TABLES))
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
        return builder.add(*both)

    return types.int64(words, types.int64, types.uint64), generate


def _byte_distance_python(words: Any, entry: int, value: Any) -> int:
    """The number of bits in which a byte differs from the query's byte at `entry`."""
    return ((int(words[entry]) & 255) ^ int(value)).bit_count()


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
        bound = _splat(builder, place, ir.Constant(ir.IntType(64), 0), total)
        near = builder.icmp_unsigned("<=", builder.load(address, align=1, typ=total), bound)
        return builder.bitcast(near, ir.IntType(64))

    return types.uint64(sums, types.int64, types.uint64), generate


def _mask_python(sums: Any, index: int, limit: Any) -> Any:
    """A bit for each of the 64 sums at `index` that is within a limit, repeated to fill a word."""
    bound = int(limit) & np.iinfo(sums.dtype).max
    near = sums[index * LANES : (index + 1) * LANES] <= bound
    return np.packbits(near, bitorder="little").view(np.uint64)[0]


# tile(planes, offset, width, words, word, limits, limit, shape, masks, sums) -> uint64
#   compares `len(shape) // 8` queries with `len(shape) % 8` vectors of 64 codes, the first of
#   them at planes[offset]. Entry word + plane * queries + q of `words`, see `words.query_words`,
#   is of byte `plane` of query q; limits[limit + q] repeats its limit, as wide as `sums`.
#   Bit q * vectors + v of the result says whether any `distance + 1 <= limit` for query q and
#   vector v; only then are `masks` (a bit for every code within the limit) and `sums` (distance
#   + 1, which a byte wraps round) written, at that place.
# All of them are plain Python when numba is told not to compile.
tile: Any = _tile_python if PLAIN else _tile_compiled
byte_distance: Any = _byte_distance_python if PLAIN else _byte_distance_compiled
lowest: Any = _lowest_python if PLAIN else _lowest_compiled
claim: Any = _claim_python if PLAIN else _claim_compiled
mask_of: Any = _mask_python if PLAIN else _mask_compiled
