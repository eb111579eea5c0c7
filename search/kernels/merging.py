"""Merging ranked lists, and lists of ids. Arrays in, arrays out, no checks."""

from search.kernels.compiling import compiled


@compiled
def merge_ranked(distances, ids, heads, out_distances, out_ids):  # type: ignore[no-untyped-def]
    """The best of several lists for each query, by (distance, id), missing results last.

    `distances` and `ids` (s, q, w), each row ascending with id -1 at its end; `out_distances` and
    `out_ids` (q, k), k <= w; `heads` int64 (s,), scratch.
    """
    lists, queries, _ = distances.shape
    for query in range(queries):
        heads[:] = 0
        for rank in range(out_ids.shape[1]):
            best = 0
            for other in range(1, lists):
                id_ = ids[other, query, heads[other]]
                best_id = ids[best, query, heads[best]]
                distance = distances[other, query, heads[other]]
                best_distance = distances[best, query, heads[best]]
                if id_ != -1 and (
                    best_id == -1
                    or distance < best_distance
                    or (distance == best_distance and id_ < best_id)
                ):
                    best = other
            out_distances[query, rank] = distances[best, query, heads[best]]
            out_ids[query, rank] = ids[best, query, heads[best]]
            if heads[best] < ids.shape[2] - 1:
                heads[best] += 1
            else:
                # Only the last rank to be filled can use up a list of at least k entries.
                break


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
def mark(ids, wanted, alive, present, allowed):  # type: ignore[no-untyped-def]
    """Mark the rows of wanted ids, and return how many of them there are.

    ids: int64 (n,), ascending strictly as `wanted` then must; or empty where the id of a row is
    its number. alive: bool (n,), rows that count, or empty for all; present: bool, False, one
    for every number from the first of `ids` to the last, or empty where they are too many;
    allowed: bool (n,), False.
    """
    found = 0
    if len(ids) == 0:
        for position in range(len(wanted)):
            row = wanted[position]
            if row >= 0 and row < len(allowed) and (len(alive) == 0 or alive[row]):
                allowed[row] = True
                found += 1
        return found
    if len(present):
        first, last = ids[0], ids[-1]
        for id_ in wanted:
            if id_ >= first and id_ <= last:
                present[id_ - first] = True
        # No branches: which rows are wanted cannot be foretold.
        for row in range(len(ids)):
            allowed[row] = present[ids[row] - first]
        for row in range(len(alive)):
            allowed[row] &= alive[row]
        for row in range(len(ids)):
            found += int(allowed[row])
        return found
    position = 0
    for row in range(len(ids)):
        while position < len(wanted) and wanted[position] < ids[row]:
            position += 1
        if position == len(wanted):
            break
        here = int(wanted[position] == ids[row])
        position += here
        if len(alive):
            here &= int(alive[row])
        allowed[row] = here != 0
        found += here
    return found
