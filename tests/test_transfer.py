"""A run that starts from the trunk of another."""

from pathlib import Path

import jax
import numpy as np
import pytest

from jaxhash import models, nets, runs
from jaxhash.config import Config
from jaxhash.data import Dataset
from jaxhash.training import loop
from jaxhash.training.planning import settle
from jaxhash.training.transfer import with_trunk
from jaxhash.trees import flatten

SMALL = {"network": "resnet-tiny", "batch_size": 8, "recipe": "scratch", "validation": 0.0}


def pictures(side: int = 32, channels: int = 3, seed: int = 0) -> Dataset:
    """Forty noise images of two classes."""
    rng = np.random.default_rng(seed)
    items = rng.integers(0, 256, (40, side, side, channels)).astype(np.uint8)
    labels = (np.arange(40) % 2).astype(np.int32)
    parts = {"train": np.arange(32), "test": np.arange(32, 40)}
    return Dataset("pictures", "images", items, labels, parts, ("a", "b"))


def finished(config: Config, dataset: Dataset, folder: Path) -> Path:
    """What a finished run leaves, without the training: a model unlike a fresh one."""
    spec = settle(config, dataset).spec
    start = nets.init(spec.build(), jax.random.key(7), (1, *spec.item_shape))
    rng = np.random.default_rng(7)
    variables = jax.tree.map(lambda one: one + rng.random(one.shape, np.float32), start)
    model = models.Model(spec, jax.device_get(variables))
    models.save(model, runs.create(folder, config))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 8 bits."""
    folder = tmp_path_factory.mktemp("runs") / "eight"
    return finished(Config(**SMALL, method="dlbhc", bits=8, steps=2), pictures(seed=1), folder)


def test_the_trunk_is_taken_and_the_head_is_new(trained: Path) -> None:
    model = models.load(trained)
    plan = settle(Config(**SMALL, method="orthohash", bits=16), pictures())
    fresh = nets.init(plan.spec.build(), jax.random.key(3), (1, 32, 32, 3))
    taken = flatten(with_trunk(model, fresh))
    old, new = flatten(model.variables), flatten(fresh)
    assert taken.keys() == new.keys()
    trunk = {name for name in new if name.split("/")[1] == "trunk"}
    assert any(name.startswith("batch_stats/trunk") for name in trunk)
    for name, array in taken.items():
        np.testing.assert_array_equal(array, (old if name in trunk else new)[name])
    assert any((old[name] != new[name]).any() for name in trunk)


def test_a_run_starts_from_it(trained: Path, tmp_path: Path) -> None:
    """At a rate of next to nothing the trunk is the other run's still, as are mean and spread."""
    config = Config(
        **SMALL, method="dsh", bits=12, steps=1, learning_rate=1e-12, weights=str(trained)
    )
    said: list[str] = []
    model = loop.train(
        config, tmp_path / "twelve", dataset=pictures(), devices=jax.devices()[:1], say=said.append
    )
    before = models.load(trained)
    assert model.bits == 12
    assert (model.spec.mean, model.spec.std) == (before.spec.mean, before.spec.std)
    assert model.spec.mean != settle(Config(**SMALL), pictures()).spec.mean
    assert any("its trunk is taken" in line for line in said)
    old, new = flatten(before.variables), flatten(model.variables)
    for name in old:
        if name.startswith("params/trunk"):
            np.testing.assert_allclose(new[name], old[name], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "data", "message"),
    [
        ({"network": "resnet-small"}, {}, "a run of network 'resnet-tiny', not 'resnet-small'"),
        ({}, {"channels": 1}, "trained on 3 channels, and the data has 1"),
    ],
)
def test_a_trunk_that_does_not_fit(
    options: dict, data: dict, message: str, trained: Path, tmp_path: Path
) -> None:
    config = Config(**SMALL | options, steps=1, weights=str(trained))
    with pytest.raises(ValueError, match=message):
        loop.train(config, tmp_path / "run", dataset=pictures(**data))
    assert not (tmp_path / "run").exists()


def test_a_trunk_of_images_of_another_size(tmp_path: Path) -> None:
    """DSH's dense layer is as large as its images: the size to use is named."""
    options = {"network": "dsh", "method": "dsh", "bits": 8, "batch_size": 8, "validation": 0.0}
    finished(Config(**options, steps=1), pictures(), tmp_path / "first")
    config = Config(**options, steps=1, weights=str(tmp_path / "first"))
    with pytest.raises(ValueError, match="train with image_size 32"):
        loop.train(config, tmp_path / "second", dataset=pictures(side=48))
    assert not (tmp_path / "second").exists()


def test_a_run_that_has_not_finished(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no model\.json"):
        settle(Config(**SMALL, weights=str(tmp_path)), pictures())
