"""Methods without labels: features of a frozen backbone, and a hash layer fitted to them.

The features of all images are computed once and kept with the run. Another run on the same images,
in its place (overwrite) or with `weights` naming it, takes them: other bits, methods and seeds are
then a matter of seconds.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from jaxhash import encoding, models, runs
from jaxhash.config import Config
from jaxhash.data import Dataset
from jaxhash.data.folders import shown
from jaxhash.encoding import Encoded
from jaxhash.models import Model
from jaxhash.spec import ModelSpec
from jaxhash.training import backbones, planning
from jaxhash.training.backbones import BACKBONES, Backbone
from jaxhash.unlabelled import FITS, Fit, Layer
from search.files.atomic import replacing

TAKEN = frozenset(
    (
        *("data", "data_dir", "download", "max_undecodable", "method", "network", "bits"),
        *("weights", "options", "mirror", "shift", "seed", "precision"),
    )
)
"""Fields of a configuration that act here."""
OF_LABELS = frozenset(("protocol", "protocol_options", "validation"))
"""Those that act where the images have labels, which decide the queries when it is evaluated."""
CHUNK = 256


class Plan(NamedTuple):
    """A configuration settled. rows: of the images to learn from. spec: of the model to be."""

    config: Config
    dataset: Dataset
    fit: Fit
    options: dict[str, Any]
    backbone: Backbone
    spec: ModelSpec
    rows: np.ndarray

    def __str__(self) -> str:
        """The run in a line, for a person."""
        return (
            f"{self.fit.name}, {self.config.bits} bits, on {self.backbone.network} as it is; "
            f"{self.dataset.name}, {len(self.rows):,} images to learn from, without labels"
        )


class Kept(NamedTuple):
    """Features float32 (m, d) of the rows int64 (m,) of a dataset that could be decoded."""

    features: np.ndarray
    rows: np.ndarray


# ---------------------------------------------------------------- a run


def settle(config: Config, dataset: Dataset | None = None, *, resumed: bool = False) -> Plan:
    """Load the data and settle what is to be done, as `planning.settle` does for training.

    Raises:
        ValueError: something in the configuration does not exist, does not fit the data, or would
            do nothing; the message names it.
    """
    fit = FITS[config.method]
    options = fit.options(**config.options)
    network = config.network or backbones.DEFAULT
    if network not in BACKBONES:
        raise ValueError(
            f"network is {network!r}, and method {fit.name!r} learns on a network that is used as "
            f"it is; choose one of {', '.join(BACKBONES)}"
        )
    if jax.process_count() > 1:
        raise ValueError(f"method {fit.name!r} is learned by one process alone")
    if config.weights is not None and not (Path(config.weights) / runs.CONFIG).is_file():
        raise ValueError(
            f"weights is {config.weights}; for method {fit.name!r} give the folder of another run "
            "without labels, whose features are taken; the network's own weights are found"
        )
    if dataset is None:
        dataset = planning.load_data(config)
    if dataset.kind != "images":
        raise ValueError(
            f"{dataset.name} holds features, and method {fit.name!r} learns from images; give "
            "images"
        )
    if not resumed:
        _check_idle(config, fit, labelled=dataset.labels is not None)
    rows = np.arange(len(dataset))
    if dataset.labels is not None:
        rows = planning.split_data(config, dataset).train
    fit.check(len(rows), config.bits)
    backbone = BACKBONES[network]
    spec = backbone.spec(
        fit.name,
        config.bits,
        dataset.classes,
        precision=config.precision,
        mirror=config.mirror,
        shift=config.shift,
    )
    return Plan(config, dataset, fit, options, backbone, spec, rows)


def _check_idle(config: Config, fit: Fit, *, labelled: bool) -> None:
    for field in dataclasses.fields(Config):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if getattr(config, field.name) == default or field.name in TAKEN:
            continue
        if field.name not in OF_LABELS:
            reason = f"method {fit.name!r} is fitted in one go, on a network that is used as it is"
        elif not labelled:
            reason = "the images have no labels"
        else:
            continue
        raise ValueError(f"{field.name} is given, and {reason}; leave it out")


def train(
    config: Config,
    folder: Path | str | None,
    *,
    dataset: Dataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    devices: Sequence[jax.Device] | None = None,
    on_images: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Model:
    """Learn codes without labels and leave a run directory behind, as `loop.train` does.

    on_images: called with the images encoded and their number. The other arguments are those of
    `loop.train`.

    Raises:
        ValueError: the configuration or the data cannot be used; the message says why.
        ModuleNotFoundError: the backbone's weights are not installed; the message names them.
        FileExistsError: the folder holds a run, and neither resume nor overwrite was given.
    """
    if folder is None and (resume or overwrite):
        raise ValueError("resume and overwrite need a folder; give one")
    folder = None if folder is None else Path(folder)
    resume = resume and folder is not None and (folder / runs.CONFIG).is_file()
    if folder is not None and not resume:
        runs.check_free(folder, overwrite=overwrite)
    plan = settle(config, dataset, resumed=resume)
    say(str(plan))
    trunk = plan.backbone.params()
    if folder is not None and resume:
        changed = runs.differences(config, runs.load_config(folder))
        if changed:
            raise ValueError(
                f"{folder} was started with another {', '.join(changed)}; resume it with the same "
                "options, or start a new run in another folder"
            )

    # Looked for before the run in the folder is replaced.
    key = _key(plan.spec, trunk, plan.dataset)
    places = [] if folder is None else [folder]
    kept = find(key, [*places, *([] if config.weights is None else [Path(config.weights)])])
    if folder is not None and not resume:
        runs.create(folder, config, plan=_about(plan, trunk), overwrite=overwrite)
    if kept is not None:
        say(f"features of {len(kept.rows):,} images were kept, and are taken")
    else:
        kept = _compute(plan, trunk, devices, on_images, say, folder)
    if folder is not None:
        _write(folder / runs.FEATURES, kept, key)

    learn_from = kept.features[np.isin(kept.rows, plan.rows)]
    plan.fit.check(len(learn_from), config.bits)
    begun = time.perf_counter()
    layer = plan.fit.learn(learn_from, config.bits, seed=config.seed, **plan.options)
    say(f"{plan.fit.name} learned in {time.perf_counter() - begun:.1f} s")
    model = Model(plan.spec, _variables(trunk, layer))
    if folder is not None:
        models.save(model, folder)
    return model


def _about(plan: Plan, trunk: dict[str, Any]) -> dict[str, Any]:
    """The numbers of the run, for plan.json."""
    about = dataclasses.asdict(plan.backbone)
    del about["convert"]
    return {
        "options": plan.options,
        "images": len(plan.rows),
        "backbone": about | {"fingerprint": plan.backbone.fingerprint(trunk)},
    }


def _variables(trunk: dict[str, Any], layer: Layer) -> dict[str, Any]:
    latent = {"kernel": layer.kernel, "bias": layer.bias}
    return {"params": {"trunk": trunk, "head": {"latent": latent}}}


# ---------------------------------------------------------------- features


def encoded(folder: Path, model: Model, dataset: Dataset, **options: Any) -> tuple[Encoded, Kept]:
    """Codes and latents of a run's images, from the features that the run keeps.

    options: of `encoding.batches`, for images that have changed since, or whose features are gone.

    Returns:
        codes, float32 features and latents of the rows that could be decoded, and those rows.
    """
    trunk, head = (model.variables["params"][name] for name in ("trunk", "head"))
    kept = find(_key(model.spec, trunk, dataset), [folder])
    if kept is None:
        kept, _ = _encode(model, dataset, lambda done: None, **options)
    layer = Layer(head["latent"]["kernel"], head["latent"]["bias"])
    latent = layer.latent(kept.features)
    codes = np.packbits(latent > model.spec.threshold, axis=1)
    return Encoded(codes, kept.features, latent, None), kept


def _compute(
    plan: Plan,
    trunk: dict[str, Any],
    devices: Sequence[jax.Device] | None,
    on_images: Callable[[int, int], None] | None,
    say: Callable[[str], None],
    folder: Path | None,
) -> Kept:
    """The features of all images of the dataset; those that cannot be decoded are left out."""
    total, begun = len(plan.dataset), time.perf_counter()
    seen = 0

    def count(images: int) -> None:
        nonlocal seen
        seen += images
        if on_images is not None:
            on_images(seen, total)

    width = plan.spec.bits
    no_head = Layer(
        np.zeros((_features_of(plan.spec), width), np.float32), np.zeros(width, np.float32)
    )
    model = Model(plan.spec, _variables(trunk, no_head))
    kept, failed = _encode(model, plan.dataset, count, devices=devices)
    paths = plan.dataset.paths
    lost = [(shown(paths[row]) if paths else str(row), reason) for row, reason in failed]
    if len(lost) > plan.config.max_undecodable * total or not len(kept.rows):
        examples = "".join(f"\n  {path}: {reason}" for path, reason in lost[:5])
        raise ValueError(
            f"{plan.dataset.name}: {len(lost)} of {total} files cannot be decoded, more than the "
            f"share of {plan.config.max_undecodable:g} allowed (max_undecodable); repair or remove "
            f"them, for example:{examples}"
        )
    skipped = [*plan.dataset.skipped, *lost]
    if skipped:
        where = "" if folder is None else f": see {folder}/{runs.SKIPPED}"
        say(f"{len(skipped)} files could not be decoded{where}")
    if folder is not None:
        runs.write_skipped(folder, skipped)
    seconds = time.perf_counter() - begun
    say(f"features of {len(kept.rows):,} images in {seconds:.0f} s")
    return kept


def _features_of(spec: ModelSpec) -> int:
    """Dimensions of the features that the backbone gives."""
    module = spec.build()
    shape = jax.ShapeDtypeStruct((1, *spec.item_shape), np.float32)
    key = jax.random.key(0)
    outputs = jax.eval_shape(lambda items: module.init_with_output(key, items, train=False), shape)
    return outputs[0].features.shape[1]


def _encode(
    model: Model, dataset: Dataset, on_batch: Callable[[int], None], **options: Any
) -> tuple[Kept, list[tuple[int, str]]]:
    features, rows = [], []
    failed: list[tuple[int, str]] = []
    for good, part in encoding.batches(
        model,
        dataset.items,
        features="float32",
        keep=("features",),
        on_undecodable=lambda row, reason: failed.append((row, reason)),
        **options,
    ):
        features.append(part.features)
        rows.append(good)
        on_batch(len(good))
    return Kept(np.concatenate(features), np.concatenate(rows)), failed


def find(key: str, places: Iterable[Path]) -> Kept | None:
    """The features that one of the runs keeps under this key; None where none does."""
    for place in places:
        path = place / runs.FEATURES
        if not path.is_file():
            continue
        try:
            with safetensors.safe_open(path, "numpy") as file:
                if (file.metadata() or {}).get("key") == key:
                    return Kept(file.get_tensor("features"), file.get_tensor("rows"))
        except (safetensors.SafetensorError, OSError):
            continue  # damaged: computed anew
    return None


def _write(path: Path, kept: Kept, key: str) -> None:
    arrays = {name: np.ascontiguousarray(array) for name, array in kept._asdict().items()}
    with replacing(path) as file:
        file.write(safetensors.numpy.save(arrays, metadata={"key": key}))


def _key(spec: ModelSpec, trunk: Any, dataset: Dataset) -> str:
    """What features depend on, as a short name: the backbone, the views, and the images."""
    about = {
        "backbone": BACKBONES[spec.network].fingerprint(trunk),
        "precision": spec.precision,
        "views": [spec.mirror, spec.shift],
        "images": _digest(dataset),
    }
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _digest(dataset: Dataset) -> str:
    """Of files their names, sizes and times; of arrays all that is in them."""
    digest = hashlib.sha256(str(dataset.items.shape).encode())
    if dataset.paths is not None:
        root = os.path.commonpath([os.path.dirname(os.path.abspath(one)) for one in dataset.paths])
        for path in dataset.paths:
            status = os.stat(path)
            digest.update(os.fsencode(os.path.relpath(path, root)))
            digest.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return digest.hexdigest()
    for start in range(0, len(dataset), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(dataset)))
        digest.update(np.ascontiguousarray(dataset.items[rows]).tobytes())
    return digest.hexdigest()
