"""A HashIndex searched and changed by many threads at once."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from test_index import equal

from search import HashIndex


def test_sixteen_threads_search_one_index_and_agree(rng):
    codes = rng.integers(0, 256, (5000, 8), dtype=np.uint8)
    features = rng.standard_normal((5000, 16)).astype(np.float16)
    index = HashIndex(codes, features=features)
    fine = features[:20].astype(np.float32)
    coarse = {threads: index.search(codes[:20], 30, threads=threads) for threads in (1, 2, 7)}
    for other in coarse.values():
        equal(other, coarse[1])
    expected = index.search(codes[:20], 5, query_features=fine, pool=50, threads=1)

    def work(number):
        for repeat in range(6):
            threads = (number + repeat) % 3 + 1
            equal(index.search(codes[:20], 30, threads=threads), coarse[1])
            got = index.search(codes[:20], 5, query_features=fine, pool=50, threads=threads)
            equal(got, expected)
        return True

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


def test_changes_from_many_threads_are_all_kept(rng):
    index = HashIndex(np.zeros((10, 2), np.uint8))
    codes = rng.integers(0, 256, (3, 2), dtype=np.uint8)

    def change(_):
        mine = [index.add(codes) for _ in range(30)]
        index.remove(mine[0])
        return np.concatenate(mine[1:])

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(6) as pool:
            added = np.concatenate(list(pool.map(change, range(6))))
    finally:
        sys.setswitchinterval(switch)
    np.testing.assert_array_equal(index.ids, np.r_[range(10), np.sort(added)])


def test_searches_never_see_half_a_change(rng):
    """Pairs come, are told apart by their codes alone, and go; always both."""
    base = rng.integers(0, 256, (300, 8), dtype=np.uint8)
    base[:, 0] |= 0x80
    index = HashIndex(base, features=base[:, :2].astype(np.float16))
    pair = np.zeros((2, 8), np.uint8)
    pair_features = np.zeros((2, 2), np.float16)
    done, noticed = threading.Event(), threading.Event()
    seen = set()

    def change():
        for step in range(150):
            ids = index.add(pair, pair_features)
            if step % 20 == 0:
                index.compact()
            if step == 0:
                noticed.wait(60)
            index.remove(ids)
        done.set()

    def look(number):
        while True:
            last = done.is_set()
            if number % 2:
                distances, ids = index.search(pair[:1], 3)
                zeros = int((distances == 0).sum())
            else:
                offsets, distances, ids = index.within(pair[:1], 0)
                zeros = int(offsets[-1])
            assert zeros in (0, 2)
            assert zeros == 0 or ids.ravel()[1] == ids.ravel()[0] + 1
            seen.add(zeros)
            if zeros:
                noticed.set()
            if last:
                return True

    switch = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(5) as pool:
            changing = pool.submit(change)
            looking = [pool.submit(look, number) for number in range(4)]
            changing.result()
            assert all(each.result() for each in looking)
    finally:
        sys.setswitchinterval(switch)
    assert seen == {0, 2}
    assert len(index) == 300
