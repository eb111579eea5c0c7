"""Search on a Ray cluster of this machine, while replicas and a router are killed.

    python scripts/benchmarks/shards_ray.py
    python scripts/benchmarks/shards_ray.py --codes 200000 --seconds 20

Threads ask for the nearest from coarse to fine, and compare every answer with that of one index in
this process. Meanwhile replicas of several parts and a router are killed by SIGKILL, and the
pointer changes to another folder; each answer must be wholly of one of the two. Before that, the
time of a query and of batches, beside one index in this process. Needs the extra: pip install
"jaxhash[ray]".
"""

import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from kills import kills_and_switch, own_cluster, through

from jaxhash.shards import ray_search
from jaxhash.shards.pointer import point
from search import HashIndex, Writer
from search.shards import file_name


@dataclass(frozen=True)
class Config:
    """How large, and how long."""

    codes: int = 2_000_000
    """Codes in each of two databases."""
    bits: int = 48
    """Bits of a code."""
    dimensions: int = 32
    """Dimensions of the float16 features."""
    parts: int = 4
    """Parts, each in some files of its own."""
    replicas: int = 2
    """Replicas of each part."""
    pool: int = 100
    """Candidates of a query."""
    threads: int = 2
    """Threads that ask."""
    batches: int = 10
    """Batches of 1,000 queries whose time is taken."""
    queries: int = 10
    """Queries in each request."""
    seconds: float = 60
    """Time that they ask for; a kill comes in each sixth of it."""
    folder: Path = Path(tempfile.gettempdir())
    """Where the files go; removed at the end."""


def main(config: Config) -> dict[str, Any]:
    """Measure as asked for: counts of answers, and seconds."""
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        pointer = Path(folder) / "current"
        indexes = {str(Path(folder) / name): write(Path(folder) / name, config) for name in "ab"}
        old, new = indexes
        point(pointer, old)
        with own_cluster(16):
            handle = ray_search.start(
                pointer, parts=config.parts, replicas=config.replicas, threads=1, cpus=0.5
            )
            report = latencies(config, handle, indexes[old])
            changes = kills_and_switch(config.parts, lambda: point(pointer, new))
            report |= under_load(config, handle, indexes, changes)
    for name, value in report.items():
        print(f"{value:12.4g}  {name}")
    return report


def write(folder: Path, config: Config) -> HashIndex:
    """A folder of shards, one for each part, and one index of the same items."""
    rng = np.random.default_rng(len(folder.name) + ord(folder.name[-1]))
    codes = rng.integers(0, 256, (config.codes, config.bits // 8), np.uint8)
    fine = rng.random((config.codes, config.dimensions), np.float32).astype(np.float16)
    folder.mkdir()
    for part in range(config.parts):
        start, stop = (each * config.codes // config.parts for each in (part, part + 1))
        with Writer(folder / file_name(part, config.parts), bits=config.bits) as writer:
            own = np.arange(start, stop)
            writer.append(codes[own], fine[own], own)
    return HashIndex(codes, features=fine)


def asked(config: Config, rng: np.random.Generator, count: int) -> tuple[np.ndarray, dict]:
    """Queries, and what is asked of them."""
    queries = rng.integers(0, 256, (count, config.bits // 8), np.uint8)
    fine = rng.random((count, config.dimensions), np.float32)
    return queries, {"query_features": fine, "pool": config.pool}


def latencies(config: Config, handle: Any, index: HashIndex) -> dict[str, float]:
    """Median milliseconds of a query and of batches, on the cluster and in this process, in turn.

    A batch may be several requests at a time, as clients have them: then of each of those.
    """
    rng, report = np.random.default_rng(1), {}
    ways: dict[str, Callable[..., Any]] = {
        "here": lambda q, o: index.search(q, 10, threads=1, **o),
        "here, 2 threads": lambda q, o: index.search(q, 10, threads=2, **o),
        "on Ray": lambda q, o: ray_search.search(handle, q, 10, **o),
    }
    for count, runs in ((1, 40), (100, 20), (1000, config.batches)):
        queries, options = asked(config, rng, count)
        spent: dict[str, list[float]] = {name: [] for name in (*ways, "on Ray, 2 at a time")}
        with ThreadPoolExecutor(2) as both:
            for _ in range(runs + 1):
                for name, search in ways.items():
                    begun = time.perf_counter()
                    search(queries, options)
                    spent[name].append(time.perf_counter() - begun)
                begun = time.perf_counter()
                list(both.map(ways["on Ray"], [queries] * 2, [options] * 2))
                spent["on Ray, 2 at a time"].append((time.perf_counter() - begun) / 2)
        for name, seconds in spent.items():
            report[f"ms, {count} queries, {name}, median"] = 1e3 * float(np.median(seconds[1:]))
            report[f"ms, {count} queries, {name}, least"] = 1e3 * min(seconds[1:])
    return report


def under_load(
    config: Config,
    handle: Any,
    indexes: dict[str, HashIndex],
    changes: list[Callable[[], object]],
) -> dict[str, float]:
    """Counts of right and wrong answers and of errors, and the slowest request."""
    counts = {"right": 0, "wrong": 0, "errors": 0}
    spent: list[float] = []
    seen: set[str] = set()

    def ask(seed: int, over: threading.Event) -> None:
        rng = np.random.default_rng(seed)
        while not over.is_set():
            queries, options = asked(config, rng, config.queries)
            begun = time.perf_counter()
            try:
                found = ray_search.search(handle, queries, 10, **options)
            except Exception as error:  # whatever it is, it is counted
                print(f"{type(error).__name__}: {error}")
                counts["errors"] += 1
                continue
            spent.append(time.perf_counter() - begun)
            seen.add(found.folder)
            distances, ids = indexes[found.folder].search(queries, 10, threads=1, **options)
            same = np.array_equal(ids, found.ids) and np.array_equal(distances, found.distances)
            counts["right" if same else "wrong"] += len(queries)

    through(changes, ask, config.threads, config.seconds)
    kept = {f"answers {name}": float(count) for name, count in counts.items()}
    return kept | {"folders seen": len(seen), "s, slowest request": max(spent)}


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
