"""Feeding: the rows of each step, and reading them ahead of time."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from jaxhash import prefetch, sharding
from jaxhash.data import Undecodable
from jaxhash.training import feeding


def test_an_epoch_takes_every_row_once_in_an_order_of_its_own() -> None:
    rows = feeding.shuffled(3, images=20, batch_size=6)
    first = np.concatenate([rows(step) for step in range(3)])
    second = np.concatenate([rows(step) for step in range(3, 6)])
    assert len(set(first)) == len(set(second)) == 18
    assert first.tolist() != second.tolist()
    # Asked in any order, and by another process, a step has the same rows.
    again = feeding.shuffled(3, images=20, batch_size=6)
    assert again(4).tolist() == rows(4).tolist()
    assert feeding.shuffled(4, images=20, batch_size=6)(0).tolist() != rows(0).tolist()
    with pytest.raises(ValueError, match="at most 20"):
        feeding.shuffled(3, images=20, batch_size=21)


def test_class_pairs_hold_triplets() -> None:
    labels = np.arange(40) % 4
    anchors, positives, negatives = labels[feeding.class_pairs(0, labels, 30)(5)].reshape(3, 10)
    assert (anchors == positives).all()
    assert (anchors != negatives).all()
    with pytest.raises(ValueError, match="multiple of 3, for example 30"):
        feeding.class_pairs(0, labels, 32)


def test_balanced_batches_hold_every_class_alike() -> None:
    labels = np.repeat([3, 5, 8], [30, 4, 6])
    rows = feeding.balanced(1, labels, batch_size=15)
    assert labels[rows(2)].tolist() != sorted(labels[rows(2)])
    for step in range(3):
        assert np.sort(labels[rows(step)]).tolist() == [3] * 5 + [5] * 5 + [8] * 5
    assert rows(0).tolist() != rows(1).tolist()
    assert feeding.balanced(1, labels, 15)(2).tolist() == rows(2).tolist()
    for wrong, instead in ((16, 15), (2, 3)):
        with pytest.raises(ValueError, match=f"multiple of 3, for example {instead}"):
            feeding.balanced(1, labels, wrong)
    with pytest.raises(ValueError, match="one int label each"):
        feeding.balanced(1, np.eye(4, dtype=bool), 8)


def test_what_is_read_ahead_comes_in_order() -> None:
    for steps in (range(0), range(4, 5), range(3, 40), range(0, 50, 16)):
        # Early steps take longest: read at the same time, they would come last.
        def read(step: int) -> int | None:
            time.sleep(0.01 if step < 6 else 0)
            return None if step == 16 else step

        expected = [None if step == 16 else step for step in steps]
        assert list(prefetch.ahead(read, steps)) == expected


@pytest.mark.parametrize("steps", [range(2, 3), range(2, 1000), range(1000)], ids=str)
def test_what_fails_in_the_reading_thread_is_raised_where_it_is_read(steps: range) -> None:
    def read(step: int) -> int:
        if step >= 2:
            raise Undecodable(f"{step}.png: not an image")
        return step

    values = prefetch.ahead(read, steps)
    assert [next(values) for step in steps if step < 2] == [step for step in steps if step < 2]
    with pytest.raises(Undecodable) as caught:
        next(values)
    assert str(caught.value) == "2.png: not an image"
    with pytest.raises(StopIteration):
        next(values)


def test_closing_ends_the_reading() -> None:
    asked, begun, go_on = [], threading.Event(), threading.Event()

    def read(step: int) -> int:
        asked.append(step)
        if step == 1:
            begun.set()
            go_on.wait()
        return step

    values = prefetch.ahead(read, range(1000), buffer=3)
    assert next(values) == 0
    assert begun.wait(10)
    values.close()  # does not wait for the read that has begun
    go_on.set()
    for thread in threading.enumerate():
        if thread.name.startswith("grain-prefetch"):
            thread.join(10)
            assert not thread.is_alive()
    assert asked == [0, 1]


def test_what_waits_in_memory_is_bounded() -> None:
    asked, full = [], threading.Event()

    def read(step: int) -> None:
        asked.append(step)
        if step == 3:
            full.set()

    values = prefetch.ahead(read, range(1000), buffer=3)
    next(values)
    assert full.wait(10)
    time.sleep(0.1)  # time for a reader that would go on
    assert asked == [0, 1, 2, 3]
    values.close()


def test_a_reader_left_behind_does_not_hold_the_process() -> None:
    code = (
        "import time; from jaxhash import prefetch\n"
        "values = prefetch.ahead(lambda step: time.sleep(0.05) or step, range(10**6))\n"
        "print(next(values), flush=True)\n"
        "raise KeyboardInterrupt"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "0\n"
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


def test_streaming_resumes_with_the_batches_that_were_due() -> None:
    mesh = sharding.mesh_over(8)
    items, labels, train = np.arange(40)[:, None] * 2, np.arange(20) % 3, np.arange(20) + 15
    rows = feeding.shuffled(3, images=20, batch_size=8)

    def batches(start: int) -> list[feeding.Batch]:
        return list(feeding.stream(items, train, labels, rows, range(start, 7), mesh))

    whole = batches(0)
    for batch, step in zip(whole, range(7), strict=True):
        np.testing.assert_array_equal(batch.items[:, 0], 2 * train[rows(step)])
        np.testing.assert_array_equal(batch.labels, labels[rows(step)])
        assert batch.items.sharding.num_devices == 8
    for start in (3, 6):
        for batch, expected in zip(batches(start), whole[start:], strict=True):
            np.testing.assert_array_equal(batch.items, expected.items)
