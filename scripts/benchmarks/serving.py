"""The HTTP service under load: latency, throughput, and what must not go wrong.

    python scripts/benchmarks/serving.py --run runs/photos --index photos.index --photos photos/

Starts `jaxhash serve` in a process of its own and asks it from this one, over real connections that
stay open; each client sends its next request when it has the answer to the last. Every answer is
compared with what the library gives. Ids are asked against an index of --items random codes with
features, images against --index. Then come overload, SIGTERM, kill -9 and --malformed requests.
"""

import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tyro
from PIL import Image

import jaxhash
from jaxhash import models, retrieval
from search import HashIndex

KINDS = ("ids", "batches", "images", "overload", "end", "kill", "malformed")


@dataclass(frozen=True)
class Options:
    """What is measured."""

    run: Path
    """Folder of a run of images."""
    index: Path
    """The index of --photos that it made, with features."""
    photos: Path
    """Folder of the pictures that are uploaded; each of its files is to be one."""
    parts: tuple[str, ...] = KINDS
    """Which of: ids, batches, images, overload, end, kill, malformed."""
    items: int = 1_000_000
    """Random codes of the index that is asked by ids."""
    dimensions: int = 128
    """Numbers in each of its features."""
    clients: tuple[int, ...] = (1, 8, 64)
    """Clients at a time."""
    sizes: tuple[int, ...] = (64, 256, 1000)
    """Ids in a request, for throughput."""
    seconds: float = 5.0
    """Of each measurement."""
    pictures: int = 64
    """Different pictures that are uploaded."""
    malformed: int = 10_000
    """Requests that are none."""
    out: Path | None = None
    """JSON file for the figures."""


# ---------------------------------------------------------------- the service


class Running(NamedTuple):
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    port: int

    def memory(self) -> float:
        """Its resident megabytes that are its own, mapped files left out."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) / 1024
        return float("nan")


def start(run: Path, index: Path, *words: str) -> Running:
    """Start a service and wait until it listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jaxhash", "serve", "--run", str(run), "--index", str(index)]
    process = subprocess.Popen(
        [*command, "--port", str(port), *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("http"):
            return Running(process, port)
    raise RuntimeError(f"the service ended with code {process.wait()}; see above")


@contextlib.contextmanager
def serving(run: Path, index: Path, *words: str) -> Iterator[Running]:
    """A service, ended by SIGTERM at the end."""
    running = start(run, index, *words)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.send_signal(signal.SIGTERM)
        ended(running)


def ended(running: Running) -> int:
    """Wait for the end of a service; its exit code."""
    code = running.process.wait(60)
    assert running.process.stdout is not None
    running.process.stdout.close()
    return code


# ---------------------------------------------------------------- clients


class Reply(NamedTuple):
    """An answer: its status, its body, and the seconds that it took."""

    status: int
    body: bytes
    seconds: float


class Connection:
    """One client's connection; HTTP/1.1 as far as it is needed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: bytes) -> Reply:
        """Send a whole request and read the whole answer."""
        begun = time.perf_counter()
        self._writer.write(request)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line[15:])
        body = await self._reader.readexactly(length)
        return Reply(status, body, time.perf_counter() - begun)

    def close(self) -> None:
        """End it."""
        self._writer.close()


@contextlib.asynccontextmanager
async def connected(port: int, count: int = 1) -> AsyncIterator[list[Connection]]:
    """So many connections."""
    made = [Connection(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(count)]
    yield made
    for one in made:
        one.close()


def as_json(port: int, **fields: Any) -> bytes:
    """A search as JSON."""
    return whole(port, "application/json", json.dumps(fields).encode())


def as_form(port: int, file: bytes, **fields: Any) -> bytes:
    """A search by an uploaded picture."""
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    body = b"".join(parts) + head + file + b"\r\n--b--\r\n"
    return whole(port, "multipart/form-data; boundary=b", body)


def whole(port: int, media: str, body: bytes) -> bytes:
    """The bytes of a request."""
    head = (
        f"POST /search HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {media}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def load(
    port: int, clients: int, requests: Sequence[bytes], seconds: float
) -> tuple[list[tuple[int, Reply]], float]:
    """What so many clients get in so many seconds: (number of the request, reply), and the time."""
    got: list[tuple[int, Reply]] = []

    async def client(connection: Connection, at: int) -> None:
        while time.perf_counter() < until:
            got.append((at, await connection.ask(requests[at])))
            at = (at + clients) % len(requests)

    async with connected(port, clients) as connections:
        begun = time.perf_counter()
        until = begun + seconds
        places = (at % len(requests) for at in range(clients))
        await asyncio.gather(*map(client, connections, places))
        return got, time.perf_counter() - begun


# ---------------------------------------------------------------- what is right


class Expected(NamedTuple):
    """The ids and distances that a request should be answered with, a row for each query."""

    ids: list[list[int]]
    distances: list[list[float]]


def wrong(got: list[tuple[int, Reply]], expected: Sequence[Expected], apart: float = 0) -> int:
    """How many replies are not what they should be.

    apart: what distances may differ by, for pictures: batches of several sizes round differently.
    Then items that are equally far may change places, and the nearest alone must be the same.
    """
    return sum(not _same(reply, expected[at], apart) for at, reply in got)


def _same(reply: Reply, expected: Expected, apart: float) -> bool:
    if reply.status != 200:
        return False
    answers = json.loads(reply.body)["answers"]
    ids = [answer["ids"] for answer in answers]
    distances = [answer["distances"] for answer in answers]
    if not apart:
        return ids == expected.ids and distances == expected.distances
    if [row[0] for row in ids] != [row[0] for row in expected.ids]:
        return False
    return np.allclose(distances, expected.distances, rtol=0, atol=apart)


def search(index: HashIndex, ids: np.ndarray, k: int, pool: int | None) -> Expected:
    """What the library finds for some items of the index."""
    codes, features = index.get(ids)
    fine: dict[str, Any] = {}
    if pool is not None:
        assert features is not None
        fine = {"query_features": features.astype(np.float32), "pool": pool}
    distances, found = index.search(codes, k, **fine)
    return Expected(found.tolist(), distances.tolist())


def random_index(options: Options, path: Path) -> HashIndex:
    """Random codes and features as the run's model could have made them."""
    model, rng = models.load(options.run), np.random.default_rng(0)
    width = (model.bits + 7) // 8
    codes = rng.integers(0, 256, (options.items, width), np.uint8)
    codes[:, -1] &= np.uint8(256 - (1 << (-model.bits % 8)))
    features = rng.normal(size=(options.items, options.dimensions)).astype(np.float16)
    card = json.dumps({"model": models.fingerprint(model)}).encode()
    HashIndex(codes, bits=model.bits, features=features, attachments={retrieval.CARD: card}).save(
        path
    )
    index = HashIndex.open(path)
    index.prepare()
    return index


# ---------------------------------------------------------------- measurements


def latencies(got: list[tuple[int, Reply]], seconds: float) -> dict[str, float]:
    """Requests a second, and milliseconds."""
    times = sorted(1e3 * reply.seconds for _, reply in got)
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
    return {
        "requests": len(times),
        "a second": round(len(times) / seconds, 1),
        "p50": round(cuts[49], 2),
        "p99": round(cuts[98], 2),
        "most": round(times[-1], 2),
    }


def row(name: str, clients: int, found: dict[str, Any]) -> None:
    """Print a line of figures."""
    cells = "  ".join(f"{key} {value:,}" for key, value in found.items())
    print(f"{name:34} {clients:3} clients  {cells}", flush=True)


def by_ids(options: Options, index: HashIndex, port: int) -> list[dict[str, Any]]:
    """Latency of requests of one id each."""
    rows = []
    asked = np.random.default_rng(1).choice(index.ids, 1000)
    for name, pool in (("one id, codes alone", None), ("one id, pool of 200", 200)):
        expected = [search(index, asked[at : at + 1], 10, pool) for at in range(len(asked))]
        requests = [as_json(port, ids=[int(one)], k=10, pool=pool or 0) for one in asked]
        for clients in options.clients:
            got, seconds = asyncio.run(load(port, clients, requests, options.seconds))
            found = latencies(got, seconds) | {"wrong": wrong(got, expected)}
            row(name, clients, found)
            rows.append({"what": name, "clients": clients, **found})
    return rows


def by_batches(options: Options, index: HashIndex, port: int) -> list[dict[str, Any]]:
    """Throughput of requests of many ids, beside `index.search` in batches of the same size."""
    rows = []
    rng = np.random.default_rng(2)
    for pool in (None, 200):
        for size in options.sizes:
            name = f"{size} ids, {'codes alone' if pool is None else f'pool of {pool}'}"
            asked = [rng.choice(index.ids, size) for _ in range(16)]
            expected = [search(index, ids, 10, pool) for ids in asked]
            vectors = [index.get(ids) for ids in asked]
            begun, calls = time.perf_counter(), 0
            while time.perf_counter() - begun < options.seconds:
                codes, features = vectors[calls % len(asked)]
                fine: dict[str, Any] = {}
                if pool is not None and features is not None:
                    fine = {"query_features": features.astype(np.float32), "pool": pool}
                index.search(codes, 10, **fine)
                calls += 1
            alone = calls * size / (time.perf_counter() - begun)
            requests = [
                as_json(port, ids=ids.tolist(), k=10, pool=pool or 0, names=False) for ids in asked
            ]
            got, seconds = asyncio.run(load(port, 2, requests, options.seconds))
            served = len(got) * size / seconds
            found = latencies(got, seconds) | {
                "queries a second": round(served),
                "index.search": round(alone),
                "share": round(served / alone, 2),
                "wrong": wrong(got, expected),
            }
            row(name, 2, found)
            rows.append({"what": name, "clients": 2, **found})
    return rows


def by_images(options: Options, port: int) -> list[dict[str, Any]]:
    """Latency of uploaded pictures, each answer compared with `ImageIndex.query`."""
    index = jaxhash.open_index(options.index, options.run)
    files = sorted(path for path in options.photos.rglob("*") if path.is_file())
    files = files[:: max(1, len(files) // options.pictures)][: options.pictures]
    expected = [
        Expected([found.ids], [found.distances]) for found in index.query(files, k=10, pool=200)
    ]
    requests = [as_form(port, path.read_bytes(), k=10, pool=200) for path in files]
    rows = []
    for clients in options.clients:
        got, seconds = asyncio.run(load(port, clients, requests, options.seconds))
        # Batches of several sizes round differently, which moves what is equally far.
        found = latencies(got, seconds) | {"wrong": wrong(got, expected, apart=2e-3)}
        row("one picture, pool of 200", clients, found)
        rows.append({"what": "one picture", "clients": clients, **found})
    return rows


def overload(options: Options, path: Path, index: HashIndex) -> dict[str, Any]:
    """Many more requests at once than may wait: the rest are refused, and at once."""
    asked = np.random.default_rng(3).choice(index.ids, 400)
    expected = [search(index, asked[at : at + 1], 10, 200) for at in range(len(asked))]

    async def flood(port: int) -> list[tuple[int, Reply]]:
        requests = [as_json(port, ids=[int(one)], k=10, pool=200) for one in asked]
        async with connected(port, len(asked)) as connections:
            replies = await asyncio.gather(
                *(one.ask(request) for one, request in zip(connections, requests, strict=True))
            )
        return list(enumerate(replies))

    with serving(options.run, path, "--waiting", "16") as running:
        got = asyncio.run(flood(running.port))
    refused = [reply for _, reply in got if reply.status == 503]
    served = [(at, reply) for at, reply in got if reply.status == 200]
    found = {
        "answered": len(served),
        "refused": len(refused),
        "others": len(got) - len(served) - len(refused),
        "slowest refusal": round(max((1e3 * one.seconds for one in refused), default=0), 1),
        "slowest answer": round(max((1e3 * one.seconds for _, one in served), default=0), 1),
        "wrong": wrong(served, expected),
    }
    row("overload, 16 may wait", len(asked), found)
    return found


def ending(options: Options, path: Path, index: HashIndex) -> dict[str, Any]:
    """SIGTERM while 32 requests of 1000 ids are under way: all of them are answered."""
    asked = [np.random.default_rng(at).choice(index.ids, 1000) for at in range(32)]
    expected = [search(index, ids, 10, 200) for ids in asked]

    async def play(running: Running) -> list[tuple[int, Reply]]:
        port = running.port
        requests = [as_json(port, ids=ids.tolist(), k=10, pool=200, names=False) for ids in asked]
        async with connected(port, len(asked)) as connections:
            tasks = [
                asyncio.create_task(one.ask(request))
                for one, request in zip(connections, requests, strict=True)
            ]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            running.process.send_signal(signal.SIGTERM)
            return list(enumerate(await asyncio.gather(*tasks)))

    running = start(options.run, path, "--waiting", "100000")
    got = asyncio.run(play(running))
    begun = time.perf_counter()
    code = ended(running)
    found = {
        "answered": sum(reply.status == 200 for _, reply in got),
        "wrong": wrong(got, expected),
        "exit code": code,
        "seconds to the end": round(time.perf_counter() - begun, 2),
    }
    row("SIGTERM", len(asked), found)
    return found


def killing(options: Options, path: Path, index: HashIndex) -> dict[str, Any]:
    """The answers of a service that was killed, and of the next one."""
    asked = np.random.default_rng(4).choice(index.ids, 100)

    async def ask(port: int) -> list[Any]:
        async with connected(port) as (connection,):
            requests = [as_json(port, ids=[int(one)], k=10) for one in asked]
            return [json.loads((await connection.ask(one)).body) for one in requests]

    answers = []
    for _ in range(2):
        running = start(options.run, path)
        answers.append([one["answers"] for one in asyncio.run(ask(running.port))])
        running.process.kill()
        ended(running)
    found = {"requests": len(asked), "same": sum(map(list.__eq__, *answers))}
    row("kill -9 and a new start", 1, found)
    return found


def noise(rng: np.random.Generator, port: int) -> bytes:
    """A request that is none, in one of many ways."""
    host = f"Host: 127.0.0.1:{port}\r\n".encode()
    words = [
        lambda: rng.bytes(int(rng.integers(1, 200))),
        lambda: b"GET / HTTP/1.1\r\n\r\n",
        lambda: b"POST /search HTTP/1.1\r\n" + host + b"Content-Length: -5\r\n\r\n",
        lambda: b"POST /search HTTP/1.1\r\n" + host + b"Content-Length: 99999999999\r\n\r\n",
        lambda: b"POST /search HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        lambda: b"GET /" + rng.bytes(20).hex().encode() + b" HTTP/1.1\r\n" + host + b"\r\n",
        lambda: b"GET /items/%" + rng.bytes(2).hex().encode() + b" HTTP/1.1\r\n" + host + b"\r\n",
        lambda: b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n" + host + b"\r\n",
        lambda: whole(port, "application/json", rng.bytes(50)),
        lambda: whole(port, "application/json", b"[" * 10_000),
        lambda: whole(port, "application/json", b'{"ids": [1], "k": "' + b"9" * 5000 + b'"}'),
        lambda: whole(port, "multipart/form-data; boundary=b", b"--b\r\n" + rng.bytes(100)),
        lambda: as_form(port, rng.bytes(200)),
        lambda: as_form(port, b"\xff\xd8\xff\xe0" + rng.bytes(200)),
        lambda: as_form(port, _cut_picture(rng), k=3),
    ]
    return words[rng.integers(len(words))]()


def _cut_picture(rng: np.random.Generator) -> bytes:
    """A JPEG that was damaged or ends early."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    return bytes(data[: rng.integers(10, len(data))])


def malformed(options: Options) -> dict[str, Any]:
    """Requests that are none: no status of 500, no growth, and a right answer afterwards."""

    async def one(port: int, request: bytes) -> int:
        """The status; 0 where the connection was closed without one."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            if writer.can_write_eof():
                writer.write_eof()
            head = await asyncio.wait_for(reader.read(65536), 60)
            return int(head[9:12]) if head.startswith(b"HTTP/") else 0
        except (ConnectionError, ValueError):
            return 0
        finally:
            writer.close()

    async def many(port: int, count: int, seed: int) -> dict[int, int]:
        rng = np.random.default_rng(seed)
        seen: dict[int, int] = {}
        for _ in range(0, count, 20):
            for status in await asyncio.gather(*(one(port, noise(rng, port)) for _ in range(20))):
                seen[status] = seen.get(status, 0) + 1
        return seen

    with serving(options.run, options.index) as running:
        port = running.port
        asyncio.run(many(port, options.malformed // 5, 0))
        before = running.memory()
        seen = asyncio.run(many(port, options.malformed, 1))
        after = running.memory()

        async def last() -> Reply:
            async with connected(port) as (connection,):
                return await connection.ask(as_json(port, ids=[1], k=1))

        answer = asyncio.run(last())
    found = {
        **{f"status {status}": count for status, count in sorted(seen.items())},
        "MB before": round(before, 1),
        "MB after": round(after, 1),
        "then": answer.status,
    }
    row("malformed", 20, found)
    return found


def measure(options: Options) -> dict[str, Any]:
    """Measure what is asked for."""
    report: dict[str, Any] = {}
    parts: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.index"
        if set(options.parts) & {"ids", "batches", "overload", "end", "kill"}:
            index = random_index(options, path)
            parts = {
                "overload": lambda: overload(options, path, index),
                "end": lambda: ending(options, path, index),
                "kill": lambda: killing(options, path, index),
            }
            if set(options.parts) & {"ids", "batches"}:
                with serving(options.run, path, "--waiting", "100000") as running:
                    if "ids" in options.parts:
                        report["ids"] = by_ids(options, index, running.port)
                    if "batches" in options.parts:
                        report["batches"] = by_batches(options, index, running.port)
        if "images" in options.parts:
            with serving(options.run, options.index) as running:
                report["images"] = by_images(options, running.port)
        parts["malformed"] = lambda: malformed(options)
        for name, act in parts.items():
            if name in options.parts:
                report[name] = act()
    if options.out is not None:
        options.out.write_text(json.dumps(report, indent=2) + os.linesep)
    return report


if __name__ == "__main__":
    measure(tyro.cli(Options, description=__doc__))
