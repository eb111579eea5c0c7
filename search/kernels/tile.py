"""The comparison of a tile of queries and codes, in the form that suits the processor.

Where the processor counts the bits of bytes, a distance is an xor and a count. Where it does not,
as x86 before AVX-512 BITALG, it is looked up: a query's byte becomes two tables, of the distances
of its half bytes from all 16 half bytes, and a code's byte two places in them, which are made once
for all queries of a tile.

A distance of half bytes is 4 at most. So the tables of two queries are one, the first query's
distances in the lower half of its bytes and the second's in the upper. Three of what is looked up
add up to 12 at most in either half; then they are added to two sums, the whole to one and its
upper half to the other. In the end the first is S1 + 16 * S2 and the second S2, both in a byte.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from search.kernels.registers import registers
from search.kernels.shared import BLOCK, PLAIN, data_of, prefetch
from search.kernels.vectors import LANES, call, look_up, splat
from search.kernels.words import TABLES

_LONG, _OCTET = ir.IntType(64), ir.IntType(8)
_TOGETHER = 3  # half bytes whose distances from two queries are added in the halves of a byte
WENT_ON = 63  # the bit of a tile's result that tells so
_FEW = 4  # of more queries only so many are compared where the others are asleep, limits of 0


class _Inputs(NamedTuple):
    """What a tile is compared by: LLVM values, and what the code is made for.

    byte: the vector type of the bytes of as many codes as are compared at a time. size: bytes of
    a register. paired: whether a table is of two queries.
    """

    builder: Any
    planes: Any
    offset: Any
    width: Any
    enough: Any
    words: Any
    word: Any
    queries: int
    byte: Any
    size: int
    by_table: bool
    paired: bool


def _number(value: int) -> Any:
    return ir.Constant(_LONG, value)


def _all_of(value: int, kind: Any) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _at(builder: Any, pointer: Any, offset: Any) -> Any:
    return builder.gep(pointer, [offset], source_etype=_OCTET)


def _increase(builder: Any, place: Any, amount: Any) -> None:
    builder.store(builder.add(builder.load(place, typ=amount.type), amount), place)


def _codes(own: _Inputs, plane: Any, lane: Any) -> Any:
    """The bytes `plane` of the codes from `lane` on."""
    base = own.builder.add(own.offset, own.builder.mul(plane, _number(BLOCK)))
    address = _at(own.builder, own.planes, own.builder.add(base, lane))
    if own.queries == 1:  # memory is the limit: ask for the next plane meanwhile
        prefetch(own.builder, _at(own.builder, address, _number(BLOCK)))
    return own.builder.load(address, align=1, typ=own.byte)


def _halves(own: _Inputs, codes: Any) -> tuple[Any, Any]:
    """The lower and the upper half of each byte."""
    return (
        own.builder.and_(codes, _all_of(15, own.byte)),
        own.builder.lshr(codes, _all_of(4, own.byte)),
    )


def _entry(own: _Inputs, plane: Any, query: int) -> Any:
    """The number of a query's byte among the words."""
    first = own.builder.add(own.word, own.builder.mul(plane, _number(own.queries)))
    return own.builder.add(first, _number(query))


def _found(own: _Inputs, plane: Any, query: int, half: int, places: Any) -> Any:
    """What the table of a half byte holds at some places."""
    start = own.builder.mul(_entry(own, plane, query), _number(TABLES >> own.paired))
    address = _at(own.builder, own.words, own.builder.add(start, _number(16 * half)))
    table = own.builder.load(address, align=8, typ=ir.VectorType(_OCTET, 16))
    return look_up(own.builder, table, places, own.size)


def _add_plane(own: _Inputs, plane: Any, queries: range, lanes: list[Any], sums: Any) -> None:
    """Add the distances of a byte to sums[query][i], of the codes from lanes[i] on."""
    codes = [_codes(own, plane, lane) for lane in lanes]
    halves = [_halves(own, values) for values in codes] if own.by_table else []
    for query in queries:
        for position, place in enumerate(sums[query]):
            if own.by_table:
                for half in (0, 1):
                    found = _found(own, plane, query, half, halves[position][half])
                    _increase(own.builder, place, found)
            else:
                asked = splat(own.builder, own.words, _entry(own, plane, query), own.byte)
                different = own.builder.xor(codes[position], asked)
                _increase(own.builder, place, call(own.builder, "llvm.ctpop", own.byte, different))


def _add_planes(own: _Inputs, planes: list[Any], queries: range, lane: Any, sums: Any) -> None:
    """`_add_plane` for several bytes, by tables of two queries each."""
    halves = [
        (plane, half, places)
        for plane in planes
        for half, places in enumerate(_halves(own, _codes(own, plane, lane)))
    ]
    for start in range(0, len(halves), _TOGETHER):
        for query in queries[::2]:
            both = None
            for plane, half, places in halves[start : start + _TOGETHER]:
                found = _found(own, plane, query, half, places)
                both = found if both is None else own.builder.add(both, found)
            _increase(own.builder, sums[query][0], both)
            upper = own.builder.lshr(both, _all_of(4, own.byte))
            _increase(own.builder, sums[query + 1][0], upper)


def _begin(own: _Inputs, first: int, queries: range, sums: Any) -> None:
    """Let all sums begin with `first`."""
    for query in queries:
        # Where a table is of two queries, the sum of both is S1 + 16 * S2.
        value = 17 * first if own.paired and query % 2 == 0 else first
        for place in sums[query]:
            own.builder.store(_all_of(value, own.byte), place)


def _add_all(
    own: _Inputs, start: Any, stop: Any, queries: range, lanes: list[Any], sums: Any
) -> None:
    """Add the distances of the bytes from `start` to `stop`."""
    builder, one = own.builder, _number(1)
    if not own.paired:
        with cgutils.for_range_slice(builder, start, stop, one) as (plane, _):
            _add_plane(own, plane, queries, lanes, sums)
        return
    step = _number(_TOGETHER)
    middle = builder.sub(stop, builder.urem(builder.sub(stop, start), step))
    with cgutils.for_range_slice(builder, start, middle, step) as (plane, _):
        planes = [builder.add(plane, _number(more)) for more in range(_TOGETHER)]
        _add_planes(own, planes, queries, lanes[0], sums)
    with cgutils.for_range_slice(builder, middle, stop, one) as (plane, _):
        _add_planes(own, [plane], queries, lanes[0], sums)


def _values(own: _Inputs, queries: range, sums: Any) -> dict[int, list[Any]]:
    """The sums of each query by itself."""
    builder = own.builder
    values = {q: [builder.load(place, typ=own.byte) for place in sums[q]] for q in queries}
    for query in queries[::2] if own.paired else ():
        upper = builder.shl(values[query + 1][0], _all_of(4, own.byte))
        values[query] = [builder.sub(values[query][0], upper)]
    return values


def _distances(
    own: _Inputs, queries: range, lanes: list[Any], worth: Callable[[Any], Any]
) -> dict[int, list[Any]]:
    """distance + 1 of each query and the codes from each of `lanes` on, in bytes.

    After the bytes that are enough to see it, the others are only added where `worth` tells so of
    the sums.
    """
    builder = own.builder

    def places() -> dict[int, list[Any]]:
        return {query: [cgutils.alloca_once(builder, own.byte) for _ in lanes] for query in queries}

    sums, results = places(), places()
    _begin(own, 1, queries, sums)
    start = cgutils.alloca_once_value(builder, _number(0))
    stop = cgutils.alloca_once_value(builder, own.enough)
    builder.store(_number(0), start)
    builder.store(own.enough, stop)
    add, look, go_on, done = (
        builder.append_basic_block(name) for name in ("add", "look", "go_on", "done")
    )
    builder.branch(add)
    builder.position_at_end(add)
    end = builder.load(stop, typ=_LONG)
    _add_all(own, builder.load(start, typ=_LONG), end, queries, lanes, sums)
    values = _values(own, queries, sums)
    for query in queries:
        for place, value in zip(results[query], values[query], strict=True):
            builder.store(value, place)
    builder.cbranch(builder.icmp_signed("<", end, own.width), look, done)
    builder.position_at_end(look)
    builder.cbranch(worth(values), go_on, done)
    builder.position_at_end(go_on)
    builder.store(end, start)
    builder.store(own.width, stop)
    builder.branch(add)
    builder.position_at_end(done)
    return {q: [builder.load(place, typ=own.byte) for place in results[q]] for q in queries}


def _long_distances(own: _Inputs, queries: range, lanes: list[Any]) -> dict[int, list[Any]]:
    """`_distances` in 16 bits, of all bytes: the sums of 31 bytes' bits in a byte are added."""
    builder = own.builder
    total, step = ir.VectorType(ir.IntType(16), own.byte.count), _number(31)
    sums, long_sums = (
        {query: [cgutils.alloca_once(builder, kind) for _ in lanes] for query in queries}
        for kind in (own.byte, total)
    )
    for query in queries:
        for place in long_sums[query]:
            builder.store(_all_of(1, total), place)
    with cgutils.for_range_slice(builder, _number(0), own.width, step) as (start, _):
        end = builder.add(start, step)
        end = builder.select(builder.icmp_signed("<", end, own.width), end, own.width)
        _begin(own, 0, queries, sums)
        _add_all(own, start, end, queries, lanes, sums)
        for query, values in _values(own, queries, sums).items():
            for place, value in zip(long_sums[query], values, strict=True):
                _increase(builder, place, builder.zext(value, total))
    return {q: [builder.load(place, typ=total) for place in long_sums[q]] for q in queries}


@intrinsic
def _tile_compiled(
    typingctx: Any,
    planes: Any,
    offset: Any,
    width: Any,
    enough: Any,
    words: Any,
    word: Any,
    limits: Any,
    limit: Any,
    shape: Any,
    sums: Any,
) -> Any:
    """LLVM for `tile`; `shape` gives the numbers by its length, `sums` the type by its own."""
    queries, groups = len(shape) // 8, len(shape) % 8
    wide = sums.dtype == types.uint16
    signature = types.uint64(
        planes, offset, width, types.int64, words, word, limits, limit, shape, sums
    )

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        planes, offset, width, enough, words, word, limits, limit, _, sums = arguments
        planes = data_of(context, builder, signature.args[0], planes)
        words = data_of(context, builder, signature.args[4], words)
        limits = data_of(context, builder, signature.args[6], limits)
        sums = data_of(context, builder, signature.args[9], sums)
        size, available, by_table = registers()
        paired = by_table and queries > 1
        lanes = min(size, LANES) if paired else LANES
        byte = ir.VectorType(_OCTET, lanes)
        total = ir.VectorType(ir.IntType(16), lanes) if wide else byte
        own = _Inputs(
            builder, planes, offset, width, enough, words, word, queries,
            byte, size, by_table, paired,
        )  # fmt: skip
        which = cgutils.alloca_once_value(builder, _number(0))

        def bound(query: int, kind: Any) -> Any:
            return splat(builder, limits, builder.add(limit, _number(query)), kind)

        def sum_place(vector: Any, query: int, piece: int) -> Any:
            index = builder.add(builder.mul(vector, _number(queries)), _number(query))
            entry = builder.add(builder.mul(index, _number(LANES)), _number(piece))
            return _at(builder, sums, builder.mul(entry, _number(2 if wide else 1)))

        def any_of(flags: Any) -> Any:
            """Whether any of a vector of flags is set."""
            flags = builder.bitcast(flags, ir.IntType(flags.type.count))
            return builder.icmp_unsigned("!=", flags, ir.Constant(flags.type, 0))

        def least(values: list[Any]) -> Any:
            one = values[0]
            for other in values[1:]:
                one = call(builder, "llvm.umin", one.type, one, other)
            return one

        def hits(some: range, nearest: Callable[[int], Any]) -> Any:
            """A bit for each query, whether any of its nearest sums is within its limit."""
            found = _number(0)
            for query in some:
                value = nearest(query)
                near = any_of(builder.icmp_unsigned("<=", value, bound(query, value.type)))
                near = builder.shl(builder.zext(near, _LONG), _number(query))
                found = builder.or_(found, near)
            return found

        def any_hit(some: range, nearest: Callable[[int], Any]) -> Any:
            """Whether any sum is within its limit, without leaving the vector registers.

            The saturating difference sum - limit is zero exactly where the sum is within it.
            """
            rests = []
            for query in some:
                value = nearest(query)
                rests.append(call(builder, "llvm.usub.sat", total, value, bound(query, total)))
            return any_of(builder.icmp_unsigned("==", least(rests), _all_of(0, total)))

        def note(vector: Any, found: Any) -> None:
            found = builder.shl(found, builder.mul(vector, _number(queries)))
            builder.store(builder.or_(builder.load(which, typ=_LONG), found), which)

        def distances(some: range, lanes: list[Any]) -> dict[int, list[Any]]:
            """distance + 1, or less where the first bytes tell that no sum is within its limit."""

            def worth(values: dict[int, list[Any]]) -> Any:
                near = any_hit(some, lambda query: least(values[query]))
                went_on = builder.shl(builder.zext(near, _LONG), _number(WENT_ON))
                builder.store(builder.or_(builder.load(which, typ=_LONG), went_on), which)
                return near

            return (
                _long_distances(own, some, lanes) if wide else _distances(own, some, lanes, worth)
            )

        def compare(some: range, vectors: list[Any]) -> None:
            """Compare some of the queries with vectors, which are 64 codes each."""
            firsts = [builder.mul(vector, _number(LANES)) for vector in vectors]
            values = distances(some, firsts)
            hit = any_hit(some, lambda query: least(values[query]))
            with builder.if_then(hit, likely=False):
                # No branches here: with hits in every other vector none could be foretold.
                for position, vector in enumerate(vectors):
                    own_values = {query: values[query][position] for query in some}
                    for query, value in own_values.items():
                        builder.store(value, sum_place(vector, query, 0), align=1)
                    note(vector, hits(some, own_values.__getitem__))

        def compare_pieces(some: range) -> None:
            """Compare some of the queries with all vectors, a register at a time."""
            pieces = range(0, LANES, lanes)
            numbers = _number(0), _number(groups), _number(1)
            with cgutils.for_range_slice(builder, *numbers) as (vector, _):
                first = builder.mul(vector, _number(LANES))
                for piece in pieces:
                    values = distances(some, [builder.add(first, _number(piece))])
                    for query in some:
                        builder.store(values[query][0], sum_place(vector, query, piece), align=1)

                def nearest(query: int) -> Any:
                    return least(
                        [
                            builder.load(sum_place(vector, query, piece), align=1, typ=total)
                            for piece in pieces
                        ]
                    )

                with builder.if_then(any_hit(some, nearest), likely=False):
                    note(vector, hits(some, nearest))

        if paired:
            # The sums of all eight take half of the registers; others would go to memory and back.
            asleep = _number(0)
            for q in range(_FEW, queries):
                place = builder.gep(limits, [builder.add(limit, _number(q))], source_etype=_LONG)
                asleep = builder.or_(asleep, builder.load(place, typ=_LONG))
            with builder.if_else(builder.icmp_unsigned("==", asleep, _number(0))) as (few, many):
                with few:
                    compare_pieces(range(min(_FEW, queries)))
                with many:
                    compare_pieces(range(queries))
        else:
            # As many sums at a time as half of the registers hold.
            room = max(1, available // 2 * size // LANES)
            abreast = min(queries, room)
            together = min(groups, room // abreast)
            for q in range(0, queries, abreast):
                for g in range(0, groups, together):
                    vectors = [_number(vector) for vector in range(g, min(g + together, groups))]
                    compare(range(q, min(q + abreast, queries)), vectors)
        return builder.load(which, typ=_LONG)

    return signature, generate


def _tile_python(
    planes: Any,
    offset: Any,
    width: Any,
    enough: Any,
    words: Any,
    word: Any,
    limits: Any,
    limit: Any,
    shape: Any,
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
            index = g * queries + q
            sums[index * LANES : (index + 1) * LANES] = total
            which |= int((total <= bound).any()) << index
    return np.uint64(which)


# tile(planes, offset, width, enough, words, word, limits, limit, shape, sums) -> uint64
#   compares `len(shape) // 8` queries with `len(shape) % 8` vectors of 64 codes, the first of
#   them at planes[offset]. Entry word + plane * queries + q of `words`, see `words.query_words`,
#   is of byte `plane` of query q; limits[limit + q] repeats its limit, as wide as `sums`.
#   Bit v * queries + q of the result says whether any `distance + 1 <= limit` for query q and
#   vector v; only then are the `sums` (distance + 1, which a byte wraps round) written, at that
#   place. Of a query whose limit is 0 the result may say either. After the first `enough` bytes
#   (never for sums of two bytes) codes are left that are beyond the limits already, and their sums
#   are of those bytes; bit WENT_ON of the result tells that some were not.
tile: Any = _tile_python if PLAIN else _tile_compiled
