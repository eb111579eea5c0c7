"""Measure mAP against the seconds of training.

    python scripts/benchmarks/curve.py --data cifar10 --data-dir DATA --method dlbhc \
        --network resnet-small --recipe scratch --epochs 10 --eval-every 1 --out curve.json

Trains as jaxhash train does, and evaluates the queries every --eval-every epochs; these evaluations
choose nothing, and their time does not count. Programs are compiled anew, and that time counts.
Takes the training and, for each point, about ten seconds for 60,000 small images on two CPU cores;
leaves the points in --out, written anew after each.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro

from jaxhash import runs
from jaxhash.cli.command import Command, run
from jaxhash.comparison import runner
from jaxhash.config import Config, to_json
from jaxhash.environment import environment
from jaxhash.models import Model
from jaxhash.training import loop, run_data
from jaxhash.training.loop import Progress


@dataclass(frozen=True)
class Curve:
    """Options of scripts/benchmarks/curve.py."""

    out: Path
    """JSON file for the points."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Config(validation=0.0)
    )
    run: Path | None = None
    """Also leave a run directory there, as jaxhash train does."""
    encode_batch: int = 256
    """Images encoded at once in an evaluation."""


class Clock:
    """Seconds since it was made, without those that it was stopped for."""

    def __init__(self) -> None:
        self.start, self.stopped = time.perf_counter(), 0.0

    def seconds(self) -> float:
        """Seconds that have counted."""
        return time.perf_counter() - self.start - self.stopped

    def leave_out(self, since: float) -> None:
        """Take off what has passed since `seconds` gave this."""
        self.stopped += self.seconds() - since


def curve(
    config: Config, out: Path, *, run: Path | None = None, encode_batch: int = 256
) -> dict[str, Any]:
    """Train, and write the points to `out` as they come.

    seconds: of the clock; mAP: of the queries' codes; accuracy: of the queries' classes, None
    where the method predicts none. seconds_to_first_step: all that is done before it, which is
    resolving the configuration, the initial weights and the compiled step.

    The model that `run` keeps is the one that `training.train` chooses, on validation images or,
    without any, as the last; the points choose nothing.
    """
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"no such folder to write {out.name} into: {out.absolute().parent}")
    # Once read, the items are what the training finds in memory.
    dataset = run_data.load_data(config)
    split = run_data.split_data(config, dataset)
    fields = to_json(config)
    found: dict[str, Any] = {
        "config": {name: fields[name] for name in fields if name not in runner.ELSEWHERE},
        "split": split.description,
        "seconds_to_first_step": None,
        "points": [],
        "environment": environment(),
    }

    def measure(step: int, model: Model) -> None:
        seconds = clock.seconds()
        results = runner.measure(
            model, dataset, {"": split}, seed=config.seed, batch_size=encode_batch
        )[""]
        point = {
            "seconds": round(seconds, 3),
            "step": step,
            "mAP": results["rankings"]["codes"]["mAP"],
            "accuracy": (results["accuracy"] or {}).get("query"),
        }
        found["points"].append(point)
        runs.write_json(out, found)
        print(f"{seconds:8.1f} s  step {step:<7} mAP {point['mAP']:.4f}", flush=True)
        clock.leave_out(seconds)

    def note(progress: Progress) -> None:
        if found["seconds_to_first_step"] is None:
            found["seconds_to_first_step"] = round(clock.seconds(), 3)

    jax.devices()  # found before the clock starts
    clock = Clock()
    loop.train(config, run, dataset=dataset, on_step=note, on_model=measure)
    runs.write_json(out, found)
    return found


@contextlib.contextmanager
def compiled_anew() -> Iterator[None]:
    """Take no compiled program from an earlier run."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def measure_curve(options: Curve) -> None:
    """Measure as the options say."""
    with compiled_anew():
        found = curve(
            options.config, options.out, run=options.run, encode_batch=options.encode_batch
        )
    print(f"{found['seconds_to_first_step']} s to the first step; points: {options.out}")


COMMAND = Command("curve.py", __doc__, Curve, measure_curve)

if __name__ == "__main__":
    run(COMMAND)
