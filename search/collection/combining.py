"""Several segments as one: in the order of ids, in memory, in a file."""

import os
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from search.codes import width
from search.collection.segments import Segment, explicit
from search.collection.state import State, attached
from search.files import writing
from search.hamming.blocks import BLOCK, Blocks, arrange

# Bytes of codes and features that pass through memory at a time.
BATCH_BYTES = 1 << 25

Batch = tuple[NDArray[np.uint8], NDArray[np.floating] | None, NDArray[np.int64]]


def in_id_order(segments: Sequence[Segment], step: int) -> Iterator[Batch]:
    """Codes, features and ids of all that was not removed, by id, in batches of bounded size.

    Each batch takes from every segment at most `step` rows: those up to the smallest of the
    segments' `step`-th next ids, so that all later ids are larger.

    Raises:
        DamagedFile: before the first batch, where a mapped segment is not what was written.
    """
    for each in segments:
        each.check()
    positions = [0] * len(segments)
    while any(at < len(each.codes) for at, each in zip(positions, segments, strict=True)):
        ends = []
        for at, each in zip(positions, segments, strict=True):
            if at + step < len(each.codes):
                ends.append(int(each.ids_of(np.array([at + step - 1]))[0]))
        codes, features, ids = [], [], []
        for which, each in enumerate(segments):
            start, stop = positions[which], min(positions[which] + step, len(each.codes))
            if ends:
                window = each.ids_of(np.arange(start, stop))
                stop = start + int(np.searchsorted(window, min(ends), side="right"))
            positions[which] = stop
            rows = each.live_rows(start, stop)
            codes.append(each.take(rows))
            ids.append(each.ids_of(rows))
            if each.features is not None:
                features.append(
                    each.features[rows] if len(rows) < stop - start else each.features[start:stop]
                )
        all_ids = np.concatenate(ids)
        order = np.argsort(all_ids)
        yield (
            np.concatenate(codes)[order],
            np.concatenate(features)[order] if features else None,
            all_ids[order],
        )


def combine(segments: Sequence[Segment], bits: int) -> Segment:
    """One segment in memory of all that was not removed."""
    count = sum(len(segment) for segment in segments)
    planes = np.zeros((-(-count // BLOCK), -(-bits // 8), BLOCK), np.uint8)
    model = next((each.features for each in segments if each.features is not None), None)
    features = None if model is None else np.empty((count, model.shape[1]), model.dtype)
    ids = np.empty(count, np.int64)
    done = 0
    waiting = np.empty((0, planes.shape[1]), np.uint8)
    row_bytes = planes.shape[1] + (0 if features is None else features.shape[1] * features.itemsize)
    for codes, fine, some in in_id_order(segments, max(BLOCK, BATCH_BYTES // row_bytes)):
        start, done = done, done + len(some)
        ids[start:done] = some
        if features is not None and fine is not None:
            features[start:done] = fine
        first = (start - len(waiting)) // BLOCK
        codes = np.concatenate([waiting, codes])
        whole = len(codes) // BLOCK
        arrange(codes[: whole * BLOCK], bits, out=planes[first : first + whole])
        waiting = codes[whole * BLOCK :]
    if len(waiting):
        arrange(waiting, bits, out=planes[-1:])
    return Segment(Blocks(planes, count, bits), *explicit(ids), features)


def save(state: State, path: str | os.PathLike[str]) -> None:
    """Write all that was not removed as one file, see `HashIndex.save`."""
    first = state.segments[0]
    attachments = attached(state)
    if len(state.segments) == 1 and not len(first.dead):
        first.check()
        writing.write(
            path,
            bits=state.bits,
            count=len(first),
            planes=first.codes.planes,
            ids=first.ids,
            first=first.first,
            features=first.features,
            attachments=attachments,
            next_id=state.next_id,
        )
        return
    row_bytes, no_features = width(state.bits) + 8, None
    if state.features is not None:
        dtype, dimensions = state.features
        row_bytes += dtype.itemsize * dimensions
        no_features = np.empty((0, dimensions), dtype)
    with writing.Writer(path, bits=state.bits, next_id=state.next_id) as writer:
        # Says what the features are, should there be no items left to say it.
        nothing = np.empty((0, width(state.bits)), np.uint8)
        writer.append(nothing, no_features, np.empty(0, np.int64))
        for codes, features, ids in in_id_order(state.segments, max(1, BATCH_BYTES // row_bytes)):
            writer.append(codes, features, ids)
        for name, data in attachments.items():
            writer.attach(name, data)
