"""The pool of threads: late helpers, failures, interrupts, forks, the end of the interpreter."""

import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import naive
import numpy as np
import pytest

import search
from search import threads
from search.hamming import dealing, scan
from search.hamming.blocks import Blocks, arrange
from search.hamming.dealing import most_sharing, workers_for_nearest
from search.kernels import hamming

REPOSITORY = Path(__file__).resolve().parent.parent


def test_sharing_waits_for_nobody_who_comes_late():
    begun, release = threading.Event(), threading.Event()
    done = []

    def work(name):
        if name == "helper":
            begun.set()
            assert release.wait(10)
        done.append(name)

    threads.share(work, [("caller",), ("helper",)], lambda: True)
    assert done[0] == "caller"
    release.set()


def test_sharing_waits_where_the_work_is_not_finished():
    done = []

    def work(name):
        if name == "helper":
            time.sleep(0.02)
        done.append(name)

    started = threading.Event()

    def help_first(name):
        if name == "caller":
            assert started.wait(10)
        else:
            started.set()
        work(name)

    threads.share(help_first, [("caller",), ("helper",)], lambda: False)
    assert sorted(done) == ["caller", "helper"]


@pytest.mark.parametrize("failing", ["caller", "helper"])
def test_sharing_raises_in_the_caller(failing):
    started = threading.Event()

    def work(name):
        if name == "helper":
            started.set()
        else:
            assert started.wait(10)
        if name == failing:
            raise MemoryError(name)

    with pytest.raises(MemoryError, match=failing):
        threads.share(work, [("caller",), ("helper",)], lambda: False)


class Late:
    """A helper that begins when the caller waits for it, and not before."""

    def __init__(self, work, size):
        self.result = work

    def cancel(self):
        return False


def test_an_interrupt_leaves_out_what_has_not_begun(monkeypatch):
    monkeypatch.setattr(threads, "_submit", Late)
    begun = []

    def work(number):
        begun.append(number)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        threads.run(work, [(number,) for number in range(5)], 2)
    assert begun == [0]


def test_an_interrupt_is_raised_when_what_has_begun_has_ended():
    begun, interrupted = threading.Event(), threading.Event()
    ended = []

    def work(number):
        if number == 0:
            assert begun.wait(30)
            interrupted.set()
            raise KeyboardInterrupt
        begun.set()
        assert interrupted.wait(30)
        time.sleep(0.05)
        ended.append(number)

    with pytest.raises(KeyboardInterrupt):
        threads.run(work, [(0,), (1,)], 2)
    assert ended == [1]


@pytest.mark.parametrize("queued", [False, True])
def test_the_caller_does_it_all_where_no_thread_can_be_started(monkeypatch, queued):
    """Also where the pool keeps work that it could not start a thread for, and begins it later."""
    kept = []

    class Pool:
        def submit(self, work):
            if queued:
                kept.append(work)
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_pool", Pool())
    monkeypatch.setattr(threads, "_size", 100)
    assert threads.run(pow, [(2, 3), (3, 2), (4, 2)], 3) == [8, 9, 16]
    done = []
    threads.share(done.append, [("caller",), ("helper",)], lambda: False)
    for work in kept:
        work()
    assert done == ["caller"]


AT_THE_END = """
import atexit, sys, threading
sys.path.insert(0, sys.argv[1])
import numpy as np
from search.hamming import scan
from search.hamming.blocks import arrange
codes = np.arange(100_000, dtype=np.uint32).view(np.uint8).reshape(-1, 4)
blocks = arrange(codes)
scan.workers_for_nearest = lambda blocks, queries, k, workers: workers

def search():
    for k in (1, 20):  # one query is shared, many are dealt out
        for first in (99, 50):
            _, ids = scan.knn(blocks, codes[first:100], k, threads=3)
            print(*(ids[:, 0] - range(first, 100)).nonzero()[0], "right")

def afterwards():
    threading.main_thread().join()
    search()

atexit.register(search)
if sys.argv[2] == "used":
    search()
threading.Thread(target=afterwards).start()
"""


@pytest.mark.parametrize("before", ["used", "unused"])
def test_searches_after_the_main_thread_has_ended(before):
    """By another thread and in `atexit`, whether or not there was a search before."""
    command = [sys.executable, "-c", AT_THE_END, str(REPOSITORY), before]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert not done.stderr
    assert done.stdout.split() == ["right"] * (12 if before == "used" else 8)


def test_a_helper_of_an_earlier_round_finds_nothing_to_do(rng, monkeypatch):
    """It must not claim blocks of the round after, whose results it would not put there."""
    codes = search.pack(rng.integers(0, 2, (64 * 256, 64)))
    codes[:256] = codes[0]
    blocks = arrange(codes)
    expected = naive.hamming_knn(codes[:1], codes, 1000)
    late, rounds = [], []

    def share(function, places, finished):
        rounds.append(finished)
        for each in late:
            each()
        function(*places[0])
        late.extend(partial(function, *place) for place in places[1:])
        assert finished()

    monkeypatch.setattr(threads, "share", share)
    monkeypatch.setattr(scan, "workers_for_nearest", lambda blocks, queries, k, workers: workers)
    monkeypatch.setattr(hamming, "SAMPLE", 32 // 2)
    found = scan.knn(blocks, codes[:1], 1000, threads=2)
    assert len(rounds) == 2, "the first guess should have been too low"
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_searches_in_two_rounds_are_right_whoever_is_switched_when(rng, monkeypatch):
    """Thousands of helpers that come late: where they spoil a search, in one of a hundred."""
    monkeypatch.setattr(scan, "_CHUNK", 1)
    monkeypatch.setattr(scan, "workers_for_nearest", lambda blocks, queries, k, workers: workers)
    monkeypatch.setattr(hamming, "SAMPLE", 32 // 8)
    codes = search.pack(rng.integers(0, 2, (64 * 256, 64)))
    codes[:256] = codes[0]
    blocks = arrange(codes)
    expected = naive.hamming_knn(codes[:1], codes, 1000)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(1000):
            found = scan.knn(blocks, codes[:1], 1000, threads=8)
            for one, other in zip(found, expected, strict=True):
                np.testing.assert_array_equal(one, other)
    finally:
        sys.setswitchinterval(before)


def test_few_queries_share_the_database_whoever_takes_what(rng, monkeypatch):
    """Pieces of one block each, and a guess that is too low for the whole."""
    monkeypatch.setattr(scan, "_CHUNK", 1)
    codes = search.pack(rng.integers(0, 2, (64 * 256, 64)))
    queries = search.pack(rng.integers(0, 2, (5, 64)))
    codes[:256] = codes[32 * 256 : 33 * 256] = queries[4]
    blocks = arrange(codes)
    monkeypatch.setattr(scan, "workers_for_nearest", lambda blocks, queries, k, workers: workers)
    for part in (queries, queries[4:]):
        for k in (1, 20, 512, 600):
            expected = naive.hamming_knn(part, codes, k)
            for count in (2, 7):
                monkeypatch.setattr(hamming, "SAMPLE", 32 // count)
                found = scan.knn(blocks, part, k, threads=count)
                for one, other in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(one, other)


def test_codes_begin_with_a_cache_line():
    for count in (1, 1000, 5000):
        planes = arrange(np.zeros((count, 3), np.uint8)).planes
        assert planes.ctypes.data % 64 == 0


def test_no_more_threads_share_a_query_than_help():
    """64 lists of 10,000 results, to be merged into one, cost more than the search itself."""
    blocks = Blocks(np.empty((7813, 8, 256), np.uint8), 2_000_000, 64)
    useful = most_sharing(blocks, 10_000)
    assert useful < 8
    assert workers_for_nearest(blocks, 7, 10_000, 64) == useful
    # Those of 100 and of 500 queries need not share: nothing is left to merge.
    assert workers_for_nearest(blocks, 100, 10_000, 64) == 100 // 8
    assert workers_for_nearest(blocks, 500, 10_000, 64) == 500 // 8
    assert workers_for_nearest(blocks, 1000, 10_000, 64) == 64
    assert workers_for_nearest(blocks, 1000, 10_000, 2) == 2
    assert workers_for_nearest(blocks, 100, 10, 64) == 64
    assert most_sharing(blocks, 1 << 40) == 1


def test_the_nearest_are_sought_by_no_more_threads_than_help(rng, monkeypatch):
    monkeypatch.setattr(dealing, "_WORK", 1)  # each thread has enough to do
    monkeypatch.setattr(threads, "share", lambda *_: pytest.fail("shared"))
    codes = search.pack(rng.integers(0, 2, (64 * 256, 64)))
    found = scan.knn(arrange(codes), codes[:30], 10_000, threads=64)
    for one, other in zip(found, naive.hamming_knn(codes[:30], codes, 10_000), strict=True):
        np.testing.assert_array_equal(one, other)
