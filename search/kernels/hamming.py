"""Kernels of the exact Hamming search: scanning blocks of codes, and ordering what was found.

The layout they read: 256 codes make a block, and a block holds first byte 0 of all its codes,
then byte 1, and so on. A vector register then holds the same byte of 64 different codes, so
`xor`, `popcount of each byte` and `add` are the whole work, no register is ever summed across,
any number of bytes costs only itself, and the distances come out as bytes that one comparison
turns into a 64-bit mask: `tile`, in `search.kernels.vectors`.

Found codes are kept as keys: `distance << 48 | row`, so that the order of keys is the order of
results. No kernel checks its arguments.
"""

import numpy as np

from search.kernels.compiling import compiled
from search.kernels.shared import BLOCK, ROW_BITS, ROW_MASK
from search.kernels.shared import MISSING as MISSING
from search.kernels.tile import WENT_ON, tile
from search.kernels.vectors import LANES as LANES
from search.kernels.vectors import claim, lowest, mask_of
from search.kernels.words import byte_distance, query_words

STRETCH = 24576  # bytes of codes that stay in the first-level cache while queries walk them
# One vector in so many is looked at to guess how near the k nearest will be. Each of the threads
# that share a query looks at its own guess: that many times as few, so that all take as long.
SAMPLE = 32
# Codes of up to so many bytes (256 bits) have `distance + 1` summed in one byte. Distances 255 and
# 256 wrap round and read as -1 and 0; at that width the kernels check such sums again.
NARROW_BYTES = 32
# Where the numbers that threads share lie in `progress`, a cache line or more apart.
NEXT, DONE, GUESSED, PROGRESS = 0, 16, 32, 48
PATIENCE = 20_000  # looks at another thread's progress, some tenths of a millisecond


@compiled
def _distance(planes, width, row, words, first, step):  # type: ignore[no-untyped-def]
    """Hamming distance of one code from the query whose first byte is entry `first` of words."""
    at = (row // BLOCK) * width * BLOCK + row % BLOCK
    total = 0
    for plane in range(width):
        byte = np.uint64(planes[at + plane * BLOCK])
        total += byte_distance(words, first + plane * step, byte, step)
    return total


@compiled
def limit_of(bound, wide):  # type: ignore[no-untyped-def]
    """The limit that lets distances below `bound` pass, repeated to fill a word."""
    if wide:
        return np.uint64(bound) * np.uint64(0x0001000100010001)
    return np.uint64(min(bound, 255)) * np.uint64(0x0101010101010101)


@compiled
def _telling(radius, width):  # type: ignore[no-untyped-def]
    """How many of the bytes are enough to tell of most codes that they are beyond a radius.

    The bits in which n bytes of unrelated codes differ are 4 n on average, with a deviation of
    sqrt(2 n): of 300,000 codes one is 4.5 deviations nearer. All bytes, where that saves little.
    """
    for some in range(1, 3 * width // 4 + 1):
        if 4 * some - 4.5 * np.sqrt(2.0 * some) > radius:
            return some
    return width


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
def sweep(  # type: ignore[no-untyped-def]
    planes, size, width, first, last, step, words, shape, allowed, k, sums,
    owners, keys, filled, counts, below, bounds, limits,
):  # fmt: skip
    """Collect what is nearer than the bounds, in vectors first, first + step, ... before last.

    words and limits are of the queries `owners`, as many abreast as `shape` says; the rest is of
    all. counts[q, d] is the number of keys found at distance d, below[q] of those nearer than
    bounds[q]. As soon as k are nearer than the bound, it falls: it ends where the k-th nearest
    lies, because what comes later, in row order, must be strictly nearer to be a result.
    """
    abreast = len(shape) // 8
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
            for place in range(quad * abreast, quad * abreast + abreast):
                asleep = asleep and limits[place] == 0
            if asleep:
                continue
            for vector in range(start, stop, step):
                offset = vector // per_block * width * BLOCK + vector % per_block * LANES
                which = tile(
                    planes, offset, width, width, words, quad * width * abreast,
                    limits, quad * abreast, shape, sums,
                )  # fmt: skip
                while which != 0:
                    index = lowest(which)
                    which &= which - np.uint64(1)
                    place = quad * abreast + index % abreast
                    if limits[place] == 0:
                        continue
                    query = owners[place]
                    part = vector + index // abreast
                    # Of the limit as it is now: the bound may have fallen.
                    mask = mask_of(sums, index, limits[place])
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
                            word = quad * width * abreast + index % abreast
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
                        limits[place] = limit_of(bound, wide)
                    below[query] = near


@compiled
def nearest(  # type: ignore[no-untyped-def]
    planes, size, bits, last, progress, chunk, stride, asked, by_table, shape, allowed, k,
    sums, out,
):  # fmt: skip
    """The k nearest codes, among blocks [0, last), of each of a tile of queries.

    Threads may share the blocks: each claims `chunk` of them at a time from `progress`, until
    none are left, and gives the nearest among those it had. Then the k least keys of all threads
    are the results, unless there are fewer than k and progress[GUESSED] tells that codes were
    left out by a guess that was too low: that asks for another call, with a `stride` of 0.

    planes: uint8, flat; size: codes in it; progress: int64 (PROGRESS,), zeros at first; stride:
    one vector in so many is looked at for a guess, none if 0; asked: uint8 (queries, width);
    by_table: see `query_words`; allowed: uint64, a bit for every code, or empty for all; out:
    int64 (queries, k) keys in ascending order, filled up with MISSING, or left as it is by a
    thread that came too late to claim anything.
    """
    start = claim(progress, NEXT, chunk)
    if start >= last:
        return
    queries, width = asked.shape
    abreast, groups = len(shape) // 8, len(shape) % 8
    words = query_words(asked, abreast, by_table)
    wide = sums.itemsize == 2
    per_block = BLOCK // LANES
    shared = chunk < last
    origin = np.int64(0)  # for a literal 0 `sweep` would be compiled once more
    keys = np.empty((queries, 2 * k + 256), np.int64)
    filled = np.zeros(queries, np.int64)
    counts = np.zeros((queries, bits + 2), np.int32)
    below = np.zeros(queries, np.int64)
    bounds = np.full(queries, bits + 1, np.int64)
    tiles = (queries + abreast - 1) // abreast
    owners = np.arange(tiles * abreast)
    limits = np.zeros(tiles * abreast, np.uint64)
    for query in range(queries):
        limits[query] = limit_of(bits + 1, wide)

    # Without a bound to begin with, k (1 + ln(n / k)) codes would be collected, most of them in
    # vain. So guess one: the distance that enough of a sample is within.
    guessed, enough = False, np.int64(0)
    if stride > 0 and k >= 16:
        sample = last * per_block // (stride * groups) * LANES * groups
        share = k / stride
        enough = np.int64(share + 4 * np.sqrt(share) + 4)
        guessed = sample >= 8 * enough
    if guessed:
        sweep(
            planes, size, width, origin, last * per_block, stride * groups, words, shape, allowed,
            enough, sums, owners, keys, filled, counts, below, bounds, limits,
        )  # fmt: skip
        for query in range(queries):
            bounds[query] = min(bounds[query], bits) + 1
            limits[query] = limit_of(bounds[query], wide)
            filled[query] = below[query] = 0
            counts[query] = 0
            if bounds[query] <= bits:
                progress[GUESSED] = 1
    guesses = bounds.copy()
    swept = 0
    while start < last:
        stop = min(start + chunk, last)
        sweep(
            planes, size, width, start * per_block, stop * per_block, groups, words, shape,
            allowed, k, sums, owners, keys, filled, counts, below, bounds, limits,
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
                limits[query] = limit_of(bits + 1, wide)
                filled[query] = below[query] = 0
                counts[query] = 0
        if again:
            sweep(
                planes, size, width, origin, last * per_block, groups, words, shape, allowed, k,
                sums, owners, keys, filled, counts, below, bounds, limits,
            )  # fmt: skip
    places = np.empty(bits + 2, np.int64)
    ordered = np.empty(k + 1, np.int64)
    for query in range(queries):
        order(keys[query], filled[query], counts[query], bounds[query], places, ordered)
        # Element by element: copies of slices take numba seconds to compile.
        for position in range(k):
            out[query, position] = ordered[position]
    claim(progress, DONE, swept)


@compiled
def order(keys, filled, counts, bound, places, out):  # type: ignore[no-untyped-def]
    """Sort keys that are in row order by distance, stably, and keep the first len(out) - 1.

    counts[d] is the number of keys at each distance below `bound`; those beyond it, and at it
    those that are too many, all land in the last place of `out`, which means nothing.
    """
    most = len(out) - 1
    for position in range(most):
        out[position] = MISSING
    place = 0
    for distance in range(bound):
        places[distance] = place
        place += counts[distance]
    for distance in range(bound, len(places)):
        places[distance] = most
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
    planes, size, first, last, asked, by_table, radii, shape, allowed, sums, found,
    owners,
):  # fmt: skip
    """The codes of blocks [first, last) within radii[query] of each of a tile of queries.

    Appends keys to `found` and query numbers to `owners`, in row order for each query, until
    the next stretch of blocks might not fit. Returns (number found, block to go on from).
    """
    queries, width = asked.shape
    abreast, groups = len(shape) // 8, len(shape) % 8
    words = query_words(asked, abreast, by_table)
    wide = sums.itemsize == 2
    tiles = (queries + abreast - 1) // abreast
    limits = np.zeros(tiles * abreast, np.uint64)
    farthest = np.full(tiles, -1)
    for query in range(queries):
        limits[query] = limit_of(radii[query] + 1, wide)
        farthest[query // abreast] = max(farthest[query // abreast], radii[query])
    stretch = max(1, STRETCH // (width * BLOCK))
    filled = 0
    for start in range(first, last, stretch):
        stop = min(start + stretch, last)
        if filled + (stop - start) * BLOCK * queries > len(found):
            return filled, start
        for quad in range(tiles):
            enough = _telling(farthest[quad], width)
            for vector in range(start * (BLOCK // LANES), stop * (BLOCK // LANES), groups):
                block = vector // (BLOCK // LANES)
                offset = block * width * BLOCK + vector % (BLOCK // LANES) * LANES
                which = tile(
                    planes, offset, width, enough, words, quad * width * abreast,
                    limits, quad * abreast, shape, sums,
                )  # fmt: skip
                if which >> np.uint64(WENT_ON) != 0:
                    enough = width  # the codes that follow are likely to be near as well
                    which &= ~(np.uint64(1) << np.uint64(WENT_ON))
                while which != 0:
                    index = lowest(which)
                    which &= which - np.uint64(1)
                    query = quad * abreast + index % abreast
                    if limits[query] == 0:
                        continue
                    mask = mask_of(sums, index, limits[query])
                    part = vector + index // abreast
                    if len(allowed):
                        mask &= allowed[part]
                    reach = radii[query]
                    while mask != 0:
                        lane = lowest(mask)
                        mask &= mask - np.uint64(1)
                        row = part * LANES + lane
                        distance = np.int64(sums[index * LANES + lane]) - 1
                        if distance < 1 and width == NARROW_BYTES:
                            word = quad * width * abreast + index % abreast
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
