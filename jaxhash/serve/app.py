"""The routes: what is asked for at which address. `build` makes the ASGI application."""

import contextlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route, Router

from jaxhash.serve import documents, forms, limits, pictures, reading
from jaxhash.serve.errors import Refused
from jaxhash.serve.guard import LOOPBACK, App, Guard
from jaxhash.serve.searching import Wanted
from jaxhash.serve.service import Service

PAGE = Path(__file__).parent / "page"
FILES = {path.name: path for path in PAGE.iterdir()}
"""The files of the pages: these and no others are sent."""
Handler = Callable[[Service, Request], Awaitable[Response]]


def build(
    service: Service,
    *,
    token: str | None = None,
    hosts: Iterable[str] = LOOPBACK,
) -> App:
    """The application: ASGI, for any server of that kind.

    Args:
        service: what answers.
        token: that clients must show; None for none.
        hosts: names that it may be called by where there is no token.

    Returns:
        The application; its lifespan runs the service.

    Example:
        >>> app = build(Service("runs/photos", "photos.index"))  # doctest: +SKIP
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        async with service.running():
            yield

    routes = [
        Route(path, partial(handle, service), methods=[method], include_in_schema=False)
        for (method, path), handle in ROUTES.items()
        if service.writable or (method, path) not in documents.WRITING
    ]
    router = Router(routes, redirect_slashes=False, default=_nothing, lifespan=lifespan)
    return Guard(router, service.limits, service.metrics, token=token, hosts=hosts)


async def _nothing(*_: Any) -> None:
    raise Refused(404, "nothing is at this address; see /openapi.json")


def _json(value: Any, status: int = 200) -> Response:
    headers = {"cache-control": "no-store"}
    return Response(forms.dump(value), status, headers=headers, media_type="application/json")


# ---------------------------------------------------------------- queries


async def search(service: Service, request: Request) -> Response:
    """POST /search."""
    form, files = await reading.read(request, forms.Search)
    if sum((bool(files), form.ids is not None, form.paths is not None)) != 1:
        raise Refused(422, "give the queries as images, as ids or as paths; one of these")
    narrowed = [
        name for name in ("where", "where_ids", "radius") if getattr(form, name) is not None
    ]
    if form.recall is not None and narrowed:
        raise Refused(422, f"recall does not combine with {narrowed[0]}; leave one of them out")
    count = len(files or form.ids or form.paths or ())
    if count * form.k > limits.RESULTS:
        raise Refused(
            422, f"{count} queries with {form.k} results each; give up to {limits.RESULTS:,} in all"
        )
    pool = service.snapshot.pool(form.pool, form.k) or 0
    if count * pool > limits.COMPARED:
        raise Refused(
            422,
            f"{count} queries with a pool of {pool:,} each; give up to {limits.COMPARED // pool}, "
            "or a smaller pool",
        )
    names, times, vectors = await _queries(service, form, files)
    wanted = Wanted(
        k=form.k,
        pool=form.pool,
        radius=form.radius,
        recall=form.recall,
        where=form.where,
        where_ids=None if form.where_ids is None else tuple(form.where_ids),
        names=form.names,
        show_codes=form.codes,
        ids=form.ids,
        paths=form.paths,
        **vectors,
    )
    # What takes long holds up this request alone; the search then finds it made.
    if form.recall is not None:
        await service.in_thread(service.snapshot.approximate, pool or form.k, form.recall)
    if form.where is not None:
        await service.in_thread(service.snapshot.where, wanted.where, wanted.where_ids)
    result = await service.search(wanted)
    answers: list[dict[str, Any]] = [
        {"query": name, "ids": ids, "distances": distances}
        for name, ids, distances in zip(names, result.ids, result.distances, strict=True)
    ]
    for key, column in (
        ("paths", result.paths),
        ("labels", result.labels),
        ("columns", result.columns),
        ("code", result.own),
        ("codes", result.codes),
    ):
        if column is not None:
            for answer, one in zip(answers, column, strict=True):
                answer[key] = one
    times |= {"wait": 1e3 * result.wait, "search": 1e3 * result.search}
    rounded = {name: round(value, 3) for name, value in times.items()}
    about = {"order": result.order, "version": result.version, "milliseconds": rounded}
    return _json({"answers": answers} | about)


async def _queries(
    service: Service, form: forms.Search, files: list[reading.File]
) -> tuple[list[str], dict[str, float], dict[str, Any]]:
    """What to call the queries, and codes and features of those that came as images."""
    if form.ids is not None:
        return [str(one) for one in form.ids], {}, {}
    if form.paths is not None:
        return form.paths, {}, {}
    encoded, times = await service.encode_files(files)
    vectors = {"codes": encoded.codes, "features": encoded.features}
    return [name for name, _ in files], times, vectors


async def encode(service: Service, request: Request) -> Response:
    """POST /encode."""
    form, files = await reading.read(request, forms.Encode)
    if not files:
        raise Refused(422, "give one or more images, in a form, under the name image")
    encoded, _ = await service.encode_files(files)
    answer = {
        "bits": service.model.bits,
        "codes": [code.tobytes().hex() for code in encoded.codes],
        "features": encoded.features.tolist() if form.features else None,
    }
    return _json(answer)


# ---------------------------------------------------------------- items


def _id(request: Request) -> int:
    """The id in an address."""
    text = request.path_params["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 2**63):
        raise Refused(404, "an id is a whole number; give one as answers have them")
    return int(text)


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """A number in the query string."""
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise Refused(422, f"{name} is no whole number")
    if not least <= int(text) <= most:
        raise Refused(422, f"{name} is {int(text)}; give {least} to {most}")
    return int(text)


async def item(service: Service, request: Request) -> Response:
    """GET /items/ID."""
    snapshot, number = service.snapshot, _id(request)
    if number not in snapshot.images.codes:
        raise Refused(404, f"no item has the id {number}")
    code = snapshot.images.codes.get([number])[0][0].tobytes().hex()
    (path,), (label,) = snapshot.names([number])
    (columns,) = snapshot.images.items.values([number])
    found = {"id": number, "path": path, "label": label, "columns": columns, "code": code}
    return _json(found)


async def add(service: Service, request: Request) -> Response:
    """POST /items."""
    form, _ = await reading.read(request, forms.Add)
    ids, count = await service.add(form.paths)
    return _json({"ids": ids, "items": count})


async def remove(service: Service, request: Request) -> Response:
    """DELETE /items/ID."""
    number = _id(request)
    return _json({"ids": [number], "items": await service.remove(number)})


async def items(service: Service, request: Request) -> Response:
    """GET /items: some items, chosen at random."""
    snapshot = service.snapshot
    count = _number(request, "sample", 24, 1, 200)
    seed = _number(request, "seed", secrets.randbelow(10**9), 0, 10**9 - 1)
    known = snapshot.drawn(count, seed)
    paths, labels = snapshot.names(known)
    found = {"ids": known, "paths": paths, "labels": labels, "version": snapshot.version}
    return _json(found)


async def thumbnail(service: Service, request: Request) -> Response:
    """GET /thumbnails/ID."""
    number = _id(request)
    size = _number(request, "size", 256, 1, pictures.SIZES[-1])
    whole = bool(_number(request, "whole", 0, 0, 1))
    data, media = await service.thumbnail(number, size, whole)
    # An item's picture changes with the index alone, whose version the page puts in the address.
    headers = {"cache-control": "private, max-age=3600"}
    return Response(data, headers=headers, media_type=media)


# ---------------------------------------------------------------- about the service


async def info(service: Service, request: Request) -> Response:
    """GET /info."""
    snapshot, spec = service.snapshot, service.model.spec
    labels = await service.in_thread(lambda: snapshot.labels)
    about = {
        "items": len(snapshot),
        "bits": spec.bits,
        "features": snapshot.features,
        "order": snapshot.images.order,
        "pool": snapshot.pool(None, 1) or 0,
        "images": spec.takes == "images",
        "labels": labels,
        "method": spec.method,
        "network": spec.network,
        "writable": service.writable,
        "version": snapshot.version,
        "limits": {
            "upload": service.limits.upload,
            "pixels": service.limits.pixels,
            "k": limits.K,
            "pool": limits.POOL,
            "images": limits.IMAGES,
            "queries": limits.QUERIES,
        },
    }
    return _json(about)


async def health(service: Service, request: Request) -> Response:
    """GET /health."""
    snapshot = service.snapshot
    status = "ok" if service.problem is None else "old index"
    about = {
        "status": status,
        "items": len(snapshot),
        "version": snapshot.version,
        "problem": service.problem,
    }
    return _json(about)


async def metrics(service: Service, request: Request) -> Response:
    """GET /metrics."""
    media = "text/plain; version=0.0.4; charset=utf-8"
    return Response(service.metrics_text(), headers={"content-type": media})


async def openapi(service: Service, request: Request) -> Response:
    """GET /openapi.json."""
    return _json(documents.openapi(writable=service.writable))


async def run(service: Service, request: Request) -> Response:
    """GET /run.json."""
    return _json(await service.report())


async def page(name: str, service: Service, request: Request) -> Response:
    """A page, whose scripts ask the service for the rest."""
    return FileResponse(FILES[name], headers={"cache-control": "no-cache"})


async def file(service: Service, request: Request) -> Response:
    """GET /page/NAME: a file of the pages."""
    name = request.path_params["name"]
    if name not in FILES:
        raise Refused(404, "the pages have no such file")
    return await page(name, service, request)


ROUTES: dict[tuple[str, str], Handler] = {
    ("POST", "/search"): search,
    ("POST", "/encode"): encode,
    ("GET", "/thumbnails/{id}"): thumbnail,
    ("GET", "/items/{id}"): item,
    ("DELETE", "/items/{id}"): remove,
    ("POST", "/items"): add,
    ("GET", "/items"): items,
    ("GET", "/info"): info,
    ("GET", "/health"): health,
    ("GET", "/metrics"): metrics,
    ("GET", "/openapi.json"): openapi,
    ("GET", "/run.json"): run,
    ("GET", "/"): partial(page, "index.html"),
    ("GET", "/run"): partial(page, "run.html"),
    ("GET", "/page/{name}"): file,
}
"""What answers at each address; `documents` describes them."""
