"""A parent process that reports how its child, one of a group, ended, where the child cannot.

jax ends a process whose group has broken from within C++, with a stack trace and an abort that
Python hears nothing of.
"""

import os
import re
import signal
import sys
import threading
from pathlib import Path

LOST = 75
"""Exit code where another process was lost: EX_TEMPFAIL of <sysexits.h>, "try again"."""

GONE = "lost another process: see its own message; start all again, resuming a training"
"""What a process says that ends with `LOST`."""

BROKEN = re.compile(
    rb"^[EF]\d{4} [\d:.]+ +\d+ (coordination_service\w*\.cc|client\.h):\d+\]", re.MULTILINE
)
"""How jax's log of a broken group begins; all that follows is about it."""

NEVER_CAME = b"RegisterTask"
"""The call that waits for all processes to begin."""


def supervise() -> None:
    """Go on in a child process; its parent waits, and ends as the child has.

    Call it before `jax.distributed.initialize`, and before anything has started threads. The
    parent passes SIGTERM on. Where another process was lost it writes a line in place of the
    stack trace and ends with the exit code `LOST`. The child ends when its parent is killed.
    Without os.fork (Windows) nothing happens.
    """
    if not hasattr(os, "fork"):
        return
    sys.stdout.flush()
    sys.stderr.flush()
    log, into_log = os.pipe()
    parent, held_by_parent = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(log)
        os.close(held_by_parent)
        # What Python writes goes where it went; what C++ writes goes to the parent.
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        os.dup2(into_log, 2)
        os.close(into_log)
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to the child too
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    os.close(into_log)
    os.close(parent)
    held = bytearray()
    relay = threading.Thread(target=_relay, args=(log, held), daemon=True)
    relay.start()
    _, status = os.waitpid(child, 0)
    relay.join(timeout=5)  # a grandchild may hold its end open
    os._exit(_outcome(os.waitstatus_to_exitcode(status), bytes(held)))


def _end_with(parent: int) -> None:
    os.read(parent, 1)  # returns when the other end is closed, which is when the parent is gone
    os._exit(1)


def _relay(log: int, held: bytearray) -> None:
    """Pass on what is read, up to the log of a broken group, which is held back."""
    while chunk := os.read(log, 2**16):
        broken = None if held else BROKEN.search(chunk)
        start = 0 if held else len(chunk) if broken is None else broken.start()
        _write(chunk[:start])
        held.extend(chunk[start:])


def _outcome(code: int, log: bytes) -> int:
    """The exit code to end with, from a child's and its held-back log; prints what happened."""
    name = Path(sys.argv[0]).name
    if code == -signal.SIGABRT and log:
        if NEVER_CAME in log:
            why = "not all processes came: start each, and check that they reach the coordinator"
        else:
            why = GONE
        _write(f"{name}: {why}\n".encode())
        return LOST
    if code != LOST:
        _write(log)
    return code if code >= 0 else 128 - code


def _write(text: bytes) -> None:
    while text:
        text = text[os.write(2, text) :]
