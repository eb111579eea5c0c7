"""The order of the packages: imports only go down, and `search` stands alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up; a unit (a sub-package, or a file beside them) may import those before it.
ORDER = {
    "search": (
        "codes control_groups memory processors threads paging filters kernels merging hamming "
        "measures fine files collection shards index scattered faiss_layout interchange"
    ),
    "jaxhash": (
        "environment pickles recipes trees losses unlabelled nets data published method config "
        "option_checks views preparation prefetch supervising processes sharding device_kernels "
        "device_search onnx_files plots runs spec programs encoding models known_features "
        "feature_files items found retrieval shards updating exchange duplicates image_index "
        "index_files training evaluation comparison analysis library serve cli __main__"
    ),
}


def modules_imported(path: Path) -> Iterator[str]:
    """Dotted names of the project's modules that a file imports, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit(package: str, dotted: str) -> str | None:
    """The unit of a package that a dotted name lies in; None for the package's front or another."""
    parts = dotted.split(".")
    if parts[0] != package or len(parts) < 2:
        return None
    folder, file = ROOT / package / parts[1], ROOT / package / f"{parts[1]}.py"
    return parts[1] if folder.is_dir() or file.is_file() else None


@pytest.mark.parametrize("package", ORDER)
def test_imports_only_go_down(package: str) -> None:
    order = ORDER[package].split()
    upwards = []
    for path in sorted((ROOT / package).rglob("*.py")):
        own = unit(package, ".".join(path.relative_to(ROOT).with_suffix("").parts))
        if own in (None, "__init__"):
            continue
        assert own in order, f"{path.relative_to(ROOT)}; give {own!r} its place in ORDER"
        for name in modules_imported(path):
            other = unit(package, name)
            if other not in (None, own) and order.index(other) > order.index(own):
                upwards.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not upwards


def test_search_imports_neither_jax_nor_jaxhash() -> None:
    for path in (ROOT / "search").rglob("*.py"):
        roots = {name.partition(".")[0] for name in modules_imported(path)}
        assert not roots & {"jax", "flax", "optax", "jaxhash"}, path
