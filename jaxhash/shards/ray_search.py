"""Search shards on a Ray cluster, with Ray Serve: each of them in several places, through kills.

A part is some consecutive files of a folder of shards, and a deployment with replicas. A router
asks all parts and merges, see `search.scattered`. Which folder is searched says a pointer, a file
that holds its path: it is read once for a request, and its answer goes with both rounds, so that
an answer is wholly of the old folder or wholly of the new one.
"""

import asyncio
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from search import HashIndex
from search.files.atomic import replacing
from search.merging import Result
from search.scattered import search_shards
from search.shards import files

APPLICATION = "jaxhash"
KNOWN = (ValueError, TypeError, OSError)
"""Errors of a part that are given on as they are."""
OPENED = 2
"""Generations that a replica keeps mapped: the new one, and the one that requests may still ask."""


class Answer(NamedTuple):
    """What `search` gives, and the folder that it came from."""

    distances: np.ndarray
    ids: np.ndarray
    folder: str


def point(pointer: str | os.PathLike[str], folder: str | os.PathLike[str]) -> None:
    """Make a pointer name a folder of shards; searches that begin from now on see that one.

    Args:
        pointer: a file, which appears or changes whole.
        folder: of shards that are all there.

    Raises:
        FileNotFoundError: shards are missing.

    Example:
        >>> point("current", "photos-2.index/")  # doctest: +SKIP
    """
    files(folder)
    with replacing(pointer) as file:
        file.write(os.fsencode(os.path.abspath(folder)))


def current(pointer: str | os.PathLike[str]) -> str:
    """The folder that a pointer names."""
    return os.fsdecode(Path(pointer).read_bytes())


class Part:
    """A replica of some of the files: answers from the folder that it is asked for.

    Args:
        part: which of the parts.
        parts: their number.
        threads: of a search; all processors by default.
    """

    def __init__(self, part: int, parts: int, threads: int | None) -> None:
        self.part, self.parts, self.threads = part, parts, threads
        self.index = functools.lru_cache(maxsize=OPENED)(self._open)

    def process(self) -> int:
        """The number of the process that answers: one of the replicas'."""
        return os.getpid()

    def _open(self, folder: str) -> HashIndex:
        paths = files(folder)
        start, stop = (each * len(paths) // self.parts for each in (self.part, self.part + 1))
        if start == stop:
            raise ValueError(f"parts is {self.parts}, and {folder} has {len(paths)} shards")
        return HashIndex.open(paths[start:stop])

    def search(self, folder: str, queries: np.ndarray, k: int, options: dict[str, Any]) -> Result:
        """As `HashIndex.search`."""
        return self.index(folder).search(queries, k, threads=self.threads, **options)

    def rerank(
        self,
        folder: str,
        query_features: np.ndarray | None,
        ids: np.ndarray,
        k: int,
        options: dict[str, Any],
    ) -> Result:
        """As `HashIndex.rerank`."""
        index = self.index(folder)
        return index.rerank(query_features, ids, k, threads=self.threads, **options)


class Pending:
    """A call that is under way, and is made again where its replica is lost or does not answer."""

    def __init__(self, call: Callable[[], Any], seconds: float, tries: int) -> None:
        self.call, self.seconds, self.tries = call, seconds, tries
        self.response = call()

    def result(self) -> Any:
        """Wait for it.

        Raises:
            ValueError, OSError: of the replica.
            TimeoutError: no replica answered, at the last try.
        """
        import ray

        for left in reversed(range(self.tries)):
            try:
                return self.response.result(timeout_s=self.seconds)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, KNOWN) else error) from error
            except (ray.exceptions.RayError, TimeoutError) as error:
                if not left:
                    raise TimeoutError(f"no replica answered in {self.tries} tries") from error
                self.response = self.call()
        raise AssertionError("tries is at least 1")


class Remote:
    """A `search.scattered.Shard` whose calls are pending."""

    def __init__(self, handle: Any, folder: str, seconds: float, tries: int) -> None:
        self.handle, self.folder = handle, folder
        self.pending = functools.partial(Pending, seconds=seconds, tries=tries)

    def search(self, queries: np.ndarray, k: int, **options: Any) -> Any:
        """Ask for the nearest."""
        return self.pending(lambda: self.handle.search.remote(self.folder, queries, k, options))

    def rerank(self, query_features: Any, ids: np.ndarray, k: int, **options: Any) -> Any:
        """Ask for the best of candidates."""
        words = (self.folder, query_features, ids, k, options)
        return self.pending(lambda: self.handle.rerank.remote(*words))


def at_once(ask: Callable[[Any], Any], shards: Sequence[Any]) -> list[Result]:
    """Ask all shards, then wait for all."""
    return [pending.result() for pending in [ask(shard) for shard in shards]]


class Router:
    """Answers requests: one of several, none of which keeps anything.

    Args:
        pointer: see `point`.
        handles: of the parts.
        seconds: that a part may take.
        tries: calls of a part, until it is given up.
    """

    def __init__(self, pointer: str, handles: list[Any], seconds: float, tries: int) -> None:
        self.pointer, self.handles, self.seconds, self.tries = pointer, handles, seconds, tries

    def process(self) -> int:
        """As `Part.process`."""
        return os.getpid()

    async def search(self, queries: np.ndarray, k: int, options: dict[str, Any]) -> Answer:
        """As `search.scattered.search_shards`."""
        folder = current(self.pointer)
        shards = [Remote(each, folder, self.seconds, self.tries) for each in self.handles]
        asked = functools.partial(search_shards, shards, queries, k, each=at_once, **options)
        return Answer(*await asyncio.to_thread(asked), folder)


def start(
    pointer: str | os.PathLike[str],
    *,
    parts: int,
    replicas: int = 2,
    routers: int = 2,
    seconds: float = 10,
    tries: int = 4,
    threads: int | None = None,
    cpus: float = 1,
    spread: bool = False,
) -> Any:
    """Start the parts and routers in the Ray cluster that this process has joined.

    Args:
        pointer: names the folder of shards, see `point`; all machines see it and the folder.
        parts: into how many the files are divided; at most their number.
        replicas: of each part.
        routers: at least two, so that one may be lost.
        seconds: that a part may take to answer, before another replica is asked.
        tries: calls of a part, until it is given up.
        threads: of a search in a part; all processors by default.
        cpus: that Ray sets aside for each replica and router.
        spread: let no machine hold two replicas of a part, or two routers.

    Returns:
        What `search` takes.

    Raises:
        FileNotFoundError: shards are missing.
        ModuleNotFoundError: Ray is not installed.

    Example:
        >>> ray.init(address="auto")  # doctest: +SKIP
        >>> handle = start("current", parts=4)  # doctest: +SKIP
    """
    from ray import serve

    files(current(pointer))
    serve.start(proxy_location="Disabled")
    apart = {"max_replicas_per_node": 1} if spread else {}
    beside: dict[str, Any] = {
        "ray_actor_options": {"num_cpus": cpus},
        "health_check_period_s": 2,
        "health_check_timeout_s": 5,
        **apart,
    }
    part_of = serve.deployment(num_replicas=replicas, **beside)(Part)
    bound = [
        part_of.options(name=f"part-{part}").bind(part, parts, threads) for part in range(parts)
    ]
    router = serve.deployment(num_replicas=routers, **beside)(Router)
    application = router.bind(os.path.abspath(pointer), bound, seconds, tries)
    return serve.run(application, name=APPLICATION, route_prefix=None)


def search(
    handle: Any,
    queries: np.ndarray,
    k: int,
    *,
    seconds: float = 60,
    tries: int = 4,
    **options: Any,
) -> Answer:
    """Search all shards: bit for bit what one index of them gives.

    Args:
        handle: from `start`.
        queries: uint8 (q, ceil(bits / 8)).
        k: results for each query.
        seconds: that a router may take, before another one is asked.
        tries: calls of a router.
        options: `query_features`, `query_latents`, `threshold`, `pool` and `radius`, as in
            `HashIndex.search`.

    Returns:
        Distances and ids, and the folder that they came from.

    Raises:
        ValueError, OSError: of the parts.
        TimeoutError: no router answered.

    Example:
        >>> search(handle, codes, 10, query_features=features, pool=200).ids  # doctest: +SKIP
    """
    call = functools.partial(handle.search.remote, queries, k, options)
    return Pending(call, seconds, tries).result()
