"""One grammar of errors: what is wrong; what is allowed, or what to do.

Lower case, no full stop, no second sentence. A colon stands behind a name (an argument, a file)
that the message begins with, or before what is filled in: a reason, a list.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for room in ("jaxhash", "search") for path in sorted((ROOT / room).rglob("*.py"))]
FILLED = "§"  # stands for what a message is filled with


def template(node: ast.expr) -> str | None:
    """The text of a message, `FILLED` where something is filled in; None for another value."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return template(node.func.value)  # "...".rstrip()
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) or FILLED for part in node.values)
    return None


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """Lines and texts of the errors that a file raises."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            for argument in node.exc.args:
                text = template(argument)
                if text and text != FILLED:
                    yield node.lineno, text


def faults(text: str) -> list[str]:
    """What is against the grammar in a message."""
    found = []
    if re.match("[A-Z][a-z]", text):
        found.append("begins with a capital")
    if text.endswith(".") and not text.endswith("..."):
        found.append("ends with a full stop")
    if re.search(rf"(?<!e\.g)\. (?:[A-Z][a-z]|{FILLED})", text):
        found.append("has two sentences")
    for colon in re.finditer(": ", text):
        before, after = text[: colon.start()], text[colon.end() :]
        named = all(" " not in name for name in before.split(": "))
        inside = before.count("(") > before.count(")")
        if not (named or inside or after.startswith(FILLED)):
            found.append(f"has ': {after[:20]}', which wants '; '")
    return found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Bits is 0; give 1 to 1024", "capital"),
        ("bits is 0; give 1 to 1024.", "full stop"),
        ("bits is 0. Give 1 to 1024", "two sentences"),
        ("bits is 0: give 1 to 1024", "wants '; '"),
        ("bits is 0; give 1 to 1024", ""),
        ("§: cut short (the header: 3 bytes); fetch it again", ""),
        ("§ is damaged: §", ""),
        ("LSH needs a package; pip install it, e.g. with §", ""),
    ],
)
def test_faults_are_seen(text: str, fault: str) -> None:
    found = faults(text)
    assert fault in "".join(found)
    assert bool(found) == bool(fault)


def test_messages_of_errors_have_one_grammar() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {fault}: {text}"
        for path in FILES
        for line, text in messages(path)
        for fault in faults(text)
    ]
    assert not wrong, "\n".join(wrong)
