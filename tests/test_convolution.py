import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest
from jax import export, lax

from jaxhash.nets.cpu.convolution import convolve, convolve_and_pool

# Sides that are one tile, several, less than one, and one pixel more or less than a tile or a pair.
SHAPES = [(2, 8, 4, 3, 5), (3, 5, 7, 4, 2), (2, 2, 9, 2, 1)]


def library_convolve(images, kernel):
    return lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def library_convolve_and_pool(images, kernel):
    full = library_convolve(images, kernel)
    return lax.reduce_window(full, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


PAIRS = [(convolve, library_convolve), (convolve_and_pool, library_convolve_and_pool)]


def arrays(rng, n, h, w, c, out):
    images = rng.normal(size=(n, h, w, c)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, c, out)).astype(np.float32)
    return images, kernel


def value_and_gradients(function, images, kernel, slope):
    def run(images, kernel, slope):
        value, pull = jax.vjp(function, images, kernel)
        return value, *pull(slope)

    return jax.jit(run)(images, kernel, slope)


@pytest.mark.parametrize("shape", [SHAPES[1], (2, 1, 1, 2, 2)])
def test_value_is_the_naive_one(rng, shape):
    images, kernel = arrays(rng, *shape)
    expected = naive.convolve(images, kernel)
    np.testing.assert_allclose(jax.jit(convolve)(images, kernel), expected, rtol=1e-4, atol=1e-4)
    if min(shape[1:3]) >= 2:
        pooled = jax.jit(convolve_and_pool)(images, kernel)
        np.testing.assert_allclose(pooled, naive.max_pool(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("ours", "library"), PAIRS)
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradients_are_the_librarys(rng, ours, library, shape):
    images, kernel = arrays(rng, *shape)
    slope = rng.normal(size=jax.eval_shape(library, images, kernel).shape).astype(np.float32)
    got = value_and_gradients(ours, images, kernel, slope)
    expected = value_and_gradients(library, images, kernel, slope)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == b.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5 * float(jnp.abs(b).max()))


def test_bfloat16_is_rounded_once(rng):
    images, kernel = (jnp.asarray(x, jnp.bfloat16) for x in arrays(rng, 2, 8, 8, 16, 4))
    slope = jnp.asarray(rng.normal(size=(2, 8, 8, 4)), jnp.bfloat16)
    got = value_and_gradients(convolve, images, kernel, slope)
    wide = (x.astype(jnp.float32) for x in (images, kernel, slope))
    exact = value_and_gradients(library_convolve, *wide)
    for a, b in zip(got, exact, strict=True):
        assert a.dtype == jnp.bfloat16
        # Half a step of eight bits, and the last digits of the float32 sums.
        error = np.abs(a.astype(np.float32) - b)
        assert (error <= 2**-8 * np.abs(b) + 1e-4).all()


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_a_tie_sends_the_gradient_to_the_first(value):
    """Equal maxima everywhere: a flat image under a kernel that copies it."""
    images = jnp.full((1, 6, 4, 1), value)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    slope = value_and_gradients(convolve_and_pool, images, kernel, jnp.ones((1, 3, 2, 1)))[1]
    expected = np.zeros((6, 4))
    expected[::2, ::2] = 1
    np.testing.assert_allclose(slope[0, :, :, 0], expected, atol=1e-6)


def test_sharded_batch_gives_the_same(rng):
    images, kernel = arrays(rng, 16, 8, 8, 3, 4)
    slope = rng.normal(size=(16, 4, 4, 4)).astype(np.float32)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    alone = value_and_gradients(convolve_and_pool, images, kernel, slope)
    placed = jax.device_put((images, slope), split)
    shared = value_and_gradients(convolve_and_pool, placed[0], kernel, placed[1])
    assert shared[1].sharding.is_equivalent_to(split, 4)
    for a, b in zip(alone, shared, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("platform", "convolutions"), [("cpu", 0), ("cuda", 3), ("tpu", 3)])
def test_only_cpu_leaves_the_librarys_convolution(platform, convolutions):
    """Lowered for a GPU or TPU: the forward pass and two gradients, and none of our tiles."""

    def run(images, kernel):
        value, pull = jax.vjp(convolve_and_pool, images, kernel)
        return value, *pull(value)

    shapes = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 4))
    text = export.export(jax.jit(run), platforms=[platform])(*shapes).mlir_module()
    assert text.count("stablehlo.convolution") == convolutions
    assert ("dot_general" in text) == (convolutions == 0)


@pytest.mark.parametrize(
    ("images", "kernel", "message"),
    [
        ((8, 8, 3), (3, 3, 3, 4), "must be"),
        ((1, 8, 8, 3), (5, 5, 3, 4), "must be"),
        ((1, 8, 8, 3), (3, 3, 2, 4), "must be"),
    ],
)
def test_wrong_shapes_are_named(images, kernel, message):
    for function in (convolve, convolve_and_pool):
        with pytest.raises(ValueError, match=message):
            function(jnp.zeros(images), jnp.zeros(kernel))


def test_mixed_dtypes_and_too_small_images_are_refused():
    with pytest.raises(ValueError, match="bfloat16 and kernel is float32"):
        convolve(jnp.zeros((1, 8, 8, 3), jnp.bfloat16), jnp.zeros((3, 3, 3, 4)))
    with pytest.raises(ValueError, match="no 2 x 2 window"):
        convolve_and_pool(jnp.zeros((1, 1, 8, 3)), jnp.zeros((3, 3, 3, 4)))
