"""Named splits: counts as published, disjointness, determinism, stratification, refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxhash.data import PROTOCOLS, Dataset, default_protocol, load, split
from jaxhash.data.dataset import consecutive_parts
from jaxhash.data.strata import class_counts, draw_each, draw_share, draw_total, has_any, strata


def dataset(labels, parts=None, classes=None):
    """Labels are what a protocol looks at: the items are a column of row numbers."""
    labels = np.asarray(labels)
    n, several = len(labels), labels.ndim == 2
    count = classes or (labels.shape[1] if several else int(labels.max()) + 1)
    return Dataset(
        name="made",
        kind="features",
        items=np.arange(n, dtype=np.float32)[:, None],
        labels=labels.astype(bool if several else np.int32),
        parts=consecutive_parts(parts or {"all": n}),
        classes=tuple(f"class {number}" for number in range(count)),
    )


def cifar():
    """Labels and parts of CIFAR-10."""
    labels = np.concatenate([np.arange(50_000) % 10, np.arange(10_000) % 10])
    return dataset(labels, {"train": 50_000, "test": 10_000})


def disjoint(*groups):
    return np.unique(np.concatenate(groups)).size == sum(group.size for group in groups)


def check(data, result):
    """What holds for every split."""
    everything = np.concatenate(list(data.parts.values()))
    for rows in (result.train, result.validation, result.database, result.query):
        assert rows.dtype == np.int64
        assert (np.diff(rows) > 0).all()
        assert np.isin(rows, everything).all()
    assert disjoint(result.train, result.validation, result.query)
    assert min(result.train.size, result.database.size, result.query.size) > 0
    assert result.database_has_train == np.isin(result.train, result.database).any()
    for number in (result.train, result.validation, result.database, result.query):
        assert str(number.size) in result.description
    assert result.description.startswith(f"{result.protocol}: ")


def test_published_counts_on_cifar10():
    data = cifar()
    sizes = {}
    for name in ("p-all", "p-5k", "p-dsh"):
        result = split(data, name, validation=0)
        check(data, result)
        sizes[name] = result.train.size, result.query.size, result.database.size
        assert set(np.bincount(data.labels[result.query])) == {result.query.size // 10}
        assert not result.exclude_self
    assert sizes == {
        "p-all": (50_000, 10_000, 50_000),
        "p-5k": (5_000, 1_000, 59_000),
        "p-dsh": (50_000, 10_000, 10_000),
    }


def test_p_all():
    data = cifar()
    result = split(data, "p-all")
    np.testing.assert_array_equal(result.query, data.parts["test"])
    np.testing.assert_array_equal(result.database, data.parts["train"])
    assert result.database_has_train
    assert result.validation.size == 5_000
    assert np.isin(result.validation, result.database).all()
    some = split(data, "p-all", queries=1_005)
    assert set(np.bincount(data.labels[some.query])) == {100, 101}
    assert some.query.size == 1_005
    assert np.isin(some.query, data.parts["test"]).all()
    np.testing.assert_array_equal(some.train, result.train)


def test_p_5k():
    data = cifar()
    result = split(data, "p-5k")
    assert disjoint(result.query, result.database)
    assert set(np.bincount(data.labels[result.train])) == {450}
    assert set(np.bincount(data.labels[result.validation])) == {50}
    assert np.isin(result.query, data.parts["train"]).any()
    assert np.isin(result.query, data.parts["test"]).any()
    assert result.database_has_train
    without = split(data, "p-5k", train_in_database=False)
    assert without.database.size == 54_000
    assert not without.database_has_train
    assert not np.isin(without.validation, without.database).any()
    np.testing.assert_array_equal(without.query, result.query)
    np.testing.assert_array_equal(without.train, result.train)


def test_p_dsh():
    data = cifar()
    result = split(data, "p-dsh")
    np.testing.assert_array_equal(result.query, result.database)
    assert not result.exclude_self
    assert not result.database_has_train
    assert "kept in their own rankings" in result.description


def test_fraction_on_uc_merced():
    data = dataset(np.repeat(np.arange(21), 100))
    result = split(data, "fraction", validation=0)
    check(data, result)
    assert (result.train.size, result.query.size) == (1_260, 840)
    np.testing.assert_array_equal(result.query, result.database)
    assert result.exclude_self
    assert set(np.bincount(data.labels[result.train])) == {60}
    assert "left out of their own rankings" in result.description


def test_fraction_rounds_up_but_not_because_of_binary_fractions():
    data = dataset(np.repeat([0, 1, 2], [100, 36, 5]))
    result = split(data, "fraction", train_share=0.07, validation=0)
    assert 0.07 * 100 > 7
    assert np.bincount(data.labels[result.train]).tolist() == [7, 3, 1]


def test_fraction_leaves_small_classes_out_of_the_queries():
    labels = np.repeat([0, 1, 2, 3], [20, 5, 3, 1])
    result = split(dataset(labels), "fraction", validation=0)
    assert np.bincount(labels[result.train]).tolist() == [12, 3, 2, 1]
    assert np.bincount(labels[result.database]).tolist() == [8, 2, 1]
    assert np.bincount(labels[result.query]).tolist() == [8, 2]
    assert "fewer than 2 images left: class 2, class 3" in result.description


def test_unseen_with_and_without_parts():
    data = cifar()
    result = split(data, "unseen", validation=0)
    check(data, result)
    trained = np.unique(data.labels[result.train])
    held_out = np.unique(data.labels[result.query])
    assert trained.size == 8
    assert sorted([*trained, *held_out]) == list(range(10))
    assert np.isin(result.query, data.parts["test"]).all()
    assert np.isin(result.database, data.parts["train"]).all()
    assert (result.train.size, result.query.size, result.database.size) == (40_000, 2_000, 10_000)
    assert f"held-out classes: class {held_out[0]}" in result.description
    pooled = dataset(np.repeat(np.arange(4), 10))
    result = split(pooled, "unseen", query_share=0.3, validation=0)
    assert (result.train.size, result.query.size, result.database.size) == (30, 3, 7)
    assert disjoint(result.train, result.query, result.database)
    drawn = {
        tuple(np.unique(pooled.labels[split(pooled, "unseen", seed=s).query])) for s in range(20)
    }
    assert len(drawn) == 4


def test_own_parts():
    labels = np.arange(40) % 4
    data = dataset(labels, {"train": 20, "database": 12, "query": 8})
    result = split(data, "parts", validation=0)
    for part in ("train", "database", "query"):
        np.testing.assert_array_equal(getattr(result, part), data.parts[part])
    assert not result.database_has_train
    data = dataset(labels, {"database": 32, "query": 8})
    result = split(data, "parts", validation=0)
    np.testing.assert_array_equal(result.train, data.parts["database"])
    assert result.database_has_train
    data = dataset(labels, {"train": 20, "validation": 12, "test": 8})
    for name in ("parts", "p-all", "p-dsh"):
        result = split(data, name)
        np.testing.assert_array_equal(result.validation, data.parts["validation"])
        np.testing.assert_array_equal(result.train, data.parts["train"])
    for name in ("fraction", "unseen"):
        check(data, split(data, name))


def test_default_protocol():
    for parts, name in [
        ({"train": 6, "test": 6}, "p-all"),
        ({"train": 4, "database": 4, "query": 4}, "parts"),
        ({"all": 24}, "fraction"),
    ]:
        data = dataset(np.arange(sum(parts.values())) % 3, parts)
        assert default_protocol(data) == name
        check(data, split(data, name, validation=0.3))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_split_of_any_labels(data):
    seed = data.draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    classes = data.draw(st.integers(2, 6))
    several = data.draw(st.booleans())

    def draw_labels():
        """Six items of each class and some more of any, in random order."""
        numbers = np.repeat(np.arange(classes), 6)
        more = data.draw(st.integers(0, 40))
        if several:
            flags = np.eye(classes, dtype=bool)[numbers]
            return rng.permutation(np.concatenate([flags, rng.random((more, classes)) < 0.4]))
        return rng.permutation(np.concatenate([numbers, rng.integers(0, classes, more)]))

    train, test = draw_labels(), draw_labels()
    name = data.draw(st.sampled_from(sorted(PROTOCOLS)))
    pooled = name in ("p-5k", "fraction", "unseen") and data.draw(st.booleans())
    parts = {"all": len(train) + len(test)} if pooled else {"train": len(train), "test": len(test)}
    made = dataset(np.concatenate([train, test]), parts, classes)
    options = {"queries_per_class": 1, "train_per_class": 2} if name == "p-5k" else {}
    validation = data.draw(st.sampled_from([0, 0.1, 0.5, 0.99]))
    result = split(made, name, seed=seed, validation=validation, **options)
    check(made, result)
    again = split(made, name, seed=seed, validation=validation, **options)
    other = split(made, name, seed=seed, validation=0, **options)
    for field in ("train", "validation", "database", "query"):
        np.testing.assert_array_equal(getattr(again, field), getattr(result, field))
    # The share held out changes nothing else.
    np.testing.assert_array_equal(other.query, result.query)
    np.testing.assert_array_equal(other.database, result.database)
    np.testing.assert_array_equal(np.union1d(result.train, result.validation), other.train)
    # The validation images have the classes of the training images in their proportion.
    stratum = strata(made.labels)
    for number in np.unique(stratum[other.train]):
        total = np.sum(stratum[other.train] == number)
        held_out = np.sum(stratum[result.validation] == number)
        assert abs(held_out - validation * total) <= 0.5 or held_out == total - 1
        assert held_out < total


def test_the_seed_decides():
    data = dataset(np.arange(300) % 3, {"train": 200, "test": 100})
    options = {"p-5k": {"queries_per_class": 10, "train_per_class": 20}, "p-all": {"queries": 50}}
    for name in ("p-all", "p-5k", "fraction"):
        queries = {
            split(data, name, seed=s, **options.get(name, {})).query.tobytes() for s in range(4)
        }
        assert len(queries) == 4
    held_out = {split(data, "p-all", seed=seed).validation.tobytes() for seed in range(4)}
    assert len(held_out) == 4


def test_several_classes_an_item(rng):
    labels = rng.random((3_000, 12)) < 0.15
    data = dataset(labels)
    result = split(data, "p-5k", queries_per_class=20, train_per_class=50, validation=0)
    check(data, result)
    assert (result.query.size, result.train.size) == (240, 600)
    assert (labels[result.query].sum(axis=0) >= 20).all()
    result = split(data, "unseen", validation=0)
    held_out = labels[result.query].any(axis=0)
    assert held_out.sum() == 3
    assert not labels[result.train][:, held_out].any()
    assert not labels[result.database][:, ~held_out].any()
    half = {"train": 1_500, "test": 1_500}
    result = split(dataset(labels, half), "p-all")
    without = ~labels[1_500:].any(axis=1)
    assert result.query.size == 1_500 - without.sum()
    assert f"{without.sum()} items without a class are no queries" in result.description


@pytest.mark.parametrize(
    ("protocol", "labels", "parts", "options", "message"),
    [
        ("p-al", [0, 1], None, {}, "did you mean p-all"),
        ("map", [0, 1], None, {}, "choose one of p-all, p-5k, p-dsh, fraction, unseen, parts"),
        ("p-dsh", [0, 1], None, {"queries": 3}, "queries is no option of p-dsh, which has none"),
        ("p-all", [0, 1], None, {"query": 3}, "which has queries"),
        ("p-all", [0, 1], None, {}, "needs the parts train and test; there is all"),
        ("p-dsh", [0, 1], {"database": 1, "query": 1}, {}, "the protocol parts takes"),
        ("parts", [0, 1], None, {}, "a part query or test"),
        ("p-all", [0, 1], {"train": 1, "test": 1}, {"queries": 2}, "from 1 to the 1 test images"),
        ("p-5k", [0] * 700 + [1] * 599, None, {}, "'class 1' has 599"),
        (
            "p-5k",
            [0, 1],
            None,
            {"queries_per_class": 0},
            "queries_per_class must be an integer from 1",
        ),
        ("p-5k", [[1, 1], [1, 1]], None, {"queries_per_class": 1, "train_per_class": 1}, "shares"),
        ("fraction", [0, 0, 0, 1, 1], None, {}, "'class 1' has 0"),
        ("fraction", [0, 0], None, {"train_share": 1}, "train_share must be a share between"),
        ("unseen", [0, 0], None, {}, "needs 2 classes, there is 1"),
        ("unseen", [0, 0, 1, 1], None, {}, "no query image of the held-out class"),
        ("unseen", [0, 1], None, {"class_share": 0}, "class_share"),
        ("p-all", [0, 1], {"train": 1, "test": 1}, {"validation": 1}, "validation must be a share"),
        ("p-all", [0, 1], {"train": 1, "test": 1}, {"seed": -1}, "seed must be an integer"),
        ("p-all", [[1, 0], [0, 0]], {"train": 1, "test": 1}, {}, "leaves no query images"),
    ],
)
def test_refusals_name_the_numbers(protocol, labels, parts, options, message):
    with pytest.raises(ValueError, match=message):
        split(dataset(labels, parts), protocol, **options)


def test_unlabelled_data_cannot_be_split(tmp_path):
    np.savez(tmp_path / "x.npz", features=np.eye(3, dtype=np.float32))
    data = load(tmp_path / "x.npz")
    for name in PROTOCOLS:
        with pytest.raises(ValueError, match=r"no labels"):
            split(data, name)


@settings(max_examples=40, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    share=st.floats(0, 1),
    data=st.data(),
)
def test_draws(labels, share, data):
    labels, rng = np.array(labels), np.random.default_rng(0)
    rows = np.array(data.draw(st.lists(st.integers(0, labels.size - 1), min_size=1, unique=True)))
    flags = labels[:, None] == np.arange(5)
    counts = class_counts(labels, rows, 5)
    assert counts.tolist() == [sum(labels[row] == number for row in rows) for number in range(5)]
    np.testing.assert_array_equal(class_counts(flags, rows, 5), counts)
    wanted = np.array([True, False, True, False, False])
    np.testing.assert_array_equal(has_any(flags, wanted), has_any(labels, wanted))
    np.testing.assert_array_equal(strata(flags), strata(labels))
    for round_up in (False, True):
        drawn, rest = draw_share(labels, rows, share, rng, round_up=round_up)
        assert sorted([*drawn, *rest]) == sorted(rows)
        for number in np.flatnonzero(counts):
            total, taken = counts[number], np.sum(labels[drawn] == number)
            if round_up:
                assert -1e-6 <= taken - share * total < 1
            else:
                assert taken < total
                assert abs(taken - share * total) <= 0.5 or taken == total - 1
    total = data.draw(st.integers(1, rows.size))
    drawn = draw_total(labels, rows, total, rng)
    assert drawn.size == np.unique(drawn).size == total
    taken = class_counts(labels, drawn, 5)
    # As equal as the classes allow: only an exhausted class has two fewer than another.
    assert all(taken[i] >= taken.max() - 1 or taken[i] == counts[i] for i in range(5))
    labels = np.concatenate([labels, np.arange(5)])
    everything = np.arange(labels.size)
    least = int(class_counts(labels, everything, 5).min())
    for form in (labels, labels[:, None] == np.arange(5)):
        drawn = draw_each(form, everything, least, 5, rng)
        assert set(class_counts(labels, drawn, 5)) == {least}
        with pytest.raises(LookupError):
            draw_each(form, everything, least + 1, 5, rng)


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_the_rarest_class_draws_first(order):
    """Else the common class takes what it shares with the rare one, which then runs out."""
    flags = np.array([[1, 1], [1, 1], [0, 1], [0, 1]], bool)[:, order]
    for seed in range(10):
        drawn = draw_each(flags, np.arange(4), 2, 2, np.random.default_rng(seed))
        assert drawn.tolist() == [0, 1, 2, 3]
