"""Image files as an index remembers them: which are new, changed, moved or gone."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from jaxhash.data.decoding import DIGEST_BYTES

STATE = np.dtype([("size", "<i8"), ("mtime", "<i8"), ("digest", "u1", (DIGEST_BYTES,))])
"""What is kept of a file: its size in bytes, its time of change in nanoseconds, and the head of its
SHA-256; zeros where unknown."""


class Stat(NamedTuple):
    """Size in bytes and time of the last change in nanoseconds."""

    size: int
    mtime: int


def stat(path: str) -> Stat | None:
    """Size and time of a file; None where it cannot be looked at."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return Stat(status.st_size, status.st_mtime_ns)


def digest(path: str) -> bytes | None:
    """The head of the SHA-256 of a file's bytes; None where it cannot be read.

    Example:
        >>> digest("photos/beach.jpg").hex()  # doctest: +SKIP
        'e3b0c44298fc1c149afbf4c8996fb924'
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()[:DIGEST_BYTES]
    except OSError:
        return None


@dataclass
class Differences:
    """What became of the files of an index.

    Attributes:
        same: ids of files that are as they were.
        touched: id -> stat of files of which only the time has changed.
        moved: id -> (path, stat) of files with the bytes of one that is gone.
        changed: id -> (path, stat) of files with other bytes.
        new: path -> stat of files that the index does not know.
        gone: ids of files that are not there any more.
    """

    same: list[int] = field(default_factory=list)
    touched: dict[int, Stat] = field(default_factory=dict)
    moved: dict[int, tuple[str, Stat]] = field(default_factory=dict)
    changed: dict[int, tuple[str, Stat]] = field(default_factory=dict)
    new: dict[str, Stat] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)


def compare(
    known: Mapping[str, int],
    states: np.ndarray,
    there: Mapping[str, Stat],
    digests: Callable[[Sequence[str]], Iterable[bytes | None]],
) -> Differences:
    """Compare the files that an index knows with those that are there.

    A file of the same size and time is taken to be the same; otherwise its bytes decide, by their
    digest. A new file with the bytes of one that is gone is taken to be that one, renamed.

    Args:
        known: path -> id of the files of the index.
        states: `STATE` (n,), by id.
        there: path -> stat of the files that are there now.
        digests: called with paths, gives the digest of each, None where it cannot be read; only
            files that size and time cannot settle are asked for.

    Example:
        >>> states = np.zeros(2, STATE)
        >>> states["size"], states["mtime"] = 10, 1
        >>> there = {"a.jpg": Stat(10, 1), "c.jpg": Stat(7, 3)}
        >>> found = compare({"a.jpg": 0, "b.jpg": 1}, states, there, lambda paths: [])
        >>> found.same, list(found.new), found.gone
        ([0], ['c.jpg'], [1])
    """
    found = Differences()
    sizes, times = states["size"].tolist(), states["mtime"].tolist()
    unsettled = []
    for path, now in there.items():
        row = known.get(path)
        if row is None:
            found.new[path] = now
        elif (sizes[row], times[row]) == now:
            found.same.append(row)
        elif sizes[row] == now.size and states["digest"][row].any():
            unsettled.append(path)
        else:
            found.changed[row] = (path, now)
    for path, value in zip(unsettled, digests(unsettled), strict=True):
        row, now = known[path], there[path]
        if value == states["digest"][row].tobytes():
            found.touched[row] = now
        else:
            found.changed[row] = (path, now)
    found.gone = sorted(row for path, row in known.items() if path not in there)
    _find_moved(found, states, digests)
    return found


def _find_moved(
    found: Differences,
    states: np.ndarray,
    digests: Callable[[Sequence[str]], Iterable[bytes | None]],
) -> None:
    """Take files that only have another name out of the new ones and the gone ones."""
    left: dict[bytes, list[int]] = {}
    for row in reversed(found.gone):
        if states["digest"][row].any():
            left.setdefault(states["digest"][row].tobytes(), []).append(row)
    sizes = {int(states["size"][row]) for rows in left.values() for row in rows}
    likely = [path for path, now in found.new.items() if now.size in sizes]
    for path, value in zip(likely, digests(likely), strict=True):
        if value is not None and left.get(value):
            found.moved[left[value].pop()] = (path, found.new.pop(path))
    found.gone = [row for row in found.gone if row not in found.moved]
