"""Measure the search beside FAISS in one process, and how it grows with the database.

    python scripts/benchmarks/hamming.py faiss [--quick] [--out FILE.json] \
        [--database FILE --queries FILE]
    python scripts/benchmarks/hamming.py scale --folder DIR [--quick] [--out FILE.json]

Every figure is the median and the least of interleaved runs, after both sides have warmed up,
beside its share of two limits of the machine, both measured here: bytes compared a second in
registers, and bytes a second read from an array as large as the codes.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numba
import numpy as np
import tyro
from limits import (
    Codes,
    around,
    bandwidth,
    comparison_rate,
    equal,
    floors,
    interleave,
    learned,
    processor,
    timed,
    uniform,
)

from search.files import reading
from search.hamming import buckets, scan, tables
from search.hamming.blocks import BLOCK, Blocks, arrange, restore, take
from search.hamming.dealing import tile_size


@dataclass
class Faiss:
    """Side by side with FAISS's IndexBinaryFlat, over the cases in docs/results/search.md."""

    database: Annotated[Path | None, tyro.conf.arg(help="index file of learned codes")] = None
    queries: Annotated[Path | None, tyro.conf.arg(help="index file of the queries' codes")] = None
    count: Annotated[int, tyro.conf.arg(help="codes in the generated databases")] = 1_000_000
    runs: Annotated[int, tyro.conf.arg(help="runs of each side")] = 15
    threads: Annotated[int, tyro.conf.arg(help="threads of each side")] = 2
    bits: Annotated[tuple[int, ...], tyro.conf.arg(help="widths to measure")] = (
        64, 128, 48, 32, 256,
    )  # fmt: skip
    quick: Annotated[bool, tyro.conf.arg(help="a small run that only shows it works")] = False
    out: Annotated[Path | None, tyro.conf.arg(help="where the figures go, as JSON")] = None
    seed: int = 0


@dataclass
class Scale:
    """Time and space against the number of 64-bit codes, on disk and memory-mapped."""

    folder: Annotated[Path, tyro.conf.arg(help="where the files may lie; emptied afterwards")]
    counts: tuple[int, ...] = (10_000_000, 100_000_000, 1_000_000_000)
    distinct: Annotated[int, tyro.conf.arg(help="distinct codes behind learned-like ones")] = (
        1_000_000
    )
    memory: Annotated[int, tyro.conf.arg(help="bytes that tables of codes may take")] = 12 << 30
    runs: int = 5
    threads: int = 2
    quick: Annotated[bool, tyro.conf.arg(help="a small run that only shows it works")] = False
    out: Annotated[Path | None, tyro.conf.arg(help="where the figures go, as JSON")] = None
    seed: int = 0


def faiss_table(options: Faiss) -> dict[str, Any]:
    """Measure and print every case; returns the rows and what the machine can do."""
    import faiss

    faiss.omp_set_num_threads(options.threads)
    if options.quick:
        options.count, options.runs = min(options.count, 100_000), 3
    rng = np.random.default_rng(options.seed)
    limits = {"comparisons": comparison_rate(options.threads)}
    print(
        f"comparison bound: {limits['comparisons'] / 1e9:.0f} G bytes/s, {options.threads} threads"
    )
    rows: list[dict[str, Any]] = []
    for bits in options.bits:
        centres = rng.integers(0, 2, (100, bits), dtype=np.uint8)
        for name, database, queries in (
            ("uniform", uniform(rng, options.count, bits), uniform(rng, 1000, bits)),
            (
                "clustered",
                around(rng, centres, options.count, 0.03),
                around(rng, centres, 1000, 0.03),
            ),
        ):
            rows += compare(faiss, options, limits, name, bits, database, queries)
    rows += compare_repeating(faiss, options, limits, rng)
    return {"limits": limits, "rows": rows, "first": first_calls()}


def compare(
    faiss: Any,
    options: Faiss,
    limits: dict[str, float],
    name: str,
    bits: int,
    database: Codes,
    queries: Codes,
) -> list[dict[str, Any]]:
    """The cases of one database: k nearest for 1, 100 and 1,000 queries, and two radii."""
    flat = faiss.IndexBinaryFlat(8 * database.shape[1])
    flat.add(database)
    blocks = arrange(database, bits)
    size = f"bandwidth of {blocks.planes.nbytes} bytes"
    limits[size] = bandwidth(blocks.planes.nbytes, options.threads)
    least = floors(blocks, options.threads, options.runs)
    limits |= {f"one query, {name}, {bits} bits, {key}": least[key]["median"] for key in least}
    print(
        f"{name:20} {bits:4d} bits, floor of one query: reading its bytes: "
        + ", ".join(
            f"{key} {1e3 * value['median']:.2f} ms ({1e3 * value['least']:.2f})"
            for key, value in least.items()
        )
    )
    rows = []
    for count in (1, 100, 1000):
        asked = queries[:count]
        for k in (10, 100, 1000):
            seconds = interleave(
                {
                    "faiss": partial(flat.search, asked, k),
                    "search": partial(scan.knn, blocks, asked, k, threads=options.threads),
                },
                options.runs,
            )
            same = equal(flat.search(asked, k), scan.knn(blocks, asked, k))
            row = {"codes": name, "bits": bits, "queries": count, "k": k, "same": same}
            rows.append(row | judge(seconds, blocks, count, k, limits, size))
            show(rows[-1])
    nothing = np.full(100, -1)  # a radius that is scanned for, and never met
    for radius in (2, 8):
        asked = queries[:100]
        seconds = interleave(
            {
                "faiss": partial(flat.range_search, asked, radius + 1),
                "search": partial(scan.radius, blocks, asked, radius, threads=options.threads),
                "scan alone": partial(scan.radius, blocks, asked, nothing, threads=options.threads),
            },
            options.runs,
        )
        bounds, _, found = flat.range_search(asked, radius + 1)
        offsets, _, rows_within = scan.radius(blocks, asked, radius)
        order = np.lexsort((found, np.repeat(np.arange(100), np.diff(bounds.astype(np.int64)))))
        mine = np.lexsort((rows_within, np.repeat(np.arange(100), np.diff(offsets))))
        same = np.array_equal(bounds, offsets) and np.array_equal(found[order], rows_within[mine])
        row = {"codes": name, "bits": bits, "queries": 100, "radius": radius, "same": same}
        row["results"] = len(found)
        rows.append(row | judge(seconds, blocks, 100, 0, limits, size))
        show(rows[-1])
    return rows


def judge(
    seconds: dict[str, dict[str, float]],
    blocks: Blocks,
    queries: int,
    k: int,
    limits: dict[str, float],
    size: str,
) -> dict[str, Any]:
    """The ratio of the medians, codes a second, and the shares of both physical limits."""
    spent = seconds["search"]["median"]
    bytes_each = blocks.planes.shape[1]
    passes = -(-queries // tile_size(k, blocks.bits))
    return seconds | {
        "times": seconds["faiss"]["median"] / spent,
        "codes_per_second": blocks.count * queries / spent,
        "of_comparisons": blocks.count * queries * bytes_each / spent / limits["comparisons"],
        "of_bandwidth": blocks.planes.nbytes * passes / spent / limits[size],
    }


def stored(path: Path) -> tuple[Codes, int]:
    """The codes of an index file, as jaxhash encode writes it, and their bits."""
    found = reading.read(path, mmap=False, verify=True)
    return restore(Blocks(found.planes, found.count, found.bits)), found.bits


def compare_repeating(
    faiss: Any, options: Faiss, limits: dict[str, float], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Codes that repeat, real ones or simulated: as they are, and drawn with repetition to 1M."""
    if options.database is None or options.queries is None:
        bits, name = 48, "simulated"
        database, queries = learned(rng, 50_000, bits), learned(rng, 1000, bits)
    else:
        (database, bits), (queries, _) = stored(options.database), stored(options.queries)
        name, queries = "learned", queries[:1000]
    rows = []
    drawn = database[rng.integers(0, len(database), options.count)]
    for label, codes in ((name, database), (f"{name}, repeated", drawn)):
        flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
        flat.add(codes)
        blocks = arrange(codes, bits)
        index = buckets.build(blocks)
        assert index is not None
        size = f"bandwidth of {blocks.planes.nbytes} bytes"
        limits[size] = bandwidth(blocks.planes.nbytes, options.threads)
        chosen = buckets.worthwhile(blocks)
        for k in (10, 100, 1000):
            seconds = interleave(
                {
                    "faiss": partial(flat.search, queries, k),
                    "scan": partial(scan.knn, blocks, queries, k, threads=options.threads),
                    "buckets": partial(index.knn, queries, k, threads=options.threads),
                },
                options.runs,
            )
            theirs = flat.search(queries, k)
            same = equal(theirs, scan.knn(blocks, queries, k))
            same = same and equal(theirs, index.knn(queries, k))
            seconds["search"] = seconds["buckets" if chosen else "scan"]
            row = {
                "codes": label, "bits": bits, "queries": len(queries), "k": k, "same": same,
                "distinct": index.blocks.count, "by": "buckets" if chosen else "scan",
            }  # fmt: skip
            rows.append(row | judge(seconds, blocks, len(queries), k, limits, size))
            show(rows[-1])
    return rows


def show(row: dict[str, Any]) -> None:
    """One line for one case."""
    what, rest = f"k={row.get('k')}", ""
    if "radius" in row:
        what = f"radius={row['radius']}"
        alone = 1e3 * row["scan alone"]["median"]
        rest = f"  {row['results']} results, the scan alone {alone:.2f} ms"
    print(
        f"{row['codes']:20} {row['bits']:4d} bits {row['queries']:5d} queries {what:9}"
        f"  faiss {1e3 * row['faiss']['median']:9.2f} ms ({1e3 * row['faiss']['least']:.2f})"
        f"  search {1e3 * row['search']['median']:8.2f} ms ({1e3 * row['search']['least']:.2f})"
        f"  {row['times']:7.1f}x  {row['codes_per_second'] / 1e9:7.1f} G codes/s"
        f"  {100 * row['of_comparisons']:4.0f} % compared {100 * row['of_bandwidth']:4.0f} % memory"
        f"  {'same' if row['same'] else 'DIFFERENT'}{rest}",
        flush=True,
    )


FIRST = """
import time
start = time.perf_counter()
import search
imported = time.perf_counter()
import numpy as np
codes = np.random.default_rng(0).integers(0, 256, (100_000, 8), dtype=np.uint8)
begun = time.perf_counter()
search.hamming_knn(codes[:100], codes, 10)
print(imported - start, time.perf_counter() - begun)
"""


def first_calls() -> dict[str, float]:
    """Seconds to import, and to the first answer of a new process, without and with a cache."""
    figures = {}
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": os.getcwd()}
        for name in ("cold", "warm"):
            answer = subprocess.run(
                [sys.executable, "-c", FIRST], env=environment, check=True, capture_output=True
            )
            figures["import"], figures[name] = map(float, answer.stdout.split())
    print("first call: " + ", ".join(f"{name} {value:.2f} s" for name, value in figures.items()))
    return figures


def scale_table(options: Scale) -> dict[str, Any]:
    """Measure and print every size; the files are removed at the end, whatever happens."""
    counts = (200_000, 1_000_000) if options.quick else options.counts
    options.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for count in counts:
        for kind in ("uniform", "learned-like"):
            folder = Path(tempfile.mkdtemp(prefix="scale-", dir=options.folder))
            try:
                rows += measure_size(options, folder, kind, count)
            finally:
                shutil.rmtree(folder)
    return {"limits": {"comparisons": comparison_rate(options.threads)}, "rows": rows}


def measure_size(options: Scale, folder: Path, kind: str, count: int) -> list[dict[str, Any]]:
    """Build, open and search one database of 64-bit codes: scan, and buckets or tables."""
    rng = np.random.default_rng(options.seed)
    path = folder / "planes"
    shape = (-(-count // BLOCK), 8, BLOCK)
    centres = learned(rng, options.distinct, 64)
    arranging = 0.0
    planes = np.memmap(path, np.uint8, "w+", shape=shape)
    step = BLOCK << 15
    for start in range(0, count, step):
        size = min(step, count - start)
        if kind == "uniform":
            codes = uniform(rng, size, 64)
        else:
            # Some codes are far more frequent than others: the r-th in proportion to 1 / r.
            codes = centres[np.power(len(centres), rng.random(size)).astype(np.int64) - 1]
        part = planes[start // BLOCK : -(-(start + size) // BLOCK)]
        arranging += timed(partial(arrange, codes, out=part, threads=options.threads))
    arranging += timed(planes.flush)
    del planes

    begun = time.perf_counter()
    mapped = np.memmap(path, np.uint8, "r", shape=shape)
    blocks = Blocks(mapped, count, 64)
    opening = time.perf_counter() - begun
    common: dict[str, Any] = {"codes": kind, "count": count}
    rows: list[dict[str, Any]] = [
        common
        | {"by": "scan", "build": arranging, "open": opening}
        | {"bytes_per_code": path.stat().st_size / count}
    ]
    near = rng.integers(0, count, 100)
    queries = take(blocks, near) ^ np.packbits(rng.random((100, 64)) < 0.03, axis=1)
    searches: dict[str, Callable[..., Any]] = {
        "scan": lambda asked, k: scan.knn(blocks, asked, k, threads=options.threads)
    }
    if buckets.worthwhile(blocks):
        begun = time.perf_counter()
        index = buckets.build(blocks, tables=True, threads=options.threads)
        built = time.perf_counter() - begun
        assert index is not None
        rows.append(
            common
            | {"by": "buckets", "build": built, "distinct": index.blocks.count}
            | {"bytes_per_code": index.nbytes / count}
        )
        searches["buckets"] = lambda asked, k: index.knn(asked, k, threads=options.threads)
    elif tables.size(count, 64) <= options.memory:
        begun = time.perf_counter()
        plain = tables.build(blocks, threads=options.threads)
        built = time.perf_counter() - begun
        rows.append(
            common
            | {"by": "tables", "build": built}
            | {"bytes_per_code": (plain.nbytes + blocks.planes.nbytes) / count}
        )
        searches["tables"] = lambda asked, k: plain.knn(asked, k, threads=options.threads)
    for row in rows:
        search = searches[row["by"]]
        for asked in (queries[:1], queries):
            for k in (1, 10, 100):
                search(asked, k)
                seconds = sorted(timed(partial(search, asked, k)) for _ in range(options.runs))
                row[f"{len(asked)} queries, k={k}"] = {
                    "median": float(np.median(seconds)) / len(asked),
                    "least": seconds[0] / len(asked),
                }
        print(
            f"{kind:12} {count:13,d} {row['by']:8} build {row['build']:7.2f} s"
            f"  {row['bytes_per_code']:5.2f} bytes/code  time per query: "
            + ", ".join(
                f"{key} {1e3 * value['median']:.3f} ms"
                for key, value in row.items()
                if "queries" in key
            ),
            flush=True,
        )
    return rows


def main() -> None:
    """Run one of the two measurements."""
    options = tyro.extras.subcommand_cli_from_dict({"faiss": Faiss, "scale": Scale})
    report = {
        "command": " ".join(sys.argv),
        "machine": {"processor": processor()}
        | {"cores": os.cpu_count(), "python": platform.python_version()}
        | {"numba": numba.__version__, "numpy": np.__version__},
    }
    report |= faiss_table(options) if isinstance(options, Faiss) else scale_table(options)
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
