"""Winograd's transforms by compiled vectors are what matrices make of every tile."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxhash.nets.cpu import convolution, foreign, tiles, transforms
from jaxhash.nets.cpu.winograd import IMAGE, KERNEL, OUTPUT, TILE

pytestmark = pytest.mark.skipif(not tiles.available(), reason="numba does not compile here")

# Of images: one tile and several, sides of less than a tile and of one pixel more; channels that
# fill vectors, and that do not.
SHAPES = [(2, 8, 4, 16), (3, 9, 5, 24), (1, 1, 3, 17), (2, 4, 7, 40), (0, 4, 4, 16)]
every_shape = pytest.mark.parametrize("shape", SHAPES)


def both_sides(matrix, entries):
    """The transform of tiles (p^2, ...) in float64."""
    p = matrix.shape[1]
    square = np.asarray(entries, np.float64).reshape(p, p, *entries.shape[1:])
    mixed = np.einsum("ai,bj,ij...->ab...", matrix, matrix, square)
    return mixed.reshape(len(matrix) ** 2, *entries.shape[1:])


def windows(images, edge):
    """What every tile sees with so many pixels more on each side: (side^2, rows, across, c)."""
    n, h, w, c = images.shape
    down, across = -(-h // TILE), -(-w // TILE)
    room = (edge, TILE + edge)
    padded = np.pad(images, ((0, 0), room, room, (0, 0)))
    side = TILE + 2 * edge
    seen = np.zeros((side, side, n, down, across, c))
    for row in range(down):
        for column in range(across):
            y, x = row * TILE, column * TILE
            window = padded[:, y : y + side, x : x + side]
            seen[:, :, :, row, column] = window.transpose(1, 2, 0, 3)
    return seen.reshape(side * side, n * down, across, c)


def put_back(entries, shape, edge):
    """The adjoint of `windows`: entries added up at their pixels."""
    n, h, w, c = shape
    _, rows, across, _ = entries.shape
    side, down = TILE + 2 * edge, rows // max(n, 1)
    total = np.zeros((n, down * TILE + 2 * edge, across * TILE + 2 * edge, c))
    square = entries.reshape(side, side, n, down, across, c)
    for row in range(down):
        for column in range(across):
            y, x = row * TILE, column * TILE
            window = square[:, :, :, row, column].transpose(2, 0, 1, 3)
            total[:, y : y + side, x : x + side] += window
    return total[:, edge : edge + h, edge : edge + w]


def planes_of(rng, shape, side):
    n, h, w, c = shape
    size = side * side, n * -(-h // TILE), -(-w // TILE), c
    return rng.normal(size=size).astype(np.float32)


def check(name, entries, expected):
    found = jax.jit(lambda entries: tiles.transformed(name, entries, expected.shape))(entries)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@every_shape
@pytest.mark.parametrize(("name", "matrix", "edge"), [("images", IMAGE, 1), ("slope", OUTPUT.T, 0)])
def test_images_become_planes(rng, shape, name, matrix, edge):
    images = rng.normal(size=shape).astype(np.float32)
    check(name, images, both_sides(matrix, windows(images, edge)))


@every_shape
@pytest.mark.parametrize(
    ("name", "matrix", "edge"), [("image_gradient", IMAGE.T, 1), ("output", OUTPUT, 0)]
)
def test_planes_become_images(rng, shape, name, matrix, edge):
    planes = planes_of(rng, shape, 6)
    check(name, planes, put_back(both_sides(matrix, planes), shape, edge))


@every_shape
@pytest.mark.parametrize(
    ("name", "matrix"),
    [
        ("output_tiles", OUTPUT),
        ("slope_tiles", OUTPUT.T),
        ("kernel", KERNEL),
        ("kernel_gradient", KERNEL.T),
    ],
)
def test_planes_become_planes(rng, shape, name, matrix):
    planes = planes_of(rng, shape, matrix.shape[1])
    check(name, planes, both_sides(matrix, planes))


def test_threads_share_what_is_large(rng):
    """More numbers than one piece has, asked for by several threads at once, many times."""
    images = rng.normal(size=(9, 33, 30, 48)).astype(np.float32)
    assert images.size > 8 * foreign.PIECE
    planes = windows(images, 1)
    back = put_back(both_sides(IMAGE.T, planes.astype(np.float32)), images.shape, 1)
    function = jax.jit(lambda planes: tiles.transformed("image_gradient", planes, images.shape))
    found = []

    def ask():
        found.extend(np.asarray(function(planes.astype(np.float32))) for _ in range(10))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    np.testing.assert_allclose(found[0], back, rtol=1e-4, atol=1e-3)
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])


@pytest.mark.parametrize(
    ("function", "library"),
    [
        (convolution.convolve, convolution.library_convolve),
        (convolution.convolve_and_pool, convolution.library_convolve_and_pool),
    ],
)
@pytest.mark.parametrize("shape", [(2, 9, 6, 16), (1, 4, 8, 24)])
def test_a_convolution_by_them_is_the_librarys(rng, monkeypatch, function, library, shape):
    images = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(3, 3, shape[3], 32)).astype(np.float32)

    def compiled(function):
        def run(images, kernel):
            value, pull = jax.vjp(function, images, kernel)
            return value, *pull(jnp.sin(jnp.arange(value.size)).reshape(value.shape))

        return jax.jit(run).lower(images, kernel).compile()

    monkeypatch.setattr(foreign, "usable", lambda array: array.dtype == np.float32)
    by_tiles = compiled(function)
    assert by_tiles.as_text().count('custom_call_target="jaxhash_tiles"') == 6
    expected = compiled(library)(images, kernel)
    for one, other in zip(by_tiles(images, kernel), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


def test_what_is_not_known_goes_another_way(monkeypatch):
    """Other dtypes, few channels, several devices, and a processor that is not the default."""
    image = jnp.zeros((1, 4, 4, 16))
    assert not tiles.know(image) or jax.device_count() == 1
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert tiles.know(image)
    assert not tiles.know(image.astype(jnp.bfloat16))
    assert not tiles.know(image[..., :15])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert not tiles.know(image)


def test_a_refusal_is_said_once_and_is_no_failure(monkeypatch, caplog):
    def refuse(*_, **__):
        raise RuntimeError("an unknown version")

    monkeypatch.setattr(jax.ffi, "register_ffi_target", refuse)
    for _ in range(2):
        assert not foreign.offered("jaxhash_refused", tiles.handle, [tiles.kernel])
    (said,) = caplog.messages
    assert "an unknown version" in said
    assert "slower" in said


def test_threads_that_begin_together_offer_once(monkeypatch):
    """Networks are first compiled by threads of a service, too."""
    given = []

    def register(name, *_, **__):
        time.sleep(0.05)
        given.append(name)

    monkeypatch.setattr(jax.ffi, "register_ffi_target", register)
    ask = partial(foreign.offered, "jaxhash_together", tiles.handle, [tiles.kernel])
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: ask(), range(8)))
    assert given == ["jaxhash_together"]


def test_a_number_that_is_not_one_spreads_no_further_than_its_tile(rng):
    images = np.zeros((1, 8, 8, 16), np.float32)
    images[0, 0, 0, 3] = np.nan
    planes = tiles.transformed("images", images, (36, 2, 2, 16))
    bad = np.isnan(planes).any(axis=0)
    assert bad[0, 0, 3]
    assert bad.sum() == 1


def test_the_transforms_of_both_ways_agree(rng, monkeypatch):
    """`transforms` hands over the right one, in the right shape."""
    monkeypatch.setattr(foreign, "usable", lambda array: array.dtype == np.float32)
    images = rng.normal(size=(2, 5, 7, 16)).astype(np.float32)
    products = rng.normal(size=(36, 2, 2, 2, 16)).astype(np.float32)
    cases = [
        (transforms.transform_images, images),
        (transforms.transform_slope, images),
        (transforms.transform_kernel, rng.normal(size=(3, 3, 5, 16)).astype(np.float32)),
        (transforms.kernel_gradient, rng.normal(size=(36, 5, 16)).astype(np.float32)),
        (transforms.output_tiles, products),
        (transforms.transform_slope_tiles, products[:16]),
        (lambda products: transforms.output_image(products, 5, 7), products),
        (lambda products: transforms.image_gradient(products, 5, 7), products),
    ]
    found = [function(entries) for function, entries in cases]
    monkeypatch.setattr(foreign, "usable", lambda array: False)
    for (function, entries), one in zip(cases, found, strict=True):
        np.testing.assert_allclose(one, function(entries), rtol=1e-4, atol=1e-4)
