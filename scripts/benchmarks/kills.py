"""Tools of the benchmarks on Ray: a cluster of their own, and what happens while threads ask it."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence

from jaxhash.shards import ray_search

LONGEST = 120
"""Seconds to wait for anything."""


@contextlib.contextmanager
def own_cluster(cpus: int) -> Iterator[str]:
    """A Ray cluster of this machine, at an address of its own: none that runs here is joined."""
    import ray

    cluster = ray.init(address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False)
    try:
        yield cluster.address_info["address"]
    finally:
        ray.shutdown()


def kill(deployment: str) -> float:
    """End a replica's process by SIGKILL; the reading of `time.perf_counter` just before."""
    from ray import serve

    one = serve.get_deployment_handle(deployment, ray_search.APPLICATION)
    process = one.process.remote().result(timeout_s=LONGEST)
    killed = time.perf_counter()
    os.kill(process, signal.SIGKILL)
    return killed


def kills_and_switch(parts: int, switch: Callable[[], object]) -> list[Callable[[], object]]:
    """Kills of a replica of up to three parts and of a router, then another change."""
    own = [f"part-{part}" for part in range(min(3, parts))]
    return [*(lambda name=name: kill(name) for name in (*own, "Router")), switch]


def through(
    changes: Sequence[Callable[[], object]],
    ask: Callable[[int, threading.Event], None],
    threads: int,
    seconds: float,
) -> None:
    """Make changes, evenly over some time, while threads ask.

    ask: called in each thread with its number, and an event that is set when it is over.
    """
    over = threading.Event()
    asking = [threading.Thread(target=ask, args=(number, over)) for number in range(threads)]
    for thread in asking:
        thread.start()
    for change in changes:
        time.sleep(seconds / (len(changes) + 1))
        change()
    time.sleep(seconds / (len(changes) + 1))
    over.set()
    for thread in asking:
        thread.join()
