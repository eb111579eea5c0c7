"""Exact search among binary codes: NumPy and numba, nothing else."""

from search.codes import pack, unpack
from search.listed import ranked_measure
from search.ranking import (
    Measures,
    average_precision,
    measure,
    precision_at,
    precision_recall,
    within_radius,
)
from search.scan import hamming_knn, hamming_radius

__all__ = [
    "Measures",
    "average_precision",
    "hamming_knn",
    "hamming_radius",
    "measure",
    "pack",
    "precision_at",
    "precision_recall",
    "ranked_measure",
    "unpack",
    "within_radius",
]
