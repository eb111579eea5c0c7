"""Several processes that work together: how they join, agree, tell each other, and end.

Each of them runs the same program on the devices of its own machine (`jax.distributed`). An error
in one of them ends all of them with a message, as the others would wait for it for ever.
"""

import contextlib
import hashlib
import json
import os
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxhash.supervising import LOST, supervise

T = TypeVar("T")

SILENCE = 40
"""Seconds without a sign of life after which a process counts as lost."""

LAST_WORDS = 5
"""Seconds that a process which fails waits for the others, which may be about to say the same."""


PIECE = 2**16
"""What is told is filled up to a multiple of so many bytes: each length is compiled for once."""


class OthersFailed(ValueError):
    """Other processes of the group failed, and say themselves why."""


# ---------------------------------------------------------------- joining and leaving


def join(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    *,
    notices: bool = False,
) -> None:
    """Find the other processes of the group, where there is one; see `supervising.supervise`.

    coordinator: host:port of the first one, "auto" on a cluster that jax knows, or None for a
    process on its own. processes, process: their number, and the number of this one. notices:
    whether SIGTERM is left to who asks for it (`stopping.Notice`); it ends the process otherwise.

    Raises:
        ValueError: some of them are missing or cannot be; the message says which.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise ValueError("processes and process need the coordinator too, as host:port")
    elif coordinator == "auto":
        if processes is not None or process is not None:
            raise ValueError(
                "the coordinator auto finds processes and process by itself; leave them out"
            )
        _begin(notices)
        try:
            jax.distributed.initialize(heartbeat_timeout_seconds=SILENCE)
        except ValueError:
            raise ValueError(
                "coordinator is auto, and this is no cluster that jax knows; give host:port, with "
                "processes and process"
            ) from None
    else:
        if not coordinator.rpartition(":")[2].isdecimal() or ":" not in coordinator:
            raise ValueError(f"coordinator is {coordinator!r}; give host:port, or auto")
        if processes is None or process is None:
            raise ValueError("coordinator needs processes and process too")
        if not 0 <= process < processes:
            raise ValueError(f"process is {process}; give 0 to {processes - 1}")
        _begin(notices)
        jax.distributed.initialize(
            coordinator, processes, process, heartbeat_timeout_seconds=SILENCE
        )


def _begin(notices: bool) -> None:
    supervise()
    if not notices:
        jax.config.update("jax_enable_preemption_service", False)


def leave(code: int) -> NoReturn:
    """End this process with an exit code, without waiting for others that may not come."""
    sys.stdout.flush()
    sys.stderr.flush()
    if code != LOST:
        end = threading.Timer(LAST_WORDS, os._exit, (code,))
        end.daemon = True
        end.start()
        with contextlib.suppress(Exception):
            jax.distributed.shutdown()  # waits until the others have come this far
    os._exit(code)


def is_loss(error: jax.errors.JaxRuntimeError) -> bool:
    """Whether a step failed because another process of the group is gone, as its text says.

    Example:
        >>> is_loss(jax.errors.JaxRuntimeError("Gloo all-reduce failed: Connection closed by peer"))
        False
    """
    signs = ("Gloo", "NCCL", "UNAVAILABLE", "coordination", "by peer")
    return jax.distributed.is_initialized() and any(sign in str(error) for sign in signs)


# ---------------------------------------------------------------- agreeing


def every(task: Callable[[], T]) -> T:
    """Do something in every process, and fail in all of them where it fails in one.

    Raises:
        OthersFailed: it failed in other processes alone.

    Example:
        >>> every(lambda: 3)
        3
    """
    if jax.process_count() == 1:
        return task()
    result, error = None, None
    try:
        result = task()
    except Exception as failed:
        error = failed
    failures = np.flatnonzero(multihost_utils.process_allgather(np.array(error is not None)))
    if error is not None:
        raise error
    if len(failures):
        names = ", ".join(map(str, failures))
        raise OthersFailed(f"ended, as process {names} failed; see its own message")
    return result  # type: ignore[return-value]


def first(task: Callable[[], object]) -> None:
    """Do something in the first process alone, and fail in all of them where it fails.

    Raises:
        OthersFailed: it failed, in processes other than the first.
    """
    every(task if jax.process_index() == 0 else lambda: None)


def of_first(task: Callable[[], T]) -> T:
    """Do something in the first process alone, for all: the others wait, and get its JSON.

    Raises:
        OthersFailed: it failed, in processes other than the first.

    Example:
        >>> of_first(lambda: {"mAP": 0.5})
        {'mAP': 0.5}
    """
    if jax.process_count() == 1:
        return task()
    result: list[T] = []
    first(lambda: result.append(task()))
    told = gather(json.dumps(result).encode())[0]
    return result[0] if result else json.loads(told)[0]


def gather(own: bytes) -> list[bytes]:
    """The bytes of every process, in every process; for all of them in the order of their numbers.

    Example:
        >>> gather(b"here")
        [b'here']
    """
    if jax.process_count() == 1:
        return [own]
    lengths = np.asarray(multihost_utils.process_allgather(np.array(len(own), np.int32))).tolist()
    room = -(-max(lengths) // PIECE) * PIECE
    padded = np.zeros(room, np.uint8)
    padded[: len(own)] = np.frombuffer(own, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded))
    return [row[:length].tobytes() for row, length in zip(rows, lengths, strict=True)]


def as_first(value: bool) -> bool:
    """The first process's value, in every process.

    Example:
        >>> as_first(True)
        True
    """
    return bool(multihost_utils.broadcast_one_to_all(np.array(value)))


def check_same(values: Mapping[str, object]) -> None:
    """Refuse values that are not the same, by their `repr`, in every process.

    Raises:
        ValueError: in every process; the message names them and the processes.
    """
    if jax.process_count() == 1:
        return
    hashed = [hashlib.sha256(repr(value).encode()).digest() for value in values.values()]
    table = np.frombuffer(b"".join(hashed), np.uint32).reshape(len(hashed), -1)
    gathered = multihost_utils.process_allgather(table)
    differs = (gathered != gathered[:1]).any(axis=2)
    if differs.any():
        names = [name for name, column in zip(values, differs.T, strict=True) if column.any()]
        which = ", ".join(map(str, np.flatnonzero(differs.any(axis=1))))
        raise ValueError(
            f"process {which} has another {', '.join(names)} than process 0; start all of them "
            f"with the same command, on the same data"
        )


def check_shared(folder: Path) -> None:
    """Refuse a folder that is not the same one in every process; it need not exist yet.

    Raises:
        ValueError: in a process that cannot see what the first one writes there.
        OthersFailed: in the others.
    """
    if jax.process_count() == 1:
        return
    drawn = np.frombuffer(secrets.token_bytes(16), np.uint32)
    mark = f".shared-{multihost_utils.broadcast_one_to_all(drawn).tobytes().hex()}"
    # A folder that is to be made lies where the first folder above it does.
    places = (folder.absolute(), *folder.absolute().parents)
    above = next(one for one in places if one.is_dir())

    def look() -> None:
        if not any((one / mark).exists() for one in places):
            raise ValueError(
                f"process {jax.process_index()} does not see the {folder} of process 0; all "
                f"processes write into one folder, so name one that their machines share"
            )

    try:
        first((above / mark).touch)
        every(look)
    finally:
        if jax.process_index() == 0:
            (above / mark).unlink(missing_ok=True)
