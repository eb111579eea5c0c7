"""How much memory decoded images may take."""

import os
from pathlib import Path

_CGROUP = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CGROUP_USED = ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes")


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


def _free_in_container() -> int:
    """Bytes left under the control group's limit; a number too large to matter without one."""
    for limit, used in zip(_CGROUP, _CGROUP_USED, strict=True):
        try:
            return max(0, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # no such group, or the limit is the word "max"
            continue
    return 1 << 62
