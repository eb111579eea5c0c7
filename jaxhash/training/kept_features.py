"""Features of a frozen backbone, computed once and kept with the run.

Another run on the same images, in its place (overwrite) or with `weights` naming it, reuses them:
training with other bits, methods and seeds then takes seconds.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors.numpy

from jaxhash import encoding, known_features, processes, runs
from jaxhash.config import Config
from jaxhash.data import Dataset, Images
from jaxhash.data.enlarged import Enlarged
from jaxhash.data.folders import shown
from jaxhash.encoding import Encoded
from jaxhash.models import Model
from jaxhash.spec import NO_HEAD, ModelSpec
from jaxhash.training import backbones
from jaxhash.training.backbones import Backbone
from jaxhash.training.onnx_backbone import OnnxBackbone
from search.files.atomic import replacing

CHUNK = 256


class Kept(NamedTuple):
    """Features float32 (m, d) of the rows int64 (m,) of a dataset that could be decoded.

    digests: uint8 (m, DIGEST_BYTES) of their files, or None where these are not known.
    """

    features: np.ndarray
    rows: np.ndarray
    digests: np.ndarray | None = None


class Eye(NamedTuple):
    """A backbone as a model without a head: what `encoding.batches` needs for features alone."""

    spec: ModelSpec
    variables: Mapping[str, Any]


# ---------------------------------------------------------------- computed


def compute(
    spec: ModelSpec,
    trunk: Mapping[str, Any],
    dataset: Dataset,
    *,
    max_undecodable: float,
    devices: Sequence[jax.Device] | None = None,
    on_images: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> tuple[Kept, list[tuple[str, str]]]:
    """The features of all images that can be decoded, and (path, reason) of the others.

    Raises:
        ValueError: more of them than that share cannot be decoded.
    """
    total, begun, seen = len(dataset), time.perf_counter(), 0

    def on_batch(images: int) -> None:
        nonlocal seen
        seen += images
        if on_images is not None:
            on_images(seen, total)

    kept, failed = _encode(spec, trunk, dataset, on_batch, devices=devices)
    paths = dataset.paths
    lost = [(shown(paths[row]) if paths else str(row), reason) for row, reason in failed]
    if len(lost) > max_undecodable * total or not len(kept.rows):
        examples = "".join(f"\n  {path}: {reason}" for path, reason in lost[:5])
        raise ValueError(
            f"{dataset.name}: {len(lost)} of {total} files cannot be decoded, more than the "
            f"share of {max_undecodable:g} allowed (max_undecodable); repair or remove them, for "
            f"example:{examples}"
        )
    say(f"features of {len(kept.rows):,} images in {time.perf_counter() - begun:.0f} s")
    return kept, lost


def _encode(
    spec: ModelSpec,
    trunk: Mapping[str, Any],
    dataset: Dataset,
    on_batch: Callable[[int], None],
    **options: Any,
) -> tuple[Kept, list[tuple[int, str]]]:
    features, rows = [], []
    failed: list[tuple[int, str]] = []
    images = dataset.items
    if isinstance(images, Images):
        images.keep_digests()
    for good, part in encoding.batches(
        Eye(spec.of_backbone(), {"params": {"trunk": trunk}}),
        images,
        features="float32",
        keep=("features",),
        on_undecodable=lambda row, reason: failed.append((row, reason)),
        **options,
    ):
        features.append(part.features)
        rows.append(good)
        on_batch(len(good))
    digests = images.digests if isinstance(images, Images) else dataset.digests
    whole = encoding.batch_for(spec, len(images)) == spec.batch
    if images.shape[1:] != spec.item_shape or not whole:
        digests = None  # encoding the files would not give these features to the last bit
    seen = np.concatenate(rows)
    return Kept(np.concatenate(features), seen, None if digests is None else digests[seen]), failed


def spec_of(backbone: Backbone | OnnxBackbone, **options: Any) -> ModelSpec:
    """The spec of a backbone that gives features alone; options: precision, mirror, shift."""
    return backbone.spec(**NO_HEAD, **({"precision": "float32"} | options))


def stand_in(backbone: Backbone | OnnxBackbone, images: Dataset) -> Dataset:
    """A dataset with features in place of its images, all 0 until they are computed."""
    items = np.broadcast_to(np.float32(0), (len(images), count(spec_of(backbone))))
    return dataclasses.replace(images, kind="features", items=items)


def count(spec: ModelSpec) -> int:
    """The length of a backbone's feature vectors."""
    if spec.onnx is not None:
        return spec.onnx.features
    module = spec.build()
    shape = jax.ShapeDtypeStruct((1, *spec.item_shape), np.float32)
    key = jax.random.key(0)
    outputs = jax.eval_shape(lambda items: module.init_with_output(key, items, train=False), shape)
    return outputs[0].features.shape[1]


# ---------------------------------------------------------------- kept


def places(config: Config, folder: Path | None) -> list[Path]:
    """The runs whose features may be taken: the one in its own folder, and that of `weights`."""
    return [Path(one) for one in (folder, config.weights) if one is not None]


def check_weights(config: Config) -> None:
    """Refuse weights that are no run whose features could be taken, or of a fine-tuned backbone.

    Raises:
        ValueError: the message says what to give.
    """
    if config.weights is not None and not (Path(config.weights) / runs.CONFIG).is_file():
        raise ValueError(
            f"weights is {config.weights}; on a backbone give the folder of another run, whose "
            "features are taken; the network's own weights are found"
        )
    if config.weights is not None and runs.load_config(config.weights).finetune_blocks:
        raise ValueError(
            f"weights is {config.weights}, whose network was fine-tuned, and here it stays as "
            "it was pretrained; give finetune_blocks too, or leave weights out"
        )


def are_kept(folder: str | Path) -> bool:
    """Whether the run in a folder keeps features."""
    return (Path(folder) / runs.FEATURES).is_file()


def find(key: str, places: Iterable[Path], name: str = runs.FEATURES) -> Kept | None:
    """The features that one of the runs keeps under this key; None where none does."""
    for place in places:
        # One that is damaged is computed anew.
        arrays = known_features.read(place / name, {"key": key})
        if arrays is not None:
            return Kept(**arrays)
    return None


def write(folder: Path, kept: Kept, key: str, backbone: str, name: str = runs.FEATURES) -> None:
    """Keep features in the folder of a run; backbone: see `known_features.fingerprint`."""
    arrays = {
        name: np.ascontiguousarray(array)
        for name, array in kept._asdict().items()
        if array is not None
    }
    about = {"key": key, "backbone": backbone, "sha256": known_features.checksum(arrays)}
    with replacing(folder / name) as file:
        file.write(safetensors.numpy.save(arrays, metadata=about))


def key(spec: ModelSpec, trunk: Mapping[str, Any], dataset: Dataset) -> str:
    """A hash of all that features depend on: the backbone, the views, and the images."""
    about = {
        "backbone": backbones.of_model(spec).fingerprint(trunk),
        "precision": spec.precision,
        "views": [spec.mirror, spec.shift],
        "images": _digest(dataset),
    }
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _digest(dataset: Dataset) -> str:
    """A hash of the images: of files their names, sizes and times; of arrays their contents."""
    digest = hashlib.sha256(str(dataset.items.shape).encode())
    if dataset.paths is not None:
        root = os.path.commonpath([os.path.dirname(os.path.abspath(one)) for one in dataset.paths])
        for path in dataset.paths:
            status = os.stat(path)
            digest.update(os.fsencode(os.path.relpath(path, root)))
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return digest.hexdigest()
    # What is enlarged follows from the small image, which is hashed far sooner.
    items = dataset.items.images if isinstance(dataset.items, Enlarged) else dataset.items
    for start in range(0, len(items), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(items)))
        digest.update(np.ascontiguousarray(items[rows]).tobytes())
    return digest.hexdigest()


# ---------------------------------------------------------------- encoded by a model


def of_model(folder: Path, model: Model, dataset: Dataset) -> Kept | None:
    """The features of these images that the run of a model keeps; None where it keeps none."""
    kept = None
    if are_kept(folder):
        trunk = model.variables["params"].get("trunk", {})
        kept = find(key(model.spec, trunk, dataset), [folder])
    processes.check_same({"state of the features in the run's folder": kept is None})
    return kept


def encoded(folder: Path, model: Model, dataset: Dataset, **options: Any) -> tuple[Encoded, Kept]:
    """Encode a run's images with its model, from the features that the run keeps.

    options: of `encoding.batches`, for images that have changed since, or whose features are gone.

    Returns:
        codes, float32 features, latents and logits of the rows that could be decoded, and those
        rows.
    """
    kept = of_model(folder, model, dataset)
    if kept is None:
        trunk = model.variables["params"].get("trunk", {})
        kept, _ = _encode(model.spec, trunk, dataset, lambda done: None, **options)
    head = head_of(model, kept.features.shape[1])
    return encoding.encode(head, kept.features, features="float32"), kept


def head_of(model: Model, features: int) -> Model:
    """The head of a model alone, which reads the backbone's `features` numbers of each image."""
    spec = dataclasses.replace(
        model.spec,
        network="features",
        item_shape=(features,),
        mean=(),
        std=(),
        mirror=False,
        shift=False,
        onnx=None,
    )
    params = {"head": model.variables["params"]["head"]}
    return Model(spec, dict(model.variables) | {"params": params})
