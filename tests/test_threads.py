"""The pool's shared work: late helpers, failures, and the processor that a helper runs on."""

import os
import threading
import time

import naive
import numpy as np
import pytest

import search
from search import threads
from search.hamming import scan


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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="threads cannot be moved here")
def test_a_helper_leaves_a_taken_processor_and_may_use_it_afterwards():
    allowed = os.sched_getaffinity(0)
    here = threads._processor()
    with threads._elsewhere(here):
        inside = os.sched_getaffinity(0)
    assert os.sched_getaffinity(0) == allowed
    # The thread may have been moved between the two calls: then it was elsewhere already.
    assert inside in (allowed, allowed - {here})
    assert len(allowed) == 1 or inside
    with threads._elsewhere(-1):
        assert os.sched_getaffinity(0) == allowed


def test_few_queries_share_the_database_whoever_takes_what(rng, monkeypatch):
    """Pieces of one block each, and a guess that is too low for the whole."""
    monkeypatch.setattr(scan, "_CHUNK", 1)
    codes = search.pack(rng.integers(0, 2, (64 * 256, 64)))
    queries = search.pack(rng.integers(0, 2, (5, 64)))
    codes[:256] = codes[32 * 256 : 33 * 256] = queries[4]
    blocks = scan.arrange(codes)
    monkeypatch.setattr(scan, "workers_for", lambda blocks, queries, workers: workers)
    for part in (queries, queries[4:]):
        for k in (1, 20, 512, 600):
            expected = naive.hamming_knn(part, codes, k)
            for count in (2, 7):
                found = scan.knn(blocks, part, k, threads=count)
                for one, other in zip(found, expected, strict=True):
                    np.testing.assert_array_equal(one, other)


def test_codes_begin_with_a_cache_line():
    for count in (1, 1000, 5000):
        planes = scan.arrange(np.zeros((count, 3), np.uint8)).planes
        assert planes.ctypes.data % 64 == 0
