"""`Searched`: what can be asked of an index, which changes nothing in it."""

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search import codes as _codes
from search.collection.ids import Where, id_list
from search.collection.query import all_within, answer, refinement, rerank
from search.collection.state import State, attached, get
from search.collection.views import views_of
from search.memory import check_answer


class Searched:
    """The half of `search.HashIndex` that asks: searches, and looks items up.

    Each method takes the state once, and answers from it whatever changes meanwhile.
    """

    _state: State  # replaced as a whole by every change

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
            >>> from search import HashIndex
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
            >>> from search import HashIndex
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
            >>> from search import HashIndex
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
            >>> from search import HashIndex
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
            >>> from search import HashIndex
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
            >>> from search import HashIndex
            >>> index = HashIndex(np.array([[1], [3], [255]], np.uint8))
            >>> index.within(np.array([[0]], np.uint8), 2)
            (array([0, 2]), array([1, 2], dtype=int32), array([0, 1]))
        """
        state = self._state
        queries, _ = _codes.validate_queries(queries, state.bits)
        radius = _codes.check_count(radius, "radius")
        return all_within(views_of(state, where, threads), queries, radius, threads)


def _as_rows(array: NDArray[np.floating] | None, alone: bool) -> NDArray[np.floating] | None:
    """The features or latents of a single query as a table of one row."""
    one = alone and isinstance(array, np.ndarray) and array.ndim == 1
    return array[None] if one and array is not None else array
