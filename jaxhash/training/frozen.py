"""Methods without labels: a hash layer fitted to the features of a frozen backbone."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxhash import known_features, models, runs
from jaxhash.config import Config
from jaxhash.data import Dataset, summary
from jaxhash.models import Model
from jaxhash.spec import ModelSpec
from jaxhash.training import backbones, kept_features, run_data
from jaxhash.training.backbones import Backbone
from jaxhash.training.onnx_backbone import OnnxBackbone
from jaxhash.unlabelled import FITS, Fit, Layer

TAKEN = frozenset(
    (
        *("data", "data_dir", "download", "max_undecodable", "method", "network", "bits"),
        *("network_options", "weights", "options", "mirror", "shift", "seed", "precision"),
    )
)
"""Fields of a configuration that act here."""
OF_LABELS = frozenset(("protocol", "protocol_options", "validation"))
"""Those that act where the images have labels, which decide the queries when it is evaluated."""


class Plan(NamedTuple):
    """A configuration settled. rows: of the images to learn from. spec: of the model to be.

    unlabelled: images to learn from that stand beside those with labels.
    """

    config: Config
    dataset: Dataset
    fit: Fit
    options: dict[str, Any]
    backbone: Backbone | OnnxBackbone
    spec: ModelSpec
    rows: np.ndarray
    unlabelled: Dataset | None = None

    def __str__(self) -> str:
        """The run in a line, for a person."""
        alone = f"{len(self.rows):,} images to learn from, without labels"
        if self.unlabelled is not None:
            alone = f"{len(self.rows):,} images with labels and {len(self.unlabelled):,} without"
        return (
            f"{self.fit.name}, {self.config.bits} bits, on {self.backbone.network} as it is; "
            f"{self.dataset.name}, {alone}"
        )


# ---------------------------------------------------------------- a run


def settle(
    config: Config,
    dataset: Dataset | None = None,
    *,
    resumed: bool = False,
    folder: Path | None = None,
) -> Plan:
    """Load the data and settle what is to be done, as `planning.settle` does for training.

    Raises:
        ValueError: something in the configuration does not exist, does not fit the data, or would
            do nothing; the message names it.
    """
    assert config.method is not None
    fit = FITS[config.method]
    options = fit.options(**config.options)
    if jax.process_count() > 1:
        raise ValueError(f"method {fit.name!r} is learned by one process alone")
    kept_features.check_weights(config)
    backbone = backbones.choose(config)
    given = dataset is not None
    if dataset is None:
        dataset = run_data.load_for_backbone(config, backbone, folder)
    if dataset.kind != "images":
        raise ValueError(
            f"{dataset.name} holds features, and method {fit.name!r} learns from images; give "
            "images"
        )
    if not resumed:
        _check_idle(config, fit, labelled=dataset.labels is not None)
    rows = np.arange(len(dataset))
    if dataset.labels is not None:
        rows = run_data.split_data(config, dataset).train
    unlabelled = None if given else run_data.load_unlabelled(config, backbone.side)
    fit.check(len(rows) + (0 if unlabelled is None else len(unlabelled)), config.bits)
    spec = backbone.spec(
        method=fit.name,
        bits=config.bits,
        classes=dataset.classes,
        activation="linear",
        classifier="none",
        threshold=0.0,
        precision=config.precision,
        mirror=config.mirror,
        shift=config.shift,
    )
    return Plan(config, dataset, fit, options, backbone, spec, rows, unlabelled)


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
    plan = settle(config, dataset, resumed=resume, folder=folder)
    say(str(plan))
    nobody = np.empty(0, np.int64)
    for line in summary.lines(dataclasses.replace(plan.dataset, skipped=[]), plan.rows, nobody):
        say(line)
    trunk = plan.backbone.params()
    if folder is not None and resume:
        changed = runs.differences(config, runs.load_config(folder))
        if changed:
            raise ValueError(
                f"{folder} was started with another {', '.join(changed)}; resume it with the same "
                "options, or start a new run in another folder"
            )

    # Looked for before the run in the folder is replaced.
    parts = {runs.FEATURES: plan.dataset}
    if plan.unlabelled is not None:
        parts[runs.UNLABELLED] = plan.unlabelled
    keys = {name: kept_features.key(plan.spec, trunk, part) for name, part in parts.items()}
    places = kept_features.places(config, folder)
    known = {name: kept_features.find(key, places, name) for name, key in keys.items()}
    if folder is not None and not resume:
        runs.create(folder, config, plan=_about(plan, trunk), overwrite=overwrite)
    with runs.undone_if_refused(None if resume else folder):
        features, skipped = {}, []
        for name, part in parts.items():
            kept = known[name]
            if kept is not None:
                say(f"features of {len(kept.rows):,} images were kept, and are taken")
            else:
                kept, failed = kept_features.compute(
                    plan.spec,
                    trunk,
                    part,
                    max_undecodable=config.max_undecodable,
                    devices=devices,
                    on_images=on_images,
                    say=say,
                )
                skipped += [*part.skipped, *failed]
            features[name] = kept
            if folder is not None:
                backbone = known_features.fingerprint(plan.spec, trunk)
                kept_features.write(folder, kept, keys[name], backbone, name)
        if skipped:
            where = "" if folder is None else f": see {folder}/{runs.SKIPPED}"
            say(f"left out: {summary.left_out(skipped)}{where}")
        if folder is not None:
            runs.write_skipped(folder, skipped)

        kept = features[runs.FEATURES]
        learned = np.isin(kept.rows, plan.rows)
        learn_from, options = kept.features[learned], dict(plan.options)
        if plan.unlabelled is not None:
            labels, more = _labels(plan, kept.rows[learned]), features[runs.UNLABELLED].features
            if plan.fit.takes_labels and labels is not None:
                options["labels"] = np.concatenate([labels, np.full(len(more), -1)])
            learn_from = np.concatenate([learn_from, more])
        plan.fit.check(len(learn_from), config.bits)
        begun = time.perf_counter()
        layer = plan.fit.learn(learn_from, config.bits, seed=config.seed, **options)
        say(f"{plan.fit.name} learned in {time.perf_counter() - begun:.1f} s")
    model = Model(plan.spec, _variables(trunk, layer))
    if folder is not None:
        models.save(model, folder)
        model = dataclasses.replace(model, run=folder.absolute())
    return model


def _labels(plan: Plan, rows: np.ndarray) -> np.ndarray | None:
    """Class numbers of some images; None where an image can have several classes."""
    labels = plan.dataset.labels
    return None if labels is None or labels.ndim > 1 else labels[rows]


def _about(plan: Plan, trunk: dict[str, Any]) -> dict[str, Any]:
    """What the run came to, for plan.json."""
    fingerprint = {"fingerprint": plan.backbone.fingerprint(trunk)}
    return {
        "options": plan.options,
        "images": len(plan.rows),
        "backbone": plan.backbone.about() | fingerprint,
    }


def _variables(trunk: dict[str, Any], layer: Layer) -> dict[str, Any]:
    latent = {"kernel": layer.kernel, "bias": layer.bias}
    return {"params": {"trunk": trunk, "head": {"latent": latent}}}
