"""The tfrecord container in pure Python: frames of bytes, each with two checksums.

A frame is the length (u64, little-endian), its masked CRC-32C (u32), the data, and the data's
masked CRC-32C (u32). Format: tensorflow.org/tutorials/load_data/tfrecord.
"""

import struct
from collections.abc import Iterator
from pathlib import Path


def _crc32c_table() -> tuple[int, ...]:
    """CRC of every single byte by the reflected Castagnoli polynomial."""
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _crc32c_table()
_HEADER = struct.Struct("<QI")


def masked_crc32c(data: bytes) -> int:
    """CRC-32C of data, rotated and offset as tfrecord files store it.

    Example:
        >>> hex(masked_crc32c(b"123456789"))
        '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: str | Path, *, check_data: bool = False) -> Iterator[bytes]:
    """Records of one uncompressed tfrecord file, in order.

    Args:
        path: The file.
        check_data: Verify the checksum of the data too. It runs at about 10 MB/s, and images
            carry checksums of their own; the checksum of the length is always verified.

    Raises:
        ValueError: where the file is cut short, or a checksum is wrong.
    """
    with open(path, "rb") as file:
        number = 0
        while header := file.read(_HEADER.size):
            if len(header) < _HEADER.size:
                raise ValueError(f"{path}: cut short at record {number}; prepare it again")
            length, crc = _HEADER.unpack(header)
            if masked_crc32c(header[:8]) != crc:
                raise ValueError(f"{path}: record {number} is damaged; prepare it again")
            data, footer = file.read(length), file.read(4)
            if len(data) < length or len(footer) < 4:
                raise ValueError(f"{path}: cut short at record {number}; prepare it again")
            if check_data and masked_crc32c(data) != struct.unpack("<I", footer)[0]:
                raise ValueError(f"{path}: record {number} is damaged; prepare it again")
            yield data
            number += 1
