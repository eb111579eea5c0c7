"""What `torch.save` wrote, read without PyTorch and without running any of it."""

import collections
import io
import math
import mmap
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxhash import pickles

_Storage = tuple[str, np.dtype]
"""Key and dtype of a run of numbers in the file."""


def read(path: Path) -> Any:
    """What a `.pth` or `.pt` file (zip or legacy) holds, with a NumPy array for every tensor.

    Only dicts, lists, numbers, text and tensors are rebuilt: a pickle that asks for anything else
    is refused, and none of its code runs.

    Raises:
        Exception: a broken file can raise nearly anything on its way; a ValueError says what is
            wrong.
    """
    with path.open("rb") as file:
        return _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)


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

MOST_SHARED = 16
"""Tensors that share storages may take this many times the size of their file."""

_MOST_AXES = 64

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
        if len(self.shape) > _MOST_AXES or max(numbers) > np.iinfo(np.int64).max:
            raise ValueError("a tensor of absurd shape; the file is damaged")
        steps = zip(self.shape, self.strides, strict=False)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        # More numbers than are stored can be asked for by a stride of 0: no weight needs that.
        beyond = last >= len(data) or math.prod(self.shape) > len(data)
        if (
            len(self.shape) != len(self.strides)
            or min(numbers) < 0
            or (beyond and 0 not in self.shape)
        ):
            raise ValueError("a tensor reaches beyond its storage; the file is damaged")
        if 0 in self.shape:
            return np.zeros(self.shape, data.dtype)
        strides = tuple(stride * data.itemsize for stride in self.strides)
        view = np.lib.stride_tricks.as_strided(data[self.offset :], self.shape, strides)
        return view.copy()


def _find_class(module: str, name: str) -> Any:
    """Dicts and tensor descriptions; every other name is refused."""
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
        f"the file asks for {module}.{name}, and only tensors are read; nothing was run; "
        "save the plain state dict, torch.save(model.state_dict(), ...), or a .safetensors file"
    )


def _refer(pid: Any) -> _Storage:
    kind, name, key = pid[:3]
    if kind != "storage" or name not in _DTYPES:
        raise ValueError(f"the file refers to a {kind!r} of {name!r}, which is no storage")
    return str(key), _DTYPES[name]


def _unpickle(source: pickles.Source, refer: Callable[[Any], _Storage] = _refer) -> Any:
    return pickles.load(source, _find_class, refer=refer)


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        size = file.seek(0, io.SEEK_END)
        for entry in archive.infolist():
            # torch.save never compresses; a file that does could unpack to any size.
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{entry.filename} is compressed, which torch.save never does")
            if max(entry.compress_size, entry.file_size) > size:
                raise ValueError(f"{entry.filename} is larger than the file; it is damaged")
        names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError("a zip file without one data.pkl, not written by torch.save")
        root = names[0].removesuffix("data.pkl")
        if root + "byteorder" in archive.namelist():
            order = archive.read(root + "byteorder").decode()
            if order != "little":
                raise ValueError(f"numbers are stored {order}-endian, which is not supported")
        found = _unpickle(io.BytesIO(archive.read(names[0])))
        return _fill(found, lambda key: archive.read(f"{root}data/{key}"), size)


def _read_legacy(file: BinaryIO) -> Any:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as source:
        if _unpickle(source) != _LEGACY_MAGIC:
            raise ValueError("not written by torch.save")
        _unpickle(source)  # protocol version
        system = _unpickle(source)
        if not system.get("little_endian", True):
            raise ValueError("numbers are stored big-endian, which is not supported")
        dtypes: dict[str, np.dtype] = {}

        def refer(pid: Any) -> _Storage:
            key, dtype = _refer(pid)
            return key, dtypes.setdefault(key, dtype)

        found = _unpickle(source, refer)
        data: dict[str, bytes] = {}
        for key in _unpickle(source):
            count = int.from_bytes(source.read(8), "little", signed=True)
            # A storage no tensor uses says nothing of its width, so what follows cannot be found.
            if key not in dtypes:
                raise ValueError(f"storage {key!r} is not used by any tensor")
            size = max(count, 0) * dtypes[key].itemsize
            if count < 0 or size > len(source) - source.tell():
                raise ValueError("the file ends early; download it again")
            data[key] = source.read(size)
        return _fill(found, data.__getitem__, len(source))


def _fill(found: Any, fetch: Callable[[str], bytes], file_size: int) -> Any:
    """Replace tensor descriptions by arrays, at every depth of dicts.

    fetch: the bytes of a storage by its key. file_size: all that the arrays may take, several
    times over, as tensors can share a storage.
    """
    storages: dict[str, bytes] = {}
    filled: dict[int, Any] = {}
    left = MOST_SHARED * file_size

    def fill(value: Any) -> Any:
        nonlocal left
        # Dicts within dicts, each twice, would otherwise take for ever.
        if id(value) in filled:
            return filled[id(value)]
        if isinstance(value, _Tensor):
            key, dtype = value.storage
            if key not in storages:
                storages[key] = fetch(key)
            array = value.array(np.frombuffer(storages[key], dtype))
            left -= array.nbytes
            if left < 0:
                raise ValueError(f"its tensors take over {MOST_SHARED} times the size of the file")
            filled[id(value)] = array
        elif isinstance(value, dict):
            filled[id(value)] = inner = {}
            for key, one in value.items():
                inner[key] = fill(one)
        else:
            return value
        return filled[id(value)]

    return fill(found)
