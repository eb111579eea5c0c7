"""The data that a configuration names: loaded, split, and what its pixels are on average."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxhash import data, option_checks
from jaxhash.config import Config, row_of
from jaxhash.data import Dataset, Images, Split, folders
from jaxhash.nets import NETWORKS
from jaxhash.spec import ModelSpec
from jaxhash.training import backbones, kept_features
from jaxhash.training.backbones import Backbone
from jaxhash.training.defaults import DEFAULT_NETWORKS
from jaxhash.training.onnx_backbone import OnnxBackbone
from jaxhash.unlabelled import FITS

FALLBACK_SIZE = 64
"""Side in pixels of a folder's images where neither they nor the network have one size."""
SAMPLE = 2000
"""Training images that mean and spread are taken from."""


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
        size = row_of(NETWORKS, "network", network).image_size
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


def load_for_backbone(
    config: Config, backbone: Backbone | OnnxBackbone, folder: Path | None
) -> Dataset:
    """The images that a frozen backbone is to see, as `load_seen` has them.

    folder: of the run to be; None for none.

    Raises:
        ValueError: as `load_data`.
    """
    places = kept_features.places(config, folder)
    if not any(kept_features.are_kept(place) for place in places):
        return load_data(config, side=backbone.side)
    views = {"mirror": config.mirror, "shift": config.shift}
    spec = kept_features.spec_of(backbone, precision=config.precision, **views)
    return load_seen(config, spec, backbone.params(), places)


def load_seen(
    config: Config, spec: ModelSpec, trunk: Mapping[str, Any], places: Sequence[Path]
) -> Dataset:
    """The images of a run; where one of the places keeps the features of all, none is decoded.

    Image files are then listed by their headers, and decoded where somebody asks for pixels. Where
    some could not be decoded when the features were computed, all are tried again.

    Raises:
        ValueError: as `load_data`.
    """
    listed = load_data(config, side=spec.item_shape[0], on_demand=True)
    if listed.labels is None or not isinstance(listed.items, Images):
        return listed
    kept = kept_features.find(kept_features.key(spec, trunk, listed), places)
    if kept is not None and len(kept.rows) == len(listed):
        return listed
    return load_data(config, side=spec.item_shape[0])


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
