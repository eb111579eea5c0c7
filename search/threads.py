"""One pool of threads for all the kernels: they release the GIL, so plain threads are enough.

A pool of our own, rather than numba's `prange`, because numba's thread layers abort the process
when several Python threads call them at once, or when a process forks after using them.
"""

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from numba.core.compiler_lock import global_compiler_lock

from search.processors import available

Result = TypeVar("Result")


class Lock:
    """A lock that is open in a forked child, in a copy and in a pickle, whoever holds it here.

    A child has only the thread that forked: what another one held in the parent would stay held
    for ever. So this guards only what is replaced as a whole, which is never found half changed.

    Example:
        >>> lock = Lock()
        >>> with lock.held():
        ...     pass
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _locks.add(self)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock, and let go of it in the end."""
        with self._lock:  # that of now: a thread that forks while it holds it lets go of this one
            yield

    def renew(self) -> None:
        """Open the lock, whoever holds it."""
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["Lock"], tuple[()]]:
        return Lock, ()


_locks: "weakref.WeakSet[Lock]" = weakref.WeakSet()
_growing = Lock()
_pool: ThreadPoolExecutor | None = None
_size = 0


def resolve(threads: int | None) -> int:
    """The number of threads to use: as many as `available` says when `None`.

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
    waits for another one to leave the pool, and does all of it where no thread can be had: once
    the main thread has ended, or where the system allows no more. The first exception, in task
    order, is raised after all the tasks have ended. An interrupt is raised as soon as those that
    had begun have ended; the others are left out.

    Example:
        >>> run(pow, [(2, 3), (3, 2)], threads=2)
        [8, 9]
    """
    tasks = list(tasks)
    workers = min(resolve(threads), len(tasks))
    if workers <= 1:
        return [function(*task) for task in tasks]
    results: list[Any] = [None] * len(tasks)
    failures: dict[int, Exception] = {}
    pending = deque(enumerate(tasks))

    def work() -> None:
        while True:
            try:
                position, task = pending.popleft()
            except IndexError:
                return
            try:
                results[position] = function(*task)
            except Exception as failure:  # raised again below, by the caller's thread
                failures[position] = failure

    helpers = [_submit(work, workers - 1) for _ in range(workers - 1)]
    try:
        work()
    finally:
        pending.clear()  # an interrupt leaves tasks that no thread shall begin
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
    its own work, and by then have none left. It may still be called after that: all that it uses
    must be its own, never a variable that the caller sets anew. An exception is raised in the
    caller's thread.

    Example:
        >>> left, done = [1, 2, 3], []
        >>> def work(name):
        ...     while left:
        ...         done.append(left.pop())
        >>> share(work, [("one",), ("two",)], lambda: len(done) == 3)
        >>> sorted(done)
        [1, 2, 3]
    """
    helpers = [_submit(partial(function, *place), len(places) - 1) for place in places[1:]]
    try:
        function(*places[0])
        done = finished()
    except BaseException:
        for helper in helpers:
            helper.cancel()
        raise
    for helper in helpers:
        if not helper.cancel() and not done:
            helper.result()


def _submit(work: Callable[[], None], size: int) -> "Future[None]":
    """Hand `work` to the pool, which grows to the largest `size` ever asked for.

    The result is of our own making rather than the pool's, as that gives none where it cannot
    start a thread, and may keep the work all the same, to be begun by a thread that it has. So
    whoever submits must cancel it or wait for it, as for any other.
    """
    global _pool, _size
    helper: Future[None] = Future()

    def begin() -> None:
        if not helper.set_running_or_notify_cancel():
            return
        try:
            work()
        except BaseException as failure:  # raised again by `result`
            helper.set_exception(failure)
        else:
            helper.set_result(None)

    with _growing.held():
        if _pool is None or _size < size:
            retired, _size = _pool, max(size, available() - 1, 1)
            _pool = ThreadPoolExecutor(_size, thread_name_prefix="search")
            if retired is not None:
                retired.shutdown(wait=False)
        # The interpreter is ending, or has all the threads that it may have: the caller goes on
        # alone.
        with contextlib.suppress(RuntimeError):
            _pool.submit(begin)
    return helper


def _forget() -> None:
    """A forked child has none of its parent's threads: start again without a pool."""
    global _pool
    _pool = None
    for lock in _locks:
        lock.renew()
    global_compiler_lock.release()


if hasattr(os, "register_at_fork"):
    # What numba and LLVM have half done cannot be taken over: a fork waits until it is done.
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=_forget,
    )
