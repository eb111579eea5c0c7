"""Memory that a training step has used stays with the process for the next one."""

import ctypes
import sys

# Names and numbers of glibc's <malloc.h>.
_TRIM_THRESHOLD = -1
_TOP_PAD = -2
_MMAP_MAX = -4
_ARENA_MAX = -8

_LARGEST = 2**31 - 1  # mallopt takes an int
_GROWTH = 256 * 2**20


def keep_memory() -> bool:
    """Have glibc keep freed memory for reuse; returns whether it does.

    A step on CPU allocates hundreds of megabytes and frees them. By default glibc hands blocks of
    that size back to the system, which then clears and maps every page again at the next step:
    half of a step's time, for the networks here. Call it first thing in a program: threads that
    have allocated before keep their own arenas. The process keeps its peak memory until it ends.
    Elsewhere than on Linux with glibc nothing happens.

    Source: mallopt(3).

    Example:
        >>> keep_memory()  # doctest: +SKIP
        True
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, for one
        return False
    settings = {
        # Of all arenas only the main one can grow to blocks of any size without mmap.
        _ARENA_MAX: 1,
        _MMAP_MAX: 0,
        _TRIM_THRESHOLD: _LARGEST,
        _TOP_PAD: _GROWTH,
    }
    accepted = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(accepted)
