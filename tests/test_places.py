"""Images in folders, lists, tar files and array_records, here and through fsspec."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxhash.data import inputs, places
from jaxhash.data.decoding import Undecodable, decode
from jaxhash.data.places import Place, from_line, to_line
from jaxhash.data.stored import StoredImages


def picture(number: int) -> bytes:
    """A grey picture that says which it is."""
    file = io.BytesIO()
    Image.new("L", (5, 4), number).save(file, "PNG")
    return file.getvalue()


def tar_of(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("folder"))
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


WEB = {"b/1.png": picture(1), "b/1.cls": b"7", "b/1.json": b"{}", "b/2.png": picture(2)}
"""As WebDataset has it: what belongs together lies together, under one key."""


def greys(found: list[Place]) -> list[int]:
    images = StoredImages(found, size=4, channels=1, threads=2)
    return images[:][:, 0, 0, 0].tolist() if found else []


def listed(source: object) -> list[Place]:
    skipped: list[tuple[str, str]] = []
    found = list(inputs.places(str(source), skipped))
    assert not skipped
    assert [from_line(to_line(place)) for place in found] == found
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures 1 to 5, in a tar file, an array_record and a file of their own."""
    writing = pytest.importorskip("array_record.python.array_record_module")
    root = tmp_path / "photos"
    (root / "a").mkdir(parents=True)
    (root / "a" / "part-08.tar").write_bytes(tar_of(WEB))
    (root / "a" / ".hidden.png").write_bytes(picture(99))
    (root / "a" / "notes.md").write_bytes(b"# beside")
    writer = writing.ArrayRecordWriter(str(root / "b.array_record-00000-of-00001"), "group_size:1")
    for number in (3, 4):
        writer.write(picture(number))
    writer.close()
    (root / "c.png").write_bytes(picture(5))
    return root


def test_a_folder_is_looked_into(folder: Path) -> None:
    found = listed(folder)
    assert greys(found) == [3, 4, 5, 1, 2]
    assert [place.name.removeprefix(f"{folder}/") for place in found] == [
        "b.array_record-00000-of-00001#0",
        "b.array_record-00000-of-00001#1",
        "c.png",
        "a/part-08.tar/b/1.png",
        "a/part-08.tar/b/2.png",
    ]


def test_records_are_read_many_at_once(folder: Path) -> None:
    mixed = [listed(folder)[at] for at in (1, 2, 0, 4, 1)]
    found = places.read_records(mixed)
    assert sorted(found) == [0, 2, 4]  # the others lie elsewhere
    assert found == {at: places.read(mixed[at]) for at in found}
    # Of a file with a record that is not there, all are left to `read`, which knows which it is.
    wrong = [mixed[0], mixed[0]._replace(record=9)]
    assert places.read_records([*wrong, mixed[2]._replace(path="none.array_record")]) == {}
    images, failed = StoredImages(wrong, size=4).read(np.arange(2))
    assert int(images[0].mean()) == 4
    assert [row for row, _ in failed] == [1]


def test_a_list_names_files_and_tar_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some.txt").write_text(f"photos/c.png\n\n{folder}/a/part-08.tar\n")
    found = listed(tmp_path / "some.txt")
    assert greys(found) == [5, 1, 2]
    assert found[0].path == str(folder / "c.png")
    (tmp_path / "some.txt").write_text("other.list\n")
    with pytest.raises(ValueError, match=r"names a list, other\.list"):
        listed(tmp_path / "some.txt")


def test_braces_stand_for_many(folder: Path) -> None:
    (folder / "a" / "part-09.tar").write_bytes(tar_of({"x.png": picture(9)}))
    assert greys(listed(f"{folder}/a/part-{{08..09}}.tar")) == [1, 2, 9]
    assert greys(listed(folder / "c.png")) == [5]
    with pytest.raises(ValueError, match=r"part-10\.tar: no such file"):
        listed(f"{folder}/a/part-{{08..10}}.tar")


def test_remote_files_are_read_through_fsspec(folder: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    try:
        for path in folder.rglob("*"):
            if path.is_file():
                memory.pipe_file(f"/bucket/{path.relative_to(folder)}", path.read_bytes())
        found = listed("memory://bucket")
        assert sorted(greys(found)) == [1, 2, 3, 4, 5]
        assert all(place.path.startswith("memory://") for place in found)
        memory.pipe_file("/names.txt", f"memory://bucket/c.png\n{folder}/c.png\n".encode())
        assert greys(listed("memory://names.txt")) == [5, 5]
        assert greys(listed("memory://bucket/a/part-08.tar")) == [1, 2]
        memory.rm("/bucket/c.png")
        with pytest.raises(Undecodable, match="no such file"):
            places.read(next(place for place in found if place.path.endswith("c.png")))
        with pytest.raises(ValueError, match="no such file or folder"):
            listed("memory://nowhere")
    finally:
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]
    assert greys(listed(f"file://{folder}/a")) == [1, 2]
    with pytest.raises(ValueError, match="gopher"):
        listed("gopher://old/times")


def test_what_cannot_be_decoded_is_told_from_what_cannot_be_read(folder: Path) -> None:
    (folder / "d.png").write_bytes(b"nonsense")
    found = [Place(str(folder / name)) for name in ("c.png", "d.png", "gone.png", "a")]
    pixels, failed = StoredImages(found, size=4, channels=1).read(np.array([1, 0, 2, 3]))
    assert pixels[1, 0, 0, 0] == 5
    assert [row for row, _ in failed] == [1, 2, 3]
    assert [reason for _, reason in failed][1:] == ["no such file", "not a regular file"]
    (folder / "loop").symlink_to(folder / "loop")
    with pytest.raises(OSError, match="symbolic link"):
        StoredImages([Place(str(folder / "loop"))], size=4).read(np.array([0]))


def test_damaged_archives_are_named(folder: Path) -> None:
    whole = (folder / "a" / "part-08.tar").read_bytes()
    tar = folder / "a" / "part-08.tar"
    second = listed(tar)[1]
    tar.write_bytes(whole[: second.start + 9])
    with pytest.raises(Undecodable, match="ends before it"):
        places.read(second)
    for content in (b"nonsense" * 100, whole[: second.start - 300]):
        tar.write_bytes(content)
        with pytest.raises(ValueError, match=r"part-08\.tar: not a whole tar file"):
            listed(tar)
    tar.rename(folder / "a" / "part.tar.gz")
    with pytest.raises(ValueError, match=r"compressed tar file .* unpack"):
        listed(folder)
    (folder / "n.array_record").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"n\.array_record: not a whole array_record"):
        listed(folder / "n.array_record")


def test_records_that_tensorflow_datasets_prepared_hold_their_image(real_data: Path) -> None:
    versions = sorted((real_data / "mnist").glob("*.*.*"))
    if not versions:
        pytest.skip("mnist is not prepared")
    found = listed(versions[-1])
    info = json.loads((versions[-1] / "dataset_info.json").read_text())
    lengths = [int(n) for split in info["splits"] for n in split["shardLengths"]]
    assert len(found) == sum(lengths)
    assert decode(places.read(found[12]), channels=1).shape == (28, 28, 1)
