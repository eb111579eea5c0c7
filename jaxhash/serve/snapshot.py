"""The index at one moment, with what requests ask of it: names, filters, versions."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxhash.data.folders import shown
from jaxhash.image_index import ImageIndex, open_index
from jaxhash.models import Model
from jaxhash.serve.errors import Refused

POOL = 200
"""Candidates that are re-ranked by default, where the index keeps features."""


class Mark(NamedTuple):
    """By what a file is known to be another one: inode, size and time of its last change."""

    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> "Mark":
        """That of a file as it is now.

        Raises:
            OSError: it is not there.
        """
        status = path.stat()
        return cls(status.st_ino, status.st_size, status.st_mtime_ns)

    def __str__(self) -> str:
        return f"{self.inode:x}-{self.size:x}-{self.changed:x}"


class Snapshot:
    """An index as it was opened; a change to the file makes another one.

    Args:
        images: the model and its index.
        version: of the index, for clients.
        folder: pictures are shown from it alone; the folder that was encoded by default.

    Example:
        >>> snapshot = open_snapshot("photos.index", model)  # doctest: +SKIP
        >>> snapshot.names([3])  # doctest: +SKIP
        (['beach/17.jpg'], ['beach'])
    """

    def __init__(self, images: ImageIndex, version: str, folder: Path | None = None) -> None:
        self.images = images
        self.version = version
        if folder is None:
            encoded = Path(images.items.card.get("data") or "")
            folder = encoded if encoded.is_absolute() and encoded.is_dir() else None
        self.folder = None if folder is None else Path(os.path.realpath(folder))
        fine = images.codes.get([])[1]
        self.features = None if fine is None else fine.shape[1]
        # A filter that many requests share is made once.
        self.where = functools.lru_cache(maxsize=64)(self._where)

    def __len__(self) -> int:
        return len(self.images)

    def names(self, ids: Sequence[int]) -> tuple[list[str | None], list[str | None]]:
        """Paths below the folder, as text that any client can read, and labels."""
        paths, labels = self.images.names(ids)
        return [None if path is None else self._below(path) for path in paths], labels

    def _below(self, path: str) -> str:
        """A path as clients see it: below the folder, or the file's name alone."""
        if self.folder is not None:
            inside = f"{self.folder}{os.sep}"
            if path.startswith(inside):
                return shown(path[len(inside) :])
        return shown(os.path.basename(path))

    @functools.cached_property
    def _all_names(self) -> tuple[dict[str, int], np.ndarray, dict[str, int]]:
        """Id by path; the number of each item's label in the order of `ids`; label -> number."""
        ids = self.images.codes.ids.tolist()
        paths, labels = self.names(ids)
        by_path = {path: item for item, path in zip(ids, paths, strict=True) if path is not None}
        known = sorted({label for label in labels if label is not None})
        number = {label: at for at, label in enumerate(known)}
        numbers = np.array([-1 if one is None else number[one] for one in labels], np.int32)
        return by_path, numbers, number

    @property
    def labels(self) -> list[str]:
        """The names of all classes that items have."""
        return list(self._all_names[2])

    def id_of(self, path: str) -> int:
        """The item of a path.

        Raises:
            Refused: no item has it.
        """
        found = self._all_names[0].get(path)
        if found is None:
            raise Refused(404, f"no item has the path {path!r}; give one as answers have them")
        return found

    def _where(
        self, labels: tuple[str, ...] | None, ids: tuple[int, ...] | None
    ) -> np.ndarray | None:
        """What `HashIndex.search` takes as a filter; None where all items are meant.

        Raises:
            Refused: a label that no item has.
        """
        wanted = None if ids is None else np.unique(np.array(ids, np.int64))
        if labels is None:
            return wanted
        _, numbers, number = self._all_names
        for label in labels:
            if label not in number:
                raise Refused(422, f"where_labels: no item has the label {label!r}")
        mask = np.isin(numbers, [number[label] for label in labels])
        if wanted is not None:
            mask &= np.isin(self.images.codes.ids, wanted)
        return mask

    def pool(self, asked: int | None) -> int | None:
        """How many candidates a query re-ranks: None for codes alone.

        Raises:
            Refused: the index keeps no features.
        """
        if asked == 0 or (asked is None and self.features is None):
            return None
        if self.features is None:
            raise Refused(422, "pool: the index keeps no features; give 0, for codes alone")
        return POOL if asked is None else asked

    def warm(self) -> None:
        """Compile and read what the first query would have to wait for."""
        self.images.codes.prepare()
        if not len(self):
            return
        few = self.images.codes.ids[:8]
        codes, features = self.images.codes.get(few)
        for queries in (1, len(few)):
            self.images.codes.search(codes[:queries], 10)
            if features is not None:
                fine = features[:queries].astype(np.float32)
                self.images.codes.search(codes[:queries], 10, query_features=fine, pool=POOL)


def open_snapshot(path: Path, model: Model, folder: Path | None = None) -> Snapshot:
    """Open an index file, ready for queries.

    Raises:
        FileNotFoundError: there is no such file.
        search.DamagedFile: the file is damaged.
        ValueError: another model made it.

    Example:
        >>> open_snapshot(Path("photos.index"), model).version  # doctest: +SKIP
    """
    mark = Mark.of(path)  # before it is opened: a file that is replaced meanwhile is opened again
    snapshot = Snapshot(open_index(path, model), str(mark), folder)
    snapshot.warm()
    return snapshot
