"""Find the nearest images of an index: `jaxhash query`, by its old name.

python scripts/query.py --help
"""

import sys

from jaxhash.cli import main

if __name__ == "__main__":
    main(["query", *sys.argv[1:]])
