"""What queries find: results with their files, classes and columns, as values, CSV and JSON."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from jaxhash.items.records import ItemRecords, Value
from search.files.atomic import replacing


class Hit(NamedTuple):
    """One result of a query.

    id: of the item in the index. distance: Hamming (int) or Euclidean (float). path: of the image
    file, None where the index was not made from files. label: the class that its data
    or the name of its folder says, None if unknown. columns: its values in the columns that the
    index keeps, by name.
    """

    id: int
    distance: float
    path: str | None
    label: str | None
    columns: Mapping[str, Value] = MappingProxyType({})


@dataclass(frozen=True)
class Found:
    """What an index found for one query, nearest first.

    Example:
        >>> found = index.query("beach.jpg", k=10, pool=200)  # doctest: +SKIP
        >>> found.paths[0], found.distances[0], found.labels[0]  # doctest: +SKIP
        ('photos/beach/17.jpg', 0.31, 'beach')
    """

    query: str
    hits: tuple[Hit, ...]

    @property
    def ids(self) -> list[int]:
        """The ids of the results."""
        return [hit.id for hit in self.hits]

    @property
    def distances(self) -> list[float]:
        """Their distances: Hamming as whole numbers, or Euclidean where features were compared."""
        return [hit.distance for hit in self.hits]

    @property
    def paths(self) -> list[str | None]:
        """Their files."""
        return [hit.path for hit in self.hits]

    @property
    def labels(self) -> list[str | None]:
        """The names of their classes."""
        return [hit.label for hit in self.hits]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def to_dict(self) -> dict[str, Any]:
        """The query and its results as plain values, ready for JSON."""
        results = []
        for hit in self.hits:
            values = hit._asdict()
            columns = dict(values.pop("columns"))
            results.append(values | {"columns": columns} if columns else values)
        return {"query": self.query, "results": results}

    def to_csv(self, path: str | os.PathLike[str] | None = None) -> str:
        """The results as CSV text with a line of names.

        Args:
            path: file to write the text to as well; none by default.

        Returns:
            The text.

        Raises:
            OSError: the file cannot be written.

        Example:
            >>> found.to_csv("found.csv")  # doctest: +SKIP
        """
        text = io.StringIO(newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerows(rows([self]))
        if path is not None:
            with replacing(path) as file:
                file.write(text.getvalue().encode("utf-8", "surrogateescape"))
        return text.getvalue()


def rows(found: Sequence[Found]) -> list[list[Any]]:
    """The results of queries as lines of one table, names first.

    Example:
        >>> rows([Found("cat.jpg", (Hit(7, 3, "photos/tom.jpg", "cat", {"year": 2021}),))])
        [['query', 'rank', 'id', 'distance', 'path', 'label', 'year'], \
['cat.jpg', 1, 7, 3, 'photos/tom.jpg', 'cat', 2021]]
    """
    names = list(dict.fromkeys(name for one in found for hit in one for name in hit.columns))
    lines: list[list[Any]] = [["query", "rank", *Hit._fields[:4], *names]]
    for one in found:
        for rank, hit in enumerate(one, 1):
            values = (*hit[:4], *(hit.columns.get(name) for name in names))
            lines.append([one.query, rank, *("" if value is None else value for value in values)])
    return lines


def hits(items: ItemRecords, distances: np.ndarray, ids: np.ndarray) -> tuple[Hit, ...]:
    """The results of one query, with what is known of them."""
    known = ids[ids >= 0].tolist()
    return tuple(
        map(
            Hit,
            known,
            distances[: len(known)].tolist(),
            [items.path(item) for item in known],
            items.class_names(known),
            items.values(known),
        )
    )
