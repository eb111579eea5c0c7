"""Slow, obviously correct NumPy twins of the fast functions: what the tests compare with."""

import itertools
import math
from fractions import Fraction

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


# --- Ranking measures: search.ranking, search.listed ------------------------------------------


def shares_label(query_labels: np.ndarray, database_labels: np.ndarray) -> np.ndarray:
    """bool (q, n): whether query and item have a label in common."""
    if query_labels.ndim == 1:
        return query_labels[:, None] == database_labels[None, :]
    return np.array([[(a & b).any() for b in database_labels] for a in query_labels], bool).reshape(
        len(query_labels), len(database_labels)
    )


def average_precision(relevant: list[bool], top: int, denominator: str) -> float:
    """Average precision of one ordered list."""
    head = relevant[:top]
    precisions = [sum(head[: i + 1]) / (i + 1) for i, hit in enumerate(head) if hit]
    count = sum(head) if denominator == "retrieved" else min(top, sum(relevant))
    return sum(precisions) / count if count else 0.0


def over_tie_orders(distances: np.ndarray, relevant: np.ndarray, function) -> float:
    """Mean of `function(ordered relevance)` over every order that keeps distances ascending."""
    ties = [[bool(r) for r in relevant[distances == d]] for d in np.unique(distances)]
    orders = itertools.product(*(itertools.permutations(tie) for tie in ties))
    values = [function([r for tie in order for r in tie]) for order in orders]
    return sum(values) / len(values)


def expected_average_precision(counts: list[tuple[int, int]], top: int, denominator: str) -> float:
    """Expected average precision of ties [(items, relevant), ...], in exact fractions.

    Position by position, and over every number of relevant items that the cut tie can give.
    """

    def one_tie(before: int, relevant_before: int, items: int, relevant: int) -> Fraction:
        total = Fraction(0)
        for place in range(items):
            chance = Fraction(relevant, items)
            ahead = Fraction(place * (relevant - 1), items - 1) if items > 1 else Fraction(0)
            total += chance * (relevant_before + 1 + ahead) / (before + place + 1)
        return total

    possible = min(top, sum(relevant for _, relevant in counts))
    before, relevant_before, done = 0, 0, Fraction(0)
    for items, relevant in counts:
        taken = min(items, top - before)
        if taken < items:
            break
        done += one_tie(before, relevant_before, items, relevant) if relevant else 0
        before, relevant_before = before + items, relevant_before + relevant
    else:
        taken, items, relevant = 0, 0, 0
    expected = Fraction(0)
    for number in range(min(taken, relevant) + 1):
        ways = math.comb(relevant, number) * math.comb(items - relevant, taken - number)
        value = done + (one_tie(before, relevant_before, taken, number) if number else 0)
        count = relevant_before + number if denominator == "retrieved" else possible
        if ways and count:
            expected += Fraction(ways, math.comb(items, taken)) * value / count
    return float(expected)
