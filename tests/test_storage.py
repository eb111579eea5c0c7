"""Index files: as documented, refused when damaged, whole whatever happens while they are saved."""

import itertools
import os
import pickle
import struct
import zlib
from pathlib import Path

import naive
import numpy as np
import pytest

from search import DamagedFile, HashIndex, Writer
from search.files import checking, checksums, reading
from search.files import format as file_format

GOLDEN = Path(__file__).parent / "golden"
REPOSITORY = Path(__file__).parent.parent


def pattern(rows, columns, step):
    """Whole numbers that anybody can compute again."""
    return (np.arange(rows)[:, None] * step + np.arange(columns) * 7) % 251


def golden_indexes():
    """What the golden files of each version hold, by the end of their names."""
    narrow = pattern(300, 2, 37).astype(np.uint8)
    narrow[:, 1] &= 0xE0
    return {
        "plain-11-bits.index": HashIndex(narrow, bits=11),
        "everything-48-bits.index": HashIndex(
            pattern(5, 6, 11).astype(np.uint8),
            features=pattern(5, 3, 13).astype(np.float16) / 8,
            ids=np.array([-7, -2, 3, 1 << 40, (1 << 63) - 1]),
            attachments={"paths": b"a.png\nb.png", "empty": b""},
        ),
        "empty-float32.index": HashIndex(
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


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", golden_indexes())
def test_golden_files_are_read_and_the_newest_written_to_the_byte(name, version, tmp_path):
    expected = golden_indexes()[name]
    path = GOLDEN / f"{version}-{name}"
    for mmap, verify in itertools.product((True, False), (True, False)):
        read = HashIndex.open(path, mmap=mmap, verify=verify)
        assert same(read, expected)
        assert read._state.next_id == expected._state.next_id
        read.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == (GOLDEN / f"v2-{name}").read_bytes()


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("name", golden_indexes())
def test_the_format_is_what_its_description_says(name, version):
    content = (GOLDEN / f"{version}-{name}").read_bytes()
    bits, count, codes, rest = naive.read_index_file(content)
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


def test_the_longest_name_of_an_attachment_is_kept_and_a_longer_one_refused(tmp_path):
    """A name has 80 bytes in the table, eleven of which say that it is of an attachment."""
    codes, name = np.zeros((1, 1), np.uint8), "é" * 34 + "a"
    HashIndex(codes, attachments={name: b"x"}).save(tmp_path / "i")
    assert HashIndex.open(tmp_path / "i").attachments == {name: b"x"}
    with pytest.raises(ValueError, match="1 to 69 bytes"):
        HashIndex(codes, attachments={name + "b": b"x"})


def test_nine_bytes_a_code_at_most(tmp_path):
    HashIndex(np.zeros((10_000, 8), np.uint8), ids=np.arange(10_000)).save(tmp_path / "i")
    assert (tmp_path / "i").stat().st_size <= 9 * 10_000


CONTIGUOUS = "v3-from-1000-16-bits.index"


def contiguous():
    """What the golden file of version 3 holds."""
    return HashIndex(
        pattern(300, 2, 37).astype(np.uint8),
        features=pattern(300, 2, 13).astype(np.float16) / 8,
        ids=np.arange(1000, 1300),
    )


def test_ids_that_follow_each_other_cost_nothing(tmp_path):
    """Version 3, written for these alone; by hand, by parts and by `save`, to the byte."""
    expected, path = contiguous(), tmp_path / "i"
    golden = (GOLDEN / CONTIGUOUS).read_bytes()
    for mmap, verify in itertools.product((True, False), (True, False)):
        read = HashIndex.open(GOLDEN / CONTIGUOUS, mmap=mmap, verify=verify)
        assert same(read, expected)
        assert read._state.next_id == 1300
        read.save(path)
        assert path.read_bytes() == golden
    bits, count, codes, rest = naive.read_index_file(golden)
    assert (bits, count, rest["ids"].tolist()) == (16, 300, list(range(1000, 1300)))
    np.testing.assert_array_equal(codes, expected.get(expected.ids)[0])
    sizes = []
    for start in (0, 7):
        with Writer(path, bits=16) as writer:
            for part in np.split(np.arange(300), [100, 100, 101]):
                writer.append(codes[part], ids=start + part)
        sizes.append(path.stat().st_size)
        assert HashIndex.open(path, verify=True).ids.tolist() == list(range(start, start + 300))
    assert sizes[1] - sizes[0] <= 384  # two entries of the table, and a few bytes
    for ids, version in (([5], 2), ([5, 7], 2), ([-3, -2], 2), ([0, 1], 2), ([5, 6], 3)):
        with Writer(path, bits=16) as writer:
            writer.append(codes[: len(ids)], ids=np.array(ids))
        assert path.read_bytes()[8] == version
        assert HashIndex.open(path, verify=True).ids.tolist() == ids
        assert naive.read_index_file(path.read_bytes())[3].get("ids", np.arange(2)).tolist() == ids


@pytest.mark.parametrize("first", [1, 1000, (1 << 63) - 300])
def test_ids_that_follow_each_other_are_ids_like_others(first, rng, tmp_path):
    """An index from `first` on answers as the one from 0 does."""
    codes, fine = rng.integers(0, 16, (300, 1), np.uint8), rng.random((300, 3), np.float32)
    contiguous_ids = first + np.arange(300)
    HashIndex(codes, features=fine, ids=contiguous_ids).save(tmp_path / "i")
    for index in (
        HashIndex(codes, features=fine, ids=contiguous_ids),
        HashIndex.open(tmp_path / "i"),
        pickle.loads(pickle.dumps(HashIndex.open(tmp_path / "i"))),
    ):
        assert index._state.segments[0].ids is None
        plain = HashIndex(codes, features=fine)
        asked = {"query_features": fine[:3], "pool": 40}
        mask = rng.random(300) < 0.5
        dropped, few = np.array([7, 100, 299]), np.array([4, 8])
        for again in (False, True):
            ways = [({}, {}), (asked, asked), ({"where": mask[: len(plain)]},) * 2]
            for some in (few, plain.ids[::2], plain.ids):
                ways.append(({"where": some + first}, {"where": some}))
            for own, other in ways:
                distances, ids = index.search(codes[:3], 20, **own)
                expected, rows = plain.search(codes[:3], 20, **other)
                np.testing.assert_array_equal(distances, expected)
                np.testing.assert_array_equal(ids, np.where(rows < 0, -1, rows + first))
            within, expected = index.within(codes[:3], 1), plain.within(codes[:3], 1)
            np.testing.assert_array_equal(within[2], expected[2] + first)
            candidates = np.array([[0, 299, 5]] * 3)
            best = index.rerank(fine[:3], candidates + first, 2)[1]
            np.testing.assert_array_equal(best - first, plain.rerank(fine[:3], candidates, 2)[1])
            assert first in index
            assert first - 1 not in index
            assert -1 not in index
            np.testing.assert_array_equal(index.get(plain.ids + first)[0], plain.get(plain.ids)[0])
            with pytest.raises(ValueError, match="not in the index"):
                index.get([first - 1])
            with pytest.raises(ValueError, match="not in the index"):
                index.search(codes[:1], 1, where=[first - 1, first])
            if not again:
                index.remove(dropped + first)
                plain.remove(dropped)


@pytest.mark.parametrize("first", [0, -1, -5, 1001, (1 << 63) - 1])
def test_a_first_id_that_cannot_be_is_refused(first, tmp_path):
    whole = (GOLDEN / CONTIGUOUS).read_bytes()
    number = struct.pack("<q", first)
    content = {b"ids": number, b"checksums/ids": struct.pack("<I", zlib.crc32(number))}
    table, sums = file_format.HEADER.unpack(whole[:60])[6], []
    for at, row in enumerate(file_format.ENTRY.iter_unpack(whole[table:])):
        part = content.get(row[0].rstrip(b"\0"))
        if part is not None:
            whole = whole[: row[6]] + part + whole[row[6] + len(part) :]
            sums.append((at, 7, zlib.crc32(part)))
    assert len(sums) == 2
    path = tmp_path / "forged"
    path.write_bytes(forge(whole, entries=sums))
    for way in ({}, {"mmap": False}, {"verify": True}):
        with pytest.raises(DamagedFile, match=f"300 ids from {first} on do not fit"):
            HashIndex.open(path, **way)


def small(folder, ids=(3, 5, 6, 9, 11)):
    """A small file with every kind of section, and what it answers."""
    path = folder / "small.index"
    index = HashIndex(
        np.array([[1], [2], [4], [8], [15]], np.uint8) << 4,
        bits=4,
        features=np.array([[1, 2], [3, 4], [5, 6], [7, 8], [9, 1]], np.float16),
        ids=np.array(ids),
        attachments={"a": b"xyz"},
    )
    index.save(path)
    return path, index


def answers(index):
    """All that a file could change in what an index says."""
    queries = np.arange(4, dtype=np.uint8)[:, None] << 6
    fine = np.full((4, 2), 3.0)
    found = [
        *index.search(queries, 6),
        *index.search(queries, 6, query_features=fine, pool=4),
        *index.search(queries, 6, query_latents=np.full((4, 4), 0.25), pool=5),
        *index.within(queries, 3, where=[5, 6]),
        index.ids,
        index.attachments,
    ]
    index.remove([3])
    return [*found, index.add(queries, fine.astype(np.float16))]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_flipped_byte_is_refused_or_changes_nothing(version, tmp_path):
    """However the file is opened: verified at once, read into memory, or compared when used."""
    path, index = small(tmp_path, *([range(3, 8)] if version == 3 else []))
    if version == 1:
        path.write_bytes(as_version_1(path.read_bytes()))
    whole, expected = path.read_bytes(), answers(index)
    ways = [{"verify": True}, {"mmap": False}, {}]
    for way in ways:
        np.testing.assert_equal(answers(HashIndex.open(path, **way)), expected)
    unnoticed = [[], [], []]
    with open(path, "r+b", buffering=0) as file:
        for at, byte in enumerate(whole):
            os.pwrite(file.fileno(), bytes([byte ^ (1 << at % 8 if at & 8 else 0xFF)]), at)
            for way, own in zip(ways, unnoticed, strict=True):
                try:
                    np.testing.assert_equal(answers(HashIndex.open(path, **way)), expected)
                except DamagedFile as error:
                    assert "small.index" in str(error)  # noqa: PT017
                else:  # a gap between sections: it holds nothing
                    own.append(at)
            os.pwrite(file.fileno(), bytes([byte]), at)
    assert path.read_bytes() == whole
    assert unnoticed[0] == []
    for own in unnoticed[1:]:
        assert not any(whole[at] for at in own)
        assert len(own) < len(whole) / 2


def many(path, rng, damaged=None):
    """A file with several groups in each section, one byte of a section damaged, and its items."""
    codes = rng.integers(0, 256, (9000, 8), dtype=np.uint8)
    features = rng.standard_normal((9000, 16)).astype(np.float32)
    index = HashIndex(codes, features=features, ids=np.arange(9000) * 2)
    index.save(path)
    if damaged is not None:
        whole = bytearray(path.read_bytes())
        for row in file_format.ENTRY.iter_unpack(whole[file_format.HEADER.unpack(whole[:60])[6] :]):
            if row[0].rstrip(b"\0").decode() == damaged:
                whole[row[6] + 20_000] ^= 1  # in one of several groups
        path.write_bytes(whole)
    return index, codes, features


@pytest.mark.parametrize("damaged", ["codes", "ids", "features"])
def test_whatever_reads_a_damaged_part_of_a_mapped_file_says_so(damaged, rng, tmp_path):
    path = tmp_path / "many.index"
    _, codes, features = many(path, rng, damaged)
    asked = {"query_features": features[:1], "pool": 9000}
    uses = {
        "codes": [
            lambda index: index.search(codes[:1], 1),
            lambda index: index.search(codes[:1], 1, where=index.ids > 20),
            lambda index: index.search(codes[:1], 1, where=[20_000 // 8 * 2]),
            lambda index: index.within(codes[:1], 1),
            lambda index: index.search(codes[:1], 1, recall=0.9),
            lambda index: index.prepare(),
            lambda index: index.prepare(tables=True),
            lambda index: index._state.segments[0].asymmetric(
                np.zeros((1, 64), np.float32), np.array([[20_000 // 8]]), 1, 0.5, 1
            ),
        ],
        "ids": [
            lambda index: index.search(codes[:1], 1),
            lambda index: index.search(codes[:1], 1, where=[20]),
            lambda index: index.ids,
            lambda index: index.search(codes[:1], 1, where=np.arange(0, 18_000, 2)),
            lambda index: index._state.segments[0].mark(np.arange(0, 18_000, 2), 1),
            lambda index: index.remove([20]),
            lambda index: index.remove(np.arange(0, 9000, 2)),
            lambda index: index.add(codes[:1], features[:1]),
        ],
        "features": [lambda index: index.search(codes[:1], 1, **asked)],
    }

    def shrink(index):
        index.remove(index.ids[:1])
        index.compact()

    for use in [*uses[damaged], shrink, lambda index: index.save(tmp_path / "copy")]:
        index = HashIndex.open(path)
        for _ in range(2):  # it stays damaged
            with pytest.raises(DamagedFile, match=rf"many\.index: section '{damaged}' is damaged"):
                use(index)
    assert [each.name for each in tmp_path.iterdir()] == ["many.index"]


def test_only_what_is_read_is_compared(rng, tmp_path, monkeypatch):
    """In sections that are not small; in those that are, all at the first look."""
    path = tmp_path / "many.index"
    _, codes, features = many(path, rng, "features")
    fine = {"query_features": features[:1], "pool": 5}
    with pytest.raises(DamagedFile, match="features"):
        HashIndex.open(path).search(codes[:1], 1, **fine)
    HashIndex(codes).search(codes[:3], 5)  # kept kernels have checksums too: read them before
    monkeypatch.setattr(checksums, "SMALL", 1 << 10)
    sums = []
    monkeypatch.setattr(checksums.zlib, "crc32", counting(checksums.zlib.crc32, sums))
    index = HashIndex.open(path)
    sums.clear()
    assert index.search(codes[:1], 1, **fine)[1].tolist() == [[0]]
    assert sums
    sums.clear()
    index.search(codes[:1], 1, **fine)
    index.search(codes[:3], 5)
    assert not sums
    with pytest.raises(DamagedFile, match="features"):
        index.search(codes[:1], 1, query_features=features[:1], where=[2 * 300], pool=1)


def counting(function, calls):
    """`function`, noting its calls."""

    def counted(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return counted


def as_version_1(whole):
    """The file that a program of version 1 would have written."""
    fields = list(file_format.HEADER.unpack(whole[:60]))
    rows = [list(row) for row in file_format.ENTRY.iter_unpack(whole[fields[6] :])]
    rows = [row for row in rows if not row[0].startswith(b"checksums/")]
    end = file_format.aligned(max(row[6] + size_of(row) for row in rows))
    body = b"".join(file_format.ENTRY.pack(*row) for row in rows)
    fields[1], fields[5:] = 1, [end + len(body), end, len(rows), zlib.crc32(body), 0]
    head = file_format.HEADER.pack(*fields)
    return head + struct.pack("<I", zlib.crc32(head)) + whole[64:end] + body


def size_of(row):
    """Bytes of the section of a table entry."""
    return row[3] * row[4] * row[5] * np.dtype(file_format.TYPES[row[1]]).itemsize


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
    fields = list(file_format.HEADER.unpack(whole[:60]))
    table = fields[6]
    rows = [list(row) for row in file_format.ENTRY.iter_unpack(whole[table:])]
    for which, position, value in entries or []:
        rows[which][position] = value
    body = b"".join(file_format.ENTRY.pack(*row) for row in rows)
    fields[8] = zlib.crc32(body)
    for position, value in header or []:
        fields[position] = value
    head = file_format.HEADER.pack(*fields)
    return head + struct.pack("<I", zlib.crc32(head)) + whole[64:table] + body


HUGE = (1 << 64) - 1


@pytest.mark.parametrize(
    ("header", "entries", "words"),
    [
        ([(1, 4)], [], "format version 4"),
        ([(1, 0)], [], "format version 0"),
        ([(1, 1), (9, 0)], [], "'checksums/codes' .* or a file of version 1"),
        ([(1, 1)], [], "next id"),
        ([(9, (1 << 63) + 1)], [], "the next id is 9223372036854775809"),
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
        ([], [(3, 0, b"other")], "'other' of type"),
        ([], [(3, 0, b"\xff")], "UTF-8"),
        ([], [(3, 0, b"attachment/")], "'attachment/' of type"),
        ([], [(3, 0, b"attachment/a\0b")], "zero byte"),
        ([], [(4, 0, b"checksums/others")], "no section 'checksums/codes'"),
        ([], [(3, 0, b"checksums/attachment/a")], "does not fit"),
        ([], [(4, 1, 4)], "does not fit"),
        ([], [(0, 1, 9)], "unknown element type"),
        ([], [(0, 1, 0)], "unknown element type"),
        ([], [(0, 2, 4)], "unknown element type"),
        ([], [(0, 2, 2)], "unknown element type"),
        ([], [(0, 3, HUGE)], "not where it belongs"),
        ([], [(2, 4, HUGE), (2, 3, HUGE)], "not where it belongs"),
        ([], [(0, 3, 1 << 62), (0, 5, 1 << 62)], "not where it belongs"),
        ([], [(1, 6, 0)], "not where it belongs"),
        ([], [(1, 6, HUGE)], "not where it belongs"),
        ([], [(3, 3, 200)], "not where it belongs"),
        ([], [(6, 3, 200)], "do not fill"),
        ([], [(2, 1, 2)], "does not|not where"),
        ([], [(0, 4, 2), (0, 5, 128)], "does not fit"),
        ([], [(1, 3, 1)], "section 'ids' of type"),
        ([(1, 3)], [(1, 3, 4)], "section 'ids' of type"),
        ([(1, 3)], [(1, 3, 8)], "section 'ids' of type"),
    ],
)
def test_a_forged_file_is_refused_before_anything_is_mapped(header, entries, words, tmp_path):
    path, _ = small(tmp_path)
    whole = path.read_bytes()
    assert forge(whole) == whole
    path.write_bytes(forge(whole, header, entries))
    with pytest.raises(DamagedFile, match=words):
        HashIndex.open(path)


@pytest.mark.parametrize("dimensions", [(1 << 24) + 1, 1 << 40, 1 << 62, HUGE])
def test_features_of_no_items_have_dimensions_that_can_be(dimensions, tmp_path):
    path = tmp_path / "empty.index"
    path.write_bytes(forge((GOLDEN / "v2-empty-float32.index").read_bytes()))
    assert HashIndex.open(path)._state.features == (np.float32, 4)
    path.write_bytes(forge(path.read_bytes(), [], [(1, 4, dimensions)]))
    for way in ({}, {"verify": True}, {"mmap": False}):
        with pytest.raises(DamagedFile, match=r"empty\.index: section 'features'"):
            HashIndex.open(path, **way)


def alter(whole, section, at, new):
    """The file with bytes of a section changed and all checksums right."""
    whole = bytearray(whole)
    table = file_format.HEADER.unpack(whole[:60])[6]
    rows = [list(row) for row in file_format.ENTRY.iter_unpack(whole[table:])]
    names = [row[0].rstrip(b"\0").decode() for row in rows]
    changes = []
    for name in (section, "checksums/" + section):
        which = names.index(name)
        start, size = rows[which][6], size_of(rows[which])
        whole[start + at : start + at + len(new)] = new
        crc = zlib.crc32(whole[start : start + size])
        changes.append((which, 7, crc))
        at, new = 0, struct.pack("<I", crc)  # a single group
    return forge(bytes(whole), [], changes)


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
    path.write_bytes(alter(path.read_bytes(), section, at, bytes([byte])))
    HashIndex.open(path)
    for mmap in (True, False):
        with pytest.raises(DamagedFile, match=words):
            HashIndex.open(path, mmap=mmap, verify=True)


@pytest.mark.parametrize("place", range(1, 5))
def test_verify_looks_at_the_order_of_ids_at_every_place(place, tmp_path, monkeypatch):
    """Ids are looked at in pieces, here of two: none may be smaller than the last of the piece."""
    path, _ = small(tmp_path)
    ids = [3, 5, 6, 9, 11]
    ids[place - 1], ids[place] = ids[place], ids[place - 1]
    path.write_bytes(alter(path.read_bytes(), "ids", 0, struct.pack("<5q", *ids)))
    monkeypatch.setattr(reading, "PIECE", 16)
    monkeypatch.setattr(checking, "PIECE", 16)
    with pytest.raises(DamagedFile, match="ascend"):
        HashIndex.open(path, verify=True)


@pytest.mark.parametrize("block", range(3))
def test_verify_looks_at_the_last_bits_of_every_code(block, tmp_path, monkeypatch):
    """Codes are looked at in pieces, here of one block of 256."""
    path = tmp_path / "i"
    HashIndex(np.zeros((600, 1), np.uint8), bits=4).save(path)
    path.write_bytes(alter(path.read_bytes(), "codes", 256 * block + 7, b"\1"))
    monkeypatch.setattr(checking, "PIECE", 8 * 256)
    with pytest.raises(DamagedFile, match="past bit 4"):
        HashIndex.open(path, verify=True)


def test_verify_compares_the_checksums_of_groups_and_the_next_id(tmp_path):
    path, _ = small(tmp_path)
    whole = path.read_bytes()
    table = file_format.HEADER.unpack(whole[:60])[6]
    row = list(file_format.ENTRY.iter_unpack(whole[table:]))[4]
    assert row[0].rstrip(b"\0") == b"checksums/codes"
    other = whole[: row[6]] + b"1234" + whole[row[6] + 4 :]
    path.write_bytes(forge(other, [], [(4, 7, zlib.crc32(b"1234"))]))
    for mmap in (True, False):
        with pytest.raises(DamagedFile, match="section 'codes' is damaged"):
            HashIndex.open(path, mmap=mmap, verify=True)
    path.write_bytes(forge(whole, [(9, 11)]))
    with pytest.raises(DamagedFile, match="the next id is 11, but 11 is taken"):
        HashIndex.open(path, verify=True)
    plain = tmp_path / "plain.index"
    HashIndex(np.zeros((5, 1), np.uint8)).save(plain)
    plain.write_bytes(forge(plain.read_bytes(), [(9, 4)]))
    with pytest.raises(DamagedFile, match="the next id is 4, but 5 are taken"):
        HashIndex.open(plain)


@pytest.mark.parametrize("content", [b"", b"\x89HIX", b"PK\3\4" + bytes(100), b"x" * 5000])
def test_other_files_are_refused(content, tmp_path):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(DamagedFile, match=r"other: (not an index file|cut short)"):
        HashIndex.open(tmp_path / "other")


def zeros_of_version_1(path, count):
    """A sparse file of codes of 64 bits, all zero, whose checksum nobody computed."""
    blocks = -(-count // 256)
    end = file_format.ALIGNMENT + blocks * 8 * 256
    table = file_format.ENTRY.pack(b"codes", 1, 3, blocks, 8, 256, file_format.ALIGNMENT, 0)
    head = file_format.HEADER.pack(
        file_format.MAGIC, 1, 0x0102, 64, count, end + 128, end, 1, zlib.crc32(table), 0
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
    return path


@pytest.mark.parametrize(("mib", "compared"), [(16, True), (16 + 2 / 1024, False)])
def test_a_section_of_version_1_is_compared_up_to_16_mib(mib, compared, tmp_path):
    """For a few of its rows: it has one checksum, for which all of it must be read."""
    index = HashIndex.open(zeros_of_version_1(tmp_path / "i", int(mib * (1 << 20)) // 8))
    if compared:
        with pytest.raises(DamagedFile, match="'codes' is damaged"):
            index.search(np.zeros(8, np.uint8), 1, where=[7])
    else:
        assert index.search(np.zeros(8, np.uint8), 1, where=[7])[1].tolist() == [7]


def test_a_file_of_many_gigabytes_opens_without_being_read(tmp_path):
    count = 1_000_000_000
    path = zeros_of_version_1(tmp_path / "big.index", count)
    index = HashIndex.open(path)
    assert len(index) == count
    found = index.search(np.zeros((1, 8), np.uint8), 2, where=[count - 1, 7, 1 << 29])
    np.testing.assert_array_equal(found[1], [[7, 1 << 29]])


@pytest.mark.parametrize("dimensions", [0, 3, 700, 2000])
@pytest.mark.parametrize("streamed", [False, True])
def test_groups_are_those_of_the_description_at_any_size(dimensions, streamed, rng, tmp_path):
    path, count = tmp_path / "i", 9000 if dimensions < 100 else 300
    codes = rng.integers(0, 256, (count, 8), dtype=np.uint8)
    features = rng.standard_normal((count, dimensions)).astype(np.float32)
    index = HashIndex(codes, features=features, ids=np.arange(count) * 2)
    if streamed:
        index.remove([4])
    index.save(path)
    assert naive.read_index_file(path.read_bytes())[1] == len(index)
    opened = HashIndex.open(path)
    asked = {"query_features": features[:1], "pool": count}
    for one, other in zip(
        opened.search(codes[:1], 5, **asked), index.search(codes[:1], 5, **asked), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    assert same(HashIndex.open(path, verify=True), HashIndex.open(path, mmap=False))


def test_codes_of_one_bit_are_kept(tmp_path):
    codes = np.array([[0], [0x80], [0x80]], np.uint8)
    HashIndex(codes, bits=1).save(tmp_path / "one.index")
    for mmap in (False, True):
        index = HashIndex.open(tmp_path / "one.index", mmap=mmap)
        assert index.bits == 1
        assert index.search(codes[1], 3)[1].tolist() == [1, 2, 0]


def test_a_list_of_files_knows_what_ids_were_given(tmp_path):
    """Also where the items of the largest ids were removed before."""
    index = HashIndex(np.zeros((10, 1), np.uint8))
    index.remove([8, 9])
    index.save(tmp_path / "less.index")
    HashIndex(np.zeros((3, 1), np.uint8), ids=np.arange(20, 23)).save(tmp_path / "more.index")
    less, more = tmp_path / "less.index", tmp_path / "more.index"
    empty = GOLDEN / "v1-empty-float32.index"  # which keeps no next id
    assert HashIndex.open([empty])._state.next_id == 0
    for files, expected in (([less], 10), ([less, more], 23), ([more, less], 23)):
        assert HashIndex.open(files).add(np.zeros((1, 1), np.uint8)).tolist() == [expected]
