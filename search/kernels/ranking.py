"""Counting what a ranking by Hamming distance holds, and the exact expectations that follow.

A ranking by distance is a sequence of ties: all items at distance 0, all at 1, and so on. How many
items each tie holds, and how many of them are relevant, fixes the expected value of every measure
over all orders within the ties; no order ever has to be drawn or averaged.

Arrays in, arrays out, no checks: `search.measures.ranking` validates.

Layouts: codes and label masks word by word, uint64 (words, n); queries one by one, (q, words).
Counts are int64 (q, 2 * (bits + 1)): entry 2 * d + 1 holds the relevant items at distance d, entry
2 * d the others.
"""

import numpy as np

from search.kernels.compiling import compiled
from search.kernels.shared import count

# Items whose distances are computed at once, by vector instructions, before they are counted.
PIECE = 1024
# Queries that walk a piece while it is in the innermost cache.
TILE = 8
# Histograms filled in turn: a counter written a moment ago is not yet readable at full speed,
# and learned codes hit the same counter again and again.
COPIES = 4
# From here on the expansion of the harmonic numbers is exact to float64.
LARGE = 256


@compiled
def _keys(query, codes, start, stop, keys):  # type: ignore[no-untyped-def]
    """Twice the Hamming distance of `query` to codes `start` to `stop`, into uint16 `keys`."""
    word = query[0]
    piece = codes[0, start:stop]
    for item in range(piece.size):
        keys[item] = 2 * count(word ^ piece[item])
    for row in range(1, codes.shape[0]):
        word = query[row]
        piece = codes[row, start:stop]
        for item in range(piece.size):
            keys[item] += 2 * count(word ^ piece[item])


@compiled
def _tally(keys, length, histograms):  # type: ignore[no-untyped-def]
    """Count the first `length` keys into `COPIES` histograms in turn."""
    whole = length - length % COPIES
    for item in range(0, whole, COPIES):
        # Unsigned, so that no index is tested for being negative.
        histograms[0, np.uint64(keys[item])] += 1
        histograms[1, np.uint64(keys[item + 1])] += 1
        histograms[2, np.uint64(keys[item + 2])] += 1
        histograms[3, np.uint64(keys[item + 3])] += 1
    for item in range(whole, length):
        histograms[0, np.uint64(keys[item])] += 1


@compiled
def count_by_class(queries, codes, query_labels, labels, counts):  # type: ignore[no-untyped-def]
    """Count items by distance and relevance, where relevant means the same class.

    `queries` uint64 (q, words), `codes` uint64 (words, n), labels int32 (q,) and (n,). Adds to
    `counts` int64 (q, 2 * (bits + 1)).
    """
    keys = np.empty(PIECE, np.uint16)
    histograms = np.empty((TILE, COPIES, counts.shape[1]), np.int64)
    for first in range(0, queries.shape[0], TILE):
        tile = min(TILE, queries.shape[0] - first)
        histograms[:] = 0
        for start in range(0, codes.shape[1], PIECE):
            stop = min(start + PIECE, codes.shape[1])
            piece = labels[start:stop]
            for row in range(tile):
                _keys(queries[first + row], codes, start, stop, keys)
                label = query_labels[first + row]
                for item in range(piece.size):
                    keys[item] += piece[item] == label
                _tally(keys, piece.size, histograms[row])
        for row in range(tile):
            for copy in range(COPIES):
                counts[first + row] += histograms[row, copy]


@compiled
def count_by_mask(queries, codes, query_masks, masks, counts):  # type: ignore[no-untyped-def]
    """Count items by distance and relevance, where relevant means at least one label in common.

    As `count_by_class`, with labels as bit masks: uint64 (q, label words) and (label words, n).
    """
    keys = np.empty(PIECE, np.uint16)
    shared = np.empty(PIECE, np.uint64)
    histograms = np.empty((TILE, COPIES, counts.shape[1]), np.int64)
    for first in range(0, queries.shape[0], TILE):
        tile = min(TILE, queries.shape[0] - first)
        histograms[:] = 0
        for start in range(0, codes.shape[1], PIECE):
            stop = min(start + PIECE, codes.shape[1])
            length = stop - start
            for row in range(tile):
                _keys(queries[first + row], codes, start, stop, keys)
                shared[:] = 0
                for word in range(masks.shape[0]):
                    mask = query_masks[first + row, word]
                    piece = masks[word, start:stop]
                    for item in range(piece.size):
                        shared[item] |= mask & piece[item]
                for item in range(length):
                    keys[item] += shared[item] != 0
                _tally(keys, length, histograms[row])
        for row in range(tile):
            for copy in range(COPIES):
                counts[first + row] += histograms[row, copy]


@compiled
def count_sharing(query_masks, masks, counts):  # type: ignore[no-untyped-def]
    """How many items share a label with each query, into `counts` int64 (q,)."""
    for query in range(query_masks.shape[0]):
        total = 0
        for item in range(masks.shape[1]):
            shared = np.uint64(0)
            for word in range(masks.shape[0]):
                shared |= query_masks[query, word] & masks[word, item]
            total += shared != 0
        counts[query] = total


@compiled
def expected_relevant(counts, cuts, expected):  # type: ignore[no-untyped-def]
    """Expected number of relevant items among the first `cuts` of each ranking.

    `cuts` int64 (m,), ascending, none beyond the number of items; `expected` float64 (q, m). The
    tie that a cut goes through gives a share of its relevant items in proportion.
    """
    for query in range(counts.shape[0]):
        before = 0
        relevant_before = 0
        key = 0
        for column in range(cuts.size):
            cut = cuts[column]
            while before + counts[query, key] + counts[query, key + 1] < cut:
                before += counts[query, key] + counts[query, key + 1]
                relevant_before += counts[query, key + 1]
                key += 2
            items = counts[query, key] + counts[query, key + 1]
            share = (cut - before) * counts[query, key + 1] / items
            expected[query, column] = relevant_before + share


@compiled
def _harmonic_step(before, items):  # type: ignore[no-untyped-def]
    """1 / (before + 1) + ... + 1 / (before + items)."""
    total = 0.0
    after = before + items
    while before < LARGE and before < after:
        before += 1
        total += 1.0 / before
    if before < after:
        # H(m) = ln m + gamma + 1 / 2m - 1 / 12m^2 + 1 / 120m^4 - ..., at both ends; taking the
        # difference term by term keeps the digits that two large sums would lose.
        low, high = 1.0 / before, 1.0 / after
        total += np.log1p((after - before) / before) + (high - low) / 2
        total -= (high**2 - low**2) / 12 - (high**4 - low**4) / 120
    return total


@compiled
def _tie(before, relevant_before, items, relevant, step):  # type: ignore[no-untyped-def]
    """Expected sum of the precision at each relevant item of one tie.

    The tie fills the positions `before` + 1 to `before` + `items` in random order; `step` is the
    harmonic step over them. Position t is relevant with probability r / n, and then expects
    (t - 1)(r - 1) / (n - 1) relevant items of the tie in front of it.
    """
    if relevant == 0:
        return 0.0
    slope = (relevant - 1) / (items - 1) if items > 1 else 0.0
    total = slope * items + (relevant_before + 1 - slope * (before + 1)) * step
    return total * relevant / items


@compiled
def _cut_tie(done, before, relevant_before, items, relevant, taken, possible):  # type: ignore[no-untyped-def]
    """Expected average precision when only the first `taken` positions of the last tie count.

    How many of the tie's relevant items are among them is hypergeometric, and given that number
    their positions are uniform. The weights are built outwards from the most likely number until
    they no longer matter, and divided by their own sum. `possible` is the denominator, or 0 for
    the relevant items that were retrieved.
    """
    step = _harmonic_step(before, taken)
    lowest = max(0, taken - (items - relevant))
    highest = min(taken, relevant)
    likeliest = min(max((taken + 1) * (relevant + 1) // (items + 2), lowest), highest)
    weights = 0.0
    total = 0.0
    for direction in (1, -1):
        weight = 1.0
        number = likeliest
        while lowest <= number <= highest and weight > 1e-20:
            if direction == 1 or number != likeliest:
                denominator = possible if possible > 0 else relevant_before + number
                weights += weight
                if denominator > 0:
                    value = done + _tie(before, relevant_before, taken, number, step)
                    total += weight * value / denominator
            # Ratios of neighbouring hypergeometric probabilities.
            if direction == 1:
                weight *= (relevant - number) / (number + 1)
                weight *= (taken - number) / (items - relevant - taken + number + 1)
            else:
                weight *= number / (relevant - number + 1)
                weight *= (items - relevant - taken + number) / (taken - number + 1)
            number += direction
    return total / weights


@compiled
def expected_average_precision(counts, top, of_possible, expected):  # type: ignore[no-untyped-def]
    """Expected average precision of the first `top` positions, into `expected` float64 (q,).

    The denominator is the number of relevant items within the top, or, `of_possible`, the most
    there could have been: the smaller of `top` and all relevant items. 0 where it would be 0.
    """
    for query in range(counts.shape[0]):
        total = 0
        for key in range(1, counts.shape[1], 2):
            total += counts[query, key]
        possible = min(top, total) if of_possible else 0
        before = np.int64(0)
        relevant_before = np.int64(0)
        done = 0.0
        result = -1.0
        for key in range(0, counts.shape[1], 2):
            relevant = counts[query, key + 1]
            items = counts[query, key] + relevant
            if before + items > top:
                if before < top:
                    result = _cut_tie(
                        done, before, relevant_before, items, relevant, top - before, possible
                    )
                break
            if relevant > 0:
                step = _harmonic_step(before, items)
                done += _tie(before, relevant_before, items, relevant, step)
            before += items
            relevant_before += relevant
        if result < 0:
            denominator = possible if of_possible else relevant_before
            result = done / denominator if denominator > 0 else 0.0
        expected[query] = result
