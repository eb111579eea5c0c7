"""Checksums of a mapped file's parts, compared the first time that a search looks at them.

A section is cut into groups of whole rows, of `GROUPS` bytes or one row, and the file holds the
CRC-32 of each group. What was compared once is not compared again, so a search pays for what it is
the first to read, and no later one pays anything.
"""

import zlib
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from search import paging, threads

# Features are read at random: a group is a page, which the system reads in any case. Codes and ids
# are mostly read from end to end: in groups so large that the overhead of each is negligible.
GROUPS = {"codes": 1 << 16, "ids": 1 << 16, "features": 1 << 12}
# A section up to this size is compared as a whole at the first look: 5 ms, and never again.
SMALL = 1 << 24
_TASK = 1 << 21  # bytes of a section, at least, that a thread compares at a time


class DamagedFile(ValueError):
    """The file is no index, of another version, cut short, extended or altered."""


def group_rows(name: str, row_bytes: int) -> int:
    """The number of rows in a group of a section whose rows are of `row_bytes` bytes.

    Example:
        >>> group_rows("codes", 2048)
        32
    """
    return max(1, GROUPS[name] // max(1, row_bytes))


class Guard:
    """A section of a mapped file that is compared with its checksums as it is used.

    Args:
        path: the file, for an error to name.
        name: the section, likewise.
        content: uint8, all bytes of the section, mapped.
        row_bytes: bytes in a row.
        rows: rows in a group, the last group may have fewer.
        checksums: the CRC-32 of each group. They need no check of their own: where one of them is
            damaged, so is the file.
    """

    def __init__(
        self,
        path: str,
        name: str,
        content: NDArray[np.uint8],
        row_bytes: int,
        rows: int,
        checksums: NDArray[np.uint32],
    ) -> None:
        self.path = path
        self.name = name
        self._content = content
        self._rows = rows
        self._step = max(1, rows * row_bytes)
        self._checksums = checksums
        self._seen = np.zeros(len(checksums), np.bool_)
        self._done = not len(content)

    def whole(self, workers: int | None = None) -> None:
        """Compare all that was not compared before.

        Raises:
            DamagedFile: naming the file, the section and the first damaged rows.
        """
        if not self._done:
            self._compare(np.flatnonzero(~self._seen), workers)
            self._done = True

    def rows(self, rows: NDArray[np.int64], workers: int | None = None) -> None:
        """Compare the groups that hold `rows` (any shape, negative ones are passed over).

        A small section is compared as a whole. A large one of a file of version 1, which is a
        single group, is not: that would read all of it for a few rows.

        Raises:
            DamagedFile: as `whole`.
        """
        if self._done:
            return
        if len(self._content) <= SMALL:
            self.whole(workers)
        elif self._step <= SMALL or len(self._checksums) > 1:
            groups = rows[rows >= 0] // self._rows
            groups = groups[~self._seen[groups]]
            if len(groups):
                self._compare(np.unique(groups), workers)

    def bytes(self) -> bytes:
        """A copy of the section, compared."""
        self.whole()
        return self._content.tobytes()

    def _compare(self, groups: NDArray[np.int64], workers: int | None) -> None:
        """Compare ascending groups, on several threads where there are many."""
        whole = len(self._content) // self._step
        body = self._content[: whole * self._step].reshape(whole, self._step)
        paging.fetch(body, groups[: np.searchsorted(groups, whole)])
        pieces = 1 + min(len(groups), len(groups) * self._step // _TASK)
        edges = np.linspace(0, len(groups), pieces + 1).astype(int)
        threads.run(self._compare_some, [(groups[a:b],) for a, b in pairwise(edges)], workers)

    def _compare_some(self, groups: NDArray[np.int64]) -> None:
        content, step = self._content.data, self._step
        starts = (groups * step).tolist()
        found = [zlib.crc32(content[start : start + step]) for start in starts]
        wrong = np.flatnonzero(np.array(found, np.uint32) != self._checksums[groups])
        if len(wrong):
            raise DamagedFile(
                f"{self.path}: section {self.name!r} is damaged (the checksum of its part "
                f"{groups[wrong[0]] + 1} of {len(self._checksums)} differs); restore the file from "
                "a copy or make it anew"
            )
        self._seen[groups] = True
