"""Exact search by Hamming distance: the layout of codes, scan, groups of equal codes, tables."""
