"""Codes in blocks, the layout that the scan reads: first byte 0 of 256 codes, then byte 1, ..."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search import threads as pool
from search.codes import pad_mask, validate, width
from search.kernels.shared import BLOCK as BLOCK

_LINE = 64  # bytes


@dataclass(frozen=True)
class Blocks:
    """Codes in the layout that the kernels scan; what files hold and memory maps show.

    Attributes:
        planes: uint8 (ceil(count / 256), ceil(bits / 8), 256), C-contiguous, read-only or not,
            in memory or mapped: planes[b, i, j] is byte i of code 256 b + j. Pad bits and the
            codes after the last are zero.
        count: number of codes.
        bits: bits in a code.

    Example:
        >>> arrange(np.array([[1, 2], [3, 4]], np.uint8)).planes[0, :, :2]
        array([[1, 3],
               [2, 4]], dtype=uint8)
    """

    planes: NDArray[np.uint8]
    count: int
    bits: int

    def __post_init__(self) -> None:
        blocks = -(-self.count // BLOCK)
        shape = (blocks, width(self.bits), BLOCK)
        planes = self.planes
        if planes.dtype != np.uint8 or planes.shape != shape or not planes.flags.c_contiguous:
            raise ValueError(
                f"planes must be uint8, C-contiguous and of shape {shape} for count={self.count} "
                f"and bits={self.bits}, not {planes.dtype} {planes.shape}"
            )
        if planes.flags.writeable or type(planes) is not np.ndarray:
            # One kind of array for the kernels, mapped or not: they are compiled once.
            planes = planes.view(np.ndarray)
            planes.flags.writeable = False
            object.__setattr__(self, "planes", planes)

    def __len__(self) -> int:
        return self.count


def arrange(
    codes: NDArray[np.uint8],
    bits: int | None = None,
    *,
    out: NDArray[np.uint8] | None = None,
    threads: int | None = None,
) -> Blocks:
    """Lay codes out in blocks.

    Args:
        codes: uint8 (n, ceil(bits / 8)), any strides; pad bits are masked.
        bits: number of bits in a code; eight a byte when left out.
        out: where to write, uint8 (ceil(n / 256), ceil(bits / 8), 256), for instance a memory
            map; a new array when left out.
        threads: number of threads; all processors when left out.

    Raises:
        TypeError, ValueError: as `search.codes.validate`; or `out` has another shape.

    Example:
        >>> arrange(np.zeros((1000, 8), np.uint8)).planes.shape
        (4, 8, 256)
    """
    codes, bits = validate(codes, bits)
    count = len(codes)
    shape = (-(-count // BLOCK), width(bits), BLOCK)
    if out is None:
        out = _aligned(shape)
    elif out.shape != shape or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be uint8, C-contiguous and of shape {shape}")
    mask = pad_mask(bits)
    step = BLOCK * 256

    def write(start: int) -> None:
        part = codes[start : start + step]
        whole = len(part) // BLOCK
        first = start // BLOCK
        head = part[: whole * BLOCK].reshape(whole, BLOCK, shape[1])
        out[first : first + whole] = head.transpose(0, 2, 1)
        if len(part) % BLOCK:
            out[first + whole] = 0
            out[first + whole, :, : len(part) % BLOCK] = part[whole * BLOCK :].T
        if mask != 0xFF:
            out[first : first + -(-len(part) // BLOCK), -1] &= np.uint8(mask)

    pool.run(write, [(start,) for start in range(0, count, step)], threads)
    return Blocks(out, count, bits)


def _aligned(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """An empty array that begins with a cache line: no vector then takes two of them."""
    size = shape[0] * shape[1] * shape[2]
    room = np.empty(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size].reshape(shape)


def restore(blocks: Blocks, start: int = 0, stop: int | None = None) -> NDArray[np.uint8]:
    """The codes that `arrange` was given, or those of rows [start, stop).

    Returns:
        uint8 (stop - start, ceil(bits / 8)), a copy.

    Example:
        >>> restore(arrange(np.array([[1, 2], [3, 4]], np.uint8)))
        array([[1, 2],
               [3, 4]], dtype=uint8)
    """
    start, stop, _ = slice(start, stop).indices(blocks.count)
    stop = max(start, stop)
    first, last = start // BLOCK, -(-stop // BLOCK)
    part = blocks.planes[first:last].transpose(0, 2, 1).reshape(-1, width(blocks.bits))
    return part[start - first * BLOCK : stop - first * BLOCK].copy()


def take(blocks: Blocks, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The codes of some rows: uint8 (len(rows), ceil(bits / 8)).

    Example:
        >>> take(arrange(np.array([[1, 2], [3, 4]], np.uint8)), np.array([1]))
        array([[3, 4]], dtype=uint8)
    """
    return blocks.planes[rows // BLOCK, :, rows % BLOCK]
