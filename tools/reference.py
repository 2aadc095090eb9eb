"""Write docs/reference from the code: settings, commands, metrics, and the editor schema.

`python tools/reference.py` writes; `tests/unit/test_reference.py` checks that it is up to date.
"""

from __future__ import annotations

import inspect
import json
import sys
from pathlib import Path
from typing import Any, get_args

import typer
from pydantic import BaseModel

from penstock import settings as s
from penstock.config import json_schema
from penstock.telemetry import METRICS

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
NOTE = "<!-- Made by tools/reference.py: edit the code, not this page. -->\n"

SECTIONS: list[tuple[str, type[BaseModel]]] = [
    ("(top level)", s.Settings),
    ("sources.NAME, type: postgres", s.PostgresSettings),
    ("sources.NAME, type: mysql", s.MySQLSettings),
    ("sources.NAME.tables.TABLE", s.TableSettings),
    ("sources.NAME, type: files", s.FilesSettings),
    ("sources.NAME, type: objects", s.ObjectsSettings),
    ("sources.NAME, type: interactions", s.InteractionsSettings),
    ("sources.NAME, type: profile_events", s.ProfileEventsSettings),
    ("sources.NAME, type: webhook", s.WebhookSettings),
    ("sources.NAME.tables.TABLE of webhook and kinesis", s.DeclaredTableSettings),
    ("sources.NAME, type: webhook_documents", s.WebhookDocumentsSettings),
    ("sources.NAME, type: dynamodb", s.DynamoDBSettings),
    ("sources.NAME.tables.TABLE of dynamodb", s.ItemTableSettings),
    ("sources.NAME, type: kinesis", s.KinesisSettings),
    ("knowledge", s.KnowledgeSettings),
    ("knowledge.chunks", s.ChunkSettings),
    ("knowledge.embedder, type: minilm", s.MiniLMSettings),
    ("knowledge.embedder, type: openai", s.OpenAIEmbedderSettings),
    ("knowledge.embedder, type: constant", s.ConstantSettings),
    ("knowledge.reranker, type: late_interaction", s.LateInteractionSettings),
    ("knowledge.reranker, type: endpoint", s.EndpointRerankerSettings),
    ("knowledge.reranker, type: none", s.NoRerankerSettings),
    ("answers", s.AnswerSettings),
    ("answers.generator, type: extractive", s.ExtractiveSettings),
    ("answers.generator, type: openai", s.OpenAIGeneratorSettings),
    ("answers.generator, type: gateway", s.GatewaySettings),
    ("answers.generator.routes", s.RouteSettings),
    ("answers.generator.canary", s.CanarySettings),
    ("answers.generator.cache", s.CacheSettings),
    ("answers.generator.budgets", s.GatewayBudgetSettings),
    ("answers.generator.breaker", s.BreakerSettings),
    ("models, type: chat", s.ChatModelSettings),
    ("models, type: anthropic", s.AnthropicModelSettings),
    ("models, type: converse", s.ConverseModelSettings),
    ("log", s.LogSettings),
    ("run", s.RunSettings),
    ("server", s.ServerSettings),
]


def settings_page() -> str:
    """All settings, with meaning and default."""
    lines = [
        NOTE,
        "# Settings\n",
        "The project file `penstock.yaml`. `${NAME}` and `${NAME:-default}` are replaced from the",
        "environment; `PENSTOCK_SECTION__KEY` overrides a value, as in `PENSTOCK_RUN__BATCH=100`.",
        "`penstock schema` prints the JSON Schema for editors, which is also",
        "[here](penstock.schema.json).\n",
    ]
    for title, model in SECTIONS:
        lines += [f"## {title}\n", inspect.cleandoc(model.__doc__ or "") + "\n"]
        lines += ["| setting | default | meaning |", "|---|---|---|"]
        for name, field in model.model_fields.items():
            if name == "folder":
                continue
            meaning = " ".join((field.description or "").split())
            lines.append(f"| `{name}` | {_default(field)} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _default(field: Any) -> str:
    if field.is_required():
        if get_args(field.annotation) and field.description is None:
            return f"`{get_args(field.annotation)[0]}`"
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return f"`{value.type}`" if hasattr(value, "type") else "see below"
    if isinstance(value, Path):
        return f"`{value}`"
    if isinstance(value, dict):  # names with their settings
        return f"`{json.dumps(list(value))}`" if value else "`{}`"
    return f"`{json.dumps(value)}`"


def commands_page() -> str:
    """All commands with their help, as the program prints it."""
    from penstock.cli import commands
    from penstock.cli.app import app

    assert commands
    lines = [
        NOTE,
        "# Commands\n",
        "Every command has `--help`; those that print data have `--json`.\n",
    ]
    root = typer.main.get_command(app)
    _add_commands(root, "penstock", lines)
    return "\n".join(lines)


def _add_commands(command: Any, name: str, lines: list[str]) -> None:
    inner = getattr(command, "commands", None)
    if inner:
        for sub in sorted(inner):
            _add_commands(inner[sub], f"{name} {sub}", lines)
        return
    help_text = "\n".join(line.strip() for line in (command.help or "").strip().splitlines())
    lines += [f"## {name}\n", help_text, ""]
    rows = [row for row in map(_parameter, command.params) if row]
    if rows:
        lines += ["| | | |", "|---|---|---|", *rows, ""]


def _parameter(parameter: Any) -> str:
    if parameter.name == "help":
        return ""
    argument = getattr(parameter, "param_type_name", "") == "argument"
    names = (parameter.metavar or parameter.name.upper()) if argument else ""
    names = names or ", ".join([*parameter.opts, *parameter.secondary_opts])
    text = " ".join((getattr(parameter, "help", None) or "").split())
    default = parameter.default
    plain = isinstance(default, str | int | float | Path) and not isinstance(default, bool)
    shown = f"default `{default}`" if plain else ""
    return f"| `{names}` | {text} | {shown} |"


def metrics_page() -> str:
    """All metrics of ``/metrics``."""
    lines = [
        NOTE,
        "# Metrics\n",
        "`penstock run` serves them at `/metrics`, with `/healthz` (the process lives) and",
        (
            "`/readyz` (the database answers, and all sources and pipelines that this process "
            "carries run; else 503 with the reasons).\n"
        ),
        "| metric | meaning |",
        "|---|---|",
    ]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in METRICS.items()]
    return "\n".join(lines) + "\n"


def pages() -> dict[str, str]:
    """File name to content."""
    return {
        "settings.md": settings_page(),
        "commands.md": commands_page(),
        "metrics.md": metrics_page(),
        "penstock.schema.json": json.dumps(json_schema(), indent=2) + "\n",
    }


def main() -> int:
    """Write all pages."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
