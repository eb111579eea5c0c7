"""The parts of an index on a Ray cluster, for a service that asks them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxhash.serve.snapshot import Ask
from jaxhash.shards import ray_search
from jaxhash.shards.cluster import joined
from search.merging import Result

TRIES = 4
"""Calls of a router, and of a part, until it is given up."""


@contextlib.contextmanager
def asking(
    address: str,
    index: Path,
    *,
    parts: int | None,
    replicas: int = 2,
    threads: int = 1,
    seconds: float = 30,
) -> Iterator[Ask]:
    """Join a cluster, start the parts there, and end what was started.

    Args:
        address: of the cluster, unless this process has joined one: "local" starts one of this
            machine alone, "auto" takes the one that runs here.
        index: a folder of shards, or a pointer to one, see `shards.pointer`.
        parts: into how many its shards are divided; None to ask those that run there already.
        replicas: of each part.
        threads: of a search in a part, and processors that Ray sets aside for each.
        seconds: that a request has.

    Yields:
        What searches a folder, as `Service` takes it.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        FileNotFoundError: shards are missing.
        ValueError: such parts run there already, or none do.
        ConnectionError: there is no such cluster.

    Example:
        >>> with asking("auto", "current", parts=4) as ask:  # doctest: +SKIP
        ...     service = Service("runs/photos", "current", ask=ask)
    """
    local = address == "local"
    if local and parts is None:
        raise ValueError('a cluster that is "local" has no parts yet; give their number')
    if parts is not None:
        ray_search.check(index, parts)
    with joined(address, needs="ray.serve"):
        from ray import serve

        runs = ray_search.APPLICATION in serve.status().applications
        if parts is None:
            if not runs:
                raise ValueError("no parts run on that cluster; give their number, to start them")
            handle = serve.get_app_handle(ray_search.APPLICATION)
        elif runs:
            raise ValueError("parts run on that cluster already; leave their number out")
        else:
            handle = ray_search.start(
                index,
                parts=parts,
                replicas=replicas,
                seconds=seconds / 3,
                tries=TRIES,
                threads=threads,
                cpus=0 if local else threads,  # one machine runs all of it, however small it is
            )
        try:
            yield _ask(handle, seconds)
        finally:
            if parts is not None:
                serve.delete(ray_search.APPLICATION)


def _ask(handle: Any, seconds: float) -> Ask:
    def ask(folder: str, queries: np.ndarray, k: int, **options: Any) -> Result:
        given = {name: value for name, value in options.items() if value is not None}
        found = ray_search.search(
            handle, queries, k, folder=folder, seconds=seconds, tries=TRIES, **given
        )
        return found.distances, found.ids

    return ask
