"""Arrays saved with NumPy: every accepted form, every refusal."""

import numpy as np
import pytest

from jaxhash.data import enlarged, load
from jaxhash.data.joined import Joined


@pytest.fixture
def saved(tmp_path, request):
    """Saves arrays as an .npz or as a folder of .npy, and returns its path."""
    count = [0]

    def save(form="folder", **arrays):
        count[0] += 1
        path = tmp_path / f"data{count[0]}"
        if form == "folder":
            path.mkdir()
            for name, array in arrays.items():
                np.save(path / f"{name}.npy", array)
            return path
        path = path.with_suffix(".npz")
        np.savez(path, **arrays)
        return path

    return save


def pixels(n, *shape):
    return np.arange(n * int(np.prod(shape)), dtype=np.uint64).astype(np.uint8).reshape(n, *shape)


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_images_in_two_parts(saved, form):
    train, test = pixels(3, 4, 5, 3), pixels(2, 4, 5, 3) + 9
    path = saved(
        form, train_images=train, test_images=test, train_labels=[5, 0, 5], test_labels=[0, 9]
    )
    data = load(path)
    np.testing.assert_array_equal(data.items[np.arange(5)], np.concatenate([train, test]))
    assert data.labels.tolist() == [1, 0, 1, 0, 2]
    assert data.classes == ("0", "5", "9")
    assert data.parts["test"].tolist() == [3, 4]
    assert data.name == path.stem
    assert isinstance(data.items, Joined if form == "folder" else np.ndarray)
    assert load(path, image_size=2).items[0].shape == (2, 2, 3)


def test_resampling_stays_within_the_memory_limit(saved):
    path = saved(train_images=pixels(3, 4, 4, 3), test_images=pixels(2, 4, 4, 3))
    assert len(load(path, image_size=2, memory_limit=5 * 12)) == 5
    with pytest.raises(ValueError, match=r"5 images of 2x2 pixels.*memory_limit"):
        load(path, image_size=2, memory_limit=5 * 12 - 1)
    assert isinstance(load(path, image_size=4, memory_limit=1).items, Joined)


@pytest.mark.parametrize("form", ["folder", "npz"])
def test_large_ones_are_enlarged_on_demand(saved, form, monkeypatch):
    path = saved(form, train_images=pixels(3, 4, 5, 3), test_images=pixels(2, 4, 5, 3) + 9)
    whole = load(path, image_size=9).items
    monkeypatch.setattr(enlarged, "MOST", 1000)
    lazy = load(path, image_size=9, memory_limit=1).items
    assert isinstance(lazy, enlarged.Enlarged)
    np.testing.assert_array_equal(lazy[np.arange(5)], whole)


def test_one_part_stays_a_memory_map(saved):
    features = np.arange(12, dtype=np.float32).reshape(4, 3)
    data = load(saved(features=features, labels=[0, 1, 1, 0]))
    assert isinstance(data.items, np.memmap)
    assert data.kind == "features"
    assert list(data.parts) == ["all"]
    grey = load(saved(images=pixels(2, 4, 4), labels=[0, 1]))
    assert grey.items.shape == (2, 4, 4, 1)
    assert isinstance(grey.items, np.memmap)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("form", ["folder", "npz"])
def test_features_of_other_widths_are_read_as_float32(saved, form, dtype):
    features = np.array([[0.5, 1], [2, 3]], dtype)
    data = load(saved(form, train_features=features, train_labels=[0, 1]))
    assert data.items[0:2].dtype == np.float32
    np.testing.assert_array_equal(data.items[0:2], features)


def test_database_and_query_parts_and_no_labels(saved):
    data = load(saved(database_features=np.ones((3, 2)), query_features=np.zeros((1, 2))))
    assert data.labels is None
    assert list(data.parts) == ["database", "query"]
    np.testing.assert_array_equal(data.items[[3, 0]], [[0, 0], [1, 1]])


def test_labels_in_every_form(saved):
    features = np.eye(3, dtype=np.float32)

    def labels(**arrays):
        data = load(saved(features=features, **arrays))
        return data.labels.tolist(), data.classes

    assert labels(labels=["b", "a", "b"]) == ([1, 0, 1], ("a", "b"))
    assert labels(labels=np.array([[3], [1], [3]], np.uint8)) == ([1, 0, 1], ("1", "3"))
    assert labels(labels=[2, 0, 2], classes=["x", "y", "z"]) == ([2, 0, 2], ("x", "y", "z"))
    assert labels(labels=["z", "x", "z"], classes=["x", "y", "z"])[0] == [2, 0, 2]
    flags = [[1, 0], [1, 1], [0, 0]]
    assert labels(labels=np.array(flags)) == (
        [[True, False], [True, True], [False, False]],
        ("0", "1"),
    )
    assert labels(labels=np.array(flags, bool), classes=["x", "y"])[1] == ("x", "y")


GOOD = {"train_images": np.zeros((3, 4, 4, 3), np.uint8), "train_labels": np.array([0, 1, 0])}
FEATURES = {"features": np.eye(3, dtype=np.float32)}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train_image": GOOD["train_images"]}, "did you mean train_images"),
        ({"train_labels": GOOD["train_labels"]}, "neither images nor features"),
        ({**GOOD, "test_features": np.eye(3)}, "both images and features"),
        ({**GOOD, "images": GOOD["train_images"]}, "stands beside"),
        ({**GOOD, "test_labels": GOOD["train_labels"]}, "test_labels has no test_images"),
        ({**GOOD, "test_images": GOOD["train_images"]}, "test_labels is missing"),
        ({**GOOD, "train_labels": np.array([0, 1])}, "2 for 3 items"),
        ({**GOOD, "train_labels": np.array(1)}, "a single value for 3 items"),
        ({**GOOD, "train_labels": np.array([0, -1, 1])}, "row 1 is negative"),
        ({**GOOD, "train_labels": np.array([0.0, 1.0, 1.0])}, "float64 of shape"),
        ({**GOOD, "train_labels": np.array([[0, 1], [2, 0], [0, 1]])}, "row 1 has other values"),
        ({**GOOD, "classes": np.array(["a"])}, "label 1, but classes has 1"),
        ({**GOOD, "classes": np.array(["a", "a"])}, "different texts"),
        ({**FEATURES, "labels": np.array(["a", "b", "c"]), "classes": np.array(["a", "b"])}, "'c'"),
        ({**FEATURES, "labels": np.eye(3, dtype=bool), "classes": np.array(["a"])}, "3 label col"),
        ({"images": np.zeros((3, 4, 4, 3), np.float32)}, r"\(images \* 255\)"),
        ({"images": np.full((3, 4, 4, 3), 200.0)}, "uint8"),
        ({"images": np.zeros((3, 3, 8, 8), np.uint8)}, r"transpose\(0, 2, 3, 1\)"),
        ({"images": np.zeros((3, 4, 4, 4), np.uint8)}, "1 or 3 channels"),
        ({"images": np.zeros((3, 16), np.uint8)}, "1 or 3 channels"),
        ({"images": np.zeros((0, 4, 4, 3), np.uint8)}, "no items"),
        ({"features": np.zeros((3, 2), np.int32)}, "float32 or float16"),
        ({"features": np.zeros((3, 2, 2), np.float32)}, r"wanted is \(n, d\)"),
        ({"features": np.array([[0, 1], [np.nan, 0]], np.float32)}, "row 1 is not finite"),
        ({"features": np.array([[0, 1], [0, 0], [0, 1e300]])}, "row 2 is not finite"),
        ({"features": np.array([[np.inf, 1]], np.float16)}, "row 0 is not finite"),
        (
            {**GOOD, "test_images": np.zeros((3, 5, 5, 3), np.uint8), "test_labels": [0, 1, 1]},
            "differ in shape",
        ),
        (
            {**GOOD, "test_images": GOOD["train_images"], "test_labels": ["a", "b", "c"]},
            "differ in form",
        ),
    ],
)
@pytest.mark.parametrize("form", ["folder", "npz"])
def test_refusals_say_what_is_wrong(saved, form, arrays, message):
    with pytest.raises(ValueError, match=message):
        load(saved(form, **arrays))


def test_nothing_is_unpickled_and_damaged_files_are_named(saved, tmp_path):
    objects = np.array([{"a": 1}, None, 2], dtype=object)
    for form in ("folder", "npz"):
        with pytest.raises(ValueError, match="never unpickled"):
            load(saved(form, **FEATURES, labels=objects))
    path = saved("npz", **GOOD)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"not a readable \.npz"):
        load(path)
    path = saved("folder", **GOOD)
    whole = (path / "train_images.npy").read_bytes()
    (path / "train_images.npy").write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="cannot read train_images"):
        load(path)
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    with pytest.raises(ValueError, match="holds a single array"):
        load(tmp_path / "single.npz")


def test_a_large_feature_file_is_checked_to_its_last_row(saved, monkeypatch):
    monkeypatch.setattr("jaxhash.data.arrays._CHUNK_BYTES", 64)
    features = np.zeros((50, 4), np.float32)
    assert len(load(saved(features=features))) == 50
    features[49, 3] = np.inf
    with pytest.raises(ValueError, match="row 49"):
        load(saved(features=features))
