"""An index that lives: brought up to date with its folder, added to, moved, broken off."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_encoding import image_model

import jaxhash
from jaxhash import encoding, index_files, models, retrieval
from jaxhash.items import files
from jaxhash.items.files import STATE, Stat
from jaxhash.models import Model
from jaxhash.updating import Changes
from search import HashIndex
from search.files import locking

ROOT = Path(__file__).resolve().parent.parent


def paint(path: Path, seed: int, side: int = 12) -> Path:
    """An image of noise, another one for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def model() -> Model:
    return image_model()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for number in range(12):
        paint(folder / ("beach" if number % 2 else "town/old") / f"{number:02}.png", number)
    return folder


def by_path(index: jaxhash.ImageIndex) -> dict[str, tuple[int, bytes, bytes]]:
    """Path -> id, code and features of all items."""
    codes, features = index.codes.get(index.codes.ids)
    assert features is not None
    found = index.items.ids_by_path(index.codes.ids)
    at = {item: row for row, item in enumerate(index.codes.ids.tolist())}
    assert len(found) == len(index)
    return {
        path: (item, codes[at[item]].tobytes(), features[at[item]].tobytes())
        for path, item in found.items()
    }


def test_only_what_is_new_or_changed_is_encoded(
    model: Model, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photos.index"
    index = jaxhash.index(model, photos, path)
    before = by_path(index)
    encoded: list[str] = []
    batches = encoding.batches

    def counting(model: Model, items: object, **options: object) -> object:
        encoded.extend(os.path.basename(one) for one in getattr(items, "paths", ()))
        return batches(model, items, **options)

    monkeypatch.setattr(encoding, "batches", counting)
    stamp = path.stat().st_mtime_ns
    assert index.update() == Changes(unchanged=12)
    assert encoded == []
    assert path.stat().st_mtime_ns == stamp, "nothing to do, nothing written"

    paint(photos / "beach" / "new.png", 100)
    paint(photos / "beach" / "01.png", 101)  # changed
    paint(photos / "beach" / "03.png", 102, side=13)  # changed, and of another size
    os.utime(photos / "beach" / "05.png", ns=(1, 1))  # only touched
    (photos / "beach" / "07.png").rename(photos / "elsewhere.png")  # moved
    (photos / "town" / "old" / "00.png").unlink()
    (photos / "film.mov").write_bytes(b"no image")
    assert index.update() == Changes(1, 2, 1, 1, 8, 0, {"videos": 1})
    assert sorted(encoded) == ["01.png", "03.png", "new.png"]
    after = by_path(index)
    assert {name: one[0] for name, one in after.items() if name in before} == {
        name: one[0] for name, one in before.items() if name in after
    }
    assert after["elsewhere.png"] == before["beach/07.png"]
    assert after["beach/new.png"][0] == 12, "an id is never given twice"
    # The same as from nothing, and the same as what is in the file.
    fresh = by_path(jaxhash.index(model, photos, tmp_path / "fresh.index"))
    assert {name: one[1:] for name, one in after.items()} == {
        name: one[1:] for name, one in fresh.items()
    }
    again = jaxhash.open_index(path, model)
    assert by_path(again) == after
    assert again.update() == Changes(unchanged=12, passed={"videos": 1})
    found = again.query(photos / "elsewhere.png", k=1, pool=10)
    assert found.paths == [str(photos / "elsewhere.png")]


def test_a_broken_file_is_left_out_until_it_changes(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    index = jaxhash.index(model, photos, tmp_path / "photos.index")
    whole = (photos / "beach" / "01.png").read_bytes()
    (photos / "beach" / "01.png").write_bytes(whole[: len(whole) // 2])
    (photos / "page.jpg").write_text("<html>")
    lost: list[str] = []

    def note(path: str, reason: str) -> None:
        lost.append(os.path.basename(path))

    assert index.update(on_skipped=note) == Changes(removed=0, unchanged=11, left_out=2)
    assert sorted(lost) == ["01.png", "page.jpg"]
    assert len(index) == 11, "the code of what was there before is gone"
    assert index.update(on_skipped=note) == Changes(unchanged=11, left_out=2)
    assert len(lost) == 2
    os.utime(photos / "page.jpg", ns=(1, 1))
    with pytest.raises(ValueError, match=r"2 of 13 files cannot be decoded.*max_undecodable"):
        index.update(max_undecodable=0.1)
    (photos / "beach" / "01.png").write_bytes(whole)
    paint(photos / "page.jpg", 5)
    assert index.update() == Changes(added=2, unchanged=11)


def test_nothing_is_dropped_because_a_folder_cannot_be_seen(
    model: Model, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = jaxhash.index(model, photos, tmp_path / "photos.index")
    before = by_path(index)
    scandir = os.scandir

    def blind(folder: str) -> object:
        if os.fspath(folder).endswith("old"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", blind)
    assert index.update().unchanged == 12
    monkeypatch.undo()
    (tmp_path / "empty").mkdir()
    paint(tmp_path / "other" / "x.png", 77)
    with pytest.raises(ValueError, match="no image in this folder"):
        index.update(tmp_path / "empty")
    with pytest.raises(ValueError, match="none of the 12 images of the index is here"):
        index.update(tmp_path / "other")
    with pytest.raises(ValueError, match="no such folder"):
        index.update(tmp_path / "absent")
    assert by_path(jaxhash.open_index(tmp_path / "photos.index", model)) == before


def test_index_and_folder_can_be_moved(model: Model, photos: Path, tmp_path: Path) -> None:
    jaxhash.index(model, photos, tmp_path / "photos.index")
    there = tmp_path / "there"
    there.mkdir()
    shutil.move(photos, there / "pictures")
    shutil.move(tmp_path / "photos.index", there / "moved.index")
    index = jaxhash.open_index(there / "moved.index", model, root=there / "pictures")
    picture = there / "pictures" / "beach" / "01.png"
    assert index.query(picture, k=1, pool=12).paths == [str(picture)]
    assert len(index.items.pictures([3], size=8)) == 1
    assert index.update() == Changes(unchanged=12)
    assert jaxhash.open_index(there / "moved.index", model).query(picture, k=1).paths == [
        str(picture)
    ], "the update has noted the new place"


def test_an_update_that_is_killed_goes_on(model: Model, tmp_path: Path) -> None:
    for number in range(20):
        paint(tmp_path / "photos" / f"{number:02}.png", number)
    (tmp_path / "run").mkdir()
    models.save(model, tmp_path / "run")
    path = tmp_path / "photos.index"
    program = f"""
        import os, signal
        from jaxhash import index_files
        index = index_files.open_or_begin({str(path)!r}, {str(tmp_path / "run")!r}, "photos")
        left = iter(range(2))
        def on_batch(count):
            if next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
        index.update("photos", batch_size=4, checkpoint=0, on_batch=on_batch)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL
    index = jaxhash.open_index(path, model)
    assert len(index) == 8, "two batches were saved, and the third was not"
    before = by_path(index)
    assert index.update() == Changes(added=12, unchanged=8)
    after = by_path(index)
    assert before.items() <= after.items()
    fresh = by_path(jaxhash.index(model, tmp_path / "photos", tmp_path / "fresh.index"))
    assert {name: one[1:] for name, one in after.items()} == {
        name: one[1:] for name, one in fresh.items()
    }


def test_there_is_one_writer(model: Model, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.index"
    index = jaxhash.index(model, photos, path)
    with locking.alone(path):
        for write in (
            index.update,
            index.save,
            lambda: jaxhash.index(model, photos, path, overwrite=True),
        ):
            with pytest.raises(locking.Locked, match=r"photos\.index is being written"):
                write()
    other = jaxhash.open_index(path, model)
    paint(photos / "new.png", 50)
    other.update()
    with pytest.raises(ValueError, match="open it again"):
        index.update()
    assert len(index) == 12
    assert len(jaxhash.open_index(path, model)) == 13
    assert sorted(one.name for one in tmp_path.iterdir()) == ["photos", "photos.index"]


def test_an_index_that_is_replaced_while_it_is_opened_is_opened_again(
    model: Model, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "photos.index"
    jaxhash.index(model, photos, path)
    open_any = index_files.open_any

    def before_another(*words: Any, **options: Any) -> Any:
        """Somebody else changes and writes the file when it has just been opened."""
        opened = open_any(*words, **options)
        monkeypatch.setattr(index_files, "open_any", open_any)
        other = jaxhash.open_index(path, model)
        other.remove([5])
        other.save()
        return opened

    monkeypatch.setattr(index_files, "open_any", before_another)
    index = jaxhash.open_index(path, model)
    index.remove([3])
    index.save()
    assert not {3, 5} & set(jaxhash.open_index(path, model).codes.ids.tolist())


def test_the_lock_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    path = tmp_path / "a.index"
    program = f"""
        import os, signal
        from search.files.locking import alone
        with alone({str(path)!r}):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert (tmp_path / ".a.index.lock").exists()
    with locking.alone(path):
        pass
    assert not (tmp_path / ".a.index.lock").exists()


def test_images_are_added_and_removed(model: Model, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.index"
    index = jaxhash.index(model, photos, path)
    before = by_path(index)
    outside = paint(tmp_path / "outside.png", 60)
    inside = paint(photos / "inside.png", 61)
    assert index.add([outside, inside, photos / "beach" / "01.png"]).tolist() == [
        12,
        13,
        before["beach/01.png"][0],
    ]
    assert index.query(outside, k=1, pool=20).paths == [str(outside)]
    assert index.query(inside, k=1, pool=20).ids == [13]
    index.remove([before["beach/03.png"][0]])
    with pytest.raises(ValueError, match="not in the index"):
        index.remove([before["beach/03.png"][0]])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"broken\.png"):
        index.add([tmp_path / "broken.png"])
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        index.add(["absent.png"])
    assert len(index) == 13
    assert len(jaxhash.open_index(path, model)) == 12, "until it is saved"
    after = by_path(index)
    index.save()
    assert by_path(jaxhash.open_index(path, model)) == after
    index.save(tmp_path / "copy.index")
    assert by_path(jaxhash.open_index(tmp_path / "copy.index", model)) == after
    assert index.add([inside]).tolist() == [13]
    index.save()
    assert index.update() == Changes(added=1, unchanged=13), "what was removed alone is found anew"
    outside.unlink()
    assert index.update() == Changes(removed=1, unchanged=13)


def test_an_index_of_version_0_1_0_is_brought_up_to_date(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    """Its paths are absolute, and it knows nothing of the files."""
    dataset = retrieval.load_items(str(photos), model)
    card = {
        "model": models.fingerprint(model),
        "data": str(photos),
        "data_dir": None,
        "classes": [],
    }
    kept = {
        "jaxhash": json.dumps(card).encode(),
        "paths": json.dumps(list(dataset.paths or ())).encode(),
    }
    path = tmp_path / "photos.index"
    encoding.encode_to_index(model, dataset.items, path, attachments=kept)
    index = jaxhash.open_index(path, model)
    picture = photos / "beach" / "01.png"
    assert index.query(picture, k=1, pool=12).paths == [str(picture)]
    before = by_path(index)
    paint(photos / "new.png", 70)
    assert index.update() == Changes(added=1, changed=12)
    assert before.items() <= by_path(index).items()
    assert index.update() == Changes(unchanged=13)


def test_what_is_no_folder_of_images_is_not_updated(model: Model, tmp_path: Path) -> None:
    items = np.zeros((3, 8, 8, 1), np.uint8)
    dataset = jaxhash.Dataset("d", "images", items, None, {"all": np.arange(3)}, ())
    index = jaxhash.index(model, dataset, tmp_path / "d.index")
    for change in (index.update, lambda: index.add(["a.png"])):
        with pytest.raises(ValueError, match="not made from image files"):
            change()
    zeros = np.zeros((1, -(-model.bits // 8)), np.uint8)
    bare = jaxhash.ImageIndex(model, HashIndex(zeros, bits=model.bits))
    with pytest.raises(ValueError, match="give a path"):
        bare.save()


# ---------------------------------------------------------------- files compared

paths = st.sampled_from("abcdef")
states = st.tuples(st.sampled_from([b"x", b"y", b"zz"]), st.integers(1, 2))


@settings(deadline=None)
@given(st.dictionaries(paths, states), st.dictionaries(paths, states), st.booleans())
def test_every_file_has_one_fate(
    before: dict[str, tuple[bytes, int]], now: dict[str, tuple[bytes, int]], remembered: bool
) -> None:
    known = {path: item for item, path in enumerate(before)}
    kept = np.zeros(len(before), STATE)
    for item, (content, mtime) in enumerate(before.values()):
        kept[item] = (len(content), mtime, 0)
        if remembered:
            kept["digest"][item] = np.frombuffer(content.ljust(16), np.uint8)
    there = {path: Stat(len(content), mtime) for path, (content, mtime) in now.items()}
    digests: Callable = lambda wanted: [now[path][0].ljust(16) for path in wanted]  # noqa: E731
    found = files.compare(known, kept, there, digests)

    fates = [*found.same, *found.touched, *found.moved, *found.changed, *found.gone]
    assert sorted(fates) == list(range(len(before))), "each item has one"
    stayed = {list(before)[item] for item in (*found.same, *found.touched, *found.changed)}
    moved = {path for path, _ in found.moved.values()}
    assert sorted([*stayed, *moved, *found.new]) == sorted(now), "and each file"
    assert stayed == before.keys() & now.keys()
    for item, path in enumerate(before):
        if item in found.same:
            assert there[path] == Stat(len(before[path][0]), before[path][1])
        if item in found.touched:
            assert before[path][0] == now[path][0]
        if item in found.changed and remembered:
            assert before[path][0] != now[path][0]
        if item in found.moved:
            assert remembered
            assert now[found.moved[item][0]][0] == before[path][0]
    if remembered:  # as many as can be are known again
        lost = [before[list(before)[item]][0] for item in found.gone]
        assert not set(lost) & {now[path][0] for path in found.new}


def test_a_state_is_never_seen_half(model: Model, photos: Path, tmp_path: Path) -> None:
    """A query during an update answers from what there was when it began."""
    index = jaxhash.index(model, photos, tmp_path / "photos.index")
    for number in range(30, 54):  # three batches on the eight devices of the tests
        paint(photos / f"{number}.png", number)
    shutil.rmtree(photos / "town")
    seen = []

    def ask(_: int) -> None:
        found = index.query(photos / "beach" / "01.png", k=30)
        assert all(path is not None for path in found.paths)
        seen.append(len(found))

    index.update(batch_size=8, checkpoint=0, on_batch=ask)
    assert seen == [12, 14, 22]
    assert len(index) == 30


def test_codes_alone_stay_codes_alone(model: Model, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "photos.index"
    index = index_files.open_or_begin(path, model, photos)
    index.update(photos, features=None)
    assert index.codes.get([])[1] is None
    paint(photos / "new.png", 70)
    assert index.update().added == 1
    assert jaxhash.open_index(path, model).codes.get([])[1] is None
