"""Convolution and normalisation that are faster on a CPU than XLA's."""
