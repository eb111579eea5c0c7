"""Depthwise layers by compiled vectors are what the slow sum makes of every place."""

import jax
import jax.numpy as jnp
import naive
import numpy as np
import pytest
from jax import lax

from jaxhash.nets.cpu import channelwise, depthwise, foreign

pytestmark = pytest.mark.skipif(not channelwise.available(), reason="numba does not compile here")

# Sides of one place, of fewer than a tile's, and of a tile and one more; sides shorter than the
# kernel; one vector of channels, and several, of which a large kernel takes one after the other.
SHAPES = [
    (2, 7, 7, 16),
    (1, 1, 1, 16),
    (3, 2, 9, 32),
    (1, 6, 12, 48),
    (1, 9, 5, 240),
    (0, 4, 4, 16),
]


def operands(rng, shape, side):
    images = 2 * rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(side, side, shape[3])).astype(np.float32)
    return images, kernel, rng.normal(size=shape[3]).astype(np.float32)


def wanted(images, kernel, bias, stride):
    return np.clip(naive.depthwise(images, kernel, stride) + bias, 0, 6)


@pytest.mark.parametrize(("side", "stride"), channelwise.KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_its_twin(rng, shape, side, stride):
    arrays = operands(rng, shape, side)
    found = jax.jit(lambda *arrays: channelwise.convolve(*arrays, stride))(*arrays)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted(*arrays, stride), atol=1e-4)


def test_threads_share_what_is_large_to_the_same_bits(rng):
    """A batch of many pieces is each of its images alone, in a loop as well."""
    images, kernel, bias = operands(rng, (12, 28, 29, 48), 5)
    assert images.size > 4 * foreign.PIECE > images[0].size
    whole = jax.jit(lambda images: channelwise.convolve(images, kernel, bias, 1))(images)
    alone = jax.jit(
        lambda images: lax.map(
            lambda image: channelwise.convolve(image[None], kernel, bias, 1)[0], images
        )
    )(images)
    np.testing.assert_array_equal(whole, alone)
    np.testing.assert_allclose(whole[:1], wanted(images[:1], kernel, bias, 1), atol=1e-4)


def test_what_is_no_number_stays_so(rng):
    images, kernel, bias = operands(rng, (1, 5, 5, 16), 3)
    images[0, 2, 2, :3] = np.nan, np.inf, -np.inf
    expected = depthwise.by_shifting(images, kernel, bias, 1)
    found = channelwise.convolve(images, kernel, bias, 1)
    assert np.isnan(expected).any()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_gradient_is_that_of_shifted_images(rng, monkeypatch):
    monkeypatch.setattr(foreign, "usable", lambda array: array.dtype == np.float32)
    arrays = operands(rng, (2, 6, 5, 32), 3)

    def run(way):
        value, pull = jax.vjp(lambda *arrays: way(*arrays, 2), *arrays)
        return value, *pull(jnp.cos(jnp.arange(value.size)).reshape(value.shape))

    for one, other in zip(run(depthwise.depthwise), run(depthwise.by_shifting), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "side", "dtype", "calls"),
    [
        ((1, 3, 4, 64), 3, np.float32, 1),
        ((1, 3, 4, 64), 3, np.float16, 0),  # another dtype
        ((1, 3, 4, 60), 3, np.float32, 0),  # no whole vectors
        ((1, 3, 4, 64), 7, np.float32, 0),  # a kernel that is not compiled
    ],
)
def test_what_is_not_known_goes_another_way(rng, monkeypatch, shape, side, dtype, calls):
    monkeypatch.setattr(foreign, "usable", lambda array: array.dtype == np.float32)
    arrays = [array.astype(dtype) for array in operands(rng, shape, side)]
    program = jax.jit(depthwise.depthwise).lower(*arrays).compile()
    assert program.as_text().count('custom_call_target="jaxhash_depthwise"') == calls
    tolerance = 1e-4 if dtype == np.float32 else 0.1
    np.testing.assert_allclose(program(*arrays), wanted(*arrays, 1), atol=tolerance)
