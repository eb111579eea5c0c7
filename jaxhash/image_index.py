"""An index of images, searched with images: a model, its codes, and the paths of the files."""

import contextlib
import copy
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxhash import encoding, models, retrieval, updating
from jaxhash.data import Dataset, Undecodable, pictures
from jaxhash.data.listing import shown
from jaxhash.duplicates.pairs import SIMILARITY
from jaxhash.found import Found as Found
from jaxhash.found import Hit as Hit
from jaxhash.found import hits
from jaxhash.items.columns import by_id
from jaxhash.items.columns import read as read_columns
from jaxhash.items.files import stat
from jaxhash.items.records import CARD, PATHS, ItemRecords, relative_to
from jaxhash.models import Model
from jaxhash.retrieval import Where
from jaxhash.shards.records import open_any
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
        self._header = _header(self.path)
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
    ) -> Any:
        """The `k` nearest images of the index.

        Args:
            images: one picture, as a path, a PIL image or an array uint8 of any size; or a list
                of them, or a batch as `Model.encode` takes.
            k: number of results.
            pool: number of nearest codes that are re-ranked by the Euclidean distance of
                features, at least `k`; None orders by Hamming distance alone.
            radius: largest Hamming distance of a result.
            where: the images to search: an expression about their paths and columns, such as
                "year >= 2020 and folder == 'beach'" (see `jaxhash.items.where`); or bool for each
                of `codes.ids`; or a list of ids.

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
        found = retrieval.query(self.model, codes, images, k, pool=pool, radius=radius, where=where)
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
            similarity: the cosine of two copies' features, at least; above 0, at most 1.
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
            if _header(self.path) != self._header:
                raise ValueError(
                    f"{shown(self.path)} was written by somebody else since it was opened; open it "
                    "again"
                )
            yield

    def _write(self, codes: HashIndex, items: ItemRecords) -> HashIndex:
        """Write a state, and go on from the file, so that memory stays bounded."""
        assert self.path is not None
        attached(codes, items).save(self.path)
        self._header = _header(self.path)
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


def _header(path: Path | None) -> bytes | None:
    """The first bytes of an index file, with checksums of the others; None where there is none."""
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        return file.read(ALIGNMENT)


def _same(path: str | os.PathLike[str], other: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(other)


def build(
    model: Model,
    data: Dataset | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    features: str | None = "float16",
    batch_size: int | None = None,
    overwrite: bool = False,
    columns: str | os.PathLike[str] | None = None,
    on_batch: Callable[[int], None] | None = None,
    on_skipped: Callable[[str, str], None] | None = None,
) -> ImageIndex:
    """Encode images into an index file, and open it.

    Args:
        model: encodes them.
        data: a folder of images, at any depth; whatever `jaxhash.data.load` takes; or a `Dataset`.
        path: of the index file; it appears when it is complete.
        features: "float16" or "float32" keeps features for re-ranking, None keeps codes alone.
        batch_size: images per call of the network; its own number by default.
        overwrite: replace a file that is there.
        columns: a CSV file with a column "path" and others to keep, see `jaxhash.items.columns`.
        on_batch: called with the number of images of each batch that is done.
        on_skipped: called with name and reason of each file that cannot be decoded.

    Returns:
        The index, mapped from the file.

    Raises:
        FileExistsError: the file is there, and `overwrite` was not given.
        ValueError: the model does not take such data, or there is none.
        search.files.locking.Locked: somebody else is writing the file.
        OSError: the file cannot be written.

    Example:
        >>> index = build(model, "photos/", "photos.index")  # doctest: +SKIP
    """
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{os.fspath(path)} exists; give overwrite, or another path")
    with alone(path):
        name = data.name if isinstance(data, Dataset) else os.fspath(data)
        dataset = data if isinstance(data, Dataset) else retrieval.load_items(name, model)
        records = retrieval.records(model, dataset, name)
        if columns is not None:
            take_columns(records, columns)
        skipped = encoding.encode_to_index(
            model,
            dataset.items,
            path,
            batch_size=batch_size,
            features=features,
            attachments=retrieval.once_encoded(records, dataset),
            on_batch=on_batch,
        )
    if on_skipped is not None:
        for file, reason in dataset.skipped:
            on_skipped(file, reason)
        for row, reason in skipped:
            on_skipped(dataset.paths[row] if dataset.paths else str(row), reason)
    return open_index(path, model)


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


def open_index(
    path: str | os.PathLike[str],
    model: Model | str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
) -> ImageIndex:
    """Open an index file or a folder of shards, mapped, with the model that made it.

    Args:
        path: of the index file, or of a folder of shards.
        model: a model, or the folder of a run.
        root: the folder of the images, where it has moved since the index was made.

    Returns:
        The index.

    Raises:
        FileNotFoundError: there is no such file or run, or shards are missing.
        search.DamagedFile: the file is damaged.
        ValueError: another model made it.

    Example:
        >>> index = open_index("photos.index", "runs/photos")  # doctest: +SKIP
    """
    if not isinstance(model, Model):
        model = models.load(Path(model))
    codes, items = open_any(path, root=root, classes=model.spec.classes)
    return ImageIndex(model, codes, items, path=None if os.path.isdir(path) else path)


def open_or_begin(
    path: str | os.PathLike[str],
    model: Model | str | os.PathLike[str],
    folder: str | os.PathLike[str],
) -> ImageIndex:
    """The index in a file, or an empty one of a folder, for `ImageIndex.update` to fill.

    Example:
        >>> index = open_or_begin("photos.index", "runs/photos", "photos/")  # doctest: +SKIP
        >>> print(index.update())  # doctest: +SKIP
        1,204 added
    """
    if os.path.exists(path):
        return open_index(path, model)
    if not isinstance(model, Model):
        model = models.load(Path(model))
    retrieval.file_form(model, os.fspath(folder))
    card = retrieval.card_of(model, os.fspath(folder), None, ()) | {"root": None}
    kept = {CARD: json.dumps(card).encode(), PATHS: b"[]"}
    width = -(-model.bits // 8)
    empty = HashIndex(np.empty((0, width), np.uint8), bits=model.bits, attachments=kept)
    return ImageIndex(model, empty, path=path)


def _names(images: Any, count: int) -> Sequence[str]:
    """What to call each query: its path, or its number."""
    if isinstance(images, Sequence):
        return [
            os.fspath(image) if isinstance(image, str | os.PathLike) else str(at)
            for at, image in enumerate(images)
        ]
    return [str(at) for at in range(count)]
