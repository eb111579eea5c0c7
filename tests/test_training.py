"""Training: the step, its calls, devices, resuming, and what is chosen on what."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import naive
import numpy as np
import optax
import pytest

from jaxhash import (
    calls,
    checkpoints,
    feeding,
    metrics_log,
    models,
    networks,
    pretrained,
    runs,
    sharding,
    training,
)
from jaxhash.datasets import Dataset
from jaxhash.feeding import Batch
from jaxhash.methods import METHODS
from jaxhash.planning import channel_statistics, settle
from jaxhash.runs import Config
from jaxhash.steps import initial_state, make_train_step, variables_of

REPOSITORY = Path(__file__).resolve().parent.parent
FAST = {"method": "dlbhc", "network": "mhcln", "bits": 12, "batch_size": 16, "recipe": "scratch"}


def blobs(n: int = 120, classes: int = 3, seed: int = 0) -> Dataset:
    """Feature vectors around one centre a class, with train and test parts."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % classes).astype(np.int32)
    items = (np.eye(classes, 8)[labels] * 3 + rng.normal(size=(n, 8))).astype(np.float32)
    parts = {"train": np.arange(0, n * 4 // 5), "test": np.arange(n * 4 // 5, n)}
    names = tuple("abcdefgh"[:classes])
    return Dataset("blobs", "features", items, labels, parts, names)


def pictures(n: int = 80, side: int = 16, seed: int = 0) -> Dataset:
    """Noise images, brighter in one quarter or another by their class."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 4).astype(np.int32)
    items = rng.integers(0, 128, (n, side, side, 1)).astype(np.uint8)
    half = side // 2
    for image, label in zip(items, labels, strict=True):
        y, x = half * (label // 2), half * (label % 2)
        image[y : y + half, x : x + half] += 100
    parts = {"train": np.arange(0, n - 16), "test": np.arange(n - 16, n)}
    return Dataset("pictures", "images", items, labels, parts, tuple("abcd"))


def recorded(dataset: Dataset, read: list[int]) -> Dataset:
    """The dataset with items that note which rows were looked at."""

    class Recorded:
        shape, dtype = dataset.items.shape, dataset.items.dtype

        def __len__(self) -> int:
            return len(dataset.items)

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            read.extend(np.atleast_1d(rows).tolist())
            return dataset.items[rows]

    return dataclasses.replace(dataset, items=Recorded())


def leaves(tree: object) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


class Loop:
    """A run's state taken through its calls by hand."""

    def __init__(self, config: Config, dataset: Dataset, devices: int | None = 1) -> None:
        self.plan = settle(config, dataset)
        self.mesh = sharding.mesh_over(self.plan.recipe.batch_size, jax.devices()[:devices])
        self.traces = 0
        module = self.plan.model.build()
        optimizer = optax.sgd(0.05, momentum=0.9)
        variables = networks.init(module, jax.random.key(1), (1, *self.plan.model.item_shape))
        self.state = sharding.everywhere(
            initial_state(
                variables, optimizer, jax.random.key(config.seed + 2), average=config.average > 0
            ),
            self.mesh,
        )

        def prepare(items: jax.Array) -> jax.Array:
            self.traces += 1
            return self.plan.model.prepare(items)

        self.train_step = make_train_step(
            module,
            self.plan.method,
            optimizer,
            prepare,
            classes=len(dataset.classes),
            steps=self.plan.steps,
            policy=self.plan.recipe.augment,
            average=config.average,
        )

    def run(self) -> dict[str, np.ndarray]:
        """Do all steps; the metrics of each."""
        metrics = []
        for call in calls.calls(self.plan, self.train_step, self.mesh):
            self.state, one = call(self.state)
            metrics.append(jax.device_get(one))
        return {name: np.concatenate([one[name] for one in metrics]) for name in metrics[0]}


def test_the_step_is_compiled_once() -> None:
    loop = Loop(Config(**FAST, steps=9), blobs())
    metrics = loop.run()
    assert metrics["loss"].shape == (9,)
    assert loop.traces == 1
    assert int(loop.state.step) == 9


def test_runs_of_other_seeds_share_the_compiled_step() -> None:
    loops = [Loop(Config(**FAST, steps=9, seed=seed), blobs()) for seed in (0, 1)]
    data = blobs()
    batch = Batch(data.items[:16], data.labels[:16])
    programs = {jax.jit(one.train_step).lower(one.state, batch).as_text() for one in loops}
    assert len(programs) == 1
    assert (loops[0].state.key != loops[1].state.key).any()


def test_eight_devices_train_like_one() -> None:
    # Batch normalisation and a loss over all pairs: both see the batch of all devices.
    config = Config(
        method="dsh",
        network="resnet-small",
        bits=8,
        batch_size=16,
        steps=2,
        augment="crop",
        validation=0.0,
    )
    one, eight = Loop(config, pictures(), 1), Loop(config, pictures(), 8)
    losses = one.run()["loss"], eight.run()["loss"]
    assert losses[0][0] != losses[0][1]
    np.testing.assert_allclose(*losses, rtol=2e-4)
    for a, b in zip(leaves(one.state), leaves(eight.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)
    placed = jax.tree.leaves(eight.state.params)[0].sharding
    assert placed.num_devices == 8
    assert placed.is_fully_replicated


def test_streamed_steps_are_those_of_resident_items() -> None:
    resident = Loop(Config(**FAST, steps=7, validation=0.0), blobs(), 1)
    streamed = Loop(Config(**FAST, steps=7, validation=0.0, resident="stream"), blobs(), 8)
    np.testing.assert_allclose(resident.run()["loss"], streamed.run()["loss"], rtol=1e-4)
    for a, b in zip(leaves(resident.state), leaves(streamed.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    assert streamed.traces == 1


def test_several_steps_in_a_call_are_the_same_steps() -> None:
    config = Config(**FAST, steps=6, validation=0.0)
    single, several = Loop(config, blobs()), Loop(config, blobs())
    single.run()
    plan = several.plan
    data = feeding.Batch(plan.dataset.items[plan.split.train], plan.labels)
    rows = np.stack([plan.rows(step) for step in range(6)])
    run = calls.compile_resident(several.train_step, several.mesh, 3)
    for offset in (0, 3):
        several.state, metrics = run(several.state, data, rows, np.int32(offset))
        assert metrics["loss"].shape == (3,)
    assert several.traces == 1
    for a, b in zip(leaves(single.state), leaves(several.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_accelerators_take_many_steps_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "chunk_length", lambda plan, mesh: 4)
    config = Config(**FAST, steps=10, validation=0.0)
    chunked = Loop(config, blobs())
    assert chunked.run()["loss"].shape == (10,)
    assert chunked.traces == 2  # fours, and the two at the end
    monkeypatch.undo()
    single = Loop(config, blobs())
    single.run()
    for a, b in zip(leaves(single.state.params), leaves(chunked.state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_batch_that_devices_do_not_divide() -> None:
    with pytest.raises(ValueError, match=r"batch_size 30 .* 8 devices.*example 32"):
        sharding.mesh_over(30, jax.devices())
    assert sharding.mesh_over(30).size == 6
    assert sharding.mesh_over(7).size == 7


def test_the_average_of_the_weights() -> None:
    loop = Loop(Config(**FAST, steps=1, average=0.9), blobs())
    start = leaves(loop.state.params)
    loop.run()
    # The first step keeps a tenth of the start: (1 + 0) / (10 + 0) < 0.9.
    for before, after, mean in zip(
        start, leaves(loop.state.params), leaves(variables_of(loop.state)["params"]), strict=True
    ):
        np.testing.assert_allclose(mean, 0.1 * before + 0.9 * after, rtol=1e-4, atol=1e-7)


def test_bfloat16_computes_near_float32_with_float32_parameters() -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        loop = Loop(Config(**FAST, steps=1, precision=precision), blobs())
        losses.append(loop.run()["loss"][0])
        assert {leaf.dtype.name for leaf in leaves(loop.state.params)} == {"float32"}
    assert losses[0] != losses[1]
    assert abs(losses[0] - losses[1]) < 0.05


def test_mean_and_spread_of_channels() -> None:
    rng = np.random.default_rng(0)
    items = rng.integers(0, 256, (250, 5, 4, 3)).astype(np.uint8)
    rows = np.arange(0, 250, 2)
    mean, std = channel_statistics(items, rows)
    np.testing.assert_allclose(mean, items[rows].mean((0, 1, 2)) / 255, atol=1e-6)
    np.testing.assert_allclose(std, items[rows].std((0, 1, 2)) / 255, atol=1e-6)
    assert channel_statistics(np.zeros((3, 2, 2, 1), np.uint8), np.arange(3))[1][0] > 0


# ---------------------------------------------------------------- whole runs


def test_a_run_leaves_what_it_promises(tmp_path: Path) -> None:
    seen, said = [], []
    config = Config(**FAST, epochs=8, log_every=3, eval_every=2)
    model = training.train(
        config, tmp_path / "run", dataset=blobs(), on_step=seen.append, say=said.append
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
    assert loaded == model
    for a, b in zip(leaves(loaded.variables), leaves(model.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_best_checkpoint_is_the_one_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, rated = iter([0.5, 0.9, 0.7, 0.6]), []

    def score(model: models.Model, dataset: Dataset, rows: np.ndarray) -> float:
        rated.append(jax.device_get(model.variables))
        return next(scores)

    monkeypatch.setattr(training, "validation_map", score)
    config = Config(**FAST, steps=8, eval_every=0.4, log_every=2)
    model = training.train(config, tmp_path / "run", dataset=blobs())
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
    training.train(Config(**FAST, steps=3), tmp_path / "run", dataset=dataset)
    assert read
    assert not set(read) & set(dataset.parts["test"].tolist())


def test_validation_is_the_mean_over_all_without_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(5)
    bits = rng.integers(0, 2, (20, 4))
    encoded = type("", (), {"codes": np.packbits(bits, axis=1)})
    monkeypatch.setattr(training, "encode", lambda *_, **__: encoded)
    dataset, rows = blobs(), np.arange(10, 30)
    model = settle(Config(**FAST | {"bits": 4}), dataset).model
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
    value = training.validation_map(model, dataset, rows)
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
        training.train(config, tmp_path / "run", dataset=blobs())
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
        training.fetch_means(metrics, 10)
    assert training.fetch_means(metrics[:1], 8) == {"loss": 1.5, "gradient_norm": 1.0}


TWO_PROCESSES = """
import sys
import jax
import numpy as np
sys.path.insert(0, "tests")
from test_training import FAST, Config, Loop, blobs, leaves, recorded

process = int(sys.argv[1])
jax.distributed.initialize(f"localhost:{sys.argv[2]}", 2, process)
read = []
loop = Loop(Config(**FAST, steps=5, validation=0.0), recorded(blobs(), read), None)
losses = loop.run()["loss"]
assert len(read) == 5 * 8, read  # half of each batch, and nothing else
np.savez(sys.argv[3], *leaves(loop.state), losses=losses, read=read)
"""


def test_two_processes_train_like_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_NUM_CPU_DEVICES": "2"}
    outputs = [tmp_path / f"{process}.npz" for process in range(2)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, str(process), str(port), str(output)],
            cwd=REPOSITORY,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process, output in enumerate(outputs)
    ]
    for one in started:
        _, errors = one.communicate(timeout=300)
        assert one.returncode == 0, errors
    read = []
    alone = Loop(Config(**FAST, steps=5, validation=0.0), blobs(), 1)
    losses = alone.run()["loss"]
    for output in outputs:
        with np.load(output) as result:
            np.testing.assert_allclose(result["losses"], losses, rtol=1e-4)
            for at, leaf in enumerate(leaves(alone.state)):
                np.testing.assert_allclose(result[f"arr_{at}"], leaf, rtol=1e-3, atol=1e-6)
            read.extend(result["read"].tolist())
    expected = np.concatenate([alone.plan.rows(step) for step in range(5)])
    assert sorted(read) == sorted(alone.plan.split.train[expected].tolist())


BROKEN_OFF = """
import os, signal, sys
import jax
sys.path.insert(0, "tests")
from test_training import RESUMED
from jaxhash import training

def on_step(progress):
    if progress.step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

training.train(RESUMED, sys.argv[1], resume=True, devices=jax.devices()[:1], on_step=on_step)
"""
RESUMED = Config(
    network="dsh",
    image_size=8,
    bits=12,
    batch_size=64,
    steps=12,
    augment="crop-flip",
    average=0.9,
    log_every=2,
    eval_every=0.21,
    seed=3,
)


def test_a_killed_run_ends_with_the_same_parameters(tmp_path: Path) -> None:
    def run(folder: str, kill_at: int) -> int:
        command = [sys.executable, "-W", "error", "-c", BROKEN_OFF, folder, str(kill_at)]
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run(str(whole), 0) == 0
    assert run(str(broken), 7) == -signal.SIGKILL
    assert not (broken / runs.WEIGHTS).exists()
    lines_before = len(metrics_log.read(broken))
    assert run(str(broken), 0) == 0
    assert (whole / runs.WEIGHTS).read_bytes() == (broken / runs.WEIGHTS).read_bytes()

    def log(folder: Path) -> list[dict]:
        timed = ("images_per_second", "input_share")
        rows = metrics_log.read(folder)
        return [{name: row[name] for name in row if name not in timed} for row in rows]

    assert log(whole) == log(broken)
    assert 0 < lines_before < len(log(whole))


def test_resuming_with_other_options_is_refused(tmp_path: Path) -> None:
    dataset = blobs()
    training.train(Config(**FAST, steps=2), tmp_path / "run", dataset=dataset, resume=True)
    with pytest.raises(ValueError, match="another bits, seed"):
        training.train(
            Config(**FAST | {"bits": 16}, steps=2, seed=4),
            tmp_path / "run",
            dataset=dataset,
            resume=True,
        )
    with pytest.raises(FileExistsError, match="--resume"):
        training.train(Config(**FAST, steps=2), tmp_path / "run", dataset=dataset)
    before = (tmp_path / "run" / runs.METRICS).read_text()
    # A finished run that is resumed has nothing left to do, and still returns its model.
    again = training.train(Config(**FAST, steps=2), tmp_path / "run", dataset=dataset, resume=True)
    assert again.bits == 12
    assert (tmp_path / "run" / runs.METRICS).read_text() == before != ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "dlhbc"}, "did you mean dlbhc"),
        ({"network": "mclhn"}, "did you mean mhcln"),
        ({"network": "dsh"}, r"takes images.*choose one of mhcln"),
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
        training.train(Config(**FAST | {"steps": 2} | options), tmp_path / "run", dataset=blobs())
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_there_leave_no_run_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pretrained.MAPS, "mhcln", {})
    config = Config(**FAST | {"steps": 2, "weights": str(tmp_path / "none.pth")})
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        training.train(config, tmp_path / "run", dataset=blobs())
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
