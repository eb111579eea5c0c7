"""Original archives, built small: idx, CIFAR tars, SVHN .mat, the zip of UC Merced."""

import gzip
import io
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from jaxhash.data import load
from jaxhash.data.archives import BrokenArchive, read_idx


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def put_mnist(folder, rng, compress=gzip.compress, name="{}-{}-idx{}-ubyte.gz", labels=None):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for part, n in (("train", 12), ("t10k", 4)):
        arrays[part] = rng.integers(0, 256, (n, 6, 5), np.uint8), rng.integers(0, 10, n, np.uint8)
        if part == "train" and labels is not None:
            arrays[part][1][: len(labels)] = labels
        for kind, array in zip(("images", "labels"), arrays[part], strict=True):
            (folder / name.format(part, kind, array.ndim)).write_bytes(compress(idx(array)))
    return arrays


@pytest.mark.parametrize("place", ["mnist", "", "downloads/manual"])
def test_mnist_in_each_place(tmp_path, rng, place):
    arrays = put_mnist(tmp_path / place, rng)
    data = load("mnist", data_dir=tmp_path)
    assert data.items.shape == (16, 6, 5, 1)
    np.testing.assert_array_equal(data.items[data.parts["test"]][..., 0], arrays["t10k"][0])
    np.testing.assert_array_equal(data.labels[data.parts["train"]], arrays["train"][1])
    assert data.classes == tuple("0123456789")
    assert load("mnist", data_dir=tmp_path, image_size=8).items.shape == (16, 8, 8, 1)


def test_mnist_unpacked_and_with_dots(tmp_path, rng):
    put_mnist(tmp_path, rng, bytes, "{}-{}.idx{}-ubyte")
    assert len(load("fashion_mnist", data_dir=tmp_path)) == 16


def test_mnist_and_fashion_mnist_are_not_mistaken(tmp_path, rng):
    put_mnist(tmp_path, rng, labels=(5, 0, 4, 1, 9, 2, 1, 3, 1, 4))
    assert len(load("mnist", data_dir=tmp_path)) == 16
    with pytest.raises(ValueError, match="is from mnist, whose files have the same names"):
        load("fashion_mnist", data_dir=tmp_path)


def test_broken_idx_files(tmp_path, rng):
    put_mnist(tmp_path, rng)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    good = path.read_bytes()
    for bad, message in [
        (good[: len(good) // 2], "fetch it again"),
        (good[:-12] + b"\0" * 12, "fetch it again"),
        (gzip.compress(idx(np.zeros(12, np.uint8))[:-1]), "11 values, but its header says 12"),
        (gzip.compress(b"\0\0\x0d\1" + bytes(16)), "not an idx file"),
        (b"", "not an idx file"),
        (gzip.compress(idx(np.zeros(11, np.uint8))), "12 images but 11 labels"),
        (gzip.compress(idx(np.full(12, 10, np.uint8))), "labels of the train part are not those"),
        (gzip.compress(idx(np.zeros((12, 2, 2), np.uint8))), "mixed up"),
    ]:
        path.write_bytes(bad)
        with pytest.raises(BrokenArchive, match=message):
            load("mnist", data_dir=tmp_path)
    path.write_bytes(idx(np.arange(6, dtype=np.uint8).reshape(2, 3)))
    np.testing.assert_array_equal(read_idx(path), [[0, 1, 2], [3, 4, 5]])


def cifar_batches(rng):
    return [
        (rng.integers(0, 10, 3).tolist(), rng.integers(0, 256, (3, 3072), np.uint8))
        for _ in range(6)
    ]


def binary_batch(labels, pixels):
    return b"".join(
        bytes([label]) + row.tobytes() for label, row in zip(labels, pixels, strict=True)
    )


def put_tar(path, files, folder):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"{folder}/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def put_binary(path, batches):
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
    files = {name: binary_batch(*batch) for name, batch in zip(names, batches, strict=True)}
    put_tar(path / "cifar-10-binary.tar.gz", {"readme.html": b"x"} | files, "cifar-10-batches-bin")


def put_python(path, batches, protocol=2, **last):
    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    files = {
        name: pickle.dumps({b"batch_label": b"x", b"labels": labels, b"data": pixels}, protocol)
        for name, (labels, pixels) in zip(names, batches, strict=True)
    }
    put_tar(path / "cifar-10-python.tar.gz", files | last, "cifar-10-batches-py")


def expected_cifar(batches):
    pixels = np.concatenate([pixels for _, pixels in batches])
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_cifar10_in_both_archives(tmp_path, rng, protocol):
    batches = cifar_batches(rng)
    if protocol is None:
        put_binary(tmp_path, batches)
    else:
        put_python(tmp_path, batches, protocol)
    data = load("cifar10", data_dir=tmp_path)
    np.testing.assert_array_equal(data.items, expected_cifar(batches))
    assert data.labels.tolist() == [label for labels, _ in batches for label in labels]
    assert [len(data.parts[part]) for part in ("train", "test")] == [15, 3]
    assert data.classes[3] == "cat"


def test_cifar10_unpacked(tmp_path, rng):
    batches = cifar_batches(rng)
    put_binary(tmp_path, batches)
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz") as tar:
        tar.extractall(tmp_path / "cifar10", filter="data")
    (tmp_path / "cifar-10-binary.tar.gz").unlink()
    np.testing.assert_array_equal(load("cifar10", data_dir=tmp_path).items, expected_cifar(batches))


class Evil:
    """What a pickled attack looks like: a function to call on loading."""

    def __reduce__(self):
        return (print, ("this must never run",))


def test_pickled_code_never_runs(tmp_path, rng, capsys):
    put_python(tmp_path, cifar_batches(rng), test_batch=pickle.dumps({b"data": Evil()}))
    with pytest.raises(BrokenArchive, match=r"builtins\.print has no place"):
        load("cifar10", data_dir=tmp_path)
    assert capsys.readouterr().out == ""


def test_broken_cifar10(tmp_path, rng):
    batches = cifar_batches(rng)
    python = tmp_path / "cifar-10-python.tar.gz"
    for last in (b"junk", pickle.dumps([1]), pickle.dumps({"data": batches[0][1]})):
        put_python(tmp_path, batches, test_batch=last)
        with pytest.raises(BrokenArchive, match="fetch it again"):
            load("cifar10", data_dir=tmp_path)
    python.write_bytes(python.read_bytes()[:3000])
    with pytest.raises(BrokenArchive, match="fetch it again"):
        load("cifar10", data_dir=tmp_path)
    put_tar(python, {"data_batch_1": b""}, "x")
    with pytest.raises(BrokenArchive, match="lacks data_batch_2"):
        load("cifar10", data_dir=tmp_path)
    put_tar(tmp_path / "cifar-10-binary.tar.gz", dict.fromkeys(binary_names(), b"\0" * 100), "x")
    with pytest.raises(BrokenArchive, match="not a whole number of records"):
        load("cifar10", data_dir=tmp_path)


def binary_names():
    return [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]


def test_svhn(tmp_path, rng):
    images = {part: rng.integers(0, 256, (32, 32, 3, 4), np.uint8) for part in ("train", "test")}
    for part, array in images.items():
        savemat(tmp_path / f"{part}_32x32.mat", {"X": array, "y": np.array([[1], [10], [9], [2]])})
    data = load("svhn_cropped", data_dir=tmp_path)
    assert data.labels.tolist() == [1, 0, 9, 2] * 2
    np.testing.assert_array_equal(data.items[data.parts["test"][2]], images["test"][..., 2])
    path = tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(BrokenArchive, match="svhn_cropped"):
        load("svhn_cropped", data_dir=tmp_path)
    savemat(path, {"Z": np.zeros(3)})
    with pytest.raises(BrokenArchive, match="lacks the arrays X and y"):
        load("svhn_cropped", data_dir=tmp_path)
    labels = np.array([[1], [10], [9], [2]])
    for change, message in (
        ({"X": images["test"].astype(float)}, "X of .*test_32x32.mat is float64"),
        ({"X": images["test"][:31]}, r"X of .*\(31, 32, 3, 4\), and should be uint8"),
        ({"y": labels + 1}, "y of .*test_32x32.mat is not from 1 to 10"),
        ({"y": labels / 3}, "y of .*test_32x32.mat is not from 1 to 10"),
        ({"y": labels[:3]}, "4 images but 3 labels"),
    ):
        savemat(path, {"X": images["test"], "y": labels} | change)
        with pytest.raises(BrokenArchive, match=message):
            load("svhn_cropped", data_dir=tmp_path)


def test_svhn_with_an_unknown_type_of_numbers(tmp_path, rng):
    """`scipy.io.loadmat` ends the process by it."""
    arrays = {"y": np.array([[1], [10]]), "X": rng.integers(0, 256, (32, 32, 3, 2), np.uint8)}
    for part in ("train", "test"):
        savemat(tmp_path / f"{part}_32x32.mat", arrays)
    path = tmp_path / "train_32x32.mat"
    content = path.read_bytes()
    assert content[176] == 12, "y is int64"
    path.write_bytes(content[:176] + b"\x82" + content[177:])
    with pytest.raises(BrokenArchive, match=r"train_32x32.mat is damaged: .*type 130.*fetch it"):
        load("svhn_cropped", data_dir=tmp_path)


def tif(size, color):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "TIFF")
    return file.getvalue()


def test_uc_merced(tmp_path):
    def put(**files):
        with zipfile.ZipFile(tmp_path / "UCMerced_LandUse.zip", "w") as archive:
            archive.writestr("UCMerced_LandUse/readme.txt", "x")
            archive.writestr("__MACOSX/UCMerced_LandUse/Images/river/._river00.tif", "x")
            for stem, data in files.items():
                folder = stem.rstrip("0123456789")
                archive.writestr(f"UCMerced_LandUse/Images/{folder}/{stem}.tif", data)

    square = (256, 256)
    put(river01=tif(square, "blue"), beach00=tif(square, "red"), river00=tif(square, "lime"))
    data = load("uc_merced", data_dir=tmp_path)
    assert data.classes == ("beach", "river")
    assert data.labels.tolist() == [0, 1, 1]
    assert data.items[:, 0, 0].tolist() == [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
    assert list(data.parts) == ["all"]
    put(river01=tif((255, 251), "blue"))
    with pytest.raises(ValueError, match=r"river01 has 255x251.*image_size=256"):
        load("uc_merced", data_dir=tmp_path)
    assert load("uc_merced", data_dir=tmp_path, image_size=16).items.shape == (1, 16, 16, 3)
    put(river01=tif(square, "blue")[:5000])
    with pytest.raises(BrokenArchive, match=r"river01\.tif"):
        load("uc_merced", data_dir=tmp_path)
    put()
    with pytest.raises(BrokenArchive, match="holds no Images"):
        load("uc_merced", data_dir=tmp_path)
    (tmp_path / "UCMerced_LandUse.zip").write_bytes(b"PK\3\4 cut short")
    with pytest.raises(BrokenArchive, match="fetch it again"):
        load("uc_merced", data_dir=tmp_path)


def test_a_name_in_a_zip_that_is_no_text_is_damage(tmp_path):
    path = tmp_path / "UCMerced_LandUse.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Images/é.tif", b"")  # a name that is marked as UTF-8
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xdf\x20"))
    with pytest.raises(ValueError, match=r"UCMerced_LandUse\.zip"):
        load("uc_merced", data_dir=tmp_path)


def test_uc_merced_unpacked(tmp_path):
    folder = tmp_path / "UCMerced_LandUse" / "Images" / "river"
    folder.mkdir(parents=True)
    (folder / "river00.tif").write_bytes(tif((256, 256), "blue"))
    assert load("uc_merced", data_dir=tmp_path).items.shape == (1, 256, 256, 3)
