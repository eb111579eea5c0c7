"""The whole path on real handwritten digits: `jaxhash demo`, by its old name.

python scripts/demo.py --help
"""

import sys

from jaxhash.cli import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
