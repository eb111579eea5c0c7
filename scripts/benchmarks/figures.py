"""Draw the figures of RESULTS.md from the numbers that the benchmarks stored.

    python scripts/benchmarks/hamming.py scale --folder DIR --out scale.json
    python scripts/benchmarks/figures.py --scale scale.json --out docs

A second; leaves docs/scale.png, the time of a query against the number of codes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from jaxhash import plots
from jaxhash.cli.command import Command, run


@dataclass(frozen=True)
class Figures:
    """Options of scripts/benchmarks/figures.py."""

    scale: Path
    """What `scripts/benchmarks/hamming.py scale --out` wrote."""
    out: Path = Path("docs")
    """Folder for the pictures."""


def scale_figure(rows: list[dict[str, Any]], *, k: int = 10) -> Figure:
    """Milliseconds a query takes against the number of codes: one query, and 100 at once."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, queries in zip(figure.subplots(1, 2, sharey=True), (1, 100), strict=True):
        lines = sorted({(row["codes"], row["by"]) for row in rows})
        for style, (codes, by) in zip(plots.STYLES, lines, strict=False):
            chosen = [row for row in rows if (row["codes"], row["by"]) == (codes, by)]
            axes.plot(
                [row["count"] for row in chosen],
                [1e3 * row[f"{queries} queries, k={k}"]["median"] for row in chosen],
                label=f"{by}, {codes} codes",
                **style,
            )
        axes.set(xscale="log", yscale="log", xlabel="codes of 64 bits")
        axes.set_title("one query" if queries == 1 else f"{queries} queries at once")
        plots.finish(figure, axes)
    figure.axes[0].set_ylabel(f"milliseconds a query, k = {k}")
    return figure


def draw(options: Figures) -> None:
    """Draw as the options say."""
    rows = json.loads(options.scale.read_text())["rows"]
    options.out.mkdir(parents=True, exist_ok=True)
    plots.save(scale_figure(rows), options.out / "scale.png")
    print(options.out / "scale.png")


COMMAND = Command("figures.py", __doc__, Figures, draw)

if __name__ == "__main__":
    run(COMMAND)
