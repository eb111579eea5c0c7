"""PyTorch files read without PyTorch, and what is refused of them."""

import collections
import io
import os
import pickle
import struct
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxhash import nets
from jaxhash.nets import NETWORKS
from jaxhash.training import pretrained
from jaxhash.training.pretrained import MAPS, convolution, dense, dense_after, load, read

STORAGES = {np.dtype(np.float32): "FloatStorage", np.dtype(np.float16): "HalfStorage"}
STORAGES |= {np.dtype(np.int64): "LongStorage", np.dtype(bool): "BoolStorage"}

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def opcodes(value):
    """The pickle of a simple value, without its header and its stop."""
    return pickle.dumps(value, protocol=2)[2:-1]


def tensor_opcodes(key, array, shape=None, strides=None, offset=0, legacy=False):
    """A tensor as torch.save writes it: a call of _rebuild_tensor_v2 on a storage elsewhere."""
    shape = array.shape if shape is None else shape
    if strides is None:
        strides = tuple(step // array.itemsize for step in array.strides)
    storage = b"(" + opcodes("storage") + b"ctorch\n" + STORAGES[array.dtype].encode() + b"\n"
    storage += opcodes(key) + opcodes("cpu") + opcodes(array.size)
    storage += (b"N" if legacy else b"") + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + opcodes(offset)
    return call + opcodes(shape) + opcodes(strides) + opcodes(False) + opcodes({}) + b"tR"


def dict_opcodes(items):
    return b"}(" + b"".join(opcodes(key) + value for key, value in items) + b"u"


def whole(body):
    return b"\x80\x02" + body + b"."


def write_zip(path, body, storages=(), compression=zipfile.ZIP_STORED, byteorder="little"):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("model/data.pkl", whole(body))
        archive.writestr("model/byteorder", byteorder)
        for key, array in storages:
            archive.writestr(f"model/data/{key}", array.tobytes())
    return path


def write_legacy(path, body, storages=()):
    with path.open("wb") as file:
        file.write(pickle.dumps(LEGACY_MAGIC, 2) + pickle.dumps(1001, 2))
        file.write(pickle.dumps({"little_endian": True}, 2) + whole(body))
        file.write(pickle.dumps([key for key, _ in storages], 2))
        for _, array in storages:
            file.write(struct.pack("<q", array.size) + array.tobytes())
    return path


@pytest.fixture
def arrays(rng):
    return {
        "features.0.weight": rng.normal(size=(4, 3, 5, 5)).astype(np.float32),
        "features.0.bias": rng.normal(size=4).astype(np.float32),
        "half": rng.normal(size=(2, 3)).astype(np.float16),
        "steps": np.array(7, np.int64),
        "mask": np.array([True, False]),
    }


def save(path, arrays, write, wrap=lambda body: body, prefix=""):
    legacy = write is write_legacy
    storages = [(str(number), array) for number, array in enumerate(arrays.values())]
    items = [
        (prefix + name, tensor_opcodes(str(number), array, legacy=legacy))
        for number, (name, array) in enumerate(arrays.items())
    ]
    return write(path, wrap(dict_opcodes(items)), storages)


def assert_same(ours, wanted):
    assert ours.keys() == wanted.keys()
    for name, array in wanted.items():
        assert ours[name].dtype == array.dtype
        np.testing.assert_array_equal(ours[name], array)


# ---- reading ----------------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_reads_both_formats(write, arrays, tmp_path):
    assert_same(read(save(tmp_path / "a.pth", arrays, write)), arrays)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
def test_finds_the_state_dict_inside(write, arrays, tmp_path):
    def wrap(body):
        return dict_opcodes([("epoch", opcodes(3)), ("state_dict", body)])

    path = save(tmp_path / "a.pth", arrays, write, wrap, prefix="module.")
    assert_same(read(path), arrays)


def test_two_state_dicts_are_not_guessed_between(arrays, tmp_path):
    path = save(
        tmp_path / "a.pth", arrays, write_zip, lambda body: dict_opcodes([("a", body), ("b", body)])
    )
    with pytest.raises(ValueError, match="2 dicts of tensors under a, b"):
        read(path)


def test_reads_views(tmp_path):
    """A transposed part of a larger storage, and one storage under two names."""
    array = np.arange(12, dtype=np.float32)
    body = dict_opcodes(
        [
            ("view", tensor_opcodes("0", array, (2, 3), (1, 2), offset=4)),
            ("all", tensor_opcodes("0", array)),
            ("empty", tensor_opcodes("0", array, (0, 3), (3, 1))),
        ]
    )
    weights = read(write_zip(tmp_path / "a.pth", body, [("0", array)]))
    np.testing.assert_array_equal(weights["view"], [[4, 6, 8], [5, 7, 9]])
    np.testing.assert_array_equal(weights["all"], array)
    assert weights["empty"].shape == (0, 3)


def test_reads_safetensors(arrays, tmp_path):
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    assert_same(read(tmp_path / "a.safetensors"), arrays)


# ---- refusing ---------------------------------------------------------------------------------


class Evil:
    """Would make a file when unpickled by anything less careful."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("write", [write_zip, write_legacy])
@pytest.mark.parametrize("protocol", [0, 2])
def test_a_pickle_that_calls_is_refused_and_not_run(write, protocol, tmp_path):
    target = tmp_path / "made"
    body = pickle.dumps({"w": Evil(target)}, protocol)
    assert pickle.loads(body)  # it does work elsewhere
    target.rmdir()
    body = body[2:-1] if protocol else body[:-1]
    with pytest.raises(ValueError, match=r"asks for (posix|nt).mkdir.*nothing was run"):
        read(write(tmp_path / "a.pth", body))
    assert not target.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins\neval",
        "os\nsystem",
        "torch\nload",
        "torch._utils\n_rebuild_parameter",
        "torch\nFloatStorage.__class__",
        "collections\nCounter",
        "jaxhash.pretrained\nread",
    ],
)
def test_names_beyond_tensors_are_refused(name, tmp_path):
    body = b"c" + name.encode() + b"\n(tR"
    with pytest.raises(ValueError, match="only tensors are read"):
        read(write_zip(tmp_path / "a.pth", body))


def test_allowed_names_cannot_be_bent(tmp_path):
    """Setting attributes on what is allowed (pickle's BUILD) leaves nothing behind."""
    for name in ("collections\nOrderedDict", "torch._utils\n_rebuild_tensor_v2"):
        body = b"c" + name.encode() + b"\n" + opcodes({"spoilt": 1}) + b"b"
        with pytest.raises(ValueError, match=r"a\.pth"):
            read(write_zip(tmp_path / "a.pth", body))
    assert not hasattr(collections.OrderedDict, "spoilt")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (13,), "strides": (1,)}, "beyond its storage"),
        ({"shape": (2,), "strides": (12,)}, "beyond its storage"),
        ({"shape": (2,), "strides": (-1,)}, "beyond its storage"),
        ({"shape": (1,), "strides": (1,), "offset": -1}, "beyond its storage"),
        ({"shape": (10**9,), "strides": (0,)}, "beyond its storage"),
        ({"shape": (2, 2), "strides": (1,)}, "beyond its storage"),
    ],
)
def test_tensors_beyond_their_storage_are_refused(options, message, tmp_path):
    array = np.arange(12, dtype=np.float32)
    body = dict_opcodes([("w", tensor_opcodes("0", array, **options))])
    with pytest.raises(ValueError, match=message):
        read(write_zip(tmp_path / "a.pth", body, [("0", array)]))


@pytest.mark.parametrize("place", [3, 1 << 24, (1 << 32) - 1])
def test_a_pickle_cannot_ask_for_more_memory_than_it_has_steps(place, tmp_path):
    """A file of 20 bytes: Python's own unpickler would reserve up to 32 GB for it."""
    path = tmp_path / "a.pth"
    path.write_bytes(b"\x80\x02}r" + struct.pack("<I", place) + b".")
    with pytest.raises(ValueError, match=rf"a\.pth.*asks for place {place} of a table"):
        read(path)


def test_damaged_files_are_named(arrays, rng, tmp_path):
    path = tmp_path / "a.pth"
    with pytest.raises(FileNotFoundError, match="no such file of pretrained weights"):
        read(path)
    for content in (b"", b"\x80\x02", b"not a pickle", pickle.dumps({"a": 1}), rng.bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.pth"):
            read(path)
    content = save(path, arrays, write_legacy).read_bytes()
    path.write_bytes(content[:-3])
    with pytest.raises(ValueError, match="ends early"):
        read(path)
    content = save(path, arrays, write_zip).read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.pth"):
        read(path)
    write_zip(path, dict_opcodes([]), compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        read(path)
    write_zip(path, dict_opcodes([]), byteorder="big")
    with pytest.raises(ValueError, match="big-endian"):
        read(path)
    write_zip(path, opcodes([1, 2]))
    with pytest.raises(ValueError, match="holds a list"):
        read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(ValueError, match=r"one data.pkl"):
        read(path)
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        read(tmp_path / "a.safetensors")


# ---- into a network ---------------------------------------------------------------------------


@pytest.fixture
def tiny(monkeypatch):
    """A map of one convolution and one dense layer, and parameters for it."""
    rows = (("features.0", "trunk/conv1", convolution), ("fc", "trunk/fc", dense))
    monkeypatch.setitem(MAPS, "tiny", rows)
    return {
        "trunk": {
            "conv1": {"kernel": np.zeros((5, 5, 3, 4)), "bias": np.zeros(4)},
            "fc": {"kernel": np.zeros((3, 2)), "bias": np.zeros(2)},
        },
        "head": {"latent": {"kernel": np.ones((2, 8)), "bias": np.ones(8)}},
    }


def test_load_reports_every_name(tiny, arrays, rng, tmp_path):
    arrays |= {"fc.weight": rng.normal(size=(2, 3)), "fc.bias": np.ones(2, np.float16)}
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    params, report = load(tmp_path / "a.safetensors", "tiny", tiny)
    taken = params["trunk"]["conv1"]["kernel"]
    np.testing.assert_array_equal(taken[1, 2, 0], arrays["features.0.weight"][:, 0, 1, 2])
    np.testing.assert_allclose(params["trunk"]["fc"]["kernel"], arrays["fc.weight"].T, rtol=1e-6)
    for leaf in jax.tree.leaves(params["trunk"]):
        assert leaf.dtype == np.float32
        assert leaf.flags.c_contiguous  # what safetensors needs, to write it as it is
    assert params["head"]["latent"]["kernel"] is tiny["head"]["latent"]["kernel"]
    assert not tiny["trunk"]["conv1"]["kernel"].any()
    assert set(report.unused) == {"half", "steps", "mask"}
    assert set(report.fresh) == {"head/latent/kernel", "head/latent/bias"}
    assert ("fc.weight", "trunk/fc/kernel") in report.taken
    assert len(report.taken) == 4
    for word in ("took 4", "half", "head/latent/kernel"):
        assert word in str(report)


def test_grey_first_layer_sees_what_grey_in_colour_would(tiny, arrays, rng, tmp_path):
    arrays |= {"fc.weight": np.ones((2, 3)), "fc.bias": np.ones(2)}
    tiny["trunk"]["conv1"]["kernel"] = np.zeros((5, 5, 1, 4))
    safetensors.numpy.save_file(arrays, tmp_path / "a.safetensors")
    params, _ = load(tmp_path / "a.safetensors", "tiny", tiny)
    patch = rng.normal(size=(5, 5))
    colour = np.einsum("yx,ocyx->o", patch, arrays["features.0.weight"])
    grey = np.einsum("yx,yxo->o", patch, params["trunk"]["conv1"]["kernel"][:, :, 0])
    np.testing.assert_allclose(grey, colour, rtol=1e-4)


def test_load_refuses_what_does_not_fit(tiny, arrays, tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match=r"has no 'fc.weight'.*features.0.weight"):
        load(path, "tiny", tiny)
    arrays |= {"fc.weight": np.ones((2, 4)), "fc.bias": np.ones(2)}
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match=r"'fc.weight' of shape \(2, 4\) does not fit.*\(3, 2\)"):
        load(path, "tiny", tiny)
    arrays["features.0.weight"] = np.ones(3)
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match=r"shape \(3,\) does not fit"):
        load(path, "tiny", tiny)
    with pytest.raises(ValueError, match=r"no map.*alexnet"):
        load(path, "dsh", tiny)
    del tiny["trunk"]["fc"]
    arrays["features.0.weight"] = np.ones((4, 3, 5, 5))
    safetensors.numpy.save_file(arrays, path)
    with pytest.raises(ValueError, match="params has no 'trunk/fc/kernel'"):
        load(path, "tiny", tiny)


def test_dense_layers_read_flattened_images_in_our_order(rng):
    image = rng.normal(size=(3, 4, 2)).astype(np.float32)  # height, width, channels
    weight = rng.normal(size=(5, 24)).astype(np.float32)
    theirs = weight @ image.transpose(2, 0, 1).ravel()
    ours = image.ravel() @ dense_after(2, 3, 4)(weight)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("new_format", [True, False])
def test_reads_what_torch_writes(new_format, tmp_path):
    torch = pytest.importorskip("torch")
    state = collections.OrderedDict(
        weight=torch.randn(3, 4).T,
        bias=torch.randn(3).bfloat16(),
        running=torch.tensor(5),
        part=torch.arange(10.0)[3:7],
    )
    buffer = io.BytesIO()
    torch.save({"state_dict": state, "lr": 0.1}, buffer, _use_new_zipfile_serialization=new_format)
    path = tmp_path / "a.pt"
    path.write_bytes(buffer.getvalue())
    weights = read(path)
    assert list(weights) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(weights[name].astype(np.float32), tensor.float().numpy())


def test_alexnet_equals_torch(tmp_path):
    """The same features from the same file, for an image that is neither square nor 224 wide."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)

    def convolve(inputs, outputs, window, stride, padding):
        return [nn.Conv2d(inputs, outputs, window, stride, padding), nn.ReLU()]

    theirs = nn.Module()
    theirs.features = nn.Sequential(
        *convolve(3, 64, 11, 4, 2),
        nn.MaxPool2d(3, 2),
        *convolve(64, 192, 5, 1, 2),
        nn.MaxPool2d(3, 2),
        *convolve(192, 384, 3, 1, 1),
        *convolve(384, 256, 3, 1, 1),
        *convolve(256, 256, 3, 1, 1),
        nn.MaxPool2d(3, 2),
    )
    theirs.classifier = nn.Sequential(
        nn.Dropout(),
        nn.Linear(256 * 6 * 6, 4096),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(4096, 4096),
        nn.ReLU(),
        nn.Linear(4096, 10),
    )
    torch.save(theirs.state_dict(), tmp_path / "alexnet.pth")
    module = NETWORKS["alexnet"].build(bits=8, classes=2)
    shape = (2, 140, 101, 3)
    empty = jax.eval_shape(lambda key: nets.init(module, key, shape), jax.random.key(0))
    start = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), empty["params"]["head"])
    params, report = load(
        tmp_path / "alexnet.pth", "alexnet", {"trunk": empty["params"]["trunk"], "head": start}
    )
    assert report.unused == ("classifier.6.weight", "classifier.6.bias")
    assert all(name.startswith("head/") for name in report.fresh)
    assert len(report.taken) == 14

    images = torch.randn(2, 3, 140, 101)
    with torch.no_grad():
        below = nn.functional.adaptive_avg_pool2d(theirs.features(images), 6).flatten(1)
        wanted = theirs.classifier.eval()[:-1](below).numpy()
    ours = jnp.asarray(images.permute(0, 2, 3, 1).numpy())
    run = jax.jit(lambda params: nets.apply(module, {"params": params}, ours, train=False)[0])
    features = np.asarray(run(params).features)
    assert wanted.max() > 10 * np.abs(features - wanted).max()
    np.testing.assert_allclose(features, wanted, atol=1e-6 + 1e-4 * wanted.max())


def test_constants_are_in_the_unit_prepare_takes():
    assert all(0 < value < 1 for value in pretrained.IMAGENET_MEAN + pretrained.IMAGENET_STD)
