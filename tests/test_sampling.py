"""Batches drawn by class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxhash.training.sampling import balanced_batch, class_pair_batch, members


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5).filter(lambda s: max(s) > 1),
    triplets=st.integers(1, 12),
    seed=st.integers(0, 2**32),
)
def test_class_pairs(sizes, triplets, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(7 * np.arange(len(sizes)) - 3, sizes))
    batch = class_pair_batch(np.random.default_rng(seed), labels, triplets)
    assert batch.dtype == np.int64
    anchors, positives, negatives = np.split(batch, 3)
    assert len(anchors) == triplets
    assert len(set(labels[anchors]) | set(labels[positives])) == 1
    assert len(set(labels[negatives])) == 1
    assert labels[negatives[0]] != labels[anchors[0]]
    assert (anchors != positives).all()
    again = class_pair_batch(np.random.default_rng(seed), labels, triplets)
    np.testing.assert_array_equal(batch, again)


def test_class_pairs_reach_every_pair(rng):
    """Every class in both parts, and every other image as a positive of the first."""
    labels = np.repeat([0, 1, 2], 3)
    pairs, partners = set(), set()
    for _ in range(200):
        anchors, positives, negatives = np.split(class_pair_batch(rng, labels, 4), 3)
        pairs.add((labels[anchors[0]], labels[negatives[0]]))
        partners |= set(positives[anchors == 0])
    assert len(pairs) == 6
    assert partners == {1, 2}


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    per_class=st.integers(1, 5),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_balanced(sizes, per_class, seed, data):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    classes = data.draw(st.none() | st.integers(1, len(sizes)))
    batch = balanced_batch(rng, members(labels), per_class, classes)
    drawn, counts = np.unique(labels[batch], return_counts=True)
    assert len(drawn) == (classes or len(sizes))
    assert (counts == per_class).all()
    for label in drawn:
        if sizes[label] >= per_class:  # no image twice where there are enough
            assert len(set(batch[labels[batch] == label])) == per_class


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: class_pair_batch(rng, np.zeros(5, int)), "two classes"),
        (lambda rng: class_pair_batch(rng, np.arange(5)), "one of them with two images"),
        (lambda rng: class_pair_batch(rng, np.ones((5, 2), bool)), "one int label each"),
        (lambda rng: class_pair_batch(rng, np.array([0, 0, 1]), 0), "triplets is 0"),
        (lambda rng: balanced_batch(rng, members(np.arange(3)), 2, 4), "classes is 4.*hold 3"),
        (lambda rng: balanced_batch(rng, members(np.arange(3)), 0), "per_class is 0"),
        (lambda _: members(np.zeros(3)), "one int label each"),
    ],
)
def test_refused(call, message, rng):
    with pytest.raises(ValueError, match=message):
        call(rng)
