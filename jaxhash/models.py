"""A trained network to hand on: one safetensors file with the weights, one JSON that explains it.

Nothing else is needed to encode with it: not the training data, not the run directory, not even
this project (any reader of safetensors sees the arrays under their paths).
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from jaxhash import nets, preparation, runs
from jaxhash.nets import NETWORKS, HashNetwork
from search.files.atomic import replacing

FORMAT = 1
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


@dataclass(frozen=True)
class Model:
    """A network with its weights, and all that is needed to make codes with it.

    network: a row of `NETWORKS`. method: the row of `METHODS` it was trained by.
    item_shape: (height, width, channels) of the images it was trained on, or (d,) of features.
    mean, std: per channel, with pixels in [0, 1]; () for features, which are taken as they are.
    threshold: a bit is 1 where the latent is above it.
    variables: {"params": ..., "batch_stats": ...}, nested mappings of float32 arrays.
    mirror, shift: an item is encoded as the mean of what the network makes of it and of its mirror
        image, or of shifted ones (`views.views`).
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
    # Left out of comparisons, so that models of one architecture share what is compiled for it.
    variables: Mapping[str, Any] = field(compare=False, repr=False)
    mirror: bool = False
    shift: bool = False

    @property
    def takes(self) -> str:
        """What it encodes: "images" or "features"."""
        return NETWORKS[self.network].takes

    def build(self, *, init: str = "fan-in") -> HashNetwork:
        """The network without its weights; `init` says how a new head would start."""
        return NETWORKS[self.network].build(
            bits=self.bits,
            classes=len(self.classes),
            activation=self.activation,
            classifier=self.classifier,
            init=init,
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
                f"and got {items.shape[1]} x {items.shape[2]}: resize them first"
            )
        size = height if height == width else None
        return preparation.prepare(items, jnp.array(self.mean), jnp.array(self.std), size)

    def with_variables(self, variables: Mapping[str, Any]) -> "Model":
        """The same model with other weights."""
        return dataclasses.replace(self, variables=variables)


def save(model: Model, folder: Path | str) -> None:
    """Write model.safetensors and model.json into a folder; each is whole or absent.

    Example:
        >>> save(model, "runs/demo")  # doctest: +SKIP
    """
    folder = Path(folder)
    # safetensors writes wrong numbers, without a word, from arrays that are not C-contiguous.
    arrays = {
        name: np.ascontiguousarray(array, np.float32)
        for name, array in flatten(model.variables).items()
    }
    with replacing(folder / runs.WEIGHTS) as file:
        file.write(safetensors.numpy.save(arrays, metadata={"format": f"jaxhash model {FORMAT}"}))
    runs.write_json(folder / runs.MODEL, {"format": FORMAT} | _describe(model))


def load(folder: Path | str) -> Model:
    """Read what `save` wrote.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: the files are damaged, of another version, or do not belong together.

    Example:
        >>> load("runs/demo").bits  # doctest: +SKIP
        48
    """
    folder = Path(folder)
    for name in (runs.MODEL, runs.WEIGHTS):
        if not (folder / name).is_file():
            reason = (
                "its training has not finished: continue it with scripts/train.py --resume"
                if (folder / runs.CONFIG).is_file()
                else "give the folder of a finished run"
            )
            raise FileNotFoundError(f"no {name} in {folder}: {reason}")
    values = runs.read_json(folder / runs.MODEL)
    if values.pop("format", None) != FORMAT:
        raise ValueError(f"{folder / runs.MODEL} is not of format {FORMAT}: export it again")
    try:
        arrays = safetensors.numpy.load_file(folder / runs.WEIGHTS)
    except SafetensorError as error:
        raise ValueError(f"{folder / runs.WEIGHTS} is damaged: {error}") from None
    described: dict[str, Any] = {
        name: tuple(one) if isinstance(one, list) else one for name, one in values.items()
    }
    try:
        model = Model(
            **described,
            variables=unflatten(arrays),
        )
    except TypeError as error:
        raise ValueError(f"{folder / runs.MODEL} does not describe a model: {error}") from None
    _check(model, arrays, folder)
    return model


def fingerprint(model: Model) -> str:
    """A short name of a model's weights and what is done with them, to tell models apart.

    Example:
        >>> fingerprint(load("runs/demo"))  # doctest: +SKIP
        '3b5d5c3712955042'
    """
    digest = hashlib.sha256(json.dumps(_describe(model)).encode())
    for name, array in sorted(flatten(model.variables).items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(array, np.float32).tobytes())
    return digest.hexdigest()[:16]


def _describe(model: Model) -> dict[str, Any]:
    names = [name for name in Model.__dataclass_fields__ if name != "variables"]
    return json.loads(json.dumps({name: getattr(model, name) for name in names}))


def _check(model: Model, arrays: Mapping[str, np.ndarray], folder: Path) -> None:
    if model.network not in NETWORKS:
        raise ValueError(
            f"{folder / runs.MODEL} names the network {model.network!r}, which is not one of "
            f"{', '.join(NETWORKS)}"
        )
    wanted = jax.eval_shape(
        lambda: nets.init(model.build(), jax.random.key(0), (1, *model.item_shape))
    )
    shapes = {name: one.shape for name, one in flatten(wanted).items()}
    for name in sorted(shapes.keys() | arrays.keys()):
        have = arrays[name].shape if name in arrays else "nothing"
        if shapes.get(name, "nothing") != have:
            raise ValueError(
                f"{folder / runs.WEIGHTS} does not fit {runs.MODEL}: {name} is {have}, "
                f"and should be {shapes.get(name, 'nothing')}"
            )


# ---------------------------------------------------------------- trees and their paths


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with paths for keys.

    Example:
        >>> flatten({"params": {"head": {"bias": 1}}})
        {'params/head/bias': 1}
    """
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        path = f"{prefix}{name}"
        flat |= flatten(value, f"{path}/") if isinstance(value, Mapping) else {path: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Undo `flatten`.

    Example:
        >>> unflatten({"params/head/bias": 1})
        {'params': {'head': {'bias': 1}}}
    """
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree
