"""Compare methods on one dataset by validation, with equal steps, to choose the default methods.

    python scripts/benchmarks/defaults.py --data digits --network resnet-tiny --validation 0.25 \
        --out defaults.jsonl
    python scripts/benchmarks/defaults.py --data photos/ --network efficientnet-lite0 \
        --weights runs/itq --validation 0.25 --out defaults.jsonl
    python scripts/benchmarks/defaults.py --table --out defaults.jsonl

Trains once for each method, length of code and seed, and rates the last weights by the mean average
precision of the held-out training images among each other; queries are never used. A training takes
seconds for a head on kept features (--weights names a run that has them), tens of seconds for a
small network on some thousand small images, on two CPU cores. Each adds a line of JSON to --out;
--table prints them all.
"""

import dataclasses
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from jaxhash.cli.command import Command, run
from jaxhash.config import Config, to_json
from jaxhash.data import Dataset
from jaxhash.environment import environment
from jaxhash.training import backbones, loop, run_data
from jaxhash.training.loop import Progress

DRAWN = {"protocol", "validation", "epochs"}
"""Options that may differ between datasets, but not between methods."""
METHODS = ("dlbhc", "ssdh", "greedyhash", "csq", "dpn", "orthohash", "dhih-r3")


@dataclass(frozen=True)
class Defaults:
    """Options of scripts/benchmarks/defaults.py."""

    out: Path
    """File of JSON lines, to which the results are added."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    methods: tuple[str, ...] = METHODS
    """Methods to compare."""
    lengths: tuple[int, ...] = (64,)
    """Lengths of code, in bits."""
    seeds: tuple[int, ...] = (0,)
    """Of the weights, the batches and the split."""
    table: bool = False
    """Print the results in --out, and train nothing."""


def rate(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Train by a configuration; the validation mAP of the last weights, and what it took."""
    last: list[Progress] = []
    begun = time.perf_counter()
    loop.train(config, None, dataset=dataset, on_step=last.append)
    fields, usual = to_json(config), to_json(Config())
    return {
        "validation_map": last[-1].validation_map,
        "seconds": round(time.perf_counter() - begun, 1),
        "steps": last[-1].steps,
        "config": {name: one for name, one in fields.items() if one != usual[name]}
        | {name: fields[name] for name in ("data", "method", "bits", "seed")},
    }


def compare(options: Defaults) -> None:
    """Compare as the options say."""
    if options.table:
        print(table(json.loads(line) for line in options.out.read_text().splitlines()))
        return
    config = options.config
    side = backbones.choose(config).side if backbones.is_backbone(config.network) else None
    dataset = run_data.load_data(config, side=side)
    for seed in options.seeds:
        for bits in options.lengths:
            for method in options.methods:
                one = dataclasses.replace(config, method=method, bits=bits, seed=seed)
                row = rate(one, dataset)
                print(f"{method:12} {bits:4} bits, seed {seed}: {row['validation_map']:.4f}")
                with options.out.open("a") as file:
                    file.write(json.dumps(row | {"environment": environment()}) + "\n")


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as a table: a line for each method and recipe, a column for each dataset."""
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in rows:
        own = row["config"]
        beside = {"data", "data_dir", "method", "bits", "seed", "network", "weights"} | DRAWN
        recipe = ", ".join(f"{name} {one}" for name, one in own.items() if name not in beside)
        data = f"{Path(own['data']).name}, {own['bits']} bits"
        line = cells.setdefault((own["method"], recipe or "by default"), {})
        line.setdefault(data, []).append(row["validation_map"])
    names = sorted({name for line in cells.values() for name in line})
    lines = [f"| method | recipe | {' | '.join(names)} |", "| --- | --- |" + " --- |" * len(names)]
    for (method, recipe), line in cells.items():
        means = [
            f"{np.mean(line[name]):.3f} ({len(line[name])})" if name in line else ""
            for name in names
        ]
        lines.append(f"| {method} | {recipe} | {' | '.join(means)} |")
    return "\n".join(lines)


COMMAND = Command("defaults.py", __doc__, Defaults, compare)

if __name__ == "__main__":
    run(COMMAND)
