"""What the scripts share: options from a dataclass, one line for a user's mistake, a cache."""

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
import tyro

from jaxhash import processes
from jaxhash.allocator import keep_memory
from jaxhash.stopping import STOPPED, Stopped
from jaxhash.supervising import GONE, LOST

Options = TypeVar("Options")

MISTAKES = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
STOPS = (FloatingPointError, ModuleNotFoundError, PermissionError, OSError)


def parse(options: type[Options], doc: str | None, default: Options | None = None) -> Options:
    """The options of the command line; explains itself and exits where they are wrong."""
    return tyro.cli(
        options,
        description=doc,
        default=tyro.MISSING_NONPROP if default is None else default,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )


def run(main: Callable[[], None]) -> None:
    """Run a script: a mistake of the user's ends it with one line instead of a traceback.

    The exit code is then 1; `stopping.STOPPED` after SIGTERM; `supervising.LOST` where one of
    several processes that train together is gone. With JAXHASH_TRACEBACK=1 in the environment
    the traceback is shown.
    """
    keep_memory()  # before jax starts the threads that would keep to arenas of their own
    use_compilation_cache()
    try:
        main()
    except KeyboardInterrupt:
        _end(1, "stopped")
    except Stopped as stop:
        _end(STOPPED, str(stop))
    except (*MISTAKES, *STOPS) as error:
        if os.environ.get("JAXHASH_TRACEBACK"):
            _end_group()
            raise
        _end(1, f"{Path(sys.argv[0]).name}: {in_words(error)}")
    except jax.errors.JaxRuntimeError as error:
        if os.environ.get("JAXHASH_TRACEBACK") or not processes.is_loss(error):
            _end_group()
            raise
        _end(LOST, f"{Path(sys.argv[0]).name}: {GONE}")
    except Exception:
        _end_group()
        raise


def _end(code: int, message: str) -> NoReturn:
    """Exit; a process of several does not wait long for the others."""
    if jax.distributed.is_initialized():
        print(message, file=sys.stderr)
        processes.leave(code)
    if code == 1:
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.exit(code)


def _end_group() -> None:
    """Where one of several processes fails with a traceback, the others must not wait for it."""
    if jax.distributed.is_initialized():
        traceback.print_exc()
        processes.leave(1)


def in_words(error: BaseException) -> str:
    """An error's message; the system's own without its number.

    Example:
        >>> in_words(FileNotFoundError(2, "No such file or directory", "a.index"))
        'a.index: no such file or directory'
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error)


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in the user's cache folder unless jax has another."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "jaxhash" / "compiled"))
