"""Calls to services with Amazon's interfaces, for the sources that make them: boto3 in threads,
with its errors said in our families. Any server that speaks the same protocol does (`endpoint`).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from penstock.errors import MissingExtraError, PenstockError, SourceError, UnavailableError

T = TypeVar("T")

_PERSON: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "NoSuchBucket",
        "NotSignedUp",
        "PermanentRedirect",
        "QueueDoesNotExist",
        "AWS.SimpleQueueService.NonExistentQueue",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "403",
    }
)
"""Codes that waiting does not mend."""


@dataclass(frozen=True, slots=True)
class AmazonAccess:
    """Where and as whom. What is None is found as Amazon's tools find it: environment, profile,
    the machine's role."""

    region: str | None = None
    endpoint: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)


class AmazonClient:
    """One service. ``what`` is how errors name it; ``extra`` is the one that brings boto3."""

    def __init__(
        self, access: AmazonAccess, service: str, *, what: str, extra: str, threads: int = 8
    ) -> None:
        self._access = access
        self._service = service
        self._what = what
        self._extra = extra
        self._size = threads
        self._threads: ThreadPoolExecutor | None = None
        self._client: Any = None

    async def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """One operation's answer."""
        answer: dict[str, Any] = await self.run(
            lambda client: getattr(client, operation)(**arguments)
        )
        return answer

    async def run(self, function: Callable[[Any], T]) -> T:
        """What ``function`` does with boto3's client, in a thread."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._size, f"penstock-{self._service}")
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, self._guarded, function
        )

    async def wait(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """The answer of an operation that waits at the server. Its thread does not keep the process
        from ending."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[dict[str, Any]] = loop.create_future()

        def settle(answer: dict[str, Any] | None, error: Exception | None) -> None:
            if not future.done():
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(answer or {})

        def ask() -> None:
            answer, failure = None, None
            try:
                answer = self._guarded(lambda client: getattr(client, operation)(**arguments))
            except PenstockError as error:
                failure = error
            with suppress(RuntimeError):  # the loop was closed while the server waited
                loop.call_soon_threadsafe(settle, answer, failure)

        threading.Thread(target=ask, daemon=True, name=f"penstock-{self._service}-wait").start()
        return await future

    def _guarded(self, function: Callable[[Any], T]) -> T:
        try:
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise MissingExtraError(f"reaching {self._what}", self._extra) from error
        try:
            return function(self._opened())
        except ClientError as error:
            raise self._translated(error) from error
        except BotoCoreError as error:
            raise self._unreached(error) from error
        except OSError as error:  # the connection broke while a body was read
            raise self._unreached(error) from error

    def _opened(self) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            access = self._access
            session = boto3.session.Session(
                aws_access_key_id=access.access_key,
                aws_secret_access_key=access.secret_key,
                aws_session_token=access.session_token,
                region_name=access.region,
            )
            self._client = session.client(
                self._service,
                endpoint_url=access.endpoint,
                config=Config(
                    connect_timeout=5,
                    read_timeout=60,
                    retries={"total_max_attempts": 2, "mode": "standard"},
                    max_pool_connections=self._size + 2,
                    s3={"addressing_style": "path" if access.endpoint else "auto"},
                ),
            )
        return self._client

    def _translated(self, error: Any) -> PenstockError:
        code = error_code(error)
        sentence = str(error.response.get("Error", {}).get("Message", "")).strip() or code
        message = f"expected an answer of {self._what}, got {code}: {sentence}"
        if code in _PERSON:
            return SourceError(f"{message}; correct the settings or the rights", code=code)
        return UnavailableError(message, code=code)

    def _unreached(self, error: Exception) -> PenstockError:
        name = type(error).__name__
        message = f"expected to reach {self._what}, got: {error}"
        if name in {"NoCredentialsError", "PartialCredentialsError", "NoRegionError"}:
            return SourceError(
                f"{message}; set region, access_key and secret_key in the project file, or the "
                "environment variables of Amazon's tools"
            )
        if name in {"ParamValidationError", "InvalidRegionError", "ProfileNotFound"}:
            return SourceError(f"{message}; correct the settings")
        return UnavailableError(message)

    async def close(self) -> None:
        """Let go of threads and connections; more than once does no harm."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None
        if self._client is not None:
            self._client.close()
            self._client = None


def error_code(error: Any) -> str:
    """The code of one of boto3's errors, or of ours that was made of it."""
    if isinstance(error, PenstockError):
        return str(error.facts.get("code", ""))
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
