"""Any network in an ONNX file as a backbone; what the file does not say comes from options."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxhash import onnx_files
from jaxhash.onnx_files import LAYOUTS, POOLS, OnnxFile
from jaxhash.spec import ModelSpec

PREFIX = "onnx:"
"""What the name of such a network begins with, before its file."""
OPTIONS = ("side", "mean", "std", "layout", "output", "pool")
USUAL = (
    "0.485,0.456,0.406 and 0.229,0.224,0.225 for most networks that learned from ImageNet, "
    "0.4815,0.4578,0.4082 and 0.2686,0.2613,0.2758 for CLIP, 0.5 and 0.5 for SigLIP"
)


@dataclass(frozen=True)
class OnnxBackbone:
    """An ONNX file with the input that it expects; the contract of `backbones.Backbone`."""

    network: str
    onnx: OnnxFile
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resizing: str

    @property
    def side(self) -> int:
        """Of the squares, in pixels."""
        return self.onnx.side

    def params(self) -> dict[str, Any]:
        """None: the file has its weights in it."""
        return {}

    def fingerprint(self, params: Mapping[str, Any]) -> str:
        """A short hash of the file's contents and of the input that it expects."""
        text = json.dumps(self.about(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def about(self) -> dict[str, Any]:
        """Its description as plain values, for JSON, without the path of the file."""
        values = dataclasses.asdict(self)
        del values["network"], values["onnx"]["file"]
        return values

    def spec(self, **fields: Any) -> ModelSpec:
        """The description of a model on it; fields: the others of `ModelSpec`."""
        onnx = self.onnx
        return ModelSpec(
            network="features",
            item_shape=(onnx.side, onnx.side, onnx.channels),
            mean=self.mean,
            std=self.std,
            onnx=onnx,
            **fields,
        )


def read(
    file: str | Path,
    resizing: str,
    *,
    side: Any = None,
    mean: Any = None,
    std: Any = None,
    layout: Any = None,
    output: Any = None,
    pool: Any = "none",
) -> OnnxBackbone:
    """A backbone from a file, after a trial run on two images of noise.

    Args:
        file: the ONNX file, of a network that takes images alone.
        resizing: how a picture becomes a square, in words.
        side: of the squares, in pixels; where the file does not fix it.
        mean, std: with pixels in [0, 1]: a number, or one for each channel, joined by commas.
        layout: "nchw" or "nhwc"; where the file does not say.
        output: name of the output, or of an inner value; where there are several outputs.
        pool: of outputs (n, tokens, d): "first" token or "mean" of all.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed; the message says what to install.
        FileNotFoundError: there is no such file.
        ValueError: it is no such network, or leaves open what was not given; the message says
            what to give.

    Example:
        >>> read("dinov2.onnx", RESIZING, side=224, mean=0.5, std=0.5)  # doctest: +SKIP
    """
    where = f"{PREFIX}{file}"
    _check_choice(where, "layout", layout, (None, *LAYOUTS))
    _check_choice(where, "pool", pool, POOLS)
    path = str(Path(file).expanduser().resolve())
    session = onnx_files.open_session(path, output)
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise ValueError(
            f"{where} takes {len(inputs)} inputs ({', '.join(one.name for one in inputs)}), and a "
            "backbone takes images alone; export its image part by itself"
        )
    layout, channels, side = _square(where, inputs[0], layout, side)
    if mean is None or std is None:
        raise ValueError(
            f"{where} does not say how its pixels are scaled; give network_options mean and std, "
            f"for pixels in [0, 1], each a number or one for each channel; they are {USUAL}"
        )
    outputs = session.get_outputs()
    if output is None:
        if len(outputs) > 1:
            named = ", ".join(f"{one.name} {_shape(one.shape)}" for one in outputs)
            raise ValueError(
                f"{where} has {len(outputs)} outputs; give network_options output, one of {named}"
            )
        output = outputs[0].name
    noise = np.random.default_rng(0).standard_normal((2, side, side, channels), np.float32)
    found = onnx_files.raw(session, noise, layout, output, where)
    features = onnx_files.pooled(found, pool)
    if features is None:
        more = ", or network_options pool first or mean for tokens" if found.ndim == 3 else ""
        raise ValueError(
            f"{where}: its output {output!r} is {found.dtype} of shape {_shape(found.shape)}, and "
            f"features are real numbers (n, d); name another output{more}"
        )
    onnx_files.of_length_1(features, where)
    onnx = OnnxFile(
        path, onnx_files.digest(path), side, channels, layout, output, pool, features.shape[1]
    )
    mean, std = _numbers(where, "mean", mean, channels), _numbers(where, "std", std, channels)
    if min(std) <= 0:
        raise ValueError(f"{where}: std is {std}; give numbers above 0")
    return OnnxBackbone(f"{PREFIX}{file}", onnx, mean, std, resizing)


def _square(where: str, taken: Any, layout: Any, side: Any) -> tuple[str, int, int]:
    """Layout, channels and side of what a file takes."""
    shape = taken.shape
    if len(shape) != 4 or taken.type not in ("tensor(float)", "tensor(float16)"):
        raise ValueError(
            f"{where} takes {taken.type} of shape {_shape(shape)}, and a backbone takes images, "
            "float32 of four axes; export it so"
        )
    if layout is None:
        fitting = [name for name, at in (("nchw", 1), ("nhwc", 3)) if shape[at] in (1, 3)]
        if len(fitting) != 1:
            raise ValueError(
                f"{where} takes {_shape(shape)}, which does not say where the channels are; give "
                "network_options layout, nchw or nhwc"
            )
        (layout,) = fitting
    channels = shape[1 if layout == "nchw" else 3]
    channels = channels if isinstance(channels, int) else 3
    height, width = shape[2:] if layout == "nchw" else shape[1:3]
    fixed = {one for one in (height, width) if isinstance(one, int)}
    if channels not in (1, 3) or len(fixed) > 1:
        raise ValueError(
            f"{where} takes {_shape(shape)} as {layout}, and a backbone takes squares of 1 or 3 "
            "channels; give another layout, or another file"
        )
    if side is None and not fixed:
        raise ValueError(
            f"{where} takes images of any size; give network_options side, in pixels, that it "
            "learned from; 224 is usual"
        )
    side = fixed.pop() if side is None else side
    if not isinstance(side, int) or isinstance(side, bool) or not 1 <= side <= 4096:
        raise ValueError(f"{where}: side is {side!r}; give 1 to 4096 pixels")
    if fixed and side not in fixed:
        raise ValueError(f"{where}: side is {side}, and the file takes {fixed.pop()}; leave it out")
    return layout, channels, side


def _numbers(where: str, name: str, given: Any, channels: int) -> tuple[float, ...]:
    """A number, or some joined by commas, as one for each channel."""
    try:
        numbers = tuple(float(one) for one in str(given).split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in (1, channels) or not np.isfinite(numbers).all():
        raise ValueError(
            f"{where}: {name} is {given!r}; give a number, or {channels} joined by commas; usual "
            f"are {USUAL}"
        )
    return numbers if len(numbers) == channels else numbers * channels


def _check_choice(where: str, name: str, value: Any, known: tuple[Any, ...]) -> None:
    if value not in known:
        names = ", ".join(str(one) for one in known if one is not None)
        raise ValueError(f"{where}: {name} is {value!r}; choose one of {names}")


def _shape(shape: Any) -> str:
    """A shape with its open axes by name.

    Example:
        >>> _shape(["batch", 3, None, 224])
        '(batch, 3, ?, 224)'
    """
    return f"({', '.join('?' if one is None else str(one) for one in shape)})"
