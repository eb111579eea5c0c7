"""What bits do, against slow twins; at the edges; and the figures of it."""

import io
import warnings

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from jaxhash.analysis import bits, latents, plots

QUICK = settings(max_examples=25, deadline=None)


@st.composite
def worlds(draw, least=1):
    """Bits (n, b) with constant and repeated columns, and labels of either kind."""
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n, b, classes = draw(st.integers(least, 24)), draw(st.integers(1, 19)), draw(st.integers(1, 4))
    table = (rng.random((n, b)) < rng.choice([0, 0.2, 0.5, 1], b)).astype(np.uint8)
    table[:, b // 2] = table[:, 0]
    if draw(st.booleans()):
        return table, rng.random((n, classes)) < 0.4, classes
    return table, rng.integers(0, classes, n).astype(np.int32), classes


@QUICK
@given(worlds())
def test_balance_and_entropy(world):
    table, labels, classes = world
    codes, b = search.pack(table), table.shape[1]
    ones = bits.balance(codes, b)
    np.testing.assert_allclose(ones, [sum(map(int, column)) / len(table) for column in table.T])
    np.testing.assert_allclose(
        bits.entropy(ones), [naive.bit_entropy(column) for column in table.T], atol=1e-12
    )
    shares = bits.class_balance(codes, labels, classes, b)
    for number in range(classes):
        members = [i for i in range(len(table)) if number in naive.classes_of(labels, i)]
        if members:
            np.testing.assert_allclose(shares[number], table[members].mean(axis=0))
        else:
            assert np.isnan(shares[number]).all()


@QUICK
@given(worlds())
def test_correlation(world):
    table, *_ = world
    matrix = bits.correlation(search.pack(table), table.shape[1])
    expected = [[naive.bit_correlation(one, other) for other in table.T] for one in table.T]
    np.testing.assert_allclose(matrix, expected, atol=1e-12)
    varying = sum(len(set(column)) > 1 for column in table.T)
    eigenvalues = np.linalg.eigvalsh(np.nan_to_num(matrix))
    expected = varying and eigenvalues.sum() ** 2 / np.square(eigenvalues).sum()
    np.testing.assert_allclose(bits.effective_bits(matrix), expected)


@QUICK
@given(worlds(least=2))
def test_distances_and_separation(world):
    table, labels, _ = world
    found = bits.class_distances(search.pack(table), labels, table.shape[1], threads=2)
    within, between = naive.class_distances(table, labels)
    np.testing.assert_array_equal(found.within, within)
    np.testing.assert_array_equal(found.between, between)
    if within.any() and between.any():
        np.testing.assert_allclose(bits.separation(found), naive.separation(within, between))
    else:
        assert np.isnan(bits.separation(found))


def test_distances_of_more_items_than_a_chunk(rng):
    table, labels = rng.integers(0, 2, (300, 9)), rng.integers(0, 3, 300)
    found = bits.class_distances(search.pack(table), labels, 9, threads=3)
    np.testing.assert_array_equal(found, naive.class_distances(table, labels))


@QUICK
@given(worlds())
def test_distinct_codes_and_their_purity(world):
    table, labels, _ = world
    codes, b = search.pack(table), table.shape[1]
    groups = bits.distinct(codes, b)
    members = {}
    for row, code in enumerate(map(bytes, codes)):
        members.setdefault(code, []).append(row)
    expected = sorted(members, key=lambda code: (-len(members[code]), code))
    assert [bytes(code) for code in groups.codes] == expected
    assert groups.sizes.tolist() == [len(members[code]) for code in expected]
    np.testing.assert_array_equal(groups.codes[groups.group], codes)
    for share, code in zip(bits.purity(groups, labels), expected, strict=True):
        rows = members[code]
        kinds = [kind for row in rows for kind in naive.classes_of(labels, row)]
        most = max((kinds.count(kind) for kind in kinds), default=0)
        assert share == pytest.approx(most / len(rows))


def test_pad_bits_do_not_count():
    dirty = np.array([[0b10100000], [0b10111111]], np.uint8)
    assert len(bits.distinct(dirty, 3).sizes) == 1
    assert bits.distinct(dirty, 3).codes.tolist() == [[0b10100000]]
    assert bits.balance(dirty, 3).tolist() == [1, 0, 1]


@QUICK
@given(worlds())
def test_a_map_keeps_what_it_says_it_keeps(world):
    """Positions have the variance that is claimed, and never stretch a distance."""
    table, *_ = world
    positions, explained = bits.project(search.pack(table), table.shape[1])
    variance = table.astype(float).var(axis=0).sum()
    np.testing.assert_allclose(positions.var(axis=0), explained * variance, atol=1e-9)
    assert explained[0] >= explained[1] - 1e-12
    spectrum = np.linalg.svd(table - table.mean(axis=0), compute_uv=False) ** 2 / len(table)
    if variance:
        expected = np.pad(spectrum, (0, 2))[:2] / variance
        np.testing.assert_allclose(explained, expected, atol=1e-9)
    between = np.square(positions[:, None] - positions[None]).sum(axis=-1)
    assert (between <= naive.hamming_distances(table, table) + 1e-9).all()
    shuffled = np.random.default_rng(0).permutation(len(table))
    again = bits.project(search.pack(table[shuffled]), table.shape[1])
    if np.diff(np.pad(spectrum, (0, 3))[:3]).max() < -1e-6:  # else axes are not determined
        np.testing.assert_allclose(again.positions, positions[shuffled], atol=1e-6)


def test_extremes_order_equal_values_by_row():
    latent = np.array([[1, 0], [3, 0], [1, 0], [3, 0], [2, 0]], np.float32)
    most, least = latents.extremes(latent, 0, 3)
    assert most.tolist() == [1, 3, 4]
    assert least.tolist() == [0, 2, 4]
    assert latents.extremes(latent, 1, 2)[0].tolist() == [0, 1]


@QUICK
@given(
    st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=40),
    st.sampled_from([-4.0, 0.0, 0.5, 1.0]),
    st.integers(1, 9),
)
def test_histogram_parts_zeros_from_ones(values, threshold, bins):
    latent = np.array(values, np.float32)[:, None]
    counts, edges = latents.histogram(latent, threshold, bins)
    assert counts.sum() == len(values)
    assert threshold in edges
    assert len(edges) == len(counts) + 1
    np.testing.assert_allclose(np.diff(edges), edges[1] - edges[0], rtol=1e-6)
    assert counts[edges[:-1] >= threshold].sum() == (latent.astype(float) > threshold).sum()
    assert len(counts) <= bins + 2


def test_histogram_of_equal_values():
    for value in (0.2, 0.5, 0.7):
        counts, edges = latents.histogram(np.full((4, 3), value), 0.5, 1)
        assert counts.tolist() == [12]
        assert (edges[0] < 0.5) == (value <= 0.5)


def test_sweep_measures_what_the_codes_would_be(rng):
    labels = rng.integers(0, 3, 40)
    latent = rng.random((40, 11)) * 0.5 + rng.random((3, 11))[labels]
    queries, own = np.arange(7), np.arange(7)
    cuts = np.array([0.2, 0.6, 1.1])
    swept = latents.sweep(latent[queries], latent, labels[queries], labels, cuts, exclude=own)
    for place, cut in enumerate(cuts):
        table = (latent > cut).astype(np.uint8)
        assert swept.ones[place] == pytest.approx(table.mean())
        entropy = np.mean([naive.bit_entropy(column) for column in table.T])
        assert swept.entropy[place] == pytest.approx(entropy)
        expected = []
        for query in queries:
            others = np.delete(np.arange(40), query)
            distance = (table[others] != table[query]).sum(axis=1)
            ties = [
                (
                    int((distance == d).sum()),
                    int((labels[others][distance == d] == labels[query]).sum()),
                )
                for d in np.unique(distance)
            ]
            expected.append(naive.expected_average_precision(ties, len(others), "retrieved"))
        assert swept.mean_average_precision[place] == pytest.approx(np.mean(expected))


def test_sweep_takes_a_threshold_for_each_bit(rng):
    latent, labels = rng.standard_normal((50, 6)) + np.arange(6), rng.integers(0, 2, 50)
    medians = np.median(latent, axis=0)[None]
    swept = latents.sweep(latent, latent, labels, labels, medians)
    assert swept.ones.tolist() == [0.5]
    assert swept.entropy.tolist() == [1.0]
    assert all(len(one) == 0 for one in latents.sweep(latent, latent, labels, labels, []))


CODES = np.zeros((3, 2), np.uint8)


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (lambda: bits.balance(CODES.astype(int)), "codes"),
        (lambda: bits.balance(CODES, 8), "bits=8"),
        (lambda: bits.balance(CODES[:0]), "codes"),
        (lambda: bits.distinct(CODES[:0]), "codes"),
        (lambda: bits.entropy([0.2, 1.2]), "shares"),
        (lambda: bits.entropy([np.nan]), "shares"),
        (lambda: bits.class_balance(CODES, np.array([0, 1]), 2), "labels"),
        (lambda: bits.class_balance(CODES, np.array([0, 1, 2]), 2), "labels"),
        (lambda: bits.class_balance(CODES, np.array([0.0, 1.0, 1.0]), 2), "labels"),
        (lambda: bits.class_balance(CODES, np.ones((3, 3), bool), 2), "labels"),
        (lambda: bits.class_distances(CODES, np.array([0, 1])), "labels"),
        (lambda: bits.purity(bits.distinct(CODES), np.array([0, 1])), "labels"),
        (lambda: bits.purity(bits.distinct(CODES), np.array([0, -1, 1])), "labels"),
        (lambda: latents.extremes(np.ones((3, 2)), 2, 1), "bit is 2"),
        (lambda: latents.extremes(np.ones((3, 2)), 0, 4), "count is 4"),
        (lambda: latents.extremes(np.full((3, 2), np.nan), 0, 1), "latent"),
        (lambda: latents.histogram(np.ones((3, 2)), 0.5, 0), "bins"),
        (lambda: latents.histogram(np.ones(3), 0.5), "latent"),
        (lambda: latents.sweep(np.ones((3, 2)), np.ones((3, 3)), [0] * 3, [0] * 3, [0.5]), "query"),
        (
            lambda: latents.sweep(np.ones((3, 2)), np.ones((3, 2)), [0] * 3, [0] * 3, [np.inf]),
            "thresholds",
        ),
        (
            lambda: latents.sweep(
                np.ones((3, 2)), np.ones((3, 2)), [0] * 3, [0] * 3, np.ones((1, 3))
            ),
            "thresholds",
        ),
        (lambda: plots.extremes(np.ones((2, 4, 4, 1)), np.ones((3, 2)), [0], 1), "images"),
        (lambda: plots.extremes(np.ones((3, 4, 4, 1)), np.ones((3, 2)), [], 1), "chosen"),
    ],
)
def test_bad_input_is_named(call, names):
    with pytest.raises((TypeError, ValueError), match=names):
        call()


# ---------------------------------------------------------------- figures


@pytest.fixture
def scene(rng):
    labels = rng.integers(0, 4, 80)
    latent = (rng.random((80, 10)) * 0.6 + 0.4 * rng.integers(0, 2, (4, 10))[labels]).astype(
        np.float32
    )
    latent[:, 3] = 0.9  # a bit that never changes
    return latent, search.pack(latent > 0.5), labels, tuple("abcd")


def render(figure):
    with io.BytesIO() as file, warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(file, format="png", dpi=50)
        return file.tell()


def test_figures_of_single_bits(scene):
    latent, codes, labels, classes = scene
    figure = plots.latent_histogram(latent, 0.5)
    bars = figure.axes[0].patches
    for bar in bars:
        assert bar.get_x() >= 0.5 or bar.get_x() + bar.get_width() <= 0.5 + 1e-9
    assert sum(bar.get_height() for bar in bars) == pytest.approx(1)
    ones = sum(bar.get_height() for bar in bars if bar.get_x() >= 0.5)
    assert ones == pytest.approx((latent > 0.5).mean())
    assert len({bar.get_hatch() for bar in bars}) == 2, "told apart without colour"
    assert render(figure)

    shares = bits.balance(codes, 10)
    figure = plots.balance(shares)
    np.testing.assert_array_equal(figure.axes[0].get_lines()[0].get_ydata(), shares)
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    np.testing.assert_allclose(heights, bits.entropy(shares))
    assert heights[3] == 0
    assert render(figure)

    by_class = bits.class_balance(codes, labels, 4, 10)
    figure = plots.class_balance(by_class, classes)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), by_class)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == list("abcd")
    assert render(figure)


def test_figures_of_bits_together(scene):
    _, codes, labels, classes = scene
    figure = plots.correlation(bits.correlation(codes, 10))
    shown = figure.axes[0].images[0].get_array()
    assert shown.mask[3].all()
    assert not shown.mask[0, 1]
    assert render(figure)
    assert render(plots.correlation(bits.correlation(codes[:1], 10))), "all constant"

    distances = bits.class_distances(codes, labels, 10)
    figure = plots.class_distances(distances)
    assert f"{bits.separation(distances):.2%}" in figure.axes[0].get_title()
    legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert f"{distances.within.sum():,} pairs" in legend[0]
    assert render(figure)
    alone = bits.class_distances(codes, np.zeros(80, int), 10)
    assert render(plots.class_distances(alone)), "one class only"

    groups = bits.distinct(codes, 10)
    figure = plots.group_sizes(groups, bits.purity(groups, labels))
    pure, mixed = figure.axes[0].get_lines()
    assert len(pure.get_xdata()) + len(mixed.get_xdata()) == len(groups.sizes)
    assert pure.get_marker() != mixed.get_marker()
    assert figure.axes[1].get_lines()[0].get_ydata()[-1] == 1
    assert render(figure)

    figure = plots.code_map(bits.project(codes, 10), labels, classes)
    lines = figure.axes[0].get_lines()
    assert sum(len(line.get_xdata()) for line in lines) == 80
    assert [text.get_text() for text in figure.axes[0].texts] == list("abcd")
    assert render(figure)


def test_a_map_tells_forty_classes_apart(scene):
    _, codes, *_ = scene
    labels = np.arange(80) % 40
    figure = plots.code_map(bits.project(codes, 10), labels, [str(n) for n in range(40)])
    styles = {(line.get_color(), line.get_marker()) for line in figure.axes[0].get_lines()}
    assert len(styles) == 40
    several = np.eye(40, dtype=bool)[labels]
    several[0] = False  # an item of no class has no place in the colours
    figure = plots.code_map(bits.project(codes, 10), several, [str(n) for n in range(40)])
    assert sum(len(line.get_xdata()) for line in figure.axes[0].get_lines()) == 79


def test_image_grids_show_the_extremes(scene, rng):
    latent, *_ = scene
    images = rng.integers(0, 256, (80, 5, 5, 1), dtype=np.uint8)
    figure = plots.extremes(images, latent, [0, 7], 3)
    pictures = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert len(pictures) == 2 * 2 * 3
    most, least = latents.extremes(latent, 7, 3)
    for picture, row in zip(pictures[6:], [*most, *least], strict=True):
        np.testing.assert_array_equal(picture, images[row, :, :, 0])
    assert render(figure)
    assert render(plots.extremes(np.repeat(images, 3, axis=3), latent, [2], 1))


def test_threshold_figure(scene):
    latent, _, labels, _ = scene
    cuts = np.linspace(0.2, 0.8, 5)
    swept = latents.sweep(latent, latent, labels, labels, cuts)
    medians = latents.sweep(latent, latent, labels, labels, np.median(latent, axis=0)[None])
    figure = plots.thresholds(cuts, swept, 0.5, {"medians": medians})
    lines = figure.axes[0].get_lines()
    np.testing.assert_array_equal(lines[0].get_ydata(), swept.mean_average_precision)
    assert len({line.get_linestyle() for line in lines[:3]}) == 3
    assert f"{medians.mean_average_precision[0]:.3f}" in lines[3].get_label()
    assert render(figure)
