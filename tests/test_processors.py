"""How many processors are counted: affinity, control groups, OMP_NUM_THREADS."""

import os

import pytest

from search import processors, threads


@pytest.fixture
def sixteen(monkeypatch):
    """A machine of sixteen processors without any limit."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr(processors, "quota", lambda _: None)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, 16),
        ("", 16),
        ("3", 3),
        (" 3 ", 3),
        ("4,2,1", 4),
        ("64", 16),
        ("0", 16),
        ("-2", 16),
        ("many", 16),
        ("²", 16),
    ],
)
def test_omp_num_threads(sixteen, value, expected):
    if value is not None:
        sixteen.setenv("OMP_NUM_THREADS", value)
    assert threads.resolve(None) == processors.available() == expected
    assert threads.resolve(32) == 32


def test_the_quota_counts_only_where_it_is_less(sixteen):
    for quota, expected in ((2, 2), (40, 16), (None, 16)):
        sixteen.setattr(processors, "quota", lambda _, quota=quota: quota)
        assert processors.available() == expected


def test_processors_where_the_system_has_no_affinity(sixteen):
    sixteen.delattr(os, "sched_getaffinity", raising=False)
    sixteen.setattr(os, "cpu_count", lambda: 5)
    assert processors.available() == 5
    sixteen.setattr(os, "cpu_count", lambda: None)
    assert processors.available() == 1


V2 = "0::/"
V1 = "9:memory:/here\n5:cpuacct,cpu:"
QUOTAS = {
    "nothing there": ("", {}, None),
    "version 2": (f"{V2}\n", {"cpu.max": "200000 100000"}, 2),
    "rounded up": (f"{V2}\n", {"cpu.max": "150000 100000"}, 2),
    "less than one": (f"{V2}\n", {"cpu.max": "5000 100000"}, 1),
    "no limit": (f"{V2}\n", {"cpu.max": "max 100000"}, None),
    "unreadable": (f"{V2}\n", {"cpu.max": "a lot"}, None),
    "no period": (f"{V2}\n", {"cpu.max": "1000 0"}, None),
    "a group's own": (f"{V2}a/b\n", {"a/b/cpu.max": "300000 100000"}, 3),
    "a group around it": (
        f"{V2}a/b\n",
        {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000", "cpu.max": "900000 100000"},
        4,
    ),
    "a path of the host": (f"{V2}docker/123\n", {"cpu.max": "200000 100000"}, 2),
    "a path outside": (f"{V2}../../other\n", {"cpu.max": "200000 100000"}, 2),
    "version 1": (
        f"{V1}/a\n",
        {"cpu/a/cpu.cfs_quota_us": "250000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
        3,
    ),
    "version 1, no limit": (
        f"{V1}/\n",
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
        None,
    ),
    "version 1, half there": (f"{V1}/\n", {"cpu/cpu.cfs_quota_us": "100000\n"}, None),
    "both versions": (
        f"{V1}/\n{V2}\n",
        {"cpu/cpu.cfs_quota_us": "600000", "cpu/cpu.cfs_period_us": "100000"},
        6,
    ),
}


@pytest.mark.parametrize("name", QUOTAS)
def test_quotas_of_control_groups(tmp_path, name):
    groups, files, expected = QUOTAS[name]
    if groups:
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(groups)
    for file, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert processors.quota(tmp_path) == expected
