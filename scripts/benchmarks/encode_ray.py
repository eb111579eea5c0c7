"""Images encoded into shards on a Ray cluster of this machine, while workers and driver are killed.

    python scripts/benchmarks/encode_ray.py
    python scripts/benchmarks/encode_ray.py --images 1000 --shards 8

Random JPEG files are encoded into a folder of shards by this process, and into another one by the
command `jaxhash encode --ray auto` on a cluster that stays. When a quarter of the shards are there,
a worker inside a shard is killed by SIGKILL; when half of them are, the driver is, the process of
the command. The same command is started again. It must encode exactly the shards that were missing
when it began, touch none of the others, and leave every file as this process has it, to the byte.
Needs the extra: pip install "jaxhash[ray]".
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import tyro
from encoding import Benchmark, untrained
from kills import own_cluster
from PIL import Image

import jaxhash
from jaxhash import models
from jaxhash.shards import folder as folders
from jaxhash.shards.encoding import encode_missing

LOOK = 0.05
"""Seconds between two looks at the folder."""
LONGEST = 300
"""Seconds to wait for anything."""
T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """How many, and where."""

    images: int = 20_000
    """JPEG files."""
    side: int = 64
    """Their side in pixels; the network takes half of it."""
    shards: int = 20
    """Index files to write."""
    bits: int = 48
    """Bits of a code."""
    workers: int = 2
    """Processes that encode on the cluster."""
    folder: Path = Path(tempfile.gettempdir())
    """Where everything goes; removed at the end."""


def main(config: Config) -> dict[str, float]:
    """Encode and kill as asked for: seconds, and counts of shards."""
    report: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        folder = Path(name)
        write(folder / "photos", config)
        model = untrained(Benchmark(bits=config.bits), "resnet-tiny", config.side // 2)
        (folder / "run").mkdir()
        models.save(model, folder / "run")
        begun = time.perf_counter()
        folders.begin(folder / "here", model, str(folder / "photos"), config.shards)
        encode_missing(model, folder / "here")
        report["s, this process alone"] = time.perf_counter() - begun
        with own_cluster(config.workers + 1) as address:
            report |= attacked(folder, config, address)
        expected = {each.name: each.read_bytes() for each in (folder / "here").iterdir()}
        found = {each.name: each.read_bytes() for each in (folder / "ray").iterdir()}
        report["files that are not there, or too many"] = len(expected.keys() ^ found.keys())
        report["files that differ"] = sum(found.get(key) != expected[key] for key in expected)
    for key, value in report.items():
        print(f"{value:10.4g}  {key}")
    return report


def write(folder: Path, config: Config) -> None:
    """JPEG files of coarse noise, a thousand in a folder."""
    rng = np.random.default_rng(0)
    for number in range(config.images):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        inside = folder / f"{number // 1000:03}"
        inside.mkdir(parents=True, exist_ok=True)
        coarse.resize((config.side, config.side)).save(inside / f"{number:06}.jpg")


def attacked(folder: Path, config: Config, address: str) -> dict[str, float]:
    """Run the command to its end, through the kill of a worker and its own."""
    shards = folder / "ray"
    command = [sys.executable, "-m", "jaxhash", "encode", "--run", str(folder / "run")]
    command += ["--data", str(folder / "photos"), "--shards", str(config.shards)]
    command += ["--out", str(shards), "--ray", "auto", "--workers", str(config.workers)]
    package = Path(jaxhash.__file__).parent.parent
    environment = os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(package)}
    begun = time.perf_counter()
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(done(shards)) >= config.shards // 4, driver)
        worker = wait_for(lambda: at_work(shards), driver).pop()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: len(done(shards)) >= config.shards // 2, driver)
        workers = wait_for(lambda: at_work(shards), driver)
        driver.kill()
        driver.wait()
    finally:
        driver.kill()
        driver.wait()
    report = {"s, until the driver was killed": time.perf_counter() - begun}
    wait_for(lambda: not any(map(alive, workers)))  # Ray ends them
    before = done(shards)
    begun = time.perf_counter()
    subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=True)
    report["s, the same command again"] = time.perf_counter() - begun
    after = done(shards)
    written = {name for name in after if after[name] != before.get(name)}
    return report | {
        "shards there before it": len(before),
        "shards that it wrote": len(written),
        "of these, there before": len(written & before.keys()),
    }


def done(folder: Path) -> dict[str, tuple[int, int]]:
    """The shards that are there, with what another file of the name would have otherwise."""
    found = [(path.name, path.stat()) for path in folder.glob("*.index")]
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found}


def at_work(folder: Path) -> set[int]:
    """The processes that are inside a shard."""
    found = set()
    for lock in folder.glob(".0*.lock"):
        with contextlib.suppress(OSError, ValueError):  # it has just ended, or just begun
            found.add(int(lock.read_text()))
    return {process for process in found if alive(process)}


def alive(process: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(look: Callable[[], T], driver: subprocess.Popen | None = None) -> T:
    """What a look gives, once it is something.

    Raises:
        RuntimeError: the driver has ended meanwhile, or it takes too long.
    """
    end = time.monotonic() + LONGEST
    while not (found := look()):
        if time.monotonic() > end or (driver is not None and driver.poll() is not None):
            raise RuntimeError("the command ended too early, or nothing happens; more images?")
        time.sleep(LOOK)
    return found


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
