"""Tells the demo's story in the terminal, or keeps silent when a program listens."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from penstock.cli.output import age
from penstock.operate.profiles import Explained
from penstock.serving.answer import Answer
from penstock.stores.base import StoredProfile


class Narrator:
    """One method for each scene; ``silent`` prints nothing."""

    def __init__(self, console: Console, *, silent: bool = False) -> None:
        self._console = console
        self._silent = silent

    def _say(self, *lines: Any) -> None:
        if not self._silent:
            for line in lines:
                self._console.print(line)

    @contextlib.contextmanager
    def progress(self, what: str) -> Iterator[None]:
        """A spinner with the time, while something is going on."""
        if self._silent:
            yield
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            progress.add_task(f"[cyan]{what}[/]")
            yield

    def opening(self) -> None:
        self._say(
            "",
            Text("Penstock: fresh context for generative AI", style="bold cyan"),
            "A small travel company has a database and a folder of policies. Both change while "
            "customers ask. Let us watch what an assistant would be told.",
            "",
        )

    def world(self, flights: int, hotels: int, file: Path) -> None:
        self._say(
            f"[bold]1.[/] Started the company's own PostgreSQL ({flights} flights, "
            f"{hotels} hotels, 62 customers) and wrote 10 policies.",
            f"   The whole configuration is [green]{file}[/]: two sources, one line a table.",
            "",
        )

    def first_answers(self, answers: Sequence[Answer], seconds: float) -> None:
        self._say(
            f"[bold]2.[/] Everything captured, indexed and asked: the first answer after "
            f"[bold]{seconds:.1f} s[/].",
            "",
        )
        for answer in answers:
            self._say(_panel(answer), "")

    def changed(self, seen: Mapping[str, float], embedded: int) -> None:
        self._say(
            "[bold]3.[/] Now the world changes. A price in SQL, a sentence on disk:",
            f"   UPDATE flights SET price_eur = 149 ...     seen by a query after "
            f"[bold green]{seen['row']:.1f} ms[/]",
            f"   cancellation.md: 24 hours -> 72 hours      seen by a query after "
            f"[bold green]{seen['document']:.1f} ms[/]",
            f"   For both together {_chunks(embedded)} embedded anew.",
            "",
        )

    def side_by_side(self, before: Sequence[Answer], after: Sequence[Answer]) -> None:
        self._say("[bold]4.[/] The same questions again:", "")
        table = Table(show_lines=True, expand=True)
        table.add_column("before", ratio=1)
        table.add_column("now", ratio=1)
        for old, new in zip(before, after, strict=True):
            same = old.text == new.text
            table.add_row(_cell(old, "dim"), _cell(new, "dim" if same else "green"))
        self._say(table, "")

    def one_traveller(self, profile: StoredProfile, answer: Answer) -> None:
        tables = ", ".join(sorted({record.table.rpartition(".")[2] for record in profile.records}))
        self._say(
            f"[bold]5.[/] Who asks? One traveller is known to three systems ({tables}), as one "
            f"profile, {profile.id}:",
            "",
            _panel(answer),
            "",
        )

    def wrongly_merged(self, answer: Answer, why: Explained) -> None:
        ties = ", ".join(dict.fromkeys(by for *_, by in why.ties))
        self._say(
            "   Then Jonas calls from Ada's telephone, and the two are taken for one. "
            "[yellow]The answer is wrong:[/]",
            _cell(answer, "yellow"),
            "   `penstock profiles explain` says what tied them:",
            Text(f"   {ties}", style="yellow"),
            "",
        )

    def parted(self, apart: Sequence[str], decision: int, answer: Answer) -> None:
        self._say(
            f"   `penstock profiles unmerge {' '.join(apart)}` parts them: decision {decision}, "
            "which replays keep and `undo` takes back. [green]The next answer is right:[/]",
            _cell(answer, "green"),
            "",
        )

    def freshness(
        self, freshness: Mapping[str, Any], changes: int, embedded: int, reused: int
    ) -> None:
        table = Table(box=None, header_style="bold")
        for column in ("from commit to visible", "p50", "p95", "p99"):
            table.add_column(column, justify="left" if column.startswith("from") else "right")
        for kind, numbers in freshness.items():
            table.add_row(kind, *(age(numbers[p]) for p in ("p50", "p95", "p99")))
        self._say(
            f"[bold]6.[/] Then {changes:,} changes, about a hundred a second:",
            "",
            table,
            "",
            f"   Chunks embedded in all: {embedded}; found unchanged and reused: {reused}. "
            "Price changes embedded nothing.",
            "",
        )

    def verified(self, differences: int) -> None:
        verdict = "[bold green]no difference[/]" if not differences else f"[red]{differences}[/]"
        self._say(
            f"[bold]7.[/] Compared every row and document of the sources with ours: {verdict}.",
            "",
        )

    def ending(self, result: Mapping[str, Any]) -> None:
        self._say(
            f"All of this took at most {result['peak_rss_mb']:.0f} MB of memory, "
            "both PostgreSQL servers and the model included.",
            "",
            Panel(
                Group(
                    "[bold]penstock demo --serve[/]  keeps it running, for you to change things",
                    "[bold]penstock init[/]          writes a project file for your own systems",
                    "[bold]penstock run[/]           keeps in step; [bold]penstock ask[/] answers",
                    "[bold]docs/tutorial.md[/]       the same in ten minutes, step by step",
                ),
                title="What to do next",
                title_align="left",
                border_style="cyan",
            ),
        )

    def serving(self, folder: Path, change_price: Path) -> None:
        project = f"-f {folder / 'penstock.yaml'}"
        self._say("", "[bold]It goes on running until you press Ctrl-C.[/] In another terminal:")
        for what, how in (
            ("change a price", f"{sys.executable} {change_price} PS204 99"),
            ("change a policy", f"edit a file in {folder / 'policies'}"),
            ("ask", f'penstock ask {project} "What does flight PS204 cost?"'),
            ("watch", f"penstock status {project} --watch"),
        ):
            if not self._silent:
                self._console.print(f"   {what:<16} {how}", markup=False, soft_wrap=True)


def _chunks(number: int) -> str:
    return "one chunk was" if number == 1 else f"{number} chunks were"


def _cell(answer: Answer, style: str) -> Group:
    return Group(
        Text(answer.question, style="italic"),
        Text(answer.text, style=style),
        _sources_text(answer),
    )


def _panel(answer: Answer) -> Panel:
    style = "yellow" if answer.abstained else "default"
    question = Text(answer.question, style="italic")
    return Panel(Group(question, Text(answer.text, style=style), _sources_text(answer)))


def _sources_text(answer: Answer) -> Text:
    return Text(_sources(answer), style="dim")


def _sources(answer: Answer) -> str:
    if not answer.citations:
        return "no citation: nothing in the sources answers this"
    return "\n".join(
        f"[{c.number}] {c.source}: {c.key}  (as of {age(c.age_ms)} ago)" for c in answer.citations
    )
