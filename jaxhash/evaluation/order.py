"""The order in which a run's results are best: by codes, by features, or coarse to fine."""

from collections.abc import Mapping
from typing import Any

from jaxhash.runs import ORDERS

MARGIN = 0.005
"""Mean average precision by which a more expensive order has to be better."""
KEPT = 0.99
"""Share of the features' nearest neighbours that the pool has to hold for coarse to fine."""


def best(results: Mapping[str, Any]) -> str:
    """The cheapest order that is as good as the best one, by the results of an evaluation.

    With labels, by the mean average precision at the top. Without, the features' order is the best,
    and coarse to fine is as good where the pool holds nearly all of the features' neighbours.

    Args:
        results: of `measures.evaluate` or `without_labels.evaluate`.

    Returns:
        One of `runs.ORDERS`.

    Example:
        >>> score = {"codes": 0.52, "features": 0.47, "coarse_to_fine": 0.45}
        >>> best({"rankings": {name: {"mAP_at_top": one} for name, one in score.items()}})
        'codes'
    """
    if not results.get("labels", True):
        return "coarse_to_fine" if results["recall"]["pool"] >= KEPT else "features"
    rankings = results["rankings"]
    score = {name: rankings[name]["mAP_at_top"] for name in ORDERS if name in rankings}
    enough = max(score.values()) - MARGIN
    return next(name for name, one in score.items() if one >= enough)


def said(results: Mapping[str, Any]) -> str:
    """A line about the best order, to print.

    Example:
        >>> said({"labels": False, "recall": {"pool": 0.5}, "order": "features"})
        'best in the order of features; queries of this run take it unless told otherwise'
    """
    name = {"coarse_to_fine": "features, from coarse to fine"}.get(
        results["order"], results["order"]
    )
    return f"best in the order of {name}; queries of this run take it unless told otherwise"
