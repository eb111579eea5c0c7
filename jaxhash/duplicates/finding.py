"""The whole search for copies in an index: pairs, looks, mirror images too, joined to groups."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxhash.duplicates import groups, looks, pairs
from jaxhash.duplicates.groups import Group
from jaxhash.duplicates.pairs import Mirrored
from jaxhash.items.records import ItemRecords
from jaxhash.models import Model
from search import HashIndex

BATCH = 256


def find(
    model: Model,
    codes: HashIndex,
    records: ItemRecords,
    *,
    similarity: float = pairs.SIMILARITY,
    radius: int | None = None,
    mirrored: bool = False,
    on_batch: Callable[[int], Any] | None = None,
) -> list[Group]:
    """Find the copies of pictures in an index; see `ImageIndex.duplicates`.

    Example:
        >>> find(model, index, ItemRecords(index))  # doctest: +SKIP
    """
    pairs.check(similarity)
    maybe = min(similarity, looks.MAYBE)
    found = pairs.find(codes, similarity=maybe, radius=radius, on_batch=on_batch)
    found = looks.confirmed(found, records.path, similarity=similarity)
    if mirrored and can_mirror(model):
        flipped = pairs.find(
            codes,
            similarity=similarity,
            radius=radius,
            mirrored=mirror_images(model, records, codes.ids),
            on_batch=on_batch,
        )
        found = pairs.best([found, flipped])
    if not len(found.first):
        return []
    ids = np.unique(np.concatenate(found[:2])).tolist()
    return groups.join(found, {item: records.path(item) for item in ids})


def can_mirror(model: Model) -> bool:
    """Whether a model can tell a picture from its mirror image.

    Not where it encodes each picture together with its mirror image, or takes features.

    Example:
        >>> can_mirror(model)  # doctest: +SKIP
        True
    """
    return model.spec.takes == "images" and not model.spec.mirror


def mirror_images(model: Model, records: ItemRecords, ids: NDArray[np.int64]) -> Iterator[Mirrored]:
    """What the model makes of the mirror images of items, in batches.

    Those whose file is gone or cannot be decoded any more are left out.

    Example:
        >>> sum(len(batch.ids) for batch in mirror_images(model, items, ids))  # doctest: +SKIP
        3000
    """
    for start in range(0, len(ids), BATCH):
        some, pictures = _pictures(records, ids[start : start + BATCH], model.spec.item_shape[0])
        if len(some):
            flipped = np.ascontiguousarray(np.stack(pictures)[:, :, ::-1])
            encoded = model.encode(flipped, keep=("codes", "features"))
            yield Mirrored(some, encoded.codes, encoded.features)


def _pictures(
    records: ItemRecords, ids: NDArray[np.int64], side: int
) -> tuple[NDArray[np.int64], list[np.ndarray]]:
    """Those of some items that can be read, and their pictures."""
    try:
        return ids, records.pictures(ids.tolist(), side)
    except ValueError:
        if len(ids) == 1:
            return ids[:0], []
    halves = [_pictures(records, half, side) for half in np.array_split(ids, 2)]
    return np.concatenate([one for one, _ in halves]), [*halves[0][1], *halves[1][1]]
