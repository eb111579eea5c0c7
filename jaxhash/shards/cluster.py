"""A Ray cluster that this process joins or starts, and leaves."""

import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

LAST_WORDS = 20
"""Seconds after SIGTERM in which what was started is to be ended."""


@contextlib.contextmanager
def joined(address: str, needs: str = "ray") -> Iterator[None]:
    """Be in a cluster, unless this process is in one already.

    SIGTERM then ends the process with 143, as it ends any, after what `finally` has to do; while
    Ray starts it does so at once, as Ray cannot be told to stop there: it would abort. A program
    with a handler of its own, or in another thread, has what Ray makes of it.

    Args:
        address: "local" starts a cluster of this machine alone, which ends with the block, and
            "auto" takes the one that runs here.
        needs: module of Ray that must be there.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: there is no such cluster.

    Example:
        >>> with joined("auto"):  # doctest: +SKIP
        ...     ray.cluster_resources()
    """
    try:
        import ray

        importlib.import_module(needs)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{error.name} is not installed; pip install "jaxhash[ray]"'
        ) from None
    if ray.is_initialized():
        yield
        return
    ours = threading.current_thread() is threading.main_thread()
    ours = ours and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    over = threading.Event()
    try:
        if ours:
            signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
            _in_thread(address, over)
            signal.signal(signal.SIGTERM, _end)
        else:
            _start(address)
        yield
    finally:
        ray.shutdown()
        over.set()
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _start(address: str) -> None:
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of no kind of its own where a start takes too long
        raise ConnectionError(f"{address}: no Ray cluster; {error}") from error


def _in_thread(address: str, over: threading.Event) -> None:
    """Start in a thread, where Ray does not take the signal's handler away.

    The thread stays until it is over: Linux ends Ray's processes with the thread that began them.
    """
    errors: list[Exception] = []
    started = threading.Event()

    def start() -> None:
        try:
            _start(address)
        except Exception as error:
            errors.append(error)
        started.set()
        over.wait()

    threading.Thread(target=start, daemon=True).start()
    try:
        started.wait()
    except KeyboardInterrupt:
        started.wait()  # then it can be ended
        raise
    if errors:
        raise errors[0]


def _end(number: int, frame: object) -> NoReturn:
    # Where Ray's C++ calls Python, what is raised is lost: then it ends without more ado.
    last = threading.Timer(LAST_WORDS, os._exit, (128 + number,))
    last.daemon = True
    last.start()
    sys.exit(128 + number)
