"""Encode items with a model: codes, features and latents, batch by batch in constant memory."""

import contextlib
import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Protocol

import jax
import numpy as np

from jaxhash import processes, programs, sharding
from jaxhash.data import Images
from jaxhash.prefetch import ahead
from jaxhash.programs import Encoded
from jaxhash.spec import ModelSpec
from search.files.writing import Writer

__all__ = ["Encoded", "Encoder", "Known", "batch_for", "batches", "encode", "encode_to_index"]

FEATURE_TYPES = ("float16", "float32")
Undecodable = Callable[[int, str], None]
"""Called with the row of an image that cannot be decoded, and the reason."""
Failed = list[tuple[int, str]]


class Encoder(Protocol):
    """The interface of a model that encodes, such as `jaxhash.models.Model`."""

    @property
    def spec(self) -> ModelSpec:
        """The network without its weights."""

    @property
    def variables(self) -> Mapping[str, Any]:
        """Its weights and statistics."""


class Known(Protocol):
    """The interface of features of a backbone that are known, by the bytes of the image files."""

    features: np.ndarray
    """float32 (m, d)."""

    def __contains__(self, digest: object, /) -> bool:
        """Whether the features of a file of this digest are known."""

    def rows(self, digests: np.ndarray) -> np.ndarray:
        """The rows of `features` of digests uint8 (n, `DIGEST_BYTES`); -1 for others."""


def batch_for(spec: ModelSpec, count: int) -> int:
    """Items that are encoded at once by default, of `count` in all."""
    return min(spec.batch, 1 << max(count - 1, 0).bit_length())


def batches(
    model: Encoder,
    items: Any,
    *,
    rows: np.ndarray | None = None,
    batch_size: int | None = None,
    features: str = "float16",
    keep: Sequence[str] = Encoded._fields,
    devices: Sequence[jax.Device] | None = None,
    on_undecodable: Undecodable | None = None,
    together: bool = False,
    known: Known | None = None,
) -> Iterator[tuple[np.ndarray, Encoded]]:
    """Encode items batch by batch, as (rows, encoded); decoding and computing overlap.

    items: uint8 (n, h, w, c) or features (n, d); an array, a memory map, or anything of a length
    whose `items[rows]` is one. rows: which of them, all by default. batch_size: the network's own
    by default, or the power of two that holds all items where these are fewer, so that a few are
    quick and few programs are compiled; rounded up to a multiple of the number of devices. keep:
    fields to bring back from the device; the others are None.
    on_undecodable: told row and reason of each image file that cannot be decoded, which is then
    left out; without it, the first one ends the encoding.
    together: all processes of the group call this with the same arguments; each encodes some of
    the batches, and all get all of them, as one process would. Without it each is on its own.
    known: features that need not be computed again. They make what computing makes, to the last
    bit, and so they are left aside where batches have another size than theirs, the network's own.

    Raises:
        ValueError: the items are not what the model takes, or a name is not known; features are
            too large for float16; or processes that encode together differ in items, or in devices
            where the batch depends on them.

    Example:
        >>> for rows, part in batches(model, images):  # doctest: +SKIP
        ...     writer.append(part.codes, part.features, rows)
    """
    if features not in FEATURE_TYPES:
        raise ValueError(f"features is {features!r}; choose one of {', '.join(FEATURE_TYPES)}")
    chosen = np.arange(len(items)) if rows is None else np.asarray(rows)
    if batch_size is None:
        batch_size = batch_for(model.spec, len(chosen))
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1")
    mesh = sharding.local_mesh(devices)
    size = -(-batch_size // mesh.size) * mesh.size
    if together and jax.process_count() > 1:
        encode_own = functools.partial(
            batches,
            model,
            items,
            batch_size=size,
            features=features,
            keep=keep,
            devices=devices,
        )
        yield from _together(encode_own, items, chosen, size, on_undecodable)
        return
    step = programs.whole(model.spec, features, tuple(keep), mesh)
    variables = sharding.everywhere(dict(model.variables), mesh)
    parts = sharding.split(mesh)
    images = items if type(items) is Images and on_undecodable is not None else None
    if images is None or batch_size != model.spec.batch or not model.spec.on_backbone:
        known = None
    elif known is not None:
        images.keep_digests()

    def on_device(part: np.ndarray) -> jax.Array:
        if len(part) < size:
            # Filled up: another shape would be compiled anew.
            filled = np.zeros((size, *part.shape[1:]), part.dtype)
            filled[: len(part)] = part
            part = filled
        return jax.device_put(part, parts)

    def read(start: int) -> tuple[np.ndarray, np.ndarray | None, jax.Array | None, Failed]:
        rows = chosen[start : start + size]
        good, part, failed = _read(items, rows, on_undecodable is not None, known)
        if known is None:
            return good, None, on_device(part), failed
        assert images is not None
        assert images.digests is not None
        places = known.rows(images.digests[good])
        new = part[places < 0]
        return good, places, on_device(new) if len(new) else None, failed

    def begin(places: np.ndarray | None, part: jax.Array | None) -> Encoded:
        if known is None or places is None:
            return step(variables, part)
        looked = known.features[places]
        if part is not None:
            new = np.asarray(programs.backbone(model.spec.of_backbone(), mesh)(variables, part))
            looked[places < 0] = new[: (places < 0).sum()]
        return programs.head(model.spec, features, tuple(keep), mesh)(variables, on_device(looked))

    def fetch(rows: np.ndarray, outputs: Encoded) -> tuple[np.ndarray, Encoded]:
        count = len(rows)
        host = Encoded(*(None if one is None else np.asarray(one)[:count] for one in outputs))
        if host.features is not None:
            good = np.isfinite(host.features).all(axis=1)
            if not good.all():
                hint = (
                    "; float16 ends at 65,504, so choose float32 for features, or scale them down"
                )
                raise ValueError(
                    f"the features of item {rows[~good][0]} are not finite as {features}"
                    + (hint if features == "float16" else "")
                )
        return rows, host

    with contextlib.closing(ahead(read, range(0, len(chosen), size))) as ready:
        computing: tuple[np.ndarray, Encoded] | None = None
        for good, places, part, failed in ready:
            for row, reason in failed:
                assert on_undecodable is not None
                on_undecodable(row, reason)
            # Started before the last one is fetched, so that the device has no gap.
            started = (good, begin(places, part))
            if computing is not None:
                yield fetch(*computing)
            computing = started
        if computing is not None:
            yield fetch(*computing)


def _together(
    encode_own: Callable[..., Any],
    items: Any,
    chosen: np.ndarray,
    size: int,
    on_undecodable: Undecodable | None,
) -> Iterator[tuple[np.ndarray, Encoded]]:
    """`batches` of which each process encodes every so manieth, and tells all others."""
    count, own = jax.process_count(), jax.process_index()
    processes.check_same(
        {
            "number of images in a batch (batch_size, devices)": size,
            "number or size of the images": (len(items), items.shape[1:], chosen.tobytes()),
        }
    )
    parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    mine = np.concatenate([chosen[:0], *parts[own::count]])
    failed: Failed = []
    note = None if on_undecodable is None else lambda row, why: failed.append((int(row), why))
    with contextlib.closing(encode_own(rows=mine, on_undecodable=note)) as encoded:
        for first in range(0, len(parts), count):
            told = b""
            if first + own < len(parts):
                rows, outputs = next(encoded)
                told = _to_bytes(rows, outputs, items, parts[first + own], failed)
                failed.clear()
            for part, each in zip(parts[first:], processes.gather(told), strict=False):
                rows, outputs, lost = _from_bytes(each, items, part)
                for row, reason in lost:
                    assert on_undecodable is not None
                    on_undecodable(row, reason)
                yield rows, outputs


def _to_bytes(
    rows: np.ndarray, outputs: Encoded, items: Any, part: np.ndarray, failed: Failed
) -> bytes:
    arrays = {name: one for name, one in outputs._asdict().items() if one is not None}
    if isinstance(items, Images) and items.digests is not None:
        arrays["digests"] = items.digests[part]
    arrays["failed"] = np.frombuffer(json.dumps(failed).encode(), np.uint8)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, rows=rows, **arrays)
    return file.getvalue()


def _from_bytes(told: bytes, items: Any, part: np.ndarray) -> tuple[np.ndarray, Encoded, Failed]:
    with np.load(io.BytesIO(told), allow_pickle=False) as arrays:
        if "digests" in arrays:
            items.digests[part] = arrays["digests"]
        outputs = Encoded(*(arrays.get(name) for name in Encoded._fields))
        return arrays["rows"], outputs, json.loads(arrays["failed"].tobytes())


def _read(
    items: Any, rows: np.ndarray, leave_out: bool, known: Known | None
) -> tuple[np.ndarray, np.ndarray, Failed]:
    if not leave_out or not isinstance(items, Images):
        return rows, np.ascontiguousarray(items[rows]), []
    pixels, failed = items.read(rows) if known is None else items.read(rows, known)
    if not failed:
        return rows, pixels, []
    good = ~np.isin(rows, [row for row, _ in failed])
    return rows[good], pixels[good], failed


def encode(
    model: Encoder,
    items: Any,
    *,
    rows: np.ndarray | None = None,
    batch_size: int | None = None,
    features: str = "float16",
    keep: Sequence[str] = Encoded._fields,
    devices: Sequence[jax.Device] | None = None,
    together: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> Encoded:
    """Encode items into arrays. Arguments as for `batches`.

    on_batch: called with the number of items of each batch that is done.

    Raises:
        ValueError: the items are not what the model takes, or there are none.

    Example:
        >>> encode(model, images).codes.shape  # doctest: +SKIP
        (1000, 6)
    """
    done = []
    options: dict[str, Any] = {"rows": rows, "batch_size": batch_size, "features": features}
    options |= {"devices": devices, "together": together}
    for good, part in batches(model, items, keep=keep, **options):
        done.append(part)
        if on_batch is not None:
            on_batch(len(good))
    if not done:
        raise ValueError("there are no items to encode")
    return Encoded(
        *(
            None if column[0] is None else np.concatenate(column)
            for column in zip(*done, strict=True)
        )
    )


def encode_to_index(
    model: Encoder,
    items: Any,
    path: str | PathLike[str],
    *,
    rows: np.ndarray | None = None,
    batch_size: int | None = None,
    features: str | None = "float16",
    attachments: Mapping[str, bytes] | Callable[[], Mapping[str, bytes]] | None = None,
    devices: Sequence[jax.Device] | None = None,
    together: bool = False,
    known: Known | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[tuple[int, str]]:
    """Encode items into an index file, under their rows as ids; it appears when complete.

    rows: ascending. features: "float16", "float32", or None for codes alone. attachments: kept in
    the file, by name; or a function that gives them once all items are encoded. Other arguments as
    for `batches`; of processes that encode together the first one writes.

    Returns:
        (row, reason) of the image files that could not be decoded and are left out.

    Raises:
        ValueError: the items are not what the model takes, or there are none.
        OSError: the file cannot be written.

    Example:
        >>> skipped = encode_to_index(model, images, "photos.index")  # doctest: +SKIP
    """
    skipped: list[tuple[int, str]] = []
    encoded = batches(
        model,
        items,
        rows=rows,
        batch_size=batch_size,
        features=features or "float16",
        keep=("codes",) if features is None else ("codes", "features"),
        devices=devices,
        on_undecodable=lambda row, reason: skipped.append((row, reason)),
        together=together,
        known=known,
    )
    if together and jax.process_index() > 0:
        for _ in encoded:
            pass
        return skipped
    with Writer(path, bits=model.spec.bits) as writer:
        for good, part in encoded:
            writer.append(part.codes, part.features, good)
            if on_batch is not None:
                on_batch(len(good))
        if not writer.count:
            raise ValueError("there are no items to encode")
        kept = attachments() if callable(attachments) else attachments
        for name, data in (kept or {}).items():
            writer.attach(name, data)
    return skipped
