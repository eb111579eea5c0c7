"""Whose words the library speaks."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ELSEWHERE = {"--always", "--dirty", "--abbrev", "--force-reinstall", "--cpus"}
"""Options of git, pip and docker."""


def test_the_library_speaks_of_arguments() -> None:
    """Its own options and scripts are named by the commands alone."""
    found = []
    for package in ("jaxhash", "search"):
        for path in (ROOT / package).rglob("*.py"):
            if path.is_relative_to(ROOT / "jaxhash" / "cli"):
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    named = re.findall(r"(?<![\w-])--[a-z][\w-]+|python scripts/\w+", node.value)
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    found += [f"{where} {one}" for one in named if one not in ELSEWHERE]
    assert not found
