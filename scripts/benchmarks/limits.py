"""Tools to measure the search: clocks, random codes, and the machine with its limits."""

import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from search import threads as pool
from search.hamming.blocks import Blocks
from search.kernels.registers import registers
from search.kernels.vectors import look_up

Codes = NDArray[np.uint8]
PAUSE = 0.02  # seconds before a timed call
SHORT = 0.1  # seconds that a call takes below which the caches matter
NUMBERS = {"cpu family": "family", "model": "model"}  # of a processor, as Linux calls them
CHAINS = 12  # independent chains of operations, at most: enough to keep every unit of a core busy


def chains() -> int:
    """As many of them as fit into the registers, with some to spare.

    By table each has two sums, of which some may go to memory: with four chains of AVX2 as many
    bytes were compared as with five, and more than with fewer or six.
    """
    own = registers()
    return max(1, min(CHAINS, (own.number - 4) * own.size // (96 if own.by_table else 64)))


def compared() -> int:
    """Bytes that a round of a chain compares: three half bytes with two queries' by table."""
    return 64 * (3 if registers().by_table else 1)


@intrinsic
def comparisons(typingctx: Any, rounds: Any, seed: Any) -> Any:
    """`rounds` times `chains()` comparisons of `compared()` bytes with a query's, in registers.

    A comparison is what the scan does at least: an xor and a count of bits, of which the count
    stands for both; or, where the processor has none of bytes, three look-ups in a table of two
    queries, whose sum is added to that of both, and its upper half to that of one.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        rounds, seed = arguments
        word, byte = ir.VectorType(ir.IntType(64), 8), ir.VectorType(ir.IntType(8), 64)
        count = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(byte, [byte]), "llvm.ctpop.v64i8"
        )
        half = ir.VectorType(ir.IntType(8), 16)
        tables = [ir.Constant(half, [(n ^ q).bit_count() for n in range(16)]) for q in (1, 2, 4)]
        places, uppers = [], []
        for chain in range(chains()):
            start = builder.insert_element(
                ir.Constant(word, [chain + 1] * 8), seed, ir.Constant(ir.IntType(32), chain % 8)
            )
            places.append(cgutils.alloca_once_value(builder, builder.bitcast(start, byte)))
            uppers.append(cgutils.alloca_once_value(builder, ir.Constant(byte, [chain] * 64)))
        zero, one = ir.Constant(ir.IntType(64), 0), ir.Constant(ir.IntType(64), 1)
        with cgutils.for_range_slice(builder, zero, rounds, one):
            for place, upper in zip(places, uppers, strict=True):
                value = builder.load(place, typ=byte)
                if registers().by_table:
                    size = registers().size
                    found = [look_up(builder, table, value, size) for table in tables]
                    both = builder.add(builder.add(found[0], found[1]), found[2])
                    value = builder.add(value, both)
                    both = builder.lshr(both, ir.Constant(byte, [4] * 64))
                    builder.store(builder.add(builder.load(upper, typ=byte), both), upper)
                else:
                    value = builder.call(count, [value])
                builder.store(value, place)
        total = builder.load(places[0], typ=byte)
        for place in places[1:] + uppers:
            total = builder.xor(total, builder.load(place, typ=byte))
        return builder.extract_element(builder.bitcast(total, word), ir.Constant(ir.IntType(32), 0))

    return types.uint64(types.int64, types.uint64), generate


@numba.njit(nogil=True)
def compare_bytes(rounds: int, seed: int) -> int:
    """Run `comparisons`."""
    return comparisons(rounds, seed)  # type: ignore[call-arg]


@numba.njit(nogil=True)
def read(words: NDArray[np.uint64]) -> np.uint64:
    """Read every word once."""
    total = np.uint64(0)
    for index in range(words.size):  # by index: an iteration over the words is not vectorized
        total |= words[index]
    return total


def comparison_rate(threads: int) -> float:
    """Bytes compared a second on all threads together, without loads or anything else."""
    rounds = 20_000_000  # tens of milliseconds, next to which waking a thread is nothing
    tasks = [(rounds, np.uint64(seed)) for seed in range(threads)]
    seconds = min(timed(lambda: pool.run(compare_bytes, tasks, threads)) for _ in range(8))
    return threads * rounds * chains() * compared() / seconds


def bandwidth(size: int, threads: int) -> float:
    """Bytes a second that all threads together read from an array of `size` bytes."""
    words = np.ones(max(size // 8, threads), np.uint64)
    tasks = [(part,) for part in np.array_split(words, threads)]
    seconds = min(timed(lambda: pool.run(read, tasks, threads)) for _ in range(8))
    return words.nbytes / seconds


def floors(blocks: Blocks, threads: int, runs: int) -> dict[str, dict[str, float]]:
    """What bounds one query: reading its bytes once, on one thread and on all, and the hand-over.

    Taken in turn and after pauses as the searches are, so that the caches are as cold.
    """
    planes = blocks.planes.reshape(-1)
    words = planes[: planes.size // 8 * 8].view(np.uint64)
    # A copy, as FAISS has its own, so that neither call finds what the other one left behind.
    parts = [(part,) for part in np.array_split(words.copy(), threads)]
    few = [(words[:8],)] * threads
    return interleave(
        {
            "one thread": partial(read, words),
            "all threads": partial(pool.run, read, parts, threads),
            "hand-over": partial(pool.run, read, few, threads),
        },
        runs,
    )


def processor() -> str:
    """The processor's name, family and model, where the system tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    known = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    name = known.get("model name") or platform.processor() or platform.machine()
    numbers = [f"{part} {known[key]}" for key, part in NUMBERS.items() if key in known]
    return ", ".join([name, *([" ".join(numbers)] if numbers else [])])


def in_turn(tasks: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every task in every round, after one round that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for counted in range(-1, rounds):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if counted >= 0:
                times[name].append(time.perf_counter() - start)
    return times


def timed(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleave(calls: dict[str, Callable[[], Any]], runs: int) -> dict[str, dict[str, float]]:
    """Median and least seconds of every call, taken in turn after warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    short = {name: (call(), timed(call))[1] < SHORT for name, call in calls.items()}
    for _ in range(runs):
        for name, call in calls.items():
            # OpenMP's threads spin for a while after their work, and would hold a processor
            # that the other side is then timed without. The pause cools the caches; a call that
            # is short enough to notice is made once more before the one that counts.
            time.sleep(PAUSE)
            if short[name]:
                call()
            seconds[name].append(timed(call))
    return {
        name: {"median": float(np.median(values)), "least": min(values)}
        for name, values in seconds.items()
    }


def equal(one: tuple[NDArray, NDArray], other: tuple[NDArray, NDArray]) -> bool:
    """Whether two searches gave the same distances and ids."""
    return bool(np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1]))


def uniform(rng: np.random.Generator, count: int, bits: int) -> Codes:
    """Codes of independent fair bits."""
    return rng.integers(0, 256, (count, bits // 8), dtype=np.uint8)


def around(rng: np.random.Generator, centres: NDArray, count: int, flips: NDArray | float) -> Codes:
    """Codes around random ones of the centres, bits flipped with the given chance."""
    codes = np.empty((count, centres.shape[1] // 8), np.uint8)
    chances = np.broadcast_to(np.asarray(flips, np.float32), (count,))
    for start in range(0, count, 1 << 16):
        part = slice(start, min(start + (1 << 16), count))
        size = part.stop - start
        flipped = rng.random((size, centres.shape[1]), np.float32) < chances[part, None]
        codes[part] = np.packbits(centres[rng.integers(0, len(centres), size)] ^ flipped, axis=1)
    return codes


def learned(rng: np.random.Generator, count: int, bits: int) -> Codes:
    """Codes as a trained network gives them: ten classes, most items near theirs, some far."""
    centres = np.random.default_rng(7).integers(0, 2, (10, bits), dtype=np.uint8)
    return around(rng, centres, count, rng.beta(0.35, 6.0, count))
