"""Folders of image files: one sub-folder a class, or train/ database/ query/ above those."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jaxhash.data.dataset import PARTS, Dataset
from jaxhash.data.decoding import (
    DIGEST_BYTES,
    Header,
    Undecodable,
    check_channels,
    check_size,
    decode_all,
    read_header,
)
from jaxhash.data.images import Images
from jaxhash.data.listing import Aside, entries, no_image, shown, walk
from jaxhash.data.memory import default_memory_limit

_PART_FOLDERS = {part: part for part in PARTS if part != "all"} | {"val": "validation"}
LOOSE = "outside a class folder"
"""The reason for leaving out an image that lies beside class folders and has no class."""

_CHUNK = 1024
_CHECK_SIZE = 8  # side at which files are only tried, not kept: JPEG decodes fastest this small

UNLABELLED = frozenset(("unlabelled", "unlabeled"))
"""Names of a folder beside those of classes whose images have no labels."""

Progress = Callable[[int, int], None]
"""Called with the number of files done and the number of files."""


def load(
    folder: str | Path,
    *,
    image_size: int | None = None,
    fallback_size: int | None = None,
    channels: int | None = None,
    max_undecodable: float = 0.01,
    memory_limit: int | None = None,
    threads: int | None = None,
    verify: bool = True,
    on_demand: bool = False,
    on_progress: Progress | None = None,
) -> Dataset:
    """Loads `class-name/image.jpg`, or the same under train/, test/, database/, query/, val/.

    Every image becomes a square: its short side is resampled to `image_size` and the middle of
    its long side is kept. Files are taken in the order of their names; class folders can hold
    further folders. Hidden files are passed over; files that are no images by their ending
    (`listing.KIND_OF`) are counted in `Dataset.passed`; every other file is tried, and one that
    cannot be decoded is left out and listed in `Dataset.skipped`.
    A class folder without a readable image is left out and listed as well.

    Args:
        folder: The folder.
        image_size: Side of the squares in pixels. None keeps the images' own size, which must
            then be one square for all, or else `fallback_size` is taken.
        fallback_size: Side of the squares where none is given and the images have none in common.
        channels: 3 or 1; None is 1 where all files are greyscale, otherwise 3.
        max_undecodable: Largest share of files that may fail, 0..1.
        memory_limit: Bytes the decoded images may take; more are decoded on demand, as `Images`.
            Half of the free memory by default.
        threads: Number of decoding threads; all cores by default.
        verify: Where images are decoded on demand, try each file once now, so that training does
            not meet a broken one hours later. False trusts the headers.
        on_demand: Decode nothing now, whatever memory there is, and trust the headers.
        on_progress: Called now and then with the number of files done and the number of files.

    Raises:
        ValueError: where the layout is not understood, too many files fail, or no size is known.
    """
    root = Path(folder)
    check_size(image_size)
    check_size(fallback_size)
    check_channels(channels)
    _check_share(max_undecodable)
    aside = Aside()
    found = _labelled_files(root, aside)
    paths = [path for path, _, _ in found]
    kept, headers, bad = scan(paths, threads)
    refuse_too_many(root, bad, len(paths), max_undecodable)  # before hours of decoding
    size = _common_size(headers, fallback_size) if image_size is None else image_size
    if channels is None:
        channels = 1 if all(header.grey for header in headers) else 3

    need = len(kept) * size * size * channels
    limit = default_memory_limit() if memory_limit is None else memory_limit
    lazy = on_demand or need > limit
    kept_paths = [paths[row] for row in kept]
    items: np.ndarray | Images
    digests = None
    if not lazy:
        items, digests, failed = _decode_to_memory(kept_paths, size, channels, threads, on_progress)
    else:
        tried = verify and not on_demand
        failed = _try_all(kept_paths, channels, threads, on_progress) if tried else []
    bad += [(paths[kept[position]], reason) for position, reason in failed]
    refuse_too_many(root, bad, len(paths), max_undecodable)
    kept = np.delete(kept, [position for position, _ in failed])
    if lazy:
        items = Images([paths[row] for row in kept], size=size, channels=channels, threads=threads)

    names = sorted({found[row][1] for row in kept})
    number = {name: label for label, name in enumerate(names)}
    for name in sorted({name for _, name, _ in found} - set(names)):
        aside.skipped.append((shown(root / name), "class folder without a readable image"))
    rows_of: dict[str, list[int]] = {}
    for position, row in enumerate(kept):
        rows_of.setdefault(found[row][2], []).append(position)
    return Dataset(
        name=shown(root.resolve().name),
        kind="images",
        items=items,
        labels=np.array([number[found[row][1]] for row in kept], np.int32),
        parts={part: np.array(rows_of[part], np.int64) for part in PARTS if part in rows_of},
        classes=tuple(shown(name) for name in names),
        paths=tuple(paths[row] for row in kept),
        skipped=aside.skipped + [(shown(path), reason) for path, reason in bad],
        passed=dict(aside.passed),
        digests=digests,
    )


def has_classes(folder: str | Path) -> bool:
    """Whether a folder is laid out by classes, as `load` wants it: all images in sub-folders.

    Example:
        >>> has_classes("photos")  # doctest: +SKIP
        True
    """
    inner, loose = entries(Path(folder))
    return bool(inner) and not loose


def unlabelled_folder(data: str | Path) -> Path | None:
    """The folder of images without labels that stands beside class folders; None without one.

    Example:
        >>> unlabelled_folder("photos")  # doctest: +SKIP
        PosixPath('photos/unlabelled')
    """
    folder = Path(data).expanduser()
    if not folder.is_dir():
        return None
    names = [name for name in entries(folder)[0] if name.lower() in UNLABELLED]
    return folder / names[0] if names else None


def class_sizes(data: str | Path) -> list[int]:
    """Numbers of files to try in the class folders, by the names of these.

    Example:
        >>> class_sizes("photos")  # doctest: +SKIP
        [20, 17]
    """
    names = [name for _, name, _ in _labelled_files(Path(data).expanduser(), Aside())]
    return [names.count(name) for name in sorted(set(names))]


def is_loose(data: str | Path) -> bool:
    """Whether it is a folder of images without classes: no folders in it, which could be some.

    A folder of images without labels is none of these, and neither is a single one beside images.

    Example:
        >>> is_loose("camera/2024")  # doctest: +SKIP
        True
    """
    folder = Path(data).expanduser()
    if not folder.is_dir() or (folder / "dataset_info.json").is_file():
        return False
    names, images = entries(folder)
    inner = [name for name in names if name.lower() not in UNLABELLED]
    return len(inner) <= bool(images) and not any(folder.glob("*.np[yz]"))


def load_images(
    source: str | Path | Sequence[str | Path],
    *,
    image_size: int,
    channels: int = 3,
    max_undecodable: float = 0.01,
    threads: int | None = None,
) -> Dataset:
    """All images below a folder, or the given files, without labels: what an encoder reads.

    Only headers are read here; pixels are decoded on demand, so any number of files is fine.
    `encoding.encode_to_index` goes on past files that turn out truncated, and names them.

    Args:
        source: A folder (searched to any depth), one file, or a sequence of files.
        image_size: Side of the squares in pixels, as in `load`.
        channels: 3 or 1, whatever the model was trained on.
        max_undecodable: Largest share of files that may fail, 0..1.
        threads: Number of decoding threads; all cores by default.

    Raises:
        ValueError: where there is no image, or too many files fail.
    """
    _check_share(max_undecodable)
    aside = Aside()
    name = "files"
    if isinstance(source, (str, Path)):
        root = Path(source)
        name = shown(root.resolve().name)
        if not root.exists():
            raise ValueError(f"{shown(root)}: no such file or folder")
        paths = list(walk(root, aside)) if root.is_dir() else [str(root)]
    else:
        paths = [os.fspath(path) for path in source]
    if not paths:
        raise ValueError(no_image(name, aside))
    kept, _, bad = scan(paths, threads)
    refuse_too_many(Path(name), bad, len(paths), max_undecodable)
    good = [paths[row] for row in kept]
    return Dataset(
        name=name,
        kind="images",
        items=Images(good, size=image_size, channels=channels, threads=threads),
        labels=None,
        parts={"all": np.arange(len(good), dtype=np.int64)},
        classes=(),
        paths=tuple(good),
        skipped=aside.skipped + [(shown(path), reason) for path, reason in bad],
        passed=dict(aside.passed),
    )


def _labelled_files(root: Path, aside: Aside) -> list[tuple[str, str, str]]:
    """(path, class name, part) of every file to try, in a fixed order."""
    if not root.is_dir():
        raise ValueError(f"{shown(root)}: no such folder")
    folders, loose = entries(root)
    folders = [name for name in folders if name.lower() not in UNLABELLED]
    if not folders:
        inside = f"{len(loose)} images directly" if loose else "no images"
        raise ValueError(
            f"{shown(root)}: holds {inside} and no class folders; put each image in a folder "
            "named after its class (class-name/image.jpg); images without labels can be encoded, "
            "and the methods itq, bihalf, lsh and pca-sign learn from them"
        )
    part_of = {
        name: _PART_FOLDERS[name.lower()] for name in folders if name.lower() in _PART_FOLDERS
    }
    if part_of and len(part_of) < len(folders):
        deeper = [name for name in part_of if entries(root / name)[0]]
        if deeper:
            others = sorted(set(folders) - set(part_of))
            raise ValueError(
                f"{shown(root)}: {', '.join(sorted(part_of))} look like parts of a dataset but "
                f"stand beside {', '.join(shown(name) for name in others[:5])}; give a folder that "
                f"holds only parts ({', '.join(_PART_FOLDERS)}), or only classes"
            )
        part_of = {}
    holders = [(root / name, part) for name, part in sorted(part_of.items())] or [(root, "all")]
    found = []
    for holder, part in holders:
        classes, loose = entries(holder, aside)
        if part != "all" and not classes:
            raise ValueError(
                f"{shown(holder)}: holds no class folders; a part is laid out as "
                f"{holder.name}/class-name/image.jpg"
            )
        aside.skipped += [(shown(holder / name), LOOSE) for name in loose]
        for name in (one for one in classes if one.lower() not in UNLABELLED):
            found += [(path, name, part) for path in walk(holder / name, aside)]
    if not found:
        raise ValueError(f"{shown(root)}: its class folders hold no images")
    return found


def scan(
    paths: list[str], threads: int | None
) -> tuple[np.ndarray, list[Header], list[tuple[str, str]]]:
    """Read the headers of files: rows that are sound, their headers, (path, reason) of others."""

    def try_header(path: str) -> Header | str:
        try:
            return read_header(path)
        except Undecodable as error:
            return str(error)

    results: list[Header | str] = []
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for start in range(0, len(paths), _CHUNK):
            results += pool.map(try_header, paths[start : start + _CHUNK])
    headers = [result for result in results if isinstance(result, Header)]
    kept = [row for row, result in enumerate(results) if isinstance(result, Header)]
    bad = [
        (path, result)
        for path, result in zip(paths, results, strict=True)
        if isinstance(result, str)
    ]
    return np.array(kept, np.int64), headers, bad


def _common_size(headers: list[Header], fallback: int | None) -> int:
    """The side all images share where they are squares of one size, or else the fallback."""
    sizes = {(header.width, header.height) for header in headers}
    if len(sizes) == 1:
        width, height = next(iter(sizes))
        if width == height:
            return width
    if fallback is not None:
        return fallback
    raise ValueError(
        f"image_size: needed, as the images have {len(sizes)} different sizes or are not square "
        f"(one is {'x'.join(map(str, min(sizes)))}); e.g. image_size=64"
    )


def _decode_to_memory(
    paths: list[str], size: int, channels: int, threads: int | None, on_progress: Progress | None
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
    """Decodes files into one array without the rows that failed; it, digests, and those rows."""
    out = np.empty((len(paths), size, size, channels), np.uint8)
    digests = np.zeros((len(paths), DIGEST_BYTES), np.uint8)
    failed: list[tuple[int, str]] = []
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for start in range(0, len(paths), _CHUNK):
            part = slice(start, start + _CHUNK)
            lost = decode_all(paths[part], out[part], size=size, pool=pool, digests=digests[part])
            failed += [(start + row, reason) for row, reason in lost]
            if on_progress is not None:
                on_progress(min(start + _CHUNK, len(paths)), len(paths))
    if not failed:
        return out, digests, failed
    kept = np.delete(np.arange(len(paths)), [row for row, _ in failed])
    # Moved up in place, a few rows at a time: a second copy of everything may not fit.
    for start in range(0, kept.size, _CHUNK):
        rows = kept[start : start + _CHUNK]
        out[start : start + rows.size] = out[rows]
    return out[: kept.size], digests[kept], failed


def _try_all(
    paths: list[str], channels: int, threads: int | None, on_progress: Progress | None
) -> list[tuple[int, str]]:
    """(row, reason) of files that cannot be decoded; nothing is kept."""
    failed: list[tuple[int, str]] = []
    buffer = np.empty((_CHUNK, _CHECK_SIZE, _CHECK_SIZE, channels), np.uint8)
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for start in range(0, len(paths), _CHUNK):
            chunk = paths[start : start + _CHUNK]
            lost = decode_all(chunk, buffer[: len(chunk)], size=_CHECK_SIZE, pool=pool)
            failed += [(start + row, reason) for row, reason in lost]
            if on_progress is not None:
                on_progress(start + len(chunk), len(paths))
    return failed


def _check_share(max_undecodable: float) -> None:
    """Refuses a share outside 0..1."""
    if not 0 <= max_undecodable <= 1:
        raise ValueError(f"max_undecodable must be a share from 0 to 1, not {max_undecodable}")


def refuse_too_many(
    root: Path, bad: list[tuple[str, str]], total: int, max_undecodable: float
) -> None:
    """Stops where more files failed than allowed, or all of them."""
    if len(bad) <= max_undecodable * total and len(bad) < total:
        return
    examples = "".join(f"\n  {shown(path)}: {reason}" for path, reason in bad[:5])
    raise ValueError(
        f"{shown(root)}: {len(bad)} of {total} files cannot be decoded, more than the share of "
        f"{max_undecodable:g} allowed; repair or remove them, or allow more "
        f"(max_undecodable=SHARE):{examples}"
    )
