"""Hold jax and PyTorch to AVX2 on a processor that has more, to see what others would.

Variables of the environment hold all but one part: the library `ynn`, by which XLA takes matrix
products on a CPU, asks the processor alone. It keeps the answer in a variable of its own, which
`hold` overwrites, found by its name in the library's symbols with `nm` of GNU binutils.
"""

import ctypes
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib

HELD = {
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
ANSWER = "ynn::get_supported_arch_flags()::flags"
# The answer's bits, from the lowest: SSE2, SSSE3, SSE4.1, AVX, F16C, AVX2, FMA; those of AVX-512
# and AMX follow. Source: ynnpack/base/arch.h of google/XNNPACK.
UP_TO_AVX2 = 0b1111111


def hold() -> None:
    """Hold this process to AVX2: call it first; the program is started again if need be.

    Raises:
        SystemExit: jaxlib is not one that can be held, or `nm` is missing.
    """
    if any(os.environ.get(name) != value for name, value in HELD.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | HELD)
    # The library asks the processor at its first product.
    jax.block_until_ready(jnp.dot(jnp.ones((256, 256)), jnp.ones((256, 256))))
    answer = ctypes.c_uint64.from_address(_address(ANSWER))
    if answer.value & UP_TO_AVX2 != UP_TO_AVX2:
        raise SystemExit(f"{ANSWER} is {answer.value:#x}: not a processor with AVX2, or no flags")
    answer.value &= UP_TO_AVX2
    jax.clear_caches()  # the product above was compiled for what there is


def _address(symbol: str) -> int:
    """Where a variable of jaxlib's library lies in this process."""
    library = (Path(jaxlib.__file__).parent / "libjax_common.so").resolve()
    if shutil.which("nm") is None or not library.exists():
        raise SystemExit(f"holding jax to AVX2 takes nm (GNU binutils) and {library}")
    listed = subprocess.run(["nm", "-C", library], capture_output=True, text=True, check=True)
    rows = (line.split(maxsplit=2) for line in listed.stdout.splitlines())
    offsets = [int(row[0], 16) for row in rows if row[-1] == symbol and len(row) == 3]
    mapped = (line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines())
    starts = [int(row[0].split("-")[0], 16) for row in mapped if row[-1] == str(library)]
    if len(offsets) != 1 or not starts:
        raise SystemExit(f"{library} has no symbol {symbol}: this jaxlib cannot be held to AVX2")
    return min(starts) + offsets[0]
