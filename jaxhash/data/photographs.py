"""Whether a folder holds photographs, or images too small for a network of photographs."""

import statistics
from pathlib import Path

from jaxhash.data.decoding import Undecodable, read_header
from jaxhash.data.listing import Aside, walk

SMALL = 64
"""Short side in pixels up to which images are small."""
SAMPLE = 64
"""Files whose headers are read, spread evenly."""


def are_photographs(data: str | Path) -> bool:
    """Whether it is a folder of image files, the shorter sides of most of them above `SMALL`.

    Example:
        >>> are_photographs("digits")
        False
    """
    folder = Path(data).expanduser()
    if not folder.is_dir() or (folder / "dataset_info.json").is_file():
        return False
    if any(folder.glob("*.np[yz]")):
        return False
    files = sorted(walk(folder, Aside()))
    sides = []
    for at in range(min(SAMPLE, len(files))):
        try:
            header = read_header(files[at * len(files) // min(SAMPLE, len(files))])
        except Undecodable:
            continue
        sides.append(min(header.width, header.height))
    return bool(sides) and statistics.median(sides) > SMALL
