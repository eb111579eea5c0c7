"""An index of images, searched with images: a model, its codes, and the paths of the files."""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxhash import retrieval, updating
from jaxhash.data import Undecodable, pictures
from jaxhash.data.listing import shown
from jaxhash.duplicates.pairs import SIMILARITY
from jaxhash.found import Found, hits
from jaxhash.items.columns import by_id
from jaxhash.items.columns import read as read_columns
from jaxhash.items.files import stat
from jaxhash.items.records import ItemRecords, relative_to
from jaxhash.models import Model
from jaxhash.retrieval import Where
from jaxhash.updating import Changes, Work
from search import HashIndex
from search.files.format import ALIGNMENT
from search.files.locking import alone

if TYPE_CHECKING:
    from jaxhash.duplicates.groups import Group


class ImageIndex:
    """A model and an index that it made: queries are images, and so are the results.

    Any number of threads may query while another one adds, removes or updates: a query sees the
    index as it was when the query began.

    Args:
        model: the model that made the codes.
        codes: the codes under their ids, see `search.HashIndex`.
        items: what is known of the images; by default what the index keeps.
        path: the file that `save` and `update` write; none by default.
        root: the folder of the images, where it has moved since the index was made.

    Raises:
        ValueError: the index was made by another model.

    Example:
        >>> index = jaxhash.open_index("photos.index", "runs/photos")  # doctest: +SKIP
        >>> index.query("beach.jpg", k=3).paths  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Model,
        codes: HashIndex,
        items: ItemRecords | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        root: str | os.PathLike[str] | None = None,
    ) -> None:
        retrieval.check_made_by(codes, model)
        self.model = model
        self.path = None if path is None else Path(path)
        self._header = header(self.path)
        if items is None:
            items = ItemRecords(codes, root, model.spec.classes)
        self._now = codes, items

    @property
    def codes(self) -> HashIndex:
        """The codes and features, by id."""
        return self._now[0]

    @property
    def items(self) -> ItemRecords:
        """What is known of the items, by id: files, classes, columns."""
        return self._now[1]

    @property
    def order(self) -> str:
        """The order of results by default: "codes", "coarse_to_fine" or "features".

        The one that `jaxhash.evaluate` found best for the model's run, or else coarse to fine,
        where features are kept.
        """
        return retrieval.order_for(self.model, self.codes)

    def __len__(self) -> int:
        return len(self.codes)

    def __repr__(self) -> str:
        return f"<ImageIndex: {len(self)} images, codes of {self.codes.bits} bits>"

    def query(
        self,
        images: Any,
        k: int = 10,
        *,
        pool: int | None = None,
        radius: int | None = None,
        where: Where | None = None,
        recall: float | None = None,
    ) -> Any:
        """The `k` nearest images of the index.

        Args:
            images: one picture, as a path, a PIL image or an array uint8 of any size; or a list
                of them, or a batch as `Model.encode` takes.
            k: number of results.
            pool: number of nearest codes that are re-ranked by the Euclidean distance of
                features, at least `k`; 0 orders by Hamming distance alone. By default what
                `order` needs, as for the command and the service.
            radius: largest Hamming distance of a result.
            where: the images to search: an expression about their paths and columns, such as
                "year >= 2020 and folder == 'beach'" (see `jaxhash.items.where`); or bool for each
                of `codes.ids`; or a list of ids.
            recall: the share of the nearest codes that has to be found, on the average of queries
                that are like the index's images: 0.95 for instance. That is quicker among
                millions, after a first query that takes seconds (see `search.HashIndex.search`).
                All are found when None. Not with `where`, `radius`.

        Returns:
            `Found` for one picture, a list of `Found` for several.

        Raises:
            ValueError: a picture cannot be decoded, the index keeps no features for a pool, or the
                expression cannot be understood.

        Example:
            >>> index.query("beach.jpg", k=10, pool=200, where="year > 2020")  # doctest: +SKIP
        """
        codes, items = self._now
        if isinstance(where, str):
            where = items.select(where, codes.ids)
        found = retrieval.query(
            self.model, codes, images, k, pool=pool, radius=radius, where=where, recall=recall
        )
        single = pictures.is_one(images, self.model.spec.item_shape)
        names = _names([images] if single else images, len(found.ids))
        answers = [
            Found(name, hits(items, distances, ids))
            for name, distances, ids in zip(names, found.distances, found.ids, strict=True)
        ]
        return answers[0] if single else answers

    def names(self, ids: Sequence[int]) -> tuple[list[str | None], list[str | None]]:
        """Paths and labels of items, None where they are not known.

        Args:
            ids: of items of the index.

        Returns:
            Their paths, and the names of their classes.

        Example:
            >>> index.names([17])  # doctest: +SKIP
            (['photos/beach/17.jpg'], ['beach'])
        """
        items = self.items
        return [items.path(item) for item in ids], items.class_names(ids)

    def duplicates(
        self,
        *,
        similarity: float = SIMILARITY,
        radius: int | None = None,
        mirrored: bool = False,
        on_batch: Callable[[int], Any] | None = None,
    ) -> "list[Group]":
        """Copies of the same picture: exact, resized, recompressed, brightened, mirrored, cropped.

        Args:
            similarity: the cosine of two copies' features, at least; above 0, at most 1. From 0.7
                on, pairs that are the same as small grey pictures are copies too.
            radius: largest Hamming distance of their codes; a quarter of the bits by default.
            mirrored: encode the mirror images of all pictures too: for networks to which a
                mirrored copy does not look alike. Those that do are found, and named, without.
            on_batch: called with the number of pictures of each batch that was looked up.

        Returns:
            Groups of two or more, the largest first.

        Raises:
            ValueError: the index keeps no features, or a number is out of range.

        Example:
            >>> for group in index.duplicates():  # doctest: +SKIP
            ...     print(group.paths)
        """
        from jaxhash.duplicates import finding  # here, as it needs scipy, and queries do not

        return finding.find(
            self.model,
            *self._now,
            similarity=similarity,
            radius=radius,
            mirrored=mirrored,
            on_batch=on_batch,
        )

    def add(
        self, images: Sequence[str | os.PathLike[str]], *, batch_size: int | None = None
    ) -> np.ndarray:
        """Encode image files into the index, in memory; `save` writes it.

        They may lie outside the folder that the index was made of: `update` keeps them.

        Args:
            images: paths. A file that is in the index already is encoded again, under its id.
            batch_size: images per call of the network; its own number by default.

        Returns:
            Their ids, int64 (n,).

        Raises:
            ValueError: a file cannot be decoded; the index is as it was.

        Example:
            >>> index.add(["new/1.jpg", "new/2.jpg"])  # doctest: +SKIP
            array([42, 43])
        """
        codes, items = copy.copy(self.codes), self.items.copy()
        _check_files(items)
        known = items.ids_by_path(codes.ids)
        paths = [relative_to(os.path.realpath(one), items.root or "", items.root) for one in images]
        work = []
        for path, image in zip(paths, images, strict=True):
            now = stat(os.fspath(image))
            if now is None:
                raise FileNotFoundError(f"{shown(image)}: no such image file")
            work.append(Work(path, now, known.get(path)))
        # A path that is there twice is encoded once.
        work = list({one.path: one for one in work}.values())
        codes, failed = updating.take_in(self.model, codes, items, work, batch_size=batch_size)
        for one, reason in failed:
            raise Undecodable(f"{shown(one.path)}: {reason}")
        self._now = codes, items
        known = items.ids_by_path(codes.ids)
        return np.array([known[path] for path in paths], np.int64)

    def remove(self, ids: Sequence[int]) -> None:
        """Remove images, in memory; `save` writes it.

        Args:
            ids: of the images, all in the index.

        Raises:
            ValueError: one is not in the index, which is as it was.

        Example:
            >>> index.remove([3])  # doctest: +SKIP
        """
        codes, items = copy.copy(self.codes), self.items.copy()
        updating.drop(codes, items, list(ids))
        self._now = codes, items

    def update(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        columns: str | os.PathLike[str] | None = None,
        features: str | None = "float16",
        batch_size: int | None = None,
        max_undecodable: float = 1.0,
        checkpoint: float = updating.CHECKPOINT,
        on_start: Callable[[int], None] | None = None,
        on_batch: Callable[[int], None] | None = None,
        on_skipped: Callable[[str, str], None] | None = None,
    ) -> Changes:
        """Bring the index up to date with its folder, and write it.

        New and changed files are encoded, files that are gone are dropped, and what only moved
        keeps its code. Size and time of a file tell whether it changed, and its bytes where those
        differ. Ids stay with their files. A long update writes the index now and then: one that was
        broken off goes on from there.

        Args:
            folder: the folder; where the index was made from by default.
            columns: a CSV file with a column "path" and others to keep, see
                `jaxhash.items.columns`; those that are kept already stay by default.
            features: as for `jaxhash.index`, if the index is empty; otherwise it goes on keeping
                what it has.
            batch_size: images per call of the network; its own number by default.
            max_undecodable: largest share of the files that may fail to decode, 0..1.
            checkpoint: seconds between states that are written, at least; 0 for after every batch.
            on_start: told how many files are to be encoded.
            on_batch: called with the number of images of each batch that is done.
            on_skipped: called with path and reason of each file that cannot be decoded.

        Returns:
            How many files were new, changed, and so on.

        Raises:
            ValueError: none of the index's files is there, or too many cannot be decoded.
            search.files.locking.Locked: somebody else is writing the index.
            OSError: it cannot be written.

        Example:
            >>> print(index.update())  # doctest: +SKIP
            12 added, 3 removed, 99,985 unchanged
        """
        _check_files(self.items)
        root = folder if folder is not None else self.items.root
        if root is None:
            raise ValueError("the index does not say which folder it was made of; give folder")
        with self._writing():
            there = updating.look(root)
            if columns is not None:
                read_columns(columns, there.root)  # to refuse a wrong file before the work
            codes, items, changes = updating.update(
                self.model,
                self.codes,
                self.items,
                there,
                self._write,
                features=features,
                batch_size=batch_size,
                max_undecodable=max_undecodable,
                checkpoint=checkpoint,
                on_start=on_start,
                on_batch=on_batch,
                on_skipped=on_skipped,
            )
            if columns is not None:
                take_columns(items, columns)
                codes = self._write(codes, items)
        self._now = codes, items
        return changes

    def save(self, path: str | os.PathLike[str] | None = None) -> None:
        """Write the index as one file, whole or not at all.

        Args:
            path: of the file; the one that it was opened from by default.

        Raises:
            ValueError: there is no such path, or somebody else has written the file since it was
                opened.
            search.files.locking.Locked: somebody else is writing it.
            OSError: it cannot be written.

        Example:
            >>> index.save()  # doctest: +SKIP
        """
        if path is not None and (self.path is None or not _same(path, self.path)):
            with alone(path):
                attached(*self._now).save(path)
            return
        with self._writing():
            self._now = self._write(*self._now), self.items

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Be the only writer of a file that nobody has replaced."""
        if self.path is None:
            raise ValueError("the index has no file; give a path")
        with alone(self.path):
            if header(self.path) != self._header:
                raise ValueError(
                    f"{shown(self.path)} was written by somebody else since it was opened; open it "
                    "again"
                )
            yield

    def _write(self, codes: HashIndex, items: ItemRecords) -> HashIndex:
        """Write a state, and go on from the file, so that memory stays bounded."""
        assert self.path is not None
        attached(codes, items).save(self.path)
        self._header = header(self.path)
        codes = HashIndex.open(self.path)
        self._now = codes, items.copy()
        return copy.copy(codes)  # which changes apart from what queries see


def attached(codes: HashIndex, items: ItemRecords) -> HashIndex:
    """Codes with what is known of their items as attachments."""
    codes = copy.copy(codes)
    kept = items.attachments()
    for name in codes.attachments.keys() - kept.keys():
        codes.attach(name, None)
    for name, data in kept.items():
        codes.attach(name, data)
    return codes


def _check_files(items: ItemRecords) -> None:
    if "manifest" in items.card:
        raise ValueError("shards are not changed; encode them again, or use one index file")
    if items.relative is None and items.card:
        raise ValueError("the index was not made from image files; make another one from a folder")


def header(path: Path | None) -> bytes | None:
    """The first bytes of an index file, with checksums of the others; None where there is none."""
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(ALIGNMENT)


def _same(path: str | os.PathLike[str], other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def take_columns(records: ItemRecords, table: str | os.PathLike[str]) -> list[str]:
    """Keep the columns of a CSV file; returns the paths in it that no item has.

    Raises:
        ValueError: the file is no such table, or the items have no paths.
    """
    _check_files(records)
    found = read_columns(table, records.root)
    columns, unknown = by_id(found, records.relative or [])
    if len(unknown) == len(found.rows):
        raise ValueError(
            f"{shown(table)}: none of its {len(unknown):,} paths is an image of the index, for "
            f"example {shown(unknown[0])}; give them as they are from the folder of the images"
        )
    records.set_columns(columns)
    return unknown


def _names(images: Any, count: int) -> Sequence[str]:
    """What to call each query: its path, or its number."""
    if isinstance(images, Sequence):
        return [
            os.fspath(image) if isinstance(image, str | os.PathLike) else str(at)
            for at, image in enumerate(images)
        ]
    return [str(at) for at in range(count)]
