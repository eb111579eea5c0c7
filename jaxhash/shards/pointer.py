"""A pointer: a file that says which folder of shards is searched, and changes whole."""

import os
from pathlib import Path

from search import HashIndex
from search.files.atomic import replacing

LONGEST = 4096
"""Bytes of a path, at most."""


def point(pointer: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Make a pointer name a folder of shards; searches that begin from now on see that one.

    Args:
        pointer: a file, which appears or changes whole.
        folder: of shards that are all there and belong together.

    Raises:
        FileNotFoundError: shards are missing.
        search.DamagedFile: one is cut short or altered.
        ValueError: one is of another model or generation.

    Example:
        >>> point("current", "photos-2.index/")  # doctest: +SKIP
    """
    HashIndex.open(folder)
    with replacing(pointer) as file:
        file.write(os.fsencode(os.path.abspath(folder)))


def current(pointer: str | os.PathLike[str]) -> str:
    """The folder that a pointer names; a folder names itself.

    Raises:
        FileNotFoundError: there is no such file, or no such folder.
        ValueError: the file is no pointer.
    """
    path = Path(pointer)
    if path.is_dir():
        return os.path.abspath(path)
    with open(path, "rb") as file:
        named = file.read(LONGEST + 1)
    if len(named) > LONGEST or not os.path.isabs(named) or b"\0" in named:
        raise ValueError(f"{path}: names no folder of shards; give such a folder, or a pointer")
    return os.fsdecode(named.removesuffix(b"\n"))
