"""What `import jaxhash` offers, tried as the README shows it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxhash
from jaxhash.data.pictures import as_items
from jaxhash.method import METHODS
from jaxhash.nets import NETWORKS

SIDE = 16
FAST: dict[str, Any] = {"steps": 12, "batch_size": 12, "learning_rate": 0.05, "validation": 0.2}


class Averages(nn.Module):
    """A trunk that compiles in no time: the mean colour of quarters, and a dense layer."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        features = nn.avg_pool(images, (SIDE // 2, SIDE // 2), (SIDE // 2, SIDE // 2))
        features = features.reshape(len(images), -1)
        return features, nn.Dense(16)(features)


def pull_together(latent: jax.Array, labels: jax.Array, weight: float = 1.0) -> Any:
    """A loss as a stranger would write it: equal labels near, others far."""
    same = labels[:, None] == labels[None]
    apart = jnp.square(latent[:, None] - latent[None]).mean(axis=-1)
    loss = weight * jnp.where(same, apart, jax.nn.relu(4 - apart)).mean()
    return loss, {"pairs": loss}


NETWORK = jaxhash.Network("averages", Averages, image_size=SIDE)
METHOD = jaxhash.Method("pull-together", pull_together)
COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30)}


@pytest.fixture(scope="module", autouse=True)
def tables() -> Iterator[None]:
    """The tables of methods and networks as they were, after all that is registered here."""
    before = dict(METHODS), dict(NETWORKS)
    yield
    for table, rows in zip((METHODS, NETWORKS), before, strict=True):
        table.clear()
        table.update(rows)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures of several sizes, one colour a class, slightly varied."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for at in range(14):
            shape = (int(rng.integers(20, 50)), int(rng.integers(20, 50)), 3)
            pixels = np.clip(np.array(colour) + rng.normal(0, 12, shape), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{at:02}.png")
    return root


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on them, of a loss and a network of one's own."""
    folder = tmp_path_factory.mktemp("runs") / "photos"
    jaxhash.train(photos, folder, method=METHOD, network=NETWORK, bits=11, **FAST)
    return folder


def test_the_whole_path(run: Path, photos: Path, tmp_path: Path) -> None:
    model = jaxhash.load(run)
    assert (model.bits, model.spec.network, model.spec.method) == (11, "averages", "pull-together")
    index = jaxhash.index(model, photos, tmp_path / "photos.index")
    assert len(index) == 42
    found = index.query(photos / "red" / "03.png", k=5, pool=20)
    assert found.paths[0] == str(photos / "red" / "03.png")
    assert found.distances[0] == pytest.approx(0, abs=1e-2)
    assert found.distances == sorted(found.distances)
    assert all(Path(path).parent.name == "red" for path in found.paths)
    assert found.labels == ["red"] * 5

    again = jaxhash.open_index(tmp_path / "photos.index", run)
    several = again.query([photos / "red" / "03.png", photos / "blue" / "00.png"], k=2, pool=20)
    assert [one.paths[0] for one in several] == [one.query for one in several]
    assert again.query(photos / "red" / "03.png", k=5, pool=20) == found
    assert again.query(photos / "red" / "03.png", k=5, pool=20, recall=0.9) == found, "few: exact"
    with pytest.raises(ValueError, match="recall does not combine with radius"):
        again.query(photos / "red" / "03.png", k=5, radius=2, recall=0.9)

    with pytest.raises(FileExistsError, match="overwrite"):
        jaxhash.index(model, photos, tmp_path / "photos.index")


def test_results_have_names_and_types(run: Path) -> None:
    result = jaxhash.evaluate(run, save=True)
    assert 0.5 < result.codes.map <= 1
    assert result.features is not None
    assert result.coarse_to_fine is not None
    assert result.codes.precision_at[1] > 0.5
    assert result.codes.within_radius[0].empty <= result.queries
    assert result.predicted_class is None, "the method has no classifier"
    assert len(result.codes.precision_recall.ranks) == len(result.codes.precision_recall.recall)
    kept = json.loads((run / "results.json").read_text())
    assert kept == result.to_dict()
    assert jaxhash.Result.from_dict(kept) == result
    with pytest.raises(ValueError, match="no result of an evaluation"):
        jaxhash.Result.from_dict({"rankings": {}})


def test_data_that_has_moved_is_prepared_as_the_model_wants_it(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    """Pictures of several sizes have none that they could be read in without the model."""
    shutil.copytree(photos, tmp_path / "moved")
    moved = jaxhash.evaluate(run, data=tmp_path / "moved")
    assert isinstance(moved, jaxhash.Result)
    assert moved.codes == jaxhash.evaluate(run).codes


def test_answers_become_json_and_csv(run: Path, photos: Path, tmp_path: Path) -> None:
    index = jaxhash.index(jaxhash.load(run), photos, tmp_path / "photos.index")
    found = index.query(Image.new("RGB", (33, 21), COLOURS["green"]), k=3)
    assert json.loads(json.dumps(found.to_dict()))["results"][0].keys() == {
        *("id", "distance", "path", "label")
    }
    text = found.to_csv(tmp_path / "found.csv")
    assert (tmp_path / "found.csv").read_text() == text
    assert len(text.splitlines()) == 4
    assert text.startswith("query,rank,id,distance,path,label\n0,1,")


def test_pictures_in_every_form_have_one_code(run: Path, photos: Path) -> None:
    model, path = jaxhash.load(run), photos / "red" / "03.png"
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
        forms = [str(path), path, picture.copy(), pixels]
    assert pixels.shape[:2] != (SIDE, SIDE)
    codes = model.encode(forms).codes
    assert codes.shape == (4, 2)
    assert (codes == codes[0]).all()
    np.testing.assert_array_equal(model.encode(pixels).codes, codes[:1])
    np.testing.assert_array_equal(model.encode(pixels[None]).codes, codes[:1])


@pytest.mark.parametrize(
    ("images", "kind", "message"),
    [
        (np.zeros((20, 20, 3)), ValueError, r"uint8.*\(images \* 255\)"),
        (np.zeros((2, 20, 20, 4), np.uint8), ValueError, "1 or 3 channels, not 4"),
        (np.zeros(7, np.uint8), ValueError, r"shape \(7,\)"),
        (3, TypeError, "a path, a picture, or a list"),
        ([3], TypeError, "image 0 is int"),
        ("nowhere.png", ValueError, "nowhere.png: "),
        (np.zeros((0, 20, 3), np.uint8), ValueError, "must have pixels"),
    ],
)
def test_what_is_no_picture_is_refused(images: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        as_items(images, (SIDE, SIDE, 3))


def test_a_model_of_features_takes_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="takes feature vectors"):
        as_items(tmp_path / "a.png", (6,))
    features = np.zeros((2, 6), np.float32)
    assert as_items(features, (6,)) is features


def test_arrays_are_data_too(run: Path) -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    items = rng.integers(0, 80, (60, SIDE, SIDE, 3)) + 80 * labels[:, None, None, None]
    said: list[str] = []
    model = jaxhash.train(
        (items.astype(np.uint8), labels),
        method="pull-together",
        network="averages",
        bits=6,
        protocol="fraction",
        say=said.append,
        **FAST,
    )
    assert model.spec.classes == ("0", "1", "2")
    assert any("pull-together, 6 bits, on averages" in line for line in said)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        (([[1.0]], [0]), ValueError, "labels must be|items must be|training"),
        ((np.zeros((4, 8, 8, 3)), [0, 1, 0, 1]), ValueError, "items must be images uint8"),
        ((np.zeros((4, 3)), [0.5, 1, 0, 1]), ValueError, "labels must be int"),
        ((np.zeros((4, 3)), [-1, 1, 0, 1]), ValueError, "class numbers from 0"),
        ([1, 2, 3], TypeError, "two arrays"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(data: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        jaxhash.train(data, method=METHOD)


def test_a_wrong_option_lists_the_right_ones() -> None:
    with pytest.raises(TypeError, match=r"unknown option 'bist'.*bits"):
        jaxhash.train("digits", bist=12)


def test_names_are_listed_and_cannot_be_taken_twice() -> None:
    assert {"dlbhc", "dsh", "dhih", "mhcln", "orthohash"} <= jaxhash.methods().keys()
    assert {"alexnet", "resnet"} <= jaxhash.networks().keys()
    assert {"digits", "mnist", "cifar10"} <= jaxhash.datasets().keys()
    jaxhash.register(METHOD)  # the same again changes nothing
    with pytest.raises(ValueError, match="'dsh' is taken"):
        jaxhash.register(jaxhash.Method("dsh", pull_together))
    with pytest.raises(TypeError, match="Method or a Network"):
        jaxhash.register("dsh")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'digits' is taken"):
        jaxhash.register_dataset("digits", lambda size: None)  # type: ignore[arg-type, return-value]


def test_a_dataset_of_ones_own_goes_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from jaxhash import data

    monkeypatch.setattr(data, "EMBEDDED", dict(data.EMBEDDED))
    items = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    own = jaxhash.Dataset(
        "own", "images", items, np.zeros(4, np.int32), {"all": np.arange(4)}, ("a",)
    )
    jaxhash.register_dataset("own", lambda size: own)
    assert data.load("own") is own


def test_importing_the_library_imports_nothing_heavy() -> None:
    """Its names are all there, and jax and its like come when one of them is used."""
    code = (
        "import sys, jaxhash; assert set(jaxhash.__all__) <= set(dir(jaxhash)); "
        "print(sorted({'jax', 'numpy', 'numba', 'flax', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)},
    )
    assert done.stdout.strip() == "[]"
    for name in jaxhash.__all__:
        assert getattr(jaxhash, name).__doc__
