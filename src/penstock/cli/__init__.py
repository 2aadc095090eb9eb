"""The command line."""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Entry point of the program ``penstock``; Ctrl-C may come while it is still being loaded."""
    import sys

    try:
        from penstock.cli.app import run_program

        run_program()
    except KeyboardInterrupt:
        sys.exit(130)
