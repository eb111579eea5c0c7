"""Image files of every kind to uint8 arrays, and a reason where that is impossible."""

import hashlib
import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxhash.data import opening
from jaxhash.data.decoding import (
    DIGEST_BYTES,
    FORMATS,
    Undecodable,
    decode,
    decode_all,
    read_header,
    resize,
)


def encoded(image: Image.Image, file_format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[0:height, 0:width]
    planes = [x * 255 // max(width - 1, 1), y * 255 // max(height - 1, 1), (x + y) % 7 + 100]
    return np.stack(planes, axis=-1).astype(np.uint8)


def png_that_claims(width: int, height: int) -> bytes:
    """A valid PNG header for an image of this size, with next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_come_back_as_they_went(file_format, rng):
    pixels = rng.integers(0, 256, (9, 14, 3), np.uint8)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(pixels), file_format)), pixels)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
def test_lossy_formats_come_back_nearly(file_format):
    pixels = smooth(40, 48)
    file = encoded(Image.fromarray(pixels[..., [0, 1, 1]]), file_format, quality=95)
    assert np.abs(decode(file).astype(int) - pixels[..., [0, 1, 1]]).mean() < 3


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (6, 4), color) for color in ("red", "blue")]
    for file_format in ("GIF", "WEBP", "TIFF"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        file = encoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        assert decode(file)[0, 0].tolist() == [255, 0, 0]


def test_greyscale_one_bit_and_palette(rng):
    grey = rng.integers(0, 256, (5, 7), np.uint8)
    file = encoded(Image.fromarray(grey))
    np.testing.assert_array_equal(decode(file, channels=1), grey[..., None])
    np.testing.assert_array_equal(decode(file), np.repeat(grey[..., None], 3, axis=-1))
    bits = Image.fromarray(grey).convert("1")
    expected = np.asarray(bits).astype(np.uint8) * 255
    np.testing.assert_array_equal(decode(encoded(bits), channels=1)[..., 0], expected)
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putdata([0, 1])
    assert decode(encoded(palette)).tolist() == [[[10, 20, 30], [200, 100, 0]]]


def test_transparency_is_laid_on_white():
    rgba = Image.new("RGBA", (2, 1))
    rgba.putdata([(255, 0, 0, 255), (255, 0, 0, 51)])
    assert decode(encoded(rgba)).tolist() == [[[255, 0, 0], [255, 204, 204]]]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert decode(encoded(grey), channels=1).tolist() == [[[255]]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 0])
    palette.putdata([0, 1])
    assert decode(encoded(palette, transparency=0))[0].tolist() == [[255] * 3, [200, 100, 0]]
    keyed = Image.new("RGB", (1, 1), (9, 8, 7))
    assert decode(encoded(keyed, transparency=(9, 8, 7))).tolist() == [[[255, 255, 255]]]


def test_cmyk():
    file = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=95)
    assert np.abs(decode(file)[4, 4].astype(int) - [255, 0, 0]).max() < 12


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_clipped(file_format):
    samples = np.array([[0, 128, 129, 257, 32768, 65535 - 257, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 128, 254, 255]
    file = encoded(Image.fromarray(samples), file_format)
    assert decode(file, channels=1)[0, :, 0].tolist() == expected


def test_samples_of_unknown_range_are_refused():
    for samples in (np.full((2, 2), 0.5, np.float32), np.full((2, 2), 70000, np.int32)):
        with pytest.raises(Undecodable, match="range is unknown"):
            decode(encoded(Image.fromarray(samples), "TIFF"))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda s: s),
        (2, lambda s: s[:, ::-1]),
        (3, lambda s: s[::-1, ::-1]),
        (4, lambda s: s[::-1]),
        (5, lambda s: s.transpose(1, 0, 2)),
        (6, lambda s: np.rot90(s, -1)),
        (7, lambda s: s[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda s: np.rot90(s, 1)),
    ],
)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_exif_orientation(orientation, upright, file_format, rng):
    stored = rng.integers(0, 256, (6, 10, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(Image.fromarray(stored), file_format, exif=exif)
    np.testing.assert_array_equal(decode(file), upright(stored))
    np.testing.assert_array_equal(decode(file, size=6), upright(stored[:, 2:8]))


def test_the_middle_square_is_kept(rng):
    pixels = rng.integers(0, 256, (20, 31, 3), np.uint8)
    wide, high = Image.fromarray(pixels[:, :30]), Image.fromarray(pixels.transpose(1, 0, 2)[:30])
    np.testing.assert_array_equal(decode(encoded(wide), size=20), pixels[:, 5:25])
    expected = pixels[:, 5:25].transpose(1, 0, 2)
    np.testing.assert_array_equal(decode(encoded(high), size=20), expected)
    assert decode(encoded(Image.new("RGB", (1, 20000), "white")), size=32).shape == (32, 32, 3)
    assert decode(encoded(Image.new("RGB", (1, 1), "white")), size=32).min() == 255


def test_jpeg_decoded_small_is_close_to_decoded_whole():
    whole = Image.fromarray(smooth(300, 400)[..., [0, 1, 1]])
    file = encoded(whole, "JPEG", quality=95)
    expected = np.asarray(
        Image.open(io.BytesIO(file)).crop((50, 0, 350, 300)).resize((32, 32), Image.BICUBIC)
    )
    assert np.abs(decode(file, size=32).astype(int) - expected).max() <= 4


def test_resize_agrees_with_decode(rng):
    pixels = rng.integers(0, 256, (3, 10, 12, 3), np.uint8)
    files = [encoded(Image.fromarray(image)) for image in pixels]
    expected = np.stack([decode(file, size=7) for file in files])
    np.testing.assert_array_equal(resize(pixels, 7), expected)
    grey = pixels[..., :1]
    assert resize(grey, 5, threads=1).shape == (3, 5, 5, 1)
    assert resize(pixels, None) is pixels
    for size in (0, 5000, 3.5):
        with pytest.raises(ValueError, match="image_size"):
            resize(pixels, size)


@pytest.mark.parametrize("size", [(9000, 9000), (100_000, 100_000), (80_000_001, 1)])
def test_absurd_sizes_are_refused_by_their_header(size):
    for function in (decode, read_header):
        with pytest.raises(Undecodable, match=r"80,000,000 allowed"):
            function(png_that_claims(*size))


def test_a_flipped_byte_of_a_png_changes_no_pixel_unseen():
    """Any in what is compressed is found by the checksum, which decoding alone would leave out."""
    sound = encoded(Image.fromarray(smooth(12, 12)))
    start = sound.index(b"IDAT") + 4
    for at in range(start, sound.index(b"IEND") - 8):
        file = bytearray(sound)
        file[at] ^= 0x10
        with pytest.raises(Undecodable):
            decode(bytes(file))


def test_damaged_files(tmp_path, rng):
    noise = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    for file_format in ("PNG", "JPEG", "TIFF", "BMP", "WEBP"):
        file = encoded(noise, file_format)
        assert decode(file).shape == (64, 64, 3)
        with pytest.raises(Undecodable):
            decode(file[: len(file) // 2])
    with pytest.raises(Undecodable, match="empty"):
        decode(b"")
    with pytest.raises(Undecodable, match="not an image"):
        decode(b"<html>404 Not Found</html>")
    with pytest.raises(Undecodable, match="No such file"):
        decode(str(tmp_path / "absent.png"))
    with pytest.raises(Undecodable, match="not a regular file"):
        decode(str(tmp_path))
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"
    with pytest.raises(Undecodable, match="not an image"):
        decode(postscript)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(Undecodable, match="not a regular file"):
        decode(str(tmp_path / "pipe.png"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_whatever_the_bytes_it_decodes_or_says_why(data):
    image = Image.fromarray(smooth(12, 17))
    file_format = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"]))
    file = bytearray(encoded(image, file_format))
    for _ in range(data.draw(st.integers(1, 6))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode(bytes(file), size=8)
    except Undecodable:
        return
    assert pixels.shape == (8, 8, 3)
    assert pixels.dtype == np.uint8


def test_decode_all_names_rows_that_fail(tmp_path: Path, rng):
    pixels = rng.integers(0, 256, (3, 6, 6, 3), np.uint8)
    files = [encoded(Image.fromarray(image)) for image in pixels]
    files[1] = files[1][:40]
    out = np.full((3, 6, 6, 3), 7, np.uint8)
    failed = decode_all(files, out, size=None, pool=None)
    assert [row for row, _ in failed] == [1]
    np.testing.assert_array_equal(out[[0, 2]], pixels[[0, 2]])
    assert not out[1].any()
    other = encoded(Image.new("RGB", (5, 6)))
    assert decode_all([other], out[:1], size=None, pool=None) == [
        (0, "5x6 pixels where 6x6 are expected")
    ]


def test_header(rng):
    assert read_header(encoded(Image.new("L", (5, 3)))) == (5, 3, True)
    assert read_header(encoded(Image.new("RGB", (5, 3)))) == (5, 3, False)


def test_a_panorama_is_decoded_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG of more pixels than are allowed, also of more than Pillow opens without a warning."""
    data = encoded(Image.fromarray(smooth(240, 1600)), "JPEG", quality=95)
    whole = decode(data, size=32)
    monkeypatch.setattr(opening, "MAX_PIXELS", 100_000)  # of 384,000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    assert read_header(data)[:2] == (1600, 240)
    assert np.abs(decode(data, size=32).astype(int) - whole).mean() < 2
    # Where twice the size would be more than the whole, it is still reduced.
    assert decode(data, size=200).shape == (200, 200, 3)
    with pytest.raises(Undecodable, match="1600x240 pixels, more than the 100,000 allowed"):
        decode(data)
    monkeypatch.setattr(opening, "MAX_PIXELS", 6_000)  # an eighth of the sides, and no more
    assert decode(data, size=4).shape == (4, 4, 3)
    monkeypatch.setattr(opening, "MAX_PIXELS", 5_000)
    with pytest.raises(Undecodable, match="more than the 5,000 allowed"):
        read_header(data)


@pytest.mark.parametrize(("subsampling", "pixels"), [("4:4:4", 384_000), ("4:2:0", 192_000)])
def test_a_progressive_panorama_is_decoded_while_its_coefficients_fit(
    subsampling: str, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = {"quality": 95, "progressive": True, "subsampling": subsampling}
    data = encoded(Image.fromarray(smooth(240, 1600)), "JPEG", **form)
    whole = decode(data, size=32)
    monkeypatch.setattr(opening, "MAX_PIXELS", pixels)
    assert np.abs(decode(data, size=32).astype(int) - whole).mean() < 2
    monkeypatch.setattr(opening, "MAX_PIXELS", pixels - 1)
    message = r"more than the .* allowed of a progressive JPEG; save it as a baseline one"
    with pytest.raises(Undecodable, match=message):
        decode(data, size=32)
    grey = encoded(Image.fromarray(smooth(240, 1600)).convert("L"), "JPEG", progressive=True)
    monkeypatch.setattr(opening, "MAX_PIXELS", 128_000)
    assert decode(grey, size=32).shape == (32, 32, 3)


@pytest.mark.skipif("AVIF" not in FORMATS, reason="this Pillow reads no AVIF")
def test_avif_is_decoded() -> None:
    data = encoded(Image.fromarray(smooth(40, 60)), "AVIF", quality=95)
    assert np.abs(decode(data).astype(int) - smooth(40, 60)).mean() < 5


def test_heic_is_decoded() -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs the extra `heic`")
    file = io.BytesIO()
    heif.from_pillow(Image.fromarray(smooth(64, 80))).save(file, quality=95)
    data = file.getvalue()
    assert read_header(data)[:2] == (80, 64)
    assert np.abs(decode(data).astype(int) - smooth(64, 80)).mean() < 5
    with pytest.raises(Undecodable, match=r"damaged|not an image"):
        decode(data[: len(data) // 2])


def test_heic_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(Undecodable, match=r"HEIC, which needs .*pip install 'jaxhash\[heic\]'"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")


def test_what_is_decoded_is_what_the_digest_is_of(tmp_path: Path) -> None:
    data = [encoded(Image.fromarray(smooth(9, 9))), b"no image"]
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path, content in zip(paths, data, strict=True):
        path.write_bytes(content)
    digests = np.zeros((3, DIGEST_BYTES), np.uint8)
    out = np.zeros((3, 4, 4, 3), np.uint8)
    names = [*map(str, paths), str(tmp_path / "absent.png")]
    failed = decode_all(names, out, size=4, pool=None, digests=digests)
    assert [row for row, _ in failed] == [1, 2]
    for row in (0, 1):
        assert digests[row].tobytes() == hashlib.sha256(data[row]).digest()[:DIGEST_BYTES]
    assert not digests[2].any()
