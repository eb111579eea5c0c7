"""Training throughput on whatever device jax finds, network by network, batch by batch.

    python scripts/benchmarks/accelerator.py --out accelerator.json
    python scripts/benchmarks/accelerator.py --cases resnet-small:32 --batch-sizes 64 --steps 4

Random images and DLBHC's loss, in the very calls that jaxhash train makes: images kept on the
device as uint8 and varied there, many steps in one compiled call. For each network and batch size:
seconds to compile, images/s (median and best of the calls after the first), floating-point
operations a second by the compiler's own count and their share of the device's peak, and the most
memory that was in use on it. A batch that does not fit in memory is named and left out.

A few minutes on a GPU. On a CPU the figures say little: jaxhash's own convolutions run there, which
take fewer operations than the compiler counts.
"""

import dataclasses
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxhash import nets, runs, sharding
from jaxhash.cli.command import Command, run
from jaxhash.config import Config
from jaxhash.data import Dataset
from jaxhash.environment import environment
from jaxhash.training import optimiser
from jaxhash.training.batches import batches, compiled
from jaxhash.training.feeding import Batch
from jaxhash.training.planning import settle
from jaxhash.training.steps import initial_state, make_train_step

PEAK_TFLOPS = {
    "NVIDIA H200": 989.0,
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-SXM4-40GB": 312.0,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5": 459.0,
    "TPU v6 lite": 918.0,
}
"""Peak rate of dense bfloat16 matrix products by the makers' data sheets, in 10^12 operations/s."""


@dataclass(frozen=True)
class Benchmark:
    """Options of scripts/benchmarks/accelerator.py."""

    cases: tuple[str, ...] = ("alexnet:224", "resnet:32", "dsh:32")
    """Networks, each with the side of its images in pixels."""
    batch_sizes: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    """Images in a step."""
    precisions: tuple[str, ...] = ("bfloat16", "float32")
    """Number types that the networks compute in."""
    steps: int = 100
    """Steps in one compiled call."""
    rounds: int = 5
    """Timed calls, after one that is not counted."""
    peak_tflops: float | None = None
    """Peak of the device in bfloat16, where it is not known here."""
    out: Path | None = None
    """Also write everything as JSON."""


def random_images(count: int, size: int) -> Dataset:
    """Images of random pixels in ten classes."""
    rng = np.random.default_rng(0)
    items = rng.integers(0, 256, (count, size, size, 3), np.uint8)
    labels = rng.integers(0, 10, count).astype(np.int32)
    parts = {"train": np.arange(count - 100), "test": np.arange(count - 100, count)}
    return Dataset("random", "images", items, labels, parts, tuple(map(str, range(10))))


def measure(options: Benchmark, network: str, size: int, batch: int, precision: str) -> dict:
    """One row of the table."""
    plan = settle(
        Config(
            network=network,
            image_size=size,
            protocol="p-all",
            validation=0,
            recipe="scratch",
            batch_size=batch,
            precision=precision,  # type: ignore[arg-type]
            steps=options.steps * (options.rounds + 1),
            log_every=options.steps,
            resident="device",
        ),
        random_images(max(4096, 2 * batch) + 100, size),
    )
    mesh = sharding.mesh_over(batch)
    module = plan.spec.build()
    optimizer = optimiser.build(plan.recipe, plan.steps)
    variables = nets.init(module, jax.random.key(0), (1, *plan.spec.item_shape))
    state = sharding.everywhere(initial_state(variables, optimizer, jax.random.key(1)), mesh)
    step = make_train_step(
        module,
        plan.method,
        optimizer,
        plan.spec.prepare,
        classes=10,
        steps=plan.steps,
        policy=plan.recipe.augment,
    )
    seconds, done = [], 0
    start = time.perf_counter()
    train_step = compiled(step, mesh)
    for one in batches(plan, mesh):
        state, metrics = train_step(state, one)
        jax.block_until_ready((state, metrics))
        done += len(metrics["loss"])
        if done % options.steps == 0:  # one call, or so many of one step each on CPU
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
    compiling, *rest = seconds
    rates = [options.steps * batch / one for one in rest]
    memory = mesh.devices.flat[0].memory_stats() or {}
    return {
        "first_call_seconds": compiling,
        "images_per_second": {"median": statistics.median(rates), "best": max(rates)},
        "flops_per_image": flops_of(step, state, plan, batch),
        "peak_bytes": memory.get("peak_bytes_in_use"),
    }


def flops_of(step: Any, state: Any, plan: Any, batch: int) -> float | None:
    """Floating-point operations of a training step for each image, as the compiler counts them."""
    items = np.zeros((batch, *plan.spec.item_shape), np.uint8)
    compiled = jax.jit(step).lower(state, Batch(items, np.zeros(batch, np.int32))).compile()
    counted = compiled.cost_analysis() or {}
    return counted["flops"] / batch if "flops" in counted else None


def benchmark(options: Benchmark) -> None:
    """Measure as the options say, and print a table."""
    kind = jax.devices()[0].device_kind
    peak = options.peak_tflops or PEAK_TFLOPS.get(kind)
    rows = []
    print(f"{len(jax.devices())} x {kind}" + (f", peak {peak:.0f} Tflop/s" if peak else ""))
    print(
        "network        pixels precision  batch  images/s     best  Tflop/s  of peak  first s  GiB"
    )
    for case in options.cases:
        network, _, size = case.partition(":")
        if not size.isdigit():
            raise ValueError(f"cases holds {case!r}: give a network and a size, as in resnet:32")
        for precision in options.precisions:
            for batch in options.batch_sizes:
                row = {"network": network, "size": int(size), "batch": batch}
                row["precision"] = precision
                try:
                    row |= measure(options, network, int(size), batch, precision)
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    print(f"{network:14} {size:>6} {precision:9} {batch:6}  out of memory")
                    continue
                rows.append(row)
                print(line(row, peak))
    if options.out is not None:
        report = {
            "options": dataclasses.asdict(options) | {"out": str(options.out)},
            "environment": environment(),
            "peak_tflops": peak,
            "rows": rows,
        }
        runs.write_json(options.out, report)


def line(row: dict[str, Any], peak: float | None) -> str:
    """A row as text; the share of the peak only where both are known."""
    rate, flops = row["images_per_second"], row["flops_per_image"]
    devices = len(jax.devices())
    tflops = rate["median"] * flops / 1e12 if flops else None
    share = f"{tflops / (peak * devices):8.1%}" if tflops and peak else "       -"
    memory = f"{row['peak_bytes'] / 2**30:5.1f}" if row["peak_bytes"] else "    -"
    return (
        f"{row['network']:14} {row['size']:6} {row['precision']:9} {row['batch']:6} "
        f"{rate['median']:9.0f} {rate['best']:8.0f} {tflops or 0:8.2f} {share} "
        f"{row['first_call_seconds']:8.1f} {memory}"
    )


COMMAND = Command("accelerator.py", __doc__, Benchmark, benchmark)

if __name__ == "__main__":
    run(COMMAND)
