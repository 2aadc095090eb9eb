"""Why somebody may see a document, or may not; and what `penstock check` says of permissions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.errors import ConfigError
from penstock.principals import EVERYONE, Principal
from penstock.records import Microseconds
from penstock.serving.values import iso
from penstock.sources.base import Finding
from penstock.stores.postgres.explaining import (
    Looking,
    Overview,
    Step,
    StoredDocument,
    StoredEntry,
    looking,
)

if TYPE_CHECKING:
    from penstock.project import Project


@dataclass(frozen=True, slots=True)
class Ground:
    """One thing that decides: ``name`` stands in what ``entry`` says about ``place``, and the one
    who asks has that name ``through`` these memberships (none: by itself)."""

    name: str
    entry: str
    place: str
    source: str
    stream: str
    since: Microseconds
    through: Sequence[Step] = ()

    def sentence(self) -> str:
        """It in words."""
        where = (
            f"{self.entry} of {self.source}"
            if self.stream == ""
            else (f"row {self.entry} of {self.source}: {self.stream}")
        )
        about = f"about {self.place!r}" if self.place else "about everything"
        said = f"{self.name} stands in {where} ({about}, since {iso(self.since)})"
        if not self.through:
            return said
        steps = ", ".join(
            f"{step.member} is in {step.group} by {step.source}: {step.stream} since "
            f"{iso(step.committed_at)}"
            for step in self.through
        )
        return f"{said}; {steps}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        return {
            "name": self.name,
            "entry": self.entry,
            "place": self.place,
            "source": self.source,
            "stream": self.stream or None,
            "since": iso(self.since),
            "through": [
                {
                    "member": step.member,
                    "group": step.group,
                    "source": step.source,
                    "stream": step.stream,
                    "since": iso(step.committed_at),
                }
                for step in self.through
            ],
        }


@dataclass(frozen=True, slots=True)
class Explanation:
    """Whether, and why."""

    principal: Principal
    document: StoredDocument
    permitted: bool
    reason: str
    allowed_by: Sequence[Ground] = ()
    denied_by: Sequence[Ground] = ()
    problems: Sequence[str] = ()
    hints: Sequence[str] = field(default_factory=tuple)

    def to_dict(self) -> dict[str, Any]:
        """As JSON shows it."""
        rule = self.document.rule
        return {
            "user": self.principal.user,
            "groups": list(self.principal.groups),
            "source": self.document.source,
            "document": self.document.key,
            "permitted": self.permitted,
            "reason": self.reason,
            "rule": None if rule is None else rule["kind"],
            "allow": list(self.document.allow),
            "deny": list(self.document.deny),
            "allowed_by": [ground.to_dict() for ground in self.allowed_by],
            "denied_by": [ground.to_dict() for ground in self.denied_by],
            "problems": list(self.problems),
            "hints": list(self.hints),
        }


async def explain(
    project: Project, principal: Principal, key: str, *, source: str | None = None
) -> Explanation:
    """Why the one who asks may see a document, or may not. Raises `ConfigError` when there is no
    such document, or more than one."""
    async with looking(project.pool, tenant=project.settings.tenant) as look:
        document = await _document(look, key, source)
        ways = await look.ways([EVERYONE, *principal.names])
        allowed = [name for name in document.allow if name in ways]
        denied = [name for name in document.deny if name in ways]
        entries = await _entries(look, document)
        problems = _problems(entries)
        return Explanation(
            principal,
            document,
            permitted=bool(allowed) and not denied,
            reason=_reason(document, allowed, denied, problems),
            allowed_by=_grounds(entries, ways, "allow", allowed),
            denied_by=_grounds(entries, ways, "deny", denied),
            problems=problems,
            hints=_hints(document, ways),
        )


async def _document(look: Looking, key: str, source: str | None) -> StoredDocument:
    found = await look.documents(key, source)
    if len(found) > 1:
        sources = ", ".join(document.source for document in found)
        raise ConfigError(
            f"expected one document {key!r}, found one in each of {sources}: say which with "
            "--source"
        )
    if not found:
        near = await look.near_keys(key, source)
        hint = (
            f"did you mean {', '.join(map(repr, near))}?"
            if near
            else ("a document's name is its path below the source's folder, a row's TABLE/KEY")
        )
        where = f" in {source!r}" if source else ""
        raise ConfigError(f"expected a document that is stored, found no {key!r}{where}: {hint}")
    return found[0]


async def _entries(look: Looking, document: StoredDocument) -> list[StoredEntry]:
    """What says who may see it; of a row, its own columns."""
    rule = document.rule
    if rule is not None and rule["kind"] == "entries":
        return await look.entries(document.source, document.key)
    entry = "the project file"
    if rule is not None and rule["kind"] == "columns":
        entry = "its columns"
    return [
        StoredEntry(
            entry,
            document.key,
            0,
            document.source,
            "",
            document.allow,
            document.deny,
            None,
            document.committed_at,
        )
    ]


def _problems(entries: Sequence[StoredEntry]) -> list[str]:
    found = [f"{e.entry} (about {e.place!r}): {e.problem}" for e in entries if e.problem]
    files: dict[str, str] = {}
    for entry in entries:
        if entry.stream == "" and entry.entry != "settings":
            if entry.place in files:
                found.append(
                    f"{files[entry.place]} and {entry.entry} are both about {entry.place!r}: "
                    "remove one"
                )
            files[entry.place] = entry.entry
    return found


def _reason(
    document: StoredDocument, allowed: Sequence[str], denied: Sequence[str], problems: Sequence[str]
) -> str:
    kind = None if document.rule is None else document.rule["kind"]
    if kind in (None, "open") and allowed and not denied:
        said = "says that it is open" if kind else "declares no permissions"
        return f"yes: everybody may see it, the project file {said}"
    if kind == "closed":
        return (
            f"no: nobody may see it, the project file says nothing of {document.source!r} or "
            "closes it"
        )
    if problems:
        return "no: a list that cannot be used closes it for everybody"
    if denied:
        return f"no: {', '.join(denied)} may not, and a denial beats every permission"
    if allowed:
        return f"yes: {', '.join(allowed)} may"
    if not document.allow:
        return "no: nothing says who may see it"
    return f"no: only {', '.join(document.allow)} may"


def _grounds(
    entries: Sequence[StoredEntry],
    ways: Mapping[str, Sequence[Step]],
    of: str,
    names: Sequence[str],
) -> list[Ground]:
    """Where these names stand. Of permissions, only the nearest place counts."""
    found: list[Ground] = []
    allowing = [entry.distance for entry in entries if entry.allow is not None]
    for entry in entries:
        listed = entry.deny if of == "deny" else entry.allow or ()
        if of == "allow" and entry.distance != min(allowing, default=0):
            continue
        said = (entry.entry, entry.place, entry.origin, entry.stream, entry.committed_at)
        found += [Ground(n, *said, ways[n]) for n in sorted(set(listed) & set(names))]
    return found


def _hints(document: StoredDocument, ways: Mapping[str, Sequence[Step]]) -> list[str]:
    """Names that differ from those asked for by their case alone: they are others."""
    folded = {name.casefold(): name for name in ways}
    return [
        f"{name} is another than {folded[name.casefold()]}: names are compared exactly"
        for name in (*document.allow, *document.deny)
        if name not in ways and name.casefold() in folded
    ]


# --------------------------------------------------------------------------- the whole


async def overview(project: Project) -> Overview:
    """How the documents of each source are permitted, and what is wrong."""
    async with looking(project.pool, tenant=project.settings.tenant) as look:
        return await look.overview()


def findings(found: Overview) -> list[Finding]:
    """What `penstock check` says of it."""
    said = [
        Finding(
            f"permissions {part.source}",
            "warning",
            f"{part.nobody:,} of {part.documents:,} documents can be seen by nobody, such as "
            f"{part.hidden!r}",
            f"penstock acl explain USER {part.hidden!r} --source {part.source} says why",
        )
        for part in found.sources
        if part.nobody
    ]
    said += [
        Finding(
            f"permissions {source}",
            "error",
            f"{entry} closes {place or 'everything'!r} and all below: {problem}",
            "mend the list",
        )
        for source, place, entry, problem in found.problems
    ]
    if found.unknown_groups:
        some = ", ".join(found.unknown_groups[:5])
        said.append(
            Finding(
                "permissions groups",
                "warning",
                f"{len(found.unknown_groups)} groups are named in lists and have no member in the "
                f"tables of groups: {some}",
                "correct their names, unless the application vouches for them",
            )
        )
    folded: dict[str, str] = {}
    for name in found.names:
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            said.append(
                Finding(
                    "permissions names",
                    "warning",
                    f"{other} and {name} differ by case alone, and are two",
                    "write one of them everywhere if they are meant to be one",
                )
            )
    if not said:
        said.append(Finding("permissions", "ok", "every document can be seen by somebody"))
    return said
