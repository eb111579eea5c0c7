"""Measure worst cases of the search, which may take three times as long as good ones at most.

    python scripts/benchmarks/cliffs.py                     # some minutes, 4 GB of memory
    python scripts/benchmarks/cliffs.py --scale 0.01        # a quick look, whose ratios mean little

The bad and the good case of each pair are measured in turn. The exit code is 1 where the least time
(or the peak of memory) of a bad case is more than `LIMIT` times that of its good case.
"""

import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tyro
from limits import Codes, in_turn, learned, uniform
from numpy.typing import NDArray

from search import HashIndex
from search.hamming import buckets, scan
from search.hamming.blocks import arrange

LIMIT = 3.0
Pair = tuple[str, Callable[[], object], Callable[[], object]]


@dataclass(frozen=True)
class Config:
    """What to measure, and how often."""

    scale: float = 1.0
    """Share of the full sizes."""
    runs: int = 7
    """Times that each is measured."""
    threads: int = 2
    """Threads of a search."""
    seed: int = 11
    """Of the codes."""


@dataclass(frozen=True)
class Row:
    """A pair as measured: seconds, or bytes where there is no median."""

    name: str
    good: float
    cliff: float
    good_median: float | None = None
    cliff_median: float | None = None

    @property
    def ratio(self) -> float:
        """The bad case's time or memory divided by the good case's."""
        return self.cliff / self.good


def main() -> None:
    """Print a line for each pair; exit with 1 where a bad case takes too much."""
    config = tyro.cli(Config, description=__doc__)
    print(f"{'':56} {'good':>9} {'median':>9} {'beside':>9} {'median':>9} {'ratio':>6}")
    bad = []
    for row in rows(config):
        print(line(row), flush=True)
        if row.ratio > LIMIT:
            bad.append(row.name)
    if bad:
        sys.exit(f"more than {LIMIT:g} times the good path: {'; '.join(bad)}")


def line(row: Row) -> str:
    """A row as text: milliseconds, or megabytes."""
    scale = 1e3 if row.good_median is not None else 1e-6
    numbers = (row.good, row.good_median, row.cliff, row.cliff_median)
    shown = (f"{'MB' if each is None else f'{each * scale:.2f}':>9}" for each in numbers)
    return f"{row.name:56} {' '.join(shown)} {row.ratio:6.2f}"


def rows(config: Config) -> Iterator[Row]:
    """Every pair, measured."""
    for pairs in (filters, removals, candidates, collisions, crowds):
        for name, good, cliff in pairs(config):
            times = in_turn({"good": good, "cliff": cliff}, config.runs)
            least = (min(times[each]) for each in ("good", "cliff"))
            medians = (float(np.median(times[each])) for each in ("good", "cliff"))
            yield Row(name, *least, *medians)
    yield memory(config)


def sized(config: Config, count: int) -> int:
    """A full size at the scale asked for."""
    return max(64, int(count * config.scale))


def filters(config: Config) -> Iterator[Pair]:
    """Lists of ids, and masks over two segments, beside a mask over one."""
    rng = np.random.default_rng(config.seed)
    count = sized(config, 2_000_000)
    codes = uniform(rng, count, 64)
    one, own = HashIndex(codes), HashIndex(codes, ids=np.arange(count) * 2)
    mask = rng.random(count) < 0.5
    wanted = np.flatnonzero(mask)
    shuffled, as_list = rng.permutation(wanted), wanted.tolist()
    query = codes[:1].copy()

    def search(index: HashIndex, where: object) -> Callable[[], object]:
        return lambda: index.search(query, 10, where=where, threads=config.threads)  # type: ignore[arg-type]

    good = search(one, mask)
    yield f"{len(wanted):,} ids as where, by a mask", good, search(one, wanted)
    yield f"{len(wanted):,} ids in no order, by a mask", good, search(one, shuffled)
    yield f"{len(wanted):,} own ids, by a mask", search(own, mask), search(own, wanted * 2)
    # A list has to be read, number by number, at each search; nothing can spare it that.
    converting = lambda: (np.asarray(as_list), good())  # noqa: E731
    yield f"{len(wanted):,} ids as a list, by its conversion", converting, search(one, as_list)
    two = HashIndex(codes)
    two.add(codes[:1])
    both = np.append(mask, True)
    yield "a mask over two segments, by one over one", good, search(two, both)
    among = HashIndex(codes, ids=np.arange(count) * 2)
    among.add(codes[:1], ids=np.array([count | 1]))
    yield "the same, ids among each other", good, search(among, both)


def removals(config: Config) -> Iterator[Pair]:
    """Removing, and searching after it."""
    rng = np.random.default_rng(config.seed)
    count = sized(config, 5_000_000)
    segment = HashIndex(np.zeros((count, 1), np.uint8))._state.segments[0]
    gone = rng.permutation(count)

    def remove() -> None:
        HashIndex.of_segment(segment).remove(gone)

    yield f"removing {count:,} ids, by sorting them", lambda: np.sort(gone), remove
    for kind, make, size in (("learned", learned, 1_000_000), ("uniform", uniform, 4_000_000)):
        codes = make(rng, sized(config, size), 64)
        whole, less = HashIndex(codes), HashIndex(codes)
        less.remove([7])
        query = codes[:1].copy()

        def search(index: HashIndex, query: Codes = query) -> Callable[[], object]:
            return lambda: index.search(query, 10, threads=config.threads)

        yield f"one of {len(codes):,} {kind} codes removed", search(whole), search(less)


def candidates(config: Config) -> Iterator[Pair]:
    """Re-ranking all within a radius, beside re-ranking a pool of the same size."""
    rng = np.random.default_rng(config.seed)
    count = sized(config, 100_000)
    codes = uniform(rng, count, 32)
    features = rng.standard_normal((count, 64), np.float32)
    index = HashIndex(codes, features=features)
    asked, fine = codes[:500].copy(), features[:500].copy()
    offsets, _, _ = index.within(asked, 9)
    pool = int(offsets[-1]) // len(asked)

    def search(pool: int | None, radius: int | None) -> Callable[[], object]:
        return lambda: index.search(
            asked, 10, query_features=fine, pool=pool, radius=radius, threads=config.threads
        )

    name = f"some {pool} candidates within a radius, by a pool"
    yield name, search(pool, None), search(None, 9)


def collisions(config: Config) -> Iterator[Pair]:
    """Grouping codes that were chosen to collide in a hash table, beside grouping others."""
    rng = np.random.default_rng(config.seed)
    chosen = arrange(crafted(sized(config, 20_000)))
    others = arrange(uniform(rng, chosen.count, 64))
    yield (
        f"grouping {chosen.count:,} codes chosen to collide",
        lambda: buckets.build(others, threads=config.threads),
        lambda: buckets.build(chosen, threads=config.threads),
    )


def crafted(count: int) -> NDArray[np.uint8]:
    """64-bit codes that all start in one slot of a hash table, under the hash of version 0.1.0.

    Its constants were in the source, and each of its steps can be undone.
    """
    start, factor = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93
    back, codes = pow(factor, -1, 1 << 64), []
    for number in range(count):
        value = unmixed(number << 40, 29) * back % (1 << 64)
        codes.append(unmixed(value, 32) * back % (1 << 64) ^ start)
    return np.array(codes, ">u8").view(np.uint8).reshape(-1, 8)


def unmixed(value: int, shift: int) -> int:
    """The x with x ^ (x >> shift) == value, below 2**64."""
    found = value
    for _ in range(64 // shift + 1):
        found = value ^ (found >> shift)
    return found


def crowds(config: Config) -> Iterator[Pair]:
    """Far more threads than can help, where each would keep many results, beside two threads."""
    rng = np.random.default_rng(config.seed)
    blocks = arrange(uniform(rng, sized(config, 2_000_000), 64))
    k, asked = min(10_000, blocks.count), uniform(rng, min(500, blocks.count), 64)

    def search(threads: int) -> Callable[[], object]:
        return lambda: scan.knn(blocks, asked, k, threads=threads)

    yield f"threads = 64 with k = {k:,}, by 2", search(2), search(64)


def memory(config: Config) -> Row:
    """Peak memory of a search with many results under given ids, beside the results' own size."""
    rng = np.random.default_rng(config.seed)
    count, queries = sized(config, 10_000), sized(config, 100_000)
    codes = uniform(rng, count, 64)
    index = HashIndex(codes, ids=np.arange(count) * 2)
    k, asked = min(1000, count), uniform(rng, queries, 64)
    index.search(asked[:100], k, threads=config.threads)
    tracemalloc.start()
    distances, ids = index.search(asked, k, threads=config.threads)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    name = f"memory: {queries:,} queries x {k} under own ids"
    return Row(name, distances.nbytes + ids.nbytes, peak)


if __name__ == "__main__":
    main()
