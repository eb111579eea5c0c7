"""Pairs joined to groups, and what is to be said of each picture in them."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from scipy.sparse import coo_array, csgraph

from jaxhash.duplicates.pairs import Pairs


class Picture(NamedTuple):
    """A picture of a group.

    id: of the item. path: of its file, None where it has none. similarity: the cosine of its
    features and those of the most alike of the group. how: "first" of the group, "exact" copy of
    another file in it, "mirrored" against the first, or "alike". width, height: in pixels, and
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


class _File(NamedTuple):
    width: int | None
    height: int | None
    size: int | None


def join(pairs: Pairs, paths: dict[int, str | None]) -> list[Group]:
    """Join pairs that share an item; larger groups first, then by their smallest id.

    Args:
        pairs: from `pairs.find`.
        paths: the file of each item in them.

    Example:
        >>> one = Pairs(np.array([3]), np.array([5]), np.ones(1, np.float32), np.zeros(1, bool))
        >>> join(one, {3: None, 5: None})[0].ids
        [3, 5]
    """
    ids, ends = np.unique(np.concatenate(pairs[:2]), return_inverse=True)
    left, right = ends.reshape(2, -1)
    shape = (len(ids), len(ids))
    # Weights of a tree that goes by the most alike; none may be 0.
    graph = coo_array((2 - pairs.similarity, (left, right)), shape).tocsr()
    mirrored = coo_array((pairs.mirrored, (left, right)), shape).tocsr()
    mirrored = mirrored + mirrored.T
    closest = np.zeros(len(ids), np.float32)
    np.maximum.at(closest, left, pairs.similarity)
    np.maximum.at(closest, right, pairs.similarity)
    _, group_of = csgraph.connected_components(graph, directed=False)
    tree = csgraph.minimum_spanning_tree(graph)
    groups = []
    by_group = np.argsort(group_of, kind="stable")
    for members in np.split(by_group, np.flatnonzero(np.diff(group_of[by_group])) + 1):
        files = {at: _file(paths[int(ids[at])]) for at in members.tolist()}
        order = sorted(files, key=lambda at: (-_pixels(files[at]), -(files[at].size or 0), at))
        named = [paths[int(ids[at])] for at in order]
        exact = _exact(named, [files[at].size for at in order])
        flipped = _flipped(tree, mirrored, order[0])
        how = ["mirrored" if flipped[at] else "alike" for at in order]
        for place in exact:
            how[place] = "exact"
        how[0] = "first"
        groups.append(
            Group(
                tuple(
                    Picture(int(ids[at]), path, round(float(closest[at]), 4), word, *files[at])
                    for at, path, word in zip(order, named, how, strict=True)
                )
            )
        )
    return sorted(groups, key=lambda group: (-len(group), min(group.ids)))


def _flipped(tree: Any, mirrored: Any, first: int) -> dict[int, bool]:
    """Whether each item of a group is mirrored against the first, along the tree."""
    order, before = csgraph.breadth_first_order(tree, first, directed=False)
    flipped = {first: False}
    for at in order[1:].tolist():
        flipped[at] = flipped[int(before[at])] ^ bool(mirrored[at, before[at]])
    return flipped


def _file(path: str | None) -> _File:
    """What the head of a file says; nothing where it cannot be read."""
    if path is None:
        return _File(None, None, None)
    try:
        size = os.stat(path).st_size
        with Image.open(path) as image:
            return _File(*image.size, size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return _File(None, None, None)


def _pixels(file: _File) -> int:
    return (file.width or 0) * (file.height or 0)


def _exact(paths: Sequence[str | None], sizes: Sequence[int | None]) -> set[int]:
    """Places of the files that are byte for byte an earlier one."""
    copies: set[int] = set()
    seen: set[tuple[int, bytes]] = set()
    for place, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        if path is None or size is None or sizes.count(size) == 1:
            continue
        try:
            with open(path, "rb") as file:
                key = size, hashlib.file_digest(file, "sha256").digest()
        except OSError:
            continue
        if key in seen:
            copies.add(place)
        seen.add(key)
    return copies
