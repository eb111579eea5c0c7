"""Encode the shards of a folder that are not done, each whole or not at all."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxhash import encoding, models, retrieval
from jaxhash.data.places import GONE
from jaxhash.data.stored import StoredImages
from jaxhash.models import Model
from jaxhash.shards import folder as folders
from jaxhash.shards.folder import LEFT_OUT, Manifest
from search.files.writing import Writer
from search.shards import file_name

OnBatch = Callable[[int], None]


def encode_shard(
    model: Model,
    folder: str | os.PathLike[str],
    manifest: Manifest,
    shard: int,
    *,
    batch_size: int | None = None,
    on_batch: OnBatch | None = None,
) -> list[tuple[int, str]]:
    """Encode one shard into its file, which appears when it is complete.

    Args:
        model: the one that the manifest names.
        folder: of the shards.
        manifest: of the folder.
        shard: its number.
        batch_size: images per call of the network; its own number by default.
        on_batch: called with the number of images of each batch that is done.

    Returns:
        (id, reason) of the images that could not be decoded and are left out.

    Raises:
        OSError: an image cannot be read now, none is there, or the disk is full; the shard stays
            undone.
        ValueError: the model is another one, or the list of images is not whole.

    Example:
        >>> encode_shard(model, "photos.index/", manifest, 3)  # doctest: +SKIP
        []
    """
    check_model(manifest, model)
    places = folders.places_of(folder, manifest, shard)
    first = manifest.first(shard)
    items = StoredImages(places, size=manifest.image_size, channels=manifest.channels)
    left_out: list[tuple[int, str]] = []
    keep = ("codes",) if manifest.features is None else ("codes", "features")
    path = Path(folder) / file_name(shard, manifest.shards)
    with Writer(path, bits=model.bits, next_id=first + len(places)) as writer:
        for rows, part in encoding.batches(
            model,
            items,
            batch_size=batch_size,
            features=manifest.features or "float16",
            keep=keep,
            on_undecodable=lambda row, reason: left_out.append((first + row, reason)),
        ):
            writer.append(part.codes, part.features, first + rows)
            if on_batch is not None:
                on_batch(len(rows))
        if all(reason == GONE for _, reason in left_out) and len(left_out) == len(places):
            raise FileNotFoundError(
                f"{places[0].name}: not there, nor any other image of {path.name}; let this "
                "machine see the data, or list it anew (overwrite=True)"
            )
        writer.attach(retrieval.CARD, manifest.card())
        writer.attach(LEFT_OUT, json.dumps(left_out).encode())
    return left_out


def check_model(manifest: Manifest, model: Model) -> None:
    """Refuse a model other than the one that a manifest names.

    Raises:
        ValueError: it is another one.
    """
    if models.fingerprint(model) != manifest.model:
        raise ValueError(
            "the shards were begun with another model; give that one, or begin another folder"
        )


def encode_missing(
    model: Model,
    folder: str | os.PathLike[str],
    *,
    batch_size: int | None = None,
    max_undecodable: float = 0.01,
    start: int = 0,
    on_batch: OnBatch | None = None,
    on_shard: OnBatch | None = None,
) -> Manifest:
    """Encode every shard of a folder that is not done.

    Any number of processes may call it at once, on any number of machines that share the folder:
    each takes shards that no other one is at. All shards are done when it returns: those of a
    process that was killed meanwhile are taken over.

    Args:
        model: the one that the folder was begun with.
        folder: of the shards, see `folder.begin`.
        batch_size: images per call of the network; its own number by default.
        max_undecodable: largest share of all images that may turn out to be unreadable.
        start: the shard to look at first; so that several processes begin apart.
        on_batch: called with the number of images of each batch that is done.
        on_shard: called with the number of each shard that this process has done.

    Returns:
        The manifest.

    Raises:
        ValueError: the model is another one, or more images than that cannot be decoded.
        OSError: an image cannot be read now, or the disk is full; what is done stays done.

    Example:
        >>> encode_missing(model, "photos.index/").items  # doctest: +SKIP
        20000
    """
    manifest = folders.load(folder)
    check_model(manifest, model)
    bad = list(folders.left_out(folder, manifest))
    order = np.roll(np.arange(manifest.shards), -start).tolist()
    # First what nobody is at; then, waiting for the others, what they did not come to finish.
    for wait in (False, True):
        for shard in order:
            if folders.is_done(folder, manifest, shard):
                continue
            with folders.held(folders.lock_of(folder, shard), wait=wait) as mine:
                if not mine or folders.is_done(folder, manifest, shard):
                    continue
                bad += encode_shard(
                    model, folder, manifest, shard, batch_size=batch_size, on_batch=on_batch
                )
            if on_shard is not None:
                on_shard(shard)
            check_share(folder, manifest, bad, max_undecodable)
    check_share(folder, manifest, list(folders.left_out(folder, manifest)), max_undecodable)
    return manifest


def check_share(
    folder: str | os.PathLike[str],
    manifest: Manifest,
    bad: list[tuple[int, str]],
    max_undecodable: float,
) -> None:
    """Refuse to go on where more images failed than allowed.

    Raises:
        ValueError: with some of them.
    """
    if len(bad) <= max_undecodable * manifest.items and len(bad) < manifest.items:
        return
    from jaxhash.shards.records import Names

    names = Names(folder, manifest)
    examples = "".join(f"\n  {names[item]}: {reason}" for item, reason in bad[:5])
    raise ValueError(
        f"{os.fspath(folder)}: {len(bad)} of {manifest.items} images cannot be decoded, more than "
        f"the share of {max_undecodable:g} allowed (max_undecodable); the shards that are done "
        f"stay; some of them:{examples}"
    )
