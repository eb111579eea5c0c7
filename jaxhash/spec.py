"""The description of a network without its weights; hashable, as the key of compiled programs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from jaxhash import preparation
from jaxhash.nets import NETWORKS, HashNetwork
from jaxhash.onnx_files import OnnxFile

ONNX_BATCH = 16
"""Images at once for an ONNX file: more are slower on a CPU, and a query is padded to a batch."""
NO_HEAD: Mapping[str, Any] = MappingProxyType(
    {
        "method": "",
        "bits": 1,
        "classes": (),
        "activation": "linear",
        "classifier": "none",
        "threshold": 0.0,
    }
)
"""Fields of `ModelSpec` for a backbone that gives features alone."""
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class ModelSpec:
    """The description of a network that makes codes; equal ones share compiled programs.

    Args:
        network: a row of `jaxhash.nets.NETWORKS`.
        method: the row of `jaxhash.method.METHODS` that it was trained by.
        bits: length of a code.
        classes: names of the classes that its classifier tells apart.
        item_shape: (height, width, channels) of the images it was trained on, or (d,) of features.
        mean, std: per channel, with pixels in [0, 1]; () for features, which are taken as they are.
        activation: of the latent layer, see `jaxhash.nets.head.ACTIVATIONS`.
        classifier: above the latent layer, see `jaxhash.nets.head.CLASSIFIERS`.
        threshold: a bit is 1 where the latent is above it.
        precision: "float32" or "bfloat16", what the network computes in.
        mirror, shift: an item is encoded as the weighted mean of the network's outputs for it and
            its mirror image, or shifted copies (`jaxhash.views.views`).
        hidden: for a head on the features of a frozen backbone, the units of its hidden layer, 0
            for none; None for a head that was trained together with its trunk.
        onnx: the backbone, where it is an ONNX file; `network` is then "features", for the head.
    """

    network: str
    method: str
    bits: int
    classes: tuple[str, ...]
    item_shape: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    activation: str
    classifier: str
    threshold: float
    precision: str
    mirror: bool = False
    shift: bool = False
    hidden: int | None = None
    onnx: OnnxFile | None = None

    @property
    def takes(self) -> str:
        """What it encodes: "images" or "features"."""
        return NETWORKS[self.network].takes if self.onnx is None else "images"

    @property
    def read_shape(self) -> tuple[int, ...]:
        """The shape of what the flax module reads: the item's, or of an ONNX file's features."""
        return self.item_shape if self.onnx is None else (self.onnx.features,)

    @property
    def batch(self) -> int:
        """Items that are encoded at once by default."""
        return NETWORKS[self.network].batch if self.onnx is None else ONNX_BATCH

    @property
    def on_backbone(self) -> bool:
        """Whether its head reads the features of a backbone, which are worth keeping."""
        return self.onnx is not None or NETWORKS[self.network].backbone

    def of_backbone(self) -> "ModelSpec":
        """The description of its backbone alone, the same under every head."""
        return replace(self, hidden=None, **NO_HEAD)

    def build(self, *, start: str = "fan-in") -> HashNetwork:
        """The network without its weights; `start` says how a new head would start."""
        return NETWORKS[self.network].build(
            bits=self.bits,
            classes=len(self.classes),
            activation=self.activation,
            classifier=self.classifier,
            start=start,
            hidden=self.hidden,
            dtype=PRECISIONS[self.precision],
        )

    def prepare(self, items: jax.Array) -> jax.Array:
        """Items as they are stored -> what the network reads; pure, for use inside jit.

        uint8 (n, h, w, c), brought to the size and the channels of the training images, or
        features (n, d).

        Raises:
            ValueError: the items are of another kind.
        """
        if len(items.shape) != len(self.item_shape) + 1:
            raise ValueError(
                f"the model takes {self.takes} of shape {self.item_shape}, "
                f"and got items of shape {items.shape[1:]}"
            )
        if self.takes == "features":
            if items.shape[1:] != self.item_shape:
                raise ValueError(
                    f"the model takes features of {self.item_shape[0]} numbers, "
                    f"and got {items.shape[1]}"
                )
            return items.astype(jnp.float32)
        items = preparation.with_channels(items, self.item_shape[2])
        height, width, _ = self.item_shape
        if items.shape[1:] != self.item_shape and height != width:
            raise ValueError(
                f"the model takes images of {height} x {width} pixels, "
                f"and got {items.shape[1]} x {items.shape[2]}; resize them first"
            )
        size = height if height == width else None
        return preparation.prepare(items, jnp.array(self.mean), jnp.array(self.std), size)
