"""Folders of image files: layouts, order, what is skipped, what stops."""

import os

import numpy as np
import pytest
from PIL import Image

from jaxhash.data import load, load_images
from jaxhash.data.folders import shown
from jaxhash.data.images import Images


def put(path, color="red", size=(12, 8), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path)
    return path


def put_truncated(path, rng):
    """A JPEG with a sound header and half of its pixels."""
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.fixture
def animals(tmp_path):
    """Two classes, four sound images and files that are none."""
    put(tmp_path / "dog" / "b.png", "blue")
    put(tmp_path / "dog" / "A.JPG", "blue", (30, 20))
    put(tmp_path / "cat" / "deep" / "er" / "x.webp")
    put(tmp_path / "cat" / "no-ending.png").rename(tmp_path / "cat" / "no-ending")
    (tmp_path / "cat" / ".hidden.png").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "cat" / "labels.txt").write_text("side file")
    (tmp_path / "readme.md").write_text("side file")
    return tmp_path


def test_class_folders(animals):
    data = load(animals, image_size=8)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert [os.path.basename(path) for path in data.paths] == [
        "no-ending",
        "x.webp",
        "A.JPG",
        "b.png",
    ]
    assert data.items.shape == (4, 8, 8, 3)
    assert (data.items[data.labels == 0].reshape(-1, 3).mean(axis=0) > [200, -1, -1]).all()
    assert data.items[3, 4, 4].tolist() == [0, 0, 255]
    assert data.parts["all"].tolist() == [0, 1, 2, 3]
    assert data.skipped == []
    assert data.name == animals.name


def test_part_folders_share_their_classes(tmp_path):
    for part, names in {"train": "ab", "Query": "b", "database": "bc", "val": "a"}.items():
        for name in names:
            put(tmp_path / part / name / "1.png")
    data = load(tmp_path, image_size=4)
    assert data.classes == ("a", "b", "c")
    assert {part: data.labels[rows].tolist() for part, rows in data.parts.items()} == {
        "train": [0, 1],
        "validation": [0],
        "database": [1, 2],
        "query": [1],
    }


def test_layouts_that_are_refused(tmp_path):
    put(tmp_path / "loose" / "1.png")
    put(tmp_path / "mixed" / "train" / "cat" / "1.png")
    put(tmp_path / "mixed" / "extra" / "cat" / "1.png")
    put(tmp_path / "flat" / "train" / "1.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "cat").mkdir(parents=True)
    for folder, message in {
        "loose": "1 images directly and no class folders",
        "mixed": "train look like parts of a dataset but stand beside extra",
        "flat": "train/class-name/image.jpg",
        "empty": "no images and no class folders",
        "hollow": "hold no images",
        "absent": "no such file or folder",
    }.items():
        with pytest.raises(ValueError, match=message):
            load(tmp_path / folder, image_size=4)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "car", "train"):
        put(tmp_path / name / "1.png")
    assert load(tmp_path, image_size=4).classes == ("bus", "car", "train")


def test_undecodable_files_are_listed_and_too_many_stop(animals, rng):
    put_truncated(animals / "dog" / "truncated.jpg", rng)
    (animals / "dog" / "zero.png").write_bytes(b"")
    (animals / "cat" / "page.jpg").write_text("<html>")
    (animals / "cat" / "broken-link.png").symlink_to(animals / "nowhere.png")
    put(animals / "outside.png")
    (animals / "mouse").mkdir()
    (animals / "mouse" / "zero.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"5 of 9 files cannot be decoded") as error:
        load(animals, image_size=8, max_undecodable=0.5)
    assert "page.jpg: not an image" in str(error.value)
    data = load(animals, image_size=8, max_undecodable=0.6)
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.items[3, 4, 4].tolist() == [0, 0, 255]
    reasons = {os.path.relpath(path, animals): reason for path, reason in data.skipped}
    assert reasons.keys() == {
        "cat/broken-link.png",
        "cat/page.jpg",
        "dog/truncated.jpg",
        "dog/zero.png",
        "mouse",
        "mouse/zero.png",
        "outside.png",
    }
    assert reasons["dog/zero.png"] == "empty file"
    assert reasons["mouse"] == "class folder without a readable image"


def test_nothing_readable_at_all(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.heic").write_bytes(b"\0\0\0\x18ftypheic")
    for size in (None, 8):
        with pytest.raises(ValueError, match="1 of 1 files cannot be decoded"):
            load(tmp_path, image_size=size, max_undecodable=1)


def test_link_loops_end_and_links_are_followed(animals, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    put(elsewhere / "1.png")
    (animals / "linked").symlink_to(elsewhere)
    (animals / "cat" / "loop").symlink_to(animals)
    (animals / "cat" / "self").symlink_to(animals / "cat")
    data = load(animals, image_size=8)
    assert data.classes == ("cat", "dog", "linked")
    assert np.bincount(data.labels)[2] == 1
    assert [reason for _, reason in data.skipped] == ["link to a folder above it"] * len(
        data.skipped
    )
    assert len(data.skipped) >= 2


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    try:
        put(tmp_path / name / os.fsdecode(b"\xff.png"))
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (tmp_path / name / os.fsdecode(b"\xfe.png")).write_bytes(b"")
    data = load(tmp_path, image_size=4, max_undecodable=0.5)
    assert data.classes == ("caf\\xe9",)
    assert os.path.exists(data.paths[0])
    "".join(path + reason for path, reason in data.skipped).encode()
    assert shown(name) == "caf\\xe9"


def test_own_size_and_greyscale(tmp_path):
    put(tmp_path / "a" / "1.png", 7, (9, 9), "L")
    put(tmp_path / "b" / "1.png", 9, (9, 9), "L")
    assert load(tmp_path).items.shape == (2, 9, 9, 1)
    assert load(tmp_path, channels=3).items.shape == (2, 9, 9, 3)
    put(tmp_path / "b" / "2.png", size=(9, 9))
    assert load(tmp_path).items.shape == (3, 9, 9, 3)
    put(tmp_path / "b" / "3.png", size=(9, 8))
    with pytest.raises(ValueError, match="image_size: needed"):
        load(tmp_path)
    assert load(tmp_path, fallback_size=6).items.shape == (4, 6, 6, 3)
    (tmp_path / "b" / "3.png").unlink()
    assert load(tmp_path, fallback_size=6).items.shape == (3, 9, 9, 3)


def test_too_large_for_memory_becomes_lazy_and_is_verified(animals, rng):
    put_truncated(animals / "dog" / "aa.jpg", rng)
    eager = load(animals, image_size=8, max_undecodable=0.2)
    lazy = load(animals, image_size=8, max_undecodable=0.2, memory_limit=100)
    assert isinstance(lazy.items, Images)
    assert lazy.paths == eager.paths == lazy.items.paths
    assert lazy.skipped == eager.skipped
    np.testing.assert_array_equal(lazy.items[np.arange(4)], eager.items)
    np.testing.assert_array_equal(lazy.labels, eager.labels)
    trusting = load(animals, image_size=8, memory_limit=100, verify=False)
    assert len(trusting) == 5
    done = []
    load(animals, image_size=8, max_undecodable=0.2, on_progress=lambda *step: done.append(step))
    assert done[-1] == (5, 5)


def test_bad_arguments(animals):
    with pytest.raises(ValueError, match="max_undecodable"):
        load(animals, image_size=8, max_undecodable=2)
    with pytest.raises(ValueError, match="image_size"):
        load(animals, image_size=-1)
    with pytest.raises(ValueError, match="channels"):
        load(animals, image_size=8, channels=2)


def test_unlabelled_images_for_encoding(animals):
    put(animals / "outside.png")
    data = load_images(animals, image_size=8)
    assert data.labels is None
    assert len(data) == 5
    assert data.items[np.array([0, 4])].shape == (2, 8, 8, 3)
    one = load_images(animals / "outside.png", image_size=8, channels=1)
    assert one.items[0].shape == (8, 8, 1)
    two = load_images([animals / "outside.png", data.paths[0]], image_size=8)
    assert two.paths == (str(animals / "outside.png"), data.paths[0])
    with pytest.raises(ValueError, match="no such file"):
        load_images(animals / "absent", image_size=8)
    with pytest.raises(ValueError, match="no image"):
        load_images([], image_size=8)
    (animals / "zero.png").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 6"):
        load_images(animals, image_size=8)
    assert len(load_images(animals, image_size=8, max_undecodable=0.2)) == 5
