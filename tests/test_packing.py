"""Results on their way between machines arrive as they were."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxhash.shards.packing import between, pack, pack_ids, unpack, unpack_ids
from search.hamming.scan import NO_DISTANCE


@given(
    seed=st.integers(0, 1 << 30),
    shape=st.tuples(st.integers(0, 4), st.integers(0, 5)),
    first=st.sampled_from([-(1 << 62), -5, 0, 7, 1 << 40]),
    span=st.sampled_from([1, 9, (1 << 32) - 2, (1 << 32) - 1, 1 << 32, 1 << 61]),
    most=st.sampled_from([3, 65534, 65535, 65536, 1 << 30]),
    fine=st.booleans(),
)
def test_what_arrives_is_what_was_sent(seed, shape, first, span, most, fine):
    rng = np.random.default_rng(seed)
    ids = first + rng.integers(0, span, shape, endpoint=True)
    ids.flat[: ids.size // 2] = rng.choice([first, first + span], ids.size // 2)  # both ends
    distances = rng.choice([0, 1, most], shape).astype(np.float32 if fine else np.int32)
    missing = rng.random(shape) < 0.3
    ids[missing] = -1
    distances[ids == -1] = np.inf if fine else NO_DISTANCE
    packed = pack((distances, ids))
    for ours, theirs in zip(unpack(packed), (distances, ids), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    small = not (ids[ids != -1].size and np.ptp(ids[ids != -1]) >= (1 << 32) - 1)
    assert packed.ids.values.dtype == (np.uint32 if small else np.int64)
    if not fine and most < 65535:
        assert packed.distances.dtype == np.uint16


@given(seed=st.integers(0, 1 << 30), queries=st.integers(0, 4), pool=st.integers(0, 6))
def test_only_the_ids_between_travel(seed, queries, pool):
    rng = np.random.default_rng(seed)
    ids = rng.integers(-4, 12, (queries, pool))
    first, last = sorted(rng.integers(-4, 12, 2).tolist())
    found = between(ids, first, last)
    rows = [[each for each in row if first <= each <= last and each != -1] for row in ids.tolist()]
    assert found.shape == (queries, max(map(len, rows), default=0))
    for ours, row in zip(found.tolist(), rows, strict=True):
        assert ours == row + [-1] * (found.shape[1] - len(row))
    np.testing.assert_array_equal(unpack_ids(pack_ids(found)), found)


def test_results_are_half_as_large():
    rng = np.random.default_rng(0)
    result = rng.integers(0, 40, (10, 100), np.int32), rng.integers(10**9, 10**9 + 500, (10, 100))
    packed = pack(result)
    assert 2 * (packed.distances.nbytes + packed.ids.values.nbytes) == sum(
        each.nbytes for each in result
    )


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_nothing_is_a_result_too(dtype):
    missing = np.inf if dtype == np.float32 else NO_DISTANCE
    nothing = np.full((2, 3), missing, dtype), np.full((2, 3), -1)
    for ours, theirs in zip(unpack(pack(nothing)), nothing, strict=True):
        np.testing.assert_array_equal(ours, theirs)
