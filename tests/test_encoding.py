"""Encoding: the right bits, in any batch, from any source, into arrays and files."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_runs import small_model

from jaxhash import encoding, models, nets, preparation, programs, retrieval
from jaxhash.data import Dataset, Undecodable
from jaxhash.encoding import batches, encode, encode_to_index
from jaxhash.programs import pack_bits
from jaxhash.spec import ModelSpec
from jaxhash.views import views
from search import HashIndex, pack


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([0, 3]), st.sampled_from([1, 7, 8, 9, 64, 70]), st.integers(0, 99))
def test_bits_are_packed_as_the_search_packs_them(n: int, b: int, seed: int) -> None:
    bits = np.random.default_rng(seed).random((n, b)) < 0.5
    codes = np.asarray(pack_bits(jnp.asarray(bits)))
    assert codes.dtype == np.uint8
    np.testing.assert_array_equal(codes, pack(bits.astype(np.uint8)))


def by_hand(model: models.Model, items: np.ndarray) -> encoding.Encoded:
    outputs, _ = nets.apply(model.spec.build(), model.variables, jnp.asarray(items), train=False)
    latent = np.asarray(outputs.latent)
    codes = pack((latent > model.spec.threshold).astype(np.uint8))
    return encoding.Encoded(codes, np.asarray(outputs.features), latent, np.asarray(outputs.logits))


@pytest.mark.parametrize("batch_size", [1, 8, 24, 100])
def test_any_batch_size_gives_what_the_network_gives(batch_size: int) -> None:
    model = small_model()
    items = np.random.default_rng(0).normal(size=(37, 6)).astype(np.float32)
    expected = by_hand(model, items)
    got = encode(model, items, batch_size=batch_size, features="float32")
    np.testing.assert_allclose(got.latent, expected.latent, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.features, expected.features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.logits, expected.logits, rtol=1e-4, atol=1e-5)
    # Bits of latents that rounding could move to the other side are left out of account.
    sure = np.abs(expected.latent - model.spec.threshold) > 1e-5
    ours, theirs = (
        np.unpackbits(c, axis=1)[:, : model.spec.bits] for c in (got.codes, expected.codes)
    )
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(ours[sure], theirs[sure])
    assert (np.unpackbits(got.codes, axis=1)[:, model.spec.bits :] == 0).all()


def test_fewer_items_than_a_batch_are_filled_up_to_a_power_of_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    compiled = programs.whole

    def counted(*what):
        step = compiled(*what)

        def call(variables, part):
            sizes.append(len(part))
            return step(variables, part)

        return call

    monkeypatch.setattr(programs, "whole", counted)
    model = small_model()
    items = np.zeros((300, 6), np.float32)
    for count in (1, 5, 300):
        encode(model, items[:count], devices=jax.devices()[:1])
    encode(model, items[:5], batch_size=7, devices=jax.devices()[:1])
    assert sizes == [1, 8, 256, 256, 7]


def test_features_beyond_half_floats_are_named_where_they_arise() -> None:
    model = small_model()  # its features are the items
    items = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    items[3, 2] = 70_000
    with pytest.raises(
        ValueError, match="item 3 are not finite as float16; float16 ends at 65,504"
    ):
        encode(model, items, batch_size=2)
    assert np.isfinite(encode(model, items, features="float32").features).all()


def test_a_latent_at_the_threshold_is_a_zero_bit() -> None:
    model = small_model()
    params = model.variables["params"]
    params["head"]["latent"] = {
        "kernel": np.zeros_like(params["head"]["latent"]["kernel"]),
        "bias": np.array([0.0, 1e-3, -1e-3] + [0.0] * 8, np.float32),
    }
    codes = encode(model, np.ones((3, 6), np.float32)).codes
    # sigmoid(0) is exactly the threshold of 0.5.
    assert codes.tolist() == [[0b01000000, 0]] * 3


def test_rows_choose_and_keep_leaves_out() -> None:
    model = small_model()
    items = np.random.default_rng(1).normal(size=(20, 6)).astype(np.float32)
    whole = encode(model, items)
    rows = np.array([3, 7, 19])
    part = encode(model, items, rows=rows, keep=("codes", "features"))
    np.testing.assert_array_equal(part.codes, whole.codes[rows])
    assert part.latent is None
    assert part.logits is None
    assert part.features.dtype == np.float16
    for bad, message in (
        ({"features": "int8"}, "float16, float32"),
        ({"batch_size": 0}, "at least 1"),
        ({"keep": ("bits",)}, "choose among codes"),
    ):
        with pytest.raises(ValueError, match=message):
            encode(model, items, **bad)
    with pytest.raises(ValueError, match="no items"):
        encode(model, items[:0])
    with pytest.raises(ValueError, match="features of 6 numbers, and got 5"):
        encode(model, items[:, :5])
    with pytest.raises(ValueError, match="takes features of shape"):
        encode(model, np.zeros((2, 8, 8, 1), np.uint8))


def test_one_compilation_serves_all_batches_and_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    traces = []
    prepare = ModelSpec.prepare
    monkeypatch.setattr(
        ModelSpec, "prepare", lambda self, items: (traces.append(1), prepare(self, items))[1]
    )
    programs.whole.cache_clear()
    items = np.random.default_rng(6).normal(size=(21, 6)).astype(np.float32)
    codes = [encode(small_model(seed), items, batch_size=8).codes for seed in (0, 1)]
    assert len(traces) == 1
    assert not np.array_equal(*codes)


def test_items_are_read_a_batch_at_a_time() -> None:
    asked = []

    class Lazy:
        shape, dtype = (1000, 6), np.dtype(np.float32)

        def __len__(self) -> int:
            return 1000

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            asked.append(len(rows))
            return np.repeat(np.asarray(rows, np.float32)[:, None] / 1000, 6, axis=1)

    model = small_model()
    parts = batches(model, Lazy(), batch_size=16)
    first_rows, first = next(parts)
    assert first_rows.tolist() == list(range(16))
    assert len(first.codes) == 16
    assert len(asked) <= 6  # what is read ahead is bounded
    parts.close()
    assert max(asked) == 16


def test_grey_and_colour_meet(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
    colour = np.repeat(grey, 3, axis=-1)
    for channels in (1, 3):
        for images in (grey, colour):
            got = np.asarray(preparation.with_channels(jnp.asarray(images), channels))
            np.testing.assert_array_equal(got, grey if channels == 1 else colour)
    luma = np.asarray(preparation.with_channels(jnp.array([[[[255, 0, 0]]]], jnp.uint8), 1))
    assert luma.item() == 76
    with pytest.raises(ValueError, match="images of 3 channels, and got 4"):
        preparation.with_channels(jnp.zeros((1, 2, 2, 4), jnp.uint8), 3)


def test_an_image_and_its_mirror_image_share_a_code() -> None:
    model = small_model(
        network="dsh", item_shape=(8, 8, 3), mean=(0.5,) * 3, std=(0.2,) * 3, bits=24, mirror=True
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    options = {"features": "float32"}
    both = encode(model, images, **options)
    plain = models.Model(dataclasses.replace(model.spec, mirror=False), model.variables)
    straight, turned = (encode(plain, one, **options) for one in (images, images[:, :, ::-1]))
    for name in ("features", "latent", "logits"):
        mean = (getattr(straight, name) + getattr(turned, name)) / 2
        np.testing.assert_allclose(getattr(both, name), mean, rtol=1e-4, atol=1e-5)
    assert (straight.codes != turned.codes).any()
    np.testing.assert_array_equal(encode(model, images[:, :, ::-1]).codes, both.codes)


@pytest.mark.parametrize(("height", "step"), [(8, 1), (32, 1), (70, 2)])
def test_shifted_views_weigh_half_of_the_image_itself(height: int, step: int) -> None:
    images = np.random.default_rng(0).normal(size=(3, height, 9, 2)).astype(np.float32)
    rows = np.arange(height)
    wanted = images / 2
    for way in (1, -1):
        moved = images[:, np.clip(rows + way * step, 0, height - 1)]
        moved = moved[:, :, np.clip(np.arange(9) + way, 0, 8)]
        wanted = wanted + moved / 4
    seen = views(jnp.asarray(images), shift=True)
    total = sum(weight * np.asarray(one) for weight, one in seen)
    np.testing.assert_allclose(total, wanted, rtol=1e-5, atol=1e-6)
    turned = views(jnp.asarray(images), shift=True, mirror=True)
    assert len(turned) == 6
    total = sum(weight * np.asarray(one) for weight, one in turned)
    np.testing.assert_allclose(total, (wanted + wanted[:, :, ::-1]) / 2, rtol=1e-5, atol=1e-6)


def test_a_shifting_model_encodes_the_mean_of_its_views() -> None:
    model = small_model(
        network="dsh", item_shape=(8, 8, 3), mean=(0.5,) * 3, std=(0.2,) * 3, bits=24, shift=True
    )
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3)).astype(np.uint8)
    plain = models.Model(dataclasses.replace(model.spec, shift=False), model.variables)
    wanted = 0.0
    for weight, rows in ((0.5, np.arange(8)), (0.25, np.r_[1:8, 7]), (0.25, np.r_[0, 0:7])):
        latent = encode(plain, images[:, rows][:, :, rows], features="float32").latent
        wanted = wanted + weight * latent
    got = encode(model, images, features="float32").latent
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- into files, and asking


def test_an_index_holds_what_the_arrays_hold(tmp_path: Path) -> None:
    model = small_model()
    items = np.random.default_rng(2).normal(size=(45, 6)).astype(np.float32)
    done = []
    path = tmp_path / "blobs.index"
    skipped = encode_to_index(model, items, path, batch_size=16, on_batch=done.append)
    assert skipped == []
    assert done == [16, 16, 13]
    index = HashIndex.open(path)
    encoded = encode(model, items)
    assert len(index) == 45
    distances, ids = index.search(encoded.codes, 1)
    assert (distances == 0).all()
    np.testing.assert_array_equal(encoded.codes[ids[:, 0]], encoded.codes)
    found = retrieval.query(model, index, items[:5], 3, pool=45)
    assert found.ids[:, 0].tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(found.distances[:, 0], 0, atol=0.02)
    # Codes alone keep no features to compare.
    encode_to_index(model, items, path, features=None)
    with pytest.raises(ValueError, match="features"):
        retrieval.query(model, HashIndex.open(path), items[:5], 3, pool=45)
    assert retrieval.query(model, HashIndex.open(path), items[:5], 3).distances.dtype == np.int32


def test_a_failed_encoding_leaves_the_old_index(tmp_path: Path) -> None:
    model = small_model()
    path = tmp_path / "old.index"
    encode_to_index(model, np.zeros((3, 6), np.float32), path)
    before = path.read_bytes()

    class Failing:
        shape, dtype = (64, 6), np.dtype(np.float32)

        def __len__(self) -> int:
            return 64

        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            if rows[0] >= 32:
                raise OSError("disk gone")
            return np.zeros((len(rows), 6), np.float32)

    with pytest.raises(OSError, match="disk gone"):
        encode_to_index(model, Failing(), path, batch_size=16)
    with pytest.raises(ValueError, match="no items"):
        encode_to_index(model, np.zeros((0, 6), np.float32), path)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["old.index"]


def image_model() -> models.Model:
    return small_model(
        network="dsh", item_shape=(8, 8, 1), mean=(0.5,), std=(0.25,), classifier="none"
    )


def test_undecodable_images_are_left_out_and_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(12):
        pixels = rng.integers(0, 256, (20, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(photos / f"{number:02d}.png")
    whole = (photos / "05.png").read_bytes()
    (photos / "05.png").write_bytes(whole[: len(whole) // 2])  # its header is whole
    model = image_model()
    dataset = retrieval.load_items(str(photos), model)
    path = tmp_path / "photos.index"
    kept = retrieval.attachments(model, dataset, str(photos))
    skipped = encode_to_index(model, dataset.items, path, batch_size=8, attachments=kept)
    assert [row for row, _ in skipped] == [5]
    index = HashIndex.open(path)
    assert index.ids.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    items = retrieval.ItemRecords(index)
    assert items.titles([6]) == [str(photos / "06.png")]
    assert items.class_names([6]) == [None]
    assert items.pictures([6, 11], size=16)[1].shape == (16, 16, 3)
    # Without being told what to do about them, such images end the encoding.
    with pytest.raises(Undecodable, match=r"05\.png"):
        encode(model, dataset.items)
    found = retrieval.query(model, index, dataset.items[np.array([7])], 2, pool=11)
    assert found.ids[0, 0] == 7


def test_an_index_of_another_model_is_refused(tmp_path: Path) -> None:
    model, other = small_model(), small_model(seed=1)
    dataset = Dataset(
        "blobs",
        "features",
        np.eye(6, dtype=np.float32),
        np.array([0, 1, 0, 1, 0, 1], np.int32),
        {"all": np.arange(6)},
        ("cat", "dog"),
    )
    kept = retrieval.attachments(model, dataset, "blobs.npz")
    path = tmp_path / "blobs.index"
    encode_to_index(model, dataset.items, path, attachments=kept)
    index = HashIndex.open(path)
    with pytest.raises(ValueError, match="made by another model"):
        retrieval.query(other, index, dataset.items, 2)
    items = retrieval.ItemRecords(index)
    assert items.class_names([1, 2]) == ["dog", "cat"]
    assert items.titles([1]) == ["dog (1)"]
    assert json.loads(bytes(index.attachments["jaxhash"]))["data"] == "blobs.npz"


def test_devices_share_a_batch() -> None:
    model = small_model()
    items = np.random.default_rng(4).normal(size=(30, 6)).astype(np.float32)
    one = encode(model, items, devices=jax.devices()[:1])
    eight = encode(model, items, devices=jax.devices())
    np.testing.assert_allclose(one.latent, eight.latent, rtol=1e-4, atol=1e-6)
