"""`ItemRecords`: the file, class and columns of each item of an index, kept in its attachments.

Everything is by id, so that an item keeps its place while others come and go:

    jaxhash   JSON: the model that made the codes, the data, its classes, the folder ("root")
    paths     JSON list of paths, relative to the folder where they lie in it; null without a file
    labels    int32 class numbers, -1 without one; absent without classes
    files     `items.files.STATE` (n,): size, time and digest of each file
    columns   JSON: name -> list of values
    left_out  JSON list of [path, size, time, reason]: files that could not be decoded
"""

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from jaxhash import data as sources
from jaxhash.data.listing import shown
from jaxhash.items.files import STATE, Stat
from jaxhash.items.where import Table
from search import HashIndex

CARD, PATHS, LABELS = "jaxhash", "paths", "labels"
FILES, COLUMNS, LEFT_OUT = "files", "columns", "left_out"

Value = str | int | float | None


class ItemRecords:
    """The pictures, class names, titles and columns of an index's items, as far as it knows them.

    Args:
        index: the index; what it knows is in its attachments.
        root: folder that the paths begin at; where the index was made from by default.
        classes: names of folders that are classes, for items without a label.

    Example:
        >>> items = ItemRecords(index)  # doctest: +SKIP
        >>> items.pictures([3, 5]), items.titles([3, 5])  # doctest: +SKIP
    """

    def __init__(
        self,
        index: HashIndex | Mapping[str, bytes],
        root: str | os.PathLike[str] | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        kept = index.attachments if isinstance(index, HashIndex) else dict(index)
        self.card: dict[str, Any] = json.loads(kept[CARD]) if CARD in kept else {}
        self.classes: list[str] = self.card.get("classes") or []
        self.labels = np.frombuffer(kept[LABELS], "<i4") if LABELS in kept else None
        self.files = np.frombuffer(kept.get(FILES, b""), STATE)
        self.columns: dict[str, list[Value]] = json.loads(kept.get(COLUMNS, b"{}"))
        self.left_out: dict[str, tuple[Stat, str]] = {
            path: (Stat(size, mtime), reason)
            for path, size, mtime, reason in json.loads(kept.get(LEFT_OUT, b"[]"))
        }
        self.relative: list[str | None] | None = json.loads(kept[PATHS]) if PATHS in kept else None
        self.root: str | None = self.card.get("root")
        if self.relative is not None and "root" not in self.card:
            self._make_relative()
        if root is not None:
            self.root = os.path.realpath(root)
        self._folder_classes = frozenset(classes)
        self._others = {
            name: value
            for name, value in kept.items()
            if name not in (CARD, PATHS, LABELS, FILES, COLUMNS, LEFT_OUT)
        }

    def _make_relative(self) -> None:
        """Make the absolute paths of an index of version 0.1.0 relative, as they are kept now."""
        assert self.relative is not None
        root = self.card.get("data")
        if root is None or not os.path.isabs(root):
            return
        self.root = root
        self.relative = [None if path is None else relative(path, root) for path in self.relative]

    # ------------------------------------------------------------ what is known

    @functools.cached_property
    def paths(self) -> Sequence[str | None] | None:
        """The file of each id, with its folder; None for an index that was not made from files."""
        if self.relative is None or self.root is None:
            return self.relative
        return [
            None if path is None else os.path.join(self.root, path.replace("/", os.sep))
            for path in self.relative
        ]

    def ids_by_path(self, ids: np.ndarray) -> dict[str, int]:
        """Path in the form that is kept -> id, for the ids that have a path."""
        known = self.relative or []
        return {path: item for item in ids.tolist() if item < len(known) and (path := known[item])}

    @property
    def has_classes(self) -> bool:
        """Whether there is any item whose class may be known."""
        return self.labels is not None or bool(self._folder_classes)

    def class_names(self, ids: Sequence[int]) -> list[str | None]:
        """The class of each item, by its data or the name of its folder; None if unknown."""
        if self.labels is None:
            return [self._class_of(item) for item in ids]
        return [
            self.classes[self.labels[item]]
            if item < len(self.labels) and self.labels[item] >= 0
            else self._class_of(item)
            for item in ids
        ]

    def _class_of(self, item: int) -> str | None:
        path = self.path(item)
        folder = None if path is None else os.path.basename(os.path.dirname(path))
        return folder if folder in self._folder_classes else None

    def path(self, item: int) -> str | None:
        """The file of an item; None if it has none."""
        return self.paths[item] if self.paths is not None and item < len(self.paths) else None

    def titles(self, ids: Sequence[int]) -> list[str]:
        """What to call each item: its path, or its class and number."""
        return [
            path if (path := self.path(item)) else f"{item}" if name is None else f"{name} ({item})"
            for item, name in zip(ids, self.class_names(ids), strict=True)
        ]

    def short_title(self, item: int, class_name: str | None) -> str:
        """A word or two below a picture: the class, or else the file's name, or the number."""
        if class_name is not None:
            return class_name
        path = self.path(item)
        return str(item) if path is None else shown(Path(path).name)

    def values(self, ids: Sequence[int]) -> list[dict[str, Value]]:
        """What the columns say of each item, by name.

        Example:
            >>> items.values([3])  # doctest: +SKIP
            [{'year': 2021, 'place': 'Kiel'}]
        """
        return [{name: _at(column, item) for name, column in self.columns.items()} for item in ids]

    def pictures(self, ids: Sequence[int], size: int = 128) -> list[np.ndarray]:
        """The items as uint8 (h, w, c); read from where the index was made from.

        Raises:
            ValueError: they are not there any more, or are no images.
        """
        if not len(ids):
            return []
        if self.paths is not None:
            files = [path for item in ids if (path := self.path(item)) is not None]
            if len(files) < len(ids):
                raise ValueError("some items of this index came without a file; nothing to show")
            for file in files:
                if not Path(file).is_file():
                    raise ValueError(
                        f"{shown(file)} is not where it was; put it back, or give the folder that "
                        "it lies in now (root=FOLDER)"
                    )
            loaded = sources.load_images(files, image_size=size, max_undecodable=0)
            return list(loaded.items[np.arange(len(files))])
        if self.dataset.kind != "images":
            raise ValueError("the items of this index are features; there is nothing to show")
        return list(self.dataset.items[np.asarray(ids)])

    @functools.cached_property
    def dataset(self) -> sources.Dataset:
        """What the index was made from, where that was no folder of files.

        Raises:
            ValueError: it is not there any more, or the index does not say what it was.
        """
        if "data" not in self.card:
            raise ValueError("the index does not say where its images are")
        return sources.load(self.card["data"], data_dir=self.card["data_dir"])

    def select(self, expression: str, ids: np.ndarray) -> np.ndarray:
        """Of which ids an expression is true: bool, one for each.

        See `jaxhash.items.where` for what can be written.

        Raises:
            ValueError: it is no expression, or names a column that there is not.

        Example:
            >>> items.select("year >= 2020 and folder == 'beach'", index.ids)  # doctest: +SKIP
        """
        if not self.count:
            raise ValueError("where: the index keeps no paths or columns; give a list of ids")
        return self._table.select(expression, ids)

    @functools.cached_property
    def _table(self) -> Table:
        count = self.count
        relatives = [_at(self.relative, item) for item in range(count)]
        folders = [
            None if path is None else path.rpartition("/")[0] for path in map(_text, relatives)
        ]
        columns: dict[str, list[Value]] = {
            "path": relatives,
            "folder": list(folders),
            "label": list(self.class_names(range(count))),
        }
        for name, values in self.columns.items():
            columns[name] = values + [None] * (count - len(values))
        return Table(columns, count)

    @property
    def count(self) -> int:
        """One more than the largest id of which anything is known."""
        lengths = [len(one) for one in (self.relative, self.labels) if one is not None]
        return max([*lengths, *map(len, self.columns.values())], default=0)

    # ------------------------------------------------------------ how it changes

    def copy(self) -> Self:
        """A copy; changes to one do not show in the other."""
        return type(self)(self.attachments(), self.root, tuple(self._folder_classes))

    def put(self, item: int, path: str | None, now: Stat | None, digest: np.ndarray | None) -> None:
        """Say which file an item is: its path relative to the folder, and its state."""
        self._forget_derived()
        if self.relative is None:
            self.relative = []
        self.relative += [None] * (item + 1 - len(self.relative))
        self.relative[item] = path
        if self.labels is not None and item >= len(self.labels):
            more = np.full(item + 1 - len(self.labels), -1, np.int32)
            self.labels = np.concatenate([self.labels, more])
        self.set_state(item, now, digest)

    def set_state(self, item: int, now: Stat | None, digest: np.ndarray | None = None) -> None:
        """Note size and time of an item's file, and the digest of its bytes where that is given."""
        if not self.files.flags.writeable or item >= len(self.files):
            room = len(self.files) if item < len(self.files) else max(item + 1, 2 * len(self.files))
            files = np.zeros(room, STATE)
            files[: len(self.files)] = self.files
            self.files = files
        if now is not None:
            self.files["size"][item], self.files["mtime"][item] = now
        if digest is not None:
            self.files["digest"][item] = digest

    def set_digests(self, digests: np.ndarray) -> None:
        """Note what the bytes of the first files were: uint8 (n, `decoding.DIGEST_BYTES`)."""
        self.set_state(len(digests) - 1, None)
        self.files["digest"][: len(digests)] = digests

    def forget(self, ids: Sequence[int]) -> None:
        """Drop what is known of items that are no longer in the index."""
        self._forget_derived()
        for item in ids:
            if self.relative is not None and item < len(self.relative):
                self.relative[item] = None
            if item < len(self.files):
                self.set_state(item, Stat(0, 0), np.zeros(STATE["digest"].shape, np.uint8))
            for column in self.columns.values():
                if item < len(column):
                    column[item] = None

    def set_columns(self, columns: Mapping[str, Sequence[Value]]) -> None:
        """Keep other columns, each with a value for each id."""
        self._forget_derived()
        self.columns = {name: list(values) for name, values in columns.items()}

    def _forget_derived(self) -> None:
        for name in ("paths", "_table"):
            self.__dict__.pop(name, None)

    def attachments(self) -> dict[str, bytes]:
        """All of it as attachments of an index, and the attachments that are not about items.

        Example:
            >>> index.attach(items.attachments())  # doctest: +SKIP
        """
        card = self.card if self.relative is None else self.card | {"root": self.root}
        kept = dict(self._others)
        if card:
            kept[CARD] = json.dumps(card).encode()
        if self.relative is not None:
            kept[PATHS] = json.dumps(self.relative).encode()
        if self.labels is not None:
            kept[LABELS] = self.labels.astype("<i4").tobytes()
        if len(self.files):
            used = len(self.relative or ())
            kept[FILES] = self.files[:used].tobytes()
        if self.columns:
            kept[COLUMNS] = json.dumps(self.columns).encode()
        if self.left_out:
            listed = [[path, *now, reason] for path, (now, reason) in self.left_out.items()]
            kept[LEFT_OUT] = json.dumps(listed).encode()
        return kept


def relative(path: str, root: str) -> str:
    """The form in which a path is kept: relative to `root`, with slashes, or absolute if outside.

    Example:
        >>> relative("/photos/2024/cat.png", "/photos"), relative("/other.png", "/photos")
        ('2024/cat.png', '/other.png')
    """
    prefix = root if root.endswith(os.sep) else root + os.sep
    return path[len(prefix) :].replace(os.sep, "/") if path.startswith(prefix) else path


def relative_to(path: str, folder: str, root: str | None) -> str:
    """`relative` for a path that begins with the folder's name as it was given.

    folder: the name. root: the folder's real path, or None where there is none.

    Example:
        >>> relative_to("photos/2024/cat.png", "photos", "/home/me/photos")
        '2024/cat.png'
    """
    named = os.path.join(folder, "")
    if root is not None and path.startswith(named):
        return path[len(named) :].replace(os.sep, "/")
    whole = os.path.realpath(path)
    return whole if root is None else relative(whole, root)


def _at(values: Sequence[Any] | None, item: int) -> Any:
    return values[item] if values is not None and item < len(values) else None


def _text(value: Any) -> str | None:
    return value
