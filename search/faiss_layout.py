"""The layout of FAISS's binary index files, read without FAISS, every size checked.

FAISS trusts its files: a damaged length in one makes it ask for up to a terabyte.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Kind (4 bytes), bits, bytes of a code, number of codes, trained or not, metric.
_HEADER = struct.Struct("<4siiq?i")
_FLAT = b"IBxF"
_WITH_IDS = (b"IBMp", b"IBM2")
_GRAPH = b"IBHf"
# Bytes of an element of each of a graph's vectors, and of the five numbers behind them.
_GRAPH_VECTORS = (8, 4, 4, 8, 4)
_GRAPH_NUMBERS = 20
_OTHERS = {
    b"IBwF": "IndexBinaryIVF",
    b"IBFf": "IndexBinaryFromFloat",
    b"IBHh": "IndexBinaryHash",
    b"IBHm": "IndexBinaryMultiHash",
    b"IBHc": "IndexBinaryHNSWCagra",
}


class Contents(NamedTuple):
    """Codes uint8 (n, bits / 8); ids int64 (n,) or None; bits, a multiple of 8."""

    codes: NDArray[np.uint8]
    ids: NDArray[np.int64] | None
    bits: int


def parse(content: bytes) -> Contents:
    """Codes and ids of an `IndexBinaryFlat` or `IndexBinaryHNSW`, bare or in an `IndexBinaryIDMap`.

    Args:
        content: what `faiss.write_index_binary` wrote. The arrays are views of it.

    Raises:
        ValueError: it is no such file, is cut short or damaged, or holds another kind of index.

    Example:
        >>> flat = struct.pack("<4siiq?iQ", b"IBxF", 8, 1, 2, True, 1, 2) + bytes([7, 9])
        >>> parse(flat).codes.tolist()
        [[7], [9]]
    """
    reader = _Reader(content)
    kind, bits, count = reader.header()
    if kind in _WITH_IDS:
        inner = reader.codes(*reader.header())
        ids = np.frombuffer(reader.vector(8), "<i8")
        if not len(inner.codes) == len(ids) == count:
            raise ValueError(f"{len(ids)} ids for {len(inner.codes)} codes; it is damaged")
        return Contents(inner.codes, ids.astype(np.int64), inner.bits)
    return reader.codes(kind, bits, count)


class _Reader:
    """Steps through a file; every step is checked against what is left."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = memoryview(content), 0

    def take(self, size: int) -> memoryview:
        if size > len(self.content) - self.at:
            raise ValueError("it is cut short or damaged; a length in it leads beyond its end")
        self.at += size
        return self.content[self.at - size : self.at]

    def vector(self, width: int) -> memoryview:
        """The elements behind a length, `width` bytes each."""
        return self.take(int.from_bytes(self.take(8), "little") * width)

    def header(self) -> tuple[bytes, int, int]:
        kind, bits, width, count, _, _ = _HEADER.unpack(self.take(_HEADER.size))
        if kind in _OTHERS:
            raise ValueError(
                f"it holds an {_OTHERS[kind]}, which does not keep its codes in order; copy them "
                "into an IndexBinaryFlat with FAISS first"
            )
        if kind not in (_FLAT, _GRAPH, *_WITH_IDS):
            raise ValueError("it is no binary index as faiss.write_index_binary writes it")
        if bits <= 0 or bits != 8 * width or count < 0:
            raise ValueError(f"{count} codes of {bits} bits in {width} bytes each; it is damaged")
        return kind, bits, count

    def codes(self, kind: bytes, bits: int, count: int) -> Contents:
        if kind == _GRAPH:
            for width in _GRAPH_VECTORS:
                self.vector(width)
            self.take(_GRAPH_NUMBERS)
            kind, stored_bits, stored = self.header()
            if (stored_bits, stored) != (bits, count):
                raise ValueError("its graph and its codes do not belong together; it is damaged")
        if kind != _FLAT:
            raise ValueError("it holds an index within an index; copy it into an IndexBinaryFlat")
        values = np.frombuffer(self.vector(1), np.uint8)
        if values.size != count * bits // 8:
            raise ValueError(f"{values.size} bytes for {count} codes of {bits} bits; it is damaged")
        return Contents(values.reshape(count, bits // 8), None, bits)
