import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, threading
from jaxhash.training.allocator import keep_memory
if sys.argv[1] == "keep" and not keep_memory():
    sys.exit("unsupported")

def allocate_and_free():
    for _ in range(10):
        b"1" * 64_000_000  # 15625 pages

thread = threading.Thread(target=allocate_and_free)
thread.start()
thread.join()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
thread = threading.Thread(target=allocate_and_free)
thread.start()
thread.join()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    """Pages mapped anew by ten allocations of 64 MB in a thread, after ten others."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True)
    if "unsupported" in done.stderr:
        pytest.skip("the C library is not glibc")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_freed_memory_is_used_again():
    assert faults("keep") < 1000 < 10_000 < faults("default")
