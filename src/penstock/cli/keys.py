"""``penstock keys``: what applications show to the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app, run_async
from penstock.cli.output import console, moment, print_json, table
from penstock.errors import ConfigError
from penstock.keys import Scope

if TYPE_CHECKING:
    from penstock.keys import ApiKey

keys = typer.Typer(no_args_is_help=True, help="Keys of the applications that call the API.")
app.add_typer(keys, name="keys")


@keys.command()
def create(
    label: Annotated[str, typer.Argument(help="What the key is for, as you will find it again.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option("--scope", "-s", help="What it may do; may be repeated. Default: ask."),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-u", help="The user in whose name it asks.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option("--group", "-g", help="A group of that user; repeat it.")
    ] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", help="How long it is valid: 12h, 90d.")
    ] = None,
    file: FileOption = DEFAULT_PATH,
    json: JsonOption = False,
) -> None:
    """Make a key and print it: this once, only a hash of it is kept.

    Without a user it sees what everybody may see. With the scope act-as an application may ask in
    the name of users that it has authenticated (header Penstock-User).

    Example: penstock keys create website --scope ask --scope act-as --expires 90d
    """

    async def work() -> None:
        from penstock.keys import mint
        from penstock.principals import Principal
        from penstock.project import open_project
        from penstock.records import Microseconds

        async with open_project(file) as project:
            now = project.clock.now()
            life = _duration(expires)
            token, key = mint(
                label,
                frozenset(scope or [Scope.ASK]),
                now,
                principal=Principal(user, tuple(group or ()), project.settings.tenant),
                expires_at=None if life is None else Microseconds(now + round(life * 1e6)),
            )
            await project.keys().add(key)
        if json:
            print_json({"token": token, **_shown(key)})
        else:
            console.print(token, markup=False)
            console.print(f"key {key.id}: it is shown this once; keep it where secrets are kept")

    run_async(work())


@keys.command("list")
def list_(file: FileOption = DEFAULT_PATH, json: JsonOption = False) -> None:
    """Show the keys, without what opens anything.

    Example: penstock keys list --json
    """

    async def work() -> None:
        from penstock.project import open_project

        async with open_project(file) as project:
            found = await project.keys().all_of(project.settings.tenant)
            now = project.clock.now()
        if json:
            print_json([_shown(key) for key in found])
            return
        rows = [
            [key.id, key.label, ", ".join(sorted(key.scopes)), _who(key), _state(key, now)]
            for key in found
        ]
        console.print(table(["key", "label", "may", "as", "state"], rows))

    run_async(work())


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key's name, as `penstock keys list` shows it.")],
    file: FileOption = DEFAULT_PATH,
) -> None:
    """End a key: within a second it opens nothing any more.

    Example: penstock keys revoke abcdefgh2345
    """

    async def work() -> None:
        from penstock.project import open_project

        async with open_project(file) as project:
            now = project.clock.now()
            if not await project.keys().revoke(project.settings.tenant, key, now):
                raise ConfigError(
                    f"expected the name of a key, got {key!r}: `penstock keys list` shows them"
                )
        console.print(f"key {key} opens nothing any more", markup=False)

    run_async(work())


def _duration(written: str | None) -> float | None:
    if written is None:
        return None
    from penstock.settings.base import Duration

    try:
        return TypeAdapter(Duration).validate_python(written)
    except ValidationError as error:
        raise ConfigError(
            f"--expires: expected a duration such as 12h or 90d, got {written!r}"
        ) from error


def _shown(key: ApiKey) -> dict[str, Any]:
    from penstock.serving.values import iso

    return {
        "key": key.id,
        "label": key.label,
        "scopes": sorted(key.scopes),
        "user": key.principal.user,
        "groups": list(key.principal.groups),
        "created_at": iso(key.created_at),
        "expires_at": None if key.expires_at is None else iso(key.expires_at),
        "revoked_at": None if key.revoked_at is None else iso(key.revoked_at),
    }


def _who(key: ApiKey) -> str:
    groups = ", ".join(key.principal.groups)
    return (key.principal.user or "everybody") + (f" ({groups})" if groups else "")


def _state(key: ApiKey, now: int) -> str:
    if key.revoked_at is not None:
        return f"revoked {moment(key.revoked_at)}"
    if key.expires_at is not None and key.expires_at <= now:
        return f"expired {moment(key.expires_at)}"
    return "valid" if key.expires_at is None else f"valid until {moment(key.expires_at)}"
