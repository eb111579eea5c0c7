"""What an index file must hold: shapes that fit the header, whole bytes, values of the format."""

import zlib
from typing import BinaryIO

import numpy as np

from search.codes import pad_mask
from search.files.checksums import GROUPS, DamagedFile
from search.files.format import (
    ALIGNMENT,
    ATTACHMENT,
    CHECKSUMS,
    PIECE,
    Header,
    Section,
    aligned,
    planes_shape,
)
from search.fine.rerank import MOST_DIMENSIONS
from search.kernels.shared import BLOCK


def check_shapes(name: str, header: Header, sections: list[Section]) -> None:
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
        first_alone = header.version > 2 and header.count > 1 and shape == (1,)
        return kind == "<i8" and (shape == (header.count,) or first_alone)
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


def check_bytes(file: BinaryIO, name: str, sections: list[Section]) -> None:
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


def check_values(name: str, header: Header, arrays: dict[str, np.ndarray]) -> None:
    """Ids ascend, nothing is set past the last bit or the last code, features are finite."""
    planes, ids, features = arrays["codes"], arrays.get("ids"), arrays.get("features")
    rows = PIECE // 8
    if ids is not None and len(ids) == header.count:
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


def first_id(name: str, header: Header, ids: np.ndarray | None) -> int:
    """The id of the first of codes whose ids follow each other; `ids` is what the section holds.

    Raises:
        DamagedFile: there are no such ids.
    """
    if ids is None:
        return 0
    first = int(ids[0])
    if not 0 < first <= header.next_id - header.count:
        raise DamagedFile(
            f"{name}: {header.count} ids from {first} on do not fit the next id, {header.next_id}"
        )
    return first
