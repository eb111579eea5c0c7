"""Search from many threads at once for some minutes, and compare every answer with a plain sort.

    python scripts/benchmarks/stress.py [--minutes 10] [--threads 16] [--seed 0]

The databases are made so that an error in sharing work between threads shows: few queries, shared
by all threads; more neighbours wanted than there are near codes, stored together, so that a first
guess is too low and a second round begins; and the interpreter switches threads as often as it can.
Ends with exit code 1 if an answer was wrong, after a line for each kind of search that had one.
"""

import itertools
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import tyro
from numpy.typing import NDArray

from search import HashIndex

NEIGHBOURS = (1, 16, 100, 1000)
SEARCHES_EACH = 2000  # of one database, before the next one is drawn
SWITCH = 1e-6  # seconds


@dataclass
class Options:
    """What to stress, and for how long."""

    minutes: float = 10.0
    """How long to go on to the next database; each is searched to the end."""
    threads: int = 16
    """Python threads that search at once; each search may use as many threads again."""
    seed: int = 0
    """Of the codes."""
    codes: int = 2_000_000
    """Codes in a database, at most."""


@dataclass
class Question:
    """A search and its answer."""

    queries: NDArray[np.uint8]
    k: int
    threads: int
    distances: NDArray[np.int32]
    ids: NDArray[np.int64]

    def name(self) -> str:
        """What it asks, for a report."""
        return f"{len(self.queries)} queries, k = {self.k}, threads = {self.threads}"

    def right(self, index: HashIndex) -> bool:
        """Whether the index answers it rightly."""
        distances, ids = index.search(self.queries, self.k, threads=self.threads)
        return np.array_equal(distances, self.distances) and np.array_equal(ids, self.ids)


def databases(options: Options) -> Iterator[tuple[HashIndex, list[Question]]]:
    """Random 64-bit codes with clusters of equal ones stored together, and queries for them."""
    rng = np.random.default_rng(options.seed)
    while True:
        count = int(options.codes * rng.choice([0.1, 0.3, 1.0]))
        codes = rng.integers(0, 256, (count, 8), dtype=np.uint8)
        clusters = [0, *rng.integers(0, count, 3).tolist()]
        for first in clusters:
            codes[first : first + int(rng.choice([10, 256, 700]))] = codes[first]
        # The first query has a cluster for certain, the last ones have none.
        queries = np.concatenate([codes[clusters], rng.integers(0, 256, (4, 8), dtype=np.uint8)])
        nearest = [sort(codes, query, max(NEIGHBOURS)) for query in queries]
        distances = np.stack([each[0] for each in nearest])
        ids = np.stack([each[1] for each in nearest])
        questions = []
        for k, threads in itertools.product(NEIGHBOURS, (2, 4, options.threads)):
            for few in (slice(0, 1), slice(1, 3), slice(None)):
                answer = distances[few, :k].copy(), ids[few, :k].copy()
                questions.append(Question(queries[few], k, threads, *answer))
        yield HashIndex(codes), questions


def sort(
    codes: NDArray[np.uint8], query: NDArray[np.uint8], k: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The k nearest codes of a query by a stable sort, filled up as `search` does."""
    apart = np.bitwise_count(codes.view(np.uint64)[:, 0] ^ query.view(np.uint64)[0])
    order = np.argsort(apart, kind="stable")[:k]
    distances = np.full(k, np.iinfo(np.int32).max, np.int32)
    ids = np.full(k, -1, np.int64)
    distances[: len(order)], ids[: len(order)] = apart[order], order
    return distances, ids


@dataclass
class Tally:
    """What all threads have done."""

    searches: list[None] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)


def ask(index: HashIndex, questions: list[Question], turns: deque[int], tally: Tally) -> None:
    """Take turns in asking, until there are none left or a search failed."""
    try:
        while turns and not tally.failures:
            question = questions[turns.popleft() % len(questions)]
            if not question.right(index):
                tally.wrong.append(question.name())
            tally.searches.append(None)
    except IndexError:  # another thread had the last turn
        return
    except BaseException as failure:  # raised again by the main thread
        tally.failures.append(failure)


def stress(options: Options) -> Tally:
    """Search one database after the other until time is up."""
    end = time.monotonic() + 60 * options.minutes
    tally = Tally()
    for index, questions in databases(options):
        turns = deque(range(SEARCHES_EACH))
        arguments = (index, questions, turns, tally)
        callers = [threading.Thread(target=ask, args=arguments) for _ in range(options.threads)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        print(f"{len(tally.searches)} searches, {len(tally.wrong)} wrong", flush=True)
        if tally.failures:
            raise tally.failures[0]
        if time.monotonic() > end:
            break
    return tally


def main() -> None:
    """Stress, and say what came of it."""
    options = tyro.cli(Options, description=__doc__)
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH)
    try:
        wrong = Counter(stress(options).wrong)
    finally:
        sys.setswitchinterval(before)
    for name, times in wrong.most_common():
        print(f"{times} wrong: {name}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
