"""``/openapi.json``: the interface as OpenAPI 3.1, made of the route table, its reference and the types of bodies."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import msgspec

from broker import __version__
from broker.http.call import Answer, Call
from broker.http.problems import PROBLEMS
from broker.http.reference import COMMON, DOCS, PARAMETERS, VARIABLES, Body, Doc
from broker.http.routes import ROUTES

_REF = "#/components/schemas/{name}"
#: Status of answers that are no error.
_GOOD = 300


class OpenAPI:
    """The endpoint."""

    async def show(self, call: Call) -> Answer:
        """``GET /openapi.json``."""
        return Answer(200, encoded(), [(b"Content-Type", b"application/json; charset=UTF-8")])


@cache
def encoded() -> bytes:
    """The document, which is the same for ever."""
    return msgspec.json.encode(document())


def document() -> dict[str, Any]:
    """The document."""
    types = [doc.body.type for doc in DOCS.values() if doc.body is not None and doc.body.type is not None]
    _, components = msgspec.json.schema_components(types, ref_template=_REF)
    problem = {
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance"],
        "properties": {
            "type": {"type": "string", "examples": [f"/problems/{kind}" for kind in PROBLEMS]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "instance": {"type": "string"},
            "retry_after": {"type": "integer"},
            "errors": {"type": "array", "items": {"type": "object"}},
        },
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "twisted-broker",
            "version": __version__,
            "description": "Queues (channels) and topics over HTTP: Linger's interface, and more.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "security": [{}, {"basic": []}, {"bearer": []}],
        "paths": {
            path: {method.lower(): _operation(path, method, DOCS[endpoint]) for method, endpoint in methods.items()}
            for path, methods in ROUTES.items()
        },
        "components": {
            "schemas": {"Problem": problem, **components},
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(path: str, method: str, doc: Doc) -> dict[str, Any]:
    words = re.findall(r"[a-z]+", path) or ["welcome"]
    found: dict[str, Any] = {
        "operationId": "-".join([method.lower(), *words]),
        "summary": doc.says,
        "parameters": [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": VARIABLES[name][0],
                "description": VARIABLES[name][1],
            }
            for name in re.findall(r"{(\w+)}", path)
        ]
        + [
            {"name": name, "in": "query", "schema": PARAMETERS[name][0], "description": PARAMETERS[name][1]}
            for name in doc.parameters.split()
        ],
        "responses": {
            str(status): _response(status, says, doc) for status, says in sorted({**COMMON, **doc.answers}.items())
        },
    }
    if doc.body is not None:
        found["requestBody"] = _body(doc.body)
    return found


def _body(body: Body) -> dict[str, Any]:
    schema = {} if body.type is None else msgspec.json.schema_components([body.type], ref_template=_REF)[0][0]
    return {"required": body.needed, "content": {media: {"schema": schema} for media in body.media}}


def _response(status: int, says: str, doc: Doc) -> dict[str, Any]:
    if status < _GOOD:
        content: dict[str, Any] = {media: {} for media in doc.media} if status != 204 else {}
        return {"description": says, **({"content": content} if content else {})}
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    return {"description": says, "content": {"application/problem+json": problem, "text/plain": {}}}
