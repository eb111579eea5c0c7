"""Shards: encoded by any process, through kills, bit for bit; opened as one; wrong ones named."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_runs import small_model

import jaxhash
from jaxhash import encoding, models
from jaxhash.cli import main
from jaxhash.data.folders import load_images
from jaxhash.data.places import Place
from jaxhash.shards import folder as folders
from jaxhash.shards import workers
from jaxhash.shards.encoding import encode_missing
from jaxhash.shards.records import Names, open_shards
from search import DamagedFile, HashIndex
from search.shards import file_name

REPOSITORY = Path(__file__).resolve().parent.parent
SHARDS = 4
BROKEN = 11  # the line of a file that is no image


def tiny_model(seed: int = 0) -> models.Model:
    return small_model(seed, network="dsh", item_shape=(16, 16, 3), mean=(0.5,) * 3, std=(0.2,) * 3)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 pictures in two folders, one of them nonsense, and the model beside them."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    for number in range(26):
        path = folder / "photos" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(path)
    names = sorted((folder / "photos").rglob("*.png"))
    names[BROKEN].write_bytes(b"nonsense")
    (folder / "run").mkdir()
    models.save(tiny_model(), folder / "run")
    return folder


@pytest.fixture(scope="module")
def encoded(photos: Path) -> Path:
    """All shards, encoded by one process."""
    model = jaxhash.load(photos / "run")
    folders.begin(photos / "all", model, str(photos / "photos"), SHARDS)
    encode_missing(model, photos / "all", max_undecodable=0.1, batch_size=8)
    return photos / "all"


def content(folder: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def test_shards_hold_what_one_index_does(photos: Path, encoded: Path) -> None:
    model = jaxhash.load(photos / "run")
    files = sorted(str(path) for path in (photos / "photos").rglob("*.png"))
    good = [line for line in range(26) if line != BROKEN]
    alone = load_images([files[line] for line in good], image_size=16)
    expected = encoding.encode(model, alone.items, batch_size=8)
    index, items = open_shards(encoded)
    assert index.ids.tolist() == good
    codes, features = index.get(good)
    np.testing.assert_array_equal(codes, expected.codes)
    np.testing.assert_array_equal(features, expected.features)
    assert items.titles(good) == [files[line] for line in good]
    assert np.array_equal(items.pictures([3], 24)[0][:, :, 0].shape, (24, 24))
    found = jaxhash.open_index(encoded, model).query(files[5], k=2, pool=9)
    assert (found.ids[0], found.paths[0]) == (5, files[5])
    index.save(photos / "one.index")
    assert HashIndex.open(photos / "one.index", verify=True).ids.tolist() == good
    assert index.add(codes[:1], features[:1]).tolist() == [26]


# One worker of several: it encodes until the file `stop` is there, then waits to be killed.
WORKER = """
import sys, time
from pathlib import Path
from jaxhash import models
from jaxhash.shards import encoding
run, folder, start, stop = sys.argv[1:]
def pause(images):
    print("batch", flush=True)
    while stop != "never":
        time.sleep(0.05)
encoding.encode_missing(models.load(Path(run)), folder, start=int(start), max_undecodable=0.1,
    batch_size=8, on_batch=pause)
"""


def start_worker(photos: Path, folder: Path, start: int, stop: str) -> subprocess.Popen:
    words = map(str, (photos / "run", folder, start, stop))
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_NUM_CPU_DEVICES": "8"}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *words],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_worker_costs_its_shard_and_nothing_else(photos: Path, encoded: Path) -> None:
    """Two processes at once: one dies inside a shard, and the other takes that shard over."""
    model, folder = jaxhash.load(photos / "run"), photos / "killed"
    manifest = folders.begin(folder, model, str(photos / "photos"), SHARDS)
    other = start_worker(photos, folder, 2, "here")
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "batch\n"  # it is inside shard 2, and stays there
        done: list[int] = []

        def on_shard(shard: int) -> None:
            done.append(shard)
            if len(done) == SHARDS - 1:  # all that can be done beside it
                assert 2 not in done
                assert not folders.is_done(folder, manifest, 2)
                os.kill(other.pid, signal.SIGKILL)

        options = {"max_undecodable": 0.1, "batch_size": 8}
        encode_missing(model, folder, on_shard=on_shard, **options)
    finally:
        other.kill()
        other.communicate(timeout=60)
    assert done[-1] == 2
    assert content(folder) == content(encoded)  # to the byte, and no file left over


def test_a_rerun_encodes_what_is_missing_alone(photos: Path, encoded: Path) -> None:
    model, folder = jaxhash.load(photos / "run"), photos / "again"
    shutil.copytree(encoded, folder)
    (folder / file_name(1, SHARDS)).unlink()
    cut = folder / file_name(3, SHARDS)
    cut.write_bytes(cut.read_bytes()[:-100])
    (folder / ".00001.lock").touch()  # of a process that was killed
    before = {entry.name: entry.stat().st_mtime_ns for entry in folder.iterdir()}
    manifest = folders.begin(folder, model, str(photos / "photos"), SHARDS)
    assert folders.missing(folder, manifest) == [1, 3]
    images, done = [], []
    encode_missing(
        model,
        folder,
        max_undecodable=0.1,
        batch_size=8,
        on_batch=images.append,
        on_shard=done.append,
    )
    assert (done, sum(images)) == ([1, 3], 7 - 1 + 7)  # the broken one is in shard 1
    assert content(folder) == content(encoded)
    for shard in (0, 2):
        name = file_name(shard, SHARDS)
        assert (folder / name).stat().st_mtime_ns == before[name]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_the_command_goes_on_and_says_so(
    workers: str, photos: Path, encoded: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = photos / f"command-{workers}"
    shutil.copytree(encoded, folder)
    if workers == "1":
        (folder / file_name(1, SHARDS)).unlink()
    words = ["encode", "--run", str(photos / "run"), "--data", str(photos / "photos")]
    words += ["--out", str(folder), "--max-undecodable", "0.1", "--batch-size", "8"]
    main([*words, "--shards", str(SHARDS), "--workers", workers])
    said = capsys.readouterr().out
    done = SHARDS - (workers == "1")
    assert f"{done} of {SHARDS} shards are done\nleft out {photos}/photos/" in said
    assert f"25 codes of 11 bits in {SHARDS} shards" in said
    assert content(folder) == content(encoded)
    main(["query", "--run", words[2], "--index", str(folder), f"{photos}/photos/a/04.png"])
    assert capsys.readouterr().out.splitlines()[2].endswith(f"  {photos}/photos/a/04.png")
    for other, message in (
        (["--shards", "5"], "another shards; go on with the same, give --overwrite"),
        (["--features", "none"], "another features"),
        (["--part", "train"], "--part is for one index"),
        (["--workers", "0"], "--workers is 0"),
        (["--data", str(photos)], "another data"),
        (["--out", str(photos / "x"), "--workers", "2"], "--workers is for shards"),
        (["--out", str(photos), "--shards", "2"], "holds other files"),
        (["--out", str(photos / "no" / "x"), "--shards", "2"], "no such folder"),
        (["--out", str(photos / "x"), "--shards", "99"], "there are 26 images"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([*words, *other])
    assert content(folder) == content(encoded)


def test_a_worker_whose_driver_was_killed_ends(
    photos: Path, encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where that was before it had begun."""

    class Ended(Exception):
        pass

    def end(code: int) -> None:
        raise Ended

    monkeypatch.setattr(os, "_exit", end)
    folder, cache = photos / "orphan", jax.config.values["jax_compilation_cache_dir"]
    shutil.copytree(encoded, folder)
    (folder / file_name(1, SHARDS)).unlink()
    options = {"max_undecodable": 0.1, "batch_size": 8}
    words = (str(photos / "run"), str(folder), 0, [0], 0, options, cache)
    with pytest.raises(Ended):
        workers._work(os.getppid() + 1, *words)
    assert folders.missing(folder, folders.load(folder)) == [1]
    workers._work(os.getppid(), *words)
    assert content(folder) == content(encoded)


def test_too_many_broken_images_end_it_and_keep_what_is_done(photos: Path) -> None:
    model, folder = jaxhash.load(photos / "run"), photos / "broken"
    manifest = folders.begin(folder, model, str(photos / "photos"), SHARDS)
    with pytest.raises(ValueError, match=r"1 of 26 images cannot be decoded.*\n.*png: not an"):
        encode_missing(model, folder, batch_size=8)
    assert folders.missing(folder, manifest) == [2, 3]


def test_a_disk_that_fails_leaves_the_shard_undone(
    photos: Path, encoded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be read now is no gap, and a full disk leaves no half-written file."""
    model, folder = jaxhash.load(photos / "run"), photos / "failing"
    shutil.copytree(encoded, folder)
    (folder / file_name(0, SHARDS)).unlink()
    failing = {"jaxhash.data.stored.read": OSError(5, "Input/output error")}
    failing["search.files.writing.Sections.write"] = OSError(28, "No space left on device")
    for name, error in failing.items():
        with monkeypatch.context() as patch:

            def fail(*_: object, error: OSError = error) -> bytes:
                raise error

            patch.setattr(name, fail)
            with pytest.raises(OSError, match=error.strerror):
                encode_missing(model, folder, max_undecodable=0.1, batch_size=8)
        assert content(folder).keys() == content(encoded).keys() - {file_name(0, SHARDS)}
    encode_missing(model, folder, max_undecodable=0.1, batch_size=8)
    assert content(folder) == content(encoded)


def test_data_that_is_not_there_is_no_gap(photos: Path, encoded: Path) -> None:
    """As on a machine that does not see the disk: a shard is not done without all of its images."""
    model, folder = jaxhash.load(photos / "run"), photos / "unseen"
    manifest = folders.begin(folder, model, str(photos / "photos"), SHARDS)
    (photos / "photos" / "b").rename(photos / "elsewhere")  # all of the last shard, and more
    try:
        with pytest.raises(FileNotFoundError, match=r"png: not there, nor any .*00003-of-00004"):
            encode_missing(model, folder, max_undecodable=1, batch_size=8, start=3)
        assert folders.missing(folder, manifest) == [0, 1, 2, 3]
    finally:
        (photos / "elsewhere").rename(photos / "photos" / "b")
    encode_missing(model, folder, max_undecodable=0.1, batch_size=8)
    assert content(folder) == content(encoded)


def test_a_shard_that_does_not_belong_is_named(photos: Path, encoded: Path) -> None:
    model = tiny_model(seed=1)
    folder, other = photos / "foreign", photos / "other"
    shutil.copytree(encoded, folder)
    folders.begin(other, model, str(photos / "photos"), SHARDS)
    encode_missing(model, other, max_undecodable=0.1, batch_size=8)
    name = file_name(2, SHARDS)
    for source, error, message in (
        (other / name, ValueError, f"{name}: its attachment 'jaxhash' differs .*generation"),
        (None, FileNotFoundError, f"1 of 4 shards are missing, the first of them {name}"),
        (encoded / file_name(1, SHARDS), ValueError, f"{name}: its ids from 6 overlap"),
        (photos / "photos" / "a" / "00.png", DamagedFile, f"{name}: not an index file"),
    ):
        (folder / name).unlink(missing_ok=True)
        if source is not None:
            shutil.copy(source, folder / name)
        with pytest.raises(error, match=message):
            open_shards(folder)
    shutil.copy(encoded / name, folder / name)
    with pytest.raises(ValueError, match="made by another model"):
        jaxhash.open_index(folder, model)
    shutil.copy(other / folders.MANIFEST, folder / folders.MANIFEST)
    with pytest.raises(ValueError, match="of another generation than manifest"):
        open_shards(folder)
    with pytest.raises(ValueError, match="begun with another model"):
        encode_missing(jaxhash.load(photos / "run"), folder)
    shutil.copy(encoded / file_name(0, SHARDS), folder / file_name(0, 9))
    with pytest.raises(ValueError, match="several divisions, of 4 and of 9"):
        open_shards(folder)
    with pytest.raises(FileNotFoundError, match="no shards in this folder"):
        HashIndex.open(photos / "run")
    manifest = json.loads((folder / folders.MANIFEST).read_text())
    for broken in (manifest | {"format": 2}, manifest | {"colour": "red"}, {}):
        (folder / folders.MANIFEST).write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=r"manifest\.json is"):
            folders.load(folder)


def test_begun_anew_it_is_another_generation(photos: Path, encoded: Path) -> None:
    model, folder = tiny_model(seed=1), photos / "anew"
    shutil.copytree(encoded, folder)
    manifest = folders.begin(folder, model, str(photos / "photos"), 3, overwrite=True)
    assert folders.missing(folder, manifest) == [0, 1, 2]
    assert sorted(content(folder)) == sorted(
        [folders.MANIFEST, *(file_name(shard, 3, "lines") for shard in range(3))]
    )


def test_two_processes_that_begin_at_once_make_one_list(photos: Path, encoded: Path) -> None:
    """The second waits, and finds what the first has made."""
    model, folder = jaxhash.load(photos / "run"), photos / "twice"
    folder.mkdir()
    with folders.held(folder / ".begin.lock") as first:
        assert first
        with folders.held(folder / ".begin.lock", wait=False) as second:
            assert not second
    made = folders.begin(folder, model, str(photos / "photos"), SHARDS)
    assert made == folders.load(encoded)


def test_names_are_looked_up_in_any_shard(tmp_path: Path) -> None:
    made = [Place(f"/photos/{number}.jpg") for number in range(23)]
    for shards in (1, 2, 5, 23):
        items, digest = folders._write_lines(tmp_path, iter(made), shards, "photos")
        manifest = folders.Manifest("photos", items, shards, digest, "model", None, 16, 3)
        names = Names(tmp_path, manifest)
        assert list(names) == [place.name for place in made]
        assert [
            place
            for shard in range(shards)
            for place in folders.places_of(tmp_path, manifest, shard)
        ] == made
    assert names[2:4] == ["/photos/2.jpg", "/photos/3.jpg"]
    with pytest.raises(IndexError, match="id 23"):
        names[23]
    (tmp_path / file_name(4, 5, "lines")).write_bytes(b'"a.jpg"\n')
    five = folders.Manifest("photos", 23, 5, digest, "model", None, 16, 3)
    with pytest.raises(ValueError, match="has 1 lines, not 5"):
        folders.places_of(tmp_path, five, 4)


# Stands for Ray, whose start takes seconds, and which takes SIGTERM for itself in the main thread.
STARTING = """
import signal, sys, threading, time, types
class Ray(types.ModuleType):
    def init(self, address, **_):
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        if address == "nowhere":
            raise OSError("nobody answers")
        if address == "slow":
            self.wait()
    def is_initialized(self):
        return False
    def shutdown(self):
        print("left", flush=True)
    def wait(self):
        print("waits", flush=True)
        time.sleep(60)
sys.modules["ray"] = ray = Ray("ray")
from jaxhash.shards.cluster import joined
try:
    with joined(sys.argv[1]):
        ray.wait()
except OSError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGTERM is of POSIX")
@pytest.mark.parametrize(("address", "left"), [("slow", ""), ("quick", "left\n")])
def test_sigterm_ends_who_joins_a_cluster(address: str, left: str) -> None:
    """At once while it starts, and after its end otherwise; with one code."""
    process = subprocess.Popen(
        [sys.executable, "-c", STARTING, address],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "waits\n"
    process.terminate()
    assert process.communicate(timeout=60)[0] == left
    assert process.returncode == 128 + signal.SIGTERM


def test_a_cluster_that_is_not_there_is_named() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STARTING, "nowhere"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.stdout == "left\nnowhere: no Ray cluster; nobody answers\n"
