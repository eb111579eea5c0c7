"""Index files: as documented, refused when damaged, whole whatever happens while they are saved."""

import itertools
import os
import struct
import zlib
from pathlib import Path

import naive
import numpy as np
import pytest

from search import DamagedFile, HashIndex
from search.files import storage

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
