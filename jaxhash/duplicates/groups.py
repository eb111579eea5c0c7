"""Pairs joined to groups, and what is to be said of each picture in them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.sparse import coo_array, csgraph

from jaxhash.duplicates import files
from jaxhash.duplicates.pairs import Pairs


class Picture(NamedTuple):
    """A picture of a group.

    id: of the item. path: of its file, None where it has none. similarity: the cosine of its
    features and those of the most alike of the group. how: "first" of the group, "exact" copy of
    an earlier file of it, "mirrored" against the first, or "alike". width, height: in pixels, and
    size: in bytes, of the file; None where it cannot be read.
    """

    id: int
    path: str | None
    similarity: float
    how: str
    width: int | None
    height: int | None
    size: int | None


@dataclass(frozen=True)
class Group:
    """Copies of one picture, the largest first.

    Example:
        >>> group = index.duplicates()[0]  # doctest: +SKIP
        >>> group.paths  # doctest: +SKIP
        ['photos/beach.jpg', 'photos/small/beach.jpg']
    """

    pictures: tuple[Picture, ...]

    @property
    def ids(self) -> list[int]:
        """The ids of its items."""
        return [one.id for one in self.pictures]

    @property
    def paths(self) -> list[str | None]:
        """Their files."""
        return [one.path for one in self.pictures]

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self.pictures)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {"pictures": [one._asdict() for one in self.pictures]}


def join(pairs: Pairs, paths: Mapping[int, str | None]) -> list[Group]:
    """Join pairs that share an item; larger groups first, then by their smallest id.

    Args:
        pairs: from `pairs.find`.
        paths: the file of each item in them.

    Example:
        >>> one = Pairs(np.array([3]), np.array([5]), np.ones(1, np.float32))
        >>> join(one, {3: None, 5: None})[0].ids
        [3, 5]
    """
    ids, ends = np.unique(np.concatenate(pairs[:2]), return_inverse=True)
    left, right = ends.reshape(2, -1)
    closest = np.zeros(len(ids), np.float32)
    np.maximum.at(closest, left, pairs.similarity)
    np.maximum.at(closest, right, pairs.similarity)
    graph = coo_array((np.ones(len(left), bool), (left, right)), (len(ids), len(ids)))
    _, group_of = csgraph.connected_components(graph, directed=False)
    by_group = np.argsort(group_of, kind="stable")
    groups = []
    for members in np.split(by_group, np.flatnonzero(np.diff(group_of[by_group])) + 1):
        alike = dict(zip(ids[members].tolist(), closest[members].tolist(), strict=True))
        groups.append(_group(alike, paths))
    return sorted(groups, key=lambda group: (-len(group), min(group.ids)))


def _group(alike: dict[int, float], paths: Mapping[int, str | None]) -> Group:
    """The group of some items, with the similarity of each to its nearest."""
    heads = {item: files.head(paths[item]) for item in alike}
    order = sorted(alike, key=lambda item: (-heads[item].pixels, -(heads[item].size or 0), item))
    named = [paths[item] for item in order]
    # A file that is no picture is no copy, whatever its bytes.
    exact = files.exact([None if heads[item].size is None else paths[item] for item in order])
    mirrored = files.mirrored(named)
    pictures = []
    for place, item in enumerate(order):
        how = "exact" if exact[place] else "mirrored" if mirrored[place] else "alike"
        how = how if place else "first"
        pictures.append(Picture(item, named[place], round(alike[item], 4), how, *heads[item]))
    return Group(tuple(pictures))
