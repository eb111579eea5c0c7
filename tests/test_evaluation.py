"""The evaluation against its parts computed by hand, and its behaviour at the edges."""

import dataclasses
import json

import naive
import numpy as np
import pytest

import search
from jaxhash.data.protocols import Split
from jaxhash.encoding import Encoded
from jaxhash.evaluation.measures import evaluate, report

BITS, CLASSES, ITEMS = 11, 9, 90


def make_split(query, database, **changes):
    split = Split(
        protocol="p-all",
        description="p-all: made up",
        seed=7,
        train=database,
        validation=np.empty(0, np.int64),
        database=database,
        query=query,
        exclude_self=False,
        database_has_train=True,
    )
    return dataclasses.replace(split, **changes)


def encode(rng, labels, several=False):
    """Items whose codes, features and logits lean towards their class, imperfectly."""
    lean = labels if several else np.eye(CLASSES)[labels]
    centres = np.random.default_rng(5).standard_normal((CLASSES, 6))
    features = lean @ centres + 0.7 * rng.standard_normal((len(labels), 6))
    latent = features @ np.random.default_rng(6).standard_normal((6, BITS))
    logits = 3 * lean + 1.5 * rng.standard_normal((len(labels), CLASSES))
    return Encoded(
        search.pack(latent > 0),
        features.astype(np.float16),
        latent.astype(np.float32),
        logits.astype(np.float32),
    )


def rows_of(encoded, rows):
    return Encoded(*(None if one is None else one[rows] for one in encoded))


@pytest.fixture
def world(rng):
    labels = rng.integers(0, CLASSES, ITEMS).astype(np.int32)
    encoded = encode(rng, labels)
    split = make_split(np.arange(20), np.arange(20, ITEMS))
    return labels, encoded, split


def run(world, **options):
    labels, encoded, split = world
    return evaluate(
        rows_of(encoded, split.query),
        rows_of(encoded, split.database),
        labels,
        split,
        bits=BITS,
        seed=3,
        **options,
    )


def test_the_numbers_are_those_of_the_parts(world):
    labels, encoded, split = world
    results = run(world, top=30, pool=40)
    relevant = labels[split.query][:, None] == labels[split.database]
    query, database = (rows_of(encoded, rows) for rows in (split.query, split.database))

    codes = results["rankings"]["codes"]
    distances = naive.hamming_distances(query.codes, database.codes)
    for top, found in ((70, codes["mAP"]), (30, codes["mAP_at_top"])):
        expected = [
            naive.expected_average_precision(
                [(int((row == d).sum()), int(hit[row == d].sum())) for d in np.unique(row)],
                top,
                "retrieved",
            )
            for row, hit in zip(distances, relevant, strict=True)
        ]
        assert found == pytest.approx(np.mean(expected), rel=1e-9)
    inside = distances <= 2
    precision = (inside & relevant).sum(1) / np.maximum(inside.sum(1), 1)
    assert codes["within_radius"]["2"]["precision"] == pytest.approx(precision.mean())
    assert codes["within_radius"]["2"]["empty"] == (inside.sum(1) == 0).sum()

    _, ids = naive.euclidean_knn(query.features, database.features, 70)
    hits = np.take_along_axis(relevant, ids, axis=1)
    features = results["rankings"]["features"]
    expected = [naive.average_precision(row.tolist(), 30, "retrieved") for row in hits]
    assert features["mAP_at_top"] == pytest.approx(np.mean(expected))
    assert features["precision_at"]["10"] == pytest.approx(hits[:, :10].mean())

    pools = naive.hamming_knn(query.codes, database.codes, 40)[1]
    kept = [
        [row for row in near if row in set(pool)] for near, pool in zip(ids, pools, strict=True)
    ]
    hits = np.take_along_axis(relevant, np.array(kept), axis=1)
    coarse = results["rankings"]["coarse_to_fine"]
    assert coarse["pool"] == 40
    assert coarse["precision_at"]["20"] == pytest.approx(hits[:, :20].mean())
    assert "50" not in coarse["precision_at"]

    guessed, known = query.logits.argmax(1), database.logits.argmax(1)
    assert results["accuracy"]["query"] == (guessed == labels[split.query]).mean()
    baseline = []
    for row, guess in enumerate(guessed):
        same = known == guess
        ties = [(int(part.sum()), int((part & relevant[row]).sum())) for part in (same, ~same)]
        baseline.append(naive.expected_average_precision(ties, 70, "retrieved"))
    assert results["rankings"]["predicted_class"]["mAP"] == pytest.approx(np.mean(baseline))
    ones = np.unpackbits(database.codes, axis=1, count=BITS).mean(0)
    entropy = [-sum(p * np.log2(p) for p in (one, 1 - one) if p > 0) for one in ones]
    assert results["bit_entropy"] == pytest.approx(np.mean(entropy))
    assert results["distinct_codes"]["database"] == len({bytes(code) for code in database.codes})
    # None of this may hold because everything is right or wrong.
    assert 0.3 < codes["mAP"] < coarse["mAP_at_top"] < 0.99


def test_results_are_json_and_say_what_they_were_measured_on(world):
    stages = []
    results = run(world, on_stage=stages.append)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    named = {"protocol": "p-all", "bits": BITS, "queries": 20, "database": 70, "seed": 3}
    assert named.items() <= results.items()
    assert results["split_seed"] == 7
    assert stages == list(results["rankings"])
    table = report(results)
    for words in ("p-all, 11 bits, 20 queries, 70 in the database", "pool 70", "classified right"):
        assert words in table
    assert f"{results['rankings']['codes']['mAP']:.4f}" in table


@pytest.mark.parametrize("several", [False, True])
def test_a_query_in_its_own_database_is_left_out(rng, several):
    labels = rng.random((40, CLASSES)) < 0.3 if several else rng.integers(0, CLASSES, 40)
    encoded = encode(rng, labels, several)
    rows = np.arange(3, 40)
    split = make_split(rows, rows, exclude_self=True)
    results = run((labels, encoded, split), top=100, pool=10)
    for name in ("codes", "predicted_class", "features"):
        assert results["rankings"][name]["top"] == 36
    assert results["rankings"]["coarse_to_fine"]["pool"] == 10

    alone = []
    for row in rows:
        rest = make_split(np.array([row]), rows[rows != row])
        alone.append(run((labels, encoded, rest), top=36, pool=10)["rankings"])
    for name, one in results["rankings"].items():
        for measure in ("mAP_at_top", "mAP"):
            if one[measure] is not None:
                expected = np.mean([each[name][measure] for each in alone])
                assert one[measure] == pytest.approx(expected), name
        for k, found in one["precision_at"].items():
            expected = np.mean([each[name]["precision_at"][k] for each in alone])
            assert found == pytest.approx(expected), (name, k)
    if several:
        assert results["queries_without_relevant"] > 0
        assert "nothing to find" in report(results)


def test_codes_alone_are_enough(world):
    labels, encoded, split = world
    bare = Encoded(encoded.codes, None, None, None)
    results = run((labels, bare, split))
    assert list(results["rankings"]) == ["codes"]
    assert results["accuracy"] is None
    assert "classified" not in report(results)


def test_encodings_of_other_items_are_refused(world):
    labels, encoded, split = world
    query, database = rows_of(encoded, split.query), rows_of(encoded, split.database)
    options = {"bits": BITS, "seed": 0}
    with pytest.raises(ValueError, match=r"query.codes has 19 rows.*items\[split.query\]"):
        evaluate(rows_of(query, slice(19)), database, labels, split, **options)
    few = database._replace(features=database.features[:1])
    with pytest.raises(ValueError, match=r"database.features has 1 rows"):
        evaluate(query, few, labels, split, **options)
    with pytest.raises(ValueError, match="labels of the whole dataset"):
        evaluate(query, database, labels[split.database], split, **options)
    with pytest.raises(ValueError, match="at must be at least 1"):
        evaluate(query, database, labels, split, at=[0], **options)
    lonely = make_split(np.array([0]), np.array([0]), exclude_self=True)
    with pytest.raises(ValueError, match="one item"):
        run((labels, encoded, lonely))
