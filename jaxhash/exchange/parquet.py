"""An index as a Parquet file, for DuckDB, Spark, Lance, Milvus and others; and back.

The columns are id (int64), code (binary; the bits packed into bytes, the first bit highest),
feature (a list of float32; none where the index keeps no features), path and label (strings). The
file's metadata say, under `jaxhash`, how many bits a code has, of which type the features were, and
which model made them: an index made from the file is as good as the first one.

Needs `pyarrow` (the extra `parquet`).
"""

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxhash import retrieval
from jaxhash.exchange import rows
from jaxhash.exchange.records import Records
from jaxhash.items.records import ItemRecords
from search import HashIndex, Writer
from search.codes import check_bits
from search.files.atomic import replacing

KEY = b"jaxhash"
COLUMNS = ("id", "code", "feature", "path", "label")


def write(
    index: HashIndex,
    path: str | os.PathLike[str],
    *,
    records: ItemRecords | None = None,
    on_batch: Callable[[int], Any] | None = None,
) -> None:
    """Write an index as a Parquet file; memory stays bounded.

    Args:
        index: what to write.
        path: of the file, which appears when it is complete; one that is there is replaced.
        records: paths and labels of the items; by default what the index keeps.
        on_batch: called with the number of rows of each batch that was written.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        OSError: the file cannot be written; an old one is as it was.

    Example:
        >>> write(index, "photos.parquet")  # doctest: +SKIP
    """
    arrow, parquet = _pyarrow()
    kind = rows.dimensions(index)
    about = {
        "bits": index.bits,
        "features": None if kind is None else kind[0].name,
        "card": retrieval.card(index),
    }
    columns = [("id", arrow.int64()), ("code", arrow.binary((index.bits + 7) // 8))]
    if kind is not None:
        columns.append(("feature", arrow.list_(arrow.float32(), kind[1])))
    columns += [("path", arrow.string()), ("label", arrow.string())]
    schema = arrow.schema(columns, metadata={KEY: json.dumps(about)})
    with replacing(path) as file, parquet.ParquetWriter(file, schema, compression="zstd") as table:
        for batch in rows.batches(index, records):
            arrays = [arrow.array(batch.ids), _fixed(arrow, batch.codes)]
            if batch.features is not None and kind is not None:
                flat = arrow.array(batch.features.astype(np.float32).ravel())
                arrays.append(arrow.FixedSizeListArray.from_arrays(flat, kind[1]))
            arrays += [arrow.array(batch.paths, arrow.string())]
            arrays += [arrow.array(batch.labels, arrow.string())]
            table.write_table(arrow.table(arrays, schema=schema))
            if on_batch is not None:
                on_batch(len(batch.ids))


def to_index(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    bits: int | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> HashIndex:
    """Make an index of a Parquet file with a column `code`; memory stays bounded.

    Further columns that are used: id (integers, ascending; else the rows are numbered from 0),
    feature (lists of floats, all of one length), path and label (strings).

    Args:
        path: the Parquet file.
        out: the index file, which appears when it is complete; one that is there is replaced.
        bits: number of bits in a code; what the file says, or eight a byte.
        say: told what of the file was left out.

    Returns:
        The index, mapped from its file.

    Raises:
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: the file cannot be used; the message says why.
        OSError: a file cannot be read or written.

    Example:
        >>> index = to_index("photos.parquet", "photos.index")  # doctest: +SKIP
    """
    arrow, parquet = _pyarrow()
    try:
        with open(path, "rb") as file:
            table = parquet.ParquetFile(file)
            about = _about(table.schema_arrow.metadata)
            there = [name for name in COLUMNS if name in table.schema_arrow.names]
            if "code" not in there:
                raise ValueError(
                    f"there is no column 'code' among {', '.join(table.schema_arrow.names)}; "
                    f"rename the one that holds the codes; {', '.join(COLUMNS)} are read"
                )
            others = [name for name in table.schema_arrow.names if name not in COLUMNS]
            if others:
                say(f"left out of {os.fspath(path)}: {', '.join(others)}")
            kept = Records(about["card"])
            count, writer = 0, None
            with contextlib.ExitStack() as stack:
                for batch in table.iter_batches(rows.MOST, columns=there):
                    if not len(batch):
                        continue
                    codes = _codes(arrow, batch.column("code"))
                    if writer is None:
                        bits = bits or about["bits"] or 8 * codes.shape[1]
                        writer = stack.enter_context(Writer(out, bits=bits))
                    features, ids = None, np.arange(count, count + len(codes))
                    if "feature" in there:
                        features = _features(arrow, batch.column("feature"), about["features"])
                    if "id" in there:
                        ids = _ids(arrow, batch.column("id"))
                    writer.append(codes, features, ids)
                    kept.add(ids, *(_texts(arrow, batch, name) for name in ("path", "label")))
                    count += len(codes)
                if writer is None:
                    raise ValueError("it has no rows")
                for name, data in kept.attachments().items():
                    writer.attach(name, data)
    except (ValueError, TypeError, arrow.ArrowException) as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from error
    return HashIndex.open(out)


def _about(metadata: Any) -> dict[str, Any]:
    """What `write` noted about the index; defaults where that is absent or damaged."""
    try:
        about = json.loads((metadata or {})[KEY])
        card = about["card"]
        texts = {one: card.get(one) for one in ("model", "data", "data_dir")}
        if all(isinstance(one, str | None) for one in texts.values()):
            return {
                "bits": check_bits(about["bits"]),
                "features": "float16" if about["features"] == "float16" else "float32",
                "card": texts,
            }
    except (KeyError, ValueError, TypeError, AttributeError):
        pass
    return {"bits": None, "features": "float32", "card": {}}


def _codes(arrow: Any, column: Any) -> np.ndarray:
    kind = column.type
    if not (
        arrow.types.is_binary(kind)
        or arrow.types.is_large_binary(kind)
        or arrow.types.is_fixed_size_binary(kind)
    ):
        raise ValueError(
            f"code is of the type {kind}, and must be binary; the bits packed into bytes, the "
            "first bit highest, as search.pack does"
        )
    if column.null_count:
        raise ValueError("code is missing in some rows; leave them out")
    width = len(column[0].as_py())
    if not width:
        raise ValueError("code has no bytes in some rows; leave them out")
    try:
        column = column.cast(arrow.binary(width))
    except arrow.ArrowInvalid:
        raise ValueError("codes differ in length; all must have the same number of bytes") from None
    start = column.offset * width
    data = np.frombuffer(column.buffers()[1], np.uint8)
    return data[start : start + len(column) * width].reshape(-1, width)


def _features(arrow: Any, column: Any, kept_as: str) -> np.ndarray:
    kind = column.type
    if not (
        arrow.types.is_list(kind)
        or arrow.types.is_large_list(kind)
        or arrow.types.is_fixed_size_list(kind)
    ) or not arrow.types.is_floating(kind.value_type):
        raise ValueError(f"feature is of the type {kind}, and must be a list of floats")
    flat = column.flatten()
    if column.null_count or flat.null_count:
        raise ValueError("feature, or a number of it, is missing in some rows; leave them out")
    lengths = np.unique(arrow.compute.list_value_length(column).to_numpy(zero_copy_only=False))
    if len(lengths) != 1:
        raise ValueError("features differ in length; all must have as many numbers")
    numbers = flat.to_numpy(zero_copy_only=False).reshape(len(column), int(lengths[0]))
    with np.errstate(over="ignore"):  # what becomes infinite is refused as such
        return numbers.astype(np.float16 if numbers.dtype == np.float16 else kept_as)


def _ids(arrow: Any, column: Any) -> np.ndarray:
    if not arrow.types.is_integer(column.type):
        raise ValueError(
            f"id is of the type {column.type}, and must be whole numbers; rename the column, and "
            "the rows are numbered"
        )
    if column.null_count:
        raise ValueError("id is missing in some rows; give all or none")
    return column.to_numpy()


def _texts(arrow: Any, batch: Any, name: str) -> list[str | None] | None:
    if name not in batch.schema.names:
        return None
    column = batch.column(name)
    try:
        return column.cast(arrow.string()).to_pylist()
    except (arrow.ArrowInvalid, arrow.ArrowNotImplementedError):
        raise ValueError(f"{name} is of the type {column.type}, and must be a string") from None


def _fixed(arrow: Any, codes: np.ndarray) -> Any:
    """Codes as a column, without a copy."""
    data = arrow.py_buffer(np.ascontiguousarray(codes))
    return arrow.FixedSizeBinaryArray.from_buffers(
        arrow.binary(codes.shape[1]), len(codes), [None, data]
    )


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ModuleNotFoundError(
            'a Parquet file needs pyarrow; pip install "jaxhash[parquet]"'
        ) from error
    return pyarrow, pyarrow.parquet
