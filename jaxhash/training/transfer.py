"""Start a run from the trunk of a finished one: for other bits, another method, other images.

How DSH makes its longer codes: 12 bits are trained from scratch, then the layer that makes them is
replaced and the whole is trained on (Liu et al., CVPR 2016).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxhash import models
from jaxhash.models import Model
from jaxhash.trees import flatten, unflatten


def source(folder: str | Path, network: str, channels: int) -> Model:
    """The model of a finished run, if its trunk can be that of `network` on such images.

    channels: of the images, or the length of feature vectors.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: it is of another network, or of items of another kind.

    Example:
        >>> source("runs/dsh-12", "dsh", 3).spec.bits  # doctest: +SKIP
        12
    """
    model = models.load(folder)
    if model.spec.network != network:
        raise ValueError(
            f"{folder} is a run of network {model.spec.network!r}, not {network!r}; choose the same"
        )
    if model.spec.item_shape[-1] != channels:
        what = "channels" if model.spec.takes == "images" else "numbers an item"
        raise ValueError(
            f"{folder} was trained on {model.spec.item_shape[-1]} {what}, and the data has "
            f"{channels}; its weights do not fit"
        )
    return model


def with_trunk(trained: Model, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Fresh variables with the trunk of a trained model, statistics included; the head stays new.

    variables: as `nets.init` makes them, or their shapes.

    Raises:
        ValueError: a layer of the trunk has another shape, as under images of another size.

    Example:
        >>> variables = with_trunk(models.load("runs/dsh-12"), variables)  # doctest: +SKIP
    """
    ours = flatten(variables)
    for name, array in flatten(trained.variables).items():
        if name.split("/")[1] != "trunk":
            continue
        if name not in ours or ours[name].shape != array.shape:
            have = ours[name].shape if name in ours else "not there"
            raise ValueError(
                f"the trained trunk's {name} is {array.shape}, and here it is {have}; train with "
                f"image_size {trained.spec.item_shape[0]}, as that run did"
            )
        ours[name] = array
    return unflatten(ours)
