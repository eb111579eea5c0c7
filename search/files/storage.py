"""The index file: its format, and reading it without trust. `search.files.writing` writes it.

Format, version 1. Every number is little-endian; a file is

    header    64 bytes
    sections  each begins at a multiple of 64 bytes from the start of the file, in the order of
              the table, with zeros in the gaps
    table     one entry of 128 bytes for each section; the file ends with it

Header:

    offset  size  field
     0       8    magic: 89 48 49 58 0D 0A 1A 0A (so that a text-mode transfer shows)
     8       2    version: 1
    10       2    byte order mark 0x0102; reads 0x0201 if the bytes were swapped
    12       4    bits of a code, 1 to 4096
    16       8    n, the number of codes
    24       8    length of the file in bytes
    32       8    offset of the table
    40       4    number of sections
    44       4    CRC-32 of the table
    48      12    zeros
    60       4    CRC-32 of the 60 bytes before

Table entry:

     0      80    name in UTF-8, padded with zeros
    80       4    element type: 1 uint8, 2 int64, 3 float16, 4 float32
    84       4    number of dimensions, 1 to 3
    88      24    the dimensions as three 8-byte numbers, 1 where unused
   112       8    offset
   120       4    CRC-32 of the section
   124       4    zeros

Sections, in row-major order:

    codes             uint8 (blocks, width, 256), blocks = ceil(n / 256), width = ceil(bits / 8).
                      Byte w of code i is [i // 256, w, i % 256]: the layout that is scanned. Bit
                      0 of a code is the most significant bit of its byte 0. Zero past the last
                      bit of a code and past the last code.
    ids               int64 (n,), strictly ascending, never -1. Absent when they are 0 to n - 1.
    features          float16 or float32 (n, d), row i beside code i. Optional.
    attachment/<name> uint8 (length,): bytes that the owner of the index keeps with it. Any number.

CRC-32 is zlib's (polynomial 0x04C11DB7, reflected): the checksum of the standard library that is
as fast as memory, and that is certain to notice every error burst of up to 32 bits. It guards
against damage, not against an adversary: the sizes are checked for themselves, so that a forged
file is refused or gives wrong neighbours, but never reads outside its own bytes.
"""

import dataclasses
import math
import mmap
import os
import struct
import sys
import zlib
from typing import BinaryIO

import numpy as np

from search.codes import pad_mask

MAGIC = b"\x89HIX\r\n\x1a\n"
VERSION = 1
BYTE_ORDER = 0x0102
ALIGNMENT = 64
BLOCK = 256
HEADER = struct.Struct("<8sHHIQQQII12x")
CHECKSUM = struct.Struct("<I")
ENTRY = struct.Struct("<80sII3QQI4x")
TYPES = {1: "|u1", 2: "<i8", 3: "<f2", 4: "<f4"}
ATTACHMENT = "attachment/"
LONGEST_NAME = 80
# Bytes handled at a time where a section is read, checked or copied.
PIECE = 1 << 24


class DamagedFile(ValueError):
    """The file is no index, of another version, cut short, extended or altered."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """What an index file holds; the arrays are read-only and may be memory-mapped."""

    bits: int
    count: int
    planes: np.ndarray
    ids: np.ndarray | None
    features: np.ndarray | None
    attachments: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Section:
    """An entry of the table."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int
    checksum: int

    @property
    def size(self) -> int:
        """Length in bytes: Python's integers, so that no shape overflows it."""
        return math.prod(self.shape) * self.dtype.itemsize


def read(path: str | os.PathLike[str], *, mmap: bool = True, verify: bool = False) -> Stored:
    """The contents of an index file.

    Header, table and all sizes are always checked, in a time that does not depend on the size.
    `verify` compares every byte with its checksum and every value with the format;
    `mmap=False` reads the sections into memory and compares their checksums as they pass.

    Raises:
        DamagedFile: naming the file and what is wrong with it.

    Example:
        >>> read("photos.index", verify=True).count  # doctest: +SKIP
        50000
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        bits, count, sections = _read_table(file, name)
        _check_shapes(name, bits, count, sections)
        if mmap:
            arrays = _map(file, sections)
        else:
            arrays = {each.name: _load(file, each, name) for each in sections}
        stored = Stored(
            bits,
            count,
            arrays["codes"],
            arrays.get("ids"),
            arrays.get("features"),
            {
                key.removeprefix(ATTACHMENT): array
                for key, array in arrays.items()
                if key.startswith(ATTACHMENT)
            },
        )
        if verify:
            _check_bytes(file, name, sections)
            _check_values(name, stored)
    return stored


def _read_table(file: BinaryIO, name: str) -> tuple[int, int, list[Section]]:
    """Header and table of an open file, checked against each other and the file's length."""
    length = os.fstat(file.fileno()).st_size
    head = file.read(ALIGNMENT)
    if head[:8] != MAGIC:
        raise DamagedFile(f"{name}: not an index file (it does not begin with the magic bytes)")
    if len(head) < ALIGNMENT:
        raise DamagedFile(f"{name}: cut short inside the header ({length} bytes)")
    body, (checksum,) = head[:60], CHECKSUM.unpack(head[60:])
    fields = HEADER.unpack(body)
    _, version, order, bits, count, size, table_offset, number, table_checksum = fields
    if version != VERSION and zlib.crc32(body) == checksum:
        raise DamagedFile(
            f"{name}: format version {version}, this program reads version {VERSION}: "
            "open it with the program that wrote it"
        )
    if zlib.crc32(body) != checksum or body != HEADER.pack(*fields):
        raise DamagedFile(f"{name}: the header is damaged (its checksum differs)")
    if order != BYTE_ORDER:
        raise DamagedFile(f"{name}: byte order mark {order:#06x}, expected {BYTE_ORDER:#06x}")
    if size != length:
        raise DamagedFile(f"{name}: {length} bytes long, the header says {size}")
    if table_offset < ALIGNMENT or table_offset + number * ENTRY.size != length:
        raise DamagedFile(f"{name}: the table of {number} sections does not end the file")
    if not 1 <= bits <= 4096:
        raise DamagedFile(f"{name}: {bits} bits, must be 1 to 4096")
    file.seek(table_offset)
    table = file.read(number * ENTRY.size)
    if zlib.crc32(table) != table_checksum:
        raise DamagedFile(f"{name}: the table of sections is damaged (its checksum differs)")
    sections = [_entry(name, *fields) for fields in ENTRY.iter_unpack(table)]
    end = ALIGNMENT
    for section in sections:
        if section.offset != aligned(end):
            raise DamagedFile(f"{name}: section {section.name!r} is not where it belongs")
        end = section.offset + section.size
    if table_offset != aligned(end):
        raise DamagedFile(f"{name}: the sections do not fill the space before the table")
    return bits, count, sections


def _entry(
    name: str, label: bytes, kind: int, dimensions: int, a: int, b: int, c: int, at: int, crc: int
) -> Section:
    """A table entry as a `Section`."""
    try:
        text = label.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{name}: a section's name is not UTF-8") from error
    shape = (a, b, c)
    if kind not in TYPES or not 1 <= dimensions <= 3 or set(shape[dimensions:]) - {1}:
        raise DamagedFile(f"{name}: section {text!r} has an unknown element type or shape")
    return Section(text, np.dtype(TYPES[kind]), shape[:dimensions], at, crc)


def _check_shapes(name: str, bits: int, count: int, sections: list[Section]) -> None:
    """Each section is known, there once, and of the type and shape that it must have."""
    if len({section.name for section in sections}) != len(sections):
        raise DamagedFile(f"{name}: a section appears twice")
    by_name = {section.name: section for section in sections}
    if "codes" not in by_name:
        raise DamagedFile(f"{name}: no section 'codes'")
    for section in sections:
        kind = section.dtype.str
        if section.name == "codes":
            good = kind == "|u1" and section.shape == planes_shape(bits, count)
        elif section.name == "ids":
            good = kind == "<i8" and section.shape == (count,)
        elif section.name == "features":
            good = kind in ("<f2", "<f4") and len(section.shape) == 2 and section.shape[0] == count
        else:
            if not section.name.startswith(ATTACHMENT):
                raise DamagedFile(f"{name}: unknown section {section.name!r}")
            good = kind == "|u1" and len(section.shape) == 1
        if not good:
            raise DamagedFile(
                f"{name}: section {section.name!r} of type {kind} and shape {section.shape} "
                f"does not fit {count} codes of {bits} bits"
            )


def planes_shape(bits: int, count: int) -> tuple[int, int, int]:
    """Shape of the section `codes`."""
    return -(-count // BLOCK), -(-bits // 8), BLOCK


def _map(file: BinaryIO, sections: list[Section]) -> dict[str, np.ndarray]:
    """The sections as read-only views of one mapping of the file."""
    mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {
        each.name: _native(
            np.frombuffer(mapping, each.dtype, math.prod(each.shape), each.offset)
        ).reshape(each.shape)
        for each in sections
    }


def _load(file: BinaryIO, section: Section, name: str) -> np.ndarray:
    """A section in memory, its checksum compared."""
    array = np.empty(section.shape, section.dtype)
    raw = array.reshape(-1).view(np.uint8).data
    file.seek(section.offset)
    checksum = 0
    for start in range(0, section.size, PIECE):
        piece = raw[start : start + PIECE]
        if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
            raise DamagedFile(f"{name}: cut short while it was being read")
        checksum = zlib.crc32(piece, checksum)
    if checksum != section.checksum:
        raise DamagedFile(f"{name}: section {section.name!r} is damaged (its checksum differs)")
    array = _native(array)
    array.flags.writeable = False
    return array


def _native(array: np.ndarray) -> np.ndarray:
    """The array in the byte order of this machine: itself on little-endian ones."""
    if sys.byteorder == "little":
        return array
    return array.astype(array.dtype.newbyteorder("="))


def _check_bytes(file: BinaryIO, name: str, sections: list[Section]) -> None:
    """Every section has its checksum, every gap is zero."""
    end = ALIGNMENT
    for section in sections:
        file.seek(end)
        if any(file.read(section.offset - end)):
            raise DamagedFile(f"{name}: the gap before section {section.name!r} is not zero")
        checksum, left = 0, section.size
        while left:
            piece = file.read(min(left, PIECE))
            if not piece:
                raise DamagedFile(f"{name}: cut short while it was being read")
            checksum = zlib.crc32(piece, checksum)
            left -= len(piece)
        if checksum != section.checksum:
            raise DamagedFile(f"{name}: section {section.name!r} is damaged (its checksum differs)")
        end = section.offset + section.size
    file.seek(end)
    if any(file.read(aligned(end) - end)):
        raise DamagedFile(f"{name}: the gap before the table is not zero")


def _check_values(name: str, stored: Stored) -> None:
    """Ids ascend, nothing is set past the last bit or the last code, features are finite."""
    ids, features, planes = stored.ids, stored.features, stored.planes
    rows = PIECE // 8
    if ids is not None:
        for start in range(0, len(ids), rows):
            piece = ids[start : start + rows + 1]
            if np.any(piece[1:] <= piece[:-1]) or np.any(piece == -1):
                raise DamagedFile(f"{name}: the ids do not strictly ascend, or one is -1")
    if len(planes):
        filled = stored.count - (len(planes) - 1) * BLOCK
        if np.any(planes[-1, :, filled:]):
            raise DamagedFile(f"{name}: bits are set past the last code")
    unused = 0xFF & ~pad_mask(stored.bits)
    if unused:
        for start in range(0, len(planes), rows // BLOCK):
            if np.any(planes[start : start + rows // BLOCK, -1] & np.uint8(unused)):
                raise DamagedFile(f"{name}: bits are set past bit {stored.bits}")
    if features is not None:
        step = max(1, PIECE // max(1, features.shape[1] * features.itemsize))
        for start in range(0, len(features), step):
            if not np.isfinite(features[start : start + step]).all():
                raise DamagedFile(f"{name}: features hold NaN or infinity")


def aligned(offset: int) -> int:
    """The next multiple of the alignment."""
    return -(-offset // ALIGNMENT) * ALIGNMENT
