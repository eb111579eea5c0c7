"""The format of an index file. `search.files.reading` reads it, `search.files.writing` writes it.

Version 3, or 2 where the section `ids` is absent or has n ids. Every number is little-endian; a
file is

    header    64 bytes
    sections  each begins at a multiple of 64 bytes from the start of the file, in the order of
              the table, with zeros in the gaps
    table     one entry of 128 bytes for each section; the file ends with it

Header:

    offset  size  field
     0       8    magic: 89 48 49 58 0D 0A 1A 0A (so that a text-mode transfer shows)
     8       2    version: 3 where the section `ids` has one id for several codes, else 2
    10       2    byte order mark 0x0102; reads 0x0201 if the bytes were swapped
    12       4    bits of a code, 1 to 4096
    16       8    n, the number of codes
    24       8    length of the file in bytes
    32       8    offset of the table
    40       4    number of sections
    44       4    CRC-32 of the table
    48       8    the next id: the smallest that an item may get by default. It is larger than
                  every id in the file and every id ever used, and at most 2**63
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
                      int64 (1,) when they are f to f + n - 1 for an f above 0, n above 1: it
                      holds f, and the file is of version 3.
    features          float16 or float32 (n, d), row i beside code i, d at most 2**24. Optional;
                      where n is 0, it sets the type and dimensions of later items' features.
    attachment/<name> uint8 (length,): bytes that the owner of the index keeps with it. Any number.
                      The name has 1 to 69 bytes and no zero byte.
    checksums/<name>  uint32 (groups,), for each of the sections codes, ids and features: CRC-32 of
                      its groups of max(1, floor(g / row bytes)) rows, of which the last may have
                      fewer; a row of codes is a block. g is 65536 for codes and ids, 4096 for
                      features. A section of no bytes has no groups.

A mapped file is neither read whole at opening nor trusted unread: each group is compared with its
checksum when a search first looks at it, see `search.files.checksums`.

Version 2 has an id for each code wherever they are not 0 to n - 1. Programs that know versions 1
and 2 alone read files of version 2, and refuse version 3 by its number.

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
import struct

import numpy as np

from search.files.checksums import group_rows
from search.kernels.shared import BLOCK

MAGIC = b"\x89HIX\r\n\x1a\n"
VERSION = 3
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
class Header:
    """What the header says of the contents."""

    version: int
    bits: int
    count: int
    next_id: int


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


def planes_shape(bits: int, count: int) -> tuple[int, int, int]:
    """Shape of the section `codes`."""
    return -(-count // BLOCK), -(-bits // 8), BLOCK


def aligned(offset: int) -> int:
    """The next multiple of the alignment."""
    return -(-offset // ALIGNMENT) * ALIGNMENT
