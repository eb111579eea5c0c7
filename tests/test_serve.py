"""The HTTP service answers as the library does, many at once, and takes up a new index."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_service import COLOURS, asking, client_of, make_photos, make_run, network_known, picture

import jaxhash
from jaxhash import retrieval, runs
from jaxhash.image_index import ImageIndex
from jaxhash.serve import documents, forms, limits
from jaxhash.serve.app import ROUTES
from jaxhash.serve.batching import Batcher
from jaxhash.serve.errors import Refused
from jaxhash.serve.limits import Limits
from jaxhash.serve.searching import Wanted
from jaxhash.serve.service import Service
from search import HashIndex
from search.files.locking import alone


class Place:
    """A folder of pictures, a run and its index."""

    def __init__(self, root: Path) -> None:
        self.photos = make_photos(root / "photos")
        self.run = make_run(root / "run")
        self.path = root / "photos.index"
        self.index: ImageIndex = jaxhash.index(jaxhash.load(self.run), self.photos, self.path)

    def service(self, **options: Any) -> Service:
        return Service(self.run, self.path, **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with network_known():
        yield Place(tmp_path_factory.mktemp("serve"))


def upload(*names: str, **fields: Any) -> dict[str, Any]:
    """The words of a request with pictures of these colours."""
    files = [("image", (f"{name}.png", picture(COLOURS[name], 99), "image/png")) for name in names]
    return {"files": files, "data": {name: str(value) for name, value in fields.items()}}


def test_answers_are_those_of_the_library(place: Place) -> None:
    async def scenario(client: Any) -> None:
        for pool in (0, 12):
            reply = await client.post("/search", **upload("red", "blue", k=5, pool=pool))
            assert reply.status_code == 200, reply.text
            files = [place.photos.parent / f"{name}.png" for name in ("red", "blue")]
            for file in files:
                file.write_bytes(picture(COLOURS[file.stem], 99))
            wanted = place.index.query(files, k=5, pool=pool)
            for answer, found in zip(reply.json()["answers"], wanted, strict=True):
                assert answer["query"] == Path(found.query).name
                assert answer["ids"] == found.ids
                np.testing.assert_allclose(answer["distances"], found.distances, rtol=1e-4)
                assert answer["labels"] == found.labels
                shown = [str(Path(path).relative_to(place.photos)) for path in found.paths]
                assert answer["paths"] == shown

    asking(place.service(), scenario)


def test_items_are_queries_by_id_and_by_path(place: Place) -> None:
    async def scenario(client: Any) -> None:
        by_id = await client.post("/search", json={"ids": [7, 2], "k": 4, "codes": True})
        paths = [(await client.get(f"/items/{item}")).json()["path"] for item in (7, 2)]
        by_path = await client.post("/search", json={"paths": paths, "k": 4, "codes": True})
        first, second = by_id.json()["answers"], by_path.json()["answers"]
        assert [one["query"] for one in first] == ["7", "2"]
        assert [one["query"] for one in second] == paths
        for one, other in zip(first, second, strict=True):
            assert one | {"query": ""} == other | {"query": ""}
        assert [one["ids"][0] for one in first] == [7, 2]
        codes, features = place.index.codes.get([7, 2])
        distances, ids = place.index.codes.search(
            codes, 4, query_features=features.astype(np.float32), pool=200
        )
        assert [one["ids"] for one in first] == ids.tolist()
        assert [one["distances"] for one in first] == distances.tolist()
        assert [one["code"] for one in first] == [code.tobytes().hex() for code in codes]
        beside = place.index.codes.get(first[0]["ids"])[0]
        assert first[0]["codes"] == [code.tobytes().hex() for code in beside]
        short = await client.post("/search", json={"ids": [7], "k": 4, "names": False})
        assert set(short.json()["answers"][0]) == {"query", "ids", "distances"}

    asking(place.service(), scenario)


@pytest.mark.parametrize("order", [None, *runs.ORDERS])
def test_the_order_is_the_one_that_an_evaluation_found_best(
    order: str | None, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of the library; a pool that is given wins, and the answer says which one it was."""
    monkeypatch.setattr(retrieval, "POOL", 4)
    if order is not None:
        runs.write_json(place.run / runs.RESULTS, {"order": order})
    wanted = order or "coarse_to_fine"

    async def scenario(client: Any) -> None:
        about = (await client.get("/info")).json()
        assert (about["order"], about["pool"]) == (
            wanted,
            retrieval.pool_for(1, wanted, about["items"]),
        )
        reply = (await client.post("/search", json={"ids": [7], "k": 2})).json()
        assert reply["order"] == wanted
        found = place.index.query(place.index.names([7])[0][0], k=2)
        assert reply["answers"][0]["ids"] == found.ids
        np.testing.assert_allclose(reply["answers"][0]["distances"], found.distances, atol=0.02)
        for pool, said in ((0, "codes"), (9, "coarse_to_fine"), (500, "features")):
            reply = await client.post("/search", json={"ids": [7], "k": 2, "pool": pool})
            assert reply.json()["order"] == said

    try:
        asking(place.service(), scenario)
    finally:
        (place.run / runs.RESULTS).unlink(missing_ok=True)


def test_so_many_queries_compare_no_more_than_an_operator_bears(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "COMPARED", 60)

    async def scenario(client: Any) -> None:
        words = {"ids": [7] * 7, "k": 2, "pool": 9}
        reply = await client.post("/search", json=words)
        assert reply.status_code == 422
        assert "7 queries with a pool of 9 each; give up to 6, or a smaller" in reply.text
        assert (await client.post("/search", json=words | {"pool": 8})).status_code == 200

    asking(place.service(), scenario)


def test_filters_and_radius(place: Place) -> None:
    async def search(client: Any, **words: Any) -> Any:
        reply = await client.post("/search", json={"ids": [0], "pool": 0, "k": 20} | words)
        return reply.json()["answers"][0] if reply.status_code == 200 else reply

    async def scenario(client: Any) -> None:
        assert (await client.get("/info")).json()["labels"] == sorted(COLOURS)
        found = await search(client, where="label in ('red', 'green')")
        assert set(found["labels"]) == {"red", "green"}
        assert len(found["ids"]) == 12
        assert sorted((await search(client, where_ids=[3, 9]))["ids"]) == [3, 9]
        both = await search(client, where_ids=[3, 9, 15], where="folder == 'green'")
        assert both["ids"] == [9]
        near = await search(client, radius=3)
        _, ids = place.index.codes.search(place.index.codes.get([0])[0], 20, radius=3)
        assert near["ids"] == ids[ids >= 0].tolist()
        assert (await search(client, where="label == 'pink'"))["ids"] == []
        for words in ({"where": "colour == 1"}, {"where": "1; drop"}, {"where_ids": [99]}):
            assert (await search(client, **words)).status_code == 422

    asking(place.service(), scenario)


def test_a_recall_is_that_of_the_search(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    search = HashIndex.search

    def told(index: HashIndex, queries: Any, k: int, **options: Any) -> Any:
        asked.append({"k": k} | options)
        return search(index, queries, k, **options)

    async def scenario(client: Any) -> None:
        monkeypatch.setattr(HashIndex, "search", told)
        for words in ({"pool": 0}, {"pool": 9}):
            words = {"ids": [7, 2], "k": 4} | words
            exact = (await client.post("/search", json=words)).json()["answers"]
            assert [one.get("recall") for one in asked] == [None]
            asked.clear()
            found = await client.post("/search", json=words | {"recall": 0.95})
            assert found.json()["answers"] == exact, "few: exact"
            # First what takes long, apart from the other requests, for as many as are looked for.
            assert [one["recall"] for one in asked] == [0.95, 0.95]
            assert asked[0]["k"] == (words["pool"] or words["k"])
            asked.clear()
        for words, said in (
            ({"recall": 0}, "greater than 0"),
            ({"recall": 1.5}, "less than or equal to 1"),
            ({"recall": 0.955}, "multiple of 0.01"),
            ({"recall": 0.9, "radius": 2}, "recall does not combine with radius; leave one"),
            ({"recall": 0.9, "where": "label == 'red'"}, "recall does not combine with where;"),
            ({"recall": 0.9, "where_ids": [1]}, "recall does not combine with where_ids;"),
        ):
            reply = await client.post("/search", json={"ids": [7]} | words)
            assert (reply.status_code, said in reply.text) == (422, True), reply.text
        assert not asked

    asking(place.service(), scenario)


def test_requests_with_a_recall_are_joined_where_they_look_for_as_many() -> None:
    one = Wanted(k=3, pool=0, recall=0.9)
    assert one.group() == Wanted(k=3, pool=0, recall=0.9, ids=[1]).group()
    for other in (
        Wanted(k=4, pool=0, recall=0.9), Wanted(k=3, pool=0, recall=0.95), Wanted(k=3, pool=0),
    ):  # fmt: skip
        assert one.group() != other.group()


def test_encode_gives_the_codes_of_the_model(place: Place) -> None:
    async def scenario(client: Any) -> None:
        reply = await client.post("/encode", **upload("red", "green", "blue", features=True))
        found = reply.json()
        files = [place.photos.parent / f"{name}.png" for name in ("red", "green", "blue")]
        for file in files:
            file.write_bytes(picture(COLOURS[file.stem], 99))
        wanted = place.index.model.encode(files)
        assert found["bits"] == 19
        assert found["codes"] == [code.tobytes().hex() for code in wanted.codes]
        np.testing.assert_allclose(found["features"], wanted.features, atol=1e-2)
        assert (await client.post("/encode", **upload("red"))).json()["features"] is None

    asking(place.service(), scenario)


def test_a_sample_and_its_thumbnails(place: Place) -> None:
    async def scenario(client: Any) -> None:
        some = (await client.get("/items?sample=5&seed=3")).json()
        assert some == (await client.get("/items?sample=5&seed=3")).json()
        assert len(set(some["ids"])) == 5
        assert len((await client.get("/items?sample=100")).json()["ids"]) == 18
        for item in some["ids"]:
            reply = await client.get(f"/thumbnails/{item}?size=64")
            assert reply.status_code == 200
            assert reply.headers["content-type"] == "image/png"
        whole = await client.get(f"/thumbnails/{some['ids'][0]}?whole=1")
        assert whole.content[:4] == b"\x89PNG"
        for address in ("/thumbnails/99", "/items/99", "/items/x", f"/items/{'9' * 5000}"):
            assert (await client.get(address)).status_code == 404
        for address in ("/items?sample=0", "/items?sample=x", "/thumbnails/1?size=9999"):
            assert (await client.get(address)).status_code == 422

    asking(place.service(), scenario)


def test_what_is_asked_wrongly_is_refused_with_the_reason(place: Place) -> None:
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"json": {}}, 422, "as images, as ids or as paths"),
        ({"json": {"ids": [1], "paths": ["x"]}}, 422, "one of these"),
        ({"json": {"ids": []}}, 422, "ids"),
        ({"json": {"ids": [1], "k": 0}}, 422, "k: "),
        ({"json": {"ids": [1], "k": 10**9}}, 422, "k: "),
        ({"json": {"ids": [1], "kk": 3}}, 422, "kk"),
        ({"json": {"ids": [1] * 1000, "k": 1000}}, 422, "up to 100,000 in all"),
        ({"json": {"ids": [-1]}}, 422, "ids"),
        ({"json": {"ids": [2**64]}}, 422, "ids"),
        ({"json": {"ids": [99]}}, 404, "not in the index"),
        ({"json": {"paths": ["../../etc/passwd"]}}, 404, "no item has the path"),
        ({"json": [1]}, 422, ""),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "multipart/form-data"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        (upload("red", k="x"), 422, "k: "),
        (upload("red", ids="1"), 422, "one of these"),
        ({"files": {"file": ("a.png", b"x")}}, 422, "under the name image"),
        ({"files": {"image": ("a.png", b"no image")}}, 422, "a.png: not an image"),
        ({"files": {"image": ("a.png", b"")}}, 422, "a.png: empty file"),
        (upload(*["red"] * 17), 400, "Too many files"),
    ]

    async def scenario(client: Any) -> None:
        for words, status, reason in cases:
            reply = await client.post("/search", **words)
            assert reply.status_code == status, (words, reply.text)
            assert reason in reply.json()["error"], reply.text
        assert (await client.get("/search")).status_code == 405
        assert (await client.get("/nothing")).status_code == 404
        assert (await client.post("/items", **upload("red"))).status_code == 405

    asking(place.service(), scenario)


def test_requests_that_arrive_together_are_one_search(place: Place) -> None:
    service = place.service()
    index, sizes, begun = service.snapshot.images.codes, [], threading.Event()
    search = index.search

    def watched(codes: np.ndarray, *words: Any, **options: Any) -> Any:
        sizes.append(len(codes))
        begun.set()
        time.sleep(0.05)
        return search(codes, *words, **options)

    index.search = watched  # type: ignore[method-assign]

    async def scenario(client: Any) -> list[Any]:
        def ask(at: int) -> Any:
            return client.post("/search", json={"ids": [at % 18], "k": 1 + at % 7})

        first = asyncio.create_task(ask(0))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        rest = [ask(at) for at in range(1, 40)]
        return [await first, *await asyncio.gather(*rest)]

    replies = asking(service, scenario)
    assert sizes[0] == 1
    assert len(sizes) < 8, "forty requests are not forty searches"
    for at, reply in enumerate(replies):
        (answer,) = reply.json()["answers"]
        codes, features = place.index.codes.get([at % 18])
        distances, ids = place.index.codes.search(
            codes, 1 + at % 7, query_features=features.astype(np.float32), pool=200
        )
        assert answer["ids"] == ids[0].tolist(), "each client gets its own answer"
        assert answer["distances"] == distances[0].tolist()


def test_overload_is_answered_at_once(place: Place) -> None:
    service = place.service(limits=Limits(waiting=4, batch=2))
    index, going_on = service.snapshot.images.codes, threading.Event()
    search = index.search

    def held(*words: Any, **options: Any) -> Any:
        going_on.wait(30)
        return search(*words, **options)

    index.search = held  # type: ignore[method-assign]

    async def scenario(client: Any) -> list[Any]:
        tasks = [
            asyncio.create_task(client.post("/search", json={"ids": [at]})) for at in range(18)
        ]
        while sum(task.done() for task in tasks) < 18 - 2 * 4:
            await asyncio.sleep(0.001)
        done = [task for task in tasks if task.done()]
        refused = [task.result() for task in done]
        going_on.set()
        await asyncio.gather(*tasks)
        for reply in refused:
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "1"
        return [task.result() for task in tasks if task not in done]

    served = asking(service, scenario)
    assert len(served) >= 4
    assert all(reply.status_code == 200 for reply in served)


def test_a_changed_index_is_taken_up_and_a_bad_one_is_not(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other.index"
    few = tmp_path / "few"
    (few / "red").mkdir(parents=True)
    (few / "red" / "only.png").write_bytes(picture(COLOURS["red"]))
    jaxhash.index(place.index.model, few, other)
    served = tmp_path / "served.index"
    served.write_bytes(place.path.read_bytes())
    service = Service(place.run, served)

    async def scenario(client: Any) -> None:
        before = (await client.get("/health")).json()
        assert (before["status"], before["items"]) == ("ok", 18)
        other.replace(served)
        await service.refresh()
        after = (await client.get("/health")).json()
        assert (after["status"], after["items"]) == ("ok", 1)
        assert after["version"] != before["version"]
        found = (await client.post("/search", json={"ids": [0]})).json()
        assert found["answers"][0]["paths"] == ["red/only.png"]
        assert found["version"] == after["version"]

        (tmp_path / "damaged").write_bytes(b"no index")
        (tmp_path / "damaged").replace(served)
        await service.refresh()
        await service.refresh()
        kept = (await client.get("/health")).json()
        assert (kept["status"], kept["version"]) == ("old index", after["version"])
        assert "served.index" in kept["problem"]
        assert str(tmp_path) not in kept["problem"], "nor where it lies"
        served.unlink()
        await asyncio.sleep(1.2)
        served.write_bytes(place.path.read_bytes())
        while (await client.get("/health")).json()["items"] != 18:
            await asyncio.sleep(0.05)
        (tmp_path / "damaged").write_bytes(b"")
        (tmp_path / "damaged").replace(served)
        await service.refresh()
        text = (await client.get("/metrics")).text
        assert 'jaxhash_reloads_total{taken="yes"} 2.0' in text
        assert 'jaxhash_reloads_total{taken="no"} 2.0' in text
        assert (await client.post("/search", json={"ids": [0]})).status_code == 200

    asking(service, scenario)


def test_every_answer_is_wholly_from_one_index(place: Place, tmp_path: Path) -> None:
    """Two indexes with the same ids and different labels take turns while clients ask."""
    served, versions = tmp_path / "served.index", []
    for at, name in enumerate(("one", "two")):
        root = tmp_path / name
        for item in range(6):
            (root / name).mkdir(parents=True, exist_ok=True)
            colour = COLOURS["red" if at else "blue"]
            (root / name / f"{item}.png").write_bytes(picture(colour, item))
        path = tmp_path / f"{name}.index"
        jaxhash.index(place.index.model, root, path)
        versions.append(path.read_bytes())
    served.write_bytes(versions[0])
    service = Service(place.run, served)

    async def scenario(client: Any) -> set[str]:
        stop, seen = asyncio.Event(), set()

        async def client_loop() -> None:
            while not stop.is_set():
                reply = await client.post("/search", json={"ids": [0, 3], "k": 6})
                paths = [path for one in reply.json()["answers"] for path in one["paths"]]
                folders = {path.split("/")[0] for path in paths}
                assert len(folders) == 1
                seen.add((*folders, reply.json()["version"]))

        loops = [asyncio.create_task(client_loop()) for _ in range(4)]
        for turn in range(6):
            new = tmp_path / "new.index"
            new.write_bytes(versions[turn % 2])
            new.replace(served)
            await service.refresh()
            await asyncio.sleep(0.02)
        stop.set()
        await asyncio.gather(*loops)
        return seen

    seen = asking(service, scenario)
    assert {name for name, _ in seen} == {"one", "two"}
    assert len({version for _, version in seen}) == len(seen), "a version is of one index"


def test_the_document_names_every_route_and_field(place: Place) -> None:
    async def scenario(client: Any) -> dict[str, Any]:
        return (await client.get("/openapi.json")).json()

    document = asking(place.service(writable=True), scenario)
    described = {
        (method.upper(), path) for path, one in document["paths"].items() for method in one
    }
    pages = {("GET", path) for path in ("/", "/run", "/run.json", "/page/{name}", "/openapi.json")}
    assert described == set(documents.ROUTES) == set(ROUTES) - pages
    taken = {
        path: set(document["paths"][path]["post"]["requestBody"]["content"])
        for path in ("/search", "/encode", "/items")
    }
    assert taken == {
        "/search": {documents.UPLOAD, documents.JSON},
        "/encode": {documents.UPLOAD},
        "/items": {documents.JSON},
    }
    schemas = document["components"]["schemas"]
    assert set(schemas["Search"]["properties"]) == set(forms.Search.model_fields)
    text = json.dumps(document)
    for ref in {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}:
        assert ref in schemas
    readonly = asking(place.service(), scenario)
    assert "post" not in readonly["paths"]["/items"]
    assert "delete" not in readonly["paths"]["/items/{id}"]


def test_an_item_is_removed_where_that_is_allowed(place: Place, tmp_path: Path) -> None:
    served = tmp_path / "served.index"
    served.write_bytes(place.path.read_bytes())

    async def scenario(client: Any) -> None:
        before = (await client.get("/health")).json()
        reply = await client.delete("/items/3")
        assert reply.json() == {"ids": [3], "items": 17}
        assert (await client.get("/items/3")).status_code == 404
        assert (await client.delete("/items/3")).status_code == 404
        after = (await client.get("/health")).json()
        assert after["items"] == 17
        assert after["version"] != before["version"]
        found = (await client.post("/search", json={"ids": [4], "k": 20})).json()
        assert 3 not in found["answers"][0]["ids"]
        (path,) = found["answers"][0]["paths"][:1]
        assert path == "blue/04.png", "the others keep their names"

    asking(Service(place.run, served, writable=True), scenario)
    assert 3 not in jaxhash.open_index(served, place.run).codes, "it is written to the file"

    async def refused(client: Any) -> None:
        assert (await client.delete("/items/4")).status_code == 405

    asking(Service(place.run, served), refused)


def test_columns_are_answered_and_filtered_by(tmp_path: Path, place: Place) -> None:
    photos = make_photos(tmp_path / "photos", each=2)
    table = tmp_path / "table.csv"
    table.write_text("path,year\nred/00.png,2020\nblue/01.png,2021\n")
    index = jaxhash.index(place.index.model, photos, tmp_path / "served.index", columns=table)
    item = index.items.relative.index("red/00.png")  # type: ignore[union-attr]

    async def scenario(client: Any) -> None:
        words = {"ids": [item], "k": 9, "where": "year >= 2020"}
        (answer,) = (await client.post("/search", json=words)).json()["answers"]
        assert dict(zip(answer["paths"], answer["columns"], strict=True)) == {
            "red/00.png": {"year": 2020},
            "blue/01.png": {"year": 2021},
        }
        assert (await client.get(f"/items/{item}")).json()["columns"] == {"year": 2020}

    asking(Service(place.run, tmp_path / "served.index"), scenario)


def test_files_of_the_folder_are_added(tmp_path: Path, place: Place) -> None:
    photos = make_photos(tmp_path / "photos", each=2)
    served = tmp_path / "served.index"
    jaxhash.index(place.index.model, photos, served)
    (photos / "red" / "new.png").write_bytes(picture(COLOURS["red"], 9))
    (photos / "red" / "bad.png").write_bytes(b"none")
    (tmp_path / "outside.png").write_bytes(picture(COLOURS["red"], 9))
    (photos / "red" / "link.png").symlink_to(tmp_path / "outside.png")

    async def scenario(client: Any) -> None:
        for path, status in (
            ("../outside.png", 404),
            (str(tmp_path / "outside.png"), 404),
            ("red/link.png", 404),
            ("red/nul\0.png", 404),
            ("red/bad.png", 422),
            ("red/nothing.png", 409),
        ):
            reply = await client.post("/items", json={"paths": [path]})
            assert reply.status_code == status, (path, reply.text)
            assert str(tmp_path) not in reply.text.replace(path, "")
        assert (await client.get("/health")).json()["items"] == 6
        reply = await client.post("/items", json={"paths": ["red/new.png"]})
        assert reply.json() == {"ids": [6], "items": 7}
        found = await client.post("/search", json={"paths": ["red/new.png"], "k": 1})
        assert found.json()["answers"][0]["ids"] == [6]
        again = await client.post("/items", json={"paths": ["red/new.png"]})
        assert again.json() == {"ids": [6], "items": 7}

    asking(Service(place.run, served, writable=True), scenario)
    assert len(jaxhash.open_index(served, place.run)) == 7


def test_a_change_does_not_undo_that_of_another_program(place: Place, tmp_path: Path) -> None:
    served = tmp_path / "served.index"
    served.write_bytes(place.path.read_bytes())
    service = Service(place.run, served, writable=True)

    async def scenario(client: Any) -> None:
        index = jaxhash.open_index(served, place.run).codes
        index.remove([5])
        index.save(served)
        assert (await client.delete("/items/3")).json() == {"ids": [3], "items": 16}

    asking(service, scenario)
    kept = jaxhash.open_index(served, place.run).codes
    assert 3 not in kept
    assert 5 not in kept


def test_a_change_beside_another_writer_is_refused(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = tmp_path / "served.index"
    served.write_bytes(place.path.read_bytes())
    remove = ImageIndex.remove

    def after_another(images: ImageIndex, ids: list[int]) -> None:
        """Somebody else opens, changes and writes the file after the service has opened it."""
        monkeypatch.setattr(ImageIndex, "remove", remove)
        other = jaxhash.open_index(served, place.run)
        other.remove([5])
        other.save()
        images.remove(ids)

    async def scenario(client: Any) -> None:
        with alone(served):
            for reply in (
                await client.delete("/items/3"),
                await client.post("/items", json={"paths": ["red/00.png"]}),
            ):
                assert reply.status_code == 409, reply.text
                assert "served.index is being written" in reply.text
                assert str(tmp_path) not in reply.text
            assert served.read_bytes() == place.path.read_bytes()
        monkeypatch.setattr(ImageIndex, "remove", after_another)
        reply = await client.delete("/items/3")
        assert reply.status_code == 409, reply.text
        assert "written by somebody else" in reply.text
        kept = jaxhash.open_index(served, place.run).codes
        assert (3 in kept, 5 in kept) == (True, False)
        assert (await client.delete("/items/3")).json() == {"ids": [3], "items": 16}

    asking(Service(place.run, served, writable=True), scenario)
    kept = jaxhash.open_index(served, place.run).codes
    assert (3 in kept, 5 in kept, len(kept)) == (False, False, 16)


def test_answers_have_the_documented_form(place: Place) -> None:
    async def scenario(client: Any) -> None:
        posted = await client.post("/search", **upload("red", codes=True))
        forms.Searched.model_validate(posted.json(), strict=True)
        forms.Encoded.model_validate((await client.post("/encode", **upload("red"))).json())
        for address, form in (
            ("/items/3", forms.Item),
            ("/items", forms.Items),
            ("/info", forms.Info),
            ("/health", forms.Health),
            ("/items/99", forms.Problem),
        ):
            form.model_validate((await client.get(address)).json())

    asking(place.service(), scenario)


def test_a_batch_that_fails_fails_for_its_own_jobs_alone() -> None:
    def work(jobs: list[int]) -> list[int | Exception]:
        if 13 in jobs:
            raise RuntimeError("unlucky")
        return [Refused(404, "odd") if job % 2 else job for job in jobs]

    async def play() -> list[Any]:
        async with Batcher(work, size=1, waiting=100) as batcher:
            jobs = (batcher.submit(job) for job in (2, 3, 13, 4))
            return await asyncio.gather(*jobs, return_exceptions=True)

    two, three, thirteen, four = asyncio.run(play())
    assert (two, four) == (2, 4)
    assert isinstance(three, Refused)
    assert isinstance(thirteen, RuntimeError)


def test_what_has_begun_is_finished_at_the_end(place: Place) -> None:
    async def play() -> list[Any]:
        service = place.service()
        async with client_of(service) as client:
            tasks = [asyncio.create_task(client.post("/search", json={"ids": [1]})) for _ in "abcd"]
            await asyncio.sleep(0)
            await asyncio.sleep(0.005)
            asked = [task for task in tasks if not task.done()]
            return [task.result() for task in tasks if task.done()] + await asyncio.gather(*asked)

    assert [reply.status_code for reply in asyncio.run(play())] == [200] * 4
