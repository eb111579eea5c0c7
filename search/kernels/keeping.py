"""Compiled kernels kept on disk, so that a damaged file or a full disk costs time and no search.

numba's own cache raises at the first call of a kernel whose file was emptied or cannot be written,
runs a garbled one, and does not notice when a module changed that a kernel takes functions from.
"""

import contextlib
import functools
import hashlib
import logging
import os
import pickle
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core.caching import FunctionCache, NullCache
from numba.core.serialize import dumps

_log = logging.getLogger("search")
_said: set[str] = set()


def cache_for(function: Callable[..., Any]) -> FunctionCache | NullCache:
    """The cache that numba shall use for a kernel: in the folder that it would take itself."""
    try:
        return _Cache(function)
    except (RuntimeError, OSError):  # it found no folder that can be written
        return _NoCache()


class _Cache(FunctionCache):
    """numba's cache with other files, that says what failed instead of raising it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = numba.__version__, llvmlite.__version__, self._impl.locator.get_source_stamp()
        folder = Path(self.cache_path)
        own = Path(function.__code__.co_filename).parent
        self._cache_file: Any = _Files(folder, self._impl.filename_base, (*stamp, _sources(own)))

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled kernel; None where there is none, or none that is whole."""
        try:
            return super().load_overload(sig, target_context)
        except Exception as failure:  # no matter what: it can be compiled
            _say(
                "a compiled kernel cannot be read from disk (%s). It is compiled again, "
                "which takes some seconds, and the file replaced.",
                failure,
            )
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled kernel, where that is possible."""
        try:
            super().save_overload(sig, data)
        except Exception as failure:  # no matter what: it is compiled
            _say(
                "a compiled kernel cannot be kept in %s (%s). Every process will compile "
                "for some seconds: make room there, or set NUMBA_CACHE_DIR to another folder.",
                self.cache_path,
                failure,
            )


class _NoCache(NullCache):
    """Says, before the first kernel is compiled, that it will be so in every process."""

    def load_overload(self, sig: Any, target_context: Any) -> None:
        """None: nothing is kept on disk."""
        _say(
            "compiling the kernels, which takes some seconds in every process as they can "
            "be kept neither beside the package nor in the home folder: set NUMBA_CACHE_DIR to "
            "a folder that can be written."
        )


class _Files:
    """A file for every signature of a kernel, with a checksum before what is unpickled."""

    def __init__(self, folder: Path, name: str, stamp: tuple[Any, ...]) -> None:
        self._folder, self._name = folder, name
        self._stamp = stamp

    def _path(self, key: Any) -> Path:
        signature, target, _ = key  # the last is about the source: a newer one takes the place
        digest = hashlib.sha256(repr((signature, target)).encode()).hexdigest()
        return self._folder / f"{self._name}.{digest[:16]}.nbc"

    def load(self, key: Any) -> Any:
        """What was saved for a key; None where nothing was, or by another version."""
        path = self._path(key)
        try:
            whole = path.read_bytes()
        except FileNotFoundError:
            return None
        if len(whole) < 4 or zlib.crc32(whole[4:]) != int.from_bytes(whole[:4], "little"):
            raise ValueError(f"{path} is damaged")
        owner, data = pickle.loads(whole[4:])
        return data if owner == (self._stamp, key) else None

    def save(self, key: Any, data: Any) -> None:
        """Write a file, which appears whole or not at all."""
        body = dumps(((self._stamp, key), data))
        handle, scratch = tempfile.mkstemp(dir=self._folder, prefix=self._name, suffix=".tmp")
        try:
            with open(handle, "wb") as file:
                file.write(zlib.crc32(body).to_bytes(4, "little") + body)
            os.replace(scratch, self._path(key))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
            raise

    def flush(self) -> None:
        """Nothing: a file that is out of date is replaced."""


@functools.cache
def _sources(folder: Path) -> str:
    """A digest of all modules of a kernel's folder and of this one, of which it takes functions."""
    digest = hashlib.sha256()
    for place in (folder, Path(__file__).parent):
        for path in sorted(place.glob("*.py")):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _say(problem: str, *details: object) -> None:
    """Log a warning, each kind once in a process: most often all the kernels have the same."""
    if problem not in _said:
        _said.add(problem)
        _log.warning(problem, *details)
