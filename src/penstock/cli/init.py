"""``penstock init`` and ``penstock schema``: a project file to begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from penstock.cli.app import DEFAULT_PATH, FileOption, JsonOption, app
from penstock.cli.output import console, print_json
from penstock.errors import ConfigError

TEMPLATE = """\
# A Penstock project. `penstock check` says whether everything in it is well, `penstock run` keeps
# the stores in step, `penstock ask "..."` answers. All settings: docs/reference/settings.md
project: {project}

# `embedded` starts a PostgreSQL of its own in .penstock; a DSN uses yours (15 or later, with
# pgvector 0.8 or later).
database: embedded

sources:
  # A folder of documents: txt, md, html, pdf, docx, csv, jsonl, parquet. Watched for every change.
  documents:
    type: files
    path: {documents}
{postgres}
# How documents are cut and embedded.
# knowledge:
#   embedder: minilm     # on this machine (the default); or {{type: openai, model: ..., ...}}
#   chunks: {{size: 1000, overlap: 100, unit: characters}}
#   language: english

# Who writes the answers. The default needs no model endpoint and quotes the sources.
# answers:
#   generator: {{type: openai, model: gpt-5-mini, api_key: "${{OPENAI_API_KEY}}"}}
"""

POSTGRES = """
  # A PostgreSQL database, captured by logical replication (wal_level = logical).
  {name}:
    type: postgres
    dsn: {dsn}
    tables:
{tables}
"""

POSTGRES_EXAMPLE = """
  # A PostgreSQL database, captured by logical replication (wal_level = logical). Fill in and
  # uncomment, or run `penstock init --postgres DSN`.
  # shop:
  #   type: postgres
  #   dsn: ${SHOP_DSN:-postgresql://user:password@localhost:5432/shop}
  #   tables:
  #     products:
  #       title: "{name}"
  #       searched: [name, description]   # embedded: a question finds the row by these
  #       shown: [price, stock]           # never embedded: always as they are now
  #     orders:                           # a live table, not searched
"""


@app.command()
def init(
    folder: Annotated[
        Path, typer.Option("--documents", "-d", help="The folder of documents to begin with.")
    ] = Path("documents"),
    postgres: Annotated[
        str | None,
        typer.Option(
            "--postgres",
            "-p",
            metavar="DSN",
            help="A PostgreSQL to capture: its tables are looked up and written in. "
            "Name a variable ('${MY_DSN}') to keep the password out of the file.",
        ),
    ] = None,
    project: Annotated[str | None, typer.Option(help="The project's name.")] = None,
    file: FileOption = DEFAULT_PATH,
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that exists.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a project file that runs at once, with comments.

    Examples:
      penstock init --documents ./policies

      penstock init --postgres 'postgresql://user:pw@localhost/shop'
    """
    from penstock.config import parse_settings

    if file.exists() and not force:
        raise ConfigError(
            f"expected no project file at {str(file)!r} yet, found one: edit it, choose another "
            "place with --file, or overwrite it with --force"
        )
    name = project or _name(file.resolve().parent.name)
    text = TEMPLATE.format(
        project=name,
        documents=_quoted(folder),
        postgres=_postgres(postgres) if postgres else POSTGRES_EXAMPLE,
    )
    parse_settings(text, file=file)
    file.write_text(text, encoding="utf-8")
    where = folder if folder.is_absolute() else file.resolve().parent / folder
    made = not where.exists()
    if made:
        where.mkdir(parents=True, exist_ok=True)
        (where / "welcome.md").write_text(WELCOME, encoding="utf-8")
    if json:
        print_json({"file": str(file), "documents": str(where), "created_documents": made})
        return
    console.print(
        f"wrote [green]{file}[/]" + (f" and [green]{where}/welcome.md[/]" if made else "")
    )
    console.print(
        "next: [bold]penstock check[/], then [bold]penstock run[/], and in another terminal"
    )
    console.print('[bold]penstock ask "What is Penstock?"[/]')


WELCOME = """\
# Welcome

Penstock brings fresh context to generative AI: it carries every change of your databases and
documents into live tables and a knowledge base, and answers questions with citations as of now.

Put your own documents into this folder. Edit them, rename them, delete them: the next answer knows.
"""


def _name(text: str) -> str:
    cleaned = "".join(c if c.isascii() and c.isalnum() else "_" for c in text.lower()).strip("_")
    return (cleaned if cleaned[:1].isalpha() else f"project_{cleaned}").rstrip("_")[
        :40
    ] or "project"


def _quoted(path: Path) -> str:
    text = path.as_posix()
    text = text if path.is_absolute() or text.startswith(".") else f"./{text}"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _postgres(dsn: str) -> str:
    from penstock.cli.discover import discover

    found = discover(dsn)
    if not any(table.has_key for table in found.tables):
        raise ConfigError(
            f"expected a table with a primary key in {found.database!r}, found none: add one "
            "(ALTER TABLE ... ADD PRIMARY KEY), or write the project file by hand"
        )
    lines = []
    for table in found.tables:
        if not table.has_key:
            lines.append(f"      # {table.name}:   # has no primary key: add one first")
            continue
        lines.append(f"      {table.name}:")
        if table.text_columns:
            lines.append(f"        searched: [{', '.join(table.text_columns)}]")
    shown = '"' + dsn.replace("\\", "\\\\").replace('"', '\\"') + '"'
    name = _name(found.database)
    if name in {"documents", "public", "penstock"} or name.startswith("pg_"):
        name = "database"
    return POSTGRES.format(name=name, dsn=shown, tables="\n".join(lines))


@app.command()
def schema() -> None:
    """Print the JSON Schema of the project file, for editors.

    Example: penstock schema > penstock.schema.json
    """
    from penstock.config import json_schema

    print_json(json_schema())
