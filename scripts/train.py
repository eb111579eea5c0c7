"""Train a network whose latent layer is a binary code: `jaxhash train`, by its old name.

python scripts/train.py --help
"""

import sys

from jaxhash.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
