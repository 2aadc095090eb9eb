"""``penstock profiles train`` and ``review``: who is one person although nothing is equal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, run_async
from penstock.cli.output import console, counted, moment, print_json, table
from penstock.cli.profile_decisions import ByOption, ReasonOption, decided, who
from penstock.cli.profiles import KindOption, LimitOption, at_desk, profiles
from penstock.errors import ConfigError

if TYPE_CHECKING:
    from penstock.operate.matching import Learned, MatchingDesk
    from penstock.operate.profiles import ProfileDesk

review = typer.Typer(
    invoke_without_command=True,
    help="Show pairs of records that might be one person, the likeliest first, with what each "
    "field says; `accept` and `reject` decide about one.",
)
profiles.add_typer(review, name="review")


def _at_matching(
    file: Any, kind: str | None, work: Callable[[MatchingDesk], Awaitable[None]]
) -> None:
    async def opened() -> None:
        from penstock.operate.matching import MatchingDesk
        from penstock.operate.profiles import desk
        from penstock.project import open_project

        async with open_project(file) as project:
            await work(MatchingDesk(project, desk(project, kind)))

    run_async(opened())


@profiles.command()
def train(
    kind: Annotated[
        str | None, typer.Argument(help="Which kind of profile, where there are several.")
    ] = None,
    link: Annotated[
        float | None, typer.Option(help="Bits from which on a match ties. Default: as learned.")
    ] = None,
    possible: Annotated[
        float | None,
        typer.Option(help="Bits from which on a match waits for a person. Default: as learned."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be learned, and keep nothing.")
    ] = False,
    anew: Annotated[
        bool, typer.Option("--anew", help="Do not go on with a training that was interrupted.")
    ] = False,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Go back to the model that was in use before.")
    ] = False,
    off: Annotated[
        bool, typer.Option("--off", help="End fuzzy matching: what only it tied is parted.")
    ] = False,
    by: ByOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Learn without labels, from the records that are there, what tells people apart; then compare
    all records by it, also those to come. The stream goes on meanwhile. Interrupted, it goes on
    when called again.

    Example: penstock profiles train customer --dry-run --json
    """
    if sum((dry_run, rollback, off)) > 1:
        raise ConfigError("expected one of --dry-run, --rollback and --off, got several")

    def tell(text: str) -> None:
        if not json:
            console.print(text, style="dim")

    async def work(matching: MatchingDesk) -> None:
        if off:
            settled = await matching.off()
            if json:
                print_json({"model": None, "records_settled": settled})
            else:
                console.print(f"fuzzy matching of {matching.kind} has ended", markup=False)
            return
        if rollback:
            found = await matching.roll_back(tell=tell)
        else:
            found = await matching.train(
                by=who(by), link=link, possible=possible, dry=dry_run, anew=anew, tell=tell
            )
        if json:
            print_json(found.to_dict())
        else:
            _show(found)

    _at_matching(file, kind, work)


def _show(found: Learned) -> None:
    learned = found.learned
    fields = [
        (f["field"], f["kind"], f"{f['equal_bits']:+.1f}", f"{f['different_bits']:+.1f}")
        for f in learned["fields"]
    ]
    console.print(table(("field", "kind", "equal (bits)", "different"), fields))
    for name, why in learned["left_out"].items():
        console.print(f"  left out: {name}: {why}", markup=False)
    console.print(
        f"a match ties from {learned['link_from_bits']} bits on, and waits for a person from "
        f"{learned['possible_from_bits']} on; {learned['matches_expected']:.0f} pairs among "
        f"{counted(learned['records'], 'record')} are expected to be one person; profiles are "
        f"expected to be right in {100 * learned['expected']['precision']:.1f} of 100 pairs and to "
        f"hold {100 * learned['expected']['recall']:.1f} of 100 that are one"
    )
    if learned["one_record_per_table"]:
        console.print("each table has everybody once: no match ties two records of one table")
    if found.number is None:
        console.print("nothing was kept", style="dim")
    else:
        console.print(
            f"model {found.number} is in use; {counted(found.settled, 'record')} that matches tie "
            "were worked out again; `penstock profiles train --rollback` or `--off` is the way back"
        )


@review.callback()
def list_possible(
    context: typer.Context,
    limit: LimitOption = 20,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Show pairs of records that might be one person, the likeliest first, with what each field
    says; `accept` and `reject` decide about one.

    Example: penstock profiles review --limit 5
    """
    if context.invoked_subcommand is not None:
        return

    async def work(matching: MatchingDesk) -> None:
        found = await matching.possible(limit)
        if json:
            print_json([one.to_dict() for one in found])
            return
        for one in found:
            console.print(
                f"{one.number}  {one.left} and {one.right}: {one.weight:+.1f} bits, since "
                f"{moment(one.since)}",
                style="bold",
                markup=False,
            )
            rows = [
                (r.field, r.level, f"{r.bits:+.1f}", r.left or "", r.right or "")
                for r in one.reasons
            ]
            console.print(table(("field", "level", "bits", one.left, one.right), rows))
        if not found:
            console.print("nothing waits for a person")

    _at_matching(file, kind, work)


@review.command()
def accept(
    number: Annotated[int, typer.Argument(help="Of the pair, as `review` shows it.")],
    reason: ReasonOption = "",
    by: ByOption = None,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Decide that a pair is one person, as `merge` does. `undo` takes it back.

    Example: penstock profiles review accept 17 --reason "same signature"
    """
    _decide(number, reason=reason, by=by, kind=kind, file=file, json=json, one=True)


@review.command()
def reject(
    number: Annotated[int, typer.Argument(help="Of the pair, as `review` shows it.")],
    reason: ReasonOption = "",
    by: ByOption = None,
    kind: KindOption = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Decide that a pair is two people, as `unmerge` does. `undo` takes it back.

    Example: penstock profiles review reject 17 --reason "father and son"
    """
    _decide(number, reason=reason, by=by, kind=kind, file=file, json=json, one=False)


def _decide(
    number: int, *, reason: str, by: str | None, kind: str | None, file: Any, json: bool, one: bool
) -> None:
    async def work(desk: ProfileDesk) -> None:
        decision, left = await desk.decide_pair(number, one=one, by=who(by), reason=reason)
        await decided(desk, decision, left, json=json)

    at_desk(file, kind, work)
