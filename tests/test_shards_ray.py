"""Ray, where it is installed: encoding and search through kills, bit for bit."""

import asyncio
import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_shards import SHARDS, content, encoded, photos, tiny_model

import jaxhash
from jaxhash.cli import main
from jaxhash.shards import folder as folders
from jaxhash.shards import ray_search
from jaxhash.shards.encoding import encode_missing
from jaxhash.shards.pointer import current, point
from jaxhash.shards.ray_encoding import ERROR, OF_SYSTEM, SHARD, EncodeShards, encode_on_ray
from search import DamagedFile, HashIndex, Writer
from search.shards import file_name

__all__ = ["encoded", "photos"]  # fixtures
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'jaxhash[ray]'")
serve = pytest.importorskip("ray.serve")
pytestmark = pytest.mark.filterwarnings("default")  # of Ray's own
OPTIONS: dict[str, Any] = {"max_undecodable": 0.1, "batch_size": 8}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of this machine, which joins no other one and ends with the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(jaxhash.__file__).parent.parent))
        # Eight devices as here: a batch that is split otherwise is rounded otherwise.
        patch.setenv("JAX_NUM_CPU_DEVICES", "8")
        here = ray.init(
            address="local", num_cpus=8, include_dashboard=False, log_to_driver=False
        ).address_info["address"]
        patch.setenv("RAY_ADDRESS", here)  # what `--ray auto` joins
        yield
        ray.shutdown()


def until(look: Callable[[], Any]) -> Any:
    """What a look gives, once it is something."""
    end = time.monotonic() + 300
    while not (found := look()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def worker_in(folder: Path) -> int:
    """The first process that is seen inside a shard."""

    def look() -> int:
        for lock in folder.glob(".0*.lock"):
            with contextlib.suppress(FileNotFoundError):
                if process := lock.read_text():
                    return int(process)
        return 0

    return until(look)


def at_work(folder: Path, act: Callable[[int], object]) -> threading.Thread:
    """A thread that does something once to the first process that is seen inside a shard."""
    thread = threading.Thread(target=lambda: act(worker_in(folder)))
    thread.start()
    return thread


def begun(photos: Path, name: str) -> tuple[jaxhash.Model, Path]:
    """The model, and a folder in which shards were begun."""
    model, folder = jaxhash.load(photos / "run"), photos / name
    folders.begin(folder, model, str(photos / "photos"), SHARDS)
    return model, folder


def words_for(photos: Path, folder: Path) -> list[str]:
    """The command that encodes there."""
    words = ["encode", "--run", str(photos / "run"), "--data", str(photos / "photos")]
    return [*words, "--out", str(folder), "--max-undecodable", "0.1", "--batch-size", "8"]


def driver(photos: Path, folder: Path, address: str = "auto") -> subprocess.Popen:
    """A process of its own that runs the command on a cluster, with one worker there."""
    command = [sys.executable, "-m", "jaxhash", *words_for(photos, folder), "--ray", address]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_cluster_encodes_as_one_process_does(cluster: None, photos: Path, encoded: Path) -> None:
    """The first worker is killed inside a shard; another one begins it again.

    The model comes with the call: its files are gone before the workers start.
    """
    shutil.copytree(photos / "run", photos / "gone")
    model = jaxhash.load(photos / "gone")
    shutil.rmtree(photos / "gone")
    _, folder = begun(photos, "ray")
    killer = at_work(folder, lambda process: os.kill(process, signal.SIGKILL))
    done: list[int] = []
    encode_on_ray(model, folder, workers=2, on_shard=done.append, **OPTIONS)
    killer.join()
    assert sorted(done) == list(range(SHARDS))
    assert content(folder) == content(encoded)
    (folder / file_name(2, SHARDS)).unlink()
    main([*words_for(photos, folder), "--ray", "auto"])
    assert content(folder) == content(encoded)
    with pytest.raises(ValueError, match="cannot be decoded"):
        encode_on_ray(model, folder, max_undecodable=0.0)


def test_a_worker_says_what_is_wrong(cluster: None, photos: Path) -> None:
    model, folder = begun(photos, "wrong")
    (folder / file_name(1, SHARDS, "lines")).unlink()
    with pytest.raises(ValueError, match=r"00001-of-00004\.lines: not there"):
        encode_on_ray(model, folder, **OPTIONS)
    # As on a machine that does not share it: which one says the error.
    rows = {SHARD: np.array([0])}
    (error,) = EncodeShards(ray.put(model), str(photos / "nowhere"))(rows)[ERROR]
    assert error.startswith(f"{OF_SYSTEM}{platform.node()}: not all machines see the same files; ")
    assert "nowhere: no folder of shards" in error


def test_a_killed_driver_costs_nothing_that_is_done(
    cluster: None, photos: Path, encoded: Path
) -> None:
    model, folder = begun(photos, "driver")
    for shard in (0, 1):
        shutil.copy(encoded / file_name(shard, SHARDS), folder)
    before = {each.name: each.stat().st_mtime_ns for each in folder.glob("*.index")}
    command = driver(photos, folder)
    try:
        worker = worker_in(folder)
        os.kill(worker, signal.SIGSTOP)  # it stays inside its shard
    finally:
        command.kill()
        command.wait()
    assert command.returncode == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):  # Ray has ended it, or would soon
        os.kill(worker, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{worker}").exists())
    missing = folders.missing(folder, folders.load(folder))
    assert missing
    done: list[int] = []
    encode_on_ray(model, folder, on_shard=done.append, **OPTIONS)
    assert sorted(done) == missing
    assert content(folder) == content(encoded)
    assert before.items() <= {e.name: e.stat().st_mtime_ns for e in folder.iterdir()}.items()


def test_a_cluster_of_this_machine_alone_ends_with_the_command(
    cluster: None, photos: Path, encoded: Path
) -> None:
    _, folder = begun(photos, "local")
    for shard in (0, 1):
        shutil.copy(encoded / file_name(shard, SHARDS), folder)
    command = driver(photos, folder, "local")
    try:
        worker = worker_in(folder)
        assert command.wait(timeout=300) == 0
    finally:
        command.kill()
        command.wait()
    assert content(folder) == content(encoded)
    until(lambda: not Path(f"/proc/{worker}").exists())


def test_two_drivers_at_once_share_the_work(cluster: None, photos: Path, encoded: Path) -> None:
    model, folder = begun(photos, "both")
    command = driver(photos, folder)
    try:
        worker = worker_in(folder)
        os.kill(worker, signal.SIGSTOP)  # in its shard, until the one of this process waits there
        threading.Timer(1, lambda: os.kill(worker, signal.SIGCONT)).start()
        encode_on_ray(model, folder, **OPTIONS)
        assert command.wait(timeout=300) == 0
    finally:
        command.kill()
        command.wait()
    assert content(folder) == content(encoded)


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process, as Linux can")
def test_a_full_disk_is_named_and_leaves_nothing(
    cluster: None, photos: Path, encoded: Path
) -> None:
    """Its place takes the limit of a file's size, which fails with the same kind of error."""
    import resource

    def limit(process: int) -> None:
        hard = resource.prlimit(process, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(process, resource.RLIMIT_FSIZE, (100, hard))

    model, folder = begun(photos, "full")
    limited = at_work(folder, limit)
    with pytest.raises(
        OSError, match=rf"{platform.node()}, 0000\d-of-00004\.index: .*File too large"
    ):
        encode_on_ray(model, folder, **OPTIONS)
    limited.join()
    assert not list(folder.glob("*.index"))
    encode_on_ray(model, folder, **OPTIONS)
    assert content(folder) == content(encoded)


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


class Handle:
    """Stands for a deployment of one replica, in this process."""

    def __init__(self, part: ray_search.Part) -> None:
        self.part = part

    def __getattr__(self, name: str) -> Any:
        async def remote(*words: Any) -> Any:
            return getattr(self.part, name)(*words)

        return SimpleNamespace(remote=remote)


def test_generations_are_not_mixed_in_one_folder(photos: Path, encoded: Path) -> None:
    """Shards that are replaced in place: a replica that starts again would see the new ones."""
    folder = photos / "in-place"
    shutil.copytree(encoded, folder)
    handles = [Handle(ray_search.Part(part, 2, 1)) for part in range(2)]
    router = ray_search.Router(str(folder), handles, seconds=20, tries=1)
    codes, fine = HashIndex.open(encoded).get([3, 20])
    assert fine is not None
    options = {"query_features": fine.astype(np.float32), "pool": 9}

    def ask() -> Any:
        return asyncio.run(router.search(codes, 3, None, options))

    expected = HashIndex.open(encoded).search(codes, 3, **options)
    np.testing.assert_array_equal(ask().ids, expected[1])
    folders.begin(folder, tiny_model(seed=1), str(photos / "photos"), SHARDS, overwrite=True)
    encode_missing(tiny_model(seed=1), folder, **OPTIONS)
    np.testing.assert_array_equal(ask().ids, expected[1])  # of what was opened
    handles[1].part = ray_search.Part(1, 2, 1)
    with pytest.raises(ValueError, match="replaced by those of another generation"):
        ask()
    cut = folder / file_name(3, SHARDS)
    cut.write_bytes(cut.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match=cut.name):
        point(photos / "to-cut", folder)
    shutil.copy(encoded / cut.name, cut)
    with pytest.raises(ValueError, match=f"{cut.name}: its attachment .* another model or gener"):
        ray_search.check(folder, 2)


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
