"""An index as a table of PostgreSQL with pgvector, and the SQL that searches it.

The table has the columns id (bigint, primary key), code (bit(n)), feature (halfvec, or vector where
the index keeps float32; none where it keeps no features), path and label (text). It appears, or
changes, in one transaction: whatever fails before the end leaves the database as it was, and the
same call can be made again.

Needs `psycopg` (the extra `postgres`), and pgvector 0.7 or newer on the server.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jaxhash.exchange import copying, rows
from jaxhash.items.records import ItemRecords
from search import HashIndex

LONGEST = 16_000
"""Dimensions of a feature that pgvector takes at most."""


def write(
    index: HashIndex,
    dsn: str,
    table: str,
    *,
    overwrite: bool = False,
    append: bool = False,
    hnsw: bool = False,
    records: ItemRecords | None = None,
    on_batch: Callable[[int], Any] | None = None,
) -> int:
    """Copy an index into a table of a PostgreSQL database that has pgvector.

    Args:
        index: what to copy.
        dsn: the database, as libpq takes it: "postgresql://user@host/name", "host=... dbname=...";
            what it leaves out is taken from the environment (PGHOST, PGPASSWORD, ...).
        table: "name" or "schema.name"; taken literally, capitals and blanks included.
        overwrite: drop a table of that name, and make another.
        append: add to a table of that name; an item replaces the row that has its id.
        hnsw: also make pgvector's approximate index of the codes.
        records: paths and labels of the items; by default what the index keeps.
        on_batch: called with the number of rows of each batch that was sent.

    Returns:
        Number of rows that were sent.

    Raises:
        ModuleNotFoundError: psycopg is not installed.
        ValueError: the table exists, or has other columns; or the name cannot be one.
        OSError: the database cannot be reached, or refuses; the message says why.

    Example:
        >>> write(index, "postgresql://localhost/pictures", "photos", hnsw=True)  # doctest: +SKIP
    """
    if overwrite and append:
        raise ValueError("overwrite=True and append=True exclude each other; keep one")
    psycopg = _psycopg()
    columns = _columns(index)
    name = psycopg.sql.Identifier(*name_parts(table))
    sent = (
        copying.as_bytes(batch, index.bits)
        for batch in _told(rows.batches(index, records), on_batch)
    )
    try:
        with psycopg.connect(dsn) as connection, connection.cursor() as cursor:
            _need_pgvector(cursor)
            found = _columns_of(cursor, name)
            if found is not None and not (overwrite or append):
                raise ValueError(
                    f"the database has a table {table!r}; replace it with overwrite=True, add to "
                    "it with append=True, or name another"
                )
            if found is not None and overwrite:
                _do(cursor, "DROP TABLE {}", name)
                found = None
            if found is None:
                typed = ", ".join(f"{column} {kind}" for column, kind in columns.items())
                _do(cursor, f"CREATE TABLE {{}} ({typed}, PRIMARY KEY (id))", name)
                _send(cursor, name, columns, sent)
            elif found == columns:
                _merge(cursor, name, columns, sent)
            else:
                raise ValueError(
                    f"the table {table!r} has the columns {_listed(found)}, and the index needs "
                    f"{_listed(columns)}; replace it with overwrite=True, or name another"
                )
            if hnsw and not _has_hnsw(cursor, name):
                _do(cursor, "CREATE INDEX ON {} USING hnsw (code bit_hamming_ops)", name)
            _do(cursor, "ANALYZE {}", name)
    except psycopg.Error as error:
        raise OSError(f"the database says: {_reason(error)}") from error
    return len(index)


def queries(
    index: HashIndex, table: str, *, k: int = 10, pool: int = 200, hnsw: bool = False
) -> list[tuple[str, str]]:
    """The SQL that searches such a table: a title and a statement each.

    $1 is the query's code, a text of zeros and ones; $2 its feature, a text such as [0.5,1.25]. The
    results are those of `HashIndex.search`. With `hnsw` the codes come from the approximate index,
    which PostgreSQL uses only to order by distance alone; so equal distances have no order.

    Args:
        index: gives the number of bits, and whether there are features.
        table: its name, as in `write`.
        k: results.
        pool: nearest codes that are re-ranked by the Euclidean distance of features.
        hnsw: whether to use the approximate index.

    Returns:
        The codes' search, and the one from coarse to fine where there are features.

    Example:
        >>> index = HashIndex(np.zeros((1, 6), np.uint8))
        >>> print(queries(index, "photos")[0][1])
        SELECT id, path, label, code <~> $1::bit(48) AS distance
        FROM "photos"
        ORDER BY distance, id LIMIT 10
    """
    name = ".".join('"' + part.replace('"', '""') + '"' for part in name_parts(table))
    code, by_id = f"code <~> $1::bit({index.bits})", "" if hnsw else ", id"
    found = [
        (
            f"the {k} nearest codes",
            f"SELECT id, path, label, {code} AS distance\nFROM {name}\n"
            f"ORDER BY distance{by_id} LIMIT {k}",
        )
    ]
    kind = rows.dimensions(index)
    if kind is not None:
        # As vector: halfvec would round the query, and with it distances, to float16.
        feature = f"feature::vector({kind[1]}) <-> $2::vector({kind[1]})"
        found.append(
            (
                f"the {pool} nearest codes, then the {k} nearest features among them",
                f"WITH pool AS MATERIALIZED (\n    SELECT id, feature, path, label\n"
                f"    FROM {name}\n    ORDER BY {code}{by_id} LIMIT {pool}\n)\n"
                f"SELECT id, path, label, {feature} AS distance\nFROM pool\n"
                f"ORDER BY distance, id LIMIT {k}",
            )
        )
    return found


def name_parts(table: str) -> list[str]:
    """Schema, if there is one, and name of a table.

    Raises:
        ValueError: it has more parts, or one that is no identifier of PostgreSQL.

    Example:
        >>> name_parts("public.My photos")
        ['public', 'My photos']
    """
    parts = table.split(".")
    if len(parts) > 2 or any(not part or "\0" in part for part in parts):
        raise ValueError(f"the table is {table!r}; give its name, or schema.name")
    for part in parts:
        if len(part.encode()) > 63:
            raise ValueError(
                f"{part!r} is longer than the 63 bytes that PostgreSQL keeps of a name"
            )
    return parts


def _columns(index: HashIndex) -> dict[str, str]:
    """Name and type of the columns, in their order."""
    columns = {"id": "bigint", "code": f"bit({index.bits})"}
    kind = rows.dimensions(index)
    if kind is not None:
        if not 1 <= kind[1] <= LONGEST:
            raise ValueError(
                f"features have {kind[1]} dimensions, and pgvector takes 1 to {LONGEST}; make an "
                "index without features"
            )
        columns["feature"] = f"{'halfvec' if kind[0] == np.float16 else 'vector'}({kind[1]})"
    return columns | {"path": "text", "label": "text"}


def _told(
    batches: Iterator[rows.Batch], on_batch: Callable[[int], Any] | None
) -> Iterator[rows.Batch]:
    for batch in batches:
        yield batch
        if on_batch is not None:
            on_batch(len(batch.ids))


def _do(cursor: Any, query: str, *names: Any) -> Any:
    """Run a statement with identifiers in the places of its braces, quoted."""
    return cursor.execute(_psycopg().sql.SQL(query).format(*names))


def _send(cursor: Any, name: Any, columns: dict[str, str], sent: Iterator[bytes]) -> None:
    """COPY rows into a table that has none of their ids."""
    command = f"COPY {{}} ({', '.join(columns)}) FROM STDIN (FORMAT BINARY)"
    with cursor.copy(_psycopg().sql.SQL(command).format(name)) as copy:
        copy.write(copying.HEAD)
        for data in sent:
            copy.write(data)
        copy.write(copying.TAIL)


def _merge(cursor: Any, name: Any, columns: dict[str, str], sent: Iterator[bytes]) -> None:
    """Rows into a table that may have some of their ids, by way of a temporary one."""
    arrived = _psycopg().sql.Identifier("jaxhash_arrived")
    listed = ", ".join(columns)
    _do(
        cursor,
        f"CREATE TEMPORARY TABLE {{}} ON COMMIT DROP AS SELECT {listed} FROM {{}} WITH NO DATA",
        arrived,
        name,
    )
    _send(cursor, arrived, columns, sent)
    values = ", ".join(f"{one} = EXCLUDED.{one}" for one in columns if one != "id")
    _do(
        cursor,
        f"INSERT INTO {{}} ({listed}) SELECT {listed} FROM {{}} "
        f"ON CONFLICT (id) DO UPDATE SET {values}",
        name,
        arrived,
    )


def _has_hnsw(cursor: Any, name: Any) -> bool:
    found = cursor.execute(
        "SELECT FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
        "JOIN pg_am ON pg_am.oid = relam WHERE indrelid = to_regclass(%s) AND amname = 'hnsw'",
        [name.as_string(cursor)],
    )
    return found.fetchone() is not None


def _need_pgvector(cursor: Any) -> None:
    if cursor.execute("SELECT FROM pg_extension WHERE extname = 'vector'").fetchone() is None:
        known = "SELECT FROM pg_available_extensions WHERE name = 'vector'"
        if cursor.execute(known).fetchone() is None:
            raise ValueError(
                "the database's server has no pgvector; install it there, see "
                "https://github.com/pgvector/pgvector"
            )
        cursor.execute("CREATE EXTENSION IF NOT EXISTS vector")
    if cursor.execute("SELECT to_regtype('halfvec')").fetchone() == (None,):
        raise ValueError(
            "the database's pgvector has no halfvec in reach; update it to 0.7 or newer (ALTER "
            "EXTENSION vector UPDATE), and have its schema on the search path"
        )


def _columns_of(cursor: Any, name: Any) -> dict[str, str] | None:
    """Name and type of a table's columns; None where there is no such table."""
    found = cursor.execute(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute "
        "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        [name.as_string(cursor)],
    )
    return dict(found.fetchall()) or None


def _listed(columns: dict[str, str]) -> str:
    return ", ".join(f"{name} {kind}" for name, kind in columns.items())


def _reason(error: Any) -> str:
    """The server's message; a failed connection has none, and says it itself."""
    return error.diag.message_primary or " ".join(str(error).split())


def _psycopg() -> Any:
    try:
        import psycopg
        import psycopg.sql
    except ImportError as error:
        raise ModuleNotFoundError(
            'the export to pgvector needs psycopg; pip install "jaxhash[postgres]"'
        ) from error
    return psycopg
