"""Pictures that come in and pictures that are shown: decoded within limits."""

import io
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image

from jaxhash.data import decoding
from jaxhash.data.decoding import Undecodable
from jaxhash.serve.errors import Refused
from jaxhash.serve.snapshot import Snapshot
from jaxhash.spec import ModelSpec

SIZES = (64, 128, 256, 384, 512)
"""Sides of thumbnails, in pixels; what is asked for is rounded up to one of them."""
LARGE = 1600
"""Longest side of a whole picture that is shown."""
SMALL = 64
"""Up to this side a picture is shown as it is: enlarging is left to the page."""
LARGEST_FILE = 200 << 20
"""Bytes of a file that is shown, at most."""


def decode(data: bytes, spec: ModelSpec, pixels: int, name: str = "the image") -> np.ndarray:
    """An uploaded image as the model takes it.

    Args:
        data: the bytes of its file.
        spec: of the model.
        pixels: the largest image that is decoded.
        name: of the file, for what is said of it.

    Returns:
        uint8 (height, width, channels).

    Raises:
        Refused: it cannot be decoded, has too many pixels, or the model takes no images.

    Example:
        >>> decode(data, model.spec, 50_000_000).shape  # doctest: +SKIP
        (32, 32, 3)
    """
    if spec.takes != "images":
        raise Refused(422, "the model takes features, and images cannot be its queries")
    height, width, channels = spec.item_shape
    size = height if height == width else None
    try:
        _check_pixels(data, pixels)
        array = decoding.decode(data, size=size, channels=1 if channels == 1 else 3)
    except Undecodable as error:
        raise Refused(422, f"{name}: {error}") from None
    if array.shape[:2] != (height, width):
        raise Refused(
            422,
            f"{name} is {array.shape[1]} x {array.shape[0]} pixels, and the model takes "
            f"{width} x {height}; resize it first",
        )
    return array


def _check_pixels(data: bytes, pixels: int) -> None:
    """Refuse by its header an image of more pixels."""
    header = decoding.read_header(data)
    if header.width * header.height > pixels:
        raise Undecodable(
            f"{header.width}x{header.height} pixels, more than the {pixels:,} that are taken here"
        )


def thumbnail(
    snapshot: Snapshot, item: int, *, size: int, whole: bool, pixels: int
) -> tuple[bytes, str]:
    """A picture of an item, made anew from its pixels: the file itself is never sent.

    Args:
        snapshot: the index.
        item: its id.
        size: side of the square, unless it is to be whole.
        whole: uncropped, up to `LARGE` pixels a side.
        pixels: the largest image that is decoded.

    Returns:
        The file and its media type.

    Raises:
        Refused: there is no such item, or no picture of it that may be shown.

    Example:
        >>> thumbnail(snapshot, 3, size=256, whole=False, pixels=10**7)[1]  # doctest: +SKIP
        'image/jpeg'
    """
    if item not in snapshot.images.codes:
        raise Refused(404, f"no item has the id {item}")
    side = next((one for one in SIZES if one >= size), SIZES[-1])
    records = snapshot.images.items
    try:
        if records.paths is not None:
            data = _read(records.path(item), snapshot.folder)
            _check_pixels(data, pixels)
            array = decoding.decode(data, size=None if whole else side)
        else:
            (array,) = records.pictures([item])
    except Undecodable as error:
        raise Refused(404, f"the picture of item {item} cannot be shown: {error}") from None
    except (OSError, ValueError):
        raise Refused(404, f"the picture of item {item} is not where it was") from None
    return _encoded(array, LARGE if whole else side)


def in_folder(path: str, folder: Path | None) -> Path:
    """A file of the folder of the images, wherever links lead today.

    Args:
        path: in the folder, or absolute.
        folder: its real path; None where the index does not know it.

    Raises:
        Refused: the file is not in that folder.

    Example:
        >>> in_folder("beach/17.jpg", Path("/photos"))
        PosixPath('/photos/beach/17.jpg')
    """
    if folder is not None and "\0" not in path:
        real = Path(os.path.realpath(folder / path))
        if real.is_relative_to(folder):
            return real
    raise Refused(404, "this file is not in the folder of the images")


def _read(path: str | None, folder: Path | None) -> bytes:
    """A file of the folder of the images.

    Raises:
        Refused: it is not in that folder.
        OSError: it cannot be read.
    """
    if path is None:
        raise Refused(404, "this item came without a file")
    real = in_folder(path, folder)
    # Not followed should it become a link now; a pipe is not waited for.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with open(real, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST_FILE:
            raise Undecodable("not a file that can be shown")
        return file.read()


def _encoded(array: np.ndarray, side: int) -> tuple[bytes, str]:
    """Pixels as a file: small ones without loss, photographs as JPEG."""
    image = Image.fromarray(array[:, :, 0] if array.shape[2] == 1 else array)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    small, file = max(image.size) <= SMALL, io.BytesIO()
    if small:
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=85)
    return file.getvalue(), "image/png" if small else "image/jpeg"
