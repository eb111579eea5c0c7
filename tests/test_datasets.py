"""The one way in, `load`; the digits; what a Dataset refuses to be."""

import subprocess
import sys

import numpy as np
import pytest

from jaxhash.data import Dataset, load, memory
from jaxhash.data.dataset import consecutive_parts
from jaxhash.data.memory import default_memory_limit


def test_digits():
    digits = load("digits")
    assert digits.items.shape == (1797, 32, 32, 1)
    assert {part: len(rows) for part, rows in digits.parts.items()} == {"train": 1438, "test": 359}
    for rows in digits.parts.values():
        shares = np.bincount(digits.labels[rows]) / rows.size
        assert np.abs(shares - 0.1).max() < 0.01
    small = load("digits", image_size=8)
    assert small.items.max() == 255
    # The first digit as scikit-learn prints it, in sixteenths.
    first = [0, 0, 5, 13, 9, 1, 0, 0]
    assert small.items[0, 0, :, 0].tolist() == [round(value * 255 / 16) for value in first]
    np.testing.assert_array_equal(small.parts["test"], digits.parts["test"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("mnist", "train-images-idx3-ubyte.gz.*download=True"),
        ("cifar10", "cifar-10-binary.tar.gz or cifar-10-python.tar.gz"),
        ("svhn_cropped", "train_32x32.mat"),
        ("imagenet_resized/32x32", "download=True"),
        ("cifar11", "did you mean cifar10"),
        ("CIFAR10", "did you mean cifar10"),
        ("zzzzzzzz", "some that exist: digits, .*mnist"),
        ("", "data: empty"),
        ("no/such/folder", "no such file or folder"),
        ("./mnist", "no such file or folder"),
    ],
)
def test_what_is_not_there_is_told_at_once(tmp_path, data, message, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"(?s){message}"):
        load(data)


def test_no_network_is_touched(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(ValueError, match="nothing is fetched unasked"):
        load("fashion_mnist", data_dir=tmp_path)


def test_a_name_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(load("digits")) == 1797
    np.savez(tmp_path / "mnist.npz", images=np.zeros((2, 3, 3), np.uint8), labels=[0, 1])
    assert load("mnist.npz").name == "mnist"
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"is an \.npz"):
        load("notes.txt")


def test_tensorflow_datasets_is_imported_only_when_needed():
    code = (
        "import sys, jaxhash.data as d; d.load('digits'); "
        "print([m for m in ('tensorflow_datasets', 'grain', 'scipy.io.matlab._mio', 'flax') "
        "if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "tensorflow_datasets" not in result.stdout
    assert "grain" not in result.stdout
    assert "flax" not in result.stdout


def test_memory_limit_is_positive_and_below_what_there_is():
    assert 0 < default_memory_limit() < 1 << 50


@pytest.mark.parametrize(
    ("group", "limit", "used"),
    [
        ("0::/a/b", "a/memory.max", "a/memory.current"),
        ("9:memory:/a", "memory/a/memory.limit_in_bytes", "memory/a/memory.usage_in_bytes"),
    ],
)
def test_memory_that_a_control_group_leaves(tmp_path, group, limit, used):
    folder = tmp_path / "sys/fs/cgroup"
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(f"{group}\n")
    (folder / limit).parent.mkdir(parents=True)
    assert memory._free_in_container(tmp_path) > 1 << 60
    (folder / limit).write_text(f"{3 << 30}\n")
    (folder / used).write_text(f"{1 << 30}\n")
    assert memory._free_in_container(tmp_path) == 2 << 30


PIXELS = np.zeros((4, 2, 2, 1), np.uint8)
LABELS = np.array([0, 1, 0, 1], np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": PIXELS[:0]}, "no items"),
        ({"items": PIXELS.astype(np.float32)}, "uint8 with 4 axes"),
        ({"kind": "features"}, "float32 with 2 axes"),
        ({"labels": LABELS[:3]}, "3 labels for 4 items"),
        ({"labels": LABELS + 1}, "from 1 to 2, but there are 2 classes"),
        ({"labels": LABELS.astype(np.int64)}, "int32"),
        ({"labels": np.zeros((4, 3), bool)}, "3 label columns for 2"),
        ({"paths": ("a",)}, "1 paths for 4"),
        ({"parts": {"training": np.arange(4)}}, "not 'training'"),
        ({"parts": {"train": np.arange(5)}}, "outside 0..3"),
        ({"parts": {"train": np.arange(4) - 1}}, "outside 0..3"),
        ({"parts": {"train": np.arange(4.0)}}, "row numbers"),
        ({"parts": {"train": np.array([0, 0])}}, "repeats rows"),
        ({"parts": {"train": np.array([0]), "test": np.array([1, 0])}}, "disjoint"),
    ],
)
def test_a_dataset_refuses_fields_that_contradict_each_other(change, message):
    fields = {
        "name": "tiny",
        "kind": "images",
        "items": PIXELS,
        "labels": LABELS,
        "parts": consecutive_parts({"train": 3, "test": 1}),
        "classes": ("a", "b"),
    }
    assert len(Dataset(**fields)) == 4
    with pytest.raises(ValueError, match=message):
        Dataset(**(fields | change))
