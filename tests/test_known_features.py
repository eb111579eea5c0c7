"""Features that a run has kept: encoding takes them, and the index is the same to the last byte."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from test_unlabelled import SIDE, backbone, draw  # noqa: F401

import jaxhash
from jaxhash import index_files, known_features, runs
from jaxhash.cli.encode import Encode, encode
from jaxhash.data import Dataset, folders
from jaxhash.models import Model

HEAD: dict[str, Any] = {"method": "dlbhc", "epochs": 2, "batch_size": 8}


@pytest.fixture
def album(tmp_path: Path) -> Path:
    return draw(tmp_path / "album", 24)


def pets(folder: Path, *above: str) -> Path:
    for at, part in enumerate(above or ("",)):
        for seed, name in enumerate(("cat", "dog")):
            draw(folder / part / name, 14, 2 * at + seed)
    return folder


def without(run: Path) -> Path:
    """A copy of a run that has kept no features."""
    copy = shutil.copytree(run, run.with_name("bare"))
    (copy / runs.FEATURES).unlink()
    (copy / runs.UNLABELLED).unlink(missing_ok=True)
    return copy


def index_of(run: Path, data: Path, **options: Any) -> bytes:
    """The index file that `jaxhash encode` writes."""
    out = run.parent / "new.index"
    encode(Encode(run=run, data=str(data), out=out, **options))
    content = out.read_bytes()
    out.unlink()
    return content


@pytest.mark.parametrize("layout", ["loose", "classes", "parts", "few labels", "head of classes"])
def test_the_index_is_the_same_and_nothing_is_decoded(
    layout: str, tmp_path: Path, decoded: list[object]
) -> None:
    data, options = tmp_path / "data", HEAD if layout in ("parts", "head of classes") else {}
    if layout == "loose":
        draw(data, 24)
    else:
        pets(data, *(("train", "query") if layout == "parts" else ()))
    if layout == "few labels":
        draw(data / "unlabelled", 20, 7)
        options = {"method": "itq"}
    run = tmp_path / "run"
    jaxhash.train(data, run, bits=6, network="tiny-eye", **options)
    for features in ("float16", "float32", "none"):
        decoded.clear()
        found = index_of(run, data, features=features)
        assert not decoded
        bare = without(run)
        assert index_of(bare, data, features=features) == found
        assert len(decoded) == sum(path.is_file() for path in data.rglob("*"))
        shutil.rmtree(bare)


def test_only_files_with_other_bytes_are_decoded(
    album: Path, tmp_path: Path, decoded: list[object]
) -> None:
    run = tmp_path / "run"
    jaxhash.train(album, run, bits=6)
    Image.new("RGB", (31, 40), "red").save(album / "03.png")  # changed
    Image.new("RGB", (31, 40), "blue").save(album / "11a.png")  # new
    (album / "20.png").unlink()
    os.utime(album / "04.png", ns=(1, 1))
    (album / "05.png").rename(album / "z.png")
    shutil.copy(album / "06.png", album / "copy.png")
    cut = album / "08.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    moved = album.rename(tmp_path / "moved")
    decoded.clear()
    found = index_of(run, moved, max_undecodable=0.1)
    assert len(decoded) == 3
    assert index_of(without(run), moved, max_undecodable=0.1) == found


def test_an_update_takes_them_too(album: Path, tmp_path: Path, decoded: list[object]) -> None:
    run = tmp_path / "run"
    jaxhash.train(album, run, bits=6)
    decoded.clear()
    bare = without(run)
    for folder, count in ((run, 0), (bare, 24)):
        decoded.clear()
        index = index_files.open_or_begin(tmp_path / f"{folder.name}.index", folder, album)
        assert index.update(album).added == 24
        assert len(decoded) == count
    contents = [(tmp_path / f"{name}.index").read_bytes() for name in ("run", "bare")]
    assert contents[0] == contents[1]
    assert jaxhash.index(jaxhash.load(run), album, tmp_path / "whole.index").query(
        album / "07.png", k=1
    ).paths == [str(album / "07.png")]


@pytest.mark.parametrize("fault", ["a bit", "cut", "older", "another backbone", "gone"])
def test_what_cannot_be_trusted_is_computed(
    fault: str, album: Path, tmp_path: Path, decoded: list[object]
) -> None:
    run = tmp_path / "run"
    jaxhash.train(album, run, bits=6)
    wanted = index_of(without(run), album)
    file = run / runs.FEATURES
    content = bytearray(file.read_bytes())
    if fault == "a bit":
        content[-40] ^= 1
        file.write_bytes(content)
    elif fault == "cut":
        file.write_bytes(content[:-100])
    elif fault == "older":  # of version 0.4, without the digests of files
        arrays = safetensors.numpy.load_file(file)
        del arrays["digests"]
        file.write_bytes(safetensors.numpy.save(arrays, metadata={"key": "0"}))
    elif fault == "another backbone":
        jaxhash.train(album, tmp_path / "other", bits=6, mirror=True)
        shutil.copy(tmp_path / "other" / runs.FEATURES, file)
    else:
        file.unlink()
    assert known_features.find(jaxhash.load(run)) is None
    decoded.clear()
    assert index_of(run, album) == wanted
    assert len(decoded) == 24


def test_batches_of_another_size_are_computed(
    album: Path, tmp_path: Path, decoded: list[object]
) -> None:
    """They may differ in their last bits."""
    run = tmp_path / "run"
    jaxhash.train(album, run, bits=6)
    decoded.clear()
    index_of(run, album, batch_size=5)
    assert len(decoded) == 24


def known(model: Model) -> int:
    found = known_features.find(model)
    return 0 if found is None else len(found)


def test_features_of_other_pixels_are_not_known(tmp_path: Path) -> None:
    """Of files that were read at another size, or of grey ones, which encoding reads as RGB."""
    data = pets(tmp_path / "pets")
    small = folders.load(data, image_size=SIDE // 2)
    assert known(jaxhash.train(small, tmp_path / "small", bits=6, **HEAD, network="tiny-eye")) == 0
    grey = tmp_path / "grey"
    for path in data.rglob("*.png"):
        (grey / path.parent.name).mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("L").save(grey / path.parent.name / path.name)
    run = tmp_path / "run"
    jaxhash.train(grey, run, bits=6, **HEAD, network="tiny-eye")
    assert known(jaxhash.load(run)) == 0
    assert known(jaxhash.train(data, tmp_path / "whole", bits=6, **HEAD, network="tiny-eye")) == 28


def test_a_dataset_has_a_digest_for_each_item() -> None:
    pixels = np.zeros((3, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="2 digests for 3 items"):
        Dataset("x", "images", pixels, None, {}, (), digests=np.zeros((2, 16), np.uint8))
