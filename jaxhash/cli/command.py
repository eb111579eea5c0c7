"""What the scripts share: options from a dataclass, one line for a user's mistake, a cache."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import jax
import tyro

from jaxhash.training.allocator import keep_memory

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

    With JAXHASH_TRACEBACK=1 in the environment the traceback is shown.
    """
    keep_memory()  # before jax starts the threads that would keep to arenas of their own
    use_compilation_cache()
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
    except (*MISTAKES, *STOPS) as error:
        if os.environ.get("JAXHASH_TRACEBACK"):
            raise
        sys.exit(f"{Path(sys.argv[0]).name}: {in_words(error)}")


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
