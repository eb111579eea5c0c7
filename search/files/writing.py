"""Write index files: whole or not at all, in constant memory; see `search.files.format`."""

import contextlib
import math
import os
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from search.codes import as_int64, check_bits, check_count, pad_mask, validate, width
from search.files.atomic import replacing, scratch
from search.files.checksums import GROUPS, group_rows
from search.files.format import (
    ALIGNMENT,
    ATTACHMENT,
    BLOCK,
    BYTE_ORDER,
    CHECKSUM,
    CHECKSUMS,
    ENTRY,
    HEADER,
    LONGEST_NAME,
    MAGIC,
    PIECE,
    TYPES,
    VERSION,
    aligned,
    planes_shape,
)
from search.fine.rerank import check_features


class Sections:
    """Sections going into an open file one after the other; header and table come last."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.entries: list[bytes] = []
        self.start = self.end = ALIGNMENT
        self.checksum = 0
        self.group = 0
        self.groups: list[int] = []
        self.checksums: dict[str, list[int]] = {}
        file.write(bytes(ALIGNMENT))

    def begin(self, name: str = "", row_bytes: int = 0) -> None:
        """Start a section at the next aligned offset; those of `GROUPS` need name and row bytes."""
        self.start = aligned(self.end)
        self.file.write(bytes(self.start - self.end))
        self.end, self.checksum = self.start, 0
        self.group = group_rows(name, row_bytes) * row_bytes if name else 0
        self.groups = []

    def write(self, data: np.ndarray | bytes | memoryview) -> None:
        """Append to the section that was begun."""
        if isinstance(data, np.ndarray):
            data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        self.file.write(data)
        self.checksum = zlib.crc32(data, self.checksum)
        if self.group:
            self._check_groups(memoryview(data))
        self.end += len(data)

    def _check_groups(self, data: memoryview) -> None:
        """The checksums of the groups that `data` continues, completes and begins."""
        done = 0
        while done < len(data):
            within = (self.end - self.start + done) % self.group
            part = data[done : done + self.group - within]
            before = self.groups.pop() if within else 0
            self.groups.append(zlib.crc32(part, before))
            done += len(part)

    def finish(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Enter the section that was begun into the table."""
        kind = next(kind for kind, each in TYPES.items() if each == dtype)
        sizes = shape + (1,) * (3 - len(shape))
        self.entries.append(
            ENTRY.pack(name.encode(), kind, len(shape), *sizes, self.start, self.checksum)
        )
        if name in GROUPS:
            self.checksums[name] = self.groups

    def close(self, bits: int, count: int, next_id: int, first: int) -> None:
        """Write the checksums of groups, the table and the header."""
        for name, groups in self.checksums.items():
            self.begin()
            self.write(np.array(groups, "<u4"))
            self.finish(CHECKSUMS + name, "<u4", (len(groups),))
        offset = aligned(self.end)
        table = b"".join(self.entries)
        self.file.write(bytes(offset - self.end) + table)
        body = HEADER.pack(
            MAGIC,
            VERSION if first and count > 1 else 2,  # 2 is read by earlier programs too
            BYTE_ORDER,
            bits,
            count,
            offset + len(table),
            offset,
            len(self.entries),
            zlib.crc32(table),
            next_id,
        )
        self.file.seek(0)
        self.file.write(body + CHECKSUM.pack(zlib.crc32(body)))


def write(
    path: str | os.PathLike[str],
    *,
    bits: int,
    count: int,
    planes: np.ndarray,
    ids: np.ndarray | None = None,
    first: int = 0,
    features: np.ndarray | None = None,
    attachments: Mapping[str, bytes] | None = None,
    next_id: int,
) -> None:
    """Write arrays that are in the format's layout already; they may be larger than memory.

    The arrays may be mapped from `path` itself: the old file lives until they are released.
    `next_id` is above every id, see `search.files.format`.

    Raises:
        OSError: the disk is full or cannot be written; the old file is as it was.

    Example:
        >>> write("e.index", bits=8, count=0, planes=np.empty((0, 1, 256), np.uint8), next_id=0)
        ... # doctest: +SKIP
    """
    attachments = attachments or {}
    for name in attachments:
        check_attachment(name)
    with replacing(path) as file:
        sections = Sections(file)
        _write_array(sections, "codes", "|u1", planes)
        if ids is not None:
            _write_array(sections, "ids", "<i8", ids)
        elif first:
            _write_array(sections, "ids", "<i8", np.array([first]))
        if features is not None:
            _write_array(sections, "features", f"<f{features.itemsize}", features)
        _write_attachments(sections, attachments)
        sections.close(bits, count, next_id, 0 if ids is not None else first)


def _write_array(sections: Sections, name: str, dtype: str, array: np.ndarray) -> None:
    sections.begin(name, math.prod(array.shape[1:]) * array.itemsize)
    step = max(1, PIECE // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        sections.write(array[start : start + step].astype(dtype, copy=False))
    sections.finish(name, dtype, array.shape)


def _write_attachments(sections: Sections, attachments: Mapping[str, bytes]) -> None:
    for name, data in sorted(attachments.items()):
        sections.begin()
        sections.write(bytes(data))
        sections.finish(ATTACHMENT + name, "|u1", (len(data),))


def check_attachment(name: str) -> None:
    """Refuse a name of an attachment that has no place in the table.

    Raises:
        TypeError, ValueError: naming `attachments`.
    """
    if not isinstance(name, str):
        raise TypeError(f"attachments must be named by strings, not {name!r}")
    room = LONGEST_NAME - len(ATTACHMENT)
    if not name or "\0" in name or len(name.encode()) > room:
        raise ValueError(
            f"attachments: the name {name!r} must have 1 to {room} bytes and no zero byte"
        )


class Writer:
    """Write an index file batch by batch, in constant memory; it appears when the block ends.

    Features go straight into the new file, codes and ids through unnamed files beside it. An
    exception inside the block leaves what was at `path` before.

    Args:
        path: the file.
        bits: number of bits in a code, 1 to 4096.
        next_id: the smallest id that an index opened from the file may give to a new item by
            itself; by default, and at least, the one after the largest id in the file; at most
            2**63, which leaves none.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> with Writer("photos.index", bits=48) as writer:  # doctest: +SKIP
        ...     for codes, features in batches:
        ...         writer.append(codes, features)
        ...     writer.attach("paths", "\\n".join(paths).encode())
    """

    def __init__(self, path: str | os.PathLike[str], *, bits: int, next_id: int = 0) -> None:
        self.path = path
        self.bits = check_bits(bits)
        self.next_id = check_count(next_id, "next_id")
        if self.next_id > 1 << 63:
            raise ValueError(f"next_id must be at most 2**63, not {next_id}")
        self.count = 0
        self._stack = contextlib.ExitStack()
        self._attachments: dict[str, bytes] = {}
        self._sections: Sections | None = None
        self._features: tuple[np.dtype, int] | None = None
        self._ids: bool | None = None
        self._first: int | None = None  # where the ids follow each other so far
        self._gaps = False
        self._last_id = -(1 << 63) - 1
        self._waiting = np.empty((0, -(-self.bits // 8)), np.uint8)

    def __enter__(self) -> Self:
        try:
            self._sections = Sections(self._stack.enter_context(replacing(self.path)))
            folder = Path(os.path.realpath(self.path)).parent
            self._code_file = self._stack.enter_context(scratch(folder))
            self._id_file = self._stack.enter_context(scratch(folder))
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        return self

    def append(
        self,
        codes: NDArray[np.uint8],
        features: NDArray[np.floating] | None = None,
        ids: NDArray[np.int64] | None = None,
    ) -> None:
        """Append a batch.

        Args:
            codes: uint8 (m, ceil(bits / 8)).
            features: float16 or float32 (m, d), finite; in every batch or in none, all alike.
            ids: int64 (m,), strictly ascending through all batches, never -1; in every batch or
                in none, which numbers the codes from 0.

        Raises:
            TypeError, ValueError: naming the argument; nothing of the batch is written.

        Example:
            >>> writer.append(codes, features)  # doctest: +SKIP
        """
        sections = self._open()
        codes, _ = validate(codes, self.bits)
        unused = 0xFF & ~pad_mask(self.bits)
        if unused and np.any(codes[:, -1] & np.uint8(unused)):
            codes = codes.copy()
            codes[:, -1] &= np.uint8(pad_mask(self.bits))
        first = self._ids is None
        features = self._check_features(features, len(codes), first)
        ids = self._check_ids(ids, len(codes), first)
        if features is not None:
            if first:
                sections.begin("features", features.shape[1] * features.itemsize)
                self._features = (features.dtype, features.shape[1])
            sections.write(features.astype(f"<f{features.itemsize}", copy=False))
        self._ids = ids is not None
        if ids is not None and len(ids):
            if self._first is None:
                self._first = int(ids[0])
            start = self._first + self.count
            self._gaps |= bool(ids[0] != start or ids[-1] != start + len(ids) - 1)
            self._last_id = int(ids[-1])
            self._id_file.write(ids.astype("<i8", copy=False).data)
        self.count += len(codes)
        codes = np.concatenate([self._waiting, codes])
        whole = len(codes) // BLOCK * BLOCK
        self._code_file.write(_planes(codes[:whole]).data)
        self._waiting = codes[whole:].copy()

    def attach(self, name: str, data: bytes) -> None:
        """Keep bytes beside the codes; later ones of the same name take their place.

        Args:
            name: of 1 to 69 bytes in UTF-8.
            data: what to keep.

        Raises:
            TypeError, ValueError: naming the argument, or for a writer outside its with block.

        Example:
            >>> writer.attach("labels", labels.tobytes())  # doctest: +SKIP
        """
        self._open()
        check_attachment(name)
        if not isinstance(data, bytes | bytearray | memoryview):  # of a number, `bytes` makes zeros
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        self._attachments[name] = bytes(data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            try:
                self._finish(self._open())
            except BaseException:
                self._sections = None
                self._stack.__exit__(*sys.exc_info())
                raise
        self._sections = None
        self._stack.__exit__(kind, error, trace)

    def _finish(self, sections: Sections) -> None:
        if self._features is not None:
            dtype, dimensions = self._features
            sections.finish("features", f"<f{dtype.itemsize}", (self.count, dimensions))
        padding = np.zeros((-len(self._waiting) % BLOCK, self._waiting.shape[1]), np.uint8)
        self._code_file.write(_planes(np.concatenate([self._waiting, padding])).data)
        _copy(self._code_file, sections, "codes", width(self.bits) * BLOCK)
        sections.finish("codes", "|u1", planes_shape(self.bits, self.count))
        first = self._first or 0
        if self._gaps or first < 0:
            _copy(self._id_file, sections, "ids", 8)
            sections.finish("ids", "<i8", (self.count,))
            first = 0
        elif first:
            _write_array(sections, "ids", "<i8", np.array([first]))
        _write_attachments(sections, self._attachments)
        last = self._last_id if self._ids else self.count - 1
        sections.close(self.bits, self.count, max(self.next_id, last + 1), first)

    def _open(self) -> Sections:
        if self._sections is None:
            raise ValueError("the writer is not open; use it in a with block")
        return self._sections

    def _check_features(
        self, features: np.ndarray | None, count: int, first: bool
    ) -> np.ndarray | None:
        if features is None:
            if self._features is not None:
                raise ValueError("features are missing in this batch; give them in every batch")
            return None
        features = check_features(features)
        if not first and self._features != (features.dtype, features.shape[1]):
            raise ValueError(
                f"features of type {features.dtype} and {features.shape[1]} dimensions do not "
                "continue the first batch"
            )
        if len(features) != count:
            raise ValueError(
                f"features must have {count} rows, one for each code, not {len(features)}"
            )
        if not np.isfinite(features).all():
            raise ValueError("features must be finite, but hold NaN or infinity")
        return features

    def _check_ids(self, ids: np.ndarray | None, count: int, first: bool) -> np.ndarray | None:
        if not first and self._ids != (ids is not None):
            raise ValueError("ids must be given in every batch or in none")
        if ids is None:
            return None
        ids = check_ids(ids, count)
        if len(ids) and (np.any(ids[1:] <= ids[:-1]) or int(ids[0]) <= self._last_id):
            raise ValueError("ids must strictly ascend through all batches; sort before writing")
        return ids


def check_ids(ids: NDArray[np.integer], count: int | None = None) -> NDArray[np.int64]:
    """`ids` as contiguous int64 (n,) in native byte order, none of them -1.

    Raises:
        TypeError, ValueError: naming `ids`.
    """
    if not isinstance(ids, np.ndarray) or ids.dtype.kind not in "iu":
        kind = getattr(ids, "dtype", type(ids).__name__)
        raise TypeError(f"ids must be a NumPy array of integers, not {kind}")
    if ids.ndim != 1 or (count is not None and len(ids) != count):
        wanted = "(n,)" if count is None else f"({count},)"
        raise ValueError(f"ids must have the shape {wanted}, not {ids.shape}")
    checked = as_int64(ids, "ids")
    if np.any(checked == -1):
        raise ValueError("ids must not be -1; that stands for a missing result")
    return checked


def _planes(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Whole blocks of codes in the layout of the section."""
    blocks = codes.reshape(-1, BLOCK, codes.shape[1])
    return np.ascontiguousarray(blocks.transpose(0, 2, 1))


def _copy(source: BinaryIO, sections: Sections, name: str, row_bytes: int) -> None:
    """A scratch file as the next section."""
    sections.begin(name, row_bytes)
    source.seek(0)
    while piece := source.read(PIECE):
        sections.write(piece)
