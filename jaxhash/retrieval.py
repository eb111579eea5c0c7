"""Searching an index with images: what is encoded into it, and the search itself."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxhash import data as sources
from jaxhash import models, option_checks, runs
from jaxhash.data import Dataset, folders, prepared
from jaxhash.data.pictures import as_items
from jaxhash.encoding import Encoded, encode
from jaxhash.items.files import stat
from jaxhash.items.records import CARD, LABELS, ItemRecords, relative_to
from jaxhash.models import Model
from search import HashIndex

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH = 256
"""Queries that are encoded at once, at most."""
POOL = 200
"""Candidates that are re-ranked by default, unless k is large: see `pool_for`."""
MOST = 100_000
"""Candidates that are re-ranked at most, unless more are asked for."""

Where = str | np.ndarray | Sequence[int]
"""Which items to search: an expression, bool for each id of the index, or a list of ids."""


class Neighbours(NamedTuple):
    """For each of q queries its nearest items, best first, and the codes' distances.

    distances: int32 (q, k) Hamming, or float32 (q, k) Euclidean where features were compared.
    ids: int64 (q, k), -1 where fewer were found.
    """

    distances: np.ndarray
    ids: np.ndarray


def load_items(
    data: str,
    model: Model,
    *,
    data_dir: str | None = None,
    max_undecodable: float | None = None,
    labelled: bool = False,
) -> Dataset:
    """What a model is to encode: a folder of image files at any depth, or any other dataset.

    Files are decoded on demand, to the size and channels the model was trained on.

    max_undecodable: share of a folder's files that may fail to decode; 0.01 unless given. labelled:
    take classes and parts from the names of a folder's sub-folders, where it has any.

    Raises:
        ValueError: there is no such data, or the model does not take it.

    Example:
        >>> load_items("photos", model).paths[0]  # doctest: +SKIP
        'photos/beach.jpg'
    """
    option_checks.check_place(data, data_dir=data_dir)
    spec = model.spec
    if _is_folder_of_images(data, data_dir):
        size, channels = file_form(model, data)
        load = folders.load if labelled and folders.has_classes(data) else folders.load_images
        share = 0.01 if max_undecodable is None else max_undecodable
        return load(data, image_size=size, channels=channels, max_undecodable=share)
    if max_undecodable is not None:
        raise ValueError(
            f"max_undecodable is for folders of image files, and {data} is none; leave it out"
        )
    square = spec.takes == "images" and spec.item_shape[0] == spec.item_shape[1]
    dataset = sources.load(
        data, data_dir=data_dir, image_size=spec.item_shape[0] if square else None
    )
    if dataset.kind != spec.takes:
        raise ValueError(f"the model takes {spec.takes}, and {data} holds {dataset.kind}")
    return dataset


def file_form(model: Model, data: str) -> tuple[int, int]:
    """The side in pixels and the channels that image files are decoded to for a model.

    Raises:
        ValueError: the model takes features, or images that are not square.
    """
    spec = model.spec
    if spec.takes == "features":
        raise ValueError(f"the model takes features, and {data} is a folder of images")
    height, width, channels = spec.item_shape
    if height != width:
        raise ValueError(
            f"the model takes images of {height} x {width} pixels, and files are cut to "
            "squares; train with image_size, or bring arrays of that size"
        )
    return height, 1 if channels == 1 else 3


def _is_folder_of_images(data: str, data_dir: str | None) -> bool:
    if data in sources.EMBEDDED or not Path(data).is_dir():
        return False
    if any(Path(data).glob("*.npy")) or (Path(data) / "dataset_info.json").is_file():
        return False
    name = prepared.parse_name(data)
    root = Path(data_dir) if data_dir else sources.default_data_dir()
    return name is None or prepared.find(name, root) is None


def records(model: Model, dataset: Dataset, data: str, data_dir: str | None = None) -> ItemRecords:
    """What an index of a dataset's rows has to know of them; made before they are encoded.

    Example:
        >>> records(model, dataset, "photos").paths[0]  # doctest: +SKIP
        '/home/me/photos/beach.jpg'
    """
    card = card_of(model, data, data_dir, dataset.classes)
    if dataset.paths is not None:
        card["root"] = card["data"] if os.path.isdir(card["data"]) else None
    kept = {CARD: json.dumps(card).encode()}
    if dataset.labels is not None and dataset.labels.ndim == 1:
        kept[LABELS] = dataset.labels.astype("<i4").tobytes()
    known = ItemRecords(kept)
    for row, path in enumerate(dataset.paths or ()):
        known.put(row, relative_to(path, data, known.root), stat(path), None)
    return known


def card_of(
    model: Model, data: str, data_dir: str | None, classes: Sequence[str]
) -> dict[str, Any]:
    """What an index says of its model and data, as plain values."""
    return {
        "model": models.fingerprint(model),
        "data": data if data in sources.EMBEDDED else _absolute(data),
        "data_dir": None if data_dir is None else str(Path(data_dir).resolve()),
        "classes": list(classes),
    }


def once_encoded(known: ItemRecords, dataset: Dataset) -> Callable[[], dict[str, bytes]]:
    """A function that gives the attachments once a dataset is encoded: with its files' digests."""
    images = dataset.items
    if not isinstance(images, sources.Images):
        return known.attachments
    images.keep_digests()

    def finish() -> dict[str, bytes]:
        assert images.digests is not None
        known.set_digests(images.digests)
        return known.attachments()

    return finish


def attachments(
    model: Model, dataset: Dataset, data: str, data_dir: str | None = None
) -> dict[str, bytes]:
    """What an index of a dataset's rows has to keep so that its results can be shown.

    Example:
        >>> sorted(attachments(model, dataset, "digits", None))  # doctest: +SKIP
        ['jaxhash', 'labels']
    """
    return records(model, dataset, data, data_dir).attachments()


def _absolute(data: str) -> str:
    return str(Path(data).resolve()) if Path(data).exists() else data


def query(
    model: Model,
    index: HashIndex,
    items: Any,
    k: int,
    *,
    pool: int | None = None,
    radius: int | None = None,
    where: Where | None = None,
    recall: float | None = None,
) -> Neighbours:
    """The k nearest items of an index for each query, from coarse to fine where a pool is given.

    Args:
        model: made the index.
        index: what to search.
        items: the queries: pictures in any form that `Model.encode` takes, or features (q, d).
        k: results for each query.
        pool: number of nearest codes that are re-ranked by the distance of features, at least `k`;
            0 for codes alone. By default that of the order which is best, see `order_for`.
        radius: largest Hamming distance of a result.
        where: the items to search: an expression about their paths and columns (see
            `jaxhash.items.where`), bool for each of the index's ids, or a list of ids.
        recall: the share of the nearest codes that has to be found, such as 0.95; exact when None.
            See `search.HashIndex.search`. Not with `where`, `radius`.

    Raises:
        ValueError: the index was made by another model, or keeps no features for a pool.

    Example:
        >>> query(model, HashIndex.open("photos.index"), images, 10, pool=100)  # doctest: +SKIP
    """
    check_made_by(index, model)
    if isinstance(where, str):
        where = ItemRecords(index).select(where, index.ids)
    encoded = encode_queries(model, items)
    fine: dict[str, Any] = {}
    if pool is None:
        pool = pool_for(k, order_for(model, index), len(index))
    if pool:
        fine = {"query_features": encoded.features, "pool": max(pool, k)}
    return Neighbours(
        *index.search(encoded.codes, k, radius=radius, where=where, recall=recall, **fine)
    )


def order_for(model: Model, index: HashIndex) -> str:
    """The order that results of an index are put in, unless a query gives a pool.

    The one place that decides, for the library, the command and the service alike: the order that
    the last evaluation of the model's run found best, or coarse to fine where there was none; codes
    where the index keeps nothing else.

    Returns:
        One of `runs.ORDERS`.

    Example:
        >>> order_for(model, HashIndex.open("photos.index"))  # doctest: +SKIP
        'coarse_to_fine'
    """
    if index.get([])[1] is None:
        return "codes"
    found = None if model.run is None else runs.best_order(model.run)
    return found or "coarse_to_fine"


def pool_for(k: int, order: str = "coarse_to_fine", items: int = 0) -> int:
    """How many candidates to re-rank for k results in an order; 0 for codes alone.

    order: see `order_for`; for "features" all of the `items` are candidates, up to `MOST`.

    Example:
        >>> pool_for(10), pool_for(500), pool_for(10, "codes"), pool_for(10, "features", 5000)
        (200, 1000, 0, 5000)
    """
    if order == "codes":
        return 0
    return max(POOL, 2 * k, min(items, MOST) if order == "features" else 0)


def order_of(pool: int | None, items: int) -> str:
    """The order that results from a pool: that of features where it holds all of the items.

    Example:
        >>> order_of(None, 5000), order_of(200, 5000), order_of(200, 150)
        ('codes', 'coarse_to_fine', 'features')
    """
    if not pool:
        return "codes"
    return "features" if pool >= items else "coarse_to_fine"


def encode_queries(model: Model, items: Any) -> Encoded:
    """Codes, and features as float32, of queries in any form that `Model.encode` takes.

    Example:
        >>> encode_queries(model, images).codes  # doctest: +SKIP
    """
    items = as_items(items, model.spec.item_shape)
    return encode(model, items, features="float32", keep=("codes", "features"))


def check_made_by(index: HashIndex, model: Model) -> None:
    """Refuse an index that another model made.

    Raises:
        ValueError: its codes have another length, or it names another model.
    """
    made_by = card(index).get("model")
    if index.bits != model.bits or made_by not in (None, models.fingerprint(model)):
        raise ValueError(
            "the index was made by another model; encode its images again with this one, or give "
            "the model that it was made with"
        )


def card(index: HashIndex) -> dict[str, Any]:
    """What `attachments` said about data and model; {} for an index made otherwise."""
    kept = index.attachments.get(CARD)
    return {} if kept is None else json.loads(bytes(kept))


def gallery(
    items: ItemRecords,
    queries: Sequence[np.ndarray],
    found: Neighbours,
    query_titles: Sequence[str],
    classes: Sequence[str] | None = None,
) -> "Figure":
    """The pictures of queries and what was found for them, a row each.

    classes: of the queries, by which neighbours are marked right or wrong.

    Raises:
        ValueError: the images of the index are not where they were.

    Example:
        >>> plots.save(gallery(items, images, found, ["beach.jpg"]), "out.png")  # doctest: +SKIP
    """
    from jaxhash import plots  # here, as matplotlib takes a second that a query can do without

    rows = [ids[ids >= 0].tolist() for ids in found.ids]
    names = [items.class_names(row) for row in rows]
    right = [
        [None if classes is None or name is None else name == classes[at] for name in row]
        for at, row in enumerate(names)
    ]
    return plots.gallery(
        queries,
        [items.pictures(row) for row in rows],
        right,
        [
            distances[: len(row)].tolist()
            for distances, row in zip(found.distances, rows, strict=True)
        ],
        query_titles=query_titles,
        titles=[
            [items.short_title(item, name) for item, name in zip(row, row_names, strict=True)]
            for row, row_names in zip(rows, names, strict=True)
        ],
    )
