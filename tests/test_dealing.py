"""How a scan is divided: whatever the sizes, each query meets each block, once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.hamming import dealing
from search.hamming.blocks import Blocks

counts = st.integers(0, 5000)
workers = st.integers(1, 300)


def blocks_of(number: int) -> Blocks:
    return Blocks(np.empty((number, 8, 256), np.uint8), 256 * number, 64)


@settings(max_examples=40, deadline=None)
@given(k=st.integers(0, 10**7), bits=st.integers(1, 4096))
def test_a_tile_is_some_queries_abreast(k, bits):
    tile = dealing.tile_size(k, bits)
    assert dealing.ABREAST <= tile <= dealing.TILE
    assert tile % dealing.ABREAST == 0
    assert tile >= dealing.tile_size(k + 1, bits)
    assert dealing.tile_size(0, 1) == dealing.TILE
    assert dealing.tile_size(100_000, 1) == dealing.ABREAST


@settings(max_examples=40, deadline=None)
@given(blocks=st.integers(0, 500), queries=counts, k=st.integers(0, 10**6), most=workers)
def test_no_more_threads_than_asked_for_and_one_at_least(blocks, queries, k, most):
    codes = blocks_of(blocks)
    assert 1 <= dealing.workers_for(codes, queries, most) <= most
    nearest = dealing.workers_for_nearest(codes, queries, k, most)
    assert 1 <= nearest <= dealing.workers_for(codes, queries, most)
    assert dealing.most_sharing(codes, k) >= dealing.most_sharing(codes, k + 1) >= 1


@pytest.mark.parametrize(
    ("blocks", "queries", "most", "expected"),
    [(1, 1, 8, 1), (100_000, 1, 8, 8), (100_000, 0, 8, 1), (8192, 1, 8, 2), (8191, 1, 8, 1)],
)
def test_threads_are_woken_for_work_alone(blocks, queries, most, expected):
    assert dealing.workers_for(blocks_of(blocks), queries, most) == expected


def test_threads_get_queries_of_their_own_where_there_are_enough():
    codes = blocks_of(100)
    assert dealing.by_query(codes, 16, 2)
    assert not dealing.by_query(codes, 15, 2)
    assert dealing.by_query(codes, 1, 1)
    assert dealing.by_query(blocks_of(2), 1, 3)
    assert not dealing.by_query(blocks_of(3), 1, 3)
    assert dealing.workers_for_nearest(blocks_of(10**5), 80, 10**6, 16) == 10  # 8 queries each


@settings(max_examples=40, deadline=None)
@given(blocks=st.integers(0, 500), queries=counts, k=st.integers(0, 10**5), most=workers)
def test_every_query_meets_every_block_once(blocks, queries, k, most):
    tile = dealing.tile_size(k, 64)
    tiles, ranges = dealing.split(blocks_of(blocks), queries, tile, most)
    own = dealing.query_edges(queries, tile, most)
    for edges, total in ((tiles, queries), (ranges, blocks), (own, queries)):
        assert edges[-1] == total
        assert not total or (edges[0] == 0 and (np.diff(edges) > 0).all())
    for edges in (tiles, own):
        assert (np.diff(edges) <= tile).all()
    assert len(ranges) <= most + 1
