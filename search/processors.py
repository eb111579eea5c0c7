"""How many processors this process may use, as scikit-learn and joblib count them too."""

import math
import os
from functools import cache
from pathlib import Path

from search.control_groups import folders

_ROOT = Path("/")  # one object, which knows its hash: this is looked up at every search
# Of each version of control groups: the quota, and the period where that is another file.
_FILES = {1: ("cpu.cfs_quota_us", "cpu.cfs_period_us"), 2: ("cpu.max",)}


def available() -> int:
    """The number of processors this process may use; the default number of threads.

    The least of three: the processors it may run on, the quota of its control groups (what
    `docker run --cpus` and Kubernetes limits set), rounded up and read once, and the first
    number in the environment variable OMP_NUM_THREADS, if there is one.

    Example:
        >>> available() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if wanted.isascii() and wanted.isdigit() and int(wanted) > 0:
        count = min(count, int(wanted))
    return min(count, quota(_ROOT) or count)


@cache
def quota(root: Path) -> int | None:
    """The processors that control groups, version 1 and 2, leave this process; None: all.

    Source: the kernel's Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
    scheduler/sched-bwc.rst (cpu.cfs_*).

    Args:
        root: the folder that holds `proc` and `sys`.
    """
    limits = [
        _limit([folder / name for name in _FILES[version]])
        for version, folder in folders(root, "cpu")
    ]
    least = min(limits, default=math.inf)
    return None if math.isinf(least) else max(1, math.ceil(least))


def _limit(files: list[Path]) -> float:
    """Processors: quota by period, both in microseconds, in one file or in two."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        share = float(quota) / float(period)  # the quota is 'max' or -1 where there is none
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
    return share if share > 0 else math.inf
