"""Kernels of the bucket index: grouping equal codes, and turning found codes back into rows.

No kernel checks its arguments.
"""

from typing import Any

import numpy as np

from search.kernels.compiling import compiled
from search.kernels.shared import BLOCK, MISSING, PLAIN, ROW_BITS, to_words


@compiled
def _hash_compiled(words, position, seeds):  # type: ignore[no-untyped-def]
    """A 64-bit hash of one code: every word is folded in and mixed by multiplication.

    seeds: uint64 (2,), where the sum begins and an odd factor. Whoever does not know them cannot
    choose codes that have the same hash.
    """
    value, factor = seeds[0], seeds[1]
    for word in words[position]:
        value = (value ^ word) * factor
        value ^= value >> np.uint64(32)
    value *= factor
    return value ^ (value >> np.uint64(29))


def _hash_python(words: Any, position: int, seeds: Any) -> Any:
    """What `_hash_compiled` computes: NumPy would warn of every product that wraps round."""
    value, factor, last = int(seeds[0]), int(seeds[1]), 2**64 - 1
    for word in words[position]:
        value = (value ^ int(word)) * factor & last
        value ^= value >> 32
    value = value * factor & last
    return np.uint64(value ^ (value >> 29))


_hash: Any = _hash_python if PLAIN else _hash_compiled


@compiled
def _same(one, first, other, second):  # type: ignore[no-untyped-def]
    """Whether one[first] and other[second] are the same code."""
    for word in range(one.shape[1]):  # noqa: SIM110 (numba has no generator expressions)
        if one[first, word] != other[second, word]:
            return False
    return True


@compiled
def _find(codes, position, words, table, count, seeds):  # type: ignore[no-untyped-def]
    """The label of codes[position] in the hash table; -1 - slot where it is not there."""
    last = np.uint64(len(table) - 1)
    slot = _hash(codes, position, seeds) & last
    while table[slot] >= 0:
        label = np.int64(table[slot])
        if _same(codes, position, words, label):
            return label
        slot = (slot + np.uint64(1)) & last
    return -1 - np.int64(slot)


@compiled
def group(  # type: ignore[no-untyped-def]
    planes, width, start, stop, labels, words, table, count, seeds
):
    """Label the codes of rows [start, stop) by the order in which they first appear.

    labels: one for every row; words: uint64 (room, ceil(width / 8)), the
    distinct codes so far, of which there are `count`; table: int64, a power of two long, -1 where
    empty; seeds: those of the table, see `_hash_compiled`. Returns (row to go on from, count):
    before `stop` only when `words` is full.
    """
    codes = np.empty((BLOCK, words.shape[1]), np.uint64)
    row = start
    while row < stop:
        to_words(planes, width, row // BLOCK, codes)
        end = min(stop, (row // BLOCK + 1) * BLOCK)
        while row < end:
            label = _find(codes, row % BLOCK, words, table, count, seeds)
            if label < 0:
                if count == len(words):
                    return row, count
                table[-1 - label] = count
                words[count] = codes[row % BLOCK]
                label = count
                count += 1
            labels[row] = label
            row += 1
    return row, count


@compiled
def enter(words, count, table, seeds):  # type: ignore[no-untyped-def]
    """Enter distinct codes into an empty hash table."""
    for position in range(count):
        table[-1 - _find(words, position, words, table, count, seeds)] = position


@compiled
def absorb(others, start, words, table, count, names, seeds):  # type: ignore[no-untyped-def]
    """Add another group's codes from `start` on; names[i] becomes the label of others[i] here.

    Returns (position to go on from, count): before the end only when `words` is full.
    """
    for position in range(start, len(others)):
        label = _find(others, position, words, table, count, seeds)
        if label < 0:
            if count == len(words):
                return position, count
            table[-1 - label] = count
            words[count] = others[position]
            label = count
            count += 1
        names[position] = label
    return len(others), count


@compiled
def tally(labels, names, counts):  # type: ignore[no-untyped-def]
    """Rename labels in place and count each."""
    for position in range(len(labels)):
        label = names[labels[position]]
        labels[position] = label
        counts[label] += 1


@compiled
def place(labels, first, cursors, rows):  # type: ignore[no-untyped-def]
    """Write every row behind its label, ascending, from cursors[label] on."""
    for position in range(len(labels)):
        label = labels[position]
        rows[cursors[label]] = first + position
        cursors[label] += 1


@compiled
def reachable(offsets, rows, allowed, out):  # type: ignore[no-untyped-def]
    """Whether any row of each bucket is allowed."""
    for bucket in range(len(out)):
        out[bucket] = False
        for position in range(offsets[bucket], offsets[bucket + 1]):
            if allowed[rows[position]]:
                out[bucket] = True
                break


@compiled
def _sink(heap, size):  # type: ignore[no-untyped-def]
    """Restore a heap, largest first, whose root may be too small."""
    root = 0
    while True:
        child = 2 * root + 1
        if child >= size:
            return
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[root] >= heap[child]:
            return
        heap[root], heap[child] = heap[child], heap[root]
        root = child


@compiled
def _rise(heap, position):  # type: ignore[no-untyped-def]
    """Restore a heap, largest first, whose last entry may be too large."""
    while position > 0:
        parent = (position - 1) // 2
        if heap[parent] >= heap[position]:
            return
        heap[parent], heap[position] = heap[position], heap[parent]
        position = parent


@compiled
def _least(codes, offsets, rows, allowed, need, out):  # type: ignore[no-untyped-def]
    """The `need` least rows, ascending, of buckets that come in the order of their first rows.

    Returns how many there are.
    """
    size = np.int64(0)
    if len(codes) == 1 and len(allowed) == 0:
        start, stop = offsets[codes[0]], offsets[codes[0] + 1]
        size = min(need, stop - start)
        for position in range(size):
            out[position] = rows[start + position]
        return size
    for code in codes:
        start, stop = offsets[code], offsets[code + 1]
        if size == need and rows[start] > out[0]:
            break
        for position in range(start, stop):
            row = np.int64(rows[position])
            if len(allowed) and not allowed[row]:
                continue
            if size < need:
                out[size] = row
                _rise(out, size)
                size += 1
            elif row < out[0]:
                out[0] = row
                _sink(out, size)
            else:
                break
    for end in range(size - 1, 0, -1):
        out[0], out[end] = out[end], out[0]
        _sink(out, end)
    return size


@compiled
def expand(  # type: ignore[no-untyped-def]
    code_distances, codes, starts, whole, k, offsets, rows, allowed, keys, filled, certain
):
    """From the nearest codes of every query to the keys of its nearest rows, unordered.

    code_distances, codes: query q has those from starts[q] to starts[q + 1], in order, ended
    early by -1. They hold all the codes nearer than the last of them, and when `whole`, all that
    could matter. Writes filled[q] keys to keys[q], among them the k least, and MISSING after
    them; certain[q] tells whether they are exact: k rows were found before the last distance,
    which may be incomplete.
    """
    room = keys.shape[1]
    least = np.empty(k, np.int64)
    for query in range(len(starts) - 1):
        position, stop = starts[query], starts[query + 1]
        while stop > position and codes[stop - 1] < 0:
            stop -= 1
        fill = 0
        while position < stop and fill < k:
            distance = np.int64(code_distances[position])
            end = position
            while end < stop and code_distances[end] == distance:
                end += 1
            if end == stop and not whole:
                break
            need, before = k - fill, fill
            for code in codes[position:end]:
                first = offsets[code]
                last = offsets[code + 1]
                if len(allowed) == 0:
                    last = min(last, first + need)
                if fill + last - first > room:
                    # Too many tie to sort them all: keep no more than the least.
                    size = _least(codes[position:end], offsets, rows, allowed, need, least)
                    for index in range(size):
                        keys[query, before + index] = distance << ROW_BITS | least[index]
                    fill = before + size
                    break
                for index in range(first, last):
                    row = np.int64(rows[index])
                    if len(allowed) == 0 or allowed[row]:
                        keys[query, fill] = distance << ROW_BITS | row
                        fill += 1
            position = end
        certain[query] = whole or fill >= k
        filled[query] = fill
        keys[query, fill:] = MISSING


@compiled
def weigh(codes, starts, offsets, rows, allowed, totals):  # type: ignore[no-untyped-def]
    """The number of allowed rows behind each query's codes."""
    for query in range(len(starts) - 1):
        total = 0
        for code in codes[starts[query] : starts[query + 1]]:
            if len(allowed):
                for position in range(offsets[code], offsets[code + 1]):
                    total += allowed[rows[position]]
            else:
                total += offsets[code + 1] - offsets[code]
        totals[query] = total


@compiled
def unfold(  # type: ignore[no-untyped-def]
    code_distances, codes, starts, offsets, rows, allowed, ends, keys
):
    """The keys of all the allowed rows behind each query's codes, from ends[q] on, unordered."""
    for query in range(len(starts) - 1):
        fill = ends[query]
        for position in range(starts[query], starts[query + 1]):
            code = codes[position]
            for index in range(offsets[code], offsets[code + 1]):
                row = np.int64(rows[index])
                if len(allowed) == 0 or allowed[row]:
                    keys[fill] = np.int64(code_distances[position]) << ROW_BITS | row
                    fill += 1
