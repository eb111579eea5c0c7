"""Measure what a few labels a class are worth, on the features that a run has kept.

    python scripts/benchmarks/few_labels.py --run runs/itq --labels 2 5 10

Three fifths of each class are learned from, and so many of them have labels; the others ask among
one another. Compared: ITQ of all without labels, ITQ of all with them, and a head trained on those
with labels alone. A minute on two idle CPU cores for 2,000 images; prints a table.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import search
from jaxhash import encoding, runs
from jaxhash.cli.command import Command, run
from jaxhash.config import Config
from jaxhash.data import Dataset
from jaxhash.training import backbones, defaults, kept_features, loop, run_data
from jaxhash.unlabelled.itq import itq


@dataclass(frozen=True)
class FewLabels:
    """Options of scripts/benchmarks/few_labels.py."""

    run: Path
    """Folder of a run on a backbone, of images with labels."""
    labels: tuple[int, ...] = (2, 5, 10)
    """Labels a class."""
    bits: int = 64
    """Length of the codes."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of what is drawn, and of the methods."""
    method: str = defaults.METHOD_ON_BACKBONE
    """How the head is trained."""


def load(folder: Path) -> Dataset:
    """The features that a run has kept, as a dataset."""
    config = runs.load_config(folder)
    backbone = backbones.choose(config)
    images = run_data.load_data(config, side=backbone.side)
    spec = kept_features.spec_of(
        backbone, precision=config.precision, mirror=config.mirror, shift=config.shift
    )
    kept = kept_features.find(kept_features.key(spec, backbone.params(), images), [folder])
    if kept is None:
        raise ValueError(f"{folder} keeps no features of its images; train it again")
    return dataclasses.replace(images, kind="features", items=kept.features)


def measure(codes: np.ndarray, labels: np.ndarray, bits: int) -> tuple[float, float]:
    """mAP and P@1 of items that ask among one another."""
    own = np.arange(len(codes))
    found = search.measure(codes, codes, labels, labels, bits=bits, at=[1], top=1, exclude=own)
    assert found.mean_average_precision is not None
    return found.mean_average_precision, float(found.mean_precision_at[0])


def compare(dataset: Dataset, options: FewLabels, count: int, seed: int) -> dict[str, tuple]:
    """The measures of each way, with so many labels a class."""
    assert dataset.labels is not None
    rng = np.random.default_rng(seed)
    known, others, asking = [], [], []
    for label in range(len(dataset.classes)):
        rows = rng.permutation(np.flatnonzero(dataset.labels == label))
        learned = len(rows) * 3 // 5
        known += rows[: min(count, learned)].tolist()
        others += rows[min(count, learned) : learned].tolist()
        asking += rows[learned:].tolist()
    bits, x = options.bits, np.asarray(dataset.items)
    labels = np.concatenate([dataset.labels[known], np.full(len(others), -1)])
    wanted = dataset.labels[asking]
    all_of_them = x[known + others]
    codes = {
        "itq of all, without labels": itq(all_of_them, bits, seed=seed),
        "itq of all, with labels": itq(all_of_them, bits, seed=seed, labels=labels),
    }
    found = {
        name: measure(np.packbits(layer.latent(x[asking]) > 0, axis=1), wanted, bits)
        for name, layer in codes.items()
    }
    rows = np.array(known + asking)
    part = dataclasses.replace(
        dataset,
        items=x[rows],
        labels=dataset.labels[rows],
        parts={"train": np.arange(len(known)), "test": np.arange(len(known), len(rows))},
        paths=None,
    )
    config = Config(
        method=options.method,
        network="features",
        hidden=defaults.HIDDEN,
        bits=bits,
        seed=seed,
        protocol="parts",
        validation=0.0,
    )
    model = loop.train(config, None, dataset=part)
    encoded = encoding.encode(model, x[asking]).codes
    found[f"{options.method} of those with labels"] = measure(encoded, wanted, bits)
    return found


def table(options: FewLabels) -> None:
    """Measure as the options say."""
    dataset = load(options.run)
    print("| labels a class | codes | mAP | P@1 |\n| --- | --- | --- | --- |")
    for count in options.labels:
        cells = [compare(dataset, options, count, seed) for seed in options.seeds]
        for name in cells[0]:
            values = np.array([one[name] for one in cells])
            means, spread = values.mean(axis=0), values.std(axis=0)
            shown = [f"{mean:.3f} ± {one:.3f}" for mean, one in zip(means, spread, strict=True)]
            print(f"| {count} | {name} | {' | '.join(shown)} |", flush=True)


COMMAND = Command("few_labels.py", __doc__, FewLabels, table)

if __name__ == "__main__":
    run(COMMAND)
