"""The script that gives readers damaged files, on a few of them; it has to notice a bad reader."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts" / "benchmarks"


def fuzz(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "fuzz_readers.py"), *words],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_damaged_files_of_several_kinds_are_refused() -> None:
    done = fuzz("--files", "40", "--readers", "pth", "npz", "mnist", "png")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line.split()[0]: line.split() for line in done.stdout.splitlines()[1:] if line}
    for reader in ("pth", "npz", "mnist", "png"):
        assert rows[reader][1] == "40"
        assert int(rows[reader][4]) > 10, "most damage is seen"
        assert rows[reader][5:8] == ["0", "0", "0"], "unexpected, kills, hangs"
