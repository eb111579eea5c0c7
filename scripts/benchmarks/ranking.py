"""How long all the ranking measures take, on random codes.

    python scripts/benchmarks/ranking.py --labels nuswide_labels.npz

Two cases, each with tie-aware average precision (whole list and top 1,000 or 5,000), precision@k,
the precision-recall curve and lookup within a radius, from one call of `search.measure`:

- 10,000 queries x 50,000 items of ten classes, the size of CIFAR-10 (target: 2 s on 2 cores);
- 2,100 queries x 193,734 items with the real labels of NUS-WIDE, 81 concepts (target: 3 s). It
  needs `--labels`: an .npz that holds the bool matrix (images, concepts) as `labels`. The images
  are those with one of the 21 most frequent concepts, 195,834 of them; all 81 count as labels.

Takes about ten seconds. Expected: both targets met with room, about 0.1 s each on two cores.
"""

import os
import statistics
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import tyro
from limits import processor
from numpy.typing import NDArray

import search
from search.threads import resolve


@dataclass(frozen=True)
class Config:
    """What to measure, and how often."""

    labels: Path | None = None
    """An .npz with the NUS-WIDE label matrix, bool (images, concepts), named `labels`."""
    bits: int = 48
    """Length of the codes."""
    runs: int = 15
    """Timed runs of each case, after one that is not counted."""
    threads: int | None = None
    """Threads; all processors when left out."""
    seed: int = 0
    """Seed of the random codes, classes and queries."""


def main(config: Config) -> None:
    """Time both cases and print a table row for each."""
    if config.runs < 1:
        raise SystemExit(f"--runs must be at least 1, not {config.runs}")
    rng = np.random.default_rng(config.seed)
    real = None if config.labels is None else nus_wide(config.labels, rng)
    threads = resolve(config.threads)
    print(
        f"{processor()}, {os.cpu_count()} processors, "
        f"{threads} threads, NumPy {np.__version__}, numba {numba.__version__}, "
        f"{config.bits} bits, seed {config.seed}"
    )
    print("| case | queries | items | median s | minimum s | pairs/s | mAP |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    classes = rng.integers(0, 10, 10_000), rng.integers(0, 10, 50_000)
    report("ten classes", *classes, top=1_000, config=config, rng=rng)
    if real is None:
        print("NUS-WIDE skipped: no --labels given")
    else:
        report("NUS-WIDE, 81 concepts", *real, top=5_000, config=config, rng=rng)


def nus_wide(path: Path, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Labels of 2,100 queries and of the remaining images with one of the 21 main concepts."""
    try:
        labels = np.load(path, allow_pickle=False)["labels"].astype(bool)
    except (OSError, EOFError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise SystemExit(f"--labels: {path} is no .npz with an array 'labels': {error}") from None
    main_concepts = np.argsort(labels.sum(axis=0))[-21:]
    images = np.flatnonzero(labels[:, main_concepts].any(axis=1))
    images = rng.permutation(images)
    return labels[images[:2_100]], labels[images[2_100:]]


def report(
    name: str,
    query_labels: NDArray[Any],
    database_labels: NDArray[Any],
    *,
    top: int,
    config: Config,
    rng: np.random.Generator,
) -> None:
    """Time one case and print its row."""
    query, database = (
        search.pack(rng.integers(0, 2, (len(labels), config.bits)))
        for labels in (query_labels, database_labels)
    )
    seconds = []
    for _ in range(config.runs + 1):
        start = time.perf_counter()
        found = search.measure(
            query,
            database,
            query_labels,
            database_labels,
            bits=config.bits,
            at=(1, 10, 100, 1_000),
            top=top,
            threads=config.threads,
        )
        seconds.append(time.perf_counter() - start)
    timed = seconds[1:]
    pairs = len(query) * len(database)
    print(
        f"| {name} | {len(query):,} | {len(database):,} | {statistics.median(timed):.3f} | "
        f"{min(timed):.3f} | {pairs / min(timed):.2e} | {found.mean_average_precision:.4f} |"
    )


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
