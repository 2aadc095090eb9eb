"""The program: its commands, and how errors and interruptions end."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from collections.abc import Coroutine, MutableMapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

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
) -> None:
    if debug:
        os.environ["PENSTOCK_DEBUG"] = "1"
    configure_logging(debug=debug)


def configure_logging(*, debug: bool) -> None:
    """Events as lines on standard error: standard output belongs to the command's result."""
    import structlog

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            _line,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.DEBUG if debug else logging.WARNING
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    level = logging.DEBUG if debug else logging.CRITICAL
    logging.basicConfig(level=level)
    for handler in logging.getLogger().handlers:
        handler.setLevel(level)  # some libraries set the level of their own logger


def _line(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """``12:00:01 warning  source.waiting source=shop: expected ...``, the sentence last."""
    time, level, name = event.pop("timestamp"), event.pop("level"), event.pop("event")
    reason, trace = event.pop("reason", None), event.pop("exc_info", None)
    facts = "".join(f" {key}={value}" for key, value in event.items())
    ending = f": {reason}" if reason else ""
    if isinstance(trace, BaseException):
        ending += f": {type(trace).__name__}: {trace}"
    style, plain = _STYLES.get(level, ("", "")) if sys.stderr.isatty() else ("", "")
    return f"{time} {style}{level:<7}{plain} {name}{facts}{ending}"


_STYLES = {"warning": ("\033[33m", "\033[0m"), "error": ("\033[1;31m", "\033[0m")}


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
