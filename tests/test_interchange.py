"""FAISS files in both directions, and `.npy` files that are searched where they lie."""

import struct

import numpy as np
import pytest

from search import HashIndex
from search.interchange import read_faiss, write_faiss


@pytest.fixture
def faiss():
    return pytest.importorskip("faiss", reason="needs faiss-cpu")


# FAISS's own extension modules warn when Python 3.12 loads them.
swig = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__:DeprecationWarning")


@swig
@pytest.mark.parametrize("bits", [8, 48, 61])
@pytest.mark.parametrize("ids", ["implicit", "given"])
def test_faiss_reads_what_we_write_and_finds_the_same(bits, ids, faiss, rng, tmp_path):
    codes = np.packbits(rng.integers(0, 2, (700, bits)), axis=1)
    index = HashIndex(codes, bits=bits, ids=np.arange(700) * 3 + 5 if ids == "given" else None)
    index.remove(index.ids[650:])
    path = tmp_path / "codes.faiss"
    write_faiss(index, path)
    theirs = faiss.read_index_binary(str(path))
    expected = index.search(codes[:20], 9)
    distances, _ = theirs.search(codes[:20], 9)
    np.testing.assert_array_equal(distances, expected[0])
    ours = read_faiss(path, bits=bits)
    assert ours.bits == bits
    for got, wanted in zip(ours.search(codes[:20], 9), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert [each.name for each in tmp_path.iterdir()] == ["codes.faiss"]


@swig
def test_we_read_what_faiss_writes(faiss, rng, tmp_path):
    codes = rng.integers(0, 256, (300, 4), dtype=np.uint8)
    ids = rng.permutation(300) + 1000
    flat, graph = faiss.IndexBinaryFlat(32), faiss.IndexBinaryHNSW(32, 8)
    named = faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(32))
    named.add_with_ids(codes, ids)
    for plain in (flat, graph):
        plain.add(codes)
    path = str(tmp_path / "i.faiss")
    for theirs, own_ids in ((flat, None), (graph, None), (named, ids)):
        faiss.write_index_binary(theirs, path)
        expected = HashIndex(codes, ids=own_ids).search(codes[:9], 5)
        for got, wanted in zip(read_faiss(path).search(codes[:9], 5), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)


@swig
def test_faiss_files_that_we_cannot_use(faiss, rng, tmp_path):
    codes = rng.integers(0, 256, (300, 4), dtype=np.uint8)
    cells = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(32), 32, 2)
    cells.train(codes)
    cells.add(codes)
    path = tmp_path / "i.faiss"
    faiss.write_index_binary(cells, str(path))
    with pytest.raises(ValueError, match="IndexBinaryIVF"):
        read_faiss(path)
    path.write_bytes(b"no index at all")
    with pytest.raises(ValueError, match=r"i\.faiss.*cut short"):
        read_faiss(path)
    write_faiss(HashIndex(codes[:0]), path)
    assert len(read_faiss(path)) == 0
    with pytest.raises(ValueError, match="codes"):
        read_faiss(path, bits=40)


def flat(codes, kind=b"IBxF"):
    """A plain binary index as FAISS lays it out."""
    n, width = codes.shape
    head = struct.pack("<4siiq?i", kind, 8 * width, width, n, True, 1)
    return head + struct.pack("<Q", codes.size) + codes.tobytes()


def with_ids(codes, ids, kind=b"IBMp"):
    """The same within an index that gives each code an id."""
    inner = flat(codes)
    return kind + inner[4:25] + inner + struct.pack("<Q", len(ids)) + ids.tobytes()


def graph(codes):
    """The same below a graph, of which nothing but its length matters here."""
    vectors = b"".join(struct.pack("<Q", 3) + bytes(3 * width) for width in (8, 4, 4, 8, 4))
    return b"IBHf" + flat(codes)[4:25] + vectors + bytes(20) + flat(codes)


def test_faiss_files_are_read_without_faiss(rng, tmp_path):
    codes = rng.integers(0, 256, (50, 4), dtype=np.uint8)
    ids = rng.permutation(50) + 7
    path = tmp_path / "i.faiss"
    for content, own_ids in [
        (flat(codes), None),
        (graph(codes), None),
        (with_ids(codes, ids), ids),
        (with_ids(codes, ids, b"IBM2"), ids),
        (flat(codes[:0]), None),
    ]:
        path.write_bytes(content)
        wanted = HashIndex(codes if content != flat(codes[:0]) else codes[:0], ids=own_ids)
        for got, each in zip(
            read_faiss(path).search(codes[:9], 5), wanted.search(codes[:9], 5), strict=True
        ):
            np.testing.assert_array_equal(got, each)


@swig
def test_the_layout_here_is_the_one_faiss_writes(faiss, rng):
    codes = rng.integers(0, 256, (50, 4), dtype=np.uint8)
    theirs = faiss.IndexBinaryFlat(32)
    theirs.add(codes)
    assert faiss.serialize_index_binary(theirs).tobytes() == flat(codes)
    named = faiss.IndexBinaryIDMap(faiss.IndexBinaryFlat(32))
    named.add_with_ids(codes, np.arange(50) * 3)
    assert faiss.serialize_index_binary(named).tobytes() == with_ids(codes, np.arange(50) * 3)


def test_damaged_faiss_files_are_refused_before_room_is_made(rng, tmp_path):
    """A length in the file decides nothing before it is held against the file."""
    codes = rng.integers(0, 256, (50, 4), dtype=np.uint8)
    path = tmp_path / "i.faiss"
    huge = struct.pack("<Q", 1 << 39)
    sound = with_ids(codes, np.arange(50))
    for content, words in [
        (b"", "cut short"),
        (flat(codes)[:-1], "cut short"),
        (flat(codes)[:25] + huge + codes.tobytes(), "cut short"),
        (graph(codes)[:25] + huge + graph(codes)[33:], "cut short"),
        (sound[:-8] + struct.pack("<q", 3), "repeated"),
        (sound[:12] + struct.pack("<q", 51) + sound[20:], "50 ids for 50 codes"),
        (flat(codes)[:12] + struct.pack("<q", 1 << 60) + flat(codes)[20:], "200 bytes for"),
        (flat(codes)[:4] + struct.pack("<ii", -32, -4) + flat(codes)[12:], "-32 bits"),
        (flat(codes, b"IBwF"), "IndexBinaryIVF.*copy them"),
        (b"IBMp" + sound[4:25] + sound, "index within an index"),
        (flat(codes, b"XXXX"), "no binary index"),
    ]:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"i\.faiss.*{words}"):
            read_faiss(path)
