"""The compiled loops of the search: arrays in, arrays out, without the GIL and without checks."""
