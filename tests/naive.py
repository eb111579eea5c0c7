"""Slow, obviously correct NumPy twins of the fast functions: what the tests compare with."""

import numpy as np

# ---- codes, scan and buckets: Hamming search ----------------------------------------------------


def hamming_distances(queries, codes):
    """All distances (q, n) of codes whose pad bits are zero."""
    return np.bitwise_count(queries[:, None] ^ codes[None]).sum(axis=-1, dtype=np.int64)


def hamming_knn(queries, codes, k, allowed=None):
    """Distances and rows (q, k) by a stable sort of every distance."""
    distances = np.full((len(queries), k), np.iinfo(np.int32).max, np.int32)
    rows = np.full((len(queries), k), -1, np.int64)
    candidates = np.arange(len(codes)) if allowed is None else np.flatnonzero(allowed)
    full = hamming_distances(queries, codes[candidates])
    for query, row in enumerate(full):
        order = np.argsort(row, kind="stable")[:k]
        distances[query, : len(order)] = row[order]
        rows[query, : len(order)] = candidates[order]
    return distances, rows


def hamming_radius(queries, codes, radius, allowed=None):
    """Offsets, distances and rows of all codes within `radius`, one number or one a query."""
    radii = np.broadcast_to(radius, len(queries))
    all_distances, all_rows = hamming_knn(queries, codes, len(codes), allowed)
    inside = (all_rows >= 0) & (all_distances <= radii[:, None])
    offsets = np.concatenate([[0], np.cumsum(inside.sum(axis=1))])
    return offsets, all_distances[inside], all_rows[inside]
