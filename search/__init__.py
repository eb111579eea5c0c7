"""Exact search among binary codes: NumPy and numba, nothing else."""

from search.codes import pack, unpack
from search.exhaustive import euclidean_knn
from search.index import HashIndex
from search.listed import ranked_measure
from search.merge import merge
from search.ranking import (
    Measures,
    average_precision,
    measure,
    precision_at,
    precision_recall,
    within_radius,
)
from search.rerank import asymmetric, rerank
from search.scan import hamming_knn, hamming_radius
from search.storage import DamagedFile
from search.writing import Writer

__all__ = [
    "DamagedFile",
    "HashIndex",
    "Measures",
    "Writer",
    "asymmetric",
    "average_precision",
    "euclidean_knn",
    "hamming_knn",
    "hamming_radius",
    "measure",
    "merge",
    "pack",
    "precision_at",
    "precision_recall",
    "ranked_measure",
    "rerank",
    "unpack",
    "within_radius",
]
