"""Work that arrives while other work is being done is done next, as one batch.

Nothing waits for a clock: one thread works on a batch, and what comes in meanwhile is the next one.
A single client is served at once, and the more there are, the larger the batches.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from jaxhash.serve.errors import busy

Job = TypeVar("Job")
Answer = TypeVar("Answer")


class Batcher(Generic[Job, Answer]):
    """A queue of bounded length in front of a function of many jobs.

    Args:
        work: called in a thread of its own with some jobs; returns an answer or an exception for
            each. What it raises is raised for each of them.
        size: weight of a batch, at most; a job of more weight is a batch by itself.
        waiting: weight of the jobs that wait, at most.
        what: is waiting, in words.
        on_batch: told the weight of each batch.

    Example:
        >>> async def both():
        ...     double = Batcher(lambda jobs: [2 * job for job in jobs], size=8, waiting=8)
        ...     async with double:
        ...         return await asyncio.gather(double.submit(1), double.submit(2))
        >>> asyncio.run(both())
        [2, 4]
    """

    def __init__(
        self,
        work: Callable[[list[Job]], Sequence[Answer | Exception]],
        *,
        size: int,
        waiting: int,
        what: str = "requests are waiting",
        on_batch: Callable[[int], None] = lambda weight: None,
    ) -> None:
        self._work = work
        self._size = size
        self._most = waiting
        self._what = what
        self._on_batch = on_batch
        self._jobs: deque[tuple[Job, int, asyncio.Future[Answer]]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")
        self._loop: asyncio.Task[None] | None = None
        self._closing = False
        self.waiting = 0

    async def __aenter__(self) -> "Batcher[Job, Answer]":
        self._loop = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish what is waiting, and stop."""
        assert self._loop is not None
        self._closing = True
        self._arrived.set()
        await self._loop
        self._thread.shutdown()

    async def submit(self, job: Job, weight: int = 1) -> Answer:
        """The answer to a job, when its batch is done.

        Raises:
            Refused: with 503, at once, where too much is waiting.
        """
        if self.waiting and self.waiting + weight > self._most:
            raise busy(self._what)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._jobs.append((job, weight, future))
        self.waiting += weight
        self._arrived.set()
        return await future

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch, total = self._take()
            if not batch:
                if self._closing:
                    return
                self._arrived.clear()
                continue
            self._on_batch(total)
            jobs = [job for job, _, _ in batch]
            try:
                answers = await loop.run_in_executor(self._thread, self._work, jobs)
            except Exception as error:
                answers = [error] * len(batch)
            for (_, _, future), answer in zip(batch, answers, strict=True):
                if future.done():  # its client is gone
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)

    def _take(self) -> tuple[list[tuple[Job, int, asyncio.Future[Answer]]], int]:
        """The jobs of the next batch and their weight; those whose clients are gone are dropped."""
        batch: list[tuple[Job, int, asyncio.Future[Answer]]] = []
        total = 0
        while self._jobs:
            job, weight, future = self._jobs[0]
            if batch and total + weight > self._size:
                break
            self._jobs.popleft()
            self.waiting -= weight
            if not future.done():
                batch.append((job, weight, future))
                total += weight
        return batch, total
