"""The readers of foreign files that `fuzz_readers` tries, each with small sound files made here."""

import functools
import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Pack = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Seed:
    """Sound files that are read together, and what of them may be damaged.

    Attributes:
        files: contents by name.
        read: reads them in a folder; the result is compared by `digest`.
        layers: by file name, an inner part and what packs it: damage behind a checksum or a
            compression would otherwise never be seen by what lies behind those.
        only: names of the files that are damaged; all of them by default.
    """

    files: dict[str, bytes]
    read: Callable[[Path], Any]
    layers: Mapping[str, Sequence[tuple[bytes, Pack]]] = field(default_factory=dict)
    only: tuple[str, ...] = ()

    def targets(self) -> list[tuple[str, bytes, Pack]]:
        """(file name, bytes to damage, what packs them) of everything that may be damaged."""
        names = self.only or tuple(self.files)
        whole = [(name, self.files[name], bytes) for name in names]
        inner = [(name, *layer) for name, layers in self.layers.items() for layer in layers]
        return whole + inner


def digest(value: Any) -> int:
    """A number that tells results apart."""
    if isinstance(value, np.ndarray):
        form = f"{value.shape} {value.dtype}".encode()
        return zlib.crc32(np.ascontiguousarray(value).tobytes(), zlib.crc32(form))
    if isinstance(value, dict):
        return digest([[key, digest(one)] for key, one in value.items()])
    if isinstance(value, list | tuple):
        return zlib.crc32(repr([digest(one) for one in value]).encode())
    return zlib.crc32(repr(value).encode())


_RNG = np.random.default_rng


def _before(tail: bytes, head: bytes) -> bytes:
    """A damaged beginning with the rest of its file."""
    return head + tail


# ---- weights ----------------------------------------------------------------------------------


def _opcodes(value: Any) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def _tensor(key: str, array: np.ndarray, legacy: bool) -> bytes:
    """A tensor as torch.save writes it: a call of _rebuild_tensor_v2 on a storage elsewhere."""
    strides = tuple(step // array.itemsize for step in array.strides)
    storage = b"(" + _opcodes("storage") + b"ctorch\nFloatStorage\n"
    storage += _opcodes(key) + _opcodes("cpu") + _opcodes(array.size)
    storage += (b"N" if legacy else b"") + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + _opcodes(0)
    return call + _opcodes(array.shape) + _opcodes(strides) + _opcodes(False) + b"}tR"


def _state_dict(arrays: dict[str, np.ndarray], legacy: bool) -> bytes:
    body = b"\x80\x02}q\x00("
    for number, (name, array) in enumerate(arrays.items()):
        body += _opcodes(name) + b"q" + bytes([number + 1])
        body += _tensor(str(number), array, legacy)
    return body + b"u."


def _weights() -> dict[str, np.ndarray]:
    rng = _RNG(1)
    return {
        "features.0.weight": rng.normal(size=(4, 3, 5, 5)).astype(np.float32),
        "features.0.bias": rng.normal(size=4).astype(np.float32),
        "fc.weight": rng.normal(size=(2, 3)).astype(np.float32),
    }


def _zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def _pretrained(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from jaxhash.training import pretrained

        return pretrained.read(folder / name)

    return read


def pth() -> Iterator[Seed]:
    """PyTorch's zip and legacy files."""
    arrays = _weights()
    body = _state_dict(arrays, legacy=False)
    members = {"model/data.pkl": body, "model/byteorder": b"little"}
    members |= {f"model/data/{i}": one.tobytes() for i, one in enumerate(arrays.values())}

    def pack(content: bytes) -> bytes:
        return _zipped(members | {"model/data.pkl": content})

    yield Seed({"a.pth": pack(body)}, _pretrained("a.pth"), {"a.pth": [(body, pack)] * 2})
    legacy = b"".join(pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001))
    legacy += pickle.dumps({"little_endian": True}, 2) + _state_dict(arrays, legacy=True)
    head = legacy + pickle.dumps([str(i) for i in range(len(arrays))], 2)
    tail = b"".join(struct.pack("<q", one.size) + one.tobytes() for one in arrays.values())
    yield Seed(
        {"a.pt": head + tail},
        _pretrained("a.pt"),
        {"a.pt": [(head, lambda content: content + tail)]},
    )


def safetensors() -> Iterator[Seed]:
    """Others' weights as safetensors."""
    import safetensors.numpy

    content = safetensors.numpy.save(_weights())
    size = 8 + int.from_bytes(content[:8], "little")

    def pack(header: bytes) -> bytes:
        return struct.pack("<Q", len(header)) + header + content[size:]

    yield Seed(
        {"a.safetensors": content},
        _pretrained("a.safetensors"),
        {"a.safetensors": [(content[8:size], pack)]},
    )


def model() -> Iterator[Seed]:
    """A finished run's model: weights and their description."""
    import tempfile

    import jax

    from jaxhash import models, nets
    from jaxhash.spec import ModelSpec
    from jaxhash.trees import flatten

    spec = ModelSpec(
        network="mhcln",
        method="mhcln",
        bits=8,
        classes=("a", "b"),
        item_shape=(4,),
        mean=(),
        std=(),
        activation="sigmoid",
        classifier="none",
        threshold=0.5,
        precision="float32",
    )
    shapes = jax.eval_shape(lambda: nets.init(spec.build(), jax.random.key(0), (1, 4)))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    with tempfile.TemporaryDirectory() as folder:
        models.save(models.Model(spec, variables), folder)
        files = {path.name: path.read_bytes() for path in Path(folder).iterdir()}

    def read(folder: Path) -> Any:
        loaded = models.load(folder)
        return [repr(loaded), flatten(loaded.variables)]

    yield Seed(files, read)


# ---- arrays -----------------------------------------------------------------------------------


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _dataset(name: str, **options: Any) -> Callable[[Path], Any]:
    """Reads a dataset whole, by the name of its file, or by name below its folder."""

    def read(folder: Path) -> Any:
        from jaxhash.data import load

        if "." in name:
            data = load(folder / name, **options)
        else:
            data = load(name, data_dir=folder, **options)
        rows = np.arange(len(data))
        return [data.items[rows], data.labels, data.classes, [*data.parts.items()]]

    return read


def _arrays() -> dict[str, np.ndarray]:
    rng = _RNG(2)
    return {
        "train_images": rng.integers(0, 256, (6, 5, 5, 3), np.uint8),
        "train_labels": np.arange(6) % 3,
        "test_images": rng.integers(0, 256, (3, 5, 5, 3), np.uint8),
        "test_labels": np.arange(3),
    }


def npz() -> Iterator[Seed]:
    """Datasets in one `.npz`, plain and compressed."""
    members = {f"{name}.npy": _npy(array) for name, array in _arrays().items()}
    features = _npy(_RNG(3).normal(size=(4, 3)).astype(np.float32))
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):

        def pack(content: bytes, compression: int = compression) -> bytes:
            return _zipped(members | {"train_images.npy": content}, compression)

        def pack_features(content: bytes, compression: int = compression) -> bytes:
            return _zipped({"features.npy": content}, compression)

        whole, read = pack(members["train_images.npy"]), _dataset("a.npz")
        layers = [(members["train_images.npy"], pack), (features, pack_features)]
        yield Seed({"a.npz": whole}, read, {"a.npz": layers})


def npy() -> Iterator[Seed]:
    """Datasets in a folder of `.npy`."""
    files = {f"d.x/{name}.npy": _npy(array) for name, array in _arrays().items()}
    heads = {name: [(content[:128], _head(content))] for name, content in files.items()}
    yield Seed(files, _dataset("d.x"), heads)


def _head(content: bytes) -> Pack:
    return lambda head: head + content[128:]


# ---- prepared datasets ------------------------------------------------------------------------


def _field(number: int, data: bytes) -> bytes:
    """One length-delimited field of a protocol buffer, of under 16,384 bytes."""
    size = len(data)
    length = bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])
    return bytes([number << 3 | 2]) + length + data


def _example(image: bytes, label: int) -> bytes:
    features = {"image": _field(1, _field(1, image)), "label": _field(3, _field(1, bytes([label])))}
    entries = [_field(1, _field(1, key.encode()) + _field(2, one)) for key, one in features.items()]
    return _field(1, b"".join(entries))


def _frames(records: list[bytes]) -> bytes:
    from jaxhash.data.tfrecord import masked_crc32c

    out = b""
    for record in records:
        length = struct.pack("<Q", len(record))
        out += length + struct.pack("<I", masked_crc32c(length))
        out += record + struct.pack("<I", masked_crc32c(record))
    return out


def _array_record(records: list[bytes]) -> bytes:
    import tempfile

    from array_record.python.array_record_module import ArrayRecordWriter

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
        return path.read_bytes()


def _prepared(file_format: str, write: Callable[[list[bytes]], bytes]) -> Seed:
    import tempfile

    import tensorflow_datasets as tfds

    images = _RNG(5).integers(0, 256, (5, 6, 6, 3), np.uint8)
    records = [_example(_image(one, "PNG"), row % 2) for row, one in enumerate(images)]
    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(6, 6, 3)),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
    )
    shard = {
        "name": "train",
        "numBytes": "1",
        "shardLengths": ["5"],
        "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
    }
    info = {"name": "tiny", "version": "1.0.0", "fileFormat": file_format, "moduleName": "x"}
    with tempfile.TemporaryDirectory() as folder:
        features.save_config(folder)
        files = {
            f"tiny/1.0.0/{path.name}": path.read_bytes() for path in sorted(Path(folder).iterdir())
        }
    files["tiny/1.0.0/dataset_info.json"] = json.dumps(info | {"splits": [shard]}).encode()
    name = f"tiny/1.0.0/tiny-train.{file_format}-00000-of-00001"
    layers = {name: [(records[2], lambda one: write([*records[:2], one, *records[3:]]))]}
    return Seed({**files, name: write(records)}, _dataset("tiny"), layers)


def tfrecord() -> Iterator[Seed]:
    """What tensorflow-datasets prepared as tfrecord, with its descriptions."""
    yield _prepared("tfrecord", _frames)


def array_record() -> Iterator[Seed]:
    """What tensorflow-datasets prepared as array_record, with its descriptions."""
    yield _prepared("array_record", _array_record)


# ---- original archives ------------------------------------------------------------------------


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def mnist() -> Iterator[Seed]:
    """MNIST's four files, plain and gzipped."""
    rng = _RNG(6)
    plain = {}
    for part, n in (("train", 12), ("t10k", 4)):
        plain[f"{part}-images-idx3-ubyte"] = _idx(rng.integers(0, 256, (n, 6, 5), np.uint8))
        plain[f"{part}-labels-idx1-ubyte"] = _idx(rng.integers(0, 10, n, np.uint8))
    yield Seed(plain, _dataset("mnist"))
    yield Seed(
        {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in plain.items()},
        _dataset("mnist"),
    )


def _tarred(files: dict[str, bytes], mode: Any) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def cifar10() -> Iterator[Seed]:
    """CIFAR-10's two archives, packed and unpacked."""
    rng = _RNG(7)
    pixels = rng.integers(0, 256, (6, 2, 3072), np.uint8)
    labels = rng.integers(0, 10, (6, 2), np.uint8)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    records = np.concatenate([labels[..., None], pixels], axis=2)
    binary = {f"{name}.bin": one.tobytes() for name, one in zip(names, records, strict=True)}
    python = {
        name: pickle.dumps({b"labels": own.tolist(), b"data": one}, 2)
        for name, own, one in zip(names, labels, pixels, strict=True)
    }
    for name, files in (("binary", binary), ("python", python)):
        yield Seed({f"cifar-10-{name}.tar.gz": _tarred(files, "w:gz")}, _dataset("cifar10"))
        yield Seed({f"cifar-10-{name}.tar.gz": _tarred(files, "w")}, _dataset("cifar10"))
    folder = {f"cifar-10-batches-py/{name}": content for name, content in python.items()}
    # Nearly all of a batch are pixels: what holds them together is damaged as often.
    layers = {
        f"cifar-10-batches-py/{name}": [_around(content, pixels[row].tobytes())]
        for row, (name, content) in enumerate(python.items())
    }
    yield Seed(folder, _dataset("cifar10"), layers)


def _around(content: bytes, bulk: bytes) -> tuple[bytes, Pack]:
    """What is left of a pickle without its bulk, as text of protocol 2 has it, and the way back."""
    spelt = bulk.decode("latin1").encode()
    hole = b"<bulk of a batch>"
    assert spelt in content
    return content.replace(spelt, hole), lambda rest: rest.replace(hole, spelt)


def svhn() -> Iterator[Seed]:
    """SVHN's MATLAB files, plain and compressed."""
    from scipy.io import savemat

    for compress in (False, True):
        files = {}
        for part in ("train", "test"):
            file = io.BytesIO()
            images = _RNG(8).integers(0, 256, (32, 32, 3, 2), np.uint8)
            savemat(file, {"y": np.array([[1], [10]]), "X": images}, do_compression=compress)
            files[f"{part}_32x32.mat"] = file.getvalue()
        head, tail = files["test_32x32.mat"][:400], files["test_32x32.mat"][400:]
        yield Seed(
            files,
            _dataset("svhn_cropped"),
            {"test_32x32.mat": [(head, functools.partial(_before, tail))]},
        )


def uc_merced() -> Iterator[Seed]:
    """UC Merced's zip of TIFF files, plain and compressed."""
    pixels = _RNG(9).integers(0, 256, (3, 20, 20, 3), np.uint8)
    names = ("beach00", "river00", "river01")
    members = {
        f"UCMerced_LandUse/Images/{name[:5]}/{name}.tif": _image(one, "TIFF")
        for name, one in zip(names, pixels, strict=True)
    }
    read = _dataset("uc_merced", image_size=16)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        yield Seed({"UCMerced_LandUse.zip": _zipped(members, compression)}, read)


# ---- images -----------------------------------------------------------------------------------


def _image(pixels: np.ndarray, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def _summed(content: bytes) -> bytes:
    """A PNG whose chunks are damaged, with checksums that fit."""
    out, at = content[:8], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        out += _chunk(content[at + 4 : at + 8], content[at + 8 : at + 8 + size])
        at += 12 + size
    return out


def _images(form: str, *others: dict[str, Any]) -> Callable[[], Iterator[Seed]]:
    """Small images of a format, smooth ones and noise."""
    name = f"a.{form.lower()}"

    def read(folder: Path) -> Any:
        from jaxhash.data.decoding import decode

        return decode(str(folder / name))

    def seeds() -> Iterator[Seed]:
        y, x = np.mgrid[0:24, 0:32]
        smooth = np.stack([x * 8, y * 10, (x + y) % 7 + 100], axis=-1).astype(np.uint8)
        noise = _RNG(10).integers(0, 256, (16, 16, 3), np.uint8)
        for options in others or ({},):
            for pixels in (smooth, noise):
                content = _image(pixels, form, **options)
                inner: list[tuple[bytes, Pack]] = [(content, _summed)] if form == "PNG" else []
                yield Seed({name: content}, read, {name: inner})

    seeds.__doc__ = f"Single {form} images."
    return seeds


def folder() -> Iterator[Seed]:
    """A folder of image files, one sub-folder a class."""
    files = {}
    for number, form in enumerate(("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")):
        pixels = _RNG(number).integers(0, 256, (9, 12, 3), np.uint8)
        files[f"d.x/{'ab'[number % 2]}/{number}.{form.lower()}"] = _image(pixels, form)
    yield Seed(files, _dataset("d.x", image_size=8, max_undecodable=0.5))


# ---- indexes ----------------------------------------------------------------------------------


def _made_index() -> Any:
    from search import HashIndex

    rng = _RNG(11)
    return HashIndex(
        rng.integers(0, 256, (300, 6), np.uint8),
        bits=45,
        features=rng.normal(size=(300, 3)).astype(np.float16),
        ids=np.arange(300) * 2,
    )


def _written(write: Callable[[Path], None]) -> bytes:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a"
        write(path)
        return path.read_bytes()


def index() -> Iterator[Seed]:
    """Index files: opened mapped, mapped and verified, and read whole; then searched."""
    from search import HashIndex

    content = _written(lambda path: _made_index().save(path))
    empty = _written(lambda path: HashIndex(np.empty((0, 6), np.uint8)).save(path))
    for mmap, verify in ((True, False), (True, True), (False, True)):

        def read(folder: Path, mmap: bool = mmap, verify: bool = verify) -> Any:
            opened = HashIndex.open(folder / "a.index", mmap=mmap, verify=verify)
            query = np.zeros((1, -(-opened.bits // 8)), np.uint8)
            try:
                found = opened.search(query, 3)
                opened.add(query, **_as_theirs(opened))
                opened.save(folder / "again.index")
            except ValueError as error:
                # Not verified, it may hold what a search or a saving refuses.
                raise ValueError(f"index: {error}") from error
            return found

        for one in (content, empty):
            offset = int.from_bytes(one[32:40], "little")
            yield Seed(
                {"a.index": one}, read, {"a.index": [(one[:60] + one[offset:], _index(one))]}
            )


def _as_theirs(opened: Any) -> dict[str, Any]:
    features = opened._state.segments[0].features if opened._state.segments else None
    return (
        {} if features is None else {"features": np.zeros((1, features.shape[1]), features.dtype)}
    )


def _index(content: bytes) -> Pack:
    """Puts a damaged header and table back into an index, with checksums that fit."""
    offset = int.from_bytes(content[32:40], "little")

    def pack(damaged: bytes) -> bytes:
        header, table = bytearray(damaged[:60].ljust(60, b"\0")), damaged[60:]
        header[44:48] = struct.pack("<I", zlib.crc32(table))
        return bytes(header) + struct.pack("<I", zlib.crc32(header)) + content[64:offset] + table

    return pack


def faiss() -> Iterator[Seed]:
    """FAISS's flat binary indexes, with and without ids, and its graphs."""
    import faiss as library

    from search.interchange import read_faiss, write_faiss

    def read(folder: Path) -> Any:
        found = read_faiss(folder / "a.faiss")
        return found.search(np.zeros((1, -(-found.bits // 8)), np.uint8), 3)

    codes = _RNG(12).integers(0, 256, (60, 6), np.uint8)
    graph = library.IndexBinaryHNSW(48, 4)
    graph.add(codes)
    contents = [
        _written(lambda path: write_faiss(_made_index(), path)),
        library.serialize_index_binary(graph).tobytes(),
    ]
    for content in contents:
        head, tail = content[:80], content[80:]
        yield Seed(
            {"a.faiss": content}, read, {"a.faiss": [(head, functools.partial(_before, tail))]}
        )


READERS: dict[str, Callable[[], Iterator[Seed]]] = {
    "pth": pth,
    "safetensors": safetensors,
    "model": model,
    "npz": npz,
    "npy": npy,
    "tfrecord": tfrecord,
    "array_record": array_record,
    "mnist": mnist,
    "cifar10": cifar10,
    "svhn": svhn,
    "uc_merced": uc_merced,
    "png": _images("PNG"),
    "jpeg": _images("JPEG", {"quality": 90}, {"progressive": True}),
    "gif": _images("GIF"),
    "webp": _images("WEBP", {"lossless": True}, {"quality": 90}),
    "bmp": _images("BMP"),
    "tiff": _images("TIFF", {}, {"compression": "tiff_deflate"}, {"compression": "tiff_lzw"}),
    "ppm": _images("PPM"),
    "folder": folder,
    "index": index,
    "faiss": faiss,
}
"""By name, a function that makes the sound files of one reader."""
