"""Exact search by Euclidean distance: re-ranking of candidates, and all features."""
