"""Load pretrained weights from files of other libraries, without these and without running code.

To take another network's weights: one row in `MAPS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from jaxhash.training import torch_files
from jaxhash.trees import flatten, unflatten

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What torchvision's weights expect `prepare` to be given: red, green, blue, in [0, 1]."""

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Report:
    """Which tensors of the file and which parameters of the network were matched.

    taken: (theirs, ours) pairs. unused: names in the file that have no place here, such as the
    1000-class layer. fresh: our parameters the file does not have, which keep their initial values.
    """

    taken: tuple[tuple[str, str], ...]
    unused: tuple[str, ...]
    fresh: tuple[str, ...]

    def __str__(self) -> str:
        """Three lines for a person."""
        return (
            f"took {len(self.taken)}: {', '.join(ours for _, ours in self.taken)}\n"
            f"not used from the file: {', '.join(self.unused) or 'none'}\n"
            f"not in the file, left as they were: {', '.join(self.fresh) or 'none'}"
        )


def convolution(weight: np.ndarray) -> np.ndarray:
    """Torch's (out, in, height, width) -> (height, width, in, out)."""
    return weight.transpose(2, 3, 1, 0)


def dense(weight: np.ndarray) -> np.ndarray:
    """Torch's (out, in) -> (in, out)."""
    return weight.T


def dense_after(channels: int, height: int, width: int) -> Callable[[np.ndarray], np.ndarray]:
    """A dense layer on a flattened image: torch flattens channels first, we flatten them last."""

    def convert(weight: np.ndarray) -> np.ndarray:
        as_images = weight.reshape(-1, channels, height, width)
        return as_images.transpose(2, 3, 1, 0).reshape(channels * height * width, -1)

    return convert


# Network -> (their layer, our layer, how its weight is rearranged). Biases are copied.
MAPS: dict[str, tuple[tuple[str, str, Callable[[np.ndarray], np.ndarray]], ...]] = {
    "alexnet": (
        ("features.0", "trunk/conv1", convolution),
        ("features.3", "trunk/conv2", convolution),
        ("features.6", "trunk/conv3", convolution),
        ("features.8", "trunk/conv4", convolution),
        ("features.10", "trunk/conv5", convolution),
        ("classifier.1", "trunk/fc6", dense_after(256, 6, 6)),
        ("classifier.4", "trunk/fc7", dense),
    ),
}


def load(
    path: str | Path, network: str, params: Mapping[str, Any]
) -> tuple[dict[str, Any], Report]:
    """Put the weights of a `.pth`, `.pt` or `.safetensors` file into a network's parameters.

    params: nested dict as `nets.init` makes it; not changed. Returns new parameters (float32
    NumPy arrays where taken) and a report of every name on both sides. Where the network was
    built for grey images, the first layer's kernel is summed over its three colours, which is
    what a grey image in all three would meet. Normalise with IMAGENET_MEAN and IMAGENET_STD.

    Raises:
        ValueError: no map for this network, a layer of the map missing, another shape, or a file
            that `read` refuses.

    Example:
        >>> params, report = load("alexnet.pth", "alexnet", params)  # doctest: +SKIP
        >>> print(report)  # doctest: +SKIP
    """
    if network not in MAPS:
        raise ValueError(
            f"no map of pretrained weights for network {network!r}; there is one for "
            f"{', '.join(MAPS)}"
        )
    weights = read(path)
    ours = flatten(params)
    taken = []
    for their_layer, our_layer, convert in MAPS[network]:
        for theirs, our_name, turn in (
            (f"{their_layer}.weight", f"{our_layer}/kernel", convert),
            (f"{their_layer}.bias", f"{our_layer}/bias", np.asarray),
        ):
            if theirs not in weights:
                raise ValueError(
                    f"{path} has no {theirs!r}; it holds {_some(weights)}; is it a file for "
                    f"{network}?"
                )
            if our_name not in ours:
                raise ValueError(f"params has no {our_name!r}; were they made for {network}?")
            ours[our_name] = _fit(theirs, weights[theirs], our_name, ours[our_name].shape, turn)
            taken.append((theirs, our_name))
    used = {theirs for theirs, _ in taken}
    filled = {our_name for _, our_name in taken}
    report = Report(
        tuple(taken),
        tuple(name for name in weights if name not in used),
        tuple(name for name in ours if name not in filled),
    )
    return unflatten(ours), report


_BROKEN_SAFETENSORS = (
    *(safetensors.SafetensorError, KeyError, OSError, TypeError, ValueError),
    *(AttributeError, OverflowError),
)


def read(path: str | Path) -> Weights:
    """Every tensor of a `.pth`, `.pt` (zip or legacy) or `.safetensors` file, by name.

    A state dict inside another dict, under "state_dict", "model" or the like, is found; a "module."
    before every name is dropped. Only tensors are rebuilt: a pickle that asks for anything else is
    refused, and none of its code runs.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, of another kind, or asks for more than tensors.

    Example:
        >>> sorted(read("alexnet.pth"))[:2]  # doctest: +SKIP
        ['classifier.1.bias', 'classifier.1.weight']
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of pretrained weights")
    if path.suffix == ".safetensors":
        try:
            return dict(safetensors.numpy.load_file(path))
        except _BROKEN_SAFETENSORS as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        return _state_dict(torch_files.read(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:
        # A broken pickle can raise nearly anything on its way.
        raise ValueError(
            f"{path} is not a readable PyTorch file ({type(error).__name__}: {error}); give the "
            "state dict as torch.save wrote it, or a .safetensors file"
        ) from error


def _state_dict(found: Any) -> Weights:
    if not isinstance(found, dict):
        raise ValueError(f"the file holds a {type(found).__name__}, not a state dict")
    weights = _arrays(found)
    if not weights:
        inner = [_arrays(value) for value in found.values() if isinstance(value, dict)]
        inner = [arrays for arrays in inner if arrays]
        if len(inner) != 1:
            raise ValueError(
                f"the file holds {len(inner)} dicts of tensors under {_some(found)}; save the one "
                "state dict that is meant"
            )
        weights = inner[0]
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def _arrays(found: Mapping[Any, Any]) -> Weights:
    return {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, np.ndarray)
    }


# ---- fitting ----------------------------------------------------------------------------------


def _fit(
    theirs: str,
    weight: np.ndarray,
    ours: str,
    shape: tuple[int, ...],
    turn: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    try:
        turned = turn(weight)
    except ValueError:
        turned = weight
    if turned.ndim == 4 and len(shape) == 4 and turned.shape[2] == 3 and shape[2] == 1:
        turned = turned.sum(axis=2, keepdims=True)
    if turned.shape != tuple(shape):
        raise ValueError(
            f"{theirs!r} of shape {weight.shape} does not fit {ours!r} of shape {tuple(shape)}"
        )
    # A transposed view saved by others as it lies in memory would come out scrambled.
    return np.ascontiguousarray(turned, np.float32)


def _some(names: Mapping[Any, Any]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
