"""A large database as a folder of shards: what it takes to write, to open and to search.

    python scripts/benchmarks/shards.py --folder /big
    python scripts/benchmarks/shards.py --codes 1000000000 --folder /big
    python scripts/benchmarks/shards.py --codes 1000000000 --folder /big --replicas 2

Random codes, in which each query's nearest neighbours are hidden, at distances that random ones do
not have: they must be found, by the folder as one index and by its shards asked apart, and both
answers must be the same. Printed are seconds on the clock and the largest memory of the process
that is not the mapped files. The files stay in the page cache as far as it holds them. With
--replicas the files are asked on a Ray cluster of this machine too (pip install "jaxhash[ray]"),
each in so many processes, by two threads; one process is killed by SIGKILL meanwhile.
"""

import resource
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import tyro

from search import HashIndex, Writer
from search.scattered import search_shards
from search.shards import file_name, files

BATCH = 1 << 20
HIDDEN = 3
"""Neighbours hidden for each query: at the distances 0, 1 and 2."""
LONGEST = 120
"""Seconds that an answer on Ray may take, before it is asked for again."""
T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """How large, and where."""

    codes: int = 10_000_000
    """Codes in the database."""
    shards: int = 8
    """Files they are in."""
    bits: int = 64
    """Bits of a code."""
    queries: int = 100
    """Queries in a batch."""
    runs: int = 5
    """Times that each search is timed, after the first."""
    replicas: int = 0
    """Processes of each file on a Ray cluster; 0 for no cluster."""
    seconds: float = 90
    """Time that the cluster is asked for; a process is killed in the middle."""
    folder: Path = Path(tempfile.gettempdir())
    """Where the files go; removed at the end."""


def main(config: Config) -> dict[str, float]:
    """Measure as asked for; seconds by what took them."""
    rng = np.random.default_rng(0)
    queries = rng.integers(0, 256, (config.queries, config.bits // 8), np.uint8)
    # Where they are hidden: ids that no two share, anywhere.
    hidden = rng.choice(config.codes, (config.queries, HIDDEN), replace=False)
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        path = Path(folder)

        def write() -> None:
            for shard in range(config.shards):
                write_shard(path, shard, config, queries, hidden)

        timed(seconds, "write", write)
        size = sum(file.stat().st_size for file in files(path))
        index = timed(seconds, "open", lambda: HashIndex.open(path))
        HashIndex(queries).search(queries[:1], HIDDEN)  # compiles
        found = timed(seconds, "first query, with checksums", partial(index.search, queries[:1], 3))
        for name, some in (("one query", queries[:1]), (f"{len(queries)} queries", queries)):
            for _ in range(config.runs):
                found = timed(seconds, name, partial(index.search, some, HIDDEN))
        apart = [HashIndex.open([file]) for file in files(path)]
        other = timed(
            seconds,
            f"{len(queries)} queries of shards apart, first",
            lambda: search_shards(apart, queries, HIDDEN),
        )
        for ours, theirs in zip(found, other, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(found[0], np.tile(np.arange(HIDDEN), (len(queries), 1)))
        np.testing.assert_array_equal(found[1], hidden)
        report = on_ray(path, config, queries, hidden) if config.replicas else {}
    print(f"{config.codes:,} codes of {config.bits} bits in {config.shards} shards, {size:,} bytes")
    for name, took in seconds.items():
        print(f"{took:10.4f} s  {name}")
    for name, value in report.items():
        print(f"{value:10.4g}    {name}")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{memory:10.0f} MiB  largest memory, mapped pages included")
    return seconds | report


def write_shard(
    folder: Path, shard: int, config: Config, queries: np.ndarray, hidden: np.ndarray
) -> None:
    """One file, batch by batch."""
    start, stop = (each * config.codes // config.shards for each in (shard, shard + 1))
    rng = np.random.default_rng(shard + 1)
    with Writer(folder / file_name(shard, config.shards), bits=config.bits) as writer:
        for first in range(start, stop, BATCH):
            count = min(BATCH, stop - first)
            words = rng.integers(0, 256, (count, config.bits // 8), np.uint8)
            for query, distance in np.argwhere((hidden >= first) & (hidden < first + count)):
                row = hidden[query, distance] - first
                words[row] = queries[query]
                words[row, 0] ^= (1 << distance) - 1  # so many bits
            writer.append(words, ids=np.arange(first, first + count))


def on_ray(
    folder: Path, config: Config, queries: np.ndarray, hidden: np.ndarray
) -> dict[str, float]:
    """Right and wrong answers and errors of one query at a time, through a kill; and seconds."""
    from kills import kill, own_cluster, through

    from jaxhash.shards import ray_search

    counts = {"right": 0, "wrong": 0, "errors": 0}
    asked: list[tuple[float, float]] = []  # when, and for how long

    def ask(number: int, over: threading.Event) -> None:
        while not over.is_set():
            number = (number + 2) % len(queries)
            begun = time.perf_counter()
            try:
                found = ray_search.search(handle, queries[[number]], HIDDEN, seconds=LONGEST)
            except Exception as error:  # whatever it is, it is counted
                print(f"{type(error).__name__}: {error}")
                counts["errors"] += 1
                continue
            asked.append((begun, time.perf_counter() - begun))
            same = np.array_equal(found.ids[0], hidden[number])
            same &= np.array_equal(found.distances[0], np.arange(HIDDEN))
            counts["right" if same else "wrong"] += 1

    killed: list[float] = []
    with own_cluster(64):
        handle = ray_search.start(
            folder, parts=config.shards, replicas=config.replicas, threads=1, seconds=LONGEST
        )
        through([lambda: killed.append(kill("part-0"))], ask, 2, config.seconds)
    met = [spent for begun, spent in asked if begun < killed[0] < begun + spent]
    after = [spent for begun, spent in asked if begun > killed[0]]
    return {f"answers on Ray, {name}": float(count) for name, count in counts.items()} | {
        "s, first answer on Ray": asked[0][1],
        "s, median answer on Ray": float(np.median([spent for _, spent in asked])),
        "s, slowest answer that the kill met": max(met, default=float("nan")),
        "s, slowest answer that began after it": max(after, default=float("nan")),
    }


def timed(seconds: dict[str, float], name: str, function: Callable[[], T]) -> T:
    """What it gives; the least time of its calls is noted."""
    begun = time.perf_counter()
    result = function()
    seconds[name] = min(time.perf_counter() - begun, seconds.get(name, np.inf))
    return result


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
