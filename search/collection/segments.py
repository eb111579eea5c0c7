"""A part of an index that never changes: codes in the order of their ids, and what was removed."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import threads as pool
from search.collection.merge import merge_checked
from search.collection.once import once
from search.collection.rows import Rows
from search.files.checksums import Guard
from search.files.storage import Source
from search.filters import Filter
from search.fine.rerank import asymmetric, frozen, rerank
from search.hamming import buckets, scan
from search.hamming.buckets import Buckets
from search.hamming.scan import Blocks
from search.kernels import merging

# Below one wanted code in so many, the wanted ones are gathered and searched by themselves.
SPARSE = 16
# Ids of a range up to so many times their number are marked in it rather than compared.
DENSE = 16
# Above one id in so many, it is quicker to walk all the ids than to look each up.
LOOKED_UP = 16
# Rows whose ids one task compares with the wanted ones.
MARKED = 1 << 18
# Results, at least, that the search of a group of queries may hold beside those of the others.
RESULTS = 1 << 22


class Engine:
    """The faster of two exact ways to search some codes; shared by copies of a segment.

    Codes in memory are grouped by value at the first search if they repeat enough for it to pay,
    mapped ones only when asked to: it takes memory and reads the whole file.
    """

    def __init__(self, codes: Blocks | Rows, mapped: bool) -> None:
        self._codes = codes
        self._best: Blocks | Rows | Buckets = codes
        self._undecided: Blocks | None = codes if isinstance(codes, Blocks) else None
        self._automatic = not mapped
        self._deciding = pool.Lock()

    def best(self, threads: int | None) -> Blocks | Rows | Buckets:
        """The codes in the form to search."""
        if self._automatic and self._undecided is not None:
            self.prepare(threads)
        return self._best

    def prepare(self, threads: int | None, tables: bool = False) -> None:
        """Decide now, for mapped codes too; make multi-index tables as well when asked to."""
        with self._deciding.held():
            if tables and isinstance(self._codes, Blocks):
                made = buckets.build(self._codes, tables=True, threads=threads)
                self._best = self._codes if made is None else made
                self._undecided = None
            else:
                self._decide(threads)

    def _decide(self, threads: int | None) -> None:
        codes = self._undecided  # None if another thread came first
        if codes is not None and buckets.worthwhile(codes):
            # None where the estimate was too hopeful: the scan remains.
            grouped = buckets.build(codes, most=len(codes) // 2, threads=threads)
            self._best = codes if grouped is None else grouped
        self._undecided = None


@dataclasses.dataclass(frozen=True)
class Segment:
    """Codes sorted by id, so that row order is id order; only removals tell copies apart.

    Attributes:
        codes: n codes, in blocks or as rows.
        ids: int64 (n,), strictly ascending; None when they are 0 to n - 1.
        features: float16 or float32 (n, d), or None.
        dead: int64, ascending: the rows that were removed.
        mapped: whether the arrays live in a file; such a segment is not merged behind one's back.
        guards: what compares mapped "codes", "ids" and "features" with their checksums; each is
            asked before they are looked at. None for arrays that can be trusted.
        engine: how to search the codes; made from them when left out.
        source: the index file that all of it is mapped from, None for any other segment.
    """

    codes: Blocks | Rows
    ids: NDArray[np.int64] | None = None
    features: NDArray[np.floating] | None = None
    dead: NDArray[np.int64] = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    mapped: bool = False
    guards: Mapping[str, Guard] = dataclasses.field(default_factory=dict)
    engine: Engine | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        if self.engine is None:
            object.__setattr__(self, "engine", Engine(self.codes, self.mapped))

    def best(self, threads: int | None) -> Blocks | Rows | Buckets:
        """The codes in the form to search, see `Engine`."""
        assert self.engine is not None
        self._check("codes", threads=threads)
        return self.engine.best(threads)

    def prepare(self, threads: int | None, tables: bool) -> None:
        """See `Engine.prepare`."""
        assert self.engine is not None
        self._check("codes", threads=threads)
        self.engine.prepare(threads, tables)

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
        if self.ids is None or not len(self.ids):
            return rows
        self._check("ids")
        return np.where(rows < 0, -1, self.ids[rows])

    def find(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of ids of any shape, -1 for those that are not here or were removed."""
        if self.ids is None:
            rows = np.where((ids >= 0) & (ids < len(self.codes)), ids, -1)
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
            inside = len(ids) and ids[0] >= 0 and ids[-1] < len(self.codes)
            if not inside or self.alive is not None:
                return self.find(ids)
            return ids
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

        The ids ascend strictly, but where they are the numbers of the rows.
        """
        allowed = np.zeros(len(self.codes), bool)
        if self.ids is None:
            alive = np.empty(0, bool) if self.alive is None else self.alive
            return allowed, int(merging.mark_rows(frozen(ids), frozen(alive), allowed))
        self._check("ids")
        own, wanted = frozen(self.ids), frozen(ids)
        pool.run(
            lambda start, stop: merging.mark(own, wanted, start, stop, allowed),
            [(start, min(start + MARKED, len(own))) for start in range(0, len(own), MARKED)],
            threads,
        )
        if self.alive is not None:
            allowed &= self.alive
        return allowed, int(np.count_nonzero(allowed))

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
        """The packed codes of some rows, ascending; bits past the last may be set in `Rows`."""
        if isinstance(self.codes, Rows):
            return self.codes.codes[rows]
        self._check("codes", rows // scan.BLOCK)
        if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
            return scan.restore(self.codes, int(rows[0]), int(rows[-1]) + 1)
        return scan.take(self.codes, rows)

    def view(self, threads: int | None) -> "View":
        """What a search looks at: all that is alive."""
        return View(self, self.best(threads), None, self.living)

    def view_of(self, rows: NDArray[np.int64], threads: int | None) -> "View":
        """Some rows alone, ascending and alive."""
        if SPARSE * len(rows) < len(self.codes):
            few = scan.arrange(self.take(rows), self.codes.bits, threads=threads)
            return View(self, few, rows, None)
        allowed = np.zeros(len(self.codes), bool)
        allowed[rows] = True
        return View(self, self.best(threads), None, Filter(allowed))

    def view_through(self, allowed: NDArray[np.bool_], threads: int | None) -> "View":
        """The rows that a mask (n,) marks, all of them alive."""
        return View(self, self.best(threads), None, Filter(allowed))

    def view_under(self, mask: NDArray[np.bool_], threads: int | None) -> "View":
        """Those of the alive rows, in their order, that `mask` marks."""
        if SPARSE * np.count_nonzero(mask) < len(self.codes):
            rows = np.flatnonzero(mask)
            return self.view_of(rows if self.alive is None else self.live_rows()[rows], threads)
        if self.alive is not None:
            allowed = np.zeros(len(self.codes), bool)
            allowed[self.alive] = mask
            mask = allowed
        return View(self, self.best(threads), None, Filter(mask))

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
        if isinstance(self.codes, Rows):
            codes = self.codes.codes[wanted]
        else:
            self._check("codes", wanted // scan.BLOCK, threads)
            codes = scan.take(self.codes, wanted)
        distances, found = asymmetric(
            latents, codes, places, k, bits=self.codes.bits, threshold=threshold, threads=threads
        )
        if flat.size:
            found = np.where(found < 0, -1, flat[found])
        return distances, self.ids_of(found)


@dataclasses.dataclass(frozen=True)
class View:
    """Some codes of a segment: a copy of a few, or all of them under a mask."""

    segment: Segment
    codes: Blocks | Rows | Buckets
    rows: NDArray[np.int64] | None
    allowed: Filter | None

    def knn(
        self, queries: NDArray[np.uint8], k: int, threads: int | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Distances and rows of the segment, by (distance, row)."""
        found = search(self.codes, "knn")(queries, k, allowed=self.allowed, threads=threads)
        return found[0], self._own(found[1])

    def radius(
        self, queries: NDArray[np.uint8], radius: int, threads: int | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
        """Offsets, distances and rows of the segment, by (distance, row)."""
        found = search(self.codes, "radius")(queries, radius, allowed=self.allowed, threads=threads)
        return found[0], found[1], self._own(found[2])

    def _own(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.rows is None or not len(self.rows):
            return rows
        return np.where(rows < 0, -1, self.rows[rows])


def search(codes: Blocks | Rows | Buckets, kind: str) -> Callable[..., Any]:
    """The function `knn` or `radius` that fits the form of the codes."""
    if isinstance(codes, Rows):
        return getattr(codes, kind)
    return functools.partial(getattr(buckets if isinstance(codes, Buckets) else scan, kind), codes)


def nearest(
    views: Sequence[View], queries: NDArray[np.uint8], k: int, threads: int | None
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Distances and ids (q, k) of the nearest in all views."""
    group = max(scan.TILE, RESULTS // max(1, k))
    if len(queries) <= group:
        results = []
        for view in views:
            distances, rows = view.knn(queries, k, threads)
            results.append((distances, view.segment.ids_of(rows)))
        return merge_checked(results, k)
    # What lies between the rows of a view and the merged ids takes several times the memory of
    # the results, so only some of them pass through it at a time.
    best, found = np.empty((len(queries), k), np.int32), np.empty((len(queries), k), np.int64)
    for start in range(0, len(queries), group):
        part = slice(start, start + group)
        best[part], found[part] = nearest(views, queries[part], k, threads)
    return best, found


def live_ids(segments: Sequence[Segment]) -> NDArray[np.int64]:
    """The ids of all that was not removed, ascending."""
    parts = [segment.ids_of(segment.live_rows()) for segment in segments]
    ids = np.concatenate(parts) if parts else np.empty(0, np.int64)
    return ids if len(parts) == 1 else np.sort(ids)


Batch = tuple[NDArray[np.uint8], NDArray[np.floating] | None, NDArray[np.int64]]


def in_id_order(segments: Sequence[Segment], step: int) -> Iterator[Batch]:
    """Codes, features and ids of all that was not removed, by id, in batches of bounded size.

    Each batch takes from every segment at most `step` rows: those up to the smallest of the
    segments' `step`-th next ids, so that all later ids are larger.

    Raises:
        DamagedFile: before the first batch, where a mapped segment is not what was written.
    """
    for each in segments:
        each.check()
    positions = [0] * len(segments)
    while any(at < len(each.codes) for at, each in zip(positions, segments, strict=True)):
        ends = []
        for at, each in zip(positions, segments, strict=True):
            if at + step < len(each.codes):
                ends.append(int(each.ids_of(np.array([at + step - 1]))[0]))
        codes, features, ids = [], [], []
        for which, each in enumerate(segments):
            start, stop = positions[which], min(positions[which] + step, len(each.codes))
            if ends:
                window = each.ids_of(np.arange(start, stop))
                stop = start + int(np.searchsorted(window, min(ends), side="right"))
            positions[which] = stop
            rows = each.live_rows(start, stop)
            codes.append(each.take(rows))
            ids.append(each.ids_of(rows))
            if each.features is not None:
                features.append(
                    each.features[rows] if len(rows) < stop - start else each.features[start:stop]
                )
        all_ids = np.concatenate(ids)
        order = np.argsort(all_ids)
        yield (
            np.concatenate(codes)[order],
            np.concatenate(features)[order] if features else None,
            all_ids[order],
        )


def combine(segments: Sequence[Segment], bits: int) -> Segment:
    """One segment in memory of all that was not removed."""
    count = sum(len(segment) for segment in segments)
    planes = np.zeros((-(-count // scan.BLOCK), -(-bits // 8), scan.BLOCK), np.uint8)
    model = next((each.features for each in segments if each.features is not None), None)
    features = None if model is None else np.empty((count, model.shape[1]), model.dtype)
    ids = np.empty(count, np.int64)
    done = 0
    waiting = np.empty((0, planes.shape[1]), np.uint8)
    row_bytes = planes.shape[1] + (0 if features is None else features.shape[1] * features.itemsize)
    for codes, fine, some in in_id_order(segments, max(scan.BLOCK, (1 << 25) // row_bytes)):
        start, done = done, done + len(some)
        ids[start:done] = some
        if features is not None and fine is not None:
            features[start:done] = fine
        first = (start - len(waiting)) // scan.BLOCK
        codes = np.concatenate([waiting, codes])
        whole = len(codes) // scan.BLOCK
        scan.arrange(codes[: whole * scan.BLOCK], bits, out=planes[first : first + whole])
        waiting = codes[whole * scan.BLOCK :]
    if len(waiting):
        scan.arrange(waiting, bits, out=planes[-1:])
    return Segment(Blocks(planes, count, bits), implicit(ids), features)


def implicit(ids: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """None when strictly ascending `ids` are 0 to n - 1."""
    if not len(ids) or (ids[0] == 0 and ids[-1] == len(ids) - 1):
        return None
    return ids
