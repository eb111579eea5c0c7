"""Codes without labels: the fits against slow twins, and the way from a folder to an answer."""

import os
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest
import small_backbone
from PIL import Image

import jaxhash
from jaxhash import runs
from jaxhash.config import Config
from jaxhash.encoding import Encoded
from jaxhash.evaluation import without_labels
from jaxhash.training import kept_features, run_data
from jaxhash.training.backbones import Backbone
from jaxhash.unlabelled import FITS
from jaxhash.unlabelled.bihalf import PULL, halves
from jaxhash.unlabelled.itq import itq
from jaxhash.unlabelled.pca_sign import pca_sign

SIDE = 16
everyone = pytest.mark.parametrize("name", FITS)


@pytest.fixture
def features(rng: np.random.Generator) -> np.ndarray:
    """Of four groups, with directions of quite different variance."""
    centres = rng.normal(size=(4, 12)) * 3
    spread = rng.normal(size=(60, 12)) * np.linspace(0.2, 1.5, 12)
    return (centres[np.arange(60) % 4] + spread + 5).astype(np.float32)


# ---------------------------------------------------------------- the fits


@everyone
def test_a_fit_gives_a_layer_of_its_bits_and_the_same_again(name: str, features) -> None:
    learn = FITS[name].learn
    layer = learn(features, 5, seed=3)
    assert (layer.kernel.shape, layer.bias.shape) == ((12, 5), (5,))
    assert layer.kernel.dtype == layer.bias.dtype == np.float32
    again = learn(features, 5, seed=3)
    assert np.array_equal(layer.kernel, again.kernel)
    ones = (layer.latent(features) > 0).mean(axis=0)
    assert (ones > 0.1).all()
    assert (ones < 0.9).all()
    other = learn(features, 5, seed=4)
    assert np.array_equal(layer.kernel, other.kernel) == (name == "pca-sign")


@pytest.mark.parametrize("iterations", [0, 1, 20])
def test_itq_is_its_twin(features, iterations: int) -> None:
    layer = itq(features, 6, seed=1, iterations=iterations)
    wanted = naive.itq_codes(features, 6, seed=1, iterations=iterations)
    assert np.array_equal(layer.latent(features) > 0, wanted)


def test_itq_loses_less_by_rounding_than_the_components(features) -> None:
    def lost(layer) -> float:
        latent = layer.latent(features)
        return float(np.square(latent - np.where(latent > 0, 1, -1)).mean())

    losses = [lost(itq(features, 6, iterations=count)) for count in (0, 5, 50)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < lost(pca_sign(features, 6))


def test_pca_sign_is_the_sides_of_the_principal_directions(features) -> None:
    apart = features - features.mean(axis=0, dtype=np.float64)
    directions = np.linalg.svd(apart, full_matrices=False)[2][:4]
    found = pca_sign(features, 4).latent(features)
    for latent, direction in zip(found.T, directions, strict=True):
        projected = apart @ direction
        np.testing.assert_allclose(latent * np.sign(latent @ projected), projected, atol=1e-4)


@pytest.mark.parametrize("bits", [7, 12, 30])
def test_lsh_splits_at_medians_along_directions_at_right_angles(features, bits: int) -> None:
    layer = FITS["lsh"].learn(features, bits, seed=0)
    assert ((layer.latent(features) > 0).sum(axis=0) == 30).all()
    block = layer.kernel[:, : min(bits, 12)]
    np.testing.assert_allclose(block.T @ block, np.eye(block.shape[1]), atol=1e-5)


def test_halves_are_the_larger_and_the_smaller_ones(rng: np.random.Generator) -> None:
    latent = rng.normal(size=(8, 5)).astype(np.float32)
    codes = np.asarray(halves(jnp.asarray(latent)))
    for column, own in zip(codes.T, latent.T, strict=True):
        assert column.sum() == 0
        assert own[column > 0].min() > own[column < 0].max()
    gradient = jax.grad(lambda x: (halves(x) * 2).sum())(jnp.asarray(latent))
    wanted = 2 + PULL * (latent - codes) / latent.size
    np.testing.assert_allclose(gradient, wanted, rtol=1e-5)


def test_bihalf_brings_the_cosines_of_codes_near_those_of_features(features) -> None:
    def apart(steps: int) -> float:
        codes = np.where(FITS["bihalf"].learn(features, 8, steps=steps).latent(features) > 0, 1, -1)
        centred = features - features.mean(axis=0)
        centred /= np.linalg.norm(centred, axis=1, keepdims=True)
        return float(np.square(codes @ codes.T / 8 - centred @ centred.T).mean())

    assert apart(3000) < apart(1)


@everyone
def test_what_nothing_can_be_learned_from_is_refused(name: str, features) -> None:
    fit = FITS[name]
    with pytest.raises(ValueError, match=r"alike to the network.*give images that differ"):
        fit.learn(np.ones((20, 12), np.float32), 5)
    for check in (lambda: fit.check(1, 1), lambda: fit.learn(features[:1], 1)):
        with pytest.raises(ValueError, match=r"1 image to learn from.*add images"):
            check()
    with pytest.raises(ValueError, match="unknown option 'margin'"):
        fit.options(margin=1)


@pytest.mark.parametrize("name", ["itq", "pca-sign"])
def test_more_bits_than_directions_are_refused(name: str, features) -> None:
    with pytest.raises(ValueError, match=r"5 for 5 bits; give bits 4 or fewer.*lsh"):
        FITS[name].check(5, 5)
    few = np.repeat(features[:4], 10, axis=0)  # forty images, of which four differ
    with pytest.raises(ValueError, match=r"40 images vary in 3; give bits 3 or fewer"):
        FITS[name].learn(few, 5)


def test_options_out_of_range_are_refused(features) -> None:
    with pytest.raises(ValueError, match="iterations is -1"):
        itq(features, 4, iterations=-1)
    with pytest.raises(ValueError, match=r"iterations is 'x'; give a whole number"):
        FITS["itq"].options(iterations="x")


# ---------------------------------------------------------------- what is said without labels


def test_recall_is_its_twin(rng: np.random.Generator) -> None:
    features = rng.normal(size=(40, 3)).astype(np.float32)
    codes = np.packbits(features @ rng.normal(size=(3, 6)) > 0, axis=1)  # many ties
    found = without_labels.evaluate(
        Encoded(codes, features, None, None), bits=6, seed=0, pool=15, neighbours=4
    )
    every = range(40)
    for name, cut in (("codes", 4), ("pool", 15)):
        wanted = naive.neighbours_found(features, codes, every, 4, cut)
        assert found["recall"][name] == pytest.approx(wanted)
    assert found["distinct_codes"] == len(np.unique(codes))
    assert found["queries"] == 40
    result = jaxhash.ResultWithoutLabels.from_dict(found)
    assert result.recall == found["recall"]["codes"]
    with pytest.raises(ValueError, match="without labels: 'bits'"):
        jaxhash.ResultWithoutLabels.from_dict({})


# ---------------------------------------------------------------- a folder of photographs


class Averages(nn.Module):
    """Averages of quarters of a picture through a fixed layer."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> tuple[jax.Array, jax.Array]:
        x = nn.avg_pool(images, (SIDE // 4, SIDE // 4), (SIDE // 4, SIDE // 4))
        x = nn.Dense(30, use_bias=False, name="layer")(x.reshape(len(images), -1))
        return x, x


@pytest.fixture(autouse=True)
def backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backbone:
    """A backbone whose package is a file made here, in place of the real ones."""
    kernel = np.random.default_rng(5).normal(size=(48, 30)).astype(np.float32)
    return small_backbone.known(
        "tiny-eye",
        Averages,
        {"kernel": kernel},
        tmp_path,
        monkeypatch,
        package="tiny-weights",
        side=SIDE,
        convert=lambda weights: {"layer/kernel": weights["kernel"]},
    )


def draw(folder: Path, count: int, seed: int = 0) -> Path:
    """A folder of pictures of several sizes, without sub-folders."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for at in range(count):
        pixels = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 30 + at)).save(folder / f"{at:02}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return draw(tmp_path / "photos", 24)


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Filled with the number of images whenever some are encoded for their features."""
    seen: list[int] = []
    real = kept_features._encode

    def counted(spec, trunk, dataset, *rest, **options):
        seen.append(len(dataset))
        return real(spec, trunk, dataset, *rest, **options)

    monkeypatch.setattr(kept_features, "_encode", counted)
    return seen


def test_from_a_folder_to_an_answer(photos: Path, tmp_path: Path, encodings: list[int]) -> None:
    said: list[str] = []
    model = jaxhash.train(photos, tmp_path / "run", bits=12, say=said.append)
    assert (model.spec.method, model.spec.network, model.spec.classes) == ("itq", "tiny-eye", ())
    assert "24 images to learn from, without labels" in said[0]
    loaded = jaxhash.load(tmp_path / "run")
    index = jaxhash.index(loaded, photos, tmp_path / "photos.index")
    found = index.query(photos / "07.png", k=3, pool=24)
    assert found.paths[0] == str(photos / "07.png")
    assert found.distances[0] == pytest.approx(0, abs=1e-2)

    assert encodings == [24]
    result = jaxhash.evaluate(tmp_path / "run", pool=12, save=True)
    assert isinstance(result, jaxhash.ResultWithoutLabels)
    assert encodings == [24], "evaluated by the features that were kept"
    assert (result.images, result.bits, result.pool) == (24, 12, 12)
    paths = sorted(photos.iterdir())
    encoded = loaded.encode(paths, features="float32")
    wanted = naive.neighbours_found(encoded.features, encoded.codes, range(24), 10, 12)
    assert result.recall_of_pool == pytest.approx(wanted, abs=0.02)
    assert (tmp_path / "run" / runs.RESULTS).is_file()
    plan = runs.read_json(tmp_path / "run" / runs.PLAN)
    assert (plan["backbone"]["side"], plan["backbone"]["std"]) == (SIDE, [0.25] * 3)


@everyone
def test_kept_features_make_the_codes_of_the_model(name: str, photos: Path, tmp_path) -> None:
    run = tmp_path / "run"
    model = jaxhash.train(photos, run, method=name, bits=7)
    dataset = run_data.load_data(runs.load_config(run))
    kept, _ = kept_features.encoded(run, jaxhash.load(run), dataset)
    codes = model.encode(sorted(photos.iterdir())).codes
    near = np.abs(kept.latent) < 1e-4  # a median lies between two images, or on one
    differ = np.unpackbits(codes ^ kept.codes, axis=1)[:, :7].astype(bool)
    assert not (differ & ~near).any()


def test_features_are_computed_once(photos: Path, tmp_path: Path, encodings: list[int]) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    first = jaxhash.train(photos, run, bits=12)
    said: list[str] = []
    for bits, method in ((8, "itq"), (20, "lsh")):
        jaxhash.train(photos, run, bits=bits, method=method, overwrite=True, say=said.append)
    assert encodings == [24]
    assert sum("were kept" in line for line in said) == 2
    again = jaxhash.train(photos, other, bits=12, weights=str(run))
    assert encodings == [24]
    for name in ("kernel", "bias"):
        ours, before = (one.variables["params"]["head"]["latent"][name] for one in (again, first))
        assert np.array_equal(ours, before)

    # Whatever they depend on makes them anew.
    jaxhash.train(photos, run, bits=12, mirror=True, overwrite=True)
    assert encodings == [24, 24]
    Image.new("RGB", (31, 40), "red").save(photos / "00.png")
    os.utime(photos / "00.png", ns=(1, 1))
    jaxhash.train(photos, run, bits=12, mirror=True, overwrite=True)
    assert encodings == [24] * 3
    damaged = run / runs.FEATURES
    damaged.write_bytes(damaged.read_bytes()[:100])
    jaxhash.train(photos, run, bits=12, mirror=True, overwrite=True)
    assert encodings == [24] * 4


def test_a_run_that_was_broken_off_goes_on(photos: Path, tmp_path: Path, encodings) -> None:
    run = tmp_path / "run"
    jaxhash.train(photos, run, bits=12)
    for name in (runs.MODEL, runs.WEIGHTS):
        (run / name).unlink()
    jaxhash.train(photos, run, bits=12, resume=True)
    assert encodings == [24]
    assert jaxhash.load(run).bits == 12
    with pytest.raises(ValueError, match="another bits; resume it with the same"):
        jaxhash.train(photos, run, bits=8, resume=True)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        jaxhash.train(photos, run, bits=12)


def test_labelled_images_are_evaluated_as_ever(tmp_path: Path) -> None:
    for seed, name in enumerate(("cat", "dog")):
        draw(tmp_path / "pets" / name, 15, seed)
    jaxhash.train(tmp_path / "pets", tmp_path / "run", method="itq", bits=6, validation=0.0)
    result = jaxhash.evaluate(tmp_path / "run")
    assert isinstance(result, jaxhash.Result)
    assert result.codes.map is not None
    assert result.features is not None
    assert jaxhash.load(tmp_path / "run").spec.classes == ("cat", "dog")


def test_a_file_that_turns_out_damaged_is_left_out_and_listed(photos: Path, tmp_path) -> None:
    whole = (photos / "03.png").read_bytes()
    (photos / "03.png").write_bytes(whole[: len(whole) // 2])  # its header is sound
    with pytest.raises(ValueError, match=r"1 of 24 files cannot be decoded.*max_undecodable"):
        jaxhash.train(photos, tmp_path / "run", bits=12)
    jaxhash.train(photos, tmp_path / "run", bits=12, max_undecodable=0.1)
    assert "03.png" in (tmp_path / "run" / runs.SKIPPED).read_text()
    assert jaxhash.evaluate(tmp_path / "run").images == 23


# ---------------------------------------------------------------- what is refused, before a folder


def test_the_weights_package_is_named_before_a_folder_is_made(photos: Path, tmp_path) -> None:
    (tmp_path / "packages" / "tiny_weights" / "w.safetensors").unlink()
    with pytest.raises(ModuleNotFoundError, match="pip install tiny-weights"):
        jaxhash.train(photos, tmp_path / "run", bits=12)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"bits": 24}, r"24 for 24 bits; give bits 23 or fewer"),
        ({"method": "dlbhc"}, r"no class folders.*itq, bihalf, lsh and pca-sign learn from them"),
        ({"network": "resnet"}, r"network is 'resnet'.*choose one of efficientnet-lite0"),
        ({"epochs": 3.0}, "epochs is given, and method 'itq' is fitted in one go"),
        ({"protocol": "p-all"}, "protocol is given, and the images have no labels"),
        ({"image_size": 32}, "image_size is given"),
        ({"weights": "alexnet.pth"}, "weights is alexnet.pth.*the network's own weights are found"),
        ({"options": {"margin": 1}}, "unknown option 'margin' for method 'itq'.*iterations"),
    ],
)
def test_what_cannot_be_done_is_refused(
    fields: dict[str, Any], message: str, photos: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        jaxhash.train(photos, tmp_path / "run", **{"bits": 12} | fields)
    assert not (tmp_path / "run").exists()


def test_folders_without_enough_images_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image in this folder.*give a folder that holds"):
        jaxhash.train(tmp_path / "empty", None)
    with pytest.raises(ValueError, match=r"1 image to learn from.*add images"):
        jaxhash.train(draw(tmp_path / "one", 1), None, bits=4)
    same = draw(tmp_path / "same", 1)
    for at in range(9):
        (same / f"copy{at}.png").write_bytes((same / "00.png").read_bytes())
    with pytest.raises(ValueError, match=r"all 10 images are alike to the network"):
        jaxhash.train(same, tmp_path / "run", bits=4)
    assert not (tmp_path / "run").exists()


def test_images_without_labels_need_such_a_method(photos: Path) -> None:
    dataset = run_data.load_data(Config(data=str(photos), method="itq"))
    with pytest.raises(
        ValueError, match=r"no labels, and method 'dsh' needs them.*itq, bihalf, lsh"
    ):
        jaxhash.train(dataset, None, method="dsh", bits=4)
    assert jaxhash.train(dataset, None, bits=4).spec.method == "itq"


def test_the_names_of_these_methods_are_known_and_taken() -> None:
    assert set(FITS) <= set(jaxhash.methods())
    with pytest.raises(ValueError, match="'itq' is taken"):
        jaxhash.register(jaxhash.Method("itq", lambda latent: (latent.mean(), {})))
    with pytest.raises(ValueError, match=r"did you mean itq\?"):
        jaxhash.train("digits", None, method="itk")
