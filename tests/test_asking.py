"""The commands encode and query on a folder as people have them."""

import csv
import io
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_encoding import image_model
from test_updating import paint

import jaxhash
from jaxhash import cli, models

ROOT = Path(__file__).resolve().parent.parent
ODD = (b"bad\xff.png", b"two\nlines.png", b"<b>.png", b"$a$ ^_.png", b"tab\t.png", b"-k.png")
Ask = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    models.save(image_model(), folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photographs between videos and broken files, of names that nobody should give."""
    folder = tmp_path / "photos"
    for number in range(6):
        paint(folder / ("beach" if number % 2 else "town") / f"{number}.png", number)
    for number, name in enumerate(ODD):
        os.rename(paint(folder / "odd.png", 20 + number), os.path.join(os.fsencode(folder), name))
    Image.new("CMYK", (9, 12), (10, 20, 30, 40)).save(folder / "cmyk.jpg")
    for name in ("a.MOV", "b.pdf", "c.CR2", "d.aae"):
        (folder / name).write_bytes(b"no image")
    return folder


@pytest.fixture
def ask(run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> Ask:
    """A function that asks an index of the photographs, and returns what is printed."""
    monkeypatch.chdir(tmp_path)
    cli.main(["encode", "--run", str(run), "--data", "photos", "--out", "a.index"])
    printed = capfd.readouterr().out
    assert (
        "passed over, as they are no images: 1 document, 1 raw photograph, 1 side file" in printed
    )
    assert "a.index: 13 codes of 11 bits" in printed

    def call(*words: object) -> str:
        cli.main(["query", "--run", str(run), "--index", "a.index", *map(str, words)])
        return capfd.readouterr().out

    return call


def test_names_of_any_bytes_are_printed_and_drawn(ask: Ask, photos: Path, tmp_path: Path) -> None:
    names = [os.fsdecode(os.path.join(os.fsencode(photos), name)) for name in ODD]
    lines = ask(*names, "-k", 2, "--pool", 20, "--gallery", "g.png").splitlines()
    assert len(lines) == 4 * len(names), "a line break in a name breaks no line"
    for shown in (r"bad\xff.png", r"two\nlines.png", "<b>.png", "$a$ ^_.png", r"tab\t.png"):
        assert any(line.endswith(shown) for line in lines)
    with Image.open(tmp_path / "g.png") as drawn:
        assert drawn.height > drawn.width


def test_results_as_json_and_csv(ask: Ask) -> None:
    words = ("photos/beach/1.png", "photos/town", "-k", 3)
    found = json.loads(ask(*words, "--json"))
    assert [one["query"] for one in found] == [
        "photos/beach/1.png",
        *(f"photos/town/{number}.png" for number in (0, 2, 4)),
    ]
    assert all(one["results"][0]["path"].endswith(one["query"]) for one in found)
    table = list(csv.DictReader(io.StringIO(ask(*words, "--csv"))))
    listed = [str(hit["id"]) for one in found for hit in one["results"]]
    assert [row["id"] for row in table] == listed
    assert [row["rank"] for row in table] == ["1", "2", "3"] * 4
    table = list(csv.DictReader(io.StringIO(ask(*words, "--csv", "--where", "folder = 'beach'"))))
    assert {Path(row["path"]).parent.name for row in table} == {"beach"}


def test_standard_input_is_a_list_or_an_image(
    ask: Ask, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))

    give((photos / "beach" / "1.png").read_bytes())
    (found,) = json.loads(ask("-", "-k", 1, "--json"))
    assert found["query"] == "standard input"
    assert found["results"][0]["path"].endswith("beach/1.png")
    give(b"photos/beach/1.png\r\nphotos/town/0.png\n\nphotos/bad\xff.png\n")
    found = json.loads(ask("-", "-k", 1, "--json"))
    assert [Path(one["query"]).name for one in found] == ["1.png", "0.png", "bad\udcff.png"]
    give(b"photos/two\nlines.png\0photos/town/0.png\0")
    found = json.loads(ask("-", "-k", 1, "--json"))
    assert [Path(one["query"]).name for one in found] == ["two\nlines.png", "0.png"]
    give(b" \n")
    with pytest.raises(SystemExit, match="standard input is empty"):
        ask("-")


def test_one_broken_query_does_not_spoil_the_others(ask: Ask, tmp_path: Path, capfd) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    found = json.loads(ask("broken.jpg", "photos/town/0.png", "-k", 1, "--json"))
    assert [one["query"] for one in found] == ["photos/town/0.png"]
    with pytest.raises(SystemExit, match="none of the query images can be decoded"):
        ask("broken.jpg")
    assert "left out broken.jpg: damaged" in capfd.readouterr().err
    (tmp_path / "empty").mkdir()
    for words, message in {
        ("empty",): "no image in this folder",
        ("absent.jpg",): r"absent\.jpg: no such image file",
        ("photos/town/0.png", "--where", "yaer = 1"): "no column yaer",
        ("photos/town/0.png", "--gallery", "no/g.png"): "no such folder to write g.png into",
    }.items():
        with pytest.raises(SystemExit, match=message):
            ask(*words)


def test_as_many_results_as_are_asked_for(run: Path, tmp_path: Path) -> None:
    """More than the usual pool: it grows, where it once cut the list without a word."""
    items = np.random.default_rng(0).integers(0, 256, (260, 8, 8, 1), np.uint8)
    dataset = jaxhash.Dataset("d", "images", items, None, {"all": np.arange(260)}, ())
    index = jaxhash.index(jaxhash.load(run), dataset, tmp_path / "a.index")
    picture = paint(tmp_path / "q.png", 1)
    assert len(index.query(picture, k=250, pool=200)) == 250
    assert len(index.query(picture, k=250)) == 250


def test_an_album_is_brought_up_to_date_by_command(
    ask: Ask, run: Path, photos: Path, tmp_path: Path, capfd
) -> None:
    update = ["encode", "--run", str(run), "--data", "photos", "--out", "a.index", "--update"]
    cli.main(update)
    assert "a.index: 13 unchanged" in capfd.readouterr().out
    paint(photos / "new.png", 99)
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(SystemExit, match=r"1 of 15 files .*--max-undecodable"):
        cli.main(update)
    (tmp_path / "t.csv").write_text("path,year\nnew.png,2024\n")
    cli.main([*update, "--max-undecodable", "0.5", "--columns", "t.csv"])
    printed = capfd.readouterr().out
    assert "broken.jpg: damaged" in printed
    assert "a.index: 1 added, 13 unchanged, 1 left out" in printed
    assert "a.index: 14 codes" in printed
    (found,) = json.loads(ask("photos/town/0.png", "--where", "year > 2000", "--json"))
    assert [hit["columns"] for hit in found["results"]] == [{"year": 2024}]
    os.rename("photos", "album")
    (found,) = json.loads(ask("album/town/0.png", "-k", 1, "--json", "--root", "album"))
    assert found["results"][0]["path"] == str(tmp_path / "album" / "town" / "0.png")
    with pytest.raises(SystemExit, match=r"not where it was; .*--root FOLDER"):
        ask("album/town/0.png", "-k", 1, "--gallery", "g.png")
    with pytest.raises(SystemExit, match="--features is none, and the index keeps float16"):
        cli.main([*update[:4], "album", *update[5:], "--features", "none"])
    # Begun with nothing there, too.
    update[update.index("a.index")] = "b.index"
    update[update.index("photos")] = "album"
    cli.main([*update, "--max-undecodable", "0.5"])
    assert "b.index: 14 added, 1 left out" in capfd.readouterr().out


def test_no_image_one_image_and_images_all_alike(run: Path, tmp_path: Path) -> None:
    model = jaxhash.load(run)
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.mov").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no image in this folder, at any depth, but 1 video;"):
        jaxhash.index(model, folder, tmp_path / "a.index")
    paint(folder / "b.png", 0)
    index = jaxhash.index(model, folder, tmp_path / "a.index")
    found = index.query(folder / "b.png", k=5, pool=200)
    assert (found.ids, len(index)) == ([0], 1)
    for number in range(20):
        paint(folder / f"c{number:02}.png", 0)
    assert index.update().added == 20
    found = index.query(folder / "b.png", k=30, pool=200)
    assert found.ids == list(range(21)), "equal distances, in the order of ids"
    for file in sorted(folder.glob("c*.png"))[1:]:
        file.unlink()
    assert index.update().removed == 19
    assert index.query(folder / "b.png", k=30).ids == [0, 1]


@pytest.mark.skipif(os.name == "nt", reason="no limits of this kind")
def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    program = """
        import resource, signal
        import numpy as np
        from search import HashIndex
        index = HashIndex(np.zeros((1000, 64), np.uint8))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            index.save("a.index")
        except OSError as error:
            print(error.filename)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "a.index\n", done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_rights_are_looked_at_before_the_work(ask: Ask, run: Path, tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o500)
    with pytest.raises(SystemExit, match="shut may not be written to"):
        cli.main(["encode", "--run", "none", "--data", "photos", "--out", "shut/a.index"])
