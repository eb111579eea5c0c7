"""Queries of several clients, searched together in one state of the index."""

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from jaxhash.items.records import Value
from jaxhash.retrieval import order_of
from jaxhash.serve.errors import Refused
from jaxhash.serve.snapshot import Snapshot, pool_of


@dataclass(frozen=True)
class Wanted:
    """The queries of one request: codes and features, or ids or paths of indexed items.

    Args:
        k: results for each query.
        pool, radius: as in `HashIndex.search`; `pool` as clients give it, see `Snapshot.pool`.
        recall: share of the nearest codes, or of the pool, that has to be found; all by default.
        where, where_ids: which items may be results, see `Snapshot.where`; all by default.
        ids, paths: of indexed items.
        codes: uint8 (q, ceil(bits / 8)).
        features: float32 (q, d).
        names, show_codes: whether these are answered too.
    """

    k: int
    pool: int | None = None
    radius: int | None = None
    recall: float | None = None
    where: str | None = None
    where_ids: tuple[int, ...] | None = None
    ids: Sequence[int] | None = None
    paths: Sequence[str] | None = None
    codes: np.ndarray | None = field(default=None, repr=False)
    features: np.ndarray | None = field(default=None, repr=False)
    names: bool = True
    show_codes: bool = False
    since: float = field(default_factory=time.perf_counter)

    def group(self) -> Hashable:
        """Requests of one group can be one search; the results of a smaller k begin those of k."""
        pool = pool_of(self.pool, self.k)
        kind = pool, self.pool is None, self.radius, self.where, self.where_ids
        # How many cells a recall takes depends on k, and answers on no other client's.
        return kind if self.recall is None else (*kind, self.recall, self.k)


class Result(NamedTuple):
    """What one request gets: a list for each query, and where it came from.

    distances, ids: nearest first. paths, labels, columns: of the results; None unless asked for,
    columns also where the index has none. own: codes of the queries, codes: of the results, in
    hexadecimal; None unless asked for. order: one of `runs.ORDERS`. wait, search: seconds.
    """

    distances: list[list[float]]
    ids: list[list[int]]
    paths: list[list[str | None]] | None
    labels: list[list[str | None]] | None
    columns: list[list[dict[str, Value]]] | None
    own: list[str] | None
    codes: list[list[str]] | None
    order: str
    version: str
    wait: float
    search: float


def answer(snapshot: Snapshot, requests: Sequence[Wanted]) -> list[Result | Exception]:
    """Search all that was asked for, each kind of search once.

    Args:
        snapshot: what to search.
        requests: of any number of clients.

    Returns:
        For each request its result, or why it is refused.

    Example:
        >>> answer(snapshot, [Wanted(k=10, ids=[3]), Wanted(k=5, ids=[7])])  # doctest: +SKIP
    """
    answers: list[Result | Exception] = [Refused(500, "not searched")] * len(requests)
    groups: dict[Hashable, list[int]] = {}
    for at, request in enumerate(requests):
        groups.setdefault(request.group(), []).append(at)
    for places in groups.values():
        for at, one in zip(places, _search(snapshot, [requests[at] for at in places]), strict=True):
            answers[at] = one
    return answers


def _search(snapshot: Snapshot, requests: list[Wanted]) -> list[Result | Exception]:
    """One group: the same pool, radius, recall and filter."""
    begun = time.perf_counter()
    index, first = snapshot.images.codes, requests[0]
    done: list[Result | Exception] = []
    vectors: list[tuple[np.ndarray, np.ndarray | None]] = []
    for request in requests:
        try:
            vectors.append(_vectors(snapshot, request))
        except Refused as error:
            vectors.append((np.empty((0, (index.bits + 7) // 8), np.uint8), None))
            done.append(error)
        else:
            done.append(Refused(500, "not searched"))
    try:
        k = max(request.k for request in requests)
        pool = snapshot.pool(first.pool, first.k)
        where = snapshot.where(first.where, first.where_ids)
        codes = np.concatenate([one for one, _ in vectors])
        if not len(codes):
            return done
        fine: dict[str, Any] = {}
        if pool is not None:
            features = [one for own, one in vectors if len(own) and one is not None]
            fine = {"query_features": np.concatenate(features), "pool": pool}
        narrowed = {"radius": first.radius, "recall": first.recall, "where": where}
        distances, ids = snapshot.search(codes, k, **narrowed, **fine)
    except Refused as error:
        return [error] * len(requests)
    except ValueError as error:  # a filter of ids that are not in the index
        return [Refused(422, str(error))] * len(requests)
    took = time.perf_counter() - begun
    start = 0
    for at, (request, (own, _)) in enumerate(zip(requests, vectors, strict=True)):
        stop = start + len(own)
        if len(own):
            done[at] = _result(
                snapshot,
                request,
                own,
                distances[start:stop, : request.k],
                ids[start:stop, : request.k],
                order_of(pool, len(index)),
                (begun - request.since, took),
            )
        start = stop
    return done


def _vectors(snapshot: Snapshot, request: Wanted) -> tuple[np.ndarray, np.ndarray | None]:
    """Codes and features of a request's queries.

    Raises:
        Refused: an item that it asks with is not in the index.
    """
    if request.codes is not None:
        return request.codes, request.features
    ids = request.ids
    if ids is None:
        ids = [snapshot.id_of(path) for path in request.paths or ()]
    try:
        codes, features = snapshot.images.codes.get(np.array(ids, np.int64))
    except ValueError as error:
        raise Refused(404, str(error)) from None
    return codes, None if features is None else features.astype(np.float32)


def _result(
    snapshot: Snapshot,
    request: Wanted,
    own: np.ndarray,
    distances: np.ndarray,
    ids: np.ndarray,
    order: str,
    seconds: tuple[float, float],
) -> Result:
    """The rows of one request as lists, without what was not found."""
    counts = (ids >= 0).sum(axis=1).tolist()
    id_rows = [row[:count] for row, count in zip(ids.tolist(), counts, strict=True)]
    rows = [row[:count] for row, count in zip(distances.tolist(), counts, strict=True)]
    paths = labels = columns = query_codes = codes = None
    if request.names:
        named = [snapshot.names(row) for row in id_rows]
        paths, labels = [one for one, _ in named], [one for _, one in named]
        if snapshot.images.items.columns:
            columns = [snapshot.images.items.values(row) for row in id_rows]
    if request.show_codes:
        query_codes = [code.tobytes().hex() for code in own]
        codes = [
            [code.tobytes().hex() for code in snapshot.images.codes.get(np.array(row, np.int64))[0]]
            for row in id_rows
        ]
    beside = (paths, labels, columns, query_codes, codes)
    return Result(rows, id_rows, *beside, order, snapshot.version, *seconds)
