"""Documents that applications push, replace and delete, and read at once.

The answer comes when the documents can be found (200), or after ``wait`` seconds with the position
at which they will be (202): a question that names it in ``after`` is answered from there on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import TypeAdapter, ValidationError

from penstock.errors import BadRecordError, MissingExtraError
from penstock.serving.api.access import Caller, Writing
from penstock.serving.api.asking import services
from penstock.serving.api.problems import ProblemError
from penstock.serving.api.shapes import DocumentBody, DocumentsRequest, Item
from penstock.serving.writing import MOST_WAIT_S, NoInletError, ReusedIdError, Written

router = APIRouter()

Wait = Annotated[float, Query(ge=0, le=MOST_WAIT_S, allow_inf_nan=False)]
"""How many seconds the answer may wait until the documents can be found."""
Once = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=200)]
Lists = Annotated[list[str] | None, Query(max_length=1000)]
DEFAULT_WAIT_S: Final = 10.0
_BODY: Final = TypeAdapter(DocumentBody)
_ONCE: Final = re.compile(r"[!-~]{1,200}")
_RAW: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/DocumentBody"}},
            "*/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


@router.put("/v1/documents/{source}/{key:path}", openapi_extra=_RAW)
async def put(
    request: Request,
    source: str,
    key: str,
    caller: Writing,
    wait: Wait = DEFAULT_WAIT_S,
    title: Annotated[str | None, Query(max_length=2000)] = None,
    allow: Lists = None,
    deny: Lists = None,
    once: Once = None,
) -> Response:
    """The document is this from now on. As JSON it is described; any other body is the document,
    of the media type that the request says, with ``title``, ``allow`` and ``deny`` beside it."""
    data = await request.body()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        said = {"title": title, "allow": allow, "deny": deny}
        beside = [name for name, value in said.items() if value is not None]
        if beside:
            raise ProblemError(
                422,
                "invalid_request",
                f"expected {', '.join(beside)} in the body, where the rest of the document is",
            )
        written = _described(key, _checked(data))
    else:
        written = _written(key, data, media_type or "text/markdown", title, {}, allow, deny)
    return await _done(request, source, [written], caller, wait, once)


@router.delete("/v1/documents/{source}/{key:path}")
async def delete(
    request: Request,
    source: str,
    key: str,
    caller: Writing,
    wait: Wait = DEFAULT_WAIT_S,
    once: Once = None,
) -> Response:
    """The document is gone from now on, whether it was there or not."""
    return await _done(request, source, [Written(key)], caller, wait, once)


@router.post("/v1/documents")
async def post(
    request: Request,
    body: DocumentsRequest,
    caller: Writing,
    wait: Wait = DEFAULT_WAIT_S,
    once: Once = None,
) -> Response:
    """Several documents of one source, all or none."""
    written = [_item(item) for item in body.documents]
    return await _done(request, body.source, written, caller, wait, once)


def _item(item: Item) -> Written:
    return Written(item.key) if item.document is None else _described(item.key, item.document)


def _checked(data: bytes) -> DocumentBody:
    try:
        return _BODY.validate_json(data)
    except ValidationError as error:
        found = error.errors()[0]
        place = ".".join(str(part) for part in found["loc"]) or "the body"
        said = str(found["msg"]).removeprefix("Value error, ")[:300]
        raise ProblemError(422, "invalid_request", f"{place}: {said}") from error


def _described(key: str, body: DocumentBody) -> Written:
    try:
        data = body.data()
    except BadRecordError as error:
        raise ProblemError(422, "invalid_document", error.reason) from error
    media_type = body.media_type.partition(";")[0].strip().lower()
    return _written(key, data, media_type, body.title, body.metadata, body.allow, body.deny)


def _written(
    key: str,
    data: bytes,
    media_type: str,
    title: str | None,
    metadata: dict[str, Any],
    allow: Sequence[str] | None,
    deny: Sequence[str] | None,
) -> Written:
    try:
        return Written(key, data, media_type, title, metadata, allow, deny)
    except BadRecordError as error:
        raise ProblemError(422, "invalid_document", f"{key[:200]}: {error.reason}") from error


async def _done(
    request: Request,
    source: str,
    documents: Sequence[Written],
    caller: Caller,
    wait: float,
    once: str | None,
) -> Response:
    has = services(request)
    if once is not None and _ONCE.fullmatch(once) is None:
        raise ProblemError(
            400,
            "invalid_request",
            "expected an Idempotency-Key of 1 to 200 visible characters of ASCII",
        )
    try:
        receipt = await has.writer.write(
            source,
            documents,
            once=None if once is None else f"{caller.key.id}/{once}",
            wait_s=wait,
        )
    except NoInletError as error:
        raise ProblemError(*_missing(source, has.sources.get(source))) from error
    except ReusedIdError as error:
        raise ProblemError(422, "idempotency_key_reused", str(error)) from error
    except (BadRecordError, MissingExtraError) as error:
        raise ProblemError(422, "invalid_document", str(error)) from error
    headers = {"Idempotent-Replayed": "true"} if receipt.repeated else {}
    told = {"position": receipt.position, "searchable": receipt.searchable}
    return JSONResponse(told, 200 if receipt.searchable else 202, headers)


def _missing(source: str, kind: str | None) -> tuple[int, str, str]:
    if kind == "push":
        said = f"expected the source {source!r} to run in this process: push to `penstock run`"
        return 503, "unavailable", said
    if kind is not None:
        said = f"expected a source of the type push, {source!r} is of the type {kind!r}"
        return 405, "not_writable", f"{said}: change it where it is"
    return 404, "not_found", f"expected a source of the project, got {source[:100]!r}"
