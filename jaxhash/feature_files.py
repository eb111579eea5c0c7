"""Write the features of a model as a dataset: the `.npz` that `data.load` reads."""

from collections.abc import Callable
from os import PathLike

import jax
import numpy as np

from jaxhash.data import Dataset
from jaxhash.encoding import encode
from jaxhash.models import Model
from search.files.atomic import replacing


def write_features(
    model: Model,
    dataset: Dataset,
    path: str | PathLike[str],
    *,
    batch_size: int | None = None,
    together: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> None:
    """Write the features of every item of a dataset, with its parts and labels; whole or not.

    The items keep their order within a part, so that where there is only one, a protocol and a
    seed draw the same split from the features as from the images: a method trained on the
    features of a network then meets no query that the network has learned from.

    path: of the `.npz`: `train_features` float32 (n, D), `train_labels` and so on, part by part,
    and `classes`. Features are held in memory. together: as in `encoding.batches`; the first
    process writes.

    Raises:
        ValueError: the model does not take such items.
        OSError: the file cannot be written.

    Example:
        >>> write_features(model, dataset, "features.npz")  # doctest: +SKIP
    """
    encoded = encode(
        model,
        dataset.items,
        batch_size=batch_size,
        features="float32",
        keep=("features",),
        together=together,
        on_batch=on_batch,
    )
    if together and jax.process_index() > 0:
        return
    arrays = {"classes": np.array(dataset.classes)} if dataset.labels is not None else {}
    for part, rows in dataset.parts.items():
        prefix = "" if part == "all" else f"{part}_"
        arrays[f"{prefix}features"] = encoded.features[rows]
        if dataset.labels is not None:
            arrays[f"{prefix}labels"] = dataset.labels[rows]
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **arrays)
