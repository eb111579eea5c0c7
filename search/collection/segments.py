"""A part of an index that never changes: codes in the order of their ids, and what was removed."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from search import threads as pool
from search.collection.once import once
from search.files.checksums import Guard
from search.files.reading import Source
from search.filters import Filter
from search.fine.rerank import asymmetric, frozen, rerank
from search.hamming import buckets, cells
from search.hamming.blocks import BLOCK, Blocks, restore, take
from search.hamming.recall import Approximate, worthwhile
from search.hamming.searchable import Scanned, Searchable
from search.kernels import merging

# Where more than one id in so many is wanted, walking all ids is quicker than looking each up.
LOOKED_UP = 16
# Rows whose ids one task compares with the wanted ones, or wanted ids that it looks up.
MARKED = 1 << 18
# Ids over a range below so many times their number are looked up in a table: a byte an id at most.
RANKED = 4


class Engine:
    """The faster of two exact ways to search some codes, and an approximate one.

    Shared by copies of a segment. Codes in memory are grouped by value at the first search if
    they repeat enough for it to pay, mapped ones only when asked to: it takes memory and reads
    the whole file. Codes are dealt out to cells at the first search that states a recall.
    """

    def __init__(self, codes: Blocks, mapped: bool) -> None:
        self._codes = codes
        self._best: Searchable = Scanned(codes)
        self._decided = False
        self._approximate: Approximate | None = None
        self._automatic = not mapped
        self._deciding = pool.Lock()

    def best(self, threads: int | None) -> Searchable:
        """The codes in the form to search."""
        if self._automatic and not self._decided:
            self.prepare(threads, tables=False)
        return self._best

    def prepare(self, threads: int | None, tables: bool) -> None:
        """Decide now, for mapped codes too; make multi-index tables as well when asked to."""
        with self._deciding.held():
            if tables:
                self._use(buckets.build(self._codes, tables=True, threads=threads))
            elif not self._decided and buckets.worthwhile(self._codes):
                most = len(self._codes) // 2
                self._use(buckets.build(self._codes, most=most, threads=threads))
            self._decided = True

    def approximate(self, threads: int | None) -> Approximate | None:
        """The codes in cells; None where there are too few of them for it to pay."""
        exact = self.best(threads)
        with self._deciding.held():
            if self._approximate is None and worthwhile(exact):
                dealt = cells.build(self._codes, threads=threads)
                self._approximate = Approximate(dealt, exact)
        return self._approximate

    def _use(self, grouped: buckets.Buckets | None) -> None:
        """Search by these from now on; None where too few codes repeat."""
        if grouped is not None:
            self._best = grouped


@dataclasses.dataclass(frozen=True)
class Segment:
    """Codes sorted by id, so that row order is id order; copies differ only in what was removed.

    Attributes:
        codes: n codes.
        ids: int64 (n,), strictly ascending; None when they follow each other.
        first: the id of the first code where `ids` is None, from 0.
        features: float16 or float32 (n, d), or None.
        dead: int64, ascending: the rows that were removed.
        mapped: whether the arrays live in a file; such a segment is merged only when asked to.
        guards: what compares mapped "codes", "ids" and "features" with their checksums; each is
            asked before they are looked at. None for arrays that can be trusted.
        engine: how to search the codes; made from them when left out.
        source: the index file that all of it is mapped from, None for any other segment.
    """

    codes: Blocks
    ids: NDArray[np.int64] | None = None
    first: int = 0
    features: NDArray[np.floating] | None = None
    dead: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    mapped: bool = False
    guards: Mapping[str, Guard] = dataclasses.field(default_factory=dict)
    engine: Engine | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        if self.engine is None:
            object.__setattr__(self, "engine", Engine(self.codes, self.mapped))

    def best(self, threads: int | None) -> Searchable:
        """The codes in the form to search, see `Engine`."""
        assert self.engine is not None
        self._check("codes", threads=threads)
        return self.engine.best(threads)

    def at(self, k: int, recall: float, threads: int | None) -> Searchable:
        """The codes in a form that finds this share of the `k` nearest, or more."""
        assert self.engine is not None
        self._check("codes", threads=threads)
        approximate = self.engine.approximate(threads)
        if approximate is None:
            return self.engine.best(threads)
        return approximate.at(k, recall, allowed=self.living, threads=threads)

    def prepare(self, threads: int | None, tables: bool, approximate: bool) -> None:
        """See `Engine.prepare` and `Engine.approximate`."""
        assert self.engine is not None
        self._check("codes", threads=threads)
        self.engine.prepare(threads, tables)
        if approximate:
            self.engine.approximate(threads)

    def check(self) -> None:
        """Compare all that is mapped with its checksums, before it is copied elsewhere.

        Raises:
            DamagedFile: naming the file.
        """
        for name in self.guards:
            self._check(name)

    def _check(
        self, name: str, rows: NDArray[np.int64] | None = None, threads: int | None = None
    ) -> None:
        """Compare a section, or those parts of it that hold some rows, unless that was done."""
        guard = self.guards.get(name)
        if guard is None:
            return
        if rows is None:
            guard.whole(threads)
        else:
            guard.rows(rows, threads)

    def __len__(self) -> int:
        """The number of codes that were not removed."""
        return len(self.codes) - len(self.dead)

    @once
    def alive(self) -> NDArray[np.bool_] | None:
        """Bool (n,), False where a row was removed; None when none was."""
        if not len(self.dead):
            return None
        alive = np.ones(len(self.codes), bool)
        alive[self.dead] = False
        return alive

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest id that was not removed; -1 and -1 where there is none."""
        if not len(self):
            return -1, -1
        first, last = 0, len(self.codes) - 1
        if self.alive is not None:
            first, last = int(self.alive.argmax()), last - int(self.alive[::-1].argmax())
        ids = self.ids_of(np.array([first, last]))
        return int(ids[0]), int(ids[1])

    @once
    def living(self) -> Filter | None:
        """`alive` as a filter, which keeps what the searches make of it."""
        return None if self.alive is None else Filter(self.alive)

    def ids_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The ids of rows of any shape; row -1 has id -1."""
        if self.ids is None:
            return rows if not self.first else np.where(rows < 0, -1, rows + self.first)
        if not len(self.ids):
            return rows
        self._check("ids")
        return np.where(rows < 0, -1, self.ids[rows])

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of ids of any shape, -1 for those that are not here or were removed."""
        if self.ids is None:
            rows = ids - self.first
            rows = np.where((ids >= self.first) & (rows < len(self.codes)), rows, -1)
        elif len(self.ids):
            self._check("ids")
            rows = np.searchsorted(self.ids, ids)
            rows[rows == len(self.ids)] = 0
            rows = np.where(self.ids[rows] == ids, rows, -1)
        else:
            rows = np.full(ids.shape, -1)
        if self.alive is not None:
            rows[~self.alive[rows]] = -1
        return rows

    def locate(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """`find` for ids (m,) that ascend strictly, quicker where they are many."""
        if self.ids is None:
            inside = len(ids) and ids[0] >= self.first
            if not inside or ids[-1] >= self.first + len(self.codes) or self.alive is not None:
                return self.find(ids)
            return ids - self.first if self.first else ids
        if LOOKED_UP * len(ids) < len(self.ids):
            return self.find(ids)
        self._check("ids")
        rows = np.empty(len(ids), np.int64)
        merging.locate(frozen(self.ids), frozen(ids), rows)
        if self.alive is not None:
            rows[~self.alive[rows]] = -1
        return rows

    def mark(self, ids: NDArray[np.int64], threads: int | None) -> tuple[NDArray[np.bool_], int]:
        """Which rows (n,) have one of many ids, and how many of the ids are alive here.

        The ids ascend strictly; they need not where `in_any_order`, and count again if repeated.
        """
        allowed = np.zeros(len(self.codes), bool)
        alive = np.empty(0, bool) if self.alive is None else self.alive
        if self.ids is None:
            rows = ids - self.first if self.first else ids
            return allowed, int(merging.mark_rows(frozen(rows), frozen(alive), allowed))
        self._check("ids")
        own, wanted = frozen(self.ids), frozen(ids)
        if self.ranks is not None:
            first, ranks, living = own[0], self.ranks, frozen(alive)
            found = pool.run(
                lambda start, stop: merging.mark_ranked(
                    wanted[start:stop], first, ranks, living, allowed
                ),
                _parts(len(wanted)),
                threads,
            )
            return allowed, int(sum(found))
        pool.run(
            lambda start, stop: merging.mark(own, wanted, start, stop, allowed),
            _parts(len(own)),
            threads,
        )
        if self.alive is not None:
            allowed &= self.alive
        return allowed, int(np.count_nonzero(allowed))

    @property
    def in_any_order(self) -> bool:
        """Whether `mark` takes ids in any order."""
        return self.ids is None or self.ranks is not None

    @once
    def ranks(self) -> NDArray[np.uint64] | None:
        """The table of `merging.rank`; None where there are no ids, or they lie far apart."""
        if self.ids is None or not len(self.ids):
            return None
        self._check("ids")
        span = int(self.ids[-1]) - int(self.ids[0]) + 1
        if span > RANKED * len(self.ids):
            return None
        ranks = np.zeros((-(-span // 64), 2), np.uint64)
        merging.rank(frozen(self.ids), ranks)
        return frozen(ranks)

    def items(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray | None]:
        """Codes and features of rows, ascending."""
        if self.features is None:
            return self.take(rows), None
        self._check("features", rows)
        return self.take(rows), self.features[rows]

    def without(self, rows: NDArray[np.int64]) -> "Segment":
        """The same segment with further rows, ascending and alive, removed."""
        # Two runs in order, which a stable sort merges.
        dead = np.sort(np.concatenate([self.dead, rows]), kind="stable")
        return dataclasses.replace(self, dead=dead)

    def live_rows(self, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """The rows from `start` to `stop` that were not removed."""
        stop = len(self.codes) if stop is None else min(stop, len(self.codes))
        rows = np.arange(start, stop)
        return rows if self.alive is None else rows[self.alive[start:stop]]

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The packed codes of some rows, ascending."""
        self._check("codes", rows // BLOCK)
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            return restore(self.codes, int(rows[0]), int(rows[-1]) + 1)
        return take(self.codes, rows)

    def rerank(
        self,
        queries: NDArray[np.float32],
        rows: NDArray[np.int64],
        k: int,
        threads: int | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` best of `rows` (q, p) by Euclidean distance: distances and ids."""
        assert self.features is not None
        self._check("features", rows, threads)
        distances, found = rerank(queries, self.features, rows, k, threads=threads)
        return distances, self.ids_of(found)

    def asymmetric(
        self,
        latents: NDArray[np.float32],
        rows: NDArray[np.int64],
        k: int,
        threshold: float,
        threads: int | None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The `k` best of `rows` (q, p) by the latents and the stored bits: distances and ids."""
        # Gathered in the order of their rows, so that places are in the order of ids.
        ordered = np.sort(rows, axis=1)
        flat = ordered.ravel()
        places = np.where(ordered < 0, -1, np.arange(flat.size).reshape(rows.shape))
        wanted = np.maximum(flat, 0) if len(self.codes) else flat
        self._check("codes", wanted // BLOCK, threads)
        codes = take(self.codes, wanted)
        distances, found = asymmetric(
            latents, codes, places, k, bits=self.codes.bits, threshold=threshold, threads=threads
        )
        if flat.size:
            found = np.where(found < 0, -1, flat[found])
        return distances, self.ids_of(found)


def _parts(count: int) -> list[tuple[int, int]]:
    """Where the tasks begin and end that `mark` is cut into."""
    return [(start, min(start + MARKED, count)) for start in range(0, count, MARKED)]


def explicit(ids: NDArray[np.int64]) -> tuple[NDArray[np.int64] | None, int]:
    """Strictly ascending ids and 0; or None and the first where they follow each other from 0 on.

    Example:
        >>> explicit(np.array([7, 8, 9])), explicit(np.array([7, 9]))
        ((None, 7), (array([7, 9]), 0))
    """
    if not len(ids):
        return None, 0
    first, last = int(ids[0]), int(ids[-1])
    return (None, first) if first >= 0 and last - first == len(ids) - 1 else (ids, 0)
