"""Learned binary codes for image retrieval: networks, losses, training and evaluation in JAX.

Images become codes in four steps, each a module: `jaxhash.data` reads them,
`jaxhash.training` trains a network of `jaxhash.nets` by a method of `jaxhash.method`,
`jaxhash.encoding` turns images into codes and features, and `jaxhash.evaluation` says how good
these are. The package `search`, which needs no JAX, finds the neighbours.
"""

from importlib import metadata

try:
    __version__ = metadata.version("jaxhash")
except metadata.PackageNotFoundError:  # a bare checkout on the import path
    __version__ = "unknown"
