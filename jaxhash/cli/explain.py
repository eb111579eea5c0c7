"""What `--help` and `--help-all` print."""

import dataclasses
import re
import shutil
import textwrap
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxhash.cli import options
from jaxhash.cli.options import Option

if TYPE_CHECKING:
    from jaxhash.cli.command import Command

WIDTH, LEFT = 100, 27

SHARED = (
    ("--config FILE", "Read options from a TOML or JSON file; the command line overrides them."),
    ("--print-config", "Print the options as such a TOML file, and do nothing else."),
)


def text(command: "Command", *, everything: bool = False) -> str:
    """The help of a command: one screen, or everything.

    Args:
        command: Which.
        everything: All options, in groups and in full; else those that most people need, in a
            sentence each.
    """
    there = {option.name: option for option in options.of(command.options)}
    common = command.common or tuple(there)
    first = f"{command.positional.upper()} ... " if command.positional else ""
    lines = [f"usage: {command.name} {first}[OPTIONS]", ""]
    lines += (command.doc or "").strip().splitlines()
    if not everything:
        short = [_row(there[name], command, short=True) for name in common]
        short += [("--config FILE", SHARED[0][1])]
        if set(common) != set(there):
            short += [("--help-all", "Show all options, in groups.")]
        return "\n".join([*lines, "", "options:", *_table(short)])
    grouped = {name for group in command.groups.values() for name in group}
    groups = {title: names for title, names in command.groups.items() if names}
    groups["other" if groups else "options"] = tuple(n for n in there if n not in grouped)
    for title, names in groups.items():
        rows = [_row(there[name], command) for name in names]
        lines += ["", f"{title}:", *_table(rows)] if rows else []
    lines += ["", "files of options:", *_table(list(SHARED))]
    if any(option.hint is bool for option in there.values()):
        lines += ["", "Every switch --x has a --no-x, to undo what a file or a run has set."]
    return "\n".join(lines)


def _row(option: Option, command: "Command", *, short: bool = False) -> tuple[str, str]:
    """An option and what it means."""
    doc, default = option.doc, option.default
    if short and len(doc) > WIDTH - LEFT:
        doc = re.split(r"(?<=[^.]\.) (?=[A-Z])", doc, maxsplit=1)[0]
    if default is dataclasses.MISSING:
        doc += " Required."
    elif default not in (None, False, "", ()) and default != {} and "Default:" not in doc:
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
        doc += f" Default: {shown}." if not short or len(shown) < 20 else ""
    if option.name == command.positional:
        return f"{option.name.upper()} ...", doc.strip()
    dashes = "-" if len(option.name) == 1 else "--"
    return f"{dashes}{option.name.replace('_', '-')} {_values(option.hint)}".strip(), doc.strip()


def _values(hint: Any) -> str:
    """What is written after an option."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is bool:
        return ""
    if origin is typing.Literal:
        return "|".join(map(str, arguments))
    if origin in (types.UnionType, typing.Union):
        kept = [one for one in arguments if one is not type(None)]
        return "|".join("True|False" if one is bool else _values(one) for one in kept)
    if origin is tuple:
        return f"{_values(arguments[0])} ..."
    if origin is dict:
        return "NAME VALUE ..."
    return {str: "TEXT", int: "INT", float: "FLOAT", Path: "PATH"}.get(hint, "VALUE")


def _table(rows: list[tuple[str, str]]) -> list[str]:
    width = min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH)
    lines = []
    for option, meaning in rows:
        first = f"  {option:{LEFT - 3}} "
        wrapped = textwrap.wrap(meaning, max(width - LEFT, 30)) or [""]
        if len(first) > LEFT:
            lines.append(f"  {option}")
            first = " " * LEFT
        lines += [first + wrapped[0], *(" " * LEFT + line for line in wrapped[1:])]
    return [line.rstrip() for line in lines]
