"""``penstock profiles``: who is who, why, and what people decide about it."""

from __future__ import annotations

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
LimitOption = Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000)]


def at_desk(file: Any, kind: str | None, work: Callable[[ProfileDesk], Awaitable[None]]) -> None:
    """Open the project and do something with a kind of its profiles."""

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
            print_json({**as_json(found), **detailed.to_dict(), **told})
            return
        console.print(title(found), style="bold", markup=False)
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
            print_json([as_json(profile) for profile in found])
            return
        for profile in found:
            console.print(title(profile), markup=False)
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


def title(profile: StoredProfile) -> str:
    """A profile in one line."""
    values = ", ".join(
        f"{name} {'; '.join(one.value for one in said)}" for name, said in profile.traits.items()
    )
    merged = f" (once {profile.asked})" if profile.asked != profile.id else ""
    return f"{profile.id}{merged}: {counted(len(profile.records), 'record')}; {values}"


def as_json(profile: StoredProfile) -> dict[str, Any]:
    """A profile as JSON shows it."""
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
        "means": f" {event.other or 'nobody'}",
    }.get(event.event, "")
    ties = "; ".join(
        f"{left} and {right}: {by}" for left, right, by in event.detail.get("ties", [])
    )
    causes = "; ".join(f"{key} {cause}" for key, cause in event.detail.get("causes", []))
    because = f" ({ties or causes})" if ties or causes else ""
    return f"{event.profile} {event.event}{other}{because}"
