"""``penstock profiles``: who is who, why, and what people decide about it."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.output import console, counted, moment, print_json, table

if TYPE_CHECKING:
    from penstock.operate.profiles import ProfileDesk
    from penstock.stores.base import StoredProfile

profiles = typer.Typer(
    no_args_is_help=True,
    help="Profiles: who is who, why, and what people decide. A profile is named by its id, "
    "by an identifier (email:ada@example.org, or the value alone) or by a record of it "
    "(SOURCE/TABLE/KEY).",
)
app.add_typer(profiles, name="profiles")

KindOption = Annotated[
    str | None, typer.Option("--kind", "-k", help="Which kind of profile, where there are several.")
]
ReasonOption = Annotated[
    str, typer.Option("--reason", "-r", help="Why: kept with the decision.", show_default=False)
]
ByOption = Annotated[
    str | None, typer.Option("--by", help="Who decides. Default: who is logged in.")
]
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000)]


def at_desk(file: Any, kind: str | None, work: Callable[[ProfileDesk], Awaitable[None]]) -> None:
    """Open the project and do some work on a kind of profile."""

    async def opened() -> None:
        from penstock.operate.profiles import desk
        from penstock.project import open_project

        async with open_project(file) as project:
            await work(desk(project, kind))

    run_async(opened())


@profiles.command("list")
def list_(
    limit: LimitOption = 20,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show how many profiles there are, and the largest: where too much was merged shows there.

    Example: penstock profiles list -n 5 --json
    """

    async def work(desk: ProfileDesk) -> None:
        async with desk.reading() as reading:
            totals, found = await reading.totals(), await reading.largest(limit)
        if json:
            shown = [profile._asdict() for profile in found]
            print_json({"kind": desk.kind, "totals": totals._asdict(), "profiles": shown})
            return
        names = sorted({name for profile in found for name in profile.traits})
        rows = [
            (p.id, p.records, *("; ".join(p.traits.get(name, [])) for name in names)) for p in found
        ]
        console.print(table(("id", "records", *names), rows))
        console.print(
            f"{counted(totals.profiles, 'profile')} of {counted(totals.records, 'record')}; "
            f"{counted(totals.merged, 'id')} merged into others; {totals.held} held for a person",
            style="dim",
        )

    at_desk(file, kind, work)


@profiles.command()
def show(
    profile: Annotated[str, typer.Argument(help="Its id, an identifier, or a record.")],
    purpose: Annotated[
        str | None,
        typer.Option("--purpose", help="Only what may be used for it: prompt, training, api."),
    ] = None,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show a profile: what is known, from which record and when; its records; its history.

    Example: penstock profiles show email:ada@example.org --purpose prompt --json
    """

    async def work(desk: ProfileDesk) -> None:
        found = await desk.one(profile)
        async with desk.reading() as reading:
            events = await reading.events(profiles=[found.id, found.asked])
        detailed = await desk.detailed(found, purpose)
        found = detailed.profile
        if json:
            told = {"events": [event._asdict() for event in events]}
            print_json({**_shown(found), **detailed.to_dict(), **told})
            return
        console.print(_title(found), style="bold", markup=False)
        rows = [
            (name, one.value, f"{one.source}/{one.table}/{one.key}", moment(one.at))
            for name, said in found.traits.items()
            for one in said
        ]
        console.print(table(("trait", "value", "from", "as of"), rows))
        if beside := detailed.beside():
            console.print(table(("beside", "value"), beside))
        if detailed.withheld:
            console.print(f"not for {purpose}: {', '.join(detailed.withheld)}", style="dim")
        console.print(
            table(
                ("record", "identifiers"),
                [
                    (f"{r.source}/{r.table}/{r.key}", ", ".join(r.identifiers))
                    for r in found.records
                ],
            )
        )
        for event in events:
            console.print(f"{moment(event.at)}  {_told(event)}", markup=False)

    at_desk(file, kind, work)


@profiles.command()
def find(
    value: Annotated[str, typer.Argument(help="An id, an identifier, a value or a record.")],
    limit: LimitOption = 20,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Find the profiles that bear a value, in whatever form it is written.

    Example: penstock profiles find "+49 (0)30 1234567"
    """

    async def work(desk: ProfileDesk) -> None:
        found = await desk.find(value, limit=limit)
        if json:
            print_json([_shown(profile) for profile in found])
            return
        for profile in found:
            console.print(_title(profile), markup=False)
        if not found:
            console.print(f"no {desk.kind} bears {value!r}", markup=False)

    at_desk(file, kind, work)


@profiles.command()
def explain(
    one: Annotated[str, typer.Argument(help="A profile or a record.")],
    other: Annotated[str | None, typer.Argument(help="Another.")] = None,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Say what ties two records, from one to the next; or why they are apart. With one profile:
    what ties all of its records.

    Example: penstock profiles explain crm/contacts/7 shop/orders/1001
    """

    async def work(desk: ProfileDesk) -> None:
        found = await desk.explain(one, other)
        if json:
            print_json(found.to_dict())
            return
        if other is not None:
            console.print(
                f"{one} and {other} are {'one' if found.together else 'two'}", markup=False
            )
        for left, right, by in found.ties:
            console.print(f"  {left} and {right}: {by}", markup=False)
        for left, right, by, because in found.refused:
            console.print(f"  refused: {left} and {right} by {by}: {because}", markup=False)
        for identifier, because in found.ignored:
            console.print(f"  ties nobody: {identifier}: {because}", markup=False)
        for number in found.overruled:
            console.print(f"  decision {number} is contradicted by a later one")
        if not (found.together or found.refused or found.ignored):
            console.print("  nothing ties them")

    at_desk(file, kind, work)


@profiles.command()
def merge(
    these: Annotated[list[str], typer.Argument(help="Profiles or records, two or more.")],
    reason: ReasonOption = "",
    by: ByOption = None,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Decide that these are one. It holds whatever other evidence says, also after a replay, until
    it is taken back or a later decision says otherwise.

    Example: penstock profiles merge customer-12 customer-45 --reason "called us"
    """

    async def work(desk: ProfileDesk) -> None:
        number = await desk.merge(these, by=_who(by), reason=reason)
        await _decided(desk, number, these[0], json=json)

    at_desk(file, kind, work)


@profiles.command()
def unmerge(
    these: Annotated[
        list[str],
        typer.Argument(help="Records of one profile, or an id that was merged into another."),
    ],
    reason: ReasonOption = "",
    by: ByOption = None,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Decide that these records are somebody else than the others of their profile.

    Example: penstock profiles unmerge customer-45 --reason "father and son"
    """

    async def work(desk: ProfileDesk) -> None:
        number = await desk.unmerge(these, by=_who(by), reason=reason)
        await _decided(desk, number, these[0], json=json)

    at_desk(file, kind, work)


@profiles.command()
def pin(
    profile: Annotated[str, typer.Argument(help="A profile.")],
    reason: ReasonOption = "",
    by: ByOption = None,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Decide that the records of a profile stay together and nobody else joins them.

    Example: penstock profiles pin customer-12 --reason "checked by hand"
    """

    async def work(desk: ProfileDesk) -> None:
        number = await desk.pin(profile, by=_who(by), reason=reason)
        await _decided(desk, number, profile, json=json)

    at_desk(file, kind, work)


@profiles.command()
def block(
    identifier: Annotated[str, typer.Argument(help="KIND:VALUE.")],
    reason: ReasonOption = "",
    by: ByOption = None,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Decide that an identifier says nothing: whom it tied is parted where nothing else ties them.

    Example: penstock profiles block phone:+493012345 --reason "the front desk"
    """

    async def work(desk: ProfileDesk) -> None:
        number, blocked = await desk.block(identifier, by=_who(by), reason=reason)
        if json:
            print_json({"decision": number, "identifier": str(blocked)})
        else:
            console.print(f"decision {number}: {blocked} ties nobody any more", markup=False)

    at_desk(file, kind, work)


@profiles.command()
def undo(
    decision: Annotated[int, typer.Argument(help="Its number.")],
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Take a decision back: what it was about is as other evidence says.

    Example: penstock profiles undo 3
    """

    async def work(desk: ProfileDesk) -> None:
        await desk.revoke(decision)
        if json:
            print_json({"decision": decision, "undone": True})
        else:
            console.print(f"decision {decision} is taken back")

    at_desk(file, kind, work)


@profiles.command()
def decisions(
    kind: KindOption = None, file: FileOption = DEFAULT_PATH, json: JsonOption = False
) -> None:
    """Show what people decided, and what of it they took back.

    Example: penstock profiles decisions
    """

    async def work(desk: ProfileDesk) -> None:
        async with desk.reading() as reading:
            found = await reading.decisions()
        if json:
            print_json(found)
            return
        rows = [
            (
                one["number"],
                one["verb"],
                one["identifier"] or counted(len(one["records"]), "record"),
                one["by"],
                moment(one["at"]),
                one["reason"] + (" (taken back)" if one["revoked_at"] else ""),
            )
            for one in found
        ]
        console.print(table(("number", "decision", "about", "by", "at", "reason"), rows))

    at_desk(file, kind, work)


@profiles.command()
def held(
    everything: Annotated[
        bool, typer.Option("--all", help="Also what limits and decisions keep apart.")
    ] = False,
    limit: LimitOption = 100,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show merges that wait for a person, since the profile would be very large.

    Example: penstock profiles held --all --json
    """

    async def work(desk: ProfileDesk) -> None:
        async with desk.reading() as reading:
            found = await reading.held(None if everything else "size", limit=limit)
        if json:
            print_json([one._asdict() for one in found])
            return
        rows = [
            (one.left_profile, one.right_profile, one.via, one.why, one.detail, moment(one.since))
            for one in found
        ]
        console.print(table(("one", "other", "tied by", "why", "detail", "since"), rows))

    at_desk(file, kind, work)


@profiles.command()
def events(
    after: Annotated[int, typer.Option("--after", help="Only behind this number.", min=0)] = 0,
    limit: LimitOption = 100,
    created: Annotated[bool, typer.Option(help="Also profiles that were made.")] = False,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show what happened to profiles, in order: merged, split, restored, moved, gone. Whoever reads
    on from the last number misses nothing.

    Example: penstock profiles events --after 120 --json
    """

    async def work(desk: ProfileDesk) -> None:
        async with desk.reading() as reading:
            found = await reading.events(after=after, created=created, limit=limit)
        if json:
            print_json([event._asdict() for event in found])
            return
        for event in found:
            console.print(f"{event.number}  {moment(event.at)}  {_told(event)}", markup=False)

    at_desk(file, kind, work)


def _who(by: str | None) -> str:
    return by or getpass.getuser()


async def _decided(desk: ProfileDesk, number: int, about: str, *, json: bool) -> None:
    found = await desk.find(about)
    if json:
        print_json({"decision": number, "profiles": [_shown(profile) for profile in found]})
        return
    console.print(f"decision {number} is kept; `penstock profiles undo {number}` takes it back")
    for profile in found:
        console.print(_title(profile), markup=False)


def _title(profile: StoredProfile) -> str:
    values = ", ".join(
        f"{name} {'; '.join(one.value for one in said)}" for name, said in profile.traits.items()
    )
    merged = f" (once {profile.asked})" if profile.asked != profile.id else ""
    return f"{profile.id}{merged}: {counted(len(profile.records), 'record')}; {values}"


def _shown(profile: StoredProfile) -> dict[str, Any]:
    return {
        "kind": profile.kind,
        "id": profile.id,
        "asked": profile.asked,
        "version": profile.version,
        "created_at": profile.created_at,
        "changed_at": profile.changed_at,
        "traits": {n: [one._asdict() for one in said] for n, said in profile.traits.items()},
        "identifiers": profile.identifiers,
        "records": [record._asdict() for record in profile.records],
    }


def _told(event: Any) -> str:
    other = {
        "merged": f" into {event.other}",
        "split": f" from {event.other}",
        "moved": f": records came from {event.other}",
    }.get(event.event, "")
    ties = "; ".join(
        f"{left} and {right}: {by}" for left, right, by in event.detail.get("ties", [])
    )
    causes = "; ".join(f"{key} {cause}" for key, cause in event.detail.get("causes", []))
    because = f" ({ties or causes})" if ties or causes else ""
    return f"{event.profile} {event.event}{other}{because}"
