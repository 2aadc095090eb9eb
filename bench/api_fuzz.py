"""Requests that are made up from the API's own description, right ones and wrong ones, by three
roles: all scopes, only ``ask``, and nobody.

    python bench/api_fuzz.py [--requests 100000]

Stores its figures in ``bench/results/api-fuzz.json``: no 5xx (but 503, which says when to come
back), nothing that takes longer than 10 s, no answer that the description does not have.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase, given
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from penstock.bench.report import Report
from penstock.database.embedded import EmbeddedPostgres
from penstock.keys import Scope, mint
from penstock.project import open_project
from penstock.settings import Settings

RESULTS = Path(__file__).parent / "results"
HANG_S = 10.0
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
ROLES: dict[str, frozenset[Scope]] = {
    "all": frozenset(Scope),
    "ask": frozenset({Scope.ASK}),
    "nobody": frozenset(),
}


def settings(database: str) -> Settings:
    return Settings.model_validate(
        {
            "project": "fuzz",
            "database": database,
            "server": {"port": 0},
            "knowledge": {"embedder": "constant", "reranker": "none"},
            "sources": {"notes": {"type": "push", "heartbeat": 0.2}},
        }
    )


def _settle(case: Any, mode: GenerationMode) -> None:
    """The role's own key, whatever was made up, and no long waits in what is right."""
    kept = (case.headers or {}).items()
    case.headers = {name: value for name, value in kept if name.lower() != "authorization"}
    if "wait" in (case.query or {}) and mode is GenerationMode.POSITIVE:
        case.query["wait"] = 0


def _told(case: Any) -> str:
    return f"{case.path_parameters} {case.query} {str(case.body)[:300]}"


def _judged(case: Any, response: Any) -> str:
    """What is wrong with an answer, if anything is."""
    if response.status_code == 503:  # it says when to come back
        return ""
    try:
        case.validate_response(response, checks=CHECKS)
    except (BaseExceptionGroup, schemathesis.errors.SchemathesisError) as error:
        return f"{error}"[:600]
    return ""


def fuzz(address: str, tokens: dict[str, str | None], requests: int) -> dict[str, Any]:
    """Ask so often; what is wrong, with an example of each kind."""
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    each = max(1, requests // (len(operations) * len(tokens) * 2))
    statuses: collections.Counter[int] = collections.Counter()
    wrong: dict[str, str] = {}
    slow = 0

    def trying(operation: Any, role: str, token: str | None, mode: GenerationMode) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}

        @hypothesis.settings(
            max_examples=each, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(operation.as_strategy(generation_mode=mode))
        def one(case: Any) -> None:
            nonlocal slow
            _settle(case, mode)
            began = time.monotonic()
            response = case.call(headers=headers, timeout=60)
            if time.monotonic() - began > HANG_S:
                slow += 1
                wrong.setdefault(f"slow: {role} {operation.label} {mode.value}", _told(case))
            statuses[response.status_code] += 1
            said = _judged(case, response)
            if said:
                kind = f"{role} {operation.label} {response.status_code}"
                wrong.setdefault(kind, said)

        one()

    for operation in operations:
        for role, token in tokens.items():
            for mode in GenerationMode:
                try:
                    trying(operation, role, token, mode)
                except hypothesis.errors.Unsatisfiable:
                    continue  # nothing wrong can be made of a route that takes nothing
                except schemathesis.errors.SchemathesisError as error:
                    kind = f"{role} {operation.label} {mode.value} {type(error).__name__}"
                    wrong.setdefault(kind, f"not tried: {error}"[:600])
    return {"statuses": dict(sorted(statuses.items())), "slow": slow, "wrong": wrong}


async def fuzzed(database: str, requests: int) -> dict[str, Any]:
    async with open_project(settings=settings(database)) as project, project.running():
        await project.caught_up(limit_s=60)
        tokens: dict[str, str | None] = {}
        for role, scopes in ROLES.items():
            tokens[role] = None
            if scopes:
                token, key = mint(role, scopes, project.clock.now())
                await project.keys().add(key)
                tokens[role] = token
        async with project.serving() as address:
            found: dict[str, Any] = {}
            work = threading.Thread(target=lambda: found.update(fuzz(address, tokens, requests)))
            work.start()
            await asyncio.to_thread(work.join)
            return found


async def main(requests: int) -> None:
    folder = Path(tempfile.mkdtemp(prefix="penstock-", dir="/tmp"))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder / "server")
    await postgres.start()
    try:
        found = await fuzzed(postgres.dsn("postgres"), requests)
    finally:
        await postgres.stop()
    report = Report("api-fuzz")
    statuses = found["statuses"]
    failed = sum(count for status, count in statuses.items() if status >= 500 and status != 503)
    for measure, value, limit in (
        ("requests", sum(statuses.values()), requests),
        ("5xx but 503", failed, 0),
        ("slower than 10 s", found["slow"], 0),
        ("outside the description", len(found["wrong"]), 0),
    ):
        report.results.append({"measure": measure, "value": value, "unit": "count", "limit": limit})
    told = {**report.to_dict(), "statuses": statuses, "wrong": found["wrong"]}
    written = json.dumps(told, indent=2) + "\n"
    (RESULTS / "api-fuzz.json").write_text(written, encoding="utf-8")
    print(written)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    asyncio.run(main(parser.parse_args().requests))
