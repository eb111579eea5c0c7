"""Run a comparison: train each method from scratch by one recipe and measure it under protocols.

Every combination of method, bits, seed and protocol is a cell: one small JSON file in a folder,
written whole or not at all, so that several processes can fill a folder and an interrupted
comparison can be continued. Protocols that train on the same images share the training. No images
are held out for validation and nothing is chosen: the schedule is fixed, and the last weights are
measured.
"""

import dataclasses
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxhash import runs
from jaxhash.comparison import baselines
from jaxhash.comparison.baselines import BASELINES
from jaxhash.config import Config, from_json, suggestion, to_json
from jaxhash.data import Dataset, Split
from jaxhash.encoding import Encoded, encode
from jaxhash.environment import environment
from jaxhash.evaluation import measures
from jaxhash.evaluation.stopwatch import Stopwatch
from jaxhash.method import METHODS
from jaxhash.models import Model
from jaxhash.training import loop, run_data

BASELINE_ITEMS = 10_000
"""Training images, evenly spaced among all, that LSH and ITQ learn from."""
CURVE_POINTS = 26
"""Points of a precision-recall curve that a cell keeps."""
ELSEWHERE = ("data_dir", "download")
"""Fields of a configuration that say where the data are, and nothing about the outcome."""


class Task(NamedTuple):
    """One training: its configuration, and the split of each protocol that it serves."""

    config: Config
    splits: Mapping[str, Split]


class Cell(NamedTuple):
    """The conditions of one result file: method, protocol, bits and seed."""

    protocol: str
    method: str
    bits: int
    seed: int

    @property
    def name(self) -> str:
        """The name of the cell's file.

        Example:
            >>> Cell("p-all", "dsh", 48, 0).name
            'p-all_dsh_48_0.json'
        """
        return f"{self.protocol}_{self.method}_{self.bits}_{self.seed}.json"


# ---------------------------------------------------------------- what is to be done


def tasks(
    base: Config,
    dataset: Dataset,
    *,
    methods: Sequence[str],
    protocols: Sequence[str],
    bits: Sequence[int],
    seeds: Sequence[int],
) -> list[Task]:
    """The trainings that a comparison needs, one seed after the other.

    base: what they have in common.

    Raises:
        ValueError: a method or a protocol that does not exist, or does not fit the data.

    Example:
        >>> from jaxhash import data
        >>> found = tasks(
        ...     Config(),
        ...     data.load("digits"),
        ...     methods=["dsh"],
        ...     protocols=["p-all", "p-dsh", "unseen"],
        ...     bits=[48],
        ...     seeds=[0],
        ... )
        >>> [list(task.splits) for task in found]
        [['p-all', 'p-dsh'], ['unseen']]
    """
    check_methods(methods)
    planned = []
    for seed in seeds:
        groups: list[dict[str, Split]] = []
        for protocol in protocols:
            config = dataclasses.replace(base, protocol=protocol, seed=seed, validation=0.0)
            split = run_data.split_data(config, dataset)
            for group in groups:
                if np.array_equal(next(iter(group.values())).train, split.train):
                    group[protocol] = split
                    break
            else:
                groups.append({protocol: split})
        planned += [
            Task(
                dataclasses.replace(
                    base,
                    protocol=next(iter(group)),
                    method=method,
                    bits=length,
                    seed=seed,
                    validation=0.0,
                    # Part of the common recipe, except for losses without a target.
                    label_smoothing=base.label_smoothing
                    if METHODS[method].takes("label_smoothing")
                    else None,
                ),
                group,
            )
            for group in groups
            for method in methods
            for length in bits
        ]
    return planned


def check_methods(names: Iterable[str]) -> None:
    """Refuse unknown names of methods.

    Raises:
        ValueError: the message names it and those there are.
    """
    for name in names:
        if name not in METHODS:
            raise ValueError(
                f"method is {name!r}{suggestion(name, METHODS)}; choose among {', '.join(METHODS)}"
            )


def asked_for(config: Config, protocol: str, *, queries: int | None) -> dict[str, Any]:
    """The settings that a result depends on; results of one name and equal settings are the same.

    queries: of the rankings by features, or None for all of them.

    Example:
        >>> asked_for(Config(bits=12), "p-5k", queries=None)["config"]["bits"]
        12
    """
    fields = to_json(dataclasses.replace(config, protocol=protocol))
    return {
        "config": {name: value for name, value in fields.items() if name not in ELSEWHERE},
        "feature_queries": queries,
    }


def missing(folder: Path, task: Task, *, with_baselines: bool, queries: int | None) -> list[str]:
    """The protocols of a task whose cells are not in the folder.

    Raises:
        ValueError: a cell is there, but was made with other options.
    """
    absent = []
    for protocol in task.splits:
        path = folder / cell_of(task, protocol).name
        if not path.is_file():
            absent.append(protocol)
            continue
        there = runs.read_json(path)
        made = from_json(there["asked"]["config"], source=str(path))
        wanted = dataclasses.replace(task.config, protocol=protocol)
        changed = [name for name in runs.differences(made, wanted) if name not in ELSEWHERE]
        has = bool(there["rankings"].keys() & BASELINES.keys())
        if with_baselines and not has:
            changed.append("baselines")
        elif with_baselines and there["asked"]["feature_queries"] != queries:
            changed.append("queries")
        if changed:
            raise ValueError(
                f"{path} was made with another {', '.join(changed)}; name another folder, or "
                "remove it"
            )
    return absent


def cell_of(task: Task, protocol: str) -> Cell:
    """The cell of a task under one of its protocols."""
    assert task.config.method is not None
    return Cell(protocol, task.config.method, task.config.bits, task.config.seed)


# ---------------------------------------------------------------- training and measuring


def run_task(
    task: Task,
    dataset: Dataset,
    folder: Path,
    *,
    protocols: Iterable[str],
    with_baselines: bool = False,
    queries: int | None = None,
    batch_size: int = 256,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Train, measure under the named protocols, and write a cell for each; returns them.

    with_baselines: also rank by the features themselves and by codes made of them without labels.
    queries: number of queries that rank by the features. batch_size: images encoded at once.
    options: more arguments of `training.train`.

    Raises:
        FloatingPointError: the training diverged; nothing is written.
        ModuleNotFoundError: `with_baselines`, and FAISS is not installed.

    Example:
        >>> cells = run_task(task, dataset, Path("cells"), protocols=["p-all"])  # doctest: +SKIP
    """
    first: list[float] = []
    start = time.perf_counter()

    def note(progress: loop.Progress) -> None:
        if not first:
            first.append(time.perf_counter() - start)

    model = loop.train(task.config, None, dataset=dataset, on_step=note, **options)
    seconds = {"train": time.perf_counter() - start, "until_first_step": first[0]}
    train = next(iter(task.splits.values())).train
    cells = {}
    for protocol, results in measure(
        model,
        dataset,
        {name: task.splits[name] for name in protocols},
        seed=task.config.seed,
        train=train if with_baselines else None,
        queries=queries,
        batch_size=batch_size,
    ).items():
        cell = cell_of(task, protocol)
        cells[protocol] = slim(
            {
                **cell._asdict(),
                "data": dataset.name,
                "asked": asked_for(task.config, protocol, queries=queries),
                "trained_on": len(train),
                **results,
                "seconds": {**seconds, **results["seconds"]},
                "environment": environment(),
            }
        )
        text = json.dumps(cells[protocol], allow_nan=False)
        runs.write_text(folder / cell.name, text + "\n")
    return cells


def measure(
    model: Model,
    dataset: Dataset,
    splits: Mapping[str, Split],
    *,
    seed: int,
    train: np.ndarray | None = None,
    queries: int | None = None,
    batch_size: int = 256,
) -> dict[str, dict[str, Any]]:
    """`evaluation.evaluate` of a model under several splits, every image encoded once.

    train: the images it was trained on, to add the baselines to the rankings; see `baselines`.
    queries: of those baselines that rank by the features themselves; all by default.

    Example:
        >>> measure(model, dataset, {"p-all": split}, seed=0)  # doctest: +SKIP
    """
    learn = np.empty(0, np.int64)
    if train is not None:
        drawn = np.linspace(0, len(train) - 1, min(BASELINE_ITEMS, len(train)))
        learn = train[drawn.round().astype(int)]
    used = [rows for split in splits.values() for rows in (split.query, split.database)]
    rows = np.unique(np.concatenate([learn, *used]))
    keep = ("codes", "logits") if train is None else ("codes", "logits", "features")
    watch = Stopwatch()
    watch("encode")
    encoded = encode(
        model, dataset.items, rows=rows, batch_size=batch_size, features="float32", keep=keep
    )
    encoding = watch.stop()
    assert dataset.labels is not None
    found = {}
    for name, split in splits.items():
        query, database = (
            Encoded(*(None if one is None else one[np.searchsorted(rows, part)] for one in encoded))
            for part in (split.query, split.database)
        )
        watch = Stopwatch()
        results = measures.evaluate(
            query._replace(features=None),
            database._replace(features=None),
            dataset.labels,
            split,
            bits=model.spec.bits,
            seed=seed,
            on_stage=watch,
        )
        results["seconds"] = encoding | watch.stop()
        if train is not None:
            results["rankings"] |= baselines.rankings(
                encoded.features[np.searchsorted(rows, learn)],
                query.features,
                database.features,
                dataset.labels,
                split,
                bits=model.spec.bits,
                seed=seed,
                queries=queries,
            )
        found[name] = results
    return found


def slim(value: Any) -> Any:
    """Results with fewer points on the curves and fewer digits.

    Example:
        >>> slim({"mAP": 0.123456789})
        {'mAP': 0.123457}
    """
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        if value.keys() == {"ranks", "precision", "recall"}:
            count = len(value["ranks"])
            kept = np.unique(np.linspace(0, count - 1, min(CURVE_POINTS, count)).round())
            value = {name: [each[int(i)] for i in kept] for name, each in value.items()}
        return {name: slim(one) for name, one in value.items()}
    return [slim(one) for one in value] if isinstance(value, list) else value
