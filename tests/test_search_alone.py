"""`search` is a package of its own: it works where nothing but NumPy and numba is installed."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# What a process sees in which only the standard library, NumPy and numba are installed.
ALONE = """
import sys

ALLOWED = {"search", "numpy", "numba", "llvmlite", "_numba_pycc", *sys.stdlib_module_names}

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in ALLOWED:
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Bare())
try:
    import jax
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the block does not hold")

import numpy as np
import search

rng = np.random.default_rng(0)
bits = rng.integers(0, 2, (300, 48))
features = rng.standard_normal((300, 8)).astype(np.float32)
index = search.HashIndex(search.pack(bits), bits=48, features=features)
queries = search.pack(bits[:5])
distances, ids = index.search(queries, 1)
assert ids.ravel().tolist() == [0, 1, 2, 3, 4] and not distances.any()
index.save(sys.argv[1])
opened = search.HashIndex.open(sys.argv[1], verify=True)
distances, ids = opened.search(queries, 3, query_features=features[:5], pool=50)
assert ids[:, 0].tolist() == [0, 1, 2, 3, 4]
print("alone", len(opened))
"""


def test_search_works_where_jax_is_not_installed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "small.index")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "alone 300\n"


def test_imports_only_go_down() -> None:
    engine, floor = list((ROOT / "search").rglob("*.py")), list((ROOT / "jaxhash").rglob("*.py"))
    assert engine
    assert floor
    for file in engine:
        assert not imported(file) & {"jax", "flax", "optax", "jaxhash", "scripts"}, file
    for file in floor:
        assert "scripts" not in imported(file), file
        assert "nets" in file.parts or "flax" not in imported(file), file


def imported(file: Path) -> set[str]:
    """Names of the top-level packages that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names
