"""The comparison: baselines against their slow twins, cells that are made once, the table."""

import contextlib
import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path

import jax
import naive
import numpy as np
import pytest
from PIL import Image

import search
from jaxhash import runs
from jaxhash.cli.command import run
from jaxhash.comparison import baselines, runner, table
from jaxhash.config import Config
from jaxhash.data import Dataset, protocols
from jaxhash.evaluation import run as evaluation_run
from jaxhash.models import Model
from jaxhash.training import loop

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"
# FAISS's own extension modules warn when Python 3.12 loads them.
swig = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")
ONE = jax.devices()[:1]
TINY = Config(
    data="blobs", network="mhcln", recipe="scratch", batch_size=16, steps=2, validation=0.0
)


def blobs(n: int = 120, classes: int = 4) -> Dataset:
    """Feature vectors around one centre a class, with train and test parts."""
    rng = np.random.default_rng(0)
    labels = (np.arange(n) % classes).astype(np.int32)
    items = (np.eye(classes, 8)[labels] * 3 + rng.normal(size=(n, 8))).astype(np.float32)
    parts = {"train": np.arange(0, n * 4 // 5), "test": np.arange(n * 4 // 5, n)}
    return Dataset("blobs", "features", items, labels, parts, tuple("abcdefgh"[:classes]))


def planned(protocols: list[str], **changes: object) -> list[runner.Task]:
    return runner.tasks(
        dataclasses.replace(TINY, **changes),
        blobs(),
        methods=["dlbhc"],
        protocols=protocols,
        bits=[6],
        seeds=[0],
    )


# ---------------------------------------------------------------- baselines


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("several", [False, True])
def test_features_are_ranked_like_their_slow_twin(metric, several, rng, monkeypatch) -> None:
    monkeypatch.setattr(baselines, "BLOCK", 4)
    # Few whole numbers: many distances are equal, and one vector is all zeros.
    features = rng.integers(0, 2, (30, 3)).astype(np.float32)
    features[7] = 0
    labels = rng.random((30, 3)) < 0.4 if several else rng.integers(0, 3, 30)
    if metric == "cosine":  # twins' roundings decide equal cosines: leave no equal ones
        features += rng.random((30, 3), dtype=np.float32)
        features[7] = 0
    queries = np.arange(10)
    own = np.where(queries % 2 == 0, queries, -1)
    found = baselines.by_features(
        features[:10],
        features,
        labels[:10],
        labels,
        metric=metric,
        at=(1, 5),
        top=6,
        exclude=own,
        threads=2,
    )
    shared = naive.shares_label(labels[:10], labels)
    lists = []
    for i in queries:
        order = naive.feature_order(features[i], features, metric, own[i])
        relevant = shared[i, order].tolist()
        lists.append(relevant)
        whole = naive.average_precision(relevant, len(relevant), "possible")
        assert found.average_precision[i] == pytest.approx(whole)
        head = naive.average_precision(relevant, 6, "retrieved")
        assert found.average_precision_at_top[i] == pytest.approx(head)
        assert found.precision_at[i].tolist() == [relevant[0], sum(relevant[:5]) / 5]
    place = found.ranks.tolist().index(3)
    assert found.precision[place] == pytest.approx(np.mean([sum(one[:3]) / 3 for one in lists]))
    recall = [sum(one[:3]) / sum(one) if sum(one) else 0 for one in lists]
    assert found.recall[place] == pytest.approx(np.mean(recall))
    assert found.without_relevant == sum(not any(one) for one in lists)


def test_what_is_wrong_with_features_is_said() -> None:
    items, labels = np.ones((3, 2)), np.zeros(3, int)
    with pytest.raises(ValueError, match="euclidean or cosine"):
        baselines.by_features(items, items, labels, labels, metric="manhattan")
    with pytest.raises(ValueError, match="query has 1 dimensions, database 2"):
        baselines.by_features(items[:, :1], items, labels, labels)
    with pytest.raises(ValueError, match="at least one item"):
        baselines.by_features(items[:0], items, labels[:0], labels)
    with pytest.raises(ValueError, match="give no more"):
        baselines.itq(items, 3)


@swig
@pytest.mark.parametrize("name", ["lsh", "itq"])
def test_codes_of_features_are_near_where_the_features_are(name, rng) -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    centres = rng.normal(size=(4, 16)) * 3
    items = (centres[np.arange(200) % 4] + rng.normal(size=(200, 16)) + 5).astype(np.float32)
    code = getattr(baselines, name)(items, 11, seed=1)
    codes = code(items)
    assert codes.shape == (200, 2)
    assert not (codes[:, 1] & 0b11111).any()  # pad bits
    labels = np.arange(200) % 4
    assert search.average_precision(codes, codes, labels, labels, bits=11).mean() > 0.7
    shares = search.unpack(codes, 11).mean(axis=0)
    assert (shares > 0.1).all()
    assert (shares < 0.9).all()
    other = getattr(baselines, name)(items, 11, seed=2)
    np.testing.assert_array_equal(code(items[:3]), codes[:3])
    assert (other(items) != codes).any()


@swig
def test_lsh_is_the_signs_of_faiss(rng) -> None:
    faiss = pytest.importorskip("faiss", reason="needs faiss-cpu")
    items = rng.normal(size=(50, 6)).astype(np.float32)
    codes = baselines.lsh(items, 10, seed=3)(items)
    index = faiss.IndexLSH(6, 10, True, True)
    index.rrot.init(3)
    index.train(items)
    index.add(items)
    expected, _ = index.search(items, 50)
    ours, _ = search.hamming_knn(codes, codes, 50, bits=10)
    np.testing.assert_array_equal(ours, expected)


def test_a_missing_faiss_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match="pip install faiss-cpu"):
        baselines.lsh(np.ones((4, 2)), 2)


@swig
def test_baselines_follow_the_split(rng) -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    data = blobs()
    split = protocols.split(data, "fraction", validation=0)  # queries leave themselves out
    query = data.items[split.query]
    found = baselines.rankings(
        data.items[split.train], query, query, data.labels, split, bits=12, queries=7
    )
    assert list(found) == ["lsh", "euclidean", "cosine"]  # 12 bits of 8 dimensions: no ITQ
    assert [one["queries"] for one in found.values()] == [len(split.query), 7, 7]
    drawn = np.linspace(0, len(query) - 1, 7).round().astype(int)
    averages = []
    for i in drawn:
        order = naive.feature_order(query[i], query, "euclidean", i)
        relevant = (data.labels[split.query][order] == data.labels[split.query][i]).tolist()
        averages.append(naive.average_precision(relevant, len(relevant), "possible"))
    assert found["euclidean"]["mAP"] == pytest.approx(np.mean(averages))
    with pytest.raises(ValueError, match="query has 3 rows"):
        baselines.rankings(query, query[:3], query, data.labels, split, bits=4)


# ---------------------------------------------------------------- training without a folder


def test_a_run_without_a_folder_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Eight batches an epoch.
    config = dataclasses.replace(TINY, steps=5, batch_size=12, log_every=2, eval_every=2 / 8)
    seen: list[tuple[int, list[np.ndarray]]] = []

    def on_model(step: int, model: Model) -> None:
        seen.append((step, [np.array(leaf) for leaf in jax.tree.leaves(model.variables)]))

    model = loop.train(config, None, dataset=blobs(), on_model=on_model, devices=ONE)
    assert list(tmp_path.iterdir()) == []
    assert [step for step, _ in seen] == [2, 4, 5]
    for last, kept in zip(seen[-1][1], jax.tree.leaves(model.variables), strict=True):
        np.testing.assert_array_equal(last, kept)
    assert any((one != other).any() for one, other in zip(seen[0][1], seen[1][1], strict=True))
    for word in ("resume", "overwrite"):
        with pytest.raises(ValueError, match="need a folder"):
            loop.train(config, None, dataset=blobs(), **{word: True})


# ---------------------------------------------------------------- cells


def test_protocols_that_train_on_the_same_images_share_the_training() -> None:
    tasks = runner.tasks(
        TINY,
        blobs(),
        methods=["dlbhc", "dsh"],
        protocols=["p-all", "unseen", "p-dsh"],
        bits=[12, 24],
        seeds=[0, 1],
    )
    assert len(tasks) == 2 * 2 * 2 * 2
    assert {tuple(task.splits) for task in tasks} == {("p-all", "p-dsh"), ("unseen",)}
    for task in tasks:
        assert task.config.validation == 0
        for protocol, split in task.splits.items():
            assert split.protocol == protocol
            assert split.seed == task.config.seed
            np.testing.assert_array_equal(split.train, next(iter(task.splits.values())).train)
    with pytest.raises(ValueError, match="did you mean dlbhc"):
        runner.tasks(TINY, blobs(), methods=["dlhbc"], protocols=["p-all"], bits=[1], seeds=[0])


@swig
def test_cells_hold_what_a_run_and_its_evaluation_give(tmp_path: Path) -> None:
    pytest.importorskip("faiss", reason="needs faiss-cpu")
    (task,) = planned(["p-all", "p-dsh"])
    data = blobs()
    asks = {"with_baselines": True, "queries": None}
    assert runner.missing(tmp_path, task, **asks) == ["p-all", "p-dsh"]
    cells = runner.run_task(task, data, tmp_path, protocols=["p-dsh", "p-all"], devices=ONE, **asks)
    assert runner.missing(tmp_path, task, **asks) == []
    names = ["p-all_dlbhc_6_0.json", "p-dsh_dlbhc_6_0.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert table.read_cells(tmp_path) == [cells["p-all"], cells["p-dsh"]]

    loop.train(task.config, tmp_path / "run", dataset=data, devices=ONE)
    for protocol, cell in cells.items():
        whole = evaluation_run.evaluate(tmp_path / "run", dataset=data, protocol=protocol)
        for ranking in ("codes", "predicted_class"):
            ours, theirs = cell["rankings"][ranking], whole["rankings"][ranking]
            assert ours["mAP"] == pytest.approx(theirs["mAP"], abs=1e-6)
        assert cell["accuracy"] == runner.slim(whole["accuracy"])
        assert cell["rankings"].keys() == {
            *("codes", "predicted_class", "lsh", "itq", "euclidean", "cosine")
        }
    assert (tmp_path / names[0]).stat().st_size < 30_000

    for change, message in (({"steps": 3}, "steps"), ({"augment": "none"}, "augment")):
        with pytest.raises(ValueError, match=f"another {message}; name another folder"):
            runner.missing(tmp_path, planned(["p-all"], **change)[0], **asks)
    older = json.loads((tmp_path / names[0]).read_text())
    del older["asked"]["config"]["shift"]  # as if from before there was such an option
    runs.write_json(tmp_path / names[0], older)
    assert runner.missing(tmp_path, task, **asks) == []
    with pytest.raises(ValueError, match="another shift"):
        runner.missing(tmp_path, planned(["p-all"], shift=True)[0], **asks)
    elsewhere = planned(["p-all"], data_dir="/moved")[0]
    assert runner.missing(tmp_path, elsewhere, **asks) == []
    assert "/moved" not in json.dumps(runner.asked_for(elsewhere.config, "p-all", queries=1))
    with pytest.raises(ValueError, match="another queries"):
        runner.missing(tmp_path, task, with_baselines=True, queries=5)
    del cells["p-all"]["rankings"]["lsh"], cells["p-all"]["rankings"]["itq"]
    del cells["p-all"]["rankings"]["euclidean"], cells["p-all"]["rankings"]["cosine"]
    runs.write_json(tmp_path / names[0], cells["p-all"])
    assert runner.missing(tmp_path, task, with_baselines=False, queries=5) == []
    with pytest.raises(ValueError, match="another baselines"):
        runner.missing(tmp_path, task, **asks)


def cell(protocol: str, method: str, bits: int, seed: int, **worth: float) -> dict:
    rankings = {
        name: {"mAP": value, "precision_at": {"1": value / 2}} for name, value in worth.items()
    }
    names = {"protocol": protocol, "method": method, "bits": bits, "seed": seed}
    return {**names, "rankings": rankings, "asked": {}}


def test_the_table_is_means_and_spreads_over_the_seeds() -> None:
    cells = [
        cell("p-all", "dsh", 48, 0, codes=0.5),
        cell("p-all", "dsh", 48, 1, codes=0.7),
        cell("p-all", "dsh", 48, 2, codes=0.6),
        cell("p-all", "dsh", 12, 0, codes=0.1),
        cell("unseen", "dsh", 48, 0, codes=0.25),
        cell("p-all", "dlbhc", 48, 0, codes=1.0, predicted_class=0.4, cosine=0.3),
    ]
    lines = table.table(cells, bits=48).splitlines()
    assert lines == [
        "| mAP, 48 bits | p-all | unseen |",
        "| --- | --- | --- |",
        "| dlbhc | 1.0000 (1) |  |",
        "| dsh | .6000 ± .1000 (3) | .2500 (1) |",
        "| dlbhc: its predicted class | .4000 (1) |  |",
        "| dlbhc: features, cosine | .3000 (1) |  |",
    ]
    assert ".3000 ± .0500 (3)" in table.table(cells, bits=48, measure="1")
    with pytest.raises(ValueError, match="there are cells of 12, 48"):
        table.table(cells, bits=24)
    assert table.table_of_bits(cells, protocol="p-all").splitlines() == [
        "| mAP, p-all | 12 | 48 |",
        "| --- | --- | --- |",
        "| dsh | .1000 (1) | .6000 ± .1000 (3) |",
    ]
    assert table.table_of_bits(cells, protocol="unseen") == ""
    mean, spread = table.mean_and_spread([0.5, 0.7, 0.6])
    assert (mean, spread) == pytest.approx((0.6, math.sqrt(0.02 / 2)))


# ---------------------------------------------------------------- the benchmarks


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """A function that runs a script with the given words on its command line."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def call(name: str, *words: object) -> None:
        run(importlib.import_module(name).COMMAND, [*map(str, words)])

    return call


def test_a_comparison_goes_on_and_is_drawn(script, tmp_path: Path, capsys, monkeypatch) -> None:
    data = blobs()
    np.savez(
        tmp_path / "blobs.npz",
        train_features=data.items[data.parts["train"]],
        train_labels=data.labels[data.parts["train"]],
        test_features=data.items[data.parts["test"]],
        test_labels=data.labels[data.parts["test"]],
    )
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # other tests go on with theirs
    folder, out = tmp_path / "cells", tmp_path / "figures"
    words = ["--data", tmp_path / "blobs.npz", "--network", "mhcln", "--methods", "dlbhc"]
    words += ["--protocols", "p-all", "--bits", 4, 12, "--seeds", 0, "--baselines"]
    words += ["--epochs", 0.4, "--batch-size", 16]
    script("compare", *words, "--share", "1/2", "--out", folder)
    assert [path.name for path in folder.iterdir()] == ["p-all_dlbhc_4_0.json"]
    assert "2 trainings, 1 of this part to do" in capsys.readouterr().out
    before = (folder / "p-all_dlbhc_4_0.json").read_bytes()
    script("compare", *words, "--out", folder)
    assert "2 trainings, 1 of this part to do" in capsys.readouterr().out
    assert len(list(folder.iterdir())) == 2
    assert (folder / "p-all_dlbhc_4_0.json").read_bytes() == before
    # What cannot be trained is said, and the rest goes on.
    with pytest.raises(SystemExit) as stopped:
        script("compare", *words, "--batch-size", 97, "--bits", 3, "--out", folder)
    assert "no result, see above: dlbhc, 3 bits, seed 0" in str(stopped.value.code)
    assert "choose a batch_size of at most 96" in capsys.readouterr().out

    points = tmp_path / "curve.json"
    words = ["--data", tmp_path / "blobs.npz", "--network", "mhcln", "--bits", 12, "--steps", 2]
    words += ["--method", "dlbhc"]  # it has a classifier, and so an accuracy
    words += ["--recipe", "scratch", "--batch-size", 16, "--eval-every", 0.1, "--log-every", 1]
    module = importlib.import_module("curve")
    with module.compiled_anew():
        assert not jax.config.values["jax_enable_compilation_cache"]
    assert jax.config.values["jax_enable_compilation_cache"]
    monkeypatch.setattr(module, "compiled_anew", contextlib.nullcontext)  # it takes seconds
    script("curve", *words, "--out", points, "--run", tmp_path / "kept")
    assert (tmp_path / "kept" / "model.safetensors").is_file()
    found = json.loads(points.read_text())
    assert [point["step"] for point in found["points"]] == [1, 2]
    first, second = (point["seconds"] for point in found["points"])
    assert 0 < first < second
    assert all(0 <= point[name] <= 1 for point in found["points"] for name in ("mAP", "accuracy"))
    assert str(tmp_path) not in json.dumps(found["environment"])

    capsys.readouterr()
    script("compare_figures", "--cells", folder, "--curves", points, "--out", out, "--bits", 12)
    assert "| dlbhc | " in capsys.readouterr().out
    pictures = sorted(path.name for path in out.iterdir())
    kinds = ("bits", "precision_at_k", "precision_recall", "time")
    assert pictures == [f"comparison_{kind}.png" for kind in kinds]
    for name in pictures:
        with Image.open(out / name) as picture:
            assert picture.width > 100


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("compare", ["--share", "3/2"], "--share is '3/2'"),
        ("compare", ["--methods", "dlhbc", "--data", "digits"], "did you mean dlbhc"),
        ("compare", ["--baselines", "nothing"], "method is 'nothing'"),
        ("compare_figures", ["--cells", "none"], "no cells in none"),
        ("compare_figures", [], "nothing to draw"),
    ],
)
def test_a_mistake_is_answered_in_one_line(name, words, message, script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = [] if name == "compare_figures" else ["--out", "x"]
    with pytest.raises(SystemExit) as stopped:
        script(name, *words, *out)
    assert message in str(stopped.value.code)
    assert list(tmp_path.iterdir()) == []
