"""Strict numerics, eight simulated devices and fresh keys for every test."""

import gc
import os
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Both must stand before jax is imported anywhere: the device count is read once, and compiled
# programs are kept between runs of the suite so that only the first one pays for them.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
REPOSITORY = Path(__file__).resolve().parent.parent
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(REPOSITORY / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# Where in Python each operation comes from, which errors of the compiler would say, is a tenth of
# the time of tracing and lowering.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
os.environ.setdefault("MPLBACKEND", "agg")
# Bytecode is kept too, beside the kernels that numba keeps: images of containers like to forbid it,
# and some sixty processes of the tests would each compile all of the package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Most of the time of a first run is the compiler's, for programs that run once. Without LLVM's
# optimisation, in one module a program, and with XLA's older emitters of fused operations, which
# jaxlib 0.11 no longer has, it takes a seventh of the time; the operations are the same.
OPTIMISATION = "--xla_backend_optimization_level"
if OPTIMISATION not in os.environ.get("XLA_FLAGS", ""):
    flags = [os.environ.get("XLA_FLAGS", ""), f"{OPTIMISATION}=0"]
    flags.append("--xla_cpu_parallel_codegen_split_count=1")
    if version("jaxlib").startswith("0.10."):  # one that does not know a flag would abort
        flags.append("--xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true")
    os.environ["XLA_FLAGS"] = " ".join(flags).strip()

import flax.core.scope
import hypothesis
import jax
import numpy as np
import pytest

from search import processors

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# No test may fail because the machine is slow or does something else.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

shapes: dict[Any, Any] = {}


def eval_shape_once(function: Callable[..., Any], *args: Any) -> Any:
    """`jax.eval_shape`; of a function without arguments once for the same that it closes over."""
    closed = [cell.cell_contents for cell in function.__closure__ or ()]
    key = function.__code__, *(tuple(c.items()) if isinstance(c, dict) else c for c in closed)
    try:
        found = None if args else shapes.get(key)
    except TypeError:  # an initialiser that is given arrays
        return jax.eval_shape(function, *args)
    if found is None:
        found = jax.eval_shape(function, *args)
        if not args:
            shapes[key] = found
    return found


# At every apply flax compares the shape of each parameter with its initialiser's, which it traces
# for that: a fifth of all tracing. It goes on comparing, and traces the same one no more than once.
flax.core.scope.jax = SimpleNamespace(**vars(jax) | {"eval_shape": eval_shape_once})


@pytest.hookimpl(optionalhook=True)  # the suite runs without pytest-xdist, too
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are processors, as tests that wait for a process leave theirs idle."""
    return min(processors.available() + 1, 8)  # each takes a GiB or two of memory


def pytest_collection_finish() -> None:
    """Spare the collector what was imported: looking through it took a seventh of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 30, 30)


@pytest.fixture
def key() -> Callable[[], jax.Array]:
    """A function that returns a fresh jax key at each call, the same ones in every run."""
    state = {"key": jax.random.key(2015)}

    def fresh() -> jax.Array:
        state["key"], new = jax.random.split(state["key"])
        return new

    return fresh


@pytest.fixture
def rng() -> np.random.Generator:
    """A seeded NumPy generator."""
    return np.random.default_rng(2016)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The image files that are decoded, as paths or bytes; filled meanwhile."""
    from jaxhash.data import decoding

    seen: list[object] = []
    real = decoding.decode

    def counted(file: object, **options: Any) -> np.ndarray:
        seen.append(file)
        return real(file, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(decoding, "decode", counted)
    return seen


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of prepared tensorflow-datasets; the test is skipped where it is absent."""
    folder = Path(os.environ.get("JAXHASH_TEST_DATA", REPOSITORY.parent / "shared" / "tfds"))
    if not folder.is_dir():
        pytest.skip("no prepared datasets: set JAXHASH_TEST_DATA to their folder")
    return folder
