"""OpenLineage: what is said, when, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import attr
import pytest
from openlineage.client import event_v2, facet_v2

from penstock.errors import BadRecordError, UnavailableError
from penstock.operate.lineage.events import Job, Run, Voice, run_id
from penstock.operate.lineage.jobs import Lineage, LiveTable
from penstock.operate.lineage.sending import Event, FileDestination, Sender
from penstock.operate.lineage.watching import Watch
from penstock.records import Microseconds
from penstock.settings import Settings
from penstock.telemetry import Meters
from penstock.testing.clock import ManualClock

VOICE = Voice("penstock", "1.2.3")
PEOPLE = LiveTable(
    "crm",
    "public.people",
    "crm",
    "people",
    (("id", "integer"), ("email", "text"), ("name", "text")),
)
FACETS: Mapping[str, Any] = {
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "columnLineage": facet_v2.column_lineage_dataset.ColumnLineageDatasetFacet,
    "dataSource": facet_v2.datasource_dataset.DatasourceDatasetFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "parent": facet_v2.parent_run.ParentRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
}


def settings(**more: Any) -> Settings:
    return Settings.model_validate(
        {
            "project": "shop",
            "sources": {
                "crm": {
                    "type": "postgres",
                    "dsn": "postgresql://reader:secret@db.example.org:5433/sales",
                    "tables": {"people": {"searched": ["name"]}},
                },
                "handbook": {"type": "files", "path": "/srv/handbook"},
                "bucket": {"type": "objects", "bucket": "papers", "prefix": "hr/"},
                "events": {"type": "kafka", "servers": "k1:9092,k2:9092", "topics": ["a"],
                           "tables": {"t": {"key": ["id"]}}},
            },
            "profiles": {
                "customer": {
                    "tables": {
                        "crm.people": {
                            "identifiers": {"email": "email"},
                            "traits": {"name": "{name} ({id})"},
                        }
                    }
                }
            },
            "publish": {"out": {"type": "kafka", "servers": "k1:9092"}},
            **more,
        }
    )  # fmt: skip


# ---------------------------------------------------------------------- the specification


def official(event: Event) -> None:
    """Whether OpenLineage's own client knows everything that an event has, by its own types."""
    assert isinstance(event_v2.RunState(event["eventType"]), event_v2.RunState)
    assert datetime.fromisoformat(event["eventTime"]).tzinfo is not None
    made = event_v2.RunEvent(
        eventTime=event["eventTime"],
        run=event_v2.Run(event["run"]["runId"]),
        job=event_v2.Job(event["job"]["namespace"], event["job"]["name"]),
        eventType=event_v2.RunState(event["eventType"]),
        producer=event["producer"],
    )
    assert made.schemaURL == event["schemaURL"]
    known = {field.name for field in attr.fields(event_v2.RunEvent)}
    assert set(event) <= known
    groups = [event["run"]["facets"], event["job"]["facets"]]
    groups += [dataset["facets"] for dataset in (*event["inputs"], *event["outputs"])]
    for group in groups:
        for name, facet in group.items():
            if name.startswith("penstock_"):
                assert facet["_schemaURL"].startswith("urn:penstock:facet:")
            else:
                same(FACETS[name], facet)


def same(kind: Any, facet: Mapping[str, Any]) -> None:
    """Whether a facet has nothing that its type has not, and all that this needs."""
    said = {name: value for name, value in facet.items() if not name.startswith("_")}
    made = kind(**said)
    assert facet["_schemaURL"] == made._get_schema()
    known = {field.name for field in attr.fields(kind)}
    assert set(said) <= known


def watched(*, every_s: float = 60.0) -> tuple[Watch, Meters, list[Event], ManualClock]:
    said: list[Event] = []
    clock = ManualClock()
    meters = Meters()

    class Said(Sender):
        def say(self, event: Event) -> None:
            said.append(event)

    class Nowhere:
        async def send(self, events: Sequence[Event]) -> int:
            return len(events)

        async def close(self) -> None:
            pass

    async def tables() -> Sequence[LiveTable]:
        return [PEOPLE]

    watch = Watch(
        meters,
        Lineage(settings()),
        VOICE,
        Said(Nowhere(), clock, most=10),
        clock,
        worker="here:1",
        tables=tables,
        every_s=every_s,
    )
    return watch, meters, said, clock


def told(said: Sequence[Event]) -> list[str]:
    return [f"{event['eventType']} {event['job']['name']}" for event in said]


async def test_all_that_is_said_is_of_the_specification() -> None:
    """Of every kind of job, event and dataset."""
    watch, meters, said, clock = watched()
    async with watch.block():
        for name in settings().sources:
            meters.source(name).state = "running"
        for pipeline in ("tables", "knowledge", "profiles", "publish_out"):
            meters.pipeline(pipeline, "crm").state = "running"
        meters.pipeline("knowledge", "handbook.bulk").state = "running"
        await watch.look()
        clock.advance(70)
        meters.source("crm").changes = 5
        meters.source("bucket").state = "failed"
        await watch.look()
    assert {event["eventType"] for event in said} == {"START", "RUNNING", "FAIL", "COMPLETE"}
    for event in said:
        official(json.loads(json.dumps(event)))


async def test_datasets_have_the_names_that_other_tools_give_them() -> None:
    """And tell neither users nor passwords."""
    lineage = Lineage(settings(database="postgresql://p:secret@db.example.org/penstock"))
    jobs = [lineage.source(name, [PEOPLE]) for name in settings().sources]
    jobs += [lineage.pipeline(n, "crm", [PEOPLE]) for n in ("tables", "profiles", "publish_out")]
    named = {
        job.name: [f"{d.namespace} {d.name}" for d in (*job.inputs, *job.outputs)] for job in jobs
    }
    own = "postgres://db.example.org:5432 penstock"
    assert named == {
        "shop.source.crm": [
            "postgres://db.example.org:5433 sales.public.people", f"{own}.penstock.log.crm",
        ],
        "shop.source.handbook": [
            "file /srv/handbook",
            f"{own}.penstock.log.handbook",
            f"{own}.penstock.log.handbook.bulk",
        ],
        "shop.source.bucket": [
            "s3://papers hr/", f"{own}.penstock.log.bucket", f"{own}.penstock.log.bucket.bulk",
        ],
        "shop.source.events": ["kafka://k1:9092 public.t", f"{own}.penstock.log.events"],
        "shop.tables.crm": [f"{own}.penstock.log.crm", f"{own}.crm.people"],
        "shop.profiles.crm": [f"{own}.penstock.log.crm", f"{own}.penstock.profiles.customer"],
        "shop.publish_out.crm": [
            f"{own}.penstock.log.crm", "kafka://k1:9092 shop.public.people",
        ],
    }  # fmt: skip
    assert "secret" not in str(jobs)
    assert "reader" not in str(jobs)


async def test_columns_say_what_they_are_made_of() -> None:
    """Live columns are the source's, a trait is made of columns, searched text as well."""
    lineage = Lineage(settings())
    [table] = lineage.pipeline("tables", "crm", [PEOPLE]).outputs
    [email] = table.made_of["email"]
    assert (email.dataset.name, email.column, email.changed) == (
        "sales.public.people", "email", False,
    )  # fmt: skip
    [profile] = lineage.pipeline("profiles", "crm", [PEOPLE]).outputs
    assert [(one.column, one.changed) for one in profile.made_of["name"]] == [
        ("name", True), ("id", True),
    ]  # fmt: skip
    [text] = lineage.pipeline("knowledge", "crm", [PEOPLE]).outputs
    assert [one.column for one in text.made_of["text"]] == ["name"]


def test_run_ids_are_of_version_7_and_stay() -> None:
    """The same run has one, another process and another moment have others."""
    one = run_id("shop.source.crm", "here:1", at=Microseconds(1_700_000_000_000_000))
    assert one == run_id("shop.source.crm", "here:1", at=Microseconds(1_700_000_000_000_000))
    assert one[14] == "7"
    assert one[19] in "89ab"
    assert one != run_id("shop.source.crm", "here:2", at=Microseconds(1_700_000_000_000_000))
    assert one < run_id("a", "b", at=Microseconds(1_700_000_000_001_000))


# ---------------------------------------------------------------------- when it is said


async def test_a_run_begins_goes_on_and_ends() -> None:
    """One run id from START to COMPLETE; RUNNING when there is something new, now and then."""
    watch, meters, said, clock = watched()
    async with watch.block():
        crm = meters.source("crm")
        await watch.look()
        assert told(said) == ["START shop"]
        crm.state = "running"
        await watch.look()
        crm.changes = 7
        await watch.look()
        assert told(said)[1:] == ["START shop.source.crm"]
        clock.advance(61)
        await watch.look()
        clock.advance(61)
        await watch.look()
        assert told(said)[2:] == ["RUNNING shop.source.crm"]
        crm.changes = 9
    assert told(said)[3:] == ["COMPLETE shop.source.crm", "COMPLETE shop"]
    ids = {event["run"]["runId"] for event in said if event["job"]["name"] != "shop"}
    assert len(ids) == 1
    assert said[-2]["run"]["facets"]["penstock_progress"]["changes"] == 9
    parent = said[1]["run"]["facets"]["parent"]
    assert parent["run"]["runId"] == said[0]["run"]["runId"]


async def test_what_fails_fails_once_and_begins_anew() -> None:
    """With its reason; a restart of it is another run."""
    watch, meters, said, _ = watched()
    async with watch.block():
        crm = meters.source("crm")
        crm.state, crm.last_error = "failed", "expected a slot, there is none: make one"
        await watch.look()
        await watch.look()
        crm.state = "running"
        await watch.look()
    assert told(said)[1:-1] == [
        "START shop.source.crm", "FAIL shop.source.crm",
        "START shop.source.crm", "COMPLETE shop.source.crm",
    ]  # fmt: skip
    assert said[2]["run"]["facets"]["errorMessage"]["message"].startswith("expected a slot")
    assert said[1]["run"]["runId"] == said[2]["run"]["runId"] != said[3]["run"]["runId"]


async def test_what_another_worker_takes_over_is_complete_here() -> None:
    """Its meter is gone from this process."""
    watch, meters, said, _ = watched()
    async with watch.block():
        meters.source("crm").state = "running"
        await watch.look()
        del meters.sources["crm"]
        await watch.look()
        assert told(said)[-1] == "COMPLETE shop.source.crm"


async def test_a_block_that_breaks_off_says_so() -> None:
    """What went on is aborted, the whole has failed."""
    watch, meters, said, _ = watched()

    async def broken() -> None:
        async with watch.block():
            meters.source("crm").state = "running"
            await watch.look()
            raise UnavailableError("gone")

    with pytest.raises(UnavailableError):
        await broken()
    assert told(said)[-2:] == ["ABORT shop.source.crm", "FAIL shop"]


# ---------------------------------------------------------------------- how it is sent


class Destination:
    """Takes what comes unless it is away; ``refused`` are jobs that it does not like."""

    def __init__(self) -> None:
        self.away = True
        self.refused: set[str] = set()
        self.taken: list[Event] = []
        self.tries = 0
        self.changed = asyncio.Condition()

    async def send(self, events: Sequence[Event]) -> int:
        async with self.changed:
            self.tries += 1
            self.changed.notify_all()
        if self.away:
            raise UnavailableError("expected it to be there")
        if events[0]["job"]["name"] in self.refused:
            raise BadRecordError("expected something else")
        self.taken.append(events[0])
        async with self.changed:
            self.changed.notify_all()
        return 1

    async def close(self) -> None:
        pass


def event(kind: Any, name: str) -> Event:
    job = Job(name, "SOURCE")
    return VOICE.event(kind, Run(run_id(name, at=Microseconds(1)), job), Microseconds(1))


@asynccontextmanager
async def sending(most: int = 10) -> AsyncIterator[tuple[Sender, Destination, ManualClock]]:
    clock = ManualClock()
    destination = Destination()
    sender = Sender(destination, clock, most=most)
    sender.start()
    yield sender, destination, clock
    await sender.close()


async def test_g12_a_destination_that_is_away_costs_nobody_anything() -> None:
    """Saying is done at once; so much waits, what matters least goes first, the rest comes in
    order when it is back."""
    async with sending(most=10) as (sender, destination, clock):
        sender.say(event("START", "a"))
        for _ in range(50):
            sender.say(event("RUNNING", "a"))
        sender.say(event("COMPLETE", "a"))
        async with destination.changed:
            await destination.changed.wait_for(lambda: destination.tries >= 1)
        assert sender.dropped == 42
        destination.away = False
        while not clock.sleeping:
            await asyncio.sleep(0)
        clock.advance(1)
        async with destination.changed:
            await destination.changed.wait_for(lambda: len(destination.taken) == 10)
    kinds = [taken["eventType"] for taken in destination.taken]
    assert kinds == ["START", *["RUNNING"] * 8, "COMPLETE"]


async def test_g13_an_event_that_is_refused_does_not_hold_the_others_up() -> None:
    """It is left out and counted."""
    async with sending() as (sender, destination, _):
        destination.away = False
        destination.refused = {"bad"}
        for name in ("good", "bad", "better"):
            sender.say(event("START", name))
        async with destination.changed:
            await destination.changed.wait_for(lambda: len(destination.taken) == 2)
        assert sender.dropped == 1
    assert [taken["job"]["name"] for taken in destination.taken] == ["good", "better"]


async def test_a_file_gets_a_line_for_each(tmp_path: Path) -> None:
    """At its end, whoever else writes there."""
    place = tmp_path / "made" / "lineage.ndjson"
    one, other = FileDestination(place), FileDestination(place)
    await one.send([event("START", "a"), event("RUNNING", "a")])
    await other.send([event("START", "b")])
    assert [json.loads(line)["job"]["name"] for line in place.read_text().splitlines()] == [
        "a", "a", "b",
    ]  # fmt: skip


async def test_a_folder_that_cannot_be_written_is_said_in_a_sentence(tmp_path: Path) -> None:
    """And tried again."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="expected to write to"):
        await FileDestination(tmp_path / "file" / "lineage.ndjson").send([event("START", "a")])
