"""Pickles in files of others: nothing in them runs, and they cannot ask for more than they hold.

Python's own unpickler trusts a pickle twice: it calls what the pickle names, and it reserves room
for the place in its table that the pickle asks for, 8 bytes a place whatever the file's size.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any

MOST_OPCODES = 1 << 22
"""A pickle of more steps is refused; the largest published state dicts take under a million."""

_PUTS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})

FindClass = Callable[[str, str], Any]
"""What stands for a name, by module and name; it raises for every name that is not wanted."""


Source = Any  # io.BytesIO | mmap.mmap, which is no IO to a type checker
"""What a pickle is read from: both hand out no more bytes than there are."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that resolves every name and every reference by the given functions."""

    def __init__(
        self,
        content: bytes,
        find_class: FindClass,
        refer: Callable[[Any], Any] | None,
        **options: Any,
    ) -> None:
        super().__init__(io.BytesIO(content), **options)
        self._find_class, self._refer = find_class, refer

    def find_class(self, module: str, name: str) -> Any:
        return self._find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        if self._refer is None:
            raise pickle.UnpicklingError("it refers to something outside of itself")
        return self._refer(pid)


def load(
    source: Source,
    find_class: FindClass,
    *,
    refer: Callable[[Any], Any] | None = None,
    encoding: str = "ASCII",
) -> Any:
    """Unpickle the one pickle that begins where `source` stands, and leave it behind its end.

    Args:
        source: a `BytesIO` or an `mmap`.
        find_class: gives what a name of the pickle stands for, or raises.
        refer: gives what a persistent id stands for; none is allowed when left out.
        encoding: of the 8-bit strings of Python 2, as for `pickle.load`.

    Raises:
        ValueError: the pickle is cut short, no pickle, or asks for more than it could need.
        Exception: what `find_class` and `refer` raise, and nearly anything else that a damaged
            pickle can make Python's unpickler raise.

    Example:
        >>> load(io.BytesIO(pickle.dumps({"a": [1, 2]})), find_class=lambda module, name: None)
        {'a': [1, 2]}
    """
    start = source.tell()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(source)):
        if number >= MOST_OPCODES:
            raise ValueError(f"a pickle of more than {MOST_OPCODES:,} steps")
        # Whoever writes a pickle numbers what it remembers from 0 or 1 up, one step each.
        if opcode.name in _PUTS and argument is not None and not 0 <= argument <= number:
            raise ValueError(f"its step {number} asks for place {argument} of a table")
    end = source.tell()
    source.seek(start)
    return _Unpickler(source.read(end - start), find_class, refer, encoding=encoding).load()
