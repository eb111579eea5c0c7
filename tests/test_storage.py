"""Index files: as documented, refused when damaged, whole whatever happens while they are saved."""

import errno
import itertools
import os
import struct
import subprocess
import sys
import textwrap
import zlib
from pathlib import Path

import naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search import DamagedFile, HashIndex, Writer, atomic, storage, writing

GOLDEN = Path(__file__).parent / "golden"
REPOSITORY = Path(__file__).parent.parent


def pattern(rows, columns, step):
    """Whole numbers that anybody can compute again."""
    return (np.arange(rows)[:, None] * step + np.arange(columns) * 7) % 251


def golden_indexes():
    """What the golden files of version 1 hold, by file name."""
    narrow = pattern(300, 2, 37).astype(np.uint8)
    narrow[:, 1] &= 0xE0
    return {
        "v1-plain-11-bits.index": HashIndex(narrow, bits=11),
        "v1-everything-48-bits.index": HashIndex(
            pattern(5, 6, 11).astype(np.uint8),
            features=pattern(5, 3, 13).astype(np.float16) / 8,
            ids=np.array([-7, -2, 3, 1 << 40, (1 << 63) - 1]),
            attachments={"paths": b"a.png\nb.png", "empty": b""},
        ),
        "v1-empty-float32.index": HashIndex(
            np.empty((0, 8), np.uint8), features=np.empty((0, 4), np.float32)
        ),
    }


def same(one, other):
    """Whether two indexes hold the same."""
    a, b = one._state, other._state
    if (a.bits, one.attachments, a.features) != (b.bits, other.attachments, b.features):
        return False
    if not np.array_equal(one.ids, other.ids):
        return False
    every = np.arange(len(one))
    for left, right in zip(a.segments, b.segments, strict=True):
        if not np.array_equal(left.take(every), right.take(every)):
            return False
        if left.features is not None and not np.array_equal(left.features, right.features):
            return False
    return True


@pytest.mark.parametrize("name", golden_indexes())
def test_golden_files_are_read_and_written_to_the_byte(name, tmp_path):
    expected = golden_indexes()[name]
    for mmap in (True, False):
        assert same(HashIndex.open(GOLDEN / name, mmap=mmap, verify=True), expected)
    expected.save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == (GOLDEN / name).read_bytes()


@pytest.mark.parametrize("name", golden_indexes())
def test_the_format_is_what_its_description_says(name):
    bits, count, codes, rest = naive.read_index_file((GOLDEN / name).read_bytes())
    index = golden_indexes()[name]
    segment = index._state.segments[0]
    assert (bits, count) == (index.bits, len(index))
    np.testing.assert_array_equal(codes, segment.take(np.arange(count)))
    if segment.ids is None:
        assert "ids" not in rest
    else:
        np.testing.assert_array_equal(rest["ids"], segment.ids)
    if segment.features is not None:
        np.testing.assert_array_equal(rest["features"], segment.features)
    attached = {key[11:]: value.tobytes() for key, value in rest.items() if "/" in key}
    assert attached == index.attachments


def test_nine_bytes_a_code_at_most(tmp_path):
    HashIndex(np.zeros((10_000, 8), np.uint8), ids=np.arange(10_000)).save(tmp_path / "i")
    assert (tmp_path / "i").stat().st_size <= 9 * 10_000


def small(folder):
    """A small file with every kind of section, and what it answers."""
    path = folder / "small.index"
    index = HashIndex(
        np.array([[1], [2], [4], [8], [15]], np.uint8) << 4,
        bits=4,
        features=np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 1]], np.float16),
        ids=np.array([3, 5, 6, 9, 11]),
        attachments={"a": b"xyz"},
    )
    index.save(path)
    return path, index


def answers(index):
    """All that a file could change in what an index says."""
    queries = np.arange(4, dtype=np.uint8)[:, None] << 6
    fine = np.full((4, 2), 3.0)
    return [
        *index.search(queries, 6),
        *index.search(queries, 6, query_features=fine, pool=4),
        index.ids,
        index.attachments,
    ]


def test_every_flipped_byte_is_refused(tmp_path):
    path, index = small(tmp_path)
    whole, expected = path.read_bytes(), answers(index)
    for mmap in (True, False):
        np.testing.assert_equal(answers(HashIndex.open(path, mmap=mmap, verify=True)), expected)
    unnoticed = []
    with open(path, "r+b", buffering=0) as file:
        for at, byte in enumerate(whole):
            for flip in (0xFF, 1 << at % 8):
                file.seek(at)
                file.write(bytes([byte ^ flip]))
                with pytest.raises(DamagedFile, match=r"small\.index"):
                    HashIndex.open(path, verify=True)
                try:
                    opened = HashIndex.open(path, mmap=False)
                except DamagedFile:
                    pass
                else:  # a gap between sections: it holds nothing
                    np.testing.assert_equal(answers(opened), expected)
                    unnoticed.append(at)
            file.seek(at)
            file.write(bytes([byte]))
    assert path.read_bytes() == whole
    assert not any(whole[at] for at in unnoticed)
    assert len(unnoticed) < len(whole)


def test_a_flipped_byte_never_crashes_an_unverified_mapped_search(tmp_path):
    path, _ = small(tmp_path)
    whole = path.read_bytes()
    opened, messages = 0, set()
    with open(path, "r+b", buffering=0) as file:
        for at, flip in itertools.product(range(len(whole)), (0xFF, 0x40)):
            os.pwrite(file.fileno(), bytes([whole[at] ^ flip]), at)
            try:
                found = HashIndex.open(path).search(
                    np.zeros((1, 1), np.uint8), 6, query_features=np.zeros((1, 2)), pool=5
                )
            except DamagedFile:
                continue
            except ValueError as error:  # features that are no longer finite
                messages.add(str(error)[:9])
            else:
                assert found[1].shape == (1, 6)
            finally:
                os.pwrite(file.fileno(), whole[at : at + 1], at)
            opened += 1
    assert 0 < opened < 2 * len(whole)
    assert messages == {"features:"}


def test_cut_short_at_every_length_or_extended_it_is_refused(tmp_path):
    path, _ = small(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedFile, match=r"small\.index"):
            HashIndex.open(path)
    for more in (b"\0", b"\0" * 64, b"\0" * 128, whole):
        path.write_bytes(whole + more)
        with pytest.raises(DamagedFile, match="the header says"):
            HashIndex.open(path)


def forge(whole, header=None, entries=None):
    """A file with other header fields or table entries and right checksums."""
    fields = list(storage.HEADER.unpack(whole[:60]))
    table = fields[6]
    rows = [list(row) for row in storage.ENTRY.iter_unpack(whole[table:])]
    for which, position, value in entries or []:
        rows[which][position] = value
    body = b"".join(storage.ENTRY.pack(*row) for row in rows)
    fields[8] = zlib.crc32(body)
    for position, value in header or []:
        fields[position] = value
    head = storage.HEADER.pack(*fields)
    return head + struct.pack("<I", zlib.crc32(head)) + whole[64:table] + body


HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("header", "entries", "words"),
    [
        ([(1, 2)], [], "format version 2"),
        ([(2, 0x0201)], [], "byte order"),
        ([(3, 0)], [], "0 bits"),
        ([(3, 5000)], [], "5000 bits"),
        ([(3, 9)], [], "does not fit 5 codes of 9 bits"),
        ([(4, 6)], [], "does not fit 6 codes"),
        ([(4, HUGE)], [], "does not fit"),
        ([(6, 0)], [], "does not end the file"),
        ([(6, HUGE)], [], "does not end the file"),
        ([(7, 3)], [], "does not end the file"),
        ([(7, (1 << 32) - 1)], [], "does not end the file"),
        ([], [(0, 0, b"code")], "no section 'codes'"),
        ([], [(1, 0, b"codes")], "twice"),
        ([], [(3, 0, b"other")], "unknown section"),
        ([], [(3, 0, b"\xff")], "UTF-8"),
        ([], [(0, 1, 9)], "unknown element type"),
        ([], [(0, 1, 0)], "unknown element type"),
        ([], [(0, 2, 4)], "unknown element type"),
        ([], [(0, 2, 2)], "unknown element type"),
        ([], [(0, 3, HUGE)], "not where it belongs"),
        ([], [(2, 4, HUGE), (2, 3, HUGE)], "not where it belongs"),
        ([], [(0, 3, 1 << 62), (0, 5, 1 << 62)], "not where it belongs"),
        ([], [(1, 6, 0)], "not where it belongs"),
        ([], [(1, 6, HUGE)], "not where it belongs"),
        ([], [(3, 3, 200)], "do not fill"),
        ([], [(2, 1, 2)], "does not|not where"),
        ([], [(0, 4, 2), (0, 5, 128)], "does not fit"),
    ],
)
def test_a_forged_file_is_refused_before_anything_is_mapped(header, entries, words, tmp_path):
    path, _ = small(tmp_path)
    whole = path.read_bytes()
    assert forge(whole) == whole
    path.write_bytes(forge(whole, header, entries))
    with pytest.raises(DamagedFile, match=words):
        HashIndex.open(path)


@pytest.mark.parametrize(
    ("section", "at", "byte", "words"),
    [
        ("codes", 0, 0x18, "past bit 4"),
        ("codes", 5, 0x10, "past the last code"),
        ("ids", 0, 5, "ascend"),
        ("features", 1, 0x7E, "NaN"),
    ],
)
def test_verify_looks_at_values_even_if_the_checksum_is_right(section, at, byte, words, tmp_path):
    path, _ = small(tmp_path)
    whole = bytearray(path.read_bytes())
    table = storage.HEADER.unpack(whole[:60])[6]
    for which, row in enumerate(storage.ENTRY.iter_unpack(whole[table:])):
        if row[0].rstrip(b"\0").decode() == section:
            start, size = row[6], {"codes": 256, "ids": 40, "features": 20}[section]
            whole[start + at] = byte
            checksum = zlib.crc32(whole[start : start + size])
            path.write_bytes(forge(bytes(whole), [], [(which, 7, checksum)]))
    HashIndex.open(path)
    with pytest.raises(DamagedFile, match=words):
        HashIndex.open(path, verify=True)


@pytest.mark.parametrize("content", [b"", b"\x89HIX", b"PK\3\4" + bytes(100), b"x" * 5000])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"other: (not an index file|cut short)"):
        HashIndex.open(tmp_path / "other")


def test_a_file_of_many_gigabytes_opens_without_being_read(tmp_path):
    """Sparse: a thousand million codes of 64 bits, all zero, whose checksum nobody computed."""
    path, count = tmp_path / "big.index", 1_000_000_000
    blocks = -(-count // 256)
    end = storage.ALIGNMENT + blocks * 8 * 256
    table = storage.ENTRY.pack(b"codes", 1, 3, blocks, 8, 256, storage.ALIGNMENT, 0)
    head = storage.HEADER.pack(
        storage.MAGIC, 1, 0x0102, 64, count, end + 128, end, 1, zlib.crc32(table)
    )
    try:
        with open(path, "wb") as file:
            file.write(head + struct.pack("<I", zlib.crc32(head)))
            file.seek(end)
            file.write(table)
    except OSError:
        pytest.skip("no room for a sparse file of 8 GB")
    if path.stat().st_blocks > 1000:
        pytest.skip("this file system has no sparse files")
    index = HashIndex.open(path)
    assert len(index) == count
    found = index.search(np.zeros((1, 8), np.uint8), 2, where=[count - 1, 7, 1 << 29])
    np.testing.assert_array_equal(found[1], [[7, 1 << 29]])


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
        writer.append(codes, features, ids + 9)
    assert HashIndex.open(path, verify=True).ids.tolist() == [4, 9, 13, 18]
    with pytest.raises(ValueError, match="not open"):
        writer.append(codes, features, ids)
    with pytest.raises(ValueError, match="bits"):
        Writer(path, bits=0)
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
    from search import HashIndex, Writer, storage

    folder = sys.argv[1]
    path = os.path.join(folder, "kept.index")
    writing = sys.modules["search.writing"]
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
