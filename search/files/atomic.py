"""A file that appears whole or not at all."""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_DISK = {getattr(errno, name, None) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO")} - {None}


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A binary file that takes the place of `path` when the block ends without an exception.

    It is written in the same folder, synced to the disk, renamed over `path`, and the folder is
    synced too; whatever fails or dies before that leaves the old file as it was. Where the system
    can (Linux, `O_TMPFILE`) the file has no name until it is complete, so that even a killed
    process leaves nothing behind. An existing file's permissions are kept; a symbolic link is
    followed.

    Raises:
        IsADirectoryError, FileNotFoundError: before anything is written, for a `path` that is a
            folder or lies in no folder.
        OSError: when the disk is full or cannot be written.

    Example:
        >>> with replacing("notes.bin") as file:  # doctest: +SKIP
        ...     _ = file.write(b"whole or not at all")
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"path {os.fspath(path)!r} is a folder; name a file inside it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"path: the folder {str(target.parent)!r} does not exist")
    temporary = target.parent / f".{target.name[:80]}.{secrets.token_hex(6)}.tmp"
    descriptor, named = _create(temporary)
    try:
        with _naming(path), os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            if hasattr(os, "fchmod"):  # Windows has no permissions of this kind
                with contextlib.suppress(FileNotFoundError):
                    os.fchmod(file.fileno(), stat.S_IMODE(target.stat().st_mode))
            os.fsync(file.fileno())
            if not named:
                named = True
                _give_name(file, temporary)
        os.replace(temporary, target)
        named = False
        _sync_folder(target.parent)
    finally:
        if named:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[BinaryIO]:
    """A binary file in `folder` without a name where the system can; gone when the block ends."""
    temporary = folder / f".scratch.{secrets.token_hex(6)}.tmp"
    descriptor, named = _create(temporary)
    try:
        if named:
            # An open file lives on without its name, except on Windows, which refuses.
            with contextlib.suppress(OSError):
                temporary.unlink()
                named = False
        with _naming(folder), os.fdopen(descriptor, "w+b") as file:
            yield file
    finally:
        if named:
            temporary.unlink()


@contextlib.contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of a disk that is full or broken, which name no file, name this one."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK and error.filename is None:
            error.filename = os.fspath(path)
        raise


def _create(temporary: Path) -> tuple[int, bool]:
    """Open a new file for reading and writing: its descriptor, and whether it has a name."""
    if hasattr(os, "O_TMPFILE") and Path("/proc/self/fd").is_dir():
        # A file system without support answers with one of several errors: all mean "by name".
        with contextlib.suppress(OSError):
            return os.open(temporary.parent, os.O_TMPFILE | os.O_RDWR, 0o666), False
    flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
    for name in ("O_CLOEXEC", "O_BINARY"):  # the latter on Windows: bytes as they are
        flags |= getattr(os, name, 0)
    return os.open(temporary, flags, 0o666), True


def _give_name(file: BinaryIO, temporary: Path) -> None:
    """Link an unnamed file into its folder; copy it where linking is not allowed."""
    folder = os.open(temporary.parent, os.O_RDONLY)
    try:
        # With a folder descriptor Python calls linkat, the one that follows /proc's link.
        os.link(f"/proc/self/fd/{file.fileno()}", temporary.name, dst_dir_fd=folder)
    except OSError:
        file.seek(0)
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as copy:
            shutil.copyfileobj(file, copy, 1 << 20)
            copy.flush()
            os.fsync(copy.fileno())
    finally:
        os.close(folder)


def _sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where folders can be opened and synced."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows, or a folder that one may write to and not list
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
