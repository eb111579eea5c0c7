"""One writer at a time: a lock on a file, held until the block or the process ends."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

_CANNOT = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


class Locked(OSError):
    """Another process, or another part of this one, is writing the file."""


@contextlib.contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[None]:
    """Be the only one that writes `path`, among all that use this lock.

    The lock is the system's own on a file `.NAME.lock` beside it, so that it ends with the process,
    however that ends. The file is removed with the block; a killed process leaves it behind,
    without harm. On file systems that have no locks nothing is held.

    Args:
        path: the file to be written, which need not exist.

    Raises:
        Locked: somebody else holds it.
        OSError: the lock's file cannot be made.

    Example:
        >>> with alone("photos.index"):  # doctest: +SKIP
        ...     index.save("photos.index")
    """
    target = Path(os.path.realpath(path))
    lock = target.parent / f".{target.name[:200]}.lock"
    descriptor = _acquire(lock, os.fspath(path))
    try:
        yield
    finally:
        if os.name != "nt":  # Windows removes no open file: there it stays
            with contextlib.suppress(OSError):
                lock.unlink()
        os.close(descriptor)


def _acquire(lock: Path, name: str) -> int:
    """The open and locked file of a lock."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            _lock(descriptor, name)
            # Its holder may have removed the file between the opening and the locking.
            if os.name == "nt" or _is_there(descriptor, lock):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_there(descriptor: int, lock: Path) -> bool:
    """Whether a name still stands for the file that was opened by it."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(lock))
    except FileNotFoundError:
        return False


def _lock(descriptor: int, name: str) -> None:
    """Take the system's lock, or say who is in the way."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _CANNOT:
            return
        raise Locked(
            f"{name} is being written by another process; wait until it ends, or stop it"
        ) from None
