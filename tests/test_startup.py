"""What a command does not need, it does not import; the times themselves are a benchmark."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_library import METHOD, NETWORK

import jaxhash

ROOT = Path(__file__).resolve().parent.parent
HEAVY = ("matplotlib", "tensorflow_datasets", "grain", "orbax", "sklearn", "optax")


def imported(code: str) -> set[str]:
    """The top-level packages that a fresh interpreter has imported after some code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize("words", [["--help"], ["--version"], []])
def test_help_imports_neither_jax_nor_numpy(words: list[str]) -> None:
    found = imported(f"from jaxhash import cli; cli.main({words!r})")
    assert not found & {"jax", "numpy", "numba", "flax", "tyro", *HEAVY}


@pytest.mark.parametrize("words", ["--help", "--help-all"])
def test_help_of_no_command_imports_jax_or_numpy(words: str) -> None:
    found = imported(
        f"from jaxhash import cli\nfor name in cli.COMMANDS:\n    cli.main([name, {words!r}])"
    )
    assert not found & {"jax", "numpy", "numba", "flax", "search", *HEAVY}


def test_a_query_imports_nothing_that_only_training_needs(tmp_path: Path) -> None:
    labels = np.arange(24) % 2
    shades = (60 + 120 * labels[:, None, None, None]).astype(np.uint8)
    images = np.broadcast_to(shades, (24, 16, 16, 3))
    run = tmp_path / "run"
    jaxhash.train(
        (images, labels),
        run,
        method=METHOD,
        network=NETWORK,
        bits=8,
        protocol="fraction",
        steps=2,
        batch_size=4,
    )
    (tmp_path / "photos").mkdir()
    photo = tmp_path / "photos" / "one.png"
    Image.fromarray(images[0]).save(photo)
    path = tmp_path / "one.index"
    jaxhash.index(jaxhash.load(run), tmp_path / "photos", path)
    code = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
from jaxhash.nets import NETWORKS, Network
import flax.linen as nn, jax.numpy as jnp
from jaxhash import cli

class Averages(nn.Module):
    dtype: object = jnp.float32
    @nn.compact
    def __call__(self, images, *, train):
        features = nn.avg_pool(images, (8, 8), (8, 8)).reshape(len(images), -1)
        return features, nn.Dense(16)(features)

NETWORKS["averages"] = Network("averages", Averages, image_size=16)
cli.main(["query", "--run", {str(run)!r}, "--index", {str(path)!r}, {str(photo)!r}])
"""
    assert sorted(imported(code) & set(HEAVY)) == []
