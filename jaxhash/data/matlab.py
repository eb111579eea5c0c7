"""Arrays of real numbers in MATLAB files of level 5, as MATLAB's `save` and scipy write them.

Every size that a file claims is compared with what is there before it is used. `scipy.io.loadmat`
reads far more, but some damaged files end the whole process within it.
"""

import itertools
import math
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np

_HEADER = 128
_BYTE_ORDERS = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
"""By the end of the header: the version, 0x0100, and two letters."""
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED, _UTF8 = 1, 5, 6, 14, 15, 16
_NUMBERS = {
    **{_INT8: "i1", 2: "u1", 3: "i2", 4: "u2", _INT32: "i4", _UINT32: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
_NUMERIC = range(6, 16)  # classes of arrays: double, single and the integers
_COMPLEX = 0x800
_MAX_UNPACKED = 1 << 28  # bytes of one array; the largest real one, of SVHN, has 225 MB


def read(path: Path, names: Collection[str]) -> dict[str, np.ndarray]:
    """Some of the arrays in a file.

    Args:
        path: The file.
        names: Of the wanted arrays; others are passed over, and are not looked at.

    Returns:
        Read-only arrays by name, in the type they are stored in, which can be smaller than the one
        that MATLAB shows. Those that the file lacks, or that are not of real numbers, are left out.

    Raises:
        ValueError: where the file is damaged, or not of level 5.
        OSError: where it cannot be read.

    Example:
        >>> read(Path("train_32x32.mat"), ("X", "y"))["X"].shape  # doctest: +SKIP
        (32, 32, 3, 73257)

    Source:
        MathWorks, MAT-File Format, "Level 5 MAT-File Format".
    """
    data = path.read_bytes()
    order = _BYTE_ORDERS.get(data[_HEADER - 4 : _HEADER])
    if order is None:
        raise ValueError(f"{path} is no MATLAB file of level 5 (MATLAB's `save -v7` writes one)")
    found = {}
    try:
        for kind, content in _elements(memoryview(data)[_HEADER:], order):
            if kind == _COMPRESSED:
                kind, content = next(_elements(_unpacked(content), order), (0, content))
            if kind != _MATRIX:
                raise ValueError(f"an element of type {kind}, which is no array")
            name, array = _array(content, order, names)
            if array is not None:
                found[name] = array
    except (ValueError, zlib.error) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    return found


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """(type, content) of the elements, one after the other."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("it ends within an element")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start, room = at + 8, len(data) - at - 8
        if kind >> 16:  # up to four bytes, which lie within these eight
            kind, size, start, room = kind & 0xFFFF, kind >> 16, at + 4, 4
        if size > room:
            raise ValueError(f"an element of {size} bytes, where {room} are left")
        yield kind, data[start : start + size]
        at = start + size
        if kind != _COMPRESSED:
            at += -at % 8


def _unpacked(content: memoryview) -> memoryview:
    unpacker = zlib.decompressobj()
    unpacked = unpacker.decompress(content, _MAX_UNPACKED + 1)
    if len(unpacked) > _MAX_UNPACKED:
        raise ValueError("an array unpacks to an absurd size")
    if not unpacker.eof:
        raise ValueError("a compressed array is cut short")
    return memoryview(unpacked)


def _array(matrix: memoryview, order: str, names: Collection[str]) -> tuple[str, np.ndarray | None]:
    """Name and array; None in place of one that is not wanted, or not of real numbers."""
    parts = list(itertools.islice(_elements(matrix, order), 4))
    if not parts or parts[0][0] != _UINT32 or len(parts[0][1]) != 8:
        raise ValueError("an array whose class is missing")
    (flags,) = struct.unpack_from(f"{order}I", parts[0][1])
    if flags & 0xFF not in _NUMERIC or flags & _COMPLEX:
        return "", None
    if len(parts) < 4:
        raise ValueError("an array without numbers")
    _, (axes_kind, axes), (name_kind, letters), (kind, numbers) = parts
    if axes_kind != _INT32 or len(axes) % 4 or name_kind not in (_INT8, _UTF8):
        raise ValueError("an array whose shape or name is of a wrong type")
    shape = struct.unpack(f"{order}{len(axes) // 4}i", axes)
    name = bytes(letters).decode("latin-1")
    if name not in names:
        return name, None
    if kind not in _NUMBERS:
        raise ValueError(f"{name!r} has numbers of type {kind}, which there is not")
    dtype = np.dtype(order + _NUMBERS[kind])
    if min(shape, default=-1) < 0 or math.prod(shape) * dtype.itemsize != len(numbers):
        raise ValueError(f"{name!r} has {len(numbers)} bytes of numbers, and the shape {shape}")
    return name, np.frombuffer(numbers, dtype).reshape(shape, order="F")
