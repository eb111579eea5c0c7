"""Query images as a command line names them: files, folders, and standard input."""

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxhash.data.decoding import Undecodable, decode_all, read_header
from jaxhash.data.listing import Aside, no_image, shown, walk

STANDARD_INPUT = Path("-")


class Picture(NamedTuple):
    """A query: what to call it, and its file or the bytes of one."""

    title: str
    file: str | bytes


def gather(names: Sequence[Path]) -> list[Picture]:
    """The pictures that files, folders (at any depth) and "-" stand for, in their order.

    Standard input is the bytes of an image, or a list of paths, each on a line, or ended by a zero
    byte as `find -print0` does where names hold line breaks.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a folder, or standard input, holds nothing.

    Example:
        >>> gather([Path("beach.jpg"), Path("holiday")])  # doctest: +SKIP
        [Picture('beach.jpg', 'beach.jpg'), Picture('holiday/1.jpg', 'holiday/1.jpg')]
    """
    found = []
    for name in names:
        if name == STANDARD_INPUT:
            found += _from_standard_input()
        elif name.is_dir():
            aside = Aside()
            inside = list(walk(name, aside))
            if not inside:
                raise ValueError(no_image(name, aside))
            found += [Picture(path, path) for path in inside]
        elif not name.exists():
            raise FileNotFoundError(f"{shown(name)}: no such image file")
        else:
            found.append(Picture(os.fspath(name), os.fspath(name)))
    return found


def _from_standard_input() -> list[Picture]:
    content = getattr(sys.stdin, "buffer", io.BytesIO()).read()
    if not content.strip():
        raise ValueError("standard input is empty; give an image, or a list of paths")
    try:
        read_header(content)
    except Undecodable:
        end = b"\0" if b"\0" in content else b"\n"
        paths = [os.fsdecode(line.rstrip(b"\r")) for line in content.split(end) if line.strip()]
        return [Picture(path, path) for path in paths]
    return [Picture("standard input", content)]


def decode(
    pictures: Sequence[Picture], side: int, channels: int
) -> tuple[list[Picture], np.ndarray, list[tuple[str, str]]]:
    """Pictures that can be decoded, their pixels uint8 (n, side, side, channels), and the others.

    Returns:
        The pictures, the pixels, and (title, reason) of those that cannot be decoded.
    """
    pixels = np.empty((len(pictures), side, side, channels), np.uint8)
    files = [picture.file for picture in pictures]
    failed = decode_all(files, pixels, size=side, pool=None)
    bad = {row for row, _ in failed}
    good = [row for row in range(len(pictures)) if row not in bad]
    lost = [(pictures[row].title, reason) for row, reason in failed]
    return [pictures[row] for row in good], pixels[good], lost
