"""Time to compare a mapped index file with its checksums when it is first searched.

    python scripts/benchmarks/files.py
    python scripts/benchmarks/files.py --items 10000000 --dimensions 0

A file is opened and searched again and again, in turn with its checksums compared (as by
`HashIndex.open`) and without. Prints the least and the median time, wall-clock and of the processor
(all threads together), of opening and the first search by codes, of a later one, and of the first
and the later ones of several coarse-to-fine searches, each for another query and so for other
features. The file comes from the page cache.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from search import HashIndex, Writer

BATCH = 1 << 16


@dataclass(frozen=True)
class Config:
    """What to measure, and how often."""

    items: int = 1_000_000
    """Items in the index."""
    bits: int = 64
    """Bits of a code."""
    dimensions: int = 128
    """Dimensions of the float16 features; 0 for none."""
    pool: int = 100
    """Candidates of a coarse-to-fine search."""
    k: int = 10
    """Results of a search."""
    later: int = 5
    """Searches after the first."""
    runs: int = 15
    """Times that the file is opened in each of the two ways."""
    folder: Path = Path(tempfile.gettempdir())
    """Where the index file goes; removed at the end."""


def main() -> None:
    """Measure as the command line says."""
    config = tyro.cli(Config, description=__doc__)
    with tempfile.TemporaryDirectory(dir=config.folder) as folder:
        path = Path(folder) / "first.index"
        write(path, config)
        HashIndex.open(path).search(np.zeros((1, config.bits // 8), np.uint8), config.k)  # compiles
        times: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for run in range(config.runs):
            for way in ("compared", "trusted"):
                for name, one in measure(path, config, way == "trusted", run).items():
                    times.setdefault((name, way), []).append(one)
    print("ms: least and median on the clock; least and median of the processor")
    for (name, way), spent in sorted(times.items()):
        columns = np.array([np.min(spent, axis=0), np.median(spent, axis=0)]).T.ravel() * 1e3
        print(f"{name:30} {way:9}", *(f"{each:9.2f}" for each in columns))


def write(path: Path, config: Config) -> None:
    """Random codes and features."""
    rng = np.random.default_rng(0)
    with Writer(path, bits=config.bits) as writer:
        for start in range(0, config.items, BATCH):
            count = min(BATCH, config.items - start)
            codes = rng.integers(0, 256, (count, config.bits // 8), dtype=np.uint8)
            features = rng.standard_normal((count, config.dimensions), np.float32)
            writer.append(codes, features.astype(np.float16) if config.dimensions else None)


def measure(path: Path, config: Config, trusted: bool, seed: int) -> dict[str, tuple[float, float]]:
    """Seconds on the clock and of the processor of each kind of search in a file just opened."""
    rng = np.random.default_rng(seed)
    queries = rng.integers(0, 256, (config.later + 1, 1, config.bits // 8), dtype=np.uint8)
    index: HashIndex

    def first() -> None:
        nonlocal index
        index = HashIndex.open(path)
        if trusted:
            segment = dataclasses.replace(index._state.segments[0], guards={})
            index = HashIndex.of_segment(segment)
        index.search(queries[0], config.k)

    def fine(query: int) -> None:
        index.search(
            queries[query],
            config.k,
            query_features=np.zeros((1, config.dimensions), np.float32),
            pool=config.pool,
        )

    def later(search: Callable[[int], object]) -> tuple[float, float]:
        spent = [timed(partial(search, i)) for i in range(1, config.later + 1)]
        clock, processor = np.median(spent, axis=0).tolist()
        return clock, processor

    times = {
        "codes, opening and first": timed(first),
        "codes, later": later(lambda i: index.search(queries[i], config.k)),
    }
    if config.dimensions:
        times["coarse to fine, first"] = timed(lambda: fine(0))
        times["coarse to fine, other queries"] = later(fine)
        times["coarse to fine, same queries"] = later(fine)
    return times


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Seconds on the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - clock, time.process_time() - processor


if __name__ == "__main__":
    main()
