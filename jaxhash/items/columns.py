"""Columns of values for the images of an index, from a CSV file with a line for each path."""

import csv
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxhash.data.listing import shown
from jaxhash.items.records import Value, relative

KEY = "path"
TAKEN = ("id", "query", "rank", "distance", "label", "folder", "columns")
"""Names that a column cannot have, because results use them."""


class Columns(NamedTuple):
    """What a CSV file says: names, and path -> values in their order."""

    names: tuple[str, ...]
    rows: dict[str, tuple[Value, ...]]


def read(path: str | os.PathLike[str], root: str | None = None) -> Columns:
    """Read a CSV file in UTF-8 whose first line has names, one of them `path`.

    A column in which every value is a whole number, or a number, holds numbers; others hold text.
    What is empty is None.

    Args:
        path: of the file.
        root: the folder of the images; paths in the file are relative to it, or absolute.

    Raises:
        ValueError: the file is no such table; the message names the line.
        OSError: it cannot be read.

    Example:
        >>> read("photos.csv").names  # doctest: +SKIP
        ('year', 'place')
    """
    source = shown(path)
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            table = csv.reader(file, strict=True)
            try:
                names = next(table, [])
                _check_names(source, names)
                lines = [(table.line_num, line) for line in table if line]
            except csv.Error as error:
                raise ValueError(f"{source}: line {table.line_num}: {error}") from None
    except UnicodeError as error:
        raise ValueError(f"{source} is not text in UTF-8: {error}") from None
    at = names.index(KEY)
    rows: dict[str, list[str]] = {}
    for number, line in lines:
        if len(line) != len(names):
            raise ValueError(
                f"{source}: line {number} has {len(line)} values, and the first line {len(names)}"
            )
        key = _key(line[at], root)
        if key in rows:
            raise ValueError(f"{source}: line {number}: {shown(line[at])} is there twice")
        rows[key] = line[:at] + line[at + 1 :]
    if not rows:
        raise ValueError(f"{source}: no line below the names; give one for each image")
    columns = [_typed(values) for values in zip(*rows.values(), strict=True)]
    return Columns(
        tuple(name for name in names if name != KEY),
        dict(zip(rows, zip(*columns, strict=True), strict=True)),
    )


def _check_names(source: str, names: Sequence[str]) -> None:
    if KEY not in names:
        raise ValueError(
            f"{source}: the first line has no column 'path', which says whose values these are; it "
            f"has {', '.join(names) or 'nothing'}"
        )
    seen: set[str] = set()
    for name in names:
        if not name.strip() or name.lower() in seen:
            raise ValueError(f"{source}: the first line has {name!r} twice, or without a name")
        seen.add(name.lower())
        if name.lower() in TAKEN or (name.lower() == KEY and name != KEY):
            raise ValueError(
                f"{source}: a column cannot be called {name!r}, as results have one; rename it"
            )
    if len(names) < 2:
        raise ValueError(f"{source}: there is no column besides 'path'")


def _key(path: str, root: str | None) -> str:
    """A path in the form that records keep."""
    if os.path.isabs(path):
        return path if root is None else relative(os.path.realpath(path), root)
    return Path(path).as_posix()


_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")


def _typed(values: Sequence[str]) -> list[Value]:
    """Whole numbers, numbers or text, whichever all values are; None where there is nothing."""
    texts = [value.strip() for value in values]
    filled = [text for text in texts if text]
    # 007 stays text, as it may be a name, and so do numbers that SQLite cannot hold.
    if all(_WHOLE.fullmatch(text) and abs(int(text)) < 1 << 63 for text in filled):
        return [int(text) if text else None for text in texts]
    if all(_NUMBER.fullmatch(text) and abs(float(text)) < 1e18 for text in filled):
        return [float(text) if text else None for text in texts]
    return [value or None for value in values]


def by_id(
    columns: Columns, paths: Sequence[str | None]
) -> tuple[Mapping[str, list[Value]], list[str]]:
    """The columns with a value for each id, and the paths in the file that no item has.

    Args:
        columns: what the file says.
        paths: of the items by id, as records have them.

    Example:
        >>> by_id(Columns(("year",), {"a.jpg": (2020,), "c.jpg": (2021,)}), ["a.jpg", None])
        ({'year': [2020, None]}, ['c.jpg'])
    """
    empty = (None,) * len(columns.names)
    rows = [empty if path is None else columns.rows.get(path, empty) for path in paths]
    made = {name: [row[at] for row in rows] for at, name in enumerate(columns.names)}
    known = set(paths)
    return made, [path for path in columns.rows if path not in known]
