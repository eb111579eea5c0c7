"""Datasets that tensorflow-datasets has prepared, read without TensorFlow."""

import difflib
import importlib.util
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxhash.data.dataset import Dataset, consecutive_parts
from jaxhash.data.decoding import Undecodable, check_memory, check_size, decode, decode_all
from jaxhash.data.enlarged import Enlarged, is_large
from jaxhash.data.tfrecord import read_records

_NAME = re.compile(r"(?P<name>[a-z][a-z0-9_]*)(/(?P<config>[^/:]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_CHUNK = 1024
_SMALL = 64 * 64  # pixels below which a second thread only waits for the first one's lock


class Name(NamedTuple):
    """The three pieces of "name/config:version"; the last two can be absent."""

    name: str
    config: str | None
    version: str | None


def parse_name(text: str) -> Name | None:
    """Takes a dataset name apart as tensorflow-datasets spells it; None for other text.

    Example:
        >>> parse_name("imagenet_resized/32x32:0.1.0")
        Name(name='imagenet_resized', config='32x32', version='0.1.0')
    """
    match = _NAME.fullmatch(text)
    return None if match is None else Name(match["name"], match["config"], match["version"])


def find(name: Name, data_dir: Path) -> Path | None:
    """The folder a dataset was prepared in: `<data_dir>/<name>[/<config>]/<version>`.

    Without a version it is the newest one there.

    Raises:
        ValueError: where several configurations are prepared and none is named.
    """
    base = data_dir / name.name
    if name.config is not None:
        return newest(base / name.config, name.version)
    if (found := newest(base, name.version)) is not None:
        return found
    folders = sorted(path for path in base.iterdir() if path.is_dir()) if base.is_dir() else []
    configs = {path.name: newest(path, name.version) for path in folders}
    prepared = {config: path for config, path in configs.items() if path is not None}
    if len(prepared) > 1:
        choices = ", ".join(f"{name.name}/{config}" for config in prepared)
        raise ValueError(f"{name.name}: prepared in several configurations, name one: {choices}")
    return next(iter(prepared.values()), None)


def load(
    folder: Path,
    *,
    image_size: int | None = None,
    memory_limit: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Reads a prepared image classification dataset into memory.

    The splits train, validation and test become parts of the same name; where there is no test
    split, validation is the test part; a single split becomes the part `all`. Further splits
    are left out. Classes come from a ClassLabel feature, or a Sequence of ClassLabel for several
    classes an image. Images of one size that would take more than `enlarged.MOST` bytes as larger
    squares stay as they are, and are enlarged when they are read.

    Args:
        folder: A folder with `dataset_info.json`, in array_record or tfrecord format.
        image_size: Side of the squares images are resampled to, as in `decoding.decode`. Needed
            where they differ in size.
        memory_limit: Bytes the decoded images may take; half of the free memory by default.
        on_progress: Called now and then with the number of images done and the number of images.

    Raises:
        ValueError: where the format, the features or a record cannot be used, or the images do
            not fit in memory.
    """
    check_size(image_size)
    # A third of a second, and protobuf: only for those who read such a folder.
    import tensorflow_datasets as tfds

    try:
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        features = tfds.features.FeaturesDict.from_config(os.fspath(folder))
        builder = tfds.builder_from_directory(os.fspath(folder))
        info = {"name": builder.info.name} | info
        for split in builder.info.splits.values():
            len(split.filepaths)  # a template that cannot be filled in fails only when it is asked
    # Damaged descriptions raise nearly anything: JSON's, protobuf's and tensorflow-datasets' own.
    except Exception as error:
        raise ValueError(
            f"{folder}: its descriptions, dataset_info.json and features.json, cannot be read "
            f"({type(error).__name__}: {error}); prepare it again"
        ) from error
    picture_key = image_key(info["name"], features, tfds)
    label_key = _label_key(info, features, tfds)
    # Only these two are parsed, whatever else a record holds, and the image is decoded here.
    pair = tfds.features.FeaturesDict({key: features[key] for key in (picture_key, label_key)})
    encoded = {picture_key: tfds.decode.SkipDecoding()}
    splits = _choose_splits(builder, info["name"])
    sizes = {part: builder.info.splits[split].num_examples for part, split in splits.items()}
    total = sum(sizes.values())

    label = features[label_key]
    several = not isinstance(label, tfds.features.ClassLabel)
    label = label.feature if several else label
    names = tuple(label.names or map(str, range(label.num_classes)))
    labels = np.zeros((total, len(names)) if several else total, bool if several else np.int32)
    declared = features[picture_key].shape
    channels = 1 if declared[-1] == 1 else 3
    enlarged = None not in declared[:2] and is_large((total, *declared[:2], channels), image_size)
    size = None if enlarged else image_size
    items: np.ndarray | None = None
    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for part, split in splits.items():
            paths = [os.fspath(path) for path in builder.info.splits[split].filepaths]
            records = _records(paths, info.get("fileFormat", "tfrecord"))
            for start in range(0, sizes[part], _CHUNK):
                chunk = list(itertools.islice(records, min(_CHUNK, sizes[part] - start)))
                if len(chunk) < min(_CHUNK, sizes[part] - start):
                    raise ValueError(
                        f"{folder}: split {split} ends after {start + len(chunk)} of its "
                        f"{sizes[part]} records; prepare it again"
                    )
                try:
                    examples = [pair.deserialize_example_np(raw, decoders=encoded) for raw in chunk]
                except Exception as error:  # of protobuf's own kinds, by its implementation
                    raise ValueError(
                        f"{folder}: a record of {split} between {start} and {start + len(chunk)} "
                        f"is damaged ({error}); prepare it again"
                    ) from error
                files = [example[picture_key] for example in examples]
                if items is None:
                    items = _allocate(info["name"], files[0], total, size, channels, memory_limit)
                out = items[done : done + len(chunk)]
                small = out.shape[1] * out.shape[2] <= _SMALL
                failed = decode_all(files, out, size=size, pool=None if small else threads)
                if failed:
                    row, reason = failed[0]
                    hint = "" if image_size else "; where images differ in size, give image_size"
                    raise ValueError(f"{folder}: record {start + row} of {split}: {reason}{hint}")
                for row, example in enumerate(examples):
                    label = _checked(example[label_key], len(names), several)
                    if label is None:
                        raise ValueError(
                            f"{folder}: record {start + row} of {split} is damaged (its label is "
                            f"{example[label_key]!r}, of {len(names)} classes); prepare it again"
                        )
                    labels[(done + row, label) if several else done + row] = several or label
                done += len(chunk)
                if on_progress is not None:
                    on_progress(done, total)
    if items is None:
        raise ValueError(f"{folder}: its splits are empty; prepare it again")
    if not several and labels.min() < 0:
        raise ValueError(
            f"{folder}: records without a label in {', '.join(splits.values())}; this dataset "
            "hides the labels of a split, and cannot be used as it is"
        )
    return Dataset(
        name=info["name"] + (f"/{info['configName']}" if info.get("configName") else ""),
        kind="images",
        items=items if image_size is None or size else Enlarged(items, image_size),
        labels=labels,
        parts=consecutive_parts(sizes),
        classes=names,
    )


def _checked(label: Any, classes: int, several: bool) -> Any:
    """A record's label or labels; None for what is no class, nor the -1 of one without."""
    array = np.asarray(label)
    if array.ndim != several or (array.size and array.dtype.kind not in "iu"):
        return None
    inside = (array >= (0 if several else -1)) & (array < classes)
    return array.astype(np.int64) if inside.all() else None


def download(name: str, data_dir: Path) -> Path:
    """Downloads and prepares a dataset with tensorflow-datasets; returns its folder.

    Raises:
        ValueError: where TensorFlow, which prepares it, is not installed.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise ValueError(
            f"{name}: tensorflow-datasets needs TensorFlow to download and prepare it; install it "
            "(pip install tensorflow-cpu) and try again; it is not needed afterwards"
        )
    import tensorflow_datasets as tfds

    builder = tfds.builder(name, data_dir=os.fspath(data_dir), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)


def check_known(name: str, more: tuple[str, ...] = ()) -> None:
    """Refuses a name that no dataset has, and says which ones come near.

    Args:
        name: The name, without configuration and version.
        more: Names of datasets known from elsewhere.

    Raises:
        ValueError: where neither tensorflow-datasets nor `more` has the name.
    """
    from tensorflow_datasets.core import registered

    known = sorted({*registered.list_imported_builders(), *more})
    if name in known:
        return
    near = difflib.get_close_matches(name.lower(), known, n=5, cutoff=0.5)
    hint = f"did you mean {', '.join(near)}?" if near else f"some that exist: {', '.join(more)}"
    raise ValueError(
        f"{name}: neither a file or folder here nor a dataset of tensorflow-datasets; {hint}"
    )


def newest(base: Path, version: str | None = None) -> Path | None:
    """The version folder asked for, or the newest, that holds a finished preparation."""
    if not base.is_dir():
        return None
    found = [
        path
        for path in base.iterdir()
        if _VERSION.fullmatch(path.name)
        and version in (None, path.name)
        and (path / "dataset_info.json").is_file()
    ]
    return max(found, key=lambda path: [int(x) for x in path.name.split(".")], default=None)


def image_key(name: str, features: Any, tfds: Any) -> str:
    """Name of the one image feature."""
    keys = [key for key in features if isinstance(features[key], tfds.features.Image)]
    key = "image" if "image" in keys else keys[0] if len(keys) == 1 else None
    if key is None:
        raise ValueError(f"{name}: no image feature to use; its features: {', '.join(features)}")
    if features[key].np_dtype != np.uint8:
        raise ValueError(f"{name}: feature {key} has {features[key].np_dtype} pixels, not uint8")
    return key


def _label_key(info: dict[str, Any], features: Any, tfds: Any) -> str:
    """Name of the label: the supervised one, else `label` or `labels`, else the only one."""

    def is_label(key: str) -> bool:
        feature = getattr(features[key], "feature", features[key])
        return isinstance(feature, tfds.features.ClassLabel)

    keys = [key for key in features if is_label(key)]
    pair = info.get("supervisedKeys", {}).get("tuple", {}).get("items", [{}, {}])
    for key in (pair[-1].get("featureKey"), "label", "labels"):
        if key in keys:
            return key
    if len(keys) == 1:
        return keys[0]
    raise ValueError(f"{info['name']}: no class label to use; its features: {', '.join(features)}")


def _choose_splits(builder: Any, name: str) -> dict[str, str]:
    """Split by part name; shards that are missing are found here, not hours later."""
    splits = {
        split: split for split in ("train", "validation", "test") if split in builder.info.splits
    }
    if "validation" in splits and "test" not in splits:
        splits["test"] = splits.pop("validation")
    if not splits:
        raise ValueError(
            f"{name}: has the splits {', '.join(builder.info.splits)}, none of train, "
            "validation and test"
        )
    for split in splits.values():
        for path in builder.info.splits[split].filepaths:
            if not path.exists():
                raise ValueError(f"{name}: {path} is missing; copy it there or prepare it again")
    return {"all": next(iter(splits.values()))} if len(splits) == 1 else splits


def _records(paths: list[str], file_format: str) -> Iterator[bytes]:
    """Serialised records of a split, in the order of its shards."""
    if file_format == "array_record":
        return _array_records(paths)
    if file_format == "tfrecord":
        return itertools.chain.from_iterable(read_records(path) for path in paths)
    raise ValueError(
        f"{Path(paths[0]).parent}: prepared as {file_format}; only array_record and tfrecord are "
        "read; prepare it again with file_format='array_record'"
    )


def _array_records(paths: list[str]) -> Iterator[bytes]:
    """Records of array_record files, in order."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    try:
        with ArrayRecordDataSource(paths) as source:
            for start in range(0, len(source), _CHUNK):
                yield from source.__getitems__(range(start, min(start + _CHUNK, len(source))))
    except (RuntimeError, IndexError) as error:
        raise ValueError(
            f"{Path(paths[0]).parent}: its array_record files are damaged ({error}); "
            "prepare it again"
        ) from error


def _allocate(
    name: str, first: bytes, n: int, size: int | None, channels: int, memory_limit: int | None
) -> np.ndarray:
    """Room for all images of the size of the first one, where there is that much memory."""
    try:
        shape = (n, *decode(first, size=size, channels=channels).shape)
    except Undecodable as error:
        raise ValueError(f"{name}: its first image cannot be decoded: {error}") from error
    check_memory(shape, memory_limit)
    return np.empty(shape, np.uint8)
