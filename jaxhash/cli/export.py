"""Write an index as a Parquet file, a table of PostgreSQL with pgvector, or a FAISS file.

    jaxhash export --index photos.index --to parquet --out photos.parquet
    jaxhash export --index photos.index --to pgvector --dsn postgresql://localhost/db --table photos

Some ten thousand items a second. Codes, features, ids, paths and labels go out (FAISS: codes and
ids). For pgvector, the SQL that searches the table is printed: the nearest codes first, then the
features of those. The table appears, or changes, in one transaction.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxhash.cli import outputs
from jaxhash.cli.command import Command


@dataclass(frozen=True)
class Export:
    """Options of `jaxhash export`."""

    index: Path
    """The index file or folder of shards, from jaxhash encode."""
    to: Literal["parquet", "pgvector", "faiss"]
    """What to make of it."""
    out: Path | None = None
    """The file to write, for parquet and faiss."""
    table: str | None = None
    """The table to write, for pgvector: its name, or schema.name."""
    dsn: str = ""
    """The database, for pgvector: postgresql://user@host/name, or host=... dbname=.... Default:
    what PGHOST, PGDATABASE, PGUSER and PGPASSWORD say."""
    hnsw: bool = False
    """Also make pgvector's approximate index of the codes."""
    append: bool = False
    """Add to an existing table; an item replaces the row that has its id."""
    overwrite: bool = False
    """Replace a file or table that is there."""
    run: Path | None = None
    """Folder of the run that made the index. Where the index keeps no labels, the name of an
    image's folder becomes its label if it is a class of the run."""


def export(options: Export) -> None:
    """Export as the options say."""
    from tqdm import tqdm

    from jaxhash import models, retrieval
    from jaxhash.shards.records import open_any

    if options.to == "pgvector":
        _refuse(options, "pgvector", "out")
        if options.table is None:
            raise ValueError("pgvector needs the name of a table; give --table")
    else:
        _refuse(options, options.to, "table", "dsn", "hnsw", "append")
        if options.out is None:
            raise ValueError(f"{options.to} needs the name of a file; give --out")
        check_free(options.out, options.overwrite)
    if options.to == "faiss":
        _refuse(options, "faiss", "run")
    model = None if options.run is None else models.load(options.run)
    index, records = open_any(options.index, classes=() if model is None else model.spec.classes)
    if model is not None:
        retrieval.check_made_by(index, model)
    with tqdm(total=len(index), unit="item", unit_scale=True, disable=options.to == "faiss") as bar:
        said = WRITERS[options.to](index, options, records, bar.update)
    print(said)


def check_free(out: Path, overwrite: bool) -> None:
    """Refuse a file that cannot be written, or is there already."""
    outputs.check(out)
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} exists; replace it with --overwrite")


def _refuse(options: Export, to: str, *names: str) -> None:
    """Refuse options that would do nothing."""
    for name in names:
        if getattr(options, name) not in (None, "", False):
            raise ValueError(f"--{name} is not for {to}; leave it out")


def _parquet(index: Any, options: Export, records: Any, on_batch: Callable) -> str:
    from jaxhash.exchange import parquet

    assert options.out is not None
    parquet.write(index, options.out, records=records, on_batch=on_batch)
    size = options.out.stat().st_size / 1e6
    return f"{options.out}: {len(index)} rows with codes of {index.bits} bits, {size:.1f} MB"


def _faiss(index: Any, options: Export, records: Any, on_batch: Callable) -> str:
    from search import interchange

    assert options.out is not None
    interchange.write_faiss(index, options.out)
    return f"{options.out}: {len(index)} codes of {index.bits} bits, to be read by FAISS"


def _pgvector(index: Any, options: Export, records: Any, on_batch: Callable) -> str:
    from jaxhash.exchange import pgvector

    assert options.table is not None
    sent = pgvector.write(
        index,
        options.dsn,
        options.table,
        overwrite=options.overwrite,
        append=options.append,
        hnsw=options.hnsw,
        records=records,
        on_batch=on_batch,
    )
    lines = [f"{options.table}: {sent} rows with codes of {index.bits} bits"]
    for title, query in pgvector.queries(index, options.table, hnsw=options.hnsw):
        lines += ["", f"-- {title}", f"{query};"]
    if options.hnsw:
        lines += ["", "-- approximate: more of the nearest codes are found with, before it,"]
        lines += ["SET hnsw.ef_search = 200;"]
    return "\n".join(lines)


WRITERS = {"parquet": _parquet, "faiss": _faiss, "pgvector": _pgvector}

COMMAND = Command(
    "jaxhash export",
    __doc__,
    Export,
    export,
    groups={
        "output": ("to", "out", "overwrite"),
        "pgvector": ("dsn", "table", "append", "hnsw"),
        "input": ("index", "run"),
    },
)
