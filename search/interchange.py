"""Read and write FAISS binary indexes."""

import os
from pathlib import Path
from types import ModuleType

from search import codes as _codes
from search import faiss_layout
from search.collection.combining import in_id_order
from search.collection.segments import explicit
from search.files.atomic import replacing
from search.index import HashIndex

# Codes handed to FAISS at a time.
BATCH = 1 << 16


def read_faiss(path: str | os.PathLike[str], *, bits: int | None = None) -> HashIndex:
    """Read the codes, and ids if it has some, of a FAISS binary index into a `HashIndex`.

    `IndexBinaryFlat` and `IndexBinaryHNSW`, plain or in an `IndexBinaryIDMap` or `IDMap2`. Bytes
    are taken as they are: Hamming distances do not depend on the order of the bits in them, but
    FAISS's own tools fill a byte from its lowest bit and ours from its highest.

    FAISS itself is not needed to read.

    Args:
        path: a file written by `faiss.write_index_binary`.
        bits: the number of bits in use, where that is no multiple of 8; FAISS does not know it.

    Returns:
        An index in memory.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, no such file, or holds an index of another kind.

    Example:
        >>> index = read_faiss("codes.faiss")  # doctest: +SKIP
    """
    try:
        found = faiss_layout.parse(Path(path).read_bytes())
        return HashIndex(found.codes, bits=bits or found.bits, ids=found.ids)
    except ValueError as error:
        raise ValueError(f"path: {os.fspath(path)!r}: {error}") from error


def write_faiss(index: HashIndex, path: str | os.PathLike[str]) -> None:
    """Write the codes and ids of an index as a FAISS `IndexBinaryFlat`.

    It is wrapped in an `IndexBinaryIDMap2` unless the ids are 0 to n - 1. Features and
    attachments stay behind. A code that does not fill its last byte keeps its zero pad bits.

    Args:
        index: what to write.
        path: of the file; one that is there is replaced.

    Raises:
        ModuleNotFoundError: faiss is not installed.
        OSError: the disk is full or cannot be written; an old file is as it was.

    Example:
        >>> write_faiss(index, "codes.faiss")  # doctest: +SKIP
    """
    faiss = _faiss()
    state = index._state
    flat = faiss.IndexBinaryFlat(8 * _codes.width(state.bits))
    ids, first = explicit(state.ids)
    target = flat if ids is None and not first else faiss.IndexBinaryIDMap2(flat)
    for codes, _, ids in in_id_order(state.segments, BATCH):
        if target is flat:
            target.add(codes)
        else:
            target.add_with_ids(codes, ids)
    with replacing(path) as file:
        faiss.write_index_binary(target, faiss.PyCallbackIOWriter(file.write))


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ModuleNotFoundError("FAISS files need faiss; pip install faiss-cpu") from error
    return faiss
