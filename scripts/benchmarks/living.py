"""Seconds that `jaxhash encode --update` takes on a folder of many tiny files, and CPU seconds.

    python scripts/benchmarks/living.py --files 100000 --new 1000

Makes a folder of images of 16 x 12 pixels, half PNG and half JPEG, of which every hundredth is cut
short, and an untrained network. Then times the command, each in a process of its own: the first
update, which encodes everything; one with nothing to do, three times; one with new files; one
where one file in a hundred was touched; a query with a filter.
"""

import argparse
import io
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from limits import processor
from PIL import Image

from jaxhash import models, nets
from jaxhash.spec import ModelSpec


def picture(rng: np.random.Generator, form: str) -> bytes:
    """A tiny image of noise as the bytes of a file."""
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).save(file, form)
    return file.getvalue()


def fill(folder: Path, numbers: range, rng: np.random.Generator) -> None:
    """Images by number, a thousand a folder, every hundredth cut short."""
    for number in numbers:
        inside = folder / f"{number // 1000:04d}"
        inside.mkdir(parents=True, exist_ok=True)
        ending = "png" if number % 2 else "jpg"
        data = picture(rng, "PNG" if number % 2 else "JPEG")
        end = len(data) // 2 if number % 100 == 99 else len(data)
        (inside / f"{number:07d}.{ending}").write_bytes(data[:end])


def timed(what: str, *words: object) -> None:
    """Run a command of jaxhash and print its seconds, on the clock and of CPU, and a line of it."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "jaxhash", *map(str, words)], capture_output=True, text=True
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    last = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    said = last[-2] if len(last) > 1 and words[0] == "encode" else last[-1]
    print(f"{what:28}{seconds:8.1f} s {worked:8.1f} s of CPU   {said[-70:]}", flush=True)


def main() -> None:
    """Time all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--new", type=int, default=1_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    spec = ModelSpec(
        network="dsh",
        method="dsh",
        bits=64,
        classes=(),
        item_shape=(16, 16, 3),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        activation="sigmoid",
        classifier="none",
        threshold=0.5,
        precision="float32",
    )
    variables = nets.init(spec.build(), jax.random.key(0), (1, *spec.item_shape))
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        photos, index = root / "photos", root / "photos.index"
        (root / "run").mkdir()
        models.save(models.Model(spec, variables), root / "run")
        fill(photos, range(options.files), rng)
        print(f"{processor()}, {os.cpu_count()} processors")
        update = ("encode", "--run", root / "run", "--data", photos, "--out", index, "--update")
        timed(f"{options.files:,} files, all new", *update)
        for _ in range(3):
            timed("nothing to do", *update)
        fill(photos, range(options.files, options.files + options.new), rng)
        timed(f"{options.new:,} new", *update)
        for file in sorted(photos.rglob("*.png"))[::50]:
            os.utime(file, ns=(1, 1))
        timed("one in a hundred touched", *update)
        query = ("query", "--run", root / "run", "--index", index, photos / "0000" / "0000001.png")
        timed("a query", *query)
        timed("a query with a filter", *query, "--where", "folder = '0000' and path like '%.png'")


if __name__ == "__main__":
    main()
