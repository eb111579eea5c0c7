"""Copies of pictures in an index: pairs by codes and features, groups, the page, the command."""

import html.parser
import importlib
import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from test_library import NETWORK

import jaxhash
from jaxhash import cli, nets
from jaxhash.duplicates import groups, looks, page, pairs
from jaxhash.duplicates.groups import Group, Picture
from jaxhash.duplicates.pairs import Mirrored, Pairs
from jaxhash.models import Model
from jaxhash.nets import NETWORKS
from jaxhash.spec import ModelSpec
from search import HashIndex, pack, unpack

ROOT = Path(__file__).resolve().parent.parent
BITS, WIDTH = 20, 6


@pytest.fixture(scope="module", autouse=True)
def network_known() -> Iterator[None]:
    """The tests' network among those that are known."""
    known = NETWORK.name in NETWORKS
    jaxhash.register(NETWORK)
    yield
    if not known:
        del NETWORKS[NETWORK.name]


# ---------------------------------------------------------------- pairs


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / lengths) if lengths else 0.0


def naive_pairs(
    index: HashIndex, mirrored: Mirrored | None, similarity: float, radius: int
) -> dict[tuple[int, int], float]:
    """Every pair of items, one after the other."""
    codes, features = index.get(index.ids)
    found: dict[tuple[int, int], float] = {}
    seen = [(index.ids, codes, features)] + ([] if mirrored is None else [tuple(mirrored)])
    for ids, own_codes, own_features in seen:
        for id_, code, feature in zip(ids, own_codes, own_features, strict=True):
            for other, its_code, its_feature in zip(index.ids, codes, features, strict=True):
                apart = int((unpack(code[None]) != unpack(its_code[None])).sum())
                alike = cosine(feature.astype(float), its_feature.astype(float))
                pair = (min(int(id_), int(other)), max(int(id_), int(other)))
                if other == id_ or apart > radius or alike < similarity:
                    continue
                found[pair] = max(alike, found.get(pair, 0))
    return found


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("radius", [0, 3, 20])
def test_pairs_are_those_of_a_look_at_every_pair(flip, radius, rng, monkeypatch) -> None:
    centres = rng.integers(0, 2, (6, BITS)), rng.standard_normal((6, WIDTH))
    which = rng.integers(0, 6, 60)

    def made() -> tuple[np.ndarray, np.ndarray]:
        bits = centres[0][which] ^ (rng.random((60, BITS)) < 0.1)
        features = centres[1][which] + rng.normal(0, 0.4, (60, WIDTH))
        features[:2] = 0
        return pack(bits), features.astype(np.float16)

    codes, features = made()
    ids = np.arange(60) * 3
    index = HashIndex(codes, bits=BITS, features=features, ids=ids)
    mirrored = Mirrored(ids[10:50], *(one[10:50] for one in made())) if flip else None
    monkeypatch.setattr(pairs, "BATCH", 13)
    monkeypatch.setattr(pairs, "COMPARED", 17)
    found = pairs.find(index, similarity=0.9, radius=radius)
    if mirrored is not None:
        more = pairs.find(index, similarity=0.9, radius=radius, mirrored=[mirrored])
        found = pairs.best([found, more])
    expected = naive_pairs(index, mirrored, 0.9, radius)
    assert list(zip(found.first, found.second, strict=True)) == sorted(expected)
    assert expected or not radius
    for first, second, alike in zip(*found, strict=True):
        np.testing.assert_allclose(alike, expected[first, second], atol=2e-6)


def test_more_copies_than_are_compared_are_one_group(monkeypatch) -> None:
    monkeypatch.setattr(pairs, "NEIGHBOURS", 5)
    index = HashIndex(np.zeros((300, 1), np.uint8), features=np.ones((300, 2), np.float32))
    found = pairs.find(index)
    assert len(groups.join(found, dict.fromkeys(range(300)))[0]) == 300


def test_numbers_that_are_refused() -> None:
    bare = HashIndex(np.zeros((2, 1), np.uint8))
    index = HashIndex(np.zeros((2, 1), np.uint8), features=np.ones((2, 2), np.float32))
    for similarity in (0.0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="similarity is"):
            pairs.find(index, similarity=similarity)
    with pytest.raises(ValueError, match="radius is -1"):
        pairs.find(index, radius=-1)
    with pytest.raises(ValueError, match="keeps no features"):
        pairs.find(bare)
    empty = HashIndex(np.zeros((0, 1), np.uint8), features=np.ones((0, 2), np.float32))
    assert len(pairs.find(empty).first) == 0


# ---------------------------------------------------------------- looks


def test_pairs_in_doubt_are_looked_at(tmp_path: Path, rng) -> None:
    picture = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((240, 180))
    picture.save(tmp_path / "0.png")
    picture.resize((60, 45)).save(tmp_path / "1.jpg", quality=50)
    ImageOps.mirror(picture).save(tmp_path / "2.png")
    (tmp_path / "3.png").write_bytes(b"no picture")
    Image.new("RGB", (20, 20), "white").save(tmp_path / "4.png")
    paths: dict[int, str | None] = {int(path.stem): str(path) for path in tmp_path.iterdir()}
    first, second = np.array([0, 0, 0, 4, 0, 1]), np.array([1, 2, 3, 4, 9, 5])
    found = looks.correlations(first, second, paths.get)
    assert found[0] > 0.99
    assert abs(found[1]) < 0.9
    np.testing.assert_array_equal(found[2:], 0)  # not to be seen, plain, or without a file
    small = [
        np.asarray(Image.open(str(paths[at])).convert("L").resize((24, 24)), float).ravel()
        for at in (0, 2)
    ]
    np.testing.assert_allclose(found[1], np.corrcoef(small)[0, 1], atol=0.01)

    def kept(cosine: float) -> list[int]:
        maybe = Pairs(first, second, np.full(6, cosine, np.float32))
        return looks.confirmed(maybe, paths.get, similarity=0.85).second.tolist()

    assert kept(0.69) == []
    assert kept(0.7001) == kept(0.84) == [1]
    assert kept(0.85) == second.tolist()


# ---------------------------------------------------------------- groups


def test_mirrored_is_said_against_the_first(tmp_path: Path, rng) -> None:
    picture = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((160, 120))
    made = {
        0: ImageOps.mirror(picture),
        1: picture,
        2: picture.resize((80, 60)),
        3: ImageOps.mirror(picture.crop((16, 0, 160, 108))),
    }
    for item, one in made.items():
        one.save(tmp_path / f"{item}.jpg", quality=95 - item)
    paths: dict[int, str | None] = {item: str(tmp_path / f"{item}.jpg") for item in made}
    found = Pairs(np.array([0, 0, 2]), np.array([1, 2, 3]), np.array([0.99, 0.98, 0.9], np.float32))
    (group,) = groups.join(found, paths)
    how = {one.id: one.how for one in group}
    assert how == {0: "first", 1: "mirrored", 2: "mirrored", 3: "alike"}
    assert [one.similarity for one in group] == [0.99, 0.99, 0.9, 0.98]
    # Turned by its Exif entry, the first is the others' mirror image no more.
    turned = Image.Exif()
    turned[0x0112] = 2  # mirrored
    made[0].save(tmp_path / "0.jpg", quality=95, exif=turned)
    (group,) = groups.join(found, paths)
    assert {one.id: one.how for one in group}[1] == "alike"


def test_groups_are_joined_and_sorted() -> None:
    ones = np.ones(3, np.float32)
    found = Pairs(np.array([1, 5, 9]), np.array([2, 9, 11]), ones)
    joined = groups.join(found, dict.fromkeys([1, 2, 5, 9, 11]))
    assert [group.ids for group in joined] == [[5, 9, 11], [1, 2]]
    assert joined[0].paths == [None] * 3


# ---------------------------------------------------------------- pictures


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of four random colours each, and copies of some."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(5)
    for at in range(24):
        quarters = rng.integers(30, 200, (2, 2, 3), np.uint8)
        if at == 2:  # nearly its own mirror image
            quarters[:, 1] = quarters[:, 0] + 4
        picture = Image.fromarray(quarters).resize((64, 48), Image.Resampling.NEAREST)
        picture.save(root / f"{at:02}.png")
        if at == 0:
            shutil.copy(root / "00.png", root / "00 exact.png")
            picture.resize((32, 24)).save(root / "00 half.png")
            picture.save(root / "00 <img src=x onerror=alert(1)>.jpg", quality=40)
            ImageEnhance.Brightness(picture).enhance(1.03).save(root / "00 bright.png")
            picture.crop((3, 3, 61, 46)).save(root / "00 crop.png")
        if at == 1:
            ImageOps.mirror(picture).resize((40, 30)).save(root / "01 mirrored.png")
        if at == 2:
            ImageOps.mirror(picture).resize((40, 30)).save(root / "02 mirrored.png")
    return root


@pytest.fixture(scope="module")
def index(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> jaxhash.ImageIndex:
    spec = ModelSpec(
        network=NETWORK.name,
        method="dsh",
        bits=16,
        classes=("a", "b"),
        item_shape=(16, 16, 3),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        activation="linear",
        classifier="none",
        threshold=0.0,
        precision="float32",
    )
    model = Model(spec, nets.init(spec.build(), jax.random.key(0), (1, *spec.item_shape)))
    return jaxhash.index(model, photos, tmp_path_factory.mktemp("index") / "photos.index")


def named(found: list[Group]) -> list[set[str]]:
    return [{Path(path).name for path in group.paths if path} for group in found]


def test_copies_of_all_kinds_are_found(index, photos: Path) -> None:
    found = index.duplicates(similarity=0.99, radius=16, mirrored=True)
    copies = {path.name for path in photos.glob("00*")}
    assert len(copies) == 6
    assert named(found) == [
        copies,
        {"01.png", "01 mirrored.png"},
        {"02.png", "02 mirrored.png"},
    ]
    how = {Path(one.path).name: one.how for group in found for one in group}
    assert how["01 mirrored.png"] == "mirrored"
    assert sorted((how["00.png"], how["00 exact.png"])) in (["alike", "exact"], ["exact", "first"])
    assert how["00 half.png"] == how["00 bright.png"] == "alike"
    assert (found[0].pictures[0].width, found[0].pictures[0].height) == (64, 48)
    # One that is alike as it is needs no mirror images of all to be found, and named.
    found = index.duplicates(similarity=0.99, radius=16)
    assert named(found) == [copies, {"02.png", "02 mirrored.png"}]
    assert [one.how for one in found[1]] == ["first", "mirrored"]


def test_a_picture_that_is_gone_is_left_out_of_the_mirrored_ones(
    index, photos: Path, tmp_path: Path
) -> None:
    moved = shutil.move(photos / "05.png", tmp_path / "05.png")
    try:
        found = index.duplicates(similarity=0.99, radius=16, mirrored=True)
    finally:
        shutil.move(moved, photos / "05.png")
    assert {"01.png", "01 mirrored.png"} in named(found)


class Page(html.parser.HTMLParser):
    """Collects the tags of a page, with their attributes, and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_pictures_and_holds_no_code(index, tmp_path: Path) -> None:
    page.write(index.duplicates(similarity=0.99, radius=16, mirrored=True), tmp_path / "d.html")
    text = (tmp_path / "d.html").read_text(encoding="utf-8")
    read = Page()
    read.feed(text)
    assert "00 <img src=x onerror=alert(1)>.jpg" in read.text
    names = [tag for tag, _ in read.tags]
    assert names.count("img") == names.count("figure") == 10
    assert "script" not in names
    for tag, attributes in read.tags:
        assert not any(name.startswith("on") for name in attributes)
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/jpeg;base64,")
        if tag == "a":
            assert str(attributes["href"]).startswith("file:///")
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    assert "default-src 'none'" in text


def test_the_page_of_what_cannot_be_shown(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"no picture")
    shown = [
        Picture(1, None, 1.0, "first", None, None, None),
        Picture(2, str(tmp_path / "b.jpg"), 1.0, "alike", 9, 9, 9),
        Picture(3, "caf\udce9\n.jpg", 1.0, "alike", None, None, None),
    ]
    page.write([Group(tuple(shown))], tmp_path / "d.html")
    text = (tmp_path / "d.html").read_text(encoding="utf-8")
    assert text.count("(no picture)") == 3
    assert "caf%E9%0A.jpg" in text
    page.write([], tmp_path / "d.html")
    assert "0 groups" in (tmp_path / "d.html").read_text(encoding="utf-8")


def test_the_command_has_the_defaults_of_the_library() -> None:
    options = importlib.import_module("jaxhash.cli.duplicates").Duplicates(Path(), Path())
    own = inspect.signature(jaxhash.ImageIndex.duplicates).parameters
    for name in ("similarity", "radius", "mirrored"):
        assert getattr(options, name) == own[name].default


def test_the_command_prints_groups(index, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("jaxhash.index_files.open_index", lambda path, run, root: index)
    words = ["duplicates", "--run", "r", "--index", "i", "--similarity", "0.99", "--radius", "16"]
    cli.main([*words, "--mirrored", "--html", str(tmp_path / "d.html")])
    printed = capsys.readouterr().out
    assert "group 1:\n  first     " in printed
    assert printed.endswith("3 groups of copies, 10 of 31 pictures\n")
    assert (tmp_path / "d.html").exists()
    cli.main([*words, "--json"])
    group, _ = json.loads(capsys.readouterr().out)
    assert len(group["pictures"]) == 6
    assert set(group["pictures"][0]) == set(Picture._fields)
    for more, message in (
        (["--similarity", "2"], "similarity is 2.0; give a number"),
        (["--html", str(tmp_path / "no" / "d.html")], "no such folder"),
    ):
        with pytest.raises(SystemExit, match=message):
            cli.main([*words, *more])


# ---------------------------------------------------------------- the benchmark


def test_the_benchmark_measures_groups_of_pairs(index, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "benchmarks"))
    benchmark = importlib.import_module("duplicates")
    names = ["00.jpg", "half@00.jpg", "mirrored@00.jpg", "01.jpg", "half@01.jpg", "02.jpg"]
    first, second = np.array([0, 1, 3]), np.array([1, 3, 4])
    found = Pairs(first, second, np.array([0.9, 0.7, 0.8], np.float32))
    whole = np.ones(6, bool)
    got = benchmark.measures(names, whole, found, 0.8)
    assert (got["precision"], got["recall"], got["wrong"]) == (1, 2 / 4, 0)
    assert (got["half"], got["mirrored"], got["largest"]) == (1, 0, 2)
    got = benchmark.measures(names, whole, found, 0.7)
    assert (got["precision"], got["recall"], got["wrong"]) == (2 / 6, 2 / 4, 4)
    got = benchmark.measures(names, np.array([name[-6:-4] == "00" for name in names]), found, 0.7)
    assert (got["precision"], got["recall"]) == (1, 1 / 3)

    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(7)
    for at in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(photos / f"{at}.png")
    monkeypatch.setattr(jaxhash, "load", lambda run: index.model)
    config = benchmark.Config(tmp_path / "run", photos, tmp_path / "work", originals=3)
    benchmark.report(config)
    printed = capsys.readouterr().out
    assert printed.startswith("21 images, 3 with 5 variants each")
    assert "features: at 0.85 precision" in printed
    assert "imagededup" not in printed
    hashes = {
        path.name: f"{at:016x}" for at, path in enumerate((tmp_path / "work/images").iterdir())
    }
    (tmp_path / "work" / "hashes.json").write_text(json.dumps({"PHash": hashes}))
    benchmark.report(config)
    assert "imagededup PHash: at" in capsys.readouterr().out
