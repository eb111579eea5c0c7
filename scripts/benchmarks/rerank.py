"""Coarse-to-fine search at the size of the paper, and re-ranking against NumPy.

    python scripts/benchmarks/rerank.py --folder /tmp --out rerank.json
    python scripts/benchmarks/rerank.py --items 20000 --dimensions 512 --runs 3     # a quick look

The paper (Lin, Yang, Hsiao and Chen, CVPR Workshops 2015) searches 1,124,087 images by 128-bit
codes and 4,096-dimensional features, and gives 971.3 as the ratio between the time of a Euclidean
and of a Hamming comparison. Here one index file of that size is written (9.2 GB at the defaults)
and the time of a query measured, one at a time and many at once, from the page cache and from the
disk, for

- exhaustive Euclidean search by BLAS on float32 blocks, and by the fused re-ranking kernel;
- codes only;
- the hierarchy with pools of several sizes, with the share of the true neighbours it finds.

Features are class centres plus noise, cut at zero as behind a ReLU, and the codes are the signs of
random projections of them. A second table compares `search.rerank` with gathering and norming in
NumPy, beside the memory bandwidth measured in the same run.

Needs about `items * dimensions * 2` bytes of free disk in `--folder` (removed at the end) and as
much free memory for the figures from the page cache. Takes about half an hour at the defaults, a
few seconds at the quick look.
"""

import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from limits import processor
from numpy.typing import NDArray
from tqdm import tqdm

from search import HashIndex, Writer, rerank
from search.fine.exhaustive import euclidean_knn
from search.kernels import euclidean
from search.threads import resolve, run


@dataclass(frozen=True)
class Config:
    """What to measure, and how often."""

    items: int = 1_124_087
    """Items in the database."""
    dimensions: int = 4096
    """Dimensions of a feature."""
    bits: int = 128
    """Bits of a code."""
    queries: int = 100
    """Queries of the measurements of many at once."""
    pools: tuple[int, ...] = (100, 1000, 10000)
    """Candidates that the hierarchy re-ranks."""
    k: int = 10
    """Results for each query."""
    runs: int = 15
    """Timed runs of each case from the page cache, after one that is not counted."""
    long_runs: int = 3
    """Timed runs of the exhaustive searches and of those from the disk."""
    threads: int | None = None
    """Threads; all processors when left out."""
    classes: int = 1000
    """Class centres among the features."""
    folder: Path = Path(tempfile.gettempdir())
    """Where the index file goes."""
    out: Path | None = None
    """A JSON file for the figures."""
    seed: int = 0
    """Seed of the data."""


@dataclass(frozen=True)
class Row:
    """One line of the first table: seconds for each query."""

    case: str
    cache: str
    queries: int
    median: float
    least: float
    recall: float | None
    megabytes_read: float | None


def main(config: Config) -> None:
    """Write the data, time all cases, print the tables."""
    if min(config.items, config.queries, config.runs, config.long_runs, config.k) < 1:
        raise SystemExit("--items, --queries, --runs, --long-runs and --k must be at least 1")
    threads = resolve(config.threads)
    about = {
        "machine": f"{processor()}, {os.cpu_count()} processors, {threads} threads",
        "versions": f"Python {platform.python_version()}, NumPy {np.__version__}",
        **{key: str(value) for key, value in dataclasses.asdict(config).items()},
    }
    print(about["machine"], about["versions"], sep="\n")
    bandwidth = memory_bandwidth(threads)
    print(f"memory bandwidth {bandwidth / 1e9:.1f} GB/s (reading, {threads} threads)")
    with tempfile.TemporaryDirectory(dir=config.folder, prefix="benchmark_rerank.") as folder:
        path = Path(folder) / "paper.index"
        start = time.perf_counter()
        codes, features = write_data(path, config)
        took = time.perf_counter() - start
        print(f"{path.stat().st_size / 1e9:.2f} GB written in {took:.0f} s")
        rows = whole_searches(path, codes, features, config, threads)
        kernel = against_numpy(path, features, config, threads, bandwidth)
    one = {row.case: row.least for row in rows if row.queries == 1 and row.cache == "warm"}
    many = {row.case: row.least for row in rows if row.queries > 1 and row.cache == "warm"}
    ratios = {}
    for number, times in (("one query", one), ("many queries", many)):
        best = min(each for case, each in times.items() if case.startswith("exhaustive"))
        ratios[number] = best / times["codes only"]
        print(f"{number}: best exhaustive / codes only = {ratios[number]:.1f} (paper: 971.3)")
        for case, each in times.items():
            if case.startswith("pool"):
                print(f"{number}: best exhaustive / {case} = {best / each:.1f}")
    if config.out is not None:
        report = {
            "about": about,
            "bandwidth": bandwidth,
            "searches": [dataclasses.asdict(row) for row in rows],
            "rerank": kernel,
            "exhaustive over codes": ratios,
        }
        config.out.write_text(json.dumps(report, indent=2) + "\n")


def write_data(path: Path, config: Config) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """An index file of the size asked for; returns codes and features of new queries."""
    rng = np.random.default_rng(config.seed)
    shape = (config.dimensions, config.bits)
    projection = rng.standard_normal(shape, dtype=np.float32)
    centres = rng.standard_normal((config.classes, config.dimensions), dtype=np.float32)
    middle = np.maximum(centres, 0).mean(axis=0)

    def draw(count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        features = rng.standard_normal((count, config.dimensions), dtype=np.float32)
        features += centres[rng.integers(0, config.classes, count)]
        np.maximum(features, 0, out=features)
        return np.packbits((features - middle) @ projection > 0, axis=1), features

    batch = max(1, (1 << 26) // config.dimensions)
    with Writer(path, bits=config.bits) as writer:
        for start in tqdm(range(0, config.items, batch), "writing", leave=False):
            codes, features = draw(min(batch, config.items - start))
            writer.append(codes, features.astype(np.float16))
    return draw(config.queries)


def whole_searches(
    path: Path,
    codes: NDArray[np.uint8],
    features: NDArray[np.float32],
    config: Config,
    threads: int,
) -> list[Row]:
    """The first table: exhaustive, codes only, hierarchy; one and many queries; warm and cold."""
    rows: list[Row] = []

    def add(row: Row) -> None:
        if not rows:
            print(
                f"\n{'case':<26}{'cache':<6}{'queries':>7}{'median':>12}{'least':>12}"
                f"{'recall':>8}{'MB read':>9}"
            )
        recall = "" if row.recall is None else f"{row.recall:.3f}"
        read = "" if row.megabytes_read is None else f"{row.megabytes_read:.1f}"
        print(
            f"{row.case:<26}{row.cache:<6}{row.queries:>7}{row.median * 1e3:>9.3f} ms"
            f"{row.least * 1e3:>9.3f} ms{recall:>8}{read:>9}",
            flush=True,
        )
        rows.append(row)

    coarse: dict[str, int | None] = {"codes only": None}
    coarse |= {f"pool {pool}": pool for pool in config.pools}

    def search(index: HashIndex, count: int, pool: int | None) -> NDArray[np.int64]:
        fine = None if pool is None else features[:count]
        found = index.search(
            codes[:count], config.k, query_features=fine, pool=pool, threads=threads
        )
        return found[1]

    def warm() -> None:
        index = HashIndex.open(path)
        stored = index._state.segments[0].features
        assert stored is not None
        everything = np.arange(config.items)[None]
        for count in sorted({1, config.queries}):
            chosen = features[:count]
            blas = partial(euclidean_knn, chosen, stored, config.k, threads=threads)
            truth = blas()[1]
            add(row_of("exhaustive, BLAS", "warm", count, timed(blas, config.long_runs)))
            if count == 1:  # nothing is shared between queries: once is enough
                fused = partial(rerank, chosen, stored, everything, config.k, threads=threads)
                times = timed(fused, config.long_runs)
                add(row_of("exhaustive, fused kernel", "warm", count, times))
            for case, pool in coarse.items():
                recall = None
                if pool is not None:
                    found = search(index, count, pool)
                    hits = [np.isin(*pair).mean() for pair in zip(truth, found, strict=True)]
                    recall = float(np.mean(hits))
                times = timed(partial(search, index, count, pool), config.runs)
                add(row_of(case, "warm", count, times, recall))

    warm()
    if hasattr(os, "posix_fadvise"):
        # What is mapped stays in memory: each run opens the file anew after it was dropped.
        for case, pool in coarse.items():
            times, read = [], 0.0
            for _ in range(config.long_runs):
                drop_from_cache(path)
                before, start = bytes_read(), time.perf_counter()
                search(HashIndex.open(path), 1, pool)
                times.append(time.perf_counter() - start)
                read = (bytes_read() - before) / 1e6
            add(row_of(case, "cold", 1, times, None, read))
    return rows


def row_of(
    case: str,
    cache: str,
    queries: int,
    times: list[float],
    recall: float | None = None,
    read: float | None = None,
) -> Row:
    """Seconds for the batch into seconds for each query."""
    each = [took / queries for took in times]
    return Row(case, cache, queries, statistics.median(each), min(each), recall, read)


def against_numpy(
    path: Path,
    queries: NDArray[np.float32],
    config: Config,
    threads: int,
    bandwidth: float,
) -> list[dict[str, Any]]:
    """The second table: `rerank` and NumPy on features in memory, in turns."""
    stored = HashIndex.open(path)._state.segments[0].features
    assert stored is not None
    held = min(config.items, (1 << 30) // (2 * config.dimensions))
    rng = np.random.default_rng(config.seed)
    rows = []
    print(
        f"\n{'features':<10}{'candidates':>10}{'rerank':>12}{'NumPy':>12}{'ratio':>8}{'GB/s':>7}"
        f"{'share of bandwidth':>20}{'kernel alone, one thread':>26}"
    )
    for dtype in (np.float16, np.float32):
        features: NDArray[Any] = stored[:held].astype(dtype)
        for pool in config.pools:
            # Nobody finds in the processor's cache what another run has just read.
            lists = [rng.permutation(held)[:pool] for _ in range(3 * config.runs + 3)]
            ours, theirs, alone = [], [], []
            for mine, others, third in zip(*(lists[i::3] for i in range(3)), strict=True):
                alone.append(kernel_alone(queries[:1], features, third))
                start = time.perf_counter()
                rerank(queries[:1], features, mine[None], config.k, threads=threads)
                middle = time.perf_counter()
                gather_and_norm(queries[0], features, others, config.k)
                theirs.append(time.perf_counter() - middle)
                ours.append(middle - start)
            fast, slow = statistics.median(ours[1:]), statistics.median(theirs[1:])
            least = statistics.median(alone[1:])
            rate = len(lists[0]) * config.dimensions * features.itemsize / fast
            print(
                f"{features.dtype!s:<10}{len(lists[0]):>10}{fast * 1e3:>9.3f} ms"
                f"{slow * 1e3:>9.3f} ms{slow / fast:>8.1f}{rate / 1e9:>7.1f}"
                f"{rate / bandwidth:>20.0%}{least * 1e3:>23.3f} ms"
            )
            rows.append(
                {
                    "features": str(features.dtype),
                    "candidates": len(lists[0]),
                    "rerank": fast,
                    "numpy": slow,
                    "kernel_alone": least,
                    "bytes_per_second": rate,
                    "least_rerank": min(ours[1:]),
                    "least_numpy": min(theirs[1:]),
                }
            )
    return rows


def kernel_alone(
    query: NDArray[np.float32], features: NDArray[Any], ids: NDArray[np.int64]
) -> float:
    """Seconds of the distances alone, on one thread: without checks, order or a second thread."""
    raw = features.view(np.uint16) if features.dtype == np.float16 else features
    out = np.empty(len(ids), np.float32)
    start = time.perf_counter()
    euclidean.squared_distances(query, raw, ids, len(ids), 0, len(ids), out)
    return time.perf_counter() - start


def gather_and_norm(
    query: NDArray[np.float32], features: NDArray[Any], ids: NDArray[np.int64], k: int
) -> NDArray[np.int64]:
    """Re-ranking in plain NumPy."""
    near = np.linalg.norm(features[ids].astype(np.float32, copy=False) - query, axis=1)
    best = np.argpartition(near, k)[:k] if k < len(ids) else np.arange(len(ids))
    return ids[best[np.argsort(near[best])]]


def timed(act: Callable[[], Any], runs: int) -> list[float]:
    """Seconds of `runs` calls, after one that is not counted."""
    act()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        act()
        times.append(time.perf_counter() - start)
    return times


def memory_bandwidth(threads: int) -> float:
    """Bytes a second that all threads together read, the best of several passes over 1 GiB."""
    words = np.ones(1 << 27, np.uint64)
    parts = [(part,) for part in np.array_split(words, threads)]
    return words.nbytes / min(timed(lambda: run(np.add.reduce, parts, threads), 7))


def drop_from_cache(path: Path) -> None:
    """Make the next reader of a file go to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bytes_read() -> int:
    """Bytes that this process made the disk deliver so far."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
