"""Index files of images: made from a folder or a dataset, opened, or begun."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxhash import encoding, known_features, models, retrieval
from jaxhash.data import Dataset
from jaxhash.image_index import ImageIndex, header, take_columns
from jaxhash.items.records import CARD, PATHS
from jaxhash.models import Model
from jaxhash.shards.records import open_any
from search import HashIndex
from search.files.locking import alone


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
            known=known_features.find(model),
            on_batch=on_batch,
        )
    if on_skipped is not None:
        for file, reason in dataset.skipped:
            on_skipped(file, reason)
        for row, reason in skipped:
            on_skipped(dataset.paths[row] if dataset.paths else str(row), reason)
    return open_index(path, model)


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
    while True:
        before = header(Path(path))
        codes, items = open_any(path, root=root, classes=model.spec.classes)
        index = ImageIndex(model, codes, items, path=None if os.path.isdir(path) else path)
        # A file that was replaced meanwhile would be taken for the one that the codes are from, and
        # `save` would undo what is new in it.
        if header(Path(path)) == before:
            return index


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
