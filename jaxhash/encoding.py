"""Encode items with a model: codes, features and latents, batch by batch in constant memory."""

import contextlib
import functools
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxhash import nets, processes, sharding
from jaxhash.data import Images
from jaxhash.prefetch import ahead
from jaxhash.spec import ModelSpec
from jaxhash.views import views
from search.files.writing import Writer

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


class Encoded(NamedTuple):
    """Outputs of a network for n items.

    codes: uint8 (n, ceil(bits / 8)), most significant bit first, pad bits zero.
    features: float16 or float32 (n, D), for re-ranking: the network's; or, of a head that was
    trained on a frozen backbone, the latent minus the threshold, scaled to length 1, because the
    backbone's features have not learned the classes.
    latent: float32 (n, bits). logits: float32 (n, classes), or None without a classifier. NumPy
    arrays; None where not asked for.
    """

    codes: Any
    features: Any
    latent: Any
    logits: Any


def pack_bits(bits: jax.Array) -> jax.Array:
    """Truth values (n, b) -> codes uint8 (n, ceil(b / 8)), as `search.pack` has them; for jit.

    Example:
        >>> pack_bits(jnp.array([[True, False, False, True, False, False, False, False, True]]))
        Array([[144, 128]], dtype=uint8)
    """
    n, b = bits.shape
    padded = jnp.pad(bits.astype(bool), ((0, 0), (0, -b % 8))).reshape(n, -(-b // 8), 8)
    weights = jnp.array([128, 64, 32, 16, 8, 4, 2, 1], jnp.uint8)
    return jnp.where(padded, weights[None, None], jnp.uint8(0)).sum(axis=2, dtype=jnp.uint8)


def unit(rows: jax.Array) -> jax.Array:
    """Each row divided by its length.

    Example:
        >>> unit(jnp.array([[3.0, 0.0]])).tolist()
        [[1.0, 0.0]]
    """
    length = jnp.sqrt(jnp.square(rows).sum(axis=1, keepdims=True))
    return rows / jnp.maximum(length, 1e-12)


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
        batch_size = min(model.spec.batch, 1 << max(len(chosen) - 1, 0).bit_length())
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
    step = _compiled(model.spec, features, tuple(keep), mesh)
    variables = sharding.everywhere(dict(model.variables), mesh)
    parts = sharding.split(mesh)

    def read(start: int) -> tuple[np.ndarray, jax.Array, Failed]:
        good, part, failed = _read(items, chosen[start : start + size], on_undecodable is not None)
        if len(part) < size:
            # Filled up: another shape would be compiled anew.
            filled = np.zeros((size, *part.shape[1:]), part.dtype)
            filled[: len(part)] = part
            part = filled
        return good, jax.device_put(part, parts), failed

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
        for good, part, failed in ready:
            for row, reason in failed:
                assert on_undecodable is not None
                on_undecodable(row, reason)
            # Started before the last one is fetched, so that the device has no gap.
            started = (good, step(variables, part))
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


def _read(items: Any, rows: np.ndarray, leave_out: bool) -> tuple[np.ndarray, np.ndarray, Failed]:
    if not leave_out or not isinstance(items, Images):
        return rows, np.ascontiguousarray(items[rows]), []
    pixels, failed = items.read(rows)
    if not failed:
        return rows, pixels, []
    good = ~np.isin(rows, [row for row, _ in failed])
    return rows[good], pixels[good], failed


@functools.lru_cache(maxsize=8)
def _compiled(
    spec: ModelSpec, features: str, keep: tuple[str, ...], mesh: Mesh
) -> Callable[[Mapping[str, Any], jax.Array], Encoded]:
    for name in keep:
        if name not in Encoded._fields:
            raise ValueError(f"keep names {name!r}; choose among {', '.join(Encoded._fields)}")
    module = spec.build()

    def seen(items: jax.Array) -> list[tuple[float, jax.Array]]:
        return views(spec.prepare(items), mirror=spec.mirror, shift=spec.shift)

    def chosen(outputs: Any) -> Encoded:
        compared = outputs.features
        if spec.hidden is not None:
            compared = unit(outputs.latent - spec.threshold)
        return Encoded(
            codes=pack_bits(outputs.latent > spec.threshold) if "codes" in keep else None,
            features=compared.astype(features) if "features" in keep else None,
            latent=outputs.latent if "latent" in keep else None,
            logits=outputs.logits if "logits" in keep else None,
        )

    def finish(variables: Mapping[str, Any], found: jax.Array) -> Encoded:
        """The head on a backbone's features."""
        if spec.hidden is None and tuple(keep) == ("features",):
            return Encoded(None, found.astype(features), None, None)
        return chosen(nets.apply_head(module, variables, found))

    def encode_batch(variables: Mapping[str, Any], items: jax.Array) -> Encoded:
        if spec.hidden is None and tuple(keep) != ("features",):
            each = [
                (weight, nets.apply(module, variables, view, train=False)[0])
                for weight, view in seen(items)
            ]
            return chosen(_mean(each))
        looks = [
            (weight, nets.features_of(module, variables, view)) for weight, view in seen(items)
        ]
        return finish(variables, _mean(looks))

    if spec.onnx is None:
        return jax.jit(encode_batch, out_shardings=sharding.split(mesh))
    run, see, compiled = spec.onnx.run, jax.jit(seen), jax.jit(finish)

    # Not one compiled program: onnxruntime runs between the two, with its own threads and memory.
    def look_and_finish(variables: Mapping[str, Any], items: jax.Array) -> Encoded:
        looks = [(weight, run(np.asarray(view))) for weight, view in see(items)]
        return compiled(variables, _mean(looks))

    return look_and_finish


def _mean(each: list[tuple[float, Any]]) -> Any:
    """The weighted mean of the network's outputs for the views."""

    def mean(*ones: Any) -> Any:
        return sum(weight * one for (weight, _), one in zip(each, ones, strict=True))

    return jax.tree.map(mean, *(outputs for _, outputs in each))


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
