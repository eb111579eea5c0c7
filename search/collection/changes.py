"""How an index changes: from one state to the next, or not at all."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from search import paging
from search.codes import validate
from search.collection.combining import combine
from search.collection.ids import distinct, some
from search.collection.segments import Segment, explicit
from search.collection.state import State, rows_of
from search.files import writing
from search.files.format import PIECE
from search.fine.rerank import check_features
from search.hamming.blocks import arrange

# A new segment takes in an older one that is less than this many times as long: the number of
# segments stays logarithmic, and so does the number of times that a code is copied.
GROWTH = 2


def add(
    state: State,
    codes: NDArray[np.uint8],
    features: NDArray[np.floating] | None,
    ids: NDArray[np.integer] | None,
    replace: bool,
) -> tuple[State, NDArray[np.int64]]:
    """The state with further items, and their ids, see `HashIndex.add`."""
    codes, _ = validate(codes, state.bits)
    if ids is None:
        if replace:
            raise ValueError(
                "replace needs ids, which say what is replaced; give them, or leave it out"
            )
        ids = next_ids(state, len(codes))
    if features is not None:
        features = check_features(features)
        if paging.owner(features) is None:
            features = features.copy()  # the caller may fill the same array again
    new = new_segment(codes, state.bits, features, ids)
    given = writing.check_ids(ids)
    located = [segment.find(given) for segment in state.segments]
    taken = given[np.any([rows >= 0 for rows in located], axis=0)]
    if len(taken) and not replace:
        raise ValueError(
            f"ids: {some(taken)} in the index already; remove them first, or give replace=True"
        )
    check_alike(state, new, len(codes))
    kept = without(state, [np.sort(rows[rows >= 0]) for rows in located])
    if not len(kept):
        segments = [new]
    else:
        segments = [*kept.segments, new] if len(codes) else list(kept.segments)
    while len(segments) > 1 and _worth_merging(segments[-2], segments[-1]):
        segments[-2:] = [combine(segments[-2:], state.bits)]
    changed = dataclasses.replace(
        state, segments=tuple(segments), next_id=above(given, state.next_id)
    )
    return changed, given


def _worth_merging(old: Segment, new: Segment) -> bool:
    """Whether to copy two segments into one."""
    return not old.mapped and len(old.codes) < GROWTH * len(new.codes)


def remove(state: State, ids: NDArray[np.int64]) -> State:
    """The state without some items, see `HashIndex.remove`."""
    return without(state, rows_of(state, ids, "ids"))


def without(state: State, located: list[NDArray[np.int64]]) -> State:
    """The state without some rows of each segment, which ascend and are alive."""
    segments = [
        segment.without(rows) if len(rows) else segment
        for segment, rows in zip(state.segments, located, strict=True)
    ]
    return dataclasses.replace(state, segments=tuple(segments))


def compact(state: State) -> State:
    """The same items in one segment in memory."""
    if len(state.segments) == 1 and not len(state.segments[0].dead):
        return state
    return dataclasses.replace(state, segments=(combine(state.segments, state.bits),))


def new_segment(
    codes: NDArray[np.uint8],
    bits: int,
    features: NDArray[np.floating] | None,
    ids: NDArray[np.integer] | None,
) -> Segment:
    """New items, sorted by id."""
    if features is not None:
        features = check_features(features)
        if len(features) != len(codes):
            raise ValueError(
                f"features must have {len(codes)} rows, one for each code, not {len(features)}"
            )
        _check_finite(features)
    if ids is None:
        return Segment(arrange(codes, bits), features=features)
    ids = writing.check_ids(ids, len(codes))
    if np.any(ids[1:] <= ids[:-1]):
        order = np.argsort(ids, kind="stable")
        ids, codes = ids[order], codes[order]
        same = ids[1:] == ids[:-1]
        if same.any():
            raise ValueError(f"ids must be unique; repeated: {some(distinct(ids[1:][same]))}")
        features = None if features is None else features[order]
    else:
        ids = ids.copy()
    return Segment(arrange(codes, bits), *explicit(ids), features)


def _check_finite(features: NDArray[np.floating]) -> None:
    """Refuse NaN and infinity, a piece at a time; a mapped store is not read for it."""
    if paging.owner(features) is not None:
        return  # `rerank` refuses them when it meets them
    step = max(1, PIECE // max(1, features.shape[1] * features.itemsize))
    for start in range(0, len(features), step):
        if not np.isfinite(features[start : start + step]).all():
            raise ValueError("features must be finite, but hold NaN or infinity")


def check_alike(state: State, new: Segment, count: int) -> None:
    """New features must be what the index has: none, or the same type and dimensions.

    An index without items and without features may get some with its first items. One that was
    made with features, or had some, keeps their type and dimensions even when it is empty.
    """
    has = state.features
    if has is None and new.features is not None and len(state):
        raise ValueError("features: the index has none, so new items cannot have them")
    if has is None:
        return
    if new.features is None:
        raise ValueError(f"features are missing; the index has {has[1]} dimensions of {has[0]}")
    if has != (new.features.dtype, new.features.shape[1]):
        raise ValueError(
            f"features must be ({count}, {has[1]}) of {has[0]} as in the index, "
            f"not {new.features.shape} of {new.features.dtype}"
        )


def next_ids(state: State, count: int) -> NDArray[np.int64]:
    """The next `count` ids that no item of the index has or ever had."""
    most = np.iinfo(np.int64).max
    if state.next_id + count - 1 > most:
        raise ValueError("ids: none are left after the largest one; give them")
    return np.arange(count) + min(state.next_id, most)


def above(ids: NDArray[np.int64], next_id: int) -> int:
    """The next id once items have the given ids: above all of them, and never below `next_id`."""
    return max(next_id, int(ids.max(initial=-1)) + 1)


def above_all(segment: Segment) -> int:
    """The next id of an index of one segment that has no record of removed, larger ids."""
    last = len(segment.codes) - 1
    return above(segment.ids_of(np.array([last])), 0)
