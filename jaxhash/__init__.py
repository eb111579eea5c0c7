"""Learned binary codes for image retrieval: train a network, encode images, search by content.

    import jaxhash

    model = jaxhash.train("photos/", "runs/photos", method="orthohash", bits=64)
    index = jaxhash.index(model, "photos/", "photos.index")
    index.query("beach.jpg", k=10, pool=200).paths

The names below are imported when they are first used, so that `import jaxhash` costs nothing. The
package `search`, which needs no JAX, finds the neighbours and can be used alone.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

try:
    __version__ = metadata.version("jaxhash")
except metadata.PackageNotFoundError:  # a bare checkout on the import path
    __version__ = "unknown"

if TYPE_CHECKING:
    from jaxhash.config import Config
    from jaxhash.data import Dataset
    from jaxhash.evaluation.result import Result, ResultWithoutLabels
    from jaxhash.found import Found
    from jaxhash.image_index import ImageIndex
    from jaxhash.index_files import build as index
    from jaxhash.index_files import open_index
    from jaxhash.library import (
        datasets,
        evaluate,
        load,
        methods,
        networks,
        register,
        register_dataset,
        train,
    )
    from jaxhash.method import Method
    from jaxhash.models import Model
    from jaxhash.nets import Network

__all__ = [
    "Config",
    "Dataset",
    "Found",
    "ImageIndex",
    "Method",
    "Model",
    "Network",
    "Result",
    "ResultWithoutLabels",
    "datasets",
    "evaluate",
    "index",
    "load",
    "methods",
    "networks",
    "open_index",
    "register",
    "register_dataset",
    "train",
]

_LIBRARY = "datasets evaluate load methods networks register register_dataset train"
_WHERE = {name: ("library", name) for name in _LIBRARY.split()} | {
    "Config": ("config", "Config"),
    "Dataset": ("data", "Dataset"),
    "Found": ("found", "Found"),
    "ImageIndex": ("image_index", "ImageIndex"),
    "Method": ("method", "Method"),
    "Model": ("models", "Model"),
    "Network": ("nets", "Network"),
    "Result": ("evaluation.result", "Result"),
    "ResultWithoutLabels": ("evaluation.result", "ResultWithoutLabels"),
    "index": ("index_files", "build"),
    "open_index": ("index_files", "open_index"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _WHERE:
        raise AttributeError(f"module 'jaxhash' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    value = getattr(import_module(f"jaxhash.{module}"), attribute)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
