"""Backbones in ONNX files: tiny ones made here, from the file to an answer, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_unlabelled import draw

import jaxhash
from jaxhash import models, onnx_files, runs
from jaxhash.config import Config
from jaxhash.training import backbones, onnx_backbone

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
SIDE, FEATURES = 16, 30
SCALED: dict[str, Any] = {"mean": 0.5, "std": "0.25,0.25,0.5"}


def write(
    path: Path,
    *,
    seed: int = 0,
    taken: tuple[Any, ...] = ("n", 3, SIDE, SIDE),
    form: tuple[int, ...] = (0, FEATURES),
    factor: float = 1.0,
    inputs: int = 1,
    outputs: int = 1,
    dtype: int = onnx.TensorProto.FLOAT,
) -> Path:
    """A file with one layer on the pixels: flatten, multiply, reshape to `form`, times a factor."""
    helper, numbers = onnx.helper, np.random.default_rng(seed)
    sides = [one if isinstance(one, int) else SIDE for one in taken[1:]]
    pixels = 3 * SIDE * SIDE if "h" in taken else int(np.prod(sides))
    kernel = numbers.normal(size=(pixels, FEATURES)).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["pixels"], ["flat"]),
        helper.make_node("MatMul", ["flat", "kernel"], ["product"]),
        helper.make_node("Mul", ["product", "factor"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "form"], ["features"]),
    ]
    constants = [
        onnx.numpy_helper.from_array(kernel, "kernel"),
        onnx.numpy_helper.from_array(np.float32(factor), "factor"),
        onnx.numpy_helper.from_array(np.array(form, np.int64), "form"),
    ]
    named = [helper.make_tensor_value_info("pixels", dtype, taken)]
    named += [helper.make_tensor_value_info(f"more{at}", dtype, ("n",)) for at in range(1, inputs)]
    given = [helper.make_tensor_value_info("features", onnx.TensorProto.FLOAT, None)]
    if outputs > 1:
        given.append(helper.make_tensor_value_info("flat", onnx.TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "tiny", named, given, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny.onnx")


def read(file: Path, **options: Any) -> onnx_backbone.OnnxBackbone:
    return onnx_backbone.read(file, backbones.RESIZING, **SCALED | options)


def features(file: Path, images: np.ndarray, seed: int = 0) -> np.ndarray:
    """What the file makes of uint8 images, without onnxruntime."""
    kernel = np.random.default_rng(seed).normal(size=(3 * SIDE * SIDE, FEATURES))
    x = (images / 255 - 0.5) / np.array([0.25, 0.25, 0.5])
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1) @ kernel.astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# ---------------------------------------------------------------- from a file to an answer


def test_a_file_is_a_backbone_as_any(file: Path, tmp_path: Path) -> None:
    photos, run = draw(tmp_path / "photos", 24), tmp_path / "run"
    options = {"network": f"onnx:{file}", "network_options": SCALED, "bits": 12}
    model = jaxhash.train(photos, run, **options)
    assert model.spec.takes == "images"
    pixels = np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)
    found = model.encode(pixels, features="float32")
    np.testing.assert_allclose(found.features, features(file, pixels), atol=1e-5)

    file.unlink()  # the run has its own
    loaded = jaxhash.load(run)
    again = loaded.encode(pixels, batch_size=2, features="float32")
    assert np.array_equal(again.codes, found.codes)
    index = jaxhash.index(loaded, photos, tmp_path / "photos.index")
    answer = index.query(photos / "07.png", k=3, pool=24)
    assert answer.paths[0] == str(photos / "07.png")
    result = jaxhash.evaluate(run)
    assert isinstance(result, jaxhash.ResultWithoutLabels)
    assert result.images == 24
    plan = runs.read_json(run / runs.PLAN)
    assert plan["backbone"]["onnx"]["sha256"] == loaded.spec.onnx.sha256
    moved = tmp_path / "moved"
    run.rename(moved)
    assert jaxhash.open_index(tmp_path / "photos.index", moved).query(photos / "03.png").ids[0] == 3


def test_views_are_averaged_before_the_head(file: Path, tmp_path: Path) -> None:
    photos = draw(tmp_path / "photos", 12)
    options = {"network": f"onnx:{file}", "network_options": SCALED, "bits": 4, "mirror": True}
    model = jaxhash.train(photos, None, **options)
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.uint8)
    found = model.encode(pixels, features="float32").features
    each = [features(file, one) for one in (pixels, pixels[:, :, ::-1])]
    np.testing.assert_allclose(found, sum(each) / 2, atol=1e-5)


def test_another_file_is_refused(file: Path, tmp_path: Path) -> None:
    photos, run = draw(tmp_path / "photos", 12), tmp_path / "run"
    options = {"network": f"onnx:{file}", "network_options": SCALED, "bits": 4}
    jaxhash.train(photos, run, **options)
    jaxhash.index(jaxhash.load(run), photos, tmp_path / "photos.index")
    other = write(tmp_path / "other.onnx", seed=1)
    model = jaxhash.train(photos, None, **options | {"network": f"onnx:{other}"})
    with pytest.raises(ValueError, match="made by another model"):
        jaxhash.open_index(tmp_path / "photos.index", model)
    (run / "tiny.onnx").unlink()
    shutil.copy(other, run / "tiny.onnx")
    onnx_files._checked.cache_clear()  # as in another process
    with pytest.raises(ValueError, match=r"not the network that the run was made on.*sha256"):
        jaxhash.load(run).encode(photos / "00.png")
    (run / "tiny.onnx").unlink()
    onnx_files._checked.cache_clear()
    with pytest.raises(FileNotFoundError, match=r"tiny\.onnx: no such ONNX file"):
        jaxhash.load(run).encode(photos / "01.png")


def test_weights_beside_the_file_belong_to_it(file: Path, tmp_path: Path) -> None:
    alone = onnx_files.digest(file)
    (tmp_path / "tiny.onnx.data").write_bytes(b"weights")
    assert onnx_files.digest(file) != alone
    (tmp_path / "run").mkdir()
    onnx_files.place(read(file).onnx, tmp_path / "run")
    assert (tmp_path / "run" / "tiny.onnx.data").read_bytes() == b"weights"


def test_the_place_of_a_file_is_no_part_of_a_model(file: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(file, tmp_path / "renamed.onnx"))
    prints = []
    for one in (file, other):
        photos = tmp_path / "photos"
        model = jaxhash.train(
            photos if photos.exists() else draw(photos, 12),
            None,
            network=f"onnx:{one}",
            network_options=SCALED,
            bits=4,
        )
        prints.append(models.fingerprint(model))
    assert prints[0] == prints[1]


# ---------------------------------------------------------------- forms of files


def test_layout_side_and_batch_are_the_files_own(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3)).astype(np.uint8)
    scaled = (pixels / 255 - 0.5).astype(np.float32) / np.float32([0.25, 0.25, 0.5])
    first = read(write(tmp_path / "a.onnx"))
    assert (first.side, first.onnx.layout, first.onnx.features) == (SIDE, "nchw", FEATURES)
    wanted = first.onnx.run(scaled)
    fixed = read(write(tmp_path / "b.onnx", taken=(2, 3, SIDE, SIDE)))
    np.testing.assert_allclose(fixed.onnx.run(scaled), wanted, atol=1e-5)
    last = read(write(tmp_path / "c.onnx", taken=("n", SIDE, SIDE, 3)))
    assert last.onnx.layout == "nhwc"
    np.testing.assert_allclose(last.onnx.run(scaled).shape, wanted.shape)
    open_side = write(tmp_path / "d.onnx", taken=("n", 3, "h", "w"))
    np.testing.assert_allclose(read(open_side, side=SIDE).onnx.run(scaled), wanted, atol=1e-5)


def test_outputs_are_pooled_or_chosen(tmp_path: Path) -> None:
    images = np.random.default_rng(1).normal(size=(3, SIDE, SIDE, 3)).astype(np.float32)
    plain = read(write(tmp_path / "plain.onnx"))
    square = read(write(tmp_path / "square.onnx", form=(0, FEATURES, 1, 1)))
    np.testing.assert_allclose(square.onnx.run(images), plain.onnx.run(images), atol=1e-6)
    tokens = write(tmp_path / "tokens.onnx", form=(0, 5, FEATURES // 5))
    raw = onnx_files.raw(onnx_files.open_session(tokens), images, "nchw", "features", "tokens")
    for pool, wanted in (("first", raw[:, 0]), ("mean", raw.mean(axis=1))):
        found = read(tokens, pool=pool).onnx.run(images)
        np.testing.assert_allclose(
            found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-5
        )
    inner = read(tokens, output="product")
    np.testing.assert_allclose(inner.onnx.run(images), plain.onnx.run(images), atol=1e-6)
    named = read(write(tmp_path / "two.onnx", outputs=2), output="features")
    np.testing.assert_allclose(named.onnx.run(images), plain.onnx.run(images), atol=1e-6)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("form", "options", "message"),
    [
        ({}, {"mean": None}, r"how its pixels are scaled; give network_options mean and std.*CLIP"),
        ({}, {"mean": "a,b"}, "mean is 'a,b'; give a number, or 3 joined by commas"),
        ({}, {"std": "1,2"}, "std is '1,2'; give a number, or 3 joined by commas"),
        ({}, {"std": 0}, "std is .*; give numbers above 0"),
        ({}, {"side": 32}, "side is 32, and the file takes 16"),
        ({}, {"layout": "hwc"}, "layout is 'hwc'; choose one of nchw, nhwc"),
        ({}, {"pool": "max"}, "pool is 'max'; choose one of none, first, mean"),
        ({}, {"output": "logits"}, "holds no value 'logits'; its outputs are features"),
        ({"inputs": 2}, {}, r"takes 2 inputs \(pixels, more1\).*export its image part"),
        ({"outputs": 2}, {}, r"has 2 outputs; give network_options output, one of features"),
        ({"form": (0, 5, 6)}, {}, r"shape \(2, 5, 6\).*pool first or mean for tokens"),
        ({"form": (-1,)}, {}, r"features are real numbers \(n, d\); name another output"),
        ({"factor": np.nan}, {}, "not finite for 2 of 2 images; export it in float32"),
        ({"factor": np.inf}, {}, "not finite for 2 of 2 images"),
        ({"taken": ("n", 3, "h", "w")}, {}, "images of any size; give network_options side"),
        ({"taken": ("n", 3, "h", "w")}, {"side": 8}, "fails on images of 8 x 8 pixels"),
        ({"taken": ("n", "c", "h", "w")}, {"side": 8}, "give network_options layout"),
        ({"taken": ("n", 3, SIDE, 3)}, {}, "give network_options layout"),
        ({"taken": ("n", 3, SIDE, 8)}, {}, "takes squares of 1 or 3 channels"),
        ({"taken": ("n", 768)}, {}, "takes images, float32 of four axes"),
    ],
)
def test_what_is_no_backbone_is_refused(
    form: dict[str, Any], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        read(write(tmp_path / "odd.onnx", **form), **options)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("nothing of the kind")
    with pytest.raises(ValueError, match=r"text\.onnx cannot be read as an ONNX file"):
        read(tmp_path / "text.onnx")
    with pytest.raises(FileNotFoundError, match=r"none\.onnx: no such ONNX file"):
        read(tmp_path / "none.onnx")


def test_options_that_a_network_does_not_take_are_refused(file: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown network option 'sides' .did you mean side\?"):
        backbones.choose(Config(network=f"onnx:{file}", network_options={"sides": 8}))
    with pytest.raises(ValueError, match="network_options are for ONNX files"):
        backbones.choose(Config(network="efficientnet-lite0", network_options={"side": 8}))
    with pytest.raises(ValueError, match=r"network_options is for a head on features"):
        jaxhash.train("digits", None, network="dsh", network_options={"side": 8}, epochs=1)


def test_features_of_a_query_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    images = np.zeros((2, SIDE, SIDE, 3), np.float32)
    images[1] = np.nan
    with pytest.raises(ValueError, match="not finite for 1 of 2 images"):
        read(write(tmp_path / "a.onnx")).onnx.run(images)
