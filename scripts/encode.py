"""Encode images into an index of binary codes: `jaxhash encode`, by its old name.

python scripts/encode.py --help
"""

import sys

from jaxhash.cli import main

if __name__ == "__main__":
    main(["encode", *sys.argv[1:]])
