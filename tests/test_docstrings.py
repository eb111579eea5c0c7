"""Public functions document their arguments, result, errors and use in one style."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import jaxhash
import search
from jaxhash.method import METHODS
from search import interchange

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|Source):", re.MULTILINE)
ORDER = ["Args", "Attributes", "Returns", "Raises", "Example", "Source"]


def public() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions and methods of what `import jaxhash` and `import search` offer, by name."""
    for package in (jaxhash, search):
        for name in package.__all__:
            thing = getattr(package, name)
            if inspect.isfunction(thing):
                yield f"{package.__name__}.{name}", thing
            elif inspect.isclass(thing):
                for own, member in vars(thing).items():
                    function = getattr(member, "__func__", member)
                    if inspect.isfunction(function) and function.__name__ == own and own[0] != "_":
                        yield f"{package.__name__}.{name}.{own}", function
    for name in ("read_faiss", "write_faiss"):
        yield f"search.interchange.{name}", getattr(interchange, name)


PUBLIC = dict(public())


def sections(function: Callable[..., Any]) -> dict[str, str]:
    """The sections of a docstring by title, in their order."""
    parts = SECTION.split(inspect.getdoc(function) or "")
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_functions_are_explained_in_one_style(name: str) -> None:
    found = sections(PUBLIC[name])
    assert list(found) == [title for title in ORDER if title in found], "order of the sections"
    signature = inspect.signature(PUBLIC[name])
    wanted = [one for one in signature.parameters if one not in ("self", "cls")]
    named = re.findall(r"^    (\w+): ", found.get("Args", ""), re.MULTILINE)
    assert named == wanted, "Args has a line for each argument, in their order"
    result = str(signature.return_annotation)
    if len(wanted) > 0 and result not in ("None", "<class 'NoneType'>"):
        assert "Returns" in found
    if len(wanted) > 0:
        assert "Example" in found


@pytest.mark.parametrize("name", [name for name, row in METHODS.items() if row.network])
def test_losses_name_their_source(name: str) -> None:
    loss = METHODS[name].objective
    found = sections(loss)
    assert list(found) == ["Args", "Raises", "Example", "Source"]
    named = re.findall(r"^    (\w+): ", found["Args"], re.MULTILINE)
    assert named == list(inspect.signature(loss).parameters)
