"""Merging ranked lists, and lists of ids. Arrays in, arrays out, no checks."""

import numpy as np

from search.kernels.compiling import compiled
from search.kernels.shared import count


@compiled
def merge(distances, ids, starts, stops, edges, out_distances, out_ids):  # type: ignore[no-untyped-def]
    """The best of several lists for each query, by (distance, id), missing results last.

    `distances` and `ids` (m,) hold the lists, each ascending with missing results (id -1) at its
    end. `starts` and `stops`, int64 (lists, queries), say where each lies. Query i gets as many as
    fit from `edges[i]` to `edges[i + 1]` of the results; its lists have at least so many.
    """
    lists, queries = starts.shape
    heads = np.empty(lists, np.int64)
    for query in range(queries):
        heads[:] = starts[:, query]
        for place in range(edges[query], edges[query + 1]):
            best, owner, best_distance, best_id = -1, 0, distances[0], -1
            for other in range(lists):
                at = heads[other]
                if at == stops[other, query]:
                    continue
                distance, id_ = distances[at], ids[at]
                if best == -1 or (
                    id_ != -1
                    and (
                        best_id == -1
                        or distance < best_distance
                        or (distance == best_distance and id_ < best_id)
                    )
                ):
                    best, owner, best_distance, best_id = at, other, distance, id_
            out_distances[place] = best_distance
            out_ids[place] = best_id
            heads[owner] += 1


@compiled
def locate(ids, wanted, rows):  # type: ignore[no-untyped-def]
    """Where each of `wanted` is in `ids`, or -1, into `rows`; all int64, both ascend strictly."""
    row = 0
    for position in range(len(wanted)):
        id_ = wanted[position]
        while row < len(ids) and ids[row] < id_:
            row += 1
        rows[position] = row if row < len(ids) and ids[row] == id_ else -1


@compiled
def mark_rows(wanted, alive, allowed):  # type: ignore[no-untyped-def]
    """Mark the rows whose numbers are wanted, and return how many of those there are.

    wanted: int64, in any order; alive: bool (n,), rows that count, or empty for all; allowed:
    bool (n,), False.
    """
    found = 0
    for position in range(len(wanted)):
        row = wanted[position]
        if row >= 0 and row < len(allowed) and (len(alive) == 0 or alive[row]):
            allowed[row] = True
            found += 1
    return found


@compiled
def rank(ids, ranks):  # type: ignore[no-untyped-def]
    """Make a table of where each id is, by its distance from the first.

    ids: int64 (n,), ascending strictly; ranks: uint64 (w, 2), zero, where 64 * w is more than the
    last id's distance. Entry d // 64 has a bit for each of its 64 distances, set where that is an
    id's, and the number of ids that come before those.
    """
    for row in range(len(ids)):
        distance = np.uint64(ids[row] - ids[0])
        ranks[distance >> np.uint64(6), 0] |= np.uint64(1) << (distance & np.uint64(63))
    before = np.uint64(0)
    for entry in range(len(ranks)):
        ranks[entry, 1] = before
        before += np.uint64(count(ranks[entry, 0]))


@compiled
def mark_ranked(wanted, first, ranks, alive, allowed):  # type: ignore[no-untyped-def]
    """Mark the rows whose ids are wanted, and return how many of those there are.

    wanted: int64, in any order; first: the first id; ranks: of `rank`; alive, allowed: as for
    `mark_rows`.
    """
    found = 0
    for position in range(len(wanted)):
        distance = np.uint64(wanted[position] - first)  # of a smaller id a huge one
        entry, bit = distance >> np.uint64(6), np.uint64(1) << (distance & np.uint64(63))
        if entry < np.uint64(len(ranks)) and ranks[entry, 0] & bit != 0:
            row = ranks[entry, 1] + np.uint64(count(ranks[entry, 0] & (bit - np.uint64(1))))
            if len(alive) == 0 or alive[row]:
                allowed[row] = True
                found += 1
    return found


@compiled
def mark(ids, wanted, start, stop, allowed):  # type: ignore[no-untyped-def]
    """Mark which of the rows from `start` to `stop` have a wanted id.

    ids: int64 (n,), wanted: int64 (m,), both ascending strictly; allowed: bool (n,), False.

    A step compares one pair and waits for the step before it. So four parts of the rows take
    their steps in turn, and the processor works on all of them.
    """
    rows = np.empty(5, np.uint64)  # unsigned: no index counts from the end, which would take time
    places = np.empty(5, np.uint64)
    for part in range(5):
        row = start + (stop - start) * part // 4
        rows[part] = row
        places[part] = _first(wanted, ids[row]) if row < len(ids) else len(wanted)
    row0, row1, row2, row3 = rows[0], rows[1], rows[2], rows[3]
    at0, at1, at2, at3 = places[0], places[1], places[2], places[3]
    while True:
        # No part ends within so many steps.
        steps = min(
            min(min(rows[1] - row0, places[1] - at0), min(rows[2] - row1, places[2] - at1)),
            min(min(rows[3] - row2, places[3] - at2), min(rows[4] - row3, places[4] - at3)),
        )
        if steps == 0:
            break
        for _ in range(steps):
            row0, at0 = _step(ids, wanted, allowed, row0, at0)
            row1, at1 = _step(ids, wanted, allowed, row1, at1)
            row2, at2 = _step(ids, wanted, allowed, row2, at2)
            row3, at3 = _step(ids, wanted, allowed, row3, at3)
    _finish(ids, wanted, allowed, row0, at0, rows[1], places[1])
    _finish(ids, wanted, allowed, row1, at1, rows[2], places[2])
    _finish(ids, wanted, allowed, row2, at2, rows[3], places[3])
    _finish(ids, wanted, allowed, row3, at3, rows[4], places[4])


@compiled
def _first(wanted, id_):  # type: ignore[no-untyped-def]
    """Where the first of the ascending `wanted` is that is not below `id_`."""
    low, high = 0, len(wanted)
    while low < high:
        middle = (low + high) // 2
        if wanted[middle] < id_:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _step(ids, wanted, allowed, row, at):  # type: ignore[no-untyped-def]
    """Compare a row's id with a wanted one, and leave behind the smaller, or both.

    The last that a row is compared with tells. No branches: what comes next cannot be foretold.
    """
    own, asked = ids[row], wanted[at]
    allowed[row] = own == asked
    return row + np.uint64(own <= asked), at + np.uint64(asked <= own)


@compiled
def _finish(ids, wanted, allowed, row, at, last_row, last):  # type: ignore[no-untyped-def]
    """Take the steps that remain in a part."""
    while row < last_row and at < last:
        row, at = _step(ids, wanted, allowed, row, at)
