"""Evaluate a finished run under a protocol, and write results.json and figures."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxhash import models, option_checks, plots, runs
from jaxhash.config import Config
from jaxhash.data import Dataset, Split
from jaxhash.encoding import Encoded, encode
from jaxhash.environment import environment
from jaxhash.evaluation import measures, order, without_labels
from jaxhash.evaluation.plots import pr_curve, precision_at_k, training_curves
from jaxhash.evaluation.stopwatch import Stopwatch
from jaxhash.training import kept_features, metrics_log, planning
from jaxhash.unlabelled import FITS

STAGES = {"encoding": "encoding images"} | {
    name: f"ranking by {title}" for name, title in measures.RANKINGS.items()
}
"""What is said at each stage of an evaluation."""


def evaluate(
    folder: Path | str,
    *,
    dataset: Dataset | None = None,
    data_dir: str | None = None,
    protocol: str | None = None,
    protocol_options: dict[str, bool | int | float] | None = None,
    top: int = 1000,
    pool: int = 1000,
    batch_size: int | None = None,
    say: Callable[[str], None] = lambda message: None,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a finished run; the results are those of `measures.evaluate`.

    Where its images have no labels, those of `without_labels.evaluate`.

    dataset: the run's own, where it is loaded already. protocol, protocol_options: the run's own
    unless others are given. top: cut-off of mAP@top. pool: candidates of the coarse search.
    on_batch: called with the number of images of each batch encoded.

    Raises:
        FileNotFoundError: the folder holds no finished run.
        ValueError: a number is below 1, or the protocol does not fit the data.

    Example:
        >>> evaluate("runs/demo")["rankings"]["codes"]["mAP"]  # doctest: +SKIP
        0.98
    """
    for name, value in (("top", top), ("pool", pool), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    model, config = models.load(folder), runs.load_config(folder)
    on_backbone = model.spec.method in FITS or model.spec.hidden is not None
    keeps_features = on_backbone and not config.finetune_blocks
    if data_dir is not None:
        option_checks.check_place(config.data, data_dir=data_dir)
        config = dataclasses.replace(config, data_dir=data_dir)
    if dataset is None:
        side = model.spec.item_shape[0] if on_backbone else None
        dataset = planning.load_data(config, side=side)
    asked = config
    if protocol is not None:
        asked = dataclasses.replace(config, protocol=protocol, protocol_options={})
    if protocol_options:
        asked = dataclasses.replace(asked, protocol_options=protocol_options)
    watch = Stopwatch(lambda name: say(STAGES[name]))
    about = {"data": dataset.name, "method": model.spec.method, "network": model.spec.network}
    if dataset.labels is None:
        if protocol is not None or protocol_options:
            raise ValueError(f"protocol is given, and {dataset.name} has no labels; leave it out")
        watch("encoding")
        alone, _ = kept_features.encoded(Path(folder), model, dataset, batch_size=batch_size)
        results = without_labels.evaluate(
            alone, bits=model.spec.bits, seed=config.seed, pool=pool, on_stage=watch
        )
        return _finished(about | results, watch)
    split = planning.split_data(asked, dataset)
    if asked != config:
        _warn_about_training(config, dataset, split, say)
    rows, back = np.unique(np.concatenate([split.query, split.database]), return_inverse=True)
    watch("encoding")
    if keeps_features:
        encoded, kept = kept_features.encoded(Path(folder), model, dataset, batch_size=batch_size)
        rows = np.searchsorted(kept.rows, rows)
        encoded = Encoded(*(None if one is None else one[rows] for one in encoded))
    else:
        encoded = encode(model, dataset.items, rows=rows, batch_size=batch_size, on_batch=on_batch)

    def part(places: np.ndarray) -> Encoded:
        return Encoded(*(None if one is None else one[places] for one in encoded))

    assert dataset.labels is not None
    results = measures.evaluate(
        part(back[: len(split.query)]),
        part(back[len(split.query) :]),
        dataset.labels,
        split,
        bits=model.spec.bits,
        seed=config.seed,
        top=top,
        pool=pool,
        on_stage=watch,
    )
    return _finished(about | results, watch)


def _finished(results: dict[str, Any], watch: Stopwatch) -> dict[str, Any]:
    found = {"order": order.best(results), "seconds": watch.stop(), "environment": environment()}
    return results | found


def _warn_about_training(
    config: Config, dataset: Dataset, split: Split, say: Callable[[str], None]
) -> None:
    trained = planning.split_data(config, dataset).train
    seen = int(np.isin(split.query, trained).sum())
    if seen:
        say(f"careful: the run was trained on {seen} of these {len(split.query)} queries")


def write_results(folder: Path | str, results: dict[str, Any]) -> list[Path]:
    """Write results.json and the figures into a run directory; returns their paths."""
    folder = Path(folder)
    runs.write_json(folder / runs.RESULTS, results)
    written = [folder / runs.RESULTS]
    if not results.get("labels", True):
        return written
    figures = {
        "precision_recall.png": lambda: pr_curve(results),
        "precision_at_k.png": lambda: precision_at_k(results),
    }
    rows = metrics_log.read(folder)
    if rows:
        figures["training.png"] = lambda: training_curves(rows)
    for name, draw in figures.items():
        plots.save(draw(), folder / name)
        written.append(folder / name)
    return written
