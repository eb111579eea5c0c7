"""How much memory decoded images may take."""

import os
from pathlib import Path

from search.control_groups import folders

# Of each version of control groups: the limit, and what is in use.
_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    2: ("memory.max", "memory.current"),
}


def default_memory_limit() -> int:
    """Half of the memory that is free now, in bytes, within a container's limit if there is one.

    Example:
        >>> default_memory_limit() > 0
        True
    """
    return max(1, min(_free_on_machine(), _free_in_container()) // 2)


def _free_on_machine() -> int:
    """Bytes the kernel says can be used without swapping, or the installed memory."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_in_container(root: Path = Path("/")) -> int:
    """Bytes left under the limits of the control groups; too many to matter without one."""
    free = 1 << 62
    for version, folder in folders(root, "memory"):
        try:
            limit, used = (int((folder / name).read_text()) for name in _FILES[version])
        except (OSError, ValueError):  # no such group, or the limit is the word "max"
            continue
        free = min(free, max(0, limit - used))
    return free
