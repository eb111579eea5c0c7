"""Class folders beside a folder without labels: who learns from what."""

import sys
from pathlib import Path

import numpy as np
import pytest
from test_unlabelled import SIDE, backbone, draw, encodings  # noqa: F401

import jaxhash
from jaxhash import runs
from jaxhash.config import Config
from jaxhash.data import folders, photographs
from jaxhash.training import defaults, kept_features, run_data
from jaxhash.unlabelled.itq import itq, within_classes


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for seed, name in enumerate(("cat", "dog")):
        draw(tmp_path / "pets" / name, 5, seed)
    draw(tmp_path / "pets" / "Unlabelled", 20, 7)
    return tmp_path / "pets"


def test_a_folder_without_labels_is_no_class(pets: Path) -> None:
    dataset = folders.load(pets, image_size=SIDE)
    assert dataset.classes == ("cat", "dog")
    assert len(dataset) == 10
    assert folders.class_sizes(pets) == [5, 5]
    assert folders.unlabelled_folder(pets) == pets / "Unlabelled"
    assert folders.unlabelled_folder(pets / "cat") is None
    assert not folders.is_loose(pets)
    (pets / "Unlabelled").rename(pets.parent / "Unlabelled")
    assert folders.unlabelled_folder(pets) is None


def test_a_single_folder_beside_pictures_is_no_class(tmp_path: Path) -> None:
    camera = tmp_path / "camera"
    draw(camera, 3, 0)
    draw(camera / "2024", 2, 1)
    assert folders.is_loose(camera)
    assert not folders.is_loose(tmp_path)  # a class folder, and nothing beside it
    draw(camera / "2025", 2, 2)
    assert not folders.is_loose(camera)


def test_itq_learns_from_both(pets: Path, tmp_path: Path, encodings) -> None:  # noqa: F811
    run, said = tmp_path / "run", list[str]()
    options = {"network": "tiny-eye", "bits": 6, "validation": 0.0}
    model = jaxhash.train(pets, run, method="itq", say=said.append, **options)
    assert "6 images with labels and 20 without" in said[0]
    config = runs.load_config(run)
    dataset = run_data.load_data(config, side=SIDE)
    rows = run_data.split_data(config, dataset).train
    trunk = model.variables["params"]["trunk"]
    kept, more = (
        kept_features.find(kept_features.key(model.spec, trunk, part), [run], name)
        for name, part in (
            (runs.FEATURES, dataset),
            (runs.UNLABELLED, run_data.load_unlabelled(config, SIDE)),
        )
    )
    features = np.concatenate([kept.features[rows], more.features])
    labels = np.concatenate([dataset.labels[rows], np.full(20, -1)])
    wanted = itq(features, 6, seed=0, labels=labels)
    np.testing.assert_allclose(
        model.variables["params"]["head"]["latent"]["kernel"], wanted.kernel, atol=1e-5
    )
    assert encodings == [10, 20]
    jaxhash.train(pets, run, method="lsh", overwrite=True, **options)
    assert encodings == [10, 20]
    assert jaxhash.evaluate(run).queries == 4


def test_a_head_leaves_them_out_and_says_so(pets: Path) -> None:
    said: list[str] = []
    options = {"network": "tiny-eye", "bits": 6, "epochs": 1, "batch_size": 4}
    jaxhash.train(pets, None, method="dlbhc", say=said.append, **options)
    assert any("method itq learns from both" in line for line in said)


def test_of_few_labels_those_without_teach_more(pets: Path, monkeypatch) -> None:
    monkeypatch.setattr(photographs, "SMALL", 20)
    chosen = defaults.with_defaults(Config(data=str(pets)))
    assert (chosen.network, chosen.method) == ("tiny-eye", defaults.METHOD_ON_BACKBONE)
    for path in sorted(pets.glob("[cd]*/*.png"))[::2]:
        path.unlink()
    assert defaults.with_defaults(Config(data=str(pets))).method == "itq"


def test_within_classes_all_directions_count_alike(rng, monkeypatch) -> None:
    monkeypatch.setattr(sys.modules[itq.__module__], "SHRUNK", 0.0)
    labels = np.repeat([0, 1, -1], 40)
    features = rng.normal(size=(120, 5)) * np.arange(1, 6) + labels[:, None] * 10
    seen = features @ within_classes(features, labels)
    apart = [seen[labels == one] - seen[labels == one].mean(axis=0) for one in (0, 1)]
    scatter = sum(one.T @ one for one in apart) / 78
    np.testing.assert_allclose(scatter, np.eye(5), atol=1e-8)


def test_labels_help_where_classes_differ_in_small_directions(rng) -> None:
    """Two classes apart in one direction, among nine of more variance."""
    labels = np.arange(200) % 2
    features = rng.normal(size=(200, 10)) * np.r_[0.1, np.full(9, 2.0)]
    features[:, 0] += 3 * labels
    known = np.where(np.arange(200) < 40, labels, -1)

    def right(layer) -> float:
        bits = layer.latent(features.astype(np.float32)) > 0
        same = (bits[:, None] == bits[None]).mean(axis=2)
        alike = labels[:, None] == labels[None]
        return float(same[alike].mean() - same[~alike].mean())

    x = features.astype(np.float32)
    assert right(itq(x, 1, labels=known)) > right(itq(x, 1)) + 0.3
