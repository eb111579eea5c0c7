"""What is said of a folder of photographs before training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxhash.data import load, load_images, summary


def paint(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def said(folder: Path, *, labelled: bool = True) -> list[str]:
    if labelled:
        dataset = load(folder, image_size=8, max_undecodable=0.9)
    else:
        dataset = load_images(folder, image_size=8, max_undecodable=0.9)
    rows = np.arange(len(dataset))
    return list(summary.lines(dataset, rows[::2], rows[1::2]))


def test_classes_loose_images_and_what_was_left_out(tmp_path: Path) -> None:
    for number in range(5):
        paint(tmp_path / "beach" / f"{number}.png", number)
    paint(tmp_path / "cat" / "1.png", 10)
    for number in range(3):
        paint(tmp_path / f"loose{number}.png", 20 + number)
    (tmp_path / "cat" / "empty.jpg").write_bytes(b"")
    (tmp_path / "cat" / "page.jpg").write_text("<html>")
    for name in ("a.MOV", "b.mp4", "c.pdf", "d.CR2", "e.aae", "IMG.xmp"):
        (tmp_path / "cat" / name).write_bytes(b"x")
    assert said(tmp_path) == [
        "2 classes: beach 5, cat 1",
        "attention: 3 images lie beside the class folders, have no class and are not used; put "
        "each into the folder of its class",
        "left out: 3 outside a class folder, 1 empty file, 1 not an image of a known format",
        "passed over, as they are no images: 2 side files, 2 videos, 1 document, 1 raw photograph",
    ]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("2019", "2020", "2021"), True),
        (("2019-05-01", "2020_06", "2021 07 rome"), True),
        (("2019", "beach", "cat"), False),
        (("airplane", "beach"), False),
    ],
)
def test_folders_of_years_are_no_classes(tmp_path: Path, names: tuple, expected: bool) -> None:
    for at, name in enumerate(names):
        paint(tmp_path / name / "1.png", at)
    found = [line for line in said(tmp_path) if "years or dates" in line]
    assert bool(found) == expected
    assert all("2019" in line and "itq" in line for line in found)


def test_copies_across_the_split_are_named(tmp_path: Path) -> None:
    for at, name in enumerate(("a/1", "a/2", "b/1", "b/2")):
        paint(tmp_path / f"{name}.png", at)
    assert len(said(tmp_path)) == 1
    (tmp_path / "b" / "2.png").write_bytes((tmp_path / "a" / "1.png").read_bytes())
    (tmp_path / "b" / "3.png").write_bytes((tmp_path / "b" / "1.png").read_bytes())
    dataset = load(tmp_path, image_size=8)
    assert summary.copies(dataset.paths or ()) == [[0, 3], [2, 4]]
    copies, attention = said(tmp_path)[1:]  # rows 0, 2, 4 are learned from, 1 and 3 asked
    assert copies == "copies of other images, byte for byte: 2"
    assert attention.startswith("attention: queries that were learned from under another name: 1, ")
    assert "b/2.png as " in attention
    assert said(tmp_path, labelled=False)[-2:] == [copies, attention]


def test_many_classes_are_not_all_named(tmp_path: Path) -> None:
    for at in range(15):
        paint(tmp_path / f"class{at:02}" / "1.png", at)
    assert said(tmp_path)[0].endswith("class11 1, and 3 more down to 1")
