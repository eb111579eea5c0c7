"""Exact search of a database on the devices that jax finds, beside the scan on the CPU.

    python scripts/benchmarks/device_search.py --out device_search.json
    python scripts/benchmarks/device_search.py --codes 100000 --bits 64 --queries 100    # on a CPU

Codes of independent fair bits. For each number of bits, of queries and of results: queries a second
by products of +-1 and by counts of different bits, and of `HashIndex.search` in the same process,
taken in turn after a call that is not counted (its seconds, most of them compilation, stand apart);
the products as 10^12 operations a second and, where the device is known, as a share of its peak.
Every answer is compared with that of `HashIndex.search`, and one that differs ends the benchmark.

Some five minutes on a GPU.
"""

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from accelerator import PEAK_TFLOPS
from limits import in_turn, timed, uniform

from jaxhash import device_search, runs
from jaxhash.cli.command import Command, run
from jaxhash.environment import environment
from search import HashIndex


@dataclass(frozen=True)
class Benchmark:
    """Options of scripts/benchmarks/device_search.py."""

    codes: int = 10_000_000
    """Codes in the database."""
    bits: tuple[int, ...] = (64, 128, 256)
    """Lengths of the codes, multiples of eight."""
    queries: tuple[int, ...] = (1, 100, 1000)
    """Queries in a call."""
    k: tuple[int, ...] = (10, 100)
    """Results for each query."""
    rounds: int = 5
    """Timed calls, after one that is not counted."""
    out: Path | None = None
    """Also write everything as JSON."""


def measure(options: Benchmark, bits: int) -> list[dict[str, Any]]:
    """The rows of one length of code."""
    rng = np.random.default_rng(bits)
    database = uniform(rng, options.codes, bits)
    index, rows = HashIndex(database), []
    placed = device_search.place(database)
    kind = jax.devices()[0].device_kind
    for count in options.queries:
        queries = uniform(rng, count, bits)
        for k in options.k:
            calls: dict[str, Callable[[], Any]] = {
                way: partial(device_search.knn, placed, queries, k, way=way)
                for way in device_search.WAYS
            }
            first = {way: timed(call) for way, call in calls.items()}
            expected = index.search(queries, k)
            for way, call in calls.items():
                for one, other in zip(call(), expected, strict=True):
                    if not np.array_equal(one, other):
                        raise ValueError(f"{way} of {bits} bits, {count} queries, k {k}: differ")
            calls["processor"] = partial(index.search, queries, k)
            for way, seconds in in_turn(calls, options.rounds).items():
                row = {
                    "bits": bits,
                    "queries": count,
                    "k": k,
                    "by": way,
                    "first_seconds": first.get(way),
                    "seconds": {"median": statistics.median(seconds), "least": min(seconds)},
                }
                rate = f"{count / min(seconds):12.1f} {count / statistics.median(seconds):12.1f}"
                note = ""
                if way == "products":
                    tera = 2 * bits * options.codes * count / min(seconds) / 1e12
                    row["tera_operations_per_second"] = tera
                    note = f"{tera:10.2f} Top/s"
                    if kind in PEAK_TFLOPS:
                        note += f", {tera / PEAK_TFLOPS[kind] / jax.device_count():.1%} of peak"
                rows.append(row)
                print(f"{bits:5} {count:8} {k:5} {way:>10} {rate}{note}", flush=True)
    return rows


def benchmark(options: Benchmark) -> None:
    """Measure as the options say, and print a table."""
    print(f"{options.codes} codes, {jax.device_count()} x {jax.devices()[0].device_kind}")
    print(" bits  queries     k         by queries/s: best  median")
    rows = [row for bits in options.bits for row in measure(options, bits)]
    if options.out is not None:
        given = dataclasses.asdict(options) | {"out": str(options.out)}
        runs.write_json(options.out, {"options": given, "environment": environment(), "rows": rows})


COMMAND = Command("device_search.py", __doc__, Benchmark, benchmark)

if __name__ == "__main__":
    run(COMMAND)
