"""Filters: an expression over paths and columns, evaluated by SQLite.

An expression is what SQL allows after WHERE, about

    path      of the image file, from the folder that the index was made of: '2024/beach/1.jpg'
    folder    of that file: '2024/beach', '' for the folder itself
    label     the class, where it is known
    ...       the columns that came with the images, by their names

for example `year >= 2020 and folder == 'beach'`, `folder like '2024/%'`, `"shot by" is null`,
`place in ('Kiel', 'Rom') or stars between 3 and 5`. Text stands in single quotes, the name of a
column with spaces in double ones. A value that is missing is null, of which no comparison is true.

The table lies in memory and the expression can only look at it: it reads no files, changes
nothing, and calls no functions but those in `FUNCTIONS`.
"""

import difflib
import re
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_ALLOWED = "abs coalesce glob ifnull instr length like lower max min round upper"
FUNCTIONS = frozenset(_ALLOWED.split())
"""What an expression may call."""

_LONGEST = 10_000  # characters of an expression, and bytes of a text that it makes
_STEPS = 2_000  # of SQLite's machine for an item, at most; a comparison takes about ten
_TABLE = "items"


class Table:
    """Columns of items, on which expressions are evaluated, by any number of threads at once.

    Args:
        columns: values by name, of text, numbers or None, one for each item.
        count: number of items.

    Example:
        >>> table = Table({"year": [2019, 2021, None], "folder": ["a", "b", "b"]}, 3)
        >>> table.select("year >= 2020 and folder == 'b'", np.arange(3))
        array([False,  True, False])
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]], count: int) -> None:
        self.names = list(columns)
        self.count = count
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            ":memory:", check_same_thread=False, isolation_level=None, cached_statements=0
        )
        rows = zip(*([_plain(one) for one in values] for values in columns.values()), strict=True)
        made = ", ".join(['"id" INTEGER PRIMARY KEY', *(_quoted(name) for name in self.names)])
        marks = ", ".join("?" * (len(self.names) + 1))
        self._database.execute(f"CREATE TABLE {_TABLE} ({made})")
        self._database.execute("BEGIN")
        self._database.executemany(
            f"INSERT INTO {_TABLE} VALUES ({marks})",
            ((item, *row) for item, row in enumerate(rows)),
        )
        self._database.execute("COMMIT")
        self._database.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, _LONGEST + 100)
        self._database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1_000_000)
        self._database.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 200)
        self._database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)

    def __del__(self) -> None:
        self._database.close()

    def select(self, expression: str, ids: np.ndarray) -> np.ndarray:
        """Of which ids it is true: bool (n,) for int64 (n,); of unknown ones it is not.

        Raises:
            ValueError: it is no expression, or asks for more than it may.
        """
        if not isinstance(expression, str):
            raise TypeError(f"where: an expression is text, not {type(expression).__name__}")
        if not expression.strip() or len(expression) > _LONGEST:
            raise ValueError(f"where: give an expression of 1 to {_LONGEST:,} characters")
        wanted = np.zeros(self.count, bool)
        with self._lock:
            wanted[self._ask(expression)] = True
        known = (ids >= 0) & (ids < self.count)
        chosen = np.zeros(len(ids), bool)
        chosen[known] = wanted[ids[known]]
        return chosen

    def _ask(self, expression: str) -> list[int]:
        selects = 0

        def may(action: int, first: str | None, second: str | None, *_: str | None) -> int:
            nonlocal selects
            if action == sqlite3.SQLITE_SELECT:
                selects += 1
                allowed = selects == 1  # the one around the expression
            elif action == sqlite3.SQLITE_FUNCTION:
                allowed = str(second).lower() in FUNCTIONS
            else:
                allowed = action == sqlite3.SQLITE_READ and first == _TABLE
            return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

        stops = iter([False] * (self.count * _STEPS // 100_000 + 1))
        self._database.set_authorizer(may)
        self._database.set_progress_handler(lambda: next(stops, True), 100_000)
        try:
            # A newline ends a comment that the expression may hold.
            asked = f"SELECT id FROM {_TABLE} WHERE (\n{expression}\n)"
            return [row for (row,) in self._database.execute(asked)]
        except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError) as error:
            raise ValueError(f"where: {expression!r}: {self._in_words(error)}") from None
        finally:
            self._database.set_authorizer(None)
            self._database.set_progress_handler(None, 0)

    def _in_words(self, error: Exception) -> str:
        text = str(error)
        if "not authorized" in text or "prohibited" in text:
            return (
                "only columns, comparisons and the functions "
                f"{', '.join(sorted(FUNCTIONS))} are allowed"
            )
        if missing := re.match(r"no such column: (.*)", text):
            name = missing[1].strip("\"'[]")
            near = difflib.get_close_matches(name, self.names, n=1)
            meant = f"did you mean {near[0]}?" if near else "text stands in single quotes;"
            return f"no column {name}; {meant} there are {', '.join(self.names)}"
        if "interrupted" in text:
            return "it takes too long"
        return f"{text}; write such as year >= 2020 and folder == 'beach'"


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _plain(value: Any) -> Any:
    """A value as SQLite takes it: without the lone surrogates of bytes that are not UTF-8."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value
