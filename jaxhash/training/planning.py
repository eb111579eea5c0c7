"""Resolve a `Config` against a dataset: every number of the run, before anything is computed."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxhash import nets, option_checks
from jaxhash.config import Config, row_of
from jaxhash.data import Dataset, Split
from jaxhash.method import METHODS, Method
from jaxhash.models import Model
from jaxhash.nets import NETWORKS
from jaxhash.recipes import Recipe, for_finetuning, for_head, from_scratch
from jaxhash.spec import ModelSpec
from jaxhash.training import (
    augment,
    backbones,
    feeding,
    finetuning,
    kept_features,
    pretrained,
    transfer,
)
from jaxhash.training.backbones import Backbone
from jaxhash.training.defaults import DEFAULT_NETWORKS, HIDDEN, with_defaults
from jaxhash.training.feeding import Rows
from jaxhash.training.metrics_log import tensorboard_writer
from jaxhash.training.plan import Plan
from jaxhash.training.run_data import (
    channel_statistics,
    load_data,
    load_for_backbone,
    split_data,
)
from jaxhash.unlabelled import FITS, Fit

ALEXNETS = {"alexnet", "caffenet"}


def settle(
    config: Config,
    dataset: Dataset | None = None,
    *,
    resumed: bool = False,
    folder: Path | None = None,
) -> Plan:
    """Load the data, split it, and settle every number of the run.

    resumed: the run was begun before, so options without effect are not refused. folder: of the
    run; where features of the images are kept there, files are not decoded.

    Raises:
        ValueError: something in the configuration does not exist, does not fit the data, or would
            do nothing; the message names it and what there is.

    Example:
        >>> plan = settle(Config(network="dsh", epochs=2))
        >>> plan.recipe.batch_size, plan.steps
        (128, 20)
    """
    if not resumed or config.method is None:
        config = with_defaults(config, dataset)
    assert config.method is not None
    method = row_of(METHODS | FITS, "method", config.method)
    if isinstance(method, Fit):
        raise ValueError(f"method {method.name!r} learns without steps, on a frozen network")
    if config.network is not None and not backbones.is_backbone(config.network):
        row_of(NETWORKS, "network", config.network)
    finetuning.check(config)
    eye = backbones.choose(config) if backbones.is_backbone(config.network) else None
    if dataset is None and eye is not None and not config.finetune_blocks:
        dataset = load_for_backbone(config, eye, folder)
    elif dataset is None:
        dataset = load_data(config, side=None if eye is None else eye.side)
    if dataset.labels is None:
        raise ValueError(
            f"{dataset.name} has no labels, and method {method.name!r} needs them; choose one of "
            f"{', '.join(FITS)}, which do without"
        )
    if len(dataset.classes) < 2:
        raise ValueError(
            f"{dataset.name} has one class alone, {', '.join(dataset.classes)}; training needs two "
            "or more, and a folder of images one sub-folder for each"
        )
    tuned = eye if config.finetune_blocks and isinstance(eye, Backbone) else None
    backbone = eye if tuned is None else None
    images = None
    if eye is not None:
        option_checks.check_on_backbone(config, eye.network, dataset)
    if backbone is not None:
        kept_features.check_weights(config)
        images, dataset = dataset, kept_features.stand_in(backbone, dataset)
    elif tuned is None and (
        config.network_options or (config.hidden is not None and config.network != "features")
    ):
        name = "network_options" if config.hidden is None else "hidden"
        raise ValueError(
            f"{name} is for a head on features, and the network is trained here; leave it out, "
            f"or give network features, {', '.join(backbones.BACKBONES)} or onnx:FILE"
        )
    network = config.network or DEFAULT_NETWORKS[dataset.kind]
    if backbone is not None:
        network = "features"
    if NETWORKS[network].takes != dataset.kind:
        fitting = [row.name for row in NETWORKS.values() if row.takes == dataset.kind]
        raise ValueError(
            f"network {network!r} takes {NETWORKS[network].takes}, and {dataset.name} holds "
            f"{dataset.kind}; choose one of {', '.join(fitting)}"
        )
    split = split_data(config, dataset)
    assert dataset.labels is not None
    labels = dataset.labels[split.train]
    published = config.recipe == "published" or (
        config.recipe == "auto" and is_own(network, method)
    )
    head = eye is not None or config.hidden is not None
    base = _base(config, method, published, dataset, labels, head=head)
    recipe = config.recipe_over(base)
    options = method.options(recipe, **config.options)
    if not resumed:
        option_checks.check_data(config, dataset)
        option_checks.check_recipe(config, base, recipe, method)
        option_checks.check_options(config, method, options, labels)
    source = None
    if backbone is None and config.weights is not None and Path(config.weights).is_dir():
        channels = dataset.items.shape[-1] if tuned is None else len(tuned.mean)
        source = transfer.source(config.weights, network, channels)
    spec = _spec(config, method, network, dataset, split, source, tuned)
    if head:
        hidden = HIDDEN if config.hidden is None else config.hidden
        spec = dataclasses.replace(spec, hidden=hidden)
    if head and tuned is None:  # it reads features, of which there are no views
        spec = dataclasses.replace(spec, mirror=False, shift=False)
    key = jax.random.key(0)
    shapes = jax.eval_shape(lambda: nets.init(spec.build(), key, (1, *spec.item_shape)))
    _check(config, recipe, spec, source, shapes)
    trunk_rates = None
    if tuned is not None:
        trunk_rates = finetuning.rates(shapes["params"]["trunk"], config.finetune_blocks)
    rows = _rows(config, method, labels, recipe.batch_size)
    size = (recipe.batch_size, *labels.shape[1:])
    method.check(
        options,
        labels=jax.ShapeDtypeStruct(size, labels.dtype),
        bits=config.bits,
        classes=len(dataset.classes),
    )
    steps = recipe.total_steps(len(labels))
    epoch_steps = max(len(labels) // recipe.batch_size, 1)
    every = config.eval_every or max(steps / epoch_steps / 10, 1)
    eval_steps = max(round(every * epoch_steps), 1)
    log_steps = min(config.log_every, eval_steps)
    return Plan(
        config=config,
        dataset=dataset,
        split=split,
        labels=labels,
        rows=rows,
        method=method,
        recipe=recipe,
        options=options,
        spec=spec,
        source=source,
        published=published,
        steps=steps,
        epoch_steps=epoch_steps,
        log_steps=log_steps,
        eval_steps=eval_steps // log_steps * log_steps,
        backbone=backbone,
        images=images,
        tuned=tuned,
        trunk_rates=trunk_rates,
    )


def is_own(network: str, method: Method) -> bool:
    """Whether a network is the one that a method was published on; both AlexNets count as one.

    Example:
        >>> is_own("caffenet", METHODS["dlbhc"])
        True
    """
    return network == method.network or {network, method.network} <= ALEXNETS


def _base(
    config: Config,
    method: Method,
    published: bool,
    dataset: Dataset,
    labels: np.ndarray,
    *,
    head: bool,
) -> Recipe:
    """The recipe that the configuration's own numbers override."""
    scratch = for_head if head else from_scratch
    scratch = for_finetuning if config.finetune_blocks else scratch
    recipe = method.recipe if published else scratch(len(labels))
    if method.batches != "shuffled":
        recipe = dataclasses.replace(recipe, batch_size=method.recipe.batch_size)
    if dataset.kind == "features":
        recipe = dataclasses.replace(recipe, augment="none")
    if config.batch_size is None:
        size = min(recipe.batch_size, len(labels))
        if config.batches == "balanced":
            classes = len(np.unique(labels))
            size = max(size // classes, 1) * classes
        if method.batches == "class-pair":
            size = max(size // 3, 1) * 3  # of triplets
        recipe = dataclasses.replace(recipe, batch_size=size)
    return recipe


def _rows(config: Config, method: Method, labels: np.ndarray, batch_size: int) -> Rows:
    batches = method.batches if config.batches == "auto" else config.batches
    if method.batches != "shuffled" and batches != method.batches:
        raise ValueError(
            f"batches is {batches!r}, and {method.name} learns from triplets that its own batches "
            "are made of; leave batches at auto"
        )
    if batches == "class-pair":
        return feeding.class_pairs(config.seed, labels, batch_size)
    if batches == "balanced":
        return feeding.balanced(config.seed, labels, batch_size)
    return feeding.shuffled(config.seed, len(labels), batch_size)


def _check(
    config: Config,
    recipe: Recipe,
    spec: ModelSpec,
    source: Model | None,
    shapes: Mapping[str, Any],
) -> None:
    """Refuse now what would otherwise fail in the middle of the preparations."""
    if config.tensorboard:
        tensorboard_writer()
    key = jax.random.key(0)
    items = jax.ShapeDtypeStruct((recipe.batch_size, *spec.item_shape), np.float32)
    jax.eval_shape(lambda items: augment.augment(key, items, recipe.augment), items)
    on_backbone = spec.hidden is not None
    for name in ("mirror", "shift"):
        if getattr(config, name) and spec.takes != "images" and not on_backbone:
            raise ValueError(f"{name} is set, and features are no images; leave it out")
    if source is not None:
        transfer.with_trunk(source, shapes)
    elif not on_backbone and config.weights is not None and spec.network not in pretrained.MAPS:
        raise ValueError(
            f"weights are given, and network {spec.network!r} has no map for them; choose "
            f"{' or '.join(pretrained.MAPS)}, or give the folder of a finished run"
        )


def _spec(
    config: Config,
    method: Method,
    network: str,
    dataset: Dataset,
    split: Split,
    source: Model | None,
    tuned: Backbone | None,
) -> ModelSpec:
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    shape = tuple(dataset.items.shape[1:])
    if tuned is not None:
        mean, std = tuned.mean, tuned.std
        shape = (tuned.side, tuned.side, len(mean))
    elif source is not None:
        mean, std = source.spec.mean, source.spec.std
    elif dataset.kind == "images" and config.weights is not None:
        mean, std = pretrained.IMAGENET_MEAN, pretrained.IMAGENET_STD
        if dataset.items.shape[3] == 1:
            mean, std = (float(np.mean(mean)),), (float(np.mean(std)),)
    elif dataset.kind == "images":
        mean, std = channel_statistics(dataset.items, split.train)
    return ModelSpec(
        network=network,
        method=method.name,
        bits=config.bits,
        classes=dataset.classes,
        item_shape=shape,
        mean=mean,
        std=std,
        activation=method.activation,
        classifier=method.classifier,
        threshold=method.threshold,
        precision=config.precision,
        mirror=config.mirror,
        shift=config.shift,
    )
