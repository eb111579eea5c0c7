"""What the service must withstand: each protection with what it protects against."""

import asyncio
import io
import os
import re
import struct
import threading
import tomllib
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_service import COLOURS, asking, make_photos, make_run, network_known, picture

import jaxhash
from jaxhash import retrieval
from jaxhash.cli import serve as command
from jaxhash.cli.command import parse
from jaxhash.serve import app, pictures, server
from jaxhash.serve import service as services
from jaxhash.serve.limits import Limits
from jaxhash.serve.service import Service

ROOT = Path(__file__).resolve().parent.parent
FILE = b'Content-Disposition: form-data; name="image"; '
ODD = "<img src=x onerror=alert(1)>.png"


class Place:
    """A run and the index of a folder that holds odd names."""

    def __init__(self, root: Path) -> None:
        self.root, self.photos, self.path = root, root / "photos", root / "photos.index"
        make_photos(self.photos, each=3)
        (self.photos / "red" / ODD).write_bytes(picture(COLOURS["red"], 50))
        with open(os.fsencode(self.photos / "red") + b"/\xff.png", "wb") as file:
            file.write(picture(COLOURS["red"], 51))
        self.run = make_run(root / "run")
        self.index = jaxhash.index(jaxhash.load(self.run), self.photos, self.path)

    def service(self, **limits: Any) -> Service:
        return Service(self.run, self.path, limits=Limits(**limits))

    def item(self, path: str) -> int:
        """The id of the item with this path below the folder."""
        assert self.index.items.paths is not None
        return self.index.items.paths.index(str(self.photos / path))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with network_known():
        yield Place(tmp_path_factory.mktemp("attacks"))


# ---------------------------------------------------------------- who may ask


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("evil.example#localhost", 421),
        ("0.0.0.0:8000", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_name_that_was_made_to_point_here_is_refused(
    place: Place, host: str, status: int
) -> None:
    """DNS rebinding: a page on another site asks under its own name."""

    async def scenario(client: Any) -> Any:
        return await client.get("/info", headers={"host": host})

    assert asking(place.service(), scenario).status_code == status


def test_pages_of_other_sites_may_not_ask(place: Place) -> None:
    async def scenario(client: Any) -> None:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:9999", "", "127.0.0.1"):
            for method, path in (("POST", "/search"), ("GET", "/info"), ("DELETE", "/items/1")):
                reply = await client.request(method, path, headers={"origin": origin})
                assert reply.status_code == 403, (origin, path)
        own = await client.get("/info", headers={"origin": "http://127.0.0.1:8000"})
        assert own.status_code == 200
        assert "access-control-allow-origin" not in own.headers
        assert own.headers["cross-origin-resource-policy"] == "same-origin"

    asking(place.service(), scenario)


def test_the_token_is_asked_for_everywhere(place: Place) -> None:
    token = "a-secret-token"

    async def scenario(client: Any) -> None:
        for path in ("/", "/run", "/info", "/metrics", "/openapi.json", "/page/style.css", "/x"):
            assert (await client.get(path)).status_code == 401, path
        assert (await client.post("/search", json={"ids": [1]})).status_code == 401
        for given in ("Bearer wrong", "Bearer ", f"Basic {token}", f"Bearer {token}x", "ÿ"):
            headers = {"authorization": given.encode("latin-1")}
            assert (await client.get("/info", headers=headers)).status_code == 401
        for cookie in (f"jaxhash_token={token[:-1]}", "jaxhash_token=", "a=b; =;;", '"\x7f='):
            assert (await client.get("/info", headers={"cookie": cookie})).status_code == 401
        assert (await client.get("/?token=wrong")).status_code == 401
        assert (await client.get(f"/info?token={token}")).status_code == 401, "the page's alone"
        assert (await client.get("/health")).status_code == 200

        bearer = {"authorization": f"Bearer {token}", "host": "photos.example"}
        assert (await client.get("/info", headers=bearer)).status_code == 200
        entry = await client.get(f"/?token={token}")
        assert (entry.status_code, entry.headers["location"]) == (303, "/")
        cookie = entry.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        client.cookies.set("jaxhash_token", token)
        assert (await client.get("/")).status_code == 200

    asking(place.service(), scenario, token=token)


def test_a_host_that_others_reach_has_a_token(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"0\.0\.0\.0 can be reached by other machines; give"):
        server.run(place.service(), host="0.0.0.0", port=8000, token=None)
    for token in ("", "two words", "semi;colon", "ключ", "line\n"):
        with pytest.raises(ValueError, match="a token is of letters"):
            app.build(place.service(), token=token)
    started: list[Any] = []
    made = SimpleNamespace(snapshot=[], warm=lambda: None, model=None)
    monkeypatch.setattr(services, "Service", lambda *words, **options: made)
    monkeypatch.setattr(services, "described", lambda model: "")
    monkeypatch.setattr(server, "run", lambda service, **options: started.append(options))
    monkeypatch.delenv("JAXHASH_TOKEN", raising=False)
    words = ["--run", "r", "--index", "i"]
    for host in ("127.0.0.1", "0.0.0.0", "0.0.0.0"):
        command.serve(parse(command.COMMAND, [*words, "--host", host]))
    own, first, second = (options["token"] for options in started)
    assert own is None
    assert len(first) >= 32
    assert first != second
    monkeypatch.setenv("JAXHASH_TOKEN", "mine")
    command.serve(parse(command.COMMAND, words))
    assert started[-1]["token"] == "mine"


# ---------------------------------------------------------------- how much


def test_an_upload_that_says_it_is_too_large_is_not_read(place: Place) -> None:
    async def scenario(client: Any) -> None:
        read = 0

        async def parts() -> AsyncIterator[bytes]:
            nonlocal read
            for _ in range(100):
                read += 1
                yield bytes(1000)

        headers = {"content-length": "100000", "content-type": "application/json"}
        reply = await client.post("/search", content=parts(), headers=headers)
        assert reply.status_code == 413
        assert "20,000 bytes" in reply.json()["error"]
        assert read == 0

    asking(place.service(upload=20_000), scenario)


def test_an_upload_that_does_not_say_so_is_stopped(place: Place) -> None:
    async def scenario(client: Any) -> None:
        for media in ("application/json", "multipart/form-data; boundary=x"):
            read = 0

            async def parts(media: str = media) -> AsyncIterator[bytes]:
                nonlocal read
                if media[0] == "m":
                    yield b"--x\r\n" + FILE + b'filename="a"\r\n\r\n'
                for _ in range(1000):
                    read += 1
                    yield bytes(1000)

            headers = {"content-type": media, "content-length": ""}
            del headers["content-length"]
            reply = await client.post("/search", content=parts(), headers=headers)
            assert reply.status_code == 413
            assert read < 30

    asking(place.service(upload=20_000), scenario)


def test_uploads_together_hold_so_much_memory_and_no_more(place: Place) -> None:
    service = place.service(upload=20_000, held=50_000)

    async def scenario(client: Any) -> list[int]:
        come = asyncio.Event()

        async def slow() -> AsyncIterator[bytes]:
            await come.wait()
            yield b"x" * 20_000

        headers = {"content-length": "20000", "content-type": "application/json"}
        tasks = [
            asyncio.create_task(client.post("/search", content=slow(), headers=headers))
            for _ in range(5)
        ]
        while sum(task.done() for task in tasks) < 3:
            await asyncio.sleep(0.001)
        come.set()
        replies = await asyncio.gather(*tasks)
        again = await client.post("/search", json={"ids": [1]})
        return sorted([reply.status_code for reply in replies] + [again.status_code])

    assert asking(service, scenario) == [200, 422, 422, 503, 503, 503]


def bomb(side: int) -> bytes:
    """A PNG that says it has side x side pixels, in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        sum_ = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + sum_

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def test_pixels_are_counted_before_they_are_decoded(place: Place) -> None:
    async def scenario(client: Any) -> None:
        for side in (10_000, 100_000, 2**31 - 1):
            files = {"image": ("big.png", bomb(side))}
            reply = await client.post("/search", files=files)
            assert reply.status_code == 422
            assert "big.png: " in reply.json()["error"]
            assert "pixels" in reply.json()["error"]

    asking(place.service(), scenario)

    async def small(client: Any) -> None:
        files = {"image": ("small.png", picture(COLOURS["red"], side=(32, 32)))}
        reply = await client.post("/search", files=files)
        assert reply.json()["error"] == (
            "small.png: 32x32 pixels, more than the 1,000 that are taken here"
        )

    asking(place.service(pixels=1000), small)


def test_a_request_has_so_much_time(place: Place) -> None:
    service = place.service(seconds=0.2)
    index, go = service.snapshot.images.codes, threading.Event()
    search = index.search

    def slow(*words: Any, **options: Any) -> Any:
        go.wait(10)
        return search(*words, **options)

    async def scenario(client: Any) -> None:
        async def trickle() -> AsyncIterator[bytes]:
            while True:
                yield b" "
                await asyncio.sleep(0.02)

        headers = {"content-type": "application/json"}
        reply = await client.post("/search", content=trickle(), headers=headers)
        assert reply.status_code == 408
        index.search = slow  # type: ignore[method-assign]
        late = await client.post("/search", json={"ids": [1]})
        assert late.status_code == 503
        assert late.headers["retry-after"]
        go.set()
        assert (await client.post("/search", json={"ids": [1]})).status_code == 200

    asking(service, scenario)


def test_others_are_answered_while_a_picture_is_decoded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, begun = threading.Event(), threading.Event()
    decode = pictures.decode

    def slow(*words: Any) -> Any:
        begun.set()
        go.wait(10)
        return decode(*words)

    monkeypatch.setattr(pictures, "decode", slow)

    async def scenario(client: Any) -> None:
        files = {"image": ("red.png", picture(COLOURS["red"]))}
        upload = asyncio.create_task(client.post("/search", files=files))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        assert (await client.post("/search", json={"ids": [1]})).status_code == 200
        assert not upload.done()
        go.set()
        assert (await upload).status_code == 200

    asking(place.service(), scenario)


# ---------------------------------------------------------------- which files


def test_no_address_leads_out_of_the_page_or_the_index(place: Place) -> None:
    async def scenario(client: Any) -> None:
        for path in (
            "/page/../app.py",
            "/page/%2e%2e/app.py",
            "/page/..%2fapp.py",
            "/page//etc/passwd",
            "/page/%2fetc%2fpasswd",
            "/page/%00",
            "/thumbnails/../../etc/passwd",
            "/thumbnails/..%2f..%2fetc%2fpasswd",
            "/thumbnails/%2fetc%2fpasswd",
            "/thumbnails/-1",
            "/thumbnails/1.0",
            "/thumbnails/１",
            f"/items/{2**63}",
        ):
            reply = await client.get(path)
            assert reply.status_code in (404, 405), path
            assert b"root:" not in reply.content

    asking(place.service(), scenario)


def test_links_out_of_the_folder_are_refused(tmp_path: Path, place: Place) -> None:
    photos = make_photos(tmp_path / "photos", each=2)
    secret = tmp_path / "photos-secret"
    secret.mkdir()
    (secret / "secret.png").write_bytes(picture((1, 2, 3)))
    (photos / "red" / "linked.png").symlink_to(secret / "secret.png")
    index = jaxhash.index(place.index.model, photos, tmp_path / "photos.index")
    assert index.items.paths is not None
    paths = [Path(path) for path in index.items.paths]
    ids = {f"{path.parent.name}/{path.name}": at for at, path in enumerate(paths)}
    # What was a picture when it was indexed is now something else.
    for name in ("00", "01"):
        (photos / "blue" / f"{name}.png").unlink()
        (photos / "green" / f"{name}.png").unlink()
    (photos / "blue" / "00.png").symlink_to("/etc/passwd")
    (photos / "blue" / "01.png").symlink_to(secret / "secret.png")
    os.mkfifo(photos / "green" / "00.png")
    (photos / "green" / "01.png").mkdir()

    async def scenario(client: Any) -> None:
        for name in ("blue/00", "blue/01", "green/00", "green/01", "red/linked"):
            for words in ("", "?whole=1"):
                reply = await client.get(f"/thumbnails/{ids[f'{name}.png']}{words}")
                assert reply.status_code == 404, name
                assert str(tmp_path) not in reply.text
        assert (await client.get(f"/thumbnails/{ids['red/00.png']}")).status_code == 200
        # Nor does an answer say where on the machine anything is.
        reply = await client.post("/search", json={"ids": list(ids.values()), "k": 9})
        assert str(tmp_path) not in reply.text

    asking(Service(place.run, tmp_path / "photos.index"), scenario)


def test_an_index_that_names_files_elsewhere_shows_none(tmp_path: Path, place: Place) -> None:
    """Its folder is part of what it says; without one, nothing is shown, unless it is named."""
    dataset = retrieval.load_items(str(place.photos), place.index.model)
    kept = retrieval.attachments(place.index.model, dataset, "a name")
    codes, features = place.index.codes.get(place.index.codes.ids)
    jaxhash.ImageIndex(place.index.model, place.index.codes)
    changed = type(place.index.codes)(codes, bits=19, features=features, attachments=kept)
    changed.save(tmp_path / "odd.index")

    async def status(client: Any) -> int:
        return (await client.get("/thumbnails/0")).status_code

    path = tmp_path / "odd.index"
    assert asking(Service(place.run, path), status) == 404
    assert asking(Service(place.run, path, folder=tmp_path), status) == 404
    assert asking(Service(place.run, path, folder=place.photos), status) == 200


def test_a_thumbnail_is_made_anew(tmp_path: Path, place: Place) -> None:
    """A file that is both a picture and a page is never sent as it is."""
    photos = make_photos(tmp_path / "photos", each=1)
    page = b"<script>alert(1)</script>"
    file = io.BytesIO()
    Image.new("RGB", (300, 200)).save(file, "JPEG", comment=page)
    (photos / "red" / "00.png").write_bytes(file.getvalue() + page)
    index = jaxhash.index(place.index.model, photos, tmp_path / "photos.index")
    item = [Path(path).parent.name for path in index.items.paths or ()].index("red")

    async def scenario(client: Any) -> None:
        for words in ("", "?whole=1"):
            reply = await client.get(f"/thumbnails/{item}{words}")
            assert reply.headers["content-type"] == "image/jpeg"
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert b"script" not in reply.content

    asking(Service(place.run, tmp_path / "photos.index"), scenario)


# ---------------------------------------------------------------- what browsers do with it


def test_odd_names_arrive_as_they_are_and_as_data(place: Place) -> None:
    async def scenario(client: Any) -> None:
        item = place.item(f"red/{ODD}")
        reply = await client.get(f"/items/{item}")
        assert reply.json()["path"] == f"red/{ODD}"
        assert reply.headers["content-type"] == "application/json"
        found = (await client.post("/search", json={"ids": [item], "k": 11})).json()
        (answer,) = found["answers"]
        assert f"red/{ODD}" in answer["paths"]
        assert "red/\\xff.png" in answer["paths"], "a name that is no UTF-8"
        again = await client.post("/search", json={"paths": ["red/\\xff.png"], "k": 1})
        assert again.json()["answers"][0]["paths"] == ["red/\\xff.png"]
        upload = await client.post("/search", files={"image": (ODD, b"x")})
        assert upload.json()["error"].startswith(ODD[:10])
        assert upload.headers["content-type"] == "application/json"

    asking(place.service(), scenario)


def test_every_answer_has_the_policy(place: Place) -> None:
    async def scenario(client: Any) -> None:
        for method, path, headers in (
            ("GET", "/", {}),
            ("GET", "/run", {}),
            ("GET", "/page/search.js", {}),
            ("GET", "/thumbnails/0", {}),
            ("GET", "/nothing", {}),
            ("PUT", "/search", {}),
            ("GET", "/", {"host": "evil.example"}),
        ):
            reply = await client.request(method, path, headers=headers)
            policy = reply.headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self';")
            assert "unsafe" not in policy
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert "server" not in reply.headers

    asking(place.service(), scenario)


def test_the_page_is_whole_and_asks_no_other_host() -> None:
    files = list(app.PAGE.iterdir())
    assert {file.suffix for file in files} <= {".html", ".css", ".js", ".svg"}
    for file in files:
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"(https?:)?//[\w.]+\.\w+/|@import|url\(", text), file
        # Text only ever becomes text, and the policy would refuse the rest.
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write",
                          "eval(", " style=", "onclick", "onerror="):  # fmt: skip
            assert forbidden not in text, (file, forbidden)
        for name in re.findall(r'(?:src|href)="/page/([^"]+)"|from "\./([^"]+)"', text):
            assert (app.PAGE / "".join(name)).is_file(), name
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "serve/page/*" in patterns["package-data"]["jaxhash"], "it is in the wheel"


# ---------------------------------------------------------------- anything at all


def test_whatever_comes_in_is_no_fault_of_ours(place: Place) -> None:
    """Random methods, addresses, headers and bodies: refused, and the next query is answered."""
    rng = np.random.default_rng(0)
    bodies = [
        b"",
        b"{}",
        b'{"ids": [1e400]}',
        b'{"ids": [1], "k": 1e3}',
        b'{"ids": ["\\ud800"]}',
        b'{"paths": ["\\ud800"]}',
        b'{"ids": [1], "where": "\\u0000"}',
        b'{"ids": [1], "where": "\\ud800 == 1"}',
        b'{"ids": [1], "where": "1 union select 1"}',
        b"[" * 5000,
        b'{"ids": [' + b"1," * 2000 + b"1]}",
        b'--x\r\nContent-Disposition: form-data; name="k"\r\n\r\n\xff\r\n--x--',
        b"--x\r\n" + FILE + b'filename="\xff\x00"\r\n\r\n\r\n--x--',
        b"--x\r\n\r\n",
        b"--x\r\n" + FILE + b'filename="a"\r\n\r\nGIF89a',
    ]
    medias = [
        "application/json",
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=\xff",
        "multipart/form-data; boundary=x; charset=utf-16",
        "multipart/form-data; boundary=" + "y" * 500,
        "\xff",
    ]
    paths = ["/search", "/encode", "/items", "/items/1", "/items/%ff", "/thumbnails/1?size=\u0663",
             "/items?sample=1e3&seed=-1", "//search", "/search/", "/%00", "/page/%ff"]  # fmt: skip

    async def scenario(client: Any) -> set[int]:
        seen = set()
        for _ in range(400):
            body = bodies[rng.integers(len(bodies))] + rng.bytes(rng.integers(3))
            headers = {"content-type": medias[rng.integers(len(medias))].encode("latin-1")}
            method = ["POST", "POST", "POST", "GET", "DELETE", "OPTIONS"][rng.integers(6)]
            path = paths[rng.integers(len(paths))]
            reply = await client.request(method, path, content=body, headers=headers)
            assert reply.status_code < 500, (method, path, headers, body, reply.text)
            seen.add(reply.status_code)
        assert (await client.post("/search", json={"ids": [1]})).status_code == 200
        return seen

    assert {200, 400, 404, 405, 422} <= asking(place.service(), scenario)
