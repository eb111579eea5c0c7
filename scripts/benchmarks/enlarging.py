"""Peak memory of reading a dataset of small images for a network that wants them large.

    python scripts/benchmarks/enlarging.py --data cifar10 --data-dir DATA --encoded 512

Loads all of it for EfficientNet-Lite0, of 224 pixels, and computes the features of some images.
"""

import resource
import time
from pathlib import Path

import numpy as np
import tyro

from jaxhash import encoding
from jaxhash.config import Config
from jaxhash.training import backbones, kept_features, run_data
from jaxhash.training.allocator import keep_memory


def report(step: str, begun: float) -> None:
    """Print what a step took, and the process's peak up to now."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{step}: {time.process_time() - begun:.1f} s of CPU, at most {peak:.2f} GiB", flush=True)


def main(data: str, data_dir: Path | None = None, encoded: int = 512) -> None:
    """Measure, and print a line for each step.

    Args:
        data: name of the dataset, or its folder.
        data_dir: where datasets with a name lie.
        encoded: images whose features are computed, evenly among all.
    """
    keep_memory()
    eye = backbones.choose(Config(network="efficientnet-lite0"))
    report("start", 0.0)
    begun = time.process_time()
    config = Config(data=data, data_dir=None if data_dir is None else str(data_dir))
    dataset = run_data.load_data(config, side=eye.side)
    report(f"loaded, {dataset.items.shape}", begun)
    begun = time.process_time()
    model = kept_features.Eye(kept_features.spec_of(eye), {"params": {"trunk": eye.params()}})
    rows = np.linspace(0, len(dataset) - 1, min(encoded, len(dataset))).astype(int)
    encoding.encode(model, dataset.items, rows=rows, features="float32", keep=("features",))
    report(f"features of {len(rows)} images", begun)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
