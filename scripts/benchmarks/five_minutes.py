"""All of jaxhash on this machine in five minutes, beside what the machine can do at most.

    python scripts/benchmarks/five_minutes.py [--parts limits search training encoding startup]

Prints what is measured and its versions; then the limits: bytes compared a second in registers,
bytes read a second from arrays of two sizes, the time to hand work to another thread, and one
large matrix product. Then the search of 1,000,000 codes, beside FAISS where that is installed, with
its share of these limits; one training step, encoding, and how long commands take to start, by the
scripts beside this one at small sizes. Best on a machine that does nothing else.
"""

import importlib.util
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from latency import with_faiss
from limits import Codes, bandwidth, comparison_rate, equal, floors, interleave, processor, uniform

import search
from search.hamming.blocks import arrange
from search.kernels.registers import registers
from search.processors import available

SIDE = 2048  # of the matrices that are multiplied
SIZES = {"8 MB": 8_000_000, "512 MB": 512_000_000}
SCRIPTS = {
    "training": "accelerator --cases resnet:32 --batch-sizes 64 --precisions float32 --steps 4 "
    "--rounds 4",
    "encoding": "encoding --items 2048 --files 400 --memory-items 0 --rounds 3",
    "startup": "startup --runs 3",
}


@dataclass
class Options:
    """What is measured."""

    parts: Annotated[tuple[str, ...], tyro.conf.arg(help="of all five, in any order")] = (
        "limits", "search", *SCRIPTS,
    )  # fmt: skip
    count: Annotated[int, tyro.conf.arg(help="codes in the database")] = 1_000_000
    bits: Annotated[tuple[int, ...], tyro.conf.arg(help="bits of a code")] = (64, 256)
    k: int = 10
    runs: Annotated[int, tyro.conf.arg(help="runs of each search")] = 15
    threads: Annotated[int, tyro.conf.arg(help="threads of each side")] = available()
    seed: int = 0


@dataclass
class Limits:
    """What two searches are compared with: bytes a second."""

    compared: float
    read: dict[str, float]


def introduce(options: Options) -> None:
    """What is measured, on what."""
    own = registers()
    how = "looking up half bytes" if own.by_table else "counting bits of bytes"
    versions = []
    for name in ("jaxhash", "jax", "numba", "numpy", "faiss-cpu"):
        if importlib.util.find_spec(name.partition("-")[0]):
            versions.append(f"{name} {metadata.version(name)}")
    print(f"{processor()}; {options.threads} threads; Python {platform.python_version()}")
    print(f"{', '.join(versions)}; registers of {own.size} bytes, {how}")


def measure_limits(options: Options) -> Limits:
    """What the machine can do at most, printed and returned."""
    both = sorted({1, options.threads})
    rates = {threads: comparison_rate(threads) for threads in both}
    print("\nlimits")
    for threads, rate in rates.items():
        print(f"  compared in registers, {threads} threads {rate / 1e9:26.0f} GB/s")
    read = {}
    for name, size in SIZES.items():
        for threads in both:
            read[name] = bandwidth(size, threads)
            print(f"  read from {name}, {threads} threads {read[name] / 1e9:30.0f} GB/s")
    codes = uniform(np.random.default_rng(options.seed), 10_000, 64)
    handed = floors(arrange(codes), options.threads, options.runs)["hand-over"]
    print(f"  work handed over and back {1e6 * handed['median']:29.0f} us")
    factor = np.random.default_rng(0).normal(size=(SIDE, SIDE)).astype(np.float32)
    product = interleave({"product": lambda: factor @ factor}, 3)["product"]["least"]
    print(f"  NumPy's product of {SIDE} x {SIDE}{2 * SIDE**3 / product / 1e9:31.0f} Gflop/s")
    return Limits(rates[options.threads], read)


def measure_search(options: Options, limits: Limits | None) -> None:
    """Searches of uniform codes, with the shares of both limits where these were measured."""
    rng = np.random.default_rng(options.seed)
    for bits in options.bits:
        codes, asked = uniform(rng, options.count, bits), uniform(rng, 1000, bits)
        index = search.HashIndex(codes)
        print(f"\n{options.count:,} uniform codes of {bits} bits, k = {options.k}")
        sides: dict[str, Callable[[Codes], Any]] = {
            "search": partial(index.search, k=options.k, threads=options.threads)
        }
        if importlib.util.find_spec("faiss"):
            sides["faiss"] = with_faiss(codes, options.k, options.threads)["faiss"]
        for count in (1, 100, 1000):
            some = asked[:count]
            found = interleave(
                {name: partial(call, some) for name, call in sides.items()}, options.runs
            )
            median = found["search"]["median"]
            text = (
                f"  {count:5} queries {1e3 * median:9.3f} ms ({1e3 * found['search']['least']:.3f})"
            )
            if limits is not None:
                share = codes.nbytes * count / median / limits.compared
                text += f"  {100 * share:3.0f} % of comparisons"
                text += f", {codes.nbytes / median / 1e9:6.1f} GB/s if read once"
            if "faiss" in sides:
                same = equal(sides["search"](some), sides["faiss"](some))
                text += f"  faiss {1e3 * found['faiss']['median']:9.3f} ms"
                text += f"  {found['faiss']['median'] / median:5.1f}x"
                text += "" if same else "  DIFFERENT"
            print(text, flush=True)


def main(options: Options) -> None:
    """Measure the parts in turn."""
    unknown = set(options.parts) - {"limits", "search", *SCRIPTS}
    if unknown:
        raise SystemExit(
            f"no part is called {unknown.pop()!r}; parts: limits search {' '.join(SCRIPTS)}"
        )
    begun = time.perf_counter()
    introduce(options)
    limits = measure_limits(options) if "limits" in options.parts else None
    if "search" in options.parts:
        measure_search(options, limits)
    for name, command in SCRIPTS.items():
        script, *words = command.split()
        if name in options.parts:
            print(f"\n{name}: scripts/benchmarks/{script}.py {' '.join(words)}", flush=True)
            path = Path(__file__).with_name(f"{script}.py")
            subprocess.run([sys.executable, str(path), *words], check=True)
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
