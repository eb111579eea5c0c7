"""The index file: its format, and a reader that trusts nothing. `search.files.writing` writes it.

Format, version 2. Every number is little-endian; a file is

    header    64 bytes
    sections  each begins at a multiple of 64 bytes from the start of the file, in the order of
              the table, with zeros in the gaps
    table     one entry of 128 bytes for each section; the file ends with it

Header:

    offset  size  field
     0       8    magic: 89 48 49 58 0D 0A 1A 0A (so that a text-mode transfer shows)
     8       2    version: 2
    10       2    byte order mark 0x0102; reads 0x0201 if the bytes were swapped
    12       4    bits of a code, 1 to 4096
    16       8    n, the number of codes
    24       8    length of the file in bytes
    32       8    offset of the table
    40       4    number of sections
    44       4    CRC-32 of the table
    48       8    the next id: the smallest that an item may get by default. It is larger than
                  every id in the file and every id that ever was, and at most 2**63
    56       4    zeros
    60       4    CRC-32 of the 60 bytes before

Table entry:

     0      80    name in UTF-8, padded with zeros
    80       4    element type: 1 uint8, 2 int64, 3 float16, 4 float32, 5 uint32
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
    features          float16 or float32 (n, d), row i beside code i, d at most 2**24. Optional;
                      n may be 0, and then says what the features of later items are.
    attachment/<name> uint8 (length,): bytes that the owner of the index keeps with it. Any number.
                      The name has 1 to 69 bytes and no zero byte.
    checksums/<name>  uint32 (groups,), for each of the sections codes, ids and features: CRC-32 of
                      its groups of max(1, floor(g / row bytes)) rows, of which the last may have
                      fewer; a row of codes is a block. g is 65536 for codes and ids, 4096 for
                      features. A section of no bytes has no groups.

So that a mapped file need not be read at opening and is not trusted either, each group is compared
with its checksum when a search first looks at it, see `search.files.checksums`.

Version 1 has no next id (zeros: the one after the largest id, from 0), and no checksums of groups.
Such files are read; a mapped section is compared as a whole when it is first used as a whole, or
when it has at most 16 MiB. Programs that know version 1 alone refuse version 2 by its number.

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
from search.files.checksums import GROUPS, Guard, group_rows
from search.files.checksums import DamagedFile as DamagedFile
from search.fine.rerank import MOST_DIMENSIONS
from search.kernels.shared import BLOCK

MAGIC = b"\x89HIX\r\n\x1a\n"
VERSION = 2
BYTE_ORDER = 0x0102
ALIGNMENT = 64
HEADER = struct.Struct("<8sHHIQQQIIQ4x")
CHECKSUM = struct.Struct("<I")
ENTRY = struct.Struct("<80sII3QQI4x")
TYPES = {1: "|u1", 2: "<i8", 3: "<f2", 4: "<f4", 5: "<u4"}
ATTACHMENT = "attachment/"
CHECKSUMS = "checksums/"
LONGEST_NAME = 80
# Bytes handled at a time where a section is read, checked or copied.
PIECE = 1 << 24


@dataclasses.dataclass(frozen=True)
class Source:
    """A file, and what tells it from another one that may come to have its path.

    Attributes:
        path: absolute.
        header: its first 64 bytes, with the checksum of the table, which holds all the others.
    """

    path: str
    header: bytes


@dataclasses.dataclass(frozen=True)
class Stored:
    """What an index file holds; the arrays are read-only and may be memory-mapped.

    `guards` has the sections that are still to be compared with their checksums, by name; none
    where that is done. `next_id` is None in a file of version 1.
    """

    bits: int
    count: int
    next_id: int | None
    planes: np.ndarray
    ids: np.ndarray | None
    features: np.ndarray | None
    attachments: dict[str, bytes | Guard]
    guards: dict[str, Guard]
    source: Source


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

    @property
    def row_bytes(self) -> int:
        """Length of a row in bytes."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def groups(self) -> int:
        """Number of groups of rows that have a checksum of their own."""
        return -(-self.size // max(1, group_rows(self.name, self.row_bytes) * self.row_bytes))


def read(path: str | os.PathLike[str], *, mmap: bool = True, verify: bool = False) -> Stored:
    """The contents of an index file.

    Header, table and all sizes are always checked, in a time that does not depend on the size.
    `mmap=False` reads the sections into memory and compares their checksums as they pass; mapped
    ones come with `guards` that compare them as they are used. `verify` compares every byte with
    its checksum and every value with the format, now.

    Raises:
        DamagedFile: naming the file and what is wrong with it.

    Example:
        >>> read("photos.index", verify=True).count  # doctest: +SKIP
        50000
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        header, sections = _read_table(file, name)
        file.seek(0)
        raw_header = file.read(ALIGNMENT)
        _check_shapes(name, header, sections)
        stays = mmap and sys.byteorder == "little"
        guards: dict[str, Guard] = {}
        if stays or verify:
            mapping = _map(file)
            guards = _guards(name, header.version, mapping, sections)
        if stays:
            arrays = {each.name: _mapped(mapping, each) for each in sections}
        else:
            arrays = {each.name: _load(file, each, name) for each in sections}
        if verify:
            _check_bytes(file, name, sections)
            for guard in guards.values():
                guard.whole()
            _check_values(name, header, arrays)
    return Stored(
        header.bits,
        header.count,
        header.next_id if header.version > 1 else None,
        arrays["codes"],
        arrays.get("ids"),
        arrays.get("features"),
        {
            key.removeprefix(ATTACHMENT): guards[key] if stays else array.tobytes()
            for key, array in arrays.items()
            if key.startswith(ATTACHMENT)
        },
        {key: guards[key] for key in GROUPS if key in guards and stays and not verify},
        Source(os.path.abspath(name), raw_header),
    )


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header says of the contents."""

    version: int
    bits: int
    count: int
    next_id: int


def _read_table(file: BinaryIO, name: str) -> tuple[Header, list[Section]]:
    """Header and table of an open file, checked against each other and the file's length."""
    length = os.fstat(file.fileno()).st_size
    head = file.read(ALIGNMENT)
    if head[:8] != MAGIC:
        raise DamagedFile(f"{name}: not an index file (it does not begin with the magic bytes)")
    if len(head) < ALIGNMENT:
        raise DamagedFile(f"{name}: cut short inside the header ({length} bytes)")
    body, (checksum,) = head[:60], CHECKSUM.unpack(head[60:])
    fields = HEADER.unpack(body)
    _, version, order, bits, count, size, table_offset, number, table_checksum, next_id = fields
    if not 1 <= version <= VERSION and zlib.crc32(body) == checksum:
        raise DamagedFile(
            f"{name}: format version {version}, this program reads versions 1 to {VERSION}: "
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
    if next_id > (1 << 63 if version > 1 else 0):
        raise DamagedFile(f"{name}: the next id is {next_id}, out of range")
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
    return Header(version, bits, count, next_id), sections


def _entry(
    name: str, label: bytes, kind: int, dimensions: int, a: int, b: int, c: int, at: int, crc: int
) -> Section:
    """A table entry as a `Section`."""
    try:
        text = label.rstrip(b"\0").decode()
    except UnicodeDecodeError as error:
        raise DamagedFile(f"{name}: a section's name is not UTF-8") from error
    if "\0" in text:
        raise DamagedFile(f"{name}: the section name {text!r} holds a zero byte")
    shape = (a, b, c)
    if kind not in TYPES or not 1 <= dimensions <= 3 or set(shape[dimensions:]) - {1}:
        raise DamagedFile(f"{name}: section {text!r} has an unknown element type or shape")
    return Section(text, np.dtype(TYPES[kind]), shape[:dimensions], at, crc)


def _check_shapes(name: str, header: Header, sections: list[Section]) -> None:
    """Each section is known, there once, and of the type and shape that it must have."""
    by_name = {section.name: section for section in sections}
    if len(by_name) != len(sections):
        raise DamagedFile(f"{name}: a section appears twice")
    needed = {"codes"}
    if header.version > 1:
        needed |= {CHECKSUMS + each for each in GROUPS if each in by_name}
    for missing in sorted(needed - set(by_name)):
        raise DamagedFile(f"{name}: no section {missing!r}")
    for section in sections:
        if not _good_shape(header, section, by_name):
            raise DamagedFile(
                f"{name}: section {section.name!r} of type {section.dtype.str} and shape "
                f"{section.shape} does not fit {header.count} codes of {header.bits} bits, "
                f"or a file of version {header.version}"
            )
    if header.version > 1 and "ids" not in by_name and header.next_id < header.count:
        raise DamagedFile(f"{name}: the next id is {header.next_id}, but {header.count} are taken")


def _good_shape(header: Header, section: Section, by_name: dict[str, Section]) -> bool:
    """Whether a section may be in the file, as it is."""
    kind, shape = section.dtype.str, section.shape
    if section.name == "codes":
        return kind == "|u1" and shape == planes_shape(header.bits, header.count)
    if section.name == "ids":
        return kind == "<i8" and shape == (header.count,)
    if section.name == "features":
        fits = len(shape) == 2 and shape[0] == header.count and shape[1] <= MOST_DIMENSIONS
        return kind in ("<f2", "<f4") and fits
    if section.name.startswith(CHECKSUMS) and header.version > 1:
        of = by_name.get(section.name.removeprefix(CHECKSUMS))
        if of is None or of.name not in GROUPS:
            return False
        return kind == "<u4" and shape == (of.groups,)
    named = section.name.startswith(ATTACHMENT) and section.name != ATTACHMENT
    return named and kind == "|u1" and len(shape) == 1


def planes_shape(bits: int, count: int) -> tuple[int, int, int]:
    """Shape of the section `codes`."""
    return -(-count // BLOCK), -(-bits // 8), BLOCK


def _map(file: BinaryIO) -> np.ndarray:
    """The file as read-only bytes of one mapping."""
    return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)


def _bytes_of(mapping: np.ndarray, section: Section) -> np.ndarray:
    return mapping[section.offset : section.offset + section.size]


def _mapped(mapping: np.ndarray, section: Section) -> np.ndarray:
    """A section as a view of the mapping."""
    return _bytes_of(mapping, section).view(section.dtype).reshape(section.shape)


def _guards(
    name: str, version: int, mapping: np.ndarray, sections: list[Section]
) -> dict[str, Guard]:
    """What compares each section with its checksums when it is used."""
    by_name = {section.name: section for section in sections}
    guards = {}
    for section in sections:
        if section.name.startswith(CHECKSUMS):
            continue
        content = _bytes_of(mapping, section)
        rows, checksums = max(1, section.shape[0]), np.array([section.checksum], np.uint32)
        if version > 1 and section.name in GROUPS:
            rows = group_rows(section.name, section.row_bytes)
            checksums = _mapped(mapping, by_name[CHECKSUMS + section.name])
        guards[section.name] = Guard(
            name, section.name, content, section.row_bytes, rows, checksums
        )
    return guards


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


def _check_values(name: str, header: Header, arrays: dict[str, np.ndarray]) -> None:
    """Ids ascend, nothing is set past the last bit or the last code, features are finite."""
    planes, ids, features = arrays["codes"], arrays.get("ids"), arrays.get("features")
    rows = PIECE // 8
    if ids is not None:
        for start in range(0, len(ids), rows):
            piece = ids[start : start + rows + 1]
            if np.any(piece[1:] <= piece[:-1]) or np.any(piece == -1):
                raise DamagedFile(f"{name}: the ids do not strictly ascend, or one is -1")
        if header.version > 1 and len(ids) and header.next_id <= ids[-1]:
            raise DamagedFile(f"{name}: the next id is {header.next_id}, but {ids[-1]} is taken")
    if len(planes):
        filled = header.count - (len(planes) - 1) * BLOCK
        if np.any(planes[-1, :, filled:]):
            raise DamagedFile(f"{name}: bits are set past the last code")
    unused = 0xFF & ~pad_mask(header.bits)
    if unused:
        for start in range(0, len(planes), rows // BLOCK):
            if np.any(planes[start : start + rows // BLOCK, -1] & np.uint8(unused)):
                raise DamagedFile(f"{name}: bits are set past bit {header.bits}")
    if features is not None:
        step = max(1, PIECE // max(1, features.shape[1] * features.itemsize))
        for start in range(0, len(features), step):
            if not np.isfinite(features[start : start + step]).all():
                raise DamagedFile(f"{name}: features hold NaN or infinity")


def aligned(offset: int) -> int:
    """The next multiple of the alignment."""
    return -(-offset // ALIGNMENT) * ALIGNMENT
