"""Our docstrings have a section `Example:`; the generator of the site knows it as `Examples:`."""

import re
from typing import Any

import griffe

SECTION = re.compile(r"^(\s*)Example:$", re.MULTILINE)


class SingularExamples(griffe.Extension):
    """Reads `Example:` as the section of examples that it is."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rename the section before the docstring is parsed."""
        if obj.docstring is not None:
            obj.docstring.value = SECTION.sub(r"\1Examples:", obj.docstring.value)
