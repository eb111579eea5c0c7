"""Measures of a ranking: average precision, precision at k, precision-recall, radius lookup."""
