"""Events after the specification of OpenLineage (2-0-2), as JSON takes them. Pure."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from penstock.records import Microseconds
from penstock.serving.values import iso

EventType = Literal["START", "RUNNING", "COMPLETE", "ABORT", "FAIL"]

_SPEC: Final = "https://openlineage.io/spec"
_EVENT: Final = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_FACETS: Final[Mapping[str, str]] = {
    "schema": "1-2-0/SchemaDatasetFacet",
    "columnLineage": "1-2-0/ColumnLineageDatasetFacet",
    "dataSource": "1-0-1/DatasourceDatasetFacet",
    "jobType": "2-0-4/JobTypeJobFacet",
    "parent": "1-2-0/ParentRunFacet",
    "errorMessage": "1-0-1/ErrorMessageRunFacet",
    "processing_engine": "1-1-1/ProcessingEngineRunFacet",
}
_OWN: Final = "urn:penstock:facet"
"""Where the schemas of our own facets are: in our documentation."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A column that another is made of; ``changed``: not taken over as it is."""

    dataset: Dataset
    column: str
    changed: bool = False


@dataclass(frozen=True, slots=True)
class Dataset:
    """Something that is read or written. ``source`` and ``uri`` say where it is; ``columns`` are
    names and types; ``made_of`` says it of columns, by name."""

    namespace: str
    name: str
    source: str
    uri: str
    columns: Sequence[tuple[str, str]] = ()
    made_of: Mapping[str, Sequence[Origin]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A source, or a pipeline on the changes of one."""

    name: str
    kind: Literal["PROJECT", "SOURCE", "PIPELINE"]
    inputs: Sequence[Dataset] = ()
    outputs: Sequence[Dataset] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """One life of a job in one process."""

    id: str
    job: Job
    parent: Run | None = None


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks: the namespace of the jobs, and our version."""

    namespace: str
    version: str

    def event(
        self,
        kind: EventType,
        run: Run,
        at: Microseconds,
        *,
        progress: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> dict[str, Any]:
        """One event. ``progress`` is how far the run is; ``error`` why it failed."""
        facets: dict[str, Any] = {
            "processing_engine": self._facet(
                "processing_engine", name="Penstock", version=self.version
            )
        }
        if run.parent is not None:
            facets["parent"] = self._facet("parent", **self._parent(run.parent))
        if progress is not None:
            facets["penstock_progress"] = self._own("progress", **progress)
        if error is not None:
            facets["errorMessage"] = self._facet(
                "errorMessage", message=error, programmingLanguage="Python"
            )
        return {
            "eventType": kind,
            "eventTime": iso(at),
            "run": {"runId": run.id, "facets": facets},
            "job": self._job(run.job),
            "inputs": [self._dataset(dataset) for dataset in run.job.inputs],
            "outputs": [self._dataset(dataset) for dataset in run.job.outputs],
            "producer": self._producer,
            "schemaURL": _EVENT,
        }

    @property
    def _producer(self) -> str:
        return f"urn:penstock:{self.version}"

    def _facet(self, facet: str, /, **said: Any) -> dict[str, Any]:
        version, _, kind = _FACETS[facet].partition("/")
        url = f"{_SPEC}/facets/{version}/{kind}.json#/$defs/{kind}"
        return {"_producer": self._producer, "_schemaURL": url, **said}

    def _own(self, name: str, **said: Any) -> dict[str, Any]:
        return {"_producer": self._producer, "_schemaURL": f"{_OWN}:{name}:1-0-0", **said}

    def _parent(self, run: Run) -> dict[str, Any]:
        named = {
            "run": {"runId": run.id},
            "job": {"namespace": self.namespace, "name": run.job.name},
        }
        return {**named, "root": named}

    def _job(self, job: Job) -> dict[str, Any]:
        kind = self._facet(
            "jobType", processingType="STREAMING", integration="PENSTOCK", jobType=job.kind
        )
        return {"namespace": self.namespace, "name": job.name, "facets": {"jobType": kind}}

    def _dataset(self, dataset: Dataset) -> dict[str, Any]:
        facets = {"dataSource": self._facet("dataSource", name=dataset.source, uri=dataset.uri)}
        if dataset.columns:
            fields = [{"name": name, "type": kind} for name, kind in dataset.columns]
            facets["schema"] = self._facet("schema", fields=fields)
        if dataset.made_of:
            made = {name: _made_of(origins) for name, origins in dataset.made_of.items()}
            facets["columnLineage"] = self._facet("columnLineage", fields=made)
        return {"namespace": dataset.namespace, "name": dataset.name, "facets": facets}


def _made_of(origins: Sequence[Origin]) -> dict[str, Any]:
    return {
        "inputFields": [
            {
                "namespace": origin.dataset.namespace,
                "name": origin.dataset.name,
                "field": origin.column,
                "transformations": [
                    {
                        "type": "DIRECT",
                        "subtype": "TRANSFORMATION" if origin.changed else "IDENTITY",
                        "masking": False,
                    }
                ],
            }
            for origin in origins
        ]
    }


def run_id(*parts: str | int, at: Microseconds) -> str:
    """A UUID of version 7: when the run began, and a digest of what it is. The same run always has
    the same one."""
    digest = hashlib.sha256("\0".join(map(str, (*parts, at))).encode()).digest()
    value = (at // 1000 & (1 << 48) - 1) << 80 | int.from_bytes(digest[:10])
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
