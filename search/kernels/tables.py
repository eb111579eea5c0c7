"""Kernels of multi-index hashing: tables of codes by parts of their bits.

Norouzi, Punjani and Fleet, "Fast Exact Search in Hamming Space with Multi-Index Hashing"
(TPAMI 2014): two codes within radius r agree within floor(r / m) bits on one of m parts. So the
parts of a query are looked up with 0, 1, 2, ... bits flipped, in every table in turn, until the
codes found are certain to be the nearest. No kernel checks its arguments.
"""

import numpy as np

from search.kernels.compiling import compiled
from search.kernels.shared import BLOCK, ROW_BITS, count, to_words

LOOKUP = 8  # what looking one part up costs, in comparisons of a code found there


@compiled
def part(words, start, width):  # type: ignore[no-untyped-def]
    """Bits [start, start + width) of a code in 64-bit words, first bit highest; width < 64."""
    word, shift = start // 64, start % 64
    value = words[word] << np.uint64(shift)
    if shift + width > 64:
        value |= words[word + 1] >> np.uint64(64 - shift)
    return np.int64(value >> np.uint64(64 - width))


@compiled
def fill(planes, bytes_each, size, start, width, starts, words, rows):  # type: ignore[no-untyped-def]
    """Make one table: codes and rows ordered by their part, and where each part's begin.

    starts: (2 ** width + 1,), zeros; words: (size, ceil(bytes_each / 8)); rows: (size,).
    """
    codes = np.empty((BLOCK, words.shape[1]), np.uint64)
    for block in range((size + BLOCK - 1) // BLOCK):
        to_words(planes, bytes_each, block, codes)
        for lane in range(min(BLOCK, size - block * BLOCK)):
            starts[part(codes[lane], start, width) + 1] += 1
    for key in range(len(starts) - 1):
        starts[key + 1] += starts[key]
    for block in range((size + BLOCK - 1) // BLOCK):
        to_words(planes, bytes_each, block, codes)
        for lane in range(min(BLOCK, size - block * BLOCK)):
            key = part(codes[lane], start, width)
            words[starts[key]] = codes[lane]
            rows[starts[key]] = block * BLOCK + lane
            starts[key] += 1
    # Every entry now is where the next part begins: move them up by one.
    for key in range(len(starts) - 1, 0, -1):
        starts[key] = starts[key - 1]
    starts[0] = 0


@compiled
def _expected(width, flips, size):  # type: ignore[no-untyped-def]
    """Comparisons to look up all parts `flips` bits away, were `size` codes spread evenly."""
    ways = 1.0
    for taken in range(flips):
        ways *= max(width - taken, 0) / (taken + 1)
    return np.int64(min(ways * (LOOKUP + size / 2.0**width), 1e18))


@compiled
def _is_new(difference, edges, table, flips):  # type: ignore[no-untyped-def]
    """Whether no table looked up before leads to a code that differs from the query so."""
    for other in range(len(edges) - 1):
        if other != table:
            away = np.uint64(part(difference, edges[other], edges[other + 1] - edges[other]))
            if count(away) < flips + (other < table):
                return False
    return True


@compiled
def probe(  # type: ignore[no-untyped-def]
    queries, edges, starts, words, rows, k, radii, budget, keys, filled, spent
):
    """Collect the codes within radii[q] of each query, or as far as its k nearest may lie.

    queries: uint64 (q, words); edges: int64 (tables + 1,), the bits where parts begin; starts:
    (tables, 2 ** widest + 1); words: uint64 (tables, n, words); rows: (tables, n); budget:
    comparisons after which a query is given up. keys: int64 (q, room), or (q, 0) to count
    only. filled[q] becomes the number of keys, which are in no order, or -1 where the query was
    given up, or found more than there is room for; spent[q], the comparisons.
    """
    tables = len(edges) - 1
    bits = edges[tables]
    room = keys.shape[1]
    counts = np.zeros(bits + 1, np.int64)
    difference = np.empty(queries.shape[1], np.uint64)
    for query in range(len(queries)):
        code = queries[query]
        counts[:] = 0
        fill, cost = np.int64(0), np.int64(0)
        bound, within = np.int64(radii[query]), np.int64(0)
        done = bool(bound < 0)
        level = 0
        while not done and cost <= budget:
            flips, table = level // tables, level % tables
            start, width = edges[table], edges[table + 1] - edges[table]
            if cost + _expected(width, flips, words.shape[1]) > budget:
                cost = budget + 1
                break
            key = part(code, start, width)
            flipped = np.int64((1 << flips) - 1)
            while flips <= width and flipped < (1 << width) and cost <= budget:
                first, last = starts[table, key ^ flipped], starts[table, (key ^ flipped) + 1]
                cost += LOOKUP + np.int64(last - first)
                for position in range(first, last):
                    distance = 0
                    for word in range(len(difference)):
                        difference[word] = words[table, position, word] ^ code[word]
                        distance += count(difference[word])
                    if distance > bound or not _is_new(difference, edges, table, flips):
                        continue
                    if room > 0:
                        if fill == room:
                            fill = _drop(keys[query], fill, bound)
                            if fill == room:
                                cost = budget + 1
                                break
                        keys[query, fill] = np.int64(distance) << ROW_BITS | np.int64(
                            rows[table, position]
                        )
                    fill += 1
                    counts[distance] += 1
                    within += 1
                    while bound > 0 and within - counts[bound] >= k:
                        within -= counts[bound]
                        bound -= 1
                if flips == 0:
                    break
                low = flipped & -flipped
                up = flipped + low
                flipped = (((up ^ flipped) >> 2) // low) | up
            # Every code within `level` bits has now been found.
            done = bool(level >= bound)
            level += 1
        spent[query] = cost
        if not done or cost > budget:
            filled[query] = -1
        elif room > 0:
            filled[query] = _drop(keys[query], fill, bound)
        else:
            filled[query] = fill


@compiled
def _drop(keys, fill, bound):  # type: ignore[no-untyped-def]
    """Drop, in place, the keys beyond the bound; returns how many are left."""
    kept = 0
    for position in range(fill):
        if keys[position] >> ROW_BITS <= bound:
            keys[kept] = keys[position]
            kept += 1
    return kept
