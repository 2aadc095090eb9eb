"""The command line."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the program ``penstock``; Ctrl-C may come while it is still being loaded."""
    import os

    try:
        import structlog

        from penstock.cli import commands
        from penstock.cli.app import run_program

        assert structlog
        assert commands
    except KeyboardInterrupt:
        # Not sys.exit: after an interruption inside exec(), with which dataclasses are made, Python
        # ends itself by the signal, whatever was caught.
        os._exit(130)
    run_program()
