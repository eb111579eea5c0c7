"""Pickled NumPy arrays of bytes, read without calling anything that the file names."""

import codecs
import io
from typing import Any

import numpy as np

from jaxhash import pickles


def load(data: bytes) -> Any:
    """What was pickled, with each array as `Told`.

    Args:
        data: The pickle, of any protocol, Python 2's as well.

    Raises:
        ValueError: where it names anything but an array of NumPy. A broken pickle can raise nearly
            anything else.
    """
    return pickles.load(io.BytesIO(data), _find_class, encoding="bytes")


class Told:
    """Records what a pickle says of a NumPy array or dtype, without calling NumPy."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array of bytes that was pickled."""
        _, shape, dtype, by_columns, content = self.state
        if dtype.arguments[0] not in ("u1", b"u1"):
            raise ValueError(f"numbers of type {dtype.arguments[0]!r}")
        return np.frombuffer(content, np.uint8).reshape(shape, order="F" if by_columns else "C")


def _find_class(module: str, name: str) -> Any:
    """Only what an array is rebuilt from; no code in the file can be called."""
    if (name, module) == ("encode", "_codecs"):
        # How Python 3 spells bytes in an old pickle protocol.
        return lambda text, encoding="latin1": codecs.encode(text, "latin1")
    if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in (
        *("_reconstruct", "ndarray", "dtype"),
    ):
        # A new class each time, so that nothing a pickle does to it outlives the file.
        return type(name, (Told,), {})
    raise ValueError(f"{module}.{name} has no place in a file of arrays")
