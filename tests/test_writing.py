"""Writing an index file: whole or not at all, in batches, whatever happens meanwhile."""

import errno
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_storage import same, small

from search import HashIndex, Writer
from search.files import atomic, writing

REPOSITORY = Path(__file__).parent.parent


def test_saving_over_the_mapped_file_and_keeping_its_permissions(tmp_path, rng):
    path = tmp_path / "i.index"
    codes = rng.integers(0, 256, (700, 4), dtype=np.uint8)
    HashIndex(codes, features=codes.astype(np.float32)).save(path)
    path.chmod(0o640)
    index = HashIndex.open(path)
    index.save(path)
    assert path.stat().st_mode & 0o777 == 0o640
    index.remove([5])
    link = tmp_path / "link"
    link.symlink_to(path)
    index.save(link)
    assert link.is_symlink()
    np.testing.assert_array_equal(HashIndex.open(path, verify=True).ids, index.ids)
    found = index.search(codes[:3], 9)
    np.testing.assert_array_equal(HashIndex.open(path).search(codes[:3], 9)[1], found[1])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["i.index", "link"]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(1, 70),
    batches=st.lists(st.integers(0, 600), max_size=5),
    dtype=st.sampled_from([None, np.float16, np.float32]),
    numbering=st.sampled_from(["none", "implicit", "spread"]),
)
def test_writing_in_batches_equals_saving_the_whole(
    tmp_path_factory, seed, bits, batches, dtype, numbering
):
    folder = tmp_path_factory.mktemp("writer")
    rng = np.random.default_rng(seed)
    count, width = sum(batches), -(-bits // 8)
    codes = rng.integers(0, 256, (count, width), dtype=np.uint8)
    features = None if dtype is None else rng.standard_normal((count, 3)).astype(dtype)
    ids = {"none": None, "implicit": np.arange(count), "spread": np.arange(count) * 3 - 50}[
        numbering
    ]
    with Writer(folder / "batches", bits=bits) as writer:
        for start, size in zip(np.cumsum([0, *batches]), batches, strict=False):
            part = slice(start, start + size)
            writer.append(
                codes[part],
                None if features is None else features[part],
                None if ids is None else ids[part],
            )
        writer.attach("names", b"x")
    written = HashIndex.open(folder / "batches", verify=True)
    if not batches:  # nothing said what the features are
        features = None
    whole = HashIndex(codes, bits=bits, features=features, ids=ids, attachments={"names": b"x"})
    assert same(written, whole)


@pytest.mark.parametrize("ids", [[-5, 1], [0, 1], [0, 2], [1, 2]])
def test_ids_are_left_out_only_if_they_count_from_zero(ids, tmp_path):
    with Writer(tmp_path / "i", bits=8) as writer:
        for start in (0, 1):
            writer.append(np.ones((1, 1), np.uint8), ids=np.array(ids[start : start + 1]))
    with Writer(tmp_path / "j", bits=8) as writer:
        writer.append(np.ones((2, 1), np.uint8), ids=np.array(ids))
    for name in "ij":
        assert HashIndex.open(tmp_path / name, verify=True).ids.tolist() == ids
        present = "ids" in naive.read_index_file((tmp_path / name).read_bytes())[3]
        assert present == (ids != [0, 1])


def test_the_writer_refuses_batches_that_do_not_fit(tmp_path):
    path = tmp_path / "i"
    codes, features, ids = np.ones((2, 1), np.uint8), np.ones((2, 3), np.float16), np.array([4, 9])
    with Writer(path, bits=8) as writer:
        writer.append(codes, features, ids)
        for arguments, error, words in [
            ((codes, features, ids + 5), ValueError, "ids must strictly ascend through all"),
            ((codes, None, ids + 9), ValueError, "features are missing"),
            ((codes, features.astype(np.float32), ids + 9), ValueError, "features of type float32"),
            ((codes, features[:, :2], ids + 9), ValueError, "features of type"),
            ((codes, features[:1], ids + 9), ValueError, "features must have 2 rows"),
            ((codes, features * np.nan, ids + 9), ValueError, "features must be finite"),
            ((codes, features, None), ValueError, "ids must be given"),
            ((codes, features, ids), ValueError, "ids must strictly ascend"),
            ((codes, features, ids[::-1] + 9), ValueError, "ids must strictly ascend"),
            ((codes, features, ids + 9.0), TypeError, "ids must be"),
            ((codes, features, ids[:1] + 9), ValueError, "ids must have the shape"),
            ((np.ones((2, 2), np.uint8), features, ids + 9), ValueError, "codes"),
            ((codes.astype(int), features, ids + 9), TypeError, "codes"),
        ]:
            with pytest.raises(error, match=words):
                writer.append(*arguments)
        for name in ("", "x" * 70, "a\0b"):
            with pytest.raises(ValueError, match="attachments"):
                writer.attach(name, b"")
        with pytest.raises(TypeError, match="data must be bytes, not int"):
            writer.attach("a", 5)
        writer.append(codes, features, ids + 9)
    assert HashIndex.open(path, verify=True).ids.tolist() == [4, 9, 13, 18]
    with pytest.raises(ValueError, match="not open"):
        writer.append(codes, features, ids)
    with pytest.raises(ValueError, match="bits"):
        Writer(path, bits=0)
    for next_id in (-1, (1 << 63) + 1, 1 << 64):  # such a file could not be opened, or not written
        with pytest.raises(ValueError, match="next_id"):
            Writer(path, bits=8, next_id=next_id)
    with Writer(tmp_path / "plain", bits=8) as writer:
        writer.append(codes)
        with pytest.raises(ValueError, match="features"):
            writer.append(codes, features)
    assert len(HashIndex.open(tmp_path / "plain", verify=True)) == 2


def test_an_exception_while_writing_leaves_the_old_file(tmp_path):
    path, index = small(tmp_path)

    def interrupted():
        with Writer(path, bits=8) as writer:
            writer.append(np.ones((1000, 1), np.uint8))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert same(HashIndex.open(path, verify=True), index)
    assert [each.name for each in tmp_path.iterdir()] == ["small.index"]


def test_a_writer_that_could_not_finish_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(writing.Sections, "close", refuse)
    writer = Writer(tmp_path / "i", bits=8)
    with pytest.raises(OSError, match="no"), writer:
        writer.append(np.ones((3, 1), np.uint8))
    with pytest.raises(ValueError, match="the writer is not open"):
        writer.append(np.ones((3, 1), np.uint8))
    assert not list(tmp_path.iterdir())


def refuse(*_, **__):
    raise OSError("no")


@pytest.mark.parametrize("place", ["folder", "nowhere/file"])
def test_saving_where_no_file_can_be(place, tmp_path):
    (tmp_path / "folder").mkdir()
    index = HashIndex(np.zeros((1, 1), np.uint8))
    with pytest.raises(OSError, match="path"):
        index.save(tmp_path / place)
    with pytest.raises(OSError, match="path"), Writer(tmp_path / place, bits=8):
        pass
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("unnamed", [True, False])
@pytest.mark.parametrize("linkable", [True, False])
def test_saving_without_the_help_of_linux(unnamed, linkable, tmp_path, monkeypatch):
    """Systems without files that have no name, and those that do not let one be named."""
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    if not linkable:

        def refuse(*_, **__):
            raise OSError(errno.EPERM, "not allowed")

        monkeypatch.setattr(os, "link", refuse)
    path, index = small(tmp_path)
    assert same(HashIndex.open(path, verify=True), index)
    with Writer(path, bits=8) as writer:
        writer.append(np.ones((300, 1), np.uint8))
    assert len(HashIndex.open(path, verify=True)) == 300
    assert [each.name for each in tmp_path.iterdir()] == ["small.index"]

    class Full(Exception):
        pass

    def fail(*_, **__):
        raise Full

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, step, fail)
            with pytest.raises(Full):
                index.save(path)
        assert len(HashIndex.open(path, verify=True)) == 300
        assert [each.name for each in tmp_path.iterdir()] == ["small.index"]


@pytest.mark.parametrize("unnamed", [True, False])
def test_the_file_is_on_the_disk_before_it_is_renamed_and_the_name_after(
    unnamed, tmp_path, monkeypatch
):
    """The order that makes a file survive a power cut: content, name, folder."""
    if not unnamed:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    events = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        kind = os.fstat(descriptor)
        events.append(("synced", kind.st_ino, kind.st_size if stat.S_ISREG(kind.st_mode) else 0))
        fsync(descriptor)

    def replaced(source, target):
        events.append("replaced")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    path, _ = small(tmp_path)
    file, folder = path.stat(), tmp_path.stat()
    assert events == [
        ("synced", file.st_ino, file.st_size),
        "replaced",
        ("synced", folder.st_ino, 0),
    ]


# Runs by itself, because modules are to be imported on a system like that.
ELSEWHERE = textwrap.dedent("""
    import importlib, os, pathlib, pkgutil, sys

    # What Windows does not have, and what it refuses.
    for name in ("fchmod", "O_TMPFILE", "O_CLOEXEC", "register_at_fork", "fork", "pwrite"):
        if hasattr(os, name):
            delattr(os, name)
    os.O_BINARY = 0
    real_open, real_unlink = os.open, pathlib.Path.unlink
    opened = {}

    def refuse_folders(path, flags, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        descriptor = real_open(path, flags, *arguments, **options)
        opened[str(path)] = descriptor
        return descriptor

    def refuse_open_files(self, *arguments, **options):
        try:
            in_use = os.path.sameopenfile(opened[str(self)], opened[str(self)])
        except (KeyError, OSError):
            in_use = False
        if in_use:
            raise PermissionError(32, "used by another process", str(self))
        real_unlink(self, *arguments, **options)

    os.open, pathlib.Path.unlink = refuse_folders, refuse_open_files

    import numpy as np
    import search
    names = [name for _, name, _ in pkgutil.walk_packages(search.__path__, "search.")]
    for name in names:
        importlib.import_module(name)
    folder = pathlib.Path(sys.argv[1])
    index = search.HashIndex(np.arange(600, dtype=np.uint16).view(np.uint8).reshape(-1, 2))
    for removed in ([], [7]):  # each of the two ways to save
        index.remove(removed)
        for _ in range(2):
            index.save(folder / "i")
            found = search.HashIndex.open(folder / "i", mmap=False, verify=True)
            assert found.ids.tolist() == index.ids.tolist()
            assert os.listdir(folder) == ["i"], os.listdir(folder)
    try:
        with search.Writer(folder / "i", bits=8) as writer:
            raise KeyError
    except KeyError:
        assert os.listdir(folder) == ["i"], os.listdir(folder)
    print(len(names))
""")


def test_every_module_is_imported_and_saves_on_a_system_without_fchmod(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(list((REPOSITORY / "search").rglob("*.py"))) - 1


def test_a_write_that_fails_anywhere_leaves_the_old_file(tmp_path, monkeypatch):
    path, index = small(tmp_path)
    bigger = HashIndex(np.ones((3000, 2), np.uint8), features=np.ones((3000, 8), np.float32))
    bigger.remove([0])
    real, writes, failing = writing.Sections.write, [], []

    def write(self, data):
        writes.append(len(data))
        if len(writes) in failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(self, data)

    monkeypatch.setattr(writing.Sections, "write", write)
    bigger.save(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").unlink()
    needed = len(writes)
    assert needed >= 3
    for limit in range(1, needed + 1):
        writes.clear()
        failing[:] = [limit]
        with pytest.raises(OSError, match="No space"):
            bigger.save(path)
        assert same(HashIndex.open(path, verify=True), index)
        assert [each.name for each in tmp_path.iterdir()] == ["small.index"]


# Runs by itself, because it forks, limits file sizes and kills: not for a process with jax in it.
DESTROYER = textwrap.dedent("""
    import errno, os, resource, signal, sys, time
    import numpy as np
    from search import HashIndex, Writer

    folder = sys.argv[1]
    path = os.path.join(folder, "kept.index")
    writing = sys.modules["search.files.writing"]
    storage_piece = 1 << 12
    writing.PIECE = storage_piece  # many small writes, many moments to die in
    rng = np.random.default_rng(0)
    versions = []
    for count in (2000, 3000):
        codes = rng.integers(0, 256, (count, 8), dtype=np.uint8)
        features = rng.standard_normal((count, 16)).astype(np.float16)
        versions.append(HashIndex(codes, features=features))
    versions[1].remove([7])  # saved by the streaming writer
    versions[0].save(path)
    lengths = {len(each) for each in versions}


    def check(allowed):
        index = HashIndex.open(path, verify=True)
        assert len(index) in allowed, len(index)
        return sorted(set(os.listdir(folder)) - {"kept.index"})


    def child(act):
        pid = os.fork()
        if pid == 0:
            try:
                act()
                os._exit(0)
            except BaseException as error:
                os.write(2, repr(error).encode())
                os._exit(1)
        return pid


    def dying_at(step, index):
        # Every call that touches the disk is a moment to die in.
        calls = 0

        def counted(function):
            def call(*arguments, **options):
                nonlocal calls
                calls += 1
                if calls == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)
            return call

        def act():
            for name in ("fsync", "link", "replace", "fchmod"):
                setattr(os, name, counted(getattr(os, name)))
            writing.Sections.write = counted(writing.Sections.write)
            writing.Sections.close = counted(writing.Sections.close)
            index.save(path)
        return act


    deaths = litter = 0
    for index in versions:
        other = lengths - {len(index)}
        for step in range(1, 500):
            status = os.waitpid(child(dying_at(step, index)), 0)[1]
            if status == 0:
                assert check({len(index)}) == []
                break
            assert os.WTERMSIG(status) == signal.SIGKILL, status
            deaths += 1
            for name in check(lengths):  # died between naming and renaming
                litter += 1
                os.unlink(os.path.join(folder, name))
    print("killed at", deaths, "steps; left behind:", litter)

    def forever():
        while True:
            for index in versions:
                index.save(path)

    for moment in range(12):
        pid = child(forever)
        time.sleep(0.01 + 0.004 * moment)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for name in check(lengths):
            os.unlink(os.path.join(folder, name))

    versions[0].save(path)
    size = os.path.getsize(path)
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    full = 0
    for limit in range(0, 2 * size, size // 20):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
        try:
            versions[1].save(path)
        except OSError as error:
            assert error.errno == errno.EFBIG, error
            full += 1
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            assert check({len(versions[0])}) == []
    assert check({len(versions[1])}) == []
    print("full", full > 20)
""")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_every_step_or_on_a_full_disk_the_old_file_is_whole(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", DESTROYER, tmp_path],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    killed, full = done.stdout.splitlines()
    assert full == "full True"
    deaths, litter = int(killed.split()[2]), int(killed.split()[-1])
    assert deaths > 30
    if hasattr(os, "O_TMPFILE"):
        # Only between giving the new file its name and the renaming: once for each way to save.
        assert litter <= 2
