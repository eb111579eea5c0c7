"""Print the table of a comparison, and draw its figures.

    python scripts/benchmarks/compare_figures.py --cells cells --curves curve.json --out docs

Seconds; prints Markdown: methods and baselines down, protocols across, mean ± sample standard
deviation over the seeds (and their number); then, for methods with codes of several lengths, a
table of them for each protocol. Leaves in --out comparison_precision_recall.png and
comparison_precision_at_k.png, comparison_bits.png where there are several lengths of code, and
comparison_time.png from what scripts/benchmarks/curve.py wrote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from jaxhash import plots, runs
from jaxhash.cli.command import Command, run
from jaxhash.comparison import table

Cells = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Figures:
    """Options of scripts/benchmarks/compare_figures.py."""

    cells: Path | None = None
    """Folder that scripts/benchmarks/compare.py filled; without it, only the curves are drawn."""
    curves: tuple[Path, ...] = ()
    """Files of scripts/benchmarks/curve.py."""
    out: Path = Path("docs")
    """Folder for the pictures."""
    bits: int = 48
    """Length of the code in the table and in the figures that show one."""
    protocol: str = "p-all"
    """The protocol in the figures."""
    measure: str = "mAP"
    """What the table holds: mAP, mAP_at_top (of 1,000), or k for the precision at k."""
    methods: tuple[str, ...] = ()
    """Those in the figures. Default: all."""


def style(number: int) -> dict[str, Any]:
    """Of a line: after seven, colours meet other dashes and markers."""
    colours, shapes = plots.STYLES[number % 7], plots.STYLES[(number + number // 7) % 7]
    return {
        "color": colours["color"],
        "linestyle": shapes["linestyle"],
        "marker": shapes["marker"],
        "markersize": 4.5,
        "linewidth": 1.4,
    }


def against_bits(cells: Cells, protocol: str) -> Figure:
    """mAP against the length of the code, mean and standard deviation over the seeds."""
    figure, axes = one("bits", "mAP", protocol)
    for number, (title, method, ranking) in enumerate(table.rows(cells)):
        points = []
        for bits in sorted({cell["bits"] for cell in cells}):
            found = table.values(
                cells, lambda one: one["mAP"], ranking=ranking, method=method, bits=bits
            )
            if found:
                points.append((bits, *table.mean_and_spread(found)))
        if points:
            across, mean, spread = np.array(points).T
            axes.errorbar(
                across, mean, np.nan_to_num(spread), label=title, capsize=2, **style(number)
            )
    axes.set_xticks(sorted({cell["bits"] for cell in cells}))
    return beside(figure, axes)


def precision_recall(cells: Cells, protocol: str, bits: int) -> Figure:
    """Precision against recall, both means over the seeds at the same ranks."""
    figure, axes = one("recall", "precision", f"{protocol}, {bits} bits")
    for number, (title, method, ranking) in enumerate(table.rows(cells)):
        curves = table.values(
            cells, lambda one: one["precision_recall"], ranking=ranking, method=method
        )
        shared = [curve for curve in curves if curve["ranks"] == curves[0]["ranks"]]
        recall, precision = (
            np.mean([curve[name] for curve in shared], axis=0) for name in ("recall", "precision")
        )
        axes.plot(recall, precision, label=title, markevery=3, **style(number))
    axes.set(xlim=(0, 1.02), ylim=(0, 1.005))
    return beside(figure, axes)


def precision_at_k(cells: Cells, protocol: str, bits: int) -> Figure:
    """Precision of the first k results against k, means over the seeds."""
    figure, axes = one("k, number of results", "precision@k", f"{protocol}, {bits} bits")
    for number, (title, method, ranking) in enumerate(table.rows(cells)):
        found = table.values(cells, lambda one: one["precision_at"], ranking=ranking, method=method)
        cuts = [k for k in found[0] if all(k in each for each in found)]
        means = [np.mean([each[k] for each in found]) for k in cuts]
        axes.plot([int(k) for k in cuts], means, label=title, **style(number))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(NullFormatter())
    return beside(figure, axes)


def against_time(curves: Sequence[Mapping[str, Any]]) -> Figure:
    """mAP of the queries against the seconds of training, compilation included."""
    figure, axes = one("seconds of training, with compilation", "mAP", "")
    for number, found in enumerate(curves):
        config, points = found["config"], found["points"]
        before = found["seconds_to_first_step"]
        note = "" if before is None else f", first step after {before:.0f} s"
        axes.plot(
            [point["seconds"] for point in points],
            [point["mAP"] for point in points],
            label=f"{config['method']}, {config['bits']} bits, {config['network']}{note}",
            **style(number),
        )
    axes.set_xlim(left=0)
    return plots.finish(figure, axes)


def one(across: str, up: str, title: str) -> tuple[Figure, Axes]:
    """A figure of one diagram."""
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up, title=title)
    return figure, axes


def beside(figure: Figure, axes: Axes) -> Figure:
    """Finish with the legend at the side, where many lines leave no room for it."""
    plots.finish(figure, axes, legend=False)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return figure


def draw(options: Figures) -> None:
    """Print and draw as the options say."""
    figures = {} if options.cells is None else of_cells(options, options.cells)
    if options.curves:
        figures["time"] = against_time([runs.read_json(path) for path in options.curves])
    if not figures:
        raise ValueError("nothing to draw: give --cells, --curves or both")
    options.out.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        plots.save(figure, options.out / f"comparison_{name}.png")
        print(options.out / f"comparison_{name}.png")


def of_cells(options: Figures, folder: Path) -> dict[str, Figure]:
    """Print the table of a folder of cells; the figures of its protocol, by name."""
    cells = table.read_cells(folder)
    print(table.table(cells, bits=options.bits, measure=options.measure))
    for protocol in dict.fromkeys(cell["protocol"] for cell in cells):
        found = table.table_of_bits(cells, protocol=protocol, measure=options.measure)
        if found:
            print(f"\n{found}")
    drawn = [
        cell
        for cell in cells
        if cell["protocol"] == options.protocol
        and (not options.methods or cell["method"] in options.methods)
    ]
    if not drawn:
        there = ", ".join(sorted({cell["protocol"] for cell in cells}))
        raise ValueError(f"no cells of {options.protocol} to draw: there are {there}")
    figures = {}
    same = [cell for cell in drawn if cell["bits"] == options.bits]
    if same:
        figures["precision_recall"] = precision_recall(same, options.protocol, options.bits)
        figures["precision_at_k"] = precision_at_k(same, options.protocol, options.bits)
    several = table.of_several_lengths(drawn)
    if several:
        figures["bits"] = against_bits(several, options.protocol)
    return figures


COMMAND = Command("compare_figures.py", __doc__, Figures, draw)

if __name__ == "__main__":
    run(COMMAND)
