"""Options of a command: a dataclass, filled from a file and from the command line."""

import ast
import dataclasses
import inspect
import json
import textwrap
import tomllib
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro


class Option(NamedTuple):
    """One option: its name, type, default (`dataclasses.MISSING` without one) and explanation."""

    name: str
    hint: Any
    default: Any
    doc: str


def of(kind: type) -> Iterator[Option]:
    """The options of a dataclass, with those of nested ones in their place.

    Example:
        >>> @dataclasses.dataclass
        ... class Choice:
        ...     bits: int = 48
        >>> [(option.name, option.default) for option in of(Choice)]
        [('bits', 48)]
    """
    hints, docs = typing.get_type_hints(kind), _docs(kind)
    for field in dataclasses.fields(kind):
        hint, default = hints[field.name], field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        if dataclasses.is_dataclass(hint):
            for option in of(typing.cast(type, hint)):
                if default is not dataclasses.MISSING:
                    option = option._replace(default=getattr(default, option.name))
                yield option
        else:
            yield Option(field.name, hint, default, docs.get(field.name, ""))


def names(kind: type) -> list[str]:
    """The names of a dataclass's options."""
    return [option.name for option in of(kind)]


def _docs(kind: type) -> dict[str, str]:
    """The strings that stand below the fields of a class."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except OSError:  # a class without a source file
        return {}
    assert isinstance(body, ast.ClassDef)
    found = {}
    for one, below in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(one, ast.AnnAssign)
            and isinstance(one.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[one.target.id] = " ".join(below.value.value.split())
    return found


# ---------------------------------------------------------------- the command line


def parse(kind: type, words: Sequence[str], *, prog: str, default: Any = None) -> Any:
    """An instance of the dataclass as the words say; explains itself and exits where they err."""
    return tyro.cli(
        kind,
        prog=prog,
        args=list(words),
        default=tyro.MISSING_NONPROP if default is None else _without_given(default, words),
        config=(tyro.conf.OmitArgPrefixes,),
        add_help=False,
    )


def _without_given(default: Any, words: Sequence[str]) -> Any:
    """The defaults, with empty mappings in place of those that the words give.

    Of a mapping with entries tyro makes an option for each entry, and none for the whole.
    """
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(default):
        value = getattr(default, field.name)
        if dataclasses.is_dataclass(value):
            changed[field.name] = _without_given(value, words)
        elif isinstance(value, Mapping) and value_of(words, field.name) is not None:
            changed[field.name] = {}
    return dataclasses.replace(default, **changed)


def take_out(words: Sequence[str]) -> tuple[list[str], list[Path], bool]:
    """The words without `--config FILE` and `--print-config`, the files, and whether to print.

    Raises:
        ValueError: `--config` stands without a file.

    Example:
        >>> take_out(["--bits", "12", "--config", "best.toml", "--print-config"])
        (['--bits', '12'], [PosixPath('best.toml')], True)
    """
    rest, files, printing = [], [], False
    left = iter(words)
    for word in left:
        if word == "--config":
            file = next(left, None)
            if file is None or file.startswith("--"):
                raise ValueError("--config needs a file of options, TOML or JSON")
            files.append(Path(file))
        elif word.startswith("--config="):
            files.append(Path(word.partition("=")[2]))
        elif word == "--print-config":
            printing = True
        else:
            rest.append(word)
    return rest, files, printing


def spelled(words: Sequence[str], spellings: Mapping[str, str]) -> list[str]:
    """The words with the names of the options in place of other spellings of them.

    Example:
        >>> spelled(["--backbone", "a.onnx", "--backbone=b.onnx"], {"backbone": "network"})
        ['--network', 'a.onnx', '--network=b.onnx']
    """
    found = []
    for word in words:
        option, equals, value = word.partition("=")
        name = spellings.get(option.removeprefix("--")) if option.startswith("--") else None
        found.append(word if name is None else f"--{name}{equals}{value}")
    return found


def value_of(words: Sequence[str], name: str) -> str | None:
    """The value of one option, before the others are parsed.

    Example:
        >>> value_of(["--run", "here", "--batch-size=8"], "batch_size")
        '8'
    """
    found = None
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option.replace("_", "-") == f"--{name}".replace("_", "-"):
            found = value if equals else "".join(words[at + 1 : at + 2])
    return found


# ---------------------------------------------------------------- files of options


def read(path: Path, kind: type) -> dict[str, Any]:
    """The options that a TOML or JSON file gives, by name.

    Names are those of the command line, with dashes or underscores.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is neither, or names an option that does not exist or a value of the wrong
            type.
    """
    from jaxhash.config import check_values
    from jaxhash.runs import read_json

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file of options")
    if path.suffix == ".json":
        values = read_json(path)
    elif path.suffix == ".toml":
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not TOML: {error}") from None
    else:
        raise ValueError(f"{path}: a file of options is named .toml or .json")
    found: dict[str, Any] = {}
    for written, value in values.items():
        name = written.replace("-", "_")
        if name in found:
            raise ValueError(f"{path} gives {name} twice")
        found[name] = value
    check_values(found, {option.name: option.hint for option in of(kind)}, source=str(path))
    return found


def with_values(kind: type, values: Mapping[str, Any], base: Any, *, source: str) -> Any:
    """An instance with the given options; the others from `base`, or the dataclass's defaults.

    Options without either are left for the command line to give.

    Raises:
        ValueError: The dataclass refuses a value; the message names the source.
    """
    hints, made = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if base is not None:
            old = getattr(base, field.name)
        elif field.default is not dataclasses.MISSING:
            old = field.default
        elif field.default_factory is not dataclasses.MISSING:
            old = field.default_factory()
        else:
            old = tyro.MISSING
        if dataclasses.is_dataclass(hint):
            inner = None if old is tyro.MISSING else old
            old = with_values(typing.cast(type, hint), values, inner, source=source)
        elif field.name in values:
            old = _typed(values[field.name], hint)
        made[field.name] = old
    try:
        return kind(**made)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None


def _typed(value: Any, hint: Any) -> Any:
    """A value of a file as the type that the option has."""
    if isinstance(value, list):
        (inner, *_) = typing.get_args(hint) or (None,)
        return tuple(_typed(one, inner) for one in value)
    if isinstance(value, str) and (hint is Path or Path in typing.get_args(hint)):
        return Path(value)
    return value


def to_toml(chosen: Any) -> str:
    """The options as a TOML file; those that are not set (None) are left out.

    Example:
        >>> @dataclasses.dataclass
        ... class Choice:
        ...     bits: int = 48
        ...     network: str | None = None
        ...     pools: tuple[int, ...] = (1, 2)
        >>> print(to_toml(Choice()))
        bits = 48
        pools = [1, 2]
    """
    lines = []
    for field in dataclasses.fields(chosen):
        value = getattr(chosen, field.name)
        if dataclasses.is_dataclass(value):
            lines.append(to_toml(value))
        elif value is not None:
            lines.append(f"{field.name} = {_toml(value)}")
    return "\n".join(lines)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_toml(str(name))} = {_toml(one)}" for name, one in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_toml, value))}]"
    # The escapes of JSON are those of TOML, but for one character.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
