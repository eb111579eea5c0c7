"""The service in front of an index that is searched elsewhere: same answers, or a clear 503."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_service import COLOURS, asking, client_of, make_photos, make_run, network_known, picture

import jaxhash
from jaxhash.serve import limits
from jaxhash.serve.service import Service
from jaxhash.shards import folder as folders
from jaxhash.shards.encoding import encode_missing
from jaxhash.shards.pointer import current, point
from search import HashIndex
from search.scattered import search_shards
from search.shards import file_name, files

SHARDS = 3


class Parts:
    """Stands for a cluster: each file of a folder of shards is a part."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.error: Exception | None = None

    def __call__(self, folder: str, queries: np.ndarray, k: int, **options: Any) -> Any:
        self.asked.append(folder)
        if self.error is not None:
            raise self.error
        shards = [HashIndex.open([path]) for path in files(folder)]
        return search_shards(shards, queries, k, **options)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run, and two generations of shards: of all pictures, and without the red ones."""
    root = tmp_path_factory.mktemp("parts")
    with network_known():
        model = jaxhash.load(make_run(root / "run"))
        make_photos(root / "photos")
        for name in ("a", "b"):
            folders.begin(root / name, model, str(root / "photos"), SHARDS)
            encode_missing(model, root / name)
            shutil.rmtree(root / "photos" / "red", ignore_errors=True)
        yield root


def upload(name: str, **fields: Any) -> dict[str, Any]:
    file = ("image", (f"{name}.png", picture(COLOURS[name], 99), "image/png"))
    return {"files": [file], "data": {key: str(value) for key, value in fields.items()}}


def told(reply: Any) -> Any:
    """An answer without what differs from time to time."""
    assert reply.status_code == 200, reply.text
    return {
        key: value for key, value in reply.json().items() if key not in ("version", "milliseconds")
    }


async def some_answers(client: Any) -> list[Any]:
    return [
        told(await client.post("/search", **upload("green", k=4))),
        told(await client.post("/search", **upload("blue", k=20, pool=0, codes=True))),
        told(await client.post("/search", json={"ids": [3, 11], "k": 5, "radius": 6})),
        told(await client.get("/info")),
        told(await client.get("/items/4")),
        (await client.get("/thumbnails/4")).content,
    ]


def test_answers_are_those_of_one_index(root: Path) -> None:
    parts = Parts()
    here = asking(Service(root / "run", root / "a"), some_answers)
    assert asking(Service(root / "run", root / "a", ask=parts), some_answers) == here
    assert set(parts.asked) == {str(root / "a")}


def test_each_answer_is_of_one_generation(root: Path) -> None:
    """Items are those of the folder that was searched, also while the pointer changes."""
    expected = [asking(Service(root / "run", root / name), some_answers) for name in "ab"]
    assert expected[0] != expected[1]
    pointer, parts = root / "current", Parts()
    point(pointer, root / "a")

    async def scenario() -> None:
        service = Service(root / "run", pointer, ask=parts)
        async with client_of(service) as client:
            assert await some_answers(client) == expected[0]
            before = service.snapshot.version
            point(pointer, root / "b")
            parts.asked.clear()
            old = told(await client.post("/search", **upload("green", k=4)))
            if service.snapshot.version == before:  # not looked at yet: what is served stays
                assert old == expected[0][0]
                assert parts.asked == [str(root / "a")]
            await service.refresh()
            assert await some_answers(client) == expected[1]
            assert service.snapshot.version != before
            # What cannot be searched is not taken up.
            for wrong in (b"photos", b"/nowhere", bytes(5000), b""):
                pointer.write_bytes(wrong)
                await service.refresh()
                assert (await client.get("/health")).json()["status"] == "old index"
                assert await some_answers(client) == expected[1]
            shutil.copytree(root / "a", root / "c")
            (root / "c" / file_name(1, SHARDS)).unlink()
            pointer.write_text(str(root / "c"))
            await service.refresh()
            assert "1 of 3 shards are missing" in (await client.get("/health")).json()["problem"]
            point(pointer, root / "a")
            await service.refresh()
            assert (await client.get("/health")).json()["status"] == "ok"
            assert await some_answers(client) == expected[0]

    asyncio.run(scenario())


def test_parts_that_do_not_answer_are_a_503(root: Path) -> None:
    parts = Parts()

    async def scenario(client: Any) -> None:
        right = told(await client.post("/search", **upload("green", k=4)))
        for error in (TimeoutError("no replica"), OSError(5, "disk"), ValueError("/x/0: damaged")):
            parts.error = error
            reply = await client.post("/search", **upload("green", k=4))
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "1"
            assert reply.json() == {
                "error": "the parts of the index do not answer; try again in a second"
            }
        parts.error = None
        assert told(await client.post("/search", **upload("green", k=4))) == right
        reply = await client.post("/search", json={"ids": [3], "k": 2, "where_ids": [1, 2]})
        assert (reply.status_code, "has no filters" in reply.text) == (422, True)
        reply = await client.post("/search", json={"ids": [3], "k": 2, "recall": 0.9})
        assert (reply.status_code, "is searched exactly" in reply.text) == (422, True)
        reply = await client.post("/search", json={"ids": [99], "k": 2})
        assert reply.status_code == 404

    asking(Service(root / "run", root / "a", ask=parts), scenario)


def test_no_answer_lists_all_ids(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand million items they are 8 GB, where the index itself stores one of them."""

    def refuse(*_: object) -> np.ndarray:
        raise AssertionError("all ids were listed")

    monkeypatch.setattr("search.collection.state.live_ids", refuse)
    monkeypatch.setattr(limits, "BY_PATH", 5)

    async def scenario(client: Any) -> None:
        info = told(await client.get("/info"))
        assert (info["items"], info["labels"]) == (18, [])
        some = told(await client.get("/items?sample=7&seed=1"))["ids"]
        assert len(set(some) & set(range(18))) == 7
        run = told(await client.get("/run.json"))
        assert run["bits"]["items"] == 18
        assert run["galleries"] == {"right": [], "wrong": []}
        told(await client.post("/search", **upload("green", k=4)))
        for words, message in (
            ({"ids": [3], "where": "folder == 'red'"}, "keeps no paths or columns"),
            ({"paths": [told(await client.get("/items/3"))["path"]]}, "more than 5 items; ask by"),
        ):
            reply = await client.post("/search", json=words)
            assert (reply.status_code, message in reply.text) == (422, True)

    for ask in (None, Parts()):
        asking(Service(root / "run", root / "a", ask=ask), scenario)


def test_parts_that_cannot_be_searched_end_the_start(root: Path) -> None:
    parts = Parts()
    parts.error = TimeoutError("no replica answered in 4 tries")
    with pytest.raises(TimeoutError, match="no replica"):
        Service(root / "run", root / "a", ask=parts)
    with pytest.raises(FileNotFoundError, match="nothing"):
        Service(root / "run", root / "nothing", ask=parts)
    with pytest.raises(ValueError, match="names no folder of shards"):
        Service(root / "run", next(root.glob("a/*.index")), ask=parts)


def test_a_folder_names_itself(root: Path) -> None:
    assert current(root / "a") == str(root / "a")
    (root / "by-hand").write_text(f"{root / 'b'}\n")
    assert current(root / "by-hand") == str(root / "b")
