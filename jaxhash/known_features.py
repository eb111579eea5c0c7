"""Features that a run has kept of image files, found again by the bytes of the files.

Encoding takes them for files that the run's backbone has seen, wherever these lie now.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from jaxhash import models, runs
from jaxhash.models import Model
from jaxhash.spec import ModelSpec


class KnownFeatures:
    """Features of files that were decoded before, by the head of each file's SHA-256.

    Args:
        features: float32 (m, d).
        digests: uint8 (m, `DIGEST_BYTES`), zeros for files that are not known.

    Example:
        >>> digests = np.array([[1] * 16, [2] * 16], np.uint8)
        >>> known = KnownFeatures(np.eye(2, dtype=np.float32), digests)
        >>> known.rows(np.array([[2] * 16, [3] * 16], np.uint8))
        array([ 1, -1])
    """

    def __init__(self, features: np.ndarray, digests: np.ndarray) -> None:
        self.features = features
        self._rows = {digest.tobytes(): row for row, digest in enumerate(digests) if digest.any()}

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, digest: object) -> bool:
        return digest in self._rows

    def rows(self, digests: np.ndarray) -> np.ndarray:
        """Rows of `features`, int64 (n,), of digests uint8 (n, `DIGEST_BYTES`); -1 for others."""
        return np.array([self._rows.get(one.tobytes(), -1) for one in digests], np.int64)


def find(model: Model) -> KnownFeatures | None:
    """The features that the run of a model has kept of files; None where it has not.

    A file of features that is damaged, or of another backbone, is as if it were not there.

    Example:
        >>> len(find(jaxhash.load("runs/photos")))  # doctest: +SKIP
        3000
    """
    if model.run is None or not model.spec.on_backbone:
        return None
    backbone = None
    features, digests = [], []
    for name in (runs.FEATURES, runs.UNLABELLED):
        path = model.run / name
        if not path.is_file():
            continue
        backbone = backbone or fingerprint(model.spec, model.variables["params"].get("trunk", {}))
        arrays = read(path, {"backbone": backbone})
        if arrays is not None and "digests" in arrays:
            features.append(arrays["features"])
            digests.append(arrays["digests"])
    if not features:
        return None
    # One array is not copied: it can take half a gigabyte.
    alone = len(features) == 1
    return KnownFeatures(
        features[0] if alone else np.concatenate(features),
        digests[0] if alone else np.concatenate(digests),
    )


def read(path: Path, wanted: Mapping[str, str]) -> dict[str, np.ndarray] | None:
    """The arrays of a file of features; None where it is damaged, or does not say what is wanted.

    Example:
        >>> read(Path("runs/photos/features.safetensors"), {})["features"].shape  # doctest: +SKIP
        (3000, 1280)
    """
    try:
        with safetensors.safe_open(path, "numpy") as file:
            said = file.metadata() or {}
            if any(said.get(name) != value for name, value in wanted.items()):
                return None
            # An open file has keys, but is not iterable.
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError):
        return None
    return arrays if said.get("sha256") in (None, checksum(arrays)) else None


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """The SHA-256 of arrays, in hexadecimal."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def fingerprint(spec: ModelSpec, trunk: Mapping[str, Any]) -> str:
    """A hash of all that the features of an image depend on besides the image.

    spec: of a model on the backbone. trunk: the parameters of the backbone.
    """
    return models.fingerprint(Model(spec.of_backbone(), {"params": {"trunk": trunk}}))
