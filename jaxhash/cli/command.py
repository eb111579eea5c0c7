"""What the commands share: options, errors of one line, the cache of compiled programs."""

import gc
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from jaxhash.cli import explain, options

MISTAKES = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
STOPS = (FloatingPointError, ModuleNotFoundError, PermissionError, OSError)


@dataclass(frozen=True)
class Command:
    """A command: what it is called, what can be chosen, and what it does.

    Attributes:
        name: As it is typed: "jaxhash train".
        doc: What `--help` says first: what the command does, how long it takes, an example.
        options: A dataclass with a field for each option, explained by the string below it; fields
            of a nested dataclass are options too.
        act: Called with an instance of it.
        common: Names of the options that most people need, for `--help`; () for all.
        groups: Title -> names of options, for `--help-all`; those left out come last.
        positional: Name of the option that is given without a name, if any.
        default: Called with the words of the command line, gives the options in place of the
            dataclass's own defaults, or None.
        either: Pairs of options that exclude each other: one on the command line takes the place
            of the other in a file.
        spellings: Other names of options on the command line -> those of the dataclass.
    """

    name: str
    doc: str | None
    options: type
    act: Callable[[Any], None]
    common: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    positional: str | None = None
    default: Callable[[Sequence[str]], Any] | None = None
    either: tuple[tuple[str, str], ...] = ()
    spellings: Mapping[str, str] = field(default_factory=dict)


def run(command: Command, words: Sequence[str] | None = None) -> None:
    """Run a command: a mistake of the user's ends it with one line instead of a traceback.

    The exit code is then 1; `stopping.STOPPED` after SIGTERM; `supervising.LOST` where one of
    several processes that work together is gone. With JAXHASH_TRACEBACK=1 in the environment
    the traceback is shown.

    Args:
        command: Which.
        words: Its command line, after its name; that of this process by default.

    Raises:
        SystemExit: With the message, or with 2 for an option that does not exist.
    """
    words = list(sys.argv[1:] if words is None else words)
    if {"-h", "--help", "--help-all"} & set(words):
        try:
            print(explain.text(command, everything="--help-all" in words), flush=True)
        except BrokenPipeError:  # whoever reads has seen enough; Python would flush once more
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    try:
        chosen = parse(command, words)
        if chosen is not None:
            prepare()
            command.act(chosen)
    except KeyboardInterrupt:
        _end(1, "stopped")
    except (*MISTAKES, *STOPS) as error:
        if os.environ.get("JAXHASH_TRACEBACK"):
            _end_group()
            raise
        _end(1, f"{command.name}: {in_words(error, options.names(command.options), _of_train())}")
    except Exception as error:
        known = _ending(error)
        if known is None or os.environ.get("JAXHASH_TRACEBACK"):
            _end_group()
            raise
        _end(known[0], f"{command.name}: {known[1]}")


def _ending(error: Exception) -> tuple[int, str] | None:
    """Exit code and message for what ends a training without a mistake; None for other errors."""
    from jaxhash.supervising import GONE, LOST
    from jaxhash.training.stopping import STOPPED, Stopped

    if isinstance(error, Stopped):
        return STOPPED, in_words(error, ["resume"])
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(error, jax.errors.JaxRuntimeError):
        from jaxhash import processes

        if processes.is_loss(error):
            return LOST, GONE
    return None


def _in_group() -> bool:
    """Whether this is one of several processes that work together."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def _end(code: int, message: str) -> NoReturn:
    """Exit; one of several processes that work together does not wait long for the others."""
    if _in_group():
        from jaxhash import processes

        print(message, file=sys.stderr)
        processes.leave(code)
    if code == 1:
        sys.exit(message)
    print(message, file=sys.stderr)
    sys.exit(code)


def _end_group() -> None:
    """Where one of several processes fails with a traceback, the others must not wait for it."""
    if _in_group():
        from jaxhash import processes

        traceback.print_exc()
        processes.leave(1)


def parse(command: Command, words: Sequence[str]) -> Any:
    """The options of the command line; None where they were only to be printed.

    Those given on the command line win over those of the file that `--config` names.

    Raises:
        ValueError: The file names an option that does not exist, or a value of the wrong type.
        SystemExit: The command line does; it is explained there.
    """
    words = options.spelled(words, command.spellings)
    rest, files, printing = options.take_out(words)
    default = command.default(words) if command.default is not None else None
    for file in files:
        values = options.read(file, command.options)
        for one, other in command.either:
            for given, replaced in ((one, other), (other, one)):
                if options.value_of(rest, given) is not None:
                    values.pop(replaced, None)
        default = options.with_values(command.options, values, default, source=str(file))
    chosen = options.parse(command.options, rest, prog=command.name, default=default)
    if printing:
        print(options.to_toml(chosen))
        return None
    return chosen


def prepare() -> None:
    """Set up memory allocation, the cache of compiled programs and garbage collection.

    Imports leave hundreds of thousands of objects that never become garbage; collecting among them
    again and again took a sixth of the time of a query.
    """
    gc.set_threshold(100_000, 30, 30)
    from jaxhash.training.allocator import keep_memory

    keep_memory()  # before jax starts the threads that would keep to arenas of their own
    use_compilation_cache()


def _of_train() -> dict[str, str]:
    """What to say of an option that is not the command's own, but training's."""
    from jaxhash.cli.train import Train

    return dict.fromkeys(options.names(Train), "jaxhash train")


def in_words(
    error: BaseException,
    names: Sequence[str] = (),
    others: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """An error's message in the words of the command line.

    The library's messages name arguments; those that are options of the command are written as
    options (data_dir becomes --data-dir). Error numbers of the operating system are left out.

    Args:
        error: The error.
        names: Names of the options.
        others: Names of options of other commands -> the command to name with them.

    Example:
        >>> in_words(FileNotFoundError(2, "No such file or directory", "a.index"))
        'a.index: no such file or directory'
        >>> in_words(ValueError("continue with resume=True, or set shift=False"), ["resume"])
        'continue with --resume, or set shift=False'
        >>> in_words(ValueError("give data_dir=FOLDER"), ["data_dir"])
        'give --data-dir FOLDER'
        >>> in_words(ValueError("batch_size is 0; lower 'batch_size'"), ["batch_size"])
        "--batch-size is 0; lower 'batch_size'"
        >>> in_words(ValueError("go on (resume=True) first"), [], {"resume": "jaxhash train"})
        'go on (jaxhash train --resume) first'
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}"

    def option(found: re.Match[str]) -> str:
        name, value = found.groups()
        if name not in names and name not in others:
            return found.group()
        if value.isdigit() and "_" not in name:  # it may be what was typed, such as a filter
            return found.group()
        begin = "--" if name in names else f"{others[name]} --"
        dashed = name.replace("_", "-")
        if value in ("True", "False"):
            return f"{begin}{'' if value == 'True' else 'no-'}{dashed}"
        return f"{begin}{dashed} {value}"

    def bare(found: re.Match[str]) -> str:
        name = found.group()
        return f"--{name.replace('_', '-')}" if name in names else name

    text = re.sub(r"\b([a-z_]+)=(True|False|[A-Z]+|\d+)\b", option, str(error))
    # Not what is quoted, or part of a path.
    return re.sub(r"(?<![\w/.'\"-])[a-z]+(?:_[a-z\d]+)+(?![\w/.'\"=-])", bare, text)


def use_compilation_cache() -> None:
    """Keep compiled programs between runs, in the user's cache folder unless jax has another."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "jaxhash" / "compiled"))
