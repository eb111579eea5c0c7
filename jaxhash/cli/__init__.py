"""The console command `jaxhash`: a table of commands, each in a file of its own.

To add one: a row in `COMMANDS`, and `jaxhash/cli/NAME.py` with a `COMMAND` (see
`jaxhash.cli.command`). This file imports nothing heavy, and a command's file is imported when it
is called, so that `jaxhash --help` answers at once.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "train a network whose outputs are binary codes",
    "evaluate": "measure how well the codes of a trained network retrieve",
    "encode": "encode images into an index that can be searched, or into features",
    "query": "find the images of an index that are nearest to given ones",
    "duplicates": "find copies of the same picture: resized, recompressed, mirrored, cropped",
    "serve": "answer queries by HTTP, with a page to drop a picture on",
    "export": "an index as a Parquet file, a table of PostgreSQL, or a FAISS file",
    "import": "an index of codes that others made, in Parquet or .npy files",
    "demo": "all of it on handwritten digits, in about a minute",
}

HELP = """\
usage: jaxhash COMMAND [OPTIONS]

Learned binary codes for image retrieval.

commands:
{commands}

`jaxhash COMMAND --help` explains a command and the options that most people need, `--help-all`
all of them. `--config FILE` reads options from a TOML or JSON file (see configs/), and
`--print-config` prints them in that form. `jaxhash --version` prints the version.

    jaxhash train --data photos/ --bits 64 --run runs/photos
    jaxhash evaluate --run runs/photos
    jaxhash encode --run runs/photos --data photos/ --out photos.index
    jaxhash query --run runs/photos --index photos.index beach.jpg -k 10 --gallery out.png"""


def main(words: Sequence[str] | None = None) -> None:
    """Run the command that the words name.

    Args:
        words: The command line after `jaxhash`; that of this process by default.

    Raises:
        SystemExit: The command ended with a message, or there is no such command.
    """
    words = sys.argv[1:] if words is None else list(words)
    if not words or words[0] in ("-h", "--help", "--help-all", "help"):
        print(HELP.format(commands="\n".join(f"  {n:12}{what}" for n, what in COMMANDS.items())))
        return
    name, *rest = words
    if name == "--version":
        from jaxhash import __version__

        print(f"jaxhash {__version__}")
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f": did you mean {close[0]}?" if close else ""
        print(
            f"jaxhash: no command {name!r}{meant} (choose one of {', '.join(COMMANDS)})",
            file=sys.stderr,
        )
        raise SystemExit(2)
    from jaxhash.cli.command import run

    run(importlib.import_module(f"jaxhash.cli.{name}").COMMAND, rest)
