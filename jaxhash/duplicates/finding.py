"""The whole search for copies in an index: pairs, mirror images too, joined to groups."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxhash.duplicates import groups, pairs
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
    mirrored: bool = True,
    on_batch: Callable[[int], Any] | None = None,
) -> list[Group]:
    """Find the copies of pictures in an index; see `ImageIndex.duplicates`.

    Example:
        >>> find(model, index, ItemRecords(index))  # doctest: +SKIP
    """
    found = pairs.find(
        codes,
        similarity=similarity,
        radius=radius,
        mirrored=mirror_images(model, codes, records) if needs_mirroring(model, mirrored) else (),
        on_batch=on_batch,
    )
    if not len(found.first):
        return []
    ids = np.unique(np.concatenate(found[:2])).tolist()
    return groups.join(found, {item: records.path(item) for item in ids})


def needs_mirroring(model: Model, mirrored: bool = True) -> bool:
    """Whether the pictures have to be encoded once more to find mirrored copies.

    Not where a model encodes each picture together with its mirror image, or takes features.

    Example:
        >>> needs_mirroring(model, mirrored=False)  # doctest: +SKIP
        False
    """
    return mirrored and model.spec.takes == "images" and not model.spec.mirror


def mirror_images(model: Model, codes: HashIndex, records: ItemRecords) -> Iterator[Mirrored]:
    """What the model makes of the mirror images of an index's items, in batches.

    Those whose file is gone or cannot be decoded any more are left out.

    Example:
        >>> sum(len(batch.ids) for batch in mirror_images(model, index, records))  # doctest: +SKIP
        3000
    """
    ids = codes.ids
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
