"""Every network of the table keeps the contract, and each paper's layers do what it says."""

import functools
from functools import partial

import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest

from jaxhash import nets
from jaxhash.method import METHODS
from jaxhash.nets import NETWORKS, Outputs, alexnet, dsh, head

everyone = pytest.mark.parametrize("name", NETWORKS)
# The other two differ from the first in numbers alone, and are slow to trace.
TRUNKS = [name for name in NETWORKS if name not in ("efficientnet-lite1", "efficientnet-lite2")]
every_trunk = pytest.mark.parametrize("name", TRUNKS)


def shape_for(network, n=2, channels=3):
    """The smallest items a network takes."""
    if network.takes == "features":
        return (n, 20)
    return (n, network.min_size, network.min_size, channels)


@functools.cache
def start(module, shape):
    """Shapes of a network's variables: none of them depends on what the network does later."""
    return jax.eval_shape(lambda key: nets.init(module, key, shape), jax.random.key(0))


def shapes(module, shape, train=False):
    """Variables, Outputs and statistics of a network without computing anything."""
    variables = start(module, shape)

    def run(variables, key):
        return nets.apply(module, variables, jnp.zeros(shape), train=train, key=key)

    return variables, *jax.eval_shape(run, variables, jax.random.key(0))


@everyone
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_contract(name, train, dtype):
    network = NETWORKS[name]
    assert network.name == name
    assert network.source
    module = network.build(bits=13, classes=5, dtype=dtype)
    variables, outputs, statistics = shapes(module, shape_for(network), train)
    learned = {"head"} if name == "features" else {"trunk", "head"}
    assert set(variables["params"]) == learned
    assert variables["params"]["head"]["latent"]["kernel"].shape[1] == 13
    assert nets.classifier_kernel(variables["params"]).shape == (13, 5)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}
    assert isinstance(outputs, Outputs)
    assert outputs.features.shape[0] == 2
    assert outputs.features.ndim == 2
    assert outputs.latent.shape == (2, 13)
    assert outputs.logits.shape == (2, 5)
    assert {leaf.dtype for leaf in outputs} == {np.dtype(np.float32)}
    assert jax.tree.structure(statistics) == jax.tree.structure(variables.get("batch_stats", {}))


@every_trunk
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_channels_come_from_the_data(name, channels):
    network = NETWORKS[name]
    module = network.build(bits=1, classes=2)
    _, outputs, _ = shapes(module, shape_for(network, channels=channels))
    assert outputs.latent.shape == (2, 1)


HEADS = sorted({(method.activation, method.classifier) for method in METHODS.values()})


@every_trunk
@pytest.mark.parametrize(("activation", "classifier"), HEADS)
def test_any_head_goes_on_any_network(name, activation, classifier):
    """`HashNetwork` puts the head on what the trunk gives, which is traced once for all heads."""
    network = NETWORKS[name]
    trunk = start(network.build(bits=13, classes=5, dtype=jnp.float32), shape_for(network))
    width = trunk["params"]["head"]["latent"]["kernel"].shape[0]
    hidden = jax.ShapeDtypeStruct((2, width), np.float32)
    module = network.build(bits=1024, classes=3, activation=activation, classifier=classifier)
    run = partial(module.head.init_with_output, train=False)
    (latent, logits), variables = jax.eval_shape(run, jax.random.key(0), hidden)
    assert latent.shape == (2, 1024)
    kernel = nets.classifier_kernel({"head": variables["params"]})
    assert (logits is None) == (kernel is None) == (classifier == "none")


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_any_method_takes_what_networks_give(method):
    module = NETWORKS["mhcln"].build(
        bits=9, classes=3, activation=method.activation, classifier=method.classifier
    )
    variables, outputs, _ = shapes(module, (3, 20))
    kernel = nets.classifier_kernel(variables["params"])
    labels = jax.ShapeDtypeStruct((3,), jnp.int32)
    loss, _ = jax.eval_shape(partial(method.loss, classes=3), outputs, labels, kernel)
    assert loss.shape == ()


@pytest.mark.parametrize("name", [n for n in TRUNKS if NETWORKS[n].takes == "images"])
def test_items_that_do_not_fit_are_named(name):
    network = NETWORKS[name]
    module = network.build(bits=4, classes=2)
    with pytest.raises(ValueError, match=r"takes images.*mhcln"):
        shapes(module, (2, 20))
    small = network.min_size - 1
    with pytest.raises(ValueError, match=f"at least {network.min_size} pixels.*image_size"):
        shapes(module, (2, small, network.min_size, 3))
    if network.image_size is not None:
        assert network.image_size >= network.min_size


def test_features_network_refuses_images():
    with pytest.raises(ValueError, match="takes features"):
        shapes(NETWORKS["mhcln"].build(bits=4, classes=2), (2, 32, 32, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 0}, "bits is 0"),
        ({"classes": 0}, "classes is 0"),
        ({"activation": "relu"}, "activation is 'relu'; choose one of sigmoid, tanh, linear"),
        ({"classifier": "yes"}, "classifier is 'yes'"),
        ({"start": "zeros"}, "start is 'zeros'"),
    ],
)
def test_wrong_heads_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NETWORKS["dsh"].build(**{"bits": 8, "classes": 2, **options})


# ---- the head ---------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", [name for name in head.ACTIVATIONS if name != "normalised"])
def test_classifier_reads_the_latent_layer(activation, rng, key):
    module = head.Head(6, 3, activation, "bias")
    hidden = rng.normal(size=(5, 9)).astype(np.float32)
    variables = jax.jit(partial(module.init, train=False))(key(), hidden)
    latent, logits = jax.jit(partial(module.apply, train=True))(variables, hidden)
    params = jax.tree.map(np.asarray, variables["params"])
    wanted = hidden @ params["latent"]["kernel"] + params["latent"]["bias"]
    bounded = {"sigmoid": 1 / (1 + np.exp(-wanted)), "tanh": np.tanh(wanted)}
    wanted = bounded.get(activation, wanted)
    np.testing.assert_allclose(latent, wanted, rtol=1e-5, atol=1e-6)
    read = np.where(wanted > 0, 1, -1) if activation == "signs" else wanted
    above = read @ params["classifier"]["kernel"] + params["classifier"]["bias"]
    np.testing.assert_allclose(logits, above, rtol=1e-4, atol=1e-5)


def test_signs_hand_their_gradient_on():
    latent = jnp.array([-3e-8, 0.0, 0.7, -5.0])
    values, pull = jax.vjp(head.signs, latent)
    np.testing.assert_array_equal(values, [-1, -1, 1, -1])
    slopes = jnp.array([1.0, -2.0, 3.0, 4.0])
    np.testing.assert_array_equal(pull(slopes)[0], slopes)


def test_normalised_latent_over_a_trunk_without_statistics(rng, key):
    """Batch statistics in training, their running average otherwise; under any trunk."""
    module = NETWORKS["mhcln"].build(bits=6, classes=3, activation="normalised", classifier="none")
    items = rng.normal(size=(40, 9)).astype(np.float32)
    variables = nets.init(module, key(), (1, 9))
    layer = variables["batch_stats"]["head"]["normalisation"]
    assert {name: leaf.shape for name, leaf in layer.items()} == {"mean": (6,), "var": (6,)}
    assert set(variables["params"]["head"]) == {"latent"}

    @partial(jax.jit, static_argnames="train")
    def run(statistics, train):
        given = {"params": variables["params"], "batch_stats": statistics}
        outputs, statistics = nets.apply(module, given, items, train=train)
        return outputs.latent, statistics

    raw, same = run(variables["batch_stats"], train=False)  # mean 0 and variance 1 at the start
    assert jax.tree.all(jax.tree.map(np.array_equal, same, variables["batch_stats"]))
    latent, statistics = run(variables["batch_stats"], train=True)
    raw = np.asarray(raw, np.float64) * np.sqrt(1 + 1e-5)
    wanted = (raw - raw.mean(axis=0)) / np.sqrt(raw.var(axis=0) + 1e-5)
    np.testing.assert_allclose(latent, wanted, rtol=1e-3, atol=1e-4)
    for _ in range(100):
        statistics = run(statistics, train=True)[1]
    still, _ = run(statistics, train=False)
    np.testing.assert_allclose(still, wanted, rtol=2e-3, atol=1e-3)


def test_plain_classifier_has_no_bias(key):
    start = partial(head.Head(6, 3, "tanh", "plain").init, train=False)
    params = jax.eval_shape(start, key(), jnp.ones((1, 4)))["params"]
    assert set(params["classifier"]) == {"kernel"}


@pytest.mark.parametrize(
    ("start", "latent", "bias", "classifier"),
    [
        ("fan-in", 500**-0.5, 0, 400**-0.5),
        ("dlbhc", 0.005, 1, 0.01),
        ("ssdh", 0.01, 0, 0.2),
        ("xavier", 500**-0.5, 0, 400**-0.5),
        ("normal", 0.01, 0, 0.01),
        ("he", (2 / 500) ** 0.5, 0, (2 / 400) ** 0.5),
        ("he-average", (4 / 900) ** 0.5, 0, (4 / 700) ** 0.5),
        ("uniform", (3 * 500) ** -0.5, None, (3 * 400) ** -0.5),
    ],
)
def test_starts(start, latent, bias, classifier, key):
    """Deviations of the kernels, from 500 inputs over 400 bits to 300 classes, and the biases."""
    row = head.STARTS[start]
    assert float(row.latent(key(), (500, 400)).std()) == pytest.approx(latent, rel=0.02)
    assert float(row.classifier(key(), (400, 300)).std()) == pytest.approx(classifier, rel=0.02)
    biases = np.asarray(row.bias(500)(key(), (400,)))
    if bias is not None:
        assert (biases == bias).all()
    else:
        assert np.abs(biases).max() <= 500**-0.5
        assert biases.std() == pytest.approx((3 * 500) ** -0.5, rel=0.1)


def test_a_head_starts_as_it_is_told(key):
    start = partial(head.Head(400, 300, start="dlbhc").init, train=False)
    params = jax.tree.map(np.asarray, jax.jit(start)(key(), jnp.ones((1, 500)))["params"])
    assert params["latent"]["kernel"].std() == pytest.approx(0.005, rel=0.02)
    assert (params["latent"]["bias"] == 1).all()
    assert params["classifier"]["kernel"].std() == pytest.approx(0.01, rel=0.02)
    assert not params["classifier"]["bias"].any()


@pytest.mark.parametrize(
    ("name", "shape", "variances"),
    [
        # Caffe's xavier counts the inputs of a kernel alone.
        ("dsh", (1, 32, 32, 3), {"conv1": 1 / 75, "conv2": 1 / 800, "fc500": 1 / 1024}),
        ("mhcln", (1, 2048), {"fc1024": 4 / 3072, "fc512": 4 / 1536}),
    ],
)
def test_trunks_start_as_released(name, shape, variances, key):
    module = NETWORKS[name].build(bits=4, classes=2)
    params = nets.init(module, key(), shape)["params"]["trunk"]
    for layer, variance in variances.items():
        kernel = np.asarray(params[layer]["kernel"])
        assert kernel.var() == pytest.approx(variance, rel=0.1)
        assert np.abs(kernel).max() <= (3 * variance) ** 0.5 + 1e-6  # uniform


# ---- DSH --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 2, 3, 8, 9])
def test_dsh_pooling_rounds_up(side, rng):
    image = rng.normal(size=(side, side)).astype(np.float32)
    average = jax.jit(dsh.pool_average)(image[None, :, :, None])[0, :, :, 0]
    np.testing.assert_allclose(average, naive.pool_rounding_up(image, "mean"), atol=1e-6)
    largest = jax.jit(dsh.pool_largest)(image[None, :, :, None])[0, :, :, 0]
    np.testing.assert_allclose(largest, naive.pool_rounding_up(image, "max"))


@pytest.mark.parametrize("size", [(3, 8), (9, 1)])
def test_dsh_pooling_has_the_librarys_gradient(size, rng):
    """Distinct pixels, so that the largest of a window is one of them."""
    images = rng.permutation(2 * size[0] * size[1] * 3).reshape(2, *size, 3).astype(np.float32)
    windows = (1, 3, 3, 1), (1, 2, 2, 1), [(0, 0), *(dsh.ceil_pad(n, 3, 2) for n in size), (0, 0)]

    def largest(images):
        return jax.lax.reduce_window(images, -jnp.inf, jax.lax.max, *windows)

    def average(images):
        sums = [
            jax.lax.reduce_window(x, 0.0, jax.lax.add, *windows) for x in (images, images * 0 + 1)
        ]
        return sums[0] / sums[1]

    for ours, library in ((dsh.pool_largest, largest), (dsh.pool_average, average)):
        slope = rng.normal(size=jax.eval_shape(library, images).shape).astype(np.float32)

        @jax.jit
        def both(images, slope, pair=(ours, library)):
            pulled = [jax.vjp(function, images) for function in pair]
            return [(value, pull(slope)[0]) for value, pull in pulled]

        for a, b in zip(*both(images, slope), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, jnp.float32), (3, jnp.bfloat16), (5, jnp.float32)]
)
def test_dsh_convolution_is_the_librarys(channels, dtype, rng):
    images = jnp.asarray(rng.normal(size=(2, 5, 7, channels)), dtype)
    kernel = jnp.asarray(rng.normal(size=(5, 5, channels, 2)), dtype)
    run = {"window_strides": (1, 1), "padding": "SAME"}
    run |= {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}

    def value_and_pulled(convolve):
        value, pull = jax.vjp(partial(convolve, **run), images, kernel)
        return value, *pull(value)

    got = jax.jit(lambda: value_and_pulled(dsh.convolve_in_fours))()
    wanted = jax.jit(lambda: value_and_pulled(jax.lax.conv_general_dilated))()
    loose = 1e-5 if dtype == jnp.float32 else 2e-2
    for a, b in zip(got, wanted, strict=True):
        assert a.dtype == b.dtype == dtype
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=loose, atol=loose * np.abs(b).max())


def test_dsh_layers():
    """32 x 32 images end as 4 x 4 x 64 under fc500."""
    variables, outputs, _ = shapes(NETWORKS["dsh"].build(bits=8, classes=2), (1, 32, 32, 3))
    trunk = variables["params"]["trunk"]
    assert trunk["conv1"]["kernel"].shape == (5, 5, 3, 32)
    assert trunk["conv2"]["kernel"].shape == (5, 5, 32, 32)
    assert trunk["conv3"]["kernel"].shape == (5, 5, 32, 64)
    assert trunk["fc500"]["kernel"].shape == (4 * 4 * 64, 500)
    assert outputs.features.shape == (1, 500)


def test_responses_are_normalised(rng):
    image = 30 * rng.normal(size=(5, 7)).astype(np.float32)
    ours = dsh.normalise_within_channel(image[None, :, :, None], 5e-2, 0.75)[0, :, :, 0]
    np.testing.assert_allclose(ours, naive.normalise_within_channel(image, 5e-2, 0.75), rtol=1e-5)
    pixel = 300 * rng.normal(size=9).astype(np.float32)
    ours = alexnet.normalise_across_channels(pixel[None, None, None])[0, 0, 0]
    np.testing.assert_allclose(ours, naive.normalise_across_channels(pixel), rtol=1e-5)


def test_dsh_runs_and_repeats(rng, key):
    module = NETWORKS["dsh"].build(bits=8, classes=2, activation="linear", classifier="none")
    images = rng.normal(size=(3, 9, 11, 1)).astype(np.float32)
    start = key()
    variables = nets.init(module, start, images.shape)
    again = nets.init(module, start, (1, *images.shape[1:]))
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, again))
    run = jax.jit(lambda images: nets.apply(module, variables, images, train=False)[0])
    outputs = run(images)
    # One image's outputs do not depend on its neighbours in the batch.
    np.testing.assert_allclose(outputs.latent[1:2], run(images[1:2]).latent, rtol=1e-4, atol=1e-5)
    half = NETWORKS["dsh"].build(
        bits=8, classes=2, activation="linear", classifier="none", dtype=jnp.bfloat16
    )
    coarse = jax.jit(lambda images: nets.apply(half, variables, images, train=False)[0])(images)
    assert np.abs(coarse.latent - outputs.latent).max() < 0.1 * np.abs(outputs.latent).max()


# ---- AlexNet ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (6, 6), (7, 13), (12, 2)])
def test_pool_to_any_size(size, rng):
    image = rng.normal(size=size).astype(np.float32)
    ours = alexnet.pool_to(image[None, :, :, None], 6)[0, :, :, 0]
    np.testing.assert_allclose(ours, naive.pool_to(image, 6), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        (
            "alexnet",
            [
                (11, 11, 3, 64),
                (5, 5, 64, 192),
                (3, 3, 192, 384),
                (3, 3, 384, 256),
                (3, 3, 256, 256),
            ],
        ),
        (
            "caffenet",
            [
                (11, 11, 3, 96),
                (5, 5, 48, 256),
                (3, 3, 256, 384),
                (3, 3, 192, 384),
                (3, 3, 192, 256),
            ],
        ),
    ],
)
def test_alexnet_layers(name, kernels):
    network = NETWORKS[name]
    size = network.image_size
    variables, outputs, _ = shapes(network.build(bits=8, classes=2), (1, size, size, 3))
    trunk = variables["params"]["trunk"]
    assert [trunk[f"conv{i}"]["kernel"].shape for i in range(1, 6)] == kernels
    assert trunk["fc6"]["kernel"].shape == (6 * 6 * 256, 4096)
    assert outputs.features.shape == (1, 4096)


def test_alexnet_reaches_six_by_six_at_its_own_size(monkeypatch):
    """At the sizes they are meant for, neither network has anything left to pool."""
    seen = []
    monkeypatch.setattr(
        alexnet, "pool_to", lambda x, side: seen.append(x.shape[1:3]) or jnp.zeros((1, 6, 6, 256))
    )
    for name in ("alexnet", "caffenet"):
        size = NETWORKS[name].image_size
        shapes(NETWORKS[name].build(bits=8, classes=2), (1, size, size, 3))
    assert set(seen) == {(6, 6)}


def test_dropout_is_between_features_and_latent(rng, key):
    """fc7 itself is what re-ranking compares; training drops some of what the latent layer sees."""
    trunk = alexnet.Trunk(widths=(4,) * 5, units=64)
    module = head.HashNetwork(trunk, head.Head(8, 2), "tiny", min_size=63)
    images = rng.normal(size=(2, 63, 63, 1)).astype(np.float32)
    # Any weights will do, and drawing them here spares compiling the start.
    variables = jax.tree.map(
        lambda leaf: (0.1 * rng.normal(size=leaf.shape)).astype(np.float32),
        shapes(module, images.shape)[0],
    )

    @jax.jit
    def train(key):
        (features, below), _ = trunk.apply(
            {"params": variables["params"]["trunk"]},
            images,
            train=True,
            rngs={"dropout": key},
            mutable=["batch_stats"],
        )
        return features, below

    draws = [jax.tree.map(np.asarray, train(key())) for _ in range(2)]
    for features, below in draws:
        kept = below != 0
        np.testing.assert_allclose(below[kept], 2 * features[kept], rtol=1e-6)
    assert not np.array_equal(draws[0][1], draws[1][1])

    @jax.jit
    def still(key):
        return nets.apply(module, variables, images, train=False, key=key)[0]

    np.testing.assert_array_equal(still(key()).latent, still(key()).latent)


def test_mhcln_passes_features_through(rng, key):
    module = NETWORKS["mhcln"].build(bits=8, classes=2, classifier="none")
    features = rng.normal(size=(3, 5)).astype(np.float32)
    variables = nets.init(module, key(), features.shape)
    outputs = jax.jit(lambda x: nets.apply(module, variables, x, train=True)[0])(features)
    np.testing.assert_array_equal(outputs.features, features)
    params = jax.tree.map(np.asarray, variables["params"])
    hidden = features
    for layer in ("fc1024", "fc512"):
        hidden = hidden @ params["trunk"][layer]["kernel"] + params["trunk"][layer]["bias"]
        hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    wanted = hidden @ params["head"]["latent"]["kernel"] + params["head"]["latent"]["bias"]
    np.testing.assert_allclose(outputs.latent, 1 / (1 + np.exp(-wanted)), rtol=1e-4)
