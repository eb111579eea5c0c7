"""What the files of a group's pictures say: size, sameness, and how they look when small."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from jaxhash.data.summary import copies

UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
SIDE = 24
"""Pixels of the side of what is compared with a mirror image."""


class Head(NamedTuple):
    """Width and height in pixels, and bytes of a file; None where it cannot be read."""

    width: int | None
    height: int | None
    size: int | None

    @property
    def pixels(self) -> int:
        """Width times height; 0 where they are not known."""
        return (self.width or 0) * (self.height or 0)


def head(path: str | None) -> Head:
    """What the head of a file says, without decoding its pixels."""
    if path is not None:
        try:
            with Image.open(path) as image:
                return Head(*image.size, os.stat(path).st_size)
        except UNREADABLE:
            pass
    return Head(None, None, None)


def small(path: str | None, side: int) -> Image.Image | None:
    """A picture as RGB, upright, of at most `side` pixels; None where it cannot be decoded."""
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            image.draft("RGB", (side, side))
            upright = ImageOps.exif_transpose(image).convert("RGB")
            upright.thumbnail((side, side))
            return upright
    except UNREADABLE:
        return None


def mirrored(paths: Sequence[str | None]) -> list[bool]:
    """Whether each picture is nearer to the mirror image of the first than to the first.

    Example:
        >>> mirrored([None, None])
        [False, False]
    """
    if not paths or (first := pattern(paths[0])) is None:
        return [False] * len(paths)
    others = [first, *map(pattern, paths[1:])]
    flipped = first[:, ::-1]
    return [
        other is not None and bool((other * flipped).sum() > (other * first).sum())
        for other in others
    ]


def exact(paths: Sequence[str | None]) -> list[bool]:
    """Whether each file is byte for byte an earlier one.

    Example:
        >>> exact(["a.jpg", None])
        [False, False]
    """
    found = [False] * len(paths)
    known = [(place, path) for place, path in enumerate(paths) if path is not None]
    for _, *others in copies([path for _, path in known]):
        for row in others:
            found[known[row][0]] = True
    return found


def pattern(path: str | None) -> NDArray[np.float32] | None:
    """Light and dark of a picture, float32 (SIDE, SIDE), around 0."""
    picture = small(path, 8 * SIDE)
    if picture is None:
        return None
    grey = np.asarray(picture.convert("L").resize((SIDE, SIDE)), np.float32)
    return grey - grey.mean()
