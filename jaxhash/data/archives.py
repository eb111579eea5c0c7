"""The original archives of well-known datasets, read as their authors published them."""

import gzip
import math
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxhash.data import matlab, pickled_arrays
from jaxhash.data.dataset import Dataset, consecutive_parts
from jaxhash.data.decoding import Undecodable, check_size, decode, read_header
from jaxhash.data.enlarged import resized

_DIGITS = tuple("0123456789")
_FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_CIFAR10 = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
_MAX_MEMBER = (
    1 << 28
)  # bytes one member of an archive may unpack to; the largest real one has 31 MB


# What gzip, tar and zip raise on damaged files.
_DAMAGE = (
    *(OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile),
    *(NotImplementedError, RuntimeError, UnicodeDecodeError),
)


class BrokenArchive(ValueError):
    """An archive that is damaged, cut short, or not what its name says."""


@dataclass(frozen=True)
class Archive:
    """How one dataset is published.

    Attributes:
        wanted: What to fetch, in words.
        files: Alternatives, each a tuple of file names that are enough to load it.
        read: `read(paths, image_size)` gives images by part, labels by part and class names.
        source: Where the files come from.
    """

    wanted: str
    files: tuple[tuple[str, ...], ...]
    read: Callable[[list[Path], int | None], "Contents"]
    source: str


@dataclass(frozen=True)
class Contents:
    """Images uint8 (n, h, w, c) and int32 labels (n,) by part."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    classes: tuple[str, ...]


def find(name: str, data_dir: Path) -> list[Path] | None:
    """The original files of a dataset, where they lie in one of the places looked in.

    These are `<data_dir>/<name>`, `<data_dir>` and `<data_dir>/downloads/manual`, in this order.
    """
    for folder in places(name, data_dir):
        for files in ARCHIVES[name].files:
            paths = [folder / file for file in files]
            if all(path.exists() for path in paths):
                return paths
    return None


def places(name: str, data_dir: Path) -> list[Path]:
    """Folders that are searched for the original files."""
    return [data_dir / name, data_dir, data_dir / "downloads" / "manual"]


def load(
    name: str,
    paths: list[Path],
    *,
    image_size: int | None = None,
    memory_limit: int | None = None,
) -> Dataset:
    """Reads the original files of a dataset, in the order they hold.

    Args:
        name: One of `ARCHIVES`.
        paths: The files, as `find` gives them.
        image_size: Side in pixels to resample to; None keeps the published size.
        memory_limit: Bytes the resampled images may take; half of the free memory by default.

    Raises:
        BrokenArchive: where a file is damaged, or belongs to another dataset.
        ValueError: where the images would not fit in memory.
    """
    check_size(image_size)
    try:
        contents = ARCHIVES[name].read(paths, image_size)
    except _DAMAGE as error:
        files = ", ".join(str(path) for path in paths)
        raise BrokenArchive(f"{name}: cannot read {files} ({error}); fetch it again") from error
    for part, labels in contents.labels.items():
        if len(labels) != len(contents.images[part]):
            raise BrokenArchive(
                f"{name}: {len(contents.images[part])} images but {len(labels)} labels in the "
                f"{part} part; the files do not belong together"
            )
        if labels.size == 0 or labels.min() < 0 or labels.max() >= len(contents.classes):
            raise BrokenArchive(f"{name}: labels of the {part} part are not those of {name}")
    images = np.concatenate(list(contents.images.values()))
    return Dataset(
        name=name,
        kind="images",
        items=resized(images, image_size, memory_limit),
        labels=np.concatenate(list(contents.labels.values())).astype(np.int32),
        parts=consecutive_parts({part: len(rows) for part, rows in contents.labels.items()}),
        classes=contents.classes,
    )


# ---- MNIST and Fashion-MNIST: idx files -----------------------------------------------------


def read_idx(path: Path) -> np.ndarray:
    """One idx file (gzipped or not) of unsigned bytes as an array.

    Layout: two zero bytes, the type (8 = unsigned byte), the number of axes, the length of each
    axis as a big-endian 32-bit integer, then the values.

    Raises:
        BrokenArchive: where the file is not that.
    """
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        with gzip.open(path) as file:
            data = file.read(_MAX_MEMBER + 1)
        if len(data) > _MAX_MEMBER:
            raise BrokenArchive(f"{path}: unpacks to an absurd size; fetch it again")
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or len(data) < 4 + 4 * data[3]:
        raise BrokenArchive(f"{path}: not an idx file of unsigned bytes; fetch it again")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if values.size != math.prod(shape):
        raise BrokenArchive(
            f"{path}: {values.size} values, but its header says {math.prod(shape)}; fetch it again"
        )
    return values.reshape(shape)


# The four files of both datasets have the same names; the first labels tell them apart.
_FIRST_LABELS = {
    "mnist": (5, 0, 4, 1, 9, 2, 1, 3, 1, 4),
    "fashion_mnist": (9, 0, 0, 3, 0, 2, 7, 2, 5, 5),
}


def _read_mnist(
    name: str, classes: tuple[str, ...]
) -> Callable[[list[Path], int | None], Contents]:
    def read(paths: list[Path], image_size: int | None) -> Contents:
        train, train_labels, test, test_labels = (read_idx(path) for path in paths)
        if train.ndim != 3 or test.ndim != 3 or train_labels.ndim != 1 or test_labels.ndim != 1:
            raise BrokenArchive(f"{name}: images and labels are mixed up in {paths[0].parent}")
        for other, first in _FIRST_LABELS.items():
            if other != name and tuple(train_labels[: len(first)]) == first:
                raise BrokenArchive(
                    f"{name}: {paths[1]} is from {other}, whose files have the same names; put "
                    f"each dataset in a folder of its own: {paths[1].parent / name}"
                )
        return Contents(
            {"train": train[..., None], "test": test[..., None]},
            {"train": train_labels, "test": test_labels},
            classes,
        )

    return read


def _idx_files(separator: str, ending: str) -> tuple[str, ...]:
    return tuple(
        f"{part}-{kind}{separator}idx{axes}-ubyte{ending}"
        for part in ("train", "t10k")
        for kind, axes in (("images", 3), ("labels", 1))
    )


_IDX_FILES = tuple(_idx_files(separator, ending) for ending in (".gz", "") for separator in "-.")


# ---- CIFAR-10: a tar of binary records, or of pickled batches -------------------------------

_CIFAR_BINARY = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
_CIFAR_PYTHON = [name.removesuffix(".bin") for name in _CIFAR_BINARY]


def _read_cifar10(paths: list[Path], image_size: int | None) -> Contents:
    """Both archives hold the same images in the same order, channels first."""
    files = dict(_members(paths[0], {*_CIFAR_BINARY, *_CIFAR_PYTHON}))
    binary = _CIFAR_BINARY[0] in files
    names = _CIFAR_BINARY if binary else _CIFAR_PYTHON
    missing = [name for name in names if name not in files]
    if missing:
        raise BrokenArchive(f"cifar10: {paths[0]} lacks {', '.join(missing)}; fetch it again")
    batches = [
        (_binary_batch if binary else _python_batch)(name, files.pop(name)) for name in names
    ]
    parts = {"train": batches[:-1], "test": batches[-1:]}
    return Contents(
        {part: np.concatenate([pixels for pixels, _ in group]) for part, group in parts.items()},
        {part: np.concatenate([labels for _, labels in group]) for part, group in parts.items()},
        _CIFAR10,
    )


def _binary_batch(name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Records of one label byte and 3072 pixel bytes."""
    if len(data) % 3073:
        raise BrokenArchive(f"cifar10: {name} is not a whole number of records; fetch it again")
    records = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    return _channels_last(records[:, 1:]), records[:, 0]


def _python_batch(name: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dict with b"data" uint8 (n, 3072) and b"labels", a list."""
    try:
        batch = pickled_arrays.load(data)
        batch = {key.decode() if isinstance(key, bytes) else key: batch[key] for key in batch}
        pixels, labels = batch["data"].array(), np.array(batch["labels"], np.int32)
    # A broken pickle can raise nearly anything on its way.
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise BrokenArchive(f"cifar10: {name} is damaged ({reason}); fetch it again") from error
    if pixels.shape != (labels.size, 3072) or labels.ndim != 1:
        raise BrokenArchive(
            f"cifar10: {name} has pixels {pixels.shape} and labels {labels.shape}; fetch it again"
        )
    return _channels_last(pixels), labels


def _channels_last(pixels: np.ndarray) -> np.ndarray:
    """(n, 3072) with channels first to (n, 32, 32, 3)."""
    return np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _members(path: Path, wanted: set[str]) -> Iterator[tuple[str, bytes]]:
    """(name without folders, contents) of the wanted files in a tar, or in a folder unpacked."""
    if path.is_dir():
        yield from (
            (file.name, file.read_bytes()) for file in path.iterdir() if file.name in wanted
        )
        return
    with tarfile.open(path, "r:*") as tar:
        for member in tar:
            name = Path(member.name).name
            if member.isfile() and name in wanted:
                if member.size > _MAX_MEMBER:
                    raise BrokenArchive(f"{path}: {name} has an absurd size; fetch it again")
                stream = tar.extractfile(member)
                if stream is not None:
                    yield name, stream.read()


# ---- SVHN, cropped digits: MATLAB files -----------------------------------------------------


def _read_svhn(paths: list[Path], image_size: int | None) -> Contents:
    """X uint8 (32, 32, 3, n) and y (n, 1) from 1 to 10, where 10 means the digit 0."""
    images, labels = {}, {}
    for part, path in zip(("train", "test"), paths, strict=True):
        try:
            contents = matlab.read(path, ("X", "y"))
        except ValueError as error:
            raise BrokenArchive(f"svhn_cropped: {error}; fetch it again") from error
        if not {"X", "y"} <= contents.keys():
            raise BrokenArchive(f"svhn_cropped: {path} lacks the arrays X and y; fetch it again")
        pixels, digits = contents["X"], contents["y"].reshape(-1)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[:3] != (32, 32, 3):
            raise BrokenArchive(
                f"svhn_cropped: X of {path} is {pixels.dtype} {pixels.shape}, and should be uint8 "
                "(32, 32, 3, n); fetch it again"
            )
        if not np.isin(digits, range(11)).all():
            raise BrokenArchive(f"svhn_cropped: y of {path} is not from 1 to 10; fetch it again")
        images[part] = np.ascontiguousarray(pixels.transpose(3, 0, 1, 2))
        labels[part] = digits.astype(np.int32) % 10
    return Contents(images, labels, _DIGITS)


# ---- UC Merced land use: a zip of TIFF files ------------------------------------------------


def _read_uc_merced(paths: list[Path], image_size: int | None) -> Contents:
    """`UCMerced_LandUse/Images/<class>/<class><number>.tif`, nearly all of 256x256 pixels."""
    found = sorted(_tif_files(paths[0]), key=lambda file: file[:2])
    if not found:
        raise BrokenArchive(f"uc_merced: {paths[0]} holds no Images/<class>/*.tif; fetch it again")
    classes = tuple(sorted({class_name for class_name, _, _ in found}))
    pixels = []
    for class_name, number, data in found:
        try:
            if image_size is None:
                header = read_header(data)
                if (header.width, header.height) != (256, 256):
                    raise ValueError(
                        f"image_size: needed for uc_merced, as not all of its images have 256x256 "
                        f"pixels ({class_name}{number:02d} has {header.width}x{header.height}); "
                        "e.g. image_size=256 or 64"
                    )
            pixels.append(decode(data, size=image_size))
        except Undecodable as error:
            raise BrokenArchive(f"uc_merced: {class_name}{number:02d}.tif: {error}") from error
    labels = np.array([classes.index(class_name) for class_name, _, _ in found], np.int32)
    return Contents({"all": np.stack(pixels)}, {"all": labels}, classes)


def _tif_files(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """(class, number, contents) of the images in the zip, or in a folder unpacked."""

    def parse(file: str) -> tuple[str, int] | None:
        folders, _, name = file.rpartition("/")
        class_name = folders.rpartition("/")[2]
        stem, _, ending = name.rpartition(".")
        number = stem.removeprefix(class_name)
        if ending.lower() != "tif" or not class_name or not number.isdigit():
            return None
        return class_name, int(number)

    if path.is_dir():
        for file in path.rglob("*.tif"):
            if (key := parse(file.as_posix())) is not None:
                yield *key, file.read_bytes()
        return
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if (key := parse(info.filename)) is not None:
                if info.file_size > _MAX_MEMBER:
                    raise BrokenArchive(f"{path}: {info.filename} has an absurd size")
                yield *key, archive.read(info)


ARCHIVES = {
    "mnist": Archive(
        ", ".join(_IDX_FILES[0]),
        _IDX_FILES,
        _read_mnist("mnist", _DIGITS),
        "http://yann.lecun.com/exdb/mnist",
    ),
    "fashion_mnist": Archive(
        ", ".join(_IDX_FILES[0]),
        _IDX_FILES,
        _read_mnist("fashion_mnist", _FASHION),
        "https://github.com/zalandoresearch/fashion-mnist",
    ),
    "cifar10": Archive(
        "cifar-10-binary.tar.gz or cifar-10-python.tar.gz",
        (
            ("cifar-10-binary.tar.gz",),
            ("cifar-10-python.tar.gz",),
            ("cifar-10-batches-bin",),
            ("cifar-10-batches-py",),
        ),
        _read_cifar10,
        "https://www.cs.toronto.edu/~kriz/cifar.html",
    ),
    "svhn_cropped": Archive(
        "train_32x32.mat and test_32x32.mat",
        (("train_32x32.mat", "test_32x32.mat"),),
        _read_svhn,
        "http://ufldl.stanford.edu/housenumbers",
    ),
    "uc_merced": Archive(
        "UCMerced_LandUse.zip",
        (("UCMerced_LandUse.zip",), ("UCMerced_LandUse",)),
        _read_uc_merced,
        "http://weegee.vision.ucmerced.edu/datasets/landuse.html",
    ),
}
"""Datasets whose original files are read directly, by their tensorflow-datasets name."""
