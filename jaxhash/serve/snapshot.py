"""The index at one moment, with what requests ask of it: names, filters, versions."""

import functools
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxhash.data.listing import shown
from jaxhash.image_index import ImageIndex
from jaxhash.index_files import open_index
from jaxhash.models import Model
from jaxhash.retrieval import pool_for
from jaxhash.serve import limits
from jaxhash.serve.errors import Refused
from jaxhash.shards.pointer import current
from search.merging import Result

Ask = Callable[..., Result]
"""As `HashIndex.search`, with the folder of shards to search before its arguments."""
log = logging.getLogger("jaxhash.serve")


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


def pool_of(asked: int | None, k: int) -> int:
    """How many candidates k results are chosen from, at least k; 0 for codes alone.

    Example:
        >>> pool_of(None, 10), pool_of(5, 10), pool_of(0, 10)
        (200, 10, 0)
    """
    if asked is None:
        return pool_for(k)
    return max(asked, k) if asked else 0


class Snapshot:
    """An index as it was opened; a change to the file makes another one.

    Args:
        images: the model and its index; not changed any more.
        version: of the index, for clients.
        ask: who searches it, where that is not this process: as `HashIndex.search`.

    Example:
        >>> snapshot = open_snapshot("photos.index", model)  # doctest: +SKIP
        >>> snapshot.names([3])  # doctest: +SKIP
        (['beach/17.jpg'], ['beach'])
    """

    def __init__(self, images: ImageIndex, version: str, ask: Ask | None = None) -> None:
        self.images = images
        self.version = version
        self._ask = ask
        root = images.items.root
        self._root = None if root is None else os.path.join(root, "")
        self.folder = None if root is None else Path(os.path.realpath(root))
        fine = images.codes.get([])[1]
        self.features = None if fine is None else fine.shape[1]
        # A filter that many requests share is made once.
        self.where = functools.lru_cache(maxsize=64)(self._where)

    def __len__(self) -> int:
        return len(self.images)

    def drawn(self, count: int, seed: int) -> list[int]:
        """The ids of so many different items, or of all, in memory that depends on count alone."""
        # `choice` draws as many as are wanted, where a permutation would draw all items.
        rng, items = np.random.default_rng(seed), len(self)
        rows = rng.choice(items, min(count, items), replace=False) if items else np.empty(0, int)
        return self.images.codes.ids_at(rows).tolist()

    def names(self, ids: Sequence[int]) -> tuple[list[str | None], list[str | None]]:
        """Paths below the folder, as text that any client can read, and labels."""
        paths, labels = self.images.names(ids)
        return [None if path is None else self._below(path) for path in paths], labels

    def _below(self, path: str) -> str:
        """A path as clients see it: below the folder, or the file's name alone."""
        if self._root is not None and path.startswith(self._root):
            return shown(path[len(self._root) :])
        return shown(os.path.basename(path))

    @functools.cached_property
    def _by_path(self) -> dict[str, int]:
        ids = self.images.codes.ids.tolist()
        return {path: item for path, item in zip(self.names(ids)[0], ids, strict=True) if path}

    @functools.cached_property
    def labels(self) -> list[str]:
        """The names of all classes that items have."""
        if not self.images.items.has_classes:
            return []  # without listing the ids, of which there may be very many
        ids = self.images.codes.ids.tolist()
        return sorted({label for label in self.images.items.class_names(ids) if label is not None})

    def id_of(self, path: str) -> int:
        """The item of a path.

        Raises:
            Refused: no item has it, or there are too many items.
        """
        if len(self) > limits.BY_PATH:
            words = f"paths: this index has more than {limits.BY_PATH:,} items; ask by ids"
            raise Refused(422, words)
        found = self._by_path.get(path)
        if found is None:
            raise Refused(404, f"no item has the path {path!r}; give one as answers have them")
        return found

    def _where(self, expression: str | None, ids: tuple[int, ...] | None) -> np.ndarray | None:
        """What `HashIndex.search` takes as a filter; None where all items are meant.

        Raises:
            Refused: the expression cannot be understood.
        """
        wanted = None if ids is None else np.unique(np.array(ids, np.int64))
        if expression is None:
            return wanted
        if not self.images.items.count:
            raise Refused(422, "where: the index keeps no paths or columns; give where_ids")
        try:
            mask = self.images.items.select(expression, self.images.codes.ids)
        except ValueError as error:
            raise Refused(422, str(error)) from None
        if wanted is not None:
            mask &= np.isin(self.images.codes.ids, wanted)
        return mask

    def pool(self, asked: int | None, k: int) -> int | None:
        """How many candidates a query re-ranks: None for codes alone; by default the best order's.

        Raises:
            Refused: the index keeps no features.
        """
        if asked is None:
            return pool_for(k, self.images.order, len(self)) or None
        if asked and self.features is None:
            raise Refused(422, "pool: the index keeps no features; give 0, for codes alone")
        return pool_of(asked, k) or None

    def search(self, queries: np.ndarray, k: int, **options: Any) -> Result:
        """As `HashIndex.search`, wherever the index is searched.

        Raises:
            Refused: it is searched elsewhere, and there is no answer, or no such filter.
        """
        if self._ask is None:
            return self.images.codes.search(queries, k, **options)
        if options.pop("recall", None) is not None:
            raise Refused(422, "recall: an index that is searched in parts is searched exactly")
        if options.pop("where", None) is not None:
            raise Refused(422, "where: an index that is searched in parts has no filters")
        try:
            return self._ask(queries, k, **options)
        except Exception as error:  # whatever it is, what was asked for has been checked
            log.warning("no answer from the parts of the index: %s", error)
            words = "the parts of the index do not answer; try again in a second"
            raise Refused(503, words, retry=1) from error

    def approximate(self, k: int, recall: float) -> None:
        """Deal codes out and measure what the first search for this recall would have to wait for.

        Raises:
            Refused: the index is searched elsewhere.
        """
        self.search(self.images.codes.get(self.images.codes.ids[:1])[0], k, recall=recall)

    def warm(self) -> None:
        """Compile and read what the first query would have to wait for."""
        search = self._ask
        if search is None:
            self.images.codes.prepare()
            search = self.images.codes.search
        if not len(self):
            return
        few = self.images.codes.ids_at(range(min(8, len(self))))
        codes, features = self.images.codes.get(few)
        for queries in (1, len(few)):
            search(codes[:queries], 10)
            if features is not None:
                fine = features[:queries].astype(np.float32)
                search(codes[:queries], 10, query_features=fine, pool=pool_for(10))


def open_snapshot(
    path: Path, model: Model, folder: Path | None = None, ask: Ask | None = None
) -> Snapshot:
    """Open an index file, ready for queries.

    Args:
        path: of the file; with `ask` of a pointer to a folder of shards, or that folder.
        model: that made it.
        folder: of the images, where it is not the one that was encoded.
        ask: who searches a folder of shards.

    Raises:
        FileNotFoundError: there is no such file.
        search.DamagedFile: the file is damaged.
        ValueError: another model made it.

    Example:
        >>> open_snapshot(Path("photos.index"), model).version  # doctest: +SKIP
    """
    mark = Mark.of(path)  # before it is opened: a file that is replaced meanwhile is opened again
    if ask is None:
        snapshot = Snapshot(open_index(path, model, root=folder), str(mark))
    else:
        shards = current(path)
        images = open_index(shards, model, root=folder)
        snapshot = Snapshot(images, str(mark), functools.partial(ask, shards))
    snapshot.warm()
    return snapshot
