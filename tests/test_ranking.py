"""Ranking measures: exact expectations over ties, against every order where there are few."""

import math
import os
import subprocess
import sys

import hypothesis.strategies as st
import naive
import numpy as np
import pytest
from hypothesis import given, settings

from search.codes import pack
from search.kernels import ranking as kernels
from search.measures import listed, ranking

few = settings(max_examples=25, deadline=None)


def bits_of(codes, bits):
    return np.unpackbits(codes, axis=1, count=bits)


def distances_of(query_codes, database_codes, bits):
    different = bits_of(query_codes, bits)[:, None] != bits_of(database_codes, bits)[None]
    return different.sum(axis=2)


def random_codes(rng, n, bits, distinct=None):
    """Random codes; few distinct ones make many ties."""
    pool = pack(rng.integers(0, 2, (distinct or max(n, 1), bits)))
    return pool[rng.integers(0, len(pool), n)]


def random_labels(rng, n, classes, several):
    if several:
        return rng.random((n, classes)) < 0.3
    return rng.integers(0, classes, n).astype(np.int32)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 6),
    bits=st.integers(1, 9),
    several=st.booleans(),
)
@few
def test_every_measure_is_the_mean_over_all_tie_orders(seed, n, bits, several):
    rng = np.random.default_rng(seed)
    query, database = random_codes(rng, 2, bits, 2), random_codes(rng, n, bits, 3)
    labels = [random_labels(rng, m, 2, several) for m in (2, n)]
    distances = distances_of(query, database, bits)
    relevant = naive.shares_label(*labels)
    every = range(1, n + 1)
    measured = ranking.measure(query, database, *labels, bits=bits, at=every)
    for top in every:
        for denominator in ("retrieved", "possible"):
            average = ranking.average_precision(
                query, database, *labels, bits=bits, top=top, denominator=denominator
            )
            for row in range(2):
                expected = naive.over_tie_orders(
                    distances[row],
                    relevant[row],
                    lambda order, top=top, by=denominator: naive.average_precision(order, top, by),
                )
                assert average[row] == pytest.approx(expected, abs=1e-12)
        for row in range(2):
            expected = naive.over_tie_orders(
                distances[row], relevant[row], lambda order, top=top: sum(order[:top]) / top
            )
            assert measured.precision_at[row, top - 1] == pytest.approx(expected, abs=1e-12)
    whole = ranking.average_precision(query, database, *labels, bits=bits, denominator="possible")
    np.testing.assert_array_equal(whole, measured.average_precision)


@pytest.mark.parametrize("denominator", ["retrieved", "possible"])
@pytest.mark.parametrize("top", [1, 40, 300, 900, 1500, 2000, 5000])
def test_large_ties_agree_with_exact_fractions(top, denominator):
    # Ties on both sides of the length from which harmonic numbers are expanded, one without a
    # relevant item, one with nothing else, one of a single item.
    ties = [(0, 0), (3, 2), (300, 90), (1, 1), (400, 0), (20, 20), (700, 1), (576, 33)]
    counts = np.array([[v for n, r in ties for v in (n - r, r)]], np.int64)
    expected = np.empty(1)
    kernels.expected_average_precision(counts, top, denominator == "possible", expected)
    twin = naive.expected_average_precision(ties, top, denominator)
    assert expected[0] == pytest.approx(twin, rel=1e-12)
    assert twin > 0


def test_a_cut_through_a_tie_of_a_million():
    # The chance of the least and the most relevant items before the cut is below any number.
    before, items, relevant, taken = 7, 1_000_000, 300_000, 500_000
    counts = np.array([[4, 3, items - relevant, relevant]], np.int64)
    expected = np.empty(1)
    kernels.expected_average_precision(counts, before + taken, True, expected)
    place = np.arange(taken)
    precision = (3 + 1 + place * (relevant - 1) / (items - 1)) / (before + 1 + place)
    first = naive.expected_average_precision([(7, 3)], 7, "possible") * 3
    whole = first + precision.sum() * relevant / items
    assert expected[0] == pytest.approx(whole / (3 + relevant), rel=1e-9)


@pytest.mark.parametrize("before", [0, 255, 256, 257, 5000])
def test_harmonic_steps_are_exact(before):
    for items in (0, 1, 2, 300, 40_000):
        exact = math.fsum(1 / place for place in range(before + 1, before + items + 1))
        assert kernels._harmonic_step(before, items) == pytest.approx(exact, rel=1e-14, abs=0)


def test_twins_agree_with_each_other():
    distances, relevant = np.array([0, 0, 1, 1, 1, 2]), np.array([0, 1, 1, 1, 0, 1], bool)
    for top in range(1, 7):
        by_order = naive.over_tie_orders(
            distances,
            relevant,
            lambda order, top=top: naive.average_precision(order, top, "retrieved"),
        )
        by_fractions = naive.expected_average_precision([(2, 1), (3, 2), (1, 1)], top, "retrieved")
        assert by_order == pytest.approx(by_fractions, abs=1e-12)


def test_without_ties_average_precision_is_scikit_learns(rng):
    from sklearn.metrics import average_precision_score  # here, as other processes do without

    # Item i has i ones, so that no two are equally far from the query of zeros.
    bits = 200
    database = pack(np.tri(bits + 1, bits, -1, dtype=np.uint8))[rng.permutation(bits + 1)]
    labels = rng.integers(0, 3, bits + 1)
    query = np.zeros((3, bits // 8), np.uint8)
    found = ranking.average_precision(query, database, np.arange(3), labels)
    order = np.bitwise_count(database).sum(axis=1)
    for label in range(3):
        expected = average_precision_score(labels == label, -order.astype(float))
        assert found[label] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("queries", "n", "bits", "classes"),
    [(1, 1, 1, 1), (7, 1023, 5, 3), (9, 1025, 64, 64), (131, 2049, 65, 65), (8, 40, 1025, 130)],
)
def test_counts_over_pieces_tiles_words_and_chunks(rng, queries, n, bits, classes, several):
    query, database = random_codes(rng, queries, bits, 50), random_codes(rng, n, bits, 50)
    labels = [random_labels(rng, m, classes, several) for m in (queries, n)]
    distances, relevant = distances_of(query, database, bits), naive.shares_label(*labels)
    radii = [0, 1, bits // 2, bits, bits + 7]
    ranks = sorted({1, (n + 1) // 2, n})
    found = ranking.measure(query, database, *labels, bits=bits, radii=radii, ranks=ranks)
    assert found.without_relevant == (relevant.sum(axis=1) == 0).sum()
    totals = np.maximum(relevant.sum(axis=1), 1)
    for column, radius in enumerate(radii):
        near = distances <= radius
        hits = (near & relevant).sum(axis=1)
        precision = hits / np.maximum(near.sum(axis=1), 1)
        np.testing.assert_allclose(found.precision_within[:, column], precision)
        np.testing.assert_allclose(found.recall_within[:, column], hits / totals)
        assert found.empty_within[column] == (near.sum(axis=1) == 0).sum()
        alone = ranking.within_radius(query, database, *labels, radius, bits=bits)
        np.testing.assert_array_equal(alone[0], found.precision_within[:, column])
        np.testing.assert_array_equal(alone[1], found.recall_within[:, column])
    ties = [
        [(int((row == d).sum()), int(hit[row == d].sum())) for d in np.unique(row)]
        for row, hit in zip(distances[:10], relevant[:10], strict=True)
    ]
    expected = [naive.expected_average_precision(tie, n, "retrieved") for tie in ties]
    np.testing.assert_allclose(found.average_precision[:10], expected, rtol=1e-9)
    # At the last rank everything has been found, in any order.
    assert found.precision[-1] == pytest.approx((relevant.sum(axis=1) / n).mean())
    curve = ranking.precision_recall(query, database, *labels, bits=bits, ranks=ranks)
    for part, same in zip(curve, (found.precision, found.recall, found.ranks), strict=True):
        np.testing.assert_array_equal(part, same)


@given(seed=st.integers(0, 2**32 - 1), several=st.booleans())
@few
def test_nothing_but_distances_and_labels_matters(seed, several):
    rng = np.random.default_rng(seed)
    bits, n = int(rng.integers(1, 70)), int(rng.integers(2, 60))
    query, database = random_codes(rng, 5, bits), random_codes(rng, n, bits, 9)
    labels = [random_labels(rng, m, 4, several) for m in (5, n)]
    options = {"bits": bits, "at": [n, 1, n], "top": 2, "radii": [0, 3]}
    first = ranking.measure(query, database, *labels, **options)
    shuffle, columns = rng.permutation(n), rng.permutation(bits)
    mask = rng.integers(0, 2, bits, dtype=np.uint8)
    other = ranking.measure(
        pack((bits_of(query, bits) ^ mask)[:, columns]),
        pack((bits_of(database, bits) ^ mask)[shuffle][:, columns]),
        labels[0],
        labels[1][shuffle],
        **options,
        threads=int(rng.integers(1, 8)),
    )
    for name in vars(first):
        np.testing.assert_array_equal(getattr(first, name), getattr(other, name), err_msg=name)


@pytest.mark.parametrize("several", [False, True])
def test_excluding_a_row_equals_a_database_without_it(rng, several):
    codes, labels = random_codes(rng, 30, 12, 6), random_labels(rng, 30, 3, several)
    exclude = np.arange(30)
    exclude[5] = -1
    options = {"bits": 12, "top": 7}
    found = ranking.measure(codes, codes, labels, labels, at=[1, 29], exclude=exclude, **options)
    for row in range(30):
        rest = np.delete(np.arange(30), row) if exclude[row] >= 0 else np.arange(30)
        alone = ranking.measure(
            codes[[row]], codes[rest], labels[[row]], labels[rest], at=[1, 29], **options
        )
        for name in ("average_precision", "average_precision_at_top", "precision_at"):
            np.testing.assert_array_equal(getattr(found, name)[row], getattr(alone, name)[0])
        np.testing.assert_array_equal(found.precision_within[row], alone.precision_within[0])
        np.testing.assert_array_equal(found.recall_within[row], alone.recall_within[0])


def test_threads_strides_read_only_and_pad_bits_change_nothing(rng):
    query, database = random_codes(rng, 300, 13), random_codes(rng, 70, 13, 20)
    labels = rng.integers(0, 3, 300), rng.integers(0, 3, 70)
    expected = ranking.average_precision(query, database, *labels, bits=13, threads=1)
    assert 0 < expected.mean() < 1
    wide = np.repeat(np.repeat(database, 2, axis=0), 2, axis=1)[::2, ::2]
    wide.flags.writeable = False
    for threads in (None, 2, 7):
        found = ranking.average_precision(query, wide, *labels, bits=13, threads=threads)
        np.testing.assert_array_equal(found, expected)
    dirty = database.copy()
    dirty[:, 1] |= rng.integers(0, 8, 70, dtype=np.uint8)
    found = ranking.average_precision(query, dirty, *labels, bits=13)
    np.testing.assert_array_equal(found, expected)


def test_queries_without_relevant_items_count_as_zero():
    codes = np.zeros((2, 1), np.uint8)
    found = ranking.measure(codes, codes, np.array([0, 9]), np.array([0, 0]), at=[1], top=1)
    assert found.without_relevant == 1
    assert found.mean_average_precision == found.mean_average_precision_at_top == 0.5
    assert found.mean_precision_at.tolist() == [0.5]
    assert found.recall.tolist() == [0.25, 0.5]
    unlabelled = np.zeros((2, 3), bool)
    assert ranking.average_precision(codes, codes, unlabelled, unlabelled).tolist() == [0, 0]


def test_the_largest_class_of_all_is_one():
    codes, labels = np.array([[0], [1], [1]], np.uint8), np.array([(1 << 31) - 1, 0, 0])
    precision, recall = ranking.within_radius(codes, codes, labels, labels, 0)
    assert (precision.tolist(), recall.tolist()) == ([1, 1, 1], [1, 1, 1])
    with pytest.raises(ValueError, match="classes from 0 up"):
        ranking.within_radius(codes, codes, labels + 1, labels, 0)


def test_a_radius_of_all_bits_or_more_has_everything():
    codes, labels = np.array([[0], [255], [15]], np.uint8), np.array([1, 1, 0])
    nearly, all_of_it = (
        ([1 / 2, 1 / 2, 1 / 3], [1 / 2, 1 / 2, 1]),
        ([2 / 3, 2 / 3, 1 / 3], [1, 1, 1]),
    )
    for radius, expected in ((7, nearly), (8, all_of_it), (100, all_of_it)):
        found = ranking.within_radius(codes, codes, labels, labels, radius)
        assert tuple(each.tolist() for each in found) == expected


def test_an_empty_database_scores_zero():
    codes, nothing = np.zeros((2, 1), np.uint8), np.zeros((0, 1), np.uint8)
    found = ranking.measure(codes, nothing, np.array([0, 9]), np.array([], int), top=5)
    assert found.mean_average_precision == found.mean_average_precision_at_top == 0
    assert found.ranks.size == 0
    assert found.empty_within.tolist() == [2, 2, 2]


# Rankings given as lists of ids


@given(seed=st.integers(0, 2**32 - 1), several=st.booleans())
@few
def test_listed_rankings_agree_with_the_obvious(seed, several):
    rng = np.random.default_rng(seed)
    n, k = int(rng.integers(1, 30)), int(rng.integers(1, 12))
    k = min(k, n)
    ids = np.array([rng.permutation(n)[:k] for _ in range(4)])
    ids[0, rng.integers(0, k + 1) :] = -1
    labels = [random_labels(rng, m, 3, several) for m in (4, n)]
    relevant = naive.shares_label(*labels)
    for top in range(1, k + 1):
        for denominator in ("retrieved", "possible"):
            found = listed.ranked_measure(
                ids, *labels, at=[top], top=top, ranks=[top], denominator=denominator
            )
            for row in range(4):
                hits = [i >= 0 and bool(relevant[row, i]) for i in ids[row]]
                # What is not listed comes somewhere behind the list.
                hits += [True] * int(relevant[row].sum() - sum(hits))
                expected = naive.average_precision(hits, top, denominator)
                assert found.average_precision_at_top[row] == pytest.approx(expected, abs=1e-12)
                assert found.precision_at[row, 0] == pytest.approx(sum(hits[:k][:top]) / top)
    assert found.without_relevant == (relevant.sum(axis=1) == 0).sum()
    whole = np.sort(ids, axis=1).tolist() == [list(range(n))] * 4
    assert (found.average_precision is not None) == whole


def test_a_whole_list_is_worth_what_its_codes_are(rng):
    bits = 63
    database = pack(np.tri(bits + 1, bits, -1, dtype=np.uint8))
    query = np.zeros((5, 8), np.uint8)
    labels = rng.integers(0, 4, 5), rng.integers(0, 4, bits + 1)
    exclude = rng.integers(-1, bits + 1, 5)
    exclude[:2] = 3, -1
    ids = np.tile(np.arange(bits + 1), (5, 1))
    options = {"at": [1, bits], "top": 20, "exclude": exclude}
    by_codes = ranking.measure(query, database, *labels, bits=bits, **options)
    by_list = listed.ranked_measure(ids, *labels, **options)
    for name in ("average_precision_at_top", "precision_at", "precision", "recall"):
        np.testing.assert_allclose(getattr(by_list, name), getattr(by_codes, name), atol=1e-12)
    # One list is cut short where another leaves a row out, so only that one is whole.
    assert by_list.average_precision is None
    exclude[:] = 3
    by_codes = ranking.average_precision(query, database, *labels, bits=bits, exclude=exclude)
    by_list = listed.ranked_measure(ids, *labels, exclude=exclude)
    np.testing.assert_allclose(by_list.average_precision, by_codes, atol=1e-12)


# Errors


CODES = np.zeros((3, 2), np.uint8)
LABELS = np.array([0, 1, 2])
MATRIX = np.eye(3, dtype=bool)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"query_codes": CODES.astype(int)}, TypeError, "query_codes"),
        ({"query_codes": CODES[:0]}, ValueError, "query_codes"),
        ({"database_codes": CODES[:, :1]}, ValueError, "database_codes"),
        ({"bits": 17}, ValueError, "bits"),
        ({"query_labels": LABELS[:2]}, ValueError, "query_labels must have 3 rows"),
        ({"query_labels": LABELS - 1}, ValueError, "query_labels must be classes from 0 up"),
        ({"database_labels": LABELS + 2**31}, ValueError, "database_labels"),
        ({"database_labels": LABELS / 1}, TypeError, "database_labels.*integers"),
        ({"database_labels": MATRIX}, TypeError, "of one kind"),
        ({"query_labels": MATRIX.astype(int)}, TypeError, "astype"),
        ({"query_labels": LABELS == 1}, TypeError, "query_labels"),
        ({"query_labels": MATRIX[:, :2], "database_labels": MATRIX}, ValueError, "same classes"),
        ({"query_labels": MATRIX[:, :0]}, ValueError, "query_labels"),
        ({"at": [4]}, ValueError, "at goes up to 4.* only 3"),
        ({"at": [0]}, ValueError, "at must be at least 1"),
        ({"at": [1.5]}, TypeError, "at must be a whole number"),
        ({"at": [3], "exclude": np.array([0, -1, -1])}, ValueError, "only 2"),
        ({"ranks": [9]}, ValueError, "ranks"),
        ({"top": 0}, ValueError, "top"),
        ({"radii": [-1]}, ValueError, "radii"),
        ({"denominator": "all"}, ValueError, "denominator"),
        ({"exclude": np.array([0, 1])}, ValueError, "exclude must have the shape"),
        ({"exclude": np.array([0, 1, 3])}, ValueError, "exclude must be database rows"),
        ({"exclude": np.array([0, 1, 0.5])}, TypeError, "exclude must be integers"),
        ({"threads": 0}, ValueError, "threads"),
    ],
)
def test_wrong_arguments_are_named(change, error, words):
    arguments = {
        "query_codes": CODES,
        "database_codes": CODES,
        "query_labels": LABELS,
        "database_labels": LABELS,
    }
    with pytest.raises(error, match=words):
        ranking.measure(**{**arguments, **change})


@pytest.mark.parametrize(
    ("ids", "options", "error", "words"),
    [
        (np.array([0, 1]), {}, ValueError, "ids must have the shape"),
        (np.array([[0.5]]), {}, TypeError, "ids must be integers"),
        (np.array([[3]]), {}, ValueError, "ids must be database rows"),
        (np.array([[0, 1, 0]]), {}, ValueError, "twice"),
        (np.array([[0, 1]]), {"at": [3]}, ValueError, "at goes up to 3"),
        (np.array([[0, 1]]), {"top": 3}, ValueError, "top goes up to 3"),
        (np.array([[0, 1]]), {"top": 2, "exclude": np.array([1])}, ValueError, "only 1"),
        (np.array([[0, 1]]), {"denominator": "?"}, ValueError, "denominator"),
    ],
)
def test_wrong_lists_are_named(ids, options, error, words):
    with pytest.raises(error, match=words):
        listed.ranked_measure(ids, LABELS[:1], LABELS, **options)


def test_kernels_also_run_as_plain_python():
    program = """
import numpy as np
from search.measures import ranking
rng = np.random.default_rng(3)
codes = rng.integers(0, 256, (40, 9), dtype=np.uint8)
single = rng.integers(0, 3, 40)
several = rng.random((40, 70)) < 0.02
for labels in (single, several):
    found = ranking.measure(codes[:9], codes[9:], labels[:9], labels[9:], at=[1, 20], top=5)
    print(repr(found.average_precision.tolist()), repr(found.average_precision_at_top.tolist()))
    print(repr(found.precision_at.tolist()), repr(found.precision_within.tolist()))
"""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "NUMBA_DISABLE_JIT": disable},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for disable in ("0", "1")
    ]
    assert len(outputs[0]) > 500
    np.testing.assert_allclose(
        np.array(outputs[0].replace("[", " ").replace("]", " ").replace(",", " ").split(), float),
        np.array(outputs[1].replace("[", " ").replace("]", " ").replace(",", " ").split(), float),
        rtol=1e-12,
    )
