"""Image files opened by their content, or a plain reason why not; no pixel is decoded yet."""

import io
import os
import stat
import warnings

from PIL import Image, JpegImagePlugin

Image.init()  # registers every format now: done lazily, threads would race for it

_KNOWN = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "DIB", "TIFF", "GIF", "PPM")
FORMATS = tuple(name for name in _KNOWN if name in Image.OPEN)
"""What is opened; formats that start another program (EPS) or that PIL only stubs are not.

AVIF is among them where this Pillow can, and HEIC is opened by the package pillow-heif.
"""

# What is wrong with a file is said by `Undecodable`, once, and not on standard error as well.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_PIXELS = 80_000_000
"""More are not decoded: 80 million pixels take 240 MB. Of a larger JPEG every second, fourth or
eighth pixel is, where a size is asked for."""
MAX_COEFFICIENTS = 6
"""Bytes of coefficients for each of the pixels allowed that a larger progressive JPEG may take: as
many as one of just the pixels allowed, without subsampled colours; with them, twice the pixels."""

_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}  # brands of files


class Undecodable(ValueError):
    """The bytes are not an image that can be used; the message says why."""


def open_image(file: str | bytes) -> Image.Image:
    """Opens by content, refusing what is too large; nothing is decoded yet."""
    if isinstance(file, bytes) and not file:
        raise Undecodable("empty file")
    if isinstance(file, str):
        _check_regular(file)
    image = _identify(file)
    width, height = image.size
    if width < 1 or height < 1 or not fits(image, _most_reduction(image)):
        image.close()
        raise too_large(image)
    return image


def open_checked(file: str | bytes) -> Image.Image:
    """Opens by content; of a PNG every chunk's checksum is compared, which decoding leaves out."""
    image = open_image(file)
    if image.format != "PNG":
        return image
    with image:
        image.verify()  # reads the file to its end: it must be opened anew
    return open_image(file)


def read_whole(file: str | bytes) -> bytes:
    """The bytes of a file."""
    if isinstance(file, bytes):
        return file
    try:
        _check_regular(file)
        with open(file, "rb") as opened:
            return opened.read()
    except OSError as error:
        raise Undecodable(reason_of(error)) from None


def _check_regular(file: str) -> None:
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
        raise Undecodable("not a regular file")
    if status.st_size == 0:
        raise Undecodable("empty file")


def fits(image: Image.Image, reduction: int) -> bool:
    """Whether an image may be decoded when its sides are divided by a number."""
    return (image.width // reduction) * (image.height // reduction) <= MAX_PIXELS


def too_large(image: Image.Image) -> Undecodable:
    """What to raise for an image with more pixels than are decoded."""
    size = f"{image.width}x{image.height}"
    way_out = ""
    if image.format == "JPEG" and _most_reduction(image) == 1:
        way_out = " of a progressive JPEG; save it as a baseline one (jpegtran in.jpg > out.jpg)"
    return Undecodable(f"{size} pixels, more than the {MAX_PIXELS:,} allowed{way_out}")


def _identify(file: str | bytes) -> Image.Image:
    """An image by its first bytes; its pixels are still in the file."""
    head = file[:12] if isinstance(file, bytes) else _head(file)
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        return _open_heic(source)
    if head[:3] == b"\xff\xd8\xff":
        # Not by `Image.open`, which warns of large images or refuses them before they are reduced.
        return JpegImagePlugin.JpegImageFile(source)
    return Image.open(source, formats=FORMATS)


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(12)


def _open_heic(source: str | io.BytesIO) -> Image.Image:
    """An image of a telephone, by the package that can read it."""
    try:
        import pillow_heif
    except ImportError:
        raise Undecodable(
            "HEIC, which needs the package pillow-heif (pip install 'jaxhash[heic]')"
        ) from None
    pillow_heif.register_heif_opener()
    return Image.open(source, formats=["HEIF"])


def _most_reduction(image: Image.Image) -> int:
    """By how much the sides of an image can be divided while it is decoded."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 1
    # The coefficients of a progressive file are all held in memory before any pixel is there.
    progressive = bool(image.info.get("progressive"))
    return 8 if not progressive or _coefficients(image) <= MAX_COEFFICIENTS * MAX_PIXELS else 1


def _coefficients(image: JpegImagePlugin.JpegImageFile) -> int:
    """Bytes of all coefficients of a JPEG, two for each sample of each component."""
    across = max(layer[1] for layer in image.layer)
    down = max(layer[2] for layer in image.layer)
    samples = sum(layer[1] * layer[2] for layer in image.layer)
    return 2 * image.width * image.height * samples // (across * down)


def reason_of(error: Exception) -> str:
    """One line that says what is wrong with a file, without its path."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image of a known format ({', '.join(FORMATS)})"
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more pixels than the {MAX_PIXELS:,} allowed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = str(error).splitlines()[0] if str(error) else ""
    return f"damaged: {text or type(error).__name__}"
