"""`HashIndex`: binary codes under ids that can be searched, changed and stored.

What is asked of it is in `search.collection.searched`; here it is made, changed and stored.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from search import codes as _codes
from search import shards
from search.collection import changes
from search.collection.changes import above_all, new_segment
from search.collection.combining import save
from search.collection.ids import id_list
from search.collection.pickling import open_segment, pack, unpack
from search.collection.searched import Searched
from search.collection.segments import Segment
from search.collection.state import State
from search.files import writing
from search.files.checksums import Guard
from search.threads import Lock


class HashIndex(Searched):
    """Binary codes under ids, optionally with features for re-ranking.

    Searches may run in any number of threads while another thread adds and removes items: a change
    takes effect all at once, and a search works on the index as it was when the search began.
    Results are in (distance, id) order whatever the history of the index.

    Copies (`copy.copy`, `copy.deepcopy`) share their items' memory, and changes to one do not show
    in the other. A pickle, for another process of the same version of this library, holds the
    items; but an index that `open` mapped is pickled as its file's absolute path, and unpickled
    only while that is the same file. What `prepare` made is not in a pickle.

    Args:
        codes: uint8 (n, ceil(bits / 8)), n may be 0; rearranged for the scan, hence copied.
        bits: number of bits in a code, 1 to 4096; eight a byte when left out.
        features: float16 or float32 (n, d), finite, in memory or memory-mapped; not copied when
            the ids ascend, so leave them unchanged.
        ids: int64 (n,), unique, not -1; 0 to n - 1 when left out.
        attachments: bytes to store with the index, by name.

    Raises:
        TypeError, ValueError: naming the argument.

    Example:
        >>> index = HashIndex(np.array([[0b1111], [0b0001], [0b0011]], np.uint8))
        >>> index.search(np.array([[0]], np.uint8), 2)
        (array([[1, 2]], dtype=int32), array([[1, 2]]))
    """

    def __init__(
        self,
        codes: NDArray[np.uint8],
        *,
        bits: int | None = None,
        features: NDArray[np.floating] | None = None,
        ids: NDArray[np.integer] | None = None,
        attachments: Mapping[str, bytes] | None = None,
    ) -> None:
        codes, bits = _codes.validate(codes, bits)
        attachments = dict(attachments or {})
        for name, data in attachments.items():
            writing.check_attachment(name)
            if not isinstance(data, bytes):
                raise TypeError(f"attachments: {name!r} must be bytes, not {type(data).__name__}")
        segment = new_segment(codes, bits, features, ids)
        self._begin(State(bits, (segment,), attachments, above_all(segment)))

    def _begin(self, state: State) -> None:
        self._state = state
        self._changing = Lock()

    @classmethod
    def of_segment(
        cls,
        segment: Segment,
        attachments: Mapping[str, bytes | Guard] | None = None,
        next_id: int | None = None,
    ) -> Self:
        """Make an index around a segment, as readers of files do.

        Args:
            segment: codes, ids and features.
            attachments: bytes by name.
            next_id: the smallest id that an item may get by default; after the largest by default.

        Returns:
            The index.

        Example:
            >>> HashIndex.of_segment(segment)  # doctest: +SKIP
        """
        index = cls.__new__(cls)
        next_id = above_all(segment) if next_id is None else next_id
        index._begin(State(segment.codes.bits, (segment,), dict(attachments or {}), next_id))
        return index

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        mmap: bool = True,
        verify: bool = False,
    ) -> Self:
        """Open the index that was saved at `path`.

        Args:
            path: an index file, see `search.files.format`; or a folder of them that are the
                shards of one index, or a list of some of these, see `search.shards`.
            mmap: leave the arrays in the file and read what a search asks for; opening takes
                milliseconds at any size. What is read for the first time is compared with its
                checksums, so that a search in a damaged file raises `DamagedFile` rather than
                answer wrongly. Otherwise everything is read, and its checksums compared.
                Replace a mapped file (as `save` does) rather than write into it.
            verify: compare every byte with the checksums and every value with the format, now.

        Returns:
            The index.

        Raises:
            search.DamagedFile: the file is not whole, or not an index; with `mmap` and
                without `verify` also from whatever method first looks at a damaged part.
            OSError: it cannot be read, or shards are missing.
            ValueError: shards do not belong together.

        Example:
            >>> index = HashIndex.open("photos.index")  # doctest: +SKIP
        """
        if isinstance(path, str | os.PathLike) and not os.path.isdir(path):
            segment, stored = open_segment(path, mmap, verify)
            return cls.of_segment(segment, stored.attachments, stored.next_id)
        files = shards.files(path) if isinstance(path, str | os.PathLike) else path
        index = cls.__new__(cls)
        index._begin(shards.open_files(files, mmap, verify))
        return index

    def __copy__(self) -> Self:
        """Another index of the same items; changes to one do not show in the other."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._begin(self._state)
        return other

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        """As `__copy__`: what two indexes have in common is never changed, only replaced."""
        return self.__copy__()

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_state": pack(self._state), "_changing": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin(unpack(state["_state"]))

    def attach(self, name: str, data: bytes | None) -> None:
        """Keep bytes beside the codes, in memory and with the next `save`.

        Args:
            name: of 1 to 69 bytes in UTF-8; what has that name already is replaced.
            data: what to keep; None drops what has that name.

        Raises:
            TypeError, ValueError: naming the argument; the index is as it was.

        Example:
            >>> index = HashIndex(np.zeros((1, 1), np.uint8))
            >>> index.attach("paths", b'["a.jpg"]')
            >>> index.attachments
            {'paths': b'["a.jpg"]'}
        """
        writing.check_attachment(name)
        if data is not None and not isinstance(data, bytes):
            raise TypeError(f"data must be bytes or None, not {type(data).__name__}")
        with self._changing.held():
            kept = {one: held for one, held in self._state.attachments.items() if one != name}
            if data is not None:
                kept[name] = data
            self._state = dataclasses.replace(self._state, attachments=kept)

    def add(
        self,
        codes: NDArray[np.uint8],
        features: NDArray[np.floating] | None = None,
        ids: NDArray[np.integer] | None = None,
        *,
        replace: bool = False,
    ) -> NDArray[np.int64]:
        """Add items, or replace some.

        Searches that have begun do not see the change; later ones see all of it.

        Args:
            codes: uint8 (m, ceil(bits / 8)).
            features: float16 or float32 (m, d) as those of the index; needed if it has some.
            ids: int64 (m,), unique, and not in the index unless `replace`; by default they
                continue after the largest id ever used, so that an id is used again only if you
                give it yourself.
            replace: an item whose id is in the index already takes the place of the one there,
                code and features, in the same step ("upsert"); needs `ids`.

        Returns:
            The ids, int64 (m,).

        Raises:
            TypeError, ValueError: naming the argument; the index is as it was.

        Example:
            >>> index = HashIndex(np.zeros((2, 1), np.uint8))
            >>> index.add(np.ones((2, 1), np.uint8))
            array([2, 3])
            >>> index.add(np.full((2, 1), 7, np.uint8), ids=np.array([3, 9]), replace=True)
            array([3, 9])
            >>> index.get([3])[0]
            array([[7]], dtype=uint8)
        """
        with self._changing.held():
            self._state, given = changes.add(self._state, codes, features, ids, replace)
        return given

    def remove(self, ids: NDArray[np.integer] | Sequence[int]) -> None:
        """Remove items by id; the space is given back by `compact`, or by `save`.

        Args:
            ids: integers (m,), all in the index; repetitions count once.

        Raises:
            TypeError, ValueError: naming the argument; the index is as it was.

        Example:
            >>> index = HashIndex(np.zeros((3, 1), np.uint8))
            >>> index.remove([1])
            >>> index.ids
            array([0, 2])
        """
        with self._changing.held():
            self._state = changes.remove(self._state, id_list(ids, "ids"))

    def compact(self) -> None:
        """Give back the space of removed items and make the index one piece again, in memory.

        To do the same on disk, for an index larger than memory, `save` it and open it again.

        Example:
            >>> index = HashIndex(np.zeros((3, 1), np.uint8))
            >>> index.remove([1])
            >>> index.compact()
        """
        with self._changing.held():
            self._state = changes.compact(self._state)

    def prepare(
        self, *, tables: bool = False, approximate: bool = False, threads: int | None = None
    ) -> None:
        """Prepare for faster searches; results stay the same.

        Equal codes are grouped, where there are enough of them, which takes about as much memory
        as the codes. An index in memory does that by itself at its first search, one that is
        mapped from a file only here, because it requires reading all of it.

        Args:
            tables: also make multi-index tables, for the nearest neighbour (`k=1`) and for
                `within` a small radius, among about a million distinct codes or more; other
                searches do not use them. `search.hamming.tables.size` gives their memory.
            approximate: also make the parts of the index that a search with a `recall` looks at,
                as the first one does otherwise: a copy of the codes and four bytes for each, and
                about an eighth more.
            threads: at most this many; all processors when None.

        Example:
            >>> index.prepare(tables=True)  # doctest: +SKIP
        """
        for segment in self._state.segments:
            segment.prepare(threads, tables, approximate)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index as one file, without what was removed; the file appears whole or not.

        Memory stays bounded, however large a memory-mapped index is, and its own file may be the
        one that is replaced.

        Args:
            path: of the file; one that is there is replaced.

        Raises:
            OSError: the disk is full or cannot be written; an old file is as it was.

        Example:
            >>> index.save("photos.index")  # doctest: +SKIP
        """
        save(self._state, path)
