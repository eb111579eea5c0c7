"""An index as plain values, for pickles: arrays, and the paths of the files that are mapped."""

import errno
import os
from typing import Any

from search.collection.segments import Segment
from search.collection.state import State, attached
from search.files import reading
from search.hamming.blocks import Blocks


def pack(state: State) -> dict[str, Any]:
    """Plain values from which `unpack` makes the same state again, in another process too.

    A segment that is mapped from an index file stays there: its path is packed, absolute.

    Raises:
        FileNotFoundError, ValueError: the file is no longer there, or another one.
    """
    return {
        "bits": state.bits,
        "next_id": state.next_id,
        "attachments": attached(state),
        "segments": [_pack_segment(segment) for segment in state.segments],
    }


def unpack(packed: dict[str, Any]) -> State:
    """The state that was packed.

    Raises:
        FileNotFoundError, ValueError: as `pack`.
    """
    segments = tuple(_unpack_segment(each) for each in packed["segments"])
    return State(packed["bits"], segments, packed["attachments"], packed["next_id"])


def open_segment(
    path: str | os.PathLike[str], mmap: bool, verify: bool
) -> tuple[Segment, reading.Stored]:
    """The segment in an index file, and what else the file holds."""
    stored = reading.read(path, mmap=mmap, verify=verify)
    segment = Segment(
        Blocks(stored.planes, stored.count, stored.bits),
        stored.ids,
        stored.first,
        stored.features,
        mapped=mmap,
        guards=stored.guards,
        source=stored.source if mmap else None,
    )
    return segment, stored


def _pack_segment(segment: Segment) -> dict[str, Any]:
    if segment.source is not None:
        _reopen(segment.source)  # better refused here than by whoever gets the pickle
        return {"source": segment.source, "dead": segment.dead}
    return {
        "planes": segment.codes.planes,
        "count": len(segment.codes),
        "bits": segment.codes.bits,
        "ids": segment.ids,
        "first": segment.first,
        "features": segment.features,
        "dead": segment.dead,
    }


def _unpack_segment(packed: dict[str, Any]) -> Segment:
    if "source" in packed:
        return _reopen(packed["source"]).without(packed["dead"])
    codes = Blocks(packed["planes"], packed["count"], packed["bits"])
    return Segment(codes, packed["ids"], packed["first"], packed["features"], packed["dead"])


def _reopen(source: reading.Source) -> Segment:
    """The segment in a file, if that is still the one it was."""
    advice = "to pickle what an index holds, open it with mmap=False"
    try:
        segment, stored = open_segment(source.path, mmap=True, verify=False)
    except FileNotFoundError as error:
        problem = f"a mapped index is pickled as the path of its file, which is not there: {advice}"
        raise FileNotFoundError(errno.ENOENT, problem, source.path) from error
    if stored.source != source:
        raise ValueError(
            f"{source.path}: replaced since the index was opened, which is pickled as the path of "
            f"its file; open it anew; {advice}"
        )
    return segment
