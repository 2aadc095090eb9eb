"""The command line."""

from __future__ import annotations

import os
import signal

__all__ = ["main"]

INTERRUPTED = 130


def main() -> None:
    """Entry point of the program ``penstock``.

    Ctrl-C may come while it is still being loaded. Raised as an exception there, it would go
    through other people's imports, and through ``exec()``, after which Python ends itself by the
    signal whatever was caught. Nothing is begun yet: it ends at once.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from penstock.cli import commands
    from penstock.cli.app import run_program

    assert commands
    run_program()
