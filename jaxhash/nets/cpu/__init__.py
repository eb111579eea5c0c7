"""Convolution and normalisation with passes of their own on a CPU."""
