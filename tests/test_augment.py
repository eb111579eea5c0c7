"""Every step on every image by itself, against the same thing done slowly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxhash.preparation import prepare
from jaxhash.training.augment import STEPS, augment, steps, warp

N, SIDE = 64, 16

everyone = pytest.mark.parametrize("name", STEPS)


@pytest.fixture
def images(rng):
    """The same image N times: what differs afterwards is the draw."""
    image = rng.normal(size=(1, SIDE, SIDE, 3)).astype(np.float32)
    return np.repeat(image, N, axis=0)


@functools.cache
def run(policy):
    return jax.jit(lambda key, images: augment(key, images, policy))


@everyone
def test_step_keeps_shape_and_draws_for_each_image(name, images, key):
    start = key()
    varied = run(name)(start, images)
    assert varied.shape == images.shape
    assert varied.dtype == images.dtype
    assert np.isfinite(varied).all()
    np.testing.assert_array_equal(varied, run(name)(start, images))
    different = {image.tobytes() for image in np.asarray(varied)}
    assert len(different) >= min(2 if name == "flip" else 8, N)
    again = {image.tobytes() for image in np.asarray(run(name)(key(), images))}
    assert name in ("flip", "turn") or not different >= again


@everyone
@pytest.mark.parametrize("shape", [(3, 5, 5, 1), (1, 32, 32, 4)])
def test_step_takes_other_sizes_and_bfloat16(name, shape, key):
    images = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    varied = jax.eval_shape(lambda images: augment(jax.random.key(0), images, name), images)
    assert (varied.shape, varied.dtype) == (shape, jnp.bfloat16)


def test_crop_is_reflection_padding_and_a_window(images, key):
    pad = SIDE // 8
    padded = np.pad(images[0], ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    windows = {
        padded[y : y + SIDE, x : x + SIDE].tobytes(): (y, x)
        for y in range(2 * pad + 1)
        for x in range(2 * pad + 1)
    }
    seen = {windows[image.tobytes()] for image in np.asarray(run("crop")(key(), images))}
    assert len(seen) > 12  # of 25
    assert {y for y, _ in seen} == {x for _, x in seen} == set(range(2 * pad + 1))


def test_crop_of_oblong_images(rng, key):
    images = rng.normal(size=(8, 9, 24, 1)).astype(np.float32)
    for before, after in zip(images, np.asarray(run("crop")(key(), images)), strict=True):
        padded = np.pad(before, ((1, 1), (3, 3), (0, 0)), mode="reflect")
        windows = [padded[y : y + 9, x : x + 24] for y in range(3) for x in range(7)]
        assert any(np.array_equal(after, window) for window in windows)


def test_flip_mirrors_about_half(images, key):
    varied = np.asarray(run("flip")(key(), images))
    mirrored = [np.array_equal(image, images[0][:, ::-1]) for image in varied]
    same = [np.array_equal(image, images[0]) for image in varied]
    assert all(np.logical_xor(mirrored, same))
    assert N // 4 < sum(mirrored) < 3 * N // 4


def test_turn_gives_all_eight_symmetries(images, key):
    wanted = {
        np.rot90(flipped, turns).tobytes()
        for flipped in (images[0], images[0][:, ::-1])
        for turns in range(4)
    }
    seen = {
        np.ascontiguousarray(image).tobytes() for image in np.asarray(run("turn")(key(), images))
    }
    assert seen == wanted
    assert len(wanted) == 8


def test_turn_refuses_oblong_images(key):
    with pytest.raises(ValueError, match="square images, got 4 x 6"):
        augment(key(), jnp.zeros((1, 4, 6, 1)), "turn")


def test_cutout_blanks_one_square(images, key):
    side = SIDE // 4
    centres = set()
    for image in np.asarray(run("cutout")(key(), images)):
        blank = (image == 0).all(axis=-1)
        rows, columns = np.flatnonzero(blank.any(axis=1)), np.flatnonzero(blank.any(axis=0))
        # One block, whole or cut off by the border; nothing else is touched.
        assert blank.sum() == len(rows) * len(columns) > 0
        assert len(rows) <= side
        assert len(columns) <= side
        if rows[0] > 0 and rows[-1] < SIDE - 1:
            assert len(rows) == side
        np.testing.assert_array_equal(image[~blank], images[0][~blank])
        centres.add((rows[0], columns[0]))
    assert len(centres) > 30


@pytest.mark.parametrize("name", ["crop", "flip", "turn", "affine", "zoom"])
def test_geometry_leaves_a_flat_image_alone(name, key):
    flat = np.full((N, SIDE, SIDE, 3), 0.7, np.float32)
    np.testing.assert_allclose(run(name)(key(), flat), flat, rtol=1e-6)


@pytest.mark.parametrize("name", ["affine", "zoom"])
def test_warps_keep_the_middle_in_view(name, key):
    """A blob in the middle stays inside, and stays about as large."""
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    blob = np.exp(-(y**2 + x**2) / 4).astype(np.float32)
    many = np.broadcast_to(blob[None, :, :, None], (N, SIDE, SIDE, 3))
    varied = np.asarray(run(name)(key(), many))[..., 0]
    share = varied[:, 1:-1, 1:-1].sum(axis=(1, 2)) / varied.sum(axis=(1, 2))
    assert share.min() > 0.9
    # Areas: 0.85^2 to 1.15^2 for affine, 1 to 2 for zoom.
    assert (varied.sum(axis=(1, 2)) / blob.sum()).min() > 0.6
    assert (varied.sum(axis=(1, 2)) / blob.sum()).max() < 2.2


def test_warp_equals_scipy(rng):
    images = rng.normal(size=(5, 12, 9, 2)).astype(np.float32)
    matrices = (np.eye(2) + 0.3 * rng.normal(size=(5, 2, 2))).astype(np.float32)
    shifts = (0.1 * rng.normal(size=(5, 2))).astype(np.float32)
    sides, centre = np.array([12, 9]), np.array([5.5, 4.0])
    ours = jax.jit(warp)(images, matrices, shifts)
    for image, matrix, shift, mine in zip(images, matrices, shifts, ours, strict=True):
        # The same map, in pixels from the corner.
        pixels = matrix * sides[:, None] / sides[None]
        offset = centre + shift * sides - pixels @ centre
        for channel in range(2):
            wanted = ndimage.affine_transform(
                image[..., channel], pixels, offset, order=1, mode="nearest"
            )
            np.testing.assert_allclose(mine[..., channel], wanted, atol=1e-4)


def test_colour_varies_light_contrast_and_saturation_only(images, key):
    for image in np.asarray(run("colour")(key(), images)):
        grey, before = image.mean(axis=-1), images[0].mean(axis=-1)
        contrast = np.std(grey) / np.std(before)
        assert 0.79 < contrast < 1.21
        assert abs(grey.mean() - before.mean()) < 0.21
        np.testing.assert_allclose(
            grey - grey.mean(), contrast * (before - before.mean()), atol=1e-4
        )
        tint, tint_before = image - grey[..., None], images[0] - before[..., None]
        ratio = tint.std() / tint_before.std() / contrast
        assert 0.79 < ratio < 1.21
        np.testing.assert_allclose(tint, ratio * contrast * tint_before, atol=1e-4)


# ---- policies ---------------------------------------------------------------------------------


def test_policies_are_steps_in_order(images, key):
    start = key()
    varied = run("crop-flip")(start, images)
    cropped = jax.jit(STEPS["crop"])(jax.random.fold_in(start, 0), images)
    flipped = jax.jit(STEPS["flip"])(jax.random.fold_in(start, 1), cropped)
    np.testing.assert_array_equal(varied, flipped)
    assert augment(start, images, "none") is images


def test_unknown_steps_are_named(key):
    with pytest.raises(ValueError, match=r"'crop-blur', and 'blur' is no step.*crop, flip"):
        steps("crop-blur")
    with pytest.raises(ValueError, match="is no step"):
        steps("")
    with pytest.raises(ValueError, match="features cannot be varied"):
        augment(key(), jnp.zeros((2, 5)), "flip")


# ---- prepare ----------------------------------------------------------------------------------


def test_prepare_normalises_channels(rng):
    items = rng.integers(256, size=(3, 4, 5, 2), dtype=np.uint8)
    mean, std = np.array([0.4, 0.5]), np.array([0.2, 0.3])
    ours = prepare(items, mean, std)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, (items / 255 - mean) / std, rtol=1e-4, atol=1e-5)


def test_prepare_takes_features_as_they_are(rng):
    items = rng.normal(size=(3, 4)).astype(np.float16)
    ours = prepare(items, np.ones(4), np.full(4, 2.0))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, (items.astype(np.float32) - 1) / 2, rtol=1e-6)


@pytest.mark.parametrize("side", [4, 8, 16])
def test_prepare_resizes(side):
    """A ramp stays a ramp in the middle, and shrinking averages instead of skipping."""
    ramp = np.tile(np.arange(0, 256, 16, dtype=np.uint8)[None, None, :, None], (1, 16, 1, 1))
    ours = np.asarray(prepare(ramp, np.zeros(1), np.ones(1), side))[0, :, :, 0] * 255
    assert ours.shape == (side, side)
    wanted = ((np.arange(side) + 0.5) * 16 / side - 0.5) * 16
    np.testing.assert_allclose(ours[:, 1:-1], np.tile(wanted[1:-1], (side, 1)), atol=0.05)
    stripes = np.tile(np.array([0, 255], np.uint8)[None, None, :, None], (1, 16, 8, 1))
    halved = np.asarray(prepare(stripes, np.zeros(1), np.ones(1), 8))
    np.testing.assert_allclose(halved[:, :, 1:-1], 0.5, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 14), (14, 8), (9, 8)])
def test_prepare_cuts_the_middle_out_of_what_is_not_square(shape, rng):
    """As of files: a circle stays one, and what lies beyond the square is not seen."""
    items = rng.integers(256, size=(2, *shape, 3), dtype=np.uint8)
    top, left = ((side - 8) // 2 for side in shape)
    square = items[:, top : top + 8, left : left + 8]
    for size in (8, 5):
        ours = prepare(items, np.zeros(3), np.ones(3), size)
        np.testing.assert_array_equal(ours, prepare(square, np.zeros(3), np.ones(3), size))


def test_prepare_refuses():
    items = np.zeros((2, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"mean has shape \(1,\)"):
        prepare(items, np.zeros(1), np.ones(3))
    with pytest.raises(ValueError, match="size is 8"):
        prepare(np.zeros((2, 3), np.float32), np.zeros(3), np.ones(3), 8)
