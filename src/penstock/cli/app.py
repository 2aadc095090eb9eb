"""The program: its commands, and how errors and interruptions end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from penstock import DEFAULT_FILE
from penstock.cli import INTERRUPTED
from penstock.errors import ConfigError, PenstockError

T = TypeVar("T")

app = typer.Typer(
    name="penstock",
    help="Fresh context for generative AI: every change of your databases and documents, "
    "in live tables, a knowledge base and cited answers.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

FileOption = Annotated[
    Path,
    typer.Option(
        "--file", "-f", envvar="PENSTOCK_FILE", help="The project file.", show_default=True
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DEFAULT_PATH = Path(DEFAULT_FILE)


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show tracebacks and debug messages.")
    ] = False,
    logs: Annotated[
        Literal["text", "json"],
        typer.Option(
            "--logs",
            envvar="PENSTOCK_LOGS",
            help="How events are written: for people, or one JSON object on each line.",
        ),
    ] = "text",
) -> None:
    from penstock.cli.logging import configure_logging

    if debug:
        os.environ["PENSTOCK_DEBUG"] = "1"
    if logs != "text":
        os.environ["PENSTOCK_LOGS"] = logs  # for processes that this one starts
    configure_logging(debug=debug, json=logs == "json")


def configure_events(*, verbose: bool) -> None:
    """Whether what happens is told on standard error, beside problems."""
    import structlog

    if verbose and not os.environ.get("PENSTOCK_DEBUG"):
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))


def spare_collector() -> None:
    """What is loaded by now stays: the garbage collector need not look at it again and again."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C and SIGTERM cancel it, so that it ends in order."""
    import signal

    async def guarded() -> T:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        stopped = 0

        def stop() -> None:
            nonlocal stopped
            stopped += 1
            if stopped == 1:
                task.cancel()
            elif stopped == 2:
                task.cancel()  # in case the first was swallowed; what cleans up holds against it
                print("stopping; once more ends it at once", file=sys.stderr)  # noqa: T201
            else:
                os._exit(INTERRUPTED)

        spare_collector()
        for name in ("SIGINT", "SIGTERM"):
            loop.add_signal_handler(getattr(signal, name), stop)
        try:
            return await task
        except asyncio.CancelledError:
            if stopped:
                raise KeyboardInterrupt from None
            raise

    return asyncio.run(guarded())


def run_program(arguments: list[str] | None = None) -> None:
    """Run a command and exit: 0 well, 1 it failed, 2 wrong use or settings, 130 interrupted."""
    try:
        code = app(args=arguments, prog_name="penstock", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except typer.TyperException as error:
        said = " ".join(error.format_message().split())
        say_error(f"{said} (see `{_usage(error)} --help`)")
        sys.exit(2)
    except PenstockError as error:
        if os.environ.get("PENSTOCK_DEBUG"):
            raise
        say_error(str(error))
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:  # the last line of defence before a person
        if os.environ.get("PENSTOCK_DEBUG"):
            raise
        say_error(
            f"unexpected {type(error).__name__}: {error}: run it again with --debug and tell us"
        )
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: typer.TyperException) -> str:
    """The command whose use was wrong."""
    context = getattr(error, "ctx", None)
    return str(context.command_path) if context is not None else "penstock"


def say_error(message: str) -> None:
    """Print an error for a person."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for line in message.splitlines():
        console.print("[bold red]error:[/] ", end="")
        console.print(line, markup=False)
