"""The OpenAPI document, made from the forms that check requests."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

import jaxhash
from jaxhash.serve import forms

WRITING = {("POST", "/items"), ("DELETE", "/items/{id}")}
"""Routes that change the index."""
UPLOAD, JSON = "multipart/form-data", "application/json"
ID = ("id", "path", "integer", "Of an item of the index.")
Parameter = tuple[str, str, str, str]
"""Name, place, type, what it is."""


class Route(BaseModel):
    """What is said of one route: in words, with its parameters, its form and its answer."""

    summary: str
    answer: type[BaseModel] | str = "text/plain"
    form: type[forms.Form] | None = None
    takes: tuple[str, ...] = (UPLOAD,)
    parameters: tuple[Parameter, ...] = ()


ROUTES: dict[tuple[str, str], Route] = {
    ("POST", "/search"): Route(
        summary="The nearest items of uploaded images, or of items that are indexed already.",
        form=forms.Search,
        takes=(UPLOAD, JSON),
        answer=forms.Searched,
    ),
    ("POST", "/encode"): Route(
        summary="Codes and features of uploaded images.",
        form=forms.Encode,
        answer=forms.Encoded,
    ),
    ("GET", "/items/{id}"): Route(
        summary="One item: its path, label and code.", parameters=(ID,), answer=forms.Item
    ),
    ("GET", "/items"): Route(
        summary="Some items, chosen at random.",
        parameters=(
            ("sample", "query", "integer", "How many, 1 to 200; 24 by default."),
            ("seed", "query", "integer", "The same seed chooses the same items."),
        ),
        answer=forms.Items,
    ),
    ("GET", "/thumbnails/{id}"): Route(
        summary="A picture of an item.",
        parameters=(
            ID,
            ("size", "query", "integer", "Side of the square, up to 512 pixels."),
            ("whole", "query", "integer", "1: not cut to a square, up to 1600 pixels."),
        ),
        answer="image/jpeg",
    ),
    ("POST", "/items"): Route(
        summary="Add image files that lie in the folder of the images, or encode them again.",
        form=forms.Add,
        takes=(JSON,),
        answer=forms.Changed,
    ),
    ("DELETE", "/items/{id}"): Route(
        summary="Remove an item from the index.", parameters=(ID,), answer=forms.Changed
    ),
    ("GET", "/info"): Route(summary="What is served.", answer=forms.Info),
    ("GET", "/health"): Route(
        summary="Whether queries are answered; needs no token.", answer=forms.Health
    ),
    ("GET", "/metrics"): Route(summary="Counters, in Prometheus's text format."),
}


def openapi(*, writable: bool) -> dict[str, Any]:
    """The OpenAPI 3.1 document.

    Args:
        writable: whether the index may be changed through the service.

    Returns:
        The document, ready for JSON.

    Example:
        >>> sorted(openapi(writable=False)["paths"])[:2]
        ['/encode', '/health']
    """
    routes = {key: route for key, route in ROUTES.items() if writable or key not in WRITING}
    models: dict[type[BaseModel], None] = {forms.Problem: None}
    for route in routes.values():
        for one in (route.form, route.answer):
            if isinstance(one, type):
                models[one] = None
    refs, definitions = models_json_schema(
        [(one, "validation") for one in models], ref_template="#/components/schemas/{model}"
    )
    paths: dict[str, Any] = {}
    for (method, path), route in routes.items():
        paths.setdefault(path, {})[method.lower()] = _operation(route, refs, definitions["$defs"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "jaxhash", "version": jaxhash.__version__},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


def _operation(route: Route, refs: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    def ref(model: type[BaseModel]) -> Any:
        return refs[(model, "validation")]

    good: dict[str, Any] = (
        {route.answer: {} if route.answer != "image/jpeg" else {"schema": {"type": "string"}}}
        if isinstance(route.answer, str)
        else {"application/json": {"schema": ref(route.answer)}}
    )
    bad = {"application/json": {"schema": ref(forms.Problem)}}
    operation: dict[str, Any] = {
        "summary": route.summary,
        "responses": {
            "200": {"description": "Done.", "content": good},
            "4XX": {"description": "Refused, with the reason.", "content": bad},
            "503": {
                "description": "Too much is waiting: Retry-After says when to come back.",
                "content": bad,
            },
        },
    }
    if route.parameters:
        operation["parameters"] = [
            {
                "name": name,
                "in": place,
                "required": place == "path",
                "description": what,
                "schema": {"type": kind},
            }
            for name, place, kind, what in route.parameters
        ]
    if route.form is not None:
        fields = dict(schemas[route.form.__name__].get("properties", {}))
        files = {"type": "string", "format": "binary"}
        fields["image"] = {"type": "array", "items": files, "description": "Image files."}
        forms_of = {UPLOAD: {"type": "object", "properties": fields}, JSON: ref(route.form)}
        content = {media: {"schema": forms_of[media]} for media in route.takes}
        operation["requestBody"] = {"required": True, "content": content}
    return operation
