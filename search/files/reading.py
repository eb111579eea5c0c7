"""Reading an index file, trusting nothing; its format is in `search.files.format`."""

import dataclasses
import mmap
import os
import sys
import zlib
from typing import BinaryIO

import numpy as np

from search.files.checking import check_bytes, check_shapes, check_values, first_id
from search.files.checksums import GROUPS, DamagedFile, Guard, group_rows
from search.files.format import (
    ALIGNMENT,
    ATTACHMENT,
    BYTE_ORDER,
    CHECKSUM,
    CHECKSUMS,
    ENTRY,
    HEADER,
    MAGIC,
    PIECE,
    TYPES,
    VERSION,
    Header,
    Section,
    aligned,
)


@dataclasses.dataclass(frozen=True)
class Source:
    """A file, and what tells it from another one that is later put at its path.

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
    where that is done. `next_id` is None in a file of version 1. `first` is the id of the first
    code where `ids` is None.
    """

    bits: int
    count: int
    next_id: int | None
    planes: np.ndarray
    ids: np.ndarray | None
    first: int
    features: np.ndarray | None
    attachments: dict[str, bytes | Guard]
    guards: dict[str, Guard]
    source: Source


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
        check_shapes(name, header, sections)
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
            check_bytes(file, name, sections)
            for guard in guards.values():
                guard.whole()
            check_values(name, header, arrays)
    ids, first = arrays.get("ids"), 0
    if ids is not None and len(ids) != header.count:
        if "ids" in guards:
            guards.pop("ids").whole()
        ids, first = None, first_id(name, header, ids)
    return Stored(
        header.bits,
        header.count,
        header.next_id if header.version > 1 else None,
        arrays["codes"],
        ids,
        first,
        arrays.get("features"),
        {
            key.removeprefix(ATTACHMENT): guards[key] if stays else array.tobytes()
            for key, array in arrays.items()
            if key.startswith(ATTACHMENT)
        },
        {key: guards[key] for key in GROUPS if key in guards and stays and not verify},
        Source(os.path.abspath(name), raw_header),
    )


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
            f"{name}: format version {version}, this program reads versions 1 to {VERSION}; "
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
