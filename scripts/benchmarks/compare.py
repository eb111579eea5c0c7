"""Train methods on one network by one recipe, from scratch, and measure them under protocols.

    python scripts/benchmarks/compare.py --data cifar10 --data-dir DATA --methods dlbhc dsh \
        --protocols p-all p-dsh unseen --epochs 10 --out cells
    python scripts/benchmarks/compare.py --data cifar10 --data-dir DATA --methods dlbhc dsh \
        --protocols p-5k --epochs 60 --out cells

Trains once for each method, length of code, seed and set of training images (p-all and p-dsh have
the same one); each takes about a minute for an epoch over CIFAR-10 on two CPU cores. Leaves one
JSON file of some kilobytes for each result in --out, and nothing else; results that are there
already are not made again, so that the same command continues an interrupted comparison. Several
processes share the work with --share 1/2 and --share 2/2. Nothing is chosen: the schedule is fixed
and the last weights are measured. Then scripts/benchmarks/compare_figures.py makes the table and
the figures.
"""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np

from jaxhash.cli.command import Command, run
from jaxhash.comparison import baselines, runner
from jaxhash.config import Config
from jaxhash.data import Images
from jaxhash.method import METHODS
from jaxhash.training import run_data


@dataclass(frozen=True)
class Compare:
    """Options of scripts/benchmarks/compare.py."""

    out: Path
    """Folder for the results."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Default: all there are."""
    protocols: tuple[str, ...] = ("p-all", "p-5k", "p-dsh", "unseen")
    bits: tuple[int, ...] = (48,)
    """Lengths of the code."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the initial weights, the shuffling, the augmentation and what the protocol draws."""
    baselines: tuple[str, ...] = ("dlbhc",)
    """Methods whose trained networks' features are measured too: LSH, ITQ (both need faiss-cpu),
    Euclidean and cosine distance. Give no name for no baselines."""
    queries: int | None = None
    """Rank so many of the queries by real-valued features. Default: all of them."""
    data: str = "cifar10"
    data_dir: str | None = None
    """Folder that holds prepared tensorflow-datasets or their original archives."""
    network: str = "resnet-tiny"
    epochs: float | None = None
    """This and what follows is the recipe, the same for all. Default: the short run from scratch
    of jaxhash train."""
    batch_size: int | None = None
    augment: str | None = None
    label_smoothing: float | None = None
    """For the losses that classify."""
    learning_rate: float | None = None
    precision: str = "float32"
    """float32 or bfloat16."""
    share: str = "1/1"
    """Do only this part of the trainings: 1/2 the odd ones, 2/2 the even ones."""

    def config(self) -> Config:
        """What all trainings have in common."""
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"--precision is {self.precision!r}: give float32 or bfloat16")
        return Config(
            data=self.data,
            data_dir=self.data_dir,
            network=self.network,
            recipe="scratch",
            epochs=self.epochs,
            batch_size=self.batch_size,
            augment=self.augment,
            label_smoothing=self.label_smoothing,
            learning_rate=self.learning_rate,
            precision="bfloat16" if self.precision == "bfloat16" else "float32",
        )


def share_of(words: str) -> tuple[int, int]:
    """The numbers of --share.

    Example:
        >>> share_of("2/3")
        (2, 3)
    """
    one, _, parts = words.partition("/")
    if not (one.isdecimal() and parts.isdecimal() and 1 <= int(one) <= int(parts)):
        raise ValueError(f"--share is {words!r}: give one like 1/2")
    return int(one), int(parts)


def compare(options: Compare) -> None:
    """Compare as the options say."""
    one, parts = share_of(options.share)
    runner.check_methods((*options.methods, *options.baselines))
    if options.baselines:
        baselines.faiss_module()  # missing, it shows now rather than after a training
    base = options.config()
    dataset = run_data.load_data(base)
    if isinstance(dataset.items, Images):  # files: decoded once for all trainings
        dataset = replace(dataset, items=dataset.items[np.arange(len(dataset.items))])
    trainings = runner.tasks(
        base,
        dataset,
        methods=options.methods,
        protocols=options.protocols,
        bits=options.bits,
        seeds=options.seeds,
    )
    options.out.mkdir(parents=True, exist_ok=True)
    todo = []
    for task in trainings[one - 1 :: parts]:
        with_baselines = task.config.method in options.baselines
        protocols = runner.missing(
            options.out, task, with_baselines=with_baselines, queries=options.queries
        )
        if protocols:
            todo.append((task, protocols, with_baselines))
    print(f"{len(trainings)} trainings, {len(todo)} of this part to do", flush=True)
    start, failed = time.perf_counter(), []
    for number, (task, protocols, with_baselines) in enumerate(todo, 1):
        about = f"{task.config.method}, {task.config.bits} bits, seed {task.config.seed}"
        try:
            cells = runner.run_task(
                task,
                dataset,
                options.out,
                protocols=protocols,
                with_baselines=with_baselines,
                queries=options.queries,
            )
        except (FloatingPointError, ValueError) as error:
            # It diverged, or the method cannot be trained so: the others still can.
            failed.append(about)
            print(f"{number}/{len(todo)} {about}: {error}", flush=True)
            continue
        finally:
            jax.clear_caches()  # a program a task: they would pile up
        found = ", ".join(
            f"{name} {cell['rankings']['codes']['mAP']:.4f}" for name, cell in cells.items()
        )
        seconds = next(iter(cells.values()))["seconds"]["train"]
        left = (time.perf_counter() - start) / number * (len(todo) - number)
        print(
            f"{number}/{len(todo)} {about}: mAP {found}; trained in {seconds:.0f} s, "
            f"{left / 60:.0f} minutes left",
            flush=True,
        )
    print(f"next: python scripts/benchmarks/compare_figures.py --cells {options.out}")
    if failed:
        raise ValueError(f"no result, see above: {'; '.join(failed)}")


COMMAND = Command("compare.py", __doc__, Compare, compare)

if __name__ == "__main__":
    run(COMMAND)
