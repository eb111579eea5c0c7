"""An index of images, searched with images: a model, its codes, and the paths of the files."""

import csv
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxhash import encoding, models, retrieval
from jaxhash.data import Dataset, pictures
from jaxhash.models import Model
from jaxhash.shards.records import open_any
from search import HashIndex
from search.files.atomic import replacing


class Hit(NamedTuple):
    """One result of a query.

    id: of the item in the index. distance: Hamming (int) or Euclidean (float). path: of the image
    file, None where the index was not made from files. label: the class that its data
    or the name of its folder says, None if unknown.
    """

    id: int
    distance: float
    path: str | None
    label: str | None


@dataclass(frozen=True)
class Found:
    """What an index found for one query, nearest first.

    Example:
        >>> found = index.query("beach.jpg", k=10, pool=200)  # doctest: +SKIP
        >>> found.paths[0], found.distances[0], found.labels[0]  # doctest: +SKIP
        ('photos/beach/17.jpg', 0.31, 'beach')
    """

    query: str
    hits: tuple[Hit, ...]

    @property
    def ids(self) -> list[int]:
        """The ids of the results."""
        return [hit.id for hit in self.hits]

    @property
    def distances(self) -> list[float]:
        """Their distances: Hamming as whole numbers, or Euclidean where features were compared."""
        return [hit.distance for hit in self.hits]

    @property
    def paths(self) -> list[str | None]:
        """Their files."""
        return [hit.path for hit in self.hits]

    @property
    def labels(self) -> list[str | None]:
        """The names of their classes."""
        return [hit.label for hit in self.hits]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def to_dict(self) -> dict[str, Any]:
        """The query and its results as plain values, ready for JSON."""
        return {"query": self.query, "results": [hit._asdict() for hit in self.hits]}

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The results as CSV text with a line of names.

        Args:
            path: file to write the text to as well; none by default.

        Returns:
            The text.

        Raises:
            OSError: the file cannot be written.

        Example:
            >>> found.to_csv("found.csv")  # doctest: +SKIP
        """
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["query", "rank", *Hit._fields])
        for rank, hit in enumerate(self.hits, 1):
            table.writerow([self.query, rank, *("" if one is None else one for one in hit)])
        if path is not None:
            with replacing(path) as file:
                file.write(text.getvalue().encode("utf-8", "surrogateescape"))
        return text.getvalue()


class ImageIndex:
    """A model and an index that it made: queries are images, and so are the results.

    Args:
        model: the model that made the codes.
        codes: the codes under their ids, see `search.HashIndex`.
        items: what is known of the images; by default what the index keeps.

    Raises:
        ValueError: the index was made by another model.

    Example:
        >>> index = jaxhash.open_index("photos.index", "runs/photos")  # doctest: +SKIP
        >>> index.query("beach.jpg", k=3).paths  # doctest: +SKIP
    """

    def __init__(
        self, model: Model, codes: HashIndex, items: retrieval.ItemRecords | None = None
    ) -> None:
        retrieval.check_made_by(codes, model)
        self.model = model
        self.codes = codes
        self.items = retrieval.ItemRecords(codes) if items is None else items

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
    ) -> Any:
        """The `k` nearest images of the index.

        Args:
            images: one picture, as a path, a PIL image or an array uint8 of any size; or a list
                of them, or a batch as `Model.encode` takes.
            k: number of results.
            pool: number of nearest codes that are re-ranked by the Euclidean distance of
                features; None orders by Hamming distance alone.
            radius: largest Hamming distance of a result.

        Returns:
            `Found` for one picture, a list of `Found` for several.

        Raises:
            ValueError: a picture cannot be decoded, or the index keeps no features for a pool.

        Example:
            >>> index.query("beach.jpg", k=10, pool=200).paths  # doctest: +SKIP
        """
        found = retrieval.query(self.model, self.codes, images, k, pool=pool, radius=radius)
        alone = pictures.is_one(images, self.model.spec.item_shape)
        names = _names([images] if alone else images, len(found.ids))
        answers = [
            Found(name, self._hits(distances, ids))
            for name, distances, ids in zip(names, found.distances, found.ids, strict=True)
        ]
        return answers[0] if alone else answers

    def _hits(self, distances: np.ndarray, ids: np.ndarray) -> tuple[Hit, ...]:
        known = ids[ids >= 0].tolist()
        return tuple(map(Hit, known, distances[: len(known)].tolist(), *self.names(known)))

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
        paths: list[str | None] = [None] * len(ids)
        if self.items.paths is not None:
            paths = list(self.items.titles(ids))
        if self.items.labels is not None:
            return paths, self.items.class_names(ids)
        return paths, [self._class_of(path) for path in paths]

    def _class_of(self, path: str | None) -> str | None:
        """The name of a file's folder, if it is a class of the model."""
        folder = None if path is None else Path(path).parent.name
        return folder if folder in self.model.spec.classes else None


def build(
    model: Model,
    data: Dataset | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    features: str | None = "float16",
    batch_size: int | None = None,
    overwrite: bool = False,
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
        on_batch: called with the number of images of each batch that is done.
        on_skipped: called with name and reason of each file that cannot be decoded.

    Returns:
        The index, mapped from the file.

    Raises:
        FileExistsError: the file is there, and `overwrite` was not given.
        ValueError: the model does not take such data, or there is none.
        OSError: the file cannot be written.

    Example:
        >>> index = build(model, "photos/", "photos.index")  # doctest: +SKIP
    """
    if Path(path).exists() and not overwrite:
        raise FileExistsError(f"{os.fspath(path)} exists; give overwrite, or another path")
    name = data.name if isinstance(data, Dataset) else os.fspath(data)
    dataset = data if isinstance(data, Dataset) else retrieval.load_items(name, model)
    skipped = encoding.encode_to_index(
        model,
        dataset.items,
        path,
        batch_size=batch_size,
        features=features,
        attachments=retrieval.attachments(model, dataset, name),
        on_batch=on_batch,
    )
    if on_skipped is not None:
        for file, reason in dataset.skipped:
            on_skipped(file, reason)
        for row, reason in skipped:
            on_skipped(dataset.paths[row] if dataset.paths else str(row), reason)
    return open_index(path, model)


def open_index(path: str | os.PathLike[str], model: Model | str | os.PathLike[str]) -> ImageIndex:
    """Open an index file or a folder of shards, mapped, with the model that made it.

    Args:
        path: of the index file, or of a folder of shards.
        model: a model, or the folder of a run.

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
    return ImageIndex(model, *open_any(path))


def _names(images: Any, count: int) -> Sequence[str]:
    """What to call each query: its path, or its number."""
    if isinstance(images, Sequence):
        return [
            os.fspath(image) if isinstance(image, str | os.PathLike) else str(at)
            for at, image in enumerate(images)
        ]
    return [str(at) for at in range(count)]
