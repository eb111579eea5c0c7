"""Ray, where it is installed: encoding and search through kills, bit for bit."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_shards import SHARDS, content, encoded, photos

import jaxhash
from jaxhash.cli import main
from jaxhash.shards import folder as folders
from jaxhash.shards import ray_search
from jaxhash.shards.pointer import current, point
from jaxhash.shards.ray_encoding import encode_on_ray
from search import HashIndex, Writer
from search.shards import file_name

__all__ = ["encoded", "photos"]  # fixtures
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'jaxhash[ray]'")
serve = pytest.importorskip("ray.serve")
pytestmark = pytest.mark.filterwarnings("default")  # of Ray's own


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine, which joins no other one and ends with the tests."""
    # Eight devices as here: a batch that is split otherwise is rounded otherwise.
    here = {"PYTHONPATH": str(Path(jaxhash.__file__).parent.parent), "JAX_NUM_CPU_DEVICES": "8"}
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": here},
    )
    yield
    ray.shutdown()


def test_a_cluster_encodes_as_one_process_does(cluster: None, photos: Path, encoded: Path) -> None:
    """The first worker is killed inside a shard; another one begins it again."""
    model, folder = jaxhash.load(photos / "run"), photos / "ray"
    folders.begin(folder, model, str(photos / "photos"), SHARDS)
    killed: list[int] = []

    def kill() -> None:
        end = time.monotonic() + 120
        while not killed and time.monotonic() < end:
            for lock in folder.glob(".0*.lock"):
                pid = lock.read_text()
                if pid:
                    os.kill(int(pid), signal.SIGKILL)
                    killed.append(int(pid))
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill)
    killer.start()
    done: list[int] = []
    options = {"max_undecodable": 0.1, "batch_size": 8}
    encode_on_ray(model, folder, workers=2, on_shard=done.append, **options)
    killer.join()
    assert killed
    assert sorted(done) == list(range(SHARDS))
    assert content(folder) == content(encoded)
    (folder / file_name(2, SHARDS)).unlink()
    words = ["encode", "--run", str(photos / "run"), "--data", str(photos / "photos")]
    words += ["--out", str(folder), "--max-undecodable", "0.1", "--batch-size", "8"]
    main([*words, "--ray", "local"])
    assert content(folder) == content(encoded)
    with pytest.raises(ValueError, match="cannot be decoded"):
        encode_on_ray(model, folder, max_undecodable=0.0)


def test_a_worker_says_what_is_wrong(cluster: None, photos: Path) -> None:
    model, folder = jaxhash.load(photos / "run"), photos / "wrong"
    folders.begin(folder, model, str(photos / "photos"), SHARDS)
    (folder / file_name(1, SHARDS, "lines")).unlink()
    with pytest.raises(ValueError, match=r"00001-of-00004\.lines: not there"):
        encode_on_ray(model, folder, max_undecodable=0.1)


def write_shards(folder: Path, seed: int) -> HashIndex:
    """Four shards of 5,000 codes, and one index of all."""
    rng = np.random.default_rng(seed)
    codes, fine = rng.integers(0, 256, (20_000, 2), np.uint8), rng.random((20_000, 4), np.float32)
    folder.mkdir()
    for shard in range(4):
        own = np.arange(5000 * shard, 5000 * (shard + 1))
        with Writer(folder / file_name(shard, 4), bits=16) as writer:
            writer.append(codes[own], fine[own], own)
    return HashIndex(codes, features=fine)


def test_parts_answer_as_one_index_through_kills_and_changes(cluster: None, tmp_path: Path) -> None:
    indexes = {
        str(tmp_path / name): write_shards(tmp_path / name, at) for at, name in enumerate("ab")
    }
    pointer = tmp_path / "current"
    point(pointer, tmp_path / "a")
    handle = ray_search.start(pointer, parts=2, cpus=0.5, threads=1, seconds=20)
    rng = np.random.default_rng(9)
    queries, fine = rng.integers(0, 256, (5, 2), np.uint8), rng.random((5, 4), np.float32)
    latents = rng.random((5, 16), np.float32)
    ways = [
        {},
        {"radius": 3},
        {"query_features": fine, "pool": 50},
        {"query_features": fine, "radius": 4},
        {"query_latents": latents, "pool": 70},
    ]

    def check() -> str:
        seen = set()
        for way in ways:
            found = ray_search.search(handle, queries, 7, **way)
            expected = indexes[found.folder].search(queries, 7, **way)
            np.testing.assert_array_equal(found.distances, expected[0])
            np.testing.assert_array_equal(found.ids, expected[1])
            seen.add(found.folder)
        return max(seen)

    assert check() == str(tmp_path / "a")
    for name in ("part-0", "part-1", "Router"):
        one = serve.get_deployment_handle(name, ray_search.APPLICATION)
        os.kill(one.process.remote().result(timeout_s=60), signal.SIGKILL)
        assert check() == str(tmp_path / "a")
    point(pointer, tmp_path / "b")
    assert check() == str(tmp_path / "b")
    with pytest.raises(ValueError, match="pool needs query_features"):
        ray_search.search(handle, queries, 7, pool=5)
    with pytest.raises(FileNotFoundError, match="no shards"):
        point(pointer, tmp_path)
    assert current(pointer) == str(tmp_path / "b")
    serve.delete(ray_search.APPLICATION)


def test_the_service_asks_the_parts(cluster: None, photos: Path, encoded: Path) -> None:
    """Through the loss of replicas of both kinds: every answer is right, or a 503."""
    small_service = pytest.importorskip("small_service")
    from jaxhash.serve import on_ray
    from jaxhash.serve.service import Service

    wanted = [{"ids": [item], "k": 5} for item in range(9)]

    async def answer(client: Any, words: dict[str, Any]) -> Any:
        reply = await client.post("/search", json=words)
        assert reply.status_code in (200, 503), reply.text
        return reply.json()["answers"] if reply.status_code == 200 else None

    async def right(client: Any) -> list[Any]:
        return [await answer(client, words) for words in wanted]

    async def attacked(client: Any) -> int:
        there = 0
        for name in ("part-0", "Router", "part-1"):
            one = serve.get_deployment_handle(name, ray_search.APPLICATION)
            os.kill(await one.process.remote(), signal.SIGKILL)
            answers = await asyncio.gather(*(answer(client, words) for words in wanted))
            for found, expected in zip(answers, alone, strict=True):
                assert found in (expected, None)
                there += found is not None
        return there

    alone = small_service.asking(Service(photos / "run", encoded), right)
    with on_ray.asking("auto", encoded, parts=2, replicas=2) as ask:
        service = Service(photos / "run", encoded, ask=ask)
        assert small_service.asking(service, right) == alone
        service = Service(photos / "run", encoded, ask=ask)
        assert small_service.asking(service, attacked) > 0
        with (
            pytest.raises(ValueError, match="run on that cluster already"),
            on_ray.asking("auto", encoded, parts=2),
        ):
            pass
        with on_ray.asking("auto", encoded, parts=None) as same:
            codes = np.zeros((1, 2), np.uint8)
            near = HashIndex.open(encoded).search(codes, 3)
            for ours, theirs in zip(same(str(encoded), codes, 3), near, strict=True):
                np.testing.assert_array_equal(ours, theirs)
    with (
        pytest.raises(ValueError, match="no parts run on that cluster"),
        on_ray.asking("auto", encoded, parts=None),
    ):
        pass
    with pytest.raises(ValueError, match="parts is 9, and there are 4 shards; give 1 to 4"):
        ray_search.start(encoded, parts=9)
