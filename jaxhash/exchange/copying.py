"""Rows of items as the bytes of PostgreSQL's binary COPY.

A field is its length (int32) and its bytes, all big-endian; a missing value has the length -1. What
every row has in the same length, id, code and feature, is one NumPy record, and so is written in
one step for a whole batch.

Source:
    https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"; varbit.c of PostgreSQL
    and halfvec.c and vector.c of pgvector for the values (bit: number of bits as int32, then the
    bytes; halfvec and vector: number of dimensions and a zero, int16 each, then the numbers).
"""

import numpy as np

from jaxhash.exchange.rows import Batch

HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TAIL = b"\xff\xff"
_MISSING = b"\xff\xff\xff\xff"


def as_bytes(batch: Batch, bits: int) -> bytes:
    """The rows (id, code[, feature], path, label) of a batch, to go between `HEAD` and `TAIL`.

    Args:
        batch: the items; texts without zero characters, which no file's name has.
        bits: number of bits in a code.

    Example:
        >>> one = Batch(np.array([7]), np.array([[0xF0]], np.uint8), None, ["a"], [None])
        >>> as_bytes(one, 4).hex(" ", 2)
        '0004 0000 0008 0000 0000 0000 0007 0000 0005 0000 0004 f000 0000 0161 ffff ffff'
    """
    width = batch.codes.shape[1]
    fields: list[tuple[str, str]] = [("fields", ">i2"), ("id_bytes", ">i4"), ("id", ">i8")]
    fields += [("code_bytes", ">i4"), ("bits", ">i4"), ("code", f"V{width}")]
    if batch.features is not None:
        number, dimensions = f">f{batch.features.itemsize}", batch.features.shape[1]
        fields += [("feature_bytes", ">i4"), ("dimensions", ">i2"), ("zero", ">i2")]
        fields += [("feature", f"({dimensions},){number}")]
    table = np.zeros(len(batch.ids), fields)
    table["fields"] = 4 if batch.features is None else 5
    table["id_bytes"], table["id"] = 8, batch.ids
    table["code_bytes"], table["bits"] = 4 + width, bits
    table["code"] = np.ascontiguousarray(batch.codes).view(f"V{width}")[:, 0]
    if batch.features is not None:
        table["feature_bytes"] = 4 + batch.features.itemsize * batch.features.shape[1]
        table["dimensions"], table["feature"] = batch.features.shape[1], batch.features
    whole, size = table.tobytes(), table.itemsize
    parts = []
    for at, (path, label) in enumerate(zip(batch.paths, batch.labels, strict=True)):
        parts += [whole[at * size : (at + 1) * size], _text(path), _text(label)]
    return b"".join(parts)


def _text(value: str | None) -> bytes:
    if value is None:
        return _MISSING
    data = value.encode()
    return len(data).to_bytes(4, "big") + data
