"""Where images and labels come from: one function, `load`, and a table of sources.

To add a dataset: write a file here with a function that returns a `Dataset`, and give it a row in
`EMBEDDED` (nothing to fetch) or in `archives.ARCHIVES` (original files of a published dataset).
"""

import os
from collections.abc import Callable
from pathlib import Path

from jaxhash.data import archives, arrays, digits, folders, prepared
from jaxhash.data.dataset import Dataset, Items
from jaxhash.data.decoding import Undecodable
from jaxhash.data.folders import load_images
from jaxhash.data.images import Images
from jaxhash.data.protocols import PROTOCOLS, Split, default_protocol, split

__all__ = [
    "EMBEDDED",
    "PROTOCOLS",
    "Dataset",
    "Images",
    "Items",
    "Split",
    "Undecodable",
    "default_data_dir",
    "default_protocol",
    "load",
    "load_images",
    "split",
]

EMBEDDED: dict[str, Callable[[int | None], Dataset]] = {"digits": digits.load}
"""Datasets that come with an installed package: name -> load(image_size)."""


def load(
    data: str | Path,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    fallback_size: int | None = None,
    download: bool = False,
    channels: int | None = None,
    max_undecodable: float = 0.01,
    memory_limit: int | None = None,
    threads: int | None = None,
    verify: bool = True,
    on_demand: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Loads a dataset by name or path; nothing is ever fetched unless `download` says so.

    A name (`digits`, `mnist`, `cifar10:3.0.2`, `imagenet_resized/32x32`, ...) is looked up in
    `data_dir`: first what tensorflow-datasets prepared, `<data_dir>/<name>/<version>`, then the
    original archives in `<data_dir>/<name>`, `<data_dir>` or `<data_dir>/downloads/manual`. A path
    is an `.npz`, a folder of `.npy`, a folder tensorflow-datasets prepared, or a folder of image
    files. Where a name is also a folder here, write ./name for the folder.

    Args:
        data: The name or path.
        data_dir: Where datasets with a name lie; `TFDS_DATA_DIR` from the environment, or
            ~/tensorflow_datasets, by default.
        image_size: Side of the squares, in pixels, that images are resampled to. None keeps the
            dataset's own size (32 for the digits).
        fallback_size: For folders of images without one size in common; see `folders.load`.
        download: Allow tensorflow-datasets to download and prepare what is missing. Needs
            TensorFlow.
        channels: For folders of images: 3 or 1; see `folders.load`.
        max_undecodable: For folders of images: largest share of files that may fail, 0..1.
        memory_limit: Bytes that decoded images may take; half of the free memory by default.
            Folders of images that need more are decoded on demand; anything else is refused,
            but for small images that are kept as they are and enlarged on demand (`enlarged`).
        threads: Number of decoding threads; all cores by default.
        verify: For folders too large for memory; see `folders.load`.
        on_demand: For folders of images: decode nothing now; see `folders.load`.
        on_progress: Called now and then with the number of images done and the number of images.

    Raises:
        ValueError: where there is no such data, with what to put where; or the data cannot be
            used, with the reason.

    Example:
        >>> load("digits", image_size=8).items.shape
        (1797, 8, 8, 1)
    """
    text = os.fspath(data)
    if not text:
        raise ValueError("data: empty; give the name of a dataset or a path")
    if text in EMBEDDED:
        return EMBEDDED[text](image_size)
    name = prepared.parse_name(text) if isinstance(data, str) else None
    root = default_data_dir() if data_dir is None else Path(data_dir).expanduser()
    path = Path(text).expanduser()

    found = prepared.find(name, root) if name else None
    if found is None and path.is_dir():
        is_version = (path / "dataset_info.json").is_file()
        found = path if is_version else prepared.newest(path)
    if found is not None:
        return prepared.load(
            found, image_size=image_size, memory_limit=memory_limit, on_progress=on_progress
        )
    if name and name.name in archives.ARCHIVES and (files := archives.find(name.name, root)):
        return archives.load(name.name, files, image_size=image_size, memory_limit=memory_limit)
    if path.is_dir() and any(path.glob("*.npy")):
        return arrays.load(path, image_size=image_size, memory_limit=memory_limit)
    if path.is_dir():
        return folders.load(
            path,
            image_size=image_size,
            fallback_size=fallback_size,
            channels=channels,
            max_undecodable=max_undecodable,
            memory_limit=memory_limit,
            threads=threads,
            verify=verify,
            on_demand=on_demand,
            on_progress=on_progress,
        )
    if path.is_file():
        if path.suffix != ".npz":
            raise ValueError(f"{path}: a file of data is an .npz; give the folder of an image")
        return arrays.load(path, image_size=image_size, memory_limit=memory_limit)
    if name is None and text and not set("/\\~.") & set(text):
        prepared.check_known(text, (*EMBEDDED, *archives.ARCHIVES))  # a misspelt name, e.g. CIFAR10
    if name is None:
        raise ValueError(
            f"{text}: no such file or folder; give a folder of images or .npy files, an .npz file, "
            f"{', '.join(EMBEDDED)}, or the name of a dataset of tensorflow-datasets"
        )
    prepared.check_known(name.name, (*EMBEDDED, *archives.ARCHIVES))
    if not download:
        raise ValueError(_what_to_do(name.name, root))
    return prepared.load(
        prepared.download(text, root),
        image_size=image_size,
        memory_limit=memory_limit,
        on_progress=on_progress,
    )


def default_data_dir() -> Path:
    """Where tensorflow-datasets keeps its datasets unless told otherwise."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _what_to_do(name: str, data_dir: Path) -> str:
    """The message for a dataset that is known, but not here."""
    lines = [
        f"{name}: nothing is prepared in {data_dir / name}, and nothing is fetched unasked; do one "
        "of these:",
        "- give the folder in which tensorflow-datasets prepared it: data_dir=FOLDER",
    ]
    if name in archives.ARCHIVES:
        archive = archives.ARCHIVES[name]
        lines.append(f"- put {archive.wanted} (from {archive.source}) into {data_dir / name}")
    lines.append(
        "- allow the download: download=True; this needs TensorFlow (pip install tensorflow-cpu)"
    )
    return "\n".join(lines)
