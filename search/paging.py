"""Ask for the pages of a mapped array before they are needed.

A kernel that walks a mapped store waits for the disk at every page that is not in memory, and the
system then reads far more around it than one row. Told beforehand which rows will be needed, it
reads just those, many at a time.
"""

import ctypes
import mmap
from functools import cache

import numpy as np
from numpy.typing import NDArray

# Rows whose pages are looked at before all are asked for: asking costs a system call a row, a
# large part of re-ranking a pool that is in memory already.
SAMPLE = 8


def owner(array: np.ndarray) -> mmap.mmap | None:
    """The file mapping that an array lives in, None for memory of another kind.

    Example:
        >>> owner(np.zeros(3)) is None
        True
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


def fetch(array: NDArray, rows: NDArray[np.int64]) -> None:
    """Have the system read `rows` (ascending) of a C-contiguous mapped (n, d) array.

    Returns at once. Does nothing for other arrays, for rows that seem to be in memory already,
    and on systems that cannot be told.

    Example:
        >>> fetch(np.zeros((4, 2)), np.array([1, 3]))
    """
    mapping = owner(array)
    if mapping is None or not len(rows) or not array.size or not hasattr(mmap, "MADV_WILLNEED"):
        return
    page = mmap.PAGESIZE
    base = np.frombuffer(mapping, np.uint8).ctypes.data
    starts = (array.ctypes.data - base + rows * array.strides[0]) // page * page
    sample = starts[np.linspace(0, len(starts) - 1, SAMPLE).astype(int)]
    if all(_resident(base + start) for start in sample.tolist()):
        return
    length = array.strides[0] + page
    # Neighbours are asked for together.
    breaks = np.flatnonzero(starts[1:] > starts[:-1] + length) + 1
    ends = np.minimum(starts[np.r_[breaks - 1, len(starts) - 1]] + length, len(mapping))
    for start, end in zip(starts[np.r_[0, breaks]].tolist(), ends.tolist(), strict=True):
        mapping.madvise(mmap.MADV_WILLNEED, start, end - start)


def _resident(address: int) -> bool:
    """Whether the page at an address is in memory; True where the system does not tell."""
    mincore = _mincore()
    if mincore is None:
        return True
    present = ctypes.c_ubyte(1)
    failed = mincore(ctypes.c_void_p(address), ctypes.c_size_t(1), ctypes.byref(present))
    return bool(failed) or bool(present.value & 1)


@cache
def _mincore():  # type: ignore[no-untyped-def]
    """The system's function, None where there is none."""
    try:
        return ctypes.CDLL(None).mincore
    except (AttributeError, OSError, TypeError):
        return None
