"""One pool of threads for all the kernels: they release the GIL, so plain threads are enough.

A pool of our own, rather than numba's `prange`, because numba's thread layers abort the process
when several Python threads call them at once, or when a process forks after using them.
"""

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

Result = TypeVar("Result")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def available() -> int:
    """The number of processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def resolve(threads: int | None) -> int:
    """The number of threads to use: all processors when `None`.

    Raises:
        TypeError: `threads` is not a whole number.
        ValueError: `threads` is below one.

    Example:
        >>> resolve(3)
        3
    """
    if threads is None:
        return available()
    if isinstance(threads, bool) or not hasattr(threads, "__index__"):
        raise TypeError(f"threads must be a whole number or None, not {threads!r}")
    threads = threads.__index__()
    if threads < 1:
        raise ValueError(f"threads must be at least 1, not {threads}; leave it out to use all")
    return threads


def run(
    function: Callable[..., Result],
    tasks: Iterable[Sequence[Any]],
    threads: int | None = None,
) -> list[Result]:
    """Call `function(*task)` for every task on up to `threads` threads; results in task order.

    The calling thread works too and takes whatever the pool has not begun, so a search never
    waits for another one to leave the pool. The first exception, in task order, is raised after
    all the tasks have ended.

    Example:
        >>> run(pow, [(2, 3), (3, 2)], threads=2)
        [8, 9]
    """
    tasks = list(tasks)
    workers = min(resolve(threads), len(tasks))
    if workers <= 1:
        return [function(*task) for task in tasks]
    caller = _processor()
    results: list[Any] = [None] * len(tasks)
    failures: dict[int, Exception] = {}
    pending = iter(enumerate(tasks))  # `next` on a list iterator is atomic under the GIL

    def work() -> None:
        for position, task in pending:
            try:
                results[position] = function(*task)
            except Exception as failure:  # raised again below, by the caller's thread
                failures[position] = failure

    def help_out() -> None:
        with _elsewhere(caller):
            work()

    helpers = [_submit(help_out, workers - 1) for _ in range(workers - 1)]
    try:
        work()
    finally:  # an interrupt leaves tasks behind: nobody shall begin them
        for _ in pending:
            pass
    for helper in helpers:
        if not helper.cancel():
            helper.result()
    if failures:
        raise failures[min(failures)]
    return results


def share(
    function: Callable[..., None],
    places: Sequence[Sequence[Any]],
    finished: Callable[[], bool],
) -> None:
    """Call `function(*place)` for each place, at once, until the work they share is done.

    The calling thread takes the first place and returns as soon as `finished()` says so, without
    waiting for the others to return, nor for those that have not begun: so `function` must find
    its own work, and by then have none left. An exception is raised in the caller's thread.

    Example:
        >>> left, done = [1, 2, 3], []
        >>> def work(name):
        ...     while left:
        ...         done.append(left.pop())
        >>> share(work, [("one",), ("two",)], lambda: len(done) == 3)
        >>> sorted(done)
        [1, 2, 3]
    """
    caller = _processor()

    def help_out(place: Sequence[Any]) -> None:
        with _elsewhere(caller):
            function(*place)

    helpers = [_submit(partial(help_out, place), len(places) - 1) for place in places[1:]]
    function(*places[0])
    if finished():
        for helper in helpers:
            helper.cancel()
        return
    for helper in helpers:
        if not helper.cancel():
            helper.result()


def _current_processor() -> Callable[[], int] | None:
    """The C library's `sched_getcpu`, where there is one and threads can be moved."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        return ctypes.PyDLL(None).sched_getcpu  # type: ignore[no-any-return]
    except (AttributeError, OSError):
        return None


_sched_getcpu = _current_processor()


def _processor() -> int:
    """The processor this thread runs on; -1 where the system does not tell."""
    return -1 if _sched_getcpu is None else _sched_getcpu()


@contextlib.contextmanager
def _elsewhere(processor: int) -> Iterator[None]:
    """Leave a processor that is taken, if this thread was woken on it.

    Linux wakes a thread on the processor of the one that wakes it when the others look busy, as
    they do for a while after OpenMP's threads spun there, and moves neither of the two for many
    milliseconds: a search is over by then, and had one processor for both threads.
    """
    if processor < 0 or _processor() != processor:
        yield
        return
    allowed = os.sched_getaffinity(0)
    others = allowed - {processor}
    if not others:
        yield
        return
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, others)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, allowed)


def _submit(work: Callable[[], None], size: int) -> "Future[None]":
    """Hand `work` to the pool, which grows to the largest `size` ever asked for."""
    global _pool, _size
    with _lock:
        if _pool is None or _size < size:
            retired, _size = _pool, max(size, available() - 1, 1)
            _pool = ThreadPoolExecutor(_size, thread_name_prefix="search")
            if retired is not None:
                retired.shutdown(wait=False)
        return _pool.submit(work)


def _forget() -> None:
    """A forked child has none of its parent's threads: start again without a pool."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
