"""The API as an OpenAPI document: routes, what they take, and how they fail. It says nothing of the
project, so everybody may read it."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from penstock.serving.api.problems import OPENAI, TITLES

_PROBLEM: Final[dict[str, Any]] = {
    "title": "Problem",
    "description": "Why a request is refused (RFC 9457).",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
    },
}
_ERROR: Final[dict[str, Any]] = {
    "title": "Error",
    "description": "Why a request is refused, in OpenAI's form.",
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
_UNSCOPED: Final = frozenset({"/healthz", "/readyz", "/metrics", "/openapi.json"})
_STREAMED: Final = frozenset({"/v1/answer", "/v1/chat/completions", "/v1/responses"})


def document(app: FastAPI, version: str) -> dict[str, Any]:
    """The whole document."""
    made = get_openapi(
        title="Penstock",
        version=version,
        description="Fresh, permitted, cited context and answers.",
        routes=app.routes,
    )
    parts = made.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    schemas.update({"Problem": _PROBLEM, "Error": _ERROR})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            _complete(path, method, operation)
    return made


def _complete(path: str, method: str, operation: dict[str, Any]) -> None:
    responses = operation.setdefault("responses", {})
    responses.pop("422", None)
    if path in _UNSCOPED:
        if path == "/metrics":
            responses["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
        if path == "/readyz":
            responses["503"] = {**responses["200"], "description": "Not ready"}
        return
    operation["security"] = [{"key": []}]
    if path in _STREAMED:
        responses["200"]["content"]["text/event-stream"] = {}
    if path.startswith("/v1/documents") and method != "get":
        responses["202"] = {**responses["200"], "description": "Durable, not searchable yet"}
    name, media = ("Error", "application/json") if path.startswith(OPENAI) else (
        "Problem", "application/problem+json",
    )  # fmt: skip
    content = {media: {"schema": {"$ref": f"#/components/schemas/{name}"}}}
    for status, title in TITLES.items():
        if status != 500:
            responses[str(status)] = {"description": title, "content": content}
