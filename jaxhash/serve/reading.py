"""What a request brings: a form as JSON or as fields, and uploaded images."""

from typing import TypeVar

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from jaxhash.serve import limits
from jaxhash.serve.errors import Refused
from jaxhash.serve.forms import Form

Kind = TypeVar("Kind", bound=Form)
File = tuple[str, bytes]


async def read(request: Request, kind: type[Kind]) -> tuple[Kind, list[File]]:
    """The form and the images of a request.

    Args:
        request: JSON, or multipart/form-data with the images under the name "image".
        kind: of the form.

    Returns:
        The form, checked, and name and bytes of each image.

    Raises:
        Refused: the request is not well-formed, or a field is not what it should be.

    Example:
        >>> form, files = await read(request, Search)  # doctest: +SKIP
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if media == "application/json":
            return kind.model_validate_json(await request.body()), []
        if media != "multipart/form-data":
            raise Refused(415, "send application/json, or multipart/form-data with an image")
        return await _fields(request, kind)
    except ValidationError as error:
        raise Refused(422, _in_words(error)) from None
    except ClientDisconnect:
        raise Refused(400, "the request ended early") from None


async def _fields(request: Request, kind: type[Kind]) -> tuple[Kind, list[File]]:
    values: dict[str, list[str]] = {}
    files: list[File] = []
    try:
        async with request.form(
            max_files=limits.IMAGES, max_fields=limits.QUERIES, max_part_size=1 << 16
        ) as form:
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    values.setdefault(name, []).append(value)
                elif name != "image":
                    raise Refused(422, f"{_cut(name)}: files are sent under the name image")
                else:
                    files.append((_cut(value.filename or "image"), await value.read()))
    except (MultiPartException, HTTPException) as error:
        said = error.message if isinstance(error, MultiPartException) else error.detail
        raise Refused(400, f"not a form: {said}") from None
    given: dict[str, object] = {}
    for name, texts in values.items():
        field = kind.model_fields.get(name)
        several = field is not None and "list" in str(field.annotation)
        if len(texts) > 1 and not several:
            raise Refused(422, f"{_cut(name)}: given {len(texts)} times")
        given[name] = texts if several else texts[0]
    return kind.model_validate(given), files


def _cut(name: str) -> str:
    """A name from outside, short enough to be repeated."""
    return name if len(name) <= 200 else f"{name[:200]}..."


def _in_words(error: ValidationError) -> str:
    """The first faults of a form in a line."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    words = [
        ": ".join([".".join(map(str, fault["loc"]))[:200], fault["msg"]])
        if fault["loc"]
        else fault["msg"]
        for fault in faults[:3]
    ]
    more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
    return "; ".join(words) + more
