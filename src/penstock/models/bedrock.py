"""Embedders on Amazon Bedrock: the shapes of Titan and of Cohere.

Requests are signed by botocore and sent by our own client, whose limits on time and size hold for
an answer that drips as well. Credentials are found as Amazon's tools find them (environment, files,
the machine's role) and never kept here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson

from penstock.errors import ConfigError, MissingExtraError, UnavailableError
from penstock.models.base import Role
from penstock.models.cohere import INPUT_TYPES, MOST_TEXTS, read_embeddings
from penstock.models.endpoint import Endpoint, embeddings_endpoint, malformed
from penstock.models.remote import NO_CARE, Answered, Care, RemoteEmbedder, Shape

_SERVICE: Final = "bedrock"
_SHORTENING: Final = "titan-embed-text-v2"


class TitanService:
    """One text a request: ``{"inputText": ...}``."""

    def __init__(self, endpoint: Endpoint, model: str, *, dimensions: int) -> None:
        self._endpoint = endpoint
        self._path = f"/model/{quote(model, safe='')}/invoke"
        self._fixed: dict[str, Any] = {}
        if _SHORTENING in model:
            self._fixed = {"dimensions": dimensions, "normalize": True}

    @property
    def url(self) -> str:
        return self._endpoint.url

    async def ask(self, texts: Sequence[str], role: Role) -> Answered:
        del role  # Titan knows no difference
        (text,) = texts
        answer = await self._endpoint.post(self._path, {"inputText": text, **self._fixed})
        if not isinstance(answer, dict) or not isinstance(answer.get("embedding"), list):
            came = self._endpoint.excerpt(orjson.dumps(answer))
            raise malformed(f"expected an embedding, got {came!r}")
        tokens = answer.get("inputTextTokenCount")
        return Answered([answer["embedding"]], None, tokens if type(tokens) is int else None)

    async def close(self) -> None:
        await self._endpoint.close()


class BedrockCohereService:
    """Up to 96 texts a request, with an ``input_type``."""

    def __init__(self, endpoint: Endpoint, model: str) -> None:
        self._endpoint = endpoint
        self._path = f"/model/{quote(model, safe='')}/invoke"

    @property
    def url(self) -> str:
        return self._endpoint.url

    async def ask(self, texts: Sequence[str], role: Role) -> Answered:
        body = {"texts": list(texts), "input_type": INPUT_TYPES[role], "truncate": "END"}
        return read_embeddings(await self._endpoint.post(self._path, body), self._endpoint)

    async def close(self) -> None:
        await self._endpoint.close()


class BedrockEmbedder(RemoteEmbedder):
    """Vectors from a model on Bedrock; its shape is told by its name (``cohere.`` or Titan's)."""

    def __init__(
        self,
        *,
        model: str,
        dimensions: int,
        region: str | None = None,
        base_url: str | None = None,
        profile: str | None = None,
        max_tokens: int | None = None,
        concurrency: int = 8,
        timeout_s: float = 60.0,
        gives: int | None = None,
        care: Care = NO_CARE,
    ) -> None:
        signer = Signer(region, profile)
        url = base_url or f"https://bedrock-runtime.{signer.region}.amazonaws.com"
        endpoint = embeddings_endpoint(url, "", timeout_s, concurrency, sign=signer.sign)
        cohere = "cohere." in model
        shape = Shape(
            f"bedrock/{model}/{dimensions}",
            dimensions,
            max_tokens or (500 if cohere else 8000),
            MOST_TEXTS if cohere else 1,
            concurrency,
            gives=gives,
        )
        service: TitanService | BedrockCohereService = (
            BedrockCohereService(endpoint, model)
            if cohere
            else TitanService(endpoint, model, dimensions=dimensions)
        )
        super().__init__(service, shape, care=care)


class Signer:
    """Signs requests with whatever credentials are good at the moment."""

    def __init__(self, region: str | None, profile: str | None) -> None:
        try:
            import boto3
            from botocore.exceptions import BotoCoreError
        except ImportError as error:
            raise MissingExtraError("Amazon Bedrock", "aws") from error
        try:
            self._session = boto3.session.Session(profile_name=profile, region_name=region)
        except BotoCoreError as error:
            raise ConfigError(f"expected a profile of Amazon's tools, got: {error}") from error
        if not self._session.region_name:
            raise ConfigError(
                "expected the region of Bedrock, found none: set region, or AWS_DEFAULT_REGION"
            )
        self.region: str = self._session.region_name

    async def sign(self, url: str, body: bytes) -> Mapping[str, str]:
        """The headers of Signature Version 4. Looking up credentials may read files or ask the
        machine's role: in a thread."""
        return await asyncio.to_thread(self._sign, url, body)

    def _sign(self, url: str, body: bytes) -> Mapping[str, str]:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError

        try:
            found = self._session.get_credentials()
            frozen = None if found is None else found.get_frozen_credentials()
        except BotoCoreError as error:
            raise UnavailableError(f"cannot get credentials for Bedrock: {error}") from error
        if frozen is None:
            raise ConfigError(
                "expected credentials for Bedrock, found none: set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or a profile"
            )
        request = AWSRequest("POST", url, {"content-type": "application/json"}, body)
        SigV4Auth(frozen, _SERVICE, self.region).add_auth(request)
        signed = ("authorization", "x-amz-date", "x-amz-security-token")
        return {name: value for name, value in request.headers.items() if name.lower() in signed}
