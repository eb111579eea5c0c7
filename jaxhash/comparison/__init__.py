"""Comparison of methods and baselines: trained by one recipe, measured in one table."""
