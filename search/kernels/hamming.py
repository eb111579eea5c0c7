"""Kernels of the exact Hamming search: scanning blocks of codes, and ordering what was found.

The layout they read: 256 codes make a block, and a block holds first byte 0 of all its codes,
then byte 1, and so on. A vector register then holds the same byte of 64 different codes, so
`xor`, `popcount of each byte` and `add` are the whole work, no register is ever summed across,
any number of bytes costs only itself, and the distances come out as bytes that one comparison
turns into a 64-bit mask. The vectors are explicit LLVM types (`<64 x i8>`): LLVM lowers them to
one AVX-512 register, two AVX2 or four NEON registers, whose native popcount is also of bytes.

Found codes are kept as keys: `distance << 48 | row`, so that the order of keys is the order of
results. No kernel checks its arguments.
"""

import threading
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from search.kernels.compiling import compiled

LANES = 64  # codes in a vector
BLOCK = 256  # codes in a block
ROW_BITS = 48
ROW_MASK = (1 << ROW_BITS) - 1
MISSING = np.iinfo(np.int64).max  # the key that fills a row of too few results
STRETCH = 24576  # bytes of codes that stay in the first-level cache while queries walk them
SAMPLE = 32  # one vector in so many is looked at to guess how near the k nearest will be
# Up to here a distance plus one fits a byte, but for 255 and 256, which come out as -1 and 0:
# so a sum this wide that says so is looked at again.
NARROW_BYTES = 32
AHEAD = 8192  # bytes between what one query reads and what it asks for
# Where the numbers that threads share lie in `progress`, a cache line or more apart.
NEXT, DONE, GUESSED, PROGRESS = 0, 16, 32, 48
PATIENCE = 20_000  # looks at another thread's progress, some tenths of a millisecond


def _vectors(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """The data pointer of an array argument, as a pointer to bytes."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(data, ir.IntType(8).as_pointer())


def _call(builder: Any, name: str, kind: Any, *arguments: Any) -> Any:
    """A call of the LLVM intrinsic `name` on vectors of one kind."""
    suffix = f".v{kind.count}i{kind.element.width}"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * len(arguments)), name + suffix
    )
    return builder.call(function, arguments)


def _prefetch(builder: Any, address: Any) -> None:
    """Ask for the cache line at an address; never faults, wherever it points."""
    word = ir.IntType(32)
    kinds = [address.type, word, word, word]
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), kinds), "llvm.prefetch.p0"
    )
    read, keep_close, data = (ir.Constant(word, value) for value in (0, 3, 1))
    builder.call(function, [address, read, keep_close, data])


def _splat(builder: Any, pointer: Any, index: Any, kind: Any) -> Any:
    """The 64-bit word at `index`, repeated to fill a vector of `kind`.

    Words that already repeat a byte (or two) are loaded by a plain broadcast, which is free.
    """
    word = ir.IntType(64)
    address = builder.gep(builder.bitcast(pointer, word.as_pointer()), [index])
    words = ir.VectorType(word, kind.count * kind.element.width // 64)
    one = builder.insert_element(
        ir.Constant(words, ir.Undefined), builder.load(address), ir.Constant(ir.IntType(32), 0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), words.count), [0] * words.count)
    return builder.bitcast(
        builder.shuffle_vector(one, ir.Constant(words, ir.Undefined), zeros), kind
    )


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
        planes = _vectors(context, builder, kinds[0], planes)
        words = _vectors(context, builder, kinds[3], words)
        limits = _vectors(context, builder, kinds[5], limits)
        masks = _vectors(context, builder, kinds[8], masks)
        sums = _vectors(context, builder, kinds[9], sums)
        long = ir.IntType(64)
        byte = ir.VectorType(ir.IntType(8), LANES)
        total = ir.VectorType(ir.IntType(16), LANES) if wide else byte
        tile = [(q, g) for q in range(queries) for g in range(groups)]

        def number(value: int) -> Any:
            return ir.Constant(long, value)

        def scan(start: Any, stop: Any, places: list[Any]) -> None:
            """Add the distances of the bytes from `start` to `stop` to `places`."""
            with cgutils.for_range_slice(builder, start, stop, number(1)) as (plane, _):
                base = builder.add(offset, builder.mul(plane, number(BLOCK)))
                codes = []
                for g in range(groups):
                    address = builder.gep(planes, [builder.add(base, number(g * LANES))])
                    codes.append(builder.load(builder.bitcast(address, byte.as_pointer()), align=1))
                    if queries == 1:
                        _prefetch(builder, builder.gep(address, [number(AHEAD)]))
                at = builder.add(word, builder.mul(plane, number(queries)))
                for q in range(queries):
                    query = _splat(builder, words, builder.add(at, number(q)), byte)
                    for g in range(groups):
                        place = places[q * groups + g]
                        bits = _call(builder, "llvm.ctpop", byte, builder.xor(codes[g], query))
                        builder.store(builder.add(builder.load(place), bits), place)

        ones = ir.Constant(total, [1] * LANES)
        if wide:
            # Bytes hold the sum of 31 bytes' bits; then they are added to sums of 16 bits.
            long_places = [cgutils.alloca_once_value(builder, ones) for _ in tile]
            places = [cgutils.alloca_once(builder, byte) for _ in tile]
            with cgutils.for_range_slice(builder, number(0), width, number(31)) as (start, _):
                for place in places:
                    builder.store(ir.Constant(byte, [0] * LANES), place)
                end = builder.add(start, number(31))
                end = builder.select(builder.icmp_signed("<", end, width), end, width)
                scan(start, end, places)
                for place, long_place in zip(places, long_places, strict=True):
                    wider = builder.zext(builder.load(place), total)
                    builder.store(builder.add(builder.load(long_place), wider), long_place)
            places = long_places
        else:
            places = [cgutils.alloca_once(builder, byte) for _ in tile]
            for place in places:
                builder.store(ones, place)
            scan(number(0), width, places)

        # Whether any sum is within its limit, without leaving the vector registers: the
        # saturating difference sum - limit is zero exactly where the sum is within the limit.
        found = [builder.load(place) for place in places]
        bounds = [
            _splat(builder, limits, builder.add(limit, number(q)), total) for q in range(queries)
        ]
        least = None
        for (q, _), value in zip(tile, found, strict=True):
            rest = _call(builder, "llvm.usub.sat", total, value, bounds[q])
            least = rest if least is None else _call(builder, "llvm.umin", total, least, rest)
        flags = builder.icmp_unsigned("==", least, ir.Constant(total, [0] * LANES))
        hit = builder.icmp_unsigned("!=", builder.bitcast(flags, long), number(0))
        which = cgutils.alloca_once_value(builder, number(0))
        with builder.if_then(hit, likely=False):
            # No branches here: with hits in every other vector none could be foretold.
            hits = number(0)
            for index, ((q, _), value) in enumerate(zip(tile, found, strict=True)):
                address = builder.gep(sums, [number(index * LANES * (2 if wide else 1))])
                builder.store(value, builder.bitcast(address, total.as_pointer()), align=1)
                mask = builder.bitcast(builder.icmp_unsigned("<=", value, bounds[q]), long)
                address = builder.gep(masks, [number(index * 8)])
                builder.store(mask, builder.bitcast(address, long.as_pointer()), align=8)
                some = builder.zext(builder.icmp_unsigned("!=", mask, number(0)), long)
                hits = builder.or_(hits, builder.shl(some, number(index)))
            builder.store(hits, which)
        return builder.bitcast(builder.load(which), long)

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
def _count_compiled(typingctx: Any, value: Any) -> Any:
    """LLVM for `count`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


def _count_python(value: int) -> int:
    """The number of bits set in a 64-bit word."""
    return int(value).bit_count()


@intrinsic
def _claim_compiled(typingctx: Any, progress: Any, index: Any, amount: Any) -> Any:
    """LLVM for `claim`."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = _vectors(context, builder, signature.args[0], arguments[0])
        words = builder.bitcast(data, ir.IntType(64).as_pointer())
        return builder.atomic_rmw(
            "add", builder.gep(words, [arguments[1]]), arguments[2], "seq_cst"
        )

    return types.int64(progress, types.int64, types.int64), generate


_claiming = threading.Lock()


def _claim_python(progress: Any, index: int, amount: int) -> int:
    """Add `amount` to a number that threads share; returns what it was before."""
    with _claiming:
        before = int(progress[index])
        progress[index] += amount
        return before


@intrinsic
def _mask_compiled(typingctx: Any, sums: Any, index: Any, limit: Any) -> Any:
    """LLVM for `mask_of`."""
    wide = sums.dtype == types.uint16

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        sums = _vectors(context, builder, signature.args[0], arguments[0])
        width = 2 if wide else 1
        total = ir.VectorType(ir.IntType(8 * width), LANES)
        offset = builder.mul(arguments[1], ir.Constant(ir.IntType(64), LANES * width))
        address = builder.bitcast(builder.gep(sums, [offset]), total.as_pointer())
        place = cgutils.alloca_once_value(builder, arguments[2])
        bound = _splat(builder, place, ir.Constant(ir.IntType(64), 0), total)
        near = builder.icmp_unsigned("<=", builder.load(address, align=1), bound)
        return builder.bitcast(near, ir.IntType(64))

    return types.uint64(sums, types.int64, types.uint64), generate


def _mask_python(sums: Any, index: int, limit: Any) -> Any:
    """A bit for each of the 64 sums at `index` that is within a limit, repeated to fill a word."""
    bound = int(limit) & np.iinfo(sums.dtype).max
    near = sums[index * LANES : (index + 1) * LANES] <= bound
    return np.packbits(near, bitorder="little").view(np.uint64)[0]


# tile(planes, offset, width, words, word, limits, limit, shape, masks, sums) -> uint64
#   compares `len(shape) // 8` queries with `len(shape) % 8` vectors of 64 codes, the first of
#   them at planes[offset]. words[word + plane * queries + q] repeats byte `plane` of query q;
#   limits[limit + q] repeats its limit, one or two bytes wide as `sums`. Bit q * vectors + v of
#   the result says whether any `distance + 1 <= limit` for query q and vector v; only then are
#   `masks` (a bit for every code within the limit) and `sums` (distance + 1, which a byte wraps
#   round) written, at that place.
# All of them are plain Python when numba is told not to compile.
PLAIN: bool = numba.config.DISABLE_JIT  # type: ignore[attr-defined]
tile: Any = _tile_python if PLAIN else _tile_compiled
lowest: Any = _lowest_python if PLAIN else _lowest_compiled
count: Any = _count_python if PLAIN else _count_compiled
claim: Any = _claim_python if PLAIN else _claim_compiled
mask_of: Any = _mask_python if PLAIN else _mask_compiled


@compiled
def _distance(planes, width, row, words, first, step):  # type: ignore[no-untyped-def]
    """Hamming distance of one code from the query whose words start at words[first]."""
    at = (row // BLOCK) * width * BLOCK + row % BLOCK
    total = 0
    for plane in range(width):
        byte = np.uint64(planes[at + plane * BLOCK])
        total += count(byte ^ (words[first + plane * step] & np.uint64(255)))
    return total


@compiled
def _limit(bound, wide):  # type: ignore[no-untyped-def]
    """The limit that lets distances below `bound` pass, repeated to fill a word."""
    if wide:
        return np.uint64(bound) * np.uint64(0x0001000100010001)
    return np.uint64(min(bound, 255)) * np.uint64(0x0101010101010101)


@compiled
def _keep(keys, filled, bound, spare):  # type: ignore[no-untyped-def]
    """Drop, in place and in order, the keys that can no longer be results.

    Those below `bound` stay, and the first `spare` of those at it. Returns how many stay.
    """
    kept = np.int64(0)
    for position in range(filled):
        key = keys[position]
        distance = key >> ROW_BITS
        # No branches: which keys stay cannot be foretold.
        tied = np.int64((distance == bound) & (spare > 0))
        spare -= tied
        keys[kept] = key
        kept += np.int64(distance < bound) + tied
    return kept


@compiled
def _sweep(  # type: ignore[no-untyped-def]
    planes, size, width, first, last, step, words, shape, allowed, k, masks, sums,
    keys, filled, counts, below, bounds, limits,
):  # fmt: skip
    """Collect what is nearer than the bounds, in vectors first, first + step, ... before last.

    counts[q, d] is the number of keys found at distance d, below[q] of those nearer than
    bounds[q]. As soon as k are nearer than the bound, it falls: it ends where the k-th nearest
    lies, because what comes later, in row order, must be strictly nearer to be a result.
    """
    abreast, groups = len(shape) // 8, len(shape) % 8
    wide = sums.itemsize == 2
    room = keys.shape[1]
    tiles = len(limits) // abreast
    per_block = BLOCK // LANES
    # A stretch of vectors stays in the first-level cache while all the queries walk it.
    stretch = max(step, STRETCH // (width * LANES) // step * step)
    for start in range(first, last, stretch):
        stop = min(start + stretch, last)
        for quad in range(tiles):
            asleep = True
            for query in range(quad * abreast, quad * abreast + abreast):
                asleep = asleep and limits[query] == 0
            if asleep:
                continue
            for vector in range(start, stop, step):
                offset = vector // per_block * width * BLOCK + vector % per_block * LANES
                which = tile(
                    planes, offset, width, words, quad * width * abreast,
                    limits, quad * abreast, shape, masks, sums,
                )  # fmt: skip
                while which != 0:
                    index = lowest(which)
                    which &= which - np.uint64(1)
                    query = quad * abreast + index // groups
                    if limits[query] == 0:
                        continue
                    part = vector + index % groups
                    # Not masks[index]: the bound may have fallen since.
                    mask = mask_of(sums, index, limits[query])
                    if len(allowed):
                        mask &= allowed[part]
                    bound = bounds[query]
                    fill = filled[query]
                    near = below[query]
                    while mask != 0:
                        lane = lowest(mask)
                        mask &= mask - np.uint64(1)
                        row = part * LANES + lane
                        distance = np.int64(sums[index * LANES + lane]) - 1
                        if distance < 1 and width == NARROW_BYTES:
                            word = quad * width * abreast + index // groups
                            distance = _distance(planes, width, row, words, word, abreast)
                        if distance >= bound or row >= size:
                            continue
                        keys[query, fill] = distance << ROW_BITS | row
                        fill += 1
                        counts[query, distance] += 1
                        near += 1
                        while near >= k:
                            bound -= 1
                            near -= counts[query, bound]
                        if fill == room:
                            fill = _keep(keys[query], fill, bound, k - near)
                    filled[query] = fill
                    if bound != bounds[query]:
                        bounds[query] = bound
                        limits[query] = _limit(bound, wide)
                    below[query] = near


@compiled
def nearest(  # type: ignore[no-untyped-def]
    planes, size, width, bits, last, progress, chunk, guess, words, queries, shape, allowed, k,
    masks, sums, out,
):  # fmt: skip
    """The k nearest codes, among blocks [0, last), of each of a tile of queries.

    Threads may share the blocks: each claims `chunk` of them at a time from `progress`, until
    none are left, and gives the nearest among those it had. Then the k least keys of all threads
    are the results, unless there are fewer than k and progress[GUESSED] tells that codes were
    left out by a guess that was too low: that asks for another call, without `guess`.

    planes: uint8, flat; size: codes in it; progress: int64 (PROGRESS,), zeros at first; words:
    uint64 (tiles * width * len(shape) // 8), see `tile`; allowed: uint64, a bit for every code,
    or empty for all; out: int64 (queries, k) keys in ascending order, filled up with MISSING, or
    left as it is by a thread that came too late to claim anything.
    """
    start = claim(progress, NEXT, chunk)
    if start >= last:
        return
    abreast, groups = len(shape) // 8, len(shape) % 8
    wide = sums.itemsize == 2
    per_block = BLOCK // LANES
    shared = chunk < last
    keys = np.empty((queries, 2 * k + 256), np.int64)
    filled = np.zeros(queries, np.int64)
    counts = np.zeros((queries, bits + 2), np.int32)
    below = np.zeros(queries, np.int64)
    bounds = np.full(queries, bits + 1, np.int64)
    tiles = (queries + abreast - 1) // abreast
    limits = np.zeros(tiles * abreast, np.uint64)
    for query in range(queries):
        limits[query] = _limit(bits + 1, wide)

    # Without a bound to begin with, k (1 + ln(n / k)) codes would be collected, most of them in
    # vain. So guess one: the distance that enough of a sample, every 32nd vector, is within.
    sample = last * per_block // (SAMPLE * groups) * LANES * groups
    share = k / SAMPLE
    enough = int(share + 4 * np.sqrt(share) + 4)
    guessed = guess and k >= 16 and sample >= 8 * enough
    if guessed:
        _sweep(
            planes, size, width, 0, last * per_block, SAMPLE * groups, words, shape, allowed,
            enough, masks, sums, keys, filled, counts, below, bounds, limits,
        )  # fmt: skip
        for query in range(queries):
            bounds[query] = min(bounds[query], bits) + 1
            limits[query] = _limit(bounds[query], wide)
            filled[query] = below[query] = 0
            counts[query] = 0
            if bounds[query] <= bits:
                progress[GUESSED] = 1
    guesses = bounds.copy()
    swept = 0
    while start < last:
        stop = min(start + chunk, last)
        _sweep(
            planes, size, width, start * per_block, stop * per_block, groups, words, shape,
            allowed, k, masks, sums, keys, filled, counts, below, bounds, limits,
        )  # fmt: skip
        swept += stop - start
        start = claim(progress, NEXT, chunk)
    if guessed and not shared:
        # A guess was too low where fewer than k were found below it: search these again.
        again = False
        for query in range(queries):
            limits[query] = 0
            if bounds[query] == guesses[query] and bounds[query] <= bits:
                again = True
                bounds[query] = bits + 1
                limits[query] = _limit(bits + 1, wide)
                filled[query] = below[query] = 0
                counts[query] = 0
        if again:
            _sweep(
                planes, size, width, 0, last * per_block, groups, words, shape, allowed, k,
                masks, sums, keys, filled, counts, below, bounds, limits,
            )  # fmt: skip
    places = np.empty(bits + 2, np.int64)
    ordered = np.empty(k + 1, np.int64)
    for query in range(queries):
        _order(keys[query], filled[query], counts[query], bounds[query], places, ordered)
        out[query] = ordered[:k]
    claim(progress, DONE, swept)


@compiled
def _order(keys, filled, counts, bound, places, out):  # type: ignore[no-untyped-def]
    """Sort keys that are in row order by distance, stably, and keep the first len(out) - 1.

    counts[d] is the number of keys at each distance below `bound`; those beyond it, and at it
    those that are too many, all land in the last place of `out`, which means nothing.
    """
    out[:] = MISSING
    most = len(out) - 1
    place = 0
    for distance in range(bound):
        places[distance] = place
        place += counts[distance]
    places[bound:] = most
    places[bound] = place
    for position in range(filled):
        key = keys[position]
        place = places[key >> ROW_BITS]
        out[min(place, most)] = key
        places[key >> ROW_BITS] = place + 1


@compiled
def await_others(progress, blocks):  # type: ignore[no-untyped-def]
    """Whether all `blocks` that threads claimed have been searched: looks for a short while."""
    looks = 0
    while claim(progress, DONE, 0) < blocks:
        looks += 1
        if looks == PATIENCE:
            return False
    return True


@compiled
def within(  # type: ignore[no-untyped-def]
    planes, size, width, first, last, words, queries, radii, shape, allowed, masks, sums,
    found, owners,
):  # fmt: skip
    """The codes of blocks [first, last) within radii[query] of each of a tile of queries.

    Appends keys to `found` and query numbers to `owners`, in row order for each query, until
    the next stretch of blocks might not fit. Returns (number found, block to go on from).
    """
    abreast, groups = len(shape) // 8, len(shape) % 8
    wide = sums.itemsize == 2
    tiles = (queries + abreast - 1) // abreast
    limits = np.zeros(tiles * abreast, np.uint64)
    for query in range(queries):
        limits[query] = _limit(radii[query] + 1, wide)
    stretch = max(1, STRETCH // (width * BLOCK))
    filled = 0
    for start in range(first, last, stretch):
        stop = min(start + stretch, last)
        if filled + (stop - start) * BLOCK * queries > len(found):
            return filled, start
        for quad in range(tiles):
            for vector in range(start * (BLOCK // LANES), stop * (BLOCK // LANES), groups):
                block = vector // (BLOCK // LANES)
                offset = block * width * BLOCK + vector % (BLOCK // LANES) * LANES
                which = tile(
                    planes, offset, width, words, quad * width * abreast,
                    limits, quad * abreast, shape, masks, sums,
                )  # fmt: skip
                while which != 0:
                    index = lowest(which)
                    which &= which - np.uint64(1)
                    mask = masks[index]
                    query = quad * abreast + index // groups
                    if limits[query] == 0:
                        continue
                    part = vector + index % groups
                    if len(allowed):
                        mask &= allowed[part]
                    reach = radii[query]
                    while mask != 0:
                        lane = lowest(mask)
                        mask &= mask - np.uint64(1)
                        row = part * LANES + lane
                        distance = np.int64(sums[index * LANES + lane]) - 1
                        if distance < 1 and width == NARROW_BYTES:
                            word = quad * width * abreast + index // groups
                            distance = _distance(planes, width, row, words, word, abreast)
                        if distance > reach or row >= size:
                            continue
                        found[filled] = distance << ROW_BITS | row
                        owners[filled] = query
                        filled += 1
    return filled, last


@compiled
def tally(found, owners, counts):  # type: ignore[no-untyped-def]
    """Add to counts[q, d] how many keys query q found at distance d."""
    for position in range(len(found)):
        counts[owners[position], found[position] >> ROW_BITS] += 1


@compiled
def lay_out(counts, start, distances):  # type: ignore[no-untyped-def]
    """Write the distances of all results, from `start` on; counts become where each run begins."""
    place = start
    for query in range(counts.shape[0]):
        for distance in range(counts.shape[1]):
            first = place
            place += counts[query, distance]
            counts[query, distance] = first
            distances[first:place] = distance


@compiled
def put(found, owners, cursors, rows):  # type: ignore[no-untyped-def]
    """Write rows, which are in order for each query, where the runs of their distances go on."""
    for position in range(len(found)):
        query, distance = owners[position], found[position] >> ROW_BITS
        rows[cursors[query, distance]] = found[position] & ROW_MASK
        cursors[query, distance] += 1


@compiled
def split(keys, distances, rows):  # type: ignore[no-untyped-def]
    """Take keys (queries, k') apart into distances and rows (queries, k), k' <= k."""
    queries, length = keys.shape
    for query in range(queries):
        for position in range(distances.shape[1]):
            key = keys[query, position] if position < length else MISSING
            found = key != MISSING
            distances[query, position] = key >> ROW_BITS if found else np.iinfo(np.int32).max
            rows[query, position] = key & ROW_MASK if found else -1


@compiled
def merge(parts, out):  # type: ignore[no-untyped-def]
    """Merge ascending keys (parts, queries, k) into the k least of each query (queries, k)."""
    count_parts, queries, length = parts.shape
    heads = np.empty(count_parts, np.int64)
    for query in range(queries):
        heads[:] = 0
        for position in range(length):
            best = MISSING
            owner = 0
            for part in range(count_parts):
                if heads[part] < length and parts[part, query, heads[part]] < best:
                    best = parts[part, query, heads[part]]
                    owner = part
            heads[owner] += 1
            out[query, position] = best
