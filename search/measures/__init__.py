"""What a ranking is worth: average precision, precision at k, precision-recall, radius lookup."""
