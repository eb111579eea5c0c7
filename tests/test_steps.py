"""The training step: its calls, devices and precision."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from jaxhash import nets, sharding
from jaxhash.config import Config
from jaxhash.data import Dataset
from jaxhash.training import batches, feeding
from jaxhash.training.feeding import Batch
from jaxhash.training.planning import settle
from jaxhash.training.run_data import channel_statistics
from jaxhash.training.steps import initial_state, make_train_step, variables_of

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
        module = self.plan.spec.build()
        optimizer = optax.sgd(0.05, momentum=0.9)
        variables = nets.init(module, jax.random.key(1), (1, *self.plan.spec.item_shape))
        self.state = sharding.everywhere(
            initial_state(
                variables, optimizer, jax.random.key(config.seed + 2), average=config.average > 0
            ),
            self.mesh,
        )

        def prepare(items: jax.Array) -> jax.Array:
            self.traces += 1
            return self.plan.spec.prepare(items)

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
        train_step = batches.compiled(self.train_step, self.mesh)
        for batch in batches.batches(self.plan, self.mesh):
            self.state, one = train_step(self.state, batch)
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
    # Batch normalisation and a loss over all pairs: both see the batch of all devices. One step:
    # rounding differs between processors, and every further step multiplies the difference.
    config = Config(
        method="dsh",
        network="resnet-tiny",
        bits=8,
        batch_size=16,
        steps=1,
        augment="crop",
        validation=0.0,
    )
    one, eight = Loop(config, pictures(), 1), Loop(config, pictures(), 8)
    start = leaves(one.state)
    losses = one.run()["loss"], eight.run()["loss"]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    changed = 0
    for before, a, b in zip(start, leaves(one.state), leaves(eight.state), strict=True):
        # Of the change, momentum included, and as a norm: where two of a pooling window's entries
        # are nearly equal, rounding decides which of them a slope goes to.
        change = np.linalg.norm(a.astype(float) - before)
        assert np.linalg.norm(a.astype(float) - b) <= 0.01 * change
        changed += change > 0
    assert changed > len(leaves(one.state.params))
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
    run = batches.compile_resident(several.train_step, several.mesh, 3)
    for offset in (0, 3):
        several.state, metrics = run(several.state, data, rows, np.int32(offset))
        assert metrics["loss"].shape == (3,)
    assert several.traces == 1
    for a, b in zip(leaves(single.state), leaves(several.state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_accelerators_take_many_steps_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "chunk_length", lambda plan, mesh: 4)
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
    with pytest.raises(ValueError, match=r"30 .* 8 devices; use 6 of them .* example 32"):
        sharding.mesh_over(30, jax.devices())
    with pytest.raises(ValueError, match=r"7 .* 8 devices; use 7 of them .* example 8"):
        sharding.mesh_over(7, jax.devices())
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
