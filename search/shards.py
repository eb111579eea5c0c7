"""A folder of index files that are the parts of one index, opened as one.

The files are called `00003-of-00020.index`, so that one that is missing is noticed. An attachment
is the same in all of them, and the index has it, but for those named `shard/...`, which belong to
a file alone.
"""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from search.collection.pickling import open_segment
from search.collection.segments import Segment
from search.collection.state import State
from search.files.checksums import Guard

OWN = "shard/"
"""What the name of an attachment begins with that belongs to a file alone."""
_NAME = re.compile(r"(\d{5,})-of-(\d{5,})\.index")


def file_name(shard: int, shards: int, ending: str = "index") -> str:
    """The name of a shard's file.

    Example:
        >>> file_name(3, 20)
        '00003-of-00020.index'
    """
    return f"{shard:05d}-of-{shards:05d}.{ending}"


def files(folder: str | os.PathLike[str]) -> list[Path]:
    """The files of a folder of shards, in their order.

    Raises:
        FileNotFoundError: there are none, or some of them are missing.
        ValueError: they are of several divisions.

    Example:
        >>> files("photos.index/")[3].name  # doctest: +SKIP
        '00003-of-00020.index'
    """
    name = os.fspath(folder)
    found = {
        int(match[1]): (int(match[2]), entry)
        for entry in Path(folder).iterdir()
        if (match := _NAME.fullmatch(entry.name))
    }
    if not found:
        raise FileNotFoundError(f"{name}: no shards in this folder, such as {file_name(0, 1)}")
    counts = {count for count, _ in found.values()}
    if len(counts) > 1:
        raise ValueError(
            f"{name}: shards of several divisions, of {' and of '.join(map(str, sorted(counts)))}; "
            "remove those that are not meant"
        )
    (count,) = counts
    missing = [shard for shard in range(count) if shard not in found]
    if missing:
        raise FileNotFoundError(
            f"{name}: {len(missing)} of {count} shards are missing, the first of them "
            f"{file_name(missing[0], count)}; finish encoding them"
        )
    return [found[shard][1] for shard in range(count)]


def open_files(names: Sequence[str | os.PathLike[str]], mmap: bool, verify: bool) -> State:
    """The state of an index of some shards.

    Raises:
        FileNotFoundError: a file is not there.
        search.DamagedFile: one is cut short or altered.
        ValueError: they do not belong together, or there are none.
    """
    paths = [Path(name) for name in names]
    if not paths:
        raise ValueError("path: no files of shards; give at least one")
    opened = [open_segment(path, mmap, verify) for path in paths]
    first, stored = opened[0]
    bits, shared = first.codes.bits, _shared(stored.attachments)
    filled: list[Segment] = []
    ends: list[tuple[int, int, Path]] = []
    next_id = 0
    for path, (segment, each) in zip(paths, opened, strict=True):
        if segment.codes.bits != bits:
            raise ValueError(
                f"{path}: codes of {segment.codes.bits} bits, {paths[0].name} has {bits}; it is "
                "of another model, encode it again"
            )
        _check_attachments(path, _shared(each.attachments), paths[0], shared)
        next_id = max(next_id, each.next_id or 0)
        if not len(segment):
            continue
        if filled and _form(segment) != _form(filled[0]):
            raise ValueError(
                f"{path}: features {_form(segment)}, and those before it have "
                f"{_form(filled[0])}; it is of another model, encode it again"
            )
        filled.append(segment)
        low, high = segment.ends
        next_id = max(next_id, high + 1)
        ends.append((low, high, path))
    ends.sort()
    for (_, high, one), (low, _, other) in pairwise(ends):
        if low <= high:
            raise ValueError(f"{other}: its ids from {low} overlap those of {one.name}")
    segments = tuple(filled) or (first,)
    return State(bits, segments, shared, next_id)


def _shared(attachments: dict[str, bytes | Guard]) -> dict[str, bytes | Guard]:
    return {name: data for name, data in attachments.items() if not name.startswith(OWN)}


def _check_attachments(
    path: Path,
    attachments: dict[str, bytes | Guard],
    first: Path,
    expected: dict[str, bytes | Guard],
) -> None:
    """What all shards keep must be the same."""
    for name in sorted(attachments.keys() | expected.keys()):
        ours, theirs = (_content(each.get(name)) for each in (attachments, expected))
        if ours != theirs:
            raise ValueError(
                f"{path}: its attachment {name!r} differs from that of {first.name}; one of them "
                "is of another model or generation, encode it again"
            )


def _content(data: bytes | Guard | None) -> bytes | None:
    return data.bytes() if isinstance(data, Guard) else data


def _form(segment: Segment) -> str:
    """Type and dimensions of features, in words."""
    if segment.features is None:
        return "none"
    return f"{segment.features.dtype} of {segment.features.shape[1]} dimensions"
