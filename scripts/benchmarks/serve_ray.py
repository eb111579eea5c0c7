"""`jaxhash serve --ray` asked over HTTP, while replicas are killed and the folder changes.

    python scripts/benchmarks/serve_ray.py
    python scripts/benchmarks/serve_ray.py --images 400 --seconds 30

Random images are encoded into two folders of shards, the second without some of the first. The
command serves a pointer to the first one, on a Ray cluster of this machine; threads ask for the
nearest of items. Meanwhile replicas of three parts and a router are killed by SIGKILL, and the
pointer changes to the second folder. Every answer, ids, distances and paths, must be wholly that of
one of the two folders as one index; a 503 is counted apart. At last the command gets SIGTERM.
Needs the extras: pip install "jaxhash[ray,serve]".
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from encoding import Benchmark, untrained
from kills import LONGEST, kills_and_switch, own_cluster, through
from PIL import Image

import jaxhash
from jaxhash import models
from jaxhash.shards import folder as folders
from jaxhash.shards.encoding import encode_missing
from jaxhash.shards.pointer import point
from jaxhash.shards.records import open_shards

SIDE = 32
K, POOL = 10, 50


@dataclass(frozen=True)
class Config:
    """How large, and how long."""

    images: int = 2000
    """Images of the first folder; the second one lacks a tenth of them."""
    parts: int = 4
    """Parts, each of one file."""
    replicas: int = 2
    """Replicas of each part."""
    threads: int = 2
    """Threads that ask, for one item at a time."""
    seconds: float = 60
    """Time that they ask for; a kill comes in each sixth of it."""
    port: int = 8765
    """Where the command listens."""
    folder: Path = Path(tempfile.gettempdir())
    """Where everything goes; removed at the end."""


def main(config: Config) -> dict[str, float]:
    """Serve, ask and kill as asked for: counts of answers, and seconds."""
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        folder = Path(name)
        expected = [made(folder, generation, config) for generation in "ab"]
        point(folder / "current", folder / "a")
        with own_cluster(16) as address:
            report = attacked(folder, config, expected, address)
    for key, value in report.items():
        print(f"{value:10.4g}  {key}")
    return report


def attacked(
    folder: Path, config: Config, expected: list[list[dict[str, Any]]], address: str
) -> dict[str, float]:
    """Run the command on a cluster, ask it through kills, and end it."""
    package = str(Path(jaxhash.__file__).parent.parent)
    place = {"RAY_ADDRESS": address, "PYTHONPATH": package}
    command = [sys.executable, "-m", "jaxhash", "serve", "--run", str(folder / "run")]
    command += ["--index", str(folder / "current"), "--port", str(config.port), "--ray", "auto"]
    command += ["--parts", str(config.parts), "--replicas", str(config.replicas)]
    child = subprocess.Popen(
        command,
        env=os.environ | place,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert child.stdout is not None
        if not any(line.startswith("http://") for line in child.stdout):
            raise RuntimeError("the command ended before it listened")
        switch = partial(point, folder / "current", folder / "b")
        report = under_load(config, expected, kills_and_switch(config.parts, switch))
        child.terminate()
        report["exit code after SIGTERM"] = child.wait(timeout=LONGEST)
    finally:
        child.kill()
        child.wait()
    return report


def made(folder: Path, generation: str, config: Config) -> list[dict[str, Any]]:
    """Encode the images of a generation; the answer for each item that both of them have."""
    rng, photos = np.random.default_rng(0), folder / f"photos-{generation}"
    photos.mkdir()
    for number in range(config.images):
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        if generation == "a" or number % 10:
            Image.fromarray(pixels).save(photos / f"{number:06}.png")
    if generation == "a":
        (folder / "run").mkdir()
        models.save(untrained(Benchmark(), "resnet-tiny", SIDE), folder / "run")
    model = models.load(folder / "run")
    folders.begin(folder / generation, model, str(photos), config.parts)
    encode_missing(model, folder / generation)
    index, items = open_shards(folder / generation)
    asked = np.arange(config.images // 2)
    codes, features = index.get(asked)
    assert features is not None
    fine = features.astype(np.float32)
    distances, ids = index.search(codes, K, query_features=fine, pool=POOL)
    return [
        {"ids": near, "distances": apart, "paths": [Path(path).name for path in items.titles(near)]}
        for near, apart in zip(ids.tolist(), distances.tolist(), strict=True)
    ]


def under_load(
    config: Config, expected: list[list[dict[str, Any]]], changes: list[Callable[[], object]]
) -> dict[str, float]:
    """Counts of answers by what they are, and the slowest."""
    counts: Counter[str] = Counter()
    spent: list[float] = []

    def ask(seed: int, over: threading.Event) -> None:
        rng = np.random.default_rng(seed)
        while not over.is_set():
            item = int(rng.integers(len(expected[0])))
            begun = time.perf_counter()
            counts[answered(config.port, item, [each[item] for each in expected])] += 1
            spent.append(time.perf_counter() - begun)

    through(changes, ask, config.threads, config.seconds)
    names = ("of the first folder", "of the second folder", "wrong", "503", "other errors")
    return {f"answers {name}": float(counts[name]) for name in names} | {
        "s, median request": float(np.median(spent)),
        "s, slowest request": max(spent),
    }


def answered(port: int, item: int, expected: list[dict[str, Any]]) -> str:
    """What an answer is."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/search",
        json.dumps({"ids": [item], "k": K, "pool": POOL}).encode(),
        {"content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=LONGEST) as reply:
            (found,) = json.load(reply)["answers"]
    except urllib.error.HTTPError as error:
        return "503" if error.code == 503 else "other errors"
    except OSError:
        return "other errors"
    near = {
        "ids": found["ids"],
        "distances": np.float32(found["distances"]).tolist(),
        "paths": [Path(path).name for path in found["paths"]],
    }
    of = [one == near for one in expected]
    return ("of the first folder", "of the second folder")[of.index(True)] if any(of) else "wrong"


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
