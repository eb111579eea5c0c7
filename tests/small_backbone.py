"""A backbone of the tests' own: its weights lie in a package that is made for a test."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import numpy as np
import pytest
import safetensors.numpy

from jaxhash import nets
from jaxhash.training import backbones
from jaxhash.training.backbones import BACKBONES, Backbone


def known(
    name: str,
    trunk: Callable[..., nn.Module],
    weights: Mapping[str, np.ndarray],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    package: str,
    side: int,
    convert: Callable[[Any], Any] = dict,
) -> Backbone:
    """A backbone, the default one, known until the test ends; its package lies in a folder."""
    place = folder / "packages" / package.replace("-", "_")
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    file = place / "w.safetensors"
    safetensors.numpy.save_file(dict(weights), file)
    monkeypatch.syspath_prepend(place.parent)
    row = Backbone(
        network=name,
        package=package,
        file=file.name,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        convert=convert,
        side=side,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    monkeypatch.setitem(BACKBONES, name, row)
    monkeypatch.setattr(backbones, "DEFAULT", name)
    network = nets.Network(name, trunk, image_size=side, batch=8, backbone=True)
    monkeypatch.setitem(nets.NETWORKS, name, network)
    return row
