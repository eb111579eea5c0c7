"""Tables of a comparison: means and standard deviations over the seeds."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxhash import runs
from jaxhash.comparison.baselines import BASELINES
from jaxhash.comparison.runner import Cell
from jaxhash.data import PROTOCOLS
from jaxhash.method import METHODS


def read_cells(folder: Path | str) -> list[dict[str, Any]]:
    """All cells of a folder, in the order of their names.

    Raises:
        FileNotFoundError: there are none.
        ValueError: a file is no cell.
    """
    paths = sorted(Path(folder).glob("*_*_*_*.json"))
    if not paths:
        raise FileNotFoundError(f"no cells in {folder}; a comparison writes them")
    cells = [runs.read_json(path) for path in paths]
    for path, cell in zip(paths, cells, strict=True):
        if not {*Cell._fields, "rankings", "asked"} <= cell.keys():
            raise ValueError(f"{path} is no cell of a comparison")
    return cells


def rows(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """The rows of a table of these cells, as (title, method, ranking).

    The codes of every method in the order of `METHODS`, then what the methods with baselines have
    beside their codes.
    """
    order = list(METHODS)
    methods = sorted(
        {cell["method"] for cell in cells},
        key=lambda name: (order.index(name) if name in order else len(order), name),
    )
    found = [(method, method, "codes") for method in methods]
    names = {"predicted_class": "its predicted class", **BASELINES}
    for method in methods:
        has: set[str] = set()
        for cell in cells:
            has |= cell["rankings"].keys() if cell["method"] == method else set()
        if has & BASELINES.keys():
            found += [(f"{method}: {names[name]}", method, name) for name in names if name in has]
    return found


def values(
    cells: Iterable[Mapping[str, Any]],
    number: Callable[[Mapping[str, Any]], Any],
    *,
    ranking: str,
    **where: Any,
) -> list[Any]:
    """`number(ranking)` of every cell that has the ranking and agrees with `where`.

    Example:
        >>> cells = [{"bits": 48, "rankings": {"codes": {"mAP": 0.5}}}]
        >>> values(cells, lambda found: found["mAP"], ranking="codes", bits=48)
        [0.5]
    """
    return [
        number(cell["rankings"][ranking])
        for cell in cells
        if ranking in cell["rankings"] and all(cell[name] == one for name, one in where.items())
    ]


def mean_and_spread(numbers: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (over n - 1), which is nan for a single number.

    Example:
        >>> mean_and_spread([1.0, 3.0])
        (2.0, 1.4142135623730951)
    """
    spread = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return statistics.fmean(numbers), spread


def table(cells: Sequence[Mapping[str, Any]], *, bits: int, measure: str = "mAP") -> str:
    """The Markdown table at one length of code: methods and baselines down, protocols across.

    measure: "mAP", "mAP_at_top", or k for the precision at k. Every entry is the mean over the
    seeds, their standard deviation where there are several, and their number.

    Raises:
        ValueError: no cell has so many bits.
    """
    chosen = [cell for cell in cells if cell["bits"] == bits]
    if not chosen:
        known = ", ".join(map(str, sorted({cell["bits"] for cell in cells})))
        raise ValueError(f"bits is {bits}; there are cells of {known}")
    there = {cell["protocol"] for cell in chosen}
    protocols = [name for name in PROTOCOLS if name in there]
    across = [{"protocol": protocol} for protocol in protocols]
    return _lines([f"{measure}, {bits} bits", *protocols], chosen, across, measure)


def table_of_bits(
    cells: Sequence[Mapping[str, Any]], *, protocol: str, measure: str = "mAP"
) -> str:
    """The Markdown table of one protocol: methods down, lengths of code across, as in `table`.

    Methods of a single length are left out: "" where no method has several.
    """
    chosen = of_several_lengths([cell for cell in cells if cell["protocol"] == protocol])
    if not chosen:
        return ""
    lengths = sorted({cell["bits"] for cell in chosen})
    across = [{"bits": bits} for bits in lengths]
    return _lines([f"{measure}, {protocol}", *map(str, lengths)], chosen, across, measure)


def of_several_lengths(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The cells of those methods that have codes of more than one length.

    Example:
        >>> cells = [{"method": "dsh", "bits": bits} for bits in (12, 24)]
        >>> len(of_several_lengths([*cells, {"method": "csq", "bits": 12}]))
        2
    """
    lengths: dict[str, set[int]] = {}
    for cell in cells:
        lengths.setdefault(cell["method"], set()).add(cell["bits"])
    return [cell for cell in cells if len(lengths[cell["method"]]) > 1]


def _lines(
    heads: Sequence[str],
    cells: Sequence[Mapping[str, Any]],
    across: Sequence[Mapping[str, Any]],
    measure: str,
) -> str:
    """A Markdown table with a row for each of `rows` and a column for each condition."""

    def number(ranking: Mapping[str, Any]) -> float:
        if measure in ("mAP", "mAP_at_top"):
            return float(ranking[measure])
        return float(ranking["precision_at"].get(measure, math.nan))

    lines = [heads, ["---"] * len(heads)]
    for title, method, ranking in rows(cells):
        found = (values(cells, number, ranking=ranking, method=method, **where) for where in across)
        lines.append([title, *map(entry, found)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def entry(numbers: Sequence[float]) -> str:
    """One entry of the table.

    Example:
        >>> entry([0.5, 0.52]), entry([0.5]), entry([])
        ('.5100 ± .0141 (2)', '.5000 (1)', '')
    """
    if not numbers or any(math.isnan(one) for one in numbers):
        return ""
    mean, spread = mean_and_spread(numbers)
    beside = "" if math.isnan(spread) else f" ± {_short(spread)}"
    return f"{_short(mean)}{beside} ({len(numbers)})"


def _short(number: float) -> str:
    """Four digits, without the zero before the point."""
    return f"{number:.4f}".removeprefix("0")
