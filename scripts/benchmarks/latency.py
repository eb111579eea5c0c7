"""Milliseconds of one query, against the number of codes, beside FAISS and usearch.

    python scripts/benchmarks/latency.py [--counts 10000 100000] [--quick] [--out FILE.json]
    python scripts/benchmarks/latency.py --counts 1000000 --pauses

All in one process, taken in turn after pauses, over uniform codes: `HashIndex.search` and the scan
below it; FAISS's `IndexBinaryFlat`, alone and with the codes divided among the threads by
`IndexBinaryShards`; and usearch's exact and approximate search, as far as these are installed.
Beside them what bounds a query from below: reading the codes' bytes once, on one thread and on all,
and handing work to another thread. Every figure is a median, and the least, of runs. With
`--pauses` only ours is measured, and what a pause before a query changes: asleep, spinning, or
both, which tells the clock's frequency and sleeping threads from caches that others have filled.
"""

import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from limits import Codes, equal, floors, interleave, timed, uniform

import search
from search.hamming import scan
from search.hamming.blocks import arrange

ASKED = 100  # queries that usearch's recall is measured with
WARMING = 10  # queries before those that count


@dataclass
class Options:
    """One query at several sizes."""

    counts: Annotated[tuple[int, ...], tyro.conf.arg(help="codes in the databases")] = (
        10_000, 100_000, 1_000_000, 10_000_000,
    )  # fmt: skip
    bits: int = 64
    k: int = 10
    runs: Annotated[int, tyro.conf.arg(help="runs of each")] = 51
    threads: Annotated[int, tyro.conf.arg(help="threads of each side")] = 2
    graph: Annotated[int, tyro.conf.arg(help="codes that usearch's graph is built of, at most")] = (
        1_000_000
    )
    pauses: Annotated[bool, tyro.conf.arg(help="what a pause before a query changes, alone")] = (
        False
    )
    quick: Annotated[bool, tyro.conf.arg(help="a small run that only shows it works")] = False
    out: Annotated[Path | None, tyro.conf.arg(help="where the figures go, as JSON")] = None
    seed: int = 0


def with_faiss(codes: Codes, k: int, threads: int) -> dict[str, Callable[[Codes], Any]]:
    """FAISS's exact search: one index, and one whose codes are divided among the threads."""
    import faiss

    faiss.omp_set_num_threads(threads)
    flat = faiss.IndexBinaryFlat(8 * codes.shape[1])
    flat.add(codes)
    shards: Any = faiss.IndexBinaryShards  # its stub knows one argument alone
    divided = shards(8 * codes.shape[1], True, True)  # threaded, with successive ids
    for some in np.array_split(codes, threads):
        part = faiss.IndexBinaryFlat(8 * codes.shape[1])
        part.add(some)
        divided.add_shard(part)
    return {
        "faiss": lambda asked: flat.search(asked, k),
        "faiss, divided": lambda asked: divided.search(asked, k),
    }


def with_usearch(codes: Codes, options: Options) -> dict[str, Callable[[Codes], Any]]:
    """usearch's exact search, and its graph where that is not too large to build."""
    from usearch import index as usearch

    calls: dict[str, Callable[[Codes], Any]] = {
        "usearch": lambda asked: usearch.search(
            codes, asked, options.k, usearch.MetricKind.Hamming, exact=True,
            threads=options.threads, dtype="b1",
        )
    }  # fmt: skip
    if len(codes) <= options.graph:
        graph = usearch.Index(ndim=8 * codes.shape[1], metric=usearch.MetricKind.Hamming)
        keys = np.arange(len(codes), dtype=np.uint64)
        seconds = timed(partial(graph.add, keys, codes, threads=options.threads))
        print(f"usearch's graph of {len(codes):,} codes: built in {seconds:.1f} s")
        calls["usearch, graph"] = lambda asked: graph.search(
            asked, options.k, threads=options.threads
        )
    return calls


def measure(count: int, options: Options) -> dict[str, Any]:
    """The row of one size, printed too."""
    rng = np.random.default_rng(options.seed)
    codes, asked = uniform(rng, count, options.bits), uniform(rng, ASKED, options.bits)
    blocks, index = arrange(codes), search.HashIndex(codes)
    every: dict[str, Callable[[Codes], Any]] = {
        "search": lambda some: index.search(some, options.k, threads=options.threads),
        "scan": lambda some: scan.knn(blocks, some, options.k, threads=options.threads),
    }
    if importlib.util.find_spec("faiss"):
        every |= with_faiss(codes, options.k, options.threads)
    if importlib.util.find_spec("usearch"):
        every |= with_usearch(codes, options)
    distances, ids = every["search"](asked)
    row: dict[str, Any] = {"count": count, "bits": options.bits, "k": options.k}
    if "faiss" in every:
        row["same"] = equal(every["faiss"](asked), (distances, ids))
        near, _ = every["faiss, divided"](asked)  # which of equally near codes: another order
        row["same"] &= bool((near == distances).all())
    for name in ("usearch", "usearch, graph"):
        if name in every:
            near = every[name](asked).distances
            row[f"{name}, recall"] = float((near <= distances[:, -1:]).mean())
    row |= interleave(
        {name: partial(call, asked[:1]) for name, call in every.items()}, options.runs
    )
    row["floors"] = floors(blocks, options.threads, options.runs)
    figures = {name: row[name] for name in every}
    figures |= {f"floor: {name}": value for name, value in row["floors"].items()}
    print(f"{count:,} codes of {options.bits} bits, one query, k = {options.k}")
    for name, value in figures.items():
        more = "" if name + ", recall" not in row else f"  recall {row[name + ', recall']:.3f}"
        print(f"  {name:20} {1e3 * value['median']:9.4f} ms ({1e3 * value['least']:.4f}){more}")
    if "same" in row:
        print(f"  {'same' if row['same'] else 'DIFFERENT'} answers as FAISS", flush=True)
    return row


def spin(seconds: float) -> None:
    """Keep the processor busy, without memory."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def asleep_and_spinning(seconds: float, spun: float) -> None:
    """A pause of both kinds."""
    time.sleep(seconds)
    spin(spun)


def after_pauses(count: int, options: Options) -> dict[str, Any]:
    """How long one query takes after each kind of pause, printed too."""
    rng = np.random.default_rng(options.seed)
    index, asked = (
        search.HashIndex(uniform(rng, count, options.bits)),
        uniform(rng, 1, options.bits),
    )
    others = np.ones(64 << 17)  # 64 MB
    pauses: dict[str, Callable[[], Any]] = {
        "none": lambda: None,
        "20 ms asleep": partial(time.sleep, 0.02),
        "20 ms spinning": partial(spin, 0.02),
        "20 ms asleep, 2 spinning": partial(asleep_and_spinning, 0.02, 0.002),
        "other 64 MB read": others.sum,
    }
    row: dict[str, Any] = {"count": count, "bits": options.bits, "k": options.k}
    print(f"{count:,} codes of {options.bits} bits, one query, k = {options.k}, after a pause of")
    for threads in sorted({1, options.threads}):
        for name, pause in pauses.items():
            seconds = []
            for _ in range(WARMING + options.runs):
                pause()
                seconds.append(timed(partial(index.search, asked, options.k, threads=threads)))
            median, least = float(np.median(seconds[WARMING:])), min(seconds[WARMING:])
            row[f"{name}, {threads} threads"] = {"median": median, "least": least}
            print(f"  {name:25} {threads} threads {1e3 * median:9.4f} ms ({1e3 * least:.4f})")
    return row


def main(options: Options) -> None:
    """Measure every size, and write the figures as soon as one is complete."""
    if options.quick:
        options.counts, options.runs = (10_000, 100_000), 3
    rows: list[dict[str, Any]] = []
    for count in options.counts:
        rows.append((after_pauses if options.pauses else measure)(count, options))
        if options.out is not None:
            options.out.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
