"""Datasets in NumPy files: one `.npz`, or a folder of `.npy`."""

import difflib
import io
import math
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jaxhash.data.dataset import PARTS, Dataset, Items, check_labels, consecutive_parts
from jaxhash.data.decoding import check_memory, check_size, resize
from jaxhash.data.enlarged import Enlarged, is_large
from jaxhash.data.joined import Joined

_KINDS = ("images", "features")
_CHUNK_BYTES = 1 << 26

Reader = Callable[[str], np.ndarray]


def load(
    path: str | Path, *, image_size: int | None = None, memory_limit: int | None = None
) -> Dataset:
    """Loads arrays by name: `<part>_images` or `<part>_features`, and `<part>_labels`.

    The parts are train, validation, test, database and query; `images` or `features` with
    `labels` alone make a dataset without a split. Arrays of a folder are memory-mapped and never
    copied whole; pickled objects are refused.

    Labels are integers (n,), text (n,), or flags (n, classes) of True/False or 0/1 where an item
    can have several classes. Class numbers need not be gapless: the different ones, over all
    parts and in ascending order, become 0, 1, 2, ... and `Dataset.classes` keeps what they were.
    Where an array `classes` of names is there too, integers number its rows and stay as they are.
    Without any labels the dataset can only be encoded.

    Args:
        path: The file or folder.
        image_size: Side of the squares images are resampled to: in memory, or, where that would
            take more than `enlarged.MOST` bytes, when they are read. None keeps them.
        memory_limit: Bytes the resampled images may take; half of the free memory by default.

    Raises:
        ValueError: where an array is missing, has a wrong dtype or shape, or holds values that
            no label or feature can have.

    Example:
        >>> import numpy as np, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(folder + "/train_features.npy", np.eye(3, dtype=np.float32))
        ...     np.save(folder + "/train_labels.npy", np.array([7, 3, 7]))
        ...     data = load(folder)
        >>> data.labels.tolist(), data.classes
        ([1, 0, 1], ('3', '7'))
    """
    path = Path(path)
    check_size(image_size)
    with _open(path) as (names, read):
        kind, parts = _layout(path, names)
        prefix = {part: "" if part == "all" else f"{part}_" for part in parts}
        arrays = [
            _check_items(f"{path}: {prefix[part]}{kind}", read(f"{prefix[part]}{kind}"), kind)
            for part in parts
        ]
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            raise ValueError(f"{path}: {kind} of the parts differ in shape: {sorted(shapes)}")
        sizes = {part: len(array) for part, array in zip(parts, arrays, strict=True)}
        classes = _class_names(path, read("classes")) if "classes" in names else None
        labels: np.ndarray | None = None
        if any(name.endswith("labels") for name in names):
            columns = []
            for part in parts:
                name = f"{prefix[part]}labels"
                if name not in names:
                    raise ValueError(f"{path}: {name} is missing")
                columns.append(_check_column(f"{path}: {name}", read(name), sizes[part]))
            labels, classes = _number(path, columns, classes)
            check_labels(str(path), labels, sum(sizes.values()), len(classes))
    images = kind == "images"
    items = _resized(arrays, image_size, memory_limit) if images else _join(arrays, np.float32)
    return Dataset(
        name=path.stem,
        kind="images" if images else "features",
        items=items,
        labels=labels,
        parts=consecutive_parts(sizes),
        classes=classes or (),
    )


_MOST_DEFLATED = 1032  # times that deflate can shrink anything


@contextmanager
def _open(path: Path) -> Iterator[tuple[list[str], Reader]]:
    """Names of the arrays in a file or folder, and a function that reads one by its name.

    Arrays of a folder are mapped, and stay so after closing; those of a file are read.
    """

    def careful(read: Reader) -> Reader:
        def reader(name: str) -> np.ndarray:
            try:
                return read(name)
            # A damaged header makes NumPy raise nearly anything, from KeyError to TokenError.
            except Exception as error:
                reason = str(error) or type(error).__name__
                if "allow_pickle" in reason or "object" in reason:
                    reason = "it holds Python objects, which are never unpickled; save numbers"
                raise ValueError(f"{path}: cannot read {name}: {reason}") from error

        return reader

    if path.is_dir():
        names = sorted(file.stem for file in path.glob("*.npy") if file.name[0] != ".")
        yield (
            names,
            careful(lambda name: np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)),
        )
        return
    # Opened here, as NumPy leaves a file that it cannot read open.
    with open(path, "rb") as file:
        try:
            arrays = np.load(file, allow_pickle=False)
        except Exception as error:
            raise ValueError(f"{path}: not a readable .npz file ({error})") from error
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise ValueError(
                f"{path}: holds a single array; give an .npz with train_images, train_labels, ... "
                "(np.savez), or a folder of .npy files with these names"
            )
        size = file.seek(0, io.SEEK_END)

        archive = arrays.zip
        assert archive is not None  # it is only once closed

        def read(name: str) -> np.ndarray:
            _check_member(archive, f"{name}.npy", size)
            return arrays[name]

        with arrays:
            yield sorted(arrays.files), careful(read)


def _check_member(archive: zipfile.ZipFile, name: str, file_size: int) -> None:
    """Refuses an array whose header promises more than is there, before room is made for it."""
    info = archive.getinfo(name)
    if info.compress_size > file_size or info.file_size > _MOST_DEFLATED * info.compress_size:
        raise ValueError("it claims to be larger than the file")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_2_0
        if version == (1, 0):
            header = np.lib.format.read_array_header_1_0
        shape, _, dtype = header(member)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        need, there = math.prod(shape) * dtype.itemsize, info.file_size - member.tell()
    if need != there:
        raise ValueError(f"its header promises {need} bytes, and {there} follow")


def _layout(path: Path, names: list[str]) -> tuple[str, list[str]]:
    """Whether these are images or features, and the parts there are; refuses unknown names."""
    known = ["classes", "images", "features", "labels"]
    known += [f"{part}_{kind}" for part in PARTS[:-1] for kind in (*_KINDS, "labels")]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known names: {', '.join(known)}"
            raise ValueError(f"{path}: unknown array {name!r}; {hint}")
    kinds = [kind for kind in _KINDS if any(name.endswith(kind) for name in names)]
    if len(kinds) != 1:
        found = "both images and features" if kinds else "neither images nor features"
        raise ValueError(
            f"{path}: holds {found}; give train_images or train_features (test_, database_, "
            "query_, ... likewise), or just images or features"
        )
    parts = [part for part in PARTS if f"{part}_{kinds[0]}" in names]
    if kinds[0] in names:
        if parts:
            raise ValueError(f"{path}: {kinds[0]} stands beside {parts[0]}_{kinds[0]}; give one")
        parts = ["all"]
    for name in names:
        part = "all" if name == "labels" else name.removesuffix("_labels")
        if name.endswith("labels") and part not in parts:
            raise ValueError(f"{path}: {name} has no {name.replace('labels', kinds[0])} beside it")
    return kinds[0], parts


def _check_items(name: str, array: np.ndarray, kind: str) -> np.ndarray:
    """Images as uint8 (n, h, w, c), features as floats (n, d) without NaN or infinity."""
    if kind == "images":
        if array.dtype != np.uint8:
            unit = (
                array.dtype.kind == "f" and array.size > 0 and 0 <= array.min() <= array.max() <= 1
            )
            how = "(images * 255).round().astype(np.uint8)" if unit else "values 0..255 as np.uint8"
            raise ValueError(f"{name} are {array.dtype}; images must be uint8; save {how}")
        if array.ndim == 3:
            array = array[..., None]
        if array.ndim == 4 and array.shape[3] not in (1, 3) and array.shape[1] in (1, 3):
            raise ValueError(
                f"{name} of shape {array.shape} have their channels first; save "
                "images.transpose(0, 2, 3, 1)"
            )
        if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:]:
            raise ValueError(
                f"{name} have shape {array.shape}; wanted is (n, height, width) or (n, height, "
                "width, channels) with 1 or 3 channels"
            )
        return array
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"{name} are {array.dtype}; save features as float32 or float16")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"{name} have shape {array.shape}; wanted is (n, d), a vector for each item"
        )
    step = max(1, _CHUNK_BYTES // (4 * array.shape[1]))
    for start in range(0, len(array), step):
        # float64 values beyond the range of float32 become infinite here, and are told apart.
        with np.errstate(over="ignore"):
            finite = np.isfinite(array[start : start + step].astype(np.float32)).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise ValueError(f"{name} row {row} is not finite (NaN, infinity or beyond float32)")
    return array


def _check_column(name: str, labels: np.ndarray, n: int) -> np.ndarray:
    """Labels of one part: integers or text (n,), or bool (n, classes)."""
    if labels.ndim == 0 or len(labels) != n:
        found = "a single value" if labels.ndim == 0 else len(labels)
        raise ValueError(f"{name}: {found} for {n} items")
    if labels.ndim == 2 and labels.shape[1] == 1 and labels.dtype.kind in "iu":
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "biu" and labels.shape[1] > 0:
        wrong = np.flatnonzero(((labels != 0) & (labels != 1)).any(axis=1))
        if wrong.size:
            raise ValueError(f"{name}: row {wrong[0]} has other values than 0 and 1")
        return labels.astype(bool)
    if labels.ndim != 1 or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"{name}: {labels.dtype} of shape {labels.shape}; wanted are integers or text (n,), or "
            "0/1 flags (n, classes)"
        )
    if labels.dtype.kind == "i" and labels.size and labels.min() < 0:
        raise ValueError(
            f"{name}: row {int(np.argmax(labels < 0))} is negative; class numbers start at 0; "
            "leave out items without a label"
        )
    return np.asarray(labels)


def _class_names(path: Path, names: np.ndarray) -> tuple[str, ...]:
    """The optional array of class names."""
    if names.ndim != 1 or names.dtype.kind != "U" or np.unique(names).size != names.size:
        raise ValueError(f"{path}: classes must be a 1-d array of different texts")
    return tuple(str(name) for name in names)


def _number(
    path: Path, columns: list[np.ndarray], names: tuple[str, ...] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels of all parts as int32 or bool, and the class names."""
    forms = {(column.ndim, column.dtype.kind == "U", column.shape[1:]) for column in columns}
    if len(forms) > 1:
        raise ValueError(f"{path}: labels of the parts differ in form; save all in the same way")
    labels = np.concatenate(columns)
    if labels.ndim == 2:
        if names is not None and len(names) != labels.shape[1]:
            raise ValueError(f"{path}: {len(names)} classes for {labels.shape[1]} label columns")
        return labels, names or tuple(str(number) for number in range(labels.shape[1]))
    if names is not None and labels.dtype.kind != "U":
        if labels.size and labels.max() >= len(names):
            raise ValueError(f"{path}: label {labels.max()}, but classes has {len(names)} names")
        return labels.astype(np.int32), names
    if names is not None:
        order = {name: number for number, name in enumerate(names)}
        unknown = sorted(set(labels.tolist()) - order.keys())
        if unknown:
            raise ValueError(f"{path}: label {unknown[0]!r} is not among classes")
        return np.array([order[label] for label in labels.tolist()], np.int32), names
    found, numbers = np.unique(labels, return_inverse=True)
    return numbers.reshape(-1).astype(np.int32), tuple(str(label) for label in found)


def _resized(arrays: list[np.ndarray], image_size: int | None, memory_limit: int | None) -> Items:
    """The images of all parts as squares of a size, copied only where they are not."""
    shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
    if image_size is None or shape[1:3] == (image_size, image_size):
        return _join(arrays, np.uint8)
    if is_large(shape, image_size):
        return Enlarged(_join(arrays, np.uint8), image_size)
    check_memory((shape[0], image_size, image_size, shape[3]), memory_limit)
    own = [resize(array, image_size, memory_limit=memory_limit) for array in arrays]
    return _join(own, np.uint8)


def _join(arrays: list[np.ndarray], dtype: type) -> Items:
    """One sequence over all parts, copied only where they are in memory already."""
    if len(arrays) == 1 and arrays[0].dtype == dtype:
        return arrays[0]
    if any(_mapped(array) for array in arrays):
        return Joined(arrays, dtype)
    return np.concatenate(arrays, dtype=dtype)


def _mapped(array: np.ndarray) -> bool:
    """Whether an array, or what it is a view of, is a memory map."""
    return isinstance(array, np.memmap) or isinstance(array.base, np.memmap)
