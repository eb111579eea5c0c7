"""Read and write FAISS binary indexes; open codes in plain `.npy` files."""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search import codes as _codes
from search import faiss_layout
from search.collection.rows import Rows
from search.collection.segments import Segment, implicit, in_id_order
from search.files import writing
from search.files.atomic import replacing
from search.fine.rerank import check_features
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
        ImportError: faiss is not installed.
        OSError: the disk is full or cannot be written; an old file is as it was.

    Example:
        >>> write_faiss(index, "codes.faiss")  # doctest: +SKIP
    """
    faiss = _faiss()
    state = index._state
    flat = faiss.IndexBinaryFlat(8 * _codes.width(state.bits))
    target = flat if implicit(state.ids) is None else faiss.IndexBinaryIDMap2(flat)
    mask = np.uint8(_codes.pad_mask(state.bits))
    for codes, _, ids in in_id_order(state.segments, BATCH):
        codes[:, -1] &= mask
        if target is flat:
            target.add(codes)
        else:
            target.add_with_ids(codes, ids)
    with replacing(path) as file:
        faiss.write_index_binary(target, faiss.PyCallbackIOWriter(file.write))


def open_npy(
    path: str | os.PathLike[str],
    *,
    bits: int | None = None,
    features: str | os.PathLike[str] | NDArray[np.floating] | None = None,
    ids: NDArray[np.integer] | None = None,
) -> HashIndex:
    """An index over codes in a `.npy` file, mapped where they lie: nothing is converted.

    Each search rearranges the codes piece by piece, which costs some speed; `save` the index for
    the fast layout.

    Args:
        path: a `.npy` file of uint8 (n, ceil(bits / 8)), most significant bit first.
        bits: number of bits in a code; eight a byte when left out. Pad bits are ignored.
        features: float16 or float32 (n, d), or the path of an `.npy` file of them.
        ids: int64 (n,), strictly ascending, not -1; 0 to n - 1 when left out.

    Returns:
        An index over the mapped file.

    Raises:
        TypeError, ValueError: naming the argument; also for a file that is cut short or holds
            Python objects.

    Example:
        >>> index = open_npy("codes.npy", bits=48)  # doctest: +SKIP
    """
    codes, bits = _codes.validate(_map(path, "path"), bits, "path: codes")
    if features is not None:
        if not isinstance(features, np.ndarray):
            features = _map(features, "features")
        features = check_features(features)
        if len(features) != len(codes):
            raise ValueError(f"features must have {len(codes)} rows, not {len(features)}")
    if ids is not None:
        ids = writing.check_ids(ids, len(codes))
        if np.any(ids[1:] <= ids[:-1]):
            raise ValueError("ids must strictly ascend: the file's codes stay in their order")
        ids = implicit(ids.copy())
    return HashIndex.of_segment(Segment(Rows(codes, bits), ids, features, mapped=True))


def _map(path: str | os.PathLike[str], name: str) -> NDArray[Any]:
    """The array of an `.npy` file, mapped, never unpickled."""
    try:
        array = np.load(Path(path), mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    # A damaged header makes NumPy raise nearly anything, from KeyError to TokenError.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{name}: {os.fspath(path)!r} is no usable .npy file: {reason}") from error
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name}: {os.fspath(path)!r} is an archive, not one .npy array")
    return array.view(np.ndarray)


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("FAISS files need faiss: pip install faiss-cpu") from error
    return faiss
