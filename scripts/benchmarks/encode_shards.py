"""Very many small images encoded into a folder of shards: time, memory at each shard, and a kill.

    python scripts/benchmarks/encode_shards.py --folder /big
    python scripts/benchmarks/encode_shards.py --images 200000 --shards 20

Images of random pixels, each another one, are written once, as BMP files in array_records. Then
the command `jaxhash encode --shards` runs over them, with an untrained resnet-tiny. It is looked at
from outside twice a second: when each shard appears, and the most memory that the process held
since the one before (VmHWM of Linux; mapped files count). Inside a shard, when half of them are
done, it is killed by SIGKILL and the same command is started again. At the end ids must have no
gap, and the codes and features of the first images of every shard must be, bit for bit, those of
the pixels encoded as an array. For one CPU; needs array_record.
"""

import json
import os
import shlex
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tyro
from encoding import Benchmark, untrained

from jaxhash import models, runs
from jaxhash.encoding import encode
from search import HashIndex

SIDE = 16
BLOCK = 1000
"""Images made by one random generator."""
LOOK = 0.5
"""Seconds between two looks."""


@dataclass(frozen=True)
class Config:
    """How many, and where."""

    images: int = 10_000_000
    """Images, a multiple of 1,000 times the files."""
    files: int = 10
    """Files that they are in."""
    shards: int = 100
    """Index files to write."""
    bits: int = 64
    """Bits of a code."""
    kill: bool = True
    """Whether the command is killed when half of the shards are done."""
    folder: Path = Path(tempfile.gettempdir())
    """Where everything goes, 1.2 kB an image; removed at the end."""
    out: Path | None = None
    """Also write what was seen as JSON."""


def main(config: Config) -> dict[str, Any]:
    """Measure as asked for."""
    if config.images % (BLOCK * config.files):
        raise ValueError(f"images is {config.images}; give a multiple of {BLOCK * config.files}")
    with tempfile.TemporaryDirectory(dir=config.folder) as name:
        folder = Path(name)
        begun = time.perf_counter()
        for file in range(config.files):
            write(folder / f"images-{file:03}.array_record", file, config)
        seconds = time.perf_counter() - begun
        say(f"{config.images:,} images written in {seconds:.0f} s")
        report: dict[str, Any] = {"images": config.images, "seconds writing": seconds}
        model = untrained(Benchmark(bits=config.bits), "resnet-tiny", SIDE)
        (folder / "run").mkdir()
        models.save(model, folder / "run")
        words = ["--run", folder / "run", "--out", folder / "all.index"]
        words += ["--data", folder / f"images-{{000..{config.files - 1:03}}}.array_record"]
        words += ["--shards", config.shards]
        rows: list[dict[str, float]] = []
        if config.kill:
            rows += watched(folder, words, config, until=config.shards // 2)
        rows += watched(folder, words, config)
        report |= summary(rows, config) | {"rows": rows}
        begun = time.perf_counter()
        check(folder / "all.index", config)
        say(f"checked in {time.perf_counter() - begun:.0f} s")
        size = sum(each.stat().st_size for each in (folder / "all.index").glob("*.index"))
        report["bytes of the index"] = size
    for key, value in report.items():
        if key != "rows":
            print(f"{value:14,.1f}  {key}")
    if config.out is not None:
        runs.write_json(config.out, report)
    return report


def pixels(block: int) -> np.ndarray:
    """uint8 (1000, 16, 16, 3): the images of a block, the same ones every time."""
    return np.random.default_rng(block).integers(0, 256, (BLOCK, SIDE, SIDE, 3), np.uint8)


def write(path: Path, file: int, config: Config) -> None:
    """The images of one file, each as a BMP file of 822 bytes."""
    from array_record.python.array_record_module import ArrayRecordWriter

    length = SIDE * SIDE * 3
    head = struct.pack("<2sIHHI", b"BM", 54 + length, 0, 0, 54)
    head += struct.pack("<IiiHHIIiiII", 40, SIDE, -SIDE, 1, 24, 0, length, 0, 0, 0, 0)
    # One record a chunk: a record is then read without those beside it.
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    blocks = config.images // config.files // BLOCK
    for block in range(file * blocks, (file + 1) * blocks):
        for image in pixels(block)[..., ::-1]:  # blue first
            writer.write(head + image.tobytes())
    writer.close()


def watched(
    folder: Path, words: list[Any], config: Config, until: int | None = None
) -> list[dict[str, float]]:
    """Run the command to its end, or kill it in the midst of the shard after number `until`.

    Returns:
        For each shard that appeared: seconds since the command began, MiB at most since the shard
        before, and load average; the first one has the time for the list of images too.
    """
    rows: list[dict[str, float]] = []
    done = {each.name for each in (folder / "all.index").glob("*.index")}
    command = [sys.executable, "-m", "jaxhash", "encode", *map(str, words)]
    say(shlex.join(command))
    begun = time.perf_counter()
    with open(folder / "log.txt", "ab") as log:
        child = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            while child.poll() is None:
                time.sleep(LOOK)
                new = {each.name for each in (folder / "all.index").glob("*.index")} - done
                if new:
                    done |= new
                    since = time.perf_counter() - begun
                    row = {"seconds": since, "mib": most_memory(child.pid)}
                    rows.append(row | {"done": len(done), "load": os.getloadavg()[0]})
                    say(json.dumps(rows[-1]))
                if until is not None and len(done) >= until:
                    each = (rows[-1]["seconds"] - rows[0]["seconds"]) / max(len(rows) - 1, 1)
                    time.sleep(each / 2)
                    child.send_signal(signal.SIGKILL)
                    child.wait()
                    say(f"killed after {time.perf_counter() - begun:.0f} s")
        finally:
            child.kill()
            child.wait()
    rows.append({"seconds": time.perf_counter() - begun, "end": child.returncode})
    if child.returncode and until is None:
        raise SystemExit((folder / "log.txt").read_text()[-2000:])
    return rows


def most_memory(process: int) -> float:
    """The most memory that a process held since this was last asked, in MiB; nan where it ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
        Path(f"/proc/{process}/clear_refs").write_text("5")  # from now on anew
    except (OSError, StopIteration):
        return float("nan")
    return int(kib) / 1024


def summary(rows: list[dict[str, float]], config: Config) -> dict[str, float]:
    """The figures that the rows come to."""
    ends = [row["seconds"] for row in rows if "end" in row]
    memory = [row["mib"] for row in rows if "mib" in row and np.isfinite(row["mib"])]
    tenth = max(len(memory) // 10, 1)
    return {
        "seconds encoding, list and kill included": sum(ends),
        "images/s, list and kill included": config.images / sum(ends),
        "MiB at most, first tenth of the shards": max(memory[:tenth]),
        "MiB at most, all others": max(memory[tenth:], default=float("nan")),
        "MiB at most, median of the shards": statistics.median(memory),
    }


def check(folder: Path, config: Config) -> None:
    """Compare ids with the numbers from 0 on, and outputs with those of the pixels."""
    index = HashIndex.open(folder)
    np.testing.assert_array_equal(index.ids, np.arange(config.images))
    model = models.load(folder.parent / "run")
    for shard in range(config.shards):
        first, end = (each * config.images // config.shards for each in (shard, shard + 1))
        rows = np.arange(first, min(first + model.spec.batch, end))
        blocks = np.unique(rows // BLOCK)
        made = np.concatenate([pixels(block) for block in blocks])[rows - blocks[0] * BLOCK]
        expected = encode(model, made, keep=("codes", "features"), devices=jax.devices()[:1])
        codes, features = index.get(rows)
        np.testing.assert_array_equal(codes, expected.codes)
        np.testing.assert_array_equal(features, expected.features)


def say(line: str) -> None:
    """Print now, as the whole may take an hour."""
    print(line, flush=True)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
