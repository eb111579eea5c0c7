"""Make an index of codes that others made, in a Parquet or .npy file.

    jaxhash import photos.parquet --out photos.index
    jaxhash import codes.npy --bits 48 --features features.npy --out codes.index

It takes seconds for a million codes. A Parquet file needs a column code (binary: bits packed into
bytes); id, feature (lists of floats), path and label are used where they are there. An .npy file
holds uint8 (n, bytes of a code). Nothing is left behind where a file cannot be used.
"""

from dataclasses import dataclass
from pathlib import Path

import tyro

from jaxhash.cli.command import Command


@dataclass(frozen=True)
class Import:
    """Options of `jaxhash import`."""

    file: tyro.conf.Positional[Path]
    """The codes: a .parquet or .npy file."""
    out: Path
    """The index file to write."""
    bits: int | None = None
    """Number of bits in a code. Default: what a Parquet file of jaxhash export says, or eight a
    byte."""
    features: Path | None = None
    """An .npy file of features, float16 or float32 (n, d), beside an .npy file of codes."""
    ids: Path | None = None
    """An .npy file of ids, whole numbers (n,) that ascend, beside an .npy file of codes. Default:
    from 0."""
    overwrite: bool = False
    """Replace a file that is there."""


def import_(options: Import) -> None:
    """Import as the options say."""
    from jaxhash.cli.export import check_free

    kind = options.file.suffix.lower()
    if kind not in (".npy", ".parquet"):
        raise ValueError(f"{options.file}; give a .parquet or .npy file")
    if not options.file.is_file():
        raise FileNotFoundError(f"{options.file}: no such file")
    check_free(options.out, options.overwrite)
    if kind == ".npy":
        from jaxhash.exchange import npy

        index = npy.to_index(
            options.file,
            options.out,
            bits=options.bits,
            features=options.features,
            ids=options.ids,
        )
    else:
        from jaxhash.exchange import parquet

        for name in ("features", "ids"):
            if getattr(options, name) is not None:
                raise ValueError(f"--{name} is for .npy files; a Parquet file has them as columns")
        index = parquet.to_index(options.file, options.out, bits=options.bits, say=print)
    size = options.out.stat().st_size / 1e6
    print(f"{options.out}: {len(index)} codes of {index.bits} bits, {size:.1f} MB")


COMMAND = Command("jaxhash import", __doc__, Import, import_, positional="file")
