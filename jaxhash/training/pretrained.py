"""Other people's weights -> our variables, without their libraries and without running their code.

To take another network's weights: one row in `MAPS`.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""What torchvision's weights expect `prepare` to be given: red, green, blue, in [0, 1]."""

Weights = dict[str, np.ndarray]


@dataclass(frozen=True)
class Report:
    """What happened to every name on both sides.

    taken: (theirs, ours) pairs. unused: names in the file that have no place here, such as the
    1000-class layer. fresh: our parameters the file does not have, which keep their start.
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


# Network -> (their layer, our layer, how its weight is turned). Biases are taken as they are.
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

    params: nested dict as `networks.init` makes it; not changed. Returns new parameters (float32
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
            f"no map of pretrained weights for network {network!r}: there is one for "
            f"{', '.join(MAPS)}"
        )
    weights = read(path)
    ours = _flatten(params)
    taken = []
    for their_layer, our_layer, convert in MAPS[network]:
        for theirs, our_name, turn in (
            (f"{their_layer}.weight", f"{our_layer}/kernel", convert),
            (f"{their_layer}.bias", f"{our_layer}/bias", np.asarray),
        ):
            if theirs not in weights:
                raise ValueError(
                    f"{path} has no {theirs!r}: it holds {_some(weights)}; is it a file for "
                    f"{network}?"
                )
            if our_name not in ours:
                raise ValueError(f"params has no {our_name!r}: were they made for {network}?")
            ours[our_name] = _fit(theirs, weights[theirs], our_name, ours[our_name].shape, turn)
            taken.append((theirs, our_name))
    used = {theirs for theirs, _ in taken}
    filled = {our_name for _, our_name in taken}
    report = Report(
        tuple(taken),
        tuple(name for name in weights if name not in used),
        tuple(name for name in ours if name not in filled),
    )
    return _nest(ours), report


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
        except (safetensors.SafetensorError, KeyError, OSError, TypeError) as error:
            raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    try:
        with path.open("rb") as file:
            found = _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)
            return _state_dict(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:
        # A broken pickle can raise nearly anything on its way.
        raise ValueError(
            f"{path} is not a readable PyTorch file ({type(error).__name__}: {error}): give the "
            "state dict as torch.save wrote it, or a .safetensors file"
        ) from error


# ---- PyTorch files ----------------------------------------------------------------------------

_DTYPES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class _Tensor:
    """What a pickle says about a tensor; the numbers lie elsewhere in the file."""

    storage: tuple[str, np.dtype]
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, data: np.ndarray) -> np.ndarray:
        numbers = (self.offset, *self.shape, *self.strides)
        steps = zip(self.shape, self.strides, strict=False)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        # More numbers than are stored can be asked for by a stride of 0: no weight needs that.
        beyond = last >= len(data) or math.prod(self.shape) > len(data)
        if (
            len(self.shape) != len(self.strides)
            or min(numbers) < 0
            or (beyond and 0 not in self.shape)
        ):
            raise ValueError("a tensor reaches beyond its storage: the file is damaged")
        if 0 in self.shape:
            return np.zeros(self.shape, data.dtype)
        strides = tuple(stride * data.itemsize for stride in self.strides)
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides)
        return view.copy()


class _Unpickler(pickle.Unpickler):
    """Rebuilds dicts, numbers, strings and tensor descriptions, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            # A new function each time, so that nothing a pickle does to it outlives the file.
            return lambda storage, offset, shape, strides, *_: _Tensor(
                storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides))
            )
        if module == "torch" and name in _DTYPES:
            return name
        raise ValueError(
            f"the file asks for {module}.{name}, and only tensors are read: nothing was run. "
            "Save the plain state dict, torch.save(model.state_dict(), ...), or a .safetensors file"
        )

    def persistent_load(self, pid: Any) -> tuple[str, np.dtype]:
        kind, name, key = pid[:3]
        if kind != "storage" or name not in _DTYPES:
            raise ValueError(f"the file refers to a {kind!r} of {name!r}, which is no storage")
        return str(key), _DTYPES[name]


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        for entry in archive.infolist():
            # torch.save never compresses; a file that does could unpack to any size.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename} is compressed, which torch.save never does")
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("a zip file without one data.pkl: not written by torch.save")
        root = names[0].removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist():
            order = archive.read(root + "byteorder").decode()
            if order != "little":
                raise ValueError(f"numbers are stored {order}-endian, which is not supported")
        found = _Unpickler(io.BytesIO(archive.read(names[0]))).load()

        def fetch(storage: tuple[str, np.dtype]) -> np.ndarray:
            key, dtype = storage
            return np.frombuffer(archive.read(f"{root}data/{key}"), dtype)

        return _fill(found, fetch)


def _read_legacy(file: BinaryIO) -> Any:
    file.seek(0)
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise ValueError("not written by torch.save")
    _Unpickler(file).load()  # protocol version
    system = _Unpickler(file).load()
    if not system.get("little_endian", True):
        raise ValueError("numbers are stored big-endian, which is not supported")
    dtypes: dict[str, np.dtype] = {}
    found = _Unpickler(file).load()
    _fill(found, lambda storage: dtypes.setdefault(*storage))
    data: dict[str, np.ndarray] = {}
    for key in _Unpickler(file).load():
        count = int.from_bytes(file.read(8), "little", signed=True)
        # A storage no tensor uses says nothing of its width, so what follows cannot be found.
        if key not in dtypes:
            raise ValueError(f"storage {key!r} is not used by any tensor")
        size = max(count, 0) * dtypes[key].itemsize
        content = file.read(size)
        if count < 0 or len(content) != size:
            raise ValueError("the file ends early: download it again")
        data[key] = np.frombuffer(content, dtypes[key])
    return _fill(found, lambda storage: data[storage[0]])


def _fill(found: Any, fetch: Callable[[tuple[str, np.dtype]], Any]) -> Any:
    """Replace tensor descriptions by arrays, at every depth of dicts."""
    if isinstance(found, _Tensor):
        data = fetch(found.storage)
        return found.array(data) if isinstance(data, np.ndarray) else data
    if isinstance(found, dict):
        return {key: _fill(value, fetch) for key, value in found.items()}
    return found


def _state_dict(found: Any) -> Weights:
    if not isinstance(found, dict):
        raise ValueError(f"the file holds a {type(found).__name__}, not a state dict")
    weights = {key: value for key, value in found.items() if isinstance(value, np.ndarray)}
    if not weights:
        inner = [value for value in found.values() if isinstance(value, dict)]
        inner = [value for value in inner if any(isinstance(v, np.ndarray) for v in value.values())]
        if len(inner) != 1:
            raise ValueError(
                f"the file holds {len(inner)} dicts of tensors under {_some(found)}: save the one "
                "state dict that is meant"
            )
        weights = {key: value for key, value in inner[0].items() if isinstance(value, np.ndarray)}
    if all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


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


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *folders, name = path.split("/")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[name] = value
    return tree


def _some(names: Mapping[Any, Any]) -> str:
    listed = [str(name) for name in names]
    return ", ".join(listed[:6]) + (f" and {len(listed) - 6} more" if len(listed) > 6 else "")
