"""Requests that are made up from the API's own description, right ones and wrong ones, each sent by
three roles: all scopes, only ``ask``, and nobody.

    python bench/api_fuzz.py [--requests 100000] [--makers 2] [--minutes 60]

The project has a live table, profiles and pushed documents, and half of what is made up names them
(a made-up name is never theirs). It runs in this process; those that make requests up are others,
each with several in flight. What is wrong is not shrunk: an example of each kind is stored as it
was sent. Stores its figures in ``bench/results/api-fuzz.json``: no 5xx (but 503, which says when to
come back), nothing that takes longer than 10 s, no answer that the description does not have.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import random
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from penstock.bench.report import Report
from penstock.bench.world import fill, scratch_folder
from penstock.config import parse_settings
from penstock.database.embedded import EmbeddedPostgres
from penstock.keys import Scope, mint
from penstock.project import Project, open_project
from penstock.serving.writing import Written

RESULT: Final = Path(__file__).parent / "results" / "api-fuzz.json"
HANG_S: Final = 10.0
ROUND: Final = 40
"""Cases of one kind that are made up before the next kind's turn."""
IN_FLIGHT: Final = 4
CHECKS: Final = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_schema_conformance,
]
ROLES: Final[dict[str, frozenset[Scope]]] = {
    "all": frozenset(Scope),
    "ask": frozenset({Scope.ASK}),
    "nobody": frozenset(),
}
SETTINGS: Final = """
project: fuzz
data: {folder}/data
server: {{port: 0}}
knowledge: {{embedder: constant, reranker: none}}
sources:
  notes: {{type: push, heartbeat: 200ms}}
  shop: {{type: postgres, dsn: '{dsn}', tables: {{accounts: {{searched: [name, city]}}}}}}
profiles:
  customer:
    identifiers: {{email: {{}}}}
    tables:
      shop.accounts: {{identifiers: {{email: email}}, traits: {{name: name, city: city}}}}
"""
NAMES: Final[dict[str, tuple[str, ...]]] = {
    "source": ("notes", "shop"),
    "key": ("a.md", "b/c.md", "gone.md"),
    "table": ("accounts",),
    "kind": ("customer",),
    "who": ("user7@example.org", "email:user8@example.org"),
    "store": ("notes", "shop"),
    "vector_store_id": ("notes", "shop"),
}


@dataclass
class Tally:
    """What came of the requests of one maker, or of all."""

    statuses: collections.Counter[str] = field(default_factory=collections.Counter)
    by_role: collections.Counter[str] = field(default_factory=collections.Counter)
    operations: collections.Counter[str] = field(default_factory=collections.Counter)
    cases: int = 0
    slow: int = 0
    slowest_s: float = 0.0
    wrong: dict[str, str] = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """All that were answered."""
        return sum(self.statuses.values())

    def to_dict(self) -> dict[str, Any]:
        """As a maker says it."""
        return {
            "statuses": dict(sorted(self.statuses.items())),
            "by_role": dict(self.by_role),
            "operations": dict(sorted(self.operations.items())),
            "cases": self.cases,
            "slow": self.slow,
            "slowest_s": round(self.slowest_s, 3),
            "wrong": self.wrong,
        }

    def add(self, told: dict[str, Any]) -> None:
        """Another maker's."""
        self.statuses.update(told["statuses"])
        self.by_role.update(told["by_role"])
        self.operations.update(told["operations"])
        self.cases += told["cases"]
        self.slow += told["slow"]
        self.slowest_s = max(self.slowest_s, told["slowest_s"])
        for kind, said in told["wrong"].items():
            self.wrong.setdefault(kind, said)


class Maker:
    """Makes requests up and sends them."""

    def __init__(self, address: str, tokens: dict[str, str | None], seed: int) -> None:
        self._address = address
        self._tokens = tokens
        self._chance = random.Random(seed)
        self._seed = seed
        self._threads = threading.local()
        self._counting = threading.Lock()
        self.tally = Tally()

    def run(self, count: int, until: float) -> None:
        """Rounds over all operations until there were so many requests, or it is so late."""
        schema = schemathesis.openapi.from_url(f"{self._address}/openapi.json")
        operations: list[Any] = [found.ok() for found in schema.get_all_operations()]  # type: ignore[union-attr]
        kinds = [(operation, mode) for operation in operations for mode in GenerationMode]
        with ThreadPoolExecutor(IN_FLIGHT) as pool:
            while self.tally.requests < count and time.time() < until:
                self._chance.shuffle(kinds)
                for operation, mode in kinds:
                    cases = self._made(operation, mode)
                    list(pool.map(self._send, cases))
                    if self.tally.requests >= count or time.time() >= until:
                        break
                print(json.dumps(self.tally.to_dict()), flush=True)

    def _made(self, operation: Any, mode: GenerationMode) -> list[Any]:
        cases: list[Any] = []
        self._seed += 1

        @hypothesis.seed(self._seed)
        @hypothesis.settings(
            max_examples=ROUND, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(operation.as_strategy(generation_mode=mode))
        def one(case: Any) -> None:
            cases.append(case)

        try:
            one()
        except hypothesis.errors.Unsatisfiable:
            pass  # nothing wrong can be made of a route that takes nothing
        except schemathesis.errors.SchemathesisError as error:
            kind = f"{operation.label} {mode.value} {type(error).__name__}"
            self.tally.wrong.setdefault(kind, f"not tried: {error}"[:600])
        for case in cases:
            self._settle(case, mode)
        return cases

    def _settle(self, case: Any, mode: GenerationMode) -> None:
        """The role's own key, whatever was made up; no long waits in what is right; and, one time
        in two, names of what there is."""
        kept = (case.headers or {}).items()
        case.headers = {name: value for name, value in kept if name.lower() != "authorization"}
        if "wait" in (case.query or {}) and mode is GenerationMode.POSITIVE:
            case.query["wait"] = 0
        for name in case.path_parameters or {}:
            if name in NAMES and self._chance.random() < 0.5:
                case.path_parameters[name] = self._chance.choice(NAMES[name])
        if isinstance(case.body, dict) and "source" in case.body and self._chance.random() < 0.5:
            case.body["source"] = self._chance.choice(NAMES["source"])

    def _send(self, case: Any) -> None:
        for role, token in self._tokens.items():
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            began = time.monotonic()
            try:
                response = case.call(headers=headers, timeout=60, session=self._session())
            except requests.RequestException as error:
                self._count(case, role, "no answer", time.monotonic() - began, repr(error))
                continue
            took = time.monotonic() - began
            self._count(case, role, str(response.status_code), took, _judged(case, response))
        with self._counting:
            self.tally.cases += 1

    def _session(self) -> requests.Session:
        if not hasattr(self._threads, "session"):
            self._threads.session = requests.Session()
        session: requests.Session = self._threads.session
        return session

    def _count(self, case: Any, role: str, status: str, took: float, wrong: str) -> None:
        label = case.operation.label
        with self._counting:
            tally = self.tally
            tally.statuses[status] += 1
            tally.by_role[role] += 1
            tally.operations[label] += 1
            tally.slowest_s = max(tally.slowest_s, took)
            if took > HANG_S:
                tally.slow += 1
                tally.wrong.setdefault(f"slow: {role} {label}", _told(case))
            if wrong:
                tally.wrong.setdefault(f"{role} {label} {status}", f"{wrong}\n{_told(case)}")


def _told(case: Any) -> str:
    return f"{case.path_parameters} {case.query} {case.headers} {str(case.body)[:600]}"[:1500]


def _judged(case: Any, response: Any) -> str:
    """What is wrong with an answer, if anything is."""
    if response.status_code == 503:  # it says when to come back
        return "" if "retry-after" in response.headers else "503 without Retry-After"
    try:
        case.validate_response(response, checks=CHECKS)
    except (BaseExceptionGroup, schemathesis.errors.SchemathesisError) as error:
        return f"{error}"[:600]
    return ""


# ------------------------------------------------------------------ the project


@asynccontextmanager
async def project() -> AsyncIterator[Project]:
    """One with something of each kind in it, running."""
    with scratch_folder() as folder:
        server = EmbeddedPostgres(folder / "source")
        dsn = await server.start()
        try:
            await fill(dsn, 200)
            text = SETTINGS.format(folder=folder, dsn=dsn)
            settings = parse_settings(text, file=folder / "penstock.yaml", environment={})
            async with open_project(settings=settings) as opened, opened.running():
                await opened.caught_up(limit_s=120)
                written = [Written(key, b"# Luggage\n\nOne bag.") for key in NAMES["key"][:2]]
                await opened.services().writer.write("notes", written, once=None, wait_s=30)
                yield opened
        finally:
            await server.stop()


async def _keys(opened: Project) -> dict[str, str | None]:
    tokens: dict[str, str | None] = {}
    for role, scopes in ROLES.items():
        tokens[role] = None
        if scopes:
            token, key = mint(role, scopes, opened.clock.now())
            await opened.keys().add(key)
            tokens[role] = token
    return tokens


async def _made(given: Iterable[str], told: dict[int, dict[str, Any]], seed: int) -> None:
    """One maker; the last that it said counts."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, "--maker", *given, "--seed", str(seed)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=16_000_000,
    )
    assert process.stdout is not None
    async for line in process.stdout:
        if line.startswith(b"{"):
            told[seed] = json.loads(line)
            print(seed, sum(told[seed]["statuses"].values()), list(told[seed]["wrong"]), flush=True)
    if await process.wait():
        raise RuntimeError(f"expected the maker {seed} to end well, got {process.returncode}")


async def fuzzed(count: int, makers: int, minutes: float) -> Tally:
    """All of it."""
    tally = Tally()
    told: dict[int, dict[str, Any]] = {}
    async with project() as opened, opened.serving() as address:
        tokens = json.dumps(await _keys(opened))
        until = str(time.time() + minutes * 60)
        given = (address, tokens, str(-(-count // makers)), until)
        seeds = [random.randrange(1 << 30) for _ in range(makers)]
        await asyncio.gather(*(_made(given, told, seed) for seed in seeds))
    for each in told.values():
        tally.add(each)
    return tally


def store(tally: Tally, count: int) -> None:
    """What came of it, beside what was wanted."""
    report = Report("api-fuzz")
    failed = sum(
        many for status, many in tally.statuses.items() if status >= "5" and status != "503"
    )
    for measure, value, limit in (
        ("requests", tally.requests, count),
        ("made up", tally.cases, None),
        ("5xx but 503, or no answer", failed, 0),
        ("503", tally.statuses["503"], 0),
        ("slower than 10 s", tally.slow, 0),
        ("kinds outside the description", len(tally.wrong), 0),
    ):
        report.results.append({"measure": measure, "value": value, "unit": "count", "limit": limit})
    report.add("slowest", tally.slowest_s, "s", HANG_S)
    written = json.dumps({**report.to_dict(), **tally.to_dict()}, indent=2) + "\n"
    RESULT.write_text(written, encoding="utf-8")
    print(written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--makers", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--maker", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.maker:
        address, tokens, count, until = given.maker
        Maker(address, json.loads(tokens), given.seed).run(int(count), float(until))
        return
    store(asyncio.run(fuzzed(given.requests, given.makers, given.minutes)), given.requests)


if __name__ == "__main__":
    main()
