"""Whole runs: what they leave, what is chosen on what, resuming, and what is refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import naive
import numpy as np
import pytest
import small
from test_steps import FAST, Loop, blobs, leaves, recorded

from jaxhash import models, runs
from jaxhash.config import Config
from jaxhash.data import Dataset
from jaxhash.method import METHODS
from jaxhash.nets import NETWORKS
from jaxhash.training import checkpoints, loop, meter, metrics_log, pretrained
from jaxhash.training.planning import settle

REPOSITORY = Path(__file__).resolve().parent.parent


def test_a_run_leaves_what_it_promises(tmp_path: Path) -> None:
    seen, said = [], []
    config = Config(**FAST, epochs=8, log_every=3, eval_every=2)
    model = loop.train(
        config,
        tmp_path / "run",
        dataset=blobs(),
        devices=jax.devices()[:1],
        on_step=seen.append,
        say=said.append,
    )
    folder = tmp_path / "run"
    assert runs.load_config(folder) == config
    rows = metrics_log.read(folder)
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps))
    assert steps[-1] == seen[-1].steps == seen[-1].step
    assert all(step % 3 == 0 for step in steps[:-1])
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["validation_map"] > 0.9
    assert seen[-1].validation_map == rows[-1]["validation_map"]
    assert [one.step for one in seen] == list(range(1, seen[-1].steps + 1))
    assert any("dlbhc, 12 bits, on mhcln" in line for line in said)
    loaded = models.load(folder)
    assert loaded.spec == model.spec
    for a, b in zip(leaves(loaded.variables), leaves(model.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_checkpoint_is_the_one_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, rated = iter([0.5, 0.9, 0.7, 0.6]), []

    def score(model: models.Model, dataset: Dataset, rows: np.ndarray) -> float:
        rated.append(jax.device_get(model.variables))
        return next(scores)

    monkeypatch.setattr(loop, "validation_map", score)
    config = Config(**FAST, steps=8, eval_every=0.4, log_every=2)
    model = loop.train(config, tmp_path / "run", dataset=blobs())
    assert len(rated) == 4
    for best, last, exported in zip(
        leaves(rated[1]), leaves(rated[3]), leaves(model.variables), strict=True
    ):
        np.testing.assert_array_equal(best, exported)
        assert not np.array_equal(last, exported)
    with checkpoints.open_checkpoints(tmp_path / "run" / runs.CHECKPOINTS) as kept:
        assert list(kept.all_steps()) == [4, 8]  # the best and the last


def test_queries_are_never_looked_at(tmp_path: Path) -> None:
    read: list[int] = []
    dataset = recorded(blobs(), read)
    loop.train(Config(**FAST, steps=3), tmp_path / "run", dataset=dataset)
    assert read
    assert not set(read) & set(dataset.parts["test"].tolist())


def test_validation_is_the_mean_over_all_without_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2, (20, 4))
    encoded = type("", (), {"codes": np.packbits(bits, axis=1)})
    monkeypatch.setattr(loop, "encode", lambda *_, **__: encoded)
    dataset, rows = blobs(), np.arange(10, 30)
    model = models.Model(settle(Config(**FAST | {"bits": 4}), dataset).spec, {})
    labels = dataset.labels[rows]
    expected = []
    for query in range(20):
        others = np.delete(np.arange(20), query)
        distances = (bits[query] != bits[others]).sum(axis=1)
        relevant = labels[others] == labels[query]
        counts = [
            (int((distances == d).sum()), int(relevant[distances == d].sum())) for d in range(5)
        ]
        expected.append(naive.expected_average_precision(counts, 19, "retrieved"))
    value = loop.validation_map(model, dataset, rows)
    assert value == pytest.approx(np.mean(expected), abs=1e-12)


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    config = Config(
        **FAST | {"method": "dsh"},
        learning_rate=1e7,
        clip_norm=1e9,
        epochs=30,
        log_every=2,
        eval_every=0.2,
    )
    with pytest.raises(FloatingPointError, match=r"of step \d+ is not finite"):
        loop.train(config, tmp_path / "run", dataset=blobs())
    folder = tmp_path / "run"
    assert not (folder / runs.WEIGHTS).exists()
    with checkpoints.open_checkpoints(folder / runs.CHECKPOINTS) as kept:
        for step in kept.all_steps():
            params = kept.restore(step)["params"]
            assert all(np.isfinite(leaf).all() for leaf in leaves(params))


def test_the_step_that_broke_is_named() -> None:
    metrics = [
        {"loss": np.array([1.0, 2.0]), "gradient_norm": np.array([1.0, 1.0])},
        {"loss": np.array([3.0, np.nan]), "gradient_norm": np.array([np.inf, np.nan])},
    ]
    with pytest.raises(FloatingPointError, match="gradient of step 9 "):
        meter.fetch_means(metrics, 10)
    assert meter.fetch_means(metrics[:1], 8) == {"loss": 1.5, "gradient_norm": 1.0}


BROKEN_OFF = """
import os, signal, sys
import jax
sys.path.insert(0, "tests")
import small
from test_training import RESUMED
from jaxhash.nets import NETWORKS
from jaxhash.training import loop
NETWORKS["small"] = small.NETWORK

def on_step(progress):
    if progress.step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

loop.train(RESUMED, sys.argv[1], devices=jax.devices()[:1], on_step=on_step)
"""
RESUMED = Config(
    network="small",
    bits=12,
    batch_size=64,
    steps=12,
    augment="crop-flip",
    average=0.9,
    log_every=2,
    eval_every=0.21,
    seed=3,
)


def test_a_killed_run_ends_with_the_same_parameters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NETWORKS, "small", small.NETWORK)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    # As many devices there as here: XLA's thread pool depends on their number.
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "JAX_NUM_CPU_DEVICES": str(jax.device_count()),
    }
    killed = subprocess.run(
        [sys.executable, "-W", "error", "-c", BROKEN_OFF, str(broken), "7"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (broken / runs.WEIGHTS).exists()
    lines_before = len(metrics_log.read(broken))
    for folder in (broken, whole):
        loop.train(RESUMED, folder, resume=True, devices=jax.devices()[:1])
    assert (whole / runs.WEIGHTS).read_bytes() == (broken / runs.WEIGHTS).read_bytes()

    def log(folder: Path) -> list[dict]:
        timed = ("images_per_second", "input_share")
        rows = metrics_log.read(folder)
        return [{name: row[name] for name in row if name not in timed} for row in rows]

    assert log(whole) == log(broken)
    assert 0 < lines_before < len(log(whole))


def test_resuming_with_other_options_is_refused(tmp_path: Path) -> None:
    dataset = blobs()
    loop.train(Config(**FAST, steps=2), tmp_path / "run", dataset=dataset, resume=True)
    with pytest.raises(ValueError, match="another bits, seed"):
        loop.train(
            Config(**FAST | {"bits": 16}, steps=2, seed=4),
            tmp_path / "run",
            dataset=dataset,
            resume=True,
        )
    with pytest.raises(FileExistsError, match="resume=True"):
        loop.train(Config(**FAST, steps=2), tmp_path / "run", dataset=dataset)
    before = (tmp_path / "run" / runs.METRICS).read_text()
    # A finished run that is resumed has nothing left to do, and still returns its model.
    again = loop.train(Config(**FAST, steps=2), tmp_path / "run", dataset=dataset, resume=True)
    assert again.bits == 12
    assert (tmp_path / "run" / runs.METRICS).read_text() == before != ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dlhbc"}, "did you mean dlbhc"),
        ({"network": "mclhn"}, "did you mean mhcln"),
        ({"network": "dsh"}, r"takes images.*choose one of features, mhcln"),
        ({"augment": "flip"}, "features cannot be varied"),
        ({"optimizer": "lion"}, "choose one of sgd, adam, adamw"),
        ({"options": {"alhpa": 1.0}}, "unknown option 'alhpa'"),
        ({"batch_size": 1000}, "at most"),
        ({"protocol": "p-al"}, "p-all"),
        ({"weights": "x.pth"}, "no map"),
        ({"mirror": True}, "mirror is set, and features are no images"),
        ({"shift": True}, "shift is set, and features are no images"),
        ({"batches": "balanced"}, "multiple of 3, for example 15"),
        ({"batches": "shuffled", "method": "mhcln-paper"}, "leave batches at auto"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_made(
    options: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        loop.train(Config(**FAST | {"steps": 2} | options), tmp_path / "run", dataset=blobs())
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_there_leave_no_run_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pretrained.MAPS, "mhcln", {})
    config = Config(**FAST | {"steps": 2, "weights": str(tmp_path / "none.pth")})
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        loop.train(config, tmp_path / "run", dataset=blobs())
    assert not (tmp_path / "run").exists()


def test_a_single_class_cannot_be_learned() -> None:
    one = dataclasses.replace(blobs(), labels=np.zeros(len(blobs()), np.int32), classes=("photos",))
    with pytest.raises(ValueError, match="one class alone, photos"):
        settle(Config(**FAST, steps=2), one)


def test_every_method_has_a_run(tmp_path: Path) -> None:
    """Every row of the table settles on features, with its published recipe and the short one."""
    for name in METHODS:
        for recipe in ("published", "scratch"):
            plan = settle(Config(method=name, network="mhcln", bits=8, recipe=recipe), blobs())
            assert plan.steps >= 1
            assert len(plan.rows(0)) == plan.recipe.batch_size


def test_balanced_batches_are_trained_on() -> None:
    config = Config(**FAST | {"batch_size": None, "steps": 3}, batches="balanced")
    loop = Loop(config, blobs())
    size = loop.plan.recipe.batch_size
    assert size % 3 == 0
    for step in range(3):
        drawn = loop.plan.labels[loop.plan.rows(step)]
        assert np.bincount(drawn).tolist() == [size // 3] * 3
    assert np.isfinite(loop.run()["loss"]).all()
    usual = settle(Config(**FAST, steps=3), blobs())
    assert any(len(set(np.bincount(usual.labels[usual.rows(step)]))) > 1 for step in range(3))


def test_the_log_is_json_lines(tmp_path: Path) -> None:
    with metrics_log.MetricsLog(tmp_path) as log:
        log.write({"step": 1, "loss": 0.5})
        log.write({"step": 2, "loss": 0.25})
    path = tmp_path / runs.METRICS
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [0.5, 0.25]
    with path.open("a") as file:
        file.write('{"step": 3, "lo')  # a crash in the middle of a line
    with metrics_log.MetricsLog(tmp_path, after=1) as log:
        log.write({"step": 2, "loss": 0.125})
    assert metrics_log.read(tmp_path) == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.125}]


def test_tensorboard_gets_what_the_log_gets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[tuple[object, ...]] = []

    class Writer:
        def __init__(self, folder: str, *, purge_step: int) -> None:
            got.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            got.append((name, value, step))

        def close(self) -> None:
            got.append(("closed",))

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=Writer))
    with metrics_log.MetricsLog(tmp_path, after=4, tensorboard=True) as log:
        log.write({"step": 5, "loss": 0.5, "validation_map": 0.25})
    assert got == [
        (str(tmp_path / "tensorboard"), 5),
        ("loss", 0.5, 5),
        ("validation_map", 0.25, 5),
        ("closed",),
    ]
