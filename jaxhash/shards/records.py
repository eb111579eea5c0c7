"""The names and pictures of the images in a folder of shards, looked up when they are asked for."""

import functools
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np

from jaxhash import retrieval
from jaxhash.data.places import Place, from_line
from jaxhash.data.stored import StoredImages
from jaxhash.items.records import ItemRecords
from jaxhash.shards import folder as folders
from jaxhash.shards.folder import Manifest
from search import HashIndex
from search.shards import file_name

OPEN_SHARDS = 64
"""Shards whose lines are kept mapped at a time."""


class Names(Sequence[str]):
    """The name of each image of a folder of shards, by its id; nothing is read beforehand.

    Args:
        folder: of the shards.
        manifest: of the folder.

    Example:
        >>> Names("photos.index/", manifest)[12345]  # doctest: +SKIP
        '/data/photos/beach/1.jpg'
    """

    def __init__(self, folder: str | os.PathLike[str], manifest: Manifest) -> None:
        self._manifest = manifest
        self._folder = Path(folder)
        self._lines = functools.lru_cache(maxsize=OPEN_SHARDS)(self._read_lines)

    def __len__(self) -> int:
        return self._manifest.items

    @overload
    def __getitem__(self, item: int) -> str: ...
    @overload
    def __getitem__(self, item: slice) -> Sequence[str]: ...
    def __getitem__(self, item: int | slice) -> str | Sequence[str]:
        if isinstance(item, slice):
            return [self[each] for each in range(*item.indices(len(self)))]
        return self.place(item).name

    def place(self, item: int) -> Place:
        """Where an image lies.

        Raises:
            IndexError: there is no such id.
            ValueError: the lines of its shard are not there.
        """
        if not 0 <= item < len(self):
            raise IndexError(f"id {item} is not among the {len(self)} of the manifest")
        # The last shard whose first id is not above it.
        shard = ((item + 1) * self._manifest.shards - 1) // self._manifest.items
        lines, ends = self._lines(shard)
        at = item - self._manifest.first(shard)
        start = int(ends[at - 1]) + 1 if at else 0
        return from_line(lines[start : int(ends[at])])

    def _read_lines(self, shard: int) -> tuple[mmap.mmap, np.ndarray]:
        path = self._folder / file_name(shard, self._manifest.shards, "lines")
        try:
            with open(path, "rb") as file:
                lines = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError:
            raise ValueError(f"{path} is not there; it has the names of the images") from None
        return lines, np.flatnonzero(np.frombuffer(lines, np.uint8) == ord("\n"))


class ShardRecords(ItemRecords):
    """`ItemRecords` of a folder of shards.

    Args:
        index: all its shards.
        names: of its images.
    """

    def __init__(self, index: HashIndex, names: Names) -> None:
        super().__init__(index)
        self.paths = names
        self._names = names

    def pictures(self, ids: Sequence[int], size: int = 128) -> list[np.ndarray]:
        """As `ItemRecords.pictures`; also out of tar files, array_records and remote places."""
        if not len(ids):
            return []
        places = [self._names.place(item) for item in ids]
        return list(StoredImages(places, size=size)[np.arange(len(places))])


def open_shards(
    folder: str | os.PathLike[str], *, verify: bool = False
) -> tuple[HashIndex, ShardRecords]:
    """All shards of a folder as one index, and what is known of its images.

    Raises:
        FileNotFoundError: it is no folder of shards, or shards of it are missing.
        search.DamagedFile: a shard is cut short or altered.
        ValueError: a shard is of another model or generation.

    Example:
        >>> index, items = open_shards("photos.index/")  # doctest: +SKIP
    """
    manifest = folders.load(folder)
    index = HashIndex.open(folder, verify=verify)
    if retrieval.card(index).get("manifest") != manifest.digest:
        raise ValueError(
            f"{os.fspath(folder)}: the shards are of another generation than {folders.MANIFEST}; "
            "encode them anew"
        )
    return index, ShardRecords(index, Names(folder, manifest))


def open_any(
    path: str | os.PathLike[str],
    *,
    verify: bool = False,
    root: str | os.PathLike[str] | None = None,
    classes: Sequence[str] = (),
) -> tuple[HashIndex, ItemRecords]:
    """An index file or a folder of shards, and what is known of its images.

    verify: look for damage first. root, classes: of `ItemRecords`, for a file.

    Raises:
        FileNotFoundError, search.DamagedFile, ValueError: as `open_shards` and `HashIndex.open`.

    Example:
        >>> index, items = open_any("photos.index")  # doctest: +SKIP
    """
    if folders.is_folder(path):
        return open_shards(path, verify=verify)
    index = HashIndex.open(path, verify=verify)
    return index, ItemRecords(index, root, classes)
