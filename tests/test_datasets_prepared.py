"""Folders that tensorflow-datasets prepared, written here by hand in both of its formats."""

import io
import json
import struct

import naive
import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from jaxhash.data import enlarged, load, prepared
from jaxhash.data.decoding import resize
from jaxhash.data.tfrecord import masked_crc32c, read_records

FEATURES = tfds.features


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(file, "PNG")
    return file.getvalue()


def field(number: int, data: bytes) -> bytes:
    """One length-delimited field of a protocol buffer."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def example(**features: bytes | int | list[int]) -> bytes:
    """A serialised tf.train.Example with bytes and integer features."""
    entries = b""
    for key, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        else:
            numbers = value if isinstance(value, list) else [value]
            feature = field(3, field(1, b"".join(varint(number) for number in numbers)))
        entries += field(1, field(1, key.encode()) + field(2, feature))
    return field(1, entries)


def masked(data: bytes) -> bytes:
    crc = naive.crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def frames(records: list[bytes]) -> bytes:
    out = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        out += length + masked(length) + record + masked(record)
    return out


def put(folder, features, splits, file_format="tfrecord", name="tiny"):
    """Writes a prepared dataset of one shard a split, as tensorflow-datasets lays it out."""
    folder.mkdir(parents=True)
    features.save_config(str(folder))
    info = {
        "name": name,
        "version": folder.name,
        "fileFormat": file_format,
        "moduleName": "x",
        "splits": [
            {
                "name": split,
                "numBytes": "1",
                "shardLengths": [str(len(records))],
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
            }
            for split, records in splits.items()
        ],
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for split, records in splits.items():
        path = folder / f"{name}-{split}.{file_format}-00000-of-00001"
        if file_format == "array_record":
            writer = ArrayRecordWriter(str(path), "group_size:1")
            for record in records:
                writer.write(record)
            writer.close()
        else:
            path.write_bytes(frames(records))
    return folder


def classification(shape, **more):
    label = FEATURES.ClassLabel(names=["cat", "dog", "owl"])
    return FEATURES.FeaturesDict({"image": FEATURES.Image(shape=shape), "label": label, **more})


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
@pytest.mark.parametrize("channels", [1, 3])
def test_both_formats(tmp_path, rng, file_format, channels):
    pixels = rng.integers(0, 256, (7, 5, 5, channels), np.uint8)
    labels = rng.integers(0, 3, 7)
    records = [
        example(id=b"x%d" % row, image=png(pixels[row]), label=int(labels[row])) for row in range(7)
    ]
    splits = {"test": records[:2], "train": records[2:], "unlabelled": records[:1]}
    features = classification((5, 5, channels), id=FEATURES.Text())
    folder = put(tmp_path / "tiny" / "1.0.0", features, splits, file_format)
    for data in (load("tiny", data_dir=tmp_path), load(folder), load(folder.parent)):
        np.testing.assert_array_equal(data.items[data.parts["train"]], pixels[2:])
        np.testing.assert_array_equal(data.labels[data.parts["test"]], labels[:2])
        assert data.classes == ("cat", "dog", "owl")
        assert data.name == "tiny"
        assert list(data.parts) == ["train", "test"]


def test_versions_and_configurations(tmp_path, rng):
    record = [example(image=png(np.zeros((4, 4, 3), np.uint8)), label=0)]
    features = classification((4, 4, 3))
    put(tmp_path / "tiny" / "1.9.0", features, {"train": record})
    put(tmp_path / "tiny" / "1.10.0", features, {"train": record * 2})
    (tmp_path / "tiny" / "2.0.0.incompleteX").mkdir()
    (tmp_path / "tiny" / "3.0.0").mkdir()
    assert len(load("tiny", data_dir=tmp_path)) == 2
    assert len(load("tiny:1.9.0", data_dir=tmp_path)) == 1
    put(tmp_path / "many" / "small" / "1.0.0", features, {"train": record})
    assert len(load("many", data_dir=tmp_path)) == 1
    put(tmp_path / "many" / "large" / "1.0.0", features, {"train": record * 3})
    assert len(load("many/large", data_dir=tmp_path)) == 3
    with pytest.raises(ValueError, match="many/large, many/small"):
        load("many", data_dir=tmp_path)


def test_part_names(tmp_path):
    record = [example(image=png(np.zeros((4, 4, 3), np.uint8)), label=1)]
    for number, (splits, parts) in enumerate(
        [
            (["train"], ["all"]),
            (["test"], ["all"]),
            (["validation", "train"], ["train", "test"]),
            (["train", "validation", "test"], ["train", "validation", "test"]),
        ]
    ):
        folder = tmp_path / str(number) / "1.0.0"
        put(folder, classification((4, 4, 3)), dict.fromkeys(splits, record))
        assert list(load(folder).parts) == parts
    put(tmp_path / "odd" / "1.0.0", classification((4, 4, 3)), {"extra": record})
    with pytest.raises(ValueError, match="has the splits extra"):
        load(tmp_path / "odd")


def test_several_classes_an_image(tmp_path):
    features = FEATURES.FeaturesDict(
        {
            "picture": FEATURES.Image(shape=(4, 4, 3)),
            "labels": FEATURES.Sequence(FEATURES.ClassLabel(names=["a", "b", "c"])),
        }
    )
    image = png(np.zeros((4, 4, 3), np.uint8))
    records = [example(picture=image, labels=labels) for labels in ([0, 2], [], [1])]
    data = load(put(tmp_path / "1.0.0", features, {"train": records}))
    assert data.labels.astype(int).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]
    assert data.multi_label


@pytest.mark.parametrize("channels", [1, 3])
def test_large_ones_are_enlarged_batch_by_batch(tmp_path, rng, channels, monkeypatch):
    pixels = rng.integers(0, 256, (7, 5, 6, channels), np.uint8)
    records = [example(image=png(image), label=1) for image in pixels]
    splits = {"test": records[:2], "train": records[2:]}
    folder = put(tmp_path / "1.0.0", classification((5, 6, channels)), splits)
    whole = load(folder, image_size=16).items
    assert isinstance(whole, np.ndarray)

    most = 0

    def counted(images, *given, **options):
        nonlocal most
        most = max(most, len(images))
        return resize(images, *given, **options)

    monkeypatch.setattr(enlarged, "MOST", 7 * 16 * 16 * channels - 1)
    monkeypatch.setattr(enlarged, "resize", counted)
    data = load(folder, image_size=16, memory_limit=pixels.size)
    assert most == 0
    for start in range(0, 7, 3):
        np.testing.assert_array_equal(data.items[start : start + 3], whole[start : start + 3])
    assert most == 3
    with pytest.raises(ValueError, match="memory_limit"):
        load(folder, image_size=16, memory_limit=pixels.size - 1)


def test_images_of_different_sizes(tmp_path):
    records = [
        example(image=png(np.full((*size, 3), 9, np.uint8)), label=0) for size in ((4, 6), (7, 5))
    ]
    folder = put(tmp_path / "1.0.0", classification((None, None, 3)), {"train": records})
    with pytest.raises(ValueError, match=r"record 1 of train: 5x7 pixels.*give image_size"):
        load(folder)
    assert (load(folder, image_size=4).items == np.full((2, 4, 4, 3), 9)).all()
    done = []
    load(folder, image_size=4, on_progress=lambda *step: done.append(step))
    assert done == [(2, 2)]
    with pytest.raises(ValueError, match="memory_limit"):
        load(folder, image_size=4, memory_limit=95)
    assert len(load(folder, image_size=4, memory_limit=96)) == 2


def test_features_that_cannot_be_used(tmp_path):
    image = FEATURES.Image(shape=(4, 4, 3))
    label = FEATURES.ClassLabel(num_classes=2)
    record = [example(image=png(np.zeros((4, 4, 3), np.uint8)), label=1)]
    for number, (features, message) in enumerate(
        [
            ({"text": FEATURES.Text(), "label": label}, "no image feature.*text"),
            ({"image": image, "text": FEATURES.Text()}, "no class label.*image"),
            ({"image": image, "one": label, "two": label}, "no class label"),
            ({"image": FEATURES.Image(shape=(4, 4, 1), dtype=np.uint16), "label": label}, "uint16"),
        ]
    ):
        folder = tmp_path / f"{number}" / "1.0.0"
        put(folder, FEATURES.FeaturesDict(features), {"train": record})
        with pytest.raises(ValueError, match=message):
            load(folder)
    folder = tmp_path / "numbered" / "1.0.0"
    put(folder, FEATURES.FeaturesDict({"image": image, "label": label}), {"train": record})
    assert load(folder).classes == ("0", "1")


def test_damaged_preparations(tmp_path):
    image = png(np.zeros((4, 4, 3), np.uint8))
    record, beyond = (example(image=image, label=label) for label in (1, 3))
    folder = put(tmp_path / "1.0.0", classification((4, 4, 3)), {"train": [record] * 3})
    shard = folder / "tiny-train.tfrecord-00000-of-00001"
    whole = shard.read_bytes()
    for bad, message in [
        (whole[: 2 * len(whole) // 3], "split train ends after 2 of its 3 records"),
        (whole[:-1], "cut short at record 2"),
        (whole[:7], "cut short at record 0"),
        (b"\1" + whole[1:], "record 0 is damaged"),
        (frames([example(image=b"", label=1)] * 3), "first image cannot be decoded: empty"),
        (frames([record, example(image=b"x", label=1), record]), "record 1 of train: not an image"),
        (frames([record, b"no message", record]), "between 0 and 3 is damaged"),
        (frames([record, record, example(image=b"x", label=[])]), "between 0 and 3 is damaged"),
        (frames([record, beyond, record]), "record 1 of train is damaged .*its label is 3, of 3"),
    ]:
        shard.write_bytes(bad)
        with pytest.raises(ValueError, match=message):
            load(folder)
    shard.unlink()
    with pytest.raises(ValueError, match="00000-of-00001 is missing"):
        load(folder)
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "riegeli"}))
    shard.with_name("tiny-train.riegeli-00000-of-00001").write_bytes(b"x")
    with pytest.raises(ValueError, match="prepared as riegeli"):
        load(folder)


def test_labels_that_are_no_class_are_refused(tmp_path, monkeypatch):
    image = png(np.zeros((4, 4, 3), np.uint8))
    several = FEATURES.Sequence(FEATURES.ClassLabel(num_classes=2))
    features = FEATURES.FeaturesDict({"image": FEATURES.Image(shape=(4, 4, 3)), "labels": several})
    for number, wrong in enumerate(([0, 2], [2**64 - 1])):
        records = [example(image=image, labels=[1]), example(image=image, labels=wrong)]
        folder = put(tmp_path / str(number) / "1.0.0", features, {"train": records})
        with pytest.raises(ValueError, match=r"record 1 of train is damaged .*of 2 classes"):
            load(folder)
    # Of some damaged records tensorflow-datasets makes nothing at all.
    record = example(image=image, label=1)
    folder = put(tmp_path / "none" / "1.0.0", classification((4, 4, 3)), {"train": [record] * 2})
    nothing = {"image": image, "label": None}
    monkeypatch.setattr(FEATURES.FeaturesDict, "deserialize_example_np", lambda *_, **__: nothing)
    with pytest.raises(ValueError, match=r"record 0 of train is damaged .*label is None"):
        load(folder)


def test_hidden_labels_are_refused(tmp_path):
    image = png(np.zeros((4, 4, 3), np.uint8))
    minus_one = 2**64 - 1
    records = [example(image=image, label=minus_one)]
    folder = put(tmp_path / "1.0.0", classification((4, 4, 3)), {"test": records})
    with pytest.raises(ValueError, match="records without a label in test"):
        load(folder)


def test_tfrecord_checks_the_data_on_demand(tmp_path):
    path = tmp_path / "x.tfrecord"
    path.write_bytes(frames([b"one", b"", b"three"]))
    assert list(read_records(path, check_data=True)) == [b"one", b"", b"three"]
    path.write_bytes(path.read_bytes().replace(b"three", b"threw"))
    assert list(read_records(path)) == [b"one", b"", b"threw"]
    with pytest.raises(ValueError, match="record 2 is damaged"):
        list(read_records(path, check_data=True))


@given(st.binary(max_size=40))
def test_checksum(data):
    assert struct.pack("<I", masked_crc32c(data)) == masked(data)


def test_download_needs_tensorflow_and_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install tensorflow-cpu"):
        load("mnist", data_dir=tmp_path, download=True)
    record = example(image=png(np.zeros((4, 4, 3), np.uint8)), label=1)
    made = []

    class Builder:
        data_dir = str(tmp_path / "mnist" / "3.0.1")

        def download_and_prepare(self):
            put(tmp_path / "mnist" / "3.0.1", classification((4, 4, 3)), {"train": [record]})

    def builder(name, data_dir, file_format):
        made.append((name, data_dir, file_format))
        return Builder()

    monkeypatch.setattr(prepared.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tfds, "builder", builder)
    with pytest.raises(ValueError, match="nothing is fetched unasked"):
        load("mnist", data_dir=tmp_path)
    assert made == []
    assert len(load("mnist", data_dir=tmp_path, download=True)) == 1
    assert made == [("mnist", str(tmp_path), "array_record")]


def part_of(folder, split, copy):
    """The folder of a prepared dataset with one of its splits."""
    copy.mkdir(parents=True)
    for path in folder.iterdir():
        (copy / path.name).symlink_to(path)
    info = json.loads((folder / "dataset_info.json").read_text())
    info["splits"] = [one for one in info["splits"] if one["name"] == split]
    (copy / "dataset_info.json").unlink()
    (copy / "dataset_info.json").write_text(json.dumps(info))
    return copy


def test_real_datasets(real_data, tmp_path):
    """Grey images, of which 10,000 say as much as 70,000, and coloured ones."""
    (mnist,) = (real_data / "mnist").iterdir()
    part_of(mnist, "test", tmp_path / "mnist" / mnist.name)
    for name, folder, sizes, classes in (
        ("mnist", tmp_path, {"all": 10_000}, 10),
        ("uc_merced", real_data, {"all": 2_100}, 21),
    ):
        data = load(name, data_dir=folder)
        assert {part: len(rows) for part, rows in data.parts.items()} == sizes
        assert np.bincount(data.labels).min() > 90
        assert len(data.classes) == classes
        assert 20 < data.items[::97].mean() < 200
