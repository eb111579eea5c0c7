"""Exact search among binary codes: NumPy and numba, nothing else."""

from search.codes import pack, unpack
from search.scan import hamming_knn, hamming_radius

__all__ = [
    "hamming_knn",
    "hamming_radius",
    "pack",
    "unpack",
]
