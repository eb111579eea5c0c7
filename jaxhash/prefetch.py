"""Read the next batches in the background while the device computes."""

from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")


def ahead(read: Callable[[int], T], steps: range, buffer: int = 3) -> Generator[T, None, None]:
    """read(step) of each step in order, up to `buffer` of them read in the background.

    One thread reads, so that what is read from need not bear several. An exception in it is raised
    where its value is due. Close the iterator to stop early: a read that has begun is finished,
    and no other is started.

    Example:
        >>> list(ahead(lambda step: step * step, range(2, 5)))
        [4, 9, 16]
    """
    if len(steps) < 2:
        # Nothing to read ahead: a single query spares itself half a second of imports.
        yield from map(read, steps)
        return
    import grain

    numbers = grain.MapDataset.range(steps.start, steps.stop, steps.step)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=buffer)
    values = iter(numbers.map(read).to_iter_dataset(options, allow_nones=True))
    try:
        yield from values
    finally:
        values.close()
