"""Exact search among binary codes: NumPy and numba, nothing else."""

from importlib import metadata as _metadata

from search.codes import pack, unpack
from search.files.checksums import DamagedFile
from search.files.writing import Writer
from search.fine.exhaustive import euclidean_knn
from search.fine.rerank import asymmetric, rerank
from search.hamming.direct import hamming_knn, hamming_radius
from search.index import HashIndex
from search.measures.listed import ranked_measure
from search.measures.ranking import (
    average_precision,
    measure,
    precision_at,
    precision_recall,
    within_radius,
)
from search.measures.result import Measures
from search.merging import merge

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

try:
    __version__ = _metadata.version("jaxhash")
except _metadata.PackageNotFoundError:  # a copy of the sources that was not installed
    __version__ = "unknown"
