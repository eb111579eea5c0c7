"""Retrieval measures of a model under a protocol: the numbers and curves of results.json.

One set of queries is ranked in four ways, the first three being the DLBHC paper's BCS, ES and HDS
(Lin, Yang, Hsiao and Chen, "Deep Learning of Binary Hash Codes for Fast Image Retrieval", CVPR
Workshops 2015):

- `codes`: by Hamming distance alone, every measure the expected value over all orders of equal
  distances;
- `features`: exhaustively by Euclidean distance between features;
- `coarse_to_fine`: a pool of the nearest codes, put in order by Euclidean distance;
- `predicted_class`: the class the network predicts, as if it were a code. It needs no hashing at
  all, so a method's codes have to be compared with it (Sablayrolles, Douze, Usunier and Jégou,
  "How should we evaluate supervised hashing?", ICASSP 2017).
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import search
from jaxhash.data.protocols import Split
from jaxhash.encoding import Encoded
from search.codes import MAX_BITS

CUTS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000)
RANKINGS = {
    "codes": "codes (Hamming)",
    "features": "features (Euclidean)",
    "coarse_to_fine": "coarse to fine",
    "predicted_class": "predicted class",
}
"""The rankings of `evaluate` and what to call them in tables and figures."""


def evaluate(
    query: Encoded,
    database: Encoded,
    labels: np.ndarray,
    split: Split,
    *,
    bits: int,
    seed: int,
    top: int = 1000,
    at: Sequence[int] = CUTS,
    radii: Sequence[int] = (0, 1, 2),
    pool: int = 1000,
    threads: int | None = None,
    on_stage: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """The retrieval figures of encoded queries against an encoded database, ready for JSON.

    query, database: the encoded items of `split.query` and `split.database`, in their order;
    features and logits may be None, which leaves out what needs them. labels: int (n,) or bool
    (n, classes), of the whole dataset. seed: of the training run. top: cut-off of the average
    precision at the top, whose denominator is the relevant items found within it. at: cut-offs of
    precision@k. radii: of Hamming lookup, inclusive. pool: candidates of the coarse search.
    Cut-offs beyond the length of a ranking are left out, or lowered to it in the case of `top`.
    on_stage: called with the name of each ranking of `RANKINGS` when it begins.

    A query without relevant items scores 0 and stays in the means; such queries are counted.

    Raises:
        ValueError: the encoded items are not those of the split, or a number is out of range.

    Example:
        >>> results = evaluate(query, database, labels, split, bits=48, seed=0)  # doctest: +SKIP
        >>> results["rankings"]["codes"]["mAP"]  # doctest: +SKIP
        0.9823
    """
    _check(query, database, labels, split)
    asked, searched = labels[split.query], labels[split.database]
    exclude = rows_of_queries(split) if split.exclude_self else None
    left_out = int(exclude is not None and bool((exclude >= 0).any()))
    longest = len(split.database) - left_out
    if longest < 1:
        raise ValueError("split: its database has one item, and every query leaves itself out")
    rankings: dict[str, Any] = {}
    common: dict[str, Any] = {"exclude": exclude, "threads": threads}

    def within(length: int) -> dict[str, Any]:
        """The cut-offs that a ranking of this length allows."""
        return {"at": [k for k in at if k <= length], "top": min(top, length)}

    on_stage("codes")
    found = search.measure(
        query.codes,
        database.codes,
        asked,
        searched,
        bits=bits,
        radii=radii,
        **within(longest),
        **common,
    )
    rankings["codes"] = summary(found)
    without_relevant = found.without_relevant

    if query.features is not None and database.features is not None:
        listed = min(longest, max([top, *at]))
        on_stage("features")
        _, ids = search.euclidean_knn(
            query.features, database.features, listed + left_out, threads=threads
        )
        found = search.ranked_measure(ids, asked, searched, **within(listed), **common)
        rankings["features"] = summary(found)

        pooled = min(pool, longest)
        listed = min(listed, pooled)
        on_stage("coarse_to_fine")
        index = search.HashIndex(database.codes, bits=bits, features=database.features)
        _, ids = index.search(
            query.codes,
            listed + left_out,
            query_features=query.features,
            pool=pooled + left_out,
            threads=threads,
        )
        found = search.ranked_measure(ids, asked, searched, **within(listed), **common)
        rankings["coarse_to_fine"] = {"pool": pooled, **summary(found)}

    accuracy = None
    if query.logits is not None and database.logits is not None:
        classes = query.logits.shape[1]
        guessed, known = query.logits.argmax(axis=1), database.logits.argmax(axis=1)
        accuracy = {"query": _accuracy(guessed, asked), "database": _accuracy(known, searched)}
        if classes <= MAX_BITS:
            on_stage("predicted_class")
            found = search.measure(
                _one_hot(guessed, classes),
                _one_hot(known, classes),
                asked,
                searched,
                bits=classes,
                radii=(),
                **within(longest),
                **common,
            )
            rankings["predicted_class"] = summary(found)

    return {
        "protocol": split.protocol,
        "split": split.description,
        "bits": bits,
        "queries": len(asked),
        "database": len(searched),
        "seed": seed,
        "split_seed": split.seed,
        "exclude_self": split.exclude_self,
        "database_has_train": split.database_has_train,
        "queries_without_relevant": without_relevant,
        "average_precision_denominator": found.denominator,
        "ties": "expected value over all orders of equal Hamming distances",
        "accuracy": accuracy,
        "distinct_codes": {"query": distinct(query.codes), "database": distinct(database.codes)},
        "bit_entropy": bit_entropy(database.codes, bits),
        "rankings": rankings,
    }


def report(results: dict[str, Any]) -> str:
    """The numbers of `evaluate` as a table to print.

    Example:
        >>> print(report(results))  # doctest: +SKIP
        p-all, 48 bits, 10000 queries, 60000 in the database, seed 0
    """
    lines = [
        f"{results['protocol']}, {results['bits']} bits, {results['queries']} queries, "
        f"{results['database']} in the database, seed {results['seed']}",
        f"{'ranking by':<26}{'mAP':>8}{'mAP@top':>14}"
        + "".join(f"{f'P@{k}':>8}" for k in _shown(results)),
    ]
    for name, one in results["rankings"].items():
        title = RANKINGS[name] + (f", pool {one['pool']}" if "pool" in one else "")
        cells = [_cell(one["mAP"], 8), f"{_cell(one['mAP_at_top'], 0)} @{one['top']:<5}".rjust(14)]
        cells += [_cell(one["precision_at"].get(str(k)), 8) for k in _shown(results)]
        lines.append(f"{title:<26}" + "".join(cells))
    for radius, one in results["rankings"]["codes"]["within_radius"].items():
        lines.append(
            f"within radius {radius}: precision {one['precision']:.4f}, "
            f"recall {one['recall']:.4f}, {one['empty']} queries find nothing"
        )
    if results["accuracy"]:
        query, database = results["accuracy"]["query"], results["accuracy"]["database"]
        lines.append(f"classified right: queries {query:.4f}, database {database:.4f}")
    distinct = results["distinct_codes"]["database"]
    lines.append(f"{distinct} distinct codes, {results['bit_entropy']:.3f} bits of entropy per bit")
    if results["queries_without_relevant"]:
        lines.append(f"{results['queries_without_relevant']} queries have nothing to find: score 0")
    return "\n".join(lines)


def _shown(results: dict[str, Any]) -> list[int]:
    cuts = [int(k) for k in results["rankings"]["codes"]["precision_at"]]
    return [k for k in cuts if k in (1, 10, 100, 1000)]


def _cell(value: float | None, width: int) -> str:
    return ("-" if value is None else f"{value:.4f}").rjust(width)


def _check(query: Encoded, database: Encoded, labels: np.ndarray, split: Split) -> None:
    for name, encoded, rows in (
        ("query", query, split.query),
        ("database", database, split.database),
    ):
        for field, values in encoded._asdict().items():
            if values is not None and len(values) != len(rows):
                raise ValueError(
                    f"{name}.{field} has {len(values)} rows, but the split has {len(rows)} items; "
                    f"encode items[split.{name}]"
                )
        if len(rows) and rows.max() >= len(labels):
            raise ValueError(
                f"labels has {len(labels)} rows, but split.{name} goes up to {rows.max()}; "
                "give the labels of the whole dataset"
            )


def rows_of_queries(split: Split) -> np.ndarray:
    """The database row of each query itself, -1 where it is not in the database."""
    order = np.argsort(split.database)
    places = np.searchsorted(split.database, split.query, sorter=order)
    rows = order[np.minimum(places, len(order) - 1)]
    return np.where(split.database[rows] == split.query, rows, -1)


def summary(found: search.Measures) -> dict[str, Any]:
    """The means of a ranking's measures as plain numbers, ready for JSON."""
    rounded = {
        "mAP": found.mean_average_precision,
        "top": found.top,
        "mAP_at_top": found.mean_average_precision_at_top,
        "precision_at": dict(
            zip(map(str, found.at.tolist()), found.mean_precision_at.tolist(), strict=True)
        ),
        "precision_recall": {
            "ranks": found.ranks.tolist(),
            "precision": found.precision.tolist(),
            "recall": found.recall.tolist(),
        },
    }
    if found.radii.size:
        rounded["within_radius"] = {
            str(radius): {"precision": precision, "recall": recall, "empty": empty}
            for radius, precision, recall, empty in zip(
                found.radii.tolist(),
                found.mean_precision_within.tolist(),
                found.mean_recall_within.tolist(),
                found.empty_within.tolist(),
                strict=True,
            )
        }
    return rounded


def _accuracy(predicted: np.ndarray, labels: np.ndarray) -> float:
    """Share of items whose predicted class is their class, or one of them."""
    if labels.ndim == 1:
        return float((predicted == labels).mean())
    return float(labels[np.arange(len(labels)), predicted].mean())


def _one_hot(predicted: np.ndarray, classes: int) -> np.ndarray:
    """Predicted classes as codes: at distance 0 within a class, 2 between any two."""
    codes = np.zeros((len(predicted), -(-classes // 8)), np.uint8)
    codes[np.arange(len(predicted)), predicted // 8] = 128 >> (predicted % 8)
    return codes


def distinct(codes: np.ndarray) -> int:
    """How many different codes there are among uint8 (n, bytes).

    Example:
        >>> distinct(np.array([[1], [7], [1]], np.uint8))
        2
    """
    rows = np.ascontiguousarray(codes).view(np.dtype((np.void, codes.shape[1])))
    return int(np.unique(rows).size)


def bit_entropy(codes: np.ndarray, bits: int) -> float:
    """Mean entropy of a bit over the items, in bits: 1 where every bit is one for half of them.

    Example:
        >>> bit_entropy(np.array([[128], [0]], np.uint8), bits=1)
        1.0
    """
    ones_in_byte = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    ones = np.concatenate([np.bincount(column, minlength=256) @ ones_in_byte for column in codes.T])
    share = ones[:bits] / max(1, len(codes))
    share = np.stack([share, 1 - share])
    logs = np.log2(share, out=np.zeros_like(share), where=share > 0)
    return float(-(share * logs).sum(axis=0).mean())
