"""Several processes of one machine that encode the shards of a folder."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable
from ctypes import c_int64
from pathlib import Path
from typing import Any

import jax

from jaxhash import models
from jaxhash.models import Model
from jaxhash.shards.encoding import OnBatch, encode_missing
from jaxhash.shards.folder import Manifest, load

PERIOD = 0.25
"""Seconds between two looks at how far all processes are."""


def encode(
    model: Model,
    run: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    workers: int = 1,
    start: int = 0,
    batch_size: int | None = None,
    max_undecodable: float = 0.01,
    on_batch: OnBatch | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Manifest:
    """`encode_missing` in this process and `workers - 1` others, which end when this one does.

    A process that is killed leaves its shard to the others.

    Args:
        model: the one that the folder was begun with.
        run: the folder it was loaded from, for the others to load it too.
        folder: of the shards.
        workers: number of processes.
        start: the shard that this process looks at first; so that several callers begin apart.
        batch_size: as in `encode_missing`.
        max_undecodable: likewise.
        on_batch: called now and then, from another thread, with the number of images that were
            done since the last call.
        say: told of a process that has ended before its time.

    Returns:
        The manifest, all of whose shards are done.

    Raises:
        ValueError, OSError: as `encode_missing`.

    Example:
        >>> encode(model, "runs/photos", "photos.index/", workers=4).shards  # doctest: +SKIP
        20
    """
    options = {"batch_size": batch_size, "max_undecodable": max_undecodable}
    context = multiprocessing.get_context("spawn")
    # Without a lock, which a killed process would keep: each has a place of its own.
    done = context.RawArray(c_int64, workers)
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(done, over, on_batch), daemon=True)
    cache = jax.config.values["jax_compilation_cache_dir"]
    others: list[Any] = []
    finished = False
    try:
        for worker in range(1, workers):
            begin = start + worker * load(folder).shards // workers
            words = (os.getpid(), str(run), str(folder), begin, done, worker, options, cache)
            others.append(context.Process(target=_work, args=words, daemon=True))
            others[-1].start()
        watcher.start()
        manifest = encode_missing(
            model,
            folder,
            batch_size=batch_size,
            max_undecodable=max_undecodable,
            start=start,
            on_batch=lambda images: _count(done, 0, images),
        )
        finished = True
        return manifest
    finally:
        for other in others:
            if not finished:
                other.terminate()
            other.join()
            if finished and other.exitcode:
                say(f"a worker ended with {other.exitcode}: the others did its shards")
        over.set()
        if watcher.ident is not None:
            watcher.join()


def _count(done: Any, worker: int, images: int) -> None:
    done[worker] += images


def _watch(done: Any, over: threading.Event, on_batch: OnBatch | None) -> None:
    """Tell of what all processes have done, until it is over."""
    shown = 0
    while True:
        last = over.wait(PERIOD)
        now = sum(done)
        if on_batch is not None and now > shown:
            on_batch(now - shown)
        shown = now
        if last:
            return


def _work(
    parent: int,
    run: str,
    folder: str,
    start: int,
    done: Any,
    worker: int,
    options: dict[str, Any],
    cache: str | None,
) -> None:
    """One of the others."""
    jax.config.update("jax_compilation_cache_dir", cache)

    def count(images: int) -> None:
        _count(done, worker, images)
        if os.getppid() != parent:  # killed: whoever begins again would have to wait for us
            os._exit(1)

    try:
        count(0)
        encode_missing(models.load(Path(run)), folder, start=start, on_batch=count, **options)
    except (ValueError, OSError):
        sys.exit(1)  # the first process meets the same, and can say it
