"""Refuse options that would have no effect, or a harmful one, with the reason and what to do.

Only options given now are checked: a resumed run keeps those that it was begun with.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from jaxhash.config import Config
from jaxhash.data import EMBEDDED, Dataset, prepared
from jaxhash.recipes import Recipe

if TYPE_CHECKING:  # a query asks for `check_place` alone, and can do without the losses
    from jaxhash.method import Method

_OF_SCHEDULES = {
    "drops": ("step",),
    "drop_factor": ("step",),
    "warmup": ("cosine", "one-cycle"),
    "final_rate": ("cosine", "one-cycle"),
}


def check_place(data: str, *, data_dir: str | None, download: bool = False) -> None:
    """Refuse data_dir and download for data that is not looked up by name.

    Raises:
        ValueError: the message names the option.

    Example:
        >>> check_place("mnist", data_dir="datasets")
    """
    if data in EMBEDDED:
        what = f"{data} come with an installed package"
    elif prepared.parse_name(data) is None and Path(data).expanduser().exists():
        what = f"{data} is a path"
    else:
        return
    for name, given in (("data_dir", data_dir is not None), ("download", download)):
        if given:
            raise ValueError(
                f"{name} is for datasets that are known by a name, and {what}; leave it out"
            )


def check_data(config: Config, dataset: Dataset) -> None:
    """Refuse options that are meant for another kind of data.

    Raises:
        ValueError: the message names the field.
    """
    check_place(config.data, data_dir=config.data_dir, download=config.download)
    if config.max_undecodable != Config.max_undecodable and dataset.paths is None:
        raise ValueError(
            "max_undecodable is for folders of image files, and "
            f"{dataset.name} holds none; leave it out"
        )
    if config.image_size is not None and dataset.kind == "features":
        raise ValueError(f"image_size is given, and {dataset.name} holds features; leave it out")
    if config.resident == "device" and jax.process_count() > 1:
        raise ValueError(
            "resident is 'device', and several processes always stream the images; leave it out"
        )


def check_on_backbone(config: Config, network: str, dataset: Dataset) -> None:
    """Refuse options about images that a head on a backbone has no use for.

    Raises:
        ValueError: the message names the field.
    """
    if dataset.kind != "images":
        raise ValueError(
            f"network {network!r} takes images, and {dataset.name} holds features; leave network "
            "out"
        )
    if config.image_size is not None:
        raise ValueError(
            f"image_size is given, and network {network!r} has its own; leave it out, or choose "
            "another network"
        )
    if config.augment not in (None, "none") and not config.finetune_blocks:
        raise ValueError(
            f"augment is given, and network {network!r} sees each image once; leave it out, give "
            "finetune_blocks, or choose another network"
        )
    if jax.process_count() > 1:
        raise ValueError(f"a head on network {network!r} is trained by one process alone")


def check_recipe(config: Config, base: Recipe, recipe: Recipe, method: "Method") -> None:
    """Refuse options of the optimiser and schedule that have no effect given the others.

    base: the recipe without the configuration's own numbers. recipe: with them.

    Raises:
        ValueError: the message names the field and what it needs.
    """
    for name, schedules in _OF_SCHEDULES.items():
        if getattr(config, name) is not None and recipe.schedule not in schedules:
            raise ValueError(
                f"{name} is given, and the schedule is {recipe.schedule!r}, which has none; give "
                f"the schedule {' or '.join(schedules)} too, or leave it out"
            )
    if recipe.schedule == "step" and not recipe.drops:
        raise ValueError(
            "schedule is 'step', and without drops the rate would never change; give drops too, "
            "fractions of the run such as 0.5 0.75, or another schedule"
        )
    if recipe.optimizer == "sgd" and config.beta2 is not None:
        raise ValueError("beta2 is given, and the optimizer is sgd; give adam or adamw too")
    changed = (base.optimizer == "sgd") != (recipe.optimizer == "sgd")
    if changed and config.learning_rate is None:
        raise ValueError(
            f"optimizer is {recipe.optimizer!r}, and the recipe's learning_rate of "
            f"{base.learning_rate:g} is meant for {base.optimizer}; give learning_rate too; "
            f"{'0.1' if recipe.optimizer == 'sgd' else '0.001'} is usual from random weights, and "
            "a hundredth of it from pretrained ones"
        )
    if config.nesterov and not recipe.momentum:
        raise ValueError("nesterov is given, and momentum is 0; leave one of them out")
    if config.decay_all and not recipe.weight_decay:
        raise ValueError("decay_all is given, and weight_decay is 0; give it too")
    if config.classifier_rate is not None and method.classifier == "none":
        raise ValueError(
            f"classifier_rate is given, and method {method.name!r} has no classifier; leave it out"
        )
    if config.label_smoothing is not None:
        if not method.takes("label_smoothing"):
            raise ValueError(
                f"label_smoothing is given, and the loss of method {method.name!r} has no target "
                "to smooth; leave it out"
            )
        if "label_smoothing" in config.options:
            raise ValueError("label_smoothing is given twice, once among the options; keep one")


def check_options(
    config: Config, method: "Method", options: Mapping[str, Any], labels: Any
) -> None:
    """Refuse options of the loss that have no effect given the others, or the labels.

    options: all of them, settled. labels: of the training items.

    Raises:
        ValueError: the message names the option.
    """
    for name, reason in method.idle(options).items():
        if name in config.options:
            raise ValueError(f"option {name!r} would do nothing: {reason}")
    if "multilabel" in config.options and labels.ndim == 1:
        raise ValueError("option 'multilabel' would do nothing; each item has one class here")
    if options.get("triplets") == "rows" and method.batches != "class-pair":
        raise ValueError(
            "triplets is 'rows', which takes each third of a batch for anchors, positives and "
            "negatives; choose method mhcln-paper, whose batches are drawn so"
        )
