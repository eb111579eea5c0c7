"""The service without HTTP: a model and an index kept in memory, with queues before them."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from jaxhash import models, retrieval, runs, sharding
from jaxhash.data import Undecodable
from jaxhash.encoding import Encoded
from jaxhash.image_index import ImageIndex
from jaxhash.index_files import open_index
from jaxhash.models import Model
from jaxhash.serve import pictures, report, searching
from jaxhash.serve.batching import Batcher
from jaxhash.serve.errors import Refused, busy
from jaxhash.serve.limits import Limits
from jaxhash.serve.metrics import Metrics
from jaxhash.serve.searching import Result, Wanted
from jaxhash.serve.snapshot import Ask, Mark, Snapshot, open_snapshot
from search.processors import available

Value = TypeVar("Value")
LOOK = 0.5
"""Seconds between two looks at the index file."""
log = logging.getLogger("jaxhash.serve")


class Service:
    """Everything that requests share.

    Args:
        run: folder of the run that made the index.
        index: the index file; a new one in its place is taken up while the service runs.
        folder: pictures are shown from it alone; the folder that was encoded by default.
        limits: of requests.
        writable: whether clients may add and remove items.
        ask: who searches, where that is not this process, see `on_ray`; the index is then a folder
            of shards, or a file that names one.

    Raises:
        FileNotFoundError: there is no such run or index.
        ValueError: the index was made by another model.

    Example:
        >>> service = Service("runs/photos", "photos.index")  # doctest: +SKIP
        >>> async with service.running():  # doctest: +SKIP
        ...     result = await service.search(Wanted(k=10, ids=[3]))
    """

    def __init__(
        self,
        run: Path | str,
        index: Path | str,
        *,
        folder: Path | None = None,
        limits: Limits | None = None,
        writable: bool = False,
        ask: Ask | None = None,
    ) -> None:
        self.run, self.index, self.folder = Path(run), Path(index), folder
        self._ask = ask
        self.limits = limits or Limits()
        self.writable = writable
        self.metrics = Metrics()
        model = models.load(self.run)
        # On the device once and for all, and not anew with every batch.
        variables = sharding.everywhere(dict(model.variables), sharding.local_mesh())
        self.model = replace(model, variables=variables)
        self.problem: str | None = None
        self._refused: str | None = None
        self._reported: tuple[tuple[str, str], dict[str, Any]] = ("", ""), {}
        self.snapshot = self._open()
        self._threads = ThreadPoolExecutor(available(), thread_name_prefix="pictures")
        self._decoding = 0
        self._changing = asyncio.Lock()

    def _open(self) -> Snapshot:
        """The index as its file is now."""
        snapshot = open_snapshot(self.index, self.model, self.folder, self._ask)
        self.metrics.items.set(len(snapshot))
        return snapshot

    def warm(self) -> None:
        """Compile the network for every size of batch, so that no client waits for it."""
        if self.model.spec.takes != "images":
            return
        most = min(self.limits.images, self.model.spec.batch)
        for power in range((most - 1).bit_length() + 1):
            size = min(1 << power, most)
            blank = np.zeros((size, *self.model.spec.item_shape), np.uint8)
            retrieval.encode_queries(self.model, blank)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer requests inside; at the end, what has begun is finished."""
        observe = self.metrics.batch.labels
        self._search: Batcher[Wanted, Result] = Batcher(
            self._answer,
            size=self.limits.batch,
            waiting=self.limits.waiting,
            what="queries are waiting",
            on_batch=observe("search").observe,
        )
        self._encode: Batcher[np.ndarray, Encoded] = Batcher(
            self._encoded,
            size=self.limits.images,
            waiting=self.limits.waiting,
            what="images are waiting",
            on_batch=observe("encode").observe,
        )
        async with self._search, self._encode:
            watching = asyncio.create_task(self._watch())
            try:
                yield
            finally:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching
        self._threads.shutdown()

    # ---------------------------------------------------------------- queries

    async def search(self, wanted: Wanted) -> Result:
        """What was found for the queries of one request.

        Raises:
            Refused: an item or filter is not there, or too much is waiting.
        """
        weight = len(wanted.codes if wanted.codes is not None else wanted.ids or wanted.paths or ())
        return await self._search.submit(wanted, weight)

    def _answer(self, requests: list[Wanted]) -> Sequence[Result | Exception]:
        return searching.answer(self.snapshot, requests)  # one snapshot for all of the batch

    async def encode_files(
        self, files: Sequence[tuple[str, bytes]]
    ) -> tuple[Encoded, dict[str, float]]:
        """Codes and features of uploaded files.

        Args:
            files: name and bytes of each.

        Returns:
            What the network made of them, and the milliseconds of decoding and encoding.

        Raises:
            Refused: one of them cannot be decoded, or too many are waiting.
        """
        start = time.perf_counter()
        spec, pixels = self.model.spec, self.limits.pixels
        images = [
            await self.in_thread(pictures.decode, data, spec, pixels, name) for name, data in files
        ]
        decoded = time.perf_counter()
        encoded = await self.encode(images)
        done = time.perf_counter()
        return encoded, {"decode": 1e3 * (decoded - start), "encode": 1e3 * (done - decoded)}

    async def encode(self, images: Sequence[np.ndarray]) -> Encoded:
        """Codes and features of decoded images.

        Raises:
            Refused: too many are waiting.
        """
        parts = await asyncio.gather(
            *(self._encode.submit(image) for image in images), return_exceptions=True
        )
        for part in parts:
            if isinstance(part, BaseException):
                raise part
        codes, features = (
            np.stack([getattr(part, name) for part in parts]) for name in ("codes", "features")
        )
        return Encoded(codes=codes, features=features, latent=None, logits=None)

    def _encoded(self, images: list[np.ndarray]) -> list[Encoded]:
        found = retrieval.encode_queries(self.model, np.stack(images))
        return [
            Encoded(codes=code, features=feature, latent=None, logits=None)
            for code, feature in zip(found.codes, found.features, strict=True)
        ]

    # ---------------------------------------------------------------- pictures

    async def thumbnail(self, item: int, size: int, whole: bool) -> tuple[bytes, str]:
        """A picture of an item and its media type, see `pictures.thumbnail`.

        Raises:
            Refused: there is none that may be shown, or too many are waiting.
        """
        make = partial(pictures.thumbnail, size=size, whole=whole, pixels=self.limits.pixels)
        return await self.in_thread(make, self.snapshot, item)

    async def in_thread(self, act: Callable[..., Value], *words: object) -> Value:
        """Call what would keep the event loop from other requests; a bounded number at a time.

        Raises:
            Refused: too many are waiting.
        """
        if self._decoding >= self.limits.waiting:
            raise busy("pictures are waiting")
        self._decoding += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, act, *words)
        finally:
            self._decoding -= 1

    async def report(self) -> dict[str, Any]:
        """What the page of the run shows; made once for each index and each evaluation.

        Raises:
            Refused: too many are waiting.
        """
        return await self.in_thread(self._report)

    def _report(self) -> dict[str, Any]:
        results = self.run / runs.RESULTS
        state = (self.snapshot.version, str(Mark.of(results)) if results.is_file() else "")
        if self._reported[0] != state:
            words = described(self.model)
            self._reported = (state, report.report(self.run, self.snapshot, words))
        return self._reported[1]

    # ---------------------------------------------------------------- the index file

    def metrics_text(self) -> bytes:
        """The counters, with what is waiting now."""
        self.metrics.waiting.labels("search").set(self._search.waiting)
        self.metrics.waiting.labels("encode").set(self._encode.waiting)
        return self.metrics.text()

    async def _watch(self) -> None:
        """Take up the index file whenever it is another one."""
        while True:
            await asyncio.sleep(LOOK)
            with contextlib.suppress(OSError):  # it is gone, for now: what was read is served
                await self.refresh()

    async def refresh(self) -> None:
        """Take up the index file if it is another one; keep the old index where that fails.

        Requests go on meanwhile; each is answered wholly from the old or the new index.
        """
        async with self._changing:
            await asyncio.to_thread(self._take_up)

    def _take_up(self) -> None:
        mark = str(Mark.of(self.index))
        if mark in (self.snapshot.version, self._refused):
            return
        start = time.perf_counter()
        try:
            snapshot = self._open()
        except Exception as error:
            # What is there is no index of this model, perhaps not yet: the old one is served.
            self._refused, self.problem = mark, self._told(error)
            self.metrics.reloads.labels("no").inc()
            log.warning("%s is not taken up: %s", self.index, error)
            return
        self.snapshot, self.problem = snapshot, None
        self.metrics.reloads.labels("yes").inc()
        took = time.perf_counter() - start
        log.info("%s: %d items, taken up in %.2f s", self.index, len(snapshot), took)

    async def add(self, paths: Sequence[str]) -> tuple[list[int], int]:
        """Encode files of the folder into the index and its file; queries go on meanwhile.

        Args:
            paths: in the folder of the images.

        Returns:
            Their ids, and the number of items that there are now.

        Raises:
            Refused: a path leads out of the folder or to no picture, or the file is not an index
                that can be changed.
        """
        files = [pictures.in_folder(path, self.snapshot.folder) for path in paths]
        return await self._change(lambda images: images.add(files).tolist())

    async def remove(self, item: int) -> int:
        """Remove an item from the index and its file; queries go on meanwhile.

        Args:
            item: its id.

        Returns:
            The number of items that remain.

        Raises:
            Refused: there is no such item, or the file is not an index that can be changed.
        """

        def drop(images: ImageIndex) -> None:
            if item not in images.codes:
                raise Refused(404, f"no item has the id {item}")
            images.remove([item])

        return (await self._change(drop))[1]

    def _told(self, error: Exception) -> str:
        """A reason as clients may have it: not where on the machine anything is."""
        words = str(error).replace(str(self.index), self.index.name)
        folder = self.snapshot.folder
        return words if folder is None else words.replace(f"{folder}{os.sep}", "")

    async def _change(self, act: Callable[[ImageIndex], Value]) -> tuple[Value, int]:
        """Change the index apart from what is served, write it, and take it up."""
        async with self._changing:
            return await asyncio.to_thread(self._write, act)

    def _write(self, act: Callable[[ImageIndex], Value]) -> tuple[Value, int]:
        try:
            # What another program wrote must not be undone: it is opened as it is now.
            images = open_index(self.index, self.model, root=self.folder)
            value = act(images)
            images.save()
        except Undecodable as error:
            raise Refused(422, self._told(error)) from None
        except (ValueError, OSError) as error:
            raise Refused(409, f"the index is as it was: {self._told(error)}") from None
        self.snapshot, self.problem = self._open(), None
        return value, len(self.snapshot)


def described(model: Model) -> str:
    """A model in a few words.

    Example:
        >>> described(model)  # doctest: +SKIP
        'itq, 64 bits, efficientnet-lite0'
    """
    return f"{model.spec.method}, {model.bits} bits, {model.spec.network}"
