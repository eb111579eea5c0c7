"""A small service for tests: an untrained network that tells colours apart, and pictures."""

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image
from test_library import NETWORK

import jaxhash
from jaxhash import models, nets, runs
from jaxhash.data.protocols import Split
from jaxhash.encoding import Encoded
from jaxhash.evaluation import measures
from jaxhash.image_index import ImageIndex
from jaxhash.models import Model
from jaxhash.nets import NETWORKS
from jaxhash.spec import ModelSpec
from jaxhash.training.metrics_log import MetricsLog

pytest.importorskip("starlette", reason="the service needs the extra `serve`")
pytest.importorskip("pydantic", reason="the service needs the extra `serve`")
httpx = pytest.importorskip("httpx", reason="the tests of the service need httpx")

from jaxhash.serve import app  # noqa: E402
from jaxhash.serve.service import Service  # noqa: E402

COLOURS = {"blue": (20, 40, 220), "green": (30, 200, 40), "red": (220, 30, 30)}
HOST = "http://127.0.0.1:8000"


def picture(colour: tuple[int, int, int], seed: int = 0, side: tuple[int, int] = (48, 32)) -> bytes:
    """A PNG of a colour, slightly varied."""
    noise = np.random.default_rng(seed).normal(0, 12, (*side, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_photos(root: Path, each: int = 6) -> Path:
    """A folder of pictures, a colour a class."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for at in range(each):
            (root / name / f"{at:02}.png").write_bytes(picture(colour, seed=at))
    return root


def make_run(folder: Path, seed: int = 0) -> Path:
    """A run's model, untrained."""
    spec = ModelSpec(
        network=NETWORK.name,
        method="dsh",
        bits=19,
        classes=tuple(COLOURS),
        item_shape=(16, 16, 3),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        activation="linear",
        classifier="none",
        threshold=0.0,
        precision="float32",
    )
    variables = nets.init(spec.build(), jax.random.key(seed), (1, *spec.item_shape))
    folder.mkdir(parents=True)
    models.save(Model(spec, variables), folder)
    return folder


def make_results(run: Path, index: ImageIndex) -> None:
    """What an evaluation and a training leave in a run's folder."""
    rows = index.codes.ids
    labels = np.array([list(COLOURS).index(str(one)) for one in index.names(rows.tolist())[1]])
    codes, features = index.codes.get(rows)
    encoded = Encoded(codes=codes, features=features, latent=None, logits=None)
    none = np.empty(0, np.int64)
    split = Split("fraction", "all of them", 0, none, none, rows, rows, True, False)
    found = measures.evaluate(
        encoded, encoded, labels.astype(np.int32), split, bits=index.codes.bits, seed=0
    )
    runs.write_json(run / runs.RESULTS, found)
    with MetricsLog(run) as log:
        for step in range(1, 400):
            log.write({"step": step, "loss": 1 / step, "validation_map": 1 - 1 / step})


@contextlib.contextmanager
def network_known() -> Iterator[None]:
    """The tests' network among those that are known."""
    known = NETWORK.name in NETWORKS
    jaxhash.register(NETWORK)
    yield
    if not known:
        del NETWORKS[NETWORK.name]


@contextlib.asynccontextmanager
async def client_of(
    service: Service, *, headers: dict[str, str] | None = None, **guard: Any
) -> AsyncIterator[Any]:
    """A client of the running service, without a network between them."""
    built = app.build(service, **guard)
    async with (
        service.running(),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(built, raise_app_exceptions=False),
            base_url=HOST,
            headers=headers,
            timeout=60,
        ) as client,
    ):
        yield client


def asking(service: Service, scenario: Callable[[Any], Awaitable[Any]], **options: Any) -> Any:
    """What a scenario returns, which is given a client of the running service."""

    async def play() -> Any:
        async with client_of(service, **options) as client:
            return await scenario(client)

    return asyncio.run(play())
