"""Paths and labels of imported items, as an index keeps them."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxhash.items.records import CARD, LABELS, PATHS

ROOM = 1 << 20
"""Paths and labels are lists with a place for each id up to the largest: these may have at most so
many empty places, and one more for each item."""


class Records:
    """Collects the paths and labels of items batch by batch.

    Args:
        card: what is known of the model and the data.

    Example:
        >>> records = Records({})
        >>> records.add(np.array([0, 2]), ["a.jpg", "b.jpg"], None)
        >>> records.attachments()["paths"]
        b'["a.jpg", null, "b.jpg"]'
    """

    def __init__(self, card: Mapping[str, Any]) -> None:
        self.card = dict(card)
        self._ids: list[NDArray[np.integer]] = []
        self._texts: dict[str, list[str | None]] = {PATHS: [], LABELS: []}

    def add(
        self,
        ids: NDArray[np.integer],
        paths: list[str | None] | None,
        labels: list[str | None] | None,
    ) -> None:
        """The next items; paths and labels in every batch or in none."""
        self._ids.append(ids)
        for name, texts in ((PATHS, paths), (LABELS, labels)):
            self._texts[name] += [None] * len(ids) if texts is None else texts

    def attachments(self) -> dict[str, bytes]:
        """What goes beside the codes, by name; nothing where nothing is known.

        Raises:
            ValueError: ids that a list by id has no room for.
        """
        kept: dict[str, bytes] = {}
        if any(text for text in self._texts[PATHS]):
            kept[PATHS] = json.dumps(self._by_id(self._texts[PATHS])).encode()
        classes: list[str] = []
        if any(text for text in self._texts[LABELS]):
            named = self._by_id(self._texts[LABELS])
            classes = sorted({name for name in named if name is not None})
            numbers = {name: number for number, name in enumerate(classes)}
            labels = [-1 if name is None else numbers[name] for name in named]
            kept[LABELS] = np.array(labels, "<i4").tobytes()
        if self.card or kept:
            kept[CARD] = json.dumps(self.card | {"classes": classes}).encode()
        return kept

    def _by_id(self, texts: list[str | None]) -> list[str | None]:
        ids = np.concatenate(self._ids)
        if ids[0] < 0 or ids[-1] >= 2 * len(ids) + ROOM:
            raise ValueError(
                f"ids go from {ids[0]} to {ids[-1]} for {len(ids)} items, and paths and labels are "
                "kept in a list by id; number the items from 0, or leave path and label out"
            )
        found: list[str | None] = [None] * (int(ids[-1]) + 1)
        for item, text in zip(ids.tolist(), texts, strict=True):
            found[item] = text
        return found
