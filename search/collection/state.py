"""The immutable state of an index, and what is looked up in it by id."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from search.codes import width
from search.collection.ids import distinct, some
from search.collection.once import once
from search.collection.segments import Segment
from search.files.checksums import Guard

# Where fewer than one item in so many is wanted, their rows are listed instead of masked.
SPARSE = 16


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a segment's items stand in `State.ids`: at `positions`, or if `left_out` elsewhere."""

    positions: slice | NDArray[np.int64]
    left_out: bool = False

    def of(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The part of a mask over all items that covers these items."""
        return np.delete(mask, self.positions) if self.left_out else mask[self.positions]


@dataclasses.dataclass(frozen=True)
class State:
    """All of an index at one moment; a search works on one state from beginning to end.

    Attributes:
        bits: number of bits in a code.
        segments: one or more.
        attachments: by name; a `Guard` for one in a mapped file.
        next_id: above every id ever used in the index, from 0 to 2**63.
    """

    bits: int
    segments: tuple[Segment, ...]
    attachments: Mapping[str, bytes | Guard]
    next_id: int

    def __len__(self) -> int:
        return sum(len(segment) for segment in self.segments)

    @once
    def ids(self) -> NDArray[np.int64]:
        """The ids of all items, ascending."""
        ids = live_ids(self.segments)
        ids.flags.writeable = False
        return ids

    def ids_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of `ids` at some positions; all of them are listed only where items were removed,
        or where the ids of several segments lie among each other.
        """
        found = np.empty(len(positions), np.int64)
        for segment, place in zip(self.segments, self.places, strict=True):
            if segment.alive is not None or not isinstance(place.positions, slice):
                return self.ids[positions]
            start, stop = place.positions.start or 0, place.positions.stop
            here = (positions >= start) & (positions < stop)
            found[here] = segment.ids_of(positions[here] - start)
        return found

    @once
    def places(self) -> list["Place"]:
        """Where the items of each segment are among `ids`."""
        ends = [(*segment.ends, which) for which, segment in enumerate(self.segments)]
        places = [Place(slice(0))] * len(ends)
        start, last = 0, None
        for first, end, which in sorted(each for each in ends if len(self.segments[each[2]])):
            if last is not None and first < last:
                return self._looked_up()
            stop = start + len(self.segments[which])
            places[which], start, last = Place(slice(start, stop)), stop, end
        return places

    def _looked_up(self) -> list["Place"]:
        """`places` where ids of several segments lie among each other."""
        own = [
            np.searchsorted(self.ids, segment.ids_of(segment.live_rows()))
            for segment in self.segments
        ]
        largest = max(range(len(own)), key=lambda which: len(own[which]))
        others = np.concatenate([each for which, each in enumerate(own) if which != largest])
        places = [Place(each) for each in own]
        if SPARSE * len(others) < len(own[largest]):
            places[largest] = Place(others, left_out=True)
        return places

    @property
    def features(self) -> tuple[np.dtype, int] | None:
        """Type and dimensions of the features, None where there are none."""
        for segment in self.segments:
            if segment.features is not None:
                return segment.features.dtype, segment.features.shape[1]
        return None


def live_ids(segments: Sequence[Segment]) -> NDArray[np.int64]:
    """The ids of all that was not removed, ascending."""
    parts = [segment.ids_of(segment.live_rows()) for segment in segments]
    return parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))


def rows_of(state: State, ids: NDArray[np.int64], name: str) -> list[NDArray[np.int64]]:
    """The rows of some ids in each segment, ascending; repetitions count once.

    Raises:
        ValueError: naming the argument, where one is not in the index.
    """
    wanted = distinct(ids)
    located = [segment.locate(wanted) for segment in state.segments]
    if len(located) == 1 and located[0].min(initial=0) >= 0:
        return located
    found = np.zeros(len(wanted), bool)
    for rows in located:
        found |= rows >= 0
    if not found.all():
        raise ValueError(f"{name}: {some(wanted[~found])} not in the index")
    return [rows[rows >= 0] for rows in located]


def get(
    state: State, ids: NDArray[np.int64]
) -> tuple[NDArray[np.uint8], NDArray[np.floating] | None]:
    """Codes, and features if there are some, of ids in any order, repetitions included.

    Raises:
        ValueError: naming those that are not in the index.
    """
    codes = np.empty((len(ids), width(state.bits)), np.uint8)
    features = None
    if state.features is not None:
        features = np.empty((len(ids), state.features[1]), state.features[0])
    wanted, places = np.unique(ids, return_inverse=True)
    missing = np.ones(len(wanted), bool)
    for segment in state.segments:
        rows = segment.find(wanted)
        here = rows >= 0
        missing &= ~here
        # Ascending, so that a mapped file is read in its order; then to where they were asked for.
        own, fine = segment.items(rows[here])
        asked = here[places]
        order = (np.cumsum(here) - 1)[places[asked]]
        codes[asked] = own[order]
        if features is not None and fine is not None:
            features[asked] = fine[order]
    if missing.any():
        raise ValueError(f"ids: {some(wanted[missing])} not in the index")
    return codes, features


def attached(state: State) -> dict[str, bytes]:
    """What is stored beside the codes, by name, compared with its checksum where it is mapped."""
    return {
        name: data.bytes() if isinstance(data, Guard) else data
        for name, data in state.attachments.items()
    }
