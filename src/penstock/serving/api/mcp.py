"""The Model Context Protocol over HTTP, at ``/mcp``: each request with its key."""

from __future__ import annotations

from typing import Any, Final

from fastapi import Request

from penstock.errors import MissingExtraError
from penstock.keys import Scope as KeyScope
from penstock.serving.api.access import Caller, Doorkeeper
from penstock.serving.api.guard import Application, Receive, Scope, Send
from penstock.serving.api.problems import ProblemError, response_of
from penstock.serving.api.services import Services
from penstock.serving.mcp import server

PATH: Final = "/mcp"
_CALLER: Final = "penstock.caller"


class WithMcp:
    """An application with the protocol beside it."""

    def __init__(self, api: Application, services: Services, doorkeeper: Doorkeeper) -> None:
        from mcp.server.transport_security import TransportSecuritySettings

        self._api = api
        self._doorkeeper = doorkeeper
        # Hosts and pages are looked at before this (`guard.py`), for all paths alike.
        unguarded = TransportSecuritySettings(enable_dns_rebinding_protection=False)
        self._mcp: Any = server(
            services, lambda context: _caller(context).principal, _may_query
        ).streamable_http_app(
            streamable_http_path=PATH,
            json_response=True,
            stateless_http=True,
            transport_security=unguarded,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._mcp(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == PATH:
            try:
                caller = await self._doorkeeper.caller(Request(scope), KeyScope.ASK)
            except ProblemError as problem:
                await response_of(PATH, problem)(scope, receive, send)
                return
            await self._mcp({**scope, _CALLER: caller}, receive, send)
        else:
            await self._api(scope, receive, send)


def _caller(context: Any) -> Caller:
    """Who asks: put there by us, for this request."""
    caller: Caller = context.request_context.request.scope[_CALLER]
    return caller


def _may_query(context: Any) -> bool:
    return KeyScope.TABLES in _caller(context).key.scopes


def with_mcp(api: Application, services: Services, doorkeeper: Doorkeeper) -> Application:
    """The application with ``/mcp``, where the extra is installed."""
    try:
        return WithMcp(api, services, doorkeeper)
    except (ImportError, MissingExtraError):
        return api
