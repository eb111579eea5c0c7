"""Say how good a trained run's codes are: `jaxhash evaluate`, by its old name.

python scripts/evaluate.py --help
"""

import sys

from jaxhash.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
