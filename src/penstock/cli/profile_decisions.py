"""``penstock profiles``: what people decide about who is who."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING, Annotated

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption
from penstock.cli.output import console, counted, moment, print_json, table
from penstock.cli.profiles import KindOption, LimitOption, as_json, at_desk, profiles, title

if TYPE_CHECKING:
    from penstock.operate.profiles import ProfileDesk

ReasonOption = Annotated[
    str, typer.Option("--reason", "-r", help="Why: kept with the decision.", show_default=False)
]
ByOption = Annotated[
    str | None, typer.Option("--by", help="Who decides. Default: who is logged in.")
]


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
        number = await desk.merge(these, by=who(by), reason=reason)
        await decided(desk, number, these[0], json=json)

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
        number = await desk.unmerge(these, by=who(by), reason=reason)
        await decided(desk, number, these[0], json=json)

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
        number = await desk.pin(profile, by=who(by), reason=reason)
        await decided(desk, number, profile, json=json)

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
        number, blocked = await desk.block(identifier, by=who(by), reason=reason)
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


def who(by: str | None) -> str:
    """Who decides."""
    return by or getpass.getuser()


async def decided(desk: ProfileDesk, number: int, about: str, *, json: bool) -> None:
    """Say what was decided, and the profiles that it is about as they are now."""
    found = await desk.find(about)
    if json:
        print_json({"decision": number, "profiles": [as_json(profile) for profile in found]})
        return
    console.print(f"decision {number} is kept; `penstock profiles undo {number}` takes it back")
    for profile in found:
        console.print(title(profile), markup=False)
