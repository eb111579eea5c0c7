import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxhash import nets
from jaxhash.nets import resnet
from jaxhash.nets.cpu.normalisation import EPSILON, NormaliseAndGelu, normalise_and_gelu
from jaxhash.nets.head import HashNetwork, Head


@pytest.mark.parametrize("name", ["resnet", "resnet-tiny"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3), (64, 64, 3), (33, 45, 4)])
def test_takes_small_images_of_any_size_and_channels(name, shape):
    module = nets.NETWORKS[name].build(bits=12, classes=7)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)

    def run(key, images):
        variables = module.init(key, images, train=False)
        return variables, nets.apply(module, variables, images, train=True)

    variables, (outputs, statistics) = jax.eval_shape(run, jax.random.key(0), images)
    assert outputs.features.shape == (2, module.trunk.widths[-1])
    assert outputs.latent.shape == (2, 12)
    assert outputs.logits.shape == (2, 7)
    assert jax.tree.structure(statistics) == jax.tree.structure(variables["batch_stats"])


def test_too_small_images_are_refused(key):
    module = nets.NETWORKS["resnet"].build(bits=8, classes=2)
    with pytest.raises(ValueError, match="at least 16 pixels"):
        nets.init(module, key(), (1, 8, 8, 3))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_stem_starts_as_a_basis_and_its_negative(channels):
    kernel = resnet.opponent_patches(channels).reshape(4 * channels, -1)
    basis, negative = np.split(kernel, 2, axis=1)
    np.testing.assert_allclose(basis.T @ basis, np.eye(4 * channels), atol=1e-6)
    np.testing.assert_array_equal(negative, -basis)


@pytest.mark.parametrize("shape", [(8, 8), (7, 9)])
def test_stem_of_stride_two_takes_every_second_pixel(shape, rng):
    images = jnp.asarray(rng.normal(size=(2, *shape, 3)), jnp.float32)
    full, half = resnet.Stem(), resnet.Stem(stride=2)
    variables = jax.jit(full.init)(jax.random.key(0), images)
    expected = jax.jit(full.apply)(variables, images)[:, ::2, ::2]
    got = jax.jit(half.apply)(variables, images)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def plain_normalise_and_gelu(x, scale, bias):
    """The same by automatic differentiation."""
    wide = x.reshape(-1, x.shape[-1])
    standard = (wide - wide.mean(0)[None]) / jnp.sqrt(wide.var(0) + EPSILON)[None]
    return jax.nn.gelu(standard * scale[None] + bias[None]).reshape(x.shape)


def test_normalisation_and_its_gradients(rng):
    x = rng.normal(2.0, 3.0, (4, 3, 5, 6)).astype(np.float32)
    x[..., 0] = 7.0  # a channel that never varies
    scale, bias = rng.normal(size=(2, 6)).astype(np.float32)
    slope = rng.normal(size=x.shape).astype(np.float32)

    @jax.jit
    def run(x, scale, bias):
        (y, mean, var), pull = jax.vjp(normalise_and_gelu, x, scale, bias)
        expected, expected_pull = jax.vjp(plain_normalise_and_gelu, x, scale, bias)
        gradients = pull((slope, jnp.zeros_like(mean), jnp.zeros_like(var)))
        return (y, *gradients), (expected, *expected_pull(slope)), mean, var

    got, expected, mean, var = run(x, scale, bias)
    np.testing.assert_allclose(mean, x.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(var, x.var((0, 1, 2)), rtol=1e-4, atol=1e-5)
    for a, b in zip(got, expected, strict=True):
        # The constant channel's own slope is 0 / 0 but for EPSILON: rounding, magnified.
        np.testing.assert_allclose(a[..., 1:], b[..., 1:], rtol=2e-3, atol=2e-4)
        assert np.isfinite(a).all()


def test_running_averages_serve_when_not_training(rng, key):
    layer = NormaliseAndGelu(momentum=0.5)
    x = jnp.asarray(rng.normal(3.0, 2.0, (64, 4)), jnp.float32)
    variables = layer.init(key(), x, train=True)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], np.zeros(4))
    for _ in range(20):
        trained, changed = layer.apply(variables, x, train=True, mutable=["batch_stats"])
        variables = {**variables, **changed}
    np.testing.assert_allclose(variables["batch_stats"]["mean"], x.mean(0), rtol=1e-4)
    np.testing.assert_allclose(variables["batch_stats"]["var"], x.var(0), rtol=1e-4)
    np.testing.assert_allclose(layer.apply(variables, x, train=False), trained, atol=1e-4)


def test_learns_to_tell_stripes_apart(rng, key):
    """Horizontal from vertical under noise in a few bfloat16 steps, also on images not seen."""
    labels = jnp.asarray(rng.integers(0, 2, 64))
    stripes = np.indices((16, 16)) // 2 % 2
    images = stripes[np.asarray(labels)][..., None] + rng.normal(0, 0.5, (64, 16, 16, 1))
    images = jnp.asarray(images, jnp.float32)
    module = HashNetwork(resnet.Trunk(widths=(8,), dtype=jnp.bfloat16), Head(8, 2), "resnet")
    variables = nets.init(module, key(), (1, 16, 16, 1))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    optimiser = optax.adam(0.02)

    def loss(params, statistics):
        variables = {"params": params, "batch_stats": statistics}
        outputs, statistics = nets.apply(module, variables, images[:32], train=True)
        return optax.softmax_cross_entropy_with_integer_labels(
            outputs.logits, labels[:32]
        ).mean(), statistics

    @jax.jit
    def step(state, _):
        params, statistics, moments = state
        (value, statistics), slopes = jax.value_and_grad(loss, has_aux=True)(params, statistics)
        updates, moments = optimiser.update(slopes, moments, params)
        return (optax.apply_updates(params, updates), statistics, moments), value

    params = variables["params"]
    state = params, variables["batch_stats"], optimiser.init(params)
    (params, statistics, _), losses = jax.lax.scan(step, state, length=40)
    evaluate = jax.jit(lambda v, x: nets.apply(module, v, x, train=False)[0])
    outputs = evaluate({"params": params, "batch_stats": statistics}, images[32:])
    assert losses[-1] < 0.2 < losses[0]
    assert (outputs.logits.argmax(1) == labels[32:]).mean() > 0.9
