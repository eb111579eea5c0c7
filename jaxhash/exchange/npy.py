"""Codes in plain `.npy` files, made into an index."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxhash.exchange import rows
from search import HashIndex, Writer
from search.codes import validate


def to_index(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    bits: int | None = None,
    features: str | os.PathLike[str] | None = None,
    ids: str | os.PathLike[str] | None = None,
) -> HashIndex:
    """Make an index of codes in a `.npy` file, and features and ids in others; in bounded memory.

    Args:
        path: uint8 (n, ceil(bits / 8)): bits packed into bytes.
        out: the index file, which appears when it is complete; one that is there is replaced.
        bits: number of bits in a code; eight a byte by default.
        features: float16 or float32 (n, d), finite.
        ids: integers (n,), strictly ascending, not -1; 0 to n - 1 by default.

    Returns:
        The index, mapped from its file.

    Raises:
        ValueError: a file cannot be used; the message says why.
        OSError: a file cannot be read or written.

    Example:
        >>> index = to_index("codes.npy", "codes.index", bits=48)  # doctest: +SKIP
    """
    packed = bits is not None
    try:
        codes, bits = validate(mapped(path), bits)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{os.fspath(path)}: {error}; search.pack makes codes of bits") from error
    beside = [None if one is None else mapped(one) for one in (features, ids)]
    for file, array in zip((features, ids), beside, strict=True):
        if array is not None and len(array) != len(codes):
            raise ValueError(f"{file}: {len(array)} rows for {len(codes)} codes")
    packed = packed or not len(codes)
    with Writer(out, bits=bits) as writer:
        for start in range(0, len(codes), rows.MOST) or [0]:
            part = slice(start, start + rows.MOST)
            try:
                writer.append(codes[part], *(None if one is None else one[part] for one in beside))
            except TypeError as error:
                raise ValueError(str(error)) from error
            packed = packed or bool(np.any(codes[part] > 1))
        if not packed:
            raise ValueError(
                f"{os.fspath(path)} holds nothing but 0 and 1, a byte for each bit as it seems; "
                "save search.pack(bits) of them, or say how many bits a code has with bits=N"
            )
    return HashIndex.open(out)


def mapped(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of an `.npy` file, mapped; objects in it are never unpickled.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is cut short, holds Python objects, or is no such file.

    Example:
        >>> codes = mapped("codes.npy")  # doctest: +SKIP
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    # A damaged header makes NumPy raise nearly anything, from KeyError to TokenError.
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise ValueError(f"{os.fspath(path)} is no usable .npy file: {reason}") from error
    if not isinstance(array, np.ndarray) or not array.ndim:
        raise ValueError(f"{os.fspath(path)} holds no single array of rows")
    return array.view(np.ndarray)
