"""Figures of the statistics that `bits` and `latents` compute.

As in `plots`, every function returns a `matplotlib.figure.Figure` of its own, and what colour says
is said by shape or dash as well.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from numpy.typing import NDArray

from jaxhash.analysis import bits, latents
from jaxhash.analysis.bits import Distances, Groups, Projection
from jaxhash.analysis.latents import Sweep
from jaxhash.plots import BLACK, BLUE, GREEN, ORANGE, STYLES, VERMILION, finish

MOST_NAMES = 30
"""Classes that are named on an axis or a map; more would not be legible."""

_DIVERGING = LinearSegmentedColormap.from_list(
    "blue to vermilion", [BLUE, "#FFFFFF", VERMILION]
).with_extremes(bad="#BBBBBB")
_MARKERS = tuple(style["marker"] for style in STYLES)
_COLOURS = tuple(style["color"] for style in STYLES)


def latent_histogram(latent: NDArray[np.floating], threshold: float) -> Figure:
    """All values of the latent layer, those that become zeros and ones apart.

    Example:
        >>> figure = latent_histogram(encoded.latent, model.spec.threshold)  # doctest: +SKIP
    """
    counts, edges = latents.histogram(latent, threshold)
    shares, one = counts / counts.sum(), edges[:-1] >= threshold
    figure, axes = _one("value of the latent layer", "share of all values")
    for chosen, colour, hatch, name in ((~one, BLUE, "", "zero"), (one, ORANGE, "///", "one")):
        axes.bar(
            edges[:-1][chosen],
            shares[chosen],
            np.diff(edges)[chosen],
            align="edge",
            color=colour,
            edgecolor="white",
            linewidth=0.3,
            hatch=hatch,
            label=f"{name}: {shares[chosen].sum():.1%}",
        )
    axes.axvline(threshold, color=BLACK, linestyle="--", label=f"threshold {threshold:g}")
    axes.set_title(f"{latent.shape[0]:,} items, {latent.shape[1]} bits", fontsize=10)
    return finish(figure, axes)


def balance(shares: NDArray[np.floating]) -> Figure:
    """How often each bit is one, and its entropy; see `bits.balance`.

    Example:
        >>> figure = balance(bits.balance(encoded.codes, model.spec.bits))  # doctest: +SKIP
    """
    information = bits.entropy(shares)
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    places = np.arange(len(shares))
    left.vlines(places, 0.5, shares, color=BLUE, linewidth=1.2)
    left.plot(places, shares, color=BLUE, linestyle="", marker="o", markersize=4.5)
    left.axhline(0.5, color=BLACK, linestyle="--", linewidth=1)
    left.set(xlabel="bit", ylabel="share of ones", ylim=(-0.03, 1.03))
    left.set_title("dashed: as often one as zero", fontsize=10)
    right.bar(places, information, color=GREEN, width=0.8)
    right.set(xlabel="bit", ylabel="entropy in bits", ylim=(0, 1.03))
    right.set_title(f"mean {information.mean():.3f}, least {information.min():.3f}", fontsize=10)
    for axes in (left, right):
        finish(figure, axes, legend=False)
    return figure


def correlation(matrix: NDArray[np.floating]) -> Figure:
    """Each bit's correlation with each other; grey where a bit never changes.

    Example:
        >>> figure = correlation(bits.correlation(encoded.codes, model.spec.bits))  # doctest: +SKIP
    """
    figure, axes = _one("bit", "bit", size=(5.6, 4.6))
    image = axes.imshow(
        np.ma.masked_invalid(matrix), cmap=_DIVERGING, vmin=-1, vmax=1, interpolation="nearest"
    )
    figure.colorbar(image, ax=axes, label="correlation")
    others = np.abs(matrix[~np.eye(len(matrix), dtype=bool)])
    others = others[np.isfinite(others)]
    mean = f"mean size {others.mean():.3f}, " if others.size else ""
    axes.set_title(f"{mean}worth {bits.effective_bits(matrix):.1f} independent bits", fontsize=10)
    return figure


def class_distances(distances: Distances) -> Figure:
    """Hamming distances within and between classes, as shares; see `bits.class_distances`.

    Example:
        >>> figure = class_distances(bits.class_distances(codes, labels, 48))  # doctest: +SKIP
    """
    figure, axes = _one("Hamming distance in bits", "share of the pairs")
    edges = np.arange(len(distances.within) + 1) - 0.5
    lines: tuple[tuple[str, Any, str, Any, str], ...] = (
        ("within a class", distances.within, BLUE, "-", ""),
        ("between classes", distances.between, VERMILION, "--", "///"),
    )
    for name, pairs, colour, line, hatch in lines:
        if not pairs.sum():
            continue
        shares, mean = pairs / pairs.sum(), np.average(np.arange(len(pairs)), weights=pairs)
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.25, hatch=hatch)
        axes.stairs(
            shares,
            edges,
            color=colour,
            linestyle=line,
            linewidth=1.6,
            label=f"{name}: {pairs.sum():,} pairs, mean {mean:.1f}",
        )
    apart = bits.separation(distances)
    if np.isfinite(apart):
        axes.set_title(f"a pair within a class is the nearer one: {apart:.2%}", fontsize=10)
    return finish(figure, axes)


def group_sizes(groups: Groups, purity: NDArray[np.floating]) -> Figure:
    """How many items share a code, the commonest code first, and how much of all they make up.

    purity: of `bits.purity`; codes that several classes share are marked.

    Example:
        >>> groups = bits.distinct(codes, 48)  # doctest: +SKIP
        >>> figure = group_sizes(groups, bits.purity(groups, labels))  # doctest: +SKIP
    """
    sizes = groups.sizes
    ranks = np.arange(1, len(sizes) + 1)
    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    mixed = purity < 1
    left.plot(
        ranks[~mixed], sizes[~mixed], linestyle="", marker=".", color=BLUE, label="of one class"
    )
    left.plot(
        ranks[mixed],
        sizes[mixed],
        linestyle="",
        marker="x",
        color=VERMILION,
        label=f"of several: {sizes[mixed].sum() / sizes.sum():.1%} of the items",
    )
    left.set(xscale="log", yscale="log", xlabel="code, the commonest first", ylabel="items")
    left.set_title(f"{len(sizes):,} distinct codes for {sizes.sum():,} items", fontsize=10)
    finish(figure, left)
    right.plot(ranks, np.cumsum(sizes) / sizes.sum(), color=GREEN, linewidth=1.6)
    right.set(xscale="log", ylim=(0, 1.03), xlabel="codes, the commonest first")
    right.set_ylabel("share of the items")
    alone = int((sizes == 1).sum())
    right.set_title(f"{alone:,} codes have one item each", fontsize=10)
    finish(figure, right, legend=False)
    return figure


def class_balance(shares: NDArray[np.floating], classes: Sequence[str]) -> Figure:
    """How often each bit is one in each class: the code words that the classes were given.

    Example:
        >>> shares = bits.class_balance(codes, labels, 10, 48)  # doctest: +SKIP
        >>> figure = class_balance(shares, dataset.classes)  # doctest: +SKIP
    """
    height = min(1.2 + 0.24 * len(classes), 9)
    figure, axes = _one("bit", "class", size=(8.5, height))
    image = axes.imshow(
        np.ma.masked_invalid(shares),
        cmap=_DIVERGING,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
    )
    if len(classes) <= MOST_NAMES:
        axes.set_yticks(range(len(classes)), classes, fontsize=8)
    figure.colorbar(image, ax=axes, label="share of ones")
    return figure


def extremes(images: Any, latent: NDArray[np.floating], chosen: Sequence[int], each: int) -> Figure:
    """The images that some bits respond to most and least, a row for each bit.

    images: uint8 (n, h, w, c), c 1 or 3. latent: (n, bits), of the same images. chosen: bits.
    each: images of either kind.

    Raises:
        ValueError: the arguments do not fit each other.

    Example:
        >>> figure = extremes(images, encoded.latent, [0, 7, 20], 8)  # doctest: +SKIP
    """
    if len(images) != len(latent):
        raise ValueError(f"images has {len(images)} rows, and latent {len(latent)}")
    if not len(chosen) or each < 1:
        raise ValueError("chosen and each must not be empty; give at least one bit and one image")
    figure = Figure(figsize=(0.62 * (2 * each + 1) + 0.6, 0.72 * len(chosen) + 0.5))
    widths = [1.0] * each + [0.35] + [1.0] * each
    grid = figure.subplots(
        len(chosen),
        2 * each + 1,
        squeeze=False,
        gridspec_kw={"width_ratios": widths, "wspace": 0.06, "hspace": 0.08},
    )
    for row, bit in enumerate(chosen):
        most, least = latents.extremes(latent, bit, each)
        for axes in grid[row]:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        pictures = zip([*grid[row, :each], *grid[row, each + 1 :]], [*most, *least], strict=True)
        for axes, item in pictures:
            image = np.asarray(images[item])
            axes.imshow(
                image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255
            )
        grid[row, 0].set_ylabel(
            f"bit {bit}", rotation=0, ha="right", va="center", fontsize=9, labelpad=6
        )
    grid[0, each // 2].set_title("most: one", fontsize=10)
    grid[0, each + 1 + each // 2].set_title("least: zero", fontsize=10)
    return figure


def thresholds(
    cuts: NDArray[np.floating],
    swept: Sweep,
    threshold: float,
    others: Mapping[str, Sweep] | None = None,
) -> Figure:
    """What other thresholds would do to balance, entropy and mean average precision.

    cuts: one for all bits, ascending. swept: `latents.sweep` over them. threshold: the method's
    own. others: sweeps of a single cut, such as the medians, drawn as a level.

    Example:
        >>> figure = thresholds(cuts, swept, 0.5, {"medians": at_medians})  # doctest: +SKIP
    """
    figure, axes = _one("threshold", "")
    rows = (
        ("mAP", swept.mean_average_precision),
        ("mean entropy in bits", swept.entropy),
        ("share of ones", swept.ones),
    )
    for style, (name, values) in zip(STYLES, rows, strict=False):
        axes.plot(cuts, values, label=name, linewidth=1.6, markersize=4.5, **style)
    for colour, (name, other) in zip(_COLOURS[3:], (others or {}).items(), strict=False):
        level = float(other.mean_average_precision[0])
        axes.axhline(level, color=colour, linestyle=":", label=f"mAP, {name}: {level:.3f}")
    axes.axvline(threshold, color=BLACK, linestyle="--", linewidth=1, label="the method's own")
    axes.set_ylim(-0.03, 1.03)
    return finish(figure, axes)


def code_map(projection: Projection, labels: NDArray[Any], classes: Sequence[str]) -> Figure:
    """Codes on the map of `bits.project`, each with the colour and mark of its class.

    labels: integers (n,), or bool (n, classes), of which the first class that applies is shown.
    Equal codes share a place; the names stand at the middle of their class.

    Example:
        >>> figure = code_map(bits.project(codes, 48), labels, dataset.classes)  # doctest: +SKIP
    """
    first, second = projection.explained
    figure, axes = _one(
        f"first axis, {first:.0%} of the variance",
        f"second axis, {second:.0%}",
        size=(6.4, 5.4),
    )
    labels = np.asarray(labels)
    if labels.ndim == 2:
        labels = np.where(labels.any(axis=1), labels.argmax(axis=1), -1)
    for number, name in enumerate(classes):
        places = projection.positions[labels == number]
        if not len(places):
            continue
        # Marks change once the colours are used up: each class has a pair of its own for long.
        colour = _COLOURS[number % len(_COLOURS)]
        mark = _MARKERS[(number + number // len(_COLOURS)) % len(_MARKERS)]
        axes.plot(*places.T, linestyle="", marker=mark, color=colour, markersize=4, alpha=0.45)
        if len(classes) <= MOST_NAMES:
            axes.annotate(
                name,
                np.median(places, axis=0),
                ha="center",
                va="center",
                fontsize=9,
                fontweight="bold",
                bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour},
            )
    axes.set_aspect("equal", adjustable="datalim")
    return finish(figure, axes, legend=False)


def _one(across: str, up: str, *, size: tuple[float, float] = (6, 4)) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up)
    return figure, axes
