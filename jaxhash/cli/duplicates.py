"""Find copies of pictures in an index: exact, resized, recompressed, mirrored, cropped.

    jaxhash duplicates --run runs/photos --index photos.index --html duplicates.html

Prints groups of copies, the largest picture of each first, and writes a page that shows them. It
takes seconds for ten thousand pictures, and with --mirrored as long as jaxhash encode did. Nothing
is deleted.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxhash.cli import outputs
from jaxhash.cli.command import Command


@dataclass(frozen=True)
class Duplicates:
    """Options of `jaxhash duplicates`."""

    run: Path
    """Folder of the trained run that made the index."""
    index: Path
    """The index file, from jaxhash encode, with features."""
    html: Path | None = None
    """Write a page that shows the groups."""
    json: bool = False
    """Print the groups as JSON."""
    similarity: float = 0.85
    """Cosine of the features of two copies, at least: higher for fewer mistakes, lower for copies
    that were cropped or changed more. From 0.7 on, pairs that are the same as small grey pictures
    are copies too."""
    radius: int | None = None
    """Largest Hamming distance of the codes of two copies. Default: a quarter of the bits."""
    mirrored: bool = False
    """Encode the mirror images of all pictures too: for networks to which a mirrored copy does not
    look alike. Those that do are found without."""
    root: Path | None = None
    """Folder of the indexed images, where it has moved."""


def duplicates(options: Duplicates) -> None:
    """Find copies as the options say."""
    import json
    import sys

    from tqdm import tqdm

    from jaxhash import index_files
    from jaxhash.data.listing import shown
    from jaxhash.duplicates import page
    from jaxhash.duplicates.finding import can_mirror

    if options.html is not None:
        outputs.check(options.html)
    index = index_files.open_index(options.index, options.run, root=options.root)
    total = len(index) * (1 + (options.mirrored and can_mirror(index.model)))
    with tqdm(total=total, unit="image", unit_scale=True) as bar:
        groups = index.duplicates(
            similarity=options.similarity,
            radius=options.radius,
            mirrored=options.mirrored,
            on_batch=bar.update,
        )
    if options.html is not None:
        page.write(groups, options.html)
        print(f"page: {options.html}", file=sys.stderr)
    if options.json:
        print(json.dumps([group.to_dict() for group in groups], indent=2))
        return
    for number, group in enumerate(groups, 1):
        print(f"group {number}:")
        for one in group:
            size = "" if one.width is None else f"{one.width} x {one.height}"
            kept = "" if one.size is None else f"{one.size / 1000:.0f} kB"
            name = str(one.id) if one.path is None else shown(one.path)
            print(f"  {one.how:8}  {one.similarity:.3f}  {size:>13}  {kept:>9}  {name}")
    count = sum(map(len, groups))
    noun = "group" if len(groups) == 1 else "groups"
    print(f"{len(groups)} {noun} of copies, {count} of {len(index)} pictures")


COMMAND = Command("jaxhash duplicates", __doc__, Duplicates, duplicates)
