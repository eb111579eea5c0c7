"""Images at places of any kind: a lazy sequence that reads and decodes on demand."""

from collections.abc import Container, Sequence
from typing import overload

import numpy as np

from jaxhash.data.decoding import decode_all
from jaxhash.data.images import Images
from jaxhash.data.places import Place, read, read_records


class StoredImages(Images):
    """Images in files, tar files and array_records, here or remote.

    What cannot be decoded is told apart from what cannot be read now (`OSError`): the first is
    left out of an index, the second ends the encoding.

    Args:
        places: where they lie.
        size: side in pixels, as in `Images`.
        channels: 3 for RGB, 1 for greyscale.
        threads: number of threads that read and decode; all cores by default.

    Example:
        >>> StoredImages([Place("a.tar", "1.jpg", 512, 9)], size=32).shape
        (1, 32, 32, 3)
    """

    def __init__(
        self, places: Sequence[Place], *, size: int, channels: int = 3, threads: int | None = None
    ) -> None:
        super().__init__(
            [place.name for place in places], size=size, channels=channels, threads=threads
        )
        self.places = places

    def read(
        self, rows: np.ndarray, known: Container[bytes] = ()
    ) -> tuple[np.ndarray, list[tuple[int, str]]]:
        """As `Images.read`, but decodes all; the threads that decode fetch the bytes too."""
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        files = _Fetched([self.places[row] for row in rows])
        failed = decode_all(files, pixels, size=self.size, pool=self._pool)
        return pixels, [(int(rows[position]), reason) for position, reason in failed]


class _Fetched(Sequence[bytes]):
    """The bytes at places: of records read at once, of others when they are asked for."""

    def __init__(self, places: list[Place]) -> None:
        self.places = places
        self.records = read_records(places)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | Sequence[bytes]:
        if isinstance(at, slice):
            return _Fetched(self.places[at])
        return self.records[at] if at in self.records else read(self.places[at])
