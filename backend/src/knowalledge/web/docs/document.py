"""The OpenAPI 3.1 document, made of the operations of all features; schemas are those of the types that are served."""

from collections.abc import Iterable
from typing import Any

import msgspec

from knowalledge import __version__
from knowalledge.core.openapi import ErrorForm, Operation, Schema

_TEXT = {"type": "string"}
_EVENT_STREAM = "text/event-stream"
_HEADERS: dict[str, str] = {
    "X-Request-ID": "The request's id: the caller's own if it is safe to repeat.",
    "X-Priority": "The level in force: critical, high, medium or low.",
    "X-Degraded": "true where this is second best: another model, or a quota counted without Redis.",
    "X-Target": "Who answers, and why it was chosen.",
    "RateLimit": "What is left of each window (IETF draft).",
    "RateLimit-Policy": "Each window: its limit and its length in seconds (IETF draft).",
    "Retry-After": "Seconds after which to come back.",
    "Cache-Status": "What our caches did (RFC 9211).",
    "Cache-Control": "For browsers.",
    "CDN-Cache-Control": "For CDNs (RFC 9213).",
    "Cache-Tag": "By what a CDN may be told to forget.",
    "ETag": "To ask again with If-None-Match.",
}
# Of requests that call a model: header, name of the component, description.
_PARAMETERS: tuple[tuple[str, str, str], ...] = (
    (
        "X-Request-ID",
        "RequestId",
        "An id of the caller's own: up to 128 letters, digits, dots, dashes, colons.",
    ),
    ("X-Priority", "PriorityLevel", "critical, high, medium or low."),
    ("Priority", "Priority", "u=0 (most urgent) to u=7 (RFC 9218)."),
    ("X-Server-Timeout", "ServerTimeout", "Seconds that the caller will wait."),
    (
        "Cache-Control",
        "RequestCacheControl",
        "no-cache, no-store, only-if-cached or max-age (RFC 9111).",
    ),
)
# Of each error form: end of the component's name, description, headers.
_FAILURES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Refused", "The request cannot be served as it is.", ("X-Request-ID",)),
    (
        "Later",
        "Not now: come back after Retry-After.",
        ("X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"),
    ),
    ("Failed", "The provider, or the gateway, failed.", ("X-Request-ID",)),
)


def make_document(operations: Iterable[Operation]) -> dict[str, Any]:
    """The whole document, equal every time; operations are ordered by rank."""
    ordered = sorted(operations, key=lambda it: it.rank)
    forms = tuple(dict.fromkeys(it.errors for it in ordered if it.errors is not None))
    kinds: dict[Schema, None] = dict.fromkeys(it.schema for it in forms)
    for operation in ordered:
        for kind in (operation.body, operation.answer.body, *operation.answer.events):
            if isinstance(kind, type):
                kinds[kind] = None
    refs, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    ref_of = dict(zip(kinds, refs, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in ordered:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation, ref_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Knowalledge",
            "version": __version__,
            "description": "A quota-aware gateway to language models, in three dialects.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {
                name.replace("-", ""): {"description": text, "schema": _TEXT}
                for name, text in _HEADERS.items()
            },
            "parameters": {
                name: {"name": header, "in": "header", "description": text, "schema": _TEXT}
                for header, name, text in _PARAMETERS
            },
            "responses": {name: body for form in forms for name, body in _failures(form, ref_of)},
        },
    }


def _failures(form: ErrorForm, ref_of: dict[Schema, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    for end, text, names in _FAILURES:
        content = {form.media_type: {"schema": ref_of[form.schema]}}
        yield form.name + end, {"description": text, "headers": _headers(names), "content": content}


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def _headers(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _ref("headers", name.replace("-", "")) for name in names}


def _operation(operation: Operation, ref_of: dict[Schema, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in variables(operation.path)
    ]
    parameters += operation.query
    if operation.asks:
        parameters += (_ref("parameters", name) for _, name, _ in _PARAMETERS)
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": parameters,
        "responses": _responses(operation, ref_of),
    }
    body = operation.body
    if isinstance(body, type):
        content = {"application/json": {"schema": ref_of[body]}}
        described["requestBody"] = {"required": True, "content": content}
    elif body:
        described["requestBody"] = {"required": True, "content": {media: _upload(media) for media in body}}
    return described


def _responses(operation: Operation, ref_of: dict[Schema, Any]) -> dict[str, Any]:
    answer = operation.answer
    headers = _headers(answer.headers)
    if isinstance(answer.body, str):
        content = {answer.body: _other_body(operation, ref_of)}
    else:
        content = {"application/json": {"schema": ref_of[answer.body]}}
    if answer.events:
        # The type of each event's data: OpenAPI 3.1 has no word for it.
        data = {"oneOf": [ref_of[kind] for kind in answer.events]}
        content[_EVENT_STREAM] = {"schema": _TEXT, "x-event-data": data}
    responses: dict[str, Any] = {
        "200": {"description": "The answer.", "headers": headers, "content": content}
    }
    if "ETag" in answer.headers:
        responses["304"] = {"description": "It has not changed.", "headers": headers}
    if operation.not_ready:
        responses["503"] = responses["200"] | {"description": operation.not_ready}
    if operation.errors is not None:
        form = operation.errors.name
        responses["4XX"] = _ref("responses", f"{form}Refused")
        responses["429"] = responses["503"] = _ref("responses", f"{form}Later")
        responses["5XX"] = _ref("responses", f"{form}Failed")
    return responses


def _other_body(operation: Operation, ref_of: dict[Schema, Any]) -> dict[str, Any]:
    """A body that is no JSON object of ours: text, or the array that a stream may come as."""
    answer = operation.answer
    if answer.events:
        return {"schema": {"type": "array", "items": {"anyOf": [ref_of[kind] for kind in answer.events]}}}
    return {"schema": {"type": "object"} if answer.body == "application/json" else _TEXT}


def _upload(media: str) -> dict[str, Any]:
    if media != "multipart/form-data":
        return {}
    picture = {"type": "string", "contentMediaType": "application/octet-stream"}
    return {"schema": {"type": "object", "properties": {"image": picture}, "required": ["image"]}}


def variables(path: str) -> list[str]:
    """The variables of a templated path, in order."""
    return [it.partition("}")[0] for it in path.split("{")[1:]]
