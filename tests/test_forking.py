"""A forked child has one thread; nothing that another one held in the parent may stop it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent

# `held` runs in another thread and is in the middle when the process forks; then the child
# calls `wanted`. A child that hangs is ended by the alarm, which makes its exit status differ.
COMMON = """
import os, signal, sys, threading
sys.path.insert(0, sys.argv[1])
import numpy as np
from search import HashIndex, index as indexes, threads
from search.collection import changes, segments, state
codes = np.repeat(np.arange(3000, dtype=np.uint32), 100).view(np.uint8).reshape(-1, 4)
index = HashIndex(codes)
HashIndex(codes).search(codes[:1], 1)  # compiles all that is needed
inside, forked = threading.Event(), threading.Event()

def pausing(function):
    def paused(*arguments, **options):
        inside.set()
        assert forked.wait(60)
        return function(*arguments, **options)
    return paused

{setting}
thread = threading.Thread(target=held)
thread.start()
assert inside.wait(60)
child = os.fork()
if child == 0:
    signal.alarm(120)
    forked.set()
    wanted()
    os._exit(0)
status = os.waitpid(child, 0)[1]
forked.set()
thread.join()
wanted()
assert status == 0, status
"""

SETTINGS = {
    "adding": """
changes.new_segment = pausing(changes.new_segment)
held = lambda: index.add(codes[:1])
def wanted():
    index.add(codes[:2])
    index.remove([0] if len(index) > 300_002 else [1])
    index.compact()
    assert index.search(codes[-1:], 1)[0] == 0
""",
    "removing": """
indexes.id_list = pausing(indexes.id_list)
held = lambda: index.remove([5])
def wanted():
    index.remove([6] if len(index) == 300_000 else [7])
    index.prepare()
""",
    "grouping": """
segments.buckets.build = pausing(segments.buckets.build)
held = lambda: index.search(codes[:1], 1)
def wanted():
    assert index.search(codes[-1:], 1)[1] == len(codes) - 100
""",
    "listing ids": """
state.live_ids = pausing(state.live_ids)
held = lambda: index.ids
def wanted():
    assert len(index.ids) == len(codes)
""",
    "growing the pool": """
threads.ThreadPoolExecutor = pausing(threads.ThreadPoolExecutor)
held = lambda: threads.run(pow, [(2, 3)] * 9, 9)
def wanted():
    assert threads.run(pow, [(2, 3)] * 3, 3) == [8, 8, 8]
""",
}

COMPILING = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[1])
import search
from numba.core.compiler_lock import global_compiler_lock
inside, compiled = threading.Event(), []

def compiling():
    with global_compiler_lock:
        inside.set()
        time.sleep(0.5)
        compiled.append(True)

thread = threading.Thread(target=compiling)
thread.start()
assert inside.wait(60)
child = os.fork()
if child == 0:
    half = not compiled
    free = global_compiler_lock._lock.acquire(blocking=False)
    os._exit(2 * half + (not free))
assert os.waitpid(child, 0)[1] == 0
thread.join()
with global_compiler_lock:
    pass
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform does not fork")


@pytest.mark.parametrize("name", SETTINGS)
def test_a_child_goes_on_where_another_thread_was(name):
    code = COMMON.format(setting=SETTINGS[name])
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", code]
    subprocess.run([*command, str(REPOSITORY)], check=True, timeout=300)


def test_a_fork_waits_for_the_compiler():
    """What numba and LLVM have half done cannot be taken over."""
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", COMPILING]
    subprocess.run([*command, str(REPOSITORY)], check=True, timeout=300)


def test_a_lock_is_open_in_a_child_and_shut_again_by_it():
    code = """
import os, sys
sys.path.insert(0, sys.argv[1])
from search.threads import Lock
lock = Lock()
with lock.held():
    child = os.fork()
    if child == 0:  # the thread that holds it forks: both go on, and let go of their own
        with lock.held():
            pass
with lock.held():
    pass
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code, str(REPOSITORY)], check=True, timeout=120)


def test_every_lock_is_one_that_a_child_finds_open():
    """`threads.Lock` for all; cached_property has one too, in Python 3.11, for all instances."""
    words = ("threading.Lock(", "RLock(", "Condition(", "Semaphore(", "cached_property\n")
    files = sorted((REPOSITORY / "search").rglob("*.py"))
    with_locks = [file.name for file in files if any(word in file.read_text() for word in words)]
    assert with_locks == ["threads.py"]
