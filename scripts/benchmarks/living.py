"""Seconds, CPU seconds and memory of a folder of very many small files, from training to a query.

    python scripts/benchmarks/living.py --files 100000 --new 1000

Makes JPEG files of 64 x 64 pixels, of which every hundredth is cut short, and an ONNX file with one
random layer, as nothing but the intake is measured. Then times the commands, each in a process of
its own: training without labels; an index that is begun with `--update` and killed once a part of
it is saved; the same again, which goes on; nothing to do, three times; one with new files; one
where one file in a hundred was touched; queries, with a filter and without.
"""

import argparse
import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from limits import processor
from PIL import Image

SIDE = 64
FEATURES = 1280  # as EfficientNet-Lite has


def picture(rng: np.random.Generator) -> bytes:
    """A small image of blots as the bytes of a file, about 1 kB."""
    file = io.BytesIO()
    blots = Image.fromarray(rng.integers(0, 256, (5, 5, 3), np.uint8))
    blots.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def fill(folder: Path, numbers: range, rng: np.random.Generator) -> None:
    """Images by number, a thousand a folder, every hundredth cut short."""
    for number in numbers:
        inside = folder / f"{number // 1000:04d}"
        inside.mkdir(parents=True, exist_ok=True)
        data = picture(rng)
        end = len(data) // 2 if number % 100 == 99 else len(data)
        (inside / f"{number:07d}.jpg").write_bytes(data[:end])


def layer(path: Path, rng: np.random.Generator) -> None:
    """An ONNX file: averages of 8 x 8 pixels through a random layer."""
    helper, pixels = onnx.helper, 3 * (SIDE // 8) ** 2
    kernel = rng.normal(size=(pixels, FEATURES)).astype(np.float32)
    square: dict[str, Any] = {"kernel_shape": [8, 8], "strides": [8, 8]}
    nodes = [
        helper.make_node("AveragePool", ["pixels"], ["means"], **square),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("MatMul", ["flat", "kernel"], ["product"]),
        helper.make_node("Relu", ["product"], ["features"]),
    ]
    real, sides = onnx.TensorProto.FLOAT, ("n", 3, SIDE, SIDE)
    taken = [helper.make_tensor_value_info("pixels", real, sides)]
    given = [helper.make_tensor_value_info("features", real, ("n", FEATURES))]
    constants = [onnx.numpy_helper.from_array(kernel, "kernel")]
    graph = helper.make_graph(nodes, "layer", taken, given, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def run(*words: object, until: Path | None = None) -> tuple[str, resource.struct_rusage]:
    """What a command of jaxhash said, and what it used.

    until: the command is killed when this file is there.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-m", "jaxhash", *map(str, words)]
        child = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while until is not None and not until.exists() and child.poll() is None:
            time.sleep(0.1)
        if until is not None:
            child.send_signal(signal.SIGKILL)
        _, status, used = os.wait4(child.pid, 0)
        said.seek(0)
        text = said.read()
    if os.waitstatus_to_exitcode(status) != (0 if until is None else -signal.SIGKILL):
        raise RuntimeError(text)
    return text, used


def timed(what: str, *words: object, until: Path | None = None) -> None:
    """Run a command and print its seconds, on the clock and of CPU, its memory, and a line."""
    start = time.perf_counter()
    text, used = run(*words, until=until)
    seconds, worked = time.perf_counter() - start, used.ru_utime + used.ru_stime
    lines = text.replace("\r", "\n").splitlines()
    said = next((line for line in lines if "unchanged" in line or "added" in line), lines[-1])
    print(
        f"{what:28}{seconds:8.1f} s {worked:8.1f} s of CPU {used.ru_maxrss / 2**20:6.2f} GiB   "
        f"{said[-70:]}",
        flush=True,
    )


def main() -> None:
    """Time all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--new", type=int, default=1_000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        photos, index, network = root / "photos", root / "photos.index", root / "layer.onnx"
        fill(photos, range(options.files), rng)
        layer(network, rng)
        print(f"{processor()}, {os.cpu_count()} processors; load {os.getloadavg()}", flush=True)
        pixels = ("--network", f"onnx:{network}", "--network-options", "mean", 0.5, "std", 0.25)
        timed(
            f"train, {options.files:,} files",
            *("train", "--data", photos, "--run", root / "run", "--method", "itq"),
            *("--bits", 64, *pixels),
        )
        update = ("encode", "--run", root / "run", "--data", photos, "--out", index, "--update")
        timed("all new, killed", *update, until=index)
        timed("gone on with", *update)
        for _ in range(3):
            timed("nothing to do", *update)
        fill(photos, range(options.files, options.files + options.new), rng)
        timed(f"{options.new:,} new", *update)
        for file in sorted(photos.rglob("*.jpg"))[::100]:
            os.utime(file, ns=(1, 1))
        timed("one in a hundred touched", *update)
        query = ("query", "--run", root / "run", "--index", index, photos / "0000" / "0000001.jpg")
        timed("a query", *query)
        timed("a query with a filter", *query, "--where", "folder = '0000' and path like '%1.jpg'")
        print(f"load {os.getloadavg()}")


if __name__ == "__main__":
    main()
