"""`HashIndex`: binary codes under ids that can be searched, changed and stored."""

import dataclasses
import operator
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
from search.collection.ids import Where, id_list
from search.collection.pickling import open_segment, pack, unpack
from search.collection.query import all_within, answer, refinement, rerank
from search.collection.segments import Segment
from search.collection.state import State, attached, get
from search.collection.views import views_of
from search.files import writing
from search.files.checksums import Guard
from search.memory import check_answer
from search.threads import Lock


class HashIndex:
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

    def __len__(self) -> int:
        """The number of items, removed ones not counted."""
        return len(self._state)

    def __repr__(self) -> str:
        state = self._state
        beside = "" if state.features is None else f", features {state.features[1]}-d"
        return f"<HashIndex: {len(state)} codes of {state.bits} bits{beside}>"

    def __contains__(self, id_: object) -> bool:
        """Whether an item has this id; for many ids, `np.isin(ids, index.ids)`.

        Raises:
            TypeError: it is not a whole number.

        Example:
            >>> 1 in HashIndex(np.zeros((2, 1), np.uint8))
            True
        """
        try:
            number = operator.index(id_)  # type: ignore[arg-type]
        except TypeError:
            raise TypeError(
                f"an id is a whole number, not {type(id_).__name__}; for many ids see np.isin"
            ) from None
        if not -(1 << 63) <= number < 1 << 63:
            return False
        wanted = np.array([number], np.int64)
        return any(bool(segment.find(wanted)[0] >= 0) for segment in self._state.segments)

    def get(
        self, ids: NDArray[np.integer] | Sequence[int]
    ) -> tuple[NDArray[np.uint8], NDArray[np.floating] | None]:
        """The codes and features of some items, in the order asked for.

        Args:
            ids: integers (m,), all in the index; repeated ones give repeated rows.

        Returns:
            codes uint8 (m, ceil(bits / 8)), pad bits zero; features (m, d) of the type they were
            given in, None for an index without.

        Raises:
            TypeError, ValueError: naming the argument, and ids that are not in the index.

        Example:
            >>> index = HashIndex(np.array([[5], [7]], np.uint8))
            >>> index.get([1, 0])
            (array([[7],
                   [5]], dtype=uint8), None)
        """
        return get(self._state, id_list(ids, "ids"))

    @property
    def bits(self) -> int:
        """Number of bits in a code."""
        return self._state.bits

    @property
    def ids(self) -> NDArray[np.int64]:
        """The ids of all items, ascending; read-only."""
        return self._state.ids

    def ids_at(self, positions: NDArray[np.integer] | Sequence[int]) -> NDArray[np.int64]:
        """Some of `ids`, which are not all listed for it where they follow each other.

        Args:
            positions: integers (m,), from 0 to the number of items less 1.

        Returns:
            `ids[positions]`, int64 (m,).

        Raises:
            TypeError, ValueError: naming the argument.

        Example:
            >>> HashIndex(np.zeros((3, 1), np.uint8), ids=np.arange(10, 13)).ids_at([2, 0])
            array([12, 10])
        """
        wanted, state = id_list(positions, "positions"), self._state
        if len(wanted) and not 0 <= wanted.min() <= wanted.max() < len(state):
            raise ValueError(f"positions must be from 0 to {len(state) - 1}, one less than items")
        return state.ids_at(wanted)

    @property
    def attachments(self) -> dict[str, bytes]:
        """The bytes that are stored with the index, by name; a copy."""
        return attached(self._state)

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

    def search(
        self,
        queries: NDArray[np.uint8],
        k: int,
        *,
        query_features: NDArray[np.floating] | None = None,
        query_latents: NDArray[np.floating] | None = None,
        threshold: float = 0.5,
        pool: int | None = None,
        radius: int | None = None,
        where: Where | None = None,
        recall: float | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int32] | NDArray[np.float32], NDArray[np.int64]]:
        """The `k` nearest items of each query, by Hamming distance or from coarse to fine.

        With `query_features`, the candidates are the `pool` nearest by Hamming distance, or all
        within `radius`, or those that are both, and the results are the `k` candidates of the
        smallest Euclidean distance (the hierarchical search of Lin, Yang, Hsiao and Chen, "Deep
        Learning of Binary Hash Codes for Fast Image Retrieval", CVPR Workshops 2015). With
        `query_latents` instead, which needs no features in the index, they are ordered by the
        distance between the query's latent and the stored bits, see `search.asymmetric`.

        The search by Hamming distance is exact, unless a `recall` is stated: then only the items
        in those parts of the index are looked at that are near the query. How many parts it takes
        is measured on the index's own items, so it holds for queries that are like them.

        Args:
            queries: uint8 (q, ceil(bits / 8)), or (ceil(bits / 8),) for a single one, whose
                features or latents may be (d,) or (bits,); pad bits are ignored.
            k: results for each query.
            query_features: float (q, d), finite.
            query_latents: float (q, bits), finite: what the network gave before the threshold.
            threshold: of the method, for `query_latents`: 0.5 after a sigmoid, 0 if signed.
            pool: candidates for each query; needs `query_features` or `query_latents`.
            radius: largest Hamming distance of a result or candidate, that distance included.
            where: the items to search: bool, one for each entry of `ids`, or a list of ids.
            recall: the share of the k nearest by Hamming distance, or of the `pool` nearest, that
                has to be found on the average of queries, 0.95 for instance, where what is found
                no farther than the true k-th counts; exact when None. Not with `where`, `radius`.
            threads: at most this many; all processors when None.

        Returns:
            distances (q, k): int32 Hamming, or float32 Euclidean (not squared) with
            `query_features` or `query_latents`; ids int64 (q, k); both in (distance, id) order.
            Both are (k,) for a single query.
            Where there are fewer than k: id -1, with the largest int32 or infinity for a distance.

        Raises:
            TypeError, ValueError: naming the argument; also when the results, 12 bytes each,
                would take more than half of the memory there is.

        Example:
            >>> codes = np.array([[1], [3], [255]], np.uint8)
            >>> features = np.array([[5.0], [2.0], [0.0]], np.float32)
            >>> index = HashIndex(codes, features=features)
            >>> index.search(codes[:1], 1, query_features=np.zeros((1, 1)), pool=2)
            (array([[2.]], dtype=float32), array([[1]]))
        """
        state = self._state
        queries, alone = _codes.validate_queries(queries, state.bits)
        query_features = _as_rows(query_features, alone)
        query_latents = _as_rows(query_latents, alone)
        k = _codes.check_count(k, "k")
        check_answer(len(queries), k)
        pool = None if pool is None else _codes.check_count(pool, "pool")
        radius = None if radius is None else _codes.check_count(radius, "radius")
        fine = refinement(state, query_features, query_latents, threshold, len(queries))
        recall = None if recall is None else _codes.check_share(recall, "recall")
        distances, ids = answer(state, queries, k, fine, pool, radius, where, recall, threads)
        return (distances[0], ids[0]) if alone else (distances, ids)

    def rerank(
        self,
        query_features: NDArray[np.floating] | None,
        ids: NDArray[np.integer],
        k: int,
        *,
        query_latents: NDArray[np.floating] | None = None,
        threshold: float = 0.5,
        threads: int | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` best of given candidates, by a finer distance: the second half of `search`.

        Candidates that are not in the index are skipped, so that each shard of a database can be
        given all of them; `search.merge` joins the results.

        Args:
            query_features: float (q, d), finite; None with `query_latents`.
            ids: integers (q, p), the candidates of each query; -1 for none; repetitions count
                once.
            k: results for each query.
            query_latents: float (q, bits), in place of features, as in `search`.
            threshold: as in `search`.
            threads: at most this many; all processors when None.

        Returns:
            distances float32 (q, k), not squared; ids int64 (q, k); in (distance, id) order.
            Where there are fewer than k: infinity and -1.

        Raises:
            TypeError, ValueError: naming the argument.

        Example:
            >>> features = np.array([[5.0], [2.0], [0.0]], np.float32)
            >>> index = HashIndex(np.zeros((3, 1), np.uint8), features=features)
            >>> index.rerank(np.zeros((1, 1)), np.array([[0, 1, 7]]), 3)
            (array([[ 2.,  5., inf]], dtype=float32), array([[ 1,  0, -1]]))
        """
        return rerank(
            self._state,
            query_features,
            ids,
            _codes.check_count(k, "k"),
            query_latents,
            threshold,
            threads,
        )

    def within(
        self,
        queries: NDArray[np.uint8],
        radius: int,
        *,
        where: Where | None = None,
        threads: int | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """All items within a Hamming distance of each query, that distance included.

        Args:
            queries: uint8 (q, ceil(bits / 8)), or (ceil(bits / 8),) for a single one: q is 1.
            radius: the largest distance of a result.
            where: as in `search`.
            threads: at most this many; all processors when None.

        Returns:
            offsets int64 (q + 1,), distances int32, ids int64: query i has the results
            offsets[i] to offsets[i + 1], in (distance, id) order.

        Raises:
            TypeError, ValueError: naming the argument; also when the results, 12 bytes each,
                take more than half of the memory there is.

        Example:
            >>> index = HashIndex(np.array([[1], [3], [255]], np.uint8))
            >>> index.within(np.array([[0]], np.uint8), 2)
            (array([0, 2]), array([1, 2], dtype=int32), array([0, 1]))
        """
        state = self._state
        queries, _ = _codes.validate_queries(queries, state.bits)
        radius = _codes.check_count(radius, "radius")
        return all_within(views_of(state, where, threads), queries, radius, threads)

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


def _as_rows(array: NDArray[np.floating] | None, alone: bool) -> NDArray[np.floating] | None:
    """The features or latents of a single query as a table of one row."""
    one = alone and isinstance(array, np.ndarray) and array.ndim == 1
    return array[None] if one and array is not None else array
