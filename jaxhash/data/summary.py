"""What a dataset of image files took in, in lines for a person to read before hours of training."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from jaxhash.data.dataset import Dataset
from jaxhash.data.folders import LOOSE
from jaxhash.data.listing import counted, shown

MOST_CLASSES = 12
"""Classes that are named one by one."""
_DATE = re.compile(r"(19|20)\d\d([-_. ]?\d\d){0,2}")


def lines(dataset: Dataset, train: np.ndarray, query: np.ndarray) -> Iterator[str]:
    """Classes with their sizes, what was left out and why, copies; a line each.

    Args:
        dataset: what was loaded.
        train: rows of the training images.
        query: rows of the queries.

    Example:
        >>> print(*lines(dataset, split.train, split.query), sep="\\n")  # doctest: +SKIP
        3 classes: beach 450, town 41, cat 12
        left out: 161 outside a class folder (no label), 2 not decodable
    """
    if dataset.labels is not None and not dataset.multi_label:
        yield _classes(dataset)
        if dataset.paths is not None and (words := _dates(dataset.classes)):
            yield words
    loose = sum(reason == LOOSE for _, reason in dataset.skipped)
    if loose:
        yield (
            f"attention: {loose:,} images lie beside the class folders, have no class and are not "
            "used; put each into the folder of its class"
        )
    if words := left_out(dataset.skipped):
        yield f"left out: {words}"
    if dataset.passed:
        yield f"passed over, as they are no images: {counted(dataset.passed.items())}"
    if dataset.paths is not None:
        yield from _copies(dataset.paths, train, query)


def left_out(skipped: Iterable[tuple[str, str]]) -> str:
    """How many files were left out for which reason; "" for none.

    Example:
        >>> left_out([("a.jpg", LOOSE), ("b.jpg", "empty file"), ("c.jpg", "damaged: no end")])
        '1 outside a class folder, 1 damaged, 1 empty file'
    """
    reasons = Counter(_kind(reason) for _, reason in skipped)
    ordered = sorted(reasons.items(), key=lambda one: (-one[1], one[0] != LOOSE, one[0]))
    return ", ".join(f"{count:,} {reason}" for reason, count in ordered)


def _kind(reason: str) -> str:
    """A reason without what it says of one file alone."""
    if "pixels, more than" in reason:
        return "too large"
    return re.split(r"[:(]", reason)[0].strip()


def _classes(dataset: Dataset) -> str:
    """The classes and their sizes, the largest first."""
    assert dataset.labels is not None
    sizes = np.bincount(dataset.labels, minlength=len(dataset.classes))
    order = np.argsort(-sizes, kind="stable")
    named = [f"{dataset.classes[at]} {sizes[at]:,}" for at in order[:MOST_CLASSES]]
    more = len(order) - len(named)
    rest = f", and {more} more down to {sizes[order[-1]]:,}" if more else ""
    return f"{len(order)} classes: {', '.join(named)}{rest}"


def _dates(classes: Sequence[str]) -> str:
    """What to say where the folders are an album's, by dates, and no classes; "" otherwise."""
    dates = [name for name in classes if _DATE.match(name)]
    if len(dates) * 2 <= len(classes):
        return ""
    return (
        f"attention: the classes are called like years or dates ({', '.join(dates[:3])}, ...), and "
        "images of a year look no more alike than others; give a folder without sub-folders, or "
        "one of the methods itq, lsh and pca-sign, to learn without labels"
    )


def copies(paths: Sequence[str]) -> list[list[int]]:
    """Rows of files with the same bytes, two or more together.

    Only files of one size are read.

    Example:
        >>> copies(["a.jpg", "b.jpg", "copy of a.jpg"])  # doctest: +SKIP
        [[0, 2]]
    """
    by_size: dict[int, list[int]] = {}
    for row, path in enumerate(paths):
        try:
            by_size.setdefault(os.stat(path).st_size, []).append(row)
        except OSError:
            continue
    by_bytes: dict[bytes, list[int]] = {}
    for rows in by_size.values():
        for row in rows if len(rows) > 1 else ():
            try:
                with open(paths[row], "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
            except OSError:
                continue
            by_bytes.setdefault(digest, []).append(row)
    return [rows for rows in by_bytes.values() if len(rows) > 1]


def _copies(paths: Sequence[str], train: np.ndarray, query: np.ndarray) -> Iterator[str]:
    """How many files are copies of others, and how many of them are on both sides of the split."""
    groups = copies(paths)
    if not groups:
        return
    copied = sum(len(rows) - 1 for rows in groups)
    yield f"copies of other images, byte for byte: {copied:,}"
    learned, asked = set(train.tolist()), set(query.tolist())
    both = [rows for rows in groups if learned & set(rows) and asked & set(rows)]
    if both:
        first = next(row for row in both[0] if row in asked)
        other = next(row for row in both[0] if row in learned)
        count = sum(len(asked & set(rows)) for rows in both)
        yield (
            f"attention: queries that were learned from under another name: {count:,}, such as "
            f"{shown(paths[first])} as {shown(paths[other])}; the measures will be too good"
        )
