"""Search shards on a Ray cluster, with Ray Serve: each of them in several places, through kills.

A part is some consecutive files of a folder of shards, and a deployment with replicas. A router
asks all parts and merges, see `search.scattered`. Which folder is searched says a pointer, a file
that holds its path: it is read once for a request, and its answer goes with both rounds, so that
an answer is wholly of the old folder or wholly of the new one.
"""

import asyncio
import contextlib
import functools
import hashlib
import os
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from jaxhash.shards.packing import Ids, Packed, between, ends, pack, pack_ids, unpack, unpack_ids
from jaxhash.shards.pointer import current
from search import HashIndex
from search.merging import Result
from search.scattered import search_shards
from search.shards import files

APPLICATION = "jaxhash"
KNOWN = (ValueError, TypeError, OSError)
"""Errors of a part that are given on as they are."""
OPENED = 2
"""Generations that a replica keeps mapped: the new one, and the one that requests may still ask."""

Told = tuple[str, Packed]
"""What a replica answers: a hash of what its shards say of their generation, and the result."""


class Answer(NamedTuple):
    """What `search` gives, and the folder that it came from."""

    distances: np.ndarray
    ids: np.ndarray
    folder: str


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

    def _open(self, folder: str) -> tuple[HashIndex, str]:
        paths = files(folder)
        start, stop = (each * len(paths) // self.parts for each in (self.part, self.part + 1))
        if start == stop:
            raise ValueError(f"parts is {self.parts}, and {folder} has {len(paths)} shards")
        index = HashIndex.open(paths[start:stop])
        shared = repr(sorted(index.attachments.items()))
        return index, hashlib.sha256(shared.encode()).hexdigest()

    def search(self, folder: str, queries: np.ndarray, k: int, options: dict[str, Any]) -> Told:
        """As `HashIndex.search`."""
        index, generation = self.index(folder)
        return generation, pack(index.search(queries, k, threads=self.threads, **options))

    def rerank(
        self,
        folder: str,
        query_features: np.ndarray | None,
        ids: Ids,
        k: int,
        options: dict[str, Any],
    ) -> Told:
        """As `HashIndex.rerank`."""
        (index, generation), near = self.index(folder), unpack_ids(ids)
        found = index.rerank(query_features, near, k, threads=self.threads, **options)
        return generation, pack(found)


def attempts(tries: int) -> Iterator[AbstractContextManager[None]]:
    """Blocks in which a replica is called, until one of them returns.

    Raises:
        ValueError, TypeError, OSError: what a replica said is wrong.
        TimeoutError: no try is left.
    """
    for left in reversed(range(tries)):
        yield _attempt(left, tries)


@contextlib.contextmanager
def _attempt(left: int, tries: int) -> Iterator[None]:
    import ray

    try:
        yield
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, KNOWN) else error) from error
    except (ray.exceptions.RayError, TimeoutError) as error:
        if not left:
            raise TimeoutError(f"no replica answered in {tries} tries") from error


class Remote:
    """A part, asked through its replicas: each is asked again elsewhere if it does not answer.

    Args:
        handle: of the part.
        folder: that is searched.
        seconds: that a replica may take.
        tries: calls, until the part is given up.
    """

    def __init__(self, handle: Any, folder: str, seconds: float, tries: int) -> None:
        self.handle, self.folder, self.seconds, self.tries = handle, folder, seconds, tries
        self.ends: tuple[int, int] | None = None
        self.generations: set[str] = set()

    async def _ask(self, call: Callable[[], Any]) -> Result:
        for attempt in attempts(self.tries):
            with attempt:
                generation, found = await asyncio.wait_for(call(), self.seconds)
                self.generations.add(generation)
                return unpack(found)
        raise AssertionError("tries is at least 1")

    async def search(self, queries: np.ndarray, k: int, **options: Any) -> Result:
        """The nearest of the part."""
        words = (self.folder, queries, k, options)
        found = await self._ask(lambda: self.handle.search.remote(*words))
        self.ends = ends(found[1])
        return found

    async def rerank(self, query_features: Any, ids: np.ndarray, k: int, **options: Any) -> Result:
        """The best of candidates; those that cannot be of this part stay here."""
        if self.ends is not None:
            ids = between(ids, *self.ends)
        words = (self.folder, query_features, pack_ids(ids), k, options)
        return await self._ask(lambda: self.handle.rerank.remote(*words))


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

    async def search(
        self, queries: np.ndarray, k: int, folder: str | None, options: dict[str, Any]
    ) -> Answer:
        """As `search.scattered.search_shards`, in a folder: the current one by default."""
        folder = folder or current(self.pointer)
        shards: list[Any] = [
            Remote(each, folder, self.seconds, self.tries) for each in self.handles
        ]
        loop = asyncio.get_running_loop()

        def at_once(ask: Callable[[Any], Any], shards: Sequence[Any]) -> list[Result]:
            """Ask all parts from this loop, and wait in the thread that merges."""
            return asyncio.run_coroutine_threadsafe(_all(map(ask, shards)), loop).result()

        asked = functools.partial(search_shards, shards, queries, k, each=at_once, **options)
        answer = Answer(*await asyncio.to_thread(asked), folder)
        if len(set().union(*(each.generations for each in shards))) > 1:
            raise ValueError(
                f"{folder}: its shards were replaced by those of another generation while they "
                "are searched; encode into another folder, and point to it"
            )
        return answer


async def _all(calls: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    return await asyncio.gather(*calls)


def check(pointer: str | os.PathLike[str], parts: int) -> None:
    """Refuse a folder of shards that is not whole, or more parts than it has shards.

    Raises:
        FileNotFoundError: shards are missing.
        search.DamagedFile: one is cut short or altered.
        ValueError: they do not belong together, or there are fewer of them than parts.
    """
    folder = current(pointer)
    HashIndex.open(folder)
    shards = len(files(folder))
    if not 1 <= parts <= shards:
        raise ValueError(f"parts is {parts}, and there are {shards} shards; give 1 to {shards}")


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
        FileNotFoundError, search.DamagedFile, ValueError: as `check`.
        ModuleNotFoundError: Ray is not installed.

    Example:
        >>> ray.init(address="auto")  # doctest: +SKIP
        >>> handle = start("current", parts=4)  # doctest: +SKIP
    """
    from ray import serve

    check(pointer, parts)
    for name, value in (("replicas", replicas), ("routers", routers)):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
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
    folder: str | None = None,
    seconds: float = 60,
    tries: int = 4,
    **options: Any,
) -> Answer:
    """Search all shards: bit for bit what one index of them gives.

    Args:
        handle: from `start`.
        queries: uint8 (q, ceil(bits / 8)).
        k: results for each query.
        folder: of shards, where it is not to be the one that the pointer names by then.
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
    for attempt in attempts(tries):
        with attempt:
            return handle.search.remote(queries, k, folder, options).result(timeout_s=seconds)
    raise AssertionError("tries is at least 1")
