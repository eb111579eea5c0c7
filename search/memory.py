"""How much memory there is, and the refusal of answers that it could not hold.

Where the kernel overcommits, as Linux does, NumPy reserves any size without a word, and the process
is killed when it fills it.
"""

import math
import os
from pathlib import Path

from search.control_groups import folders

SMALL = 1 << 26
"""Bytes of an answer below which nobody asks how much memory there is."""
RESULT = 12
"""Bytes of a result: four of a distance, eight of an id."""

_FILES = {1: "memory.limit_in_bytes", 2: "memory.max"}


def limit(root: Path = Path("/")) -> float:
    """Bytes of memory this process may use: the machine's, or what its control groups leave it.

    Infinite where neither can be found out. Source: the kernel's
    Documentation/admin-guide/cgroup-v2.rst (memory.max) and cgroup-v1/memory.rst.

    Args:
        root: the folder that holds `proc` and `sys`.

    Example:
        >>> limit() > 1 << 20
        True
    """
    least = _installed()
    for version, folder in folders(root, "memory"):
        try:
            least = min(least, int((folder / _FILES[version]).read_text()))
        except (OSError, ValueError):
            continue  # no such group, or its limit is the word "max"
    return least


def check_answer(queries: int, k: int) -> None:
    """Refuse `k` results for each query where they would take more than half of the memory.

    Raises:
        ValueError: naming k.

    Example:
        >>> check_answer(1, 1000)
    """
    if excess := _excess(queries * k):
        raise ValueError(
            f"k is {k:,}, and that many results for {queries:,} queries would take {excess}; give "
            "a smaller k, or fewer queries at once"
        )


def check_found(results: int) -> None:
    """Refuse to go on with so many results of a search within a radius, all queries together.

    Raises:
        ValueError: naming the radius.

    Example:
        >>> check_found(1000)
    """
    if excess := _excess(results):
        raise ValueError(
            f"radius: {results:,} results or more lie within it, which would take {excess}; give a "
            "smaller radius, or fewer queries at once"
        )


def _excess(results: int) -> str:
    """What so many results would take, in words, where memory cannot hold them; or nothing."""
    size = RESULT * results
    if size <= SMALL or 2 * size <= (there := limit()):
        return ""
    return f"{_shown(size)}, more than half of the {_shown(there)} of memory there is"


def _installed() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return math.inf  # Windows, where reserving memory fails at once


def _shown(size: float) -> str:
    return f"{size / 1e9:,.2f} GB"
