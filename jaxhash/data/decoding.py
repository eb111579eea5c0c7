"""Image files of any kind to uint8 arrays, and a plain reason where that is impossible."""

import hashlib
import math
import os
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxhash.data.memory import default_memory_limit
from jaxhash.data.opening import (
    FORMATS,
    MAX_PIXELS,
    Undecodable,
    fits,
    open_checked,
    open_image,
    read_whole,
    reason_of,
    too_large,
)

__all__ = [
    "DIGEST_BYTES",
    "FORMATS",
    "MAX_PIXELS",
    "MOST_AT_ONCE",
    "Header",
    "Undecodable",
    "check_channels",
    "check_memory",
    "check_size",
    "decode",
    "decode_all",
    "from_pil",
    "read_header",
    "resize",
]

DIGEST_BYTES = 16
"""Length of the head of a SHA-256 by which files are told apart."""

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}

MOST_AT_ONCE = 32
"""Images that a thread decodes before it asks for others."""


class Header(NamedTuple):
    """What a file says of itself before its pixels are decoded."""

    width: int
    height: int
    grey: bool


def read_header(file: str | bytes) -> Header:
    """Size and colour of an image, without decoding its pixels.

    Args:
        file: A path, or the bytes of a whole file.

    Raises:
        Undecodable: where it is empty, not an image of one of `FORMATS`, or larger than
            `MAX_PIXELS`.
    """
    try:
        with open_image(file) as image:
            return Header(*image.size, image.mode in _GREY_MODES)
    except Undecodable:
        raise
    except Exception as error:
        raise Undecodable(reason_of(error)) from error


def decode(file: str | bytes, *, size: int | None = None, channels: int = 3) -> np.ndarray:
    """Decodes an image to uint8 (height, width, channels).

    EXIF rotation is applied; of an animation the first frame is taken; transparency is laid on
    white; palettes, CMYK and other colour spaces become RGB; 16-bit samples are scaled to 8 bits
    (65535 becomes 255), never clipped.

    Args:
        file: A path, or the bytes of a whole file.
        size: Side of the square to return, in pixels: the short side is resampled to it and the
            middle of the long side is kept. None keeps the image's own size.
        channels: 3 for RGB, 1 for greyscale.

    Raises:
        Undecodable: where the file is empty, truncated, a PNG whose checksums do not match, not an
            image of one of `FORMATS`, larger than `MAX_PIXELS`, or has samples of unknown range
            (32-bit integers, floats). Of the formats only PNG has checksums: a byte that changed in
            the middle of another file can decode to other pixels.

    Example:
        >>> import io
        >>> from PIL import Image, JpegImagePlugin
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (60, 40), "white").save(file, "PNG")
        >>> decode(file.getvalue(), size=32).shape
        (32, 32, 3)
    """
    try:
        with open_checked(file) as image:
            return _to_array(image, size, channels)
    except Undecodable:
        raise
    # Damaged files make PIL's plug-ins raise nearly anything: OSError, SyntaxError, struct.error,
    # zlib.error, IndexError, KeyError, MemoryError. Each of them means the same to the caller.
    except Exception as error:
        raise Undecodable(reason_of(error)) from error


def from_pil(image: Image.Image, *, size: int | None = None, channels: int = 3) -> np.ndarray:
    """A PIL image to uint8 (height, width, channels), as `decode` does for files.

    Raises:
        Undecodable: its samples have no known range, or its file turns out damaged.

    Example:
        >>> from_pil(Image.new("RGB", (60, 40)), size=32).shape
        (32, 32, 3)
    """
    check_size(size)
    try:
        return _to_array(image, size, channels)
    except (OSError, SyntaxError) as error:
        raise Undecodable(reason_of(error)) from None


def resize(
    images: np.ndarray,
    size: int | None,
    *,
    threads: int | None = None,
    memory_limit: int | None = None,
) -> np.ndarray:
    """Resamples uint8 (n, height, width, channels) to squares, as `decode` does for files.

    Args:
        images: The images; 1 or 3 channels.
        size: Side of the square in pixels; None or the images' own size returns them unchanged.
        threads: Number of threads; all cores by default.
        memory_limit: Bytes the result may take; half of the free memory by default.

    Raises:
        ValueError: where the size is no size, or the result would take more than that.

    Example:
        >>> import numpy as np
        >>> resize(np.zeros((2, 8, 8, 1), np.uint8), 32).shape
        (2, 32, 32, 1)
    """
    n, height, width, channels = images.shape
    if size is None or (height, width) == (size, size):
        return images
    check_size(size)
    check_memory((n, size, size, channels), memory_limit)
    out = np.empty((n, size, size, channels), np.uint8)

    def fill(row: int) -> None:
        pixels = np.ascontiguousarray(images[row])
        image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        out[row] = np.asarray(_square(image, size)).reshape(size, size, channels)

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for _ in pool.map(fill, range(n)):
            pass
    return out


def decode_all(
    files: Sequence[str] | Sequence[bytes] | Sequence[str | bytes],
    out: np.ndarray,
    *,
    size: int | None,
    pool: ThreadPoolExecutor | None,
    digests: np.ndarray | None = None,
    known: Container[bytes] = (),
) -> list[tuple[int, str]]:
    """Decodes files into the rows of `out`, and returns (row, reason) of those that failed.

    Args:
        files: Paths, or the bytes of whole files.
        out: uint8 (n, height, width, channels); rows of failed files are set to zero.
        size: As in `decode`.
        pool: Threads to spread the work over; None decodes in the calling thread.
        digests: uint8 (n, `DIGEST_BYTES`), filled with the head of each file's SHA-256: of the very
            bytes that are decoded, which are then read once and whole.
        known: Such digests, of files that are not decoded; their rows of `out` are set to zero.
    """
    channels = out.shape[-1]

    def fill(row: int) -> str | None:
        try:
            file = files[row]
            if digests is not None:
                file = read_whole(file)
                head = hashlib.sha256(file).digest()[:DIGEST_BYTES]
                digests[row] = np.frombuffer(head, np.uint8)
                if head in known:
                    out[row] = 0
                    return None
            pixels = decode(file, size=size, channels=channels)
        except Undecodable as error:
            out[row] = 0
            return str(error)
        if pixels.shape != out.shape[1:]:
            out[row] = 0
            height, width = pixels.shape[:2]
            return f"{width}x{height} pixels where {out.shape[2]}x{out.shape[1]} are expected"
        out[row] = pixels
        return None

    def fill_some(start: int) -> list[tuple[int, str]]:
        reasons = ((row, fill(row)) for row in range(start, min(start + some, len(files))))
        return [(row, reason) for row, reason in reasons if reason is not None]

    # Handing a small image to another thread takes longer than decoding it.
    some = min(max(len(files) // (4 * (os.cpu_count() or 1)), 1), MOST_AT_ONCE)
    failed = (map if pool is None else pool.map)(fill_some, range(0, len(files), some))
    return [each for part in failed for each in part]


def check_size(size: int | None) -> None:
    """Refuses an image size that no square of pixels can have."""
    if size is not None and not (isinstance(size, int) and 1 <= size <= 4096):
        raise ValueError(f"image_size must be a side of 1 to 4096 pixels, not {size!r}")


def check_memory(shape: tuple[int, ...], memory_limit: int | None) -> None:
    """Refuses uint8 images (n, height, width, channels) that would not fit in memory."""
    need = math.prod(shape)
    limit = default_memory_limit() if memory_limit is None else memory_limit
    if need > limit:
        raise ValueError(
            f"image_size: {shape[0]} images of {shape[2]}x{shape[1]} pixels take {need / 1e9:.2g} "
            f"GB, more than the {limit / 1e9:.2g} GB allowed (memory_limit); give a smaller one"
        )


def check_channels(channels: int | None) -> None:
    """Refuses a number of channels that images are not decoded to."""
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 (greyscale) or 3 (RGB), not {channels!r}")


def _to_array(image: Image.Image, size: int | None, channels: int) -> np.ndarray:
    """Loads the pixels, brings them to 8 bits and 1 or 3 channels, upright, and square by size."""
    if size is not None:
        # JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, far faster; twice the wanted size
        # is kept so that the resampling below still decides the quality.
        scale = 2 * size / min(image.size)
        least = next((one for one in (1, 2, 4, 8) if fits(image, one)), 1)
        if scale < 1 or least > 1:
            image.draft(
                None,
                (
                    min(math.ceil(image.width * scale), image.width // least),
                    min(math.ceil(image.height * scale), image.height // least),
                ),
            )
    if not fits(image, 1):
        raise too_large(image)
    image.load()
    turn = _TURNS.get(_orientation(image))
    image = _eight_bits(image)
    image = _on_white(image)
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if size is not None and image.size != (size, size):
        image = _square(image, size)
    # After the crop, which is the same upright or not, there are fewer pixels to turn.
    if turn is not None:
        image = image.transpose(turn)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _square(image: Image.Image, size: int) -> Image.Image:
    """Short side resampled to size, middle of the long side kept: crop and resample in one."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; a damaged EXIF block does not make an image unreadable."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return 1


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scales 16-bit greyscale to 8 bits; other modes have 8 bits already."""
    if image.mode == "F":
        raise Undecodable("floating-point samples, whose range is unknown; save 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    samples = np.asarray(image).astype(np.int64)
    if samples.min() < 0 or samples.max() > 65535:
        raise Undecodable("32-bit samples, whose range is unknown; save 8 or 16 bits")
    return Image.fromarray(((samples * 255 + 32767) // 65535).astype(np.uint8))


def _on_white(image: Image.Image) -> Image.Image:
    """Lays an image that has transparency on a white ground."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
